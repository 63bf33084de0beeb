"""Net returns of a baseline and of submissions on the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NEGLIGIBLE = 1e-12
"""Spread, relative to a series' largest value, below which a series is rounding noise."""


class PanelError(ValueError):
    """Returns that nothing can be computed of; the message says which and why."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """
    Net returns on the same rows; the first series is the baseline's.

    :param names: One for each series, without a repetition.
    :param net: Net return a row, of shape (rows, series, intervals).
    :param market: Return of the instrument over the same bar, of shape (rows,).
    :param longest_interval: The longest prediction interval, in rows: what neighbouring rows share.
    :param bars_per_year: To annualise with.
    :param folds: Rows of each fold, in their order; empty where all rows are of one history. What
        follows a fold's last row was traded by other models, from no position.
    :raises PanelError: If shapes do not fit, or a value is not finite.
    """

    names: tuple[str, ...]
    net: FloatArray
    market: FloatArray
    longest_interval: int
    bars_per_year: float
    folds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.net.ndim != 3:
            raise PanelError(f"net has {self.net.ndim} dimensions, not rows, series, intervals")
        rows, series, intervals = self.net.shape
        if series != len(self.names) or len(set(self.names)) != series:
            raise PanelError(f"net has {series} series and {len(set(self.names))} names")
        if series < 1 or intervals < 1:
            raise PanelError("net needs a baseline and an interval at least")
        if self.market.shape != (rows,):
            raise PanelError(f"market has shape {self.market.shape}, net has {rows} rows")
        if rows < 2:
            raise PanelError(f"{rows} rows have no spread")
        if self.folds and (min(self.folds) < 1 or sum(self.folds) != rows):
            raise PanelError(f"folds of {sum(self.folds)} rows, net has {rows}")
        if self.longest_interval < 1 or not self.bars_per_year > 0:
            raise PanelError("the longest interval and the bars a year are positive")
        for name, series_net in zip(self.names, np.moveaxis(self.net, 1, 0), strict=True):
            if not np.isfinite(series_net).all():
                raise PanelError(f"{name}: a net return is not finite")
        if not np.isfinite(self.market).all():
            raise PanelError("market: a return is not finite")

    @property
    def rows(self) -> int:
        """Rows on which all are compared."""
        return int(self.net.shape[0])

    @property
    def submissions(self) -> tuple[str, ...]:
        """The names behind the baseline's."""
        return self.names[1:]

    @cached_property
    def active(self) -> FloatArray:
        """Net returns without the market's part, of the shape of ``net``."""
        return take_out_market(self.net, self.market)

    @cached_property
    def scores(self) -> FloatArray:
        """Mean over the intervals of the Sharpe ratio of ``active``, of shape (series,)."""
        mean: FloatArray = sharpe_ratios(self.active, self.bars_per_year).mean(axis=1)
        return mean


def take_out_market(net: FloatArray, market: FloatArray) -> FloatArray:
    """
    Return each series less its beta times the market.

    Who holds the instrument earns what it earns, with no skill. Beta is the least-squares slope
    over all rows; the mean stays in, which is what a series earns beyond it.

    :param net: Of shape (rows, ...).
    :param market: Of shape (rows,).
    """
    centred = market - market.mean()
    power = float(centred @ centred)
    # A market that stands still has no slope; what is left of its moves is rounding.
    if market.std() <= NEGLIGIBLE * float(np.abs(market).max()):
        return net.copy()
    beta = np.tensordot(centred, net - net.mean(axis=0), axes=(0, 0)) / power
    residual: FloatArray = net - np.multiply.outer(market, beta)
    # A series that is a multiple of the market leaves nothing but rounding.
    largest = np.abs(net).max(axis=0)
    noise = residual.std(axis=0) <= NEGLIGIBLE * largest
    residual[:, noise] = 0.0
    return residual


def sharpe_ratios(returns: FloatArray, bars_per_year: float) -> FloatArray:
    """
    Return the annualised Sharpe ratio of each series: √A · mean / standard deviation (ddof 1).

    A series without spread has 0: it took no risk and, less the market, earned nothing.

    :param returns: Of shape (rows, ...).
    """
    spread = returns.std(axis=0, ddof=1)
    some = spread > NEGLIGIBLE * np.abs(returns).max(axis=0)
    ratios: FloatArray = np.zeros(returns.shape[1:])
    np.divide(returns.mean(axis=0), spread, out=ratios, where=some)
    return math.sqrt(bars_per_year) * ratios
