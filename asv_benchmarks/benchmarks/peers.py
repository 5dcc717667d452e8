"""Other ways to the same solutions, as their users write them: what ngdla is held against.

Each is a function of S, a right-hand side and the damping: v of (S^T S + damping) x = v, or f of
argmin |S x - f|^2 + damping |x|^2. They are written for n < m, and S is a NumPy array.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg

from .measuring import optional


def published(S: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """Algorithm 1 of arXiv:2310.17556: Cholesky, explicit Q = L^-1 S."""
    L = np.linalg.cholesky(S @ S.T + damping * np.eye(len(S)))
    Q = scipy.linalg.solve_triangular(L, S, lower=True)
    return (v - Q.T @ (Q @ v)) / damping


def by_svd(S: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """The same solution from the thin SVD of S."""
    _, s, Vh = np.linalg.svd(S, full_matrices=False)
    return (v - Vh.T @ (s**2 / (s**2 + damping) * (Vh @ v))) / damping


def handwritten(S: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """Gram matrix, Cholesky factor, one sweep: what damped_solve does, in six lines."""
    W = S @ S.T
    W[np.diag_indices(len(W))] += damping
    factor = scipy.linalg.cho_factor(W, lower=True, check_finite=False)
    z = scipy.linalg.cho_solve(factor, S @ v, check_finite=False)
    x = (v - z @ S) / damping
    return x + scipy.linalg.cho_solve(factor, z - S @ x, check_finite=False) @ S


def ridge(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """Ridge regression of scikit-learn, which solves with the smaller Gram matrix too."""
    linear_model = optional("sklearn.linear_model")
    model = linear_model.Ridge(alpha=damping, solver="cholesky", fit_intercept=False)
    return model.fit(S, f).coef_


def plain_lstsq(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """The least-norm solution of [S, sqrt(damping) I] z = f, of which x is the first part."""
    augmented = np.hstack([S, np.sqrt(damping) * np.eye(len(S))])
    return np.linalg.lstsq(augmented, f, rcond=None)[0][: S.shape[1]]


def torch_solve(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """The sample-space formula with torch's general solver."""
    torch = optional("torch")
    T = torch.from_numpy(S)
    W = T @ T.mT + damping * torch.eye(len(T), dtype=T.dtype)
    return (T.mT @ torch.linalg.solve(W, torch.from_numpy(f))).numpy()


def parameter_space(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """The m x m matrix S^H S + damping, which textbooks factor."""
    A = S.conj().T @ S
    A[np.diag_indices(len(A))] += damping
    return scipy.linalg.solve(A, S.conj().T @ f, assume_a="pos", overwrite_a=True)


def by_eigenvectors(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """The kernel of minSR from the eigenvectors of S S^H, as variational codes have it."""
    values, U = np.linalg.eigh(S @ S.conj().T)
    return S.conj().T @ (U @ ((U.conj().T @ f) / (values + damping)))


OF_SOLVE = {"published algorithm": published, "SVD of S": by_svd, "SciPy by hand": handwritten}
OF_LSTSQ = {
    "scikit-learn Ridge": ridge,
    "numpy.linalg.lstsq": plain_lstsq,
    "torch.linalg.solve": torch_solve,
}
