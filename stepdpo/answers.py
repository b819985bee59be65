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
import math
import operator
import re
import threading
import unicodedata
from fractions import Fraction

import mpmath

MAX_CHARS = 1000  # a longer answer is compared as text
MAX_DEPTH = 20  # nested brackets, fractions, exponents, signs
MAX_BITS = 16_000  # of an exact power: about 4,800 digits
MAX_WORK = 2000  # operations in one comparison (`work` holds how many are left); 150 bits of exact numbers are one

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

# without the spaces, markdown, math delimiters, line breaks and full stops around it; this takes linear time
CONTENT = re.compile(r"(?s)(?:[ \t\r\n*_`:]|\\[(\[]|\\\\ )*+((?:.*(?:[^\s*_`.,;:\\)\]]|(?<!\\)[)\]]))?)")


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

# reading: text -> one spelling -> tokens ------------------------------------------------------------------

SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‒", "-"), **dict.fromkeys("∣‖", "|"), **dict.fromkeys("“”\"", ""), "’": "'", "~": " ",
    "\f": r"\f", "∛": r"\sqrt[3]", "≈": r"\approx ", "°": r"\circ ", "±": r"\pm ", "∓": r"\mp "})
RULES = [(re.compile(pattern), new) for pattern, new in [
    # layout, brackets
    (r"(?s)\\begin\s*\{(?:[pbB]?(?:small)?matrix\}|array\}\s*\{[^{}]*\})(.*?)(?:\\\\\s*)?\\end\s*\{\w+\}",
     lambda m: "([" + m[1].replace("&", ",").replace(r"\\", "],[") + "])"),  # a matrix is a tuple of its rows
    (r"(?:\bMatrix\()?\[\s*\[(.*)\]\s*\]\)?", r"([\1])"),
    (r"(?<=\d)(?:\{,\}|,?\s*\\[!,]|\\[;: ](?=\d{3}\b))\s*(?=\d)", ""),  # 10{,}000  10,\!000  10\,000
    (r"(?<!\\)\\(?:[()\[\],;:! ]|(?:begin|end|hspace|phantom)\s*\{[^{}]*\}|(?:left|right|[bB]igg?[lr]?|displaystyle|"
     r"noindent|rm|bf|f?box(?:ed)?|boldsymbol|vec|math(?:bf|it|cal|bb|sf|tt))(?![a-zA-Z])\.?)", " "),
    (r"(?:\\?\||\\[lr]?vert\b)([^|]+?)(?:\\?\||\\[lr]?vert\b)", r" \\abs{\1}"),
    # numbers, superscripts
    (r"(?<![\d.,(\[_])(?<!\d )\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,)\]]| ?/| \d)",  # but (1,100) are two numbers
     lambda m: re.sub("[, ]", "", m[0])),
    (r"(\\[dtc]?frac|\\binom)\s*(\d)\s*(\d)", r"\1{\2}{\3}"),
    (r"(?:(?<=\d) +(\d+) ?/|(\d+)⁄) ?(\d+)", r"\\frac{\1\2}{\3}"),  # 1 3/4, and ½ in NFKC
    (r"(?<![\w.^])(\d+)\s*\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}",  # a mixed number
     lambda m: r"\frac{%d}{%s}" % (int(m[1]) * int(m[3]) + int(m[2]), m[3])),
    (r"^(\d+):(\d+):(\d+)$", r"(\1,\2,\3)"),  # but 3:2 is a fraction
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"),
    (r"\\sqrt\s*\[([^\[\]]*)\]", r"\\sqrt_{\1}"),
    (r"\^\s*\{?\s*(\\circ|\\prime)\b\s*\}?", r"\1 "),
    # words, currencies
    (r"(?i)^(?:\\text\s*\{)?no (?:real )?solutions?[.}]*$|\\emptyset\b|\\varnothing\b|∅", r"\\{\\}"),
    (r"(?:(?<=[\d}])\s|(?<=circ))\s*([mgshLKCFNJWV]|[a-z]{1,3}/[a-z]+(?:\^2)?|(?!pi\b|and\b|or\b|sqrt|sin|cos|tan|log|"
     r"ln)[a-z]{2,}[a-z ]*)\s*$", r"\\text{\1}"),  # 5 m, 60 km/h, 12 men; but 5m is a product
    (r"(?i)\bsq(?:uare|\.)? (\w+)", r"\1^2"),
    (r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|operatorname|hbox|emph)\s*\{([^{}]*)\}",
     lambda m: re.sub(r"[A-Za-z]+", r' "\g<0>" ', m[1])),  # words become tokens in quotes
    (r"((?<!_)\d\}*\)?)\s*\\(?:approx|simeq).*", r"\1"),  # what stands before an approximation is exact
    (r"(?i)^[\s$]*(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer)\b\s*:?\s*", ""),
    (r"(?<!\\)\$(?!\s*\.?\d[^$]*$)", " "),  # but a dollar sign without a partner is a currency
    (r"(\\?\$|[€£¥₹]|\bRs\.?|\bUSD)\s*([\d.,]*\d(?:[ \"]*(?:thousand|\w+illion)\b\"?)?)", r"\2 \1 "),
    (r"(?i)^(?:the set of )?(?:all )?real numbers\W*$|^[\s{]*R[\s}.]*$", r"(-\\infty,\\infty)")]]

