import numpy as np
import pytest

from touchstone_judge.similarity import contribution, gaussianise, similarity


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_ranks_alone_count(rng):
    values = rng.normal(size=200)
    np.testing.assert_allclose(gaussianise(values), gaussianise(np.exp(values) * 7 + 3))


def test_a_copy_is_one_and_its_opposite_minus_one(rng):
    values = rng.normal(size=101)
    assert similarity(values, values) == pytest.approx(1)
    assert similarity(values, -values) == pytest.approx(-1)


def test_strangers_are_near_zero(rng):
    assert abs(similarity(rng.normal(size=4000), rng.normal(size=4000))) < 4 / np.sqrt(4000)


def test_ties_share_their_rank():
    assert gaussianise(np.array([1.0, 2.0, 2.0, 3.0])).tolist()[1:3] == [0.0, 0.0]


def test_a_constant_ranks_nothing(rng):
    values = rng.normal(size=50)
    assert gaussianise(np.ones(50)) is None
    assert similarity(np.ones(50), values) is None
    assert contribution(np.ones(50), values, values) is None
    assert contribution(values, np.ones(50), values) is None
    assert contribution(values, -(values**2), np.ones(50)) is None


def test_a_prediction_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        gaussianise(np.array([1.0, np.nan]))


def test_a_copy_of_the_baseline_adds_nothing(rng):
    target, baseline = rng.normal(size=(2, 300))
    for sign in (1, -1):
        assert contribution(baseline, sign * baseline, target) == pytest.approx(0, abs=1e-12)


def test_a_contribution_is_the_growth_of_the_correlation(rng):
    """By finite differences: d corr(y, m + εp) / dε at 0 is the contribution, for standard m."""
    target, m, p = rng.normal(size=(3, 500))
    target = target + 0.1 * p
    base, other = gaussianise(m), gaussianise(p)
    step = 1e-6
    above, below = (np.corrcoef(target, base + sign * step * other)[0, 1] for sign in (1, -1))
    growth = (above - below) / (2 * step)
    assert contribution(p, m, target) == pytest.approx(growth, rel=1e-4)
