"""What --resume takes for done, what it says of it, and rows that no answer came for. pytest tests/test_resume.py"""
import argparse
import datetime
import json
import os
import shutil
import subprocess

import pytest
from conftest import PROBLEMS, served, start, tally, to_lines

from stepdpo import prompts
from stepdpo.content import path_content, row_content
from stepdpo.stage import open_output


def answers(n, gold="1", **more):
    return [{"prompt": f"p{i}", "answer": gold, "completion": "The answer is: 1", **more} for i in range(n)]


def with_ids(rows, name):
    return [{"id": f"{name}{i}", **row} for i, row in enumerate(rows)]


CHANGES = {  # of three rows that were done -> what the input then holds
    "another file without ids": answers(3, prompt="another"), "a row is missing": answers(3)[1:],
    "a gold answer is corrected": with_ids(answers(2), "a") + [{"id": "a2", **answers(3, "2")[2]}],
    "a field more": with_ids(answers(3, note="x"), "a"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("script", ["evaluate.py", "collect.py"])
def test_a_row_that_changed_under_its_id_is_not_taken_as_done(run, tmp_path, script, change):
    rows = CHANGES[change]
    before = with_ids(answers(3), "a") if "id" in rows[0] else answers(3)
    run(script, "--out", "o.jsonl", rows=before)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run(script, "--out", "o.jsonl", "--resume", rows=rows, code=2)
    assert "o.jsonl: its row '" in done.err and "was made from another row of that id than the input now" in done.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_what_is_of_an_earlier_run_is_said(run):
    rows = with_ids(answers(3), "a")
    assert "earlier" not in run("evaluate.py", "--out", "o.jsonl", rows=rows).err
    done = run("evaluate.py", "--out", "o.jsonl", "--resume", rows=rows)
    assert "evaluate.py: 3 rows are of an earlier run" in done.err and "not in this input" not in done.err
    reordered = [{"answer": row["answer"], **row} for row in [*rows, *with_ids(answers(2), "b")][::-1]]
    done = run("evaluate.py", "--out", "o.jsonl", "--resume", rows=reordered)
    assert tally(done, "evaluate.py") == (5, 5, 0) and "3 rows are of an earlier run" in done.err
    done = run("evaluate.py", "--out", "o.jsonl", "--resume", rows=with_ids(answers(4), "b"))
    assert tally(done, "evaluate.py") == (7, 7, 0)
    assert "evaluate.py: 3 rows of the earlier run are not in this input; they stay" in done.err


def test_rows_that_a_stage_dropped_can_be_taken_up_again(run, tmp_path):
    run("collect.py", "--out", "o.jsonl", rows=answers(3))
    dropped = [json.loads(line) for line in open(tmp_path / "o.jsonl.dropped.jsonl")]
    assert [row["drop"] for row in dropped] == ["right"] * 3
    done = run("evaluate.py", rows=dropped)
    assert tally(done, "evaluate.py") == (3, 3, 0) and "drop" not in done.rows[0]


def test_a_row_is_known_by_all_that_it_says():
    row = {"id": "a", "prompt": "p", "answer": [5]}
    assert row_content(row) == row_content(dict(reversed(row.items())))
    others = [{**row, "answer": 5}, {**row, "answer": ["5"]}, {**row, "x": None}, {**row, "prompt": "p "}, {}]
    assert len({row_content(other) for other in [row, *others]}) == 6
    row_content({"lone": "\ud800", "deep": {"a": [1, {"b": None}]}})


# ------------------------------------------------------------------------------------------------ the model

def test_a_model_is_known_by_its_content(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = path_content(folder)
    os.utime(folder / "model.safetensors", (1, 1))
    (folder / "metrics.jsonl").write_text("x")
    (folder / "checkpoint-3").mkdir()
    assert path_content(folder) == path_content(shutil.copytree(folder, tmp_path / "copy")) == content
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        changed = shutil.copytree(folder, tmp_path / f"with other {name}")
        data = bytearray((changed / name).read_bytes())
        data[len(data) // 2] ^= 1
        (changed / name).write_bytes(data)
        assert path_content(changed) != content, name
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert path_content(folder) != content


def test_excerpts_of_a_large_file_come_from_all_over_it(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(8 << 20))
    content = path_content(tmp_path)
    for place in range(17):  # where another training changes everything
        data = bytearray(8 << 20)
        data[place << 19:(place + 1) << 19] = b"x" * len(data[place << 19:(place + 1) << 19])
        file.write_bytes(data)
        assert (path_content(tmp_path) == content) == (place == 16)
    file.write_bytes(bytes((8 << 20) + 1))
    assert path_content(tmp_path) != content


@pytest.mark.parametrize("flag", ["--model", "--tokenizer", "--judge"])
def test_another_model_under_the_same_path_is_refused(run, tmp_path, flag):
    """None of these asks a model: what counts is what the flag names. A judge may be a file of code, too."""
    script, own = ("locate.py", []) if flag == "--judge" else ("evaluate.py", [])
    name, rows = "model", answers(3, correct=True)
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / name / "tokenizer.json").write_text('{"version": "1.0"}')
    if flag == "--judge":
        name, own = "equations", []  # a name that is a file here, as path/to/judge.py would be
        (tmp_path / name).write_text("1")
    run(script, flag, name, "--out", "o", *own, rows=rows)
    run(script, flag, name, "--out", "o", "--resume", *own, rows=rows)
    changed = tmp_path / name / "config.json" if flag != "--judge" else tmp_path / name
    before = changed.read_text()
    changed.write_text("2")
    done = run(script, flag, name, "--out", "o", "--resume", *own, rows=rows, code=2)
    assert f"o: made with other files in {flag} {name}; put them back or name another --out" in done.err
    changed.write_text(before)
    run(script, flag, name, "--out", "o", "--resume", *own, rows=rows)


def test_a_served_model_is_known_by_its_name(run, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "config.json").write_text("1")
    flags = ["--model", "served", "--base-url", "http://127.0.0.1:9/v1", "--out", "o"]
    run("evaluate.py", *flags, rows=answers(3))
    (tmp_path / "served" / "config.json").write_text("2")
    run("evaluate.py", *flags, "--resume", rows=answers(3))


def test_a_run_keeps_its_date(tmp_path, monkeypatch):
    """A template may print the date; the next day --resume must ask in the same words."""
    monkeypatch.setattr(prompts, "date_of_run", None)
    flags = {"out": str(tmp_path / "o"), "dropped": None, "seed": 1}

    def dates(resume, head=None):
        output = open_output("stage", argparse.Namespace(**flags, resume=resume))
        output.write("a" if resume else "b", [{"id": "a"}])
        output.close_files()
        return output.date, str(prompts.date_of_run)

    assert dates(False) == (str(datetime.date.today()),) * 2
    journal = tmp_path / "o.done"
    journal.write_text(journal.read_text().replace(str(datetime.date.today()), "2024-02-29", 1))
    assert dates(True) == ("2024-02-29",) * 2


# --------------------------------------------------------------------------------------------- no answer came

def test_rows_without_an_answer_stay_in_the_denominator(run, faulty, tiny_model, tmp_path):
    url = faulty("--rate", 0.4, "--faults", "filter")
    rows = [{**row, "answer": "1"} for row in PROBLEMS[:12]]
    flags = served(tiny_model, url, "--samples", 2, "--temperature", 1, "--out", "o")
    done = run("evaluate.py", *flags, rows=rows)
    came, kept, dropped = tally(done, "evaluate.py")
    assert came == 24 and 0 < dropped < 24
    right = sum(row["correct"] for row in map(json.loads, open(tmp_path / "o")))
    assert f"{kept} answered of 24; the others count as wrong" in done.err
    assert f"{'all':24} {12:8}  {100 * right / 24:5.1f} %" in done.err, "of all that was asked"
    again = run("evaluate.py", *flags, "--resume", rows=rows)
    report = [line for line in done.err.splitlines() if "%" in line or "answered of" in line]
    assert report == [line for line in again.err.splitlines() if "%" in line or "answered of" in line]


def test_rows_that_were_given_up_stay_in_the_denominator(run, faulty, tiny_model):
    url = faulty("--rate", 0.8, "--faults", "hang")
    done = run("evaluate.py", *served(tiny_model, url, "--timeout", 0.7), "--out", "o", rows=PROBLEMS[:24], code=3)
    kept = tally(done, "evaluate.py")[1]
    assert f"{kept} answered of 24; the others count as wrong" in done.err


@pytest.mark.parametrize("script", ["evaluate.py", "collect.py", "locate.py", "correct.py"])
def test_a_stage_none_of_whose_rows_was_answered_fails(run, faulty, tiny_model, script):
    url = faulty("--rate", 1, "--faults", "filter")
    flags = served(tiny_model, url)
    rows = [{**row, "completion": None} for row in PROBLEMS[:2]]
    if script == "locate.py":
        flags, rows = ["--judge", "served", "--judge-url", url], [{**row, "completion": "Step 1: 3"} for row in rows]
    if script == "correct.py":
        rows = [{**row, "initial_reason_steps": "Step 1:", "rejected": " 3", "full_rejected": " 3"} for row in rows]
    for flag in ([], ["--resume"]):
        done = run(script, *flags, "--out", "o", *flag, rows=rows, code=1)
        assert f"{script}: no row was answered" in done.err and "name another --out" in done.err
        assert f"{script}: {len(rows) * (2 if script == 'collect.py' else 1)} in, 0 kept" in done.err


def test_what_ends_a_run_names_resume_where_rows_were_saved(faulty, tiny_model, tmp_path):
    """A key that is refused, or a server that dies: said with --resume if there is something to resume."""
    (tmp_path / "problems.jsonl").write_text(to_lines(PROBLEMS))

    def collect(url, *flags):
        child = start("collect.py", *served(tiny_model, url, "--keep", "all", "--concurrency", 1), "problems.jsonl",
                      "--out", "o", *flags, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return child.communicate(timeout=300)[1].splitlines()[-1], child.returncode

    said, code = collect(faulty("--rate", 1, "--faults", "401"))
    assert code == 1 and "--resume" not in said and list(tmp_path.iterdir()) == [tmp_path / "problems.jsonl"]
    said, code = collect(faulty("--rate", 0.2, "--faults", "401"))
    assert code == 1 and said.endswith("; what is done is saved, go on with --resume") and "API key" in said
    assert collect(faulty(), "--resume")[1] == 0


def test_the_fault_of_a_row_is_not_mended_by_resuming(run):
    """A bad line is (once it is mended); an input that does not belong to the output is not."""
    rows = to_lines(with_ids(answers(2), "a")).encode()
    done = run("evaluate.py", "--out", "o", stdin=rows + b"{oops\n", code=1)
    assert done.err.splitlines()[-1].endswith("this line; what is done is saved, go on with --resume")
    done = run("evaluate.py", "--out", "o", "--resume", rows=with_ids(answers(2, "2"), "a"), code=2)
    assert done.err.splitlines()[-1].endswith("go on with the old input, or name another --out")
