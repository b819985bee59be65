"""Sample from a model in this process."""
import threading

from stepdpo.batching import batched
from stepdpo.command import UserError
from stepdpo.prompts import encode
from stepdpo.reply import SPENT, TOO_LONG, Refused, trim


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
