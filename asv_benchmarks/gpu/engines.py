"""The three array libraries on one device: data, clocks, memory and SVD, in one interface.

CuPy and torch are timed by events on the device. JAX has none: the host clock runs until the
results are there. Each engine says in `facts` what its numbers are.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = [
    "CupyEngine",
    "Engine",
    "JaxEngine",
    "TorchEngine",
    "Unavailable",
    "engine_makers",
    "host_elapsed",
    "open_engines",
]

Array = Any
Function = Callable[..., Any]

_SAMPLES = 15
_SAMPLE_SECONDS = 5e-3  # shorter functions are called several times in one sample


class Unavailable(Exception):
    """A library is not installed, or sees no device of the wanted kind."""


class Engine:
    """What the libraries have in common."""

    name: str
    clock: str
    memory: str
    svd: str

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        """Return standard normal numbers made on the device; complex z too have E |z|^2 = 1."""
        raise NotImplementedError

    def sent(self, x: np.ndarray) -> Array:
        """Return numbers of the host as an array on the device."""
        raise NotImplementedError

    def numpy(self, x: Array) -> np.ndarray:
        """Return an array as numbers of the host."""
        raise NotImplementedError

    def compiled(self, function: Function, *arrays: Array) -> Function:
        """Return the function as its users call it, ready for arrays like these."""
        return function

    def elapsed(self, function: Function, *arrays: Array, calls: int) -> float:
        """Return the seconds that consecutive calls take."""
        raise NotImplementedError

    def extra_memory(self, function: Function, *arrays: Array) -> int | None:
        """Return the bytes that a call has in use at most, beyond its arguments."""
        raise NotImplementedError

    def tall_svd(self, A: Array, *, fast: bool = True) -> tuple[Array, Array]:
        """Return U (m, n) and s (n,) of A (m, n) with m >= n, by `svd` or by gesvd."""
        raise NotImplementedError

    def tf32(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that allows products of float32 in TF32."""
        raise NotImplementedError

    def wait(self, *arrays: Array) -> None:
        """Wait until these arrays are there, and wherever it can be asked, the device is idle."""

    def free_bytes(self) -> int | None:
        """Return the bytes that can still be allocated, None where unknown."""
        return None

    def release(self) -> None:
        """Give memory that is kept for later back to the device."""
        gc.collect()

    def device(self) -> str:
        """Return the name of the device."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return versions, and what times, bytes and SVD mean."""
        raise NotImplementedError

    def median(self, function: Function, *arrays: Array, limit: float = 1.0) -> float:
        """Return the median time of a call in seconds, after a warm-up by the caller."""
        first = self.elapsed(function, *arrays, calls=1)
        calls = max(1, min(100, math.ceil(_SAMPLE_SECONDS / max(first, 1e-9))))
        samples, end = [], time.monotonic() + limit - first
        while len(samples) < _SAMPLES and time.monotonic() < end:
            samples.append(self.elapsed(function, *arrays, calls=calls) / calls)
        return statistics.median(samples or [first])

    def _described(self, **versions: str) -> dict[str, Any]:
        kinds = {"clock": self.clock, "memory": self.memory, "svd": self.svd}
        return {"device": self.device(), **versions, **kinds}


