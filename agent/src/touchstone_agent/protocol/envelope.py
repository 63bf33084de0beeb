"""
The signed envelope of a message.

The signature covers the payload exactly as sent, so no canonical form of JSON is needed. A
stolen server can forge no command (it holds only the control plane's public key), and stolen
permission to send to a queue starts nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from pydantic import Field, TypeAdapter, ValidationError

from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import (
    ConfigurationError,
    MessageRefused,
    MessageTooLarge,
)
from touchstone_agent.protocol.facts import Wire
from touchstone_agent.protocol.messages import PROTOCOL_VERSION, Command, Event
from touchstone_agent.protocol.words import Count, Moment, Name, build_line, describe_refusal

CLOCK_TOLERANCE = timedelta(seconds=120)
"""How far two clocks may be apart before an unexpired message counts as expired."""

SQS_LIMIT_BYTES = 1024**2 - 16 * 1024
"""What an envelope may weigh: SQS takes 1 MiB, attributes included."""

MAX_ENVELOPE_BYTES = 1024**2
"""The largest that is read; what SQS carries is never larger."""


class Header(Wire):
    """
    What a message says of itself.

    :param v: Major version of the protocol.
    :param message_id: Unique; also the queue's deduplication id.
    :param correlation_id: ``message_id`` of the message this one answers.
    :param env: Environment of the sender; a message of another one is refused.
    :param server: The server it is for, or from.
    :param epoch: For an agent's message: which start of the agent sent it.
    :param sequence: For an agent's message: counts up within ``epoch``, over all its messages.
    :param issued_at: When it was signed, UTC.
    :param expires_at: After this it must not be acted on.
    """

    v: int = PROTOCOL_VERSION
    message_id: Name
    correlation_id: Name | None = None
    env: Name
    server: Name
    epoch: Name = ""
    sequence: Count = 0
    issued_at: Moment
    expires_at: Moment


class CommandMessage(Wire):
    """A command with its header."""

    header: Header
    body: Command = Field()


class EventMessage(Wire):
    """An event with its header."""

    header: Header
    body: Event = Field()


class _Envelope(Wire):
    kid: str
    sig: str
    payload: str


_COMMANDS: TypeAdapter[CommandMessage] = TypeAdapter(CommandMessage)
_EVENTS: TypeAdapter[EventMessage] = TypeAdapter(EventMessage)


def generate_key() -> tuple[str, str]:
    """
    Make a key pair.

    :return: The private and the public key, each as base64 of its 32 raw bytes.
    """
    key = Ed25519PrivateKey.generate()
    return (
        base64.b64encode(key.private_bytes_raw()).decode(),
        base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    )


def load_private_key(text: str) -> Ed25519PrivateKey:
    """
    Read a private key as :func:`generate_key` writes it.

    :raises ConfigurationError: If ``text`` is not base64 of 32 bytes. The text is not repeated.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError("the private key is not base64 of 32 bytes") from error


def load_public_key(text: str) -> Ed25519PublicKey:
    """
    Read a public key as :func:`generate_key` writes it.

    :raises ConfigurationError: If ``text`` is not base64 of 32 bytes.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError("the public key is not base64 of 32 bytes") from error


def seal(message: CommandMessage | EventMessage, kid: str, key: Ed25519PrivateKey) -> str:
    """
    Sign a message and return the text to put on a queue.

    :param kid: Name of the key, by which the receiver finds the public one: ``control``, or the
        server's name.
    :raises MessageTooLarge: If the message is larger than a queue takes.
    """
    payload = message.model_dump_json()
    sig = base64.b64encode(key.sign(payload.encode())).decode()
    text = json.dumps({"kid": kid, "sig": sig, "payload": payload}, separators=(",", ":"))
    if len(text.encode()) > SQS_LIMIT_BYTES:
        raise MessageTooLarge(
            f"message {message.header.message_id} has {len(text)} characters; "
            f"a queue takes {SQS_LIMIT_BYTES} bytes: pass large data as an input file"
        )
    return text


def _open(text: str, keys: Mapping[str, Ed25519PublicKey]) -> tuple[str, Any]:
    """Return who has signed a message, and what it says, of the version that is spoken here."""
    try:
        envelope = _Envelope.model_validate(parse_json(text, max_bytes=MAX_ENVELOPE_BYTES))
        signature = base64.b64decode(envelope.sig, validate=True)
    except (ValidationError, binascii.Error, ValueError) as error:
        raise MessageRefused("not an envelope") from error
    key = keys.get(envelope.kid)
    if key is None:
        raise MessageRefused(f"signed by unknown key {envelope.kid[:64]!r}")
    try:
        key.verify(signature, envelope.payload.encode())
    except InvalidSignature as error:
        raise MessageRefused(f"signature of key {envelope.kid!r} does not match") from error
    try:
        payload = parse_json(envelope.payload, max_bytes=MAX_ENVELOPE_BYTES)
        version = payload["header"]["v"]
    except DocumentRefused as error:
        raise MessageRefused(f"payload is no usable JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise MessageRefused("payload has no version") from error
    if version != PROTOCOL_VERSION:
        # Before its fields are read with today's meaning.
        told = build_line(str(version), 20)
        raise MessageRefused(f"protocol version {told}; this side speaks {PROTOCOL_VERSION}")
    return envelope.kid, payload


def _check_header(header: Header, *, env: str, now: datetime) -> None:
    if header.env != env:
        raise MessageRefused(f"message of environment {header.env!r}; this is {env!r}")
    if now.astimezone(UTC) > header.expires_at + CLOCK_TOLERANCE:
        raise MessageRefused(f"expired at {header.expires_at.isoformat()}")


def open_command(
    text: str, *, keys: Mapping[str, Ed25519PublicKey], env: str, server: str, now: datetime
) -> CommandMessage:
    """
    Check and read a command, on an agent.

    :param keys: Public keys of the control plane by name.
    :param env: The agent's environment.
    :param server: The agent's server.
    :param now: The time, UTC.
    :raises MessageRefused: If it is forged, malformed, expired, of another environment or
        version, or for another server; drop it.
    """
    _, payload = _open(text, keys)
    try:
        message = _COMMANDS.validate_python(payload)
    except ValidationError as error:
        raise MessageRefused(f"malformed command: {describe_refusal(error)}") from error
    _check_header(message.header, env=env, now=now)
    if message.header.server != server:
        raise MessageRefused(f"command for server {message.header.server!r}; this is {server!r}")
    return message


def open_event(
    text: str, *, keys: Mapping[str, Ed25519PublicKey], env: str, now: datetime
) -> EventMessage:
    """
    Check and read an event, on the control plane.

    :param keys: Public key of each server by its name: a server can speak for itself only.
    :param env: The control plane's environment.
    :param now: The time, UTC.
    :raises MessageRefused: If it is forged, malformed, expired, of another environment or
        version, or signed by another server than it names; drop it.
    """
    kid, payload = _open(text, keys)
    try:
        message = _EVENTS.validate_python(payload)
    except ValidationError as error:
        raise MessageRefused(f"malformed event: {describe_refusal(error)}") from error
    _check_header(message.header, env=env, now=now)
    if message.header.server != kid:
        raise MessageRefused(f"server {kid!r} signed a message in the name of another")
    return message
