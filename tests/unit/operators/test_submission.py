"""Which runs may bring, train and close a submission, whatever their ids, confs and XComs say."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fakes.agents import FakeAgentHook
from fakes.data_sets import add
from fakes.events import build_net, build_series
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields, read_tasks
from touchstone.core import attempts
from touchstone.core.events import parse_event
from touchstone.core.fold_results import Pooled
from touchstone.core.names import build_submission_id
from touchstone.core.records.actions import MAX_ACTIONS
from touchstone.core.records.judged import Judged
from touchstone.core.records.submissions import PinnedImage
from touchstone.hooks.repository import Content
from touchstone.operators import preparing
from touchstone.operators import register as registering
from touchstone.operators import submission as steps
from touchstone.operators.authority import read_interval
from touchstone.operators.register import RegisterOperator
from touchstone.services.events import EventKeeper
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.parts import Parts
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.messages import AttemptRef, Cancel

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GIT = "https://host/owner/repo.git"
SOURCE = {"source": GIT}
SCHEDULE = {"intervals": "1,5"}


@pytest.fixture
def records():
    return FakeRecordStore()


@pytest.fixture
def agent():
    return FakeAgentHook()


@pytest.fixture
def fetched():
    """What the source holds at the moment."""
    return SimpleNamespace(content=Content(archive=b"archive", commit="c" * 40))


@pytest.fixture(autouse=True)
def parts(records, agent, fetched, monkeypatch):
    settings = Settings(env="dev")
    for module in ("submission", "register", "preparing", "authority"):
        monkeypatch.setattr(f"touchstone.operators.{module}.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.services.checks.get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    for module in (preparing, registering):
        monkeypatch.setattr(module, "store_content", lambda _: None)
    monkeypatch.setattr(ObjectStore, "connect", lambda _: FakeObjectStore())
    monkeypatch.setattr(RegisterOperator, "_fetch", lambda *_: fetched.content)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda **_: agent)


@pytest.fixture
def put_event(records, tmp_path):
    """Return what applies an event on a version of a data set, and returns what is trained on."""

    def put_event(name, version):
        settings = Settings(env="dev")
        add(records, FakeObjectStore(), settings, tmp_path / version, version=version)
        keeper = EventKeeper.build(records, settings, lambda: datetime.now(UTC))
        text = (
            'schema_version = 1\ntitle = "Winter"\n[data]\nname = "eurusd-hourly"\n'
            f'version = "{version}"\n'
        )
        keeper.apply(name, parse_event(text, name=name), by="admin")
        return keeper.find_data(name)

    return put_event


def build_context(run_id, user="ann", clear_number=0, **conf):
    run = SimpleNamespace(
        run_id=run_id, conf=conf, triggering_user_name=user, clear_number=clear_number
    )
    return {"dag_run": run, "params": {}}


def register(run_id, user="ann", **conf):
    operator = RegisterOperator(task_id="register")
    return operator.execute(build_context(run_id, user, **conf))


def accept(run_id, user="ann", **conf):
    return steps.accept_submission(**build_context(run_id, user, **conf))


def plan(run_id, user="ann", **conf):
    return steps.PlanOperator(task_id="plan").execute(build_context(run_id, user, **conf))


def evaluate(run_id, user="ann", **conf):
    steps.evaluate_submission(**build_context(run_id, user, **conf))


def end(records, submission_id, task_id, outcome="succeeded", **facts):
    status = "success" if outcome == "succeeded" else "error"
    change_fields(
        records, submission_id, task_id, **{"status": status, "outcome": outcome, **facts}
    )


def everything(records, submission_id):
    return records.get_submission(submission_id), read_tasks(records, submission_id)


@pytest.fixture
def accepted(records):
    """A submission that was accepted, without a schedule."""
    register("mine", **SOURCE)
    end(records, "mine", "validation")
    assert accept("mine", **SOURCE) is False
    return "mine"


@pytest.fixture
def trained(records):
    """A submission of one run that was trained with success."""
    conf = SOURCE | SCHEDULE
    register("mine", **conf)
    end(records, "mine", "validation")
    assert accept("mine", **conf) is True
    assert plan("mine", **conf) == [1, 5]
    for task_id in ("i1", "i5"):
        published = {"metrics": {"net_sharpe": 1.5}, "charts": [], "models": []}
        end(records, "mine", task_id, published=published)
    evaluate("mine", **conf)
    assert records.get_submission("mine").status == "success"
    return "mine"


# --- what a run leaves on record ---------------------------------------------------------------


def test_a_new_submission_is_on_record_with_its_run_and_what_there_is_to_validate(records):
    assert register("mine", **SOURCE) == "mine"

    submission, (task,) = everything(records, "mine")
    assert (submission.submitted_by, submission.run_ids) == ("ann", ("mine",))
    assert (task.task_id, task.run_id, task.map_index) == ("validation", "mine", -1)
    assert task.spec.submitted_by == "ann"


def test_validation_and_trainings_are_on_the_data_of_the_schedules_event(records, put_event):
    data = put_event("winter", "2018-02")
    conf = SOURCE | SCHEDULE | {"event": "winter"}

    register("mine", **conf)
    end(records, "mine", "validation")
    accept("mine", **conf)
    plan("mine", **conf)

    submission, tasks = everything(records, "mine")
    assert submission.data == data
    assert data.label == "eurusd-hourly 2018-02"
    assert {task.task_id: task.spec.data for task in tasks} == dict.fromkeys(
        ("validation", "i1", "i5"), data
    )


def test_another_schedule_is_on_the_data_of_its_own_event(records, accepted, put_event):
    """What was validated before stays so: each training checks its features on its own data."""
    data = put_event("winter", "2018-02")
    scheduled = {"submission_id": "mine", "event": "winter"} | SCHEDULE
    register("mine--2", **scheduled)
    plan("mine--2", **scheduled)
    assert {task.spec.data for task in read_tasks(records, "mine") if task.interval} == {data}
    for task_id in ("i1", "i5"):
        published = {"metrics": {"net_sharpe": 1.5}, "charts": [], "models": []}
        end(records, "mine", task_id, published=published)
    evaluate("mine--2", **scheduled)

    again = {"submission_id": "mine"} | SCHEDULE
    register("mine--3", **again)
    plan("mine--3", **again)
    assert {task.spec.data for task in read_tasks(records, "mine")} == {None}
    assert records.get_submission("mine").data is None


def test_a_run_that_was_planned_keeps_its_data_though_its_event_has_others(records, put_event):
    data = put_event("winter", "1")
    conf = SOURCE | SCHEDULE | {"event": "winter"}
    register("mine", **conf)
    end(records, "mine", "validation")
    accept("mine", **conf)
    assert put_event("winter", "2") != data

    plan("mine", **conf)

    assert {task.spec.data for task in read_tasks(records, "mine")} == {data}


def test_a_plan_leaves_intervals_in_the_xcom_and_everything_else_on_record(records, trained):
    tasks = {task.task_id: task for task in read_tasks(records, trained)}

    assert [tasks[name].map_index for name in ("i1", "i5")] == [0, 1]
    assert {tasks[name].run_id for name in ("i1", "i5")} == {"mine"}
    assert tasks["i5"].spec.image == Settings().trainer_image


@pytest.mark.parametrize(("setting", "image_cuda"), [("", None), ("mine:cuda", "mine:cuda")])
def test_a_plan_takes_the_images_from_the_settings_and_a_validation_has_one(
    records, monkeypatch, setting, image_cuda
):
    settings = Settings(env="dev", trainer_image="mine:1", trainer_image_cuda=setting)
    for module in (steps, registering, preparing):
        monkeypatch.setattr(module, "get_settings", lambda: settings)
    conf = SOURCE | SCHEDULE
    register("mine", **conf)
    end(records, "mine", "validation")
    accept("mine", **conf)
    plan("mine", **conf)

    images = {
        task.task_id: (task.spec.image, task.spec.image_cuda)
        for task in read_tasks(records, "mine")
    }
    trained = ("mine:1", image_cuda)
    assert images == {"validation": ("mine:1", None), "i1": trained, "i5": trained}


class TagsOfToday:
    """A registry whose tags move, and that may be away or refuse."""

    def __init__(self):
        self.digest = "a" * 64
        self.problem = None

    def pin(self, _, image):
        if self.problem:
            raise self.problem
        return PinnedImage(pinned=f"{image}@sha256:{self.digest}", note=None)


@pytest.fixture
def tags(monkeypatch):
    tags = TagsOfToday()
    settings = Settings(
        env="dev",
        trainer_image="reg.example/t:1",
        trainer_image_cuda="reg.example/t:cuda",
        runpod={"image": "reg.example/t:pod"},
    )
    for module in (steps, registering, preparing):
        monkeypatch.setattr(module, "get_settings", lambda: settings)
    monkeypatch.setattr("touchstone.hooks.registry.pin_image", tags.pin)
    return tags


def test_what_a_tag_named_when_it_was_submitted_is_what_trains(records, tags):
    register("mine", **SOURCE)
    end(records, "mine", "validation")
    accept("mine", **SOURCE)
    tags.digest = "b" * 64

    register("mine--2", submission_id="mine", **SCHEDULE)
    plan("mine--2", submission_id="mine", **SCHEDULE)

    submission, tasks = everything(records, "mine")
    first = "a" * 64
    for task in tasks:
        assert task.spec.image == f"reg.example/t:1@sha256:{first}"
        assert task.spec.image_pod == f"reg.example/t:pod@sha256:{first}"
    trainings = [task for task in tasks if task.kind == "training"]
    assert {task.spec.image_cuda for task in trainings} == {f"reg.example/t:cuda@sha256:{first}"}
    assert submission.images["reg.example/t:1"].note is None


def test_an_image_that_was_not_pinned_is_looked_up_by_the_next_run(records, tags, monkeypatch):
    note = PinnedImage(pinned=None, note="not resolved")
    with monkeypatch.context() as before:
        before.setattr("touchstone.hooks.registry.pin_image", lambda *_: note)
        register("mine", **SOURCE)
        end(records, "mine", "validation")
        accept("mine", **SOURCE)
        assert records.get_submission("mine").images["reg.example/t:1"] == note
        assert records.find_task("mine", "validation").spec.image == "reg.example/t:1"

    register("mine--2", submission_id="mine", **SCHEDULE)

    assert records.get_submission("mine").images["reg.example/t:1"].pinned


def test_an_image_that_its_registry_has_not_is_refused_before_anything_runs(records, tags):
    tags.problem = ConfigurationError("image reg.example/t:1: no such image")

    with pytest.raises(AirflowFailException, match=r"refused: image reg\.example/t:1"):
        register("mine", **SOURCE)

    submission, tasks = everything(records, "mine")
    assert (submission.status, submission.reason) == (
        "rejected",
        "image reg.example/t:1: no such image",
    )
    assert tasks == []

    tags.problem = None
    register("mine", **SOURCE)  # its admin has mended it, and cleared the step
    assert records.get_submission("mine").status == "validating"


def test_a_registry_that_is_away_refuses_nobody(records, tags):
    tags.problem = TransientError("image reg.example/t:1: does not answer")

    with pytest.raises(TransientError):
        register("mine", **SOURCE)
    assert records.get_submission("mine").status == "submitted"


@pytest.mark.parametrize("field", ["image", "image_cuda", "trainer_image_cuda", "gpus"])
def test_no_run_says_in_which_image_it_trains(records, accepted, field):
    with pytest.raises(AirflowFailException, match=f"{field}: unknown field"):
        register("again", submission_id=accepted, **SCHEDULE, **{field: "evil:1"})


def test_what_the_form_triggers_for_an_accepted_submission_is_a_run_of_it(records, accepted):
    """Its run id is Airflow's own, and says nothing of the submission."""
    run_id, conf = "manual__2026-11-22T12:00:00", {"submission_id": "mine", **SCHEDULE}

    assert register(run_id, **conf) == "mine"
    assert accept(run_id, **conf) is True
    assert plan(run_id, **conf) == [1, 5]

    assert records.get_submission("mine").run_ids == ("mine", run_id)
    assert records.get_task("mine", "i5").run_id == run_id


