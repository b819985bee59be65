"""Step localisation (Step-DPO, section 3.2): find the first wrong step of each wrong answer.

    python locate.py --judge gpt-4o < wrong.jsonl > located.jsonl
    python locate.py --judge rollouts --model M --rollouts 16 < wrong.jsonl > located.jsonl
    python locate.py --judge equations --score labelled.jsonl       # how good is this judge?

in:  rows of collect.py: {"id", "prompt", "answer", "completion"[, "solution"]}
out: the row with {"bad_step", "judge", "verdict", "split", "initial_reason_steps", "rejected", "full_rejected"};
     initial_reason_steps + full_rejected is the completion, and rejected, the wrong step, begins full_rejected

--judge NAME is one of
  equations: no model; checks the arithmetic that each step states and where its numbers come from
  rollouts: no judge; --model continues from the steps before k, and the first step from which it no longer reaches
    the gold answer is the wrong one (Math-Shepherd, arXiv 2312.08935; OmegaPRM, arXiv 2406.06592)
  human: shows the steps in the terminal and takes a number
  any other name: a model behind --judge-url (default: the OpenAI variables; key from JUDGE_API_KEY, else
    OPENAI_API_KEY), or a local model folder; it sees the problem, the row's `solution` (else its `answer`) and the
    numbered steps
or several, joined by commas, which must agree; they are asked in this order, until one is not sure or disagrees, so
name the cheap ones first. A judge that is not sure drops the row and says why; the row keeps what all of them said.

What every judge does with odd answers
  text before Step 1: context, shown to a model or a person, and never at fault
  no `Step` headers: split at blank lines ("split": "paragraphs")
  a right final answer: dropped before anybody is asked. --score asks; then rollouts find no error unless they --scan
  right steps before a wrong last line ("The answer is: 9"): an error of the last step, to which that line belongs
  steps that repeat are steps, and sixty are as good as three
  a reply in another language, or whose analysis says something else: only its labels are read
  a reply whose labels contradict each other, or do not fit the steps: asked for again, then "unparsed"
"""
import argparse
import asyncio
import difflib
import functools
import json
import math
import operator
import os
import re
import sys
import time
from collections import Counter, deque, namedtuple
from fractions import Fraction

from evaluate import (SPENT, Policy, add_ask_flags, chat_server, check_ask_flags, local_engine, percent, sample_seed,
                      wilson)
from grade import extract_answer, read_number, same_answer
from steps import (Help, Quit, Refused, UserError, add_record_flags, cut_step, find_steps, load_tokenizer, once,
                   open_output, printable, render_chat, run_main, run_stage, split_steps, strip_header)

# bad_step: 1.., 0 for no error, or the reason why there is no telling, as text
Verdict = namedtuple("Verdict", "bad_step words")
JUDGE_TRIES = 3
OWN_JUDGES = ("equations", "rollouts", "human")  # any other name is a model's
# A judge is a coroutine judge(row, parts, whole) -> Verdict. parts: what comes before Step 1, then the steps with
# their headers; joined they are the completion, or the beginning of one when it is not `whole`.


def is_right(row, completion):
    """Whether the final answer of a completion is the row's gold answer."""
    final = extract_answer(completion)
    return final is not None and same_answer(final, row["answer"], row["prompt"])


# ------------------------------------------------------------------------------------------ an LLM judge

JUDGE_PROMPT = """Here is a problem{and_reference} and an answer to check, step by step. Find the first step \
that is incorrect, if there is one.

Problem:
{problem}
{reference}
Answer to check:
{preamble}{steps}

First analyse the steps one after another, in at most 200 words. Then write a line "Final Decision:" and below it one \
label for each step, "Step 1: correct; Step 2: neutral; ...": correct, neutral (it neither helps nor harms) or \
incorrect. Stop at the first incorrect step."""
REMINDER = "\n\nEnd with the line \"Final Decision:\" and the labels, nothing else."
LABEL = re.compile(r"step\s*(\d{1,6})\W{1,6}(?:is\s+)?(incorrect|correct|neutral)", re.I)


