r"""Is this answer right? extract_answer finds it in a completion, same_answer compares it with the gold answer.

    python -c "from grade import *; print(same_answer(extract_answer('so we get 1/2'), r'\frac12'))"

An answer is read into a small tree of tuples (LaTeX or plain text, nothing is ever executed) and compared by value;
what cannot be read is compared as text. Caps on length, depth, digits and operations bound the time.

Conventions. 50% is the number 50, not 0.5. A unit (currency, %, degrees, words, the base in 12_8) matters only if the
other answer has another one. Lists and sets are unordered, tuples ordered, the brackets of intervals matter. A decimal
that rounds to a gold decimal of fewer digits is right; 0.33 for 1/3 is not. x = 5 equals 5, x < 2 equals (-oo, 2).
log is the natural one, odd roots of negative numbers are real, "1,234" is one number and "1, 234" are two, 3:2 is 3/2.
To grade another domain, replace this file: the stages call extract_answer and same_answer, nothing else.
"""
import functools
import math
import re
import threading
import unicodedata
from fractions import Fraction

MAX_CHARS = 1500  # a longer answer is compared as text
MAX_DEPTH = 20  # nested brackets, fractions, exponents, signs
MAX_BITS = 16_000  # of an exact number: about 4,800 digits
MAX_WORK = 2500  # operations in one comparison
MAX_ITEMS = 50  # of a list whose order does not matter

# ---------------------------------------------------------------------------------------------------------
# extraction

PHRASE = re.compile(r"(?i)\b(?:answer|option|choice)\b(?:[ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}?)?[\s*_]*"
                    r"(?:\b(?:is|was|would be|should be|must be|equals)\b[ \t]*:?|[:=]|\n)"
                    r"[\s*_]*(?:\b(?:option|choice)\b)?")
SENTENCE_END = re.compile(r"(?<![ap]\.m)\.(?=\s|$)|\n|,? (?:because|since|which|so)\b|, (?:where|thus)\b")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$\n]+?)(?<! )\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]"
                     r"|((?:(?<![\w)\]])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+|%|\\%)?"
                     r"|\\frac\{[^{}]*\}\{[^{}]*\})", re.S)
CHOICE = re.compile(r"(?i)(?:\(([a-j])\)|([a-j])\)|(?-i:([A-J])(?:[.:]|$)))\s*(.*)", re.S)


def extract_answer(completion: str) -> str | None:
    """The final answer of a completion: the last \\boxed{}, else what follows the last "the answer is",
    else what follows ####, else the last formula or number; None if there is none of them."""
    text = completion[-30_000:].rpartition("</think>")[2]
    answer = last_boxed(text) or last_phrase(text)
    if not answer and "####" in text:
        answer = tidy(text.rpartition("####")[2].strip().partition("\n")[0])
    if not answer and len(text) < 80 and (CHOICE.fullmatch(text.strip()) or read(text)[0] not in ("text", "seq")):
        answer = tidy(text)
    return answer or last_formula(text)


def last_boxed(text):
    starts = [m.end() for m in re.finditer(r"\\f?box(?:ed)?(?![a-z])\s*", text)]
    for start in starts[:-20:-1]:
        answer, depth = None, 0
        if text[start:start + 1] != "{":
            answer = tidy(re.match(r"[^\s$]*", text[start:start + 100])[0])
        for m in re.finditer(r"\\.|[{}]", text[start:start + 3000] if not answer else ""):
            depth += {"{": 1, "}": -1}.get(m[0], 0)
            if depth <= 0:
                answer = tidy(text[start + 1:start + m.start()])
                break
        if answer:
            return answer
    return None


def last_phrase(text):
    for m in [*PHRASE.finditer(text)][:-5:-1]:
        rest = text[m.end():m.end() + 3000].lstrip(" \t\n:*_")
        block = re.match(r"(?:\$\$|\\\[)(.+?)(?:\$\$|\\\])", rest, re.S)
        sentence = block[1] if block else rest[:SENTENCE_END.search(rest + "\n").start()]
        answer = tidy(sentence)
        if answer:
            words = re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)
            return len(words) > 4 and last_formula(sentence) or answer
    return None


def last_formula(text):
    found = [*FORMULA.finditer(text[-3000:])]
    return tidy(re.split(r"(?<![<>!\\])=", next(filter(None, found[-1].groups())))[-1]) if found else None


def tidy(text):
    """Strip what surrounds an answer: spaces, markdown, math delimiters, a full stop. None if nothing is left."""
    text = re.sub(r"^(?:\\\(|\\\[|[\s*_`:])+|(?:\\\)|\\\]|[\s*_`.,;:])+$", "", text)
    if text.count("$") - text.count(r"\$") == 2 and text[0] == text[-1] == "$":
        text = text[1:-1]
    return text if re.search(r"[^\W_]|[∞∅√]", text) else None

