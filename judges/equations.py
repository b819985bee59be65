"""The judge without a model: it checks the arithmetic that each step states."""
import operator
import re
from collections import namedtuple
from fractions import Fraction

from judges.verdict import Verdict
from stepdpo.answers import read_number
from stepdpo.steps import strip_header
from stepdpo.task import extract_answer, is_right

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
