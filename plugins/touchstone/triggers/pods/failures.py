"""What keeps an attempt from going on in its pod."""

from __future__ import annotations

from touchstone.core.pod_attempts import Problem


class PodFailed(Exception):
    """
    The pod is of no use for this attempt: give it back, and let the attempt end with this.

    :param failure_class: One word.
    :param reason: One line for the engineer.
    """

    def __init__(self, failure_class: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(failure_class, reason)


class Stopped(Exception):
    """Somebody ends the attempt: nothing more is to be done than to give the pod back."""
