"""A model over processes: found, built, sharded with FSDP2 and filled from a model folder's files.

    with processes("cpu") as mesh:                             # torchrun's processes, or a world of one
        model = load_model(folder, mesh, shard_model, seed=0)  # a Scorer, see scorer.py; sharded as train.py says
        export(model, folder, out)                             # see export.py

Nothing here knows what is trained for. At any number of processes, one included, a process holds its share of the
weights alone, from the file to the optimizer and back to the file: the model is built on "meta", where tensors have
shapes and no memory, sharded there, and only then given memory and filled.
"""
import contextlib
import functools

from stepdpo.command import UserError
from stepdpo.folder import first_line, load_config, weight_files
from stepdpo.processes import say
from stepdpo.weights import (
    copy_shard,
    count_not_finite,
    draw_weights,
    load_weights,
)


def build_model(config, device, dtype):
    """(The model of a configuration as a Scorer, why it does not take the trie or None). See paths.py."""
    import torch
    from transformers import AutoModelForCausalLM

    from stepdpo.paths import choose_path
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval()  # no dropout, as a module or a function: policy and reference are asked alike
    return choose_path(model)


def load_model(folder, mesh, shard, seed, offload=False, checkpointing=False, compiled=False, prepare=None,
               dtype="float32"):
    """The model of a folder, sharded: float32 masters, computing in bfloat16 on a GPU and in float32 on a CPU.

    Weights go from the files to their shards. A folder without weights gives random ones, by seed.
    shard: called with the Scorer, the mesh and `offload`; its FSDP2 calls, shard_model in train.py.
    offload: shards, gradients and moments live in host memory. checkpointing: a layer keeps its input alone and is
    computed again by the backward pass. compiled: torch.compile on each layer around its attention.
    prepare: called with the transformers model, its weights on "meta", before it is sharded. It may freeze weights
    (what is trainable is what requires a gradient) and add some: those must have values, the same in every process,
    and the others must keep their names. dtype: of the weights that are not added; "bfloat16" where they are frozen.
    UserError, in one line, for a model that cannot be trained.
    """
    config = load_config(folder)
    try:
        return place_model(config, folder, mesh, shard, seed, offload, checkpointing, compiled, prepare, dtype)
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{folder}: models of type {config.model_type} cannot be trained here "
                        f"({type(error).__name__}: {first_line(error)}); see docs/models.md", 2) from error


def place_model(config, folder, mesh, shard, seed, offload, checkpointing, compiled, prepare, dtype):
    import torch

    from stepdpo.paths import settle
    if dtype == "bfloat16" and config.dtype != torch.bfloat16:
        say(f"{folder}: its weights are rounded to bfloat16, in what comes out too; --base-dtype float32 keeps them")
    model, reason = build_model(config, "meta", getattr(torch, dtype))
    own = set(model.model.state_dict())
    if prepare:
        prepare(model.model)
    added = {name: tensor for name, tensor in model.model.state_dict().items() if name not in own}
    model.added = set(added)
    shard(model, mesh, offload)
    model.to_empty(device="cpu" if offload else mesh.device_type)  # the first memory that the weights take
    restore_buffers(model.model, mesh.device_type)
    files = weight_files(folder, config)
    if files:
        load_weights(model.model, folder, files, added)
    else:
        draw_weights(model.model, folder, seed, added)
    for name, tensor in model.model.state_dict().items():
        if name in added:
            copy_shard(tensor, added[name])
    if count := count_not_finite(model.parameters()):
        raise UserError(f"{folder}: {count:,} of its weights are no finite numbers; get the model anew", 2)
    with no_gradients(model):
        reason = settle(model, torch.device(mesh.device_type)) or reason
    if not model.by_trie:
        say(f"{folder}: trains by separate rows, without sharing prefixes, because this model {reason}")
    if not model.fused:
        say(f"{folder}: computes the logits of every token, because this model makes them in a way of its own")
    for layer in model.layers:
        if compiled:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if checkpointing:
            keep_input_only(layer)
    return model


def keep_input_only(layer):
    """Activation checkpointing. `forward` is exchanged and the layer itself stays, because models look at attributes
    of their layers. Not reentrant, so that trie and positions may be keyword arguments."""
    from torch.utils.checkpoint import checkpoint
    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def restore_buffers(model, device):
    """Compute anew the buffers that no file holds, such as the frequencies of rope; to_empty left garbage in them.

    transformers does it where it draws random weights, and leaves alone what is marked as having values: the weights,
    which are filled after this. Buffers live on the device also where weights are offloaded.
    """
    for module in model.modules():
        module._is_hf_initialized = False
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    for weight in model.parameters():
        weight._is_hf_initialized = True
    model.initialize_weights()


@contextlib.contextmanager
def no_gradients(model):
    """Forward passes alone. Afterwards the root is sharded again, which otherwise a backward pass does: an optimizer
    that is made before would hold the gathered copies of its weights."""
    import torch
    from torch.distributed.fsdp import FSDPModule
    with torch.no_grad():
        yield
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
