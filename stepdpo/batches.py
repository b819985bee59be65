"""The batches of an epoch, and the micro-batches that a process computes at once.

    for batch in epoch_batches(examples, batch_size=128, seed=0, shuffle="pairs", epoch=0):
        for micro in split_batch(batch, budget=4096, world=8)[rank::8]:
            logps, slots = sequence_logps(model, scored_sequences([batch[number] for number in micro]), device)
"""
import math
import random
from array import array

from stepdpo.examples import Example, scored_sequences
from stepdpo.trie import common, count_slots


def epoch_batches(examples: list[Example], batch_size: int, seed: int, shuffle: str, epoch: int) -> list[list[Example]]:
    """The batches of an epoch, from seed and epoch alone: resuming, and any number of processes, see the same.

    shuffle: "pairs" draws the order of examples; "prefixes" that of groups with one prefix, and keeps a group in one
    batch (cut where it is larger), so that the size of a batch varies around batch_size:

        groups of A B C, batch_size 4       AAAAAA BB C
        pieces, none larger than a batch    AAAA AA BB C
        drawn                               BB AAAA C AA
        a piece goes to the batch in        BB AA|AA C A|A
        which its last example lies         BB | AAAA C | AA
    """
    groups = {}
    for number, example in enumerate(examples):
        first = example.sequences[0]
        key = first.ids[:first.start].tobytes() if shuffle == "prefixes" else number
        groups.setdefault(key, []).append(example)
    pieces = []
    for group in groups.values():
        pieces += [group[at:at + batch_size] for at in range(0, len(group), batch_size)]
    batches, end = [[] for _ in range(math.ceil(len(examples) / batch_size))], 0
    for piece in random.Random(f"{seed}/{epoch}").sample(pieces, len(pieces)):
        end += len(piece)
        batches[(end - 1) // batch_size] += piece  # ends lie at most batch_size apart, so no batch is empty
    return batches


def split_batch(batch: list[Example], budget: int, world: int, shares: bool = True) -> list[list[int]]:
    """Cut a batch into micro-batches, a multiple of `world` of them, each of at most `budget` slots.

    A slot is a distinct prefix of tokens, which is computed once (trie.py). Neighbours in sorted order share most, so
    they stay together:

        examples, sorted           A    B    C    D
        slots of each alone       40   35   50   20
        new ones after the left   40   10   45    5      B shares 25 slots with A
        budget 60                [A    B]  [C    D]      40 + 10, 50 + 5

    Returns lists of places in `batch`. A single example may exceed the budget; a micro-batch may be empty.
    shares: False for a model whose sequences are computed one by one, whole.
    """
    order = sorted(range(len(batch)), key=lambda place: batch[place].sequences[0].ids)
    alone, new, before = [], [], array("i")
    for place in order:
        first = batch[place].sequences[0].ids[:-1]
        alone.append(count_slots(scored_sequences([batch[place]]), shares))
        new.append(alone[-1] - (common(before, first) if shares else 0))
        before = first

    def fill(room):
        micros, used = [], math.inf
        for place, slots, slots_alone in zip(order, new, alone):
            if used + slots <= room:
                micros[-1].append(place)
                used += slots
            else:
                micros.append([place])
                used = slots_alone
        return micros

    micros = fill(budget)
    count = math.ceil(len(micros) / world) * world
    room = 0.9 * min(budget, sum(alone))
    while room >= max(alone):
        even = fill(room)
        if len(even) > count:
            break
        micros, room = even, 0.9 * room  # as even as they come: the largest decides how long all processes take
    return micros + [[]] * (count - len(micros))
