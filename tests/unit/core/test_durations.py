"""How long tasks take, and how good the estimates were."""

from __future__ import annotations

import random
import statistics
import threading
from dataclasses import replace

import pytest

from fakes.tasks import build_spec
from touchstone.core.durations import (
    _MOST_KEYS,
    DEFAULTS,
    Duration,
    DurationKey,
    ErrorLog,
    ErrorSummary,
    History,
    describe_task,
    summarise,
)
from touchstone_agent.protocol.messages import SlotClass

FIVE = DurationKey(
    kind=SlotClass.TRAINING, system="feature_set", config_file="default.toml", interval=5
)
TWENTY = DurationKey(
    kind=SlotClass.TRAINING, system="feature_set", config_file="default.toml", interval=20
)
VALIDATION = DurationKey(kind=SlotClass.VALIDATION, system="feature_set")


def fill(history, duration_key, *seconds):
    for item in seconds:
        history.add(duration_key, item)


def test_of_a_kind_of_which_nothing_is_known_the_default_is_expected():
    history = History()

    for duration_key in (FIVE, VALIDATION):
        assert history.expect(duration_key) == DEFAULTS[duration_key.kind]


def test_what_like_tasks_took_is_expected():
    history = History()
    fill(history, FIVE, *range(101))

    expected = history.expect(FIVE)

    assert expected.p50_seconds == pytest.approx(75, abs=1)  # the newest fifty
    assert expected.p90_seconds == pytest.approx(95, abs=1)


def test_trainings_do_not_tell_how_long_a_validation_takes():
    history = History()
    fill(history, FIVE, 1000, 1000, 1000)

    assert history.expect(VALIDATION) == DEFAULTS[SlotClass.VALIDATION]


def test_another_interval_of_the_same_configuration_is_better_than_the_default():
    history = History()
    fill(history, FIVE, 100, 110, 120)

    assert history.expect(TWENTY).p50_seconds == 110


def test_an_own_past_outweighs_that_of_wider_keys():
    history = History()
    fill(history, FIVE, *[100] * 20)
    fill(history, TWENTY, 900, 900)
    assert history.expect(TWENTY).p50_seconds == 100

    fill(history, TWENTY, 900)

    assert history.expect(TWENTY).p50_seconds == 900


def test_one_single_training_tells_the_size_with_the_spread_of_the_default():
    history = History()
    fill(history, FIVE, 60)

    expected, default = history.expect(FIVE), DEFAULTS[SlotClass.TRAINING]

    assert expected.p50_seconds == 60
    assert expected.p90_seconds / 60 == default.p90_seconds / default.p50_seconds


def test_only_the_newest_are_kept():
    history = History(limit=5)
    fill(history, FIVE, *[1000] * 50, *[10] * 5)

    assert history.expect(FIVE).p50_seconds == 10
    assert max(len(samples) for samples in history._seconds.values()) == 5


def test_asking_for_unknown_tasks_keeps_nothing_for_good():
    history = History()

    for interval in range(1000):
        history.expect(DurationKey(kind=SlotClass.TRAINING, interval=interval))

    assert not history._seconds


def test_the_p90_of_few_samples_lies_beyond_the_longest():
    assert summarise([100, 110, 120]) == Duration(p50_seconds=110, p90_seconds=150)
    assert summarise([100, 100, 100]).p90_seconds > 100


def test_nine_of_ten_further_tasks_end_by_the_p90():
    source = random.Random(2)
    covered = []
    for _ in range(200):
        expected = summarise(source.lognormvariate(5, 0.6) for _ in range(20))
        covered += [source.lognormvariate(5, 0.6) <= expected.p90_seconds for _ in range(20)]

    assert 0.87 < statistics.mean(covered) < 0.95


# --- what is left of a running task -----------------------------------------------------------


def test_what_has_just_begun_has_all_of_it_left():
    duration = Duration(p50_seconds=100, p90_seconds=200)

    assert duration.get_remaining(0) == duration
    assert duration.get_remaining(1e-9).p90_seconds == pytest.approx(200)


