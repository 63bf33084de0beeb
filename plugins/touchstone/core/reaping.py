"""
Which pods of an account no record needs any more, and which are proven gone. Pure.

A caller reads all pods first and then, not before, their records: a pod is
ordered only after that is on record, so one without a record has none. What looks wrong but might
be about to become right is only remembered, and acted on when the next list shows it again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from touchstone.core.pods import Pod, PodStatus
from touchstone.core.records.notes import Doubt, Sightings


@dataclass(frozen=True, kw_only=True)
class RecordedPod:
    """
    What is on record of one attempt's pod.

    :param name: The name it was ordered by, which no other attempt's pod has.
    :param pod_id: RunPod's id; ``None`` while nobody knows what the order has become.
    :param is_live: Whether its attempt is the newest, has not ended, and nobody cancels it.
    :param ordered_at: When it was ordered.
    :param ending_at: Since when it is being given back.
    :param gone_at: Since when it is proven gone.
    """

    name: str
    submission_id: str
    task_id: str
    fence: int
    pod_id: str | None
    is_live: bool
    ordered_at: datetime
    ending_at: datetime | None = None
    gone_at: datetime | None = None

    @property
    def is_wanted(self) -> bool:
        """Return whether somebody still needs the pod."""
        return self.is_live and self.ending_at is None and self.gone_at is None


@dataclass(frozen=True, kw_only=True)
class ReapingThresholds:
    """
    How long doubts are given the benefit.

    :param young_seconds: A pod may be in a list before it is on record as it should be, and on
        record before it is in a list; after so long that is no excuse.
    :param strikes: Lists in a row that must agree.
    """

    young_seconds: float = 120
    strikes: int = 2


class Reason(StrEnum):
    """Why a pod is terminated."""

    ENDED = "its attempt has ended"
    ENDING = "it was to be given back"
    RETURNED = "it was taken for gone"
    SECOND = "a second pod of the same name"
    UNKNOWN = "no attempt of this name"


@dataclass(frozen=True, kw_only=True)
class Termination:
    """
    A pod to terminate.

    :param recorded: What is on record of its name; ``None`` if nothing is.
    """

    pod: Pod
    reason: Reason
    recorded: RecordedPod | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """
    How many pods there are.

    :param seen: In the account, but for those that RunPod calls terminated.
    :param ours: Of those, with our environment's prefix.
    :param foreign: The others; nobody touches them.
    :param unknown: Ours without anything on record.
    """

    seen: int = 0
    ours: int = 0
    foreign: int = 0
    unknown: int = 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    What a list of pods says.

    :param terminations: Pods to terminate; again with each list until they are gone.
    :param gone: Recorded pods that are proven gone and not on record as such.
    :param missing: Recorded pods that attempts need and the list lacks; to be told, for their
        own drivers decide.
    :param sightings: To be given to the next decision.
    :param has_failed: The list is no list: it is empty, and pods should be there. Nothing was
        decided, nothing is remembered.
    """

    sightings: Sightings
    terminations: tuple[Termination, ...] = ()
    gone: tuple[RecordedPod, ...] = ()
    missing: tuple[RecordedPod, ...] = ()
    counts: Counts = field(default_factory=Counts)
    has_failed: bool = False


def decide(
    pods: Iterable[Pod],
    recorded_pods: Iterable[RecordedPod],
    sightings: Sightings,
    *,
    prefix: str,
    now: datetime,
    thresholds: ReapingThresholds | None = None,
    spared: Collection[str] = (),
) -> Decision:
    """
    Return what to do about all pods of an account.

    Pods of another prefix are never touched, nor is the pod of an attempt that needs it.

    :param pods: One complete list.
    :param recorded_pods: What is on record, read after the list; also of pods that are gone, as
        far as known.
    :param sightings: Those of the decision before.
    :param prefix: The environment's, with the ``-`` that ends it.
    :param now: When the list was read.
    :param spared: Names of pods whose records make no sense: nobody knows whether they are needed.
    :raises ValueError: If the prefix is no environment's: everything might begin with it.
    """
    if not prefix.strip("-") or not prefix.endswith("-"):
        raise ValueError(f"{prefix!r} is not the prefix of an environment")
    listed = list(pods)
    known = sorted(recorded_pods, key=_rank)
    missing = tuple(recorded for recorded in known if recorded.is_wanted and recorded.pod_id)
    if not listed and missing:
        return Decision(sightings=sightings, missing=missing, has_failed=True)
    alive = [pod for pod in listed if pod.status is not PodStatus.TERMINATED]
    reaper = _Reaper(
        alive,
        known,
        sightings,
        prefix,
        now,
        thresholds or ReapingThresholds(),
        spared=frozenset(spared),
    )
    return reaper.decide()


