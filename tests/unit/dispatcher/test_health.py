"""The dispatcher's health over HTTP on loopback."""

from __future__ import annotations

import io
import json
from http import HTTPStatus
from http.server import ThreadingHTTPServer

import pytest

from touchstone.dispatcher import health


@pytest.fixture
def ask(monkeypatch):
    """Serve a report, and ask for a path; return the status and what was said."""

    class Unbound(ThreadingHTTPServer):
        def __init__(self, address, handler):
            self.bound_to = address
            self.RequestHandlerClass = handler

        def serve_forever(self, poll_interval=0.5):
            """There is nothing to listen on."""

    monkeypatch.setattr(health, "ThreadingHTTPServer", Unbound)

    def make(report, path="/health", port=0):
        server = health.serve_health(port, report)
        assert server.bound_to == ("127.0.0.1", port)
        handler = server.RequestHandlerClass.__new__(server.RequestHandlerClass)
        handler.rfile = io.BytesIO(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        handler.wfile = io.BytesIO()
        handler.client_address = ("127.0.0.1", 1)
        handler.server = server
        handler.close_connection = True
        handler.handle_one_request()
        head, _, body = handler.wfile.getvalue().partition(b"\r\n\r\n")
        return HTTPStatus(int(head.split()[1])), body

    return make


def test_all_is_well_with_the_facts(ask):
    status, body = ask(lambda: (True, {"waiting": 3}))

    assert status is HTTPStatus.OK
    assert json.loads(body) == {"status": "ok", "waiting": 3}


def test_what_is_not_well_is_no_good_answer(ask):
    status, body = ask(lambda: (False, {"is_hearing": False}))

    assert status is HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(body) == {"status": "failing", "is_hearing": False}


def test_there_is_nothing_else(ask):
    status, _ = ask(lambda: (True, {}), path="/metrics")

    assert status is HTTPStatus.NOT_FOUND


def test_each_request_looks_anew(ask):
    answers = iter([(True, {}), (False, {})])

    assert ask(lambda: next(answers))[0] is HTTPStatus.OK
    assert ask(lambda: next(answers))[0] is HTTPStatus.SERVICE_UNAVAILABLE
