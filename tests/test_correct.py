"""Which continuations make pairs, and what becomes of the others. Run alone: pytest tests/test_correct.py"""
import argparse
import asyncio
import json
import re

import pytest
from conftest import PROBLEMS

from correct import make_pairs
from judges import equations, rollouts
from judges.verdict import Verdict
from stepdpo.reply import Refused, Reply
from stepdpo.task import PREFIX

ROW = {"id": "a#0", "prompt": "Ann has 5 and 3.", "answer": "8",
       "initial_reason_steps": "Think.\nStep 1: Well, 5 and 3.\nStep 2:",
       "rejected": " 5 + 3 = 9.", "full_rejected": " 5 + 3 = 9.\nThe answer is: 9", "split": "headers"}
GOOD = " 5 + 3 = 8.\nThe answer is: 8"


class Said:
    """Stands in for a policy that says these continuations, (text, finish_reason) or text."""
    args = argparse.Namespace(model="M", prompt="chat", prefix="", temperature=1, top_p=1, max_tokens=9, seed=0)

    def __init__(self, *replies):
        self.replies, self.asked = iter(replies), []

    def sampling_record(self):
        return {}

    async def ask_once(self, problem, prefix, seed):
        assert (prefix, seed) not in self.asked
        self.asked.append((prefix, seed))
        reply = next(self.replies)
        return Reply(*reply) if isinstance(reply, tuple) else Reply(reply, "stop")


def pairs_of(*replies, most=9, judges=None, row=ROW):
    return asyncio.run(make_pairs(row, Said(*replies), len(replies), most, judges or {}))


def test_a_pair():
    pair, = pairs_of(" 9.\nThe answer is: 9", GOOD)
    assert (pair["id"], pair["chosen"], pair["full_chosen"]) == ("a#0/1", " 5 + 3 = 8.\nThe answer is: 8", GOOD)
    pair, = pairs_of(" 5 + 3 = 8.\n\nStep 3: Done.\nThe answer is: 8")
    assert pair["chosen"] == " 5 + 3 = 8." and pair["full_chosen"].startswith(pair["chosen"])


def test_equal_steps_make_one_pair_and_the_cap_counts_pairs():
    replies = [GOOD, GOOD, " It is 8.\nThe answer is: 8", " 3 + 5 = 8.\nThe answer is: 8"]
    assert [pair["id"] for pair in pairs_of(*replies)] == ["a#0/0", "a#0/2", "a#0/3"]
    assert [pair["id"] for pair in pairs_of(*replies, most=2)] == ["a#0/0", "a#0/2"]


SAME = " 5 + 3 = 9.\nStep 3: No, 8.\nThe answer is: 8"
EMPTY = "\nStep 3: 8.\nThe answer is: 8"
DROPS = [([" 9.\nThe answer is: 9", " no answer"], "no right continuation"),
         ([(GOOD, "length")], "no right continuation"), ([EMPTY], "empty step"), ([SAME], "same step"),
         ([" 9.\nThe answer is: 9", EMPTY, SAME], "same step")]


@pytest.mark.parametrize("replies, reason", DROPS)
def test_a_row_is_dropped_for_what_its_best_sample_lacked(replies, reason):
    dropped, = pairs_of(*replies)
    assert dropped == {**ROW, "drop": reason}


def test_what_a_judge_refuses_costs_that_step_only():
    """Three right answers: one that the judge finds wrong, one that its server refuses, one that it finds right."""
    said = []

    async def judge(row, parts, whole):
        said.append(("".join(parts), whole))
        if "seven" in parts[-1]:
            raise Refused("refused by the model", "No.")
        return Verdict(2 if "six" in parts[-1] else 0, "words")
    replies = [f" {word} 8.\nStep 3: Done.\nThe answer is: 8" for word in ("six", "seven", "eight", "nine")]
    pair, = pairs_of(*replies, most=1, judges={"J": judge})
    assert pair["chosen"] == " eight 8." and pair["verified"] == {"J": "words"}
    prefix = ROW["initial_reason_steps"]
    assert said == [(f"{prefix} {word} 8.", False) for word in ("six", "seven", "eight")]  # and no more than are wanted
    dropped, = pairs_of(*replies[:2], SAME, judges={"J": judge})
    assert dropped["drop"] == "not verified" and dropped["doubts"] == [
        {"chosen": " six 8.", "bad_step": 2, "verdict": {"J": "words"}},
        {"chosen": " seven 8.", "bad_step": "refused by the model", "verdict": {"J": "No."}}]


