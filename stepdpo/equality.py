"""Whether two trees are equal: values, lists, relations."""
import math
import operator
import threading
from fractions import Fraction

import mpmath

from stepdpo.expressions import INFINITY, ONE, SEQUENCES, names, without_units
MAX_BITS = 16_000
MAX_WORK = 2000
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
    a, b = plain(a), plain(b)
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


def plain(tree):
    if tree[0] != "matrix":
        return tree
    rows = [row[1:] for row in tree[1:]]
    rows = [row[0] if len(row) == 1 else ("[]" if len(row) == 2 else "()", *row) for row in rows]
    return ("()", *rows)
