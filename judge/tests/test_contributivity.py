import contextlib
import io

import numpy as np
import pytest
from rampwf.prediction_types import make_regression
from rampwf.utils.combine import blend_on_fold

from touchstone_judge.contributivity import MAX_PICKS, Fold, compute_contributivity, pick_models

REGRESSION = make_regression(label_names=["y"])


def score_rows(target):
    """Correlation with the outcome, on the rows of which a mean is known."""

    def score(predictions):
        return np.array([correlate(line, target) for line in predictions])

    return score


def correlate(line, target):
    told = ~np.isnan(line)
    if told.sum() < 2 or np.ptp(line[told]) == 0:
        return 0.0
    return float(np.corrcoef(line[told], target[told])[0, 1])


class Correlation:
    is_lower_the_better = False

    def score_function(self, truth, predictions):
        return correlate(predictions.y_pred.ravel(), truth.y_pred.ravel())


def pick_with_ramp(predictions, target):
    with contextlib.redirect_stdout(io.StringIO()):
        picks = blend_on_fold(
            [REGRESSION(y_pred=line[:, None].copy()) for line in predictions],
            REGRESSION(y_pred=target[:, None].copy()),
            Correlation(),
        )
    return tuple(int(pick) for pick in picks)


def draw_fold(rng, models=3, rows=120):
    target = rng.normal(size=rows)
    return rng.normal(0, 0.05, size=(models, 1)) * target + rng.normal(size=(models, rows)), target


@pytest.mark.parametrize("seed", range(10))
def test_picks_are_ramps_on_three_models_and_five_folds(seed):
    rng = np.random.default_rng(seed)
    for _ in range(5):
        predictions, target = draw_fold(rng)
        expected = pick_with_ramp(predictions, target)
        assert pick_models(Fold(predictions=predictions, score=score_rows(target))) == expected


def test_picks_are_ramps_where_models_say_nothing_of_some_rows():
    rng = np.random.default_rng(11)
    for _ in range(5):
        predictions, target = draw_fold(rng, models=4)
        predictions[rng.random(predictions.shape) < 0.2] = np.nan
        expected = pick_with_ramp(predictions, target)
        assert pick_models(Fold(predictions=predictions, score=score_rows(target))) == expected


def test_shares_sum_to_one():
    rng = np.random.default_rng(12)
    folds = []
    for _ in range(5):
        predictions, target = draw_fold(rng, models=6)
        folds.append(Fold(predictions=predictions, score=score_rows(target)))
    shares = compute_contributivity(folds)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()


def test_of_two_equal_models_the_earlier_gets_all():
    predictions, target = draw_fold(np.random.default_rng(13), models=1)
    twins = np.repeat(predictions, 2, axis=0)
    assert compute_contributivity([Fold(predictions=twins, score=score_rows(target))]).tolist() == [
        1,
        0,
    ]


def test_nobody_shares_where_nobody_is():
    assert compute_contributivity([]).tolist() == []
    assert pick_models(Fold(predictions=np.zeros((0, 5)), score=score_rows(np.zeros(5)))) == ()


def test_picks_end_where_a_score_would_grow_for_ever():
    """A score that likes every further pick a little more."""
    calls = iter(range(10_000))
    fold = Fold(predictions=np.ones((2, 3)), score=lambda means: np.full(len(means), next(calls)))
    assert len(pick_models(fold)) == MAX_PICKS
