"""Takes votes: a page with two buttons. Each vote goes into a list in Redis, for the worker to count."""

import html
import http.cookies
import http.server
import json
import os
import re
import secrets
import socket
import urllib.parse

OPTIONS = {"a": os.getenv("OPTION_A", "Cats"), "b": os.getenv("OPTION_B", "Dogs")}
HOST = socket.gethostname()

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{a} or {b}?</title>
<style>:root{{color-scheme:light dark}}body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:28rem;margin:4rem auto;padding:0 1rem;text-align:center}}
button{{font:inherit;width:100%;padding:1.2rem;margin:.5rem 0;border-radius:.6rem;border:2px solid currentColor;cursor:pointer}}button[aria-pressed=true]{{background:#17603f;color:#fff}}</style>
<h1>{a} or {b}?</h1>
<form method="post"><button name="vote" value="a" aria-pressed="{is_a}">{a}</button><button name="vote" value="b" aria-pressed="{is_b}">{b}</button></form>
<p>{said}</p><p><small>answered by {host}</small></p></html>
"""


def push(vote):
    """Appends vote to the list "votes" (RESP2 by hand)."""
    with socket.create_connection((os.getenv("REDIS_HOST", "redis"), 6379), 3) as s, s.makefile("rb") as answer:
        words = [b"RPUSH", b"votes", json.dumps(vote).encode()]
        s.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        line = answer.readline()
        if not line.startswith(b":"):
            raise ConnectionError(line.decode(errors="replace").strip() or "redis closed the connection")


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def voter(self):
        try:
            cookie = http.cookies.SimpleCookie(self.headers.get("Cookie", "")).get("voter_id")
        except http.cookies.CookieError:
            cookie = None
        if cookie and re.fullmatch(r"[A-Za-z0-9-]{1,64}", cookie.value):
            return cookie.value
        return secrets.token_hex(8)

    def do_GET(self):
        self.page(None)

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        if size > 4096:
            self.close_connection = True
            return self.send(413, b"too long\n", None)
        form = urllib.parse.parse_qs(self.rfile.read(size).decode(errors="replace"))
        vote = form.get("vote", [""])[0]
        if vote not in OPTIONS:
            return self.send(400, b"vote for a or b\n", None)
        voter = self.voter()
        try:
            push({"voter_id": voter, "vote": vote})
        except OSError as err:
            self.log_error("redis: %s", err)
            return self.send(503, b"the vote could not be kept\n", None)
        self.page(vote, voter)

    def page(self, vote, voter=None):
        names = {k: html.escape(v) for k, v in OPTIONS.items()}
        text = PAGE.format(a=names["a"], b=names["b"], is_a=str(vote == "a").lower(), is_b=str(vote == "b").lower(),
                           host=html.escape(HOST), said=f"You voted for {names[vote]}." if vote else "One vote each; you may change your mind.")
        self.send(200, text.encode(), voter or self.voter())

    def send(self, status, body, voter):
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if status == 200 else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        if voter:
            self.send_header("Set-Cookie", f"voter_id={voter}; Path=/; HttpOnly; SameSite=Lax")
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128


def stop(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, stop)
    with Server(("", 80), Page) as server:
        print("listening on 80")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopping")
