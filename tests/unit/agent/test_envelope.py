"""Only genuine messages are opened."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from fakes.agent_world import NOW, make_ref
from touchstone_agent.protocol.envelope import (
    CommandMessage,
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    load_public_key,
    open_command,
    open_event,
    seal,
)
from touchstone_agent.protocol.errors import MessageRefused
from touchstone_agent.protocol.messages import Cancel, Poison

CONTROL, CONTROL_PUBLIC = generate_key()
OTHER, OTHER_PUBLIC = generate_key()
KEYS = {"control": load_public_key(CONTROL_PUBLIC)}


def make_text(key: str = CONTROL, kid: str = "control", **fields: Any) -> str:
    header = Header(
        **{
            "message_id": "m1",
            "env": "dev",
            "server": "box",
            "issued_at": NOW,
            "expires_at": NOW + timedelta(hours=1),
            **fields,
        }
    )
    message = CommandMessage(header=header, body=Cancel(ref=make_ref(), reason="x"))
    return seal(message, kid, load_private_key(key))


def open_it(text: str, **fields: Any) -> CommandMessage:
    return open_command(text, **{"keys": KEYS, "env": "dev", "server": "box", "now": NOW, **fields})


def change(text: str, **payload: Any) -> str:
    envelope = json.loads(text)
    inner = json.loads(envelope["payload"])
    inner["body"].update(payload)
    envelope["payload"] = json.dumps(inner)
    return json.dumps(envelope)


def test_a_genuine_command_is_opened() -> None:
    assert open_it(make_text()).body == Cancel(ref=make_ref(), reason="x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (make_text(OTHER), "does not match"),
        (make_text(OTHER, kid="box"), "unknown key"),
        (change(make_text(), reason="changed"), "does not match"),
        (make_text(env="prod"), "environment"),
        (make_text(server="other"), "for server"),
        (make_text(expires_at=NOW - timedelta(seconds=121)), "expired"),
        (make_text(v=2), "version 2"),
        ("", "not an envelope"),
        ("{}", "not an envelope"),
        ('{"kid":"control","sig":"%%%","payload":"{}"}', "not an envelope"),
    ],
    # A signature differs in each process; pytest-xdist compares the names that they collect.
    ids=[
        "signed by another",
        "of another key",
        "changed",
        "of another environment",
        "for another server",
        "expired",
        "of another version",
        "empty",
        "without fields",
        "a signature that is none",
    ],
)
def test_what_is_not_genuine_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MessageRefused, match=reason):
        open_it(text)


def test_clocks_may_differ_a_little() -> None:
    assert open_it(make_text(expires_at=NOW - timedelta(seconds=119)))


def test_a_server_cannot_speak_for_another() -> None:
    header = Header(message_id="m", env="dev", server="rich", issued_at=NOW, expires_at=NOW)
    message = EventMessage(header=header, body=Poison(reason="x", message_id=""))
    text = seal(message, "poor", load_private_key(OTHER))
    keys = {"poor": load_public_key(OTHER_PUBLIC), "rich": load_public_key(CONTROL_PUBLIC)}

    with pytest.raises(MessageRefused, match="in the name of another"):
        open_event(text, keys=keys, env="dev", now=NOW)


def test_an_event_is_no_command() -> None:
    header = Header(message_id="m", env="dev", server="box", issued_at=NOW, expires_at=NOW)
    message = EventMessage(header=header, body=Poison(reason="x", message_id=""))

    with pytest.raises(MessageRefused, match="malformed"):
        open_it(seal(message, "control", load_private_key(CONTROL)))
