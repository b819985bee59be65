"""The domain is one file: stepdpo/task.py. Run alone: pytest tests/test_task.py"""
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, to_lines

from stepdpo import task

JSON_TASK = '''"""Answers are JSON, equal as JSON."""
import json

PREFIX = "Step 1:"
INSTRUCTION = "\\nEnd with one line of JSON."


def check_gold(answer):
    if answer == "no answer":
        raise ValueError("which is none")


def extract_answer(completion):
    try:
        return json.loads(completion.splitlines()[-1])
    except (ValueError, IndexError):
        return None


def same_answer(prediction, gold, problem=None):
    return json.dumps(prediction, sort_keys=True) == json.dumps(gold, sort_keys=True)


def is_right(row, completion):
    return same_answer(extract_answer(completion), row["answer"])
'''
DRIVER = '''"""Every stage in one process, for imports are slow: python driver.py TOKENIZER URL"""
import sys

import collect, correct, evaluate, locate
from stepdpo.prompts import PROMPTS, load_tokenizer, render_prompt

ask = ["--model", "served", "--tokenizer", sys.argv[1], "--base-url", sys.argv[2], "--prompt", "raw"]
assert evaluate.main(["answers.jsonl", "--out", "graded.jsonl"]) == 0
assert collect.main(["problems.jsonl", *ask, "--samples", "1", "--out", "wrong.jsonl"]) == 0
assert locate.main(["wrong.jsonl", "--judge", "rollouts", "--rollouts", "1", *ask, "--out", "lost.jsonl"]) == 0
assert locate.main(["wrong.jsonl", "--judge", "served", "--judge-url", sys.argv[2], "--out", "located.jsonl"]) == 0
assert correct.main(["located.jsonl", *ask, "--samples", "1", "--out", "pairs.jsonl"]) == 0
tokenizer = load_tokenizer(sys.argv[1])
print([prompt for prompt in PROMPTS if "boxed" in render_prompt(tokenizer, "p", prompt)])
'''
GOLDS = [[5], {"x": [1, 2], "y": None}, 0, False, "", 5, "5", ["5"], [5, 6]]


def test_another_file_leaves_mathematics(faulty, tiny_model, tmp_path):
    """Each gold value is right for itself alone, in every stage; no prompt asks for a box."""
    for name in ("stepdpo", "judges"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ("collect.py", "evaluate.py", "locate.py", "correct.py"):
        shutil.copy(ROOT / script, tmp_path)
    (tmp_path / "stepdpo" / "task.py").write_text(JSON_TASK)
    (tmp_path / "driver.py").write_text(DRIVER)
    answers = [{"id": f"{i}#{j}", "prompt": "p", "answer": gold, "completion": f"Step 1: so\n{json.dumps(said)}"}
               for i, gold in enumerate(GOLDS) for j, said in enumerate(GOLDS)]
    (tmp_path / "answers.jsonl").write_text(to_lines(answers))
    problems = [{"id": str(i), "prompt": f"p{i}", "answer": gold} for i, gold in enumerate(GOLDS)]
    (tmp_path / "problems.jsonl").write_text(to_lines(problems))
    text = " so\nStep 2: Final Decision: Step 1: correct; Step 2: incorrect\n[5]"
    done = subprocess.run([sys.executable, "driver.py", tiny_model, faulty("--text", json.dumps([[text, 1]]))],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"

    def read(name):
        return {row["id"]: row for row in map(json.loads, open(tmp_path / name))}

    for row in read("graded.jsonl").values():
        i, j = map(int, row["id"].split("#"))
        assert row["correct"] == (i == j) and json.dumps(row["pred"]) == json.dumps(GOLDS[j])
        assert json.dumps(row["answer"]) == json.dumps(GOLDS[i]), "rows keep the answer as it was"
    wrong = [f"{i}#0" for i, gold in enumerate(GOLDS) if gold != [5]]
    assert sorted(read("wrong.jsonl")) == wrong == sorted(read("located.jsonl"))
    assert read("lost.jsonl") == {} and set(read("lost.jsonl.dropped.jsonl")) == set(wrong)
    assert all(row["drop"] == "never solved" for row in read("lost.jsonl.dropped.jsonl").values())
    assert all(row["drop"] == "no right continuation" for row in read("pairs.jsonl.dropped.jsonl").values())
    assert {row["bad_step"] for row in read("located.jsonl").values()} == {2}


def test_what_a_gold_answer_is_in_mathematics():
    for gold in ("5", 5, [5], ["5"], 5.0, " 5 "):
        task.check_gold(gold)
        assert task.same_answer("5", gold) and not task.same_answer("6", gold)
    assert task.same_answer("1/2", 0.5) and task.same_answer("0", 0)
    for bad in ("", " \n", [""], [], [5, 6], [[5]], {"x": 5}, None, True, [None], [False]):
        with pytest.raises(ValueError):
            task.check_gold(bad)


MATHEMATICS = {"answers", "equality", "expressions", "spelling", "values"}  # the grader
NUMBERS = {"arithmetic.py", "equations.py"}  # the judge that checks sums; it may read numbers, and nothing more


def test_only_the_domain_knows_mathematics():
    """Nothing but task.py imports the grader, so that replacing task.py is enough."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("stepdpo/*.py"), *ROOT.glob("judges/*.py")]:
        if path.name == "task.py" or path.stem in MATHEMATICS:
            continue
        for line in path.read_text().splitlines():
            imported = re.match(r"\s*(?:from|import) stepdpo(?:\.(\w+))? ?(?:import (.*))?", line)
            if imported and MATHEMATICS & {imported[1], *re.findall(r"\w+", imported[2] or "")}:
                assert path.name in NUMBERS and line == "from stepdpo.answers import read_number", (path, line)
