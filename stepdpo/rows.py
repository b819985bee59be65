"""JSONL rows in and out. Every row is checked where it is read; errors name the place, the fact and the fix."""
import asyncio
import contextlib
import json
import math
import os
import re
import threading

from stepdpo.command import UserError

MAX_LINE = 64 << 20  # bytes; a longer line is not a record
MAX_DEPTH = 100  # of JSON; Python's own reader follows deeper than its writer


def read_lines(path):
    """Lines of a file or of stdin ("-") as bytes. Uses os.read: a thread inside sys.stdin.buffer crashes at exit."""
    try:
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY)
        rest = b""
        while chunk := os.read(fd, 1 << 18):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE:
                raise UserError(f"{shown(path)}: a line of more than {MAX_LINE >> 20} MiB; this is not JSON lines")
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror}; name a JSONL file or '-' for stdin") from error
    if rest:
        yield rest


def shown(path):
    return "stdin" if path == "-" else path


def finite(text):
    """A number of JSON. NaN and Infinity, which Python would read and write, are none to other readers."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def parse_row(line, where, required):
    """One record from a line of bytes. Everything asked of a row's shape is checked here, at the edge."""
    try:
        row = json.loads(line, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({str(error)[:120]}); fix or remove this line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not a JSON object; fix or remove this line")
    if deeper(row, MAX_DEPTH):
        raise UserError(f"{where}: nested more than {MAX_DEPTH} deep, which not every reader can follow; "
                        "remove this line")
    answer = row.get("answer")
    if isinstance(answer, list) and len(answer) == 1:
        answer = row["answer"] = answer[0]
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        row["answer"] = str(answer)
    for name in required:
        if name not in row:
            raise UserError(f"{where}: no '{name}'; {MAKERS.get(name, 'every problem needs one')}")
    for name in (*required, "completion"):  # which is wanted nowhere as another thing
        if not isinstance(row.get(name, ""), str) and (name in required or row[name] is not None):
            raise UserError(f"{where}: '{name}' is {json.dumps(row[name])[:40]}, not a string; fix or remove it")
    return row


def deeper(value, depth):
    """Whether lists and objects stand in each other more than `depth` deep."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(deeper(v, depth - 1) for v in inside if isinstance(v, (dict, list)))


MAKERS = {"completion": "run collect.py first", "initial_reason_steps": "run locate.py first",
          "rejected": "run locate.py first", "full_rejected": "run locate.py first",
          "chosen": "run correct.py first", "full_chosen": "run correct.py first"}


def read_rows(path, required=()):
    """Records of a JSONL file or of stdin ("-"), each with an `id` (its line number where it has none).

    UserError for what is not JSON, not an object, lacks a required field or holds no row at all.
    """
    empty = True
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            row = parse_row(line, f"{shown(path)}:{number}", required)
            row["id"] = str(number if row.get("id") is None else row["id"])
            empty = False
            yield row
    if empty:
        raise UserError(f"{shown(path)}: no rows; expected one JSON object a line")


async def stream_rows(path, required, ahead=256):
    """`read_rows` for async code: a daemon thread reads, at most `ahead` rows before they are wanted."""
    loop, queue, room = asyncio.get_running_loop(), asyncio.Queue(), threading.Semaphore(ahead)

    def pump():
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over and nobody wants this row
            try:
                for row in read_rows(path, required):
                    room.acquire()
                    loop.call_soon_threadsafe(queue.put_nowait, row)
                end = None
            except UserError as error:
                end = error
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=pump, daemon=True).start()
    while isinstance(item := await queue.get(), dict):
        room.release()
        yield item
    if item:
        raise item



UNSAFE = re.compile("[\ud800-\udfff\u0085\u2028\u2029]")  # not UTF-8, or a line break to some readers


def format_row(row):
    """A record as one line of bytes, valid UTF-8 whatever text it holds."""
    text = json.dumps(row, ensure_ascii=False)
    return (UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n").encode()


def printable(text):
    """Text for a terminal: without its commands, which a row or a model may hold, and marks that turn text around."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def append(file, data):
    """All of `data` at the end of an open file; to None it goes nowhere."""
    while file is not None and data:
        data = data[os.write(file, data):]



def write_aside(path, text):
    """Write a file so that a killed run leaves the old one or the new one."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)
