"""Judges, their score, and the cut that they lead to. Run alone: pytest tests/test_locate.py"""
import argparse
import asyncio
import json
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from fractions import Fraction

import pytest
from conftest import PROBLEMS, ROOT, SHARED, make_model, needs_shared

from judges import agree, llm, make_judges
from judges import rollouts as rollouts_file
from judges.equations import judge_equations
from judges.llm import judge_text, parse_verdict
from judges.verdict import Verdict
from locate import cut_out_error
from stepdpo.arithmetic import find_equations, is_false
from stepdpo.command import UserError
from stepdpo.reply import Refused, Reply
from stepdpo.settings import Settings
from stepdpo.steps import split_steps
from stepdpo.task import PREFIX

sys.path.insert(0, str(ROOT / "demo"))

# ------------------------------------------------------------------------------------------ an LLM judge

REPLIES = {  # reply of a judge on three steps -> first wrong step, 0 for none, "unparsed"
    "Fine.\nFinal Decision:\nStep 1: correct; Step 2: correct; Step 3: incorrect": 3,
    "Final Decision:\nStep 1: correct; Step 2: neutral; Step 3: correct": 0,
    "**Final Decision:**\n**Step 1:** Correct\n**Step 2:** Incorrect": 2,
    "final decision: Step 1 - correct, Step 2 is incorrect.": 2,
    "I first thought: Final Decision: Step 1: incorrect. No! Final Decision:\nStep 1: correct; Step 2: incorrect": 2,
    '```json\n{"Step 1": "correct", "Step 2": "incorrect"}\n```': 2,
    '{"1": "correct", "2": "correct", "3": "correct"}': 0,
    'As \\frac{1}{2} shows:\n{"Step 1": "incorrect"}': 1,
    "So \\boxed{}.\nFinal Decision:\nStep 1: incorrect": 1,
    "L'étape 2 est fausse. Final Decision:\nStep 1: correct; Step 2: incorrect": 2,  # only the labels are read
    "第二步有误。\nFinal Decision:\nStep 1: correct; Step 2: incorrect": 2,
    "Step 2 is wrong.\nFinal Decision:\nStep 1: correct; Step 2: correct; Step 3: correct": 0,  # as above
    "Final Decision:\nStep 1: correct; Step 2: correct": "unparsed",  # what of step 3?
    "Final Decision:\nStep 1: correct; Step 1: incorrect": "unparsed",  # contradicts itself
    "Final Decision:\nStep 4: incorrect": "unparsed",  # there is no step 4
    "Final Decision:\nStep 0: incorrect": "unparsed",
    "Step 2 is incorrect.": "unparsed",
    "第二步是错误的": "unparsed",
    "": "unparsed",
    "{" * 100_000: "unparsed",
    '{"Step 1": ["incorrect"]}': "unparsed",
    "<think>Final Decision: Step 1: incorrect? No.</think>Final Decision: Step 1: correct; Step 2: incorrect": 2,
    "Final Decision: Step 1: incorrect</think>\nFine. Final Decision: Step 1: correct; Step 2: incorrect": 2,
    "<think>Hm. Final Decision: Step 1: incorrect": "unparsed", "[THINK]Final Decision: Step 1: incorrect": "unparsed",
    "Final Decision: Step 1: correct; Step 2: incorrect; ...": 2,
}


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: repr(reply[:40]))
def test_replies(reply):
    assert parse_verdict(reply, 3) == REPLIES[reply]


def test_neutral_is_no_error_unless_asked():
    reply = "Final Decision:\nStep 1: neutral; Step 2: incorrect"
    assert parse_verdict(reply, 2) == 2 and parse_verdict(reply, 2, neutral_is_error=True) == 1


@pytest.mark.parametrize("quote", [
    'I am to write "Final Decision:" and below it "Step 1: correct; Step 2: neutral; ...": correct, neutral or incorrect.',
    judge_text({"prompt": "p"}, ["", "a", "b"]), "Final Decision:\n**Step 1: correct; Step 2: neutral; …**"])
def test_a_reply_that_only_quotes_how_labels_look_is_unparsed(quote):
    assert parse_verdict(quote, 2) == "unparsed"
    assert parse_verdict(quote + "\nFinal Decision: Step 1: correct; Step 2: neutral", 2) == 0


def test_what_a_judge_is_shown():
    row = {"prompt": "{p}", "answer": "7", "solution": "So 7."}
    shown = judge_text(row, ["Let us think.\n", "Step 1: a\n", "**Step 7:** b\n"])
    assert "Correct solution:\nSo 7." in shown and "{p}" in shown
    assert "Answer to check:\nLet us think.\nStep 1: a\nStep 2: b\n" in shown  # by place, whatever the model counted
    assert "Correct answer:\n7" in judge_text({"prompt": "p", "answer": "7"}, ["", "a"])
    assert "Correct" not in judge_text({"prompt": "p"}, ["", "a"])


FLAGS = dict(temperature=None, top_p=0.95, max_tokens=64, votes=1, neutral_is_error=False, judge_url=None, seed=0,
             concurrency=4, timeout=5, batch_size=8, device=None, judge_max_tokens=99, judge_extra_body=None)


WRONG = {"id": "a", "prompt": "p", "answer": "7", "completion": "Step 1: a\nStep 2: b\nThe answer is: 9"}


def asked(monkeypatch, replies, steps=3, **flags):
    """(verdict of an LLM judge whose server says `replies` one after another, what it was asked, its settings)"""
    said, seen, settings, replies = [], set(), [], iter(replies)

    def chat_server(url, name, limits, how, key, extra_body):
        settings.append({**how, "extra_body": extra_body})

        async def ask(text, seed):
            assert (text, seed) not in seen, "nothing is asked twice"
            seen.add((text, seed))
            said.append(text)
            reply = next(replies)
            if isinstance(reply, Exception):
                raise reply
            return reply if isinstance(reply, Reply) else Reply(reply, "stop")
        ask.settings = Settings("there", {}, {})
        return ask
    monkeypatch.setattr(llm, "chat_server", chat_server)
    judge = llm.make_judge(argparse.Namespace(**{**FLAGS, "judge_model": "served", **flags}), None)
    row = {"id": "a", "prompt": "p", "answer": "7"}
    parts = ["", *(f"Step {k}: x\n" for k in range(1, steps + 1))]
    verdict = asyncio.run(agree(row, parts, {"served": judge}))
    return (verdict.bad_step, verdict.words), said, settings[0]


