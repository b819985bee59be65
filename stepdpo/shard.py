"""A model over processes: found, built, sharded with FSDP2, filled from a model folder's files and exported to one.

    with processes("cpu") as mesh:                          # torchrun's processes, or a world of one
        model = load_model(folder, mesh, seed=0)            # model(placed trie) gives log-probs, see trie.py
        export(model, folder, out)

Nothing here knows what is trained for. At any number of processes, one included, a process holds its share of the
weights alone, from the file to the optimizer and back to the file; names and shapes are those of the files.
"""
import contextlib
import functools
import glob
import math
import os
import shutil
import sys
import time

from stepdpo.command import UserError
from stepdpo.trie import attend, forward

FILE_BYTES = 5 << 30  # how large a file of exported weights may become


# -------------------------------------------------------------------------------------------- processes

@contextlib.contextmanager
def processes(device):
    """Join torchrun's processes, or be a world of one; gives the mesh that the model is sharded over."""
    import torch
    import torch.distributed as dist
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU; choose --device cpu", 2)
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if torch.cuda.get_device_capability() < (8, 0):
            raise UserError(f"--device cuda: attention needs an Ampere GPU or a later one, and this is a "
                            f"{torch.cuda.get_device_name()}; choose another or --device cpu", 2)
    alone = {} if "RANK" in os.environ else dict(store=dist.HashStore(), rank=0, world_size=1)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", **alone)
    done = False
    try:
        yield dist.device_mesh.init_device_mesh(kind, (dist.get_world_size(),))
        done = True
    except UserError:
        if dist.get_rank():
            time.sleep(10)  # the first process speaks for all: torchrun stops the others when it has ended
        raise
    finally:
        if done or kind == "cpu":  # after an error NCCL would wait here for processes that wait for this one
            dist.destroy_process_group()


def first_process():
    return os.environ.get("RANK", "0") == "0"


def say(message):
    """A line on stderr, from one process."""
    if first_process():
        print("train.py:", message, file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------- models

def find_model(name):
    """The local folder of a model: itself, or the snapshot of a hub's model."""
    if os.path.isdir(name):
        return name
    from huggingface_hub import snapshot_download
    try:
        return snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"])
    except Exception as error:  # no network, no such model, no permission: each raises its own class
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{name}: neither a model folder nor a hub's model ({reason}); check the name", 2) from error


def files_in(folder, *patterns):
    return [path for pattern in patterns for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))]


def load_config(folder):
    """The model's configuration. UserError for what is no model, or one that would silently be trained wrongly."""
    from transformers import AutoConfig
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # unset, it asks at stdin
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{folder}: no model there ({reason}); name a folder with config.json", 2) from error
    odd = [name for name in ("attn_logit_softcapping", "logit_scale", "logits_scaling")
           if getattr(config, name, None) not in (None, 1)]
    odd += set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if odd:
        raise UserError(f"{folder}: models with {', '.join(odd)} are not supported; see attend() and forward()", 2)
    fused_names(config)  # refuses what could not be exported, before anything is computed
    return config


def build_model(config, device, dtype):
    """The model of a configuration, with our attention and head."""
    import torch
    from transformers import AttentionInterface, AutoModelForCausalLM

    from loss import token_logps
    AttentionInterface.register("stepdpo", torch.compiler.disable(attend))
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="stepdpo", dtype=dtype)
    head, cap = model.lm_head, getattr(config, "final_logit_softcapping", None)
    head.forward = lambda hidden, targets: token_logps(hidden, head.weight, targets, head.bias, cap)
    model.forward = functools.partial(forward, model)
    return model.eval()  # no dropout, as a module or a function: policy and reference are asked alike


def load_model(folder, mesh, seed, offload=False, checkpointing=False, compiled=False, prepare=None):
    """The model of a folder, sharded: float32 masters, computing in bfloat16 on a GPU and in float32 on a CPU.

    Weights go from the files to their shards. A folder without weights gives random ones, by seed.
    prepare(model): what is done to the model on "meta", before it is sharded.
    offload: shards, gradients and moments live in host memory. checkpointing: a layer keeps its input alone and is
    computed again by the backward pass. compiled: torch.compile on each layer around its attention.
    """
    import torch
    from torch.utils.checkpoint import checkpoint
    model = build_model(load_config(folder), "meta", torch.float32)
    if prepare:
        prepare(model)
    for layer in model.model.layers:
        if compiled:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        if checkpointing:
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    shard(model, mesh, offload)
    model.to_empty(device="cpu" if offload else mesh.device_type)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(mesh.device_type)
        if module._non_persistent_buffers_set:
            model._init_weights(module)  # rope's frequencies are in no file
    load = load_weights if files_in(folder, "*.safetensors") else draw_weights
    load(model, folder, seed)
    return model


