"""The judge that is the policy itself: from the steps before the first wrong one it still reaches the gold answer.

Math-Shepherd (arXiv 2312.08935) probes every step; OmegaPRM (arXiv 2406.06592) searches by halves.
"""
import argparse
import asyncio
import functools
import json
import math

from judges.verdict import Verdict
from stepdpo.command import UserError
from stepdpo.policy import Policy, sample_seed
from stepdpo.stage import once
from stepdpo.task import extract_answer, is_right, same_answer


async def first_step_out_of_reach(reaches, last, scan, right):
    """The step after which the gold answer is out of reach; 0 for none, None if it never was in reach.

    reaches(k): a coroutine, whether the answer is in reach after k steps. last: how many steps there are; after the
    last one the final answer stands, `right` or not.
    Halving finds *a* step at which the answer is lost. It is the first one if success only falls. A scan asks all.

        k            0   1   2   3   4   5   6   7   8     8 steps, the final answer is wrong
        reaches(4)   .   .   .   .   yes .   .   .   no    the step is one of 5..8
        reaches(6)   .   .   .   .   yes .   no  .   no    one of 5, 6
        reaches(5)   .   .   .   .   yes yes no  .   no    it is step 6
    """
    if scan:
        reached = await asyncio.gather(*(reaches(k) for k in range(last)))
        if not reached[0]:
            return None
        if all(reached):
            return 0 if right else last
        return reached.index(False)
    if not await reaches(0):
        return None
    if right:
        return 0
    low, high = 0, last  # in reach after `low` steps, not after `high`
    while high - low > 1:
        middle = (low + high) // 2
        if await reaches(middle):
            low = middle
        else:
            high = middle
    return high


def chance_of_none(right, n):
    """The chance that n continuations all fail from where the rate is as it was when `right` of n succeeded.

    Beta-binomial: the rate has a flat prior, so after n trials it is Beta(right + 1, n - right + 1).
    """
    failed = n - right
    return math.prod((failed + 1 + i) / (n + 2 + i) for i in range(n))


async def count_right(policy, seeds, problem, prefix, answer):
    """[how many of the policy's continuations of a prefix reach the answer, how many there are], one for each seed."""
    replies = await asyncio.gather(*(policy.ask_once(problem, prefix, seed) for seed in seeds))
    right = 0
    for reply in replies:
        final = extract_answer(prefix + reply.text) if reply.finish_reason != "length" else None
        right += final is not None and same_answer(final, answer, problem)
    return [right, len(seeds)]


def make_judge(args, policy):
    """A judge that asks the policy itself: from the steps before the first wrong one it can still get there.

    The words are {"probes": {k: [right, n]}, "sure": p}. probes: how many of n continuations after k steps reached
    the gold answer. sure: the chance that some of n would have reached it after the named step too, had that step
    been as good as those before it. Scores are the values of steps: right / n after each step that was probed.
    A prefix that several answers share is probed once.
    """
    if not args.model:
        raise UserError("--judge rollouts needs --model, the policy whose answers are judged", 2)
    if policy is None:
        temperature = 0.8 if args.temperature is None else args.temperature
        policy = Policy(argparse.Namespace(**{**vars(args), "temperature": temperature}))
    n = args.rollouts

    @functools.lru_cache(10_000)  # answers to one problem follow one another
    def probe(problem, prefix, answer):  # answer: as JSON, for a list is no key of a cache
        seeds = [sample_seed(args.seed, f"{problem}\n{prefix}", m) for m in range(n)]
        return asyncio.ensure_future(count_right(policy, seeds, problem, prefix, json.loads(answer)))

    async def judge(row, parts, whole):
        if row.get("answer") is None:
            return Verdict("no answer", None)
        answer, probes, last = json.dumps(row["answer"]), {}, len(parts) - 1

        async def reaches(k):
            prefix = "".join(parts[:k + 1]).rstrip()  # tokens like "\nStep" begin with the white space
            key = f"{k} {sample_seed(args.seed, prefix, 'probe')}"
            probes[k] = await once(key, lambda: probe(row["prompt"], prefix, answer))
            return probes[k][0] > 0

        if not whole:
            bad_step = 0 if await reaches(last) else last
            return Verdict(bad_step, {"probes": probes}, step_values(probes, last))
        bad_step = await first_step_out_of_reach(reaches, last, args.scan, is_right(row, "".join(parts)))
        words = {"probes": dict(sorted(probes.items()))}
        if bad_step is None:
            return Verdict("never solved", words)
        if bad_step:
            before = probes[bad_step - 1][0]
            words["sure"] = round(1 - chance_of_none(before, n), 4) if bad_step < last else 1
        return Verdict(bad_step, words, step_values(probes, last))
    return judge


def step_values(probes, last):
    """The value of each of `last` steps, right / n after it; None for one that was not probed."""
    return [probes[k][0] / probes[k][1] if k in probes else None for k in range(1, last + 1)]
