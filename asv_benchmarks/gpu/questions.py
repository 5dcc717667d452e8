"""Questions that only a device answers; each answer says what to do about it.

A question is a function of an engine that returns one sentence and the numbers behind it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import ngdla
from ngdla._backend.choices import CHOICES
from ngdla._backend.dtypes import astype, dtype_name, unit_roundoff
from ngdla._backend.gram import gram, gram_by_halves
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, rmatvec
from ngdla._backend.spectral import eigh
from ngdla._backend.triangular import cholesky

from .answers import Answer, Sizes
from .decompositions import decomposition_costs, stacked_layers, tf32_decomposition
from .engines import Engine
from .sample_weights import positions, weighted_gradients
from .structured_steps import structured_steps, toeplitz_switch

__all__ = ["QUESTIONS", "Answer", "Question", "Sizes", "distance", "gram_times", "host_times"]


# ------------------------------------------------------------------------------ Gram matrices


def fastest_gram(engine: Engine, sizes: Sizes) -> Answer:
    """Compare one product, halves with several leaves, syrk, and what `ngdla.gram` takes now."""
    numbers = []
    for n, m in sizes.gram:
        for dtype in ("float32", "float64", "complex64"):
            S = engine.normal((n, m), dtype, 0)
            numbers.append({"n": n, "m": m, "dtype": dtype} | gram_times(engine, S, sizes.leaves))
            del S
            engine.release()
    real = [row for row in numbers if not row["dtype"].startswith("complex")]
    others = [row for row in numbers if row not in real]
    return Answer(f"real: {_ranked(real)}; complex: {_ranked(others)}", numbers)


def _ranked(rows: list[dict[str, Any]]) -> str:
    """Name the fastest way by its mean ratio to one product, and how often each is the fastest."""
    means = {
        way: statistics.geometric_mean(r["seconds"][way] / r["seconds"]["product"] for r in rows)
        for way in rows[0]["seconds"]
    }
    best = min(means, key=lambda way: means[way] if way != "ngdla" else math.inf)
    fastest = [row["fastest"] for row in rows]
    wins = ", ".join(f"{way} {fastest.count(way)}" for way in sorted(set(fastest)))
    return (
        f"{best} takes {means[best]:.2f} of one product on average, what ngdla takes now "
        f"{means['ngdla']:.2f} (fastest in how many of {len(rows)} cases: {wins})"
    )


def gram_times(engine: Engine, S: Array, leaves: tuple[int, ...]) -> dict[str, Any]:
    """Return the seconds of each way, its distance to one product, and the fastest one."""

    def product(S: Array) -> Array:
        return namespace(S).matmul(S, adjoint(S))

    def halves(S: Array, leaf: int) -> Array:
        return gram_by_halves(S, leaf=leaf)

    ways: dict[str, Callable[[Array], Array]] = {"product": product, "ngdla": gram}
    ways |= {f"halves {leaf}": partial(halves, leaf=leaf) for leaf in leaves}
    if engine.name == "cupy":
        ways |= {f"ngdla {way}": partial(_taken, way) for way in CHOICES["gram of cupy"].ways}
    reference = product(S)
    seconds, errors = {}, {}
    for way, function in ways.items():
        errors[way] = distance(function(S), reference)
        seconds[way] = engine.median(function, S, limit=0.15)
    allowed = 10 * math.sqrt(S.shape[1]) * unit_roundoff(dtype_name(S.dtype))
    right = {way: t for way, t in seconds.items() if errors[way] <= allowed and way != "ngdla"}
    fastest = min(right, key=lambda way: right[way])
    return {"seconds": seconds, "distance_to_product": errors, "fastest": fastest}


def _taken(way: str, S: Array) -> Array:
    with CHOICES["gram of cupy"].taken(way):
        return gram(S)


# ----------------------------------------------------------------------------- factorisations


def indefinite_cholesky(engine: Engine, sizes: Sizes) -> Answer:
    """Look at what potrf leaves of matrices that are not positive definite, and who notices."""
    n = sizes.factored[0]
    numbers = []
    for dtype in ("float32", "float64", "complex64"):
        for kind, spectrum in _spectra(n, unit_roundoff(dtype)).items():
            A = _hermitian(engine, spectrum, dtype)
            for stacked in (False, True):
                matrix = namespace(A).stack([A, A]) if stacked else A
                found = {"dtype": dtype, "matrix": kind, "stacked": stacked, "n": n}
                numbers.append(found | _factor_facts(engine, matrix))
    indefinite = [row for row in numbers if row["matrix"].startswith("indefinite")]
    wrong = [r for r in numbers if r["accepted"] == r["matrix"].startswith("indefinite")]
    silent = sum(row["raw_factor_finite"] for row in indefinite)
    return Answer(
        f"the library's own factor was finite, so silently wrong, for {silent} of "
        f"{len(indefinite)} indefinite matrices; ngdla judged {len(numbers) - len(wrong)} of "
        f"{len(numbers)} matrices rightly",
        numbers,
    )


def _spectra(n: int, u: float) -> dict[str, np.ndarray]:
    """Eigenvalues whose Cholesky factor breaks down early, late, barely, or not at all."""
    ones = np.ones(n)
    last, half = ones.copy(), ones.copy()
    last[-1], half[n // 2 :] = -1.0, -1.0
    return {
        "definite": ones + np.arange(n),
        "definite, condition 0.01 / (n u)": np.geomspace(1.0, 100 * n * u, n),
        "indefinite, one eigenvalue -1": last,
        "indefinite, half of them -1": half,
        "indefinite by 100 n u": np.append(ones[:-1], -100 * n * u),
    }


def _factor_facts(engine: Engine, A: Array) -> dict[str, Any]:
    xp = namespace(A)
    try:
        L = xp.linalg.cholesky(A + 0.0)
        finite, error = bool(xp.all(xp.isfinite(L))), distance(L @ adjoint(L), A)
        message = ""
    except Exception as raised:  # noqa: BLE001 - raising is one of the answers
        finite, error, message = False, math.nan, type(raised).__name__
    _, ok = cholesky(A + 0.0)
    return {
        "raw_factor_finite": finite,
        "raw_factor_distance": error,
        "raw_factor_raised": message,
        "accepted": bool(xp.all(ok)),
    }


def stacked_eigh(engine: Engine, sizes: Sizes) -> Answer:
    """Compare eigh of a stack (Jacobi in CuPy) with a loop over its matrices."""
    numbers = []
    for n in sizes.stacked:
        for dtype in ("float32", "float64"):
            X = engine.normal((sizes.stack, n, n), dtype, 0)
            A = X + namespace(X).matrix_transpose(X)
            numbers.append({"n": n, "dtype": dtype} | _eigh_times(engine, A))
    faster = [row["n"] for row in numbers if row["stack_over_loop"] > 1]
    verdict = "the stack is faster everywhere"
    if faster:
        verdict = f"the loop is faster in {len(faster)} of {len(numbers)} cases, from n = "
        verdict += str(min(faster))
    worst = max(row["stack_error_in_u"] / max(row["loop_error_in_u"], 1e-30) for row in numbers)
    return Answer(f"{verdict}; errors of the stack are at most {worst:.2g} times larger", numbers)


def _eigh_times(engine: Engine, A: Array) -> dict[str, Any]:
    def stack(A: Array) -> Any:
        return eigh(A)

    def loop(A: Array) -> Any:
        return [eigh(A[i, ...]) for i in range(A.shape[0])]

    u = unit_roundoff(dtype_name(A.dtype))
    w, U = stack(A)
    pairs = loop(A)
    times = {way.__name__: engine.median(way, A, limit=0.5) for way in (stack, loop)}
    errors = [_eigen_distance(A[i, ...], *pairs[i]) for i in range(len(pairs))]
    return {
        "stack_seconds": times["stack"],
        "loop_seconds": times["loop"],
        "stack_over_loop": times["stack"] / times["loop"],
        "stack_error_in_u": _eigen_distance(A, w, U) / u,
        "loop_error_in_u": max(errors) / u,
    }


def _eigen_distance(A: Array, w: Array, U: Array) -> float:
    xp = namespace(A)
    return distance(xp.matmul(U * xp.expand_dims(w, axis=-2), xp.matrix_transpose(U)), A)


def gesvda_accuracy(engine: Engine, sizes: Sizes) -> Answer:
    """Compare gesvda with gesvd on a tall matrix of known singular values, from 1 to 1e-6."""
    m, n = sizes.tall
    exact = np.geomspace(1.0, 1e-6, n)
    numbers = []
    for dtype in ("float32", "float64"):
        xp, A = _tall(engine, exact, m, dtype)
        u = unit_roundoff(dtype)
        for fast in (True, False):
            start = time.perf_counter()
            U, s = engine.tall_svd(A, fast=fast)
            engine.wait()
            seconds = time.perf_counter() - start
            error = xp.max(xp.abs(astype(s, "float64") - _like(engine, exact, A)))
            skew = rmatvec(U, U) - xp.eye(n, dtype=U.dtype, device=U.device)
            numbers.append(
                {
                    "dtype": dtype,
                    "driver": "gesvda" if fast else "gesvd",
                    "seconds_of_first_call": seconds,
                    "singular_values_in_u": float(error) / u,
                    "orthogonality_in_u": float(xp.max(xp.abs(skew))) / u,
                }
            )
    text = "; ".join(
        f"{r['dtype']} {r['driver']}: singular values to {r['singular_values_in_u']:.2g} u of the "
        f"largest, U^H U = I to {r['orthogonality_in_u']:.2g} u"
        for r in numbers
    )
    return Answer(text, numbers)


def cholesky_wait(engine: Engine, sizes: Sizes) -> Answer:
    """Time until `cholesky` and `cholesky_ex` hand back, and until the device is done."""
    import torch

    numbers = []
    for n in sizes.factored:
        A = _hermitian(engine, np.linspace(1.0, 2.0, n), "float64")
        row: dict[str, Any] = {"n": n}
        for factor in (torch.linalg.cholesky, torch.linalg.cholesky_ex):
            name = factor.__name__.removeprefix("linalg_")
            row |= {f"{name}_{what}": t for what, t in host_times(engine, factor, A).items()}
        numbers.append(row)
    last = numbers[-1]
    handed, done = (last[f"cholesky_{what}"] for what in ("handed_back", "done"))
    ex = last["cholesky_ex_handed_back"]
    return Answer(
        f"n = {last['n']}: cholesky hands back after {handed * 1e6:.0f} of {done * 1e6:.0f} "
        f"microseconds, cholesky_ex after {ex * 1e6:.0f}",
        numbers,
    )


def host_times(engine: Engine, function: Any, *arrays: Array) -> dict[str, float]:
    """Return the seconds until a call hands back, and until the device is done."""
    handed, done = [], []
    for _ in range(8):
        engine.wait()
        start = time.perf_counter()
        function(*arrays)
        handed.append(time.perf_counter() - start)
        engine.wait()
        done.append(time.perf_counter() - start)
    return {
        "handed_back": statistics.median(handed[1:]),
        "done": statistics.median(done[1:]),
    }


# --------------------------------------------------------------------- precision and host reads


def tf32_gram(engine: Engine, sizes: Sizes) -> Answer:
    """Allow TF32: what one product loses, and whether `ngdla.gram` stays as it is."""
    n, m = sizes.gram[0]
    S = engine.normal((n, m), "float32", 0)
    xp = namespace(S)
    double = astype(S, "float64")
    reference = xp.matmul(double, adjoint(double))

    def error(G: Array) -> float:
        return distance(astype(G, "float64"), reference)

    row: dict[str, Any] = {"n": n, "m": m}
    row["product_as_imported"] = error(xp.matmul(S, adjoint(S)))
    row["ngdla_as_imported"] = error(ngdla.gram(S))
    with engine.tf32():
        row["product_tf32"] = error(xp.matmul(S, adjoint(S)))
        row["ngdla_tf32"] = error(ngdla.gram(S))
    kept = row["ngdla_tf32"] <= 2 * row["ngdla_as_imported"]
    return Answer(
        f"one product: error {row['product_as_imported']:.1e} as imported, "
        f"{row['product_tf32']:.1e} in TF32; ngdla.gram: {row['ngdla_tf32']:.1e} with TF32 allowed,"
        f" {'unaffected' if kept else 'AFFECTED'}",
        [row],
    )


def host_read(engine: Engine, sizes: Sizes) -> Answer:
    """Time a solve with and without the one host read of `check=True`, from call to result."""
    numbers = []
    for n, m in sizes.solved:
        S, v = engine.normal((n, m), "float32", 0), engine.normal((m,), "float32", 1)
        row: dict[str, Any] = {"n": n, "m": m}
        for check in (True, False):

            def solve(S: Array, v: Array, check: bool = check) -> Array:
                return ngdla.damped_solve(S, v, 1e-3 * S.shape[1], check=check)

            times = host_times(engine, solve, S, v)
            row |= {f"check_{check}_{what}".lower(): t for what, t in times.items()}
        numbers.append(row)
    costs = [r["check_true_done"] - r["check_false_done"] for r in numbers]
    shapes = ", ".join(f"{r['n']} x {r['m']}" for r in numbers)
    text = ", ".join(f"{cost * 1e6:.0f}" for cost in costs)
    return Answer(f"check=True costs {text} microseconds more for {shapes}", numbers)


# -------------------------------------------------------------------------------------- tools


def distance(A: Array, B: Array) -> float:
    """Return |A - B| / |B| in the largest entry, infinite for NaN."""
    xp = namespace(A)
    ratio = float(xp.max(xp.abs(A - B)) / xp.max(xp.abs(B)))
    return ratio if math.isfinite(ratio) else math.inf


def _like(engine: Engine, x: np.ndarray, like: Array) -> Array:
    """Return NumPy numbers as an array of the engine's library on its device."""
    xp = namespace(like)
    return xp.asarray(x, device=like.device)


