r"""Read an answer, LaTeX or plain text, into a tree. Nothing is ever executed.

    python -c "from stepdpo.expressions import read_answer; print(read_answer(r'x = \frac12 \cdot \pi'))"

    text    x = \frac12 \cdot \pi
    tokens  x  =  \frac  12  *  \pi                  one_spelling() and tokenize(): one name for each sign
    tree    ("rel", x, "=", ("*", ("/", 1, 2), \pi))         expression(); x is short for ("name", "x"), 1 for a "num"

The grammar, from what binds loosest to what binds tightest. Two operands side by side are a product.

    answer   = list [where condition]               3^n, for all n >= 1
    list     = relation {, relation}                1, 2, and 3: also ; and or \cup \\; several in a row are one
    relation = quotient {< quotient}                also = <= > >= != \in \approx
    quotient = sum [\over sum]
    sum      = product {+ product}                  also -
    product  = factor {* factor}                    also / : and nothing, as in 2x or \sin x \cos x
    factor   = [-] operand [^ factor]
    operand  = (number | name | word | \frac x y | \sin x | brackets | matrix) [!] [_base]
    brackets = (list) | [list) | {list} | \{list\} | \{x \mid condition\} | \abs{list}
    matrix   = \begin{pmatrix} list & list \\ list & list \end{pmatrix}

Trees are tuples: a kind and its parts.

    ("num", Fraction, places)      places: digits after the point; None in 1e6
    ("name", "x")                  a variable or constant; ("name", '"cm"'), in quotes, is a unit or another word
    ("+", x, y, z)                 so do * / ^ neg ! \abs \binom and every function: \sin \arctan \ln
    ("rel", 0, "<", x, "<=", 1)
    (",", x, y)                    a list; () [] [) (] {} are tuples, intervals and sets
    ("matrix", row, row)           rows are tuples: ("()", x, y)
    ("where", tree, condition)
    ("text", "no answer")          what cannot be read, and words
"""
import re
from fractions import Fraction

from stepdpo.spelling import END, FUNCTIONS, GREEK, MAX_CHARS, MIXED, SIGNS, one_spelling, tokenize

MIXED_NUMBER = re.compile(MIXED, re.X)
MAX_DEPTH = 20  # nested brackets, fractions, exponents, signs
LIST, RELATION, OVER, SUM, PRODUCT, CALL, BESIDE, POWER = range(1, 9)  # how tightly a sign binds
NAMES = {*GREEK, *map(str.title, GREEK), *r"\infty \angle \triangle \ell \hbar \odot \max \min".split()}
PREFIXES = {*FUNCTIONS, r"\abs", r"\sqrt", r"\frac", r"\binom"}
LEVELS = {  # of a sign, or of an operand that stands beside another: the x of 2x is BESIDE the 2
    "where": 0, **dict.fromkeys([",", r"\cup", "&", r"\\"], LIST),
    **dict.fromkeys(["=", "<", ">", "<=", ">=", "!=", r"\in", r"\approx"], RELATION), r"\over": OVER,
    "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, ":": PRODUCT, r"\setminus": PRODUCT, "^": POWER,
    **dict.fromkeys(["[", "{", r"\begin", *NAMES, *PREFIXES], BESIDE), **dict.fromkeys(["(", *FUNCTIONS], CALL)}
CLOSERS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}", "}")}
CURRENCIES = {'"dollar"', '"euro"', '"pound"', '"rupee"', '"yen"'}
POWERS = {'"square"': 2, '"cubic"': 3}  # square inches
NO_UNITS = {f'"{word}"' for word in """remainder modulo choose root power half halve third fourth fifth sixth seventh
    eighth ninth tenth hundredth thousandth twice thrice double triple less more fewer than least most below above
    under""".split()}
QUANTIFIERS = {f'"{word}"' for word in "all integer natural whole real positive constant arbitrary".split()}
SEQUENCES = [",", "()", "[]", "(]", "[)", "{}"]
CONSTANTS = {"e", "i", r"\pi", r"\infty", '"deg"'}
ZERO, ONE, TWO = ("num", Fraction(0), 0), ("num", Fraction(1), 0), ("num", Fraction(2), 0)
INFINITY = ("name", r"\infty")
REALS = ("()", ("neg", INFINITY), INFINITY)


