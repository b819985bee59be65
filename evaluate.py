"""Ask a model every problem of a JSONL file and report how often it is right.

    python evaluate.py --model runs/m-step-dpo problems.jsonl --out eval.jsonl
    python evaluate.py answers.jsonl > /dev/null          # regrade: rows that have a `completion` ask nobody
    python evaluate.py --model runs/m-step-dpo --ask "What is 17 times 23?"

in:  {"id", "prompt", "answer"[, "dataset", "level", "subject"]}
out: the row with {"completion", "pred", "correct", "finish_reason", "sampling"}; its id becomes id#j for sample j

Two engines stand behind one coroutine `ask(text, seed) -> Reply`: a local model (an own sampling loop over
transformers) or any OpenAI-compatible server (--base-url). To grade otherwise, change the two functions that
are imported from grade.py.
"""
import argparse
import asyncio
import hashlib
import math
import os
import random
import re
import sys
import threading
from collections import Counter, defaultdict, namedtuple

from grade import extract_answer, same_answer
from steps import (PROMPTS, REFUSED, GaveUp, Help, Refused, UserError, add_record_flags, encodable, encode, load_tokenizer,
                   once, open_output, printable, read_rows, render_prompt, run_main, run_stage, split_steps, stop_strings)

Reply = namedtuple("Reply", "text finish_reason")  # finish_reason: "stop", or "length" for an answer that was cut
TRIES = 8  # times the client's own 3
SPENT = Counter()  # replies and tokens that this process has asked for, for whoever reports the cost


# ----------------------------------------------------------------------------------------------- asking

def add_ask_flags(parser, prefix, temperature, top_p=1.0, max_tokens=2048):
    """The flags that every stage that asks a model shares."""
    parser.add_argument("--model", help="model folder or hub name, or the name that a server serves")
    parser.add_argument("--tokenizer", help="tokenizer folder or hub name (default: --model)")
    parser.add_argument("--base-url", help="OpenAI-compatible server, e.g. http://localhost:8000/v1; key from "
                                           "OPENAI_API_KEY (default: load --model here)")
    parser.add_argument("--prompt", choices=PROMPTS, default="chat", help="prompt format; chat is the tokenizer's own")
    parser.add_argument("--prefix", default=prefix, help="text that an answer asked for anew has to continue")
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=top_p, help="nucleus to sample from")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="longest answer, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="sample j of a row has the seed (SEED, id, j)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight at a server")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a server may take for one reply")
    parser.add_argument("--batch-size", type=int, default=64, help="answers sampled together by the local engine")
    parser.add_argument("--device", help="of the local engine (default: cuda if there is one)")


def check_ask_flags(args):
    """UserError for numbers that no engine can use."""
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-9, 1), ("max_tokens", 1, 1 << 30),
                            ("concurrency", 1, 1 << 16), ("timeout", 1e-3, 1e6), ("batch_size", 1, 1 << 16),
                            ("samples", 1, 1 << 20), ("votes", 1, 1 << 10), ("rollouts", 1, 1 << 16),
                            ("max_per_prefix", 1, 1 << 20)):
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be from {low:g} to {high:g}", 2)


def sample_seed(seed, key, j):
    """The seed of sample j of row `key`: from identity, never from order, so that resuming asks the same."""
    identity = f"{seed}/{key}/{j}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(identity, digest_size=4).digest()) >> 1


def sampling_record(args):
    """What a sampled row says about how it came to be."""
    return {name: getattr(args, name) for name in ("model", "prompt", "prefix", "temperature", "top_p", "max_tokens",
                                                   "seed")}


