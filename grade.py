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

PHRASE = re.compile(r"""(?ix) <answer> | \#\#\#\# |
    \b(?:answer|choice)\b (?:[ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}?)? [\s*_]*                # the answer to part (b)
    (?:\b(?:is|was|equals|(?:would|should|must)[ ]be)\b[ \t]*:? | [:=] | \n) [\s*_]*          # is:
    (?:\b(?:option|choice|therefore|thus)\b)? |
    \b(?:answer|option|choice):?\s+ (?=\(?(?-i:[A-J])\b\)?\W*$)                               # Option C, at the end""")
SENTENCE_END = re.compile(r"(?<![ap]\.m)\.(?=\s|$)|\n|</?answer>|,? (?:because|since|which|so)\b|, (?:where|thus)\b")
FORMULA = re.compile(r"""(?xs) \$\$(.+?)\$\$ | \$(?![ ])([^$\n]+?)(?<![ ])\$(?!\d) | \\\((.+?)\\\) | \\\[(.+?)\\\] |
    ((?:(?<![\w)\]])-)? (?:\d[\d,]*(?:\.\d+)?|\.\d+) (?:\s?/\s?\d+|\\?%)? | \\frac\{[^{}]*\}\{[^{}]*\})""")


def extract_answer(completion: str) -> str | None:
    """The final answer of a completion: the last \\boxed{} (or list of them), else what follows the last "the answer
    is" or ####, else the last formula or number; None if there is none of them."""
    text = completion[-30_000:].rpartition("</think>")[2]
    return last_boxed(text) or last_phrase(text) or last_formula(text)


def last_boxed(text):
    r"""What the last \boxed{...} or \boxed 5 holds, of those that are closed and not empty. \{ is no brace."""
    for box in [*re.finditer(r"\\f?box(?:ed)?(?![a-z])\s*([^\s${}]*)", text)][:-20:-1]:
        content, rest, depth = box[1], text[box.end():box.end() + 3000], 0
        for brace in re.finditer(r"\\.|[{}]", "" if content else rest, re.S):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                content = rest[1:brace.start()]
                break
        if tidy(content):
            return tidy(content)
    return None


def last_phrase(text):
    """What follows "the answer is" up to the end of the sentence; the number in it, if that is a long sentence."""
    text = re.sub(r"\b([A-J])\)? is the (?:correct |right )?(?:answer|option|choice)\b", r"the answer is \1", text)
    for m in [*PHRASE.finditer(text)][:-5:-1]:
        rest = text[m.end():m.end() + 3000].lstrip(" \t\n:*_")
        answer = tidy(rest[:SENTENCE_END.search(rest + "\n").start()])
        if answer:
            words = re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)
            return len(words) > 4 and last_formula(answer) or answer
    return None


def last_formula(text):
    """What follows the last "is", or the whole text, if that can be read; else its last formula or number."""
    last = text.strip().rpartition("\n")[2][-300:]
    for part in re.split(r"\b(?:is|are|equals|be|get)\b:?", "is " + last)[-1], last if last == text.strip() else "":
        words = re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", part)
        if choice(part) or not words and tidy(part) and read(part)[0] not in ("text", "seq"):
            return tidy(part)
    found = [*FORMULA.finditer(text[-3000:])]
    return tidy(re.split(r"(?<![<>!\\])=", next(filter(None, found[-1].groups())))[-1]) if found else None


def tidy(text):
    """Strip what surrounds an answer: spaces, markdown, math delimiters, a full stop. None if nothing is left."""
    text = re.sub(r"^(?:\\\(|\\\[|[\s*_`:])+|(?:\\\)|\\\]|[\s*_`.,;:])+$", "", text)
    text = text[1:-1] if text.count("$") == 2 and text[0] == text[-1] == "$" else text
    return text if re.search(r"[^\W_]|[∞∅√]", re.sub(r"\\f?box(ed)?\b", "", text)) else None

