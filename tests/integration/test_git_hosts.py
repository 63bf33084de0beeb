"""Git against real hosts of the loopback interface: silent ones, and ones that nobody is at."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.ports import find_free_port
from touchstone.hooks import git as hook
from touchstone.hooks import repository
from touchstone.hooks.git import GitSource
from touchstone_agent.protocol.errors import ConfigurationError

pytestmark = pytest.mark.integration


@pytest.fixture
def silent() -> Iterator[tuple[int, threading.Event]]:
    """A port at which somebody listens and never says a word; and when its caller has gone."""
    gone = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                pass
        gone.set()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], gone
    listener.close()


def fetch(url: str) -> str:
    source = GitSource(hosts=["*"], allow_local=False, max_bytes=1024)
    with pytest.raises(ConfigurationError) as refused:
        source.fetch(url, None, ".")
    return str(refused.value)


def test_whoever_git_has_called_is_left_when_its_time_is_over(
    silent: tuple[int, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git remote-https` kept the connection for as long as the host did."""
    monkeypatch.setattr(repository, "GIT_SECONDS", 3)
    port, gone = silent

    said = fetch(f"https://127.0.0.1:{port}/x.git")

    # The connection ends when the last process ends that has it.
    gone.wait()
    assert said.startswith("source: cannot be read")


def test_an_open_port_and_a_closed_one_are_told_in_the_same_words(
    silent: tuple[int, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may submit could find out which addresses of the network answer."""
    monkeypatch.setattr(repository, "GIT_SECONDS", 3)
    port, _ = silent

    closed = fetch(f"https://127.0.0.1:{find_free_port()}/x.git")
    no_name = fetch("https://touchstone.invalid/x.git")

    assert fetch(f"https://127.0.0.1:{port}/x.git") == closed == no_name


def test_a_redirect_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An allowed host could send git on to one that is not."""
    import http.server

    asked: list[str] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            port = self.server.server_address[1]
            self.send_header("Location", f"http://127.0.0.1:{port}/elsewhere{self.path}")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # No certificate here: what git does with a redirect does not depend on one.
    monkeypatch.setattr(hook, "parse_remote", lambda _: hook.Remote(scheme="http", host="h"))

    said = fetch(f"http://127.0.0.1:{server.server_address[1]}/x.git")

    server.shutdown()
    assert asked == ["/x.git/info/refs?service=git-upload-pack"]
    assert said.startswith("source: cannot be read")
