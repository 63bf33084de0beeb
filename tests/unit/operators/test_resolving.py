"""What a submission's refs stand for is found out once."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.operators import preparing
from touchstone.operators import register as registering
from touchstone.operators import submission as steps
from touchstone.operators.register import RegisterOperator
from touchstone.services import checks
from touchstone.settings import Settings

ACCEPTED_AT = "2026-11-22T12:00:00+00:00"


def git(folder, *arguments):
    identity = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", "t"), ("EMAIL", "t@example.org"))
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=os.environ | identity,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


class Repository:
    """A repository whose branch goes on."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder
        git(folder, "init", "--quiet", "--initial-branch=main")
        self.commit()

    def commit(self):
        (self.folder / "features.py").write_text(os.urandom(8).hex())
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message=more")
        return git(self.folder, "rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path):
    return Repository(tmp_path / "source")


@pytest.fixture
def elnigma(tmp_path):
    return Repository(tmp_path / "elnigma")


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture(autouse=True)
def records(objects, elnigma, monkeypatch):
    settings = Settings(
        env="dev",
        allow_local_sources=True,
        elnigma_git=str(elnigma.folder),
        git_hosts=("*",),
        branch_users=("ada",),
    )
    store = FakeRecordStore(settings)
    for module in (steps, registering, preparing, checks):
        monkeypatch.setattr(module, "get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: store)
    monkeypatch.setattr("touchstone.stores.objects.ObjectStore.connect", lambda _: objects)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda settings=None: FakeAgentHook())
    return store


def build_context(run_id, conf):
    return {
        "dag_run": SimpleNamespace(
            conf=conf, run_id=run_id, triggering_user_name="ada", clear_number=0
        ),
        "params": {},
        "ti": SimpleNamespace(xcom_push=lambda **_: None, run_id=run_id),
    }


def register(run_id="s-1", **conf):
    return RegisterOperator(task_id="register").execute(build_context(run_id, conf))


def plan(run_id="s-1"):
    conf = {} if run_id == "s-1" else {"submission_id": "s-1"}
    steps.PlanOperator(task_id="plan").execute(build_context(run_id, conf))


def accept(records):
    records.change_submission(
        "s-1", lambda found: found.change(status="accepted", accepted_at=ACCEPTED_AT)
    )


def find_checkout(records):
    return records.get_task("s-1", "i1").spec.elnigma


def test_what_was_looked_at_is_what_runs_although_its_branch_goes_on(
    records, source, elnigma, objects
):
    """The branch was fetched by `register` to be looked at, and again by `plan` to be run."""
    first = git(elnigma.folder, "rev-parse", "HEAD")
    register(source=str(source.folder), intervals="1", branch="main")
    elnigma.commit()
    accept(records)

    plan()

    checkout = find_checkout(records)
    assert checkout.commit == first
    key = f"content/{checkout.sha256}.tar.gz"
    assert objects.get_size(Settings().content_bucket, key) == checkout.size


def test_a_repository_that_is_away_by_then_keeps_no_plan_from_being_made(records, source, elnigma):
    register(source=str(source.folder), intervals="1", branch="main")
    accept(records)
    elnigma.folder.rename(elnigma.folder.with_name("gone"))

    plan()

    assert find_checkout(records).commit


def test_the_next_run_takes_what_the_branch_stands_at_by_then(records, source, elnigma):
    register(source=str(source.folder), intervals="1", branch="main")
    accept(records)
    plan()
    second = elnigma.commit()
    records.change_submission("s-1", lambda found: found.change(status="success"))

    register("s-1--2", submission_id="s-1", intervals="1", branch="main")
    plan("s-1--2")

    assert find_checkout(records).commit == second


def test_a_step_that_is_repeated_takes_the_commit_that_it_took_before(records, source, elnigma):
    commit = git(source.folder, "rev-parse", "HEAD")
    branch = git(elnigma.folder, "rev-parse", "HEAD")
    for _ in range(2):
        register(source=str(source.folder), ref="main", intervals="1", branch="main")
        source.commit()
        elnigma.commit()

    found = records.get_submission("s-1")
    assert (found.commit, found.elnigma.commit) == (commit, branch)


def test_what_was_refused_is_looked_at_anew_when_it_was_mended(records, source):
    register(source=str(source.folder), ref="main")
    records.change_submission("s-1", lambda found: found.change(status="rejected"))
    second = source.commit()

    register(source=str(source.folder), ref="main")

    assert records.get_submission("s-1").commit == second


def test_a_plan_of_the_version_before_is_resolved_late(records, source, elnigma):
    register(source=str(source.folder), intervals="1", branch="main")
    accept(records)
    records.change_submission("s-1", lambda found: found.change(elnigma=None))
    second = elnigma.commit()

    plan()

    assert find_checkout(records).commit == second


def test_a_token_in_an_installations_own_url_is_refused_and_told_nobody(source, monkeypatch):
    settings = Settings(
        allow_local_sources=True,
        elnigma_git="https://s3cret@git.example.org/x",
        branch_users=("ada",),
    )
    for module in (steps, registering, preparing):
        monkeypatch.setattr(module, "get_settings", lambda: settings)

    with pytest.raises(AirflowFailException, match=r"branch: the setting TOUCHSTONE_EL") as raised:
        register(source=str(source.folder), intervals="1", branch="main")

    assert "s3cret" not in str(raised.value)


def test_a_submitter_with_a_name_without_end_is_refused(records, source):
    context = {
        "dag_run": SimpleNamespace(
            conf={"source": str(source.folder)}, run_id="s-1", triggering_user_name="x" * 512
        ),
        "params": {},
        "ti": SimpleNamespace(xcom_push=lambda **_: None, run_id="s-1"),
    }

    with pytest.raises(AirflowFailException, match="user: the name has more than 200 characters"):
        RegisterOperator(task_id="register").execute(context)
