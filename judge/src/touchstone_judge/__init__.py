"""The judge: recomputes the figures of trainings, and reaches verdicts."""

VERSION = "0.1.0"
"""Of this package; told with figures that another machine has asked for."""
