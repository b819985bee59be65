"""Run a stage: read rows, do the work of each at once with others, write what comes of it, count everything."""
import asyncio
import contextvars
import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable

from stepdpo.command import UserError, inform
from stepdpo.output import Output
from stepdpo.reply import REFUSED, GaveUp, Refused
from stepdpo.rows import printable, read_lines, stream_rows

FIRST = 16  # refusals from the start, and the settings are at fault
# flags that do not decide what rows say: with --resume they may differ from those of the earlier run
MAY_DIFFER = {"input", "out", "dropped", "resume", "compare", "score", "ask", "concurrency", "timeout", "batch_size",
              "device", "base_url", "judge_url"}
UNIT = contextvars.ContextVar("unit", default=None)  # (output, unit's id) that the running task works for


class Quit(Exception):
    """The person at the terminal has had enough; the same as Ctrl-C."""


@dataclasses.dataclass
class Run:
    """A run of a stage: what its tasks share."""
    output: Output
    work: Callable  # see run_stage
    each: Callable | None  # see run_stage
    room: asyncio.Semaphore  # for units in flight
    patience: int  # units one after another that may be given up
    bar: object  # tqdm's
    intake: asyncio.Task | None = None  # reads the input and starts units
    given_up: int = 0
    given_up_in_a_row: int = 0
    interrupted: bool = False
    fault: UserError | None = None  # a bad row of the input


def add_record_flags(parser):
    """The flags by which every stage reads and writes rows."""
    parser.add_argument("input", nargs="?", default="-", metavar="FILE", help="JSONL rows to read; - is stdin")
    parser.add_argument("--out", default="-", metavar="FILE", help="where kept rows go; - is stdout")
    parser.add_argument("--dropped", metavar="FILE", help="where dropped rows go (default: OUT.dropped.jsonl)")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run of --out stopped")


def open_output(stage, args):
    """The Output of a stage; its settings are the flags that decide what the rows say."""
    settings = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
    return Output(stage, args.out, args.dropped, args.resume, settings)


def run_stage(output, path, required, units, work, concurrency, per_row=1, each=None):
    """Read rows, do the work of each, write what comes of it; returns the exit code.

    units(row) gives the units of an input row, each with its own `id`, `per_row` of them (for the progress bar);
    work(unit) is a coroutine that returns rows, those with a `drop` reason to be dropped. At most `concurrency`
    units are in flight. A unit that an earlier run finished is skipped. each(row) sees every kept row, those of an
    earlier run first. The first Ctrl-C ends the intake and finishes what is in flight (exit code 130), the second
    quits.
    """
    quiet = False
    try:
        for row in output.earlier_rows():
            if each:
                each(row)
        return asyncio.run(drive(output, path, required, units, work, concurrency, per_row, each))
    except BrokenPipeError:
        quiet = True
        raise
    finally:
        output.sync()
        if not quiet:
            inform(output.tally())


async def drive(output, path, required, units, work, concurrency, per_row, each):
    """Start a task for each unit, wait for them all, and return the exit code."""
    bar = progress_bar(output, path, per_row)
    run = Run(output, work, each, asyncio.Semaphore(concurrency), patience=2 * concurrency, bar=bar)
    try:
        async with asyncio.TaskGroup() as group:  # what one of its tasks raises ends them all
            run.intake = group.create_task(take_in(run, new_units(output, path, required, units), group))
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt, run)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        bar.close()
    if run.fault:
        raise run.fault
    if run.given_up:
        inform(f"{output.stage}: {run.given_up} given up; --resume asks them again")
    if run.interrupted:
        return 130
    return 3 if run.given_up else 0


def progress_bar(output, path, per_row):
    """tqdm's bar over the units, where stderr is a terminal; its end is known when the input is a file."""
    from tqdm import tqdm
    total = None
    if sys.stderr.isatty() and os.path.isfile(path):
        total = per_row * sum(1 for line in read_lines(path) if line.strip())
    return tqdm(desc=output.stage, total=total, initial=output.units.total(), disable=None)


