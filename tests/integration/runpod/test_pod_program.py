"""The program inside a pod, as its first process and over a real sshd."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import secrets
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from tests.integration.runpod.conftest import SshClient, World, find_processes, open_world
from tests.integration.runpod.connected_pod import ConnectedPod, connect_pod

from fakes.runpod.process import can_isolate
from touchstone.core.pods import PodStatus
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.facts import PodGpu
from touchstone_agent.protocol.messages import AttemptRef, Grant, Input, Limits, Preparation
from touchstone_agent.protocol.pods import (
    HOST_KEY_MARK,
    POD_PROGRAM,
    PodPhase,
    PodPoll,
    PodStart,
    PodState,
)
from waiting import wait_for

pytestmark = pytest.mark.integration

RUNNER = (Path(__file__).parents[2] / "fakes/runner.sh").read_text()
BUCKET = "pods"
REF = AttemptRef(submission_id="s", task_id="i5", attempt=1, fence=1)


class Store:
    """Objects behind presigned requests."""

    def __init__(self, url: str) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._client.create_bucket(Bucket=BUCKET)
        self.objects = ObjectStore(self._client)

    def put_input(self, path: str, data: bytes, *, unpack: bool = False) -> Input:
        key = secrets.token_hex(8)
        self.objects.put_new(BUCKET, key, data)
        return Input(
            path=path,
            grant=self.objects.grant_get(BUCKET, key),
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            unpack=unpack,
        )

    def grant_outputs(self, state: PodState, prefix: str) -> dict[str, Grant]:
        return {
            file.path: self.objects.grant_put(
                BUCKET, f"{prefix}/{file.path}", sha256=file.sha256, size=file.size
            )
            for file in state.files
        }


@pytest.fixture(scope="module")
def store(ministack: str) -> Store:
    return Store(ministack)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, ssh: SshClient) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("runpod")
    if not can_isolate(folder):
        pytest.skip("only root can make pods that are isolated processes")
    programs = folder / "programs"
    programs.mkdir()
    (programs / POD_PROGRAM).symlink_to(Path(sys.executable).with_name(POD_PROGRAM))
    with open_world(folder / "emulator", ssh, "process", "--programs", str(programs)) as world:
        yield world


def order(*scenario: str, ref: AttemptRef = REF, **changes: Any) -> PodStart:
    """Order a scenario of runner.sh."""
    return PodStart(
        **{
            "ref": ref,
            "command": ("/bin/sh", "-c", RUNNER, "runner.sh"),
            "argv": (scenario[0], "{in}", "{out}", *scenario[1:]),
            "environment": {"TOUCHSTONE_SUBMISSION_ID": ref.submission_id},
            "limits": Limits(memory_mib=1024, wall_seconds=300),
            **changes,
        }
    )


def pack(**files: str) -> bytes:
    """Return a .tar.gz."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return gzip.compress(memory.getvalue())


def read_console(state: PodState) -> str:
    return base64.b64decode(state.console).decode()


# --- connecting ------------------------------------------------------------------------------


def test_the_host_key_in_the_containers_log_is_that_of_the_login(world: World) -> None:
    pod = connect_pod(world)
    shown = base64.b64decode(world.ssh.scan_host_key(pod.port))
    digest = base64.b64encode(hashlib.sha256(shown).digest()).decode().rstrip("=")
    lines = [line.text for line in world.api.read_logs(pod.id, source="container")]
    assert [line for line in lines if line.startswith(HOST_KEY_MARK)] == [
        f"{HOST_KEY_MARK} SHA256:{digest}"
    ]


def test_only_the_orders_key_logs_in(world: World, tmp_path: Path) -> None:
    pod = connect_pod(world)
    assert pod.poll().phase is PodPhase.IDLE
    stranger = SshClient(tmp_path)
    refused = stranger.run(pod.port, "true")
    assert refused.code == 255
    assert "Permission denied" in refused.errors


