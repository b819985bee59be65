"""The mathematics of Step-DPO: the objectives, and the log-probs of given tokens that they are computed from.

    logps = token_logps(hidden, head.weight, targets)       # (N,), never an (N, V) tensor of logits
    loss, metrics = step_dpo_loss(batch, beta=0.4)          # (R,), {name: (R,)}

Shapes: N scored tokens, S sequences, R rows; D width of the model, V vocabulary.
A new objective is a function here and a line in OBJECTIVES. train.py hands it a Batch, weights and sums the losses of
the rows, differentiates the sum, and logs the metrics under their names: it knows none of them.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits alive at once; the vocabulary is walked in blocks of BLOCK_LOGITS / N rows. A CPU's caches like small blocks.
# On a GPU each block is a dozen launches, which want work: 0.25 GiB, so 3 blocks of 152k rows at 1,200 positions.
BLOCK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 26}


# ------------------------------------------------------------------------------------------- objectives

class Batch(NamedTuple):
    """What an objective is computed from: the scored tokens of some rows, in order.

    A row is any number of sequences, each with a side and a weight. A pair has two. Here is a batch of a pair and a
    row that has a rejected side alone:

        row             0                 1
        sequence        0        1        2             row  0 0 1   side  +1 -1 -1
        token           a b c    d e      f g h i       sequence  0 0 0 1 1 2 2 2 2
    """
    policy: Tensor            # (N,) log-probs of the tokens under the policy; gradients flow through it
    reference: Tensor | None  # (N,) the same under the reference policy; None where the objective needs none
    sequence: Tensor          # (N,) which sequence a token belongs to
    row: Tensor               # (S,) which row a sequence belongs to
    side: Tensor              # (S,) +1 chosen, -1 rejected
    weight: Tensor            # (S,) of a sequence in its row; 1 in a pair
    row_weight: Tensor        # (R,) of a row in the batch; train.py multiplies with it


def per_sequence(batch: Batch, values: Tensor) -> Tensor:
    """Sums over the tokens of each sequence: (N,) to (S,)."""
    return values.new_zeros(len(batch.row)).index_add(0, batch.sequence, values)


def per_row(batch: Batch, values: Tensor) -> Tensor:
    """Sums over the sequences of each row: (S,) to (R,)."""
    return values.new_zeros(len(batch.row_weight)).index_add(0, batch.row, values)


def lengths(batch: Batch) -> Tensor:
    """(S,) how many tokens of each sequence are scored."""
    return per_sequence(batch, torch.ones_like(batch.sequence, dtype=batch.weight.dtype))


def of_side(batch: Batch, side: int, values: Tensor) -> Tensor:
    """(R,) Σ weight · value over the sequences that a row has on one side. values: (S,)."""
    return per_row(batch, torch.where(batch.side == side, batch.weight * values, 0.0))


def gains(batch: Batch) -> Tensor:
    """(S,) log πθ(s) − log πref(s) of each sequence s. To weight tokens, weight them here."""
    return per_sequence(batch, batch.policy) - per_sequence(batch, batch.reference)


def margins(batch: Batch, rewards: Tensor) -> Tensor:
    """(R,) Σ side · weight · reward over a row's sequences: chosen minus rejected. rewards: (S,)."""
    return per_row(batch, batch.side * batch.weight * rewards)


def step_dpo_loss(batch: Batch, beta: float, label_smoothing: float = 0.0, nll: float = 0.0):
    """Step-DPO objective, equation 2 of arXiv 2406.18629; DPO's when the sequences are whole answers.

        margin = β·[log πθ(s_win|x,s_<k) − log πref(s_win|x,s_<k)] − β·[the same for s_lose]
        loss = −log σ(margin)

    Rows of other shapes: margin = Σ side · weight · β·[log πθ − log πref] over the row's sequences, of which a pair is
    the case with two.

    beta: inverse temperature of the KL to the reference, > 0. label_smoothing: how often the labels are wrong
    (conservative DPO). nll: weight of `chosen_nll` in the loss.
    Returns (loss (R,), metrics), float32 (float64 for float64 input).
    """
    rewards = beta * gains(batch)
    margin = margins(batch, rewards)
    loss = -F.logsigmoid(margin)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-margin)
    return loss + nll * chosen_nll(batch), preference_metrics(batch, rewards)