# ---------------------------------------------------------------------------------------------------------
# reading: text -> one spelling -> tokens


def table(text):
    """Spellings of one thing stand together, the first is ours; two spaces part one thing from the next."""
    return {word: group.split()[0] for group in re.split(r"\s{2,}", text.strip()) for word in group.split()}


SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‒﹣", "-"), **dict.fromkeys("·⋅∙×∗", " * "), **dict.fromkeys("“”\"", ""), "÷": "/", "⁄": "/",
    "√": " sqrt ", "∞": r"\infty ", "≤": "<=", "⩽": "<=", "≥": ">=", "⩾": ">=", "≠": "!=", "≈": r"\approx ", "∪": r"\cup ",
    "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")", "’": "'", "∨": ",", "‖": "|", "∣": "|", "~": " ", "\f": r"\f", "\b": r"\b"})
REWRITES = [(re.compile(pattern), new) for pattern, new in [
    (r"\t(?=ext|imes|frac|heta|an\b)", r"\\t"),  # a reader of JSON took the \t of \text for a tab
    (r"\\left\s*<|\\langle\b", "("), (r"\\right\s*>|\\rangle\b", ")"),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|noindent|rm|bf|boxed|fbox|boldsymbol|bm"
     r"|math(?:bf|it|cal|bb|sf|tt))(?![a-zA-Z])\.?", " "),
    (r"\\[dtc]frac", r"\\frac"),
    (r"(\\\\)\s*\[[\d.]+[a-z]+\]", r"\1"), (r"(?<!\\)\\[()\[\]]", " "),
    (r"(?<=\d)(?:\{,\}|,?\s*\\[!,;: ])\s*(?=\d{3}(?!\d))", ""),
    (r"(?<!\\)\\[,;:! ]|\\(?:hspace|vspace|phantom)\{[^{}]*\}", " "),
    (r"\{([^{}]*)\\choose([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"\\[lr]?vert(?![a-z])|\\mid\b|\\\|", "|"), (r"\|([^|]+)\|", r" \\abs{\1}"),
    (r"\\l(floor|ceil)\b", r"\\\1{"), (r"\\r(floor|ceil)\b", "}"),
    (r"\^\s*\{?\s*\\circ\b\s*\}?|\\degree\b", ' "deg" '),
    (r"(?i)\b([ap])\.\s?m\b\.?|(?<=\d)\s?([ap])m\b", r' "\1\2m" '),
    (r"\\(begin|end)\s*\{(?:cases|aligned|gathered|array)\}(?:\{[lcr| ]*\})?", " "),
    (r"\\(begin|end)\s*\{[pbB]?(?:small)?matrix\}", r"\\\1 "),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
]]
TRIMS = [(re.compile(pattern), new) for pattern, new in [
    (r"(?<!\\)\$", " "),
    (r"^(?:[\s*_`]|\\\\)+|(?:[\s*_`.,;:]|\\\\|(?<!\\)\\)+$", ""),
    (r"(?i)^(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer)\b\s*:?\s*", ""),
    (r"(?i)^(?:the set of )?(?:all )?real numbers$|^\{?\s*R\s*\}?$", r"(-\\infty,\\infty)"),
    (r"(?<=\d)\s+([mgshLNJWVKC])$", r' "\1"'),
    (r"(\\\$|[€£¥₹]|\bRs\.?)\s*([\d.,]*\d)", r"\2 \1 "),
    (r"\s+", " "),
]]
SAME = table(r"""* \cdot \times \ast  / \div :  ^ **  <= \le \leq \leqslant =<  >= \ge \geq \geqslant  < \lt  > \gt
    != \ne \neq  = == := \equiv \in  ~ \approx \simeq  \{ \lbrace  \} \rbrace  [ \lbrack  ] \rbrack  i \imath
    , ; and or \cup \lor \vee \land \wedge \quad \qquad \\  % \% percent percentage  "dollar" \$ dollar dollars usd
    "euro" € \euro euro euros  "pound" £ \pounds pounds  "rupee" ₹ rupee rupees rs  "yen" ¥ yen
    \infty inf infinity oo  \emptyset \varnothing  \phi \varphi phi  \epsilon \varepsilon  \sqrt sqrt  \abs abs
    \arcsin arcsin asin  \arccos arccos acos  \arctan arctan atan  \sin sin  \cos cos  \tan tan  \cot cot  \csc csc
    \sinh sinh  \cosh cosh  \tanh tanh  \ln ln \log log  \lg lg  \exp exp  \pi pi  \theta theta  \alpha alpha""")
