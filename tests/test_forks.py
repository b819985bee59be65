"""What a fork changes in one place: an objective, rows, the optimizer, what is trained. Whole runs of train.py.

    python -m pytest tests/test_forks.py
"""
import json
import math
import shutil

import pytest
import torch
from conftest import PROBLEMS
from safetensors.torch import load_file
from test_train import as_if_killed, fit, make_pairs, poison, rows_of, same, write
from transformers import AutoModelForCausalLM

import train
from loss import OBJECTIVES, Objective, lengths, margins, per_row, per_sequence, preference_metrics
from stepdpo import checkpoint
from stepdpo.command import UserError
from stepdpo.examples import Text


def die_at(monkeypatch, step):
    """The run is killed in this step."""
    def die(*given, whole=train.take_step):
        if given[-1]["step"] == step - 1:
            raise RuntimeError("killed")
        return whole(*given)
    monkeypatch.setattr(train, "take_step", die)


# ------------------------------------------------------------------------------------------- objectives

def simpo_loss(batch, beta):
    """SimPO, equation 6 of arXiv 2405.14734."""
    rewards = beta * per_sequence(batch, batch.policy) / lengths(batch)
    metrics = preference_metrics(batch, rewards)
    metrics["steps"] = per_row(batch, torch.ones_like(rewards))
    metrics["heavy"] = torch.where(batch.row_weight > 1, batch.row_weight, torch.nan)
    return -torch.nn.functional.logsigmoid(margins(batch, rewards) - 0.5), metrics


def test_an_objective_is_one_function(tiny_model, tmp_path, monkeypatch):
    """Its metrics are logged under names that train.py does not know; it asks no reference."""
    monkeypatch.setitem(OBJECTIVES, "simpo", Objective(simpo_loss, ("beta",), reference=False))
    rows = [row | {"weight": 1 + i % 3} for i, row in enumerate(make_pairs(4))]
    pairs, flags = write(tmp_path / "pairs.jsonl", rows), ["--loss", "simpo", "--beta", 2, "--max-steps", 3]
    metrics = fit(tiny_model, pairs, tmp_path / "one", *flags, "--eval-pairs", pairs)
    small = fit(tiny_model, pairs, tmp_path / "small", *flags, "--eval-pairs", pairs, "--tokens-per-micro-batch", 50)
    assert not (tmp_path / "one" / "reference.safetensors").exists()
    first, *steps, last = metrics
    assert first["eval_steps"] == 2 and first["eval_heavy"] == pytest.approx((2 * 2 + 3 * 3) / (2 + 3))
    assert steps[0]["rewards/margins"] == pytest.approx(first["eval_rewards/margins"])
    # log-probs of an untaught model are about alike, so the loss starts near that of a margin of -0.5
    assert steps[0]["loss"] == pytest.approx(math.log(1 + math.exp(0.5)), abs=0.3) and last["eval_loss"] < 0.5
    same(metrics, small, 1e-4)


# ------------------------------------------------------------------------------------------------- rows

def every_step(row, objective, eos=False):
    """All steps of an answer, each a sequence of its own with a side and a weight."""
    texts, before = [], ""
    for text, side, weight in row["steps"]:
        texts.append(Text(before, text, side=side, weight=weight))
        before += text
    return texts


def chains():
    """Rows of four steps that are right or wrong, and a row of wrong ones alone."""
    rows = []
    for problem in PROBLEMS[:5]:
        steps = [("Step 1: so. ", 1, 0.5), ("Step 2: 1 + 1 = 2. ", 1, 1.0), ("Step 3: 2 + 2 = 5. ", -1, 2.0),
                 ("Step 4: 5. ", -1, 0.25)]
        rows.append({"id": problem["id"], "prompt": problem["prompt"], "steps": steps})
    rows[0]["steps"] = [(text, -1, weight) for text, _, weight in steps]
    return rows