def shard(model, mesh, offload):
    """FSDP2, in place: a group a layer, one for the head unless it is tied to the embedding, the rest in the root."""
    import torch
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
    cuda = mesh.device_type == "cuda"
    dtypes = (torch.bfloat16, torch.float32) if cuda else ()  # to compute in, to reduce in
    how = dict(mesh=mesh, mp_policy=MixedPrecisionPolicy(*dtypes))
    if offload:
        how["offload_policy"] = CPUOffloadPolicy(pin_memory=cuda)
    for layer in model.model.layers:
        fully_shard(layer, **how)
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        fully_shard(model.lm_head, reshard_after_forward=False, **how)
    fully_shard(model, **how)


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


# ------------------------------------------------------------------------------------------------ files

def stored(model):
    """(name, shape, tensor) of every weight as a model folder's files hold it: a tied head has none.

    transformers fuses experts in memory, E of them in a tensor whose rows are sharded, and files hold them one by
    one: there, tensor is a view of the shard, None where another process has that expert.
    """
    import torch.distributed as dist
    fused, tied = fused_names(model.config), model.lm_head.weight is model.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        end = next(filter(name.endswith, fused), None)
        if end:
            local, first = tensor.to_local(), dist.get_rank() * -(-len(tensor) // dist.get_world_size())
            for expert in range(len(tensor)):
                own = local[expert - first] if 0 <= expert - first < len(local) else None
                parts = [None] * len(fused[end]) if own is None else own.chunk(len(fused[end]))
                for pattern, part in zip(fused[end], parts):
                    yield (name.removesuffix(end) + pattern.replace("*", str(expert)),
                           (tensor.shape[1] // len(parts), *tensor.shape[2:]), part)
        elif not (tied and name == "lm_head.weight"):
            yield name, tuple(tensor.shape), tensor


def fused_names(config):
    """{end of a fused weight's name: patterns of its parts' names in files}, from transformers' own table."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    table = get_checkpoint_conversion_mapping(config.model_type) or ()
    if not all(hasattr(entry, "operations") for entry in table):
        raise UserError(f"{config.name_or_path}: files of {config.model_type} name weights otherwise than transformers "
                        "does in memory, which is supported for experts alone; choose another model", 2)
    return {entry.target_patterns[0]: entry.source_patterns for entry in table}


def model_state(model):
    """This process's tensors by their names in a model folder's files, to be saved or loaded in place."""
    return {name: tensor for name, _, tensor in stored(model) if tensor is not None}


def load_weights(model, folder, seed):
    import torch.distributed.checkpoint as dcp
    reader = dcp.HuggingFaceStorageReader(folder)
    found = {name: tuple(entry.size) for name, entry in reader.read_metadata().state_dict_metadata.items()}
    for name, shape, _ in stored(model):
        if found.get(name) != shape:
            raise UserError(f"{folder}: weights and config.json do not fit: {name} is {found.get(name, 'missing')}, "
                            f"not {shape}; get the model anew", 2)
    dcp.load(model_state(model), storage_reader=reader)


def draw_weights(model, folder, seed):
    """Random weights, the same at every world size: each process draws them all and keeps its shards."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor
    from transformers import AutoModelForCausalLM
    for path in files_in(folder, "*.bin", "*.pt", "*.pth", "*.gguf"):
        raise UserError(f"{path}: only safetensors are read; convert the model with save_pretrained", 2)
    say(f"{folder}: has no weights; starting from random ones (--seed {seed})")
    torch.manual_seed(seed)
    drawn = AutoModelForCausalLM.from_config(load_config(folder), dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        full = drawn[name]
        if isinstance(tensor, DTensor):
            full = distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None).to_local()
            tensor = tensor.to_local()
        tensor.copy_(full)


def export(model, folder, out):
    """Write OUT as a model folder, every process its shards, in the type that the files of `folder` have."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files_on_every_rank
    config, aside = load_config(folder), os.path.join(out, "export")
    config.dtype = config.dtype or torch.float32
    state, files, size = {}, {}, 0
    for name, shape, tensor in stored(model):
        files[name] = size // FILE_BYTES + 1
        size += math.prod(shape) * config.dtype.itemsize
        if tensor is not None:
            state[name] = tensor.to(config.dtype) if tensor.is_floating_point() else tensor
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)  # shards of a killed export, perhaps at another number of processes
    dist.barrier()
    dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(aside, save_distributed=True))
    consolidate_safetensors_files_on_every_rank(aside, out, files)
    if dist.get_rank() == 0:
        shutil.rmtree(aside)
        if max(files.values()) == 1:  # the usual name of a model in one file
            os.replace(os.path.join(out, "model-00001-of-00001.safetensors"), os.path.join(out, "model.safetensors"))
            os.remove(os.path.join(out, "model.safetensors.index.json"))
        config.architectures = [type(model).__name__.removeprefix("FSDP")]  # fully_shard renames the class
        config.save_pretrained(out)
        # copied, not saved anew, so that it cannot become another tokenizer on the way
        for path in files_in(folder, "tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*",
                             "chat_template*", "generation_config*"):
            if os.path.isfile(path):
                shutil.copy(path, out)
    dist.barrier()
