"""The arrays of a case, made from its number: spectrum, scale, damping, right-hand side."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .programs import PROGRAMS, Program

__all__ = ["Case", "make_case"]

# Decades in which sizes are drawn, so that S, its squares and solutions are normal numbers.
SCALE = {True: 148.0, False: 14.0}
LEAST = {True: 1e-300, False: 2e-38}


class Case(NamedTuple):
    """What a program is applied to, as NumPy arrays; None: not given."""

    number: int
    program: Program
    S: np.ndarray  # (..., n, m): log-derivatives for stochastic reconfiguration
    right: np.ndarray  # (..., m) or (..., m, k) of a solve; with n for m else
    damping: float
    x0: np.ndarray | None
    metric: np.ndarray | None
    null: np.ndarray | None
    weights: np.ndarray | None
    story: str  # how it was made
    f: np.ndarray | None = None  # what v was made of, by S^H f


def make_case(number: int, program: Program | None = None) -> Case:
    """Return a case; its program is that of its number, if no other is given."""
    program = PROGRAMS[number % len(PROGRAMS)] if program is None else program
    rng = np.random.default_rng(number)
    weights = _weights(rng, program) if program.weights or program.null else None
    S, spectrum = _scores(rng, program, weights)
    double = program.double
    scale = 2.0 ** round(np.log2(10.0) * rng.uniform(-1, 1) * SCALE[double] * (rng.random() < 0.5))
    metric = _metric(rng, program)
    largest = _largest_square(S, metric)
    ratio = 10.0 ** rng.uniform(-17, 2)
    damping = max(ratio * largest * scale * scale, LEAST[double])
    S = (S * scale).astype(program.dtype)
    right, source, f = _right_hand_side(rng, program, S, scale)
    x0 = _prior(rng, program, right, scale) if program.x0 else None
    real = _real(program.dtype)
    null = np.sqrt(weights / weights.sum(axis=-1, keepdims=True)) if program.null else None
    return Case(
        number=number,
        program=program,
        S=S,
        right=right,
        damping=damping if double else float(np.float32(damping)),
        x0=x0,
        metric=metric,
        null=None if null is None else null.astype(real),
        weights=weights.astype(real) if program.weights else None,
        story=f"{spectrum}, scale {scale:.0e}, damping {ratio:.0e} of sigma^2, {source}",
        f=f,
    )


def _real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x


def _scores(
    rng: np.random.Generator, program: Program, weights: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Return S of size 1 in double precision, centred where a null vector is named."""
    shape = (*program.batch, program.n, program.m)
    if program.layout == "strided":
        return _one_sign(rng, shape, program.dtype), "of one sign"
    kinds = (_flat, _decaying, _repeated, _deficient, _graded_rows, _graded_columns, _outlier)
    kind = kinds[rng.integers(len(kinds))]
    if program.null and kind is _deficient:  # centring would leave nothing but roundings of it
        kind = _flat
    S = kind(rng, shape, program.dtype)
    if program.null:
        assert weights is not None
        p = weights[..., None, :] / weights.sum(axis=-1)[..., None, None]
        S = np.sqrt(np.swapaxes(p, -1, -2)) * (S - p @ S)
    return S, kind.__name__[1:].replace("_", " ")


