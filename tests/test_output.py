"""A stage's files and the journal by which a run is taken up. Run alone: pytest tests/test_output.py"""
import asyncio
import json
import os
import re
import subprocess
import sys
import tracemalloc

import pytest
from conftest import ROOT

from stepdpo import progress
from stepdpo.command import UserError
from stepdpo.output import Output
from stepdpo.progress import progress_bar
from stepdpo.rows import format_row

ENDS = {"out": "", "dropped": ".dropped.jsonl", "journal": ".done"}


def units(n):
    return [{"id": str(i), "text": "x" * (i % 7)} for i in range(n)]


def write(path, todo, resume=False):
    """Run a stage that drops every third unit and makes two rows of each other one; returns its tally."""
    output = Output("stage", str(path), resume=resume, settings={"seed": 1})
    for unit in todo:
        if output.meet(unit["id"], unit["text"]) == "ask":
            lost = int(unit["id"]) % 3 == 0
            output.write(unit["id"], [{**unit, "drop": "why"}] if lost else [unit, {**unit, "twin": 1}])
    output.close_files()
    return output.tally()


def read_files(path):
    return {name: (path.parent / (path.name + end)).read_bytes() for name, end in ENDS.items()}


def write_files(path, files):
    for name, data in files.items():
        (path.parent / (path.name + ENDS[name])).write_bytes(data)


@pytest.fixture
def whole(tmp_path):
    """(files, tally) of a run that nothing interrupted."""
    tally = write(tmp_path / "whole", units(20))
    assert tally == "stage: 20 in, 13 kept, 7 dropped (why 7); 26 rows written"
    return read_files(tmp_path / "whole"), tally


