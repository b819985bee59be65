"""The fused log-prob gather against log_softmax, the objectives against their formulas.

    python -m pytest tests/test_loss.py
"""
import pytest
import torch
import torch.nn.functional as F

import loss
from loss import OBJECTIVES, Batch, step_dpo_loss, token_logps

BLOCKS = [1, 7 * 5, 1 << 20]  # logits a block: one row of the vocabulary, a few, all of it


def inputs(positions=7, width=6, vocabulary=23, dtype=torch.float64, bias=False):
    torch.manual_seed(0)
    hidden = torch.randn(positions, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,))
    return hidden, weight, targets, torch.randn(vocabulary, dtype=dtype, requires_grad=True) if bias else None


def plain_logps(hidden, weight, targets, bias=None, softcap=None):
    logits = F.linear(hidden, weight, bias)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_values_and_gradients_equal_log_softmax(monkeypatch, block, bias, softcap):
    monkeypatch.setitem(loss.BLOCK_LOGITS, "cpu", block)
    hidden, weight, targets, bias = inputs(bias=bias)
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    grad = torch.randn(len(targets), dtype=torch.float64)
    fused = token_logps(hidden, weight, targets, bias, softcap)
    plain = plain_logps(hidden, weight, targets, bias, softcap)
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(fused, leaves, grad), torch.autograd.grad(plain, leaves, grad)):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(monkeypatch, block, softcap):
    monkeypatch.setitem(loss.BLOCK_LOGITS, "cpu", block)
    hidden, weight, targets, bias = inputs(positions=4, width=3, vocabulary=9, bias=True)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logps(h, w, targets, b, softcap), (hidden, weight, bias))


def test_tied_weights_add_both_gradients():
    _, weight, targets, _ = inputs()
    tokens = torch.randint(len(weight), targets.shape)
    fused = token_logps(F.embedding(tokens, weight), weight, targets).sum()
    plain = plain_logps(F.embedding(tokens, weight), weight, targets).sum()
    torch.testing.assert_close(torch.autograd.grad(fused, weight), torch.autograd.grad(plain, weight))


def test_only_wanted_gradients():
    hidden, weight, targets, _ = inputs()
    token_logps(hidden, weight.detach(), targets).sum().backward()
    expected, = torch.autograd.grad(plain_logps(hidden, weight, targets).sum(), hidden)
    torch.testing.assert_close(hidden.grad, expected)


def test_empty_input():
    hidden, weight, targets, _ = inputs(positions=0)
    logps = token_logps(hidden, weight, targets)
    assert logps.shape == (0,) and logps.dtype == torch.float64
    logps.sum().backward()
    assert hidden.grad.shape == hidden.shape and not weight.grad.any()


def test_dtypes():
    for dtype, expected in [(torch.float64, torch.float64), (torch.float32, torch.float32),
                            (torch.bfloat16, torch.float32)]:
        hidden, weight, targets, _ = inputs(dtype=dtype)
        logps = token_logps(hidden, weight, targets)
        logps.sum().backward()
        assert (logps.dtype, hidden.grad.dtype, weight.grad.dtype) == (expected, dtype, dtype)


def test_bf16_errs_no_more_than_log_softmax():
    hidden, weight, targets, _ = inputs(positions=200, width=64, vocabulary=1000, dtype=torch.bfloat16)
    exact_leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    exact = plain_logps(*exact_leaves, targets)
    exact_grads = torch.autograd.grad(exact.sum(), exact_leaves)
    errors = []
    for function in (token_logps, plain_logps):
        logps = function(hidden, weight, targets)
        grads = torch.autograd.grad(logps.float().sum(), (hidden, weight))
        errors.append([(a.double() - b).abs().mean() for a, b in zip((logps, *grads), (exact, *exact_grads))])
    assert all(ours <= theirs for ours, theirs in zip(*errors)), errors


def test_huge_logits_do_not_overflow():
    hidden, weight, targets, _ = inputs(dtype=torch.float32)
    torch.testing.assert_close(token_logps(hidden * 1e4, weight, targets), plain_logps(hidden * 1e4, weight, targets))


