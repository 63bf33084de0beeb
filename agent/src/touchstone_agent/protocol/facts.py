"""
What is known of an attempt's end: the runner's verdict, the files, how the container ended.

One set of models for servers and pods. The agent and the program in a pod read verdict.json with
them, and the control plane reads what those two say with them again: neither believes the other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from touchstone_agent.protocol.words import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_PATHS_BYTES,
    AnyNumber,
    AnyPhrase,
    Count,
    ExitCode,
    Figure,
    Figures,
    ImageName,
    Line,
    Moment,
    Percent,
    Phrase,
    SafePath,
    Sha256,
    Word,
)


class Wire(BaseModel):
    """Base of everything that is sent: immutable, and tolerant of fields added by a newer peer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class UploadedFile(Wire):
    """
    One output file.

    :param path: Path below the output folder, ``/`` between parts.
    :param sha256: Hex digest.
    :param size: Size in bytes.
    """

    path: SafePath
    sha256: Sha256
    size: int = Field(ge=0, le=MAX_FILE_BYTES)


def check_files(files: tuple[UploadedFile, ...]) -> tuple[UploadedFile, ...]:
    """
    Return the files of an attempt if there are not too many, and each has a path of its own.

    :raises ValueError: If not.
    """
    if len(files) > MAX_FILES:
        raise ValueError(f"lists more than {MAX_FILES} files")
    if sum(len(file.path.encode()) for file in files) > MAX_PATHS_BYTES:
        raise ValueError(f"has paths of more than {MAX_PATHS_BYTES} bytes together")
    paths = {file.path for file in files}
    if len(paths) < len(files):
        raise ValueError("lists a path twice")
    # What is a file cannot be a folder as well, where all of them are put into one.
    for path in paths:
        parts = path.split("/")
        if any("/".join(parts[:n]) in paths for n in range(1, len(parts))):
            raise ValueError("lists a file inside of another one")
    return files


Files = Annotated[tuple[UploadedFile, ...], AfterValidator(check_files)]


class GpuUsage(Wire):
    """What a training used of its GPUs; all fields as in the contract."""

    name: Phrase | None = None
    uuid: Phrase | None = None
    driver: Phrase | None = None
    mean_utilisation_percent: Figure | None = None
    peak_memory_mib: Figure | None = None
    memory_of: Phrase | None = None
    memory_mib: Figure | None = None
    mean_power_watts: Figure | None = None
    energy_joules: Figure | None = None
    note: Phrase | None = None


class Usage(Wire):
    """What a training used; all fields as in the contract."""

    wall_seconds: Figure | None = None
    cpu_seconds: Figure | None = None
    peak_memory_bytes: Count | None = None
    gpu: GpuUsage | None = None


class ConsoleFacts(Wire):
    """What became of a console; all fields as in the contract."""

    lines: Count | None = None
    bytes: Count | None = None
    kept_bytes: Count | None = None
    truncated: bool | None = None


class RunnerVerdict(Wire):
    """
    The runner's last word, verdict.json; what the contract does not name is left out.

    :param exit_code: The runner's own exit code.
    :param outcome: Whether that means success.
    :param failure_class: ``ok``, or the kind of failure.
    :param reason: One line; ``None`` for success.
    :param started_at: When the trainer began.
    :param ended_at: When it had ended.
    :param usage: What it used.
    :param console: What became of its console.
    :param files: What it has left.
    """

    model_config = ConfigDict(populate_by_name=True)

    contract: int = Field(default=1, ge=1, le=1000)
    exit_code: ExitCode | None = None
    outcome: Literal["succeeded", "failed"] | None = None
    failure_class: Word | None = Field(default=None, alias="class")
    reason: Line | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    usage: Usage | None = None
    console: ConsoleFacts | None = None
    files: Files = ()

    def dump(self) -> dict[str, Any]:
        """Return it as it is sent and kept: without its files, which have a place of their own."""
        return self.model_dump(mode="json", by_alias=True, exclude={"files"})


class ExitFacts(Wire):
    """
    How an attempt ended, as its agent or its pod tells it.

    :param exit_code: Exit code of the container; ``None`` if nobody has seen it.
    :param oom_killed: Whether the engine or the kernel ended it for memory.
    :param verdict: The runner's verdict; ``None`` if there is no usable one.
    :param no_verdict: Why there is none.
    :param files: What may be uploaded.
    """

    exit_code: ExitCode | None = None
    oom_killed: bool = False
    verdict: RunnerVerdict | None = None
    no_verdict: Line | None = None
    files: Files = ()

    def dump(self) -> dict[str, Any]:
        """Return it as it is sent."""
        verdict = self.verdict.dump() if self.verdict else None
        return {**self.model_dump(mode="json", exclude={"verdict"}), "verdict": verdict}


class PreparedFacts(Wire):
    """
    What an attempt is prepared from.

    :param image: The image.
    :param image_digest: Its digest.
    """

    image: ImageName | None = None
    image_digest: ImageName | None = None


class ProgressLine(Wire):
    """
    A trainer's line of progress.jsonl, whatever it has put into it.

    :param phase: What the trainer is doing, in its own words.
    :param percent: 0 to 100.
    :param eta_s: Seconds it expects to need still; ``None`` if it cannot tell.
    :param metrics: Intermediate figures by name.
    """

    phase: AnyPhrase = ""
    percent: Percent = 0.0
    eta_s: AnyNumber = None
    metrics: Figures = Field(default_factory=dict)


class Gpu(Wire):
    """
    A GPU, as its driver tells it.

    :param name: Its model.
    :param memory_mib: Its memory, MiB.
    """

    name: Phrase = ""
    memory_mib: int = Field(default=0, ge=0, le=2**31)


MAX_GPU_SHARES = 64


class ServerGpu(Gpu):
    """
    A GPU of a server, or a slice of one.

    :param index: Its number there; a slice has that of its GPU.
    :param uuid: Its own id.
    :param driver: Version of its driver; ``None`` from agents that do not tell it yet.
    :param shares: How many attempts it is handed to at a time, each with as much of its memory.
    """

    index: int | None = Field(default=None, ge=0, le=1000)
    uuid: Phrase | None = None
    driver: Phrase | None = None
    shares: int = Field(default=1, ge=1, le=MAX_GPU_SHARES)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write a GPU of which no more is known as the version did that knew no more."""
        fields: dict[str, Any] = write(self)
        if fields.get("driver") is None:
            fields.pop("driver", None)
        if fields.get("shares") == 1:
            fields.pop("shares")
        return fields


class PodGpu(Gpu):
    """
    A GPU of a pod.

    :param driver: Version of its driver.
    """

    driver: Phrase = ""
