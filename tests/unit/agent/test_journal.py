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
        gpu_ids=(0, 2),
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
