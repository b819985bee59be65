"""An OpenAI-compatible server that answers at once and fails on purpose.

    python tests/faulty_server.py --rate 0.3 --faults 500,reset,html      # prints its base URL

Every reply continues with " 1 + 1 = 2.\\nThe answer is: N", N in 0..2 by the request's seed, or is --text. With
probability --rate (per try, from a fixed seed) a request is answered by one of --faults instead. GET /count: how many
requests each seed made. GET /asked: the bodies of the requests, the last hundred. It can be picky, too: see --help.
"""
import argparse
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATUS = ("400", "401", "403", "404", "408", "409", "422", "429", "500", "502", "503", "504",
          "408-later", "409-later", "429-later", "503-later")  # later: with Retry-After
BODIES = {  # answered with status 200
    "malformed": b'{"choices": [}', "cutjson": b'{"choices": [{"text": "x"', "html": b"<html>Bad gateway</html>",
    "error200": b'{"error": {"message": "busy"}}', "nochoices": b'{"choices": []}', "notext": b'{"choices": [{}]}',
    "null": b'{"choices": [{"text": null, "message": {"content": null}}]}', "array": b"[]", "empty": b"",
    "nulllength": b'{"choices": [{"text": null, "message": {"content": null, "reasoning_content": "Hmm"}, '
                  b'"finish_reason": "length"}], "model": "served"}',
    "deep": b"[" * 100_000, "notutf8": b'{"choices": [{"text": "\xff"}]}',
}
QUOTA = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
# reset: before the reply; resetbody: in the middle of it; truncated: closed in the middle; crawl: drips for ever
FAULTS = [*STATUS, *BODIES, "quota", "filter", "echo", "reset", "resetbody", "truncated", "hang", "drip", "crawl",
          "refusal", "length"]
FINAL = ("400", "401", "403", "404", "422", "quota", "filter", "echo", "nulllength")
MENDED = [fault for fault in FAULTS if fault not in FINAL]  # by asking again