def judge_text(row, parts):
    """What an LLM judge is asked. Steps are numbered by their place, whatever number the model wrote."""
    kind = next((name for name in ("solution", "answer") if isinstance(row.get(name), str) and row[name]), None)
    return JUDGE_PROMPT.format(
        and_reference=f", its correct {kind}" if kind else "", problem=row["prompt"],
        reference=f"\nCorrect {kind}:\n{row[kind]}\n" if kind else "",
        preamble=parts[0].strip() + "\n" if parts[0].strip() else "",
        steps="\n".join(f"Step {k}: {strip_header(part).strip()}" for k, part in enumerate(parts[1:], 1)))


def parse_labels(reply):
    """(step, label) pairs of a judge's reply: a JSON object at its end, or the text after the last "Final Decision"."""
    text = re.sub(r"```(?:json)?", "", reply)
    try:
        found = json.loads(text[max(text.rfind("{"), 0):text.rfind("}") + 1], strict=False)
    except ValueError:
        found = None
    if isinstance(found, dict) and found:
        text = "; ".join(f"Step {key.lower().replace('step', '').strip()}: {value}" for key, value in found.items()
                         if isinstance(value, str))
    else:
        at = text.lower().rfind("final decision")
        text = text[at:] if at >= 0 else ""
    return [(int(k), label.lower()) for k, label in LABEL.findall(text)]


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
    """A judge that asks a model for `--votes` replies; one that cannot be read is asked for again with a reminder."""
    temperature = args.temperature if args.temperature is not None else 0.0 if args.votes == 1 else 0.8
    how = dict(temperature=temperature, top_p=args.top_p, max_tokens=args.max_tokens)
    tokenizer = load_tokenizer(name) if os.path.isdir(name) and not args.judge_url else None
    engine = None

    async def vote(row, text, n_steps, j):
        for again in range(JUDGE_TRIES):
            asked = text + again * REMINDER  # asked in the same words, a greedy judge would say the same
            asked = render_chat(tokenizer, asked) if tokenizer else asked
            seed = sample_seed(args.seed, f"{name}/{row['id']}", f"{j}.{again}")
            try:
                reply, _ = await once(seed, lambda: engine(asked, seed))
            except Refused as error:  # costs this vote, not the others
                return Verdict(error.args[0], "".join(error.args[1:]))
            bad_step = parse_verdict(reply, n_steps, args.neutral_is_error)
            if bad_step != "unparsed":
                break
        return Verdict(bad_step, reply)

    async def judge(row, parts, whole):
        nonlocal engine
        if engine is None:
            engine = (local_engine(name, tokenizer, (), args.batch_size, args.device, how) if tokenizer else
                      chat_server(args.judge_url, name, args, how, key="JUDGE_API_KEY"))
        text = judge_text(row, parts)
        votes = await asyncio.gather(*(vote(row, text, len(parts) - 1, j) for j in range(args.votes)))
        winner, n = Counter(bad_step for bad_step, _ in votes).most_common(1)[0]
        return Verdict(winner if 2 * n > args.votes else "no majority",
                       votes[0].words if args.votes == 1 else [words for _, words in votes])
    return judge


# -------------------------------------------------------------------------------- the judge of rollouts

async def find_loss(reaches, last, scan, right):
    """The step after which the answer is out of reach, 0 for none, None if it never was in reach.

    After the last step the final answer stands, `right` or not. reaches(k): a coroutine, whether it is in reach after
    k steps. Binary search finds *a* step at which it is lost, the first one if success only falls; a scan asks all.
    """
    if scan:
        reached = await asyncio.gather(*map(reaches, range(last)))
        return next((k for k in range(last) if not reached[k]), 0 if right else last) if reached[0] else None
    if not await reaches(0):
        return None
    low, found = 0, last  # in reach after `low` steps, not after `found`
    while found - low > 1 and not right:
        k = (low + found) // 2
        low, found = (k, found) if await reaches(k) else (low, k)
    return 0 if right else found


