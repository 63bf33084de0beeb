"""Worlds of tests: whatever one test leaves behind, the next one begins with nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from tests.integration.runpod.rented import open_office_at

from fakes.renting import Clients, Office
from fakes.runpod.app import Config
from fakes.runpod.server import Admin, EmulatorThread
from touchstone.core.money import BudgetLimits
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.rest import RestPodApi
from touchstone.services.pods.ledger import Ledger
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets

pytestmark = pytest.mark.integration

GPU = "NVIDIA L4"


@pytest.fixture
def emulator(tmp_path) -> Iterator[EmulatorThread]:
    thread = EmulatorThread(Config(state_dir=tmp_path, pods="none", windows=()))
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def account(emulator: EmulatorThread) -> Account:
    return Account(api_key="rpa_test", url=emulator.url, timeout_seconds=300)


def reserve(office: Office) -> None:
    """Leave a reservation open, as a test does that fails while its pod boots."""
    key = office.submit()
    office.claim(key)
    dynamodb = Clients.connect(office.aws_url).dynamodb
    ledger = Ledger(
        Budgets(dynamodb, office.settings), Meter(dynamodb, office.settings), BudgetLimits()
    )
    ledger.reserve(office.read(key), price=Decimal(1), seconds=3600)


def list_open(office: Office) -> list[str]:
    dynamodb = Clients.connect(office.aws_url).dynamodb
    return [each.pod for each in Budgets(dynamodb, office.settings).list_open()]


def test_a_reservation_that_one_test_leaves_open_is_none_of_the_next_ones(
    emulator: EmulatorThread, ministack: str
) -> None:
    """One test that gave up left one behind, and seven others of its module failed for it."""
    first = open_office_at(emulator.url, ministack)
    reserve(first)
    assert len(list_open(first)) == 1

    assert list_open(open_office_at(emulator.url, ministack)) == []


def read_account(admin: Admin) -> dict[str, object]:
    found = admin.ask("GET", "/account")
    return found | {"balance": Decimal(found["balance"])}


def test_an_emulator_is_as_new_whatever_has_happened_to_it(
    emulator: EmulatorThread, account: Account
) -> None:
    admin = emulator.admin
    with RestPodApi(account) as api:
        before = read_account(admin), admin.ask("GET", "/capacity")
        for kind in ("delayed", "reappears", "ignored"):
            pod = api.create_pod(PodOrder(name=f"touchstone-{kind}", image="i", gpu=GPU))
            admin.add_fault(f"terminate.{kind}")
            api.terminate_pod(pod.id)
        assert len(admin.list_pods()) == 3
        admin.add_fault("platform.unavailable", count=None)
        admin.set_capacity(0)
        admin.push_clock(7200)
        admin.set_account(balance="0", spend_limit="0", revoked_keys=[account.api_key])

        admin.reset()

        assert admin.list_pods() == api.list_pods() == []
        assert admin.get_ledger()["open"] == 0
        assert (read_account(admin), admin.ask("GET", "/capacity")) == before
        pod = api.create_pod(PodOrder(name="touchstone-next", image="i", gpu=GPU))
        assert [each.id for each in api.list_pods()] == [pod.id]