def plain_run(folder, rows, tokenizer, rate, steps):
    """[(loss, weights after the step)]: chains by a stock model in float64, a sequence at a time, with SGD."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval() for _ in range(2))
    optimizer = torch.optim.SGD(policy.parameters(), lr=rate)

    def logp(model, row, before, text):
        ids = torch.tensor(tokenizer(row["prompt"] + "\n" + before + text, add_special_tokens=False).input_ids)
        start = len(tokenizer(row["prompt"] + "\n" + before, add_special_tokens=False).input_ids)
        logps = model(ids[None]).logits[0].log_softmax(-1)[start - 1:-1]
        return logps.gather(1, ids[start:, None]).sum()

    losses = []
    for _ in range(steps):
        loss = 0.0
        for row in rows:
            margin = 0.0
            for text in every_step(row, ""):
                with torch.no_grad():
                    before = logp(reference, row, text.before, text.scored)
                margin = margin + 0.4 * text.side * text.weight * (logp(policy, row, text.before, text.scored) - before)
            loss = loss - torch.nn.functional.logsigmoid(margin) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, policy.state_dict()


@pytest.mark.parametrize("budget", [60, 4096])
def test_chains_and_rows_of_one_side(budget, tiny_model, tmp_path, monkeypatch):
    """Three steps of training against a stock model in float64; only the reading of rows is changed."""
    from transformers import AutoTokenizer
    monkeypatch.setattr(train, "row_texts", every_step)
    monkeypatch.setitem(train.REQUIRED, "step-dpo", ("prompt",))
    monkeypatch.setattr(train, "make_optimizers", lambda model, rate, _: [torch.optim.SGD(model.parameters(), lr=rate)])
    rows = write(tmp_path / "rows.jsonl", chains())
    metrics = fit(tiny_model, rows, tmp_path / "out", "--prompt", "raw", "--batch-size", 5, "--max-steps", 3,
                  "--clip", 0, "--schedule", "constant", "--warmup", 0, "--tokens-per-micro-batch", budget)
    losses, weights = plain_run(tiny_model, chains(), AutoTokenizer.from_pretrained(tiny_model), 1e-3, 3)
    assert [row["loss"] for row in metrics] == pytest.approx(losses, abs=1e-5) and losses[2] < losses[1] - 0.05
    for name, weight in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(weight.double(), weights[name], rtol=0, atol=1e-5)


def test_metrics_of_rows_without_a_side(tiny_model, tmp_path, monkeypatch):
    """Negative-only rows train, and a side's metrics are the mean over the rows that have it."""
    def rejected_alone(row, objective, eos=False):
        sides = [side for side in ("chosen", "rejected") if side in row]
        return [Text(row["initial_reason_steps"], row[side], side=1 if side == "chosen" else -1) for side in sides]
    monkeypatch.setattr(train, "row_texts", rejected_alone)
    monkeypatch.setitem(train.REQUIRED, "step-dpo", ("prompt",))
    rows = make_pairs(4)
    whole = fit(tiny_model, write(tmp_path / "one.jsonl", rows[:1]), tmp_path / "one", "--max-steps", 1)
    for row in rows[1:]:
        del row["chosen"]
    mixed = fit(tiny_model, write(tmp_path / "rows.jsonl", rows), tmp_path / "out", "--max-steps", 3)
    assert mixed[0]["logps/chosen"] == pytest.approx(whole[0]["logps/chosen"], abs=1e-4)
    assert mixed[2]["loss"] < mixed[0]["loss"] and mixed[2]["logps/rejected"] < mixed[0]["logps/rejected"]
    negative = fit(tiny_model, write(tmp_path / "rows.jsonl", rows[1:]), tmp_path / "negative", "--max-steps", 3)
    assert negative[0]["logps/chosen"] is None and negative[2]["rewards/rejected"] < 0 < negative[2]["rewards/margins"]


# ------------------------------------------------------------------------------------------- optimizers

def matrices_and_others(model):
    return [[p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False)]


def muon(model, rate, weight_decay):
    matrices, others = matrices_and_others(model)
    return [torch.optim.Muon(matrices, lr=20 * rate, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay)]


OPTIMIZERS = {
    "adamw": train.make_optimizers,
    "sgd": lambda model, rate, decay: [torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=decay)],
    "no state": lambda model, rate, decay: [torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)],
    "state from the start": lambda model, rate, decay: [torch.optim.Adagrad(model.parameters(), lr=rate)],
    "centred": lambda model, rate, decay: [torch.optim.RMSprop(model.parameters(), lr=rate, centered=True)],
    "muon": muon,
}


