"""What owners of servers and queues may say: nothing is believed, and nobody else waits."""

from __future__ import annotations

import json
import uuid

import pytest

from security.attacks import EvilServer, Pulse, User, count_messages, sample_all_but
from system.installation import EXAMPLES
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)
from waiting import wait_for

DEEP = "[" * 100_000 + "]" * 100_000
SHA = "0" * 64
NOW = "2026-01-01T00:00:00+00:00"
GOOD = {"contract": 1, "exit_code": 0, "outcome": "succeeded", "class": "ok", "reason": None}


@pytest.fixture(scope="module")
def evil(installation):
    """A server that is registered, with queues and no agent but its owner's own."""
    server = EvilServer(installation, "evil")
    sqs = installation._aws("sqs")
    for name in (build_request_queue("evil"), build_control_queue("evil")):
        sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})
    server.beat()
    return server


def is_heard(installation, server):
    """Tell whether a new heartbeat of a server comes through."""
    found = installation.records.find_server(server.name)
    before = found and found.heartbeat_at
    server.beat()
    return wait_for(
        "a heartbeat is heard",
        lambda: installation.records.find_server(server.name).heartbeat_at != before,
    )


def build_words(victim, task):
    """Return what an owner may say, by what is wrong with it."""
    ref = {
        "submission_id": victim,
        "task_id": "i1",
        "attempt": task["attempt"],
        "fence": task["fence"],
    }
    exited = {"kind": "phase", "ref": ref, "phase": "exited", "at": NOW, "details": {}}
    inventory = {
        "slots": 1,
        "validation_slots": 0,
        "runtime": "docker",
        "agent_version": "1",
        "cpus": 8,
        "memory_mib": 65536,
    }
    beat = {"kind": "heartbeat", "inventory": inventory}
    return {
        "another's task has exited": exited | {"details": {"exit_code": 1, "verdict": GOOD}},
        "another's task is lost": exited | {"phase": "lost", "reason": "ha"},
        "another's newer attempt": exited | {"ref": ref | {"fence": 10**9}},
        "no zone": exited | {"at": "2026-01-01T00:00:00"},
        "a number of many digits": exited | {"details": {"exit_code": 1, "verdict": {"x": 10**50}}},
        "an odd fence": exited | {"ref": ref | {"fence": 10**40}},
        "half a character": exited | {"reason": "\ud800"},
        "half a character in a name": exited | {"ref": ref | {"submission_id": "\udfff"}},
        "a name that leads elsewhere": exited | {"ref": ref | {"task_id": "../../x"}},
        "a list of GPUs": beat | {"inventory": inventory | {"gpus": [{"x": 10**50}] * 1000}},
        "very many GPUs": beat | {"inventory": inventory | {"gpus": [{"name": "g"}] * 50_000}},
        "negative slots": beat | {"inventory": inventory | {"slots": -5}},
        "very many slots": beat | {"inventory": inventory | {"slots": 10**30}},
        "a crowd that runs": beat
        | {"inventory": inventory | {"running": [[ref, "running"]] * 5000}},
        "grants for another's files": {
            "kind": "grants_wanted",
            "ref": ref,
            "purpose": "output",
            "wants": [{"path": "result.json", "sha256": SHA, "size": 1}],
        },
        "grants for odd paths": {
            "kind": "grants_wanted",
            "ref": ref,
            "purpose": "output",
            "wants": [{"path": "../../../x", "sha256": SHA, "size": -1}] * 1000,
        },
        "progress of another's": {
            "kind": "progress",
            "ref": ref,
            "at": NOW,
            "phase": "x" * 100_000,
            "percent": 50,
        },
        "an unknown kind": {"kind": "surprise"},
        "a long reason": {"kind": "poison", "reason": "r" * 500_000, "message_id": "m"},
    }


def test_what_one_server_says_changes_nothing_of_others_and_keeps_nobody_waiting(
    installation, evil, unharmed
):
    task = installation.task(unharmed.submission_id, "i1")
    events = build_event_queue(installation.settings.env)
    admin = User(installation, "admin")

    with Pulse(installation, admin.http.headers["Authorization"]) as pulse:
        for name, body in build_words(unharmed.submission_id, task).items():
            # Each behind the same task's name and behind its own: neither may hold up the rest.
            evil.say(body, group=f"{unharmed.submission_id}/i1")
            evil.say(body, group=name.replace(" ", "-").replace("'", ""))
        assert is_heard(installation, evil)
        done = installation.ask("submit", str(EXAMPLES / "momentum"), "--wait")
        wait_for(
            "every word was heard, or set aside",
            lambda: count_messages(installation, events) == 0,
        )

    pulse.check()
    assert installation.submission(done["submission_id"])["status"] == "accepted"


