"""Ask a model behind a server: faults, refusals, settings. Run alone: pytest tests/test_server.py"""
import json
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import PROBLEMS, served, tally
from faulty_server import MENDED

from stepdpo import connection
from stepdpo.server import stated_length
from stepdpo.settings import Refusal

STAGES = ["evaluate.py", "collect.py", "locate.py", "correct.py"]


def test_server_gives_what_was_taught(run, server, served_model):
    """The model alone is asked, here and there: not the repetition_penalty of 1.3 in its generation_config.json."""
    asks = {"served": ["--base-url", server, "--concurrency", 4], "here": []}
    for how in (["--temperature", 0], ["--temperature", 1e-4]):  # the second samples, and is as good as greedy
        found = {}
        for name, ask in asks.items():
            done = run("evaluate.py", "--model", served_model, "--max-tokens", 60, *how, *ask, rows=PROBLEMS[:8])
            found[name] = {row["id"]: row["completion"] for row in done.rows}
            if name == "served":
                assert set(done.rows[-1]["sampling"]["said_as"]) == set(NEUTRAL)
                assert done.err.count("said as generation_config from now on (UnprocessableEntityError") == 1
        assert found["served"] == found["here"] and len(set(found["here"].values())) > 4


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


def asked(url):
    """The bodies of the requests that a faulty server saw."""
    return json.load(urllib.request.urlopen(f"{url}/asked"))


def test_a_row_that_is_refused_is_dropped(run, faulty, tiny_model, tmp_path):
    """Of no rows but the refused one; that it is the row's fault is found out by asking a plain sum."""
    rows = [{**row, "prompt": "a poisoned row" if i == 4 else row["prompt"]} for i, row in enumerate(PROBLEMS[:9])]
    flags = served(tiny_model, faulty("--no-ids", "--poison", "poisoned"), "--dropped", "d.jsonl", "--keep", "all")
    for rows in (rows, rows[4:5] + rows[:4] + rows[5:]):  # the first of all rows, too
        done = run("collect.py", *flags, rows=rows)
        assert "18 in, 16 kept, 2 dropped (refused by the server 2)" in done.err
        assert done.err.count("Something in the model went wrong") == 1, "the first of a kind is shown"
        dropped = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
        assert dropped[0]["detail"].startswith("BadRequestError: Something")
        (tmp_path / "d.jsonl").unlink()


@pytest.mark.parametrize("fault", ["400", "422"])
def test_refused_settings_end_the_run_and_cost_nothing(run, faulty, tiny_model, tmp_path, fault):
    """At once, with the server's words; nothing is dropped, and no file is left that would hold the next run up."""
    url = faulty("--rate", 1, "--faults", fault)
    judged = [{**row, "completion": row["solution"], "correct": False} for row in PROBLEMS]
    for script, flags, rows in (("collect.py", served(tiny_model, url), PROBLEMS),
                                ("locate.py", ["--judge", "served", "--judge-url", url], judged)):
        done = run(script, *flags, "--concurrency", 8, "--out", script, rows=rows, code=1)
        assert "refuses what it is asked, whatever the row: " in done.err and "fault with this" in done.err
        assert f"{script}: 0 in, 0 kept, 0 dropped" in done.err and len(done.err.splitlines()) == 2
        assert not list(tmp_path.glob(f"{script}*")), "nothing is left that --resume would take for done"
        assert sum(json.load(urllib.request.urlopen(url)).values()) < 60
    done = run("collect.py", *served(tiny_model, faulty()), "--keep", "all", "--out", "collect.py", "--resume",
               rows=PROBLEMS)
    assert tally(done, "collect.py") == (72, 72, 0)


NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
PICKY = {  # how a server is picky: what rows then say, what the last request then says beside the text
    "": ({}, {"temperature": 1.0, "top_p": 0.9, "max_tokens": 60, **NEUTRAL}),
    "--refuse seed": ({"left_out": ["seed"]}, {"temperature": 1.0, "top_p": 0.9, "max_tokens": 60, **NEUTRAL}),
    "--one-of temperature,top_p": ({"left_out": ["top_p"]}, {"temperature": 1.0, "max_tokens": 60, **NEUTRAL}),
    "--refuse temperature,top_p": ({"left_out": ["temperature", "top_p"]}, {"max_tokens": 60, **NEUTRAL}),
    "--schema --refuse generation_config": (
        {"left_out": ["repetition_penalty", "top_k", "min_p"]}, {"temperature": 1.0, "top_p": 0.9, "max_tokens": 60}),
    "--strict": (
        {"said_as": dict.fromkeys(NEUTRAL, "generation_config")},
        {"temperature": 1.0, "top_p": 0.9, "max_tokens": 60,
         "generation_config": '{"do_sample": true, "repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0}'}),
}


