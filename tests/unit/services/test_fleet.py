"""The fleet file brought to pools and records; servers drained and attached; pause."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.pools import FakePools
from fakes.servers import read_fields, store_server, write_fields
from touchstone.core.fleet import parse_fleet
from touchstone.core.holds import hold_blind, hold_server
from touchstone.core.records.actions import MAX_ACTIONS
from touchstone.core.records.notes import Letters
from touchstone.core.records.stored import RecordUnreadable
from touchstone.services.fleet import (
    FleetKeeper,
    UnknownServer,
    find_fleet_file,
    load_fleet,
    read_control,
    set_paused,
)
from touchstone.settings import RunPodSettings, Settings
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import Refusal, SlotClass

GPU = {"name": "RTX 3090", "memory_mib": 24 * 1024}
OWN = {"touchstone_queue": 0, "touchstone_finish": -1, "touchstone_deck": -1, "runpod": 0}
FILE = """
schema_version = 1
[servers.rio]
description = "two GPUs"
slots = 2
validation_slots = 3
capabilities = { cuda = true, vram_gib = 12 }
"""


@pytest.fixture
def pools():
    return FakePools()


@pytest.fixture
def keeper(records, pools, settings, clock):
    return FleetKeeper(records=records, pools=pools, settings=settings, clock=clock)


@pytest.fixture
def enrol(records, clock):
    """Return a function that makes the record of a server whose agent was heard just now."""

    def make(name="rio", gpus=2, slots=2, **fields):
        inventory = {
            "slots": slots,
            "validation_slots": 1,
            "memory_mib": 64 * 1024,
            "gpus": [GPU] * gpus,
        }
        store_server(
            records,
            {"server": name, "heartbeat_at": clock().isoformat(), "inventory": inventory} | fields,
        )

    return make


@pytest.fixture
def rio(enrol, keeper, records):
    """Return a function that reads the record of ``rio``, enrolled and applied."""
    enrol()
    keeper.apply_fleet(parse_fleet(FILE), by="chief")
    return lambda: read_fields(records, "rio")


def apply(keeper, text=FILE):
    return keeper.apply_fleet(parse_fleet(text), by="chief")


# --- the file ------------------------------------------------------------------------------


def test_missing_pools_are_made_with_the_slots_of_the_file(keeper, pools, enrol):
    enrol()

    report = apply(keeper)

    assert pools.slots() == {**OWN, "rio": 2, "rio_validation": 3}
    assert set(report.created) == set(pools.slots())
    assert "two GPUs" in pools.pools["rio"].description


def test_applying_twice_changes_nothing_more(keeper, pools, enrol, records):
    enrol()
    apply(keeper)
    before = records.list_servers()

    report = apply(keeper)

    assert (report.created, report.declared, report.differences) == ((), (), ())
    assert records.list_servers() == before
    assert pools.changes == []


def test_an_admins_slots_are_kept_and_named(keeper, pools, enrol):
    enrol()
    pools.edit("rio", slots=1)
    pools.edit("runpod", slots=3)

    report = apply(keeper)

    assert pools.slots()["rio"] == 1
    assert pools.slots()["runpod"] == 3
    assert report.differences == (
        "rio: the pool has 1 slot, the file says 2: kept",
        "runpod: the pool has 3 slots, the file says 0: kept",
    )


def test_a_server_without_slots_in_the_file_begins_with_what_its_agent_takes(keeper, pools, enrol):
    enrol("cpu", gpus=0, slots=5)
    enrol("gpu", gpus=2, slots=5)

    report = apply(keeper, "schema_version = 1\n[servers.cpu]\n[servers.gpu]")

    assert pools.slots()["cpu"] == 5
    assert pools.slots()["gpu"] == 2, "never more than it has GPUs"
    pools.edit("cpu", slots=4)
    report = apply(keeper, "schema_version = 1\n[servers.cpu]\n[servers.gpu]")
    assert report.differences == ()


def test_a_server_that_was_never_heard_of_gets_its_pools_with_its_first_word(keeper, pools, enrol):
    """It got one slot for ever, because nobody knew yet how many it takes."""
    text = FILE.replace("slots = 2\n", "", 1)
    enrol(inventory=None, heartbeat_at=None)
    assert "rio" not in apply(keeper, text).created

    write_fields(keeper._records, "rio", {"inventory": {"slots": 2, "gpus": [GPU] * 2}})

    assert "rio" in apply(keeper, text).created
    assert pools.read_pools()["rio"].slots == 2


def test_records_learn_what_the_file_says_and_who_said_it(keeper, enrol, records, clock):
    enrol()
    apply(keeper)

    record = read_fields(records, "rio")
    assert record["declared"] == {
        "description": "two GPUs",
        "priority": 0,
        "slots": 2,
        "validation_slots": 3,
        "cuda": True,
        "vram_gib": 12,
        "ram_gib": None,
        "allow": [],
        "deny": [],
        "gpu_price_per_hour": None,
    }
    assert record["actions"] == [
        {"at": clock().isoformat(), "by": "chief", "action": "fleet apply"}
    ]
    assert record["inventory"]["slots"] == 2, "what others wrote stays"


def test_checking_changes_nothing(keeper, pools, enrol, records):
    enrol()
    before = records.list_servers()

    report = keeper.check_fleet(parse_fleet(FILE))

    assert not report.is_applied
    assert "rio" in report.created
    assert report.declared == ("rio",)
    assert pools.slots() == {}
    assert records.list_servers() == before


def test_servers_that_only_one_side_knows_are_named_and_get_no_pools(keeper, pools, enrol):
    enrol("old")

    report = apply(keeper)

    assert report.not_enrolled == ("rio",)
    assert report.not_in_file == ("old",)
    assert pools.slots() == OWN


def test_a_server_of_another_environment_is_left_alone(keeper, pools, enrol):
    enrol()

    report = apply(keeper, 'schema_version = 1\n[servers.rio]\nenv = "prod"\n')

    assert report.elsewhere == ("rio",)
    assert (report.not_in_file, report.differences) == ((), ())
    assert pools.slots() == OWN


def test_a_server_that_moved_to_another_environment_and_is_online_here_is_named(keeper, pools, rio):
    report = apply(keeper, 'schema_version = 1\n[servers.rio]\nenv = "prod"\n')

    assert report.differences == (
        "rio: belongs to environment prod, but has slots here; `touchstone fleet drain rio`",
    )
    assert pools.slots()["rio"] == 2
    keeper.drain_server("rio", by="chief")
    assert apply(keeper, 'schema_version = 1\n[servers.rio]\nenv = "prod"\n').differences == ()


def test_more_slots_than_gpus_are_refused_and_the_rest_is_done(keeper, pools, enrol, records):
    enrol("rio", gpus=1)
    enrol("cpu", gpus=0)

    report = apply(keeper, FILE + "[servers.cpu]\nslots = 8\n")

    assert report.refused == ("servers.rio.slots: 2, but rio has 1 GPU: at most 1",)
    assert report.declared == ("cpu",)
    assert "rio" not in pools.slots()
    assert pools.slots()["cpu"] == 8
    assert records.find_server("rio").declared is None


def test_a_server_may_have_as_many_slots_as_its_gpus_have_shares(keeper, pools, enrol, records):
    enrol("rio", gpus=1, slots=9)
    share(records, 2)

    assert apply(keeper).refused == ()
    assert pools.slots()["rio"] == 2
    report = apply(keeper, FILE.replace("slots = 2", "slots = 3", 1))
    assert report.refused == ("servers.rio.slots: 3, but rio has 1 GPU with 2 shares: at most 2",)


def test_a_server_whose_gpus_are_shared_begins_with_a_slot_for_each_share(
    keeper, pools, enrol, records
):
    enrol(gpus=2, slots=9)
    share(records, 2)

    apply(keeper, "schema_version = 1\n[servers.rio]")

    assert pools.slots()["rio"] == 4


def share(records, shares):
    """Let each GPU of a server be shared by so many trainings."""
    gpu = {**GPU, "shares": shares, "driver": "550.54.14"}
    inventory = read_fields(records, "rio")["inventory"]
    gpus = [gpu] * len(inventory["gpus"])
    write_fields(records, "rio", {"inventory": {**inventory, "gpus": gpus}})


def test_a_gpu_that_is_declared_not_to_be_used_is_no_limit(keeper, pools, enrol):
    enrol(gpus=1)

    apply(keeper, "schema_version = 1\n[servers.rio]\nslots = 4\ncapabilities = { cuda = false }")

    assert pools.slots()["rio"] == 4


def test_cuda_on_a_machine_without_gpus_is_for_cpu_tasks_only(keeper, enrol):
    enrol(gpus=0)

    report = apply(keeper)

    assert report.refused == ()
    assert report.differences == (
        "rio: declared with CUDA, but no GPU was detected: used for CPU tasks only",
    )
    [row] = keeper.build_status()["servers"]
    assert row["capability"] == {
        "cuda": False,
        "vram_gib": 0,
        "ram_gib": 64,
        "free_disk_gib": None,
    }


def test_a_deleted_pool_is_told_of_and_comes_back_by_applying(keeper, pools, rio):
    del pools.pools["rio"]
    [row] = keeper.build_status()["servers"]
    assert row["slots"] is None
    assert row["differences"] == ["rio: the pool is missing, so nothing starts there"]

    apply(keeper)

    assert pools.slots()["rio"] == 2


def test_a_pool_deleted_while_its_server_is_drained_comes_back_without_slots(keeper, pools, rio):
    keeper.drain_server("rio", by="chief")
    del pools.pools["rio"]

    apply(keeper)

    assert pools.slots()["rio"] == 0


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("touchstone_queue", {"slots": 5}, "touchstone_queue: the pool has 5 slots and must have"),
        ("touchstone_deck", {"slots": 1}, "must have unlimited slots"),
        ("rio", {"include_deferred": False}, "does not count what is deferred"),
        ("rio", {"slots": -1}, "rio: pool: unlimited, but rio has 2 GPUs"),
        ("rio", {"slots": 3}, "rio: pool: 3, but rio has 2 GPUs: at most 2"),
    ],
)
def test_a_pool_that_would_let_too_much_start_is_told_of(keeper, pools, rio, name, fields, said):
    pools.edit(name, **fields)

    status = keeper.build_status()

    lines = status["differences"] + status["servers"][0]["differences"]
    assert any(said in line for line in lines), lines


def test_more_slots_than_the_agent_takes_are_told_of(keeper, pools, enrol):
    enrol(gpus=0, slots=2)
    report = apply(keeper, "schema_version = 1\n[servers.rio]\nslots = 2")
    assert report.differences == ()
    pools.edit("rio", slots=4)

    [row] = keeper.build_status()["servers"]

    assert "rio: the pool has 4 slots, but its agent takes 2 at a time" in row["differences"]


def test_weights_are_kept_for_every_dispatcher(keeper, records, enrol):
    assert read_control(records).weights == {}
    apply(keeper, "schema_version = 1\n[weights]\nann = 0.5")
    assert read_control(records).weights == {"ann": 0.5}

    apply(keeper, "schema_version = 1")

    assert read_control(records).weights == {}


# --- drain and attach ------------------------------------------------------------------------


def test_a_drained_server_has_no_slots_and_gets_back_what_it_had(keeper, pools, rio, clock):
    pools.edit("rio", running=0, deferred=2)

    drained = keeper.drain_server("rio", by="chief")

    assert drained["in_use"] == 2
    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (0, 0)
    assert rio()["drained"] == {
        "slots": 2,
        "validation_slots": 3,
        "by": "chief",
        "at": clock().isoformat(),
    }
    assert keeper.attach_server("rio", by="chief") == {
        "server": "rio",
        "slots": 2,
        "validation_slots": 3,
    }
    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (2, 3)
    assert rio()["drained"] is None


def test_a_second_drain_keeps_the_first_numbers_and_the_first_name(keeper, rio):
    keeper.drain_server("rio", by="chief")
    before = rio()

    keeper.drain_server("rio", by="other")

    assert rio() == before


@pytest.mark.parametrize("changes", [0, 1])
def test_a_drain_that_died_half_way_is_finished_by_the_next(keeper, pools, rio, changes):
    pools.dies_at = changes
    with pytest.raises(ConnectionError):
        keeper.drain_server("rio", by="chief")
    pools.dies_at = None

    keeper.drain_server("rio", by="chief")

    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (0, 0)
    assert (rio()["drained"]["slots"], rio()["drained"]["validation_slots"]) == (2, 3)


@pytest.mark.parametrize("changes", [0, 1])
def test_an_attach_that_died_half_way_is_finished_by_the_next(keeper, pools, rio, changes):
    keeper.drain_server("rio", by="chief")
    pools.changes.clear()
    pools.dies_at = changes
    with pytest.raises(ConnectionError):
        keeper.attach_server("rio", by="chief")
    pools.dies_at = None

    keeper.attach_server("rio", by="chief")

    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (2, 3)
    assert rio()["drained"] is None


def test_slots_that_an_admin_gave_since_the_drain_are_kept(keeper, pools, rio):
    keeper.drain_server("rio", by="chief")
    pools.edit("rio", slots=1)
    [row] = keeper.build_status()["servers"]
    assert row["differences"] == ["rio: drained by chief, but the pool has 1 slot again"]

    assert keeper.attach_server("rio", by="chief")["slots"] == 1

    assert pools.slots()["rio"] == 1
    assert pools.slots()["rio_validation"] == 3


def test_a_drain_after_an_admin_gave_slots_back_remembers_those(keeper, pools, rio):
    keeper.drain_server("rio", by="chief")
    pools.edit("rio", slots=1)

    keeper.drain_server("rio", by="chief")

    assert pools.slots()["rio"] == 0
    assert (rio()["drained"]["slots"], rio()["drained"]["validation_slots"]) == (1, 3)


@pytest.fixture
def validator(enrol, keeper):
    """A server whose agent was set up without slots for trainings, with its pools."""
    enrol("local", gpus=0, slots=0)
    apply(keeper, "schema_version = 1\n[servers.local]")


def test_a_server_for_validations_alone_begins_so_and_is_no_difference(keeper, pools, validator):
    assert (pools.slots()["local"], pools.slots()["local_validation"]) == (0, 1)
    [row] = keeper.build_status()["servers"]
    assert (row["drained"], row["differences"]) == (None, [])


def test_a_server_for_validations_alone_is_drained_and_attached(keeper, pools, validator):
    keeper.drain_server("local", by="chief")
    assert pools.slots()["local_validation"] == 0

    keeper.attach_server("local", by="chief")

    assert (pools.slots()["local"], pools.slots()["local_validation"]) == (0, 1)


def test_a_server_for_validations_alone_gets_no_trainings_by_a_number(keeper, pools, validator):
    with pytest.raises(ConfigurationError, match="slots: 2, but the agent of local takes no"):
        keeper.attach_server("local", slots=2, by="chief")
    pools.set_slots("local_validation", 0)
    with pytest.raises(ConfigurationError, match="set the slots of local_validation"):
        keeper.attach_server("local", by="chief")


def test_attaching_with_a_number_sets_that_many_even_if_nothing_was_drained(keeper, pools, rio):
    keeper.attach_server("rio", slots=1, by="chief")
    assert pools.slots()["rio"] == 1
    assert rio()["actions"][-1]["action"] == "attach: 1 slot and 3 for validations"

    keeper.drain_server("rio", by="chief")
    keeper.attach_server("rio", slots=2, by="chief")
    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (2, 3)


def test_attaching_what_is_not_drained_needs_a_number(keeper, rio):
    with pytest.raises(ConfigurationError, match=r"^slots: rio is not drained and has 2 slots"):
        keeper.attach_server("rio", by="chief")


def test_attaching_what_had_nothing_needs_a_number(keeper, pools, rio):
    pools.edit("rio", slots=0)
    with pytest.raises(ConfigurationError, match=r"^slots: nothing says .*file says 2"):
        keeper.attach_server("rio", by="chief")
    keeper.drain_server("rio", by="chief")
    with pytest.raises(ConfigurationError, match=r"^slots: nothing says"):
        keeper.attach_server("rio", by="chief")


@pytest.mark.parametrize("slots", [0, -1, -5])
def test_attaching_with_no_slots_is_refused(keeper, rio, slots):
    with pytest.raises(ConfigurationError, match=r"^slots: .*fleet drain rio"):
        keeper.attach_server("rio", slots=slots, by="chief")


def test_attaching_more_than_there_are_gpus_is_refused(keeper, pools, rio):
    with pytest.raises(ConfigurationError, match=r"^slots: 3, but rio has 2 GPUs: at most 2$"):
        keeper.attach_server("rio", slots=3, by="chief")
    assert pools.changes == []


def test_going_back_to_more_than_there_are_gpus_by_now_is_refused(keeper, pools, rio, records):
    keeper.drain_server("rio", by="chief")
    inventory = read_fields(records, "rio")["inventory"]
    write_fields(records, "rio", {"inventory": {**inventory, "gpus": [GPU]}})

    with pytest.raises(ConfigurationError, match="rio has 1 GPU: at most 1; give --slots"):
        keeper.attach_server("rio", by="chief")

    assert pools.slots()["rio"] == 0


@pytest.mark.parametrize("name", ["rip", "", "#control", "Rio", "../rio"])
def test_an_unknown_server_is_answered_with_the_known_ones(keeper, records, rio, name):
    set_paused(records, paused=True, by="chief", reason=None, now=keeper._clock())
    for act in (keeper.drain_server, keeper.attach_server):
        with pytest.raises(UnknownServer, match=r"enrolled are: rio$"):
            act(name, by="chief")


def test_a_server_without_a_pool_cannot_be_drained_and_is_told_why(keeper, enrol):
    enrol("new")
    with pytest.raises(ConfigurationError, match="new has no pool new; name the server"):
        keeper.drain_server("new", by="chief")


def test_who_did_what_is_kept_and_does_not_grow_for_ever(keeper, rio, clock, records):
    old = {"at": clock().isoformat(), "by": "chief", "action": "long ago"}
    write_fields(records, "rio", {"actions": [old] * MAX_ACTIONS})
    clock.advance(seconds=1)
    keeper.drain_server("rio", by="chief")
    keeper.attach_server("rio", by="other")

    actions = rio()["actions"]
    assert len(actions) == MAX_ACTIONS
    assert actions[-2:] == [
        {
            "at": clock().isoformat(),
            "by": "chief",
            "action": "drain: had 2 slots and 3 for validations",
        },
        {
            "at": clock().isoformat(),
            "by": "other",
            "action": "attach: 2 slots and 3 for validations",
        },
    ]


# --- how it is -----------------------------------------------------------------------------


def test_the_status_tells_of_each_server_how_it_is(keeper, pools, rio, clock):
    pools.edit("rio", running=1, deferred=1)
    pools.edit("touchstone_queue", scheduled=7)
    clock.advance(seconds=20)

    status = keeper.build_status()

    [row] = status["servers"]
    assert row["is_alive"]
    assert row["heartbeat_age_seconds"] == 20
    assert (row["slots"], row["in_use"]) == (2, 2)
    assert (row["validation_slots"], row["validation_in_use"]) == (3, 0)
    assert row["capability"] == {
        "cuda": True,
        "vram_gib": 12,
        "ram_gib": 64,
        "free_disk_gib": None,
    }
    assert row["gpus"] == ["RTX 3090", "RTX 3090"]
    assert (row["gpu_shares"], row["gpu_driver"]) == (1, None)
    assert row["differences"] == []
    assert status["waiting"] == 7
    assert status["placements"]["paused"] is False


def test_the_status_tells_the_driver_and_the_shares_of_gpus(keeper, rio, records):
    share(records, 3)

    [row] = keeper.build_status()["servers"]

    assert (row["gpu_shares"], row["gpu_driver"]) == (3, "550.54.14")
    assert row["capability"]["vram_gib"] == 8


def test_a_server_is_alive_as_long_as_the_settings_say(keeper, rio, clock, settings):
    clock.advance(seconds=settings.silence_seconds)
    assert keeper.build_status()["servers"][0]["is_alive"]
    clock.advance(seconds=1)
    assert not keeper.build_status()["servers"][0]["is_alive"]


def test_a_server_that_was_never_heard_of_is_not_alive(keeper, records):
    store_server(records, {"server": "new"})

    status = keeper.build_status()

    [row] = status["servers"]
    assert not row["is_alive"]
    assert row["heartbeat_age_seconds"] is None
    assert any("not been heard of" in line for line in row["differences"])
    assert any("the fleet file does not name it" in line for line in row["differences"])
    assert len(status["differences"]) == 3, "Touchstone's own pools are missing"


# --- pause ---------------------------------------------------------------------------------


def test_nothing_is_paused_until_somebody_does(records):
    assert read_control(records).is_paused is False
    assert not read_fields(records, "#control")


def test_a_pause_says_by_whom_and_why_and_is_over_after_resuming(records, clock):
    control = set_paused(records, paused=True, by="chief", reason="move", now=clock())
    assert (control.is_paused, control.by, control.reason) == (True, "chief", "move")
    assert read_control(records) == control

    clock.advance(minutes=1)
    control = set_paused(records, paused=False, by="other", reason=None, now=clock())

    assert (control.is_paused, control.by, control.reason) == (False, "other", None)
    actions = read_fields(records, "#control")["actions"]
    assert [(item["by"], item["action"]) for item in actions] == [
        ("chief", "pause: move"),
        ("other", "resume"),
    ]


def test_pausing_again_is_harmless(records, clock):
    first = set_paused(records, paused=True, by="chief", reason="move", now=clock())

    again = set_paused(
        records, paused=True, by="other", reason="move", now=clock() + timedelta(hours=1)
    )

    assert again == first


def test_resuming_what_was_never_paused_leaves_no_trace(records, clock):
    set_paused(records, paused=False, by="chief", reason=None, now=clock())

    assert not read_fields(records, "#control")


def test_a_pause_and_weights_do_not_overwrite_each_other(keeper, records, clock):
    set_paused(records, paused=True, by="chief", reason=None, now=clock())
    apply(keeper, "schema_version = 1\n[weights]\nann = 3")

    control = read_control(records)

    assert control.is_paused
    assert control.weights == {"ann": 3}


def test_what_holds_for_the_installation_is_not_a_server(records, clock, rio):
    set_paused(records, paused=True, by="chief", reason=None, now=clock())

    assert [entry.name for entry in records.list_servers()] == ["rio"]


# --- files ---------------------------------------------------------------------------------


def test_a_fleet_file_is_read(tmp_path):
    file = tmp_path / "fleet.toml"
    file.write_text(FILE)

    assert list(load_fleet(file).servers) == ["rio"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"schema_version = 2"])
def test_a_fleet_file_that_cannot_be_used_is_a_wrong_setting(tmp_path, content):
    file = tmp_path / "fleet.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError):
        load_fleet(file)
    with pytest.raises(ConfigurationError):
        load_fleet(tmp_path)


def test_the_fleet_file_is_the_settings_or_the_checkouts(tmp_path):
    assert find_fleet_file(Settings(fleet_file=tmp_path)) == tmp_path
    assert find_fleet_file(Settings()).name == "fleet.toml"


# --- GPUs that lie idle -------------------------------------------------------------------------

IDLE = "{} has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is not set: its trainings compute on the CPU"


@pytest.fixture
def make_keeper(records, pools, clock):
    def make(**settings):
        made = Settings(env="dev", **settings)
        return FleetKeeper(records=records, pools=pools, settings=made, clock=clock)

    return make


def test_a_server_whose_gpu_no_image_uses_is_told_of_in_one_line(make_keeper, enrol):
    keeper = make_keeper()
    enrol("rio")
    enrol("cpu", gpus=0)
    enrol("validator", inventory={"slots": 0, "gpus": [GPU]})
    enrol("spared", declared={"cuda": False, "slots": None, "validation_slots": None})
    text = (
        FILE + "[servers.cpu]\n[servers.validator]\n[servers.spared.capabilities]\ncuda = false\n"
    )

    report = keeper.check_fleet(parse_fleet(text))
    rows = {row["server"]: row["warnings"] for row in keeper.build_status()["servers"]}

    assert report.warnings == (IDLE.format("rio"),)
    assert rows == {"cpu": [], "rio": [IDLE.format("rio")], "spared": [], "validator": []}


def test_with_an_image_for_cuda_nothing_is_told(make_keeper, enrol):
    keeper = make_keeper(trainer_image_cuda="trainer:cuda")
    enrol("rio")

    assert keeper.check_fleet(parse_fleet(FILE)).warnings == ()
    assert [row["warnings"] for row in keeper.build_status()["servers"]] == [[]]


@pytest.mark.parametrize(
    ("changes", "is_told"),
    [
        ({}, True),
        ({"trainer_image_cuda": "t:cuda", "runpod": RunPodSettings(min_cuda="12.8")}, False),
        ({"runpod": RunPodSettings(image="registry/pod:1", min_cuda="12.8")}, False),
    ],
)
def test_pods_whose_gpu_no_image_uses_are_told_of_where_any_may_be_rented(
    make_keeper, pools, changes, is_told
):
    keeper = make_keeper(**changes)
    assert keeper.build_status()["warnings"] == []
    apply(keeper, "schema_version = 1\n[runpod]\nslots = 2")

    told = keeper.build_status()["warnings"]

    assert len(told) == is_told
    assert all(line.endswith("their trainings compute on the CPU") for line in told)


def test_pods_whose_hosts_may_have_too_old_a_driver_are_told_of(make_keeper, pools):
    keeper = make_keeper(runpod=RunPodSettings(image="registry/pod:1"))
    apply(keeper, "schema_version = 1\n[runpod]\nslots = 2")

    (told,) = keeper.build_status()["warnings"]

    assert told.startswith("TOUCHSTONE_RUNPOD_MIN_CUDA is not set, so pods may come with a driver")
    assert "set it to the label touchstone.cuda of registry/pod:1" in told


def test_pods_of_an_image_that_an_agent_knows_as_one_for_the_cpu_are_told_of(
    make_keeper, enrol, pools
):
    keeper = make_keeper(runpod=RunPodSettings(image="registry/pod:1", min_cuda="12.8"))
    enrol("rio", gpus=0, inventory=tell_images({"name": "registry/pod:1", "backend": "cpu"}))

    report = apply(keeper, "schema_version = 1\n[runpod]\nslots = 2")

    assert report.warnings == (
        "pods have a GPU and run registry/pod:1, which computes on the CPU only: their trainings "
        "leave the GPU idle; build the target pod-cuda",
    )


# --- images that do not fit ---------------------------------------------------------------------

ONE_SLOT = FILE.replace("slots = 2", "slots = 1")
CUDA = {"name": "t:cuda", "backend": "cuda", "cuda": "12.8", "min_driver": "525.60.13"}


def tell_images(*images, driver=None):
    gpus = [GPU | {"driver": driver}] if driver else []
    return {"slots": 1, "validation_slots": 1, "gpus": gpus, "images": list(images)}


@pytest.mark.parametrize(
    ("inventory", "told"),
    [
        (tell_images(CUDA, driver="525.60.13"), []),
        (tell_images(CUDA, driver="what"), []),
        (tell_images(driver="470.57.02"), []),
        (tell_images({"name": "t:cuda", "min_driver": "999"}, driver="470.57.02"), []),
        (tell_images({"backend": "cuda"}, 7, driver="470.57.02"), []),
        (
            tell_images(CUDA, driver="470.57.02"),
            [
                "image t:cuda is for CUDA 12.8 and needs driver 525.60.13 or newer, rio has "
                "470.57.02: install a newer driver, or let it run an image for the CPU"
            ],
        ),
        (
            tell_images({"name": "t:cuda", "backend": "cpu"}, driver="550.1"),
            [
                "rio has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is t:cuda, which computes on the "
                "CPU only: its trainings leave the GPU idle; name an image for CUDA"
            ],
        ),
        (
            tell_images({"name": "t:cuda", "is_here": False}, driver="550.1"),
            [
                "rio has no image t:cuda: what comes there first has to wait for it, and is "
                "refused if it cannot be pulled; pull it there"
            ],
        ),
    ],
    ids=["new enough", "no version", "old agent", "no word", "odd", "old", "for the CPU", "gone"],
)
def test_what_an_agent_says_of_images_is_compared_with_its_gpus(
    make_keeper, enrol, inventory, told
):
    keeper = make_keeper(trainer_image="t:cpu", trainer_image_cuda="t:cuda")
    enrol("rio", inventory=inventory)

    assert list(keeper.check_fleet(parse_fleet(ONE_SLOT)).warnings) == told
    assert [row["warnings"] for row in keeper.build_status()["servers"]] == [told]


def test_one_image_for_both_is_no_reason_to_warn(make_keeper, enrol):
    keeper = make_keeper(trainer_image="t:cuda")
    enrol("rio", inventory=tell_images(CUDA, driver="550.1"))

    assert keeper.check_fleet(parse_fleet(FILE)).warnings == ()


def test_where_nothing_trains_on_a_gpu_no_driver_is_too_old(make_keeper, enrol):
    keeper = make_keeper(trainer_image_cuda="t:cuda")
    enrol("rio", inventory=tell_images(CUDA, driver="470.57.02"))
    text = FILE.replace("cuda = true, vram_gib = 12", "cuda = false").replace("slots = 2", "")

    assert keeper.check_fleet(parse_fleet(text)).warnings == ()


# --- servers that refuse ------------------------------------------------------------------------


def refuse(records, clock, reason="disk: 10 MiB free"):
    records.change_server(
        "rio",
        lambda found: hold_server(
            found,
            refusal=Refusal.DISK,
            reason=reason,
            kind=SlotClass.TRAINING,
            image="trainer",
            now=clock(),
        ),
    )


def test_a_server_that_refuses_is_shown_with_its_reason_until_it_is_asked_again(
    rio, keeper, records, clock
):
    refuse(records, clock)

    (row,) = keeper.build_status()["servers"]
    assert [hold["told"] for hold in row["holds"]] == [
        "takes nothing until 12:01 UTC: disk: 10 MiB free"
    ]

    clock.advance(minutes=2)
    assert keeper.build_status()["servers"][0]["holds"] == []


def test_a_server_that_one_submitters_trainings_have_told_of_is_shown_with_whose(
    rio, keeper, records, clock
):
    records.change_server(
        "rio", lambda found: hold_blind(found, label="user:ann", reason="too old", now=clock())
    )

    (row,) = keeper.build_status()["servers"]

    assert [(hold["label"], hold["told"]) for hold in row["holds"]] == [
        (
            "user:ann",
            "takes no trainings of ann until 12:01 UTC: a training saw no GPU: too old",
        )
    ]


def test_an_admin_who_has_mended_a_server_gives_it_back_at_once(rio, keeper, records, clock, pools):
    refuse(records, clock)

    assert keeper.attach_server("rio", by="chief") == {
        "server": "rio",
        "slots": 2,
        "validation_slots": 3,
    }

    assert rio()["holds"] == {}
    assert rio()["actions"][-1]["action"] == "attach: asked again for what it refused"
    with pytest.raises(ConfigurationError, match="not drained"):
        keeper.attach_server("rio", by="chief")


def test_a_drained_server_that_is_attached_is_asked_again(rio, keeper, records, clock):
    keeper.drain_server("rio", by="chief")
    refuse(records, clock)

    keeper.attach_server("rio", by="chief")

    assert rio()["holds"] == {}


def test_dead_letters_are_shown(keeper, records):
    assert keeper.build_status()["dead_letters"] == {}

    records.put_note(Letters(queues={"evt-dev.fifo": 3}))

    assert keeper.build_status()["dead_letters"] == {"evt-dev.fifo": 3}


@pytest.mark.parametrize(
    "odd", [{"heartbeat_at": "never"}, {"inventory": {"gpus": [7]}}, {"declared": 7}, {"holds": 7}]
)
def test_a_server_whose_record_makes_no_sense_hides_no_other(keeper, records, enrol, odd):
    enrol()
    enrol("a-odd")
    write_fields(records, "a-odd", odd)

    first, second = keeper.build_status()["servers"]

    assert second["server"] == "rio"
    assert second["is_alive"]
    assert "makes no sense" in first["differences"][0]


def test_a_server_whose_record_makes_no_sense_keeps_the_file_from_no_other(
    keeper, records, enrol, pools
):
    enrol()
    enrol("a-odd")
    write_fields(records, "a-odd", {"inventory": {"gpus": 7}})

    report = apply(keeper, FILE + "[servers.a-odd]\nslots = 1\n")

    assert pools.slots()["rio"] == 2
    assert any("a-odd: its record makes no sense" in line for line in report.differences)


@pytest.mark.parametrize(("key", "field"), [("rental", "checked_at"), ("letters", "queues")])
def test_a_note_that_makes_no_sense_is_told_and_hides_nothing_else(
    rio, keeper, records, key, field
):
    store_server(records, {"server": f"#{key}", field: "odd"})

    status = keeper.build_status()

    assert [row["server"] for row in status["servers"]] == ["rio"]
    assert any(f"{key}: the note makes no sense" in line for line in status["differences"])


def test_what_is_odd_of_what_the_file_declares_is_written_anew(keeper, rio, records):
    write_fields(records, "rio", {"declared": 7})

    report = apply(keeper)

    assert report.declared == ("rio",)
    assert rio()["declared"]["description"] == "two GPUs"


@pytest.mark.parametrize("act", ["drain_server", "attach_server"])
def test_a_server_whose_record_makes_no_sense_is_not_taken_for_unknown(
    rio, keeper, records, pools, act
):
    write_fields(records, "rio", {"drained": 7})
    before = pools.slots()

    with pytest.raises(RecordUnreadable, match="server rio: server record: drained"):
        getattr(keeper, act)("rio", by="chief")

    assert pools.slots() == before
