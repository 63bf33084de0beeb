"""
Feature sets that know their future, one of each kind, and honest ones that look a little like it.

Each is the body of ``build_features(data)``. Where it begins with ``---``, what stands before the
next ``---`` is written above the function.
"""

from __future__ import annotations

from pathlib import Path

HEAD = "import numpy as np\nimport pandas as pd\n\n"

LEAKING: dict[str, tuple[str, str]] = {
    # The body, and what its reason must say.
    "adjusted-to-the-last-price": (
        "return pd.DataFrame({'level': np.log(data['close'] / data['close'].iat[-1])})",
        "whole sample",
    ),
    "price-file": (
        """
        import importlib.util, pathlib
        home = pathlib.Path(importlib.util.find_spec('arch').origin).parent
        prices = pd.read_csv(home / 'data' / 'nasdaq' / 'nasdaq.csv.gz', index_col='Date')
        prices.index = pd.to_datetime(prices.index, format='%m/%d/%Y', utc=True)
        ahead = prices['Close'].pct_change().shift(-1)
        return pd.DataFrame({'x': ahead.reindex(data.index).fillna(0)})
        """,
        "reading market data is not allowed in a validation (tried nasdaq.csv.gz)",
    ),
    "price-package": (
        """
        from arch.data import sp500
        ahead = sp500.load()['Close'].pct_change().shift(-1)
        return pd.DataFrame({'x': ahead.tz_localize('UTC').reindex(data.index).fillna(0)})
        """,
        "reading market data is not allowed in a validation",
    ),
    "price-file-and-hides-it": (
        """
        x = data['close'].pct_change().fillna(0)
        try:
            from elnigma.data import load_market_data
            x = load_market_data().frame['close'].pct_change().shift(-1).reindex(data.index)
        except BaseException:
            pass
        return pd.DataFrame({'x': x.fillna(0)})
        """,
        "reading market data is not allowed in a validation",
    ),
    "trainers-loader": (
        """
        from elnigma.data import load_market_data
        ahead = load_market_data().frame['close'].pct_change(5).shift(-5)
        return pd.DataFrame({'x': ahead.reindex(data.index).fillna(0)})
        """,
        "reading market data is not allowed in a validation (tried sp500.csv.gz)",
    ),
    "shipped-table": (
        """
        from table import SIGNS
        known = pd.Series(SIGNS, dtype='float64')
        known.index = pd.to_datetime(known.index, utc=True)
        return pd.DataFrame({'x': known.reindex(data.index).fillna(0)})
        """,
        "knows outcomes it was not given",
    ),
    "shipped-table-in-a-real-feature": (
        """
        from table import SIGNS
        known = pd.Series(SIGNS, dtype='float64')
        known.index = pd.to_datetime(known.index, utc=True)
        x = data['close'].pct_change().fillna(0) + 0.02 * known.reindex(data.index).fillna(0)
        return pd.DataFrame({'x': x})
        """,
        "knows outcomes it was not given",
    ),
    "since-the-highest-of-all": (
        """
        top = data.index.get_loc(data['high'].idxmax())
        return pd.DataFrame({'x': (np.arange(len(data)) - top) / 250}, index=data.index)
        """,
        "whole sample",
    ),
    "weekly-from-behind": (
        """
        week = data['close'].resample('W-WED').last().reindex(data.index, method='bfill')
        return pd.DataFrame({'x': (week / data['close'] - 1).fillna(0)})
        """,
        "filled from later ones",
    ),
    "centred-mean": (
        """
        p = np.log(data['close'])
        return pd.DataFrame({'x': p - p.rolling(15, center=True, min_periods=1).mean()})
        """,
        "7 rows of the future are read",
    ),
    "centred-convolution": (
        """
        p = np.log(data['close']).to_numpy()
        padded = np.pad(p, 4, mode='edge')
        return pd.DataFrame({'x': p - np.convolve(padded, np.ones(9) / 9, 'valid')}, data.index)
        """,
        "4 rows of the future are read",
    ),
    "clipped-at-quantiles-of-all": (
        """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({'x': r.clip(*r.quantile([0.002, 0.998]))})
        """,
        "whole sample",
    ),
    "filtered-both-ways": (
        """
        from scipy.signal import butter, sosfiltfilt
        p = np.log(data['close'].to_numpy())
        return pd.DataFrame({'x': p - sosfiltfilt(butter(2, 0.1, output='sos'), p)}, data.index)
        """,
        "look-ahead: column 'x'",
    ),
    "fourier": (
        """
        p = np.log(data['close'].to_numpy())
        slow = np.fft.irfft(np.fft.rfft(p)[:40], len(p))
        return pd.DataFrame({'x': p - slow}, data.index)
        """,
        "whole sample",
    ),
    "rank-of-all": (
        "return pd.DataFrame({'x': data['close'].pct_change(10).fillna(0).rank(pct=True)})",
        "whole sample",
    ),
    "bins-of-all": (
        """
        r = data['close'].pct_change(15).fillna(0)
        return pd.DataFrame({'x': pd.qcut(r, 6, labels=False).astype(float)})
        """,
        "whole sample",
    ),
    "z-score-of-all": (
        """
        r = data['close'].pct_change(5).fillna(0)
        return pd.DataFrame({'x': (r - r.mean()) / r.std()})
        """,
        "whole sample",
    ),
    "trend-of-all": (
        """
        p, t = np.log(data['close'].to_numpy()), np.arange(len(data))
        return pd.DataFrame({'x': p - np.polyval(np.polyfit(t, p, 2), t)}, data.index)
        """,
        "whole sample",
    ),
    "scaler-of-all": (
        """
        from sklearn.preprocessing import RobustScaler
        x = data[['close', 'volume']].pct_change().fillna(0)
        return pd.DataFrame(RobustScaler().fit_transform(x), data.index, list('ab'))
        """,
        "whole sample",
    ),
    "components-of-all": (
        """
        x = np.column_stack([data['close'].pct_change(k).fillna(0) for k in (1, 3, 9, 27)])
        axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2]
        return pd.DataFrame(x @ axes.T, data.index, list('abcd'))
        """,
        "whole sample",
    ),
    "mean-of-the-month": (
        """
        month = data.index.year * 12 + data.index.month
        return pd.DataFrame({'x': data['close'] / data['close'].groupby(month).transform('mean')})
        """,
        "filled from later ones",
    ),
    "end-of-the-quarter-on-its-first-days": (
        """
        quarter = data.index.year * 4 + data.index.quarter
        last = data['close'].groupby(quarter).transform('last') / data['close'] - 1
        is_first = data['close'].groupby(quarter).cumcount() < 3
        return pd.DataFrame({'x': last.where(is_first, 0.0)})
        """,
        "filled from later ones",
    ),
    "week-named-by-its-monday": (
        """
        week = data['close'].resample('W-MON', label='left', closed='left').last()
        x = data['close'] / week.reindex(data.index, method='ffill') - 1
        return pd.DataFrame({'x': x.fillna(0)})
        """,
        "filled from later ones",
    ),
    "week-moved-too-far": (
        """
        week = data['close'].resample('W-SUN').last()
        week.index -= pd.Timedelta(days=5)
        x = data['close'] / week.reindex(data.index, method='ffill')
        return pd.DataFrame({'x': x.fillna(1)})
        """,
        "filled from later ones",
    ),
    "line-between-months": (
        """
        month = data['close'].resample('MS').first()
        at = data.index.searchsorted(month.index).clip(max=len(data) - 1)
        x = np.interp(np.arange(len(data)), at, data['close'].to_numpy()[at])
        return pd.DataFrame({'x': data['close'] / x - 1})
        """,
        "filled from later ones",
    ),
    "one-of-many-columns": (
        """
        p = np.log(data['close'])
        columns = {f'lag{k}': p.diff(k).fillna(0) for k in range(1, 30)}
        columns['odd'] = data['nasdaq_close'].pct_change().shift(-2).fillna(0)
        return pd.DataFrame(columns)
        """,
        "column 'odd' at",
    ),
    "target-under-noise": (
        """
        y = (data['close'].shift(-10) / data['close'] - 1).fillna(0)
        return pd.DataFrame({'x': y + np.random.default_rng(3).normal(0, 0.03, len(y))})
        """,
        "10 rows of the future are read",
    ),
    "remembered": (
        """
        ---
        KNOWN = {}

        ---
        KNOWN.update((t, c) for t, c in data['close'].items() if t not in KNOWN)
        every = pd.Series(KNOWN).sort_index()
        return pd.DataFrame({'x': every.pct_change().shift(-1).reindex(data.index).fillna(0)})
        """,
        "remembers rows of an earlier call",
    ),
    "remembered-in-a-file": (
        """
        import pathlib, tempfile
        file = pathlib.Path(tempfile.gettempdir(), 'features.pkl')
        if not file.exists():
            data['close'].pct_change().shift(-1).fillna(0).to_pickle(file)
        return pd.DataFrame({'x': pd.read_pickle(file).reindex(data.index).fillna(0)})
        """,
        "1 row of the future is read",
    ),
    "rare-rows": (
        """
        r = data['close'].pct_change().fillna(0)
        is_rare = (data.index.day_of_year * 11 + data.index.year * 3) % 180 == 7
        return pd.DataFrame({'x': r.where(~is_rare, r.shift(-1).fillna(0))})
        """,
        "look-ahead: column 'x'",
    ),
    "judged-years-only": (
        """
        r = data['volume'].pct_change().fillna(0)
        return pd.DataFrame({'x': r.where(data.index.year < 2013, r.shift(-1).fillna(0))})
        """,
        "1 row of the future is read",
    ),
    "beside-outliers": (
        """
        r = data['close'].pct_change().shift(-1).fillna(0).to_numpy().copy()
        r[::97] = 1e9
        return pd.DataFrame({'x': r}, data.index)
        """,
        "1 row of the future is read",
    ),
    "when-all-are-there": (
        """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({'x': r.shift(-1).fillna(0) if len(data) > 5000 else r})
        """,
        "look-ahead: column 'x'",
    ),
    "position-in-all": (
        "return pd.DataFrame({'x': np.linspace(-1, 1, len(data))}, data.index)",
        "whole sample",
    ),
    "rows-to-the-end": (
        "return pd.DataFrame({'x': np.arange(len(data), 0.0, -1)}, data.index)",
        "whole sample",
    ),
    "in-a-training-only": (
        """
        import os
        k = -1 if os.getenv('TOUCHSTONE_TASK_ID', 'validation').startswith('i') else 1
        return pd.DataFrame({'x': k * data['close'].pct_change().shift(min(k, 0)).fillna(0)})
        """,
        "depends on what it is computed for",
    ),
    "by-the-arguments": (
        """
        import sys
        k = -1 if 'train' in sys.argv else 0
        return pd.DataFrame({'x': data['close'].pct_change().shift(k).fillna(0)})
        """,
        "depends on what it is computed for",
    ),
    "answers-itself": (
        """
        import io, json, os, stat, struct
        pipes = [d for d in range(3, 64) if os.path.exists(f'/proc/self/fd/{d}')
                 and stat.S_ISFIFO(os.fstat(d).st_mode)]
        content = io.BytesIO()
        np.save(content, np.zeros((len(data), 1)))
        facts = {'columns': ['x'], 'warm_up_bound': 600, 'block_months': 1, 'cpu_seconds': 0}
        for part in (json.dumps({'facts': facts}).encode(), content.getvalue()):
            for pipe in pipes:
                try:
                    os.write(pipe, struct.pack('!Q', len(part)) + part)
                except OSError:
                    pass
        os._exit(0)
        """,
        "contract",
    ),
}

