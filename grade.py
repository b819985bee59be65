r"""Is this answer right? extract_answer finds it in a completion, same_answer compares it with the gold answer.

    python -c "from grade import *; print(same_answer(extract_answer('so we get 1/2'), r'\frac12'))"

An answer (LaTeX or plain text) is read into a small tree of tuples and compared by value; nothing is ever executed.
What cannot be read is compared as text. Caps on length, depth, digits and operations bound the time.

Conventions. 50% is the number 50, not 0.5. A unit (currency, %, degrees, words, the base in 12_8) matters only if the
other answer has another one. Lists and sets are unordered, tuples ordered, the brackets of intervals matter. A decimal
that rounds to a gold decimal of fewer digits is right, and so is one of ten digits or more for what it rounds; 0.33 for
1/3 is not. x = 5 equals 5, x < 2 equals (-oo, 2). log is the natural one, odd roots of negative numbers are real,
"1,234" is one number and "1, 234" are two, 3:2 is 3/2. To grade another domain, replace this file.
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

# ---------------------------------------------------------------------------------------------------------
# extraction

BOX = re.compile(r"\\f?box(?:ed)?(?![a-z])\s*|\bboxed(?=\()")
BOX_GAP = re.compile(r"[\s$\\()]*(?:[,;]|and\b|or\b|\\text\{\s*(?:and|or)\s*\})[\s$\\(),]*(?:and\b|or\b)?[\s$\\()]*")
PHRASE = re.compile(r"(?i)\b(?:answer|choice)\b(?:[ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}?)?[\s*_]*(?:\b(?:is|was|equals|"
                    r"(?:would|should|must) be)\b[ \t]*:?|[:=]|\n)[\s*_]*(?:\b(?:option|choice)\b)?|<answer>|####")
SENTENCE_END = re.compile(r"(?<![ap]\.m)\.(?=\s|$)|\n|</?answer>|,? (?:because|since|which|so)\b|, (?:where|thus)\b")
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$\n]+?)(?<! )\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]|((?:(?<![\w)\]])-)?"
                     r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+|\\?%)?|\\frac\{[^{}]*\}\{[^{}]*\})", re.S)


def extract_answer(completion: str) -> str | None:
    """The final answer of a completion: the last \\boxed{} (or list of them), else what follows the last "the answer
    is" or ####, else the last formula or number; None if there is none of them."""
    text = completion[-30_000:].rpartition("</think>")[2]
    return last_boxed(text) or last_phrase(text) or last_formula(text)


def last_boxed(text):
    found, after = [], None
    for start, end in [m.span() for m in BOX.finditer(text)][:-20:-1]:
        content = re.match(r"[^\s$]*", text[end:end + 100])[0]
        depth, stop = 0, end + len(content)
        if content[:1] in ("{", "("):
            for m in re.finditer(r"\\.|[{}()]", text[end:end + 3000]):
                depth += {content[0]: 1, {"{": "}", "(": ")"}[content[0]]: -1}.get(m[0], 0)
                if depth == 0:
                    content, stop = text[end + 1:end + m.start()], end + m.end()
                    break
        if found and not BOX_GAP.fullmatch(text[stop:after]):
            break
        if tidy(content) and depth == 0:
            found, after = [tidy(content), *found], start
    return ", ".join(found)


def last_phrase(text):
    for m in [*PHRASE.finditer(text)][:-5:-1]:
        rest = text[m.end():m.end() + 3000].lstrip(" \t\n:*_")
        block = re.match(r"(?:\$\$|\\\[)(.+?)(?:\$\$|\\\])", rest, re.S)
        sentence = block[1] if block else rest[:SENTENCE_END.search(rest + "\n").start()]
        answer = tidy(sentence)
        if answer:
            return len(re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)) > 4 and last_formula(sentence) or answer
    return None


def last_formula(text):
    """The whole text, or what follows its last "is", if that can be read; else its last formula or number."""
    last = text.strip().rpartition("\n")[2][-300:]
    for part in (last if last == text.strip() else "", re.split(r"\b(?:is|are|equals|be|get)\b:?", "is" + last)[-1]):
        if choice(part) or part.strip() and read(part)[0] not in ("text", "seq"):
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


