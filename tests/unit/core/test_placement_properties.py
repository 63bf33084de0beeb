"""
What placement promises, whatever happens: held by a random day and by generated inputs.

The oracle below is written from the promises alone, task by task and server by server; it shares
no code with what it judges.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.planning import plan
from touchstone.core.placement import Capability, Needs, Resource, Waiting
from touchstone.core.schedule import CloudChoice, Placement, Platform
from touchstone.core.usage import RecentUse, SlotUse
from touchstone_agent.protocol.messages import SlotClass

MORNING = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)
GRACE = 300
SEEDS = 10
EVENTS = 1100

TRAININGS_ONLY = frozenset({SlotClass.TRAINING})
LEAST = {
    ("training", False): 80,
    ("training", True): 5,
    ("validation", False): 10,
    ("validation", True): 0,
}
"""So much was placed of each kind on servers and in pods, or the day shows nothing."""

# --- the oracle -------------------------------------------------------------------------------


def pool_of(server, kind):
    """The pool that a kind takes its slots of: RunPod has but one."""
    return (server.name, "training" if server.platform.value == "runpod" else kind)


def slots_of(server, kind):
    if SlotClass(kind) not in server.kinds:
        return 0
    return server.slots if pool_of(server, kind)[1] == "training" else server.validation_slots


def free_of(server, kind):
    return server.free if pool_of(server, kind)[1] == "training" else server.validation_free


def matches(label, pattern):
    return label.startswith(pattern[:-1]) if pattern.endswith("*") else label == pattern


def could_run(task, server):
    """Whether a server is one for a task at all."""
    needs, has = task.needs, server.capability
    asked = needs.placement
    hit = [p for p in server.deny for label in needs.labels if matches(label, p)]
    let = [p for p in server.allow for label in needs.labels if matches(label, p)]
    return (
        needs.kind in server.kinds
        and (asked.platform.value == "any" or asked.platform.value == server.platform.value)
        and (not asked.allowed_hosts or server.name in asked.allowed_hosts)
        and (has.cuda or not asked.require_cuda)
        and (asked.min_vram_gib == 0 or has.vram_gib >= asked.min_vram_gib)
        and has.ram_gib >= asked.min_ram_gib
        and not hit
        and (bool(let) or not server.allow)
    )


def takes_tasks(server, kind):
    return server.is_alive and server.block is None and slots_of(server, kind) > 0


def may_now(task, server, servers, now):
    """Whether a task may start on a server now, if a slot of it is free."""
    waited = (now - task.since).total_seconds()

    def is_candidate(other):
        return (
            could_run(task, other)
            and takes_tasks(other, task.needs.kind.value)
            and (other.capability.cuda or not task.needs.placement.prefer_cuda or waited >= GRACE)
        )

    if not is_candidate(server):
        return False
    if server.name in task.avoid and waited < GRACE:
        return not any(is_candidate(s) and s.name not in task.avoid for s in servers)
    return True


def check_plan(decided, waiting, servers, *, now, usage, weights, is_paused=False):
    """Replay a plan and hold it to every promise."""
    tasks, by_name = {task.key: task for task in waiting}, {s.name: s for s in servers}
    placed = [item.key for item in decided.placements]
    assert len(set(placed)) == len(placed)
    assert sorted([*placed, *(wait.key for wait in decided.waits)]) == sorted(tasks)
    assert all(wait.reason and "\n" not in wait.reason for wait in decided.waits)
    for kind in SlotClass:
        mine = [w for w in decided.waits if tasks[w.key].needs.kind is kind]
        assert [wait.position for wait in mine] == list(range(1, len(mine) + 1))
    if is_paused:
        assert not placed
        return
    allowed = {
        task.key: [s.name for s in servers if may_now(task, s, servers, now)] for task in waiting
    }
    free = {
        pool_of(s, kind): max(0, min(free_of(s, kind), slots_of(s, kind)))
        for s in servers
        for kind in ("validation", "training")
    }
    used = {"training": Counter(usage), "validation": Counter()}
    left = dict(tasks)
    for placement in decided.placements:
        task, server = left.pop(placement.key), by_name[placement.resource]
        kind = task.needs.kind.value
        choices = [by_name[n] for n in allowed[task.key] if free[pool_of(by_name[n], kind)] > 0]
        assert server in choices, "over the slots, or not eligible"
        check_choice(task, server, choices)
        check_turn(task, server, left.values(), allowed, used[kind], weights)
        free[pool_of(server, kind)] -= 1
        used[kind][task.submitter] += 1
    for task in left.values():
        kind = task.needs.kind.value
        idle = [name for name in allowed[task.key] if free[pool_of(by_name[name], kind)] > 0]
        assert not idle, f"{task.key} waits beside {idle}"


def check_choice(task, server, choices):
    """On-prem before RunPod; where it did not fail; CUDA if it prefers that; no GPU for nothing."""
    if server.platform.value == "runpod":
        assert all(other.platform.value == "runpod" for other in choices)
    alike = [other for other in choices if other.platform is server.platform]
    if server.name in task.avoid:
        assert all(other.name in task.avoid for other in alike)
    alike = [o for o in alike if (o.name in task.avoid) == (server.name in task.avoid)]
    if task.needs.placement.prefer_cuda:
        assert server.capability.cuda or not any(other.capability.cuda for other in alike)
    else:
        assert server.priority == max(other.priority for other in alike)
        alike = [other for other in alike if other.priority == server.priority]
        assert not server.capability.cuda or all(other.capability.cuda for other in alike)


def check_turn(task, server, others, allowed, used, weights):
    """Nobody who could have used the slot had the better claim to it."""

    def claim(item):
        share = used[item.submitter] / weights.get(item.submitter, 1)
        return (-item.priority, share, item.since, item.order, item.key)

    for other in others:
        if other.needs.kind is task.needs.kind and server.name in allowed[other.key]:
            assert claim(task) < claim(other)


# --- a random world ---------------------------------------------------------------------------


class World:
    """Servers, RunPod and tasks to which anything may happen."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now = MORNING
        self.servers = {server.name: server for server in self.make_servers()}
        self.remembered = {}
        self.waiting, self.held, self.ended = {}, {}, {}
        self.began, self.use = {}, RecentUse()
        self.is_paused = False
        self.weights = {}
        self.count = 0
        self.happened = Counter()

    def make_servers(self):
        source = self.random
        for number in range(source.randint(3, 7)):
            cuda = source.random() < 0.5
            yield Resource(
                name=f"rio{number}",
                priority=source.choice([0, 0, 0, 5]),
                slots=source.randint(1, 3),
                validation_slots=source.randint(0, 2),
                capability=Capability(
                    cuda=cuda,
                    vram_gib=source.choice([8, 24]) if cuda else 0,
                    ram_gib=source.choice([16, 64]),
                ),
                allow=source.choice([(), (), ("feature_set", "user:a*")]),
                deny=source.choice([(), (), ("user:bob",), ("model_*",)]),
            )
        yield Resource(
            name="runpod",
            platform=Platform.RUNPOD,
            slots=2,
            kinds=TRAININGS_ONLY,
            capability=Capability(cuda=True, vram_gib=24, ram_gib=32),
        )

    def arrive(self):
        self.count += 1
        source, kind = self.random, SlotClass.TRAINING
        if source.random() < 0.3:
            kind = SlotClass.VALIDATION
        submitter = source.choice(["ada", "bob", "cyd"])
        needs = Needs(
            kind=kind,
            placement=Placement(
                platform=source.choice([Platform.ANY] * 4 + [Platform.ON_PREM, Platform.RUNPOD]),
                require_cuda=source.random() < 0.15,
                prefer_cuda=source.random() < 0.2,
                min_vram_gib=source.choice([0, 0, 0, 8, 24]),
                min_ram_gib=source.choice([0, 0, 32]),
                allowed_hosts=(
                    source.sample(sorted(self.servers), 2) if source.random() < 0.1 else ()
                ),
            ),
            labels=frozenset(
                {source.choice(["feature_set", "model_structure"]), f"user:{submitter}"}
            ),
        )
        for order in range(1 if kind is SlotClass.VALIDATION else source.randint(1, 4)):
            task = Waiting(
                key=(f"s-{self.count}", f"i{order}"),
                needs=needs,
                priority=source.choice([0, 0, 0, 0, 1, -1]),
                since=self.now,
                order=order,
                submitter=submitter,
            )
            self.waiting[task.key] = task

    def pick(self, items):
        return self.random.choice(sorted(items)) if items else None

    def end(self):
        key = self.pick(self.held)
        if key is not None:
            self.ended[key] = self.held.pop(key)[0]

    def fail(self):
        key = self.pick(self.held)
        if key is not None:
            self.requeue(key)

    def requeue(self, key):
        task, server = self.held.pop(key)
        self.waiting[key] = replace(task, since=self.now, avoid=task.avoid | {server})

    def clear(self):
        key = self.pick(self.ended)
        if key is not None:
            self.waiting[key] = replace(self.ended.pop(key), since=self.now, avoid=frozenset())

    def cancel(self):
        key = self.pick(self.waiting)
        if key is not None:
            del self.waiting[key]

    def change_priority(self):
        key = self.pick(self.waiting)
        if key is not None:
            priority = self.random.randint(-1, 2)
            self.waiting[key] = replace(self.waiting[key], priority=priority)

    def change(self, **fields):
        name = self.pick(self.servers)
        self.servers[name] = replace(self.servers[name], **fields)

    def edit_slots(self):
        self.change(slots=self.random.randint(0, 4))

    def edit_validation_slots(self):
        self.change(validation_slots=self.random.randint(0, 2))

    def drain(self):
        name = self.pick(self.servers)
        server = self.servers[name]
        self.remembered.setdefault(name, (server.slots, server.validation_slots))
        self.servers[name] = replace(server, slots=0, validation_slots=0)

    def attach(self):
        name = self.pick(self.remembered)
        if name is not None:
            slots, validation_slots = self.remembered.pop(name)
            self.servers[name] = replace(
                self.servers[name], slots=slots, validation_slots=validation_slots
            )

    def lose(self):
        name = self.pick(set(self.servers) - {"runpod"})
        self.servers[name] = replace(self.servers[name], is_alive=False)
        for key in [key for key, (_, server) in self.held.items() if server == name]:
            self.requeue(key)

    def revive(self):
        for name, server in self.servers.items():
            if not server.is_alive:
                self.servers[name] = replace(server, is_alive=True)

    def change_stock(self):
        block = self.random.choice([None, None, "out of stock"])
        self.servers["runpod"] = replace(self.servers["runpod"], block=block)

    def change_what_pods_take(self):
        kinds = self.random.choice([TRAININGS_ONLY, frozenset(SlotClass)])
        self.servers["runpod"] = replace(self.servers["runpod"], kinds=kinds)

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def weigh(self):
        self.weights = {"ada": self.random.choice([0.5, 1, 3])}

    def happen(self):
        crowded = len(self.waiting) > 40
        events = {
            self.arrive: 2 if crowded else 25,
            self.end: 40,
            self.fail: 8,
            self.clear: 3,
            self.cancel: 8 if crowded else 2,
            self.change_priority: 4,
            self.edit_slots: 3,
            self.edit_validation_slots: 2,
            self.drain: 2,
            self.attach: 4,
            self.lose: 2,
            self.revive: 4,
            self.change_stock: 3,
            self.change_what_pods_take: 6,
            self.pause: 1,
            self.resume: 6,
            self.weigh: 1,
        }
        event = self.random.choices(list(events), weights=list(events.values()))[0]
        event()
        self.happened[event.__name__] += 1

    def see(self):
        """Return what placement sees: servers with what is free of them."""
        used = Counter(
            pool_of(self.servers[server], task.needs.kind.value)
            for task, server in self.held.values()
        )
        return [
            replace(
                server,
                free=server.slots - used[server.name, "training"],
                validation_free=server.validation_slots - used[server.name, "validation"],
            )
            for server in self.servers.values()
        ]

    def tick(self):
        waiting, servers = list(self.waiting.values()), self.see()
        facts = {
            "now": self.now,
            "usage": self.use.count(
                (
                    SlotUse(key=key, submitter=task.submitter, since=self.began[key])
                    for key, (task, _) in self.held.items()
                    if task.needs.kind is SlotClass.TRAINING
                ),
                self.now,
            ),
            "weights": self.weights,
            "is_paused": self.is_paused,
        }
        decided = plan(waiting, servers, **facts)
        check_plan(decided, waiting, servers, **facts)
        if self.random.random() < 0.1:
            self.random.shuffle(waiting)
            self.random.shuffle(servers)
            assert plan(waiting, servers, **facts) == decided
        for placement in decided.placements:
            task = self.waiting.pop(placement.key)
            self.happened["placed a", task.needs.kind.value, placement.resource == "runpod"] += 1
            self.held[placement.key] = (task, placement.resource)
            self.began[placement.key] = self.now


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_every_plan_keeps_its_promises(seed):
    world = World(seed)

    for _ in range(EVENTS):
        world.happen()
        if world.random.random() < 0.5:
            world.now += dt.timedelta(seconds=world.random.choice([0.5, 5, 60]))
            world.tick()

    # A day on which nothing was placed would keep every promise.
    for (kind, is_pod), least in LEAST.items():
        assert world.happened["placed a", kind, is_pod] > least
    assert len(world.happened) == 21


