"""What demo/reproduce.py found, as Markdown and a figure. Run it with: python -m demo.reproduce --report"""
import math

import numpy as np

from demo.reproduce import BATCH, EPOCHS, GRID, MAIN, METRICS, PAIRS, SAMPLED, SYSTEMS, WORLDS, Missing, read
from demo.world import first_wrong_step


def tried(make, *args, **how):
    """A cell's result, or None while it is not made."""
    try:
        return make(*args, **how)
    except Missing:
        return None


def scores(cells, metric):
    """Each problem's mean over the training runs, (problems,)."""
    return np.mean([[int(bit) for bit in cell[metric]] for cell in cells], axis=0)


def paired(ours, theirs):
    """'+1.5 [0.8, 2.2]': the mean difference over problems in points, with its 95 % interval."""
    difference = 100 * (ours - theirs)
    half = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
    return f"{difference.mean():+.1f} [{difference.mean() - half:+.1f}, {difference.mean() + half:+.1f}]"


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*cells):
    return [row(*cells), "|" + "---|" * len(cells)]


def finished(runs, make, *args):
    """The cells of a system's or variant's training runs that are made."""
    return [cell for run in range(runs) if (cell := tried(make, *args, run))]


def main_table(lab, world, seeds, runs):
    """Table 3: every system on every SFT seed, and what MAIN gains over each."""
    for seed in range(seeds):
        base = tried(lab.cell, world, seed)
        if not base:
            continue
        ours = finished(runs, lab.system, world, seed, MAIN)
        yield f"\n*SFT seed {seed}" + (f", {ours[0]['pairs']} pairs*\n" if ours else "*\n")
        yield from header("", "runs", "final answer, greedy", "over SFT", f"{MAIN} over it", "all steps, greedy",
                          "over SFT", "final answer, T=1")
        for system in (None, *SYSTEMS):
            cells = [base] if system is None else finished(runs, lab.system, world, seed, system)
            if not cells:
                continue
            means = [f"{100 * scores(cells, metric).mean():.1f}" for metric in METRICS]
            gain = ["" if system is None else paired(scores(cells, metric), scores([base], metric))
                    for metric in METRICS]
            lead = "" if system == MAIN or not ours else paired(scores(ours, METRICS[0]), scores(cells, METRICS[0]))
            yield row(system or "SFT", len(cells), means[0], gain[0], lead, means[1], gain[1], means[2])


LADDER = {  # what is gained by one thing alone: (with it, without it)
    "localisation: the prefix is shared": ("DPO, shared prefix", "DPO, answers apart"),
    "verified steps, DPO": ("DPO, shared prefix, verified", "DPO, shared prefix"),
    "verified steps, Step-DPO": ("Step-DPO, verified", "Step-DPO"),
    "the step-level objective": ("Step-DPO", "DPO, shared prefix"),
    "the step-level objective, verified": ("Step-DPO, verified", "DPO, shared prefix, verified"),
    "all of these": ("Step-DPO, verified", "DPO, answers apart"),
}


def ladder_table(lab, seeds, runs):
    """Where a win comes from: verified steps as labels, or the objective."""
    yield from header("world", "SFT seed", "what", "final answer, greedy", "all steps, greedy")
    for world in WORLDS:
        for seed in range(seeds):
            for what, names in LADDER.items():
                ours, theirs = (finished(runs, lab.system, world, seed, name) for name in names)
                if ours and theirs:
                    yield row(world, seed, what, *(paired(scores(ours, metric), scores(theirs, metric))
                                                   for metric in METRICS[:2]))


def data_table(lab, seeds):
    """What the rows are made of, as the world knows it."""
    yield from header("world", "SFT seed", "answers wrong at T=1", "right answers with a wrong step",
                      "wrong ones located",
                      "first wrong step as the world knows it", "pairs", "chosen steps right", "verified pairs",
                      "their chosen steps right")
    for world in WORLDS:
        for seed in range(seeds):
            folder = tried(lab.gather_enough, world, seed)
            if folder:
                answers, located = read(folder.parent / "answers.jsonl"), read(folder / "located.jsonl")
                right = [r for r in answers if r["correct"]]
                wrong = len(read(folder.parent / "wrong.jsonl"))
                pairs, verified = (read(folder / f"{name}.jsonl") for name in ("pairs", "verified"))
                found = sum(first_wrong_step(r["prompt"], r["completion"]) == r["bad_step"] for r in located)
                slipped = sum(first_wrong_step(r["prompt"], r["completion"]) is not None for r in right)
                yield row(world, seed, percent(len(answers) - len(right), len(answers)), percent(slipped, len(right)),
                          f"{len(located)} of {wrong}", percent(found, len(located)),
                          *(cell for rows in (pairs, verified)
                            for cell in (len(rows), percent(sum(map(chosen_is_right, rows)), len(rows)))))


def chosen_is_right(pair):
    wrong = first_wrong_step(pair["prompt"], pair["initial_reason_steps"] + pair["full_chosen"])
    return wrong is None or wrong > pair["bad_step"]


