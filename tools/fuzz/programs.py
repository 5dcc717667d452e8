"""Two hundred programs: which function is called, with which shapes, dtypes and options.

Everything that compiled code depends on is here, so that a library that compiles does so once for
each of them. What a program is applied to is made from the number of the case (`cases.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["PROGRAMS", "Program", "is_double", "single"]

SINGLES = {
    "float32": "float32",
    "float64": "float32",
    "complex64": "complex64",
    "complex128": "complex64",
}


class Program(NamedTuple):
    """A call of the library, but for the values of its arrays."""

    function: str  # "solve", "lstsq" or "sr"
    door: str  # "function", "factor", or "redamped": a factor of another damping
    layout: str  # "array", "strided", "list", "columns", "rows", "operator" or "kernel"
    dtype: str  # of S
    other: str  # of right-hand sides
    n: int
    m: int
    k: int | None  # None: one right-hand side without an axis of its own
    batch: tuple[int, ...]
    x0: bool
    metric: bool
    null: bool
    weights: bool
    mode: str | None  # of stochastic reconfiguration
    method: str
    precision: str
    refine: int
    row_space: bool = False

    @property
    def wide(self) -> bool:
        """Tell whether the work is done in the space of samples."""
        return self.layout == "columns" or self.rows < self.m

    @property
    def rows(self) -> int:
        """Rows of S, two a sample where real and imaginary parts are stacked."""
        return self.n * (2 if self.mode == "complex" else 1)

    @property
    def double(self) -> bool:
        """Tell whether all that is computed has the range of double precision."""
        low = self.precision in ("mixed", "float32")
        return is_double(self.dtype) and is_double(self.other) and not low

    def options(self) -> dict[str, object]:
        """Return the options of the solve."""
        return {"method": self.method, "precision": self.precision, "refine": self.refine}


def is_double(dtype: str) -> bool:
    """Tell whether a dtype has double precision."""
    return SINGLES[dtype] != dtype


def single(dtype: str) -> str:
    """Return the dtype of the same kind in single precision."""
    return SINGLES[dtype]


# n and m: most of them small enough for references with fifty digits.
SHAPES = (
    (1, 1), (1, 6), (6, 1), (2, 9), (3, 40), (5, 60), (7, 7), (8, 8), (8, 50), (10, 30),
    (12, 33), (16, 25), (19, 20), (20, 19), (25, 8), (30, 12), (60, 5), (33, 3),
    (24, 150), (40, 40), (64, 300), (90, 20), (150, 24),
)  # fmt: skip
PRECISIONS = ("auto", "auto", "auto", "native", "native", "mixed", "named")
METHODS = ("auto", "auto", "cholesky", "eigh", "svd", "qr", "cg")
LAYOUTS = ("array",) * 7 + ("strided", "list", "list", "columns", "rows", "operator", "kernel")
LONG = 60_000  # terms of sums in layouts that BLAS may not take


def _choice(rng: np.random.Generator, among: tuple) -> object:
    return among[rng.integers(len(among))]


def _others(dtype: str) -> tuple[str, ...]:
    """Return dtypes that right-hand sides may have, that of S the most often."""
    if dtype.startswith("complex"):
        return (dtype, dtype, "complex64", "complex128", "float64")
    return (dtype, dtype, dtype, "float32", "float64", "complex64", "complex128")


def _program(rng: np.random.Generator) -> Program:
    function = str(_choice(rng, ("solve", "lstsq", "lstsq", "solve", "sr")))
    dtype = str(_choice(rng, ("float32", "float32", "float64", "complex64", "complex128")))
    other, layout = str(_choice(rng, _others(dtype))), str(_choice(rng, LAYOUTS))
    n, m = _choice(rng, SHAPES)  # type: ignore[misc]
    if layout == "rows":
        n, m = max(n, m), min(n, m)
    if layout == "strided":
        n, m = (2, LONG) if rng.random() < 0.5 else (LONG, 2)
    method, named = str(_choice(rng, METHODS)), str(_choice(rng, ("float32", "float64")))
    if layout not in ("array", "list") and method in ("svd", "qr"):
        method = "cholesky"
    precision = str(_choice(rng, PRECISIONS))
    program = Program(
        function=function,
        door=str(_choice(rng, ("function", "function", "factor", "redamped"))),
        layout=layout,
        dtype=dtype,
        other=other,
        n=n,
        m=m,
        k=_choice(rng, (None, None, None, 1, 3)),  # type: ignore[arg-type]
        batch=_choice(rng, ((), (), (), (2,))) if layout == "array" else (),  # type: ignore[arg-type]
        x0=function == "lstsq" and bool(rng.random() < 0.3),
        metric=bool(rng.random() < 0.25),
        null=function != "sr" and n > 2 and bool(rng.random() < 0.2),
        weights=False,
        mode=None,
        method=method,
        precision=named if precision == "named" else precision,
        refine=int(rng.integers(4)),
    )
    if program.null:
        program = program._replace(other=dtype)
    return _reconfiguration(rng, program) if function == "sr" else program


def _reconfiguration(rng: np.random.Generator, program: Program) -> Program:
    """Return a program of stochastic reconfiguration, which takes one right-hand side."""
    layout = program.layout if program.layout not in ("operator", "kernel") else "array"
    mode = "real"
    if program.dtype.startswith("complex"):
        mode = str(_choice(rng, ("complex", "holomorphic")))
    return program._replace(
        door="function",
        layout=layout,
        n=max(program.n, 3),
        k=None,
        weights=bool(rng.random() < 0.5),
        x0=bool(rng.random() < 0.3),
        mode=mode,
        other=program.dtype,
    )


def _programs(count: int) -> tuple[Program, ...]:
    rng = np.random.default_rng(20231016)
    return tuple(_program(rng) for _ in range(count))


PROGRAMS = _programs(200)
