"""The demo's world: splits, truth, labels, slips, tokenizer and model folder.

    python -m pytest -q tests/test_demo.py
"""
import json
import os
import pty
import random
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT

import locate
from demo import cells, kinds, lab, pairs, picture, problems, report, reproduce, studies, table, world
from demo.files import load_rows, save_rows
from stepdpo.command import UserError
from stepdpo.prompts import encode_step, render_prompt
from stepdpo.steps import split_steps
from stepdpo.task import PREFIX

# told in another way than world.py tells it: by what the sentences say
DOES = {"+": r"buys|brings|arrive", "-": r"gives away|get lost|are sold", "×": r"swaps each|as many|its size",
        "÷": r"equal parts|equal boxes|share stays"}


def solve(prompt):
    """The answer of a story, read sentence by sentence."""
    opening, *acts, question = re.findall(r"[^.?]+[.?]", prompt)
    value = int(re.search(r"\d+", opening)[0])
    for act in acts:
        b, = map(int, re.findall(r"\d+", act))
        operation, = (o for o, says in DOES.items() if re.search(says, act))
        value = {"+": value + b, "-": value - b, "×": value * b, "÷": value / b}[operation]
        assert value == int(value) and 10 <= value <= 99, act
    limit = re.findall(r"\d+", question)
    return str(int(value)) if not limit else "yes" if value > int(limit[0]) else "no"


@pytest.fixture(scope="module")
def splits():
    return {split: world.problems("number", split, 800, seed) for seed, split in enumerate(world.BUCKETS)}


@pytest.fixture(scope="module", params=world.WORLDS)
def slipping(request):
    return world.problems(request.param, "sft", 1500, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    world.write_model_folder(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(folder)


def test_splits_share_no_problem_whatever_the_seed(splits):
    texts = [{row["prompt"] for row in rows} for rows in splits.values()]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 4 * 800
    other = {row["prompt"] for row in world.problems("number", "sft", 1500, seed=9)}
    assert not other & texts[list(splits).index("test")]


def test_rows_come_from_identity(splits):
    assert world.problems("number", "sft", 20, seed=list(splits).index("sft")) == splits["sft"][:20]


def test_written_files(tmp_path):
    world.main(["--out", str(tmp_path), "--sft", "30", "--train", "20", "--validation", "10", "--test", "10"])
    for split, count in (("sft", 30), ("train", 20), ("validation", 10), ("test", 10)):
        rows = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").open(encoding="utf-8")]
        assert len(rows) == len({row["id"] for row in rows}) == count
        assert all(isinstance(row[name], str) for row in rows
                   for name in ("id", "dataset", "prompt", "answer", "solution"))


def test_answers_and_solutions_are_true(splits):
    for rows in splits.values():
        for row in rows:
            equations, limit = world.truth(row["prompt"])
            assert row["answer"] == solve(row["prompt"]) == world.answer_to(equations[-1][-1], limit)
    for row in splits["test"]:
        assert row["solution"].endswith(f"\nThe answer is: {row['answer']}")
        assert world.first_wrong_step(row["prompt"], row["solution"]) is None
        parts = split_steps(row["solution"])
        assert len(parts) == row["level"] + 1 and row["solution"].startswith(PREFIX)


def test_planted_slips_are_labelled_and_propagate(slipping):
    assert 0.3 < sum(row["bad_step"] is not None for row in slipping) / len(slipping) < 0.95
    for row in slipping:
        assert row["answer"] == solve(row["prompt"])
        assert world.first_wrong_step(row["prompt"], row["solution"]) == row["bad_step"]
        stated = [tuple(map(int, (a, b, c))) for a, _, b, c in world.EQUATION.findall(row["solution"])]
        assert len(stated) == row["level"]
        assert all(before[2] == after[0] for before, after in zip(stated, stated[1:]))  # goes on from what it wrote


def test_slip_rates(slipping):
    needed, forgotten = {"+": 0, "-": 0}, {"+": 0, "-": 0}
    for row in slipping:
        for a, operation, b, result in world.EQUATION.findall(row["solution"]):
            a, b, result = int(a), int(b), int(result)
            slip, true = world.slipped(a, operation, b), world.compute(a, operation, b)
            assert result in (slip, true)
            if slip != true:
                needed[operation] += 1
                forgotten[operation] += result == slip
    for operation, rate in world.FORGETS.items():
        assert abs(forgotten[operation] / needed[operation] - rate) < 0.06  # 3 standard errors or more


STORY = "Ann has 60 books. In January Ann buys 15 more. In February 20 get lost. By March there are 2 times as many. " \
        "How many books does Ann have now?"  # 75, 55, 110


@pytest.mark.parametrize("steps, answer, label", [
    (["60 + 15 = 75", "75 - 20 = 55", "55 × 2 = 110"], "110", None),
    (["15 + 60 = 75", "75 - 20 = 55", "2 × 55 = 110"], "110", None),  # another order of operands
    (["60 + 15 = 65", "65 - 20 = 45", "45 × 2 = 90"], "90", 1),  # a carry forgotten
    (["60 + 15 = 75", "75 - 20 = 65", "65 × 2 = 130"], "110", 2),  # a right answer after a wrong step
    (["60 + 15 = 75", "20 - 75 = 55", "55 × 2 = 110"], "110", 2),  # operands of - the wrong way round
    (["60 + 15 = 75", "75 - 25 = 50", "50 × 2 = 100"], "100", 2),  # true, but not this story
    (["60 + 15 = 75", "75 - 20 = 55", "55 × 2 = 110"], "100", 3),  # the closing line belongs to the last step
    (["60 + 15 = 75", "75 - 20 = 55"], "55", 2),  # ends too early
    (["60 + 15 = 75", "75 - 20 = 55", "55 × 2 = 110", "110 + 1 = 111"], "111", 4),  # one too many
    (["60 + 15 = 75", "nothing", "55 × 2 = 110"], "110", 2),
    ([], "110", 1),
])
def test_first_wrong_step(steps, answer, label):
    lines = [f"\nStep {k}: So {text}." for k, text in enumerate(steps, 1)]
    assert world.first_wrong_step(STORY, world.solution_text(lines, int(answer), None)) == label


@pytest.mark.parametrize("end, label", [
    (" Compare 75 with 70.\nThe answer is: yes", None), (" Compare 75 with 70.\nThe answer is: no", 1),
    (" Compare 75 with 79.\nThe answer is: yes", None), ("\nThe answer is: yes and no", 1)])
def test_decisions_belong_to_the_last_step(end, label):
    story = "Ann has 60 books. In January Ann buys 15 more. Does Ann now have more than 70 books?"
    assert world.first_wrong_step(story, "Let's think step by step.\nStep 1: So 60 + 15 = 75." + end) == label


def test_label(tmp_path, capsys, splits):
    answers = [{**row, "completion": row["solution"]} for row in splits["sft"][:50]]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({**row, "bad_step": 9}) + "\n" for row in answers))
    world.main(["--label", str(path)])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == answers


