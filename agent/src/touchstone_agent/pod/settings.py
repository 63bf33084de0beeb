"""What stands in a pod's environment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from touchstone_agent.protocol.pods import PodVariable

DEFAULT_LEASE_SECONDS = 900.0
DEFAULT_LIFE_SECONDS = 86_400.0
DEFAULT_API_URL = "https://api.runpod.io"

_IMAGE_NAMES = frozenset(
    {"PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED",
     "PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"}
)  # fmt: skip
_IMAGE_PREFIXES = (
    "ELNIGMA_", "KERAS_", "XLA_", "JAX_", "TF_", "TORCH_", "CUDA_", "NVIDIA_", "OMP_",
    "OPENBLAS_", "MKL_",
)  # fmt: skip
_OWN_NAMES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
     "SSL_CERT_FILE", "SSL_CERT_DIR", "TOUCHSTONE_RUNNER_USER"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """
    What the pod's first process goes by.

    :param lease_seconds: How long the pod lives on after its first boot without hearing.
    :param life_seconds: How long it lives at most.
    :param api_url: Base of the API by which it ends itself.
    :param pod_id: Its own id there; empty if it was not told.
    :param api_key: Its own key there; ``None`` if it was not told.
    :param public_keys: The keys that may log in.
    :param problems: What was wrong with the environment, for the log.
    """

    lease_seconds: float
    life_seconds: float
    api_url: str
    pod_id: str
    api_key: str | None = field(repr=False)
    public_keys: tuple[str, ...]
    problems: tuple[str, ...] = ()


def read_settings(environ: Mapping[str, str]) -> PodSettings:
    """
    Read the environment; never fail.

    A first process that ends is only started again, and billed on: whatever is wrong here, the
    pod must come as far as ending itself.
    """
    problems: list[str] = []

    def find_seconds(name: PodVariable, default: float) -> float:
        text = environ.get(name, "")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value > 0 and math.isfinite(value):
            return value
        problems.append(f"{name} is {text!r}; taken for {default:.0f}")
        return default

    # What the order says outranks the account's keys, which the service may put into the other.
    ordered = environ.get("SSH_PUBLIC_KEY", "").split("\n")
    given = ordered if any(ordered) else environ.get("PUBLIC_KEY", "").strip().split("\n")[:1]
    settings = PodSettings(
        lease_seconds=find_seconds(PodVariable.LEASE_SECONDS, DEFAULT_LEASE_SECONDS),
        life_seconds=find_seconds(PodVariable.LIFE_SECONDS, DEFAULT_LIFE_SECONDS),
        api_url=(environ.get(PodVariable.API_URL) or DEFAULT_API_URL).rstrip("/"),
        pod_id=environ.get("RUNPOD_POD_ID", ""),
        api_key=environ.get("RUNPOD_API_KEY") or None,
        public_keys=tuple(key.strip() for key in given if key.strip()),
    )
    if not settings.public_keys:
        problems.append("neither SSH_PUBLIC_KEY nor PUBLIC_KEY is set: nobody can log in")
    if not settings.pod_id or not settings.api_key:
        problems.append("RUNPOD_POD_ID or RUNPOD_API_KEY is missing: the pod cannot end itself")
    return replace(settings, problems=tuple(problems))


def select_environment(environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """
    Return what a login has to know of the container's environment, which it does not inherit.

    Image, order and service all put variables into it, and nothing tells them apart: so those that
    a trainer may see are named, and nothing of the order or the service is among them.

    :return: ``image`` is what a trainer gets, ``own`` is for this program alone.
    """
    return {
        "image": {
            name: value
            for name, value in environ.items()
            if name in _IMAGE_NAMES or name.startswith(_IMAGE_PREFIXES)
        },
        "own": {name: value for name, value in environ.items() if name in _OWN_NAMES},
    }
