"""RunPod as one more resource of placement: what it has, and whether it takes anything now."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from touchstone.core.eligibility import Capability, Resource, Running
from touchstone.core.pods import Balance
from touchstone.core.pools import RUNPOD_POOL, RUNPOD_WHAT
from touchstone.core.records.notes import RentalNote
from touchstone.core.schedule import Platform
from touchstone.hooks.mail import mail_admins
from touchstone.hooks.runpod.hook import RunPodHook
from touchstone.services.pods.facts import RunPodFacts, find_hook, read_facts
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)

BALANCE_SECONDS: Final = 120.0
"""Between two questions for the balance, which only GraphQL answers."""
STALE: Final = timedelta(minutes=3)
"""Older facts count as none: the loop that asks RunPod has stopped."""

_ANY: Final = float("inf")


class Pools(Protocol):
    """What this needs of Airflow's pools."""

    def create_pool(self, name: str, slots: int, description: str) -> bool:
        """Create a pool; return whether it was missing."""


class Notes(Protocol):
    """Where facts are written down for others to show."""

    def find_note(self, kind: type[RentalNote]) -> RentalNote:
        """Return the note; its defaults if there is none."""

    def put_note(self, note: RentalNote) -> None:
        """Write the note."""


class RunPodWatcher:
    """
    Asks RunPod from time to time, and tells placement.

    An installation without a RunPod connection simply has no such resource; one that gets a
    connection has it from the next look on, with a pool of its own.

    :param settings: How pods are rented.
    :param pools: Airflow's pools.
    :param notes: Where the facts are written down for pages and commands.
    :param clock: The time, UTC.
    :param find: Finds the account.
    :param warn: Writes to the admins: a subject and a text.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        pools: Pools,
        notes: Notes,
        clock: Callable[[], datetime],
        find: Callable[..., RunPodHook | None] = find_hook,
        warn: Callable[[str, str], None] | None = None,
    ) -> None:
        self._settings = settings.runpod
        self._pools = pools
        self._notes = notes
        self._clock = clock
        self._find = find
        self._warn = warn or partial(mail_admins, settings)
        self._lock = threading.Lock()
        self._facts: RunPodFacts | None = None
        self._balance: Balance | None = None
        self._balance_at: datetime | None = None
        self._is_low = False
        self._is_told = False

    @property
    def facts(self) -> RunPodFacts | None:
        """Return what was seen last; ``None`` without a RunPod connection."""
        with self._lock:
            return self._facts

    def refresh(self) -> None:
        """Look again; takes seconds, and raises nothing that RunPod has done."""
        hook = self._find(self._settings)
        facts = None
        if hook is not None:
            self._read_balance(hook)
            facts = read_facts(hook, self._settings, balance=self._balance, now=self._clock())
            # Without slots: that money may be spent is for an admin to say.
            self._pools.create_pool(RUNPOD_POOL, 0, RUNPOD_WHAT)
        with self._lock:
            self._facts = facts
        self._notes.put_note(self._describe(facts))

    def _describe(self, facts: RunPodFacts | None) -> RentalNote:
        balance = facts and facts.balance
        return RentalNote(
            is_connected=facts is not None,
            balance_usd=balance.usd if balance else None,
            spend_per_hour=balance.spend_per_hour if balance else None,
            is_low=bool(balance) and self._is_low,
            is_told=self._is_told,
            block=facts.block if facts else None,
            checked_at=facts.at if facts else self._clock(),
        )

    def _read_balance(self, hook: RunPodHook) -> None:
        now = self._clock()
        if self._balance_at is not None and now - self._balance_at < timedelta(
            seconds=BALANCE_SECONDS
        ):
            return
        self._balance_at = now
        try:
            self._balance = hook.get_balance()
        except TouchstoneError as error:
            log.warning("RunPod's balance is not known: %s", error)
            return
        is_low = self._balance.usd < hook.balance_warning
        if is_low and not self._is_low:
            log.warning("RunPod's balance is low: $%.2f", self._balance.usd)
        self._is_low = is_low
        self._is_told = is_low and (self._is_told or self._warn_of_balance(self._balance, hook))

    def _warn_of_balance(self, balance: Balance, hook: RunPodHook) -> bool:
        """Write to the admins, once for all dispatchers; return whether that is done."""
        subject = f"RunPod's balance is low: ${balance.usd:.2f}"
        text = (
            f"RunPod's balance is ${balance.usd:.2f}, which is under ${hook.balance_warning:.2f}. "
            f"What runs costs ${balance.spend_per_hour:.2f} per hour. Without money for an hour "
            "nothing more is rented: what may run on-prem waits for a server, the rest waits."
        )
        try:
            if not self._notes.find_note(RentalNote).is_told:
                self._warn(subject, text)
        except TouchstoneError as error:
            log.warning("%s; trying again", error)
            return False
        return True

    def build_resource(
        self, *, slots: int, free: int, running: Iterable[Running], takes_validations: bool
    ) -> Resource | None:
        """
        Return RunPod as placement sees it; ``None`` if there is none.

        :param slots: Slots of its pool.
        :param free: How many of them hold nothing.
        :param running: What holds the others.
        :param takes_validations: Whether validations may go there as well as trainings.
        """
        facts = self.facts
        if facts is None:
            return None
        found = Resource(
            name=RUNPOD_POOL,
            platform=Platform.RUNPOD,
            slots=slots,
            free=free,
            kinds=frozenset(SlotClass) if takes_validations else frozenset({SlotClass.TRAINING}),
            # What a GPU must be like the market itself looks after.
            capability=Capability(cuda=True, vram_gib=_ANY, ram_gib=_ANY),
            block=facts.block,
            running=tuple(running),
            market=facts.market,
        )
        if self._clock() - facts.at > STALE:
            return replace(found, block="it was not asked for a while")
        return found
