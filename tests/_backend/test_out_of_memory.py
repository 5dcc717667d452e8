"""Memory that runs out is named, and what held it is let go of."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from ngdla._backend.out_of_memory import is_out_of_memory, naming_memory


def error_of(library: str) -> Exception:
    """Return what a library raises."""
    if library == "numpy":
        with pytest.raises(MemoryError) as caught:
            np.empty(2**62, np.uint8)
        return caught.value
    if library == "torch":
        torch = pytest.importorskip("torch")
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if library == "jax":
        jax = pytest.importorskip("jax")
        return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")
    if library == "cupy":
        memory = pytest.importorskip("cupy.cuda.memory", exc_type=ImportError)
        return memory.OutOfMemoryError(8, 0)
    runtime = type("CUDARuntimeError", (RuntimeError,), {})  # needs a driver to be made
    return runtime("cudaErrorMemoryAllocation: out of memory")


@pytest.mark.parametrize("library", ["numpy", "torch", "jax", "cupy", "cupy's pinned memory"])
def test_errors_of_libraries(library: str) -> None:
    error = error_of(library)
    assert is_out_of_memory(error)
    with (
        pytest.raises(
            MemoryError, match=r"^the part takes up to 1,234 bytes.* Do this\."
        ) as caught,
        naming_memory("the part", 1234, "Do this."),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert str(error).partition("\n")[0] in str(caught.value)


def test_other_errors_pass() -> None:
    for error in (ValueError("no"), RuntimeError("INTERNAL"), KeyboardInterrupt(), MemoryError):
        named = error is MemoryError
        assert is_out_of_memory(error() if named else error) == named
        if not named:
            with pytest.raises(type(error)) as caught, naming_memory("part", 1, "Remedy."):
                raise error
            assert caught.value is error
    assert not is_out_of_memory(None)


def test_the_innermost_part_is_named() -> None:
    with (
        pytest.raises(MemoryError, match=r"^inner takes up to 1 bytes, .* Less\.$"),
        naming_memory("outer", 2, "Much less."),
        naming_memory("inner", 1, "Less."),
    ):
        raise MemoryError


def test_memory_is_let_go_of() -> None:
    """While the error is looked at."""
    held: list[Any] = []

    def work() -> None:
        x = np.ones(3)
        held.append(weakref.ref(x))
        raise MemoryError

    with pytest.raises(MemoryError) as caught, naming_memory("part", 1, "Remedy."):
        work()
    gc.collect()
    assert caught.value.__cause__ is not None
    assert held[0]() is None