UNITS = table("""deg degree degrees  cent cents  cm centimeter centimetre  mm millimeter  km kilometer kilometre
    m meter metre  inch in inches  ft foot feet  yd yard  mi mile  kg kilogram  g gram  mg milligram  lb lbs  oz ounce
    l liter litre  ml milliliter  s sec second  min minute mins  h hr hour hrs  / per  am  pm  sq  unit units st nd rd th""")
FUNCTIONS = set(r"\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \lg \exp \abs \floor \ceil "
                r"\sqrt \frac \binom".split())
NAMES = set(r"\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \rho \sigma \tau \phi "
            r"\chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Phi \Psi \Omega \pi \infty \angle \triangle "
            r"\ell".split())
BASES = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10")
RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "~"}
SIGNS = {"+", "-", r"\pm", r"\mp"}
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
TOKEN = re.compile(rf'\s*({NUMBER}\\overline\s*\{{\d+\}}|{NUMBER}(?:[eE][+-]?\d+)?|"[^"]*"|\\[a-zA-Z]+|\\.|[^\W\d_]+'
                   r"|\*\*|[<>=!:]=|=<|\S)")


def spell(text):
    """One spelling for what has many: unicode, LaTeX spacing and styles, currency, text."""
    nfkc = functools.partial(unicodedata.normalize, "NFKC")
    text = re.sub(r"[¼-¾⅐-⅞]", lambda m: r" \frac{%s}{%s} " % tuple(nfkc(m[0]).split("⁄")), text)
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda m: "^{%s}" % nfkc(m[0]), text)
    text = re.sub(r"[₀-₉]+", lambda m: "_{%s}" % nfkc(m[0]), text)
    text = nfkc(text.replace("∛", r"\sqrt[3]").translate(SYMBOLS)).translate(SYMBOLS)
    text = re.sub(r"[^\W\d_a-zA-Z]|[^\D0-9]", in_ascii, text)
    if r"\begin" not in text or r"\\begin" in text:
        text = re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", text)  # escaped twice
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    text = re.sub(r"\\(?:text|mbox|textbf|textit|textrm|mathrm|operatorname|hbox|emph)\s*\{([^{}\"]*)\}", quote, text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2:
        text = re.sub(r"(?<!\\)\$(?=\s*[\d.])", r"\\$", text, count=1)
    for pattern, new in TRIMS:
        text = pattern.sub(new, text)
    return text.strip()


def in_ascii(m):
    """A digit of any script as 0-9, a Greek letter as its command, any other letter as it is."""
    if m[0].isdecimal():
        return str(unicodedata.decimal(m[0]))
    words = unicodedata.name(m[0], "").split()
    greek = words[:1] == ["GREEK"] and words[-2] == "LETTER"
    return f"\\{words[-1].lower() if words[1] == 'SMALL' else words[-1].title()} " if greek else m[0]


def quote(m):
    r"""\text{...}: words become one token; anything else is read as if it stood there bare."""
    words = m[1].strip()
    return f' "{words}" ' if re.fullmatch(r"(?!and$|or$)[A-Za-z][A-Za-z.' /-]*", words) else f" {m[1]} "


def ungroup(text, thousands):
    """Remove what groups thousands. Within brackets a comma does so only where a group such as 000 proves it."""
    def number(m):
        inside = sum(text.count(b, 0, m.start()) for b in "([") > sum(text.count(b, 0, m.start()) for b in ")]")
        return re.sub("[, ]", "", m[0]) if re.search("[, ]0", m[0]) or thousands and not inside else m[0]
    return re.sub(r"(?<![\d.,])(?<!\d )\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,]| ?/| \d)", number, text)


def tokenize(text):
    """The tokens, last one first, so that pop() takes the next; " end" lies at the bottom. Words come in quotes."""
    tokens = []
    for token in TOKEN.findall(text):
        word = token.lower() if token.isalpha() and len(token) > 1 else token
        token = SAME.get(word, token)
        glued = re.fullmatch(r"([a-zA-Z]?)(sin|cos|tan|ln|log)([a-zA-Z]?)", token)
        if word == "in" and tokens and tokens[-1].isalpha():
            tokens.append("=")
        elif glued:
            tokens += [SAME.get(part, part) for part in glued.groups() if part]
        elif token.isalpha() and (word in UNITS and len(word) > 1 or len(token) > 3):
            tokens.append(f'"{token}"')
        else:
            tokens += token if token.isalpha() else [token]
    return [" end", *tokens[::-1]]


def read(text, thousands=True):
    """The tree of an answer; ("text", words) where it is words, too long, or cannot be read."""
    if len(text) > MAX_CHARS:
        return "text", text
    text = ungroup(spell(text), thousands)
    try:
        word = re.fullmatch(r"[A-Za-z][A-Za-z' -]+", text) and " and " not in text and text.lower() not in SAME
        if word and not re.fullmatch("[abc]{2}|[b-df-hj-np-tv-z]{2,3}", text):
            raise ValueError("a word, not a product of letters")
        tokens = tokenize(text)
        items = tuple(spread(listing(tokens, 0)))
        if tokens != [" end"]:
            raise ValueError(tokens[-1])
        return items[0] if len(items) == 1 else ("seq", "", "", items)
    except (ValueError, ArithmeticError):
        return "text", fold(text)


def fold(text):
    text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
    return " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\bthe\b", " ", text).split())


