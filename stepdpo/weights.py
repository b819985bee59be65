"""Weights between a folder's files and the shards of a model in memory."""
import math

from stepdpo.command import UserError
from stepdpo.folder import files_in, load_config
from stepdpo.processes import say


def stored(model):
    """(name, shape, tensor) of every weight as a model folder's files hold it: a tied head has none."""
    fused = fused_names(model.config)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        end = next(filter(name.endswith, fused), None)
        if end:
            yield from stored_experts(name.removesuffix(end), tensor, fused[end])
        elif not (tied and name == "lm_head.weight"):
            yield name, tuple(tensor.shape), tensor


def stored_experts(start, tensor, patterns):
    """The same of experts, which transformers fuses in memory: E of them in a tensor whose rows are sharded.

    Files hold them one by one, under the names of `patterns`. tensor is a view of the shard, None where another process
    has that expert.
    """
    import torch.distributed as dist
    rows = math.ceil(len(tensor) / dist.get_world_size())
    local, first = tensor.to_local(), dist.get_rank() * rows
    for expert in range(len(tensor)):
        if first <= expert < first + len(local):
            parts = local[expert - first].chunk(len(patterns))
        else:
            parts = [None] * len(patterns)
        shape = (tensor.shape[1] // len(patterns), *tensor.shape[2:])
        for pattern, part in zip(patterns, parts):
            yield start + pattern.replace("*", str(expert)), shape, part


def fused_names(config):
    """{end of a fused weight's name: patterns of its parts' names in files}, from transformers' own table."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    table = get_checkpoint_conversion_mapping(config.model_type) or ()
    if not all(hasattr(entry, "operations") for entry in table):
        raise UserError(f"{config.name_or_path}: files of {config.model_type} name weights otherwise than transformers "
                        "does in memory, which is supported for experts alone; choose another model", 2)
    return {entry.target_patterns[0]: entry.source_patterns for entry in table}


def load_weights(model, folder, added):
    """Fill the shards of a transformers model from a folder's files, all but the `added` names."""
    import torch.distributed.checkpoint as dcp
    reader = dcp.HuggingFaceStorageReader(folder)
    found = {name: tuple(entry.size) for name, entry in reader.read_metadata().state_dict_metadata.items()}
    wanted = {}
    for name, shape, tensor in stored(model):
        if name in added:
            continue
        if found.get(name) != shape:
            raise UserError(f"{folder}: weights and config.json do not fit: {name} is {found.get(name, 'missing')}, "
                            f"not {shape}; get the model anew", 2)
        if tensor is not None:
            wanted[name] = tensor
    dcp.load(wanted, storage_reader=reader)


def draw_weights(model, folder, seed, added):
    """Random weights, the same at every world size: each process draws them all and keeps its shards."""
    import torch
    from transformers import AutoModelForCausalLM
    for path in files_in(folder, "*.bin", "*.pt", "*.pth", "*.gguf"):
        raise UserError(f"{path}: only safetensors are read; convert the model with save_pretrained", 2)
    say(f"{folder}: has no weights; starting from random ones (--seed {seed})")
    torch.manual_seed(seed)
    drawn = AutoModelForCausalLM.from_config(load_config(folder), dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        if name not in added:
            copy_shard(tensor, drawn[name])


def copy_shard(tensor, whole):
    """Copy into a tensor of the model, perhaps sharded, this process's part of what it is as a whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor
    if isinstance(tensor, DTensor):
        # no source rank: every process has the whole and keeps its part, nothing is sent
        whole = distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor, whole = tensor.to_local(), whole.to_local()
    tensor.copy_(whole)
