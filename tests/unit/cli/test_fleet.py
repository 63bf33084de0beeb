from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from fakes.api import NOW, FakeAirflow
from fakes.pools import FakePools
from fakes.servers import read_fields, store_server, write_fields
from touchstone.client import manifests
from touchstone.client.errors import Unreachable
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.core.records.notes import Letters, ReaperNote, RentalNote
from touchstone.services import fleet
from touchstone_agent.protocol.errors import ConfigurationError

Run = Callable[..., Result]
FILE = """
schema_version = 1
[servers.rio]
description = "two [b]GPUs[/b]"
priority = 3
slots = 2
validation_slots = 3
"""
GIT = "https://host.test/owner/module.git"
MANIFEST = f"""
schema_version = 1
name = "tiers"
[defaults]
intervals = [1, 5]
[[jobs]]
name = "git"
source = "{GIT}"
hyper.epochs = 3
[[jobs]]
name = "folder"
source = "module"
priority = 4
"""


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> FakePools:
    pools = FakePools()
    monkeypatch.setattr(fleet, "get_airflow_pools", lambda: pools)
    return pools


@pytest.fixture
def rio(airflow: FakeAirflow, pools: FakePools) -> None:
    store_server(
        airflow.records,
        {
            "server": "rio",
            "heartbeat_at": NOW.isoformat(),
            "inventory": {
                "slots": 2,
                "validation_slots": 3,
                "memory_mib": 64 * 1024,
                "gpus": [{"name": "RTX 3090", "memory_mib": 24 * 1024}] * 2,
            },
        },
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "features.py").write_text("x = 1\n")
    path = tmp_path / "jobs.toml"
    path.write_text(MANIFEST)
    return path


