"""Ours and others' ways to say which submissions are better, on the same panel."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from touchstone_judge.bootstrap import choose_block
from touchstone_judge.comparison import compare

RESAMPLES = 1_000


def by_step_down(panel, seed):
    edges = compare(panel, resamples=RESAMPLES, seed=seed)
    return {i for i, edge in enumerate(edges) if edge.p_adjusted < 0.05}


def by_naive_t(panel, seed):
    """A one-sided t-test of each active series by itself."""
    scaled = panel.active / panel.active.std(axis=0)
    active = (scaled[:, 1:] - scaled[:, [0]]).mean(axis=2)
    t = active.mean(axis=0) / active.std(axis=0) * math.sqrt(panel.rows)
    return set(np.flatnonzero(t > 1.645).tolist())


def by_arch_stepm(panel, seed):
    from arch.bootstrap import StepM

    losses = find_losses(panel)
    test = StepM(losses[:, 0], pd.DataFrame(losses[:, 1:]), size=0.05, seed=seed, **_blocks(panel))
    try:
        test.compute()
    except ValueError:
        # It has nothing left to compare with where all are superior.
        return set(range(losses.shape[1] - 1))
    return set(test.superior_models)


def by_arch_spa(panel, seed):
    """Whether any is better at all: the first one stands for it."""
    from arch.bootstrap import SPA

    losses = find_losses(panel)
    test = SPA(losses[:, 0], losses[:, 1:], seed=seed, **_blocks(panel))
    test.compute()
    return {0} if test.pvalues["consistent"] < 0.05 else set()


def find_losses(panel):
    """Of equal risk, as arch compares losses and not ratios."""
    return -(panel.active / panel.active.std(axis=0)).mean(axis=2)


def _blocks(panel):
    block = choose_block(panel.rows, panel.longest_interval)
    return {"block_size": block, "reps": RESAMPLES, "bootstrap": "moving block"}


PROCEDURES = {
    "step-down (ours)": by_step_down,
    "naive t": by_naive_t,
    "arch StepM": by_arch_stepm,
    "arch SPA": by_arch_spa,
}
