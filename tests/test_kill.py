"""Every stage is killed with SIGKILL again and again, and resumed. Run alone: pytest tests/test_kill.py

The long version, whose figures are for a note: KILLS=50 pytest -s tests/test_kill.py
"""
import json
import os
import random
import signal
import subprocess
import time
import urllib.request

import pytest
from conftest import PROBLEMS, start, to_lines

KILLS = int(os.environ.get("KILLS", 5))
CONCURRENCY = 4
COPIES = max(2, KILLS // 5)  # so that there is something left to kill
WRONG = [{"id": f"{row['id']}.{i}", "prompt": row["prompt"], "answer": "1",
          "completion": f"Step 1: {row['prompt']}\nStep 2: 5\nThe answer is: 9"}
         for row in PROBLEMS for i in range(COPIES)]
ASKED = [{name: value for name, value in row.items() if name != "completion"} for row in WRONG]
LOCATED = [{**row, "initial_reason_steps": "Step 1:", "rejected": row["completion"][7:40],
            "full_rejected": row["completion"][7:]} for row in WRONG]
STAGES = {  # input rows, flags, requests of an uninterrupted run
    "evaluate.py": (ASKED, ["--samples", "3", "--temperature", "1"], 3 * len(WRONG)),
    "collect.py": (ASKED, ["--samples", "3", "--keep", "all"], 3 * len(WRONG)),
    "locate.py": (WRONG, ["--judge", "served", "--votes", "3"], 3 * len(WRONG)),
    "correct.py": (LOCATED, ["--samples", "6"], 6 * len(LOCATED)),
}


def run_and_kill(command, folder, begun, longest, dice):
    """Run command(*flags), kill it KILLS times at random moments after it has begun(), resume it to its end."""
    for kill in range(KILLS + 1):
        before = begun()
        process = command(*(["--resume"] if kill else []), cwd=folder, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE)
        while kill < KILLS and process.poll() is None and begun() == before:
            time.sleep(0.02)
        if kill < KILLS:
            time.sleep(dice.uniform(0, longest))
            process.kill()
        said = process.communicate(timeout=300)[1].decode()
        assert process.returncode == (-signal.SIGKILL if kill < KILLS else 0), (kill, said)


def lines_of(folder, name):
    return [sorted((folder / f"{name}{end}").read_text().splitlines()) for end in ("", ".dropped.jsonl")]


@pytest.mark.parametrize("script", STAGES)
def test_killed_and_resumed_is_run_once(script, faulty, tiny_model, tmp_path):
    """The same rows and drops as an uninterrupted run; asked again is at most what was in flight."""
    rows, own, requests = STAGES[script]
    (tmp_path / "in.jsonl").write_text(to_lines(rows))
    own = [*own, "--concurrency", CONCURRENCY, "in.jsonl"]

    def command(out, url, *flags, **how):
        at = ["--judge-url", url] if script == "locate.py" else ["--model", "served", "--tokenizer", tiny_model,
                                                                 "--base-url", url]
        return start(script, *own, *at, "--out", out, *flags, **how)

    whole = command("whole", faulty(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert "Traceback" not in whole.communicate(timeout=300)[1].decode() and whole.returncode == 0
    url = faulty("--delay", 0.05)

    def made():
        return sum(json.load(urllib.request.urlopen(url)).values())

    dice = random.Random(script)
    run_and_kill(lambda *flags, **how: command("killed", url, *flags, **how), tmp_path, made, 0.3, dice)
    assert lines_of(tmp_path, "killed") == lines_of(tmp_path, "whole")
    again = made() - requests
    print(f"{script}: {KILLS} kills, {again} of {requests} requests were made again")
    assert 0 <= again <= KILLS * CONCURRENCY


def test_killed_local_engine_writes_the_same_texts(taught_model, tmp_path):
    """A resumed run fills its batches otherwise, which must not change what a sample says (fp32, 99.9 %)."""
    (tmp_path / "in.jsonl").write_text(to_lines([{**row, "id": f"{row['id']}.{i}"} for row in PROBLEMS
                                                 for i in range(COPIES)]))

    def command(out, *flags, **how):
        return start("collect.py", "--model", taught_model, "--keep", "all", "--samples", 6, "--max-tokens", 60,
                     "--temperature", 1, "--batch-size", 16, "in.jsonl", "--out", out, *flags, **how)

    def begun():
        return (tmp_path / "killed").stat().st_size if (tmp_path / "killed").exists() else 0

    command("whole", cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait(300)
    run_and_kill(lambda *flags, **how: command("killed", *flags, **how), tmp_path, begun, 0.3, random.Random(0))
    rows, expected = ([json.loads(line) for file in lines_of(tmp_path, name) for line in file]
                      for name in ("killed", "whole"))
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in expected)
    texts = {row["id"]: row["completion"] for row in expected}
    same = sum(row["completion"] == texts[row["id"]] for row in rows)
    print(f"local engine: {KILLS} kills, {same} of {len(rows)} texts are the same")
    assert len(set(texts.values())) > len(PROBLEMS) and same >= 0.999 * len(rows)
