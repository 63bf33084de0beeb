"""The command that opens a shell where a task runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from touchstone.client.answers import ShownTask
from touchstone.client.errors import NotFound

AT_WORK: Final = frozenset({"preparing", "running", "uploading"})


def choose_running(tasks: Sequence[ShownTask], task_id: str | None) -> ShownTask:
    """
    Return the task to enter.

    :param task_id: The one that was asked for; ``None`` for the first that runs.
    :raises NotFound: If there is no such task, or nothing runs.
    """
    known = {task.task_id: task for task in tasks}
    if task_id is not None and task_id not in known:
        told = ", ".join(known) or "none"
        raise NotFound(f"there is no task {task_id}; its tasks are: {told}", status=404)
    asked = list(tasks) if task_id is None else [known[task_id]]
    running = next((task for task in asked if task.status in AT_WORK), None)
    if running is None:
        states = ", ".join(f"{task.task_id} is {task.status}" for task in asked)
        raise NotFound(f"nothing runs: {states or 'there is no task yet'}", status=404)
    return running


def build_enter_command(task: ShownTask) -> tuple[str, str]:
    """
    Return the command for a task that runs, and where it is to be typed.

    :raises NotFound: If it is in a pod that has no address yet.
    """
    pod = task.pod
    if pod is None:
        return f"docker exec -ti {task.container} bash", f"on server {task.server}"
    if not pod.address:
        raise NotFound(f"nobody has reached pod {pod.id or 'yet'} so far", status=404)
    login, _, port = pod.address.rpartition(":")
    return f"ssh -p {port} {login}", "with a key of TOUCHSTONE_RUNPOD_SSH_KEYS"
