"""The unmodified ``runpod`` SDK against the emulator, with all that makes it hard to trust."""

from __future__ import annotations

from types import ModuleType

import pytest

from fakes.runpod.server import Admin
from touchstone.hooks.runpod.api import Account

L4 = "NVIDIA L4"


@pytest.fixture
def sdk(account: Account, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import runpod

    monkeypatch.setattr(runpod, "api_key", account.api_key)
    monkeypatch.setenv("RUNPOD_API_BASE_URL", account.url)
    return runpod


def test_a_pod_is_stopped_and_resumed(sdk: ModuleType) -> None:
    pod = sdk.create_pod("touchstone-test-a", "trainer:1", gpu_type_id=L4, ports="22/tcp")
    assert pod["machine"]["podHostId"].startswith(pod["id"])
    assert sdk.get_pod(pod["id"])["desiredStatus"] == "RUNNING", "desired, from the first moment"
    assert sdk.stop_pod(pod["id"])["desiredStatus"] == "EXITED"
    assert sdk.resume_pod(pod["id"], 1)["desiredStatus"] == "RUNNING"
    assert sdk.get_pod(pod["id"])["uptimeSeconds"] == 0, "as it has long been for everybody"


def test_the_environment_comes_back_as_one_string_each(sdk: ModuleType) -> None:
    pod = sdk.create_pod("touchstone-test-a", "trainer:1", gpu_type_id=L4, env={"A": "b=c"})
    assert sdk.get_pods()[0]["env"] == pod["env"] == ["A=b=c"]


def test_a_cpu_pod_and_the_account_work_too(sdk: ModuleType) -> None:
    assert sdk.create_pod("touchstone-test-cpu", "trainer:1", instance_id="cpu3c-2-4")["id"]
    assert sdk.update_user_settings("ssh-ed25519 AAAA me")["pubKey"] == "ssh-ed25519 AAAA me"
    assert sdk.get_user()["pubKey"] == "ssh-ed25519 AAAA me"
    assert sdk.create_template("t", "trainer:1", env={"A": "b"})["env"] == [
        {"key": "A", "value": "b"}
    ]


def test_keys_of_the_account_reach_a_pod_that_brings_none(sdk: ModuleType) -> None:
    sdk.update_user_settings("ssh-ed25519 AAAA me")
    sdk.create_pod("touchstone-test-a", "trainer:1", gpu_type_id=L4)
    sdk.create_pod("touchstone-test-b", "trainer:1", gpu_type_id=L4, env={"PUBLIC_KEY": "own"})
    assert [pod["env"] for pod in sdk.get_pods()] == [
        ["PUBLIC_KEY=ssh-ed25519 AAAA me"],
        ["PUBLIC_KEY=own"],
    ]


def test_what_the_sdk_does_not_quote_is_a_syntax_error(sdk: ModuleType, admin: Admin) -> None:
    with pytest.raises(sdk.error.QueryError, match="Syntax Error"):
        sdk.create_pod("x", "trainer:1", gpu_type_id=L4, env={"A": 'he said "hi"'})
    assert admin.list_pods() == []


def test_a_failed_terminate_looks_like_a_good_one(sdk: ModuleType, admin: Admin) -> None:
    """Hence our backend reads back what it has terminated."""
    pod = sdk.create_pod("touchstone-test-a", "trainer:1", gpu_type_id=L4)
    for kind in ("terminate.error", "terminate.throttled", "terminate.ignored"):
        admin.add_fault(kind)
        assert sdk.terminate_pod(pod["id"]) is None
        assert [each["id"] for each in admin.list_pods()] == [pod["id"]]
    assert sdk.terminate_pod(pod["id"]) is None
    assert admin.list_pods() == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [("create.no_capacity", "QueryError"), ("create.empty_errors", "IndexError")],
)
def test_errors_come_as_the_sdk_makes_them(
    sdk: ModuleType, admin: Admin, kind: str, error: str
) -> None:
    admin.add_fault(kind)
    with pytest.raises(Exception, match=r".*") as caught:
        sdk.create_pod("touchstone-test-a", "trainer:1", gpu_type_id=L4)
    assert type(caught.value).__name__ == error


def test_a_key_that_opens_nothing_and_a_pod_that_is_not_there(
    sdk: ModuleType, admin: Admin
) -> None:
    assert sdk.get_pod("nosuchpod") is None
    with pytest.raises(sdk.error.QueryError, match="pod not found to terminate"):
        sdk.terminate_pod("nosuchpod")
    admin.set_account(revoked_keys=[sdk.api_key])
    with pytest.raises(sdk.error.AuthenticationError):
        sdk.get_pods()
