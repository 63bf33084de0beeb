"""How long tasks take, learnt from like tasks that ended; and how good past estimates were."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from touchstone.core.tasks import TaskSpec
from touchstone_agent.protocol.messages import SlotClass

_NORMAL = statistics.NormalDist()
_Z90 = _NORMAL.inv_cdf(0.9)
_LEAST_SPREAD = 1.05
"""A p90 is at least so many times the p50: no machine is as regular as three equal samples."""
_CERTAIN = 1e-6
"""A spread below this is none, and no probability comes nearer to 1: a normal has no end."""
_ENOUGH = 20
"""Errors of estimates from which their ninth decile says something."""
_MOST_STRETCH = 4.0
"""The most that later p90s are stretched by, however wrong the last ones were."""
_MOST_KEYS = 5_000
"""Kinds of tasks that are told apart; those that nobody has trained for longest are forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """
    How long something is expected to take; read as a lognormal distribution.

    :param p50_seconds: As likely less as more.
    :param p90_seconds: More in one case of ten; never below the p50.
    """

    p50_seconds: float
    p90_seconds: float

    def scale(self, factor: float) -> Duration:
        """Return how long so many times as much takes."""
        if factor == 1:
            return self
        return Duration(
            p50_seconds=self.p50_seconds * factor, p90_seconds=self.p90_seconds * factor
        )

    @property
    def mean_seconds(self) -> float:
        """Return the mean, which is what counts for a row of tasks; at most the p90."""
        if self.p50_seconds <= 0:
            return 0.0
        return min(self.p90_seconds, self.p50_seconds * math.exp(self._sigma**2 / 2))

    @property
    def _sigma(self) -> float:
        return math.log(max(1.0, self.p90_seconds / self.p50_seconds)) / _Z90

    def get_remaining(self, elapsed_seconds: float) -> Duration:
        """
        Return how much longer it takes, knowing that it has lasted so long already.

        What has outlasted its p90 is not about to end: it turned out to be a long one.
        """
        if elapsed_seconds <= 0 or self.p50_seconds <= 0:
            return self
        sigma = self._sigma
        if sigma < _CERTAIN:
            left = max(0.0, self.p50_seconds - elapsed_seconds)
            return Duration(p50_seconds=left, p90_seconds=left)
        # Far beyond, where the distribution knows nothing, the furthest that it knows is used.
        lasted = _NORMAL.cdf(math.log(elapsed_seconds / self.p50_seconds) / sigma)
        lasted = min(lasted, 1 - _CERTAIN)
        p50, p90 = (
            self.p50_seconds * math.exp(sigma * _NORMAL.inv_cdf(lasted + share * (1 - lasted)))
            for share in (0.5, 0.9)
        )
        return Duration(
            p50_seconds=max(0.0, p50 - elapsed_seconds),
            p90_seconds=max(0.0, p90 - elapsed_seconds),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DurationKey:
    """
    What makes tasks alike.

    :param kind: Validation or training.
    :param system: What kind of module it is; ``None`` for any.
    :param config_file: El-nigma configuration; ``None`` for any.
    :param interval: Prediction interval; ``None`` for any, and for a validation.
    :param data: Data set; ``None`` for any, and for the built-in one.
    :param seed_count: Pairs of models that are trained one after the other.
    :param fold: Number of the fold; ``None`` without folds, and for any: a later one has more rows
        to learn from.
    """

    kind: SlotClass
    system: str | None = None
    config_file: str | None = None
    interval: int | None = None
    data: str | None = None
    seed_count: int = 1
    fold: int | None = None

    @property
    def wider(self) -> tuple[DurationKey, ...]:
        """Return this and ever wider ones; the interval matters least, the kind most."""
        kind, system, config_file = self.kind, self.system, self.config_file
        of_config = DurationKey(kind=kind, system=system, config_file=config_file)
        keys = (
            self,
            replace(of_config, data=self.data),
            of_config,
            DurationKey(kind=kind, system=system),
            DurationKey(kind=kind),
        )
        return tuple(dict.fromkeys(replace(key, seed_count=self.seed_count) for key in keys))

    @property
    def like(self) -> tuple[tuple[DurationKey, int], ...]:
        """
        Return the kinds that tell something of this one, the nearest first, each with a factor.

        What is known of a single seed counts as often as there are seeds: never too little, since
        features are computed once.
        """
        if self.seed_count == 1:
            return tuple((key, 1) for key in self.wider)
        return tuple(
            pair
            for key in self.wider
            for pair in ((key, 1), (replace(key, seed_count=1), self.seed_count))
        )


def describe_task(spec: TaskSpec) -> DurationKey:
    """Return what a task's past and future are compared by."""
    is_training = spec.kind is SlotClass.TRAINING
    return DurationKey(
        kind=spec.kind,
        system=spec.system.value,
        config_file=spec.schedule.config_file if is_training else None,
        interval=spec.interval,
        data=spec.data.label if spec.data else None,
        seed_count=spec.schedule.seed_count if is_training else 1,
        fold=spec.fold.number if spec.fold else None,
    )


DEFAULTS = {
    SlotClass.VALIDATION: Duration(p50_seconds=30, p90_seconds=180),
    SlotClass.TRAINING: Duration(p50_seconds=1800, p90_seconds=7200),
}
"""What is expected while nothing is known."""


class History:
    """
    Durations of ended tasks; of each key the newest are kept. Safe to use from several threads.

    :param limit: How many per key.
    :param enough: How many of a key outweigh more of a wider key.
    :param defaults: What to expect of a kind of which nothing is known.
    """

    def __init__(
        self,
        *,
        limit: int = 50,
        enough: int = 3,
        defaults: dict[SlotClass, Duration] = DEFAULTS,
    ) -> None:
        self._limit = limit
        self._enough = enough
        self._defaults = defaults
        self._lock = threading.Lock()
        self._seconds: dict[DurationKey, deque[float]] = {}
        self._known: dict[DurationKey, Duration] = {}

    def add(self, key: DurationKey, seconds: float) -> None:
        """Learn the duration of a task that ended well."""
        with self._lock:
            for wider in key.wider:
                samples = self._seconds.pop(wider, None) or deque(maxlen=self._limit)
                samples.append(max(0.0, seconds))
                self._seconds[wider] = samples  # the last to be forgotten
            while len(self._seconds) > _MOST_KEYS:
                del self._seconds[next(iter(self._seconds))]
            self._known.clear()

    def expect(self, key: DurationKey) -> Duration:
        """Return how long a task should take, from the narrowest key with enough samples."""
        known = self._known.get(key)
        if known is None:
            with self._lock:
                if len(self._known) >= _MOST_KEYS:
                    self._known.clear()
                known = self._known[key] = self._work_out(key)
        return known

    def list_known(self, kind: SlotClass, *, limit: int) -> list[tuple[DurationKey, Duration]]:
        """Return what is expected of the kinds of tasks that ended last, at most so many."""
        with self._lock:
            keys = [key for key in self._seconds if key.kind is kind][-limit:]
        return [(key, self.expect(key)) for key in keys]

    def _work_out(self, key: DurationKey) -> Duration:
        widest: list[float] | None = None
        for wider, factor in key.like:
            # Not the table itself: asking for what is not known must not make it grow.
            samples = self._seconds.get(wider)
            if samples:
                widest = [seconds * factor for seconds in samples]
                if len(samples) >= self._enough:
                    return summarise(widest)
        if widest is None:
            return self._defaults[key.kind].scale(key.seed_count)
        # One or two of the whole kind: they tell the size, not how much it varies.
        default, found = self._defaults[key.kind], statistics.median(widest)
        spread = default.p90_seconds / default.p50_seconds
        return Duration(p50_seconds=found, p90_seconds=found * spread)


def summarise(seconds: Iterable[float]) -> Duration:
    """
    Return the p50 and p90 of some durations.

    The rank of the p90 counts one sample more than there are, so that the next one is below it
    nine times of ten; where that is beyond the longest, the longest and a quarter is taken.
    """
    ordered = sorted(seconds)
    p50 = statistics.median(ordered)
    rank = math.ceil(0.9 * (len(ordered) + 1))
    p90 = ordered[rank - 1] if rank <= len(ordered) else ordered[-1] * 1.25
    return Duration(p50_seconds=p50, p90_seconds=max(p90, p50 * _LEAST_SPREAD))


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorSummary:
    """
    How good past estimates were.

    :param count: How many were checked; what follows is ``None`` before the first.
    :param covered_p90: Share that started by their p90.
    :param covered_p50: Share that started by their p50; about half is right.
    :param median_error_seconds: Half of the starts were nearer to their p50 than this.
    """

    count: int = 0
    covered_p90: float | None = None
    covered_p50: float | None = None
    median_error_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Checked:
    waited: float
    p50: float
    p90: float
    stretch: float


class ErrorLog:
    """
    Compares estimates with real starts; the newest are kept. Safe to use from several threads.

    :param limit: How many.
    """

    def __init__(self, *, limit: int = 500) -> None:
        self._lock = threading.Lock()
        self._checked: deque[_Checked] = deque(maxlen=limit)

    def add(
        self,
        *,
        waited_seconds: float,
        p50_seconds: float,
        p90_seconds: float,
        stretch: float = 1.0,
    ) -> None:
        """
        Check an estimate against what came.

        :param waited_seconds: From when the estimate was made until the start.
        :param p50_seconds: What the estimate said, from when it was made.
        :param p90_seconds: The same.
        :param stretch: By what that p90 was stretched; without it the stretch would unlearn itself.
        """
        checked = _Checked(waited=waited_seconds, p50=p50_seconds, p90=p90_seconds, stretch=stretch)
        with self._lock:
            self._checked.append(checked)

    def summarise(self) -> ErrorSummary:
        """Return how good they were."""
        checked = self._copy()
        count = len(checked)
        if not count:
            return ErrorSummary()
        return ErrorSummary(
            count=count,
            covered_p90=sum(item.waited <= item.p90 for item in checked) / count,
            covered_p50=sum(item.waited <= item.p50 for item in checked) / count,
            median_error_seconds=statistics.median(abs(item.waited - item.p50) for item in checked),
        )

    @property
    def stretch(self) -> float:
        """
        Return by what to multiply a p90 so that nine of ten past starts were within it.

        Nobody knows what arrives tomorrow: here a fleet learns how much overtakes what waits.
        Between 1 and 4: a calm night must not make the next morning's promises too bold.
        """
        checked = self._copy()
        ratios = sorted(item.waited * item.stretch / item.p90 for item in checked if item.p90 > 1)
        if len(ratios) < _ENOUGH:
            return 1.0
        return min(_MOST_STRETCH, max(1.0, ratios[math.ceil(0.9 * len(ratios)) - 1]))

    def _copy(self) -> list[_Checked]:
        """Return what is kept now, while others go on adding."""
        with self._lock:
            return list(self._checked)
