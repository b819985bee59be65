"""Low-rank adapters against peft, and as runs of train.py.

    python -m pytest tests/test_lora.py
"""
import json
import shutil

import peft
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_forks import die_at
from test_models import ALL, CPU, draw_sequences, load, make_stock, stock_logps
from test_train import codes, fit, make_pairs, refusal, rows_of, same, start, write
from test_trie import mesh  # noqa: F401
from transformers import AutoModelForCausalLM

import train
from stepdpo import checkpoint, plan, shard, trie
from stepdpo.examples import load_examples, scored_sequences
from stepdpo.export import export
from stepdpo.lora import adapters, add_adapters, merge_adapters, save_adapter
from stepdpo.prompts import load_tokenizer
from stepdpo.trie import sequence_logps

RANK, ALPHA = 4, 12
LINEAR = 2 * 7  # linear layers of tiny_model


def prepare(model):
    add_adapters(model, RANK, ALPHA, seed=0)


@torch.no_grad()
def fill(model):
    """B, which is zeros in the beginning, becomes random."""
    for number, linear in enumerate(adapters(model).values()):
        shard = linear.lora_B.to_local()
        shard.copy_(0.1 * torch.randn(shard.shape, generator=torch.Generator().manual_seed(number)))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "mixtral", "falcon_h1", "gemma2", "gpt_neox"])
