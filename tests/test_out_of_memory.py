"""Memory that runs out in a call: what the error says, and that nothing is left behind.

On the stand-in for CuPy every public function gets less memory than it takes, from nothing beyond
its arguments on. On NumPy and torch allocations are made to fail.
"""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cupy_double
import kernels
import numpy as np
import pytest
from capabilities import FUNCTIONS
from cupy_double import devices

import ngdla
from ngdla._backend import gram
from ngdla._backend.calls import ValueChecks
from ngdla._backend.kept_arrays import give_up_kept
from ngdla._backend.out_of_memory import NamedMemoryError

LIBRARY = str(Path(ngdla.__file__).parent)
LIMITS = 24  # from none to all of what a call takes
ON_THE_HOST = {"weight_sharing_init"}  # takes no memory of the device
BYTES = re.compile(r"(asked|takes up to|takes) (for )?[\d,]+ bytes")
REMEDY = re.compile(r"(Pass (smaller|fewer)|free memory)")


@pytest.fixture
def cupy() -> Iterator[Any]:
    """Give the stand-in, with nothing kept by earlier calls and no garbage collection."""
    import cupy

    give_up_kept()
    gc.collect()
    gc.disable()
    yield cupy
    gc.enable()
    devices.limit(None)


def used(cupy: Any) -> int:
    return cupy.get_default_memory_pool().used_bytes()


def peak(call: Callable[[], Any]) -> int:
    """Return how much memory a call takes, of which nothing is kept."""
    call()
    give_up_kept()
    with cupy_double.recorded() as record:
        call()
    give_up_kept()
    return record.peak


def told(call: Callable[[], Any]) -> str:
    """Return the message of our error of a call, "" where the test itself is out of memory."""
    try:
        call()
    except NamedMemoryError as error:
        return str(error)
    except MemoryError as error:
        frames = traceback.extract_tb(error.__traceback__)
        assert not any(frame.filename.startswith(LIBRARY) for frame in frames)
    return ""


