"""Each recipe is applied to a copy of the tree, and the commands of its head run there as they stand.

    python -m pytest tests/test_recipes.py

A recipe whose hunk no longer applies is mended like this, at the top of a clean checkout:

    git apply --3way recipes/simpo.patch             # what no longer fits is marked as in a merge
    $EDITOR loss.py                                  # ... mend it
    { sed '/^diff --git/,$d' recipes/simpo.patch; git diff HEAD; } > simpo.new    # the old head, the new changes
    git reset --hard && mv simpo.new recipes/simpo.patch
"""
import functools
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FORKS, ROOT, to_lines

RECIPES = sorted(path.stem for path in ROOT.glob("recipes/*.patch"))
STEPS = ("Let's think step by step.\nStep 1:", " We add 2 and 3, so 5.", "\nStep 2:", " We add 5 and 4, so 9.",
         "\nThe answer is: 9")


# -------------------------------------------------------------------------------------------- patches

def read_patch(name):
    """(head, {file: changed lines}) of a recipe."""
    head, *diffs = re.split(r"(?m)^(?=diff --git )", (ROOT / "recipes" / f"{name}.patch").read_text())
    changed = {}
    for diff in diffs:
        lines = diff[diff.index("\n@@"):].splitlines()
        changed[re.search(r"^\+\+\+ b/(\S+)", diff, re.M)[1]] = sum(line[:1] in ("+", "-") for line in lines)
    return head, changed


def commands(head):
    """The commands of a head, as lists of words."""
    lines = re.sub(r"\\\n\s*", " ", head).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("    python ")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_small_and_says_what_it_is(name):
    head, changed = read_patch(name)
    assert sum(changed.values()) <= 25 and len(changed) <= 2
    idea, *parts = head.strip().split("\n\n")
    assert ": " in idea and parts[-1].startswith("Look for: ") and commands(head)
    assert all(len(line) <= 120 for line in head.splitlines())


def test_the_table_says_what_the_patches_change():
    page = (ROOT / "recipes" / "README.md").read_text()
    told = re.findall(r"(?m)^\| \[([\w-]+)\]\(([\w-]+)\.patch\) \|.*\| ([^|]+) \| (\d+) \|$", page)
    assert sorted(name for name, *_ in told) == RECIPES
    for name, link, files, lines in told:
        _, changed = read_patch(name)
        assert (link, files, int(lines)) == (name, ", ".join(f"`{file}`" for file in changed), sum(changed.values()))


# ----------------------------------------------------------------------------------------------- runs

def run_scripts(tree, calls, log):
    """In a process of its own: run scripts in a tree, one after another, each as __main__. calls: lists of words."""
    os.chdir(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path) != ROOT)]
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    for sys.argv in calls:
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


@pytest.fixture
def cook(request, tiny_model, tmp_path):
    """cook(rows=[...], ...) applies the recipe that the test is named after and runs its commands; returns the tree.

    rows of NAME go to NAME.jsonl. flags: {script: more flags}. The model M is the tiny one.
    """
    def cook(flags, **rows):
        name = request.node.name.removeprefix("test_").replace("_", "-")
        tree = tmp_path / "tree"
        for part in ("stepdpo", "judges"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        for script in ROOT.glob("*.py"):
            shutil.copy(script, tree)
        outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}  # whatever lies above is not meant
        subprocess.run(["git", "apply", ROOT / "recipes" / f"{name}.patch"], cwd=tree, env=outside, check=True)
        (tree / "M").symlink_to(tiny_model)
        for kind, content in rows.items():
            (tree / f"{kind}.jsonl").write_text(to_lines(content))
        calls = [[*words, *map(str, flags[words[0]])] for _, *words in commands(read_patch(name)[0])]
        process = FORKS.Process(target=run_scripts, args=(tree, calls, tmp_path / "log"))
        process.start()
        process.join(300)
        assert process.exitcode == 0, (tmp_path / "log").read_text()
        return tree
    return cook


