"""Sample from a model in this process. Run alone: pytest tests/test_sampling.py"""
import json
import time
from pathlib import Path

import pytest
from conftest import PROBLEMS, make_model

from stepdpo import prompts, sampler


def test_a_model_folder_that_is_not_one(run, tiny_model, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((Path(tiny_model) / name).read_bytes())
    done = run("evaluate.py", "--model", tmp_path, rows=[PROBLEMS[0]], code=2)
    assert f"{tmp_path}: no model could be loaded" in done.err


def test_chat_templates_that_are_missing_or_broken(run, tmp_path):
    make_model(tmp_path, template=False)
    done = run("collect.py", "--model", tmp_path, rows=[PROBLEMS[0]], code=2)
    assert "has no chat template; choose --prompt" in done.err
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")
    done = run("collect.py", "--model", tmp_path, rows=[PROBLEMS[0]], code=2)
    assert "its chat template fails (no such role); choose --prompt" in done.err


def test_what_no_local_model_can_answer(run, tiny_model, tmp_path):
    import transformers
    rows = [{"prompt": prompt, "answer": "1"} for prompt in ("", "2 + 2 " * 200, "2 + 2")]
    done = run("evaluate.py", "--model", tiny_model, "--prompt", "raw", "--max-tokens", 1 << 30, rows=rows)
    assert "3 in, 1 kept, 2 dropped" in done.err and "empty prompt 1" in done.err
    assert "prompt longer than the context 1" in done.err and done.rows[0]["completion"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["foreign"])
    tokenizer.save_pretrained(tmp_path / "other")
    done = run("evaluate.py", "--model", tiny_model, "--tokenizer", tmp_path / "other", code=2,
               rows=[{"prompt": "a foreign word", "answer": "1"}])
    assert "give the --tokenizer that belongs to the model" in done.err


def test_no_code_of_a_model_folder_is_run(run, tiny_model, tmp_path):
    """Neither its Python files nor a pickle; and nobody is asked for leave, for stdin may hold the rows."""
    import torch
    folder = tmp_path / "evil"
    folder.mkdir()
    for path in Path(tiny_model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    done = run("evaluate.py", "--model", folder, rows=[PROBLEMS[0]], code=2)
    assert f"{folder}: no model could be loaded" in done.err and "safetensors" in done.err
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name, auto in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        config = json.loads((folder / name).read_text())
        own = ["evil.Evil", "evil.Evil"] if auto == "AutoTokenizer" else "evil.Evil"
        config |= {"auto_map": {auto: own, "AutoModelForCausalLM": "evil.Evil"}, "tokenizer_class": "Evil"}
        (folder / name).write_text(json.dumps({**config, "model_type": "evil"}))
    run("evaluate.py", "--model", folder, rows=[PROBLEMS[0]], code=2)
    run("evaluate.py", "--model", folder, "--tokenizer", tiny_model, rows=[PROBLEMS[0]], code=2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("kind", ["llama", "mistral"])  # mistral with a window
def test_sampling_equals_whole_forward_passes(kind, temperature):
    """Batches with padding, repeated prompts, a cache that grows and rows that leave, beside one sequence at a time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    window = {"sliding_window": 24} if kind == "mistral" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        kind, vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5, **window), dtype=torch.float64).eval()
    prompts, limits = [[5], [7, 8, 9] * 5, [5], [11, 12]], [90, 150, 20, 140]
    found = sampler.sample_batch(model, prompts, [0, 1, 2, 3], limits, lambda ids: False, temperature, 1.0)
    for prompt, limit, answer, seed in zip(prompts, limits, found, range(4)):
        ids = list(prompt)
        for drawn in torch.rand(max(limits), generator=torch.Generator().manual_seed(seed))[:limit]:
            with torch.inference_mode():
                logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            ids += sampler.pick_tokens(logits, drawn[None], temperature, 1.0).tolist()
        assert answer == ids[len(prompt):]


def test_sampling_ends_when_nobody_waits(tiny_model, monkeypatch):
    """A local batch in its thread would else keep a broken pipe from ending the program."""
    import asyncio
    tokens = []

    def endless(model, prompts, seeds, limits, ended, temperature, top_p):
        while not ended([5]) and len(tokens) < 10_000:
            tokens.append(time.sleep(0.01))
        return [[5] for _ in prompts]

    async def leave():
        ask = sampler.local_engine(tiny_model, tokenizer, (), 1, None, {"max_tokens": 9, "temperature": 0, "top_p": 1})
        await asyncio.wait({asyncio.create_task(ask("a", 0))}, timeout=0.2)

    tokenizer = prompts.load_tokenizer(tiny_model)
    monkeypatch.setattr(sampler, "sample_batch", endless)
    asyncio.run(leave())
    assert 0 < len(tokens) < 10_000
