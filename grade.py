r"""Is this answer right? extract_answer finds it in a completion, same_answer compares it with the gold answer.

    python -c "from grade import *; print(same_answer(extract_answer('so we get 1/2'), r'\frac12'))"

An answer (LaTeX or plain text) is read into a small tree of tuples and compared by value; nothing is ever executed.
What cannot be read is compared as text. Caps on length, depth, digits and operations bound the time.

Conventions. 50% is the number 50, not 0.5. A unit (currency, %, degrees, words, the base in 12_8) matters only if the
other answer has another one. Lists and sets are unordered, tuples ordered, the brackets of intervals matter. A decimal
that rounds to a gold decimal of fewer digits is right, and one of ten digits or more is what it rounds; 0.33 is not
1/3. x = 5 equals 5, x < 2 equals (-oo, 2). log is the natural one, odd roots of negative numbers are real, 3:2 is 3/2,
"1,234" is one number, "1, 234" are two. To grade another domain, replace this file.
"""
import functools
import math
import re
import threading
import unicodedata
from fractions import Fraction

MAX_CHARS = 1000  # a longer answer is compared as text
MAX_DEPTH = 20  # nested brackets, fractions, exponents, signs
MAX_BITS = 16_000  # of an exact number: about 4,800 digits
MAX_WORK = 2500  # operations in one comparison

# ---------------------------------------------------------------------------------------------------------
# extraction

BALANCED = functools.reduce(lambda inner, _: rf"(?:\\.|[^{{}}\\]|\{{{inner}\}})*", range(8), "")
BOX = re.compile(rf"\\f?box(?:ed)?(?![a-z])\s*(?:\{{({BALANCED})\}}|([^\s${{}}]+))", re.S)
BOX_GAP = re.compile(r"(?=.*[,;ao])(?:[\s$\\(),;]|and\b|or\b|\\text\{\s*(?:and|or)\s*\})+", re.S)
PHRASE = re.compile(r"(?i)\b(?:answer|choice)\b(?:[ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}?)?[\s*_]*(?:\b(?:is|was|"
                    r"equals|(?:would|should|must) be)\b[ \t]*:?|[:=]|\n)[\s*_]*(?:\b(?:option|choice)\b)?|<answer>|####|"
                    r"\b(?:answer|option|choice):?\s+(?=\(?(?-i:[A-J])\b\)?\W*$)")
SENTENCE_END = re.compile(r"(?<![ap]\.m)\.(?=\s|$)|\n|</?answer>|,? (?:because|since|which|so)\b|, (?:where|thus)\b")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$\n]+?)(?<! )\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]|((?:(?<![\w)\]])-)?"
                     r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+|\\?%)?|\\frac\{[^{}]*\}\{[^{}]*\})", re.S)


def extract_answer(completion: str) -> str | None:
    """The final answer of a completion: the last \\boxed{} (or list of them), else what follows the last "the answer
    is" or ####, else the last formula or number; None if there is none of them."""
    text = completion[-30_000:].rpartition("</think>")[2]
    return last_boxed(text) or last_phrase(text) or last_formula(text)


def last_boxed(text):
    starts = [m.start() for m in re.finditer(r"\\f?box", text)][-20:]
    boxes = [m for m in (BOX.match(text, start, start + 3000) for start in starts) if m and tidy(m[m.lastindex])]
    first = len(boxes) - 1
    while first > 0 and BOX_GAP.fullmatch(text[boxes[first - 1].end():boxes[first].start()]):
        first -= 1
    return ", ".join(tidy(m[m.lastindex]) for m in boxes[max(first, 0):])


def last_phrase(text):
    text = re.sub(r"\b([A-J])\)? is the (?:correct |right )?(?:answer|option|choice)\b", r"the answer is \1", text)
    for m in [*PHRASE.finditer(text)][:-5:-1]:
        rest = text[m.end():m.end() + 3000].lstrip(" \t\n:*_")
        block = re.match(r"(?:\$\$|\\\[)(.+?)(?:\$\$|\\\])", rest, re.S)
        answer = tidy(block[1] if block else rest[:SENTENCE_END.search(rest + "\n").start()])
        if answer:
            return len(re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)) > 4 and last_formula(answer) or answer
    return None


