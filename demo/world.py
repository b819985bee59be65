"""A tiny world of arithmetic stories whose truth is known, so that the whole method runs offline in minutes.

    python demo/world.py --out runs/demo/world
    python demo/world.py --label answers.jsonl > labelled.jsonl     # then: locate.py --judge J --score labelled.jsonl

The first writes sft.jsonl, train.jsonl, validation.jsonl, test.jsonl (rows `id, dataset, level, prompt, answer,
solution`) and model/, a folder with a tokenizer and the configuration of a 0.5M-parameter Llama, but no weights.

What the world plants. Solutions in sft.jsonl are told by someone who *forgets a borrow* in 60 % of the
subtractions that need one and *a carry* in 30 % of the additions that need one, and goes on from the wrong value.
A policy trained on them knows how to reason and slips in places that are known exactly. `answer` is the true one
everywhere, and so is `solution` outside sft.jsonl; `bad_step` in sft.jsonl is the first step that slipped, from 1.
With --true nothing is planted: a pretrained model slips by itself.

World "number": 3 to 6 steps of + - × ÷ on values of two digits (--steps, --values), then the final value is asked.
World "decision": the same steps, then a yes/no question about the value, so that a right answer says little of them.
The last step ends by naming the two values to compare, without which so small a policy guesses when they are close.
"""

import argparse
import functools
import hashlib
import json
import random
import re
from collections import namedtuple
from pathlib import Path

FORGETS = {"-": 0.6, "+": 0.3}  # how often a needed borrow, a needed carry is forgotten
WORLDS = ("number", "decision")
OPERATIONS = "++--×÷"
Scale = namedtuple("Scale", "least most steps")  # of all values; steps: (fewest, most)
SMALL = Scale(10, 99, (3, 6))
# A problem's split is a function of its text (16 buckets), so that no seed, size or world can make splits overlap.
BUCKETS = {"test": range(0, 2), "validation": range(2, 4), "train": range(4, 8), "sft": range(8, 16)}

NAMES = ["Ann", "Ben", "Eva", "Leo", "Mia", "Tom", "Uma", "Zoe"]
THINGS = ["apples", "beads", "books", "cards", "coins", "shells", "stamps", "tiles"]
MONTHS = ["January", "February", "March", "April", "May", "June"]
OPENING = "{name} has {n} {things}."
STORY = {
    "+": ["In {month} {name} buys {n} more.", "In {month} a friend brings {n} more.",
          "In {month} {n} new ones arrive."],
    "-": ["In {month} {name} gives away {n}.", "In {month} {n} get lost.", "In {month} {n} of them are sold."],
    "×": ["In {month} {name} swaps each for {n} others.", "By {month} there are {n} times as many.",
          "In {month} the pile grows to {n} times its size."],
    "÷": ["In {month} {name} keeps one of {n} equal parts.", "In {month} they fill {n} equal boxes and one remains.",
          "In {month} {n} people share them and one share stays."],
}
QUESTION = {
    "number": "How many {things} does {name} have now?",
    "decision": "Does {name} now have more than {n} {things}?",
}
SOLUTION = {
    "+": ["Adding gives {equation}.", "With these it makes {equation}.", "{name} goes up to {equation} {things}."],
    "-": ["Taking away leaves {equation}.", "Without these it makes {equation}.",
          "{name} goes down to {equation} {things}."],
    "×": ["Multiplying gives {equation}.", "So many times makes {equation}.", "{name} climbs to {equation} {things}."],
    "÷": ["Dividing gives {equation}.", "One part of it is {equation}.", "{name} is left with {equation} {things}."],
}

COMPARISON = " Compare {value} with {n}."

# ---------------------------------------------------------------------------
# stories


