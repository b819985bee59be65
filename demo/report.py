"""What demo/reproduce.py found, as Markdown and a figure. Run it with: python -m demo.reproduce --report"""
import sys

from demo.cells import best, cell, grid, system_cell, variant_cell
from demo.files import load_rows
from demo.lab import Missing
from demo.scales import chosen_scale, scale_scores
from demo.studies import MAIN, METRICS, SYSTEMS, WORLDS
from demo.world import chosen_is_right, first_wrong_step
from stepdpo.intervals import paired_interval


def tried(make, *args):
    """What make(*args) returns, or None while it is not made."""
    try:
        return make(*args)
    except Missing:
        return None


def finished(lab, make, *args):
    """The cells of a system's or variant's training runs that are made."""
    results = [tried(make, lab, *args, run) for run in range(lab.study.runs)]
    return [result for result in results if result]


def outcome_means(cells, metric):
    """Each problem's mean over the training runs, a list of shares."""
    return [sum(int(bit) for bit in bits) / len(cells) for bits in zip(*(result[metric] for result in cells))]


def mean_percent(cells, metric):
    shares = outcome_means(cells, metric)
    return f"{100 * sum(shares) / len(shares):.1f}"


def paired(ours, theirs, metric):
    """'+1.5 [0.8, 2.2]': the mean difference of two systems' cells in points, with its interval over problems."""
    differences = [a - b for a, b in zip(outcome_means(ours, metric), outcome_means(theirs, metric))]
    low, high = paired_interval(differences)
    return f"{100 * sum(differences) / len(differences):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def table_row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table_head(*cells):
    return [table_row(*cells), "|" + "---|" * len(cells)]


def percent_of(part, whole):
    return f"{100 * part / max(whole, 1):.1f} %"


def seed_groups(lab):
    """[[0], [1], [0, 1]] of two SFT seeds: each of them, then all together."""
    seeds = [*range(lab.study.seeds)]
    return [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else [])


def cells_of(lab, world, seeds, system):
    """The cells of a system's training runs on some SFT seeds; none unless each seed has equally many."""
    found = [finished(lab, system_cell, world, seed, system) for seed in seeds]
    return sum(found, []) if len({*map(len, found)}) == 1 else []


def main_table(lab, world):
    """Table 3: every system on every SFT seed, then on all of them together, and what MAIN gains over each."""
    lines = []
    for some in seed_groups(lab):
        base = [tried(cell, lab, world, seed) for seed in some]
        if not all(base):
            continue
        ours = cells_of(lab, world, some, MAIN)
        if len(some) > 1:
            lines.append(f"\n*SFT seeds {', '.join(map(str, some))} together*\n")
        else:
            lines.append(f"\n*SFT seed {some[0]}" + (f", {ours[0]['pairs']} pairs*\n" if ours else "*\n"))
        lines += table_head("", "runs", "final answer, greedy", "over SFT", f"{MAIN} over it", "all steps, greedy",
                            "over SFT", *(["final answer, T=1"] if lab.study.sampled else []))
        lines.append(system_row("SFT", base, [], ours))
        for system in lab.study.systems:
            cells = cells_of(lab, world, some, system)
            if cells:
                lines.append(system_row(system, cells, base, [] if system == MAIN else ours))
    return lines


def system_row(name, cells, base, ours):
    """A line of main_table. base: the cells of SFT, or []; ours: those of MAIN, or []."""
    final, steps, _ = METRICS
    means = [mean_percent(cells, metric) for metric in METRICS if metric in cells[0]]
    gains = {metric: paired(cells, base, metric) if base else "" for metric in (final, steps)}
    lead = paired(ours, cells, final) if ours else ""
    return table_row(name, len(cells), means[0], gains[final], lead, means[1], gains[steps], *means[2:])


LADDER = {  # what is gained by one thing alone: (with it, without it)
    "localisation: the prefix is shared": ("DPO, shared prefix", "DPO, answers apart"),
    "verified steps, DPO": ("DPO, shared prefix, verified", "DPO, shared prefix"),
    "verified steps, Step-DPO": ("Step-DPO, verified", "Step-DPO"),
    "the step-level objective": ("Step-DPO", "DPO, shared prefix"),
    "the step-level objective, verified": ("Step-DPO, verified", "DPO, shared prefix, verified"),
    "all of these": ("Step-DPO, verified", "DPO, answers apart"),
}


def ladder_table(lab):
    """Where a win comes from: verified steps as labels, or the objective."""
    lines = table_head("world", "SFT seeds", "what", "final answer, greedy", "all steps, greedy")
    for world in WORLDS:
        for some in seed_groups(lab):
            name = ", ".join(map(str, some))
            for what, (with_it, without) in LADDER.items():
                ours, theirs = (cells_of(lab, world, some, system) for system in (with_it, without))
                if ours and theirs:
                    lines.append(table_row(world, name, what, *(paired(ours, theirs, end) for end in METRICS[:2])))
    return lines