def test_an_idle_pod_tells_its_gpu_its_disk_and_its_lease(world: World) -> None:
    state = connect_pod(world, lease=60).poll(lease_seconds=500)
    assert state.gpus == (PodGpu(name="NVIDIA L4", memory_mib=24576, driver="570.124.06"),)
    assert state.disk_free_bytes > 0
    assert 60 < state.lease_seconds_left <= 500
    assert state.ref is None


def test_the_program_is_the_pods_first_process(world: World) -> None:
    pod = connect_pod(world)
    assert POD_PROGRAM in pod.run("tr '\\0' ' ' < /proc/1/cmdline")
    assert pod.run("ls /etc/rp_environment 2> /dev/null; echo $RUNPOD_POD_ID") == ""


def test_each_call_is_answered_by_one_document_or_one_line(world: World) -> None:
    pod = connect_pod(world)
    code, output, errors = pod.call("poll", PodPoll(lease_seconds=60))
    assert (code, errors, len(output.splitlines())) == (0, "", 1)
    assert json.loads(output)["boot_id"]
    for verb, text in (
        ("poll", "{}"),
        ("poll", "no json"),
        ("start", '{"ref": 1}'),
        ("upload", '{"grants": {}}'),
        ("fly", "{}"),
    ):
        code, output, errors = pod.call(verb, text)
        assert (code, output, len(errors.splitlines())) == (2, "", 1), verb


# --- an attempt ------------------------------------------------------------------------------


def test_an_attempt_goes_from_its_inputs_to_its_uploaded_files(world: World, store: Store) -> None:
    pod = connect_pod(world)
    content = store.put_input("content", pack(train__py="print(1)"), unpack=True)
    big = store.put_input("big", secrets.token_bytes(300_000))
    pod.start(order("ok", "4", "0.3", inputs=(content, big)))

    state = pod.wait_phase(PodPhase.EXITED)

    assert (state.exit_code, state.problem, state.oom_killed) == (0, None, False)
    assert state.verdict is not None
    assert state.verdict.outcome == "succeeded"
    assert state.progress is not None
    assert state.progress.percent == 100
    assert read_console(state).startswith("line 1 of 4\n")
    assert state.console_size == len(read_console(state))
    assert state.prepared_at is not None
    assert state.running_at is not None
    assert state.exited_at is not None
    assert state.prepared_at <= state.running_at <= state.exited_at <= datetime.now(UTC)
    prefix = secrets.token_hex(4)
    report = pod.upload(store.grant_outputs(state, prefix))
    assert set(report.uploaded) == {file.path for file in state.files}
    assert (report.expired, report.failed) == ((), {})
    assert store.objects.get(BUCKET, f"{prefix}/models/long.h5") == b"long of s\n"


def test_the_console_is_told_from_where_it_was_left(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("ok", "3", "0"))
    state = pod.wait_phase(PodPhase.EXITED)
    rest = pod.poll(console_offset=state.console_size - 5, console_bytes=3)
    assert read_console(rest) == read_console(state)[-5:-2]
    assert pod.poll(console_bytes=0).console == ""


def test_uploading_again_changes_nothing(world: World, store: Store) -> None:
    pod = connect_pod(world)
    pod.start(order("ok", "1", "0"))
    state = pod.wait_phase(PodPhase.EXITED)
    grants = store.grant_outputs(state, secrets.token_hex(4))
    assert pod.upload(grants) == pod.upload(grants)


def test_files_without_a_usable_grant_are_told(world: World, store: Store) -> None:
    pod = connect_pod(world)
    pod.start(order("ok", "1", "0"))
    state = pod.wait_phase(PodPhase.EXITED)
    grants = store.grant_outputs(state, secrets.token_hex(4))
    grants["models/long.h5"] = spoil(grants["models/long.h5"])
    grants["not/there"] = grants["models/short.h5"]
    pod.run("echo more >> /workspace/touchstone/attempt/out/models/short.h5")

    report = pod.upload(grants)

    assert report.expired == ("models/long.h5",)
    assert report.failed == {
        "not/there": "is not in the verdict",
        "models/short.h5": "is not the file that the verdict lists",
    }
    assert set(report.uploaded) == {"result.json", "console.log"}


