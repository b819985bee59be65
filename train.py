"""Teach a policy to prefer the right next step (Step-DPO), a right answer (DPO), or to imitate answers (SFT).

    python train.py --model M --pairs pairs.jsonl --out runs/m-step-dpo
    torchrun --nproc-per-node 8 train.py --model M --pairs pairs.jsonl --out runs/m-step-dpo

in:  step-dpo {"prompt", "initial_reason_steps", "chosen", "rejected"[, "weight"]}
     dpo      the same with "full_chosen" and "full_rejected"
     sft      {"prompt", "completion"}, where "correct": false is dropped, or {"prompt", "solution"}
out: OUT, a model folder that `from_pretrained` reads, in which metrics.jsonl holds a record a step, dropped.jsonl the
     rows that could not be used and why, reference.safetensors the reference's log-probs, checkpoint-STEP and run.json
     what --resume needs

Every distinct token prefix of a micro-batch is computed once (stepdpo/trie.py). FSDP2 shards the model over any number
of processes, one included. The reference policy is asked once, before the first step.
To change what is minimised, see OBJECTIVES in loss.py; the rows, `row_texts`; what is trained, how, and what comes out,
the hooks `prepare_model`, `make_optimizers` and `export_model`; where metrics go, `open_log` in stepdpo/metrics.py.
"""
import functools
import math
import os
import time

from stepdpo import checkpoint
from stepdpo.batches import epoch_batches, split_batch
from stepdpo.checkpoint import trained_parameters
from stepdpo.command import UserError, make_parser, parse_flags, run_main
from stepdpo.device import put
from stepdpo.examples import Example, Text, count_tokens, load_examples, scored_sequences, text_field
from stepdpo.export import check_finite, export
from stepdpo.folder import find_model, load_config
from stepdpo.metrics import Totals, add_metrics, describe_end, measure_speed, open_log, read_totals, total_metrics
from stepdpo.plan import print_plan
from stepdpo.processes import first_process, processes, say
from stepdpo.progress import progress_bar
from stepdpo.prompts import PROMPTS, end_of_turn, load_tokenizer
from stepdpo.reference import add_references
from stepdpo.rows import format_row
from stepdpo.run import agree_on_date, check_out, check_run, own_folder, run_settings, write_run
from stepdpo.shard import load_model, no_gradients
from stepdpo.signals import signals
from stepdpo.trie import sequence_readings

REQUIRED = {  # --objective: the fields that its rows must have; what of them is scored, `row_texts` says
    "step-dpo": ("prompt", "chosen", "rejected"),
    "dpo": ("prompt", "full_chosen", "full_rejected"),
    "sft": ("prompt",),
}
PATIENCE = 3  # steps in a row whose loss or gradient may be no finite number
NOT_FINITE = (f"{{out}}: loss or gradient of {PATIENCE} steps in a row is not finite, the last of pairs {{pairs}}; "
              "lower --lr or look at these rows")


# ------------------------------------------------------------------------------------------------- rows

def row_texts(row: dict, objective: str, eos: bool = False) -> list[Text] | str:
    """What of a row is scored: a list of Texts, or the reason why the row is dropped. ValueError for a row that is bad.

    A row may have any number of Texts, on one side or on both. A step gets no EOS, as in the paper; with `eos`, one
    that ends its answer does.
    """
    whole = row.get("finish_reason") != "length"  # an answer that was cut must not teach to stop there
    if objective == "sft":
        if not ("completion" in row or "solution" in row):
            raise ValueError("no 'completion' and no 'solution'; run collect.py --keep right first")
        answer = text_field(row, "completion" if "completion" in row else "solution")
        return "wrong answer" if row.get("correct") is False else [Text("", answer, whole)]
    before = text_field(row, "initial_reason_steps")
    if objective == "dpo":
        return [Text(before, row["full_chosen"], True), Text(before, row["full_rejected"], whole, side=-1)]
    last = {side: eos and str(row.get(f"full_{side}")).strip() == row[side].strip() for side in ("chosen", "rejected")}
    return [Text(before, row["chosen"], last["chosen"]),
            Text(before, row["rejected"], last["rejected"] and whole, side=-1)]


