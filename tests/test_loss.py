"""The fused log-prob gather against log_softmax, the objective against its formula.

    python -m pytest tests/test_loss.py
"""
import pytest
import torch
import torch.nn.functional as F

import loss
from loss import step_dpo_loss, token_logps

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
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block)
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
    monkeypatch.setattr(loss, "BLOCK_LOGITS", block)
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


def test_step_dpo_loss_is_equation_2():
    torch.manual_seed(0)
    policy, reference = torch.randn(10, requires_grad=True), torch.randn(10)
    value, margin = step_dpo_loss(policy, reference, beta=0.4)
    for i in range(5):
        expected = 0.4 * (policy[i] - reference[i]) - 0.4 * (policy[5 + i] - reference[5 + i])
        torch.testing.assert_close(margin[i], expected)
        torch.testing.assert_close(value[i], -torch.log(torch.sigmoid(expected)))
    value.sum().backward()
    torch.testing.assert_close(policy.grad[:5], (-0.4 * torch.sigmoid(-margin)).detach())
    torch.testing.assert_close(policy.grad[5:], -policy.grad[:5])


def test_step_dpo_loss_at_the_reference_is_log_2_and_never_overflows():
    same = torch.randn(6)
    value, margin = step_dpo_loss(same, same, beta=0.4)
    assert not margin.any()
    torch.testing.assert_close(value, torch.full((3,), 2.0).log())
    value, _ = step_dpo_loss(torch.tensor([-1e6, 0.0]), torch.zeros(2), beta=1.0)
    torch.testing.assert_close(value, torch.tensor([1e6]))


@pytest.mark.parametrize("kind", ["sigmoid", "ipo-sum", "ipo-mean"])
@pytest.mark.parametrize("smoothing,nll", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.2, 1.5)])
def test_variants_are_their_formulas(kind, smoothing, nll):
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 6, dtype=torch.float64)
    lengths, beta = torch.tensor([3, 5, 2, 7, 1, 4]), 0.3
    value, margin = step_dpo_loss(policy, reference, beta, lengths, kind, smoothing, nll)
    for i in range(3):
        won, lost = policy[i] - reference[i], policy[3 + i] - reference[3 + i]
        torch.testing.assert_close(margin[i], beta * (won - lost))
        if kind == "sigmoid":
            right = torch.sigmoid(beta * (won - lost))
            expected = -(1 - smoothing) * right.log() - smoothing * (1 - right).log()
        elif kind == "ipo-sum":
            expected = (won - lost - 1 / (2 * beta)) ** 2
        else:
            expected = (won / lengths[i] - lost / lengths[3 + i] - 1 / (2 * beta)) ** 2
        torch.testing.assert_close(value[i], expected - nll * policy[i] / lengths[i])


def test_a_smoothed_loss_is_least_where_the_labels_are_right_so_often():
    margin = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    value, _ = step_dpo_loss(torch.cat([margin, 0 * margin]), torch.zeros(4002), 1.0, smoothing=0.1)
    assert torch.sigmoid(margin[value.argmin()]).item() == pytest.approx(0.9, abs=1e-3)
