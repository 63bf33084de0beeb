"""Environment that the numeric libraries read once, when they are imported."""

from __future__ import annotations

import os

# One instruction set and vector width for every host, so that the same task gives the same bits.
DETERMINISTIC_XLA_FLAGS = "--xla_cpu_max_isa=AVX2 --xla_cpu_prefer_vector_width=256"


def limit_threads(threads: int) -> None:
    """
    Fix the number of threads and the instruction set of whatever is imported after this.

    :param threads: CPU threads. Results are bit-identical with 1 only.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ[name] = str(threads)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_max_isa" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC_XLA_FLAGS}".strip()
