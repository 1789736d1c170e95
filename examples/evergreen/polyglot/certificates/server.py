"""Certificates: draws what a learner has completed as an SVG. Python's standard library, no packages.

    GET /certificate.svg?name=&title=&teacher=&date=&hours=
    GET /healthz, /readyz

Everything is drawn by attributes: the pages that show it allow no styles and no scripts.
"""

import json
import os
import signal
import sys
import textwrap
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

LONGEST = 200  # characters of one field


def log(level, msg, **more):
    now = datetime.now(timezone.utc).isoformat()
    print(json.dumps({"time": now, "level": level, "service": "certificates", "msg": msg, **more}), flush=True)


def printable(text):
    """text without what XML does not allow, and not too long."""
    return "".join(c for c in text if c == " " or c.isprintable())[:LONGEST].strip()


def lines(text, width, most):
    """text broken into at most so many lines."""
    broken = textwrap.wrap(text, width) or [""]
    if len(broken) > most:
        broken = broken[:most]
        broken[-1] = broken[-1].rstrip(".,") + " …"
    return broken


def draw(fields):
    name, title = printable(fields.get("name", "")), printable(fields.get("title", ""))
    teacher, date, hours = (printable(fields.get(f, "")) for f in ("teacher", "date", "hours"))
    if not name or not title:
        return None
    serif = "Georgia, 'Source Serif 4', serif"

    def text(y, size, words, fill="#1d2621", weight="400"):
        return (f'<text x="420" y="{y}" font-family="{serif}" font-size="{size}" font-weight="{weight}" '
                f'fill="{fill}" text-anchor="middle">{escape(words)}</text>')

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 594" width="840" height="594" role="img" '
        f'aria-label="{escape(f"Certificate: {name} has completed {title}", {chr(34): "&quot;"})}">',
        f"<title>{escape(f'Certificate: {name} has completed {title}')}</title>",
        '<rect width="840" height="594" fill="#faf8f3"/>',
        '<rect x="24" y="24" width="792" height="546" fill="none" stroke="#17603c" stroke-width="3"/>',
        '<rect x="32" y="32" width="776" height="530" fill="none" stroke="#17603c" stroke-width="1" opacity=".5"/>',
        '<path transform="translate(384 64) scale(2.25)" fill="#17603c" '
        'd="M16 3 7.500 13.500h4L5.500 22H14.500v6h3v-6h9l-6-8.500h4z"/>',
        text(180, 20, "This is to certify that", "#55625a"),
    ]
    for i, line in enumerate(lines(name, 34, 2)):
        parts.append(text(236 + 44 * i, 40, line, weight="600"))
    top = 236 + 44 * len(lines(name, 34, 2))
    parts.append(text(top + 4, 20, "has completed every lesson of", "#55625a"))
    for i, line in enumerate(lines(title, 44, 2)):
        parts.append(text(top + 54 + 38 * i, 30, line, "#17603c", "600"))
    if hours.isdigit():
        parts.append(text(454, 17, f"{hours} hours of study", "#55625a"))
    parts.append('<path d="M120 506h220M500 506h220" stroke="#8a958d" stroke-width="1"/>')
    for x, label, value in ((230, "Taught by", teacher), (610, "Completed on", date)):
        parts.append(f'<text x="{x}" y="496" font-family="{serif}" font-size="19" fill="#1d2621" '
                     f'text-anchor="middle">{escape(value)}</text>')
        parts.append(f'<text x="{x}" y="528" font-family="{serif}" font-size="14" fill="#55625a" '
                     f'text-anchor="middle">{label}</text>')
    parts.append("</svg>\n")
    return "".join(parts).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path in ("/healthz", "/readyz"):
            return self.answer(200, "application/json", b'{"status": "ok"}\n')
        if url.path == "/certificate.svg":
            fields = {k: v[0] for k, v in parse_qs(url.query).items()}
            image = draw(fields)
            if image:
                return self.answer(200, "image/svg+xml", image)
            return self.problem(422, "invalid", "A name and a title are needed.")
        self.problem(404, "not_found", "There is nothing here.")

    def problem(self, status, code, title):
        body = json.dumps({"status": status, "code": code, "title": title}) + "\n"
        self.answer(status, "application/problem+json", body.encode())

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass  # one line a request says nothing that the caller does not know


def main():
    port = int(os.environ.get("PORT") or 8080)
    server = ThreadingHTTPServer(("", port), Handler)

    def stop(*_):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log("info", "serving", port=port)
    server.serve_forever()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