# ---------------------------------------------------------------------------------------------------------
# reading: text -> one spelling

SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‒﹣", "-"), **dict.fromkeys("∣‖", "|"), **dict.fromkeys("“”\"", ""), "’": "'", "~": " ", "\f": r"\f",
    "∛": r"\sqrt[3]", "≈": r"\approx ", "°": r"\circ ", "±": r"\pm ", "∓": r"\mp "})
TEXT = r"\\(?:text(?:bf|it|rm)?|mbox|mathrm|operatorname|hbox|emph)\s*\{"
RULES = [(re.compile(pattern), new) for pattern, new in [
    # layout, brackets
    (r"(?s)\\begin\s*\{(?:[pbB]?(?:small)?matrix\}|array\}\s*\{[^{}]*\})(.*?)(?:\\\\\s*)?\\end\s*\{\w+\}",
     lambda m: "([" + m[1].replace("&", ",").replace(r"\\", "],[") + "])"),  # a matrix is a tuple of its rows
    (r"(?:\bMatrix\()?\[\s*\[(.*)\]\s*\]\)?", r"([\1])"),
    (r"(?<=\d)(?:\{,\}|,?\s*\\[!,]|\\[;: ](?=\d{3}\b))\s*(?=\d)", ""),  # 10{,}000  10,\!000  10\,000
    (r"(?<!\\)\\(?:[()\[\],;:! ]|(?:begin|end|hspace|phantom)\s*\{[^{}]*\}|(?:left|right|[bB]igg?[lr]?|displaystyle|"
     r"noindent|rm|bf|f?box(?:ed)?|boldsymbol|vec|math(?:bf|it|cal|bb|sf|tt))(?![a-zA-Z])\.?)", " "),
    (r"\\[lr]?vert(?![a-z])|\\mid\b|\\\|", "|"),
    (r"^\s*\\?\{\s*[a-z]\s*[|:](.*)\}\s*$", r"\1"),  # {x | x > 2}
    (r"\|([^|]+)\|", r" \\abs{\1}"),
    # numbers, scripts
    (r"(?<![\d.,(\[])(?<!\d )\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,)\]]| ?/| \d)",  # but (1,100) are two numbers
     lambda m: re.sub("[, ]", "", m[0])),
    (r"(\\[dtc]?frac|\\binom)\s*(\d)\s*(\d)", r"\1{\2}{\3}"),
    (r"(?:(?<=\d) +(\d+) ?/|(\d+)⁄) ?(\d+)", r"\\frac{\1\2}{\3}"),  # 1 3/4, and ½ in NFKC
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"),
    (r"\\sqrt\s*\[([^\[\]]*)\]", r"\\sqrt_{\1}"),
    (r"\^\s*\{?\s*(\\circ|\\prime)\b\s*\}?", r"\1 "),
    (r"(\^(?:\{[^{}]*\}|\w))(_(?:\{[^{}]*\}|\w))", r"\2\1"),  # v^2_0
    # words, currencies
    (TEXT + r"\s*((?!and\s*\}|or\s*\})[A-Za-z][A-Za-z.' /-]*?)\s*\}", r' "\1" '),
    (TEXT + r"([^{}\"]*)\}", r" \1 "),
    (r"(?i)\b([ap])\.\s?m\b\.?", r"\1m"),
    (r"((?<!_)\d\}*\)?)\s*\\(?:approx|simeq).*", r"\1"),  # what stands before an approximation is exact
    (r"(?i)^[\s$]*(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer)\b\s*:?\s*", ""),
    (r"(?<!\\)\$(?=\s*\.?\d[^$]*$)", r"\\$"),  # a dollar sign without a partner is a currency
    (r"(?<!\\)\$", " "),
    (r"(\\\$|[€£¥₹]|\bRs\.?|\bUSD)\s*([\d.,]*\d)", r"\2 \1 "),
    (r"(?<=\d)\s+([mgshLKCNJWV](?:/[a-z]+)?)$", r' "\1"'),  # the only letters that are a unit
    (r"^(?:[\s*_`]|\\\\)+|(?:[\s*_`.,;:]|\\\\|(?<!\\)\\)+$", ""),
    (r'(?i)^"?no (?:real )?solutions?"?$|\\emptyset\b|\\varnothing\b|∅', r"\\{\\}"),
    (r"(?i)^(?:the set of )?(?:all )?real numbers$|^\{?\s*R\s*\}?$", r"(-\\infty,\\infty)")]]


