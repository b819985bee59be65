"""Ask a model every problem of a JSONL file and report how often it is right.

    python evaluate.py --model runs/m-step-dpo problems.jsonl --out eval.jsonl
    python evaluate.py answers.jsonl > /dev/null          # regrade: rows that have a `completion` ask nobody
    python evaluate.py --model runs/m-step-dpo --ask "What is 17 times 23?"

in:  {"id", "prompt", "answer"[, "dataset", "level", "subject"]}
out: the row with {"completion", "pred", "correct", "finish_reason", "sampling"}; its id becomes id#j for sample j

Two engines stand behind one coroutine `ask(text, seed) -> Reply`: a local model (an own sampling loop over
transformers) or any OpenAI-compatible server (--base-url). To grade otherwise, change the two functions that
are in stepdpo/task.py.
"""
import argparse
import asyncio
import re
import sys
from collections import defaultdict

from stepdpo.ask import answer_row, answer_units
from stepdpo.command import Help, UserError, run_main
from stepdpo.intervals import mean_interval, percent, wilson
from stepdpo.policy import Policy, add_ask_flags, check_ask_flags, sample_seed
from stepdpo.reply import GaveUp, Refused
from stepdpo.rows import printable, read_rows
from stepdpo.stage import add_record_flags, open_output, run_stage
from stepdpo.steps import split_steps
from stepdpo.task import same_answer

# ---------------------------------------------------------------------------------------------- grading

# --------------------------------------------------------------------------------------------- reporting

def majority_right(samples):
    """Whether the most frequent answer of a problem is right; the earlier one wins a tie."""
    votes = []  # [answer, count, correct]
    for pred, correct in samples:
        for vote in votes:
            if None not in (pred, vote[0]) and same_answer(pred, vote[0]):
                vote[1] += 1
                break
        else:
            votes.append([pred, pred is not None, correct])
    return max(votes, key=lambda vote: vote[1])[2]


def problem_of(row):
    """The id of the problem that a sampled row answers."""
    return re.sub(r"#\d+(/\d+)?$", "", row["id"])


def remember(problems, row):
    """Keep of a graded row what the report needs."""
    groups = [f"{name} {str(row[name]).removeprefix('Level ')}" for name in ("dataset", "level", "subject")
              if row.get(name) not in (None, "")]
    problem = problems[problem_of(row)]
    problem["groups"] = groups
    problem["samples"].append((row["pred"], row["correct"]))
    problem["cut"] += row.get("finish_reason") == "length"


def rate(problem):
    return sum(correct for _, correct in problem["samples"]) / len(problem["samples"])


def report(problems):
    """Lines: accuracy, pass@n and majority@n with 95 % intervals, over all problems and by group."""
    groups = defaultdict(list)
    for problem in problems.values():
        for group in ["all", *problem["groups"]]:
            groups[group].append(problem)
    n = max(len(problem["samples"]) for problem in problems.values())
    names = ["accuracy"] + ([f"pass@{n}", f"majority@{n}"] if n > 1 else [])
    order = ["all"] + sorted((g for g in groups if g != "all"),
                             key=lambda g: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", g)])
    yield f"{'':24} {'problems':>8}  " + "".join(f"{name:24}" for name in names)
    for group in order:
        rates = [rate(problem) for problem in groups[group]]
        cells = [(sum(rates) / len(rates), mean_interval(rates))]
        if n > 1:
            for score in ([r > 0 for r in rates], [majority_right(p["samples"]) for p in groups[group]]):
                cells.append((sum(score) / len(score), wilson(sum(score), len(score))))
        yield f"{group[:24]:24} {len(rates):8}  " + "".join(f"{percent(*cell):24}" for cell in cells)
    cut = sum(problem["cut"] for problem in problems.values())
    if cut:
        yield f"{cut} answers were cut by --max-tokens or the model's context"


def compare(problems, other, resamples=10_000):
    """One line: paired difference in accuracy to `other` with a bootstrap interval over common problems."""
    import numpy as np
    common = [key for key in problems if key in other]
    if not common:
        return "compare: no problem in common; the ids differ"
    difference = np.array([rate(problems[key]) - rate(other[key]) for key in common])
    draws = np.random.default_rng(0)
    means = [difference[draws.integers(0, len(common), len(common))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    alone = len(problems) + len(other) - 2 * len(common)
    return (f"difference {100 * difference.mean():+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] "
            f"over {len(common)} common problems" + (f" ({alone} in one file only)" if alone else ""))


def new_problems():
    return defaultdict(lambda: {"groups": [], "samples": [], "cut": 0})


async def show_answer(policy, problem):
    """Print the model's answer to one problem, a step at a time."""
    try:
        reply = await policy.ask(problem, policy.args.prefix, sample_seed(policy.args.seed, problem, 0))
    except (Refused, GaveUp) as error:
        raise UserError(f"--ask: {' '.join(error.args)}") from error
    for part in filter(str.strip, split_steps(policy.args.prefix + reply.text)):
        print(printable(part.strip()), end="\n\n", flush=True)
    if reply.finish_reason == "length":
        print("cut by --max-tokens or the model's context", file=sys.stderr)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=Help)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=0.0)
    parser.add_argument("--samples", type=int, default=1, help="answers a problem; several want a --temperature")
    parser.add_argument("--compare", metavar="FILE", help="an earlier run's rows: print the paired difference to them")
    parser.add_argument("--ask", metavar="PROBLEM", help="print the answer to this problem; nothing is read or graded")
    args = parser.parse_args(argv)
    check_ask_flags(args)
    if args.ask:
        return asyncio.run(show_answer(Policy(args), args.ask))
    if args.samples > 1 and args.temperature == 0:
        raise UserError(f"--samples {args.samples} at temperature 0 are {args.samples} copies; give --temperature", 2)
    problems, other = new_problems(), new_problems()
    for row in read_rows(args.compare, ("answer",)) if args.compare else ():
        if not isinstance(row.get("correct"), bool):
            raise UserError(f"{args.compare}: row {row['id']} has no 'correct'; run evaluate.py on it first")
        remember(other, {"pred": None, **row})
    policy = Policy(args)

    async def work(unit):
        return [await answer_row(unit, policy)]

    code = run_stage(open_output("evaluate.py", args), args.input, ("prompt", "answer"), answer_units(args.samples),
                     work, policy.width, per_row=args.samples, each=lambda row: remember(problems, row))
    if problems:
        print(*report(problems), sep="\n", file=sys.stderr)
    if args.compare and problems:
        print(compare(problems, other), file=sys.stderr)
    return code


if __name__ == "__main__":
    run_main(main)
