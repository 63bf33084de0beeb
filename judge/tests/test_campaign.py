"""A seeded sample of ``make judge-campaign``: each promise, on few worlds."""

import pytest
from scipy.stats import binom

from campaign import make_lines, measure

WORLDS = 24
LINES = [line for line in make_lines() if line.at_most is not None or line.at_least is not None]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_sample_does_not_speak_against_the_promise(line):
    share = measure(line, WORLDS, seed=3, others=False)["step-down (ours)"]
    hits = round(share * WORLDS)
    if line.at_most is not None:
        # As many by chance in fewer than one of a thousand, were the promise just kept.
        assert binom.sf(hits - 1, WORLDS, line.at_most) > 1e-3
    if line.at_least is not None:
        assert binom.cdf(hits, WORLDS, line.at_least) > 1e-3
