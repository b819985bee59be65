"""The judge at the desk: a person, asked in the terminal."""
import asyncio
import os
from collections import Counter

from judges.verdict import Back, Verdict
from stepdpo.command import UserError
from stepdpo.rows import printable
from stepdpo.stage import Quit

QUESTION = "{shown}\n{done} done. First wrong step: 1-{last}, (n)one, (s)kip, (b)ack, (q)uit? "


async def read_terminal(question):
    """A line from the terminal, whatever stdin is; "quit" at its end."""
    loop = asyncio.get_running_loop()
    line = loop.create_future()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        raise UserError("--judge human: no terminal to ask on; run it in one", 2) from error

    def read_line():
        said = os.read(terminal, 4096)
        if not line.done():
            line.set_result(said)

    os.write(terminal, question.encode("utf-8", "replace"))
    loop.add_reader(terminal, read_line)
    try:
        said = await line or b"quit"
        return said.decode("utf-8", "replace").strip().lower()
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)


def show_row(row, parts):
    """Problem, solution and numbered steps for the terminal, without what a row may hold to command it."""
    lines = ["", "=" * 78, row["prompt"], "-" * 78, row.get("solution") or "", f"Answer: {row.get('answer', '')}",
             "-" * 78, parts[0].strip()]
    for k, part in enumerate(parts[1:], 1):
        lines.append(f"[{k}] {part.strip()}")
    return printable("\n".join([*lines, ""]))


def make_judge(args, policy):
    """A judge that shows problem, solution and steps on the terminal and takes a number, none, skip, back or quit.

    Its `asked["rows"]` counts the rows that the person has judged.
    """
    asked = Counter()

    async def judge(row, parts, whole):
        shown, last = show_row(row, parts), len(parts) - 1
        while True:
            said = await read_terminal(QUESTION.format(shown=shown, done=asked["rows"], last=last))
            if said in ("b", "back"):
                asked["rows"] = max(0, asked["rows"] - 1)
                raise Back
            if said in ("q", "quit"):
                raise Quit
            step = int(said) if said.isascii() and said.isdigit() else None
            if said in ("s", "skip"):
                verdict = Verdict("skipped", None)
            elif said in ("n", "none"):
                verdict = Verdict(0, None)
            elif step is not None and 1 <= step <= last:
                verdict = Verdict(step, None)
            else:
                shown = f"{said[:20]!r} is none of these."
                continue
            asked["rows"] += 1
            return verdict
    judge.asked = asked
    return judge