GREEK = r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \omicron \pi \rho
    \varsigma \sigma \tau \upsilon \phi \chi \psi \omega""".split()
FUNCTIONS = r"\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \lg \exp".split()
# spellings of one token stand together, the first is ours; two spaces part one token from the next; units in quotes
SAME = {word: group.split()[0] for group in re.split(r"\s{2,}", r"""* \cdot \times \ast · ⋅ ∙ × ∗  / \div : ÷ ⁄ per
    ^ **  <= \le \leq \leqslant =< ≤ ⩽  >= \ge \geq ≥ ⩾ \geqslant  < \lt  > \gt  != \ne \neq ≠  ( \langle ⟨
    ) \rangle ⟩  = == := \equiv \in \approx \simeq ∈  , ; and or \cup \lor \vee \land \wedge \quad \qquad \\ ∪
    \{ \lbrace  \} \rbrace  ' \prime  \infty inf infinity oo ∞  i \imath  \pi pi π  \phi \varphi phi φ ϕ
    \epsilon \varepsilon  \frac \dfrac \tfrac \cfrac  \sqrt sqrt √  \abs abs  \arcsin asin  \arccos acos  \arctan atan
    \ln \log log  1e3 thousand  1e6 million  1e9 billion  1e12 trillion  "percent" % \% percent percentage
    "deg" \circ \degree deg degree  "dollar" \$ $ dollar usd  "cent" cent  "euro" € \euro euro  "pound" £ \pounds pound
    "rupee" ₹ rupee rs  "yen" ¥ yen  "cm" cm centimeter centimetre  "mm" mm millimeter  "km" km kilometer kilometre
    "m" meter metre  "inch" inch inches in  "foot" foot feet ft  "yd" yd yard  "mi" mi mile  "kg" kg kilogram  "g" gram
    "mg" mg milligram  "lb" lb lbs  "oz" oz ounce  "l" "L" liter litre  "ml" ml milliliter  "s" sec second
    "min" min mins minute  "h" hr hrs hour  "n" "N" newton  "j" "J" joule  "w" "W" watt  "v" "V" volt  "c" "C" celsius
    "f" "F" fahrenheit  "am" am  "pm" pm  "th" st nd rd th  _2 _two  _3 _three  _4 _four  _5 _five  _6 _six
    _7 _seven  _8 _eight  _9 _nine  _10 _ten  _12 _twelve  _16 _sixteen""") for word in group.split()}
SAME |= {word[1:]: word for word in FUNCTIONS + GREEK if word in FUNCTIONS or len(word) > 5}
SAME |= {chr(0x3b1 + place): word for place, word in enumerate(GREEK)}
SAME |= {chr(0x391 + place): word.title() for place, word in enumerate(GREEK)}
TOKEN = re.compile(r"""(?x)\s*( (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))? | "[^"]*" | \\[a-zA-Z]+ | \\.
    | _\s*(?:\{(?:[^{}]|\{[^{}]*\})*\} | \d+ | "[^"]*" | \\[a-zA-Z]+ | \S)              # a subscript is one token
    | [^\W\d_]+ | \*\* | [<>=!:]= | =< | \S)""")
END = " end"


def tokenize(text):
    """The tokens, last one first, so that pop() takes the next; END lies at the bottom. Words come in quotes."""
    tokens = []
    for token in TOKEN.findall(text):
        word = token.strip('"')
        word = word.lower() if len(token) > 1 and word.isalpha() else token
        stem = word.rstrip("s") if len(word) > 3 else word
        known = SAME.get(token) or SAME.get(word) or SAME.get(stem)
        if token[0] == "_":
            token = "_" + re.sub(r'^_\s*\{(.*)\}$|[_"\s]', r"\1", token).strip('" ')
            tokens.append(SAME.get(token, token))
        elif known or not word.isalpha():
            tokens.append(known or token)
        elif len(word) > 1 and len(token) > (2 if token.istitle() else 3):
            tokens.append(f'"{stem}"')
        else:
            tokens += [SAME.get(letter, letter) for letter in token.strip('"')]
    return [END, *tokens[::-1]]


def read(text):
    """The tree of an answer; ("text", words) where it is words, too long, or cannot be read."""
    text = re.sub(r"[¼-¾⅐-⅞]", r" \g<0>", text)  # 1½ is not 11/2
    text = re.sub(r"[₀-₉]+", r"_{\g<0>}", re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", r"^{\g<0>}", text))
    text = " ".join(unicodedata.normalize("NFKC", text).translate(SYMBOLS).split())
    try:
        if len(text) > MAX_CHARS:
            raise ValueError("too long")
        if r"\begin" not in text or r"\\begin" in text:  # escaped twice: no rows end in \\ here
            text = re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", text)
        for pattern, new in RULES:
            text = pattern.sub(new, text)
        text = CONTENT.match(text)[1]
        words = re.sub(r'[{}"\s]+', " ", text).strip().lower()
        if words not in SAME and re.search("[a-z][aeiou]|[aeiou][a-z]", words) and re.fullmatch(
                r"(?![abc]{2}$)(?!.*\b(?:and|or)\b)[a-z ]+", words):
            raise ValueError("words with a vowel are no product of letters")
        items = {}  # what holds no \pm is not two
        for plus, minus in ("+-", "-+") if r"\pm" in text else ("  ",):
            tokens = tokenize(text.replace(r"\pm", plus).replace(r"\mp", minus))
            tree = parse(tokens, 0)
            if tokens != [END]:
                raise ValueError(tokens[-1])
            items |= dict.fromkeys(tree[1:] if tree[0] == "," and r"\pm" in text else [tree])
        return tree if len(items) == 1 else (",", *items)
    except (ValueError, ArithmeticError):
        text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
        return "text", " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\b(?:the|an?)\b(?= )", " ", text).split())


def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = without_units(read(text if ":" not in text else ""))  # 3:2 is a ratio or a time
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    top, bottom = node[1:] if node[0] == "/" else (node, ONE)
    return sign * top[1] / bottom[1] if top[0] == bottom[0] == "num" and bottom[1] else None

# reading: tokens -> tree --------------------------------------------------------------------------------
# Trees are ("num", Fraction, places) ("name", "x") ("text", words) or (operator, *operands), where "," "()" "[)" "{}"
# make lists, tuples, intervals, sets, and a relation is ("rel", x, "<", 2). 5 cm is 5 times the name "cm", in quotes.

PREFIXES = [*FUNCTIONS, r"\abs", r"\sqrt", r"\frac", r"\binom"]
NAMES = {*GREEK, *map(str.title, GREEK), *r"\infty \angle \triangle \ell \hbar \odot \max \min".split()}
ONE, TWO, INFINITY = ("num", Fraction(1), 0), ("num", Fraction(2), 0), ("name", r"\infty")
SEQUENCES = [",", "()", "[]", "(]", "[)", "{}"]
PAIRS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",)}
# how tightly a token binds to the operand before it; the x of 2x is BESIDE the 2
LIST, RELATION, SUM, PRODUCT, CALL, BESIDE, POWER = range(1, 8)
LEVELS = {
    ",": LIST, **dict.fromkeys("= < > <= >= !=".split(), RELATION), "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT,
    **dict.fromkeys({"[", "{", *NAMES, *PREFIXES}, BESIDE), **dict.fromkeys({"(", *FUNCTIONS}, CALL), "^": POWER}


def parse(tokens, depth, above=0):
    """An expression of all that binds more tightly than `above`."""
    if tokens[-1] in ("+", "-") and depth < MAX_DEPTH:
        sign, node = tokens.pop(), parse(tokens, depth + 1, max(above, PRODUCT))
        if sign == "-":
            node = ("num", -node[1], node[2]) if node[0] == "num" else ("neg", node)
    else:
        node = atom(tokens, depth)
        if tokens[-1] == "!":  # a second one is unreadable: 3!! is not (3!)!
            node = tokens.pop(), node
        elif tokens[-1][0] == "_":
            node = "*", node, ("name", f'"base {tokens.pop()[1:]}"')
    while True:
        first = tokens[-1][0]
        binding = LEVELS.get(tokens[-1], BESIDE if first.isalnum() or first in '."' else 0)
        if binding <= above:
            return node
        sign = "" if binding in (SUM, CALL, BESIDE) else tokens.pop()  # the sign of a summand belongs to the summand
        if sign in ("/", "^"):
            depth += 1  # bounds the chain a/b/c
            node = sign, node, parse(tokens, depth, BESIDE)
        elif sign != "," or tokens[-1] not in (END, ")", "]", "}", r"\}"):
            node = join(node, sign, parse(tokens, depth, binding), binding)


def join(left, sign, right, binding):
    r"""The tree of two operands. Lists, chains of relations, sums and products are flat however long they are."""
    kind = {LIST: ",", RELATION: "rel", SUM: "+"}.get(binding, "*")
    parts = left[1:] if left[0] == kind else (left,)
    if binding == RELATION:  # x > 2 is 2 < x
        return (kind, right, sign.replace(">", "<"), *parts) if sign[0] == ">" else (kind, *parts, sign, right)
    last = left if binding == CALL else parts[-1]
    word_first = last != ONE and without_units(last) == ONE and without_units(right) != ONE  # "room 5", "print(42)"
    two_numbers = binding == BESIDE and last[0] == right[0] == "num" and right[2] is not None  # 5 million is 5 1e6
    if two_numbers or word_first and binding in (CALL, BESIDE):
        raise ValueError("two numbers, or a word before a number")
    return kind, *parts, right


def atom(tokens, depth):
    """A number, a bracket, a function with its argument, a name or word."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    token = tokens.pop()
    if token[0].isdigit() or token[0] == ".":
        return "num", Fraction(token), None if "e" in token.lower() else len(token.partition(".")[2])
    if token in PAIRS:
        tree = (",",) if tokens[-1] in PAIRS[token] else parse(tokens, depth + 1)
        items, closer = tree[1:] if tree[0] == "," else (tree,), tokens.pop()
        pair = token[-1] + closer[-1]
        if closer not in PAIRS[token] or len(items) < 2 and pair in ("(]", "[)"):
            raise ValueError(closer)
        return tree if len(items) == 1 else (pair if len(items) == 2 or pair == "{}" else "()", *items)
    if token in PREFIXES:
        return function(tokens, depth + 1, token)
    if token not in NAMES and token[0] != '"' and not (len(token) == 1 and token.isalpha()):
        raise ValueError(token)
    while tokens[-1][0] in "_'":
        token += tokens.pop()
    return "name", token