def _hermitian(engine: Engine, spectrum: np.ndarray, dtype: str) -> Array:
    """Return Q diag(spectrum) Q^H with a random unitary Q, rounded once."""
    double = "complex128" if dtype.startswith("complex") else "float64"
    X = engine.normal((len(spectrum), len(spectrum)), double, 0)
    xp = namespace(X)
    Q = xp.linalg.qr(X)[0]
    A = xp.matmul(Q * _like(engine, spectrum, X), adjoint(Q))
    return astype((A + adjoint(A)) / 2, dtype)


def _tall(engine: Engine, singular: np.ndarray, m: int, dtype: str) -> tuple[Any, Array]:
    n = len(singular)
    X, Y = engine.normal((m, n), "float64", 0), engine.normal((n, n), "float64", 1)
    xp = namespace(X)
    left, right = xp.linalg.qr(X)[0], xp.linalg.qr(Y)[0]
    return xp, astype(xp.matmul(left * _like(engine, singular, X), adjoint(right)), dtype)


Question = tuple[str, Callable[[Engine, Sizes], Answer], tuple[str, ...]]

# What is asked of whom; what decides most comes first.
QUESTIONS: tuple[Question, ...] = (
    ("Which way to a Gram matrix is the fastest?", fastest_gram, ("cupy", "torch")),
    ("Is a failed Cholesky factorisation noticed?", indefinite_cholesky, ("cupy", "torch")),
    ("What does the host read of check=True cost?", host_read, ("cupy", "torch")),
    ("eigh of a stack, or of each matrix?", stacked_eigh, ("cupy", "torch")),
    ("What does TF32 do to a Gram matrix?", tf32_gram, ("cupy", "torch", "jax")),
    ("Does torch.linalg.cholesky wait for the device?", cholesky_wait, ("torch",)),
    ("What does a randomized decomposition save?", decomposition_costs, ("cupy", "torch", "jax")),
    ("What does TF32 do to a decomposition?", tf32_decomposition, ("cupy", "torch", "jax")),
    ("A stack of layers: with eigenvectors or without?", stacked_layers, ("cupy", "torch", "jax")),
    ("What does a step of SINGD cost?", structured_steps, ("cupy", "torch", "jax")),
    ("Toeplitz: transforms or dense products?", toeplitz_switch, ("cupy", "torch", "jax")),
    ("What do weights of samples cost?", weighted_gradients, ("cupy", "torch", "jax")),
    ("Gradients of samples: pairs, or formed?", positions, ("cupy", "torch", "jax")),
    ("How accurate is gesvda?", gesvda_accuracy, ("cupy", "torch")),
)
