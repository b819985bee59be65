"""Sample from a model in this process. Run alone: pytest tests/test_sampling.py"""
import asyncio
import json
import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PROBLEMS, make_model

from stepdpo import cache, picking, prompts, running, sampler
from stepdpo.command import UserError


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


FAMILIES = {  # model_type: what its tiny model needs beside BASE
    "llama": {}, "mistral": {"sliding_window": 16}, "gemma3_text": {
        "sliding_window": 16, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "bloom": {"n_layer": 2, "n_head": 4},
    "qwen3_next": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
                   "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                   "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]}, "mamba": {"state_size": 4},
    "falcon_h1": {"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
                  "mamba_n_groups": 1},
    "phi3": {"original_max_position_embeddings": 32, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [4.0, 4.5, 5.0, 6.0], "original_max_position_embeddings": 32}},
}
BASE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "initializer_range": 0.5, "max_position_embeddings": 512, "bos_token_id": None,
        "eos_token_id": 0, "pad_token_id": 0}


SINGLE = ("mamba", "falcon_h1", "qwen3_next")  # they know no float64


def tiny(kind, **more):
    """A random model of a kind, in float64 so that no two tokens are about as likely."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**BASE, **FAMILIES[kind], **more})
    dtype = torch.float32 if kind in SINGLE else torch.float64
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    cache.attention_in_groups(model)
    return model


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("kind", FAMILIES)
def test_sampling_equals_whole_forward_passes(kind, temperature):
    """Padding, repeated prompts, rows that leave and rows that take their places, beside one sequence at a time."""
    import torch
    model = tiny(kind)
    prompts, limits = [[5], [7, 8, 9] * 5, [5], [11, 12], [3] * 40, [5]], [40, 30, 7, 45, 12, 20]
    found = sampler.sample_batch(model, prompts, range(6), limits, lambda ids: False, temperature, 1.0, slots=3)
    for prompt, limit, answer, seed in zip(prompts, limits, found, range(6)):
        ids = list(prompt)
        for drawn in torch.rand(limit, generator=torch.Generator().manual_seed(seed)):
            with torch.inference_mode():
                logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            ids += picking.pick_tokens(logits, drawn[None], temperature, 1.0).tolist()
        assert answer == ids[len(prompt):]


def test_models_that_change_with_the_batch_are_refused(monkeypatch):
    """By trying, at the start; whatever their kind is."""
    model = tiny("llama")
    sampler.check_sampling(model)
    stock = cache.join_columns
    with monkeypatch.context() as patch:
        patch.setattr(cache, "join_columns", lambda sources, width: stock(sources, width).flip(0))  # rows exchanged
        with pytest.raises(UserError, match="llama: answers of models of this kind change with the batch"):
            sampler.check_sampling(model)
    monkeypatch.setattr(model, "forward", lambda input_ids, cache=None: 1 / 0)
    with pytest.raises(UserError, match="cannot be sampled here"):
        sampler.check_sampling(model)
    model = tiny("llama", max_position_embeddings=32, rope_parameters={"rope_type": "dynamic", "factor": 8.0,
                                                                       "rope_theta": 10000.0})
    with pytest.raises(UserError, match="dynamic rope"):
        sampler.sample_batch(model, [[5]], [0], [40], lambda ids: False, 0, 1.0)


def test_a_prompt_is_read_once_for_all_its_samples_and_columns_go(monkeypatch):
    """Though they do not fit together; and the cache is as wide as the longest row that goes on."""
    model, read, widths = tiny("llama"), [], []
    read_stock, step = running.RunningBatch.read, running.RunningBatch.step
    monkeypatch.setattr(running.RunningBatch, "read",
                        lambda batch, prompts: read.extend(prompts) or read_stock(batch, prompts))

    def watch(batch):
        step(batch)
        widths.append((batch.mask.shape[1], max(len(row.prompt) + len(row.answer) for row in batch.rows)))

    monkeypatch.setattr(running.RunningBatch, "step", watch)
    prompts = [[5, 6]] * 9 + [[7] * 9] * 5
    found = sampler.sample_batch(model, prompts, range(14), [20 + i for i in range(14)], lambda ids: False, 1, 1.0, 4)
    assert sorted(read) == [(5, 6), (7,) * 9] and [len(answer) for answer in found] == [20 + i for i in range(14)]
    assert all(width <= longest for width, longest in widths) and max(widths)[0] < 60


def test_a_row_is_handed_out_when_it_ends():
    """While others go on: a kill costs those alone."""
    rows = [running.Row([5, i], i, limit) for i, limit in enumerate((40, 3, 9, 4))]
    arrivals = queue.SimpleQueue()
    for row in rows:
        arrivals.put(row)
    batch = running.RunningBatch(tiny("llama"), lambda ids: False, 0, 1.0)
    ends = [(row.limit, len(rows[0].answer)) for row in running.sample_rows(batch, arrivals, 2, threading.Event())]
    assert ends == [(3, 3), (9, 11), (4, 14), (40, 40)]


@pytest.mark.parametrize("sharp", [0.5, 2, 6])
def test_top_p_draws_as_if_it_sorted_the_vocabulary(sharp):
    """Also where more than the 16 or 256 likeliest are needed, or nearly all, and among equals."""
    import torch
    logits = sharp * torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    logits[20:] = logits[20:].round()
    logits[39] = 0
    uniform = torch.rand(40, generator=torch.Generator().manual_seed(1))
    probs = torch.softmax(logits, -1)
    for top_p in (0.1, 0.5, 0.95):
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        cdf = torch.zeros_like(probs).scatter(-1, order, ordered).double().cumsum(-1)
        expected = torch.searchsorted(cdf, uniform.double()[:, None] * cdf[:, -1:], right=True)[:, 0]
        assert torch.equal(picking.pick_tokens(logits, uniform, 1.0, top_p), expected)


def test_a_token_reads_no_columns_that_its_neighbours_lack(monkeypatch):
    """Rows of a running batch, the longest first: as many columns as their group has, with the same result."""
    import torch
    from transformers.integrations import sdpa_attention
    lengths = [30, 29, 12, 11, 10, 9, 4, 3]
    query, keys, values = (torch.randn(8, 2, tokens, 4, dtype=torch.float64) for tokens in (1, 30, 30))
    mask = torch.arange(30).expand(8, 1, 1, 30) >= 30 - torch.tensor(lengths)[:, None, None, None]
    stock, read = sdpa_attention.sdpa_attention_forward, []
    expected, _ = stock(None, query, keys, values, mask)
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward",
                        lambda *given, **how: read.append(given[2].shape[2]) or stock(*given, **how))
    found, _ = cache.attend_in_groups(None, query, keys, values, mask)
    torch.testing.assert_close(found, expected)
    assert read == [30, 12, 10, 4]


def test_bfloat16_where_asked(run, taught_model, tmp_path):
    """Greedy answers are those of the stock model in bfloat16; rows say so, and no run goes on in another type."""
    import torch
    from transformers import AutoModelForCausalLM
    tokenizer, out = prompts.load_tokenizer(taught_model), tmp_path / "out.jsonl"
    flags = ["--model", taught_model, "--temperature", 0, "--max-tokens", 40, "--out", out]
    # one at a time, for in a batch an answer is rounded in another way
    run("evaluate.py", *flags, "--dtype", "bfloat16", "--batch-size", 1, rows=PROBLEMS[:12])
    model = AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.bfloat16).eval()
    assert sampler.load_for_sampling(taught_model, dtype="bfloat16").dtype == torch.bfloat16
    for row in map(json.loads, out.read_text().splitlines()):
        prefix = row["sampling"]["prefix"]
        ids = prompts.encode(tokenizer, prompts.render_prompt(tokenizer, row["prompt"], "chat", prefix))
        whole = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids):]
        assert row["completion"] == prefix + tokenizer.decode(whole, skip_special_tokens=True)
        assert row["sampling"]["dtype"] == "bfloat16"
    drawn = []
    for how in ((), ("--dtype", "bfloat16")):
        done = run("evaluate.py", "--model", taught_model, "--temperature", 3, "--max-tokens", 40, *how, rows=PROBLEMS)
        drawn.append([row["completion"] for row in done.rows])
    assert drawn[0] != drawn[1]  # the same random numbers: rounding alone moves some of a thousand draws
    assert "made with another --dtype" in run("evaluate.py", *flags, "--resume", rows=PROBLEMS, code=2).err
    done = run("evaluate.py", "--dtype", "bfloat16", "--base-url", "http://localhost:1/v1", rows=PROBLEMS, code=2)
    assert "--dtype is for a model loaded here" in done.err


def test_sampling_ends_when_nobody_waits(tiny_model, monkeypatch):
    """A local batch in its thread would else keep a broken pipe from ending the program."""
    steps = []
    monkeypatch.setattr(running.RunningBatch, "step", lambda batch: steps.append(time.sleep(0.01)))

    async def leave():
        ask = sampler.local_engine(tiny_model, tokenizer, (), 1, None, {"max_tokens": 9, "temperature": 0, "top_p": 1})
        await asyncio.wait({asyncio.create_task(ask("a", 0))}, timeout=0.2)

    monkeypatch.setattr(sampler, "check_sampling", lambda model: None)
    tokenizer = prompts.load_tokenizer(tiny_model)
    asyncio.run(leave())
    assert 0 < len(steps) < 1000


def test_an_error_in_the_thread_reaches_everyone_who_waits(tiny_model, monkeypatch):
    async def ask_two():
        ask = sampler.local_engine(tiny_model, tokenizer, (), 1, None, {"max_tokens": 9, "temperature": 0, "top_p": 1})
        monkeypatch.setattr(running.RunningBatch, "read", lambda *_: 1 / 0)
        return await asyncio.gather(ask("a", 0), ask("b", 0), return_exceptions=True)

    tokenizer = prompts.load_tokenizer(tiny_model)
    assert [type(error) for error in asyncio.run(ask_two())] == [ZeroDivisionError] * 2


def test_words_are_heard_as_they_come(taught_model):
    async def listen():
        how = {"max_tokens": 60, "temperature": 0, "top_p": 1}
        ask = sampler.local_engine(taught_model, tokenizer, (), 1, None, how)
        return await ask(prompts.render_prompt(tokenizer, PROBLEMS[0]["prompt"]), 0, heard.append)

    heard, tokenizer = [], prompts.load_tokenizer(taught_model)
    reply = asyncio.run(listen())
    assert len(heard) > 10 and heard[-1] == reply.text
    assert all(later.startswith(text) for text, later in zip(heard, heard[1:]))


def test_threads_are_chosen_by_measurement(monkeypatch, capsys):
    """On a clock that stands still but for the model: 2 of 8 threads are the fastest here."""
    import torch
    clock, chosen, seconds = [0.0], [], {1: 0.03, 2: 0.02, 8: 0.05}

    class Model:
        device = torch.device("cpu")

        def __call__(self, input_ids):
            clock[0] += seconds[chosen[-1]]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(sampler, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    sampler.choose_threads(Model())
    assert not chosen
    monkeypatch.delenv("OMP_NUM_THREADS")
    sampler.choose_threads(Model())
    assert chosen[-1] == 2 and set(chosen) == {1, 2, 8}
    assert "sampling with 2 of 8 threads, faster here than all (20 against 50 ms a token)" in capsys.readouterr().err


def test_text_after_a_prefix_that_ends_in_bytes_is_exact():
    """A tokenizer like Llama-2's: letters that it does not know are bytes, a run of them is one text or none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    vocabulary = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdefg .:1234"]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], byte_fallback=True,
                                unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    for prefix in ("a: \u00e9\u65e5", "a \u65e5\u65e5", "\u00e9\u00e9", "a", "\U0001f600"):
        prompt = prompts.encode(tokenizer, prefix)
        words = sampler.decoder(tokenizer, prompt)
        for text in ("\u672c b", " b", "b", "\u00e9", "\u65e5\u672c\u8a9e"):
            whole = prompts.encode(tokenizer, prefix + text)
            if whole[:len(prompt)] == prompt:  # else the whole is cut otherwise, and nobody samples that
                assert words(whole[len(prompt):]) == text, (prefix, text)
        cut = prompts.encode(tokenizer, prefix + "\u672c")[len(prompt):-1]
        assert "\ufffd" in words(cut) and words(cut).strip("\ufffd") == ""


