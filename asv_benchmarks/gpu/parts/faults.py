"""What goes wrong in silence: buffers that are used again too early, and failed decompositions."""

from __future__ import annotations

from typing import Any

import numpy as np

import ngdla
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine
from asv_benchmarks.gpu.questions import indefinite_cholesky
from ngdla._backend.dtypes import unit_roundoff
from ngdla._backend.namespace import namespace
from ngdla._backend.spectral import eigh, svd

__all__ = ["failures", "pinned_buffers"]

_RUNS = 8
_TOLERANCE = 1e4  # in units of rounding; a block in the place of another is an error of order 1


def pinned_buffers(desk: Desk, engine: Engine) -> None:
    """Solve with a stream of host blocks, time and again, and with the same matrix on the device.

    The work on one block takes longer than the copy of the next, so that buffers of a pass are free
    for the next pass while the device still reads them, if nobody holds them.
    """
    n, width, count = (12, 8, 5) if desk.rehearsal else (8192, 2048, 5)
    rng = np.random.default_rng(0)
    blocks = [_complex_normal(rng, (n, width)) for _ in range(count)]
    f = engine.sent(_complex_normal(rng, (n,)))
    S = engine.sent(np.concatenate(blocks, axis=1))
    damping = 0.5 * S.shape[1]  # single precision is enough
    reference = engine.numpy(ngdla.damped_lstsq(S, f, damping))
    stream = ngdla.ColumnStream(lambda: iter(blocks), tuple(S.shape), dtype="complex64", like=f)
    allowed = _TOLERANCE * unit_roundoff("complex64")
    for run in range(_RUNS):
        if desk.over():
            return
        x = engine.numpy(ngdla.damped_lstsq(stream, f, damping))
        error = float(np.linalg.norm(x - reference) / np.linalg.norm(reference))
        desk.add("errors", {"run": run, "error": error})
        if not error <= allowed:
            desk.fault(f"run {run} of a stream differs from the array by {error:.1e}")


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    parts = (rng.standard_normal(shape, dtype="float32") for _ in range(2))
    real, imaginary = parts
    return real + np.complex64(1j) * imaginary


def failures(desk: Desk, engine: Engine) -> None:
    """Look at what decompositions leave of NaN and of indefinite matrices, and who notices."""
    n = 16 if desk.rehearsal else 256
    for dtype in ("float32", "float64", "complex64", "complex128"):
        A = engine.normal((n, n), dtype, 0)
        A = A + namespace(A).conj(namespace(A).matrix_transpose(A))
        A[n // 2, n // 3] = A[n // 3, n // 2] = float("nan")
        for name, ours, theirs in (
            ("eigh", lambda A: eigh(A)[0], lambda A: namespace(A).linalg.eigh(A)[0]),
            ("svd", lambda A: svd(A)[1], lambda A: namespace(A).linalg.svd(A)[1]),
        ):
            row = {"call": name, "dtype": dtype, "library": _left(theirs, A)}
            row["ngdla"] = _left(ours, A)
            desk.add("of_nan", row)
            if row["ngdla"] != "NaN":
                desk.fault(f"ngdla's {name} of NaN in {dtype}: {row['ngdla']}")
        if engine.name == "cupy":
            desk.add("potrf", {"dtype": dtype, "n": n} | _potrf(dtype, n))
    sentence, numbers = indefinite_cholesky(engine, desk.plan.questions)
    title = "Is a failed Cholesky factorisation noticed?"
    row = {"question": title, "library": engine.name, "answer": sentence, "numbers": numbers}
    desk.add("questions", row)
    for row in numbers:
        if row["accepted"] == row["matrix"].startswith("indefinite"):
            desk.fault(f"Cholesky of {row['dtype']}, {row['matrix']}: accepted: {row['accepted']}")


def _left(function: Any, A: Array) -> str:
    """Return what a call leaves: NaN, finite numbers (garbage), some of each, or an error."""
    xp = namespace(A)
    try:
        finite = xp.isfinite(function(A))
    except Exception as error:  # noqa: BLE001 - raising is one of the answers
        return f"raises {type(error).__name__}"
    if bool(xp.all(finite)):
        return "finite"
    return "finite in part" if bool(xp.any(finite)) else "NaN"


def _potrf(dtype: str, n: int) -> dict[str, Any]:
    """Call potrf itself with a matrix whose leading minor of order n // 2 + 1 is negative."""
    import cupy
    from cupy_backends.cuda.libs import cublas, cusolver

    letter = {"float32": "s", "float64": "d", "complex64": "c", "complex128": "z"}[dtype]
    size, potrf = (getattr(cusolver, f"{letter}potrf{end}") for end in ("_bufferSize", ""))
    A = cupy.eye(n, dtype=dtype)
    A[n // 2, n // 2] = -1
    L, upper = A.copy(), cublas.CUBLAS_FILL_MODE_UPPER
    handle, info = cupy.cuda.device.get_cusolver_handle(), cupy.full(1, -99, dtype="int32")
    length = size(handle, upper, n, L.data.ptr, n)
    workspace = cupy.empty(length, dtype=dtype)
    pointers = L.data.ptr, n, workspace.data.ptr, length, info.data.ptr
    potrf(handle, upper, n, *pointers)
    return {
        "dev_info": int(info[0]),
        "expected": n // 2 + 1,
        "finite": bool(cupy.isfinite(L).all()),
        "rest_untouched": bool((L[n // 2 :, n // 2 :] == A[n // 2 :, n // 2 :]).all()),
    }
