"""An attempt's console in the log of the task that waits for it."""

from __future__ import annotations

import pytest

from fakes.stores import FakeObjectStore
from touchstone.core.names import build_console_key
from touchstone.triggers.console import MAX_LINE_CHARACTERS, TAIL_BYTES, ConsoleRelay
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptRef

REF = AttemptRef(submission_id="dag--d-1", task_id="t1", attempt=1, fence=1)


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture
def told():
    return []


@pytest.fixture
def relay(objects, told):
    return ConsoleRelay(objects, "logs", REF, told.append)


def put(objects, offset, data):
    objects.put("logs", build_console_key(REF, offset), data)


async def test_lines_are_told_once_and_whole_as_they_come(relay, objects, told):
    await relay.relay()
    put(objects, 0, b"one\ntw")
    await relay.relay()
    assert told == ["| one"]

    put(objects, 6, "o\nthrée".encode())
    await relay.relay()
    relay.finish()

    assert told == ["| one", "| two", "| thrée"]


async def test_a_character_that_is_cut_in_two_is_put_together(relay, objects, told):
    await relay.relay()
    data = "é\n".encode()
    put(objects, 0, data[:1])
    await relay.relay()
    put(objects, 1, data[1:])
    await relay.relay()

    assert told == ["| é"]


async def test_a_piece_that_is_not_there_yet_is_waited_for(relay, objects, told):
    await relay.relay()
    put(objects, 4, b"two\n")
    await relay.relay()
    assert told == []

    put(objects, 0, b"one\n")
    await relay.relay()

    assert told == ["| one", "| two"]


async def test_pieces_that_overlap_are_told_once(relay, objects, told):
    await relay.relay()
    put(objects, 0, b"one\ntwo\n")
    await relay.relay()
    put(objects, 4, b"two\nthree\n")
    await relay.relay()

    assert told == ["| one", "| two", "| three"]


async def test_who_takes_over_tells_the_end_of_what_was_there_and_says_so(relay, objects, told):
    put(objects, 0, b"x" * TAIL_BYTES)
    put(objects, TAIL_BYTES, b"\nlast\n")
    await relay.relay()

    assert told[0] == "... 6 bytes of the console were before this ..."
    assert told[-1] == "| last"


async def test_a_line_without_an_end_is_cut(relay, objects, told):
    await relay.relay()
    put(objects, 0, b"y" * 3 * MAX_LINE_CHARACTERS)
    await relay.relay()

    assert len(told) == 1
    assert len(told[0]) == MAX_LINE_CHARACTERS + 2


async def test_what_drives_a_terminal_or_passes_for_a_line_of_airflows_does_neither(
    relay, objects, told
):
    await relay.relay()
    put(objects, 0, b"\x1b[2J::group::all is well\r[2026-11-22] ERROR\n")
    await relay.relay()

    assert told == ["| [2J::group::all is well [2026-11-22] ERROR"]


async def test_a_store_that_is_away_is_asked_again(relay, objects, told, monkeypatch):
    await relay.relay()
    put(objects, 0, b"one\n")

    def fail(*_, **__):
        raise TransientError("S3 is away")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "get", fail)
        await relay.relay()
    assert told == []
    await relay.relay()

    assert told == ["| one"]
