"""What a judge says."""
from collections import namedtuple

# bad_step: the first wrong step, from 1; 0 for no error; or the reason why there is no telling, as text.
# words: why, as any JSON value; it is kept in the row.
# scores: for judges that have them, a number from 0 to 1 for each step (None for one that was not looked at).
Verdict = namedtuple("Verdict", "bad_step words scores", defaults=[None])


class Back(Exception):
    """The person wants the row before this one again."""
