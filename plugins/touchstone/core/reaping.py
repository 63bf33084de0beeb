"""
Which pods of an account are nobody's any more, and which are proven gone. Pure.

Whoever asks has read all pods first and then, not before, what is on record of them: a pod is
ordered only after that is on record, so one without a record has none. What looks wrong but might
be about to become right is only remembered, and acted on when the next list shows it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from touchstone.core.pods import Pod, PodStatus


@dataclass(frozen=True, kw_only=True)
class Claim:
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
class Graces:
    """
    How long doubts are given the benefit.

    :param young_seconds: A pod may be in a list before it is on record as it should be, and on
        record before it is in a list; after so long that is no excuse.
    :param strikes: Lists in a row that must agree.
    """

    young_seconds: float = 120
    strikes: int = 2


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """
    A pod that looked like nobody's.

    :param since: Since when.
    :param strikes: In how many lists in a row.
    """

    since: datetime
    strikes: int


@dataclass(frozen=True, kw_only=True)
class Sightings:
    """
    What is remembered from one list to the next.

    :param at: When the last list was read; the same list twice proves nothing more.
    :param doubts: By pod id.
    :param absences: By a claim's name and pod id, in how many lists in a row that was missing.
    """

    at: datetime | None = None
    doubts: Mapping[str, Doubt] = field(default_factory=dict)
    absences: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "at": self.at and self.at.isoformat(),
            "doubts": {
                pod_id: {"since": doubt.since.isoformat(), "strikes": doubt.strikes}
                for pod_id, doubt in self.doubts.items()
            },
            "absences": dict(self.absences),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` was given; of an empty mapping, that nothing was seen."""
        at = value.get("at")
        return cls(
            at=datetime.fromisoformat(at) if at else None,
            doubts={
                pod_id: Doubt(
                    since=datetime.fromisoformat(each["since"]), strikes=int(each["strikes"])
                )
                for pod_id, each in value.get("doubts", {}).items()
            },
            absences={name: int(each) for name, each in value.get("absences", {}).items()},
        )


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

    :param claim: What is on record of its name; ``None`` if nothing is.
    """

    pod: Pod
    reason: Reason
    claim: Claim | None = None


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
    :param gone: Claims whose pods are proven gone and not on record as such.
    :param missing: Claims whose attempts need a pod that is not in the list; to be told, for their
        own drivers decide.
    :param sightings: To be given to the next decision.
    :param has_failed: The list is no list: it is empty, and pods should be there. Nothing was
        decided, nothing is remembered.
    """

    sightings: Sightings
    terminations: tuple[Termination, ...] = ()
    gone: tuple[Claim, ...] = ()
    missing: tuple[Claim, ...] = ()
    counts: Counts = field(default_factory=Counts)
    has_failed: bool = False


def decide(
    pods: Iterable[Pod],
    claims: Iterable[Claim],
    sightings: Sightings,
    *,
    prefix: str,
    now: datetime,
    graces: Graces | None = None,
) -> Decision:
    """
    Return what to do about all pods of an account.

    Pods of another prefix are never touched, nor is the pod of an attempt that needs it.

    :param pods: One complete list.
    :param claims: What is on record, read after the list; also of what is gone, as far as known.
    :param sightings: Those of the decision before.
    :param prefix: The environment's, with the ``-`` that ends it.
    :param now: When the list was read.
    :raises ValueError: If the prefix is no environment's: everything might begin with it.
    """
    if not prefix.strip("-") or not prefix.endswith("-"):
        raise ValueError(f"{prefix!r} is not the prefix of an environment")
    listed = list(pods)
    known = sorted(claims, key=_rank)
    missing = tuple(claim for claim in known if claim.is_wanted and claim.pod_id)
    if not listed and missing:
        return Decision(sightings=sightings, missing=missing, has_failed=True)
    alive = [pod for pod in listed if pod.status is not PodStatus.TERMINATED]
    return _Reaper(alive, known, sightings, prefix, now, graces or Graces()).decide()