def test_weights_that_are_no_numbers(run, tiny_model, tmp_path):
    """Else every answer would run to its limit, without a word of why."""
    from safetensors.torch import load_file, save_file
    for path in Path(tiny_model).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    done = run("collect.py", "--model", tmp_path, rows=PROBLEMS[:1], code=2)
    assert f"{tmp_path}: its logits are no numbers, as of damaged weights; get the model anew" in done.err


def test_folders_devices_and_hubs_that_are_not_there(run, tiny_model, tmp_path, monkeypatch):
    """One line each, at once, that names the flag."""
    config = json.loads((Path(tiny_model) / "config.json").read_text())
    for path in Path(tiny_model).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    begin = time.monotonic()
    for flags, said in ((["--model", tmp_path], f"{tmp_path}: its files lack 9 of the weights that its config.json"),
                        (["--model", tmp_path / "no"], f"--model {tmp_path}/no: no such folder"),
                        (["--model", tiny_model, "--tokenizer", "./no"], "--tokenizer ./no: no such folder"),
                        (["--model", tiny_model, "--device", "cuda"], "--device cuda: not to be had here"),
                        (["--model", tiny_model, "--device", "gpu"], "--device gpu: not to be had here"),
                        (["--model", "some/model"], "--model some/model: no folder here, and the hub cannot be")):
        done = run("evaluate.py", *flags, rows=PROBLEMS[:1], code=2,
                   env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HTTPS_PROXY": "", "ALL_PROXY": ""})
        assert said in done.err and len(done.err.splitlines()) == 2
    assert time.monotonic() - begin < 60
