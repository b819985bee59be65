"""Ctrl-C and SIGTERM for a run over several processes: all of them end after the same step."""
import contextlib
import os
import signal


@contextlib.contextmanager
def signals(device):
    """Gives asked(), the first SIGINT or SIGTERM that any process got, or 0. A second one quits at once.

    asked() is a collective call: every process makes it in every step. It gives a tensor on `device`, so that it need
    not wait there.
    """
    import torch.distributed as dist

    from stepdpo.device import put
    got = 0

    def note(number, frame):
        nonlocal got
        if got:
            os._exit(128 + number)
        got = number
        os.write(2, b"train.py: saving after this step; once more to quit\n")  # print may not be entered twice

    def asked():
        number = put(got, device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
