"""Table 3, figure 2 and table 4 of the paper on the demo's two worlds; studies.py says what is compared.

    bash demo/reproduce.sh [--quick]           # makes an environment, then runs this file
    bash demo/reproduce.sh --model FOLDER      # the same of a pretrained model, whose slips are its own
    python -m demo.reproduce --report          # tables and figure of what is there so far

out: OUT/report.md and OUT/figure2.png; lab.py and cells.py say what else is in OUT

Every system gets its learning rate and β by greedy answers to validation problems, on the first SFT seed; all have the
same problems, number of pairs and epochs. Test problems are looked at by cells.outcomes alone.
"""
import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from demo.cells import cell, system_cell, variant_cell
from demo.lab import Busy, Lab, TooFew
from demo.report import write_report
from demo.studies import FULL, PRETRAINED, PRETRAINED_QUICK, QUICK, WORLDS
from stepdpo.command import UserError, run_main

ROOT = Path(__file__).resolve().parents[1]


def plan(lab):
    """The cells in order of worth, as functions without arguments."""
    study, cells = lab.study, []
    for run in range(study.runs):
        for seed in range(study.seeds):
            for world in WORLDS:
                if run == 0:
                    cells.append(partial(cell, lab, world, seed))
                for system in study.systems:
                    cells.append(partial(system_cell, lab, world, seed, system, run))
    for run in range(study.runs):
        for name in study.variants:
            for world in WORLDS:
                cells.append(partial(variant_cell, lab, world, name, run))
    return cells


def make_all(lab, cells, jobs=1):
    """Make all cells; what another process is making is come back to."""
    took, begin = [], time.monotonic()  # seconds of each cell that was not there before
    while cells:
        busy = []
        for number, make in enumerate(cells):
            before, start = lab.spent, time.monotonic()
            try:
                make()
            except Busy:
                busy.append(make)
                continue
            except TooFew as error:
                print(f"reproduce: {error}", file=sys.stderr)
            if lab.spent > before:
                took.append(time.monotonic() - start)
            say_how_far(len(cells) - number - 1 + len(busy), time.monotonic() - begin, took, jobs)
        if len(busy) == len(cells):
            time.sleep(5)
        cells = busy


def say_how_far(left, elapsed, took, jobs):
    """One line on stderr: cells left, time so far, and time left if cells go on to take what they took."""
    line = f"reproduce: {left} cells left, {as_clock(elapsed)} so far"
    if took:
        line += f", about {as_clock(left * sum(took) / len(took) / jobs)} left"
    print(line, file=sys.stderr)


def as_clock(seconds):
    """'1:02:03', hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def name_changes(out):
    """Say which code has changed since the first run into `out`: what is made there is kept all the same."""
    files = [path for folder in (".", "judges", "stepdpo") for path in sorted((ROOT / folder).glob("*.py"))]
    now = {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
           for path in [*files, ROOT / "demo/world.py", ROOT / "demo/kinds.py"]}
    file = out / "code.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now))
    then = json.loads(file.read_text())
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        print(f"reproduce: {', '.join(changed)} changed since {out} was begun; what is made there is kept as it is: "
              "another --out makes all anew", file=sys.stderr)


def keep_to_study(out, study):
    """UserError if `out` was begun with other numbers, which its files would go on with."""
    file, now = out / "study.json", json.loads(json.dumps(asdict(study)))
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now))
    then = json.loads(file.read_text())
    other = [name for name in now if then.get(name) != now[name]]
    if other:
        raise UserError(f"{out}: was begun with other settings ({', '.join(other)}); name another --out", 2)


def find_study(model, quick):
    """(Study, name of its folder) for the flags."""
    if model is None:
        return (QUICK, "reproduce-quick") if quick else (FULL, "reproduce")
    study, name = (PRETRAINED_QUICK, "-quick") if quick else (PRETRAINED, "")
    folder = Path(model).resolve()
    return replace(study, model=str(folder)), f"reproduce-{folder.name}{name}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="a pretrained model to start from (default: random weights, "
                        "and slips that are planted)")
    parser.add_argument("--out", type=Path, help="folder of all that is made (default: runs/reproduce[-MODEL][-quick])")
    parser.add_argument("--quick", action="store_true", help="one training seed, 2,000 test and 500 validation "
                        "problems, no variants: 45 minutes on two quiet cores; with --model only a trial of the whole")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--report", action="store_true", help="make nothing: report on what is there")
    args = parser.parse_args(argv)
    if args.model and not (Path(args.model) / "config.json").is_file():
        raise UserError(f"{args.model}: no config.json there; name the folder of a model", 2)
    study, name = find_study(args.model, args.quick)
    lab = Lab((args.out or ROOT / "runs" / name).resolve(), study, making=not args.report)
    if args.report and not lab.out.is_dir():
        raise UserError(f"{lab.out}: nothing is there to report on", 2)
    keep_to_study(lab.out, study)
    if args.report:
        return write_report(lab)
    name_changes(lab.out)
    helpers = [subprocess.Popen([sys.executable, "-m", "demo.reproduce", *(argv or sys.argv[1:]), "--jobs", "1"])
               for _ in range(args.jobs - 1)]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a stage whose stdout is a pipe would send its rows down there
    make_all(lab, plan(lab), args.jobs)
    return 1 if any(helper.wait() for helper in helpers) else 0


if __name__ == "__main__":
    run_main(main)
