"""The double of CuPy that the tests have, as an engine: to rehearse what runs on CuPy arrays."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from .engines import Array, CupyEngine, Engine, Function, Unavailable, engine_makers, host_elapsed

__all__ = ["DoubleEngine", "makers"]


class DoubleEngine(CupyEngine):
    """NumPy behind CuPy's names; to be opened before anything imports CuPy."""

    clock = "the host's, of a double on the CPU: its times mean nothing"
    memory = "not measured"

    def __init__(self) -> None:
        try:
            import cupy_double
        except ImportError as error:
            msg = "has no double to rehearse on: tests/cupy_double cannot be imported"
            raise Unavailable(msg) from error
        cupy_double.install()

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(shape)
        if dtype.startswith("complex"):
            x = (x + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)
        return self.sent(x.astype(dtype))

    def elapsed(self, function: Function, *arrays: Array, calls: int) -> float:
        return host_elapsed(function, arrays, calls)

    def extra_memory(self, function: Function, *arrays: Array) -> None:
        return None

    def tall_svd(self, A: Array, *, fast: bool = True) -> tuple[Array, Array]:
        import cupy

        return cupy.linalg.svd(A, full_matrices=False)[:2]  # of cuSOLVER's others it has none

    def tf32(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wait(self, *arrays: Array) -> None:
        """Wait for nothing: what was asked for is done."""

    def free_bytes(self) -> None:
        return None

    def release(self) -> None:
        Engine.release(self)

    def device(self) -> str:
        return "double of CuPy"

    def facts(self) -> dict[str, Any]:
        return self._described(version="double", cuda="none")


def makers(device: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what opens each engine on a "gpu", the "cpu" or the "double", and why not others."""
    if device == "double":
        reason = "is rehearsed by --device cpu"
        return {"cupy": DoubleEngine}, {"torch": reason, "jax": reason}
    return engine_makers(device)
