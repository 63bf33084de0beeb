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

    def find_run(
        self, user: str, key: str, asked: Mapping[str, JsonValue], choose: Callable[[], str]
    ) -> str:
        """
        Return the id of the run that a request is: the same for the same key, whenever it comes.

        :param user: Who asks.
        :param key: The program's key.
        :param asked: What it asks for.
        :param choose: Returns the id of a new run.
        :raises KeyTaken: If the key stands for another request.
        """
        place = build_place(user, key)
        found = self._find(place)
        if found is None:
            fresh = SentRequest(
                **place, digest=compute_digest(asked), run_id=choose(), at=self.clock()
            )
            try:
                self.records.create_in_part(self.table, "entry", fresh.dump())
            except RecordExists:
                # Of two at once the first has chosen.
                found = self._find(place)
            found = found or fresh
        if found.digest != compute_digest(asked):
            raise KeyTaken(
                f"Idempotency-Key: stands for another request, which is the run {found.run_id}; "
                "give each request a key of its own"
            )
        return found.run_id

    def _find(self, place: Mapping[str, str]) -> SentRequest | None:
        stored = self.records.find_in_part(self.table, place)
        return None if stored is None else SentRequest.load(stored)
