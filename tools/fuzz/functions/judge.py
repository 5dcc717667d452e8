"""What an answer is worth: its errors against bounds from roundings and condition numbers.

With u the roundoff of the dtype that is computed in (of the dtype of A where signs are judged), d
the size, |.| Frobenius norms, c = |A| |A^-1|, and 64 for every constant:

| function | error | bound |
| --- | --- | --- |
| sqrtm_psd | X^2 - A | 64 d u |A| |
| inv_sqrtm_psd, inv_sqrtm_newton_schulz | Z - A^-1/2 | 64 d u c |A^-1/2|, or 0.2 of it |
| logm_psd | X - log A | 64 d u (c + |log A|) |
| expm | X - exp A | 256 u max(1, |A|) |exp A| |
| expm_series | X - sum | 64 (d + p) u sum |A|^j / j!; the rest by its own bound |
| kronecker_solve | G X A + damping X - V | 64 (d + d') u (|A| |G| + damping) |X|; see `kronecker` |
| ema | B - exact | 64 (N + 2) u (decay |A| + |X|^2); nothing where the batch was skipped |
| sample_weights | (K + M lambda) c - 1 | 64 M u (|K| + M lambda) |c| |
| decompositions | U^H U - 1 | 64 d u |
| | eigenvalues above those of A | 64 d u |A| |
| | distance, where a sketch spans A | 1.01 of the least, and 64 d u |A| |
| | estimate of the error | within a factor of 8, where the error is above 64 d u |A| |
| their solve, matmul, logdet | from those of the model | 64 d u over its smallest eigenvalue |
| derivatives | from Daleckii and Krein | 1e-6 max(1, c u / 1e-10), c squared for kronecker_solve |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fuzz.judge import Finding

from . import low_rank, matrix_functions
from .calls import Answer
from .cases import Case
from .exact import adjoint, derivative, frobenius, long
from .problem import MARGIN, Problem

__all__ = ["KINDS", "findings", "problems"]

KINDS = {
    "silent": "finite result with an error above its bound",
    "accepted": "finite result for an argument that is to be refused",
    "refused": "legal argument refused, or NaN",
    "raised": "an error that names no argument",
    "derivative": "finite derivative that is wrong",
    "missing": "derivative that is NaN without an excuse",
    "list": "refused near the ends of the range (not a fault)",
}
FAULTS = tuple(KINDS)[:-1]
REFUSALS = (ValueError, np.linalg.LinAlgError)
CHECKS = low_rank.CHECKS | matrix_functions.CHECKS
LEGAL = low_rank.LEGAL | matrix_functions.LEGAL
GAP = 32  # roots of u: twice what excuses a derivative


def problems(case: Case) -> list[tuple[tuple[int, ...], Problem]]:
    """Return all problems of a batch, by their place in it."""
    return [(i, Problem(case, i)) for i in np.ndindex(case.program.batch)]


def findings(
    case: Case, library: str, answer: Answer, batch: list[tuple[tuple[int, ...], Problem]]
) -> list[Finding]:
    """Return what is to be looked at."""

    def finding(kind: str, text: str) -> Finding:
        text = f"{case.program.function}: {text}; {case.story}; {case.program}"
        return Finding(kind, case.number, library, text)

    legal = [_legal(p, traced=answer.traced) for _, p in batch]
    if answer.error is not None:
        kind = _kind_of_error(case, answer, legal)
        return [finding(kind, repr(answer.error)[:300])] if kind else []
    found = []
    for (i, p), verdict in zip(batch, legal):
        out = {name: x[i] for name, x in answer.arrays.items()}
        kinds = _derivative(p, out, verdict) if p.program.derivative else _values(p, out, verdict)
        found += [finding(kind, text) for kind, text in kinds]
    return found


def _legal(p: Problem, *, traced: bool) -> str:
    """Tell whether arguments are legal, illegal, or near enough to either for both answers."""
    skips = p.program.function in ("ema", "online_eigh")
    if not skips and not p.finite():
        return "illegal"
    if skips and not np.all(np.isfinite(p.arrays.get("A", 0.0))):
        return "either"
    verdict = LEGAL[p.program.function](p, traced=traced)
    return "either" if p.case.extreme and verdict == "legal" else verdict


def _kind_of_error(case: Case, answer: Answer, legal: list[str]) -> str | None:
    if not isinstance(answer.error, REFUSALS) or answer.traced:
        return "raised"
    if all(verdict == "legal" for verdict in legal):
        return "refused"
    return "list" if case.extreme and "illegal" not in legal else None


def _values(p: Problem, out: dict[str, Any], verdict: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of a finding, and what was found."""
    judged = {k: x for k, x in out.items() if k not in low_rank.unjudged(p)}
    missing = [k for k, x in judged.items() if np.any(np.isnan(x))]
    if missing and verdict != "illegal":
        if verdict == "legal" or p.case.extreme:
            yield ("refused" if verdict == "legal" else "list"), f"NaN in {', '.join(missing)}"
    elif not missing and verdict == "illegal" and all(np.all(np.isfinite(x)) for x in out.values()):
        yield "accepted", "finite"
    elif not missing:
        for check in CHECKS[p.program.function](p, out):
            if not check.error <= check.bound:
                error, bound = float(check.error), float(check.bound)
                yield "silent", f"{check.name}: error {error:.1e}, bound {bound:.1e}"


