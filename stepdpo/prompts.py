"""The one text that asking and training share, and the tokens of a step in it."""
import datetime
import re

from stepdpo.command import UserError
from stepdpo.task import INSTRUCTION

# name: (text around the problem, joint between the text and a solution, strings that end an answer)
TEMPLATES = {
    "qwen2-boxed": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{problem}"
                    + INSTRUCTION + "<|im_end|>\n<|im_start|>assistant\n", "", ()),
    "deepseek-math": ("User: {problem}" + INSTRUCTION + "\n\nAssistant:", " ", ("\nUser:",)),
    "alpaca": ("Below is an instruction that describes a task. Write a response that appropriately completes the "
               "request.\n\n### Instruction:\n{problem}\n\n### Response:", "\n", ("### Instruction:",)),
    "raw": ("{problem}", "\n", ()),
}
PROMPTS = ("chat", *TEMPLATES)
date_of_run = None  # a datetime.date, see run_date


def load_tokenizer(name, fix="name a folder or model that has one"):
    """The fast tokenizer of a model folder or hub name. UserError when there is none, with what mends it."""
    from transformers import AutoTokenizer
    try:
        # unset, trust_remote_code asks whom it finds at stdin
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises a different class for each way in which a folder can be wrong
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: no tokenizer there ({reason}); {fix}", 2) from error
    if not tokenizer.is_fast:
        raise UserError(f"{name}: its tokenizer gives no offsets, which finding a step's tokens needs; "
                        "convert it to a tokenizer.json", 2)
    return tokenizer


def fix_date(day):
    """Let templates that print the date print this one, "YYYY-MM-DD", until the program ends. ValueError if it is none.

    A run that goes on tomorrow, or past midnight in several processes, must not ask in other words than it began with.
    """
    global date_of_run
    date_of_run = datetime.date.fromisoformat(day)


def render_chat(tokenizer, content):
    """One user message in the tokenizer's own chat template, up to where the answer begins."""
    if not tokenizer.chat_template:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no chat template; "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2)
    try:
        return tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                             add_generation_prompt=True)
    except Exception as error:  # a template is a program; jinja2's errors are of many classes
        raise UserError(f"{tokenizer.name_or_path}: its chat template fails ({' '.join(str(error).split())[:160]}); "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2) from error


def render_prompt(tokenizer, problem, prompt="chat", solution=""):
    """The one text that asking and training share: the problem in format `prompt`, then `solution`.

    It holds the beginning-of-sequence token where the tokenizer would add one, so it is always encoded
    without special tokens (`encode`). The format's joint stands before a solution that brings no white space.
    """
    if prompt == "chat":
        text, joint = render_chat(tokenizer, problem + INSTRUCTION), ""
    else:
        template, joint, _ = TEMPLATES[prompt]
        text = bos(tokenizer) + template.replace("{problem}", problem)
    return text + ("" if not solution or solution[0].isspace() else joint) + solution


def bos(tokenizer):
    """The token that the tokenizer puts before every text, as text; '' where it puts none."""
    first = tokenizer("x").input_ids[0]
    return tokenizer.bos_token if tokenizer.bos_token and first == tokenizer.bos_token_id else ""


def stop_strings(prompt):
    """Texts at which an answer in this format is over, for models that do not end it themselves."""
    return () if prompt == "chat" else TEMPLATES[prompt][2]


def encode(tokenizer, text):
    """Token ids of a rendered text; no special token is added."""
    return tokenizer(encodable(text), add_special_tokens=False).input_ids


def encode_step(tokenizer, text, step):
    """Token ids of `text`, which ends with `step`, and how many of them come before the step.

    The whole is encoded at once, so no token is cut at the joint; a token that merges across it is the step's.
    """
    coded = tokenizer(encodable(text), add_special_tokens=False, return_offsets_mapping=True)
    joint = len(text) - len(step)
    return coded.input_ids, sum(end <= joint for _, end in coded.offset_mapping)


def encodable(text):
    """`text` with lone surrogates, which no tokenizer or server takes, as U+FFFD; same length."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