def spoil(grant: Grant) -> Grant:
    """Return a grant as it is when its time is over."""
    head, _, rest = grant.url.partition("X-Amz-Signature=")
    signature, _, tail = rest.partition("&")
    return grant.model_copy(update={"url": f"{head}X-Amz-Signature={signature[::-1]}&{tail}"})


def test_two_starts_at_once_start_one(world: World) -> None:
    pod = connect_pod(world)
    pod.poll()
    wanted = order("sleep", "60")
    with ThreadPoolExecutor(2) as pool:
        states = list(pool.map(pod.start, [wanted, wanted]))
    assert {state.ref for state in states} == {REF}
    pod.wait_phase(PodPhase.RUNNING)
    assert pod.start(wanted).phase is PodPhase.RUNNING
    assert pod.run("pgrep -cf 'touchstone_agent.pod run$'") == "1"
    assert pod.poll(console_bytes=100).console_size == len("sleeping\n")


def test_a_start_for_another_attempt_is_refused(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("sleep", "60"))
    other = REF.model_copy(update={"fence": 2})
    code, _, errors = pod.call("start", order("sleep", "60", ref=other))
    assert code == 2
    assert "this pod is for s/i5 with fence 1" in errors


def test_fresh_grants_are_taken_when_the_store_refuses_the_old_ones(
    world: World, store: Store
) -> None:
    pod = connect_pod(world)
    good = store.put_input("content", pack(train__py="print(1)"), unpack=True)
    bad = good.model_copy(update={"grant": spoil(good.grant)})
    pod.start(order("ok", "1", "0", inputs=(bad,)))
    assert wait_for("others are wanted", lambda: pod.poll().wants_grants) == ("content",)
    assert pod.poll().phase is PodPhase.PREPARING

    pod.start(order("ok", "1", "0", inputs=(good,)))

    state = pod.wait_phase(PodPhase.EXITED)
    assert (state.exit_code, state.wants_grants) == (0, ())


def test_an_archive_that_leads_out_of_its_folder_is_the_submissions_fault(
    world: World, store: Store
) -> None:
    pod = connect_pod(world)
    content = store.put_input("content", pack(**{"..__evil": "x"}), unpack=True)
    pod.start(order("ok", "1", "0", inputs=(content,)))
    state = pod.wait_phase(PodPhase.EXITED)
    assert state.is_submissions_fault
    assert "leads out of the archive" in str(state.problem)
    assert (state.exit_code, state.running_at) == (None, None)


def test_a_runner_that_dies_without_a_verdict_is_told(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("crash", "5"))
    state = pod.wait_phase(PodPhase.EXITED)
    assert (state.exit_code, state.verdict) == (5, None)
    assert state.problem == "no verdict.json: the runner was ended before it could write one"
    assert read_console(state) == "it went wrong before there was a console\n"


def test_nothing_that_a_trainer_starts_outlives_it(world: World) -> None:
    pod = connect_pod(world)
    # Numbers of its own: others that test beside it leave such processes behind, too.
    runner, numbers = RUNNER, [f"{secrets.randbelow(10**9):09d}" for _ in range(2)]
    for usual, own in zip(("303", "304"), numbers, strict=True):
        runner = runner.replace(f"sleep {usual}", f"sleep {own}")
    pod.start(order("leave", command=("/bin/sh", "-c", runner, "runner.sh")))
    pod.wait_phase(PodPhase.EXITED)
    assert pod.list_of_nobody() == ""
    # As arguments of their own: the text of the runner is in its own command line as well.
    assert not [pid for number in numbers for pid in find_processes(f"sleep\0{number}")]


