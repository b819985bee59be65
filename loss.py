"""The mathematics of Step-DPO: log-probabilities of given tokens, and the objective over them.

    logps = token_logps(hidden, head.weight, targets)       # (N,), never an (N, V) tensor of logits
    loss, margin = step_dpo_loss(policy, reference, beta=0.4)

Shapes: N positions, D width of the model, V vocabulary, B pairs.
"""
import torch
import torch.nn.functional as F

BLOCK_LOGITS = 1 << 22  # logits alive at once; the vocabulary is walked in blocks of BLOCK_LOGITS / N rows


def step_dpo_loss(policy, reference, beta, lengths=None, kind="sigmoid", smoothing=0.0, nll=0.0):
    """Step-DPO objective, equation 2 of arXiv 2406.18629; DPO's when the log-probs are of whole answers.

        margin = β·[log πθ(s_win|x,s_<k) − log πref(s_win|x,s_<k)] − β·[the same for s_lose]
        loss = −log σ(margin)

    policy, reference: (2B,) summed log-probs of a step's tokens, chosen in the first half; lengths: (2B,) their tokens.
    beta: inverse temperature of the KL to the reference, > 0.
    kind: "sigmoid"; "ipo-sum" is equation 17 of arXiv 2310.12036, "ipo-mean" the same of log-probs per token.
    smoothing: how often the labels are wrong, for sigmoid (conservative DPO); nll: weight of −log πθ(s_win) per token.
    Returns (loss (B,), margin (B,)), both float32 (float64 for float64 input).
    """
    gain = policy - reference
    chosen, rejected = (beta * gain).chunk(2)
    margin = chosen - rejected
    if kind == "sigmoid":
        loss = -F.logsigmoid(margin)
        if smoothing:
            loss = (1 - smoothing) * loss - smoothing * F.logsigmoid(-margin)
    elif kind in ("ipo-sum", "ipo-mean"):
        won, lost = (gain / lengths if kind == "ipo-mean" else gain).chunk(2)
        loss = (won - lost - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"no loss {kind!r}")
    if nll:
        loss = loss - nll * (policy / lengths).chunk(2)[0]
    return loss, margin


def token_logps(hidden, weight, targets, bias=None, softcap=None):
    """log softmax(hidden @ weight.T + bias)[n, targets[n]], fused so that no (N, V) tensor ever exists.

    hidden: (N, D); weight: (V, D); targets: (N,) ids; bias: (V,); softcap c turns logits z into c·tanh(z/c).
    Returns (N,) in float32 (float64 for float64 input); differentiable in hidden, weight and bias.
    """
    return TokenLogps.apply(hidden, weight, targets, bias, softcap)


class TokenLogps(torch.autograd.Function):
    """Walks the vocabulary in blocks: a running logsumexp forward; the logits once more backward.

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
            local, inside = locate(targets, rows)
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
            local, inside = locate(targets, rows)
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
    size = max(BLOCK_LOGITS // max(len(hidden), 1), 1)
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


def locate(targets, rows):
    """Where each target lies in a block, (N, 1), and whether it does, (N,)."""
    inside = (targets >= rows.start) & (targets < rows.stop)
    return torch.where(inside, targets - rows.start, 0)[:, None], inside


def matmul(a, b):
    """a @ b in at least float32: bf16 logits would lose what a preference margin is made of."""
    if a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    return a @ b
