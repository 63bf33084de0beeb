"""Two servers with a GPU by their drivers' word; of one of them trainings see none."""

from __future__ import annotations

import json

import pytest

from fakes.gpus import FakeGpus
from placement.conftest import SERVERS, TRAINER
from system.installation import EXAMPLES
from touchstone.stack.agent_config import RUNNER_COMMAND
from touchstone.stack.layout import StatePaths, write_private
from waiting import wait_for

RUNNERS = {
    # The memory of this stack's trainings is enough for a shell.
    "b": ["/usr/bin/env", "TOUCHSTONE_MEMORY_MIB=4096", *RUNNER_COMMAND],
    "c": ["/bin/sh", str(TRAINER)],
}
"""What they run, as plain processes, since no engine without NVIDIA's parts hands a GPU over: the
real runner with its real trainer, whose JAX finds no device here, and the obedient one."""


class Server:
    """A server of the stack that is set up anew for a while."""

    def __init__(self, installation, name, folder):
        self._installation = installation
        self.name, self._part = name, f"agent-{name}"
        paths = StatePaths(root=installation.state_dir)
        self._config = paths.agent_config(name)
        self._environment = paths.environments / f"{self._part}.json"
        self._before = {file: file.read_text() for file in (self._config, self._environment)}
        self.gpus = FakeGpus(folder, count=SERVERS[name])

    def set_up(self, runner):
        environment = json.loads(self._before[self._environment])
        environment["PATH"] = f"{self.gpus.bin}:{environment['PATH']}"
        config = self._before[self._config].replace('runtime = "docker"', 'runtime = "process"')
        lines = config.splitlines()
        (at,) = (n for n, line in enumerate(lines) if line.startswith("command = "))
        lines[at] = f"command = {json.dumps(runner)}"
        config = "\n".join(lines)
        self._restart({self._config: config, self._environment: json.dumps(environment)})
        wait_for(f"{self.name} tells of its GPUs", lambda: self._count_gpus() == SERVERS[self.name])

    def restore(self):
        self._restart(self._before)
        wait_for(f"{self.name} has no GPU any more", lambda: self._count_gpus() == 0)

    def _restart(self, files):
        for file, text in files.items():
            write_private(file, text)
        self._installation.wait_until_restarted(self._part, self._installation.kill(self._part))

    def _count_gpus(self):
        return len(self._installation.records.find_server(self.name).gpus)


@pytest.fixture
def gpu_servers(fleet, tmp_path):
    servers = [Server(fleet, name, tmp_path / name) for name in RUNNERS]
    try:
        for server in servers:
            server.set_up(RUNNERS[server.name])
        yield
    finally:
        for server in servers:
            server.restore()


def test_a_gpu_that_one_server_does_not_see_is_found_on_another_at_nobodys_cost(fleet, gpu_servers):
    for pool in ("c", "b_validation", "c_validation"):
        fleet.set_slots(pool, 0)
    needs = ("--intervals", "5", "--needs", "require_cuda=true")
    submission_id = fleet.submit(EXAMPLES / "momentum", *needs)
    try:
        wait_for(
            "it has failed on the first server",
            lambda: fleet.task(submission_id, "i5").get("outcome"),
            unless=lambda: fleet.find_end(submission_id),
        )
        fleet.set_slots("c", 1)
        assert fleet.wait_for_submission(submission_id, "success")
    finally:
        fleet.cancel_what_goes_on(submission_id)
        for pool in ("b_validation", "c_validation"):
            fleet.set_slots(pool, 1)

    shown = next(t for t in fleet.ask("show", submission_id)["tasks"] if t["task_id"] == "i5")
    (blind,) = shown["attempts"]
    assert (blind["server"], shown["server"]) == ("b", "c")
    assert (blind["gpus"], shown["gpus"]) == (1, 1)
    assert (blind["exit_code"], blind["failure_class"]) == (75, "device")
    assert blind["outcome"] == "failed(infrastructure)", "it used up no attempt of the user's"
    assert blind["reason"].startswith("no GPU: JAX sees none: ")
    assert (shown["status"], shown["outcome"]) == ("success", "succeeded")