def test_an_admin_may_schedule_what_somebody_else_has_submitted(records, accepted):
    conf = {"submission_id": "mine", **SCHEDULE}

    register("mine--2", "admin", **conf)

    assert plan("mine--2", "admin", **conf) == [1, 5]
    assert records.get_submission("mine").scheduled_by == "admin"
    assert records.get_submission("mine").submitted_by == "ann"


def test_a_submission_keeps_its_newest_actions_only(records, accepted):
    old = {"at": NOW.isoformat(), "by": "ann", "action": "scheduled as x"}
    records.change_submission("mine", lambda found: found.change(actions=[old] * MAX_ACTIONS))

    register("mine--2", submission_id="mine", **SCHEDULE)

    actions = records.get_submission("mine").actions
    assert len(actions) == MAX_ACTIONS
    assert actions[-1].action == "scheduled as mine--2"


# --- strangers ----------------------------------------------------------------------------------

STRANGERS = [
    ("mine--2", SOURCE),
    ("mine--2", {}),
    ("mine--2", SOURCE | SCHEDULE),
    ("mine", SOURCE),
    ("mine", {"source": "https://host/evil/repo.git"}),
    ("mine", {}),
    ("mine", {"submission_id": "mine", **SCHEDULE}),
    ("mine--7", {"submission_id": "mine", **SCHEDULE}),
    ("evil--2", {"submission_id": "mine", **SCHEDULE}),
    ("manual__1", {"submission_id": "mine", **SCHEDULE}),
    ("mine--2", {"submission_id": "evil", **SCHEDULE}),
    ("mine", {"submission_id": "evil", **SCHEDULE}),
    ("mine--2", {"submission_id": "", **SOURCE}),
    ("mine--2", {"submission_id": {"a": 1}}),
    ("mine--2", {"submission_id": "mine"}),
    ("mine--2", SOURCE | {"sauce": 1}),
    ("mine", SOURCE | {"sauce": 1}),
    ("MINE", {"submission_id": "mine", **SCHEDULE}),
]


