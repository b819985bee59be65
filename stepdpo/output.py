"""Where a stage's rows go: kept ones, dropped ones, and the journal of what is finished."""
import asyncio
import contextlib
import datetime
import errno
import fcntl
import os
import stat
import time
from collections import Counter, deque, namedtuple

from stepdpo.command import UserError, inform
from stepdpo.journal import compare_heads, read_journal, refuse_damage
from stepdpo.rows import append_bytes, format_row, read_rows

MET = "met"  # the input has brought this id
Written = namedtuple("Written", "unit content reason kept before")  # before: sizes of the files


class Output:
    """The files of a stage: "out" for rows that are kept, "dropped" for the others, "journal" for what is finished.

    With out="-" the rows go to stdout and there is no journal; dropped rows are then only counted, unless a file is
    named for them. With a file for the rows and a pipe on stdout, they go to both.
    """
    UNDO = 100  # units that can be taken out again

    def __init__(self, stage, out="-", dropped=None, resume=False, settings=None, contents=None):
        self.stage, self.path = stage, None if out == "-" else out
        self.paths = {"journal": self.path and f"{out}.done", "out": self.path,
                      "dropped": dropped or self.path and f"{out}.dropped.jsonl"}
        self.units, self.kept = Counter(), 0  # units by why they were dropped, None for kept; rows that were kept
        self.refusals = set()  # reasons with which a request was refused; a unit dropped for one was not answered
        self.unanswered = set()  # hashes of the ids of such units
        self.ids = {}  # hash of a unit's id -> MET, or the hash of its content while only the journal told of it
        self.replies = {}  # (unit, content) -> {key: reply}: what an earlier run got for units that it did not finish
        self.working = {}  # unit -> content, of the units that are being worked on
        self.undoable = deque(maxlen=self.UNDO)  # what was Written last
        refuse_outputs(self.paths, resume)
        refuse_shared(self.paths)
        # so that a resumed stage can feed the next one again
        self.pipe, self.turn = not self.path or stat.S_ISFIFO(os.fstat(1).st_mode), asyncio.Lock()
        self.synced, self.date = time.monotonic(), datetime.date.today().isoformat()
        self.files, self.made = dict.fromkeys(self.paths), []  # made: paths of those that were not there before
        try:
            self.open_files(empty=not resume)
            if self.path:
                self.take_up({"stage": stage, "date": self.date, "settings": settings or {},
                              "contents": contents or {}})
        except UserError:
            self.remove_made()
            raise

    def open_files(self, empty):
        for name, path in self.paths.items():
            if path:
                self.files[name], new = open_locked(path, empty)
                self.made += [path] * new

    def take_up(self, head):
        """Write the journal's first line, or read the journal of an earlier run and cut the files to whole units."""
        sizes = self.file_sizes()
        found = read_journal(self.files["journal"], sizes, self.paths["journal"])
        self.head_size = found.head_size or len(format_row(head))
        if found.head is None:
            for name in ("out", "dropped"):
                if sizes[name]:
                    raise UserError(f"{self.paths[name]}: has rows but no journal {self.paths['journal']}; name "
                                    "another file", 2)
            self.cut_files({"out": 0, "dropped": 0, "journal": 0})
            append_bytes(self.files["journal"], format_row(head))
            return
        compare_heads(found.head, head, self.path)
        refuse_damage(found, sizes, self.paths)
        self.refuse_edited(found.whole)
        self.cut_files(found.whole)
        self.date, self.replies = found.head["date"], found.replies
        self.units, self.kept, self.ids, self.unanswered = found.units, found.kept, found.ids, found.unanswered
        if found.again > 1:  # one is what a killed run leaves
            inform(f"{self.stage}: {found.again} units are asked again: of rows that the journal knows some are gone")

    def refuse_edited(self, whole):
        """UserError where a row does not end at the place at which the files are to be cut."""
        for name in ("out", "dropped"):
            size = whole[name]
            if size and os.pread(self.files[name], 1, size - 1) != b"\n":
                raise UserError(f"{self.paths[name]}: was edited since its journal {self.paths['journal']} was "
                                "written; put it back or name another --out", 2)

    def meet(self, unit, content):
        """What to do with a unit of the input: "ask", or nothing, for it is "finished" or its id "stands twice".

        content: a hash of what it is asked about. UserError where an earlier run finished it with another content.
        """
        earlier = self.ids.get(hash(unit))
        self.ids[hash(unit)] = MET
        if earlier == MET:
            return "stands twice"
        if earlier is None:
            self.working[unit] = content
            return "ask"
        if earlier != hash(content):
            raise UserError(f"{self.path}: its row {unit!r} was made from another row of that id than the input now "
                            "has; go on with the old input, or name another --out", 2)
        return "finished"

    def write(self, unit, rows):
        """Write what became of a unit: rows to keep, or rows with a `drop` reason. All of it, or UserError."""
        kept = [row for row in rows if "drop" not in row]
        lost = [row for row in rows if "drop" in row]
        reason = None if kept else lost[0]["drop"]
        out, dropped = b"".join(map(format_row, kept)), b"".join(map(format_row, lost))
        before, content = self.file_sizes(), self.working.pop(unit, "")
        answered = reason not in self.refusals
        entry = {"unit": unit, "content": content, "drop": reason, "answered": answered, "kept": len(kept),
                 "out": before["out"] + len(out) * self.is_file("out"),
                 "dropped": before["dropped"] + len(dropped) * self.is_file("dropped")}
        self.append_all({"journal": format_row(entry), "out": out, "dropped": dropped})
        self.units[reason] += 1
        self.kept += len(kept)
        if not answered:
            self.unanswered.add(hash(unit))
        self.undoable.append(Written(unit, content, reason, len(kept), before))
        if time.monotonic() - self.synced > 1:
            self.sync()

    def append_all(self, data):
        """Bytes to the end of each file. What does not fit is taken back: half a unit must not stand before others."""
        before = self.file_sizes()
        try:
            for name, more in data.items():
                append_bytes(self.files[name], more)
        except OSError as error:
            self.cut_files(before)
            fix = "make room and go on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to the disk and go on"
            raise UserError(f"{self.path or self.paths['dropped']}: {error.strerror}; what is there is kept, {fix} "
                            "with --resume") from error

    def undo(self, unit):
        """Take the last unit out again, if it is `unit` and this process wrote it. Returns whether it did."""
        if not self.undoable or self.undoable[-1].unit != unit:
            return False
        last = self.undoable.pop()
        self.cut_files(last.before)
        self.units[last.reason] -= 1
        self.kept -= last.kept
        self.unanswered.discard(hash(unit))
        self.working[unit] = last.content
        return True

    async def recall(self, unit, key, ask):
        """The reply of an earlier run to request `key` of a unit; else `await ask()`, which the journal then knows."""
        content = self.working.get(unit, "")
        reply = self.replies.get((unit, content), {}).get(str(key))
        if reply is None:
            reply = await ask()
            entry = {"unit": unit, "content": content, "key": str(key), "reply": reply}
            self.append_all({"journal": format_row(entry)})
        return reply

    async def send_rows(self, rows):
        """The kept rows down the pipe; a thread writes, for a slow reader must not hold up the replies in flight."""
        data = b"".join(format_row(row) for row in rows if "drop" not in row)
        if self.pipe and data:
            async with self.turn:
                await asyncio.to_thread(write_stdout, data)

    def earlier_rows(self):
        """Kept rows of an earlier run, sent down the pipe again as they are read."""
        if self.path and self.kept:
            for row in read_rows(self.path):
                if self.pipe:
                    write_stdout(format_row(row))
                yield row

    def is_file(self, name):
        return self.files[name] is not None and stat.S_ISREG(os.fstat(self.files[name]).st_mode)

    def file_sizes(self):
        return {name: os.fstat(file).st_size if self.is_file(name) else 0 for name, file in self.files.items()}

    def cut_files(self, sizes):
        """Shorten the files; the journal last, so that a run killed here is taken up as if it had cut them all."""
        for name in ("out", "dropped", "journal"):
            if self.is_file(name) and os.fstat(self.files[name]).st_size > sizes[name]:
                os.ftruncate(self.files[name], sizes[name])

    def sync(self):
        """Have all that was written on the disk, the journal first: rows that it does not know look like edits."""
        for name, file in self.files.items():
            if self.is_file(name):
                os.fsync(file)
        self.synced = time.monotonic()

    def has_saved(self):
        """Whether there is anything that --resume would go on from."""
        return self.path is not None and self.file_sizes()["journal"] > self.head_size

    def left_out(self):
        """How many units of an earlier run the input has not brought."""
        return sum(1 for content in self.ids.values() if content != MET)

    def is_empty(self):
        return not self.has_saved() and not self.units.total()

    def remove_made(self):
        """Close the files and remove those that this run made: a failed start leaves nothing."""
        self.close_files()
        for path in self.made:
            with contextlib.suppress(OSError):  # somebody else removed it
                os.unlink(path)

    def close_files(self):
        for name, file in self.files.items():
            if file is not None:
                os.close(file)
                self.files[name] = None

    def tally(self):
        """`collect.py: 40 in, 12 kept, 28 dropped (right 25, length 3)`; in = kept + dropped, always."""
        reasons = +Counter({reason: n for reason, n in self.units.items() if reason})
        kept, dropped = self.units[None], reasons.total()
        line = f"{self.stage}: {kept + dropped} in, {kept} kept, {dropped} dropped"
        if reasons:
            line += f" ({', '.join(f'{reason} {n}' for reason, n in reasons.most_common())})"
        return line + (f"; {self.kept} rows written" if self.kept != kept else "")


