"""Token tries and their attention against stock transformers, a sequence at a time.

    python -m pytest tests/test_trie.py
"""
import random
from array import array

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import loss
import train
from stepdpo import attention, shard
from stepdpo.attention import group_segments, place_trie
from stepdpo.processes import processes
from stepdpo.trie import Segment, build_trie, sequence_logps, sequence_readings

SMALL = dict(vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3, pad_token_id=0)
MODELS = {  # large initial weights, so that an error in attention shows
    "llama": dict(model_type="llama", tie_word_embeddings=True),
    "llama untied, attention bias": dict(model_type="llama", attention_bias=True),
    "qwen2": dict(model_type="qwen2"),
    "qwen2 sliding": dict(model_type="qwen2", use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
    "mistral window": dict(model_type="mistral", sliding_window=7),
    "gemma": dict(model_type="gemma", head_dim=16),
    "olmo2": dict(model_type="olmo2"),
    "phi3": dict(model_type="phi3"),
    "qwen2 moe": dict(model_type="qwen2_moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=24,
                      shared_expert_intermediate_size=40),
    "dropout that is a function": dict(model_type="seed_oss", residual_dropout=0.5, head_dim=8),
    "keys wider than values": dict(model_type="deepseek_v3", first_k_dense_replace=3, q_lora_rank=None, kv_lora_rank=16,
                                   qk_nope_head_dim=10, qk_rope_head_dim=8, v_head_dim=12, num_key_value_heads=4),
}


@pytest.fixture
def mesh():
    with processes("cpu") as mesh:
        yield mesh


def save_stock(folder, seed=0, **config):
    """A folder with a stock model of random weights; returns that model."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**SMALL, **config}), attn_implementation="sdpa")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # norms of one and biases of zero would hide that they are not loaded
                weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return model.eval()


def branches(seed=0):
    """Sequences (ids, start) that share in every way: m steps on one prefix, one prefix inside another, equal ones,
    steps that begin alike, one that ends where another goes on, one alone."""
    draw = random.Random(seed)

    def some(n):
        return [draw.randrange(1, 97) for _ in range(n)]

    prompt, prefix, begin = some(11), some(14), some(3)
    first = (prompt + prefix + begin + some(6), 25)
    texts = [first, (prompt + prefix + begin + some(4), 25), (prompt + prefix + some(9), 25), first,
             (prompt + some(5), 11), (first[0] + some(7), 30), (first[0][:27], 25), (some(17), 5),
             (prompt + prefix, 24)]
    return [(array("i", ids), start) for ids, start in texts]


def plain_sums(model, sequences):
    """Summed log-probs of the targets, each sequence in a forward pass of its own."""
    sums = []
    for ids, start in sequences:
        ids = torch.tensor(ids)
        logps = model(ids[None]).logits[0].log_softmax(-1)[start - 1:-1]
        sums.append(logps.gather(1, ids[start:, None]).sum())
    return torch.stack(sums)


def scored(model, sequences):
    """Summed log-probs of the targets of each sequence, by our model."""
    logps, _ = sequence_logps(model, sequences, torch.device("cpu"))
    return torch.stack([part.sum() for part in logps.split([len(ids) - start for ids, start in sequences])])


# --------------------------------------------------------------------------------------------- laws

@pytest.mark.parametrize("name", MODELS)
def test_tries_equal_separate_forwards(name, tmp_path, mesh):
    stock = save_stock(tmp_path, **MODELS[name])
    ours = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0)
    sequences = branches()
    direction = torch.randn(len(sequences))
    expected, got = plain_sums(stock, sequences), scored(ours, sequences)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    (expected * direction).sum().backward()
    (got * direction).sum().backward()
    theirs = dict(stock.named_parameters())
    for key, weight in ours.model.named_parameters():
        error = (weight.grad.full_tensor() - theirs[key].grad).norm() / theirs[key].grad.norm().clamp(min=1e-6)
        assert error < 1e-4, (key, error)


def test_dense_mask_says_the_same(tmp_path, mesh):
    """The trie's slots through the stock model with a 4-D mask: a slot sees its ancestors and itself."""
    stock = save_stock(tmp_path, **MODELS["qwen2"])
    ours = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0)
    whole = build_trie(branches())
    sees = torch.zeros(len(whole.ids), len(whole.ids), dtype=torch.bool)
    for segment in whole.segments:
        for depth in range(segment.shared, len(segment.path)):
            sees[segment.path[depth], segment.path[:depth + 1]] = True
    logits = stock(input_ids=torch.tensor([whole.ids]), position_ids=torch.tensor([whole.positions]),
                   attention_mask=sees[None, None]).logits[0]
    placed = place_trie(whole, torch.device("cpu"))
    expected = logits.log_softmax(-1)[whole.reads, whole.targets][placed.picks]
    torch.testing.assert_close(ours(placed)[:, 0], expected, rtol=0, atol=1e-4)