def read_answer(text):
    """The tree of an answer; ("text", words) where it is words, too long, or cannot be read."""
    text = one_spelling(text)
    try:
        if len(text) > MAX_CHARS or is_prose(text):
            raise ValueError("too long, or words")
        trees = {}
        for plus, minus in ("+-", "-+") if r"\pm" in text else ("  ",):
            tokens = tokenize(text.replace(r"\pm", plus).replace(r"\mp", minus))
            tree = whole_answer(tokens)
            trees |= dict.fromkeys(tree[1:] if tree[0] in (",", "{}") and r"\pm" in text else [tree])
        return tree if r"\pm" not in text or len(trees) == 1 else (",", *trees)  # \pm 1, 5 are three
    except (ValueError, ArithmeticError):
        text = re.sub(r"\.(?!\d)|[\"']", "", text.casefold())
        return "text", " ".join(re.sub(r"\\?[{}]|\\(?=[a-z])|[,;:?](?!\d)|\b(?:the|an?)\b(?= )", " ", text).split())


def is_prose(text):
    """Whether a text without signs is words: with a vowel beside a consonant, "yes" is no product of letters."""
    words = re.sub(r'[{}"\s]+', " ", text).strip().lower()
    return bool(words not in SIGNS and re.search("[a-z][aeiou]|[aeiou][a-z]", words)
                and re.fullmatch(r"(?![abc]{2}$)(?!.*\b(?:and|or)\b)[a-z ]+", words))


def whole_answer(tokens):
    """The tree of all tokens, with its condition if it has one."""
    skip_commas(tokens)
    tree = expression(tokens, 0)
    if tokens[-1] == "where":
        tokens.pop()
        tree = "where", tree, condition(tokens)
    if tokens != [END]:
        raise ValueError(tokens[-1])
    return REALS if tree == ("name", "R") else part_conditions(tree)


def condition(tokens):
    """What stands behind "for" or "where": for all n >= 1 is a relation, where k is any integer is a text."""
    words = tokens[:0:-1]
    if "where" in words:
        raise ValueError("one value for even n and another for odd n are no single answer")
    while tokens[-1] == '"all"':
        tokens.pop()
    try:
        tree = expression(tokens, 0)
        if tokens == [END] and (tree[0] == "rel" or (tree[0] == "," and tree[1][0] == "rel")):
            return tree
    except (ValueError, ArithmeticError):
        pass
    tokens[:] = [END]
    if not QUANTIFIERS & {*words}:
        raise ValueError("no condition")
    return "text", " ".join(words)


def part_conditions(tree):
    r"""2k\pi, k \in Z is 2k\pi where k \in Z; but x > 1, x < 5 are two relations of equal rank."""
    items = list(tree[1:]) if tree[0] == "," else []
    conditions = []
    while len(items) > 1 and is_condition(items[-1], items[:-1]):
        conditions.insert(0, items.pop())
    if not conditions:
        return tree
    return "where", *(part[0] if len(part) == 1 else (",", *part) for part in (items, conditions))


def is_condition(item, earlier):
    """Whether a relation only says which values the variables of earlier items take."""
    of_equal_rank = any(is_inequality(part) for part in earlier)
    if of_equal_rank or not is_inequality(item):
        return bool(QUANTIFIERS & names(item))  # k is any integer
    variables = names(item[1] if r"\in" in item else item)
    return bool(variables) and variables <= names(("list", *earlier))


def is_inequality(tree):
    return tree[0] == "rel" and "=" not in tree[2::2]


def expression(tokens, depth, above=0):
    """The tree of the next tokens, as far as they bind more tightly than `above`. It takes them away.

    Of 2 * x + 1, above SUM, it takes ("*", 2, x) and leaves + 1.
    """
    node = operand(tokens, depth, above)
    while True:
        sign = tokens[-1]
        level = LEVELS.get(sign, BESIDE if sign[0].isalnum() or sign[0] in '."' else 0)
        if level <= above:
            return node
        if level == LIST:
            skip_commas(tokens)
            if tokens[-1] in (END, "where", ")", "]", "}", r"\}"):
                return node
        elif level not in (SUM, CALL, BESIDE):  # the sign of a summand belongs to the summand
            tokens.pop()
        depth += sign in ("/", "^", r"\over", ":")  # a/b/c is a tree as deep as it is long
        node = extend(node, sign, level, tokens, depth)


def skip_commas(tokens):
    while LEVELS.get(tokens[-1]) == LIST:
        tokens.pop()


