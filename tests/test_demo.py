"""The demo's world: splits, truth, labels, slips, tokenizer and model folder.

    python -m pytest -q tests/test_demo.py
"""
import json
import random
import re
from dataclasses import replace

import pytest

from demo import cells, kinds, lab, problems, report, reproduce, studies, world
from demo.files import load_rows, save_rows
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
    monkeypatch.setattr(some, "gather", lambda world, seed, problems: seen.append(problems.stop))
    monkeypatch.setattr(some, "rows", lambda folder, kind: (tmp_path / "rows.jsonl", None))
    monkeypatch.setattr(lab, "load_rows", lambda path: [{}] * min(seen[-1] // problems_a_pair, studies.FULL.pairs))
    some.gather_enough("number", 1)
    assert seen == asked


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
    def made_cell(some, world, seed, rows=None, *args, **how):
        if seed:
            raise lab.Missing
        return {metric: "1100" * 25 if rows is None else "1101" * 25 for metric in studies.METRICS} | {
            "pairs": 40, "metrics": [{"step": s, "eval_loss": 1, "eval_logps/chosen": -2.0, "eval_logps/rejected": -3.0,
                         "eval_rewards/accuracies": 0.5, "eval_rewards/margins": s / 10} for s in (0, 10)]}

    def missing(*args, **how):
        raise lab.Missing

    some = lab.Lab(tmp_path, replace(studies.FULL, seeds=2, runs=1), making=False)
    for module in (cells, report):
        monkeypatch.setattr(module, "cell", made_cell)
    monkeypatch.setattr(some, "rows", lambda *args: ("train", "held out"))
    monkeypatch.setattr(some, "gather", lambda world, seed, **how: missing() if how else tmp_path / "equations-1")
    monkeypatch.setattr(some, "gather_enough", lambda world, seed: tmp_path / "equations-1")
    (tmp_path / "equations-1").mkdir()
    for name in ("answers", "wrong", "equations-1/located", "equations-1/pairs", "equations-1/verified"):
        save_rows(tmp_path / f"{name}.jsonl", [])
    (tmp_path / "times.tsv").write_text("SFT\t60.0\t30.0\ncollect\t30.0\t20.0\ncollect\t30.0\t10.0\n")
    report.write_report(some)
    text = (tmp_path / "report.md").read_text()
    # a quarter of the problems gained: mean 25, standard error sqrt(0.25 * 0.75 / 99)
    assert "| Step-DPO | 1 | 75.0 | +25.0 [+16.5, +33.5] |" in text and "SFT seed 1" not in text
    assert "| SFT | 1 | 50.0 |  |" in text and "located by" not in text
    assert "| collect | 2 | 1.0 | 0.5 | 50.0 % |" in text
    assert (tmp_path / "figure2.png").stat().st_size > 9000