def ipo_sum_loss(batch: Batch, beta: float, nll: float = 0.0):
    """IPO, equation 17 of arXiv 2310.12036: (h − 1/(2β))², h being what the margin is without its β."""
    gain = gains(batch)
    loss = (margins(batch, gain) - 1 / (2 * beta)) ** 2
    return loss + nll * chosen_nll(batch), preference_metrics(batch, beta * gain)


def ipo_mean_loss(batch: Batch, beta: float, nll: float = 0.0):
    """IPO of log-probs per token, as TRL has it. Its metrics are those of the sums."""
    gain = gains(batch)
    loss = (margins(batch, gain / lengths(batch)) - 1 / (2 * beta)) ** 2
    return loss + nll * chosen_nll(batch), preference_metrics(batch, beta * gain)


def sft_loss(batch: Batch):
    """−log πθ of the chosen sequences, summed over their tokens; a row is as large as it has such tokens."""
    return -of_side(batch, 1, per_sequence(batch, batch.policy)), {}


def chosen_nll(batch: Batch) -> Tensor:
    """(R,) −log πθ per token of a row's chosen sequences; 0 where it has none."""
    tokens = chosen_tokens(batch)
    return sft_loss(batch)[0] / torch.where(tokens > 0, tokens, 1.0)


def preference_metrics(batch: Batch, rewards: Tensor) -> dict[str, Tensor]:
    """{TRL's name: (R,)} of rewards (S,). On each side they are Σ weight · value over the row's sequences.

    A row without a side has NaN in that side's metrics, and the mean over rows leaves it out. Its margin is that of the
    side which it has.
    """
    rewards, logps = rewards.detach(), per_sequence(batch, batch.policy.detach())
    margin = margins(batch, rewards)
    metrics = {}
    for name, side in ("chosen", 1), ("rejected", -1):
        there = per_row(batch, (batch.side == side).to(rewards.dtype)) > 0
        metrics[f"rewards/{name}"] = torch.where(there, of_side(batch, side, rewards), torch.nan)
        metrics[f"logps/{name}"] = torch.where(there, of_side(batch, side, logps), torch.nan)
    metrics["rewards/accuracies"] = (margin > 0).to(margin.dtype)
    metrics["rewards/margins"] = margin
    return metrics


def one_each(batch: Batch) -> Tensor:
    """(R,) the size of rows that all count alike: the loss of a batch is a mean over its rows."""
    return torch.ones_like(batch.row_weight)


def chosen_tokens(batch: Batch) -> Tensor:
    """(R,) the size of rows that count by their chosen tokens: the loss of a batch is a mean over tokens."""
    return of_side(batch, 1, lengths(batch))


class Objective(NamedTuple):
    """An objective, and what it needs."""
    function: Callable           # (batch, **flags) to (a loss a row (R,), {name of a metric: a value a row (R,)})
    flags: tuple[str, ...] = ()  # names of train.py's flags that it takes
    reference: bool = True       # whether it wants the reference's log-probs
    size: Callable = one_each    # batch to (R,): a global batch's loss is Σ row_weight·loss / Σ row_weight·size


OBJECTIVES = {  # the names that --loss takes
    "sigmoid": Objective(step_dpo_loss, ("beta", "label_smoothing", "nll")),
    "ipo-sum": Objective(ipo_sum_loss, ("beta", "nll")),
    "ipo-mean": Objective(ipo_mean_loss, ("beta", "nll")),
    "sft": Objective(sft_loss, reference=False, size=chosen_tokens),
}


# ------------------------------------------------------------------------------------- readings of tokens

def token_readings(hidden, weight, targets, bias=None, softcap=None):
    """(N, K) what is read off the model at each scored token, a column a reading. Here it is the log-prob alone.

    Arguments: of `token_logps`. To watch something else of a token, add a column here, a field to Batch, and to
    `with_readings` which is which.
    """
    return torch.stack([
        token_logps(hidden, weight, targets, bias, softcap),
    ], dim=1)


