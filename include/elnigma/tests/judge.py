"""Validates folder after folder in one process that has loaded its libraries once; see main."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas  # noqa: F401 # loaded before the forks, once for all

from elnigma.cli import main as run_trainer


def main() -> None:
    """Validate each ``SYSTEM=FOLDER`` behind the first argument, which is the folder for all."""
    out = Path(sys.argv[1])
    for argument in sys.argv[2:]:
        system, _, folder = argument.partition("=")
        print(f"--- {folder}", flush=True)
        target = out / Path(folder).name
        run_trainer(["validate", "--system", system, "--module", folder, "--out", str(target)])


if __name__ == "__main__":
    main()
