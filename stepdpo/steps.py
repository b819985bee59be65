r"""Where a step begins, and how one is cut out of an answer. Decided here and nowhere else.

    Let's think step by step.      preamble
    Step 1: Add: 3 + 4 = 7.        step 1; its header is "Step 1:"
    **Step 2 - Double**            step 2; its header is "**Step 2 -"
    7 * 2 = 14
    The answer is: 14              the closing line belongs to the last step
"""
import re

WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
SIGNS = "一 二 三 四 五 六 七 八 九 十 十一 十二".split()
NUMBERS = {word: n for words in (WORDS, SIGNS) for n, word in enumerate(words, 1)}
SPACE = r"[^\S\n]"  # all but a line break: a no-break space too
COUNT = rf"\d{{1,6}}|(?i:{'|'.join(WORDS)})(?![^\W_])|十[一二]|[{''.join(SIGNS[:10])}]"  # "2", "two", "二"
CLOSING = r"(?:\*{1,3}|_{1,3}|`|\}|</[a-z]{1,8}\d?>)"  # "**", "}", "</b>"
LIST = rf"(?:#{{1,6}}{SPACE}*|(?:[-*•>]|\d{{1,3}}[.)]){SPACE}+)?"  # "### Step 2", "- Step 2:", "2. Step 2:"
# "**Step 2", "\textbf{Step 2", "[Step 2"
OPENING = r"(?:\*{1,3}|_{1,3}|`|\\[a-zA-Z]{1,20}\*?\{|<[a-z]{1,8}\d?>|[\[(【])?"
NAME = (r"(?P<word>(?i:step|étape|etape|schritt|paso|passo|шаг)|步骤|步驟|ステップ)"
        rf"{SPACE}*(?:#|(?i:no\.?){SPACE})?(?:[(\[]|\*\*)?(?P<count>{COUNT})(?:[)\]]|\*\*)?"
        # "Step 2", "Step two", "步骤 2", "Step **2**"
        rf"(?:{SPACE}*(?:/|of\b){SPACE}*\d{{1,6}})?"  # "Step 2/5", "Step 2 of 5"
        rf"|第{SPACE}*(?P<chinese>{COUNT}){SPACE}*步")  # "第二步"
STOP = "|".join((
    rf"{SPACE}*[:.)：．、\]】](?!\d){CLOSING}?",  # "Step 2:", "Step 2.", "Step 2:**", "Step 2]", "Step 2:}"
    rf"{CLOSING}(?:{SPACE}*[:：])?",  # "**Step 2**", "**Step 2**:", "\textbf{Step 2}"
    rf"{SPACE}*(?:[—–→|]|[-=]>|-(?={SPACE}|$))",  # "Step 2 - Double", "Step 2—Double", "Step 2 -> Double"
    rf"(?={SPACE}*$)",  # "Step 2" alone on its line
    rf"(?={SPACE}*\([^()\n]{{1,80}}\)[:：.*])"))  # "Step 2 (doubling):"
HEADER = re.compile(rf"^{SPACE}*{LIST}{OPENING}(?:{NAME})(?P<stop>{STOP})", re.M)
# "Let's think step by step. Step 1: ...": the first header may stand behind the one line before it
FIRST_HEADER = re.compile(rf"\A[^\n]*?[.:!][ \t]+((?:\*\*)?Step{SPACE}+1[:：](?:\*\*)?)")
# "Step 1: Add. Step 2: Double.": all on one line
INLINE_HEADER = re.compile(rf"(?<=[.!?;。；]){SPACE}+"
                           rf"(?P<header>(?:\*\*)?Step{SPACE}+(?P<count>\d{{1,6}})[:：](?:\*\*)?)")
