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
    """What lies in memory at once in the backward pass, beside states and activations, `size` bytes a number.

    Embedding and head stay gathered all the while; the head's gradient waits for the embedding's where they are tied.
    First the head has logits; when they are gone, each layer in its turn has its weights and gradient, and the next
    one's weights. Gradients are there once more to be reduced in float32: `reduced` bytes for both.
    """
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.layers] or [0]
    learning = [sum(p.numel() for p in trained_parameters(layer).values()) for layer in model.layers] or [0]
    every = sum(p.numel() for p in model.parameters())
    head = sum(p.numel() for p in trained_parameters(model.head).values()) if model.head is not None else 0
    return {"embedding and head at work": size * (every - sum(layers)) + reduced * head,
            "a layer at work": 2 * size * max(layers) + reduced * max(learning),
            "or a block of logits": 12 * block_logits}


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
    size = 2 if args.device != "cpu" or kept_in == "bfloat16" else 4
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
    every, learning = (sum(p.numel() for p in of) for of in (model.parameters(), trained_parameters(model).values()))
    print(f"{every:,} parameters on {args.world} processes" + (f", {learning:,} of them trained" * (learning < every))
          + "; each takes, in GiB:")
    kept = getattr(torch, kept_in).itemsize
    for name, number in plan_bytes(model, sequences, args.device or "cuda", args.world, size, kept).items():
        print(f"{name:36}{number / 2 ** 30:9.2f}")


def plan_bytes(model, sequences, device, world, size, frozen):
    """{what a process holds: bytes}. model: on "meta". sequences: of its largest micro-batch. device: "cpu" or "cuda".

    size, frozen: bytes of a number as the model computes, and as weights that are not trained are kept.
    """
    from loss import BLOCK_LOGITS
    slots, config = count_slots(sequences, model.by_trie), model.config.get_text_config()
    logits = min(BLOCK_LOGITS[device], sum(len(ids) - start for ids, start in sequences) * config.vocab_size)
    states, working = state_bytes(model, world, frozen), working_bytes(model, size, 6 if size == 2 else 4, logits)
    held, (root, layer, logits) = sum(states.values()), working.values()
    lines = {**states, **working}
    try:
        kept = kept_bytes(model, sequences, device)
    except (RuntimeError, NotImplementedError):  # what torch raises where a model looks at values on meta
        say("what this model keeps for the backward pass cannot be told from shapes: it looks at values on the way")
        return {**lines, "in all, without activations": held + root + max(layer, logits)}
    layers = max(len(model.layers), 1)
    layer_input = size * slots * config.hidden_size
    inputs, least = layers * layer_input, checkpointed_bytes(kept, layers, layer_input)
    plain = root + kept + max(layer, logits)
    thrifty = root + max(layer + least, logits + inputs)  # no layer is there again yet while there are logits
    return {**lines, f"activations of {slots:,} tokens": kept, "activations, --checkpointing": least,
            "in all": held + plain, "in all, --checkpointing": held + thrifty,
            "  with --checkpointing --offload": thrifty, "  and of the host's memory": held}
