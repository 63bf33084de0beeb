"""
PID 1 of a pod that is a process: sets up its world, runs sshd and the image's program in it.

An order that brings its own entry point must bring its own sshd with it, as on RunPod: then the
entry point itself is PID 1, and finds sshd's usual configuration with the port in it.

As root it gets namespaces and a copy-on-write root of its own, so that ``/workspace``, ``/tmp`` and
``/proc/1`` are the pod's and nothing of it outlives it. Otherwise it is a plain process tree with a
folder. Called by the emulator with the path of a JSON file that holds what ``process.py`` writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36
HIDDEN = (
    *("usr/bin/docker", "usr/local/bin/docker", "usr/sbin/dockerd"),
    *("root/.ssh", "root/.bashrc", "root/.profile", "root/.bash_profile"),
)
FOLDERS = ("workspace", "run/sshd", "run/emulator", "tmp", "usr/local/bin")


def mount(*arguments: str) -> None:
    """Mount something, in this pod's own mount namespace."""
    subprocess.run(["mount", *arguments], check=True)


def enter_root(spec: dict[str, Any]) -> None:
    """Make the pod's own root out of the machine's and go there."""
    pod = Path(spec["folder"])
    disk, root = pod / "disk", pod / "root"
    for folder in (disk, root):
        folder.mkdir(exist_ok=True)
    if spec["disk_mib"] and not os.path.ismount(disk):
        mount("-t", "tmpfs", "-o", f"size={spec['disk_mib']}m", "tmpfs", str(disk))
    for folder in (disk / "upper", disk / "work"):
        folder.mkdir(exist_ok=True)
    layers = f"lowerdir=/,upperdir={disk / 'upper'},workdir={disk / 'work'}"
    mount("-t", "overlay", "overlay", "-o", layers, str(root))
    mount("--rbind", "/dev", str(root / "dev"))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    # The engine's socket is below /run: a pod has none.
    mount("-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", str(root / "run"))
    resolver = Path("/etc/resolv.conf")
    if resolver.is_symlink() and resolver.exists():
        # It points below /run on many machines.
        text = resolver.read_text()
        (root / "etc/resolv.conf").unlink()
        (root / "etc/resolv.conf").write_text(text)
    for name in HIDDEN:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    mount("--bind", str(pod / "shared"), str(root / "run/emulator"))
    os.chroot(root)
    os.chdir("/root" if Path("/root").is_dir() else "/")


def install_programs(spec: dict[str, Any], target: Path) -> None:
    """Put nvidia-smi and the image's programs where the pod's PATH looks."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(spec["nvidia_smi"], target / "nvidia-smi")
    (target / "nvidia-smi").chmod(0o755)
    for folder in spec["programs"]:
        for program in Path(folder).iterdir():
            link = target / program.name
            if program.is_file() and os.access(program, os.X_OK) and not link.exists():
                link.symlink_to(program)


def write_ssh(spec: dict[str, Any], folder: Path, home: Path) -> Path:
    """Make a new host key, let the pod's public keys in, and return sshd's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "ssh_host_ed25519_key"
    key.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pod", "-f", str(key)], check=True
    )
    keys = home / ".ssh/authorized_keys"
    keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [os.environ.get("PUBLIC_KEY", ""), os.environ.get("SSH_PUBLIC_KEY", "")]
    keys.write_text("".join(f"{line}\n" for line in wanted if line) if spec["has_key"] else "")
    keys.chmod(0o600)
    path = f"{spec['bin']}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    lines = [
        f"Port {spec['port']}",
        "ListenAddress 127.0.0.1",
        f"HostKey {key}",
        f"AuthorizedKeysFile {keys}",
        f"PidFile {folder / 'sshd.pid'}",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "StrictModes no",
        "PermitRootLogin prohibit-password",
        "PrintMotd no",
        "MaxStartups 100:30:200",
        "MaxSessions 50",
        "Subsystem sftp internal-sftp",
        f"SetEnv PATH={path} HOME={home}"
        + ("" if spec["is_isolated"] else f" FAKE_GPU_FILE={spec['gpu_file']}"),
    ]
    if not spec["is_isolated"]:
        enter = folder / "enter"
        enter.write_text(
            f'#!/bin/sh\ncd "{home}" || exit 1\n'
            'case $SSH_ORIGINAL_COMMAND in "") exec /bin/sh -l ;;\n'
            "internal-sftp) exec /usr/lib/openssh/sftp-server ;;\n"
            '*) exec /bin/sh -c "$SSH_ORIGINAL_COMMAND" ;;\nesac\n'
        )
        enter.chmod(0o755)
        lines.append(f"ForceCommand {enter}")
    config = folder / "sshd_config"
    config.write_text("\n".join(lines) + "\n")
    print(
        subprocess.run(
            ["ssh-keygen", "-lf", f"{key}.pub"], check=True, capture_output=True, text=True
        ).stdout.strip(),
        flush=True,
    )
    return config


