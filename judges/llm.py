"""The judge that is a language model, behind a server or here."""
import asyncio
import json
import os
import re
from collections import Counter

from judges.verdict import Verdict
from stepdpo.command import UserError
from stepdpo.policy import sample_seed
from stepdpo.prompts import end_of_turn, load_tokenizer, render_chat
from stepdpo.reply import Refused, Reply
from stepdpo.sampler import local_engine
from stepdpo.server import chat_server
from stepdpo.settings import parse_extra_body
from stepdpo.stage import once
from stepdpo.steps import strip_header

MODEL = "MODEL"
JUDGE_TRIES = 3  # for a reply that cannot be read
CUT_TRIES = 2  # for one that is cut: each of them costs the whole budget
CUT = "judge cut by --judge-max-tokens"
JUDGE_PROMPT = """Here is a problem{and_reference} and an answer to check, step by step. Find the first step \
that is incorrect, if there is one.

Problem:
{problem}
{reference}
Answer to check:
{preamble}{steps}

First analyse the steps one after another, in at most 200 words. Then write a line "Final Decision:" and below it one \
label for each step, "Step 1: LABEL; Step 2: LABEL; ...". A label is correct, neutral (it neither helps nor harms) or \
incorrect. Stop at the first incorrect step."""
REMINDER = "\n\nEnd with the line \"Final Decision:\" and the labels, nothing else."
# "Step 2: correct", "**Step 2:** Incorrect", "step 2 is neutral"
LABEL = re.compile(r"step\s*(\d{1,6})\W{1,6}(?:is\s+)?(incorrect|correct|neutral)", re.I)
# "Step 1: correct; Step 2: neutral; ...": not a verdict, but how one looks
EXAMPLE = re.compile(r"step\s*1:\s*correct;\s*step\s*2:\s*neutral;\s*(?:\.\.\.|…)", re.I)
FENCE = re.compile(r"```(?:json)?")  # around JSON: "```json"
THOUGHT_BEGINS = re.compile(r"<think(?:ing)?>|\[THINK\]", re.I)  # "<think>Step 2 is wrong? No.</think>"
THOUGHT_ENDS = re.compile(r"</think(?:ing)?>|\[/THINK\]", re.I)


def judge_text(row, parts):
    """What an LLM judge is asked. Steps are numbered by their place, whatever number the model wrote."""
    and_reference = reference = preamble = ""
    for kind in ("solution", "answer"):
        known = row.get(kind)
        if known not in (None, ""):
            known = known if isinstance(known, str) else json.dumps(known, ensure_ascii=False)
            and_reference, reference = f", its correct {kind}", f"\nCorrect {kind}:\n{known}\n"
            break
    if parts[0].strip():
        preamble = parts[0].strip() + "\n"
    steps = [f"Step {k}: {strip_header(part).strip()}" for k, part in enumerate(parts[1:], 1)]
    return JUDGE_PROMPT.format(and_reference=and_reference, problem=row["prompt"], reference=reference,
                               preamble=preamble, steps="\n".join(steps))


def strip_thoughts(reply):
    """The reply without its reasoning, in which a judge may say this and that.

    All up to the last closing tag goes, for a server may leave out the opening one; so does what was never closed.
    """
    closed = [match.end() for match in THOUGHT_ENDS.finditer(reply)]
    text = reply[closed[-1]:] if closed else reply
    opened = THOUGHT_BEGINS.search(text)
    return text[:opened.start()] if opened else text


def parse_labels(reply):
    """(step, label) pairs of a judge's reply: a JSON object at its end, or the text after the last "Final Decision"."""
    text = EXAMPLE.sub("", FENCE.sub("", strip_thoughts(reply)))
    try:
        found = json.loads(text[max(text.rfind("{"), 0):text.rfind("}") + 1], strict=False)
    except ValueError:
        found = None
    if isinstance(found, dict) and found:
        lines = []
        for key, value in found.items():  # {"Step 1": "correct"} or {"1": "correct"}
            number = key.lower().replace("step", "").strip()
            if isinstance(value, str):
                lines.append(f"Step {number}: {value}")
        text = "; ".join(lines)
    else:
        at = text.lower().rfind("final decision")
        text = text[at:] if at >= 0 else ""
    return [(int(k), label.lower()) for k, label in LABEL.findall(text)]


