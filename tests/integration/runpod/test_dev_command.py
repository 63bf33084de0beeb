"""``touchstone dev runpod``, as somebody tries it in a terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from fakes.ports import find_free_port
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.rest import RestPodApi
from touchstone_agent.protocol.errors import TransientError
from waiting import find_exit, wait_for

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.campaign(sample=999))]
)
def test_it_tells_how_to_connect_rents_with_any_key_and_ends_with_its_pods(
    tmp_path: Path, number: signal.Signals
) -> None:
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("touchstone")), "dev", "runpod"]
    command += ["--port", str(port), "--state-dir", str(tmp_path / "state"), "--pods", "plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            account = Account(api_key="any", url=url)
            with RestPodApi(account) as api:
                wait_for("it answers", lambda: _answers(api), unless=lambda: find_exit(process))
                order = PodOrder(name="touchstone-a-b", image="trainer", gpu="NVIDIA L4")
                pod = api.create_pod(order)
                assert [found.id for found in api.list_pods()] == [pod.id]
        finally:
            process.send_signal(number)
        told, errors = process.communicate()
    assert url in told.decode()
    assert "TOUCHSTONE_RUNPOD_CONN_ID" in told.decode()
    assert process.returncode in {0, -number}, errors.decode()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def _answers(api: RestPodApi) -> bool:
    try:
        api.check_key()
    except TransientError:
        return False
    return True
