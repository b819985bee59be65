"""What a shell, and an ordinary day, do to a program. Run alone: pytest tests/test_shell.py"""
import ast
import importlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import PROBLEMS, ROOT, served, start, to_lines, wait_for_rows

from stepdpo.command import UserError

STAGES = ["evaluate.py", "collect.py", "locate.py", "correct.py"]
ROWS = [{"id": f"p{i}", "prompt": "1 + 1?", "answer": "2", "completion": f"Step 1: 1 + 1 = {2 + i % 2}."}
        for i in range(6)]


def shell(command, folder, **env):
    """A command line of bash, in which $P is this Python and $R the project."""
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "P": sys.executable, "R": str(ROOT), **env})


# ------------------------------------------------------------------------------------------------------- help

@pytest.mark.parametrize("script", [*STAGES, "train.py"])
def test_help_is_whole_and_loads_nothing_heavy(script):
    """The docstring with its example and rows, the stage's own flags, then those that stages share."""
    look = ("import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", look, script], cwd=ROOT, capture_output=True, text=True, check=True)
    said, tree = done.stdout, ast.parse((ROOT / script).read_text())
    assert said.splitlines()[-1] == "[]"
    places = [said.index(text) for text in (f"python {script} --", "\nin: ", "\nout: ")]
    flags = [match.start() for match in re.finditer(r"^  --[a-z-]+", said, re.M)]
    assert max(places) < min(flags)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            assert any(keyword.arg == "help" for keyword in call.keywords), ast.unparse(call)
    if script != "train.py":
        own = [call.args[0].value for call in ast.walk(tree) if isinstance(call, ast.Call)
               and getattr(call.func, "attr", "") == "add_argument"]
        shared = [said.index(f"\n{group}:\n") for group in ("rows in and out", "asking a model")]
        assert all(said.index(f"\n  {flag} ") < min(shared) for flag in own)


def test_defaults_that_depend_say_on_what():
    for script in [*STAGES, "train.py"]:
        said = " ".join(subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True,
                                       text=True).stdout.split())
        assert "(default: None)" not in said
        if script == "locate.py":
            assert "0 is greedy (default: 0.8 for rollouts and for several --votes, else 0)" in said
        assert ("--prefix" in said) == (script in ("evaluate.py", "collect.py"))


# ---------------------------------------------------------------------------------------------- empty values

@pytest.mark.parametrize("script", [*STAGES, "train.py"])
def test_an_empty_value_is_refused(script, capsys):
    """`--model "$MODEL"` where MODEL is not set must not mean something else."""
    main = importlib.import_module(script.removesuffix(".py")).main
    with pytest.raises(SystemExit):
        main(["--help"])
    flags = re.findall(r"^  (--[a-z-]+) [A-Z{]", capsys.readouterr().out, re.M)
    needed = {"locate.py": ["--judge", "j"], "train.py": ["--model", "m", "--pairs", "p", "--out", "o"]}
    texts = 0
    for flag in {*flags} - {"--prefix"}:  # where empty means none
        for empty in ("", " "):
            with pytest.raises((UserError, SystemExit)) as refused:
                main([*needed.get(script, []), flag, empty])
            assert getattr(refused.value, "code", 0) == 2
            if isinstance(refused.value, UserError):
                assert str(refused.value) == (f"{flag} is empty (a variable that is not set?); give it a value or "
                                              "leave it out")
                texts += 1
            else:  # a number, or one of several words
                assert re.search(f"argument {flag}.*: invalid (int|float|choice)", capsys.readouterr().err)
    assert texts >= 10
    if script in STAGES:
        with pytest.raises(UserError, match="^FILE is empty"):
            main([*needed.get(script, []), ""])


# ------------------------------------------------------------------------------------------- standard streams

@pytest.mark.parametrize("command, stream", [
    ("$P $R/collect.py rows --dropped /dev/stdout > f", "stdout, where rows go"),
    ("$P $R/collect.py rows --dropped /dev/stdout | cat > f", "stdout, where rows go"),
    ("$P $R/collect.py rows --out o --dropped /dev/stdout | cat > f", "stdout, where rows go"),
    ("$P $R/collect.py rows --dropped /dev/stderr 2> >(cat >&2)", "stderr, where messages go"),
    ("$P $R/collect.py rows --out o --dropped ./o", "--out or its journal"),
    ("$P $R/collect.py rows --out o --dropped o.done", "--out or its journal")])
def test_dropped_rows_need_a_file_of_their_own(tmp_path, command, stream):
    (tmp_path / "rows").write_text(to_lines(ROWS))
    done = shell(f"set -o pipefail; {command}", tmp_path)
    assert done.returncode == 2 and f"is {stream}; name a file of its own" in done.stderr
    assert not (tmp_path / "f").exists() or (tmp_path / "f").read_text() == ""


