"""An emulator whose pods are nothing but their API, and an account on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes.runpod.app import Config
from fakes.runpod.server import Admin, EmulatorThread
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.rest import RestPodApi

KEY = "rpa_contract"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorThread]:
    config = Config(
        state_dir=tmp_path_factory.mktemp("runpod"),
        pods="none",
        boot_seconds=0.05,
        windows=(),
        page_size=3,
    )
    thread = EmulatorThread(config)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def admin(emulator: EmulatorThread) -> Iterator[Admin]:
    """The emulator's own API; everything is well and nothing is rented at the end."""
    admin = emulator.admin
    yield admin
    admin.clear_faults()
    admin.set_account(balance="100", spend_limit="80", revoked_keys=[])
    with RestPodApi(Account(api_key=KEY, url=emulator.url)) as api:
        for pod in admin.list_pods():
            api.terminate_pod(pod["id"])
    # Not before, because a pod that ends puts its GPU back.
    admin.set_capacity(8)


@pytest.fixture
def account(emulator: EmulatorThread, admin: Admin) -> Account:
    return Account(api_key=KEY, url=emulator.url, timeout_seconds=5)


@pytest.fixture
def impatient(account: Account) -> Account:
    return replace(account, timeout_seconds=0.3)


@pytest.fixture
def rest(account: Account) -> Iterator[RestPodApi]:
    with RestPodApi(account, sleep=lambda _: None) as api:
        yield api
