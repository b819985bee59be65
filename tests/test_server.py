"""Ask a model behind a server: faults, refusals, settings. Run alone: pytest tests/test_server.py"""
import json

import pytest
from conftest import PROBLEMS, served, tally
from faulty_server import MENDED

from stepdpo import server

STAGES = ["evaluate.py", "collect.py", "locate.py", "correct.py"]


def test_server_gives_what_was_taught(run, server, taught_model):
    ask = ["--model", taught_model, "--base-url", server, "--max-tokens", 60, "--concurrency", 4]
    served = run("evaluate.py", *ask, rows=PROBLEMS[:8]).rows
    local = run("evaluate.py", "--model", taught_model, "--max-tokens", 60, rows=PROBLEMS[:8]).rows
    completions = lambda rows: {row["id"]: row["completion"] for row in rows}  # noqa: E731
    assert completions(served) == completions(local)


def test_servers_that_end_the_run(run, faulty, tiny_model, tmp_path):
    """Each at once and with a message; with a server that works the run goes on."""
    for fault, said in (("401", "401, the API key is refused; set OPENAI_API_KEY"),
                        ("404", "404, no model 'served' there"), ("http://127.0.0.1:9/v1", "no answer"),
                        ("localhost/v1", "no answer (APIConnectionError: Request URL is missing")):
        url = fault if "/" in fault else faulty("--rate", 1, "--faults", fault)
        done = run("collect.py", *served(tiny_model, url, "--keep", "all", "--out", "o.jsonl", "--resume"), code=1,
                   rows=PROBLEMS, env={"OPENAI_API_KEY": "sk-secret"})
        assert said in done.err and "sk-secret" not in done.err
    flags = ["--keep", "all", "--out", "o.jsonl", "--resume"]
    done = run("collect.py", *served(tiny_model, faulty(), *flags), rows=PROBLEMS)
    assert tally(done, "collect.py") == (72, 72, 0)


def test_a_server_that_takes_any_name_is_named(run, faulty, tiny_model):
    done = run("evaluate.py", *served(tiny_model, faulty("--model", "another")), rows=PROBLEMS[:3])
    assert done.err.count("asked for 'served', 'another' answers") == 1


@pytest.mark.parametrize("script", STAGES)
def test_faults_cost_no_row(script, run, faulty, tiny_model):
    """Every fault there is, on 30 % of the requests: all results arrive in one run."""
    url = faulty("--rate", 0.3, "--faults", ",".join(MENDED))
    rows = [{**row, "answer": "1"} for row in PROBLEMS]
    flags = served(tiny_model, url, "--timeout", 4, "--concurrency", 16)
    if script == "locate.py":
        rows = [{**row, "completion": "Step 1: 1 + 1 = 3\nThe answer is: 0"} for row in rows]
        flags = ["--judge", "served", "--judge-url", url, "--timeout", 4, "--concurrency", 16]
    if script == "correct.py":
        rows = [{**row, "initial_reason_steps": "Step 1:", "rejected": " 3", "full_rejected": " 3"} for row in rows]
        flags += ["--samples", 3]
    done = run(script, *flags, rows=rows)
    assert tally(done, script)[0] == (2 if script == "collect.py" else 1) * len(PROBLEMS)


def test_refused_requests_are_drops(run, faulty, tiny_model, tmp_path):
    url = faulty("--rate", 1, "--faults", "422")
    done = run("collect.py", *served(tiny_model, url), "--dropped", "d.jsonl", rows=PROBLEMS[:3])
    assert "6 in, 0 kept, 6 dropped (refused by the server 6)" in done.err
    assert done.err.count("Unprocessable") == 1, "the first of a kind is shown"
    assert json.loads((tmp_path / "d.jsonl").read_text().splitlines()[0])["detail"].startswith("Unprocessable")


def test_a_run_whose_first_requests_are_all_refused_ends(run, faulty, tiny_model):
    for script, flags, rows in (
            ("collect.py", served(tiny_model, faulty("--rate", 1, "--faults", "422"), "--samples", 3), PROBLEMS),
            ("locate.py", ["--judge", "served", "--judge-url", faulty("--rate", 1, "--faults", "400")],
             [{**row, "completion": row["solution"], "correct": False} for row in PROBLEMS])):
        done = run(script, *flags, rows=rows, code=1)
        assert "the server refused the first 16 rows, this one so: " in done.err and "fault with this" in done.err
        assert f"{script}: 16 in, 0 kept, 16 dropped (refused by the server 16)" in done.err


def test_hanging_requests_are_left_for_resume(run, faulty, tiny_model):
    ask = ["--timeout", 0.5, "--keep", "all", "--samples", 1, "--out", "o.jsonl"]
    url = faulty("--rate", 0.7, "--faults", "hang,crawl")
    done = run("collect.py", *served(tiny_model, url, *ask), rows=PROBLEMS, code=3)
    kept = tally(done, "collect.py")[0]
    assert 0 < kept < 36 and f"{36 - kept} given up; --resume asks them again" in done.err
    assert "3 tries failed, the last with: no reply in 0.5 seconds (--timeout)" in done.err
    done = run("collect.py", *served(tiny_model, faulty(), *ask, "--resume", "--timeout", 60), rows=PROBLEMS)
    assert tally(done, "collect.py") == (36, 36, 0)


def test_a_server_that_only_fails_ends_the_run(run, faulty, tiny_model, monkeypatch):
    monkeypatch.setattr(server, "TRIES", 1)
    url = faulty("--rate", 1, "--faults", "html")
    done = run("collect.py", *served(tiny_model, url, "--concurrency", 2), rows=PROBLEMS, code=1)
    assert "5 rows one after another were given up; see to the server, then go on with --resume" in done.err


def test_api_keys_reach_no_row(run, faulty, tiny_model, tmp_path):
    done = run("collect.py", *served(tiny_model, faulty(), "--keep", "all", "--out", "o.jsonl"), rows=PROBLEMS[:3],
               env={"OPENAI_API_KEY": "sk-very-secret"})
    written = [path.read_text() for path in tmp_path.glob("o.jsonl*")]
    assert len(written) == 3 and "sk-very-secret" not in done.err + "".join(written)
