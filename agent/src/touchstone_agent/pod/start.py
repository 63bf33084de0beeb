"""Takes the order, and starts the runner once."""

from __future__ import annotations

import os
import subprocess
import sys

from touchstone_agent.pod.fetching import keep_grants
from touchstone_agent.pod.home import (
    HOME_VARIABLE,
    PodHome,
    Record,
    locked,
    read_json,
    write_json,
)
from touchstone_agent.pod.state import build_state
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.pods import POD_PROTOCOL_VERSION, PodStart


def start(home: PodHome, wanted: PodStart) -> Record:
    """
    Run the pod's one attempt; said again, it takes over the inputs' grants and nothing else.

    :return: The state.
    :raises ConfigurationError: If the order makes no sense, or is for another attempt than the
        one this pod has.
    :raises TransientError: If the pod is not ready yet, or ends.
    """
    if wanted.version != POD_PROTOCOL_VERSION:
        raise ConfigurationError(
            f"version {wanted.version} of the order is not known here: use an image of your own"
        )
    if not wanted.command:
        raise ConfigurationError("the order names no command")
    boot = read_json(home.boot_file)
    if boot is None:
        raise TransientError("the pod's container is still starting")
    # Two that start at once: the second one finds the order of the first.
    with locked(home.start_lock, wait=True):
        order = read_json(home.order_file)
        if order is None:
            if home.ending_file.exists():
                raise TransientError("the pod is about to end")
            write_json(
                home.order_file,
                {"boot_id": boot["boot_id"], "start": wanted.model_dump(mode="json")},
            )
        else:
            _compare(order, wanted)
            keep_grants(home, wanted.inputs)
        _ensure_runner(home)
    return build_state(home)


def _compare(order: Record, wanted: PodStart) -> None:
    known = AttemptRef.model_validate(order["start"]["ref"])
    if known != wanted.ref:
        raise ConfigurationError(
            f"this pod is for {known.task_key} with fence {known.fence}, not for "
            f"{wanted.ref.task_key} with fence {wanted.ref.fence}"
        )


def _ensure_runner(home: PodHome) -> None:
    """Start the runner unless it has begun: the record is its first act."""
    record = read_json(home.record_file)
    if record is not None:
        return
    with locked(home.run_lock, wait=False) as lock:
        # Its holder is the runner, or the first process that writes down the attempt's end.
        if lock is not None and read_json(home.record_file) is None:
            _spawn(home, lock)


def _spawn(home: PodHome, lock: int) -> None:
    """Start the runner in a session of its own; it inherits the lock and nothing of the login."""
    isolation = ["-I"] if sys.flags.isolated else ["-P"]
    names = ("PATH", "LANG", HOME_VARIABLE)
    with (home.state / "runner.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, *isolation, "-m", "touchstone_agent.pod", "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={name: os.environ[name] for name in names if name in os.environ},
            start_new_session=True,
            pass_fds=(lock,),
        )