class CupyEngine(Engine):
    """CuPy on the current device."""

    name = "cupy"
    clock = "events on the device"
    memory = "largest sum of pool blocks in use, by a memory hook; library workspaces not seen"
    svd = "cupyx.cusolver.gesvda"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise Unavailable(_reason(error)) from error
        if not cupy.cuda.is_available():
            msg = "sees no CUDA device"
            raise Unavailable(msg)

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        import cupy

        rng = cupy.random.default_rng(seed)
        if not dtype.startswith("complex"):
            return rng.standard_normal(shape, dtype=dtype)
        x = cupy.empty(shape, dtype=dtype)
        real = "float32" if dtype == "complex64" else "float64"
        x.real = rng.standard_normal(shape, dtype=real)
        x.imag = rng.standard_normal(shape, dtype=real)
        x *= math.sqrt(0.5)  # what torch and JAX draw
        return x

    def sent(self, x: np.ndarray) -> Array:
        import cupy

        return cupy.asarray(x)

    def numpy(self, x: Array) -> np.ndarray:
        import cupy

        return cupy.asnumpy(x)

    def elapsed(self, function: Function, *arrays: Array, calls: int) -> float:
        import cupy

        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            function(*arrays)
        end.record()
        end.synchronize()
        return cupy.cuda.get_elapsed_time(start, end) * 1e-3

    def extra_memory(self, function: Function, *arrays: Array) -> int | None:
        import cupy

        class HighWater(cupy.cuda.MemoryHook):
            """The pool keeps no record of its largest use."""

            name = "high water"
            used = peak = 0

            def malloc_postprocess(self, **event: int) -> None:
                if event["mem_ptr"]:
                    self.used += event["mem_size"]
                    self.peak = max(self.peak, self.used)

            def free_postprocess(self, **event: int) -> None:
                self.used -= event["mem_size"]

        with HighWater() as hook:
            function(*arrays)
        return hook.peak

    def tall_svd(self, A: Array, *, fast: bool = True) -> tuple[Array, Array]:
        import cupy
        from cupyx.cusolver import gesvda

        if fast:  # a Fortran-ordered array is handed to cuSOLVER as it is: never that of the caller
            return gesvda(A.copy(order="F"))[:2]
        return cupy.linalg.svd(A, full_matrices=False)[:2]

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        from cupy._core import _routines_linalg as routines

        before = routines.get_compute_type("float32")
        routines.set_compute_type("float32", routines.COMPUTE_TYPE_TF32)
        try:
            yield
        finally:
            routines.set_compute_type("float32", before)

    def wait(self, *arrays: Array) -> None:
        import cupy

        cupy.cuda.Device().synchronize()

    def free_bytes(self) -> int | None:
        import cupy

        return cupy.cuda.runtime.memGetInfo()[0]

    def release(self) -> None:
        import cupy

        super().release()
        cupy.get_default_memory_pool().free_all_blocks()

    def device(self) -> str:
        import cupy

        number = cupy.cuda.runtime.getDevice()
        return cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()

    def facts(self) -> dict[str, Any]:
        import cupy

        cuda = cupy.cuda.runtime.runtimeGetVersion()
        return self._described(version=cupy.__version__, cuda=f"{cuda // 1000}.{cuda % 1000 // 10}")


class TorchEngine(Engine):
    """torch on its first GPU, or on the CPU for a rehearsal."""

    name = "torch"

    def __init__(self, device: str = "cuda") -> None:
        try:
            import torch
        except ImportError as error:
            raise Unavailable(_reason(error)) from error
        if device == "cuda" and not torch.cuda.is_available():
            msg = "sees no CUDA device"
            raise Unavailable(msg)
        self.target = device
        self.on_gpu = device == "cuda"
        self.clock = "events on the device" if self.on_gpu else "host clock"
        self.memory = "torch.cuda.max_memory_allocated" if self.on_gpu else "not measured"
        self.svd = f"torch.linalg.svd, {'gesvda' if self.on_gpu else 'LAPACK'}"

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        import torch

        source = torch.Generator(self.target).manual_seed(seed)
        kind = getattr(torch, dtype)
        return torch.randn(shape, generator=source, dtype=kind, device=self.target)

    def sent(self, x: np.ndarray) -> Array:
        import torch

        return torch.asarray(np.array(x), device=self.target)

    def numpy(self, x: Array) -> np.ndarray:
        return x.detach().cpu().resolve_conj().numpy()

    def elapsed(self, function: Function, *arrays: Array, calls: int) -> float:
        if not self.on_gpu:
            return host_elapsed(function, arrays, calls)
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function(*arrays)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def extra_memory(self, function: Function, *arrays: Array) -> int | None:
        if not self.on_gpu:
            return None
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function(*arrays)
        return torch.cuda.max_memory_allocated() - before

    def tall_svd(self, A: Array, *, fast: bool = True) -> tuple[Array, Array]:
        import torch

        driver = ("gesvda" if fast else "gesvd") if self.on_gpu else None
        return torch.linalg.svd(A, full_matrices=False, driver=driver)[:2]

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        import torch

        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def wait(self, *arrays: Array) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()

    def free_bytes(self) -> int | None:
        import torch

        return torch.cuda.mem_get_info()[0] if self.on_gpu else None

    def release(self) -> None:
        import torch

        super().release()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def device(self) -> str:
        import torch

        return torch.cuda.get_device_name() if self.on_gpu else "cpu"

    def facts(self) -> dict[str, Any]:
        import torch

        return self._described(version=torch.__version__, cuda=str(torch.version.cuda))


