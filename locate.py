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
or several, joined by commas, which must agree. A judge that is not sure drops the row and says why.

What every judge does with odd answers: text before Step 1 is context and never at fault; an answer without headers
is split at blank lines ("split": "paragraphs"); a row whose final answer is right is dropped unless --score asks; an
error in the last line ("The answer is: 9" after right steps) belongs to the last step; steps that repeat are steps;
a reply in another language is read for its labels alone; one that contradicts itself is "unparsed".
"""
import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections import Counter, deque, namedtuple
from copy import copy
from fractions import Fraction

from evaluate import (SPENT, Policy, add_ask_flags, chat_server, check_ask_flags, local_engine, percent, sample_seed,
                      wilson)
from grade import extract_answer, read_number, same_answer
from steps import (Quit, UserError, add_record_flags, cut_step, find_steps, load_tokenizer, once, open_output,
                   render_chat, run_main, run_stage, split_steps, strip_header)

# bad_step: 1.., 0 for no error, or the reason why there is no telling, as text
Verdict = namedtuple("Verdict", "bad_step words")
JUDGE_TRIES = 3
# A judge is a coroutine judge(row, parts, whole) -> Verdict. parts: what comes before Step 1, then the steps with
# their headers; joined they are the completion, or the beginning of one when it is not `whole`.


# ------------------------------------------------------------------------------------------ an LLM judge

JUDGE_PROMPT = """Here is a problem{and_reference} and an answer to check, step by step. Find the first step \
that is incorrect, if there is one.

Problem:
{problem}
{reference}
Answer to check:
{steps}

First analyse the steps one after another, in at most 200 words. Then write a line "Final Decision:" and below it one \
label for each step, "Step 1: correct; Step 2: neutral; ...": correct, neutral (it neither helps nor harms) or \
incorrect. Stop at the first incorrect step."""
LABEL = re.compile(r"step\s*(\d{1,6})\W{1,6}(?:is\s+)?(incorrect|correct|neutral)", re.I)


def judge_text(row, steps):
    """What an LLM judge is asked. Steps are numbered by their place, whatever number the model wrote."""
    kind = next((name for name in ("solution", "answer") if isinstance(row.get(name), str) and row[name]), None)
    return JUDGE_PROMPT.format(
        and_reference=f", its correct {kind}" if kind else "", problem=row["prompt"],
        reference=f"\nCorrect {kind}:\n{row[kind]}\n" if kind else "",
        steps="\n".join(f"Step {k}: {step}" for k, step in enumerate(steps, 1)))


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
    """A judge that asks a model: `--votes` replies, each asked for again a few times while it cannot be read."""
    temperature = args.temperature if args.temperature is not None else 0.0 if args.votes == 1 else 0.8
    how = dict(temperature=temperature, top_p=args.top_p, max_tokens=args.max_tokens)
    tokenizer = load_tokenizer(name) if os.path.isdir(name) and not args.judge_url else None
    engine = None

    async def vote(row, text, n_steps, j):
        for again in range(JUDGE_TRIES):
            seed = sample_seed(args.seed, f"{name}/{row['id']}", f"{j}.{again}")
            reply, _ = await once(seed, lambda: engine(text, seed))
            bad_step = parse_verdict(reply, n_steps, args.neutral_is_error)
            if bad_step != "unparsed":
                break
        return Verdict(bad_step, reply)

    async def judge(row, parts, whole):
        nonlocal engine
        if engine is None:
            engine = (local_engine(name, tokenizer, (), args.batch_size, args.device, how) if tokenizer else
                      chat_server(args.judge_url, name, args, how, key="JUDGE_API_KEY"))
        text = judge_text(row, [strip_header(part).strip() for part in parts[1:]])
        if tokenizer:
            text = render_chat(tokenizer, text)
        votes = await asyncio.gather(*(vote(row, text, len(parts) - 1, j) for j in range(args.votes)))
        (winner, n), *others = Counter(bad_step for bad_step, _ in votes).most_common()
        if others and others[0][1] == n:
            winner = "votes tie"
        return Verdict(winner, votes[0].words if args.votes == 1 else [words for _, words in votes])
    return judge


# -------------------------------------------------------------------------------- the judge of rollouts

def rollouts_judge(args):
    """A judge that asks the policy itself: from the steps before the first wrong one it can still get there.

    The words are {"probes": {k: [right, n]}, "sure": p}: how many of n continuations after k steps reached the gold
    answer, and the chance that so many would have, had the step been as good as the ones before it (with the rate
    after k − 1 steps taken as (right + 1) / (n + 2)). Binary search finds *a* step at which success is lost, the
    first one if success only falls; --scan probes every step up to the first one.
    """
    args = copy(args)
    args.temperature = 0.8 if args.temperature is None else args.temperature
    policy, n = Policy(args), args.rollouts

    async def judge(row, parts, whole):
        if not row.get("answer"):
            return Verdict("no answer", None)
        probes = {}

        async def reaches(k):
            prefix = "".join(parts[:k + 1])
            seeds = [sample_seed(args.seed, f"{row['id']}@{k}", m) for m in range(n)]
            replies = await asyncio.gather(*(policy.ask_once(row["prompt"], prefix, seed) for seed in seeds))
            answers = [extract_answer(prefix + reply.text) for reply in replies if reply.finish_reason != "length"]
            probes[k] = [sum(same_answer(answer, row["answer"], row["prompt"]) for answer in answers if answer), n]
            return probes[k][0] > 0

        if not await reaches(0):
            return Verdict("never solved", {"probes": probes})
        final, last = extract_answer("".join(parts)), len(parts) - 1
        right = final is not None and same_answer(final, row["answer"], row["prompt"])
        if not whole:
            found = 0 if await reaches(last) else last
        elif args.scan:
            found = 0 if right else last
            for k in range(1, last):
                if not await reaches(k):
                    found = k
                    break
        elif right:
            found = 0
        else:  # reached after `low` steps, not after `found`: after the last one the answer stands and is wrong
            low, found = 0, last
            while found - low > 1:
                k = (low + found) // 2
                low, found = (k, found) if await reaches(k) else (low, k)
        words = {"probes": probes}
        if found in probes and found - 1 in probes:
            words["sure"] = round(1 - (1 - (probes[found - 1][0] + 1) / (n + 2)) ** n, 4)
        return Verdict(found, words)
    return judge


# ------------------------------------------------------------------------------- the judge of equations

SIGNS = [(r"^[ \t]*[-*][ \t]+", ""), (r"\\(?:left|right|quad|,|;|!|\(|\)|\[|\]| )|\*\*|&", " "),
         (r"\\(?:text|mathrm|boxed)(?=\{)", " "), (r"\{,\}", ","), (r"\\times|\\cdot|[×·∗]", "*"), (r"\\div|[÷∕]", "/"),
         (r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"((\1)/(\2))"), ("[−–]", "-"), (r"\\([$%])", r"\1"),
         (r"[{}]", " "), (r"(?<=\d)[ \t]*[xX][ \t]*(?=\d)", "*"),
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
                run, units, before = [], set(), "" if apart and before != UNREADABLE else UNREADABLE
            bound = last == "word" and (glued or len(before) == 1) or before[:1] in [*")]}|"]
            if not run and token in "(-" and bound:
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
    elif sides[0] and sides[0].count("(") > sides[0].count(")") and (sides[-1] or [])[-1:] == [")"]:
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
    """Verdict: the first step whose stated arithmetic is wrong, if every step before it is checked and right.

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


