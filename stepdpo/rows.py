"""JSONL rows in and out. Every row is checked where it is read; errors name the place, the fact and the fix."""
import asyncio
import contextlib
import json
import math
import os
import re
import shlex
import stat
import threading

from stepdpo.command import UserError
from stepdpo.task import check_gold

CHUNK = 1 << 18  # bytes read at once
MAX_LINE = 64 << 20  # bytes; a longer line is not a record
MAX_DEPTH = 100  # of JSON; Python's own reader follows deeper than its writer
MAKERS = {"completion": "run collect.py first", "initial_reason_steps": "run locate.py first",
          "rejected": "run locate.py first", "full_rejected": "run locate.py first",
          "chosen": "run correct.py first", "full_chosen": "run correct.py first"}
FROM_ARRAY = "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]' < {file}"
FROM_PARQUET = ("python -c 'import pandas, sys; pandas.read_parquet(sys.argv[1]).to_json(sys.stdout, "
                "orient=\"records\", lines=True)' {file}")
FORMATS = {  # how a file begins that holds no JSON lines -> what it is, and what makes JSON lines of it
    b"\x1f\x8b": ("gzip", "gzip -dc {file}"), b"BZh": ("bzip2", "bzip2 -dc {file}"),
    b"\xfd7zXZ": ("xz", "xz -dc {file}"), b"(\xb5/\xfd": ("zstd", "zstd -dc {file}"),
    b"PK\x03\x04": ("a zip archive", "unzip -p {file}"), b"PAR1": ("Parquet", FROM_PARQUET),
    b"\xff\xfe\0\0": ("UTF-32", "iconv -f UTF-32 -t UTF-8 {file}"),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {file}"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {file}"),
    b"{\0": ("UTF-16", "iconv -f UTF-16LE -t UTF-8 {file}"), b"\0{": ("UTF-16", "iconv -f UTF-16BE -t UTF-8 {file}"),
    b"[": ("a JSON array", FROM_ARRAY),
}


# ----------------------------------------------------------------------------------------------------- lines

def read_lines(path):
    """Lines of a file or of stdin ("-") as bytes. Uses os.read: a thread inside sys.stdin.buffer crashes at exit."""
    file = None
    try:
        file = 0 if path == "-" else os.open(path, os.O_RDONLY)
        yield from split_lines(file, shown(path))
    except OSError as error:
        raise UserError(f"{shown(path)}: {error.strerror}; name a JSONL file or '-' for stdin") from error
    finally:
        if file:
            os.close(file)


def count_rows(path):
    """How many rows a file has; None for a pipe, which can be read but once, and for what cannot be read to its end."""
    if not os.path.isfile(path):
        return None
    try:
        return sum(1 for line in read_lines(path) if line.strip())
    except UserError:  # it is said where the reading of rows comes there, after the rows before
        return None


def split_lines(file, name):
    """Lines of an open file. The pieces of a long line are joined once, at its end: time is linear in its length."""
    pieces, length, number = [], 0, 1  # of the line that is being read
    while chunk := os.read(file, CHUNK):
        begin, *lines = chunk.split(b"\n")
        pieces.append(begin)
        length += len(begin)
        if length > MAX_LINE:
            raise UserError(f"{name}:{number}: a line of more than {MAX_LINE >> 20} MiB; this is not JSON lines")
        if lines:
            yield b"".join(pieces)
            yield from lines[:-1]
            number += len(lines)
            pieces, length = lines[-1:], len(lines[-1])
    if length:
        yield b"".join(pieces)


def shown(path):
    return "stdin" if path == "-" else path


def is_pipe(path):
    """Whether rows come from another program: a pipe whose upstream kept nothing holds no row, which is no mistake."""
    try:
        mode = (os.fstat(0) if path == "-" else os.stat(path)).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


# ------------------------------------------------------------------------------------------------------ rows