def test_the_trainer_is_nobody_and_sees_nothing_of_the_pod(world: World) -> None:
    pod = connect_pod(world, SOMETHING_OF_THE_POD="secret", XLA_FLAGS="--of the_image")
    look = """
say() { echo "$*" >> "$1/console.log"; }
{ env | sort
  id -u; id -g; id -G
  grep -e CapEff -e NoNewPrivs /proc/self/status
  grep processes /proc/self/limits
  cat /proc/1/environ 2>&1 || echo 'PID 1 is closed'
  ls /workspace/touchstone/state 2>&1 || echo 'the state is closed'
  touch "$0/x" 2>&1 || echo 'in is read-only'
  touch "$TMPDIR/x" && echo 'tmp is writable'
} > "$1/console.log"
exit 9
"""
    pod.start(order("ok", command=("/bin/sh", "-c", look), argv=("{in}", "{out}")))
    state = pod.wait_phase(PodPhase.EXITED)
    seen = read_console(state)
    lines = seen.splitlines()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names == {
        *("HOME", "TMPDIR", "PATH", "PWD", "LANG", "XLA_FLAGS"),
        *("TOUCHSTONE_SUBMISSION_ID", "TOUCHSTONE_OUT", "TOUCHSTONE_PROGRESS_FILE"),
        *("TOUCHSTONE_WALL_SECONDS", "TOUCHSTONE_MEMORY_MIB", "TOUCHSTONE_CONSOLE_BYTES"),
        *("TOUCHSTONE_IN", "TOUCHSTONE_OUTPUT_BYTES"),
    }
    assert "XLA_FLAGS=--of the_image" in lines
    assert "RUNPOD" not in seen
    assert lines.count("65534") == 3
    assert "CapEff:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "Max processes 8192 8192 processes" in [" ".join(line.split()) for line in lines]
    for closed in ("PID 1 is closed", "the state is closed", "in is read-only", "tmp is writable"):
        assert closed in lines


def test_an_image_that_says_so_keeps_its_root_with_next_to_no_rights(world: World) -> None:
    pod = connect_pod(world, TOUCHSTONE_RUNNER_USER="root")
    look = """
{ id -u; id -G
  grep -e CapEff -e CapBnd -e CapInh -e NoNewPrivs /proc/self/status
  echo "start the trainer as $TOUCHSTONE_TRAINER_USER"
  stat -c '%n %u %a' "$1" "$TMPDIR"
  ls /workspace/touchstone/state 2>&1 || echo 'the state is closed'
} > "$1/console.log"
exit 9
"""
    pod.start(order("ok", command=("/bin/sh", "-c", look), argv=("{in}", "{out}")))
    lines = read_console(pod.wait_phase(PodPhase.EXITED)).splitlines()
    three = f"{1 << 5 | 1 << 6 | 1 << 7:016x}"
    assert lines[:2] == ["0", "0"]
    assert f"CapEff:\t{three}" in lines
    assert f"CapBnd:\t{three}" in lines
    assert f"CapInh:\t{0:016x}" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "start the trainer as 65534:65534" in lines
    assert sum(line.endswith(" 0 1777") for line in lines) == 2


def test_a_runner_that_is_stopped_does_not_lift_the_limits_of_a_pod(world: World) -> None:
    mib = 1024**2
    pod = connect_pod(world)
    limits = Limits(memory_mib=1024, wall_seconds=300, output_bytes=mib, console_bytes=mib)
    pod.start(order("fill", limits=limits))
    state = pod.wait_phase(PodPhase.EXITED)
    assert (state.exit_code, state.files, state.problem) == (3, (), None)
    assert state.verdict is not None
    assert state.verdict.failure_class == "limit"
    assert state.verdict.reason == "output limit: stopped after more than 1 MiB"
    assert read_console(state) == "nobody is in charge\n"
    assert pod.run("ls /workspace/touchstone/attempt/out") == "console.log"
    assert pod.run("pgrep -u nobody -l || true") == ""


def test_a_branch_is_prepared_before_the_content_is_there(world: World, store: Store) -> None:
    pod = connect_pod(world)
    content = store.put_input("content", pack(**{"train.py": "submitted"}), unpack=True)
    branch = store.put_input("elnigma", pack(**{"requirements.txt": "tiny==1"}), unpack=True)
    prepare = Preparation(argv=("prepare", "{in}", "{out}"), inputs=("elnigma",))
    pod.start(order("look", inputs=(content, branch), prepare=prepare))
    state = pod.wait_phase(PodPhase.EXITED)
    assert (state.exit_code, state.problem) == (0, None)
    lines = read_console(state).splitlines()
    assert "cache is made of tiny==1" in lines
    assert "content submitted" in lines
    assert pod.run("cat /workspace/touchstone/cache/seen") == "elnigma"