@pytest.mark.parametrize(("run_id", "conf"), STRANGERS)
@pytest.mark.parametrize("state", ["new", "accepted", "trained"])
def test_no_step_of_a_strangers_run_changes_anything_of_a_submission(
    records, agent, request, state, run_id, conf
):
    """By the id of a run, its conf and its XComs anybody could renew, reject or close it."""
    if state == "new":
        register("mine", **SOURCE)
    else:
        request.getfixturevalue(state)
    register("evil", "eve", **SOURCE)
    end(records, "evil", "validation")
    accept("evil", "eve", **SOURCE)
    before = everything(records, "mine")

    for step in (register, accept, plan, evaluate):
        # Marked as successes by hand, each step is followed by the next one.
        with pytest.raises(AirflowFailException) as refused:
            step(run_id, "eve", **conf)
        assert str(refused.value)

    assert everything(records, "mine") == before
    assert agent.sent == []


def test_a_run_of_an_id_that_derives_to_somebody_elses_submission_is_refused(records):
    run_id = "manual__2026-11-22T12:00:00+00:00"
    submission_id = register(run_id, **SOURCE)
    assert submission_id == build_submission_id(run_id)
    before = everything(records, submission_id)

    for name in (submission_id, f"{submission_id}--2"):
        with pytest.raises(AirflowFailException, match=r"run_id: .* choose another run id"):
            register(name, "eve", **SOURCE)

    assert everything(records, submission_id) == before


