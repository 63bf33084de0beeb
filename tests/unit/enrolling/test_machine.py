"""What a server says while it is set up is believed only as far as it can be anything."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from touchstone.enrolling.bundle import Bundle
from touchstone.enrolling.machine import Machine, Unfit, find_failures
from touchstone.hooks.servers import Completed
from touchstone_agent.protocol.errors import PermanentError, TransientError

GOOD = {
    "python": "3.11.2",
    "machine": "x86_64",
    "system": "Linux",
    "is_root": True,
    "has_systemd": True,
}


class LyingShell:
    """Answers each command with the same."""

    def __init__(self, output: str, *, code: int = 0, errors: str = "") -> None:
        self.answer = Completed(code=code, output=output, errors=errors)
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float = 300.0) -> Completed:
        self.asked.append(tuple(argv))
        return self.answer

    def put(self, data: bytes, path: str) -> None:
        raise AssertionError("nothing is sent")


@pytest.fixture
def ask(tmp_path: Path):
    """Return a function that lets a machine be looked at that answers so."""
    (tmp_path / "install.py").write_text("")
    bundle = Bundle(folder=tmp_path, version="1", files={})

    def ask(answer: Any, **how: Any) -> Machine:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Machine(LyingShell(text, **how), bundle)

    return ask


def build(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "time": time.time(), **changes}


def test_what_a_server_says_is_taken_as_far_as_it_is_known(ask) -> None:
    there = {"env": "dev", "server": "a", "is_running": True, "more": "x"}
    facts = ask(build(enrolled=there, staged=["1"], more=[1])).look()
    assert facts.enrolled.server == "a"
    assert facts.staged == ("1",)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        {},
        {"python": "3.11.2"},
        build(python="3.11.2; rm"),
        build(time="now"),
        build(time=float("nan")),
        build(time=1e300),
        build(enrolled="yes"),
        build(enrolled={"server": "a" * 10_000}),
        build(staged=["v"] * 10_000),
        build(is_root="perhaps"),
    ],
    ids=lambda answer: str(answer)[:30],
)
def test_an_answer_that_makes_no_sense_is_one_line(ask, answer: Any) -> None:
    with pytest.raises(PermanentError) as caught:
        ask(answer).look()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


def test_nothing_of_it_moves_the_cursor_of_who_reads_it(ask) -> None:
    evil = "\x1b[2J\x1b]0;mine\x07a\nb"
    facts = ask(build(enrolled={"server": evil, "env": evil, "version": evil})).look()
    assert facts.enrolled.server.isprintable()
    with pytest.raises(Unfit) as caught:
        ask({"problem": evil}).look()
    assert str(caught.value).isprintable()
    with pytest.raises(Unfit) as caught:
        ask("", code=1, errors=evil).look()
    assert str(caught.value).isprintable()
    listed = [{"name": evil, "is_ok": False, "text": evil}, "none", {"name": 1}]
    results = ask({"results": listed}).doctor()
    assert (find_failures(results) or "").isprintable()
    assert ask({"lines": [evil]}).read_log().isprintable()
    assert all(path.isprintable() for path in ask({"left": [evil]}).remove())
    assert ask({"before": evil}).switch("1").isprintable()


def test_a_list_that_says_nothing_of_success_is_a_failure(ask) -> None:
    results = ask({"results": [{"name": "engine", "text": "?"}]}).doctor()
    assert find_failures(results) == "engine: ?"
    for nothing in ({}, {"results": []}, {"results": "fine"}):
        with pytest.raises(Unfit, match="it looked at nothing"):
            ask(nothing).doctor()


@pytest.mark.parametrize("folder", ["/etc", "/var/tmp/../../etc", "-rf", ""])
def test_a_folder_elsewhere_is_not_believed(ask, folder: str) -> None:
    machine = ask(folder)
    with pytest.raises(Unfit, match="no folder can be made"):
        machine.open_folder()
    machine.close()
    assert not [argv for argv in machine._shell.asked if "rm" in argv]


class FullShell(LyingShell):
    """Makes a folder, takes no file, and says anything of its disk."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float = 300.0) -> Completed:
        made = "/var/tmp/touchstone-enrolment-0123456789"
        text = made if argv[0] == "mktemp" else self.answer.output
        return Completed(code=0, output=text, errors="")

    def put(self, data: bytes, path: str) -> None:
        raise TransientError("sending it: Failure; run it again")


@pytest.mark.parametrize("free", ["9" * 100_000, "\u00b2", "-1", "", "many"])
def test_a_disk_of_which_nonsense_is_said_is_a_file_that_was_not_sent(
    tmp_path: Path, free: str
) -> None:
    bundle = Bundle(folder=tmp_path, version="1", files={})
    with pytest.raises(TransientError, match="run it again"):
        Machine(FullShell(f"Avail\n{free}\n"), bundle).send({"a": b"abc"})
    with pytest.raises(Unfit, match="disk: 0 MiB free"):
        Machine(FullShell("Avail\n0\n"), bundle).send({"a": b"abc"})


def test_a_list_without_an_end_becomes_one_line(ask) -> None:
    listed = [{"name": "n" * 1000, "is_ok": False, "text": "t" * 10_000}] * 10_000
    results = ask({"results": listed}).doctor()
    assert len(results) <= 100
    assert len(find_failures(results) or "") <= 2000
