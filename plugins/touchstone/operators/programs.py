"""
Operators for anybody's own DAG: a program in a container of the team's servers, or in a pod.

They need Touchstone's dispatcher, stores and agents, and nothing of its DAG. Every DAG's
author may use them: Airflow trusts DAG authors. What they run is on record before anything is sent,
and everything later reads it there. No conf and no XCom decides, but for what the DAG itself has
put into a template.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from touchstone.core.eligibility import Needs, Resource, find_unfit, find_unready
from touchstone.core.inventory import read_inventory
from touchstone.core.placement_inputs import build_labels, build_resource, find_taken
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.program_attempts import new_program, want_program
from touchstone.core.programs import Program
from touchstone.core.records.tasks import AttemptPlacement
from touchstone.core.retries import WaitEnd, build_failure, find_settled
from touchstone.core.schedule import CloudChoice, Platform, Training
from touchstone.core.tasks import TaskSpec, build_program_spec
from touchstone.operators.agent import build_exception, cancel_started
from touchstone.operators.authority import get_map_index
from touchstone.settings import get_settings
from touchstone_agent.protocol.messages import Limits, SlotClass

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.core.records.servers import Server
    from touchstone.core.records.tasks import Task
    from touchstone.stores.records import RecordStore
    from touchstone.triggers.agent import AgentTrigger
    from touchstone_agent.protocol.messages import AttemptRef

AGAIN_SECONDS: Final = 10
"""How long a try stays away from a server that takes nothing now; it costs no retry."""


class ProgramOperator(BaseOperator):
    """
    Runs a program in a container, deferred while it goes on; base of the two below.

    :param command: (templated) Arguments to the image's entry point; ``{in}`` and ``{out}`` in them
        stand for the input and the output folder. What is left in the output folder is stored.
    :param image: (templated) Container image, which keeps the trainer contract; the installation's
        own trainer by default.
    :param executable: What is started in place of the image's own trainer, such as ``python``.
    :param max_hours: How long it may run; its ``execution_timeout`` holds as well. The
        installation's limit of a training by default.
    :param cpus: CPUs.
    :param memory_mib: Memory, MiB.
    :param output_mib: What it may leave, MiB.
    :param seed: ``TOUCHSTONE_SEED``.
    """

    template_fields: Sequence[str] = ("command", "image")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        command: Sequence[str],
        image: str | None = None,
        executable: str | None = None,
        max_hours: float | None = None,
        cpus: float | None = None,
        memory_mib: int | None = None,
        output_mib: int = 1024,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.image = image
        self.executable = executable
        self.max_hours = max_hours
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.output_mib = output_mib
        self.seed = seed
        self._started: AttemptRef | None = None

    def execute(self, context: Context) -> None:
        """
        Put on record what is to run, start it, and defer.

        :raises AirflowFailException: If what is asked for makes no sense, cannot run there, or the
            last attempt was the last one that there may be.
        :raises AirflowRescheduleException: If the server takes nothing just now.
        """
        from touchstone.services.starts import Starter, StartOrder
        from touchstone.stores.records import RecordStore

        settings, ti, run = get_settings(), context["ti"], context["dag_run"]
        records = RecordStore.connect(settings)
        spec = self._build_spec(ti)
        task = _put_on_record(records, spec, ti=ti, run=run)
        end = find_settled(task, run_id=task.run_id, attempt=ti.try_number, max_tries=ti.max_tries)
        if end is WaitEnd.FAIL:
            raise build_exception(build_failure(task))
        if end is WaitEnd.SUCCEED:
            self.log.info("%s has ended well before", task.name)
            return
        placement = self._find_place(records, task, ti)
        started = Starter.connect(settings).start(
            StartOrder(
                submission_id=task.submission_id,
                task_id=task.task_id,
                run_id=task.run_id,
                attempt=ti.try_number,
                server=str(placement.server),
                gpus=placement.gpus or 0,
                placement=placement,
                platform=placement.platform or Platform.ON_PREM,
            )
        )
        self._started = ref = started.ref
        self.log.info("it goes to %s as %s", started.newest.server, started.newest.container)
        self.defer(
            trigger=self._find_trigger()(task.submission_id, task.task_id, ref.fence, task.run_id),
            method_name="never",
        )

    def never(self, context: Context, event: object = None) -> None:
        """
        Fail: its trigger ends the task, and nothing resumes it.

        :raises AirflowFailException: Always.
        """
        raise AirflowFailException(
            f"resumed by {event!r}, which no trigger of {context['ti']} says"
        )

    def on_kill(self) -> None:
        """End what was started, if the task is killed before it is deferred."""
        if self._started is not None:
            cancel_started(self._started)

    def _build_spec(self, ti: Any) -> TaskSpec:
        settings = get_settings()
        wall = settings.training_wall_seconds
        if self.max_hours is not None:
            wall = round(self.max_hours * 3600)
        if self.execution_timeout is not None:
            wall = min(wall, round(self.execution_timeout.total_seconds()))
        try:
            if isinstance(self.command, str):
                raise TypeError("command is a text, and must be a list of words")
            return build_program_spec(
                Program(
                    dag_id=ti.dag_id,
                    task_id=ti.task_id,
                    command=tuple(self.command),
                    executable=self.executable,
                ),
                run_id=ti.run_id,
                map_index=get_map_index(ti),
                image=self._pin(self.image or self._find_image()),
                limits=Limits(
                    cpus=self.cpus or settings.training_cpus,
                    memory_mib=self.memory_mib or settings.training_memory_mib,
                    wall_seconds=wall,
                    console_bytes=settings.console_bytes,
                    output_bytes=self.output_mib * 1024**2,
                ),
                schedule=self._build_schedule(),
            )
        except (TypeError, ValueError) as error:
            raise AirflowFailException(f"{self.task_id} cannot be run: {error}") from error

    def _pin(self, image: str) -> str:
        """Return an image by its content, where a connection is for its registry."""
        from touchstone.hooks.registry import pin_image

        return pin_image(get_settings(), image).pinned or image

    def _find_image(self) -> str:
        return get_settings().trainer_image

    def _build_schedule(self) -> Training:
        raise NotImplementedError

    def _find_place(self, records: RecordStore, task: Task, ti: Any) -> AttemptPlacement:
        raise NotImplementedError

    def _find_trigger(self) -> type[AgentTrigger]:
        raise NotImplementedError


class AgentOperator(ProgramOperator):
    """
    Runs a program on one of the team's servers, in a slot of that server's pool.

    The pool is the server's own, so Airflow's scheduler counts it beside the trainings that the
    dispatcher places there.

    :param server: The server.
    :param require_cuda: Whether it must have a GPU. Where the server has some, one is handed over.
    """

    def __init__(self, *, server: str, require_cuda: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "pool": _check_pool(kwargs.get("pool"), server)})
        self.server = server
        self.require_cuda = require_cuda

    def _build_schedule(self) -> Training:
        return Training(platform=Platform.ON_PREM, require_cuda=self.require_cuda, seed=self.seed)

    def _find_place(self, records: RecordStore, task: Task, ti: Any) -> AttemptPlacement:
        server = records.find_server(self.server)
        if server is None or not server.public_key:
            raise AirflowFailException(f"there is no server {self.server!r}")
        resource = _build_resource(server)
        needs = Needs(
            kind=SlotClass.TRAINING,
            placement=task.spec.schedule.placement,
            labels=build_labels(task.spec),
            image=task.spec.image,
        )
        if unfit := find_unfit(needs, resource):
            raise AirflowFailException(f"{self.task_id} cannot run there: {unfit}")
        if reason := _find_obstacle(server, resource, needs, task):
            self.log.info("%s; asked again in %s s", reason, AGAIN_SECONDS)
            again_at = datetime.now(UTC) + timedelta(seconds=AGAIN_SECONDS)
            raise AirflowRescheduleException(again_at)  # type: ignore[no-untyped-call]
        gpus = resource.get_gpus(SlotClass.TRAINING)
        return _build_placement(ti, server=self.server, platform=Platform.ON_PREM, gpus=gpus)

    def _find_trigger(self) -> type[AgentTrigger]:
        from touchstone.triggers.programs import AgentProgramTrigger

        return AgentProgramTrigger


class RunPodOperator(ProgramOperator):
    """
    Runs a program in a pod that is rented for it, in a slot of the pool ``runpod``.

    Nothing is rented here: this records the intent, and its trigger does the rest. Budgets
    hold as for a submission's pods, with the DAG run in place of the submission and ``dag:<id>`` in
    place of the user.

    :param gpu: GPU models, best first; the installation's own by default.
    :param max_price: Most USD per hour; the installation's ceiling holds as well.
    :param budget: Most USD that all pods of the DAG run may cost together.
    :param cloud: ``secure``, ``community`` or ``any``.
    :param min_vram_gib: Least memory of the GPU, GiB.
    :param min_disk_gib: Disk that the pod is ordered with beside what the installation wants.
    """

    def __init__(
        self,
        *,
        gpu: str | Sequence[str] = (),
        max_price: float | str | None = None,
        budget: float | str | None = None,
        cloud: str = CloudChoice.ANY.value,
        min_vram_gib: float = 0,
        min_disk_gib: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "pool": _check_pool(kwargs.get("pool"), RUNPOD_POOL)})
        self.gpu = gpu
        self.max_price = max_price
        self.budget = budget
        self.cloud = cloud
        self.min_vram_gib = min_vram_gib
        self.min_disk_gib = min_disk_gib

    def _find_image(self) -> str:
        return get_settings().runpod.image or super()._find_image()

    def _build_schedule(self) -> Training:
        models = [self.gpu] if isinstance(self.gpu, str) else list(self.gpu)
        return Training.model_validate(
            {
                "platform": Platform.RUNPOD,
                "gpu_models": [model for model in models if model],
                "max_price": _tell(self.max_price),
                "budget": _tell(self.budget),
                "cloud": self.cloud,
                "min_vram_gib": self.min_vram_gib,
                "min_disk_gib": self.min_disk_gib,
                "seed": self.seed,
            }
        )

    def _find_place(self, records: RecordStore, task: Task, ti: Any) -> AttemptPlacement:  # noqa: ARG002
        return _build_placement(ti, server=RUNPOD_POOL, platform=Platform.RUNPOD, gpus=0)

    def _find_trigger(self) -> type[AgentTrigger]:
        from touchstone.triggers.programs import RunPodProgramTrigger

        return RunPodProgramTrigger


def _put_on_record(records: RecordStore, spec: TaskSpec, *, ti: Any, run: Any) -> Task:
    """Put on record what a try is to run, and return the record."""
    from touchstone.stores.tables import RecordExists

    map_index = get_map_index(ti)
    try:
        records.create_task(
            new_program(spec, run_id=ti.run_id, map_index=map_index, now=datetime.now(UTC))
        )
    except RecordExists:
        return records.change_task(
            spec.submission_id,
            spec.task_id,
            lambda found: want_program(
                found, spec, attempt=ti.try_number, run_began_at=run.start_date
            ),
        )
    return records.get_task(spec.submission_id, spec.task_id)


def _build_resource(server: Server) -> Resource:
    """Return a server as placement sees it, in whose pool a slot is had already."""
    silence = timedelta(seconds=get_settings().silence_seconds)
    return build_resource(
        server,
        slots=1,
        free=1,
        validation_slots=0,
        validation_free=0,
        now=datetime.now(UTC),
        silence=silence,
    )


def _find_obstacle(server: Server, resource: Resource, needs: Needs, task: Task) -> str | None:
    """Say why a server that fits takes nothing just now."""
    if not resource.is_alive:
        return f"{server.server} was heard of last at {server.heartbeat_at}"
    if reason := resource.get_block(SlotClass.TRAINING) or find_unready(needs, resource):
        return reason
    most = find_taken(server, SlotClass.TRAINING)
    held = [
        each
        for each in read_inventory(server)
        if each.holds_slot and each.kind is SlotClass.TRAINING and each.key != task.key
    ]
    if most is not None and len(held) >= most:
        # What nobody waits for any more holds its slot until its agent has ended it.
        return f"{server.server} still runs {len(held)} of {most}"
    return None


def _build_placement(ti: Any, *, server: str, platform: Platform, gpus: int) -> AttemptPlacement:
    return AttemptPlacement(
        server=server,
        platform=platform,
        gpus=gpus,
        reason="its DAG says so",
        at=datetime.now(UTC),
        try_number=ti.try_number,
        max_tries=ti.max_tries,
    )


def _check_pool(given: str | None, pool: str) -> str:
    """
    Return the pool in which a program has to hold its slot.

    :raises ValueError: If the DAG names another one.
    """
    if given not in {None, pool}:
        raise ValueError(f"pool is {given!r}, and must be {pool!r}: there its slot is counted")
    return pool


def _tell(usd: float | str | None) -> str | None:
    return None if usd is None else str(usd)