def test_a_run_cannot_bear_the_name_of_another_submission_than_it_trains(records, accepted):
    register("other", **SOURCE)
    before = everything(records, "mine"), everything(records, "other")

    with pytest.raises(AirflowFailException, match="run_id: other--2 stands for submission other"):
        register("other--2", submission_id="mine", **SCHEDULE)

    assert (everything(records, "mine"), everything(records, "other")) == before


def test_a_stranger_learns_nothing_of_whether_there_is_a_submission(records, accepted):
    told = []
    for submission_id in ("mine", "nobody"):
        with pytest.raises(AirflowFailException) as refused:
            register("evil", "eve", submission_id=submission_id, **SCHEDULE)
        told.append(str(refused.value).replace(submission_id, "X"))

    assert told[0] == told[1]


# --- the owner's own runs -----------------------------------------------------------------------


@pytest.mark.parametrize("status", ["validating", "accepted", "rejected"])
def test_a_run_id_is_used_for_one_source_only(records, accepted, status):
    """The run was deleted, and another one of the same id brought something else."""
    is_accepted = {} if status == "accepted" else {"accepted_at": None}
    records.change_submission("mine", lambda found: found.change(status=status, **is_accepted))
    before = everything(records, "mine")

    with pytest.raises(
        AirflowFailException, match=r"exists already, from .*; choose another run id"
    ):
        register("mine", source=GIT, path="elsewhere")

    assert everything(records, "mine") == before


