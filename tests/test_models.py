"""Model families against stock transformers: log-probs, gradients, files in and out, over processes.

    python -m pytest tests/test_models.py                    # a sample
    python -m pytest tests/test_models.py -m all_models      # every family of architectures.py
"""
import json
import shutil
from array import array

import pytest
import torch
from architectures import ALL, BASE
from conftest import make_tokenizer
from safetensors.torch import load_file, save_file
from test_train import PROBLEMS, codes, fit, make_pairs, refusal, rows_of, same, start, write
from test_trie import mesh  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM

import train
from stepdpo import shard
from stepdpo.command import UserError
from stepdpo.export import export
from stepdpo.trie import sequence_logps

CPU = torch.device("cpu")
SAMPLE = {  # family: how it is computed
    "apertus": "trie", "bloom": "rows", "cohere": "trie", "deepseek_v3": "trie", "dory": "rows", "falcon": "rows",
    "falcon_h1": "rows", "gemma2": "rows", "gemma3_text": "trie", "gemma4_text, keys shared": "trie", "gpt2": "trie",
    "gpt_neox": "trie", "gpt_oss": "rows", "granite": "trie", "granitemoehybrid": "rows", "kimi_linear": "rows",
    "lfm2": "rows", "llama, dynamic rope, longer": "trie", "mamba": "rows", "mixtral": "trie",
    "modernbert-decoder": "trie", "opt, projections": "trie", "phi3, longrope, longer": "trie", "phimoe": "trie",
    "qwen3_5_text": "rows", "qwen3_next": "rows", "xglm": "rows", "zamba2": "rows"}
ODD_HEADS = {"dory"}  # whose logits are not fused
SEE_AHEAD = {"cpmant"}  # whose tokens see later ones in a plain forward pass


def make_stock(folder, name, dtype=torch.float32, **changes):
    """A folder with a tiny random model of a family; returns it as from_pretrained loads it."""
    kind, extra = ALL[name]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **BASE | extra | changes), dtype=dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms of one and biases of zero would hide that they are not loaded
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def load(folder, mesh, **how):
    return shard.load_model(str(folder), mesh, train.shard_model, seed=0, **how)


def draw_sequences(lengths=((40, 20), (40, 20), (23, 10), (14, 10))):
    """Sequences of which the first two and the last two begin alike: [(token ids, index of the first target)]."""
    draw = torch.Generator().manual_seed(0)
    sequences = []
    for number, (length, begin) in enumerate(lengths):
        ids = torch.randint(1, 97, (length,), generator=draw).tolist()
        if number % 2:
            before, _ = sequences[-1]
            ids[:begin] = before[:begin]
        sequences.append((array("i", ids), begin))
    return sequences


def stock_logps(model, sequences):
    """Log-probs of the targets, each sequence in a forward pass of its own."""
    parts = []
    for ids, begin in sequences:
        ids = torch.tensor(ids)
        logps = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)[begin - 1:-1]
        parts.append(logps.gather(1, ids[begin:, None])[:, 0])
    return torch.cat(parts)


def assert_gradients(ours, stock):
    """The gradients of our model's trainable weights are those of the stock model, compared to the largest of them."""
    theirs = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in stock.named_parameters()}
    largest = max(grad.norm() for grad in theirs.values())
    for name, weight in ours.model.named_parameters():
        if weight.requires_grad:
            grad = torch.zeros_like(theirs[name]) if weight.grad is None else weight.grad.full_tensor()
            error = (grad - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3 * largest)
            assert error < 1e-3, (name, error)


@pytest.mark.all_models
@pytest.mark.parametrize("name", ALL)
def test_families_train_and_come_back(name, tmp_path, mesh, capfd, request):
    if name not in SAMPLE and request.config.option.markexpr != "all_models":
        pytest.skip("-m all_models runs it")
    stock = make_stock(tmp_path / "in", name)
    before = {key: tensor.clone() for key, tensor in stock.state_dict().items()}
    if name in SEE_AHEAD:
        with pytest.raises(UserError, match="depend on later tokens"):
            load(tmp_path / "in", mesh)
        return
    ours, sequences = load(tmp_path / "in", mesh), draw_sequences()
    said = capfd.readouterr().err
    assert ours.by_trie == ("trains by separate rows" not in said), said
    if name in SAMPLE:
        assert ours.by_trie == (SAMPLE[name] == "trie") and ours.fused == (name not in ODD_HEADS), said
    got, slots = sequence_logps(ours, sequences, CPU)
    expected = stock_logps(stock, sequences)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    direction = torch.randn(len(got), generator=torch.Generator().manual_seed(2))
    (expected * direction).sum().backward()
    (got * direction).sum().backward()
    assert_gradients(ours, stock)
    export(ours, str(tmp_path / "in"), str(tmp_path / "out"))
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert back.keys() == before.keys()
    for key in before:
        assert torch.equal(back[key], before[key]), key


