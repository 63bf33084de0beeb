import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procedures import by_arch_stepm, by_step_down
from touchstone_judge.comparison import compare, step_down
from worlds import make_index_world, make_panel, make_world


def by_definition(t, null):
    """p of the j-th largest: the largest over l <= j of how often the rest's maximum exceeds it."""
    order = sorted(range(len(t)), key=lambda i: -t[i])
    adjusted = [0.0] * len(t)
    for j, index in enumerate(order):
        shares = []
        for step in range(j + 1):
            left = order[step:]
            exceeded = sum(max(line[i] for i in left) >= t[order[step]] for line in null)
            shares.append((1 + exceeded) / (1 + len(null)))
        adjusted[index] = max(shares)
    return adjusted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32))
def test_step_down_is_its_definition(hypotheses, resamples, seed):
    rng = np.random.default_rng(seed)
    t = np.round(rng.normal(size=hypotheses), 1)
    null = np.round(rng.normal(size=(resamples, hypotheses)), 1)
    np.testing.assert_allclose(step_down(t, null), by_definition(t, null))


@pytest.fixture(scope="module")
def panel():
    return make_world(1257, [0.12, 0.0, 0.0, 0.0, 0.0], np.random.default_rng(1))


def test_a_difference_is_that_of_the_scores(panel):
    for i, edge in enumerate(compare(panel)):
        assert edge.difference == pytest.approx(panel.scores[i + 1] - panel.scores[0])
        assert edge.low < edge.difference < edge.high
        assert edge.compared == 5


def test_counting_the_others_makes_no_p_smaller(panel):
    for edge in compare(panel):
        assert edge.p_own <= edge.p_adjusted


def test_every_submission_more_makes_it_harder(panel):
    """The same one, on the same resamples, among more and more of the others."""
    found = []
    for n in range(1, 6):
        fewer = dataclasses.replace(panel, names=panel.names[: n + 1], net=panel.net[:, : n + 1])
        found.append(compare(fewer, seed=3)[0])
    assert [edge.p_adjusted for edge in found] == sorted(edge.p_adjusted for edge in found)
    assert [edge.detectable for edge in found] == sorted(edge.detectable for edge in found)
    assert all(edge.difference == pytest.approx(found[0].difference) for edge in found)


def test_alone_the_two_ps_are_one(panel):
    (edge,) = compare(dataclasses.replace(panel, names=panel.names[:2], net=panel.net[:, :2]))
    assert edge.p_own == edge.p_adjusted


def test_the_order_of_submissions_changes_nothing(panel):
    order = [0, 3, 1, 5, 4, 2]
    mixed = dataclasses.replace(
        panel, names=tuple(panel.names[i] for i in order), net=panel.net[:, order]
    )
    straight = {edge.name: edge for edge in compare(panel, seed=4)}
    for edge in compare(mixed, seed=4):
        assert edge.p_adjusted == straight[edge.name].p_adjusted
        assert edge.low == pytest.approx(straight[edge.name].low)


def test_the_same_panel_and_seed_give_the_same_figures(panel):
    assert compare(panel, seed=5) == compare(panel, seed=5)
    assert compare(panel, seed=5) != compare(panel, seed=6)


def test_a_copy_of_the_baseline_is_never_better(panel):
    twin = dataclasses.replace(
        panel, net=np.concatenate([panel.net[:, :1], panel.net[:, :1], panel.net[:, 2:]], axis=1)
    )
    edge = compare(twin)[0]
    assert (edge.difference, edge.p_own, edge.p_adjusted) == (0, 1, 1)


def test_a_panel_of_the_baseline_alone_has_no_edges(panel):
    assert compare(dataclasses.replace(panel, names=panel.names[:1], net=panel.net[:, :1])) == ()


def test_who_holds_the_index_beats_an_equal_holder_by_nothing():
    panel = make_index_world(500, np.random.default_rng(2))
    both = make_panel(np.repeat(panel.net[:, 1:], 2, axis=1), panel.market)
    (edge,) = compare(both)
    assert (edge.difference, edge.p_own) == (0, 1)


def test_a_real_edge_is_found_by_ours_and_by_archs_test():
    for number in range(5):
        panel = make_world(3500, [0.12, 0.0, 0.0, 0.0], np.random.default_rng([7, number]))
        assert by_step_down(panel, number) >= {0}
        assert by_arch_stepm(panel, number) >= {0}
