"""A console is shown in pieces of memory, whatever has been stored under its name."""

from __future__ import annotations

from datetime import UTC, datetime

from fakes.stores import FakeObjectStore
from fakes.tasks import build_task
from touchstone.core.names import build_console_key
from touchstone.ui.console import read_page
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES, AttemptRef

REF = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
TASK = build_task(attempt=1, fence=1, phase="uploaded", status="success", outcome="succeeded")


def test_a_chunk_that_no_agent_stores_is_told_as_a_gap():
    objects = FakeObjectStore()
    size = MAX_CHUNK_BYTES + 1
    for offset, body in ((0, b"first\n"), (6, b"x" * size), (6 + size, b"last\n")):
        objects.put_new("logs", build_console_key(REF, offset), body)

    page = read_page(
        objects, "logs", TASK, attempt=None, offset=0, now=datetime(2026, 11, 22, tzinfo=UTC)
    )

    assert page.text == f"first\n\n... {size} bytes were not uploaded ...\nlast\n"
    assert page.complete