# --- what goes wrong -------------------------------------------------------------------------


def test_a_broken_connection_does_not_touch_the_training(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("ok", "10", "0.5"))
    pod.wait_phase(PodPhase.RUNNING)
    follower = world.ssh.start(pod.port, "tail -f /workspace/touchstone/attempt/out/console.log")
    assert follower.stdout is not None
    follower.stdout.readline()
    world.admin.inject(pod.id, "run.ssh_drop", after=0)
    follower.communicate()
    assert follower.returncode != 0
    assert pod.wait_phase(PodPhase.EXITED).exit_code == 0


def test_a_container_that_was_started_again_does_not_run_the_attempt_again(world: World) -> None:
    pod = connect_pod(world)
    before = pod.start(order("sleep", "60"))
    pod.wait_phase(PodPhase.RUNNING)
    world.admin.inject(pod.id, "run.container_restart", after=0)
    world.wait_boots(pod.id, 2)

    after = pod.poll()

    assert after.boot_id != before.boot_id
    assert after.phase is PodPhase.EXITED
    assert after.problem == "the pod's container was started again"
    assert (after.ref, after.exit_code) == (REF, None)
    assert pod.start(order("sleep", "60")).phase is PodPhase.EXITED
    assert pod.list_of_nobody() == ""


def test_files_survive_a_restart_of_the_container(world: World, store: Store) -> None:
    pod = connect_pod(world)
    pod.start(order("ok", "1", "0"))
    state = pod.wait_phase(PodPhase.EXITED)
    world.admin.inject(pod.id, "run.container_restart", after=0)
    world.wait_boots(pod.id, 2)
    assert pod.poll().verdict == state.verdict
    report = pod.upload(store.grant_outputs(state, secrets.token_hex(4)))
    assert len(report.uploaded) == len(state.files)


def test_a_runner_that_is_killed_is_noticed(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("family"))
    pod.wait_phase(PodPhase.RUNNING)
    pod.run("kill -KILL $(pgrep -f 'touchstone_agent.pod run$')")
    state = pod.wait_phase(PodPhase.EXITED)
    assert "the pod's runner was ended" in str(state.problem)
    assert pod.list_of_nobody() == ""


def test_sshd_that_ends_is_started_again(world: World) -> None:
    pod = connect_pod(world)
    pod.poll()
    # It may take this login along.
    world.ssh.run(pod.port, "kill -KILL $(pgrep -o sshd)")
    assert pod.poll().phase is PodPhase.IDLE


def test_a_full_disk_neither_ends_the_lease_nor_hides_the_end(world: World) -> None:
    world.admin.add_fault("run.disk_full", params={"after": 3600, "mib": 64})
    pod = connect_pod(world)
    pod.start(order("sleep", "600"))
    pod.wait_phase(PodPhase.RUNNING)
    world.admin.inject(pod.id, "run.disk_full", after=0)
    wait_for("the disk is full", lambda: pod.poll().disk_free_bytes == 0)
    pod.run("pkill -TERM -u nobody")
    state = pod.wait_phase(PodPhase.EXITED)
    assert state.exited_at is not None
    assert pod.poll(lease_seconds=600).lease_seconds_left > 500


# --- the dead-man's switch -------------------------------------------------------------------


def test_a_pod_whose_lease_is_over_ends_itself(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("sleep", "60"))
    pod.poll(lease_seconds=2)
    pod.wait_gone()


def test_a_poll_renews_the_lease(world: World) -> None:
    pod = connect_pod(world, lease=60)
    assert pod.poll(lease_seconds=300).lease_seconds_left > 60
    let_pass(pod, 200)
    assert pod.poll(lease_seconds=300).phase is PodPhase.IDLE, "it ended with its first lease"
    let_pass(pod, 300)
    pod.wait_gone()


