"""
The login of a registry, sealed for one pull.

The agent makes a key pair for each pull and sends the public half in a message that it signs. The
private half is never written down: a reader of the queues, or of the server's own key later, learns
nothing.
"""

from __future__ import annotations

import base64
import binascii
import json

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pydantic import Field, ValidationError

from touchstone_agent.protocol.errors import MessageRefused
from touchstone_agent.protocol.facts import Wire

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class RegistryLogin(Wire):
    """
    What a registry is shown.

    :param login: User.
    :param password: The user's password or token.
    """

    login: str = Field(max_length=1024)
    password: str = Field(max_length=8192, repr=False)


class PullKey:
    """The key of one pull; it is gone with this object."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        raw = self._private.public_key().public_bytes_raw()
        self.public = base64.b64encode(raw).decode()
        """What the control plane seals to."""

    def open(self, sealed: str, *, server: str, image: str) -> RegistryLogin:
        """
        Open what was sealed to this key.

        :raises MessageRefused: If it was not, or for another server or image.
        """
        try:
            text = _SUITE.decrypt(
                base64.b64decode(sealed, validate=True), self._private, info=_bind(server, image)
            )
            return RegistryLogin.model_validate_json(text)
        except (InvalidTag, binascii.Error, ValueError) as error:
            # Not the error itself: it might repeat what it read.
            kind = "no login" if isinstance(error, ValidationError) else "not sealed for this pull"
            raise MessageRefused(f"the login for image {image} is {kind}") from None


def seal_login(login: RegistryLogin, *, public_key: str, server: str, image: str) -> str:
    """
    Seal a login for one pull of one server.

    :param public_key: As the server has sent it.
    :raises MessageRefused: If that is no key.
    """
    try:
        key = X25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        sealed = _SUITE.encrypt(login.model_dump_json().encode(), key, info=_bind(server, image))
    except (binascii.Error, ValueError) as error:
        raise MessageRefused("the key for a login is none") from error
    return base64.b64encode(sealed).decode()


def _bind(server: str, image: str) -> bytes:
    return json.dumps(["touchstone registry login", server, image]).encode()
