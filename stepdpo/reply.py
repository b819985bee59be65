"""What comes back from a model, or instead of it."""
from collections import Counter, namedtuple

Reply = namedtuple("Reply", "text finish_reason")  # finish_reason: "stop", or "length" for an answer that was cut
SPENT = Counter()  # replies and tokens that this process has asked for, for whoever reports the cost
REFUSED, TOO_LONG, FILTERED = "refused by the server", "prompt longer than the context", "content filter"


class Refused(Exception):
    """A request that no retry will mend; the unit is dropped with this reason (and perhaps a detail)."""


class GaveUp(Exception):
    """A request that failed every try; the unit is left undone, for --resume to ask again."""


def trim(text, stop, finish_reason):
    """Cut a reply at the first stop string: one of four servers leaves it in."""
    ends = [text.index(s) for s in stop if s in text]
    return Reply(text[:min(ends)], "stop") if ends else Reply(text, finish_reason)
