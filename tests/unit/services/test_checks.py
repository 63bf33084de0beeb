"""What is refused before anything is spent, and by which field's name."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fakes.servers import store_server
from fakes.stores import FakeRecordStore
from fakes.submissions import build_submission
from touchstone.core.conf import parse_conf
from touchstone.core.market import Market
from touchstone.core.offers import GpuOffer, Stock
from touchstone.core.pods import Cloud
from touchstone.core.schedule import Schedule
from touchstone.hooks.runpod.errors import ServiceUnavailable
from touchstone.services.checks import check_baseline, check_branch, check_placeable, fetch_branch
from touchstone.services.pods import facts
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError

INVENTORY = {"slots": 2, "memory_mib": 16 * 1024, "gpus": []}
GPU = {"name": "RTX 3090", "memory_mib": 24 * 1024}


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def enrol(records):
    def make(name="cpu1", gpus=0, **fields):
        inventory = INVENTORY | {"gpus": [GPU] * gpus}
        store_server(records, {"server": name, "inventory": inventory} | fields)

    return make


@pytest.fixture(autouse=True)
def runpod(monkeypatch):
    """RunPod is not connected, unless a test says what it has."""
    monkeypatch.setattr(facts, "find_hook", lambda wanted: None)

    def connect(*offers, error=None):
        def read_market(hook, wanted):
            if error is not None:
                raise error
            return Market(offers=offers, models=wanted.gpu_models, max_price=wanted.max_price)

        monkeypatch.setattr(facts, "find_hook", lambda wanted: object())
        monkeypatch.setattr(facts, "read_market", read_market)

    return connect


def offer(name="RTX 4090", price="0.69", stock=Stock.HIGH, memory_gb=24):
    return GpuOffer(
        gpu=f"NVIDIA GeForce {name}",
        name=name,
        memory_gb=memory_gb,
        cloud=Cloud.SECURE,
        price_per_hour=Decimal(price),
        stock=stock,
    )


def conf(**schedule):
    return parse_conf({"source": "https://example.org/x.git", "intervals": "5"} | schedule)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"require_cuda": True}, "require_cuda: .*cpu1 has no CUDA"),
        ({"min_vram_gib": 8}, "min_vram_gib: .*0 GiB VRAM"),
        ({"min_ram_gib": 64}, "min_ram_gib: .*16 GiB RAM"),
        ({"allowed_hosts": ["gone"]}, "allowed_hosts: there is no server 'gone'"),
    ],
)
def test_what_no_server_could_ever_run_is_refused_by_its_field(records, enrol, wish, words):
    enrol()

    with pytest.raises(ConfigurationError, match=f"^{words}"):
        check_placeable(records, conf(**wish), "ada")


def test_one_server_that_fits_is_enough_also_when_it_is_silent(records, enrol):
    enrol()
    enrol("gpu1", gpus=1)

    check_placeable(records, conf(require_cuda=True, min_vram_gib=24), "ada")


def test_where_servers_only_validate_trainings_need_runpod(records, enrol, runpod):
    enrol("local", inventory=INVENTORY | {"slots": 0})

    with pytest.raises(ConfigurationError, match=r"^platform: .*local takes no trainings"):
        check_placeable(records, conf(), "ada")
    runpod(offer())
    check_placeable(records, conf(), "ada")
    with pytest.raises(ConfigurationError, match=r"^platform: .*local takes no trainings"):
        check_placeable(records, conf(platform="on-prem"), "ada")


def test_servers_may_deny_somebodys_tasks(records, enrol):
    enrol(declared={"deny": ["user:ada"]})

    with pytest.raises(ConfigurationError, match="denies user:ada"):
        check_placeable(records, conf(), "ada")
    check_placeable(records, conf(), "bob")


def test_of_a_fleet_that_nobody_knows_yet_nothing_is_refused(records, enrol):
    check_placeable(records, conf(require_cuda=True), "ada")
    enrol(inventory=None)
    check_placeable(records, conf(require_cuda=True), "ada")


def test_an_accepted_submission_is_judged_by_its_own_kind(records, enrol):
    enrol(declared={"allow": ["model_structure"]})
    records.create_submission(build_submission("s-1", system="model_structure", submitted_by="ada"))
    scheduled = parse_conf({"submission_id": "s-1", "intervals": "5"})

    check_placeable(records, scheduled, "chief")
    with pytest.raises(ConfigurationError, match="allows only model_structure"):
        check_placeable(records, conf(), "chief")


def test_a_platform_that_is_not_connected_is_refused(records, enrol):
    for name in ("cpu1", "cpu2"):
        with pytest.raises(ConfigurationError, match=r"^platform: .*not connected to RunPod"):
            check_placeable(records, conf(platform="runpod"), "ada")
        enrol(name)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"gpu_models": ["RTX 9999"]}, "gpu_models: .*'RTX 9999' is unknown to RunPod"),
        ({"max_price": "0.5"}, r"max_price: .*costs \$0.69/h .*over the ceiling of \$0.5/h"),
        ({"min_vram_gib": 80}, "min_vram_gib: .*has 24 GB, 80 GB are needed"),
        ({"cloud": "community"}, "platform: .*not offered in COMMUNITY cloud"),
    ],
)
def test_what_runpod_never_has_is_refused_by_its_field(records, enrol, runpod, wish, words):
    runpod(offer())
    enrol()

    with pytest.raises(ConfigurationError, match=f"^{words}"):
        check_placeable(records, conf(platform="runpod", **wish), "ada")


def test_what_is_only_out_of_stock_may_be_waited_for(records, runpod):
    runpod(offer(stock=Stock.NONE))

    check_placeable(records, conf(platform="runpod"), "ada")


def test_a_runpod_that_cannot_be_asked_refuses_nothing(records, runpod):
    runpod(error=ServiceUnavailable("503"))

    check_placeable(records, conf(platform="runpod", gpu_models=["RTX 9999"]), "ada")


def test_runpod_takes_what_no_server_could(records, enrol, runpod):
    enrol()
    runpod(offer())

    check_placeable(records, conf(require_cuda=True), "ada")
    with pytest.raises(ConfigurationError, match="no CUDA"):
        check_placeable(records, conf(require_cuda=True, platform="on-prem"), "ada")


def test_runpod_is_only_asked_when_no_server_will_do(records, enrol, runpod):
    enrol()
    runpod(error=AssertionError("it was asked"))

    check_placeable(records, conf(), "ada")


@pytest.mark.parametrize("status", [None, "error", "running"])
def test_a_baseline_must_have_succeeded(records, status):
    if status:
        records.create_submission(build_submission("b-1", status=status, submitted_by="ada"))

    with pytest.raises(ConfigurationError, match=r"^baseline: 'b-1' is no successful"):
        check_baseline(records, conf(baseline="b-1"), "ada")


def test_somebody_elses_baseline_is_as_if_it_did_not_exist(records):
    records.create_submission(build_submission("b-1", status="success", submitted_by="bob"))

    with pytest.raises(ConfigurationError, match="there is none"):
        check_baseline(records, conf(baseline="b-1"), "ada")


def test_a_baseline_whose_record_makes_no_sense_is_refused_by_its_field(records):
    odd = build_submission("b-1", status="success", submitted_by="ada").dump() | {"score": "much"}
    records.put_stored(Settings().submissions_table, odd)

    with pytest.raises(ConfigurationError, match=r"^baseline: 'b-1' cannot be read: .* score"):
        check_baseline(records, conf(baseline="b-1"), "ada")


# --- a branch of el-nigma ---------------------------------------------------------------------


def test_a_branch_is_refused_where_no_repository_is_known():
    schedule = Schedule(intervals="1", branch="main")

    with pytest.raises(ConfigurationError, match=r"^branch: .*TOUCHSTONE_ELNIGMA_GIT"):
        fetch_branch(Settings(), schedule)


def test_without_a_branch_nothing_is_fetched():
    assert fetch_branch(Settings(elnigma_git="/no/such"), Schedule(intervals="1")) is None


@pytest.mark.parametrize(
    ("user", "allowed", "is_refused"),
    [
        ("engineer", [], True),
        ("admin", [], False),
        ("engineer", ["engineer"], False),
        ("engineer", ["other"], True),
        ("engineer", ["*"], False),
        ("*", ["other"], True),
    ],
)
def test_who_may_name_a_branch_is_an_admins_setting(user, allowed, is_refused):
    """Whoever could submit chose what trains, with the network and a cache of everybody's."""
    settings = Settings(branch_users=allowed)
    schedule = Schedule(intervals="1", branch="main")

    if is_refused:
        with pytest.raises(ConfigurationError, match=r"^branch: .*TOUCHSTONE_BRANCH_USERS"):
            check_branch(settings, schedule, user)
    else:
        check_branch(settings, schedule, user)
    check_branch(settings, Schedule(intervals="1"), user)
    check_branch(settings, None, user)


@pytest.mark.parametrize(
    "odd", [{"inventory": {"gpus": [7]}}, {"heartbeat_at": 7}, {"declared": 7}, {"holds": 7}]
)
def test_a_server_whose_record_makes_no_sense_keeps_nobody_from_submitting(records, enrol, odd):
    enrol()
    enrol("a-odd", **odd)

    check_placeable(records, conf(), "ann")


def test_a_server_whose_record_makes_no_sense_may_be_named(records, enrol):
    enrol()
    enrol("a-odd", holds=7)

    with pytest.raises(ConfigurationError, match="allowed_hosts: there is no server 'b-odd'"):
        check_placeable(records, conf(allowed_hosts=["a-odd", "b-odd"]), "ann")
