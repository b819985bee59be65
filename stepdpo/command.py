"""A script's command line: its help, and errors that end it with one line and the right exit code."""
import argparse
import os
import sys


class UserError(Exception):
    """The user's mistake or an outside fault, in one line that names place, fact and fix.

    code: 1 bad data or server, 2 usage (design: exit codes).
    """
    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def run_main(main):
    """Run a script's `main` and exit as a Unix program does: no traceback for what the user can mend."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        code = error.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains again when it flushes stdout
        code = 141
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)



class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults of flags that have one."""
    def _get_help_string(self, action):
        bare = action.default in (None, "") or action.default is False
        return action.help if bare else super()._get_help_string(action)
