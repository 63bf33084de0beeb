"""What an agent says, and what becomes of it."""

from __future__ import annotations

import json
from datetime import date

import pytest

from fakes.servers import read_fields, store_server, write_fields
from fakes.tasks import change_fields, read_stored, write_task
from touchstone.core.data_sets import PinnedData
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.hearing import MAX_FAILURES
from touchstone.services.troubles import Troubles
from touchstone.stores.parts import Parts, find_files
from touchstone_agent.protocol.envelope import generate_key, load_private_key
from touchstone_agent.protocol.errors import MessageRefused, TransientError
from touchstone_agent.protocol.facts import ServerGpu
from touchstone_agent.protocol.images import ServerImage
from touchstone_agent.protocol.logins import PullKey
from touchstone_agent.protocol.messages import (
    MAX_CHUNK_BYTES,
    MAX_RUNNING,
    Acknowledge,
    AttemptPhase,
    Grants,
    GrantsWanted,
    Heartbeat,
    Hello,
    Inventory,
    PhaseChanged,
    Progress,
    PullLogin,
    PullLoginWanted,
    Sync,
    Want,
)

NOW = "2026-11-22T12:00:00+00:00"
INVENTORY = Inventory(
    slots=2,
    validation_slots=1,
    runtime="docker",
    agent_version="0.1",
    cpus=2,
    memory_mib=4096,
)


@pytest.fixture
def handler(records, objects, agent, settings, clock):
    return EventHandler(
        records=records, objects=objects, agent=agent, settings=settings, clock=clock
    )


def phase(ref, name, clock, **details):
    return PhaseChanged(ref=ref, phase=AttemptPhase(name), at=clock(), details=details)


def want(ref, purpose, path, sha256="a" * 64):
    return GrantsWanted(ref=ref, purpose=purpose, wants=(Want(path=path, sha256=sha256, size=3),))


def test_a_running_training_makes_its_submission_running(
    handler, records, make_event, make_task, make_submission, clock
):
    make_submission(accepted_at=NOW)
    ref = make_task()

    handler.handle(make_event(phase(ref, "running", clock)))

    assert records.get_task("s-1", "i5").status == "running"
    assert records.get_submission("s-1").status == "running"


def test_a_cleared_task_makes_an_ended_submission_run_again(
    handler, records, make_event, make_task, make_submission, clock
):
    make_submission("cancelled", accepted_at=NOW, cancel={"by": "ann", "at": NOW})
    ref = make_task()

    handler.handle(make_event(phase(ref, "running", clock)))

    assert records.get_submission("s-1").status == "running"
    assert records.get_submission("s-1").cancel is None


def test_a_submission_that_makes_no_sense_keeps_no_event_from_being_followed(
    handler, records, make_event, make_task, make_submission, settings, clock
):
    make_submission(accepted_at=NOW)
    table = settings.submissions_table
    records.put_stored(table, records.get_stored(table, "s-1") | {"score": "much"})
    ref = make_task()

    handler.handle(make_event(phase(ref, "running", clock)))

    assert records.get_task("s-1", "i5").status == "running"
    (trouble,) = handler._troubles.summarise()
    assert (trouble.what, trouble.item) == ("mark as running", "s-1")
    assert "submission record: score" in trouble.reason


def test_a_key_that_was_replaced_is_soon_refused(handler, records, make_event, clock):
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    write_fields(records, "local", {"public_key": generate_key()[1]})
    clock.advance(seconds=31)

    with pytest.raises(MessageRefused):
        handler.handle(make_event(Heartbeat(inventory=INVENTORY)))


def test_the_same_event_twice_changes_nothing_more(handler, records, make_event, make_task, clock):
    ref = make_task(kind="validation")
    event = make_event(phase(ref, "running", clock))

    handler.handle(event)
    first = records.get_task("s-1", "i5")
    handler.handle(event)

    assert records.get_task("s-1", "i5") == first


def test_a_final_phase_is_acknowledged_even_when_it_is_outranked(
    handler, records, agent, make_event, make_task, clock
):
    ref = make_task(attempt=2)
    old = ref.model_copy(update={"fence": 1, "attempt": 1})

    handler.handle(make_event(phase(old, "uploaded", clock)))

    assert records.get_task("s-1", "i5").newest.uploaded_at is None
    assert agent.commands(Acknowledge) == [Acknowledge(ref=old)]


