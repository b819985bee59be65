"""The picture at the end of demo/run.sh: accuracy before and after, and the paper's figure 2.

    python -m demo.picture runs/demo     # writes runs/demo/picture.png and prints its path
"""
import sys
from pathlib import Path

from demo.files import load_rows
from demo.table import accuracies

GREY, BLUE = "#7b8794", "#1f6fb4"
CAPTION = """\
Good: blue bars higher than grey ones, and both curves rising. Black lines are 95 % intervals.
A held-out pair is judged right if training raised the right step's log-probability more than the wrong step's. \
The margin is the difference, times β.
At step 0 nothing is trained, so the margin is 0 and no pair is judged right."""


def draw_bars(axis, folder):
    """Percent of the test problems with the final answer right and with every step right, before and after."""
    lines = accuracies(folder)
    for side, shift, color in (("before", -0.2, GREY), ("after", 0.2, BLUE)):
        label = "before training" if side == "before" else "after Step-DPO"
        for place, line in enumerate(lines):
            value, (low, high) = line[side]
            axis.bar(place + shift, 100 * value, 0.38, color=color, label=label,
                     yerr=[[100 * (value - low)], [100 * (high - value)]], capsize=4, error_kw={"linewidth": 1})
            axis.text(place + shift, 4, f"{100 * value:.1f} %", ha="center", color="white", weight="bold")
            label = None  # one entry in the legend
    names = [f"{line['name']}\n{line['gain'].split(' [')[0]}" for line in lines]
    axis.set(xticks=range(len(lines)), xticklabels=names, ylim=(0, 115), yticks=range(0, 101, 20),
             ylabel="test problems, %")
    axis.set_title(f"Right, of {len(load_rows(folder / 'after.jsonl')):,} test problems", loc="left", weight="bold")
    axis.legend(loc="upper center", ncols=2, frameon=False)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)


def draw_curve(axis, records, name, scale, label):
    """A metric of held-out pairs over the optimizer steps."""
    steps = [record["step"] for record in records]
    axis.plot(steps, [scale * record[name] for record in records], color=BLUE, marker="o", markersize=4)
    axis.set(xlabel="optimizer steps", ylabel=label)
    axis.grid(alpha=0.3)


def draw_picture(folder, path):
    from matplotlib.figure import Figure
    figure = Figure((11, 4.6), layout="constrained")
    bars, judged, margins = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    draw_bars(bars, folder)
    records = [record for record in load_rows(folder / "step-dpo" / "metrics.jsonl") if "eval_loss" in record]
    pairs = len(load_rows(folder / "pairs-held-out.jsonl"))
    draw_curve(judged, records, "eval_rewards/accuracies", 100, "held-out pairs, %")
    judged.set(ylim=(0, 103))
    judged.set_title(f"Judged right, of {pairs} held-out pairs", loc="left", weight="bold")
    draw_curve(margins, records, "eval_rewards/margins", 1, "reward margin, nats")
    margins.set_title("Their reward margin", loc="left", weight="bold")
    for axis in (bars, judged, margins):
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(CAPTION, fontsize="medium", x=0.01, ha="left", linespacing=1.4)
    figure.savefig(path, dpi=100)


def main():
    folder = Path(sys.argv[1])
    draw_picture(folder, folder / "picture.png")
    print(folder / "picture.png")


if __name__ == "__main__":
    main()
