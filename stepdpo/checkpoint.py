"""What --resume needs: the settings of a run, by which it is known, and checkpoints.

OUT/run.json             {"settings": {...}, "finished": false}, written before anything else that is kept
OUT/checkpoint-STEP/     parameters that are trained, their optimizers' states, progress.json; the last two are kept
"""
import contextlib
import hashlib
import json
import os
import shutil

from stepdpo.command import UserError
from stepdpo.folder import files_in
from stepdpo.processes import first_process, say
from stepdpo.rows import write_aside

CANNOT_MATTER = {  # flags that --resume may change, since they decide no weight, or none beyond rounding
    "out", "resume", "plan", "world", "save_every", "eval_every", "tokens_per_micro_batch", "checkpointing", "offload",
    "compile"}


# --------------------------------------------------------------------------------------------- settings

def run_settings(flags: dict, device: str, models: dict, rows: dict) -> dict:
    """What must be the same for a run to go on: every flag that can matter, {name: value}.

    device: the kind that the run is on. models, rows: {flag: folder} and {flag: examples}, of which the content counts
    and not the path.
    """
    settings = {name: value for name, value in flags.items() if name not in CANNOT_MATTER}
    settings["device"] = device
    for name, folder in models.items():
        settings[name] = model_fingerprint(folder)
    for name, examples in rows.items():
        settings[name] = rows_fingerprint(examples)
    return settings


def model_fingerprint(folder: str) -> str:
    """16 hex digits that stand for the content of a model folder, wherever it lies and whatever its dates are.

    Of weights: name, size and excerpts of every file, which takes no time where they are 100 GB.
    """
    digest = hashlib.sha256()
    for path in files_in(folder, "*.safetensors", "config.json"):
        digest.update(repr((os.path.basename(path), os.path.getsize(path), excerpts(path))).encode())
    return digest.hexdigest()[:16]


