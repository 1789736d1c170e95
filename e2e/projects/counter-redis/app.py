"""Counts the views of a page in Redis, with the standard library alone."""

import http.server
import socket


class Redis:
    """One request of the Redis protocol (RESP2) on a connection of its own."""

    def __init__(self, host="redis", port=6379, timeout=3):
        self.address, self.timeout = (host, port), timeout

    def __call__(self, *words):
        with socket.create_connection(self.address, self.timeout) as s, s.makefile("rb") as answer:
            parts = [str(w).encode() for w in words]
            s.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            return self.read(answer)

    def read(self, f):
        line = f.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ConnectionError(text)
        if kind == b":":
            return int(text)
        if kind == b"$":
            size = int(text)
            return None if size < 0 else f.read(size + 2)[:-2].decode()
        if kind == b"*":
            return [self.read(f) for _ in range(int(text))]
        return text


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    redis = Redis()

    def do_GET(self):
        if self.path != "/":
            return self.answer(404, "There is only one page, and this is not it.\n")
        try:
            views = self.redis("INCR", "views")
        except OSError as err:
            self.log_error("redis: %s", err)
            return self.answer(503, "The counter does not answer.\n")
        self.answer(200, f"This page has been viewed {views} time(s).\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # what is being answered is answered before the end
    request_queue_size = 128


if __name__ == "__main__":
    with Server(("", 8000), Page) as server:
        print("listening on 8000")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopping")