def test_another_reading_stands_beside_the_log_prob(tmp_path, mesh, monkeypatch):
    """One that a fork adds comes back for each target of each sequence in order; here it is the target itself."""
    def token_readings(hidden, weight, targets, bias=None, softcap=None):
        return torch.stack([loss.token_logps(hidden, weight, targets, bias, softcap), targets.float()], dim=1)
    save_stock(tmp_path, **MODELS["llama"])
    ours, sequences = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0), branches()
    expected, _ = sequence_logps(ours, sequences, torch.device("cpu"))
    monkeypatch.setattr("stepdpo.scorer.token_readings", token_readings)
    readings, _ = sequence_readings(ours, sequences, torch.device("cpu"))
    assert torch.equal(readings[:, 0], expected)
    assert readings[:, 1].tolist() == [token for ids, start in sequences for token in ids[start:]]


def varlen_oracle(q, k, v, ends_q, ends_k, longest_q, longest_k, scale, window_size, enable_gqa):
    """What torch documents of varlen_attn, which needs a GPU: causal from the lower right corner."""
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] and q.shape[-1] % 8 == 0
    parts = []
    for (a, b), (c, d) in zip(zip(ends_q, ends_q[1:]), zip(ends_k, ends_k[1:])):
        assert b - a <= longest_q and d - c <= longest_k
        behind = torch.arange(d - b + a - c, d - c)[:, None] - torch.arange(d - c)
        mask = (behind >= 0) & (behind <= (window_size[0] if window_size[0] >= 0 else behind.max()))
        parts.append(torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d])), attn_mask=mask, scale=scale,
            enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(parts)


def varlen_oracle_of_torch_2_11(q, k, v, ends_q, ends_k, longest_q, longest_k, scale, window_size):
    """There varlen_attn cannot be told that heads are shared, and shares them."""
    return varlen_oracle(q, k, v, ends_q, ends_k, longest_q, longest_k, scale, window_size, True)


@pytest.mark.parametrize("oracle", [varlen_oracle, varlen_oracle_of_torch_2_11])
@pytest.mark.parametrize("name", ["llama", "qwen2 sliding", "keys wider than values"])
def test_layout_for_cuda(name, oracle, tmp_path, mesh, monkeypatch):
    """The GPU's path up to its kernel, for which the oracle stands."""
    stock = save_stock(tmp_path, **MODELS[name])
    ours = shard.load_model(str(tmp_path), mesh, train.shard_model, seed=0)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", oracle)
    monkeypatch.setattr(attention, "attend_padded", attention.attend_varlen)
    monkeypatch.setattr(attention, "lay_out_padded", attention.lay_out_varlen)
    torch.testing.assert_close(scored(ours, branches()), plain_sums(stock, branches()), rtol=0, atol=1e-4)


def test_every_distinct_prefix_is_computed_once():
    for seed in range(5):
        sequences = branches(seed)
        whole = build_trie(sequences)
        prefixes = {tuple(ids[:n]) for ids, _ in sequences for n in range(1, len(ids))}
        assert len(whole.ids) == len(whole.positions) == len(prefixes)
        assert sum(len(segment.path) - segment.shared for segment in whole.segments) == len(prefixes)
        targets = {tuple(ids[:n + 1]) for ids, start in sequences for n in range(start, len(ids))}
        assert len(whole.reads) == len(targets)
        assert [len(picks) for picks in whole.picks] == [len(ids) - start for ids, start in sequences]
        spelled = {slot: tuple(whole.ids[i] for i in segment.path[:depth + 1]) for segment in whole.segments
                   for depth, slot in enumerate(segment.path)}
        assert set(spelled.values()) == prefixes
        assert [whole.positions[slot] + 1 for slot in spelled] == [len(prefix) for prefix in spelled.values()]


def test_grouping_loses_no_segment_and_pads_little():
    draw = random.Random(0)
    segments = [Segment(shared, list(range(shared + draw.randrange(60, 110))))
                for shared in draw.choices(range(20), k=300)]
    groups = group_segments(segments)
    assert sorted(id(segment) for group in groups for segment in group) == sorted(map(id, segments))
    area = sum((len(segment.path) - segment.shared) * len(segment.path) for segment in segments)
    padded = sum(len(group) * max(len(segment.path) - segment.shared for segment in group)
                 * max(len(segment.path) for segment in group) for group in groups)
    assert len(groups) < 15 and padded < 1.25 * area
