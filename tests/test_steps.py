"""Prompts and steps. Run alone: pytest tests/test_steps.py"""
import json

import pytest
from conftest import SHARED, make_model, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from stepdpo import prompts
from stepdpo.prompts import encode_step, render_prompt
from stepdpo.steps import cut_step, find_steps, split_steps
from stepdpo.task import PREFIX

# completion -> what its parts are
SPLITS = {
    "Let's think.\nStep 1: a\nStep 2: b\nThe answer is: 3":
        ["Let's think.\n", "Step 1: a\n", "Step 2: b\nThe answer is: 3"],
    "**Step 1:** a\n**Step 2:** b": ["", "**Step 1:** a\n", "**Step 2:** b"],
    "### Step 1\na\n### Step 2: b\nc": ["", "### Step 1\na\n", "### Step 2: b\nc"],
    "Step 1. a\nStep 2. b": ["", "Step 1. a\n", "Step 2. b"],
    "Step 1: by Step 2: no\nStep 2.5 is not one\nStep 2: b":
        ["", "Step 1: by Step 2: no\nStep 2.5 is not one\n", "Step 2: b"],
    "Step 1: a\nStep 1: again\nStep 3: c": ["", "Step 1: a\nStep 1: again\n", "Step 3: c"],
    "Let's think step by step. Step 1: a\nStep 2: b": ["Let's think step by step. ", "Step 1: a\n", "Step 2: b"],
    "Let's think step by step. \nStep 1: a": ["Let's think step by step. \n", "Step 1: a"],
    "First this.\n\nThen that.\n \n\nSo 3.": ["", "First this.\n\n", "Then that.\n \n\n", "So 3."],
    "We step 1 foot.": ["", "We step 1 foot."],
    "": [""],
}


@pytest.mark.parametrize("completion", SPLITS)
def test_split(completion):
    assert split_steps(completion) == SPLITS[completion]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["Step ", "1", "2", "3", ":", ".", "\n", " ", "**", "#", "a", "The answer is: 4",
                                 "\u2028"])))
def test_parts_join_back_and_steps_are_cut_alike(pieces):
    completion = "".join(pieces)
    assert "".join(split_steps(completion)) == completion
    spans, split = find_steps(completion)
    for start, joint in spans:
        step = cut_step(completion, joint, split)
        assert start <= joint and completion[joint:].startswith(step) and step == step.rstrip()


@needs_shared
def test_real_answers_join_back():
    for line in open(SHARED / "math_answers.jsonl"):
        completion = json.loads(line)["completion"]
        assert "".join(split_steps(completion)) == completion


def test_long_hostile_texts_split_at_once():
    for text in ("\n" * 10**6, "Step " * 200_000, "Step 1: " * 100_000, "\n \n" * 300_000 + "x", "." + " " * 10**6,
                 "**" * 500_000):
        assert "".join(split_steps(text)) == text


def test_prompt_formats(tiny_model):
    tokenizer = prompts.load_tokenizer(tiny_model)
    for prompt in prompts.PROMPTS:
        asked = render_prompt(tokenizer, "2 {braces} \\boxed?", prompt, PREFIX)
        assert "2 {braces} \\boxed?" in asked and asked.endswith(PREFIX)
        asked = render_prompt(tokenizer, "p", prompt, PREFIX)
        assert render_prompt(tokenizer, "p", prompt, PREFIX + " so") == asked + " so"
    assert render_prompt(tokenizer, "p", "deepseek-math", "So").endswith("Assistant: So")
    assert render_prompt(tokenizer, "p", "deepseek-math", " So").endswith("Assistant: So")
    assert render_prompt(tokenizer, "p", "alpaca", "So").endswith("### Response:\nSo")
    assert render_prompt(tokenizer, "p", "alpaca").endswith("### Response:")


def test_beginning_of_sequence_stands_once(tmp_path):
    from tokenizers.processors import TemplateProcessing
    make_model(tmp_path)
    tokenizer = prompts.load_tokenizer(str(tmp_path))
    assert render_prompt(tokenizer, "p", "raw") == "p"
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)])
    text = render_prompt(tokenizer, "p", "raw", "q")
    assert prompts.encode(tokenizer, text).count(tokenizer.bos_token_id) == 1


def test_no_token_is_cut_at_the_joint(tiny_model):
    tokenizer = prompts.load_tokenizer(tiny_model)
    for context, step in (("Step 1:", " We add"), ("Step 1: ", "We"), ("is 1", "2 + 3"), ("", "x"),
                          ("a\u00e9", "\u00e9b"), ("a", "\ud800b")):
        ids, n = encode_step(tokenizer, context + step, step)
        assert ids == prompts.encode(tokenizer, context + step)
        assert len(tokenizer.decode(ids[:n])) <= len(context)
        assert n == len(ids) or len(tokenizer.decode(ids[:n + 1])) > len(context)
