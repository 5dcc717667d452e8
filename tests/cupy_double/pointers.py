"""cuBLAS and cuSOLVER as CuPy binds them: routines that take addresses and write into memory.

`cupy_backends.cuda.libs.cublas` and `.cusolver` (version 14.2.0; signatures of their .pyx). All
matrices are Fortran-ordered with a leading dimension. An address must lie in memory that is
allocated, from the first to the last entry that the routine takes. Factorisations leave what they
had when they fail, as LAPACK does, and write `info`.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from . import record
from .devices import current_device
from .streams import Memory, worked

__all__ = ["COMPUTE", "CUBLAS", "CUSOLVER", "known", "potrf", "rounded_to_tf32"]

DTYPES = {"s": "float32", "d": "float64", "c": "complex64", "z": "complex128"}
CUDA_DTYPES = {0: "float32", 1: "float64", 4: "complex64", 5: "complex128"}

CUBLAS: dict[str, Any] = {
    "CUBLAS_OP_N": 0,
    "CUBLAS_OP_T": 1,
    "CUBLAS_OP_C": 2,
    "CUBLAS_FILL_MODE_LOWER": 0,
    "CUBLAS_FILL_MODE_UPPER": 1,
    "CUBLAS_SIDE_LEFT": 0,
    "CUBLAS_SIDE_RIGHT": 1,
    "CUBLAS_DIAG_NON_UNIT": 0,
    "CUBLAS_DIAG_UNIT": 1,
    "CUBLAS_GEMM_DEFAULT": -1,
    "CUBLAS_COMPUTE_32F": 68,
    "CUBLAS_COMPUTE_32F_PEDANTIC": 69,
    "CUBLAS_COMPUTE_32F_FAST_TF32": 77,
    "CUBLAS_COMPUTE_64F": 70,
    "CUBLAS_COMPUTE_64F_PEDANTIC": 71,
}
CUSOLVER: dict[str, Any] = {}
COMPUTE = {"float32": 68, "complex64": 68, "float64": 70, "complex128": 70}

_live: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
_starts: dict[int, int] = {}


def known(memory: Memory, host: np.ndarray) -> None:
    """Remember where the memory of an array lies."""
    start = host.__array_interface__["data"][0]
    _live[start], _starts[start] = memory, host.nbytes


def _memory(address: int, size: int, name: str) -> Memory:
    """Return the memory in which all these bytes lie."""
    for start, reference in _live.data.copy().items():  # collection and threads drop some
        memory = reference()
        if memory is None or start > address:
            continue
        if address + size <= start + _starts[start]:
            if memory.device_id != current_device():
                msg = f"{name}: memory of device {memory.device_id} on {current_device()}"
                raise RuntimeError(msg)
            return memory
    msg = f"{name}: {size} bytes at {address:#x} are not memory of the device"
    raise RuntimeError(msg)


def _host(address: int, size: int, dtype: Any) -> np.ndarray:
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype)


def _matrices(
    address: int,
    dtype: str,
    shape: tuple[int, int],
    ld: int,
    name: str,
    stride: int = 0,
    count: int = 1,
) -> tuple[list[np.ndarray], Memory]:
    """Return Fortran-ordered matrices at an address, writable, and the memory they lie in."""
    rows, columns = shape
    if ld < max(1, rows):
        msg = f"{name}: leading dimension {ld} of a matrix with {rows} rows"
        raise RuntimeError(msg)
    item = np.dtype(dtype).itemsize
    last = ld * (columns - 1) + rows if rows and columns else 0
    entries = stride * (count - 1) + last
    memory = _memory(address, entries * item, name)
    flat = _host(address, max(entries, 1) * item, dtype)
    strides = (item, ld * item)
    return [
        np.lib.stride_tricks.as_strided(flat[i * stride :], shape, strides) for i in range(count)
    ], memory


def _scalar(address: int, dtype: str) -> Any:
    return _host(address, np.dtype(dtype).itemsize, dtype)[0]


def _applied(operation: int, A: np.ndarray) -> np.ndarray:
    return (A, A.T, A.conj().T)[operation]


def rounded_to_tf32(A: np.ndarray) -> np.ndarray:
    """Return float32 numbers with 10 bits of the mantissa, rounded to the nearest even."""
    bits = np.ascontiguousarray(A).view(np.uint32)
    rounded = (bits + (0x0FFF + ((bits >> 13) & 1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(A), rounded.view(np.float32), A)


def multiplied(A: np.ndarray, B: np.ndarray, *, tf32: bool) -> np.ndarray:
    """Return A B as the device does: in TF32 operands lose bits, sums do not."""
    if tf32 and A.dtype == np.float32:
        A, B = rounded_to_tf32(A), rounded_to_tf32(B)
    with np.errstate(all="ignore"):
        return A @ B


# ------------------------------------------------------------------------------------ cuBLAS


def _shape(operation: int, rows: int, columns: int) -> tuple[int, int]:
    return (rows, columns) if operation == 0 else (columns, rows)


def gemm_strided_batched_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int,
    A: int, a_type: int, lda: int, stride_a: int, B: int, b_type: int, ldb: int, stride_b: int,
    beta: int, C: int, c_type: int, ldc: int, stride_c: int, count: int, compute: int, algo: int,
) -> None:  # fmt: skip
    """C_i = alpha op(A_i) op(B_i) + beta C_i; `compute` may be a type of data, as CuPy has it."""
    if not a_type == b_type == c_type:
        msg = "the stand-in multiplies matrices of one dtype"
        raise NotImplementedError(msg)
    dtype, name = CUDA_DTYPES[a_type], "gemmStridedBatchedEx"
    allowed = {a_type, COMPUTE[dtype], COMPUTE[dtype] + 1}
    if compute not in (allowed | {77} if dtype in ("float32", "complex64") else allowed):
        msg = f"CUBLAS_STATUS_NOT_SUPPORTED: compute type {compute} for {dtype}"
        raise RuntimeError(msg)
    lefts, left = _matrices(A, dtype, _shape(transa, m, k), lda, name, stride_a, count)
    rights, right = _matrices(B, dtype, _shape(transb, k, n), ldb, name, stride_b, count)
    results, result = _matrices(C, dtype, (m, n), ldc, name, stride_c, count)
    a, b = _scalar(alpha, dtype), _scalar(beta, dtype)
    record.launched(name)
    worked([left, right], [result])
    for X, Y, Z in zip(lefts, rights, results, strict=True):
        product = multiplied(_applied(transa, X), _applied(transb, Y), tf32=compute == 77)
        with np.errstate(all="ignore"):
            Z[...] = a * product if b == 0 else a * product + b * Z


def _syrk(letter: str) -> Callable[..., None]:
    def syrk(
        handle: int,
        uplo: int,
        trans: int,
        n: int,
        k: int,
        alpha: int,
        A: int,
        lda: int,
        beta: int,
        C: int,
        ldc: int,
    ) -> None:
        dtype, name = DTYPES[letter], f"{letter}syrk"
        (X,), left = _matrices(A, dtype, _shape(trans, n, k), lda, name)
        (Z,), result = _matrices(C, dtype, (n, n), ldc, name)
        a, b = _scalar(alpha, dtype), _scalar(beta, dtype)
        record.launched(name)
        worked([left], [result])
        X = _applied(min(trans, 1), X)
        with np.errstate(all="ignore"):
            new = a * (X @ X.T) + (b * Z if b else 0)
        chosen = np.tri(n, dtype=bool)
        np.copyto(Z, new, where=chosen if uplo == 0 else chosen.T)

    return syrk


def _trsm(letter: str) -> Callable[..., None]:
    def trsm(
        handle: int,
        side: int,
        uplo: int,
        trans: int,
        diag: int,
        m: int,
        n: int,
        alpha: int,
        A: int,
        lda: int,
        B: int,
        ldb: int,
    ) -> None:
        dtype, name = DTYPES[letter], f"{letter}trsm"
        if side:
            msg = "the stand-in solves from the left"
            raise NotImplementedError(msg)
        (L,), left = _matrices(A, dtype, (m, m), lda, name)
        (X,), result = _matrices(B, dtype, (m, n), ldb, name)
        record.launched(name)
        worked([left], [result])
        X[...] = solved_triangular(
            L, X * _scalar(alpha, dtype), lower=uplo == 0, trans=trans, unit=diag == 1
        )

    return trsm


def solved_triangular(
    L: np.ndarray, B: np.ndarray, *, lower: bool, trans: int, unit: bool = False
) -> np.ndarray:
    """Return op(L)^-1 B; a zero on the diagonal gives Inf and NaN, as on the device."""
    triangle = np.tril(L) if lower else np.triu(L)
    if not np.all(np.diagonal(triangle)) and not unit:
        return np.full_like(B, np.nan)
    with np.errstate(all="ignore"):
        return scipy.linalg.solve_triangular(
            triangle, B, lower=lower, trans=trans, unit_diagonal=unit, check_finite=False
        )


# ---------------------------------------------------------------------------------- cuSOLVER


def potrf(A: np.ndarray, *, lower: bool) -> int:
    """Factor in place, reading and writing one triangle; on failure the rest stays as it is."""
    n = len(A)
    T = A if lower else A.conj().T
    work = np.tril(T)
    with np.errstate(all="ignore"):
        info = _columns(work, n)
    keep = np.tri(n, dtype=bool)
    np.copyto(A, work if lower else work.conj().T, where=keep if lower else keep.T)
    return info


def _columns(L: np.ndarray, n: int) -> int:
    """Write the factor over the lower triangle of L; return the order of the minor that failed."""
    try:
        L[...] = np.linalg.cholesky(L)
        if np.all(np.isfinite(np.diagonal(L))):
            return 0
    except np.linalg.LinAlgError:
        pass
    for j in range(n):
        if not L[j, j].real > 0:
            return j + 1
        L[j, j] = np.sqrt(L[j, j].real)
        L[j + 1 :, j] /= L[j, j]
        L[j + 1 :, j + 1 :] -= np.tril(np.outer(L[j + 1 :, j], L[j + 1 :, j].conj()))
    return 0


def _potrf(letter: str) -> Callable[..., None]:
    def routine(
        handle: int, uplo: int, n: int, A: int, lda: int, work: int, size: int, info: int
    ) -> None:
        dtype, name = DTYPES[letter], f"{letter}potrf"
        (X,), matrix = _matrices(A, dtype, (n, n), lda, name)
        (flag,), place = _matrices(info, "int32", (1, 1), 1, name)
        _memory(work, size * np.dtype(dtype).itemsize, name)
        record.launched(name)
        worked([matrix], [matrix, place])
        flag[...] = potrf(X, lower=uplo == 0)

    return routine


def _potrf_batched(letter: str) -> Callable[..., None]:
    def routine(handle: int, uplo: int, n: int, A: int, lda: int, info: int, count: int) -> None:
        dtype, name = DTYPES[letter], f"{letter}potrfBatched"
        (places,), _ = _matrices(A, "uint64", (count, 1), count, name)
        (flags,), place = _matrices(info, "int32", (count, 1), count, name)
        record.launched(name)
        for address, flag in zip(places[:, 0], flags, strict=True):
            (X,), matrix = _matrices(int(address), dtype, (n, n), lda, name)
            worked([matrix], [matrix, place])
            flag[...] = potrf(X, lower=uplo == 0)

    return routine


def _potrs(letter: str) -> Callable[..., None]:
    def routine(
        handle: int, uplo: int, n: int, nrhs: int, A: int, lda: int, B: int, ldb: int, info: int
    ) -> None:
        dtype, name = DTYPES[letter], f"{letter}potrs"
        (L,), left = _matrices(A, dtype, (n, n), lda, name)
        (X,), result = _matrices(B, dtype, (n, nrhs), ldb, name)
        (flag,), place = _matrices(info, "int32", (1, 1), 1, name)
        record.launched(name)
        worked([left], [result, place])
        flag[...] = 0
        lower = uplo == 0
        first = solved_triangular(L, X, lower=lower, trans=0 if lower else 2)
        X[...] = solved_triangular(L, first, lower=lower, trans=2 if lower else 0)

    return routine


for _letter in DTYPES:
    CUBLAS[f"{_letter}trsm"] = _trsm(_letter)
    CUSOLVER[f"{_letter}potrf"] = _potrf(_letter)
    CUSOLVER[f"{_letter}potrf_bufferSize"] = lambda handle, uplo, n, A, lda: max(1, n)
    CUSOLVER[f"{_letter}potrs"] = _potrs(_letter)
    CUSOLVER[f"{_letter}potrfBatched"] = _potrf_batched(_letter)
for _letter in "sd":
    CUBLAS[f"{_letter}syrk"] = _syrk(_letter)
CUBLAS["gemmStridedBatchedEx"] = gemm_strided_batched_ex
