"""Two hundred programs: which function is called, with which sizes, dtypes and options."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["HALVES", "PROGRAMS", "Program", "working"]

HALVES = ("float16", "bfloat16")  # in which arrays are stored, never computed


class Program(NamedTuple):
    """A call of the library, but for the values of its arrays."""

    function: str
    dtype: str  # in which matrices are stored
    d: int
    n: int  # samples, or the other side of a matrix
    rank: int
    batch: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    derivative: bool = False

    def option(self, name: str) -> Any:
        """Return an option."""
        return dict(self.options)[name]

    @property
    def work(self) -> str:
        """The dtype that is computed in."""
        return working(self.dtype)

    @property
    def double(self) -> bool:
        """Tell whether that is double precision."""
        return self.work in ("float64", "complex128")

    @property
    def is_complex(self) -> bool:
        """Tell whether numbers are complex."""
        return self.dtype.startswith("complex")


def working(dtype: str) -> str:
    """Return the dtype that arrays stored in `dtype` are computed in."""
    return "float32" if dtype in HALVES else dtype


DTYPES = ("float32", "float32", "float64", "float64", "complex64", "complex128")
DERIVED = ("float64", "float64", "complex128")
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 12, 16, 20, 24)
WIDE = (12, 24, 40, 60)  # beyond what a sketch spans
TAILS = ("trace", "min", "zero")
# How many of the programs call which function.
VALUES = {
    "randomized_eigh": 34, "nystrom_factor": 12, "randomized_svd": 14, "online_eigh": 20,
    "ema": 12, "kronecker_solve": 28, "sqrtm_psd": 9, "inv_sqrtm_psd": 9, "logm_psd": 9,
    "expm": 9, "expm_series": 6, "inv_sqrtm_newton_schulz": 8, "sample_weights": 6,
}  # fmt: skip
DERIVATIVES = {
    "sqrtm_psd": 4, "inv_sqrtm_psd": 4, "logm_psd": 4, "expm": 4, "kronecker_solve": 4,
    "randomized_eigh": 4,
}  # fmt: skip
STORED_IN_HALF = ("randomized_eigh", "nystrom_factor", "online_eigh", "ema", "kronecker_solve")
LOW_RANK = ("randomized_eigh", "nystrom_factor", "randomized_svd", "online_eigh")


def _choice(rng: np.random.Generator, among: tuple) -> Any:
    return among[rng.integers(len(among))]


def _options(rng: np.random.Generator, function: str) -> dict[str, Any]:
    """Return the options of a call, and those of how it is made."""
    if function == "randomized_eigh":
        return {
            "method": _choice(rng, ("nystrom", "nystrom", "rayleigh-ritz", "rsvd", "sre")),
            "passes": _choice(rng, (2, 2, 3)),
            "oversample": _choice(rng, (10, 10, 10, 4, 0)),
            "tail": _choice(rng, TAILS),
        }
    if function == "nystrom_factor":
        return {"passes": _choice(rng, (1, 2, 3)), "tail": _choice(rng, ("trace", "zero"))}
    if function == "randomized_svd":
        return {"passes": _choice(rng, (None, None, 2, 4)), "oversample": 10}
    if function in ("online_eigh", "ema"):
        return {
            "decay": _choice(rng, (0.0, 0.5, 0.9, 0.95, 0.999)),
            "check": _choice(rng, (True, True, False, "nan")),
        }
    if function == "kronecker_solve":
        forms = ("dense", "dense", "pair", "low rank")
        return {
            "A": _choice(rng, forms),
            "G": _choice(rng, forms),
            "coupling": _choice(rng, ("joint", "factored")),
        }
    if function == "expm_series":
        return {"order": _choice(rng, (0, 1, 2, 5, 12, 30))}
    if function == "inv_sqrtm_newton_schulz":
        return {"iterations": _choice(rng, (8, 20, 46, 96))}
    if function == "sample_weights":
        return {"relative": bool(rng.random() < 0.6), "normalized": bool(rng.random() < 0.5)}
    return {}


def _program(rng: np.random.Generator, function: str) -> Program:
    dtype, wide = _choice(rng, DTYPES), function in LOW_RANK and rng.random() < 0.4
    if function in STORED_IN_HALF and rng.random() < 0.25:
        dtype = _choice(rng, HALVES)
    d = _choice(rng, WIDE if wide else SIZES)
    n = _choice(rng, SIZES)
    least = min(d, n) if function == "randomized_svd" else d
    rank = _choice(rng, (1, max(1, least // 3), max(1, least // 2), least))
    batch = _choice(rng, ((), (), (), (2,)))
    options = tuple(_options(rng, function).items())
    return Program(function, dtype, d, n, rank, batch, options)


def _derivative(rng: np.random.Generator, function: str) -> Program:
    options = {}
    if function == "kronecker_solve":
        options = {"A": "dense", "G": "dense", "coupling": "joint"}
    if function == "randomized_eigh":
        options = {"method": "nystrom", "passes": 2, "oversample": 10, "tail": "trace"}
    d, n = int(rng.integers(2, 9)), int(rng.integers(2, 9))
    return Program(function, _choice(rng, DERIVED), d, n, d, (), tuple(options.items()), True)


def _programs() -> tuple[Program, ...]:
    rng = np.random.default_rng(20240229)
    programs = [_program(rng, function) for function, k in VALUES.items() for _ in range(k)]
    programs += [
        _derivative(rng, function) for function, k in DERIVATIVES.items() for _ in range(k)
    ]
    return tuple(programs[i] for i in rng.permutation(len(programs)))


PROGRAMS = _programs()