async def new_units(output, path, required, units):
    """(id, unit) of what no earlier run finished. An id that stands twice is dropped the second time."""
    again = 0
    async for row in stream_rows(path, required):
        row.pop("drop", None)  # of the stage that dropped it, from whose dropped rows it was taken up again
        for unit in units(row):
            key, content = unit["id"], content_hash(unit)
            state = output.meet(key, content)
            twice = state == "stands twice"
            while state == "stands twice":
                again += 1
                key = f"{unit['id']} (again {again})"
                state = output.meet(key, content)
            if state == "finished":
                continue
            if twice:
                output.write(key, [{**unit, "drop": "duplicate id"}])
            else:
                yield key, unit


def content_hash(unit):
    """A hash of all that a unit says, by which a resumed run knows that it is still the same question."""
    text = json.dumps(unit, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


async def take_in(run, todo, group):
    """Start a task for each unit of `todo` as soon as there is room."""
    try:
        async for key, unit in todo:
            await run.room.acquire()
            group.create_task(finish_unit(run, key, unit))
    except UserError as error:  # a bad row does not cost the answers to the rows before it
        run.fault = error


async def finish_unit(run, key, unit):
    """Do the work of a unit and write what comes of it."""
    UNIT.set((run.output, key))
    try:
        rows = await outcome(run, unit)
        if rows is None:
            return
        run.output.write(key, rows)
        for row in rows:
            if run.each and "drop" not in row:
                run.each(row)
        run.bar.update()
        await run.output.send(rows)
    except Quit:
        interrupt(run)
    finally:
        run.room.release()


async def outcome(run, unit):
    """The rows that the work of a unit comes to; None when it is left undone for --resume."""
    try:
        rows, refusal = await run.work(unit), None
    except Refused as error:
        refusal = "".join(error.args[1:])
        rows = [{**unit, "drop": error.args[0], "detail": refusal}]
    except GaveUp as error:
        give_up(run, unit, error)
        return None
    run.given_up_in_a_row = 0
    for row in rows:
        if refusal is not None or row.get("drop") == REFUSED:
            notice_refusal(run.output, row, row.get("verdict") if refusal is None else refusal)
    return rows


def give_up(run, unit, error):
    """Count a unit that is left undone. UserError when it is one of many in a row: the server is down."""
    inform(printable(f"{run.output.stage}: {unit['id']}: {error}"))
    run.given_up += 1
    run.given_up_in_a_row += 1
    if run.given_up_in_a_row > run.patience:
        raise UserError(f"{run.given_up_in_a_row} rows one after another were given up; see to the server, "
                        "then go on with --resume") from error


def notice_refusal(output, row, detail):
    """Show the first refusal of a kind; all are counted. UserError when the server refuses all from the start."""
    reason = row["drop"]
    if not output.units[reason]:
        inform(printable(f"{output.stage}: {row['id']}: {reason} {detail}"))
    if reason == REFUSED and output.units.total() == output.units[REFUSED] >= FIRST:
        raise UserError(f"the server refused the first {FIRST} rows, this one so: {detail}; change what it is "
                        "asked (or the order of the rows) and name another --out")


def interrupt(run):
    """End the intake; what is in flight is finished. The second time, quit."""
    if run.interrupted:
        os._exit(130)
    run.interrupted = True
    run.intake.cancel()
    inform(f"{run.output.stage}: finishing what is in flight; Ctrl-C again to quit")


async def once(key, ask):
    """What `await ask()` returns, a list or tuple of plain values, asked once even if the run is killed and resumed.

    key: names the request among those of the unit that is being worked on.
    """
    if UNIT.get() is None:
        return await ask()
    output, unit = UNIT.get()
    return await output.recall(unit, key, ask)
