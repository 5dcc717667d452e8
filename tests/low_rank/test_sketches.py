"""The parts of sketched decompositions: widths, eigenpairs of a root, errors by fresh columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, narrow, random_array
from spectra import dense, needs, norm, orthonormal, power_law, psd, refused

from ngdla._backend.calls import ValueChecks
from ngdla.low_rank.nystrom_root import nystrom_root
from ngdla.low_rank.operand import hermitian_operand
from ngdla.low_rank.sketches import (
    SketchRequest,
    probed_error,
    sketch_options,
    sketch_root,
    sketch_widths,
)

D = 20


@pytest.mark.parametrize(
    ("passes", "rank", "known", "expected"),
    [
        (1, 4, 0, (0, 7)),  # all columns are fresh
        (1, 4, 5, (5, 3)),
        (2, 4, 0, (7, 3)),
        (2, 4, 9, (9, 3)),
        (3, 18, 0, (20, 0)),
        (1, 20, 0, (0, 20)),
        (2, 16, 0, (19, 1)),
        (1, 4, 20, (20, 0)),
    ],
)
def test_widths(passes: int, rank: int, known: int, expected: tuple[int, int]) -> None:
    """Never more than d columns, and `oversample` fresh ones as long as there is room."""
    assert sketch_widths(sketch_options("nystrom", passes, 3, "trace"), rank, known, D) == expected


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [("method", ValueError, "eigh"), ("tail", ValueError, 0), ("passes", ValueError, 0)]
    + [("passes", TypeError, "1"), ("oversample", ValueError, -1), ("oversample", TypeError, 1.0)],
)
def test_wrong_options(name: str, kind: type[Exception], value: Any) -> None:
    good = {"method": "sre", "passes": 1, "oversample": 0, "tail": "min"}
    assert sketch_options(**good) == tuple(good.values())
    refused(kind, name, lambda: sketch_options(**{**good, name: value}))


@pytest.mark.parametrize("known", [0, 6])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_columns_are_left_out_one_at_a_time(known: int, dtype: str) -> None:
    """The error is the root mean square of |(A - A_j) g_j|, with A_j made without g_j: no model."""
    rng = np.random.default_rng(8)
    A, p = psd(rng, power_law(D), dtype), 5
    basis = orthonormal(rng, D, known, dtype) if known else None
    fresh = random_array(rng, (D, p), dtype)
    options = sketch_options("nystrom", 1, p if known else 0, "trace")
    operand = hermitian_operand(A, None, None, "native", None)
    request = SketchRequest(operand, options, p, basis, fresh)
    sketch = sketch_root(request, ValueChecks(enabled=True))
    squares = []
    for j in range(p):
        others = np.delete(fresh, j, axis=1)
        Q = np.linalg.qr(others if basis is None else np.hstack([basis, others]))[0]
        B = nystrom_root(Q, A @ Q, U[dtype]).B
        squares.append(norm((A - B @ H(B)) @ fresh[:, j]) ** 2)
    assert float(sketch.error * operand.unit) == pytest.approx(np.mean(squares) ** 0.5, rel=1e-8)


def test_probed_error(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    """|(A - U diag(d) U^H) G|_F / sqrt(p)."""
    needs(backend, dtype)
    A, V = psd(rng, power_law(D), dtype), orthonormal(rng, D, 3, dtype)
    d = np.array([1, 0.5, 0.25], A.real.dtype)
    G = random_array(rng, (D, 4), dtype)
    like = backend.asarray(d)
    error = backend.call(probed_error, like, *(backend.asarray(x) for x in (V, G, A @ G)))
    expected = norm((A - narrow(dense(d, V))) @ G) / 2
    backend.assert_matches(
        error, np.asarray(expected), like=like, dtype=d.dtype.name, tolerance=D * U[dtype]
    )