def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = read(text)
    node = node[1] if node[0] == "unit" else node
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    if node[0] == "/" and node[1][0] == node[2][0] == "num" and node[2][1]:
        return sign * node[1][1] / node[2][1]
    return sign * node[1] if node[0] == "num" else None

# ---------------------------------------------------------------------------------------------------------
# reading: tokens -> tree, by recursive descent
# ("num", Fraction, places) ("name", "x") (operator, *operands) ("seq", "(", "]", items), "" for a bare list
# ("unit", tree, "cm") ("rel", signs, sides) ("text", words)


def listing(tokens, depth):
    items = [item(tokens, depth)]
    while tokens[-1] in (",", "&"):
        tokens.pop()
        if tokens[-1] not in (" end", ",", "&"):
            items.append(item(tokens, depth))
    return items


def spread(items):
    """Two items for one that holds a plus-minus."""
    return [choose(x, sign) for x in items for sign in ((1, -1) if "pm" in repr(x) else (1,))]


def choose(node, sign):
    if node[:1] == ("pm",):
        return choose(node[2], sign) if node[1] == sign else ("neg", choose(node[2], sign))
    return tuple(choose(part, sign) if isinstance(part, tuple) else part for part in node)


def item(tokens, depth):
    """A quantity, or a chain of them joined by = < > and their like."""
    sides, signs = [quantity(tokens, depth)], []
    while tokens[-1] in RELATIONS:
        signs.append(tokens.pop())
        sides.append(quantity(tokens, depth))
    if "~" in signs:  # what stands before an approximation is exact
        cut = signs.index("~") if not is_label(sides[0]) else (signs[1:] + ["~"]).index("~") + 1
        signs, sides = signs[:cut], sides[:cut + 1]
    return ("rel", tuple(s.replace("~", "=") for s in signs), tuple(sides)) if signs else sides[0]


def quantity(tokens, depth):
    """An expression with its unit, or words."""
    if len(tokens[-1]) > 3 and tokens[-1][0] == '"':
        return "text", unit(tokens)
    node = expression(tokens, depth)
    words = unit(tokens)
    if node[0] in ("deg", "unit"):
        node, words = node[1], " ".join(node[2:] or ("deg",)) + (words and " " + words)
    return ("unit", node, words) if words else node


def unit(tokens):
    """The words and marks after a quantity, in one spelling: "square centimeters" is cm^2, "per" is /."""
    words = []
    while tokens[-1][0] in '"%/' or words and (tokens[-1].isalpha() or tokens[-1] == "^"):
        token = tokens.pop()
        if token == "^":
            words[-1] += "^" + subscript(tokens)
        else:
            words += token.strip('"').lower().replace("/", " / ").replace(".", "").split()
    words = [UNITS.get(w) or UNITS.get(w.rstrip("s")) or w.rstrip("s") for w in words]
    text = " ".join(w for w in words if w not in ("unit", "of", "the", "a"))
    return re.sub(r"\b(sq|square|cubic) (\w+)", lambda m: m[2] + ("^3" if m[1] == "cubic" else "^2"), text)


def subscript(tokens):
    text = [tokens.pop()]
    while text[0] == "{" and text[-1] not in ("}", " end"):
        text.append(tokens.pop())
    if text[-1] == " end":
        raise ValueError("subscript")
    text = "".join(text).strip("{}").replace('"', "")
    return BASES.get(text, text)


def expression(tokens, depth):
    terms = [signed(tokens, depth, term)]
    while tokens[-1] in SIGNS:
        terms.append(signed(tokens, depth, term))
    return ("+", *terms) if len(terms) > 1 else terms[0]


def signed(tokens, depth, parse):
    if tokens[-1] not in SIGNS or depth > MAX_DEPTH:
        return parse(tokens, depth)
    sign, node = tokens.pop(), signed(tokens, depth + 1, parse)
    return {"+": node, "-": ("neg", node), r"\pm": ("pm", 1, node), r"\mp": ("pm", -1, node)}[sign]


