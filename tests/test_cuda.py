"""First contact with a GPU: what must agree there before anything is timed. Every check is a test of its own.

    python -m pytest tests/test_cuda.py -v                     # on one GPU: three minutes at most
    CUDA_DRY_RUN=1 python -m pytest tests/test_cuda.py -v      # the CPU in the GPU's place: is the file itself right?

Without a GPU all of it is skipped, but in a dry run, which CI makes. Beside the packages of requirements.txt it needs
pytest alone (wheels to bring where there is none: pytest, pluggy, iniconfig, packaging, pygments).

Truth is a stock model in float32, or a formula in float64, on the CPU. What rounding does is measured, not guessed: a
stock model in bfloat16 on the same GPU stands beside ours. On a CPU both are float32, and must agree far better.
"""
import json
import os
import random
import shutil
import sys
from array import array
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import loss
import train
from demo import world
from loss import token_logps
from stepdpo import attention, sampler, shard
from stepdpo.examples import count_tokens, make_example
from stepdpo.metrics import read_totals
from stepdpo.processes import processes
from stepdpo.prompts import render_prompt
from stepdpo.trie import build_trie, sequence_logps

GPU = torch.cuda.is_available()
KIND = "cuda" if GPU else "cpu"
pytestmark = pytest.mark.skipif(not GPU and not os.environ.get("CUDA_DRY_RUN"),
                                reason="no GPU here; CUDA_DRY_RUN=1 puts the CPU in its place")
needs_gpu = pytest.mark.skipif(not GPU, reason="says nothing of a CPU")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it, before cuBLAS starts


@pytest.fixture
def mesh():
    """A world of one process; on a GPU it talks through NCCL."""
    with processes(KIND) as mesh:
        yield mesh


def relative(ours, truth):
    """‖ours − truth‖ / ‖truth‖"""
    ours, truth = ours.detach().double().cpu(), truth.detach().double().cpu()
    return ((ours - truth).norm() / truth.norm().clamp(min=1e-30)).item()


# ------------------------------------------------------------------------------------------ the fused head

@pytest.mark.parametrize("block", [1 << 20, None], ids=["many blocks", "one block"])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype,near", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=["float32", "bfloat16"])
def test_fused_gather_equals_float64(dtype, near, softcap, block, monkeypatch):
    """Values, and the gradients by hidden states, weight and bias."""
    monkeypatch.setitem(loss.BLOCK_LOGITS, KIND, block or 1 << 26)
    torch.manual_seed(0)
    inputs = [torch.randn(300, 256), torch.randn(8000, 256) * 0.05, torch.randn(8000)]
    inputs = [tensor.to(dtype) for tensor in inputs]  # what is rounded before is not our error
    targets, grad = torch.randint(8000, (300,)), torch.randn(300)
    hidden, weight, bias = exact = [tensor.double().requires_grad_() for tensor in inputs]
    logits = hidden @ weight.T + bias
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    truth = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    truth.backward(grad.double())
    given = [tensor.to(KIND).requires_grad_() for tensor in inputs]
    ours = token_logps(given[0], given[1], targets.to(KIND), given[2], softcap)
    ours.backward(grad.to(KIND))
    errors = [relative(ours, truth), *(relative(a.grad, b.grad) for a, b in zip(given, exact))]
    print("value, d hidden, d weight, d bias off by", *(f"{error:.1e}" for error in errors))
    assert max(errors) < near


# ------------------------------------------------------------------------------------------------ attention

def branches(vocabulary=611):
    """Sequences (ids, start) that share in every way: several steps on one prefix, equal beginnings, one alone."""
    draw = random.Random(0)

    def some(count):
        return [draw.randrange(1, vocabulary) for _ in range(count)]

    prompt, prefix, begin = some(40), some(30), some(3)
    texts = [(prompt + prefix + begin + some(20), 70), (prompt + prefix + begin + some(31), 70),
             (prompt + prefix + some(25), 70), (prompt + some(50), 40), (some(33), 9), (prompt + prefix, 41)]
    return [(array("i", ids), start) for ids, start in texts]


