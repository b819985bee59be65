"""Attention over a token trie: a slot sees its ancestors and itself.

    placed = place_trie(trie, device)                        # a trie of trie.py as tensors, laid out for this device
    out, _ = attend(module, query, key, value, None, trie=placed)

A segment of the trie is one attention problem: queries are its new slots, keys the whole path from the root, and the
mask is causal from the lower right corner. The segment 2, [0 1 3 4] of trie.py's drawing:

                 A0 B1 x3 w4
    queries  x3   1  1  1  .
             w4   1  1  1  1

CUDA attends to all segments at once by varlen_attn. A CPU attends to groups of segments of similar lengths, padded to
one shape. The slow oracle of both is a stock model, a sequence at a time. (Only functions import this file, and it
imports torch, as loss.py does.)
"""
import functools
import inspect
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from stepdpo.device import put

LARGEST_AREA = 1 << 20  # queries times keys of a group on a CPU


class PlacedTrie:
    """A trie's lists as tensors on a device. No dataclass: where FSDP casts what layers are given, it copies those.

    ids, positions: (slots,) tokens, and how many stand before each. reads: (N,) slots at which a log-prob is read off;
    targets: (N,) the tokens whose it is. picks: (M,) which of the N each target of the sequences is, one sequence after
    another. layout: VarlenLayout or PaddedLayout. attended: how often attend() was called in this forward pass.
    """

    def __init__(self, ids, positions, reads, targets, picks, layout):
        self.ids, self.positions = ids, positions
        self.reads, self.targets, self.picks = reads, targets, picks
        self.layout = layout
        self.attended = 0


@dataclass
class VarlenLayout:
    """All segments one after another. Their queries are all slots in order, because each slot is new in one segment."""
    keys: torch.Tensor       # slots of all paths
    ends_q: torch.Tensor     # (segments + 1,) where each segment's queries end, from 0; int32
    ends_k: torch.Tensor     # where its keys end
    longest_q: int
    longest_k: int


@dataclass
class Group:
    """Segments of similar lengths, padded to one shape, which a CPU attends to in one call."""
    count: int               # of segments
    new: int                 # queries of each, padding included
    whole: int               # keys of each, padding included
    depth: torch.Tensor | None  # (count, new) position of each query; None where the segments share nothing
    masks: dict = field(default_factory=dict)  # {window: (count, 1, new, whole)}, made when a layer asks


@dataclass
class PaddedLayout:
    groups: list[Group]
    queries: torch.Tensor    # slots of all groups' queries, one after another
    keys: torch.Tensor       # slots of all groups' keys
    back: torch.Tensor       # (slots,) where the result for each slot is among the queries


class Unserved(Exception):
    """A model asks for what a trie does not have, in words that follow its name."""


# ---------------------------------------------------------------------------------------------- layouts

def place_trie(trie, device) -> PlacedTrie:
    """A trie's lists as tensors, its segments laid out for the attention of this kind of device."""
    lay_out = lay_out_padded if device.type == "cpu" else lay_out_varlen
    picks = [number for picks in trie.picks for number in picks]
    return PlacedTrie(ids=put(trie.ids, device), positions=put(trie.positions, device), reads=put(trie.reads, device),
                      targets=put(trie.targets, device), picks=put(picks, device),
                      layout=lay_out(trie.segments, device))


def lay_out_varlen(segments, device):
    keys, ends_q, ends_k = [], [0], [0]
    for segment in segments:
        keys += segment.path
        ends_q.append(ends_q[-1] + len(segment.path) - segment.shared)
        ends_k.append(len(keys))
    return VarlenLayout(keys=put(keys, device), ends_q=put(ends_q, device, torch.int32),
                        ends_k=put(ends_k, device, torch.int32),
                        longest_q=max(len(segment.path) - segment.shared for segment in segments),
                        longest_k=max(len(segment.path) for segment in segments))


def lay_out_padded(segments, device):
    """Two segments of a group, 1, [0 4 5] and 1, [0 6 7 8], as queries and keys; `.` is padding:

        queries  4 5 .      keys  0 4 5 .      depth  1 2 2
                 6 7 8            0 6 7 8             1 2 3

    Padding has the depth of the last query, so that it sees something too: a query that sees nothing would be NaN.
    """
    groups, queries, keys = [], [], []
    for segments_of_group in group_segments(segments):
        new = max(len(segment.path) - segment.shared for segment in segments_of_group)
        whole = max(len(segment.path) for segment in segments_of_group)
        depth = []
        for segment in segments_of_group:
            length = len(segment.path)
            queries += segment.path[segment.shared:] + [-1] * (new - length + segment.shared)
            keys += segment.path + [0] * (whole - length)
            depth.append([min(segment.shared + place, length - 1) for place in range(new)])
        shares = any(segment.shared for segment in segments_of_group)
        groups.append(Group(count=len(segments_of_group), new=new, whole=whole,
                            depth=torch.tensor(depth, device=device) if shares else None))
    queries = torch.tensor(queries, device=device)
    real = queries >= 0
    back = torch.empty(int(real.sum()), dtype=torch.long, device=device)
    back[queries[real]] = real.nonzero().squeeze(1)
    return PaddedLayout(groups, queries.clamp(min=0), torch.tensor(keys, device=device), back)


