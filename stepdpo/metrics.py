"""What a run tells about itself: metrics of rows, averaged over micro-batches and processes, and metrics.jsonl.

Names are the objective's. All processes see the same names in the same order, because each computes some rows of every
batch, or a row of weight 0.
"""
import contextlib
import json
import math
import os
from typing import NamedTuple

from stepdpo.device import peak_flops, product_flops, put
from stepdpo.examples import scored_sequences
from stepdpo.processes import first_process, say
from stepdpo.rows import write_aside


def add_metrics(sums, metrics, weight):
    """Add rows to sums, {name: [Σ weight·value, Σ weight]}. NaN is no value: that row counts in neither sum.

    metrics: {name: a value a row (R,)}; weight: (R,).
    """
    import torch
    for name, values in metrics.items():
        there = ~values.isnan()
        value = torch.where(there, values.detach() * weight, 0.0).double().sum()
        sums[name] = sums.get(name, 0.0) + torch.stack([value, torch.where(there, weight, 0.0).double().sum()])


class Totals(NamedTuple):
    """Sums over all processes, which a GPU may still be computing; `read_totals` waits for it."""
    names: list[str]  # of metrics
    table: object     # (1 + len(names), 2) in float64: loss and slots, then Σ weight·value and Σ weight of each metric


def total_metrics(loss, slots, sums) -> Totals:
    """Over all processes. loss: this process's part of it. slots: how many it computed. sums: of `add_metrics`."""
    import torch
    import torch.distributed as dist
    table = torch.stack([torch.stack([loss, put(slots, loss.device, loss.dtype)]), *sums.values()])
    dist.all_reduce(table)
    return Totals(list(sums), table)


def read_totals(totals: Totals, *others):
    """({"loss": value, metric: its mean}, slots, [number of each of the others]), waiting for the GPU once.

    others: tensors of one number each. A metric that no row has is NaN.
    """
    import torch
    table = totals.table
    numbers = torch.cat([table.flatten(), *(other.to(table).reshape(1) for other in others)]).tolist()
    loss, slots, *rest = numbers
    means = {"loss": loss}
    for place, name in enumerate(totals.names):
        value, weight = rest[2 * place:2 * place + 2]
        means[name] = value / weight if weight else math.nan
    return means, int(slots), rest[2 * len(totals.names):]


def measure_speed(model, batch, slots, seconds, device) -> dict:
    """{"tokens_per_second": of num_tokens, "mfu": model FLOPs utilization, where the device's peak is known}."""
    import torch.distributed as dist
    sequences = scored_sequences(batch)
    speed = {"tokens_per_second": sum(len(ids) for ids, _ in sequences) / seconds}
    peak = peak_flops(device)
    flops = product_flops(model, slots, sum(len(ids) - start for ids, start in sequences)) if peak else None
    return {**speed, "mfu": flops / seconds / peak / dist.get_world_size()} if flops else speed


def open_log(out, step):
    """log(record) appends to OUT/metrics.jsonl, cut back to `step`, from one process."""
    if not first_process():
        return lambda record: None
    path, old = os.path.join(out, "metrics.jsonl"), []
    if step:
        old = [json.dumps(record) + "\n" for record in read_log(out) if record["step"] <= step]
        if not any(json.loads(line)["step"] == step for line in old):
            say(f"{path}: what it said of step {step} is gone; the run goes on all the same")
    write_aside(path, "".join(old))
    file = open(path, "a")

    def log(record):
        finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in record.items()}
        file.write(json.dumps(finite) + "\n")
        file.flush()
        # wandb.log(record, step=record["step"]) would stand here
    return log


def read_log(out):
    """The records of OUT/metrics.jsonl. What is lost or edited there is left out: no weight depends on it."""
    records, path = [], os.path.join(out, "metrics.jsonl")
    if os.path.exists(path):
        with open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict) and isinstance(record.get("step"), int):
                        records.append(record)
    return records


def describe_end(out):
    """How a run ended, in words: its steps, the last loss, and how it judges held-out pairs."""
    words, last = [], {}
    for record in read_log(out):
        last.update(record)
    if "step" in last:
        words.append(f"{last['step']} steps")
    if last.get("loss") is not None:
        words.append(f"last loss {last['loss']:.4g}")
    if last.get("eval_rewards/accuracies") is not None:
        words.append(f"{100 * last['eval_rewards/accuracies']:.1f} % of held-out pairs judged right")
    return ", ".join(words)
