"""What all answers of the API have in common, and those that belong to no part of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """What the API answers; a client may be older than the API, and skips what it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Answer):
    """
    Why a request was not done, as RFC 9457 has it.

    :param type: Always ``about:blank``: the status says what kind of problem it is.
    :param title: The status in words.
    :param status: The HTTP status.
    :param detail: What is wrong and the way out, in one line.
    :param field: The field that it is about; ``None`` for none.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None


class Health(Answer):
    """
    That the API answers, and what it takes the caller for.

    :param status: Always ``ok``.
    :param env: The installation's environment.
    :param user: Who asks.
    :param is_admin: Whether they may edit pools.
    :param may_submit: Whether they may start runs of the DAG, or have the permission to submit.
    """

    status: str
    env: str
    user: str
    is_admin: bool
    may_submit: bool
