"""Who may pull an attempt's image: the login of its registry, sealed for that one pull."""

from __future__ import annotations

from collections.abc import Collection

from touchstone.core.records.tasks import Task
from touchstone.hooks.registry import find_access
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError, MessageRefused
from touchstone_agent.protocol.logins import RegistryLogin, seal_login
from touchstone_agent.protocol.messages import AttemptPhase, PullLogin, PullLoginWanted
from touchstone_agent.protocol.references import find_pinned
from touchstone_agent.protocol.words import build_line

_BEFORE_PULLED = frozenset({None, AttemptPhase.ACCEPTED, AttemptPhase.PREPARING})


def answer_login(
    settings: Settings, server: str, wanted: PullLoginWanted, task: Task | None
) -> PullLogin:
    """
    Return the answer to a server that has to pull the image of an attempt.

    What it may pull is what its attempt runs, by the record; what it names itself only has to be
    that.

    :param server: Who asks, by its signature.
    :param task: The attempt's task; ``None`` if there is none.
    """
    return _answer(settings, server, wanted, _find_refusal(server, wanted, task))


def answer_staged_login(
    settings: Settings, server: str, wanted: PullLoginWanted, staged: Collection[str]
) -> PullLogin:
    """
    Return the answer to a server that has to pull an image for no attempt yet.

    :param server: Who asks, by its signature.
    :param staged: The images that it was asked to have, by its record.
    """
    is_staged = wanted.image in staged
    refusal = None if is_staged else "this server was not asked to have this image"
    return _answer(settings, server, wanted, refusal)


def _answer(
    settings: Settings, server: str, wanted: PullLoginWanted, refusal: str | None
) -> PullLogin:
    def answer(*, sealed: str | None = None, problem: str | None = None) -> PullLogin:
        return PullLogin(
            ref=wanted.ref, public_key=wanted.public_key, sealed=sealed, problem=problem
        )

    if refusal is not None:
        return answer(problem=refusal)
    reference = find_pinned(wanted.image)
    try:
        access = find_access(settings.registry_conn_ids, reference.registry if reference else None)
        if access is None or not access.login:
            return answer()
        login = RegistryLogin(login=access.login, password=access.password)
        return answer(
            sealed=seal_login(
                login, public_key=wanted.public_key, server=server, image=wanted.image
            )
        )
    except (ConfigurationError, MessageRefused) as error:
        return answer(problem=build_line(str(error)))


def _find_refusal(server: str, wanted: PullLoginWanted, task: Task | None) -> str | None:
    if task is None:
        return "there is no such task"
    if task.newest.server != server or not task.has_attempt:
        return "this server has no such attempt"
    if task.ref != wanted.ref:
        return "a newer attempt has taken its place"
    if task.is_ended or task.newest.phase not in _BEFORE_PULLED:
        return "this attempt needs no image any more"
    if task.newest.image != wanted.image:
        return "this attempt runs another image"
    return None
