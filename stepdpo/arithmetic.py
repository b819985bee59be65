r"""Equations of plain numbers that a text states, read to tokens and checked exactly. Nothing is ever executed.

    "She has 3 apples + 4 apples = 8 apples left."  ->  Equation(["3", "+", "4"], ["8"], {"apple"})  ->  False

What is not an equation of plain numbers, or may mean something else, is unreadable and never called false.
"""
import functools
import operator
import re
from collections import namedtuple
from fractions import Fraction

from stepdpo.answers import read_number

# Text to one spelling, in this order: (what is found, what is written instead), with an example of what is found.
# ¤ stands for a sign of money, ¦ for the edge of a formula: "\( 1 + 2 = 3 \) and then \( -4 \)" is no 3 - 4.
SPELLINGS = [(re.compile(pattern, re.M), plain) for pattern, plain in (
    (r"[¤¦]", " "),
    (r"(?<=[^\W\d_])['’′]+(?=\()", "~"),  # "f''(-4)", which is no -4
    (r"^[ \t]*(?:[-*•]|(?:\d{1,2}|[a-z])\))[ \t]+", ""),  # "- 3 + 4 = 7", "1) 3 + 4 = 7": a bullet is no minus
    (r"\\\\|\\(?:begin|end)\{[a-z]+\*?\}", "\n"),  # "3 + 4 \\ = 7", "\begin{aligned}"
    (r"<<[^<>\n]{0,99}>>", ""),  # "48/2 = <<48/2=24>>24", GSM8K's notes for a calculator
    (r"\{,\}", ","),  # "50{,}000"
    (r"(?<![\w.)])\.(?=\d)", "0."),  # ".5"
    (r"(?<=\d)(?:\\[,!]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))", ""),  # "1\,200", "1 200" with a thin space
    (r"\\(?:left|right|q?quad)(?![a-z])|\\[,;:! ]|\*\*|&|°|\^\{?\\circ\}?", " "),  # "\left(3\right)", "30^\circ"
    (r"\\(?:text|mathrm|mbox)\{([^{}]{0,80})\}", r" \1 "),  # "5 \text{ cups}"
    (r"\\%|(?<=\d)[ \t]percent\b", "%"),  # "20\%", "20 percent"
    (r"\\(?:times|cdot|ast)(?![a-z])|[×·⋅∙∗]", "*"),  # "3 \times 4", "3 × 4"
    (r"\\div(?![a-z])|[÷∕⁄]", "/"),  # "12 \div 4", "12 ÷ 4"
    (r"(?<=\d)–(?=\d)", " ~ "),  # "pages 5–10", a range
    (r"[−–]", "-"),  # "7 − 3"
    (r"(?:(?<=[\w)}%])\$\$?|\\[)\]])(?=\s*[-+*/=])", " "),  # "\(3\) + 4", "3$ + 4$": a formula that goes on outside
    (r"(?<=[\w)}%])\$\$?(?!\d)|\\[)\]]", "¦"),  # "3 + 4 = 7$ is", "7 \)", "7 \]"
    (r"(?<=[-+*/=(])([ \t]*)\\[(\[]", r"\1"),  # "3 + \(4\)"
    (r"\\[(\[]", "¦"),  # "add up to \( -4"
    (r"(?:\\?\$|[€£¥])(?=[ ]?\d)", "¤"),  # "$3"
    (r"\\?\$|[€£¥]", " "),  # "3€"
    (r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"((\1)/(\2))"),  # "\frac{1}{2}"
    (r"\\boxed\{([^{}]{0,80})\}", r" \1 "),  # "\boxed{7}"
    (r"\[", "("), (r"\]", ")"),  # "[3 + 4] * 2"
    (r"(?<=\d)[ \t]*[xX][ \t]*(?=[\d¤])|[ \t][xX][ \t]+(?=[\d(¤])", "*"),  # "3x4", "3 apples x 4"
    (r"\band (?=an? (?:half|third|quarter)|(?:half|one|two|three)\b|\d+/\d)", "half "),  # "3 and a half", "3 and 1/2"
    (r"[^\S\n]{2,}", " "))]  # spaces to one, or END would take quadratic time
# words that stand for arithmetic: a number beside one is not the whole of what is meant
ARITHMETIC = set("""per times plus minus divided multiplied by half third fourth quarter fifth sixth seventh eighth
    ninth tenth double twice triple halve dozen hundred thousand million billion remainder mod modulo r less than over
    power square squared cube cubed factorial choose sqrt root log ln exp sin cos tan max min gcd lcm pi""".split())
# words that begin something new: in "-1 when a = 2" and "0 or a - 2" they are no unit of the number before them
JOINING = set("""and or when where if for then so is are was were be gives give with at as to from but because since
    while which that thus hence let given into means equals makes get gets until unless after before""".split())
# words whose number is a name: "on day 1 * 2 = 20 pages"
LABELS = set("""day week month year step case part option page chapter item round group grade stage level equation line
    row column""".split())
