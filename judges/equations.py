"""The judge without a model: it checks the arithmetic that each step states, and where its numbers come from.

Where every step is an equation of plain numbers, as in the demo's worlds, it is near perfect (F1 98.5). That is a fact
about those worlds. On answers of real models it mostly cannot tell: of ProcessBench's (docs/judges.md) it names less
than one error in a hundred. With --anywhere it names the first equation that is plainly false, whatever stands before
it: several times as many, about as often the step that people name on GSM8K, less often on MATH, where the first error
is mostly none of arithmetic. "No error" it says only where every step states an equation, every number has an origin
and the final answer is known to be right.
"""
import re

from judges.verdict import Verdict
from stepdpo.answers import read_number
from stepdpo.arithmetic import calculate, computes, find_equations, holds, is_false, read_tokens, sizes
from stepdpo.steps import strip_header
from stepdpo.task import extract_answer, is_right

NUMBER_WORDS = {word: {n} for n, word in enumerate(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty""".split())}
NUMBER_WORDS |= {word: {10 * n} for n, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)}
# other words of a problem that bring numbers, in the singular: "a week" is 7 days
NUMBER_WORDS |= {
    "single": {1}, "once": {1}, "half": {1, 2}, "halve": {2}, "twice": {2}, "double": {2}, "pair": {2}, "couple": {2},
    "both": {2}, "average": {2}, "triple": {3}, "thrice": {3}, "third": {1, 3}, "quarter": {1, 4}, "fourth": {1, 4},
    "fifth": {1, 5}, "sixth": {1, 6}, "seventh": {1, 7}, "eighth": {1, 8}, "ninth": {1, 9}, "tenth": {1, 10},
    "dozen": {12}, "hundred": {100}, "thousand": {1000}, "million": {10 ** 6}, "percent": {1, 100},
    "percentage": {1, 100}, "cent": {100}, "dollar": {100}, "minute": {60}, "hour": {60}, "day": {24}, "week": {7},
    "month": {12}, "year": {12, 52, 365}}
# a problem with another arithmetic: "in base 8", "define 5 + 4 as"
UNUSUAL = re.compile(r"\b(?:base|binary|octal|hexadecimal|mod|modulo|clock|defined?s?|operation)\b", re.I)
# a step that does not claim what it states: "Wait, 5 + 3 = 9 is wrong", "if 5 + 3 = 9", "substitute: 5 + 3 = 9"
UNCLAIMED = re.compile(r"""\b(?:suppose|assum\w+|if|not|false|wrong|mistake|wait|contradict\w*|instead|try|incorrect
    |error|impossible|whether|unless|cannot|substitut\w*|test\w*|\w+n['’]t)\b""", re.I | re.X)


def known_numbers(problem):
    """The sizes of the numbers that a problem names, in digits or words. 1, 2 and 100 are not known by themselves."""
    known = sizes(token.text for token in read_tokens(problem))
    if "%" in problem:
        known |= {1, 100}
    for word in re.findall(r"[a-z]+", problem.lower()):
        known |= NUMBER_WORDS.get(word) or NUMBER_WORDS.get(word.removesuffix("s"), set())
    return known


def strangers(texts, known):
    """Numbers among texts of tokens that come from nowhere: they are not known, nor are they a known percentage."""
    return {number for number in sizes(texts) if not {number, 100 * number} & known}


def check_step(step, known):
    """(True, False or None for "cannot tell" of the arithmetic that a step states, the last equation or the doubt).

    known: the sizes of numbers that may be used; the results of equations that hold are added to them.
    """
    said = None
    for left, right, units in find_equations(step):
        if left is None or right is None:
            return None, "has an equation of more than numbers"
        if not computes(left):
            continue
        said, true = f"{' '.join(left)} = {' '.join(right)}", holds(left, right, units)
        strange = strangers(left, known)
        if strange:
            return None, f"{said} uses {min(strange)}"
        if not true:
            return None if UNCLAIMED.search(step) else true, said
        known |= sizes(right) | {abs(calculate(right))}
    return True, said


def find_false_equation(steps):
    """(k, equation) of the first step that states a plainly false equation, whatever stands before it; else None."""
    for k, step in enumerate(steps, 1):
        if UNCLAIMED.search(step):
            continue
        for equation in find_equations(step):
            if is_false(equation):
                return k, f"{' '.join(equation.left)} = {' '.join(equation.right)}"
    return None


def judge_strictly(row, parts, whole):
    """Verdict: the first step that states a wrong equation, if nothing before it is in doubt.

    In doubt is a step with an equation that cannot be read, or with a number that is neither the problem's nor the
    result of an equation that holds. No error is found only where every step states an equation and the answer, if it
    is `whole`, is right; when the equations end at the gold answer and the answer is another number, the last step is
    wrong.
    """
    known, last, mute, said = known_numbers(row["prompt"]), len(parts) - 1, None, None
    for k, step in enumerate(map(strip_header, parts)):
        true, said = check_step(step, known)
        if true is False and k:
            return Verdict(k, f"step {k}: {said} does not hold")
        if not true:
            return Verdict("cannot tell", f"step {k}: {said}")
        strange = strangers([token.text for token in read_tokens(step)], known)
        if strange and (k < last or not whole):  # but the last line may name another answer
            return Verdict("cannot tell", f"step {k} has {min(strange)} from nowhere")
        if k and not said and not mute:
            mute = k
    if mute:
        return Verdict("cannot tell", f"step {mute} states no equation")
    if not whole:
        return Verdict(0, "every equation holds")
    if row.get("answer") in (None, ""):
        return Verdict("cannot tell", "every equation holds, but whether the answer is right is not known")
    if is_right(row, "".join(parts)):
        return Verdict(0, "every equation holds, and the answer is right")
    final = extract_answer("".join(parts))
    if isinstance(final, str) and read_number(final) is not None and said.endswith(f"= {row['answer']}"):
        return Verdict(last, f"{said}, but another answer is given")
    return Verdict("cannot tell", "every equation holds, but the answer is not right")


def judge_equations(row, parts, whole=True, anywhere=False):
    """Verdict of judge_strictly; where it cannot tell, and `anywhere`, the first equation that is plainly false."""
    if len(row["prompt"]) + sum(map(len, parts)) > 50_000:  # time grows with length, and other rows wait
        return Verdict("cannot tell", "too long to read")
    if UNUSUAL.search(row["prompt"]):
        return Verdict("cannot tell", "the problem may have an arithmetic of its own")  # 5 + 4 = 11 in base 8
    verdict = judge_strictly(row, parts, whole)
    if verdict.bad_step == "cannot tell" and anywhere:
        found = find_false_equation(map(strip_header, parts[1:]))
        if found:
            return Verdict(found[0], f"step {found[0]}: {found[1]} does not hold")
    return verdict


def make_judge(args, policy):
    """The judge of equations. --anywhere: see above."""
    async def judge(row, parts, whole):
        return judge_equations(row, parts, whole, args.anywhere)
    return judge
