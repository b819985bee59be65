r"""Is this answer right? extract_answer finds it in a completion, same_answer compares it with the gold answer.

    python -c "from grade import *; print(same_answer(extract_answer('so we get 1/2'), r'\frac12'))"

An answer (LaTeX or plain text) is read into a small tree of tuples and compared by value; nothing is ever executed.
What cannot be read is compared as text. Caps on length, depth, digits and operations bound the time.

Conventions. 50% is the number 50, not 0.5. A unit (currency, %, degrees, words, the base in 12_8) matters only if the
other answer has another one; 5 m has one, 5m is a product. Lists and sets are unordered, tuples ordered, the brackets
of intervals matter. A decimal that rounds to a gold decimal of fewer digits is right; one of ten digits or more may be
off in its last place; 0.33 is not 1/3. x = 5 and a + b = 5 equal 5, x < 2 equals (-oo, 2). log is the natural one, odd
roots of negative numbers are real, 3:2 is 3/2, "1,234" is one number, "1, 234" are two. To grade another domain,
replace this file.
"""
import re
from fractions import Fraction

from stepdpo.expressions import ONE, SEQUENCES, read, without_units
from stepdpo.spelling import CONTENT, MAX_CHARS
from stepdpo.equality import LOCK, MAX_WORK, same

# extraction ----------------------------------------------------------------------------------------------

BRACED = ""  # what stands between two braces, up to nine pairs inside each other; \{ is no brace
for _ in range(10):
    BRACED = rf"(?:[^{{}}\\]|\\.|\{{{BRACED}\}})*+"
BOX = re.compile(rf"(?s)\\f?box(?:ed)?(?![a-z])\s*(?:(?=\{{({BRACED})\}})|([^\s${{}}]+))")
PHRASE = re.compile(r"""(?ix) <answer> | \#\#\#\# |
    \b(?:answer|choice)\b (?:[ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}?)? [\s*_]*                # the answer to part (b)
    (?:\b(?:is|was|equals|(?:would|should|must)[ ]be)\b[ \t]*:? | [:=] | \n) [\s*_]*          # is:
    (?:\b(?:option|choice|therefore|thus)\b)? |
    \b(?:answer|option|choice):?\s+ (?=\(?(?-i:[A-J])\b\)?\W*$)                               # Option C, at the end""")
SENTENCE_END = re.compile(r"\.(?=\s|$)|\n|</?answer>|,? (?:because|since|which|so)\b|, (?:where|thus)\b")
FORMULA = re.compile(r"""(?xs) \$\$(.+?)\$\$ | \$(?![ ])([^$\n]+?)(?<![ ])\$(?!\d) | \\\((.+?)\\\) | \\\[(.+?)\\\] |
    ((?:(?<![\w)\]])-)? (?:(?:\d+\ ?)?\\[dt]?frac\{[^{}]*\}\{[^{}]*\} |
    (?:\d[\d,]*(?:\.\d+)?|\.\d+) (?:(?:\ \d+)?\s?/\s?\d+|\\?%|[eE]-?\d+\b)?))""")

def extract_answer(completion: str) -> str | None:
    r"""The final answer of a completion: what the last \boxed{} holds, else what follows the last "the answer is" or
    ####, else the last formula or number; None if there is none of them."""
    text = completion[-30_000:].rpartition("</think>")[2]
    boxed = [content for box in BOX.finditer(text) if (content := tidy(box[1] or box[2] or ""))]
    if boxed:
        return boxed[-1]
    text = re.sub(r"\b([A-J])\)? is the (?:correct |right )?(?:answer|option|choice)\b", r"the answer is \1", text)
    for phrase in [*PHRASE.finditer(text)][:-5:-1]:
        rest = text[phrase.end():phrase.end() + 3000].lstrip(" \t\n:*_")
        if answer := tidy(rest[:SENTENCE_END.search(rest + "\n").start()]):
            words = re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)
            return len(words) > 4 and last_formula(answer) or answer
    return last_formula(text)


def last_formula(text):
    """What follows the last "is" of the last line, if that can be read; else the last formula or number."""
    last = re.split(r"\b(?:is|are|equals|be|get)\b:?", text.strip().rpartition("\n")[2][-300:])[-1]
    if choice(last) or not re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", last) and read(last)[0] not in ("text", *SEQUENCES):
        return tidy(last)
    found = [*FORMULA.finditer(text[-3000:])]
    return tidy(re.split(r"(?<![<>!\\])=", next(filter(None, found[-1].groups())))[-1]) if found else None


def tidy(text):
    """An answer without what surrounds it, dollar signs too. None if nothing is left."""
    text = CONTENT.match(text)[1]
    text = text[1:-1] if text.count("$") == 2 and text[0] == text[-1] == "$" else text
    return text if re.search(r"[^\W_]|[∞∅√]", re.sub(r"\\f?box(ed)?\b", "", text)) else None

def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = without_units(read(text if ":" not in text else ""))  # 3:2 is a ratio or a time
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    top, bottom = node[1:] if node[0] == "/" else (node, ONE)
    return sign * top[1] / bottom[1] if top[0] == bottom[0] == "num" and bottom[1] else None

CHOICE = re.compile(r"(?i)(?:\(([a-j])\)|([a-j])\)|(?-i:([A-Ja-d])(?:[.:]|$)))(?!\s*(?:and\b|or\b|[,&]))\s*(.*)", re.S)


def same_answer(prediction: str, answer: str, problem: str | None = None) -> bool:
    """Whether a prediction equals the gold answer under the conventions at the top of this file.
    problem: its listed options let the value of an option stand for its letter."""
    prediction, answer = prediction.strip(" \n"), answer.strip(" \n")
    if not prediction or max(len(prediction), len(answer)) > MAX_CHARS:
        return bool(prediction) and prediction == answer
    ours, gold = choice(prediction), choice(answer)
    if gold and ours:
        return ours[0] == gold[0] and (not ours[1] or not gold[1] or same_answer(ours[1], gold[1]))
    if gold:
        # the options follow "Options:" or the first A)
        tail = re.split(r"(?i)(?:options|choices)\s*:|(?=\(?\bA\s*[).:])", (problem or "")[-2000:], maxsplit=1)[-1]
        parts = re.split(r"\(?\b([A-J])\s*(?:\)|[.:](?!\d))", tail)[:21]
        listed = dict(zip(parts[1::2], parts[2::2]))
        text = gold[1] or listed.pop(gold[0], None)
        if text:
            return same_answer(prediction, text) and not any(same_answer(prediction, x) for x in listed.values())
    if ours and ours[1]:
        return same_answer(ours[1], answer)
    with LOCK:
        return same(read(prediction), read(answer), [MAX_WORK])


def choice(text):
    """("C", "12") for (C) 12, C) 12, C. 12; ("C", "") for C; None where no letter of a multiple choice leads."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r"\1", text).strip("$ .*{}\n")
    m = CHOICE.fullmatch(re.sub(r"(?i)^(?:option|choice|answer)\b\s*:?\s*", "", text))
    return m and ((m[1] or m[2] or m[3]).upper(), m[4].strip())