# --------------------------------------------------------------------------------------------- rope

@pytest.mark.parametrize("name", ["llama, dynamic rope, longer", "phi3, longrope, longer"])
def test_rope_on_both_sides_of_its_switch(name, tmp_path, mesh):
    """Long, middling and short, and one token around where it changes: each as a fresh model computes it."""
    make_stock(tmp_path, name)
    ours = load(tmp_path, mesh)
    switch = int(ours.alone_above)
    lengths = [60, 10, switch + 9, switch, switch + 1, switch - 1, switch + 2, 60]
    sequences = draw_sequences([(length, 5) for length in lengths])
    expected = torch.cat([stock_logps(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), [sequence])
                          for sequence in sequences])
    got, _ = sequence_logps(ours, sequences, CPU)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    again, _ = sequence_logps(ours, sequences[::-1], CPU)  # the short ones first
    torch.testing.assert_close(again.sum(), expected.sum(), rtol=0, atol=1e-3)


# --------------------------------------------------------------------------------------------- processes

@pytest.mark.parametrize("name", ["kimi_linear", "phi3, longrope, longer"])
def test_separate_rows_over_processes(name, tmp_path):
    """Two processes need another number of forward passes each: their run is that of one, which may go on with it.

    kimi_linear: files have its experts one by one, and its convolutions apart that are one in memory.
    """
    tokenizer = make_tokenizer(tmp_path / "in", [row["prompt"] + row["solution"] for row in PROBLEMS])
    make_stock(tmp_path / "in", name, vocab_size=len(tokenizer), initializer_range=0.05)
    pairs = write(tmp_path / "pairs.jsonl", make_pairs(7))
    flags = ["--max-steps", 3, "--save-every", 2, "--tokens-per-micro-batch", 300]
    one = fit(tmp_path / "in", pairs, tmp_path / "one", *flags)
    many = ["--model", tmp_path / "in", "--pairs", pairs, "--out", tmp_path / "many", "--lr", 1e-3, "--batch-size", 4]
    assert codes(start(2, tmp_path / "err", *many, *flags)) == [0, 0], (tmp_path / "err").read_text()
    same(one, rows_of(tmp_path / "many" / "metrics.jsonl"))
    run = tmp_path / "many" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"finished": False}))  # as if killed after step 2
    same(one, fit(tmp_path / "in", pairs, tmp_path / "many", *flags, resume=True))
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "many"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------------- files

