"""What a dispatcher publishes for plans: one server, which is called rio, and its durations."""

from __future__ import annotations

from datetime import datetime

from fakes.servers import store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.durations import Duration, DurationKey
from touchstone.core.eligibility import Capability, Resource
from touchstone.core.outlook import OUTLOOK_KEY, build_outlook
from touchstone.core.placement import Snapshot
from touchstone.settings import Settings
from touchstone_agent.protocol.messages import SlotClass


def join_rio(records: FakeRecordStore) -> None:
    inventory = {"slots": 2, "memory_mib": 16 * 1024, "gpus": []}
    store_server(records, {"server": "rio", "inventory": inventory})


def publish_outlook(
    objects: FakeObjectStore, settings: Settings, *others: Resource, at: datetime, free: int = 2
) -> None:
    rio = Resource(name="rio", slots=2, free=free, capability=Capability(ram_gib=16))
    hour = Duration(p50_seconds=3600, p90_seconds=7200)
    outlook = build_outlook(
        Snapshot(now=at, resources=[rio, *others]),
        stretch=1.0,
        durations=[(DurationKey(kind=SlotClass.TRAINING), hour)],
    )
    objects.put(settings.content_bucket, OUTLOOK_KEY, outlook.model_dump_json().encode())
