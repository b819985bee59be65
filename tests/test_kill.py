"""Every stage is killed with SIGKILL again and again, and resumed. Run alone: pytest tests/test_kill.py

The long version, whose figures are for a note: KILLS=50 pytest -s tests/test_kill.py
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import PROBLEMS, ROOT

KILLS = int(os.environ.get("KILLS", 5))
CONCURRENCY = 4
COPIES = max(2, KILLS // 8)  # so that there is something left to kill
WRONG = [{"id": f"{row['id']}.{i}", "prompt": row["prompt"], "answer": "1", "completion": f"Step 1: {row['prompt']}\nStep 2: 5\nThe answer is: 9"}
         for row in PROBLEMS for i in range(COPIES)]
LOCATED = [{**row, "initial_reason_steps": "Step 1:", "rejected": row["completion"][7:40], "full_rejected": row["completion"][7:]}
           for row in WRONG]
STAGES = {  # input rows, flags, requests of an uninterrupted run
    "evaluate.py": (WRONG, ["--samples", "3", "--temperature", "1"], 3 * len(WRONG)),
    "collect.py": (WRONG, ["--samples", "3", "--keep", "all"], 3 * len(WRONG)),
    "locate.py": (WRONG, ["--judge", "served", "--votes", "3"], 3 * len(WRONG)),
    "correct.py": (LOCATED, ["--samples", "6"], 6 * len(LOCATED)),
}


def start(script, tmp_path, url, tokenizer, out, *flags):
    rows, own, _ = STAGES[script]
    if script != "locate.py":
        rows = [{k: v for k, v in row.items() if k != "completion"} for row in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = ["--judge-url", url] if script == "locate.py" else ["--model", "served", "--tokenizer", tokenizer, "--base-url", url]
    return subprocess.Popen([sys.executable, ROOT / script, "in.jsonl", "--out", out, *own, *server, "--concurrency",
                             str(CONCURRENCY), *flags], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def requests(url):
    return sum(json.load(urllib.request.urlopen(url)).values())


@pytest.mark.parametrize("script", STAGES)
def test_killed_and_resumed_is_run_once(script, faulty, tiny_model, tmp_path):
    """The same rows and drops as an uninterrupted run; asked again is at most what was in flight."""
    whole = start(script, tmp_path, faulty(), tiny_model, "whole.jsonl")
    _, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    url, dice, kills, flags = faulty("--delay", 0.05), random.Random(script), 0, []
    while True:
        process = start(script, tmp_path, url, tiny_model, "rows.jsonl", *flags)
        begun = requests(url)
        while process.poll() is None and requests(url) == begun:
            time.sleep(0.02)
        if kills < KILLS:
            time.sleep(dice.uniform(0, 1.0))
            process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=300)
        if process.returncode != -signal.SIGKILL:
            break
        kills, flags = kills + 1, ["--resume"]
    assert process.returncode == 0, said
    if os.path.exists(tmp_path / "rows.jsonl"):
        for end in ("", ".dropped.jsonl"):
            rows, expected = (sorted((tmp_path / f"{name}.jsonl{end}").read_text().splitlines()) for name in ("rows", "whole"))
            assert rows == expected
    again = requests(url) - STAGES[script][2]
    print(f"{script}: {kills} kills, {again} of {STAGES[script][2]} requests were made again")
    assert kills >= min(KILLS, 3) and 0 <= again <= kills * CONCURRENCY
