"""
How long a submitter waits for a verdict, beside the bare container that finds it.

Starts an installation of its own, submits an example several times, and runs the same validation
with the container engine alone (or as a plain process, without one) in between. Prints seconds
and their ratio; the difference is what Airflow, queues and records add.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from system.installation import EXAMPLES, REPOSITORY, Installation

EXAMPLE = EXAMPLES / "momentum"


def time_verdict(installation: Installation) -> float:
    """Return the seconds from the command to the status ``accepted``."""
    started = time.monotonic()
    submission_id = installation.submit(EXAMPLE)
    installation.wait_for_submission(submission_id, "accepted")
    return time.monotonic() - started


def time_bare(installation: Installation, folder: Path) -> float:
    """Return the seconds of the same validation without anything around it."""
    inputs, outputs = folder / "in", folder / "out"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXAMPLE, inputs / "content")
    outputs.mkdir()
    outputs.chmod(0o777)
    arguments = [
        "validate",
        "--system",
        "feature_set",
        "--module",
        "{in}/content",
        "--out",
        "{out}",
    ]
    if installation.runtime == "docker":
        paths = {"{in}": "/in", "{out}": "/out"}
        command = [
            *("docker", "run", "--rm", "--network", "none", "--cpus", "1"),
            *("--env", "TOUCHSTONE_OUT=/out", "--volume", f"{inputs}:/in:ro"),
            *("--volume", f"{outputs}:/out", installation.settings.trainer_image),
        ]
        environment = None
    else:
        paths = {"{in}": str(inputs), "{out}": str(outputs)}
        python = REPOSITORY / "include" / "elnigma" / ".venv" / "bin" / "python"
        command = [str(python), "-P", "-m", "elnigma_runner"]
        environment = {"TOUCHSTONE_OUT": str(outputs), "PATH": "/usr/bin:/bin"}
    for name, path in paths.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    started = time.monotonic()
    subprocess.run([*command, *arguments], check=True, capture_output=True, env=environment)
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        installation = Installation(Path(folder, "stack"), env=f"b{secrets.token_hex(3)}")
        started = installation.run("up")
        if started.returncode != 0:
            raise SystemExit(started.stderr)
        try:
            time_verdict(installation)
            pairs = [
                (time_verdict(installation), time_bare(installation, Path(folder, "bare")))
                for _ in range(runs)
            ]
        finally:
            installation.run("down")
    whole = statistics.median(pair[0] for pair in pairs)
    bare = statistics.median(pair[1] for pair in pairs)
    for index, pair in enumerate(pairs, 1):
        print(f"run {index}: verdict {pair[0]:.1f} s, bare {pair[1]:.1f} s")
    print(
        f"median of {runs} ({installation.runtime}): verdict {whole:.1f} s, bare {bare:.1f} s, "
        f"ratio {whole / bare:.1f}"
    )


if __name__ == "__main__":
    main()
