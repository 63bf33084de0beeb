"""Environment that the numeric libraries read once, when they are imported."""

from __future__ import annotations

import os

from elnigma.task import Cuda

# One instruction set and vector width for every host, so that the same task gives the same bits.
DETERMINISTIC_XLA_FLAGS = "--xla_cpu_max_isa=AVX2 --xla_cpu_prefer_vector_width=256"
# No operation that adds up in the order in which its parts get ready, and none chosen by a race.
DETERMINISTIC_GPU_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
# Level 1 of 0 to 3: what is run a few times only is compiled for longer than it runs; without any
# of it, large models would take longer than they are compiled for. The newer way in which XLA fuses
# operations takes twice the time of the older one to compile them. Code in several parts is
# compiled by several threads; of two processes at once they would only be in each other's way.
FAST_COMPILATION_FLAGS = (
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
# JAX bounds its own pool. What CUDA and its libraries take beside it comes out of the same share.
POOL_OF_SHARE = 0.9


def limit_threads(threads: int) -> None:
    """
    Fix the number of threads and the instruction set of whatever is imported after this.

    :param threads: CPU threads. Results are bit-identical with 1 only.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
        os.environ[name] = str(threads)
    os.environ.setdefault("KERAS_BACKEND", "jax")
    _add_flags(DETERMINISTIC_XLA_FLAGS, unless="xla_cpu_max_isa")


def prepare_device(cuda: Cuda | None, share: float) -> None:
    """
    Fix what is done with a GPU by whatever is imported after this. What is set already stays.

    :param cuda: ``none`` keeps JAX on the CPU, whatever the machine has. ``None`` changes nothing.
    :param share: Of one GPU's memory; below 1, none is taken before it is needed.
    """
    if cuda is Cuda.NONE:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if cuda not in (Cuda.REQUIRED, Cuda.PREFERRED):
        return
    _add_flags(DETERMINISTIC_GPU_FLAGS, unless="xla_gpu_deterministic_ops")
    if share < 1:
        # JAX refuses to have it under both of its names.
        if "XLA_CLIENT_MEM_FRACTION" not in os.environ:
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{POOL_OF_SHARE * share:.3f}")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def compile_fast() -> None:
    """Let whatever JAX, imported after this, compiles be ready soon rather than run fast."""
    _add_flags(FAST_COMPILATION_FLAGS, unless="xla_backend_optimization_level")


def _add_flags(flags: str, *, unless: str) -> None:
    present = os.environ.get("XLA_FLAGS", "")
    if unless not in present:
        os.environ["XLA_FLAGS"] = f"{present} {flags}".strip()