@pytest.mark.parametrize("flags", PICKY)
def test_parameters_are_negotiated(run, faulty, tiny_model, flags):
    """What a server refuses is left out once, in one line, and in the row; all rows are answered."""
    url = faulty(*flags.split())
    done = run("collect.py", *served(tiny_model, url), "--keep", "all", "--temperature", 1, "--top-p", 0.9,
               "--max-tokens", 60, rows=PROBLEMS)
    assert tally(done, "collect.py") == (72, 72, 0)
    record, body = PICKY[flags]
    assert {name: done.rows[-1]["sampling"].get(name) for name in record} == record
    assert done.rows[-1]["sampling"]["extra_body"] == NEUTRAL
    last = asked(url)[-1]
    assert {name: last[name] for name in last if name not in ("model", "prompt", "seed")} == body
    said = [line for line in done.err.splitlines() if " from now on" in line]
    assert len(said) == (2 if "," in flags and "one-of" not in flags or "schema" in flags else 1 if flags else 0)
    if "generation_config" in flags:
        assert "generation_config.json sets them there, they apply and cannot be neutralised" in done.err


def test_a_prompt_as_text_is_whole(run, faulty, tiny_model, tmp_path):
    """Less the token that the server's tokenizer puts before every text, and no other, whatever bos_token says."""
    for path in Path(tiny_model).iterdir():
        if "safetensors" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<|user|>"}))
    core = json.loads((tmp_path / "tokenizer.json").read_text())
    url = faulty("--strict", "--no-ids")
    run("collect.py", *served(tmp_path, url), rows=PROBLEMS[:1])
    assert asked(url)[-1]["prompt"].startswith("<|user|>What is 2")
    number = next(token["id"] for token in core["added_tokens"] if token["content"] == "<|user|>")
    core["post_processor"] = {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|user|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [number], "tokens": ["<|user|>"]}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    run("collect.py", *served(tmp_path, url), rows=PROBLEMS[:1])
    assert asked(url)[-1]["prompt"].startswith("What is 2")


def test_a_judge_of_today_is_asked_as_it_takes_it(run, faulty):
    """No max_tokens, no temperature, no top_p; and the words that it thinks in are not its verdict."""
    rows = [{**row, "completion": "Step 1: 1 + 1 = 3\nThe answer is: 0", "answer": "2"} for row in PROBLEMS]
    url = faulty("--refuse", "max_tokens,temperature,top_p")
    done = run("locate.py", "--judge", "served", "--judge-url", url, rows=rows)
    last = asked(url)[-1]
    assert tally(done, "locate.py") == (36, 36, 0) and last["max_completion_tokens"] and "seed" in last
    assert not {"max_tokens", "temperature", "top_p"} & set(last)
    assert "max_tokens said as max_completion_tokens from now on (BadRequestError: Unsupported" in done.err
    begin = time.monotonic()
    done = run("locate.py", "--judge", "served", "--judge-url", faulty("--rate", 1, "--faults", "nulllength"),
               rows=rows[:3])
    assert tally(done, "locate.py") == (3, 0, 3) and time.monotonic() - begin < 60, "a cut reply is no fault"


def test_extra_body_reaches_the_server(run, faulty, tiny_model):
    url = faulty()
    extra = {"top_k": 20, "chat_template_kwargs": {"x": [1]}}
    done = run("collect.py", *served(tiny_model, url), "--keep", "all", "--extra-body", json.dumps(extra),
               rows=PROBLEMS[:2])
    assert extra.items() <= asked(url)[-1].items() and asked(url)[-1]["min_p"] == 0
    assert done.rows[0]["sampling"]["extra_body"] == {**NEUTRAL, **extra}
    done = run("collect.py", *served(tiny_model, faulty("--refuse", "top_k")), "--extra-body", json.dumps(extra),
               rows=PROBLEMS[:2], code=1)  # asked for by name: not left out
    assert "refuses 'top_k' of --extra-body: BadRequestError" in done.err
    for text, said in (("[1]", "not a JSON object"), ("{", "not JSON"), ('{"model": "x"}', "'model' has a flag")):
        done = run("collect.py", *served(tiny_model, url), "--extra-body", text, rows=PROBLEMS[:2], code=2)
        assert said in done.err and "--extra-body" in done.err and len(done.err.splitlines()) == 1
    done = run("collect.py", "--model", tiny_model, "--extra-body", "{}", "--base-url", "", rows=PROBLEMS[:2], code=2)
    assert "--base-url is empty" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("listed", [["--listed"], []])
def test_a_long_prompt_gets_a_shorter_answer(run, faulty, tiny_model, listed):
    """As from the local engine: max_tokens is what the context leaves; only a prompt that fills it is dropped."""
    rows = [{"id": f"{n}", "prompt": "2" + " + 2" * n, "answer": "1"} for n in (5, 150, 250)]
    url = faulty("--context", 400, *listed)
    done = run("evaluate.py", *served(tiny_model, url), "--prompt", "raw", "--max-tokens", 200, rows=rows)
    assert "3 in, 2 kept, 1 dropped (prompt longer than the context 1)" in done.err
    sums = {len(body["prompt"]) + body["max_tokens"] for body in asked(url)}
    assert 400 in sums and (not listed or max(sums) <= 400)


