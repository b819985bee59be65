"""Sample many rows at once: each is handed out when it ends, and one that waits takes its place.

    place 1   A A A A | D D D D D D ...      A ends: D, which waited, is read and joins
    place 2   B B B B B B B | E E E ...
    place 3   C C | F F F F F F F F ...
"""
import inspect
from collections import namedtuple

from stepdpo.cache import has_state, join, make_cache
from stepdpo.command import UserError
from stepdpo.picking import pick_tokens
from stepdpo.reply import SPENT

PREFILL = 8192  # tokens, padding included, that are read in one forward pass
# A prompt that was read: the cache that holds it, which row of it, how many columns, the logits (V,) behind it
Start = namedtuple("Start", "cache row columns logits")


class Row:
    """One sample: prompt, a list of ids; seed; limit, the most tokens of its answer; and the answer so far."""
    def __init__(self, prompt, seed, limit, hear=None):
        import torch
        self.prompt, self.limit, self.hear = prompt, limit, hear  # hear(answer): called after each token
        self.answer, self.done = [], False
        self.noise = torch.Generator().manual_seed(seed)  # its own, so that its draws depend on nothing around it
        self.drawn = []  # some random numbers ahead, the next one last: to draw one at a time takes longer

    @property
    def columns(self):
        """Of the cache: all of its tokens but the last, which the cache has not seen yet."""
        return len(self.prompt) + len(self.answer) - 1

    def draw(self):
        import torch
        if not self.drawn:
            self.drawn = torch.rand(64, generator=self.noise).flip(0).tolist()
        return self.drawn.pop()


class RunningBatch:
    """Rows that are being sampled: rows[i] is in row i of the cache, of the mask (B, W) and of tokens (B,).

    mask: 1 where a column holds a token of the row. tokens: each row's last one, which the cache has not seen yet.
    """
    def __init__(self, model, ended, temperature, top_p):
        self.model, self.ended, self.how = model, ended, (temperature, top_p)
        self.arguments = forward_arguments(model)
        self.rows, self.cache, self.mask, self.tokens = [], None, None, None
        self.starts = {}  # prompt -> Start, of prompts whose other samples still wait
        layers = make_cache(model.config).layers
        self.same_length = any(map(has_state, layers))  # padding would become a part of a state
        self.masked = not layers or not all(has_state(layer) and not hasattr(layer, "keys") for layer in layers)
        self.switch, self.longest = rope_switch(model.config), rope_limit(model.config)

    def forward(self, ids, mask, cache):
        """Logits (B, V) after the last of ids (B, T). mask: (B, columns of the cache + T)."""
        import torch
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1]:]
        given = {"attention_mask": mask if self.masked else None, "position_ids": places, "logits_to_keep": 1,
                 "use_cache": True}
        given = {name: value for name, value in given.items() if name in self.arguments}
        with torch.inference_mode():
            logits = self.model(input_ids=ids, **{self.arguments["cache"]: cache}, **given).logits[:, -1]
        return logits

    def read(self, prompts):
        """{prompt: Start} of distinct prompts, tuples of ids, padded on the left to one length."""
        import torch
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt):] = torch.tensor(prompt)
            mask[i, width - len(prompt):] = 1
        SPENT.update(tokens=sum(map(len, prompts)))
        cache = make_cache(self.model.config)
        logits = self.forward(ids.to(device), mask.to(device), cache)
        return {prompt: Start(cache, i, len(prompt), logits[i]) for i, prompt in enumerate(prompts)}

    def start(self, rows, waiting):
        """Read the prompts of new rows, each once, and give each row its first token.

        waiting: prompts of rows that come later; what was read for these is kept.
        """
        import torch
        if self.longest and any(len(row.prompt) + row.limit > self.longest for row in rows):
            raise UserError(f"dynamic rope: what a model of this kind says beyond {self.longest} tokens depends on "
                            "what it read before; sample no more than these, or behind a server (--base-url)", 2)
        prompts = sorted({tuple(row.prompt) for row in rows} - set(self.starts), key=len)
        while prompts:
            n = len(prompts)
            while n > 1 and (n * len(prompts[n - 1]) > PREFILL or self.same_length
                             and len(prompts[n - 1]) > len(prompts[0])):
                n -= 1
            self.starts |= self.read(prompts[:n])
            del prompts[:n]
        starts = [self.starts[tuple(row.prompt)] for row in rows]
        self.starts = {prompt: start for prompt, start in self.starts.items() if prompt in waiting}
        tokens = self.pick(torch.stack([start.logits for start in starts]), rows)
        going = [i for i, row in enumerate(rows) if not row.done]
        if going:
            self.admit([rows[i] for i in going], [starts[i] for i in going], tokens[going])

    def admit(self, rows, starts, tokens):
        """Put rows whose prompts were read behind those that go on; the places of ended rows go.

        The longest come first on each side, for the sake of attend_in_groups (cache.py).
        """
        import torch
        device = self.model.device
        going = [i for i, row in enumerate(self.rows) if not row.done]
        stay = sorted(going, key=lambda i: self.rows[i].columns, reverse=True)
        by_cache = {}  # rows whose prompts were read together are copied together
        for i in sorted(range(len(rows)), key=lambda i: rows[i].columns, reverse=True):
            by_cache.setdefault(id(starts[i].cache), []).append(i)
        order = [i for together in by_cache.values() for i in together]
        joined = [self.rows[i] for i in stay] + [rows[i] for i in order]
        width = max(row.columns for row in joined)
        parts, mask = [], torch.zeros(len(joined), width, dtype=torch.long)
        if stay:
            parts.append((self.cache, torch.tensor(stay, device=device), self.rows[stay[0]].columns))
        for together in by_cache.values():
            parts.append((starts[together[0]].cache, torch.tensor([starts[i].row for i in together], device=device),
                          rows[together[0]].columns))
        for i, row in enumerate(joined):
            mask[i, width - row.columns:] = 1
        old = self.tokens[stay] if stay else tokens[:0]
        with torch.inference_mode():
            self.cache = join(self.model.config, parts, width, spent=self.cache if stay else None)
        self.rows = joined
        self.mask, self.tokens = mask.to(device), torch.cat([old, tokens[order]])

    def pick(self, logits, rows):
        """The next token of each row (B,); rows note it, and whether they have ended."""
        import torch
        uniform = torch.tensor([row.draw() for row in rows], device=logits.device) if self.how[0] else None
        with torch.inference_mode():
            tokens = pick_tokens(logits, uniform, *self.how)
        for row, token in zip(rows, tokens.tolist()):
            if not row.done:
                row.answer.append(token)
                row.done = len(row.answer) >= row.limit or bool(self.ended(row.answer))
                if row.hear:
                    row.hear(row.answer)
        return tokens

    def step(self):
        """One token for each row."""
        import torch
        alive = [row for row in self.rows if not row.done]
        if len(alive) < 0.9 * len(self.rows):  # to copy the cache costs more than to carry some ended rows along
            self.admit([], [], self.tokens[:0])
        first = self.rows[0]
        if self.switch and len(first.prompt) + len(first.answer) == self.switch + 1:  # then it is alone (side)
            self.read_again()
            return
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self.tokens = self.pick(self.forward(self.tokens[:, None], self.mask, self.cache), self.rows)

    def read_again(self):
        """One token for the only row, all of whose keys change with its length (see rope_switch)."""
        row, = self.rows
        start = self.read([(*row.prompt, *row.answer)]).popitem()[1]
        self.cache, self.mask = start.cache, self.mask.new_ones(1, start.columns)
        self.tokens = self.pick(start.logits[None], self.rows)


