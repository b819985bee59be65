"""What reproduce.py compares: the systems, and the numbers of a study."""
from dataclasses import dataclass, replace

WORLDS = ("decision", "number")
SYSTEMS = {  # name: (rows, objective)
    "DPO, answers apart": ("apart", "dpo"),
    "DPO, shared prefix": ("pairs", "dpo"),
    "DPO, shared prefix, verified": ("verified", "dpo"),
    "Step-DPO": ("pairs", "step-dpo"),
    "Step-DPO, verified": ("verified", "step-dpo"),
    "Step-DPO, other wording": ("worded", "step-dpo"),
}
MAIN = "Step-DPO, verified"  # the system that is varied on the first SFT seed
VARIANTS = ("as it is", "--eos", "--nll 0.1", "4 pairs a prefix", "--shuffle prefixes, 4 pairs a prefix",
            "100 pairs", "300 pairs", "located by exact", "located by rollouts", "three rounds", "1,000 pairs",
            "3,000 pairs")
METRICS = ("greedy", "greedy, all steps", "sampled")  # strings of outcomes; the first is the headline


@dataclass(frozen=True)
class Study:
    """The numbers of a comparison. A field that is a dictionary has an entry for each world."""
    seeds: int  # policies: SFT runs with another order of rows
    runs: int  # trainings of each system on each policy
    test: int  # problems to report on
    sampled: int  # of which also answers at T = 1 are reported
    validation: int  # problems to choose rate and β on
    systems: tuple  # names in SYSTEMS
    variants: tuple  # of MAIN, names in VARIANTS
    grid: tuple  # (rate, β) to choose from
    solutions: int  # of each world, to make policies of
    sft: dict  # train.py's settings for that
    epochs: int  # of every system
    batch_size: int
    problems: dict  # to make pairs from, in the beginning
    many: dict  # problems that there are
    pairs: int  # to train on
    held_out: int  # pairs to measure on


FULL = Study(
    seeds=3, runs=2, test=5000, sampled=500, validation=1000, systems=tuple(SYSTEMS), variants=VARIANTS,
    grid=((1e-5, 0.4), (3e-5, 0.4), (3e-5, 1.0), (3e-5, 2.0), (1e-4, 1.0)),
    solutions=16000, sft=dict(lr=3e-3, warmup=0.05, epochs=1, batch_size=16), epochs=3, batch_size=32,
    problems={"decision": 6000, "number": 1600},  # about 1,200 of each are answered wrongly once in 4 times
    many={"decision": 28000, "number": 6600},  # give 3,000 pairs, of the problems that all kinds of rows have
    pairs=400, held_out=150)
QUICK = replace(FULL, runs=1, test=2000, validation=500, variants=())
