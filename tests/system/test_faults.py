"""
A fault of the server is never the submitter's, and whatever is cleared trains or is told.

With containers and with processes: what a full disk or a vanished folder does differs. On CI with
containers only, unless the seed says otherwise.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import psutil
import pytest

from system.installation import EXAMPLES, SLOW
from touchstone.stack.layout import StatePaths
from waiting import wait_for

DISK_MIB = 48


RUNTIMES = ["docker", pytest.param("process", marks=pytest.mark.campaign(sample=16))]


@pytest.fixture(scope="module", params=RUNTIMES)
def anywhere(request):
    """An installation of each runtime."""
    name = "installation" if request.param == "docker" else "installation_of_processes"
    return request.getfixturevalue(name)


def find_folder(installation, task=None):
    """Return the folder of a task's attempt, or that of all attempts, on the one server."""
    folder = StatePaths(root=installation.state_dir).agent_state("local") / "attempts"
    return folder / task["container"] if task else folder


# --- the server's faults ------------------------------------------------------------------------


@pytest.fixture
def disk(anywhere):
    """The folder of the agent's attempts, on a small disk of its own."""
    folder = find_folder(anywhere)
    wait_for(
        "nothing runs and nothing is left to move",
        lambda: not anywhere.running_attempts() and not any(folder.iterdir()),
        every=0.5,
    )
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "touchstone-test", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def training(anywhere):
    """A submission whose one training runs."""
    submission_id = anywhere.submit(SLOW, "--intervals", "5")
    try:
        yield submission_id, anywhere.wait_for_task(submission_id, "i5", "running")
    finally:
        anywhere.cancel_what_goes_on(submission_id)


def make_vanish(folder):
    """Put a file where a folder is: whoever works as a process there might make another one."""
    file = folder.with_name("nothing")
    file.touch()
    while file.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(IsADirectoryError):
            file.rename(folder)


def wait_for_first_attempt(installation, submission_id):
    """Return the first attempt once it is one of several."""

    def find():
        task = installation.task(submission_id, "i5")
        return task["attempts"][0] if task.get("attempts") else None

    return wait_for(
        "another attempt has begun",
        find,
        unless=lambda: installation.find_end(submission_id),
        every=0.5,
    )


def assert_is_the_servers(attempt):
    assert attempt["outcome"] in {"failed(infrastructure)", "lost"}, attempt["reason"]
    assert "FileNotFoundError" not in attempt["reason"], attempt


def test_a_full_disk_is_the_servers_fault_and_the_task_is_tried_again(disk, anywhere, training):
    submission_id, task = training
    filler = disk / "filler"
    # Unbuffered: what is left in a buffer would be written once more when the file is closed.
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    anywhere.let_go(task)

    first = wait_for_first_attempt(anywhere, submission_id)
    filler.unlink()

    assert_is_the_servers(first)
    again = anywhere.wait_for_task(submission_id, "i5", "running", "success")
    assert again["attempt"] > task["attempt"]


def test_a_folder_that_vanishes_is_the_servers_fault_and_the_task_is_tried_again(
    anywhere, training
):
    submission_id, task = training
    make_vanish(find_folder(anywhere, task) / "out")

    first = wait_for_first_attempt(anywhere, submission_id)

    assert_is_the_servers(first)


