"""A model's folder: where it is, what its configuration says, which of its files are its weights."""
import glob
import os

from stepdpo.command import UserError
from stepdpo.hub import find_files, refuse_adapter


def find_model(name, flag="--model"):
    """The local folder of a model: itself, or the snapshot of a hub's model. flag: what names it, for an error."""
    files = find_files(name, flag)
    if os.path.isdir(name):
        return name
    from huggingface_hub import snapshot_download
    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
    try:
        return snapshot_download(name, allow_patterns=wanted, **files)
    except Exception as error:  # no such model, no permission: each raises its own class
        raise UserError(f"{flag} {name}: neither a model folder nor a hub's model ({first_line(error)}); check the "
                        "name", 2) from error


def first_line(error):
    """An error's text in one line, for a message."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def files_in(folder, *patterns):
    return [path for pattern in patterns for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))]


def load_config(folder):
    """The model's configuration. UserError for what is no model, or one that cannot be trained as it is."""
    from transformers import AutoConfig
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # unset, it asks at stdin
    except Exception as error:
        raise UserError(f"{folder}: no model there ({first_line(error)}); name a folder with config.json", 2) from error
    if getattr(config, "quantization_config", None):
        raise UserError(f"{folder}: its weights are quantized; dequantize them first (from_pretrained, then "
                        "save_pretrained)", 2)
    refuse_adapter(folder)
    return config


def weight_files(folder, config):
    """The files that from_pretrained loads, whatever else lies beside them; [] for a folder without weights.

    UserError for weights that it would not find, or that are no safetensors.
    """
    from transformers.modeling_utils import _get_resolved_checkpoint_files
    try:
        files, _ = _get_resolved_checkpoint_files(
            folder, variant=None, gguf_file=None, use_safetensors=None, user_agent=None, is_remote_code=False,
            transformers_explicit_filename=getattr(config, "transformers_weights", None))
    except OSError as error:  # no file of a known name
        for path in files_in(folder, "*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf"):
            raise UserError(f"{path}: from_pretrained does not load it ({first_line(error)}); convert the model with "
                            "save_pretrained", 2) from error
        return []
    for path in files:
        if not path.endswith(".safetensors"):
            raise UserError(f"{path}: only safetensors are read; convert the model with save_pretrained", 2)
        if not os.path.exists(path):
            raise UserError(f"{path}: named by the index and not there; get the model anew", 2)
    return files
