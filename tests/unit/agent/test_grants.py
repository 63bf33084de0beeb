"""Grants are asked for until every want has its answer."""

from __future__ import annotations

import pytest

from fakes.agent_world import FakeClock, make_grant, make_ref
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.grants import MAX_WANTS, AskingEnded, GrantRequester
from touchstone_agent.protocol.messages import GrantPurpose, Grants, Want

OUTPUT = GrantPurpose.OUTPUT


class AnsweringOutbox:
    """Answers each question with the next of some answers, at once."""

    def __init__(self, *answers: Grants | None) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []
        self.requester: GrantRequester

    def tell(self, key: str, event: object, *, group: str) -> str:
        self.asked.append([want.path for want in event.wants])
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            self.requester.receive(answer)
        return "id"


def make_requester(*answers: Grants | None) -> tuple[GrantRequester, AnsweringOutbox]:
    outbox = AnsweringOutbox(*answers)
    requester = GrantRequester(outbox, FakeClock(), Backoff(first_seconds=0, cap_seconds=0))
    outbox.requester = requester
    return requester, outbox


def make_answer(*paths: str, refused: tuple[str, ...] = (), **fields: object) -> Grants:
    return Grants(
        **{
            "ref": make_ref(),
            "purpose": OUTPUT,
            "grants": {path: make_grant(path) for path in paths},
            "refused": dict.fromkeys(refused, "no"),
            **fields,
        }
    )


def ask(requester: GrantRequester, *paths: str, is_ended: bool = False):
    wants = [Want(path=path) for path in paths]
    return requester.ask(make_ref(), OUTPUT, wants, is_ended=lambda: is_ended)


def test_everything_granted_is_one_question() -> None:
    requester, outbox = make_requester(make_answer("a", "b"))

    assert set(ask(requester, "a", "b").grants) == {"a", "b"}
    assert outbox.asked == [["a", "b"]]


def test_only_what_is_still_open_is_asked_for_again() -> None:
    requester, outbox = make_requester(make_answer("a"), None, make_answer("b"))

    ask(requester, "a", "b")

    assert outbox.asked == [["a", "b"], ["b"], ["b"]]


def test_a_refusal_is_an_answer() -> None:
    requester, _ = make_requester(make_answer("a", refused=("b",)))

    answer = ask(requester, "a", "b")

    assert answer.refused == {"b": "no"}


def test_answers_for_others_are_ignored_and_said_to_be_unexpected() -> None:
    requester, outbox = make_requester()

    assert requester.receive(make_answer("a")) is False
    outbox.answers = [
        make_answer("a", ref=make_ref(fence=2)),
        make_answer("a", purpose=GrantPurpose.CONSOLE),
        make_answer("z"),
        make_answer("a"),
    ]
    assert set(ask(requester, "a").grants) == {"a"}
    assert len(outbox.asked) == 4


def test_an_answer_to_an_earlier_question_is_as_good() -> None:
    requester, outbox = make_requester(None, make_answer("a"))

    assert set(ask(requester, "a").grants) == {"a"}
    assert len(outbox.asked) == 2


def test_nobody_waits_for_what_is_not_needed_any_more() -> None:
    outbox = AnsweringOutbox()
    requester = GrantRequester(outbox, FakeClock())

    with pytest.raises(AskingEnded):
        ask(requester, "a", is_ended=True)
    assert requester.receive(make_answer("a")) is False


def test_many_wants_are_asked_for_in_messages_that_fit_a_queue() -> None:
    paths = [f"f{number}" for number in range(MAX_WANTS + 1)]
    requester, outbox = make_requester(make_answer(*paths[:MAX_WANTS]), make_answer(paths[-1]))

    ask(requester, *paths)

    assert [len(asked) for asked in outbox.asked] == [MAX_WANTS, 1]
