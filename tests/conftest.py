"""What several test files need: the scripts as subprocesses, tiny model folders, a real server."""
import contextlib
import json
import logging
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

FORKS = multiprocessing.get_context("forkserver")  # a server that has imported what takes long, and forks
FORKS.set_forkserver_preload(["torch.distributed.checkpoint", "torch.distributed.fsdp",
                              "transformers.models.llama.modeling_llama"])

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there: its data may not be shipped")


def pytest_configure(config):
    config.addinivalue_line("markers", "all_models: every family of tests/architectures.py, not the sample alone")


def start(script, *flags, env=None, **how):
    """subprocess.Popen(script), except that the child is a fork of this process and runs the script in it.

    Importing transformers and openai costs four seconds a process, and there are hundreds of them. The script runs
    whole, as __main__ and by its own command line; how: Popen's arguments. Imports are tested with real subprocesses.
    """
    import openai  # noqa: F401 (these three are for the children)
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 (imported when looked up)

    from stepdpo.reply import SPENT

    def be_the_script():
        os.closerange(3, 1 << 12)  # one of them tells Popen that the child is on its way
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", 1, errors="backslashreplace")
        for handler in logging.getLogger("transformers").handlers:  # setStream() would flush pytest's, perhaps closed
            handler.stream, handler.flush = sys.stderr, sys.stderr.flush
        sys.argv = [str(ROOT / script), *map(str, flags)]
        SPENT.clear()  # what tests in this process have counted
        torch.set_num_threads(torch.get_num_threads())  # renews a pool of threads that a fork has lost; two would race
        os.environ.update(env or {})
        code = 1
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(code)

    return subprocess.Popen([sys.executable, "-c", "never reached"], preexec_fn=be_the_script,
                            restore_signals=False, **how)


def to_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def tally(done, name):
    """(in, kept, dropped) of the closing line that stage `name` wrote to stderr."""
    line = [line for line in done.err.splitlines() if line.startswith(f"{name}: ") and " in, " in line][-1]
    return tuple(int(word) for word in line.split(": ")[1].split(" (")[0].replace(",", "").split() if word.isdigit())


def served(tokenizer, url, *flags):
    """Flags that ask the server at url."""
    return ["--model", "served", "--tokenizer", tokenizer, "--base-url", url, *flags]


def wait_for_rows(path, n):
    """Wait until a file has n lines."""
    for _ in range(15_000):
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{path} has no {n} rows after five minutes")


@pytest.fixture
def run(tmp_path):
    """run("collect.py", *flags, rows=[...] or stdin=b"...") -> CompletedProcess with .rows, the JSONL on stdout."""
    def run(script, *flags, rows=None, stdin=b"", code=0, env=None):
        stdin = stdin if rows is None else to_lines(rows).encode()
        pipe = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
        if script == "train.py":  # autograd does not like to be forked
            child = subprocess.Popen([sys.executable, ROOT / script, *map(str, flags)], **pipe,
                                     env={**os.environ, **(env or {})})
        else:
            child = start(script, *flags, env=env, **pipe)
        try:
            out, err = child.communicate(stdin, timeout=300)
        finally:
            child.kill()
        done = subprocess.CompletedProcess([script, *flags], child.returncode, out, err)
        done.err = done.stderr.decode()
        assert code is None or done.returncode == code, done.err
        assert "Traceback" not in done.err, done.err
        if script != "train.py":
            done.rows = [json.loads(line) for line in done.stdout.splitlines()]
        return done
    return run


def make_tokenizer(folder, texts, template=True):
    """A byte-level BPE tokenizer trained on `texts`, with an end token and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>", "<|user|>", "<|assistant|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    if template:
        tokenizer.chat_template = ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
                                   "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    tokenizer.save_pretrained(folder)
    return tokenizer


PROBLEMS = [{"id": f"sum-{a}-{b}-{c}", "dataset": "sums", "level": f"Level {1 + a % 3}", "answer": str(a + b + c),
             "prompt": f"What is {a} plus {b} plus {c}?",
             "solution": f"Let's think step by step.\nStep 1: First {a} + {b} = {a + b}.\n"
                         f"Step 2: Then {a + b} + {c} = {a + b + c}.\nThe answer is: {a + b + c}"}
            for a in (2, 5, 8) for b in (3, 4, 6, 7) for c in (2, 5, 9)]


def make_model(folder, template=True, **config):
    """A folder with the configuration of a tiny Llama and a tokenizer for PROBLEMS; no weights."""
    from transformers import GenerationConfig, LlamaConfig
    tokenizer = make_tokenizer(folder, [row["prompt"] + row["solution"] for row in PROBLEMS], template)
    config = {**dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True), **config}
    LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **config).save_pretrained(folder)
    # `transformers serve` is greedy at any temperature unless the model's own settings say that it samples
    GenerationConfig(do_sample=True, eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random Llama: real weights, a real tokenizer, nonsense answers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    make_model(folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def taught_model(tmp_path_factory):
    """A tiny Llama that knows some of PROBLEMS: greedy mostly right, sampled often wrong. Made by train.py itself."""
    folder = tmp_path_factory.mktemp("taught")
    make_model(folder / "start")
    pairs = folder / "sft.jsonl"
    pairs.write_text(to_lines(PROBLEMS))
    subprocess.run([sys.executable, ROOT / "train.py", "--objective", "sft", "--model", folder / "start",
                    "--pairs", pairs, "--out", folder / "sft", "--lr", "3e-3", "--epochs", "60", "--batch-size", "6"],
                   check=True, capture_output=True)
    return str(folder / "sft")


@contextlib.contextmanager
def serving(folder):
    """Base URL of a real OpenAI-compatible server on loopback (`transformers serve`) with the model in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([Path(sys.executable).parent / "transformers", "serve", folder,
                                "--port", str(port), "--device", "cpu"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url + "/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "transformers serve ended; is transformers[serving] installed?"
                time.sleep(0.5)
        yield url + "/v1"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def served_model(taught_model, tmp_path_factory):
    """A copy of the taught model whose own settings ask for more than the flags do."""
    folder = shutil.copytree(taught_model, tmp_path_factory.mktemp("served") / "taught")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "repetition_penalty": 1.3,
                                "top_k": 3, "min_p": 0.2}))
    return str(folder)


@pytest.fixture(scope="session")
def server(served_model):
    """Base URL of `transformers serve` with that model."""
    with serving(served_model) as url:
        yield url


@pytest.fixture
def faulty():
    """faulty("--rate", ...) starts tests/faulty_server.py and returns its base URL."""
    started = []

    def start(*flags):
        command = [sys.executable, ROOT / "tests/faulty_server.py", *map(str, flags)]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True))
        return started[-1].stdout.readline().strip()
    yield start
    for process in started:
        process.kill()
        process.wait()