# --- no starvation ----------------------------------------------------------------------------


class BusyFleet:
    """Three slots, and four submitters who always have twenty tasks waiting."""

    def __init__(self, *, long_tasks_of=""):
        self.random = random.Random(5)
        self.long_tasks_of = long_tasks_of
        self.now, self.waiting, self.held = MORNING, {}, {}
        self.overtaken, self.worst = Counter(), 0
        self.slot_ticks, self.done = Counter(), Counter()
        self.began, self.use = {}, RecentUse()

    def arrive(self):
        for submitter in ["ada", "bob", "cyd", "dan"]:
            have = sum(task.submitter == submitter for task in self.waiting.values())
            for order in range(20 - have):
                key = (f"s-{self.now:%d%H%M%S}-{submitter}", f"i{order}")
                self.waiting[key] = Waiting(
                    key=key,
                    needs=Needs(kind=SlotClass.TRAINING),
                    since=self.now,
                    submitter=submitter,
                )

    def end(self):
        ends = [
            key
            for key, (task, _) in sorted(self.held.items())
            if self.random.random() < (0.02 if task.submitter == self.long_tasks_of else 0.4)
        ]
        for key in ends:
            self.done[self.held.pop(key)[0].submitter] += 1

    def tick(self):
        self.now += dt.timedelta(seconds=10)
        self.arrive()
        self.end()
        used = Counter(server for _, server in self.held.values())
        decided = plan(
            list(self.waiting.values()),
            [
                Resource(name="rio1", slots=2, free=2 - used["rio1"]),
                Resource(name="rio2", slots=1, free=1 - used["rio2"]),
            ],
            now=self.now,
            usage=self.use.count(
                (
                    SlotUse(key=key, submitter=task.submitter, since=self.began[key])
                    for key, (task, _) in self.held.items()
                ),
                self.now,
            ),
        )
        for placement in decided.placements:
            task = self.waiting.pop(placement.key)
            self.held[task.key], self.began[task.key] = (task, placement.resource), self.now
            self.overtaken.update(
                key for key, other in self.waiting.items() if other.since < task.since
            )
            self.worst = max(self.worst, self.overtaken.pop(task.key, 0))
        self.slot_ticks.update(task.submitter for task, _ in self.held.values())


