"""Token tries: every distinct prefix of some token sequences is computed once, and the attention that does it.

    trie = build_trie([(ids, start), ...])                  # lists: slots, segments, what is scored
    logps = model(place_trie(trie, device))                 # of its distinct (slot, next token) pairs

A micro-batch becomes one row. Sequences that begin alike (the two steps of a pair, pairs on one prefix, samples of one
problem) share slots; a slot attends to its own ancestors, which is a matter of indices: segment by segment, queries
are a segment's slots and keys the whole path from the root, causal from the lower right corner. A CPU runs groups of
segments of similar lengths, CUDA all at once by `varlen_attn`. Slow oracle of both: stock models, a sequence at a time.
"""
import functools
import math
from array import array
from types import SimpleNamespace

from stepdpo.command import UserError

# ------------------------------------------------------------------------------------------------- trie

def common(a, b):
    """Length of the prefix that two token sequences share."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)


def build_trie(sequences):
    """The token trie of [(ids, start)]: every distinct prefix is a node, called a slot, and is computed once.

    In sorted order a sequence shares with all that came before exactly what it shares with the last one. The rest
    is its own segment: new slots, which attend to their whole path. A sequence's last token is only a target.

    ids, positions: token and depth of each slot. segments: [(length of the shared part, path)], a path being the
    slots of a sequence from the root. reads, targets: distinct (slot, next token) pairs to score. picks, lengths: the
    indices in reads of every sequence's targets, one sequence after another in the order given.
    """
    ids, positions, segments, reads = [], [], [], {}
    picks, path, last = [None] * len(sequences), [], array("i")
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i][0]):
        tokens, start = sequences[i]
        shared = min(common(last, tokens), len(path), len(tokens) - 1)
        path = path[:shared] + list(range(len(ids), len(ids) + len(tokens) - 1 - shared))
        if len(path) > shared:
            ids += tokens[shared:-1]
            positions += range(shared, len(path))
            segments.append((shared, path))
        picks[i] = [reads.setdefault(read, len(reads)) for read in zip(path[start - 1:], tokens[start:])]
        last = tokens
    return SimpleNamespace(ids=ids, positions=positions, segments=segments, reads=[slot for slot, _ in reads],
                           targets=[token for _, token in reads], picks=[i for pick in picks for i in pick],
                           lengths=[len(pick) for pick in picks])


# -------------------------------------------------------------------------------------------- attention

def place_trie(trie, device):
    """The trie's lists as tensors, with its segments laid out for the attention of this kind of device."""
    import torch
    put = functools.partial(torch.tensor, device=device)
    placed = SimpleNamespace(**{name: put(getattr(trie, name))
                                for name in ("ids", "positions", "reads", "targets", "picks", "lengths")})
    lay_out = lay_out_padded if device.type == "cpu" else lay_out_varlen
    lay_out(placed, trie.segments, put)
    return placed


def lay_out_varlen(placed, segments, put):
    """keys: all paths, one after another. ends_q, ends_k: where each segment's queries and keys end, from 0."""
    import torch
    new, whole = zip(*((len(path) - shared, len(path)) for shared, path in segments))
    placed.keys = put([slot for _, path in segments for slot in path])
    placed.longest_q, placed.longest_k = max(new), max(whole)
    placed.ends_q, placed.ends_k = (put([0, *n]).cumsum(0, dtype=torch.int32) for n in (new, whole))


def lay_out_padded(placed, segments, put):
    """queries, keys: slots of all groups, padded in each. groups: (segments, longest query, longest key, depth of the
    queries). back: where the result for a slot is.

    Where a group shares nothing, queries are keys, and depth is None: a causal kernel computes half as much.
    """
    import torch
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    placed.groups, placed.masks, order, rows = [], {}, [], []
    for group in group_segments(segments):
        queries = pad([put(path[shared:]) for shared, path in group], padding_value=-1)
        shared, length = put([(shared, len(path)) for shared, path in group]).T[..., None]
        # padding stands where the last query does, so that it too sees something
        depth = torch.minimum(shared + torch.arange(queries.shape[1]), length - 1)
        keys = pad([put(path) for _, path in group])
        placed.groups.append((len(group), queries.shape[1], keys.shape[1], depth if shared.any() else None))
        order.append(queries.flatten())
        rows.append(keys.flatten())
    order, placed.keys = torch.cat(order), torch.cat(rows)
    placed.queries = order.clamp(min=0)
    placed.back = torch.empty_like(placed.ids)
    placed.back[order[order >= 0]] = (order >= 0).nonzero().squeeze(1)


def group_segments(segments):
    """Segments of similar lengths in groups: a CPU attends to a group at once, at little cost of padding."""
    groups, area = [], 0
    for segment in sorted(segments, key=lambda segment: (segment[0] > 0, len(segment[1]), -segment[0])):
        new, whole = len(segment[1]) - segment[0], len(segment[1])
        tall = max(len(path) - shared for shared, path in [segment, *(groups[-1] if groups else [])])
        alike = groups and (groups[-1][0][0] > 0) == (segment[0] > 0)
        padded = (len(groups[-1]) + 1) * tall * whole if alike else math.inf
        if padded <= min(1 << 20, 1.2 * (area + new * whole) + 4096):
            groups[-1].append(segment)
            area += new * whole
        else:
            groups.append([segment])
            area = new * whole
    return groups


