"""The journal keeps what it is told over restarts."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fakes.agent_world import NOW, make_attempt, make_grant, make_ref, make_start
from touchstone_agent.adapters.journal import FENCES_KEPT, Journal
from touchstone_agent.core.admission import FenceMark
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.cursor import Chunk
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import AttemptPhase, Input


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_an_attempt_comes_back_as_it_was_saved(path: Path) -> None:
    content = Input(path="content", grant=make_grant("u"), sha256="0" * 64, size=3, unpack=True)
    attempt = make_attempt(
        start=make_start(inputs=(content,)),
        details={"container": "c"},
        reason="because",
        cancel_reason="asked",
        end_as=AttemptPhase.LOST,
        gpu_ids=("GPU-5b1f", "MIG-GPU-5b1f/7/0"),
        gpu_shares=3,
        console_cursor=7,
        chunks=(Chunk(offset=7, size=3, sha256="ab"),),
        uploaded=("a", "b"),
        failed={"c": "why"},
        console_closed=True,
    )
    Journal(path).save(attempt, now=NOW)

    assert Journal(path).load() == (attempt,)


def test_a_phase_and_its_event_are_saved_together(path: Path) -> None:
    journal = Journal(path)

    posted = journal.save(make_attempt(), now=NOW, announce=True)

    assert posted is not None
    assert Journal(path).load_outbox() == (posted,)
    journal.settle(posted)
    assert Journal(path).load_outbox() == ()


def test_events_keep_their_order_and_their_message_ids(path: Path) -> None:
    journal = Journal(path)
    posted = [journal.save(make_attempt(make_ref(f"i{i}")), now=NOW, announce=True) for i in "123"]

    assert list(Journal(path).load_outbox()) == posted


def test_fences_outlive_their_attempts_and_never_go_down(path: Path) -> None:
    journal = Journal(path)
    journal.save(make_attempt(make_ref(fence=5)), now=NOW)
    journal.mark(make_ref(fence=3), now=NOW, cancelled=True)
    journal.save(make_attempt(make_ref(fence=4)), now=NOW)
    journal.forget(make_ref(fence=5))

    assert Journal(path).get_mark("s1/i5") == FenceMark(seen=5, cancelled=3)
    assert journal.get_mark("s1/other") == FenceMark()


def test_old_fences_are_forgotten_at_last(path: Path) -> None:
    journal = Journal(path)
    journal.mark(make_ref(), now=NOW, cancelled=True)

    journal.forget_old_fences(NOW + FENCES_KEPT - timedelta(days=1))
    assert journal.get_mark("s1/i5").cancelled == 1
    journal.forget_old_fences(NOW + FENCES_KEPT + timedelta(days=1))
    assert journal.get_mark("s1/i5").cancelled == 0


def test_a_failed_write_leaves_no_part_of_itself(path: Path) -> None:
    journal = Journal(path)
    unwritable = replace(make_attempt(), details={"x": object()})

    with pytest.raises(TypeError):
        journal.save(unwritable, now=NOW, announce=True)

    assert journal.load() == ()
    assert journal.get_mark("s1/i5") == FenceMark()


def test_everything_is_on_the_disk_before_a_write_returns(path: Path) -> None:
    Journal(path)
    # WAL is a property of the file; FULL is what makes a commit wait for the disk.
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert Journal(path)._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_only_its_owner_can_read_it(path: Path) -> None:
    Journal(path).save(make_attempt(), now=NOW)

    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_its_identity_stays(path: Path) -> None:
    assert Journal(path).instance == Journal(path).instance


def test_a_journal_of_a_newer_agent_is_refused(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")

    with pytest.raises(ConfigurationError, match="install the agent that wrote it"):
        Journal(path)


AS_IT_WAS = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE attempts (
    task_key TEXT NOT NULL, fence INTEGER NOT NULL, start TEXT NOT NULL,
    phase TEXT NOT NULL, phase_at TEXT NOT NULL, accepted_at TEXT NOT NULL,
    reason TEXT, details TEXT NOT NULL, cancel_reason TEXT, end_as TEXT NOT NULL,
    gpu_ids TEXT NOT NULL,
    console_cursor INTEGER NOT NULL, chunks TEXT NOT NULL, uploaded TEXT NOT NULL,
    failed TEXT NOT NULL, console_closed INTEGER NOT NULL,
    PRIMARY KEY (task_key, fence));
INSERT INTO meta VALUES ('schema', '1'), ('instance', 'i');
"""
"""A journal of the version that knew GPUs by their index."""

COLUMNS_AS_THEY_WERE = (
    "task_key, fence, start, phase, phase_at, accepted_at, reason, details, cancel_reason, "
    "end_as, gpu_ids, console_cursor, chunks, uploaded, failed, console_closed"
)


def write_as_it_was(path: Path, attempt: Attempt, gpu_ids: str) -> None:
    """Write an attempt as the version before does."""
    now = NOW.isoformat()
    row = (
        *(attempt.ref.task_key, attempt.ref.fence, attempt.start.model_dump_json()),
        *("running", now, now, None, "{}", None, "cancelled", gpu_ids, 0, "[]", "[]", "{}", 0),
    )
    marks = ",".join("?" * len(row))
    with sqlite3.connect(path) as db:
        db.execute(f"INSERT INTO attempts ({COLUMNS_AS_THEY_WERE}) VALUES ({marks})", row)


def test_an_attempt_of_the_version_before_still_holds_its_gpus(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(AS_IT_WAS)
    write_as_it_was(path, make_attempt(), "[0, 2]")

    (attempt,) = Journal(path).load()

    assert (attempt.gpu_ids, attempt.gpu_shares) == (("0", "2"), 1)
    new = make_attempt(make_ref("i9"), gpu_ids=("GPU-1",), gpu_shares=2)
    Journal(path).save(new, now=NOW)
    assert sorted(Journal(path).load(), key=lambda a: a.ref.task_id) == [attempt, new]


def test_the_version_before_can_go_on_with_a_journal_of_this_one(path: Path) -> None:
    Journal(path).close()

    write_as_it_was(path, make_attempt(), "[1]")

    (attempt,) = Journal(path).load()
    assert (attempt.gpu_ids, attempt.gpu_shares) == (("1",), 1)
