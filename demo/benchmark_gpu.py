"""The GPU's part of demo/benchmark.py: `python demo/benchmark.py --device cuda`. Written, and never run on a GPU.

Each contender is alone on the GPU, so that memory is its own. It takes the same optimizer steps on the same ids from
the same weights as the others, so its losses must be theirs. In this order, until the time is up:

    shape 1.5B, then 0.5B           ours, TRL at its best
    the same                        ours with --compile

each with 4,096 tokens per micro-batch, then 16,384, and with 1 and 4 pairs a prefix. What does not fit into the time or
the memory, or fails, is named at the end. A row is written when it is measured, to OUT/benchmark.jsonl.
- tokens per micro-batch: distinct ones of ours; of TRL what its rows take with their padding.
- MFU: the products that distinct tokens need (those of the pairs' prefixes once), whoever computes more, over the peak.
- peak: of one step, in all, and beyond weights and moments.
"""
import gc
import json
import math
import os
import sys
import tempfile
import time
import traceback
from array import array

from demo.benchmark import BODY, Ours, Trl, draw_pairs, make_folder, products, seconds_of
from stepdpo.folder import first_line

SHAPES = {
    "1.5B": dict(BODY, vocab_size=151936, hidden_size=1536, num_hidden_layers=28, num_attention_heads=12,
                 intermediate_size=8960, tie_word_embeddings=True),
    "0.5B": dict(BODY, vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
                 intermediate_size=4864, tie_word_embeddings=True)}
TINY = {"tiny": dict(BODY, vocab_size=900, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                     intermediate_size=96, tie_word_embeddings=True)}
BUDGETS, PER_PREFIX = (4096, 16384), (1, 4)
ROUNDS = 3
ROOM = {"ours": 40, "TRL at its best": 40, "ours, --compile": 130}  # seconds that must be left for one to begin


def run_cases(mesh, clock, count, shapes, contenders, report):
    """Measure all that fits. count: pairs a step. report(record or sentence) is called as they come."""
    for names in [name for name in contenders if "compile" not in name], [n for n in contenders if "compile" in n]:
        for shape_name, shape in shapes.items():
            with tempfile.TemporaryDirectory() as work:
                folder = os.path.join(work, "model")
                for name in names:
                    if clock() < ROOM[name]:
                        report(f"{name} at {shape_name}: {clock():.0f} s were left, it wants {ROOM[name]}")
                        continue
                    if not os.path.exists(folder):
                        make_folder(folder, shape, mesh.device_type)
                    measure_contender(name, folder, shape_name, shape, count, mesh, clock, work, report)