def find_trainer(submission_id):
    """Return the process that trains: the runner's child, which hides what it was started with."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            # In a container, what began the runner has the same arguments, but for this one.
            is_runner = {"elnigma_runner", "train"} <= set(process.cmdline()) and (
                process.environ().get("TOUCHSTONE_SUBMISSION_ID") == submission_id
            )
            for child in process.children() if is_runner else ():
                if child.name().startswith(("elnigma", "python")):
                    return child
    return None


def take_all_files(process):
    """Let a process open no file more; as its user, who may do that without being mighty."""
    opened = process.num_fds()
    subprocess.run(
        ["prlimit", f"--pid={process.pid}", f"--nofile={opened}:{opened}"],
        check=True,
        user=process.uids().real,
        group=process.gids().real,
        extra_groups=[],
    )


def test_what_the_trainer_itself_cannot_open_is_the_servers_fault_and_the_task_is_tried_again(
    anywhere, training
):
    submission_id, task = training
    console = find_folder(anywhere, task) / "out" / "console.log"
    # Before, Python itself may still be starting, and a trainer that has not begun tells nothing.
    wait_for(
        "it computes features",
        lambda: console.exists() and b"slow line" in console.read_bytes(),
        every=0.5,
    )
    trainer = wait_for("it trains", lambda: find_trainer(submission_id), every=0.5)
    # As where others have taken all files that a machine can have open.
    take_all_files(trainer)
    anywhere.let_go(task)

    first = wait_for_first_attempt(anywhere, submission_id)

    assert_is_the_servers(first)


# --- older runs -----------------------------------------------------------------------------------


FAST = ("--intervals", "5", "--override", "training.epochs=2")


@pytest.fixture(scope="module")
def trained_twice(anywhere):
    """A submission that was scheduled twice, with the two runs that trained it."""
    submission_id = anywhere.submit(EXAMPLES / "momentum", *FAST, "--wait")
    anywhere.ask("schedule", submission_id, *FAST, "--wait")
    older, newer = anywhere.submission(submission_id)["run_ids"]
    return submission_id, older, newer


@pytest.mark.parametrize("step", ["train", "plan"])
def test_what_is_cleared_in_an_older_run_is_refused_at_once_and_changes_nothing(
    anywhere, trained_twice, step
):
    submission_id, older, newer = trained_twice
    before = anywhere.submission(submission_id)
    clear = {"dag_run_id": older, "task_ids": [step], "include_downstream": True}
    clear |= {"dry_run": False, "only_failed": False}

    anywhere.airflow.post("/dags/touchstone/clearTaskInstances", json=clear).raise_for_status()

    assert anywhere.wait_for_run_end(older) == "failed"
    after = anywhere.submission(submission_id)
    assert {name: after[name] for name in ("status", "score", "run_ids")} == {
        name: before[name] for name in ("status", "score", "run_ids")
    }
    assert after["run_ids"][-1] == newer


# --- an id is that of one content -----------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A repository with one feature set."""
    folder = tmp_path / "sets"
    shutil.copytree(EXAMPLES / "momentum", folder)
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(folder)], check=True)
    commit(folder)
    return folder


def commit(folder):
    """Commit whatever has changed."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "-C", str(folder), "add", "--all"], check=True)
    subprocess.run(
        ["git", "-C", str(folder), *identity, "commit", "--quiet", "-m", "more"], check=True
    )


def test_new_code_under_the_id_of_a_deleted_run_is_refused(anywhere, repository):
    """It skipped its validation, and got the results of the code that was there before."""
    path, run_id = "/dags/touchstone/dagRuns", f"ci-{anywhere.settings.env}"
    conf = {"source": repository.as_uri(), "system": "feature_set"}
    run = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
    anywhere.airflow.post(path, json=run).raise_for_status()
    before = anywhere.wait_for_submission(run_id, "accepted")
    assert anywhere.wait_for_run_end(run_id) == "success"
    anywhere.airflow.delete(f"{path}/{run_id}").raise_for_status()
    with (repository / "features.py").open("a") as file:
        file.write("\nraise RuntimeError('never validated')\n")
    commit(repository)

    anywhere.airflow.post(path, json=run).raise_for_status()

    assert anywhere.wait_for_run_end(run_id) == "failed"
    after = anywhere.submission(run_id)
    assert after["content_sha256"] == before["content_sha256"]
    assert after["status"] == "accepted"

    # The command line says so as well, and whose content the id stands for.
    anywhere.airflow.delete(f"{path}/{run_id}").raise_for_status()
    done = anywhere.run("submit", repository.as_uri(), "--id", run_id, "--wait", "--as", "admin")
    assert done.returncode == 1
    assert f"submission {run_id} exists already, with content" in done.stdout + done.stderr
