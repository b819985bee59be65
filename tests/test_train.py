"""Training against formulas, against TRL, against itself in other splits, and as a program.

    python -m pytest tests/test_train.py
"""
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import pytest
import torch
from conftest import FORKS, PROBLEMS, ROOT, make_model, make_tokenizer
from safetensors import safe_open
from test_trie import MODELS, SMALL, branches, mesh, plain_sums, save_stock, scored  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import train
from loss import OBJECTIVES
from stepdpo import checkpoint, export, plan, shard, trie
from stepdpo.command import run_main
from stepdpo.content import path_content
from stepdpo.examples import Example, Sequence, count_tokens, make_example, scored_sequences
from stepdpo.metrics import read_totals
from stepdpo.processes import processes
from stepdpo.prompts import render_prompt


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def join(rank, world, port, err, work, *rest):
    """What a process of a world does: `work(*rest)` is its main; stderr goes to a file."""
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    run_main(lambda: work(*rest))


def start(world, err, *flags, work=train.main):
    """Processes of a world that run train.py with these flags, or `work(*flags)`."""
    port, rest = free_port(), [list(map(str, flags))] if work is train.main else flags
    started = [FORKS.Process(target=join, args=(rank, world, port, str(err), work, *rest)) for rank in range(world)]
    for process in started:
        process.start()
    return started


def codes(started, timeout=300):
    """Exit codes of processes when they have ended."""
    for process in started:
        process.join(timeout)
    return [process.exitcode for process in started]


# ------------------------------------------------------------------------------------------- objectives

def pairs_of(sequences):
    """Examples of two sequences each, [(ids, start)], chosen before rejected."""
    pairs = zip(sequences[::2], sequences[1::2])
    return [Example(str(i), [Sequence(*chosen, 1), Sequence(*rejected, -1)])
            for i, (chosen, rejected) in enumerate(pairs)]


@pytest.mark.parametrize("budget", [60, 10 ** 6])
@pytest.mark.parametrize("name", ["sigmoid", "sft"])
def test_loss_of_a_batch_is_its_formula(name, budget, tmp_path, mesh):
    stock = save_stock(tmp_path, **MODELS["llama"])
    model = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0)
    sequences = branches()[:8]
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0])
    sums = plain_sums(stock, sequences).view(4, 2)
    pairs, references = [], []
    for pair, weight in zip(pairs_of(sequences), weights):
        given = torch.randn(count_tokens(*pair.sequences))
        first = len(pair.sequences[0].ids) - pair.sequences[0].start
        references.append(torch.stack([given[:first].sum(), given[first:].sum()]))
        pairs.append(pair._replace(weight=float(weight), reference=given))
    gain = sums - torch.stack(references)
    objective, flags = OBJECTIVES[name], {}
    if name == "sft":
        pairs = [pair._replace(sequences=pair.sequences[:1], reference=None) for pair in pairs]
        tokens = torch.tensor([count_tokens(*pair.sequences) for pair in pairs])
        expected = -(weights * sums[:, 0]).sum() / (weights * tokens).sum()  # over target tokens, not over rows
    else:
        flags = {"beta": 0.4}
        margin = 0.4 * (gain[:, 0] - gain[:, 1])
        expected = (weights * -torch.nn.functional.logsigmoid(margin)).sum() / weights.sum()
    means, computed, _ = read_totals(train.run_batch(model, pairs, objective, flags, budget, mesh))
    assert means["loss"] == pytest.approx(expected.item(), abs=1e-5)
    if name == "sigmoid":
        assert means["rewards/margins"] == pytest.approx(((weights * margin).sum() / weights.sum()).item(), abs=1e-4)
        assert means["logps/chosen"] == pytest.approx(((weights * sums[:, 0]).sum() / weights.sum()).item(), abs=1e-4)
    expected.backward()
    theirs = dict(stock.named_parameters())
    for key, weight in model.model.named_parameters():
        torch.testing.assert_close(weight.grad.full_tensor(), theirs[key].grad, rtol=1e-3, atol=1e-5)


def test_learning_rates():
    shares = [train.rate_share(step, 100, "cosine", 0.1) for step in range(100)]
    assert 0 < shares[0] < shares[9] < shares[10] == 1
    assert sorted(shares[10:], reverse=True) == shares[10:] and shares[-1] < 0.01
    assert train.rate_share(55, 100, "linear", 0.1) == pytest.approx(0.5)
    assert train.rate_share(99, 100, "constant", 0.0) == train.rate_share(0, 1, "linear", 0.0) == 1


# ------------------------------------------------------------------------------------------------- rows

def make_pairs(count=11):
    """Pairs in the shape of correct.py's output, from PROBLEMS."""
    rows = []
    for row in PROBLEMS[:count]:
        start = row["solution"].index("Step 2:") + len("Step 2:")
        end = row["solution"].index("\nThe answer")
        rows.append({"id": row["id"], "prompt": row["prompt"], "answer": row["answer"],
                     "initial_reason_steps": row["solution"][:start], "chosen": row["solution"][start:end],
                     "rejected": " We add 1 and 1, so 3.", "full_chosen": row["solution"][start:],
                     "full_rejected": " We add 1 and 1, so 3.\nThe answer is: 3", "finish_reason": "stop"})
    return rows


