"""Hold out pairs by problem, and read pairs side by side.

    python demo/pairs.py split pairs.jsonl train.jsonl held-out.jsonl
    python demo/pairs.py show pairs.jsonl | less

in:  rows of correct.py, or of Math-Step-DPO-10K
out: split copies each line to one of two new files; show prints text

No problem stands on both sides of a split. Its side comes from its text, so a longer file is split as a shorter one.
"""
import argparse
import shutil
import sys
import textwrap
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stepdpo.command import Help, UserError, run_main  # noqa: E402
from stepdpo.rows import parse_row, printable, read_lines  # noqa: E402


def lines_and_rows(path, required):
    """(line, row) of each line that is not blank. UserError for a row that lacks one of the fields `required`."""
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield line, parse_row(line, f"{path}:{number}", required)


def is_held_out(problem, every):
    """Whether this problem is one of about `every` that are held out."""
    return zlib.crc32(problem.encode("utf-8", "surrogatepass")) % every == 0


def split(source, train, held_out, every):
    """Copy each line of `source` to one of two new files; says on stderr what each has got."""
    for path in (train, held_out):
        if Path(path).exists() or train == held_out:
            raise UserError(f"{path}: is there already, or named twice; name two new files", 2)
    lines, problems = {train: [], held_out: []}, {train: set(), held_out: set()}
    for line, row in lines_and_rows(source, ("prompt",)):
        path = held_out if is_held_out(row["prompt"], every) else train
        lines[path].append(line + b"\n")
        problems[path].add(row["prompt"])
    for path in lines:
        try:
            Path(path).write_bytes(b"".join(lines[path]))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name another file", 2) from error
        print(f"{path}: {len(lines[path])} pairs of {len(problems[path])} problems", file=sys.stderr)


def side_by_side(source, width):
    """Lines of text: each pair's problem and correct steps, then the wrong and the right step side by side."""
    half, fields = (width - 3) // 2, ("prompt", "initial_reason_steps", "chosen", "rejected")
    for number, (_, row) in enumerate(lines_and_rows(source, fields), 1):
        yield f"── pair {number} ".ljust(width, "─")
        yield from wrap(row["prompt"], width)
        yield ""
        yield from wrap(row["initial_reason_steps"], width)
        left = ["REJECTED", *wrap(row["rejected"], half)]
        right = ["CHOSEN", *wrap(row["chosen"], half)]
        for place in range(max(len(left), len(right))):
            one, other = (side[place] if place < len(side) else "" for side in (left, right))
            yield f"{one:{half}} │ {other}".rstrip()
        yield ""


def wrap(text, width):
    """The lines of a text, none longer than `width`; what a terminal would obey is replaced."""
    lines = []
    for line in printable(text).strip().split("\n"):
        lines += textwrap.wrap(line, width) or [""]
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=Help)
    tasks = parser.add_subparsers(dest="task", required=True)
    one = tasks.add_parser("split", help="hold out pairs by problem", formatter_class=Help)
    one.add_argument("pairs", help="JSONL file, or - for stdin")
    one.add_argument("train", help="new file: pairs to train on, train.py --pairs")
    one.add_argument("held_out", help="new file: pairs to measure on, train.py --eval-pairs")
    one.add_argument("--every", type=int, default=10, help="one problem in so many is held out")
    other = tasks.add_parser("show", help="print pairs side by side", formatter_class=Help)
    other.add_argument("pairs", help="JSONL file, or - for stdin")
    args = parser.parse_args(argv)
    if args.task == "show":
        for line in side_by_side(args.pairs, min(shutil.get_terminal_size((120, 40)).columns, 160)):
            print(line)
    elif args.every < 2:
        raise UserError(f"--every {args.every}: must be at least 2, or nothing is left to train on", 2)
    else:
        split(args.pairs, args.train, args.held_out, args.every)


if __name__ == "__main__":
    run_main(main)
