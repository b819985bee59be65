"""A judge says which step of an answer is the first wrong one. A judge is a file.

    --judge equations         judges/equations.py
    --judge path/to/mine.py   any file
    --judge prm:FOLDER        judges/prm.py, which wants a model behind its name
    --judge MODEL             any other name is a model, for judges/llm.py: a served name, or a local folder
    --judge equations,MODEL   several, which must agree

The file holds a coroutine

    async def judge(row, parts, whole):          # returns a Verdict of judges/verdict.py

or, where it needs flags or the policy, a function that makes one:

    def make_judge(args, policy):                # returns such a coroutine

row is the record, with `prompt` and perhaps `answer` and `solution`. parts is a list of texts: what stands before
Step 1, then the steps with their headers. Joined they are the answer, or its beginning when it is not `whole`.
args has every flag of the command line, and args.judge_model, what stands behind the name (FOLDER).
policy is correct.py's own model, None in locate.py. A judge that computes batches with stepdpo/batching.py.
"""
import argparse
import difflib
import importlib
import importlib.util
import os
from collections import deque
from pathlib import Path

from judges.verdict import Back, Verdict
from stepdpo.command import UserError
from stepdpo.reply import Refused
from stepdpo.stage import run_stage

HERE = Path(__file__).parent
OWN_JUDGES = sorted({path.stem for path in HERE.glob("*.py")} - {"__init__", "verdict"})


def add_judge_flags(parser):
    """The flags that decide how a judge judges, for locate.py and correct.py --verify."""
    parser = parser.add_argument_group("judges")
    parser.add_argument("--judge-url", help="OpenAI-compatible server of the judge (default: the OpenAI variables)")
    parser.add_argument("--judge-max-tokens", type=int, default=16384,
                        help="longest reply of an LLM judge, its reasoning included")
    parser.add_argument("--judge-extra-body", metavar="JSON",
                        help="an object that goes into each request to the judge's server, e.g. "
                             "'{\"reasoning_effort\": \"low\"}'")
    parser.add_argument("--votes", type=int, default=1, help="replies of an LLM judge, of which the majority counts")
    parser.add_argument("--neutral-is-error", action="store_true", help="as in the paper's release")
    parser.add_argument("--rollouts", type=int, default=8, help="continuations from each probed prefix")
    parser.add_argument("--scan", action="store_true", help="rollouts: probe every step, not by binary search")
    parser.add_argument("--threshold", type=float, default=0.5, help="prm: a step with a lower score is wrong")
    parser.add_argument("--step-token", metavar="TEXT", help="prm: what stands after each step (default: by the kind "
                        "of PRM)")
    parser.add_argument("--anywhere", action="store_true", help="equations: where they cannot tell, name the first "
                        "plainly false equation whatever stands before it; for answers that are not all equations")


def make_judges(names, args, policy=None):
    """{name: judge} for the name of a judge, or for several joined by commas.

    policy: the policy that is open already, if there is one. UserError for a name that is none.
    """
    judges = {}
    for name in (name.strip() for name in names.split(",")):
        file, model = find_judge(name, names)
        judges[name] = load_judge(file, model, args, policy)
    return judges


def find_judge(name, names):
    """(file, model) of one judge's name: equations -> judges/equations.py, None; M -> judges/llm.py, "M".

    What is not refused here is asked of a server, so a slip of the pen has to be noticed. UserError where one is.
    """
    own, _, model = name.partition(":")
    if own in OWN_JUDGES:
        return HERE / f"{own}.py", model or None
    if name.endswith(".py"):
        if not os.path.isfile(name):
            raise UserError(f"--judge {names!r}: no file {name!r}", 2)
        return Path(name), None
    near = difflib.get_close_matches(own, OWN_JUDGES, 1, 0.8)
    absent_path = name.startswith((".", "/")) and not os.path.isdir(name)
    strange_judge = model and os.path.isdir(model)  # no model is called NAME:FOLDER
    if not name or near or absent_path or strange_judge:
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(OWN_JUDGES)}, a model or its folder"
        raise UserError(f"--judge {names!r}: {name!r} is none; {hint}", 2)
    return HERE / "llm.py", name


def load_judge(file, model, args, policy):
    """The coroutine that a judge's file holds or makes. UserError for a file that is no judge.

    A file that wants a model behind its name says in MODEL what that is.
    """
    if file.parent == HERE:
        module = importlib.import_module(f"judges.{file.stem}")
    else:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    wanted = getattr(module, "MODEL", None)
    if wanted and not model:
        raise UserError(f"--judge {file.stem}: say which, as {file.stem}:{wanted}", 2)
    if model and not wanted:
        raise UserError(f"--judge {file.stem}:{model}: {file.stem} takes no model; leave {model!r} out", 2)
    if hasattr(module, "make_judge"):
        return module.make_judge(argparse.Namespace(**{**vars(args), "judge_model": model}), policy)
    if hasattr(module, "judge"):
        return module.judge
    raise UserError(f"--judge {file}: has neither `judge` nor `make_judge`; see judges/__init__.py", 2)


async def agree(row, parts, judges, whole=True):
    """The Verdict of all judges, who must agree; its words are {judge: words}.

    After one that is not sure, or says something else than the ones before it, the next are not asked.
    """
    agreed, words, scores = None, {}, None
    for name, judge in judges.items():
        try:
            verdict = Verdict(*await judge(row, parts, whole))
        except Refused as error:  # costs this verdict, not the other answers to the problem
            verdict = Verdict(error.args[0], "".join(error.args[1:]))
        bad_step, words[name] = verdict.bad_step, verdict.words
        if scores is None:
            scores = verdict.scores
        if isinstance(bad_step, str):
            return Verdict(bad_step, words, scores)
        if not 0 <= bad_step < max(len(parts), 1):
            raise UserError(f"judge {name}: names step {bad_step} of row {row['id']}, which has {len(parts) - 1}; "
                            "steps count from 1, and 0 is no error")
        if agreed is not None and bad_step != agreed:
            return Verdict("judges disagree", words, scores)
        agreed = bad_step
    return Verdict(agreed, words, scores)


def judge_settings(judges):
    """{judge: what its server did not take of the settings}, as a field of a row; {} where all was taken."""
    refused = {name: dict(judge.not_taken) for name, judge in judges.items() if getattr(judge, "not_taken", None)}
    return {"judge_settings": refused} if refused else {}


def run_judged(output, path, required, work, width, judges, each=None):
    """`run_stage` of rows, at most `width` at once; with a person among the judges, one row at a time.

    `back` then takes the row before out of the output, and all up to the last one that the person was asked about.
    They are judged again, then the row at which the person went back.
    """
    if "human" not in judges:
        return run_stage(output, path, required, lambda row: [row], work, width, each=each)
    if not output.path:
        raise UserError("--judge human needs --out FILE: hours at the desk are not for a pipe", 2)
    asked = judges["human"].asked  # grows with each row that the person judged
    finished = deque(maxlen=output.UNDO)  # (row, whether the person was asked about it)

    def take_back():
        """The rows that are taken out of the output, the first one first."""
        rows, was_asked = [], False
        while finished and not was_asked and output.undo(finished[-1][0]["id"]):
            row, was_asked = finished.pop()
            rows.insert(0, row)
        return rows

    async def undoable(row):
        while True:
            before = asked["rows"]
            try:
                rows = await work(row)
            except Back:
                for earlier in take_back():
                    output.write(earlier["id"], await undoable(earlier))
                continue
            finished.append((row, asked["rows"] > before))
            return rows

    return run_stage(output, path, required, lambda row: [row], undoable, 1, each=each)