def extend(left, sign, level, tokens, depth):
    """The tree of `left`, a sign, and the operand that comes next."""
    if sign in ("/", "^", ":"):
        right = expression(tokens, depth, BESIDE)
        if sign == ":" and tokens[-1] == ":":  # 3:2 is a fraction, 3:2:1 a triple
            tokens.pop()
            return "()", left, right, expression(tokens, depth, BESIDE)
        return sign.replace(":", "/"), left, right
    right = expression(tokens, depth, level)
    if sign == r"\over":
        return "/", left, right
    if sign == r"\setminus":
        return sign, REALS if left == ("name", "R") else left, right
    if sign == r"\cup" and "{}" in (left[0], right[0]):
        items, others = (side[1:] if side[0] == "{}" else (side,) for side in (left, right))
        return "{}", *items, *others
    if level == RELATION:
        return relation(left, sign, right)
    kind = {LIST: ",", SUM: "+"}.get(level, "*")  # flat, however long it is
    parts = left[1:] if left[0] == kind else (left,)
    last = left if level == CALL else parts[-1]
    if level in (CALL, BESIDE):
        two_numbers = level == BESIDE and last[0] == right[0] == "num" and right[2] is not None  # 5 million is 5 1e6
        word_first = last != ONE and without_units(last) == ONE  # room 5, print(42)
        if two_numbers or (word_first and (right == ONE or without_units(right) != ONE)):
            raise ValueError("two numbers, or a word before a number")
    return kind, *parts, right


def relation(left, sign, right):
    r"""x > 2 is 2 < x; 0 < x < 1 is one relation; x = \sqrt2 \approx 1.41 says no more than x = \sqrt2."""
    parts = left[1:] if left[0] == "rel" else (left,)
    if sign == r"\approx" and not names(without_units(parts[-1])):
        return left
    sign = "=" if sign == r"\approx" else sign
    right = REALS if sign == r"\in" and right == ("name", "R") else right
    return ("rel", right, sign.replace(">", "<"), *parts) if sign[0] == ">" else ("rel", *parts, sign, right)


def operand(tokens, depth, above):
    """An atom with its sign before it, or with ! and the base behind it."""
    if tokens[-1] in ("+", "-") and depth < MAX_DEPTH:
        sign, node = tokens.pop(), expression(tokens, depth + 1, max(above, PRODUCT))
        if sign == "+":
            return node
        return ("num", -node[1], node[2]) if node[0] == "num" else ("neg", node)
    node = atom(tokens, depth)
    if tokens[-1] == "!":  # a second one is unreadable: 3!! is not (3!)!
        return tokens.pop(), node
    if tokens[-1][0] == "_":
        return "*", node, ("name", f'"base {tokens.pop()[1:]}"')
    return node


def atom(tokens, depth):
    """A number, brackets, a matrix, a function with its argument, a name or word."""
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    token = tokens.pop()
    if token[0].isdigit() or token[0] == ".":
        return number(token)
    if token in CLOSERS:
        return brackets(token, tokens, depth + 1)
    if token == r"\begin":
        return matrix(tokens, depth + 1)
    if token == r"\emptyset":
        return ("{}",)
    if token in PREFIXES:
        return function(token, tokens, depth + 1)
    if token in CURRENCIES and (tokens[-1][0].isdigit() or tokens[-1] == r"\frac"):  # $5 million
        return "*", expression(tokens, depth + 1, CALL), ("name", token)
    if token in POWERS and tokens[-1][0] == '"':
        return "^", atom(tokens, depth + 1), ("num", Fraction(POWERS[token]), 0)
    if token in NO_UNITS or not (token in NAMES or token[0] == '"' or (len(token) == 1 and token.isalpha())):
        raise ValueError(token)
    while tokens[-1][0] in "_'":
        token += tokens.pop()
    return "name", token


def number(token):
    """The node of 1,000 or 2.5 or 1e6 or 1 3/4."""
    mixed = MIXED_NUMBER.fullmatch(token)
    if mixed:
        whole, top, bottom = map(int, filter(None, mixed.groups()))
        return "num", whole + Fraction(top, bottom), 0
    token = re.sub("[, ]", "", token).replace("⁄", "/").lower()
    digits, _, exponent = token.partition("e")
    places = len(digits.partition(".")[2])
    if exponent:
        places = max(0, places - int(exponent)) if "." in digits else None
    return "num", Fraction(token), places


