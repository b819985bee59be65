"""Step localisation (Step-DPO, section 3.2): find the first wrong step of each wrong answer.

    python locate.py --judge gpt-4o < wrong.jsonl > located.jsonl

in:  rows of collect.py: {"id", "prompt", "answer", "completion"[, "solution"]}
out: the row with {"bad_step", "judge", "verdict", "split", "initial_reason_steps", "rejected", "full_rejected"};
     initial_reason_steps + full_rejected is the completion, and rejected, the wrong step, begins full_rejected

--judge NAME is one of
  a model behind --judge-url (default: the OpenAI variables; key from JUDGE_API_KEY, else OPENAI_API_KEY), or a
    local model folder; it sees the problem, the row's `solution` (else its `answer`) and the numbered steps
  equations: no model; checks the arithmetic that each step states and where its numbers come from
or several, joined by commas, which must agree. A judge that is not sure drops the row: "cannot tell", "unparsed"
(its reply is kept), "no error found", "judges disagree".
"""
import argparse
import json
import os
import re
from collections import namedtuple
from fractions import Fraction

from evaluate import add_ask_flags, chat_server, check_ask_flags, local_engine, sample_seed
from grade import read_number
from steps import (add_record_flags, cut_step, find_steps, load_tokenizer, open_output, render_chat, run_main,
                   run_stage)

Verdict = namedtuple("Verdict", "bad_step words")  # bad_step: 1.., 0 for no error, or why there is none, as text
JUDGE_TRIES = 3


# ------------------------------------------------------------------------------------------ an LLM judge

JUDGE_PROMPT = """Here is a problem, {reference_name}, and a wrong answer to the problem, step by step. \
Find the first step that is incorrect.

Problem:
{problem}

{reference_title}:
{reference}

Wrong answer:
{steps}

First analyse the steps one after another, in at most 200 words. Then write a line "Final Decision:" and below it one \
label for each step, "Step 1: correct; Step 2: neutral; ...": correct, neutral (it neither helps nor harms) or \
incorrect. Stop at the first incorrect step."""
LABEL = re.compile(r"step\s*(\d{1,6})\W{1,6}(?:is\s+)?(incorrect|correct|neutral)", re.I)


def judge_text(row, steps):
    """What an LLM judge is asked. Steps are numbered by their place, whatever number the model wrote."""
    known = row.get("solution") if isinstance(row.get("solution"), str) else None
    return JUDGE_PROMPT.format(
        reference_name="its correct solution" if known else "its correct answer",
        reference_title="Correct solution" if known else "Correct answer", reference=known or row["answer"],
        problem=row["prompt"], steps="\n".join(f"Step {k}: {step.strip()}" for k, step in enumerate(steps, 1)))


def parse_labels(reply):
    """(step, label) pairs of a judge's reply: JSON, or else the text after the last "Final Decision"."""
    text = re.sub(r"```(?:json)?", "", reply)
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin:end + 1], strict=False) if begin >= 0 else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        text = "; ".join(f"Step {key.lower().replace('step', '').strip()}: {value}" for key, value in found.items()
                         if isinstance(value, str))
        return [(int(k), label.lower()) for k, label in LABEL.findall(text)]
    at = text.lower().rfind("final decision")
    return [(int(k), label.lower()) for k, label in LABEL.findall(text[at:])] if at >= 0 else []


def parse_verdict(reply, n_steps, neutral_is_error=False):
    """The first incorrect step, 0 when all n_steps are labelled and none is, "unparsed" for anything else.

    A step labelled twice in two ways, or one that does not exist, makes the reply unparsed.
    """
    labels = {}
    for k, label in parse_labels(reply):
        if not 1 <= k <= n_steps or labels.setdefault(k, label) != label:
            return "unparsed"
    wrong = ("incorrect", "neutral") if neutral_is_error else ("incorrect",)
    bad = [k for k in labels if labels[k] in wrong]
    return min(bad) if bad else 0 if len(labels) == n_steps else "unparsed"


def llm_judge(name, args):
    """judge(row, steps) that asks a model, a few times while its reply cannot be read."""
    how = dict(temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_tokens)
    local = os.path.isdir(name) and not args.judge_url
    engine = None

    async def judge(row, steps):
        nonlocal engine
        if engine is None:
            engine = (local_engine(name, load_tokenizer(name), (), args.batch_size, args.device, how) if local else
                      chat_server(args.judge_url, name, args.concurrency, how, key="JUDGE_API_KEY"))
        text = judge_text(row, steps)
        if local:
            text = render_chat(load_tokenizer(name), text)
        for j in range(JUDGE_TRIES):
            reply = (await engine(text, sample_seed(args.seed, row["id"], j))).text
            bad_step = parse_verdict(reply, len(steps), args.neutral_is_error)
            if bad_step != "unparsed":
                break
        return Verdict(bad_step, reply)
    return judge


