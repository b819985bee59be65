"""GSM8K's solutions as answers in steps: rows from stdin, with a "completion" to stdout.

    python -m demo.solutions < gsm8k_train.jsonl > sft.jsonl

    Natalia sold 48/2 = <<48/2=24>>24 clips in May.      becomes    Step 1: Natalia sold 48/2 = 24 clips in May.
"""
import json
import re
import sys

from stepdpo.task import PREFIX


def in_steps(solution, answer):
    """An answer as the policy is to give it: a step for each line, then the final answer."""
    lines = [re.sub("<<.*?>>", "", line).strip() for line in solution.strip().splitlines()]
    steps = [f"Step {number}: {line}" for number, line in enumerate(filter(None, lines), 1)]
    opening = PREFIX.removesuffix("Step 1:")
    return opening + "\n".join(steps) + f"\nThe answer is: {answer}"


if __name__ == "__main__":
    for line in sys.stdin:
        row = json.loads(line)
        print(json.dumps({**row, "completion": in_steps(row["solution"], row["answer"])}))
