"""Every name and limit of an installation, in one typed object."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from touchstone_agent.protocol.messages import Limits

Environment = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{1,11}$")]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=6)]


PublicKey = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=r"^(ssh|ecdsa|sk)-[\w@.-]+ \S+( [^\n\r]*)?$"),
]
"""One line as in ``authorized_keys``, without options."""


CudaVersion = Annotated[str, StringConstraints(pattern=r"^\d{1,3}\.\d{1,3}$")]


GitHost = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.*?-]{1,253}(:[0-9*]{1,5})?$")]
"""A pattern for hosts, as a shell's."""


class RunPodSettings(BaseSettings):
    """
    How pods are rented, from ``TOUCHSTONE_RUNPOD_*`` environment variables.

    :param conn_id: Airflow connection of type ``runpod``; ``None`` for an installation that rents
        nothing.
    :param image: Image of pods, as RunPod can pull it; ``None`` for the task's own.
    :param min_cuda: Lowest CUDA version of the host of a GPU, as ``12.4``; ``None`` for any.
    :param gpu_models: Models for who names none, best first (JSON list).
    :param max_price: Most USD per hour of any pod; ``None`` for no ceiling.
    :param vcpus: vCPUs of a CPU pod, in which validations run where no server takes any.
    :param data_centers: Where to rent (JSON list); empty lets RunPod choose.
    :param disk_gb: Container disk of a pod.
    :param min_free_gb: What must be free of it before a training begins.
    :param min_driver: Oldest major version of the GPU driver that is accepted.
    :param registry_id: RunPod's id of the credentials of a private image.
    :param ssh_keys: Public keys of admins who may log in to every pod (JSON list).
    :param lease_seconds: How long a pod lives on without hearing of us.
    :param boot_seconds: From the order to a running container, image pull included.
    :param login_seconds: From a running container to a login.
    :param reconcile_seconds: How long an order without an answer is looked for.
    :param confirm_seconds: Between the two looks that prove a pod gone.
    :param poll_seconds: Between two looks at a training that has just begun; it grows to ten
        times as much.
    :param reap_seconds: Between two looks of the reaper.
    :param reap_grace_seconds: How young a pod may be that nobody knows.
    :param reap_dry_run: Only tell what the reaper would end.
    """

    model_config = SettingsConfigDict(env_prefix="TOUCHSTONE_RUNPOD_", frozen=True, extra="ignore")

    conn_id: str | None = None
    image: str | None = None
    min_cuda: CudaVersion | None = None
    gpu_models: tuple[str, ...] = ("RTX 4090", "RTX 3090")
    max_price: Decimal | None = Field(default=None, gt=0)
    vcpus: int = Field(default=4, ge=2)
    data_centers: tuple[str, ...] = ()
    disk_gb: int = Field(default=20, ge=5)
    min_free_gb: float = Field(default=2, ge=0)
    min_driver: int = Field(default=525, ge=0)
    registry_id: str | None = None
    ssh_keys: tuple[PublicKey, ...] = ()
    lease_seconds: int = Field(default=900, ge=5)
    boot_seconds: int = Field(default=1200, ge=5)
    login_seconds: int = Field(default=300, ge=5)
    reconcile_seconds: int = Field(default=60, ge=1)
    confirm_seconds: float = Field(default=3, ge=0)
    poll_seconds: float = Field(default=2, gt=0)
    reap_seconds: int = Field(default=60, ge=5)
    reap_grace_seconds: int = Field(default=120, ge=0)
    reap_dry_run: bool = False


