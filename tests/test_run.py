"""The folder of a training run: how one begins, goes on and ends there. Run alone: pytest tests/test_run.py"""
import fcntl
import json
import shutil

import pytest
from test_train import fit, make_pairs, rows_of, write

import train
from stepdpo import prompts
from stepdpo.examples import make_example
from stepdpo.run import read_run

REFUSED = train.UserError


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", make_pairs(4))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "adapter_model.safetensors"])
def test_a_folder_with_another_model_is_refused(name, resume, tiny_model, pairs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"precious")
    with pytest.raises(REFUSED, match="holds a model that is of no run of train.py; name another --out"):
        fit(tiny_model, pairs, out, "--max-steps", 1, resume=resume)
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"precious")]


def test_two_runs_in_one_folder(tiny_model, pairs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with open(out / "dropped.jsonl", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(REFUSED, match="another process is writing it"):
            fit(tiny_model, pairs, out, "--max-steps", 1)
    fit(tiny_model, pairs, out, "--max-steps", 1)


def test_a_start_that_fails_leaves_nothing(tiny_model, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("{oops\n")
    with pytest.raises(REFUSED, match="not JSON"):
        fit(tiny_model, pairs, tmp_path / "out", "--max-steps", 1)
    assert not (tmp_path / "out").exists()


def test_the_last_line_says_how_it_ended(tiny_model, pairs, tmp_path, capfd):
    out = tmp_path / "out"
    fit(tiny_model, pairs, out, "--max-steps", 2, "--eval-pairs", pairs)
    last = rows_of(out / "metrics.jsonl")[-2:]
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"train.py: {out}: the model is there; 2 steps, last loss {last[0]['loss']:.4g}, "
        f"{100 * last[1]['eval_rewards/accuracies']:.1f} % of held-out pairs judged right")


def test_a_model_that_is_not_finite_is_not_written(tiny_model, pairs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(REFUSED, match=r"[\d,]+ weights are no finite numbers, so no model is written; lower --lr"):
        fit(tiny_model, pairs, out, "--max-steps", 1, "--lr", "inf", "--warmup", 0)
    assert not (out / "model.safetensors").exists() and not read_run(str(out))["finished"]


def cut_run(model, pairs, out):
    """A run of four steps, made to look as if it had been killed after the third."""
    whole = fit(model, pairs, out, "--max-steps", 4, "--save-every", 1)
    shutil.rmtree(out / "checkpoint-4")
    (out / "model.safetensors").unlink()
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "finished": False}))
    return whole


@pytest.mark.parametrize("damage", ["gone", "empty", "edited"])
def test_a_log_that_is_lost_stops_nothing(damage, tiny_model, pairs, tmp_path, capfd):
    """What it had is left out, what comes is the same."""
    out, log = tmp_path / "out", tmp_path / "out" / "metrics.jsonl"
    whole = cut_run(tiny_model, pairs, out)
    log.write_bytes({"gone": b"", "empty": b"", "edited": b'{"step": 1, "loss"\n[3]\n{}\n\xff'}[damage])
    if damage == "gone":
        log.unlink()
    again = fit(tiny_model, pairs, out, "--max-steps", 4, "--save-every", 1, resume=True)
    assert again == whole[3:]
    assert "what it said of step 3 is gone; the run goes on all the same" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["empty", "no index", "garbage", "no progress"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(damage, tiny_model, pairs, tmp_path):
    out = tmp_path / "out"
    cut_run(tiny_model, pairs, out)
    newest, before = out / "checkpoint-3", out / "checkpoint-2"
    shutil.copytree(newest, before)  # the last two are kept, and the fourth is gone
    for path in newest.iterdir():
        if damage == "empty" or (damage == "no index" and path.name == ".metadata") or (
                damage == "no progress" and path.name == "progress.json"):
            path.unlink()
        elif damage == "garbage" and path.suffix == ".distcp":
            path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(REFUSED) as caught:
        fit(tiny_model, pairs, out, "--max-steps", 4, "--save-every", 1, resume=True)
    said = str(caught.value)
    assert said.startswith(f"{newest}: this checkpoint is damaged (")
    assert said.endswith(f"remove it, and --resume goes on from {before}") and "\n" not in said
    shutil.rmtree(newest)
    assert fit(tiny_model, pairs, out, "--max-steps", 4, "--save-every", 1, resume=True)[-1]["step"] == 4


DATED = ("{{ strftime_now('%d %b %Y') }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
         "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def test_a_run_has_one_date(tiny_model, pairs, tmp_path, monkeypatch):
    """A template that prints the date prints that of the run's beginning, however late it goes on."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(DATED)
    monkeypatch.setattr(prompts, "date_of_run", None)
    prompts.fix_date("2026-11-27")
    whole = fit(model, pairs, tmp_path / "whole", "--max-steps", 4, "--save-every", 1)
    prompts.fix_date("2026-11-27")
    assert cut_run(model, pairs, out) == whole and read_run(str(out))["date"] == "2026-11-27"
    prompts.fix_date("2026-11-28")
    assert fit(model, pairs, out, "--max-steps", 4, "--save-every", 1, resume=True) == whole
    prompts.fix_date("2026-11-28")
    assert fit(model, pairs, tmp_path / "later", "--max-steps", 1)[0]["logps/chosen"] != whole[0]["logps/chosen"]


TURN = ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|user|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def test_an_answer_ends_as_the_template_ends_a_turn(tiny_model, pairs, tmp_path):
    """Trained on, and the end of an answer in the exported model's settings."""
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(TURN)
    tokenizer = prompts.load_tokenizer(str(model))
    turn = tokenizer.convert_tokens_to_ids("<|user|>")
    assert prompts.end_of_turn(tokenizer) == [turn] != [tokenizer.eos_token_id]
    row = {"id": "1", "prompt": "2 + 2?", "completion": "Step 1: 4"}
    example, _ = make_example(row, train.row_texts(row, "sft"), tokenizer, "chat", 256)
    assert example.sequences[0].ids[-1] == turn
    example, _ = make_example(row, train.row_texts(row, "sft"), tokenizer, "raw", 256)
    assert example.sequences[0].ids[-1] == tokenizer.eos_token_id
    fit(model, pairs, out, "--max-steps", 1, "--eos")
    ends = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [turn, tokenizer.eos_token_id]
