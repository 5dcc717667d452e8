"""Precision and warnings inside of the library, and that they are restored."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from backends import inside
from references import U, random_array

import ngdla
from ngdla._backend import products
from ngdla._backend.gram import gram
from ngdla._backend.settings import library_settings
from ngdla._backend.shared_setting import SharedSetting


def test_float32_products_of_torch_stay_float32(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (256, 3000), "float32"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        G = inside(gram)(S)
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = S.double() @ S.double().mT
    assert torch.linalg.matrix_norm(G - exact) < 1e-6 * torch.linalg.matrix_norm(exact)


def test_float32_products_of_torch_restore_settings_after_an_error() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ZeroDivisionError):
            inside(lambda S: 1 / 0)(torch.ones(2, 2))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


# What the precision of all of torch, of a back end and of its products is set to.
SET = list(itertools.product(["none", "ieee", "tf32"], repeat=3))


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("backend", ["cuda", "mkldnn"])
@pytest.mark.parametrize("values", SET, ids=" ".join)
def test_products_of_torch_follow_what_they_followed(
    values: tuple[str, ...], backend: str, tf32: bool
) -> None:
    """A setting "none" reads as what it follows, and is "none" again after a call."""
    torch = pytest.importorskip("torch")
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    levels = [("generic", "all"), (backend, "all"), (backend, "matmul")]

    def seen() -> list[str]:
        """Return how they read, and how as those above are changed."""
        found = [read(*level) for level in levels]
        for level, value in zip(levels[:2], values):
            for other in ("ieee", "tf32", "none"):
                write(*level, other)
                found += [read(*below) for below in levels]
            write(*level, value)
        return found

    try:
        for level, value in zip(levels, values):
            write(*level, value)
        before = seen()
        with library_settings(torch.ones(1), tf32=tf32):
            reduced = read(*levels[2]) in ("tf32", "bf16")
            assert reduced == (tf32 if backend == "cuda" else reduced and tf32)
            with library_settings(torch.ones(1)):
                assert read(*levels[2]) in ("ieee", "none")
        assert seen() == before
    finally:
        for level in levels:
            write(*level, "none")


def test_jax_products_ask_for_the_highest_precision() -> None:
    jax = pytest.importorskip("jax")
    S = jax.numpy.ones((4, 5), dtype="float32")

    def uses(function: Any) -> str:
        return str(jax.make_jaxpr(inside(function))(S))

    assert uses(gram).count("HIGHEST") >= 1
    assert "HIGHEST" in uses(lambda S: products.rmatvec(S, S[:, :1]))


def test_numpy_warnings_are_silent_inside_only() -> None:
    with library_settings(np.ones(1)):
        assert np.isnan(np.zeros(1) / 0.0).all()
    with pytest.warns(RuntimeWarning, match="invalid"):
        np.zeros(1) / np.zeros(1)


# -------------------------------------------------------------------------------- threads

WAIT = 10.0  # seconds, for another thread


class Caller(threading.Thread):
    """A thread that holds the settings from `start` to `leave`."""

    def __init__(self, like: Any, *, tf32: bool = False, fails: bool = False) -> None:
        super().__init__(daemon=True)
        self._settings, self._fails = library_settings(like, tf32=tf32), fails
        self._inside, self._leave = threading.Event(), threading.Event()

    def run(self) -> None:
        with contextlib.suppress(ZeroDivisionError), self._settings:
            self._inside.set()
            assert self._leave.wait(WAIT)
            assert not self._fails or 1 / 0

    def enter(self) -> None:
        self.start()
        assert self._inside.wait(WAIT)

    def leave(self) -> None:
        self._leave.set()
        self.join(WAIT)
        assert not self.is_alive()


@pytest.fixture
def reduced() -> Iterator[Any]:
    """An array of torch, whose products the user has reduced."""
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield torch.ones(1)
    precision = torch.backends.cuda.matmul.fp32_precision
    torch.set_float32_matmul_precision(before)
    assert precision == "tf32"  # as it was, after all have left


def of_products() -> tuple[str, str]:
    import torch

    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_one_call_that_ends_does_not_reduce_the_products_of_another(
    reduced: Any, first: int, fails: bool
) -> None:
    callers = [Caller(reduced, fails=fails), Caller(reduced)]
    for caller in callers:
        caller.enter()
    callers[first].leave()
    assert of_products() == ("ieee", "ieee")
    callers[1 - first].leave()


def test_nested_calls_in_several_threads(reduced: Any) -> None:
    other = Caller(reduced)
    with library_settings(reduced):
        with library_settings(reduced):
            other.enter()
        assert of_products() == ("ieee", "ieee")
    assert of_products() == ("ieee", "ieee")
    other.leave()


def test_full_precision_wins(reduced: Any) -> None:
    """Over calls in other threads; in one thread the innermost call counts."""
    full, lower = Caller(reduced), Caller(reduced, tf32=True)
    lower.enter()
    full.enter()
    assert of_products()[0] == "ieee"
    with library_settings(reduced, tf32=True):
        assert of_products()[0] == "ieee"
    full.leave()
    assert of_products()[0] == "tf32"
    with library_settings(reduced):
        assert of_products()[0] == "ieee"
        with library_settings(reduced, tf32=True):
            assert of_products()[0] == "tf32"
        assert of_products()[0] == "ieee"
    lower.leave()


def test_a_call_that_found_full_precision_keeps_it() -> None:
    """While another one, which allows less, comes and goes."""
    torch = pytest.importorskip("torch")
    before = of_products()
    with library_settings(torch.ones(1)):
        inside = of_products()
        lower = Caller(torch.ones(1), tf32=True)
        lower.enter()
        assert of_products() == inside
        lower.leave()
        assert of_products() == inside
    assert of_products() == before


def test_what_the_user_sets_during_a_call_stays(reduced: Any) -> None:
    import torch

    with library_settings(reduced):
        torch.set_float32_matmul_precision("medium")
    assert of_products()[1] == "bf16"
    torch.set_float32_matmul_precision("high")


def test_autocast_is_of_one_thread(reduced: Any) -> None:
    import torch

    other = Caller(reduced)
    other.enter()
    with torch.autocast("cpu"):
        with library_settings(reduced):
            assert not torch.is_autocast_enabled("cpu")
        other.leave()
        assert torch.is_autocast_enabled("cpu")


def test_many_calls_in_many_threads(reduced: Any) -> None:
    """Not one sees reduced products."""
    seen = set()

    def call() -> None:
        for _ in range(300):
            with library_settings(reduced):
                seen.add(of_products())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {("ieee", "ieee")}


def test_a_setting_that_cannot_be_written_is_not_held() -> None:
    def refuse(value: str) -> None:
        raise ZeroDivisionError

    setting = SharedSetting(lambda: "low", refuse, full="full", reduced="low", kind=str)
    for full in (True, False):
        with pytest.raises(ZeroDivisionError) if full else contextlib.nullcontext():
            setting.hold(0, full=full)
    setting.release(0)


@pytest.mark.cupy_double
@pytest.mark.parametrize("fails", [False, True])
def test_products_of_cupy_run_in_float32(fails: bool, rng: np.random.Generator) -> None:
    """And the compute type that the user has set is there again afterwards, also of an error."""
    import cupy
    from cupy._core import _routines_linalg as routines

    S = rng.standard_normal((3, 40)).astype("float32")
    before = routines.get_compute_type(np.float32)
    routines.set_compute_type(np.float32, routines.COMPUTE_TYPE_TF32)
    try:
        reduced = (cupy.asarray(S) @ cupy.asarray(S).T).get()
        G = ngdla.gram(cupy.asarray(S)).get()
        with contextlib.suppress(RuntimeError), library_settings(cupy.asarray(S)):
            assert routines.get_compute_type(np.float32) == routines.COMPUTE_TYPE_FP32
            if fails:
                raise RuntimeError
        assert routines.get_compute_type(np.float32) == routines.COMPUTE_TYPE_TF32
    finally:
        routines.set_compute_type(np.float32, before)
    exact = S.astype("float64") @ S.T
    assert np.max(np.abs(G - exact)) <= 40 * U["float32"] * np.max(exact)
    assert np.max(np.abs(reduced - exact)) > 40 * U["float32"] * np.max(exact)
