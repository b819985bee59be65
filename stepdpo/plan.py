"""What a run takes, said before anything is loaded."""
import math
from array import array

from stepdpo.shard import build_model, load_config
from stepdpo.trie import build_trie, epoch_batches, kept_bytes, split_batch


def state_bytes(model, world):
    """What the first of `world` processes keeps in float32; its shards are the largest."""
    shards = [-(-len(p) // world) * math.prod(p.shape[1:]) for p in model.parameters()]
    shard = 4 * sum(shards)
    return {"weights": shard, "gradients": shard, "Adam's moments": 2 * shard + 4 * len(shards)}


def checkpointed_bytes(kept, layers, inputs):
    """What --checkpointing leaves of `kept` bytes: the inputs of every layer, and all of the layer computed again."""
    return kept // layers + layers * inputs


def largest_trie(args, pairs):
    """The trie of most slots that a process will compute at once, after a line about the rows of --pairs.

    Without them a row of --tokens-per-micro-batch, a half of it prefix.
    """
    budget = args.tokens_per_micro_batch
    if pairs is None:
        steps = [array("i", [0] * (budget // 2) + [side] * (budget // 4 + 1)) for side in (1, 2)]
        return build_trie([(step, budget // 2) for step in steps])
    batches = epoch_batches(pairs, args.batch_size, args.seed, args.shuffle, 0)
    micros = [micro for batch in batches for micro in split_batch(batch, budget, args.world) if micro]
    tries = [build_trie([sequence for e in micro for sequence in e.sequences]) for micro in micros]
    tokens, computed = sum(len(ids) for e in pairs for ids, _ in e.sequences), sum(len(trie.ids) for trie in tries)
    print(f"{args.max_steps or args.epochs * len(batches):,} steps of {args.batch_size} rows; an epoch has {tokens:,} "
          f"tokens, of which sharing saves {1 - computed / tokens:.1%}; the longest row takes "
          f"{max(len(build_trie(e.sequences).ids) for e in pairs):,}")
    return max(tries, key=lambda trie: len(trie.ids))


def print_plan(args, folder, pairs):
    """What a run takes of each process's memory, from the configuration and the lengths of the rows alone.

    States are exact. The rest is what lies in memory at once: in the layer of the backward pass, its gradients twice,
    to be reduced in float32; the next layer, the embedding and the head.
    """
    import torch

    from loss import BLOCK_LOGITS
    size, reduced = (2, 6) if args.device != "cpu" else (4, 4)
    model, _ = build_model(load_config(folder), "meta", torch.bfloat16 if size == 2 else torch.float32)
    trie = largest_trie(args, pairs)
    every, head = sum(p.numel() for p in model.parameters()), model.head.weight.numel()
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
    kept, states = kept_bytes(model, trie), state_bytes(model, args.world)
    working = {"gathered weights": size * (2 * max(layers) + every - sum(layers)) + reduced * max(layers),
               "head's workspace": 12 * BLOCK_LOGITS + reduced * head}
    least = checkpointed_bytes(kept, len(layers), size * len(trie.ids) * model.config.hidden_size)
    held, work = sum(states.values()), sum(working.values())
    print(f"{every:,} parameters on {args.world} processes; each takes, in GiB:")
    for name, number in [*states.items(), *working.items(), (f"activations of {len(trie.ids):,} tokens", kept),
                         ("  with --checkpointing", least), ("in all", held + work + kept),
                         ("  with --checkpointing", held + work + least),
                         ("  with --checkpointing --offload", work + least), ("  and of the host's memory", held)]:
        print(f"{name:36}{number / 2 ** 30:9.2f}")