@pytest.mark.cupy_double
@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - ON_THE_HOST))
def test_no_memory_of_the_device(name: str, cupy: Any) -> None:
    call = partial(FUNCTIONS[name], *kernels.arguments(cupy.asarray))
    most, before = peak(call), used(cupy)
    expected = cupy.asnumpy(call())
    give_up_kept()
    messages = set()
    for k in range(LIMITS):
        devices.limit(before + most * k // LIMITS)
        messages.add(told(call))
        devices.limit(None)
        assert used(cupy) == before
    messages.discard("")  # of products of the test itself
    assert messages
    for message in messages:
        assert BYTES.search(message), message
        assert REMEDY.search(message), message
    np.testing.assert_array_equal(cupy.asnumpy(call()), expected)


@pytest.mark.cupy_double
@pytest.mark.parametrize("name", ["damped_solve", "damped_lstsq", "column_norms", "scores"])
def test_what_is_left_while_the_error_is_held(name: str, cupy: Any) -> None:
    call = partial(FUNCTIONS[name], *kernels.arguments(cupy.asarray))
    most, before = peak(call), used(cupy)
    for k in range(LIMITS):
        devices.limit(before + most * k // LIMITS)
        with pytest.raises(MemoryError) as caught:
            call()
        assert caught.value.__cause__ is not None
        assert used(cupy) == before


def method_calls(cupy: Any) -> dict[str, Callable[[], Any]]:
    S, v, f = kernels.arguments(cupy.asarray)
    factor = ngdla.damped_factor(S, 0.3)
    path = ngdla.damping_path(S, f, [0.3, 2.0])
    low_rank = ngdla.randomized_eigh(S @ S.T, 3)
    K = ngdla.inverse_free_init(11, 5, structures=("hierarchical", "dense"), like=S).K
    return {
        "DampedFactor.solve": partial(factor.solve, v),
        "DampedFactor.lstsq": partial(factor.lstsq, f),
        "DampedFactor.with_damping": partial(factor.with_damping, 2.0),
        "DampingPath.at_step": partial(path.at_step, 0.1),
        "LowRankEigh.solve": partial(low_rank.solve, f, 0.3),
        "StructuredMatrix.to_dense": K.to_dense,
        "StructuredMatrix.matmul": lambda: K @ K,
    }


@pytest.mark.cupy_double
def test_methods_are_named(cupy: Any) -> None:
    for name, call in method_calls(cupy).items():
        most, before = peak(call), used(cupy)
        devices.limit(before + most // 2)
        message = told(call)
        devices.limit(None)
        assert name.partition(".")[0] in message or "Gram matrix" in message, (name, message)
        assert used(cupy) == before
        call()


@pytest.mark.cupy_double
@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_parts_of_a_solve_are_named(method: str, cupy: Any) -> None:
    """The Gram matrix and what is made of it, each with its own bytes."""
    S = cupy.asarray(np.random.default_rng(0).standard_normal((64, 4096)))
    solve = partial(ngdla.damped_solve, S, S[0], 1.0, method=method, precision="native")
    most, before = peak(solve), used(cupy)
    parts = []
    for k in range(LIMITS):
        devices.limit(before + most * k // LIMITS)
        parts.append(told(solve).partition(" (64 x 64, float64) takes 32,768 bytes")[0])
    factor = {"cholesky": "Cholesky factor", "eigh": "eigendecomposition"}[method]
    assert "the Gram matrix of `S`" in parts
    assert f"the {factor} of the Gram matrix" in parts


@pytest.mark.cupy_double
def test_what_is_kept_makes_room(cupy: Any) -> None:
    """For a Gram matrix that then fits; and is no leak of a call that fails."""
    S = cupy.asarray(np.random.default_rng(0).standard_normal((64, 4096)))
    G, before = ngdla.gram(S), used(cupy)
    del G
    ngdla.randomized_svd(S[:, :64], 8)  # test matrices are kept
    kept = used(cupy) - (before - 8 * 64**2)
    assert kept > 0
    devices.limit(before + kept // 2)
    np.testing.assert_allclose(cupy.asnumpy(ngdla.gram(S)), cupy.asnumpy(S @ S.T), rtol=1e-12)
    assert used(cupy) < before


@pytest.fixture
def S(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((30, 400))


def assert_names_gram(call: Callable[[], Any]) -> None:
    with pytest.raises(
        MemoryError, match=r"the Gram matrix of `S` \(30 x 30, float64\) takes 7,200 bytes"
    ) as caught:
        call()
    assert REMEDY.search(str(caught.value))
    assert str(caught.value.__cause__).partition("\n")[0] in str(caught.value)


def test_no_memory_of_the_host(S: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(S: np.ndarray) -> np.ndarray:
        return np.empty(2**62, np.uint8)

    expected = ngdla.damped_solve(S, S[0], 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(gram, "_gram_numpy", fail)
        assert_names_gram(lambda: ngdla.gram(S))
        assert_names_gram(lambda: ngdla.damped_solve(S, S[0], 0.1))
        with pytest.raises(MemoryError, match=r"`sample_gram` asked for 4\.00 EiB, .* Pass"):
            ngdla.sample_gram(S, S)
    np.testing.assert_array_equal(ngdla.damped_solve(S, S[0], 0.1), expected)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_memory_for_torch(device: str, S: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    def fail(S: Any) -> Any:
        if device == "cpu":
            return torch.empty(2**60, dtype=torch.uint8)
        msg = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr(gram, "_gram_torch", fail)
    T = torch.from_numpy(S)
    assert_names_gram(lambda: ngdla.gram(T))
    assert_names_gram(lambda: ngdla.damped_lstsq(T, T[:, 0], 0.1))
    asked = {"cpu": "1152921504606846976 bytes", "cuda": "2.00 GiB"}[device]
    with pytest.raises(MemoryError, match=rf"`sample_gram` asked for {asked}, for which"):
        ngdla.sample_gram(T, T)


def test_no_memory_while_checks_are_read(S: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:

    def fail(self: Any) -> bool:
        raise MemoryError

    monkeypatch.setattr(ValueChecks, "read", fail)
    with pytest.raises(MemoryError, match=r"`gram` asked for more bytes than there are, for which"):
        ngdla.gram(S)
