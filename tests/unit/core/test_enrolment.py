"""How a server joins and leaves, as far as nothing has to be asked."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from touchstone.core.enrolment import (
    LEASE,
    EnrolmentRequest,
    Stores,
    belongs_here,
    build_agent_policy,
    build_identity_name,
    check_request,
    describe_server,
    find_other_environment,
    render_agent_config,
    take_lease,
    was_heard,
)
from touchstone.core.records.servers import (
    Drained,
    Enrolment,
    EnrolmentState,
    Server,
    ServerEntry,
)
from touchstone.core.records.stored import RecordUnreadable
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.settings import load_settings

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
REQUESTED = EnrolmentRequest(server="gpu-1", images=("registry.example/trainer:*",))
STORES = Stores(region="eu-central-1", queues_url=None, objects_url="https://b.s3.example/")


def read(**fields: Any) -> Server:
    return Server.load({"server": "gpu-1", **fields})


# --- rights ---------------------------------------------------------------------------------------


def list_rights(policy: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (action, resource)
        for statement in policy["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


def test_a_server_may_take_from_its_own_queues_and_tell_and_nothing_else() -> None:
    policy = build_agent_policy(server="gpu-1", env="prod", region="us-east-1", account="42")
    arn = "arn:aws:sqs:us-east-1:42:"

    assert all(statement["Effect"] == "Allow" for statement in policy["Statement"])
    assert list_rights(policy) == {
        *(
            (f"sqs:{action}", f"{arn}{queue}")
            for action in ("GetQueueUrl", "ReceiveMessage", "DeleteMessage")
            for queue in ("req-gpu-1.fifo", "ctl-gpu-1.fifo")
        ),
        *((f"sqs:{action}", f"{arn}evt-prod.fifo") for action in ("GetQueueUrl", "SendMessage")),
    }


def test_no_right_is_for_more_than_one_thing() -> None:
    policy = build_agent_policy(server="a", env="dev", region="r", account="1")
    assert not [r for r in list_rights(policy) if "*" in "".join(r)]


def test_the_longest_name_of_a_server_is_one_of_an_identity() -> None:
    assert len(build_identity_name("a" * 60)) <= 64


# --- settings -------------------------------------------------------------------------------------


def test_the_settings_are_what_an_agent_takes(tmp_path: Path) -> None:
    requested = replace(REQUESTED, slots=2, gpu_shares=3, gpu="none")
    (tmp_path / "agent.toml").write_text(render_agent_config(requested, env="prod", stores=STORES))

    settings = load_settings(tmp_path / "agent.toml", {})

    assert (settings.env, settings.server, settings.slots) == ("prod", "gpu-1", 2)
    assert settings.state_dir == Path("/var/lib/touchstone-agent")
    assert settings.sqs.endpoint_url is None
    assert settings.sqs.credentials_file == tmp_path / "aws_credentials"
    assert settings.docker.url == "unix:///var/run/docker.sock"
    assert settings.objects_url == "https://b.s3.example/"


def test_no_value_gets_out_of_its_line() -> None:
    requested = replace(REQUESTED, images=('a"\nslots = 9',))
    parsed = tomllib.loads(render_agent_config(requested, env="dev", stores=STORES))
    assert parsed["images_allowed"] == ['a"\nslots = 9']
    assert parsed["slots"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server": "Gpu 1"}, "cannot be a server's name"),
        ({"server": "runpod"}, "keeps for itself"),
        ({"slots": -1}, "slots: -1"),
        ({"gpu": "0"}, "gpu: '0' is neither"),
        ({"gpu_shares": 0}, "gpu_shares: 0"),
        ({"images": ()}, "images: name at least"),
        ({"images": ("a b",)}, "images: 'a b'"),
        ({"state_dir": PurePosixPath("/")}, "state_dir: / is not the agent's alone"),
        ({"state_dir": PurePosixPath("/var/lib")}, "state_dir: /var/lib is not"),
        ({"state_dir": PurePosixPath("data")}, "state_dir: 'data' is not an absolute path"),
        ({"state_dir": PurePosixPath("/data/../etc")}, "is not an absolute path"),
        ({"state_dir": PurePosixPath("/data\nUser=root")}, "is not an absolute path"),
        ({"engine_socket": PurePosixPath("/run/a b")}, "engine_socket: "),
        ({"engine_socket": PurePosixPath("/run/user/1000/docker.sock")}, "sees nothing"),
        ({"state_dir": PurePosixPath("/home/ann/state")}, "sees nothing"),
        ({"python": "python3; rm"}, "python: "),
    ],
)
def test_what_cannot_be_is_told_by_its_field(changes: dict[str, Any], words: str) -> None:
    check_request(REQUESTED)
    with pytest.raises(ConfigurationError) as caught:
        check_request(replace(REQUESTED, **changes))
    assert words in str(caught.value)


# --- one environment ------------------------------------------------------------------------------


def test_a_server_that_is_online_elsewhere_is_refused_with_the_name_of_the_first() -> None:
    record = read(server="gpu-1", env="prod")

    assert find_other_environment(None, "dev") is None
    assert find_other_environment(record, "prod") is None
    assert (find_other_environment(record, "dev") or "").startswith(
        "gpu-1 is online in environment prod: "
    )
    drained = record.change(drained=Drained(slots=2))
    assert find_other_environment(drained, "dev") is None
    assert (
        find_other_environment(read(**drained.dump(), running=[["ref", "running"]]), "dev")
        is not None
    )
    removed = record.change(enrolment=Enrolment(state=EnrolmentState.REMOVED))
    assert find_other_environment(removed, "dev") is None
    removing = record.change(enrolment=Enrolment(state=EnrolmentState.REMOVING))
    assert find_other_environment(removing, "dev") is not None


def test_nothing_is_placed_on_what_leaves_or_is_another_environments() -> None:
    assert belongs_here(read(env="dev"), "dev")
    assert belongs_here(read(), "dev")
    assert not belongs_here(read(env="prod"), "dev")
    assert not belongs_here(read(env="dev", enrolment={"state": "removing"}), "dev")


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_one_whose_record_makes_no_sense_belongs_to_its_environment_and_is_told_of(env) -> None:
    stored = {"server": "gpu-1", "env": env, "enrolment": {"state": "nonsense"}}
    entry = ServerEntry.parse(stored)

    assert belongs_here(entry, "dev") is (env == "dev")
    row = describe_server(entry)
    assert (row["server"], row["env"], row["state"]) == ("gpu-1", env, "unreadable")


# --- who is at work on it -------------------------------------------------------------------------


def test_two_never_work_on_one_server() -> None:
    mine = take_lease(read(server="a"), token="1", by="ann", now=NOW)

    with pytest.raises(ConfigurationError, match="ann is at work on a right now"):
        take_lease(mine, token="2", by="bob", now=NOW)
    assert take_lease(mine, token="1", by="ann", now=NOW)
    assert take_lease(mine, token="2", by="bob", now=NOW + LEASE + timedelta(seconds=1))
    assert take_lease(read(worked_on=None), token="2", by="bob", now=NOW)


def test_a_heartbeat_counts_from_when_it_was_heard() -> None:
    assert was_heard(read(heartbeat_at=(NOW + timedelta(seconds=1)).isoformat()), since=NOW)
    assert not was_heard(read(heartbeat_at=NOW.isoformat()), since=NOW)
    assert not was_heard(read(), since=NOW)
    with pytest.raises(RecordUnreadable, match=r"server gpu-1: .*heartbeat_at"):
        read(heartbeat_at="soon")


def test_the_list_tells_version_and_commit() -> None:
    record = {"server": "a", "env": "dev", "inventory": {"agent_version": "0.1.0+gabc123.s45"}}
    row = describe_server(ServerEntry.parse(record))
    assert (row["version"], row["commit"], row["state"]) == ("0.1.0", "abc123.s45", "known")
    assert describe_server(ServerEntry.parse({"server": "a"}))["version"] is None
