"""
The key that may log in to one pod, and to no other.

It is derived from the control plane's own key and the pod's name, so it is stored nowhere: the
triggerer that takes over from one that died derives the same one. A pod's key opens nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from touchstone_agent.protocol.errors import ConfigurationError

SECRET_BYTES = 32
_PURPOSE = b"touchstone pod login v1\n"


@dataclass(frozen=True, kw_only=True)
class PodKey:
    """
    A key pair in OpenSSH's formats.

    :param private: PEM text.
    :param public: One line, as in ``authorized_keys``.
    """

    private: str = field(repr=False)
    public: str


def derive_key(secret: bytes, pod_name: str) -> PodKey:
    """
    Return the key of a pod; equal inputs give equal keys.

    :param secret: The control plane's private key, 32 bytes.
    :param pod_name: The pod's name, which is that of one attempt.
    :raises ConfigurationError: If the secret has another length: whatever it is then, somebody
        may guess it.
    """
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(
            f"the secret that pods' keys are derived from has {len(secret)} bytes, "
            f"not {SECRET_BYTES}"
        )
    # RFC 5869; the secret is uniformly random, so no salt is needed.
    seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE + pod_name.encode()).derive(
        secret
    )
    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return PodKey(private=private.decode(), public=public.decode())