def respell(text):
    """One spelling for what is written in many ways."""
    text = re.sub(r"[¼-¾⅐-⅞]", r" \g<0>", text)  # 1½ is not 11/2
    text = re.sub(r"[₀-₉]+", r"_{\g<0>}", re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", r"^{\g<0>}", text))
    text = unicodedata.normalize("NFKC", text).translate(SYMBOLS)
    if r"\begin" not in text or r"\\begin" in text:  # escaped twice: no rows end in \\ here
        text = re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", text)
    for pattern, new in RULES:
        text = pattern.sub(new, text)
    return text

# ---------------------------------------------------------------------------------------------------------
# reading: one spelling -> tokens

def table(text):
    """Spellings of one thing stand together, the first is ours; two spaces part one thing from the next."""
    return {word: group.split()[0] for group in re.split(r"\s{2,}", text.strip()) for word in group.split()}


SAME = table(r"""* \cdot \times \ast · ⋅ ∙ × ∗  / \div : ÷ ⁄  ^ **  <= \le \leq \leqslant =< ≤ ⩽  >= \ge \geq \geqslant ≥ ⩾
    < \lt  > \gt  != \ne \neq ≠  = == := \equiv \in \approx \simeq ∈  ( \langle ⟨  ) \rangle ⟩  \{ \lbrace  \} \rbrace
    , ; and or \cup \lor \vee \land \wedge \quad \qquad \\ ∪  % \% percent percentage  ' \prime
    "deg" \circ \degree deg degree degrees  "dollar" \$ dollar dollars usd  "euro" € \euro euro euros
    "pound" £ \pounds pounds  "rupee" ₹ rupee rupees rs  "yen" ¥ yen  \infty inf infinity oo ∞  \pi pi π
    \phi \varphi phi φ ϕ  \epsilon \varepsilon  \frac \dfrac \tfrac \cfrac  \sqrt sqrt √  \abs abs  i \imath
    \arcsin arcsin asin  \arccos arccos acos  \arctan arctan atan  \sin sin  \cos cos  \tan tan  \cot cot  \sec sec
    \csc csc  \ln ln \log log  \lg lg  \exp exp""")
UNITS = table("""cent cents  cm centimeter centimetre  mm millimeter  km kilometer kilometre  m meter metre
    inch in inches  ft foot feet  yd yard  mi mile  kg kilogram  g gram  mg milligram  lb lbs  oz ounce  l liter litre
    ml milliliter  s sec second  min minute mins  h hr hour hrs  / per  am  pm  sq square  unit units st nd rd th""")
BASES = table("2 two  3 three  4 four  5 five  6 six  7 seven  8 eight  9 nine  10 ten  12 twelve  16 sixteen")
GREEK = r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \omicron \pi \rho
    \varsigma \sigma \tau \upsilon \phi \chi \psi \omega""".split()
for place, word in enumerate(GREEK):
    SAME |= {chr(0x3b1 + place): word, chr(0x391 + place): word.title()} | ({word[1:]: word} if len(word) > 5 else {})
TOKEN = re.compile(r"""(?x)\s*( (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\d))? | "[^"]*" | \\[a-zA-Z]+ | \\. | [^\W\d_]+
    | _\s*(?:\{(?:[^{}]|\{[^{}]*\})*\} | \d+ | "[^"]*" | \\[a-zA-Z]+ | \S)              # a subscript is one token
    | \*\* | [<>=!:]= | =< | \S)""")
END = " end"


def tokenize(text):
    """The tokens, last one first, so that pop() takes the next; END lies at the bottom. Words come in quotes."""
    tokens = []
    for token in TOKEN.findall(text):
        word = token.lower() if token.isalpha() and len(token) > 1 else token
        if token[0] == "_":
            subscript = re.sub(r'^_\s*\{(.*)\}$|[_"\s]', r"\1", token).strip('" ')
            tokens.append("_" + BASES.get(subscript, subscript))
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
        text = respell(text)
        words = text.strip('{}" ').lower()
        if re.fullmatch(r"[a-z]+( +[a-z]+)*", words) and not re.search(r"^[abc]{2}$|\b(and|or)\b", words):
            if words not in SAME and re.search("[a-z][aeiou]|[aeiou][a-z]", words):
                raise ValueError("words with a vowel are no product of letters")
        items = []
        for plus, minus in ("+-", "-+") if r"\pm" in text else ("  ",):
            tokens = tokenize(text.replace(r"\pm", plus).replace(r"\mp", minus))
            tree = parse(tokens, 0)
            if tokens != [END]:
                raise ValueError(tokens[-1])
            items += tree[3] if tree[:2] == ("seq", "") else [tree]
        items = list(dict.fromkeys(items)) if r"\pm" in text else items  # what holds no \pm is not two
        return items[0] if len(items) == 1 else ("seq", "", "", tuple(items))
    except (ValueError, ArithmeticError):
        text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
        return "text", " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\b(?:the|an?)\b(?= )", " ", text).split())


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

FUNCTIONS = {f"\\{name}" for name in "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln lg exp".split()}
PREFIXES = FUNCTIONS | {r"\abs", r"\sqrt", r"\frac", r"\binom"}
NAMES = {*GREEK, *map(str.title, GREEK), *r"\infty \angle \triangle \ell \hbar \odot \max \min".split()}
PAIRS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",)}
# how tightly a token binds to the operand before it; the x of 2x is BESIDE the 2
LIST, RELATION, UNIT, SUM, PRODUCT, CALL, BESIDE, POWER, MARK = range(1, 10)
LEVELS = {",": LIST, **dict.fromkeys("= < > <= >= !=".split(), RELATION), "%": UNIT, "+": SUM, "-": SUM, "*": PRODUCT,
          "/": PRODUCT, **dict.fromkeys({"(", *FUNCTIONS}, CALL), "[": BESIDE, "{": BESIDE, "^": POWER, "!": MARK, '"deg"': MARK}


def level(tokens):
    """How tightly the next token binds to the operand before it, 0 if not at all."""
    token = tokens[-1]
    if token[0] == '"' and token != '"deg"' or token == "/" and tokens[-2][0] == '"':
        return UNIT
    operand = token[0].isalnum() or token[0] == "." or token in NAMES or token in PREFIXES
    return LEVELS.get(token) or (BESIDE if operand else MARK if token[0] == "_" else 0)


def parse(tokens, depth, above=0):
    """An expression of all that binds more tightly than `above`."""
    if tokens[-1] in ("+", "-") and depth < MAX_DEPTH:
        sign, node = tokens.pop(), parse(tokens, depth + 1, max(above, PRODUCT))
        if sign == "-":
            node = ("num", -node[1], node[2]) if node[0] == "num" else ("neg", node)
    else:
        node = atom(tokens, depth)
    while (binding := level(tokens)) > above:
        if binding == UNIT:
            node = ("unit", node, unit(tokens))
        elif binding == MARK:
            mark = tokens.pop()
            node = ("!", node) if mark == "!" else ("unit", node, "base " + mark[1:]) if mark[0] == "_" else ("deg", node)
        elif tokens[-1] in ("/", "^"):
            depth += 1  # bounds the chain a/b/c
            node = (tokens.pop(), node, parse(tokens, depth, BESIDE))
        else:
            node = chain(node, tokens, depth, binding)
    return node


def chain(node, tokens, depth, binding):
    r"""A list, a chain of relations, a sum or a product from its first part on, which stay flat however long they are.
    A whole number and a \frac beside it are a mixed number."""
    signs, parts = [], [node]
    while level(tokens) == binding and tokens[-1] != "/":
        if binding in (LIST, RELATION, PRODUCT):
            signs.append(tokens.pop())  # but the sign of a summand belongs to the summand
        first, last = tokens[-1], parts[-1]
        if binding == LIST and level(tokens) == 0 and first[-1] in ")]}d":
            break
        right = parse(tokens, depth, binding)
        if binding == BESIDE and last[0] == "num" and first[0].isdigit():
            raise ValueError("two numbers")
        if binding == BESIDE and first == r"\frac" and last[0] == right[1][0] == right[2][0] == "num" and last[2] == 0:
            right = ("num", parts.pop()[1] + right[1][1] / right[2][1], None)
        parts.append(right)
    if binding == LIST:
        return "seq", "", "", tuple(parts)
    if binding == RELATION and signs[0][0] == ">":  # x > 2 is 2 < x
        signs, parts = [sign.replace(">", "<") for sign in signs[::-1]], parts[::-1]
    return ("rel", tuple(signs), tuple(parts)) if binding == RELATION else (
        "+" if binding == SUM else "*", *parts) if len(parts) > 1 else parts[0]


def unit(tokens):
    """The words and marks after a quantity, in one spelling: "square centimeters" is cm^2, "per" is /."""
    words = []
    while tokens[-1][0] in '"%/' or words and (tokens[-1].isalpha() or tokens[-1] == "^"):
        token = tokens.pop()
        if token == "^":
            words[-1] += f"^{atom(tokens, 0)[1]}"
        else:
            more = token.strip('"').lower().replace("/", " / ").replace(".", "").split()
            words += [UNITS.get(w) or UNITS.get(w.rstrip("s")) or w.rstrip("s") for w in more]
    text = " ".join(w for w in words if w not in ("unit", "of", "the", "a"))
    return re.sub(r"\b(sq|cubic) (\w+)", lambda m: m[2] + ("^3" if m[1] == "cubic" else "^2"), text)


def atom(tokens, depth):
    """A number, a bracket, a function with its argument, a name, words."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if tokens[-1][0] == '"':
        return "text", unit(tokens)
    token = tokens.pop()
    if token[0].isdigit() or token[0] == ".":
        return "num", Fraction(token), None if "e" in token.lower() else len(token.partition(".")[2])
    if token in PAIRS:
        tree = ("seq", "", "", ()) if tokens[-1] in PAIRS[token] else parse(tokens, depth + 1)
        items, closer = tree[3] if tree[:2] == ("seq", "") else (tree,), tokens.pop()
        if closer not in PAIRS[token] or len(items) < 2 and token + closer not in ("()", "[]", "{}", r"\{\}"):
            raise ValueError(closer)
        ends = ("{", "}") if token[-1] == "{" else (token, closer) if len(items) == 2 else ("(", ")")
        return tree if len(items) == 1 and token != r"\{" else ("seq", *ends, items)
    if token in PREFIXES:
        return function(tokens, depth + 1, token)
    if token not in NAMES and not (len(token) == 1 and token.isalpha()):
        raise ValueError(token)
    while tokens[-1][0] in "_'":
        token += tokens.pop()
    return "name", token