def test_known_text_round_trips_in_few_tokens(tokenizer, slipping):
    spelt_in_bytes = len(world.SPECIAL) + 256  # ids below are special tokens and bytes
    single = set("0123456789.?\n ")
    for row in slipping:
        text = render_prompt(tokenizer, row["prompt"], "chat", row["solution"])
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert all(i >= spelt_in_bytes or i < len(world.SPECIAL) or tokenizer.decode([i]) in single for i in ids)


def test_steps_begin_and_end_on_the_edge_of_a_token(tokenizer, slipping):
    for row in slipping[:300]:
        whole = tokenizer(row["solution"]).input_ids
        preamble, *steps = split_steps(row["solution"])
        for k in range(1, len(steps)):
            prefix = preamble + "".join(steps[:k]) + f"Step {k + 1}:"
            step = steps[k].removeprefix(f"Step {k + 1}:").rstrip()
            ids, joint = encode_step(tokenizer, prefix + step, step)
            assert ids == whole[:len(ids)] and tokenizer.decode(ids[:joint]) == prefix


@pytest.mark.parametrize("text", ["Jané’s 🦆 lay 3.5\r\n", "Step 99: \\boxed{x}\t\x00", "日本", "<|user|>", " "])
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_random_text_round_trips(tokenizer):
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0xD7FF), 10])) for _ in range(40))
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_model_is_small(folder):
    from transformers import AutoConfig, AutoModelForCausalLM
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    count = sum(p.numel() for p in model.parameters())
    assert 300_000 < count < 500_000  # below 1 MB in bf16
    assert model.config.vocab_size > max(model.generation_config.eos_token_id, 300)


# ------------------------------------------------------------------------------------------ the run: settings, phases

def bash(*words, **env):
    return subprocess.run(["bash", *map(str, words)], capture_output=True, text=True, cwd=ROOT,
                          stdin=subprocess.DEVNULL,
                          env={**os.environ, **env})


