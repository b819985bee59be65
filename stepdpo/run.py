"""OUT, the folder of a training run: which run it holds, and who may write there.

OUT/run.json             {"date": ..., "settings": {...}, "finished": false}, written before anything else that is kept
"""
import contextlib
import hashlib
import json
import os

from stepdpo.checkpoint import checkpoints
from stepdpo.command import UserError
from stepdpo.content import path_content
from stepdpo.folder import files_in
from stepdpo.output import open_locked
from stepdpo.processes import first_process
from stepdpo.prompts import fix_date, run_date
from stepdpo.rows import write_aside

CANNOT_MATTER = {  # flags that --resume may change, since they decide no weight, or none beyond rounding
    "out", "resume", "plan", "world", "save_every", "eval_every", "tokens_per_micro_batch", "checkpointing", "offload",
    "compile"}


def run_settings(flags: dict, device: str, models: dict, rows: dict) -> dict:
    """What must be the same for a run to go on: every flag that can matter, {name: value}.

    device: the kind that the run is on. models, rows: {flag: folder} and {flag: examples}, of which the content counts
    and not the path.
    """
    settings = {name: value for name, value in flags.items() if name not in CANNOT_MATTER}
    settings["device"] = device
    for name, folder in models.items():
        settings[name] = path_content(folder)
    for name, examples in rows.items():
        settings[name] = rows_fingerprint(examples)
    return settings


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
        run = {"date": run_date(), "settings": settings, "finished": finished}
        write_aside(os.path.join(out, "run.json"), json.dumps(run, indent=1))


def read_run(out: str) -> dict | None:
    """OUT/run.json; None when there is none. UserError for what is no run's."""
    path = os.path.join(out, "run.json")
    try:
        with open(path) as file:
            run = json.load(file)
        return {"date": str(run["date"]), "settings": dict(run["settings"]), "finished": bool(run["finished"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: does not hold the settings of a run; name another --out", 2) from error


def check_run(out: str, settings: dict) -> bool | None:
    """Whether the run in OUT has finished; None when there is none. UserError when its settings are others."""
    run = read_run(out)
    if run is None:
        return None
    before = run["settings"]
    other = [name for name in sorted(before.keys() | settings.keys()) if before.get(name) != settings.get(name)]
    if other:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise UserError(f"{out}: made with another {flags}; resume with the same or name another --out", 2)
    return run["finished"]


def agree_on_date(out: str):
    """Let chat templates that print the date print that of the run's beginning, in all its processes alike."""
    import torch.distributed as dist
    day = [None]
    if first_process():
        run = read_run(out)
        day = [run["date"] if run else run_date()]
    dist.broadcast_object_list(day)
    try:
        fix_date(day[0])
    except ValueError as error:
        raise UserError(f"{out}: run.json has {day[0]!r}, which is no date; name another --out", 2) from error


def check_out(out: str, resume: bool, models: list[str | None]):
    """UserError for an OUT that no run can use. models: the folders that it starts from."""
    if os.path.realpath(out) in map(os.path.realpath, filter(None, models)):
        raise UserError(f"{out}: is the model to start from; name another --out", 2)
    started = files_in(out, "run.json")
    if started and not resume:
        raise UserError(f"{out}: holds a run; go on with --resume or name another --out", 2)
    left = files_in(out, "metrics.jsonl", "reference.safetensors") or checkpoints(out)
    if left and not started:
        raise UserError(f"{out}: run.json is gone, and nothing else says what the run was; name another --out", 2)
    if files_in(out, "*.safetensors", "config.json") and not started:
        raise UserError(f"{out}: holds a model that is of no run of train.py; name another --out", 2)


@contextlib.contextmanager
def own_folder(out: str):
    """Make OUT and lock it: two runs in one folder would mix what they write. A start that fails leaves nothing."""
    if not first_process():
        yield
        return
    dropped, made = os.path.join(out, "dropped.jsonl"), not os.path.exists(out)
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}; name another --out", 2) from error
    lock, new = open_locked(dropped, empty=False)
    try:
        yield
    finally:
        if new and not os.path.exists(os.path.join(out, "run.json")) and not os.fstat(lock).st_size:
            os.remove(dropped)
            if made and not os.listdir(out):
                os.rmdir(out)
        os.close(lock)
