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
    except OSError as error:  # of a disk, a network, a folder that may not be read
        inform(f"{os.path.basename(sys.argv[0])}: {error}")
        code = 1
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is left in the buffer would fail again at the end


def make_parser(doc, usage="%(prog)s [flags] [FILE]"):
    """A parser whose help is the script's docstring (what it does, an example, the row in, the row out), then flags.

    First come those that the script adds to the parser itself, then the groups that scripts share.
    """
    return argparse.ArgumentParser(description=doc.strip(), usage=usage, formatter_class=Help)


def parse_flags(parser, argv=None, may_be_empty=("prefix",)):
    """The flags of a command line. UserError for one that is empty, as `--model "$MODEL"` is where MODEL is not set."""
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.strip() and name not in may_be_empty:
                flag = "FILE" if name == "input" else f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} is empty (a variable that is not set?); give it a value or leave it out", 2)
    return args


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that leaves the docstring as it is, and names the defaults of flags that have one."""
    def _get_help_string(self, action):
        bare = action.default in (None, "") or action.default is False
        return action.help if bare else super()._get_help_string(action)