def odd_rows():
    """Ten rows in the shape of Math-Step-DPO-10K, with the joints that it has."""
    row = {"dataset": "math", "prompt": "What is 2 plus 3?", "answer": "5", "chosen": " We add 2 and 3, so 5.",
           "rejected": " We add 2 and 3, so 6.", "full_chosen": " We add 2 and 3, so 5.\nThe answer is: 5",
           "full_rejected": " We add 2 and 3, so 6.\nThe answer is: 6",
           "initial_reason_steps": "Let's think step by step.\nStep 1: We add 2 and 3.\nStep 2:"}
    changes = [
        {}, {"initial_reason_steps": "Let's think step by step. \nStep 1:"},  # a space before the newline
        {"initial_reason_steps": "Let's think step by step. Step 1:"},        # a preamble of one line
        {"initial_reason_steps": "Let's think step by step.\nStep 1: We add.\nStep 2: So.\nStep 3: So.\nStep 16:"},
        {"initial_reason_steps": ""}, {"full_rejected": " We add and add and"},
        {"chosen": "We add 2 and 3, so 5.", "full_chosen": "We add 2 and 3, so 5.\nThe answer is: 5"},
        {"chosen": "We add 2 and 3, so 5.", "rejected": "We add 2 and 3, so 6."},
        {"initial_reason_steps": "Let's think step by step.\nStep 1: "},
        {"chosen": " 5", "rejected": " 6", "initial_reason_steps": "", "full_rejected": " 6"},
    ]
    return [row | change for change in changes]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    """Rows of a JSONL file; of metrics, less what a clock decides."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("tokens_per_second", "mfu")} for row in rows]


def fit(model, pairs, out, *flags, resume=False):
    """Run train.py in this process; returns its metrics."""
    train.main([*map(str, ("--model", model, "--pairs", pairs, "--out", out, "--lr", 1e-3, "--batch-size", 4, *flags)),
                *(["--resume"] if resume else [])])
    return rows_of(out / "metrics.jsonl")


@pytest.fixture(scope="session")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def spell(tokenizer, example):
    """(text before the first target, text of the targets) of each sequence."""
    sequences = scored_sequences([example])
    return [(tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])) for ids, start in sequences]


def make(tokenizer, row, objective, eos=False):
    return make_example({"id": "1", **row}, train.row_texts(row, objective, eos), tokenizer, "raw", 256)[0]


def test_what_is_scored(tokenizer):
    row = make_pairs(1)[0]
    before = row["prompt"] + "\n" + row["initial_reason_steps"]
    assert spell(tokenizer, make(tokenizer, row, "step-dpo")) == [(before, row["chosen"]), (before, row["rejected"])]
    assert spell(tokenizer, make(tokenizer, row, "dpo")) == [(before, row["full_chosen"] + "<|end|>"),
                                                             (before, row["full_rejected"] + "<|end|>")]
    assert spell(tokenizer, make(tokenizer, PROBLEMS[0], "sft")) == [
        (PROBLEMS[0]["prompt"] + "\n", PROBLEMS[0]["solution"] + "<|end|>")]
    whole = row | {"initial_reason_steps": "", "full_chosen": "Good.", "full_rejected": "Bad."}
    assert spell(tokenizer, make(tokenizer, whole, "dpo"))[0] == (row["prompt"] + "\n", "Good.<|end|>")


def test_eos_ends_a_step_that_ends_its_answer(tokenizer):
    row = make_pairs(1)[0]
    last = row | {"full_chosen": row["chosen"] + "\n", "full_rejected": row["rejected"]}
    for given, asked, expected in [(last, False, [0, 0]), (last, True, [1, 1]), (row, True, [0, 0]),
                                   (last | {"finish_reason": "length"}, True, [1, 0]),
                                   ({key: row[key] for key in ("id", "prompt", "chosen", "rejected")}, True, [0, 0])]:
        example = make(tokenizer, given, "step-dpo", asked)
        assert [text.endswith("<|end|>") for _, text in spell(tokenizer, example)] == expected


def test_answers_cut_by_length_do_not_end(tokenizer):
    row = make_pairs(1)[0] | {"finish_reason": "length"}
    chosen, rejected = spell(tokenizer, make(tokenizer, row, "dpo"))
    assert chosen[1].endswith("<|end|>") and not rejected[1].endswith("<|end|>")
    answer = {"prompt": "p", "completion": "Step 1: so", "correct": True, "finish_reason": "length"}
    assert spell(tokenizer, make(tokenizer, answer, "sft")) == [("p\n", "Step 1: so")]


def test_a_token_across_the_joint_belongs_to_the_step(tmp_path):
    tokenizer = make_tokenizer(tmp_path, ["Step 1: ab"] * 9)
    row = {"prompt": "", "initial_reason_steps": "Step 1: a", "chosen": "b", "rejected": "c"}
    before, scored = spell(tokenizer, make(tokenizer, row, "step-dpo"))[0]
    assert before + scored == "\nStep 1: ab" and len(scored) > 1
    assert tokenizer(before + scored).input_ids == list(make(tokenizer, row, "step-dpo").sequences[0].ids)


def test_odd_joints_of_the_public_data(tokenizer):
    for row in odd_rows():
        (before, chosen), (_, rejected) = spell(tokenizer, make(tokenizer, row, "step-dpo"))
        text = row["initial_reason_steps"] + row["chosen"]
        joint = "" if text[0].isspace() else "\n"
        assert before + chosen == row["prompt"] + joint + text
        assert chosen.endswith(row["chosen"]) and rejected.endswith(row["rejected"])
        assert len(chosen) <= len(row["chosen"]) + 1  # at most the white space before it


def test_rows_that_cannot_be_used_are_dropped_and_counted(tiny_model, tmp_path, capfd):
    good, *rest = make_pairs(6)
    rows = [good, rest[0] | {"chosen": ""}, rest[1] | {"chosen": "so", "rejected": "so"},
            good | {"prompt": "long " * 300}]
    out = tmp_path / "out"
    fit(tiny_model, write(tmp_path / "pairs.jsonl", rows), out, "--max-steps", 1)
    assert [row["drop"] for row in rows_of(out / "dropped.jsonl")] == ["nothing to score", "chosen equals rejected",
                                                                       "longer than 256 tokens"]
    assert "4 in, 1 kept, 3 dropped (" in capfd.readouterr().err
    answers = [{"prompt": "p", "completion": text, "correct": right} for text, right in
               [("1", True), ("2", False), ("", True), ("3", True)]]
    fit(tiny_model, write(tmp_path / "sft.jsonl", answers), tmp_path / "sft", "--objective", "sft", "--max-steps", 1)
    assert [row["drop"] for row in rows_of(tmp_path / "sft" / "dropped.jsonl")] == ["wrong answer", "nothing to score"]


# ------------------------------------------------------------------------------------------ whole program

def same(ours, theirs, tolerance=1e-5):
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        for name in a:
            if "accuracies" not in name and name != "computed_tokens":
                near = tolerance * (10 if name == "grad_norm" else 1)  # which nothing else is computed from
                assert a[name] == pytest.approx(b[name], abs=near, rel=near), (a["step"], name)


VARIANTS = {"smoothing": ["--label-smoothing", 0.2], "nll": ["--nll", 0.5],
            "ipo-sum": ["--loss", "ipo-sum", "--lr", 2e-5], "ipo-mean": ["--loss", "ipo-mean", "--nll", 0.1]}


@pytest.mark.parametrize("objective", ["step-dpo", "dpo", "sft", *VARIANTS])
def test_any_micro_batches_give_the_same_run(objective, tiny_model, tmp_path):
    rows = make_pairs() if objective != "sft" else PROBLEMS[:11]
    rows = [row | {"weight": 1 + i % 3} for i, row in enumerate(rows)]
    pairs = write(tmp_path / "pairs.jsonl", rows)  # 11 rows in batches of 4: the last batch does not divide
    flags = ["--epochs", 4, "--weight-decay", 0.1, *VARIANTS.get(objective, ["--objective", objective])]
    one = fit(tiny_model, pairs, tmp_path / "one", *flags)
    small = fit(tiny_model, pairs, tmp_path / "small", *flags, "--tokens-per-micro-batch", 100)
    assert len(one) == 12 and one[-1]["loss"] < one[0]["loss"] and one[-1]["epoch"] == 4
    same(one, small)


def two_nodes(argv):
    """Two agents of torchrun on loopback, a process each."""
    agents = [subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend",
         "c10d", "--rdzv-endpoint", endpoint, "--local-addr", "127.0.0.1", ROOT / "train.py", *map(str, argv)],
        stderr=subprocess.PIPE, text=True) for endpoint in [f"127.0.0.1:{free_port()}"] for _ in range(2)]
    for agent in agents:
        _, said = agent.communicate(timeout=300)
        assert agent.returncode == 0, said


@pytest.mark.parametrize("world", ["two nodes", 3])
def test_processes_equal_one(world, tiny_model, tmp_path):
    """Twelve steps; the last batch of an epoch has one pair, so that every process but one has no data."""
    rows = [row | {"weight": 1 + i % 3} for i, row in enumerate(make_pairs(9))]
    pairs, held_out = write(tmp_path / "pairs.jsonl", rows), write(tmp_path / "eval.jsonl", make_pairs(12)[9:])
    flags = ["--eval-pairs", held_out, "--epochs", 4, "--save-every", 5,
             *VARIANTS["ipo-mean" if world == 3 else "smoothing"]]
    one = fit(tiny_model, pairs, tmp_path / "one", *flags)
    many = ["--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "many", "--lr", 1e-3, "--batch-size", 4]
    many += flags
    if world == 3:
        assert codes(start(3, tmp_path / "err", *many)) == [0] * 3, (tmp_path / "err").read_text()
    else:
        two_nodes(many)
    assert len(one) == 14
    same(one, rows_of(tmp_path / "many" / "metrics.jsonl"))
    # what several processes saved, one goes on with
    for name in ("model.safetensors", "checkpoint-10/.metadata"):
        assert (tmp_path / "many" / name).exists()
    same(one, fit(tiny_model, pairs, tmp_path / "many", *flags, resume=True))
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-4)


def test_experts_train_and_come_out_as_others_read_them(tmp_path):
    """Five experts, fused in memory and one by one in files, over two processes: three and two of them."""
    tokenizer = make_tokenizer(tmp_path / "in", [row["prompt"] + row["solution"] for row in PROBLEMS])
    stock = save_stock(tmp_path / "in", **MODELS["qwen2 moe"] | dict(
        vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.05))
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(8))
    flags = ["--max-steps", 3, "--save-every", 2]
    one = fit(tmp_path / "in", pairs, tmp_path / "one", *flags)
    many = ["--model", tmp_path / "in", "--pairs", pairs, "--out", tmp_path / "many", "--lr", 1e-3, "--batch-size", 4]
    assert codes(start(2, tmp_path / "err", *many, *flags)) == [0, 0], (tmp_path / "err").read_text()
    same(one, rows_of(tmp_path / "many" / "metrics.jsonl"))
    same(one, fit(tmp_path / "in", pairs, tmp_path / "many", *flags, resume=True))
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    for name, weight in stock.state_dict().items():
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-4)
        assert not torch.equal(a[name], weight), name
    with safe_open(tmp_path / "many" / "model.safetensors", "pt") as file:
        assert "model.layers.0.mlp.experts.4.up_proj.weight" in file.keys()


@pytest.mark.parametrize("flags", [["--checkpointing"], ["--offload"]])
def test_memory_savers_change_nothing(flags, tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(6))
    plain = fit(tiny_model, pairs, tmp_path / "plain", "--max-steps", 3)
    thrifty, flags = tmp_path / "thrifty", ["--max-steps", 3, "--save-every", 2, *flags]
    same(plain, fit(tiny_model, pairs, thrifty, *flags), 1e-6)
    same(plain, fit(tiny_model, pairs, thrifty, *flags, resume=True), 1e-6)


@pytest.mark.parametrize("layers", [2, 6])
def test_checkpointing_keeps_what_is_planned(layers, tmp_path, mesh):
    save_stock(tmp_path, **MODELS["llama"], num_hidden_layers=layers)
    slots = trie.count_slots(branches())
    models = [shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0, checkpointing=thrifty)
              for thrifty in (False, True)]
    kept, inputs = (trie.kept_bytes(model, branches()) for model in models)
    assert inputs < 0.5 * kept
    planned = plan.checkpointed_bytes(kept, layers, 4 * slots * models[0].config.hidden_size)
    assert planned == pytest.approx(inputs + (kept - inputs) / layers, rel=0.15)  # one layer is there again in full


# ------------------------------------------------------------------------------------ what goes wrong on the way

def poison(monkeypatch, *calls):
    """Make the loss of some batches NaN, counted from 0 as they are differentiated."""
    sigmoid, count = OBJECTIVES["sigmoid"], iter(range(1000))

    def broken(batch, **flags):
        losses, metrics = sigmoid.function(batch, **flags)
        return (losses * float("nan") if torch.is_grad_enabled() and next(count) in calls else losses), metrics
    monkeypatch.setitem(OBJECTIVES, "sigmoid", sigmoid._replace(function=broken))


def as_if_killed(out):
    """OUT of a run that never came to its end."""
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | {"finished": False}))


def test_a_step_that_is_not_finite_is_skipped_and_counted(tiny_model, tmp_path, monkeypatch):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(12))
    poison(monkeypatch, 1, 3, 4)
    rows = fit(tiny_model, pairs, tmp_path / "out", "--max-steps", 6, "--save-every", 2)
    assert [row["skipped"] for row in rows] == [0, 1, 1, 2, 3, 3]
    assert rows[1]["loss"] is None and rows[1]["pairs"] and len(rows[1]["pairs"]) == 4 and "pairs" not in rows[2]
    assert rows[5]["loss"] < rows[0]["loss"]
    monkeypatch.undo()  # the second step left no trace: the third is what a second would have been
    one = fit(tiny_model, pairs, tmp_path / "one", "--max-steps", 6)
    assert rows[0] == one[0] and rows[2]["loss"] != one[2]["loss"]
    resumed = fit(tiny_model, pairs, tmp_path / "out", "--max-steps", 6, "--save-every", 2, resume=True)
    assert [row["skipped"] for row in resumed] == [0, 1, 1, 2, 3, 3]


def test_a_checkpoint_before_the_first_finite_step_is_gone_on_with(tiny_model, tmp_path, monkeypatch):
    pairs, flags = write(tmp_path / "pairs.jsonl", make_pairs(12)), ["--max-steps", 2, "--save-every", 1]
    poison(monkeypatch, 0, 1)
    fit(tiny_model, pairs, tmp_path / "out", *flags)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    as_if_killed(tmp_path / "out")  # in the second step
    rows = fit(tiny_model, pairs, tmp_path / "out", *flags, resume=True)
    assert [row["skipped"] for row in rows] == [1, 1] and rows[1]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_run_that_breaks_down_ends_with_its_pairs(tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(4))
    text, code = refusal("--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "out", "--lr", 1e30)
    rows = rows_of(tmp_path / "out" / "metrics.jsonl")
    assert "3 steps in a row is not finite, the last of pairs " in text and code == 1
    assert all(row["id"] in text for row in make_pairs(4))
    assert [row["skipped"] for row in rows] == [0, 1, 2, 3] and rows[3]["grad_norm"] is None


@pytest.mark.parametrize("world,number", [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_saves_and_ends_in_order(world, number, tiny_model, tmp_path):
    """One process of two gets it; both end, and a resumed run is an uninterrupted one."""
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs()), tmp_path / "out"
    flags = ["--epochs", 6, "--save-every", 0]
    whole = fit(tiny_model, pairs, tmp_path / "whole", *flags)
    many = ["--model", tiny_model, "--pairs", pairs, "--out", out, "--lr", 1e-3, "--batch-size", 4, *flags]
    started = start(world, tmp_path / "err", *many)
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert started[0].is_alive(), (tmp_path / "err").read_text()
        time.sleep(0.01)
    os.kill(started[-1].pid, number)
    assert codes(started) == [128 + number] * world, (tmp_path / "err").read_text()
    steps = len(rows_of(out / "metrics.jsonl"))
    assert 0 < steps < len(whole) and [path.name for path in out.glob("checkpoint-*")] == [f"checkpoint-{steps}"]
    assert f"saved after step {steps}; go on with --resume" in (tmp_path / "err").read_text()
    assert not (out / "model.safetensors").exists()
    assert codes(start(world, tmp_path / "err", *many, "--resume")) == [0] * world
    same(whole, rows_of(out / "metrics.jsonl"))


def twice():
    with processes("cpu"), train.signals("cpu") as asked:
        assert asked() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def test_a_second_signal_quits(tmp_path):
    assert codes(start(1, tmp_path / "err", work=twice)) == [130], (tmp_path / "err").read_text()


def test_killed_while_saving(tmp_path):
    """SIGKILL at random moments of saves, again and again: the last whole checkpoint is there and is gone on with."""
    make_model(tmp_path / "model", hidden_size=128, intermediate_size=512, num_hidden_layers=6)
    pairs, out, dice = write(tmp_path / "sft.jsonl", PROBLEMS[:8]), tmp_path / "out", random.Random(0)
    flags = ["--objective", "sft", "--max-steps", 16, "--save-every", 1]
    whole = fit(tmp_path / "model", pairs, tmp_path / "whole", *flags)
    flags = ["--model", tmp_path / "model", "--pairs", pairs, "--out", out, "--lr", 1e-3, "--batch-size", 4, *flags]
    kills, torn, resume = 0, 0, []
    while True:
        process, = start(1, tmp_path / "err", *flags, *resume)
        saved = checkpoint.checkpoints(str(out))
        while kills < 5 and process.is_alive() and not (
                checkpoint.checkpoints(str(out)) != saved and (out / "checkpoint-unfinished").exists()):
            time.sleep(0.001)
        if kills < 5:
            time.sleep(dice.uniform(0, 0.04))
            process.kill()
        if codes([process]) != [-signal.SIGKILL]:
            break
        kills, resume = kills + 1, ["--resume"]
        torn += (out / "checkpoint-unfinished").exists()
    assert codes([process]) == [0] and kills >= 4 and torn >= 2, (kills, torn, (tmp_path / "err").read_text())
    said = (tmp_path / "err").read_text()
    assert said.count("going on") == kills
    assert rows_of(out / "metrics.jsonl") == whole
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-15", "checkpoint-16"}


def test_disk_use_is_announced_and_refused(tiny_model, tmp_path, monkeypatch, capfd):
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out"
    fit(tiny_model, pairs, out, "--max-steps", 2, "--save-every", 1)
    weights = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_model).parameters())
    said = capfd.readouterr().err
    assert said.count(f"a checkpoint takes {12 * weights:,} bytes, the last two are kept") == 1
    size = sum(path.stat().st_size for path in (out / "checkpoint-2").iterdir())
    assert 12 * weights < size < 12 * weights + 200_000
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 24 * weights})())
    text, code = refusal("--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "full", "--max-steps", 2,
                         "--save-every", 1)
    assert f"2 checkpoints and the model may take {28 * weights:,} bytes and there are {24 * weights:,}" in text


def test_a_full_disk_while_saving(tiny_model, tmp_path, monkeypatch):
    disk, pairs = tmp_path / "disk", write(tmp_path / "pairs.jsonl", make_pairs(4))
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a small tmpfs here")
    flags = ["--max-steps", 4, "--save-every", 1]
    try:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 1 << 40})())  # full later on
        text, code = refusal("--model", tiny_model, "--pairs", pairs, "--out", disk / "out", "--batch-size", 4, *flags)
        assert "No space left on device; make room; what was saved is whole, go on with --resume" in text
        assert code == 1 and checkpoint.checkpoints(str(disk / "out"))
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        rows = fit(tiny_model, pairs, disk / "out", *flags, "--lr", 5e-7, resume=True)
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        assert (disk / "out" / "model.safetensors").exists()
    finally:
        subprocess.run(["umount", "--lazy", disk])  # the log may be open still


# ----------------------------------------------------------------------------------------------- scale

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) << 10


@contextlib.contextmanager
def peak(found, name):
    """found[name]: the most anonymous memory, sampled every millisecond, beyond what there was before."""
    before, stop, most = anonymous(), threading.Event(), [0]

    def sample():
        while not stop.wait(0.001):
            most[0] = max(most[0], anonymous())
    thread = threading.Thread(target=sample)
    thread.start()
    yield
    stop.set()
    thread.join()
    found[name] = max(most[0], anonymous()) - before


def four_ranks(folder, out):
    # freed memory goes back at once, and modules are loaded before: what is measured is what is held
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    importlib.import_module("transformers.models.llama.modeling_llama")
    with processes("cpu") as mesh:
        found, (example,) = {}, pairs_of(branches()[:2])
        example = example._replace(reference=torch.zeros(count_tokens(*example.sequences)))
        progress = dict(step=0, num_tokens=0, computed_tokens=0, skipped=0)
        with peak(found, "load"):
            model = shard.load_model(folder, mesh, train.shard_model, seed=0)
        optimizers = train.make_optimizers(model, 1e-4, 0.0)
        with peak(found, "step"):
            run = functools.partial(train.run_batch, model, objective=OBJECTIVES["sigmoid"], flags={"beta": 0.4},
                                    budget=1000, mesh=mesh)
            optimizers[0].param_groups[0]["initial_lr"] = optimizers[0].param_groups[1]["initial_lr"] = 1e-4
            train.take_step(run, [example] * 4, model, optimizers, 1.0, 1.0, lambda: torch.tensor(0), progress)
        with peak(found, "checkpoint"):
            checkpoint.save_checkpoint(out, model, optimizers, progress)
        with peak(found, "export"):
            export.export(model, folder, out)
        state = [tensor for entry in optimizers[0].state.values() for tensor in entry.values()]
        sizes = [sum(getattr(tensor, "_local_tensor", tensor).nbytes for tensor in group)
                 for group in (model.parameters(), state)]
        Path(out, f"rank-{mesh.get_rank()}.json").write_text(json.dumps([found, sizes]))


def test_no_process_holds_the_whole_model(tmp_path):
    stock = save_stock(tmp_path / "model", model_type="llama", hidden_size=256, intermediate_size=1024,
                       num_hidden_layers=24, tie_word_embeddings=True)
    whole = sum(weight.numel() * 4 for weight in stock.parameters())
    assert whole > 90e6
    (tmp_path / "out").mkdir()
    started = start(4, tmp_path / "err", str(tmp_path / "model"), str(tmp_path / "out"), work=four_ranks)
    assert codes(started) == [0] * 4, (tmp_path / "err").read_text()
    for rank in range(4):
        found, sizes = json.loads((tmp_path / "out" / f"rank-{rank}.json").read_text())
        shares = {name: size / whole for name, size in found.items()}
        print(f"rank {rank}: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
        # in quarters of the model: 1 of weights; 1 of gradients and 2 of moments; then copies of what is written
        assert shares["load"] < 0.5 and shares["step"] < 1 and max(shares["checkpoint"], shares["export"]) < 0.5
        if rank == 0:
            planned = plan.state_bytes(stock, 4)
            assert sizes == [planned["weights"], planned["Adam's moments"]]
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in stock.state_dict().items():
        torch.testing.assert_close(back[name], weight, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma", "mistral window", "keys wider than values"])
def test_planned_activations_are_what_is_kept(name):
    """The plan's figure, from shapes alone, beside what a real forward pass on a CPU keeps."""
    config = AutoConfig.for_model(**SMALL | {"hidden_size": 64, "intermediate_size": 160} | MODELS[name])
    draw = random.Random(0)
    prefix, *steps = ([draw.randrange(1, 97) for _ in range(n)] for n in (90, 30, 25))
    sequences = [(array("i", prefix + step), 90) for step in steps]
    planned = trie.kept_bytes(shard.build_model(config, "meta", torch.float32)[0], sequences, "cpu")
    real, _ = shard.build_model(config, "cpu", torch.float32)
    rel = 0.05 if name == "keys wider than values" else 0.01  # a CPU has no flash attention for these
    assert planned == pytest.approx(trie.kept_bytes(real, sequences), rel=rel)