@pytest.mark.parametrize("poisoned", [[], [0, 1]])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_is_resumed_bit_for_bit(name, poisoned, tiny_model, tmp_path):
    """Killed after the second step: with its state, or, where these steps were not finite, before it has one."""
    pairs = write(tmp_path / "pairs.jsonl", make_pairs())
    flags = ["--max-steps", 4, "--save-every", 1, "--weight-decay", 0.1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_optimizers", OPTIMIZERS[name])
        poison(patch, *poisoned)
        whole = fit(tiny_model, pairs, tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_optimizers", OPTIMIZERS[name])
        poison(patch, *poisoned)
        die_at(patch, 3)
        with pytest.raises(RuntimeError, match="killed"):
            fit(tiny_model, pairs, tmp_path / "cut", *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_optimizers", OPTIMIZERS[name])
        assert fit(tiny_model, pairs, tmp_path / "cut", *flags, resume=True) == whole
    assert whole[3]["skipped"] == len(poisoned)
    one, cut = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut"))
    assert one == cut


def test_a_checkpoint_of_another_optimizer_is_refused(tiny_model, tmp_path, monkeypatch):
    pairs, out, flags = write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out", ["--max-steps", 2]
    fit(tiny_model, pairs, out, *flags, "--save-every", 1)
    as_if_killed(out)
    for name in ("sgd", "muon"):
        monkeypatch.setattr(train, "make_optimizers", OPTIMIZERS[name])
        with pytest.raises(UserError, match="made with other trained parameters or another optimizer"):
            fit(tiny_model, pairs, out, *flags, resume=True)


# ---------------------------------------------------------------------------------------- what is trained

def freeze(model, args):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1.mlp" in name)


def test_frozen_parameters_leave_no_trace(tiny_model, tmp_path, monkeypatch, capfd):
    """Not in the optimizer, the checkpoint, the plan, nor the announcement; and in the export as they came."""
    pairs, flags = write(tmp_path / "pairs.jsonl", make_pairs()), ["--max-steps", 4, "--save-every", 2]
    monkeypatch.setattr(train, "prepare_model", freeze)
    whole = fit(tiny_model, pairs, tmp_path / "whole", *flags)
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 4)
        with pytest.raises(RuntimeError):
            fit(tiny_model, pairs, tmp_path / "cut", *flags)
    saved = checkpoint.saved_places(tmp_path / "cut" / "checkpoint-2")
    matrices = {f"1.mlp.{matrix}.weight" for matrix in ("gate_proj", "up_proj", "down_proj")}
    assert {name.split("layers.")[-1] for name, in saved["model"]} == matrices
    assert {place[1] for place in saved["optimizer 0"] if place[0] == "state"} == {name for name, in saved["model"]}
    assert fit(tiny_model, pairs, tmp_path / "cut", *flags, resume=True) == whole
    start, end = load_file(f"{tiny_model}/model.safetensors"), load_file(tmp_path / "cut" / "model.safetensors")
    for name, weight in start.items():
        assert torch.equal(weight, end[name]) == ("layers.1.mlp" not in name), name
    trained = 3 * 64 * 128
    assert f"a checkpoint takes {12 * trained:,} bytes" in capfd.readouterr().err
    train.main(["--plan", "--device", "cpu", "--model", tiny_model])
    said = capfd.readouterr().out
    every = sum(weight.numel() for weight in start.values())
    assert f"{every:,} parameters on 1 processes, {trained:,} of them trained; each takes" in said
    monkeypatch.undo()
    as_if_killed(tmp_path / "cut")
    with pytest.raises(UserError, match="made with other trained parameters"):
        fit(tiny_model, pairs, tmp_path / "cut", *flags, resume=True)


# --------------------------------------------------------------------------------------------- reference

def killed_before_the_first_step(model, pairs, out, *flags):
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 1)
        with pytest.raises(RuntimeError):
            fit(model, pairs, out, *flags)
    assert (out / "reference.safetensors").exists() and not list(out.glob("checkpoint-*"))


def test_the_reference_is_kept_in_out(tiny_model, tmp_path, monkeypatch):
    """A run killed before its first checkpoint does not ask the reference again, and is the run that it was."""
    pairs, held_out = write(tmp_path / "pairs.jsonl", make_pairs(8)), write(tmp_path / "held.jsonl", make_pairs(11)[8:])
    flags = ["--eval-pairs", held_out, "--max-steps", 2]
    whole = fit(tiny_model, pairs, tmp_path / "whole", *flags)
    killed_before_the_first_step(tiny_model, pairs, tmp_path / "cut", *flags)
    monkeypatch.setattr("stepdpo.reference.ask_reference", None)
    assert fit(tiny_model, pairs, tmp_path / "cut", *flags, resume=True) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "held.jsonl", "pairs.jsonl", "whole"]


