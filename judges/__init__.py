"""A judge says which step of an answer is the first wrong one. One file a judge."""
import difflib
import os
from collections import deque

from judges.equations import equations_judge
from judges.human import human_judge
from judges.llm import llm_judge
from judges.rollouts import rollouts_judge
from judges.verdict import Back
from stepdpo.command import UserError
from stepdpo.reply import Refused
from stepdpo.stage import run_stage

OWN_JUDGES = ("equations", "rollouts", "human")  # any other name is a model's
# A judge is a coroutine judge(row, parts, whole) -> Verdict. parts: what comes before Step 1, then the steps with
# their headers; joined they are the completion, or the beginning of one when it is not `whole`.


def make_judges(names, args, policy=None):
    """{name: judge} for a judge, or several joined by commas. policy: that of rollouts, if it is open already."""
    def make(name):
        if name == "equations":
            return equations_judge
        if name == "human":
            return human_judge()
        return rollouts_judge(args, policy) if name == "rollouts" else llm_judge(name, args)
    asked = [name.strip() for name in names.split(",")]
    for name in asked:  # whatever is not refused here is a model that a server is asked for
        near = difflib.get_close_matches(name, OWN_JUDGES, 1, 0.8)
        if not name or near and name not in OWN_JUDGES or name.startswith((".", "/")) and not os.path.isdir(name):
            hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(OWN_JUDGES)}, a model or its folder"
            raise UserError(f"--judge {names!r}: {name!r} is none; {hint}", 2)
    return {name: make(name) for name in asked}


async def agree(row, parts, judges, whole=True):
    """(what all judges say, {judge: its words}). After one that is not sure the next are not asked."""
    found, words = None, {}
    for name, judge in judges.items():
        try:
            bad_step, words[name] = await judge(row, parts, whole)
        except Refused as error:  # costs this verdict, not the other answers to the problem
            bad_step, words[name] = error.args[0], "".join(error.args[1:])
        if isinstance(bad_step, str):
            return bad_step, words
        if found not in (None, bad_step):
            return "judges disagree", words
        found = bad_step
    return found, words



def run_judged(output, path, required, work, width, judges, each=None):
    """`run_stage` where a person may be among the judges: one row at a time then, and `back` takes the row before
    out of the output and asks for it again."""
    if "human" not in judges:
        return run_stage(output, path, required, lambda row: [row], work, width, each=each)
    if not output.path:
        raise UserError("--judge human needs --out FILE: hours at the desk are not for a pipe", 2)
    done, finished = judges["human"].done, deque(maxlen=output.UNDO)  # finished: (row, whether the person was asked)

    async def undoable(row):
        while True:
            before = done["rows"]
            try:
                rows = await work(row)
                finished.append((row, done["rows"] > before))
                return rows
            except Back:
                again, asked = [], False
                while finished and not asked and output.undo(finished[-1][0]["id"]):
                    last, asked = finished.pop()
                    again.append(last)
                for last in reversed(again):
                    output.write(last["id"], await undoable(last))
    return run_stage(output, path, required, lambda row: [row], undoable, 1, each=each)



def add_judge_flags(parser):
    """The flags that decide how a judge judges, for locate.py and correct.py --verify."""
    parser.add_argument("--judge-url", help="OpenAI-compatible server of the judge (default: the OpenAI variables)")
    parser.add_argument("--votes", type=int, default=1, help="replies of an LLM judge, of which the majority counts")
    parser.add_argument("--neutral-is-error", action="store_true", help="as in the paper's release")
    parser.add_argument("--rollouts", type=int, default=8, help="continuations from each probed prefix")
    parser.add_argument("--scan", action="store_true", help="rollouts: probe every step, not by binary search")