class Settings(BaseSettings):
    """
    Settings of the Airflow side, from ``TOUCHSTONE_*`` environment variables.

    Holds no secret: those are Airflow connections.

    :param env: Environment, part of every name; ``prod`` is the one whose buckets have no suffix.
    :param aws_conn_id: Airflow connection for SQS, S3 and DynamoDB.
    :param agent_conn_id: Airflow connection whose password is the control plane's signing key.
    :param mlflow_conn_id: Airflow connection of the MLflow server.
    :param mlflow_public_url: Where people reach that server; ``None`` if as the connection says.
    :param mlflow_experiment: MLflow experiment of all trainings.
    :param trainer_image: Image of the trainer for submissions that name no other.
    :param trainer_image_cuda: The same for where there is a GPU; empty for the same image.
    :param registry_conn_ids: Airflow connections of type ``docker``, one per registry that images
        come from (JSON list). An image of one of them is pinned to its content when a submission
        is registered.
    :param docker_url: Socket of an engine beside the control plane that asks registries in its
        place, with its own mirrors and certificates; ``None`` to ask them directly.
    :param elnigma_git: Git URL of el-nigma, for runs that name a branch; ``None`` refuses those.
        Holds no credential.
    :param elnigma_conn_id: Airflow connection with the credentials for that repository; ``None``
        for one that everybody may read.
    :param git_hosts: Patterns of the hosts that submitters' git sources may be on (JSON list);
        ``["*"]`` for any, which lets submitters reach whatever the Airflow host can reach.
    :param git_conn_id: Airflow connection with the credentials for one of those hosts; ``None``
        for none.
    :param branch_users: Airflow users who may name a branch of el-nigma, besides the admins (JSON
        list); ``*`` for everybody. Its code trains with everybody's content.
    :param allow_local_sources: Whether a source may be a path on the Airflow host (one-machine
        installations and tests only: it lets submitters read what Airflow can read).
    :param max_active_runs: DAG runs at a time; Airflow's own run queue holds the rest.
    :param early_runs: Runs of one user at a time that have not got as far as their trainings, or
        twice the slots for validations if that is more; the rest let others' go first.
    :param training_cpus: CPUs of one training.
    :param training_memory_mib: Memory of one training, MiB.
    :param training_wall_seconds: Longest training, seconds.
    :param validation_memory_mib: Memory of one validation, MiB.
    :param validation_wall_seconds: Longest validation, seconds; long enough for a model structure
        on a machine that is busy with trainings.
    :param validation_cpu_seconds: CPU seconds of one validation, which end a loop early.
    :param console_bytes: Bytes of console kept per attempt.
    :param admins: Airflow users who may schedule what others have submitted (JSON list).
    :param admin_mails: Addresses that are written to when money runs low (JSON list).
    :param smtp_conn_id: Airflow connection of the mail server.
    :param silence_seconds: Seconds without a word from a server after which nothing new is sent
        to it; what it has goes on until the lease is over.
    :param cuda_grace_seconds: How long a task that prefers CUDA waits for it.
    :param deck_size: Most trainings that stand ready for the next free slot.
    :param warm_runs: DAG runs that wait for slots and stay active in Airflow; the others wait as
        queued runs do, which cost its scheduler nothing.
    :param fleet_file: Servers and policies; ``None`` for none.
    :param data_bytes: Largest data set after packing, bytes; unpacked it may have four times as
        many.
    :param data_cache: Folder in which the judge's data sets are kept unpacked; ``None`` for one of
        this user's in the folder for temporary files.
    :param judge_python: Interpreter of the environment in which verdicts are reached; ``None`` for
        that of a checkout.
    :param dispatcher_port: Loopback port of the dispatcher's health; 0 for none.
    :param lease_seconds: Seconds without a word from a server after which its attempts are lost.
    :param content_bytes: Largest source after packing, bytes.
    :param state_dir: Where a one-machine installation keeps everything.
    :param agent_bundle: Folder with what enrolment brings to servers; ``None`` for a checkout,
        which makes it.
    :param runpod: How pods are rented.
    :param runpod_budget_submission: Most that all pods of one submission may cost, USD; ``None``
        for no limit. A submission may bring a lower one of its own.
    :param runpod_budget_user_month: Most that the pods of one user may cost that are launched in
        one month (UTC), USD; ``None`` for no limit.
    :param runpod_budget_month: The same for all users together.
    """

    model_config = SettingsConfigDict(env_prefix="TOUCHSTONE_", frozen=True, extra="ignore")

    env: Environment = "dev"
    aws_conn_id: str = "touchstone_aws"
    agent_conn_id: str = "touchstone_agent"
    mlflow_conn_id: str = "touchstone_mlflow"
    mlflow_public_url: str | None = None
    mlflow_experiment: str = "touchstone_service"
    trainer_image: str = "touchstone-elnigma:local"
    trainer_image_cuda: str = ""
    registry_conn_ids: tuple[str, ...] = ()
    docker_url: str | None = None
    elnigma_git: str | None = None
    elnigma_conn_id: str | None = None
    git_hosts: tuple[GitHost, ...] = ()
    git_conn_id: str | None = None
    branch_users: frozenset[str] = frozenset()
    allow_local_sources: bool = False
    max_active_runs: int = Field(default=64, ge=1)
    early_runs: int = Field(default=8, ge=1)
    training_cpus: float = Field(default=1.0, gt=0)
    training_memory_mib: int = Field(default=4096, ge=64)
    training_wall_seconds: int = Field(default=86_400, ge=1)
    validation_memory_mib: int = Field(default=2048, ge=64)
    validation_wall_seconds: int = Field(default=120, ge=1)
    validation_cpu_seconds: int = Field(default=40, ge=1)
    console_bytes: int = Field(default=8 * 1024**2, ge=4096)
    admins: frozenset[str] = frozenset({"admin"})
    admin_mails: tuple[str, ...] = ()
    smtp_conn_id: str = "smtp_default"
    silence_seconds: int = Field(default=60, ge=5)
    cuda_grace_seconds: int = Field(default=300, ge=0)
    deck_size: int = Field(default=32, ge=0)
    warm_runs: int = Field(default=2, ge=0)
    fleet_file: Path | None = None
    data_bytes: int = Field(default=64 * 1024**2, ge=1024)
    data_cache: Path | None = None
    judge_python: Path | None = None
    dispatcher_port: int = Field(default=0, ge=0, le=65535)
    lease_seconds: int = Field(default=900, ge=10)
    content_bytes: int = Field(default=64 * 1024**2, ge=1024)
    state_dir: Path = Path(".touchstone")
    agent_bundle: Path | None = None
    runpod: RunPodSettings = Field(default_factory=RunPodSettings)
    runpod_budget_submission: Usd | None = None
    runpod_budget_user_month: Usd | None = None
    runpod_budget_month: Usd | None = None

    submissions_table: str = "TouchstoneSubmissions"
    tasks_table: str = "TouchstoneTasks"
    evaluations_table: str = "ModelPostTrainEvaluation"
    servers_table: str = "TouchstoneServers"
    budgets_table: str = "TouchstoneBudgets"
    meter_table: str = "TouchstoneMeter"
    events_table: str = "TouchstoneEvents"

    @property
    def validation_limits(self) -> Limits:
        """Return what a validation may use, wherever it runs."""
        # Listing submissions needs the settings, and no messages.
        from touchstone_agent.protocol.messages import Limits

        return Limits(
            memory_mib=self.validation_memory_mib,
            wall_seconds=self.validation_wall_seconds,
            cpu_seconds=self.validation_cpu_seconds,
            pids=128,
            console_bytes=self.console_bytes,
            output_bytes=64 * 1024**2,
        )

    @property
    def bucket_suffix(self) -> str:
        """Return what keeps this environment's buckets apart from production's."""
        return "" if self.env == "prod" else f"-{self.env}"

    @property
    def models_bucket(self) -> str:
        """Return the bucket of published models."""
        return f"eonlabs-touchstone-models{self.bucket_suffix}"

    @property
    def content_bucket(self) -> str:
        """Return the bucket of submitted content and of attempts' raw outputs."""
        return f"eonlabs-touchstone-content{self.bucket_suffix}"

    @property
    def logs_bucket(self) -> str:
        """Return the bucket of console logs."""
        return f"eonlabs-touchstone-logs{self.bucket_suffix}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()
