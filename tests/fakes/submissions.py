"""Submissions for tests: whatever a test does not say is as for most of them."""

from __future__ import annotations

from typing import Any

from touchstone.core.records.submissions import Submission

CREATED_AT = "2026-11-22T12:00:00+00:00"


def build_submission(submission_id: str = "s-1", **fields: Any) -> Submission:
    """Return a submission with some of its fields; a status, an owner and a time it always has."""
    return Submission.load(
        {
            "submission_id": submission_id,
            "status": "queued",
            "submitted_by": "ann",
            "created_at": CREATED_AT,
            **fields,
        }
    )
