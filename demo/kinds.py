"""The kinds of rows that reproduce.py trains on, made of the same answers.

    pairs     a right step of the policy after the correct prefix, against the wrong step
    verified  the same, where a judge found no error in the right step
    apart     a right answer and a wrong answer to the problem, sampled apart from each other
    worded    the true step in words that the policy does not use, against the wrong step (the paper's table 4)
    taught    the true step in words that the policy has learned, against the wrong step: as by a stronger teacher
"""
import re

from demo.files import load_rows
from demo.world import truth

# Words that the policy knows, in an order that it never writes.
WORDED = {"+": " Adding these makes it {} now.", "-": " Without these it goes down to {} now.",
          "×": " Multiplying makes it {} now.", "÷": " Dividing makes it {} now."}


def source_id(row):
    """The id of the problem that a row was sampled from."""
    return row["id"].split("#")[0]


def first_of_each(rows):
    """{problem: its first row}."""
    first = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        first.setdefault(source_id(row), row)
    return first


def rows_by_problem(path):
    """{problem: its rows} of a file."""
    found = {}
    for row in load_rows(path):
        found.setdefault(source_id(row), []).append(row)
    return found


def kinds_of_rows(folder, wanted):
    """{kind: {problem: its rows}} of a folder that Lab.gather_pairs filled. Not every kind has every problem.

    wanted: names of kinds.
    """
    kinds = {}
    if "pairs" in wanted:
        kinds["pairs"] = rows_by_problem(folder / "pairs.jsonl")
    if "apart" in wanted:
        right = first_of_each(row for row in load_rows(folder.parent / "answers.jsonl") if row["correct"])
        wrong = first_of_each(load_rows(folder.parent / "wrong.jsonl"))
        kinds["apart"] = {key: [answers_apart(right[key], wrong[key])] for key in wrong if key in right}
    verified = rows_by_problem(folder / "verified.jsonl")
    for kind, make_step in (("verified", lambda row: row["chosen"]), ("worded", worded_step), ("taught", true_step)):
        if kind in wanted:
            kinds[kind] = with_other_steps(verified, make_step)
    return kinds


def answers_apart(right, wrong):
    """A pair of whole answers, which share nothing but the problem."""
    return {**wrong, "initial_reason_steps": "", "full_chosen": right["completion"],
            "full_rejected": wrong["completion"]}


def with_other_steps(verified, make_step):
    """{problem: its rows} with the steps that make_step(row) chooses, of problems where it finds one for every row."""
    found = {}
    for key, rows in verified.items():
        others = [{**row, "chosen": make_step(row)} for row in rows]
        if all(row["chosen"] for row in others):
            found[key] = others
    return found


def worded_step(row):
    """The true step in other words; None after the last step, where a policy may go on."""
    equations, _ = truth(row["prompt"])
    if row["bad_step"] > len(equations):
        return None
    a, operation, b, result = equations[row["bad_step"] - 1]
    return WORDED[operation].format(f"{a} {operation} {b} = {result}")


def true_step(row):
    """The step of the row's solution, as the world tells it; None after the last step."""
    steps = re.split(r"(?m)^Step \d+:", row["solution"])[1:]
    return steps[row["bad_step"] - 1].rstrip() if row["bad_step"] <= len(steps) else None