def with_readings(batch: Batch, readings: Tensor) -> Batch:
    """The Batch with the columns of `token_readings`, (N, K), in its fields."""
    return batch._replace(policy=readings[:, 0])


def token_logps(hidden, weight, targets, bias=None, softcap=None):
    """log softmax(hidden @ weight.T + bias)[n, targets[n]], fused so that no (N, V) tensor ever exists.

    hidden: (N, D); weight: (V, D); targets: (N,) ids; bias: (V,); softcap c turns logits z into c·tanh(z/c).
    Returns (N,) in float32 (float64 for float64 input); differentiable in hidden, weight and bias.
    """
    return TokenLogps.apply(hidden, weight, targets, bias, softcap)


class TokenLogps(torch.autograd.Function):
    """Walks the vocabulary in blocks: a running logsumexp forward; the logits once more backward.

        vocabulary           0 1 2 | 3 4 5 | 6 7         three blocks of the weight's rows
        targets              1, 4, 4                     of N = 3 positions
        after each block     lse     log Σ exp of the logits so far, (N,)
                             picked  the target's logit, once its block was seen, (N,)
        log-probs            picked − lse

    Blocks of the vocabulary, not of positions, so that each row of the weight's gradient is written once.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, bias, softcap):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        lse = torch.full_like(targets, -torch.inf, dtype=dtype)
        picked = torch.zeros_like(lse)
        for rows in blocks(hidden, weight):
            logits, _ = block_logits(hidden, weight, bias, softcap, rows)
            lse = torch.logaddexp(lse, logits.logsumexp(-1))
            local, inside = find_in_block(targets, rows)
            picked += logits.gather(1, local).squeeze(1) * inside
        ctx.save_for_backward(hidden, weight, targets, bias, lse)
        ctx.softcap = softcap
        return picked - lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # grad: (N,)
        hidden, weight, targets, bias, lse = ctx.saved_tensors
        want_hidden, want_weight, _, want_bias, _ = ctx.needs_input_grad
        d_hidden = torch.zeros_like(hidden, dtype=grad.dtype) if want_hidden else None
        d_weight = torch.empty_like(weight) if want_weight else None
        d_bias = torch.empty_like(bias) if want_bias else None
        for rows in blocks(hidden, weight):
            logits, slope = block_logits(hidden, weight, bias, ctx.softcap, rows)
            d_logits = logits.sub_(lse[:, None]).exp_().mul_(-grad[:, None])  # −softmax · grad
            local, inside = find_in_block(targets, rows)
            d_logits.scatter_add_(1, local, (grad * inside)[:, None])         # + onehot · grad
            if slope is not None:
                d_logits *= slope
            if want_bias:
                d_bias[rows] = d_logits.sum(0)
            d_logits = d_logits.to(hidden.dtype)
            if want_hidden:
                d_hidden += matmul(d_logits, weight[rows])
            if want_weight:
                torch.mm(d_logits.T, hidden, out=d_weight[rows])
        return d_hidden if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, None, d_bias, None


def blocks(hidden, weight):
    """Slices of the vocabulary such that a block's logits stay within BLOCK_LOGITS."""
    size = max(BLOCK_LOGITS["cpu" if hidden.is_cpu else "cuda"] // max(len(hidden), 1), 1)
    return [slice(start, start + size) for start in range(0, len(weight), size)]


def block_logits(hidden, weight, bias, softcap, rows):
    """Logits of a block of the vocabulary, (N, block), and their derivative by the softcap (None without one)."""
    logits = matmul(hidden, weight[rows].T)
    if bias is not None:
        logits = logits + bias[rows]
    if softcap is None:
        return logits, None
    tanh = torch.tanh(logits / softcap)
    return softcap * tanh, 1 - tanh ** 2


def find_in_block(targets, rows):
    """Where each target lies in a block, (N, 1), and whether it does, (N,)."""
    inside = (targets >= rows.start) & (targets < rows.stop)
    return torch.where(inside, targets - rows.start, 0)[:, None], inside


def matmul(a, b):
    """a @ b in at least float32: bf16 logits would lose what a preference margin is made of."""
    if a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    return a @ b