def out(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def apply(run: Run, path: Path, *args: str) -> dict[str, dict[str, Any]]:
    """Apply a manifest; return its jobs by name."""
    document = out(run("manifest", "apply", str(path), "--json", *args))
    return {item["job"]: item for item in document["jobs"]}


# --- the file ------------------------------------------------------------------------------


@pytest.mark.usefixtures("rio")
def test_a_file_is_checked_then_applied_then_all_is_as_it_says(
    run: Run, pools: FakePools, file: Path
) -> None:
    checked = run("fleet", "check", str(file))
    assert checked.exit_code == 0, checked.output
    assert "pool to create: rio" in checked.stdout
    assert pools.slots() == {}
    applied = run("fleet", "apply", str(file))
    assert "pool created: rio" in applied.stdout
    assert pools.slots()["rio"] == 2
    again = run("fleet", "apply", str(file)).stdout
    assert "all is as the file says" in again
    idle = "rio has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is not set"
    assert all(idle in told for told in (checked.stdout, again))
    assert idle in " ".join(run("fleet", "status").stdout.split())
    assert out(run("fleet", "apply", str(file), "--json"))["created"] == []


@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_wrong_file_is_refused_before_anybody_is_asked(
    run: Run, file: Path, airflow: FakeAirflow, command: str
) -> None:
    file.write_text(FILE.replace("slots = 2", "slots = -2", 1))
    result = run("fleet", command, str(file))
    assert result.exit_code == 2
    assert "servers.rio.slots: -2" in result.stderr
    assert result.stdout == ""
    assert airflow.logins == 0


@pytest.mark.parametrize("command", ["check", "apply"])
@pytest.mark.parametrize(
    "content",
    [None, b"\xff\xfe\x00", b"x" * (5 * 2**20)],
    ids=["missing", "no text", "too large"],
)
def test_what_is_no_text_file_is_refused(
    run: Run, tmp_path: Path, command: str, content: bytes | None
) -> None:
    path = tmp_path / "other.toml"
    if content is not None:
        path.write_bytes(content)
    for given in (path, tmp_path):
        result = run("fleet", command, str(given))
        assert result.exit_code == 2
        assert "fleet file" in result.stderr


def test_a_check_without_an_installation_checks_the_file_alone(
    run: Run, file: Path, state_dir: Path
) -> None:
    (state_dir / "stack.json").unlink()
    result = run("fleet", "check", str(file))
    assert result.exit_code == 0
    assert "only the file itself was checked" in result.stderr
    assert "rio" in result.stdout
    assert out(run("fleet", "check", str(file), "--json"))["report"] is None


def test_applying_without_an_installation_is_a_failure(
    run: Run, file: Path, state_dir: Path
) -> None:
    (state_dir / "stack.json").unlink()
    assert run("fleet", "apply", str(file)).exit_code == 3


@pytest.mark.usefixtures("pools", "state_dir")
def test_the_file_is_that_of_the_environment_or_of_the_checkout(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert out(run("fleet", "check", "--json"))["servers"] == ["local"]
    monkeypatch.setenv("TOUCHSTONE_FLEET_FILE", str(file))
    assert out(run("fleet", "check", "--json"))["file"] == str(file)


@pytest.mark.usefixtures("rio")
def test_more_slots_than_gpus_are_a_wrong_file(run: Run, file: Path, pools: FakePools) -> None:
    file.write_text(FILE.replace("slots = 2", "slots = 3", 1))
    checked = run("fleet", "check", str(file))
    assert checked.exit_code == 2
    assert "refused: servers.rio.slots: 3, but rio has 2 GPUs: at most 2" in checked.stdout
    applied = run("fleet", "apply", str(file))
    assert applied.exit_code == 2
    assert "servers.rio.slots: 3" in applied.stderr
    assert pools.slots() == {}


@pytest.mark.usefixtures("rio")
def test_the_fleet_is_for_admins(run: Run, file: Path, pools: FakePools) -> None:
    for args in (
        ("fleet", "status"),
        ("fleet", "apply", str(file)),
        ("fleet", "drain", "rio"),
        ("pause",),
    ):
        result = run(*args, "--as", "engineer")
        assert result.exit_code == 1
        assert "for admins only" in result.stderr
    assert pools.slots() == {}


@pytest.mark.usefixtures("rio")
def test_an_engineer_may_check_a_file_by_itself(run: Run, file: Path) -> None:
    checked = run("fleet", "check", str(file), "--as", "engineer")
    assert checked.exit_code == 0
    assert "only the file itself was checked" in checked.stderr
    assert "for admins only" in checked.stderr


# --- servers -------------------------------------------------------------------------------


@pytest.mark.usefixtures("rio")
def test_a_server_is_drained_and_attached(run: Run, file: Path, pools: FakePools) -> None:
    run("fleet", "apply", str(file))
    pools.edit("rio", deferred=2)
    drained = run("fleet", "drain", "rio")
    assert drained.exit_code == 0, drained.output
    assert "2 still running" in drained.stdout
    assert pools.slots()["rio"] == 0
    assert "drained by admin" in run("fleet", "status").stdout
    assert out(run("fleet", "attach", "rio", "--json")) == {
        "server": "rio",
        "slots": 2,
        "validation_slots": 3,
    }
    assert run("fleet", "attach", "rio", "--slots", "1").exit_code == 0
    assert pools.slots()["rio"] == 1


@pytest.mark.usefixtures("rio")
def test_slots_are_changed_and_what_runs_is_shown(run: Run, file: Path, pools: FakePools) -> None:
    run("fleet", "apply", str(file))
    pools.edit("rio", deferred=1)
    shown = run("fleet", "work", "rio")
    assert shown.exit_code == 0, shown.output
    assert "1 of what runs goes on to the end" in shown.stdout
    changed = run("fleet", "slots", "rio", "1", "--validations", "2")
    assert changed.exit_code == 0, changed.output
    assert "rio has 1 slots, and 2 for validations" in changed.stdout
    assert (pools.slots()["rio"], pools.slots()["rio_validation"]) == (1, 2)
    assert out(run("fleet", "work", "rio", "--json"))["in_use"] == 1
    run("fleet", "drain", "rio")
    assert "attaching gives it 1 slots and 2" in run("fleet", "work", "rio").stdout


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("drain", "rip"), 1, "enrolled are: rio"),
        (("attach", "rip"), 1, "enrolled are: rio"),
        (("slots", "rip", "1"), 1, "enrolled are: rio"),
        (("work", "rip"), 1, "enrolled are: rio"),
        (("slots", "rio", "9"), 2, "at most 2"),
        (("slots", "rio", "0"), 2, "drain it"),
        (("drain", "../rio"), 1, ""),
        (("attach", "rio"), 2, "slots: rio is not drained"),
        (("attach", "rio", "--slots", "9"), 2, "at most 2"),
        (("attach", "rio", "--slots", "many"), 2, "--slots"),
        (("drain",), 2, ""),
    ],
)
def test_what_cannot_be_done_is_said_with_an_exit_code(
    run: Run, file: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    run("fleet", "apply", str(file))
    result = run("fleet", *args)
    assert result.exit_code == code, result.output
    assert said in result.stderr


@pytest.mark.usefixtures("rio")
def test_the_status_shows_servers_and_what_differs(run: Run, file: Path, pools: FakePools) -> None:
    run("fleet", "apply", str(file))
    pools.edit("rio", slots=1, running=1)
    pools.edit("touchstone_queue", scheduled=4)
    result = run("fleet", "status", columns=160)
    for text in ("alive", "1/1", "0/3", "CUDA 24 GiB, 64 GiB RAM", "two [b]GPUs[/b]",
                 "the file says 2: kept", "4 waiting to be placed", "0/0"):  # fmt: skip
        assert text in result.stdout, result.stdout
    assert out(run("fleet", "status", "--json"))["servers"][0]["server"] == "rio"


def test_the_status_tells_what_gpus_there_are(run: Run, airflow: FakeAirflow, rio: None) -> None:
    assert "driver" not in run("fleet", "status", columns=160).stdout
    gpu = {"name": "RTX 3090", "memory_mib": 24 * 1024, "driver": "550.54.14", "shares": 2}
    inventory = read_fields(airflow.records, "rio")["inventory"]
    write_fields(airflow.records, "rio", {"inventory": {**inventory, "gpus": [gpu] * 2}})

    shown = run("fleet", "status", columns=160).stdout

    assert "rio: 2 RTX 3090, driver 550.54.14, each shared by 2 trainings" in shown
    assert "CUDA 12 GiB" in shown


def test_the_status_tells_what_disk_is_free_as_far_as_agents_tell(
    run: Run, airflow: FakeAirflow, rio: None
) -> None:
    assert "GiB free" not in run("fleet", "status", columns=160).stdout
    assert (
        out(run("fleet", "status", "--json"))["servers"][0]["capability"]["free_disk_gib"] is None
    )
    inventory = read_fields(airflow.records, "rio")["inventory"]
    told = {**inventory, "disk_free_mib": 87.25 * 1024}
    write_fields(airflow.records, "rio", {"inventory": told})

    assert "64 GiB RAM, 87.2 GiB free" in run("fleet", "status", columns=160).stdout
    row = out(run("fleet", "status", "--json"))["servers"][0]
    assert row["capability"]["free_disk_gib"] == 87.2


def test_a_server_that_one_submitters_trainings_keep_away_from_is_no_server_that_refuses(
    run: Run, airflow: FakeAirflow, rio: None
) -> None:
    hold = {
        "until": "2026-03-01T12:30:00+00:00",
        "reason": "a training saw no GPU: \x1b[2Jha",
        "kind": "training",
        "label": "user:eve",
    }
    write_fields(airflow.records, "rio", {"holds": {"blind/user:eve": hold}})

    shown = run("fleet", "status", columns=160).stdout

    assert "alive" in shown
    assert "refuses" not in shown
    assert "rio: takes no trainings of eve until 12:30 UTC: a training saw no GPU:" in shown
    assert "\x1b" not in shown


def test_the_status_tells_what_goes_wrong(run: Run, airflow: FakeAirflow, rio: None) -> None:
    hold = {
        "refusal": "disk",
        "until": "2026-03-01T12:30:00+00:00",
        "reason": "disk: \x1b[2J10 MiB",
    }
    write_fields(airflow.records, "rio", {"holds": {"disk": hold}})
    airflow.records.put_note(Letters(queues={"evt-dev.fifo": 2, "ctl-rio.fifo": 1}))
    server = {"slots": 2, "free": 0, "validation_slots": 3, "validation_free": 3, "lingering": 1}
    trouble = {"what": "place", "items": 3, "times": 9, "reason": "odd", "item": "s-1/i5"}
    queue = Queue.model_validate(
        {
            "at": NOW,
            "dispatcher": "host/1",
            "servers": [server | {"name": "rio", "platform": "on-prem", "is_alive": True}],
            "troubles": [trouble | {"at": NOW}],
        }
    )
    airflow.objects.put(
        airflow.settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode()
    )

    shown = run("fleet", "status", columns=160).stdout

    for text in (
        "refuses",
        "rio: takes nothing until 12:30 UTC: disk:",
        "rio: 1 slot is held by attempts that are being ended",
        "dispatcher: could not place s-1/i5 (and 2 more), last at",
        "evt-dev.fifo: 2 messages were set aside; see Dead letters in the runbook",
        "ctl-rio.fifo: 1 message was set aside",
    ):
        assert text in shown, shown
    assert "\x1b" not in shown


def test_the_status_tells_that_no_dispatcher_is_at_work(run: Run, rio: None) -> None:
    assert "no dispatcher has ever been at work here" in run("fleet", "status").stdout


RENTAL = {
    "is_connected": True,
    "balance_usd": "49.5",
    "spend_per_hour": "0",
    "is_low": False,
    "block": None,
    "checked_at": "2026-03-01T12:00:00+00:00",
}
PROOF = {
    "at": "2026-03-01T12:00:00+00:00",
    "seen": 5,
    "ours": 3,
    "unknown": 1,
    "terminated": [{"pod": "a", "name": "a", "reason": "its attempt has ended"}],
    "has_failed": False,
    "is_dry_run": False,
}


@pytest.mark.parametrize(
    ("rental", "proof", "told"),
    [
        ({}, None, ["no connection"]),
        (RENTAL, None, ["open $49.50"]),
        (RENTAL | {"balance_usd": None}, None, ["open"]),
        (RENTAL | {"is_low": True}, None, ["low: $49.50", "the balance is low: $49.50; add funds"]),
        (RENTAL | {"block": "the key is refused"}, None, ["takes nothing", "runpod: the key is"]),
        (RENTAL, PROOF, ["5 pods, 3 ours, 1 unknown, 1 ended"]),
        (RENTAL, PROOF | {"is_dry_run": True}, ["1 ended, dry run"]),
        (RENTAL, PROOF | {"has_failed": True}, ["was none; nothing was decided"]),
    ],
)
def test_the_status_tells_how_runpod_is_and_what_the_reaper_has_seen(
    run: Run,
    airflow: FakeAirflow,
    pools: FakePools,
    rental: dict[str, Any],
    proof: dict[str, Any] | None,
    told: list[str],
) -> None:
    pools.create_pool("runpod", 2, "")
    airflow.records.put_note(RentalNote.load(rental))
    airflow.records.put_note(ReaperNote.load({"proof": proof}))
    shown = run("fleet", "status").stdout
    for text in told:
        assert text in shown, shown
    assert out(run("fleet", "status", "--json"))["runpod"]["proof"] == proof


def test_a_server_that_was_never_heard_of_is_shown_as_that(
    run: Run, airflow: FakeAirflow, pools: FakePools
) -> None:
    store_server(airflow.records, {"server": "new\x1b[2J", "declared": None})
    store_server(
        airflow.records,
        {"server": "old", "heartbeat_at": "2026-03-01T11:00:00+00:00", "inventory": {"slots": 1}},
    )
    result = run("fleet", "status")
    assert "never heard of" in result.stdout
    assert "silent 1:00:00" in result.stdout
    assert "no pool" in result.stdout
    assert "\x1b" not in result.stdout


def test_the_installation_reloads_its_own_file(
    run: Run, airflow: FakeAirflow, rio: None, pools: FakePools, file: Path
) -> None:
    airflow.settings = airflow.settings.model_copy(update={"fleet_file": file})
    assert run("fleet", "reload").exit_code == 0
    assert pools.slots()["rio"] == 2
    file.write_text(FILE.replace("slots = 2", "slots = 3", 1))
    result = run("fleet", "reload")
    assert result.exit_code == 2
    assert "refused" in result.stdout


@pytest.mark.usefixtures("pools")
def test_a_pause_is_seen_until_it_is_over(run: Run) -> None:
    paused = out(run("pause", "--reason", "move the rack", "--json"))
    assert (paused["paused"], paused["by"]) == (True, "admin")
    shown = run("fleet", "status").stdout
    assert "PAUSED by admin" in shown
    assert "move the rack" in shown
    assert run("resume").exit_code == 0
    assert "PAUSED" not in run("fleet", "status").stdout
    actions = out(run("fleet", "status", "--json"))["actions"]
    assert [item["action"] for item in actions] == ["pause: move the rack", "resume"]


# --- manifests -----------------------------------------------------------------------------


def test_a_manifest_becomes_one_submission_a_job(
    run: Run, airflow: FakeAirflow, manifest: Path
) -> None:
    jobs = apply(run, manifest)
    assert [job["state"] for job in jobs.values()] == ["submitted now"] * 2
    assert set(airflow.runs) == {job["submission_id"] for job in jobs.values()}
    conf = airflow.runs[jobs["git"]["submission_id"]]["conf"]
    assert conf == {
        "source": GIT,
        "system": "feature_set",
        "notes": "manifest tiers: git",
        "intervals": [1, 5],
        "seed": 0,
        "passthrough_args": ["--epochs=3"],
        "job": "git",
    }
    folder = airflow.runs[jobs["folder"]["submission_id"]]["conf"]
    assert folder["source"].startswith("upload:")
    assert folder["priority"] == 4
    assert len(airflow.objects.objects) == 1


def test_applying_twice_adds_nothing_and_keeps_what_became_of_the_first(
    run: Run, airflow: FakeAirflow, manifest: Path
) -> None:
    jobs = apply(run, manifest)
    runs = dict(airflow.runs)
    airflow.add_submission(jobs["git"]["submission_id"], status="error")

    again = apply(run, manifest)

    assert airflow.runs == runs
    assert again["git"]["state"] == "error"
    assert again["folder"]["state"] == manifests.BEFORE
    assert len(airflow.objects.objects) == 1


def test_a_changed_job_is_new_and_its_old_submission_is_named(
    run: Run, airflow: FakeAirflow, manifest: Path
) -> None:
    old = apply(run, manifest)["git"]["submission_id"]
    notes = airflow.runs[old]["conf"]["notes"]
    airflow.add_submission(old, status="running", notes=notes)
    airflow.add_submission("m-other", status="running", notes="manifest elsewhere: git")
    manifest.write_text(MANIFEST.replace("epochs = 3", "epochs = 4"))

    document = out(run("manifest", "apply", str(manifest), "--json"))

    assert document["jobs"][0]["submission_id"] != old
    assert document["removed"] == [{"job": "git", "submission_id": old, "state": "running"}]
    assert "no longer in the manifest" in run("manifest", "apply", str(manifest)).stdout
    airflow.change_submission(old, status="cancelled")
    assert out(run("manifest", "apply", str(manifest), "--json"))["removed"] == []


def test_a_dry_run_submits_nothing(run: Run, airflow: FakeAirflow, manifest: Path) -> None:
    jobs = apply(run, manifest, "--dry-run")
    assert {job["state"] for job in jobs.values()} == {"new"}
    assert airflow.runs == {}
    assert airflow.objects.objects == {}
    assert apply(run, manifest).keys() == jobs.keys()
    assert {job["submission_id"] for job in jobs.values()} == set(airflow.runs)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 3", "epoch = 3", "jobs.git.hyper.epoch: the trainer has no flag --epoch"),
        ("epochs = 3", "epochs = 0", "jobs.git.hyper.epochs: 0 is below 1"),
        ('source = "module"', 'source = "nowhere"', "jobs.folder.source: there is no "),
        ('source = "module"', 'source = "jobs.toml"', "jobs.folder.source: "),
        ("priority = 4", 'ref = "main"', "jobs.folder.ref: module is not a git URL"),
        ("priority = 4", "priority = 400", "jobs.folder.priority: "),
        ('name = "folder"', 'name = "git"', "there is a job 'git' already"),
        ("schema_version = 1", "schema_version = 9", "schema_version: 9"),
    ],
)
def test_nothing_is_submitted_of_a_manifest_with_one_mistake(
    run: Run, airflow: FakeAirflow, manifest: Path, old: str, new: str, said: str
) -> None:
    manifest.write_text(MANIFEST.replace(old, new))
    result = run("manifest", "apply", str(manifest))
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert (airflow.runs, airflow.objects.objects) == ({}, {})