def let_pass(pod: ConnectedPod, seconds: int) -> None:
    """Make a pod's lease shorter by so much, as if the time had passed."""
    lease = "/workspace/touchstone/state/lease"
    pod.run(f'touch -m -d "@$(($(stat -c %Y {lease}) - {seconds}))" {lease}')


def test_a_pod_ends_with_its_life_however_often_it_is_asked(world: World) -> None:
    pod = connect_pod(world, life=8)
    port = pod.port

    def ask_and_look() -> bool:
        world.ssh.run(port, f"{POD_PROGRAM} poll", text='{"lease_seconds": 600}')
        return not pod.is_alive

    wait_for("it has ended itself", ask_and_look, every=0.3)
    assert pod.bill["spans"][0]["seconds"] >= 8
    assert pod.bill["open"] == 0


def test_a_restart_does_not_prolong_a_pods_life(world: World) -> None:
    pod = connect_pod(world, life=600)
    pod.poll(lease_seconds=3600)
    life = "/workspace/touchstone/state/life.json"
    # As if it had lived for almost as long as it may.
    pod.run(f'sed -i \'s/"lived": [0-9.]*/"lived": 599/\' {life}')
    assert json.loads(pod.run(f"cat {life}"))["lived"] == 599
    world.admin.inject(pod.id, "run.container_restart", after=0)
    pod.wait_gone()


def test_a_trainer_that_will_not_end_does_not_keep_its_pod(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("stubborn"))
    pod.wait_phase(PodPhase.RUNNING)
    assert pod.poll(lease_seconds=1).phase is PodPhase.RUNNING
    pod.wait_gone()


def test_a_pod_whose_key_may_not_terminate_it_is_stopped(world: World) -> None:
    world.admin.add_fault("platform.pod_key_may_not_terminate", count=None)
    pod = connect_pod(world, lease=3)
    wait_for("it is stopped", lambda: world.api.get_pod(pod.id).status is PodStatus.EXITED)
    assert pod.bill["open"] == 0


def test_a_pod_outlasts_an_api_that_is_out_of_order(world: World) -> None:
    pod = connect_pod(world, lease=3)
    world.admin.add_fault("platform.unavailable", count=3, match={"operation": "terminate"})
    world.admin.add_fault("platform.unavailable", count=None, match={"operation": "action"})
    world.admin.add_fault("platform.unavailable", count=None, match={"operation": "graphql"})
    pod.wait_gone()
    assert world.admin.count_hits()["platform.unavailable"] >= 3


def test_a_promise_that_is_not_kept_is_asked_for_again(world: World) -> None:
    world.admin.add_fault("terminate.ignored", count=2)
    pod = connect_pod(world, lease=3)
    pod.wait_gone()
    assert world.admin.count_hits()["terminate.ignored"] == 2


def test_the_end_that_has_begun_goes_on_after_a_restart(world: World) -> None:
    for operation in ("terminate", "action", "graphql"):
        world.admin.add_fault("platform.unavailable", count=None, match={"operation": operation})
    pod = connect_pod(world, lease=3)
    wait_for("it asks", lambda: world.admin.count_hits()["platform.unavailable"])
    assert pod.poll(lease_seconds=600).lease_seconds_left == 0
    world.admin.inject(pod.id, "run.container_restart", after=0)
    world.wait_boots(pod.id, 2)
    world.admin.clear_faults()
    pod.wait_gone()


def test_a_pod_that_nobody_can_log_in_to_ends_too(world: World) -> None:
    pod = connect_pod(world, lease=3, key="")
    pod.wait_gone()


def test_sigterm_ends_the_training_in_order(world: World) -> None:
    pod = connect_pod(world)
    pod.start(order("sleep", "60"))
    pod.wait_phase(PodPhase.RUNNING)
    world.ssh.run(pod.port, "kill -TERM 1")
    world.wait_boots(pod.id, 2)
    state = pod.poll()
    assert state.exit_code == 143
    assert state.verdict is not None
    assert state.verdict.failure_class == "aborted"