def test_what_is_no_message_of_anybodys_is_dropped(installation, evil, unharmed):
    events = build_event_queue(installation.settings.env)
    sealed = json.loads(evil.seal({"kind": "heartbeat"}))
    for text in (
        "nonsense",
        "{}",
        "[" * 500_000,
        json.dumps({"kid": "local", "sig": "", "payload": "{}"}),
        json.dumps({"kid": "local", "sig": sealed["sig"], "payload": sealed["payload"]}),
        json.dumps(sealed | {"payload": sealed["payload"] + " "}),
        evil.seal({}, raw=DEEP),
        evil.seal({}, raw="null"),
        evil.seal({}, raw='{"header": {"v": 99}}'),
        evil.seal({}, raw='{"header": {"v": 1' + "0" * 5000 + "}}"),
        evil.seal({"kind": "hello"}, server="local"),
    ):
        evil.send(text, group=uuid.uuid4().hex)

    assert is_heard(installation, evil)
    wait_for("all of it is gone", lambda: count_messages(installation, events) == 0)


def test_a_queue_gives_nobody_a_server(installation, unharmed):
    """Whoever may write to a server's queues starts nothing, and ends nothing, without the key."""
    sqs = installation._aws("sqs")
    body = {
        "kind": "start",
        "ref": {"submission_id": "mine", "task_id": "i1", "attempt": 1, "fence": 1},
        "slot_class": "training",
        "image": "attacker/any:1",
        "argv": ["x"],
    }
    forger = EvilServer(installation, "forger")
    forged = json.loads(forger.seal(body, server="local"))
    for queue in (build_request_queue("local"), build_control_queue("local")):
        for text in (
            "nonsense",
            "[" * 200_000,
            json.dumps(forged),
            json.dumps(forged | {"kid": "control"}),
        ):
            sqs.send_message(
                QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"],
                MessageBody=text,
                MessageGroupId=uuid.uuid4().hex,
                MessageDeduplicationId=uuid.uuid4().hex,
            )
    for queue in (build_request_queue("local"), build_control_queue("local")):
        wait_for(f"{queue} is empty", lambda q=queue: count_messages(installation, q) == 0)
    done = installation.ask("submit", str(EXAMPLES / "momentum"), "--wait")
    assert installation.submission(done["submission_id"])["status"] == "accepted"


HOSTILE_ENDS = {
    "escape": {
        "exit_code": 0,
        "verdict": GOOD,
        "files": [
            {"path": "/etc/cron.d/owned", "sha256": SHA, "size": 3},
            {"path": "../../../../../../../tmp/touchstone-owned", "sha256": SHA, "size": 3},
        ],
    },
    "number": {"exit_code": 1, "verdict": GOOD | {"exit_code": 1, "x": 10**50 + 1}, "files": []},
    "surrogate": {"exit_code": 3, "verdict": GOOD | {"exit_code": 3, "reason": "\ud800"}},
    "crowd": {
        "exit_code": 0,
        "verdict": GOOD,
        "files": [{"path": f"f/{n}", "sha256": SHA, "size": 1} for n in range(6000)],
    },
    "types": {"exit_code": "zero", "verdict": "good", "files": 5},
}


@pytest.mark.parametrize("kind", sample_all_but(HOSTILE_ENDS, "escape"))
def test_an_attempt_whose_server_reports_nonsense_ends_with_a_reason(
    installation, evil, unharmed, kind
):
    """It is neither believed, nor waited for: the slot is free again, and somebody is told why."""
    if not installation.has_pool("evil"):
        installation.airflow.post(
            "/pools", json={"name": "evil", "slots": 1, "include_deferred": True}
        ).raise_for_status()
    installation.set_slots("evil", 1)
    evil.beat()
    submission_id = installation.submit(
        *(EXAMPLES / "momentum", "--intervals", "1"),
        *("--needs", "allowed_hosts=evil", "--override", "training.epochs=2"),
    )

    def find_claimed():
        evil.beat()
        task = installation.task(submission_id, "i1")
        return task if task.get("server") == "evil" and task.get("attempt") else None

    task = wait_for("it is placed on that server", find_claimed)
    # No second attempt goes there.
    installation.set_slots("evil", 0)
    ref = {
        "submission_id": submission_id,
        "task_id": "i1",
        "attempt": task["attempt"],
        "fence": task["fence"],
    }
    group = f"{submission_id}/i1"
    for phase, details in (
        ("accepted", {}),
        ("preparing", {"image": "x", "image_digest": "y" * 100_000}),
        ("running", {"container": "c", "runtime": "docker"}),
        ("exited", HOSTILE_ENDS[kind]),
    ):
        evil.say(
            {"kind": "phase", "ref": ref, "phase": phase, "at": NOW, "details": details},
            group=group,
        )

    def find_end():
        found = installation.task(submission_id, "i1")
        ended = found if found.get("fence") == task["fence"] else None
        for attempt in found.get("attempts") or ():
            if attempt.get("fence") == task["fence"]:
                ended = attempt
        return ended if ended and ended.get("outcome") not in {None, "succeeded"} else None

    ended = wait_for("its attempt has ended with a reason", find_end)
    assert ended["reason"]
    installation.run("cancel", submission_id)
    installation.wait_for_submission(submission_id, "cancelled", "error")
    assert is_heard(installation, evil)
