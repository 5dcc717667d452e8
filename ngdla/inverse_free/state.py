"""States of inverse-free updates: the factors, how they are stored, and what the last step did."""

from __future__ import annotations

from typing import Any, NamedTuple

from ngdla._backend.namespace import Array
from ngdla.structures import StructuredMatrix

__all__ = [
    "STORAGES",
    "InverseFreeReport",
    "InverseFreeState",
    "InverseFreeStatistics",
    "stored",
    "value",
]

STORAGES = ("native", "float32", "compensated")


class InverseFreeReport(NamedTuple):
    """What the last update did.

    Attributes
    ----------
    bound_K, bound_C : array, shape (...), real
        Bounds on the moduli of the eigenvalues of the tangents, momentum included.
    step_K, step_C : array, shape (...), real
        The steps that were made: `step_size`, less where the safeguard shortened it, 0 if skipped.
    staleness_K, staleness_C : array, shape (...), real
        |2 m|_F / sqrt(d) of the tangents m of this batch alone: 0 where a factor is the optimum
        for the batch, about 1 where it is off by a factor of 2.
    skipped : array, shape (...), bool
        Whether the state was left as it was: NaN or Inf in the statistics, factors beyond their
        dtype, or, where they cannot be read, a damping or a step that is not positive.
    """

    bound_K: Array
    bound_C: Array
    step_K: Array
    step_C: Array
    staleness_K: Array
    staleness_C: Array
    skipped: Array


class InverseFreeState(NamedTuple):
    """Factors of a Kronecker preconditioner C C^H V K K^H: a value, and a pytree.

    Attributes
    ----------
    K : StructuredMatrix
        Of the inputs, (..., d_in, d_in); K K^H stands for the damped inverse of their second
        moment.
    C : StructuredMatrix
        Of the output gradients, (..., d_out, d_out).
    momentum_K, momentum_C : StructuredMatrix or None
        Running tangents; None where the state was made without.
    compensation_K, compensation_C : StructuredMatrix or None
        What the stored factors lost in rounding, with storage "compensated".
    step : array, shape (), int
        Number of updates that changed the factors.
    report : InverseFreeReport
        Of the last update; zeros before the first.
    """

    K: StructuredMatrix
    C: StructuredMatrix
    momentum_K: StructuredMatrix | None
    momentum_C: StructuredMatrix | None
    compensation_K: StructuredMatrix | None
    compensation_C: StructuredMatrix | None
    step: Array
    report: InverseFreeReport


class InverseFreeStatistics(NamedTuple):
    """Curvature of a batch in the coordinates of a state. Sums: those of parts of a batch add up.

    Attributes
    ----------
    H_K : StructuredMatrix
        Pi(K^H U K) of the weighted sum U = sum_i w_i a_i a_i^H of inputs.
    H_C : StructuredMatrix
        Pi(C^H G C) of the weighted sum G = sum_i w_i g_i g_i^H of output gradients.
    rows : array, shape (...), real
        The sum of the weights, by which an update divides both.

    Notes
    -----
    ``statistics + others``, or ``sum(parts)``, is the statistics of all, if they were taken with
    the same state; on several devices, sum the leaves of this pytree over the devices.
    """

    H_K: StructuredMatrix
    H_C: StructuredMatrix
    rows: Array

    def __add__(self, other: Any) -> InverseFreeStatistics:
        if not isinstance(other, InverseFreeStatistics):
            return NotImplemented
        return InverseFreeStatistics(
            self.H_K + other.H_K, self.H_C + other.H_C, self.rows + other.rows
        )

    def __radd__(self, other: Any) -> InverseFreeStatistics:
        """Return the statistics themselves as a sum that starts from 0, as that of `sum`."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def value(matrix: StructuredMatrix, compensation: StructuredMatrix | None) -> StructuredMatrix:
    """Return a stored factor in the compute dtype, with what its storage lost."""
    return matrix.computed() if compensation is None else matrix + compensation


def stored(
    matrix: StructuredMatrix, like: StructuredMatrix, compensation: StructuredMatrix | None
) -> tuple[StructuredMatrix, StructuredMatrix | None]:
    """Return a factor in the dtype in which another one is stored, and what that loses."""
    rounded = matrix.astype(like.dtype_name)
    if compensation is None:
        return rounded, None
    return rounded, (matrix - rounded).astype(compensation.dtype_name)
