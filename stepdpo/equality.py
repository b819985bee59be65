r"""Are two trees equal? Lists and relations part by part, numbers and expressions by value.

    python -c "from stepdpo.answers import same_answer; print(same_answer(r'2\sin x\cos x', r'\sin 2x'))"

    x = 1/2   and   0.5             the relation states 1/2, and 1/2 is 0.5
    1, 2      and   \{2, 1\}        1 is found among 2, 1; then 2
    2ab       and   b(a + a)        24 and 24, 70 and 70, ... : equal at every point where both have a value
    0 < x < 1 and   (0, 1)          the relation as an interval, then end by end
"""
from fractions import Fraction

from stepdpo.expressions import INFINITY, ONE, REALS, SEQUENCES, ZERO, names, without_units
from stepdpo.values import MP, at_points, nearly_equal


def same_tree(a, b, work):
    """Whether a predicted tree equals a gold tree. The first rule that fits decides."""
    work[0] -= 1
    a, b = without_common_units(a, b)
    if a == b or work[0] < 0 or "text" in (a[0], b[0]):
        return a == b and a != ("text", "")
    if "where" in (a[0], b[0]):
        return same_where(a, b, work)
    if a[0] == b[0] == "rel" and a[2::2] == b[2::2]:
        return same_relation(a, b, work)
    if not (a[0] == b[0] == "," and is_related(a) and is_related(b)):
        a, b = as_intervals(a, work), as_intervals(b, work)
    if a[0] == "rel":
        return states(a, lambda side: same_tree(side, b, work))
    if b[0] == "rel":
        return states(b, lambda side: same_tree(a, side, work))
    if is_matrix(a) or is_matrix(b):
        return same_matrix(a, b, work)
    if a[0] in SEQUENCES and b[0] in SEQUENCES:
        if len(a) != len(b):
            a, b = solutions(a), solutions(b)
        return len(a) == len(b) and same_items(a, b, work)
    return same_value(a, b, work)


def without_common_units(a, b):
    """The trees without the unit that only one of them has, or that both have: 5 cm is 5, but 5 cm is not 5 m."""
    x, y = without_units(a), without_units(b)
    one_has = (x == a) != (y == b) and "name" not in (a[0], b[0])
    return (x, y) if one_has or (units_of(a) and units_of(a) == units_of(b)) else (a, b)


def units_of(tree):
    """The units that a product holds: cm^2 of 5 cm^2."""
    return [part for part in tree[1:] if without_units(part) == ONE != part] if tree[0] == "*" else []


def same_where(a, b, work):
    """A condition counts only if the other answer has one too, and both can be read."""
    tree, condition = a[1:] if a[0] == "where" else (a, None)
    other, other_condition = b[1:] if b[0] == "where" else (b, None)
    if condition and other_condition and "text" not in (condition[0], other_condition[0]):
        if not same_tree(condition, other_condition, work):
            return False
    return same_tree(tree, other, work)


def same_items(a, b, work):
    """Lists and sets have no order; tuples and intervals have one, and brackets."""
    (kind, *items), (other_kind, *others) = a, b
    if {kind, other_kind} <= {",", "{}"}:
        for item in items:
            found = item if item in others else next((other for other in others if same_tree(item, other, work)), None)
            if found:
                others.remove(found)
        return not others
    comparable = kind == other_kind or {kind, other_kind} == {",", "()"}  # 1, 2 or x = 1, y = 2 may stand for (1, 2)
    return comparable and all(same_tree(*pair, work) for pair in zip(items, others))


def solutions(tree):
    """x = 5, y = 8, x = 8, y = 5 as two tuples, (5, 8) and (8, 5)."""
    items = tree[1:]
    if not items or any(len(item) != 4 or item[0] != "rel" or item[2] != "=" for item in items):
        return tree
    labels = [label for _, label, _, _ in items]
    width = labels.index(labels[0], 1) if labels.count(labels[0]) > 1 else len(items)
    rows = [dict((label, right) for _, label, _, right in items[start:start + width])
            for start in range(0, len(items), width)]
    if width == 1 or any(row.keys() != rows[0].keys() for row in rows):
        return tree
    return ",", *(("()", *(row[label] for label in rows[0])) for row in rows)