def read_pairs(args, folder):
    """(pairs, held-out pairs), less what is dropped, which goes to OUT/dropped.jsonl with the reason."""
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    if (args.eos or args.objective != "step-dpo") and not end_of_turn(tokenizer, args.prompt):
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no end-of-sequence token, with which "
                        f"--objective {args.objective} ends an answer; set eos_token in tokenizer_config.json", 2)
    config = config.get_text_config()
    limit = min(args.max_length or math.inf, getattr(config, "max_position_embeddings", None) or math.inf)
    texts = functools.partial(row_texts, objective=args.objective, eos=args.eos)
    how = (REQUIRED[args.objective], texts, tokenizer, args.prompt, limit, config.vocab_size)
    pairs, dropped = load_examples(args.pairs, *how)
    held_out, more = load_examples(args.eval_pairs, *how) if args.eval_pairs else ([], [])
    if first_process() and args.out:
        with open(os.path.join(args.out, "dropped.jsonl"), "wb") as file:
            file.writelines(map(format_row, dropped + more))
    return pairs, held_out


# ------------------------------------------------------------------------------------------------ model

def prepare_model(model, args):
    """Hook: what is done to the model before it is sharded. It lies on "meta": it has shapes, and no values yet.

    The place to freeze parameters (`p.requires_grad_(False)`) or to add some. What requires a gradient is trained,
    counted by --plan and kept in checkpoints, the rest is not. args: the flags. Here: all of the model, or adapters.
    """
    if args.lora:
        from stepdpo.lora import add_adapters
        add_adapters(model, args.lora, args.lora_alpha or 2 * args.lora, args.seed)


def shard_model(model, mesh, offload):
    """FSDP2, in place: a group a layer, one for the head unless it is tied to the embedding, the rest in the root.

    On a GPU, and where frozen weights are kept in it, the model computes in bfloat16. Masters stay in float32: at a
    rate of 5e-7, 1 % of bfloat16 masters would move in 50 steps. Gradients are reduced in float32 after every
    micro-batch: a process never holds all of them.
    """
    import torch
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
    )
    how = {"mesh": mesh}
    if mesh.device_type == "cuda" or any(p.dtype == torch.bfloat16 for p in model.parameters()):
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if offload:
        how["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    for layer in model.layers:
        fully_shard(layer, **how)
    if model.own_head is not None:
        fully_shard(model.own_head, reshard_after_forward=False, **how)  # its backward pass comes first
    fully_shard(model, **how)  # weights that two modules share must lie in one group, the root's


def make_optimizers(model, rate: float, weight_decay: float) -> list:
    """Hook: a list of torch.optim optimizers over the model's shards. Here: AdamW; biases and norms do not decay.

    Any class will do, and several. The schedule moves the rate of each group between 0 and the one it has here. States
    are made by the first step and kept in checkpoints, whatever their names are.
    """
    import torch
    matrices = [p for p in trained_parameters(model).values() if p.ndim > 1]
    others = [p for p in trained_parameters(model).values() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=rate, fused=True)]


def export_model(model, folder, args):
    """Hook: what a finished run writes to OUT. Here: a model folder, with the tokenizer and number type of `folder`.

    Adapters are merged into it, and written to OUT/adapter. args: the flags.
    """
    from stepdpo.lora import merge_adapters, save_adapter
    check_finite(model, args.out)
    save_adapter(model.model, args.model, args.out)
    merge_adapters(model.model)
    export(model, folder, args.out, end_of_turn(load_tokenizer(folder), args.prompt)[-1:])


# ------------------------------------------------------------------------------------------------- loop

def make_batch(examples: list[Example], device):
    """The Batch of loss.py for some examples, on a device, but for the policy's log-probs, which are yet to come."""
    import torch

    from loss import Batch
    sequences = [sequence for example in examples for sequence in example.sequences]
    lengths = [count_tokens(sequence) for sequence in sequences]
    rows = [row for row, example in enumerate(examples) for _ in example.sequences]
    reference = None
    if examples[0].reference is not None:
        reference = put(torch.cat([example.reference for example in examples]), device)
    return Batch(
        policy=None, reference=reference, row=put(rows, device),
        sequence=put(torch.arange(len(sequences)).repeat_interleave(torch.tensor(lengths)), device),
        side=put([float(sequence.side) for sequence in sequences], device),
        weight=put([sequence.weight for sequence in sequences], device),
        row_weight=put([example.weight for example in examples], device))


