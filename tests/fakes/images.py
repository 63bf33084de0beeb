"""Container images for tests, made of one script and a static busybox, without any registry."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

APPLETS = "sh cat cp cut dd echo grep id ls mkdir mv rm sha256sum setsid sleep tail touch tr wc"


RUNNER = Path(__file__).with_name("runner.sh")


def name_script_image(
    repository: str, script: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """
    Return the name of a script's image: with another content it has another name.

    Whoever tests another state of this repository on the same engine keeps images of its own.

    :param environment: What the image sets.
    """
    content = f"{APPLETS} {sorted(environment.items())}".encode() + script.read_bytes()
    return f"{repository}:{hashlib.sha256(content).hexdigest()[:12]}"


RUNNER_IMAGE = name_script_image("touchstone-test-runner", RUNNER)


def build_script_image(
    image: str, script: Path, folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """
    Make an image whose entry point is a shell script, unless it is there.

    Skips the test where that cannot be done.

    :param environment: What the image sets.
    """
    docker, busybox = shutil.which("docker"), Path("/bin/busybox")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("NO CONTAINER ENGINE: the Docker runtime was NOT tested on this machine")
    # ldd refuses what needs no library.
    if not busybox.exists() or not subprocess.run(["ldd", busybox], capture_output=True).returncode:
        pytest.skip("NO STATIC BUSYBOX (apt install busybox-static): Docker runtime NOT tested")
    known = subprocess.run([docker, "image", "inspect", image], capture_output=True)
    if known.returncode == 0:
        return image
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(busybox, "bin/busybox")
        tar.add(script, "runner.sh")
        for name in ("sys", "proc", "tmp", "in", "out"):
            member = tarfile.TarInfo(name)
            # The engine gives its tmpfs the mode of the folder it covers.
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        for applet in APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    entry = json.dumps(["/bin/sh", "/runner.sh"])
    changes = ["--change", "ENV PATH=/bin", "--change", f"ENTRYPOINT {entry}"]
    for name, value in environment.items():
        changes += ["--change", f"ENV {name}={value}"]
    subprocess.run(
        [docker, "import", *changes, str(archive), image], check=True, capture_output=True
    )
    return image