def rollouts_judge(args, policy=None):
    """A judge that asks the policy itself: from the steps before the first wrong one it can still get there.

    The words are {"probes": {k: [right, n]}, "sure": p}. probes, the values of steps: how many of n continuations
    after k steps reached the gold answer. sure: the chance that some of n would have after the named step too, had it
    been as good as what stands before it, whose rate is only known from `right` of n (beta-binomial, flat prior).
    A prefix that several answers share is probed once.
    """
    if not args.model:
        raise UserError("--judge rollouts needs --model, the policy whose answers are judged", 2)
    if policy is None:
        temperature = 0.8 if args.temperature is None else args.temperature
        policy = Policy(argparse.Namespace(**{**vars(args), "temperature": temperature}))
    n = args.rollouts

    async def sample(problem, prefix, answer):
        seeds = [sample_seed(args.seed, f"{problem}\n{prefix}", m) for m in range(n)]
        replies = await asyncio.gather(*(policy.ask_once(problem, prefix, seed) for seed in seeds))
        preds = [extract_answer(prefix + reply.text) for reply in replies if reply.finish_reason != "length"]
        return [sum(same_answer(pred, answer, problem) for pred in preds if pred), n]

    @functools.lru_cache(10_000)  # answers to one problem follow one another
    def probe(*what):
        return asyncio.ensure_future(sample(*what))

    async def judge(row, parts, whole):
        if not row.get("answer"):
            return Verdict("no answer", None)
        probes, last = {}, len(parts) - 1

        async def reaches(k):
            prefix = "".join(parts[:k + 1]).rstrip()  # tokens like "\nStep" begin with the white space
            key = f"{k} {sample_seed(args.seed, prefix, 'probe')}"
            probes[k] = await once(key, lambda: probe(row["prompt"], prefix, row["answer"]))
            return probes[k][0] > 0

        if not whole:
            return Verdict(0 if await reaches(last) else last, {"probes": probes})
        found = await find_loss(reaches, last, args.scan, is_right(row, "".join(parts)))
        words = {"probes": dict(sorted(probes.items()))}
        if found is None:
            return Verdict("never solved", words)
        if found:
            lost = n - probes[found - 1][0]
            by_chance = math.prod((lost + 1 + i) / (n + 2 + i) for i in range(n)) if found < last else 0
            words["sure"] = round(1 - by_chance, 4)
        return Verdict(found, words)
    return judge


# ------------------------------------------------------------------------------- the judge of equations

PLAIN = [(re.compile(pattern, re.M), plain) for pattern, plain in (  # to one spelling, in this order
    (r"^[ \t]*[-*•][ \t]+", ""), (r"\\\\|\\(?:begin|end)\{[a-z]+\*?\}", "\n"),  # a bullet is no minus
    (r"<<[^<>\n]{0,99}>>", ""), (r"\{,\}", ","), (r"(?<![\w.)])\.(?=\d)", "0."),
    (r"(?<=\d)(?:\\[,!]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))", ""),
    (r"\\(?:left|right|q?quad)(?![a-z])|\\[,;:!() \[\]]|\*\*|&|\\?\$|[€£¥°]|\^\{?\\circ\}?", " "),
    (r"\\(?:text|mathrm|mbox)\{([^{}]{0,80})\}", r" \1 "), (r"\\%|(?<=\d)[ \t]percent\b", "%"),
    (r"\\(?:times|cdot|ast)(?![a-z])|[×·⋅∙∗]", "*"), (r"\\div(?![a-z])|[÷∕⁄]", "/"), ("[−–]", "-"),
    (r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"((\1)/(\2))"), (r"\\boxed\{([^{}]{0,80})\}", r" \1 "),
    (r"\[", "("), (r"\]", ")"),
    (r"(?<=\d)[ \t]*[xX][ \t]*(?=\d)|[ \t][xX][ \t]+(?=[\d(])", "*"),
    (r"\band (?=an? (?:half|third|quarter)|(?:half|one|two|three)\b|\d+/\d)", "half "),  # 3 and a half
    (r"[^\S\n]{2,}", " "))]  # or END would take quadratic time
