"""Damped solve and damped least squares: the main entry points."""

from __future__ import annotations

from typing import Any, Literal, overload

from ngdla._backend.calls import Check, opened
from ngdla._backend.checks import require_flag
from ngdla._backend.mesh_axes import on_automatic_axes
from ngdla._backend.namespace import Array
from ngdla.score_matrices.column_blocks import score_matrix
from ngdla.score_matrices.score_matrix import ParameterVector, Scores

from .certificate import SolveInfo
from .methods import MethodName
from .precision import Precision
from .problem import Options
from .right_hand_side import LeastSquares, Solve
from .row_space import row_space_solve
from .solution import solve_problem

__all__ = ["damped_lstsq", "damped_solve"]


@overload
def damped_solve(
    S: Scores,
    v: ParameterVector,
    damping: float | Array,
    *,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    row_space: bool = False,
    check: Check = True,
    full_output: Literal[True],
) -> tuple[Any, SolveInfo]: ...
@overload
def damped_solve(
    S: Scores,
    v: ParameterVector,
    damping: float | Array,
    *,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    row_space: bool = False,
    check: Check = True,
    full_output: bool = False,
) -> Any: ...
@on_automatic_axes(exchange="longer")
def damped_solve(
    S: Scores,
    v: ParameterVector,
    damping: float | Array,
    *,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    row_space: bool = False,
    check: Check = True,
    full_output: bool = False,
) -> Any:
    r"""Return the damped natural-gradient step x with (S^H S + damping D) x = v.

    S is the matrix of scores itself. A Gram matrix S S^H or S^H S that has been formed already,
    with its damping inside, is a case for `hermitian_solve`: taken for S, it would be squared.

    The matrix is m x m, but only the smaller of the two Gram matrices of S is formed: with n < m,

    .. math:: x = D^{-1} (v - S^H W^{-1} S D^{-1} v) / \lambda, \quad W = S D^{-1} S^H + \lambda.

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree; real or complex
        Scores: one row for each of n samples, one column for each of m parameters, any n : m.
        A list or tuple holds column blocks of one matrix (layers), without batch axes; a tree (a
        dict, or what JAX or torch take for one) holds arrays ``(n, *shape)``, one for each
        parameter, and vectors are trees of arrays of these shapes. Dask arrays
        may be chunked along the last axis only, and stay lazy. float16 and bfloat16 are converted
        to float32 in chunks. Or a `ColumnStream`, `RowStream` or `ScoreOperator`; vectors are then
        single arrays. Or `ColumnShards` or `RowShards`, of which each of several ranks has a part.
    v : array, shape (..., m) or (..., m, k), or sequence of pieces (m_k,) or (m_k, k), or tree
        Right-hand side, or k of them. If v = S^H f with f at hand, `damped_lstsq` is faster and
        more accurate; without f see `row_space`. For real `S` complex `v` is allowed.
    damping : float or array, shape () or (...)
        Positive, in units of squared singular values of `S`.
    method : {"auto", "cholesky", "eigh", "svd", "qr", "cg"}
        Factor of the small matrix: Cholesky of the Gram matrix, its eigenvectors, or the singular
        vectors of `S` by SVD or QR, which do not square the condition number but copy `S` (SVD
        several times) and are many times slower. "cg": conjugate gradients with a randomized
        preconditioner, where the Gram matrix is too large. "auto": Cholesky, but "cg" for an
        operator without a Gram matrix.
    precision : {"auto", "native", "mixed", "split-tf32", "float32", "float64", "complex64", "complex128"}
        "native": all in the dtype of the result. "mixed": the factor in single precision, refined
        in the dtype of the result until that converges. "auto": native, but where the damping is
        too small for it, residuals, then also the Gram matrix, in double precision, at last QR
        (with method "auto" and `S` in memory), with a `PrecisionWarning`. A dtype: that of the
        factor; residuals are then computed in the better of both.
        "split-tf32": native, but the Gram matrix of a float32 `S` on an NVIDIA GPU comes from two
        products in TF32 of parts of `S`, with errors of at most (2^-21 + 4 u sqrt(m)) |s_i| |s_j|
        for its rows s_i, by which the step is judged; parts of `S` are copied, 256 MB or 1/8 of it
        at a time.
    refine : int
        Number of refinement sweeps. 0 costs about a factor sqrt(kappa) in accuracy; 2 helps only
        if damping / sigma_1^2 is below about 1e4 u. If the factor is only approximate (lower
        precision, or method "cg"), any value above 0 means: iterate until converged.
    metric : array, shape (..., m), optional
        Diagonal of D > 0, by default 1. For a sequence or tree `S` a number or an array for each
        part of it.
    null : array, shape (..., n) or (..., n, p), optional
        Orthonormal columns N with S^H N = 0, such as sqrt(p) for centred scores: they would make
        the Gram matrix exactly singular.
    row_space : bool
        v is S^H f for some f, and what it has outside of the row space of S is what rounding did to
        it: that is filtered out, by the eigenvectors of the float64 Gram matrix. For n < m, with
        `method` "auto" or "eigh"; neither refined nor linear in `v`.
    check : bool or "nan"
        True: values (NaN, Inf, signs) are tested, and a step that may err by more than half of its
        length is refused, all with one host read a call, and more where "auto" has to climb. Where
        nothing can be read, inside `jax.jit` and the like and of Dask arrays, refused steps are
        NaN. "nan": nothing is read, and refused steps are NaN everywhere. False: nothing is tested
        or refused; flags of a GPU may be read where the other way is twice the work.
    full_output : bool
        Also return a `SolveInfo`; costs two more products with `S`.

    Returns
    -------
    x : array or sequence or tree, of the shape of `v`
        Of the library and on the device of `S`, of dtype ``result_type(S, v)``.
    info : SolveInfo
        Only with ``full_output=True``: residual, backward error, error bound, step length.

    Raises
    ------
    TypeError
        Integer or object dtypes, sparse `S`, vectors of another form than `S`, mixed libraries.
    ValueError
        Shapes or Dask chunks that do not fit, mixed devices, empty arrays, unknown options; NaN or
        Inf; damping or metric that is not positive; `null` that is not one; |S|_F^2 or x beyond
        the range of the dtype; "split-tf32" of other dtypes, on other devices, or without a Gram
        matrix to be formed.
    numpy.linalg.LinAlgError
        If the damped Gram matrix is not positive definite in the chosen precision, or the step is
        refused in it. The same exception on every array library; ``precision="auto"`` goes on in
        higher precision, and warns where the last one does not suffice.

    Warns
    -----
    PrecisionWarning
        `precision="auto"` had to use a higher precision, or refinement stopped before it
        converged, or v, if it is S^H f, was rounded too coarsely for this damping.

    Notes
    -----
    Method: from x = v / damping (with D = 1) and y = 0, the solve and each sweep are
    ``w = -W^-1 (S x + damping y)``, ``x += S^H w``, ``y += w``; see `ngdla/damped/refinement.py`.
    Cost for n < m with "cholesky": n^2 m + n^3 / 3 + 4 n m (1 + refine) k flops, four times that
    for complex `S`; 1 + 2 (1 + refine) passes over S, one more to test `null`. Memory: n^2 + 4 m k
    numbers; no L^-1 S, no m x m matrix, no copy of S, but for "svd" and "qr". S is copied in chunks
    of 64 MB where dtypes differ, with `metric`, and for the Gram matrix where BLAS does not take
    its layout, such as S[:, ::2]; of complex NumPy arrays, for every slice that is not contiguous.
    Other products take views, and make sums of more than 2048 terms in runs where the layout calls
    for it; torch then copies 64 MB at a time of views with two strides, and JAX on the CPU 2048
    columns of more than 65536. For Dask the Gram matrix is a sum over chunks and one block,
    factored by one worker; each chunk is loaded once, and held from the Gram matrix to the last
    product, by all that is computed in one ``dask.compute(x, info)``.
    Precision: forward error about u sqrt(kappa) with one sweep, where kappa = (sigma_1^2 + damping)
    / damping and u kappa << 1. See `ngdla/damped/refusal.py` for how a step is judged.
    Differentiable in PyTorch and JAX by every method, also where singular values are equal;
    derivatives by the damping err by u |S| |f| / damping^2 where f is not in the range of S.
    Batches are stacked problems, not broadcast.

    References
    ----------
    Y. Chen, H. Xie, H. Wang, "Efficient numerical algorithm for large-scale damped natural
    gradient descent", arXiv:2310.17556 (2023), algorithm 1; without its explicit Q = L^-1 S.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, v = rng.standard_normal((50, 2000)), rng.standard_normal(2000)
    >>> x, info = damped_solve(S, v, 1e-3, full_output=True)
    >>> bool(np.linalg.norm(S.T @ (S @ x) + 1e-3 * x - v) < 1e-8 * np.linalg.norm(v))
    True
    >>> bool(info.converged)
    True
    """  # noqa: E501 - numpydoc takes the options in one line
    scores = score_matrix(S)
    options = Options(method, precision, refine, metric, null)
    with opened(scores.like, check, nan=True, ranks=scores.ranks) as checks:
        rhs = Solve.checked(scores, v)
        if row_space is not False:
            require_flag(row_space, "row_space")
        solver = row_space_solve if row_space else solve_problem
        return solver(scores, rhs, damping, options, checks, full_output=full_output)


