"""Registries of images: which content a tag names now, and who may pull it."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from touchstone.core.records.submissions import PinnedImage
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.references import (
    DOCKER_HUB,
    ImageReference,
    normalise_registry,
    parse_reference,
)
from touchstone_agent.protocol.words import build_line

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from docker.errors import APIError

TIMEOUT = httpx.Timeout(15, connect=10)
READ_SECONDS = 30
MAX_MANIFEST_BYTES = 4 * 1024**2
"""What registries themselves accept."""
MAX_TOKEN_BYTES = 64 * 1024

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([A-Za-z]+)="([^"]*)"')
_HUB_API = "registry-1.docker.io"
_HUB_TOKENS = "auth.docker.io"


@dataclass(frozen=True, kw_only=True)
class RegistryAccess:
    """
    A registry, and what it is shown.

    :param conn_id: The Airflow connection that says so.
    :param registry: Host, with its port.
    :param login: User; empty for a registry, or images, that everybody may read.
    :param password: The user's password or token.
    :param is_plain: Whether it speaks HTTP without TLS; only one on this machine may.
    :param token_host: Another host that gives out its tokens, and may be shown the password.
    """

    conn_id: str
    registry: str
    login: str = ""
    password: str = field(default="", repr=False)
    is_plain: bool = False
    token_host: str | None = None


def find_access(conn_ids: Iterable[str], registry: str | None) -> RegistryAccess | None:
    """
    Return the connection of a registry; ``None`` if no connection is for it.

    :param conn_ids: Airflow connections of type ``docker``.
    :param registry: Host of a registry, with its port.
    :raises ConfigurationError: If one of them is not there, or makes no sense.
    """
    if registry is None:
        return None
    found = (read_access(conn_id) for conn_id in conn_ids)
    return next((access for access in found if access.registry == registry), None)


async def afind_access(conn_ids: Iterable[str], registry: str | None) -> RegistryAccess | None:
    """Do as :func:`find_access`, in an event loop."""
    if registry is None:
        return None
    for conn_id in conn_ids:
        try:
            access = build_access(conn_id, await BaseHook.aget_connection(conn_id))
        except AirflowNotFoundException as error:
            raise _not_there(conn_id) from error
        if access.registry == registry:
            return access
    return None


def read_access(conn_id: str) -> RegistryAccess:
    """
    Return what an Airflow connection of type ``docker`` says.

    :raises ConfigurationError: If it is not there, or makes no sense; names it.
    """
    try:
        return build_access(conn_id, BaseHook.get_connection(conn_id))
    except AirflowNotFoundException as error:
        raise _not_there(conn_id) from error


def _not_there(conn_id: str) -> ConfigurationError:
    return ConfigurationError(
        f"connection {conn_id!r} of TOUCHSTONE_REGISTRY_CONN_IDS is not there: add it, of type "
        "docker, with the registry's host, user and password"
    )


def build_access(conn_id: str, connection: Connection) -> RegistryAccess:
    """
    Return what a connection says.

    :raises ConfigurationError: If it makes no sense; names it.
    """
    scheme, _, rest = str(connection.host or "").rpartition("://")
    host = rest.partition("/")[0].lower()
    if connection.port:
        host = f"{host}:{connection.port}"
    try:
        parse_reference(f"{host}/any")
        url = httpx.URL(f"https://{host}")
    except (ConfigurationError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"connection {conn_id!r}: the host is {build_line(host, 100)!r}, expected that of a "
            "registry, as registry.example or registry.example:5000"
        ) from error
    login, password = connection.login or "", connection.password or ""
    if bool(login) != bool(password):
        missing = "a login and no password" if login else "a password and no login"
        raise ConfigurationError(f"connection {conn_id!r} has {missing}: it needs both, or neither")
    if not (login + password).isprintable() or ":" in login:
        raise ConfigurationError(
            f"connection {conn_id!r}: login and password are one line each, and a login has no ':'"
        )
    is_plain = scheme != "https" and _is_loopback(url.host)
    if scheme == "http" and not is_plain:
        raise ConfigurationError(
            f"connection {conn_id!r}: only a registry on this machine may be http, without TLS"
        )
    extra: Mapping[str, object] = connection.extra_dejson or {}
    token_host = extra.get("token_host")
    registry = normalise_registry(host)
    return RegistryAccess(
        conn_id=conn_id,
        registry=registry,
        login=login,
        password=password,
        is_plain=is_plain,
        token_host=str(token_host).lower()
        if token_host
        else _HUB_TOKENS
        if registry == DOCKER_HUB
        else None,
    )


def pin_image(settings: Settings, image: str) -> PinnedImage:
    """
    Return the record of an image: its digest from now on, and the source of that.

    An image that has no host in its name, or one that no connection is for, is whatever the
    machine has that runs it: then there is no ``digest``, and ``note`` says so.

    :raises ConfigurationError: If its registry has no such image, or does not show it to us.
    :raises TransientError: If its registry does not answer now.
    """
    reference = parse_reference(image)
    access = find_access(settings.registry_conn_ids, reference.registry)
    if access is None:
        where = (
            f"no connection is for the registry {reference.registry}"
            if reference.registry
            else "its name has no registry"
        )
        note = f"not resolved, {where}: each machine runs what it has"
        return PinnedImage(pinned=None, note=note)
    if settings.docker_url:
        digest = ask_engine(settings.docker_url, access, reference)
    else:
        digest = ask_registry(access, reference)
    return PinnedImage(pinned=reference.pin(digest), note=None)


# --- the registry itself ------------------------------------------------------------------------


def ask_registry(access: RegistryAccess, reference: ImageReference) -> str:
    """
    Ask a registry for the content of an image, by its HTTP API.

    :raises ConfigurationError: If it has none, or does not show it to us.
    :raises TransientError: If it does not answer now.
    """
    image = _name(reference)
    host = _HUB_API if access.registry == DOCKER_HUB else access.registry
    base = httpx.URL(f"{'http' if access.is_plain else 'https'}://{host}")
    what = reference.digest or reference.tag
    url = base.join(f"/v2/{reference.repository}/manifests/{what}")
    headers = {"Accept": _MANIFESTS, "Accept-Encoding": "identity"}
    # What is on this machine needs no proxy, and none may see it.
    with (
        _translated(image, access),
        httpx.Client(timeout=TIMEOUT, trust_env=not access.is_plain) as client,
    ):
        answer = client.head(url, headers=headers)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            headers["Authorization"] = _authorise(client, access, reference, answer)
            answer = client.head(url, headers=headers)
        _check(answer, image, access)
        digest = str(answer.headers.get("Docker-Content-Digest", ""))
        if not _DIGEST.fullmatch(digest):
            # Not every registry says it; then it is what its bytes are.
            body = _get(client, url, headers, MAX_MANIFEST_BYTES, image, access)
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
    if reference.digest is not None and digest != reference.digest:
        raise ConfigurationError(f"image {image}: its registry answers with another image")
    return digest


def _authorise(
    client: httpx.Client,
    access: RegistryAccess,
    reference: ImageReference,
    answer: httpx.Response,
) -> str:
    """Return what to show a registry, by what it asks for."""
    challenge = answer.headers.get("WWW-Authenticate", "")[:4096]
    scheme = challenge.partition(" ")[0].lower()
    if scheme == "basic" and access.login:
        text = base64.b64encode(f"{access.login}:{access.password}".encode()).decode()
        return f"Basic {text}"
    if scheme == "bearer":
        said = dict(_PARAMETER.findall(challenge))
        realm = _check_realm(said.get("realm", ""), access, _name(reference))
        scope = f"repository:{reference.repository}:pull"
        query = {"service": said.get("service", ""), "scope": scope}
        shown = httpx.BasicAuth(access.login, access.password) if access.login else None
        with client.stream("GET", realm, params=query, auth=shown) as given:
            _check(given, _name(reference), access)
            token = _find_token(_read(given, MAX_TOKEN_BYTES))
        if token:
            return f"Bearer {token}"
        raise ConfigurationError(
            f"image {_name(reference)}: {realm.host} gave no token for it (connection "
            f"{access.conn_id!r})"
        )
    raise _refused(_name(reference), access)


def _check_realm(realm: str, access: RegistryAccess, image: str) -> httpx.URL:
    """Return where tokens are given out, if that is somebody who may see the password."""
    try:
        url = httpx.URL(realm)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"image {image}: its registry names no place of tokens") from error
    host = url.netloc.decode("ascii", "replace")
    if host not in {access.registry, access.token_host}:
        raise ConfigurationError(
            f"image {image}: its registry sends us to {build_line(host, 100)!r} for a token; if "
            f'that is right, say so in connection {access.conn_id!r}: extra {{"token_host": '
            f'"{build_line(host, 100)}"}}'
        )
    if url.scheme != "https" and not (access.is_plain and _is_loopback(url.host)):
        raise ConfigurationError(f"image {image}: its registry gives out tokens without TLS")
    return url


def _find_token(body: bytes) -> str | None:
    from touchstone_agent.protocol.documents import parse_json

    try:
        document = parse_json(body, max_bytes=MAX_TOKEN_BYTES)
    except ValueError:
        return None
    found = isinstance(document, dict) and (document.get("token") or document.get("access_token"))
    return found if isinstance(found, str) and found.isascii() and found.isprintable() else None


def _get(
    client: httpx.Client,
    url: httpx.URL,
    headers: dict[str, str],
    limit: int,
    image: str,
    access: RegistryAccess,
) -> bytes:
    with client.stream("GET", url, headers=headers) as answer:
        _check(answer, image, access)
        return _read(answer, limit)


def _read(answer: httpx.Response, limit: int) -> bytes:
    body, deadline = b"", time.monotonic() + READ_SECONDS
    for block in answer.iter_bytes(64 * 1024):
        body += block
        if len(body) > limit:
            raise ConfigurationError(f"{answer.url.host} answers with more than {limit} bytes")
        if time.monotonic() > deadline:
            raise TransientError(f"{answer.url.host} took more than {READ_SECONDS} s to answer")
    return body


def _check(answer: httpx.Response, image: str, access: RegistryAccess) -> None:
    status = answer.status_code
    if status == httpx.codes.OK:
        return
    if status == httpx.codes.UNAUTHORIZED:
        raise _refused(image, access)
    if status == httpx.codes.FORBIDDEN:
        raise ConfigurationError(
            f"image {image}: login {access.login!r} of connection {access.conn_id!r} may not pull "
            "it: let it, in the registry"
        )
    if status == httpx.codes.NOT_FOUND:
        raise _missing(image, access)
    if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise TransientError(f"image {image}: registry {access.registry} answers {status}")
    # A redirect is not followed: it would show the password to whom the registry names.
    raise ConfigurationError(f"image {image}: registry {access.registry} answers {status}")


# --- the engine beside the control plane --------------------------------------------------------


def ask_engine(url: str, access: RegistryAccess, reference: ImageReference) -> str:
    """
    Let an engine ask the registry, which knows its mirrors and its certificates.

    :param url: The engine's socket.
    :raises ConfigurationError: If the registry has none, or does not show it to us.
    :raises TransientError: If engine or registry do not answer now.
    """
    # A machine without an engine does not pay for its client.
    from airflow.providers.docker.hooks.docker import DockerHook
    from airflow.sdk.exceptions import AirflowException
    from docker.errors import APIError, DockerException

    image = _name(reference)
    try:
        hook = DockerHook(
            docker_conn_id=access.conn_id if access.login else None, base_url=url, timeout=30
        )
        name = f"{reference.name}{f'@{reference.digest}' if reference.digest else ''}"
        client: Any = hook.get_conn()
        found = client.inspect_distribution(
            name if reference.digest else f"{name}:{reference.tag}",
        )
    except APIError as error:
        raise _explain(error, image, access) from error
    except (AirflowException, DockerException, OSError) as error:
        raise TransientError(
            f"image {image}: the engine at {url} does not answer: {type(error).__name__}"
        ) from error
    digest = str((found.get("Descriptor") or {}).get("digest"))
    if not _DIGEST.fullmatch(digest):
        raise ConfigurationError(f"image {image}: the engine at {url} tells no digest of it")
    return digest


def _explain(
    error: APIError, image: str, access: RegistryAccess
) -> ConfigurationError | TransientError:
    """Return what an engine's answer means; of a registry it knows little more than its words."""
    said = build_line(str(error.explanation or error), 300)
    lower = said.lower()
    if any(words in lower for words in ("manifest unknown", "not found", "name unknown")):
        return _missing(image, access)
    if any(words in lower for words in ("unauthorized", "no basic auth", "denied", "incorrect")):
        return _refused(image, access)
    return TransientError(f"image {image}: {said}")


# --- words ----------------------------------------------------------------------------------------


@contextmanager
def _translated(image: str, access: RegistryAccess) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise TransientError(
            f"image {image}: registry {access.registry} does not answer: {type(error).__name__}"
        ) from error


def _refused(image: str, access: RegistryAccess) -> ConfigurationError:
    who = f"login {access.login!r}" if access.login else "anybody without a login"
    return ConfigurationError(
        f"image {image}: registry {access.registry} refuses {who}: mend connection "
        f"{access.conn_id!r}"
    )


def _missing(image: str, access: RegistryAccess) -> ConfigurationError:
    return ConfigurationError(
        f"image {image}: registry {access.registry} has no such image: push it, or mend "
        "TOUCHSTONE_TRAINER_IMAGE, TOUCHSTONE_TRAINER_IMAGE_CUDA or TOUCHSTONE_RUNPOD_IMAGE"
    )


def _name(reference: ImageReference) -> str:
    return (
        reference.pin(reference.digest)
        if reference.digest
        else (f"{reference.name}:{reference.tag}")
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
