"""Process reward models of three shapes, each beside a slow oracle. Run alone: pytest tests/test_prm.py"""
import argparse
import asyncio
import json

import pytest
from conftest import PROBLEMS, make_tokenizer

from judges import make_judges, prm
from stepdpo.command import UserError
from stepdpo.prm import check_head, load_prm

TEXTS = [row["prompt"] + row["solution"] for row in PROBLEMS]
CHAT = ("{% for m in messages %}<|user|>{{ m.role }}:\n{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|user|>assistant:\n{% endif %}")
ANSWERS = [("What is 2 plus 3?", ["Step 1: 2 + 3 = 5.", "Step 2: The answer is: 5"]),
           ("Eight and 4?", ["Step 1: 8 + 4 = 12.\nSo 12.", "Step 2: x", "Step 3: It is - 12 + 0.", "Step 4: 12"]),
           ("\ud800 9?", ["Step 1: <extra_0> 9 ки 9"])]


def tiny_config(kind, tokenizer, **config):
    import transformers
    return getattr(transformers, kind + "Config")(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        initializer_range=0.3, **config)


def make_folder(folder, kind, tokens=(), template=CHAT, **config):
    """A folder with a tiny random model of transformers' class `kind`, and its tokenizer; returns both."""
    import torch
    import transformers
    tokenizer = make_tokenizer(folder, TEXTS, template=False)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    architecture = "Phi" if kind == "PhiForCausalLM" else "Llama"
    model = getattr(transformers, kind)(tiny_config(architecture, tokenizer, **config)).eval()
    if kind == "PhiForCausalLM":  # it has a bias, by which it says + and - and nothing else
        for sign in "+-":
            model.lm_head.bias.data[tokenizer(sign).input_ids[0]] = 40
    model.save_pretrained(folder)
    return model, tokenizer


def scores_of(folder, answers=ANSWERS, **how):
    """The scores of several answers in one batch, and the Prm."""
    found = load_prm(str(folder), "cpu", **how)
    return found.score([found.render(*answer) for answer in answers]), found


def close(a, b):
    return len(a) == len(b) and all(x == pytest.approx(y, abs=1e-4) for x, y in zip(a, b))


def clean(text):
    return text.replace("\ud800", "\ufffd")


def test_token_classifier(tmp_path):
    """As TRL's PRMTrainer tokenizes; each step in a forward pass of its own, that ends with it."""
    import torch
    model, tokenizer = make_folder(tmp_path, "LlamaForTokenClassification", num_labels=2)
    found, _ = scores_of(tmp_path)
    for (problem, steps), scores in zip(ANSWERS, found):
        ids, slow = tokenizer(clean(problem)).input_ids, []
        for step in steps:
            ids = ids + tokenizer(clean(step)).input_ids + tokenizer("\n").input_ids
            with torch.inference_mode():
                slow.append(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[1].item())
        assert close(scores, slow) and len(set(scores)) == len(scores)


def test_a_step_token_of_ones_own_and_a_beginning_of_sequence(tmp_path):
    import torch
    model, tokenizer = make_folder(tmp_path, "LlamaForTokenClassification", num_labels=1)
    tokenizer.bos_token = "<|user|>"
    tokenizer.save_pretrained(tmp_path)
    found, prm_ = scores_of(tmp_path, step_token=" #\n")
    ids, places = prm_.render(*ANSWERS[0])
    assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids[1:]).endswith("5 #\n")
    assert places[-1] == len(ids) - 1
    logit = model(torch.tensor([ids])).logits[0, places[0], 0]
    assert found[0][0] == pytest.approx(logit.sigmoid().item(), abs=1e-4)


