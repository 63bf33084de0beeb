"""What RunPod's API can answer instead of doing what was asked, by what the caller should do."""

from __future__ import annotations

from touchstone_agent.protocol.errors import PermanentError, TransientError


class CapacityExhausted(TransientError):
    """Nothing of this kind is free: take the next candidate, or wait. It is no failure."""


class Throttled(TransientError):
    """Too many requests; nothing was done. ``retry_after`` says how long to wait."""


class ServiceUnavailable(TransientError):
    """The service did not answer, or with an error of its own; nothing was changed."""


class Ambiguous(TransientError):
    """
    A change may have happened or not.

    Never repeat a create after it: look for the pod by its exact name in a complete list that was
    begun later, adopt one, terminate all others.
    """


class PodNotFound(TransientError):
    """
    No such pod, says this answer.

    Alone it proves nothing: new pods are unknown for a while, and a pod has been denied that lived.
    """


class PodRejected(PermanentError):
    """The request breaks a rule; the same one will always be refused."""


class Unauthorised(PermanentError):
    """The API key opens nothing: no other request will work either."""


class Forbidden(Unauthorised):
    """The key is good, but not for this: skip the candidate, keep going with others."""


class OutOfFunds(PermanentError):
    """The balance or the spending limit does not allow it: stop until funds are added."""


class ApiGone(PermanentError):
    """This generation of the API has been switched off: Touchstone must be upgraded."""
