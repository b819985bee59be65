r"""The value of a tree: exact where that is possible, else in 60 digits.

    python -c "from stepdpo.expressions import read_answer; from stepdpo.values import *; \
        print(value(read_answer('1/3 + 1/6'), {}, [MAX_WORK]), value(read_answer('sqrt(2)'), {}, [MAX_WORK]))"

A number is a Fraction as long as it can be, and a number of mpmath where it cannot. An expression with variables is
computed at a few fixed points. Every operation has its price, and `work`, a list with what is left, bounds the time.
"""
import math
import operator
import threading
from fractions import Fraction

import mpmath

from stepdpo.expressions import names

MAX_BITS = 16_000  # of an exact power: about 4,800 digits
MAX_WORK = 2000  # operations in one comparison (`work` holds how many are left); 150 bits of exact numbers are one
MP = mpmath.mp.clone()
MP.dps = 60
LOCK = threading.Lock()  # mpmath caches its constants

CONSTANT_VALUES = {"e": +MP.e, "i": MP.j, r"\pi": +MP.pi, r"\infty": MP.inf, '"deg"': +MP.degree}


def power(x, y):
    """x^y, exact for a whole y; an odd root of a negative number is the real one."""
    if isinstance(x, Fraction) and isinstance(y, Fraction) and y.denominator == 1:
        return x ** int(y)
    if isinstance(y, Fraction) and y.denominator % 2 and not MP.im(x) and MP.re(x) < 0:
        return (-1) ** (y.numerator % 2) * MP.power(-x, y)
    return MP.power(x, y)


ARITHMETIC = {"+": lambda *terms: sum(terms), "*": lambda *factors: math.prod(factors), "/": operator.truediv,
              "neg": operator.neg, r"\abs": abs}  # exact for exact operands
FUNCTION_VALUES = {
    "^": power, "!": MP.factorial, r"\binom": MP.binomial, r"\ln": MP.log, r"\lg": MP.log10, r"\exp": MP.exp,
    r"\sin": MP.sin, r"\cos": MP.cos, r"\tan": MP.tan, r"\cot": MP.cot, r"\sec": MP.sec, r"\csc": MP.csc,
    r"\sinh": MP.sinh, r"\cosh": MP.cosh, r"\tanh": MP.tanh, r"\arcsin": MP.asin, r"\arccos": MP.acos,
    r"\arctan": MP.atan, r"\arccot": MP.acot, r"\arcsec": MP.asec, r"\arccsc": MP.acsc, r"\arcsinh": MP.asinh,
    r"\arccosh": MP.acosh, r"\arctanh": MP.atanh}
CANCELLING = {"+", r"\sin", r"\cos", r"\tan", r"\cot", r"\ln", r"\lg"}  # may leave 1e-61 of what is 0
UNDEFINED = (ArithmeticError, ValueError, LookupError, TypeError, AttributeError)  # or no expression at all


def value(node, point, work):
    """The value of a tree at a point {name: Fraction}: a Fraction, or a number of mpmath with 60 digits.

    One of UNDEFINED is raised for what has no value, takes too much work, or leaves the reals at a point.
    """
    kind, *parts = node
    if kind == "num":
        return parts[0]
    if kind == "name":
        return point[parts[0]] if parts[0] in point else CONSTANT_VALUES[parts[0]]
    args = [value(part, point, work) for part in parts]
    exact = all(isinstance(arg, Fraction) for arg in args)
    spend(work, kind, args, exact)
    if kind in ARITHMETIC:
        result = ARITHMETIC[kind](*(args if exact else map(MP.convert, args)))
    else:
        result = FUNCTION_VALUES[kind](*args)
    if isinstance(result, Fraction):
        return result
    if MP.isnan(result) or (point and MP.im(result)):
        raise ValueError("undefined, or beyond the reals")
    if kind in CANCELLING and abs(result) < max(abs(MP.convert(arg)) for arg in args) * MP.mpf(10) ** -50:
        return Fraction(0)  # \sqrt2\sqrt3 - \sqrt6; but e^{-200} and \frac{\pi}{10^{70}} are no sums
    return result


def spend(work, kind, args, exact):
    """Take the cost of an operation from `work`; OverflowError where too little is left, or a power is too large."""
    bits = sum(arg.numerator.bit_length() + arg.denominator.bit_length() for arg in args) if exact else 0
    if kind in ("!", r"\binom"):
        price = 100
    else:
        price = len(args) if exact and kind in ARITHMETIC else 10
    work[0] -= bits // 150 + price
    x, y = args[0], args[-1]
    if kind == "^" and exact and y.denominator == 1:
        size = max(abs(x.numerator), x.denominator).bit_length() - 1
        too_large = abs(y) * size > MAX_BITS
    else:
        too_large = kind not in ARITHMETIC and kind != r"\ln" and MP.isfinite(y) and abs(y) > 1e9
    if work[0] < 0 or too_large or not (kind in ARITHMETIC or kind in FUNCTION_VALUES):
        raise OverflowError("too much work")


def at_points(work, *trees):
    """The values of some trees, side by side, at every fixed point of their variables where all are defined."""
    variables = sorted(set().union(*map(names, trees)))
    for row, scale in enumerate((7, 13, 103, 107, 1, -11) if variables else (1,)):  # any, in (0, 1), whole, negative
        point = {name: Fraction(pow(3, 31 * i + 7 * row + 5, 101), scale) for i, name in enumerate(variables)}
        try:
            yield [value(tree, point, work) for tree in trees]
        except UNDEFINED:
            pass


def nearly_equal(x, y, error=0):
    """Equal up to `error` where both are exact; else in 40 digits too, however small they are."""
    if not (isinstance(x, Fraction) and isinstance(y, Fraction)):
        x, y = MP.convert(x), MP.convert(y)
        error = max(MP.convert(error), max(abs(x), abs(y)) * MP.mpf(10) ** -40)
    return x == y or abs(x - y) < error
