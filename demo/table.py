"""The end of demo/run.sh: accuracy before and after, rows through the stages, times; and FOLDER/picture.png.

    python -m demo.table runs/demo

Reads the rows and logs that run.sh left in the folder. Besides what any run can tell it shows what only this world
knows: whether each step of an answer is right (demo/world.py, first_wrong_step), hence how good the judge was.
"""

import json
import re
import sys
from pathlib import Path

from demo.world import first_wrong_step
from evaluate import add_answer, difference_to, share_right
from stepdpo.intervals import mean_interval, percent

TALLY = re.compile(r"^(\w+\.py): (?:(\S+): )?(\d+) in, (\d+) kept, (\d+) dropped(?: \(([^)]*)\))?", re.M)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def right_throughout(row: dict) -> bool:
    return first_wrong_step(row["prompt"], row["completion"]) is None


def accuracies(before: list[dict], after: list[dict]):
    """(what is right, [(accuracy, interval) before, after], paired difference): final answer, every step."""
    for name, is_right in (("final answer right", lambda row: row["correct"]), ("every step right", right_throughout)):
        scores = []
        for rows in (before, after):
            problems = {}
            for row in rows:
                add_answer(problems, {**row, "correct": is_right(row)})
            scores.append(problems)
        cells = [(sum(rates) / len(rates), mean_interval(rates))
                 for rates in ([share_right(problem) for problem in problems.values()] for problems in scores)]
        yield name, cells, difference_to(scores[1], scores[0]).removeprefix("difference ").split(" over ")[0]


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
    yield f"{f'{len(after)} test problems':20}{'before':24}{'after Step-DPO':24}difference, with 95 % intervals"
    for name, cells, difference in accuracies(before, after):
        yield f"{name:20}" + "".join(f"{percent(*cell):24}" for cell in cells) + difference
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


def draw(folder: Path):
    """Accuracy before and after, and the paper's figure 2: held-out pairs judged right and their margin over steps."""
    from matplotlib.figure import Figure
    figure = Figure((11, 3.4), layout="constrained")
    bars, judged, margins = figure.subplots(1, 3)
    for place, (name, cells, difference) in enumerate(accuracies(read(folder / "before.jsonl"),
                                                                  read(folder / "after.jsonl"))):
        for side, (value, (low, high)), color in zip((-0.2, 0.2), cells, ("0.6", "tab:blue")):
            bars.bar(place + side, value, 0.36, color=color, yerr=[[value - low], [high - value]], capsize=4)
        bars.text(place, 1.01, f"{difference.split(' [')[0]}", ha="center")
    bars.set(xticks=[0, 1], xticklabels=["final answer", "every step"], ylim=(0, 1.1), title="right, before and after")
    records = [row for row in read(folder / "step-dpo" / "metrics.jsonl") if "eval_loss" in row]
    steps = [row["step"] for row in records]
    for axis, name, title in ((judged, "eval_rewards/accuracies", "held-out pairs judged right"),
                              (margins, "eval_rewards/margins", "held-out reward margin")):
        axis.plot(steps, [row[name] for row in records], marker="o", markersize=3)
        axis.set(title=title, xlabel="optimizer steps")
        axis.grid(alpha=0.3)
    figure.savefig(folder / "picture.png", dpi=110)


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]))))
    draw(Path(sys.argv[1]))