def dense_attention(q, k, v, trie, window):
    """The definition, in one dense mask: a slot sees its ancestors and itself, `window` positions back at most."""
    sees = torch.zeros(len(trie.ids), len(trie.ids), dtype=torch.bool)
    for segment in trie.segments:
        for depth in range(segment.shared, len(segment.path)):
            first = max(depth + 1 - (window or depth + 1), 0)
            sees[segment.path[depth], segment.path[first:depth + 1]] = True
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~sees, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("window", [None, 16, 200])
@pytest.mark.parametrize("heads,widths", [((8, 8), (16, 16)), ((8, 2), (64, 64)), ((6, 2), (20, 12))],
                         ids=["own heads", "shared heads", "odd widths"])
def test_attention_equals_a_dense_mask(heads, widths, window):
    """varlen_attn and its gathers, values and gradients; a CPU's grouped attention in a dry run."""
    trie = build_trie(branches())
    slots, dtype = len(trie.ids), torch.bfloat16 if GPU else torch.float32
    torch.manual_seed(0)
    shapes = (slots, heads[0], widths[0]), (slots, heads[1], widths[0]), (slots, heads[1], widths[1])
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    exact = [tensor.double().requires_grad_() for tensor in inputs]
    truth = dense_attention(*exact, trie, window)
    grad = torch.randn(truth.shape).to(dtype)
    truth.backward(grad.double())
    given = [tensor.to(KIND).requires_grad_() for tensor in inputs]
    layout = attention.place_trie(trie, torch.device(KIND)).layout
    kernel = attention.attend_varlen if GPU else attention.attend_padded
    ours = kernel(*given, layout, None, window)
    ours.backward(grad.to(KIND))
    errors = [relative(ours, truth), *(relative(a.grad, b.grad) for a, b in zip(given, exact))]
    print("value, d q, d k, d v off by", *(f"{error:.1e}" for error in errors))
    assert max(errors) < (1e-2 if GPU else 1e-5)


# ------------------------------------------------------------------------------------------------ whole models

BASE = dict(vocab_size=611, hidden_size=128, intermediate_size=192, num_hidden_layers=3, num_attention_heads=8,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, bos_token_id=None,
            eos_token_id=0, pad_token_id=0)
FAMILIES = {
    "llama": {}, "llama, odd heads": dict(hidden_size=96, head_dim=12), "qwen2": dict(tie_word_embeddings=True),
    "qwen3": dict(head_dim=16), "mistral, window": dict(sliding_window=24), "gemma": dict(head_dim=32),
    "qwen2_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
                      shared_expert_intermediate_size=64),
    "phi3, own heads": dict(num_attention_heads=4, num_key_value_heads=4, head_dim=32),
}


def stock_run(folder, device, dtype, sequences, direction):
    """(summed log-probs of each sequence in a forward pass of its own, {name: gradient of direction · sums})."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    sums = []
    for ids, start in sequences:
        ids = torch.tensor(ids, device=device)
        logits = model(input_ids=ids[None]).logits[0, start - 1:-1].float()
        sums.append(logits.log_softmax(-1).gather(1, ids[start:, None]).sum())
    sums = torch.stack(sums)
    (sums * direction.to(device)).sum().backward()
    return sums.detach().cpu(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trie_errs_no_more_than_a_stock_model(name, tmp_path, mesh):
    """Log-probs and gradients in bfloat16: at most 1.5 times as far from float32 as transformers' own bfloat16."""
    torch.manual_seed(1)
    config = AutoConfig.for_model(name.split(",")[0], **{**BASE, **FAMILIES[name]})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    sequences, direction = branches(), torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5, -0.5])
    truth, true_grads = stock_run(tmp_path, "cpu", torch.float32, sequences, direction)
    peer, peer_grads = stock_run(tmp_path, KIND, torch.bfloat16 if GPU else torch.float32, sequences, direction)
    model = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0)
    assert model.by_trie and model.fused
    logps, _ = sequence_logps(model, sequences, torch.device(KIND))
    ours = torch.stack([part.sum() for part in logps.split([len(ids) - start for ids, start in sequences])])
    (ours * direction.to(KIND)).sum().backward()
    errors = {}  # name: (ours, stock's)
    for key, weight in model.model.named_parameters():
        # where rounding sends a token to another expert, all of its gradient is another expert's
        if "expert" not in key and true_grads[key].norm() > 0:
            true = true_grads[key]
            errors[key] = relative(weight.grad.full_tensor(), true), relative(peer_grads[key], true)
    far, peer_far = (ours.detach().cpu() - truth).abs().max().item(), (peer - truth).abs().max().item()
    slope, peer_slope = (max(error[side] for error in errors.values()) for side in (0, 1))
    print(f"log-prob off by {far:.1e}, stock {peer_far:.1e}; gradient {slope:.1e} at {max(errors, key=errors.get)}, "
          f"stock {peer_slope:.1e}")
    assert len(errors) > 10
    assert far <= 1.5 * peer_far + 1e-3 and slope <= 1.5 * peer_slope + 1e-4


