"""The journal of a stage's output, OUT.done: by it an interrupted run is taken up.

A unit is what is asked once: a sample of a problem, a row to judge. The first line of a journal, its head, says
which run this is. Then comes a line for each finished unit, and one for each reply to a unit of many requests.

A unit's line is written *before* its rows, and says how long both files of rows will be once they are written:

    OUT         | rows of a | rows of b | half of a row of c       <- killed here: 75 bytes long
    OUT.done    head, a: 30 bytes, b: 60 bytes, c: 90 bytes

So b is the last unit that is whole. All files are cut to where it ends, and c is asked again. A file that is longer
than the last line says was changed by someone else: nothing is cut, and the run is refused.
"""
import dataclasses
import json
import os
import shlex
from collections import Counter

from stepdpo.command import UserError

HEAD = {"stage": str, "settings": dict}  # the fields of each kind of line, and their types
UNIT = {"unit": str, "content": str, "drop": (str, type(None)), "kept": int, "out": int, "dropped": int}
REPLY = {"unit": str, "content": str, "key": str, "reply": object}


@dataclasses.dataclass
class Journal:
    """What a journal tells: what is done, and how long the files are where the last whole unit ends."""
    whole: dict  # file name -> bytes: "out", "dropped", "journal"
    promised: dict  # the same of the last unit that has a line, whole or not
    units: Counter  # how many units by why they were dropped, None for those that were kept
    kept: int  # rows in OUT
    content: dict  # hash of a unit's id -> hash of its content: what is kept of each unit must be small
    replies: dict  # (unit, content) -> {key: reply} of units that are not finished
    again: int  # units that have a line but not all of their rows


def read_journal(file, sizes, name):
    """(head, Journal) of an open journal; the head is None where there is no whole first line.

    sizes: how long the files are now. UserError for a line that no stage wrote.
    """
    os.lseek(file, 0, os.SEEK_SET)
    lines = open(file, "rb", closefd=False)
    first = lines.readline()
    found = Journal({"out": 0, "dropped": 0, "journal": 0}, {"out": 0, "dropped": 0}, Counter(), 0, {}, {}, 0)
    if not first.endswith(b"\n"):
        return None, found
    head = read_line(first, [HEAD], f"{name}:1")
    found.whole["journal"] = len(first)
    for number, line in enumerate(lines, 2):
        if not line.endswith(b"\n"):
            break  # half a line: the run was killed before any of the unit's rows was written
        take_line(found, read_line(line, [UNIT, REPLY], f"{name}:{number}", found.promised), len(line), sizes)
    return head, found


def read_line(line, kinds, where, before=None):
    """A line of a journal as a dictionary, which has the fields of one of the kinds.

    before: how long the line before it says that the files are; they only grow.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    for fields in kinds:
        if isinstance(entry, dict) and entry.keys() == fields.keys():
            typed = all(isinstance(entry[name], fields[name]) for name in fields)
            if typed and (fields is not UNIT or all(entry[name] >= before[name] for name in before)):
                return entry
    raise UserError(f"{where}: no line of a stage's journal; put the file back as it was, or name another --out", 2)


def take_line(found, entry, length, sizes):
    """Add one line to what is found, unless its unit, or one before it, is not whole."""
    if "reply" in entry:
        if not found.again:
            found.replies.setdefault((entry["unit"], entry["content"]), {})[entry["key"]] = entry["reply"]
            found.whole["journal"] += length
        return
    found.promised = {"out": entry["out"], "dropped": entry["dropped"]}
    if found.again or any(found.promised[name] > sizes[name] for name in found.promised):
        found.again += 1
        return
    found.whole = {**found.promised, "journal": found.whole["journal"] + length}
    found.units[entry["drop"]] += 1
    found.kept += entry["kept"]
    found.content[hash(entry["unit"])] = hash(entry["content"])
    found.replies.pop((entry["unit"], entry["content"]), None)


def refuse_damage(found, sizes, paths):
    """UserError, before anything is cut, where the files are not as a killed run leaves them."""
    journal = paths["journal"]
    for name, promised in found.promised.items():
        path, size = paths[name], sizes[name]
        if size == 0 and found.again > 1 and promised:  # going on would cut the other file too
            raise UserError(f"{path}: is missing or empty, and the journal {journal} knows rows in it; "
                            "put it back or name another --out", 2)
        if size > promised:
            raise UserError(f"{path}: holds more than the {promised} bytes that its journal {journal} knows. Lines "
                            f"that were added by hand belong in another file; then run: truncate -s {promised} "
                            f"{shlex.quote(path)}", 2)