def refuse_outputs(paths, resume):
    """UserError for an output that cannot be, before any file is made."""
    out = paths["out"]
    if resume and not out:
        raise UserError("--resume needs --out FILE: stdout cannot be read back", 2)
    if out and os.path.exists(out) and not os.path.isfile(out):
        raise UserError(f"{out}: not a file that can be read back; name a file, or - for stdout", 2)
    for path in (out, paths["dropped"]):
        if path and not resume and os.path.isfile(path) and os.path.getsize(path):
            raise UserError(f"{path}: exists; go on with --resume or name another file", 2)


def refuse_shared(paths):
    """UserError for dropped rows that would land among kept rows or messages."""
    dropped = paths["dropped"]
    if not dropped:
        return
    for name in ("out", "journal"):
        if paths[name] and os.path.realpath(paths[name]) == os.path.realpath(dropped):
            raise UserError(f"--dropped {dropped}: is --out or its journal; name a file of its own", 2)
    streams = {"stderr, where messages go": os.fstat(2)}
    if not paths["out"] or stat.S_ISFIFO(os.fstat(1).st_mode):
        streams["stdout, where rows go"] = os.fstat(1)
    if not os.path.exists(dropped) or os.path.samefile(dropped, os.devnull):
        return
    for name, stream in streams.items():
        if os.path.samestat(os.stat(dropped), stream):
            raise UserError(f"--dropped {dropped}: is {name}; name a file of its own", 2)


def open_locked(path, empty):
    """(a file to append to, whether it is new), made empty if so asked.

    It is locked, for two processes in one file would damage it.
    """
    how, new = os.O_RDWR | os.O_CREAT | os.O_APPEND, True
    try:
        try:
            file = os.open(path, how | os.O_EXCL, 0o666)
        except FileExistsError:
            file, new = os.open(path, how, 0o666), False
        if stat.S_ISREG(os.fstat(file).st_mode):  # /dev/null can be shared
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if empty:
                os.ftruncate(file, 0)
        return file, new
    except BlockingIOError as error:
        raise UserError(f"{path}: another process is writing it; wait for it or name another file", 2) from error
    except FileNotFoundError as error:
        raise UserError(f"{os.path.dirname(path)}: no such folder; make it or name another file", 2) from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it writable or name another file", 2) from error


def write_stdout(data):
    """Bytes to stdout. A reader that went away is for run_main, a full disk is the user's to mend."""
    try:
        append_bytes(1, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"stdout: {error.strerror}; see to it and run it again") from error
