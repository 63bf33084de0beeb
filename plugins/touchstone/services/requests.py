"""One run for one key of a program's, however often the program asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from touchstone.core.records.requests import SentRequest, build_place, compute_digest
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists
from touchstone_agent.protocol.errors import ConfigurationError


class KeyTaken(ConfigurationError):
    """A key stands for another request already."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """
    Remembers which run a request is, before that is started.

    :param records: The way in and out.
    :param table: Where requests are.
    :param clock: The time, UTC.
    """

    records: RecordStore
    table: str
    clock: Callable[[], datetime]

    def find(self, user: str, key: str, asked: Mapping[str, JsonValue]) -> str | None:
        """
        Return the id of the run that a request is; ``None`` if it was never asked for.

        :param user: Who asks.
        :param key: The program's key.
        :param asked: What it asks for.
        :raises KeyTaken: If the key stands for another request.
        """
        found = self._find(build_place(user, key))
        return None if found is None else _check(found, asked)

    def keep(self, user: str, key: str, asked: Mapping[str, JsonValue], run_id: str) -> str:
        """
        Write down which run a request is, before that is started.

        :param run_id: The run that it would be.
        :return: The run that it is: of two at once the first has chosen.
        :raises KeyTaken: If the key stands for another request.
        """
        place = build_place(user, key)
        fresh = SentRequest(**place, digest=compute_digest(asked), run_id=run_id, at=self.clock())
        try:
            self.records.create_in_part(self.table, "entry", fresh.dump())
        except RecordExists:
            return _check(self._find(place) or fresh, asked)
        return run_id

    def _find(self, place: Mapping[str, str]) -> SentRequest | None:
        stored = self.records.find_in_part(self.table, place)
        return None if stored is None else SentRequest.load(stored)


def _check(found: SentRequest, asked: Mapping[str, JsonValue]) -> str:
    if found.digest != compute_digest(asked):
        raise KeyTaken(
            f"Idempotency-Key: stands for another request, which is the run {found.run_id}; "
            "give each request a key of its own"
        )
    return found.run_id