def scale_table(lab):
    """Stories that a pretrained model learned from; the scale that the study is made on in bold."""
    lines = table_head("steps", "values", f"final answer right, of {lab.study.scale_problems} validation problems, "
                       "number world, SFT seed 0")
    scores = tried(scale_scores, lab) if lab.study.scales else None
    for number, score in enumerate(scores or []):
        (fewest, most), (least, greatest) = lab.study.scales[number]["steps"], lab.study.scales[number]["values"]
        text = f"{100 * score:.1f} %"
        lines.append(table_row(f"{fewest} to {most}", f"{least} to {greatest}",
                               f"**{text}**" if number == chosen_scale(lab) else text))
    return lines


def data_table(lab):
    """What the rows are made of, as the world knows it."""
    lines = table_head("world", "SFT seed", "answers wrong at T=1", "right answers with a wrong step",
                       "wrong ones located", "first wrong step as the world knows it", "pairs", "chosen steps right",
                       "verified pairs", "their chosen steps right")
    for world in WORLDS:
        for seed in range(lab.study.seeds):
            folder = tried(lab.enough_pairs, world, seed)
            if folder:
                lines.append(table_row(world, seed, *data_cells(folder)))
    return lines


def data_cells(folder):
    """The cells of a line of data_table. folder: of Lab.gather_pairs."""
    answers, wrong = load_rows(folder.parent / "answers.jsonl"), load_rows(folder.parent / "wrong.jsonl")
    located = load_rows(folder / "located.jsonl")
    right = [row for row in answers if row["correct"]]
    slipped = [row for row in right if first_wrong_step(row["prompt"], row["completion"]) is not None]
    found = [row for row in located if first_wrong_step(row["prompt"], row["completion"]) == row["bad_step"]]
    cells = [percent_of(len(answers) - len(right), len(answers)), percent_of(len(slipped), len(right)),
             f"{len(located)} of {len(wrong)}", percent_of(len(found), len(located))]
    for name in ("pairs", "verified"):
        if (folder / f"{name}.jsonl").exists():
            pairs = load_rows(folder / f"{name}.jsonl")
            cells += [len(pairs), percent_of(sum(chosen_is_right(pair) for pair in pairs), len(pairs))]
        else:  # no system of this study wants them
            cells += ["", ""]
    return cells


def grid_table(lab, world):
    """Final answer / all steps on validation problems at each rate and β that was tried; the chosen in bold."""
    study = lab.study
    adapted = [f"{MAIN}, {name}" for name in study.variants if f"{MAIN}, {name}" in SYSTEMS]
    columns = max(len(study.grid), len(study.lora_grid) if adapted else 0)
    lines = table_head("", *range(1, columns + 1))
    for system in [*study.systems, *adapted]:
        found = tried(grid, lab, world, system)
        if found:
            cells = []
            for (lr, beta), final, steps in found:
                text = f"{lr:g}, β {beta:g}: {100 * final:.1f} / {100 * steps:.1f}"
                cells.append(f"**{text}**" if (lr, beta) == best(lab, world, system) else text)
            lines.append(table_row(system, *cells, *[""] * (columns - len(cells))))
    return lines


OTHER_STEPS = ("Step-DPO, other wording", "Step-DPO, true steps")  # chosen steps that are not the policy's own


def wording_table(lab):
    """Table 4: chosen steps of the policy's own against the generator's."""
    lines = table_head("world", "SFT seed", "other steps", "log πref of the policy's own step", "of the other step",
                       "of the rejected step", f"{MAIN} over the other")
    for world in WORLDS:
        for seed in range(lab.study.seeds):
            own = finished(lab, system_cell, world, seed, MAIN)
            for system in OTHER_STEPS:
                other = finished(lab, system_cell, world, seed, system) if system in lab.study.systems else []
                if own and other:
                    first, first_other = own[0]["metrics"][0], other[0]["metrics"][0]  # before the first step
                    logps = [first["eval_logps/chosen"], first_other["eval_logps/chosen"], first["eval_logps/rejected"]]
                    lines.append(table_row(world, seed, system, *(f"{value:.2f}" for value in logps),
                                           paired(own, other, METRICS[0])))
    return lines


