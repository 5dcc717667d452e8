"""Bounds on errors of functions of matrices, of averages, Kronecker solves and sample weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .exact import eigen, expm, frobenius, long, of_eigen
from .problem import MARGIN, Check, Matrix, Problem

__all__ = ["CHECKS", "LEGAL", "average_of", "of_definite", "semi_definite"]

Outputs = dict[str, np.ndarray]


def semi_definite(p: Problem, *, traced: bool) -> str:
    """Judge the sign of A."""
    return p.A.sign(p.stored)


def of_definite(p: Problem, *, traced: bool) -> str:
    """Judge whether A is definite beyond rounding."""
    least, allowed = p.A.values[0], MARGIN * p.program.d * p.u * p.A.size
    if p.A.norm == 0 or least < -allowed:
        return "illegal"
    return "legal" if least > allowed else "either"


def _condition(p: Problem) -> Any:
    return p.A.size / max(p.A.values[0], np.longdouble(p.tiny) ** 2)


def sqrtm(p: Problem, out: Outputs) -> Iterator[Check]:
    """|X^2 - A|_F <= 64 d u |A|_F, and X is semi-definite."""
    X, d = long(out["value"]), p.program.d
    bound = MARGIN * d * max(p.u, p.stored) * p.A.size
    yield Check("square", frobenius(X @ X - p.A.dense), bound)
    yield Check("sign", -eigen(X)[0][0], MARGIN * d * p.u * frobenius(X))


def inv_sqrtm(p: Problem, out: Outputs) -> Iterator[Check]:
    """|Z - A^-1/2|_F <= 64 d u c |A^-1/2|_F with c = |A|_F |A^-1|."""
    yield _of_inverse_root(p, out, 0.0)


def newton_schulz(p: Problem, out: Outputs) -> Iterator[Check]:
    """The same, and 0.2 of it where iterations may be too few."""
    few = p.program.option("iterations") < 1.7 * math.log2(float(_condition(p))) + 8
    yield _of_inverse_root(p, out, 0.2 if few else 0.0)


def _of_inverse_root(p: Problem, out: Outputs, more: float) -> Check:
    w, U = p.A.pairs
    if w[0] <= 0:
        return Check("value", 0, 0)
    exact = of_eigen(1 / np.sqrt(w), U)
    bound = MARGIN * p.program.d * p.u * _condition(p) + more
    return Check("value", frobenius(long(out["value"]) - exact), bound * frobenius(exact))


def _iterated(p: Problem, *, traced: bool) -> str:
    legal = of_definite(p, traced=traced)
    if legal == "legal":
        enough = p.program.option("iterations") >= 1.7 * math.log2(float(_condition(p))) + 6
        return "legal" if enough else "either"
    return legal


def logm(p: Problem, out: Outputs) -> Iterator[Check]:
    """|X - log A|_F <= 64 d u (c + |log A|_F)."""
    w, U = p.A.pairs
    if w[0] > 0:
        exact = of_eigen(np.log(w), U)
        bound = MARGIN * p.program.d * p.u * (_condition(p) + frobenius(exact))
        yield Check("value", frobenius(long(out["value"]) - exact), bound)


# ---------------------------------------------------------------------------- exponentials


def _exponential(p: Problem) -> np.ndarray:
    if "expm" not in p.exact:
        p.exact["expm"] = expm(p.arrays["A"])
    return p.exact["expm"]


def _in_range(p: Problem, *, traced: bool) -> str:
    largest = np.max(np.abs(_exponential(p)))
    if not largest < 4 * p.largest:
        return "illegal"
    return "legal" if largest < p.largest / 4 else "either"


def exponential(p: Problem, out: Outputs) -> Iterator[Check]:
    """|X - exp A|_F <= 256 u max(1, |A|_F) |exp A|_F."""
    exact = _exponential(p)
    bound = 256 * p.u * max(1, p.A.norm) * frobenius(exact) + p.program.d * p.tiny
    yield Check("value", frobenius(long(out["value"]) - exact), bound)


def _series_in_range(p: Problem, *, traced: bool) -> str:
    total = _series(p)[1]
    return "legal" if total < p.largest / 16 else "either"


def _series(p: Problem) -> tuple[np.ndarray, Any]:
    """Return the sum, and that of norms."""
    A = long(p.arrays["A"])
    total = term = np.eye(len(A), dtype=A.dtype)
    norms = frobenius(term)
    for k in range(1, p.program.option("order") + 1):
        term = term @ A / k
        total, norms = total + term, norms + p.A.norm**k / math.factorial(k)
    return total, norms


def exponential_series(p: Problem, out: Outputs) -> Iterator[Check]:
    """|X - sum|_F <= 64 (d + p) u sum |A|^j / j!, and the rest is below its bound."""
    total, norms = _series(p)
    roundings = MARGIN * (p.program.d + p.program.option("order")) * p.u
    yield Check("value", frobenius(long(out["value"]) - total), roundings * norms + p.tiny)
    rest = frobenius(_exponential(p) - total)
    spare = MARGIN * np.finfo(np.longdouble).eps * (norms + frobenius(_exponential(p)))
    bound = long(out["remainder_bound"]) * (1 + 4 * p.u) + spare + p.tiny
    if np.isfinite(rest):
        yield Check("remainder", rest, bound)


# -------------------------------------------------------------------- averages and weights


def average_of(X: np.ndarray) -> np.ndarray:
    """Return X^T conj(X)."""
    X = long(X)
    return X.T @ np.conj(X)


def average(p: Problem, out: Outputs) -> Iterator[Check]:
    """|B - decay A - (1 - decay) X^T conj(X)|_F <= 64 (N + 2) u (decay |A|_F + |X|_F^2)."""
    A, X, decay = p.A.dense, p.arrays["X"], np.longdouble(p.program.option("decay"))
    if not np.all(np.isfinite(A)):
        return
    value, bad = long(out["value"]), not np.all(np.isfinite(X))
    if not p.case.extreme:
        yield Check("skipped", abs(float(bool(out["skipped"]) - bad)), 0)
    if bool(out["skipped"]):
        yield Check("state of a skipped batch", frobenius(value - A), 0)
        return
    exact = decay * A + (1 - decay) * average_of(X)
    size = decay * p.A.norm + frobenius(X) ** 2
    floor = 4 * p.program.d**2 * p.tiny * (1 + len(X))
    bound = MARGIN * (len(X) + 2) * p.u * size + floor
    yield Check("value", frobenius(value - exact), bound)


def _read_or_skipped(p: Problem, *, traced: bool) -> str:
    bad = not np.all(np.isfinite(p.arrays["X"]))
    if bad and not traced and p.program.option("check") is True:
        return "illegal"
    return "legal"


def weights(p: Problem, out: Outputs) -> Iterator[Check]:
    """|(K + M lambda) c - 1| <= 64 M u (|K|_F + M lambda) |c|."""
    shift, value = _shift(p), long(out["value"])
    normalized = p.program.option("normalized")
    if p.A.norm == 0 and normalized:
        yield Check("value", frobenius(value - 1 / np.longdouble(len(value))), MARGIN * p.u)
    elif shift > 0:
        c, M = value / shift if normalized else value, len(value)
        bound = MARGIN * M * p.u * (p.A.size + M * shift) * frobenius(c)
        yield Check("residual", frobenius(p.A.dense @ c + M * shift * c - 1), bound)


def _shift(p: Problem) -> Any:
    return p.damping * (p.A.norm if p.program.option("relative") else 1)


def _with_damping(p: Problem, *, traced: bool) -> str:
    M, shift = p.program.d, _shift(p)
    if p.A.norm == 0 and p.program.option("relative"):
        no_weights = not p.program.option("normalized") and not traced
        return "illegal" if no_weights else "either" if traced else "legal"
    allowed = MARGIN * M * p.u * p.A.size
    if p.A.values[0] + M * shift < -allowed:
        return "illegal"
    sign = p.A.sign(p.u)
    fits = p.tiny * 64 < M * shift < p.largest / 64 and 1 / (M * shift) < p.largest / 64
    return "legal" if sign == "legal" and M * shift > allowed and fits else "either"


# ------------------------------------------------------------------------------- Kronecker


class Factor:
    """A Kronecker factor as it was given, as a matrix with its smallest eigenvalue."""

    def __init__(self, p: Problem, name: str) -> None:
        self.form = p.program.option(name)
        if self.form == "dense":
            matrix = Matrix(p.arrays[name], p.program)
            self.dense, self.least = matrix.dense, matrix.values[0]
            self.sign = matrix.sign(max(p.u, p.stored))
            self.trace = np.trace(self.dense).real
        else:
            w, U = (long(p.arrays[f"{name}.{part}"]) for part in ("values", "vectors"))
            tail = long(p.arrays.get(name + ".tail", np.zeros(())))
            self.dense = of_eigen(w - tail, U) + tail * np.eye(len(U))
            self.least = min(w[-1], tail) if len(w) < len(U) else w[-1]
            allowed = p.u * frobenius(w)
            self.sign = "legal" if w[-1] >= -3 * allowed else "either"
            if w[-1] < -MARGIN * len(U) * allowed:
                self.sign = "illegal"
            self.trace = long(p.arrays.get(name + ".trace", w.sum()))
        self.norm, self.d = frobenius(self.dense), len(self.dense)


def _factors(p: Problem) -> tuple[Factor, Factor]:
    if "factors" not in p.exact:
        p.exact["factors"] = Factor(p, "A"), Factor(p, "G")
    return p.exact["factors"]


def _shifts(p: Problem) -> tuple[Any, Any]:
    """Return what coupling "factored" adds to A and to G."""
    A, G = _factors(p)
    mean_A, mean_G = A.trace / A.d, G.trace / G.d
    pi = np.sqrt(mean_A / mean_G) if mean_A > 0 and mean_G > 0 else np.longdouble(1)
    root = np.sqrt(p.damping)
    return pi * root, root / pi


def _factors_legal(p: Problem, *, traced: bool) -> str:
    verdicts = [F.sign for F in _factors(p)]
    if p.program.option("coupling") == "factored":
        for i, (F, shift) in enumerate(zip(_factors(p), _shifts(p))):
            allowed = MARGIN * F.d * max(p.u, p.stored) * F.norm
            if F.form == "dense" and F.sign == "illegal":
                verdicts[i] = "illegal" if F.least + shift < -allowed else "either"
            elif F.form == "dense" and shift < allowed:
                verdicts[i] = "either"
    return _worst(verdicts)


def _worst(verdicts: list[str]) -> str:
    return next((v for v in ("illegal", "either") if v in verdicts), "legal")


def kronecker(p: Problem, out: Outputs) -> Iterator[Check]:
    """|G X A + damping X - V|_F <= 64 (d + d') u (|A| |G| + damping) |X|_F, for dense factors.

    With truncated ones the solution is known to u |V| over the smallest eigenvalue.
    """
    A, G = _factors(p)
    X, V = long(out["X"]), long(p.arrays["V"])
    roundings = MARGIN * (A.d + G.d) * max(p.u, p.stored)
    if p.program.option("coupling") == "joint":
        R = G.dense @ X @ A.dense + p.damping * X - V
        size = A.norm * G.norm + p.damping
        least = max(A.least, 0) * max(G.least, 0) + p.damping
    else:
        a, g = _shifts(p)
        R = (G.dense + g * np.eye(G.d)) @ X @ (A.dense + a * np.eye(A.d)) - V
        size = (G.norm + g) * (A.norm + a)
        least = (max(G.least, 0) + g) * (max(A.least, 0) + a)
    length = frobenius(X)
    if A.form != "dense" or G.form != "dense":
        length = max(length, frobenius(V) / least)
    yield Check("residual", frobenius(R), roundings * size * length)


CHECKS = {
    "sqrtm_psd": sqrtm,
    "inv_sqrtm_psd": inv_sqrtm,
    "logm_psd": logm,
    "inv_sqrtm_newton_schulz": newton_schulz,
    "expm": exponential,
    "expm_series": exponential_series,
    "ema": average,
    "sample_weights": weights,
    "kronecker_solve": kronecker,
}
LEGAL = {
    "sqrtm_psd": semi_definite,
    "inv_sqrtm_psd": of_definite,
    "logm_psd": of_definite,
    "inv_sqrtm_newton_schulz": _iterated,
    "expm": _in_range,
    "expm_series": _series_in_range,
    "ema": _read_or_skipped,
    "sample_weights": _with_damping,
    "kronecker_solve": _factors_legal,
}
