"""How many threads every measurement has, whatever the machine: ratios depend on it."""

from __future__ import annotations

THREADS = 2

# NPROC is what XLA reads.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


def fixed_threads() -> dict[str, str]:
    """Return the environment variables that the libraries read before they start threads."""
    return dict.fromkeys(VARIABLES, str(THREADS))
