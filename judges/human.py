"""The judge at the desk: a person, asked in the terminal."""
import asyncio
import os
from collections import Counter

from judges.verdict import Back, Verdict
from stepdpo.command import UserError
from stepdpo.rows import printable
from stepdpo.stage import Quit


async def read_terminal(question):
    """A line from the terminal, whatever stdin is; "quit" at its end."""
    loop, line = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        raise UserError("--judge human: no terminal to ask on; run it in one", 2) from error
    os.write(terminal, question.encode("utf-8", "replace"))
    loop.add_reader(terminal, lambda: line.done() or line.set_result(os.read(terminal, 4096)))
    try:
        return ((await line) or b"quit").decode("utf-8", "replace").strip().lower()
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)


def human_judge():
    """A judge that shows problem, solution and steps on the terminal and takes a number, none, skip, back or quit.

    Its `done["rows"]` counts the rows that the person has judged.
    """
    done = Counter()

    async def judge(row, parts, whole):
        shown = "\n".join([f"\n{'=' * 78}", row["prompt"], "-" * 78, row.get("solution") or "",
                           f"Answer: {row.get('answer', '')}", "-" * 78, parts[0].strip(),
                           *(f"[{k}] {part.strip()}" for k, part in enumerate(parts[1:], 1)), ""])
        shown = printable(shown)
        while True:
            said = await read_terminal(f"{shown}\n{done['rows']} done. First wrong step: 1-{len(parts) - 1}, "
                                       "(n)one, (s)kip, (b)ack, (q)uit? ")
            if said in ("b", "back"):
                done["rows"] = max(0, done["rows"] - 1)
                raise Back
            if said in ("q", "quit"):
                raise Quit
            if said in ("s", "skip", "n", "none") or said.isascii() and said.isdigit() and 1 <= int(said) < len(parts):
                done["rows"] += 1
                return Verdict("skipped" if said[0] == "s" else 0 if said[0] == "n" else int(said), None)
            shown = f"{said[:20]!r} is none of these."
    judge.done = done
    return judge
