"""The domain. Replace this file to leave mathematics.

It says what is asked for behind a problem, how an answer begins, and when an answer is right.
"""
from stepdpo.answers import extract_answer, same_answer

PREFIX = "Let's think step by step.\nStep 1:"  # what the paper's answers are asked to continue
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def is_right(row, completion):
    """Whether the final answer of a completion is the row's gold answer."""
    final = extract_answer(completion)
    return final is not None and same_answer(final, row["answer"], row["prompt"])
