"""What can go wrong: every fault by name, and rules that let it happen seeded and counted."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REQUEST_FAULTS: dict[str, dict[str, Any]] = {
    "create.delay": {"seconds": 35.0},
    "create.error_after": {"status": 500, "html": False},
    "create.drop_after": {},
    "create.error_before": {"status": 500, "html": False},
    "create.drop_before": {},
    "create.no_capacity": {},
    "create.rejected": {"status": 400, "detail": "disk must not exceed the machine's"},
    "create.out_of_funds": {},
    "create.forbidden": {},
    "create.throttled": {"retry_after": 2},
    "create.null_pod": {},
    "create.null_data": {},
    "create.empty_errors": {},
    "list.empty": {},
    "list.partial": {"keep": 0.5},
    "list.page_loss": {},
    "list.error": {"status": 500, "html": False},
    "list.throttled": {"retry_after": 2},
    "list.delay": {"seconds": 35.0},
    "get.not_found": {},
    "get.stale": {},
    "get.error": {"status": 500, "html": False},
    "get.throttled": {"retry_after": 2},
    "logs.cut": {"after_lines": 1},
    "logs.duplicate": {},
    "terminate.error": {"status": 500, "html": False},
    "terminate.throttled": {"retry_after": 2},
    "terminate.drop": {},
    "terminate.ignored": {},
    "terminate.delayed": {"seconds": 10.0},
    "terminate.not_found_alive": {},
    "terminate.reappears": {"seconds": 10.0},
    "platform.key_revoked": {},
    "platform.forbidden": {},
    "platform.spend_limit": {},
    "platform.cloudflare": {},
    "platform.retired": {},
    "platform.unavailable": {"status": 503},
    "platform.throttled": {"retry_after": 2},
    "platform.pod_key_may_not_terminate": {},
    "catalog.error": {"status": 500, "html": False},
    "balance.error": {"status": 500, "html": False},
    "billing.lag": {},
}
"""Drawn at each request of the operation the name begins with; with the parameters' defaults."""

POD_FAULTS: dict[str, dict[str, Any]] = {
    "list.lag": {"seconds": 5.0},
    "boot.slow_pull": {"seconds": 10.0},
    "boot.pull_fails": {},
    "boot.never_runs": {},
    "boot.error": {},
    "boot.no_port": {},
    "boot.private_ip": {},
    "boot.ssh_refused": {},
    "boot.ssh_silent": {},
    "boot.ssh_late": {"seconds": 5.0},
    "boot.wrong_key": {},
    "boot.gpu_missing": {},
    "boot.old_driver": {"version": "470.57.02"},
    "boot.small_disk": {"mib": 8},
    "run.ssh_drop": {"after": 1.0, "every": 0.0},
    "run.ssh_freeze": {"after": 1.0, "seconds": 30.0},
    "run.ssh_half_open": {"after": 1.0, "seconds": 30.0},
    "run.slow_network": {"bytes_per_second": 4096},
    "run.disk_full": {"after": 1.0, "mib": 64},
    "run.gpu_lost": {"after": 1.0},
    "run.container_restart": {"after": 1.0},
    "run.host_death": {"after": 1.0, "stale_seconds": 10.0},
    "run.vanish": {"after": 1.0},
    "run.clock_skew": {"seconds": 3600.0},
}
"""Drawn once for a pod, when it is created, and kept with it; ``after`` counts from RUNNING."""

KINDS = REQUEST_FAULTS | POD_FAULTS


@dataclass(kw_only=True)
class Rule:
    """
    One fault that is to happen.

    :param kind: Name out of ``KINDS``.
    :param params: What to change of the kind's defaults.
    :param match: Patterns (fnmatch) for ``name``, ``gpu``, ``cloud``, ``data_center``, ``pod_id``,
        ``api`` (rest, graphql, v1) or ``operation``; all must match.
    :param count: How often at most; ``None`` for always.
    :param skip: How many matching draws pass first.
    :param probability: Chance of each draw after that.
    :param seed: Makes the draws repeatable.
    :param draws: How often it was asked so far.
    :param hits: How often it has happened so far.
    """

    id: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    match: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    draws: int = 0
    hits: int = 0

    def matches(self, context: Mapping[str, Any]) -> bool:
        """Return whether the rule is about this request or pod."""
        return all(
            fnmatch.fnmatchcase(str(context.get(key, "")), pattern)
            for key, pattern in self.match.items()
        )

    def draw(self) -> bool:
        """Return whether it happens this time; the same seed gives the same answers."""
        self.draws += 1
        if self.draws <= self.skip or (self.count is not None and self.hits >= self.count):
            return False
        if random.Random(f"{self.seed}:{self.kind}:{self.draws}").random() >= self.probability:
            return False
        self.hits += 1
        return True

    def build_params(self) -> dict[str, Any]:
        """Return the kind's defaults with this rule's changes."""
        return KINDS[self.kind] | self.params