def test_a_run_killed_at_any_byte_is_taken_up(tmp_path, monkeypatch, whole):
    """All that was written, in its order, cut anywhere: that is what a kill leaves."""
    files, tally = whole
    written, write_bytes = [], os.write

    def record(file, data):
        written.append((os.readlink(f"/proc/self/fd/{file}"), bytes(data)))
        return write_bytes(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", record)
        write(tmp_path / "again", units(20))
    total = sum(len(data) for _, data in written)
    for cut in range(0, total, 11):
        left, rest = dict.fromkeys(ENDS, b""), cut
        for path, data in written:
            name = next(name for name in ("journal", "dropped", "out") if path.endswith(ENDS[name]))
            left[name] += data[:rest]
            rest = max(0, rest - len(data))
        path = tmp_path / f"killed-{cut}"
        write_files(path, left)
        assert write(path, units(20), resume=True) == tally
        assert read_files(path) == files


@pytest.mark.parametrize("name", ["out", "dropped"])
def test_rows_that_a_power_failure_took_are_asked_again(tmp_path, whole, name, capsys):
    files, tally = whole
    for cut in range(0, len(files[name]), 37):
        path = tmp_path / f"cut-{cut}"
        write_files(path, {**files, name: files[name][:cut]})
        if cut == 0:  # no failure takes a whole file that was synced: it was removed, or --dropped names another
            with pytest.raises(UserError, match="is missing or empty, and the journal .* knows rows in it"):
                write(path, units(20), resume=True)
            assert read_files(path) == {**files, name: b""}
        else:
            assert write(path, units(20), resume=True) == tally
            assert read_files(path) == files
            said = capsys.readouterr().err  # of the last unit alone a kill leaves as much
            assert re.search(r"stage: \d+ units are asked again", said) or cut > len(files[name]) - 80


@pytest.mark.parametrize("name", ["out", "dropped"])
def test_lines_that_the_journal_does_not_know_are_never_cut(tmp_path, whole, name):
    """They were added by hand, or the journal lost its end: refused, with what to do about it."""
    files, tally = whole
    path = tmp_path / "the rows"
    for added in ({name: files[name] + b'{"id": "mine"}\n'}, {name: files[name] + b'{"id"'},
                  {"journal": files["journal"][:-100]}, {"journal": files["journal"].splitlines(keepends=True)[0]}):
        write_files(path, files | added)
        with pytest.raises(UserError, match="holds more than the [0-9]+ bytes that its journal .*rows.done knows"
                           ) as refused:
            write(path, units(20), resume=True)
        assert read_files(path) == files | added
        error = refused.value
        while error:  # the advice helps, for one file after the other
            subprocess.run(["bash", "-c", str(error).split("then run: ")[1]], check=True)
            try:
                error = None
                assert write(path, units(20), resume=True) == tally
            except UserError as another:
                error = another
        assert read_files(path) == files


BAD_JOURNAL = [b"garbage\n", b"{}\n", b"[]\n", b"\xff\n", b"\n", b'{"unit": 1}\n', b"[" * 10**5 + b"\n",
               b'{"unit": "a", "content": "", "drop": null, "kept": 1, "out": -5, "dropped": 0}\n',
               b'{"unit": "a", "content": "", "drop": null, "kept": 1, "out": "5", "dropped": 0}\n']


@pytest.mark.parametrize("line", BAD_JOURNAL, ids=lambda line: repr(line[:20]))
@pytest.mark.parametrize("place", [0, 5, 20])
def test_a_damaged_journal_is_one_line(tmp_path, whole, line, place):
    files, _ = whole
    lines = files["journal"].splitlines(keepends=True)
    damaged = {**files, "journal": b"".join([*lines[:place], line, *lines[place + 1:]])}
    write_files(tmp_path / "rows", damaged)
    with pytest.raises(UserError, match=f"rows.done:{place + 1}: not a line of a journal of this version; put the"):
        write(tmp_path / "rows", units(20), resume=True)
    assert read_files(tmp_path / "rows") == damaged


def test_rows_without_a_journal_are_refused(tmp_path, whole):
    files, tally = whole
    for cut in (0, 20):  # of the head
        write_files(tmp_path / "rows", {**files, "journal": files["journal"][:cut]})
        with pytest.raises(UserError, match="rows: has rows but no journal"):
            write(tmp_path / "rows", units(20), resume=True)
        write_files(tmp_path / "dropped", {"dropped": files["dropped"], "journal": files["journal"][:cut]})
        with pytest.raises(UserError, match="dropped.dropped.jsonl: has rows but no journal"):
            write(tmp_path / "dropped", units(20), resume=True)
        assert (tmp_path / "dropped.dropped.jsonl").read_bytes() == files["dropped"]
    write_files(tmp_path / "rows", {"out": b"", "dropped": b"", "journal": files["journal"][:20]})
    assert write(tmp_path / "rows", units(20), resume=True) == tally, "killed while it wrote the head"


def test_output_refuses_what_would_do_damage(tmp_path):
    path = str(tmp_path / "rows.jsonl")
    Output("stage", path, settings={"seed": 1}).write("a", [{"id": "a"}])
    with pytest.raises(UserError, match="exists; go on with --resume"):
        Output("stage", path)
    with pytest.raises(UserError, match="another process is writing it"):
        Output("stage", path, resume=True, settings={"seed": 1})
    another = ("import sys; from stepdpo.output import Output\n"
               "Output(%r, sys.argv[1], resume=True, settings={'seed': %d})")
    for stage, seed, said in (("stage", 2, ""), ("stage", 3, "made with another --seed; resume with the same settings"),
                              ("other", 2, "made by stage; name another --out")):
        done = subprocess.run([sys.executable, "-c", another % (stage, seed), path + "2"], cwd=ROOT,
                              capture_output=True, text=True)
        assert said in done.stderr and bool(done.returncode) == bool(said)
    with pytest.raises(UserError, match="--resume needs --out FILE"):
        Output("stage", resume=True)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="no/folder: no such folder; make it"):
        Output("stage", str(tmp_path / "no" / "folder" / "rows"))
    with pytest.raises(UserError, match="no/folder: no such folder; make it"):
        Output("stage", str(tmp_path / "new"), str(tmp_path / "no" / "folder" / "rows"))
    assert sorted(tmp_path.iterdir()) == before, "a failed start leaves nothing"
    kept = Output("stage", dropped=str(tmp_path / "dropped"))  # a pipe's dropped rows have a lock, too
    with pytest.raises(UserError, match="another process is writing it"):
        Output("stage", dropped=str(tmp_path / "dropped"))
    kept.write("a", [{"id": "a", "drop": "all are"}])
    with pytest.raises(UserError, match="dropped: exists"):  # though no row was kept
        Output("stage", dropped=str(tmp_path / "dropped"))


def test_output_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    output = Output("stage", str(path))
    for unit in units(5):
        output.write(unit["id"], [{**unit, "text": "x" * int(unit["id"])}])
    output.close_files()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(UserError, match="rows.jsonl: was edited since its journal"):
        Output("stage", str(path), resume=True)
    assert path.read_bytes() == b"".join(lines[:1] + lines[2:])


def test_dropped_rows_may_be_thrown_away(tmp_path):
    for todo in (["a"], ["a", "b"]):
        output = Output("stage", str(tmp_path / "rows"), "/dev/null", resume=len(todo) > 1)
        for unit in todo:
            if output.meet(unit, "") == "ask":
                output.write(unit, [{"id": unit, "drop": "why"}])
        output.close_files()
        assert output.tally() == f"stage: {len(todo)} in, 0 kept, {len(todo)} dropped (why {len(todo)})"


