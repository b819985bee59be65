"""Judges: reading their replies, and the arithmetic of `equations`. Run alone: pytest tests/test_locate.py"""
import argparse
import asyncio
import json
import os
import pty
import select
import signal
import sys
import time

import pytest
from conftest import ROOT, SHARED, needs_shared

from evaluate import Reply
from locate import Verdict, find_equations, holds, judge_equations, judge_text, locate, parse_verdict, rollouts_judge
from steps import PREFIX

REPLIES = {  # reply of a judge on three steps -> first wrong step, 0 for none, "unparsed"
    "Fine.\nFinal Decision:\nStep 1: correct; Step 2: correct; Step 3: incorrect": 3,
    "Final Decision:\nStep 1: correct; Step 2: neutral; Step 3: correct": 0,
    "**Final Decision:**\n**Step 1:** Correct\n**Step 2:** Incorrect": 2,
    "final decision: Step 1 - correct, Step 2 is incorrect.": 2,
    "I first thought: Final Decision: Step 1: incorrect. No! Final Decision:\nStep 1: correct; Step 2: incorrect": 2,
    '```json\n{"Step 1": "correct", "Step 2": "incorrect"}\n```': 2,
    '{"1": "correct", "2": "correct", "3": "correct"}': 0,
    "Final Decision:\nStep 1: correct; Step 2: correct": "unparsed",  # what of step 3?
    "Final Decision:\nStep 1: correct; Step 1: incorrect": "unparsed",  # contradicts itself
    "Final Decision:\nStep 4: incorrect": "unparsed",  # there is no step 4
    "Final Decision:\nStep 0: incorrect": "unparsed",
    "Step 2 is incorrect.": "unparsed",
    "第二步是错误的": "unparsed",
    "": "unparsed",
    "{" * 100_000: "unparsed",
    '{"Step 1": ["incorrect"]}': "unparsed",
}


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: repr(reply[:40]))
def test_replies(reply):
    assert parse_verdict(reply, 3) == REPLIES[reply]


def test_neutral_is_no_error_unless_asked():
    reply = "Final Decision:\nStep 1: neutral; Step 2: incorrect"
    assert parse_verdict(reply, 2) == 2 and parse_verdict(reply, 2, neutral_is_error=True) == 1


def test_a_judge_sees_the_solution_or_the_answer():
    row = {"prompt": "{p}", "answer": "7", "solution": "So 7."}
    assert "So 7." in judge_text(row, ["a"]) and "{p}" in judge_text(row, ["a"])
    assert "Correct answer:\n7" in judge_text({"prompt": "p", "answer": "7"}, ["a"])