@pytest.mark.parametrize("clears", [0, 1], ids=["at once", "cleared afterwards"])
def test_an_id_stands_for_one_content_also_when_its_run_was_deleted(
    records, accepted, fetched, clears
):
    """The branch has moved; what was validated and trained is not what is there now."""
    first, fetched.content = fetched.content, Content(archive=b"other", commit="d" * 40)
    before = everything(records, "mine")

    for clear_number in range(clears + 1):
        with pytest.raises(AirflowFailException) as refused:
            register("mine", clear_number=clear_number, **SOURCE)

    told = f"submission mine exists already, with content {first.sha256[:12]} from"
    assert told in str(refused.value)
    assert f"this is {fetched.content.sha256[:12]}; choose another run id" in str(refused.value)
    submission, tasks = everything(records, "mine")
    stored = submission.dump()
    changed = {key for key, value in stored.items() if before[0].dump().get(key) != value}
    assert changed <= {"is_run_anew", "version"}
    assert tasks == before[1]


def test_the_same_content_may_come_again_under_its_id(records, accepted):
    assert register("mine", **SOURCE) == "mine"

    assert everything(records, "mine")[0].status == "accepted"


def test_a_cleared_run_of_what_was_accepted_keeps_its_content(records, accepted, fetched):
    first, fetched.content = fetched.content, Content(archive=b"other", commit="d" * 40)

    register("mine", clear_number=1, **SOURCE)

    assert everything(records, "mine")[0].content_sha256 == first.sha256


def test_what_was_retracted_is_not_brought_again(records, accepted):
    records.change_submission("mine", lambda found: found.change(status="retracted"))
    before = everything(records, "mine")

    with pytest.raises(AirflowFailException, match="choose another run id"):
        register("mine", **SOURCE, **SCHEDULE)

    assert everything(records, "mine") == before


def test_a_cleared_run_fetches_its_source_again_until_it_is_accepted(records, fetched):
    register("mine", **SOURCE)
    end(records, "mine", "validation", "failed(user)", reason="bad shape")
    with pytest.raises(AirflowFailException, match="rejected: bad shape"):
        accept("mine", **SOURCE)
    fetched.content = Content(archive=b"mended", commit="d" * 40)

    register("mine", **SOURCE)

    submission, (task,) = everything(records, "mine")
    assert (submission.status, submission.commit) == ("validating", "d" * 40)
    assert task.spec.content_sha256 == fetched.content.sha256
    assert task.newest.outcome is None