def measure_contender(name, folder, shape_name, shape, count, mesh, clock, work, report):
    """All cases of one contender at one shape. What fails is reported, and ends this contender alone."""
    import torch
    kind, done = mesh.device_type, 0
    cases = [(budget, per_prefix) for budget in BUDGETS for per_prefix in PER_PREFIX]
    try:
        contender = None
        for budget, per_prefix in cases:
            # sorted, so that what TRL pads is little
            pairs = sorted(draw_pairs(count, per_prefix, shape["vocab_size"]), key=lambda pair: sum(map(len, pair)))
            references = [[torch.full((len(side),), -math.log(shape["vocab_size"])) for side in sides]
                          for _, *sides in pairs]
            if contender is None:
                contender = open_contender(name, folder, pairs, references, mesh, work)
            contender.take(pairs, references)
            contender.budget = budget
            longest = max(len(prefix) + max(map(len, sides)) for prefix, *sides in pairs)
            contender.per_forward = max(1, budget // (2 * longest))  # TRL's: two rows a pair
            record = measure_case(contender, kind, clock)
            record |= {"shape": shape_name, "contender": name, "budget": budget, "per_prefix": per_prefix,
                       "pairs_per_second": count / record["seconds"], **use_of_device(shape, pairs, record["seconds"],
                                                                                     kind)}
            report(record)
            done += 1
    except Exception as error:
        traceback.print_exc()
        left = ", ".join(f"{budget:,} tokens with {per_prefix} a prefix" for budget, per_prefix in cases[done:])
        report(f"{name} at {shape_name}, {left}: {type(error).__name__}: {first_line(error)}")
    del contender
    torch.compiler.reset()
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()


def open_contender(name, folder, pairs, references, mesh, work):
    if name == "TRL at its best":
        return Trl(folder, pairs, mesh.device_type, 1, references, True, work)
    return Ours(folder, pairs, mesh, 0, references, compiled="compile" in name)


def measure_case(contender, kind, clock):
    """{"loss", "seconds", "peak", "beyond"} of a contender's steps; TimeoutError when the time is up."""
    import torch
    loss = contender.step()  # also makes moments and buffers, and compiles
    seconds, _ = seconds_of(contender.step, kind)
    if clock() < (ROUNDS + 1) * seconds:
        raise TimeoutError(f"{clock():.0f} s were left, a step took {seconds:.0f}")
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    times = [seconds_of(contender.step, kind)[0] for _ in range(ROUNDS)]
    peak = torch.cuda.max_memory_allocated() if kind == "cuda" else 0
    return {"loss": loss, "seconds": sorted(times)[ROUNDS // 2], "times": times, "peak": peak,
            "beyond": peak - before if kind == "cuda" else 0}


def use_of_device(shape, pairs, seconds, kind):
    """{"tokens": distinct ones, "mfu": None where the peak is not known}."""
    from transformers import AutoConfig

    from stepdpo.device import peak_flops
    from stepdpo.trie import build_trie
    trie = build_trie([(array("i", prefix + side), len(prefix)) for prefix, *sides in pairs for side in sides])
    needed = products(AutoConfig.for_model(**shape), len(trie.ids), len(trie.reads))
    flops, peak = sum(6 * rows * a * b * many for rows, a, b, many in needed), peak_flops(kind)
    return {"tokens": len(trie.ids), "mfu": flops / seconds / peak if peak else None}


def format_tables(records, left_out):
    """Markdown: a table for each shape and number of pairs a prefix, then what was left out."""
    lines = []
    for shape, per_prefix in dict.fromkeys((record["shape"], record["per_prefix"]) for record in records):
        rows = [row for row in records if (row["shape"], row["per_prefix"]) == (shape, per_prefix)]
        trl = max((row["pairs_per_second"] for row in rows if row["contender"].startswith("TRL")), default=None)
        lines += [f"\n**{shape}, {per_prefix} a prefix**: {rows[0]['tokens']:,} distinct tokens a step\n",
                  "| | tokens per micro-batch | seconds a step | pairs/s | over TRL | MFU | peak, GiB | beyond weights "
                  "and moments | first loss |", "|---|---|---|---|---|---|---|---|---|"]
        for row in sorted(rows, key=lambda row: -row["pairs_per_second"]):
            over = f"{row['pairs_per_second'] / trl:.2f}" if trl else ""
            mfu = f"{row['mfu']:.1%}" if row["mfu"] else ""
            lines.append(f"| {row['contender']} | {row['budget']:,} | {row['seconds']:.3f} | "
                         f"{row['pairs_per_second']:.1f} | {over} | {mfu} | {row['peak'] / 2 ** 30:.1f} | "
                         f"{row['beyond'] / 2 ** 30:.1f} | {row['loss']:.4f} |")
    return "\n".join([*lines, "\nLeft out: " + ("; ".join(left_out) or "nothing") + ".",
                      "Losses that are not TRL's: " + ("; ".join(other_losses(records)) or "none") + "."])


def other_losses(records):
    """Where the first loss of ours is further from TRL's than rounding to bfloat16 takes it: in words, a case each."""
    trl = {(row["shape"], row["budget"], row["per_prefix"]): row["loss"] for row in records
           if row["contender"].startswith("TRL")}
    words = []
    for row in records:
        truth = trl.get((row["shape"], row["budget"], row["per_prefix"]))
        if truth is not None and not abs(row["loss"] - truth) <= 0.05 * max(1, abs(truth)):
            words.append(f"{row['contender']} at {row['shape']}, {row['budget']:,} tokens, "
                         f"{row['per_prefix']} a prefix")
    return words


def measure_in_time(mesh, begin, seconds, out, head, dry_run):
    """The tables, under a line `head` that says what ran; they also go to OUT/benchmark.md.

    begin: time.perf_counter() when the program began. seconds: that it may take.
    """
    records, left_out = [], []
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "benchmark.jsonl"), "w") as log:
        def report(found):
            (records if isinstance(found, dict) else left_out).append(found)
            log.write(json.dumps(found) + "\n")
            log.flush()
            print(f"{time.perf_counter() - begin:.0f} s: {found}", file=sys.stderr, flush=True)

        contenders = ["ours", "TRL at its best", "ours, --compile"]
        if dry_run:
            report("ours, --compile: compiling for a CPU takes minutes")
            contenders.pop()
        run_cases(mesh, lambda: begin + seconds - time.perf_counter(), 8 if dry_run else 64,
                  TINY if dry_run else SHAPES, contenders, report)
    tables = head + "\n" + format_tables(records, left_out)
    with open(os.path.join(out, "benchmark.md"), "w") as page:
        page.write(tables + "\n")
    return tables