def term(tokens, depth):
    factors = [power(tokens, depth)]
    while tokens[-1] in ("*", "/") and tokens[-2][0] != '"' or starts_factor(tokens[-1]):
        mark = tokens.pop() if tokens[-1] in ("*", "/") else ""
        factor = signed(tokens, depth, power) if mark else power(tokens, depth)
        left = factors[-1]
        if mark == "/":
            depth += 1  # bounds the chain a/b/c
            factors = [("/", ("*", *factors) if len(factors) > 1 else left, factor)]
        elif mark:
            factors.append(factor)
        else:
            if left[0] == factor[0] == "num":  # 1 3/4; two numbers side by side are nothing else
                if tokens.pop() != "/":
                    raise ValueError("two numbers")
                factor = ("/", factor, power(tokens, depth))
            mixed = [left[0], factor[0], *(x[0] for x in factor[1:] if factor[0] == "/")] == ["num", "/", "num", "num"]
            if mixed and left[1].denominator == 1 and 0 < factor[1][1] < factor[2][1]:
                factors[-1] = ("num", left[1] + factor[1][1] / factor[2][1], None)
            else:
                factors.append(factor)
    return ("*", *factors) if len(factors) > 1 else factors[0]


def starts_factor(token):
    return token[0].isalnum() or token[0] == "." or token in ("(", "[", "{") or token in FUNCTIONS or token in NAMES


def power(tokens, depth):
    node = atom(tokens, depth)
    if tokens[-1] == "_":
        tokens.pop()
        node = ("unit", node, "base " + subscript(tokens))
    if tokens[-1] == "!":
        node = (tokens.pop(), node)
    if tokens[-1] == "^":
        tokens.pop()
        node = ("^", node, signed(tokens, depth + 1, power))
    if UNITS.get(tokens[-1].strip('"')) == "deg":
        tokens.pop()
        node = ("deg", node)
    return node


def atom(tokens, depth):
    token = tokens.pop()
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if token[0].isdigit() or token[0] == ".":
        return number(token)
    if token in ("(", "[", "{", r"\{", r"\begin"):
        return bracket(tokens, depth + 1, token)
    if token in FUNCTIONS:
        return function(tokens, depth + 1, token)
    if token == r"\emptyset":
        return "seq", "{", "}", ()
    name = token.strip('"')
    if token not in NAMES and not (len(name) == 1 and name.isalpha()):
        raise ValueError(token)
    if tokens[-1] == "_":
        tokens.pop()
        name += "_" + subscript(tokens)
    while tokens[-1] == "'":
        name += tokens.pop()
    return "name", name


def number(token):
    mantissa, _, exponent = token.lower().partition("e")
    whole, _, repeated = token.partition(r"\overline")
    if repeated:
        repeated, places = repeated.strip(" {}"), len(whole.partition(".")[2])
        return "num", Fraction(whole) + Fraction(int(repeated), 10**places * (10**len(repeated) - 1)), None
    if len(exponent) > 4:
        raise ValueError(token)
    return "num", Fraction(token), None if exponent else len(mantissa.partition(".")[2])


def bracket(tokens, depth, opener):
    """What stands in brackets: one expression, a tuple, an interval, a set, a matrix (a tuple of its rows)."""
    closers = {"(": ")]", "[": ")]", "{": "}", r"\{": r"\}", r"\begin": r"\end"}[opener]
    if opener == r"\begin":
        rows, row = [], []
        while tokens[-1] != closers:
            row.append(expression(tokens, depth))
            if tokens[-1] != "&":
                rows, row = [*rows, ("seq", "(", ")", tuple(row)) if row[1:] else row[0]], []
            if tokens[-1] in ("&", ","):
                tokens.pop()
        tokens.pop()
        return "seq", "(", ")", tuple(rows)
    items = [] if tokens[-1] == closers else listing(tokens, depth)
    closer = tokens.pop()
    if closer not in closers:
        raise ValueError(opener + closer)
    if len(items) == 1 and opener + closer in ("()", "[]", "{}"):
        return items[0]
    if opener[-1] == "{":
        return "seq", "{", "}", tuple(spread(items))
    if len(items) < 2:
        raise ValueError(opener)
    return ("seq", "(", ")", tuple(items)) if len(items) > 2 else ("seq", opener, closer, tuple(items))


