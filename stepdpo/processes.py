"""Processes that train one model together: torchrun's, or a world of one.

    with processes("cpu") as mesh:
        say("one line, from the first process")
"""
import contextlib
import os
import sys
import time

from stepdpo.command import UserError


@contextlib.contextmanager
def processes(device):
    """Join torchrun's processes, or be a world of one; gives the mesh that the model is sharded over."""
    import torch
    import torch.distributed as dist
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU; choose --device cpu", 2)
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if torch.cuda.get_device_capability() < (8, 0):
            raise UserError(f"--device cuda: attention needs an Ampere GPU or a later one, and this is a "
                            f"{torch.cuda.get_device_name()}; choose another or --device cpu", 2)
    alone = {} if "RANK" in os.environ else dict(store=dist.HashStore(), rank=0, world_size=1)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", **alone)
    done = False
    try:
        yield dist.device_mesh.init_device_mesh(kind, (dist.get_world_size(),))
        done = True
    except UserError:
        if dist.get_rank():
            time.sleep(10)  # the first process speaks for all: torchrun stops the others when it has ended
        raise
    finally:
        if done or kind == "cpu":  # after an error NCCL would wait here for processes that wait for this one
            dist.destroy_process_group()


def first_process():
    return os.environ.get("RANK", "0") == "0"


def say(message):
    """A line on stderr, from one process."""
    if first_process():
        print("train.py:", message, file=sys.stderr, flush=True)