def last_formula(text):
    """The whole text, or what follows its last "is", if that can be read; else its last formula or number."""
    last = text.strip().rpartition("\n")[2][-300:]
    for part in (last if last == text.strip() else "", re.split(r"\b(?:is|are|equals|be|get)\b:?", "is " + last)[-1]):
        if choice(part) or tidy(part) and read(part)[0] not in ("text", "seq"):
            return tidy(part)
    found = [*FORMULA.finditer(text[-3000:])]
    return tidy(re.split(r"(?<![<>!\\])=", next(filter(None, found[-1].groups())))[-1]) if found else None


def tidy(text):
    """Strip what surrounds an answer: spaces, markdown, math delimiters, a full stop. None if nothing is left."""
    text = re.sub(r"^(?:\\\(|\\\[|[\s*_`:])+|(?:\\\)|\\\]|[\s*_`.,;:])+$", "", text)
    text = text[1:-1] if text.count("$") == 2 and text[0] == text[-1] == "$" else text
    return text if re.search(r"[^\W_]|[∞∅√]", re.sub(r"\\f?box(ed)?\b", "", text)) else None

# ---------------------------------------------------------------------------------------------------------
# reading: text -> one spelling -> tokens

def table(text):
    """Spellings of one thing stand together, the first is ours; two spaces part one thing from the next."""
    return {word: group.split()[0] for group in re.split(r"\s{2,}", text.strip()) for word in group.split()}


SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‒﹣", "-"), **dict.fromkeys("∣‖", "|"), **dict.fromkeys("“”\"", ""), "’": "'", "~": " ",
    "∛": r"\sqrt_3 ", "≈": r"\approx ", "°": r"\circ ", "±": r"\pm ", "∓": r"\mp ", "\f": r"\f", "\b": r"\b"})