def parse_verdict(reply, n_steps, neutral_is_error=False):
    """The first incorrect step, 0 when all n_steps are labelled and none is, "unparsed" for anything else.

    A step labelled twice in two ways, or one that does not exist, makes the reply unparsed.
    """
    labels = {}
    for k, label in parse_labels(reply):
        if not 1 <= k <= n_steps or labels.setdefault(k, label) != label:
            return "unparsed"
    errors = {"incorrect", "neutral"} if neutral_is_error else {"incorrect"}
    wrong = [k for k, label in labels.items() if label in errors]
    if wrong:
        return min(wrong)
    return 0 if len(labels) == n_steps else "unparsed"


def judge_temperature(args):
    """--temperature, or what suits: one reply is the likeliest, several have to differ."""
    if args.temperature is not None:
        return args.temperature
    return 0.0 if args.votes == 1 else 0.8


def make_judge(args, policy):
    """A judge that asks a model for `--votes` replies, of which the majority counts."""
    name, extra = args.judge_model, parse_extra_body(args.judge_extra_body, "--judge-extra-body")
    if args.judge_max_tokens < 1:
        raise UserError(f"--judge-max-tokens {args.judge_max_tokens}: must be at least 1", 2)
    local = os.path.isdir(name) and not args.judge_url
    if local and extra:
        raise UserError("--judge-extra-body goes to a server, and the judge is a folder; give --judge-url", 2)
    ask, not_taken = make_ask(name, args, extra, local)

    async def judge(row, parts, whole):
        text = judge_text(row, parts)
        votes = await asyncio.gather(*(vote(ask, text, len(parts) - 1, f"{name}/{row['id']}", j, args)
                                       for j in range(args.votes)))
        if args.votes == 1:
            return votes[0]
        winner, n = Counter(each.bad_step for each in votes).most_common(1)[0]
        majority = 2 * n > args.votes
        return Verdict(winner if majority else "no majority", [each.words for each in votes])

    judge.not_taken = not_taken
    return judge


def make_ask(name, args, extra, local):
    """(ask(text, seed) -> Reply, {what of the settings the server did not take}) of a served model or a folder.

    It is opened when it is first asked, and asks once even if the run is killed: the journal keeps its replies, and
    with them what was not taken.
    """
    how = {"temperature": judge_temperature(args), "top_p": args.top_p, "max_tokens": args.judge_max_tokens}
    tokenizer = load_tokenizer(name) if local else None
    engine, not_taken = None, {}

    def open_engine():
        if local:
            end = {*end_of_turn(tokenizer, "chat")[-1:]} - {tokenizer.eos_token_id}
            return local_engine(name, tokenizer, (), args.batch_size, args.device, how, end, args.dtype)
        return chat_server(args.judge_url, name, args, how, key="JUDGE_API_KEY", extra_body=extra)

    async def ask(text, seed):
        async def ask_now():
            nonlocal engine
            if engine is None:
                engine = open_engine()
            reply = await engine(render_chat(tokenizer, text) if local else text, seed)
            return [*reply, {} if local else engine.settings.record()]

        text, finish_reason, record = await once(seed, ask_now)
        not_taken.update(record)
        return Reply(text, finish_reason)
    return ask, not_taken


async def vote(ask, text, n_steps, key, j, args):
    """The Verdict of one reply, the j-th of this row.

    A reply that cannot be read is asked for again with a reminder, JUDGE_TRIES times in all; one that is cut, or empty
    because reasoning took all of it, CUT_TRIES times. What the server refuses of this row costs this vote, not others.
    """
    cut = 0
    for again in range(JUDGE_TRIES):
        asked = text + again * REMINDER  # asked in the same words, a greedy judge would say the same
        try:
            reply = await ask(asked, sample_seed(args.seed, key, f"{j}.{again}"))
        except Refused as error:
            return Verdict(error.args[0], "".join(error.args[1:]))
        if reply.finish_reason == "length":
            bad_step, cut = CUT, cut + 1
            if cut == CUT_TRIES:
                break
            continue
        bad_step = parse_verdict(reply.text, n_steps, args.neutral_is_error)
        if bad_step != "unparsed":
            break
    return Verdict(bad_step, reply.text)