@pytest.mark.parametrize("objective,thrifty,budget", [
    ("step-dpo", False, 256), ("step-dpo", True, 1024), ("sft", False, 1024), ("sft", True, 256)])
def test_planned_peak_is_the_allocators(objective, thrifty, budget, tmp_path, monkeypatch):
    """`--plan`'s sum beside the most that torch's allocator gave out at once in two steps, with real attention."""
    tokenizer = make_tokenizer(tmp_path / "in", [row["prompt"] + row["solution"] for row in PROBLEMS])
    assert len(tokenizer) < 2000
    save_stock(tmp_path / "in", **MODELS["llama"] | dict(
        vocab_size=2000, hidden_size=128, intermediate_size=384, num_hidden_layers=6, max_position_embeddings=512,
        tie_word_embeddings=True))
    if objective == "sft":
        rows = write(tmp_path / "rows.jsonl", [{"prompt": row["prompt"], "solution": 2 * row["solution"]}
                                               for row in PROBLEMS][:24])
    else:
        rows = write(tmp_path / "rows.jsonl", make_pairs(12)[:24])
    flags = ["--model", str(tmp_path / "in"), "--pairs", str(rows), "--device", "cpu", "--objective", objective,
             "--batch-size", "12", "--tokens-per-micro-batch", str(budget), "--max-steps", "2", "--save-every", "0"]
    planned, plan_bytes = {}, plan.plan_bytes

    def keep(*given):
        planned.update(plan_bytes(*given))
        return planned

    monkeypatch.setattr(plan, "plan_bytes", keep)
    train.main(["--plan", *flags])
    gc.collect()  # what another test left would be counted when it is freed
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        train.main([*flags, *["--checkpointing"] * thrifty, "--out", str(tmp_path / "out")])
    events = [(event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
              if event.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        held += change
        most = max(most, held)
    assert planned["in all, --checkpointing" if thrifty else "in all"] == pytest.approx(most, rel=0.15)


def test_plan(run, tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(9))
    said = run("train.py", "--plan", "--model", tiny_model, "--pairs", pairs, "--batch-size", 4).stdout.decode()
    rows = fit(tiny_model, pairs, tmp_path / "out", "--epochs", 1)
    saved = 1 - rows[-1]["computed_tokens"] / rows[-1]["num_tokens"]
    assert (f"24 steps of 4 rows; an epoch has {rows[-1]['num_tokens']:,} tokens, of which sharing saves {saved:.1%};"
            in said), said
    assert "parameters on 1 processes" in said and "with --checkpointing --offload" in said
    assert "parameters on 8 processes" in run("train.py", "--plan", "--world", 8, "--model", tiny_model).stdout.decode()


def test_resume_is_bit_equal(tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs())
    flags = ["--eval-pairs", pairs, "--eval-every", 2, "--epochs", 3, "--save-every", 2]
    fit(tiny_model, pairs, tmp_path / "whole", *flags)
    whole = rows_of(tmp_path / "whole" / "metrics.jsonl")
    assert sorted(path.name for path in (tmp_path / "whole").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    cut = tmp_path / "cut"
    with pytest.MonkeyPatch.context() as patch:  # killed in the seventh step, with a torn line in its metrics
        def die(*given, step=train.take_step):
            if given[-1]["step"] == 6:
                raise RuntimeError("killed")
            return step(*given)
        patch.setattr(train, "take_step", die)
        with pytest.raises(RuntimeError):
            fit(tiny_model, pairs, cut, *flags)
    with open(cut / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    fit(tiny_model, pairs, cut, *flags, resume=True)
    assert rows_of(cut / "metrics.jsonl") == whole
    assert (cut / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_resume_refuses_another_run(tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs())
    out = tmp_path / "out"
    flags = ["--max-steps", 2, "--save-every", 1]
    fit(tiny_model, pairs, out, *flags)
    with pytest.raises(train.UserError, match="holds a run; go on with --resume"):
        fit(tiny_model, pairs, out, *flags)
    with pytest.raises(train.UserError, match="made with another --beta, --seed; resume"):
        fit(tiny_model, pairs, out, *flags, "--beta", 0.1, "--seed", 1, resume=True)
    with pytest.raises(train.UserError, match="made with another --pairs;"):
        fit(tiny_model, write(pairs, make_pairs(10)), out, *flags, resume=True)
    (out / "metrics.jsonl").unlink()
    for rest in ("checkpoint-1", "checkpoint-2", "run.json"):
        with pytest.raises(train.UserError, match="holds a run; go on with --resume"):
            fit(tiny_model, pairs, out, *flags)
        if rest != "run.json":
            shutil.rmtree(out / rest)


def test_a_finished_run_stays(tiny_model, tmp_path, capfd):
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out"
    fit(tiny_model, pairs, out, "--max-steps", 2)
    files = {path: path.read_bytes() for path in out.iterdir()}
    fit(tiny_model, pairs, out, "--max-steps", 2, resume=True)
    assert f"{out}: was finished before" in capfd.readouterr().err
    with pytest.raises(train.UserError, match="made with another --beta, --max-steps;"):
        fit(tiny_model, pairs, out, "--max-steps", 3, "--beta", 9, resume=True)
    assert files == {path: path.read_bytes() for path in out.iterdir()}


def test_models_are_told_apart_by_content(tmp_path):
    """Neither names nor dates matter, and models of one size are different."""
    for name in ("a", "b"):
        stock = save_stock(tmp_path / name, seed=ord(name), **MODELS["llama"])
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1, 1))
    a, b = (path_content(str(tmp_path / name)) for name in ("a", "b"))
    assert a != b
    stock.save_pretrained(tmp_path / "a")
    assert path_content(str(tmp_path / "a")) == b


def test_reference_is_another_model(tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(4))
    first = fit(tiny_model, pairs, tmp_path / "a", "--max-steps", 3)
    assert first[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    second = fit(tmp_path / "a", pairs, tmp_path / "b", "--max-steps", 1, "--reference", tiny_model)
    assert second[0]["loss"] < 0.69 and second[0]["rewards/accuracies"] == 1
    assert fit(tmp_path / "a", pairs, tmp_path / "c", "--max-steps", 1)[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


def test_metrics_have_trl_names(tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", make_pairs())
    rows = fit(tiny_model, pairs, tmp_path / "out", "--eval-pairs", pairs, "--eval-every", 1, "--max-steps", 2)
    names = {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
             "logps/rejected"}
    assert [row["step"] for row in rows] == [0, 1, 1, 2, 2]
    assert set(rows[0]) == {"step", "epoch"} | {f"eval_{name}" for name in names}
    assert set(rows[1]) == {"step", "epoch", "grad_norm", "learning_rate", "num_tokens", "computed_tokens",
                            "skipped"} | names
    assert 0 < rows[1]["computed_tokens"] < rows[1]["num_tokens"] < rows[3]["num_tokens"]


def test_speed_is_of_tokens_and_of_the_products_that_they_need(tiny_model, tmp_path, monkeypatch):
    pairs, read = write(tmp_path / "pairs.jsonl", make_pairs(4)), lambda name: [
        json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    fit(tiny_model, pairs, tmp_path / "cpu", "--max-steps", 1)
    assert read("cpu")[0]["tokens_per_second"] > 0 and "mfu" not in read("cpu")[0]  # whose peak nobody lists
    monkeypatch.setattr("stepdpo.metrics.peak_flops", lambda device: 1e9)
    fit(tiny_model, pairs, tmp_path / "gpu", "--max-steps", 1, "--batch-size", 4)
    row, = read("gpu")
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3  # of make_model: query and out, key and value, the MLP
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    scored = sum(count_tokens(*make(tokenizer, pair, "step-dpo").sequences) for pair in make_pairs(4))
    flops = 6 * (row["computed_tokens"] * 2 * layer + scored * len(tokenizer) * 64)
    assert row["mfu"] / row["tokens_per_second"] == pytest.approx(flops / row["num_tokens"] / 1e9)


@pytest.mark.parametrize("name,dtype,files", [("llama", "float32", 1), ("llama", "float32", 3),
                                              ("llama untied, attention bias", "bfloat16", 1),
                                              ("qwen2 moe", "float32", 2)])
def test_export_is_the_trained_model(name, dtype, files, tmp_path, mesh, monkeypatch):
    stock = save_stock(tmp_path / "in", **MODELS[name]).to(getattr(torch, dtype))
    stock.save_pretrained(tmp_path / "in")
    make_tokenizer(tmp_path / "in", ["some text"])
    folder = str(tmp_path / "in")
    model = shard.load_model(folder, mesh, train.shard_model, seed=0)
    sequences = branches()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scored(model, sequences).mean().backward()
    optimizer.step()
    (tmp_path / "out" / "export").mkdir(parents=True)
    (tmp_path / "out" / "export" / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"of a killed export")
    size = sum(weight.numel() * weight.element_size() for weight in stock.parameters())
    monkeypatch.setattr(export, "FILE_BYTES", size // files + 1)
    export.export(model, folder, str(tmp_path / "out"))
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", attn_implementation="sdpa")
    assert back.dtype == getattr(torch, dtype)
    with torch.no_grad():
        for weight in model.parameters():  # what rounding to the files' type leaves
            weight.copy_(weight.to(back.dtype))
        torch.testing.assert_close(plain_sums(back.float(), sequences), scored(model, sequences), rtol=0, atol=1e-4)
    text = "some other text"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text) == AutoTokenizer.from_pretrained(folder)(text)
    weights = ["model.safetensors"] if files == 1 else [
        *(f"model-0000{i + 1}-of-0000{files}.safetensors" for i in range(files)), "model.safetensors.index.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", *weights, "tokenizer.json",
        "tokenizer_config.json"]


def test_random_weights_come_from_the_seed(tmp_path):
    make_model(tmp_path / "start")
    answers = write(tmp_path / "sft.jsonl", PROBLEMS[:8])
    losses = [fit(tmp_path / "start", answers, tmp_path / name, "--objective", "sft", "--epochs", 1, "--seed", seed)
              for name, seed in [("a", 0), ("b", 0), ("c", 1)]]
    assert losses[0] == losses[1] != losses[2]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize("objective", ["step-dpo", "dpo"])
@pytest.mark.parametrize("prompt", ["chat", "qwen2-boxed", "deepseek-math", "alpaca"])
def test_the_public_shape_trains_unchanged(objective, prompt, tiny_model, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", odd_rows())
    out = tmp_path / "out"
    rows = fit(tiny_model, pairs, out, "--objective", objective, "--prompt", prompt, "--max-length", 256, "--epochs", 1)
    assert len(rows) == 3 and (out / "model.safetensors").exists() and not (out / "dropped.jsonl").read_text()


TRL = {"step-dpo": {}, "dpo": {}, "nll": dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.5]),
       "ipo-mean": dict(loss_type=["ipo", "sft"], loss_weights=[1.0, 0.1]),
       "smoothing": dict(loss_type="aot", label_smoothing=0.2)}  # which is conservative DPO where a batch is one pair


@pytest.mark.parametrize("name", TRL)
def test_equals_trl(name, tiny_model, tmp_path, tokenizer):
    """Five optimizer steps beside TRL's DPOTrainer on the same token ids.

    TRL appends EOS to plain text, which is what dpo does; it does not to conversations, so step-dpo's texts go as
    conversations through a template that prints them verbatim. One batch a step, so that order does not matter. The
    variants' pairs go to TRL one by one: its sft and aot are of all pairs of a forward pass together.
    """
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    names = ("full_chosen", "full_rejected") if name == "dpo" else ("chosen", "rejected")
    at_once = 1 if name in VARIANTS else 6
    rows = make_pairs(6)
    texts = [{"prompt": render_prompt(tokenizer, row["prompt"], "raw", row["initial_reason_steps"]),
              "chosen": row[names[0]], "rejected": row[names[1]]} for row in rows]
    if name != "dpo":
        texts = [{side: [{"role": "user" if side == "prompt" else "assistant", "content": text}]
                  for side, text in row.items()} for row in texts]
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    theirs = AutoTokenizer.from_pretrained(tiny_model, chat_template=template)
    trainer = trl.DPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model), train_dataset=datasets.Dataset.from_list(texts),
        processing_class=theirs, args=trl.DPOConfig(
            tmp_path / "trl", beta=0.4, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0, max_steps=5,
            per_device_train_batch_size=at_once, gradient_accumulation_steps=6 // at_once, max_length=None,
            weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, bf16=False, gradient_checkpointing=False,
            use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, **TRL[name]))
    trainer.train()
    ours = fit(tiny_model, write(tmp_path / "pairs.jsonl", rows), tmp_path / "ours", "--prompt", "raw", "--batch-size",
               6, "--warmup", 0, "--max-steps", 5, *VARIANTS.get(name, ["--objective", name]))
    for a, b in zip(ours, trainer.state.log_history, strict=False):
        for key in ("loss", "grad_norm", "learning_rate", "rewards/margins", "rewards/chosen", "logps/chosen",
                    "logps/rejected"):
            assert a[key] == pytest.approx(b[key], abs=1e-4, rel=1e-4), (a["step"], key)


# ------------------------------------------------------------------------------------------- bad input

def refusal(*flags):
    with pytest.raises(train.UserError) as caught:
        train.main(list(map(str, flags)))
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.code


@pytest.mark.parametrize("content,message", [
    ("", "no rows"), ("{\n", ":1: not JSON"), ("[]\n", "a JSON array, not JSON lines"),
    ('{"prompt": "p", "rejected": "r"}\n', ":1: no 'chosen'; run correct.py first"),
    ('{"prompt": "p", "chosen": 1, "rejected": "r"}\n', ":1: 'chosen' is 1, not a string"),
    ('{"prompt": "p", "chosen": "c", "rejected": "r", "initial_reason_steps": 3}\n',
     "row 1: 'initial_reason_steps' is 3, not a string"),
    ('{"prompt": "p", "chosen": "c", "rejected": "r", "weight": -1}\n', "row 1: 'weight' is -1"),
    ('{"prompt": "p", "chosen": "c", "rejected": "r", "weight": 0}\n', "every 'weight' is 0"),
    ('{"prompt": "p", "chosen": "c", "rejected": "r", "drop": "length"}\n', "row 1 was dropped by an earlier stage"),
    ('{"prompt": "p", "chosen": "", "rejected": "r"}\n', "1 in, 0 kept, 1 dropped (nothing to score 1)"),
])
def test_bad_rows(content, message, tiny_model, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(content)
    text, code = refusal("--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "out")
    assert text.startswith(str(pairs)) and message in text and code == 1


def test_sft_rows_need_an_answer(tiny_model, tmp_path):
    pairs = write(tmp_path / "sft.jsonl", [{"prompt": "p", "id": "x"}])
    flags = ["--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "out", "--objective", "sft"]
    text, code = refusal(*flags)
    assert "row x: no 'completion' and no 'solution'; run collect.py" in text and code == 1
    write(pairs, [{"prompt": "p", "completion": None, "solution": "s"}])
    assert "row 1: 'completion' is null, not a string" in refusal(*flags)[0]


def test_bad_models(tiny_model, tmp_path):
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs(2)), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    make_model(tmp_path / "silent", template=False)
    make_model(tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    make_model(tmp_path / "wider", hidden_size=80)
    os.link(f"{tiny_model}/model.safetensors", tmp_path / "wider" / "model.safetensors")
    for name, message in [("empty", "no model there"), ("silent", "no chat template; choose --prompt"),
                          ("pickled", "only safetensors are read"), ("wider", "weights and config.json do not fit")]:
        text, code = refusal("--model", tmp_path / name, "--pairs", pairs, "--out", out)
        assert text.startswith(str(tmp_path / name)) and message in text and code == 2
    text, _ = refusal("--model", "nobody/nothing", "--pairs", pairs, "--out", out)
    assert text.startswith("--model nobody/nothing: neither a model folder nor")
    text, _ = refusal("--model", tiny_model, "--reference", tmp_path / "empty", "--pairs", pairs, "--out", out)
    assert "no model there" in text


@pytest.mark.parametrize("flags,message", [
    (["--lr", "-1"], "--lr -1.0: must be at least 0"), (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--loss", "ipo-sum", "--label-smoothing", "0.1"],
     "--label-smoothing 0.1: is for --loss sigmoid, not for ipo-sum"),
    (["--objective", "sft", "--beta", "1"], "--beta 1.0: is for --loss sigmoid, ipo-sum, ipo-mean, not for sft"),
    (["--objective", "sft", "--reference", "r"], "--reference r: --loss sft asks no reference"),
    (["--loss", "simpo"], "--loss simpo: choose from sigmoid, ipo-sum, ipo-mean, sft"),
    (["--label-smoothing", "0.5"], "--label-smoothing 0.5: must be below 0.5"),
    (["--warmup", "100"], "--warmup 100: is a share of the steps"), (["--world", "0"], "--world 0: must be at least 1"),
    (["--pairs", "-"], "--pairs -: every process reads the file"), (["--out", "/proc/no"], "/proc/no: ")])
def test_bad_flags(flags, message, tmp_path):
    text, code = refusal("--model", "m", "--pairs", "p", "--out", tmp_path / "out", *flags)
    assert text.startswith(message) and code == 2


def test_an_error_is_one_line_on_stderr(run, tiny_model):
    done = run("train.py", "--model", tiny_model, "--pairs", "missing.jsonl", "--out", "out", code=1)
    assert done.err == "train.py: missing.jsonl: No such file or directory; name a JSONL file or '-' for stdin\n"
    assert not done.stdout


def test_help_answers_without_torch():
    code = ("import sys, train\n"
            "try: train.main(['--help'])\n"
            "finally: assert not {'torch', 'transformers'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--tokens-per-micro-batch" in done.stdout, done.stderr
