"""
Windows of rows for models that see more than one: gathered a batch at a time from one copy.

The window of a row ends with that row, so nothing in it is later. Memory grows with rows times
features; only the batches under way hold features ``window`` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


def _take(features: Any, rows: np.ndarray, size: int) -> Any:
    return features[rows[:, None] + np.arange(1 - size, 1, dtype="int32")]


_hold: Any
_gather: Any
if keras.backend.backend() == "jax":
    import jax

    _hold, _gather = jax.device_put, jax.jit(_take, static_argnames="size")
else:
    _hold, _gather = np.asarray, _take


def hold(features: np.ndarray) -> Any:
    """
    Return features in the place where windows are gathered from them: on the device, with JAX.

    :param features: A row per row of data.
    """
    return _hold(features)


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """
    Windows that have not been gathered yet; its length is their number.

    :param features: A row per row of data, as :func:`hold` returns them.
    :param rows: Number of each window's last row.
    :param size: Rows of each window.
    :raises ValueError: If a window would begin before the first row: such a row number counts
        from the end, where the future is.
    """

    features: Any
    rows: np.ndarray
    size: int

    def __post_init__(self) -> None:
        if len(self.rows) and int(self.rows.min()) < self.size - 1:
            raise ValueError(f"row {self.rows.min()} has no {self.size - 1} rows before it")

    def __len__(self) -> int:
        return len(self.rows)


class WindowBatches(keras.utils.PyDataset):  # type: ignore[misc] # Keras ships no types
    """
    Batches of windows as Keras takes them: ``(windows, outcomes)``, or ``(windows,)``.

    Windows have the shape ``(batch, size, features)``, the oldest row first; outcomes have
    ``(batch, 1)``.

    :param windows: What is gathered.
    :param batch_size: Windows a batch; the last one may be smaller.
    :param outcome: One a window; ``None`` to predict.
    :param seed: Of the order of the windows, which is another one in each epoch; ``None`` for the
        order that they have.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        *,
        outcome: np.ndarray | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self._features = windows.features
        self._size = windows.size
        self._batch_size = batch_size
        self._all_rows = windows.rows.astype("int32")
        self._all_outcomes = None if outcome is None else outcome.reshape(-1, 1)
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._rows, self._outcomes = self._all_rows, self._all_outcomes

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        part = slice(index * self._batch_size, (index + 1) * self._batch_size)
        windows = _gather(self._features, self._rows[part], self._size)
        return (windows,) if self._outcomes is None else (windows, self._outcomes[part])

    def on_epoch_begin(self) -> None:
        """Put the windows into the epoch's order; Keras calls this."""
        if self._rng is None:
            return
        order = self._rng.permutation(len(self._all_rows))
        self._rows = self._all_rows[order]
        if self._all_outcomes is not None:
            self._outcomes = self._all_outcomes[order]