class _Reaper:
    """One decision: what all its parts look at."""

    def __init__(
        self,
        alive: list[Pod],
        recorded_pods: list[RecordedPod],
        before: Sightings,
        prefix: str,
        now: datetime,
        thresholds: ReapingThresholds,
        *,
        spared: frozenset[str],
    ) -> None:
        self._alive = sorted(alive, key=lambda pod: (pod.name, pod.id))
        self._recorded_pods = recorded_pods
        self._before = before
        self._prefix = prefix
        self._now = now
        self._thresholds = thresholds
        self._spared = spared
        self._ids = {pod.id for pod in alive}
        self._names = {pod.name for pod in alive}
        # The last one stands: what is needed outranks what is not.
        ranked = sorted(recorded_pods, key=lambda recorded: recorded.is_wanted)
        self._by_name = {recorded.name: recorded for recorded in ranked}
        self._by_id = {recorded.pod_id: recorded for recorded in ranked if recorded.pod_id}
        self._kept = {self._find_kept(recorded) for recorded in recorded_pods if recorded.is_wanted}
        self._step = 1 if before.at is None or now > before.at else 0
        self._doubts: dict[str, Doubt] = {}
        self._absences: dict[str, int] = {}

    def decide(self) -> Decision:
        ours = [pod for pod in self._alive if pod.name.startswith(self._prefix)]
        judged = [pod for pod in ours if pod.id not in self._kept and pod.name not in self._spared]
        found = [self._judge(pod) for pod in judged]
        gone = [recorded for recorded in self._recorded_pods if self._is_gone(recorded)]
        return Decision(
            terminations=tuple(each for each in found if each is not None),
            gone=tuple(gone),
            missing=tuple(
                recorded
                for recorded in self._recorded_pods
                if recorded.is_wanted and recorded.pod_id and recorded.pod_id not in self._ids
            ),
            counts=Counts(
                seen=len(self._alive),
                ours=len(ours),
                foreign=len(self._alive) - len(ours),
                unknown=sum(self._find_recorded(pod) is None for pod in ours),
            ),
            sightings=Sightings(at=self._now, doubts=self._doubts, absences=self._absences),
        )

    def _find_kept(self, recorded: RecordedPod) -> str | None:
        """Return the id of the pod that a needed record keeps: that on record, or the oldest."""
        if recorded.pod_id:
            return recorded.pod_id
        named = [pod for pod in self._alive if pod.name == recorded.name]
        oldest = min(named, key=_sort_by_age, default=None)
        return None if oldest is None else oldest.id

    def _find_recorded(self, pod: Pod) -> RecordedPod | None:
        return self._by_name.get(pod.name) or self._by_id.get(pod.id)

    def _judge(self, pod: Pod) -> Termination | None:
        """Say whether a pod that nobody keeps is terminated now."""
        recorded = self._find_recorded(pod)
        if recorded is None:
            reason = Reason.UNKNOWN
        elif recorded.is_wanted:
            reason = Reason.SECOND
        elif recorded.gone_at is not None:
            if recorded.gone_at >= self._now:
                return None  # It was there when the list was read, and is gone since.
            reason = Reason.RETURNED
        else:
            reason = Reason.ENDING if recorded.is_live else Reason.ENDED
        is_certain = recorded is not None and (
            not recorded.is_wanted or recorded.pod_id in self._ids
        )
        # A second pod whose first one is not there might be what a driver is about to adopt.
        if not is_certain and not self._is_beyond_doubt(pod):
            return None
        return Termination(pod=pod, reason=reason, recorded=recorded)

    def _is_beyond_doubt(self, pod: Pod) -> bool:
        before = self._before.doubts.get(pod.id)
        doubt = Doubt(since=self._now, strikes=1)
        if before is not None:
            doubt = Doubt(since=before.since, strikes=before.strikes + self._step)
        self._doubts[pod.id] = doubt
        # RunPod's clock may be wrong, and then our own says how old it is at least.
        born_at = min(pod.created_at or doubt.since, doubt.since)
        return doubt.strikes >= self._thresholds.strikes and not self._is_young(born_at)

    def _is_young(self, since: datetime) -> bool:
        return (self._now - since).total_seconds() < self._thresholds.young_seconds

    def _is_gone(self, recorded: RecordedPod) -> bool:
        """Count an absence; say whether it proves that a recorded pod is gone."""
        is_there = recorded.pod_id in self._ids or recorded.name in self._names
        # An order without an answer may become a pod, and a new pod may not be listed yet.
        is_awaited = recorded.is_wanted and recorded.pod_id is None
        if recorded.gone_at or is_there or is_awaited or self._is_young(recorded.ordered_at):
            return False
        key = f"{recorded.name}#{recorded.pod_id or ''}"
        before = self._before.absences.get(key)
        strikes = self._absences[key] = 1 if before is None else before + self._step
        return strikes >= self._thresholds.strikes and not recorded.is_wanted


def _rank(recorded: RecordedPod) -> tuple[str, int, bool, str]:
    return recorded.name, recorded.fence, recorded.is_wanted, recorded.pod_id or ""


def _sort_by_age(pod: Pod) -> tuple[bool, float, str]:
    return (
        pod.created_at is None,
        pod.created_at.timestamp() if pod.created_at else 0.0,
        pod.id,
    )
