"""evaluate, collect, locate, correct as whole programs. Run alone: pytest tests/test_stages.py"""
import ast
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROBLEMS, ROOT, SHARED, needs_shared

import evaluate
from steps import PREFIX

STAGES = ["evaluate.py", "collect.py", "locate.py", "correct.py"]
ASK = ["--temperature", "1", "--max-tokens", "60"]


def tally(done, name):
    """(in, kept, dropped) of the closing line that stage `name` wrote to stderr."""
    line = [line for line in done.err.splitlines() if line.startswith(f"{name}: ") and " in, " in line][-1]
    return tuple(int(word) for word in line.split(": ")[1].split(" (")[0].replace(",", "").split() if word.isdigit())


# ------------------------------------------------------------------------------------------- the command line

@pytest.mark.parametrize("script", [*STAGES, "train.py"])
def test_help_is_whole_and_loads_nothing_heavy(script):
    look = ("import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", look, script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--out" in done.stdout and done.stdout.splitlines()[-1] == "[]"
    for call in ast.walk(ast.parse((ROOT / script).read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            assert any(keyword.arg == "help" for keyword in call.keywords), ast.unparse(call)


BAD = [  # script, flags, rows, exit code, what stderr says
    ("evaluate.py", [], [PROBLEMS[0]], 2, "no --model"),
    ("evaluate.py", ["--model", "/nowhere"], [PROBLEMS[0]], 2, "/nowhere: no tokenizer there"),
    ("evaluate.py", ["--samples", 3], [PROBLEMS[0]], 2, "give --temperature"),
    ("evaluate.py", ["no.jsonl"], [], 1, "no.jsonl: No such file"),
    ("evaluate.py", ["--resume"], [], 2, "--resume needs --out FILE"),
    ("collect.py", ["--top-p", 0], [PROBLEMS[0]], 2, "--top-p 0.0: must be from"),
    ("locate.py", ["--judge", "equations"], [PROBLEMS[0]], 1, "stdin:1: no 'completion'; run collect.py first"),
    ("correct.py", [], [PROBLEMS[0]], 1, "no 'initial_reason_steps'; run locate.py first"),
    ("collect.py", [], [], 1, "stdin: no rows"),
]


@pytest.mark.parametrize("script, flags, rows, code, said", BAD)
def test_bad_input_is_one_line(run, script, flags, rows, code, said):
    done = run(script, *flags, rows=rows, code=code)
    assert said in done.err and len(done.err.splitlines()) <= 2  # the error and perhaps a tally
    assert not done.rows


def test_a_model_folder_that_is_not_one(run, tiny_model, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((Path(tiny_model) / name).read_bytes())
    done = run("evaluate.py", "--model", tmp_path, rows=[PROBLEMS[0]], code=2)
    assert f"{tmp_path}: no model could be loaded" in done.err


def test_no_chat_template(run, tmp_path):
    from conftest import make_model
    make_model(tmp_path, template=False)
    done = run("collect.py", "--model", tmp_path, rows=[PROBLEMS[0]], code=2)
    assert "has no chat template; choose --prompt" in done.err


def test_rows_before_a_bad_line_are_not_lost(run):
    good = json.dumps({"prompt": "p", "answer": "1", "completion": "The answer is: 1"}).encode()
    done = run("evaluate.py", stdin=good + b"\n" + good + b"\n{oops\n" + good, code=1)
    assert len(done.rows) == 2 and "stdin:3: not JSON" in done.err and tally(done, "evaluate.py") == (2, 2, 0)


# ------------------------------------------------------------------------------------------------- evaluate

def answers(*verdicts, **more):
    return [{"id": f"p{i}#{j}", "prompt": f"p{i}", "answer": "1", "completion": f"The answer is: {1 if right else 2 + j}",
             **more} for i, row in enumerate(verdicts) for j, right in enumerate(row)]


def test_regrading_asks_nobody(run):
    rows = answers([1], [1], [0], [1], dataset="d", level=3)
    done = run("evaluate.py", rows=rows)
    assert [row["correct"] for row in sorted(done.rows, key=lambda row: row["id"])] == [True, True, False, True]
    assert "75.0 % [30.1, 95.4]" in done.err and "level 3" in done.err and "dataset d" in done.err  # Wilson, by hand


def test_several_samples_are_clustered_by_problem(run):
    done = run("evaluate.py", rows=answers([1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]))
    half = 1.96 * math.sqrt((0 + 0.0625 + 0.0625) / 2 / 3)
    assert f" 50.0 % [{100 * (0.5 - half):.1f}, {100 * (0.5 + half):.1f}]" in done.err
    assert "pass@4" in done.err and "100.0 % [43.8, 100.0]" in done.err  # each is solved once
    assert "majority@4" in done.err and " 66.7 % [20.8, 93.9]" in done.err


def test_majority_joins_equal_answers():
    assert evaluate.majority_right([("1/2", True), ("3", False), ("0.5", True), ("3", False), ("\\frac12", True)])
    assert not evaluate.majority_right([(None, False), (None, False), ("2", False), ("1", True)])


def test_compare_is_paired(run, tmp_path):
    before = answers(*[[i % 2] for i in range(40)])
    after = answers(*[[i % 2 or i < 10] for i in range(40)])
    run("evaluate.py", "--out", "before.jsonl", rows=before)
    done = run("evaluate.py", "--compare", "before.jsonl", rows=after)
    assert "difference +12.5 points [+2.5, +22.5] over 40 common problems" in done.err
    done = run("evaluate.py", "--compare", "before.jsonl", rows=after[:30])
    assert "over 30 common problems (10 in one file only)" in done.err


@needs_shared
def test_real_answers_agree_with_the_published_verdict(run):
    done = run("evaluate.py", SHARED / "math_answers.jsonl")
    assert sum(row["correct"] == row["published_verdict"] for row in done.rows) / len(done.rows) > 0.97


def test_evaluate_asks_and_is_greedy(run, taught_model):
    rows = [{k: v for k, v in row.items() if k != "solution"} for row in PROBLEMS[:12]]
    one = run("evaluate.py", "--model", taught_model, "--max-tokens", 60, rows=rows)
    two = run("evaluate.py", "--model", taught_model, "--max-tokens", 60, "--batch-size", 5, rows=rows[::-1])
    assert {row["id"]: row["completion"] for row in one.rows} == {row["id"]: row["completion"] for row in two.rows}
    assert sum(row["correct"] for row in one.rows) >= 6, "the model was taught these"
    assert all(row["id"].endswith("#0") and row["sampling"]["temperature"] == 0 for row in one.rows)


# ----------------------------------------------------------------------------------------- the pipe, for real

def laws_of_pairs(pairs):
    for row in pairs:
        whole = row["initial_reason_steps"] + row["full_rejected"]
        assert whole == row["completion"] and whole.startswith(PREFIX)
        assert row["full_rejected"].startswith(row["rejected"]) and row["full_chosen"].startswith(row["chosen"])
        assert row["chosen"].strip() != row["rejected"].strip() and row["chosen"].strip() and row["rejected"].strip()
        assert row["chosen"] == row["chosen"].rstrip() and row["rejected"] == row["rejected"].rstrip()
        assert all(isinstance(row[name], str) for name in ("prompt", "answer", "chosen", "rejected"))


def test_local_pipe_equals_files(run, taught_model, tmp_path):
    model = ["--model", taught_model, *ASK]
    for row in run("collect.py", *model, "--samples", 6, "--keep", "right", rows=PROBLEMS).rows:
        assert row["correct"] and row["completion"].startswith(PREFIX)
    wrong = run("collect.py", *model, "--samples", 6, "--dropped", "right.jsonl", rows=PROBLEMS)
    kept, dropped = tally(wrong, "collect.py")[1:]
    assert kept + dropped == 6 * len(PROBLEMS) == kept + len((tmp_path / "right.jsonl").read_text().splitlines())
    assert kept == len(wrong.rows) > 0
    located = run("locate.py", "--judge", "equations", "--dropped", "unsure.jsonl", rows=wrong.rows)
    assert tally(located, "locate.py")[0] == kept
    pairs = run("correct.py", *model, "--samples", 8, rows=wrong.rows and located.rows) if located.rows else located
    laws_of_pairs(pairs.rows)
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    pipe = (f"$P {ROOT}/collect.py $M --samples 6 problems.jsonl | $P {ROOT}/locate.py --judge equations"
            f" | $P {ROOT}/correct.py $M --samples 8 > pairs.jsonl")
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "P": sys.executable, "M": " ".join(model)})
    piped = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    by_id = lambda rows: sorted(rows, key=lambda row: row["id"])  # noqa: E731
    assert by_id(piped) == by_id(pairs.rows)


@needs_shared
def test_nonsense_from_a_real_server_is_dropped_by_name(run, server, taught_model):
    """20 problems of GSM8K, a model that has never seen words: nothing crashes, everything is accounted for."""
    rows = [json.loads(line) for line in open(SHARED / "gsm8k_test.jsonl")][:20]
    ask = ["--model", taught_model, "--base-url", server, "--concurrency", 4, "--max-tokens", 24]
    wrong = run("collect.py", *ask, "--samples", 1, "--prefix", "Step 1:", rows=rows)
    assert tally(wrong, "collect.py")[0] == 20 and " dropped" in wrong.err
    answers = [{**row, "id": f"{row['id']}#0", "completion": "Step 1: 5\nStep 2: 6\nThe answer is: 0"} for row in rows]
    judged = run("locate.py", "--judge", taught_model, "--judge-url", server, "--max-tokens", 16, rows=answers)
    counts = tally(judged, "locate.py")
    assert counts[0] == 20 == counts[1] + counts[2] and ("unparsed" in judged.err or counts[1])
    located = run("locate.py", "--judge", "equations", rows=[{**row, "completion": "Step 1: 1 + 1 = 3"} for row in answers])
    done = run("correct.py", *ask, "--samples", 2, rows=located.rows)
    assert tally(done, "correct.py")[0] == 20


def test_server_gives_what_was_taught(run, server, taught_model):
    ask = ["--model", taught_model, "--base-url", server, "--max-tokens", 60, "--concurrency", 4]
    served = run("evaluate.py", *ask, rows=PROBLEMS[:8]).rows
    local = run("evaluate.py", "--model", taught_model, "--max-tokens", 60, rows=PROBLEMS[:8]).rows
    completions = lambda rows: {row["id"]: row["completion"] for row in rows}  # noqa: E731
    assert completions(served) == completions(local)


# ------------------------------------------------------------------------------------ faults and interruptions

def test_servers_that_end_the_run(run, faulty, tiny_model):
    ask = ["--model", "served", "--tokenizer", tiny_model, "--base-url"]
    for url, said in ((faulty("--rate", 1, "--faults", "401"), "401, the API key is refused; set OPENAI_API_KEY"),
                      (faulty("--rate", 1, "--faults", "404"), "404, no model 'served' there"),
                      ("http://127.0.0.1:9/v1", "no answer")):
        done = run("collect.py", *ask, url, rows=PROBLEMS, code=1, env={"OPENAI_API_KEY": "sk-secret"})
        assert said in done.err and "sk-secret" not in done.err


def test_faults_cost_no_row(run, faulty, tiny_model):
    url = faulty("--rate", 0.3, "--faults", "500,503,429-later,malformed,html,error200,nochoices,null,array,reset,truncated,drip")
    done = run("collect.py", "--model", "served", "--tokenizer", tiny_model, "--base-url", url, "--keep", "all", rows=PROBLEMS)
    assert len(done.rows) == 2 * len(PROBLEMS) and tally(done, "collect.py") == (72, 72, 0)


def test_refused_requests_are_drops_and_lost_ones_are_left_for_resume(run, faulty, tiny_model, tmp_path):
    ask = ["--model", "served", "--tokenizer", tiny_model, "--base-url"]
    done = run("collect.py", *ask, faulty("--rate", 1, "--faults", "422"), "--dropped", "d.jsonl", rows=PROBLEMS[:3])
    assert "6 in, 0 kept, 6 dropped (refused by the server 6)" in done.err
    assert json.loads((tmp_path / "d.jsonl").read_text().splitlines()[0])["detail"].startswith("Unprocessable")


def test_hanging_requests_are_left_for_resume(run, faulty, tiny_model, tmp_path):
    ask = ["--model", "served", "--tokenizer", tiny_model, "--timeout", 0.5, "--keep", "all", "--samples", 1, "--out", "o.jsonl", "--base-url"]
    done = run("collect.py", *ask, faulty("--rate", 0.5, "--faults", "hang"), rows=PROBLEMS, code=3)
    kept = tally(done, "collect.py")[0]
    assert 0 < kept < 36 and f"{36 - kept} given up; --resume asks them again" in done.err
    assert "2 tries failed, the last with: no reply in 0.5 seconds (--timeout)" in done.err
    done = run("collect.py", *ask, faulty(), "--resume", rows=PROBLEMS)
    assert tally(done, "collect.py") == (36, 36, 0)


def collect_with(tmp_path, url, tokenizer, *flags, name="rows.jsonl"):
    return [sys.executable, ROOT / "collect.py", "--model", "served", "--tokenizer", tokenizer, "--base-url", url, "--keep", "all",
            "--samples", "5", "--concurrency", "4", "--out", tmp_path / name, tmp_path / "problems.jsonl", *flags]


def test_interrupt_finishes_what_is_in_flight(faulty, tiny_model, tmp_path):
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    process = subprocess.Popen(collect_with(tmp_path, faulty("--delay", 0.2), tiny_model), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "rows.jsonl").exists() or not (tmp_path / "rows.jsonl").stat().st_size:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "finishing what is in flight" in err and "Traceback" not in err
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert 4 < len(rows) < 180 and f"collect.py: {len(rows)} in, {len(rows)} kept" in err


def test_a_closed_pipe_is_quiet(tmp_path):
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers(*[[1]] * 20_000)))
    command = f"{sys.executable} {ROOT}/evaluate.py answers.jsonl | head -2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "141" and done.stderr == ""


