"""A folder in which what reproduce.py compares is made once: worlds, policies, answers, pairs, rows to train on.

    OUT/WORLD/world       problems
    OUT/policies/seed-0   what SFT makes; one policy for both worlds
    OUT/WORLD/policies-seed-0-0-1600              answers to problems 0 to 1,600
    OUT/WORLD/policies-seed-0-0-1600/equations-1  the wrong ones located by a judge, and pairs, one a prefix
    OUT/WORLD/policies-seed-0-0-1600/equations-1/rows-400   what 400 pairs are compared on, a file a kind
    OUT/times.tsv         what each run of a stage took: its name, seconds, CPU-seconds

Beside each of these stands NAME.made when it is finished, and NAME.lock while a process makes it.
"""
import contextlib
import ctypes
import fcntl
import gc
import hashlib
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path

import collect
import correct
import locate
import train
from demo.files import load_rows, save_rows
from demo.kinds import first_of_each, kinds_of_rows
from demo.scales import chosen_scale, make_world, scale_world
from demo.studies import SYSTEMS, WORLDS


def give_memory_back():
    """What a stage left in glibc's hands goes back to the system: it was ten gigabytes after training SmolLM2."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def bf16_products():
    """Products of float32 numbers in bf16 where a CPU has that: SmolLM2 trains on stories in 0.8 of the time.

    Attention is plain here, because the small blocks of a flash kernel lose by it. Sampling wants exact products.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    torch.set_float32_matmul_precision("medium")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision("highest")


class Busy(Exception):
    """Another process makes this."""


class Missing(Exception):
    """Not made yet, and only a report is wanted."""


class TooFew(Missing):
    """A policy gives no pairs."""