TRAIN = ["--device", "cpu", "--prompt", "raw", "--batch-size", 4, "--max-steps", 2, "--warmup", 0, "--lr", 1e-3]
MEASURED = [*TRAIN, "--eval-pairs", "pairs.jsonl"]


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def four_pairs():
    """Pairs that share a prefix; their wrong steps go on in different ways."""
    begin, first, header, second, end = STEPS
    rows = []
    for wrong, rest in (("6", "\nStep 2: We go on with 6, so 10.\nThe answer is: 10"), ("7", "\nThe answer is: 7"),
                        ("8", "\nStep 2: 8 and 4 make 11.\nStep 3: So it is 11.\nThe answer is: 11"),
                        ("5 or 6, nobody knows which", "\nStep 2: 12.\nThe answer is: 12")):
        rejected = f" We add 2 and 3, so {wrong}."
        rows.append({"id": wrong, "prompt": "What is 2 plus 3 plus 4?", "answer": "9", "initial_reason_steps": begin,
                     "chosen": first, "full_chosen": first + header + second + end, "rejected": rejected,
                     "full_rejected": rejected + rest})
    return rows


@functools.cache
def stock(folder):
    """(model in float64, tokenizer) of a folder, as transformers reads them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), AutoTokenizer.from_pretrained(folder)


def stock_logits(folder, before, text):
    """(logits (n, V), tokens (n,)) at the n tokens of `text`, which stands behind the problem and `before`."""
    import torch

    from stepdpo.prompts import encode_step
    model, tokenizer = stock(folder)
    ids, start = encode_step(tokenizer, "What is 2 plus 3 plus 4?\n" + before + text, text)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, start - 1:-1], torch.tensor(ids[start:])


def stock_logps(folder, before, text):
    logits, tokens = stock_logits(folder, before, text)
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_simpo(cook, tiny_model):
    rows = four_pairs()
    out = cook({"train.py": TRAIN}, pairs=rows) / "runs" / "simpo"
    losses = []
    for row in rows:
        chosen, rejected = (stock_logps(tiny_model, STEPS[0], row[side]).mean() for side in ("chosen", "rejected"))
        losses.append(-log_sigmoid(2 * (chosen - rejected) - 1))
    assert read_rows(out / "metrics.jsonl")[0]["loss"] == pytest.approx(mean(losses), abs=1e-5)
    assert not (out / "reference.safetensors").exists()


def test_token_weights(cook, tiny_model):
    rows = four_pairs()
    out = cook({"train.py": MEASURED}, pairs=rows) / "runs" / "token-weights"

    def reward(row, side):
        gains = stock_logps(out, STEPS[0], row[side]) - stock_logps(tiny_model, STEPS[0], row[side])
        return 0.4 * sum(0.98 ** i * gain for i, gain in enumerate(gains.tolist()))

    losses = [-log_sigmoid(reward(row, "chosen") - reward(row, "rejected")) for row in rows]
    assert read_rows(out / "metrics.jsonl")[-1]["eval_loss"] == pytest.approx(mean(losses), abs=1e-5)
    assert mean(losses) < 0.6


def test_full_step(cook, faulty, tiny_model):
    """Rollouts are right by their seed in one case of three, so steps differ in value."""
    begin, first, header, second, _ = STEPS
    wrong = [{"id": f"{i}", "prompt": "What is 2 plus 3 plus 4?", "answer": "1",
              "completion": begin + first + header + second + "\nStep 3: So 9.\nThe answer is: 9"} for i in range(4)]
    ask = ["--base-url", faulty(), "--prompt", "raw"]
    tree = cook({"locate.py": ask, "correct.py": ask, "train.py": MEASURED}, wrong=wrong)
    pairs, out = read_rows(tree / "pairs.jsonl"), tree / "runs" / "full-step"
    for row in pairs:
        assert len(row["step_scores"]) == 3 and len(row["chosen_step_scores"]) == row["bad_step"]
    assert any(len(set(row["step_scores"])) == 3 for row in pairs) and any(row["bad_step"] > 1 for row in pairs)

    def reward(row, side, values):
        before, steps = begin.removesuffix("Step 1:"), []
        for step in re.split(r"(?=Step \d:)", (row["initial_reason_steps"] + row[f"full_{side}"])[len(before):])[1:]:
            text = step + "<|end|>" * ("The answer is" in step)
            steps.append((stock_logps(out, before, text) - stock_logps(tiny_model, before, text)).sum().item())
            before += step
        shares = [math.exp(value) for value in values]
        return 0.4 * sum(share * gain for share, gain in zip(shares, steps, strict=True)) / sum(shares)

    losses = []
    for row in pairs:
        chosen = reward(row, "chosen", [*row["chosen_step_scores"][:-1], 1])
        rejected = reward(row, "rejected", [-value for value in [*row["step_scores"][:-1], 0]])
        losses.append(-log_sigmoid(chosen - rejected))
    assert read_rows(out / "metrics.jsonl")[-1]["eval_loss"] == pytest.approx(mean(losses), abs=1e-5)


def test_watch(cook, tiny_model):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    rows = four_pairs()
    out = cook({"train.py": MEASURED}, pairs=rows) / "runs" / "watch"
    entropies = {"chosen": [], "rejected": []}
    for row in rows:
        for side, values in entropies.items():
            logps = stock_logits(tiny_model, STEPS[0], row[side])[0].log_softmax(-1)
            values.append(-(logps.exp() * logps).sum(-1).mean().item())
    metrics = read_rows(out / "metrics.jsonl")
    for side, values in entropies.items():
        assert metrics[0][f"eval_entropy/{side}"] == pytest.approx(mean(values), abs=1e-5)
    board = EventAccumulator(str(out)).Reload()
    for name in ("loss", "entropy/chosen", "eval_entropy/rejected"):
        told = [(event.step, event.value) for event in board.Scalars(name)]
        assert told == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in metrics if name in row]


def test_json(cook):
    """Completions that are only graded, so no model is asked. Each gold answer is right for itself alone."""
    golds = [[5], 5, "5", {"x": [1, 2], "y": None}, True, 0, "", [[1], [2], [3]] * 40]
    said = [(json.dumps(gold), gold) for gold in golds]
    said += [("5.0", 5), ('{"y": null, "x": [1.0, 2]}', golds[3]), ("```json\n[5]\n```", [5]), ("null", None),
             ("NaN", None), ("1e999", None), ("[" * 200 + "]" * 200, None), ("[" * 100_000, None), ("about 5", None)]
    rows = [{"id": f"{i}#{j}", "prompt": "p", "answer": gold, "completion": f"Step 1: so\n{text}"}
            for i, gold in enumerate(golds) for j, (text, _) in enumerate(said)]
    cut = {"id": "cut", "prompt": "p", "answer": 5, "completion": "Step 1: so\n5", "finish_reason": "length"}
    tree = cook({"evaluate.py": []}, problems=[*rows, cut])  # it may have become 50
    *graded, last = sorted(read_rows(tree / "graded.jsonl"), key=lambda row: row["id"])
    assert len(graded) == len(rows) and last["pred"] is None and not last["correct"]
    for row in graded:
        i, j = map(int, row["id"].split("#"))
        _, value = said[j]
        assert row["answer"] == golds[i] and row["pred"] == value and type(row["pred"]) is type(value) or j == 8
        assert row["correct"] == (i == j or (i, j) in [(1, 8), (3, 9), (0, 10)]), row


def test_muon(cook, tiny_model):
    """The first update of a layer's matrix is orthogonal, as far as its gradient has rank. All else is AdamW's."""
    import torch
    from safetensors.torch import load_file
    once = ["--max-steps", 1, "--schedule", "constant", "--lr", 1e-3, "--clip", 0]
    out = cook({"train.py": [*TRAIN, *once]}, pairs=four_pairs()) / "runs" / "muon"
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (tiny_model, out))
    for name, weight in before.items():
        change = after[name] - weight
        if ".layers." in name and weight.ndim == 2:
            values = torch.linalg.svdvals(change) / (1e-3 * 0.2 * max(weight.shape) ** 0.5)
            assert 0.6 < values[8] < values[0] < 1.3, (name, values)
        else:
            assert change.abs().max() == pytest.approx(1e-3, rel=0.01), name


def test_sfs(cook):
    begin, first, *_ = STEPS
    rows = four_pairs()
    tree = cook({"train.py": MEASURED}, pairs=rows)
    out, start = tree / "runs" / "sfs", tree / "runs" / "stage-1"
    assert [(row["id"], row["drop"]) for row in read_rows(out / "dropped.jsonl")][:1] == [
        ("7", "nothing after the wrong step")]

    def reward(before, text):
        return 0.4 * (stock_logps(out, before, text) - stock_logps(start, before, text)).sum().item()

    losses = []
    for row, goes_on in ((rows[0], " We go on with 6, so 10.\nThe answer is: 10"), (rows[2], " 8 and 4 make 11."),
                         (rows[3], " 12.\nThe answer is: 12")):
        before = begin + row["rejected"] + "\nStep 2:"
        chosen = reward(before, " The previous step is incorrect. We add 2 and 3, so 5.")
        losses.append(-log_sigmoid(chosen - reward(before, goes_on)))
    assert read_rows(out / "metrics.jsonl")[-1]["eval_loss"] == pytest.approx(mean(losses), abs=1e-5)
    assert mean(losses) < 0.6


def test_controlled(cook, faulty):
    """The server's answers are 0, 1 or 2, by the seed."""
    from stepdpo.policy import sample_seed
    texts = {answer: "".join(STEPS[:4]) + f"\nThe answer is: {answer}" for answer in ("1", "9")}
    rights = {f"{answer} {i}": [sample_seed(0, f"{answer} {i}", m) % 3 == int(answer) for m in range(2)]
              for answer in texts for i in range(12)}
    assert sorted(set(map(tuple, rights.values()))) == [(False, False), (False, True), (True, False), (True, True)]
    problems = [{"id": key, "prompt": "What is 2 plus 3 plus 4?", "answer": key[0], "completion": texts[key[0]]}
                for key in rights]
    problems += [{**problems[0], "id": "one step", "completion": STEPS[0] + " 1.\nThe answer is: 1"},
                 {**problems[0], "id": "wrong", "completion": texts["9"]}]
    ask = ["--base-url", faulty(), "--prompt", "raw"]
    tree = cook({"collect.py": ask, "correct.py": [*ask, "--samples", 2], "train.py": TRAIN}, problems=problems)
    dropped = {row["id"]: row["drop"] for row in read_rows(tree / "pairs.jsonl.dropped.jsonl")}
    assert dropped == {"one step": "no right answer of several steps",
                       **{key: "never wrong" for key, right in rights.items() if all(right)}}
    pairs = read_rows(tree / "pairs.jsonl")
    assert {row["id"] for row in pairs} == {key for key, right in rights.items() if not all(right)}
    for row in pairs:
        seed = sample_seed(0, row["id"], rights[row["id"]].index(False))  # the first that came out wrong
        assert row["initial_reason_steps"] == "".join(STEPS[:3])
        assert row["initial_reason_steps"] + row["full_chosen"] == row["completion"] and row["chosen"] == STEPS[3] + (
            f"\nThe answer is: {row['answer']}")
        assert row["full_rejected"] == row["rejected"] == f" 1 + 1 = 2.\nThe answer is: {seed % 3}"
    assert read_rows(tree / "runs" / "controlled" / "metrics.jsonl")[1]["rewards/margins"] > 0
