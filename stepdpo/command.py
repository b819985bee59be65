"""A script's command line: its help, its flags, and errors that end it with one line and the right exit code."""
import argparse
import os
import sys


class UserError(Exception):
    """The user's mistake or an outside fault, in one line that names place, fact and fix.

    code: 1 bad data or server, 2 usage (docs/records.md: exit codes).
    """
    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def run_main(main):
    """Run a script's `main` and exit as a Unix program does: no traceback for what the user can mend."""
    open_standard_files()
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        inform(f"{os.path.basename(sys.argv[0])}: {error}")
        code = error.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains again when it flushes stdout
        code = 141
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def open_standard_files():
    """Put /dev/null where stdin, stdout or stderr is closed; else a file opened later would get its number.

    Then messages would land among the rows of that file. On such a stdout writing fails, so that no row is lost
    without a word; messages to such a stderr are lost.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, mode), number)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # None, to which print() says nothing and flush() is an error
    sys.stderr = sys.stderr or open(os.devnull, "w")  # None, for which print() takes stdout


def inform(*lines):
    """Say it on stderr. A stderr that takes nothing more costs the message, not the run."""
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # full, closed, or a pipe without a reader
        pass


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults of flags that have one."""
    def _get_help_string(self, action):
        bare = action.default in (None, "") or action.default is False
        return action.help if bare else super()._get_help_string(action)
