r"""Is this answer right? extract_answer finds it in a completion, same_answer compares it with the gold answer.

    python -c "from stepdpo import answers; print(answers.same_answer(answers.extract_answer('so we get 1/2'), r'\frac12'))"

An answer (LaTeX or plain text) is read into a tree (spelling.py, expressions.py), and trees are compared by value
(equality.py, values.py). Nothing is ever executed. What cannot be read is compared as text. Caps on length, depth,
digits and operations bound the time.

Conventions; docs/grading.md has them with examples.
- 50% is the number 50, not 0.5. 3:2 is 3/2. "1,234" is one number, "1, 234" are two. log is the natural one.
- A unit matters only if the other answer has another one. 5 m has a unit, 5m is a product. A word that changes a
  number (7 remainder 1) is no unit.
- Lists and sets have no order; tuples and columns have one; the brackets of intervals matter.
- x = 5 and a + b = 5 say 5; x < 2 says (-oo, 2). A condition (for all n >= 1) counts only if both answers have one.
- A gold decimal may have been rounded. A longer decimal that rounds to it is right: 33.333 for 33.3. If the gold
  decimal has three digits or more, so is any other value that does: 100/3 for 33.3 and \sqrt2 for 1.41, but not 1/3
  for 0.33. A prediction is never rounded: 33.3 is not 100/3. Of ten digits or more, the last may be off.
"""
import re
from collections import namedtuple
from fractions import Fraction

from stepdpo.equality import same_tree
from stepdpo.expressions import ONE, SEQUENCES, read_answer, without_units
from stepdpo.spelling import CONTENT, MAX_CHARS, SIGNS
from stepdpo.values import LOCK, MAX_WORK

# finding the answer ---------------------------------------------------------------------------------------

SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>|<｜[^<>｜]{1,40}｜>|</?s>|<(?:start_of_turn|end_of_turn|eos|pad)>|\[/?INST\]")
BRACED = ""  # what stands between two braces, up to nine pairs inside each other; \{ is no brace
for _ in range(10):
    BRACED = rf"(?:[^{{}}\\]|\\.|\{{{BRACED}\}})*+"
BOX = re.compile(rf"""(?xs) (?: \\f?(?:rame)?box(?:ed)?(?![a-z]) | \bboxed(?=\{{) ) \s*
    (?: (?=\{{ ({BRACED}) \}}) | (-?\d[\d.,/]*|[A-J]\b) )""")  # \boxed{5} and \boxed 5, but not \boxed as a word
EMPTY_BOX = re.compile(r"(?i)\W*+(?:(?:your|the|final)[\s_]+)*(?:answer|result|solution)?\W*+")  # of an instruction
BREAK = re.compile(r"""(?ix)  # between two boxes that are no list: the later one corrects or follows from the other
    [.!?][*$)\]]*\s (?!\s*(?:[-*•]|\(?\w[.)])\s)                     # the end of a sentence, unless a bullet follows
    | => | \\(?:implies|Rightarrow|to|therefore)\b | ^[\s$]*(?:[-+*/=]|\\(?:cdot|times|approx)\b)[\s$]*$
    | \b(?: so|thus|hence|then|therefore|because|since|which|that\ is|i\.?e|means|makes?|giv\w+|equivalent\w*|simplif\w+
    | no|not|wait|but|rather|instead|actually|correct\w*|chang\w+|check\w*|step|answer|final\w*|total|sum )\b""")
STATED = re.compile(r"""(?ix) <answer> | \#\#\#\#
    | \b(?:answer|choice|(?:correct|right|best)\ option)\b                                  # the answer
      (?: [ \t]+(?:to|of|for|in)\b[^.:=\n]{0,60}? )? [\s*_]*                               # to part (b)
      (?: \b(?:is|was|equals|(?:would|should|must)\ be)\b [ \t]*:? | [:=] | \n ) [\s*_]*     # is:
      (?: \b(?:option|choice|therefore|thus|clearly|definitely|for\ sure)\b )?""")
PICKED = re.compile(r"""(?ix) \b(?: (?:answer|option|choice):? | it['’]?s | choose|pick|select|go\ with|going\ with )\s+
    (?:(?:option|choice)\s+)? (?= \(?(?-i:[A-J])\b\)?\W*$ )""")  # Option C, at the end
NAMED = re.compile(r"""(?x) \b([A-J])\)?\ is\ the\ (?:correct\ |right\ )?(?:answer|option|choice)\b
    | \b[Oo]ption\ ([A-J])\ is\ (?:correct|right)\b""")
LETTER = re.compile(r"[\s*$(\[]*([A-J])[\s*$)\]]*[,;]\s+(?:[A-J]\s+)?(?!(?:and|or)\b)[a-z]")  # D, it can't be A or B
HEADING = re.compile(r"\W*(?:\d+[.)]\s+)?[A-Z][a-z].*\n\s*\S")  # #### 2. Verification, and text below it
SENTENCE_END = re.compile(r"""(?x) \.(?=\s|$) | \n | </?answer> | ,?\ \(?(?:because|since|which|so|as|but|not)\b
    | ,\ (?:where|thus|it|for|and\ not)\b""")