def nfkc(text):
    return unicodedata.normalize("NFKC", text)


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


SYMBOLS = str.maketrans({
    **dict.fromkeys("−–—‒﹣", "-"), **dict.fromkeys("·⋅∙×∗", " * "), **dict.fromkeys("“”\"", ""), "÷": "/", "⁄": "/",
    "√": " sqrt ", "∛": r"\sqrt[3]", "∞": r"\infty ", "≤": "<=", "⩽": "<=", "≥": ">=", "⩾": ">=", "≠": "!=", "≈": r"\approx ",
    "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "±": r"\pm ", "∓": r"\mp ", "⌊": r"\lfloor ", "~": " ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")", "’": "'", "‖": "|", "∣": "|", "\f": r"\f", "\b": r"\b"})
BEFORE_NFKC = [
    (r"[¼-¾⅐-⅞]", lambda m: r" \frac{%s}{%s} " % tuple(nfkc(m[0]).split("⁄"))),
    (r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda m: "^{%s}" % nfkc(m[0])), (r"[₀-₉]+", lambda m: "_{%s}" % nfkc(m[0]))]
REWRITES = [
    (r"[^\W\d_a-zA-Z]|[^\D0-9]", in_ascii),
    (r"\t(?=ext|imes|frac|heta|an\b)", r"\\t"),  # a reader of JSON took the \t of \text for a tab
    (r"\\left\s*<|\\langle\b", "("), (r"\\right\s*>|\\rangle\b", ")"),
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|noindent|rm|bf|boxed|fbox|boldsymbol|bm|"
     r"math(?:bf|it|cal|bb|sf|tt))(?![a-zA-Z])\.?", " "),
    (r"\\[dtc]frac", r"\\frac"), (r"(\\\\)\s*\[[\d.]+[a-z]+\]", r"\1"), (r"(?<!\\)\\[()\[\]]", " "),
    (r"(?<=\d)(?:\{,\}|,?\s*\\[!,]|\\[;: ](?=\d{3}\b))\s*(?=\d)", ""),
    (r"(?<!\\)\\[,;:! ]|\\(?:hspace|vspace|phantom)\{[^{}]*\}", " "),
    (r"\{([^{}]*)\\choose([^{}]*)\}", r"\\binom{\1}{\2}"), (r"\^\s*\{?\\prime\}?", "'"),
    (r"(\^(?:\{[^{}]*\}|\w))(_(?:\{[^{}]*\}|\w))", r"\2\1"),
    (r"\\[lr]?vert(?![a-z])|\\mid\b|\\\|", "|"), (r"\|([^|]+)\|", r" \\abs{\1}"),
    (r"\\l(floor|ceil)\b", r"\\\1{"), (r"\\r(floor|ceil)\b", "}"), (r"\^\s*\{?\s*\\circ\b\s*\}?|\\degree\b", ' "deg" '),
    (r"(?i)\b([ap])\.\s?m\b\.?|(?<=\d)\s?([ap])m\b", r' "\1\2m" '),
    (r"\\(begin|end)\s*\{(?:cases|aligned|gathered|array)\}(?:\{[lcr| ]*\})?", " "),
    (r"\\(begin|end)\s*\{[pbB]?(?:small)?matrix\}", r"\\\1 "),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"), (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (r"\\(?:text|mbox|textbf|textit|textrm|mathrm|operatorname|hbox|emph)\s*\{([^{}\"]*)\}", quote),
    (r"^([^$]*(?:\$[^$]*\$[^$]*)*)(?<!\\)\$(?=\s*[\d.][^$]*$)", r"\1\\$"), (r"(?<!\\)\$", " "),  # an odd $ is a dollar
    (r"^(?:[\s*_`]|\\\\)+|(?:[\s*_`.,;:]|\\\\|(?<!\\)\\)+$", ""),
    (r"(?i)^(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer)\b\s*:?\s*", ""),
    (r"(?i)^(?:the set of )?(?:all )?real numbers$|^\{?\s*R\s*\}?$", r"(-\\infty,\\infty)"),
    (r"(?<=\d)(?:\s+([mgshLKC])|\s*([NJWV]))$", r' "\1\2"'), (r"(\\\$|[€£¥₹]|\bRs\.?)\s*([\d.,]*\d)", r"\2 \1 "),
    (r"\s+", " ")]
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
FUNCTIONS = set(r"\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \lg \exp".split())
PREFIXES = FUNCTIONS | set(r"\abs \floor \ceil \sqrt \frac \binom".split())
NAMES = set(r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \rho \sigma \tau \phi
    \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Phi \Psi \Omega \pi \infty \angle \triangle \ell
    \hbar \odot \max \min""".split())
BASES = dict(two="2", three="3", four="4", five="5", six="6", seven="7", eight="8", nine="9", ten="10")
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
TOKEN = re.compile(rf'\s*({NUMBER}\\overline\s*\{{\d+\}}|{NUMBER}(?:[eE][+-]?\d+)?|"[^"]*"|\\[a-zA-Z]+|\\.|[^\W\d_]+'
                   r"|\*\*|[<>=!:]=|=<|\S)")


def spell(text, thousands):
    """One spelling for what has many: unicode, LaTeX spacing and styles, currency, text, grouped thousands."""
    for pattern, new in BEFORE_NFKC:
        text = re.sub(pattern, new, text)
    text = nfkc(text).translate(SYMBOLS)
    if r"\begin" not in text or r"\\begin" in text:
        text = re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", text)  # escaped twice
    for pattern, new in REWRITES:
        text = re.sub(pattern, new, text)

    def ungroup(m):  # within brackets a comma parts numbers, unless a group such as 000 proves the contrary
        inside = sum(text.count(b, 0, m.start()) for b in "([") > sum(text.count(b, 0, m.start()) for b in ")]")
        return re.sub("[, ]", "", m[0]) if re.search("[, ]0", m[0]) or thousands and not inside else m[0]
    return re.sub(r"(?<![\d.,])(?<!\d )\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,]| ?/| \d)", ungroup, text.strip())


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
    text = spell(text, thousands)
    word = re.fullmatch(r"[A-Za-z][A-Za-z' -]+", text) and " and " not in text and text.lower() not in SAME
    try:
        if word and not re.fullmatch("[abc]{2}|[b-df-hj-np-tv-z]{2,3}", text):
            raise ValueError("a word, not a product of letters")
        tokens = tokenize(text)
        items = spread(listing(tokens, 0))
        if tokens != [" end"]:
            raise ValueError(tokens[-1])
        return items[0] if len(items) == 1 else ("seq", "", "", items)
    except (ValueError, ArithmeticError):
        text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
        return "text", " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\bthe\b", " ", text).split())


def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = read(text)
    node = node[1] if node[0] == "unit" else node
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    if node[0] == "/" and node[1][0] == node[2][0] == "num" and node[2][1]:
        return sign * node[1][1] / node[2][1]
    return sign * node[1] if node[0] == "num" else None

# ---------------------------------------------------------------------------------------------------------
# reading: tokens -> tree, by recursive descent. Trees are
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
    def choose(node, sign):
        if node[:1] == ("pm",):
            return choose(node[2], sign) if node[1] == sign else ("neg", choose(node[2], sign))
        return tuple(choose(part, sign) if isinstance(part, tuple) else part for part in node)
    return tuple(choose(x, sign) for x in items for sign in ((1, -1) if "'pm'" in repr(x) else (1,)))


def item(tokens, depth):
    """A quantity, or a chain of them joined by = < > and their like."""
    sides, signs = [quantity(tokens, depth)], []
    while tokens[-1] in ("=", "<", ">", "<=", ">=", "!=", "~"):
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
    node = parse(tokens, depth)
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


def level(token):
    """How tightly what follows an operand binds: sums 1, products 2, implicit products 3, powers 4, marks 5."""
    if token in ("+", "-", r"\pm", r"\mp", "*", "/", "^", "!", "_"):
        return {"*": 2, "/": 2, "^": 4, "!": 5, "_": 5}.get(token, 1)
    if UNITS.get(token.strip('"')) == "deg":
        return 5
    return 2.2 if token in FUNCTIONS or token == "(" else 3 if token[0].isalnum() or token[0] == "." or \
        token in ("[", "{") or token in NAMES or token in PREFIXES else 0


def parse(tokens, depth, above=0):
    """An expression of all operators that bind more tightly than `above`."""
    if tokens[-1] in ("+", "-", r"\pm", r"\mp") and depth < MAX_DEPTH:
        sign, node = tokens.pop(), parse(tokens, depth + 1, max(above, 2))
        node = {"+": node, "-": ("neg", node), r"\pm": ("pm", 1, node), r"\mp": ("pm", -1, node)}[sign]
    else:
        node = atom(tokens, depth)
    while level(tokens[-1]) > above and not (tokens[-1] == "/" and tokens[-2][0] == '"'):
        token = tokens[-1]
        binding = level(token)
        if binding in (2, 4, 5):
            tokens.pop()
        if binding == 1:
            node = joined("+", node, parse(tokens, depth, 1))
        elif token == "/":
            depth += 1  # bounds the chain a/b/c
            node = joined("/", node, parse(tokens, depth, 3))
        elif token == "^":
            node = joined("^", node, parse(tokens, depth + 1, 3.5))
        elif token == "_":
            node = ("unit", node, "base " + subscript(tokens))
        elif binding == 5:
            node = joined("!" if token == "!" else "deg", node)
        elif binding == 2:
            node = joined("*", node, parse(tokens, depth, 3))
        else:
            node = juxtaposed(node, parse(tokens, depth, 3), tokens, depth)
    return node


def joined(operator, *parts):
    if any(part[0] in ("unit", "text", "rel") for part in parts):
        raise ValueError("no arithmetic")
    first = parts[0][1:] if parts[0][0] == operator in ("+", "*") else parts[:1]  # a flat sum is not deep
    return (operator, *first, *parts[1:])


def juxtaposed(left, right, tokens, depth):
    """A product without a sign, or a mixed number: 1 3/4, 1\\frac34. No other two numbers stand side by side."""
    last = left[-1] if left[0] == "*" else left
    if last[0] == right[0] == "num":
        if tokens.pop() != "/":
            raise ValueError("two numbers")
        right = ("/", right, parse(tokens, depth, 3))
    if [last[0], right[0], *(x[0] for x in right[1:] if right[0] == "/")] == ["num", "/", "num", "num"]:
        if last[1].denominator == 1 and 0 < right[1][1] < right[2][1]:
            mixed = ("num", last[1] + right[1][1] / right[2][1], None)
            return (*left[:-1], mixed) if left[0] == "*" else mixed
    return joined("*", left, right)


def atom(tokens, depth):
    token = tokens.pop()
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    if token[0].isdigit() or token[0] == ".":
        return number(token)
    if token in ("(", "[", "{", r"\{", r"\begin"):
        return bracket(tokens, depth + 1, token)
    if token in PREFIXES:
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
    whole, _, repeated = token.partition(r"\overline")
    mantissa, _, exponent = whole.lower().partition("e")
    places = len(mantissa.partition(".")[2])
    if len(exponent) > 4:
        raise ValueError(token)
    if repeated:
        repeated = repeated.strip(" {}")
        return "num", Fraction(whole) + Fraction(int(repeated), 10**places * (10**len(repeated) - 1)), None
    return "num", Fraction(whole), None if exponent else places


def bracket(tokens, depth, opener):
    """What stands in brackets: one expression, a tuple, an interval, a set, a matrix (a tuple of its rows)."""
    closers = {"(": ")]", "[": ")]", "{": "}", r"\{": r"\}", r"\begin": r"\end"}[opener]
    if opener == r"\begin":
        rows, row = [], []
        while tokens[-1] != closers:
            row.append(parse(tokens, depth))
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
        return "seq", "{", "}", spread(items)
    if len(items) < 2:
        raise ValueError(opener)
    return ("seq", "(", ")", tuple(items)) if len(items) > 2 else ("seq", opener, closer, tuple(items))


def function(tokens, depth, name):
    r"""\frac12, sin x, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        top = argument(tokens, depth)
        return joined("/" if name == r"\frac" else name, top, argument(tokens, depth))
    exponent = base = None
    while tokens[-1] in ("^", "_"):
        if tokens.pop() == "^":
            exponent = parse(tokens, depth, 5)
        else:
            base = (atom if level(tokens[-2]) > 2 else argument)(tokens, depth)
    if name == r"\sqrt" and tokens[-1] == "[":
        base = atom(tokens, depth)
    if name == r"\sqrt" or tokens[-1] in ("(", "{", "["):
        node = atom(tokens, depth)
    else:
        node = parse(tokens, depth, 2.5)
    if name == r"\sqrt":
        node = joined("^", node, ("/", ("num", Fraction(1), 0), base or ("num", Fraction(2), 0)))
    elif exponent == ("neg", ("num", 1, 0)):
        node, exponent = joined(r"\arc" + name[1:], node), None
    else:
        node = ("/", joined(name, node), (name, base)) if base else joined(name, node)
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


def size(x):
    return x.numerator.bit_length() + x.denominator.bit_length()


def inexact(x):
    return mp().mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def natural(*numbers):
    return all(x.denominator == 1 and 0 <= x <= 1500 for x in numbers)


EXACT = {  # None where the result is not exact
    "+": lambda *x: sum(x), "*": lambda *x: math.prod(x), "/": lambda x, y: x / y, "neg": lambda x: -x, r"\abs": abs,
    r"\floor": lambda x: Fraction(math.floor(x)), r"\ceil": lambda x: Fraction(math.ceil(x)),
    "!": lambda n: Fraction(math.factorial(int(n))) if natural(n) else None,
    r"\binom": lambda n, k: Fraction(math.comb(int(n), int(k))) if natural(n, k) else None,
    "^": lambda x, y: x ** int(y) if y.denominator == 1 and abs(y) * (size(x) - 2) <= MAX_BITS else None}
INEXACT = {
    **{name: EXACT[name] for name in ("+", "*", "/", "neg", r"\abs")}, "deg": lambda x: x * mp().pi / 180,
    "!": lambda x: mp().gamma(x + 1), r"\binom": lambda x, y: mp().binomial(x, y), "^": lambda x, y: mp().power(x, y),
    r"\arcsin": lambda x: mp().asin(x), r"\arccos": lambda x: mp().acos(x), r"\arctan": lambda x: mp().atan(x),
    r"\lg": lambda x: mp().log10(x)}


def value(node, env, work):
    """The value of a tree. env: {name: Fraction}; where it is not empty, leaving the reals is an error, as is all that
    is undefined or too large (ArithmeticError, ValueError). work: [operations left]."""
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        constants = {"e": mp().e, "i": mp().j, r"\pi": mp().pi, r"\infty": mp().inf}
        return env[parts[0]] if parts[0] in env else constants[parts[0]] * 1
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
    if kind == r"\exp":
        kind, args = "^", [mp().e * 1, args[0]]
    if kind == "^" and isinstance(args[1], Fraction):
        x, y = args
        if isinstance(x, Fraction) and y.denominator == 1:
            raise OverflowError("too many digits")
        if y.denominator % 2 and not mp().im(inexact(x)) and x < 0:  # the real root
            return (-1) ** (y.numerator % 2) * mp().power(-inexact(x), inexact(y))
    args = [inexact(x) for x in args]
    cap = {"!": 2000, r"\binom": 2000, "^": 1e9, r"\sinh": 1e9, r"\cosh": 1e9}.get(kind, 1e15 if kind in FUNCTIONS else mp().inf)
    if kind != r"\ln" and mp().isfinite(args[-1]) and abs(args[-1]) > cap:
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
        env = {}  # rows 0 and 1 are positive, 2 in (0, 1), 3 whole numbers, 4 negative, 5 of mixed signs
        for i, name in enumerate(variables):
            x = Fraction(17 + 6 * i + 11 * row, (7, 13, 79 + 7 * i, 1, 11, 19)[row])
            env[name] = -x if row == 4 or row == 5 and i % 2 == 0 else x
        try:
            yield [value(node, env, work) for node in nodes]
        except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
            continue  # undefined here, or no expression at all

# ---------------------------------------------------------------------------------------------------------
# comparing

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
        listed = options(problem) if problem else {}
        text = gold[1] or listed.pop(gold[0], None)
        if text:
            return same_answer(prediction, text) and not any(same_answer(prediction, x) for x in listed.values())
    if ours and ours[1]:
        return same_answer(ours[1], answer)
    grouped = any(re.search(r"\d,[1-9]\d\d", x) for x in (prediction, answer))
    with LOCK:
        return any(same(read(prediction, x), read(answer, x), [MAX_WORK]) for x in ([True, False] if grouped else [True]))


def choice(text):
    """("C", "12") for (C) 12, C) 12, C. 12; ("C", "") for C; None where no letter of a multiple choice leads."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r"\1", text).strip("$ .*{}\n")
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
        few, many = sorted((set(u.split()), set(v.split())), key=len)
        agree = not few or u == v or few < many and not re.search(r"[/^%]|base|[ap]m", u + v)
        return agree and same(x, y, work)
    if "rel" in kinds:
        return same_relation(a, b, work)
    if "seq" in kinds:
        return a[0] == b[0] and len(a[3]) == len(b[3]) and same_items(a, b, work)
    return "text" not in kinds and same_value(a, b, work)


def single(node):
    return single(node[3][0]) if node[:2] == ("seq", "{") and len(node[3]) == 1 else node


def same_value(a, b, work):
    """Equal at every fixed point, at two of them at least if there are variables; or equal but for rounding."""
    (x, places), (y, gold_places) = decimal(a), decimal(b)
    if places and gold_places:
        return rounded(x, places, gold_places) == y
    pairs = [*at_points((a, b), work)]
    if names(a) | names(b):
        return len(pairs) > 1 and all(close(x, y) for x, y in pairs)
    return bool(pairs) and (close(*pairs[0]) or as_printed(x, places, pairs[0][1]) or as_printed(y, gold_places, pairs[0][0]))


def decimal(node):
    """(value, digits after the point) of a plain number."""
    if node[0] == "neg" and node[1][0] == "num":
        return -node[1][1], node[1][2]
    return node[1:] if node[0] == "num" else (None, None)


def rounded(x, places, gold_places):
    """x to the digits of the gold answer, half away from zero, if it has more."""
    scale = 10**gold_places
    sign = -1 if x < 0 else 1
    return x if places <= gold_places else sign * Fraction(math.floor(abs(x) * scale + Fraction(1, 2)), scale)


def as_printed(x, places, y):
    """Whether the decimal x, of ten digits or more, is y as a program prints it."""
    digits = len(str(abs(x.numerator * 10**places // x.denominator))) if places else 0
    if not 10 <= digits <= 40:
        return False
    error = abs(x - y) if isinstance(y, Fraction) else abs(inexact(x) - y)
    return 2 * error * 10**places <= 1 or digits <= 17 and error <= abs(y) * Fraction(4, 10**16)


def close(x, y):
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    x, y = inexact(x), inexact(y)
    if mp().isinf(x) or mp().isinf(y):
        return x == y
    scale = max(abs(x), abs(y))
    return abs(x - y) <= scale * mp().mpf(10) ** -40 or scale < mp().mpf(10) ** -50


def same_items(a, b, work):
    (_, open_a, close_a, x), (_, open_b, close_b, y) = a, b
    if {open_a, open_b} <= {"", "{"}:
        rest = list(y)
        for node in x:
            found = next((i for i, other in enumerate(rest) if work[0] > 0 and same(node, other, work)), None)
            if found is None:
                return False
            del rest[found]
        return True
    if "" in (open_a, open_b):  # 1, 2 may stand for (1, 2), and x = 1, y = 2 too
        return "()" in (open_a + close_a, open_b + close_b) and all(same(*pair, work) for pair in zip(in_order(x), in_order(y)))
    return (open_a, close_a) == (open_b, close_b) and all(same(*pair, work) for pair in zip(x, y))


def in_order(items):
    """The values of x = 1, y = 2 by name; anything else as it is."""
    pairs = dict(meaning(x) or (x, x) for x in items if x[0] == "rel" and x[1] == ("=",))
    return [pairs[label] for label in sorted(pairs)] if len(pairs) == len(items) else items


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, \Delta p, (x, y), words."""
    if node[0] == "*":
        head = node[1][1] if node[1][0] == "^" else node[1]
        called = head[0] == "name" and (head[1][0] in "fghFGHPTVASL" or node[2][0] == "seq") and len(node) == 3
        return called and node[2] != head or all(x[0] == "name" for x in node[1:]) and (
            node[1][1] in ("m", r"\angle", r"\triangle", r"\Delta") or all(x[1][0].isupper() for x in node[1:]))
    if node[0] == "seq":
        return all(x[0] == "name" for x in node[3])
    return node[0] == "text" or node[0] == "name" and bool(names(node))


def meaning(node, alone=False):
    """(label, value) of x = 5, 5 = x and 2 + 3 = 5, (x, interval) of x < 2 and 0 < x <= 1; else None.
    alone: no equation is asked for, so that a + b = 5 is 5, but the plane x + y = 5 is not."""
    signs, sides = node[1:]
    if set(signs) == {"="}:
        if not names(node) and not is_label(sides[0]):
            return (None, sides[-1]) if all(same(x, sides[-1], [200]) for x in sides) else None
        label, result = sides[::-1] if len(sides) == 2 and is_label(sides[1]) and not is_label(sides[0]) else (sides[0], sides[-1])
        if is_label(label):
            return None if label[0] == "name" and names(label) & names(result) else (label, result)
        return (label, result) if alone and not names(result) and not names(label) & {"x", "y", "z"} else None
    if signs[0][0] == ">":
        signs, sides = [s.replace(">", "<") for s in signs[::-1]], sides[::-1]
    if any(s[0] != "<" for s in signs) or len(signs) > 2:
        return None
    if len(signs) == 1:
        infinity, left = ("name", r"\infty"), sides[0][0] == "name" and not names(sides[1])
        signs, sides = (["<", *signs], [("neg", infinity), *sides]) if left else ([*signs, "<"], [*sides, infinity])
    ends = "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")"
    plain = sides[1][0] == "name" and not names(sides[0]) and not names(sides[2])
    return (sides[1], ("seq", *ends, (sides[0], sides[2]))) if plain else None


def same_relation(a, b, work):
    both = a[0] == b[0]
    x, y = (meaning(t, not both) if t[0] == "rel" else (None, t) for t in (a, b))
    if both and not (x and y and (x[0] == y[0] or not x[0] or not y[0] or not x[0][0] == y[0][0] == "name")):
        return proportional(a, b, work)
    return bool(x and y) and same(x[1], y[1], work)


def proportional(a, b, work):
    """Whether two equations or inequalities are one but for a constant factor (positive for the latter)."""
    sides = []
    for (sign, *more), (left, right, *_) in (a[1:], b[1:]):
        left, right = (right, left) if sign[0] == ">" else (left, right)
        sides.append((sign.replace(">", "<") if not more else object(), ("+", left, ("neg", right))))
    if sides[0][0] != sides[1][0]:
        return False
    try:
        ratios = [inexact(x) / inexact(y) for x, y in at_points((sides[0][1], sides[1][1]), work)]
    except ZeroDivisionError:
        return False
    same_way = sides[0][0] in ("=", "!=") or ratios and mp().re(ratios[0]) > 0
    return len(ratios) > 1 and bool(same_way) and all(close(ratios[0], r) for r in ratios)
