"""
Seals on notes that pass through where Airflow's users may write. Pure.

The dispatcher leaves its decisions in Airflow's task state store, because only there they change
together with a task's pool. Airflow lets its users write there as well, so a note counts only
with a seal that nobody else can make.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Final

SEAL: Final = "seal"


def seal_note(note: Mapping[str, object], *, of: object, key: bytes) -> dict[str, object]:
    """
    Return a note with its seal.

    :param note: JSON values.
    :param of: What it is about: the seal is good for nothing else.
    :param key: Known to the control plane only.
    """
    return {**note, SEAL: _compute(note, of, key)}


def open_note(value: object, *, of: object, key: bytes) -> dict[str, object] | None:
    """
    Return a note without its seal; ``None`` if it is not as :func:`seal_note` has made it.

    :param value: Whatever was found.
    """
    if not isinstance(value, Mapping):
        return None
    note = {name: item for name, item in value.items() if name != SEAL}
    try:
        is_ours = hmac.compare_digest(
            str(value.get(SEAL)).encode(), _compute(note, of, key).encode()
        )
    except (TypeError, ValueError, RecursionError):
        return None
    return note if is_ours else None


def _compute(note: Mapping[str, object], of: object, key: bytes) -> str:
    text = json.dumps([str(of), note], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hmac.new(key, text.encode(), "sha256").hexdigest()
