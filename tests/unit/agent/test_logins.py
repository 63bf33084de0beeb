"""The login of a registry: sealed for one pull, asked for as long as somebody needs it."""

from __future__ import annotations

import threading

import pytest

from fakes.agent_world import FakeClock, make_ref
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.grants import AskingEnded
from touchstone_agent.logins import MAX_QUESTIONS, LoginRequester
from touchstone_agent.protocol.errors import MessageRefused, TransientError
from touchstone_agent.protocol.logins import PullKey, RegistryLogin, seal_login
from touchstone_agent.protocol.messages import PullLogin

IMAGE = f"reg.example/t:1@sha256:{'0' * 64}"
LOGIN = RegistryLogin(login="puller", password="canary")


def seal(key, server="box", image=IMAGE):
    return seal_login(LOGIN, public_key=key.public, server=server, image=image)


def test_only_the_pull_that_asked_can_open_a_login():
    key = PullKey()
    sealed = seal(key)

    assert key.open(sealed, server="box", image=IMAGE) == LOGIN
    assert "canary" not in sealed + repr(LOGIN)
    assert seal(key) != sealed
    for other, server, image in (
        (PullKey(), "box", IMAGE),
        (key, "other", IMAGE),
        (key, "box", "reg.example/other:1"),
    ):
        with pytest.raises(MessageRefused, match="not sealed for this pull") as refused:
            other.open(sealed, server=server, image=image)
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize("sealed", ["", "x", "ä", "AAAA", "A" * 5000])
def test_what_is_no_sealed_login_is_refused(sealed):
    with pytest.raises(MessageRefused):
        PullKey().open(sealed, server="box", image=IMAGE)


@pytest.mark.parametrize("public_key", ["", "x", "AAAA", "A" * 43 + "=", "ä"])
def test_what_is_no_key_is_refused(public_key):
    # A key of small order, as the fourth is, would let everybody open it.
    with pytest.raises(MessageRefused, match="the key for a login is none"):
        seal_login(LOGIN, public_key=public_key, server="box", image=IMAGE)


class Outbox:
    """Remembers what was told, and answers it."""

    def __init__(self):
        self.told = []
        self.answer = lambda wanted: None

    def tell(self, key, event, *, group):
        self.told.append(event)
        self.answer(event)
        return "id"


@pytest.fixture
def outbox():
    return Outbox()


@pytest.fixture
def requester(outbox):
    backoff = Backoff(first_seconds=0.01, cap_seconds=0.01)
    return LoginRequester(outbox, SteppingClock(), server="box", backoff=backoff)


class SteppingClock(FakeClock):
    def monotonic(self):
        self.steps = getattr(self, "steps", 0) + 1
        return self.steps * 0.004


def test_a_login_is_handed_to_whoever_asked(requester, outbox):
    def answer(wanted):
        sealed = seal_login(LOGIN, public_key=wanted.public_key, server="box", image=wanted.image)
        message = PullLogin(ref=wanted.ref, public_key=wanted.public_key, sealed=sealed)
        # From another thread, as the control queue is read.
        threading.Thread(target=requester.receive, args=(message,)).start()

    outbox.answer = answer
    assert requester.ask(make_ref("i1"), IMAGE, is_ended=lambda: False) == LOGIN


def test_for_an_open_registry_there_is_no_login(requester, outbox):
    outbox.answer = lambda w: requester.receive(PullLogin(ref=w.ref, public_key=w.public_key))
    assert requester.ask(make_ref("i1"), IMAGE, is_ended=lambda: False) is None


def test_why_there_is_none_is_said(requester, outbox):
    outbox.answer = lambda w: requester.receive(
        PullLogin(ref=w.ref, public_key=w.public_key, problem="connection 'images' is not there")
    )
    with pytest.raises(TransientError, match="connection 'images' is not there"):
        requester.ask(make_ref("i1"), IMAGE, is_ended=lambda: False)


def test_a_control_plane_that_does_not_answer_is_asked_a_few_times(requester, outbox):
    with pytest.raises(TransientError, match="nobody says who may pull it"):
        requester.ask(make_ref("i1"), IMAGE, is_ended=lambda: False)
    assert len(outbox.told) == MAX_QUESTIONS
    assert not requester.receive(
        PullLogin(ref=make_ref("i1"), public_key=outbox.told[0].public_key)
    )


def test_who_needs_it_no_more_stops_asking(requester):
    with pytest.raises(AskingEnded):
        requester.ask(make_ref("i1"), IMAGE, is_ended=lambda: True)