class Policy:
    """The model under --model, opened when it is first asked: `await policy.ask(problem, solution, seed)`."""
    def __init__(self, args):
        self.args, self.opening = args, None
        self.width = args.concurrency if args.base_url else 4 * args.batch_size  # units that keep it busy

    async def ask(self, problem, solution, seed):
        """Continue `solution`, the beginning of an answer to `problem`; returns the Reply to what came after it."""
        if self.opening is None:  # in a thread: Ctrl-C is heard while a large model loads
            self.opening = asyncio.create_task(asyncio.to_thread(self.open))
        tokenizer, engine = await asyncio.shield(self.opening)
        return await engine(render_prompt(tokenizer, problem, self.args.prompt, solution), seed)

    async def ask_once(self, problem, solution, seed):
        """`ask` for units of many requests: a reply that a killed run had is not asked for again."""
        return Reply(*await once(seed, lambda: self.ask(problem, solution, seed)))

    def open(self):
        """(tokenizer, ask) of the model, here or behind a server."""
        args = self.args
        if not args.model:
            raise UserError("no --model: rows without a 'completion' need one to ask", 2)
        tokenizer, stop = load_tokenizer(args.tokenizer or args.model, "give --tokenizer"), stop_strings(args.prompt)
        render_prompt(tokenizer, "", args.prompt)  # what is wrong with the template shows before a model is loaded
        how = dict(temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_tokens)
        if args.base_url:
            return tokenizer, completion_server(args.base_url, args.model, tokenizer, stop, args, how)
        return tokenizer, local_engine(args.model, tokenizer, stop, args.batch_size, args.device, how)


# --------------------------------------------------------------------------------- sampling: local model

