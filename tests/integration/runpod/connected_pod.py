"""A pod whose first process is the program under test, as the control plane sees it."""

from __future__ import annotations

import secrets
from typing import Any

from tests.integration.runpod.conftest import SshResult, World

from touchstone.core.pods import Pod, PodOrder
from touchstone_agent.protocol.messages import Grant
from touchstone_agent.protocol.pods import (
    POD_PROGRAM,
    PodPhase,
    PodPoll,
    PodStart,
    PodState,
    PodUpload,
    PodUploadReport,
    PodVariable,
)
from waiting import wait_for

NO_LOGIN = 255
"""What ssh itself ends with."""


class ConnectedPod:
    """
    A pod whose first process is the program under test.

    :param world: Where it was rented.
    :param pod: The pod.
    """

    def __init__(self, world: World, pod: Pod) -> None:
        self._world = world
        self.id = pod.id
        self._pod = pod

    @property
    def port(self) -> int:
        return self._world.wait_port(self._pod)

    def call(self, verb: str, message: Any) -> tuple[int, str, str]:
        """Call the program; return its exit code, its output and its errors."""
        command = f"{POD_PROGRAM} {verb}"
        text = message if isinstance(message, str) else message.model_dump_json()

        def log_in() -> SshResult | None:
            done = self._world.ssh.run(self.port, command, text=text)
            if done.code != NO_LOGIN:
                return done
            print(f"no login: {done.errors}")
            return None

        done = wait_for("a login", log_in, unless=self.find_end)
        return done.code, done.output, done.errors

    def start(self, order: PodStart) -> PodState:
        code, output, errors = self.call("start", order)
        assert code == 0, errors
        return PodState.model_validate_json(output)

    def poll(self, lease_seconds: int = 60, **wishes: int) -> PodState:
        code, output, errors = self.call("poll", PodPoll(lease_seconds=lease_seconds, **wishes))
        assert code == 0, errors
        return PodState.model_validate_json(output)

    def upload(self, grants: dict[str, Grant]) -> PodUploadReport:
        code, output, errors = self.call("upload", PodUpload(grants=grants))
        assert code == 0, errors
        return PodUploadReport.model_validate_json(output)

    def wait_phase(self, phase: PodPhase) -> PodState:
        """Wait until the pod says that it has come so far, and not beyond."""
        states: list[PodState] = []

        def look() -> PodState | None:
            states.append(self.poll())
            return states[-1] if states[-1].phase is phase else None

        def find_end() -> object:
            return states and states[-1].phase is PodPhase.EXITED and f"it is {states[-1]}"

        return wait_for(f"the pod is {phase}", look, unless=find_end)

    def run(self, command: str) -> str:
        """Run a command as root, which must succeed; return its output."""
        done = self._world.ssh.run(self.port, command)
        assert done.code == 0, f"{command}: {done}"
        return done.output

    def find_end(self) -> str | None:
        """Say that the pod is gone; ``None`` while it is not."""
        return None if self.is_alive else "the pod is gone"

    def list_of_nobody(self) -> str:
        """Return the command lines of what runs in the pod as its trainers do, one a line."""
        owned = '[ "$(stat -c %u $p 2> /dev/null)" = 65534 ]'
        return self.run(
            f"for p in /proc/[0-9]*; do {owned} && tr '\\0' ' ' < $p/cmdline && echo; done; true"
        )

    @property
    def is_alive(self) -> bool:
        return self.id in {pod["id"] for pod in self._world.admin.list_pods()}

    @property
    def bill(self) -> dict[str, Any]:
        return self._world.admin.get_ledger(self.id)

    def wait_gone(self) -> None:
        """Wait until it has ended itself, and is paid for."""
        wait_for("the pod has ended itself", lambda: not self.is_alive)
        assert self.bill["open"] == 0


def connect_pod(
    world: World,
    *,
    lease: int = 60,
    life: int = 600,
    key: str | None = None,
    image: str = "trainer:1",
    **env: str,
) -> ConnectedPod:
    """Rent a pod as the control plane does, with more variables that it need not know."""
    name = f"touchstone-test-{secrets.token_hex(4)}"
    public_key = world.ssh.public_key if key is None else key
    env = {
        "PUBLIC_KEY": public_key,
        "SSH_PUBLIC_KEY": public_key,
        PodVariable.LEASE_SECONDS.value: str(lease),
        PodVariable.LIFE_SECONDS.value: str(life),
        PodVariable.API_URL.value: world.emulator.url,
        PodVariable.OWNER.value: name,
        **env,
    }
    order = PodOrder(
        name=name,
        image=image,
        gpu="NVIDIA L4",
        env=env,
        entrypoint=(POD_PROGRAM,),
        cmd=("serve",),
    )
    return ConnectedPod(world, world.api.create_pod(order))
