"""Where a step begins, and how one is cut out of an answer. Decided here and nowhere else."""
import re

# "Step 2:", "**Step 2:**", "### Step 2", "Step 2." at the start of a line
HEADER = re.compile(r"^[ \t]*(?:#{1,6}[ \t]*|[-*>][ \t]+)?(?:\*\*|__)?(?:Step|STEP)[ \t]+(\d{1,6})"
                    r"(?:[ \t]*[:.)](?!\d)(?:\*\*|__)?|(?:\*\*|__):?|(?=[ \t]*$))", re.M)
# "Let's think step by step. Step 1: ...": the first header may stand behind the one line before it
FIRST_HEADER = re.compile(r"\A[^\n]*?[.:!][ \t]+((?:\*\*)?Step[ \t]+1:(?:\*\*)?)")


def find_headers(completion):
    """(start, end) of each step header. Headers count up: a number that does not exceed the last is text."""
    found, last = [], 0
    first = FIRST_HEADER.match(completion)
    if first:
        found, last = [first.span(1)], 1
    for match in HEADER.finditer(completion, found[0][1] if found else 0):
        if int(match[1]) > last:
            found.append(match.span())
            last = int(match[1])
    return found


def find_steps(completion, split=None):
    """Where steps begin: (spans, split), a span being (start of the header, start of the step's own text).

    split: "headers", or "paragraphs" (blank lines) for an answer without headers; None decides by the text.
    """
    if split != "paragraphs":
        headers = find_headers(completion)
        if headers or split == "headers":
            return headers, "headers"
    starts = [match.end() for match in re.finditer(r"(?:\A|\n[ \t]*\n)\s*", completion)]
    return [(start, start) for start in starts if start < len(completion)], "paragraphs"


def split_steps(completion, split=None):
    """Parts that join back to the completion: part 0 is the preamble, part k is step k with its header.

    The preamble may be empty. The closing "The answer is" belongs to the last step.
    """
    spans, _ = find_steps(completion, split)
    cuts = [0, *(start for start, _ in spans), len(completion)]
    return [completion[a:b] for a, b in zip(cuts, cuts[1:])]


def strip_header(part):
    """A step's own text: a part of split_steps without its header."""
    header = HEADER.match(part)
    return part[header.end():] if header else part


def cut_step(text, joint, split):
    """The step that begins at `joint`, without its header and without the white space that ends it.

    Chosen and rejected both come from here, so neither carries a newline which the other lacks.
    """
    ends = [start for start, _ in find_steps(text, split)[0] if start > joint]
    return text[joint:ends[0] if ends else len(text)].rstrip()