SMALL_MONEY = {"cent", "penny", "pennie", "pence", "dime", "nickel"}
LETTER = r"[^\W\d_]"
# the end of a clause: "3 + 4 = 7. Then", "7, so", "7\n", "7 \approx 7.1", "7 \implies"
END = (r"""[ ]?\n\s*|[.,;:?"'“”‘’<>≤≥≠≈→⇒∴。，；：？、¦]"""
       r"|\\(?:approx|implies|[rR]ightarrow|to|therefore|leq?|geq?|neq?)(?![a-z])")
SHORT_UNIT = r"(?:[cmk]m|[km]g|ml|oz|lbs?|ft|hrs?|min|sec|mph|st|nd|rd|th)(?!\w)"  # "5km", "3rd"
NO_UNIT = rf"(?!(?:(?:{'|'.join(sorted(ARITHMETIC - {'per'}))}|of)s?|{'|'.join(sorted(JOINING))})\b)"
UNIT_WORD = rf"{NO_UNIT}(?:{LETTER}{{2,}}|a(?=[ \t]+{LETTER}{{2}}))"  # "cups", the words of "cups a day"; no "dozen"
UNIT = rf"{SHORT_UNIT}|(?:[ \t]+{UNIT_WORD}){{0,4}}(?:[ \t]?/[ \t]?{LETTER}{{2,}})?"  # "5 cups a day", "5 dollars/hour"
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![.,:]?\d)%?"  # "1,200", "0.5", "20%", but no "3,5", "11:30"
TOKEN = re.compile(rf"(?P<money>¤[ ]?)?(?P<number>{NUMBER})(?P<unit>(?:{UNIT})(?=[ \t]*(?:[-+*/=)]|{END}|\Z)))?"
                   rf"|(?P<sign>[-+*/()=])|(?P<end>{END})|(?P<word>{LETTER}+)|(?P<other>\d[\d.,:]*|\\[a-zA-Z]+|\S)")
KINDS = ("number", "sign", "end", "word", "other")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
# kind: one of KINDS; "other" is what changes the value of a number beside it
Token = namedtuple("Token", "kind text unit money", defaults=["", False])
Equation = namedtuple("Equation", "left right units")  # left, right: tokens as texts, or None for an unreadable side


@functools.lru_cache(64)  # a step is read for its equations, and again for its numbers
def read_tokens(text):
    """The Tokens of a text, with two ends on either side."""
    for pattern, plain in SPELLINGS:
        text = pattern.sub(plain, text)
    tokens, end = [Token("end", ""), Token("end", "")], -1
    for match in TOKEN.finditer(text):
        kind = next(kind for kind in KINDS if match[kind])
        said, before, glued = match[kind], tokens[-1], match.start() == end
        end = match.end()
        if kind == "word" and means_arithmetic(said, before, glued):
            kind = "other"
        if kind == "number" and before.kind == "word" and before.text.lower() in LABELS:
            kind = "other"
        if before.kind == "word":
            name_minus = said == "-" and (glued or not text[end:end + 1].isdigit())  # "Total - 5"
            function = glued and (kind == "number" or said == "(")  # "log2", "f(3)"
            if name_minus or function:
                tokens[-1] = Token("other", before.text)
        if (kind == "number" or said == "(") and (before.kind == "number" or before.text == ")"):
            # "5 apples (3 + 2 = 5)" begins anew, but "1 1/2" and "2 (3 + 4)" do not
            tokens.append(Token("end" if before.unit else "other", ""))
        tokens.append(Token(kind, said, match["unit"] or "", bool(match["money"])))
    return [*tokens, Token("end", ""), Token("end", "")]


def means_arithmetic(word, before, glued):
    """Whether a word changes the value of a number beside it: "dozen", "x", the ab of "3ab", the of in "20% of"."""
    if {word.lower(), word.lower().rstrip("s")} & ARITHMETIC:
        return True
    if len(word) == 1 and word not in "aAI":
        return True
    return glued and before.kind == "number" or word == "of" and before.kind != "word"


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
    broken_sum = beyond.text in OPERATIONS and (step < 0 or "\n" in stop.text)  # "10 +\n15 + 3 = 28", "8 + . 84 = 9"
    ratio = stop.text == ":" and beyond.kind == "number"  # "12 : 4"
    headless = step < 0 and run and run[0].text in ("+", "*", "/", ")")
    asked = step > 0 and stop.text in ("?", "？")  # "is 3 + 4 = 8?"
    if run and (stop.kind == "other" or broken_sum or ratio or headless or asked):
        return None
    unclosed = sum((token.text == "(") - (token.text == ")") for token in run)
    if step < 0 and unclosed > 0 and run[0].text == "(":
        return run[1:]  # "(3 + 4 = 7)"
    if step > 0 and unclosed < 0 and run[-1].text == ")":
        return run[:-1]
    return run


