"""The cut that judges lead to, and their score. Run alone: pytest tests/test_locate.py"""
import asyncio
import json
import os
import re
import subprocess
import sys

import pytest
from conftest import PROBLEMS, ROOT

from judges.verdict import Verdict
from locate import cut_out_error
from stepdpo.task import PREFIX

sys.path.insert(0, str(ROOT / "demo"))

WRONG = {"id": "a", "prompt": "p", "answer": "7", "completion": "Step 1: a\nStep 2: b\nThe answer is: 9"}


# -------------------------------------------------------------------------------------------------------------- the cut

def located(completion, *verdicts, **row):
    async def judge(row, parts, whole, verdicts=iter(verdicts)):
        return Verdict(next(verdicts), "words")
    judges = {str(n): judge for n in range(len(verdicts))}
    row = {"id": "a", "prompt": "p", "answer": "7", "completion": completion, **row}
    return asyncio.run(cut_out_error(row, judges))


ANSWER = PREFIX + " a b.\n**Step 2:** c d\n\nStep 3: e\nThe answer is: 9"


@pytest.mark.parametrize("bad_step, header, rejected", [
    (1, "Step 1:", " a b."), (2, "**Step 2:**", " c d"), (3, "Step 3:", " e\nThe answer is: 9")])
def test_the_cut(bad_step, header, rejected):
    row = located(ANSWER, bad_step)
    assert row["initial_reason_steps"] + row["full_rejected"] == ANSWER
    assert row["initial_reason_steps"].endswith(header) and row["rejected"] == rejected
    assert row["full_rejected"].startswith(rejected) and row["split"] == "headers" and row["bad_step"] == bad_step


def test_drops_have_reasons():
    assert located(ANSWER, 0)["drop"] == "no error found"
    unparsed = located(ANSWER, "unparsed")
    assert unparsed["drop"] == "unparsed" and unparsed["verdict"] == {"0": "words"}
    assert located(ANSWER, 1, 2)["drop"] == "judges disagree" and located(ANSWER, 2, 2)["bad_step"] == 2
    assert located(ANSWER, 1, "cannot tell")["drop"] == "cannot tell"
    assert located(ANSWER, 1, correct=True)["drop"] == "answer is right"
    assert located(ANSWER, answer="9")["drop"] == "answer is right"  # whoever graded it
    assert located(" \n", 1)["drop"] == "no steps"
    assert located(PREFIX + "\nStep 2: x", 1)["drop"] == "empty step"


def test_paragraphs_stand_in_for_missing_headers():
    row = located("First a.\n\nThen b.\n\nSo 9.", 2)
    assert (row["split"], row["initial_reason_steps"], row["rejected"]) == ("paragraphs", "First a.\n\n", "Then b.")


def test_one_step_of_several_paragraphs_is_said_and_what_to_do(run):
    """Not cut as one step without a word: the whole answer would be the wrong step."""
    row = {"id": 1, "prompt": "p", "answer": "7", "completion": PREFIX + " a.\n\nSecond, b.\n\nThe answer is: 9"}
    said = run("locate.py", "--judge", "equations", rows=[row, WRONG]).err
    assert "one step of several paragraphs 1" in said and "--split paragraphs makes each paragraph a step" in said
    assert "--split" not in run("locate.py", "--judge", "equations", "--split", "headers", rows=[row]).err
    completion = row["completion"]

    async def judge(row, parts, whole):
        assert "".join(parts) == completion and len(parts) == 4
        return Verdict(2, "words")
    cut = asyncio.run(cut_out_error({**row, "id": "1"}, {"J": judge}, "paragraphs"))
    assert (cut["split"], cut["rejected"]) == ("paragraphs", "Second, b.")


# ---------------------------------------------------------------------------------------------------------------- score

RIGHT = "Ann has 5 and 3. 5 + 3 = 8"
THREE = {"problem": "5 and 3 and 2", "final_answer_correct": False}
BENCH = [
    {"id": "a", **THREE, "steps": ["5 + 3 = 8.", "8 + 2 = 11."], "label": 1},
    {"id": "b", **THREE, "steps": ["5 + 3 = 9.", "9 + 2 = 11."], "label": 0},
    {"id": "c", **THREE, "steps": ["Hm. 4", "9 + 2 = 11."], "label": 0},
    {"id": "d", "problem": RIGHT, "answer": "8", "steps": ["5 + 3 = 8."], "final_answer_correct": True, "label": -1},
    {"id": "e", "prompt": RIGHT, "answer": "8", "completion": "Step 1: 5 + 3 = 8.", "bad_step": None},
    {"id": "f", "prompt": RIGHT, "answer": "8", "completion": "Step 1: 5 + 3 = 8.\nStep 2: 5 + 8 = 12.", "bad_step": 2}]


def test_score(run, tmp_path):
    """ProcessBench's figures on rows in its shape and in ours; its label counts from 0, -1 is no error."""
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BENCH))
    done = run("locate.py", "--judge", "equations", "--score", "bench.jsonl")
    assert "accuracy on wrong  75.0 % [30.1, 95.4] of 4" in done.err  # Wilson, by hand
    assert "accuracy on right 100.0 % [34.2, 100.0] of 2" in done.err
    assert "F1                 85.7 % [" in done.err and "precision         100.0 %" in done.err  # 2 · 0.75 / 1.75
    assert "cannot tell 1" in done.err and "per 1,000 rows    0 replies, 0 tokens, " in done.err
    assert [row["found"] for row in done.rows] == [2, 1, "cannot tell", 0, 0, 2]
    done = run("locate.py", "--judge", "equations", "--score", "-", rows=[{"id": "x"}], code=1)
    assert "row x has neither ProcessBench's" in done.err