def test_two_jobs_that_are_the_same_work_are_refused(run: Run, manifest: Path) -> None:
    manifest.write_text(
        MANIFEST + '[[jobs]]\nname = "copy"\nsource = "./module/../module"\npriority = 9\n'
    )
    result = run("manifest", "apply", str(manifest))
    assert result.exit_code == 2
    assert "jobs.copy: is the same work as jobs.folder" in result.stderr


def test_what_the_installation_refuses_is_told_with_the_job(
    run: Run, airflow: FakeAirflow, manifest: Path
) -> None:
    airflow.settings = airflow.settings.model_copy(update={"git_hosts": ("elsewhere.test",)})
    result = run("manifest", "apply", str(manifest))
    assert result.exit_code == 2
    assert "jobs.git: source: " in result.stderr


def test_keys_that_were_not_checked_are_said_loudly(
    run: Run, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise ConfigurationError("describe: there is no trainer")

    monkeypatch.setattr(manifests, "describe_checkout", fail)
    result = run("manifest", "apply", str(manifest), "--dry-run")
    assert result.exit_code == 0
    assert "WARNING: the trainer's keys (hyper.*) were NOT checked" in result.stderr


def test_another_trainers_description_may_be_given(
    run: Run, manifest: Path, tmp_path: Path
) -> None:
    described = tmp_path / "describe.json"
    described.write_text(json.dumps({"params": {"a.b": {"type": "integer"}}}))
    result = run("manifest", "apply", str(manifest), "--describe", str(described))
    assert result.exit_code == 2
    assert "the trainer has no flag --epochs" in result.stderr
    described.write_text("not JSON")
    result = run("manifest", "apply", str(manifest), "--describe", str(described))
    assert result.exit_code == 2
    assert "describe: is not what" in result.stderr


def test_a_manifest_needs_an_installation(run: Run, manifest: Path, state_dir: Path) -> None:
    (state_dir / "stack.json").unlink()
    assert run("manifest", "apply", str(manifest)).exit_code == 3


def test_a_request_that_was_not_heard_back_of_is_safe_to_repeat(
    run: Run, airflow: FakeAirflow, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Applying again after an outage in the middle submits the rest and nothing twice."""
    from touchstone.client.api import Client

    start = Client.submit_as
    calls: list[str] = []

    def flaky(self: Client, run_id: str, conf: dict[str, Any]) -> dict[str, Any]:
        calls.append(run_id)
        if len(calls) == 2:
            raise Unreachable("nothing answers")
        return start(self, run_id, conf)

    monkeypatch.setattr(Client, "submit_as", flaky)
    assert run("manifest", "apply", str(manifest)).exit_code == 3
    assert len(airflow.runs) == 1
    assert run("manifest", "apply", str(manifest)).exit_code == 0
    assert len(airflow.runs) == 2