def function(tokens, depth, name):
    r"""\frac{1}{2}, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        return name.replace(r"\frac", "/"), atom(tokens, depth), atom(tokens, depth)
    marks = {}
    while tokens[-1][0] in "^_":
        mark = tokens.pop()
        marks[mark[0]] = parse(tokens, depth, POWER) if mark == "^" else parse(tokenize(mark[1:]), depth)
    base, exponent = marks.get("_"), marks.get("^")
    if name == r"\sqrt":
        return "^", atom(tokens, depth), ("/", ONE, base or TWO)
    node = atom(tokens, depth) if tokens[-1] in ("(", "{", "[") else parse(tokens, depth, CALL)
    if exponent == ("num", -1, 0):
        return r"\arc" + name[1:], node
    node = ("/", (name, node), (name, base)) if base else (name, node)
    return ("^", node, exponent) if exponent else node

# comparing: values ------------------------------------------------------------------------------------
MP = mpmath.mp.clone()
MP.dps = 60
LOCK = threading.Lock()  # mpmath caches its constants
CONSTANTS = {"e": +MP.e, "i": MP.j, r"\pi": +MP.pi, r"\infty": MP.inf, '"deg"': +MP.degree}
MPMATH = {"!": "factorial", r"\binom": "binomial", "^": "power", r"\lg": "log10"}
EXACT = {"+": lambda *x: sum(x), "*": lambda *x: math.prod(x), "/": operator.truediv, "neg": operator.neg, r"\abs": abs}


def value(node, env, work):
    """The value of a tree: a Fraction if that is exact, else a number of mpmath with 60 digits. env: {name: Fraction};
    if it is not empty, leaving the reals is an error, as is all that is undefined, too large or no expression."""
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        return env[parts[0]] if parts[0] in env else CONSTANTS[parts[0]]
    args = [value(part, env, work) for part in parts]
    x, y, exact = args[0], args[-1], all(isinstance(arg, Fraction) for arg in args)
    bits = sum(arg.numerator.bit_length() + arg.denominator.bit_length() for arg in args) if exact else 0
    work[0] -= bits // 150 + (100 if kind in ("!", r"\binom") else len(args) if exact and kind in EXACT else 10)
    whole_power = kind == "^" and exact and y.denominator == 1
    if work[0] < 0 or whole_power and abs(y) * (max(abs(x.numerator), x.denominator).bit_length() - 1) > MAX_BITS or (
            kind not in EXACT and kind != r"\ln" and MP.isfinite(y) and abs(y) > 1e9):
        raise OverflowError("too much work")
    if kind in EXACT:
        return EXACT[kind](*(args if exact else map(MP.convert, args)))
    if whole_power:
        return x ** int(y)
    if kind == "^" and isinstance(y, Fraction) and y.denominator % 2 and not MP.im(x) and MP.re(x) < 0:
        result = (-1) ** (y.numerator % 2) * MP.power(-x, y)  # the real root
    else:
        result = getattr(MP, MPMATH.get(kind) or kind[1:].replace("arc", "a"))(*args)
    if MP.isnan(result) or env and MP.im(result):
        raise ValueError("undefined, or beyond the reals")
    return result


def names(node):
    """The free variables of a tree."""
    if node[:1] == ("name",):
        return {node[1]} - CONSTANTS.keys()
    return set().union(*(names(part) for part in node if isinstance(part, tuple)))


def at_points(work, *trees):
    """The values of some trees, side by side, at every fixed point of their variables where all are defined."""
    variables = sorted(set().union(*map(names, trees)))
    for row, scale in enumerate((7, 13, 103, 107, 1, -11) if variables else (1,)):  # any, in (0, 1), whole, negative
        env = {name: Fraction(pow(3, 31 * i + 7 * row + 5, 101), scale) for i, name in enumerate(variables)}
        try:
            yield [value(tree, env, work) for tree in trees]
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
            pass  # undefined here, or no expression at all


def close(x, y, error=0):
    """Equal up to `error`, if both are exact; else also in 40 digits, or both 0 in 50."""
    if not (isinstance(x, Fraction) and isinstance(y, Fraction)):
        x, y = MP.convert(x), MP.convert(y)
        error = max(MP.convert(error), max(abs(x), abs(y), 1e-10) * MP.mpf(10) ** -40)
    return x == y or abs(x - y) < error


def same_value(a, b, work):
    """Equal but for rounding at every fixed point, at two of them at least if there are variables."""
    if a[0] == b[0] == "num" and (a[2] or 0) > (b[2] or 0) > 0:
        return a[1] * b[1] >= 0 and -1 <= 2 * (abs(a[1]) - abs(b[1])) * 10 ** b[2] < 1
    error = max((Fraction(9, 10 ** (node[2] + 1)) for node in (a, b)  # of ten digits or more, as a program prints them
                 if node[0] == "num" and node[2] and abs(node[1]) * 10 ** node[2] >= 10 ** 9), default=0)
    pairs = [*at_points(work, a, b)]
    return len(pairs) > bool(names(a) | names(b)) and all(close(*pair, error) for pair in pairs)


# comparing: answers -----------------------------------------------------------------------------------

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


def same(a, b, work):
    """Whether a predicted tree equals a gold tree."""
    work[0] -= 1
    x, y = without_units(a), without_units(b)
    if (x == a) != (y == b) and "name" not in (a[0], b[0]):  # what has no unit equals what has one
        a, b = x, y
    if a == b or work[0] < 0 or "text" in (a[0], b[0]):
        return a == b and a != ("text", "")
    if a[0] == "rel" and (b[0] != "rel" or a[2::2] != b[2::2]):
        return states(a, lambda side: same(side, b, work))
    if b[0] == "rel":
        return same_relation(a, b, work) if a[0] == "rel" else states(b, lambda side: same(a, side, work))
    if a[0] in SEQUENCES and b[0] in SEQUENCES:
        return len(a) == len(b) and same_items(a, b, work)
    return same_value(a, b, work)


def same_items(a, b, work):
    """Lists and sets have no order; tuples and intervals have one, and brackets."""
    (kind, *items), (other_kind, *others) = a, b
    if {kind, other_kind} <= {",", "{}"}:
        for item in items:
            if found := next((other for other in others if same(item, other, work)), None):
                others.remove(found)
        return not others
    comparable = kind == other_kind or {kind, other_kind} == {",", "()"}  # 1, 2 or x = 1, y = 2 may stand for (1, 2)
    return comparable and all(same(*pair, work) for pair in zip(items, others))


def same_relation(a, b, work):
    """Relations with the same signs are one side by side, or but for a constant factor, positive in inequalities."""
    side_by_side = all(same(*pair, work) for pair in zip(a[1::2], b[1::2]))
    if side_by_side or len(a) > 4:
        return side_by_side
    ratio = ("/", *(("+", left, ("neg", right)) for _, left, _, right in (a, b)))
    first, *others = [ratio for ratio, in at_points(work, ratio)] or [0]
    return first != 0 and others != [] and all(close(first, other) for other in others) and (
        a[2] in ("=", "!=") or MP.re(first) > 0)


def states(relation, equal):
    """Whether x = 5, 5 = x, 2 + 3 = 5 or a + b = 5 states 5, and x < 2 or 0 < x <= 1 an interval.
    equal: tells whether a tree is the other answer. The plane x + y = 5 does not state 5."""
    signs, sides = relation[2::2], relation[1::2]
    if "=" in signs:
        rest = [side for side in sides if not equal(side)]
        return len(rest) < len(sides) and {*signs} == {"="} and all(map(is_label, rest))
    unknowns = [place for place, side in enumerate(sides) if names(side)]
    if {*signs} - {"<", "<="} or len(unknowns) != 1 or sides[unknowns[0]][0] != "name":
        return False
    signs, ends = ["<", *signs, "<"][unknowns[0]:], [("neg", INFINITY), *sides, INFINITY][unknowns[0]:]
    return equal((("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")"), ends[0], ends[2]))


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, (x, y), a + b; but nothing else with x, y or z in it."""
    head = names(node[1] if node[0] == "*" else node)  # f(x) is f times x
    return bool(head) and (node[0] in ("name", "()") or not head & {"x", "y", "z"})


def without_units(node):
    """A tree whose words and degrees count as 1 and drop out, except in the argument of a function."""
    if node[0] == "name" and node[1][0] == '"' or node[0] == "^" and without_units(node[1]) == ONE:
        return ONE
    if node[0] not in ("*", "/", "+", "neg"):
        return node
    first, *others = map(without_units, node[1:])
    others = [other for other in others if other != ONE or node[0] == "+"]  # 60 km/h
    return (node[0], first, *others) if others or node[0] == "neg" else first
