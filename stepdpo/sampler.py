"""Sample from a model in this process."""
import asyncio
import math
import os
import queue
import re
import threading
import time

from stepdpo.cache import attention_in_groups
from stepdpo.command import UserError, inform
from stepdpo.hub import find_files
from stepdpo.prompts import encode
from stepdpo.reply import SPENT, TOO_LONG, Refused, trim
from stepdpo.running import Row, RunningBatch, sample_rows


def load_for_sampling(folder, device=None, dtype=None):
    """A causal LM in evaluation mode. UserError for what cannot be loaded whole.

    dtype: "float32" or "bfloat16"; by default that on a CPU, this on a GPU.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
    device = find_device(device)
    dtype = dtype or ("float32" if device.type == "cpu" else "bfloat16")
    files = find_files(folder)
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said below, in one line
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **files)
        model = model.eval().to(device)
        logging.set_verbosity(before)
    except Exception as error:  # every kind of broken folder raises another class
        raise UserError(f"{folder}: no model could be loaded ({' '.join(str(error).split())[:160]}); "
                        "name a folder with config.json and safetensors", 2) from error
    missing = sorted(found["missing_keys"])
    if missing:  # they hold random numbers now
        raise UserError(f"{folder}: its files lack {len(missing)} of the weights that its config.json asks for "
                        f"({missing[0]}, ...); mend config.json or copy the files again", 2)
    attention_in_groups(model)
    return model


def find_device(name):
    """The torch.device under --device; without one a GPU, if there is one. UserError where it is not there."""
    import torch
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"--device {name}: not to be had here ({reason}); leave it out or give cpu", 2) from error
    return device


def sample_batch(model, prompts, seeds, limits, ended, temperature, top_p, slots=None):
    """Continue each prompt until `ended(ids)` or its limit of tokens; `slots` at once. Returns lists of ids.

    prompts: lists of ids. Equal prompts are read once.
    """
    rows = [Row(list(prompt), seed, limit) for prompt, seed, limit in zip(prompts, seeds, limits)]
    arrivals = queue.SimpleQueue()
    for row in rows:
        arrivals.put(row)
    batch = RunningBatch(model, ended, temperature, top_p)
    for _ in sample_rows(batch, arrivals, slots or len(rows), threading.Event()):
        pass
    return [row.answer for row in rows]


def check_sampling(model):
    """UserError for a model whose logits in a running batch are not those of its own whole forward passes.

    Tried with two prompts of different lengths, the second of which joins later.
    """
    import torch

    class Watched(RunningBatch):
        def pick(self, logits, rows):
            seen.extend((row, [*row.prompt, *row.answer], these) for row, these in zip(rows, logits))
            return super().pick(logits, rows)

    seen, size = [], model.get_input_embeddings().num_embeddings
    rows = [Row([(7 * i + 1) % size for i in range(n)], 0, 3) for n in (6, 3)]
    tolerance = 1e-2 if model.dtype == torch.float32 else 0.5  # of the spread of the logits; what is wrong is off by 1
    try:
        batch = Watched(model, lambda ids: False, 0.0, 1.0)
        for row in rows:
            batch.start([row], ())
            batch.step()
        batch = Watched(model, lambda ids: False, 0.0, 1.0)
        batch.start([Row(row.prompt, 0, 3) for row in rows], ())
        for row, ids, logits in seen:
            with torch.inference_mode():
                whole = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
            if whole.isnan().any():
                raise UserError(f"{model.name_or_path}: its logits are no numbers, as of damaged weights; get the model "
                                "anew", 2)
            if (whole - logits).abs().max() > tolerance * whole.std():
                raise UserError(f"{model.config.model_type}: answers of models of this kind change with the batch "
                                "here; sample behind a server (--base-url)", 2)
    except UserError:
        raise
    except Exception as error:  # what a forward pass of another kind of model may raise is of any class
        raise UserError(f"{model.config.model_type}: models of this kind cannot be sampled here ({type(error).__name__}"
                        f": {' '.join(str(error).split())[:120]}); sample behind a server (--base-url)", 2) from error


def local_engine(folder, tokenizer, stop, batch_size, device, how, end=(), dtype=None):
    """ask() for a model in this process. stop, end: strings and ids of tokens at which an answer is over.

    dtype: of load_for_sampling.

    ask(text, seed, hear=None) -> Reply; hear(text so far) is called as words come.
    """
    model, over = load_for_sampling(folder, device, dtype), threading.Event()
    choose_threads(model)
    spent = SPENT["tokens"]
    check_sampling(model)
    SPENT["tokens"] = spent  # nobody asked for what the check reads
    room = getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 20)  # some have no positions
    vocabulary = model.get_input_embeddings().num_embeddings
    eos = model.generation_config.eos_token_id
    eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos]), *end} - {None}

    def ended(ids):
        return ids[-1] in eos or stop and any(s in tokenizer.decode(ids[-24:]) for s in stop)

    batch = RunningBatch(model, ended, how["temperature"], how["top_p"])
    put = continuous(batch, batch_size, over)

    async def ask(text, seed, hear=None):
        prompt = encode(tokenizer, text)
        if not 0 < len(prompt) < room:
            raise Refused(TOO_LONG if prompt else "empty prompt")
        if max(prompt) >= vocabulary:
            raise UserError(f"{folder}: its {vocabulary} token embeddings do not cover the tokenizer's {max(prompt)}; "
                            "give the --tokenizer that belongs to the model", 2)
        words = decoder(tokenizer, prompt)
        loop = asyncio.get_running_loop()

        def listen(answer):
            text = trim(words(answer), stop, "").text
            if not text.endswith("\ufffd"):  # a character of which only some bytes are there
                loop.call_soon_threadsafe(hear, text)

        row = Row(prompt, seed, min(how["max_tokens"], room - len(prompt)), listen if hear else None)
        await put(row)
        SPENT.update(replies=1, tokens=len(row.answer))
        return trim(words(row.answer), stop, "stop" if ended(row.answer) else "length")
    return ask


def decoder(tokenizer, prompt):
    """words(ids): the text of ids that follow the prompt.

    Some tokenizers drop the first token's space unless something stands before it. That is a token with text of its
    own, of the prompt if there is one: a token of a single byte, decoded beside others, makes another text of them.
    """
    for token in [*reversed(prompt), *encode(tokenizer, "a")]:
        text = tokenizer.decode([token], skip_special_tokens=True)
        byte = re.fullmatch("<0x[0-9A-F]{2}>", str(tokenizer.convert_ids_to_tokens(token)))
        if text.strip() and "\ufffd" not in text and not byte:
            return lambda ids: tokenizer.decode([token, *ids], skip_special_tokens=True)[len(text):]
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def continuous(batch, slots, over):
    """put(row): a coroutine that ends when the Row is answered. Rows are sampled in a thread, `slots` at once.

    over: set when the program ends, for the thread to stop.
    """
    arrivals, unanswered, worker = queue.SimpleQueue(), {}, None

    def hand_out(row):
        answer = unanswered.pop(row)
        if not answer.done():  # whoever asked may have been cancelled meanwhile
            answer.set_result(None)

    def sample(loop):
        for row in sample_rows(batch, arrivals, slots, over):
            loop.call_soon_threadsafe(hand_out, row)

    async def work():
        while not arrivals.empty():
            await asyncio.sleep(0)  # let every unit that is ready put its row in
            try:
                await asyncio.to_thread(sample, asyncio.get_running_loop())
            except asyncio.CancelledError:
                over.set()
                raise
            except Exception as error:
                for answer in unanswered.values():
                    if not answer.done():
                        answer.set_exception(error)
                return

    async def put(row):
        nonlocal worker
        unanswered[row] = asyncio.get_running_loop().create_future()
        arrivals.put(row)
        if worker is None or worker.done():
            worker = asyncio.create_task(work())
        await unanswered[row]
    return put


def choose_threads(model):
    """On a CPU whose threads nobody chose (OMP_NUM_THREADS): as many as decode fastest here, said in one line."""
    import torch
    most = torch.get_num_threads()
    if model.device.type != "cpu" or most == 1 or os.environ.get("OMP_NUM_THREADS"):
        return
    ids = torch.ones(16, 1, dtype=torch.long)
    seconds = {}
    for n in 2 * sorted({1, max(1, most // 4), most}, reverse=True):
        torch.set_num_threads(n)
        begin = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=ids)
        seconds[n] = min(seconds.get(n, math.inf), time.perf_counter() - begin)
    best = min(seconds, key=seconds.get)
    torch.set_num_threads(best)
    if best < most:
        inform(f"sampling with {best} of {most} threads, faster here than all ({1000 * seconds[best]:.0f} against "
              f"{1000 * seconds[most]:.0f} ms a token); OMP_NUM_THREADS chooses")