def brackets(opener, tokens, depth):
    """What stands in brackets: a list, tuple, interval or set, or the one tree in them."""
    skip_commas(tokens)
    rows = opener == tokens[-1] == "["  # [[1, 2], [3, 4]] is a matrix
    tree = (",",) if tokens[-1] in CLOSERS[opener] else expression(tokens, depth)
    if tokens[-1] == r"\mid":
        tokens.pop()
        tree = such_that(tree, expression(tokens, depth))
    items, closer = tree[1:] if tree[0] == "," else (tree,), tokens.pop()
    kind = opener[-1] + closer[-1]
    if closer not in CLOSERS[opener] or (len(items) < 2 and kind in ("(]", "[)")):
        raise ValueError(closer)
    if rows:
        return ("matrix", *(("()", *(row[1:] if row[0] in SEQUENCES else (row,))) for row in items))
    if len(items) == 1:
        return tree
    return (kind if len(items) == 2 or kind == "{}" else "()", *items)


def such_that(head, condition):
    r"""\{x \mid x > 2\} is x > 2, and \{2k \mid k \in Z\} is 2k where k \in Z."""
    head = head[1] if r"\in" in head else head
    return condition if head[0] in ("name", "()") and names(head) <= names(condition) else ("where", head, condition)


def matrix(tokens, depth):
    r"""The rows of a matrix or of a system of equations, up to its \end."""
    rows, row, sign = [], [], None
    while sign != r"\end":
        row.append(expression(tokens, depth, LIST))
        sign = tokens.pop()
        if sign == r"\\" and tokens[-1] == r"\end":
            sign = tokens.pop()
        if sign != "&":
            rows, row = rows + [("()", *row)], []
        if sign not in ("&", r"\\", r"\end"):
            raise ValueError(sign)
    cells = [cell for row in rows for cell in row[1:]]
    if any(cell[0] == "rel" for cell in cells):
        return ",", *cells
    return cells[0] if len(cells) == 1 else ("matrix", *rows)


def function(name, tokens, depth):
    r"""\frac{1}{2}, \sin^2 x, \tan^{-1}(1), \log_2 8, \sqrt[3]{x}; without brackets the argument is a product."""
    if name in (r"\frac", r"\binom"):
        return name.replace(r"\frac", "/"), argument(tokens, depth), argument(tokens, depth)
    if name == r"\sqrt":
        index = TWO
        if tokens[-1] == "[":
            tokens.pop()
            index = expression(tokens, depth)
            if tokens.pop() != "]":
                raise ValueError("no ]")
        return "^", atom(tokens, depth), ("/", ONE, index)
    marks = {}
    while tokens[-1][0] in "^_":
        mark = tokens.pop()
        marks[mark[0]] = expression(tokens, depth, BESIDE) if mark == "^" else expression(tokenize(mark[1:]), depth)
    base, exponent = marks.get("_"), marks.get("^")
    node = atom(tokens, depth) if tokens[-1] in ("(", "{", "[") else expression(tokens, depth, CALL)
    if exponent == ("num", -1, 0):
        return r"\arc" + name[1:], node
    node = ("/", (name, node), (name, base)) if base else (name, node)
    return ("^", node, exponent) if exponent else node


def argument(tokens, depth):
    r"""An atom; of \frac12 only the first digit, as in TeX."""
    if tokens[-1].isdigit() and len(tokens[-1]) > 1:
        digits = tokens.pop()
        tokens += [digits[1:], digits[0]]
    return atom(tokens, depth)


# questions about a tree -----------------------------------------------------------------------------------

def names(node):
    """The free variables of a tree."""
    if node[:1] == ("name",):
        return {node[1]} - CONSTANTS
    return set().union(*(names(part) for part in node if isinstance(part, tuple)))


def without_units(node):
    """A tree whose words and degrees count as 1 and drop out, except in the argument of a function."""
    is_word = node[0] == "name" and node[1][0] == '"'
    if is_word or (node[0] == "^" and without_units(node[1]) == ONE):
        return ONE
    if node[0] not in ("*", "/", "+", "neg"):
        return node
    first, *others = map(without_units, node[1:])
    others = [other for other in others if other != ONE or node[0] == "+"]  # 60 km/h
    return (node[0], first, *others) if others or node[0] == "neg" else first
