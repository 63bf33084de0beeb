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
    """The emulator's own API; it is as new before the next test, whatever became of this one."""
    yield emulator.admin
    emulator.admin.reset()


@pytest.fixture
def account(emulator: EmulatorThread, admin: Admin) -> Account:
    return Account(api_key=KEY, url=emulator.url, timeout_seconds=300)


@pytest.fixture
def impatient(account: Account) -> Account:
    """An account for what is not answered at all: on a busy machine it would give up on more."""
    return replace(account, timeout_seconds=1)


NEVER_SECONDS = 3600
"""For answers that come later than anybody waits."""


@pytest.fixture
def rest(account: Account) -> Iterator[RestPodApi]:
    with RestPodApi(account, sleep=lambda _: None) as api:
        yield api
