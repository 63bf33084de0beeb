"""The control plane's side of an enrolment: record, queues, identity; and their end."""

from __future__ import annotations

import base64
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from touchstone.core.enrolment import (
    EnrolmentRequest,
    Stores,
    build_agent_policy,
    build_identity_name,
    find_other_environment,
    list_server_queues,
    take_lease,
)
from touchstone.core.records.actions import add_action
from touchstone.core.records.servers import Enrolment, EnrolmentState, Server
from touchstone.hooks.identities import AccessKey, Identities
from touchstone.hooks.queues import ensure_command_queue, find_arn, find_queue, remove_queue
from touchstone.stores.aws import build_client, translated_errors
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists, RecordNotFound
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

    from touchstone.settings import Settings

ORDER_SECONDS = 3600
"""How long a command that was printed may be run."""
_ORDERS = "enrolment"


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """
    What a server gets to know, and nobody else keeps.

    :param private_key: By which its agent signs; ``None`` if it has its key already.
    :param access_key: By which AWS knows it; ``None`` if it has its key already.
    """

    private_key: str | None = field(default=None, repr=False)
    access_key: AccessKey | None = field(default=None, repr=False)


class Registrar:
    """
    Writes down who belongs to this installation, and makes what that takes at AWS.

    :param settings: Names of the installation.
    :param records: The records.
    :param sqs: An SQS client.
    :param iam: An IAM client.
    :param s3: An S3 client.
    :param control_key: The control plane's private key, 32 bytes.
    :param by: Who asks.
    :param clock: The time, UTC.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        records: RecordStore,
        sqs: SQSClient,
        iam: Any,
        s3: S3Client,
        control_key: bytes,
        by: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.settings = settings
        self.records = records
        self.clock = clock
        self._sqs = sqs
        self._s3 = s3
        self._identities = Identities(iam)
        self._control_key = control_key
        self._by = by
        self._token = uuid.uuid4().hex

    @classmethod
    def connect(cls, settings: Settings, *, by: str) -> Self:
        """Return one that works by this installation's Airflow connections."""
        from botocore.config import Config

        from touchstone.hooks.agent import AgentHook

        conn_id = settings.aws_conn_id
        # As grants are signed: the address by region, which every server reaches.
        signing = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
        endpoint = build_client("s3", conn_id).meta.endpoint_url or ""
        if "amazonaws.com" not in endpoint:
            signing = Config(signature_version="s3v4", s3={"addressing_style": "path"})
        return cls(
            settings,
            records=RecordStore.connect(settings),
            sqs=build_client("sqs", conn_id),
            iam=build_client("iam", conn_id),
            s3=build_client("s3", conn_id, signing),
            control_key=AgentHook(settings=settings).secret,
            by=by,
        )

    @property
    def control_public_key(self) -> str:
        """Return the key by which agents know the control plane."""
        public = Ed25519PrivateKey.from_private_bytes(self._control_key).public_key()
        return base64.b64encode(public.public_bytes_raw()).decode()

    def find_stores(self) -> Stores:
        """Return where servers find the queues and the object store."""
        endpoint = str(self._sqs.meta.endpoint_url)
        signed = self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": self.settings.content_bucket, "Key": "any"}
        )
        parts = urlsplit(signed)
        return Stores(
            region=str(self._sqs.meta.region_name),
            queues_url=None if urlsplit(endpoint).netloc.endswith("amazonaws.com") else endpoint,
            objects_url=f"{parts.scheme}://{parts.netloc}/",
        )

    # --- who is at it ---------------------------------------------------------------------------

    @contextmanager
    def working_on(self, server: str) -> Iterator[None]:
        """
        Keep others from working on a known server meanwhile.

        :raises ConfigurationError: If somebody is at it.
        """
        token = self._token
        with contextlib.suppress(RecordNotFound):
            self.records.change_server(
                server, lambda r: take_lease(r, token=token, by=self._by, now=self.clock())
            )
        try:
            yield
        finally:
            self._release(server, token)

    def _release(self, server: str, token: str) -> None:
        def decide(found: Server) -> Server | None:
            held = found.worked_on
            return found.change(worked_on=None) if held and held.token == token else None

        with contextlib.suppress(RecordNotFound):
            self.records.change_server(server, decide)

    # --- joining --------------------------------------------------------------------------------

    def check_environment(self, server: str) -> Server | None:
        """
        Return what is on record of a server.

        :raises ConfigurationError: If it is online in another environment, or being removed.
        """
        record = self.records.find_server(server)
        other = find_other_environment(record, self.settings.env)
        if other is not None:
            raise ConfigurationError(other)
        leaving = {EnrolmentState.REMOVING, EnrolmentState.REMOVED}
        if record and record.env == self.settings.env and record.state in leaving:
            raise ConfigurationError(
                f"{server} is being removed: let `touchstone agent remove {server}` end first"
            )
        return record

    def register(
        self,
        requested: EnrolmentRequest,
        *,
        version: str,
        public_key: str | None,
        key_id: str | None,
    ) -> Secrets:
        """
        Put a server on record, with queues and an identity of its own.

        :param version: What it will run.
        :param public_key: Of the key that it has already, if it has one.
        :param key_id: Of the access key that it has already.
        :return: The secrets that it lacks.
        """
        before = self.check_environment(requested.server)
        keeps = public_key is not None and before is not None and before.public_key == public_key
        private, public = (None, public_key) if keeps else generate_key()
        # The intent first: after a death from here on, `agent remove` finds what to take away.
        self._write(requested, version=version, public_key=str(public))
        for queue in list_server_queues(requested.server):
            with translated_errors(f"making {queue}"):
                for _ in ensure_command_queue(self._sqs, queue):
                    pass
        access = self._ensure_identity(requested.server, key_id)
        return Secrets(private_key=private, access_key=access)

    def _write(self, requested: EnrolmentRequest, *, version: str, public_key: str) -> None:
        env, now = self.settings.env, self.clock()
        wanted = Enrolment(
            state=EnrolmentState.BEGUN,
            by=self._by,
            at=now,
            ssh_conn_id=requested.ssh_conn_id,
            version=version,
            state_dir=str(requested.state_dir),
            has_service=requested.has_service,
            python=requested.python,
        )

        def decide(found: Server) -> Server:
            other = find_other_environment(found, env)
            if other is not None:
                raise ConfigurationError(other)
            if found.env != env:
                # What another environment knew of it is not true here.
                found = found.change(
                    heartbeat_at=None,
                    epoch=None,
                    inventory=None,
                    running=None,
                    declared=None,
                    drained=None,
                )
            action = f"agent enroll: {version}"
            actions = add_action(found.actions, at=now, by=self._by, action=action)
            leased = take_lease(found, token=self._token, by=self._by, now=now)
            return leased.change(env=env, public_key=public_key, enrolment=wanted, actions=actions)

        with contextlib.suppress(RecordExists):
            self.records.create_server(Server(server=requested.server, env=env))
        self.records.change_server(requested.server, decide)

    def _ensure_identity(self, server: str, key_id: str | None) -> AccessKey | None:
        queue = list_server_queues(server)[0]
        with translated_errors(f"finding {queue}"):
            url = find_queue(self._sqs, queue)
            if url is None:
                raise PermanentError(f"{queue} is gone already: run it again")
            _, _, _, region, account, _ = find_arn(self._sqs, url).split(":")
        name = build_identity_name(server)
        policy = build_agent_policy(
            server=server, env=self.settings.env, region=region, account=account
        )
        self._identities.ensure(name, policy, env=self.settings.env)
        return (
            None if self._identities.has_key(name, key_id) else self._identities.replace_key(name)
        )

    def undo(self, server: str) -> None:
        """Take back a registration that nothing was heard of: as if it had never been."""
        self._forget(server)

    # --- commands that were printed ---------------------------------------------------------------

    def leave_order(self, server: str, data: bytes) -> str:
        """Leave a file for a server for an hour; return the address that it is fetched from."""
        self.forget_orders(server)
        key = f"{_ORDERS}/{server}/{uuid.uuid4().hex}.tar"
        bucket = self.settings.content_bucket
        with translated_errors(f"leaving an order for {server}"):
            self._s3.put_object(Bucket=bucket, Key=key, Body=data)
        url = self._s3.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=ORDER_SECONDS
        )
        return str(url)

    def forget_orders(self, server: str) -> None:
        """Remove what was left for a server, whether or not it was fetched."""
        forget_orders(self._s3, self.settings.content_bucket, server)

    # --- leaving --------------------------------------------------------------------------------

    def begin_removal(self, server: str, *, is_now: bool) -> Server:
        """
        Let nothing new start on a server, for good; a dispatcher takes its pools away.

        :param is_now: Whether what runs there is given up.
        :raises ConfigurationError: If it is not known here, or another environment's.
        """
        now = self.clock()

        def decide(found: Server) -> Server | None:
            if found.env not in {None, self.settings.env}:
                raise ConfigurationError(f"{server} is environment {found.env}'s: remove it there")
            enrolment = found.enrolment or Enrolment(state=EnrolmentState.REMOVING)
            is_same = enrolment.is_now or not is_now
            if found.state is EnrolmentState.REMOVED or (
                found.state is EnrolmentState.REMOVING and is_same
            ):
                return None
            return found.change(
                enrolment=enrolment.change(state=EnrolmentState.REMOVING, is_now=is_now),
                actions=add_action(found.actions, at=now, by=self._by, action="agent remove"),
            )

        try:
            return self.records.change_server(server, decide)
        except RecordNotFound:
            names = ", ".join(entry.name for entry in self.records.list_servers()) or "none"
            raise ConfigurationError(
                f"there is no server {server!r}; enrolled are: {names}"
            ) from None

    def finish_removal(self, server: str) -> None:
        """Remove queues, identity, what was left for it, and at last the record."""
        self._forget(server)

    def _forget(self, server: str) -> None:
        self.forget_orders(server)
        for queue in list_server_queues(server):
            with translated_errors(f"removing {queue}"):
                remove_queue(self._sqs, queue)
        self._identities.remove(build_identity_name(server))
        self.records.remove_server(server)

    # --- waiting --------------------------------------------------------------------------------

    def wait_for(
        self,
        server: str,
        is_so: Callable[[Server | None], bool],
        *,
        seconds: float,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[Server | None], None] = lambda _: None,
    ) -> bool:
        """Wait until a server's record is as wanted, or is gone; tell whether it became so."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.records.find_server(server)
            if is_so(found):
                return True
            tell(found)
            if time.monotonic() > deadline:
                return False
            sleep(0.5)


def forget_orders(s3: S3Client, bucket: str, server: str) -> None:
    """Remove what was left in the object store for a server to fetch."""
    with translated_errors(f"removing orders of {server}"):
        found = s3.list_objects_v2(Bucket=bucket, Prefix=f"{_ORDERS}/{server}/")
        for item in found.get("Contents", ()):
            s3.delete_object(Bucket=bucket, Key=item["Key"])