def test_a_cleared_run_that_was_refused_is_taken_on_when_it_can_be_placed(records, monkeypatch):
    """Its record had been written by the refusal, and knew nothing of what it was to validate."""

    def refuse(*_, **__):
        raise ConfigurationError("require_cuda: no server has it")

    with monkeypatch.context() as no_server:
        no_server.setattr(registering, "check_placeable", refuse)
        with pytest.raises(AirflowFailException, match="require_cuda"):
            register("mine", **SOURCE)
    assert records.get_submission("mine").status == "rejected"

    register("mine", **SOURCE)

    submission, (task,) = everything(records, "mine")
    assert (submission.status, submission.source_url) == ("validating", GIT)
    assert task.spec.system == "feature_set"


def test_what_was_not_validated_is_not_accepted(records):
    """Marked as a success by hand, ``validate`` says nothing: its record does."""
    register("mine", **SOURCE)

    with pytest.raises(AirflowFailException, match="rejected: the validation has no verdict"):
        accept("mine", **SOURCE)


def test_only_what_was_validated_is_accepted(records):
    """The worker died before the validation of what the source has become was on record."""
    register("mine", **SOURCE)
    end(records, "mine", "validation")
    records.change_submission("mine", lambda found: found.change(content_sha256="e" * 64))

    with pytest.raises(AirflowFailException, match="rejected: what it brought was not validated"):
        accept("mine", **SOURCE)


def test_what_was_never_accepted_is_not_planned(records):
    """``validate`` and ``accept`` were marked as successes by hand."""
    conf = SOURCE | SCHEDULE
    register("mine", **conf)
    before = everything(records, "mine")

    with pytest.raises(AirflowFailException, match="mine was never accepted"):
        plan("mine", **conf)

    assert everything(records, "mine") == before


def test_a_run_without_a_schedule_trains_and_closes_nothing(records, trained):
    """It validated only; cleared, it must not do over what a later run has done."""
    register("other", **SOURCE)
    end(records, "other", "validation")
    accept("other", **SOURCE)
    register("other--2", submission_id="other", **SCHEDULE)
    records.change_submission("other", lambda found: found.change(status="success"))
    register("other", **SOURCE)
    before = everything(records, "other")

    assert accept("other", **SOURCE) is False
    for step in (plan, evaluate):
        with pytest.raises(AirflowFailException, match="nothing was"):
            step("other", **SOURCE)

    assert everything(records, "other") == before


@pytest.mark.parametrize("step", [accept, plan, evaluate])
def test_a_run_that_a_newer_one_has_replaced_changes_nothing(records, trained, step):
    """Cleared, ``evaluate`` of the older run made an error of the newer one's success."""
    register("mine--2", submission_id="mine", intervals="20")
    before = everything(records, "mine")

    with pytest.raises(AirflowFailException, match="mine--2 is; clear the task 'register'"):
        step("mine", **SOURCE, **SCHEDULE)

    assert everything(records, "mine") == before


def test_a_run_is_not_taken_up_again_while_a_newer_one_is_at_work(records, trained):
    register("mine--2", submission_id="mine", intervals="20")
    before = everything(records, "mine")

    with pytest.raises(AirflowFailException, match="run_id: mine--2 is at work on submission mine"):
        register("mine", **SOURCE, **SCHEDULE)

    assert everything(records, "mine") == before


def test_a_cleared_run_does_its_own_work_again_and_is_the_newest_from_then_on(records, trained):
    register("mine--2", submission_id="mine", intervals="20")
    plan("mine--2", submission_id="mine", intervals="20")
    end(records, "mine", "i20", "failed(user)", reason="bad shape")
    with pytest.raises(AirflowFailException, match="bad shape"):
        evaluate("mine--2", submission_id="mine", intervals="20")

    register("mine", **SOURCE, **SCHEDULE)

    assert accept("mine", **SOURCE, **SCHEDULE) is True
    assert plan("mine", **SOURCE, **SCHEDULE) == [1, 5]
    submission = records.get_submission("mine")
    assert submission.run_ids == ("mine--2", "mine")
    assert submission.tasks == ("i1", "i5")


