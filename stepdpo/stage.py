"""Run a stage: read rows, do the work of each at once with others, write what comes of it, count everything."""
import asyncio
import contextvars
import dataclasses
import os
import signal
from collections.abc import Callable

from stepdpo import prompts
from stepdpo.command import UserError, inform
from stepdpo.content import path_content, row_content
from stepdpo.output import Output
from stepdpo.progress import progress_bar
from stepdpo.reply import REFUSED, GaveUp, Refused
from stepdpo.rows import count_rows, printable, stream_rows

TWICE = "duplicate id"  # why a row is dropped whose id another one had
# Flags that do not decide what rows say: with --resume they may differ from those of the earlier run. What the input
# says is compared row by row.
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
    unanswered: Callable | None  # see run_stage
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
    group = parser.add_argument_group("rows in and out")
    group.add_argument("input", nargs="?", default="-", metavar="FILE", help="JSONL rows to read; - is stdin")
    group.add_argument("--out", default="-", metavar="FILE", help="where kept rows go; - is stdout")
    group.add_argument("--dropped", metavar="FILE",
                       help="where dropped rows go (default: OUT.dropped.jsonl; with --out - they are only counted)")
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run of --out stopped")


def open_output(stage, args):
    """The Output of a stage; its settings are the flags that decide what the rows say.

    From now on prompts have the date of the run, which is that of the run that --resume goes on with.
    """
    settings = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
    output = Output(stage, args.out, args.dropped, args.resume, settings, model_contents(args))
    prompts.fix_date(output.date)
    return output


def model_contents(args):
    """{"--model runs/m": hash} of the model folders and judge files that flags name. Of a served model only its name
    is known, which is a setting."""
    contents = {}
    for flag, server in (("model", "base_url"), ("tokenizer", None), ("judge", "judge_url"), ("verify", "judge_url")):
        if server and getattr(args, server, None):
            continue
        for name in (getattr(args, flag, None) or "").split(","):
            for path in (name, name.partition(":")[2]):  # as in prm:FOLDER
                if os.path.exists(path):
                    contents[f"--{flag} {path}"] = path_content(path)
    return contents


def run_stage(output, path, required, units, work, concurrency, per_row=1, each=None, unanswered=None):
    """Read rows, do the work of each, write what comes of it; returns the exit code.

    units(row) gives the units of an input row, each with its own `id`, `per_row` of them (for the progress bar);
    work(unit) is a coroutine that returns rows, those with a `drop` reason to be dropped. At most `concurrency`
    units are in flight. A unit that an earlier run finished is skipped. each(row) sees every kept row, those of an
    earlier run first; unanswered(unit) sees every unit that no answer came for. The first Ctrl-C ends the intake and
    finishes what is in flight (exit code 130), the second quits.
    """
    if output.units.total():
        inform(f"{output.stage}: {output.units.total()} rows are of an earlier run")
    code, rows = None, count_rows(path)
    try:
        for row in output.earlier_rows():
            if each:
                each(row)
        run = Run(output, work, each, unanswered, asyncio.Semaphore(concurrency), patience=2 * concurrency,
                  bar=progress_bar(output.stage, rows and per_row * rows, output.units.total()))
        code = asyncio.run(drive(run, path, required, units))
    except BrokenPipeError:
        code = 141
        raise
    finally:
        output.sync()
        if code != 0 and output.is_empty():
            output.remove_made()
        output.close_files()
        if code != 141:  # then nobody is listening
            inform(output.tally())
    if code == 0:
        refuse_unanswered(output)
    return code


async def drive(run, path, required, units):
    """Start a task for each unit, wait for them all, and return the exit code."""
    try:
        async with asyncio.TaskGroup() as group:  # what one of its tasks raises ends them all
            run.intake = group.create_task(take_in(run, path, required, units, group))
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt, run)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        run.bar.close()
    if run.fault:
        raise go_on_later(run.fault, run.output)
    if run.given_up:
        inform(f"{run.output.stage}: {run.given_up} given up; --resume asks them again")
    if run.interrupted:
        return 130
    if run.output.left_out():
        inform(f"{run.output.stage}: {run.output.left_out()} rows of the earlier run are not in this input; they stay")
    return 3 if run.given_up else 0


def go_on_later(error, output):
    """What ends a run, with the advice to resume it where that helps."""
    if error.code == 1 and output.has_saved() and "--resume" not in str(error):
        return UserError(f"{error}; what is done is saved, go on with --resume", error.code)
    return error


def refuse_unanswered(output):
    """UserError for a run none of whose questions was answered: it must not look like one that found nothing."""
    asked = output.units.total() - output.units[TWICE]
    if output.unanswered and len(output.unanswered) == asked:
        reasons = ", ".join(reason for reason in output.units if reason in output.refusals) or "see the dropped rows"
        raise UserError(f"no row was answered ({reasons}); change what is asked and name another --out")


async def new_units(run, path, required, units):
    """(id, unit) of what no earlier run finished. An id that stands twice is dropped the second time."""
    output, again = run.output, 0
    async for row in stream_rows(path, required):
        row.pop("drop", None)  # of the stage that dropped it, from whose dropped rows it was taken up again
        for unit in units(row):
            key, content = unit["id"], row_content(unit)
            state = output.meet(key, content)
            twice = state == "stands twice"
            while state == "stands twice":
                again += 1
                key = f"{unit['id']} (again {again})"
                state = output.meet(key, content)
            if state == "finished":
                if run.unanswered and hash(key) in output.unanswered:
                    run.unanswered(unit)
            elif twice:
                output.write(key, [{**unit, "drop": TWICE}])
            else:
                yield key, unit


async def take_in(run, path, required, units, group):
    """Start a task for each new unit as soon as there is room."""
    try:
        async for key, unit in new_units(run, path, required, units):
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
        if run.unanswered and hash(key) in run.output.unanswered:
            run.unanswered(unit)
        run.bar.update()
        await run.output.send_rows(rows)
    except Quit:
        interrupt(run)
    finally:
        run.room.release()


async def outcome(run, unit):
    """The rows that the work of a unit comes to; None when it is left undone for --resume."""
    try:
        rows, refusal = await run.work(unit), None
    except Refused as error:
        run.output.refusals.add(error.args[0])
        refusal = "".join(error.args[1:])
        rows = [{**unit, "drop": error.args[0], "detail": refusal}]
    except GaveUp as error:
        give_up(run, unit, error)
        return None
    except UserError as error:  # of the engine: no unit can be asked
        raise go_on_later(error, run.output) from error
    run.given_up_in_a_row = 0
    for row in rows:
        if refusal is not None or row.get("drop") == REFUSED:
            notice_refusal(run.output, row, row.get("verdict") if refusal is None else refusal)
    return rows


def give_up(run, unit, error):
    """Count a unit that is left undone. UserError when it is one of many in a row: the server is down."""
    inform(printable(f"{run.output.stage}: {unit['id']}: {error}"))
    if run.unanswered:
        run.unanswered(unit)
    run.given_up += 1
    run.given_up_in_a_row += 1
    if run.given_up_in_a_row > run.patience:
        raise UserError(f"{run.given_up_in_a_row} rows one after another were given up; see to the server, "
                        "then go on with --resume") from error


def notice_refusal(output, row, detail):
    """Show the first refusal of a kind; all are counted."""
    if not output.units[row["drop"]]:
        inform(printable(f"{output.stage}: {row['id']}: {row['drop']} {detail}"))


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
    try:
        return await output.recall(unit, key, ask)
    except Refused as error:  # a judge makes a verdict of it, which is no answer for all that
        output.refusals.add(error.args[0])
        raise
