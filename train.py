"""Teach a policy to prefer the right next step (Step-DPO), a right answer (DPO), or to imitate answers (SFT).

    python train.py --model M --pairs pairs.jsonl --out runs/m-step-dpo
    torchrun --nproc-per-node 8 train.py --model M --pairs pairs.jsonl --out runs/m-step-dpo

in:  step-dpo {"prompt", "initial_reason_steps", "chosen", "rejected"[, "weight"]}
     dpo      the same with "full_chosen" and "full_rejected"
     sft      {"prompt", "completion"}, where "correct": false is dropped, or {"prompt", "solution"}
out: OUT, a model folder that `from_pretrained` reads, in which metrics.jsonl holds a record a step, dropped.jsonl the
     rows that could not be used and why, checkpoint-STEP what --resume needs, run.json the settings of a finished run

Every distinct token prefix of a micro-batch is computed once (trie.py); the model is sharded with FSDP2 at any number
of processes, one included (shard.py); the reference policy is asked once, before the first step, and its answers are
kept beside the pairs for the next run.
To change the loss, edit `step_dpo_loss` in loss.py and `run_batch`; to change the data, `row_texts`.
"""
import contextlib
import functools
import hashlib
import json
import math
import os
import signal
from array import array
from collections import Counter, namedtuple

from stepdpo.checkpoint import announce_saves, checkpoints, disk_errors, load_checkpoint, read_run, save_checkpoint
from stepdpo.command import UserError, make_parser, parse_flags, run_main
from stepdpo.plan import print_plan
from stepdpo.prompts import PROMPTS, encode_step, load_tokenizer, render_prompt
from stepdpo.rows import format_row, read_rows, write_aside
from stepdpo.shard import (
    export,
    files_in,
    find_model,
    first_process,
    load_config,
    load_model,
    no_gradients,
    processes,
    say,
)
from stepdpo.trie import epoch_batches, score, split_batch

# sequences: [(token ids, index of the first target)], chosen before rejected; reference: their summed log-probs under
# the reference policy, None until it was asked
Example = namedtuple("Example", "id sequences weight reference")
REQUIRED = {"step-dpo": ("prompt", "chosen", "rejected"), "dpo": ("prompt", "full_chosen", "full_rejected"),
            "sft": ("prompt",)}
METRICS = ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
           "logps/rejected")  # TRL's names; sft has the first
TRAJECTORY = ("objective", "prompt", "loss", "beta", "label_smoothing", "nll", "eos", "lr", "schedule", "warmup",
              "epochs", "max_steps", "batch_size", "shuffle", "weight_decay", "clip", "seed")  # for --resume to check
PATIENCE = 3  # steps in a row whose loss or gradient may be no finite number


# ------------------------------------------------------------------------------------------------- rows

def row_texts(row, objective, eos=False):
    """What a row is about: [(solution so far, text to score, whether to end it with EOS)], chosen first.

    A step gets no EOS, as in the paper; with `eos`, one that ends its answer does.
    """
    whole = row.get("finish_reason") != "length"  # an answer that was cut must not teach to stop there
    if objective == "sft":
        return [("", row["completion"] if "completion" in row else row["solution"], whole)]
    prefix = row.get("initial_reason_steps", "")
    if objective == "dpo":
        return [(prefix, row["full_chosen"], True), (prefix, row["full_rejected"], whole)]
    ends = [eos and str(row.get(f"full_{side}")).strip() == row[side].strip() for side in ("chosen", "rejected")]
    return [(prefix, row["chosen"], ends[0]), (prefix, row["rejected"], ends[1] and whole)]


def check_row(row, where, objective):
    """UserError for a row that cannot be meant for this objective."""
    if "drop" in row:
        raise UserError(f"{where} was dropped by an earlier stage ({row['drop']}); name a file of kept rows")
    if objective == "sft" and not ("completion" in row or "solution" in row):
        raise UserError(f"{where} has no 'completion' and no 'solution'; run collect.py --keep right first")
    name = "initial_reason_steps" if objective != "sft" else "completion" if "completion" in row else "solution"
    if not isinstance(row.get(name, ""), str):
        raise UserError(f"{where}: '{name}' is {json.dumps(row[name])[:40]}, not a string")
    weight = row.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise UserError(f"{where}: 'weight' is {json.dumps(weight)[:40]}, not a number of at least 0")


