"""What an answer is worth: its distance from the exact solution against what the library says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import ngdla

from .cases import Case
from .exact import Exact, System, exact_columns, norm
from .libraries import Answer
from .programs import Program, is_double

__all__ = ["KINDS", "Finding", "findings", "solutions"]

KINDS = {
    "bound": "error bound below the error",
    "silent": "finite step off by more than |x| / 2 with converged=True, without a warning",
    "unsaid": "eager step off by more than |x| / 2 that converged=False alone tells (not a fault)",
    "rounded": "step for v = S^H f off by more than |x| / 2 from that for f, with converged=True",
    "refused": "right step refused where damping >= 256 u |S|_F^2 and refine >= 1",
    "raised": "an error that is no verdict on the precision",
    "list": "right step refused elsewhere (not a fault)",
}
REFUSALS = (np.linalg.LinAlgError,)


class Finding(NamedTuple):
    """Something to be looked at."""

    kind: str
    case: int
    library: str
    text: str


class Column(NamedTuple):
    """One exact solution, of the system as it is, and of one freed of its null vectors."""

    plain: Exact
    freed: Exact | None
    metric: np.ndarray | None
    slack: float  # what S and f themselves may err by, where the library makes them
    meant: Exact | None = None  # for the f of v = S^H f


def solutions(case: Case) -> list[Column]:
    """Return the exact solutions of a case, of all right-hand sides of all of a batch."""
    program, columns = case.program, []
    for S, right, x0, metric, null, slack, meant in _problems(case):
        f, start = (None, right) if program.function == "solve" else (right, x0)
        system = System(S, case.damping, f, start, metric)
        plain = exact_columns(system)
        freed: list[Any] = [None] * len(plain)
        if null is not None:
            freed = list(exact_columns(system._replace(null=null)))
        of_f: list[Any] = [None] * len(plain)
        if meant is not None:
            of_f = list(exact_columns(system._replace(f=meant, start=None)))
        columns += [Column(a, b, metric, slack, c) for a, b, c in zip(plain, freed, of_f)]
    return columns


def _problems(case: Case) -> Iterator[tuple[Any, ...]]:
    """Yield S, f or v, x0, the metric and null vectors of each problem of a batch."""
    program = case.program
    S, right, x0, null = case.S, case.right, case.x0, case.null
    slack = 0.0
    if program.function == "sr":
        options = {"weights": case.weights, "mode": program.mode}
        slack = 8 * _u(program.dtype)
        S, right = ngdla.scores(S, **options), ngdla.residuals(right, **options)  # type: ignore[arg-type]
        p = np.ones(case.S.shape[:-1]) if case.weights is None else case.weights
        null = np.sqrt(p / p.sum(axis=-1, keepdims=True))
        if x0 is not None:
            x0 = (np.asarray(0.9, dtype=x0.real.dtype) * x0).astype(x0.dtype)
    for i in np.ndindex(program.batch):
        column = (program.k is None) * (None,) or ()
        q = None if null is None else _stacked(null[i], program)
        yield (
            S[i], right[i][(..., *column)], None if x0 is None else x0[i][(..., *column)],
            None if case.metric is None else case.metric[i], q, slack,
            None if case.f is None else case.f[i],
        )  # fmt: skip


def _stacked(q: np.ndarray, program: Program) -> np.ndarray:
    return np.kron(np.eye(2), q[:, None]) if program.mode == "complex" else q[:, None]


def _u(dtype: str) -> float:
    return 2.0**-53 if is_double(dtype) else 2.0**-24


def findings(
    case: Case, library: str, answer: Answer, right: list[Column], again: Any
) -> list[Finding]:
    """Return what is to be looked at; `again` gives the answer without refusals."""

    def finding(kind: str, text: str) -> Finding:
        return Finding(kind, case.number, library, f"{text}; {case.story}; {case.program}")

    if answer.error is not None and not isinstance(answer.error, REFUSALS):
        if _vanishes(case) and "below the range" in str(answer.error):
            return []
        return [finding("raised", repr(answer.error)[:300])]
    if answer.error is not None:
        return [finding(kind, "LinAlgError") for kind in _refused(case, again(), right, answer)]
    found = []
    assert answer.x is not None
    assert answer.bound is not None
    assert answer.converged is not None
    for i, (x, bound, sure) in enumerate(_columns(case, answer)):
        if not np.all(np.isfinite(x)):
            if bool(sure):
                found.append(finding("silent", "converged, and not finite"))
            kinds = _refused(case, again(), right, answer, only=i)
            found += [finding(kind, "NaN") for kind in kinds]
            continue
        length, error, spare = _distance(case, x, right[i])
        if np.isfinite(bound) and float(bound) < error - spare:
            found.append(finding("bound", f"bound {bound:.1e}, error {error:.1e}"))
        wrong = error - spare > length / 2
        if wrong and bool(sure) and not answer.warned:
            found.append(finding("silent", f"error {error:.1e} of {length:.1e}, converged"))
        elif wrong and not answer.warned and not answer.traced:
            found.append(finding("unsaid", f"error {error:.1e} of {length:.1e}"))
        meant = right[i].meant
        if meant is not None and bool(sure):
            distance = norm(x.astype(np.clongdouble) - meant.x, right[i].metric) - meant.error
            if distance > length / 2:
                found.append(finding("rounded", f"{distance:.1e} of {length:.1e} from that of f"))
    return found


def _columns(case: Case, answer: Answer) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """Yield x, its bound and whether it is certified, for each right-hand side of a batch."""
    x = np.asarray(answer.x)
    x = x[..., None] if case.program.k is None else x
    bounds, sure = (np.reshape(a, (-1,)) for a in (answer.bound, answer.converged))
    flat = np.moveaxis(x, -1, -2).reshape(-1, x.shape[-2])
    yield from zip(flat, bounds, sure)


def _distance(case: Case, x: np.ndarray, column: Column) -> tuple[float, float, float]:
    """Return |x|, the distance from the nearer exact solution, and what that may be off by."""
    x = x.astype(np.clongdouble)
    length = norm(x, column.metric)
    error, spare = norm(x - column.plain.x, column.metric), column.plain.error
    if column.freed is not None:
        other = norm(x - column.freed.x, column.metric)
        if other < error:
            error, spare = other, column.freed.error
    if column.slack:
        t = np.linalg.norm(case.S.astype(np.clongdouble).reshape(-1))
        e = np.linalg.norm(case.right.astype(np.clongdouble).reshape(-1))
        root = np.sqrt(np.longdouble(case.damping))
        spare += column.slack * (t * length / root + e / root + t * e / root**2)
    return length, error, spare


def _refused(
    case: Case, answer: Answer, right: list[Column], told: Answer, only: int | None = None
) -> list[str]:
    """Return the kind of a refusal of a step that was right."""
    if answer.x is None or not np.all(np.isfinite(answer.x)):
        return []
    for i, (x, _, _) in enumerate(_columns(case, answer)):
        if only in (None, i):
            length, error, _ = _distance(case, x, right[i])
            if error > length / 2:
                return []
    return ["refused" if _easy(case, told.double) else "list"]


def _easy(case: Case, double: bool) -> bool:
    """Tell whether the damping is far above roundings of the widest dtype that may be used."""
    program = case.program
    widest = {"auto": "float64" if double else "float32", "mixed": "float32"}.get(
        program.precision, program.precision
    )
    if widest == "native":
        widest = program.dtype
    return bool(case.damping >= 256 * _u(widest) * np.max(_squares(case))) and program.refine > 0


def _vanishes(case: Case) -> bool:
    """Tell whether |S|_F^2 is below the range of its dtype."""
    dtype = "float64" if case.program.double else "float32"
    return bool(np.min(_squares(case)) < np.finfo(dtype).tiny)


def _squares(case: Case) -> np.ndarray:
    """Return |S D^-1/2|_F^2 of all of a batch."""
    T = case.S.astype(np.clongdouble)
    if case.metric is not None:
        T = T / np.sqrt(case.metric.astype(np.longdouble))[..., None, :]
    return np.asarray(np.sum(np.abs(T) ** 2, axis=(-2, -1)))
