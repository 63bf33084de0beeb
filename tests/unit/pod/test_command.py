"""The command itself: what it reads, writes and says."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from touchstone_agent.pod import __main__ as command
from touchstone_agent.pod.home import HOME_VARIABLE, PodHome


class Streams:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, home: PodHome, capfdbinary) -> Any:
    def call(*arguments: str, text: bytes = b"") -> tuple[int, bytes, str]:
        output = Streams(b"")
        monkeypatch.setenv(HOME_VARIABLE, str(home.root))
        monkeypatch.setattr(command.sys, "argv", ["touchstone-pod", *arguments])
        monkeypatch.setattr(command.sys, "stdin", Streams(text))
        monkeypatch.setattr(command.sys, "stdout", output)
        code = command.main()
        return code, output.buffer.getvalue(), capfdbinary.readouterr().err.decode()

    return call


def test_a_poll_answers_with_one_line_of_json(call) -> None:
    code, output, errors = call("poll", text=b'{"lease_seconds": 60}')
    assert (code, errors, output.count(b"\n")) == (0, "", 1)
    assert json.loads(output)["boot_id"] == "b1"


@pytest.mark.parametrize("arguments", [(), ("fly",), ("poll", "now"), ("--help",)])
def test_what_it_does_not_know_is_refused_with_its_usage(call, arguments) -> None:
    assert call(*arguments) == (2, b"", f"touchstone-pod: {command.USAGE}\n")


def test_a_wrong_field_is_named_without_its_content(call) -> None:
    text = b'{"grants": {"a": {"method": "PUT", "url": 5, "secret": "sesame"}}}'
    code, output, errors = call("upload", text=text)
    assert (code, output) == (2, b"")
    assert errors.startswith("touchstone-pod: grants.a.url: ")
    assert "sesame" not in errors
    assert errors.count("\n") == 1


def test_input_without_end_is_refused(call, monkeypatch) -> None:
    monkeypatch.setattr(command, "MAX_INPUT_BYTES", 10)
    code, _, errors = call("poll", text=b'{"lease_seconds": 60}')
    assert (code, errors) == (2, "touchstone-pod: the standard input has more than 10 bytes\n")


def test_what_may_work_later_is_told_as_such(call, home: PodHome) -> None:
    home.boot_file.unlink()
    code, output, errors = call("poll", text=b'{"lease_seconds": 60}')
    assert (code, output) == (75, b"")
    assert errors == "touchstone-pod: the pod's container is still starting\n"


def test_a_defect_is_one_line_too_and_keeps_secrets(call, monkeypatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("first\nhttp://store/k?X-Amz-Signature=sesame")

    monkeypatch.setattr("touchstone_agent.pod.poll.poll", fail)
    code, _, errors = call("poll", text=b"{}")
    assert code == 75
    assert errors.count("\n") == 1
    assert "sesame" not in errors