def make_example(row, tokenizer, objective, prompt, limit, eos=False):
    """(Example, None), or (None, the reason why this row is dropped)."""
    if objective == "sft" and row.get("correct") is False:
        return None, "wrong answer"
    sequences = []
    for prefix, text, ends in row_texts(row, objective, eos):
        ids, start = encode_step(tokenizer, render_prompt(tokenizer, row["prompt"], prompt, prefix + text), text)
        if start == len(ids):
            return None, "nothing to score"
        if start == 0:
            return None, "nothing to score it after"
        if ends and ids[-1] != tokenizer.eos_token_id:
            ids = [*ids, tokenizer.eos_token_id]
        if len(ids) > limit:
            return None, f"longer than {limit} tokens"
        sequences.append((array("i", ids), start))
    if len(sequences) == 2 and sequences[0] == sequences[1]:
        return None, "chosen equals rejected"
    return Example(row["id"], sequences, float(row.get("weight", 1)), None), None


def load_examples(path, tokenizer, objective, prompt, limit, vocabulary, eos=False):
    """(examples, dropped rows with their `drop` reason) of a JSONL file. UserError when nothing is left."""
    if (eos or objective != "step-dpo") and tokenizer.eos_token_id is None:
        raise UserError(f"{tokenizer.name_or_path}: its tokenizer has no end-of-sequence token, with which "
                        f"--objective {objective} ends an answer; set eos_token in tokenizer_config.json", 2)
    examples, dropped = [], []
    for row in read_rows(path, REQUIRED[objective]):
        check_row(row, f"{path}: row {row['id']}", objective)
        example, reason = make_example(row, tokenizer, objective, prompt, limit, eos)
        if reason:
            dropped.append({**row, "drop": reason})
        elif max(max(ids) for ids, _ in example.sequences) >= vocabulary:
            raise UserError(f"{path}: row {row['id']} has a token beyond the model's {vocabulary}; "
                            "the tokenizer is another model's", 2)
        else:
            examples.append(example)
    reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row["drop"] for row in dropped).most_common())
    tally = f"{len(examples) + len(dropped)} in, {len(examples)} kept, {len(dropped)} dropped"
    tally += f" ({reasons})" if reasons else ""
    if not sum(example.weight for example in examples):
        raise UserError(f"{path}: no row to train on: " + ("every 'weight' is 0" if examples else tally))
    say(f"{path}: {tally}")
    return examples, dropped


# ------------------------------------------------------------------------------------------------- loop

def run_batch(model, batch, objective, beta, budget, mesh, **variant):
    """({metric: weighted mean over the global batch}, slots computed). Accumulates gradients where they are enabled.

    The loss is Σ weight·loss / Σ weight, for sft Σ weight·loss / Σ weight·tokens, whatever the micro-batches and
    processes are. FSDP averages gradients over processes, hence `world` in what is differentiated. variant: what else
    step_dpo_loss takes.
    """
    import torch
    import torch.distributed as dist

    from loss import step_dpo_loss
    device, world, names = torch.device(mesh.device_type), mesh.size(), METRICS[:1] if objective == "sft" else METRICS
    parts = [sum(len(ids) - start for ids, start in e.sequences) if objective == "sft" else 1 for e in batch]
    total = sum(e.weight * part for e, part in zip(batch, parts)) or 1.0
    sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=device)
    for micro in split_batch(batch, budget, world)[mesh.get_rank()::world]:
        # a process without data takes part all the same in gathering weights and reducing gradients
        policy, lengths, slots = score(model, micro or batch[:1], device)
        weight = policy.new_tensor([e.weight for e in micro] or [0.0])
        if objective == "sft":
            values = [-policy]
        else:
            reference = policy.new_tensor(list(zip(*(e.reference for e in micro or batch[:1])))).flatten()
            loss, margin = step_dpo_loss(policy, reference, beta, lengths, **variant)
            values = [loss, *(beta * (policy - reference)).chunk(2), margin > 0, margin, *policy.chunk(2)]
        means = torch.stack([(value * weight).sum() for value in values]) / total
        if torch.is_grad_enabled():
            (means[0] * world).backward()
        sums += torch.cat([means.detach(), means.new_tensor([slots if micro else 0])])
    dist.all_reduce(sums)
    *means, slots = sums.tolist()
    return dict(zip(names, means)), int(slots)