# numbers --------------------------------------------------------------------------------------------------

def same_value(a, b, work):
    """Equal but for rounding at every fixed point, at two of them at least if there are variables."""
    if is_decimal(a) and is_decimal(b) and a[2] > b[2] > 0:
        return rounds_to(a[1], b)
    error = max(printing_error(a), printing_error(b))
    pairs = list(at_points(work, a, b))
    if all(nearly_equal(x, y, error) for x, y in pairs):
        return len(pairs) > bool(names(a) | names(b))
    three_digits = is_decimal(b) and b[2] > 0 and abs(b[1]) * 10 ** b[2] >= 100
    return three_digits and not is_decimal(a) and not names(a) and rounds_to(pairs[0][0], b)


def is_decimal(node):
    return node[0] == "num" and node[2] is not None and (node[1] * 10 ** node[2]).denominator == 1


def rounds_to(x, decimal):
    """Whether x, rounded half up, is the decimal: 33.333 and 100/3 are 33.3, and 33.25 is too."""
    if not isinstance(x, Fraction):
        if MP.im(x):
            return False
        x = MP.re(x)
    return x * decimal[1] >= 0 and -1 <= 2 * (abs(x) - abs(decimal[1])) * 10 ** decimal[2] < 1


def printing_error(node):
    r"""How far a decimal of ten digits or more may be off, as a program prints it: in its last place."""
    if node[0] == "*" and len(node) == 3 and node[2][0] == "^" and node[2][1] == ("num", Fraction(10), 0) and (
            node[2][2][0] == "num" and abs(node[2][2][1]) < 400):  # 1.646090535 \times 10^{-1}
        return printing_error(node[1]) * 10 ** node[2][2][1]
    if is_decimal(node) and node[2] and abs(node[1]) * 10 ** node[2] >= 10 ** 9:
        return Fraction(9, 10 ** (node[2] + 1))
    return 0


# relations ------------------------------------------------------------------------------------------------

def is_related(tree):
    return tree[0] == "rel" or (tree[0] == "," and all(item[0] == "rel" for item in tree[1:]))


def as_intervals(tree, work):
    r"""0 < x <= 1 is (0, 1], and x \neq 2 is (-oo, 2), (2, oo). Another tree stays as it is."""
    items = [item for item in tree[1:] if item[2:] != (r"\in", REALS)] if tree[0] == "," else []
    if items:  # x \in R, x > 2
        tree = items[0] if len(items) == 1 else (",", *items)
    holes = excluded(tree)
    if holes:
        return between(holes, work) or tree
    if tree[0] != "rel" or {*tree[2::2]} - {"<", "<="}:
        return tree
    signs, sides = ["<", *tree[2::2], "<"], [("neg", INFINITY), *tree[1::2], INFINITY]
    unknowns = [place for place, side in enumerate(sides) if names(side)]
    if len(unknowns) != 1 or not (sides[unknowns[0]][0] == "name" or is_function(sides[unknowns[0]])):
        return tree
    place = unknowns[0]
    kind = ("[" if signs[place - 1] == "<=" else "(") + ("]" if signs[place] == "<=" else ")")
    return kind, sides[place - 1], sides[place + 1]


def excluded(tree):
    r"""[2, 3] of x \neq 2, x \neq 3, of x \neq 2, 3 and of \mathbb{R} \setminus \{2, 3\}; else []."""
    if tree[0] == r"\setminus":
        holes = tree[2][1:] if tree[2][0] in ("{}", ",") else tree[2:]
        return list(holes) if tree[1] == REALS else []
    unknown, holes = None, []
    for item in tree[1:] if tree[0] == "," else (tree,):
        if item[0] == "rel" and item[2:3] == ("!=",) and item[1][0] == "name" and unknown in (None, item[1]):
            unknown = item[1]
            holes.append(item[3])
        elif unknown and item[0] not in ("rel", *SEQUENCES):
            holes.append(item)
        else:
            return []
    return holes