def shards(folder, model, count):
    """The model's weights as `count` files with an index."""
    model.save_pretrained(folder, max_shard_size=sum(p.numel() * 4 for p in model.parameters()) // count)


def stale(folder):
    """Another model's weights, in the ways in which they lie around: one file, and shards with an index."""
    other = make_stock(folder / "whole", "llama", initializer_range=0.1)
    shards(folder / "shards", other, 3)
    return folder


MIXTURES = {
    "old shards without an index": lambda old, new: [shutil.copy(p, new) for p in old.glob("shards/model-*")],
    "old shards with their index": lambda old, new: [shutil.copy(p, new) for p in old.glob("shards/model*")],
    "a variant": lambda old, new: shutil.copy(old / "whole/model.safetensors", new / "model.fp16.safetensors"),
    "a backup": lambda old, new: shutil.copy(old / "whole/model.safetensors", new / "model-before.safetensors"),
    "a folder": lambda old, new: shutil.copytree(old / "whole", new / "original"),
}


@pytest.mark.parametrize("mixture", [*MIXTURES, "shards beside other shards"])
def test_weights_are_those_of_from_pretrained(mixture, tmp_path, mesh):
    old, new = stale(tmp_path / "old"), tmp_path / "new"
    make_stock(new, "llama")
    if mixture in MIXTURES:
        MIXTURES[mixture](old, new)
    else:
        shards(tmp_path / "again", AutoModelForCausalLM.from_pretrained(new), 2)
        for path in old.glob("shards/model-*"):  # 3 of them, and an index that names 2
            shutil.copy(path, tmp_path / "again")
        new = tmp_path / "again"
    expected = AutoModelForCausalLM.from_pretrained(new).state_dict()
    ours = load(new, mesh).model.state_dict()
    for key, tensor in expected.items():
        assert torch.equal(ours[key].full_tensor(), tensor), key


def test_types_and_scalars_stay_as_they_are_in_the_files(tmp_path, mesh):
    """bfloat16 with some float32 among it, a scalar, several files: the same bytes under the same names."""
    make_stock(tmp_path / "in", "apertus")
    change_config(tmp_path / "in", dtype="bfloat16")
    path = tmp_path / "in" / "model.safetensors"
    tensors = {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in load_file(path).items()}
    assert any(tensor.ndim == 0 for tensor in tensors.values())
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stepdpo.export.FILE_BYTES", sum(tensor.nbytes for tensor in tensors.values()) // 3)
        export(load(tmp_path / "in", mesh), str(tmp_path / "in"), str(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys() and len(set(index["weight_map"].values())) > 2
    for name, tensor in tensors.items():
        back = load_file(tmp_path / "out" / index["weight_map"][name])[name]
        assert back.dtype == tensor.dtype and torch.equal(back, tensor), name
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_prepared_model_keeps_what_was_added(tmp_path, mesh):
    """Low-rank adapters on the queries, all else frozen: the added weights learn, the export is what was loaded."""
    class Adapted(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + x @ self.down.T @ self.up.T

    def prepare(model):
        model.requires_grad_(False)
        for layer in model.model.layers:
            query = layer.self_attn.q_proj
            query.__class__ = Adapted
            query.down = torch.nn.Parameter(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
            query.up = torch.nn.Parameter(torch.full((32, 4), 0.01))

    stock = make_stock(tmp_path / "in", "llama")
    ours, sequences = load(tmp_path / "in", mesh, prepare=prepare), draw_sequences()
    for layer, adapted in zip(stock.model.layers, ours.model.model.layers):
        layer.self_attn.q_proj.weight.data += 0.01 * torch.ones(32, 4) @ adapted.self_attn.q_proj.down.full_tensor()
    got, _ = sequence_logps(ours, sequences, CPU)
    torch.testing.assert_close(got, stock_logps(stock, sequences), rtol=0, atol=1e-4)
    got.sum().backward()
    assert {name.rsplit(".", 1)[1] for name, p in ours.named_parameters() if p.grad is not None} == {"down", "up"}
    export(ours, str(tmp_path / "in"), str(tmp_path / "out"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# --------------------------------------------------------------------------------------------- refusals

def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_variant(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


def lose_a_shard(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    shards(folder, model, 3)
    sorted(folder.glob("model-*"))[0].unlink()


def cut_the_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def spoil_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


REFUSED = {
    "more layers than weights": (lambda folder: change_config(folder, num_hidden_layers=3),
                                 "do not fit: model.layers.2.self_attn.q_proj.weight is missing"),
    "another width": (lambda folder: change_config(folder, intermediate_size=64),
                      "do not fit: model.layers.0.mlp.down_proj.weight is (32, 48), not (32, 64)"),
    "quantized": (lambda folder: change_config(folder, quantization_config={"quant_method": "fp8"}), "are quantized"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"),
                   "holds an adapter, which does not name its base"),
    "an adapter with its base": (lambda folder: (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "some/base"}'), "holds an adapter of 'some/base'"),
    "a variant alone": (only_variant, "model.fp16.safetensors: from_pretrained does not load it"),
    "a shard is gone": (lose_a_shard, "named by the index and not there"),
    "cut short": (cut_the_file, "model.safetensors: cannot be read"),
    "a weight that is no number": (spoil_a_weight, ": 1 of its weights are no finite numbers; get the model anew"),
    "an encoder": (lambda folder: make_stock(folder, "bert", is_decoder=False), "depend on later tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line(case, tmp_path, mesh):
    make_stock(tmp_path / "model", "llama")
    spoil, message = REFUSED[case]
    spoil(tmp_path / "model")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "model", mesh)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "model")) and message in text and "\n" not in text and caught.value.code == 2


def test_missing_gpu_and_missing_folder(tmp_path):
    flags = ["--pairs", "pairs.jsonl", "--out", tmp_path / "out"]
    text, code = refusal("--model", tmp_path / "missing", *flags)
    assert text.startswith(f"--model {tmp_path}/missing: no such folder") and code == 2
    if not torch.cuda.is_available():
        text, code = refusal("--model", "nobody/nothing", "--device", "cuda", *flags)
        assert text.startswith("--device cuda: torch sees no GPU") and code == 2


@pytest.mark.parametrize("name", ["gpt2", "lfm2", "qwen3_moe"])
def test_a_plan_without_what_shapes_do_not_tell(name, tmp_path, capsys):
    kind, extra = ALL[name]
    AutoConfig.for_model(kind, **BASE | extra).save_pretrained(tmp_path)
    train.main(["--plan", "--model", str(tmp_path), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "Adam's moments" in said and "in all" in said


def test_a_head_is_fused_only_where_it_is_linear(tmp_path, mesh):
    """What models do to their logits, found out by giving them logits: granite divides, gemma2 caps, cohere scales."""
    found = {}
    for name in ("granite", "gemma2", "cohere", "llama"):
        make_stock(tmp_path / name, name)
        head = load(tmp_path / name, mesh).head
        found[name] = (head.scale, head.cap)
    assert found == {"granite": (pytest.approx(1 / 3), None), "gemma2": (1, 30), "cohere": (0.0625, None),
                     "llama": (1, None)}
