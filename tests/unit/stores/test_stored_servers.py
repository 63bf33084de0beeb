"""Records of servers, and notes, as versions before wrote them: read, changed, written back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.servers import read_fields, store_server, write_fields
from fakes.stores import FakeRecordStore
from touchstone.core.holds import hold_server, list_holds, release_server
from touchstone.core.inventory import read_inventory
from touchstone.core.records.actions import add_action
from touchstone.core.records.notes import (
    BillingNote,
    Control,
    Cursor,
    Letters,
    Note,
    ReaperNote,
    RentalNote,
)
from touchstone.core.records.servers import FROM_HEARTBEATS, EnrolmentState, Server, StoredInventory
from touchstone.core.records.stored import RecordUnreadable
from touchstone_agent.protocol.messages import AttemptPhase, Refusal, SlotClass

NOW = datetime(2026, 11, 23, tzinfo=UTC)
STORED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "stored" / "servers.json").read_text()
)
"""What the code before the models wrote, by what had been done to the server."""
SERVERS = [name for name in STORED if not name.startswith("#")]
NOTES: dict[str, type[Note]] = {
    f"#{kind.NAME}": kind
    for kind in (Control, Cursor, Letters, RentalNote, ReaperNote, BillingNote)
}


@pytest.fixture
def records() -> FakeRecordStore:
    return FakeRecordStore()


def put(records: FakeRecordStore, name: str, **more: Any) -> dict[str, Any]:
    """Put a sample on record; return it as it is stored."""
    stored = STORED[name] | more
    store_server(records, stored)
    return read_fields(records, stored["server"])


def rest(stored: dict[str, Any], *changed: str) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name not in {*changed, "version"}}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_read_and_is_the_same_when_it_is_written(name: str) -> None:
    stored = rest(STORED[name])

    server = Server.load(stored)

    assert json.dumps(server.dump(), sort_keys=True) == json.dumps(stored, sort_keys=True)


@pytest.mark.parametrize("name", SERVERS)
def test_a_change_of_a_server_touches_nothing_else(records: FakeRecordStore, name: str) -> None:
    before = put(records, name, of_a_newer_version={"a": [1, 2.5, None]})
    server = before["server"]

    records.change_server(
        server, lambda found: found.change(actions=add_action(None, at=NOW, by="x", action="y"))
    )

    after = read_fields(records, server)
    assert after["actions"] == [{"at": NOW.isoformat(), "by": "x", "action": "y"}]
    assert rest(after, "actions") == rest(before, "actions")
    assert after["version"] == before["version"] + 1


@pytest.mark.parametrize("name", SERVERS)
def test_a_decision_for_no_change_writes_nothing(records: FakeRecordStore, name: str) -> None:
    before = put(records, name)

    records.change_server(before["server"], lambda _: None)
    records.change_server(before["server"], lambda found: found)

    assert read_fields(records, before["server"]) == before


def test_what_a_server_tells_is_read_from_its_sample() -> None:
    server = Server.load(STORED["with holds, asked to have an image"])

    assert [(gpu.name, gpu.memory_mib, gpu.shares) for gpu in server.gpus] == [
        ("NVIDIA L4", 23034, None),
        ("NVIDIA A100 MIG 1g.5gb", 4864, 2),
    ]
    assert [held.phase for held in read_inventory(server)] == [
        AttemptPhase.RUNNING,
        AttemptPhase.PREPARING,
    ]
    assert server.state is EnrolmentState.ENROLLED
    assert server.drained is not None
    assert (server.drained.by, server.drained.slots) == ("bob", 2)
    assert server.declared is not None
    assert (server.declared.vram_gib, server.declared.ram_gib) == (20, 30.5)
    assert {hold.key for hold in list_holds(server)} == set(STORED_HOLDS)


STORED_HOLDS = STORED["with holds, asked to have an image"]["holds"]


def test_a_hold_is_stored_as_it_was(records: FakeRecordStore) -> None:
    """Another version reads it from the same record a moment later."""
    put(records, "registered by its key")

    records.change_server(
        "lima",
        lambda found: hold_server(
            found,
            refusal=Refusal.DISK,
            reason="no disk",
            kind=SlotClass.TRAINING,
            image="t:1",
            now=NOW,
        ),
    )

    held = read_fields(records, "lima")["holds"]["disk"]
    assert held == STORED_HOLDS["disk"] | {"until": (NOW + timedelta(minutes=1)).isoformat()}


def test_what_another_version_put_into_a_part_survives_a_change_of_that_part(
    records: FakeRecordStore,
) -> None:
    enrolment = STORED["being removed"]["enrolment"] | {"ticket": 7}
    holds = {
        "disk": STORED_HOLDS["disk"] | {"colour": "red"},
        "moon": {"phase": "full"},
        "gpu": STORED_HOLDS["gpu"],
    }
    put(records, "being removed", enrolment=enrolment, holds=holds)

    def decide(found: Server) -> Server:
        assert found.enrolment is not None
        released = release_server(
            found, phase=AttemptPhase.RUNNING, kind=SlotClass.TRAINING, image="t", gpus=1
        )
        return (released or found).change(enrolment=found.enrolment.change(left=0))

    records.change_server("rio", decide)

    after = read_fields(records, "rio")
    assert after["enrolment"] == enrolment | {"left": 0}
    assert after["holds"] == {"disk": holds["disk"], "moon": holds["moon"]}


def test_a_misspelt_field_is_an_error_and_no_change() -> None:
    with pytest.raises(TypeError, match="no field drain"):
        Server(server="rio").change(drain=None)


# --- records that make no sense -------------------------------------------------------------------


ODD = [
    {"heartbeat_at": "soon"},
    {"heartbeat_at": 7},
    {"inventory": {"gpus": 7}},
    {"running": 7},
    {"declared": {"slots": "many"}},
    {"drained": 7},
    {"holds": 7},
    {"enrolment": {"state": "dancing"}},
    {"worked_on": {"token": "1"}},
    {"actions": [7]},
    {"staged_images": {"t:1": "soon"}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_server_whose_record_makes_no_sense_is_there_and_hides_no_other(
    records: FakeRecordStore, odd: dict[str, Any]
) -> None:
    before = put(records, "enrolled, online with GPUs and MIG")
    put(records, "registered by its key")
    write_fields(records, "rio", odd)
    field = next(iter(odd))

    good, bad = records.list_servers()

    assert good.read().server == "lima"
    assert (bad.name, bad.env, bad.public_key) == ("rio", "dev", before["public_key"])
    assert bad.server is None
    for read in (
        bad.read,
        lambda: records.find_server("rio"),
        lambda: records.change_server("rio", lambda found: found.change(env="prod")),
    ):
        with pytest.raises(RecordUnreadable, match=f"server rio: .*{field}"):
            read()
    assert rest(read_fields(records, "rio")) == rest(before) | odd


@pytest.mark.parametrize("odd", ODD[:4], ids=str)
def test_what_is_written_anew_need_not_have_made_sense(
    records: FakeRecordStore, odd: dict[str, Any]
) -> None:
    before = put(records, "drained", **odd)

    records.change_server(
        "rio",
        lambda found: found.change(
            heartbeat_at=NOW, epoch="e2", inventory=StoredInventory(slots=1), running=()
        ),
        renewed=FROM_HEARTBEATS,
    )

    told = {"heartbeat_at": NOW.isoformat(), "epoch": "e2", "inventory": {"slots": 1}}
    assert rest(read_fields(records, "rio")) == rest(before) | told | {"running": []}


# --- notes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in STORED if name.startswith("#")])
def test_a_note_is_read_changed_and_written_back(records: FakeRecordStore, name: str) -> None:
    before = put(records, name, of_a_newer_version=1)
    kind = NOTES[before["server"]]

    note = records.find_note(kind)
    records.change_note(kind, lambda _: None)
    assert read_fields(records, before["server"]) == before
    assert note.dump() == rest(before, "server", "of_a_newer_version")

    records.put_note(note)
    assert rest(read_fields(records, before["server"])) == rest(before)


CHANGES: list[tuple[Note, dict[str, Any], dict[str, Any]]] = [
    (Control(), {"is_paused": True, "at": NOW}, {"placements_paused": True, "at": NOW.isoformat()}),
    (Cursor(), {"after": 42}, {"after": 42}),
    (Letters(), {"queues": {"a": 1}}, {"queues": {"a": 1}}),
    (RentalNote(), {"is_told": True}, {"is_told": True}),
    (ReaperNote(), {"looked_at": NOW}, {"looked_at": NOW.isoformat()}),
    (BillingNote(), {"searches": 2}, {"searches": 2}),
]


@pytest.mark.parametrize(("note", "change", "stored"), CHANGES, ids=lambda v: type(v).__name__)
def test_a_note_that_nobody_wrote_has_its_defaults_and_is_begun_by_a_change(
    records: FakeRecordStore, note: Note, change: dict[str, Any], stored: dict[str, Any]
) -> None:
    kind, key = type(note), f"#{note.NAME}"
    assert records.find_note(kind) == note
    records.change_note(kind, lambda _: None)
    assert read_fields(records, key) == {}

    changed = records.change_note(kind, lambda found: found.change(**change))

    assert changed == records.find_note(kind)
    assert rest(read_fields(records, key), "server") == stored
    assert records.list_servers() == []


def test_a_note_that_makes_no_sense_is_not_taken_for_none(records: FakeRecordStore) -> None:
    store_server(records, {"server": "#control", "placements_paused": "perhaps"})

    with pytest.raises(RecordUnreadable, match="control record: placements_paused"):
        records.find_note(Control)
    with pytest.raises(RecordUnreadable):
        records.change_note(Control, lambda found: found.change(is_paused=False))
    assert read_fields(records, "#control")["placements_paused"] == "perhaps"


def test_a_note_is_written_whatever_stood_there(records: FakeRecordStore) -> None:
    store_server(records, {"server": "#rental", "checked_at": "soon", "block": "x"})

    records.put_note(RentalNote(checked_at=NOW))

    assert records.find_note(RentalNote) == RentalNote(checked_at=NOW, block="x")
