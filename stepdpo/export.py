"""A trained model back to a model folder that `from_pretrained` reads.

    export(model, folder, out)                               # every process takes part

Names and shapes of the weights are those of the files that the model came from; its tokenizer is copied.
A safetensors file is its header's length (8 bytes), a header of JSON that says where each tensor lies, and the
tensors' bytes; so it can be laid out first and written layer by layer, and no process ever holds the model.
"""
import json
import math
import os
import shutil
import struct
from dataclasses import dataclass

from stepdpo.command import UserError
from stepdpo.folder import files_in, load_config, weight_files
from stepdpo.weights import count_not_finite, file_tensors, open_weights

FILE_BYTES = 5 << 30  # how large a file of exported weights may become


def export(model, folder, out, ends=()):
    """Write OUT as a model folder; every process takes part.

    ends: tokens at which an answer ends, for generation_config.json. What prepare() of load_model added is not written:
    fold it into the weights first.
    """
    import torch
    import torch.distributed as dist
    config, aside, first = load_config(folder), os.path.join(out, "export"), dist.get_rank() == 0
    config.dtype = config.dtype or torch.float32
    if first:
        shutil.rmtree(aside, ignore_errors=True)  # of a killed export
        os.makedirs(aside)
    dist.barrier()
    places, names = lay_out_files(model, folder, config)
    write_tensors(model, places, [os.path.join(aside, name) for name in names])
    dist.barrier()
    if first:
        for name in names:
            os.replace(os.path.join(aside, name), os.path.join(out, name))
        os.rmdir(aside)
        if len(names) > 1:
            write_index(places, names, out)
        config.architectures = [type(model.model).__name__]
        config.save_pretrained(out)
        copy_tokenizer(folder, out)
        end_answers_at(ends, config, out)
    dist.barrier()


def check_finite(model, out):
    """UserError where a trained weight is no finite number: such a model says nothing."""
    if count := count_not_finite([weight for weight in model.parameters() if weight.requires_grad]):
        raise UserError(f"{out}: {count:,} weights are no finite numbers, so no model is written; lower --lr and "
                        "name another --out")


@dataclass
class Place:
    """Where a tensor goes: into which file, as which type, from which byte behind the header."""
    file: int
    dtype: object
    shape: tuple
    start: int = 0

    @property
    def size(self):
        return math.prod(self.shape) * self.dtype.itemsize


def lay_out_files(model, folder, config):
    """({name of a tensor: Place}, names of the files).

    A tensor has the configuration's type, or the one that it has in the files of `folder` where that is wider.
    """
    import torch

    def shape_of(tensor):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    types, sources = torch_types(), open_weights(weight_files(folder, config))
    places, total = {}, 0
    for name, tensor in file_tensors(model, shape_of):
        dtype = config.dtype if tensor.is_floating_point() else tensor.dtype
        if name in sources:
            before = types.get(sources[name].get_slice(name).get_dtype(), dtype)
            dtype = before if before.itemsize > dtype.itemsize else dtype
        places[name] = Place(total // FILE_BYTES, dtype, tuple(tensor.shape))
        total += places[name].size
    count = 1 + max(place.file for place in places.values())
    for file in range(count):
        # readers want a tensor to begin at a multiple of its numbers' size, so the widest come first
        inside = [place for place in places.values() if place.file == file]
        end = 0
        for place in sorted(inside, key=lambda place: -place.dtype.itemsize):
            place.start, end = end, end + place.size
    if count == 1:
        return places, ["model.safetensors"]
    return places, [f"model-{file + 1:05}-of-{count:05}.safetensors" for file in range(count)]


def torch_types():
    """{a type's name in safetensors: torch's}, of those that models are trained from."""
    import torch
    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
            "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
            "BOOL": torch.bool}


def write_tensors(model, places, paths):
    """Each file is written by one process; all take part in making each weight whole."""
    import torch.distributed as dist
    files, begins = {}, {}
    try:
        for number, path in enumerate(paths):
            if number % dist.get_world_size() == dist.get_rank():
                files[number] = open(path, "wb")
                inside = {name: place for name, place in places.items() if place.file == number}
                begins[number] = write_header(files[number], inside)
        for name, tensor in file_tensors(model, gather):
            place = places[name]
            if place.file in files:
                files[place.file].seek(begins[place.file] + place.start)
                files[place.file].write(raw_bytes(tensor.to(place.dtype)))
    finally:
        for file in files.values():
            file.close()


def gather(tensor):
    """A tensor of the model, perhaps sharded, whole and on the host; every process takes part."""
    from torch.distributed.tensor import DTensor
    if isinstance(tensor, DTensor):  # shards of an offloaded model lie on the host; the GPUs exchange them
        tensor = tensor.to(tensor.device_mesh.device_type).full_tensor()
    return tensor.cpu()


def write_header(file, places):
    """Write a safetensors file's length of header and header; returns where the tensors begin."""
    names = {dtype: name for name, dtype in torch_types().items()}
    header = {"__metadata__": {"format": "pt"}}
    for name, place in places.items():
        header[name] = {"dtype": names[place.dtype], "shape": place.shape,
                        "data_offsets": [place.start, place.start + place.size]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return file.write(struct.pack("<Q", len(text)) + text)


def raw_bytes(tensor):
    import torch
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def write_index(places, names, out):
    index = {"metadata": {"total_size": sum(place.size for place in places.values())},
             "weight_map": {name: names[place.file] for name, place in places.items()}}
    with open(os.path.join(out, "model.safetensors.index.json"), "w") as file:
        json.dump(index, file, indent=2, sort_keys=True)


def copy_tokenizer(folder, out):
    """Copied, not saved anew, so that it cannot become another tokenizer on the way."""
    for path in files_in(folder, "tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*",
                         "chat_template*", "generation_config*"):
        if os.path.isfile(path):
            shutil.copy(path, out)


def end_answers_at(tokens, config, out):
    """Put tokens first among those at which OUT/generation_config.json lets an answer end."""
    path, settings = os.path.join(out, "generation_config.json"), {}
    if os.path.exists(path):
        with open(path) as file:
            settings = json.load(file)
    ends = settings.get("eos_token_id", config.get_text_config().eos_token_id)
    if not isinstance(ends, list):
        ends = [] if ends is None else [ends]
    new = [token for token in tokens if token not in ends]
    if new:
        settings["eos_token_id"] = new + ends
        with open(path, "w") as file:
            json.dump(settings, file, indent=2, sort_keys=True)