def between(holes, work):
    """The intervals between some numbers, (-oo, 2), (2, oo) of [2]; None where they are no real numbers."""
    places = []
    for hole in holes:
        point = None if names(hole) else next(at_points(work, hole), None)
        if point is None or MP.im(point[0]):
            return None
        places.append((MP.re(point[0]), hole))
    ends = [("neg", INFINITY), *(hole for _, hole in sorted(places, key=lambda pair: pair[0])), INFINITY]
    return ",", *(("()", left, right) for left, right in zip(ends, ends[1:]))


def same_relation(a, b, work):
    """Relations with the same signs are one side by side, or but for a constant factor, positive in inequalities."""
    side_by_side = all(same_tree(*pair, work) for pair in zip(a[1::2], b[1::2]))
    if side_by_side or len(a) > 4:
        return side_by_side
    y = ("name", "y")
    if a[2] == "=" and ((is_function(a[1]) and b[1] == y) or (a[1] == y and is_function(b[1]))):
        return same_tree(a[3], b[3], work)
    ratio = ("/", *(("+", left, ("neg", right)) for _, left, _, right in (a, b)))
    first, *others = [ratio for ratio, in at_points(work, ratio)] or [0]
    return first != 0 and others != [] and all(nearly_equal(first, other) for other in others) and (
        a[2] in ("=", "!=") or MP.re(first) > 0)


def is_function(node):
    """Whether a tree is f(x)."""
    return node[0] == "*" and len(node) == 3 and node[1][0] == node[2][0] == "name" and node[1][1] in "fgh"


def states(relation, equal):
    """Whether x = 5, 5 = x, 2 + 3 = 5 or a + b = 5 states 5. The plane x + y = 5 does not.

    equal: tells whether a tree is the other answer.
    """
    rest = [side for side in relation[1::2] if not equal(side)]
    return {*relation[2::2]} <= {"=", r"\in"} and len(rest) < len(relation[1::2]) and all(map(is_label, rest))


def is_label(node):
    r"""What may name an answer: x, S_n, f(x), AB, \angle ABC, (x, y), a + b; but nothing else with x, y or z in it."""
    head = names(node[1] if node[0] == "*" else node)  # f(x) is f times x
    return bool(head) and (node[0] in ("name", "()") or not head & {"x", "y", "z"})


# matrices -------------------------------------------------------------------------------------------------

def is_matrix(node):
    return node[0] == "matrix" or (node[0] in ("neg", "+", "*", "/") and any(map(is_matrix, node[1:])))


def same_matrix(a, b, work):
    """Cell by cell; a column is a tuple too."""
    size = max(len(cells(tree, 0) or []) for tree in (a, b))
    grids = []
    for tree in (a, b):
        is_column = tree[0] in (",", "()", "[]")
        grids.append([[item] for item in tree[1:]] if is_column else cells(tree, size) or [])
    rows, others = grids
    return [len(row) for row in rows] == [len(row) for row in others] != [] and all(
        same_tree(*pair, work) for row, other in zip(rows, others) for pair in zip(row, other))


def cells(node, size):
    r"""The cells of a matrix, row by row, with what stands before it inside; None for what is no matrix.

    -2\begin{pmatrix}1\\x\end{pmatrix} has the rows [-2 * 1], [-2 * x]. size: of I or I_2, the identity.
    """
    kind, *parts = node
    if kind == "matrix":
        return [list(row[1:]) for row in parts]
    if node in (("name", "I"), ("name", f"I_{size}")) and 0 < size < 10:
        return [[ONE if row == column else ZERO for column in range(size)] for row in range(size)]
    if kind not in ("neg", "+", "*", "/"):
        return None
    grids = [cells(part, size) for part in parts]
    shapes = [[len(row) for row in grid] for grid in grids if grid]
    if len(shapes) != (len(parts) if kind == "+" else 1) or any(shape != shapes[0] for shape in shapes):
        return None
    rows = []
    for row, width in enumerate(shapes[0]):
        rows.append([(kind, *(grid[row][column] if grid else part for grid, part in zip(grids, parts)))
                     for column in range(width)])
    return rows
