"""Bounds on errors of truncated decompositions: against A, and of what is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .cases import BATCHES
from .exact import adjoint, eigen, frobenius, long, of_eigen
from .matrix_functions import average_of
from .problem import MARGIN, Check, Matrix, Problem

__all__ = ["CHECKS", "LEGAL", "unjudged"]

Outputs = dict[str, np.ndarray]
WITHIN = 8  # of the true error an estimate must be
PROBES = 10  # fresh columns from which an estimate is that good


def _roundings(p: Problem) -> float:
    return MARGIN * p.program.d * max(p.u, p.stored)


def unjudged(p: Problem) -> tuple[str, ...]:
    """Return the results that may be NaN."""
    options = dict(p.program.options)
    return ("error",) if options.get("oversample") == 0 else ()


def _spans(p: Problem) -> bool:
    """Tell whether a sketch spans all of A."""
    options = dict(p.program.options)
    return p.program.rank + options.get("oversample", 10) >= p.program.d


def _sketched(p: Problem, *, traced: bool) -> str:
    sign, method = p.A.sign(p.stored), dict(p.program.options).get("method", "nystrom")
    if method == "sre":
        return "either"
    seen = _spans(p) and method != "rsvd"
    return sign if seen or sign != "illegal" else "either"


def _eigenpairs(p: Problem, out: Outputs, A: Matrix) -> Iterator[Check]:
    """U is orthonormal, eigenvalues descend, none exceeds that of A; the trace is exact."""
    w, U, tail, trace = (long(out[k]) for k in ("eigenvalues", "eigenvectors", "tail", "trace"))
    roundings, method = _roundings(p), dict(p.program.options).get("method", "nystrom")
    yield Check("order", np.max(w[1:] - w[:-1], initial=-1), 0)
    yield Check("negative", -min(w[-1], tail), 0)
    yield Check("trace", abs(trace - np.trace(A.dense).real), roundings * A.size)
    if method == "sre" or A.sign(p.stored) != "legal":  # noise, or a sign that was not seen
        return
    yield Check("orthonormal", frobenius(adjoint(U) @ U - np.eye(len(w))), MARGIN * len(U) * p.u)
    yield Check("eigenvalues", np.max(w - A.values[::-1][: len(w)]), roundings * A.size)
    missing = frobenius(A.dense - of_eigen(w, U))
    least = frobenius(A.values[::-1][len(w) :])
    if _spans(p) and p.program.function == "randomized_eigh":
        yield Check("distance", missing, 1.01 * least + roundings * A.size)
    yield from _estimate(p, out, missing, roundings * A.size)


def _estimate(p: Problem, out: Outputs, missing: Any, rounded: Any) -> Iterator[Check]:
    """An estimated error is within a factor of 8 of the true one, where that is no rounding."""
    error = long(out["error"])
    if dict(p.program.options).get("oversample", PROBES) >= PROBES and missing > rounded:
        yield Check("estimate below", missing, WITHIN * error)
        yield Check("estimate above", error, WITHIN * missing)


def decomposition(p: Problem, out: Outputs) -> Iterator[Check]:
    """Judge randomized_eigh, and what is solved and multiplied with it."""
    yield from _eigenpairs(p, out, p.A)
    w, U, tail = (long(out[k]) for k in ("eigenvalues", "eigenvectors", "tail"))
    complete = len(w) == len(U)
    values = np.append(w, np.full(len(U) - len(w), tail))
    V, shift = long(p.arrays["V"]), p.damping
    UV = adjoint(U) @ V
    rest = 0 * V if complete else V - U @ UV
    solved = U @ (UV / (w + shift)[:, None]) + rest / (tail + shift)
    multiplied = U @ (UV * w[:, None]) + rest * tail
    yield from _applied(p, out, values, solved, multiplied)


def _applied(
    p: Problem, out: Outputs, values: np.ndarray, solved: Any, multiplied: Any
) -> Iterator[Check]:
    """Solutions, products and determinants are those of the model, to u over its smallest one."""
    V, shift, d = long(p.arrays["V"]), p.damping, p.program.d
    u, length, least, loss = MARGIN * d * p.u, frobenius(V), np.min(values) + shift, 1
    if p.program.function == "nystrom_factor":
        least = long(out["tail"]) + shift
        loss = (np.max(values) + shift) / least
    loss = loss + d * p.tiny / p.u / least  # compiled JAX code takes subnormal numbers for 0
    size = np.max(values) + d * p.tiny / p.u
    bound = u * loss * length / least + 8 * d * p.tiny
    yield Check("solve", frobenius(long(out["solve"]) - solved), bound)
    yield Check("matmul", frobenius(long(out["matmul"]) - multiplied), u * size * length)
    logs = np.log(values + shift)
    error = abs(long(out["logdet"]) - logs.sum())
    yield Check("logdet", error, u * (d * loss + frobenius(logs)))


def factor(p: Problem, out: Outputs) -> Iterator[Check]:
    """Judge nystrom_factor, whose solves lose u (|A| / (tail + damping))^2 at most."""
    B, tail, trace = (long(out[k]) for k in ("root", "tail", "trace"))
    roundings, A = _roundings(p), p.A
    yield Check("negative", -tail, 0)
    yield Check("trace", abs(trace - np.trace(A.dense).real), roundings * A.size)
    model = B @ adjoint(B)
    gram = frobenius(long(out["gram"]) - adjoint(B) @ B)
    yield Check("gram", gram, MARGIN * p.program.d * p.u * A.size)
    w, U = eigen(model)
    if A.sign(p.stored) == "legal":
        yield Check("eigenvalues", np.max(w - A.values), roundings * A.size)
        missing = frobenius(A.dense - model)
        if _spans(p):
            yield Check("distance", missing, roundings * A.size)
        yield from _estimate(p, out, missing, roundings * A.size)
    values, V = np.maximum(w, 0) + tail, long(p.arrays["V"])
    UV = adjoint(U) @ V
    solved = U @ (UV / (values + p.damping)[:, None])
    yield from _applied(p, out, values, solved, U @ (UV * values[:, None]))


def singular_values(p: Problem, out: Outputs) -> Iterator[Check]:
    """Judge randomized_svd by the exact singular values."""
    U, S, Vh = (long(out[k]) for k in ("U", "S", "Vh"))
    A = long(p.arrays["A"])
    if "singular" not in p.exact:
        gram = A @ adjoint(A) if len(A) <= A.shape[1] else adjoint(A) @ A
        p.exact["singular"] = np.sqrt(np.maximum(eigen(gram)[0][::-1], 0))
    exact, size = p.exact["singular"], p.A.size
    roundings, k = MARGIN * sum(A.shape) * p.u, len(S)
    for name, Q in (("U", U), ("V", adjoint(Vh))):
        yield Check(f"orthonormal {name}", frobenius(adjoint(Q) @ Q - np.eye(k)), roundings)
    yield Check("order", np.max(S[1:] - S[:-1], initial=-1), 0)
    yield Check("negative", -S[-1], 0)
    # squares of long doubles are known to 64 bits: 1e-10 of the largest singular value
    spare = 1e-9 * exact[0] if p.program.double else 0
    yield Check("singular values", np.max(S - exact[:k]), roundings * size + spare)
    missing = frobenius(A - (U * S) @ Vh)
    if k + p.program.option("oversample") >= min(A.shape):
        best = frobenius(exact[k:]) + (spare if k < len(exact) else 0)
        yield Check("distance", missing, 1.01 * best + roundings * size)
    yield from _estimate(p, out, missing, roundings * size)


def _average(p: Problem) -> tuple[Matrix, Any, list[bool]]:
    """Return the debiased average of all batches that are finite, and its weight."""
    if "average" not in p.exact:
        decay, total, weight, skipped = np.longdouble(p.program.option("decay")), 0, 0, []
        for X in p.arrays["X"]:
            skipped.append(not np.all(np.isfinite(X)))
            if not skipped[-1]:
                total, weight = decay * total + average_of(X), decay * weight + 1
        p.exact["average"] = Matrix(total / weight, p.program), weight, skipped
    return p.exact["average"]


def online(p: Problem, out: Outputs) -> Iterator[Check]:
    """Judge a state after four batches: trace, weight and sketch are exact, pairs are bounded."""
    A, weight, skipped = _average(p)
    for i in range(BATCHES):
        if bool(out[f"skipped.{i}"]) != skipped[i]:
            if not p.case.extreme:
                yield Check(f"skipped {i}", 1, 0)
            return
    yield Check("weight", abs(long(out["weight"]) - weight), MARGIN * p.u * weight)
    G = long(out["probes"])
    bound = BATCHES * MARGIN * (p.program.d + p.program.n) * p.u * A.size * frobenius(G)
    yield Check("sketch", frobenius(long(out["sketch"]) - A.dense @ G), bound)
    yield from _eigenpairs(p, out, A)
    if p.program.rank == p.program.d:
        w, U = long(out["eigenvalues"]), long(out["eigenvectors"])
        bound = BATCHES * _roundings(p) * A.size
        yield Check("distance", frobenius(A.dense - of_eigen(w, U)), bound)


def _batches_legal(p: Problem, *, traced: bool) -> str:
    bad = not np.all(np.isfinite(p.arrays["X"]))
    refused = bad and not traced and p.program.option("check") is True
    return "illegal" if refused else "legal"


def _any(p: Problem, *, traced: bool) -> str:
    return "legal"


CHECKS = {
    "randomized_eigh": decomposition,
    "nystrom_factor": factor,
    "randomized_svd": singular_values,
    "online_eigh": online,
}
LEGAL = {
    "randomized_eigh": _sketched,
    "nystrom_factor": _sketched,
    "randomized_svd": _any,
    "online_eigh": _batches_legal,
}
