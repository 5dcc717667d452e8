"""The array libraries and devices that the tests run on, each with the same few operations.

Inputs are made in NumPy, converted by `Backend.asarray`, and passed through `Backend.call`, which
jits under JAX, counts host reads under array-api-strict, and refuses changed inputs under NumPy.
Results are compared by `Backend.assert_matches`, which also asserts library, device, dtype, shape.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import array_api_strict
import cupy_double
import numpy as np
import pytest
from array_api_compat import device as device_of
from capability_record import ON_GPUS

DTYPES = ("float32", "float64", "complex64", "complex128")


def is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic)


def fields_of(x: Any) -> list[Any]:
    """Return what a dataclass holds, field by field."""
    return [getattr(x, field.name) for field in dataclasses.fields(x)]


def rebuilt(function: Callable[[Any], Any], x: Any) -> Any:
    """Return a result of ngdla with a function of each field that holds arrays."""
    return dataclasses.replace(x, **{n: function(getattr(x, n)) for n in x._array_fields})


def map_arrays(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function to all arrays in nested lists, tuples, dicts and results of ngdla."""
    if hasattr(x, "_array_fields"):
        return rebuilt(lambda field: map_arrays(function, field), x)
    if isinstance(x, dict):
        return {key: map_arrays(function, value) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(map_arrays(function, value) for value in x))
    if isinstance(x, (list, tuple)):
        return type(x)(map_arrays(function, value) for value in x)
    return function(x) if is_array(x) else x