def test_the_reference_is_reused_for_nothing_else(tiny_model, tmp_path):
    """Other rows, weights of rows, prompt, model or held-out rows: refused, before anything is computed."""
    rows, out = make_pairs(8), tmp_path / "out"
    pairs, other = write(tmp_path / "pairs.jsonl", rows), tmp_path / "other.jsonl"
    flags = ["--max-steps", 2]
    killed_before_the_first_step(tiny_model, pairs, out, *flags)
    first, *rest = rows
    for changed in (rest, rows[::-1], [first | {"weight": 2}, *rest], [first | {"chosen": " 3."}, *rest]):
        with pytest.raises(UserError, match="made with another --pairs;"):
            fit(tiny_model, write(other, changed), out, *flags, resume=True)
    with pytest.raises(UserError, match="made with another --eval-pairs;"):
        fit(tiny_model, pairs, out, *flags, "--eval-pairs", pairs, resume=True)
    with pytest.raises(UserError, match="made with another --pairs, --prompt;"):
        fit(tiny_model, pairs, out, *flags, "--prompt", "raw", resume=True)
    shutil.copytree(tiny_model, tmp_path / "changed")
    weights = bytearray((tmp_path / "changed" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "changed" / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="made with another --model, --reference;"):
        fit(tmp_path / "changed", pairs, out, *flags, resume=True)
    with pytest.raises(UserError, match="made with another --reference;"):
        fit(tiny_model, pairs, out, *flags, "--reference", tmp_path / "changed", resume=True)
    run = json.loads((out / "run.json").read_text())
    run["settings"]["device"] = "cuda"
    (out / "run.json").write_text(json.dumps(run))
    with pytest.raises(UserError, match="made with another --device;"):
        fit(tiny_model, pairs, out, *flags, resume=True)
    for damaged in ("", "{", "[]", "{}", '{"settings": 3, "finished": true}'):
        (out / "run.json").write_text(damaged)
        with pytest.raises(UserError, match="run.json: does not hold the settings of a run"):
            fit(tiny_model, pairs, out, *flags, resume=True)
    (out / "run.json").unlink()
    with pytest.raises(UserError, match="run.json is gone"):
        fit(tiny_model, pairs, out, *flags, resume=True)


def test_a_flag_that_nobody_listed_is_compared(tiny_model, tmp_path, monkeypatch):
    """A new flag counts by itself; those that cannot matter may change; a copy of the model and the rows goes on."""
    pairs, out, flags = write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out", ["--max-steps", 2]
    whole = fit(tiny_model, pairs, tmp_path / "whole", *flags)
    fit(tiny_model, pairs, out, *flags, "--save-every", 1)
    as_if_killed(out)
    shutil.rmtree(out / "checkpoint-2")
    shutil.copytree(tiny_model, tmp_path / "copy")
    shutil.copy(pairs, tmp_path / "copy.jsonl")
    add = train.add_step_flags
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "add_step_flags", lambda flag: [add(flag), flag("--token-decay", default=1.0)])
        with pytest.raises(UserError, match="made with another --token-decay; resume"):
            fit(tiny_model, pairs, out, *flags, resume=True)
    again = fit(tmp_path / "copy", tmp_path / "copy.jsonl", out, *flags, "--save-every", 0, "--checkpointing",
                "--tokens-per-micro-batch", 100, resume=True)
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in whole], abs=1e-5)
    assert rows_of(out / "metrics.jsonl") == again