# words that stand for arithmetic: a number beside one is not the whole of what is meant
ARITHMETIC = set("""per times plus minus divided multiplied by half third fourth quarter fifth sixth seventh eighth
    ninth tenth double twice triple dozen hundred thousand million billion remainder mod modulo r less than over power
    square squared cube cubed factorial choose sqrt root log ln exp sin cos tan max min gcd lcm pi""".split())
NUMBER_WORDS = {word: n for n, word in enumerate(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty""".split())} | {"twice": 2, "double": 2, "half": 2, "triple": 3, "third": 3, "quarter": 4,
                                             "dozen": 12}
UNUSUAL = re.compile(r"\b(?:base|binary|octal|hexadecimal|mod|modulo|clock|defined?s?|operation)\b", re.I)
UNCLAIMED = re.compile(r"\b(?:suppose|assum\w+|if|not|false|wrong|mistake|wait|contradict\w*|instead|try)\b", re.I)
END = (r"""[ ]?\n\s*|[.,;:?"'“”‘’<>≤≥≠≈→⇒∴。，；：？、]"""
       r"|\\(?:approx|implies|[rR]ightarrow|to|therefore|leq?|geq?|neq?)(?![a-z])")
LETTER = r"[^\W\d_]"
UNIT = (r"(?:[cmk]m|[km]g|ml|oz|lbs?|ft|hrs?|min|sec|mph|st|nd|rd|th)(?!\w)"  # 5km
        rf"|(?:[ \t]+(?!(?:{'|'.join(ARITHMETIC - {'per'})}|of)s?\b)(?:{LETTER}{{2,}}|a\b)){{0,4}}"  # 5 cups a day
        rf"(?:[ \t]?/[ \t]?{LETTER}{{2,}})?")  # 5 dollars/hour
TOKEN = re.compile(rf"(?P<number>(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?(?![.,:]?\d)%?)"
                   rf"(?P<unit>(?:{UNIT})(?=[ \t]*(?:[-+*/=)]|{END}|\Z)))?"
                   rf"|(?P<sign>[-+*/()=])|(?P<end>{END})|(?P<word>{LETTER}+)|(?P<other>\d[\d.,:]*|\\[a-zA-Z]+|\S)")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
# kind: a number (with its unit), a sign, the end of a clause, a word, or what changes the value of a number beside it
Token = namedtuple("Token", "kind text unit", defaults=[""])
Equation = namedtuple("Equation", "left right units")  # left, right: tokens as texts, or None for an unreadable side


def read_tokens(text):
    """The Tokens of a text, with two ends on either side."""
    for pattern, plain in PLAIN:
        text = pattern.sub(plain, text)
    tokens, end = [Token("end", "")] * 2, -1
    for match in TOKEN.finditer(text):
        kind = next(kind for kind in ("number", "sign", "end", "word", "other") if match[kind])
        said, before, glued, end = match[kind], tokens[-1], match.start() == end, match.end()
        if kind == "word" and (
                {said.lower(), said.lower().rstrip("s")} & ARITHMETIC or len(said) == 1 and said not in "aAI"  # x
                or glued and before.kind == "number" or said == "of" and before.kind != "word"):  # 3ab, 20% of
            kind = "other"
        if before.kind == "word" and (said == "-" and (glued or not text[end:end + 1].isdigit())  # Total - 5
                                      or glued and (kind == "number" or said == "(")):  # log2, f(3)
            tokens[-1] = Token("other", before.text)
        if (kind == "number" or said == "(") and (before.kind == "number" or before.text == ")"):
            tokens.append(Token("end" if before.unit else "other", ""))  # 5 apples (3 + 2 = 5), but 1 1/2 or 2 (3 + 4)
        tokens.append(Token(kind, said, match["unit"] or ""))
    return tokens + [Token("end", "")] * 2


def read_side(tokens, at, step):
    """The numbers and signs left (step -1) or right (+1) of the equals sign tokens[at].

    None where what stands beyond them changes their value, as in 2x + 3 = 7 or half of 30 + 4 = 19.
    """
    run, at = [], at + step
    while tokens[at].kind in ("number", "sign") and tokens[at].text != "=":
        run.append(tokens[at])
        at += step
    stop, beyond = tokens[at], tokens[at + step]
    run = run[::step]
    broken = "\n" in stop.text and beyond.text in OPERATIONS or stop.text == ":" and beyond.kind == "number"  # 12 : 4
    if run and (stop.kind == "other" or broken or step < 0 and run[0].text in "+*/)"):
        return None
    unclosed = sum((token.text == "(") - (token.text == ")") for token in run)
    if step < 0 and unclosed > 0 and run[0].text == "(":
        return run[1:]  # (3 + 4 = 7)
    return run[:-1] if step > 0 and unclosed < 0 and run[-1].text == ")" else run


def find_equations(text):
    """Equations of plain numbers in a text, those of a chain one by one."""
    tokens = read_tokens(text)
    for at, token in enumerate(tokens):
        if token.text == "=":
            left, right = read_side(tokens, at, -1), read_side(tokens, at, +1)
            if left == [] or right == [] and left is not None and len(left) == 1:
                continue  # nothing stands before the sign of "Total = 3 + 4", nothing is claimed by "7 = x"
            units = {token.unit.split()[-1].lower().rstrip("s") for token in (left or []) + (right or []) if token.unit}
            yield Equation(*([token.text for token in side] if side else None for side in (left, right)), units)


def calculate(tokens):
    """The exact value of an arithmetic expression; nothing is ever executed. ValueError or ZeroDivisionError."""
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
        value = read_number(token.strip("%"))
        if value is None:
            raise ValueError(f"not a number: {token!r}")
        return value / 100 if token.endswith("%") else value

    def chain(signs, operand):
        value = operand()
        while tokens and tokens[0] in signs:
            value = OPERATIONS[tokens.pop(0)](value, operand())
        return value

    def total():
        return chain("+-", lambda: chain("*/", factor))

    value = total()
    if tokens:
        raise ValueError(f"left over: {tokens[0]!r}")
    return value


def holds(left, right, units=()):
    """True, False, or None for "cannot tell", of left = right; a right side with decimals may be rounded."""
    try:
        x, y = calculate(left), calculate(right)
    except (ValueError, ZeroDivisionError):
        return None
    places = len(right[0].partition(".")[2]) if len(right) == 1 else 0
    if x == y or places and abs(x - y) < Fraction(1, 10 ** places):
        return True
    decimals = [token for token in [*left, *right] if "." in token]
    if (len(units) > 1  # hours and minutes
            or abs(x - 100 * y) < abs(y) or abs(100 * x - y) < abs(x)  # 1 / 3 * 100 = 33.3%, 50 + 50 cents = $1
            or abs(x - y) < 1 and not places  # 100 / 3 = 33 may be meant
            or decimals and abs(x - y) < abs(y) / 100  # what was rounded before is used again
            or any(re.fullmatch(r"\d{1,3}\.\d{3}", token) for token in decimals)):  # 1.200 may be a thousand and more
        return None
    return False


def numbers(texts):
    """Sizes of the numbers among texts of tokens."""
    found = [read_number(text.strip("%")) for text in texts if text[:1].isdigit()]
    return {abs(number) for number in found if number is not None}


def strangers(texts, known):
    """Numbers among texts of tokens that come from nowhere: they are not known, nor are they a known percentage."""
    return {number for number in numbers(texts) if not {number, 100 * number} & known}


def check_step(step, known):
    """(True, False or None for "cannot tell" of the arithmetic that a step states, the last equation or the doubt).

    known: the sizes of numbers that may be used; the results of equations that hold are added to them.
    """
    said = None
    for left, right, units in find_equations(step):
        if left is None or right is None:
            return None, "has an equation of more than numbers"
        if len(left) == 1:
            continue
        said, true = f"{' '.join(left)} = {' '.join(right)}", holds(left, right, units)
        if strange := strangers(left, known):
            return None, f"{said} uses {min(strange)}"
        if not true:
            return None if UNCLAIMED.search(step) else true, said
        known |= numbers(right) | {abs(calculate(right))}
    return True, said


def judge_equations(row, parts, whole=True):
    """Verdict: the first step that states a wrong equation, if nothing before it is in doubt.

    In doubt is a step with an equation that cannot be read, or with a number that is neither the problem's nor the
    result of an equation that holds. No error is found only where every step states an equation and the answer, if it
    is `whole` and the gold answer is known, is right; when the equations end at the gold answer and the answer is
    another number, the last step is wrong.
    """
    if len(row["prompt"]) + sum(map(len, parts)) > 50_000:  # time grows with length, and other rows wait
        return Verdict("cannot tell", "too long to read")
    words = re.findall(r"[a-z]+", row["prompt"].lower())
    known = {NUMBER_WORDS[word] for word in words if word in NUMBER_WORDS} | {1, 2, 100}
    known |= numbers(token.text for token in read_tokens(row["prompt"]))
    last, mute, said = len(parts) - 1, None, None
    for k, step in enumerate(map(strip_header, parts)):
        true, said = check_step(step, known)
        if true is False and k and not UNUSUAL.search(row["prompt"]):  # 5 + 4 = 11 in base 8
            return Verdict(k, f"step {k}: {said} does not hold")
        if not true:
            return Verdict("cannot tell", f"step {k}: {said}")
        strange = strangers([token.text for token in read_tokens(step)], known)
        if strange and (k < last or not whole):  # but the last line may name another answer
            return Verdict("cannot tell", f"step {k} has {min(strange)} from nowhere")
        mute = mute or k and not said and k
    if mute:
        return Verdict("cannot tell", f"step {mute} states no equation")
    if not whole or not row.get("answer") or is_right(row, "".join(parts)):
        return Verdict(0, "every equation holds")
    if read_number(extract_answer("".join(parts)) or "") is not None and said.endswith(f"= {row['answer']}"):
        return Verdict(last, f"{said}, but another answer is given")
    return Verdict("cannot tell", "every equation holds, but the answer is not right")


async def equations_judge(row, parts, whole):
    return judge_equations(row, parts, whole)


# ------------------------------------------------------------------------------------ the judge at the desk

class Back(Exception):
    """The person wants the row before this one again."""


async def read_terminal(question):
    """A line from the terminal, whatever stdin is; "quit" at its end."""
    loop, line = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        raise UserError("--judge human: no terminal to ask on; run it in one", 2) from error
    os.write(terminal, question.encode("utf-8", "replace"))
    loop.add_reader(terminal, lambda: line.done() or line.set_result(os.read(terminal, 4096)))
    try:
        return ((await line) or b"quit").decode("utf-8", "replace").strip().lower()
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)


def human_judge():
    """A judge that shows problem, solution and steps on the terminal and takes a number, none, skip, back or quit.

    Its `done["rows"]` counts the rows that the person has judged.
    """
    done = Counter()

    async def judge(row, parts, whole):
        shown = "\n".join([f"\n{'=' * 78}", row["prompt"], "-" * 78, row.get("solution") or "",
                           f"Answer: {row.get('answer', '')}", "-" * 78, parts[0].strip(),
                           *(f"[{k}] {part.strip()}" for k, part in enumerate(parts[1:], 1)), ""])
        shown = printable(shown)
        while True:
            said = await read_terminal(f"{shown}\n{done['rows']} done. First wrong step: 1-{len(parts) - 1}, "
                                       "(n)one, (s)kip, (b)ack, (q)uit? ")
            if said in ("b", "back"):
                done["rows"] = max(0, done["rows"] - 1)
                raise Back
            if said in ("q", "quit"):
                raise Quit
            if said in ("s", "skip", "n", "none") or said.isascii() and said.isdigit() and 1 <= int(said) < len(parts):
                done["rows"] += 1
                return Verdict("skipped" if said[0] == "s" else 0 if said[0] == "n" else int(said), None)
            shown = f"{said[:20]!r} is none of these."
    judge.done = done
    return judge


# ------------------------------------------------------------------------------------------------- stage

def make_judges(names, args, policy=None):
    """{name: judge} for a judge, or several joined by commas. policy: that of rollouts, if it is open already."""
    def make(name):
        if name == "equations":
            return equations_judge
        if name == "human":
            return human_judge()
        return rollouts_judge(args, policy) if name == "rollouts" else llm_judge(name, args)
    asked = [name.strip() for name in names.split(",")]
    for name in asked:  # whatever is not refused here is a model that a server is asked for
        near = difflib.get_close_matches(name, OWN_JUDGES, 1, 0.8)
        if not name or near and name not in OWN_JUDGES or name.startswith((".", "/")) and not os.path.isdir(name):
            hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(OWN_JUDGES)}, a model or its folder"
            raise UserError(f"--judge {names!r}: {name!r} is none; {hint}", 2)
    return {name: make(name) for name in asked}


