"""The reference policy's log-probs: asked for once, before the first step, and kept in OUT for --resume.

OUT/reference.safetensors     "pairs" and "eval_pairs": the log-probs of all scored tokens, one row after another
"""
import os

from stepdpo.batches import split_batch
from stepdpo.examples import Example, count_tokens, scored_sequences
from stepdpo.processes import say
from stepdpo.progress import progress_bar
from stepdpo.shard import no_gradients
from stepdpo.trie import sequence_logps

AT_ONCE = 1024  # examples that are cut into micro-batches together


def add_references(out: str, pairs: list[Example], held_out: list[Example], load_reference, budget: int, mesh):
    """(pairs, held-out pairs) with their log-probs under the reference, from OUT where an earlier start kept them.

    load_reference() gives the model, which is let go when it has answered. budget: slots of a micro-batch.
    """
    path = os.path.join(out, "reference.safetensors")
    references = read_references(path, {"pairs": pairs, "eval_pairs": held_out})
    if references is None:
        say(f"{out}: asking the reference model")
        reference = load_reference()
        references = {"pairs": ask_reference(reference, pairs, budget, mesh),
                      "eval_pairs": ask_reference(reference, held_out, budget, mesh)}
        keep_references(path, references)
    pairs = [pair._replace(reference=logps) for pair, logps in zip(pairs, references["pairs"], strict=True)]
    held_out = [pair._replace(reference=logps) for pair, logps in zip(held_out, references["eval_pairs"], strict=True)]
    return pairs, held_out


def ask_reference(model, examples: list[Example], budget: int, mesh) -> list:
    """The log-probs of the scored tokens of each example under `model`, a list of CPU tensors in float32.

    Each process asks its share of the micro-batches, of at most `budget` slots, and gets all answers.
    """
    import torch
    import torch.distributed as dist
    device, rank, world = torch.device(mesh.device_type), mesh.get_rank(), mesh.size()
    mine = {}  # place of an example: its log-probs
    with no_gradients(model), progress_bar("reference", len(examples), quiet=rank > 0) as bar:
        for begin in range(0, len(examples), AT_ONCE):
            chunk = examples[begin:begin + AT_ONCE]
            micros = split_batch(chunk, budget, world, model.by_trie)
            for number in range(0, len(micros), world):  # as many as there are processes, one each
                micro = micros[number + rank]
                asked = [chunk[place] for place in micro] or chunk[:1]  # all processes gather the weights together
                logps, _ = sequence_logps(model, scored_sequences(asked), device)
                parts = logps.cpu().split([count_tokens(*example.sequences) for example in asked])
                mine.update(zip([begin + place for place in micro], parts))
                bar.update(sum(map(len, micros[number:number + world])))
    everyones = [None] * world
    dist.all_gather_object(everyones, mine)
    answers = {place: logps for part in everyones for place, logps in part.items()}
    return [answers[place] for place in range(len(examples))]


def keep_references(path: str, references: dict):
    """Write {name: log-probs of each example} from one process, so that a killed run leaves the old file or the new."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import save
    if dist.get_rank() == 0:
        with open(path + ".new", "wb") as file:
            file.write(save({name: torch.cat(logps) for name, logps in references.items() if logps}))
        os.replace(path + ".new", path)


def read_references(path: str, sets: dict) -> dict | None:
    """What `keep_references` wrote, or None where it wrote nothing. sets: {name: examples}."""
    import torch.distributed as dist
    from safetensors.torch import load_file
    found = [load_file(path) if dist.get_rank() == 0 and os.path.exists(path) else None]
    dist.broadcast_object_list(found)
    if found[0] is None:
        return None
    say(f"{path}: the reference was asked before")
    references = {}
    for name, examples in sets.items():
        counts = [count_tokens(*example.sequences) for example in examples]
        references[name] = list(found[0][name].split(counts)) if examples else []
    return references