OPENAI = {"model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed",
          "n", "stream", "user", "generation_config"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    draws, lock, seeds, options = random.Random(0), threading.Lock(), Counter(), None
    asked = deque(maxlen=100)

    def log_message(self, *_):
        pass

    def send(self, status, body, send=None, kind="application/json", **headers):
        """A reply whose head is whole; of its body only `send` when given."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body if send is None else send)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def do_GET(self):
        found = dict(self.seeds)
        if self.path.endswith("/asked"):
            found = list(self.asked)
        if self.path.endswith("/models") and self.options.listed:
            found = {"object": "list", "data": [{"id": self.options.model or "served", "object": "model",
                                                 "max_model_len": self.options.context}]}
        self.send(200, json.dumps(found).encode())

    def refusal(self, asked):
        """(status, body) where the request holds what this server does not take, else None."""
        options, names = self.options, set(asked) - OPENAI
        text = str(asked.get("prompt") or asked.get("messages"))
        for name in options.refuse:
            if name in asked:
                return 400, {"error": {"message": f"Unsupported parameter: {name!r} is not for this model",
                                       "param": name, "code": "unsupported_parameter"}}
        if options.schema and names:
            fault = {"type": "extra_forbidden", "loc": ["body", min(names)], "msg": "Extra inputs are not permitted"}
            return 422, {"detail": [fault]}
        if options.strict and names:
            return 422, {"detail": f"Unexpected fields in the request: {names}"}
        if options.one_of and options.one_of <= set(asked):
            return 400, {"error": {"message": f"{' and '.join(options.one_of)} cannot both be given", "param": None}}
        if options.no_ids and isinstance(asked.get("prompt"), list):
            return 400, {"detail": "prompt must be a string."}
        if options.poison and options.poison in text:
            return 400, {"error": {"message": "Something in the model went wrong, served or not", "param": None}}
        if options.context:
            long, most = len(asked.get("prompt") or text), asked.get("max_tokens") or asked["max_completion_tokens"]
            if long + most > options.context:
                return 400, {"error": {"message": (
                    f"This model's maximum context length is {options.context} tokens. However, you requested {most} "
                    f"output tokens and your prompt contains at least {options.context - most + 1} input tokens")}}
        return None

    def reply(self, asked, chat, fault):
        text = self.options.text or f" 1 + 1 = 2.\nThe answer is: {asked.get('seed', 0) % 3}"
        if chat and not self.options.text:
            text = "Final Decision: Step 1: incorrect"
        choice = {"index": 0, "finish_reason": {"length": "length", "filter": "content_filter"}.get(fault, "stop")}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if fault == "refusal":
            choice = {"index": 0, "message": {"role": "assistant", "content": None, "refusal": "I may not"}}
        model = self.options.model or asked["model"]
        return json.dumps({"id": "x", "object": "x", "created": 0, "model": model, "choices": [choice],
                           "usage": {"total_tokens": None}}).encode()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seeds[str(asked.get("seed"))] += 1
            fault = self.draws.choice(self.options.faults) if self.draws.random() < self.options.rate else None
            self.asked.append(asked)
            number = self.seeds.total()
        body = self.reply(asked, "chat" in self.path, fault)
        refused = self.refusal(asked)
        time.sleep(self.options.delay)
        while self.options.permits and os.path.getsize(self.options.permits) < number:
            time.sleep(0.01)
        if refused:
            self.send(refused[0], json.dumps(refused[1]).encode())
        elif fault == "quota":
            self.send(429, QUOTA)
        elif fault == "echo":
            self.send(400, json.dumps({"error": {"message": f"what is {self.headers['Authorization']}?"}}).encode())
        elif fault in STATUS:
            code, _, later = fault.partition("-")
            message = json.dumps({"error": {"message": f"fault with {asked['model'] if code == '404' else 'this'}"}})
            self.send(int(code), message.encode(), **({"Retry_After": "0.2"} if later else {}))
        elif fault in BODIES:
            self.send(200, BODIES[fault], kind="text/html" if fault == "html" else "application/json")
        elif fault == "reset":
            self.reset()
        elif fault in ("resetbody", "truncated"):
            self.send(200, body, send=body[:len(body) // 2])
            self.close_connection = True
            if fault == "resetbody":
                self.reset()
        elif fault == "hang":
            time.sleep(3600)
        elif fault in ("drip", "crawl"):
            self.send(200, body, send=b"")
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.002 if fault == "drip" else 1)
        else:
            self.send(200, body)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=0, help="of requests that fail")
    parser.add_argument("--faults", type=lambda names: names.split(","), default=FAULTS, help="joined by commas")
    parser.add_argument("--delay", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--permits", metavar="FILE", help="as many requests are answered as this file has bytes; it may "
                                                          "grow, so that a test knows how far a run can be")
    parser.add_argument("--model", help="name that replies give (default: the one asked for)")
    parser.add_argument("--text", type=lambda parts: "".join(part * times for part, times in json.loads(parts)),
                        help="JSON [[part, times], ...]: what every reply says")
    names = {"type": lambda names: names.split(","), "default": []}
    parser.add_argument("--refuse", **names, help="parameters refused as the OpenAI API does")
    parser.add_argument("--strict", action="store_true", help="422 for what OpenAI has not, as transformers serve does")
    parser.add_argument("--schema", action="store_true", help="the same as FastAPI says it, one name at a time")
    parser.add_argument("--one-of", type=lambda names: set(names.split(",")), help="parameters not taken together")
    parser.add_argument("--no-ids", action="store_true", help="a prompt has to be text")
    parser.add_argument("--poison", help="text of a prompt that is refused, nobody knows why")
    parser.add_argument("--context", type=int, help="tokens (or letters of a text) that prompt and answer may have")
    parser.add_argument("--listed", action="store_true", help="the list of models says the context")
    Handler.options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.request_queue_size = True, 128
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
