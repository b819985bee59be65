"""The domain: what is asked, how an answer begins, what a gold answer is, when an answer is right.

Replace this file to leave mathematics; nothing else knows what an answer looks like. Both a gold answer and a
prediction may be any JSON value. A gold answer comes here as the row has it.
"""
from stepdpo import answers

PREFIX = "Let's think step by step.\nStep 1:"  # what the paper's answers are asked to continue
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."  # behind each problem


def check_gold(answer):
    """ValueError, with the reason, for what cannot be a gold answer."""
    if not answers.gold_text(answer).strip():
        raise ValueError("which is empty")


def extract_answer(completion, cut=False):
    """The final answer of a completion, or None where it gives none. cut: it ended by its length, not by itself."""
    return answers.extract_answer(completion, cut)


def same_answer(prediction, gold, problem=None):
    """Whether a prediction equals a gold answer, or another prediction. `problem` may say what the letters mean."""
    return answers.same_answer(prediction, answers.gold_text(gold), problem)


def is_right(row, completion, cut=False):
    """Whether the final answer of a completion is the row's gold answer."""
    prediction = extract_answer(completion, cut)
    return prediction is not None and same_answer(prediction, row["answer"], row["prompt"])
