"""A causal model whose forward pass gives readings of asked tokens, such as log-probs, instead of logits.

    scorer = Scorer(model)                                   # model: as transformers builds it
    readings = scorer(placed)                                # (M, K) at the targets of a placed trie's sequences

The model's own forward pass runs whole, so that whatever it does around its layers is done here too. Two things are
exchanged: its output head, for one that never makes a (slots, vocabulary) tensor; and its attention, where a trie of
many sequences goes through it as one row. paths.py decides for which models both are exact. (Only functions import
this file, and it imports torch, as loss.py does.)
"""
import math

import torch

from loss import token_readings
from stepdpo.attention import Unserved


class FusedHead(torch.nn.Linear):
    """Stands in for a linear output head: same weights, same name, but it answers with readings of asked tokens.

    Asked nothing it gives logits, as the head did. FSDP gathers the weights of a module when it is called, hence a
    module and not a function.

    Models do something to their logits: they scale them, or cap them as cap·tanh(logits / cap). learn_logits of
    paths.py finds out what.
    """

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.cap = 1.0, None
        self.asked = None   # (slots, targets) of the forward pass that is under way
        self.answer = None  # (1, N, K) readings, see token_readings of loss.py
        self.echo = None    # (1, 1, V) logits to give instead, see learn_logits

    def forward(self, hidden):
        """hidden: (1, slots, D). An answer is also returned where logits would be, for the model to pass on."""
        if self.echo is not None:
            return self.echo
        if self.asked is None:
            return super().forward(hidden)
        slots, targets = self.asked
        hidden, bias = hidden[0].index_select(0, slots), self.bias
        if self.scale != 1:
            hidden, bias = hidden * self.scale, None if bias is None else bias * self.scale
        readings = token_readings(hidden, self.weight, targets, bias, self.cap)
        self.answer = readings[None].clone()  # no view: FSDP hangs a hook on what is returned
        return self.answer


class Scorer(torch.nn.Module):
    """Holds a transformers model as `model`; being the module that is called, it is FSDP's root.

    by_trie: sequences go through the model as a trie, in one row; else each goes through it alone, as it is.
    alone_above: a sequence of more tokens gets a forward pass of its own.
    fused: the head is a FusedHead and is asked for log-probs; else logits of all slots are made.
    layers: the decoder layers, and own_head: the output head; but not those that share weights with other modules,
    because what is shared must lie in FSDP's root group.
    added: names of weights that no file holds, see load_model.
    """

    def __init__(self, model):
        super().__init__()
        model.config.use_cache = model.config.get_text_config().use_cache = False
        self.own_attention = model.config._attn_implementation
        head = model.get_output_embeddings()
        self.fused = type(head) is torch.nn.Linear
        if self.fused:
            model.set_output_embeddings(FusedHead(head))
        self.model = model
        self.added = set()
        self.shared = shared_weights(model)
        self.layers = [layer for layer in find_layers(model) if not self.shares_weights(layer)]
        self.ropes = dynamic_ropes(model)
        self.use_trie(False)

    def use_trie(self, by_trie):
        """Choose the path. Unserved where transformers cannot exchange this model's attention."""
        if by_trie and not self.model._can_set_attn_implementation():
            raise Unserved("has attention that cannot be exchanged")
        self.by_trie = by_trie
        self.alone_above = length_limit(self.ropes) if by_trie else 0
        self.model.set_attn_implementation("stepdpo" if by_trie else self.own_attention)

    def forward(self, placed, as_logits=False):
        """placed: a PlacedTrie. Returns the readings (M, K) at its sequences' targets, in float32.

        Where the head is not fused there is one reading, the log-prob. as_logits: what the model itself returns,
        (1, slots, V).
        """
        forget_lengths(self.ropes)
        how = {}
        if self.by_trie:
            how = {"position_ids": placed.positions[None], "trie": placed}
        if self.fused and not as_logits:
            self.head.asked = (placed.reads, placed.targets)
            try:
                self.model(input_ids=placed.ids[None], **how)
                return self.head.answer[0].index_select(0, placed.picks)
            finally:
                self.head.asked = self.head.answer = None
        logits = self.model(input_ids=placed.ids[None], **how).logits
        if as_logits:
            return logits
        logps = logits[0, placed.reads].float().log_softmax(-1)
        return logps.gather(1, placed.targets[:, None])[placed.picks]

    def shares_weights(self, module):
        return any(id(weight) in self.shared for weight in module.parameters())

    @property
    def config(self):
        return self.model.config

    @property
    def head(self):
        return self.model.get_output_embeddings()

    @property
    def own_head(self):
        return self.head if self.head is not None and not self.shares_weights(self.head) else None


# ----------------------------------------------------------------------------------- what models look like

def find_layers(model):
    """The decoder layers: of all lists of modules the one with most weights."""
    best, most = [], 0
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            size = sum(weight.numel() for weight in module.parameters())
            if size > most:
                best, most = list(module), size
    return best


def shared_weights(model):
    """ids of the weights that several modules have, such as an embedding that is also the head."""
    paths = {}
    for path, weight in model.named_parameters(remove_duplicate=False):
        paths.setdefault(id(weight), []).append(path)
    return {weight for weight, several in paths.items() if len(several) > 1}


def dynamic_ropes(model):
    """The modules that compute rope and whose frequencies change with the length of what they see."""
    ropes = []
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)  # one, or one for each type of layer
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        if any(kind == "longrope" or "dynamic" in str(kind) for kind in kinds):
            ropes.append(module)
    return ropes


def length_limit(ropes):
    """Up to how many tokens a sequence has the same frequencies, however long it is.

    Phi-3.5's LongRoPE changes there from short to long factors; from there on, dynamic rope changes with every token.
    """
    limit = math.inf
    for rope in ropes:
        scaling = rope.config.rope_parameters
        for entry in [scaling, *scaling.values()]:  # one, or one for each type of layer
            if isinstance(entry, dict):
                limit = min(limit, entry.get("original_max_position_embeddings") or math.inf)
        limit = min(limit, getattr(rope, "original_max_seq_len", None) or math.inf)
    return limit


def forget_lengths(ropes):
    """Dynamic rope remembers the longest sequence that it saw: let every forward pass begin as the first."""
    for rope in ropes:
        rope.max_seq_len_cached = rope.original_max_seq_len
        for name, first in list(rope.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq"):
                setattr(rope, name.replace("original_", ""), first.clone())
