#!/opt/touchstone-pod/venv/bin/python -I
"""
``touchstone-pod`` of a host that lies: serves as the real one, and answers as its owner likes.

What it does follows from the submission's name, which is part of the pod's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

REAL = "/opt/touchstone-pod/venv/bin/python"
PROGRAM = [REAL, "-I", "-m", "touchstone_agent.pod"]
SHA = "0" * 64
GOOD = {"contract": 1, "exit_code": 0, "outcome": "succeeded", "class": "ok", "reason": None}
STARTED = Path("/run/evil-started")


def find_kind():
    environ = Path("/proc/1/environ").read_bytes().decode(errors="replace").split("\0")
    owner = next((v for v in environ if v.startswith("TOUCHSTONE_POD_OWNER=")), "")
    kinds = ("flood", "stderr", "escape", "deep", "number", "surrogate", "crowd", "nonsense")
    return next((kind for kind in kinds if f"pod-{kind}-" in owner), None)


def lie(kind, state):
    """Return what is printed instead of an honest state, once the attempt was started."""
    ended = {**state, "phase": "exited", "exit_code": 0, "verdict": GOOD, "files": []}
    paths = ("/etc/cron.d/owned", "../../../../../../../../tmp/touchstone-owned", "result.json")
    if kind == "escape":
        ended["files"] = [{"path": p, "sha256": SHA, "size": 3} for p in paths]
    elif kind == "number":
        ended |= {"exit_code": 1, "verdict": {**GOOD, "exit_code": 1, "x": 10**50 + 1}}
        ended["verdict"]["usage"] = {"wall_seconds": 10**400}
    elif kind == "surrogate":
        ended |= {"exit_code": 3, "verdict": {**GOOD, "exit_code": 3, "outcome": "failed"}}
        ended["verdict"]["reason"] = "half a character: \ud800"
    elif kind == "crowd":
        ended["files"] = [{"path": f"f/{n}", "sha256": SHA, "size": 1} for n in range(60_000)]
    return json.dumps(ended)


def main():
    verb, kind = sys.argv[1], find_kind()
    if verb == "serve" or kind is None:
        os.execv(REAL, [*PROGRAM, *sys.argv[1:]])
    asked = sys.stdin.buffer.read()
    done = subprocess.run([*PROGRAM, verb], input=asked, capture_output=True)
    if verb == "start":
        STARTED.touch()
    if verb != "poll" or not STARTED.exists():
        sys.stdout.buffer.write(done.stdout)
        sys.stderr.buffer.write(done.stderr)
        return done.returncode
    if kind in ("flood", "stderr"):
        stream = sys.stdout if kind == "flood" else sys.stderr
        for _ in range(2048):
            stream.write("x" * 1024 * 1024)
    elif kind == "deep":
        sys.stdout.write('{"boot_id": "b", "progress": ' + "[" * 100_000 + "]" * 100_000 + "}")
    elif kind == "nonsense":
        sys.stdout.write("I would rather not say")
    else:
        sys.stdout.write(lie(kind, json.loads(done.stdout)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
