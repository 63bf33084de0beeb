"""What is uploaded of an attempt whose journal an older agent has written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

from fakes.agent_world import NOW, make_grant, make_start
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.grants import Answer
from touchstone_agent.outputs import OutputUploader
from touchstone_agent.protocol.messages import AttemptPhase

GOOD = {"path": "model", "sha256": hashlib.sha256(b"weights").hexdigest(), "size": 7}


class FakeHandle:
    """An attempt of the journal."""

    name = "attempt"

    def __init__(self, attempt: Attempt, folder: Path) -> None:
        self.attempt, self.folder, self.ref = attempt, folder, attempt.ref

    def update(self, change) -> None:
        self.attempt = change(self.attempt)


def test_a_file_that_is_not_taken_any_more_is_failed_by_name_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    """One path that its verdict should not have had must not keep the others from being stored."""
    verdict = {"exit_code": 0, "class": "ok", "files": [GOOD], "anything": [1, 2, 3]}
    details = {"exit_code": 0, "verdict": verdict, "files": [{**GOOD, "path": "a\\b"}, GOOD]}
    journal = Journal(tmp_path / "journal.db")
    start = make_start()
    journal.save(
        Attempt(
            start=start,
            phase=AttemptPhase.EXITED,
            phase_at=NOW,
            accepted_at=NOW,
            details=json.loads(json.dumps(details)),
        ),
        now=NOW,
        announce=True,
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model").write_bytes(b"weights")
    [attempt] = journal.load()
    assert journal.load_outbox()[0].event.details == details, "told as it was"
    handle, stored = FakeHandle(attempt, tmp_path), []
    context = SimpleNamespace(
        grant_requester=SimpleNamespace(
            ask=lambda ref, purpose, wants, **_: Answer(
                grants={want.path: make_grant("http://store") for want in wants}
            )
        ),
        transfer=SimpleNamespace(put=lambda grant, source, **_: stored.append(source.read())),
    )

    OutputUploader(handle, context, is_ended=lambda: False).upload()

    assert handle.attempt.uploaded == ("model",)
    assert "backslash" in handle.attempt.failed["a\\b"]
    assert stored
