"""
Enrol, upgrade, remove: the same for the command line and for the DAG.

Whatever dies in between leaves what the next call finds and goes on from. What is found wrong with
a server before it was heard of is taken back on both sides.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from touchstone.core.enrolment import (
    HEARD_LATELY,
    EnrolmentRequest,
    check_request,
    render_agent_config,
    render_credentials,
    was_heard,
)
from touchstone.core.records.servers import EnrolmentState, Server
from touchstone.enrolling.bundle import Bundle
from touchstone.enrolling.machine import Facts, Finding, Machine, Shell, There, Unfit, find_failures
from touchstone.enrolling.registering import Registrar, Secrets
from touchstone.hooks.servers import ServerShell
from touchstone_agent.protocol.errors import (
    ConfigurationError,
    PermanentError,
    TouchstoneError,
    TransientError,
)

HEARD_SECONDS = 60.0
"""Within which an agent that was started must be heard."""
POOLS_SECONDS = 60.0
NOW_SECONDS = 300.0
DRAIN_SECONDS = 14 * 86_400.0

ORDER = """
import hashlib, io, subprocess, sys, tarfile, tempfile, urllib.request
try:
    data = urllib.request.urlopen(sys.argv[1], timeout=300).read()
except OSError as error:
    sys.exit(f"cannot be fetched ({error}): the command is for an hour; enroll prints another")
if hashlib.sha256(data).hexdigest() != sys.argv[2]:
    sys.exit("damaged on its way: run it again")
with tempfile.TemporaryDirectory() as folder:
    tarfile.open(fileobj=io.BytesIO(data)).extractall(folder)
    command = [sys.executable, "-I", folder + "/install.py", "enrol", folder]
    sys.exit(subprocess.call(command))
