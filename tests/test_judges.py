"""Judges: a language model, rollouts, a file of one's own, a person. Run alone: pytest tests/test_judges.py"""
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

import pytest
from conftest import PROBLEMS, ROOT, SHARED, make_model, needs_shared

from judges import agree, llm, make_judges
from judges import rollouts as rollouts_file
from judges.llm import judge_text, parse_verdict
from judges.verdict import Verdict
from stepdpo.command import UserError
from stepdpo.reply import Refused, Reply
from stepdpo.settings import Settings

sys.path.insert(0, str(ROOT / "demo"))

WRONG = {"id": "a", "prompt": "p", "answer": "7", "completion": "Step 1: a\nStep 2: b\nThe answer is: 9"}


# --------------------------------------------------------------------------------------------------------- an LLM judge

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
    'I am to write "Final Decision:" and below "Step 1: correct; Step 2: neutral; ...": correct, neutral or incorrect.',
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


# ------------------------------------------------------------------------------------------------------------- rollouts

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
    to_verify = rollouts([0.5, 0.5, 0.5], whole=False)
    assert to_verify == (Verdict(0, {"probes": {2: [5, 10]}}, [None, 0.5]), 1)
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


# ----------------------------------------------------------------------------------------------- finding a judge's file

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


# ---------------------------------------------------------------------------------------------------------------- human

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


