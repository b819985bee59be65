"""A trained model back to a model folder that `from_pretrained` reads.

    export(model, folder, out)                               # every process takes part

Names, shapes and the type of the weights are those of the folder that the model came from; its tokenizer is copied.
"""
import math
import os
import shutil

from stepdpo.folder import files_in, load_config
from stepdpo.weights import stored

FILE_BYTES = 5 << 30  # how large a file of exported weights may become


def export(model, folder, out):
    """Write OUT as a model folder, every process its shards, in the type that the files of `folder` have.

    What prepare() of load_model added is not written: fold it into the weights first.
    """
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files_on_every_rank
    config, aside = load_config(folder), os.path.join(out, "export")
    config.dtype = config.dtype or torch.float32
    state, files, size = {}, {}, 0
    for name, shape, tensor in stored(model.model):
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
        config.architectures = [type(model.model).__name__]
        config.save_pretrained(out)
        copy_tokenizer(folder, out)
    dist.barrier()


def copy_tokenizer(folder, out):
    """Copied, not saved anew, so that it cannot become another tokenizer on the way."""
    for path in files_in(folder, "tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*",
                         "chat_template*", "generation_config*"):
        if os.path.isfile(path):
            shutil.copy(path, out)