class Lab:
    def __init__(self, out, study, making=True):
        """study: studies.Study; making: False to raise Missing for what is not there."""
        self.out, self.study, self.making = out, study, making
        self.spent = 0.0  # seconds in stages

    def made(self, folder, name, make):
        """The file or folder `name`, made by make(path) unless it was finished before.

        Raises Busy while another process makes it, and Missing if this lab makes nothing.
        """
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
                make(path)
                mark.touch()
        return path

    def grown(self, folder, name, smaller, make):
        """`made` by a stage that goes on with what the folder `smaller` has of `name`, if one is given.

        smaller: filled by the same stage with the same settings, from some of the rows.
        """
        def begin(path):
            if smaller and not Path(f"{path}.done").exists():
                for end in ("", ".dropped.jsonl", ".done"):  # the journal last: without it all is copied again
                    shutil.copy(f"{smaller / name}{end}", f"{path}{end}")
            make(path)
        return self.made(folder, name, begin)

    def call(self, what, stage, *words, **settings):
        """Run a stage in this process, resuming.

        what: the line of times.tsv that its time counts in. settings: flags of the stage; True is a bare flag.
        """
        if self.study.model and stage is train:  # a quarter of the memory, so that two processes fit a laptop
            settings["tokens_per_micro_batch"] = 1024
        words = [str(word) for word in words] + ["--resume"]
        for name, value in settings.items():
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(str(value))
        earlier = [seconds for seconds, _ in self.times()[what]]
        expected = f", about {sum(earlier) / len(earlier):.0f} s" if earlier else ""
        print(f"reproduce: {what}{expected}", file=sys.stderr)
        begin, cpu = time.monotonic(), time.process_time()
        with bf16_products() if self.study.model and stage is train else contextlib.nullcontext():
            code = stage.main(words)
        if code:
            sys.exit(code)
        seconds = time.monotonic() - begin
        give_memory_back()
        self.spent += seconds
        with open(self.out / "times.tsv", "a") as file:  # one write: several processes append
            file.write(f"{what}\t{seconds:.1f}\t{time.process_time() - cpu:.1f}\n")

    def times(self):
        """{what: [(seconds, CPU-seconds) of each run]}, in the order of the first ones."""
        found = defaultdict(list)
        path = self.out / "times.tsv"
        for line in path.read_text().splitlines() if path.exists() else ():
            what, seconds, cpu = line.split("\t")
            found[what].append((float(seconds), float(cpu)))
        return found

    # ------------------------------------------------------------------------------------- policies and rows

    def world(self, world):
        """Folder of the problems; of a pretrained model's, at the scale that is chosen for it."""
        study = self.study
        sizes = {"sft": 1 if study.scales else study.solutions, "train": study.many[world],
                 "validation": study.validation, "test": study.test}
        scale = study.scales[chosen_scale(self)] if study.scales else None
        return self.made(self.out / world, "world", lambda path: make_world(path, world, sizes, scale))

    def policy(self, seed):
        """One policy for both worlds: what SFT on their solutions makes of a model."""
        if self.study.scales:
            start = self.study.model
            worlds = [scale_world(self, number, world) for number in range(len(self.study.scales)) for world in WORLDS]
        else:
            worlds = [self.world(world) for world in WORLDS]
            start = worlds[0] / "model"
        rows = self.made(self.out, "sft.jsonl", lambda path: save_rows(
            path, [row for folder in worlds for row in load_rows(folder / "sft.jsonl")]))
        return self.made(self.out / "policies", f"seed-{seed}", lambda path: self.call(
            "SFT", train, objective="sft", model=start, pairs=rows, out=path, seed=seed, save_every=0,
            **self.study.sft))

    def answers(self, world, seed, policy=None, problems=None, smaller=None):
        """Folder with answers of a policy to a slice of the problems, and the wrong ones; how it was asked.

        smaller: such a folder of a part of the slice.
        """
        policy = policy or self.policy(seed)
        problems = problems or slice(0, self.study.problems[world])
        folder = self.out / world / f"{policy.parent.name}-{policy.name}-{problems.start}-{problems.stop}"
        how = dict(model=policy, temperature=1, top_p=1, seed=seed, max_tokens=self.study.max_tokens,
                   batch_size=self.study.at_once)
        source = self.world(world) / "train.jsonl"
        some = self.made(folder, "problems.jsonl", lambda path: save_rows(path, load_rows(source)[problems]))
        answers = self.grown(folder, "answers.jsonl", smaller, lambda path: self.call(
            "collect", collect, some, out=path, samples=self.study.samples, keep="all", **how))
        self.made(folder, "wrong.jsonl", lambda path: save_rows(path, first_of_each(
            row for row in load_rows(answers) if not row["correct"]).values()))
        return folder, how

    def gather_pairs(self, world, seed, judge="equations", each=1, smaller=None, **which):
        """Folder with located answers, pairs and verified pairs, at most `each` a prefix, in that of their answers.

        judge: of locate.py; "exact" is the world itself. which: the policy and the problems of `answers`. smaller: such
        a folder of a part of these problems.
        """
        asked, how = self.answers(world, seed, smaller=smaller and smaller.parent, **which)
        folder = asked / f"{judge}-{each}"
        flags = dict(judge=Path(__file__).with_name("exact.py") if judge == "exact" else judge)
        if judge == "rollouts":
            flags |= how
        located = self.made(folder, "located.jsonl", lambda path: self.call(
            f"locate by {judge}", locate, asked / "wrong.jsonl", out=path, **flags))
        how = dict(how, samples=self.study.tries, max_per_prefix=each)
        if "pairs" in self.kinds():
            self.grown(folder, "pairs.jsonl", smaller, lambda path: self.call(
                "correct", correct, located, out=path, **how))
        self.grown(folder, "verified.jsonl", smaller, lambda path: self.call(
            "correct, verify", correct, located, out=path, verify="equations", **how))
        return folder

    def kinds(self):
        """Names of the kinds of rows that the systems want."""
        return {SYSTEMS[system][0] for system in self.study.systems}

    def enough_pairs(self, world, seed):
        """`gather_pairs`, from twice as many problems while they give fewer pairs than the study wants.

        Raises TooFew where all problems give none to train on.
        """
        problems, folder = self.study.problems[world], None
        while True:
            folder = self.gather_pairs(world, seed, problems=slice(0, problems), smaller=folder)
            train_rows, _ = self.rows(folder, "verified")
            found = len(load_rows(train_rows))
            if found == self.study.pairs or 2 * problems > self.study.many[world]:
                break
            problems *= 2
        if not found:
            raise TooFew(f"no pairs to train on from {problems} problems of the {world} world, SFT seed {seed}: its "
                         "answers are all right or all wrong")
        return folder

    def rows(self, folder, kind, count=None):
        """(train, held-out) files of `kind`: of the same problems, whatever the kind. count: pairs to train on."""
        count, held_out = count or self.study.pairs, self.study.held_out

        def make(path):
            kinds = kinds_of_rows(folder, self.kinds())
            common = set.intersection(*(set(rows) for rows in kinds.values()))
            common = sorted(common, key=lambda problem: hashlib.sha256(problem.encode()).digest())
            path.mkdir(exist_ok=True)
            for name, rows in kinds.items():
                save_rows(path / f"{name}-held-out.jsonl", [row for key in common[:held_out] for row in rows[key]])
                save_rows(path / f"{name}.jsonl",
                          [row for key in common[held_out:held_out + count] for row in rows[key]])
            print(f"{path}: {len(common)} problems, {held_out} held out, up to {count} to train on", file=sys.stderr)

        path = self.made(folder, f"rows-{count}", make)
        return path / f"{kind}.jsonl", path / f"{kind}-held-out.jsonl"