def test_a_server_cannot_speak_for_a_task_of_another(
    handler, records, make_event, make_task, clock
):
    ref = make_task(server="other")

    handler.handle(make_event(phase(ref, "running", clock)))

    assert records.get_task("s-1", "i5").status == "queued"


def list_files(count):
    return [
        {"path": f"charts/{number:04}{'c' * 40}.png", "sha256": "a" * 64, "size": 1}
        for number in range(count)
    ]


def test_a_long_list_of_files_stands_beside_the_record_and_a_short_one_in_it(
    handler, records, objects, settings, make_event, make_task, clock
):
    parts = Parts(objects, settings.content_bucket)
    for number, count in ((1, 3), (2, 500)):
        ref = make_task(f"i{number}")
        files = list_files(count)
        verdict = {"outcome": "succeeded", "class": "ok"}
        handler.handle(
            make_event(phase(ref, "exited", clock, exit_code=0, verdict=verdict, files=files))
        )

        record = records.get_task("s-1", f"i{number}")
        assert len(record.newest.files) == (3 if count == 3 else 0)
        assert [file.dump() for file in find_files(record.newest, parts)] == files


def test_a_server_stores_nothing_for_a_task_of_another(
    handler, objects, make_event, make_task, clock
):
    ref = make_task(server="other")

    handler.handle(make_event(phase(ref, "exited", clock, exit_code=0, files=list_files(500))))

    assert objects.objects == {}


def test_progress_reaches_the_record(handler, records, make_event, make_task, clock):
    ref = make_task(kind="validation")
    handler.handle(make_event(phase(ref, "running", clock)))

    handler.handle(make_event(Progress(ref=ref, at=clock(), phase="fit", percent=50)))

    assert records.get_task("s-1", "i5").newest.percent == 50


def test_forged_foreign_and_expired_messages_are_refused(handler, make_event, make_task, clock):
    ref = make_task()
    body = phase(ref, "running", clock)
    stranger = load_private_key(generate_key()[0])
    old = make_event(body)
    clock.advance(days=2)

    for text in (
        make_event(body, key=stranger),
        make_event(body, kid="nobody"),
        make_event(body, server="other"),
        make_event(body, env="prod"),
        old,
        "not json",
        "{}",
    ):
        with pytest.raises(MessageRefused):
            handler.handle(text)


def test_a_server_enrolled_later_is_heard_without_a_restart(
    handler, records, make_event, make_task, clock
):
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    private, public = generate_key()
    store_server(records, {"server": "new", "env": "dev", "public_key": public})
    ref = make_task(server="new", kind="validation")

    event = make_event(
        phase(ref, "running", clock), server="new", kid="new", key=load_private_key(private)
    )
    handler.handle(event)

    assert records.get_task("s-1", "i5").status == "running"


@pytest.mark.parametrize(
    ("purpose", "path", "part"),
    [
        ("output", "models/long.h5", "attempts/s-1/i5/1-1/models/long.h5"),
        ("console", "000000000042", "s-1/i5/1-1/000000000042.log"),
        ("input", "content", "content/" + "c" * 64),
    ],
)
def test_what_an_attempt_may_move_it_gets_leave_to(
    handler, agent, make_event, make_task, purpose, path, part
):
    ref = make_task()

    handler.handle(make_event(want(ref, purpose, path)))

    [answer] = agent.commands(Grants)
    assert part in answer.grants[path].url
    assert agent.sent[-1][2] == "event-1"


@pytest.mark.parametrize(
    ("purpose", "path"),
    [
        ("output", "../../other/models/long.h5"),
        ("output", "/etc/passwd"),
        ("output", ""),
        ("console", "1"),
        ("console", "../00000000042"),
        ("input", "secrets"),
    ],
)
def test_a_path_out_of_the_attempt_is_refused(handler, agent, make_event, make_task, purpose, path):
    ref = make_task()

    handler.handle(make_event(want(ref, purpose, path)))

    [answer] = agent.commands(Grants)
    assert not answer.grants
    assert path in answer.refused


def test_an_outranked_attempt_may_finish_its_log_but_not_publish(
    handler, agent, make_event, make_task
):
    ref = make_task(attempt=2)
    old = ref.model_copy(update={"fence": 1, "attempt": 1})

    handler.handle(make_event(want(old, "output", "models/long.h5")))
    handler.handle(make_event(want(old, "console", "000000000000")))

    refused, granted = agent.commands(Grants)
    assert "newer attempt" in refused.refused["models/long.h5"]
    assert granted.grants


