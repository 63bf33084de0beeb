"""The end of the pod's attempt where its own runner could not tell it."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

from touchstone_agent.adapters.processes import (
    NOBODY,
    is_alive,
    kill_descendants,
    send,
    wait_until_gone,
)
from touchstone_agent.pod.home import PodHome, Record, locked, read_json, write_record
from touchstone_agent.pod.state import EXITED

RESTARTED = "the pod's container was started again"
RUNNER_GONE = "the pod's runner was ended before it could tell how the training ended"
RUNNER_GRACE_SECONDS = 25
"""More than the runner gives the trainer, and it needs a moment to write down the end."""

KILL_SECONDS = 10


def find_interruption(order: Record | None, record: Record | None, *, boot_id: str) -> str | None:
    """
    Tell what has ended an attempt that has no runner, unless it has an end already. Pure.

    :param order: What was ordered; ``None`` if nothing was.
    :param record: What its runner has left; ``None`` if that has not begun.
    :param boot_id: This start of the container.
    :return: ``None`` if there is nothing to mend.
    """
    if order is None or (record is not None and record["phase"] == EXITED):
        return None
    if order["boot_id"] != boot_id:
        # Not begun again by itself: the control plane may have given it to another pod.
        return RESTARTED
    # Without a record its runner is about to be started.
    return None if record is None else RUNNER_GONE


def mend_attempt(home: PodHome, *, boot_id: str) -> bool:
    """
    Write down the end of an attempt that has lost its runner.

    :return: Whether there is an attempt, and it has ended.
    """
    order, record = read_json(home.order_file), read_json(home.record_file)
    if find_interruption(order, record, boot_id=boot_id) is None:
        return record is not None and record["phase"] == EXITED
    with locked(home.run_lock, wait=False) as lock:
        if lock is None:
            return False
        record = read_json(home.record_file)
        problem = find_interruption(order, record, boot_id=boot_id)
        if problem is not None:
            kill_trainer(record)
            now = datetime.now(UTC).isoformat()
            write_record(
                home, {**(record or {}), "phase": EXITED, "exited_at": now, "problem": problem}
            )
    return True


def end_attempt(home: PodHome) -> None:
    """End whatever runs of the attempt: by asking its runner, then by force."""
    record = read_json(home.record_file)
    runner = (record or {}).get("runner")
    if runner is not None and is_alive(runner["pid"], runner["started"]):
        send(runner["pid"], signal.SIGTERM)
        if not wait_until_gone(runner["pid"], runner["started"], seconds=RUNNER_GRACE_SECONDS):
            kill_descendants(runner["pid"], seconds=KILL_SECONDS)
            send(runner["pid"], signal.SIGKILL)
    kill_trainer(record)


def kill_trainer(record: Record | None) -> None:
    """Kill what has lost its runner; only root runs trainers as somebody else."""
    trainer = (record or {}).get("trainer")
    if trainer is not None and is_alive(trainer["pid"], trainer["started"]):
        # The image's own runner, which may be root as well.
        kill_descendants(trainer["pid"], seconds=KILL_SECONDS)
        send(trainer["pid"], signal.SIGKILL)
    if os.geteuid() == 0:
        kill_descendants(os.getpid(), seconds=KILL_SECONDS, user=NOBODY)
