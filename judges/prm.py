"""The judge that is a process reward model: the first step whose score is below --threshold is the wrong one.

    python locate.py --judge prm:FOLDER --threshold 0.5 < wrong.jsonl > located.jsonl

FOLDER holds a token classifier, a language model that says + or - after a step, or a backbone with a score head behind
a step token (stepdpo/prm.py). The score of every step, from 0 to 1, is kept in the row: `step_scores` of locate.py,
`chosen_step_scores` of correct.py --verify. A PRM sees problem and steps, and no gold answer.
"""
import os
import threading

from judges.verdict import Verdict
from stepdpo.batching import batched
from stepdpo.command import UserError
from stepdpo.prm import load_prm
from stepdpo.reply import Refused
from stepdpo.steps import strip_header

MODEL = "FOLDER"


def step_texts(parts, shape):
    """The steps as a PRM of this shape knows them, and what stands before them: "Step 2: …", or as they were written.

    Qwen's PRM was trained on paragraphs, the others on Math-Shepherd's numbered steps.
    """
    preamble, *steps = (part.strip() for part in parts)
    if shape != "head":
        steps = [f"Step {k}: {strip_header(step).strip()}" for k, step in enumerate(steps, 1)]
    return preamble, steps


def make_judge(args, policy):
    """A judge that scores all steps of an answer in one forward pass, batched over rows."""
    folder, threshold = args.judge_model, args.threshold
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold {threshold:g}: must be from 0 to 1, as scores are", 2)
    if not os.path.isdir(folder):
        raise UserError(f"--judge prm:{folder}: no such folder; download the model and name its folder", 2)
    prm = load_prm(folder, args.device, args.step_token, args.dtype)
    put = batched(prm.score, args.batch_size, threading.Event())

    async def judge(row, parts, whole):
        preamble, steps = step_texts(parts, prm.shape)
        if preamble:
            steps[0] = f"{preamble}\n{steps[0]}"
        ids, places = prm.render(row["prompt"], steps)
        if len(ids) > prm.room:
            raise Refused("answer longer than the PRM's context")
        scores = [round(score, 4) for score in await put(ids, places)]
        below = [k for k, score in enumerate(scores, 1) if score < threshold]
        return Verdict(below[0] if below else 0, {"scores": scores}, scores)
    return judge