# ------------------------------------------------------------------------------- the judge of equations

SIGNS = [(r"^[ \t]*[-*][ \t]+", ""), (r"\\(?:left|right|quad|,|;|!|\(|\)|\[|\]| )|\\(?:text|mathrm|boxed)(?=\{)|\*\*|&", " "),
         (r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"((\1)/(\2))"), (r"\\times|\\cdot|[×·∗]", "*"),
         (r"\\div|[÷∕]", "/"), ("[−–]", "-"), (r"\\([$%])", r"\1"), (r"[{}]", " "), (r"(?<=\d)[ \t]*[xX][ \t]*(?=\d)", "*"),
         (r"\band (?=an? (?:half|third|quarter)|(?:half|one|two|three)\b|\d+/\d)", "half ")]  # 3 and a half
TOKEN = re.compile(r"(?P<number>\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?%?)|(?P<word>[^\W\d_]+)"
                   r"|(?P<sign>[-+*/()=])|(?P<other>\\[a-z]+|[^ \t])")
# words that stand for arithmetic: a number beside one is not the whole of what is meant
ARITHMETIC = set("of times plus minus divided multiplied by per half quarter third dozen hundred thousand "
                 "million billion remainder mod r less than over power squared cubed".split())
NUMBER_WORDS = {word: n for n, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())} | {
    "twice": 2, "double": 2, "half": 2, "triple": 3, "third": 3, "quarter": 4, "dozen": 12}
UNREADABLE = "^"  # stands beside a run whose neighbour changes its value
Equation = namedtuple("Equation", "left right units")  # left, right: lists of tokens, None for an unreadable side


def find_equations(text):
    """Equations of plain numbers in a text. A side whose neighbourhood changes its value is unreadable."""
    for pattern, plain in SIGNS:
        text = re.sub(pattern, plain, text, flags=re.M)
    run, units, before, last, end = [], set(), "", "", -1  # last: kind of the token before
    for match in [*TOKEN.finditer(text), None]:
        kind, token = (match.lastgroup, match[0]) if match else ("other", "")
        glued = match is not None and match.start() == end
        end = match.end() if match else -1
        if kind == "word" and last == "number" and token.lower() not in ARITHMETIC and (len(token) > 1 or not glued):
            units.add(token.lower().rstrip("s"))
            kind = "unit"
        elif kind == "sign" or kind == "number" and not (glued and last == "word"):
            if run and (kind == "number" or token == "(") and (run[-1][-1] in ")%" or run[-1][-1].isdigit()):
                apart = last == "unit" or token == "(" and not glued  # else "2(3)" or "1 1/2", which are products, sums
                yield from equations_of(run, units, before, "" if apart else UNREADABLE)
                run, units, before = [], set(), "" if apart else UNREADABLE
            if not run and token in "(-" and (last == "word" and (glued or len(before) == 1) or before[:1] in [*")]}|"]):
                before = UNREADABLE  # f(3), x - 3
            run.append(token)
        else:
            changes = kind == "word" and (glued or token.lower() in ARITHMETIC) or token in ("!", "_", UNREADABLE)
            yield from equations_of(run, units, before, UNREADABLE if changes else "")
            run, units = [], set()
            before = UNREADABLE if token.startswith("\\") or token.lower() in ARITHMETIC or token == "_" else token
        last = kind


def equations_of(run, units, before, after):
    """Equations between neighbouring sides of a run of numbers and signs, given what stands before and after it."""
    sides = [[]]
    for token in run:
        if token == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    if after == UNREADABLE:
        sides[-1] = None
    if before == UNREADABLE or run and run[0] in "+*/)":
        sides[0] = None
    elif after != UNREADABLE and len(sides) > 1 and sides[0].count("(") > sides[0].count(")") and sides[-1][-1:] == [")"]:
        sides[0], sides[-1] = sides[0][1:], sides[-1][:-1]  # (3 + 4 = 7)
    for left, right in zip(sides, sides[1:]):
        if left != [] and right != []:  # nothing stands before the sign of "Total = 3 + 4"
            yield Equation(left, right, units)


