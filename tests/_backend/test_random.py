"""Test matrices: orthonormal, and equal on every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U
from spectra import refused

from ngdla._backend import random
from ngdla._backend.kept_arrays import KeptArrays
from ngdla._backend.random import gaussian, generator, orthonormal_columns, require_generator


def test_orthonormal_columns(backend: Backend, dtype: str) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    like = backend.asarray(np.zeros(2, dtype))

    def drawn(like: Any) -> Any:
        return orthonormal_columns(5, (2, 9, 4), like, dtype)

    Q = backend.call(drawn, like)
    reference = orthonormal_columns(5, (2, 9, 4), np.zeros(1), dtype)
    backend.assert_matches(Q, reference, like=like, dtype=dtype, tolerance=0.0)
    gram = H(reference.astype("complex128")) @ reference
    assert np.abs(gram - np.eye(4)).max() <= 20 * U[dtype]
    assert np.linalg.norm(reference - orthonormal_columns(6, (2, 9, 4), np.zeros(1), dtype)) > 1


def test_gaussian_numbers(backend: Backend, dtype: str) -> None:
    """Equal on all libraries, of mean square 1, real and imaginary parts alike."""
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    like = backend.asarray(np.zeros(2, dtype))

    def drawn(like: Any) -> Any:
        return gaussian(5, (300, 40), like, dtype)

    reference = gaussian(np.random.default_rng(5), (300, 40), np.zeros(1), dtype)
    result = backend.call(drawn, like)
    backend.assert_matches(result, reference, like=like, dtype=dtype, tolerance=0.0)
    spread = 5 / reference.size**0.5  # five standard deviations of a mean
    assert abs(np.mean(reference)) <= spread
    assert abs(np.mean(np.abs(reference) ** 2) - 1) <= 2**0.5 * spread
    if dtype.startswith("complex"):
        assert abs(np.mean(reference**2)) <= 2 * spread


def test_a_generator_goes_on() -> None:
    rng, like = generator(3), np.zeros(1)
    one, other = (gaussian(rng, (4,), like, "float64") for _ in range(2))
    assert generator(rng) is rng
    np.testing.assert_array_equal(one, gaussian(3, (4,), like, "float64"))
    assert np.all(one != other)


@pytest.mark.parametrize("rng", [0, 7, np.int32(7), np.random.default_rng(0)])
def test_what_a_generator_is_made_from(rng: Any) -> None:
    require_generator(rng)


@pytest.mark.parametrize(
    ("rng", "kind"),
    [(-1, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError), (None, TypeError)],
)
def test_what_no_generator_is_made_from(rng: Any, kind: type[Exception]) -> None:
    refused(kind, "rng", lambda: require_generator(rng))


def test_a_seed_is_drawn_from_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch: drawing takes the host as long as some decompositions. Memory is bounded."""
    torch = pytest.importorskip("torch")
    kept = KeptArrays(3000)
    monkeypatch.setattr(random, "_KEPT_ON_HOST", kept)
    drawn, like = [], torch.zeros(2)
    monkeypatch.setitem(
        random._DRAW, "gaussian", lambda rng, shape, dtype: drawn.append(shape) or np.ones(shape)
    )

    def count(rng: Any, shape: tuple[int, ...]) -> int:
        before = len(drawn)
        gaussian(rng, shape, like, "float64")
        return len(drawn) - before

    assert [count(5, (10, 10)) for _ in range(3)] == [1, 0, 0]
    assert [count(6, (10, 10)), count(5, (10, 9)), count(np.int64(5), (10, 10))] == [1, 1, 0]
    assert [count(7, (10, 10)), count(5, (10, 10)), count(6, (10, 10))] == [1, 0, 1]
    assert sum(x.nbytes for x in kept._kept.values()) <= 3000
    assert [count(5, (100, 10)) for _ in range(2)] == [1, 1]  # more than is kept
    assert [count(np.random.default_rng(5), (10, 10)) for _ in range(2)] == [1, 1]
    gaussian(6, (10, 10), like, "float64").add_(1.0)  # what is written into is drawn anew
    assert torch.all(gaussian(6, (10, 10), like, "float64") == 1)


def test_what_is_kept_is_for_all_code() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(7, 3, requires_grad=True)
    with torch.inference_mode():
        gaussian(11, (7, 3), x, "float32")

    def inner(x: Any) -> Any:
        return torch.sum(x * gaussian(11, (7, 3), x, "float32"))

    first = torch.func.grad(inner)(x.detach())
    inner(x).backward()
    torch.testing.assert_close(x.grad, first)
    stack = torch.func.vmap(inner)(torch.stack([x.detach(), 2 * x.detach()]))
    torch.testing.assert_close(stack[1], 2 * stack[0])