TEXT = r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|operatorname|hbox|emph)\s*\{"
REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"[¼-¾⅐-⅞]", r" \g<0>"), (r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", r"^{\g<0>}"), (r"[₀-₉]+", r"_{\g<0>}"),
    (r"(?s).+", lambda m: unicodedata.normalize("NFKC", m[0]).translate(SYMBOLS)),
    (r"(?s)^(?:(?!.*\\begin)|(?=.*\\\\begin)).*",  # escaped twice
     lambda m: re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", m[0])),
    (r"(?<=\d)(?:\{,\}|,?\s*\\[!,]|\\[;: ](?=\d{3}\b))\s*(?=\d)", ""),  # thousands
    (r"(?s)\\begin\s*\{(?:[pbB]?(?:small)?matrix\}|array\}\s*\{[^{}]*\})(.*?)(?:\\\\\s*)?\\end\s*\{\w+\}",
     lambda m: "([" + m[1].replace("&", ",").replace(r"\\", "],[") + "])"),
    (r"(?:\bMatrix\()?\[\s*\[(.*)\]\s*\]\)?", r"([\1])"),
    (r"(?<!\\)\\(?:[()\[\],;:! ]|(?:begin|end|hspace|vspace|phantom)\s*\{[^{}]*\}|(?:left|right|[bB]igg?[lr]?|limits|"
     r"displaystyle|textstyle|noindent|rm|bf|f?box(?:ed)?|boldsymbol|bm|vec|math(?:bf|it|cal|bb|sf|tt))(?![a-zA-Z])\.?)",
     " "),
    (r"(?<![\d.,])(?<!\d )\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,]| ?/| \d)", lambda m: m[0] if re.search(
        r"[(\[]", m.string) and not re.search("[, ]0", m[0]) else re.sub("[, ]", "", m[0])),  # (1,234) are two numbers
    (r"(\\[dtc]?frac|\\binom)\s*(\d)\s*(\d)", r"\1{\2}{\3}"), (r"(?:(?<=\d) +(\d+) ?/|(\d+)⁄) ?(\d+)", r"\\frac{\1\2}{\3}"),
    (r"(?<![\w.^}])(\d+)\s*\\[dtc]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}",  # mixed numbers
     lambda m: r"\frac{%d}{%s}" % (int(m[1]) * int(m[3]) + int(m[2]), m[3])),
    (r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", lambda m: r"\frac{%d}{%d}" % (
        int(m[1] + m[2] + m[3]) - int(m[1] + m[2] or 0), 10**len(m[2] + m[3]) - 10**len(m[2]))),
    (r"\{([^{}]*)\\choose([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"\^\s*\{?\s*(\\circ|\\prime)\b\s*\}?", r"\1 "), (r"(\^(?:\{[^{}]*\}|\w))(_(?:\{[^{}]*\}|\w))", r"\2\1"),
    (r"((?<!_)\d\}*\)?)\s*\\(?:approx|simeq).*", r"\1"),  # what stands before an approximation is exact
    (r"\\[lr]?vert(?![a-z])|\\mid\b|\\\|", "|"), (r"^\s*\\?\{\s*[a-z]\s*[|:](.*)\}\s*$", r"\1"),
    (r"\\sqrt\s*\[([^\[\]]*)\]", r"\\sqrt_{\1}"), (r"\|([^|]+)\|", r" \\abs{\1}"), (r"\\l(floor|ceil)\b(.*?)\\r\1\b", r"\\\1{\2}"),
    (r",?\s*\(?\b[kmn]\s*\\in\s*\{?\s*[ZN]\b.*$", ""), (r"(?i)\b([ap])\.\s?m\b\.?|(?<=\d)\s?([ap])m\b", r' "\1\2m" '),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"), (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (r"(?<![\\a-zA-Z])([a-zA-Z]?)(sin|cos|tan|ln|log)([a-zA-Z]?)(?![a-zA-Z])", r"\1 \2 \3"),
    (TEXT + r"\s*((?!and\s*\}|or\s*\})[A-Za-z][A-Za-z.' /-]*?)\s*\}", r' "\1" '), (TEXT + r"([^{}\"]*)\}", r" \1 "),
    (r"(?<!\\)\$(?=\s*\.?\d[^$]*$)", r"\\$"), (r"(?<!\\)\$", " "),  # a dollar sign without a partner is a currency
    (r"^(?:[\s*_`]|\\\\)+|(?:[\s*_`.,;:]|\\\\|(?<!\\)\\)+$", ""),
    (r"(?i)^(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer)\b\s*:?\s*", ""),
    (r'(?i)^"?\s*no (?:real )?solutions?\s*"?$|\\emptyset\b|\\varnothing\b|∅', r"\\{\\}"),
    (r"(?i)^(?:the set of )?(?:all )?real numbers$|^\{?\s*R\s*\}?$", r"(-\\infty,\\infty)"),
    (r"(?<=\d)\s+([mgshLKCNJWV])$", r' "\1"'), (r"(\\\$|[€£¥₹]|\bRs\.?|\bUSD)\s*([\d.,]*\d)", r"\2 \1 "),
    (r"^\s+|\s+$", "")]]
SAME = table(r"""* \cdot \times \ast · ⋅ ∙ × ∗  / \div : ÷ ⁄  ^ **  <= \le \leq \leqslant =< ≤ ⩽  >= \ge \geq \geqslant ≥ ⩾
    < \lt  > \gt  != \ne \neq ≠  = == := \equiv \in \approx \simeq ∈  ( \langle ⟨  ) \rangle ⟩  \{ \lbrace  \} \rbrace
    , ; and or \cup \lor \vee \land \wedge \quad \qquad \\ ∪  % \% percent percentage  "deg" \circ \degree  ' \prime
    "dollar" \$ dollar dollars usd  "euro" € \euro euro euros  "pound" £ \pounds pounds  "rupee" ₹ rupee rupees rs
    "yen" ¥ yen  \infty inf infinity oo ∞  \pi pi π  \phi \varphi phi φ ϕ  \epsilon \varepsilon
    \frac \dfrac \tfrac \cfrac  \sqrt sqrt √  \abs abs  \arcsin arcsin asin  \arccos arccos acos  \arctan arctan atan
    \sin sin  \cos cos  \tan tan  \cot cot  \sec sec  \csc csc  \ln ln \log log  \lg lg  \exp exp  i \imath""")
