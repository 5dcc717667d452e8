"""The arrays of a case, made from its number: spectrum, sign, scale, damping, NaN and Inf."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .programs import PROGRAMS, Program

__all__ = ["BATCHES", "Case", "make_case"]

BATCHES = 4  # of samples, in a row
# Binary orders of magnitude from 1 to the ends of the range.
RANGE = {"float16": 14, "bfloat16": 126, "float32": 126, "complex64": 126}
WIDEST = 1020


class Case(NamedTuple):
    """What a program is applied to, as NumPy arrays: those in half precision as float32."""

    number: int
    program: Program
    arrays: dict[str, np.ndarray]
    damping: float
    extreme: bool  # so near the ends of the range that a refusal is no fault
    story: str


class Maker:
    """Arrays of one case, with the story of how they were made."""

    def __init__(self, number: int, program: Program) -> None:
        self.rng = np.random.default_rng([number, 1])
        self.number, self.program = number, program
        self.arrays: dict[str, np.ndarray] = {}
        self.damping = 1.0
        self.extreme = False
        self.story: list[str] = []

    def normal(self, *shape: int) -> np.ndarray:
        """Return standard normal numbers of the kind of the program."""
        shape = (*self.program.batch, *shape)
        x = self.rng.standard_normal(shape)
        return x + 1j * self.rng.standard_normal(shape) if self.program.is_complex else x

    def scale(self, part: float = 1.0) -> float:
        """Return a power of two, at times near the ends of the range to the power of `part`."""
        draw, decades = self.rng.random(), RANGE.get(self.program.dtype, WIDEST) * part
        if draw < 0.5:
            return 1.0
        exponent = self.rng.uniform(-0.8, 0.8) * decades
        if self.program.derivative:  # which are A^-3/2
            exponent *= 0.4
        if draw > 0.85 and not self.program.derivative:
            self.extreme = True
            exponent = self.rng.uniform(0.9, 1.06) * decades * self.rng.choice([-1, 1])
        self.story.append(f"scale 2^{exponent:.0f}")
        return 2.0 ** round(min(max(exponent, -1070), 1022))

    def ratio(self) -> float:
        """Return a damping in units of the largest eigenvalue."""
        ratio = 10.0 ** self.rng.uniform(-12 if self.program.double else -6, 2)
        self.story.append(f"damping {ratio:.0e}")
        return ratio

    def stored(self, name: str, x: np.ndarray) -> np.ndarray:
        """Keep an array as it is stored."""
        with np.errstate(all="ignore"):
            self.arrays[name] = rounded(x, self.program.dtype)
        return self.arrays[name]

    def psd(self, d: int) -> np.ndarray:
        """Return positive semi-definite matrices of size 1, or what roundings make of them."""
        kinds = tuple(SPECTRA)
        kind = kinds[self.rng.integers(len(kinds))]
        sign = (
            "" if self.program.derivative else self.rng.choice(["", "", "", "", "slight", "clear"])
        )
        self.story.append(f"{kind} {sign}".strip())
        w = np.sort(SPECTRA[kind](self.rng, d))
        Q = np.linalg.qr(self.normal(d, d))[0]
        if kind == "dead":
            Q = self.with_dead_rows(Q, w)
        if sign == "clear":
            w[0] = -(10.0 ** self.rng.uniform(-1.5, 0)) * max(w[-1], 1.0)
        A = (Q * w) @ np.conj(np.swapaxes(Q, -1, -2))
        A = (A + np.conj(np.swapaxes(A, -1, -2))) / 2
        if sign == "slight" and kind != "dead":
            u = UNIT[self.program.dtype]
            size = np.linalg.norm(A, axis=(-2, -1), keepdims=True)
            least = np.linalg.eigvalsh(A)[..., :1, None]
            A = A - (least + self.rng.uniform(0, 2) * u * size) * np.eye(d)
        return A

    def with_dead_rows(self, Q: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Return eigenvectors of which those of zeros are unit vectors, at random places."""
        live = int(np.sum(w != 0))
        d = len(w)
        out = np.zeros_like(Q)
        order = self.rng.permutation(d)
        small = np.linalg.qr(self.normal(live, live))[0] if live else self.normal(0, 0)
        out[..., order[:live, None], np.arange(d - live, d)] = small
        out[..., order[live:], np.arange(d - live)] = 1.0
        return out


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array in a dtype, or the float32 that is exact for one in half precision."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.astype(np.uint32).view(np.float32)
    return x.astype(dtype)


