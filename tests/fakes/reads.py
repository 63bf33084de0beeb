"""A count of what is read from the stores, by boto3's own clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Reads:
    """
    Counts the items, keys and objects that clients read, whoever uses them and however.

    :ivar items: So many; of a query those that it looked at, whether or not it gave them out.
    :ivar requests: In so many requests.
    """

    def __init__(self, *clients: Any) -> None:
        self.items = self.requests = 0
        for client in clients:
            client.meta.events.register("after-call", self._count)

    def _count(self, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        if "Error" in parsed:
            found = 0
        elif model.name in {"Query", "Scan"}:
            found = int(parsed["ScannedCount"])
        elif model.name == "BatchGetItem":
            found = sum(len(items) for items in parsed["Responses"].values())
        elif model.name == "GetItem":
            found = int("Item" in parsed)
        elif model.name == "ListObjectsV2":
            found = int(parsed["KeyCount"])
        elif model.name in {"GetObject", "HeadObject"}:
            found = 1
        else:
            return
        self.items += found
        self.requests += 1

    def of(self, work: Callable[[], object]) -> int:
        """Return how many items a piece of work reads."""
        before = self.items
        work()
        return self.items - before