def test_in_a_fleet_that_is_never_idle_nobody_is_overtaken_without_end():
    fleet = BusyFleet()

    for _ in range(1000):
        fleet.tick()

    assert fleet.done.total() > 1000
    # Twenty of one's own go first, and each of those gives the three others a turn.
    assert max(fleet.worst, *fleet.overtaken.values()) < 4 * 20
    assert min(fleet.done.values()) > 0.9 * max(fleet.done.values())


def test_whoever_has_long_tasks_gets_no_more_slots_than_a_turn_and_no_fewer():
    """One slot of three is more than a fair quarter, so the short tasks share the others."""
    fleet = BusyFleet(long_tasks_of="dan")

    for _ in range(1000):
        fleet.tick()

    share = {name: ticks / fleet.slot_ticks.total() for name, ticks in fleet.slot_ticks.items()}
    assert 0.25 < share["dan"] < 0.40
    assert all(share[name] > 0.18 for name in ("ada", "bob", "cyd"))


# --- generated inputs -------------------------------------------------------------------------

LABELS = ["feature_set", "model_structure", "user:ada", "user:bob"]
PATTERNS = ["feature_set", "model_*", "user:*", "user:bob", "*"]
NAMES = ["rio1", "rio2", "rio3"]

CAPABILITIES = st.builds(
    Capability,
    cuda=st.booleans(),
    vram_gib=st.sampled_from([0, 8, 24]),
    ram_gib=st.sampled_from([0, 16, 64]),
)
NEEDS = st.builds(
    Needs,
    kind=st.sampled_from(SlotClass),
    placement=st.builds(
        Placement,
        platform=st.sampled_from(Platform),
        require_cuda=st.booleans(),
        prefer_cuda=st.booleans(),
        min_vram_gib=st.sampled_from([0, 8, 24]),
        min_ram_gib=st.sampled_from([0, 16]),
        min_disk_gib=st.just(0),
        allowed_hosts=st.lists(st.sampled_from([*NAMES, "elsewhere"]), max_size=2, unique=True),
        gpu_models=st.just(()),
        cloud=st.just(CloudChoice.ANY),
        max_price=st.none(),
    ),
    labels=st.frozensets(st.sampled_from(LABELS), max_size=2),
)


