"""Operations that a library has for more than one of the standard: equal to what they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, random_array
from sent_operations import kernels
from spectra import needs

from ngdla._backend import fused
from ngdla._backend.fused import (
    all_of,
    filled,
    finite_along,
    largest_along,
    not_negative,
    plus_multiple,
    plus_product,
)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_sums_with_products(
    batch: tuple[int, ...], backend: Backend, dtype: str, rng: np.random.Generator
) -> None:
    needs(backend, dtype)
    C, A, B, D = (
        random_array(rng, (*batch, *shape), dtype) for shape in ((4, 5), (4, 3), (3, 5), (4, 5))
    )
    factor = rng.standard_normal((*batch, 1, 1)).astype(C.real.dtype)
    given = [backend.asarray(x) for x in (C, A, B, D, factor)]
    for found, exact in (
        (backend.call(lambda C, A, B: plus_product(C, A, B, -1.0), *given[:3]), C - A @ B),
        (backend.call(plus_product, *given[:3]), C + A @ B),
        (backend.call(plus_multiple, given[0], given[4], given[3]), C + factor * D),
    ):
        backend.assert_matches(found, exact, like=given[0], dtype=dtype, tolerance=40 * U[dtype])


def test_numbers_in_the_place_of_others(valued_backend: Backend) -> None:
    x = valued_backend.asarray(np.float32([-2, 0, 3, np.nan, -np.inf, np.inf]))
    found = valued_backend.numpy(not_negative(x))
    np.testing.assert_array_equal(found, np.float32([0, 0, 3, np.nan, 0, np.inf]))
    found = valued_backend.numpy(filled(x, x <= 0, 7.0))
    np.testing.assert_array_equal(found, np.float32([7, 7, 3, np.nan, 7, np.inf]))


@pytest.mark.parametrize("size", [5, fused._FEW // 2])
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_what_is_not_finite(
    size: int, bad: float | None, dtype: str, valued_backend: Backend, rng: np.random.Generator
) -> None:
    x = random_array(rng, (3, size), dtype)
    x[0, 0] = np.finfo(np.float32).max * (1 + 1j if dtype == "complex64" else 1)
    if bad is not None:
        x[1, size - 1] = bad
    given = valued_backend.asarray(x)
    found = valued_backend.numpy(finite_along(given, -1))
    np.testing.assert_array_equal(found, [True, bad is None, True])
    for axis in (None, (0, 1)):
        assert bool(finite_along(given, axis)) is (bad is None)
    if dtype == "float32" and not np.isnan(x).any():  # XLA may lose NaN
        np.testing.assert_array_equal(
            valued_backend.numpy(largest_along(given, -1)), np.abs(x).max(axis=-1)
        )
    assert bool(all_of(finite_along(given, -1))) is (bad is None)
    assert bool(finite_along(given[:0, :], None))


def test_derivatives_are_those_of_the_plain_expressions(rng: np.random.Generator) -> None:
    """NaN in what is refused stays NaN in derivatives, and a 0 that is kept has one."""
    torch = pytest.importorskip("torch")
    x = torch.tensor([-1.0, 0.0, 2.0, float("nan")], dtype=torch.float64, requires_grad=True)
    not_negative(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 1, 1, 1])
    C, A, B = (torch.tensor(rng.standard_normal((3, 3)), requires_grad=True) for _ in range(3))
    torch.autograd.gradcheck(lambda *x: plus_product(*x, -1.0), (C, A, B))
    torch.autograd.gradcheck(lambda C, A, B: plus_multiple(C, A[:1, :1], B), (C, A, B))
    torch.autograd.gradgradcheck(plus_product, (C, A, B))

    def mapped(*x: Any) -> Any:
        return plus_multiple(plus_product(*x), x[0][:1, :1], x[1])

    stacks = [torch.tensor(rng.standard_normal((2, 3, 3))) for _ in range(3)]
    torch.testing.assert_close(torch.func.vmap(mapped)(*stacks), mapped_by_hand(*stacks))


def mapped_by_hand(C: Any, A: Any, B: Any) -> Any:
    return C + A @ B + C[:, :1, :1] * A


def test_one_operation_each() -> None:
    torch = pytest.importorskip("torch")
    x, flag = torch.randn(5, 5), torch.zeros(5, 5, dtype=torch.bool)
    for count, call in (
        (1, lambda: plus_product(x, x, x, -1.0)),
        (1, lambda: plus_multiple(x, x[0, 0], x)),
        (1, lambda: filled(x, flag, 1.0)),
        (1, lambda: not_negative(x)),
        (1, lambda: largest_along(x, -1)),
        (2, lambda: finite_along(x, None)),
        (0, lambda: all_of(flag[0, 0])),
    ):
        assert kernels(call) == count
