"""What a training step costs: ours, TRL's DPOTrainer, and the matrix products that no trainer can avoid.

    python demo/benchmark.py --quick
    python demo/benchmark.py >> BENCHMARKS.md

out: a Markdown table for each shape of model and number of pairs a prefix, on stdout

Every contender takes the same optimizer steps on the same token ids from the same weights, in one process, in turns;
their losses are compared first. A time is the least of the rounds: CPU-seconds of one thread, seconds on a GPU.
- TRL as it comes: its defaults, with a live reference model; float32 on a CPU. It is slow, so it has one round.
- TRL at its best: reference log-probs precomputed, no checkpointing, one pair per forward pass, its head on labelled
  positions only, which it chooses by itself on CUDA and is made to choose on a CPU.
- floor of the trie: the products of the model's linear layers over its distinct tokens, and of the head over its
  targets, forward, by input and by weight, each timed alone at its shape. Of pairs: prefixes shared in a pair only.
  Attention, norms, the optimizer and the recomputation of logits are in no floor.
- memory: the peak of what is held beyond weights, gradients and moments, all pairs of the step in flight at once (TRL
  as it comes: eight).
"""
import argparse
import contextlib
import ctypes
import functools
import os
import platform
import random
import sys
import tempfile
import time
from array import array
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BODY = dict(model_type="qwen2", hidden_size=512, num_hidden_layers=11, num_attention_heads=8, num_key_value_heads=2,
            intermediate_size=1408, max_position_embeddings=1024)
SHAPES = {  # bodies of 34M and 31M; heads of 8 % of the body, as a 7B model has, and of 78M
    # products grow with width², the rest of a layer with width: 512 would give the rest seven times the share that it
    # has in a 7B model, which is 3584 wide; 1024 is what a CPU allows
    "a 7B's proportion": dict(BODY, vocab_size=2624, tie_word_embeddings=False, hidden_size=1024, num_hidden_layers=3,
                              intermediate_size=2816),
    "full vocabulary": dict(BODY, vocab_size=151936, tie_word_embeddings=True)}
CUDA_SHAPES = {
    "0.5B": dict(BODY, vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14,
                 intermediate_size=4864, tie_word_embeddings=True),
    "1.5B": dict(BODY, vocab_size=151936, hidden_size=1536, num_hidden_layers=28, num_attention_heads=12,
                 intermediate_size=8960, tie_word_embeddings=True)}
BETA, RATE = 0.4, 1e-6