# ------------------------------------------------------------------------------------------- objectives

PAIRS = [[(+1, 1.0, 3), (-1, 1.0, 5)], [(+1, 1.0, 2), (-1, 1.0, 7)], [(+1, 1.0, 1), (-1, 1.0, 4)]]
ODD = [[(-1, 1.0, 4)], [(+1, 0.5, 2), (+1, 2.0, 3), (-1, 1.5, 4), (-1, 0.25, 1), (+1, 1.0, 6)], [(+1, 3.0, 5)],
       [(+1, 1.0, 3), (-1, 1.0, 2)]]  # a rejected side alone, a chain of steps, a chosen side alone, a pair


def batch_of(rows, seed=0):
    """A Batch in float64 of rows [[(side, weight, tokens), ...], ...], with random log-probs that want gradients."""
    torch.manual_seed(seed)
    sequences = [sequence for row in rows for sequence in row]
    lengths = torch.tensor([tokens for _, _, tokens in sequences])
    policy, reference = -torch.rand(2, lengths.sum(), dtype=torch.float64)
    return Batch(policy=policy.clone().requires_grad_(), reference=reference,
                 sequence=torch.arange(len(sequences)).repeat_interleave(lengths),
                 row=torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows])),
                 side=torch.tensor([float(side) for side, _, _ in sequences]),
                 weight=torch.tensor([weight for _, weight, _ in sequences], dtype=torch.float64),
                 row_weight=torch.ones(len(rows), dtype=torch.float64))


def slowly(batch, rows):
    """The rows again, token by token: [[(side, weight, [log-probs under the policy], [under the reference])]]."""
    at, found = 0, []
    for row in rows:
        found.append([])
        for side, weight, tokens in row:
            found[-1].append((side, weight, list(batch.policy[at:at + tokens]), list(batch.reference[at:at + tokens])))
            at += tokens
    return found


def slow_loss(row, name, beta, smoothing, nll):
    """The loss of one row, from the formulas, in plain loops."""
    h = 0.0
    for side, weight, policy, reference in row:
        gain = sum(policy) - sum(reference)
        h = h + side * weight * (gain / len(policy) if name == "ipo-mean" else gain)
    if name == "sigmoid":
        loss = -(1 - smoothing) * torch.log(torch.sigmoid(beta * h)) - smoothing * torch.log(torch.sigmoid(-beta * h))
    else:
        loss = (h - 1 / (2 * beta)) ** 2
    chosen = [(weight, policy) for side, weight, policy, _ in row if side > 0]
    if chosen:
        tokens = sum(weight * len(policy) for weight, policy in chosen)
        loss = loss - nll * sum(weight * sum(policy) for weight, policy in chosen) / tokens
    return loss


@pytest.mark.parametrize("rows", [PAIRS, ODD])
@pytest.mark.parametrize("name", ["sigmoid", "ipo-sum", "ipo-mean"])
@pytest.mark.parametrize("smoothing,nll", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.2, 1.5)])
def test_objectives_are_their_formulas(rows, name, smoothing, nll):
    """Values and gradients of pairs, chains and rows of one side, against loops over tokens."""
    batch, beta = batch_of(rows), 0.3
    flags = {"beta": beta, "nll": nll} | ({"label_smoothing": smoothing} if name == "sigmoid" else {})
    assert flags.keys() == set(OBJECTIVES[name].flags)
    loss, metrics = OBJECTIVES[name].function(batch, **flags)
    expected = torch.stack([slow_loss(row, name, beta, smoothing, nll) for row in slowly(batch, rows)])
    torch.testing.assert_close(loss, expected)
    direction = torch.randn(len(rows), dtype=torch.float64)
    ours, = torch.autograd.grad(loss, batch.policy, direction)
    theirs, = torch.autograd.grad(expected, batch.policy, direction)
    torch.testing.assert_close(ours, theirs)
    assert not any(values.requires_grad for values in metrics.values())