@pytest.mark.parametrize("words, length", [
    ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", 4096),       # vLLM
    ("Prompt contains 5000 tokens and 0 draft tokens, too large for model with 4096 maximum context length", 4096),
    ("The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that", 4096),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096),             # SGLang
    ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096),    # llama.cpp
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs`", 4096),  # TGI
    ("The input token count (1,200,000) exceeds the maximum number of tokens allowed (1,048,576).", 1048576),  # Gemini
    ("prompt is too long: 250000 tokens > 200000 maximum", None),                                           # Anthropic
    ("input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length", 200000),
    ("Range of input length should be [1, 30720]", None),                                                   # DashScope
    ("Please reduce the length of the messages or completion.", None)])
def test_what_servers_say_of_length(words, length):
    """Each is about length, and where it names the context, that is read."""
    refusal = Refusal(words, json.dumps({"error": {"message": words}}))
    assert refusal.is_about_length() and stated_length(refusal) == length


def test_content_filters_drop_the_row(run, faulty, tiny_model):
    done = run("collect.py", *served(tiny_model, faulty("--rate", 1, "--faults", "filter")), rows=PROBLEMS[:3], code=1)
    assert "6 in, 0 kept, 6 dropped (content filter 6)" in done.err
    assert "no row was answered (content filter)" in done.err, "which is no success"


def test_out_of_quota_ends_the_run(run, faulty, tiny_model):
    begin = time.monotonic()
    done = run("collect.py", *served(tiny_model, faulty("--rate", 1, "--faults", "quota")), rows=PROBLEMS, code=1)
    assert "429, the account has nothing left" in done.err and "--resume" in done.err
    assert tally(done, "collect.py") == (0, 0, 0) and time.monotonic() - begin < 30


def test_a_wrong_200_is_reported_once(run, faulty, tiny_model):
    done = run("collect.py", *served(tiny_model, faulty("--rate", 0.3, "--faults", "html,malformed")), rows=PROBLEMS)
    assert done.err.count("answers 200 with something that is no reply (") == 1


KEY = "sk-very-Secret-0123456789"


@pytest.mark.parametrize("script", STAGES)
def test_api_keys_are_nowhere(script, run, faulty, tiny_model, tmp_path):
    """Not eight of its characters in any output, row or journal, whatever goes wrong."""
    rows = [{**row, "completion": "Step 1: 2", "initial_reason_steps": "Step 1:", "rejected": "3",
             "full_rejected": "3"} for row in PROBLEMS[:4]]
    rows = rows if script in ("locate.py", "correct.py") else PROBLEMS[:4]
    said = ""
    for n, (fault, key) in enumerate((("401", KEY + "\r\n"), ("echo", f" {KEY}\n"), ("html,echo", KEY),
                                      ("401", KEY + "\u00e9"), ("401", KEY[:9] + "\n" + KEY[9:]))):
        url = faulty("--rate", 1 if "," not in fault else 0.5, "--faults", fault)
        ask = ["--judge", "served", "--judge-url", url] if script == "locate.py" else served(tiny_model, url)
        done = run(script, *ask, "--out", f"out{n}", rows=rows, code=None,
                   env={"OPENAI_API_KEY": key, "JUDGE_API_KEY": key})
        said += done.err + done.stdout.decode() + "".join(path.read_text() for path in tmp_path.glob("out*"))
        if not key.strip().isascii() or "\n" in key.strip():
            assert done.returncode == 2 and "no API key: it holds" in done.err and done.err.count("\n") <= 2
    assert not [KEY[i:i + 8] for i in range(len(KEY) - 7) if KEY[i:i + 8] in said]
    assert "the API key is refused" in said and "what is *****" in said.replace("Bearer ", "")


def test_a_proxy_that_cannot_be_used_is_one_line(run, faulty, tiny_model):
    done = run("collect.py", *served(tiny_model, faulty()), rows=PROBLEMS[:2], code=2,
               env={"ALL_PROXY": "socks5://127.0.0.1:9"})
    assert "no client for it" in done.err and "unset ALL_PROXY" in done.err and len(done.err.splitlines()) == 2


def test_a_name_that_occurs_in_an_error_is_not_what_is_refused(run, faulty, tiny_model):
    """A model called "served", a server that says "served or not" of one row."""
    rows = [{**PROBLEMS[0], "prompt": "poisoned"}, *PROBLEMS[1:4]]
    done = run("collect.py", *served(tiny_model, faulty("--no-ids", "--poison", "poisoned")), "--samples", 1,
               "--keep", "all", rows=rows)
    assert tally(done, "collect.py") == (4, 3, 1)


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
    monkeypatch.setattr(connection, "TRIES", 1)
    url = faulty("--rate", 1, "--faults", "html")
    done = run("collect.py", *served(tiny_model, url, "--concurrency", 2), rows=PROBLEMS, code=1)
    assert "5 rows one after another were given up; see to the server, then go on with --resume" in done.err
