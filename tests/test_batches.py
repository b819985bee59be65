"""The batches of an epoch and their micro-batches.

    python -m pytest tests/test_batches.py
"""
import random
from array import array

import pytest
from test_train import pairs_of
from test_trie import branches

from stepdpo.batches import epoch_batches, split_batch
from stepdpo.examples import Example, Sequence, scored_sequences
from stepdpo.trie import build_trie


def test_batches_by_prefix():
    draw = random.Random(0)
    prefixes = [array("i", [i + 1] * 5) for i in range(40)]
    examples = [Example(i, [Sequence(draw.choice(prefixes) + array("i", [100 + i]), 5)] * 2) for i in range(150)]
    for size in (8, 3, 200):
        batches = epoch_batches(examples, size, 0, "prefixes", 0)
        assert len(batches) == -(-150 // size) and all(batches)
        assert sorted(e.id for batch in batches for e in batch) == list(range(150))
        places, sizes = {}, {}
        for number, batch in enumerate(batches):
            for example in batch:
                prefix = example.sequences[0].ids[0]
                places.setdefault(prefix, set()).add(number)
                sizes[prefix] = sizes.get(prefix, 0) + 1
        assert all(len(places[prefix]) <= -(-sizes[prefix] // size) for prefix in places)
        assert max(map(len, batches)) < 2 * size
        assert batches == epoch_batches(examples, size, 0, "prefixes", 0)
        if size < 150:
            assert batches != epoch_batches(examples, size, 0, "prefixes", 1)
    assert [len(batch) for batch in epoch_batches(examples, 8, 0, "pairs", 0)] == [8] * 18 + [6]


@pytest.mark.parametrize("budget", [1, 40, 100, 10 ** 6])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_micro_batches_hold_the_batch_within_the_budget(budget, world):
    batch = pairs_of(sum((branches(seed) for seed in range(8)), []))
    micros = split_batch(batch, budget, world)
    assert len(micros) % world == 0
    assert sorted(sum(micros, [])) == list(range(len(batch)))
    for micro in micros:
        tokens = len(build_trie(scored_sequences([batch[place] for place in micro])).ids)
        assert tokens <= budget or len(micro) == 1
    if budget == 10 ** 6:
        assert len(micros) == world and all(micros)


def test_a_long_row_does_not_split_the_others():
    batch = pairs_of(sum((branches(seed) for seed in range(8)), []))
    long = Example("long", [Sequence(array("i", [1] * 900), 5), Sequence(array("i", [1] * 901), 5, -1)])
    assert len(split_batch([*batch, long], 500, 1)) == len(split_batch(batch, 500, 1)) + 1
