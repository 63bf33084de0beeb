"""What submitters are taken to have: what they hold, and for a while what they held."""

from __future__ import annotations

import datetime as dt

import pytest

from fakes.virtual_fleet import MORNING, Job, VirtualFleet
from touchstone.core.placement import Capability, Needs, Resource, Waiting
from touchstone.core.schedule import Placement
from touchstone.core.usage import RecentUse, SlotUse
from touchstone_agent.protocol.messages import SlotClass


def after(seconds):
    return MORNING + dt.timedelta(seconds=seconds)


def use(submitter, *, began=0.0, key=None):
    return SlotUse(key=key or submitter, submitter=submitter, since=after(began))


def test_a_slot_in_use_counts_one_however_long_it_is_held():
    recent = RecentUse()
    held = [use("ada"), use("ada", key="another"), use("bob")]

    assert recent.count(held, after(0)) == {"ada": 2, "bob": 1}
    assert recent.count(held, after(90_000)) == {"ada": 2, "bob": 1}


@pytest.mark.parametrize(
    ("lasted", "half_life"),
    [(600, 600), (3600, 3600), (50 * 3600, 3600), (0, 1)],
    ids=["as long as it was held", "an hour", "an hour at most", "a second at least"],
)
def test_a_slot_given_back_is_forgotten_by_halves(lasted, half_life):
    recent = RecentUse()
    recent.count([use("ada")], after(lasted))

    counts = [recent.count([], after(lasted + n * half_life)).get("ada", 0) for n in range(6)]

    assert counts == pytest.approx([1, 0.5, 0.25, 0.125, 0.0625, 0])


def test_what_is_held_and_what_was_add_up():
    recent = RecentUse()
    recent.count([use("ada", key="i1"), use("bob", key="i2")], after(100))
    recent.count([use("bob", key="i2")], after(100))

    assert recent.count([use("ada", began=200, key="i3")], after(200)) == {"ada": 1.5, "bob": 1}


def test_another_attempt_of_a_task_is_another_slot():
    recent = RecentUse()
    recent.count([use("ada", key=("i1", 1))], after(100))

    assert recent.count([use("ada", began=100, key=("i1", 2))], after(100)) == {"ada": 2}


def test_a_clock_that_goes_back_makes_nobody_have_more():
    recent = RecentUse()
    recent.count([use("ada")], after(100))
    recent.count([], after(100))

    assert recent.count([], after(40)) == {"ada": 1}


def test_who_gives_a_gpu_back_does_not_take_it_again_beside_one_who_waits_for_it():
    """Each has one slot; only the other's next task makes good use of it."""
    servers = [
        Resource(name="gpu", slots=1, capability=Capability(cuda=True, vram_gib=24)),
        Resource(name="plain", slots=1, capability=Capability()),
    ]

    def job(name, submitter, *, since, cuda=False, seconds=600):
        needs = Needs(kind=SlotClass.TRAINING, placement=Placement(require_cuda=cuda))
        task = Waiting(key=(name, "i1"), needs=needs, since=after(since), submitter=submitter)
        return Job(task=task, seconds=seconds)

    fleet = VirtualFleet(servers)
    fleet.run(
        [
            job("bob 1", "bob", since=0, seconds=5000),
            job("ada 1", "ada", since=1),
            job("bob 2", "bob", since=10, cuda=True),
            *(job(f"ada {number}", "ada", since=20) for number in range(2, 5)),
        ]
    )

    started = {key[0]: (held.resource, held.began) for key, held in fleet.started.items()}
    assert started["ada 1"] == ("gpu", after(1))
    assert started["bob 2"] == ("gpu", after(601)), "ada gave it back and must not have it again"