@pytest.mark.parametrize("rows", [PAIRS, ODD])
def test_metrics_are_their_formulas(rows):
    """Of a row without a side, that side's metrics are NaN: it has none."""
    batch = batch_of(rows)
    _, metrics = step_dpo_loss(batch, 0.3)
    for i, row in enumerate(slowly(batch, rows)):
        rewards, logps = {+1: [], -1: []}, {+1: [], -1: []}
        for side, weight, policy, reference in row:
            rewards[side].append(0.3 * weight * (sum(policy) - sum(reference)).item())
            logps[side].append(weight * sum(policy).item())
        for name, side in ("chosen", +1), ("rejected", -1):
            for kind, values in ("rewards", rewards[side]), ("logps", logps[side]):
                value = sum(values) if values else float("nan")
                assert metrics[f"{kind}/{name}"][i].item() == pytest.approx(value, nan_ok=True)
        margin = sum(rewards[+1]) - sum(rewards[-1])
        assert metrics["rewards/margins"][i].item() == pytest.approx(margin)
        assert metrics["rewards/accuracies"][i].item() == (margin > 0)


@pytest.mark.parametrize("rows", [PAIRS, ODD])
def test_sft_imitates_the_chosen_tokens(rows):
    batch, objective = batch_of(rows)._replace(reference=None), OBJECTIVES["sft"]
    loss, metrics = objective.function(batch)
    assert not objective.reference and not objective.flags and not metrics
    size, at = objective.size(batch), 0
    for i, row in enumerate(rows):
        total = 0.0
        for side, weight, tokens in row:
            total -= weight * batch.policy[at:at + tokens].sum().item() * (side > 0)
            at += tokens
        assert loss[i].item() == pytest.approx(total)
        assert size[i].item() == pytest.approx(sum(weight * tokens for side, weight, tokens in row if side > 0))


def pair(policy, reference):
    """A Batch of pairs whose sequences have one token each, (2R,), chosen and rejected in turns."""
    count = len(policy)
    return Batch(policy=policy, reference=reference, sequence=torch.arange(count), row=torch.arange(count) // 2,
                 side=torch.tensor([1.0, -1.0] * (count // 2)), weight=torch.ones(count),
                 row_weight=torch.ones(count // 2))


def test_step_dpo_loss_is_equation_2():
    torch.manual_seed(0)
    policy, reference = torch.randn(10, requires_grad=True), torch.randn(10)
    value, metrics = step_dpo_loss(pair(policy, reference), beta=0.4)
    margin = metrics["rewards/margins"]
    for i in range(5):
        win, lose = 2 * i, 2 * i + 1
        expected = 0.4 * (policy[win] - reference[win]) - 0.4 * (policy[lose] - reference[lose])
        torch.testing.assert_close(margin[i], expected.detach())
        torch.testing.assert_close(value[i], -torch.log(torch.sigmoid(expected)))
    value.sum().backward()
    torch.testing.assert_close(policy.grad[::2], -0.4 * torch.sigmoid(-margin))
    torch.testing.assert_close(policy.grad[1::2], -policy.grad[::2])


def test_step_dpo_loss_at_the_reference_is_log_2_and_never_overflows():
    same = torch.randn(6)
    value, metrics = step_dpo_loss(pair(same, same), beta=0.4)
    assert not metrics["rewards/margins"].any() and value.dtype == torch.float32
    torch.testing.assert_close(value, torch.full((3,), 2.0).log())
    value, _ = step_dpo_loss(pair(torch.tensor([-1e6, 0.0]), torch.zeros(2)), beta=1.0)
    torch.testing.assert_close(value, torch.tensor([1e6]))


def test_a_smoothed_loss_is_least_where_the_labels_are_right_so_often():
    margin = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    policy = torch.stack([margin, 0 * margin], 1).flatten()
    value, _ = step_dpo_loss(pair(policy, torch.zeros(4002)), 1.0, label_smoothing=0.1)
    assert torch.sigmoid(margin[value.argmin()]).item() == pytest.approx(0.9, abs=1e-3)
