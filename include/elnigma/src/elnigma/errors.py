"""Failures by what the control plane should do about them: one exit code each."""

from __future__ import annotations


class ElnigmaError(Exception):
    """
    Base of every failure this trainer explains in its own words.

    The message is one line that a submitter understands without the traceback.
    """

    exit_code = 1
    error_class = "unknown"
    # Of the child process that raised it, where it comes from one.
    inner_traceback: str | None = None


class ConfigError(ElnigmaError):
    """Arguments or configuration are wrong; the same call will never work."""

    exit_code = 2
    error_class = "config"


class SubmissionError(ElnigmaError):
    """The submitted module is invalid or fails; only its author can mend it."""

    exit_code = 3
    error_class = "submission"


class ContractError(SubmissionError):
    """The submitted module ended the process, so that the contract could not be kept."""

    error_class = "contract"


class DivergedError(ElnigmaError):
    """Training ran, but its loss or predictions are not finite numbers."""

    exit_code = 4
    error_class = "diverged"


class DataError(ElnigmaError):
    """The market data are missing or damaged; not the submitter's fault."""

    exit_code = 10
    error_class = "data"


class StorageError(ElnigmaError):
    """A file of the trainer's own cannot be written or read; another machine may do."""

    exit_code = 75
    error_class = "temporary"


class DeviceError(ElnigmaError):
    """The GPU that was asked for is not there, or is there no more; another machine may do."""

    exit_code = 75
    error_class = "device"


class OutOfMemoryError(ElnigmaError):
    """An allocation failed; a larger slot may do."""

    exit_code = 137
    error_class = "oom"


class Aborted(BaseException):
    """
    SIGTERM arrived.

    Not an :class:`Exception`, so that no ``except Exception`` of a submitted module swallows it.
    """

    exit_code = 143
    error_class = "aborted"
