"""Ask a model: `await policy.ask(problem, solution, seed)`, here (sampler.py) or behind a server (server.py)."""
import asyncio
import hashlib

from stepdpo.command import UserError
from stepdpo.prompts import PROMPTS, end_of_turn, load_tokenizer, render_prompt, stop_strings
from stepdpo.reply import Reply
from stepdpo.sampler import local_engine
from stepdpo.server import completion_server
from stepdpo.settings import NEUTRAL, parse_extra_body
from stepdpo.stage import once
from stepdpo.tokens import plain_tokenizer


def add_ask_flags(parser, prefix, temperature, top_p=1.0, max_tokens=2048):
    """The flags that every stage that asks a model shares.

    prefix: None for a stage where the row says what an answer continues. temperature: None where it depends.
    """
    whole, parser = parser, parser.add_argument_group("asking a model")
    depends = " (default: 0.8 for rollouts and for several --votes, else 0)" if temperature is None else ""
    parser.add_argument("--model", help="model folder or hub name, or the name that a server serves")
    parser.add_argument("--tokenizer", help="tokenizer folder or hub name (default: --model)")
    parser.add_argument("--base-url", help="OpenAI-compatible server, e.g. http://localhost:8000/v1; key from "
                                           "OPENAI_API_KEY (default: load --model here)")
    parser.add_argument("--extra-body", metavar="JSON", help="object of whatever else the server is to be told, e.g. "
                                                             """'{"chat_template_kwargs": {}}'""")
    parser.add_argument("--prompt", choices=PROMPTS, default="chat", help="prompt format; chat is the tokenizer's own")
    if prefix is None:
        whole.set_defaults(prefix="")
    else:
        parser.add_argument("--prefix", default=prefix, help="text that an answer asked for anew has to continue")
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy" + depends)
    parser.add_argument("--top-p", type=float, default=top_p, help="nucleus to sample from")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="longest answer, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="sample j of a row has the seed (SEED, id, j)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight at a server")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a server may take for one reply")
    parser.add_argument("--batch-size", type=int, default=64, help="answers sampled together by the local engine")
    parser.add_argument("--device", help="of the local engine (default: cuda if there is one)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the numbers of models loaded here "
                        "(default: bfloat16 on a GPU, float32 on a CPU, where bfloat16 takes half the memory)")


def check_ask_flags(args):
    """UserError for values that no engine can use. Reads --extra-body."""
    args.extra_body = parse_extra_body(args.extra_body)
    if args.extra_body and not args.base_url:
        raise UserError("--extra-body is for a server; give --base-url, too", 2)
    judge = getattr(args, "judge", None) or getattr(args, "verify", None)  # which may be loaded here
    if args.dtype and args.base_url and not judge:
        raise UserError("--dtype is for a model loaded here; a server has its own", 2)
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-9, 1), ("max_tokens", 1, 1 << 30),
                            ("concurrency", 1, 1 << 16), ("timeout", 1e-3, 1e6), ("batch_size", 1, 1 << 16),
                            ("samples", 1, 1 << 20), ("votes", 1, 1 << 10), ("rollouts", 1, 1 << 16),
                            ("max_per_prefix", 1, 1 << 20)):
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be from {low:g} to {high:g}", 2)


def sample_seed(seed, key, j):
    """The seed of sample j of row `key`: from identity, never from order, so that resuming asks the same."""
    identity = f"{seed}/{key}/{j}".encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(identity, digest_size=4).digest()) >> 1


class Policy:
    """The model under --model, opened when it is first asked: `await policy.ask(problem, solution, seed)`."""
    def __init__(self, args):
        self.args, self.opening = args, None
        self.width = args.concurrency if args.base_url else 4 * args.batch_size  # units that keep it busy
        self.not_taken = {}  # what the server did not take: left_out, said_as (settings.py)

    async def ask(self, problem, solution, seed, hear=None):
        """Continue `solution`, the beginning of an answer to `problem`; returns the Reply to what came after it.

        hear(text so far): called as words come from a model in this process.
        """
        if self.opening is None:  # in a thread: Ctrl-C is heard while a large model loads
            self.opening = asyncio.create_task(asyncio.to_thread(self.open))
        tokenizer, engine = await asyncio.shield(self.opening)
        text = render_prompt(tokenizer, problem, self.args.prompt, solution)
        reply = await (engine(text, seed, hear) if hear and not self.args.base_url else engine(text, seed))
        if self.args.base_url:
            self.not_taken = engine.settings.record()
        return reply

    async def ask_once(self, problem, solution, seed):
        """`ask` for units of many requests: a reply that a killed run had is not asked for again."""
        async def ask():
            reply = await self.ask(problem, solution, seed)
            return [*reply, self.not_taken] if self.not_taken else [*reply]

        text, finish_reason, *not_taken = await once(seed, ask)
        if not_taken:
            self.not_taken = not_taken[0]
        return Reply(text, finish_reason)

    def sampling_record(self):
        """What a sampled row says about how it came to be: the flags, and what of them a server did not take."""
        record = {name: getattr(self.args, name) for name in ("model", "prompt", "prefix", "temperature", "top_p",
                                                              "max_tokens", "seed")}
        if self.args.base_url:
            record["extra_body"] = {**NEUTRAL, **(self.args.extra_body or {})}
        if self.args.dtype:
            record["dtype"] = self.args.dtype
        return {**record, **self.not_taken}

    def open(self):
        """(tokenizer, ask) of the model, here or behind a server."""
        args = self.args
        if not args.model:
            raise UserError("no --model: rows without a 'completion' need one to ask", 2)
        folder = args.tokenizer or args.model
        tokenizer = plain_tokenizer(folder) if args.base_url else None  # a server needs no more, and it is there sooner
        tokenizer = tokenizer or load_tokenizer(folder, "give --tokenizer",
                                                "--tokenizer" if args.tokenizer else "--model")
        stop = stop_strings(args.prompt)
        render_prompt(tokenizer, "", args.prompt)  # what is wrong with the template shows before a model is loaded
        end = {*end_of_turn(tokenizer, args.prompt)[-1:]} - {tokenizer.eos_token_id}
        how = {"temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens}
        if args.base_url:
            return tokenizer, completion_server(args.base_url, args.model, tokenizer, stop, args, how, end)
        return tokenizer, local_engine(args.model, tokenizer, stop, args.batch_size, args.device, how, end, args.dtype)