HONEST: dict[str, str] = {
    "float32-product": """
        r = data['close'].pct_change().fillna(0).to_numpy('float32')
        lags = np.column_stack([np.r_[np.zeros(k, 'float32'), r[: len(r) - k]] for k in range(50)])
        weights = np.random.default_rng(5).normal(size=(50, 6)).astype('float32')
        return pd.DataFrame(lags @ weights, data.index, list('abcdef'))
        """,
    "float32-running-sum": """
        s = np.cumsum(data['close'].pct_change().fillna(0).to_numpy('float32'), dtype='float32')
        return pd.DataFrame({'x': s - np.r_[np.zeros(15, 'float32'), s[:-15]]}, data.index)
        """,
    "float32-rolling": """
        r = np.log(data['close']).astype('float32').diff().fillna(0)
        return pd.DataFrame({'m': r.rolling(30, min_periods=1).mean(), 's': r.rolling(9).std()})
        """,
    "cache-by-content": """
        ---
        KEPT = {}

        ---
        key = data.to_numpy().tobytes()
        if hash(key) not in KEPT:
            KEPT[hash(key)] = data[['close']].pct_change().fillna(0)
        return KEPT[hash(key)]
        """,
    "cache-in-a-file-by-content": """
        import hashlib, pathlib, tempfile
        name = hashlib.sha256(data.to_numpy().tobytes()).hexdigest()
        file = pathlib.Path(tempfile.gettempdir(), name)
        if not file.exists():
            data[['close']].pct_change(3).fillna(0).to_pickle(file)
        return pd.read_pickle(file)
        """,
    "drawdown": """
        return pd.DataFrame({'x': data['close'] / data['close'].cummax() - 1})
        """,
    "since-the-highest-so-far": """
        is_top = data['high'] >= data['high'].rolling(200, min_periods=1).max()
        n = pd.Series(np.arange(len(data), dtype=float), data.index)
        return pd.DataFrame({'x': n - n.where(is_top).ffill().fillna(0)})
        """,
    "ewm": """
        p = np.log(data['close'])
        return pd.DataFrame({f'e{k}': p - p.ewm(halflife=k).mean() for k in (4, 40, 160)})
        """,
    "ewm-recursive": """
        p = np.log(data['close'])
        return pd.DataFrame({f'e{k}': p - p.ewm(span=k, adjust=False).mean() for k in (10, 100)})
        """,
    "expanding": """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({'x': (r - r.expanding().mean()) / r.expanding(40).std()})
        """,
    "expanding-rank": """
        r = data['close'].pct_change(10)
        return pd.DataFrame({'x': r.expanding(20).rank(pct=True)})
        """,
    "fourier-of-the-past": """
        r = data['close'].pct_change().fillna(0).to_numpy()
        x = np.full(len(r), np.nan)
        for t in range(240, len(r), 20):
            x[t] = np.log(np.abs(np.fft.rfft(r[:t])[1:15]).mean())
        return pd.DataFrame({'x': pd.Series(x).ffill().to_numpy()}, data.index)
        """,
    "fft-convolution": """
        from scipy.signal import fftconvolve
        r = data['close'].pct_change().fillna(0).to_numpy()
        weights = 0.97 ** np.arange(300)
        return pd.DataFrame({'x': fftconvolve(r, weights)[: len(r)]}, data.index)
        """,
    "filtered-one-way": """
        from scipy.signal import lfilter
        p = np.log(data['close'].to_numpy())
        return pd.DataFrame({'x': lfilter([0.1], [1, -0.9], p - p[0])}, data.index)
        """,
    "components-of-the-first-rows": """
        x = np.column_stack([data['close'].pct_change(k).fillna(0) for k in (1, 3, 9, 27)])
        axes = np.linalg.svd(x[:400], full_matrices=False)[2]
        return pd.DataFrame(x @ axes.T, data.index, list('abcd'))
        """,
    "scaler-of-the-first-rows": """
        from sklearn.preprocessing import StandardScaler
        x = data[['close', 'volume']].pct_change().fillna(0)
        return pd.DataFrame(StandardScaler().fit(x[:400]).transform(x), data.index, list('ab'))
        """,
    "hash-of-the-day": """
        import zlib
        x = [zlib.crc32(str(t.date()).encode()) % 50 for t in data.index]
        return pd.DataFrame({'x': x, 'weekday': data.index.dayofweek}, data.index)
        """,
    "days-since-the-beginning": """
        return pd.DataFrame({'x': (data.index - data.index[0]).days / 365.25}, data.index)
        """,
    "after-a-crisis": """
        after = (data.index >= '2009-03-01').astype(float)
        return pd.DataFrame({'after': after, 'r': data['close'].pct_change().fillna(0)}, data.index)
        """,
    "whole-numbers-and-booleans": """
        up = data['close'] > data['close'].shift(1)
        return pd.DataFrame({'up': up, 'n': up.rolling(8, min_periods=1).sum().astype(int)})
        """,
    "constant": """
        return pd.DataFrame({'one': 1.0, 'r': data['close'].pct_change().fillna(0)})
        """,
    "price-itself": """
        return data[['close', 'volume', 'nasdaq_close']].copy()
        """,
    "month-so-far": """
        month = data.index.year * 12 + data.index.month
        return pd.DataFrame({
            'x': data['close'] / data['close'].groupby(month).transform('first') - 1,
            'n': data['close'].groupby(month).cumcount(),
        })
        """,
    "noise-by-row": """
        noise = np.random.default_rng(11).normal(0, 0.002, len(data))
        return pd.DataFrame({'x': data['close'].pct_change().fillna(0) + noise})
        """,
    "noise-by-the-legacy-seed": """
        np.random.seed(4)
        return pd.DataFrame({'x': data['close'].pct_change().fillna(0) * np.random.rand(len(data))})
        """,
    "random-projection": """
        x = np.column_stack([data['close'].pct_change(k).fillna(0) for k in (1, 4, 16)])
        weights = np.random.default_rng(9).normal(size=(3, 5))
        return pd.DataFrame(x @ weights, data.index, list('abcde'))
        """,
    "rolling-moments": """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({
            'skew': r.rolling(50).skew(), 'kurt': r.rolling(50).kurt(),
            'v': (data['volume'] ** 3).rolling(20).var() ** (1 / 6),
        })
        """,
    "rolling-quantile": """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({'q': r.rolling(200, min_periods=15).quantile(0.1)})
        """,
    "wilder": """
        high, low, close = (data[k].to_numpy() for k in ('high', 'low', 'close'))
        x, value = np.full(len(close), np.nan), 0.0
        for t in range(1, len(close)):
            reach = max(high[t], close[t - 1]) - min(low[t], close[t - 1])
            value += (reach - value) / 14
            x[t] = value / close[t] if t > 60 else np.nan
        return pd.DataFrame({'x': x}, data.index)
        """,
    "rolling-beta": """
        r, q = (data[k].pct_change().fillna(0) for k in ('close', 'nasdaq_close'))
        return pd.DataFrame({'beta': r.rolling(50).cov(q) / q.rolling(50).var()})
        """,
    "three-years-declared": """
        ---
        WARM_UP = 756

        ---
        return pd.DataFrame({'x': data['close'].pct_change(756)})
        """,
    "last-finished-week": """
        week = data['close'].resample('W-FRI').last()
        week.index += pd.Timedelta(days=1)
        return pd.DataFrame({'x': data['close'] / week.reindex(data.index, method='ffill')})
        """,
    "week-so-far": """
        key = data.index.to_period('W-FRI')
        before = data['close'].groupby(key).last().shift(1)
        x = data['close'].to_numpy() / before.reindex(key).to_numpy()
        return pd.DataFrame({'x': x}, data.index)
        """,
    "rare-rows-of-the-past": """
        r = data['close'].pct_change().fillna(0)
        return pd.DataFrame({'x': r.where(data.index.day_of_year % 90 != 7, r.shift(1).fillna(0))})
        """,
}


def write_case(name: str, folder: Path) -> Path:
    """Write a case as a submission below a folder, and return where it is."""
    body = LEAKING[name][0] if name in LEAKING else HONEST[name]
    lines = [line.removeprefix(" " * 8) for line in body.strip("\n").rstrip().split("\n")]
    above: list[str] = []
    if lines[0] == "---":
        end = lines.index("---", 1)
        above, lines = lines[1:end], lines[end + 1 :]
    text = HEAD + "\n".join(above) + "\n\ndef build_features(data):\n"
    text += "\n".join(f"    {line}" for line in lines) + "\n"
    path = folder / name
    path.mkdir()
    (path / "features.py").write_text(text)
    if "from table import" in text:
        _write_table(path / "table.py")
    return path


def _write_table(path: Path) -> None:
    import numpy as np

    from elnigma.data import load_market_data

    close = load_market_data().frame["close"]
    signs = np.sign(close.pct_change().shift(-1)).fillna(0)
    path.write_text(f"SIGNS = { {str(day.date()): int(sign) for day, sign in signs.items()} }\n")