async def equations_judge(row, parts, whole):
    return judge_equations(row, [strip_header(part) for part in parts[1:]])


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
    """A judge that shows problem, solution and steps on the terminal and takes a number, none, skip, back or quit."""
    done = Counter()

    async def judge(row, parts, whole):
        shown = "\n".join([f"\n{'=' * 78}", row["prompt"], "-" * 78, row.get("solution") or "",
                           f"Answer: {row.get('answer', '')}", "-" * 78, parts[0].strip(),
                           *(f"[{k}] {part.strip()}" for k, part in enumerate(parts[1:], 1)), ""])
        shown = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", shown)  # a row may hold terminal commands
        while True:
            said = await read_terminal(f"{shown}\n{done['rows']} done. First wrong step: 1-{len(parts) - 1}, "
                                       "(n)one, (s)kip, (b)ack, (q)uit? ")
            if said in ("b", "back"):
                done["rows"] -= 1
                raise Back
            if said in ("q", "quit"):
                raise Quit
            if said in ("s", "skip", "n", "none") or said.isascii() and said.isdigit() and 1 <= int(said) < len(parts):
                done["rows"] += 1
                return Verdict("skipped" if said[0] == "s" else 0 if said[0] == "n" else int(said), None)
            shown = f"{said[:20]!r} is none of these."
    return judge


# ------------------------------------------------------------------------------------------------- stage

def make_judges(names, args):
    """{name: judge} for a judge, or several joined by commas."""
    def make(name):
        if name == "equations":
            return equations_judge
        if name == "human":
            return human_judge()
        return rollouts_judge(args) if name == "rollouts" else llm_judge(name, args)
    return {name: make(name) for name in names.split(",")}


