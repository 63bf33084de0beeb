"""Markets and submissions whose true skill is known, to try the procedures on."""

from __future__ import annotations

import gzip
import math
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from touchstone_judge.panel import Panel

INTERVALS = (1, 5, 20)
PERSISTENCE = {1: 0.6, 5: 0.9, 20: 0.95}
"""Correlation of a row's opinion with the next row's, by interval."""
COST = 1e-4
BARS_PER_YEAR = 252
SHARED = 0.6
"""Correlation of a submission's opinions with the baseline's."""


@cache
def read_sp500():
    """Daily returns of the S&P 500 that arch ships, read without importing arch."""
    with gzip.open(files("arch") / "data/sp500/sp500.csv.gz", "rt") as text:
        close = pd.read_csv(text)["Close"].astype(float)
    return close.pct_change().dropna().to_numpy()


def resample_market(rows, rng, mean_block=25):
    """Pieces of the S&P's history, of geometric length, put together anew."""
    history = read_sp500()
    pieces, length = [], 0
    while length < rows:
        size = int(rng.geometric(1 / mean_block))
        begin = int(rng.integers(len(history)))
        pieces.append(np.take(history, np.arange(begin, begin + size), mode="wrap"))
        length += size
    return np.concatenate(pieces)[:rows]


def draw_garch(rows, rng):
    """GARCH(1, 1) with t-distributed shocks of five degrees of freedom."""
    omega, alpha, beta, warm_up = 1e-6, 0.08, 0.91, 300
    shocks = rng.standard_t(5, rows + warm_up) / math.sqrt(5 / 3)
    returns = np.empty(rows + warm_up)
    variance = omega / (1 - alpha - beta)
    for i, shock in enumerate(shocks):
        returns[i] = math.sqrt(variance) * shock
        variance = omega + alpha * returns[i] ** 2 + beta * variance
    return returns[warm_up:] + 2e-4


MARKETS = {"sp500": resample_market, "garch": draw_garch}


def draw_opinions(series, rows, interval, rng):
    """Standard normal opinions that change slowly, of shape (series, rows)."""
    persistence = PERSISTENCE[interval]
    shocks = rng.standard_normal((series, rows)) * math.sqrt(1 - persistence**2)
    shocks[:, 0] = rng.standard_normal(series)
    return lfilter([1.0], [1.0, -persistence], shocks, axis=1)


def earn(opinions, market, interval):
    """Net returns, of shape (series, rows - 1), of holding the mean of the last opinions."""
    held = np.clip(opinions, -2, 2) / 2
    position = lfilter(np.full(interval, 1 / interval), [1.0], held, axis=1)
    change = np.abs(np.diff(position, axis=1, prepend=0))
    return position[:, :-1] * market[1:] - COST * change[:, :-1]


def look_ahead(market, interval):
    """What the next ``interval`` bars bring, in units of their volatility: a perfect opinion."""
    volatility = pd.Series(market).ewm(span=40).std().bfill().to_numpy()
    total = np.concatenate([[0], np.cumsum(market / np.maximum(volatility, 1e-4))])
    rows = np.arange(len(market) - max(INTERVALS))
    future = (total[rows + 1 + interval] - total[rows + 1]) / math.sqrt(interval)
    return (future - future.mean()) / future.std()


def make_world(rows, skills, rng, *, market="sp500", shared=SHARED):
    """
    A baseline without skill, and a submission for each of ``skills``: how much it knows ahead.

    0.032, 0.055 and 0.082 give active information ratios of about 0.5, 0.85 and 1.27.
    """
    returns = MARKETS[market](rows + 1 + max(INTERVALS), rng)
    skill = np.asarray(skills, dtype=float)[:, None]
    length = rows + 1
    net = np.empty((rows, 1 + len(skills), len(INTERVALS)))
    for k, interval in enumerate(INTERVALS):
        base = draw_opinions(1, length, interval, rng)
        own = draw_opinions(len(skills), length, interval, rng)
        mixed = shared * base + math.sqrt(1 - shared**2) * own
        mixed = np.sqrt(1 - skill**2) * mixed + skill * look_ahead(returns, interval)
        net[:, :, k] = earn(np.concatenate([base, mixed]), returns[:length], interval).T
    return make_panel(net, returns[1:length])


def make_panel(net, market):
    names = ("baseline", *(f"s{i}" for i in range(net.shape[1] - 1)))
    return Panel(
        names=names,
        net=net,
        market=market,
        longest_interval=max(INTERVALS),
        bars_per_year=BARS_PER_YEAR,
    )


def make_halves_world(rows, rng, *, seeds=3, halves=21, skill=0.055, alike=0.5):
    """
    Means of some seeds of one submission that knows something: the first is the baseline.

    :param seeds: Seeds of each mean.
    :param halves: How many means there are, the baseline's included; none shares a seed.
    :param alike: Correlation of the opinions of two seeds.
    """
    returns = resample_market(rows + 1 + max(INTERVALS), rng)
    length = rows + 1
    net = np.empty((rows, halves, len(INTERVALS)))
    for k, interval in enumerate(INTERVALS):
        common = draw_opinions(1, length, interval, rng)
        own = draw_opinions(halves * seeds, length, interval, rng)
        each = math.sqrt(alike) * common + math.sqrt(1 - alike) * own
        each = math.sqrt(1 - skill**2) * each + skill * look_ahead(returns, interval)
        mean = each.reshape(halves, seeds, length).mean(axis=1)
        # Positions are scaled by the spread of what was predicted.
        mean /= mean.std(axis=1, keepdims=True)
        net[:, :, k] = earn(mean, returns[:length], interval).T
    return make_panel(net, returns[1:length])


def make_index_world(rows, rng, *, market="sp500"):
    """A baseline without skill, and one who holds the index."""
    returns = MARKETS[market](rows + 1, rng)
    parts = [
        np.concatenate([earn(draw_opinions(1, rows + 1, h, rng), returns, h), returns[None, 1:]])
        for h in INTERVALS
    ]
    return make_panel(np.stack(parts, axis=2).transpose(1, 0, 2), returns[1:])


def make_adaptive_world(rows, tries, rng, *, hidden):
    """
    A submitter without skill who adds up his tries, each with the sign of its shown score.

    :param hidden: Share of the rows, the last ones, whose scores he never sees; 0 for none.
    :returns: The panel of the rows that are judged; his last submission comes last.
    """
    returns = resample_market(rows + 1, rng)
    shown = rows - int(rows * hidden)
    opinions = {h: draw_opinions(tries + 1, rows + 1, h, rng) for h in INTERVALS}
    net = np.stack([earn(opinions[h], returns, h).T for h in INTERVALS], axis=2)
    first = make_panel(net[:shown], returns[1 : shown + 1])
    signs = np.where(first.scores[1:] > np.median(first.scores[1:]), 1.0, -1.0)
    last = np.stack(
        [earn((signs @ opinions[h][1:])[None] / math.sqrt(tries), returns, h).T for h in INTERVALS],
        axis=2,
    )
    judged = slice(shown, None) if hidden else slice(None)
    return make_panel(np.concatenate([net, last], axis=1)[judged], returns[1:][judged])