def run_batch(model, batch: list[Example], objective, flags: dict, budget: int, mesh) -> Totals:
    """Metrics over the global batch, which a GPU may still be computing. Accumulates gradients where they are enabled.

    objective: of loss.py's table, called with these flags. The loss is Σ weight·loss / Σ weight·size over the rows of
    the global batch, whatever the micro-batches and processes are; a metric is the weighted mean of the rows that have
    it.
    """
    import torch

    from loss import with_readings
    device, world = torch.device(mesh.device_type), mesh.size()
    whole = make_batch(batch, "cpu")
    size = (whole.row_weight * objective.size(whole)).double().sum().item() or 1.0
    dummy = batch[0]._replace(weight=0.0)
    my_micros = split_batch(batch, budget, world, model.by_trie)[mesh.get_rank()::world]
    total, slots, sums = 0.0, 0, {}
    for micro in my_micros:
        # a process without data takes part all the same in gathering weights and reducing gradients
        examples = [batch[place] for place in micro] or [dummy]
        readings, computed = sequence_readings(model, scored_sequences(examples), device)
        rows = with_readings(make_batch(examples, device), readings)
        losses, metrics = objective.function(rows, **flags)
        loss = (losses * rows.row_weight).sum() / size
        if torch.is_grad_enabled():
            (loss * world).backward()  # FSDP takes the mean of the processes' gradients
        total += loss.detach().double()
        slots += computed if micro else 0
        add_metrics(sums, metrics, rows.row_weight)
    return total_metrics(total, slots, sums)


def rate_share(step: int, steps: int, schedule: str, warmup: float) -> float:
    """The share of the peak rate at step 0 … steps − 1: linear warm-up, then the schedule, towards 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(steps - warm, 1)
    return {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]


def take_step(run, batch, model, optimizers, share, clip, asked, progress):
    """An optimizer step, skipped where loss or gradient is not finite. Returns its metrics, then with "pairs", the ids;
    and the number of the signal that asks the run to end, or 0.

    share: of each group's own rate. asked: of signals.py. progress: counts of the run so far, which it adds to.
    """
    import torch
    begin, totals = time.perf_counter(), run(batch)
    norm = torch.nn.utils.clip_grad_norm_(trained_parameters(model).values(), clip or math.inf).full_tensor()
    means, slots, (norm, stop) = read_totals(totals, norm, asked())  # the step's one CPU-GPU sync point
    finite = math.isfinite(means["loss"]) and math.isfinite(norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
        if finite:
            optimizer.step()
        optimizer.zero_grad()
    progress["step"] += 1
    progress["num_tokens"] += sum(len(ids) for ids, _ in scored_sequences(batch))
    progress["computed_tokens"] += slots
    progress["skipped"] += not finite
    speed = measure_speed(model, batch, slots, time.perf_counter() - begin, totals.table.device)
    record = {**means, "grad_norm": norm, **progress, **speed}
    return record if finite else {**record, "pairs": [example.id for example in batch]}, int(stop)


def measure(run, model, held_out, log, step, per_epoch):
    """Log the metrics of held-out rows, where there are any, under TRL's names for them."""
    if held_out:
        with no_gradients(model):
            means, _, _ = read_totals(run(held_out))
        log({"step": step, "epoch": step / per_epoch, **{f"eval_{name}": mean for name, mean in means.items()}})