# ------------------------------------------------------------------------------ derivatives


def _derivative(p: Problem, out: dict[str, Any], verdict: str) -> Iterator[tuple[str, str]]:
    """Judge the derivative along a random direction."""
    if verdict != "legal":
        return
    G = long(out["gradient"])
    if not np.all(np.isfinite(G)):
        if not _excused(p):
            yield "missing", "NaN"
        return
    rng, d = np.random.default_rng([p.case.number, 2]), p.program.d
    E = rng.standard_normal((d, d)) + (1j * rng.standard_normal((d, d)) * p.program.is_complex)
    E = E if p.program.is_complex else E.real
    E = E if p.program.function == "expm" else (E + adjoint(E)) / 2
    E, W = long(E), long(p.arrays["W"])
    if p.program.function == "sqrtm_psd" and p.A.values[0] <= 0:
        return
    D = derivative(p.program.function, p.arrays, p.case.damping, E)
    expected, got = (np.sum(np.conj(a) * b).real for a, b in ((W, D), (G, E)))
    allowed = 1e-6 * max(1, _condition(p) * p.u / 1e-10) * frobenius(W) * frobenius(D)
    if not abs(got - expected) <= allowed + p.tiny:
        yield "derivative", f"{float(got):.6e}, exact {float(expected):.6e}"


def _condition(p: Problem) -> Any:
    """Return the condition number of a function."""
    if p.program.function == "expm":
        return max(1, p.A.norm)
    w, shift = p.A.values, 0
    if p.program.function == "randomized_eigh":
        shift = p.damping
    if p.program.function == "kronecker_solve":
        g = matrix_functions.Factor(p, "G")
        # roundings u |G| of eigenvalues of 0 move derivatives by A by u |A| |G| / damping^2
        return ((w[-1] * g.norm + p.damping) / p.damping) ** 2
    return (w[-1] + shift) / max(w[0] + shift, p.u**2 * w[-1])


def _excused(p: Problem) -> bool:
    """Tell whether a derivative may be NaN."""
    w = p.A.values
    if p.program.function == "randomized_eigh":
        gaps = np.min(w[1:] - w[:-1], initial=w[-1])
        return bool(gaps <= GAP * np.sqrt(p.u) * w[-1])
    if p.program.function == "sqrtm_psd":
        return bool(w[0] <= MARGIN * len(w) * p.u * w[-1])
    return False
