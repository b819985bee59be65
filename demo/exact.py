"""The judge that knows the demo's worlds: python locate.py --judge demo/exact.py wrong.jsonl --out located.jsonl"""
from demo.world import first_wrong_step
from judges.verdict import Verdict


async def judge(row, parts, whole):
    """The first wrong step of an answer to a story of demo/world.py, or 0."""
    step = first_wrong_step(row["prompt"], "".join(parts)) or 0
    return Verdict(min(step, len(parts) - 1), None)  # headers out of order begin no step
