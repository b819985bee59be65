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

from stepdpo.export import export  # noqa: F401 (a model's whole life is offered here, for the scripts)
from stepdpo.folder import files_in, find_model, load_config  # noqa: F401
from stepdpo.processes import first_process, processes, say  # noqa: F401
from stepdpo.weights import copy_shard, draw_weights, fused_names, load_weights  # noqa: F401


def build_model(config, device, dtype):
    """The model of a configuration as a Scorer, with our attention."""
    import torch
    from transformers import AttentionInterface, AutoModelForCausalLM

    from stepdpo.attention import attend
    from stepdpo.scorer import Scorer
    AttentionInterface.register("stepdpo", torch.compiler.disable(attend))
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="stepdpo", dtype=dtype)
    return Scorer(model).eval()  # no dropout, as a module or a function: policy and reference are asked alike


def load_model(folder, mesh, shard, seed, offload=False, checkpointing=False, compiled=False, prepare=None):
    """The model of a folder, sharded: float32 masters, computing in bfloat16 on a GPU and in float32 on a CPU.

    Weights go from the files to their shards. A folder without weights gives random ones, by seed.
    shard: called with the Scorer, the mesh and `offload`; its FSDP2 calls, shard_model in train.py.
    offload: shards, gradients and moments live in host memory. checkpointing: a layer keeps its input alone and is
    computed again by the backward pass. compiled: torch.compile on each layer around its attention.
    prepare: called with the transformers model, its weights on "meta", before it is sharded. It may freeze weights
    (what is trainable is what requires a gradient) and add some; those must have values, the same in every process.
    """
    import torch
    config = load_config(folder)
    fused_names(config)  # refuses what could not be exported, before anything is computed
    model = build_model(config, "meta", torch.float32)
    if prepare:
        prepare(model.model)
    added = {name: tensor for name, tensor in model.model.state_dict().items() if not tensor.is_meta}
    for layer in model.layers:
        if compiled:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if checkpointing:
            keep_input_only(layer)
    shard(model, mesh, offload)
    model.to_empty(device="cpu" if offload else mesh.device_type)  # the first memory that the weights take
    restore_buffers(model.model, mesh.device_type)
    if files_in(folder, "*.safetensors"):
        load_weights(model.model, folder, added)
    else:
        draw_weights(model.model, folder, seed, added)
    for name, tensor in model.model.state_dict().items():
        if name in added:
            copy_shard(tensor, added[name])
    return model


def keep_input_only(layer):
    """Activation checkpointing. `forward` is exchanged and the layer itself stays, because models look at attributes
    of their layers. Not reentrant, so that trie and positions may be keyword arguments."""
    from torch.utils.checkpoint import checkpoint
    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def restore_buffers(model, device):
    """Compute anew the buffers that no file holds, such as the frequencies of rope; to_empty left garbage in them.

    They live on the device also where weights are offloaded. transformers computes them in `_init_weights`, which
    fills the weights of those modules too: call this before weights are loaded.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        if module._non_persistent_buffers_set:
            model._init_weights(module)


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
