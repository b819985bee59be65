"""The one text that asking and training share, and the tokens of a step in it."""
import datetime
import functools
import os
import re
from collections import namedtuple

from stepdpo.chat import render_template
from stepdpo.command import UserError
from stepdpo.hub import find_files
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


def load_tokenizer(name, fix="name a folder or model that has one", flag="--model"):
    """The fast tokenizer of a model folder or hub name. UserError when there is none, with what mends it."""
    from transformers import AutoTokenizer
    files = find_files(name, flag)
    try:
        # unset, trust_remote_code asks whom it finds at stdin
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **files)
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


def run_date():
    """The date that templates print in this run, "YYYY-MM-DD": what fix_date said, else the day of the first call."""
    if date_of_run is None:
        fix_date(datetime.date.today().isoformat())
    return date_of_run.isoformat()


def chat_template(tokenizer):
    """The tokenizer's chat template. UserError where it has none."""
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several, by name
        template = template.get("default")
    if not template:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no chat template; "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2)
    return template


def render_chat(tokenizer, content, answer=None):
    """One user message in the tokenizer's own chat template, up to where the answer begins; or with an `answer`."""
    messages = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    template = chat_template(tokenizer)
    run_date()
    try:
        return render_template(template, messages, tokenizer.special_tokens_map, answer is None, date_of_run)
    except Exception as error:  # a template is a program; jinja2's errors are of many classes
        raise UserError(f"{tokenizer.name_or_path}: its chat template fails ({' '.join(str(error).split())[:160]}); "
                        f"choose --prompt {'|'.join(TEMPLATES)}", 2) from error


# What a chat template writes around an assistant's words, beside its generation prompt (read_turn)
Turn = namedtuple("Turn", "dropped opening joint end")


def read_turn(tokenizer):
    """The Turn of a tokenizer's chat template, found by rendering an assistant's message.

        asked   <user>problem<end><assistant>                     with the generation prompt
        whole   <user>problem<end><assistant>_words<end>\n        with an assistant's message; _ is a space
        =>      joint "_", end "<end>\n"

    An answer stands where the template puts an assistant's words, so both are asked and trained on the same text:
    dropped: what the generation prompt writes and a message has not (DeepSeek-R1 opens a <think> block there).
    opening: what a message writes before the words and the generation prompt has not (Qwen3's empty <think> block).
    joint: the same, where it is white space alone (DeepSeek, Mistral, Llama-2); left to the model that begins anew.
    """
    return turn_of_template(tokenizer, chat_template(tokenizer))


@functools.lru_cache(8)
def turn_of_template(tokenizer, _):
    words, problem = "assistant-words", "user-words"
    asked = render_chat(tokenizer, problem)
    try:
        whole = render_chat(tokenizer, problem, words)
    except UserError:  # a template that only knows how to ask
        return Turn("", "", "", "")
    before, found, end = whole.rpartition(words)
    if not found:
        return Turn("", "", "", "")
    same = os.path.commonprefix([asked, before])
    if problem not in same:  # it writes the problem otherwise once it is answered: nothing to read off
        return Turn("", "", "", end)
    dropped, added = asked[len(same):], before[len(same):]
    return Turn(dropped, "", added, end) if not added.strip() else Turn(dropped, added, "", end)


def end_of_turn(tokenizer, prompt="chat"):
    """Token ids that end an answer in format `prompt`; the last one is where a model has to stop. [] where none is.

    chat: what the template writes behind an assistant's message, up to its first special token: [<|im_end|>] for
    Qwen, [<end_of_turn>] for Gemma, [" ", </s>] for Llama-2. Otherwise, and where the template writes no special
    token there: the tokenizer's EOS.
    """
    if prompt == "chat":
        end = read_turn(tokenizer).end
        words, whole = encode(tokenizer, "words"), encode(tokenizer, "words" + end)
        ids = whole[len(os.path.commonprefix([words, whole])):]
        special = {*tokenizer.get_added_vocab().values()}
        for n, token in enumerate(ids):
            if token in special:
                return ids[:n + 1]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def render_prompt(tokenizer, problem, prompt="chat", solution=""):
    """The one text that asking and training share: the problem in format `prompt`, then `solution`.

    It holds the beginning-of-sequence token where the tokenizer would add one, so it is always encoded
    without special tokens (`encode`). The format's joint stands before a solution that brings no white space.
    """
    if prompt == "chat":
        text, joint = chat_beginning(tokenizer, chat_template(tokenizer), run_date(), problem)
    else:
        template, joint, _ = TEMPLATES[prompt]
        text = bos(tokenizer) + template.replace("{problem}", problem)
    return text + ("" if not solution or solution[0].isspace() else joint) + solution


@functools.lru_cache(64)
def chat_beginning(tokenizer, _template, _date, problem):
    """(text up to where an answer begins, joint): kept for a while, for rows of one problem follow one another."""
    turn = read_turn(tokenizer)
    return render_chat(tokenizer, problem + INSTRUCTION).removesuffix(turn.dropped) + turn.opening, turn.joint


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
    return encode_steps(tokenizer, [(text, step)])[0]


def encode_steps(tokenizer, texts):
    """`encode_step` of many (text, step), encoded together: [(token ids, how many come before the step), ...]."""
    coded = tokenizer([encodable(text) for text, _ in texts], add_special_tokens=False, return_offsets_mapping=True)
    found = []
    for (text, step), ids, offsets in zip(texts, coded["input_ids"], coded["offset_mapping"]):
        joint = len(text) - len(step)
        before = len(ids)
        while before and offsets[before - 1][1] > joint:
            before -= 1
        found.append((ids, before))
    return found


def encodable(text):
    """`text` with lone surrogates, which no tokenizer or server takes, as U+FFFD; same length."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
