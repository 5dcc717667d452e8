"""Arrays of CuPy in one piece of memory: which are, what is put there, and what may not be."""

from __future__ import annotations

import cupy_double
import numpy as np
import pytest
from references import random_array

pytestmark = pytest.mark.cupy_double

SHAPES = [(2, 3), (0,), (4,), (3, 0), (1, 5)]


def test_views_of_one_piece_are_one_piece(rng: np.random.Generator) -> None:
    import cupy

    from ngdla._backend.pieces_cupy import divided, one_piece

    host = rng.standard_normal(15)
    piece = cupy.asarray(host)
    parts = divided(piece, SHAPES)
    assert [part.shape for part in parts] == SHAPES
    with cupy_double.recorded() as record:
        whole = one_piece(parts)
        whole += 1
    assert record.launches == ["add"]
    np.testing.assert_array_equal(piece.get(), host + 1)
    np.testing.assert_array_equal(parts[4].get().ravel(), host[10:] + 1)
    np.testing.assert_array_equal(one_piece(parts[2:]).get(), host[6:] + 1)


def test_other_arrays_are_not(rng: np.random.Generator) -> None:
    import cupy

    from ngdla._backend.pieces_cupy import divided, one_piece

    piece = cupy.asarray(rng.standard_normal(12))
    first, second, third = divided(piece, [(4,), (2, 2), (4,)])
    for arrays in (
        [first, third],
        [second, first],
        [first, second.T],
        [first, second.copy(), third],
        [first, second.view("int64")],
        [piece[::2], piece[1::2]],
        [piece[:0]],
    ):
        assert one_piece(arrays) is None


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_what_is_collected(rng: np.random.Generator, dtype: str) -> None:
    import cupy

    from ngdla._backend.pieces_cupy import collected

    host, other = random_array(rng, (6, 7), dtype), random_array(rng, (5,), dtype)
    hosts = [host[:2, 1:4], host[3:3], host[:, ::3], host.T[2:], np.diagonal(host), other]
    A, b = cupy.asarray(host), cupy.asarray(other)
    arrays = [A[:2, 1:4], A[3:3], A[:, ::3], A.T[2:], A.diagonal(), b]
    factors = [1.0, 5.0, 2.0, 0.1, 1.0, -1.0]
    for _ in range(2):  # by a map that is made, and by one that is there
        with cupy_double.recorded() as record:
            found = collected(arrays, factors)
        assert record.launches.count("ngdla_moved") == 2  # one for each memory
    assert not record.uploads
    exact = np.concatenate([factor * x.ravel() for factor, x in zip(factors, hosts)])
    np.testing.assert_allclose(found.get(), exact.astype(dtype), rtol=1e-6)
    real = collected([A.real[0], A.real[1]]).get()
    np.testing.assert_array_equal(real, host[:2].real.ravel())


def test_what_is_not_collected(rng: np.random.Generator) -> None:
    import cupy

    from ngdla._backend.pieces_cupy import collected

    A = cupy.asarray(rng.standard_normal((3, 4)))
    assert collected([A, A.copy()]) is None  # which takes as many launches as copies
    assert collected([A[:1], A[::-1]]) is None
    assert collected([cupy.zeros((2**21, 2)), A[:1], A[1:]]) is None


def test_what_is_assembled(rng: np.random.Generator) -> None:
    import cupy

    from ngdla._backend.pieces_cupy import assembled

    host = rng.standard_normal((5, 6))
    A = cupy.asarray(host)
    exact = np.zeros((4, 5))
    exact[:2, 3:], exact[2:, :3] = host[3:, 4:], host.T[1:3, :3]
    blocks, corners = [A[3:, 4:], A.T[1:3, :3], A[:0]], [(0, 3), (2, 0), (0, 0)]
    with cupy_double.recorded() as record:
        found = assembled(blocks, corners, (4, 5))
    assert record.launches.count("ngdla_moved") == 1
    np.testing.assert_array_equal(found.get(), exact)
    assert assembled([A[3:, 4:], A.T[1:3, :3].copy()], corners[:2], (4, 5)) is None
