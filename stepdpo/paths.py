"""Which way a model's sequences go: as one trie, or each alone through the model as it is. Both are exact; the first
computes once what sequences share.

    scorer, reason = choose_path(model)                      # on "meta", where tensors have shapes alone
    reason = settle(scorer, device)                          # with its weights: proven on a few tokens

A trie needs attention layers, and nothing else that mixes tokens: a convolution or a recurrent state mixes neighbours
of the row, which are no neighbours in the trie. Attention must be ours in every layer, with no mask, cap or sink of the
model's own. This shows when shapes go through the model. Then, with the weights, a few tokens go through it both ways,
and their log-probs must be the same. (Only functions import this file, and it imports torch, as loss.py does.)
"""
import random
from array import array
from copy import deepcopy

import torch
import torch.distributed as dist

from stepdpo.attention import Unserved, attend, place_trie
from stepdpo.folder import first_line
from stepdpo.scorer import FusedHead, Scorer
from stepdpo.trie import build_trie, sequence_logps

# mean errors of a log-prob that pass, by what the model computes in: a wrong path is off by nats, rounding to bfloat16
# by hundredths, and a stock head in it rounds large logits by tenths
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
HEAD_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}


def choose_path(model):
    """(Scorer, why it does not take the trie or None), as far as shapes tell. The reason follows the model's name."""
    from transformers import AttentionInterface
    AttentionInterface.register("stepdpo", torch.compiler.disable(attend))
    scorer = Scorer(model)
    reason = why_not_trie(scorer)
    scorer.use_trie(reason is None)
    return scorer, reason


def why_not_trie(scorer):
    config = scorer.config.get_text_config()
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd:
        return f"has layers of type {', '.join(sorted(odd))}"
    if any(isinstance(module, torch.nn.Conv1d) for module in scorer.modules()):
        return "has convolutions along the sequence"
    scorer = deepcopy(scorer)  # some models keep what they computed, and here it has no values
    try:
        scorer.use_trie(True)
        run_trie(scorer, probe_sequences(config.vocab_size), next(scorer.parameters()).device)
    except Unserved as error:
        return str(error)
    except Exception:  # some models look at values, and there are none on meta: settle() will see
        pass
    return None


@torch.no_grad()
def run_trie(scorer, sequences, device):
    """Log-probs by the trie. Unserved where our attention did not run once for each layer."""
    placed = place_trie(build_trie(sequences), device)
    try:
        logps = scorer(placed)[:, 0]
    except (TypeError, ValueError) as error:  # a forward pass with other arguments; attention of another kind
        raise Unserved(f"takes no trie ({first_line(error)})") from error
    layers = scorer.config.get_text_config().num_hidden_layers
    if placed.attended != layers:
        raise Unserved(f"reaches our attention {placed.attended} times in {layers} layers")
    return logps


def probe_sequences(vocabulary):
    """Three short sequences, two of which share 8 tokens and are as long: [(token ids, index of the first target)]."""
    draw = random.Random(0)

    def some(count):
        return array("i", [draw.randrange(vocabulary) for _ in range(count)])

    begin = some(8)
    return [(begin + some(5), 1), (begin + some(5), 1), (some(6), 2)]


@torch.no_grad()
def settle(scorer, device):
    """Prove a model's path and head with its weights, and turn to the slower ones where that fails.

    Every process takes part. Returns why the model does not take the trie after all, else None. ValueError for a model
    that is not causal.
    """
    by_trie, reason = scorer.by_trie, None
    sequences = probe_sequences(scorer.config.get_text_config().vocab_size)
    scorer.use_trie(False)
    scorer.fused = False
    truth, _ = sequence_logps(scorer, sequences, device)
    rounds = device.type == "cuda" or any(p.dtype == torch.bfloat16 for p in scorer.parameters())
    kind = "bfloat16" if rounds else "float32"
    if not is_equal(truth[:7], truth[12:19], TOLERANCE[kind]):  # the same tokens, with others behind them
        raise ValueError("its log-probs depend on later tokens, so it is no causal model as configured")
    scorer.fused = isinstance(scorer.head, FusedHead) and learn_logits(scorer, sequences, device)
    if scorer.fused:
        logps, _ = sequence_logps(scorer, sequences, device)
        scorer.fused = is_equal(logps, truth, HEAD_TOLERANCE[kind])
        truth = logps if scorer.fused else truth
    if by_trie:
        scorer.use_trie(True)
        try:
            logps = run_trie(scorer, sequences, device)
            if not is_equal(logps, truth, TOLERANCE[kind]):
                reason = "gives other log-probs in a trie"
        except Unserved as error:
            reason = str(error)
        scorer.use_trie(reason is None)
    return reason


def is_equal(logps, truth, tolerance):
    """Whether log-probs are the true ones, the same answer in every process; yes where the truth is no number."""
    error = (logps - truth).abs().mean().nan_to_num(nan=torch.inf)
    if not truth.isfinite().all():
        error = torch.zeros_like(error)
    dist.all_reduce(error, dist.ReduceOp.MAX)
    return error.item() <= tolerance


def learn_logits(scorer, sequences, device):
    """Find out what the model does to its logits z after the head: scale·z, or cap·tanh(scale·z / cap).

    The head gives known z, and what the model returns must be that function of them: its slope at 0 is the scale, its
    value far out the cap. Returns whether it is; then the head does the same.
    """
    head = scorer.head
    z = torch.linspace(-100, 100, head.out_features, device=device)
    z[0], z[-1] = 2.0 ** -10, 2.0 ** 20
    placed = place_trie(build_trie(sequences[:1], whole=True), device)
    try:
        head.echo = z[None, None].clone()
        found = scorer(placed, as_logits=True).flatten().float()
    except (RuntimeError, IndexError):  # it looks at the shape, or at more
        return False
    finally:
        head.echo = None
    if found.shape != z.shape:
        return False
    scale, far = (found[0] / z[0]).item(), found[-1].item()
    cap = None if abs(far - scale * z[-1].item()) <= 1e-4 * abs(far) else far
    expected = scale * z if cap is None else cap * torch.tanh(scale * z / cap)
    if not torch.allclose(found, expected, rtol=1e-5, atol=1e-6):
        return False
    head.scale, head.cap = (1.0 if abs(scale - 1) < 1e-6 else scale), cap
    return True
