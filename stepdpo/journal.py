"""The journal of a stage's output, OUT.done: by it an interrupted run is taken up.

A unit is what is asked once: a sample of a problem, a row to judge. The first line of a journal, its head, says
which run this is. Then comes a line for each finished unit, and one for each reply to a unit of many requests.

A unit's line is written *before* its rows, and says how long both files of rows will be once they are written:

    OUT         | rows of a | rows of b | half of a row of c       <- killed here: 75 bytes long
    OUT.done    head, a: 30 bytes, b: 60 bytes, c: 90 bytes

So b is the last unit that is whole. All files are cut to where it ends, and c is asked again. A file that is longer
than the last line says was changed by someone else: nothing is cut, and the run is refused.
"""
import datetime
import json
import os
import shlex
from collections import Counter
from dataclasses import dataclass, field

from stepdpo.command import UserError

# The fields of each kind of line, and their types. date: that of the run, which a prompt's template may print.
# contents: flag -> hash of the model folder or file behind it. answered: false for a unit whose request was refused.
HEAD = {"stage": str, "date": str, "settings": dict, "contents": dict}
UNIT = {"unit": str, "content": str, "drop": (str, type(None)), "answered": bool, "kept": int, "out": int,
        "dropped": int}
REPLY = {"unit": str, "content": str, "key": str, "reply": object}


@dataclass
class Journal:
    """What a journal tells: what is done, and how long the files are where the last whole unit ends."""
    head: dict | None = None  # None: there is no whole first line
    head_size: int = 0  # bytes
    whole: dict = field(default_factory=lambda: {"out": 0, "dropped": 0, "journal": 0})  # bytes
    promised: dict = field(default_factory=lambda: {"out": 0, "dropped": 0})  # by the last line of a unit, whole or not
    units: Counter = field(default_factory=Counter)  # how many by why they were dropped, None for those that were kept
    kept: int = 0  # rows in OUT
    ids: dict = field(default_factory=dict)  # hash of a unit's id -> hash of its content: both may be long
    unanswered: set = field(default_factory=set)  # hashes of the ids of units whose request was refused
    replies: dict = field(default_factory=dict)  # (unit, content) -> {key: reply} of units that are not finished
    again: int = 0  # units that have a line but not all of their rows


def read_journal(file, sizes, name):
    """The Journal that an open file holds. sizes: how long the files are now.

    UserError for a line that no stage wrote.
    """
    os.lseek(file, 0, os.SEEK_SET)
    lines = open(file, "rb", closefd=False)
    first = lines.readline()
    found = Journal()
    if not first.endswith(b"\n"):
        return found
    found.head = parse_line(first, [HEAD], f"{name}:1")
    found.head_size = found.whole["journal"] = len(first)
    for number, line in enumerate(lines, 2):
        if not line.endswith(b"\n"):
            break  # half a line: the run was killed before any of the unit's rows was written
        take_line(found, parse_line(line, [UNIT, REPLY], f"{name}:{number}", found.promised), len(line), sizes)
    return found


def parse_line(line, kinds, where, before=None):
    """A line of a journal as a dictionary, which has the fields of one of the kinds.

    before: how long the line before it says that the files are; they only grow.
    """
    try:
        entry = json.loads(line)
        datetime.date.fromisoformat(entry.get("date", "2024-01-01"))
    except (ValueError, TypeError, AttributeError, RecursionError):
        entry = None
    for fields in kinds:
        if isinstance(entry, dict) and entry.keys() == fields.keys():
            typed = all(isinstance(entry[name], fields[name]) for name in fields)
            if typed and (fields is not UNIT or all(entry[name] >= before[name] for name in before)):
                return entry
    raise UserError(f"{where}: not a line of a journal of this version; put the file back as it was, or name another "
                    "--out", 2)


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
    found.ids[hash(entry["unit"])] = hash(entry["content"])
    if not entry["answered"]:
        found.unanswered.add(hash(entry["unit"]))
    found.replies.pop((entry["unit"], entry["content"]), None)


def compare_heads(old, new, path):
    """UserError where the output `path` was made by another stage, with other settings or by another model."""
    if old["stage"] != new["stage"]:
        raise UserError(f"{path}: made by {old['stage']}; name another --out", 2)
    other = [f"--{name.replace('_', '-')}" for name in {**old["settings"], **new["settings"]}
             if old["settings"].get(name) != new["settings"].get(name)]
    if other:
        raise UserError(f"{path}: made with another {', '.join(other)}; resume with the same settings or name another "
                        "--out", 2)
    for name, content in new["contents"].items():
        if old["contents"].get(name, content) != content:
            raise UserError(f"{path}: made with other files in {name}; put them back or name another --out", 2)


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
