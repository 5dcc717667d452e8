"""Other ways to the largest eigenpairs of a positive semi-definite matrix, as users write them.

Each is a function of a NumPy array A and the rank, and returns eigenvalues and eigenvectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from .measuring import optional

Pairs = tuple[np.ndarray, np.ndarray]


def numpy_eigh(A: np.ndarray, rank: int) -> Pairs:
    """The full decomposition, which NumPy computes in float64 whatever A is."""
    values, U = np.linalg.eigh(A)
    return values[::-1][:rank], U[:, ::-1][:, :rank]


def scipy_evd(A: np.ndarray, rank: int) -> Pairs:
    """The full decomposition in the dtype of A."""
    values, U = scipy.linalg.eigh(A, driver="evd", check_finite=False)
    return values[::-1][:rank], U[:, ::-1][:, :rank]


def scipy_subset(A: np.ndarray, rank: int) -> Pairs:
    """The largest ones only, after the same tridiagonalisation."""
    subset = (len(A) - rank, len(A) - 1)
    values, U = scipy.linalg.eigh(A, subset_by_index=subset, driver="evr", check_finite=False)
    return values[::-1], U[:, ::-1]


def arpack(A: np.ndarray, rank: int) -> Pairs:
    """Lanczos with implicit restarts, to a tolerance that its users would choose here."""
    values, U = scipy.sparse.linalg.eigsh(A, k=rank, tol=1e-2)
    return values[::-1], U[:, ::-1]


def lobpcg(A: np.ndarray, rank: int) -> Pairs:
    """Ten steps of the locally optimal block preconditioned conjugate gradients."""
    X = np.random.default_rng(0).standard_normal((len(A), rank), dtype=A.dtype)
    with warnings.catch_warnings():  # it says that ten steps are not enough
        warnings.simplefilter("ignore")
        values, U = scipy.sparse.linalg.lobpcg(A, X, maxiter=10, largest=True)
    return values, U


def sklearn_svd(A: np.ndarray, rank: int) -> Pairs:
    """The randomized SVD of scikit-learn with its defaults."""
    extmath = optional("sklearn.utils.extmath")
    U, s, _ = extmath.randomized_svd(A, rank, random_state=0)
    return s, U


def torch_lowrank(A: np.ndarray, rank: int) -> Pairs:
    """The low-rank SVD of torch with its default of two iterations."""
    torch = optional("torch")
    torch.manual_seed(0)
    U, s, _ = torch.svd_lowrank(torch.from_numpy(A), q=rank)
    return s.numpy(), U.numpy()


PEERS: dict[str, Callable[[np.ndarray, int], Any]] = {
    "numpy.linalg.eigh": numpy_eigh,
    "scipy.linalg.eigh, evd": scipy_evd,
    "scipy.linalg.eigh, subset": scipy_subset,
    "scipy eigsh (ARPACK), tol 1e-2": arpack,
    "scipy lobpcg, 10 steps": lobpcg,
    "scikit-learn randomized_svd": sklearn_svd,
    "torch.svd_lowrank": torch_lowrank,
}


def brand_update(
    U: np.ndarray, values: np.ndarray, X: np.ndarray, decay: float, rank: int
) -> Pairs:
    """One symmetric update by M. Brand's scheme of decay U diag(values) U^T + (1 - decay) X^T X.

    As in B-KFAC, arXiv:2210.08494: project, thin QR of the rest, a decomposition of size rank + n,
    and truncation.
    """
    Y = np.sqrt(1 - decay) * X.T
    C = U.T @ Y
    Q, R = np.linalg.qr(Y - U @ C)
    rows = np.concatenate([C, R])
    core = rows @ rows.T
    core[: len(values), : len(values)] += np.diag(decay * values)
    w, V = scipy.linalg.eigh(core, driver="evd", check_finite=False)
    w, V = w[::-1][:rank], V[:, ::-1][:, :rank]
    return w, np.concatenate([U, Q], axis=1) @ V
