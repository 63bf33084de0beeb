"""What could not be done for one item, while the loop that met it went on with the others."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType

from touchstone.core.queue import Trouble
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.words import build_line

log = logging.getLogger(__name__)

FORGET_AFTER = timedelta(minutes=10)
"""An item that was not met for so long is no trouble any more: it has gone, or was mended."""
MOST_ITEMS = 1000
"""So many are remembered; of more, only the count goes up."""

_Key = tuple[str, str]


class Troubles:
    """
    Keeps one bad item from stopping all others, and keeps count of what was left undone.

    :param clock: The time, UTC.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failing: OrderedDict[_Key, _Failure] = OrderedDict()
        self._times: Counter[str] = Counter()

    def guard(self, what: str, item: object = "") -> Guard:
        """
        Return a context that lets an error of one item end nothing but this block.

        The error is logged once, and again when it has changed, not in each round; with its
        traceback unless it is one that Touchstone raises on purpose.

        :param what: The kind of work, as in "could not ...": ``place``, ``cancel``.
        :param item: What it is done for: a task, a server, a key of several parts; empty for the
            whole of it.
        """
        return Guard(self, what, item)

    def note(
        self, what: str, item: object, error: BaseException | str, *, is_logged: bool = False
    ) -> None:
        """
        Count a failure, and log it unless the same was logged for this item before.

        :param what: As for :meth:`guard`.
        :param item: As for :meth:`guard`.
        :param error: Why.
        :param is_logged: Whether the caller has logged it already.
        """
        key, now = (what, _describe(item)), self._clock()
        said = str(error) if isinstance(error, (TouchstoneError, str)) else repr(error)
        reason = build_line(said)
        with self._lock:
            self._times[what] += 1
            before = self._failing.pop(key, None)
            self._failing[key] = _Failure(at=now, reason=reason)
            if len(self._failing) > MOST_ITEMS:
                self._failing.popitem(last=False)
        if not is_logged and (before is None or before.reason != reason):
            is_expected = isinstance(error, (TouchstoneError, str))
            log.log(
                logging.WARNING if is_expected else logging.ERROR,
                "could not %s: %s",
                " ".join(filter(None, key)),
                reason,
                exc_info=None if is_expected or isinstance(error, str) else error,
            )

    def settle(self, what: str, item: object) -> None:
        """Forget what was wrong with an item: it was done."""
        if not self._failing:
            return  # as nearly always, and asked thousands of times a round
        key = what, _describe(item)
        with self._lock:
            was_failing = self._failing.pop(key, None) is not None
        if was_failing:
            log.info("could %s again", " ".join(filter(None, key)))

    def summarise(self) -> tuple[Trouble, ...]:
        """Return the present failures, a line for each kind of work with the newest one."""
        oldest = self._clock() - FORGET_AFTER
        found: dict[str, Trouble] = {}
        with self._lock:
            for key in [key for key, failure in self._failing.items() if failure.at < oldest]:
                del self._failing[key]
            for (what, item), failure in self._failing.items():
                known = found.get(what)
                found[what] = Trouble(
                    what=what,
                    items=1 + (known.items if known else 0),
                    times=self._times[what],
                    item=item,
                    reason=failure.reason,
                    at=failure.at,
                )
        return tuple(found[what] for what in sorted(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    at: datetime
    reason: str


class Guard:
    """
    The context of :meth:`Troubles.guard`; a class, because a generator takes ten times as long.

    :param troubles: Where failures go.
    :param what: The kind of work.
    :param item: What it is done for.
    """

    __slots__ = ("_item", "_troubles", "_what", "error")

    def __init__(self, troubles: Troubles, what: str, item: object) -> None:
        self._troubles = troubles
        self._what = what
        self._item = item
        self.error: Exception | None = None

    @property
    def is_failed(self) -> bool:
        """Tell whether the block was left by an error."""
        return self.error is not None

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            self._troubles.settle(self._what, self._item)
            return False
        if not isinstance(error, Exception):
            return False  # somebody wants the process to end
        self.error = error
        self._troubles.note(self._what, self._item, error)
        return True


def _describe(item: object) -> str:
    return build_line("/".join(map(str, item)) if isinstance(item, tuple) else str(item))
