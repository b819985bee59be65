"""JSONL rows in and out. Run alone: pytest tests/test_rows.py"""
import bz2
import gzip
import json
import lzma
import os
import re
import subprocess

import pytest

from stepdpo import rows as rows_module
from stepdpo.command import UserError
from stepdpo.rows import append_bytes, count_rows, format_row, read_rows

BAD_LINES = {
    b'{"prompt": "p", "answer": "1"\n': "in.jsonl:1: not JSON",
    b'{"prompt": "p", "answer": "1"}\n[1]\n': "in.jsonl:2: a list, not a JSON object",
    b'{"answer": "1"}\n': "in.jsonl:1: no 'prompt'", b'{"prompt": 3, "answer": "1"}\n': "'prompt' is 3, not a string",
    b'{"prompt": "p"}\n': "no 'answer'", b"": "in.jsonl: no rows", b"\n\n": "in.jsonl: no rows",
    b'{"prompt": "p", "answer": ["1", "2"]}\n': "'answer' is [\"1\", \"2\"], neither a string nor a number nor",
    b'{"prompt": "p", "answer": {"x": 1}}\n': "'answer' is {\"x\": 1}, neither", b'"' + b"[" * 100_000: "not JSON",
    b'{"prompt": "p", "answer": true}\n': "'answer' is true, neither",
    b'{"prompt": "p", "answer": ""}\n': "'answer' is \"\", which is empty",
    b'{"prompt": "p", "answer": [" "]}\n': "'answer' is [\" \"], which is empty",
    b'{"prompt": "p", "answer": "1", "x": NaN}': "not JSON (NaN is no finite number)",
    b'{"prompt": "p", "answer": -1e999}': "not JSON (-1e999 is no finite number)",
    b"1" * 10_000 + b"\n": "not JSON", b'{"prompt": "p", "answer": null}': "'answer' is null, neither",
    b'{"prompt": "p", "answer": "1", "x": ' + b"[" * 500 + b"]" * 500 + b"}": "nested more than 100 deep",
    '{"prompt": "caf\u00e9", "answer": "1"}'.encode("latin-1"): "in.jsonl:1: not UTF-8 (byte 16 is 0xe9); convert",
}


@pytest.mark.parametrize("data", BAD_LINES, ids=lambda data: repr(data[:20]))
def test_bad_lines_name_place_and_fact(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=re.escape(BAD_LINES[data])):
        list(read_rows("in.jsonl", ("prompt", "answer")))


def test_a_missing_field_names_the_stage_that_makes_it(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(b'{"prompt": "p", "completion": null}')
    with pytest.raises(UserError, match="no 'chosen'; run correct.py first"):
        list(read_rows(str(tmp_path / "in.jsonl"), ("prompt", "chosen")))
    with pytest.raises(UserError, match="'completion' is null, not a string"):
        list(read_rows(str(tmp_path / "in.jsonl"), ("prompt", "completion")))
    assert list(read_rows(str(tmp_path / "in.jsonl"), ("prompt",))), "one that is null may still be asked for"


ROWS = [{"id": "a", "prompt": "caf\u00e9", "answer": "1"}, {"id": "b", "prompt": "p", "answer": [5]}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
PACKED = {"gzip": gzip.compress(LINES.encode()), "bzip2": bz2.compress(LINES.encode()),
          "xz": lzma.compress(LINES.encode()), "UTF-16": LINES.encode("utf-16"), "UTF-32": LINES.encode("utf-32"),
          "UTF-16 without its mark": LINES.encode("utf-16-le"), "UTF-16 of the other kind": LINES.encode("utf-16-be"),
          "a JSON array": json.dumps(ROWS).encode(), "a JSON array, indented": json.dumps(ROWS, indent=1).encode()}


@pytest.mark.parametrize("kind", PACKED)
def test_another_format_is_named_with_the_command_that_converts_it(tmp_path, monkeypatch, kind):
    """And the command does: what it makes are the rows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in put.jsonl").write_bytes(PACKED[kind])
    with pytest.raises(UserError, match=f"in put.jsonl: {kind[:6]}.*, not JSON lines; convert it: ") as error:
        list(read_rows("in put.jsonl", ("prompt", "answer")))
    subprocess.run(["bash", "-c", str(error.value).split("convert it: ")[1]], check=True)
    assert list(read_rows("converted.jsonl", ("prompt", "answer"))) == ROWS


def test_rows_get_an_id_and_keep_their_answer(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"answer": ["7"]}\n\n{"id": 5, "answer": 3}\n'
                     b'{"answer": " x\xe2\x80\xa8y", "id": "a"}\n{"id": null, "answer": [0.50]}')
    rows = list(read_rows(str(path), ("answer",)))
    assert [(row["id"], row["answer"]) for row in rows] == [("1", ["7"]), ("5", 3), ("a", " x\u2028y"), ("5", [0.5])]


def test_no_rows_are_a_mistake_in_a_file_and_none_in_a_pipe():
    child = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    assert list(read_rows(f"/dev/fd/{child.stdout.fileno()}")) == []
    child.wait()
    child.stdout.close()
    with pytest.raises(UserError, match="/dev/null: no rows"):
        list(read_rows("/dev/null"))


def test_time_is_linear_in_the_length_of_a_line(tmp_path, monkeypatch):
    """What is copied is counted, not timed: each byte of a long line is read once and joined once."""
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "' + b"x" * (3 << 20) + b'"}\n{"id": "b"}\n')
    monkeypatch.setattr(rows_module, "CHUNK", 1 << 12)
    joined = []

    class Piece(bytes):
        def split(self, sep):
            joined.append(len(self))
            return [Piece(part) for part in bytes.split(self, sep)]

    read = os.read
    monkeypatch.setattr(os, "read", lambda file, n: Piece(read(file, n)))
    rows = list(read_rows(str(tmp_path / "in.jsonl")))
    assert len(rows[0]["id"]) == 3 << 20 and rows[1]["id"] == "b"
    assert sum(joined) == os.path.getsize(tmp_path / "in.jsonl")


def test_a_line_that_is_no_record_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_LINE", 1 << 20)
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "a"}\n' + b"x" * (3 << 20))
    rows = read_rows(str(tmp_path / "in.jsonl"))
    assert next(rows) == {"id": "a"}
    with pytest.raises(UserError, match="in.jsonl:2: a line of more than 1 MiB"):
        next(rows)


def test_rows_are_counted_only_where_the_count_is_sure(tmp_path, monkeypatch):
    """A line that ends the run later does not end it before the rows above it are worked on."""
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "a"}\n\n{"id": "b"}')
    assert count_rows(str(tmp_path / "in.jsonl")) == 2
    monkeypatch.setattr(rows_module, "MAX_LINE", 5)
    assert [count_rows(path) for path in (str(tmp_path / "in.jsonl"), str(tmp_path), str(tmp_path / "none"), "-")] == [
        None, None, None, None]


def test_any_text_makes_one_valid_line():
    row = {"a": "\ud800 \u2028\u2029\x85 \x00 \n\r \U0001f600 \u00e9"}
    line = format_row(row)
    assert json.loads(line) == row and line.count(b"\n") == 1 and len(line.decode().splitlines()) == 1


def test_what_a_pipe_takes_in_pieces_arrives_whole(monkeypatch):
    data, taken = bytes(range(256)) * 4096, []

    def some(file, rest):
        taken.append(bytes(rest[:1000]))
        return len(taken[-1])

    monkeypatch.setattr(os, "write", some)
    append_bytes(7, data)
    assert b"".join(taken) == data
    append_bytes(None, data)
