"""evaluate, collect, locate, correct as whole programs. Run alone: pytest tests/test_stages.py"""
import json
import math
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from conftest import PROBLEMS, ROOT, SHARED, needs_shared, served, start, tally, to_lines, wait_for_rows

import evaluate
from stepdpo.task import PREFIX

STAGES = ["evaluate.py", "collect.py", "locate.py", "correct.py"]
ASK = ["--temperature", "1", "--max-tokens", "60"]


# ------------------------------------------------------------------------------------------- the command line

BAD = [  # script, flags, rows, exit code, what stderr says
    ("evaluate.py", [], [PROBLEMS[0]], 2, "no --model"),
    ("evaluate.py", ["--model", "/nowhere"], [PROBLEMS[0]], 2, "--model /nowhere: no such folder"),
    ("evaluate.py", ["--samples", 3], [PROBLEMS[0]], 2, "give --temperature"),
    ("evaluate.py", ["no.jsonl"], [], 1, "no.jsonl: No such file"),
    ("evaluate.py", ["--resume"], [], 2, "--resume needs --out FILE"),
    ("evaluate.py", ["."], [], 1, ".: Is a directory; name a JSONL file"),
    ("evaluate.py", ["--out", "."], [], 2, ".: not a file that can be read back; name a file, or - for stdout"),
    ("evaluate.py", ["--out", "no/folder/rows"], [], 2, "no/folder: no such folder; make it"),
    ("evaluate.py", [], [{**PROBLEMS[0], "completion": 5}], 1, "stdin:1: 'completion' is 5, not a string"),
    ("collect.py", [], [{**PROBLEMS[0], "prompt": ["2 + 2"]}], 1, "'prompt' is [\"2 + 2\"], not a string"),
    ("locate.py", ["--judge", "equations"], [{**PROBLEMS[0], "completion": None}], 1, "'completion' is null"),
    ("collect.py", ["--top-p", 0], [PROBLEMS[0]], 2, "--top-p 0.0: must be from"),
    ("collect.py", ["--max-tokens", 1 << 40], [PROBLEMS[0]], 2, "--max-tokens 1099511627776: must be from 1 to"),
    ("locate.py", ["--judge", "equations"], [PROBLEMS[0]], 1, "stdin:1: no 'completion'; run collect.py first"),
    ("correct.py", [], [PROBLEMS[0]], 1, "no 'initial_reason_steps'; run locate.py first"),
    ("collect.py", ["/dev/null"], [], 1, "/dev/null: no rows"),
    ("collect.py", [], [{**PROBLEMS[0], "answer": " "}], 1, "stdin:1: 'answer' is \" \", which is empty"),
]


@pytest.mark.parametrize("script, flags, rows, code, said", BAD)
def test_bad_input_is_one_line(run, script, flags, rows, code, said):
    done = run(script, *flags, rows=rows, code=code)
    assert said in done.err and len(done.err.splitlines()) <= 2  # the error and perhaps a tally
    assert not done.rows


def test_a_pipe_whose_upstream_kept_nothing_is_no_mistake(run):
    """Zero rows through a pipe are zero rows; a file without rows is one that was meant to have some."""
    for script, flags in (("evaluate.py", []), ("collect.py", []), ("locate.py", ["--judge", "equations"]),
                          ("correct.py", ["--out", "pairs.jsonl"])):
        done = run(script, *flags)
        assert done.err == f"{script}: 0 in, 0 kept, 0 dropped\n" and done.stdout == b""


def test_rows_before_a_bad_line_are_not_lost(run):
    good = json.dumps({"prompt": "p", "answer": "1", "completion": "The answer is: 1"}).encode()
    done = run("evaluate.py", stdin=good + b"\n" + good + b"\n{oops\n" + good, code=1)
    assert len(done.rows) == 2 and "stdin:3: not JSON" in done.err and tally(done, "evaluate.py") == (2, 2, 0)


# ------------------------------------------------------------------------------------------------- evaluate

def answers(*verdicts, **more):
    return [{"id": f"p{i}#{j}", "prompt": f"p{i}", "answer": "1",
             "completion": f"The answer is: {1 if right else 2 + j}", **more}
            for i, row in enumerate(verdicts) for j, right in enumerate(row)]


