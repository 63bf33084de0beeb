"""What all tests wait by."""

from __future__ import annotations

import asyncio

import pytest

import waiting
from waiting import InVain, wait_async, wait_for


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Pauses that are only counted, however long they add up to."""
    pauses = []
    monkeypatch.setattr(waiting.time, "sleep", pauses.append)
    return pauses


def come_true_after(looks):
    """Return what is false for so many looks, and then true."""
    left = iter([*[None] * looks, "there"])
    return lambda: next(left)


def test_what_comes_late_is_waited_for_however_late_it_is(slept):
    assert wait_for("it", come_true_after(100_000), every=1) == "there"
    assert sum(slept) == 100_000, "more than a day"


def test_what_can_no_longer_come_true_ends_the_wait_with_what_was_seen_last():
    answers = iter([0, [], ""])
    ends = iter([None, None, "its process has ended with 7"])

    with pytest.raises(InVain, match=r"^three pods: its process has ended with 7 .*answer ''\)$"):
        wait_for("three pods", lambda: next(answers), unless=lambda: next(ends))


def test_a_list_of_faults_that_is_still_empty_is_no_reason_to_give_up():
    faults, looks = [], come_true_after(3)

    def look():
        if found := looks():
            faults.append("only now")
        return found

    assert wait_for("it", look, unless=lambda: faults) == "there"


def test_what_came_true_just_before_the_end_has_come_true():
    """Between two looks it came, and its maker ended."""
    assert wait_for("it", lambda: "there", unless=lambda: "it has ended") == "there"


def test_whatever_else_ends_a_wait_is_told_what_was_waited_for():
    def look():
        raise ConnectionError("nobody answers")

    with pytest.raises(ConnectionError) as caught:
        wait_for("the emulator answers", look)

    assert caught.value.__notes__ == ["waited for: the emulator answers (last answer 'none yet')"]


async def test_a_coroutine_waits_by_looks_that_may_be_coroutines_too():
    looks = come_true_after(3)

    async def look():
        return looks()

    assert await wait_async("it", look, every=0) == "there"
    assert await wait_async("it", come_true_after(3), every=0) == "there"
    with pytest.raises(InVain, match="it is over"):
        await wait_async("it", lambda: None, unless=lambda: "it is over")


async def test_a_coroutine_that_is_cancelled_while_it_waits_tells_of_it(capsys):
    waiter = asyncio.create_task(wait_async("the third pod", lambda: 0, every=0))
    await asyncio.sleep(0)
    waiter.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiter

    assert "waited for: the third pod (last answer 0)" in capsys.readouterr().out
