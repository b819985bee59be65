"""Rectification (Step-DPO, section 3.2): ask the model again from the correct prefix, keep a right step.

    python correct.py --model M --samples 20 < located.jsonl > pairs.jsonl

in:  rows of locate.py: {"id", "prompt", "answer", "initial_reason_steps", "rejected", "full_rejected"}
out: the row with {"chosen", "full_chosen"}, id/m for sample m; rows in the shape of Math-Step-DPO-10K

A sample is kept when it reaches the gold answer and its first step differs from the rejected one and from those
of the samples before it. A row without such a sample is dropped: "no right continuation", or "same step" when the
right ones only repeat the rejected step. A right answer may still hold a wrong step: --verify takes any judge of
locate.py, which must find no error up to the chosen step ("not verified" when none passes).
"""
import argparse
import asyncio

from evaluate import Policy, add_ask_flags, check_ask_flags, sample_seed, sampling_record
from grade import extract_answer, same_answer
from locate import add_judge_flags, agree, make_judges
from steps import add_record_flags, cut_step, open_output, run_main, run_stage, split_steps


async def correct(row, policy, samples, max_per_prefix, judges):
    """Pairs made of the row, or the row with the reason why there is none."""
    prefix, split = row["initial_reason_steps"], row.get("split", "headers")
    seeds = [sample_seed(policy.args.seed, row["id"], m) for m in range(samples)]
    replies = await asyncio.gather(*(policy.ask_once(row["prompt"], prefix, seed) for seed in seeds))
    pairs, steps, right = [], {row["rejected"].strip(), ""}, 0
    for m, reply in enumerate(replies):
        if len(pairs) == max_per_prefix:
            break
        pred = extract_answer(prefix + reply.text) if reply.finish_reason != "length" else None
        if pred is None or not same_answer(pred, row["answer"], row["prompt"]):
            continue
        right += 1
        chosen = cut_step(prefix + reply.text, len(prefix), split)
        if chosen.strip() in steps:
            continue
        steps.add(chosen.strip())
        pair = {**row, "id": f"{row['id']}/{m}", "chosen": chosen, "full_chosen": reply.text,
                "sampling": sampling_record(policy.args)}
        if judges:
            error, words = await agree(pair, split_steps(prefix + chosen, split), judges, whole=False)
            if error != 0:
                continue
            pair["verified"] = words
        pairs.append(pair)
    if pairs:
        return pairs
    why = "no right continuation" if not right else "same step" if len(steps) == 2 else "not verified"
    return [{**row, "drop": why}]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=0.8, top_p=0.95)
    parser.add_argument("--samples", type=int, default=20, help="continuations of each correct prefix")
    parser.add_argument("--verify", metavar="JUDGE", help="a judge, or several, that must find the chosen step right")
    add_judge_flags(parser)
    parser.add_argument("--max-per-prefix", type=int, default=1, help="pairs kept of one prefix, the first right ones")
    args = parser.parse_args(argv)
    check_ask_flags(args)
    policy, judges = Policy(args), None
    if args.verify:
        judges = make_judges(args.verify, argparse.Namespace(**{**vars(args), "temperature": None}))  # its own default

    async def work(row):
        return await correct(row, policy, args.samples, args.max_per_prefix, judges)

    return run_stage(open_output("correct.py", args), args.input,
                     ("prompt", "answer", "initial_reason_steps", "rejected", "full_rejected"), lambda row: [row], work,
                     max(1, policy.width // args.samples))


if __name__ == "__main__":
    run_main(main)