def test_regrading_asks_nobody(run):
    rows = answers([1], [1], [0], [1], dataset="d", level=3)
    done = run("evaluate.py", rows=rows)
    assert [row["correct"] for row in sorted(done.rows, key=lambda row: row["id"])] == [True, True, False, True]
    assert "75.0 % [30.1, 95.4]" in done.err and "level 3" in done.err and "dataset d" in done.err  # Wilson, by hand


def test_several_samples_are_clustered_by_problem(run):
    done = run("evaluate.py", rows=answers([1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]))
    half = 1.96 * math.sqrt((0 + 0.0625 + 0.0625 + 4 * 0.25) / 7 / 7)  # four problems are added
    assert f" 50.0 % [{100 * (0.5 - half):.1f}, {100 * (0.5 + half):.1f}]" in done.err
    assert "pass@4" in done.err and "100.0 % [43.8, 100.0]" in done.err  # each is solved once
    assert "majority@4" in done.err and " 66.7 % [20.8, 93.9]" in done.err


def test_majority_joins_equal_answers():
    def majority(*answers):
        return evaluate.majority_right([{"pred": pred, "correct": correct} for pred, correct in answers])

    assert majority(("1/2", True), ("3", False), ("0.5", True), ("3", False), ("\\frac12", True))
    assert not majority((None, False), (None, False), ("2", False), ("1", True)), "the earlier one wins a tie"
    assert majority((None, False), (None, False), ("1", True)), "no answer has no vote"
    assert not majority((None, False))


def test_compare_is_paired(run, tmp_path):
    before = answers(*[[i % 2] for i in range(40)])
    after = answers(*[[i % 2 or i < 10] for i in range(40)])
    run("evaluate.py", "--out", "before.jsonl", rows=before)
    done = run("evaluate.py", "--compare", "before.jsonl", rows=after)
    assert "difference +12.5 points [+0.1, +23.7] over 40 common problems" in done.err
    done = run("evaluate.py", "--compare", "before.jsonl", rows=after[:30])
    assert "over 30 common problems (10 in one file only)" in done.err


@needs_shared
def test_real_answers_agree_with_the_published_verdict(run):
    done = run("evaluate.py", SHARED / "math_answers.jsonl")
    assert sum(row["correct"] == row["published_verdict"] for row in done.rows) / len(done.rows) > 0.97


def test_ask_prints_the_steps_of_one_answer(taught_model, faulty, tmp_path):
    """Of a local model, with a prefix; and of a server."""
    def ask(*flags):
        child = start("evaluate.py", "--ask", PROBLEMS[0]["prompt"], "--max-tokens", 60, *flags, cwd=tmp_path,
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said = [text.decode() for text in child.communicate(timeout=300)]
        assert child.returncode == 0, said
        return said

    prefix = "Let's think step by step.\nStep 1: First 2 + 3 = 5.\nStep 2:"
    out, err = ask("--model", taught_model, "--prefix", prefix)
    head, first, second, end = out.split("\n\n")
    assert (head, first, end) == ("Let's think step by step.", "Step 1: First 2 + 3 = 5.", "") and err == ""
    assert second.startswith("Step 2: ") and "The answer is: " in second
    out, err = ask(*served(taught_model, faulty("--rate", 1, "--faults", "length")))
    assert out.startswith("1 + 1 = 2.\nThe answer is: ") and err == "cut by --max-tokens or the model's context\n"


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
    (tmp_path / "problems.jsonl").write_text(to_lines(PROBLEMS))
    pipe = (f"$P {ROOT}/collect.py $M --samples 6 problems.jsonl | $P {ROOT}/locate.py --judge equations"
            f" | $P {ROOT}/correct.py $M --samples 8 > pairs.jsonl")
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "P": sys.executable, "M": " ".join(model)})
    piped = [json.loads(line) for line in open(tmp_path / "pairs.jsonl")]
    by_id = lambda rows: sorted(rows, key=lambda row: row["id"])  # noqa: E731
    assert by_id(piped) == by_id(pairs.rows)


