"""The judge of equations. Run alone: pytest tests/test_equations.py"""
import json
import random
import re
import sys
import time
from fractions import Fraction

import pytest
from conftest import ROOT, SHARED, needs_shared

from judges.equations import judge_equations
from stepdpo.arithmetic import find_equations, is_false
from stepdpo.steps import split_steps

sys.path.insert(0, str(ROOT / "demo"))

EQUATIONS = {  # step -> equations that are read in it, None for one with an unreadable side
    "Adding gives 30 + 12 = 42.": ["30 + 12 = 42"], "so 3 + 4 = 7 = 14 / 2": ["3 + 4 = 7", "7 = 14 / 2"],
    r"$3 \times 4 = 12$ and \(\frac{1}{2} + \frac{1}{2} = 1\)": [
        "3 * 4 = 12", "( ( 1 ) / ( 2 ) ) + ( ( 1 ) / ( 2 ) ) = 1"],
    "She has 3 apples + 4 apples = 7 apples left": ["3 + 4 = 7"], "Total = 3 x 4 = 12": ["3 * 4 = 12"],
    "3 red apples + 4 green apples = 7": ["3 + 4 = 7"], "12 dollars/hour * 2 hours = 24": ["12 * 2 = 24"],
    "a total of 3 + 4 = 7": ["3 + 4 = 7"], "20 apples x $0.45/apple = $9": ["20 * 0.45 = 9"],
    "(3 + 4 = 7)": ["3 + 4 = 7"], "- 3 + 4 = 7": ["3 + 4 = 7"], "$1,200 - $200 = $1,000": ["1,200 - 200 = 1,000"],
    r"49{,}994 + 6 = 50{,}000": ["49,994 + 6 = 50,000"], "We had 3. 4 + 1 = 5": ["4 + 1 = 5"],
    "It is 5 apples (3 + 2 = 5).": ["3 + 2 = 5"], "gives -5 + 3 = -2": ["- 5 + 3 = - 2"],
    "x = 3 + 4 = 7": ["3 + 4 = 7"],
    "5km + 3km = 8km": ["5 + 3 = 8"], "[3 + 4] * 2 = 14": ["( 3 + 4 ) * 2 = 14"], "2 + 2 == 4": [None], "x = 5": [],
    "26 + 32 = ": [None], "7 = x": [], "48/2 = <<48/2=24>>24 clips": ["48 / 2 = 24"],
    r"\begin{aligned} 3 + 4 &= 7 \\ &= 14/2 \end{aligned}": ["3 + 4 = 7"], "3 + 4 ≈ 7": [],
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_equations_are_read_whole(text):
    read = [f"{' '.join(e.left)} = {' '.join(e.right)}" if e.left and e.right else None for e in find_equations(text)]
    assert read == EQUATIONS[text]


TRUE = r"""
12 / 5 = 2 remainder 2; 3 + 4 = 7x; 2x + 3 = 7; 3 x + 4 = 19; 3ab + 4 = 19; x - 3 = 5; x_1 + 3 = 5; Total - 5 = 15
3^2 + 4^2 = 25; 3² + 4² = 25; 10^2 + 1 = 101; 2e3 + 1 = 2001; 3! + 1 = 7; |3 - 5| = 2; 10 mod 3 + 1 = 2; log2 + 1 = 1.3
2 \sqrt{9 + 16} = 10; √9 + 16 = 19; the square root of 9 + 16 = 19; f(3) + 1 = 5; max(3, 4 + 5) = 9; gcd(12, 5 + 3) = 4
2(3 + 4) = 14; 2 (3 + 4) = 14; (2) (3 + 4) = 14; 5 - [3 + 1] = 1; 2\pi + 1 = 7.28; \binom{5}{2} + 1 = 11; 7 = 3 + 4
1 1/2 + 1/2 = 2; 3 and 1/2 + 1/2 = 4; 7/2 = 3 1/2; 3 ½ + 1 = 4 ½; 2 + 2 = 4 and a half - a half; \frac12 + 1 = 1.5
20% of 50 + 2 = 12; half of 30 + 4 = 19; two thirds of 30 + 4 = 24; 25 percent * 80 = 20; 15 / 60 * 100 = 25%
3 + 4 = 7 thousand; 2 dozen + 1 = 25; 3 times 4 + 2 = 14; 2 less than 3 + 4 = 5; 5 choose 2 + 1 = 11
3,5 + 1 = 4,5; 2 + 3,5 = 5,5; 1.200 + 300 = 1.500; 1 200 + 300 = 1 500; 1\,200 + 300 = 1\,500; 1,00,000 + 5 = 1,00,005
12 : 4 + 2 = 5; 3:2 = 6:4; 11:30 + 45 = 12:15; 11 + 3 = 2 o'clock; 30° + 60° = 90°; .5 + 1 = 1.5; 50 + 25 = 0.75
€5 + €4 * 2 = €13; £5 + £4 = £9; 50 cents + 50 cents = $1; 5 hours + 30 minutes = 330 minutes
100 / 3 = 33; 100 / 3 = 33.3; 33.3 * 3 = 100; 1 + 2 + ... + 10 = 55; 3 + 4 <= 8; 3 + 4 != 8
3 • 4 + 1 = 13; 3 ⋆ 4 + 1 = 13; ¬3 + 4 = 5; ∑3 + 4 = 9
\frac{1000 \text{ m}}{2.5 \times 3600 \text{ s}} = \frac{1}{9}; \frac{1}{3} * 100 = 33.33\%
3 \cdot 1 = 3 \) and add up to \( -4; \[ 3 + 4 = 7 \] \[ -2 + 5 = 3 \]; 3 + 4 = 7$ and $-4$; (3 + 4 = 7 \) \( - 2)
f''(-4) = 48 - 16 > 0; f'(3) = 12 - 4 > 2; g’(2) + 1 = 5; f^{-1}(3) + 1 = 8; f^{\prime}(2) = 3
is 3 + 4 = 8?; 2 + 2 = 5？
x = -1 when a = 2; a + 7 = 0 or a - 2 = 0; x = 3 and -4 = y; so 3 where -2 = b; -64 = 1 - 63; 5 + 3 = 8, - 2 = 6
7 if - 3 = c
$3 + 50 cents = $3.50; 3 + 50 cents = $3.50; £5 + 50 pence = £5.50; $1 - 5 dimes = $0.50; 3 dollars + 50 cents = 3.50
$50 + 20% = $60; 200 + 10 percent = 220; 80 - 25% = 60; 50 + (20%) = 60; $50 + 20\% = $60; 25% - 5 = 20%
8 + 5 = 1 pm; 10 am + 5 hours = 3 pm
1 - 20% = 80%
5 + 3 = 8 + 2 = 10; 6*4=24+5=29 apples; 2 * 3 = 6 - 1 = 5; -5 + 3 = -2 * 4 = -8; 1/2 * 3 = 3/2 + 1 = 5/2
3 + 4 * 2 = 14
25 / 1/3 = 75; 14 / 1 / 4 = 14 * 4; 5 x 1/2 = 10 halves; on day 1 * 2 = 20 pages
.8 + . 84 + .82 = 2.46; 5 * 3 = $15,000
pages 5–10 = 6 pages; $400 000 x 3/100 = $12 000; 1 hour - 20 minutes = 40 minutes; 60 inches = 5 * 1 feet
\frac{1000 \text{ meters}}{2.5 \times 3600 \text{ seconds}} = \frac{1}{9}; \frac{\frac{6}{2} + 1}{2} = 2
""".strip().replace("\n", "; ").split("; ")


def called_false(text):
    return any(map(is_false, find_equations(text)))


@pytest.mark.parametrize("text", TRUE)
def test_what_is_true_in_odd_notation_is_not_called_false(text):
    assert not called_false(text)


FALSE = r"""
\( 3 \cdot 1 = 4 \) and add up to \( -4 \); \[ 3 + 4 = 8 \] \[ -2 \]; so 3 + 4 = 8$ and $-4$; \(3 + 4\) = \(8\)
$3$ + $4$ = $8$
f(x) = 3 + 4 = 8; so y' = 3 + 4 = 8; 2) 3 + 4 = 8; (3 + 4 = 8); $3 + $4 = $8; $3.50 + $4 = $9; 3€ + 4€ = 8€
$5 * 20% = $2
5 + 3 = 9 + 2 = 11; 5 + 3 = 8 + 2 = 12; 6*4=25+5=30; 50 cents + 30 cents = 90 cents; 12 / (3 / 4) = 1
2 days * 3 = 8 days; 40 - 3 * 5 = 35; -8 + 3 = -4
""".strip().replace("\n", "; ").split("; ")


@pytest.mark.parametrize("text", FALSE)
def test_what_is_plainly_false_is_called_false(text):
    assert called_false(text)


def test_a_sum_that_is_broken_over_lines_is_not_read_in_halves():
    for text in ("10 +\n15 + 3 = 28", "15 + 3\n+ 10 = 28", "2 * 3 = 5 +\n1"):
        assert not called_false(text)


PROBLEM = {"prompt": "Ann has 35 beads. She loses 17, then twelve new ones arrive, and she keeps 25% of them."}
STEPS = [  # steps, what the judge says
    (["35 - 17 = 18.", "18 + 12 = 30.", "30 * 25% = 7.5"], 0), (["35 - 17 = 18.", "18 * 0.25 = 4.5"], 0),
    (["35 - 17 = 28.", "28 + 12 = 40."], 1), (["35 - 17 = 18.", "18 + 12 = 40."], 2),
    (["35 - 17 = 18.", "18 + 13 = 41."], "cannot tell"),  # where is 13 from?
    (["First we subtract 17 from 35.", "35 - 17 = 28."], 2),  # prose with nothing new in it is no obstacle
    (["First we subtract 17 from 35.", "35 - 17 = 18."], "cannot tell"),  # but is not found right either
    (["She has 28.", "28 + 12 = 41."], "cannot tell"), (["The answer is clear."], "cannot tell"),
    (["35 - 17 = 18.", "35 - 17 = 18.", "18 + 12 = 31"], 3),  # steps that repeat are steps
    (["35 / 17 = 2.06"], 0), (["35 / 17 = 2"], "cannot tell"), (["35 / 17 = 2.16"], 1),
    (["35 - 17 = ", "35 - 17 = 28"], "cannot tell"), (["35 - 17 = eighteen"], "cannot tell"),
    (["35 / (17 - 17) = 0"], "cannot tell"),
    (["35 beads - 17 pens = 40 cups"], "cannot tell"), ([r"$35 - 17 = 28$"], 1), (["35 − 17 = 28 beads"], 1),
    (["__import__('os').system('x') = 35 - 17 = 28"], "cannot tell"), (["35 - 17 = 18 = 19"], "cannot tell"),
    (["35 - 17 = 19 - 2"], 1),
    (["35 + 2 = 37 lambs"], "cannot tell"), (["35 * 100 = 3500"], 0),  # 25% has 100
    (["Wait, 35 - 17 = 28 is wrong: 35 - 17 = 18."], "cannot tell"), (["If 35 - 17 = 28, she is rich."], "cannot tell"),
]


@pytest.mark.parametrize("steps, expected", STEPS)
def test_equations_judge(steps, expected):
    assert judge_equations(PROBLEM, ["", *steps], whole=False).bad_step == expected


ORIGINS = [  # problem, chosen step, whether it may be found right
    ("Tom has 10 lambs and sells 3.", "3 + 2 = 5 lambs", False), ("Tom has 10 lambs and sells 3.", "10 - 3 = 7", True),
    ("Tom has 10 lambs and twice as many cows.", "10 * 2 = 20", True),
    ("Of 40 cows 25% are old.", "40 * 25 / 100 = 10", True),
    ("Tom has 10 lambs.", "10 * 100 = 1000", False), ("Tom eats 3 pies a week.", "3 * 1 = 3", False),
    ("A third of 30 cows.", "1 - 1/3 = 2/3", True), ("Tom eats 21 pies in a week.", "21 / 7 = 3", True),
    ("A pie costs 300 cents.", "300 / 100 = 3", True), ("Tom has 10 lambs.", "10 / 7 = 1.43", False),
    ("Forty men and 2 dozen cows.", "40 + 2 * 12 = 64", True), ("Tom works 3 hours.", "3 * 60 = 180", True),
]


@pytest.mark.parametrize("problem, step, right", ORIGINS)
def test_numbers_come_from_the_problem(problem, step, right):
    found = judge_equations({"prompt": problem, "answer": "7"}, ["", step], whole=False).bad_step
    assert found == (0 if right else "cannot tell")


ANYWHERE = [  # steps, the first plainly false equation
    (["Let us see.", "35 - 13 = 12."], 2), (["x + 3 = 5.", "13 + 4 = 18.", "35 - 17 = 28."], 2),
    (["If 13 + 4 = 18.", "35 - 17 = 28."], 2), (["Substituting, 13 + 4 = 18."], "cannot tell"),
    (["35 - 17 = 18.", "18 + 13 = 31."], "cannot tell"), (["13 + 4 = 17.", "5 + 3 = 8 + 2 = 10."], "cannot tell"),
    (["35 - 17 = 18.", "18 + 12 = 40."], 2), (["35 - 17 = 18."], "cannot tell"),
]


@pytest.mark.parametrize("steps, expected", ANYWHERE)
def test_the_first_false_equation_anywhere(steps, expected):
    row = {**PROBLEM, "answer": None}
    assert judge_equations(row, ["13 + 4 = 18 ", *steps], anywhere=True).bad_step == expected
    if expected == "cannot tell" or steps[0] != "35 - 17 = 18.":
        assert judge_equations(row, ["", *steps]).bad_step == "cannot tell"


def test_other_arithmetic_is_not_judged():
    for prompt in ("Find 5 + 4 in base 8.", "Define 5 + 4 as 5 times 4.", "What does a clock of 8 hours show, 5 + 4?"):
        assert judge_equations({"prompt": prompt}, ["", "5 + 4 = 11"], anywhere=True).bad_step == "cannot tell"


LAST_LINES = [  # completion, gold answer, what the judge says
    ("Step 1: 5 + 3 = 8.\nThe answer is: 9", "8", 1), ("Step 1: 5 + 3 = 8.\nThe answer is: 8", "8", 0),
    ("Step 1: 5 + 3 = 8.\nThe answer is: 8", "16", "cannot tell"),  # something is wrong that is no equation
    ("Step 1: 5 + 3 = 8.\nThe answer is: no", "8", "cannot tell"), ("Step 1: 5 + 3 = 8.", "8", 0),
    ("Step 1: 5 + 3 = 8.\nThe answer is: 8", None, "cannot tell"),  # sound arithmetic is not the whole of it
    ("As 5 + 3 = 8:\nStep 1: 8 + 5 = 13.\nThe answer is: 13", "13", 0),  # a preamble is context
    ("As 5 + 3 = 9:\nStep 1: 8 + 5 = 13.\nThe answer is: 13", "13", "cannot tell"),  # and never at fault
]


@pytest.mark.parametrize("completion, answer, expected", LAST_LINES)
def test_equations_and_the_last_line(completion, answer, expected):
    row = {"prompt": "Ann has 5 and 3.", "answer": answer}
    assert judge_equations(row, split_steps(completion)).bad_step == expected


def test_equations_judge_is_quick_on_hostile_steps():
    begin = time.process_time()
    for piece in ("9", "(", "1 + ", "1 = ", "- ", "\\frac{", "1 ", " ", "3 x", "{", "1,1", "a", "1 a a a a", "\n", "\r",
                  "1/", "$", "\\(", "f'(", "\\) \\(", "1$ ", "%", "1 day "):
        many = piece * (12_000 // len(piece))
        judge_equations(PROBLEM, ["", f"1{many} + 1 = 2"], anywhere=True)
        judge_equations(PROBLEM, ["", f"{many}1 = 2"], anywhere=True)
        assert judge_equations(PROBLEM, ["", many * 5]).words == "too long to read"
    assert time.process_time() - begin < 30  # a generous cap: nothing here is worse than linear


def test_precision_on_the_demos_world():
    import world
    named = hits = wrong = 0
    for name in world.WORLDS:
        for row in world.problems(name, "sft", 150, 11):
            found = judge_equations(row, split_steps(row["solution"])).bad_step
            named += found not in (0, "cannot tell")
            hits += found == row["bad_step"]
            wrong += row["bad_step"] is not None
    assert hits == named == wrong > 100


def written(value, dice):
    """A number as one may write it."""
    if value.denominator > 1:
        return f"{float(value):.2f}"
    plain = f"{abs(value.numerator):,}" if dice.random() < 0.7 else str(abs(value))
    return ("-" if value < 0 else "") + plain


def fresh_step(value, dice, slip):
    """(operand, result, text) of a step from `value` on, in a wording and a notation that no judge here was made for.

    slip is added to the result that the text states.
    """
    b = Fraction(dice.randint(2, 9) if dice.random() < 0.5 else dice.randint(11, 400))
    sign = dice.choice("+-*" if b < 10 else "+-")
    unit = dice.choice(["", "", " litres", " kg", "km", " red balloons"])
    if value.denominator == 1 and value > 0 and value % b == 0:
        sign = "/"
    result = {"+": value + b, "-": value - b, "*": value * b, "/": value / b}[sign] + slip
    spell = {"+": ["+", " + "], "-": ["-", " - ", " − "], "*": [r" \times ", " x ", "×", r" \cdot ", " * "],
             "/": [" ÷ ", "/", r" \div "]}[sign]
    left = f"{written(value, dice)}{unit}{dice.choice(spell)}{written(b, dice)}{unit if sign in '+-' else ''}"
    if sign == "/" and dice.random() < 0.5:
        left = rf"\{dice.choice(['', 'd'])}frac{{{written(value, dice)}}}{{{written(b, dice)}}}"
    if sign in "+*" and dice.random() < 0.2:
        turned = f"{left} = {written(b, dice)}{dice.choice(spell)}{written(value, dice)}"
        left = f"({left})" if dice.random() < 0.5 else turned
    if sign == "*" and dice.random() < 0.3:
        left = f"{written(b * 100, dice)}{dice.choice(['%', chr(92) + '%'])} * {written(value, dice)}"
    said = f"{left} = {written(result, dice)}{unit}"
    return b, result, dice.choice([
        "Also ergibt sich ${}$.", "On obtient donc {}.", r"Hence \[ {} \] as claimed.", "({})", "- {}", "**{}**",
        "There are now {}, which we keep in mind.", "Now: {}; next.", "{} 。", "Total = {}", "so y = {}"]).format(said)


def test_precision_on_wordings_and_formats_that_nobody_tuned_to():
    """Truth by construction: each answer has at most one slip, which later steps go on from."""
    dice = random.Random(5)
    told = {True: [], False: []}  # whether an answer holds an odd notation -> (found, truth)
    for _ in range(400):
        value, steps, operands = Fraction(dice.randint(10, 3000)), [], []
        operands.append(value)
        bad_step = dice.choice([0, 1, 2, 3, 4])
        mixed = dice.random() < 0.3
        for k in range(1, 5):
            slip = dice.choice([-100, -10, -2, 1, 2, 9, 10, 90]) if k == bad_step else 0
            b, value, text = fresh_step(value, dice, slip)
            operands.append(b)
            steps.append(f"Step {k}: {text}\n" + (dice.choice(TRUE) + "\n" if mixed and dice.random() < 0.5 else ""))
        row = {"prompt": "Take " + ", then ".join(written(b, dice) for b in operands) + "."}
        told[mixed].append((judge_equations(row, ["", *steps], whole=False).bad_step, bad_step))
    named = [found == truth for both in told.values() for found, truth in both if found and found != "cannot tell"]
    found = sum(found == truth > 0 for found, truth in told[False]) / sum(truth > 0 for _, truth in told[False])
    print(f"named {len(named)}, precision {sum(named) / len(named):.4f}, found {found:.2f} without odd notations")
    assert sum(named) / len(named) > 0.99 and len(named) > 180 and found > 0.75
    assert not [both for both in told[False] if both[0] == 0 and both[1]], "what is wrong is not found right"


@needs_shared
def test_equations_judge_on_real_answers():
    """All that it names in 400 real answers was looked at: 49,994 + 20,006 is 70,000."""
    named = {}
    for row in map(json.loads, open(SHARED / "math_answers.jsonl")):
        found, words, _ = judge_equations(row, split_steps(row["completion"]))
        if found and found != "cannot tell":
            named[row["id"]] = row["published_verdict"], words
    said = {f"step 4: 49,994 + 20,006 = {wrong} does not hold" for wrong in ("69,999", "69,990")}
    assert len(named) == 7 and {words for _, words in named.values()} == said
    assert not any(right for right, _ in named.values())


@needs_shared
def test_equations_of_real_answers():
    """Of some 1,350 equations in 400 real answers those that are called wrong are wrong: each was looked at."""
    wrong = set()
    for row in map(json.loads, open(SHARED / "math_answers.jsonl")):
        for equation in filter(is_false, find_equations(row["completion"])):
            wrong.add(f"{' '.join(equation.left)} = {' '.join(equation.right)}")
    assert wrong == {"29 - 10 - 1 = 19", "( ( 1 ) / ( 2 ) ) * 24 * 26 = 156", "49,994 + 20,006 = 69,999",
                     "49,994 + 20,006 = 69,990"}


@needs_shared
def test_precision_on_solutions_that_people_wrote():
    """GSM8K's solutions are right; with one result changed the truth is known as well."""
    dice, named, hits, wrong, false_alarms = random.Random(0), 0, 0, 0, {}
    for row in [json.loads(line) for line in open(SHARED / "gsm8k_test.jsonl")][2::3]:
        *lines, final = re.sub(r"<<.*?>>", "", row["solution"]).strip().split("\n")
        parts = ["", *(line + "\n" for line in lines)]
        found, words, _ = judge_equations({**row, "answer": ""}, parts)
        if found and found != "cannot tell":
            false_alarms[row["id"]] = words
        spots = [(k, match) for k, part in enumerate(parts) for match in re.finditer(r"= ?\$?(\d+)(?![\d,.%/])", part)]
        if spots:
            k, match = dice.choice(spots)
            changed = int(match[1]) + dice.choice([-10, 10, -1, 1, 2, -2, 100])
            parts[k] = parts[k][:match.start(1)] + str(abs(changed)) + parts[k][match.end(1):]
            if abs(changed) == int(match[1]):
                continue
            found = judge_equations({**row, "answer": ""}, parts).bad_step
            named, hits, wrong = named + (found not in (0, "cannot tell")), hits + (found == k), wrong + 1
    assert not false_alarms
    print(f"{wrong} changed, {named} named, precision {hits / named:.4f}")
    assert hits / named > 0.99 and hits / wrong > 0.5


@needs_shared
def test_what_is_named_anywhere_in_solutions_that_people_wrote():
    """Each was looked at and is a slip in print: 3/4 of 364 yards is not 364 / 4."""
    named = {}
    for row in map(json.loads, open(SHARED / "gsm8k_test.jsonl")):
        *lines, final = re.sub(r"<<.*?>>", "", row["solution"]).strip().split("\n")
        found, words, _ = judge_equations({**row, "answer": ""}, ["", *lines], anywhere=True)
        if found != "cannot tell":
            named[row["id"]] = words
    assert named == {"gsm8k-501": "step 3: 364 / 4 = 273 does not hold",
                     "gsm8k-1024": "step 5: 32 - 20 = 300 does not hold"}


@needs_shared
def test_what_is_named_in_answers_that_people_labelled():
    """Of the errors in 500 rows of ProcessBench. Each that people did not name was looked at: docs/judges.md."""
    for name, strict, anywhere in (("gsm8k", (2, 2), (8, 7)), ("math", (1, 1), (11, 7))):
        told = {True: [], False: []}
        for row in map(json.loads, open(SHARED / f"processbench_{name}.jsonl")):
            for mode in told:
                found = judge_equations({**row, "prompt": row["problem"]}, ["", *row["steps"]], anywhere=mode).bad_step
                told[mode] += [found == row["label"] + 1] if found != "cannot tell" else []
        assert [(len(hits), sum(hits)) for hits in (told[False], told[True])] == [strict, anywhere]


@needs_shared
def test_the_cases_that_were_called_wrong():
    for row in map(json.loads, open(SHARED.parent / "cases/equations.jsonl")):
        for anywhere in (False, True):
            found = judge_equations(row, split_steps(row["completion"]), anywhere=anywhere).bad_step
            assert found in (0, "cannot tell")


