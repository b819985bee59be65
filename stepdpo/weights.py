"""Weights between a folder's files and the shards of a model in memory.

    load_weights(model, folder, files, keep)                 # model: of transformers, sharded, with memory
    for name, tensor in file_tensors(model): ...             # whole, under the names that files have

transformers names weights in memory otherwise than files do: it fuses experts that files hold one by one, renames
parts, joins or splits projections. Its own table says how, and both directions are its own functions.
"""
import re
from copy import deepcopy
from functools import partial

from stepdpo.command import UserError
from stepdpo.folder import first_line, load_config
from stepdpo.processes import say

# ----------------------------------------------------------------------------------------------- loading

def open_weights(files):
    """{name of a tensor: the open file that holds it}. UserError for what is no safetensors file."""
    from safetensors import SafetensorError, safe_open
    sources = {}
    for path in files:
        try:
            file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({first_line(error)}); get the model anew", 2) from error
        sources.update(dict.fromkeys(file.keys(), file))
    return sources


def load_weights(model, folder, files, keep):
    """Fill a transformers model's shards from the files that from_pretrained loads, all but the names in `keep`.

    A weight that a file holds under one name is read row by row, this process's rows alone. One that is made of several
    tensors is made whole in every process, which keeps its part. UserError where files and configuration do not fit.
    """
    sources, state = open_weights(files), model.state_dict()
    renamed, converted, unused = match_names(model, sources)
    filled = set()  # ids of weights, because tied ones have two names and one is enough
    for target, name in renamed.items():
        if target not in keep:
            check_tied(model, folder, target, name, renamed, sources)
            fill_rows(state[target], sources[name], name, folder)
            filled.add(id(model.get_parameter_or_buffer(target)))
    for target, converter in converted.items():
        try:
            results = converter.convert(target, model=model, config=model.config)
        except Exception as error:  # experts that are missing, of different shapes
            raise misfit(folder, target, first_line(error)) from error
        for name, tensor in results.items():
            tensor = tensor[0] if isinstance(tensor, list) else tensor
            if name not in state or state[name].shape != tensor.shape:
                raise misfit(folder, name, f"comes out as {tuple(tensor.shape)}")
            copy_shard(state[name], tensor)
            filled.add(id(model.get_parameter_or_buffer(name)))
    may_miss = re.compile("|".join(model._keys_to_ignore_on_load_missing or ["$^"]))
    for name in state:
        if id(model.get_parameter_or_buffer(name)) not in filled and name not in keep and not may_miss.search(name):
            raise misfit(folder, name, "is missing")
    if unused:
        say(f"{folder}: {len(unused)} tensors in its files are no part of this model and will not be in the trained "
            f"one, such as {unused[0]}")


def count_not_finite(weights):
    """How many numbers of some weights are NaN or infinite, over all processes, each of which takes part."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor
    shards = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    counts = [None] * dist.get_world_size()
    dist.all_gather_object(counts, sum((~torch.isfinite(shard.detach())).sum().item() for shard in shards))
    return sum(counts)


def misfit(folder, name, fact):
    return UserError(f"{folder}: weights and config.json do not fit: {name} {fact}; get the model anew", 2)


def match_names(model, sources):
    """({weight: its name in the files}, {first weight: converter}, names that belong to no weight).

    A converter of transformers makes one or more weights of several tensors; ours read them when it is called.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    table, state, prefix = get_model_conversion_mapping(model), model.state_dict(), model.base_model_prefix
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    renamed, converted, unused = {}, {}, []
    for name in sorted(sources, key=dot_natural_key):  # expert 2 before expert 10
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:  # from_pretrained too takes a name that is right as it is
            target, pattern = rename_source_key(name, [], [], prefix, state)
        if target not in state:
            unused.append(name)
        elif pattern is None:
            renamed[target] = name
        else:
            if target not in converted:
                converted[target] = deepcopy(of_pattern[pattern])
            converted[target].add_tensor(target, name, pattern, partial(sources[name].get_tensor, name))
    model._weight_conversions = [entry for entry in table if entry.was_used()]  # revert_weight_conversion goes by it
    known = re.compile("|".join(model._keys_to_ignore_on_load_unexpected or ["$^"]))
    return renamed, converted, [name for name in unused if not known.search(name)]


def check_tied(model, folder, target, name, renamed, sources):
    """UserError where files hold two different tensors for a weight that the configuration ties to another."""
    other = renamed.get(model.all_tied_weights_keys.get(target))
    if other and not sources[name].get_tensor(name).equal(sources[other].get_tensor(other)):
        raise UserError(f"{folder}: config.json ties {target} to {model.all_tied_weights_keys[target]}, and in the "
                        "files they differ; set tie_word_embeddings to what is meant", 2)


def fill_rows(tensor, file, name, folder):
    """Copy a file's tensor into one of the model, perhaps sharded by rows: only this process's rows are read."""
    from torch.distributed.tensor import DTensor
    shape = tuple(file.get_slice(name).get_shape())
    if shape != tuple(tensor.shape):
        raise misfit(folder, name, f"is {shape}, not {tuple(tensor.shape)}")
    if not isinstance(tensor, DTensor):
        tensor.copy_(file.get_tensor(name))
        return
    local, first = tensor.to_local(), first_row(tensor)
    if len(local):
        local.copy_(file.get_slice(name)[first:first + len(local)])


def first_row(tensor):
    """Where this process's rows of a tensor sharded by rows begin: all processes have as many, but for the last."""
    rows = -(-len(tensor) // tensor.device_mesh.size())
    return min(tensor.device_mesh.get_local_rank() * rows, len(tensor))


def copy_shard(tensor, whole):
    """Copy into a tensor of the model, perhaps sharded, this process's part of what it is as a whole."""
    from torch.distributed.tensor import DTensor
    if isinstance(tensor, DTensor):
        first, tensor = first_row(tensor), tensor.to_local()
        whole = whole[first:first + len(tensor)]
    tensor.copy_(whole)


def draw_weights(model, folder, seed, keep):
    """Random weights, the same at every world size: each process draws them all and keeps its shards."""
    import torch
    from transformers import AutoModelForCausalLM
    say(f"{folder}: has no weights; starting from random ones (--seed {seed})")
    torch.manual_seed(seed)
    drawn = AutoModelForCausalLM.from_config(load_config(folder), dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        if name not in keep:
            copy_shard(tensor, drawn[name])


# ----------------------------------------------------------------------------------------------- and back

def file_tensors(model, gather):
    """Yields (name, tensor) of every weight as a folder's files hold it, layer by layer: one is whole at a time.

    model: a Scorer. gather: makes a weight whole, or a stand-in for it.
    """
    from transformers.core_model_loading import revert_weight_conversion
    written, layers = set(), {}
    for name, tensor in model.model.state_dict().items():
        weight = model.model.get_parameter_or_buffer(name)
        if name not in model.added and id(weight) not in written:  # a tied weight is written once
            written.add(id(weight))
            layer = re.match(r".*?\.\d+\.", name)
            layers.setdefault(layer.group() if layer else name, {})[name] = tensor
    for layer in layers.values():
        whole = {name: gather(tensor) for name, tensor in layer.items()}
        yield from revert_weight_conversion(model.model, whole).items()