def group_segments(segments):
    """Segments of similar lengths in groups: a CPU attends to a group at once, at little cost of padding.

    A group that shares nothing is kept apart from those that share: its attention is plainly causal, which a kernel
    computes at half the cost.
    """
    groups = []
    area = 0   # of the last group's segments without padding: queries times keys
    tall = 0   # the last group's longest queries
    for segment in sorted(segments, key=lambda segment: (segment.shared > 0, len(segment.path), -segment.shared)):
        new, whole = len(segment.path) - segment.shared, len(segment.path)
        alike = groups and (groups[-1][0].shared > 0) == (segment.shared > 0)
        padded = (len(groups[-1]) + 1) * max(tall, new) * whole if alike else math.inf
        if padded <= min(LARGEST_AREA, 1.2 * (area + new * whole) + 4096):
            groups[-1].append(segment)
            area, tall = area + new * whole, max(tall, new)
        else:
            groups.append([segment])
            area, tall = new * whole, new
    return groups


# ---------------------------------------------------------------------------------------------- kernels

def attend(module, query, key, value, attention_mask, scaling=None, sliding_window=None, trie=None, **others):
    """Attention over a trie, registered with transformers as "stepdpo". query: (1, heads, slots, width).

    Extra keyword arguments of a model's forward pass reach the attention function, hence `trie`, a PlacedTrie.
    Unserved for a model that asks for more than attention over the trie: a mask, a bias, a cap of its own.
    """
    harmless = {"dropout", "position_ids", "use_cache", "output_attentions", "output_router_logits"}
    odd = [name for name, value in others.items() if value is not None and name not in harmless]
    if asks_for_window(module) != bool(sliding_window):
        odd.append("a window of its own")
    if attention_mask is not None:
        odd.append("a mask of its own")
    if trie is None:
        odd.append("arguments that do not reach it")
    if odd:
        raise Unserved(f"has attention with {', '.join(odd)}")
    trie.attended += 1
    kernel = attend_varlen if query.is_cuda else attend_nothing if query.is_meta else attend_padded
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return kernel(q, k, v, trie.layout, scaling, sliding_window)[None], None


def asks_for_window(module):
    """Whether a layer attends within a window, by its configuration."""
    kinds = getattr(module.config, "layer_types", None)
    if kinds:
        return kinds[module.layer_idx] == "sliding_attention"
    return bool(getattr(module.config, "sliding_window", None))


def attend_varlen(q, k, v, layout, scaling, window):
    """CUDA. Slots are in the order of segments, so queries need no gather; keys are gathered path by path.

    q, k, v: (slots, heads, width). window: how many positions back a slot sees, itself included; None is all.
    """
    from torch.nn.attention.varlen import varlen_attn
    scaling, width = scaling or q.shape[-1] ** -0.5, v.shape[-1]
    q, k, v = widen(q, k, v)
    # index_select, because the backward pass of k[keys] sorts the keys in every layer; this one adds atomically
    keys, values = k.index_select(0, layout.keys), v.index_select(0, layout.keys)
    shared = {"enable_gqa": q.shape[1] != k.shape[1]} if wants_to_know(varlen_attn) else {}
    return varlen_attn(q.contiguous(), keys, values, layout.ends_q, layout.ends_k, layout.longest_q, layout.longest_k,
                       scale=scaling, window_size=(window - 1 if window else -1, 0), **shared)[..., :width]


@functools.cache
def wants_to_know(kernel):
    """Whether varlen_attn must be told that heads are shared. That of torch 2.11 shares them, and cannot be told."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def widen(*tensors):
    """Heads filled up with zeros to one width, a multiple of 8, as the GPU's kernel wants them; products stay."""
    widest = max(x.shape[-1] for x in tensors)
    width = math.ceil(widest / 8) * 8
    return [x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in tensors]


def attend_padded(q, k, v, layout, scaling, window):
    """CPU: one masked call for each group of similar segments. Shapes as above."""
    # gathered for all groups at once, because each gather's backward pass fills a gradient of all slots
    queries = gather(q, layout.queries).split([group.count * group.new for group in layout.groups])
    keys = gather(k, layout.keys).split([group.count * group.whole for group in layout.groups])
    values = gather(v, layout.keys).split([group.count * group.whole for group in layout.groups])
    results = []
    for group, *own in zip(layout.groups, queries, keys, values):
        query, key, value = (x.unflatten(0, (group.count, -1)).transpose(1, 2) for x in own)
        mask = group_mask(group, window)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling,
                                             enable_gqa=q.shape[1] != k.shape[1])
        results.append(out.transpose(1, 2).flatten(0, 1))
    return gather(torch.cat(results), layout.back)


def gather(x, index):
    """x[index]; an embedding, because its backward pass is the fastest scatter that a CPU has."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


def group_mask(group, window):
    """What each query of a group sees, (count, 1, new, whole); None where that is plainly causal."""
    if group.depth is None and (window or math.inf) >= group.whole:
        return None
    if window not in group.masks:
        keys = torch.arange(group.whole)
        depth = keys[None] if group.depth is None else group.depth
        behind = depth[:, None, :, None] - keys
        group.masks[window] = (behind >= 0) & (behind < (window or math.inf))
    return group.masks[window]


def attend_nothing(q, k, v, layout, scaling, window):
    """Meta, where --plan runs: no values, but the shapes of attend_varlen, and what it keeps for the backward pass."""
    width = v.shape[-1]
    q, k, v = widen(q, k, v)
    keys, values = k.index_select(0, layout.keys), v.index_select(0, layout.keys)
    return KeepForBackward.apply(q.contiguous(), keys, values)[..., :width]


class KeepForBackward(torch.autograd.Function):
    """Keeps what a flash kernel keeps: its inputs, its result, and a logsumexp for each query and head."""

    @staticmethod
    def forward(ctx, q, k, v):
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("a model on meta is only planned with")