# "2. Double", "**2)** Double"
NUMBERED = re.compile(r"^(?:#{1,6}[ \t]+)?(?:\*\*|__)?(?P<count>\d{1,3})[.)．、](?:\*\*|__)?(?=\s)", re.M)
FINAL = re.compile(r"answer|\\boxed|####|答案", re.I)  # a paragraph that says what the answer is
SPLITS = ("headers", "paragraphs")


def find_headers(completion):
    """(start, end) of each step header. Headers count up: a number that does not exceed the last is text.

    Numbers alone ("2. Double") and headers inside a line are taken only where all else leaves one step, and only if
    they count on from it one by one.
    """
    found, last = [], 0
    first = FIRST_HEADER.match(completion)
    if first:
        found, last = [first.span(1)], 1
    for match in HEADER.finditer(completion, found[0][1] if found else 0):
        alone = not match["stop"]
        if alone and (match["word"] or "").islower():
            continue  # prose that was broken into lines: "as we saw in\nstep 3\nof this"
        number = read_count(match["count"] or match["chinese"])
        if number > last:
            found.append(match.span())
            last = number
    if len(found) == 1:
        return found + (find_numbered(completion, found[0][1], last) or find_inline(completion, found[0][1], last))
    return found


def read_count(text):
    """The number that a header names, in digits or in words."""
    return int(text) if text.isdecimal() else NUMBERS[text.lower()]


def find_numbered(completion, begin, last):
    """Spans of "2.", "3." … behind "Step 1:"; none where a list begins with "1.", for that is a list inside a step."""
    found = []
    for match in NUMBERED.finditer(completion, begin):
        number = int(match["count"])
        if number == 1:
            return []
        if number == last + 1:
            found.append(match.span())
            last = number
    return found


def find_inline(completion, begin, last):
    """Spans of "Step 2:", "Step 3:" … that follow the end of a sentence on the same line."""
    found = []
    for match in INLINE_HEADER.finditer(completion, begin):
        if int(match["count"]) == last + 1:
            found.append(match.span("header"))
            last += 1
    return found


def find_paragraphs(text):
    """Where paragraphs begin: at the start, and after each blank line."""
    starts = [match.end() for match in re.finditer(r"(?:\A|\n[ \t]*\n)\s*", text)]
    return [start for start in starts if start < len(text)]


def find_steps(completion, split=None):
    """Where steps begin: (spans, split), a span being (start of the header, start of the step's own text).

    split: "headers", or "paragraphs" (blank lines) for an answer without headers; None decides by the text.
    """
    if split != "paragraphs":
        headers = find_headers(completion)
        if headers or split == "headers":
            return headers, "headers"
    return [(start, start) for start in find_paragraphs(completion)], "paragraphs"


def hides_steps(completion):
    """Whether an answer has one header and several paragraphs: steps, perhaps, in a spelling that is not read here.

    A paragraph that only says what the answer is does not count.
    """
    headers = find_headers(completion)
    if len(headers) != 1:
        return False
    body = completion[headers[0][1]:]
    starts = find_paragraphs(body)
    if len(starts) > 1 and FINAL.search(body[starts[-1]:]):
        del starts[-1]
    return len(starts) > 1


def split_steps(completion, split=None):
    """Parts that join back to the completion: part 0 is the preamble, part k is step k with its header.

    The preamble may be empty. The closing "The answer is" belongs to the last step.
    """
    spans, _ = find_steps(completion, split)
    cuts = [0, *(start for start, _ in spans), len(completion)]
    return [completion[a:b] for a, b in zip(cuts, cuts[1:])]


def strip_header(part):
    """A step's own text: a part of split_steps without its header."""
    header = HEADER.match(part) or NUMBERED.match(part)
    return part[header.end():] if header else part


def cut_step(text, joint, split):
    """The step that begins at `joint`, without its header and without the white space that ends it.

    Chosen and rejected both come from here, so neither carries a newline which the other lacks.
    """
    ends = [start for start, _ in find_steps(text, split)[0] if start > joint]
    return text[joint:ends[0] if ends else len(text)].rstrip()