def test_nobody_gets_leave_for_an_attempt_that_was_never_sent(
    handler, agent, make_event, make_task
):
    ref = make_task()

    handler.handle(make_event(want(ref.model_copy(update={"fence": 9}), "output", "x")))
    handler.handle(make_event(want(ref.model_copy(update={"task_id": "i9"}), "output", "x")))

    assert all(not answer.grants for answer in agent.commands(Grants))


def test_a_hello_is_answered_with_what_the_server_should_be_running(
    handler, agent, records, make_event, make_task, make_submission, clock
):
    make_submission()
    running = make_task("i1")
    sent_only = make_task("i5")
    ended = make_task("i20", status="success")
    handler.handle(make_event(phase(running, "running", clock)))

    handler.handle(make_event(Hello(inventory=INVENTORY)))

    [sync] = agent.commands(Sync)
    # What was only sent is still in the queue: the agent cannot know it, and has not lost it.
    assert sync.expected == (running,)
    assert sent_only not in sync.expected
    assert ended not in sync.expected
    assert records.find_server("local").heartbeat_at == clock()


def test_a_hello_of_a_server_whose_driver_is_too_old_is_told_in_the_log(
    handler, make_event, records, caplog
):
    image = ServerImage(name="t:1", backend="cuda", cuda="12.8", min_driver="525.60.13")
    gpu = ServerGpu(name="RTX 3090", memory_mib=24576, driver="470.57.02")
    inventory = INVENTORY.model_copy(update={"gpus": (gpu,), "images": (image,)})

    handler.handle(make_event(Hello(inventory=inventory)))
    handler.handle(make_event(Heartbeat(inventory=inventory)))

    told = [line for line in caplog.messages if "needs driver" in line]
    assert told == [
        "image t:1 is for CUDA 12.8 and needs driver 525.60.13 or newer, local has 470.57.02: "
        "install a newer driver, or let it run an image for the CPU"
    ]
    assert records.find_server("local").inventory.images[0].min_driver == "525.60.13"


def say_hello(make_event, *refs):
    running = tuple((ref, AttemptPhase.RUNNING) for ref in refs)
    return make_event(Hello(inventory=INVENTORY.model_copy(update={"running": running})))


def test_a_hello_reads_what_is_at_work_and_none_of_the_past(
    handler, agent, records, make_event, make_task, make_submission, clock, monkeypatch
):
    """It read every task there ever was, between two events."""
    make_submission()
    running = make_task("i1")
    handler.handle(make_event(phase(running, "running", clock)))
    for number in range(100):
        make_task(f"i{100 + number}", status="success")
    read = []
    for name in ("_scan", "_find_many"):
        original = getattr(records, name)

        def count(table, *args, original=original):
            found = original(table, *args)
            read.extend(found)
            return found

        monkeypatch.setattr(records, name, count)

    handler.handle(make_event(Hello(inventory=INVENTORY)))

    [sync] = agent.commands(Sync)
    assert sync.expected == (running,)
    assert len(read) <= 1


def test_what_a_server_says_it_runs_is_looked_up_although_the_index_is_behind(
    handler, agent, make_event, make_task, make_submission, clock, monkeypatch
):
    """An index is as of a moment ago, and what is not expected is ended ten minutes later."""
    make_submission()
    heard, unheard, elsewhere = make_task("i1"), make_task("i5"), make_task("i20", server="rio")
    handler.handle(make_event(phase(heard, "running", clock)))
    monkeypatch.setattr(handler, "_at_work", dict)
    older = heard.model_copy(update={"fence": 9, "attempt": 9})
    unknown = heard.model_copy(update={"task_id": "i99"})

    handler.handle(say_hello(make_event, heard, unheard, elsewhere, older, unknown))

    [sync] = agent.commands(Sync)
    assert sync.expected == (heard, unheard)


def test_what_has_ended_is_not_expected_although_the_index_is_behind(
    handler, agent, make_event, make_task, monkeypatch
):
    ended = make_task("i1", status="error", phase="rejected")
    key = (ended.submission_id, ended.task_id)
    monkeypatch.setattr(handler, "_at_work", lambda: {key: "local"})

    handler.handle(say_hello(make_event, ended))

    [sync] = agent.commands(Sync)
    assert sync.expected == ()