def test_equals_peft(name, tmp_path, mesh):
    """Log-probs; gradients of A and B; the merged folder; the adapter, loaded by peft onto the base."""
    make_stock(tmp_path / "in", name)
    ours, sequences = load(tmp_path / "in", mesh, prepare=prepare), draw_sequences()
    fill(ours.model)
    got, _ = sequence_logps(ours, sequences, CPU)
    direction = torch.randn(len(got), generator=torch.Generator().manual_seed(2))
    (got * direction).sum().backward()
    gradients = {f"base_model.model.{name}.{matrix}": getattr(linear, matrix).grad.full_tensor()
                 for name, linear in adapters(ours.model).items() for matrix in ("lora_A", "lora_B")}
    assert all(p.grad is None for p in ours.parameters() if not p.requires_grad)
    (tmp_path / "out").mkdir()
    save_adapter(ours.model, str(tmp_path / "in"), str(tmp_path / "out"))
    merge_adapters(ours.model)
    export(ours, str(tmp_path / "in"), str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(stock_logps(merged, sequences), got, rtol=0, atol=1e-4)
    torch.testing.assert_close(sequence_logps(ours, sequences, CPU)[0], got, rtol=0, atol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter", is_trainable=True)
    expected = stock_logps(theirs, sequences)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    (expected * direction).sum().backward()
    their = {name.removesuffix(".default.weight"): weight.grad for name, weight in theirs.named_parameters()
             if weight.requires_grad}
    assert their.keys() == gradients.keys()
    largest = max(gradient.norm() for gradient in their.values())
    for name, gradient in their.items():
        assert (gradients[name] - gradient).norm() < 1e-3 * gradient.norm().clamp(min=1e-3 * largest), name


@pytest.mark.parametrize("objective,world", [("step-dpo", 2), ("dpo", 3), ("sft", 1)])
def test_a_run(objective, world, tiny_model, tmp_path, capfd):
    """Held-out rows are the judge: what the run measured at its end, peft and the merged folder say too.

    Several processes measure what one does; a killed run goes on bit for bit; checkpoints hold adapters alone.
    """
    pairs = write(tmp_path / "pairs.jsonl", make_pairs() if objective != "sft" else [
        {"prompt": row["prompt"], "completion": row["full_chosen"]} for row in make_pairs()])
    flags = ["--objective", objective, "--eval-pairs", pairs, "--lora", RANK, "--lora-alpha", ALPHA, "--epochs", 2,
             "--save-every", 2]
    one = fit(tiny_model, pairs, tmp_path / "one", *flags)
    if objective != "sft":
        assert one[0]["eval_rewards/margins"] == one[0]["eval_rewards/chosen"] == 0.0
        assert one[-1]["eval_rewards/margins"] > 0.01
    numbers = sum(weight.numel() for weight in load_file(tmp_path / "one/adapter/adapter_model.safetensors").values())
    said = capfd.readouterr().err
    assert f"a checkpoint takes {12 * numbers:,} bytes" in said
    assert f"adapters of rank {RANK} on {LINEAR} linear layers\n" in said
    saved = checkpoint.saved_places(tmp_path / "one" / "checkpoint-4")
    assert len(saved["model"]) == 2 * LINEAR and all("lora" in name for name, in saved["model"])
    if world > 1:
        many = ["--model", tiny_model, "--pairs", pairs, "--out", tmp_path / "many", "--lr", 1e-3, "--batch-size", 4]
        assert codes(start(world, tmp_path / "err", *many, *flags)) == [0] * world, (tmp_path / "err").read_text()
        same(one, rows_of(tmp_path / "many" / "metrics.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 4)
        with pytest.raises(RuntimeError):
            fit(tiny_model, pairs, tmp_path / "cut", *flags)
    assert fit(tiny_model, pairs, tmp_path / "cut", *flags, resume=True) == one
    examples, _ = load_examples(str(pairs), train.REQUIRED[objective], lambda row: train.row_texts(row, objective),
                                load_tokenizer(tiny_model), "chat", 512, 512)
    sequences = scored_sequences(examples)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "one" / "adapter")
    found = stock_logps(adapted, sequences).detach()
    for folder in ("one", "many") if world > 1 else ("one",):
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(stock_logps(merged, sequences), found, rtol=0, atol=1e-4)
    if objective == "sft":
        assert -found.mean().item() == pytest.approx(one[-1]["eval_loss"], abs=1e-4)
    else:
        sums = torch.stack([part.sum() for part in found.split([len(ids) - begin for ids, begin in sequences])])
        assert sums[::2].mean().item() == pytest.approx(one[-1]["eval_logps/chosen"], abs=1e-4)


@pytest.mark.parametrize("flags", [["--checkpointing"], ["--offload"]])
def test_memory_savers_change_nothing(flags, tiny_model, tmp_path):
    pairs, how = write(tmp_path / "pairs.jsonl", make_pairs(6)), ["--lora", RANK, "--max-steps", 3]
    same(fit(tiny_model, pairs, tmp_path / "plain", *how), fit(tiny_model, pairs, tmp_path / "out", *how, *flags), 1e-6)


def test_a_base_in_bfloat16(tiny_model, tmp_path, capfd):
    """By the trie as without it; merged in float32, so that each weight is rounded once."""
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs()), tmp_path / "out"
    flags = ["--lora", RANK, "--max-steps", 6]
    exact = fit(tiny_model, pairs, tmp_path / "exact", *flags)
    assert "rounded" not in capfd.readouterr().err
    rows = fit(tiny_model, pairs, out, *flags, "--base-dtype", "bfloat16")
    assert "its weights are rounded to bfloat16, in what comes out too" in capfd.readouterr().err
    assert rows[-1]["computed_tokens"] == exact[-1]["computed_tokens"] < rows[-1]["num_tokens"]
    for row, other in zip(rows, exact):
        assert row["loss"] == pytest.approx(other["loss"], abs=0.02)
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (tiny_model, out))
    tensors = load_file(out / "adapter/adapter_model.safetensors")
    for name, weight in before.items():
        a, b = (tensors.get(f"base_model.model.{name.removesuffix('weight')}{matrix}.weight")
                for matrix in ("lora_A", "lora_B"))
        delta = 0 if a is None else 2 * (b @ a)
        assert torch.equal(after[name], (weight.bfloat16().float() + delta).bfloat16().float()), name


def test_an_adapter_names_the_hub_model_that_it_is_of(tiny_model, tmp_path, monkeypatch):
    """By its hub name: the cached snapshot's folder is nowhere else."""
    model = tmp_path / "cache/models--some--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text("0" * 40)
    shutil.copytree(tiny_model, model / "snapshots" / ("0" * 40))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    fit("some/model", write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out", "--lora", RANK, "--max-steps", 1)
    config = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model"


def test_the_plan_knows_what_is_kept(tmp_path, mesh):
    """Bytes of the shards, and of what forward passes keep, from shapes alone."""
    make_stock(tmp_path, "qwen3", hidden_size=64, intermediate_size=160)
    ours, sequences = load(tmp_path, mesh, prepare=prepare, dtype="bfloat16"), draw_sequences(((60, 40), (55, 40)))
    planned, _ = shard.build_model(ours.config, "meta", torch.bfloat16)
    with torch.device("meta"):
        prepare(planned.model)
    states = plan.state_bytes(planned, 1, frozen=2)
    assert states["weights"] == sum(weight.to_local().nbytes for weight in ours.parameters())
    numbers = sum(weight.numel() for weight in ours.parameters() if weight.requires_grad)
    assert states["gradients"] == 4 * numbers < states["weights"]
    exact, _ = shard.build_model(ours.config, "cpu", torch.float32)
    prepare(exact.model)
    planned.to(torch.float32)
    assert trie.kept_bytes(planned, sequences) == pytest.approx(trie.kept_bytes(exact, sequences), rel=0.15)


def test_bad_flags(tiny_model, tmp_path):
    pairs, out = write(tmp_path / "pairs.jsonl", make_pairs(4)), tmp_path / "out"
    flags = ["--model", tiny_model, "--pairs", pairs, "--out", out]
    assert refusal(*flags, "--lora", 0) == ("--lora 0: must be at least 1", 2)
    assert refusal(*flags, "--lora-alpha", 8) == ("--lora-alpha 8: is for --lora; leave it out", 2)
    assert refusal(*flags, "--base-dtype", "float32") == ("--base-dtype float32: is for --lora; leave it out", 2)
    text, code = refusal(*flags, "--lora", 1000)
    assert text.startswith("--lora 1000: is more than the smaller side of k_proj, 32 x 64") and code == 2
    make_stock(tmp_path / "gpt2", "gpt2", vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "gpt2" / name).write_bytes((ROOT / tiny_model / name).read_bytes())
    text, code = refusal("--model", tmp_path / "gpt2", "--pairs", pairs, "--out", out, "--lora", 2)
    assert text.startswith("--lora 2: models of type gpt2 have no plain linear layers") and code == 2
    assert not out.exists()
    fit(tiny_model, pairs, out, "--lora", 2, "--max-steps", 1)
    text, code = refusal(*flags, "--lora", 4, "--resume")
    assert text.startswith(f"{out}: made with another --") and "--lora" in text and code == 2
    text, code = refusal("--model", out / "adapter", "--pairs", pairs, "--out", tmp_path / "more", "--lora", 2)
    assert "adapter" in text and code == 2
