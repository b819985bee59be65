"""Run a stage: read rows, do the work of each at once with others, write what comes of it, count everything."""
import asyncio
import contextvars
import os
import signal
import sys
from collections import Counter

from stepdpo.command import UserError
from stepdpo.journal import Output
from stepdpo.reply import REFUSED, GaveUp, Refused
from stepdpo.rows import printable, read_lines, stream_rows

UNIT = contextvars.ContextVar("unit", default=None)  # (output, unit) that the running task works for


async def once(key, ask):
    """What `await ask()` returns, a list or tuple of plain values, asked once even if the run is killed and resumed."""
    output, unit = UNIT.get() or (None, None)
    return await (output.once(unit, key, ask) if output else ask())


FIRST = 16  # refusals from the start, and the settings are at fault


class Quit(Exception):
    """The person at the terminal has had enough; the same as Ctrl-C."""



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
