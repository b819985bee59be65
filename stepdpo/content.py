"""Hashes of what rows, files and model folders hold, by which a resumed run knows that nothing was exchanged."""
import fnmatch
import hashlib
import json
import os

PLACES, LENGTH = 64, 4096  # of a file's excerpts; a smaller file than 256 KiB is read whole
# what of a model folder decides what it says; metrics and checkpoints that lie beside do not
MODEL_FILES = ("*.safetensors", "*config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
               "merges.txt", "*.model", "chat_template*")


def row_content(row):
    """16 hex digits that stand for all that a row says, in whatever order its fields come."""
    text = json.dumps(row, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def path_content(path):
    """16 hex digits that stand for a model folder, or for a file, wherever it lies and whatever its dates are.

    Of each file: its name, its size and excerpts. So it takes no time where the weights are 100 GB, and notices
    another training, but not one number that somebody changed. OSError for what cannot be read.
    """
    digest, names = hashlib.blake2b(digest_size=8), [""]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if any(fnmatch.fnmatch(name, kind) for kind in MODEL_FILES))
    for name in names:
        file = os.path.join(path, name) if name else path
        if os.path.isfile(file):
            digest.update(repr((name, os.path.getsize(file), excerpts(file))).encode())
    return digest.hexdigest()


def excerpts(path):
    """Bytes from all over a file, its beginning and its end among them."""
    pieces = []
    with open(path, "rb") as file:
        size = os.path.getsize(path)
        for place in range(PLACES):
            file.seek(size * place // PLACES)
            pieces.append(file.read(LENGTH))
        file.seek(max(size - LENGTH, 0))
        pieces.append(file.read(LENGTH))
    return pieces