def fingerprint(*parts):
    """16 hex digits that stand for examples, the files of model folders (by excerpts), and plain values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str) and os.path.isdir(part):
            part = [(os.path.basename(file), os.stat(file).st_size, os.stat(file).st_mtime_ns, excerpts(file))
                    for file in files_in(part, "*.safetensors", "config.json")]
        for item in part if isinstance(part, list) else [part]:
            if isinstance(item, Example):
                item = [(ids.tobytes(), start, item.weight) for ids, start in item.sequences]
            digest.update(repr(item).encode())
    return digest.hexdigest()[:16]


def excerpts(path, places=64, length=4096):
    """Bytes from all over a file: where models are unpacked with one date, size and date do not tell them apart."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        return [(file.seek(size * place // places), file.read(length)) for place in range(places)]


def add_references(examples, path, key, load, budget, mesh):
    """Examples with their log-probs under the model that `load()` gives, kept beside `path` for the next run."""
    import torch
    import torch.distributed as dist
    cache, stored = f"{path}.reference-{key}.json", [None]
    if mesh.get_rank() == 0 and os.path.exists(cache):
        with open(cache) as file:
            stored = [json.load(file)]
    dist.broadcast_object_list(stored)
    if stored[0] is None:
        say(f"{path}: asking the reference model")
        model, device = load(), torch.device(mesh.device_type)
        place = {id(example): i for i, example in enumerate(examples)}
        logps = torch.zeros(len(examples), 2, device=device)
        with no_gradients(model):
            for at in range(0, len(examples), 1024):
                for micro in split_batch(examples[at:at + 1024], budget, mesh.size())[mesh.get_rank()::mesh.size()]:
                    answer, *_ = score(model, micro or examples[:1], device)
                    logps[[place[id(example)] for example in micro]] = answer.view(2, -1).T[:len(micro)]
        dist.all_reduce(logps)
        stored = [logps.tolist()]
        if mesh.get_rank() == 0:
            try:
                write_aside(cache, json.dumps(stored[0]))
            except OSError as error:  # a read-only data folder costs only the next run's time
                say(f"{cache}: {error.strerror}; not kept for the next run")
    return [example._replace(reference=tuple(logps)) for example, logps in zip(examples, stored[0])]


def learning_rate(step, steps, peak, schedule, warmup):
    """The rate of step 0 … steps − 1: linear warm-up over a share of the steps, then the schedule, towards 0."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    done = (step - warm) / max(steps - warm, 1)
    return peak * {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]


@contextlib.contextmanager
def signals(device):
    """Gives asked(), the first SIGINT or SIGTERM that any process got, or 0. A second one quits at once."""
    import torch
    import torch.distributed as dist
    got = [0]

    def note(number, frame):
        if got[0]:
            os._exit(128 + number)
        got[0] = number
        os.write(2, b"train.py: saving after this step; once more to quit\n")  # print may not be entered twice

    def asked():
        number = torch.tensor(got, device=device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return number.item()

    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, note))
        yield asked


def open_log(out, step):
    """log(record) appends to OUT/metrics.jsonl, cut back to `step`, from one process."""
    if not first_process():
        return lambda record: None
    path, old = os.path.join(out, "metrics.jsonl"), []
    if step:
        with open(path) as file:
            old = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_aside(path, "".join(old))
    file = open(path, "a")

    def log(record):
        finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in record.items()}
        file.write(json.dumps(finite) + "\n")
        file.flush()
        # wandb.log(record, step=record["step"]) would stand here
    return log


def make_optimizer(model, weight_decay):
    """AdamW, its moments there from the start, for checkpoints; biases and norms do not decay."""
    import torch
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                                   {"params": others, "weight_decay": 0.0}], lr=0.0, fused=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"].zero_()
    optimizer.zero_grad()
    return optimizer


def take_step(run, batch, model, optimizer, rate, clip, progress):
    """An optimizer step, skipped where loss or gradient is not finite. Returns its metrics, then with "pairs", the ids.

    progress: counts of the run so far, which it adds to.
    """
    import torch
    means, slots = run(batch)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf).full_tensor().item()
    finite = math.isfinite(means["loss"]) and math.isfinite(norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    tokens = sum(len(ids) for example in batch for ids, _ in example.sequences)
    for name, more in ("step", 1), ("num_tokens", tokens), ("computed_tokens", slots), ("skipped", not finite):
        progress[name] += more
    record = {**means, "grad_norm": norm, "learning_rate": rate, **progress}
    return record if finite else {**record, "pairs": [example.id for example in batch]}


def measure(run, model, held_out, log, per_epoch, step):
    """Log the metrics of held-out pairs, where there are any, under TRL's names for them."""
    if held_out:
        with no_gradients(model):
            means, _ = run(held_out)
        log({"step": step, "epoch": step / per_epoch, **{f"eval_{name}": mean for name, mean in means.items()}})


