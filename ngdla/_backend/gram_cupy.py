"""The ways to a Gram matrix S S^H of CuPy, none of which copies S.

Which of them is the fastest only a device can tell: see choices.py.
"""

from __future__ import annotations

from .array import AnyArray
from .choices import CHOICES
from .cupy_products import empty_gram, product_cupy, syrk_cupy, taken_by_cublas
from .runs import sum_over_copies

__all__ = ["gram_cupy"]

_LEAF = 512  # rows, below which halving leaves products that are too small
_FEW_COLUMNS = 8  # times as many columns as rows, below which ranges of them gain nothing
_RANGES = 16


def gram_cupy(S: AnyArray) -> AnyArray:
    """Return S S^H, (..., n, n), of a CuPy array (..., n, m)."""
    if not taken_by_cublas(S):
        return sum_over_copies(gram_cupy, S)
    return _WAYS[CHOICES["gram of cupy"].way](S)


def _by_product(S: AnyArray) -> AnyArray:
    return product_cupy(S, S, right="H")


def _by_halves(S: AnyArray) -> AnyArray:
    """From the Gram matrices of both halves of the rows, and one product of them."""
    if S.shape[-2] <= _LEAF:
        return _by_product(S)
    G = empty_gram(S)
    _fill(G, S)
    return G


def _fill(G: AnyArray, S: AnyArray) -> None:
    n = S.shape[-2]
    if n <= _LEAF:
        product_cupy(S, S, right="H", out=G)
        return
    h = n // 2
    top, bottom = S[..., :h, :], S[..., h:, :]
    product_cupy(bottom, top, right="H", out=G[..., h:, :h])
    _mirror(G[..., h:, :h], G[..., :h, h:])
    _fill(G[..., :h, :h], top)
    _fill(G[..., h:, h:], bottom)


def _mirror(block: AnyArray, place: AnyArray) -> None:
    """Write the adjoint of a block."""
    import cupy

    cupy.conjugate(block.swapaxes(-2, -1), out=place)


def _by_syrk(S: AnyArray) -> AnyArray:
    """One triangle by cuBLAS, where it has a routine that CuPy wraps: of one real matrix."""
    import cupy

    if S.ndim > 2 or S.dtype.kind == "c" or 0 in S.shape:
        return _by_halves(S)
    G = syrk_cupy(S)
    return cupy.where(cupy.tri(len(G), dtype=bool), G, G.T)


def _by_ranges(S: AnyArray) -> AnyArray:
    """The sum of the products of many ranges of columns, which are made at the same time."""
    *batch, n, m = S.shape
    if batch or m < _FEW_COLUMNS * n or m < _RANGES:
        return _by_halves(S)
    width = m // _RANGES
    whole = _RANGES * width
    ranges = S[:, :whole].reshape(n, _RANGES, width).swapaxes(0, 1)
    G = product_cupy(ranges, ranges, right="H").sum(axis=0)
    if whole < m:
        G += _by_product(S[:, whole:])
    return G


_WAYS = {
    "halves": _by_halves,
    "product": _by_product,
    "syrk": _by_syrk,
    "split-k": _by_ranges,
}