@needs_shared
def test_nonsense_from_a_real_server_is_dropped_by_name(run, server, served_model):
    """20 problems of GSM8K, a model that has never seen words: nothing crashes, everything is accounted for."""
    rows = [json.loads(line) for line in open(SHARED / "gsm8k_test.jsonl")][:20]
    ask = ["--model", served_model, "--base-url", server, "--concurrency", 4, "--max-tokens", 24]
    wrong = run("collect.py", *ask, "--samples", 1, "--prefix", "Step 1:", rows=rows)
    assert tally(wrong, "collect.py")[0] == 20 and " dropped" in wrong.err
    answers = [{**row, "id": f"{row['id']}#0", "completion": "Step 1: 5\nStep 2: 6\nThe answer is: 0"} for row in rows]
    judged = run("locate.py", "--judge", served_model, "--judge-url", server, "--judge-max-tokens", 16, rows=answers)
    counts = tally(judged, "locate.py")
    assert counts[0] == 20 == counts[1] + counts[2] and (
        "unparsed" in judged.err or "cut by --judge-max-tokens" in judged.err or counts[1])
    wrong_sums = [{**row, "completion": "Step 1: 1 + 1 = 3\nThe answer is: 0"} for row in answers]
    located = run("locate.py", "--judge", "equations", "--anywhere", rows=wrong_sums)  # 1 is in no problem
    done = run("correct.py", *ask, "--samples", 2, rows=located.rows)
    assert tally(done, "correct.py")[0] == 20




HOSTILE = ["lone \ud800 surrogate \udfff", "line\u2028break\u2029s\x85", "NUL \x00 and \x1b[2J",
           "x" * 2 * 10**5,  # seven times in a row: a line of more than 1 MB
           "Step 1: " * 10**4, "\\frac{" * 10**4, "(" * 10**4 + "1", "1 + " * 10**4 + "1 = 2", "\\boxed{" * 10**4,
           "9" * 10**5, "[" * 10**4, "9^9^9^9^9^9 = 1", "\\sqrt[" * 10**4, "{" * 10**4 + '"Step 1": 1' + "}" * 10**4,
           "\U0001f600" * 10**4, ""]


@pytest.mark.parametrize("script", STAGES)
def test_hostile_text_is_data(script, run, faulty, tiny_model):
    """In every place of a row, and in a server's replies: all is accounted for, each row is one valid line."""
    rows = [{"id": f"{i}{text[:20]}", "prompt": f"2 + 2? {text}", "answer": text or "1", "solution": text,
             "initial_reason_steps": f"Step 1: {text}\nStep 2:", "rejected": text, "full_rejected": text,
             "completion": f"{text}\nStep 1: {text}\nStep 2: 1 + 1 = 3\nThe answer is: {text}"}
            for i, text in enumerate(HOSTILE)]
    flags = {"locate.py": ["--judge", "equations"], "collect.py": ["--keep", "all"]}.get(script, [])
    if script != "correct.py":  # which has nothing to do without a model
        done = run(script, *flags, rows=rows)
        assert tally(done, script)[0] == len(rows)
    for text in ([HOSTILE[0] + HOSTILE[1] + HOSTILE[2], 1], ["x", 2 * 10**6], ["{", 10**4]):
        url = faulty("--text", json.dumps([text, ["\nFinal Decision: Step 1: incorrect", 1]]))
        asked = [{**row, "completion": None} for row in rows]
        if script == "locate.py":
            done = run(script, "--judge", "served", "--judge-url", url, rows=rows)
        else:
            done = run(script, *flags, *served(tiny_model, url), "--samples", 1, "--prompt", "raw", rows=asked)
        assert tally(done, script)[0] == len(rows)
        assert all(len(line.decode().splitlines()) == 1 for line in done.stdout.splitlines())


# ------------------------------------------------------------------------------------- pipes and interruptions

def wait_for_words(process, words):
    said = ""
    while words not in said:
        line = process.stderr.readline()
        assert line, said
        said += line if isinstance(line, str) else line.decode()


def test_interrupt_finishes_what_is_in_flight(faulty, tiny_model, tmp_path):
    """Once it finishes, twice it quits; either way --resume ends with every row."""
    (tmp_path / "problems.jsonl").write_text(to_lines(PROBLEMS))
    rows, permits = tmp_path / "rows.jsonl", tmp_path / "permits"
    permits.write_bytes(b"." * 20)
    url = faulty("--permits", permits)

    def collect(url, *flags):
        return start("collect.py", *served(tiny_model, url, "--keep", "all", "--samples", 5, "--concurrency", 4),
                     "--out", rows, "problems.jsonl", *flags, cwd=tmp_path, stdout=subprocess.DEVNULL,
                     stderr=subprocess.PIPE, text=True)

    process = collect(url)
    wait_for_rows(rows, 20)  # and four are in flight
    process.send_signal(signal.SIGINT)
    wait_for_words(process, "finishing what is in flight")
    permits.write_bytes(b"." * 1000)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "Traceback" not in err
    assert rows.read_text().count("\n") == 24 and "collect.py: 24 in, 24 kept" in err
    permits.write_bytes(b"." * 30)
    process = collect(url, "--resume")
    wait_for_rows(rows, 30)
    process.send_signal(signal.SIGINT)
    wait_for_words(process, "finishing what is in flight")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    process = collect(faulty(), "--resume")
    assert "180 in, 180 kept" in process.communicate(timeout=300)[1] and process.returncode == 0