def test_dropped_rows_may_go_to_another_stream(tmp_path):
    (tmp_path / "rows").write_text(to_lines(ROWS))
    done = shell("$P $R/collect.py rows --out o --dropped /dev/stdout > f; "
                 "$P $R/collect.py rows --dropped /dev/null > /dev/null", tmp_path)
    assert done.returncode == 0 and done.stderr.count("6 in, 3 kept, 3 dropped (right 3)") == 2
    assert [json.loads(line)["drop"] for line in open(tmp_path / "f")] == ["right"] * 3


@pytest.mark.parametrize("closed", ["2>&-", "2> /dev/full", "2> >(true)", "2>&- <&-", "<&- 2>&-"])
def test_messages_are_lost_before_rows_are(tmp_path, closed):
    """No message lands in a file of rows, whichever numbers the files get; and no row is lost with the messages."""
    (tmp_path / "rows").write_text(to_lines(ROWS))
    done = shell(f"$P $R/collect.py rows --keep all --out o {closed} > /dev/null; echo $?; "
                 f"$P $R/collect.py rows --keep all {closed} > f; echo $?", tmp_path)
    assert done.stdout == "0\n0\n" and done.stderr == ""
    for name in ("o", "f"):
        assert [json.loads(line)["correct"] for line in open(tmp_path / name)] == [True, False] * 3


def test_rows_that_cannot_go_out_end_the_run(tmp_path):
    (tmp_path / "rows").write_text(to_lines(ROWS))
    for to in (">&-", "> /dev/full"):
        done = shell(f"$P $R/collect.py rows --keep all {to}", tmp_path)
        assert done.returncode == 1 and "collect.py: stdout: " in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------- a start

@pytest.mark.parametrize("flags", [["--model", "/nowhere"], ["--model", "m", "--base-url", "http://127.0.0.1:9/v1"],
                                   ["--temperature", "-1"], []], ids=str)
def test_a_failed_start_leaves_nothing(run, tmp_path, tiny_model, flags):
    if "m" in flags:
        flags = [*flags, "--tokenizer", tiny_model]
    for own in (["--out", "o"], ["--dropped", "d"]):
        run("collect.py", *flags, *own, rows=PROBLEMS[:1], code=None)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "o").write_text("")
    run("collect.py", *flags, "--out", "o", rows=PROBLEMS[:1], code=None)
    assert list(tmp_path.iterdir()) == [tmp_path / "o"], "what was there before stays"


# ------------------------------------------------------------------------------------------- an ordinary day

DAYS = {
    "LC_ALL=C": "LC_ALL=C LANG=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $P $R/collect.py",
    "HOME unset": "env -u HOME $P $R/collect.py", "umask 077": "umask 077; $P $R/collect.py",
    "python -O": "$P -O $R/collect.py", "symlinked script": "ln -sf $R/collect.py link.py; $P link.py",
    "in the background": "nohup $P $R/collect.py",
}


@pytest.mark.parametrize("day", DAYS)
def test_an_ordinary_day_changes_nothing(tmp_path, day):
    """Paths with spaces and in other scripts, twice (with --resume): the same rows as ever."""
    folder = tmp_path / "данные и 数据 'x'"
    folder.mkdir()
    rows = [{**row, "prompt": "1 + 1 = ? \u4e00 caf\u00e9 \U0001f600"} for row in ROWS]
    (folder / "строки 行.jsonl").write_text(to_lines(rows))
    for resume in ("", "--resume"):
        done = shell(f"{DAYS[day]} 'строки 行.jsonl' --out 'o é' {resume} < /dev/null", folder)
        assert done.returncode == 0 and "6 in, 3 kept, 3 dropped" in done.stderr, done.stderr
    kept = [json.loads(line) for line in open(folder / "o é", encoding="utf-8")]
    assert len(kept) == 3 and kept[0]["prompt"] == rows[0]["prompt"]
    if day == "umask 077":
        assert os.stat(folder / "o é").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM] * 2, [signal.SIGHUP]], ids=str)
def test_a_terminated_run_is_taken_up(faulty, tiny_model, tmp_path, signals):
    if signal.getsignal(signals[0]) == signal.SIG_IGN:
        pytest.skip("SIGHUP is ignored here, as under nohup, and so the stage does not end")
    (tmp_path / "problems.jsonl").write_text(to_lines(PROBLEMS))
    permits = tmp_path / "permits"
    permits.write_bytes(b"." * 10)

    def collect(url, *flags):
        return start("collect.py", *served(tiny_model, url, "--keep", "all", "--concurrency", 4), "problems.jsonl",
                     "--out", "o", *flags, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    child = collect(faulty("--permits", permits))
    wait_for_rows(tmp_path / "o", 10)
    for number in signals:
        child.send_signal(number)
    child.communicate(timeout=300)
    assert child.returncode == -signals[0]
    child = collect(faulty(), "--resume")
    said = child.communicate(timeout=300)[1]
    assert "collect.py: 10 rows are of an earlier run" in said and "72 in, 72 kept" in said