@overload
def damped_lstsq(
    S: Scores,
    f: Array,
    damping: float | Array,
    *,
    x0: ParameterVector | None = None,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: Check = True,
    full_output: Literal[True],
) -> tuple[Any, SolveInfo]: ...
@overload
def damped_lstsq(
    S: Scores,
    f: Array,
    damping: float | Array,
    *,
    x0: ParameterVector | None = None,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: Check = True,
    full_output: bool = False,
) -> Any: ...
@on_automatic_axes(exchange="longer")
def damped_lstsq(
    S: Scores,
    f: Array,
    damping: float | Array,
    *,
    x0: ParameterVector | None = None,
    method: MethodName = "auto",
    precision: Precision = "auto",
    refine: int = 1,
    metric: Any = None,
    null: Array | None = None,
    check: Check = True,
    full_output: bool = False,
) -> Any:
    r"""Return argmin |S x - f|^2 + damping |x - x0|_D^2: ridge regression, minSR, SPRING.

    With n < m, in the sample space,

    .. math:: x = x_0 + D^{-1} S^H W^{-1} (f - S x_0), \quad W = S D^{-1} S^H + \lambda.

    Parameters
    ----------
    S : array, shape (..., n, m), or sequence of arrays, shapes (n, m_k), or tree; real or complex
        Scores or design matrix, as in `damped_solve`.
    f : array, shape (..., n) or (..., n, k)
        Right-hand side, or k of them. For real `S` complex `f` is allowed.
    damping : float or array, shape () or (...)
        Positive, in units of squared singular values of `S`.
    x0 : array, shape (..., m) or (..., m, k), or sequence of pieces, optional
        Prior mean, for SPRING momentum times the previous step; by default 0.
    method, precision, refine, metric, null, check
        As in `damped_solve`. A part of `f` along `null` does not reach x and is left out.
    full_output : bool
        Also return a `SolveInfo`; costs one more product with `S`, with `x0` two.

    Returns
    -------
    x : array or sequence, shape (..., m) or (..., m, k)
        Of the library and on the device of `S`, of dtype ``result_type(S, f, x0)``.
    info : SolveInfo
        Only with ``full_output=True``.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As `damped_solve`.

    Notes
    -----
    Method and cost as in `damped_solve`, with one product with `S` less where `x0` is None.
    More accurate, as it uses f itself: S^H f has lost digits. Forward error with one sweep about
    u sqrt(kappa); with n >= m up to u kappa where S has not full rank.

    References
    ----------
    A. Chen, M. Heyl, "Empowering deep neural quantum states through efficient optimization",
    Nature Physics 20 (2024), arXiv:2302.01941 (minSR, damping -> 0).
    G. Goldshlager, N. Abrahamsen, L. Lin, "A Kaczmarz-inspired approach to accelerate the
    optimization of neural network wavefunctions", arXiv:2401.10190 (2024) (SPRING, x0).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> S, f = rng.standard_normal((50, 2000)), rng.standard_normal(50)
    >>> x = damped_lstsq(S, f, 1e-3)
    >>> np.allclose(x, damped_solve(S, S.T @ f, 1e-3))
    True
    """
    scores = score_matrix(S)
    options = Options(method, precision, refine, metric, null)
    with opened(scores.like, check, nan=True, ranks=scores.ranks) as checks:
        rhs = LeastSquares.checked(scores, f, x0)
        return solve_problem(scores, rhs, damping, options, checks, full_output=full_output)
