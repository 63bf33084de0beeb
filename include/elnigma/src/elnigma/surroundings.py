"""
What a process may look at beside its input, and must not depend on: clock, hash seed, and so on.

A module is validated a second time in a process where all of it is otherwise. If the outcome is,
one thing after the other is changed alone, to name the one that the module depends on.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

HASH_SEED = "0"
"""Of every trainer: what goes through a set does so in the same order always."""
OTHER_HASH_SEED = "1"
OTHER_DAYS = 403
"""Another year, month, weekday and day of the month."""
OTHER_HOURS = 7
OTHER_LOCALE = "tr_TR.UTF-8"
OTHER_ZONE = "LINT-14"
"""In the form that needs no table of zones: fourteen hours ahead."""
OTHER_FOLDER = "/"
TASK_PREFIX = "TOUCHSTONE_"
# What differs between a validation and a training, or between two servers, and is none of a
# feature set's business: devices, and where compiled code is kept.
_STAGE_PREFIXES = (
    TASK_PREFIX, "JAX_", "XLA_", "TF_", "CUDA_", "NVIDIA_", "MPLCONFIGDIR", "ELNIGMA_",
)  # fmt: skip
TRAINING_ENVIRONMENT = {"TOUCHSTONE_CONTRACT": "1", "TOUCHSTONE_TASK_ID": "i5"}
TRAINING_ARGUMENTS = ["elnigma", "train", "--prediction-interval", "5", "--out", "/out"]
_MOST_SEEDS = 40


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """
    Which of them are otherwise than in the process that the outcome is compared with.

    :param task: Whether arguments and environment are those of a training.
    :param hash_seed: Of ``hash()`` and of the order of sets; ``None`` leaves it.
    :param clock: Whether the clock is moved by more than a year.
    :param locale: Whether locale and time zone are others.
    :param folder: Whether the working directory is another one.
    :param cpus: Whether there seems to be another number of CPUs.
    """

    task: bool = False
    hash_seed: str | None = None
    clock: bool = False
    locale: bool = False
    folder: bool = False
    cpus: bool = False

    @property
    def needs_interpreter(self) -> bool:
        """Return whether something of it is read when an interpreter starts."""
        return self.hash_seed is not None or self.locale

    def build_environment(self) -> dict[str, str]:
        """Return the environment of a process that begins in them; of no task."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(TASK_PREFIX)
        }
        if self.hash_seed is not None:
            environment["PYTHONHASHSEED"] = self.hash_seed
        if self.locale:
            # What Python reads and writes files in is not a matter of taste.
            environment |= {"LC_ALL": OTHER_LOCALE, "LANG": OTHER_LOCALE, "TZ": OTHER_ZONE}
            environment |= {"PYTHONUTF8": "1"}
        return environment

    def enter(self) -> None:
        """Change in this process, for the rest of its life, what needs no new one."""
        hide_task()
        if self.task:
            os.environ |= TRAINING_ENVIRONMENT
            sys.argv[:] = TRAINING_ARGUMENTS
        if self.clock:
            import time_machine

            moved = timedelta(days=OTHER_DAYS, hours=OTHER_HOURS)
            # A number: with a date, its time zone would become this process's as well.
            time_machine.travel(time.time() + moved.total_seconds(), tick=True).start()
        if self.cpus:
            count = 2 if os.cpu_count() == 1 else 1

            def count_cpus() -> int:
                return count

            os.cpu_count = multiprocessing.cpu_count = count_cpus
            os.sched_getaffinity = lambda _pid: set(range(count))
        if self.folder:
            os.chdir(OTHER_FOLDER)


def hide_task() -> None:
    """Take from this process what tells which task it works on."""
    for name in [name for name in os.environ if name.startswith(TASK_PREFIX)]:
        del os.environ[name]
    sys.argv[:] = sys.argv[:1]


def hide_stage(environment: MutableMapping[str, str]) -> None:
    """
    Make the environment of a process that computes features the same in every stage.

    :param environment: Is changed.
    """
    for name in [name for name in environment if name.startswith(_STAGE_PREFIXES)]:
        del environment[name]
    environment["JAX_PLATFORMS"] = "cpu"


DEPENDS_ON = {
    "clock": (
        "the clock",
        f"when the clock is moved by {OTHER_DAYS} days",
        "compute from what the function is given, not from datetime.now() or time.time()",
    ),
    "hash_seed": (
        "the order of a set",
        "with another hash seed",
        "go through sorted(...) of it, and use zlib.crc32 in place of hash()",
    ),
    "locale": (
        "the locale or the time zone",
        f"with the locale {OTHER_LOCALE} and the time zone {OTHER_ZONE}",
        "name the encoding, the format and the time zone yourself",
    ),
    "folder": (
        "the working directory",
        f"in the working directory {OTHER_FOLDER}",
        "name files by pathlib.Path(__file__).parent",
    ),
    "cpus": (
        "the number of CPUs",
        "with another number of CPUs",
        "write the number of parts down",
    ),
    "task": (
        "what it is computed for",
        "when arguments and environment are those of a training",
        "compute the same in a validation and in a training",
    ),
}
"""By field of :class:`Surroundings`: what it is, when a module was seen to, and the way out."""


def change_all(names: Sequence[str] = ()) -> Surroundings:
    """
    Return surroundings that are all otherwise.

    :param names: Texts that a module may have in a set; they have another order then.
    """
    return Surroundings(
        hash_seed=_find_other_order(sorted(set(names))),
        clock=True,
        locale=True,
        folder=True,
        cpus=True,
        task=True,
    )


def change_one_by_one(all_changed: Surroundings) -> Iterator[tuple[str, Surroundings]]:
    """Yield each thing that is otherwise, by its name, with surroundings of it alone."""
    for field in fields(Surroundings):
        value: Any = getattr(all_changed, field.name)
        if value:
            yield field.name, Surroundings(**{field.name: value})


def _find_other_order(names: Sequence[str]) -> str:
    """Return a hash seed under which a set of names is gone through in another order than here."""
    if len(names) < 2:
        return OTHER_HASH_SEED
    here = "\n".join(set(names))
    script = "import sys; print('\\n'.join(set(sys.stdin.read().split('\\n'))), end='')"
    for seed in range(int(OTHER_HASH_SEED), _MOST_SEEDS):
        there = subprocess.run(
            [sys.executable, "-S", "-c", script],
            input="\n".join(names),
            env={"PYTHONHASHSEED": str(seed), "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
            errors="surrogatepass",
            # Of files that are to be inherited there are none; to close the others, this process
            # would have to read what is closed to everybody.
            close_fds=False,
        ).stdout
        if there != here:
            return str(seed)
    return OTHER_HASH_SEED
