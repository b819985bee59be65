"""The judge that is the policy itself: from the steps before the first wrong one it still gets there."""
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


async def find_loss(reaches, last, scan, right):
    """The step after which the answer is out of reach, 0 for none, None if it never was in reach.

    After the last step the final answer stands, `right` or not. reaches(k): a coroutine, whether it is in reach after
    k steps. Binary search finds *a* step at which it is lost, the first one if success only falls; a scan asks all.
    """
    if scan:
        reached = await asyncio.gather(*map(reaches, range(last)))
        return next((k for k in range(last) if not reached[k]), 0 if right else last) if reached[0] else None
    if not await reaches(0):
        return None
    low, found = 0, last  # in reach after `low` steps, not after `found`
    while found - low > 1 and not right:
        k = (low + found) // 2
        low, found = (k, found) if await reaches(k) else (low, k)
    return 0 if right else found


def rollouts_judge(args, policy=None):
    """A judge that asks the policy itself: from the steps before the first wrong one it can still get there.

    The words are {"probes": {k: [right, n]}, "sure": p}. probes, the values of steps: how many of n continuations
    after k steps reached the gold answer. sure: the chance that some of n would have after the named step too, had it
    been as good as what stands before it, whose rate is only known from `right` of n (beta-binomial, flat prior).
    A prefix that several answers share is probed once.
    """
    if not args.model:
        raise UserError("--judge rollouts needs --model, the policy whose answers are judged", 2)
    if policy is None:
        temperature = 0.8 if args.temperature is None else args.temperature
        policy = Policy(argparse.Namespace(**{**vars(args), "temperature": temperature}))
    n = args.rollouts

    async def sample(problem, prefix, answer):
        seeds = [sample_seed(args.seed, f"{problem}\n{prefix}", m) for m in range(n)]
        replies = await asyncio.gather(*(policy.ask_once(problem, prefix, seed) for seed in seeds))
        preds = [extract_answer(prefix + reply.text) for reply in replies if reply.finish_reason != "length"]
        gold = json.loads(answer)
        return [sum(same_answer(pred, gold, problem) for pred in preds if pred is not None), n]

    @functools.lru_cache(10_000)  # answers to one problem follow one another
    def probe(*what):
        return asyncio.ensure_future(sample(*what))

    async def judge(row, parts, whole):
        if row.get("answer") is None:
            return Verdict("no answer", None)
        probes, last = {}, len(parts) - 1

        async def reaches(k):
            prefix = "".join(parts[:k + 1]).rstrip()  # tokens like "\nStep" begin with the white space
            key = f"{k} {sample_seed(args.seed, prefix, 'probe')}"
            probes[k] = await once(key, lambda: probe(row["prompt"], prefix, json.dumps(row["answer"])))
            return probes[k][0] > 0

        if not whole:
            return Verdict(0 if await reaches(last) else last, {"probes": probes})
        found = await find_loss(reaches, last, args.scan, is_right(row, "".join(parts)))
        words = {"probes": dict(sorted(probes.items()))}
        if found is None:
            return Verdict("never solved", words)
        if found:
            lost = n - probes[found - 1][0]
            by_chance = math.prod((lost + 1 + i) / (n + 2 + i) for i in range(n)) if found < last else 0
            words["sure"] = round(1 - by_chance, 4)
        return Verdict(found, words)
    return judge
