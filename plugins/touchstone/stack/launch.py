"""
Replace this process by a part of the stack, in the environment that a file holds.

The supervisor's own configuration quotes neither secrets nor arbitrary text safely, and shows in
error messages; a file of the owner's does. Standard library only, and run with ``-S``: it
costs a few milliseconds per start.
"""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    environment = json.loads(Path(sys.argv[1]).read_text())
    os.execve(sys.argv[2], sys.argv[2:], environment)  # noqa: S606 (a list, no shell)