UNIT = {
    "float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "complex64": 2.0**-24,
    "float64": 2.0**-53, "complex128": 2.0**-53,
}  # fmt: skip


def _live(rng: np.random.Generator, d: int) -> np.ndarray:
    """Return positive numbers, and zeros."""
    return np.where(np.arange(d) < rng.integers(d + 1), 0.0, rng.uniform(0.1, 1, d))


SPECTRA = {
    "flat": lambda rng, d: rng.uniform(0.1, 1, d),
    "repeated": lambda rng, d: rng.uniform(0.1, 1, 3)[rng.integers(3, size=d)],
    "nearly repeated": lambda rng, d: 1 + 1e-14 * rng.random(d),
    "deficient": _live,
    "1/k": lambda rng, d: 1.0 / np.arange(1, d + 1),
    "0.7^k": lambda rng, d: 0.7 ** np.arange(d),
    "one huge": lambda rng, d: np.append(
        rng.uniform(0.5, 1, d - 1) * 10.0 ** -rng.uniform(1, 9), 1.0
    ),
    "graded": lambda rng, d: 10.0 ** -(rng.uniform(0, 16) * rng.random(d)),
    "zero": lambda rng, d: np.zeros(d),
    "dead": _live,
}


def make_case(number: int, program: Program | None = None) -> Case:
    """Return a case; its program is that of its number, if no other is given."""
    program = PROGRAMS[number % len(PROGRAMS)] if program is None else program
    made = Maker(number, program)
    MAKERS.get(program.function, _of_one_matrix)(made)
    if program.derivative:
        name = "V" if program.function == "kronecker_solve" else "A"
        shape = made.arrays[name].shape
        if program.function == "randomized_eigh":
            shape = made.arrays["V"].shape
        made.stored("W", made.normal(*shape))
    limits = np.finfo(program.work)
    damping = float(np.clip(made.damping, 4 * float(limits.tiny), float(limits.max) / 8))
    return Case(number, program, made.arrays, damping, made.extreme, ", ".join(made.story))


def _of_one_matrix(made: Maker) -> None:
    scale = made.scale()
    made.stored("A", made.psd(made.program.d) * scale)


def _low_rank(made: Maker) -> None:
    scale, d = made.scale(), made.program.d
    A = made.stored("A", made.psd(d) * scale)
    made.arrays["V"] = made.normal(d, 2).astype(made.program.work)
    made.damping = made.ratio() * _largest(A, scale)


def _largest(A: np.ndarray, scale: float) -> float:
    """Return the largest entry, or the scale of a zero matrix, as a normal number."""
    largest = float(np.max(np.abs(A)))
    return largest if 0 < largest < np.inf else scale


def _svd(made: Maker) -> None:
    n, d = made.program.n, made.program.d
    k = min(n, d)
    kind = tuple(SPECTRA)[made.rng.integers(len(SPECTRA))]
    made.story.append(kind)
    s = SPECTRA[kind](made.rng, k)
    U, V = (np.linalg.qr(made.normal(size, k))[0] for size in (n, d))
    made.stored("A", (U * s) @ np.conj(np.swapaxes(V, -1, -2)) * made.scale())