class JaxEngine(Engine):
    """JAX on its first GPU, or on the CPU for a rehearsal; everything is jitted.

    Float32 products are traced at full precision, which is not JAX's default: times of different
    precisions do not compare.
    """

    name = "jax"
    clock = "host clock until the results are there"
    memory = "temporaries and outputs that XLA planned; scratch of library calls not seen"
    svd = "jax.lax.linalg.svd, its default (gesvd for large matrices on CUDA; JAX has no gesvda)"

    def __init__(self, platform: str = "gpu") -> None:
        # Before the import: three libraries share the card.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        try:
            import jax
        except ImportError as error:
            raise Unavailable(_reason(error)) from error
        jax.config.update("jax_enable_x64", True)
        try:
            self.target = jax.devices(platform)[0]
        except RuntimeError as error:
            msg = f"sees no {platform.upper()}"
            raise Unavailable(msg) from error

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
        import jax

        with jax.default_device(self.target):
            x = jax.random.normal(jax.random.key(seed), shape, dtype)
        return jax.device_put(x, self.target)  # committed: what is made of it stays there

    def sent(self, x: np.ndarray) -> Array:
        import jax

        return jax.device_put(x, self.target)

    def numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def compiled(self, function: Function, *arrays: Array) -> Function:
        import jax

        def precise(*values: Array) -> Any:
            with jax.default_matmul_precision("highest"):
                return function(*values)

        return jax.jit(precise).lower(*arrays).compile()

    def elapsed(self, function: Function, *arrays: Array, calls: int) -> float:
        import jax

        return host_elapsed(function, arrays, calls, jax.block_until_ready)

    def extra_memory(self, function: Any, *arrays: Array) -> int | None:
        plan = function.memory_analysis()
        if plan is None:
            return None
        return plan.temp_size_in_bytes + plan.output_size_in_bytes

    def tall_svd(self, A: Array, *, fast: bool = True) -> tuple[Array, Array]:
        import jax

        return jax.lax.linalg.svd(A, full_matrices=False)[:2]

    def tf32(self) -> contextlib.AbstractContextManager[None]:
        import jax

        return jax.default_matmul_precision("tensorfloat32")

    def wait(self, *arrays: Array) -> None:
        import jax

        jax.block_until_ready(arrays)

    def free_bytes(self) -> int | None:
        usage = self.target.memory_stats() or {}
        if "bytes_limit" not in usage:
            return None
        return usage["bytes_limit"] - usage["bytes_in_use"]

    def device(self) -> str:
        return self.target.device_kind

    def facts(self) -> dict[str, Any]:
        import jax

        platform = " ".join(self.target.client.platform_version.split())
        return self._described(version=jax.__version__, cuda=platform)


def engine_makers(device: str) -> tuple[dict[str, Callable[[], Engine]], dict[str, str]]:
    """Return what opens each engine on a "gpu" or "cpu", and why the others have no such device."""
    if device == "cpu":
        makers: dict[str, Callable[[], Engine]] = {
            "torch": lambda: TorchEngine("cpu"),
            "jax": lambda: JaxEngine("cpu"),
        }
        return makers, {"cupy": "has no CPU to rehearse on"}
    return {"cupy": CupyEngine, "torch": TorchEngine, "jax": JaxEngine}, {}


def open_engines(device: str) -> tuple[list[Engine], dict[str, str]]:
    """Return the engines that see a device ("gpu" or "cpu"), and why the others do not."""
    makers, skipped = engine_makers(device)
    engines = []
    for name, make in makers.items():
        try:
            engines.append(make())
        except Unavailable as reason:
            skipped[name] = str(reason)
    return engines, skipped


def host_elapsed(
    function: Function, arrays: tuple[Array, ...], calls: int, wait: Function = lambda x: x
) -> float:
    result = None
    start = time.perf_counter()
    for _ in range(calls):
        result = function(*arrays)
    wait(result)
    return time.perf_counter() - start


def _reason(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({error.name})"
    return f"cannot be loaded: {str(error).strip().partition(chr(10))[0]}"