def compute(a: int, operation: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "×": a * b, "÷": a // b}[operation]


def slipped(a: int, operation: str, b: int) -> int:
    """The result of someone who forgets the carry or the borrow; the true one where neither is needed."""
    result = compute(a, operation, b)
    if operation == "+" and a % 10 + b % 10 >= 10:
        return result - 10
    if operation == "-" and a % 10 < b % 10:
        return result + 10
    return result


@functools.cache
def operands(operation: str, scale: Scale, *values: int) -> list[int]:
    """The b for which `a operation b` stays a whole number within the scale for every a in values."""
    candidates = range(scale.least, scale.most - scale.least + 1) if operation in "+-" else range(2, 10)
    return [b for b in candidates
            if all(scale.least <= compute(a, operation, b) <= scale.most and (operation != "÷" or a % b == 0)
                   for a in values)]


def tell_story(world: str, rng: random.Random, scale: Scale, forgets: dict) -> dict:
    """One story, with the true solution and that of someone who forgets.

    The operations are chosen so that both tellings can go on, therefore slips need not be avoided
    anywhere and their rates are exactly those of `forgets`. Returns a dict with prompt, answer, solution, level,
    forgetful (a solution) and bad_step (the first wrong step of forgetful, from 1, or None).
    """
    level = rng.randint(*scale.steps)
    words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}
    true = wrong = start = rng.randint(scale.least, scale.most)
    story, solution, forgetful, bad_step = [OPENING.format(n=start, **words)], [], [], None
    for k in range(1, level + 1):
        possible = [o for o in OPERATIONS if operands(o, scale, true, wrong)]
        if not possible:  # the two tellings have drifted apart: begin again
            return tell_story(world, rng, scale, forgets)
        operation = rng.choice(possible)
        b = rng.choice(operands(operation, scale, true, wrong))
        story.append(rng.choice(STORY[operation]).format(n=b, month=MONTHS[k - 1], **words))
        wording = rng.choice(SOLUTION[operation])
        solution.append(step_text(k, wording, f"{true} {operation} {b} = {compute(true, operation, b)}", words))
        result = compute(wrong, operation, b)
        if slipped(wrong, operation, b) != result and rng.random() < forgets.get(operation, 0):
            result = slipped(wrong, operation, b)
            bad_step = bad_step or k
        forgetful.append(step_text(k, wording, f"{wrong} {operation} {b} = {result}", words))
        true, wrong = compute(true, operation, b), result
    limit = rng.randint(scale.least, scale.most - scale.least + 1)
    story.append(QUESTION[world].format(n=limit, **words))
    limit = limit if world == "decision" else None
    return {
        "prompt": " ".join(story), "answer": answer_to(true, limit), "level": level, "bad_step": bad_step,
        "solution": solution_text(solution, true, limit), "forgetful": solution_text(forgetful, wrong, limit),
    }


def step_text(k: int, wording: str, equation: str, words: dict) -> str:
    return f"\nStep {k}: " + wording.format(equation=equation, **words)


def answer_to(value: int, limit: int | None) -> str:
    """The answer of the number world, which has no limit, or of the decision world."""
    return str(value) if limit is None else "yes" if value > limit else "no"


def solution_text(steps: list[str], value: int, limit: int | None) -> str:
    comparison = "" if limit is None else COMPARISON.format(value=value, n=limit)
    return f"Let's think step by step.{''.join(steps)}{comparison}\nThe answer is: {answer_to(value, limit)}"


def split_of(prompt: str) -> str:
    bucket = hashlib.sha256(prompt.encode()).digest()[0] % 16
    return next(split for split, buckets in BUCKETS.items() if bucket in buckets)


def problems(world: str, split: str, count: int, seed: int, scale: Scale = SMALL, forgets=FORGETS) -> list[dict]:
    """Rows of one split. forgets: how often a needed carry or borrow is forgotten in solutions of "sft". Row i
    comes from (seed, world, split, i), so a longer file begins with the shorter one.
    """
    rows, seen = [], set()
    for i in range(count):
        rng = random.Random(f"{seed}/{world}/{split}/{i}")
        told = tell_story(world, rng, scale, forgets)
        while split_of(told["prompt"]) != split or told["prompt"] in seen:
            told = tell_story(world, rng, scale, forgets)
        seen.add(told["prompt"])
        row = {"id": f"{world}-{split}-{seed}-{i}", "dataset": f"demo-{world}"}
        row |= {name: told[name] for name in ("level", "prompt", "answer", "solution")}
        if split == "sft":
            row |= {"solution": told["forgetful"], "bad_step": told["bad_step"]}
        rows.append(row)
    return rows


# ---------------------------------------------------------------------------
# the truth about an answer

EQUATION = re.compile(r"(\d+) ([-+×÷]) (\d+) = (\d+)")


def pattern(template: str) -> str:
    """The regular expression of a template: a number is a group, other slots are words."""
    return re.sub(r"\\\{(\w+)\\\}", lambda slot: r"(\d+)" if slot[1] == "n" else r"\w+", re.escape(template))


def truth(prompt: str) -> tuple[list[tuple], int | None]:
    """Reads a story: the true equations (a, operation, b, result) in order, and the limit asked about, if any."""
    value = int(re.match(pattern(OPENING), prompt)[1])
    found = [(match.start(), operation, int(match[1]))
             for operation, templates in STORY.items() for template in templates
             for match in re.finditer(pattern(template), prompt)]
    equations = []
    for _, operation, b in sorted(found):
        equations.append((value, operation, b, compute(value, operation, b)))
        value = equations[-1][-1]
    limit = re.search(pattern(QUESTION["decision"]), prompt)
    return equations, limit and int(limit[1])


