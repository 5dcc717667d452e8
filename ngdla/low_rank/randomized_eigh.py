"""Few eigenpairs of a positive semi-definite matrix from few products (RS-KFAC, SRE-KFAC)."""

from __future__ import annotations

from typing import Any, Literal

from ngdla._backend.calls import Check, opened
from ngdla._backend.namespace import Array

from .low_rank_eigh import LowRankEigh, Tail, require_rank
from .operand import ProductPrecision, hermitian_operand, operand_like
from .rank_choice import choose_rank, rank_rule
from .sketch_columns import require_basis, require_finite_columns, require_rng
from .sketches import SketchMethod, SketchRequest, decompose, sketch_options

__all__ = ["randomized_eigh"]


def randomized_eigh(
    A: Any,
    rank: int | Literal["auto"],
    *,
    method: SketchMethod = "nystrom",
    passes: int = 2,
    oversample: int = 10,
    basis: Array | None = None,
    rng: Any = 0,
    tail: Tail = "trace",
    trace: Any = None,
    damping: float | None = None,
    target: float | None = None,
    max_rank: int | None = None,
    precision: ProductPrecision = "native",
    product_eps: float | None = None,
    check: Check = True,
) -> LowRankEigh:
    """Return the largest eigenpairs of a positive semi-definite matrix A from few products with it.

    Parameters
    ----------
    A : array, shape (..., d, d), real or complex
        Hermitian positive semi-definite, such as a Kronecker factor. Also an object with @, .shape
        and .dtype; then pass `trace` too, and `basis` or a test matrix of the library it takes.
    rank : int or "auto"
        The number of eigenpairs, 1 to d. "auto": as many as `damping` requires.
    method : {"nystrom", "rayleigh-ritz", "rsvd", "sre"}
        "nystrom": the Nystrom approximation with a stabilising shift. From the same products it is
        where "rayleigh-ritz" is after one more, and closer than "rsvd". "rayleigh-ritz": SRE-KFAC,
        made safe by orthonormal columns between products. "rsvd": RSVD-KFAC, left singular vectors
        and singular values of A Q. "sre": SRE-KFAC as published, without orthonormalisation, for
        comparison only: all eigenvalues below u^(1 / (passes - 1)) of the largest one are noise.
    passes : int, default 2
        Number of products with `A`. With a `basis` one is enough.
    oversample : int, default 10
        Gaussian columns beside the `rank` ones. The last product takes as many fresh ones, which
        show the error.
    basis : array, shape (..., d, k), optional
        Orthonormal columns to start from, as `eigenvectors` of an earlier, similar matrix. They
        take the place of as many Gaussian ones.
    rng : int, numpy.random.Generator, or array, shape (d, c)
        Seed of the Gaussian columns, which NumPy draws on the host, equal for all libraries; or
        the c standard normal columns themselves. Where one matrix follows another, give a
        Generator, or another seed each time: columns that the basis has seen are not fresh.
        In compiled code the columns are constants of each seed: pass those that change as arrays.
    tail : {"trace", "min", "zero"}
        Number that stands for each missing eigenvalue: their mean, from the trace of `A`, the
        smallest kept one, or 0. `LowRankEigh.truncate` changes it afterwards.
    trace : float or array, shape (...), optional
        The trace of `A`; by default it is read off the diagonal.
    damping : float, optional
        For rank="auto": the damping of the solves to come.
    target : float, optional
        For rank="auto": the error is to be at most target * damping. By default the rank is 1.5
        times the effective dimension tr A (A + damping)^-1.
    max_rank : int, optional
        For rank="auto", by default d / 4, rounded up to a multiple of 32: beyond that a dense
        decomposition is about as fast.
    precision : {"native", "tf32"}
        "tf32" lets the products with a float32 `A` drop to TF32 on devices that have it.
    product_eps : float, optional
        The unit roundoff of products with `A`, where it is not that of its dtype: the shift is 4
        of these.
    check : {True, "nan", False}
        Refuse a matrix that is seen not to be finite, Hermitian, or positive semi-definite: reads
        one flag on the host, of a GPU up to 25, which leave out work. "nan", and True where values
        cannot be read: what is refused is NaN. False: nothing is tested, and a GPU is read as for
        True.

    Returns
    -------
    LowRankEigh
        `eigenvalues` (descending), `eigenvectors`, `tail`, `trace`, and `error`, an estimate of
        the Frobenius norm of what is missing: by leaving out fresh columns one at a time, or, for
        the other methods, by multiplying fresh columns. With oversample=0 it is the bound
        tr A - sum d for "nystrom", NaN for the others.

    Raises
    ------
    TypeError
        If an argument has the wrong kind, dtype or library; with rank="auto" also under `jax.jit`
        and the like, where eigenvalues cannot be read.
    ValueError
        If `A` is not square, `rank` not from 1 to d, the shape of `basis` or of the test matrix
        another one; if `A` contains NaN or Inf, is not Hermitian (the message says by how much) or
        has negative eigenvalues beyond rounding, as far as the test matrix W shows it: W^H A W is
        looked at, not A itself.

    Warns
    -----
    RankWarning
        If rank="auto" stops at `max_rank`.

    Notes
    -----
    Cost: 2 d^2 (rank + 2 oversample) flops per product, and about 30 d (rank + 2 oversample)^2 for
    orthonormal columns, by products and small Cholesky factors. Memory: some nine arrays (..., d,
    rank + 2 oversample); no second d x d matrix.
    Precision: eigenvalues to about 4 u |A Omega|_F, eigenvectors orthonormal to a few u.
    rank="auto" doubles the rank until it is enough, each time starting from the basis found so far,
    and rounds it up to a multiple of 32. Each attempt reads one number more.

    References
    ----------
    J. A. Tropp, A. Yurtsever, M. Udell, V. Cevher, NIPS 2017, arXiv:1706.05736, algorithm 3.
    Z. Frangella, J. A. Tropp, M. Udell, SIAM J. Matrix Anal. Appl. 44, 718 (2023),
    arXiv:2110.02820.
    C. O. Puiu, "Randomized K-FACs", arXiv:2206.15397 (RSVD-KFAC and SRE-KFAC).
    N. Halko, P. G. Martinsson, J. A. Tropp, SIAM Review 53, 217 (2011), arXiv:0909.4061.
    E. N. Epperly, J. A. Tropp, SIAM J. Sci. Comput. 46, A508 (2024), arXiv:2207.06342 (leaving
    columns out).

    Examples
    --------
    >>> import numpy as np
    >>> Q = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100))).Q
    >>> A = (Q * 2.0 ** -np.arange(100)) @ Q.T
    >>> eigh = randomized_eigh(A, 4)
    >>> eigh.eigenvalues.round(4)
    array([1.   , 0.5  , 0.25 , 0.125])
    >>> x = eigh.solve(A @ np.ones(100), damping=1e-2)
    """
    options = sketch_options(method, passes, oversample, tail)
    require_rng(rng)
    columns = rng if basis is None else basis
    with opened(operand_like(A, columns), check, nan=True, waits=True) as checks:
        operand = hermitian_operand(A, trace, columns, precision, product_eps)
        shape = (*operand.batch, operand.size)
        basis = require_basis(basis, operand.like, shape, operand.dtype)
        rule = rank_rule(rank, operand, damping, target, max_rank, rng)

        def attempt(rank: int, basis: Array | None, rng: Any) -> LowRankEigh:
            require_finite_columns(checks, basis, rng)
            result = decompose(SketchRequest(operand, options, rank, basis, rng), checks)
            checks.read()
            return result

        if rule is not None:
            return choose_rank(attempt, rule, basis, tail)
        require_rank(rank, operand.size, "the size of `A`")
        return attempt(int(rank), basis, rng)
