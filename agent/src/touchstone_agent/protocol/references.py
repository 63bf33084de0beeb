"""
Names of container images, taken apart. Pure.

A name says where an image is only if it begins with a host: ``registry.example/trainer:1``. One
without a host is an image that was built where it runs; Docker's own registry is ``docker.io``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from touchstone_agent.protocol.errors import ConfigurationError

MAX_REFERENCE = 512

DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})

_REFERENCE = re.compile(
    r"(?P<repository>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
)
_HOST = re.compile(r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, kw_only=True)
class ImageReference:
    """
    A name of an image.

    :param registry: Host of its registry, with its port; ``None`` for one that is on the machine
        it runs on, or nowhere.
    :param repository: Its path there.
    :param tag: What it is called there; ``None`` where it is named by content alone.
    :param digest: Its content: ``sha256:...``; ``None`` where only its tag is known.
    """

    registry: str | None
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Return it without tag and digest."""
        return f"{self.registry}/{self.repository}" if self.registry else self.repository

    def pin(self, digest: str) -> str:
        """Return it by content; its tag stays, for people and for lists of what is allowed."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}@{digest}"


def parse_reference(text: str) -> ImageReference:
    """
    Take a name apart.

    :raises ConfigurationError: If no image can be called so.
    """
    first, slash, rest = text.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    found = _REFERENCE.fullmatch(rest if has_host else text)
    if not found or len(text) > MAX_REFERENCE or (has_host and not _HOST.fullmatch(first)):
        raise ConfigurationError(
            f"{text[:200]!r} is no name of an image: expected [HOST[:PORT]/]PATH[:TAG]"
        )
    digest = found["digest"]
    tag = found["tag"] or (None if digest else "latest")
    registry = normalise_registry(first) if has_host else None
    repository = found["repository"]
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(registry=registry, repository=repository, tag=tag, digest=digest)


def find_pinned(text: str) -> ImageReference | None:
    """Return the image that a name means by its content; ``None`` for any other text."""
    try:
        found = parse_reference(text)
    except ConfigurationError:
        return None
    return found if found.registry and found.digest else None


def name_by_content(text: str) -> str:
    """Return what everybody understands: of an image that is pinned its content, and no tag."""
    pinned = find_pinned(text)
    return f"{pinned.name}@{pinned.digest}" if pinned else text


def drop_digest(text: str) -> str:
    """Return the name and tag of an image that is named by both tag and content."""
    try:
        found = parse_reference(text)
    except ConfigurationError:
        return text
    return text.partition("@")[0] if found.digest and found.tag else text


def normalise_registry(host: str) -> str:
    """Return the one name of a registry that has several."""
    lower = host.lower()
    return DOCKER_HUB if lower in _HUB_NAMES else lower
