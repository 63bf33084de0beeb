"""Stands in for :class:`touchstone.hooks.agent.AgentHook`: remembers what was sent."""

from __future__ import annotations


class FakeAgentHook:
    """Keeps every command with its server and the message it answers."""

    placement_key = b"sealed by the control plane"

    def __init__(self) -> None:
        self.sent: list[tuple[str, object, str | None]] = []

    def send(self, server: str, command: object, *, correlation_id: str | None = None) -> str:
        self.sent.append((server, command, correlation_id))
        return f"message-{len(self.sent)}"

    def commands(self, kind: type) -> list:
        return [command for _, command, _ in self.sent if isinstance(command, kind)]