async def agree(row, parts, judges, whole=True):
    """(what all judges say, {judge: its words}). After one that is not sure the next are not asked."""
    found, words = None, {}
    for name, judge in judges.items():
        try:
            bad_step, words[name] = await judge(row, parts, whole)
        except Refused as error:  # costs this verdict, not the other answers to the problem
            bad_step, words[name] = error.args[0], "".join(error.args[1:])
        if isinstance(bad_step, str):
            return bad_step, words
        if found not in (None, bad_step):
            return "judges disagree", words
        found = bad_step
    return found, words


async def locate(row, judges):
    """The row with its first wrong step cut out, or with the reason why there is none."""
    completion = row["completion"]
    right = row.get("correct")
    if right if isinstance(right, bool) else is_right(row, completion):
        return {**row, "drop": "answer is right"}
    spans, split = find_steps(completion)
    if not spans:
        return {**row, "drop": "no steps"}
    bad_step, words = await agree(row, split_steps(completion), judges)
    row = {**row, "judge": ",".join(judges), "verdict": words, "split": split}
    if isinstance(bad_step, str) or bad_step == 0:
        return {**row, "drop": bad_step or "no error found"}
    joint = spans[bad_step - 1][1]
    rejected = cut_step(completion, joint, split)
    if not rejected:
        return {**row, "drop": "empty step"}
    return {**row, "bad_step": bad_step, "initial_reason_steps": completion[:joint], "rejected": rejected,
            "full_rejected": completion[joint:]}