VERB = re.compile(r"(?i)\b(is|are|be|equals|get|gives?(?: us)?|so|hence|thus|therefore)\b[:,]?")
FORMULA = re.compile(r"""(?xs) \$\$(.+?)\$\$ | \$((?!\ )[^$\n]+?(?<!\ )|[^$\n]*\\[a-z][^$\n]*)\$(?!\d)
    | \\\((.+?)\\\) | \\\[(.+?)\\\]
    | ( (?:(?<![\w)\]])-)? (?: (?:\d+\ ?)?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}
        | (?:\d[\d,]*(?:\.\d+)?|\.\d+) (?:(?:\ \d+)?\s?/\s?\d+|\\?%|[eE]-?\d+\b)? ) )""")
Mark = namedtuple("Mark", "place answer certain")  # where in the text an answer is given; False: it may be mere words


def extract_answer(completion: str, cut: bool = False) -> str | None:
    r"""The final answer of a completion; None if there is none.

    It is what is said last by a \boxed{}, "the answer is", #### or <answer>. Several boxes of one passage are a list.
    Words about the answer ("the answer is in the box") count only where nothing else is said. Where nothing of that
    kind is said at all, it is the last formula or number.
    cut: the completion was cut by its length. Then the last formula is a step on the way, and no answer.
    """
    text = SPECIAL.sub("\n", completion[-30_000:].rpartition("</think>")[2])
    text = NAMED.sub(r"the answer is \1\2", text)
    marks = sorted(boxed_answers(text) + stated_answers(text, cut), reverse=True)
    for mark in marks:
        if mark.certain:
            return mark.answer
    if marks:
        return marks[0].answer
    return None if cut else last_formula(text)


def boxed_answers(text):
    r"""The Mark of the last box, with the boxes of the same passage; none without a box.

    x = \boxed{2} or x = \boxed{-3}          2, -3
    \boxed{5}, no, \boxed{6}                 6
    \boxed{\frac12}, or \boxed{0.5}          0.5
    """
    boxes = []  # (start, end, content)
    for box in list(BOX.finditer(text))[-12:]:
        content = tidy(box[1] or box[2] or "")
        if content and not EMPTY_BOX.fullmatch(content):
            boxes.append((box.start(), box.end() if box[2] else box.end(1) + 1, content))
    if not boxes:
        return []
    place, _, content = boxes.pop()
    answers, trees, first, work = [content], [read_answer(content)], place, [MAX_WORK]
    for start, end, content in reversed(boxes):
        if start < first < end:
            continue  # the other box is in this one
        joint = text[end:first]
        if len(joint) > 80 or BREAK.search(joint):
            break
        first, tree = start, read_answer(content)
        labelled = re.search(r"[a-z]\w* ?=[\s$]*$", joint)  # x = 3 and y = 3 are two
        with LOCK:
            restated = not labelled and any(same_tree(tree, other, work) for other in trees)
        if not restated:
            answers.insert(0, content)
            trees.append(tree)
    return [Mark(place, ", ".join(answers), True)]


def stated_answers(text, cut):
    """The Marks of what follows "the answer is", #### and the like."""
    marks = []
    for phrase in [*STATED.finditer(text)][-6:] + ([] if cut else [*PICKED.finditer(text)]):
        rest = text[phrase.end():phrase.end() + 3000].lstrip(" \t\n:*_")
        if phrase[0] == "####" and HEADING.match(rest):
            continue
        end = SENTENCE_END.search(rest + "\n").start()
        letter = LETTER.match(rest)
        answer = letter[1] if letter else tidy(rest[:end])
        if not answer:
            continue
        long = len(re.findall(r"(?<![\\a-zA-Z])[A-Za-z]{2,}", answer)) > 4
        if long and not cut:
            answer = last_formula(answer) or answer
        unfinished = cut and end == len(rest)  # of two, the whole one counts
        marks.append(Mark(phrase.start(), answer, not long and not unfinished and is_answer(answer)))
    return marks


def is_answer(text):
    """Whether a text is a number, formula, choice or name, and not words about the answer: reasonable, in the box."""
    if choice(text) or re.fullmatch("[A-Z][a-z]+", text):
        return True
    first_word = re.match(r"[^\w\\]*([a-z]{2,})\b", text)
    if first_word and first_word[1] not in SIGNS:
        return False
    words = re.search(r"(?<![\\\w])[A-Za-z]{2,} [A-Za-z]{2,}", text)
    number_with_unit = re.fullmatch(r"[^\w\\]*[\d.,/]*\d ?[a-zA-Z\d ²³/]*\W*", text)  # 48 square units
    return (number_with_unit or not words) and read_answer(text)[0] != "text"