def find_equations(text):
    """Equations of plain numbers in a text, those of a chain one by one: "3 + 4 = 7 = 14 / 2" is two."""
    tokens = read_tokens(text)
    for at, token in enumerate(tokens):
        if token.text != "=":
            continue
        left, right = read_side(tokens, at, -1), read_side(tokens, at, +1)
        if left == [] or left is not None and not computes(left) and right == []:
            continue  # nothing stands before the sign of "Total = 3 + 4", nothing is claimed by "7 = x"
        units = unit_names((left or []) + (right or []))
        sides = [[token.text for token in side] if side else None for side in (left, right)]
        yield Equation(*sides, units)


def computes(side):
    """Whether a side, Tokens or their texts, holds an operation: "-1" and "(7)" do not."""
    texts = [getattr(token, "text", token) for token in side]
    texts = [text for text in texts if text not in ("(", ")")]
    return any(text in OPERATIONS for text in texts[1:])


def unit_names(tokens):
    """The last words of the tokens' units, in the singular; "$" for money where a smaller coin is named too."""
    units = {token.unit.split()[-1].lower().rstrip("s") for token in tokens if token.unit}
    if units & SMALL_MONEY and any(token.money for token in tokens):
        units.add("$")
    return units


def calculate(tokens, precedence=True):
    """The exact value of an arithmetic expression, a list of texts. ValueError or ZeroDivisionError.

    precedence: whether * and / go before + and -; without it "3 + 4 * 2" is (3 + 4) * 2, as on a simple calculator.
    """
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
        return chain("+-", lambda: chain("*/", factor)) if precedence else chain("+-*/", factor)

    value = total()
    if tokens:
        raise ValueError(f"left over: {tokens[0]!r}")
    return value


def holds(left, right, units=()):
    """True, False, or None for "cannot tell", of left = right; a right side with decimals may be rounded."""
    try:
        x, y = calculate(left), calculate(right)
        by_hand = calculate(left, precedence=False)
    except (ValueError, ZeroDivisionError):
        return None
    places = len(right[0].partition(".")[2]) if len(right) == 1 else 0
    if x == y or places and abs(x - y) < Fraction(1, 10 ** places):
        return True
    decimals = [token for token in [*left, *right] if "." in token]
    doubts = {
        "other units": len(units) > 1,  # 5 hours + 30 minutes = 330 minutes, $3 + 50 cents = $3.50
        "of a clock": bool({"am", "pm"} & {*units}),  # 8 + 5 = 1 pm
        "hundredths": abs(x - 100 * y) < abs(y) or abs(100 * x - y) < abs(x),  # 15 / 60 * 100 = 25%, 50 + 50 cents = $1
        "percent of what": adds_percent(left) or adds_percent(right),  # $50 + 20% = $60
        "whole part": abs(x - y) < 1 and not places,  # 100 / 3 = 33
        "rounded before": bool(decimals) and abs(x - y) < abs(y) / 100,  # 33.3 * 3 = 100
        "point for thousands": any(re.fullmatch(r"\d{1,3}\.\d{3}", token) for token in decimals),  # 1.200 + 300 = 1.500
        "goes on": goes_on(right, x),  # 5 + 3 = 8 + 2 = 10
        "by hand": by_hand == y,  # 3 + 4 * 2 = 14
        "a fraction": divides_twice(left) or divides_twice(right),  # 25 / 1/3 = 75
        "thousands": y in (1000 * x, 10 ** 6 * x),  # "they lose 5 thousand a day": 5 * 3 = 15,000
    }
    return None if any(doubts.values()) else False


def is_false(equation):
    """Whether an equation claims what is plainly false. "-1 = 2" claims nothing: it may set a value, or end a list."""
    left, right, units = equation
    return bool(left and right and computes(left)) and holds(left, right, units) is False


def adds_percent(tokens):
    """Whether a percentage is added to, or taken from, what is none: "50 + 20%", but not "50 * 20%" or "5% + 20%"."""
    kinds, depth, term = set(), 0, []
    for token in [*tokens, "+"]:
        depth += (token == "(") - (token == ")")
        if token in ("+", "-") and not depth and term:
            bare = [text for text in term if text not in ("(", ")")]
            kinds.add(len(bare) == 1 and bare[0].endswith("%"))
            term = []
        elif token not in ("+", "-") or term:
            term.append(token)
    return len(kinds) == 2


def divides_twice(tokens):
    """Whether "a / b / c" stands there, which may mean a / (b/c)."""
    signs = [token for token in tokens if token in OPERATIONS or token in ("(", ")")]
    return ("/", "/") in zip(signs, signs[1:])


def goes_on(tokens, value):
    """Whether a side begins with `value` and goes on calculating, as the right side of "5 + 3 = 8 + 2 = 10" does."""
    depth = 0
    for at, token in enumerate(tokens):
        depth += (token == "(") - (token == ")")
        if at and depth == 0 and token in OPERATIONS and tokens[at - 1] not in OPERATIONS:
            try:
                if calculate(tokens[:at]) == value:
                    return True
            except (ValueError, ZeroDivisionError):
                return False
    return False


def sizes(texts):
    """The sizes of the numbers among texts of tokens."""
    found = [read_number(text.strip("%")) for text in texts if text[:1].isdigit()]
    return {abs(number) for number in found if number is not None}
