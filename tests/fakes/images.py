"""Container images for tests, made of one script and a static busybox, without any registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

APPLETS = "sh cat cp cut dd echo grep id ls mkdir mv rm sha256sum setsid sleep tail touch tr wc"


def build_script_image(
    image: str, script: Path, folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """
    Make an image whose entry point is a shell script; skip where that cannot be done.

    :param environment: What the image sets.
    """
    docker, busybox = shutil.which("docker"), Path("/bin/busybox")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("NO CONTAINER ENGINE: the Docker runtime was NOT tested on this machine")
    # ldd refuses what needs no library.
    if not busybox.exists() or not subprocess.run(["ldd", busybox], capture_output=True).returncode:
        pytest.skip("NO STATIC BUSYBOX (apt install busybox-static): Docker runtime NOT tested")
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
