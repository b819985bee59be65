"""Step localisation (Step-DPO, section 3.2): find the first wrong step of each wrong answer.

    python locate.py --judge gpt-4o < wrong.jsonl > located.jsonl
    python locate.py --judge rollouts --model M --rollouts 16 < wrong.jsonl > located.jsonl
    python locate.py --judge equations --score labelled.jsonl       # how good is this judge?

in:  rows of collect.py: {"id", "prompt", "answer", "completion"[, "solution"]}
out: the row with {"bad_step", "judge", "verdict", "split", "initial_reason_steps", "rejected", "full_rejected"};
     initial_reason_steps + full_rejected is the completion, and rejected, the wrong step, begins full_rejected

--judge NAME is a file, judges/NAME.py, or path/to/mine.py (judges/__init__.py says what is in it):
  equations: no model; checks the arithmetic that each step states and where its numbers come from
  rollouts: no judge; --model continues from the steps before k, and the first step from which it no longer reaches
    the gold answer is the wrong one (Math-Shepherd, arXiv 2312.08935; OmegaPRM, arXiv 2406.06592)
  human: shows the steps in the terminal and takes a number
  any other name: a model behind --judge-url (default: the OpenAI variables; key from JUDGE_API_KEY, else
    OPENAI_API_KEY), or a local model folder; it sees the problem, the row's `solution` (else its `answer`) and the
    numbered steps
Several names, joined by commas, must agree. They are asked in this order, until one is not sure or disagrees: name
the cheap ones first. A judge that is not sure drops the row and says why. The row keeps what all of them said.

What every judge does with odd answers
  text before Step 1: context, shown to a model or a person, and never at fault
  no `Step` headers: split at blank lines ("split": "paragraphs")
  one header and several paragraphs: dropped as "one step of several paragraphs", unless --split says what they are;
    stepdpo/steps.py says which spellings are headers
  a right final answer: dropped before anybody is asked. --score asks; then rollouts find no error unless they --scan
  right steps before a wrong last line ("The answer is: 9"): an error of the last step, to which that line belongs
  steps that repeat are steps, and sixty are as good as three
  a reply in another language, or whose analysis says something else: only its labels are read
  a reply whose labels contradict each other, or do not fit the steps: asked for again, then "unparsed"
"""
import time
from collections import Counter

from judges import add_judge_flags, agree, judge_settings, make_judges, run_judged
from stepdpo.command import UserError, inform, make_parser, parse_flags, run_main
from stepdpo.intervals import harmonic_interval, harmonic_mean, percent, wilson
from stepdpo.policy import add_ask_flags, check_ask_flags
from stepdpo.reply import SPENT
from stepdpo.stage import add_record_flags, open_output
from stepdpo.steps import SPLITS, cut_step, find_steps, hides_steps, split_steps
from stepdpo.task import is_right


ONE_STEP = "one step of several paragraphs"


async def cut_out_error(row, judges, split=None):
    """The row with its first wrong step cut out, or with the reason why there is none.

    split: "headers" or "paragraphs", where steps begin; None decides by the text, and drops what may be either.
    """
    completion = row["completion"]
    right = row["correct"] if isinstance(row.get("correct"), bool) else is_right(row, completion)
    if right:
        return {**row, "drop": "answer is right"}
    if split is None and hides_steps(completion):
        return {**row, "drop": ONE_STEP}
    spans, split = find_steps(completion, split)
    if not spans:
        return {**row, "drop": "no steps"}
    verdict = await agree(row, split_steps(completion, split), judges)
    row = {**row, **verdict_fields(verdict, judges), "split": split}
    if isinstance(verdict.bad_step, str):
        return {**row, "drop": verdict.bad_step}
    if verdict.bad_step == 0:
        return {**row, "drop": "no error found"}
    _, joint = spans[verdict.bad_step - 1]
    rejected = cut_step(completion, joint, split)
    if not rejected:
        return {**row, "drop": "empty step"}
    return {**row, "bad_step": verdict.bad_step, "initial_reason_steps": completion[:joint], "rejected": rejected,
            "full_rejected": completion[joint:]}


def verdict_fields(verdict, judges):
    """What a judged row says of its judges."""
    fields = {"judge": ",".join(judges), "verdict": verdict.words, **judge_settings(judges)}
    if verdict.scores is not None:
        fields["step_scores"] = verdict.scores
    return fields


def read_label(row, where):
    """(row, parts, label) of a row in ProcessBench's shape, or of ours with a known `bad_step`; label 0 is no error."""
    steps, label = row.get("steps"), row.get("label")
    if isinstance(row.get("problem"), str) and isinstance(steps, list) and isinstance(label, int):
        row, parts, label = {**row, "prompt": row["problem"]}, ["", *(f"{step}\n\n" for step in steps)], label + 1
    elif isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str) and "bad_step" in row:
        parts, label = split_steps(row["completion"]), row["bad_step"] or 0
    else:
        raise UserError(f"{where}: row {row['id']} has neither ProcessBench's problem, steps and label nor our prompt, "
                        "completion and bad_step")
    known = label if "steps" in row else 0  # who labelled a completion may have counted its steps in another way
    if not isinstance(label, int) or label < 0 or not known < len(parts) or len(parts) == 1:
        raise UserError(f"{where}: row {row['id']}: its label names no step of the {len(parts) - 1} that it has")
    return row, parts, label


def subset_of(row):
    """The subset that a row is of: its `dataset`, or in ProcessBench's shape what stands before the number of its id."""
    return str(row.get("dataset") or ("steps" in row and row["id"].rpartition("-")[0]) or "rows")


