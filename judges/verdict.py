"""What a judge says."""
from collections import namedtuple

# bad_step: 1.., 0 for no error, or the reason why there is no telling, as text
Verdict = namedtuple("Verdict", "bad_step words")



class Back(Exception):
    """The person wants the row before this one again."""
