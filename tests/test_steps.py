"""Prompts and steps. Run alone: pytest tests/test_steps.py"""
import json

import pytest
from conftest import SHARED, make_model, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from stepdpo import prompts
from stepdpo.prompts import encode_step, render_prompt
from stepdpo.steps import cut_step, find_steps, hides_steps, split_steps, strip_header
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


SPELLINGS = [  # of the header of step N, as models write it behind "Step 1:"; where the step's own text begins
    "Step N -| ", "Step N –| ", "Step N—|", "Step N ->| ", "**Step N -| Title**\n", "Step N：|", "step N:| ",
    "Step N :| ",
    "*Step N:*| ", "_Step N:_| ", "__Step N__|\n", "***Step N:***| ", "N.| ", "N)| ", "**N.**| ", "### N.| ",
    "Step\u00a0N:| ", "Step\u2009N:| ", "StepN:| ", "STEP #N:| ", "Step no. N:| ", "Step (N):| ",
    "[Step N]| ", "(Step N)| ",
    "步骤 N：|", "步骤N:| ", "第N步：|", "第 N 步:| ", "ステップN：|",
    "Étape N :| ", "Schritt N:| ", "Paso N.| ", "Шаг N:| ",
    r"\textbf{Step N:}| ", r"\textbf{Step N}:| ", r"\subsection*{Step N:| Title}" + "\n", "<b>Step N:</b>| ",
    "Step N|\n", "### Step N|\n", "> Step N:| ", "- **Step N**:| ", "N. **Step N:**| ", "Step N| (the double): ",
    "**Step N| (the double):** ", "Step N/3:| ", "Step N of 3:| ", "Step N)| ", "Step **N**:| ", "`Step N`:| ",
]


def written_with(spelling, two, three, blank="\n"):
    """An answer of three steps and the headers of the last two. spelling: header|what else stands before the text."""
    headers = [spelling.replace("N", number) for number in (two, three)]
    texts = ["Double it: 7 * 2 = 14.", "Take 1 of it: 14 - 1 = 13.\nThe answer is: 13"]
    text = "".join(blank + "\n" + header.replace("|", "") + said for header, said in zip(headers, texts))
    return PREFIX + " Add: 3 + 4 = 7." + text, [header.split("|")[0] for header in headers]


@pytest.mark.parametrize("blank", ["", "\n"], ids=["", "blank-line"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_headers_as_models_write_them(spelling, blank):
    counts = [("2", "3")]
    if spelling.count("N") == 1 and "Step N" in spelling:
        counts += [("two", "three"), ("Two", "THREE")]
    if "步" in spelling:
        counts += [("二", "三")]
    for two, three in counts:
        completion, headers = written_with(spelling, two, three, blank)
        spans, split = find_steps(completion)
        assert [completion[start:joint] for start, joint in spans] == ["Step 1:", *headers] and split == "headers"
        parts = split_steps(completion)
        assert "".join(parts) == completion and strip_header(parts[2]).strip().endswith("Double it: 7 * 2 = 14.")
        assert not strip_header(parts[2]).startswith(headers[0]) and not hides_steps(completion)


def test_headers_all_on_one_line():
    completion = PREFIX + " Add: 3 + 4 = 7. Step 2: Double: 14. **Step 3:** Take 1: 13. The answer is: 13"
    assert split_steps(completion)[1:] == ["Step 1: Add: 3 + 4 = 7. ", "Step 2: Double: 14. ",
                                           "**Step 3:** Take 1: 13. The answer is: 13"]


NO_HEADERS = [  # one step, whatever else stands in it
    "Step 1: There are cases.\n1. x = 1\n2. x = 2\n3. x = 3", "Step 1: Two facts:\n\n2. The sum.\n1. The product.",
    "Step 1: as we saw in\nstep 3\nof this", "Step 1: we\nstep 2 feet back", "Step 1: it is\nstep 2 of the plan",
    "Step 1: so\n2.5 litres and\n3.5 litres", "Step 1: by Step 2: no", "Step 1: the ratio\n2:1 and\n2: 1",
    "Step 1: from\n(2) we get x", "Step 1: numbers\n3. and\n4. follow", "Step 1: steps\nStep 2.5 is not one",
    "Step 1: we\nStep 2 more feet", "Step 1: see above. Step 3: is not next", "Step 1: x\n2.",
    "Step 1: stepwise\nSteps 2",
]


@pytest.mark.parametrize("completion", NO_HEADERS)
def test_prose_and_lists_are_no_headers(completion):
    assert len(split_steps(completion)) == 2


def test_a_list_inside_a_step_stays_there():
    completion = "Step 1: Cases.\n1. a\n2. b\n3. c\n\nStep 2: So b.\n2. b\n3. c\nThe answer is: b"
    assert [part[:8] for part in split_steps(completion)] == ["", "Step 1: ", "Step 2: "]


def test_one_header_and_several_paragraphs_may_hide_steps():
    assert hides_steps(PREFIX + " Add.\n\nThen double it.\n\nThe answer is: 13")
    assert hides_steps(PREFIX + " Add.\n\nSecond, double it.")
    for told in (PREFIX + " Add.\n\nThe answer is: 13", PREFIX + " Add.\nDouble.", "Add.\n\nDouble.", "",
                 PREFIX + " Add.\n\nStep 2: Double.\n\nSo 14."):
        assert not hides_steps(told)


@needs_shared
def test_the_cases_of_other_spellings():
    for row in map(json.loads, open(SHARED.parent / "cases/step_headers.jsonl")):
        assert len(split_steps(row["completion"])) == 1 + row["steps"], row["form"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["Step ", "1", "2", "3", ":", ".", "\n", " ", "**", "#", "a", "The answer is: 4",
                                 "\u2028", "\u00a0", "步骤", "二", "：", " - ", "step ", "(", ")", "2. ", "3. "])))
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
                 "**" * 500_000, "Step 1: " + "\n2. " * 200_000, "Step 1: x." + " " * 10**6, "Step 2 (" * 100_000):
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
