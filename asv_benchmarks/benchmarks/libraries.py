"""The array libraries under measurement, and the base class of everything that asv runs on them.

torch and JAX are measured on their GPU where they see one. A library that is absent, or CuPy
without a GPU, skips the benchmark: asv shows n/a, and the reason with --show-stderr.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .measuring import alternating, normal, optional

DASK_COLUMNS = 5000  # of one chunk


def same(x: Any) -> Any:
    """Return the argument: NumPy has nothing to convert, to compile or to wait for."""
    return x


class Library(NamedTuple):
    """How data get in, what is called, when its result is there, and how it gets out."""

    asarray: Callable[[np.ndarray], Any]
    compiled: Callable[[Any], Any] = same
    wait: Callable[[Any], Any] = same
    numpy: Callable[[Any], np.ndarray] = np.asarray


def with_numpy() -> Library:
    """Return NumPy itself."""
    return Library(np.asarray)


def with_torch() -> Library:
    """Return torch, which runs ahead of Python on a GPU only."""
    torch = optional("torch")
    if not torch.cuda.is_available():
        return Library(torch.from_numpy)

    def wait(x: Any) -> Any:
        torch.cuda.synchronize()
        return x

    return Library(lambda x: torch.from_numpy(x).cuda(), wait=wait, numpy=lambda x: x.cpu().numpy())


def with_jax() -> Library:
    """Return JAX, one operation after the other."""
    jax = optional("jax")
    jax.config.update("jax_enable_x64", True)
    return Library(jax.numpy.asarray, wait=jax.block_until_ready)


def with_jax_jit() -> Library:
    """Return JAX with the whole call compiled."""
    return with_jax()._replace(compiled=optional("jax").jit)


def with_cupy() -> Library:
    """Return CuPy."""
    cupy = optional("cupy")
    if not cupy.cuda.is_available():
        raise NotImplementedError("cupy sees no CUDA device")

    def wait(x: Any) -> Any:
        cupy.cuda.get_current_stream().synchronize()
        return x

    return Library(cupy.asarray, wait=wait, numpy=cupy.asnumpy)


def with_dask() -> Library:
    """Return Dask with chunks of columns, one after the other: BLAS has the threads."""
    array = optional("dask.array")

    def asarray(x: np.ndarray) -> Any:
        return array.from_array(x, chunks=(-1,) * (x.ndim - 1) + (DASK_COLUMNS,))

    return Library(asarray, wait=lambda x: x.compute(scheduler="synchronous"))


LIBRARIES: dict[str, Callable[[], Library]] = {
    "numpy": with_numpy,
    "torch": with_torch,
    "jax": with_jax,
    "jax jit": with_jax_jit,
    "cupy": with_cupy,
    "dask": with_dask,
}


def shape_of(size: str) -> tuple[int, int]:
    """Return (n, m) of "n x m"."""
    n, m = size.split(" x ")
    return int(n), int(m)


class LibraryBenchmark:
    """One function on the arrays of one library; a subclass says which, and on which data."""

    params: tuple[tuple[str, ...], ...] = ()
    param_names = ("size", "library", "dtype")
    timeout = 300
    warmup_time = 0.0  # `setup` has called the function once, which also compiles it

    def function(self, *arguments: Any) -> Any:
        """Call what is measured."""
        raise NotImplementedError

    def data(self, n: int, m: int, dtype: str) -> tuple[np.ndarray, ...]:
        """Return the arguments as NumPy arrays, the n x m matrix first."""
        raise NotImplementedError

    def setup(self, size: str, library: str, dtype: str) -> None:
        """Move the data to the library and warm up; an absent library skips before any of it."""
        self.library = LIBRARIES[library]()
        self.numpy_arguments = self.data(*shape_of(size), dtype)
        self.arguments = tuple(self.library.asarray(x) for x in self.numpy_arguments)
        self.compiled = self.library.compiled(self.function)
        self.call()

    def call(self) -> Any:
        """Call the function and wait for its result."""
        return self.library.wait(self.compiled(*self.arguments))

    def result(self) -> np.ndarray:
        """Return the result of one call as a NumPy array."""
        return self.library.numpy(self.call())

    def fraction_of_ceiling(self) -> float:
        """Return the rate of n^2 m multiply-adds, n < m, over the library's rate of GEMM.

        Half of a matrix product is what forming a Gram matrix takes at least. The other factor is
        another array, since some libraries notice the product of a matrix with its own transpose.
        """
        S = self.numpy_arguments[0]
        A, B = self.arguments[0], self.library.asarray(normal(S.shape, S.dtype.name, seed=9))
        n, m = S.shape
        product = self.library.compiled(lambda A, B: A @ B.T if n < m else A.T @ B)
        wait = self.library.wait
        times = alternating({"ours": self.call, "gemm": lambda: wait(product(A, B))}, 5)
        return times["gemm"] / 2 / times["ours"]


def tracks(unit: str) -> Callable[[Any], Any]:
    """Say in which unit a `track_` method returns its number."""

    def describe(method: Any) -> Any:
        method.unit = unit
        return method

    return describe
