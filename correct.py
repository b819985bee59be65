"""Rectification (Step-DPO, section 3.2): ask the model again from the correct prefix, keep a right step.

    python correct.py --model M --samples 20 < located.jsonl > pairs.jsonl

in:  rows of locate.py: {"id", "prompt", "answer", "initial_reason_steps", "rejected", "full_rejected"}
out: the row with {"chosen", "full_chosen"}, id/m for sample m; rows in the shape of Math-Step-DPO-10K

A sample makes a pair when it reaches the gold answer and its first step is not empty and differs from the rejected
one and from those of the samples before it. A right answer may still hold a wrong step: --verify takes any judge of
locate.py, which must find no error up to the chosen step. A row without a pair is dropped for what its best sample
lacked: "no right continuation", "empty step", "same step" or "not verified", then with what the judge said of each
step ("doubts").
"""
import argparse
import asyncio

from judges import add_judge_flags, agree, judge_settings, make_judges, run_judged
from stepdpo.command import make_parser, parse_flags, run_main
from stepdpo.policy import Policy, add_ask_flags, check_ask_flags, sample_seed
from stepdpo.stage import add_record_flags, open_output
from stepdpo.steps import cut_step, split_steps
from stepdpo.task import is_right

LACKS = ["no right continuation", "empty step", "same step", "not verified"]  # the worst first


def first_step(row, reply):
    """The step with which a continuation begins; None when the answer is cut or not right."""
    prefix = row["initial_reason_steps"]
    if reply.finish_reason == "length" or not is_right(row, prefix + reply.text):
        return None
    return cut_step(prefix + reply.text, len(prefix), row.get("split", "headers"))


async def verify(row, chosen, judges):
    """(whether all judges find no error up to the chosen step, their Verdict)."""
    parts = split_steps(row["initial_reason_steps"] + chosen, row.get("split", "headers"))
    verdict = await agree(row, parts, judges, whole=False)
    return verdict.bad_step == 0, verdict


async def make_pairs(row, policy, samples, max_per_prefix, judges):
    """Pairs made of the row, or the row with the reason why there is none."""
    seeds = [sample_seed(policy.args.seed, row["id"], m) for m in range(samples)]
    replies = await asyncio.gather(
        *(policy.ask_once(row["prompt"], row["initial_reason_steps"], seed) for seed in seeds))
    pairs, seen, lacks, doubts = [], {row["rejected"].strip()}, {"no right continuation"}, []
    for m, reply in enumerate(replies):  # one after another: no judge is asked about more steps than are wanted
        if len(pairs) == max_per_prefix:
            break
        chosen = first_step(row, reply)
        if chosen is None:
            continue
        if not chosen.strip():
            lacks.add("empty step")
            continue
        if chosen.strip() in seen:
            lacks.add("same step")
            continue
        seen.add(chosen.strip())
        pair = {**row, "id": f"{row['id']}/{m}", "chosen": chosen, "full_chosen": reply.text,
                "sampling": policy.sampling_record()}
        if judges:
            verified, verdict = await verify(pair, chosen, judges)
            if not verified:
                lacks.add("not verified")
                doubts.append({"chosen": chosen, "bad_step": verdict.bad_step, "verdict": verdict.words})
                continue
            pair |= {"verified": verdict.words, **judge_settings(judges)}
            if verdict.scores is not None:
                pair["chosen_step_scores"] = verdict.scores
        pairs.append(pair)
    if pairs:
        return pairs
    dropped = {**row, "drop": max(lacks, key=LACKS.index)}
    if doubts:
        dropped["doubts"] = doubts
    return [dropped]


def main(argv=None):
    parser = make_parser(__doc__)
    add_record_flags(parser)
    add_ask_flags(parser, prefix=None, temperature=0.8, top_p=0.95)
    parser.add_argument("--samples", type=int, default=20, help="continuations of each correct prefix")
    parser.add_argument("--verify", metavar="JUDGE", help="a judge, or several, that must find the chosen step right")
    add_judge_flags(parser)
    parser.add_argument("--max-per-prefix", type=int, default=1, help="pairs made of one row, from its first samples")
    args = parse_flags(parser, argv)
    check_ask_flags(args)
    policy, judges = Policy(args), {}
    if args.verify:
        its_own = argparse.Namespace(**{**vars(args), "temperature": None})  # --temperature is the policy's
        judges = make_judges(args.verify, its_own, policy)

    async def work(row):
        return await make_pairs(row, policy, args.samples, args.max_per_prefix, judges)

    return run_judged(open_output("correct.py", args), args.input,
                      ("prompt", "answer", "initial_reason_steps", "rejected", "full_rejected"), work,
                      max(1, policy.width // args.samples), judges)


if __name__ == "__main__":
    run_main(main)