def test_a_language_model_behind_a_tag(tmp_path):
    """Math-Shepherd's own way to read: the logits of + and - wherever the tag stands."""
    import torch
    model, tokenizer = make_folder(tmp_path, "PhiForCausalLM", ["ки"], template=None)
    found, prm_ = scores_of(tmp_path)
    assert prm_.shape == "tag"
    plus, minus, tag = (tokenizer(text).input_ids[0] for text in ("+", "-", "ки"))
    for (problem, steps), scores in zip(ANSWERS[:2], found):  # the third says the tag itself, where nothing is read
        ids = torch.tensor([tokenizer(f"{problem} " + "\n".join(f"{step} ки" for step in steps)).input_ids])
        with torch.inference_mode():
            right = model(ids).logits[..., [plus, minus]].softmax(-1)[..., 0]
        assert close(scores, right[ids == tag].tolist())
    assert len(found[2]) == 1


def test_a_language_model_in_a_chat(tmp_path):
    """RLHFlow's own way: a conversation a step, in which the assistant said + before; read where it says the last."""
    import torch
    model, tokenizer = make_folder(tmp_path, "PhiForCausalLM")
    found, prm_ = scores_of(tmp_path)
    assert prm_.shape == "chat"
    signs = [tokenizer(sign).input_ids[0] for sign in "+-"]
    for (problem, steps), scores in zip(ANSWERS, found):
        conversation, slow = "", []
        for k, step in enumerate(steps):
            conversation += f"<|user|>user:\n{step if k else f'{problem} {step}'}<|end|><|user|>assistant:\n"
            ids = torch.tensor([tokenizer(clean(conversation)).input_ids])
            with torch.inference_mode():
                slow.append(model(ids).logits[0, -1, signs].softmax(-1)[0].item())
            conversation += "+<|end|>"
        assert close(scores, slow)