def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, trie=None, **others):
    """Attention over a trie, registered with transformers as "stepdpo". query: (1, heads, slots, width).

    UserError for a model that asks for more than attention over the trie: a mask, a bias, a cap of its own.
    """
    harmless = {"dropout", "position_ids", "use_cache", "output_attentions"}
    odd = [name for name, value in others.items() if value is not None and name not in harmless]
    kinds = getattr(module.config, "layer_types", None)
    if kinds and (kinds[module.layer_idx] == "sliding_attention") != bool(sliding_window):
        odd.append("a window of its own")
    if attention_mask is not None:
        odd.append("a mask of its own")
    if trie is None:
        odd.append("arguments that do not reach it")
    if odd:
        raise UserError(f"{type(module).__name__}: attention with {', '.join(odd)} is not supported; see attend()", 2)
    kernel = attend_varlen if query.is_cuda else attend_nothing if query.is_meta else attend_padded
    out = kernel(*(x[0].transpose(0, 1) for x in (query, key, value)), trie, scaling, sliding_window)
    return out[None], None


def attend_varlen(q, k, v, trie, scaling, window):
    """CUDA. Slots are in the order of segments, so queries need no gather; keys are gathered path by path.

    q, k, v: (slots, heads, width). window: how many positions back a slot sees, itself included; None is all.
    """
    from torch.nn.attention.varlen import varlen_attn
    scaling, width = scaling or q.shape[-1] ** -0.5, v.shape[-1]
    q, k, v = widen(q, k, v)
    return varlen_attn(q.contiguous(), k[trie.keys], v[trie.keys], trie.ends_q, trie.ends_k, trie.longest_q,
                       trie.longest_k, scale=scaling, window_size=(window - 1 if window else -1, 0),
                       enable_gqa=q.shape[1] != k.shape[1])[..., :width]


def widen(*tensors):
    """Heads filled up with zeros to one width, a multiple of 8, as the GPU's kernel wants them; products stay."""
    import torch.nn.functional as F
    wide = -(-max(x.shape[-1] for x in tensors) // 8) * 8
    return [x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in tensors]


def attend_padded(q, k, v, trie, scaling, window):
    """CPU: one masked call for each group of similar segments. Shapes as above."""
    import torch
    import torch.nn.functional as F
    shared_heads = q.shape[1] != k.shape[1]

    def gather(x, index):  # embedding, because its backward pass is the fastest scatter that a CPU has
        return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])

    counts, new, whole, depths = zip(*trie.groups)
    # gathered for all groups at once, because each gather's backward pass fills a gradient of all slots
    q, k, v = (gather(x, index).split([n * longest for n, longest in zip(counts, lengths)])
               for x, index, lengths in ((q, trie.queries, new), (k, trie.keys, whole), (v, trie.keys, whole)))
    parts = []
    for number, (count, longest, depth) in enumerate(zip(counts, whole, depths)):
        causal = depth is None and (window or math.inf) >= longest
        if not causal and (number, window) not in trie.masks:
            depth = torch.arange(longest)[None] if depth is None else depth
            behind = depth[:, None, :, None] - torch.arange(longest)
            trie.masks[number, window] = (behind >= 0) & (behind < (window or math.inf))
        group = (x[number].unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(*group, attn_mask=trie.masks.get((number, window)), is_causal=causal,
                                             scale=scaling, enable_gqa=shared_heads)
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return gather(torch.cat(parts), trie.back)


def attend_nothing(q, k, v, trie, scaling, window):
    """Meta: no values, but the shapes of attend_varlen, and the same tensors kept for the backward pass."""
    import torch
    width, (q, k, v) = v.shape[-1], widen(q, k, v)
    q, k, v = (x.transpose(0, 1)[None] for x in (q.contiguous(), k[trie.keys], v[trie.keys]))
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0][0].transpose(0, 1)[..., :width]


# ---------------------------------------------------------------------------------------------- forward

def forward(model, trie):
    """Log-probs of the trie's (slot, target) pairs. Bound to the model, so that FSDP gathers the root's weights."""
    hidden = model.model(input_ids=trie.ids[None], position_ids=trie.positions[None], use_cache=False,
                         trie=trie).last_hidden_state
    return model.lm_head(hidden[0, trie.reads], trie.targets)


def sequence_logps(model, sequences, device):
    """(log-probs of all targets, (N,), one sequence after another in the order given; how many slots it took).

    sequences: [(token ids, index of the first target)].
    """
    trie = build_trie(sequences)
    placed = place_trie(trie, device)
    return model(placed)[placed.picks], len(trie.ids)


def kept_bytes(model, trie):
    """Bytes beside the weights that a forward pass keeps for the backward pass; a model on "meta" computes nothing."""
    import torch
    weights, kept = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor  # many are views of one storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(place_trie(trie, model.device))
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights)