def _one_sign(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    x = 1.03 + 1e-3 * rng.random(shape)
    return x * np.exp(0.3j) if dtype.startswith("complex") else x


def _flat(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return _normal(rng, shape, dtype)


def _with_values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, values: np.ndarray
) -> np.ndarray:
    n, m = shape[-2:]
    U, V = (
        np.linalg.qr(_normal(rng, (*shape[:-2], size, len(values)), dtype))[0] for size in (n, m)
    )
    return (U * values) @ np.conj(np.swapaxes(V, -1, -2))


def _decaying(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    decades = rng.uniform(0, 10)
    return _with_values(rng, shape, dtype, 10.0 ** (-decades * rng.random(min(shape[-2:]))))


def _repeated(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    few = 10.0 ** -rng.uniform(0, 8, 3)
    return _with_values(rng, shape, dtype, few[rng.integers(3, size=min(shape[-2:]))])


def _deficient(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Equal rows, or equal columns: of low rank in every digit."""
    n, m = shape[-2:]
    S = _normal(rng, shape, dtype)
    if rng.random() < 0.5:
        return S[..., rng.integers(max(1, n // 2), size=n), :]
    return S[..., rng.integers(max(1, m // 3), size=m)]


def _graded_rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return _normal(rng, shape, dtype) * 10.0 ** -rng.uniform(0, 8, shape[-2])[:, None]


def _graded_columns(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return _normal(rng, shape, dtype) * 10.0 ** -rng.uniform(0, 8, shape[-1])


def _outlier(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """One direction far above all others."""
    S = _normal(rng, shape, dtype) * 10.0 ** -rng.uniform(2, 7)
    S[..., :1, :] = S[..., :1, :] + _normal(rng, (*shape[:-2], 1, shape[-1]), dtype)
    return S


def _weights(rng: np.random.Generator, program: Program) -> np.ndarray:
    """Return weights of which some are 0 and others small."""
    weights = rng.random(program.n) * 10.0 ** -rng.uniform(0, 4, program.n)
    weights[1:][rng.random(program.n - 1) < 0.2] = 0.0
    return np.broadcast_to(weights, (*program.batch, program.n)).copy()


def _metric(rng: np.random.Generator, program: Program) -> np.ndarray | None:
    if not program.metric:
        return None
    return (10.0 ** rng.uniform(-6, 6, (*program.batch, program.m))).astype(_real(program.dtype))


def _largest_square(S: np.ndarray, metric: np.ndarray | None) -> float:
    T = S if metric is None else S / np.sqrt(metric.astype(np.float64))[..., None, :]
    return float(np.max(np.linalg.norm(T, ord=2, axis=(-2, -1)))) ** 2


def _right_hand_side(
    rng: np.random.Generator, program: Program, S: np.ndarray, scale: float
) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Return f, v or local energies, what they are made of, and the f of v = S^H f."""
    size = 2.0 ** rng.integers(-12, 13)
    columns = () if program.k is None else (program.k,)
    small = S.astype(np.complex128 if np.iscomplexobj(S) else np.float64) / scale
    other = program.other
    if program.function == "sr":
        E = _normal(rng, (*program.batch, program.n), program.dtype) * scale * size
        return E.astype(other), "normal energies", None
    make = rng.integers(4)
    x = _normal(rng, (*program.batch, program.m, program.k or 1), other)
    f = _normal(rng, (*program.batch, program.n, program.k or 1), other)
    if make == 1:
        f = small @ x  # in reach of S
    elif make == 2:
        f = _of_small_directions(rng, small, f)
    back = np.conj(np.swapaxes(small, -1, -2))
    v = x if make == 0 else back @ f
    kind = ("general", "consistent", "of small directions", "normal")[make]
    given, unit = (f, scale) if program.function == "lstsq" else (v, scale * scale)
    given = given * unit * size
    real = not other.startswith("complex")
    meant = None
    if program.function == "solve" and make and not (real and np.iscomplexobj(given)):
        meant = f * (scale * size)
    given = (given.real if real else given).astype(other)
    return given.reshape((*given.shape[:-1], *columns)), kind, meant


def _of_small_directions(rng: np.random.Generator, S: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return f along the left singular vectors of small singular values."""
    U, _, _ = np.linalg.svd(S, full_matrices=False)
    few = U[..., -max(1, U.shape[-1] // 4) :]
    return few @ (np.conj(np.swapaxes(few, -1, -2)) @ f) + 1e-9 * f


def _prior(
    rng: np.random.Generator, program: Program, right: np.ndarray, scale: float
) -> np.ndarray:
    """Return x0, at times far longer than the step."""
    shape = (*program.batch, program.m, *(() if program.k is None else (program.k,)))
    complex_step = program.other.startswith("complex") and program.mode != "complex"
    x0 = _normal(rng, shape, program.other if complex_step else "float64")
    size = np.max(np.abs(right)) / scale * 10.0 ** rng.uniform(-3, 5)
    dtype = program.other if complex_step else _real(program.other)
    return (x0 * size).astype(dtype)
