"""One problem of a batch, with what is known exactly about it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .cases import UNIT, Case
from .exact import eigen, frobenius, long
from .programs import Program

__all__ = ["MARGIN", "Check", "Matrix", "Problem", "rounding"]

MARGIN = 64  # roundings for each unknown


class Check(NamedTuple):
    """An error, and the bound that it must not exceed."""

    name: str
    error: Any
    bound: Any


class Matrix:
    """A Hermitian matrix in long double, and its exact eigenpairs."""

    def __init__(self, A: np.ndarray, program: Program) -> None:
        self.given, self.program = A, program

    @property
    def dense(self) -> np.ndarray:
        """The matrix."""
        return long(self.given)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, ascending, and eigenvectors: of single precision by double precision."""
        if self.program.double:
            return eigen(self.given)
        size = float(np.max(np.abs(self.given))) or 1.0
        wide = np.complex128 if np.iscomplexobj(self.given) else np.float64
        w, U = np.linalg.eigh(self.given.astype(wide) / size)
        return long(w) * size, long(U)

    @property
    def values(self) -> np.ndarray:
        """Eigenvalues, ascending."""
        return self.pairs[0]

    @cached_property
    def norm(self) -> Any:
        """|A|_F."""
        return frobenius(self.given)

    @cached_property
    def size(self) -> Any:
        """|A|_F, and what the least normal number is worth: no entry is known better than it."""
        return self.norm + len(self.given) * np.finfo(self.program.work).tiny / rounding(
            self.program
        )

    def sign(self, allowed: float) -> str:
        """Tell whether it is semi-definite: legal, illegal, or either, by roundings `allowed`."""
        least = self.values[0]
        if least >= -3 * allowed * self.norm:
            return "legal"
        roundings = 16 * allowed + MARGIN * len(self.given) * rounding(self.program)
        clear = least < -roundings * self.size
        return "illegal" if clear else "either"


def rounding(program: Program) -> float:
    """Return u of the dtype that is computed in."""
    return UNIT[program.work]


class Problem:
    """One problem of a batch."""

    def __init__(self, case: Case, index: tuple[int, ...]) -> None:
        self.case, self.program = case, case.program
        online = case.program.function == "online_eigh"
        self.arrays = {
            name: x[(slice(None), *index)] if online and name == "X" else x[index]
            for name, x in case.arrays.items()
        }

    @property
    def u(self) -> float:
        """Roundoff of the dtype that is computed in."""
        return rounding(self.program)

    @property
    def stored(self) -> float:
        """Roundoff of the dtype in which matrices came."""
        return UNIT[self.program.dtype]

    @property
    def tiny(self) -> float:
        """The least normal number."""
        return float(np.finfo(self.program.work).tiny)

    @property
    def largest(self) -> float:
        """The largest number."""
        return float(np.finfo(self.program.work).max)

    @property
    def damping(self) -> Any:
        """The damping, rounded to the dtype that is computed in."""
        return np.longdouble(np.finfo(self.program.work).dtype.type(self.case.damping))

    @cached_property
    def A(self) -> Matrix:
        """The matrix named A."""
        return Matrix(self.arrays["A"], self.program)

    @cached_property
    def exact(self) -> dict[str, Any]:
        """Whatever a judge wants to keep for other libraries."""
        return {}

    def finite(self) -> bool:
        """Tell whether matrices are finite."""
        return all(np.all(np.isfinite(x)) for x in self.arrays.values())
