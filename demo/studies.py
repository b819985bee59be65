"""What reproduce.py compares: the systems, and the numbers of a study."""
from dataclasses import dataclass, replace

WORLDS = ("decision", "number")
SYSTEMS = {  # name: (rows, objective, other flags of train.py)
    "DPO, answers apart": ("apart", "dpo", {}),
    "DPO, shared prefix": ("pairs", "dpo", {}),
    "DPO, shared prefix, verified": ("verified", "dpo", {}),
    "Step-DPO": ("pairs", "step-dpo", {}),
    "Step-DPO, verified": ("verified", "step-dpo", {}),
    "Step-DPO, other wording": ("worded", "step-dpo", {}),
    "Step-DPO, true steps": ("taught", "step-dpo", {}),
    "Step-DPO, verified, --lora 8": ("verified", "step-dpo", {"lora": 8}),
    "Step-DPO, verified, --lora 32": ("verified", "step-dpo", {"lora": 32}),
}
MAIN = "Step-DPO, verified"  # the system that is varied on the first SFT seed
VARIANTS = ("as it is", "--eos", "--nll 0.1", "4 pairs a prefix", "--shuffle prefixes, 4 pairs a prefix",
            "100 pairs", "300 pairs", "located by exact", "located by rollouts", "three rounds", "1,000 pairs",
            "3,000 pairs", "--lora 8", "--lora 32")
METRICS = ("greedy", "greedy, all steps", "sampled")  # strings of outcomes; the first is the headline


@dataclass(frozen=True)
class Study:
    """The numbers of a comparison. A field that is a dictionary by world has an entry for each of WORLDS."""
    seeds: int  # policies: SFT runs with another order of rows
    runs: int  # trainings of each system on each policy
    test: int  # problems to report on
    sampled: int  # of which also answers at T = 1 are reported
    validation: int  # problems to choose rate and β on
    systems: tuple  # names in SYSTEMS
    variants: tuple  # of MAIN, names in VARIANTS
    grid: tuple  # (rate, β) to choose from
    lora_grid: tuple  # the same for adapters, which want about ten times the rate
    solutions: int  # of each world and scale, to make policies of
    sft: dict  # train.py's settings for that
    epochs: int  # of every system
    batch_size: int
    problems: dict  # by world: to make pairs from, in the beginning
    many: dict  # by world: problems that there are
    pairs: int  # to train on
    held_out: int  # pairs to measure on
    samples: int = 4  # answers a problem
    tries: int = 8  # continuations of each correct prefix
    max_tokens: int = 200  # of an answer
    at_once: int = 256  # answers sampled together
    model: str | None = None  # a pretrained model to make policies of, instead of random weights
    scales: tuple = ()  # of its stories, to choose from: scales.py
    scale_problems: int = 40  # validation problems of each scale


FULL = Study(
    seeds=3, runs=2, test=5000, sampled=500, validation=1000, variants=VARIANTS,
    systems=("DPO, answers apart", "DPO, shared prefix", "DPO, shared prefix, verified", "Step-DPO",
             "Step-DPO, verified", "Step-DPO, other wording"),
    grid=((1e-5, 0.4), (3e-5, 0.4), (3e-5, 1.0), (3e-5, 2.0), (1e-4, 1.0)),
    lora_grid=((1e-4, 1.0), (3e-4, 1.0), (1e-3, 1.0)),
    solutions=16000, sft=dict(lr=3e-3, warmup=0.05, epochs=1, batch_size=16), epochs=3, batch_size=32,
    problems={"decision": 6000, "number": 1600},  # about 1,200 of each are answered wrongly once in 4 times
    many={"decision": 28000, "number": 6600},  # give 3,000 pairs, of the problems that all kinds of rows have
    pairs=400, held_out=150)
QUICK = replace(FULL, runs=1, test=2000, validation=500, variants=())

# Sized for two CPU cores and a model of 135M parameters.
PRETRAINED = Study(
    seeds=2, runs=1, test=500, sampled=0, validation=200, variants=("as it is", "--lora 32"),
    systems=("DPO, answers apart", "DPO, shared prefix, verified", "Step-DPO, verified", "Step-DPO, true steps"),
    grid=((3e-6, 0.4), (1e-5, 0.4), (3e-5, 0.4)), lora_grid=((3e-5, 0.4), (1e-4, 0.4), (3e-4, 0.4)),
    solutions=130, sft=dict(lr=2e-4, warmup=0.1, epochs=1, batch_size=32), epochs=3, batch_size=16,
    problems={"decision": 1000, "number": 500}, many={"decision": 2000, "number": 2000},
    pairs=160, held_out=40, tries=4, max_tokens=160, at_once=64,
    scales=(dict(steps=(3, 5), values=(10, 999)), dict(steps=(3, 5), values=(10, 99)),
            dict(steps=(2, 3), values=(10, 99)), dict(steps=(3, 5), values=(2, 40)),
            dict(steps=(2, 3), values=(2, 40)), dict(steps=(3, 5), values=(2, 20))))
PRETRAINED_QUICK = replace(
    PRETRAINED, seeds=1, test=12, validation=8, systems=("DPO, answers apart", "Step-DPO, verified"), variants=(),
    grid=((1e-5, 0.4), (3e-5, 0.4)), solutions=10, epochs=1, batch_size=4, problems={"decision": 40, "number": 20},
    many={"decision": 40, "number": 20}, pairs=8, held_out=1, scales=PRETRAINED.scales[1:3], scale_problems=8)