@pytest.mark.parametrize("which", ["out", "dropped", "journal"])
def test_a_unit_that_cannot_be_written_whole_is_taken_back(tmp_path, monkeypatch, which):
    """The disk is full in the middle of a line; what other tasks then still write must not stand behind half a line."""
    output = Output("stage", str(tmp_path / "rows"))
    output.write("a", [{"id": "a"}])
    write_bytes, full = os.write, output.files[which]

    def half(file, data):
        if file == full:
            if len(data) < 10:
                raise OSError(28, "No space left on device")
            data = data[:-5]
        return write_bytes(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(UserError, match="rows: No space left on device; what is there is kept, make room"):
            output.write("b", [{"id": "b", "text": "long enough"} | ({"drop": "why"} if which == "dropped" else {})])
        if which == "journal":
            with pytest.raises(UserError, match="No space left"):
                asyncio.run(output.recall("c", 1, lambda: asyncio.sleep(0, ["a reply"])))
    output.write("d", [{"id": "d"}])
    output.close_files()
    again = Output("stage", str(tmp_path / "rows"), resume=True)
    assert [again.meet(unit, "") for unit in "abcd"] == ["finished", "ask", "ask", "finished"]
    assert (tmp_path / "rows").read_text() == '{"id": "a"}\n{"id": "d"}\n'


def test_advice_fits_the_fault(tmp_path, monkeypatch):
    output = Output("stage", str(tmp_path / "rows"))

    def broken(file, data):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(UserError, match="Input/output error; what is there is kept, see to the disk and go on"):
        output.write("b", [{"id": "b"}])


def test_a_unit_can_be_taken_out_again(tmp_path):
    output = Output("stage", str(tmp_path / "rows"))
    for unit in "abc":
        output.meet(unit, unit)
        output.write(unit, [{"id": unit, "drop": "why"} if unit == "b" else {"id": unit}])
    assert not output.undo("a"), "only the last"
    assert output.undo("c") and output.undo("b")
    output.write("b", [{"id": "b"}])
    assert output.tally() == "stage: 2 in, 2 kept, 0 dropped"
    output.close_files()
    again = Output("stage", str(tmp_path / "rows"), resume=True)
    assert [again.meet(unit, unit) for unit in "abc"] == ["finished", "finished", "ask"]


def test_replies_of_an_unfinished_unit_are_not_asked_for_again(tmp_path):
    asked = []

    async def ask():
        asked.append(1)
        return ["text", "stop"]

    def reply_to(unit, content, resume):
        output = Output("stage", str(tmp_path / "rows"), resume=resume)
        assert output.meet(unit, content) == "ask"
        reply = asyncio.run(output.recall(unit, 7, ask))
        output.close_files()
        return reply

    assert reply_to("a", "x", False) == ["text", "stop"] == reply_to("a", "x", True) and len(asked) == 1
    reply_to("a", "y", True)
    assert len(asked) == 2, "another question under that id"
    assert json.loads((tmp_path / "rows.done").read_text().splitlines()[1])["reply"] == ["text", "stop"]


def test_memory_is_flat(tmp_path):
    """About 100 bytes for each unit that is finished, however long its id and its rows are."""
    n, path = 20_000, tmp_path / "rows"
    Output("stage", str(path)).close_files()
    with open(tmp_path / "rows.done", "ab") as journal:
        for i in range(n):
            journal.write(format_row({"unit": f"{i}" * 20, "content": f"{i:016x}", "drop": "why", "answered": True,
                                      "kept": 0, "out": 0, "dropped": 0}))
    tracemalloc.start()
    output = Output("stage", str(path), resume=True)
    assert all(output.meet(f"{i}" * 20, f"{i:016x}") == "finished" for i in range(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / n < 130 and output.units.total() == n


def test_a_log_gets_a_line_a_minute(capsys, monkeypatch):
    """Short work leaves a log as it is; of long work it says how far it is, and how long the rest will take."""
    with progress_bar("collect.py", 4) as bar:
        bar.update()
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "PAUSE", 0)
    with progress_bar("collect.py", 4, done=1) as bar:
        bar.update(2)
    with progress_bar("collect.py", 4, quiet=True) as bar:
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("collect.py:  25% 1/4") and lines[1].startswith("collect.py:  75% 3/4 [00:00<00:00")
    assert all("4/4" not in line and "\r" not in line for line in lines)