def start_or_resume(args, model):
    """(optimizers, progress) of a new run, or those of the last checkpoint in OUT."""
    optimizers = make_optimizers(model, args.lr, args.weight_decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    before = checkpoint.load_last_checkpoint(args.out, model, optimizers) if args.resume else None
    return optimizers, before or dict(step=0, num_tokens=0, computed_tokens=0, skipped=0)


def fit(args, run, model, pairs, held_out, mesh):
    """The loop over optimizer steps, with metrics, measurements and checkpoints on the way.

    run(batch): run_batch for this model and objective. Returns 0, or the number of the signal that ended the loop
    after a step, with a checkpoint.
    """
    optimizers, progress = start_or_resume(args, model)
    done, in_a_row, per_epoch = progress["step"], 0, math.ceil(len(pairs) / args.batch_size)
    steps = args.max_steps or args.epochs * per_epoch
    checkpoint.announce_saves(args.out, model, (steps - done) // args.save_every if args.save_every else 0)
    log = open_log(args.out, done)
    if not done:
        measure(run, model, held_out, log, 0, per_epoch)
    bar = progress_bar("train.py", steps, done, quiet=mesh.get_rank() > 0)
    with bar, signals(mesh.device_type) as asked:
        for epoch in range(done // per_epoch, math.ceil(steps / per_epoch)):
            batches = epoch_batches(pairs, args.batch_size, args.seed, args.shuffle, epoch)
            for step, batch in enumerate(batches, epoch * per_epoch + 1):
                if not done < step <= steps:
                    continue
                share = rate_share(step - 1, steps, args.schedule, args.warmup)
                record, stop = take_step(run, batch, model, optimizers, share, args.clip, asked, progress)
                log({"step": step, "epoch": step / per_epoch, "learning_rate": args.lr * share, **record})
                bar.update()
                in_a_row = in_a_row + 1 if "pairs" in record else 0
                if in_a_row == PATIENCE:
                    raise UserError(NOT_FINITE.format(out=args.out, pairs=", ".join(map(str, record["pairs"]))))
                if step == steps or args.eval_every and step % args.eval_every == 0:
                    measure(run, model, held_out, log, step, per_epoch)
                if stop or args.save_every and step % args.save_every == 0:
                    checkpoint.save_checkpoint(args.out, model, optimizers, progress)
                if stop:
                    say(f"{args.out}: saved after step {step}; go on with --resume")
                    return stop
    return 0


# ---------------------------------------------------------------------------------------------- program

def add_task_flags(flag):
    flag("--model", required=True, help="model folder or hub name; without weights in it, random ones (--seed)")
    flag("--pairs", metavar="FILE", help="JSONL rows to train on; required but for --plan")
    flag("--eval-pairs", metavar="FILE", help="held-out rows, measured before the first step and after the last")
    flag("--out", metavar="FOLDER", help="where the model, metrics.jsonl and checkpoints go; required but for --plan")
    flag("--plan", action="store_true", help="print what the run takes on --world processes, and load no weights")
    flag("--world", type=int, default=1, help="for --plan: processes, one a GPU")
    flag("--objective", choices=list(REQUIRED), default="step-dpo",
         help="what of a row is scored: two steps, two whole answers, or one answer to imitate")
    flag("--reference", help="model to stay close to (default: --model as it comes)")
    flag("--prompt", choices=PROMPTS, default="chat", help="prompt format; chat is the tokenizer's own")
    flag("--beta", type=float, default=0.4, help="inverse temperature of the KL to the reference")
    flag("--loss", metavar="NAME", help="what is minimised, of OBJECTIVES in loss.py: sigmoid (DPO's), ipo-sum, "
         "ipo-mean, sft (default: sft for --objective sft, else sigmoid)")
    flag("--label-smoothing", type=float, default=0.0, help="sigmoid: share of pairs taken to be the wrong way round")
    flag("--nll", type=float, default=0.0, help="weight of the chosen side's negative log-likelihood per token")
    flag("--eos", action="store_true", help="step-dpo: end a step with EOS where it ends its answer")


def add_step_flags(flag):
    flag("--lr", type=float, default=5e-7, help="peak learning rate")
    flag("--schedule", choices=["cosine", "linear", "constant"], default="cosine", help="of the rate after warm-up")
    flag("--warmup", type=float, default=0.1, help="share of the steps in which the rate rises")
    flag("--epochs", type=int, default=8, help="passes over the rows; the paper's 8 is for 7B, 4 above 30B")
    flag("--max-steps", type=int, default=0, help="optimizer steps, whatever the epochs; 0: epochs decide")
    flag("--batch-size", type=int, default=128, help="pairs (sft: answers) per optimizer step, over all processes")
    flag("--tokens-per-micro-batch", type=int, default=4096, help="distinct tokens that a process computes at once")
    flag("--max-length", type=int, help="drop rows of more tokens (default: the model's context)")
    flag("--weight-decay", type=float, default=0.0, help="of AdamW, on matrices")
    flag("--lora", type=int, metavar="RANK", help="train adapters of this rank on the linear layers of attention and "
         "MLP, and freeze the rest; wants about ten times the --lr of full training")
    flag("--lora-alpha", type=int, metavar="A", help="adapters count A / RANK (default: 2 RANK)")
    flag("--base-dtype", choices=["bfloat16", "float32"], help="what --lora freezes is kept in this (default: bfloat16 "
         "on a GPU, float32 on a CPU)")
    flag("--clip", type=float, default=1.0, help="largest norm of the gradient; 0: any")
    flag("--seed", type=int, default=0, help="of the order of rows, and of random weights")
    flag("--shuffle", choices=["pairs", "prefixes"], default="pairs",
         help="rows of a batch: any, as in the paper, or those of a prefix together, which are computed together")
    flag("--save-every", type=int, default=100, metavar="STEPS", help="steps between checkpoints; 0: none")
    flag("--eval-every", type=int, default=0, metavar="STEPS", help="steps between measurements; 0: first and last")
    flag("--resume", action="store_true", help="go on from the last checkpoint in OUT")
    flag("--checkpointing", action="store_true", help="keep only the inputs of layers for the backward pass")
    flag("--offload", action="store_true", help="weights, gradients and moments in host memory: slower, much smaller")
    flag("--compile", action="store_true", help="torch.compile on each layer")
    flag("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")


def parse_args(argv):
    parser = make_parser(__doc__, usage="%(prog)s [flags]")
    add_task_flags(parser.add_argument_group("what is learned, from what").add_argument)
    add_step_flags(parser.add_argument_group("how the steps are taken").add_argument)
    args = parse_flags(parser, argv)
    if not args.plan and not (args.pairs and args.out):
        parser.error("--pairs and --out are required")
    check_numbers(args)
    args.loss = args.loss or ("sft" if args.objective == "sft" else "sigmoid")
    check_objective(args, parser.get_default)
    if not args.plan:
        check_out(args.out, args.resume, [args.model, args.reference])
    return args


def check_numbers(args):
    """UserError for what no run can use."""
    least = {"epochs": 1, "batch_size": 1, "tokens_per_micro_batch": 1, "max_length": 2, "world": 1, "lora": 1,
             "lora_alpha": 1}
    for name, value in vars(args).items():
        if isinstance(value, (int, float)) and not value >= least.get(name, 0):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least.get(name, 0)}", 2)
    if args.warmup > 1:
        raise UserError(f"--warmup {args.warmup:g}: is a share of the steps, from 0 to 1", 2)
    if args.label_smoothing >= 0.5:
        raise UserError(f"--label-smoothing {args.label_smoothing}: must be below 0.5", 2)
    for name in ("lora_alpha", "base_dtype"):
        if getattr(args, name) and not args.lora:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: is for --lora; leave it out", 2)
    if "-" in (args.pairs, args.eval_pairs):
        raise UserError("--pairs -: every process reads the file, and --resume again; write it to disk first", 2)


def check_objective(args, default):
    """UserError for a --loss that is not in loss.py's table, and for flags that it would not heed."""
    from loss import OBJECTIVES
    if args.loss not in OBJECTIVES:
        raise UserError(f"--loss {args.loss}: choose from {', '.join(OBJECTIVES)}; loss.py holds them", 2)
    if args.loss.startswith("ipo") and not args.beta:
        raise UserError(f"--loss {args.loss}: has no target at --beta 0", 2)
    if args.reference and not OBJECTIVES[args.loss].reference:
        raise UserError(f"--reference {args.reference}: --loss {args.loss} asks no reference; leave it out", 2)
    for name in sorted({name for objective in OBJECTIVES.values() for name in objective.flags}):
        if name not in OBJECTIVES[args.loss].flags and getattr(args, name) != default(name):
            takers = ", ".join(loss for loss, objective in OBJECTIVES.items() if name in objective.flags)
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: is for --loss {takers}, not for "
                            f"{args.loss}; leave it out", 2)


def base_dtype(args, device):
    """The type to keep the model in, but for what is trained where --lora freezes the rest."""
    return args.base_dtype or ("bfloat16" if args.lora and device == "cuda" else "float32")


def main(argv=None):
    args = parse_args(argv)
    from loss import OBJECTIVES
    prepare = functools.partial(prepare_model, args=args)
    if args.plan:
        folder = find_model(args.model)
        pairs = read_pairs(args, folder)[0] if args.pairs else None
        return print_plan(args, folder, pairs, prepare, base_dtype(args, args.device or "cuda"))
    with processes(args.device) as mesh, own_folder(args.out):
        folder = find_model(args.model)
        agree_on_date(args.out)
        pairs, held_out = read_pairs(args, folder)
        other = find_model(args.reference, "--reference") if args.reference else folder
        settings = run_settings(vars(args), mesh.device_type, {"model": folder, "reference": other},
                                {"pairs": pairs, "eval_pairs": held_out})
        if args.resume and check_run(args.out, settings):
            return say(f"{args.out}: was finished before")
        load = functools.partial(load_model, mesh=mesh, shard=shard_model, seed=args.seed, offload=args.offload,
                                 checkpointing=args.checkpointing, compiled=args.compile)
        model = load(folder, prepare=prepare, dtype=base_dtype(args, mesh.device_type))
        with checkpoint.disk_errors(args.out):
            write_run(args.out, settings)
            objective, budget = OBJECTIVES[args.loss], args.tokens_per_micro_batch
            if objective.reference:
                def load_reference():
                    return load(other) if args.reference else model
                pairs, held_out = add_references(args.out, pairs, held_out, load_reference, budget, mesh)
            flags = {name: getattr(args, name) for name in objective.flags}
            run = functools.partial(run_batch, model, objective=objective, flags=flags, budget=budget, mesh=mesh)
            stop = fit(args, run, model, pairs, held_out, mesh)
            if not stop:
                export_model(model, folder, args)
                write_run(args.out, settings, finished=True)
                say(f"{args.out}: the model is there; {describe_end(args.out)}")
        return 128 + stop if stop else 0


if __name__ == "__main__":
    run_main(main)