def function(tokens, depth, name):
    r"""\frac12, sin x, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        top = argument(tokens, depth)
        return "/" if name == r"\frac" else "binom", top, argument(tokens, depth)
    exponent = base = None
    while tokens[-1] in ("^", "_"):
        if tokens.pop() == "^":
            exponent = signed(tokens, depth, atom)
        else:
            base = (atom if starts_factor(tokens[-2]) else argument)(tokens, depth)
    if name == r"\sqrt" and tokens[-1] == "[":
        base = atom(tokens, depth)
    bracketed = name == r"\sqrt" or tokens[-1] in ("(", "{", "[")
    node = (atom if bracketed else power)(tokens, depth)
    while not bracketed and starts_factor(tokens[-1]) and tokens[-1] not in FUNCTIONS - {r"\frac", r"\sqrt"} | {"("}:
        node = ("*", node, power(tokens, depth))
        depth += 1
    if name == r"\sqrt":
        node = ("^", node, ("/", ("num", Fraction(1), 0), base or ("num", Fraction(2), 0)))
    elif exponent == ("neg", ("num", 1, 0)):
        node, exponent = (r"\arc" + name[1:], node), None
    else:
        node = ("/", (name, node), (name, base)) if base else (name, node)
    return ("^", node, exponent) if exponent else node


def argument(tokens, depth):
    if tokens[-1].isdigit() and len(tokens[-1]) > 1:  # \frac12 is \frac{1}{2}
        digits = tokens.pop()
        tokens += [digits[1:], digits[0]]
    return atom(tokens, depth)

# ---------------------------------------------------------------------------------------------------------
# values: a tree at a point -> a Fraction where that is exact, else a number of mpmath with 60 digits

LOCK = threading.Lock()  # contexts of mpmath share its cached constants


@functools.cache
def mp():
    import mpmath  # here because most answers are compared without it
    context = mpmath.mp.clone()
    context.dps = 60
    return context


def whole(*numbers):
    return all(x.denominator == 1 for x in numbers)


EXACT = {
    "+": lambda *x: sum(x), "*": lambda *x: math.prod(x), "/": lambda x, y: x / y, "neg": lambda x: -x, r"\abs": abs,
    r"\floor": lambda x: Fraction(math.floor(x)), r"\ceil": lambda x: Fraction(math.ceil(x)),
    "!": lambda n: Fraction(math.factorial(int(n))) if whole(n) and 0 <= n <= 1500 else None,
    "binom": lambda n, k: Fraction(math.comb(int(n), int(k))) if whole(n, k) and 0 <= k <= n <= 1500 else None,
    "^": lambda x, y: x ** int(y) if whole(y) and abs(y) * (size(x) - 2) <= MAX_BITS else None}
INEXACT = {
    **{name: EXACT[name] for name in ("+", "*", "/", "neg", r"\abs")}, "deg": lambda x: x * mp().pi / 180,
    "!": lambda x: mp().gamma(x + 1), "binom": lambda x, y: mp().binomial(x, y), "^": lambda x, y: mp().power(x, y),
    r"\ln": lambda x: mp().log(x), r"\lg": lambda x: mp().log10(x), r"\floor": lambda x: mp().floor(x), r"\ceil": lambda x: mp().ceil(x),
    r"\arcsin": lambda x: mp().asin(x), r"\arccos": lambda x: mp().acos(x), r"\arctan": lambda x: mp().atan(x)}


def size(x):
    return x.numerator.bit_length() + x.denominator.bit_length()


def inexact(x):
    return mp().mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def value(node, env, work):
    """The value of a tree. env: {name: Fraction}; where it is not empty, leaving the reals is an error, as is all that
    is undefined or too large (ArithmeticError, ValueError). work: [operations left]."""
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        return env[parts[0]] if parts[0] in env else {"e": mp().e, "i": mp().j, r"\pi": mp().pi, r"\infty": mp().inf}[parts[0]] * 1
    args = [value(part, env, work) for part in parts]
    exact = all(isinstance(x, Fraction) for x in args)
    work[0] -= 1 + len(args) + (sum(map(size, args)) // 300 if exact else 3)
    if work[0] < 0:
        raise OverflowError("too much work")
    result = EXACT[kind](*args) if exact and kind in EXACT else None
    if result is None:
        result = approximate(kind, args)
        if mp().isnan(result) or env and mp().im(result) or mp().isfinite(result) and abs(mp().mag(result or 1)) > MAX_BITS:
            raise ValueError("no real value, or too large")
    elif size(result) > MAX_BITS:
        raise OverflowError("too many digits")
    return result


def approximate(kind, args):
    if kind == "^":
        x, y = args
        exact = isinstance(y, Fraction)
        if isinstance(x, Fraction) and exact and whole(y):
            raise OverflowError("too many digits")
        if exact and y.denominator % 2 and not mp().im(inexact(x)) and x < 0:  # the real root
            return (-1) ** (y.numerator % 2) * mp().power(-inexact(x), inexact(y))
    if kind == r"\exp":
        kind, args = "^", [mp().e * 1, args[0]]
    args = [inexact(x) for x in args]
    huge = 2000 if kind in ("!", "binom") else 1e12
    if kind not in ("+", "*", "/", "neg", r"\abs", r"\ln") and any(mp().isfinite(x) and abs(x) > huge for x in args[-1:]):
        raise OverflowError(kind)
    return INEXACT[kind](*args) if kind in INEXACT else getattr(mp(), kind[1:])(*args)


def names(node):
    """The free variables of a tree."""
    if node[:1] == ("name",):
        return {node[1]} - {"e", "i", r"\pi", r"\infty"}
    return set().union(*(names(part) for part in node if isinstance(part, tuple)))


def at_points(nodes, work):
    """The values of trees side by side, at every fixed point of their variables where all of them are defined."""
    variables = sorted(set().union(*map(names, nodes)))
    for row in range(6 if variables else 1):
        # rows 0 and 1 are positive, 2 in (0, 1), 3 whole numbers, 4 negative, 5 of mixed signs
        env = {}
        for i, name in enumerate(variables):
            x = Fraction(17 + 6 * i + 11 * row, (7, 13, 79 + 7 * i, 1, 11, 19)[row])
            env[name] = -x if row == 4 or row == 5 and i % 2 == 0 else x
        try:
            yield [value(node, env, work) for node in nodes]
        except (ArithmeticError, ValueError, LookupError, TypeError):
            continue

# ---------------------------------------------------------------------------------------------------------
# comparing


def same_answer(prediction: str, answer: str, problem: str | None = None) -> bool:
    """Whether a prediction equals the gold answer under the conventions at the top of this file.
    problem: its listed options let the value of an option stand for its letter."""
    prediction, answer = prediction.strip(), answer.strip()
    if not prediction or max(len(prediction), len(answer)) > MAX_CHARS:
        return bool(prediction) and prediction == answer
    ours, gold = choice(prediction), choice(answer)
    if gold and ours:
        return ours[0] == gold[0] and (not ours[1] or not gold[1] or same_answer(ours[1], gold[1]))
    if gold:
        listed = options(problem) if problem else {}
        text = gold[1] or listed.pop(gold[0], None)
        if text:
            return same_answer(prediction, text) and not any(same_answer(prediction, other) for other in listed.values())
    if ours and ours[1]:
        return same_answer(ours[1], answer)
    with LOCK:
        grouped = any(re.search(r"\d,[1-9]\d\d", x) for x in (prediction, answer))
        return any(same(read(prediction, way), read(answer, way), [MAX_WORK]) for way in ([True, False] if grouped else [True]))


def choice(text):
    """("C", "12") for (C) 12, C) 12, C. 12; ("C", "") for C; None where no letter of a multiple choice leads."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r"\1", text).strip("$ .*{}")
    m = CHOICE.fullmatch(re.sub(r"(?i)^(?:option|choice|answer)\b\s*:?\s*", "", text))
    return m and ((m[1] or m[2] or m[3]).upper(), m[4].strip())


