"""The market data: whole, valid, and cut where asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from elnigma.data import load_market_data


def test_every_row_is_whole_and_valid() -> None:
    frame = load_market_data().frame
    assert len(frame) == 5031
    assert np.isfinite(frame.to_numpy()).all()
    assert (frame > 0).all().all()
    assert (frame["high"] >= frame["low"]).all()
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert str(frame.index.tz) == "UTC"


def test_the_last_day_asked_for_is_the_last_row() -> None:
    assert str(load_market_data("2018-06-29").frame.index[-1].date()) == "2018-06-29"
    assert str(load_market_data("2018-06-30").frame.index[-1].date()) == "2018-06-29"


def test_reading_the_data_does_not_import_their_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from elnigma.data import load_market_data; load_market_data(); "
        "assert not {'arch', 'scipy', 'statsmodels'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("prefix", ["", "nasdaq_"])
def test_both_indices_have_all_columns(prefix: str) -> None:
    names = {prefix + name for name in ("open", "high", "low", "close", "adj_close", "volume")}
    assert names <= set(load_market_data().frame.columns)