def test_a_plan_that_is_made_again_ends_what_its_own_run_has_at_work(records, agent, trained):
    records.change_task(
        "mine",
        "i5",
        lambda found: attempts.claim_attempt(
            found, attempt=2, server="rio", container_of=lambda _: "c", now=NOW
        ),
    )

    plan("mine", **SOURCE, **SCHEDULE)

    assert [command.ref.task_id for command in agent.commands(Cancel)] == ["i5"]
    assert records.get_task("mine", "i5").newest.number == 0


# --- waived columns ------------------------------------------------------------------------------


WAIVED = {**SOURCE, "waived_columns": ["target", "-x"]}


def test_waived_columns_are_on_record_and_hold_at_validation_and_training(records):
    register("mine", **WAIVED, **SCHEDULE)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    assert accept("mine")
    plan("mine")

    submission, tasks = everything(records, "mine")
    assert submission.waived_columns == ("target", "-x")
    assert {task.task_id for task in tasks} == {"validation", "i1", "i5"}
    assert {task.spec.waived_columns for task in tasks} == {("target", "-x")}


def test_a_later_run_takes_the_waivers_from_the_record_whatever_its_conf_says(records):
    register("mine", **WAIVED)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    accept("mine")

    with pytest.raises(AirflowFailException, match="waived_columns: columns are waived where a su"):
        register("mine--2", submission_id="mine", waived_columns=["other"], **SCHEDULE)
    register("mine--2", submission_id="mine", **SCHEDULE)
    plan("mine--2", waived_columns=["other"])

    specs = {task.spec.waived_columns for task in read_tasks(records, "mine")}
    assert specs == {("target", "-x")}


def test_a_cleared_run_brings_no_other_waivers(records):
    register("mine", **WAIVED)

    with pytest.raises(AirflowFailException, match="exists already, from"):
        register("mine", **SOURCE)
    assert records.get_submission("mine").waived_columns == ("target", "-x")


def test_an_event_without_waivers_refuses_them_before_anything_is_fetched(
    records, monkeypatch, put_event
):
    put_event("winter", "v1")
    monkeypatch.setattr(RegisterOperator, "_fetch", lambda *_: pytest.fail("was fetched"))

    with pytest.raises(AirflowFailException, match="waived_columns: the event 'winter' takes no"):
        register("mine", **WAIVED, **SCHEDULE, event="winter")

    found = records.get_submission("mine")
    assert (found.status, found.tasks) == ("rejected", ())
    assert "'target', '-x' are; submit it without them" in found.reason


def test_an_accepted_submission_that_waives_is_refused_by_an_event_that_does_not(
    records, put_event
):
    put_event("winter", "v1")
    register("mine", **WAIVED)
    change_fields(records, "mine", "validation", status="success", outcome="succeeded")
    accept("mine")

    with pytest.raises(AirflowFailException, match="waived_columns: the event 'winter' takes no"):
        register("mine--2", submission_id="mine", event="winter", **SCHEDULE)
    assert records.get_submission("mine").run_ids == ("mine",)


# --- folds ---------------------------------------------------------------------------------------

FOLDED = {"intervals": "1,5", "folds": ["2005-01-01", "2010-01-01"]}
NAMES = ("1 fold 0", "1 fold 1", "5 fold 0", "5 fold 1")
IDS = ("i1-f0", "i1-f1", "i5-f0", "i5-f1")