def test_a_server_that_claims_to_run_everything_costs_a_bounded_number_of_readings(
    handler, records, make_event, make_task, monkeypatch
):
    ref, asked = make_task("i1"), []
    find = records.find_tasks
    monkeypatch.setattr(records, "find_tasks", lambda keys: find(asked.extend(keys) or keys))
    many = [ref.model_copy(update={"task_id": f"i{number}"}) for number in range(MAX_RUNNING + 1)]

    handler.handle(say_hello(make_event, *many[:MAX_RUNNING]))
    with pytest.raises(MessageRefused, match="running"):
        handler.handle(say_hello(make_event, *many))

    assert len(asked) == MAX_RUNNING


def test_messages_of_a_stranger_cost_one_look_at_one_record(
    handler, records, make_event, clock, monkeypatch
):
    """Each of them read all servers again."""
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    looks = []
    for name in ("list_servers", "find_server"):
        original = getattr(records, name)

        def look(*args, name=name, original=original):
            looks.append((name, *args))
            return original(*args)

        monkeypatch.setattr(records, name, look)
    text = make_event(Heartbeat(inventory=INVENTORY), server="stranger", kid="stranger")

    for _ in range(20):
        with pytest.raises(MessageRefused):
            handler.handle(text)

    assert looks == [("find_server", "stranger")]
    clock.advance(seconds=6)
    with pytest.raises(MessageRefused):
        handler.handle(text)
    assert len(looks) == 2


def test_strangers_of_many_names_cost_no_more_than_a_bounded_number_of_looks(
    handler, records, make_event, monkeypatch
):
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    looks = []
    monkeypatch.setattr(records, "find_server", looks.append)

    for number in range(1200):
        with pytest.raises(MessageRefused):
            handler.handle(json.dumps({"kid": f"x{number}", "sig": "", "payload": ""}))

    assert len(looks) == 1000


@pytest.mark.parametrize(
    "kid", ["", "#control", "é", "x" * 300, "\ud800", 5, None, ["a"]], ids=repr
)
def test_what_can_be_no_servers_name_is_not_even_looked_for(
    handler, records, make_event, monkeypatch, kid
):
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    monkeypatch.setattr(records, "find_server", lambda _: pytest.fail("looked for"))

    with pytest.raises(MessageRefused):
        handler.handle(json.dumps({"kid": kid, "sig": "", "payload": ""}))


def test_a_piece_of_a_console_has_a_longest_size(handler, agent, make_event, make_task):
    """Whoever reads on from an offset looks no further back than that."""
    ref = make_task()
    for size in (MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1):
        wanted = Want(path="000000000000", sha256="a" * 64, size=size)
        event = GrantsWanted(ref=ref, purpose="console", wants=(wanted,))
        handler.handle(make_event(event))

    first, second = agent.commands(Grants)
    assert first.grants
    assert "longer" in second.refused["000000000000"]


def test_the_archive_of_a_tasks_data_set_is_granted_and_of_no_others(
    handler, records, agent, make_event, make_task
):
    ref = make_task()
    handler.handle(make_event(want(ref, "input", "data", sha256="")))
    spec = records.get_task("s-1", "i5").spec
    data = PinnedData(
        name="eurusd-hourly",
        version="1",
        digest="e" * 64,
        sha256="f" * 64,
        size=3,
        validation_from=date(2017, 10, 1),
        test_from=date(2017, 12, 1),
        bars_per_year=6240,
    )
    spec = spec.model_copy(update={"data": data})
    change_fields(records, "s-1", "i5", config=spec.model_dump(mode="json"))
    handler.handle(make_event(want(ref, "input", "data", sha256="")))

    first, second = agent.commands(Grants)
    assert first.refused == {"data": "'data' is not a path for input"}
    assert f"/data/{'f' * 64}.tar.gz" in second.grants["data"].url


# --- a task whose record makes no sense -----------------------------------------------------------


ODD_TASKS = [{"status": "dancing"}, {"config": None}, {"fence": "x"}, {"placement": 7}]