def variant_table(lab, world):
    """One thing changed at a time; --shuffle prefixes is compared with the same rows in the usual order."""
    lines = table_head(f"{MAIN}, SFT seed 0", "runs", "pairs", "tokens computed of all", "final answer, greedy",
                       "all steps, greedy", "over", "final answer", "all steps")
    found = {name: finished(lab, variant_cell, world, name) for name in lab.study.variants}
    for name, cells in found.items():
        if not cells:
            continue
        means = [mean_percent(cells, metric) for metric in METRICS[:2]]
        other = "4 pairs a prefix" if name.startswith("--shuffle") else "as it is"
        gains = ["", "", ""]
        if name != other and found[other]:
            gains = [other, *(paired(cells, found[other], metric) for metric in METRICS[:2])]
        lines.append(table_row(name, len(cells), cells[0]["pairs"], computed_share(cells[0]), *means, *gains))
    return lines


def computed_share(result):
    """Share of a training's tokens that were computed, since prefixes are shared; '' of a cell without training."""
    for record in reversed(result.get("metrics", [])):
        if "num_tokens" in record:
            return percent_of(record["computed_tokens"], record["num_tokens"])
    return ""


def time_table(lab):
    """Where the time went: what a stage was run for, over all processes."""
    lines = table_head("", "runs", "minutes", "CPU-minutes", "of all CPU-minutes")
    times = lab.times()
    total = sum(cpu for runs in times.values() for _, cpu in runs)
    for what, runs in sorted(times.items(), key=lambda item: -sum(cpu for _, cpu in item[1])):
        seconds, cpu = (sum(column) for column in zip(*runs))
        lines.append(table_row(what, len(runs), f"{seconds / 60:.1f}", f"{cpu / 60:.1f}", percent_of(cpu, total)))
    return [*lines, "", f"{total / 3600:.1f} CPU-hours."]


def draw_figure2(lab, path):
    """Figure 2: held-out preference accuracy and margin over steps, a line an SFT seed."""
    from matplotlib.figure import Figure
    figure = Figure((9, 6.4), layout="constrained")
    axes = figure.subplots(2, len(WORLDS), sharex=True)
    compared = ("DPO, answers apart", "DPO, shared prefix, verified", MAIN)
    for world, (judged, margins) in zip(WORLDS, axes.T):
        for color, system in enumerate(compared):
            label = system
            for seed in range(lab.study.seeds):
                result = tried(system_cell, lab, world, seed, system, 0)
                if result:
                    curve = [record for record in result["metrics"] if "eval_loss" in record]
                    steps = [record["step"] for record in curve]
                    judged.plot(steps, [100 * record["eval_rewards/accuracies"] for record in curve], f"C{color}",
                                label=label)
                    margins.plot(steps, [record["eval_rewards/margins"] for record in curve], f"C{color}")
                    label = None  # one entry in the legend a system
        judged.set(title=f"{world} world", ylabel="held-out pairs judged right, %")
        margins.set(xlabel="optimizer steps", ylabel="reward margin of held-out pairs, nats")
        judged.grid(alpha=0.3)
        margins.grid(alpha=0.3)
    for judged in [axis for axis in axes[0] if axis.lines][:1]:
        judged.legend()
    figure.supxlabel("Higher is better in each panel. A line is one SFT seed.", fontsize="medium")
    figure.savefig(path, dpi=120)


def describe(study):
    """The first line of the report."""
    text = f"{study.test:,} test problems"
    if study.sampled:
        text += f" (T=1: the first {study.sampled:,})"
    text += (f", up to {study.pairs} pairs, {study.epochs} epochs in batches of {study.batch_size}; 95 % intervals "
             "paired by problem.")
    if study.model:
        text += (f" Policies: {study.model} after SFT on {2 * len(study.scales) * study.solutions:,} true solutions, "
                 "to stories of all scales.")
    return text


def write_report(lab):
    study = lab.study
    sections = {"How hard the stories are": scale_table(lab), "Rows": data_table(lab)}
    for world in WORLDS:
        sections[f"{world.title()} world (table 3)"] = main_table(lab, world)
    sections["Labels and objective"] = ladder_table(lab)
    sections["Chosen steps of others (table 4)"] = wording_table(lab)
    for world in WORLDS:
        sections[f"Variants, {world} world"] = variant_table(lab, world)
    for world in WORLDS:
        title = f"Validation, {world} world: final answer / all steps, greedy, by rate and β, SFT seed 0"
        sections[title] = grid_table(lab, world)
    sections["Where the time went"] = time_table(lab)
    lines = [describe(study)]
    for title, table in sections.items():
        if len(table) > 2:  # more than its head
            lines += ["", f"### {title}", "", *table]
    (lab.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw_figure2(lab, lab.out / "figure2.png")
    print(*lines, sep="\n")
    print(f"\n{lab.out / 'report.md'}, {lab.out / 'figure2.png'}", file=sys.stderr)
