"""Checkpoints of a training run: what --resume goes on from.

OUT/checkpoint-STEP/     parameters that are trained, their optimizers' states, progress.json; the last two are kept
"""
import contextlib
import json
import os
import shutil

from stepdpo.command import UserError
from stepdpo.folder import files_in
from stepdpo.processes import say
from stepdpo.rows import write_aside


def trained_parameters(model) -> dict:
    """{name: parameter} of what is trained: what requires a gradient. Nothing else decides it."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def checkpoints(out: str) -> list[str]:
    """Folders of the whole checkpoints in OUT, oldest first."""
    return sorted(files_in(out, "checkpoint-*[0-9]"), key=lambda path: int(path.rsplit("-")[-1]))


def announce_saves(out: str, model, saves: int):
    """Say what saving takes on the disk. UserError, before hours are spent, where there is no room for it."""
    checkpoint = 12 * sum(p.numel() for p in trained_parameters(model).values())  # float32, and two moments of AdamW
    export = 4 * sum(p.numel() for p in model.parameters())  # at most
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


def load_last_checkpoint(out: str, model, optimizers: list) -> dict | None:
    """Take up the newest checkpoint in OUT; returns its progress, None where there is none.

    UserError for one that is damaged, with the one before it, if there is one, as what to go on from.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    *others, path = checkpoints(out) or [None]
    if path is None:
        return None
    try:
        return load_checkpoint(path, model, optimizers)
    except UserError:
        raise
    except (Exception, CheckpointException) as error:  # each kind of damage raises another class
        lines = str(error).strip().splitlines() or [type(error).__name__]
        fix = f"remove it, and --resume goes on from {others[-1]}" if others else "there is none before it: begin anew"
        raise UserError(f"{path}: this checkpoint is damaged ({lines[-1]}); {fix}") from error


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
