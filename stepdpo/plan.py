"""What a run takes of each process's memory, said before anything is loaded: `train.py --plan`."""
import math
from array import array

from stepdpo.batches import epoch_batches, split_batch
from stepdpo.checkpoint import trained_parameters
from stepdpo.examples import scored_sequences
from stepdpo.folder import load_config
from stepdpo.processes import say
from stepdpo.shard import build_model
from stepdpo.trie import count_slots, kept_bytes


def shard_size(parameters, world):
    """How many numbers the first of `world` processes keeps of some parameters; its shards are the largest."""
    return sum(math.ceil(len(p) / world) * math.prod(p.shape[1:]) for p in parameters)


def state_bytes(model, world, frozen=4):
    """What the first process keeps: in float32, but for frozen weights, which take `frozen` bytes a number.

    Gradients and moments are of what is trained alone.
    """
    learning = trained_parameters(model).values()
    shard = 4 * shard_size(learning, world)
    rest = frozen * shard_size([p for p in model.parameters() if not p.requires_grad], world)
    return {"weights": shard + rest, "gradients": shard,
            "Adam's moments": 2 * shard + 4 * len(learning)}  # two numbers a parameter, and a count of steps a tensor


def working_bytes(model, size, reduced, block_logits):
    """What lies in memory at once in the layer of the backward pass.

    Of weights: its own and its gradient, the next layer, the embedding and the head, in `size` bytes a number; of
    gradients: the same once more to be reduced in float32, `reduced` bytes for both.
    """
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.layers] or [0]
    learning = [sum(p.numel() for p in trained_parameters(layer).values()) for layer in model.layers] or [0]
    every = sum(p.numel() for p in model.parameters())
    head = sum(p.numel() for p in trained_parameters(model.head).values()) if model.head is not None else 0
    return {"gathered weights": size * (2 * max(layers) + every - sum(layers)) + reduced * max(learning),
            "head's workspace": 12 * block_logits + reduced * head}


def checkpointed_bytes(kept, layers, inputs):
    """What --checkpointing leaves of `kept` bytes: the inputs of every layer, and all of the layer computed again."""
    return kept // layers + layers * inputs


def made_up_pair(budget):
    """Sequences of a pair that fills a micro-batch: a half of it is prefix, a quarter each step."""
    prefix = [0] * (budget // 2)
    return [(array("i", prefix + [side] * (budget // 4 + 1)), len(prefix)) for side in (1, 2)]


def largest_micro(pairs, batches, budget, world, shares):
    """Sequences of the micro-batch of most slots in an epoch, after a line about the rows. shares: see split_batch."""
    largest, most, computed = None, 0, 0
    for batch in batches:
        for micro in filter(None, split_batch(batch, budget, world, shares)):
            sequences = scored_sequences([batch[place] for place in micro])
            slots = count_slots(sequences, shares)
            computed += slots
            if slots > most:
                largest, most = sequences, slots
    tokens = sum(len(ids) for ids, _ in scored_sequences(pairs))
    longest = max(count_slots(scored_sequences([pair]), shares) for pair in pairs)
    print(f"an epoch has {tokens:,} tokens, of which sharing saves {1 - computed / tokens:.1%}; the longest row takes "
          f"{longest:,}")
    return largest


def print_plan(args, folder, pairs, prepare, kept_in):
    """What a run takes of each process's memory, from the configuration and the lengths of the rows alone.

    States are exact where the optimizer is AdamW. pairs: None where there are none yet. prepare: train.py's hook.
    kept_in: the type that frozen weights are kept in.
    """
    import torch

    from loss import BLOCK_LOGITS
    size, reduced = (2, 6) if args.device != "cpu" or kept_in == "bfloat16" else (4, 4)
    computes = torch.bfloat16 if size == 2 else torch.float32
    model, _ = build_model(load_config(folder), "meta", computes)
    with torch.device("meta"):
        prepare(model.model)
    model.to(computes)
    budget = args.tokens_per_micro_batch
    if pairs is None:
        sequences = made_up_pair(budget)
    else:
        batches = epoch_batches(pairs, args.batch_size, args.seed, args.shuffle, 0)
        print(f"{args.max_steps or args.epochs * len(batches):,} steps of {args.batch_size} rows; ", end="")
        sequences = largest_micro(pairs, batches, budget, args.world, model.by_trie)
    slots = count_slots(sequences, model.by_trie)
    states = state_bytes(model, args.world, getattr(torch, kept_in).itemsize)
    working = working_bytes(model, size, reduced, BLOCK_LOGITS["cpu" if args.device == "cpu" else "cuda"])
    held, work = sum(states.values()), sum(working.values())
    every, learning = (sum(p.numel() for p in of) for of in (model.parameters(), trained_parameters(model).values()))
    print(f"{every:,} parameters on {args.world} processes" + (f", {learning:,} of them trained" * (learning < every))
          + "; each takes, in GiB:")
    lines = [*states.items(), *working.items()]
    try:
        kept = kept_bytes(model, sequences)
        least = checkpointed_bytes(kept, len(model.layers), size * slots * model.config.get_text_config().hidden_size)
        lines += [(f"activations of {slots:,} tokens", kept), ("  with --checkpointing", least),
                  ("in all", held + work + kept), ("  with --checkpointing", held + work + least),
                  ("  with --checkpointing --offload", work + least), ("  and of the host's memory", held)]
    except (RuntimeError, NotImplementedError):  # what torch raises where a model looks at values on meta
        lines += [("in all, without activations", held + work)]
        say("what this model keeps for the backward pass cannot be told from shapes: it looks at values on the way")
    for name, number in lines:
        print(f"{name:36}{number / 2 ** 30:9.2f}")