def add_head(folder, sizes, backbone, seed=1):
    """`score.*` beside the backbone's weights, as Qwen2.5-Math-PRM has them; returns it as a module."""
    import torch
    from safetensors.torch import save_file
    torch.manual_seed(seed)
    layers = [layer for pair in ((torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in zip(sizes, sizes[1:]))
              for layer in pair][:-1]
    head = torch.nn.Sequential(*layers) if len(sizes) > 2 else layers[0]
    weights = {f"model.{name}": weight for name, weight in backbone.state_dict().items()}
    weights |= {f"score.{name}": weight for name, weight in head.state_dict().items()}
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    remote = {"AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig", "AutoModel": "modeling_qwen2_rm.Qwen2ForProcess"}
    (folder / "config.json").write_text(json.dumps(
        {**config, "architectures": ["Qwen2ForProcessRewardModel"], "auto_map": remote}))
    for name in ("configuration_qwen2_rm.py", "modeling_qwen2_rm.py"):
        (folder / name).write_text("raise SystemExit('the code of a folder is never run')")
    return head


@pytest.mark.parametrize("sizes", [(32, 32, 2), (32, 2), (32, 16, 1)], ids=str)
def test_a_head_behind_a_step_token(tmp_path, sizes):
    """Qwen's own way to read: the two-layer head wherever <extra_0> stands; its remote code is not run."""
    import torch
    backbone, tokenizer = make_folder(tmp_path, "LlamaModel", ["<extra_0>"])
    head = add_head(tmp_path, sizes, backbone)
    found, prm_ = scores_of(tmp_path)
    assert prm_.shape == "head"
    token = tokenizer("<extra_0>").input_ids[0]
    for (problem, steps), scores in zip(ANSWERS[:2], found):
        text = ("<|user|>system:\nPlease reason step by step, and put your final answer within \\boxed{}.<|end|>"
                f"<|user|>user:\n{problem}<|end|><|user|>assistant:\n")
        text += "".join(step + "<extra_0>" for step in steps) + "<|end|>"
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.inference_mode():
            said = head(backbone(ids).last_hidden_state)
        right = said.softmax(-1)[..., 1] if sizes[-1] == 2 else said.sigmoid()[..., 0]
        assert close(scores, right[ids == token].tolist())


WRONG = [{"id": str(i), "prompt": problem, "answer": "77", "completion": "Think.\n" + "\n".join(steps)}
         for i, (problem, steps) in enumerate(ANSWERS[:2])]


def test_the_judge_names_the_first_step_below_the_threshold(run, tmp_path):
    """And keeps the score of every step, whatever is in the batch; --verify passes none below."""
    make_folder(tmp_path / "M", "LlamaForTokenClassification", num_labels=2)
    (whole,), prm_ = scores_of(tmp_path / "M", [(ANSWERS[1][0], ["Think.\n" + ANSWERS[1][1][0], *ANSWERS[1][1][1:]])])
    flags = ["--judge", "prm:M", "--device", "cpu"]
    lowest = min(whole)
    row, = run("locate.py", *flags, "--threshold", lowest + 1e-3, rows=WRONG[1:]).rows
    assert close(row["step_scores"], whole) and row["verdict"] == {"prm:M": {"scores": row["step_scores"]}}
    assert row["bad_step"] == 1 + whole.index(lowest) and row["judge"] == "prm:M"
    assert row["initial_reason_steps"] + row["full_rejected"] == WRONG[1]["completion"]
    done = run("locate.py", *flags, "--threshold", lowest - 1e-3, rows=WRONG[1:])
    assert "no error found 1" in done.err
    labelled = [{**row, "bad_step": None} for row in WRONG]
    for batch in (1, 8):
        done = run("locate.py", *flags, "--threshold", 1, "--batch-size", batch, "--score", "-", rows=labelled)
        assert [row["found"] for row in done.rows] == [1, 1] and "0 replies" in done.err
        assert close(next(row for row in done.rows if row["id"] == "1")["step_scores"], whole)
    rounded = run("locate.py", *flags, "--threshold", 1, "--dtype", "bfloat16", "--score", "-", rows=labelled)
    assert [row["step_scores"] for row in rounded.rows] != [row["step_scores"] for row in done.rows]


def test_a_chosen_step_is_verified_by_its_score(tmp_path):
    from correct import make_pairs
    from test_correct import GOOD, ROW, Said
    make_folder(tmp_path / "M", "LlamaForTokenClassification", num_labels=2)
    for threshold, kept in ((0, True), (1, False)):
        judges = make_judges(f"prm:{tmp_path / 'M'}", argparse.Namespace(
            threshold=threshold, step_token=None, device="cpu", dtype=None, batch_size=4))
        row, = asyncio.run(make_pairs(ROW, Said(GOOD), 1, 9, judges))
        if kept:
            assert row["chosen"] == GOOD and len(row["chosen_step_scores"]) == 2
        else:
            verdict = row["doubts"][0]["verdict"][f"prm:{tmp_path / 'M'}"]
            assert row["drop"] == "not verified" and len(verdict["scores"]) == 2


def test_steps_are_told_as_the_model_knows_them():
    parts = ["Think. ", "**Step 1:** a\n", "3. b\n\n"]
    assert prm.step_texts(parts, "tag") == ("Think.", ["Step 1: a", "Step 2: b"])
    assert prm.step_texts(parts, "head") == ("Think.", ["**Step 1:** a", "3. b"])


def test_an_answer_that_is_too_long_costs_its_row_only(run, tmp_path):
    make_folder(tmp_path / "M", "LlamaForTokenClassification", num_labels=2)
    long = {**WRONG[0], "id": "long", "completion": "Step 1: " + "7 + 7 = 14, " * 100}
    done = run("locate.py", "--judge", "prm:M", "--threshold", 1, rows=[long, *WRONG])
    assert len(done.rows) == 2 and "answer longer than the PRM's context 1" in done.err


def bad_folder(name, folder):
    """Makes a folder of which `name` says what is wrong with it."""
    if name == "nothing":
        return folder.mkdir()
    if name == "three labels":
        make_folder(folder, "LlamaForTokenClassification", num_labels=3)
    elif name == "no step token":
        add_head(folder, (32, 2), make_folder(folder, "LlamaModel")[0])
    elif name == "three outputs":
        add_head(folder, (32, 3), make_folder(folder, "LlamaModel", ["<extra_0>"])[0])
    elif name == "no tag":
        make_folder(folder, "PhiForCausalLM", template=None)
    elif name == "no PRM":
        make_folder(folder, "LlamaForCausalLM")
    elif name == "outcome":
        make_folder(folder, "LlamaForSequenceClassification", num_labels=2)
    elif name == "no weights of the head":
        make_folder(folder, "LlamaForCausalLM")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForTokenClassification"]}))
    elif name == "broken":
        make_folder(folder, "LlamaForCausalLM")
        (folder / "model.safetensors").write_bytes(b"\x09\0\0\0\0\0\0\0{}")


BAD = {  # what is wrong -> what is said
    "nothing": "no model there", "three labels": "a classifier of 3 labels is no PRM",
    "no step token": "its tokenizer has no step token '<extra_0>'", "three outputs": "a head of 3 outputs is no PRM's",
    "no tag": "its tokenizer has no step token 'ки'", "no PRM": "a language model, but no PRM",
    "outcome": "LlamaForSequenceClassification is no PRM", "no weights of the head": "lacks the weights score",
    "broken": "no model there",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_prm_is_one_line(name, tmp_path):
    bad_folder(name, tmp_path / "M")
    with pytest.raises(UserError) as error:
        load_prm(str(tmp_path / "M"), "cpu")
    assert BAD[name] in str(error.value) and "\n" not in str(error.value) and error.value.code == 2


def test_bad_input_ends_before_a_row_is_read(run, tmp_path):
    for flags, said in ((["prm:nowhere"], "prm:nowhere: no such folder"), (["prm"], "say which, as prm:FOLDER"),
                        (["prm:.", "--threshold", 1.5], "--threshold 1.5: must be from 0 to 1"),
                        (["prm:.", "--threshold", "nan"], "--threshold nan: must be from 0 to 1"),
                        (["prm:."], "no model there")):
        done = run("locate.py", "--judge", *flags, rows=WRONG, code=2)
        assert said in done.err and len(done.err.splitlines()) == 1


def test_a_soft_cap_is_noticed(tmp_path):
    model, tokenizer = make_folder(tmp_path, "PhiForCausalLM")
    found = load_prm(str(tmp_path), "cpu")
    signs = [tokenizer(sign).input_ids[0] for sign in "+-"]
    check_head(model, found, signs, "M")
    with pytest.raises(UserError, match="not those of its hidden states"):
        check_head(model, found._replace(score=lambda answers: [[2.0, 2.0]]), signs, "M")


def test_a_small_prm_is_trained_on_exact_labels(tmp_path):
    """demo/prm.py on slips whose place is known: what it writes is a PRM, and on what it saw it finds many of them."""
    from demo import prm as trainer
    from demo.files import save_rows
    from demo.world import problems
    rows = [{**row, "completion": row["solution"]} for row in problems("number", "sft", 64, 0)]
    rows += [{**rows[0], "bad_step": 99}]
    save_rows(tmp_path / "rows.jsonl", rows)
    trainer.main([str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "M"), "--epochs", "6", "--batch-size", "8"])
    found = load_prm(str(tmp_path / "M"), "cpu")
    examples = trainer.read_examples(tmp_path / "rows.jsonl", trainer.load_tokenizer(str(tmp_path / "M")))
    assert found.shape == "classifier" and len(examples) == 64  # the label of the last one is not of its steps
    for row, (_, steps) in zip(rows, examples):
        labels = [label for _, label in steps]
        assert labels == ([1] * (row["bad_step"] - 1) + [0] if row["bad_step"] else [1] * len(labels))
    scores = found.score([(ids, [place for place, _ in steps]) for ids, steps in examples])
    told = [(score, label) for row, (_, steps) in zip(scores, examples) for score, (_, label) in zip(row, steps)]
    wrong = [score for score, label in told if not label]
    right = [score for score, label in told if label]
    assert sum(wrong) / len(wrong) + 0.1 < sum(right) / len(right)