class _Reaper:
    """One decision: what all its parts look at."""

    def __init__(
        self,
        alive: list[Pod],
        claims: list[Claim],
        before: Sightings,
        prefix: str,
        now: datetime,
        graces: Graces,
    ) -> None:
        self._alive = sorted(alive, key=lambda pod: (pod.name, pod.id))
        self._claims = claims
        self._before = before
        self._prefix = prefix
        self._now = now
        self._graces = graces
        self._ids = {pod.id for pod in alive}
        self._names = {pod.name for pod in alive}
        # The last one stands: what is needed outranks what is not.
        ranked = sorted(claims, key=lambda claim: claim.is_wanted)
        self._by_name = {claim.name: claim for claim in ranked}
        self._by_id = {claim.pod_id: claim for claim in ranked if claim.pod_id}
        self._kept = {self._find_kept(claim) for claim in claims if claim.is_wanted}
        self._step = 1 if before.at is None or now > before.at else 0
        self._doubts: dict[str, Doubt] = {}
        self._absences: dict[str, int] = {}

    def decide(self) -> Decision:
        ours = [pod for pod in self._alive if pod.name.startswith(self._prefix)]
        found = [self._judge(pod) for pod in ours if pod.id not in self._kept]
        gone = [claim for claim in self._claims if self._is_gone(claim)]
        return Decision(
            terminations=tuple(each for each in found if each is not None),
            gone=tuple(gone),
            missing=tuple(
                claim
                for claim in self._claims
                if claim.is_wanted and claim.pod_id and claim.pod_id not in self._ids
            ),
            counts=Counts(
                seen=len(self._alive),
                ours=len(ours),
                foreign=len(self._alive) - len(ours),
                unknown=sum(self._find_claim(pod) is None for pod in ours),
            ),
            sightings=Sightings(at=self._now, doubts=self._doubts, absences=self._absences),
        )

    def _find_kept(self, claim: Claim) -> str | None:
        """Return the id of the pod that a needed claim keeps: that on record, or the oldest."""
        if claim.pod_id:
            return claim.pod_id
        named = [pod for pod in self._alive if pod.name == claim.name]
        oldest = min(named, key=_sort_by_age, default=None)
        return None if oldest is None else oldest.id

    def _find_claim(self, pod: Pod) -> Claim | None:
        return self._by_name.get(pod.name) or self._by_id.get(pod.id)

    def _judge(self, pod: Pod) -> Termination | None:
        """Say whether a pod that nobody keeps is terminated now."""
        claim = self._find_claim(pod)
        if claim is None:
            reason = Reason.UNKNOWN
        elif claim.is_wanted:
            reason = Reason.SECOND
        elif claim.gone_at is not None:
            if claim.gone_at >= self._now:
                return None  # It was there when the list was read, and is gone since.
            reason = Reason.RETURNED
        else:
            reason = Reason.ENDING if claim.is_live else Reason.ENDED
        is_certain = claim is not None and (not claim.is_wanted or claim.pod_id in self._ids)
        # A second pod whose first one is not there might be what a driver is about to adopt.
        if not is_certain and not self._is_beyond_doubt(pod):
            return None
        return Termination(pod=pod, reason=reason, claim=claim)

    def _is_beyond_doubt(self, pod: Pod) -> bool:
        before = self._before.doubts.get(pod.id)
        doubt = Doubt(since=self._now, strikes=1)
        if before is not None:
            doubt = Doubt(since=before.since, strikes=before.strikes + self._step)
        self._doubts[pod.id] = doubt
        # RunPod's clock may be wrong, and then our own says how old it is at least.
        born_at = min(pod.created_at or doubt.since, doubt.since)
        return doubt.strikes >= self._graces.strikes and not self._is_young(born_at)

    def _is_young(self, since: datetime) -> bool:
        return (self._now - since).total_seconds() < self._graces.young_seconds

    def _is_gone(self, claim: Claim) -> bool:
        """Count an absence; say whether it proves that the pod of a claim is gone."""
        is_there = claim.pod_id in self._ids or claim.name in self._names
        # An order without an answer may become a pod, and a new pod may not be listed yet.
        is_awaited = claim.is_wanted and claim.pod_id is None
        if claim.gone_at or is_there or is_awaited or self._is_young(claim.ordered_at):
            return False
        key = f"{claim.name}#{claim.pod_id or ''}"
        before = self._before.absences.get(key)
        strikes = self._absences[key] = 1 if before is None else before + self._step
        return strikes >= self._graces.strikes and not claim.is_wanted


def _rank(claim: Claim) -> tuple[str, int, bool, str]:
    return claim.name, claim.fence, claim.is_wanted, claim.pod_id or ""


def _sort_by_age(pod: Pod) -> tuple[bool, float, str]:
    return (
        pod.created_at is None,
        pod.created_at.timestamp() if pod.created_at else 0.0,
        pod.id,
    )