def last_formula(text):
    """What the last line says that something is, if that can be read; else the last formula or number."""
    line = text.strip().rpartition("\n")[2][-300:]
    if choice(line):
        return tidy(line)
    verb, said = VERB.split(" so " + line)[-2:]
    tree = read_answer(said)
    if tree[0] in SEQUENCES:  # the roots are 3 and 5; hence x = 3 or x = 5
        words = {*re.findall(r"(?<!\\)\b[A-Za-z]{2,}", said)} - {"and", "or", "text"}
        values = all(item[0] == "rel" and item[1][0] == "name" for item in tree[1:])
        if not words and (values or verb.lower() not in ("so", "hence", "thus", "therefore")):
            return tidy(said)
    elif verb in ("is", "are", "be", "equals", "get"):
        if choice(said) or (tree[0] != "text" and not re.search("[A-Za-z]{2,} [A-Za-z]{2,}", said)):
            return tidy(said)
    found = [*FORMULA.finditer(text[-3000:])]
    return tidy(re.split(r"(?<![<>!\\])=", next(filter(None, found[-1].groups())))[-1]) if found else None


def tidy(text):
    """An answer without what surrounds it, dollar signs too. None if nothing is left."""
    text = CONTENT.match(text)[1]
    text = text[1:-1] if text.count("$") == 2 and text[0] == text[-1] == "$" else text
    return text if re.search(r"[^\W_]|[∞∅√]", re.sub(r"\\f?box(ed)?\b", "", text)) else None


# comparing it with the gold answer ------------------------------------------------------------------------

CHOICE = re.compile(r"""(?xis) (?: \(([a-j])\) | ([a-j])\) | (?-i:([A-Ja-d])(?:[.:]|$)) )  # (C) 12, C) 12, C. 12, C
    (?! \s*(?:and\b|or\b|[,&]) ) \s*(.*)""")


def same_answer(prediction: str, gold: str, problem: str | None = None) -> bool:
    """Whether a prediction equals the gold answer.

    problem: the options that it lists let the value of an option stand for its letter.
    """
    prediction, gold = (SPECIAL.sub("", text).strip(" \n") for text in (prediction, gold))
    if not prediction or max(len(prediction), len(gold)) > MAX_CHARS:
        return bool(prediction) and prediction == gold
    ours, theirs = choice(prediction), choice(gold)
    if ours and theirs:
        return ours[0] == theirs[0] and (not ours[1] or not theirs[1] or same_answer(ours[1], theirs[1]))
    if theirs:
        options = listed_options(problem or "")
        text = theirs[1] or options.pop(theirs[0], None)
        if text:
            return same_answer(prediction, text) and not any(same_answer(prediction, x) for x in options.values())
    if ours and ours[1]:
        return same_answer(ours[1], gold)
    tree, gold_tree = read_sentence(prediction), read_sentence(gold)
    with LOCK:
        return same_tree(tree, gold_tree, [MAX_WORK])


def listed_options(problem):
    """{"A": "12", "B": "15"} of the options that a problem ends with; they follow "Options:" or the first A)."""
    tail = re.split(r"(?i)(?:options|choices)\s*:|(?=\(?\bA\s*[).:])", problem[-2000:], maxsplit=1)[-1]
    parts = re.split(r"\(?\b([A-J])\s*(?:\)|[.:](?!\d))", tail)[:21]
    return dict(zip(parts[1::2], parts[2::2]))


def choice(text):
    """("C", "12") for (C) 12, C) 12, C. 12; ("C", "") for C; None where no letter of a multiple choice leads."""
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|boxed)\s*\{([^{}]*)\}", r"\1", text).strip("$ .*{}\n")
    match = CHOICE.fullmatch(re.sub(r"(?i)^(?:option|choice|answer)\b\s*:?\s*", "", text))
    return match and ((match[1] or match[2] or match[3]).upper(), match[4].strip())


def read_sentence(text):
    """The tree of an answer, also of "the largest n is 34"."""
    tree = read_answer(text)
    said = re.split(r"\b(?:is|are|equals)\b", text)
    last = read_answer(said[-1]) if tree[0] == "text" and len(said) > 1 else tree
    return tree if last[0] == "text" else last


def read_number(text: str) -> Fraction | None:
    """The exact value of one plain number (decimal, fraction, mixed, with currency, % or unit), else None."""
    node = without_units(read_answer(text if ":" not in text else ""))  # 3:2 is a ratio or a time
    sign, node = (-1, node[1]) if node[0] == "neg" else (1, node)
    top, bottom = node[1:] if node[0] == "/" else (node, ONE)
    return sign * top[1] / bottom[1] if top[0] == bottom[0] == "num" and bottom[1] else None


def gold_text(answer) -> str:
    """The text of a gold answer: a string, a number, or a list of one of them ([5] and ["5"] are "5").

    ValueError, with the reason, for another JSON value.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise ValueError("neither a string nor a number nor a list of one")
    return str(answer)