def labels(k, steps=3):
    """A reply that finds step k wrong, or none for k = 0."""
    return "Final Decision:\n" + "; ".join(f"Step {i}: {'incorrect' if i == k else 'correct'}"
                                           for i in range(1, (k or steps) + 1))


def test_one_reply_is_greedy_and_asked_for_again_in_other_words(monkeypatch):
    (found, words), said, how = asked(monkeypatch, ["What?", labels(2)])
    assert (found, words) == (2, {"served": labels(2)}) and how["temperature"] == 0
    assert said[1].startswith(said[0]) and "Final Decision:" in said[1][len(said[0]):]
    (found, words), said, _ = asked(monkeypatch, ["What?"] * 9)
    assert (found, words) == ("unparsed", {"served": "What?"}) and len(said) == llm.JUDGE_TRIES


def test_a_cut_reply_is_no_verdict_and_is_asked_for_again_once(monkeypatch):
    """Nothing is read in it: what stands there may have been taken back later. Empty is what reasoning leaves."""
    cut = Reply(labels(1), "length")
    (found, words), said, how = asked(monkeypatch, [cut, Reply("", "length"), labels(2)])
    assert (found, words) == (llm.CUT, {"served": ""}) and len(said) == 2 and how["max_tokens"] == 99
    assert asked(monkeypatch, [cut, labels(2)])[0][0] == 2
    assert asked(monkeypatch, ["What?", cut, labels(2)])[0][0] == 2
    (found, _), said, _ = asked(monkeypatch, [cut, cut, labels(2)], votes=2)  # one vote each
    assert found == "no majority" and len(said) == 3


def test_what_else_goes_into_a_request(monkeypatch):
    extra = '{"reasoning_effort": "low"}'
    assert asked(monkeypatch, [labels(2)], judge_extra_body=extra)[2]["extra_body"] == {"reasoning_effort": "low"}
    for wrong in ("[1]", "{", "low", "[" * 100_000):
        with pytest.raises(UserError, match="--judge-extra-body .*: not (a )?JSON") as error:
            asked(monkeypatch, [], judge_extra_body=wrong)
        assert error.value.code == 2 and "\n" not in str(error.value)


@needs_shared
@pytest.mark.parametrize("mode, refused", [
    ("o3", {"left_out": ["temperature", "top_p"], "said_as": {"max_tokens": "max_completion_tokens"}}),
    ("noseed", {"left_out": ["seed"]}), ("onlyone", {"left_out": ["top_p"]}), ("plain", None), ("null", None)])
def test_servers_that_take_less(mode, refused, run, tmp_path):
    """What they do not take is left out, said once, and written into the row; a null reply is a cut one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, SHARED.parent / "cases/picky_server.py", str(port), mode])
    try:
        wait_for(port)
        done = run("locate.py", "--judge", "J", "--judge-url", f"http://127.0.0.1:{port}/v1", "--out", "out.jsonl",
                   rows=[{**WRONG, "id": str(i)} for i in range(20)])
    finally:
        server.kill()
        server.wait()
    rows = [*map(json.loads, open(tmp_path / "out.jsonl"))]
    if mode == "null":
        assert "0 kept, 20 dropped (judge cut by --judge-max-tokens 20)" in done.err and not rows
    else:
        assert len(rows) == 20 and {row["bad_step"] for row in rows} == {1}
        assert rows[-1].get("judge_settings") == (refused and {"J": refused})
        assert done.err.count("left out from now on") == len((refused or {}).get("left_out", ()))


def wait_for(port):
    """Until a server answers there."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("no server")


def test_a_refusal_of_settings_ends_the_run_and_marks_nothing_done(faulty, run, tmp_path):
    url = faulty("--rate", 1, "--faults", "422")
    flags = ["--judge", "J", "--judge-url", url, "--out", "out.jsonl"]
    for more in ([], ["--resume"]):
        done = run("locate.py", *flags, *more, rows=[WRONG], code=1)
        assert "refuses what it is asked, whatever the row" in done.err and "0 dropped" in done.err


VOTES = [([2, 2, 3], 2), ([0, 0, 2], 0), ([2, 3, 2, 3], "no majority"), ([2, 3, 1], "no majority"),
         ([2, 2, 3, 1], "no majority"), ([2, 2, 2, 1], 2), ([1], 1)]


@pytest.mark.parametrize("votes, winner", VOTES, ids=str)
def test_votes(votes, winner, monkeypatch):
    (found, words), said, how = asked(monkeypatch, map(labels, votes), votes=len(votes))
    assert found == winner and len(said) == len(votes)
    assert how["temperature"] == (0.8 if len(votes) > 1 else 0)
    assert words["served"] == ([*map(labels, votes)] if len(votes) > 1 else labels(votes[0]))


def test_sixty_steps(monkeypatch):
    (found, _), said, _ = asked(monkeypatch, [labels(57, 60)], steps=60)
    assert found == 57 and "\nStep 60: x\n" in said[0]
    assert asked(monkeypatch, [labels(0, 60)], steps=60)[0][0] == 0


def test_a_refusal_costs_this_verdict_only(monkeypatch):
    refusal = Refused("refused by the model", "I may not.")
    assert asked(monkeypatch, [refusal])[0] == ("refused by the model", {"served": "I may not."})
    (found, words), _, _ = asked(monkeypatch, [labels(2), refusal, labels(2)], votes=3)
    assert found == 2 and words == {"served": [labels(2), "I may not.", labels(2)]}


