"""The kinds of rows that reproduce.py trains on, made of the same answers.

    pairs     a right step of the policy after the correct prefix, against the wrong step
    verified  the same, where a judge found no error in the right step
    apart     a right answer and a wrong answer to the problem, sampled apart from each other
    worded    the true step in words that the policy does not use, against the wrong step (the paper's table 4)
"""
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


def kinds_of_rows(folder):
    """{kind: {problem: its rows}} of a folder that Lab.make_pairs filled. Not every kind has every problem."""
    answers = load_rows(folder.parent / "answers.jsonl")
    right = first_of_each(row for row in answers if row["correct"])
    wrong = first_of_each(load_rows(folder.parent / "wrong.jsonl"))
    verified = rows_by_problem(folder / "verified.jsonl")
    return {"pairs": rows_by_problem(folder / "pairs.jsonl"), "verified": verified,
            "apart": {key: [answers_apart(right[key], wrong[key])] for key in wrong if key in right},
            "worded": in_other_words(verified)}


def answers_apart(right, wrong):
    """A pair of whole answers, which share nothing but the problem."""
    return {**wrong, "initial_reason_steps": "", "full_chosen": right["completion"],
            "full_rejected": wrong["completion"]}


def in_other_words(verified):
    """{problem: its rows} with the true step in other words, of problems where every row has one."""
    found = {}
    for key, rows in verified.items():
        worded = [{**row, "chosen": worded_step(row)} for row in rows]
        if all(row["chosen"] for row in worded):
            found[key] = worded
    return found


def worded_step(row):
    """The true step in other words; None after the last step, where a policy may go on."""
    equations, _ = truth(row["prompt"])
    if row["bad_step"] > len(equations):
        return None
    a, operation, b, result = equations[row["bad_step"] - 1]
    return WORDED[operation].format(f"{a} {operation} {b} = {result}")