# ------------------------------------------------------------------------------------------------ training

POLICY, STEPS = str(ROOT / "demo" / "policy"), 20 if GPU else 10


def demo_pairs(count):
    """Pairs of the demo's number world: the true step and the one with a slip, on one prefix."""
    rng, rows = random.Random(0), []
    while len(rows) < count:
        row = world.tell_story("number", rng, world.SMALL, world.FORGETS)
        if row["bad_step"]:
            head = f"\nStep {row['bad_step']}:"
            prefix, right = row["solution"].split(head, 1)
            wrong = row["forgetful"].split(head, 1)[1]
            rows.append({"id": str(len(rows)), "prompt": row["prompt"], "initial_reason_steps": prefix + head,
                         "chosen": right.split("\n")[0], "rejected": wrong.split("\n")[0]})
    return rows


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in demo_pairs(80)))
    return str(path)


def fit(pairs, out, *flags, device=KIND):
    """The records of STEPS steps of train.py on the demo's policy, in this process."""
    train.main(["--model", POLICY, "--pairs", pairs, "--out", str(out), "--lr", "3e-5", "--beta", "1", "--batch-size",
                "16", "--epochs", str(STEPS * 16 // 80), "--save-every", str(STEPS // 2), "--device", device, *flags])
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def plain(pairs, tmp_path_factory):
    """The folder of a run on the GPU with no flag for speed or memory."""
    out = tmp_path_factory.mktemp("plain") / "out"
    fit(pairs, out, "--eval-pairs", pairs)
    return out


def examples_of(pairs, tokenizer):
    rows = map(json.loads, Path(pairs).read_text().splitlines())
    return [make_example(row, train.row_texts(row, "step-dpo"), tokenizer, "chat", 4096)[0] for row in rows]


def losses(rows):
    return [row["loss"] for row in rows if "loss" in row]


def same_losses(ours, theirs, near):
    far = max(abs(a - b) for a, b in zip(losses(ours), losses(theirs), strict=True))
    print(f"loss {losses(ours)[0]:.4f} -> {losses(ours)[-1]:.4f}, at most {far:.1e} apart")
    assert len(losses(ours)) == STEPS and losses(theirs)[-1] < 0.6 and far < near


def read_log(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@needs_gpu
def test_steps_equal_the_cpus(pairs, plain, tmp_path):
    rows = [row for row in read_log(plain) if "loss" in row]
    same_losses(rows, fit(pairs, tmp_path / "out", device="cpu"), 2e-2)
    assert all(row["tokens_per_second"] > 0 and row["skipped"] == 0 for row in rows)


@pytest.mark.parametrize("flag", ["--checkpointing", "--offload", pytest.param("--compile", marks=needs_gpu)])
def test_steps_equal_those_without_a_flag(flag, pairs, plain, tmp_path):
    """(To compile for a CPU takes minutes, and proves nothing of a GPU.)"""
    same_losses(fit(pairs, tmp_path / "out", flag), read_log(plain), 1e-2 if GPU else 1e-5)


@pytest.mark.parametrize("flags", [[], pytest.param(["--compile", "--checkpointing"], marks=needs_gpu)])
def test_adapters_learn_as_on_the_cpu(flags, pairs, tmp_path):
    """On a base in bfloat16 here and there, because rounding it makes another model of it."""
    how = ["--lora", "8", "--lr", "3e-4", "--base-dtype", "bfloat16"]
    same_losses(fit(pairs, tmp_path / "out", *how, *flags), fit(pairs, tmp_path / "cpu", *how, device="cpu"), 2e-2)


def test_a_resumed_run_is_bit_equal(pairs, tmp_path):
    """With torch's deterministic algorithms; without them a GPU sums in any order."""
    torch.use_deterministic_algorithms(True)
    try:
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        rows = losses(fit(pairs, whole))
        shutil.copytree(whole, cut)  # as it was when killed half way
        (cut / "run.json").write_text((cut / "run.json").read_text().replace('"finished": true', '"finished": false'))
        shutil.rmtree(cut / f"checkpoint-{STEPS}")
        (cut / "model.safetensors").unlink()
        again = losses(fit(pairs, cut, "--resume"))
    finally:
        torch.use_deterministic_algorithms(False)
    assert again == rows and len(rows) == STEPS
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@torch.no_grad()
def test_the_export_is_the_trained_model(plain, pairs):
    """A stock model reads it, and gives the log-probs that training last measured."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    sums = []
    for example in examples_of(pairs, tokenizer):
        ids, start = torch.tensor(example.sequences[0].ids), example.sequences[0].start
        logps = model(ids[None]).logits[0, start - 1:-1].log_softmax(-1)
        sums.append(logps.gather(1, ids[start:, None]).sum().item())
    first, last = (row["eval_logps/chosen"] for row in (read_log(plain)[0], read_log(plain)[-1]))
    mean = sum(sums) / len(sums)
    print(f"chosen steps: log-prob {first:.3f} before, {last:.3f} after; of the export {mean:.3f}")
    assert mean == pytest.approx(last, abs=0.05 if GPU else 1e-3) and abs(last - first) > 0.2


@needs_gpu
def test_micro_batches_do_not_wait_for_the_gpu(pairs, mesh):
    """A whole batch is given to the GPU without a sync point; take_step then waits once."""
    model = shard.load_model(POLICY, mesh, train.shard_model, seed=0)
    examples = [example._replace(reference=torch.zeros(count_tokens(*example.sequences)))
                for example in examples_of(pairs, AutoTokenizer.from_pretrained(POLICY))[:8]]
    objective = loss.OBJECTIVES["sigmoid"]
    for mode in ("default", "error"):  # the first step makes buffers
        torch.cuda.set_sync_debug_mode(mode)
        try:
            totals = train.run_batch(model, examples, objective, {"beta": 1.0}, 300, mesh)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert read_totals(totals)[0]["loss"] > 0


# ------------------------------------------------------------------------------------------------ asking

@torch.no_grad()
def test_the_local_engine_is_greedy_as_generate_is():
    model, tokenizer = sampler.load_for_sampling(POLICY, KIND), AutoTokenizer.from_pretrained(POLICY)
    prompts = [tokenizer(render_prompt(tokenizer, row["prompt"], "chat"), add_special_tokens=False).input_ids
               for row in demo_pairs(12)]
    end = model.generation_config.eos_token_id
    ours = sampler.sample_batch(model, prompts, range(12), [120] * 12, lambda ids: ids[-1] == end, 0.0, 1.0, slots=5)
    same = 0
    for prompt, answer in zip(prompts, ours):
        whole = model.generate(torch.tensor([prompt], device=KIND), do_sample=False, max_new_tokens=120,
                               attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=KIND))
        same += whole[0, len(prompt):].tolist() == answer
    print(f"{same} of 12 answers are equal")
    assert same >= (10 if GPU else 12)  # in bfloat16 two tokens are as likely now and then


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v", "-rA"]))