@pytest.mark.parametrize("made_with, env, says", [
    ("WORLD=number\nSEED=0\n", {"WORLD": "decision"}, "was begun with WORLD=number (now WORLD=decision )"),
    ("WORLD=number\nSEED=0\n", {"SEED": "1"}, "was begun with SEED=0 (now SEED=1 )"),
    ("WORLD=number\nSEED=0 --from-scratch\n", {}, "was begun with SEED=0 --from-scratch (now SEED=0 )"),
    ("WORLD=number\nSEED=0\n", {}, "was made before a change of loss.py;"),
    (None, {}, "is not empty, and holds no run that is known;"),
    (None, {"WORLD": "words"}, "WORLD=words: is number or decision"),
    (None, {"SEED": "one"}, "SEED=one: is a whole number"),
])
def test_a_folder_keeps_to_its_settings_and_its_code(tmp_path, made_with, env, says):
    """What is there is neither printed as the result of another run nor overwritten."""
    (tmp_path / "table.txt").write_text("an old table")
    if made_with:
        (tmp_path / "settings.txt").write_text(made_with)
        files = [*ROOT.glob("*.py"), *ROOT.glob("stepdpo/*.py"), *ROOT.glob("judges/*.py"), ROOT / "demo/world.py",
                 ROOT / "demo/run.sh", *ROOT.glob("demo/policy/*")]
        names = sorted(path.relative_to(ROOT).as_posix() for path in files)
        sums = subprocess.run(["bash", "-c", "cksum -- *.py stepdpo/*.py judges/*.py demo/world.py demo/run.sh "
                               "demo/policy/*"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert sorted(line.split()[2] for line in sums.splitlines()) == names
        (tmp_path / "code.txt").write_text(re.sub(r"\d+ \d+ loss.py", "1 1 loss.py", sums))
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    done = bash("demo/run.sh", tmp_path, **env)
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr and done.stderr.count("\n") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


PHASES = """
set -euo pipefail
out={out}
. demo/phases.sh
keep_to "N=2"
for n in 1 2; do expect round-$n/ask; mkdir -p $out/round-$n; done
expect train 10
for n in 1 2; do phase round-$n/ask bash -c "echo asked $n >> {out}/done"; done
printf 'train\t20\n' >> $out/times.tsv
forecast round-1/ask train
show_times
phase bad bash -c 'echo a fault >&2; exit 7'
"""


def test_phases_run_once_and_say_what_to_expect(tmp_path):
    script = PHASES.format(out=tmp_path)
    for _ in range(2):
        done = bash("-c", script)
        assert done.returncode == 7 and done.stderr.rstrip().endswith("a fault")
        assert (tmp_path / "done").read_text() == "asked 1\nasked 2\n"
        (tmp_path / "times.tsv").write_text("round-1/ask\t60\nround-2/ask\t30\n")
    # the last finished one of a name tells the next; a phase known from elsewhere takes as much longer as others did
    assert done.stdout.splitlines() == ["50", "phase                       time   share",
                                        "round-1/ask                 1:00    54 %",
                                        "round-2/ask                 0:30    27 %",
                                        "train                       0:20    18 %", "all                         1:50"]
    assert "about" not in bash("-c", script.replace("N=2", "N=3")).stderr


def test_a_terminal_shows_the_phase_and_what_its_stage_last_said(tmp_path):
    script = f"""out={tmp_path}; . demo/phases.sh; expect ask
        phase ask bash -c "echo 'collect.py:  25% 1/4 [00:05<00:15, 1it/s]' >&2; until [ -e {tmp_path}/seen ]; do
            sleep 0.1; done" """
    screen, terminal = pty.openpty()
    running, line = subprocess.Popen(["bash", "-c", script], cwd=ROOT, stderr=terminal), ""
    os.close(terminal)
    for _ in range(200):  # the line comes anew every second
        line += os.read(screen, 1000).decode()
        if re.search(r"ask \(1 of 1\) \d:\d\d; collect.py:  25% 1/4 \[00:05<00:15\]", line):
            break
    else:
        running.terminate()
        raise AssertionError(line)
    (tmp_path / "seen").touch()
    assert running.wait(60) == 0 and (tmp_path / "times.tsv").read_text().startswith("ask\t")


STUB = """#!/usr/bin/env bash
echo "$(basename "$1") $@" >> {log}
cat > /dev/null
while [ $# -gt 0 ]; do [ "$1" = --out ] && touch "$2"; shift; done
echo 'all 10 50.0 %' >&2
"""


def test_rounds_on_any_model_and_task(tmp_path):
    """Each round's policy asks, is the reference, is tested; all stages have one prompt; a second run does nothing."""
    log, stub = tmp_path / "log", tmp_path / "stub"
    stub.write_text(STUB.format(log=log))
    stub.chmod(0o755)
    (tmp_path / "problems.jsonl").write_text("1\n2\n3\n4\n")
    (tmp_path / "test.jsonl").write_text("5\n")
    env = {"PYTHON": str(stub), "PROMPT": "alpaca", "ASK": "--max-tokens 9", "JUDGE": "rollouts",
           "CORRECT": "--samples 4", "TRAIN": "--lr 1e-5", "TEST": str(tmp_path / "test.jsonl")}
    out = tmp_path / "out"
    words = ("demo/rounds.sh", "M", tmp_path / "problems.jsonl", out, 2)
    done = bash(*words, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"the last policy: {out}/round-2/model"
    shares = [(out / f"round-{n}/problems.jsonl").read_text() for n in (1, 2)]
    assert shares == ["1\n3\n", "2\n4\n"]
    said = log.read_text().splitlines()
    models = {stage: [re.search(r"--model (\S+)", line)[1] for line in said if line.startswith(stage)]
              for stage in ("collect", "locate", "correct", "train", "evaluate")}
    first, second, third = "M", f"{out}/round-1/model", f"{out}/round-2/model"
    assert models.pop("evaluate") == [first, second, third]
    assert all(used == [first, second] for used in models.values())
    assert all("--prompt alpaca" in line for line in said) and len(said) == 11
    assert all(("--max-tokens 9" in line) != line.startswith("train") for line in said)
    assert all(("--samples 4" in line) == line.startswith("correct") for line in said)
    assert bash(*words, **env).returncode == 0 and log.read_text().splitlines() == said
    done = bash(*words, **{**env, "TRAIN": "--lr 1e-6"})
    assert done.returncode == 2 and "was begun with TRAIN=--lr 1e-5 (now TRAIN=--lr 1e-6 )" in done.stderr


def test_a_round_on_gsm8k(tmp_path):
    """The model learns from solutions in steps; what comes out is asked, corrected, tested."""
    row = {"prompt": "p", "answer": "72", "solution": "He sold 48/2 = <<48/2=24>>24.\n\nSo 48+24 = <<48+24=72>>72."}
    done = subprocess.run([sys.executable, "-m", "demo.solutions"], input=json.dumps(row), capture_output=True,
                          text=True, cwd=ROOT, check=True)
    steps = "Let's think step by step.\nStep 1: He sold 48/2 = 24.\nStep 2: So 48+24 = 72.\nThe answer is: 72"
    assert json.loads(done.stdout) == {**row, "completion": steps}
    log, stub, out = tmp_path / "log", tmp_path / "stub", tmp_path / "out"
    stub.write_text(STUB.format(log=log))
    stub.chmod(0o755)
    for name in ("train", "test"):
        (tmp_path / name).write_text("1\n2\n3\n")
    done = bash("demo/gsm8k.sh", "M", tmp_path / "train", tmp_path / "test", out, PYTHON=str(stub), SFT="2", TESTS="1")
    assert done.returncode == 0, done.stderr
    sft, *rest = [line for line in log.read_text().splitlines() if ".py" in line]
    assert "--objective sft --model M" in sft and len(rest) == 6
    assert [f"--model {out}/policy" in line for line in rest] == [True] * 5 + [False]
    assert (out / "test.jsonl").read_text() == "1\n"
    assert (out / "rounds/round-1/problems.jsonl").read_text() == "1\n2\n3\n"


# ------------------------------------------------------------------------------------------ table, picture, pairs

def test_table_and_picture(tmp_path):
    """Gains are paired by id, whatever the order of the files; what the logs counted is shown."""
    told = world.problems("number", "test", 40, 0)
    rows = [{**row, "completion": row["solution"], "correct": True} for row in told]
    wrong = [{**row, "completion": "Step 1: 1 + 1 = 3", "correct": False} for row in told[:10]]
    pair = {**rows[0], "bad_step": 1, "initial_reason_steps": "Let's think step by step.\nStep 1:",
            "full_chosen": rows[0]["solution"].removeprefix("Let's think step by step.\nStep 1:")}
    (tmp_path / "step-dpo").mkdir()
    metrics = [{"step": step, "eval_loss": 1.0, "eval_rewards/accuracies": step / 10, "eval_rewards/margins": step}
               for step in (0, 5)]
    for name, content in (("before", wrong + rows[10:]), ("after", rows[::-1]), ("pairs", [pair]),
                          ("pairs-held-out", [pair]), ("step-dpo/metrics", metrics),
                          ("located", [{**wrong[0], "bad_step": 1}, {**wrong[1], "bad_step": 2}])):
        save_rows(tmp_path / f"{name}.jsonl", content)
    (tmp_path / "times.tsv").write_text("before\t20\n")
    (tmp_path / "before.log").write_text("evaluate.py: 40 in, 30 kept, 10 dropped (length 10)\n")
    text = "\n".join(table.table(tmp_path))
    assert re.search(r"final answer right +75\.0 % .* 100\.0 % .*\+25\.0 points \[\+9\.3, \+38\.3\]", text)
    # two problems are added, one won by each: mean 10/42, standard error sqrt((12/42 - (10/42)²) / 42)
    assert re.search(r"every step right +75\.0 %", text) and "1 of 2 located" in text and "1 of 1 pairs" in text
    assert re.search(r"before: evaluate.py +40 +30 +10 +length 10", text) and "wrong one: 50 %" not in text
    picture.draw_picture(tmp_path, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 9000


def test_pairs_are_held_out_by_problem(tmp_path):
    """Every line goes to one of two files as it is; a problem stands on one side, the same in a longer file."""
    rows = [{"prompt": f"problem {n % 50} \u2028", "chosen": "a", "n": n} for n in range(100)]
    lines = [json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows)]
    sides = []
    for count in (100, 60):
        source, train, held_out = (tmp_path / f"{name}-{count}" for name in ("pairs", "train", "held"))
        source.write_text("\n".join(lines[:count]))  # with blank lines
        assert pairs.main(["split", str(source), str(train), str(held_out), "--every", "5"]) is None
        parts = [path.read_text().split("\n")[:-1] for path in (train, held_out)]
        assert sorted(line + "\n" for part in parts for line in part) == sorted(lines[:count])
        sides.append([{json.loads(line)["prompt"] for line in part} for part in parts])
        assert not sides[-1][0] & sides[-1][1] and 3 <= len(sides[-1][1]) <= 20
    assert sides[1][1] <= sides[0][1]
    for words, says in ((["split", source, train, tmp_path / "new"], "is there already"),
                        (["split", source, tmp_path / "x", tmp_path / "x"], "named twice"),
                        (["split", tmp_path / "none", tmp_path / "x", tmp_path / "y"], "No such file"),
                        (["split", source, tmp_path / "no/x", tmp_path / "y"], "No such file"),
                        (["split", source, tmp_path / "x", tmp_path / "y", "--every", "1"], "at least 2")):
        with pytest.raises(UserError, match=says):
            pairs.main([str(word) for word in words])
        assert not (tmp_path / "x").exists() and not (tmp_path / "new").exists()


def test_pairs_are_shown_side_by_side(tmp_path):
    row = {"prompt": "How many?", "initial_reason_steps": "Step 1: 1 + 1 = 2.\nStep 2:", "chosen": " 2 + 2 = 4.",
           "rejected": " 2 + 2 = 5, which is\x1b[31m far too long for half of a line."}
    save_rows(tmp_path / "pairs", [row, row])
    lines = list(pairs.side_by_side(str(tmp_path / "pairs"), 43))
    assert all(len(line) <= 43 for line in lines) and "\x1b" not in "".join(lines)
    assert lines[:9] == ["── pair 1 ".ljust(43, "─"), "How many?", "", "Step 1: 1 + 1 = 2.", "Step 2:",
                         "REJECTED             │ CHOSEN", "2 + 2 = 5, which     │ 2 + 2 = 4.",
                         "is\ufffd[31m far too long │", "for half of a line.  │"]
    assert lines[10].startswith("── pair 2")
    save_rows(tmp_path / "pairs", [{"prompt": "p"}])
    with pytest.raises(UserError, match="pairs:1: no 'initial_reason_steps'"):
        list(pairs.side_by_side(str(tmp_path / "pairs"), 43))


# ------------------------------------------------------------------------------------------ public sets, reproduction

def test_public_sets_become_rows():
    gsm8k = {"question": "How many?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"}
    assert problems.gsm8k(gsm8k) == {"prompt": "How many?", "answer": "1200",
                                     "solution": "2 * 600 = <<2*600=1200>>1200"}
    odyssey = {"Problem_5": {"question": "Then, $d-b=$ \n\t\\underline{\\hspace{2cm}}.\n\t\n\\end{problem}\n\\noindent",
                             "answer": "235\\\\\n\\noindent", "reasoning": "So.", "label": "Algebra",
                             "level": "high school"}}
    row = problems.odyssey(odyssey)
    assert (row["prompt"], row["answer"]) == ("Then, $d-b=$ \n\t\\underline{\\hspace{2cm}}.", "235")
    assert row["subject"] == "Algebra" and row["solution"] == "So."
    math = {"problem": "p", "solution": "s", "answer": 7, "level": 5, "subject": "Algebra", "unique_id": "u"}
    assert problems.competition(math) == {"prompt": "p", "answer": "7", "solution": "s", "level": 5,
                                          "subject": "Algebra"}
    math = {"problem": "p", "solution": r"First \boxed{1}, then $\boxed{\frac{1}{2}}$.", "level": "Level 5",
            "type": "Algebra"}
    assert problems.competition(math) == {"prompt": "p", "answer": r"\frac{1}{2}", "solution": math["solution"],
                                          "level": "Level 5", "subject": "Algebra"}


def test_public_sets_from_local_files(tmp_path):
    """A file of JSON lines, and MATH's folder of a file for each problem; no network is asked."""
    gsm8k = [{"question": f"{n}?", "answer": f"So.\n#### {n},000"} for n in range(3)]
    save_rows(tmp_path / "train.jsonl", gsm8k)
    rows = list(problems.problems_of(str(tmp_path / "train.jsonl")))
    assert [row["answer"] for row in rows] == ["0000", "1000", "2000"] and rows[1]["id"] == "gsm8k-train-1"
    (tmp_path / "MATH/algebra").mkdir(parents=True)
    for n in (2, 1):
        (tmp_path / f"MATH/algebra/{n}.json").write_text(json.dumps(
            {"problem": f"p{n}", "solution": rf"\boxed{{{n}}}", "level": "Level 1", "type": "Algebra"}, indent=2))
    assert [(row["id"], row["answer"]) for row in problems.problems_of(str(tmp_path / "MATH"))] == [
        ("math-MATH-0", "1"), ("math-MATH-1", "2")]


@pytest.mark.parametrize("row, said", [
    ({"question": "q", "answer": "7"}, "row 1: not in the shape of GSM8K .*has no ####"),
    ({"problem": "p", "solution": "7"}, r"row 1: not in the shape .*has no \\boxed"),
    ({"prompt": "p", "answer": "7"}, "its fields are answer, id, prompt.*any rows with prompt and answer will do"),
    ({"Problem_1": {"question": "q", "answer": "7", "reasoning": "r"}}, "row 1: not in the shape .*'level'")])
def test_rows_of_another_shape_are_one_line(row, said, tmp_path):
    save_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError, match=said) as error:
        list(problems.problems_of(str(tmp_path / "rows.jsonl")))
    assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    def load_dataset(*names, **how):
        raise ConnectionError("offline\nreally")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="gsm8k: openai/gsm8k cannot be had from the hub .offline really.; download"):
        problems.main(["gsm8k", "--split", "train"])
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="datasets is not installed"):
        problems.main(["gsm8k"])
    for source, said in (("nothing", "neither gsm8k, math500, aime24 nor a file"), (str(tmp_path), "holds no .json")):
        with pytest.raises(UserError, match=said):
            problems.main([source])