def test_a_model_folder_judges_through_the_same_sampling_code(run, tmp_path):
    """Nonsense, but the model's own, the same whatever else is in the batch, and accounted for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    make_model(tmp_path / "M", max_position_embeddings=2048)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "M")).save_pretrained(tmp_path / "M")
    rows = [{"id": str(i), "prompt": "p", "answer": "7", "completion": f"Step 1: {i}\nThe answer: 9"} for i in range(3)]
    flags = ["--judge", "M", "--judge-max-tokens", 16, "--temperature", 1]
    done = run("locate.py", *flags, "--dropped", "d.jsonl", rows=rows)
    assert "3 in, 0 kept, 3 dropped (judge cut by --judge-max-tokens 3)" in done.err
    dropped = {row["id"]: row["verdict"]["M"] for row in map(json.loads, open(tmp_path / "d.jsonl"))}
    scored = run("locate.py", *flags, "--batch-size", 2, "--score", "-", rows=[{**row, "bad_step": 1} for row in rows])
    assert {row["id"]: row["verdict"]["M"] for row in scored.rows} == dropped and any(dropped.values())
    assert "per 1,000 rows    2000 replies" in scored.err  # once and once again


def test_judges_must_agree():
    said = []

    def judges(*verdicts):
        async def judge(row, parts, whole, verdicts=iter(verdicts)):
            said.append(1)
            return Verdict(next(verdicts), "words")
        return {str(n): judge for n in range(len(verdicts))}
    for verdicts, found, n in (((2, 2), 2, 2), ((0, 0), 0, 2), ((1, 2), "judges disagree", 2),
                               ((0, 2), "judges disagree", 2), ((1, "cannot tell"), "cannot tell", 2),
                               (("cannot tell", 1), "cannot tell", 1), ((1, 2, 2), "judges disagree", 2)):
        said.clear()
        assert asyncio.run(agree({"id": "a"}, [""] * 4, judges(*verdicts))).bad_step == found
        assert len(said) == n  # what is lost costs no more


# ---------------------------------------------------------------------------------------------- equations

EQUATIONS = {  # step -> equations that are read in it, None for one with an unreadable side
    "Adding gives 30 + 12 = 42.": ["30 + 12 = 42"], "so 3 + 4 = 7 = 14 / 2": ["3 + 4 = 7", "7 = 14 / 2"],
    r"$3 \times 4 = 12$ and \(\frac{1}{2} + \frac{1}{2} = 1\)": [
        "3 * 4 = 12", "( ( 1 ) / ( 2 ) ) + ( ( 1 ) / ( 2 ) ) = 1"],
    "She has 3 apples + 4 apples = 7 apples left": ["3 + 4 = 7"], "Total = 3 x 4 = 12": ["3 * 4 = 12"],
    "3 red apples + 4 green apples = 7": ["3 + 4 = 7"], "12 dollars/hour * 2 hours = 24": ["12 * 2 = 24"],
    "a total of 3 + 4 = 7": ["3 + 4 = 7"], "20 apples x $0.45/apple = $9": ["20 * 0.45 = 9"],
    "(3 + 4 = 7)": ["3 + 4 = 7"], "- 3 + 4 = 7": ["3 + 4 = 7"], "$1,200 - $200 = $1,000": ["1,200 - 200 = 1,000"],
    r"49{,}994 + 6 = 50{,}000": ["49,994 + 6 = 50,000"], "We had 3. 4 + 1 = 5": ["4 + 1 = 5"],
    "It is 5 apples (3 + 2 = 5).": ["3 + 2 = 5"], "gives -5 + 3 = -2": ["- 5 + 3 = - 2"],
    "x = 3 + 4 = 7": ["3 + 4 = 7"],
    "5km + 3km = 8km": ["5 + 3 = 8"], "[3 + 4] * 2 = 14": ["( 3 + 4 ) * 2 = 14"], "2 + 2 == 4": [None], "x = 5": [],
    "26 + 32 = ": [None], "7 = x": [], "48/2 = <<48/2=24>>24 clips": ["48 / 2 = 24"],
    r"\begin{aligned} 3 + 4 &= 7 \\ &= 14/2 \end{aligned}": ["3 + 4 = 7"], "3 + 4 ≈ 7": [],
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_equations_are_read_whole(text):
    read = [f"{' '.join(e.left)} = {' '.join(e.right)}" if e.left and e.right else None for e in find_equations(text)]
    assert read == EQUATIONS[text]


TRUE = r"""
12 / 5 = 2 remainder 2; 3 + 4 = 7x; 2x + 3 = 7; 3 x + 4 = 19; 3ab + 4 = 19; x - 3 = 5; x_1 + 3 = 5; Total - 5 = 15
3^2 + 4^2 = 25; 3² + 4² = 25; 10^2 + 1 = 101; 2e3 + 1 = 2001; 3! + 1 = 7; |3 - 5| = 2; 10 mod 3 + 1 = 2; log2 + 1 = 1.3
2 \sqrt{9 + 16} = 10; √9 + 16 = 19; the square root of 9 + 16 = 19; f(3) + 1 = 5; max(3, 4 + 5) = 9; gcd(12, 5 + 3) = 4
2(3 + 4) = 14; 2 (3 + 4) = 14; (2) (3 + 4) = 14; 5 - [3 + 1] = 1; 2\pi + 1 = 7.28; \binom{5}{2} + 1 = 11; 7 = 3 + 4
1 1/2 + 1/2 = 2; 3 and 1/2 + 1/2 = 4; 7/2 = 3 1/2; 3 ½ + 1 = 4 ½; 2 + 2 = 4 and a half - a half; \frac12 + 1 = 1.5
20% of 50 + 2 = 12; half of 30 + 4 = 19; two thirds of 30 + 4 = 24; 25 percent * 80 = 20; 15 / 60 * 100 = 25%
3 + 4 = 7 thousand; 2 dozen + 1 = 25; 3 times 4 + 2 = 14; 2 less than 3 + 4 = 5; 5 choose 2 + 1 = 11
3,5 + 1 = 4,5; 2 + 3,5 = 5,5; 1.200 + 300 = 1.500; 1 200 + 300 = 1 500; 1\,200 + 300 = 1\,500; 1,00,000 + 5 = 1,00,005
12 : 4 + 2 = 5; 3:2 = 6:4; 11:30 + 45 = 12:15; 11 + 3 = 2 o'clock; 30° + 60° = 90°; .5 + 1 = 1.5; 50 + 25 = 0.75
€5 + €4 * 2 = €13; £5 + £4 = £9; 50 cents + 50 cents = $1; 5 hours + 30 minutes = 330 minutes
100 / 3 = 33; 100 / 3 = 33.3; 33.3 * 3 = 100; 1 + 2 + ... + 10 = 55; 3 + 4 <= 8; 3 + 4 != 8
3 • 4 + 1 = 13; 3 ⋆ 4 + 1 = 13; ¬3 + 4 = 5; ∑3 + 4 = 9
\frac{1000 \text{ m}}{2.5 \times 3600 \text{ s}} = \frac{1}{9}; \frac{1}{3} * 100 = 33.33\%
3 \cdot 1 = 3 \) and add up to \( -4; \[ 3 + 4 = 7 \] \[ -2 + 5 = 3 \]; 3 + 4 = 7$ and $-4$; (3 + 4 = 7 \) \( - 2)
f''(-4) = 48 - 16 > 0; f'(3) = 12 - 4 > 2; g’(2) + 1 = 5; f^{-1}(3) + 1 = 8; f^{\prime}(2) = 3; is 3 + 4 = 8?; 2 + 2 = 5？
x = -1 when a = 2; a + 7 = 0 or a - 2 = 0; x = 3 and -4 = y; so 3 where -2 = b; -64 = 1 - 63; 5 + 3 = 8, - 2 = 6; 7 if - 3 = c
$3 + 50 cents = $3.50; 3 + 50 cents = $3.50; £5 + 50 pence = £5.50; $1 - 5 dimes = $0.50; 3 dollars + 50 cents = 3.50
$50 + 20% = $60; 200 + 10 percent = 220; 80 - 25% = 60; 50 + (20%) = 60; $50 + 20\% = $60; 25% - 5 = 20%; 1 - 20% = 80%
5 + 3 = 8 + 2 = 10; 6*4=24+5=29 apples; 2 * 3 = 6 - 1 = 5; -5 + 3 = -2 * 4 = -8; 1/2 * 3 = 3/2 + 1 = 5/2; 3 + 4 * 2 = 14
25 / 1/3 = 75; 14 / 1 / 4 = 14 * 4; 5 x 1/2 = 10 halves; on day 1 * 2 = 20 pages; .8 + . 84 + .82 = 2.46; 5 * 3 = $15,000
pages 5–10 = 6 pages; $400 000 x 3/100 = $12 000; 1 hour - 20 minutes = 40 minutes; 60 inches = 5 * 1 feet
\frac{1000 \text{ meters}}{2.5 \times 3600 \text{ seconds}} = \frac{1}{9}; \frac{\frac{6}{2} + 1}{2} = 2
""".strip().replace("\n", "; ").split("; ")


def called_false(text):
    return any(map(is_false, find_equations(text)))


@pytest.mark.parametrize("text", TRUE)
def test_what_is_true_in_odd_notation_is_not_called_false(text):
    assert not called_false(text)


FALSE = r"""
\( 3 \cdot 1 = 4 \) and add up to \( -4 \); \[ 3 + 4 = 8 \] \[ -2 \]; so 3 + 4 = 8$ and $-4$; \(3 + 4\) = \(8\); $3$ + $4$ = $8$
f(x) = 3 + 4 = 8; so y' = 3 + 4 = 8; 2) 3 + 4 = 8; (3 + 4 = 8); $3 + $4 = $8; $3.50 + $4 = $9; 3€ + 4€ = 8€; $5 * 20% = $2
5 + 3 = 9 + 2 = 11; 5 + 3 = 8 + 2 = 12; 6*4=25+5=30; 50 cents + 30 cents = 90 cents; 12 / (3 / 4) = 1
2 days * 3 = 8 days; 40 - 3 * 5 = 35; -8 + 3 = -4
""".strip().replace("\n", "; ").split("; ")


@pytest.mark.parametrize("text", FALSE)
def test_what_is_plainly_false_is_called_false(text):
    assert called_false(text)


def test_a_sum_that_is_broken_over_lines_is_not_read_in_halves():
    for text in ("10 +\n15 + 3 = 28", "15 + 3\n+ 10 = 28", "2 * 3 = 5 +\n1"):
        assert not called_false(text)


PROBLEM = {"prompt": "Ann has 35 beads. She loses 17, then twelve new ones arrive, and she keeps 25% of them."}
STEPS = [  # steps, what the judge says
    (["35 - 17 = 18.", "18 + 12 = 30.", "30 * 25% = 7.5"], 0), (["35 - 17 = 18.", "18 * 0.25 = 4.5"], 0),
    (["35 - 17 = 28.", "28 + 12 = 40."], 1), (["35 - 17 = 18.", "18 + 12 = 40."], 2),
    (["35 - 17 = 18.", "18 + 13 = 41."], "cannot tell"),  # where is 13 from?
    (["First we subtract 17 from 35.", "35 - 17 = 28."], 2),  # prose with nothing new in it is no obstacle
    (["First we subtract 17 from 35.", "35 - 17 = 18."], "cannot tell"),  # but is not found right either
    (["She has 28.", "28 + 12 = 41."], "cannot tell"), (["The answer is clear."], "cannot tell"),
    (["35 - 17 = 18.", "35 - 17 = 18.", "18 + 12 = 31"], 3),  # steps that repeat are steps
    (["35 / 17 = 2.06"], 0), (["35 / 17 = 2"], "cannot tell"), (["35 / 17 = 2.16"], 1),
    (["35 - 17 = ", "35 - 17 = 28"], "cannot tell"), (["35 - 17 = eighteen"], "cannot tell"),
    (["35 / (17 - 17) = 0"], "cannot tell"),
    (["35 beads - 17 pens = 40 cups"], "cannot tell"), ([r"$35 - 17 = 28$"], 1), (["35 − 17 = 28 beads"], 1),
    (["__import__('os').system('x') = 35 - 17 = 28"], "cannot tell"), (["35 - 17 = 18 = 19"], "cannot tell"),
    (["35 - 17 = 19 - 2"], 1),
    (["35 + 2 = 37 lambs"], "cannot tell"), (["35 * 100 = 3500"], 0),  # 25% has 100
    (["Wait, 35 - 17 = 28 is wrong: 35 - 17 = 18."], "cannot tell"), (["If 35 - 17 = 28, she is rich."], "cannot tell"),
]


@pytest.mark.parametrize("steps, expected", STEPS)
def test_equations_judge(steps, expected):
    assert judge_equations(PROBLEM, ["", *steps], whole=False).bad_step == expected


ORIGINS = [  # problem, chosen step, whether it may be found right
    ("Tom has 10 lambs and sells 3.", "3 + 2 = 5 lambs", False), ("Tom has 10 lambs and sells 3.", "10 - 3 = 7", True),
    ("Tom has 10 lambs and twice as many cows.", "10 * 2 = 20", True), ("Of 40 cows 25% are old.", "40 * 25 / 100 = 10", True),
    ("Tom has 10 lambs.", "10 * 100 = 1000", False), ("Tom eats 3 pies a week.", "3 * 1 = 3", False),
    ("A third of 30 cows.", "1 - 1/3 = 2/3", True), ("Tom eats 21 pies in a week.", "21 / 7 = 3", True),
    ("A pie costs 300 cents.", "300 / 100 = 3", True), ("Tom has 10 lambs.", "10 / 7 = 1.43", False),
    ("Forty men and 2 dozen cows.", "40 + 2 * 12 = 64", True), ("Tom works 3 hours.", "3 * 60 = 180", True),
]


@pytest.mark.parametrize("problem, step, right", ORIGINS)
def test_numbers_come_from_the_problem(problem, step, right):
    found = judge_equations({"prompt": problem, "answer": "7"}, ["", step], whole=False).bad_step
    assert found == (0 if right else "cannot tell")


ANYWHERE = [  # steps, the first plainly false equation
    (["Let us see.", "35 - 13 = 12."], 2), (["x + 3 = 5.", "13 + 4 = 18.", "35 - 17 = 28."], 2),
    (["If 13 + 4 = 18.", "35 - 17 = 28."], 2), (["Substituting, 13 + 4 = 18."], "cannot tell"),
    (["35 - 17 = 18.", "18 + 13 = 31."], "cannot tell"), (["13 + 4 = 17.", "5 + 3 = 8 + 2 = 10."], "cannot tell"),
    (["35 - 17 = 18.", "18 + 12 = 40."], 2), (["35 - 17 = 18."], "cannot tell"),
]


@pytest.mark.parametrize("steps, expected", ANYWHERE)
def test_the_first_false_equation_anywhere(steps, expected):
    row = {**PROBLEM, "answer": None}
    assert judge_equations(row, ["13 + 4 = 18 ", *steps], anywhere=True).bad_step == expected
    if expected == "cannot tell" or steps[0] != "35 - 17 = 18.":
        assert judge_equations(row, ["", *steps]).bad_step == "cannot tell"


def test_other_arithmetic_is_not_judged():
    for prompt in ("Find 5 + 4 in base 8.", "Define 5 + 4 as 5 times 4.", "What does a clock of 8 hours show, 5 + 4?"):
        assert judge_equations({"prompt": prompt}, ["", "5 + 4 = 11"], anywhere=True).bad_step == "cannot tell"


LAST_LINES = [  # completion, gold answer, what the judge says
    ("Step 1: 5 + 3 = 8.\nThe answer is: 9", "8", 1), ("Step 1: 5 + 3 = 8.\nThe answer is: 8", "8", 0),
    ("Step 1: 5 + 3 = 8.\nThe answer is: 8", "16", "cannot tell"),  # something is wrong that is no equation
    ("Step 1: 5 + 3 = 8.\nThe answer is: no", "8", "cannot tell"), ("Step 1: 5 + 3 = 8.", "8", 0),
    ("Step 1: 5 + 3 = 8.\nThe answer is: 8", None, "cannot tell"),  # sound arithmetic is not the whole of it
    ("As 5 + 3 = 8:\nStep 1: 8 + 5 = 13.\nThe answer is: 13", "13", 0),  # a preamble is context
    ("As 5 + 3 = 9:\nStep 1: 8 + 5 = 13.\nThe answer is: 13", "13", "cannot tell"),  # and never at fault
]


@pytest.mark.parametrize("completion, answer, expected", LAST_LINES)
def test_equations_and_the_last_line(completion, answer, expected):
    row = {"prompt": "Ann has 5 and 3.", "answer": answer}
    assert judge_equations(row, split_steps(completion)).bad_step == expected


def test_equations_judge_is_quick_on_hostile_steps():
    begin = time.process_time()
    for piece in ("9", "(", "1 + ", "1 = ", "- ", "\\frac{", "1 ", " ", "3 x", "{", "1,1", "a", "1 a a a a", "\n", "\r",
                  "1/", "$", "\\(", "f'(", "\\) \\(", "1$ ", "%", "1 day "):
        many = piece * (12_000 // len(piece))
        judge_equations(PROBLEM, ["", f"1{many} + 1 = 2"], anywhere=True)
        judge_equations(PROBLEM, ["", f"{many}1 = 2"], anywhere=True)
        assert judge_equations(PROBLEM, ["", many * 5]).words == "too long to read"
    assert time.process_time() - begin < 30  # a generous cap: nothing here is worse than linear


def test_precision_on_the_demos_world():
    import world
    named = hits = wrong = 0
    for name in world.WORLDS:
        for row in world.problems(name, "sft", 150, 11):
            found = judge_equations(row, split_steps(row["solution"])).bad_step
            named += found not in (0, "cannot tell")
            hits += found == row["bad_step"]
            wrong += row["bad_step"] is not None
    assert hits == named == wrong > 100


def written(value, dice):
    """A number as one may write it."""
    if value.denominator > 1:
        return f"{float(value):.2f}"
    plain = f"{abs(value.numerator):,}" if dice.random() < 0.7 else str(abs(value))
    return ("-" if value < 0 else "") + plain


def fresh_step(value, dice, slip):
    """(operand, result, text) of a step from `value` on, in a wording and a notation that no judge here was made for.

    slip is added to the result that the text states.
    """
    b = Fraction(dice.randint(2, 9) if dice.random() < 0.5 else dice.randint(11, 400))
    sign = dice.choice("+-*" if b < 10 else "+-")
    unit = dice.choice(["", "", " litres", " kg", "km", " red balloons"])
    if value.denominator == 1 and value > 0 and value % b == 0:
        sign = "/"
    result = {"+": value + b, "-": value - b, "*": value * b, "/": value / b}[sign] + slip
    spell = {"+": ["+", " + "], "-": ["-", " - ", " − "], "*": [r" \times ", " x ", "×", r" \cdot ", " * "],
             "/": [" ÷ ", "/", r" \div "]}[sign]
    left = f"{written(value, dice)}{unit}{dice.choice(spell)}{written(b, dice)}{unit if sign in '+-' else ''}"
    if sign == "/" and dice.random() < 0.5:
        left = rf"\{dice.choice(['', 'd'])}frac{{{written(value, dice)}}}{{{written(b, dice)}}}"
    if sign in "+*" and dice.random() < 0.2:
        turned = f"{left} = {written(b, dice)}{dice.choice(spell)}{written(value, dice)}"
        left = f"({left})" if dice.random() < 0.5 else turned
    if sign == "*" and dice.random() < 0.3:
        left = f"{written(b * 100, dice)}{dice.choice(['%', chr(92) + '%'])} * {written(value, dice)}"
    said = f"{left} = {written(result, dice)}{unit}"
    return b, result, dice.choice([
        "Also ergibt sich ${}$.", "On obtient donc {}.", r"Hence \[ {} \] as claimed.", "({})", "- {}", "**{}**",
        "There are now {}, which we keep in mind.", "Now: {}; next.", "{} 。", "Total = {}", "so y = {}"]).format(said)


def test_precision_on_wordings_and_formats_that_nobody_tuned_to():
    """Truth by construction: each answer has at most one slip, which later steps go on from."""
    dice = random.Random(5)
    told = {True: [], False: []}  # whether an answer holds an odd notation -> (found, truth)
    for _ in range(400):
        value, steps, operands = Fraction(dice.randint(10, 3000)), [], []
        operands.append(value)
        bad_step = dice.choice([0, 1, 2, 3, 4])
        mixed = dice.random() < 0.3
        for k in range(1, 5):
            slip = dice.choice([-100, -10, -2, 1, 2, 9, 10, 90]) if k == bad_step else 0
            b, value, text = fresh_step(value, dice, slip)
            operands.append(b)
            steps.append(f"Step {k}: {text}\n" + (dice.choice(TRUE) + "\n" if mixed and dice.random() < 0.5 else ""))
        row = {"prompt": "Take " + ", then ".join(written(b, dice) for b in operands) + "."}
        told[mixed].append((judge_equations(row, ["", *steps], whole=False).bad_step, bad_step))
    named = [found == truth for both in told.values() for found, truth in both if found and found != "cannot tell"]
    found = sum(found == truth > 0 for found, truth in told[False]) / sum(truth > 0 for _, truth in told[False])
    print(f"named {len(named)}, precision {sum(named) / len(named):.4f}, found {found:.2f} without odd notations")
    assert sum(named) / len(named) > 0.99 and len(named) > 180 and found > 0.75
    assert not [both for both in told[False] if both[0] == 0 and both[1]], "what is wrong is not found right"


@needs_shared
def test_equations_judge_on_real_answers():
    """All that it names in 400 real answers was looked at: 49,994 + 20,006 is 70,000."""
    named = {}
    for row in map(json.loads, open(SHARED / "math_answers.jsonl")):
        found, words, _ = judge_equations(row, split_steps(row["completion"]))
        if found and found != "cannot tell":
            named[row["id"]] = row["published_verdict"], words
    said = {f"step 4: 49,994 + 20,006 = {wrong} does not hold" for wrong in ("69,999", "69,990")}
    assert len(named) == 7 and {words for _, words in named.values()} == said
    assert not any(right for right, _ in named.values())


@needs_shared
def test_equations_of_real_answers():
    """Of some 1,350 equations in 400 real answers those that are called wrong are wrong: each was looked at."""
    wrong = set()
    for row in map(json.loads, open(SHARED / "math_answers.jsonl")):
        for equation in filter(is_false, find_equations(row["completion"])):
            wrong.add(f"{' '.join(equation.left)} = {' '.join(equation.right)}")
    assert wrong == {"29 - 10 - 1 = 19", "( ( 1 ) / ( 2 ) ) * 24 * 26 = 156", "49,994 + 20,006 = 69,999",
                     "49,994 + 20,006 = 69,990"}


@needs_shared
def test_precision_on_solutions_that_people_wrote():
    """GSM8K's solutions are right; with one result changed the truth is known as well."""
    dice, named, hits, wrong, false_alarms = random.Random(0), 0, 0, 0, {}
    for row in [json.loads(line) for line in open(SHARED / "gsm8k_test.jsonl")][2::3]:
        *lines, final = re.sub(r"<<.*?>>", "", row["solution"]).strip().split("\n")
        parts = ["", *(line + "\n" for line in lines)]
        found, words, _ = judge_equations({**row, "answer": ""}, parts)
        if found and found != "cannot tell":
            false_alarms[row["id"]] = words
        spots = [(k, match) for k, part in enumerate(parts) for match in re.finditer(r"= ?\$?(\d+)(?![\d,.%/])", part)]
        if spots:
            k, match = dice.choice(spots)
            changed = int(match[1]) + dice.choice([-10, 10, -1, 1, 2, -2, 100])
            parts[k] = parts[k][:match.start(1)] + str(abs(changed)) + parts[k][match.end(1):]
            if abs(changed) == int(match[1]):
                continue
            found = judge_equations({**row, "answer": ""}, parts).bad_step
            named, hits, wrong = named + (found not in (0, "cannot tell")), hits + (found == k), wrong + 1
    assert not false_alarms
    print(f"{wrong} changed, {named} named, precision {hits / named:.4f}")
    assert hits / named > 0.99 and hits / wrong > 0.5


@needs_shared
def test_what_is_named_anywhere_in_solutions_that_people_wrote():
    """Each was looked at and is a slip in print: 3/4 of 364 yards is not 364 / 4."""
    named = {}
    for row in map(json.loads, open(SHARED / "gsm8k_test.jsonl")):
        *lines, final = re.sub(r"<<.*?>>", "", row["solution"]).strip().split("\n")
        found, words, _ = judge_equations({**row, "answer": ""}, ["", *lines], anywhere=True)
        if found != "cannot tell":
            named[row["id"]] = words
    assert named == {"gsm8k-501": "step 3: 364 / 4 = 273 does not hold",
                     "gsm8k-1024": "step 5: 32 - 20 = 300 does not hold"}


@needs_shared
def test_what_is_named_in_answers_that_people_labelled():
    """Of the errors in 500 rows of ProcessBench. Each that people did not name was looked at: docs/judges.md."""
    for name, strict, anywhere in (("gsm8k", (2, 2), (8, 7)), ("math", (1, 1), (11, 7))):
        told = {True: [], False: []}
        for row in map(json.loads, open(SHARED / f"processbench_{name}.jsonl")):
            for mode in told:
                found = judge_equations({**row, "prompt": row["problem"]}, ["", *row["steps"]], anywhere=mode).bad_step
                told[mode] += [found == row["label"] + 1] if found != "cannot tell" else []
        assert [(len(hits), sum(hits)) for hits in (told[False], told[True])] == [strict, anywhere]


@needs_shared
def test_the_cases_that_were_called_wrong():
    for row in map(json.loads, open(SHARED.parent / "cases/equations.jsonl")):
        for anywhere in (False, True):
            assert judge_equations(row, split_steps(row["completion"]), anywhere=anywhere).bad_step in (0, "cannot tell")


# ------------------------------------------------------------------------------------------------ the cut

def located(completion, *verdicts, **row):
    async def judge(row, parts, whole, verdicts=iter(verdicts)):
        return Verdict(next(verdicts), "words")
    judges = {str(n): judge for n in range(len(verdicts))}
    return asyncio.run(cut_out_error({"id": "a", "prompt": "p", "answer": "7", "completion": completion, **row}, judges))


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


# ------------------------------------------------------------------------------------------------ rollouts

class Success:
    """Stands in for a policy: from a prefix of k steps, `rates[k]` of ten continuations reach the gold answer 7."""
    def __init__(self, rates):
        self.rates, self.asked = rates, []

    async def ask_once(self, problem, prefix, seed):
        assert (prefix, seed) not in self.asked, "no continuation is sampled twice"
        assert prefix == prefix.rstrip(), "the model's tokens for a new line and a header are its own"
        self.asked.append((prefix, seed))
        right = sum(other == prefix for other, _ in self.asked) <= 10 * self.rates[prefix.count("Step")]
        return Reply(f"\nThe answer is: {7 if right else 9}", "stop")


def rollouts(rates, scan=False, n=10, last="The answer is: 9", whole=True, rows=1):
    """(verdict, probes asked for) of the judge of rollouts on an answer of len(rates) - 1 steps."""
    policy = Success(rates)
    judge = rollouts_file.make_judge(argparse.Namespace(rollouts=n, scan=scan, seed=0, model="M"), policy)
    parts = ["Think.\n", *(f"Step {k}: x\n" for k in range(1, len(rates)))]
    parts[-1] += last

    async def ask():
        return await asyncio.gather(*(judge({"id": str(i), "prompt": "p", "answer": "7"}, parts, whole)
                                      for i in range(rows)))
    verdicts = asyncio.run(ask())
    assert all(verdict == verdicts[0] for verdict in verdicts)
    return verdicts[0], len(policy.asked) / n


def test_rollouts_find_the_first_step_that_loses_the_answer():
    for bad in range(1, 9):
        rates = [0.5] * bad + [0.0] * (9 - bad)
        verdict, probes = rollouts(rates)
        assert verdict.bad_step == bad and probes <= 4  # log2(8) + the bare problem
        assert all(right == 5 * (k < bad) for k, (right, n) in verdict.words["probes"].items())
        assert verdict.words["sure"] > 0.99
        verdict, probes = rollouts(rates, scan=True)
        assert verdict.bad_step == bad and probes == 8 == len(verdict.words["probes"])
        assert verdict.scores == [*rates[1:8], None]  # the values of all steps; the last one has the answer
    assert rollouts([0.5] * 60 + [0.0])[0].bad_step == 60 and rollouts([0.5] * 60 + [0.0])[1] <= 7


def test_only_the_scan_is_sure_to_find_the_first():
    lucky = [0.5, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]  # success comes back
    assert rollouts(lucky, scan=True)[0].bad_step == 2 and rollouts(lucky)[0].bad_step == 5


def test_how_sure_is_the_chance_that_an_equal_step_would_have_shown():
    """Against a simulation: a rate drawn from what `right` of n leaves likely, then n continuations from it."""
    dice, n = random.Random(0), 10
    for right in (1, 2, 5):
        sure = rollouts([right / 10, 0, 0, 0])[0].words["sure"]
        rates = [dice.betavariate(right + 1, n - right + 1) for _ in range(20_000)]
        assert abs(sure - sum(any(dice.random() < rate for _ in range(n)) for rate in rates) / 20_000) < 0.02


def test_rollouts_say_when_they_cannot_tell():
    verdict, probes = rollouts([0.0, 0.0, 0.0])
    assert verdict == Verdict("never solved", {"probes": {0: [0, 10]}}) and probes == 1
    assert rollouts([0.5, 0.5, 0.0], last="The answer is: 7")[0].bad_step == 0
    assert rollouts([0.5, 0.5, 0.0, 0.5], last="The answer is: 7", scan=True)[0].bad_step == 2
    assert rollouts([0.5, 0.5, 0.5], whole=False) == (Verdict(0, {"probes": {2: [5, 10]}}, [None, 0.5]), 1)  # one step to verify
    assert rollouts([0.5, 0.5, 0.0], whole=False)[0].bad_step == 2


def test_answers_that_share_a_prefix_share_its_probe():
    assert rollouts([0.5, 0.5, 0.0], rows=5)[1] == rollouts([0.5, 0.5, 0.0])[1]


def test_rollouts_of_a_real_model(run, taught_model, tmp_path):
    """A drop keeps its probes too; whatever else is in the batch, a prefix has one value; a kill repeats nothing."""
    rows = [{**row, "completion": re.sub(rf"(= |is: ){row['answer']}\b", r"\g<1>99", row["solution"])}
            for row in PROBLEMS[:12]]
    flags = ["--judge", "rollouts", "--model", taught_model, "--temperature", 1, "--rollouts", 6, "--max-tokens", 60]

    def judged(name, rows, *more):
        run("locate.py", *flags, "--out", name, *more, rows=rows)
        lines = [line for end in ("", ".dropped.jsonl") for line in open(tmp_path / (name + end))]
        return {row["id"]: row for row in map(json.loads, lines)}
    whole = judged("a", rows)
    assert len(whole) == 12 and all(row["verdict"]["rollouts"]["probes"]["0"][1] == 6 for row in whole.values())
    assert sum(row.get("bad_step") == 2 for row in whole.values()) >= 6, "the model was taught these, step 2 slips"
    assert judged("b", rows[::-1], "--batch-size", 5) == whole
    journal = (tmp_path / "a.done").read_bytes().splitlines(keepends=True)
    replies = [line for line in journal if b'"reply"' in line]
    (tmp_path / "c.done").write_bytes(b"".join([journal[0], *replies]))  # killed before any row was whole
    assert judged("c", rows, "--resume") == whole
    assert len((tmp_path / "c.done").read_bytes().splitlines()) == len(journal), "nothing was sampled again"


def test_rollouts_need_a_policy(run):
    done = run("locate.py", "--judge", "rollouts", rows=[{"id": 1}], code=2)
    assert "--judge rollouts needs --model" in done.err


# ------------------------------------------------------------------------------------ finding a judge's file

MINE = """
from judges.verdict import Verdict

async def judge(row, parts, whole):
    return Verdict(%s, "because")
"""
TUNED = """
from judges.verdict import Verdict

def make_judge(args, policy):
    async def judge(row, parts, whole):
        return Verdict(args.votes, {"policy": policy, "model": args.judge_model}, [0.5] * (len(parts) - 1))
    return judge
"""


def test_a_judge_is_a_file(run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE % 2)
    (tmp_path / "tuned.py").write_text(TUNED)
    row, = run("locate.py", "--judge", "mine.py,tuned.py", "--votes", 2, rows=[WRONG]).rows
    assert row["bad_step"] == 2 and row["judge"] == "mine.py,tuned.py" and row["rejected"] == " b\nThe answer is: 9"
    assert row["verdict"] == {"mine.py": "because", "tuned.py": {"policy": None, "model": None}}
    assert row["step_scores"] == [0.5, 0.5]


@pytest.mark.parametrize("bad_step, said", [
    (3, "judge mine.py: names step 3 of row a, which has 2; steps count from 1"), (-1, "names step -1 of row a")])
def test_a_judge_that_names_no_step_ends_the_run(bad_step, said, run, tmp_path):
    (tmp_path / "mine.py").write_text(MINE % bad_step)
    assert said in run("locate.py", "--judge", "mine.py", rows=[WRONG], code=1).err


NO_JUDGE = {  # --judge -> what is said
    "equations,": "'' is none; choose equations, human, llm, prm, rollouts, a model",
    "equation": "'equation' is none; did you mean equations?", "rollout,equations": "did you mean rollouts?",
    "equations, ./nobody": "'./nobody' is none; choose equations", "nobody.py": "no file 'nobody.py'",
    "llm": "say which, as llm:MODEL", "equations:gpt": "equations takes no model; leave 'gpt' out",
    "llmm:folder": "did you mean llm?", "empty.py": "has neither `judge` nor `make_judge`",
}


@pytest.mark.parametrize("name", NO_JUDGE)
def test_a_slip_of_the_pen_is_no_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(UserError) as error:
        make_judges(name, argparse.Namespace(model=None))
    assert NO_JUDGE[name] in str(error.value) and error.value.code == 2


@pytest.mark.parametrize("name, model", [("gpt-5", "gpt-5"), ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
                                         ("qwen3:8b", "qwen3:8b"), ("llm:equations", "equations")])
def test_any_other_name_is_a_model(name, model, monkeypatch):
    monkeypatch.setattr(llm, "make_judge", lambda args, policy: args.judge_model)
    assert make_judges(name, argparse.Namespace()) == {name: model}


# -------------------------------------------------------------------------------------------------- human

def at_the_desk(tmp_path, keys, *flags, rows=None):
    """locate.py --judge human on a pseudo-terminal of its own; returns (exit code, what was shown, rows)."""
    rows = rows or [{"id": str(i), "prompt": f"problem {i} \x1b[2J", "answer": "7", "solution": "So 7.",
                     "completion": f"Step 1: a{i}\nStep 2: b{i}\nThe answer is: 9"} for i in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(ROOT / "locate.py"), "in.jsonl", "--judge", "human", "--out", "out.jsonl", *flags]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execv(sys.executable, command)
    shown, answered, stop = b"", 0, time.monotonic() + 100
    while time.monotonic() < stop:
        try:
            shown += os.read(terminal, 4096) if select.select([terminal], [], [], 1)[0] else b""
        except OSError:  # the other side has ended
            break
        if answered < min(len(keys), shown.count(b"(q)uit? ")):
            os.write(terminal, keys[answered].encode() + b"\n")
            answered += 1
    else:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    out = (tmp_path / "out.jsonl").read_text().splitlines()
    return code, shown.decode(), {row["id"]: row.get("bad_step", row.get("found")) for row in map(json.loads, out)}


def test_a_person_judges(tmp_path):
    code, shown, rows = at_the_desk(tmp_path, ["2", "nonsense", "1", "back", "back", "1", "2", "3", "none", "skip"])
    assert code == 0 and rows == {"0": 1, "1": 2}, shown  # 3 is no step; row 2 has no error, row 3 is skipped
    assert "So 7." in shown and "[2] Step 2: b0" in shown and "\x1b[2J" not in shown and "'3' is none of these" in shown
    assert "4 in, 2 kept, 2 dropped (no error found 1, skipped 1)" in shown


def test_a_person_quits_and_resumes(tmp_path):
    code, shown, rows = at_the_desk(tmp_path, ["1", "q"])
    assert code == 130 and rows == {"0": 1}, shown
    code, shown, rows = at_the_desk(tmp_path, ["2", "2", "2"], "--resume")
    assert code == 0 and rows == {"0": 1, "1": 2, "2": 2, "3": 2}, shown


def test_back_passes_rows_that_no_person_saw(tmp_path):
    """And odd rows: very long, with terminal commands and marks that turn text around, without steps or headers."""
    rows = [{"id": "long", "prompt": "x" * 100_000, "completion": "Step 1: a\nStep 2: b"},
            {"id": "mute", "completion": " \n "},
            {"id": "odd", "completion": "one \x1b[2J\x9b31m\u202e\ud800\n\ntwo\n\nthree"}]
    code, shown, found = at_the_desk(tmp_path, ["1", "BACK", "2", "", "2"], rows=[
        {"prompt": "p", "answer": "7", **row} for row in rows])
    assert code == 0 and found == {"long": 2, "odd": 2}, shown
    assert "1-3, (n)one" in shown and shown.count("x" * 100_000) == 2 and "'' is none of these" in shown
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown) and "3 in, 2 kept, 1 dropped (no steps 1)" in shown


def test_a_person_is_scored_one_row_at_a_time(tmp_path):
    rows = [{"id": str(i), "problem": "p", "steps": ["a", "b"], "label": i - 1} for i in range(3)]
    code, shown, found = at_the_desk(tmp_path, ["1", "back", "none", "1", "1"], "--score", "in.jsonl", rows=rows)
    assert code == 0 and found == {"0": 0, "1": 1, "2": 1}, shown
    assert "accuracy on wrong  50.0 %" in shown and "accuracy on right 100.0 %" in shown


# -------------------------------------------------------------------------------------------------- score

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
    ({**BENCH[0], "label": -2}, "its label names no step"), ({**BENCH[0], "steps": []}, "its label names no step of the 0"),
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
