"""Step localisation (Step-DPO, section 3.2): find the first wrong step of each wrong answer.

    python locate.py --judge gpt-4o < wrong.jsonl > located.jsonl
    python locate.py --judge rollouts --model M --rollouts 16 < wrong.jsonl > located.jsonl
    python locate.py --judge equations --score labelled.jsonl       # how good is this judge?

in:  rows of collect.py: {"id", "prompt", "answer", "completion"[, "solution"]}
out: the row with {"bad_step", "judge", "verdict", "split", "initial_reason_steps", "rejected", "full_rejected"};
     initial_reason_steps + full_rejected is the completion, and rejected, the wrong step, begins full_rejected

--judge NAME is one of
  equations: no model; checks the arithmetic that each step states and where its numbers come from
  rollouts: no judge; --model continues from the steps before k, and the first step from which it no longer reaches
    the gold answer is the wrong one (Math-Shepherd, arXiv 2312.08935; OmegaPRM, arXiv 2406.06592)
  human: shows the steps in the terminal and takes a number
  any other name: a model behind --judge-url (default: the OpenAI variables; key from JUDGE_API_KEY, else
    OPENAI_API_KEY), or a local model folder; it sees the problem, the row's `solution` (else its `answer`) and the
    numbered steps
or several, joined by commas, which must agree; they are asked in this order, until one is not sure or disagrees, so
name the cheap ones first. A judge that is not sure drops the row and says why; the row keeps what all of them said.

What every judge does with odd answers
  text before Step 1: context, shown to a model or a person, and never at fault
  no `Step` headers: split at blank lines ("split": "paragraphs")
  a right final answer: dropped before anybody is asked. --score asks; then rollouts find no error unless they --scan
  right steps before a wrong last line ("The answer is: 9"): an error of the last step, to which that line belongs
  steps that repeat are steps, and sixty are as good as three
  a reply in another language, or whose analysis says something else: only its labels are read
  a reply whose labels contradict each other, or do not fit the steps: asked for again, then "unparsed"
"""
import sys
import time
from collections import Counter

from judges import add_judge_flags, agree, make_judges, run_judged
from stepdpo.command import UserError, make_parser, parse_flags, run_main
from stepdpo.intervals import percent, wilson
from stepdpo.policy import add_ask_flags, check_ask_flags
from stepdpo.reply import SPENT
from stepdpo.stage import add_record_flags, open_output
from stepdpo.steps import cut_step, find_steps, split_steps
from stepdpo.task import is_right


async def locate(row, judges):
    """The row with its first wrong step cut out, or with the reason why there is none."""
    completion = row["completion"]
    right = row.get("correct")
    if right if isinstance(right, bool) else is_right(row, completion):
        return {**row, "drop": "answer is right"}
    spans, split = find_steps(completion)
    if not spans:
        return {**row, "drop": "no steps"}
    bad_step, words = await agree(row, split_steps(completion), judges)
    row = {**row, "judge": ",".join(judges), "verdict": words, "split": split}
    if isinstance(bad_step, str) or bad_step == 0:
        return {**row, "drop": bad_step or "no error found"}
    joint = spans[bad_step - 1][1]
    rejected = cut_step(completion, joint, split)
    if not rejected:
        return {**row, "drop": "empty step"}
    return {**row, "bad_step": bad_step, "initial_reason_steps": completion[:joint], "rejected": rejected,
            "full_rejected": completion[joint:]}



def labelled(row, where):
    """(row, parts, label) of a row in ProcessBench's shape, or of ours with a known `bad_step`; label 0 is no error."""
    if isinstance(row.get("steps"), list) and isinstance(row.get("label"), int):
        return {**row, "prompt": row["problem"]}, ["", *(f"{step}\n\n" for step in row["steps"])], row["label"] + 1
    if isinstance(row.get("completion"), str) and "bad_step" in row:
        return row, split_steps(row["completion"]), row["bad_step"] or 0
    raise UserError(f"{where}: row {row['id']} has neither ProcessBench's problem, steps and label nor our completion "
                    "and bad_step")


def score_report(said):
    """Lines: ProcessBench's figures (arXiv 2412.06559) with 95 % intervals. said: (verdict, label) pairs."""
    sides = {"wrong": [v == label for v, label in said if label], "right": [v == 0 for v, label in said if not label]}
    named = [v == label for v, label in said if v and not isinstance(v, str)]
    for name, hits in (*((f"accuracy on {side}", hits) for side, hits in sides.items()), ("precision", named)):
        if hits:
            yield f"{name:17} {percent(sum(hits) / len(hits), wilson(sum(hits), len(hits)))} of {len(hits)}"
    if all(sides.values()):
        import numpy as np
        draws = np.random.default_rng(0)
        a, b = (draws.beta(sum(hits) + 0.5, len(hits) - sum(hits) + 0.5, 10_000) for hits in sides.values())
        x, y = (sum(hits) / len(hits) for hits in sides.values())
        yield f"{'F1':17} {percent(2 * x * y / (x + y or 1), np.percentile(2 * a * b / (a + b), [2.5, 97.5]))}"
    unsure = Counter(v for v, _ in said if isinstance(v, str))
    yield f"{'unsure':17} {', '.join(f'{reason} {n}' for reason, n in unsure.most_common()) or 'never'}"


def score(args, judges):
    """Run the judges on rows whose first wrong step is known, and report how often they find it and at what cost."""
    said, begin, count = {}, time.monotonic(), 0

    async def work(row):
        nonlocal count
        row, parts, _ = labelled(row, args.score)
        found, words = await agree(row, parts, judges)
        count += 1
        row = {**row, "judge": args.judge, "found": found, "verdict": words}
        remember(row)  # here too: a person who goes back says something else
        return [row]

    def remember(row):
        said[row["id"]] = row["found"], labelled(row, args.score)[2]

    code = run_judged(open_output("locate.py", args), args.score, (), work, args.concurrency, judges, remember)
    print(*score_report([*said.values()]), sep="\n", file=sys.stderr)
    if count:  # rows of an earlier run cost nothing now
        spent = {"replies": SPENT["replies"], "tokens": SPENT["tokens"], "seconds": time.monotonic() - begin}
        print("per 1,000 rows   ", ", ".join(f"{1000 * cost / count:.0f} {name}" for name, cost in spent.items()),
              file=sys.stderr)
    return code



def main(argv=None):
    parser = make_parser(__doc__)
    add_record_flags(parser)
    add_ask_flags(parser, prefix=None, temperature=None, top_p=0.95)
    parser.add_argument("--judge", required=True, help="equations, rollouts, human, a model; several must agree")
    add_judge_flags(parser)
    parser.add_argument("--score", metavar="FILE", help="rows with known labels: report how good the judge is")
    args = parse_flags(parser, argv)
    check_ask_flags(args)
    judges = make_judges(args.judge, args)
    if args.score:
        return score(args, judges)

    async def work(row):
        return [await locate(row, judges)]

    return run_judged(open_output("locate.py", args), args.input, ("prompt", "answer", "completion"), work,
                      args.concurrency, judges)


if __name__ == "__main__":
    run_main(main)