def configure_ssh(spec: dict[str, Any]) -> None:
    """Let whatever sshd the pod starts listen where its relay looks for it."""
    config, folder = Path("/etc/ssh/sshd_config"), Path("/etc/ssh/sshd_config.d")
    # This machine's own settings are none of an image's.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "pod.conf").write_text(f"Port {spec['port']}\nListenAddress 127.0.0.1\n")
    text = config.read_text() if config.exists() else ""
    include = f"Include {folder}/*.conf"
    if include not in text.splitlines():
        config.write_text(f"{include}\n{text}")


def become_program(spec: dict[str, Any]) -> NoReturn:
    """Let the order's entry point take the place of this process."""
    enter_root(spec)
    target = Path("/usr/local/bin")
    install_programs(spec, target)
    configure_ssh(spec)
    os.environ.update(HOME="/root", PATH=f"{target}:{os.environ.get('PATH', '/usr/bin:/bin')}")
    if not spec["has_key"]:
        os.environ.update(PUBLIC_KEY="", SSH_PUBLIC_KEY="")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execvp(spec["program"][0], spec["program"])


def write_environment(path: Path) -> None:
    """Write what a login may source: it does not inherit the container's environment."""
    with contextlib.suppress(OSError), path.open("w") as file:
        for name, value in os.environ.items():
            quoted = value.replace("'", "'\\''")
            file.write(f"export {name}='{quoted}'\n")


def start(spec: dict[str, Any]) -> list[int]:
    """Start what the pod runs; return the processes whose end is the container's end."""
    if spec["is_isolated"]:
        enter_root(spec)
        home, ssh, target = Path("/root"), Path("/etc/ssh/pod"), Path("/usr/local/bin")
        write_environment(Path("/etc/rp_environment"))
    else:
        home = Path(spec["folder"]) / "disk"
        home.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            # sshd as root wants it; the service, which is not running, would have made it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        os.chdir(home)
        os.environ.update(HOME=str(home), FAKE_GPU_FILE=spec["gpu_file"])
        ssh, target = Path(spec["folder"]) / "ssh", Path(spec["folder"]) / "bin"
        write_environment(home / "rp_environment")
    install_programs(spec, target)
    spec["bin"] = str(target)
    config = write_ssh(spec, ssh, home)
    os.environ["PATH"] = f"{target}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    sshd = subprocess.Popen([spec["sshd"], "-D", "-e", "-f", str(config)])
    processes = [sshd.pid]
    if spec["program"]:
        processes.append(subprocess.Popen(spec["program"]).pid)
    return processes


def kill_descendants() -> None:
    """End everything that is left of the pod; only needed without a PID namespace."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(100):
        left = children.read_text().split() if children.exists() else []
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def stop(number: int, _: object) -> None:
    """End, because the emulator wants it."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the pod until one of its main processes ends; return that one's code."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    signal.signal(signal.SIGTERM, stop)
    if spec["brings_sshd"]:
        become_program(spec)
    if not spec["is_isolated"]:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        processes = start(spec)
        while True:
            pid, status = os.wait()
            if pid in processes:
                return os.waitstatus_to_exitcode(status) % 256
    finally:
        if not spec["is_isolated"]:
            kill_descendants()


if __name__ == "__main__":
    sys.exit(main())