def test_what_has_outlasted_its_p90_is_not_about_to_end():
    left = Duration(p50_seconds=100, p90_seconds=200).get_remaining(250)

    assert left.p50_seconds > 20
    assert left.p90_seconds > left.p50_seconds


def test_what_is_left_is_right_for_nine_of_ten():
    source, duration = random.Random(4), Duration(p50_seconds=100, p90_seconds=200)
    sigma = duration._sigma
    lasts = [100 * source.lognormvariate(0, sigma) for _ in range(20_000)]
    left = duration.get_remaining(80)
    rest = [seconds - 80 for seconds in lasts if seconds > 80]

    assert statistics.mean(item <= left.p50_seconds for item in rest) == pytest.approx(
        0.5, abs=0.02
    )
    assert statistics.mean(item <= left.p90_seconds for item in rest) == pytest.approx(
        0.9, abs=0.02
    )
    assert duration.mean_seconds == pytest.approx(statistics.mean(lasts), rel=0.03)


@pytest.mark.parametrize("elapsed", [0, 50, 100, 101, 1e4, 1e9])
@pytest.mark.parametrize("spread", [1, 1.000001, 1.05, 10])
def test_what_is_left_is_never_negative_nor_upside_down(elapsed, spread):
    left = Duration(p50_seconds=100, p90_seconds=100 * spread).get_remaining(elapsed)

    assert 0 <= left.p50_seconds <= left.p90_seconds


def test_a_task_of_no_length_is_no_problem():
    nothing = Duration(p50_seconds=0, p90_seconds=0)

    assert nothing.mean_seconds == 0
    assert nothing.get_remaining(5) == nothing


# --- errors of past estimates -----------------------------------------------------------------


def test_before_the_first_start_nothing_is_said_about_estimates():
    assert ErrorLog().summarise() == ErrorSummary()
    assert ErrorLog().stretch == 1


def test_past_estimates_are_judged_by_what_came():
    errors = ErrorLog()
    for waited in (50, 90, 110, 300):
        errors.add(waited_seconds=waited, p50_seconds=100, p90_seconds=200)

    assert errors.summarise() == ErrorSummary(
        count=4, covered_p90=0.75, covered_p50=0.5, median_error_seconds=30
    )


def test_only_the_newest_errors_count():
    errors = ErrorLog(limit=10)
    for waited in [1000] * 10 + [50] * 10:
        errors.add(waited_seconds=waited, p50_seconds=100, p90_seconds=200)

    assert errors.summarise().count == 10
    assert errors.summarise().covered_p90 == 1


def test_a_fleet_where_much_overtakes_learns_to_promise_less():
    errors = ErrorLog()
    for percent in range(100):
        errors.add(waited_seconds=percent * 4, p50_seconds=100, p90_seconds=200)

    assert errors.stretch == pytest.approx(1.8, abs=0.05)


def test_what_was_learnt_stays_learnt_when_it_works():
    """A stretched p90 that held looks perfect; judged as it is, the stretch would go again."""
    errors = ErrorLog()
    for percent in range(100):
        errors.add(waited_seconds=percent * 4, p50_seconds=100, p90_seconds=200 * 1.8, stretch=1.8)

    assert errors.stretch == pytest.approx(1.8, abs=0.05)


def test_a_calm_night_makes_no_bolder_promises():
    errors = ErrorLog()
    for _ in range(100):
        errors.add(waited_seconds=1, p50_seconds=100, p90_seconds=200)

    assert errors.stretch == 1


# --- what tasks are compared by ---------------------------------------------------------------


def test_a_task_is_compared_by_kind_system_configuration_and_interval():
    assert describe_task(build_spec(schedule={"config_file": "default.toml"})) == FIVE
    assert describe_task(build_spec(kind="validation", interval=None)) == VALIDATION


