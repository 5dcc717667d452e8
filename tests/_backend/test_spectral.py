"""Eigen- and singular decompositions and R against what they decompose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, U, random_array

from ngdla._backend import spectral


@pytest.mark.parametrize("batch", [(), (2,)])
def test_eigh(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    A = random_array(rng, (*batch, 7, 7), dtype)
    A = A + H(A)
    like = backend.asarray(A)
    w, V = backend.call(spectral.eigh, like)
    backend.assert_kind(V, like=like, dtype=dtype, shape=A.shape)
    assert tuple(w.shape) == A.shape[:-1]
    if backend.has_values:
        w, V = backend.numpy(w), backend.numpy(V)
        assert w.dtype == np.real(A).dtype
        assert np.all(np.diff(w) >= 0)
        assert np.linalg.norm((V * w[..., None, :]) @ H(V) - A) <= 100 * U[dtype] * np.linalg.norm(
            A
        )


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (2, 4, 9)], ids=str)
def test_left_singular(
    backend: Backend, dtype: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes or shape[-2] > shape[-1]:
        pytest.skip("no such dtype here, or a tall matrix, which no caller has")
    A = random_array(rng, shape, dtype)
    s, V = backend.call(spectral.left_singular, backend.asarray(A))
    assert tuple(V.shape) == (*shape[:-1], shape[-2])
    if backend.has_values:
        s, V = backend.numpy(s), backend.numpy(V)
        G = A @ H(A)
        assert np.linalg.norm((V * s[..., None, :] ** 2) @ H(V) - G) <= 100 * U[
            dtype
        ] * np.linalg.norm(G)


def test_qr_r(backend: Backend, dtype: str, rng: np.random.Generator) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    A = random_array(rng, (2, 9, 4), dtype)
    R = backend.call(spectral.qr_r, backend.asarray(A))
    assert tuple(R.shape) == (2, 4, 4)
    if backend.has_values:
        R = backend.numpy(R)
        np.testing.assert_array_equal(R, np.triu(R))
        K = H(A) @ A
        assert np.linalg.norm(H(R) @ R - K) <= 100 * U[dtype] * np.linalg.norm(K)


def test_failures_are_nan(backend: Backend) -> None:
    if not backend.has_values:
        pytest.skip("no values")
    A = np.full((3, 3), np.nan, dtype=backend.dtypes[0])
    for function in (spectral.eigh, spectral.left_singular):
        values, vectors = backend.call(function, backend.asarray(A))
        assert np.all(np.isnan(backend.numpy(values)))
        assert tuple(vectors.shape) == (3, 3)


@pytest.mark.parametrize("raises", [True, False], ids=["error", "NaN"])
def test_single_precision_that_fails_is_made_in_double(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    """MKL finds no eigenvectors of some finite matrices in float32, and does not always say so."""
    torch = pytest.importorskip("torch")
    eigh = torch.linalg.eigh

    def failing(A: Any) -> Any:
        if A.dtype == torch.float32 and raises:
            raise torch.linalg.LinAlgError("did not converge")
        if A.dtype == torch.float32:
            return torch.full_like(A[..., 0], torch.nan), torch.full_like(A, torch.nan)
        return eigh(A)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    A = torch.eye(4)[None] * torch.arange(1.0, 4.0)[:, None, None]
    values, vectors = spectral.eigh(A)
    assert values.dtype == vectors.dtype == torch.float32
    assert torch.equal(values, torch.arange(1.0, 4.0)[:, None].expand(3, 4))
    assert torch.allclose(vectors @ vectors.mT, torch.eye(4))
    A[1, 0, 0] = torch.nan
    values, _ = spectral.eigh(A)
    assert values.isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("around", ["grad", "jacfwd", "hessian", "vmap", "grad of vmap", "dual"])
def test_single_precision_of_torch_in_transformations(around: str) -> None:
    """Their tensors have no memory that NumPy could see."""
    torch = pytest.importorskip("torch")
    A = torch.diag(torch.arange(1.0, 4.0))

    def largest(A: Any) -> Any:
        return spectral.eigh(A)[0][..., -1]

    def of_stack(A: Any) -> Any:
        return torch.vmap(largest)(torch.stack([A, 2 * A])).sum()

    derivative = torch.zeros(3, 3)
    derivative[2, 2] = 1.0
    if around == "vmap":
        assert torch.vmap(largest)(torch.stack([A, 2 * A])).tolist() == [3.0, 6.0]
    elif around == "dual":
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(A, torch.eye(3))
            assert torch.autograd.forward_ad.unpack_dual(largest(dual)).tangent.item() == 1.0
    elif around == "hessian":  # of 3 + h, at h = 0
        assert torch.func.hessian(lambda h: largest(A + h * torch.eye(3)))(torch.tensor(0.0)) == 0
    elif around == "grad of vmap":
        assert torch.equal(torch.func.grad(of_stack)(A), 3 * derivative)
    else:
        assert torch.equal(getattr(torch.func, around)(largest)(A), derivative)


def test_eigh_of_numpy_works_in_the_precision_of_its_argument(rng: np.random.Generator) -> None:
    """numpy.linalg would compute float32 in float64, and take the time for it."""
    A = random_array(rng, (40, 40), "float32")
    A = A + A.T
    w, _ = spectral.eigh(A)
    exact = np.linalg.eigvalsh(A.astype(np.float64))
    error = np.max(np.abs(w - exact)) / np.max(np.abs(exact))
    assert U["float32"] / 100 < error < 100 * U["float32"]


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_svd(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    A = random_array(rng, (*batch, 6, 6), dtype)
    like = backend.asarray(A)
    V, s, Wh = backend.call(spectral.svd, like)
    for factor in (V, Wh):
        backend.assert_kind(factor, like=like, dtype=dtype, shape=A.shape)
    real = np.real(A).dtype.name
    backend.assert_kind(s, like=like, dtype=real, shape=A.shape[:-1])
    if backend.has_values:
        V, s, Wh = (backend.numpy(x) for x in (V, s, Wh))
        assert np.all(np.diff(s) <= 0)
        rest = np.linalg.norm((V * s[..., None, :]) @ Wh - A)
        assert rest <= 100 * U[dtype] * np.linalg.norm(A)


def test_failures_of_svd_are_nan(backend: Backend) -> None:
    A = np.full((3, 3), np.nan, dtype=backend.dtypes[0])
    results = backend.call(spectral.svd, backend.asarray(A))
    assert [tuple(x.shape) for x in results] == [(3, 3), (3,), (3, 3)]
    if backend.has_values:
        assert np.isnan(backend.numpy(results[1])).all()
