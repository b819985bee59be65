"""How well answers are graded: our grader beside math-verify, on labelled cases, in agreement, time and hostile input.

    python demo/grading.py                       the table of docs/grading.md (four minutes)
    python demo/grading.py mine.jsonl            the same for rows of your own

A row is {"gold", "prediction", "equal", "kind"}, with "whole": true where the prediction is a whole response and
"cut": true where that was cut by its length; or {"answer", "completion", "published_verdict", "prompt"}.
Both graders see a row one after the other in one process. math-verify reads LaTeX: bare answers are put between dollar
signs, and the gold answer of a whole response in \\boxed{}.
"""
import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from stepdpo.answers import extract_answer, same_answer  # noqa: E402

FILES = [ROOT / "tests/answer_cases.jsonl", *(ROOT.parent / "shared" / name for name in (
    "cases/grading.jsonl", "data/grading_cases.jsonl", "data/math_answers.jsonl"))]
HOSTILE = ["9**9**9**9", "10^10^10!", "((9!)!)!", "7" * 990, "{" * 10_000, "(" * 400 + "1" + ")" * 400, r"\frac" * 190,
           "1" + "+1" * 490, "2" + "^2" * 490, r"\sin " * 190, "x^{x^{x^x}}", "*".join(["(x+1)^{50}"] * 80),
           r"2^{" + "9" * 900 + "}", "1.0000001^{1000000000}", "e^{10^{10}}", r"\sin(10^{900})", "|x" * 490,
           "+".join(f"1/{n}" for n in range(101, 260)), "cm/" * 300, r"\begin{pmatrix}" + r"1&2\\" * 150]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=FILES, help="JSONL files of labelled cases")
    args = parser.parse_args(argv)
    graders = {"ours": our_verdict}
    try:
        graders["math-verify"] = load_math_verify()
    except ImportError:
        print("math-verify is not installed (requirements-dev.txt names it): our figures alone", file=sys.stderr)
    groups, times = {}, {name: [] for name in graders}
    for row in read_cases(path for path in args.files if path.exists()):
        counts = groups.setdefault(row["kind"], {name: [0, 0, 0] for name in graders})  # right, wrongly accepted, all
        for name, verdict in graders.items():
            start = time.process_time()
            says = verdict(row)
            times[name].append(time.process_time() - start)
            right, accepted, number = counts[name]
            counts[name] = [right + (says == row["equal"]), accepted + (says and not row["equal"]), number + 1]
    print_agreement(groups, times)
    print_hostile(graders)


def read_cases(paths):
    """The rows of some files in one form; the kind of a row names its file too."""
    for path in paths:
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            if "published_verdict" in row:
                row = {"gold": row["answer"], "prediction": row["completion"], "equal": row["published_verdict"],
                       "whole": True, "problem": row["prompt"]}
            yield {**row, "kind": f"{path.stem}: {row['kind']}" if "set" in row else path.stem}


def our_verdict(row):
    prediction = row["prediction"]
    if row.get("whole"):
        prediction = extract_answer(prediction, cut=row.get("cut", False)) or ""
    return same_answer(prediction, row["gold"], row.get("problem"))


def load_math_verify():
    from math_verify import parse, verify
    logging.disable(logging.ERROR)  # it logs what it cannot read

    def verdict(row):
        gold, prediction = row["gold"], row["prediction"]
        if row.get("whole"):
            gold = rf"\boxed{{{gold}}}"
        else:
            gold, prediction = (text if "$" in text else f"${text}$" for text in (gold, prediction))
        return bool(verify(parse(gold), parse(prediction)))
    return verdict


def print_agreement(groups, times):
    names = list(times)
    print("| cases | " + " | ".join(f"{name}: right | wrongly accepted" for name in names) + " |")
    print("|---|" + "---|" * 2 * len(names))
    for kind, counts in groups.items():
        cells = [f"{right} of {number} | {accepted}" for right, accepted, number in counts.values()]
        print(f"| {kind} | " + " | ".join(cells) + " |")
    print()
    for name in names:
        median, mean = statistics.median(times[name]), statistics.mean(times[name])
        print(f"{name}: {1e3 * median:.2f} ms a case at the median, {1e3 * mean:.2f} on average")
    if len(names) == 2:
        ratios = [theirs / max(ours, 1e-9) for ours, theirs in zip(*times.values())]
        print(f"ratio, case by case: {statistics.median(ratios):.0f} at the median")
    print()


def print_hostile(graders):
    """Each hostile string against 1, and as a whole response."""
    for name, verdict in graders.items():
        worst, failures = 0.0, 0
        for text in HOSTILE:
            for row in ({"gold": "1", "prediction": text}, {"gold": text[:900], "prediction": text[:900] + "2"},
                        {"gold": "1", "prediction": f"The answer is {text}", "whole": True}):
                start = time.process_time()
                try:
                    failures += verdict(row)  # nothing here is equal
                except Exception:  # whatever a grader raises ends the run that asked it
                    failures += 1
                worst = max(worst, time.process_time() - start)
        print(f"{name}: {len(HOSTILE)} hostile strings, {3 * len(HOSTILE)} questions: at most {1e3 * worst:.0f} ms, "
              f"{failures} wrongly accepted or raised")


if __name__ == "__main__":
    main()