def forward_arguments(model):
    """The arguments that a model's forward takes, {name: name}, and under "cache" what it calls the cache.

    UserError for a model that keeps no cache that others can read: it cannot be sampled here.
    """
    names = {name: name for name in inspect.signature(model.forward).parameters}
    cache = next((name for name in ("cache", "past_key_values", "cache_params") if name in names), None)
    if cache is None:
        raise UserError(f"{model.config.model_type}: models of this kind keep no cache of transformers' own; sample "
                        "behind a server (--base-url)", 2)
    return {**names, "cache": cache}


def rope_switch(config):
    """The length beyond which a LongRoPE model (Phi-3.5, Phi-4-mini) sees all its tokens turned otherwise, or None."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)


def rope_limit(config):
    """The length up to which a model with dynamic rope, whose keys depend on the longest text ever read, is exact."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    return config.max_position_embeddings if rope.get("rope_type") == "dynamic" else None


def side(row, switch):
    """Rows on one side of rope_switch are sampled together; one that may cross it is sampled alone: "across"."""
    if switch is None or len(row.prompt) + row.limit <= switch:
        return "before"
    return "behind" if len(row.prompt) > switch else "across"


def sample_rows(batch, arrivals, slots, over):
    """Yield each Row when it ends, until none waits; `slots` of them are sampled at once.

    arrivals: a queue.SimpleQueue of Rows, which others may put more into. over: a threading.Event that ends it early.
    Rows of one prompt follow one another, so that it is read once; short prompts come first.
    """
    waiting = []
    while not over.is_set():
        while not arrivals.empty():
            waiting.append(arrivals.get())
        alive = [row for row in batch.rows if not row.done]
        rows = choose(batch, alive, waiting, slots)
        if rows:
            batch.start(rows, {tuple(row.prompt) for row in waiting})
            yield from (row for row in rows if row.done)
        elif not alive:
            return
        if any(not row.done for row in batch.rows):
            going = [row for row in batch.rows if not row.done]
            batch.step()
            yield from (row for row in going if row.done)


def choose(batch, alive, waiting, slots):
    """Take the Rows out of `waiting` that join now. A few free places are left free: to join costs a copy."""
    free = slots - len(alive)
    if not waiting or free < min(len(waiting), max(1, slots // 8)):
        return []
    waiting.sort(key=lambda row: (len(row.prompt), row.prompt))
    kind = side(alive[0] if alive else waiting[0], batch.switch)
    if kind == "across":
        rows = [] if alive else waiting[:1]
    else:
        rows = [row for row in waiting if side(row, batch.switch) == kind][:free]
    for row in rows:
        waiting.remove(row)
    return rows
