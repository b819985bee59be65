"""Error collection (Step-DPO, section 3.2): sample answers and keep those whose final answer is wrong.

    python collect.py --model M --samples 2 < problems.jsonl > wrong.jsonl

in:  {"id", "prompt", "answer"}; a row that has a `completion` is only graded and sorted
out: the row with {"completion", "pred", "correct", "finish_reason", "sampling"}, id#j for sample j

Answers that are not kept go to OUT.dropped.jsonl (or --dropped FILE) with "drop": "right" or "wrong", or "length"
for an answer that was cut, which is neither. `--keep right` makes SFT data.
"""
from stepdpo.ask import answer_row, answer_units
from stepdpo.command import make_parser, parse_flags, run_main
from stepdpo.policy import Policy, add_ask_flags, check_ask_flags
from stepdpo.stage import add_record_flags, open_output, run_stage
from stepdpo.task import PREFIX


def sort_answer(row, keep):
    """The graded row, with a `drop` reason unless it is of the kind to keep: "wrong", "right" or "all"."""
    if row.get("finish_reason") == "length":
        return {**row, "drop": "length"}
    kind = "right" if row["correct"] else "wrong"
    if keep in (kind, "all"):
        return row
    return {**row, "drop": kind}


def main(argv=None):
    parser = make_parser(__doc__)
    add_record_flags(parser)
    add_ask_flags(parser, prefix=PREFIX, temperature=0.8, top_p=0.95)
    parser.add_argument("--samples", type=int, default=2, help="answers a problem")
    parser.add_argument("--keep", choices=("wrong", "right", "all"), default="wrong", help="answers to pass on")
    args = parse_flags(parser, argv)
    check_ask_flags(args)
    policy = Policy(args)

    async def work(unit):
        return [sort_answer(await answer_row(unit, policy), args.keep)]

    return run_stage(open_output("collect.py", args), args.input, ("prompt", "answer"), answer_units(args.samples),
                     work, policy.width, per_row=args.samples)


if __name__ == "__main__":
    run_main(main)