def test_a_resumed_score_is_of_all_rows_and_its_cost_of_those_asked_now(run, tmp_path):
    flags = ["--judge", "equations", "--score", "bench.jsonl", "--out", "o.jsonl"]
    lines = "".join(json.dumps(row) + "\n" for row in BENCH)
    (tmp_path / "bench.jsonl").write_text(lines)
    whole = run("locate.py", *flags).err
    journal = (tmp_path / "o.jsonl.done").read_bytes().splitlines(keepends=True)
    (tmp_path / "o.jsonl.done").write_bytes(b"".join(journal[:3]))  # as if it had been killed after two rows
    os.truncate(tmp_path / "o.jsonl", json.loads(journal[2])["out"])
    resumed = run("locate.py", *flags, "--resume").err.splitlines()
    figures = [line for line in whole.splitlines() if "per 1,000" not in line]
    assert resumed[0] == "locate.py: 2 rows are of an earlier run" and "per 1,000" in resumed[-1]
    assert resumed[1:-1] == figures
    again = run("locate.py", *flags, "--resume").err.splitlines()
    assert again == ["locate.py: 6 rows are of an earlier run", *figures]  # nobody was asked


def test_a_refused_row_counts_as_missed(faulty, run):
    done = run("locate.py", "--judge", "served", "--judge-url", faulty("--rate", 1, "--faults", "refusal"), "--score",
               "-", rows=BENCH, code=None)
    assert "accuracy on wrong   0.0 %" in done.err and "unsure            refused by the model 6" in done.err


def test_a_table_of_subsets(run):
    """A line each, by the ids of ProcessBench; the mean of their F1 is what it reports."""
    rows = [{**row, "id": f"{subset}-{row['id']}"} for subset in ("gsm8k", "omnimath") for row in BENCH[:4]]
    rows = [{**row, "label": 0} if row["id"] == "omnimath-a" else row for row in rows]
    rows += [{**BENCH[4], "dataset": "ours"}]
    said = run("locate.py", "--judge", "equations", "--score", "-", rows=rows).err.splitlines()
    table = {line.split()[0]: line for line in said[1:5]}
    assert [*table] == ["subset", "gsm8k", "omnimath", "ours"] and said[5] == ""
    assert re.search(r"gsm8k +66.7 % .* 100.0 % .* 80.0 % .* 100.0 % .* 4$", table["gsm8k"])
    assert re.search(r"omnimath +33.3 % .* 100.0 % .* 50.0 % .* 50.0 % .* 4$", table["omnimath"])
    done = run("locate.py", "--judge", "equations", "--score", "-", rows=rows[:8])
    assert "\nmean F1           65.0 %\n" in done.err


LABELS = [  # a row with labels that cannot be, what is said of it
    ({"id": "x"}, "row x has neither ProcessBench's"), ({**BENCH[0], "label": 2}, "row a: its label names no step of"),
    ({**BENCH[0], "label": -2}, "its label names no step"), ({**BENCH[0], "steps": []}, "names no step of the 0"),
    ({**BENCH[5], "bad_step": "2"}, "row f: its label names"), ({**BENCH[5], "bad_step": -9}, "of the 2 that it has"),
    ({**BENCH[0], "problem": None}, "row a has neither"), ({**BENCH[0], "label": "1"}, "row a has neither"),
    ({**BENCH[5], "bad_step": 1.5}, "row f: its label"),
]


@pytest.mark.parametrize("row, words", LABELS, ids=str)
def test_labels_that_cannot_be(row, words, run):
    done = run("locate.py", "--judge", "equations", "--score", "-", rows=[row], code=1)
    assert words in done.err


def test_an_array_as_it_is_published_names_its_conversion(run, tmp_path):
    (tmp_path / "gsm8k.json").write_text(json.dumps(BENCH[:4], indent=1))
    said = run("locate.py", "--judge", "equations", "--score", "gsm8k.json", code=1).err
    assert "gsm8k.json: a JSON array, not JSON lines; convert it: " in said
    command = said.split("convert it: ")[1].splitlines()[0]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert len(run("locate.py", "--judge", "equations", "--score", "converted.jsonl").rows) == 4


def test_the_cost_counts_replies_and_tokens(run, taught_model):
    """Six rollouts of one prefix: six replies, and the prefix's tokens once."""
    row = {**PROBLEMS[0], "answer": "-1", "completion": PROBLEMS[0]["solution"], "bad_step": 1}
    flags = ["--judge", "rollouts", "--model", taught_model, "--rollouts", 6, "--max-tokens", 1]
    done = run("locate.py", *flags, "--score", "-", rows=[row])
    from stepdpo.prompts import encode, load_tokenizer, render_prompt
    tokenizer = load_tokenizer(taught_model)
    prefix = encode(tokenizer, render_prompt(tokenizer, row["prompt"], "chat", "Let's think step by step."))
    assert f"per 1,000 rows    6000 replies, {1000 * (len(prefix) + 6)} tokens" in done.err