def function(tokens, depth, name):
    r"""\frac{1}{2}, sin x, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        return name.replace(r"\frac", "/"), atom(tokens, depth), atom(tokens, depth)
    exponent = base = None
    while tokens[-1][0] in "^_":
        token = tokens.pop()
        if token == "^":
            exponent = parse(tokens, depth, MARK)
        else:
            base = parse(tokenize(token[1:]), depth)
    if name == r"\sqrt":
        return "^", atom(tokens, depth), ("/", ("num", Fraction(1), 0), base or ("num", Fraction(2), 0))
    node = atom(tokens, depth) if tokens[-1] in ("(", "{", "[") else parse(tokens, depth, CALL)
    if exponent == ("num", -1, 0):
        return r"\arc" + name[1:], node
    node = ("/", (name, node), (name, base)) if base else (name, node)
    return ("^", node, exponent) if exponent else node

# ---------------------------------------------------------------------------------------------------------
# comparing values: a tree at a point is a Fraction where that is exact, else a number of mpmath with 60 digits

LOCK = threading.Lock()  # contexts of mpmath share its cached constants
CONSTANTS = {"e": "e", "i": "j", r"\pi": "pi", r"\infty": "inf"}
MPMATH = {"!": "factorial", r"\binom": "binomial", "^": "power", r"\lg": "log10", "deg": "radians"}
EXACT = {"+": lambda *x: sum(x), "*": lambda *x: math.prod(x), "/": lambda x, y: x / y, "neg": lambda x: -x, r"\abs": abs}


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


def value(node, env, work):
    """The value of a tree. env: {name: Fraction}; where it is not empty, leaving the reals is an error, as is all that
    is undefined, too large or no expression. work: [operations left]."""
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        return env[parts[0]] if parts[0] in env else getattr(mp(), CONSTANTS[parts[0]]) * 1
    args = [value(part, env, work) for part in parts]
    x, y, exact = args[0], args[-1], all(isinstance(arg, Fraction) for arg in args)
    work[0] -= 1 + (sum(map(size, args)) // 300 if exact else 80 if kind in ("!", r"\binom") else 10)
    if work[0] < 0 or exact and kind == "^" and y.denominator == 1 and abs(y) * (size(x) - 2) > MAX_BITS:
        raise OverflowError("too much work")
    if kind in EXACT:
        result = EXACT[kind](*(args if exact else map(mp().convert, args)))
    elif exact and kind == "^" and y.denominator == 1:
        result = x ** int(y)
    elif exact and kind in ("!", r"\binom") and all(n.denominator == 1 and 0 <= n <= 1500 for n in args):
        result = Fraction((math.factorial if kind == "!" else math.comb)(*map(int, args)))
    elif kind != r"\ln" and mp().isfinite(y) and abs(y) > 1e9:
        raise OverflowError(kind)
    elif kind == "^" and isinstance(y, Fraction) and y.denominator % 2 and not mp().im(x) and mp().re(x) < 0:
        result = (-1) ** (y.numerator % 2) * mp().power(-x, y)  # the real root
    else:
        result = getattr(mp(), MPMATH.get(kind) or kind[1:].replace("arc", "a"))(*args)
    if size(result) > MAX_BITS or not isinstance(result, Fraction) and (mp().isnan(result) or env and mp().im(result)):
        raise ValueError("too large, undefined, or beyond the reals")
    return result


def names(node):
    """The free variables of a tree."""
    if node[:1] == ("name",):
        return {node[1]} - CONSTANTS.keys()
    return set().union(*(names(part) for part in node if isinstance(part, tuple)))


def at_points(a, b, work):
    """The values of two trees side by side, at every fixed point of their variables where both are defined."""
    variables = sorted(names(a) | names(b))
    for row, scale in enumerate((7, 13, 97, 1, -11) if variables else (1,)):  # positive, in (0, 1), whole, negative
        env = {name: Fraction(17 + 6 * i + 11 * row, scale) for i, name in enumerate(variables)}
        try:
            yield value(a, env, work), value(b, env, work)
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
            pass  # undefined here, or no expression at all


def close(x, y):
    """Equal, if both are exact; else in 40 digits, or both 0 in 50."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = mp().convert(x), mp().convert(y)
    return x == y or abs(x - y) < max(abs(x), abs(y), 1e-10) * mp().mpf(10) ** -40


