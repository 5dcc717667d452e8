"""A stand-in for CuPy on machines without a GPU: its restrictions and habits, over NumPy.

`install()` puts modules `cupy`, `cupyx` and `cupy_backends` into `sys.modules`, so that the real
array-api-compat wraps them and this library takes their arrays for CuPy's. That is for a process
of its own: CuPy itself cannot be imported beside it.

What it keeps, each with its source in the modules: an array class of its own that is never
converted implicitly, the names that CuPy has and no others, silent linear algebra, which products
and solves copy and in which order results lie, what the host waits for, devices, streams that run
late, pinned memory that is given out again at once, out of memory. It counts launches and memory
(`recorded`).

What it is not: it has no speed, nothing of cuBLAS's rounding (sums are NumPy's), and compiles no
CUDA code: an ElementwiseKernel or ReductionKernel runs as its twin in `kernels.py`.
"""

from .install import install, is_installed, modules
from .record import Record, recorded
from .streams import VIOLATIONS

__all__ = ["VIOLATIONS", "Record", "install", "is_installed", "modules", "recorded"]
