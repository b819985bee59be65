"""Token tries: every distinct prefix of some token sequences is computed once.

    trie = build_trie([(ids, start), ...])                   # what is computed, and what is read off
    logps, slots = sequence_logps(model, sequences, device)  # log-probs of the targets, by a model of scorer.py

A prefix is a node of the trie, called a slot. Three answers to the question A B, scored from index 2 on:

    sequence        its slots          segment: shared, path      reads: slot -> next token
    A B u t         A0 B1 u2           0, [0 1 2]                 B1 -> u    u2 -> t
    A B x w v       A0 B1 x3 w4        2, [0 1 3 4]               B1 -> x    x3 -> w    w4 -> v
    A B x y z       A0 B1 x3 y5        3, [0 1 3 5]               B1 -> x    x3 -> y    y5 -> z

Eleven tokens stand before a target and six slots are computed, as one row: A B u x w y. The last token of a sequence is
only a target. `B1 -> x` is read once, for two sequences. A slot attends to its own ancestors: attention.py does that.
"""
import math
from array import array
from dataclasses import dataclass, field


@dataclass
class Segment:
    """What a sequence adds to the trie: path[shared:] are new slots, path[:shared] are slots of sequences before it."""
    shared: int
    path: list[int]  # from the root


@dataclass
class Trie:
    """Slots with their tokens, and the distinct pairs (slot, next token) whose log-probs are read off."""
    ids: list[int] = field(default_factory=list)        # token of each slot
    positions: list[int] = field(default_factory=list)  # depth of each slot
    segments: list[Segment] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)      # slot of each pair
    targets: list[int] = field(default_factory=list)    # next token of each pair
    picks: list[list[int]] = field(default_factory=list)  # for each sequence, the numbers of its pairs in order


def common(a, b):
    """Length of the prefix that two token sequences share."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)


def build_trie(sequences, whole=False) -> Trie:
    """The trie of [(token ids, index of the first target)]; see the drawing above.

    In sorted order a sequence shares with all that came before exactly what it shares with the last one.
    whole: last tokens are slots too, as in a stock forward pass, for models to which the length matters.
    """
    trie = Trie(picks=[[] for _ in sequences])
    pairs = {}  # (slot, next token) -> its number
    path, last = [], array("i")
    for number in sorted(range(len(sequences)), key=lambda number: sequences[number][0]):
        tokens, start = sequences[number]
        end = len(tokens) if whole else len(tokens) - 1  # the last token is only a target
        shared = min(common(last, tokens), len(path), end)
        new = range(len(trie.ids), len(trie.ids) + end - shared)
        path = path[:shared] + list(new)
        if new:
            trie.ids += tokens[shared:end]
            trie.positions += range(shared, end)
            trie.segments.append(Segment(shared, path))
        for place in range(start, len(tokens)):
            pair = (path[place - 1], tokens[place])
            if pair not in pairs:
                pairs[pair] = len(pairs)
            trie.picks[number].append(pairs[pair])
        last = tokens
    for slot, token in pairs:
        trie.reads.append(slot)
        trie.targets.append(token)
    return trie


# ---------------------------------------------------------------------------------------------- forward

def sequence_readings(model, sequences, device):
    """Readings at the targets of [(token ids, index of the first target)], differentiable in the model's weights.

    model: of scorer.py. Returns (readings (M, K) in float32, one sequence after another in the order given and each
    sequence's targets in order; how many tokens were computed). Columns: of token_readings, loss.py; log-probs first.
    """
    import torch

    from stepdpo.attention import place_trie
    passes = split_passes(sequences, model.alone_above)
    readings, slots, nothing = [None] * len(sequences), 0, 0
    for turn in range(count_passes(model, len(passes), device)):
        numbers = passes[turn] if turn < len(passes) else passes[0]
        chosen = [sequences[number] for number in numbers]
        trie = build_trie(chosen, whole=len(chosen[0][0]) > model.alone_above)
        answer = model(place_trie(trie, device))
        if turn >= len(passes):  # other processes have more passes, and all take part in gathering weights
            nothing = nothing + 0 * answer.sum()
            continue
        slots += len(trie.ids)
        lengths = [len(ids) - start for ids, start in chosen]
        for number, part in zip(numbers, answer.split(lengths)):
            readings[number] = part
    return torch.cat(readings) + nothing, slots


def split_passes(sequences, alone_above):
    """Numbers of the sequences of each forward pass: all in one, but each of more than `alone_above` tokens alone."""
    together, passes = [], []
    for number, (ids, _) in enumerate(sequences):
        if len(ids) > alone_above:
            passes.append([number])
        else:
            together.append(number)
    return [together, *passes] if together else passes


def count_passes(model, own, device):
    """The most forward passes that any process needs now; the same number everywhere but for some models."""
    import torch
    import torch.distributed as dist
    if model.alone_above == math.inf or not dist.is_initialized():
        return own
    most = torch.tensor(own, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.item()


def count_slots(sequences, shares=True):
    """How many tokens are computed for [(token ids, first target's index)]. shares: as one trie, else each alone."""
    return len(build_trie(sequences).ids) if shares else sum(len(ids) for ids, _ in sequences)


def sequence_logps(model, sequences, device):
    """`sequence_readings`, of which the log-probs alone: (logps (M,), how many tokens were computed)."""
    readings, slots = sequence_readings(model, sequences, device)
    return readings[:, 0], slots


def kept_bytes(model, sequences, kind=None):
    """Bytes beside the weights that forward passes keep for the backward pass; a model on "meta" computes nothing.

    kind: "cpu" or "cuda", for which of them a model on "meta" lays out its attention.
    """
    import torch

    from stepdpo.attention import place_trie
    weights, kept = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor  # many are views of one storage
        return tensor

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for numbers in split_passes(sequences, model.alone_above):
            chosen = [sequences[number] for number in numbers]
            trie = build_trie(chosen, whole=len(chosen[0][0]) > model.alone_above)
            model(place_trie(trie, device, kind))
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in weights)
