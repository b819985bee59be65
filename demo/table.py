"""The table at the end of demo/run.sh: accuracy before and after, rows through the stages, times.

    python -m demo.table runs/demo

Reads the rows and logs that run.sh left in the folder. Besides what any run can tell it shows what only this world
knows: whether each step of an answer is right (demo/world.py, first_wrong_step), hence how good the judge was.
"""
import re
import sys
from pathlib import Path

from demo.files import load_rows
from demo.world import chosen_is_right, first_wrong_step
from stepdpo.intervals import mean_interval, paired_interval, percent

TALLY = re.compile(r"^(\w+\.py): (?:(\S+): )?(\d+) in, (\d+) kept, (\d+) dropped(?: \(([^)]*)\))?", re.M)
MEASURES = {  # what is right about an answer: how it is told
    "final answer right": lambda row: row["correct"],
    "every step right": lambda row: first_wrong_step(row["prompt"], row["completion"]) is None,
}


def accuracies(folder):
    """A line for each of MEASURES: {"name", "before", "after", "gain"}.

    before and after are (share, (low, high)), gain is "+35.0 points [+32.6, +37.3]". Intervals are of 95 %, that of the
    gain is paired by problem.
    """
    before = {row["id"]: row for row in load_rows(folder / "before.jsonl")}
    after = {row["id"]: row for row in load_rows(folder / "after.jsonl")}
    lines = []
    for name, is_right in MEASURES.items():
        old = [float(is_right(before[key])) for key in after]
        new = [float(is_right(row)) for row in after.values()]
        lines.append({"name": name, "before": (sum(old) / len(old), mean_interval(old)),
                      "after": (sum(new) / len(new), mean_interval(new)), "gain": paired_gain(old, new)})
    return lines


def paired_gain(old, new):
    """'+35.0 points [+32.6, +37.3]': the mean difference. old, new: 0.0 or 1.0 for each problem, in the same order."""
    differences = [after - before for before, after in zip(old, new)]
    low, high = paired_interval(differences)
    return f"{100 * sum(differences) / len(differences):+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def stage_lines(folder, phases):
    """One line a tally, from the logs, in the order of the phases."""
    for phase in phases:
        for stage, file, *counts, reasons in TALLY.findall((folder / f"{phase}.log").read_text(encoding="utf-8")):
            name = f"{phase}: {stage} {Path(file).stem}"
            yield f"{name:36}" + "".join(f"{int(count):8}" for count in counts) + f"   {reasons}"


def judge_lines(folder):
    """What the world knows about the judge's verdicts and the steps that were chosen."""
    located, pairs = load_rows(folder / "located.jsonl"), load_rows(folder / "pairs.jsonl")
    agree = sum(first_wrong_step(row["prompt"], row["completion"]) == row["bad_step"] for row in located)
    yield f"first wrong step as the world knows it: {agree} of {len(located)} located"
    fine = sum(chosen_is_right(pair) for pair in pairs)
    yield f"chosen step right as the world knows it: {fine} of {len(pairs)} pairs"
    end = load_rows(folder / "step-dpo" / "metrics.jsonl")[-1]
    yield f"held-out pairs in which training made the chosen step likelier against the rejected one: " \
          f"{100 * end['eval_rewards/accuracies']:.0f} %"


def table(folder):
    """The lines of the table."""
    lines = accuracies(folder)
    count = len(load_rows(folder / "after.jsonl"))
    yield f"{f'{count} test problems':20}{'before':24}{'after Step-DPO':24}difference, with 95 % intervals"
    for line in lines:
        yield f"{line['name']:20}{percent(*line['before']):24}{percent(*line['after']):24}{line['gain']}"
    yield ""
    times = [line.split("\t") for line in (folder / "times.tsv").read_text().splitlines()]
    yield f"{'rows':36}{'in':>8}{'kept':>8}{'dropped':>8}   reasons"
    yield from stage_lines(folder, [phase for phase, _ in times])
    yield ""
    yield from judge_lines(folder)
    yield ""
    yield f"{'seconds':36}{sum(int(seconds) for _, seconds in times):8}"
    yield from (f"{'  ' + phase:36}{int(seconds):8}" for phase, seconds in times)


if __name__ == "__main__":
    print("\n".join(table(Path(sys.argv[1]))))
