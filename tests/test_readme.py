"""The README's commands, files and figures. Run alone: pytest tests/test_readme.py"""
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in re.sub(r"\\\n\s*", " ", README).splitlines() if line.startswith("    ")]
CALLS = [(script, part) for command in COMMANDS for part in re.split(r"\||&&", command.split(" # ")[0])
         for script in re.findall(r"(?:python|torchrun)\b[^|]*?\b((?:demo/)?\w+\.py)\b", part)]


def test_there_are_commands():
    stages = {"collect.py", "locate.py", "correct.py", "train.py", "evaluate.py"}
    assert len(CALLS) > 10 and stages <= {script for script, _ in CALLS}


@pytest.mark.parametrize("script", sorted({script for script, _ in CALLS}))
def test_every_flag_of_a_command_exists(script):
    said = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said))
    for name, command in CALLS:
        if name == script:
            used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", command.split(script, 1)[1]))
            assert used <= known, (command, used - known)


def test_the_tree_names_every_file():
    tree = re.search(r"(?s)\n    collect\.py .*?\n\n", README)[0]
    named = set(re.findall(r"(?m)^    (\S+) ", tree))
    assert {path.name for path in ROOT.glob("*.py")} | {"demo/", "tests/"} == named


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.sh")))
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_nothing_is_left_open():
    assert "@@" not in README and "TODO" not in README
