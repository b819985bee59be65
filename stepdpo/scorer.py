"""A causal model whose forward pass gives readings of asked tokens, such as log-probs, instead of logits.

    scorer = Scorer(model)                                   # model: as transformers builds it
    readings = scorer(placed)                                # (M, K) at the targets of a placed trie's sequences

The model's own forward pass runs whole, so that whatever it does around its layers is done here too. Only its output
head is exchanged, for one that never makes an (slots, vocabulary) tensor. (Only functions import this file, and it
imports torch, as loss.py does.)
"""
import torch

from loss import read_tokens


class FusedHead(torch.nn.Linear):
    """Stands in for a linear output head: same weights, same name, but it answers with readings of asked tokens."""

    def __init__(self, linear, softcap=None):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.softcap = softcap
        self.asked = None   # (slots, targets) of the forward pass that is under way
        self.answer = None  # (1, N, K) readings, see read_tokens of loss.py

    def forward(self, hidden):
        """hidden: (1, slots, D). What is returned is where logits would be, for the model to pass on."""
        slots, targets = self.asked
        readings = read_tokens(hidden[0, slots], self.weight, targets, self.bias, self.softcap)
        self.answer = readings[None].clone()  # no view: FSDP hangs a hook on what is returned
        return self.answer


class Scorer(torch.nn.Module):
    """Holds the model as `model`; being the module that is called, it is FSDP's root.

    config, layers and head are the model's configuration, its decoder layers and its FusedHead.
    """

    def __init__(self, model):
        super().__init__()
        softcap = getattr(model.config, "final_logit_softcapping", None)
        model.set_output_embeddings(FusedHead(model.get_output_embeddings(), softcap))
        self.model = model

    def forward(self, placed):
        """placed: a PlacedTrie. Returns the readings (M, K) at its sequences' targets, in float32."""
        self.head.asked = (placed.reads, placed.targets)
        self.model(input_ids=placed.ids[None], position_ids=placed.positions[None], use_cache=False, trie=placed)
        answer, self.head.answer = self.head.answer, None
        return answer[0, placed.picks]

    @property
    def config(self):
        return self.model.config

    @property
    def layers(self):
        return self.model.model.layers

    @property
    def head(self):
        return self.model.get_output_embeddings()
