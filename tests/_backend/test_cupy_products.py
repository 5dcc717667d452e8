"""Products of CuPy's matrices as they lie: right in every layout, and without a copy."""

from __future__ import annotations

import itertools
from typing import Any

import cupy_double
import numpy as np
import pytest
from references import random_array

from ngdla._backend.choices import CHOICES

pytestmark = pytest.mark.cupy_double


def laid_out(cupy: Any, host: np.ndarray, layout: str) -> Any:
    """Return an array of CuPy with these values, in a layout."""
    *batch, p, q = host.shape
    if layout == "rows":
        place = cupy.empty(host.shape, host.dtype)
    elif layout == "columns":
        place = cupy.empty((*batch, q, p), host.dtype).swapaxes(-2, -1)
    elif layout == "middle columns":
        place = cupy.empty((*batch, p, q + 5), host.dtype)[..., 2 : q + 2]
    elif layout == "middle rows of columns":
        place = cupy.empty((*batch, q, p + 3), host.dtype)[..., 1 : p + 1].swapaxes(-2, -1)
    else:
        place = cupy.empty((*batch, p, 2 * q), host.dtype)[..., ::2]
    place[...] = cupy.asarray(host)
    return place


def formed(host: np.ndarray, form: str) -> np.ndarray:
    return {"N": host, "T": host.mT, "H": host.mT.conj()}[form]


TAKEN = ("rows", "columns", "middle columns", "middle rows of columns")


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_layout_and_form(rng: np.random.Generator, batch: Any, dtype: str) -> None:
    import cupy

    from ngdla._backend.cupy_products import product_cupy

    sizes = [(4, 6, 5), (1, 6, 5), (4, 1, 5), (4, 6, 1), (1, 1, 1), (0, 3, 2), (3, 0, 2)]
    for (p, k, q), left, right in itertools.product(sizes, "NTH", "NTH"):
        a = random_array(rng, (*batch, *((p, k) if left == "N" else (k, p))), dtype)
        b = random_array(rng, (*batch, *((k, q) if right == "N" else (q, k))), dtype)
        exact = formed(a, left) @ formed(b, right)
        layouts = (*TAKEN, "every second") if (p, k, q) in sizes[:2] else TAKEN[:1]
        for first, second in itertools.product(layouts, repeat=2):
            A, B = laid_out(cupy, a, first), laid_out(cupy, b, second)
            result = product_cupy(A, B, left, right)
            np.testing.assert_allclose(result.get(), exact, rtol=1e-4, atol=1e-5)
            assert result.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("batch", [(1,), (2, 1), (1, 1)], ids=str)
def test_one_matrix_of_a_stack_that_is_turned_round(
    rng: np.random.Generator, batch: Any, dtype: str
) -> None:
    """Its stride along the axis of length 1 is negative, and CuPy takes it for contiguous."""
    import cupy

    from ngdla._backend.cupy_products import product_cupy

    host = random_array(rng, (*batch, 3, 5), dtype)
    A = cupy.asarray(host)[..., ::-1, :, :]
    result = product_cupy(A, A, right="H").get()
    np.testing.assert_allclose(result, host @ host.mT.conj(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_nothing_is_copied(rng: np.random.Generator, batch: Any, dtype: str) -> None:
    import cupy

    from ngdla._backend.cupy_products import product_cupy

    a = random_array(rng, (*batch, 5, 40), dtype)
    for first, second in itertools.product(TAKEN, repeat=2):
        A, B = laid_out(cupy, a, first), laid_out(cupy, a, second)
        with cupy_double.recorded() as record:
            product_cupy(A, B, right="H")
        assert len(record.launches) == 1
        assert [size for _, size in record.allocations] == [25 * a.itemsize * (a.size // 200)]


def test_products_of_other_dtypes_are_those_of_cupy(rng: np.random.Generator) -> None:
    import cupy

    from ngdla._backend.cupy_products import product_cupy

    A, B = cupy.asarray(rng.random((3, 4))), cupy.asarray(rng.random((5, 4)).astype("float32"))
    result = product_cupy(A, B, right="H")
    assert result.dtype == "float64"
    np.testing.assert_allclose(result.get(), A.get() @ B.get().T)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_rows_that_share_memory(rng: np.random.Generator, dtype: str) -> None:
    """BLAS takes no step between rows that is 0, shorter than a row, or backwards."""
    import cupy

    from ngdla._backend.cupy_products import product_cupy

    line = cupy.asarray(random_array(rng, (6,), dtype))
    stack = cupy.asarray(random_array(rng, (3, 4, 6), dtype))
    views = [
        cupy.broadcast_to(line, (4, 6)),
        cupy.broadcast_to(line, (4, 6)).swapaxes(0, 1),
        cupy.broadcast_to(stack[0], stack.shape),
        stack[::-1],
        stack[:, ::-1],
        stack[..., ::-1],
    ]
    for A in views:
        a = A.get()
        exact = a @ a.mT.conj()
        np.testing.assert_allclose(product_cupy(A, A, right="H").get(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", CHOICES["gram of cupy"].ways)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 400), (3, 401), (600, 20), (2, 3, 400)])
def test_ways_to_a_gram_matrix(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, way: str
) -> None:
    import cupy

    from ngdla._backend.gram import gram

    s = random_array(rng, shape, dtype)
    for layout in (*TAKEN, "every second"):
        with CHOICES["gram of cupy"].taken(way):
            G = gram(laid_out(cupy, s, layout))
        assert G.dtype == dtype
        np.testing.assert_allclose(G.get(), s @ s.mT.conj(), rtol=1e-3, atol=1e-3)