def fit(args, model, pairs, held_out, mesh, settings):
    """The loop over optimizer steps, with metrics, measurements and checkpoints on the way.

    Returns 0, or the number of the signal that ended it after a step, with a checkpoint.
    """
    from tqdm import tqdm
    run = functools.partial(run_batch, model, objective=args.objective, beta=args.beta, mesh=mesh, kind=args.loss,
                            budget=args.tokens_per_micro_batch, smoothing=args.label_smoothing, nll=args.nll)
    optimizer = make_optimizer(model, args.weight_decay)
    progress, last = dict(step=0, num_tokens=0, computed_tokens=0, skipped=0), checkpoints(args.out)[-1:]
    if args.resume and last:
        progress = load_checkpoint(last[0], model, optimizer, settings)
    order = functools.lru_cache(1)(functools.partial(epoch_batches, pairs, args.batch_size, args.seed, args.shuffle))
    per_epoch, start, in_a_row = len(order(0)), progress["step"], 0
    steps = args.max_steps or args.epochs * per_epoch
    announce_saves(args.out, model, (steps - start) // args.save_every if args.save_every else 0)
    log = open_log(args.out, start)
    measure_at = functools.partial(measure, run, model, held_out, log, per_epoch)
    if not start:
        measure_at(0)
    with signals(mesh.device_type) as asked:
        bar = functools.partial(tqdm, desc="train", total=steps, initial=start, disable=mesh.get_rank() > 0 or None)
        for step in bar(range(start + 1, steps + 1)):
            batch = order((step - 1) // per_epoch)[(step - 1) % per_epoch]
            rate = learning_rate(step - 1, steps, args.lr, args.schedule, args.warmup)
            record = take_step(run, batch, model, optimizer, rate, args.clip, progress)
            log({"step": step, "epoch": step / per_epoch, **record})
            in_a_row = in_a_row + 1 if "pairs" in record else 0
            if in_a_row == PATIENCE:
                raise UserError(f"{args.out}: loss or gradient of {PATIENCE} steps in a row is not finite, the last of "
                                f"pairs {', '.join(map(str, record['pairs']))}; lower --lr or look at these rows")
            if step == steps or args.eval_every and step % args.eval_every == 0:
                measure_at(step)
            stop = asked()
            if stop or args.save_every and step % args.save_every == 0:
                save_checkpoint(args.out, model, optimizer, progress, settings)
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
    flag("--objective", choices=list(REQUIRED), default="step-dpo", help="compare steps or whole answers, or imitate")
    flag("--reference", help="model to stay close to (default: --model as it comes)")
    flag("--prompt", choices=PROMPTS, default="chat", help="prompt format; chat is the tokenizer's own")
    flag("--beta", type=float, default=0.4, help="inverse temperature of the KL to the reference")
    flag("--loss", choices=["sigmoid", "ipo-sum", "ipo-mean"], default="sigmoid", help="of a pair; see loss.py")
    flag("--label-smoothing", type=float, default=0.0, help="share of pairs taken to be the wrong way round")
    flag("--nll", type=float, default=0.0, help="weight of the chosen side's negative log-likelihood per token")
    flag("--eos", action="store_true", help="step-dpo: end a step with EOS where it ends its answer")


def add_step_flags(flag):
    flag("--lr", type=float, default=5e-7, help="peak learning rate of AdamW")
    flag("--schedule", choices=["cosine", "linear", "constant"], default="cosine", help="of the rate after warm-up")
    flag("--warmup", type=float, default=0.1, help="share of the steps in which the rate rises")
    flag("--epochs", type=int, default=8, help="passes over the rows; the paper's 8 is for 7B, 4 above 30B")
    flag("--max-steps", type=int, default=0, help="optimizer steps, whatever the epochs; 0: epochs decide")
    flag("--batch-size", type=int, default=128, help="pairs (sft: answers) per optimizer step, over all processes")
    flag("--tokens-per-micro-batch", type=int, default=4096, help="distinct tokens that a process computes at once")
    flag("--max-length", type=int, help="drop rows of more tokens (default: the model's context)")
    flag("--weight-decay", type=float, default=0.0, help="of AdamW, on matrices")
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
    check_flags(args)
    return args


def check_flags(args):
    """UserError for what no run can use; makes OUT."""
    least = {"epochs": 1, "batch_size": 1, "tokens_per_micro_batch": 1, "max_length": 2, "world": 1}
    for name, value in vars(args).items():
        if isinstance(value, (int, float)) and not value >= least.get(name, 0):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least.get(name, 0)}", 2)
    if args.warmup > 1:
        raise UserError(f"--warmup {args.warmup:g}: is a share of the steps, from 0 to 1", 2)
    if args.label_smoothing and (args.loss != "sigmoid" or args.label_smoothing >= 0.5):
        raise UserError(f"--label-smoothing {args.label_smoothing}: must be below 0.5, and is for --loss sigmoid", 2)
    if args.loss.startswith("ipo") and not args.beta:
        raise UserError(f"--loss {args.loss}: has no target at --beta 0", 2)
    if "-" in (args.pairs, args.eval_pairs):
        raise UserError("--pairs -: every process reads the file, and --resume again; write it to disk first", 2)
    if args.plan:
        return
    if not args.resume and (files_in(args.out, "metrics.jsonl", "run.json") or checkpoints(args.out)):
        raise UserError(f"{args.out}: holds a run; go on with --resume or name another --out", 2)
    if os.path.realpath(args.out) in map(os.path.realpath, filter(None, (args.model, args.reference))):
        raise UserError(f"{args.out}: is the model to start from; name another --out", 2)
    try:
        os.makedirs(args.out, exist_ok=True)
        open(os.path.join(args.out, "dropped.jsonl"), "a").close()  # before hours are spent
    except OSError as error:
        raise UserError(f"{args.out}: {error.strerror}; name another --out", 2) from error


def read_pairs(args, folder):
    """(pairs, held-out pairs), less what is dropped, which goes to OUT/dropped.jsonl with the reason."""
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    limit = min(args.max_length or math.inf, getattr(config, "max_position_embeddings", None) or math.inf)
    how = (tokenizer, args.objective, args.prompt, limit, config.vocab_size, args.eos)
    pairs, dropped = load_examples(args.pairs, *how)
    held_out, more = load_examples(args.eval_pairs, *how) if args.eval_pairs else ([], [])
    if first_process() and args.out:
        with open(os.path.join(args.out, "dropped.jsonl"), "wb") as file:
            file.writelines(map(format_row, dropped + more))
    return pairs, held_out


def main(argv=None):
    args = parse_args(argv)
    folder = find_model(args.model)
    if args.plan:
        return print_plan(args, folder, read_pairs(args, folder)[0] if args.pairs else None)
    with processes(args.device) as mesh:
        pairs, held_out = read_pairs(args, folder)
        load_from = functools.partial(load_model, mesh=mesh, seed=args.seed, offload=args.offload,
                                      checkpointing=args.checkpointing, compiled=args.compile)
        settings = {name: getattr(args, name) for name in TRAJECTORY}
        settings |= {"model": fingerprint(folder), "pairs": fingerprint(pairs)}
        other = find_model(args.reference) if args.reference else folder
        if args.objective != "sft":
            settings["reference"] = fingerprint(other)
        if args.resume and os.path.exists(os.path.join(args.out, "run.json")):
            read_run(args.out, settings)
            return say(f"{args.out}: was finished before")
        model = load_from(folder)
        if args.objective != "sft":
            load = functools.cache(lambda: model if other == folder else load_from(other))
            pairs, held_out = (add_references(examples, path, fingerprint(examples, other, args.seed, mesh.device_type),
                                              load, args.tokens_per_micro_batch, mesh) if examples else []
                               for examples, path in ((pairs, args.pairs), (held_out, args.eval_pairs)))
            load.cache_clear()  # no reference model is held in training
        with disk_errors(args.out):
            stop = fit(args, model, pairs, held_out, mesh, settings)
            if not stop:
                export(model, folder, args.out)
                if first_process():
                    write_aside(os.path.join(args.out, "run.json"), json.dumps({"settings": settings}, indent=1))
        return 128 + stop if stop else 0


if __name__ == "__main__":
    run_main(main)