def _samples(made: Maker, count: int) -> np.ndarray:
    """Return batches of samples, (batches, ..., n, d), of which one may hold what is not finite."""
    program, d = made.program, made.program.d
    kind = tuple(SPECTRA)[made.rng.integers(len(SPECTRA))]
    made.story.append(kind)
    roots = np.sqrt(SPECTRA[kind](made.rng, d))
    Q = np.linalg.qr(made.normal(d, d))[0]
    if kind == "dead":
        Q = np.broadcast_to(np.eye(d), Q.shape)
    scale = made.scale(0.5)
    X = np.stack([made.normal(program.n, d) * roots @ Q for _ in range(count)])
    X = rounded(X * scale / np.sqrt(program.n), program.dtype)
    if made.rng.random() < 0.3:
        at = int(made.rng.integers(count))
        bad = made.rng.choice([np.nan, np.inf, -np.inf])
        X[(at, ..., made.rng.integers(program.n), made.rng.integers(d))] = bad
        made.story.append(f"{bad} in batch {at}")
    return X


def _online(made: Maker) -> None:
    made.arrays["X"] = _samples(made, BATCHES)


def _ema(made: Maker) -> None:
    X = _samples(made, 1)[0]
    made.arrays["X"] = X
    largest = float(np.max(np.abs(X[np.isfinite(X)]), initial=0.0)) or 1.0
    made.stored("A", made.psd(made.program.d) * min(largest, 1e150) * largest)


def _kronecker(made: Maker) -> None:
    program, rng = made.program, made.rng
    sizes = []
    for name, d in (("A", program.d), ("G", program.n)):
        form, scale = program.option(name), made.scale(0.3)
        F = made.psd(d) * scale
        if form == "dense":
            sizes.append(_largest(made.stored(name, F), scale))
            continue
        w, U = np.linalg.eigh(F)
        r = min(program.rank, d)
        w, U = w[..., ::-1][..., :r], U[..., ::-1][..., :r]
        made.arrays[name + ".values"] = w.astype(_real(program.work))
        made.arrays[name + ".vectors"] = U.astype(program.work)
        sizes.append(_largest(w, scale))
        if form == "low rank":
            tail = np.maximum(w[..., -1], 0) * rng.random()
            made.arrays[name + ".tail"] = tail.astype(_real(program.work))
            trace = np.maximum(w, 0).sum(-1) + (d - r) * tail
            made.arrays[name + ".trace"] = trace.astype(_real(program.work))
    made.damping = made.ratio() * sizes[0] * sizes[1]
    made.arrays["V"] = made.normal(program.n, program.d).astype(program.work)


def _real(dtype: str) -> str:
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


def _exponent(made: Maker) -> None:
    """Normal and other matrices, of norms from 0 to where exponentials overflow."""
    rng, d = made.rng, made.program.d
    kind = rng.choice(["general", "symmetric", "skew", "nilpotent", "shifted", "graded", "zero"])
    most = 3.0 if made.program.double else 2.0
    A, size = made.normal(d, d), 10.0 ** rng.uniform(-8, most)
    if kind in ("symmetric", "skew"):
        A = (A + (1 if kind == "symmetric" else -1) * np.conj(np.swapaxes(A, -1, -2))) / 2
    if kind == "nilpotent":
        A = np.triu(A, 1)
    if kind == "shifted":
        A = 0.01 * A - np.eye(d) * rng.uniform(0, 1)
    if kind == "graded":
        w = 10.0 ** rng.uniform(-3, 3, d)
        A = A * w[:, None] / w
    if kind == "zero":
        A = 0 * A
    A = A / max(float(np.max(np.linalg.norm(A, axis=(-2, -1)))), 1e-300)
    made.story.append(f"{kind}, |A| {size:.0e}")
    made.stored("A", A * size)


def _weights(made: Maker) -> None:
    scale = made.scale()
    K = made.stored("A", made.psd(made.program.d) * scale)
    made.damping = made.ratio()
    if not made.program.option("relative"):
        made.damping *= _largest(K, scale) / made.program.d


MAKERS = {
    "randomized_eigh": _low_rank,
    "nystrom_factor": _low_rank,
    "randomized_svd": _svd,
    "online_eigh": _online,
    "ema": _ema,
    "kronecker_solve": _kronecker,
    "expm": _exponent,
    "expm_series": _exponent,
    "sample_weights": _weights,
}