def options(problem):
    """{"A": "$61", ...}, from what follows "Options:" or the first A)."""
    tail = re.split(r"(?i)(?:options|choices)\s*:|(?=\(?\bA\s*[).:])", problem[-3000:], maxsplit=1)[-1]
    parts = re.split(r"\(?\b([A-J])\s*[).:](?!\d)", tail)
    return dict(zip(parts[1::2], map(str.strip, parts[2::2])))


def same(a, b, work):
    """Whether a predicted tree equals a gold tree."""
    work[0] -= 1
    a, b = single(a), single(b)
    if a == b:
        return True
    kinds = {a[0], b[0]}
    if "unit" in kinds:
        (x, u), (y, v) = (t[1:] if t[0] == "unit" else (t, "") for t in (a, b))
        return units_agree(u, v) and same(x, y, work)
    if "rel" in kinds:
        return same_relation(a, b, work)
    if "seq" in kinds:
        return a[0] == b[0] and len(a[3]) == len(b[3]) and same_items(a, b, work)
    return "text" not in kinds and same_value(a, b, work)


def single(node):
    return single(node[3][0]) if node[:2] == ("seq", "{") and len(node[3]) == 1 else node


def units_agree(u, v):
    few, many = sorted((set(u.split()), set(v.split())), key=len)
    return not few or u == v or few < many and not re.search(r"[/^%]|base|[ap]m", u + v)


def same_value(a, b, work):
    """Equal at every fixed point, at two of them at least if there are variables; or rounded to the gold digits."""
    (x, places), (y, gold_places) = decimal(a), decimal(b)
    if places and gold_places and places > gold_places:
        return x * y >= 0 and math.floor(abs(x) * 10**gold_places + Fraction(1, 2)) == abs(y) * 10**gold_places
    pairs = [*at_points((a, b), work)]
    return len(pairs) > bool(names(a) or names(b)) and all(close(x, y) for x, y in pairs)


