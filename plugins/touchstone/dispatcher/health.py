"""The dispatcher's health, served on loopback for supervisors and monitors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Report = Callable[[], tuple[bool, Mapping[str, object]]]


def serve_health(port: int, report: Report) -> ThreadingHTTPServer:
    """
    Answer ``GET /health`` on loopback, in a thread of its own.

    :param port: 0 for any free one.
    :param report: Says whether all is well, and the facts; called by every request.
    :return: The server, to be shut down in the end.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/health":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            is_well, facts = report()
            body = json.dumps({"status": "ok" if is_well else "failing", **facts}).encode()
            self.send_response(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
            """Say nothing: supervisors ask every few seconds."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
