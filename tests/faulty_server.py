"""An OpenAI-compatible server that answers at once and fails on purpose.

    python tests/faulty_server.py --rate 0.3 --faults 500,reset,html      # prints its base URL

Every reply continues with " 1 + 1 = 2.\\nThe answer is: N", N in 0..2 by the request's seed, or is --text. With
probability --rate (per try, from a fixed seed) a request is answered by one of --faults instead. GET /count: how many
requests each seed made.
"""
import argparse
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATUS = ("400", "401", "403", "404", "408", "409", "422", "429", "500", "502", "503", "504",
          "408-later", "409-later", "429-later", "503-later")  # later: with Retry-After
BODIES = {  # answered with status 200
    "malformed": b'{"choices": [}', "cutjson": b'{"choices": [{"text": "x"', "html": b"<html>Bad gateway</html>",
    "error200": b'{"error": {"message": "busy"}}', "nochoices": b'{"choices": []}', "notext": b'{"choices": [{}]}',
    "null": b'{"choices": [{"text": null, "message": {"content": null}}]}', "array": b"[]", "empty": b"",
    "deep": b"[" * 100_000, "notutf8": b'{"choices": [{"text": "\xff"}]}',
}
# reset: before the reply; resetbody: in the middle of it; truncated: closed in the middle; crawl: drips for ever
FAULTS = [*STATUS, *BODIES, "reset", "resetbody", "truncated", "hang", "drip", "crawl", "refusal", "length"]
MENDED = [fault for fault in FAULTS if fault not in ("400", "401", "403", "404", "422")]  # by asking again


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    draws, lock, seeds, options = random.Random(0), threading.Lock(), Counter(), None

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
        self.send(200, json.dumps(dict(self.seeds)).encode())

    def reply(self, asked, chat, fault):
        text = self.options.text or f" 1 + 1 = 2.\nThe answer is: {asked.get('seed', 0) % 3}"
        if chat and not self.options.text:
            text = "Final Decision: Step 1: incorrect"
        choice = {"index": 0, "finish_reason": "length" if fault == "length" else "stop"}
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
            number = self.seeds.total()
        body = self.reply(asked, "chat" in self.path, fault)
        time.sleep(self.options.delay)
        while self.options.permits and os.path.getsize(self.options.permits) < number:
            time.sleep(0.01)
        if fault in STATUS:
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
    Handler.options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.request_queue_size = True, 128
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