def decimal(node):
    if node[0] == "neg" and node[1][0] == "num":
        return -node[1][1], node[1][2]
    return node[1:] if node[0] == "num" else (None, None)


def close(x, y):
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = inexact(x), inexact(y)
    if mp().isinf(x) or mp().isinf(y):
        return x == y
    return abs(x - y) <= max(abs(x), abs(y)) * mp().mpf(10) ** -40 or max(abs(x), abs(y)) < mp().mpf(10) ** -50


def same_items(a, b, work):
    (_, open_a, close_a, x), (_, open_b, close_b, y) = a, b
    if open_a in ("", "{") and open_b in ("", "{"):
        rest = list(y[:MAX_ITEMS])
        for node in x:
            found = next((i for i, other in enumerate(rest) if same(node, other, work)), None)
            if found is None:
                return False
            del rest[found]
        return True
    if "" in (open_a, open_b):  # 1, 2 may stand for (1, 2), and x = 1, y = 2 too
        return "([" in (open_a + open_b) + "([" and {open_a, open_b} == {"", "("} and {close_a, close_b} == {"", ")"} and \
            all(same(p, q, work) for p, q in zip(in_order(x), in_order(y)))
    return (open_a, close_a) == (open_b, close_b) and all(same(p, q, work) for p, q in zip(x, y))


def in_order(items):
    """The values of x = 1, y = 2 by name; anything else as it is."""
    pairs = dict(meaning(x) or (x, x) for x in items if x[0] == "rel" and x[1] == ("=",))
    return [pairs[label] for label in sorted(pairs)] if len(pairs) == len(items) else items


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, (x, y), words."""
    if node[0] == "*":
        head = node[1][1] if node[1][0] == "^" else node[1]
        called = head[0] == "name" and head[1][0] in "fghFGHPTVASL" and len(node) == 3 and node[2] != head
        return called or all(x[0] == "name" and (x[1][0].isupper() or x[1] in ("m", r"\angle", r"\triangle")) for x in node[1:])
    if node[0] == "seq":
        return all(x[0] == "name" for x in node[3])
    return node[0] == "text" or node[0] == "name" and bool(names(node))


def meaning(node):
    """(label, value) of x = 5, 5 = x and 2 + 3 = 5, (x, interval) of x < 2 and 0 < x <= 1; else None."""
    signs, sides = node[1:]
    if set(signs) == {"="}:
        if not names(node):
            return all(same(x, sides[-1], [200]) for x in sides) and (None, sides[-1]) or None
        label, result = sides[::-1] if len(sides) == 2 and is_label(sides[1]) and not is_label(sides[0]) else (sides[0], sides[-1])
        return (label, result) if is_label(label) and not (label[0] == "name" and names(label) & names(result)) else None
    if signs[0][0] == ">":
        signs, sides = [s.replace(">", "<") for s in signs[::-1]], sides[::-1]
    if any(s[0] != "<" for s in signs) or len(signs) > 2:
        return None
    infinity = ("name", r"\infty")
    if len(signs) == 1:
        left = sides[0][0] == "name" and not names(sides[1])
        signs, sides = (["<", *signs], [("neg", infinity), *sides]) if left else ([*signs, "<"], [*sides, infinity])
    ends = "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")"
    plain = sides[1][0] == "name" and not names(sides[0]) and not names(sides[2])
    return (sides[1], ("seq", *ends, (sides[0], sides[2]))) if plain else None


def same_relation(a, b, work):
    x, y = (meaning(t) if t[0] == "rel" else (None, t) for t in (a, b))
    if a[0] == b[0] and not (x and y and (x[0] == y[0] or not x[0] or not y[0] or not x[0][0] == y[0][0] == "name")):
        return proportional(a, b, work)
    return bool(x and y) and same(x[1], y[1], work)


def proportional(a, b, work):
    """Whether two equations or inequalities are one but for a constant factor (positive for the latter)."""
    sides = []
    for (sign, *more), (left, right, *_) in (a[1:], b[1:]):
        left, right = (right, left) if sign[0] == ">" else (left, right)
        sides.append((more or sign.replace(">", "<"), ("+", left, ("neg", right))))
    if sides[0][0] != sides[1][0] or isinstance(sides[0][0], list):
        return False
    try:
        ratios = [inexact(x) / inexact(y) for x, y in at_points((sides[0][1], sides[1][1]), work)]
    except ZeroDivisionError:
        return False
    return len(ratios) > 1 and all(close(ratios[0], r) for r in ratios) and (sides[0][0] in ("=", "!=") or mp().re(ratios[0]) > 0)
