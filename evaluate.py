"""Ask a model every problem of a JSONL file and report how often it is right.

    python evaluate.py --model runs/m-step-dpo problems.jsonl --out eval.jsonl
    python evaluate.py answers.jsonl > /dev/null          # regrade: rows that have a `completion` ask nobody
    python evaluate.py --model runs/m-step-dpo --ask "What is 17 times 23?"

in:  {"id", "prompt", "answer"[, "dataset", "level", "subject"]}
out: the row with {"completion", "pred", "correct", "finish_reason", "sampling"}; its id becomes id#j for sample j

To grade otherwise, change stepdpo/task.py.
"""
import asyncio
import re

from stepdpo.ask import answer_row, answer_units
from stepdpo.command import UserError, inform, make_parser, parse_flags, run_main
from stepdpo.intervals import mean_interval, paired_interval, percent, wilson
from stepdpo.policy import Policy, add_ask_flags, check_ask_flags, sample_seed
from stepdpo.reply import GaveUp, Refused
from stepdpo.rows import printable, read_rows
from stepdpo.stage import add_record_flags, open_output, run_stage
from stepdpo.steps import split_steps
from stepdpo.task import same_answer

# --------------------------------------------------------------------------------------------- the report

def add_answer(problems, row, came=True):
    """Add what the report needs of a graded row; or of one for which no answer `came`, which counts as wrong.

    problems: {id: {"groups", "answers", "cut", "missing"}}.
    """
    key = re.sub(r"#\d+(/\d+)?$", "", row["id"])  # without the number of the sample
    problem = problems.setdefault(key, {"groups": [], "answers": [], "cut": 0, "missing": 0})
    problem["groups"] = [f"{name} {str(row[name]).removeprefix('Level ')}" for name in ("dataset", "level", "subject")
                         if row.get(name) not in (None, "")]
    problem["answers"].append({"pred": row["pred"], "correct": row["correct"]} if came else
                              {"pred": None, "correct": False})
    problem["cut"] += came and row.get("finish_reason") == "length"
    problem["missing"] += not came


def share_right(problem):
    """The share of a problem's answers that are right."""
    return sum(answer["correct"] for answer in problem["answers"]) / len(problem["answers"])


def majority_right(answers):
    """Whether the most frequent answer to a problem is right; the earlier one wins a tie."""
    ballots = []
    for answer in answers:
        if answer["pred"] is None:
            continue
        for ballot in ballots:
            if same_answer(answer["pred"], ballot["pred"]):
                ballot["votes"] += 1
                break
        else:
            ballots.append({**answer, "votes": 1})
    if not ballots:
        return False
    return max(ballots, key=lambda ballot: ballot["votes"])["correct"]


def group_problems(problems):
    """{group: its problems}: first "all", then by dataset, level and subject in natural order (Level 2 before 10)."""
    groups = {}
    for problem in problems.values():
        for group in problem["groups"]:
            groups.setdefault(group, []).append(problem)

    def natural(group):
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", group)]

    return {"all": [*problems.values()], **{group: groups[group] for group in sorted(groups, key=natural)}}


def accuracy_report(problems):
    """Lines: accuracy, pass@n and majority@n with 95 % intervals, over all problems and by group."""
    n = max(len(problem["answers"]) for problem in problems.values())
    names = ["accuracy"] + ([f"pass@{n}", f"majority@{n}"] if n > 1 else [])
    yield f"{'':24} {'problems':>8}  " + "".join(f"{name:24}" for name in names)
    for group, members in group_problems(problems).items():
        shares = [share_right(problem) for problem in members]
        cells = [percent(sum(shares) / len(shares), mean_interval(shares))]
        if n > 1:
            solved = sum(share > 0 for share in shares)
            agreed = sum(majority_right(problem["answers"]) for problem in members)
            cells += [percent(count / len(members), wilson(count, len(members))) for count in (solved, agreed)]
        yield f"{group[:24]:24} {len(members):8}  " + "".join(f"{cell:24}" for cell in cells)
    missing = sum(problem["missing"] for problem in problems.values())
    if missing:
        asked = sum(len(problem["answers"]) for problem in problems.values())
        yield f"{asked - missing} answered of {asked}; the others count as wrong"
    cut = sum(problem["cut"] for problem in problems.values())
    if cut:
        yield f"{cut} answers were cut by --max-tokens or the model's context"


