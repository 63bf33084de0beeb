"""The Airflow hook against the emulator: the Test button, the list of GPUs, several accounts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from fakes.runpod.app import Config
from fakes.runpod.server import EmulatorThread
from touchstone.hooks.runpod.hook import RunPodHook

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorThread]:
    thread = EmulatorThread(
        Config(state_dir=tmp_path_factory.mktemp("runpod"), pods="none", windows=())
    )
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def connections(emulator: EmulatorThread, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in (("touchstone_runpod", "rpa_one"), ("second", "rpa_two")):
        value = {"conn_type": "runpod", "host": emulator.url, "password": key}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))


@pytest.mark.usefixtures("connections")
def test_the_test_button_tells_the_balance(emulator: EmulatorThread) -> None:
    emulator.admin.set_account(balance="42.5", revoked_keys=[])
    is_good, text = RunPodHook().test_connection()
    assert is_good, text
    assert "balance $42.50" in text


@pytest.mark.usefixtures("connections")
def test_the_test_button_tells_a_bad_key_of_one_account_only(emulator: EmulatorThread) -> None:
    emulator.admin.set_account(revoked_keys=["rpa_two"])
    is_good, text = RunPodHook("second").test_connection()
    assert not is_good
    assert "check the connection's API key" in text
    assert RunPodHook().test_connection()[0]


@pytest.mark.usefixtures("connections")
def test_the_gpus_are_listed_with_price_and_stock(emulator: EmulatorThread) -> None:
    emulator.admin.set_capacity(0, gpu="NVIDIA H100 80GB HBM3")
    rows = {row.name: row for row in RunPodHook().list_gpus()}
    assert rows["L4"].secure_price == Decimal("0.39")
    assert not rows["H100 SXM"].is_available
    assert rows["RTX 4090"].memory_gb == 24


@pytest.mark.usefixtures("connections")
async def test_a_trigger_gets_the_same_account(emulator: EmulatorThread) -> None:
    hook = RunPodHook()
    async with await hook.aget_conn() as api:
        assert await api.list_pods() == []
    assert (await (await hook.aget_lister()).get()).pods == ()
