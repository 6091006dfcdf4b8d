"""A server on the loopback address in place of the public sources, also one that misbehaves."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import urlsplit

Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """``answers``: path -> bytes, or a function; ``asked``: paths and ranges, in their order."""

    daemon_threads = True
    address = ""

    def __init__(self):
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"

    def put(self, url: str, answer: Answer) -> None:
        """Serve the file of a public address, as a mirror does."""
        parts = urlsplit(url)
        self.answers[f"/{parts.hostname}{parts.path}"] = answer

    def handle_error(self, request, client_address):
        """A client that goes away is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self):
        self.close_connection = True
        self.server.asked.append((self.path, self.headers.get("Range")))
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        elif callable(answer):
            answer(self)
        else:
            whole(self, answer)

    def log_message(self, *of):
        pass


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """As a good server answers, from the byte that was asked for."""
    start = _start(handler)
    if start and start >= len(body):
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    _head(handler, {"Content-Length": len(body) - start})
    handler.wfile.write(body[start:])


def _start(handler: BaseHTTPRequestHandler) -> int:
    """The byte that was asked for."""
    return int((handler.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])


def compressed(body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """As a proxy that packs whatever passes, also a rest."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = _start(handler)
        packed = gzip.compress(body[start:])
        handler.send_response(206 if start else 200)
        _head(handler, {"Content-Length": len(packed), "Content-Encoding": "gzip"})
        handler.wfile.write(packed)

    return answer


def html(handler: BaseHTTPRequestHandler) -> None:
    page = b"<html><body>Please log in</body></html>"
    handler.send_response(200)
    _head(handler, {"Content-Length": len(page), "Content-Type": "text/html; charset=utf-8"})
    handler.wfile.write(page)


def huge(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    _head(handler, {"Content-Length": 10**15})


def truncated(body: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        _head(handler, {"Content-Length": len(body)})
        handler.wfile.write(body[: len(body) // 2])

    return answer


def broken_chunk(body: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        _head(handler, {"Transfer-Encoding": "chunked"})
        half = body[: len(body) // 2]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
        handler.wfile.write(b"%x\r\n" % len(body))  # and nothing comes

    return answer


def misplaced(body: bytes) -> Answer:
    """Part of an answer is the whole of it, whatever was asked for."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        of = f"bytes 0-{len(body) - 1}/{len(body)}"
        _head(handler, {"Content-Length": len(body), "Content-Range": of})
        handler.wfile.write(body)

    return answer


def stalled(body: bytes, seconds: float) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        _head(handler, {"Content-Length": len(body)})
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        Event().wait(seconds)  # tests replace time.sleep

    return answer


def trickling(body: bytes, pause: float, step: int = 1) -> Answer:
    """A byte at a time, or ``step`` of them: never silent for long, not done for long."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = _start(handler)
        handler.send_response(206 if start else 200)
        _head(handler, {"Content-Length": len(body) - start})
        for first in range(start, len(body), step):
            handler.wfile.write(body[first : first + step])
            handler.wfile.flush()
            Event().wait(pause)

    return answer


def _head(handler: BaseHTTPRequestHandler, headers: dict) -> None:
    for name, value in headers.items():
        handler.send_header(name, str(value))
    handler.end_headers()


@contextmanager
def running() -> Iterator[Server]:
    """A server in a thread of this process."""
    with Server() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
