"""An OpenAI-compatible server that answers at once and fails on purpose.

    python tests/faulty_server.py --rate 0.3 --faults 500,reset,html      # prints its base URL

Every reply continues with " 1 + 1 = 2.\\nThe answer is: N", N in 0..2 by the request's seed. With probability --rate
(per try, from --seed) a request is answered by one of --faults instead. GET /count: how many requests each seed made.
"""
import argparse
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATUS = {"400": 400, "401": 401, "403": 403, "404": 404, "408": 408, "409": 409, "422": 422, "429": 429, "500": 500, "503": 503}
BODIES = {  # answered with status 200
    "malformed": b'{"choices": [{"text": "x"', "html": b"<html>Bad gateway</html>", "error200": b'{"error": {"message": "busy"}}',
    "nochoices": b'{"choices": []}', "null": b'{"choices": [{"text": null, "message": {"content": null}}]}',
    "notext": b'{"choices": [{}]}', "array": b"[]", "empty": b"",
}
FAULTS = [*STATUS, *BODIES, "429-later", "reset", "truncated", "hang", "drip", "refusal", "length"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    draws, lock, seeds, options = random.Random(0), threading.Lock(), Counter(), None

    def log_message(self, *_):
        pass

    def send(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(200, json.dumps(dict(self.seeds)).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seeds[str(asked.get("seed"))] += 1
            fault = self.draws.choice(self.options.faults) if self.draws.random() < self.options.rate else None
        chat = "chat" in self.path
        text = f" 1 + 1 = 2.\nThe answer is: {asked.get('seed', 0) % 3}"
        if chat:
            text = "Final Decision: Step 1: incorrect"
        choice = {"index": 0, "finish_reason": "length" if fault == "length" else "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if fault == "refusal":
            choice = {"index": 0, "message": {"role": "assistant", "content": None, "refusal": "I may not"}}
        body = json.dumps({"id": "x", "object": "x", "created": 0, "model": asked["model"], "choices": [choice]}).encode()
        time.sleep(self.options.delay)
        if fault in STATUS:
            self.send(STATUS[fault], b'{"error": {"message": "fault"}}')
        elif fault == "429-later":
            self.send(429, b'{"error": {"message": "later"}}', Retry_After="1")
        elif fault in BODIES:
            self.send(200, BODIES[fault], "text/html" if fault == "html" else "application/json")
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif fault == "truncated":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:len(body) // 2])
            self.close_connection = True
        elif fault == "hang":
            time.sleep(3600)
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.005)
        else:
            self.send(200, body)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--faults", type=lambda names: names.split(","), default=FAULTS)
    parser.add_argument("--delay", type=float, default=0, help="seconds before each answer")
    Handler.options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", Handler.options.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