def test_a_task_on_a_data_set_is_compared_by_that_before_all_others():
    data = {
        "name": "eurusd-hourly",
        "version": "1",
        "digest": "e" * 64,
        "sha256": "f" * 64,
        "size": 3,
        "validation_from": "2017-10-01",
        "test_from": "2017-12-01",
        "bars_per_year": 6240,
    }
    own = describe_task(build_spec(schedule={"config_file": "default.toml"}, data=data))
    history = History()
    fill(history, FIVE, *[100] * 20)

    assert own == replace(FIVE, data="eurusd-hourly 1")
    assert history.expect(own).p50_seconds == 100
    fill(history, own, *[900] * 3)
    assert history.expect(own).p50_seconds == 900
    assert history.expect(FIVE).p50_seconds == 100


def test_a_task_of_the_version_before_is_compared_by_the_same():
    assert describe_task(build_spec(config_file="default.toml")) == FIVE


# --- several threads ---------------------------------------------------------------------------


class Meddling(float):
    """A number that, whenever it is used, lets somebody else act first."""

    def __new__(cls, value, act):
        number = super().__new__(cls, value)
        number.act = act
        return number

    def __le__(self, other):
        self.act()
        return float(self) <= other

    def __mul__(self, other):
        self.act()
        return float(self) * other

    __rmul__ = __mul__


def test_estimates_are_judged_while_others_check_more_of_them():
    """The loop of events adds while the loop that publishes reads: a deque does not bear that."""
    log = ErrorLog(limit=50)

    def add():
        log.add(waited_seconds=1, p50_seconds=1, p90_seconds=2)

    for _ in range(30):
        log.add(waited_seconds=Meddling(1, add), p50_seconds=1, p90_seconds=2)

    assert log.stretch == 1.0
    for _ in range(30):
        log.add(waited_seconds=Meddling(1, add), p50_seconds=1, p90_seconds=2)
    assert log.summarise().covered_p90 == 1.0


def test_what_is_learnt_while_somebody_asks_is_not_forgotten():
    """An answer that was worked out before would otherwise stand until the next task ends."""

    class Slow(History):
        def _work_out(self, key):
            found = super()._work_out(key)
            if not learning:
                thread = threading.Thread(target=self.add, args=(key, 500))
                learning.append(thread)
                thread.start()
                thread.join(0.2)  # as long as it gets in between, if it does
            return found

    learning = []
    history = Slow()
    fill(history, FIVE, *[10] * 2)

    history.expect(FIVE)
    learning[0].join()

    assert history.expect(FIVE).p50_seconds == 10
    assert sorted(history._seconds[FIVE]) == [10, 10, 500]
    assert history.expect(FIVE).p90_seconds > 500


def test_no_more_kinds_of_tasks_are_kept_than_are_of_use():
    """Whoever submits chooses the configuration's name, and so what is told apart."""
    history = History()
    for number in range(3 * _MOST_KEYS):
        key = DurationKey(kind=SlotClass.TRAINING, system="a", config_file=f"c{number}", interval=5)
        history.add(key, number)
        history.expect(key)

    assert len(history._seconds) <= _MOST_KEYS
    assert len(history._known) <= _MOST_KEYS
    newest = DurationKey(kind=SlotClass.TRAINING, system="a")
    assert history.expect(newest).p50_seconds > 3 * _MOST_KEYS - 60


def test_several_seeds_are_expected_to_take_as_often_as_long_until_they_are_known():
    history, three = History(), replace(FIVE, seed_count=3)
    default = DEFAULTS[SlotClass.TRAINING]
    assert history.expect(three).p50_seconds == 3 * default.p50_seconds

    fill(history, FIVE, *[100] * 5)
    assert history.expect(three).p50_seconds == 300
    fill(history, three, *[240] * 5)
    assert history.expect(three).p50_seconds == 240
    assert history.expect(replace(TWENTY, seed_count=3)).p50_seconds == 240
    # A single seed learns nothing of them.
    assert history.expect(FIVE).p50_seconds == 100


def test_the_number_of_seeds_tells_trainings_apart_and_no_validations():
    assert describe_task(build_spec(seed_count=3)).seed_count == 3
    assert describe_task(build_spec()).seed_count == 1
    assert [key.seed_count for key in VALIDATION.wider] == [1] * len(VALIDATION.wider)
