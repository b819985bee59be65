"""A model's folder: where it is, what its configuration says."""
import glob
import os

from stepdpo.command import UserError


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
    return config