def excerpts(path, places=64, length=4096):
    """Bytes from all over a file."""
    pieces = []
    with open(path, "rb") as file:
        size = os.path.getsize(path)
        for place in range(places):
            file.seek(size * place // places)
            pieces.append(file.read(length))
        file.seek(max(size - length, 0))
        pieces.append(file.read(length))
    return pieces


def rows_fingerprint(examples) -> str:
    """16 hex digits that stand for rows as they are trained on: tokens, sides and weights, in order."""
    digest = hashlib.sha256()
    for example in examples:
        parts = [(s.ids.tobytes(), s.start, s.side, s.weight) for s in example.sequences]
        digest.update(repr((parts, example.weight)).encode())
    return digest.hexdigest()[:16]


def write_run(out: str, settings: dict, finished: bool = False):
    """Write OUT/run.json, from one process."""
    if first_process():
        write_aside(os.path.join(out, "run.json"), json.dumps({"settings": settings, "finished": finished}, indent=1))


def check_run(out: str, settings: dict) -> bool | None:
    """Whether the run in OUT has finished; None when there is none. UserError when its settings are others."""
    path = os.path.join(out, "run.json")
    if not os.path.exists(path):
        if holds_run(out):
            raise UserError(f"{out}: run.json is gone, and nothing else says what the run was; name another --out", 2)
        return None
    before, finished = read_run(path)
    other = [name for name in sorted(before.keys() | settings.keys()) if before.get(name) != settings.get(name)]
    if other:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise UserError(f"{out}: made with another {flags}; resume with the same or name another --out", 2)
    return finished


def read_run(path: str) -> tuple[dict, bool]:
    """(settings, whether the run has finished) of a run.json. UserError for what is none."""
    try:
        with open(path) as file:
            run = json.load(file)
        return dict(run["settings"]), bool(run["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not hold the settings of a run; name another --out", 2) from error


def prepare_out(out: str, resume: bool, models: list[str | None]):
    """Make OUT. UserError where it cannot be made or used. models: the folders that a run starts from."""
    if not resume and holds_run(out):
        raise UserError(f"{out}: holds a run; go on with --resume or name another --out", 2)
    if os.path.realpath(out) in map(os.path.realpath, filter(None, models)):
        raise UserError(f"{out}: is the model to start from; name another --out", 2)
    try:
        os.makedirs(out, exist_ok=True)
        open(os.path.join(out, "dropped.jsonl"), "a").close()  # before hours are spent
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}; name another --out", 2) from error


def holds_run(out: str) -> bool:
    """Whether OUT holds something of a run."""
    return bool(files_in(out, "run.json", "metrics.jsonl", "reference.safetensors") or checkpoints(out))


# ------------------------------------------------------------------------------------------ checkpoints

def trained_parameters(model) -> dict:
    """{name: parameter} of what is trained: what requires a gradient. Nothing else decides it."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def checkpoints(out: str) -> list[str]:
    """Folders of the whole checkpoints in OUT, oldest first."""
    return sorted(files_in(out, "checkpoint-*[0-9]"), key=lambda path: int(path.rsplit("-")[-1]))


def announce_saves(out: str, model, saves: int):
    """Say what saving takes on the disk. UserError, before hours are spent, where there is no room for it."""
    checkpoint = 12 * sum(p.numel() for p in trained_parameters(model).values())  # float32, and two moments of AdamW
    export = 8 * sum(p.numel() for p in model.parameters())  # shards, then one file
    number = min(saves, 3 - len(checkpoints(out)))  # two are kept while the next is written
    need, room = number * checkpoint + export, shutil.disk_usage(out).free
    say(f"{out}: a checkpoint takes {checkpoint:,} bytes, the last two are kept; free are {room:,}")
    if need > room:
        raise UserError(f"{out}: {number} checkpoints and the model may take {need:,} bytes and there are {room:,}; "
                        "make room, name another --out, or save less often (--save-every)")


def save_checkpoint(out: str, model, optimizers: list, progress: dict):
    """Write OUT/checkpoint-STEP aside, then rename it; keep the last two.

    An optimizer makes its state when it takes its first step; before that there is nothing to save.
    """
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    aside = os.path.join(out, "checkpoint-unfinished")
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    dist.barrier()
    state = {"model": {name: parameter.detach() for name, parameter in trained_parameters(model).items()}}
    for number, optimizer in enumerate(optimizers):
        if optimizer.state:
            state[f"optimizer {number}"] = get_optimizer_state_dict(model, optimizer)
    dcp.save(state, checkpoint_id=aside)
    if dist.get_rank() == 0:
        write_aside(os.path.join(aside, "progress.json"), json.dumps(progress))
        os.replace(aside, os.path.join(out, f"checkpoint-{progress['step']}"))
        for path in checkpoints(out)[:-2]:
            shutil.rmtree(path)
    dist.barrier()


def load_checkpoint(path: str, model, optimizers: list) -> dict:
    """Take up a checkpoint; returns its progress. UserError when it holds what is not trained, or not so, now."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )
    saved = saved_places(path)
    state = {"model": {name: parameter.detach() for name, parameter in trained_parameters(model).items()}}
    for number, optimizer in enumerate(optimizers):
        if f"optimizer {number}" in saved:  # torch fills the state of a new optimizer, for dcp.load to write into
            state[f"optimizer {number}"] = get_optimizer_state_dict(model, optimizer)
    match_places(path, saved, state)
    dcp.load(state, checkpoint_id=path)
    for number, optimizer in enumerate(optimizers):
        if f"optimizer {number}" in saved:
            set_optimizer_state_dict(model, optimizer, state[f"optimizer {number}"],
                                     options=StateDictOptions(strict=False))  # a parameter may have no state yet
    say(f"{path}: going on")
    with open(os.path.join(path, "progress.json")) as file:
        return json.load(file)


def saved_places(path):
    """{"model": {(name,), ...}, "optimizer 0": {("state", name, "exp_avg"), ...}, ...}: what a checkpoint holds."""
    import torch.distributed.checkpoint as dcp
    places = {}
    for first, *rest in dcp.FileSystemReader(path).read_metadata().planner_data.values():
        places.setdefault(first, set()).add(tuple(rest[:3]))
    return places


def match_places(path, saved, state):
    """Take out of `state` what an optimizer had not made when it was saved. UserError for what else is different."""
    odd = {(name,) for name in state["model"]} ^ saved["model"]
    for optimizer in saved.keys() - {"model"}:
        wanted = places_of(state[optimizer]) if optimizer in state else set()
        odd |= saved[optimizer] - wanted
        for place in wanted - saved[optimizer]:
            if place[0] == "state":
                del state[optimizer]["state"][place[1]][place[2]]
            else:
                odd.add(place)
    if odd:
        example = " ".join(map(str, min(odd, key=str)))
        raise UserError(f"{path}: made with other trained parameters or another optimizer ({example}); "
                        "name another --out", 2)


def places_of(optimizer_state):
    """{("state", name, "exp_avg"), ..., ("param_groups", 0, "lr"), ...} of an optimizer's state dictionary."""
    places = {("state", name, entry) for name, entries in optimizer_state["state"].items() for entry in entries}
    for number, group in enumerate(optimizer_state["param_groups"]):
        places |= {("param_groups", number, key) for key in group}
    return places


@contextlib.contextmanager
def disk_errors(out):
    """What cannot be written is one line, not a traceback."""
    from torch.distributed.checkpoint.api import CheckpointException
    try:
        yield
    except (OSError, CheckpointException) as error:
        disk, reason = os.statvfs(out), str(error).strip().splitlines()[-1]
        # torch's writer tells of a full disk in many ways, most of which do not say so
        if "No space left" in reason or disk.f_bavail * disk.f_frsize < 1 << 20:
            reason = "No space left on device; make room"
        raise UserError(f"{out}: {reason}; what was saved is whole, go on with --resume") from error
