"""Public test sets as rows of problems, for evaluate.py and collect.py. Needs: pip install datasets

    python demo/problems.py gsm8k > gsm8k.jsonl
    python demo/problems.py odyssey-math.jsonl > odyssey.jsonl

in:  a name in SETS, fetched from the Hugging Face hub, or Odyssey-MATH's own file, final-odyssey-math-with-levels.jsonl
     of github.com/protagolabs/odyssey-math
out: {"id", "dataset", "prompt", "answer", "solution"[, "level", "subject"]}
"""
import argparse
import json
import os
import sys


def gsm8k(row):
    solution, answer = row["answer"].split("\n#### ")
    return {"prompt": row["question"], "answer": answer.replace(",", ""), "solution": solution}


def competition(row):
    return {"prompt": row["problem"], "answer": str(row["answer"]), "solution": row["solution"],
            **{name: row[name] for name in ("level", "subject") if name in row}}


def odyssey(row):
    (row,) = row.values()  # {"Problem_1": {…}}; LaTeX of the exam stands around questions and answers
    question, answer = (row[name].split(r"\noindent")[0].split(r"\end{problem}")[0].strip().removesuffix(r"\\").strip()
                        for name in ("question", "answer"))
    return {"prompt": question, "answer": answer, "solution": row["reasoning"], "level": row["level"],
            "subject": row["label"]}


SETS = {  # name: (path on the hub, configuration, split, what makes a row)
    "gsm8k": ("openai/gsm8k", "main", "test", gsm8k),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", competition),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", competition),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="SET", help=f"{', '.join(SETS)}, or Odyssey-MATH's file")
    source = parser.parse_args(argv).source
    if source in SETS:
        from datasets import load_dataset
        path, configuration, split, make = SETS[source]
        name, rows = source, load_dataset(path, configuration, split=split)
    elif not os.path.isfile(source):
        parser.error(f"{source}: neither {', '.join(SETS)} nor a file")
    else:
        name, rows, make = "odyssey-math", map(json.loads, open(source, encoding="utf-8")), odyssey
    for number, row in enumerate(rows):
        print(json.dumps({"id": f"{name}-{number}", "dataset": name, **make(row)}, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
