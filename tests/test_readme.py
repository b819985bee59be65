"""The commands, links and files that README.md and docs/ name. Run alone: pytest tests/test_readme.py"""
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("recipes/*.md"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def commands(page):
    """Lines that are indented by four spaces, continued ones joined."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def calls(page):
    """(script, the part of a command that runs it) of all commands on a page."""
    found = []
    for command in commands(page):
        for part in re.split(r"\||&&", command.split(" # ")[0]):
            for script in re.findall(r"(?:python|torchrun)\b[^|]*?\b((?:demo/)?\w+\.py)\b", part):
                if "-m pytest" not in part:
                    found.append((script, part))
    return found


CALLS = {(script, part, page.name) for page in PAGES for script, part in calls(page)}


def test_there_are_commands():
    stages = {"collect.py", "locate.py", "correct.py", "train.py", "evaluate.py"}
    assert len(CALLS) > 20 and stages <= {script for script, *_ in calls(ROOT / "README.md")}


@pytest.mark.parametrize("script", sorted({script for script, *_ in CALLS}))
def test_every_flag_of_a_command_exists(script):
    said = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
    for name, command, page in CALLS:
        if name == script:
            unknown = set(FLAG.findall(command.split(script, 1)[1])) - set(FLAG.findall(said))
            assert not unknown, (page, command, unknown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            if heading:
                lines = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
                anchors = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]
                assert heading in anchors, link
    assert "@@" not in text and "TODO" not in text


def test_the_tree_names_what_is_at_the_top():
    tree = re.search(r"(?s)\n    collect\.py .*?\n\n", README)[0]
    named = set(re.findall(r"(?m)^    (\S+) ", tree))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: what belongs to the project cannot be told from what lies beside it")
    folders = {line.split("/")[0] + "/" for line in tracked.stdout.splitlines() if "/" in line and line[0] != "."}
    assert named == folders | {path.name for path in ROOT.glob("*.py")}


def test_every_page_is_reached_from_the_readme():
    reached = set(re.findall(r"\]\(([^)#\s]+\.md)", README))
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT)) in reached, page


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.sh")))
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