"""
"""What a server's own Python fetches, checks against its digest, and runs."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """
    One thing that was done, or found.

    :param server: Of which server.
    :param name: What.
    :param state: ``done``; ``same``, for nothing to do; ``warn``; ``planned``; ``waits``.
    :param text: In words.
    """

    server: str
    name: str
    state: str
    text: str


Report = Callable[[Step], None]
OpenShell = Callable[[str], AbstractContextManager[Shell]]


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """
    How an enrolment has ended.

    :param server: The server.
    :param version: What runs there, or will.
    :param is_changed: Whether anything was done.
    :param command: What its owner must run there as root; ``None`` if nothing.
    """

    server: str
    version: str
    is_changed: bool
    command: str | None = None


class Enrolling:
    """
    Brings servers in, up to date, and out.

    :param registrar: The control plane's side.
    :param bundle: What servers get.
    :param report: Told of each step.
    :param open_shell: Logs in to a server by the name of an Airflow connection.
    """

    def __init__(
        self,
        registrar: Registrar,
        bundle: Bundle,
        *,
        report: Report,
        open_shell: OpenShell = ServerShell,
    ) -> None:
        self._registrar = registrar
        self._bundle = bundle
        self._report = report
        self._open_shell = open_shell

    # --- joining ----------------------------------------------------------------------------------

    def enroll(
        self, requested: EnrolmentRequest, *, is_dry: bool = False, is_again: bool = False
    ) -> Enrolled:
        """
        Let a server join; what is so already stays as it is.

        :param is_dry: Only say what would be done.
        :param is_again: Without SSH: print a new command for a server that has joined.
        :raises ConfigurationError: If what is wanted cannot be.
        :raises PermanentError: If the server does not fit; nothing of it is registered then.
        :raises TransientError: If something does not answer; another call goes on.
        """
        check_request(requested)
        with self._registrar.working_on(requested.server):
            record = self._registrar.check_environment(requested.server)
            if requested.ssh_conn_id is None:
                return self._order(requested, record, is_dry=is_dry, is_again=is_again)
            with self._open_shell(requested.ssh_conn_id) as shell:
                self._note_step(
                    requested.server, "log in", "done", f"by connection {requested.ssh_conn_id}"
                )
                machine = Machine(shell, self._bundle, python=requested.python)
                try:
                    return self._set_up(requested, record, machine, is_dry=is_dry)
                finally:
                    with contextlib.suppress(TouchstoneError):
                        machine.close()

    def _set_up(
        self, requested: EnrolmentRequest, record: Server | None, machine: Machine, *, is_dry: bool
    ) -> Enrolled:
        facts = machine.look()
        there = self._check_there(requested, record, facts)
        self._note_step(requested.server, "look", "done", f"Python {facts.python}, {facts.machine}")
        config = self._render(requested)
        if there is not None and self._is_so(requested, record, there, config):
            self._note_step(
                requested.server, "enrol", "same", f"runs {self._bundle.version}, and was heard"
            )
            return self._end(requested, is_changed=False)
        is_staged = self._bundle.version in facts.staged
        if is_dry:
            self._plan(requested, is_staged=is_staged)
            return self._end(requested, is_changed=False)
        if there is None and facts.enrolled is not None:
            machine.remove()
            self._note_step(
                requested.server, "clear", "done", f"what {facts.enrolled.env} has left there"
            )
            is_staged = False
        if not is_staged:
            self._install(requested.server, machine)
        # From here on what is found wrong is taken back, unless the server has worked before.
        is_new = record is None or (record.state is EnrolmentState.BEGUN and there is None)
        try:
            machine.send({"agent.toml": config.encode()})
            self._judge(requested.server, machine.examine())
        except PermanentError:
            if there is None:
                machine.unstage()
            raise
        keeps = there is not None and there.has_secrets
        secrets = self._registrar.register(
            requested,
            version=self._bundle.version,
            public_key=there.public_key if there is not None and keeps else None,
            key_id=there.key_id if there is not None and keeps else None,
        )
        self._note_step(requested.server, "register", "done", "record, key, queues, identity")
        try:
            machine.send(self._build_files(requested, config, secrets, there))
            machine.configure()
            self._note_step(requested.server, "configure", "done", "user, settings, service")
            self._judge(requested.server, machine.doctor())
            started_at = self._registrar.clock()
            machine.start()
        except PermanentError:
            if is_new:
                machine.remove()
                self._registrar.undo(requested.server)
                self._note_step(
                    requested.server, "undo", "done", "nothing of it is left on either side"
                )
            raise
        self._note_step(requested.server, "start", "done", self._bundle.version)
        if not self._is_heard(requested.server, started_at):
            raise TransientError(
                f"{requested.server} was started, and nothing was heard of it within "
                f"{HEARD_SECONDS:.0f} s; is a dispatcher at work? Its log ends with: "
                f"{machine.read_log()}; run it again when that is mended"
            )
        self._note_step(requested.server, "hear", "done", "HELLO")
        machine.prune()
        self.wait_for_pools(requested.server)
        return self._end(requested, is_changed=True)

    def wait_for_pools(self, server: str, *, seconds: float = POOLS_SECONDS) -> None:
        """
        Wait until a dispatcher has heard a server and given it pools.

        :raises TransientError: If none does.
        """
        has_joined = self._registrar.wait_for(
            server,
            lambda found: found is not None and found.state is EnrolmentState.ENROLLED,
            seconds=seconds,
        )
        if not has_joined:
            raise TransientError(
                f"{server} has no pools yet: they are made once a dispatcher is at work that hears "
                "it; run it again then"
            )
        self._registrar.forget_orders(server)
        self._note_step(server, "pools", "done", "slots decide from now on")

    def _install(self, server: str, machine: Machine) -> None:
        sent = machine.send_bundle()
        self._note_step(server, "send", "done", f"{sent / 1024**2:.0f} MiB")
        machine.install()
        self._note_step(server, "install", "done", self._bundle.version)

    def _plan(self, requested: EnrolmentRequest, *, is_staged: bool) -> None:
        plans = {
            "install": None if is_staged else f"version {self._bundle.version}",
            "doctor": "the machine, before anything is registered",
            "register": "record, key, queues, identity",
            "configure": f"user touchstone-agent, /etc/touchstone-agent, {requested.state_dir}",
            "start": "by systemd" if requested.has_service else "in the background",
        }
        for name, text in plans.items():
            if text is not None:
                self._note_step(requested.server, name, "planned", text)

    def _check_there(
        self, requested: EnrolmentRequest, record: Server | None, facts: Facts
    ) -> There | None:
        """
        Return what the server was enrolled as; ``None`` for nothing, or for what may go.

        :raises ConfigurationError: If it works for somebody else.
        :raises Unfit: If it has no systemd, and that was asked for.
        """
        if requested.has_service and not facts.has_systemd:
            raise Unfit(
                "service: there is no systemd on this server: --no-service starts the agent in the "
                "background, until the machine is restarted"
            )
        there, env = facts.enrolled, self._registrar.settings.env
        if there is None:
            return None
        is_shared = record is not None and record.env == there.env != env
        if is_shared and there.server == requested.server:
            # Whether it is online there was looked at already, on the record that both share.
            return None
        if (there.env, there.server) != (env, requested.server):
            raise ConfigurationError(
                f"that machine is {there.server} of environment {there.env}: run "
                f"`touchstone agent remove {there.server}` there first"
            )
        if there.state_dir != str(requested.state_dir):
            raise ConfigurationError(
                f"state_dir: {requested.server} keeps its state in {there.state_dir}, not "
                f"{requested.state_dir}: name that, or remove the server first"
            )
        return there

    def _is_so(
        self, requested: EnrolmentRequest, record: Server | None, there: There, config: str
    ) -> bool:
        if record is None or record.state is not EnrolmentState.ENROLLED:
            return False
        lately = self._registrar.clock() - HEARD_LATELY
        return (
            there.version == self._bundle.version
            and there.config_sha256 == hashlib.sha256(config.encode()).hexdigest()
            and there.public_key == record.public_key
            and there.has_service is requested.has_service
            and there.is_running
            and was_heard(record, since=lately)
        )

    def _judge(self, server: str, results: Sequence[Finding]) -> None:
        """Tell of what the doctor warns of; refuse to go on if anything fails."""
        failures = find_failures(results)
        if failures is not None:
            raise Unfit(failures)
        for item in results:
            if item.is_warning:
                self._note_step(server, "doctor", "warn", f"{item.name}: {item.text}")
        self._note_step(server, "doctor", "done", f"{len(results)} things looked at")

    def _is_heard(self, server: str, since: datetime) -> bool:
        def is_back(found: Server | None) -> bool:
            return (
                found is not None
                and was_heard(found, since=since)
                and _find_version(found) == self._bundle.version
            )

        return self._registrar.wait_for(server, is_back, seconds=HEARD_SECONDS)

    def _render(self, requested: EnrolmentRequest) -> str:
        env, stores = self._registrar.settings.env, self._registrar.find_stores()
        return render_agent_config(requested, env=env, stores=stores)

    def _build_files(
        self, requested: EnrolmentRequest, config: str, secrets: Secrets, there: There | None
    ) -> dict[str, bytes]:
        record = self._registrar.records.find_server(requested.server)
        access = secrets.access_key
        known = {
            "env": self._registrar.settings.env,
            "server": requested.server,
            "version": self._bundle.version,
            "state_dir": str(requested.state_dir),
            "engine_socket": str(requested.engine_socket),
            "has_service": requested.has_service,
            "public_key": record.public_key if record else None,
            "key_id": access.key_id if access else there and there.key_id,
        }
        files = {
            "agent.toml": config,
            "control.pub": self._registrar.control_public_key + "\n",
            "wish.json": json.dumps(known),
        }
        if secrets.private_key is not None:
            files["server.key"] = secrets.private_key + "\n"
        if access is not None:
            files["aws_credentials"] = render_credentials(access.key_id, access.secret)
        return {name: text.encode() for name, text in files.items()}

    def _order(
        self, requested: EnrolmentRequest, record: Server | None, *, is_dry: bool, is_again: bool
    ) -> Enrolled:
        """Register a server that its owner sets up, by one command."""
        if record and record.state is EnrolmentState.ENROLLED and not is_again:
            self._note_step(
                requested.server, "enrol", "same", "has joined; --again makes a new key and command"
            )
            return self._end(requested, is_changed=False)
        if is_dry:
            self._note_step(
                requested.server, "register", "planned", "record, key, queues, identity"
            )
            self._note_step(
                requested.server, "order", "planned", "one command to run on the server"
            )
            return self._end(requested, is_changed=False)
        config = self._render(requested)
        secrets = self._registrar.register(
            requested, version=self._bundle.version, public_key=None, key_id=None
        )
        self._note_step(requested.server, "register", "done", "record, key, queues, identity")
        files = dict(self._bundle.read_all()) | self._build_files(requested, config, secrets, None)
        data = _pack(files)
        url = self._registrar.leave_order(requested.server, data)
        digest = hashlib.sha256(data).hexdigest()
        command = shlex.join([requested.python, "-c", ORDER, url, digest])
        self._note_step(
            requested.server, "order", "done", "run this as root on the server within an hour"
        )
        return self._end(requested, is_changed=True, command=command)

    def _end(
        self, requested: EnrolmentRequest, *, is_changed: bool, command: str | None = None
    ) -> Enrolled:
        return Enrolled(
            server=requested.server,
            version=self._bundle.version,
            is_changed=is_changed,
            command=command,
        )

    # --- up to date -------------------------------------------------------------------------------

    def upgrade(self, server: str) -> bool:
        """
        Let a server run this installation's version; containers go on meanwhile.

        :return: Whether anything was done.
        :raises TransientError: If it is not back within a minute; what ran before runs again.
        """
        with self._registrar.working_on(server):
            record = self._registrar.check_environment(server)
            enrolment = record.enrolment if record else None
            if record is None or enrolment is None or enrolment.ssh_conn_id is None:
                raise ConfigurationError(
                    f"{server} was not enrolled by SSH: `touchstone agent enroll {server} --ssh "
                    "CONNECTION` makes it so"
                )
            python = enrolment.python or "python3"
            with self._open_shell(enrolment.ssh_conn_id) as shell:
                machine = Machine(shell, self._bundle, python=python)
                try:
                    return self._bring_up(server, record, machine)
                finally:
                    with contextlib.suppress(TouchstoneError):
                        machine.close()

    def _bring_up(self, server: str, record: Server, machine: Machine) -> bool:
        facts = machine.look()
        there = facts.enrolled
        env = self._registrar.settings.env
        if there is None or (there.server, there.env) != (server, env):
            raise ConfigurationError(f"{server} is not enrolled on that machine: enroll it first")
        if there.version == _find_version(record) == self._bundle.version and there.is_running:
            self._note_step(server, "upgrade", "same", f"runs {self._bundle.version}")
            return False
        if self._bundle.version not in facts.staged:
            self._install(server, machine)
        self._judge(server, machine.examine(is_enrolled=True))
        before = machine.switch(self._bundle.version)
        started_at = self._registrar.clock()
        machine.start()
        if not self._is_heard(server, started_at):
            said = machine.read_log()
            if before != self._bundle.version:
                machine.switch(before)
                machine.start()
            raise TransientError(
                f"{server} did not come back as {self._bundle.version} within "
                f"{HEARD_SECONDS:.0f} s, so {before} runs there again; its log ended with: {said}"
            )
        machine.prune()
        self._note_step(server, "upgrade", "done", f"{before} -> {self._bundle.version}")
        return True

    # --- leaving ----------------------------------------------------------------------------------

    def remove(
        self,
        server: str,
        *,
        ssh_conn_id: str | None = None,
        is_now: bool = False,
        is_lost: bool = False,
    ) -> str | None:
        """
        Let a server leave, once what runs there has ended; nothing of it stays on either side.

        :param ssh_conn_id: How to reach it; ``None`` for as it was enrolled.
        :param is_now: Give up what runs there; it is tried again elsewhere.
        :param is_lost: Leave the server's own side alone: it is gone for good.
        :return: What its owner must run there; ``None`` if nothing.
        """
        with self._registrar.working_on(server):
            record = self._registrar.begin_removal(server, is_now=is_now)
            self._note_step(server, "drain", "done", "nothing new starts there")
            self._wait_for_end(server, NOW_SECONDS if is_now else DRAIN_SECONDS)
            enrolment = record.enrolment
            conn_id = ssh_conn_id or (enrolment.ssh_conn_id if enrolment else None)
            command = None
            if is_lost:
                self._note_step(server, "clear", "warn", "the server itself was left as it is")
            elif conn_id is not None:
                self._clear(server, conn_id, (enrolment.python if enrolment else None) or "python3")
            else:
                command = "python3 -I /opt/touchstone-agent/install.py remove"
                self._note_step(server, "clear", "planned", "run this as root on the server")
            self._registrar.finish_removal(server)
            self._note_step(server, "forget", "done", "record, key, queues, identity")
            return command

    def _wait_for_end(self, server: str, seconds: float) -> None:
        told: list[object] = []

        def tell(found: Server | None) -> None:
            left = found.enrolment.left if found and found.enrolment else None
            if not told or told[-1] != left:
                told.append(left)
                text = "for a dispatcher" if left is None else f"for {left} to end there"
                self._note_step(server, "pools", "waits", text)

        is_free = self._registrar.wait_for(
            server,
            lambda found: found is None or found.state in {EnrolmentState.REMOVED, None},
            seconds=seconds,
            tell=tell,
        )
        if not is_free:
            raise TransientError(
                f"{server} still has pools or work: is a dispatcher at work? Run it again; it goes "
                "on from here"
            )
        self._note_step(server, "pools", "done", "gone")

    def _clear(self, server: str, conn_id: str, python: str) -> None:
        try:
            with self._open_shell(conn_id) as shell:
                machine = Machine(shell, self._bundle, python=python)
                there = machine.look().enrolled
                env = self._registrar.settings.env
                if there is not None and (there.server, there.env) != (server, env):
                    text = f"that machine is {there.server} of {there.env} now"
                    self._note_step(server, "clear", "warn", text)
                    return
                left = machine.remove()
        except TransientError as error:
            raise TransientError(
                f"{error}; if the server is gone for good, --lost removes this side alone"
            ) from error
        if left:
            raise PermanentError(f"{server} still has {', '.join(left)}: remove it there by hand")
        self._note_step(server, "clear", "done", "programs, settings, state, user, service")

    def _note_step(self, server: str, name: str, state: str, text: str) -> None:
        self._report(Step(server=server, name=name, state=state, text=text))


def _find_version(server: Server) -> str | None:
    return server.inventory.agent_version if server.inventory else None


def _pack(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return memory.getvalue()