def difference_to(problems, others):
    """One line: paired difference in accuracy to `others` with its 95 % interval, over common problems."""
    common = [key for key in problems if key in others]
    if not common:
        return "compare: no problem in common; the ids differ"
    differences = [share_right(problems[key]) - share_right(others[key]) for key in common]
    low, high = paired_interval(differences)
    alone = len(problems) + len(others) - 2 * len(common)
    return (f"difference {100 * sum(differences) / len(common):+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] "
            f"over {len(common)} common problems" + (f" ({alone} in one file only)" if alone else ""))


def read_graded(path):
    """The problems of an earlier run's rows."""
    problems = {}
    for row in read_rows(path, ("answer",)):
        if not isinstance(row.get("correct"), bool):
            raise UserError(f"{path}: row {row['id']} has no 'correct'; run evaluate.py on it first")
        add_answer(problems, {"pred": None, **row})
    return problems


# --------------------------------------------------------------------------------------------- asking

async def show_answer(policy, problem):
    """Print the model's answer to one problem, its steps apart; of a model here, words as they come."""
    prefix, printed = policy.args.prefix, ""

    def show(text, whole=False):
        nonlocal printed
        steps = "\n\n".join(part.strip() for part in split_steps(prefix + text) if part.strip())
        steps = steps if whole else settled(steps)
        if steps.startswith(printed):
            print(printable(steps[len(printed):]), end="", flush=True)
            printed = steps

    try:
        reply = await policy.ask(problem, prefix, sample_seed(policy.args.seed, problem, 0), show)
    except (Refused, GaveUp) as error:
        raise UserError(f"--ask: {' '.join(error.args)}") from error
    show(reply.text, whole=True)
    print(end="\n\n", flush=True)
    if reply.finish_reason == "length":
        inform("cut by --max-tokens or the model's context")


def settled(text):
    """What of a growing text stays as it is: its whole words, but no short last line, which may become a header."""
    line = text.rfind("\n") + 1
    end = text.rfind(" ") if len(text) - line > 12 else line
    return text[:max(end, 0)].rstrip()


def main(argv=None):
    parser = make_parser(__doc__)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=0.0)
    parser.add_argument("--samples", type=int, default=1, help="answers a problem; several want a --temperature")
    parser.add_argument("--compare", metavar="FILE", help="an earlier run's rows: print the paired difference to them")
    parser.add_argument("--ask", metavar="PROBLEM", help="print the answer to this problem; nothing is read or graded")
    args = parse_flags(parser, argv)
    check_ask_flags(args)
    if args.ask is not None:
        return asyncio.run(show_answer(Policy(args), args.ask))
    if args.samples > 1 and args.temperature == 0:
        raise UserError(f"--samples {args.samples} at temperature 0 are {args.samples} copies; give --temperature", 2)
    problems, others = {}, read_graded(args.compare) if args.compare else {}
    policy = Policy(args)

    async def work(unit):
        return [await answer_row(unit, policy)]

    code = run_stage(open_output("evaluate.py", args), args.input, ("prompt", "answer"), answer_units(args.samples),
                     work, policy.width, per_row=args.samples, each=lambda row: add_answer(problems, row),
                     unanswered=lambda row: add_answer(problems, row, came=False))
    if problems:
        inform(*accuracy_report(problems))
    if args.compare and problems:
        inform(difference_to(problems, others))
    return code


if __name__ == "__main__":
    run_main(main)