def test_equations_verify_the_chosen_step():
    row = {**ROW, "initial_reason_steps": "Step 1:"}
    wrong, mute = " 5 + 3 = 7.\nStep 2: No, 8.\nThe answer is: 8", " Let us see.\nStep 2: 5 + 3 = 8\nThe answer is: 8"
    judge = equations.make_judge(argparse.Namespace(anywhere=False), None)
    pair, = pairs_of(wrong, mute, GOOD, judges={"equations": judge}, row=row)
    assert pair["id"] == "a#0/2"


def test_rollouts_verify_by_the_policy_that_is_open():
    """From each chosen step n continuations, none of the bare problem, none twice."""
    class Policy(Said):
        async def ask_once(self, problem, prefix, seed):
            assert prefix.startswith(ROW["initial_reason_steps"])
            if not self.asked[2:]:
                return await super().ask_once(problem, prefix, seed)
            self.asked.append((prefix, seed))
            return Reply(f"\nThe answer is: {8 if 'six' in prefix else 9}", "stop")
    policy = Policy(*(f" {word}.\nStep 3: Done.\nThe answer is: 8" for word in ("five", "six", "seven")))
    judge = rollouts.make_judge(argparse.Namespace(rollouts=4, scan=False, seed=0, model="M"), policy)
    pair, = asyncio.run(make_pairs(ROW, policy, 3, 9, {"rollouts": judge}))
    assert pair["chosen"] == " six." and pair["verified"] == {"rollouts": {"probes": {2: [4, 4]}}}
    assert pair["chosen_step_scores"] == [None, 1]
    assert len(policy.asked) == len(set(policy.asked)) == 3 + 3 * 4


def test_paragraphs_are_cut_as_paragraphs():
    row = {**ROW, "initial_reason_steps": "Well.\n\n", "rejected": "5 + 3 = 9.", "split": "paragraphs"}
    pair, = pairs_of("5 + 3 = 8.\n\nStep 7: done.\n\nThe answer is: 8", row=row)
    assert pair["chosen"] == "5 + 3 = 8."


def test_verify_with_a_real_model(run, taught_model, tmp_path):
    """Every row is kept or dropped by name, with one judge and with two; resuming changes nothing."""
    rows = []
    for row in PROBLEMS[:8]:
        wrong = re.sub(rf"(= |is: ){row['answer']}\b", r"\g<1>99", row["solution"])
        at = wrong.index("Step 2:") + len("Step 2:")
        rows.append({**row, "completion": wrong, "initial_reason_steps": wrong[:at], "full_rejected": wrong[at:],
                     "rejected": wrong[at:]})
    assert all(row["initial_reason_steps"].startswith(PREFIX) for row in rows)
    flags = ["--model", taught_model, "--samples", 4, "--temperature", 1, "--max-tokens", 40, "--rollouts", 4]
    done = run("correct.py", *flags, "--verify", "equations,rollouts", "--out", "a", rows=rows)
    kept, dropped = ([*map(json.loads, open(tmp_path / name))] for name in ("a", "a.dropped.jsonl"))
    assert f"8 in, {len(kept)} kept, {len(dropped)} dropped" in done.err and kept
    assert all({*row["verified"]} == {"equations", "rollouts"} for row in kept)
    assert {row["drop"] for row in dropped} <= {"no right continuation", "not verified", "same step"}
    journal = (tmp_path / "a.done").read_bytes().splitlines(keepends=True)
    (tmp_path / "b.done").write_bytes(b"".join([journal[0], *(line for line in journal if b'"reply"' in line)]))
    run("correct.py", *flags, "--verify", "equations,rollouts", "--out", "b", "--resume", rows=rows)
    assert sorted(open(tmp_path / "a")) == sorted(open(tmp_path / "b"))
    assert len((tmp_path / "b.done").read_bytes().splitlines()) == len(journal), "nothing was sampled again"


def test_a_person_verifies_into_a_file_only(run):
    done = run("correct.py", "--model", "M", "--verify", "human", rows=[ROW], code=2)
    assert "--judge human needs --out FILE" in done.err
