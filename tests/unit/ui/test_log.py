from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fakes.api import NOW
from fakes.stores import FakeObjectStore
from touchstone.core.names import build_console_key
from touchstone.settings import Settings
from touchstone.ui.console import PAGE_BYTES
from touchstone_agent.protocol.messages import AttemptRef

LOG = "/api/v1/submissions/s-1/tasks/i5/log"
ENDED = {"status": "success", "phase": "uploaded", "outcome": "succeeded"}


@pytest.fixture
def upload(objects: FakeObjectStore, settings: Settings) -> Callable[..., None]:
    def make(offset: int, data: bytes, *, attempt: int = 1, fence: int = 1) -> None:
        ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=attempt, fence=fence)
        assert objects.put_new(settings.logs_bucket, build_console_key(ref, offset), data)

    return make


@pytest.fixture
def read(engineer: TestClient, make_submission: Callable[..., str]) -> Callable[..., Any]:
    make_submission()

    def get(**query: Any) -> Any:
        answer = engineer.get(LOG, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return get


def test_a_running_attempt_is_read_as_far_as_it_has_got(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task()
    upload(0, b"one\n")
    upload(4, b"two\n")
    page = read()
    assert page == {
        "attempt": "1-1",
        "offset": 0,
        "next_offset": 8,
        "line_offset": 8,
        "text": "one\ntwo\n",
        "complete": False,
        "state": "running 01:15",
    }
    assert read(offset=8)["text"] == ""
    upload(8, b"three\n")
    assert read(offset=8)["text"] == "three\n"


def test_reading_may_begin_in_the_middle_of_a_chunk(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task()
    upload(0, b"abcdef")
    page = read(offset=4)
    assert (page["text"], page["next_offset"]) == ("ef", 6)


def test_chunks_that_overlap_are_not_repeated(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task()
    upload(0, b"abcd")
    upload(2, b"cdef")
    assert read()["text"] == "abcdef"


def test_a_gap_is_waited_for_while_the_attempt_runs(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task()
    upload(0, b"ab")
    upload(4, b"ef")
    assert (read()["text"], read()["next_offset"]) == ("ab", 2)


def test_a_gap_that_will_never_be_filled_is_named(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task(**ENDED)
    upload(0, b"ab")
    upload(4, b"ef")
    page = read()
    assert page["text"] == "ab\n... 2 bytes were not uploaded ...\nef"
    assert (page["next_offset"], page["complete"]) == (6, True)


def test_a_long_console_comes_in_bounded_pages_that_add_up(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task(**ENDED)
    # Three-byte characters: neither the chunks nor the pages end where a character does.
    whole = "日本語\n" * 80_000
    data = whole.encode()
    step = 100_001
    for offset in range(0, len(data), step):
        upload(offset, data[offset : offset + step])
    text, offset, pages = "", 0, 0
    while True:
        page = read(offset=offset)
        assert len(page["text"].encode()) <= PAGE_BYTES
        text, offset, pages = text + page["text"], page["next_offset"], pages + 1
        if page["complete"]:
            break
    assert text == whole
    assert pages == -(-len(data) // PAGE_BYTES)


def test_bytes_that_are_no_text_do_not_stop_the_reader(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    make_task(**ENDED)
    upload(0, b"a\xff\xfeb\xe6")
    page = read()
    assert page["text"] == "a\ufffd\ufffdb\ufffd"
    assert (page["next_offset"], page["complete"]) == (5, True)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        (
            {"status": "queued", "phase": None, "attempt": 0, "fence": 0},
            "no output yet (waiting for a slot)",
        ),
        (
            {"status": "queued", "phase": None, "attempt": 0, "fence": 2, "reason": "rio is full"},
            "no output yet (rio is full)",
        ),
        ({"status": "queued", "phase": None, "server": "rio"}, "no output yet (sent to rio)"),
        (
            {
                "status": "preparing",
                "phase": "preparing",
                "preparing_at": (NOW - timedelta(seconds=41)).isoformat(),
            },
            "no output yet (container preparing 00:41)",
        ),
        ({"status": "running"}, "no output yet (running 01:15)"),
        ({"status": "lost", "phase": "lost", "outcome": "lost"}, "no output (lost)"),
    ],
)
def test_an_empty_console_explains_itself(
    read: Callable[..., Any], make_task: Callable[..., None], fields: dict[str, Any], state: str
) -> None:
    make_task(**fields)
    page = read()
    assert (page["text"], page["state"]) == ("", state)


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({"status": "running", "phase": "running"}, False),
        # The container is gone, but its agent still uploads.
        ({"status": "uploading", "phase": "exited"}, False),
        ({"status": "error", "phase": "exited", "ended_at": NOW.isoformat()}, False),
        (
            {
                "status": "error",
                "phase": "exited",
                "ended_at": (NOW - timedelta(hours=1)).isoformat(),
            },
            True,
        ),
        (ENDED, True),
        ({"status": "cancelled", "phase": "cancelled"}, True),
        ({"status": "cancelled", "phase": None, "attempt": 0, "fence": 0}, True),
        ({"status": "queued", "phase": None, "attempt": 0, "fence": 0}, False),
    ],
)
def test_a_console_is_complete_once_nothing_can_follow(
    read: Callable[..., Any],
    make_task: Callable[..., None],
    fields: dict[str, Any],
    complete: bool,
) -> None:
    make_task(**fields)
    assert read()["complete"] is complete


def test_the_newest_attempt_is_read_unless_an_earlier_one_is_named(
    read: Callable[..., Any], make_task: Callable[..., None], upload: Callable[..., None]
) -> None:
    earlier = {"attempt": 1, "fence": 1, "outcome": "lost", "phase": "lost"}
    make_task(attempt=2, fence=2, attempts=[earlier])
    upload(0, b"first\n", attempt=1, fence=1)
    upload(0, b"second\n", attempt=2, fence=2)
    assert (read()["attempt"], read()["text"]) == ("2-2", "second\n")
    page = read(attempt="1-1")
    assert (page["text"], page["complete"]) == ("first\n", True)


def test_an_attempt_that_never_was_is_refused_naming_those_that_were(
    engineer: TestClient, make_submission: Callable[..., str], make_task: Callable[..., None]
) -> None:
    make_submission()
    make_task()
    answer = engineer.get(LOG, params={"attempt": "9-9"})
    assert answer.status_code == 404
    assert "1-1" in answer.json()["detail"]


@pytest.mark.parametrize("attempt", ["../../x", "1", "1-1/../2-2", ""])
def test_an_attempt_is_two_numbers_and_nothing_else(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    attempt: str,
) -> None:
    make_submission()
    make_task()
    assert engineer.get(LOG, params={"attempt": attempt}).status_code == 422