async def agree(row, parts, judges, whole=True):
    """(what all judges say, {judge: its words}); "judges disagree" when they do not say the same."""
    verdicts = {name: await judge(row, parts, whole) for name, judge in judges.items()}
    said = {verdict.bad_step for verdict in verdicts.values()}
    unsure = [bad_step for bad_step in said if isinstance(bad_step, str)]
    return unsure[0] if unsure else said.pop() if len(said) == 1 else "judges disagree", {
        name: verdict.words for name, verdict in verdicts.items()}


async def locate(row, judges):
    """The row with its first wrong step cut out, or with the reason why there is none."""
    completion = row["completion"]
    if row.get("correct") is True:
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


def locator(judges, output):
    """work(row) of the stage. `back` at the desk takes the row before out of the output and asks for it again."""
    asked = deque(maxlen=output.UNDO)

    async def work(row):
        while True:
            try:
                done = [await locate(row, judges)]
                asked.append(row)
                return done
            except Back:
                if asked and output.undo(asked[-1]["id"]):
                    before = asked.pop()
                    output.write(before["id"], await work(before))
    return work


# ------------------------------------------------------------------------------------------------- score

def labelled(row, where):
    """(row, parts, label) of a row in ProcessBench's shape, or of ours with a known `bad_step`; label 0 is no error."""
    if isinstance(row.get("steps"), list) and isinstance(row.get("label"), int):
        return {**row, "prompt": row["problem"]}, ["", *(f"{step}\n\n" for step in row["steps"])], row["label"] + 1
    if isinstance(row.get("completion"), str) and "bad_step" in row:
        return row, split_steps(row["completion"]), row["bad_step"] or 0
    raise UserError(f"{where}: row {row['id']} has neither ProcessBench's problem, steps and label nor our completion "
                    "and bad_step")


def score_report(said, seconds):
    """ProcessBench's figures (arXiv 2412.06559) and the cost. said: (verdict, label) pairs."""
    sides = {"wrong": [v == label for v, label in said if label], "right": [v == 0 for v, label in said if not label]}
    for name, hits in sides.items():
        if hits:
            yield f"accuracy on {name:5} {percent(sum(hits) / len(hits), wilson(sum(hits), len(hits)))} of {len(hits)}"
    if all(sides.values()):
        import numpy as np
        draws = np.random.default_rng(0)
        a, b = (draws.binomial(len(hits), sum(hits) / len(hits), 10_000) / len(hits) for hits in sides.values())
        f1 = np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
        x, y = (sum(hits) / len(hits) for hits in sides.values())
        yield f"F1                {percent(2 * x * y / (x + y) if x + y else 0, np.percentile(f1, [2.5, 97.5]))}"
    found = [v == label for v, label in said if not isinstance(v, str) and v]
    if found:
        rate = percent(sum(found) / len(found), wilson(sum(found), len(found)))
        yield f"precision         {rate} of {len(found)} named steps"
    unsure = Counter(v for v, _ in said if isinstance(v, str))
    yield f"unsure            {', '.join(f'{reason} {n}' for reason, n in unsure.most_common()) or 'never'}"
    per = 1000 / len(said)
    yield (f"per 1,000 rows    {SPENT['replies'] * per:.0f} replies, {SPENT['tokens'] * per:.0f} tokens, "
           f"{seconds * per:.0f} seconds")


def score(args, judges):
    """Run the judges on rows whose first wrong step is known, and report how often they find it."""
    said, begin = [], time.monotonic()

    async def work(row):
        row, parts, label = labelled(row, args.score)
        verdict, words = await agree(row, parts, judges)
        said.append((verdict, label))
        return [{**row, "judge": args.judge, "found": verdict, "verdict": words}]

    code = run_stage(open_output("locate.py", args), args.score, (), lambda row: [row], work, args.concurrency)
    print(*score_report(said, time.monotonic() - begin), sep="\n", file=sys.stderr)
    return code


def add_judge_flags(parser):
    """The flags that decide how a judge judges, for locate.py and correct.py --verify."""
    parser.add_argument("--judge-url", help="OpenAI-compatible server of the judge (default: the OpenAI variables)")
    parser.add_argument("--votes", type=int, default=1, help="replies of an LLM judge, of which the majority counts")
    parser.add_argument("--neutral-is-error", action="store_true", help="as in the paper's release")
    parser.add_argument("--rollouts", type=int, default=8, help="continuations from each probed prefix")
    parser.add_argument("--scan", action="store_true", help="rollouts: probe every step, not by binary search")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
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
    if "human" in judges and args.out == "-":
        raise UserError("--judge human needs --out FILE: hours at the desk are not for a pipe", 2)
    output = open_output("locate.py", args)
    return run_stage(output, args.input, ("prompt", "answer", "completion"), lambda row: [row], locator(judges, output),
                     1 if "human" in judges else args.concurrency)


if __name__ == "__main__":
    run_main(main)
