"""Public problem sets as rows of problems, for collect.py and evaluate.py.

    python demo/problems.py gsm8k > gsm8k.jsonl                     # from the hub; needs: pip install datasets
    python demo/problems.py gsm8k --split train > gsm8k-train.jsonl
    python demo/problems.py train.jsonl > gsm8k-train.jsonl         # a local file, no network
    python demo/problems.py MATH/train > math-train.jsonl           # a folder of files with a problem each

in:  a name in SETS, or a file of JSON lines (or a folder of JSON files) in the shape of
     GSM8K: {"question", "answer"}, with the answer behind ####
     MATH:  {"problem", "solution"[, "answer", "level", "type"]}, with the answer in the solution's box
     Odyssey-MATH: {"Problem_1": {"question", "answer", ...}}, of github.com/protagolabs/odyssey-math
out: {"id", "dataset", "prompt", "answer", "solution"[, "level", "subject"]}
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stepdpo.answers import extract_answer
from stepdpo.command import UserError, inform, run_main
from stepdpo.rows import format_row, parse_row, read_rows


def gsm8k(row):
    """A row of GSM8K. ValueError for an answer without ####."""
    solution, mark, answer = row["answer"].rpartition("####")
    if not mark or not answer.strip():
        raise ValueError("the answer has no ####")
    return {"prompt": row["question"], "answer": answer.strip().replace(",", ""), "solution": solution.rstrip()}


def competition(row):
    """A row of MATH, MATH-500 or AIME. ValueError for one without an answer and without a box in its solution."""
    answer = row.get("answer")
    if answer is None:
        if "\\boxed" not in row["solution"] and "\\fbox" not in row["solution"]:
            raise ValueError("the solution has no \\boxed{}")
        answer = extract_answer(row["solution"].replace("\\fbox", "\\boxed"))
    found = {"prompt": row["problem"], "answer": str(answer), "solution": row["solution"]}
    if "level" in row:
        found["level"] = row["level"]
    if "subject" in row or "type" in row:
        found["subject"] = row.get("subject", row.get("type"))
    return found


def odyssey(row):
    """A row of Odyssey-MATH. LaTeX of the exam stands around questions and answers."""
    row = next(value for name, value in row.items() if name != "id")
    question, answer = (row[name].split(r"\noindent")[0].split(r"\end{problem}")[0].strip().removesuffix(r"\\").strip()
                        for name in ("question", "answer"))
    return {"prompt": question, "answer": answer, "solution": row["reasoning"], "level": row["level"],
            "subject": row["label"]}


SETS = {  # name: (path on the hub, configuration, split to report on, what makes a row)
    "gsm8k": ("openai/gsm8k", "main", "test", gsm8k),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", competition),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", competition),
}


def shape_of(row):
    """(name of the set, what makes a row) by the fields of a row; None for another shape."""
    if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        return "gsm8k", gsm8k
    if isinstance(row.get("problem"), str) and isinstance(row.get("solution"), str):
        return "math", competition
    inner = [value for name, value in row.items() if name != "id"]
    if len(inner) == 1 and isinstance(inner[0], dict) and {"question", "answer", "reasoning"} <= inner[0].keys():
        return "odyssey-math", odyssey
    return None


def local_rows(source):
    """(where a row stands, row) of a file of JSON lines, or of a folder with a JSON file for each problem."""
    if os.path.isfile(source):
        for number, row in enumerate(read_rows(source), 1):
            yield f"{source}: row {number}", row
        return
    paths = sorted(Path(source).rglob("*.json"))
    if not paths:
        raise UserError(f"{source}: holds no .json files; name a file of JSON lines, or a folder of problems", 2)
    for path in paths:
        yield str(path), parse_row(path.read_bytes(), str(path), ())


def problems_of(source):
    """Problem rows of a local file or folder, whose shape is seen in each row."""
    name = Path(source).resolve().stem
    for number, (where, row) in enumerate(local_rows(source)):
        shape = shape_of(row)
        try:
            if shape is None:
                raise ValueError(f"its fields are {', '.join(sorted(row))[:80]}")
            dataset, make = shape
            made = make(row)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{where}: not in the shape of GSM8K (question, answer with ####), MATH (problem, solution "
                            f"with a box) or Odyssey-MATH ({error}); any rows with prompt and answer will do as they "
                            "are") from error
        yield {"id": f"{dataset}-{name}-{number}", "dataset": dataset, **made}


def hub_rows(name, split):
    """Problem rows of a set from the hub. UserError where it cannot be had, with what to do without a network."""
    path, configuration, usual, make = SETS[name]
    split = split or usual
    try:
        from datasets import load_dataset
        rows = load_dataset(path, configuration, split=split)
    except ImportError as error:
        raise UserError(f"{name}: datasets is not installed; pip install datasets, or name a local file", 2) from error
    except Exception as error:  # offline, no such split, a hub that refuses: each another class
        raise UserError(f"{name}: {path} cannot be had from the hub ({' '.join(str(error).split())[:120]}); download "
                        "its file elsewhere and name that") from error
    prefix = name if split == usual else f"{name}-{split}"
    for number, row in enumerate(rows):
        yield {"id": f"{prefix}-{number}", "dataset": name, **make(row)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SET", help=f"{', '.join(SETS)}, or a local file or folder")
    parser.add_argument("--split", help="of a set from the hub, as train (default: the one to report on)")
    args = parser.parse_args(argv)
    if args.source in SETS:
        rows = hub_rows(args.source, args.split)
    elif not os.path.exists(args.source):
        raise UserError(f"{args.source}: neither {', '.join(SETS)} nor a file or folder", 2)
    elif args.split:
        raise UserError("--split is of a set from the hub; name the file of the split", 2)
    else:
        rows = problems_of(args.source)
    count = 0
    for row in rows:
        sys.stdout.buffer.write(format_row(row))
        count += 1
    inform(f"problems.py: {count} problems")


if __name__ == "__main__":
    run_main(main)
