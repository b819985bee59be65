"""Prompts, steps and records: what every stage must agree on byte for byte.

Nothing here runs on its own. evaluate.py, collect.py, locate.py, correct.py and train.py import it:
where a step begins is decided here and nowhere else, and so is how a row is read and written.
"""
import argparse
import asyncio
import contextlib
import contextvars
import fcntl
import hashlib
import json
import math
import os
import re
import signal
import stat
import sys
import threading
import time
from collections import Counter, deque

PREFIX = "Let's think step by step.\nStep 1:"  # what the paper's answers are asked to continue
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
# name: (text around the problem, joint between the text and a solution, strings that end an answer)
TEMPLATES = {
    "qwen2-boxed": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{problem}" + BOXED
                    + "<|im_end|>\n<|im_start|>assistant\n", "", ()),
    "deepseek-math": ("User: {problem}" + BOXED + "\n\nAssistant:", " ", ("\nUser:",)),
    "alpaca": ("Below is an instruction that describes a task. Write a response that appropriately completes the "
               "request.\n\n### Instruction:\n{problem}\n\n### Response:", "\n", ("### Instruction:",)),
    "raw": ("{problem}", "\n", ()),
}
PROMPTS = ("chat", *TEMPLATES)
MAX_LINE = 64 << 20  # bytes; a longer line is not a record
MAX_DEPTH = 100  # of JSON; Python's own reader follows deeper than its writer


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


# ---------------------------------------------------------------------------------------------- prompts

def load_tokenizer(name, fix="name a folder or model that has one"):
    """The fast tokenizer of a model folder or hub name. UserError when there is none, with what mends it."""
    from transformers import AutoTokenizer
    try:
        # unset, trust_remote_code asks whom it finds at stdin
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises a different class for each way in which a folder can be wrong
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: no tokenizer there ({reason}); {fix}", 2) from error
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer gives no offsets, which finding a step's tokens needs; "
                        "convert it to a tokenizer.json", 2)
    return tokenizer


def render_chat(tokenizer, content):
    """One user message in the tokenizer's own chat template, up to where the answer begins."""
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no chat template; "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2)
    try:
        return tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                             add_generation_prompt=True)
    except Exception as error:  # a template is a program; jinja2's errors are of many classes
        raise UserError(f"{tokenizer.name_or_path}: its chat template fails ({' '.join(str(error).split())[:160]}); "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2) from error


def render_prompt(tokenizer, problem, prompt="chat", solution=""):
    """The one text that asking and training share: the problem in format `prompt`, then `solution`.

    It holds the beginning-of-sequence token where the tokenizer would add one, so it is always encoded
    without special tokens (`encode`). The format's joint stands before a solution that brings no white space.
    """
    if prompt == "chat":
        text, joint = render_chat(tokenizer, problem + BOXED), ""
    else:
        template, joint, _ = TEMPLATES[prompt]
        text = bos(tokenizer) + template.replace("{problem}", problem)
    return text + ("" if not solution or solution[0].isspace() else joint) + solution


def bos(tokenizer):
    """The token that the tokenizer puts before every text, as text; '' where it puts none."""
    first = tokenizer("x").input_ids[0]
    return tokenizer.bos_token if tokenizer.bos_token and first == tokenizer.bos_token_id else ""


def stop_strings(prompt):
    """Texts at which an answer in this format is over, for models that do not end it themselves."""
    return () if prompt == "chat" else TEMPLATES[prompt][2]


def encode(tokenizer, text):
    """Token ids of a rendered text; no special token is added."""
    return tokenizer(encodable(text), add_special_tokens=False).input_ids


def encode_step(tokenizer, text, step):
    """Token ids of `text`, which ends with `step`, and how many of them come before the step.

    The whole is encoded at once, so no token is cut at the joint; a token that merges across it is the step's.
    """
    coded = tokenizer(encodable(text), add_special_tokens=False, return_offsets_mapping=True)
    joint = len(text) - len(step)
    return coded.input_ids, sum(end <= joint for _, end in coded.offset_mapping)


