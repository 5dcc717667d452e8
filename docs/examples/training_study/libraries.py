"""The array libraries that can train: how arrays get there, and when they are ready."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

EXTRAS = {"numpy": "study", "torch": "torch", "jax": "jax", "cupy": "cuda13"}
"""The libraries, and the extras of ngdla that install them."""

WITH_BFLOAT16 = ("torch", "jax")


@dataclass(frozen=True)
class Library:
    """An array library on one device."""

    name: str
    xp: Any
    """Its namespace, as the array API has it."""

    device: Any
    """Where arrays are made; None: where the library makes them."""

    def array(self, x: np.ndarray) -> Any:
        """Return float32 numbers as an array of the library."""
        return self.xp.asarray(x, dtype=self.xp.float32, device=self.device)

    def numpy(self, x: Any) -> np.ndarray:
        """Return an array of the library as one of NumPy."""
        if self.name == "torch":
            x = x.cpu()
        return x.get() if self.name == "cupy" else np.asarray(x)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as users of the library would run it: in JAX, jitted."""
        return import_module("jax").jit(function) if self.name == "jax" else function

    def wait(self) -> None:
        """Return once the device has done all it was given."""
        if self.name == "torch" and self.device == "cuda":
            import_module("torch").cuda.synchronize()
        if self.name == "cupy":
            import_module("cupy").cuda.get_current_stream().synchronize()
        if self.name == "jax":
            jax = import_module("jax")
            jax.block_until_ready(jax.live_arrays())


def open_library(name: str, dtype: str = "float32") -> Library:
    """Return a library by its name, on a GPU where it has one.

    Raises
    ------
    ImportError
        If the library is not installed, or is CuPy without a GPU.
    ValueError
        If the library has no such dtype.
    """
    if dtype == "bfloat16" and name not in WITH_BFLOAT16:
        msg = f"{name} has no bfloat16: choose {' or '.join(WITH_BFLOAT16)}"
        raise ValueError(msg)
    try:
        module = import_module(name)
    except ImportError as error:
        msg = f'{name} is not installed: pip install "ngdla[{EXTRAS[name]}]"'
        raise ImportError(msg) from error
    if name == "cupy" and not module.cuda.is_available():
        msg = "cupy sees no GPU: choose numpy, torch or jax"
        raise ImportError(msg)
    if name == "jax":
        return Library(name, import_module("jax.numpy"), None)
    device = None
    if name == "torch":
        device = "cuda" if module.cuda.is_available() else "cpu"
    return Library(name, import_module(f"array_api_compat.{name}"), device)


@contextlib.contextmanager
def one_thread(name: str) -> Iterator[None]:
    """Hold BLAS, OpenMP and torch to one thread, so that times depend on nothing else."""
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1):
        if name != "torch":
            yield
            return
        torch = import_module("torch")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