UNITS = table("""deg degree degrees  cent cents  cm centimeter centimetre  mm millimeter  km kilometer kilometre
    m meter metre  inch in inches  ft foot feet  yd yard  mi mile  kg kilogram  g gram  mg milligram  lb lbs  oz ounce
    l liter litre  ml milliliter  s sec second  min minute mins  h hr hour hrs  / per  am  pm  sq
    unit units st nd rd th""")
GREEK = r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \omicron \pi \rho
    \varsigma \sigma \tau \upsilon \phi \chi \psi \omega""".split()
for place, word in enumerate(GREEK):
    SAME |= {chr(0x3b1 + place): word, chr(0x391 + place): word.title()} | ({word[1:]: word} if len(word) > 5 else {})
FUNCTIONS = {f"\\{name}" for name in "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln lg exp".split()}
PREFIXES = FUNCTIONS | {r"\abs", r"\floor", r"\ceil", r"\sqrt", r"\frac", r"\binom"}
NAMES = {*GREEK, *map(str.title, GREEK), *r"\infty \angle \triangle \ell \hbar \odot \max \min".split()}
LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, **dict.fromkeys(FUNCTIONS, 2.2), "(": 2.2, "[": 3, "{": 3, "^": 4, "!": 5,
          '"deg"': 5, '"degrees"': 5}
PAIRS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",)}
END = " end"
BASES = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10")
WORDS = re.compile(r"(?=.*[A-Za-z]{2})(?!(?:[abc]{2}|[b-df-hj-np-tv-z]{2,3})$)[A-Za-z]+(?:[' -][A-Za-z]+)*")
PROSE = re.compile(r"(?<![\\\w])([A-Za-z]{2,3}) ([A-Za-z]{2,3})\b")
TOKEN = re.compile(r'\s*((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|"[^"]*"|\\[a-zA-Z]+|\\.|[^\W\d_]+|\*\*|[<>=!:]=|=<'
                   r'|_\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\d+|"[^"]*"|\\[a-zA-Z]+|\S)|\S)')


def tokenize(text):
    """The tokens, last one first, so that pop() takes the next; " end" lies at the bottom. Words come in quotes."""
    tokens = []
    for token in TOKEN.findall(text):
        word = token.lower() if token.isalpha() and len(token) > 1 else token
        if token[0] == "_":
            text = re.sub(r'[_"\s]|\{$', "", token)
            text = text[1:-1] if text[:1] == "{" else text
            tokens.append("_" + BASES.get(text, text))
        elif word in SAME or not token.isalpha():
            tokens.append(SAME.get(word, token))
        elif len(token) > 3 or len(token) > 1 and word in UNITS:
            tokens.append(f'"{token}"')
        else:
            tokens += [SAME.get(letter, letter) for letter in token]
    return [END, *tokens[::-1]]


def read(text):
    """The tree of an answer; ("text", words) where it is words, too long, or cannot be read."""
    try:
        if len(text) > MAX_CHARS:
            raise ValueError("too long")
        for pattern, new in REWRITES:
            text = pattern.sub(new, text)
        if WORDS.fullmatch(text.strip('{}" ')) and text.lower() not in SAME and " and " not in text or any(
                not {*pair} & (SAME.keys() | UNITS.keys()) for pair in PROSE.findall(text)):
            raise ValueError("words, not a product of letters")
        signs = ("+-", "-+") if r"\pm" in text else ("  ",)
        items = [tree for plus, minus in signs for tree in listing(
            tokenize(text.replace(r"\pm", plus).replace(r"\mp", minus)), 0, [END])[0]]
        items = list(dict.fromkeys(items)) if r"\pm" in text else items  # what holds no \pm is not two
        if not items:
            raise ValueError("nothing")
        return items[0] if len(items) == 1 else ("seq", "", "", tuple(items))
    except (ValueError, ArithmeticError):
        text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
        return "text", " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\bthe\b", " ", text).split())


def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = read(text if ":" not in text else "")  # 3:2 is a ratio or a time
    node = node[1] if node[0] == "unit" else node
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    top, bottom = node[1:] if node[0] == "/" else (node, ("num", 1, 0))
    return sign * top[1] / bottom[1] if top[0] == bottom[0] == "num" and bottom[1] else None

# ---------------------------------------------------------------------------------------------------------
# reading: tokens -> tree, by recursive descent. Trees are
# ("num", Fraction, places) ("name", "x") (operator, *operands) ("seq", "(", "]", items), "" for a bare list
# ("unit", tree, "cm") ("rel", signs, sides) ("text", words)

def listing(tokens, depth, closers):
    """The items between commas and the bracket that closes them."""
    items = []
    while tokens[-1] not in closers:
        items.append(item(tokens, depth))
        if tokens[-1] == ",":
            tokens.pop()
        elif tokens[-1] not in closers:
            raise ValueError(tokens[-1])
    return tuple(items), tokens.pop()


def item(tokens, depth):
    """An expression with its unit, or words, or a chain of these joined by = < > and their like."""
    sides, signs = [], []
    while len(sides) == len(signs):
        node = None if tokens[-1][0] == '"' and len(tokens[-1]) > 3 else parse(tokens, depth)
        marks = unit(tokens)
        if node and node[0] in ("deg", "unit"):
            node, marks = node[1], " ".join([*(node[2:] or ["deg"]), marks]).strip()
        sides.append(("unit", node, marks) if node and marks else node or ("text", marks))
        if tokens[-1] in ("=", "<", ">", "<=", ">=", "!="):
            signs.append(tokens.pop())
    return ("rel", tuple(signs), tuple(sides)) if signs else sides[0]


def unit(tokens):
    """The words and marks after a quantity, in one spelling: "square centimeters" is cm^2, "per" is /."""
    words = []
    while tokens[-1][0] in '"%/' or words and (tokens[-1].isalpha() or tokens[-1] == "^"):
        token = tokens.pop()
        if token == "^":
            words[-1] += f"^{atom(tokens, 0)[1]}"
        else:
            words += token.strip('"').lower().replace("/", " / ").replace(".", "").split()
    words = [UNITS.get(w) or UNITS.get(w.rstrip("s")) or w.rstrip("s") for w in words]
    text = " ".join(w for w in words if w not in ("unit", "of", "the", "a"))
    return re.sub(r"\b(sq|square|cubic) (\w+)", lambda m: m[2] + ("^3" if m[1] == "cubic" else "^2"), text)


def level(token):
    """How tightly what follows an operand binds: sums 1, products 2, products without a sign 3, powers 4, marks 5."""
    operand = token[0].isalnum() or token[0] == "." or token in NAMES or token in PREFIXES
    return LEVELS.get(token) or (3 if operand else 5 if token[0] == "_" else 0)


def parse(tokens, depth, above=0):
    """An expression of all operators that bind more tightly than `above`."""
    if tokens[-1] in ("+", "-") and depth < MAX_DEPTH:
        sign, node = tokens.pop(), parse(tokens, depth + 1, max(above, 2))
        if sign == "-":
            node = ("num", -node[1], node[2]) if node[0] == "num" else ("neg", node)
    else:
        node = atom(tokens, depth)
    while (binding := level(tokens[-1])) > above and not (tokens[-1] == "/" and tokens[-2][0] == '"'):
        token = tokens.pop() if binding in (2, 4, 5) else ""  # a sign belongs to what follows
        if token[:1] == "_":
            node = ("unit", node, "base " + token[1:])
        elif binding == 5:
            node = ("!" if token == "!" else "deg", node)
        elif token in ("/", "^"):
            depth += 1  # bounds the chain a/b/c
            node = (token, node, parse(tokens, depth, 3.5 if token == "^" else 3))
        else:
            kind, digit = "+" if binding == 1 else "*", tokens[-1][0].isdigit()
            terms = node[1:] if node[0] == kind else (node,)  # long sums stay flat
            node = (kind, *terms, parse(tokens, depth, 1 if binding == 1 else 3))
            if binding == 3 and digit and terms[-1][0] == "num":
                raise ValueError("two numbers")
    return node


def atom(tokens, depth):
    """A number, a bracket, a function with its argument, a name."""
    token = tokens.pop()
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if token[0].isdigit() or token[0] == ".":
        mantissa, _, exponent = token.lower().partition("e")
        if len(exponent) > 4:
            raise ValueError(token)
        return "num", Fraction(token), None if exponent else len(mantissa.partition(".")[2])
    if token in PAIRS:
        items, closer = listing(tokens, depth + 1, PAIRS[token])
        if len(items) == 1 and token + closer in ("()", "[]", "{}"):
            return items[0]
        if len(items) < 2 and token != r"\{":
            raise ValueError(token)
        ends = ("{", "}") if token[-1] == "{" else (token, closer) if len(items) == 2 else ("(", ")")
        return "seq", *ends, items
    if token in PREFIXES:
        return function(tokens, depth + 1, token)
    name = token.strip('"')
    if token not in NAMES and not (len(name) == 1 and name.isalpha()):
        raise ValueError(token)
    while tokens[-1][0] in "_'":
        name += tokens.pop()
    return "name", name


def function(tokens, depth, name):
    r"""\frac{1}{2}, sin x, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        return name.replace(r"\frac", "/"), atom(tokens, depth), atom(tokens, depth)
    exponent = base = None
    while tokens[-1][0] in "^_":
        token = tokens.pop()
        if token == "^":
            exponent = parse(tokens, depth, 5)
        else:
            base = item(tokenize(token[1:]), depth)
    if name == r"\sqrt":
        return "^", atom(tokens, depth), ("/", ("num", Fraction(1), 0), base or ("num", Fraction(2), 0))
    node = atom(tokens, depth) if tokens[-1] in ("(", "{", "[") else parse(tokens, depth, 2.5)
    if exponent == ("num", -1, 0):
        return r"\arc" + name[1:], node
    node = ("/", (name, node), (name, base)) if base else (name, node)
    return ("^", node, exponent) if exponent else node