def test_systems_are_compared_on_pairs_of_the_same_problems(tmp_path):
    """Every kind of rows has the same problems; held-out ones are apart; other wordings state the true equation."""
    right = world.problems("number", "train", 40, 0)
    wrong = []
    for row in right:
        steps = split_steps(row["solution"])
        before = steps[0] + "Step 1:"
        wrong.append({**row, "id": row["id"] + "#0", "correct": False,
                      "completion": before + " 1 + 1 = 3.\nThe answer is: 3",
                      "bad_step": 1, "initial_reason_steps": before, "rejected": " 1 + 1 = 3.",
                      "chosen": steps[1][7:-1],
                      "full_chosen": row["solution"][len(before):], "full_rejected": " 1 + 1 = 3.\nThe answer is: 3"})
    wrong[10]["bad_step"] = 9  # where the policy had gone on after the last step
    answers = wrong + [{**row, "id": row["id"] + "#1", "correct": True, "completion": row["solution"]}
                       for row in right[3:]]
    folder = tmp_path / "equations-1"
    folder.mkdir()
    for path, rows in ((tmp_path / "answers", answers), (tmp_path / "wrong", wrong), (folder / "pairs", wrong),
                       (folder / "verified", wrong[:-2])):
        save_rows(path.with_suffix(".jsonl"), rows)
    study = replace(studies.FULL, held_out=5)
    some, found = lab.Lab(tmp_path, study), {}
    for kind in ("apart", "pairs", "verified", "worded"):
        train, held_out = (load_rows(path) for path in some.rows(folder, kind, 20))
        found[kind] = ([kinds.source_id(row) for row in train], [kinds.source_id(row) for row in held_out])
        assert len(train) == 20 and len(held_out) == 5 and not {*found[kind][0]} & {*found[kind][1]}
        if kind == "worded":
            for row in train:
                rest = "\n" + "".join(split_steps(row["solution"])[2:])
                assert world.first_wrong_step(row["prompt"], row["initial_reason_steps"] + row["chosen"] + rest) is None
            assert all(row["chosen"] not in row["solution"] and row["bad_step"] == 1 for row in train)
    assert all(value == found["apart"] for value in found.values())
    with pytest.raises(lab.Missing):
        lab.Lab(tmp_path, study, making=False).rows(folder, "pairs", 21)