def calculate(tokens):
    """The exact value of an arithmetic expression. ValueError for what is not one; nothing is ever executed."""
    tokens = list(tokens)
    if len(tokens) > 60:
        raise ValueError("too long")

    def factor():
        token = tokens.pop(0) if tokens else ""
        if token == "-":
            return -factor()
        if token == "(":
            value = total()
            if not tokens or tokens.pop(0) != ")":
                raise ValueError("unbalanced")
            return value
        value = read_number(token.strip("$%"))
        if value is None:
            raise ValueError(f"not a number: {token!r}")
        return value / 100 if token.endswith("%") else value

    def product():
        value = factor()
        while tokens and tokens[0] in "*/":
            sign, right = tokens.pop(0), factor()
            if sign == "/" and right == 0:
                raise ValueError("division by zero")
            value = value / right if sign == "/" else value * right
        return value

    def total():
        value = product()
        while tokens and tokens[0] in "+-":
            value = value + product() if tokens.pop(0) == "+" else value - product()
        return value

    value = total()
    if tokens:
        raise ValueError(f"left over: {tokens[0]!r}")
    return value


def holds(left, right):
    """True, False, or None for "cannot tell", of left = right; a right side with decimals may be rounded."""
    try:
        difference = calculate(left) - calculate(right)
    except ValueError:
        return None
    if difference == 0:
        return True
    if any("%" in token for token in [*left, *right]):
        return calculate(left) == 100 * calculate(right) or None  # 15 / 60 * 100 = 25%
    places = len(right[0].partition(".")[2]) if len(right) == 1 else 0
    if abs(difference) < Fraction(1, 10 ** places):
        return True if places else None  # 100 / 3 = 33 may be meant
    return False


def judge_equations(row, steps):
    """The first step whose stated arithmetic is wrong, if every step before it is checked and right.

    A step can be told when it states an equation whose numbers come from the problem or from earlier results.
    """
    words = re.findall(r"[a-z]+", row["prompt"].lower())
    known = {read_number(token.strip("$%")) for token in re.findall(r"\$?\d[\d,]*\.?\d*", row["prompt"])}
    known |= {NUMBER_WORDS[word] for word in words if word in NUMBER_WORDS} | {1, 2, 100}
    for k, step in enumerate(steps, 1):
        told = False
        for left, right, units in find_equations(step):
            if left is None or right is None:
                return Verdict("cannot tell", f"step {k} has an equation of more than numbers")
            if len(left) < 2:
                continue
            said = f"step {k}: {' '.join(left)} = {' '.join(right)}"
            strange = [t for t in left if t[-1].isdigit() and read_number(t.strip("$")) not in known]
            verdict = holds(left, right)
            if verdict is None or strange or verdict is False and len(units) > 1:
                return Verdict("cannot tell", said + (f" uses {strange[0]}" if strange else ""))
            if verdict is False:
                return Verdict(k, f"{said} does not hold")
            told = True
            known.add(calculate(right))
        if not told:
            return Verdict("cannot tell", f"step {k} states no equation")
    return Verdict(0, "every equation holds")


# ------------------------------------------------------------------------------------------------- stage

def make_judge(name, args):
    """judge(row, steps) -> Verdict, as a coroutine, for one name of --judge."""
    if name != "equations":
        return llm_judge(name, args)

    async def judge(row, steps):
        return judge_equations(row, steps)
    return judge


async def locate(row, judges):
    """The row with its first wrong step cut out, or with the reason why there is none."""
    completion = row["completion"]
    if row.get("correct") is True:
        return {**row, "drop": "answer is right"}
    spans, split = find_steps(completion)
    if not spans:
        return {**row, "drop": "no steps"}
    bodies = [cut_step(completion, body, split) for _, body in spans]
    verdicts = {name: await judge(row, bodies) for name, judge in judges.items()}
    row = {**row, "judge": ",".join(judges), "verdict": {name: v.words for name, v in verdicts.items()}, "split": split}
    found = {verdict.bad_step for verdict in verdicts.values()}
    unsure = [bad_step for bad_step in found if isinstance(bad_step, str)]
    if unsure or len(found) > 1 or found == {0}:
        return {**row, "drop": unsure[0] if unsure else "no error found" if found == {0} else "judges disagree"}
    bad_step = found.pop()
    joint = spans[bad_step - 1][1]
    if not bodies[bad_step - 1]:
        return {**row, "drop": "empty step"}
    return {**row, "bad_step": bad_step, "initial_reason_steps": completion[:joint],
            "rejected": bodies[bad_step - 1], "full_rejected": completion[joint:]}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=0.0)
    parser.add_argument("--judge", required=True, help="a model, 'equations', or several that must agree")
    parser.add_argument("--judge-url", help="OpenAI-compatible server of the judge (default: the OpenAI variables)")
    parser.add_argument("--neutral-is-error", action="store_true", help="as in the paper's release")
    args = parser.parse_args(argv)
    check_ask_flags(args)
    judges = {name: make_judge(name, args) for name in args.judge.split(",")}

    async def work(row):
        return [await locate(row, judges)]

    return run_stage(open_output("locate.py", args), args.input, ("prompt", "answer", "completion"),
                     lambda row: [row], work, args.concurrency)


if __name__ == "__main__":
    run_main(main)