def first_wrong_step(prompt: str, completion: str) -> int | None:
    """The first wrong step of a solution, counted from 1; None when all is right.

    Step k is right when it states the k-th true equation and no other (the operands of + and × in either
    order). The closing line belongs to the last step, and so does ending too early; text without steps is wrong at
    step 1. The values to compare are no step: a limit that was copied badly shows in the answer or not at all.
    """
    equations, limit = truth(prompt)
    steps = re.split(r"(?m)^Step \d+:", completion)[1:]
    for k, text in enumerate(steps, 1):
        stated = [(int(a), operation, int(b), int(c)) for a, operation, b, c in EQUATION.findall(text)]
        if k > len(equations) or len(stated) != 1:
            return k
        a, operation, b, c = equations[k - 1]
        if stated[0] != (a, operation, b, c) and not (operation in "+×" and stated[0] == (b, operation, a, c)):
            return k
    closed = completion.endswith(f"\nThe answer is: {answer_to(equations[-1][-1], limit)}")
    return None if closed and len(steps) == len(equations) else max(len(steps), 1)


def chosen_is_right(pair: dict) -> bool:
    """Whether a row of correct.py has no error up to the chosen step."""
    wrong = first_wrong_step(pair["prompt"], pair["initial_reason_steps"] + pair["full_chosen"])
    return wrong is None or wrong > pair["bad_step"]


# ---------------------------------------------------------------------------
# the model folder

# One token each: the opening line, a header and the closing words with the newline before them (so that a step begins
# and ends on a token's edge), the instruction of the chat prompt (stepdpo/task.py), an operator with its spaces, a word
# with the space before it (and the one after it if a number follows), a digit.
PIECE = (r"Let's think step by step\.|\nStep \d+:|\nThe answer is:|\nPlease reason step by step.*|"
         r" [-+×÷=] | ?[A-Za-z]+(?: (?=\d))?|\d")
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
SPECIAL = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|endoftext|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer():
    """A word-level tokenizer that falls back to bytes, so that any text whatever survives the round trip.

    The type is BPE without merges: a piece that is in the vocabulary is one token, another is spelt in bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [row[part] for world in WORLDS for row in problems(world, "sft", 500, 0) for part in ("prompt", "solution")]
    pieces = {piece for text in [*texts, INSTRUCTION] for piece in re.findall(PIECE, text)}
    known = sorted(byte_level.pre_tokenize_str(piece)[0][0] for piece in pieces if len(piece.encode()) > 1)
    vocabulary = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + known
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECE), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0],
                                   clean_up_tokenization_spaces=False)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_model_folder(folder: Path) -> None:
    """Tokenizer and configuration; `train.py --model FOLDER` then starts from random weights."""
    from transformers import GenerationConfig, LlamaConfig

    tokenizer = build_tokenizer()
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=len(tokenizer), hidden_size=128, intermediate_size=192,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        initializer_range=0.06,  # at the usual 0.02 so small a model is three times slower to learn
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    # `transformers serve` is greedy at any temperature unless the model's own settings say that it samples
    ends = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    GenerationConfig(do_sample=True, **ends).save_pretrained(folder)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo/world"), help="folder to write")
    parser.add_argument("--world", choices=WORLDS, default="number", help="what is asked at the end of a story")
    parser.add_argument("--sft", type=int, default=16000, help="solutions to train the first policy on, slips planted")
    parser.add_argument("--train", type=int, default=2000, help="problems to collect errors from")
    parser.add_argument("--validation", type=int, default=1000, help="problems to choose settings on")
    parser.add_argument("--test", type=int, default=2000, help="problems to report on")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another draw from the same world")
    parser.add_argument("--steps", type=int, nargs=2, default=SMALL.steps, metavar="N", help="fewest, most steps")
    parser.add_argument("--values", type=int, nargs=2, default=SMALL[:2], metavar="N", help="least, greatest value")
    parser.add_argument("--true", action="store_true", help="plant no slips in the solutions of sft.jsonl")
    parser.add_argument("--label", type=Path, metavar="FILE", help="write nothing; print FILE's rows, which have a "
                        "model's `completion`, with the true `bad_step`")
    args = parser.parse_args(argv)

    if args.label:
        if not args.label.is_file():
            parser.error(f"--label {args.label}: no such file")
        for row in map(json.loads, args.label.open(encoding="utf-8")):
            row["bad_step"] = first_wrong_step(row["prompt"], row["completion"])
            print(json.dumps(row, ensure_ascii=False))
        return
    scale = Scale(*args.values, tuple(args.steps))
    if not (1 <= scale.steps[0] <= scale.steps[1] <= len(MONTHS) and 1 <= scale.least and 9 * scale.least < scale.most):
        parser.error(f"--steps {args.steps}, --values {args.values}: 1 to {len(MONTHS)} steps, and a greatest value of "
                     "more than nine times the least")
    args.out.mkdir(parents=True, exist_ok=True)
    for split in BUCKETS:
        rows = problems(args.world, split, getattr(args, split), args.seed, scale, {} if args.true else FORGETS)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
    write_model_folder(args.out / "model")


if __name__ == "__main__":
    main()