def count_hits(said):
    """{figure: [whether each row that counts for it was a hit]}. said: (bad_step, label) pairs; label 0 is no error.

    accuracy on wrong: rows with an error of which the judge names that step; on right: rows without one that it
    passes; precision: named steps that are the labelled one. "Cannot tell" is no hit.
    """
    return {"accuracy on wrong": [found == label for found, label in said if label > 0],
            "accuracy on right": [found == 0 for found, label in said if label == 0],
            "precision": [found == label for found, label in said if not isinstance(found, str) and found > 0]}


def share(hits):
    """A share of hits with its interval."""
    return percent(sum(hits) / len(hits), wilson(sum(hits), len(hits)))


def f1_of(hits):
    """ProcessBench's F1 with its interval, as text: the harmonic mean of both accuracies. "" where one has no rows."""
    wrong, right = hits["accuracy on wrong"], hits["accuracy on right"]
    if not wrong or not right:
        return ""
    f1 = harmonic_mean(sum(wrong) / len(wrong), sum(right) / len(right))
    return percent(f1, harmonic_interval((sum(wrong), len(wrong)), (sum(right), len(right))))


def score_report(said):
    """Lines: ProcessBench's figures (arXiv 2412.06559) with 95 % intervals. said: (bad_step, label, subset) triples."""
    subsets = sorted({subset for _, _, subset in said})
    lines = subset_table(said, subsets) if len(subsets) > 1 else []
    hits = count_hits([(found, label) for found, label, _ in said])
    for name, of_name in hits.items():
        if of_name:
            lines.append(f"{name:17} {share(of_name)} of {len(of_name)}")
    if f1_of(hits):
        lines.append(f"{'F1':17} {f1_of(hits)}")
    unsure = Counter(found for found, _, _ in said if isinstance(found, str))
    reasons = ", ".join(f"{reason} {n}" for reason, n in unsure.most_common())
    return [*lines, f"{'unsure':17} {reasons or 'never'}"]


def subset_table(said, subsets):
    """Lines: a subset a line, then the mean of their F1, as ProcessBench reports it."""
    columns = ("accuracy on wrong", "accuracy on right", "F1", "precision")
    lines, f1s = [f"{'subset':17} " + " ".join(f"{name:22}" for name in columns) + " rows"], []
    for subset in subsets:
        pairs = [(found, label) for found, label, of in said if of == subset]
        hits = count_hits(pairs)
        cells = {name: share(of_name) if of_name else "" for name, of_name in hits.items()} | {"F1": f1_of(hits)}
        lines.append(f"{subset:17} " + " ".join(f"{cells[name].strip():22}" for name in columns) + f" {len(pairs)}")
        if cells["F1"]:
            f1s.append(harmonic_mean(*(sum(hits[name]) / len(hits[name]) for name in columns[:2])))
    if len(f1s) == len(subsets):
        lines.append(f"{'mean F1':17} {100 * sum(f1s) / len(f1s):.1f} %")
    return [*lines, ""]


def score_judges(args, judges):
    """Run the judges on rows whose first wrong step is known, and report how often they find it and at what cost."""
    said, begin, count = {}, time.monotonic(), 0

    async def work(row):
        nonlocal count
        row, parts, _ = read_label(row, args.score)
        verdict = await agree(row, parts, judges)
        count += 1
        row = {**row, **verdict_fields(verdict, judges), "found": verdict.bad_step}
        note_verdict(row)  # here too: a person who goes back says something else
        return [row]

    def note_verdict(row):
        said[row["id"]] = row["found"], read_label(row, args.score)[2], subset_of(row)

    code = run_judged(open_output("locate.py", args), args.score, (), work, args.concurrency, judges, note_verdict)
    if said:
        inform(*score_report([*said.values()]))
    if count:  # rows of an earlier run cost nothing now
        seconds = time.monotonic() - begin
        costs = {"replies": SPENT["replies"], "tokens": SPENT["tokens"], "seconds": seconds}
        shown = ", ".join(f"{1000 * cost / count:.0f} {name}" for name, cost in costs.items())
        inform(f"{'per 1,000 rows':17} {shown}")
    return code


def main(argv=None):
    parser = make_parser(__doc__)
    add_record_flags(parser)
    add_ask_flags(parser, prefix=None, temperature=None, top_p=0.95)
    parser.add_argument("--judge", required=True, help="equations, rollouts, human, prm:FOLDER, a judge's file.py, or "
                                                       "a model; several, joined by commas, must agree")
    add_judge_flags(parser)
    parser.add_argument("--split", choices=SPLITS, help="where steps begin (default: at headers, in an answer without "
                                                        "headers at blank lines)")
    parser.add_argument("--score", metavar="FILE", help="rows with known labels: report how good the judge is")
    args = parse_flags(parser, argv)
    check_ask_flags(args)
    judges = make_judges(args.judge, args)
    if args.score:
        return score_judges(args, judges)

    count = Counter()

    async def work(row):
        row = await cut_out_error(row, judges, args.split)
        count[row.get("drop")] += 1
        return [row]

    code = run_judged(open_output("locate.py", args), args.input, ("prompt", "answer", "completion"), work,
                      args.concurrency, judges)
    if count[ONE_STEP]:
        inform(f"locate.py: {count[ONE_STEP]} answers have one step header and several paragraphs; --split paragraphs "
               "makes each paragraph a step, --split headers takes the answer as one step")
    return code


if __name__ == "__main__":
    run_main(main)
