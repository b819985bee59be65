"""What --resume needs: checkpoints of a training run, and the settings that they were made with."""
import contextlib
import json
import os
import shutil

from stepdpo.command import UserError
from stepdpo.rows import write_aside
from stepdpo.shard import files_in, model_state, say


def checkpoints(out):
    """Folders of the whole checkpoints in OUT, oldest first."""
    return sorted(files_in(out, "checkpoint-*[0-9]"), key=lambda path: int(path.rsplit("-")[-1]))


def announce_saves(out, model, saves):
    """Say what saving takes on the disk. UserError, before hours are spent, where there is no room for it."""
    weights = sum(p.numel() for p in model.parameters())
    number = min(saves, 3 - len(checkpoints(out)))  # two are kept while the next is written
    need, room = 12 * weights * number + 8 * weights, shutil.disk_usage(out).free
    say(f"{out}: a checkpoint takes {12 * weights:,} bytes, the last two are kept; free are {room:,}")
    if need > room:
        raise UserError(f"{out}: {number} checkpoints and the model may take {need:,} bytes and there are {room:,}; "
                        "make room, name another --out, or save less often (--save-every)")


def save_checkpoint(out, model, optimizer, progress, settings):
    """Write OUT/checkpoint-STEP aside, then rename it; keep the last two."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    aside = os.path.join(out, "checkpoint-unfinished")
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    dist.barrier()
    dcp.save({"model": model_state(model), "optimizer": optimizer.state_dict()["state"]}, checkpoint_id=aside)
    if dist.get_rank() == 0:
        write_aside(os.path.join(aside, "run.json"), json.dumps({"progress": progress, "settings": settings}, indent=1))
        os.replace(aside, os.path.join(out, f"checkpoint-{progress['step']}"))
        for path in checkpoints(out)[:-2]:
            shutil.rmtree(path)
    dist.barrier()


@contextlib.contextmanager
def disk_errors(out):
    """What cannot be written is one line, not a traceback."""
    from torch.distributed.checkpoint.api import CheckpointException
    try:
        yield
    except (OSError, CheckpointException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{out}: {reason}; what was saved is whole, make room and go on with --resume") from error



def load_checkpoint(path, model, optimizer, settings):
    """Take up a checkpoint; returns its progress. UserError when it was made with other settings."""
    import torch.distributed.checkpoint as dcp
    progress = read_run(path, settings)["progress"]
    dcp.load({"model": model_state(model), "optimizer": optimizer.state_dict()["state"]}, checkpoint_id=path)
    say(f"{path}: going on")
    return progress


def read_run(path, settings):
    """run.json of a checkpoint or of OUT. UserError when it was made with other settings."""
    with open(os.path.join(path, "run.json")) as file:
        run = json.load(file)
    other = [f"--{name.replace('_', '-')}" for name in settings if run["settings"].get(name) != settings[name]]
    if other:
        raise UserError(f"{path}: made with another {', '.join(other)}; resume with the same or name another --out", 2)
    return run
