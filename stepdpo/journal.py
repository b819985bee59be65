"""Where a stage's rows go, and the journal by which an interrupted run is taken up."""
import asyncio
import fcntl
import hashlib
import json
import os
import stat
import time
from collections import Counter, deque

from stepdpo.command import UserError
from stepdpo.rows import append, format_row, read_rows


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