@pytest.mark.parametrize("odd", ODD_TASKS)
def test_what_is_told_of_a_task_that_makes_no_sense_comes_again_until_it_does(
    handler, records, agent, make_event, make_task, clock, odd
):
    """Set aside, or dropped, the end of its attempt would be lost."""
    ref = make_task()
    before = read_stored(records, "s-1", "i5")
    write_task(records, ("s-1", "i5"), odd)
    told = make_event(phase(ref, "lost", clock, reason="gone"))

    for _ in range(MAX_FAILURES + 1):
        with pytest.raises(TransientError, match="task s-1/i5: "):
            handler.handle(told)
    assert agent.commands(Acknowledge) == [], "its agent keeps what it has"

    write_task(records, ("s-1", "i5"), {name: before[name] for name in odd})
    handler.handle(told)

    assert records.get_task("s-1", "i5").status == "lost"
    assert [sent.ref for sent in agent.commands(Acknowledge)] == [ref]


@pytest.mark.parametrize("odd", [{"status": "dancing"}, {"config": None}, {"fence": "x"}])
def test_what_a_server_runs_of_a_task_that_makes_no_sense_is_expected_there(
    handler, records, agent, make_event, make_task, clock, odd
):
    ref, other = make_task("i5"), make_task("i20")
    for each in (ref, other):
        handler.handle(make_event(phase(each, "running", clock)))
    write_task(records, ("s-1", "i5"), odd)

    running = [(ref, AttemptPhase.RUNNING), (other, AttemptPhase.RUNNING)]
    inventory = INVENTORY.model_copy(update={"running": tuple(running)})
    handler.handle(make_event(Hello(inventory=inventory)))

    [sync] = agent.commands(Sync)
    assert set(sync.expected) == {ref, other}


# --- a server whose record makes no sense ---------------------------------------------------------


@pytest.fixture
def odd_server(records, server_key):
    write_fields(records, "local", {"declared": 7})


@pytest.mark.usefixtures("odd_server")
def test_an_end_on_a_server_whose_record_makes_no_sense_is_on_record_and_acknowledged(
    handler, records, agent, make_event, make_task, clock
):
    ref = make_task()

    handler.handle(make_event(phase(ref, "rejected", clock, refusal="disk")))

    assert records.get_task("s-1", "i5").newest.phase == "rejected"
    assert [sent.ref for sent in agent.commands(Acknowledge)] == [ref]
    assert "holds" not in read_fields(records, "local")


@pytest.mark.usefixtures("odd_server")
def test_a_server_whose_record_makes_no_sense_is_told_what_it_should_run(
    records, objects, agent, settings, make_event, make_task, make_submission, clock
):
    troubles = Troubles(clock)
    handler = EventHandler(
        records=records,
        objects=objects,
        agent=agent,
        settings=settings,
        clock=clock,
        troubles=troubles,
    )
    make_submission(accepted_at=NOW)
    running = make_task()
    handler.handle(make_event(phase(running, "running", clock)))

    handler.handle(make_event(Hello(inventory=INVENTORY)))

    [sync] = agent.commands(Sync)
    assert sync.expected == (running,)
    assert [(t.what, t.item) for t in troubles.summarise()] == [("make sense of", "local")]
    assert "heartbeat_at" not in read_fields(records, "local")

    write_fields(records, "local", {"declared": None})
    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))
    assert troubles.summarise() == ()


@pytest.mark.parametrize(
    "odd", [{"heartbeat_at": "never"}, {"inventory": {"gpus": 7}}, {"running": 7}, {"epoch": 7}]
)
def test_a_heartbeat_mends_what_it_writes_anew(handler, records, make_event, clock, odd):
    write_fields(records, "local", odd)

    handler.handle(make_event(Heartbeat(inventory=INVENTORY)))

    server = records.find_server("local")
    assert (server.heartbeat_at, server.epoch, server.running) == (clock(), "e", ())
    assert server.inventory.slots == 2


@pytest.mark.usefixtures("odd_server")
def test_a_server_whose_record_makes_no_sense_gets_no_login_for_what_it_was_not_seen_to_stage(
    handler, agent, make_event
):
    wanted = PullLoginWanted(ref=None, image="reg.example/t:1", public_key=PullKey().public)

    handler.handle(make_event(wanted))

    (answer,) = agent.commands(PullLogin)
    assert (answer.sealed, answer.problem) == (
        None,
        "this server was not asked to have this image",
    )
