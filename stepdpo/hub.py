"""Where a model's files are: a folder, the hub's cache, or the hub, which may be out of reach."""
import json
import os
import socket
import threading
import urllib.parse
import urllib.request

from stepdpo.command import UserError

PATIENCE = 5  # seconds that the hub may take to let itself be connected to; transformers would try for a minute


def find_files(name, flag="--model"):
    """{"local_files_only": whether only what is here can be used}, for from_pretrained(name).

    UserError, at once, for a path that is no folder, for an adapter's folder, and for a hub name that is neither cached
    nor within reach.
    """
    if os.path.isdir(name):
        if flag != "--tokenizer":  # beside an adapter there may be a tokenizer
            refuse_adapter(name, flag)
        return {"local_files_only": True}
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1 or os.path.exists(name):
        raise UserError(f"{flag} {name}: no such folder; name a folder that holds a model, or a hub name", 2)
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return {"local_files_only": True}
    fault = unreachable(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if fault is None:
        return {"local_files_only": False}
    from huggingface_hub import try_to_load_from_cache
    if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "tokenizer.json")):
        return {"local_files_only": True}
    raise UserError(f"{flag} {name}: no folder here, and the hub cannot be reached ({fault}); name a folder", 2)


def refuse_adapter(folder, flag=""):
    """UserError, naming its base, for a folder that holds an adapter, as PEFT writes it: that is no whole model."""
    path = os.path.join(folder, "adapter_config.json")
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            base = json.load(file)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    of = f" of {base!r}" if base else ", which does not name its base"
    raise UserError(f"{flag} {folder}".strip() + f": holds an adapter{of} (adapter_config.json); merge the two (peft's "
                    "merge_and_unload, then save_pretrained) and name the merged model", 2)


def unreachable(endpoint):
    """Why no connection to the hub comes about within PATIENCE, None when one does. A proxy is asked in its place."""
    proxies = urllib.request.getproxies()
    address = urllib.parse.urlsplit(proxies.get("https") or proxies.get("all") or endpoint)
    found = {}

    def connect():
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname, port), timeout=PATIENCE).close()
            found["fault"] = None
        except (OSError, ValueError) as error:
            found["fault"] = f"{address.hostname}: {error}"

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has no timeout of its own
    thread.start()
    thread.join(PATIENCE)
    return found.get("fault", f"{address.hostname}: no answer in {PATIENCE} seconds")