# ---------------------------------------------------------------------------------------------------------
# comparing values: a tree at a point is a Fraction where that is exact, else a number of mpmath with 60 digits

LOCK = threading.Lock()  # contexts of mpmath share its cached constants
CONSTANTS = {"e": "e", "i": "j", r"\pi": "pi", r"\infty": "inf"}
MPMATH = {"!": "factorial", r"\binom": "binomial", "^": "power", r"\lg": "log10", "deg": "radians"}
EXACT = {
    "+": lambda *x: sum(x), "*": lambda *x: math.prod(x), "/": lambda x, y: x / y, "neg": lambda x: -x, r"\abs": abs,
    r"\floor": lambda x: Fraction(math.floor(x)), r"\ceil": lambda x: Fraction(math.ceil(x))}


@functools.cache
def mp():
    import mpmath  # here because most answers are compared without it
    context = mpmath.mp.clone()
    context.dps = 60
    return context


def size(x):
    """How many bits it takes to write x."""
    if isinstance(x, Fraction):
        return x.numerator.bit_length() + x.denominator.bit_length()
    return abs(mp().mag(x)) if x and mp().isfinite(x) else 0


def inexact(x):
    return mp().mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def value(node, env, work):
    """The value of a tree. env: {name: Fraction}; where it is not empty, leaving the reals is an error, as is all that
    is undefined, too large or no expression. work: [operations left]."""
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        return env[parts[0]] if parts[0] in env else getattr(mp(), CONSTANTS[parts[0]]) * 1
    args = [value(part, env, work) for part in parts]
    exact = all(isinstance(x, Fraction) for x in args)
    work[0] -= 1 + (sum(map(size, args)) // 300 if exact else 80 if kind in ("!", r"\binom") else 10)
    if work[0] < 0:
        raise OverflowError("too much work")
    result = apply(kind, args, exact)
    if size(result) > MAX_BITS or not isinstance(result, Fraction) and (
            mp().isnan(result) or env and mp().im(result)):
        raise ValueError("too large, undefined, or beyond the reals")
    return result


def apply(kind, args, exact):
    """An operator or function: exact where it can be."""
    if exact and kind in ("!", r"\binom") and all(x.denominator == 1 and 0 <= x <= 1500 for x in args):
        return Fraction((math.factorial if kind == "!" else math.comb)(*map(int, args)))
    x, y, sign = args[0], args[-1], 1
    if kind == "^" and isinstance(y, Fraction):
        if exact and y.denominator == 1:
            if abs(y) * (size(x) - 2) > MAX_BITS:
                raise OverflowError("too many digits")
            return x ** int(y)
        if y.denominator % 2 and not mp().im(inexact(x)) and x < 0:  # the real root
            args, sign = [-x, y], (-1) ** (y.numerator % 2)
    args = args if exact and kind in EXACT else [inexact(x) for x in args]
    if kind in EXACT:
        return EXACT[kind](*args)
    if kind != r"\ln" and mp().isfinite(args[-1]) and abs(args[-1]) > 1e9:
        raise OverflowError(kind)
    return sign * getattr(mp(), MPMATH.get(kind) or kind[1:].replace("arc", "a"))(*args)


def names(node):
    """The free variables of a tree."""
    if node[:1] == ("name",):
        return {node[1]} - CONSTANTS.keys()
    return set().union(*(names(part) for part in node if isinstance(part, tuple)))


def at_points(a, b, work):
    """The values of two trees side by side, at every fixed point of their variables where both are defined."""
    variables = sorted(names(a) | names(b))
    for row in range(6 if variables else 1):
        env = {}  # rows 0 and 1 are positive, 2 in (0, 1), 3 whole numbers, 4 negative, 5 of mixed signs
        for i, name in enumerate(variables):
            x = Fraction(17 + 6 * i + 11 * row, (7, 13, 79 + 7 * i, 1, 11, 19)[row])
            env[name] = -x if row == 4 or row == 5 and i % 2 == 0 else x
        try:
            yield value(a, env, work), value(b, env, work)
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
            continue  # undefined here, or no expression at all


def close(x, y):
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = inexact(x), inexact(y)
    scale = max(abs(x), abs(y))
    return x == y or mp().isfinite(scale) and abs(x - y) <= max(scale * mp().mpf(10) ** -40, mp().mpf(10) ** -50)


def printed(node, y):
    """Whether a decimal of ten digits or more is y as a program prints it."""
    x, places = node[1:] if node[0] == "num" else (0, None)
    digits = len(str(abs(x) * 10**places)) if places else 0
    if not 10 <= digits <= 40:
        return False
    error = abs(x - y if isinstance(y, Fraction) else inexact(x) - y)
    return 2 * error * 10**places <= 1 or digits <= 17 and error * 10**16 <= 4 * abs(y)


def same_value(a, b, work):
    """Equal at every fixed point, at two of them at least if there are variables; or equal but for rounding."""
    if a[0] == b[0] == "num" and (a[2] or 0) > (b[2] or 0) > 0:
        x, y, scale = a[1], b[1], 10**b[2]
        return x * y >= 0 and Fraction(math.floor(abs(x) * scale + Fraction(1, 2)), scale) == abs(y)
    pairs = [*at_points(a, b, work)]
    if names(a) | names(b):
        return len(pairs) > 1 and all(close(*pair) for pair in pairs)
    return bool(pairs) and (close(*pairs[0]) or printed(a, pairs[0][1]) or printed(b, pairs[0][0]))


def proportional(a, b, work):
    """Whether two equations or inequalities are one but for a constant factor (positive for the latter)."""
    (sign, p), (other, q) = ((s.replace(">", "<"), ("+", *((y, ("neg", x)) if s[0] == ">" else (x, ("neg", y)))))
                             for _, (s,), (x, y) in (a, b))
    pairs = [*at_points(p, q, work)]
    if sign != other or len(pairs) < 2 or not all(x and y for x, y in pairs):
        return False
    ratios = [inexact(x) / inexact(y) for x, y in pairs]
    return all(close(ratios[0], r) for r in ratios) and (sign in ("=", "!=") or mp().re(ratios[0]) > 0)

# ---------------------------------------------------------------------------------------------------------
# comparing answers

CHOICE = re.compile(r"(?i)(?:\(([a-j])\)|([a-j])\)|(?-i:([A-Ja-d])(?:[.:]|$)))\s*(.*)", re.S)


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
        listed = options(problem or "")
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


def options(problem):
    """{"A": "$61", ...}, from what follows "Options:" or the first A)."""
    tail = re.split(r"(?i)(?:options|choices)\s*:|(?=\(?\bA\s*[).:])", problem[-2000:], maxsplit=1)[-1]
    parts = re.split(r"\(?\b([A-J])\s*(?:\)|[.:](?!\d))", tail)[:21]
    return dict(zip(parts[1::2], map(str.strip, parts[2::2])))


def same(a, b, work):
    """Whether a predicted tree equals a gold tree."""
    work[0] -= 1
    a, b = (t[3][0] if t[:2] == ("seq", "{") and len(t[3]) == 1 else t for t in (a, b))
    kinds = {a[0], b[0]}
    if a == b or work[0] < 0:
        return a == b and a != ("text", "")
    if "unit" in kinds:
        (x, u), (y, v) = (t[1:] if t[0] == "unit" else (t, "") for t in (a, b))
        few, many = sorted((set(u.split()), set(v.split())), key=len)
        agree = not few or u == v or few < many and not re.search(r"[/^%]|base|[ap]m", u + v)
        return agree and same(x, y, work)
    if "rel" in kinds:
        x, y = (meaning(t, a[0] != b[0]) if t[0] == "rel" else (None, t) for t in (a, b))
        if a[0] == b[0] and not (x and y and (x[0] == y[0] or {x[0][0], y[0][0]} != {"name"})):
            return len(a[1]) == len(b[1]) == 1 and proportional(a, b, work)
        return bool(x and y) and same(x[1], y[1], work)
    if "seq" in kinds:
        return a[0] == b[0] and len(a[3]) == len(b[3]) and same_items(a, b, work)
    return "text" not in kinds and same_value(a, b, work)


def same_items(a, b, work):
    (_, *ends_a, x), (_, *ends_b, y) = a, b
    if {ends_a[0], ends_b[0]} <= {"", "{"}:
        rest = list(y)
        for node in x:
            found = next((i for i, other in enumerate(rest) if same(node, other, work)), None)
            if found is None:
                return False
            del rest[found]
        return True
    if {*ends_a, *ends_b} == {"", "(", ")"}:  # 1, 2 may stand for (1, 2), and x = 1, y = 2 too
        x, y, ends_a = in_order(x), in_order(y), ends_b
    return ends_a == ends_b and all(same(*pair, work) for pair in zip(x, y))


def in_order(items):
    """The values of x = 1, y = 2 by name; anything else as it is."""
    pairs = dict(meaning(x) or (x, x) for x in items if x[0] == "rel" and x[1] == ("=",))
    return [pairs[label] for label in sorted(pairs, key=str)] if len(pairs) == len(items) else items


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, \Delta p, (x, y), words."""
    if node[0] == "*":
        head = node[1][1] if node[1][0] == "^" else node[1]
        return head[0] == "name" and (head[1][0] in "fghmp\\" or head[1][0].isupper()) and head != node[2] and (
            len(node) == 3 or all(x[0] == "name" for x in node[1:]))
    parts = node[3] if node[0] == "seq" else [node]
    return node[0] == "text" or bool(names(node)) and all(x[0] == "name" for x in parts)


def meaning(node, alone=False):
    """(label, value) of x = 5, 5 = x and 2 + 3 = 5, (x, interval) of x < 2 and 0 < x <= 1; else None.
    alone: no equation is asked for, so that a + b = 5 is 5, but the plane x + y = 5 is not."""
    signs, sides = node[1:]
    if set(signs) == {"="}:
        label, result = (sides[-1], sides[0]) if is_label(sides[-1]) and not is_label(sides[0]) else (sides[0], sides[-1])
        if not names(node) and label[0] != "text":
            return (("text", ""), result) if all(same(x, result, [200]) for x in sides) else None
        sound = not names(label) & names(result) if label[0] == "name" else is_label(label) or (
            alone and not names(result) and not names(label) & {"x", "y", "z"})
        return (label, result) if sound else None
    if signs[0][0] == ">":
        signs, sides = [s.replace(">", "<") for s in signs[::-1]], sides[::-1]
    if len(signs) == 1:
        infinity, left = ("name", r"\infty"), sides[0][0] == "name" and not names(sides[1])
        signs, sides = (["<", *signs], [("neg", infinity), *sides]) if left else ([*signs, "<"], [*sides, infinity])
    if len(signs) > 2 or {*signs} - {"<", "<="} or sides[1][0] != "name" or names(sides[0]) | names(sides[2]):
        return None
    return sides[1], ("seq", "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")", (sides[0], sides[2]))