def inside(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a primitive as the public functions do."""
    from ngdla._backend.settings import library_settings

    def called(A: Any, *args: Any, **kwargs: Any) -> Any:
        with library_settings(A):
            return function(A, *args, **kwargs)

    return called


class Backend:
    """NumPy itself, and what the other libraries have in common with it."""

    name = "numpy"
    dtypes: tuple[str, ...] = DTYPES
    has_values = True  # False where arrays carry shapes only
    eager = True  # False where values cannot be read, so that nothing can be raised for them

    def convert(self, x: np.ndarray) -> Any:
        return np.array(x)

    def numpy(self, x: Any) -> np.ndarray:
        assert isinstance(x, (np.ndarray, np.generic))
        return np.asarray(x)

    def device(self, x: Any) -> Any:
        return device_of(x)

    def asarray(self, x: Any) -> Any:
        """Convert NumPy arrays, also in nested sequences."""
        return map_arrays(lambda a: self.convert(np.asarray(a)), x)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, and refuse a function that writes to its arguments."""
        before = map_arrays(np.copy, [list(args), kwargs])
        result = function(*args, **kwargs)
        after = map_arrays(np.copy, [list(args), kwargs])
        map_both(np.testing.assert_array_equal, before, after)
        return result

    def assert_matches(
        self, result: Any, reference: Any, *, like: Any, dtype: str, tolerance: float
    ) -> None:
        """Assert the kind of the result, and |result - reference| <= tolerance |reference|."""
        if isinstance(reference, (list, tuple)):
            assert type(result) is type(reference)
            assert len(result) == len(reference)
            for one, other in zip(result, reference):
                self.assert_matches(one, other, like=like, dtype=dtype, tolerance=tolerance)
            return
        self.assert_kind(result, like=like, dtype=dtype, shape=np.shape(reference))
        if not self.has_values:
            return
        error = np.linalg.norm(np.ravel(self.numpy(result) - reference))
        size = np.linalg.norm(np.ravel(reference))
        assert error <= tolerance * size, f"error {error:.2e} of {size:.2e} > {tolerance:.2e}"

    def assert_kind(self, result: Any, *, like: Any, dtype: str, shape: tuple[int, ...]) -> None:
        kinds = (type(like), np.generic) if isinstance(like, np.ndarray) else type(like)
        assert isinstance(result, kinds), f"{type(result)} is not {type(like)}"
        assert self.device(result) == self.device(like)
        assert str(result.dtype).rpartition(".")[2] == dtype
        assert tuple(result.shape) == tuple(shape)


def map_both(function: Callable[[Any, Any], Any], x: Any, y: Any) -> None:
    if hasattr(x, "_array_fields"):
        map_both(function, fields_of(x), fields_of(y))
    elif isinstance(x, dict):
        for key in x:
            map_both(function, x[key], y[key])
    elif isinstance(x, (list, tuple)):
        for one, other in zip(x, y):
            map_both(function, one, other)
    elif is_array(x):
        function(x, y)


class ReadOnly(Backend):
    name = "numpy-readonly"

    def convert(self, x: np.ndarray) -> Any:
        x = np.array(x)
        x.flags.writeable = False
        return x


class Strict(Backend):
    name = "strict"
    target = "device1"

    def convert(self, x: np.ndarray) -> Any:
        return array_api_strict.asarray(x, device=array_api_strict.Device(self.target))

    def numpy(self, x: Any) -> np.ndarray:
        return np.array(np.from_dlpack(x))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call; more than one host read is a failure, as it would be a second synchronisation."""
        with counted_host_reads() as reads:
            result = function(*args, **kwargs)
        assert len(reads) <= 1, f"{len(reads)} host reads"
        return result


@contextlib.contextmanager
def counted_host_reads() -> Iterator[list[str]]:
    """Count the reads of values of array-api-strict arrays, which it allows on any device."""
    array = type(array_api_strict.asarray(0.0))
    reads: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for method in ("__bool__", "__float__", "__int__", "__complex__", "__index__", "__array__"):
            original = getattr(array, method)

            def counted(self: Any, *args: Any, _method: str = method, _o: Any = original) -> Any:
                reads.append(_method)
                return _o(self, *args)

            patch.setattr(array, method, counted)
        yield reads


class StrictFloat32(Strict):
    name = "strict-float32"
    target = "no_float64"
    dtypes = ("float32", "complex64")


class Torch(Backend):
    name = "torch"
    target = "cpu"

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")

    def convert(self, x: np.ndarray) -> Any:
        return self.torch.asarray(np.array(x)).to(self.target)

    def numpy(self, x: Any) -> np.ndarray:
        return x.detach().cpu().resolve_conj().numpy()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arrays = [list(args), kwargs]
        before = map_arrays(lambda a: a.clone() if hasattr(a, "clone") else a, arrays)
        result = function(*args, **kwargs)
        if self.has_values:
            map_both(
                lambda a, b: np.testing.assert_array_equal(self.numpy(a), self.numpy(b)),
                before,
                arrays,
            )
        return result


class TorchMeta(Torch):
    name = "torch-meta"
    target = "meta"
    has_values = False
    eager = False


class TorchCuda(Torch):
    name = "torch-cuda"
    target = "cuda"

    def __init__(self) -> None:
        super().__init__()
        if not self.torch.cuda.is_available():
            pytest.skip("no CUDA device for torch")

    def device_name(self) -> str:
        return self.torch.cuda.get_device_name()


class Jax(Backend):
    """Jitted: everything but arrays is static. What a test calls again is not compiled again."""

    name = "jax"
    platform = "cpu"
    eager = False

    def __init__(self) -> None:
        jax = pytest.importorskip("jax")
        jax.config.update("jax_enable_x64", True)
        try:
            self.target = jax.devices(self.platform)[0]
        except RuntimeError:
            pytest.skip(f"no {self.platform} device for JAX")
        self.jax = jax
        self.compiled: dict[tuple[Callable[..., Any], str], Any] = {}

    def convert(self, x: np.ndarray) -> Any:
        return self.jax.device_put(np.array(x), self.target)

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def device(self, x: Any) -> Any:
        return x.devices()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arrays: list[Any] = []

        def extract(a: Any) -> Any:
            arrays.append(a)
            return _Slot(len(arrays) - 1)

        template = map_arrays(extract, [list(args), kwargs])

        def traced(*values: Any) -> Any:
            positional, keywords = _fill(template, values)
            return function(*positional, **keywords)

        return self.compiled.setdefault((function, repr(template)), self.jax.jit(traced))(*arrays)


class JaxGpu(Jax):
    name = "jax-gpu"
    platform = "gpu"

    def device_name(self) -> str:
        return self.target.device_kind


@dataclasses.dataclass(frozen=True)
class _Slot:
    index: int


def _fill(x: Any, values: Any) -> Any:
    if isinstance(x, _Slot):
        return values[x.index]
    if hasattr(x, "_array_fields"):
        return rebuilt(lambda field: _fill(field, values), x)
    if isinstance(x, dict):
        return {key: _fill(value, values) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(_fill(value, values) for value in x)
    return x


class Cupy(Backend):
    name = "cupy"

    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy")
        if not self.cupy.cuda.is_available():
            pytest.skip("no CUDA device for CuPy")

    def device_name(self) -> str:
        runtime = self.cupy.cuda.runtime
        return runtime.getDeviceProperties(runtime.getDevice())["name"].decode()

    def convert(self, x: np.ndarray) -> Any:
        return self.cupy.asarray(x)

    def numpy(self, x: Any) -> np.ndarray:
        return self.cupy.asnumpy(x)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = map_arrays(self.numpy, [list(args), kwargs])
        result = function(*args, **kwargs)
        map_both(
            np.testing.assert_array_equal, before, map_arrays(self.numpy, [list(args), kwargs])
        )
        return result


class CupyDouble(Cupy):
    """The stand-in for CuPy, in a process that has installed it (`pytest --cupy-double`)."""

    name = "cupy-double"

    def __init__(self) -> None:
        if not cupy_double.is_installed():
            pytest.skip("the stand-in for CuPy is not installed in this process")
        self.cupy = sys.modules["cupy"]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call; refuse many host reads, and work that a device might do too early."""
        with cupy_double.recorded() as record:
            result = function(*args, **kwargs)
        assert len(record.reads) <= self.reads, f"{len(record.reads)} host reads: {record.reads}"
        violations = list(cupy_double.VIOLATIONS)
        cupy_double.VIOLATIONS.clear()
        assert not violations, violations
        return result

    reads = 50  # of several calls; those of one are counted in test_launches.py


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Where only other libraries run, and at length, coverage would only slow them down."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


class Dask(Backend):
    """Chunked along the last axis, which is that of the columns of S; computed by `numpy` only."""

    name = "dask"
    eager = False

    def __init__(self) -> None:
        self.dask = pytest.importorskip("dask")
        self.array = pytest.importorskip("dask.array")

    def convert(self, x: np.ndarray) -> Any:
        chunks = (-1,) * (x.ndim - 1) + (-(-x.shape[-1] // 3),) if x.ndim and x.size else -1
        return self.array.from_array(x, chunks=chunks)

    def numpy(self, x: Any) -> np.ndarray:
        with untraced():
            return np.asarray(x.compute(scheduler="synchronous"))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call, refuse a function that computes, and compute what all results share once."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            msg = "a Dask array was computed"
            raise AssertionError(msg)

        with self.dask.config.set(scheduler=refuse):
            result = function(*args, **kwargs)
        lazy: list[Any] = []
        map_arrays(lazy.append, result)
        with untraced():
            computed = iter(self.dask.persist(*lazy, scheduler="synchronous", traverse=False))
        return map_arrays(lambda _: next(computed), result)


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend,
        ReadOnly,
        Strict,
        StrictFloat32,
        Torch,
        TorchMeta,
        TorchCuda,
        Jax,
        JaxGpu,
        Dask,
        Cupy,
        CupyDouble,
    )
}

# Where each case is traced, in JAX also compiled, or runs the lines that it runs on another one.
THINNED = ("torch-meta", "jax", "jax-gpu", "dask", "numpy-readonly", "strict-float32")


def usable(name: str) -> bool:
    try:
        BACKENDS[name]()
    except pytest.skip.Exception:
        return False
    return True


def device_name() -> str:
    """Return the name of the GPU that is in use, as the first library that sees it says it."""
    return next(BACKENDS[name]().device_name() for name in ON_GPUS if usable(name))


def half_dtype(name: str) -> np.dtype:
    """Return NumPy's dtype of half precision; bfloat16 is that of ml_dtypes, which not all have."""
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name) if name == "bfloat16" else name)


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
