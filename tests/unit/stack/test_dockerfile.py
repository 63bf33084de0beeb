"""What the targets of the trainer's Dockerfile are made of, as its text and the lock file say."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

import pytest

from touchstone.stack.images import DOCKERFILE, LOCAL_TARGET, TRAINER
from touchstone.stack.layout import REPOSITORY

CPU_TARGETS = ("cpu", "pod-cpu")
CUDA_TARGETS = ("cuda", "pod-cuda")


@dataclass
class Stage:
    """
    One stage.

    :param number: Its place.
    :param base: The stage or image that it begins as.
    :param text: Its instructions.
    """

    number: int
    base: str
    text: str = ""
    copies_from: set[str] = field(default_factory=set)


def read_stages() -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    name = ""
    text = (REPOSITORY / DOCKERFILE).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            base, name = match.groups()
            stages[name] = Stage(len(stages), base)
        elif name and not line.startswith("#"):
            stages[name].text += f"{line}\n"
            if match := re.match(r"COPY --from=(\S+)", line):
                stages[name].copies_from.add(match[1])
    return stages


def find_parts(stages: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage with all that it is made of, the bottom last."""
    stage = stages.get(name)
    if stage is None:
        return []
    parts = [stage, *find_parts(stages, stage.base)]
    return parts + [part for other in stage.copies_from for part in find_parts(stages, other)]


def read_labels(name: str) -> dict[str, str]:
    """Return the labels of a target; what is set above outweighs what is below."""
    labels: dict[str, str] = {}
    for stage in reversed(find_parts(read_stages(), name)):
        for line in stage.text.splitlines():
            if line.startswith("LABEL "):
                labels |= dict(re.findall(r'([\w.]+)="([^"]*)"', line))
    return labels


def read_lock() -> dict[str, set[str]]:
    """Return the versions of each package of the trainer's lock file."""
    packages = tomllib.loads((TRAINER / "uv.lock").read_text())["package"]
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(package["name"], set()).add(package.get("version", ""))
    return versions


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_the_image_for_the_cpu_has_nothing_of_cuda(target) -> None:
    parts = find_parts(read_stages(), target)
    assert parts
    for stage in parts:
        assert not re.search("cuda|nvidia", stage.text)
    requirements = (TRAINER / "requirements.txt").read_text()
    assert not re.search("cuda|nvidia", requirements)


def test_a_builder_that_makes_all_stages_in_order_fetches_no_cuda_for_the_cpu() -> None:
    """Docker's builder before BuildKit makes every stage that stands above the target."""
    stages = read_stages()
    first_cuda = min(stage.number for stage in stages.values() if "requirements-cuda" in stage.text)
    assert all(stages[target].number < first_cuda for target in CPU_TARGETS)
    assert LOCAL_TARGET in CPU_TARGETS


@pytest.mark.parametrize("target", CPU_TARGETS + CUDA_TARGETS)
def test_a_change_of_the_sources_installs_nothing_anew(target) -> None:
    """No stage that the libraries are in has anything of the sources."""
    stages = read_stages()
    chain, name = [], target
    while name in stages:
        chain.append(stages[name])
        name = stages[name].base
    installing = [place for place, stage in enumerate(chain) if "install" in stage.text]
    with_sources = [place for place, stage in enumerate(chain) if "program" in stage.copies_from]
    assert with_sources
    assert max(with_sources) < min(installing)


@pytest.mark.parametrize("target", CPU_TARGETS + CUDA_TARGETS)
def test_each_target_is_one_of_the_contracts_images(target) -> None:
    labels = read_labels(target)
    assert labels["touchstone.contract"] == "2"
    assert labels["touchstone.backend"] == ("cpu" if target in CPU_TARGETS else "cuda")


@pytest.mark.parametrize("target", CUDA_TARGETS)
def test_the_label_names_the_cuda_of_the_lock_file(target) -> None:
    (version,) = read_lock()["nvidia-cuda-runtime-cu12"]
    labels = read_labels(target)
    assert labels["touchstone.cuda"] == ".".join(version.split(".")[:2])


def test_the_oldest_driver_is_the_one_that_the_trainer_names() -> None:
    labels = read_labels("cuda")
    major = labels["touchstone.cuda"].split(".")[0]
    source = (TRAINER / "src/elnigma/device.py").read_text()
    assert f'"{major}": "{labels["touchstone.min_driver"]}"' in source


def test_the_image_for_gpus_has_the_libraries_of_the_other_and_more() -> None:
    small, large = (
        set(re.findall(r"^[\w-]+==\S+", (TRAINER / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-cuda.txt")
    )
    assert small < large
    added = {line.partition("==")[0] for line in large - small}
    assert {"jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-ml-py"} <= added