def run_judged(output, path, required, work, width, judges, each=None):
    """`run_stage` where a person may be among the judges: one row at a time then, and `back` takes the row before
    out of the output and asks for it again."""
    if "human" not in judges:
        return run_stage(output, path, required, lambda row: [row], work, width, each=each)
    if not output.path:
        raise UserError("--judge human needs --out FILE: hours at the desk are not for a pipe", 2)
    done, finished = judges["human"].done, deque(maxlen=output.UNDO)  # finished: (row, whether the person was asked)

    async def undoable(row):
        while True:
            before = done["rows"]
            try:
                rows = await work(row)
                finished.append((row, done["rows"] > before))
                return rows
            except Back:
                again, asked = [], False
                while finished and not asked and output.undo(finished[-1][0]["id"]):
                    last, asked = finished.pop()
                    again.append(last)
                for last in reversed(again):
                    output.write(last["id"], await undoable(last))
    return run_stage(output, path, required, lambda row: [row], undoable, 1, each=each)


# ------------------------------------------------------------------------------------------------- score

def labelled(row, where):
    """(row, parts, label) of a row in ProcessBench's shape, or of ours with a known `bad_step`; label 0 is no error."""
    if isinstance(row.get("steps"), list) and isinstance(row.get("label"), int):
        return {**row, "prompt": row["problem"]}, ["", *(f"{step}\n\n" for step in row["steps"])], row["label"] + 1
    if isinstance(row.get("completion"), str) and "bad_step" in row:
        return row, split_steps(row["completion"]), row["bad_step"] or 0
    raise UserError(f"{where}: row {row['id']} has neither ProcessBench's problem, steps and label nor our completion "
                    "and bad_step")


