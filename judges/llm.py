"""The judge that is a language model, behind a server or here."""
import asyncio
import json
import os
import re
from collections import Counter

from judges.verdict import Verdict
from stepdpo.policy import sample_seed
from stepdpo.prompts import load_tokenizer, render_chat
from stepdpo.reply import Refused
from stepdpo.sampler import local_engine
from stepdpo.server import chat_server
from stepdpo.stage import once
from stepdpo.steps import strip_header

JUDGE_TRIES = 3


JUDGE_PROMPT = """Here is a problem{and_reference} and an answer to check, step by step. Find the first step \
that is incorrect, if there is one.

Problem:
{problem}
{reference}
Answer to check:
{preamble}{steps}

First analyse the steps one after another, in at most 200 words. Then write a line "Final Decision:" and below it one \
label for each step, "Step 1: correct; Step 2: neutral; ...": correct, neutral (it neither helps nor harms) or \
incorrect. Stop at the first incorrect step."""
REMINDER = "\n\nEnd with the line \"Final Decision:\" and the labels, nothing else."
LABEL = re.compile(r"step\s*(\d{1,6})\W{1,6}(?:is\s+)?(incorrect|correct|neutral)", re.I)


def judge_text(row, parts):
    """What an LLM judge is asked. Steps are numbered by their place, whatever number the model wrote."""
    kind = next((name for name in ("solution", "answer") if isinstance(row.get(name), str) and row[name]), None)
    return JUDGE_PROMPT.format(
        and_reference=f", its correct {kind}" if kind else "", problem=row["prompt"],
        reference=f"\nCorrect {kind}:\n{row[kind]}\n" if kind else "",
        preamble=parts[0].strip() + "\n" if parts[0].strip() else "",
        steps="\n".join(f"Step {k}: {strip_header(part).strip()}" for k, part in enumerate(parts[1:], 1)))


def parse_labels(reply):
    """(step, label) pairs of a judge's reply: a JSON object at its end, or the text after the last "Final Decision"."""
    text = re.sub(r"```(?:json)?", "", reply)
    try:
        found = json.loads(text[max(text.rfind("{"), 0):text.rfind("}") + 1], strict=False)
    except ValueError:
        found = None
    if isinstance(found, dict) and found:
        text = "; ".join(f"Step {key.lower().replace('step', '').strip()}: {value}" for key, value in found.items()
                         if isinstance(value, str))
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
    wrong = ("incorrect", "neutral") if neutral_is_error else ("incorrect",)
    bad = [k for k in labels if labels[k] in wrong]
    return min(bad) if bad else 0 if len(labels) == n_steps else "unparsed"


def llm_judge(name, args):
    """A judge that asks a model for `--votes` replies; one that cannot be read is asked for again with a reminder."""
    temperature = args.temperature if args.temperature is not None else 0.0 if args.votes == 1 else 0.8
    how = dict(temperature=temperature, top_p=args.top_p, max_tokens=args.max_tokens)
    tokenizer = load_tokenizer(name) if os.path.isdir(name) and not args.judge_url else None
    engine = None

    async def vote(row, text, n_steps, j):
        for again in range(JUDGE_TRIES):
            asked = text + again * REMINDER  # asked in the same words, a greedy judge would say the same
            asked = render_chat(tokenizer, asked) if tokenizer else asked
            seed = sample_seed(args.seed, f"{name}/{row['id']}", f"{j}.{again}")
            try:
                reply, _ = await once(seed, lambda: engine(asked, seed))
            except Refused as error:  # costs this vote, not the others
                return Verdict(error.args[0], "".join(error.args[1:]))
            bad_step = parse_verdict(reply, n_steps, args.neutral_is_error)
            if bad_step != "unparsed":
                break
        return Verdict(bad_step, reply)

    async def judge(row, parts, whole):
        nonlocal engine
        if engine is None:
            engine = (local_engine(name, tokenizer, (), args.batch_size, args.device, how) if tokenizer else
                      chat_server(args.judge_url, name, args, how, key="JUDGE_API_KEY"))
        text = judge_text(row, parts)
        votes = await asyncio.gather(*(vote(row, text, len(parts) - 1, j) for j in range(args.votes)))
        winner, n = Counter(bad_step for bad_step, _ in votes).most_common(1)[0]
        return Verdict(winner if 2 * n > args.votes else "no majority",
                       votes[0].words if args.votes == 1 else [words for _, words in votes])
    return judge