def percent(part, whole):
    return f"{100 * part / max(whole, 1):.1f} %"


def grid_table(lab, world):
    """Final answer / all steps on validation problems; the chosen rate and β in bold."""
    yield from header("", *(f"{lr:g}, β {beta:g}" for lr, beta in GRID))
    for system in SYSTEMS:
        found = tried(lab.grid, world, system)
        if found:
            cells = [f"{100 * final:.1f} / {100 * steps:.1f}" for _, final, steps in found]
            yield row(system, *(f"**{cell}**" if setting == lab.best(world, system) else cell
                                for (setting, *_), cell in zip(found, cells)))


def wording_table(lab, seeds, runs):
    """Table 4: chosen steps of the policy's own against the generator's in other words."""
    yield from header("world", "SFT seed", "log πref of the policy's own step", "of the other wording", "log πref of "
                      "the rejected step", "Step-DPO, verified over other wording")
    for world in WORLDS:
        for seed in range(seeds):
            own, other = (finished(runs, lab.system, world, seed, name) for name in (MAIN, "Step-DPO, other wording"))
            if own and other:
                logps = [cell["metrics"][0][f"eval_logps/{side}"] for cell, side in (
                    (own[0], "chosen"), (other[0], "chosen"), (own[0], "rejected"))]
                yield row(world, seed, *(f"{value:.2f}" for value in logps),
                          paired(scores(own, METRICS[0]), scores(other, METRICS[0])))


def variant_table(lab, world, variants, runs):
    """One thing changed at a time; --shuffle prefixes is compared with the same rows in the usual order."""
    yield from header(f"{MAIN}, SFT seed 0", "runs", "pairs", "tokens computed of all", "final answer, greedy",
                      "all steps, greedy", "over", "final answer", "all steps")
    found = {name: cells for name in variants if (cells := finished(runs, lab.variant, world, name))}
    for name, cells in found.items():
        other = "4 pairs a prefix" if name.startswith("--shuffle") else "as it is"
        gains = ["", "", ""] if name == "as it is" else [other, *(
            paired(scores(cells, metric), scores(found[other], metric)) for metric in METRICS[:2])]
        shares = [percent(record["computed_tokens"], record["num_tokens"])
                  for record in cells[0].get("metrics", ()) if "num_tokens" in record]
        yield row(name, len(cells), cells[0]["pairs"], *(shares[-1:] or [""]), *(
            f"{100 * scores(cells, metric).mean():.1f}" for metric in METRICS[:2]), *gains)


def draw(lab, path, seeds):
    """Figure 2: held-out preference accuracy and margin over steps, a line an SFT seed."""
    from matplotlib.figure import Figure
    figure = Figure((9, 6.4), layout="constrained")
    axes = figure.subplots(2, len(WORLDS), sharex=True)
    for world, column in zip(WORLDS, axes.T):
        for number, system in enumerate(("DPO, answers apart", "DPO, shared prefix, verified", MAIN)):
            curves = [[record for record in cell["metrics"] if "eval_loss" in record]
                      for cell in (tried(lab.system, world, seed, system, 0) for seed in range(seeds)) if cell]
            for axis, name in zip(column, ("eval_rewards/accuracies", "eval_rewards/margins")):
                for nth, curve in enumerate(curves):
                    axis.plot([record["step"] for record in curve], [record[name] for record in curve], f"C{number}",
                              label=None if nth else system)
                axis.grid(alpha=0.3)
        column[0].set_title(f"{world} world")
        column[1].set_xlabel("optimizer steps")
    axes[0, 0].set_ylabel("held-out pairs judged right")
    axes[1, 0].set_ylabel("held-out reward margin")
    axes[0, 0].legend()
    figure.savefig(path, dpi=120)


def report(lab, seeds, runs, variants):
    lines = [f"{lab.sizes['test']:,} test problems (T=1: the first {SAMPLED:,}), up to {PAIRS} pairs, {EPOCHS} epochs "
             f"in batches of {BATCH}; 95 % intervals paired by problem.", "", "### Rows", "", *data_table(lab, seeds)]
    for world in WORLDS:
        lines += ["", f"### {world.title()} world (table 3)", *main_table(lab, world, seeds, runs)]
    lines += ["", "### Labels and objective", "", *ladder_table(lab, seeds, runs)]
    lines += ["", "### Chosen steps in other words (table 4)", "", *wording_table(lab, seeds, runs)]
    for world in WORLDS:
        lines += ["", f"### Variants, {world} world", "", *variant_table(lab, world, variants, runs)]
    for world in WORLDS:
        lines += ["", f"### Validation, {world} world: final answer / all steps, greedy, by rate and β, SFT seed 0", "",
                  *grid_table(lab, world)]
    spent = sum(int(mark.read_text()) for mark in lab.out.rglob("*.made"))
    lines += ["", f"{spent / 3600:.1f} CPU-hours."]
    (lab.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(lab, lab.out / "figure2.png", seeds)
    print(*lines, sep="\n")