def same_value(a, b, work):
    """Equal at every fixed point, at two of them at least if there are variables; or equal but for rounding."""
    if a[0] == b[0] == "num" and (a[2] or 0) > (b[2] or 0) > 0:
        return a[1] * b[1] >= 0 and -1 <= 2 * (abs(a[1]) - abs(b[1])) * 10 ** b[2] < 1
    pairs = [*at_points(a, b, work)]
    if names(a) | names(b):
        return len(pairs) > 1 and all(close(*pair) for pair in pairs)
    error = abs(mp().convert(pairs[0][0]) - mp().convert(pairs[0][1])) if pairs else 0
    places = [x[2] for x in (a, b) if x[0] == "num" and x[2] and abs(x[1]) * 10 ** x[2] >= 10 ** 9]
    return bool(pairs) and (close(*pairs[0]) or any(error * 10 ** n < 0.9 for n in places))  # as a program prints it


def proportional(a, b, work):
    """Whether two equations or inequalities are one but for a constant factor (positive for the latter)."""
    (_, (sign,), (w, x)), (_, (other,), (y, z)) = a, b
    pairs = [*at_points(("+", w, ("neg", x)), ("+", y, ("neg", z)), work)]
    if sign != other or len(pairs) < 2 or not all(p and q for p, q in pairs):
        return False
    ratios = [mp().convert(p) / mp().convert(q) for p, q in pairs]
    return all(close(ratios[0], r) for r in ratios) and (sign in ("=", "!=") or mp().re(ratios[0]) > 0)