def draw_pairs(count, per_prefix, vocabulary, seed=0):
    """[(prompt and prefix, chosen, rejected)] as ids, in lengths as Math-Step-DPO-10K has them."""
    draw = random.Random(seed)

    def some(least, most):
        return [draw.randrange(10, vocabulary) for _ in range(draw.randint(least, most))]

    prefixes = [some(150, 400) for _ in range(count // per_prefix)]
    return [(prefix, some(20, 120), some(20, 120)) for prefix in prefixes for _ in range(per_prefix)]


def make_folder(folder, shape):
    """A model folder with random weights and a tokenizer that TRL wants to see."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.float32).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<end>": 1}, "a")), eos_token="<end>",
                            pad_token="<end>").save_pretrained(folder)


class Ours:
    """train.py's own step."""

    def __init__(self, folder, pairs, mesh, budget, references):
        import torch
        import train
        from loss import OBJECTIVES
        from stepdpo import shard
        from stepdpo.examples import Example, Sequence
        self.model = shard.load_model(folder, mesh, train.shard_model, seed=0)
        self.optimizer, = train.make_optimizers(self.model, RATE, 0.0)
        examples = []
        for i, ((prefix, chosen, rejected), reference) in enumerate(zip(pairs, references)):
            sequences = [Sequence(array("i", prefix + chosen), len(prefix), +1),
                         Sequence(array("i", prefix + rejected), len(prefix), -1)]
            examples.append(Example(str(i), sequences, reference=torch.cat(reference)))
        self.batch = functools.partial(train.run_batch, self.model, examples, OBJECTIVES["sigmoid"], {"beta": BETA},
                                       mesh=mesh)
        self.budget, self.mesh = budget, mesh

    def step(self, at_once=False):
        from stepdpo.metrics import read_totals
        totals = self.batch(budget=1 << 30 if at_once else self.budget)
        finish(self.optimizer)
        return read_totals(totals)[0]["loss"]


class Trl:
    """TRL's training step, without the loop around it. per_forward: pairs in a forward pass; best: see above."""

    def __init__(self, folder, pairs, kind, per_forward, references, best, work):
        import datasets
        import torch
        import trl
        from transformers import AutoModelForCausalLM, AutoTokenizer
        self.best, self.per_forward, cuda = best, per_forward, kind == "cuda"
        how = dict(gradient_checkpointing=False) if best else {}
        text = datasets.Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}])
        self.trainer = trl.DPOTrainer(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), train_dataset=text,
            processing_class=AutoTokenizer.from_pretrained(folder), args=trl.DPOConfig(
                work, beta=BETA, per_device_train_batch_size=per_forward, max_length=None, bf16=cuda, use_cpu=not cuda,
                report_to=[], disable_tqdm=True, **how))
        self.trainer.precompute_ref_logps = best
        if best:
            self.trainer.ref_model = None
        self.model = self.trainer.accelerator.prepare_model(self.trainer.model)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
        self.rows = [dict(prompt_ids=prefix, chosen_ids=chosen, rejected_ids=rejected,
                          ref_chosen_logps=reference[0].sum().item(), ref_rejected_logps=reference[1].sum().item())
                     for (prefix, chosen, rejected), reference in zip(pairs, references)]

    def step(self, at_once=False):
        import trl.trainer.utils
        usual, size = trl.trainer.utils._use_triton, len(self.rows) if at_once else self.per_forward
        if self.best:
            trl.trainer.utils._use_triton = lambda device: True  # only its choice of labelled positions looks here
        self.trainer.current_gradient_accumulation_steps = 1
        total = 0.0
        for at in range(0, len(self.rows), size):
            micro = self.trainer.data_collator(self.rows[at:at + size])
            micro = {name: tensor.to(self.model.device) for name, tensor in micro.items()}
            total += self.trainer.training_step(self.model, micro).item() * len(self.rows[at:at + size])
        trl.trainer.utils._use_triton = usual
        for p in self.model.parameters():
            p.grad /= -(-len(self.rows) // size)
        finish(self.optimizer)
        return total / len(self.rows)


def finish(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = RATE
    optimizer.step()
    optimizer.zero_grad()


def reference_logps(folder, pairs, kind):
    """[(log-probs of chosen's tokens, of rejected's)] by the stock model, float32, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(kind)

    @torch.no_grad()
    def ask(prefix, side):
        ids = torch.tensor(prefix + side, device=kind)
        logps = model(ids[None], logits_to_keep=len(side) + 1).logits[0, :-1].log_softmax(-1)
        return logps.gather(1, ids[len(prefix):, None]).squeeze(1).cpu()

    return [(ask(prefix, chosen), ask(prefix, rejected)) for prefix, chosen, rejected in pairs]


def products(config, tokens, targets):
    """[(rows, inner, columns, how many)] of the linear layers over `tokens` and the head over `targets`."""
    width, inner = config.hidden_size, config.intermediate_size
    per_head = width // config.num_attention_heads
    layer = [(width, width, 2), (width, config.num_key_value_heads * per_head, 2), (width, inner, 2), (inner, width, 1)]
    return [*((tokens, a, b, n * config.num_hidden_layers) for a, b, n in layer),
            (targets, width, config.vocab_size, 1)]


def floor(config, tokens, targets, kind):
    """Seconds of all products, forward, by input and by weight; a long product is timed on part of its rows."""
    import torch
    dtype, total = torch.bfloat16 if kind == "cuda" else torch.float32, 0.0
    for rows, a, b, n in products(config, tokens, targets):
        part = min(rows, 4096)
        x, w, g = (torch.randn(shape, dtype=dtype, device=kind) for shape in ((part, a), (b, a), (part, b)))
        into = [torch.empty(shape, dtype=dtype, device=kind) for shape in ((part, b), (part, a), (b, a))]

        def run():
            torch.mm(x, w.T, out=into[0])
            torch.mm(g, w, out=into[1])
            torch.mm(g.T, x, out=into[2])
        run()
        total += n * rows / part * min(seconds_of(run, kind)[0] for _ in range(2))
    return total


def seconds_of(work, kind):
    """(seconds that `work()` took, its result)."""
    import torch
    if kind == "cuda":
        torch.cuda.synchronize()
        begin, result = time.perf_counter(), work()
        torch.cuda.synchronize()
        return time.perf_counter() - begin, result
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def peak(contender, kind, at_once=True):
    """Bytes that a step takes beyond weights, gradients and moments. at_once: with all its pairs in flight."""
    import torch
    gradients = sum(p.numel() * p.element_size() for p in contender.model.parameters())
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender.step(at_once)
        return torch.cuda.max_memory_allocated() - before - gradients
    c = ctypes.CDLL("libc.so.6")
    c.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed goes back at once, so that the peak is what is held
    c.malloc_trim(0)

    def resident(name):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) << 10

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    contender.step(at_once)
    c.mallopt(-3, 32 << 20)  # the largest that glibc chooses by itself; times are not to pay for fresh pages
    return resident("VmHWM") - before - gradients


def measure_all(shape, pairs, budget, rounds, usual, mesh, work):
    """{name: seconds}, {name: bytes}, (distinct tokens of the trie, of pairs, of separate rows)."""
    import torch
    from transformers import AutoConfig
    from stepdpo.trie import build_trie
    kind, folder = mesh.device_type, os.path.join(work, "model")
    make_folder(folder, shape)
    references = reference_logps(folder, pairs, kind)
    contenders = {"ours": Ours(folder, pairs, mesh, budget, references),
                  "TRL at its best": Trl(folder, pairs, kind, 1, references, True, work)}
    losses = [contender.step() for contender in contenders.values()]  # the first step also makes the moments
    assert max(losses) - min(losses) < (1e-3 if kind == "cpu" else 0.05), losses
    trie = build_trie([(array("i", prefix + side), len(prefix)) for prefix, *sides in pairs for side in sides])
    targets = sum(len(a) + len(b) for _, a, b in pairs)
    tokens = (len(trie.ids), sum(len(p) + len(a) + len(b) - 2 for p, a, b in pairs),
              sum(2 * len(p) + len(a) + len(b) - 2 for p, a, b in pairs))
    memory = {name: peak(contender, kind) for name, contender in contenders.items()}
    config, seconds = AutoConfig.from_pretrained(folder), {}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds.setdefault(name, []).append(seconds_of(contender.step, kind)[0])
        seconds.setdefault("floor of the trie", []).append(floor(config, tokens[0], len(trie.reads), kind))
        seconds.setdefault("floor of pairs", []).append(floor(config, tokens[1], targets, kind))
    if usual:
        contenders.clear()
        slow = Trl(folder, pairs, kind, min(8, len(pairs)), references, False, work)
        for p in slow.model.parameters():
            p.grad = torch.zeros_like(p)
        finish(slow.optimizer)  # makes the moments
        seconds["TRL as it comes"] = [seconds_of(slow.step, kind)[0]]
        memory["TRL as it comes"] = peak(slow, kind, at_once=False)
    return {name: min(times) for name, times in seconds.items()}, memory, tokens


def print_table(name, per_prefix, pairs, seconds, memory, tokens, shape, kind):
    least = seconds["floor of the trie"]
    print(f"\n**{name}, {len(pairs)} pairs, {per_prefix} a prefix**: {tokens[0]:,} distinct tokens in the trie, "
          f"{tokens[1]:,} in pairs, {tokens[2]:,} in separate rows\n")
    print("| | seconds | pairs/s | over the trie's floor | over ours | peak memory, MiB |\n|---|---|---|---|---|---|")
    for row, time_of in sorted(seconds.items(), key=lambda item: item[1]):
        beyond = f"{memory[row] / 2 ** 20:.0f}" if row in memory else ""
        print(f"| {row} | {time_of:.2f} | {len(pairs) / time_of:.2f} | {time_of / least:.2f} | "
              f"{time_of / seconds['ours']:.2f} | {beyond} |")
    if kind == "cuda":
        import torch
        from transformers import AutoConfig
        flops = sum(6 * r * a * b * n for r, a, b, n in
                    products(AutoConfig.for_model(**shape), tokens[0], sum(len(a) + len(b) for _, a, b in pairs)))
        print(f"\nMFU of ours: {flops / seconds['ours'] / 989e12:.1%} of an H100's 989 TFLOP/s "
              f"({torch.cuda.get_device_name()})")
    sys.stdout.flush()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 pairs, one round, no TRL as it comes: minutes")
    parser.add_argument("--pairs", type=int, default=8, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=2, help="steps of each contender, in turns")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=4096, help="as train.py has it")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    args = parser.parse_args(argv)
    if args.quick:
        args.pairs, args.rounds = 4, 1
    import torch
    import transformers
    import trl
    from stepdpo.processes import processes
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    with processes(args.device) as mesh:
        kind = mesh.device_type
        device = torch.cuda.get_device_name() if kind == "cuda" else f"{platform.machine()}, one thread"
        print(f"\n`python demo/benchmark.py {' '.join(argv or sys.argv[1:])}`: {device}; torch {torch.__version__}, "
              f"transformers {transformers.__version__}, trl {trl.__version__}")
        for name, shape in (CUDA_SHAPES if kind == "cuda" else SHAPES).items():
            for per_prefix in (1, 4):
                pairs = draw_pairs(args.pairs, per_prefix, shape["vocab_size"])
                with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(sys.stderr):
                    found = measure_all(shape, pairs, args.tokens_per_micro_batch, args.rounds, not args.quick, mesh,
                                        work)
                print_table(name, per_prefix, pairs, *found, shape, kind)


if __name__ == "__main__":
    main()
