"""
Build trainer images from this checkout: ``scripts/build_images.py TARGET...``.

Each is called ``touchstone-elnigma:TARGET``. Proxy, index and certificates of the shell reach the
build, as with ``touchstone up``.
"""

from __future__ import annotations

import sys

from touchstone.stack.images import build_image
from touchstone_agent.protocol.errors import PermanentError


def main() -> int:
    """Build all of them, and stop at the first that fails."""
    for target in sys.argv[1:]:
        name = f"touchstone-elnigma:{target}"
        print(f"building {name}", flush=True)
        try:
            build_image(target, name)
        except PermanentError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
