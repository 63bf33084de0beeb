"""When a pod has to end: pure decisions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Life:
    """
    How long a pod has lived, over all starts of its container.

    :param kernel_boot: The start of the machine that ``at`` belongs to.
    :param at: Uptime of the machine when it was noted.
    :param lived: Seconds that it had lived by then.
    :param noted_at: When that was, in Unix time.
    """

    kernel_boot: str
    at: float
    lived: float
    noted_at: float

    def count(self, uptime: float) -> float:
        """Return the seconds it has lived by now."""
        return self.lived + max(0.0, uptime - self.at)

    def dump(self) -> dict[str, Any]:
        """Return it as it is written to disk."""
        return asdict(self)

    @classmethod
    def load(cls, data: dict[str, Any]) -> Self:
        """
        Return it as it was written to disk.

        :raises ValueError: If that is not one.
        """
        try:
            return cls(
                kernel_boot=str(data["kernel_boot"]),
                at=float(data["at"]),
                lived=float(data["lived"]),
                noted_at=float(data["noted_at"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no life: {error!r}") from error


def resume_life(saved: Life | None, *, kernel_boot: str, uptime: float, unix_time: float) -> Life:
    """
    Return the pod's life as it goes on with this start of its container.

    :param saved: What an earlier one has left; ``None`` for the first.
    """
    if saved is None:
        return Life(kernel_boot=kernel_boot, at=uptime, lived=0.0, noted_at=unix_time)
    if saved.kernel_boot == kernel_boot:
        return saved
    # The machine itself was started again and its clock with it: only the calendar, which
    # somebody may have set, tells how long the pod has lived.
    away = max(0.0, unix_time - saved.noted_at)
    return Life(kernel_boot=kernel_boot, at=uptime, lived=saved.lived + away, noted_at=unix_time)


def find_end(*, uptime: float, lease_until: float, life: Life, life_seconds: float) -> str | None:
    """Return why the pod has to end now; ``None`` while it may go on."""
    if life.count(uptime) >= life_seconds:
        return f"it has lived for the {life_seconds:.0f} s that it may"
    if uptime >= lease_until:
        return "nobody has asked for it within its lease"
    return None
