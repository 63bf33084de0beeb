"""How long to wait before the next try."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """
    Doubling waits with a cap.

    The cap matters more than the growth: a daemon that waits for hours is as good as dead.

    :param first_seconds: The first wait.
    :param cap_seconds: The longest wait.
    """

    first_seconds: float
    cap_seconds: float

    def after(self, failures: int) -> float:
        """
        Return the seconds to wait.

        :param failures: Failures in a row, from 1.
        """
        # Beyond 2**30 any cap is reached; the bound keeps the power small.
        exponent = min(max(failures, 1) - 1, 30)
        return min(self.cap_seconds, self.first_seconds * float(2**exponent))
