"""The table at the end of demo/run.sh: accuracy before and after, rows through each stage, time of each phase.

    python -m demo.table runs/demo

Reads the rows and logs that run.sh left in the folder. Besides what any run can tell it shows what only this world
knows: whether each step of an answer is right (demo/world.py, first_wrong_step), hence how good the judge was.
"""

import json
import re
import sys
from pathlib import Path

from demo.world import first_wrong_step
from evaluate import compare, mean_interval, new_problems, percent, rate, remember

TALLY = re.compile(r"^(\w+\.py): (?:(\S+): )?(\d+) in, (\d+) kept, (\d+) dropped(?: \(([^)]*)\))?", re.M)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def right_throughout(row: dict) -> bool:
    return first_wrong_step(row["prompt"], row["completion"]) is None


def accuracy_lines(before: list[dict], after: list[dict]):
    """Final answer and every step, before and after, and the paired difference of each."""
    for name, is_right in (("final answer right", lambda row: row["correct"]), ("every step right", right_throughout)):
        scores = []
        for rows in (before, after):
            problems = new_problems()
            for row in rows:
                remember(problems, {**row, "correct": is_right(row)})
            scores.append(problems)
        cells = [percent(sum(rates) / len(rates), mean_interval(rates))
                 for rates in ([rate(problem) for problem in problems.values()] for problems in scores)]
        difference = compare(scores[1], scores[0]).removeprefix("difference ").split(" over ")[0]
        yield f"{name:20}" + "".join(f"{cell:24}" for cell in cells) + difference


def judge_lines(located: list[dict], pairs: list[dict]):
    """What the world knows about the judge's verdicts and the steps that were chosen."""
    agree = sum(first_wrong_step(row["prompt"], row["completion"]) == row["bad_step"] for row in located)
    yield f"first wrong step as the world knows it: {agree} of {len(located)} located"
    fine = sum(step_is_right(row) for row in pairs)
    yield f"chosen step right as the world knows it: {fine} of {len(pairs)} pairs"


def step_is_right(row: dict) -> bool:
    wrong = first_wrong_step(row["prompt"], row["initial_reason_steps"] + row["full_chosen"])
    return wrong is None or wrong > row["bad_step"]


def stage_lines(folder: Path, phases: list[str]):
    """One line a tally, from the logs, in the order of the phases."""
    for phase in phases:
        for stage, file, *counts, reasons in TALLY.findall((folder / f"{phase}.log").read_text(encoding="utf-8")):
            name = f"{phase}: {stage} {Path(file).stem}"
            yield f"{name:36}" + "".join(f"{int(count):8}" for count in counts) + f"   {reasons}"


def table(folder: Path):
    before, after = read(folder / "before.jsonl"), read(folder / "after.jsonl")
    located, pairs = read(folder / "located.jsonl"), read(folder / "pairs.jsonl")
    yield f"{f'{len(after)} test problems':20}{'SFT':24}{'Step-DPO':24}difference, with 95 % intervals"
    yield from accuracy_lines(before, after)
    yield ""
    times = [line.split("\t") for line in (folder / "times.tsv").read_text().splitlines()]
    yield f"{'rows':36}{'in':>8}{'kept':>8}{'dropped':>8}   reasons"
    yield from stage_lines(folder, [phase for phase, _ in times])
    yield ""
    yield from judge_lines(located, pairs)
    end = read(folder / "step-dpo" / "metrics.jsonl")[-1]
    yield f"held-out pairs in which training made the chosen step likelier against the rejected one: " \
          f"{100 * end['eval_rewards/accuracies']:.0f} %"
    yield ""
    yield f"{'seconds':36}{sum(int(seconds) for _, seconds in times):8}"
    yield from (f"{'  ' + phase:36}{int(seconds):8}" for phase, seconds in times)


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]))))
