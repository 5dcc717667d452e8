"""Other ways to the same solutions, as their users write them: what ngdla is held against.

Each is a function of S, a right-hand side and the damping: v of (S^T S + damping) x = v, or f of
argmin |S x - f|^2 + damping |x|^2. They are written for n < m, and S is a NumPy array. What runs
on JAX is made by a function without arguments, takes JAX arrays and is compiled by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

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


def ridge(S: np.ndarray, f: np.ndarray, damping: float, *, copy: bool = True) -> np.ndarray:
    """Ridge regression of scikit-learn, which solves with the smaller Gram matrix too."""
    linear_model = optional("sklearn.linear_model")
    model = linear_model.Ridge(alpha=damping, solver="cholesky", fit_intercept=False, copy_X=copy)
    return model.fit(S, f).coef_


def by_lsmr(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    """SciPy's LSMR until it stands still, or 1000 steps."""
    options = {"atol": 0.0, "btol": 0.0, "conlim": 0.0, "maxiter": 1000}
    return scipy.sparse.linalg.lsmr(S, f, damp=damping**0.5, **options)[0]


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


# ----------------------------------------------------------------------------------- JAX

JaxPeer = Callable[[Any, Any, float], Any]


def published_in_jax() -> JaxPeer:
    """Algorithm 1 of arXiv:2310.17556 in the library of its authors."""
    jax = optional("jax")
    np_, linalg = jax.numpy, jax.scipy.linalg

    def solve(S: Any, v: Any, damping: float) -> Any:
        L = np_.linalg.cholesky(S @ S.T + damping * np_.eye(len(S), dtype=S.dtype))
        Q = linalg.solve_triangular(L, S, lower=True)
        return (v - Q.T @ (Q @ v)) / damping

    return solve


def in_sample_space(solve: Callable[[Any, Any], Any], S: Any, f: Any, damping: float) -> Any:
    """Return S^T W^-1 f with another library's solve of the dense W = S S^T + damping."""
    np_ = optional("jax").numpy
    return S.T @ solve(S @ S.T + damping * np_.eye(len(S), dtype=S.dtype), f)


def lineax_cholesky() -> JaxPeer:
    """Cholesky of the dense W by lineax, whose LSMR has no damping."""
    lineax = optional("lineax")

    def solve(W: Any, f: Any) -> Any:
        operator = lineax.MatrixLinearOperator(W, lineax.positive_semidefinite_tag)
        return lineax.linear_solve(operator, f, solver=lineax.Cholesky()).value

    return partial(in_sample_space, solve)


def netket_dense(name: str) -> JaxPeer:
    """A dense solver of NetKet on the kernel, as its driver VMC_SR applies it."""
    solver = getattr(optional("netket.optimizer.solver"), name)
    return partial(in_sample_space, lambda W, f: solver(W, f)[0])


def netket_sr() -> JaxPeer:
    """NetKet's preconditioner SR on a dense Jacobian, with its default, conjugate gradients."""
    qgt = optional("netket.optimizer.qgt.qgt_jacobian_dense")
    jax = optional("jax")

    def solve(S: Any, f: Any, damping: float) -> Any:
        operator = qgt.QGTJacobianDenseT(O=S, mode="real", diag_shift=damping)
        return operator.solve(jax.scipy.sparse.linalg.cg, S.T @ f)[0]

    return solve


def quantax_shift(name: str) -> JaxPeer:
    """A shifted solver of quantax, with its absolute shift alone, in its default float64."""
    solver = getattr(optional("quantax.optimizer.solver"), name)
    return lambda S, f, damping: solver(rshift=0.0, ashift=damping)(S, f)


OF_SOLVE = {"published algorithm": published, "SVD of S": by_svd, "SciPy by hand": handwritten}
OF_LSTSQ = {
    "scikit-learn Ridge": ridge,
    "numpy.linalg.lstsq": plain_lstsq,
    "torch.linalg.solve": torch_solve,
}
