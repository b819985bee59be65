"""Sample from a model in this process."""
import threading

from stepdpo.batching import batched
from stepdpo.command import UserError
from stepdpo.prompts import encode
from stepdpo.reply import SPENT, TOO_LONG, Refused, trim
from stepdpo.running import Row, RunningBatch, sample_rows


def load_for_sampling(folder, device=None):
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


def sample_batch(model, prompts, seeds, limits, ended, temperature, top_p, slots=None):
    """Continue each prompt until `ended(ids)` or its limit of tokens; `slots` at once. Returns lists of ids.

    prompts: lists of ids. Equal prompts are read once.
    """
    rows = [Row(list(prompt), seed, limit) for prompt, seed, limit in zip(prompts, seeds, limits)]
    batch = RunningBatch(model, ended, temperature, top_p)
    for _ in sample_rows(batch, list(rows), slots or len(rows)):
        pass
    return [row.answer for row in rows]


def local_engine(folder, tokenizer, stop, batch_size, device, how, end=()):
    """ask() for a model in this process."""
    model, over = load_for_sampling(folder, device), threading.Event()
    room = getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 20)  # some have no positions
    vocabulary = model.get_input_embeddings().num_embeddings
    eos = model.generation_config.eos_token_id
    eos = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos]), *end} - {None}

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
            raise Refused(TOO_LONG if prompt else "empty prompt")
        if max(prompt) >= vocabulary:
            raise UserError(f"{folder}: its {vocabulary} token embeddings do not cover the tokenizer's {max(prompt)}; "
                            "give the --tokenizer that belongs to the model", 2)
        return await put(prompt, seed)
    return ask
