"""How far long work is, on stderr: a bar on a terminal; elsewhere, as in the log of a cluster, a line a minute."""
import sys

from stepdpo.command import inform

PAUSE = 60  # seconds before the first line of a log, and between two


class Log:
    """What tqdm writes to: keeps every line, where a terminal writes over the last one."""
    def write(self, text):
        if text.strip():
            inform(text.strip())

    def flush(self):
        pass


def progress_bar(what, total=None, done=0, quiet=False):
    """tqdm's bar, with update(n) and close(), or a context manager. Work of less than a minute leaves a log as it is.

    what: stands before it. total: how much there is to do, None where nobody knows. done: what an earlier run did of
    it. quiet: show nothing, as in all processes but the first.
    """
    from tqdm import tqdm
    how = dict(desc=what, total=total, initial=done, disable=quiet)
    if not sys.stderr.isatty():
        how |= dict(file=Log(), ncols=0, delay=PAUSE, mininterval=PAUSE, maxinterval=PAUSE)
    return tqdm(**how)