def train_folds(records, parts, monkeypatch, **ends):
    """Train a submission in folds, and return what the judge was asked of them."""
    conf = SOURCE | FOLDED
    register("mine", **conf)
    end(records, "mine", "validation")
    accept("mine", **conf)
    assert plan("mine", **conf) == list(NAMES)
    store = Parts(FakeObjectStore(), "content")
    monkeypatch.setattr(Parts, "connect", lambda _: store)
    for number, task_id in enumerate(IDS):
        begin = datetime(2005 + 5 * (number % 2), 1, 1, tzinfo=UTC)
        series = build_series(build_net(number, rows=300), begin=begin)
        series = series.model_copy(update={"target": build_net(9, rows=300)})
        ref = records.get_task("mine", task_id)
        judged = Judged(
            status="judged",
            metrics={"net_sharpe": 0.25},
            rows_digest=series.rows_digest,
            series=store.put_series(
                AttemptRef(submission_id="mine", task_id=task_id, attempt=1, fence=1), series
            ),
        )
        assert ref.spec.fold.number == number % 2
        published = {"judged": judged.dump(), "metrics": {"net_sharpe": 0.25}}
        end(records, "mine", task_id, **({"published": published} | ends.get(task_id, {})))
    asked = []

    def ask(_python, question):
        asked.append(question)
        return Pooled(metrics={"net_sharpe": 0.5 * len(asked), "n_test_rows": 600.0})

    monkeypatch.setattr("touchstone.confined.pooling.ask_for_pooled", ask)
    return asked


def test_a_plan_leaves_the_name_of_each_fold_in_the_xcom(records, monkeypatch, parts):
    train_folds(records, parts, monkeypatch)

    tasks = {task.task_id: task for task in read_tasks(records, "mine")}
    assert [tasks[each].map_index for each in IDS] == [0, 1, 2, 3]
    assert records.get_submission("mine").tasks == IDS
    assert {read_interval(name) for name in NAMES} == set(NAMES)


def test_a_submission_in_folds_scores_by_all_rows_of_each_interval(records, monkeypatch, parts):
    asked = train_folds(records, parts, monkeypatch)

    evaluate("mine", **SOURCE, **FOLDED)

    found = records.get_submission("mine")
    assert (found.status, found.score) == ("success", 0.75)
    assert [line.task_id for line in found.results] == ["i1", *IDS[:2], "i5", *IDS[2:]]
    assert [question["interval"] for question in asked] == [1, 5]
    assert [len(fold["time"]) for fold in asked[0]["folds"]] == [300, 300]
    assert asked[1]["folds"][1]["net"] == list(build_net(3, rows=300))


def test_a_fold_that_failed_leaves_no_score_and_the_judge_is_not_asked_of_its_interval(
    records, monkeypatch, parts
):
    failed = {"outcome": "failed(user)", "status": "error", "published": None, "reason": "diverged"}
    asked = train_folds(records, parts, monkeypatch, **{"i5-f1": failed})

    with pytest.raises(AirflowFailException, match="error: i5-f1: diverged"):
        evaluate("mine", **SOURCE, **FOLDED)

    found = records.get_submission("mine")
    assert found.score is None
    assert found.verdict_reason == "1 of 2 intervals have no result (i5-f1)"
    assert [question["interval"] for question in asked] == [1]
    whole = next(line for line in found.results if line.task_id == "i5")
    assert (whole.status, whole.reason) == ("error", "i5-f1: diverged")


def test_a_judge_that_is_not_there_leaves_no_score_and_the_folds_as_they_are(
    records, monkeypatch, parts
):
    train_folds(records, parts, monkeypatch)
    away = Pooled(reason="the judge could not run (its environment is not there)")
    monkeypatch.setattr("touchstone.confined.pooling.ask_for_pooled", lambda *_: away)

    evaluate("mine", **SOURCE, **FOLDED)

    found = records.get_submission("mine")
    assert (found.status, found.score) == ("success", None)
    assert found.verdict_reason.startswith("i1: the judge could not run") or found.verdict_reason
    assert [line.metrics.get("net_sharpe") for line in found.results[:3]] == [None, 0.25, 0.25]


def test_folds_that_a_data_set_cannot_hold_are_refused_by_their_field(records):
    with pytest.raises(AirflowFailException, match="folds: before 2000-01-01 there are some"):
        register("mine", **SOURCE, intervals="5", folds=["2001-01-01", "2008-01-01"])
