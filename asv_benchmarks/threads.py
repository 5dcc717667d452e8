"""How many threads every measurement has, whatever the machine: ratios depend on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

THREADS = 2

# NPROC is what XLA reads.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


def fixed_threads() -> dict[str, str]:
    """Return the environment variables that the libraries read before they start threads."""
    return dict.fromkeys(VARIABLES, str(THREADS))


@contextlib.contextmanager
def limited(threads: int) -> Iterator[None]:
    """Hold NumPy, SciPy and torch to this many threads, of those they started with."""
    import threadpoolctl

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with threadpoolctl.threadpool_limits(threads):
        if torch:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