def load_model(folder, device=None):
    """A causal LM in evaluation mode: bf16 on a GPU, fp32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if device == "cpu" else torch.bfloat16, use_safetensors=True,
            trust_remote_code=False)
        return model.eval().to(device)
    except Exception as error:  # every kind of broken folder raises another class
        raise UserError(f"{folder}: no model could be loaded ({' '.join(str(error).split())[:160]}); "
                        "name a folder with config.json and safetensors", 2) from error


def pick_tokens(logits, uniform, temperature, top_p):
    """One token a row by inverse CDF. logits: (B, V); uniform: (B,) in [0, 1). Greedy when temperature is 0.

    Each row brings its own random number, so what it draws does not depend on the rows around it.
    """
    import torch
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        ordered, order = probs.sort(-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probs = torch.zeros_like(probs).scatter(-1, order, ordered)
    cdf = probs.double().cumsum(-1)
    return torch.searchsorted(cdf, uniform.double().unsqueeze(1) * cdf[:, -1:], right=True).squeeze(1)


def growing_cache(config):
    """transformers' cache, whose full layers have room to grow: a copy for every token took 40 % of the time."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    def append(layer, name, new):
        old = getattr(layer, name)
        length, end = old.shape[-2], old.shape[-2] + new.shape[-2]
        whole = getattr(layer, f"whole_{name}", None)
        if whole is None or whole.data_ptr() != old.data_ptr() or whole.shape[-2] < end:  # new, selected from, or full
            whole = old.new_empty(*new.shape[:2], end + 64, new.shape[-1])
            whole[:, :, :length] = old
            setattr(layer, f"whole_{name}", whole)
        whole[:, :, length:end] = new
        setattr(layer, name, whole[:, :, :end])

    class Layer(DynamicLayer):
        def update(self, keys, values, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
                self.keys, self.values = keys[:, :, :0], values[:, :, :0]
            append(self, "keys", keys)
            append(self, "values", values)
            return self.keys, self.values

    cache = DynamicCache(config=config)
    cache.layers = [Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def sample_batch(model, prompts, seeds, limits, ended, temperature, top_p):
    """Continue each prompt until `ended(ids)` or its limit of tokens. prompts: lists of ids. Returns lists of ids.

    Equal prompts are prefilled once and their cache is repeated; finished rows leave the batch.
    """
    import torch
    distinct = sorted(set(map(tuple, prompts)), key=len)
    row_of = {ids: i for i, ids in enumerate(distinct)}
    width, device = len(distinct[-1]), model.device
    ids = torch.zeros(len(distinct), width, dtype=torch.long)
    mask = torch.zeros_like(ids)  # prompts are padded on the left
    for i, prompt in enumerate(distinct):
        ids[i, width - len(prompt):] = torch.tensor(prompt)
        mask[i, width - len(prompt):] = 1
    which = torch.tensor([row_of[tuple(prompt)] for prompt in prompts], device=device)
    mask = mask.to(device)
    cache = growing_cache(model.config)
    with torch.inference_mode():
        logits = model(input_ids=ids.to(device), attention_mask=mask, cache=cache, logits_to_keep=1,
                       position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[which, -1]
        cache.batch_select_indices(which)
        mask = mask[which]
        uniform = torch.stack([torch.rand(max(limits), generator=torch.Generator().manual_seed(seed))
                               for seed in seeds]).to(device)
        answers, alive, done = [[] for _ in prompts], list(range(len(prompts))), set()
        for t in range(max(limits)):
            token = pick_tokens(logits, uniform[:, t], temperature, top_p)
            for row, value in zip(alive, token.tolist()):
                if row not in done:
                    answers[row].append(value)
                    if t + 1 == limits[row] or ended(answers[row]):
                        done.add(row)
            keep = [i for i, row in enumerate(alive) if row not in done]
            if not keep:
                return answers
            if len(keep) < 0.9 * len(alive):  # to copy the cache costs more than to carry some finished rows along
                alive = [alive[i] for i in keep]
                keep = torch.tensor(keep, device=device)
                cache.batch_select_indices(keep)
                token, mask, uniform = token[keep], mask[keep], uniform[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = model(input_ids=token[:, None], attention_mask=mask, cache=cache,
                           position_ids=mask.sum(-1, keepdim=True) - 1).logits[:, -1]


def local_engine(folder, tokenizer, stop, batch_size, device, how):
    """ask() for a model in this process."""
    model, over = load_model(folder, device), threading.Event()
    room = getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 20)  # some have no positions
    vocabulary = model.get_input_embeddings().num_embeddings
    eos = model.generation_config.eos_token_id
    eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}

    def ended(ids):
        return over.is_set() or ids[-1] in eos or stop and any(s in tokenizer.decode(ids[-24:]) for s in stop)

    def finish(prompt, ids):
        tail = prompt[-4:]  # some tokenizers drop the first token's space unless something stands before it
        before = len(tokenizer.decode(tail, skip_special_tokens=True))
        text = tokenizer.decode(tail + ids, skip_special_tokens=True)[before:]
        return trim(text, stop, "stop" if ended(ids) else "length")

    def sample(batch):
        prompts, seeds = zip(*batch)
        limits = [min(how["max_tokens"], room - len(prompt)) for prompt in prompts]
        answers = sample_batch(model, prompts, seeds, limits, ended, how["temperature"], how["top_p"])
        SPENT.update(replies=len(batch), tokens=sum(map(len, answers)) + sum(map(len, set(map(tuple, prompts)))))
        return [finish(prompt, ids) for prompt, ids in zip(prompts, answers)]

    put = batched(sample, batch_size, over)

    async def ask(text, seed):
        prompt = encode(tokenizer, text)
        if not 0 < len(prompt) < room:
            raise Refused("prompt longer than the context" if prompt else "empty prompt")
        if max(prompt) >= vocabulary:
            raise UserError(f"{folder}: its {vocabulary} token embeddings do not cover the tokenizer's {max(prompt)}; "
                            "give the --tokenizer that belongs to the model", 2)
        return await put(prompt, seed)
    return ask


def batched(sample, batch_size, over):
    """put(prompt, seed) -> Reply by way of sample([(prompt, seed), ...]) -> Replies, which runs in a thread.

    Waiting requests are sorted by length. `over` is set when nobody waits any more, for the thread to stop.
    """
    waiting, worker = [], None

    async def work():
        while waiting:
            await asyncio.sleep(0)  # let every unit that is ready put its request in
            waiting.sort(key=lambda request: len(request[0]))
            batch = waiting[:batch_size]
            del waiting[:batch_size]
            try:
                replies = await asyncio.to_thread(sample, [request[:2] for request in batch])
            except asyncio.CancelledError:
                over.set()
                raise
            for (_, _, future), reply in zip(batch, replies):
                if not future.cancelled():
                    future.set_result(reply)
            await asyncio.sleep(0)

    async def put(prompt, seed):
        nonlocal worker
        future = asyncio.get_running_loop().create_future()
        waiting.append((prompt, seed, future))
        if worker is None or worker.done():
            worker = asyncio.create_task(work())
        done, _ = await asyncio.wait({future, worker}, return_when=asyncio.FIRST_COMPLETED)
        if future not in done:
            worker.result()  # an error in the sampling loop must not leave everyone waiting
        return await future
    return put


def trim(text, stop, finish_reason):
    """Cut a reply at the first stop string: one of four servers leaves it in."""
    ends = [text.index(s) for s in stop if s in text]
    return Reply(text[:min(ends)], "stop") if ends else Reply(text, finish_reason)


# --------------------------------------------------------------------------------- sampling: a server

def completion_server(base_url, model, tokenizer, stop, limits, how):
    """ask() for /v1/completions: the one form that continues a prefix on every server.

    The text already holds the beginning-of-sequence token. So token ids are sent where the server takes them, else
    the text with add_special_tokens off, else (a server that knows neither) the text less that token.
    """
    start = tokenizer.bos_token or ""
    # ids in the extra body, for the client looks at each id of its own `prompt`: 18 ms for 500 of them
    forms = [lambda text: dict(prompt="", extra_body={"prompt": encode(tokenizer, text)}),
             lambda text: dict(prompt=encodable(text), extra_body={"add_special_tokens": False}),
             lambda text: dict(prompt=encodable(text).removeprefix(start))]
    request = requester(base_url, model, limits)

    def read(reply):
        return reply.choices[0].text, reply.choices[0].finish_reason

    async def ask(text, seed):
        for form in list(forms):
            try:
                answer, why = await request(lambda client: client.completions.create(
                    model=model, seed=seed, n=1, stop=list(stop) or None, **how, **form(text)), read)
            except Refused as error:
                refused = error
                continue
            forms[:] = [form]  # what was answered once is what this server speaks
            return trim(answer, stop, "length" if why == "length" else "stop")
        raise refused
    return ask


def chat_server(base_url, model, limits, how, key="OPENAI_API_KEY"):
    """ask() for /v1/chat/completions: the text is one user message. For judges."""
    request = requester(base_url, model, limits, key)

    def read(reply):
        message = reply.choices[0].message
        if message.content is None and message.refusal:
            raise Refused("refused by the model", message.refusal)
        return message.content, reply.choices[0].finish_reason

    async def ask(text, seed):
        answer, why = await request(lambda client: client.chat.completions.create(
            model=model, seed=seed, n=1, messages=[{"role": "user", "content": encodable(text)}], **how), read)
        return Reply(answer, "length" if why == "length" else "stop")
    return ask


def requester(base_url, model, limits, key="OPENAI_API_KEY"):
    """request(call, read): make a call, read (text, finish_reason) from its reply, try again when either fails.

    limits: has `concurrency`, requests in flight, and `timeout`, seconds for a reply (three of them end the tries).
    The client itself retries refused connections, 408, 409, 429 and 5xx; a 200 with HTML, an error object, no
    choices or no text passes it unnoticed. Raises Refused, GaveUp, or UserError for what ends the run.
    """
    import openai
    secret = os.environ.get(key) or os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.AsyncOpenAI(base_url=base_url, api_key=secret, max_retries=2, timeout=limits.timeout)
    where, free, answered = str(client.base_url), asyncio.Semaphore(limits.concurrency), False

    def accept(reply):
        nonlocal answered
        if not answered and not str(reply.model or model).startswith(model):
            print(f"{where}: asked for {model!r}, {reply.model!r} answers", file=sys.stderr)
        answered = True
        SPENT.update(replies=1, tokens=getattr(reply.usage, "total_tokens", None) or 0)

    async def request(call, read):
        late = 0
        for attempt in range(TRIES):
            try:
                async with free, asyncio.timeout(limits.timeout):  # of the whole: a server may drip for ever
                    reply = await call(client)
                text, why = read(reply)
                if isinstance(text, str):
                    accept(reply)
                    return text, why
                fault = "a reply without text"
            except (openai.APIError, ValueError, TypeError, AttributeError, IndexError, RecursionError,
                    TimeoutError) as error:
                fault = explain(error, where, model, key, limits.timeout, first=not answered,
                                last=attempt + 1 == TRIES or attempt and not answered)
                late += isinstance(error, (TimeoutError, openai.APITimeoutError))
            if late == 3:
                break
            await asyncio.sleep(min(30, 2 ** attempt) * random.uniform(0.5, 1))
        raise GaveUp(f"{where}: {attempt + 1} tries failed, the last with: {fault}; this row is left for --resume")
    return request


def explain(error, where, model, key, timeout, first, last):
    """What a failed try says, for the next one; raises what no further try will mend.

    first: nothing was answered yet, so the settings may be wrong. last: no further try is meant.
    """
    import openai
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        raise UserError(f"{where}: {error.status_code}, the API key is refused; set {key}") from error
    if isinstance(error, openai.NotFoundError):
        raise UserError(f"{where}: 404, no model {model!r} there ({short(error)}); see {where.rstrip('/')}/models, or "
                        "is /v1 missing at the end?") from error
    if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
        if first and model in short(error):
            raise UserError(f"{where}: refuses model {model!r} ({short(error)})") from error
        raise Refused(REFUSED, short(error)) from error
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return f"no reply in {timeout:g} seconds (--timeout)"
    if isinstance(error, openai.APIConnectionError) and last:
        flag = "--judge-url" if key == "JUDGE_API_KEY" else "--base-url"
        raise UserError(f"{where}: no answer ({short(error)}); start the server, wait until it serves, or mend "
                        f"{flag}") from error
    return short(error)


def short(error):
    """An exception in one line, with what the server or the network said of it."""
    said = error.response.text if hasattr(error, "response") else error.__cause__ or error
    return " ".join(f"{type(error).__name__}: {said}".split())[:200]


# ---------------------------------------------------------------------------------------------- grading

async def answer_row(row, policy):
    """The row with a graded completion, asked for where it has none. Its id is (problem's id)#j."""
    if "completion" not in row:
        args = policy.args
        key, j = row["id"].rsplit("#", 1)
        reply = await policy.ask(row["prompt"], args.prefix, sample_seed(args.seed, key, j))
        row = {**row, "completion": args.prefix + reply.text, "finish_reason": reply.finish_reason,
               "sampling": sampling_record(args)}
    pred = extract_answer(row["completion"])
    return {**row, "pred": pred, "correct": pred is not None and same_answer(pred, row["answer"], row["prompt"])}


def answer_units(samples):
    """What is asked of a problem: `samples` answers, or nothing when the row brings its completion."""
    def units(row):
        if row.get("completion") is not None:
            return [row]
        row.pop("completion", None)
        return ({**row, "id": f"{row['id']}#{j}"} for j in range(samples))
    return units


# --------------------------------------------------------------------------------------------- reporting

def wilson(right, n, z=1.96):
    """95 % interval of a proportion (Wilson 1927)."""
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def mean_interval(rates):
    """95 % interval of the mean over problems of each problem's rate (a problem is the cluster of its samples)."""
    n, mean = len(rates), sum(rates) / len(rates)
    if set(rates) <= {0, 1} or len(set(rates)) == 1:  # one sample a problem, or no difference to go by
        return wilson(sum(rates), n)
    half = 1.96 * math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (n - 1) / n)
    return max(0, mean - half), min(1, mean + half)


def majority_right(samples):
    """Whether the most frequent answer of a problem is right; the earlier one wins a tie."""
    votes = []  # [answer, count, correct]
    for pred, correct in samples:
        for vote in votes:
            if None not in (pred, vote[0]) and same_answer(pred, vote[0]):
                vote[1] += 1
                break
        else:
            votes.append([pred, pred is not None, correct])
    return max(votes, key=lambda vote: vote[1])[2]


def problem_of(row):
    """The id of the problem that a sampled row answers."""
    return re.sub(r"#\d+(/\d+)?$", "", row["id"])


def remember(problems, row):
    """Keep of a graded row what the report needs."""
    groups = [f"{name} {str(row[name]).removeprefix('Level ')}" for name in ("dataset", "level", "subject")
              if row.get(name) not in (None, "")]
    problem = problems[problem_of(row)]
    problem["groups"] = groups
    problem["samples"].append((row["pred"], row["correct"]))
    problem["cut"] += row.get("finish_reason") == "length"


def rate(problem):
    return sum(correct for _, correct in problem["samples"]) / len(problem["samples"])


def percent(value, interval):
    return f"{100 * value:5.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def report(problems):
    """Lines: accuracy, pass@n and majority@n with 95 % intervals, over all problems and by group."""
    groups = defaultdict(list)
    for problem in problems.values():
        for group in ["all", *problem["groups"]]:
            groups[group].append(problem)
    n = max(len(problem["samples"]) for problem in problems.values())
    names = ["accuracy"] + ([f"pass@{n}", f"majority@{n}"] if n > 1 else [])
    order = ["all"] + sorted((g for g in groups if g != "all"),
                             key=lambda g: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", g)])
    yield f"{'':24} {'problems':>8}  " + "".join(f"{name:24}" for name in names)
    for group in order:
        rates = [rate(problem) for problem in groups[group]]
        cells = [(sum(rates) / len(rates), mean_interval(rates))]
        if n > 1:
            for score in ([r > 0 for r in rates], [majority_right(p["samples"]) for p in groups[group]]):
                cells.append((sum(score) / len(score), wilson(sum(score), len(score))))
        yield f"{group[:24]:24} {len(rates):8}  " + "".join(f"{percent(*cell):24}" for cell in cells)
    cut = sum(problem["cut"] for problem in problems.values())
    if cut:
        yield f"{cut} answers were cut by --max-tokens or the model's context"


def compare(problems, other, resamples=10_000):
    """One line: paired difference in accuracy to `other` with a bootstrap interval over common problems."""
    import numpy as np
    common = [key for key in problems if key in other]
    if not common:
        return "compare: no problem in common; the ids differ"
    difference = np.array([rate(problems[key]) - rate(other[key]) for key in common])
    draws = np.random.default_rng(0)
    means = [difference[draws.integers(0, len(common), len(common))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    alone = len(problems) + len(other) - 2 * len(common)
    return (f"difference {100 * difference.mean():+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] "
            f"over {len(common)} common problems" + (f" ({alone} in one file only)" if alone else ""))


def new_problems():
    return defaultdict(lambda: {"groups": [], "samples": [], "cut": 0})


async def show_answer(policy, problem):
    """Print the model's answer to one problem, a step at a time."""
    try:
        reply = await policy.ask(problem, policy.args.prefix, sample_seed(policy.args.seed, problem, 0))
    except (Refused, GaveUp) as error:
        raise UserError(f"--ask: {' '.join(error.args)}") from error
    for part in filter(str.strip, split_steps(policy.args.prefix + reply.text)):
        print(printable(part.strip()), end="\n\n", flush=True)
    if reply.finish_reason == "length":
        print("cut by --max-tokens or the model's context", file=sys.stderr)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=Help)
    add_record_flags(parser)
    add_ask_flags(parser, prefix="", temperature=0.0)
    parser.add_argument("--samples", type=int, default=1, help="answers a problem; several want a --temperature")
    parser.add_argument("--compare", metavar="FILE", help="an earlier run's rows: print the paired difference to them")
    parser.add_argument("--ask", metavar="PROBLEM", help="print the answer to this problem; nothing is read or graded")
    args = parser.parse_args(argv)
    check_ask_flags(args)
    if args.ask:
        return asyncio.run(show_answer(Policy(args), args.ask))
    if args.samples > 1 and args.temperature == 0:
        raise UserError(f"--samples {args.samples} at temperature 0 are {args.samples} copies; give --temperature", 2)
    problems, other = new_problems(), new_problems()
    for row in read_rows(args.compare, ("answer",)) if args.compare else ():
        if not isinstance(row.get("correct"), bool):
            raise UserError(f"{args.compare}: row {row['id']} has no 'correct'; run evaluate.py on it first")
        remember(other, {"pred": None, **row})
    policy = Policy(args)

    async def work(unit):
        return [await answer_row(unit, policy)]

    code = run_stage(open_output("evaluate.py", args), args.input, ("prompt", "answer"), answer_units(args.samples),
                     work, policy.width, per_row=args.samples, each=lambda row: remember(problems, row))
    if problems:
        print(*report(problems), sep="\n", file=sys.stderr)
    if args.compare and problems:
        print(compare(problems, other), file=sys.stderr)
    return code


if __name__ == "__main__":
    run_main(main)
