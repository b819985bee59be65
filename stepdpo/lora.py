"""Low-rank adapters (LoRA, arXiv 2106.09685): small matrices A and B are trained beside frozen weights.

    add_adapters(model, rank=16, alpha=32, seed=0)           # in train.py's hook prepare_model
    save_adapter(model, base, out)                           # OUT/adapter, as PEFT writes it
    merge_adapters(model)                                    # the model is a plain one again

A linear layer's y = W·x becomes y = W·x + alpha/rank · B·(A·x), equation 3. B begins as zeros, so the model begins as
the one without adapters: that one is the reference policy, and it costs nothing.
"""
import json
import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from stepdpo.command import UserError
from stepdpo.export import gather
from stepdpo.processes import first_process, say
from stepdpo.scorer import find_layers, shared_weights


class AdaptedLinear(torch.nn.Linear):
    """Stands in for a linear layer: its weights under their names, which are frozen, and an adapter beside them."""

    def __init__(self, linear, rank, alpha):
        """linear: (in, out) features. A: (rank, in), drawn as PEFT draws it; B: (out, rank), zeros; both float32."""
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_A = torch.nn.Parameter(torch.empty(rank, linear.in_features, dtype=torch.float32))
        self.lora_B = torch.nn.Parameter(torch.zeros(linear.out_features, rank, dtype=torch.float32))
        torch.nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.rank, self.alpha = rank, alpha

    def forward(self, x):
        return super().forward(x) + self.alpha / self.rank * F.linear(F.linear(x, self.lora_A), self.lora_B)


def add_adapters(model, rank: int, alpha: int, seed: int):
    """Freeze a transformers model, and give every linear layer within its decoder layers an adapter.

    seed: of A; the same in every process. UserError where there is no such layer, or one is smaller than the rank.
    """
    model.requires_grad_(False)
    layers, shared = find_layers(model), shared_weights(model)
    places = [(parent, name, linear) for layer in layers for parent in layer.modules()
              for name, linear in parent.named_children()
              if type(linear) is torch.nn.Linear and id(linear.weight) not in shared
              and not is_gate(linear, model.config.get_text_config()) and not is_bypassed(parent, name)]
    if not places:
        raise UserError(f"--lora {rank}: models of type {model.config.model_type} have no plain linear layers in their "
                        "decoder layers; leave it out, and all of the model is trained", 2)
    _, name, narrow = min(places, key=lambda place: min(place[2].weight.shape))
    if rank > min(narrow.weight.shape):
        raise UserError(f"--lora {rank}: is more than the smaller side of {name}, "
                        f"{' x '.join(map(str, narrow.weight.shape))}; choose a smaller rank", 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parent, name, linear in places:
            setattr(parent, name, AdaptedLinear(linear, rank, alpha))
    adapted = {id(linear.weight) for linear in adapters(model).values()}
    left = [name for layer in layers for name, weight in layer.named_parameters()
            if weight.ndim > 1 and not weight.requires_grad and id(weight) not in adapted]
    say(f"adapters of rank {rank} on {len(places)} linear layers"
        + (f"; on {len(left)} other matrices there are none, such as {left[0]}" if left else ""))


def is_gate(linear, config):
    """Whether a layer makes a number or two a head, or one an expert: a gate or a router, narrower than any rank."""
    counts = {name: value for name, value in config.to_dict().items() if isinstance(value, int)}
    heads = max((count for name, count in counts.items() if name.endswith("heads")), default=0)
    experts = {count for name, count in counts.items() if name.endswith("experts")}
    return linear.out_features <= 2 * heads or linear.out_features in experts


def is_bypassed(parent, name):
    """Whether kernels read a layer's weight without calling it, as Mamba's do: an adapter would not be heard there."""
    return hasattr(parent, "A_log") and hasattr(parent, "D") and name != "in_proj"


def adapters(model) -> dict:
    """{name: AdaptedLinear} of a transformers model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def save_adapter(model, base, out):
    """Write OUT/adapter, which peft and vLLM load onto the model that `base` names. Every process takes part."""
    found = adapters(model)
    if not found:
        return
    tensors = {f"base_model.model.{name}.{matrix}.weight": gather(getattr(linear, matrix).detach()).contiguous()
               for name, linear in found.items() for matrix in ("lora_A", "lora_B")}
    if first_process():
        linear = next(iter(found.values()))
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": linear.rank,
                  "lora_alpha": linear.alpha, "target_modules": sorted({name.rsplit(".")[-1] for name in found}),
                  "lora_dropout": 0.0, "bias": "none", "inference_mode": True}
        path = os.path.join(out, "adapter")
        os.makedirs(path, exist_ok=True)
        save_file(tensors, os.path.join(path, "adapter_model.safetensors"), metadata={"format": "pt"})
        with open(os.path.join(path, "adapter_config.json"), "w") as file:
            json.dump(config, file, indent=2)


@torch.no_grad()
def merge_adapters(model):
    """Add alpha/rank · B·A to the frozen weights, in float32, and set B to zeros: the model says what it said.

    A process adds to its shards: W and B have the same rows, so it holds those of B that it needs.
    """
    for linear in adapters(model).values():
        weight, b = (tensor.to_local() if isinstance(tensor, DTensor) else tensor
                     for tensor in (linear.weight, linear.lora_B))
        a = gather(linear.lora_A).to(b.device)
        weight.copy_(weight.float() + linear.alpha / linear.rank * (b @ a))
        b.zero_()