@st.composite
def queues(draw):
    count = draw(st.integers(0, 8))
    return [
        Waiting(
            key=(f"s-{number}", "i1"),
            needs=draw(NEEDS),
            priority=draw(st.integers(0, 1)),
            since=MORNING - dt.timedelta(seconds=draw(st.sampled_from([0, 299, 300, 301]))),
            order=draw(st.integers(0, 2)),
            submitter=draw(st.sampled_from(["ada", "bob"])),
            avoid=draw(st.frozensets(st.sampled_from(NAMES), max_size=2)),
        )
        for number in range(count)
    ]


@st.composite
def fleets(draw):
    servers = [
        Resource(
            name=name,
            platform=Platform.ON_PREM,
            priority=draw(st.integers(0, 1)),
            slots=draw(st.integers(0, 2)),
            free=draw(st.integers(-1, 2)),
            validation_slots=draw(st.integers(0, 2)),
            validation_free=draw(st.integers(-1, 2)),
            capability=draw(CAPABILITIES),
            allow=tuple(draw(st.lists(st.sampled_from(PATTERNS), max_size=1))),
            deny=tuple(draw(st.lists(st.sampled_from(PATTERNS[:4]), max_size=1))),
            is_alive=draw(st.booleans()),
            block=draw(st.sampled_from([None, None, "closed"])),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]
    if draw(st.booleans()):
        servers.append(
            Resource(
                name="runpod",
                platform=Platform.RUNPOD,
                slots=2,
                free=draw(st.integers(0, 2)),
                kinds=draw(st.sampled_from([TRAININGS_ONLY, frozenset(SlotClass)])),
                capability=draw(CAPABILITIES),
            )
        )
    return servers


@settings(max_examples=250, deadline=None)
@given(
    waiting=queues(),
    servers=fleets(),
    usage=st.dictionaries(st.sampled_from(["ada", "bob"]), st.floats(0, 9)),
    shuffled=st.randoms(use_true_random=False),
)
def test_a_plan_of_any_queue_over_any_fleet_keeps_its_promises(waiting, servers, usage, shuffled):
    facts = {"now": MORNING, "usage": usage, "weights": {}}

    decided = plan(waiting, servers, **facts)

    check_plan(decided, waiting, servers, **facts)
    shuffled.shuffle(waiting)
    shuffled.shuffle(servers)
    assert plan(waiting, servers, **facts) == decided
