"""Lets ``python -m elnigma_runner`` be the command."""

import sys

from elnigma_runner.cli import main

sys.exit(main())
