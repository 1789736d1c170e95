"""Answers every GET with a greeting and who it is. Python's standard library only."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Greeter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet

    def do_GET(self):
        body = f"{os.environ['GREETING']} from {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):  # requests are the data plane's to count
        pass


ThreadingHTTPServer(("", int(os.environ.get("PORT", "80"))), Greeter).serve_forever()