def read_rows(path, required=()):
    """Records of a JSONL file or of stdin ("-"), each with an `id` (its line number where it has none).

    UserError for what is not JSON, not an object or lacks a required field, and for a file without any row.
    """
    empty = True
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            if empty:
                refuse_other_formats(line, path)
            row = parse_row(line, f"{shown(path)}:{number}", required)
            row["id"] = str(number if row.get("id") is None else row["id"])
            empty = False
            yield row
    if empty and not is_pipe(path):
        raise UserError(f"{shown(path)}: no rows; expected one JSON object a line")


def refuse_other_formats(line, path):
    """UserError for a file that begins like another format than JSON lines."""
    begin = line.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, (kind, command) in FORMATS.items():
        if begin.startswith(start):
            command = command.format(file="FILE" if path == "-" else shlex.quote(path))
            raise UserError(f"{shown(path)}: {kind}, not JSON lines; convert it: {command} > converted.jsonl")


def parse_row(line, where, required):
    """One record from a line of bytes. Everything asked of a row's shape is checked here, at the edge."""
    try:
        # lone surrogates pass: other programs write them, and format_row escapes them again
        text = line.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start + 1} is 0x{line[error.start]:02x}); convert the file, "
                        "as with iconv -f LATIN1 -t UTF-8") from error
    try:
        row = json.loads(text, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({str(error)[:120]}); fix or remove this line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a {type(row).__name__}, not a JSON object; fix or remove this line")
    if is_deeper(row, MAX_DEPTH):
        raise UserError(f"{where}: nested more than {MAX_DEPTH} deep, which not every reader can follow; "
                        "remove this line")
    check_fields(row, where, required)
    return row


def check_fields(row, where, required):
    """UserError for a field that is missing or of the wrong kind. What an answer may be is for task.py to say."""
    for name in required:
        if name not in row:
            raise UserError(f"{where}: no '{name}'; {MAKERS.get(name, 'every problem needs one')}")
    for name in (*required, "completion"):  # which is wanted nowhere as another thing
        value, optional = row.get(name), name not in required
        if name == "answer":
            try:
                check_gold(value)
            except ValueError as error:
                raise UserError(f"{where}: 'answer' is {json.dumps(value)[:40]}, {error}; fix or remove it") from error
        elif not isinstance(value, str) and not (optional and value is None):
            raise UserError(f"{where}: '{name}' is {json.dumps(value)[:40]}, not a string; fix or remove it")


def finite(text):
    """A number of JSON. NaN and Infinity, which Python would read and write, are none to other readers."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def is_deeper(value, depth):
    """Whether a list or object holds others in each other, itself counted, more than `depth` deep."""
    if depth == 0:
        return True
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (dict, list)) and is_deeper(item, depth - 1):
            return True
    return False


async def stream_rows(path, required, ahead=256):
    """`read_rows` for async code: a daemon thread reads, at most `ahead` rows before they are wanted."""
    loop, queue, room = asyncio.get_running_loop(), asyncio.Queue(), threading.Semaphore(ahead)

    def hand_over(item):
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over and nobody wants this row
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def pump():
        try:
            for row in read_rows(path, required):
                room.acquire()
                hand_over(row)
            hand_over(None)
        except Exception as error:  # for the reader of the queue, who would wait for ever
            hand_over(error)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        item = await queue.get()
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        room.release()
        yield item


# ------------------------------------------------------------------------------------------------------- out

UNSAFE = re.compile("[\ud800-\udfff\u0085\u2028\u2029]")  # not UTF-8, or a line break to some readers


def format_row(row):
    """A record as one line of bytes, valid UTF-8 whatever text it holds."""
    text = json.dumps(row, ensure_ascii=False)
    return (UNSAFE.sub(lambda m: f"\\u{ord(m[0]):04x}", text) + "\n").encode()


def printable(text):
    """Text for a terminal: without its commands, which a row or a model may hold, and marks that turn text around."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)


def append_bytes(file, data):
    """All of `data` at the end of an open file; to None it goes nowhere."""
    rest = memoryview(data)  # a slice of bytes would copy a long line for every piece that a pipe takes
    while file is not None and rest:
        rest = rest[os.write(file, rest):]


def write_aside(path, text):
    """Write a file so that a killed run leaves the old one or the new one."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)
