"""What Ctrl-C and requests to end do to a command that leaves nothing behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat a request to end like Ctrl-C, so that it cleans up as well."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers({signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}):
        yield


@contextlib.contextmanager
def uninterruptible() -> Iterator[None]:
    """Finish cleaning up: a second Ctrl-C would leave something running."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with _handlers(dict.fromkeys(wanted, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handlers(handlers: Mapping[signal.Signals, object]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
