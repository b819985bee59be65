"""Tokens per CPU-second of the local engine, beside transformers' own ways; prints a Markdown table.

    python demo/benchmark_sampling.py --model FOLDER problems.jsonl --count 64 --max-tokens 512

All ways are run in turn in this process, on one thread, with the same problems; --rounds are interleaved. Settings
are collect.py's (two samples of each problem, temperature 0.8, top-p 0.95) and evaluate.py's (one, greedy). Ways:

    ours             the local engine, float32
    ours-bfloat16    the same with --dtype bfloat16
    before           the loop of another checkout of this repository (its evaluate.py or stepdpo/sampler.py)
    generate         transformers' generate
    generate_batch   its continuous batching, which takes long on a CPU
"""
import argparse
import importlib.util
import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SETTINGS = {"collect": {"samples": 2, "temperature": 0.8, "top_p": 0.95},
            "evaluate": {"samples": 1, "temperature": 0.0, "top_p": 1.0}}


def eos_ids(model, tokenizer):
    """All tokens at which an answer is over."""
    eos = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}


def ours(model, prompts, eos, how, slots, limit):
    """The running batch of stepdpo/running.py."""
    from stepdpo.sampler import sample_batch
    return sample_batch(model, prompts, list(range(len(prompts))), [limit] * len(prompts), lambda ids: ids[-1] in eos,
                        how["temperature"], how["top_p"], slots)


def static(sample_batch):
    """Another checkout's loop, in batches sorted by length as its engine made them."""
    def sample(model, prompts, eos, how, slots, limit):
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers = {}
        for begin in range(0, len(order), slots):
            batch = order[begin:begin + slots]
            found = sample_batch(model, [prompts[i] for i in batch], batch, [limit] * len(batch),
                                 lambda ids: ids[-1] in eos, how["temperature"], how["top_p"])
            answers.update(zip(batch, found))
        return [answers[i] for i in range(len(prompts))]
    return sample


def generate(model, prompts, eos, how, slots, limit):
    """transformers' generate, in batches of `slots` sorted by length."""
    def sample_batch(model, prompts, seeds, limits, ended, temperature, top_p):
        import torch
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sampled = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {
            "do_sample": False}
        torch.manual_seed(0)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=[*eos],
                             pad_token_id=min(eos), **sampled)
        return [cut(answer, eos) for answer in out[:, width:].tolist()]
    return static(sample_batch)(model, prompts, eos, how, slots, limit)


def generate_batch(model, prompts, eos, how, slots, limit):
    """transformers' continuous batching with its paged cache."""
    from transformers import GenerationConfig
    sampled = {"do_sample": True, "temperature": how["temperature"], "top_p": how["top_p"], "top_k": 0} \
        if how["temperature"] else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=limit, eos_token_id=[*eos], pad_token_id=min(eos), **sampled)
    out = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    answers = {tuple(result.prompt_ids): result.generated_tokens for result in out.values()}
    return [cut(answers[tuple(prompt)], eos) for prompt in prompts]


def cut(answer, eos):
    """An answer up to its first end, that token included."""
    ends = [i for i, token in enumerate(answer) if token in eos]
    return answer[:ends[0] + 1] if ends else answer


def load_other(checkout):
    """sample_batch of another checkout."""
    for name in ("stepdpo/sampler.py", "evaluate.py"):
        path = Path(checkout) / name
        if path.exists():
            old = dict(sys.modules)
            sys.path.insert(0, str(checkout))
            for module in [module for module in sys.modules if module.split(".")[0] in ("stepdpo", "steps", "grade")]:
                del sys.modules[module]
            spec = importlib.util.spec_from_file_location("other_sampler", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.path.remove(str(checkout))
            sys.modules.update(old)
            return module.sample_batch
    raise SystemExit(f"{checkout}: no sampler there")


def find_ways(args):
    """{way: (its sampling function, its model)} of --ways."""
    from stepdpo.sampler import load_for_sampling
    grouped = load_for_sampling(args.model)
    plain = load_for_sampling(args.model)
    plain.set_attn_implementation("sdpa")
    ways = {}
    for way in args.ways:
        if way == "ours-bfloat16":
            ways[way] = ours, load_for_sampling(args.model, dtype="bfloat16")
        elif way == "before":
            ways[way] = static(load_other(args.before)), plain
        else:
            ways[way] = {"ours": (ours, grouped), "generate": (generate, plain),
                         "generate_batch": (generate_batch, plain)}[way]
    return ways


def measure(ways, prompts, eos, how, args):
    """({way: [(tokens a CPU-second, tokens) of each round]}, {way: its answers})."""
    rates, answers = {way: [] for way in ways}, {}
    for _ in range(args.rounds):
        for way, (sample, model) in ways.items():
            begin = time.process_time()
            answers[way] = sample(model, prompts, eos, how, args.slots, args.max_tokens)
            tokens = sum(map(len, answers[way]))
            rates[way].append((tokens / (time.process_time() - begin), tokens))
            print(f"{way}: {tokens} tokens, {rates[way][-1][0]:.1f} a CPU-second, peak "
                  f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB so far", file=sys.stderr)
    return rates, answers


def print_table(name, rates, answers):
    first = next(iter(rates))
    mine = statistics.median(rate for rate, _ in rates[first])
    print(f"\n| {name}, {len(answers[first])} answers | tokens | tokens a CPU-second | {first} is | same answers |")
    print("|---|---|---|---|---|")
    for way, found in rates.items():
        rate = statistics.median(rate for rate, _ in found)
        same = sum(a == b for a, b in zip(answers[way], answers[first]))
        print(f"| {way} | {found[-1][1]:,} | {rate:.1f} | {mine / rate:.2f}x | {same} |", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("problems", help="JSONL rows with a `prompt`")
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--count", type=int, default=64, help="problems, the first of the file")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer")
    parser.add_argument("--slots", type=int, default=64, help="answers sampled together")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way runs; the median counts")
    parser.add_argument("--ways", nargs="*", default=["ours", "generate"], help="the first is compared with the others",
                        choices=["ours", "ours-bfloat16", "before", "generate", "generate_batch"])
    parser.add_argument("--before", metavar="CHECKOUT", help="another checkout of this repository, for `before`")
    parser.add_argument("--settings", choices=SETTINGS, nargs="*", default=[*SETTINGS], help="which of the two")
    args = parser.parse_args(argv)
    if "before" in args.ways and not args.before:
        parser.error("--ways before: name its checkout with --before")
    import torch
    import transformers

    from stepdpo.prompts import encode, load_tokenizer, render_prompt
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    tokenizer, ways = load_tokenizer(args.model), find_ways(args)
    eos = eos_ids(next(iter(ways.values()))[1], tokenizer)
    rows = [json.loads(line) for _, line in zip(range(args.count), open(args.problems, encoding="utf-8"))]
    for name in args.settings:
        how = SETTINGS[name]
        prompts = [encode(tokenizer, render_prompt(tokenizer, row["prompt"])) for row in rows
                   for _ in range(how["samples"])]
        print_table(name, *measure(ways, prompts, eos, how, args))


if __name__ == "__main__":
    main()