# ---------------------------------------------------------------------------------------------------------
# comparing answers

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
    if kinds & {"unit", "deg"}:
        (x, u), (y, v) = (t[1:] if t[0] == "unit" else (t[1], "deg") if t[0] == "deg" else (t, "") for t in (a, b))
        return (not u or not v or u == v) and same(x, y, work)
    if "rel" in kinds:
        x, y = (meaning(t, a[0] != b[0]) if t[0] == "rel" else (None, t) for t in (a, b))
        if a[0] == b[0] and not (x and y and (x[0] == y[0] or {x[0][0], y[0][0]} != {"name"})):
            return len(a[1]) == len(b[1]) == 1 and proportional(a, b, work)
        return bool(x and y) and same(x[1], y[1], work)
    if "seq" not in kinds:
        return "text" not in kinds and same_value(a, b, work)
    if a[0] != b[0] or len(a[3]) != len(b[3]):
        return False
    (_, *ends_a, x), (_, *ends_b, y) = a, b
    if {ends_a[0], ends_b[0]} <= {"", "{"}:  # lists and sets have no order
        rest = list(y)
        for node in x:
            found = next((other for other in rest if same(node, other, work)), None)
            if found is None:
                return False
            rest.remove(found)
        return True
    if {*ends_a, *ends_b} == {"", "(", ")"}:  # 1, 2 may stand for (1, 2), and so may x = 1, y = 2, by name
        x, y = (sorted(t, key=lambda n: str(n[2])) if all(n[0] == "rel" for n in t) else t for t in (x, y))
        ends_a = ends_b
    return ends_a == ends_b and all(same(*pair, work) for pair in zip(x, y))


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, \Delta p, (x, y), words; no product that x, y or z leads."""
    parts = node[3] if node[0] == "seq" else [x[1] if x[0] == "^" else x for x in node[1:]] if node[0] == "*" else [node]
    simple = bool(names(node)) and all(part[0] in ("name", "seq") for part in parts)
    return node[0] == "text" or simple and not (node[0] == "*" and parts[0][1] in "xyz")


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
    if len(signs) == 1:
        infinity, left = ("name", r"\infty"), sides[0][0] == "name" and not names(sides[1])
        signs, sides = (["<", *signs], [("neg", infinity), *sides]) if left else ([*signs, "<"], [*sides, infinity])
    if len(signs) > 2 or {*signs} - {"<", "<="} or sides[1][0] != "name" or names(sides[0]) | names(sides[2]):
        return None
    return sides[1], ("seq", "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")", (sides[0], sides[2]))