EQUATIONS = {  # step -> (left, right) of the equations that are read in it
    "Adding gives 30 + 12 = 42.": ["30 + 12 = 42"], "so 3 + 4 = 7 = 14 / 2": ["3 + 4 = 7", "7 = 14 / 2"],
    r"$3 \times 4 = 12$ and \(\frac{1}{2} + \frac{1}{2} = 1\)": ["$3 * 4 = 12", "( ( 1 ) / ( 2 ) ) + ( ( 1 ) / ( 2 ) ) = 1"],
    "She has 3 apples + 4 apples = 7 apples left": ["3 + 4 = 7"], "Total = 3 x 4 = 12": ["3 * 4 = 12"],
    "(3 + 4 = 7)": ["3 + 4 = 7"], "- 3 + 4 = 7": ["3 + 4 = 7"], "$1,200 - $200 = $1,000": ["$1,200 - $200 = $1,000"],
    "12 / 5 = 2 remainder 2": [], "3 + 4 = 7x": [], "2x + 3 = 7": [], "3^2 + 4^2 = 25": [], r"\sqrt{9 + 16} = 5": [],
    "f(3) + 1 = 5": [], "x - 3 = 5": [], "2(3 + 4) = 14": [], "1 1/2 + 1/2 = 2": [], "20% of 50 = 10": [],
    "7/2 = 3 1/2": [], "|3 - 5| = 2": [], "3 + 4 = 7 thousand": [], "half of 30 + 4 = 19": [], "10 mod 3 + 1 = 2": [], r"49{,}994 + 6 = 50{,}000": ["49,994 + 6 = 50,000"],
    r"\frac{1000 \text{ m}}{2.5 \times 3600 \text{ s}} = \frac{1}{9}": [], "3 and 1/2 + 1/2 = 4": [], "3 + 4 = 7 and a half": [],
    "3! + 1 = 7": [], "x_1 + 3 = 5": [],
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_equations_are_read_only_whole(text):
    read = [f"{' '.join(e.left)} = {' '.join(e.right)}" for e in find_equations(text)
            if e.left and e.right and len(e.left) > 1 or e.left == ["7"]]
    assert read == EQUATIONS[text]


@needs_shared
def test_equations_of_real_answers():
    """Of some 1,350 equations in 400 real answers those that are called wrong are wrong: each was looked at."""
    wrong = set()
    for row in map(json.loads, open(SHARED / "math_answers.jsonl")):
        for left, right, _ in find_equations(row["completion"]):
            if left and right and len(left) > 1 and holds(left, right) is False:
                wrong.add(f"{' '.join(left)} = {' '.join(right)}")
    assert wrong == {"29 - 10 - 1 = 19", "( ( 1 ) / ( 2 ) ) * 24 * 26 = 156", "49,994 + 20,006 = 69,999", "49,994 + 20,006 = 69,990"}


PROBLEM = {"prompt": "Ann has 35 beads. She loses 17, then twelve new ones arrive, and she keeps 25% of them.", "answer": "7.5"}
STEPS = [  # steps, what the judge says
    (["35 - 17 = 18.", "18 + 12 = 30.", "30 * 25% = 7.5"], 0),
    (["35 - 17 = 28.", "28 + 12 = 40."], 1),
    (["35 - 17 = 18.", "18 + 12 = 40."], 2),
    (["35 - 17 = 18.", "18 + 13 = 41."], "cannot tell"),  # where is 13 from?
    (["First we subtract.", "35 - 17 = 28."], "cannot tell"),
    (["35 / 17 = 2.06"], 0), (["35 / 17 = 2"], "cannot tell"), (["35 / 17 = 2.16"], 1),
    (["35 - 17 = eighteen"], "cannot tell"), (["35 / (17 - 17) = 0"], "cannot tell"),
    (["35 beads - 17 pens = 40 cups"], "cannot tell"), ([r"$35 - 17 = 28$"], 1), (["35 − 17 = 28 beads"], 1),
    (["__import__('os').system('x') = 35 - 17 = 28"], "cannot tell"), (["35 - 17 = 18 = 19"], 0), (["35 - 17 = 19 - 2"], 1),
]


@pytest.mark.parametrize("steps, expected", STEPS)
def test_equations_judge(steps, expected):
    assert judge_equations(PROBLEM, steps).bad_step == expected


def test_equations_judge_is_quick_on_hostile_steps():
    begin = time.process_time()
    for step in ("9" * 100_000 + " + 1 = 2", "(" * 100_000 + "1 = 2", "1 + " * 50_000 + "1 = 3", "1 = " * 50_000, "- " * 10**5,
                 "\\frac{" * 20_000, "1 " * 10**5, " " * 10**5, "3 x" * 50_000, "{" * 10**5):
        judge_equations(PROBLEM, [step])
    assert time.process_time() - begin < 20  # a generous cap: nothing here is worse than linear


def located(completion, *verdicts, **row):
    async def judge(row, parts, whole, verdicts=iter(verdicts)):
        return Verdict(next(verdicts), "words")
    judges = {str(n): judge for n in range(len(verdicts))}
    return asyncio.run(locate({"id": "a", "prompt": "p", "answer": "7", "completion": completion, **row}, judges))


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
    assert located(ANSWER, "unparsed")["drop"] == "unparsed" and located(ANSWER, "unparsed")["verdict"] == {"0": "words"}
    assert located(ANSWER, 1, 2)["drop"] == "judges disagree" and located(ANSWER, 2, 2)["bad_step"] == 2
    assert located(ANSWER, 1, "cannot tell")["drop"] == "cannot tell"
    assert located(ANSWER, 1, correct=True)["drop"] == "answer is right"
    assert located(" \n", 1)["drop"] == "no steps"
    assert located(PREFIX + "\nStep 2: x", 1)["drop"] == "empty step"


def test_paragraphs_stand_in_for_missing_headers():
    row = located("First a.\n\nThen b.\n\nSo 9.", 2)
    assert (row["split"], row["initial_reason_steps"], row["rejected"]) == ("paragraphs", "First a.\n\n", "Then b.")


# ------------------------------------------------------------------------------------- rollouts, human, score

class Success:
    """Stands in for a policy: from a prefix of k steps, `rates[k]` of the continuations reach the gold answer 7."""
    def __init__(self, rates):
        self.rates, self.asked = rates, []

    async def ask_once(self, problem, solution, seed):
        k = solution.count("Step")
        self.asked.append((solution, seed))
        right = self.asked.count((solution, seed)) == 1 and sum(s == solution for s, _ in self.asked) <= 10 * self.rates[k]
        return Reply(f"\nThe answer is: {7 if right else 9}", "stop")


def rollouts(rates, monkeypatch, scan=False, n=10, last="The answer is: 9", whole=True):
    policy = Success(rates)
    monkeypatch.setattr("locate.Policy", lambda args: policy)
    judge = rollouts_judge(argparse.Namespace(rollouts=n, scan=scan, temperature=None, seed=0))
    parts = ["Think.\n", *(f"Step {k}: x\n" for k in range(1, len(rates)))]
    parts[-1] += last
    verdict = asyncio.run(judge({"id": "a", "prompt": "p", "answer": "7"}, parts, whole))
    assert len(set(policy.asked)) == len(policy.asked), "no continuation is sampled twice"
    return verdict, len(policy.asked) // n


def test_rollouts_find_the_first_step_that_loses_the_answer(monkeypatch):
    for bad in range(1, 9):
        rates = [0.5] * bad + [0.0] * (9 - bad)
        verdict, probes = rollouts(rates, monkeypatch)
        assert verdict.bad_step == bad and probes <= 4  # log2(8) + the bare problem
        assert rollouts(rates, monkeypatch, scan=True)[0].bad_step == bad
        assert all(right == 5 * (k < bad) for k, (right, n) in verdict.words["probes"].items())
        assert bad == 8 or verdict.words["sure"] > 0.99
    lucky = [0.5, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]  # success comes back: only the scan is sure to find the first
    assert rollouts(lucky, monkeypatch, scan=True)[0].bad_step == 2
    assert rollouts([0.1, 0, 0, 0, 0, 0, 0, 0, 0], monkeypatch)[0].words["sure"] < 0.9


def test_rollouts_say_when_they_cannot_tell(monkeypatch):
    assert rollouts([0.0, 0.0, 0.0], monkeypatch)[0].bad_step == "never solved"
    assert rollouts([0.5, 0.5, 0.0], monkeypatch, last="The answer is: 7")[0].bad_step == 0
    assert rollouts([0.5, 0.5, 0.0, 0.5], monkeypatch, last="The answer is: 7", scan=True)[0].bad_step == 2
    assert rollouts([0.5, 0.5, 0.5], monkeypatch, whole=False)[0].bad_step == 0
    assert rollouts([0.5, 0.5, 0.0], monkeypatch, whole=False)[0].bad_step == 2


def at_the_desk(tmp_path, keys, *flags, rows=None):
    """locate.py --judge human on a pseudo-terminal of its own; returns (exit code, what was shown, rows)."""
    rows = rows or [{"id": str(i), "prompt": f"problem {i} \x1b[2J", "answer": "7", "solution": "So 7.",
                     "completion": f"Step 1: a{i}\nStep 2: b{i}\nThe answer is: 9"} for i in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, str(ROOT / "locate.py"), "in.jsonl", "--judge", "human", "--out", "out.jsonl", *flags])
    shown, answered, stop = b"", 0, time.monotonic() + 60
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
    return code, shown.decode(), {row["id"]: row["bad_step"] for row in map(json.loads, out)}


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