def test_resume_feeds_the_pipe_again(tmp_path):
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers(*[[0]] * 50)))
    for flags in ([], ["--resume"]):
        done = subprocess.run([sys.executable, ROOT / "collect.py", "answers.jsonl", "--out", "c.jsonl", *flags], cwd=tmp_path,
                              capture_output=True, text=True)
        assert len(done.stdout.splitlines()) == 50 and "50 in, 50 kept" in done.stderr


def test_an_id_that_stands_twice_is_counted(run):
    done = run("collect.py", rows=answers([0], [0]) + answers([0]))
    assert "3 in, 2 kept, 1 dropped (duplicate id 1)" in done.err


def test_a_full_disk_costs_nothing_but_time(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a small tmpfs here")
    try:
        rows = answers(*[[0]] * 2000)
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, ROOT / "collect.py", tmp_path / "answers.jsonl", "--out", disk / "rows.jsonl"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 1 and "No space left on device; what is there is kept" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
        assert done.returncode == 0 and "2000 in, 2000 kept" in done.stderr, done.stderr
        ids = [json.loads(line)["id"] for line in open(disk / "rows.jsonl")]
        assert sorted(ids) == sorted(row["id"] for row in rows)
    finally:
        subprocess.run(["umount", disk])


def test_a_pipe_whose_middle_is_killed_goes_on(faulty, tiny_model, tmp_path):
    """Each stage keeps its own file; after a kill of the middle one all three are resumed and nothing is missing."""
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps({**row, "answer": "1"}) + "\n" for row in PROBLEMS))
    url = faulty("--delay", 0.05)
    ask = ["--model", "served", "--tokenizer", tiny_model, "--base-url", url, "--concurrency", "4"]

    def start(*flags):
        stages, pipe = [], None
        for script, own in (("collect.py", [*ask, "problems.jsonl", "--out", "c"]),
                            ("locate.py", ["--judge", "served", "--judge-url", url, "--concurrency", "4", "--out", "l"]),
                            ("correct.py", [*ask, "--samples", "4", "--out", "k"])):
            stages.append(subprocess.Popen([sys.executable, ROOT / script, *map(str, own), *flags], cwd=tmp_path, stdin=pipe,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            if pipe:
                pipe.close()
            pipe = stages[-1].stdout
        return stages

    stages = start()
    while not (tmp_path / "l").exists() or len((tmp_path / "l").read_text().splitlines()) < 3:
        time.sleep(0.05)
    stages[1].kill()
    for stage in stages[::-1]:
        stage.wait(timeout=100)
        assert "Traceback" not in stage.stderr.read()
    assert stages[0].returncode in (0, 141)
    stages = start("--resume")
    said = [stage.communicate(timeout=200)[1] if stage is stages[-1] else (stage.wait(timeout=200), stage.stderr.read())[1]
            for stage in stages[::-1]][::-1]
    assert [stage.returncode for stage in stages] == [0, 0, 0], said
    count = [tuple(int(word) for word in text.split(" in, ")[0].split()[-1:]) for text in said]
    kept = [len((tmp_path / name).read_text().splitlines()) for name in "cl"]
    assert count[0] == (72,) and count[1] == (kept[0],) and count[2] == (kept[1],)


def test_api_keys_reach_no_row(run, faulty, tiny_model, tmp_path):
    done = run("collect.py", "--model", "served", "--tokenizer", tiny_model, "--base-url", faulty(), "--keep", "all",
               "--out", "o.jsonl", rows=PROBLEMS[:3], env={"OPENAI_API_KEY": "sk-very-secret"})
    written = [path.read_text() for path in tmp_path.glob("o.jsonl*")]
    assert len(written) == 3 and "sk-very-secret" not in done.err + "".join(written)
