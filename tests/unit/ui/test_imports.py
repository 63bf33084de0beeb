"""What the process of the API loads."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import touchstone.ui.app
from importlib import import_module
from pkgutil import walk_packages
import touchstone.ui
for module in walk_packages(touchstone.ui.__path__, "touchstone.ui."):
    import_module(module.name)
import touchstone.services.cancel, touchstone.services.fleet
print(*sorted(name for name in sys.modules if name.startswith("touchstone.")))
"""


def test_the_api_loads_nothing_of_the_dispatcher():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    loaded = done.stdout.split()
    assert "touchstone.ui.routes.fleet" in loaded
    assert "touchstone.services.cancel" in loaded
    assert [name for name in loaded if name.startswith("touchstone.dispatcher")] == []
