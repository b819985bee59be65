"""Table 3, figure 2 and table 4 of the paper on the demo's two worlds; SYSTEMS says what each row is.

    bash demo/reproduce.sh [--quick]           # makes an environment, then runs this file
    python -m demo.reproduce --report          # tables and figure of what is there so far

out: OUT/report.md and OUT/figure2.png; a folder a cell, OUT/cells/KEY, with settings.json and result.json (per-problem
     outcomes as strings of 0 and 1 in the order of test.jsonl). A cell is computed once, whatever runs ask for it.

Every system gets its learning rate and β from GRID by greedy answers to validation problems, on the first SFT seed; all
have the same problems, number of pairs and epochs. Test problems are looked at by `outcomes` alone.
"""
import argparse
import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import collect
import correct
import evaluate
import locate
import train
from demo import world as generator
from stepdpo.rows import format_row

WORLDS = ("decision", "number")
GRID = [(1e-5, 0.4), (3e-5, 0.4), (3e-5, 1.0), (3e-5, 2.0), (1e-4, 1.0)]  # (rate, β)
SFT = dict(objective="sft", lr=3e-3, warmup=0.05, epochs=1, batch_size=16)  # one policy for both worlds
EPOCHS, BATCH = 3, 32
PROBLEMS = {"decision": 6000, "number": 1600}  # to make pairs from: about 1,200 are answered wrongly once in 4 times
MANY = {"decision": 28000, "number": 6600}  # for 3,000 pairs, of the problems that all kinds of rows have
PAIRS, HELD_OUT, SAMPLED = 400, 150, 500
SYSTEMS = {  # name: (rows, objective)
    "DPO, answers apart": ("apart", "dpo"),
    "DPO, shared prefix": ("pairs", "dpo"),
    "DPO, shared prefix, verified": ("verified", "dpo"),
    "Step-DPO": ("pairs", "step-dpo"),
    "Step-DPO, verified": ("verified", "step-dpo"),
    "Step-DPO, other wording": ("worded", "step-dpo"),
}
METRICS = ("greedy", "greedy, all steps", "sampled")  # strings of outcomes; the first is the headline
MAIN = "Step-DPO, verified"  # the system that is varied on the first SFT seed
# The true next step in words that the policy knows, in an order that it never writes (table 4's out-of-distribution)
WORDED = {"+": " Adding these makes it {} now.", "-": " Without these it goes down to {} now.",
          "×": " Multiplying makes it {} now.", "÷": " Dividing makes it {} now."}


# ----------------------------------------------------------------------------------------------- running

class Busy(Exception):
    """Another process makes this."""


class Missing(Exception):
    """Not made yet, and only a report is wanted."""