def test_score(run, tmp_path):
    """ProcessBench's figures on rows in its shape and in ours; its label counts from 0, -1 is no error."""
    right = "Ann has 5 and 3. 5 + 3 = 8"
    rows = [{"id": "a", "problem": "5 and 3 and 2", "steps": ["5 + 3 = 8.", "8 + 2 = 11."], "final_answer_correct": False, "label": 1},
            {"id": "b", "problem": "5 and 3 and 2", "steps": ["5 + 3 = 9.", "9 + 2 = 11."], "final_answer_correct": False, "label": 0},
            {"id": "c", "problem": "5 and 3 and 2", "steps": ["Hm.", "9 + 2 = 11."], "final_answer_correct": False, "label": 0},
            {"id": "d", "problem": right, "steps": ["5 + 3 = 8."], "final_answer_correct": True, "label": -1},
            {"id": "e", "prompt": right, "answer": "8", "completion": "Step 1: 5 + 3 = 8.", "bad_step": None},
            {"id": "f", "prompt": right, "answer": "8", "completion": "Step 1: 5 + 3 = 8.\nStep 2: 5 + 8 = 12.", "bad_step": 2}]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("locate.py", "--judge", "equations", "--score", "bench.jsonl")
    assert "accuracy on wrong  75.0 %" in done.err and "accuracy on right 100.0 %" in done.err
    assert "F1                 85.7 %" in done.err and "precision         100.0 %" in done.err  # 2 · 0.75 / 1.75
    assert "cannot tell 1" in done.err and "per 1,000 rows" in done.err
    assert [row["found"] for row in done.rows] == [2, 1, "cannot tell", 0, 0, 2]
    done = run("locate.py", "--judge", "equations", "--score", "-", rows=[{"id": "x"}], code=1)
    assert "row x has neither ProcessBench's" in done.err
