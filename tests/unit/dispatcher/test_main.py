"""The loops of the process: what one of them meets, and what happens when one ends."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.eligibility import Capability, Resource
from touchstone.core.schedule import Platform
from touchstone.dispatcher import main
from touchstone.dispatcher.main import Dispatcher
from touchstone_agent.protocol.errors import TransientError


@pytest.fixture
def dispatcher(monkeypatch, settings, records, objects):
    monkeypatch.setattr(FakeRecordStore, "connect", lambda _: records)
    monkeypatch.setattr(FakeObjectStore, "connect", lambda _: objects)
    monkeypatch.setattr(main, "RecordStore", FakeRecordStore)
    monkeypatch.setattr(main, "ObjectStore", FakeObjectStore)
    monkeypatch.setattr(main, "AgentHook", lambda **_: FakeAgentHook())
    monkeypatch.setattr(main, "build_client", lambda *_: None)
    return Dispatcher(settings)


def run(work):
    """Run a loop in a thread of its own, to its end."""
    thread = threading.Thread(target=work, name="loop")
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_a_loop_that_meets_anything_at_all_goes_on_and_tells_of_it(dispatcher, monkeypatch):
    monkeypatch.setattr(dispatcher.stopping, "wait", lambda _: None)
    rounds = []

    def work():
        rounds.append(1)
        if len(rounds) == 3:
            dispatcher.stopping.set()
        raise RecursionError

    run(lambda: dispatcher._repeat(work, 1.0))

    assert len(rounds) == 3
    _, facts = dispatcher.report_health()
    assert [(item["what"], item["item"], item["times"]) for item in facts["troubles"]] == [
        ("go on with", "loop", 3)
    ]


def test_a_past_that_cannot_be_read_is_read_again_and_its_end_is_no_alarm(
    dispatcher, monkeypatch, records
):
    """The thread ended with the first fault, and nobody noticed: nothing was learnt at all."""
    monkeypatch.setattr(dispatcher.stopping, "wait", lambda _: None)
    answers = iter([TransientError("away"), KeyError("bug"), []])

    def learn(_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer

    monkeypatch.setattr(dispatcher._recorder, "learn_all", learn)
    dispatcher._has_ticked.set()

    run(dispatcher._learn)

    assert next(answers, "all were given") == "all were given"
    assert dispatcher._finished == {"loop"}


def test_a_round_of_placement_that_fails_is_told_of_until_one_is_made(dispatcher, monkeypatch):
    rounds = []

    def tick():
        rounds.append(1)
        if len(rounds) == 1:
            raise OverflowError
        dispatcher.stopping.set()
        raise main.pools.PoolsBusy("held")

    monkeypatch.setattr(dispatcher._placer, "tick", tick)
    monkeypatch.setattr(dispatcher._wake, "wait", lambda _: None)

    run(dispatcher._place)

    _, facts = dispatcher.report_health()
    assert [item["what"] for item in facts["troubles"]] == ["make a round of placement"]


def test_a_fleet_file_that_cannot_be_applied_keeps_nobody_from_working(dispatcher, monkeypatch):
    def fail(_):
        raise TypeError("odd")

    monkeypatch.setattr(main, "find_fleet_file", fail)

    dispatcher.load_fleet()

    assert [item["item"] for item in dispatcher.report_health()[1]["troubles"]] == [
        "the fleet file"
    ]


def test_health_tells_of_gpus_that_no_image_uses(dispatcher, monkeypatch):
    gpu, cpu = Capability(cuda=True, vram_gib=24), Capability()
    resources = (
        Resource(name="rio", capability=gpu),
        Resource(name="cpu", capability=cpu),
        Resource(name="runpod", capability=gpu, platform=Platform.RUNPOD),
    )
    monkeypatch.setattr(
        dispatcher._placer, "view", replace(dispatcher._placer.view, resources=resources)
    )

    _, facts = dispatcher.report_health()

    assert facts["warnings"] == [
        "rio has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is not set: "
        "its trainings compute on the CPU"
    ]


@pytest.mark.parametrize("name", ["events", "learning"])
def test_a_loop_that_ends_by_itself_ends_the_process(dispatcher, monkeypatch, name):
    """Whoever looks after the process starts it again; half a dispatcher would go unnoticed."""

    class Thread:
        def __init__(self, target, name, daemon):
            self.name = name

        def start(self):
            """Begin nothing."""

        def is_alive(self):
            return self.name != name

    monkeypatch.setattr(main.threading, "Thread", Thread)
    monkeypatch.setattr(dispatcher, "load_fleet", lambda: None)
    monkeypatch.setattr(dispatcher.stopping, "wait", lambda _: False)

    with pytest.raises(SystemExit, match=f"'{name}' has ended"):
        dispatcher.run()