def encodable(text):
    """`text` with lone surrogates, which no tokenizer or server takes, as U+FFFD; same length."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


# ------------------------------------------------------------------------------------------------ steps

# "Step 2:", "**Step 2:**", "### Step 2", "Step 2." at the start of a line
HEADER = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*|[-*>][ \t]+)?(?:\*\*|__)?(?:Step|STEP)[ \t]+(\d{1,6})"
                    r"(?:[ \t]*[:.)](?!\d)(?:\*\*|__)?|(?:\*\*|__):?|(?=[ \t]*$))", re.M)
# "Let's think step by step. Step 1: ...": the first header may stand behind the one line before it
FIRST_HEADER = re.compile(r"\A[^\n]*?[.:!][ \t]+((?:\*\*)?Step[ \t]+1:(?:\*\*)?)")


def find_headers(completion):
    """(start, end) of each step header. Headers count up: a number that does not exceed the last is text."""
    found, last = [], 0
    first = FIRST_HEADER.match(completion)
    if first:
        found, last = [first.span(1)], 1
    for match in HEADER.finditer(completion, found[0][1] if found else 0):
        if int(match[1]) > last:
            found.append(match.span())
            last = int(match[1])
    return found


def find_steps(completion, split=None):
    """Where steps begin: (spans, split), a span being (start of the header, start of the step's own text).

    split: "headers", or "paragraphs" (blank lines) for an answer without headers; None decides by the text.
    """
    if split != "paragraphs":
        headers = find_headers(completion)
        if headers or split == "headers":
            return headers, "headers"
    starts = [match.end() for match in re.finditer(r"(?:\A|\n[ \t]*\n)\s*", completion)]
    return [(start, start) for start in starts if start < len(completion)], "paragraphs"


def split_steps(completion, split=None):
    """Parts that join back to the completion: part 0 is the preamble, part k is step k with its header.

    The preamble may be empty. The closing "The answer is" belongs to the last step.
    """
    spans, _ = find_steps(completion, split)
    cuts = [0, *(start for start, _ in spans), len(completion)]
    return [completion[a:b] for a, b in zip(cuts, cuts[1:])]


def strip_header(part):
    """A step's own text: a part of split_steps without its header."""
    header = HEADER.match(part)
    return part[header.end():] if header else part


def cut_step(text, joint, split):
    """The step that begins at `joint`, without its header and without the white space that ends it.

    Chosen and rejected both come from here, so neither carries a newline which the other lacks.
    """
    ends = [start for start, _ in find_steps(text, split)[0] if start > joint]
    return text[joint:ends[0] if ends else len(text)].rstrip()


# ---------------------------------------------------------------------------------------------- reading

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


# ---------------------------------------------------------------------------------------------- writing

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


def open_alone(path, empty):
    """A file to append to, made empty if so asked, and locked: two processes in one file would damage it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if stat.S_ISREG(os.fstat(file).st_mode):  # /dev/null can be shared
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if empty:
                os.ftruncate(file, 0)
        return file
    except BlockingIOError as error:
        raise UserError(f"{path}: another process is writing it; wait for it or name another file", 2) from error
    except FileNotFoundError as error:
        raise UserError(f"{os.path.dirname(path)}: no such folder; make it or name another file", 2) from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it writable or name another file", 2) from error


class Output:
    """Where a stage's rows go: kept ones to `out`, dropped ones to `dropped`, finished units to a journal.

    A unit is what is asked once: a sample of a problem, a row to judge. Its rows are written together, and
    then one journal line says its id, its fate and how long both files now are. So a killed run is taken up
    by cutting both files to the last journal line, whatever was half written.
    """
    UNDO = 100  # units that can be taken out again

    def __init__(self, stage, out="-", dropped=None, resume=False, settings=None):
        self.stage, self.path = stage, None if out == "-" else out
        self.units, self.written = Counter(), 0  # units by why they were dropped, None for kept; rows kept
        self.earlier = set()  # hashes of the ids of units that an earlier run finished: an id may be long
        self.replies = {}  # unit -> {key: reply} of units that a killed run left unfinished
        self.undoable = deque(maxlen=self.UNDO)  # (unit, why it was dropped, rows kept, sizes of the files before it)
        dropped = dropped or (self.path and out + ".dropped.jsonl")
        self._check(dropped, resume)
        self.out = self.journal = None
        if self.path:
            self.journal = open_alone(out + ".done", empty=not resume)
            self.out = open_alone(out, empty=False)
        self.dropped = open_alone(dropped, empty=not resume) if dropped else None
        # with --out FILE rows also go down a pipe, so that a resumed stage can feed the next one again
        self.pipe, self.turn = not self.path or stat.S_ISFIFO(os.fstat(1).st_mode), asyncio.Lock()
        self.synced = time.monotonic()
        if self.path:
            self._take_up(self._read_settings(settings or {}), dropped)

    def _check(self, dropped, resume):
        """UserError for an output that cannot be, before any file is made."""
        if resume and not self.path:
            raise UserError("--resume needs --out FILE: stdout cannot be read back", 2)
        if self.path and os.path.exists(self.path) and not os.path.isfile(self.path):
            raise UserError(f"{self.path}: not a file that can be read back; name a file, or - for stdout", 2)
        for path in (self.path, dropped):
            if path and not resume and os.path.isfile(path) and os.path.getsize(path):
                raise UserError(f"{path}: exists; go on with --resume or name another file", 2)

    def _read_settings(self, settings):
        """The first line of the journal, written where there is none. UserError when it says other settings."""
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        head = open(self.journal, "rb", closefd=False).readline()
        if not head.endswith(b"\n"):
            if self._sizes()[0]:
                raise UserError(f"{self.path}: has rows but no journal {self.path}.done; name another --out", 2)
            head = format_row({"settings": settings, "hash": key})
            self._cut([0, 0, 0])
            append(self.journal, head)
        old = json.loads(head)
        if old["hash"] != key:
            names = [k for k in {**old["settings"], **settings} if old["settings"].get(k) != settings.get(k)]
            raise UserError(f"{self.path}: made with another {', '.join('--' + n.replace('_', '-') for n in names)}; "
                            "resume with the same settings or name another --out", 2)
        return head

    def _take_up(self, head, dropped):
        """Read the journal's units; cut the files to the last one that is whole. UserError where rows were removed."""
        whole, sizes = [0, 0, len(head)], self._sizes()
        os.lseek(self.journal, len(head), os.SEEK_SET)
        for line in open(self.journal, "rb", closefd=False):
            try:
                unit = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            short = {size: path for path, due, size in zip((self.path, dropped), unit.get("sizes", ()), sizes)
                     if due > size}
            if 0 in short:  # going on would cut the other file too
                raise UserError(f"{short[0]}: is missing or empty, and the journal {self.path}.done knows rows in it; "
                                "put it back or name another --out", 2)
            if short:
                break  # the journal reached the disk before the rows did
            whole[2] += len(line)
            if "reply" in unit:
                self.replies.setdefault(unit["of"], {})[unit["key"]] = unit["reply"]
                continue
            whole[:2] = unit["sizes"]
            self.earlier.add(hash(unit["id"]))
            self.units[unit["drop"]] += 1
            self.written += unit["kept"]
            self.replies.pop(unit["id"], None)
        for path, file, size in zip((self.path, dropped), (self.out, self.dropped), whole):
            if size and os.pread(file, 1, size - 1) != b"\n":
                raise UserError(f"{path}: was edited since its journal {self.path}.done was written; put it back or "
                                "name another --out", 2)
        self._cut(whole)

    def _sizes(self):
        return [0 if file is None else os.fstat(file).st_size for file in (self.out, self.dropped, self.journal)]

    def _cut(self, sizes):
        for file, size in zip((self.out, self.dropped, self.journal), sizes):
            if file is not None and os.fstat(file).st_size > size:
                os.ftruncate(file, size)

    def _failed(self, sizes, error):
        """What to raise when a file takes no more; half a unit must not stand before the whole ones of other tasks."""
        self._cut(sizes)
        return UserError(f"{self.path or 'dropped rows'}: {error.strerror}; what is there is kept, make room and go on "
                         "with --resume")

    def stored(self):
        """Rows of an earlier run, sent down the pipe again as they are read."""
        if self.path and self.written:
            for row in read_rows(self.path):
                if self.pipe:
                    append(1, format_row(row))
                yield row

    def write(self, unit, rows):
        """Write what became of a unit: rows to keep, or rows with a `drop` reason. All of it, or UserError."""
        kept, lost = ([row for row in rows if ("drop" in row) == drop] for drop in (False, True))
        why, before = None if kept else lost[0]["drop"], self._sizes()
        try:
            append(self.out, b"".join(map(format_row, kept)))
            append(self.dropped, b"".join(map(format_row, lost)))
            append(self.journal, format_row({"id": unit, "drop": why, "kept": len(kept), "sizes": self._sizes()[:2]}))
        except OSError as error:
            raise self._failed(before, error) from error
        self.units[why] += 1
        self.written += len(kept)
        self.undoable.append((unit, why, len(kept), before))
        if time.monotonic() - self.synced > 1:
            self.sync()

    async def send(self, rows):
        """The kept rows down the pipe; a thread writes, for a slow reader must not hold up the replies in flight."""
        data = b"".join(format_row(row) for row in rows if "drop" not in row)
        if self.pipe and data:
            async with self.turn:
                try:
                    await asyncio.to_thread(append, 1, data)
                except BrokenPipeError:
                    raise
                except OSError as error:
                    raise UserError(f"stdout: {error.strerror}; make room and run it again") from error

    async def once(self, unit, key, ask):
        """`await ask()`, journalled: of a unit of many requests a kill costs only those in flight."""
        if self.journal is None:
            return await ask()
        reply = self.replies.get(unit, {}).get(str(key))
        if reply is None:
            reply, before = await ask(), self._sizes()
            try:
                append(self.journal, format_row({"of": unit, "key": str(key), "reply": reply}))
            except OSError as error:
                raise self._failed(before, error) from error
        return reply

    def undo(self, unit):
        """Take the last unit out again, if it is `unit` and this process wrote it. Returns whether it did."""
        if not self.undoable or self.undoable[-1][0] != unit:
            return False
        _, why, kept, before = self.undoable.pop()
        self._cut(before)
        self.units[why] -= 1
        self.written -= kept
        return True

    def sync(self):
        for file in (self.out, self.dropped, self.journal):
            if file is not None and stat.S_ISREG(os.fstat(file).st_mode):
                os.fsync(file)
        self.synced = time.monotonic()

    def tally(self):
        """`collect.py: 40 in, 12 kept, 28 dropped (right 25, length 3)`; in = kept + dropped, always."""
        reasons = +Counter({why: n for why, n in self.units.items() if why})
        kept, dropped = self.units[None], reasons.total()
        line = f"{self.stage}: {kept + dropped} in, {kept} kept, {dropped} dropped"
        if reasons:
            line += f" ({', '.join(f'{reason} {n}' for reason, n in reasons.most_common())})"
        return line + (f"; {self.written} rows written" if self.written != kept else "")


# ------------------------------------------------------------------------------------------------ stage

UNIT = contextvars.ContextVar("unit", default=None)  # (output, unit) that the running task works for


async def once(key, ask):
    """What `await ask()` returns, a list or tuple of plain values, asked once even if the run is killed and resumed."""
    output, unit = UNIT.get() or (None, None)
    return await (output.once(unit, key, ask) if output else ask())


REFUSED, FIRST = "refused by the server", 16  # so many from the start, and the settings are at fault


class Refused(Exception):
    """A request that no retry will mend; the unit is dropped with this reason (and perhaps a detail)."""


class GaveUp(Exception):
    """A request that failed every try; the unit is left undone, for --resume to ask again."""


class Quit(Exception):
    """The person at the terminal has had enough; the same as Ctrl-C."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults of flags that have one."""
    def _get_help_string(self, action):
        bare = action.default in (None, "") or action.default is False
        return action.help if bare else super()._get_help_string(action)


def add_record_flags(parser):
    parser.add_argument("input", nargs="?", default="-", metavar="FILE", help="JSONL rows to read; - is stdin")
    parser.add_argument("--out", default="-", metavar="FILE", help="where kept rows go; - is stdout")
    parser.add_argument("--dropped", metavar="FILE", help="where dropped rows go (default: OUT.dropped.jsonl)")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run of --out stopped")


def open_output(stage, args):
    """The Output of a stage; its settings are the flags that decide what the rows say."""
    elsewhere = {"input", "out", "dropped", "resume", "compare", "ask", "concurrency", "timeout", "batch_size",
                 "device", "base_url", "judge_url"}
    settings = {name: value for name, value in vars(args).items() if name not in elsewhere}
    return Output(stage, args.out, args.dropped, args.resume, settings)


def run_stage(output, path, required, units, work, concurrency, per_row=1, each=None):
    """Read rows, do the work of each, write what comes of it; returns the exit code.

    units(row) yields the units of an input row, each with its own `id`, `per_row` of them (for the progress bar);
    work(unit) is a coroutine that returns rows, those with a `drop` reason to be dropped. At most `concurrency`
    units are in flight. A unit that an earlier run finished is skipped. each(row) sees every kept row, stored ones
    first. The first Ctrl-C ends the intake and finishes what is in flight (exit code 130), the second quits.
    """
    for row in output.stored():
        if each:
            each(row)
    try:
        code = asyncio.run(drive(output, path, required, units, work, concurrency, per_row, each))
    except BaseException as error:
        if not isinstance(error, BrokenPipeError):
            print(output.tally(), file=sys.stderr)
        raise
    finally:
        output.sync()
    print(output.tally(), file=sys.stderr)
    return code


async def new_units(output, path, required, units):
    """(key, unit) of what no earlier run finished. An id that stands twice is dropped the second time."""
    seen, again = set(), 0
    async for row in stream_rows(path, required):
        for unit in units(row):
            key = unit["id"]
            if twice := hash(key) in seen:
                again += 1
                key = f"{key} (again {again})"
            seen.add(hash(key))
            if hash(key) in output.earlier:
                continue
            if twice:
                output.write(key, [{**unit, "drop": "duplicate id"}])
            else:
                yield key, unit


async def outcome(output, unit, work, count, patience):
    """The rows that the work of a unit comes to; None when it is left undone for --resume.

    UserError when more than `patience` units one after another came to nothing.
    """
    detail = None
    try:
        rows = await work(unit)
    except Refused as error:
        detail = "".join(error.args[1:])
        rows = [{**unit, "drop": error.args[0], "detail": detail}]
    except GaveUp as error:
        print(printable(f"{output.stage}: {unit['id']}: {error}"), file=sys.stderr)
        count.update({"given up": 1, "in a row": 1})
        if count["in a row"] > patience:
            raise UserError(f"{count['in a row']} rows one after another were given up; see to the server, "
                            "then go on with --resume") from error
        return None
    count["in a row"] = 0
    for row in rows:
        why, said = row.get("drop"), row.get("verdict") if detail is None else detail
        if (why == REFUSED or detail is not None) and not output.units[why]:  # one of a kind is shown, all are counted
            print(printable(f"{output.stage}: {row['id']}: {why} {said}"), file=sys.stderr)
        if why == REFUSED and output.units.total() == output.units[REFUSED] >= FIRST:
            raise UserError(f"the server refused the first {FIRST} rows, this one so: {said}; change what it is "
                            "asked (or the order of the rows) and name another --out")
    return rows


async def drive(output, path, required, units, work, concurrency, per_row, each):
    from tqdm import tqdm
    count, faults, room = Counter(), [], asyncio.Semaphore(concurrency)
    total = sum(bool(line.strip()) for line in read_lines(path)) * per_row if os.path.isfile(path) else None
    bar = tqdm(desc=output.stage, total=total, initial=output.units.total(), disable=None)

    async def one(key, unit):
        UNIT.set((output, key))
        try:
            rows = await outcome(output, unit, work, count, patience=2 * concurrency)
        except Quit:
            return interrupt()
        if rows is not None:
            output.write(key, rows)
            for row in rows:
                if each and "drop" not in row:
                    each(row)
            bar.update()
            await output.send(rows)

    async def feed():
        try:
            async for key, unit in new_units(output, path, required, units):
                await room.acquire()
                group.create_task(one(key, unit)).add_done_callback(lambda _: room.release())
        except UserError as error:  # a bad row does not cost the answers to the rows before it
            faults.append(error)

    def interrupt():
        if count["interrupted"]:
            os._exit(130)
        count["interrupted"] = 1
        intake.cancel()
        print(f"{output.stage}: finishing what is in flight; Ctrl-C again to quit", file=sys.stderr)

    try:
        async with asyncio.TaskGroup() as group:  # what one of its tasks raises ends them all
            intake = group.create_task(feed())
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        bar.close()
    if faults:
        raise faults[0]
    if count["given up"]:
        print(f"{output.stage}: {count['given up']} given up; --resume asks them again", file=sys.stderr)
    return 130 if count["interrupted"] else 3 if count["given up"] else 0
