"""The judge without a model: it checks the arithmetic that each step states, and where its numbers come from."""
import re

from judges.verdict import Verdict
from stepdpo.answers import read_number
from stepdpo.arithmetic import calculate, find_equations, holds, read_tokens, sizes
from stepdpo.steps import strip_header
from stepdpo.task import extract_answer, is_right

NUMBER_WORDS = {word: n for n, word in enumerate(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty""".split())} | {"twice": 2, "double": 2, "half": 2, "triple": 3, "third": 3, "quarter": 4,
                                             "dozen": 12}
# a problem with another arithmetic: "in base 8", "define 5 + 4 as"
UNUSUAL = re.compile(r"\b(?:base|binary|octal|hexadecimal|mod|modulo|clock|defined?s?|operation)\b", re.I)
# a step that does not claim what it states: "Wait, 5 + 3 = 9 is wrong", "if 5 + 3 = 9"
UNCLAIMED = re.compile(r"\b(?:suppose|assum\w+|if|not|false|wrong|mistake|wait|contradict\w*|instead|try)\b", re.I)


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
        if len(left) == 1:
            continue
        said, true = f"{' '.join(left)} = {' '.join(right)}", holds(left, right, units)
        if strange := strangers(left, known):
            return None, f"{said} uses {min(strange)}"
        if not true:
            return None if UNCLAIMED.search(step) else true, said
        known |= sizes(right) | {abs(calculate(right))}
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
    known |= sizes(token.text for token in read_tokens(row["prompt"]))
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


async def judge(row, parts, whole):
    return judge_equations(row, parts, whole)
