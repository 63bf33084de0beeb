"""
Holds one attempt of the process runtime; standard library only, run by its path.

It outlives the agent, is the ancestor of everything the attempt starts (orphans come back to
it), leaves the exit code in a file, and lets nothing live on behind the command. An attempt's
folder can be claimed by one shim only, so a START that is repeated runs once.

Usage: process_shim.py FOLDER COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

OUTPUT_BYTES = 256 * 1024
PR_SET_CHILD_SUBREAPER = 36


def read_start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; tells reused pids apart."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def write_json(path: Path, data: dict[str, object]) -> None:
    """Write a file that is either absent or whole, also when two do it at once."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with part.open("w", encoding="ascii") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def find_children() -> list[int]:
    """Return the processes whose parent is this one."""
    children = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(encoding="ascii", errors="replace")
            parent = int(text.rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid():
            children.append(int(entry.name))
    return children


def kill_descendants() -> None:
    """Kill what is left; each killed process hands its own children to this one."""
    while children := find_children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def keep_output(pipe: IO[bytes], path: Path) -> None:
    """Keep the first part of what the command itself prints, and drop the rest."""
    left = OUTPUT_BYTES
    with path.open("ab") as out:
        while block := pipe.read1(65536):  # type: ignore[attr-defined]
            out.write(block[:left])
            out.flush()
            left -= min(left, len(block))


def main() -> int:
    """Run the command and leave its exit code behind."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    try:
        os.close(os.open(folder / "claim", os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return 0
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder / "tmp",
            process_group=0,
            preexec_fn=_restore_signals,
        )
    except OSError as error:
        write_json(folder / "exit.json", {"exit_code": 127, "problem": str(error)})
        return 0
    write_json(
        folder / "process.json",
        {"pid": os.getpid(), "started": read_start_time(os.getpid()), "child": child.pid},
    )
    pump = threading.Thread(
        target=keep_output, args=(child.stdout, folder / "output.log"), daemon=True
    )
    pump.start()
    code = child.wait()
    kill_descendants()
    pump.join(timeout=2)
    exit_code = code if code >= 0 else 128 - code
    write_json(folder / "exit.json", {"exit_code": exit_code})
    return 0


def _restore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