def score_report(said):
    """Lines: ProcessBench's figures (arXiv 2412.06559) with 95 % intervals. said: (verdict, label) pairs."""
    sides = {"wrong": [v == label for v, label in said if label], "right": [v == 0 for v, label in said if not label]}
    named = [v == label for v, label in said if v and not isinstance(v, str)]
    for name, hits in (*((f"accuracy on {side}", hits) for side, hits in sides.items()), ("precision", named)):
        if hits:
            yield f"{name:17} {percent(sum(hits) / len(hits), wilson(sum(hits), len(hits)))} of {len(hits)}"
    if all(sides.values()):
        import numpy as np
        draws = np.random.default_rng(0)
        a, b = (draws.beta(sum(hits) + 0.5, len(hits) - sum(hits) + 0.5, 10_000) for hits in sides.values())
        x, y = (sum(hits) / len(hits) for hits in sides.values())
        yield f"{'F1':17} {percent(2 * x * y / (x + y or 1), np.percentile(2 * a * b / (a + b), [2.5, 97.5]))}"
    unsure = Counter(v for v, _ in said if isinstance(v, str))
    yield f"{'unsure':17} {', '.join(f'{reason} {n}' for reason, n in unsure.most_common()) or 'never'}"


def score(args, judges):
    """Run the judges on rows whose first wrong step is known, and report how often they find it and at what cost."""
    said, begin, count = {}, time.monotonic(), 0

    async def work(row):
        nonlocal count
        row, parts, _ = labelled(row, args.score)
        found, words = await agree(row, parts, judges)
        count += 1
        row = {**row, "judge": args.judge, "found": found, "verdict": words}
        remember(row)  # here too: a person who goes back says something else
        return [row]

    def remember(row):
        said[row["id"]] = row["found"], labelled(row, args.score)[2]

    code = run_judged(open_output("locate.py", args), args.score, (), work, args.concurrency, judges, remember)
    print(*score_report([*said.values()]), sep="\n", file=sys.stderr)
    if count:  # rows of an earlier run cost nothing now
        spent = {"replies": SPENT["replies"], "tokens": SPENT["tokens"], "seconds": time.monotonic() - begin}
        print("per 1,000 rows   ", ", ".join(f"{1000 * cost / count:.0f} {name}" for name, cost in spent.items()),
              file=sys.stderr)
    return code


def add_judge_flags(parser):
    """The flags that decide how a judge judges, for locate.py and correct.py --verify."""
    parser.add_argument("--judge-url", help="OpenAI-compatible server of the judge (default: the OpenAI variables)")
    parser.add_argument("--votes", type=int, default=1, help="replies of an LLM judge, of which the majority counts")
    parser.add_argument("--neutral-is-error", action="store_true", help="as in the paper's release")
    parser.add_argument("--rollouts", type=int, default=8, help="continuations from each probed prefix")
    parser.add_argument("--scan", action="store_true", help="rollouts: probe every step, not by binary search")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=Help)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=None, top_p=0.95)
    parser.add_argument("--judge", required=True, help="equations, rollouts, human, a model; several must agree")
    add_judge_flags(parser)
    parser.add_argument("--score", metavar="FILE", help="rows with known labels: report how good the judge is")
    args = parser.parse_args(argv)
    check_ask_flags(args)
    judges = make_judges(args.judge, args)
    if args.score:
        return score(args, judges)

    async def work(row):
        return [await locate(row, judges)]

    return run_judged(open_output("locate.py", args), args.input, ("prompt", "answer", "completion"), work,
                      args.concurrency, judges)


if __name__ == "__main__":
    run_main(main)