def read(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def write(path, rows):
    path.write_bytes(b"".join(map(format_row, rows)))


def call(stage, *words, **settings):
    """Run a stage in this process, resuming; True is a bare flag. Its rows go to --out alone: fd 1 is nobody's."""
    words = [*map(str, words), "--resume"]
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    if code := stage.main(words):
        sys.exit(code)


def problem_of(row):
    return row["id"].split("#")[0]


def bits(values):
    return "".join(str(int(value)) for value in values)


class Lab:
    """A folder in which everything is made once: worlds, policies, rows, cells."""

    def __init__(self, out, test, validation, making=True):
        self.out, self.making = out, making
        self.sizes = dict(validation=validation, test=test)

    def made(self, folder, name, make):
        """The file or folder `name`, made by make(path) unless it was finished before."""
        path, mark = folder / name, folder / f"{name}.made"
        if mark.exists():
            return path
        if not self.making:
            raise Missing(path)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(path) from error
            if not mark.exists():
                begin = time.process_time()
                make(path)
                mark.write_text(f"{time.process_time() - begin:.0f}\n")  # CPU-seconds
        return path

    # ------------------------------------------------------------------------------------- policies and rows

    def world(self, world):
        return self.made(self.out / world, "world", lambda path: generator.main(
            [f"--{name}={value}" for name, value in dict(out=path, world=world, train=MANY[world],
                                                         **self.sizes).items()]))

    def policy(self, seed):
        """One policy for both worlds; its solutions have planted slips."""
        folder = self.world(WORLDS[0])
        rows = self.made(self.out, "sft.jsonl", lambda path: write(path, (
            row for world in WORLDS for row in read(self.world(world) / "sft.jsonl"))))
        return self.made(self.out / "policies", f"seed-{seed}", lambda path: call(
            train, model=folder / "model", pairs=rows, out=path, seed=seed, save_every=0, **SFT))

    def ask(self, world, seed, policy=None, problems=None):
        """Folder with answers of a policy to some of the problems, and the wrong ones; how it was asked."""
        policy, problems = policy or self.policy(seed), problems or slice(0, PROBLEMS[world])
        folder = self.out / world / f"{policy.parent.name}-{policy.name}-{problems.start}-{problems.stop}"
        how = dict(model=policy, temperature=1, top_p=1, seed=seed, max_tokens=200, batch_size=256)
        source = self.world(world) / "train.jsonl"
        some = self.made(folder, "problems.jsonl", lambda path: write(path, read(source)[problems]))
        answers = self.made(folder, "answers.jsonl", lambda path: call(
            collect, some, out=path, samples=4, keep="all", **how))
        self.made(folder, "wrong.jsonl", lambda path: write(path, first_of_each(
            row for row in read(answers) if not row["correct"]).values()))
        return folder, how

    def gather(self, world, seed, judge="equations", each=1, **which):
        """Folder with located answers and pairs of both kinds, at most `each` a prefix, in that of their answers."""
        asked, how = self.ask(world, seed, **which)
        folder = asked / f"{judge}-{each}"
        located = self.made(folder, "located.jsonl", lambda path: find_wrong_steps(
            asked / "wrong.jsonl", path, judge, how))
        for name, verify in (("pairs", {}), ("verified", {"verify": "equations"})):
            self.made(folder, f"{name}.jsonl", lambda path: call(
                correct, located, out=path, samples=8, max_per_prefix=each, **how, **verify))
        return folder

    def gather_enough(self, world, seed):
        """`gather`, from twice as many problems while they give fewer than PAIRS pairs."""
        problems = PROBLEMS[world]
        while True:
            folder = self.gather(world, seed, problems=slice(0, problems))
            problems *= 2
            if problems > MANY[world] or len(read(self.rows(folder, "verified")[0])) == PAIRS:
                return folder

    def rows(self, folder, kind, count=PAIRS):
        """(train, held-out) files of `kind`: of the same problems, whatever the kind."""
        def make(path):
            kinds = kinds_of_rows(folder)
            common = sorted(set.intersection(*map(set, kinds.values())), key=lambda key: hashlib.sha256(
                key.encode()).digest())
            path.mkdir(exist_ok=True)
            for name, rows in kinds.items():
                write(path / f"{name}-held-out.jsonl", [row for key in common[:HELD_OUT] for row in rows[key]])
                write(path / f"{name}.jsonl", [row for key in common[HELD_OUT:HELD_OUT + count] for row in rows[key]])
            print(f"{path}: {len(common)} problems, {HELD_OUT} held out, up to {count} to train on", file=sys.stderr)
        path = self.made(folder, f"rows-{count}", make)
        return path / f"{kind}.jsonl", path / f"{kind}-held-out.jsonl"

    # ------------------------------------------------------------------------------------------------- cells

    def cell(self, world, seed, rows=None, objective=None, run=0, split="test", policy=None, **how):
        """The result of training on rows (train, held-out files) and asking; without rows, of asking the policy."""
        settings = dict(world=world, seed=seed, rows=rows and [str(path.relative_to(self.out)) for path in rows],
                        objective=objective, run=run, split=split, policy=policy and str(policy.relative_to(self.out)),
                        **self.sizes, **how)
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.out / "cells" / key

        def make(path):
            (folder / "settings.json").write_text(json.dumps(settings))
            model, result = policy or self.policy(seed), {}
            if rows:
                model = self.train(folder / "model", rows, objective, model, run, **how)
                result |= {"metrics": read(model / "metrics.jsonl"), "pairs": len(read(rows[0]))}
            path.write_text(json.dumps(result | self.outcomes(world, model, split, folder)))
            shutil.rmtree(folder / "model", ignore_errors=True)

        return json.loads(self.made(folder, "result.json", make).read_text())

    def train(self, path, rows, objective, model, run, **how):
        call(train, objective=objective, model=model, pairs=rows[0], eval_pairs=rows[1], seed=run, epochs=EPOCHS,
             batch_size=BATCH, save_every=0, eval_every=10, out=path, **how)
        return path

    def outcomes(self, world, model, split, folder):
        """{metric: a 0 or 1 a problem}: greedy; of test problems also what is sampled at T = 1, of a part of them."""
        found, problems = {}, self.world(world) / f"{split}.jsonl"
        some = self.made(self.out / world, "some.jsonl", lambda path: write(path, read(problems)[:SAMPLED]))
        for name, source, temperature in (("greedy", problems, 0), ("sampled", some, 1))[:1 + (split == "test")]:
            path = folder / f"{name}.jsonl"
            call(evaluate, source, model=model, temperature=temperature, max_tokens=200, batch_size=256, out=path)
            rows = sorted(read(path), key=lambda row: int(problem_of(row).rsplit("-")[-1]))
            found[name] = bits(row["correct"] for row in rows)
            found[f"{name}, all steps"] = bits(
                generator.first_wrong_step(row["prompt"], row["completion"]) is None for row in rows)
            for end in ("", ".done", ".dropped.jsonl"):
                Path(f"{path}{end}").unlink()
        return found

    def best(self, world, system):
        """(rate, β) of GRID by validation problems, on the first SFT seed: final answers and all steps count alike."""
        return max(self.grid(world, system), key=lambda found: sum(found[1:]))[0]

    def grid(self, world, system):
        """[((rate, β), share of validation problems with the final answer right, with all steps right)]."""
        kind, objective = SYSTEMS[system]
        rows, found = self.rows(self.gather_enough(world, 0), kind), []
        for lr, beta in GRID:
            cell = self.cell(world, 0, rows, objective, split="validation", lr=lr, beta=beta)
            found.append(((lr, beta), *(cell[name].count("1") / len(cell[name]) for name in METRICS[:2])))
        return found

    def system(self, world, seed, system, run):
        kind, objective = SYSTEMS[system]
        lr, beta = self.best(world, system)
        rows = self.rows(self.gather_enough(world, seed), kind)
        return self.cell(world, seed, rows, objective, run, lr=lr, beta=beta)

    def variant(self, world, name, run):
        """A cell that differs from MAIN on the first SFT seed in one thing."""
        kind, objective = SYSTEMS[MAIN]
        lr, beta = self.best(world, MAIN)
        gathered, count, how = {}, PAIRS, {}
        if name.startswith("located"):
            gathered = dict(judge=name.split()[-1])
        elif name.endswith("a prefix"):
            gathered, count = dict(each=4), PAIRS // 4
            how = dict(shuffle="prefixes") if name.startswith("--shuffle") else {}
        elif name.endswith("pairs"):
            count = int(name.split()[0].replace(",", ""))
            gathered = dict(problems=slice(0, MANY[world])) if count > PAIRS else {}
        elif name == "three rounds":
            return self.rounds(world, 3, lr, beta, run)
        elif name != "as it is":
            how = {"--eos": dict(eos=True), "--nll 0.1": dict(nll=0.1)}[name]
        rows = self.rows(self.gather(world, 0, **gathered), kind, count)
        return self.cell(world, 0, rows, objective, run, lr=lr, beta=beta, **how)

    def rounds(self, world, n, lr, beta, run):
        """n rounds on other problems each and PAIRS / n pairs; a round's policy is the reference of the next."""
        policy, pairs = self.policy(0), 0
        for i in range(n):
            share = PROBLEMS[world] // 2  # of which more than HELD_OUT + PAIRS / n pairs come
            folder = self.gather(world, 0, policy=policy, problems=slice(share * i, share * (i + 1)))
            rows = self.rows(folder, SYSTEMS[MAIN][0], PAIRS // n)
            policy = self.made(folder, f"model-{run}", lambda path: self.train(
                path, rows, SYSTEMS[MAIN][1], policy, run, lr=lr, beta=beta))
            pairs += len(read(rows[0]))
        return self.cell(world, 0, policy=policy) | {"pairs": pairs}


def first_of_each(rows):
    """{problem: its first row}."""
    first = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        first.setdefault(problem_of(row), row)
    return first


def find_wrong_steps(wrong, path, judge, ask):
    """locate.py with a judge; "exact" is the world itself."""
    if judge != "exact":
        return call(locate, wrong, out=path, judge=judge, **(ask if judge == "rollouts" else {}))

    async def exact(row, parts, whole):
        step = generator.first_wrong_step(row["prompt"], row["completion"]) or 0
        return locate.Verdict(min(step, len(parts) - 1), None)  # headers out of order begin no step

    rows = [asyncio.run(locate.locate(row, {"exact": exact})) for row in read(wrong)]
    write(path, (row for row in rows if "drop" not in row))


def kinds_of_rows(folder):
    """{kind: {problem: its rows}} in a folder that `gather` filled."""
    kinds = {}
    for name in ("pairs", "verified"):
        kinds[name] = {}
        for row in read(folder / f"{name}.jsonl"):
            kinds[name].setdefault(problem_of(row), []).append(row)
    right = first_of_each(row for row in read(folder.parent / "answers.jsonl") if row["correct"])
    wrong = first_of_each(read(folder.parent / "wrong.jsonl"))
    kinds["apart"] = {key: [{**wrong[key], "initial_reason_steps": "", "full_chosen": right[key]["completion"],
                             "full_rejected": wrong[key]["completion"]}] for key in wrong.keys() & right.keys()}
    worded = {key: [{**row, "chosen": worded_step(row)} for row in rows] for key, rows in kinds["verified"].items()}
    kinds["worded"] = {key: rows for key, rows in worded.items() if all(row["chosen"] for row in rows)}
    return kinds


def worded_step(row):
    """The true step in other words; None after the last one, where a policy may go on."""
    for a, operation, b, c in generator.truth(row["prompt"])[0][row["bad_step"] - 1:][:1]:
        return WORDED[operation].format(f"{a} {operation} {b} = {c}")


# ------------------------------------------------------------------------------------------------- order

VARIANTS = ("as it is", "--eos", "--nll 0.1", "4 pairs a prefix", "--shuffle prefixes, 4 pairs a prefix",
            "100 pairs", "300 pairs", "located by exact", "located by rollouts", "three rounds", "1,000 pairs",
            "3,000 pairs")


def plan(lab, seeds, runs, variants):
    """The cells in order of worth, as functions."""
    for run in range(runs):
        for seed in range(seeds):
            for world in WORLDS:
                if run == 0:
                    yield lambda world=world, seed=seed: lab.cell(world, seed)
                for system in SYSTEMS:
                    yield lambda world=world, seed=seed, system=system, run=run: lab.system(world, seed, system, run)
    for run in range(runs):
        for name in variants:
            for world in WORLDS:
                yield lambda world=world, name=name, run=run: lab.variant(world, name, run)


def work(cells):
    """Make all cells; what another process is making is come back to."""
    while cells:
        busy = []
        for number, cell in enumerate(cells):
            try:
                cell()
                print(f"reproduce: {len(cells) - number - 1 + len(busy)} cells left", file=sys.stderr)
            except Busy:
                busy.append(cell)
        if len(busy) == len(cells):
            time.sleep(5)
        cells = busy


def name_changes(out):
    """Say which code has changed since the first run into `out`: what is made there is kept all the same."""
    root = Path(__file__).parents[1]
    now = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
           for path in (*sorted(root.glob("*.py")), root / "demo/world.py")}
    file = out / "code.json"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now))
    then = json.loads(file.read_text())
    if changed := [name for name in now if now[name] != then.get(name)]:
        print(f"reproduce: {', '.join(changed)} changed since {out} was begun; what is made there is kept as it is: "
              "another --out makes all anew", file=sys.stderr)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of all that is made (default: runs/reproduce[-quick])")
    parser.add_argument("--quick", action="store_true", help="one training seed, 2,000 test and 500 validation "
                        "problems, no variants: 45 minutes on two quiet cores")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--report", action="store_true", help="make nothing: report on what is there")
    args = parser.parse_args(argv)
    seeds, runs, test, validation, variants = (3, 1, 2000, 500, ()) if args.quick else (3, 2, 5000, 1000, VARIANTS)
    out = args.out or Path("runs/reproduce-quick" if args.quick else "runs/reproduce")
    lab = Lab(out.resolve(), test, validation, not args.report)
    cells = [*plan(lab, seeds, runs, variants)]
    if args.report:
        from demo.report import report
        return report(lab, seeds, runs, variants)
    name_changes(lab.out)
    helpers = [subprocess.Popen([sys.executable, "-m", "demo.reproduce", *(argv or sys.argv[1:]), "--jobs", "1"])
               for _ in range(args.jobs - 1)]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a stage whose stdout is a pipe would send its rows down there
    work(cells)
    if any(helper.wait() for helper in helpers):
        sys.exit(1)


if __name__ == "__main__":
    from demo import reproduce  # under its own name, for report.py imports it too
    reproduce.main()