def test_a_closed_pipe_is_quiet(faulty, tiny_model, tmp_path):
    (tmp_path / "answers.jsonl").write_text(to_lines(answers(*[[1]] * 20_000)))
    command = f"{sys.executable} {ROOT}/evaluate.py answers.jsonl | head -2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "141" and done.stderr == ""
    (tmp_path / "problems.jsonl").write_text(to_lines(PROBLEMS))  # with requests in flight, as in `| head -5`
    asking = start("collect.py", *served(tiny_model, faulty("--delay", 0.05), "--keep", "all"), "problems.jsonl",
                   cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = [asking.stdout.readline() for _ in range(5)]
    asking.stdout.close()
    assert asking.wait(300) == 141 and asking.stderr.read() == b"" and all(json.loads(line) for line in head)


def test_a_slow_reader_does_not_hold_up_the_replies(faulty, tiny_model, tmp_path):
    """While the pipe is full, the replies to requests in flight are taken: none is late and asked for again."""
    rows = [{**row, "prompt": row["prompt"] + " " * 9000} for row in PROBLEMS]  # a pipe holds 64 KiB
    (tmp_path / "problems.jsonl").write_text(to_lines(rows))
    url = faulty()
    process = start("collect.py", *served(tiny_model, url, "--keep", "all", "--concurrency", 24), "--out", "rows",
                    "problems.jsonl", cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_rows(tmp_path / "rows", 24)  # written before they are sent, and nobody reads the pipe
    out, err = process.communicate(timeout=300)
    made = json.load(urllib.request.urlopen(url))
    assert process.returncode == 0 and len(out.splitlines()) == sum(made.values()) == 72, err


def pipe_of_stages(tokenizer, url, judge_url, folder, *flags):
    """collect | locate | correct, each with a file of its own: c, l, k."""
    stages, ask = [], served(tokenizer, url, "--concurrency", 4)
    for script, own in (("collect.py", [*ask, "problems.jsonl", "--out", "c"]),
                        ("locate.py", ["--judge", "served", "--judge-url", judge_url, "--out", "l",
                                       "--concurrency", 4]),
                        ("correct.py", [*ask, "--samples", 4, "--out", "k"])):
        stdin = stages[-1].stdout if stages else subprocess.DEVNULL
        stages.append(start(script, *own, *flags, cwd=folder, stdin=stdin, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE))
        if len(stages) > 1:
            stdin.close()
    return stages


def test_a_pipe_that_is_killed_and_interrupted_goes_on(faulty, tiny_model, tmp_path):
    """The middle one is killed; resumed, all three get a Ctrl-C; resumed, nothing is missing."""
    (tmp_path / "problems.jsonl").write_text(to_lines([{**row, "answer": "1"} for row in PROBLEMS]))
    permits = tmp_path / "permits"  # so that the judge is in the middle of its work, however busy the machine is
    permits.write_bytes(b"." * 5)
    url, judge_url = faulty(), faulty("--permits", permits)

    def ends(stages):
        stages[-1].stdout.read()
        said = [stage.stderr.read().decode() for stage in stages]
        assert "Traceback" not in "".join(said), said
        return [stage.wait(300) for stage in stages], said

    stages = pipe_of_stages(tiny_model, url, judge_url, tmp_path)
    wait_for_rows(tmp_path / "l", 5)
    stages[1].kill()
    codes, said = ends(stages)
    assert codes[0] in (0, 141) and codes[1:] == [-signal.SIGKILL, 0], said  # correct's input may have been empty
    before = (tmp_path / "k.done").read_bytes().count(b"\n")
    permits.write_bytes(b"." * 15)  # four of them are for requests of the one that was killed
    stages = pipe_of_stages(tiny_model, url, judge_url, tmp_path, "--resume")
    wait_for_rows(tmp_path / "l", 10)
    wait_for_rows(tmp_path / "k.done", before + 1)
    for stage in stages:
        stage.send_signal(signal.SIGINT)
    wait_for_words(stages[1], "finishing what is in flight")
    permits.write_bytes(b"." * 1000)
    codes, said = ends(stages)
    assert codes[0] in (0, 130, 141) and codes[1] in (130, 141) and codes[2] in (0, 130), (codes, said)
    codes, said = ends(pipe_of_stages(tiny_model, url, judge_url, tmp_path, "--resume"))
    assert codes == [0, 0, 0], said
    came = [int(text.split(" in, ")[0].split()[-1]) for text in said]
    kept = [(tmp_path / name).read_text().count("\n") for name in "cl"]
    assert came == [72, *kept] and kept[1] > 10, (came, kept)


def test_resume_feeds_the_pipe_again(tmp_path):
    (tmp_path / "answers.jsonl").write_text(to_lines(answers(*[[0]] * 50)))
    for flags in ([], ["--resume"]):
        child = start("collect.py", "answers.jsonl", "--out", "c.jsonl", *flags, cwd=tmp_path, stdout=subprocess.PIPE,
                      stderr=subprocess.PIPE, text=True)
        out, err = child.communicate(timeout=300)
        assert len(out.splitlines()) == 50 and "50 in, 50 kept" in err


def test_an_id_that_stands_twice_is_counted(run):
    done = run("collect.py", rows=answers([0], [0]) + answers([0]))
    assert "3 in, 2 kept, 1 dropped (duplicate id 1)" in done.err
    for _ in range(2):  # and found again when the run is resumed
        done = run("collect.py", "--out", "c.jsonl", "--resume", rows=answers([0], [0]) + answers([0], [1]))
        assert "4 in, 2 kept, 2 dropped (duplicate id 2)" in done.err
    none = [{**row, "id": None} for row in answers([0], [0])]
    assert "2 in, 2 kept" in run("collect.py", rows=none).err, "no id is no name to share"


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of 128 KiB; its method is mount's -o."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a small tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_nothing_but_time(run, disk):
    rows = answers(*[[0]] * 2000)
    done = run("collect.py", "--out", disk / "rows.jsonl", rows=rows, code=1)
    assert "No space left on device; what is there is kept" in done.err
    assert all(json.loads(line) for line in open(disk / "rows.jsonl"))
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    done = run("collect.py", "--out", disk / "rows.jsonl", "--resume", rows=rows)
    assert "2000 in, 2000 kept" in done.err
    assert sorted(json.loads(line)["id"] for line in open(disk / "rows.jsonl")) == sorted(row["id"] for row in rows)


def test_a_read_only_output_is_refused(run, disk):
    run("collect.py", "--out", disk / "rows.jsonl", rows=answers([0]))
    before = {path: path.read_bytes() for path in disk.iterdir()}
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = run("collect.py", "--out", disk / "rows.jsonl", "--resume", rows=answers([0], [0]), code=2)
    assert "rows.jsonl.done: Read-only file system; make it writable or name another file" in done.err
    assert {path: path.read_bytes() for path in disk.iterdir()} == before


def test_rows_flow_through_in_flat_memory(tmp_path):
    """Four thousand rows of 4 KB more cost less than a quarter of their 16 MB."""
    peak = ("import runpy, sys\nsys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)")
    for script, flags in (("collect.py", []), ("locate.py", ["--judge", "equations"])):
        peaks = []
        for n in (500, 4500):
            rows = ({"id": f"{i}", "prompt": f"1 + 1? {i:4000}", "answer": "2",
                     "completion": "Step 1: 1 + 1 = 3.\nThe answer is: 3"} for i in range(n))
            (tmp_path / "rows.jsonl").write_text(to_lines(rows))
            done = subprocess.run([sys.executable, "-c", peak, ROOT / script, "rows.jsonl", *flags], cwd=tmp_path,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONPATH": str(ROOT)})
            assert f"{n} in, {n} kept" in done.stderr, done.stderr
            peaks.append(int(done.stderr.split()[-1]))
        assert peaks[1] - peaks[0] < 4000, f"{script}: peaks of {peaks} KiB"