@pytest.mark.parametrize("problems_a_pair, asked", [(2, [1600]), (8, [1600, 3200]), (90, [1600, 3200, 6400])])
def test_a_policy_that_gives_few_pairs_is_asked_more_problems(tmp_path, monkeypatch, problems_a_pair, asked):
    some, seen = lab.Lab(tmp_path, studies.FULL), []
    monkeypatch.setattr(some, "gather_pairs", lambda world, seed, problems, smaller: seen.append(problems.stop))
    monkeypatch.setattr(some, "rows", lambda folder, kind: (tmp_path / "rows.jsonl", None))
    monkeypatch.setattr(lab, "load_rows", lambda path: [{}] * min(seen[-1] // problems_a_pair, studies.FULL.pairs))
    some.enough_pairs("number", 1)
    assert seen == asked


def test_more_problems_go_on_with_what_is_made_of_fewer(tmp_path, capsys):
    """The rows of a larger folder are those of one made afresh, and those of the smaller one are not made again.

    Hundreds of runs of stages in one process leave no file open.
    """
    def located(name, count, smaller=None):
        source = tmp_path / f"{count}.jsonl"
        save_rows(source, [{"id": str(n), "prompt": STORY, "answer": "1", "completion": f"Step 1: 60 + 15 = {70 + n}.\n"
                            "Answer: 7"} for n in range(count)])
        return some.grown(tmp_path / name, "located.jsonl", smaller, lambda path: some.call(
            "locate", locate, source, out=path, judge="equations"))

    some = lab.Lab(tmp_path, studies.FULL)
    few, opened = located("few", 8), len(os.listdir("/dev/fd"))
    afresh = located("afresh", 20)
    assert len(os.listdir("/dev/fd")) == opened
    capsys.readouterr()
    more = located("more", 20, tmp_path / "few")
    assert "8 rows are of an earlier run" in capsys.readouterr().err
    assert more.read_text() == afresh.read_text() and few.read_text() == afresh.read_text()[:len(few.read_text())]
    assert len(load_rows(f"{more}.dropped.jsonl")) == 1  # 60 + 15 = 75


def test_processes_share_a_grid(tmp_path, monkeypatch):
    """While one makes the cell of the first rate, another makes the rest, and then comes back for all."""
    def make_cell(some, world, seed, rows, objective, lr, **how):
        rates.append(lr)
        if lr in busy:
            raise lab.Busy
        if making:  # until then the other process is through with its rate
            some.spent += 1
            busy.clear()
        return {metric: "10" for metric in studies.METRICS}

    some, making = lab.Lab(tmp_path, studies.PRETRAINED), False
    monkeypatch.setattr(cells, "cell", make_cell)
    monkeypatch.setattr(some, "enough_pairs", lambda world, seed: tmp_path)
    monkeypatch.setattr(some, "rows", lambda folder, kind: ("train", "held out"))
    first, rates, expected = studies.PRETRAINED.grid[0], [], [lr for lr, _ in studies.PRETRAINED.grid]
    busy = {first[0]}
    with pytest.raises(lab.Busy):
        cells.grid(some, "number", studies.MAIN)
    assert rates == expected
    rates.clear()
    making = True
    assert cells.grid(some, "number", studies.MAIN)[0] == (first, 0.5, 0.5) and rates == 2 * expected


def test_a_variant_as_it_is_is_the_main_system(tmp_path, monkeypatch):
    """On the rows of as many problems as give enough pairs, not on those of the first ones."""
    some = lab.Lab(tmp_path, studies.PRETRAINED)
    monkeypatch.setattr(cells, "cell", lambda *words, **how: (words[1:], how))
    monkeypatch.setattr(cells, "best", lambda *words: (1e-5, 0.4))
    monkeypatch.setattr(cells, "forget_others", lambda *words: None)
    monkeypatch.setattr(some, "enough_pairs", lambda world, seed: "enough")
    monkeypatch.setattr(some, "rows", lambda folder, kind, count=None: (folder, kind, count))
    main = cells.system_cell(some, "number", 0, studies.MAIN, 0)
    assert cells.variant_cell(some, "number", "as it is", 0) == main and main[0][2] == ("enough", "verified", None)


def test_cells_of_other_code_are_named(tmp_path, capsys):
    reproduce.name_changes(tmp_path)
    reproduce.name_changes(tmp_path)
    assert not capsys.readouterr().err
    code = json.loads((tmp_path / "code.json").read_text())
    (tmp_path / "code.json").write_text(json.dumps({**code, "loss.py": "0"}))
    reproduce.name_changes(tmp_path)
    assert capsys.readouterr().err.startswith("reproduce: loss.py changed since")


def test_report_of_what_is_there(tmp_path, monkeypatch):
    """Cells that are not made yet are left out; a gain and its interval are those of paired outcomes."""
    seeds = {0}

    def made_cell(some, world, seed, rows=None, *args, **how):
        if seed not in seeds:
            raise lab.Missing
        return {metric: "1100" * 25 if rows is None or seed else "1101" * 25 for metric in studies.METRICS} | {
            "pairs": 40, "metrics": [{"step": s, "eval_loss": 1, "eval_logps/chosen": -2.0, "eval_logps/rejected": -3.0,
                         "eval_rewards/accuracies": 0.5, "eval_rewards/margins": s / 10} for s in (0, 10)]}

    def missing(*args, **how):
        raise lab.Missing

    some = lab.Lab(tmp_path, replace(studies.FULL, seeds=2, runs=1), making=False)
    for module in (cells, report):
        monkeypatch.setattr(module, "cell", made_cell)
    monkeypatch.setattr(some, "rows", lambda *args: ("train", "held out"))
    monkeypatch.setattr(some, "gather_pairs", lambda world, seed, **how: missing() if how else tmp_path / "equations-1")
    monkeypatch.setattr(some, "enough_pairs", lambda world, seed: tmp_path / "equations-1")
    (tmp_path / "equations-1").mkdir()
    for name in ("answers", "wrong", "equations-1/located", "equations-1/pairs", "equations-1/verified"):
        save_rows(tmp_path / f"{name}.jsonl", [])
    (tmp_path / "times.tsv").write_text("SFT\t60.0\t30.0\ncollect\t30.0\t20.0\ncollect\t30.0\t10.0\n")
    report.write_report(some)
    text = (tmp_path / "report.md").read_text()
    # 25 of 100 problems gained, and one of either kind added: 25/102, standard error sqrt((27/102 - (25/102)²) / 102)
    assert "| Step-DPO | 1 | 75.0 | +25.0 [+15.7, +33.3] |" in text and "SFT seed 1" not in text
    assert "| SFT | 1 | 50.0 |  |" in text and "located by" not in text
    assert "| collect | 2 | 1.0 | 0.5 | 50.0 % |" in text
    assert (tmp_path / "figure2.png").stat().st_size > 9000
    seeds.add(1)  # where nothing is gained: on both policies together, half as much in 25 of the 100 problems
    report.write_report(some)
    lines = (tmp_path / "report.md").read_text().partition("SFT seeds 0, 1 together")[2]
    assert "| Step-DPO | 2 | 62.5 | +12.5 [+7.3, +17.2] |" in lines


def test_the_world_is_a_judge(run):
    """locate.py takes demo/exact.py by its path."""
    story = {"prompt": STORY, "answer": "110"}
    told = [["60 + 15 = 75", "75 - 20 = 65", "65 × 2 = 130"], ["60 + 15 = 75", "75 - 20 = 55", "55 × 2 = 120"]]
    rows = [{**story, "id": str(n), "completion": world.solution_text(
        [f"\nStep {k}: So {text}." for k, text in enumerate(steps, 1)], int(steps[-1].split()[-1]), None)}
        for n, steps in enumerate(told)]
    located = run("locate.py", "--judge", ROOT / "demo/exact.py", rows=rows).rows
    assert {row["id"]: row["bad_step"] for row in located} == {"0": 2, "1": 3}


def test_true_steps_are_those_of_the_solution():
    """In the words that a policy learns, with the closing line in the last step; none after that."""
    for row in world.problems("decision", "train", 20, 0):
        for k, part in enumerate(split_steps(row["solution"])[1:], 1):
            assert f"Step {k}:" + kinds.true_step({**row, "bad_step": k}) == part.rstrip()
        assert kinds.true_step({**row, "bad_step": k + 1}) is None


def test_stories_for_a_pretrained_model():
    """Values and steps are within the scale, all solutions are true, and the sides of the world's splits hold."""
    scale = world.Scale(10, 999, (2, 3))
    rows = world.problems("decision", "sft", 200, 0, scale, {})
    values = [int(number) for row in rows for equation in world.truth(row["prompt"])[0]
              for number in (equation[0], equation[3])]
    assert min(values) >= 10 and 99 < max(values) <= 999
    for row in rows:
        assert row["level"] in (2, 3) and row["bad_step"] is None and world.split_of(row["prompt"]) == "sft"
        assert world.first_wrong_step(row["prompt"], row["solution"]) is None


def test_the_whole_comparison_on_a_pretrained_model(tmp_path):
    """From SFT to the report, made once: a second run makes nothing, and other settings are refused."""
    def reproduce_it(*flags, code=0):
        done = subprocess.run([sys.executable, "-m", "demo.reproduce", "--out", tmp_path, "--jobs", "1", *flags],
                              capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done

    model = ("--model", "demo/policy", "--quick")
    said = reproduce_it(*model).stderr
    assert "reproduce: SFT" in said and "reproduce: 0 cells left, " in said
    times = (tmp_path / "times.tsv").read_text()
    assert reproduce_it(*model).stderr.count("cells left") == 6 and (tmp_path / "times.tsv").read_text() == times
    results = [load_rows(path)[0] for path in tmp_path.glob("cells/*/result.json")]
    assert {len(result["greedy"]) for result in results} == {12, 8}
    trained = [result for result in results if "pairs" in result]
    assert trained and all(1 <= result["pairs"] <= 8 and result["metrics"][-1]["step"] > 0 for result in trained)
    assert not list(tmp_path.glob("models/*/model.safetensors"))  # none is kept that is not needed
    report_text = reproduce_it(*model, "--report").stdout
    assert "| Step-DPO, verified | 1 |" in report_text and "| train step-dpo |" in report_text
    assert re.search(r"\| [23] to [35] \| 10 to 99 \| \*\*", report_text)  # the scale that was chosen
    assert "was begun with other settings (seeds, " in reproduce_it("--quick", code=2).stderr
    assert "name the folder of a model" in reproduce_it("--model", "demo", code=2).stderr
