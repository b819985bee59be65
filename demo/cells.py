"""The cells of reproduce.py's tables: a system trained on its rows and asked problems.

A cell is a folder, OUT/cells/KEY, with settings.json and result.json:

    {"greedy": "0110…", "greedy, all steps": "0100…", "sampled": …, "pairs": 400, "metrics": train.py's records}

A string has a 0 or a 1 for each problem, in their order. KEY is a hash of the settings, so a cell is made once,
whatever runs ask for it.
"""
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import evaluate
import train
from demo.files import load_rows, save_rows
from demo.kinds import source_id
from demo.lab import Busy
from demo.studies import MAIN, METRICS, SYSTEMS
from demo.world import first_wrong_step


def key_of(settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def cell(lab, world, seed, rows=None, objective=None, run=0, split="test", policy=None, **how):
    """The result of training on rows (train, held-out files) and asking; without rows, of asking the policy."""
    settings = dict(world=world, seed=seed, rows=rows and [str(path.relative_to(lab.out)) for path in rows],
                    objective=objective, run=run, split=split, policy=policy and str(policy.relative_to(lab.out)),
                    validation=lab.study.validation, test=lab.study.test, **how)
    folder = lab.out / "cells" / key_of(settings)

    def make(path):
        (folder / "settings.json").write_text(json.dumps(settings))
        model, result = policy or lab.policy(seed), {}
        if rows:
            model = trained(lab, rows, objective, model, run, **how)
            result |= {"metrics": load_rows(model / "metrics.jsonl"), "pairs": len(load_rows(rows[0]))}
        path.write_text(json.dumps(result | outcomes(lab, world, model, split, folder)))
        if rows and split == "test":
            forget(model)

    return json.loads(lab.made(folder, "result.json", make).read_text())


def trained(lab, rows, objective, model, run, **how):
    """The folder of a model trained on rows. It is kept until the test problems were asked, or another was better."""
    path = trained_path(lab, rows, objective, model, run, **how)
    return lab.made(path.parent, path.name, partial(train_on, lab, rows, objective, model, run, how))


def trained_path(lab, rows, objective, model, run, **how):
    settings = dict(rows=str(rows[0].relative_to(lab.out)), model=str(model.relative_to(lab.out)),
                    objective=objective, run=run, **how)
    return lab.out / "models" / key_of(settings)


def train_on(lab, rows, objective, model, run, how, path):
    """Train into the folder `path`. how: other flags of train.py."""
    lab.call(f"train {objective}", train, objective=objective, model=model, pairs=rows[0], eval_pairs=rows[1],
             seed=run, epochs=lab.study.epochs, batch_size=lab.study.batch_size, save_every=0, eval_every=10, out=path,
             **how)


def forget(model):
    """Remove a trained model."""
    Path(f"{model}.made").unlink(missing_ok=True)
    shutil.rmtree(model, ignore_errors=True)


def outcomes(lab, world, model, split, folder):
    """{metric: a 0 or 1 a problem}: greedy; of test problems also what is sampled at T = 1, of a part of them."""
    problems = lab.world(world) / f"{split}.jsonl"
    found = answer_bits(lab, "greedy", problems, model, folder, temperature=0)
    if split == "test" and lab.study.sampled:
        some = lab.made(lab.out / world, "some.jsonl", lambda path: save_rows(
            path, load_rows(problems)[:lab.study.sampled]))
        found |= answer_bits(lab, "sampled", some, model, folder, temperature=1)
    return found


def answer_bits(lab, name, problems, model, folder, temperature):
    """{name: is the final answer right?, "name, all steps": is every step right?} as strings of 0 and 1."""
    path = folder / f"{name}.jsonl"
    lab.call(f"evaluate {name}, {problems.stem}", evaluate, problems, model=model, temperature=temperature,
             max_tokens=lab.study.max_tokens, batch_size=lab.study.at_once, out=path)
    rows = sorted(load_rows(path), key=lambda row: int(source_id(row).rsplit("-")[-1]))
    for end in ("", ".done", ".dropped.jsonl"):
        Path(f"{path}{end}").unlink()
    final, steps = "", ""
    for row in rows:
        final += str(int(row["correct"]))
        steps += str(int(first_wrong_step(row["prompt"], row["completion"]) is None))
    return {name: final, f"{name}, all steps": steps}


# ------------------------------------------------------------------------------------------------- systems

def settings_of(lab, system):
    """The (rate, β) that are tried of a system."""
    _, _, flags = SYSTEMS[system]
    return lab.study.lora_grid if "lora" in flags else lab.study.grid


def grid(lab, world, system):
    """[((rate, β), share of validation problems with the final answer right, with all steps right)].

    What another process makes is passed over, so that several processes share a grid, and looked at again once
    something was made here.
    """
    kind, objective, flags = SYSTEMS[system]
    rows = lab.rows(lab.enough_pairs(world, 0), kind)
    while True:
        found, busy, spent = [], None, lab.spent
        for lr, beta in settings_of(lab, system):
            try:
                result = cell(lab, world, 0, rows, objective, split="validation", lr=lr, beta=beta, **flags)
            except Busy as error:
                busy = error
                continue
            final, steps = (result[metric].count("1") / len(result[metric]) for metric in METRICS[:2])
            found.append(((lr, beta), final, steps))
        if not busy:
            return found
        if lab.spent == spent:
            raise busy


def best(lab, world, system):
    """(rate, β) by validation problems, on the first SFT seed: final answers and all steps count alike."""
    setting, _, _ = max(grid(lab, world, system), key=lambda found: found[1] + found[2])
    return setting


def forget_others(lab, world, system, chosen):
    """Remove the models of the grid that were not chosen."""
    kind, objective, flags = SYSTEMS[system]
    rows = lab.rows(lab.enough_pairs(world, 0), kind)
    for lr, beta in settings_of(lab, system):
        if (lr, beta) != chosen:
            forget(trained_path(lab, rows, objective, lab.policy(0), 0, lr=lr, beta=beta, **flags))


def system_cell(lab, world, seed, system, run):
    kind, objective, flags = SYSTEMS[system]
    lr, beta = best(lab, world, system)
    if lab.making:
        forget_others(lab, world, system, (lr, beta))
    rows = lab.rows(lab.enough_pairs(world, seed), kind)
    return cell(lab, world, seed, rows, objective, run, lr=lr, beta=beta, **flags)


def variant_cell(lab, world, name, run):
    """A cell that differs from MAIN on the first SFT seed in one thing."""
    if f"{MAIN}, {name}" in SYSTEMS:
        return system_cell(lab, world, 0, f"{MAIN}, {name}", run)
    kind, objective, _ = SYSTEMS[MAIN]
    lr, beta = best(lab, world, MAIN)
    pairs, gathered, count, how = lab.study.pairs, {}, None, {}
    if name == "three rounds":
        return rounds_cell(lab, world, 3, lr, beta, run)
    if name.startswith("located by "):
        gathered = dict(judge=name.removeprefix("located by "))
    elif name.endswith("4 pairs a prefix"):
        gathered, count = dict(each=4), pairs // 4
        how = dict(shuffle="prefixes") if name.startswith("--shuffle prefixes") else {}
    elif name.endswith(" pairs"):
        count = int(name.removesuffix(" pairs").replace(",", ""))
        gathered = dict(problems=slice(0, lab.study.many[world])) if count > pairs else {}
    elif name != "as it is":
        how = {"--eos": dict(eos=True), "--nll 0.1": dict(nll=0.1)}[name]
    folder = lab.gather_pairs(world, 0, **gathered) if gathered else lab.enough_pairs(world, 0)
    return cell(lab, world, 0, lab.rows(folder, kind, count), objective, run, lr=lr, beta=beta, **how)


def rounds_cell(lab, world, n, lr, beta, run):
    """n rounds on other problems each, with an n-th of the pairs; a round's policy is the next one's reference."""
    (kind, objective, _), policy, pairs = SYSTEMS[MAIN], lab.policy(0), 0
    share = lab.study.problems[world] // 2  # of which more than an n-th of the pairs and the held-out ones come
    for i in range(n):
        folder = lab.gather_pairs(world, 0, policy=policy, problems=slice(share * i, share * (i + 1)))
        rows = lab.rows(folder, kind, lab.study.pairs // n)
        how = dict(lr=lr, beta=beta)
        policy = lab.made(folder, f"model-{run}", partial(train_on, lab, rows, objective, policy, run, how))
        pairs += len(load_rows(rows[0]))
    return cell(lab, world, 0, policy=policy) | {"pairs": pairs}
