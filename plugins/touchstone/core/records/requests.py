"""What programs have asked for by a key of their own: asked again, it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from touchstone.core.records.stored import StoredRecord, Time

REQUESTS: Final = "#requests"
"""Begins the parts of the table of events in which requests are; no event is called so."""
MAX_KEY: Final = 200


class SentRequest(StoredRecord):
    """
    A request that starts a run, written before it starts it.

    :param event: In which part of the table it is: that of its user.
    :param entry: Digest of its key.
    :param digest: Digest of what was asked.
    :param run_id: The run that it is.
    :param at: When it was asked first.
    """

    event: str
    entry: str
    digest: str
    run_id: str
    at: Time


def build_place(user: str, key: str) -> dict[str, str]:
    """Return where a user's request of a key is: other users' keys are others."""
    return {"event": f"{REQUESTS}:{user}", "entry": hashlib.sha256(key.encode()).hexdigest()}


def compute_digest(asked: Mapping[str, JsonValue]) -> str:
    """Return the digest of what was asked, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
