"""Products and factorisations of CuPy: what they copy, and that they are silent.

A failed factorisation raises nothing and returns finite numbers that mean nothing
(`cupyx.errstate(linalg="ignore")` is CuPy's default; cupyx/_ufunc_config.py). Copies, orders of
the results and routines are those of cupy/linalg/_decomposition.py, _eigenvalue.py, _solve.py,
cupyx/lapack.py and cupyx/scipy/linalg/_solve_triangular.py, version 14.2.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import record
from .arrays import made, ndarray, operand, view
from .functions import FUNCTIONS, function
from .pointers import multiplied, potrf, solved_triangular
from .streams import worked

__all__ = ["CUBLAS_PYTHON", "LAPACK", "LINALG", "SCIPY_LINALG", "compute_types"]

TBD, FP32, TF32 = 0, 4, 7  # cupy/_core/_routines_linalg.pyx has TBD, DEFAULT, PEDANTIC, ...
compute_types = {"float32": FP32}

LINALG: dict[str, Any] = {"LinAlgError": np.linalg.LinAlgError}
LAPACK: dict[str, Any] = {}
SCIPY_LINALG: dict[str, Any] = {}
CUBLAS_PYTHON: dict[str, Any] = {}


def _in(table: dict[str, Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def added(call: Callable[..., Any]) -> Callable[..., Any]:
        table[call.__name__] = call
        return call

    return added


# ----------------------------------------------------------------------------------- products


def _taken_by_cublas(A: ndarray) -> ndarray:
    """Return the matrix itself, or the C-ordered copy of `_mat_to_cublas_contiguous`."""
    return A if A.flags.forc else A.copy()


@function
def matmul(x1: Any, x2: Any, out: Any = None) -> Any:
    if not isinstance(x1, ndarray) or not isinstance(x2, ndarray):
        operand(x1), operand(x2)
        msg = "Argument has incorrect type (expected cupy.ndarray)"
        raise TypeError(msg)
    if x1.ndim == 0 or x2.ndim == 0:
        msg = "Scalar operands are not allowed, use '*' instead"
        raise ValueError(msg)
    dtype = np.promote_types(x1.dtype, x2.dtype)
    if max(x1.ndim, x2.ndim) <= 2:
        a, b = (
            _taken_by_cublas(x.astype(dtype, copy=False)) if x.ndim == 2 else x for x in (x1, x2)
        )
    else:
        a, b = (FUNCTIONS["ascontiguousarray"](x, dtype) for x in (x1, x2))
    tf32 = max(x1.ndim, x2.ndim) <= 2 and compute_types["float32"] == TF32
    left, right = operand(a), operand(b)
    if left.shape[-1] != right.shape[-2 if right.ndim > 1 else 0]:
        msg = f"shapes {left.shape} and {right.shape} not aligned"
        raise ValueError(msg)
    result = made("gemm", np.ascontiguousarray(multiplied(left, right, tf32=tf32)), a, b)
    if out is None:
        return result
    out[...] = result
    return out


@function
def dot(a: Any, b: Any, out: Any = None) -> Any:
    return matmul(a, b, out)


@function
def tensordot(a: ndarray, b: ndarray, axes: Any = 2) -> ndarray:
    return made("gemm", np.tensordot(operand(a), operand(b), axes), a, b, launches=3)


@function
def outer(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    return made("gemm", np.outer(operand(a), operand(b)), a, b)


@function
def kron(a: ndarray, b: ndarray) -> ndarray:
    return made("kron", np.kron(operand(a), operand(b)), a, b, launches=2)


# ------------------------------------------------------------------------------ cupy.cublas


@_in(CUBLAS_PYTHON)
def gemm(
    transa: str,
    transb: str,
    a: ndarray,
    b: ndarray,
    out: Any = None,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> ndarray:
    """H is no flag of a C-ordered operand: it is copied to Fortran order. So is a strided one."""
    assert a.ndim == b.ndim == 2
    assert a.dtype == b.dtype
    taken = [(transa, a), (transb, b)]
    if not all(flag in "NT" and x.flags.forc for flag, x in taken):
        taken = [
            (
                flag,
                x if (x.flags.forc and flag in "NT") or x.flags.f_contiguous else x.copy(order="F"),
            )
            for flag, x in taken
        ]
    left, right = (_applied(flag, operand(x)) for flag, x in taken)
    assert out is None
    return made("gemm", np.asfortranarray(alpha * (left @ right)), a, b)


def _applied(flag: str, A: np.ndarray) -> np.ndarray:
    return {"N": A, "T": A.T, "H": A.conj().T}[flag]


@_in(CUBLAS_PYTHON)
def syrk(
    trans: str,
    a: ndarray,
    out: Any = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    lower: bool = False,
) -> ndarray:
    """Only one triangle is written. Where `out` is not of the order of `a`, `a` is copied."""
    assert a.ndim == 2
    if out is None:
        n = a.shape[0] if trans == "N" else a.shape[1]
        out = FUNCTIONS["zeros"]((n, n), dtype=a.dtype, order="F")
        beta = 0.0
    if not a.flags.forc or (out.flags.c_contiguous and not out.flags.f_contiguous) != (
        a.flags.c_contiguous and not a.flags.f_contiguous
    ):
        a = a.copy(order="C" if out.flags.c_contiguous else "F")
    A = _applied(trans, operand(a))
    record.launched("syrk")
    out._on_current("syrk")
    worked([], [out.memory])
    n = len(A)
    chosen = np.tri(n, dtype=bool)
    np.copyto(
        out._host,
        alpha * (A @ A.T) + (beta * out._host if beta else 0),
        where=chosen if lower else chosen.T,
    )
    return out


# ------------------------------------------------------------------------- factorisations


@_in(LINALG)
def cholesky(a: ndarray) -> ndarray:
    if not a.size:
        return FUNCTIONS["empty"](a.shape, a.dtype)
    x = a.astype(a.dtype, order="C", copy=True)
    _potrf_of(x)
    return FUNCTIONS["tril"](x)


def _potrf_of(x: ndarray) -> None:
    if x.ndim > 2:
        record.launched("mat_ptrs")
        record.launched("potrfBatched")
    else:
        record.launched("potrf")
    worked([x.memory], [x.memory])
    for matrix in x._host.reshape(-1, *x.shape[-2:]):
        potrf(matrix, lower=True)


def _each(name: str, call: Callable[[np.ndarray], Any], A: np.ndarray) -> tuple[np.ndarray, ...]:
    """Apply a factorisation to each matrix; where it fails, garbage that is finite."""
    stack = A.reshape(-1, *A.shape[-2:])
    results = []
    for matrix in stack:
        try:
            if not np.all(np.isfinite(matrix)):
                msg = "not finite"
                raise np.linalg.LinAlgError(msg)
            results.append(tuple(call(matrix)))
        except np.linalg.LinAlgError:
            finite = call(np.eye(*matrix.shape, dtype=matrix.dtype))
            results.append(tuple(np.full_like(x, 0.5) for x in finite))
    fields = zip(*results, strict=True)
    return tuple(np.stack(x).reshape(A.shape[:-2] + x[0].shape) for x in map(list, fields))


@_in(LINALG)
def eigh(a: ndarray, UPLO: str = "L") -> tuple[ndarray, ndarray]:
    """Of one matrix by syevd, Fortran-ordered; of a stack by Jacobi rotations (syevjBatched)."""
    if not a.size:
        return FUNCTIONS["empty"](a.shape[:-1], a.real.dtype), FUNCTIONS["empty"](a.shape, a.dtype)
    v = a.astype(a.dtype, order="F" if a.ndim == 2 else "C", copy=True)
    if a.ndim > 2:
        v = FUNCTIONS["ascontiguousarray"](v.swapaxes(-2, -1))
    hosts = _each("eigh", lambda A: np.linalg.eigh(A, UPLO), operand(a))
    w = made("syevd" if a.ndim == 2 else "syevj", hosts[0], v)
    worked([], [v.memory])
    if a.ndim == 2:
        v._host[...] = hosts[1]
        return w, v
    v._host[...] = np.swapaxes(hosts[1], -2, -1)
    return w, v.swapaxes(-2, -1)


@_in(LINALG)
def eigvalsh(a: ndarray, UPLO: str = "L") -> ndarray:
    return eigh(a, UPLO)[0]


@_in(LINALG)
def svd(a: ndarray, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """By gesvd of a copy; a loop over the matrices of a stack of more than 32 rows or columns."""
    if not a.size:
        k = min(a.shape[-2:])
        empty = FUNCTIONS["empty"]
        s = empty((*a.shape[:-2], k), a.real.dtype)
        if not compute_uv:
            return s
        return (
            empty((*a.shape[:-1], k), a.dtype),
            s,
            empty((*a.shape[:-2], k, a.shape[-1]), a.dtype),
        )
    u, s, vh = _each("svd", lambda A: np.linalg.svd(A, full_matrices=full_matrices), operand(a))
    loops = 1 if a.ndim == 2 or max(a.shape[-2:]) <= 32 else math.prod(a.shape[:-2])
    values = made("gesvd", s, a, launches=2 * loops)
    if not compute_uv:
        return values
    tall = a.shape[-2] > a.shape[-1]
    order = np.asfortranarray if tall and a.ndim == 2 else np.ascontiguousarray
    return made("gesvd", order(u), launches=0), values, made("gesvd", order(vh), launches=0)


@_in(LINALG)
def qr(a: ndarray, mode: str = "reduced") -> Any:
    """geqrf of a transposed copy, orgqr; Q of one matrix is Fortran-ordered."""
    k = min(a.shape[-2:])
    if not a.size:
        empty = FUNCTIONS["empty"]
        r = empty((*a.shape[:-2], k, a.shape[-1]), a.dtype)
        return r if mode == "r" else (empty((*a.shape[:-1], k), a.dtype), r)
    q, r = _each("qr", np.linalg.qr, operand(a))
    R = made("geqrf", np.ascontiguousarray(r), a, launches=4)  # copy, geqrf, mask and triangle
    if mode == "r":
        return R
    Q = made("orgqr", np.asfortranarray(q) if a.ndim == 2 else q, a, launches=2)
    return Q, R


# ---------------------------------------------------------------------------------- solves


@_in(LINALG)
def solve(a: ndarray, b: ndarray) -> ndarray:
    if b.ndim > 1 and a.shape[:-1] != b.shape[:-1]:
        msg = "a must have (..., M, M) shape and b must have (..., M, K)"
        raise ValueError(msg)
    if not b.size:
        return FUNCTIONS["empty"](b.shape, b.dtype)
    A, B = operand(a), operand(b)
    X = np.empty_like(B)
    for index in np.ndindex(A.shape[:-2]):
        try:
            X[index] = np.linalg.solve(A[index], B[index])
        except np.linalg.LinAlgError:  # getrs divides by the pivot 0 that getrf left
            X[index] = np.nan
    return made(
        "gesv", np.asfortranarray(X) if a.ndim == 2 else X, a, b, launches=4 if a.ndim == 2 else 6
    )


@_in(LINALG)
def inv(a: ndarray) -> ndarray:
    return solve(
        a, made("eye", np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape).copy())
    )


@_in(LINALG)
def slogdet(a: ndarray) -> tuple[ndarray, ndarray]:
    with np.errstate(all="ignore"):
        sign, logabsdet = np.linalg.slogdet(operand(a))
    return made("getrf", np.array(sign), a, launches=6), made(
        "slogdet", np.array(logabsdet), a, launches=4
    )


@_in(LINALG)
def det(a: ndarray) -> ndarray:
    return made("det", np.array(np.linalg.det(operand(a))), a, launches=10)


@_in(LINALG)
def norm(x: ndarray, ord: Any = None, axis: Any = None, keepdims: bool = False) -> ndarray:
    """One kernel for the 2-norm of vectors and the Frobenius norm (cupy/linalg/_norms.py)."""
    with np.errstate(all="ignore"):
        result = np.array(np.linalg.norm(operand(x), ord, axis, keepdims))
    plain = ord in (None, 2, "fro") and not (ord == 2 and isinstance(axis, tuple))
    return made("norm", result, x, launches=1 if plain else 4)


def _not_in_the_double(name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        msg = f"the stand-in has no cupy.linalg.{name}"
        raise NotImplementedError(msg)

    return call


for _name in ("lstsq", "pinv", "matrix_rank", "cond"):
    LINALG[_name] = _not_in_the_double(_name)


@_in(SCIPY_LINALG)
def solve_triangular(
    a: ndarray, b: ndarray, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False,
    overwrite_b: bool = False, check_finite: bool = False,
) -> ndarray:  # fmt: skip
    """No broadcasting; b is cast to the dtype of a; a and b are copied to Fortran order."""
    if a.shape[:-2] != b.shape[: a.ndim - 2]:
        msg = "incompatible batch count"
        raise ValueError(msg)
    code = {"N": 0, "T": 1, "C": 2}.get(trans, trans)
    array = FUNCTIONS["array"]
    if a.ndim == 2:
        a = array(a, a.dtype, None, "F")
        b = array(b, a.dtype, not overwrite_b, "F")
        record.launched("trsm")
        worked([a.memory], [b.memory])
        b._host[...] = solved_triangular(
            operand(a), b._host, lower=lower, trans=code, unit=unit_diagonal
        )
        return b
    if code == 2 and a.dtype.kind == "c":
        a = FUNCTIONS["ascontiguousarray"](a.swapaxes(-2, -1)).swapaxes(-2, -1)
    else:
        a = FUNCTIONS["ascontiguousarray"](a)
    transposed = b.swapaxes(-2, -1).astype(a.dtype, copy=False).copy()
    result = [
        solved_triangular(A, B, lower=lower, trans=code, unit=unit_diagonal)
        for A, B in zip(
            operand(a).reshape(-1, *a.shape[-2:]),
            operand(b).reshape(-1, *b.shape[-2:]),
            strict=True,
        )
    ]
    host = np.swapaxes(np.stack(result).reshape(b.shape).astype(a.dtype), -2, -1).copy()
    return made("trsmBatched", host, a, transposed, launches=3).swapaxes(-2, -1)


@_in(LAPACK)
def potrs(L: ndarray, b: ndarray, lower: bool) -> ndarray:
    """b may be written into: where it is Fortran-ordered and of the dtype, it is."""
    shape = b.shape
    b = b.reshape(-1, 1) if b.ndim == 1 else b
    assert L.ndim == 2
    back = False
    if not L.flags.forc:
        L = FUNCTIONS["asfortranarray"](L)
    small = b.size < L.size
    if L.flags.c_contiguous and L.dtype.kind == "c":
        if small:
            b, back = b.conj(), True
        else:
            L = L.conj()
    if not b.flags.f_contiguous:
        b = FUNCTIONS["asfortranarray"](b)
    record.launched("potrs")
    worked([L.memory], [b.memory])
    first = L._host
    if L.dtype.kind == "c" and not back and L.flags.c_contiguous:
        first = L._host.conj()  # what the routine makes of it is the factor itself
    if back:
        X = b._host.conj()
    else:
        X = b._host
    code = (0, 2) if lower else (2, 0)
    for trans in code:
        X = solved_triangular(first, X, lower=lower, trans=trans)
    b._host[...] = X.conj() if back else X
    if back:
        b = b.conj()
    return view(b, b._host.reshape(shape))
