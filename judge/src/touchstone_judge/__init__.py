"""The judge: recomputes the figures of trainings, and reaches verdicts."""
