"""Chat templates: joints, thoughts, dates, ends of turns. Run alone: pytest tests/test_prompts.py

The templates have the structure of those of the families that they are named after, in words of this project.
"""
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, make_tokenizer, served

from stepdpo import prompts
from stepdpo.prompts import encode, encode_step, encode_steps, end_of_turn, render_chat, render_prompt
from stepdpo.task import INSTRUCTION, PREFIX
from stepdpo.tokens import plain_tokenizer

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>",
           "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]", "<think>", "</think>",
           "<|User|>", "<|Assistant|>", "<|end_of_sentence|>", "<|return|>", "<|start|>", "<|channel|>", "<|message|>"]
QWEN3 = ("{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
         "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
         "{%- if '</think>' in m.content %}{{- m.content.split('</think>')[-1].lstrip('\n') }}"
         "{%- else %}{{- m.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
         "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")
LLAMA32 = ("{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
           "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '1 Jan 2024' %}"
           "{%- endif %}{%- endif %}"
           "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n<|eot_id|>' }}"
           "{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
           "+ m['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
           "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}")
# family: (template, what stands between the problem and a solution, tokens that end the turn)
FAMILIES = {
    "qwen3": (QWEN3, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", ["<|im_end|>"]),
    "qwen3 that always thinks": (
        QWEN3.replace("<|im_start|>assistant\n' }}{%- endif", "<|im_start|>assistant\n<think>\n' }}{%- endif"),
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", ["<|im_end|>"]),
    "deepseek-r1": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|end_of_sentence|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
        "<|Assistant|>", ["<|end_of_sentence|>"]),
    "llama-3.2": (LLAMA32, "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", ["<|eot_id|>"]),
    "gemma-3": (
        "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>\n<start_of_turn>model\n", ["<end_of_turn>"]),
    "mistral-v3": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
        "{% elif m.role == 'assistant' %}{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}"
        "{% else %}{{ raise_exception('roles alternate') }}{% endif %}{% endfor %}", "[/INST] ", ["</s>"]),
    "phi-4": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        "<|im_end|><|im_start|>assistant<|im_sep|>", ["<|im_end|>"]),
    "llama-2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}", " [/INST] ", ["Ġ", "</s>"]),
    "gpt-oss": (
        "{% for m in messages %}{{ '<|start|>' + m.role }}{% if m.role == 'assistant' %}{{ '<|channel|>final' }}"
        "{% endif %}{{ '<|message|>' + m.content + '<|return|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        "<|return|><|start|>assistant<|channel|>final<|message|>", ["<|return|>"]),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("families"), [PREFIX, "Today: 1 Jan", "Assistant: user"])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "bos_token": "<s>", "eos_token": "</s>"})
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_stands_where_the_template_puts_it(family, tokenizer):
    """Asked and trained on is the template's own text of an assistant's message, to the token."""
    tokenizer.chat_template, between, end = FAMILIES[family]
    own = tokenizer.apply_chat_template([{"role": "user", "content": "2 + 2?" + INSTRUCTION},
                                         {"role": "assistant", "content": PREFIX}], tokenize=False)
    ours = render_prompt(tokenizer, "2 + 2?", "chat", PREFIX)
    assert ours == own[:own.index(PREFIX) + len(PREFIX)] and ours.endswith(INSTRUCTION + between + PREFIX)
    assert encode(tokenizer, ours) == encode(tokenizer, own)[:len(encode(tokenizer, ours))]
    assert render_prompt(tokenizer, "2 + 2?", "chat", PREFIX + " 4") == ours + " 4"
    anew = render_prompt(tokenizer, "2 + 2?", "chat")  # a model that begins anew writes the joint's space itself
    assert ours == anew + (" " if between.endswith(" ") else "") + PREFIX
    assert render_prompt(tokenizer, "2 + 2?", "chat", " Two") == anew + " Two"
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == end


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_render_as_in_transformers(family, tokenizer, tmp_path):
    tokenizer.chat_template = FAMILIES[family][0]
    prompts.fix_date(datetime.date.today().isoformat())
    own = tokenizer.apply_chat_template([{"role": "user", "content": "é 2 + 2?"}], tokenize=False,
                                        add_generation_prompt=True)
    assert render_chat(tokenizer, "é 2 + 2?") == own


def test_what_no_template_says(tokenizer):
    """Formats that are none of chat end with EOS; a template that knows no assistant, or no end, is asked as it is."""
    for prompt in prompts.TEMPLATES:
        assert end_of_turn(tokenizer, prompt) == [tokenizer.eos_token_id]
    tokenizer.chat_template = "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}" \
                              "{{ m.content + ' =>' }}{% endfor %}"
    assert render_prompt(tokenizer, "p", "chat", "so") == "p" + INSTRUCTION + " =>so"
    assert end_of_turn(tokenizer) == [tokenizer.eos_token_id]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"
    assert end_of_turn(tokenizer) == [tokenizer.eos_token_id]
    tokenizer.chat_template = {"default": "{{ messages[0].content }}:", "tools": "{{ raise_exception('no') }}"}
    assert render_chat(tokenizer, "p") == "p:"


def test_one_date_in_a_run(tokenizer, monkeypatch):
    tokenizer.chat_template = LLAMA32
    prompts.fix_date("2026-02-03")
    assert "Today: 03 Feb 2026" in render_prompt(tokenizer, "p") and prompts.run_date() == "2026-02-03"
    monkeypatch.setattr(prompts, "date_of_run", None)
    first = prompts.run_date()
    tomorrow = type("date", (datetime.date,), {"today": classmethod(lambda _: datetime.date(2999, 1, 1))})
    monkeypatch.setattr(prompts.datetime, "date", tomorrow)  # midnight passes
    assert prompts.run_date() == first and "2999" not in render_prompt(tokenizer, "p")
    with pytest.raises(ValueError):
        prompts.fix_date("yesterday")


def test_steps_are_encoded_together_as_alone(tokenizer):
    texts = [("Step 1: We add", " We add"), ("Step 1: é", "é"), ("", ""), ("a" * 50, "a")]
    assert encode_steps(tokenizer, texts) == [encode_step(tokenizer, *text) for text in texts]


TEXTS = ["What is 2 plus 3?",
         "Let's think.\n\n Step 1: x\u00b2 + \u65e5\u672c 12345\u2028\r\n", "<|im_end|><s>a</s> ", "",
         "  \t", "e\u0301 \ud800 \U0001f600 'LL '\u017f"]


def qwen2_folder(folder):
    """A folder as Qwen2's: its own tokenizer class, in a folder of model type qwen2."""
    from transformers import Qwen2Config, Qwen2Tokenizer
    base = make_tokenizer(folder / "base", TEXTS[:2] * 5)
    core = json.loads(base.backend_tokenizer.to_str())["model"]
    vocabulary = {token: i for token, i in core["vocab"].items() if not token.startswith("<|")}
    vocabulary = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Qwen2Tokenizer(vocabulary, [tuple(merge) for merge in core["merges"]], eos_token="<|im_end|>")
    tokenizer.chat_template = QWEN3
    tokenizer.save_pretrained(folder)
    Qwen2Config().save_pretrained(folder)
    return folder


def same_as_transformers(folder):
    """Whether there is a plain tokenizer; if so, that it does what transformers' does with all TEXTS."""
    plain, full = plain_tokenizer(str(folder)), prompts.load_tokenizer(str(folder))
    if plain is None:
        return False
    for text in TEXTS:
        assert encode(plain, text) == encode(full, text)
        for prompt in prompts.PROMPTS if full.chat_template else prompts.TEMPLATES:
            assert render_prompt(plain, text, prompt, PREFIX) == render_prompt(full, text, prompt, PREFIX)
            assert end_of_turn(plain, prompt) == end_of_turn(full, prompt)
    assert encode_steps(plain, [("a b", "b")]) == encode_steps(full, [("a b", "b")])
    names = ("bos_token", "eos_token", "bos_token_id", "eos_token_id", "special_tokens_map", "chat_template")
    assert all(getattr(plain, name) == getattr(full, name) for name in names)
    return True


def test_plain_tokenizers_are_those_of_transformers(tiny_model, tmp_path):
    """Where they are not sure to be, there is none."""
    folders = [Path(tiny_model), qwen2_folder(tmp_path / "qwen2")]
    folders += [path for path in (ROOT / "demo/policy", ROOT.parent / "smollm2") if path.is_dir()]
    assert all(same_as_transformers(folder) for folder in folders)
    odd = tmp_path / "odd"
    odd.mkdir()
    for path in Path(tiny_model).iterdir():
        if "safetensors" not in path.name:
            (odd / path.name).write_bytes(path.read_bytes())
    assert same_as_transformers(odd)
    config = json.loads((odd / "tokenizer_config.json").read_text())
    for change in ({"add_prefix_space": True}, {"tokenizer_class": "LlamaTokenizer"}, {"eos_token": "none"},
                   {"legacy": False}):
        (odd / "tokenizer_config.json").write_text(json.dumps({**config, **change}))
        assert plain_tokenizer(str(odd)) is None
    qwen = json.loads((tmp_path / "qwen2/tokenizer.json").read_text())
    qwen["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"  # not Qwen2's own, and yet read as if it were
    (tmp_path / "qwen2/tokenizer.json").write_text(json.dumps(qwen))
    assert plain_tokenizer(str(tmp_path / "qwen2")) is None


def test_a_stage_that_asks_a_server_loads_no_torch(faulty, tiny_model, tmp_path):
    look = ("import runpy, sys\nsys.argv = sys.argv[1:]\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: print([n for n in ('torch', 'transformers') if n in sys.modules], file=sys.stderr)")
    (tmp_path / "in.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    done = subprocess.run([sys.executable, "-c", look, ROOT / "collect.py", *served(tiny_model, faulty()), "in.jsonl"],
                          cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr.splitlines()[-1] == "[]", done.stderr
