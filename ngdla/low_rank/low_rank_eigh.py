"""U diag(d) U^H + tail (I - U U^H): few eigenpairs, and one number for all the others."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any, Literal

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened
from ngdla._backend.checks import require_choice
from ngdla._backend.fused import filled, not_negative
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_to_diagonal, adjoint, rmatvec
from ngdla._backend.scalars import eigenvalue_damping
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.states import state_class
from ngdla._backend.tracing import detached, differentiable

from .columns import apply_to_columns

__all__ = [
    "TAILS",
    "LowRankEigh",
    "Tail",
    "clipped",
    "combined",
    "require_rank",
    "rounded_up_to_zero",
    "tail_of",
    "truncate_eigenpairs",
]

Tail = Literal["trace", "min", "zero"]
TAILS = ("trace", "min", "zero")


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class LowRankEigh:
    """Truncated eigendecomposition of a positive semi-definite matrix, with a model of the rest.

    Attributes
    ----------
    eigenvalues : array, shape (..., r), real
        The kept eigenvalues d, in descending order, never negative.
    eigenvectors : array, shape (..., d, r)
        U, orthonormal columns.
    tail : array, shape (...), real
        Stands for each of the d - r eigenvalues that are not kept; never negative.
    trace : array, shape (...), real
        The trace of A itself.
    error : array, shape (...), real
        Estimate of |A - U diag(d) U^H|_F, without the tail. An estimate, not a bound.

    Notes
    -----
    A frozen dataclass and a pytree of arrays: it passes through `jax.jit`, `jax.vmap` and
    `torch.vmap`, and is saved by `state_dict`. Products cost 4 d r flops per column; only
    `to_dense` forms a d x d matrix.

    For a mode that is not kept, of eigenvalue e, the damped inverse has the relative error
    (e - tail) / (tail + damping). With tail 0 this is e / damping, which grows without bound as
    the damping falls; with the smallest kept eigenvalue as the tail it lies between -1 and 0.

    `truncate` adds the norm of the dropped eigenvalues to `error` as if they were orthogonal to
    the error so far. The neglected term is never negative, so that the estimate after truncation is
    a few per cent low.
    """

    eigenvalues: AnyArray
    eigenvectors: AnyArray
    tail: AnyArray
    trace: AnyArray
    error: AnyArray

    @property
    def trace_bound(self) -> AnyArray:
        """Return tr A - sum(d), (...): a bound on |A - U diag(d) U^H| in every Schatten norm.

        It holds up to roundings, u tr A, where the remainder is positive semi-definite: by method
        "nystrom", truncated or not, up to its shift; for exact eigenpairs always.
        """
        xp = namespace(self.trace)
        with opened(self.trace):
            return clipped(self.trace - xp.sum(self.eigenvalues, axis=-1))

    def matmul(self, V: Array, *, check: Check = True) -> AnyArray:
        """Return the product with V, of the shape of V.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, k)
            One or k columns.
        check : {True, "nan", False}
            Refuse NaN and Inf in `V`: reads one flag on the host. "nan", and True where values
            cannot be read: what is refused is NaN.

        Returns
        -------
        array
            tail V + U (d - tail) U^H V.
        """

        def product(V: Array, checks: ValueChecks) -> Array:
            tail = expanded(self.tail, 1)
            return self._combine(V, tail, self.eigenvalues - tail)

        return apply_to_columns(product, V, self.eigenvectors, "eigenvectors", check=check)

    def solve(self, V: Array, damping: Any, *, check: Check = True) -> AnyArray:
        """Return X with (U diag(d) U^H + tail (I - U U^H) + damping) X = V.

        Parameters
        ----------
        V : array, shape (..., d) or (..., d, k)
            One or k right-hand sides.
        damping : float or array, shape () or (...)
            Positive, in units of eigenvalues of A.
        check : {True, "nan", False}
            Refuse NaN and Inf in `V`, and dampings in arrays that are not positive, as `matmul`
            does.

        Returns
        -------
        array
            (V + U ((tail - d) / (d + damping)) U^H V) / (tail + damping), of the shape of V. With
            r = d it is U (1 / (d + damping)) U^H V. A truncated model loses
            u (|A| + damping) / (tail + damping) in its stiffest direction.
        """

        def corrected(U: Array, weights: Array, sigma: Array, V: Array) -> Array:
            # not V / sigma + ...: XLA would divide by the product of two shifts, which may overflow
            return (V + namespace(V).matmul(U, weights * rmatvec(U, V))) / sigma

        def solution(V: Array, checks: ValueChecks) -> Array:
            shift = self._damping(damping, checks)
            tail, d = expanded(self.tail, 1), self.eigenvalues
            if self.complete:
                return self._combine(V, None, 1 / (d + shift))
            xp = namespace(d)
            weights = xp.expand_dims((tail - d) / (d + shift), axis=-1)
            sigma = xp.expand_dims(tail + shift, axis=-1)
            return in_common_dtype(corrected, self.eigenvectors, weights, sigma, V)

        return apply_to_columns(solution, V, self.eigenvectors, "eigenvectors", check=check)

    def logdet(self, damping: Any, *, check: Check = True) -> AnyArray:
        """Return log det(U diag(d) U^H + tail (I - U U^H) + damping), (...).

        Parameters
        ----------
        damping : float or array, shape () or (...)
            Positive, in units of eigenvalues of A.
        check : {True, "nan", False}
            Refuse dampings in arrays that are not positive, as `matmul` does.

        Returns
        -------
        array, shape (...), real
            sum log(d + damping) + (d - r) log(tail + damping).
        """
        xp = namespace(self.eigenvalues)
        with opened(self.eigenvalues, check, nan=True) as checks:
            shift = self._damping(damping, checks)
            kept = xp.sum(xp.log(self.eigenvalues + shift), axis=-1)
            if self.complete:
                return kept
            tail = xp.squeeze(xp.log(expanded(self.tail, 1) + shift), axis=-1)
            return kept + self._missing * tail

    def to_dense(self) -> AnyArray:
        """Return the matrix itself, (..., d, d), tail included.

        Returns
        -------
        array, shape (..., d, d)
            U diag(d - tail) U^H + tail I.
        """
        xp = namespace(self.eigenvectors)
        with opened(self.eigenvectors):
            weights = xp.expand_dims(self.eigenvalues - expanded(self.tail, 1), axis=-2)
            dense = xp.matmul(self.eigenvectors * weights, adjoint(self.eigenvectors))
            return add_to_diagonal(dense, self.tail)

    def truncate(self, rank: int, *, tail: Tail = "trace") -> LowRankEigh:
        """Return the `rank` largest eigenpairs, with a tail that stands for all others.

        Parameters
        ----------
        rank : int
            From 1 to r.
        tail : {"trace", "min", "zero"}
            "trace": the mean of the missing eigenvalues, (tr A - sum d) / (d - rank). "min": the
            smallest kept one. "zero": none.

        Returns
        -------
        LowRankEigh
            Its error includes the norm of what was dropped.
        """
        require_rank(rank, self.eigenvalues.shape[-1], "the number of eigenpairs kept so far")
        with opened(self.eigenvalues):
            return truncate_eigenpairs(
                self.eigenvalues, self.eigenvectors, self.trace, self.error, rank, tail
            )

    @property
    def _missing(self) -> int:
        """Number of modes that the tail stands for."""
        return int(self.eigenvectors.shape[-2] - self.eigenvectors.shape[-1])

    @property
    def complete(self) -> bool:
        """Whether r = d, so that no mode is missing."""
        return self._missing == 0

    def _damping(self, damping: Any, checks: ValueChecks) -> Any:
        """Return the checked damping as a float, or as (..., 1)."""
        d = self.eigenvalues
        return expanded(eigenvalue_damping(damping, d, "A", tuple(d.shape[:-1]), checks), 1)

    def _combine(self, V: Array, outside: Array | None, weights: Array) -> Array:
        """Return outside V + U diag(weights) U^H V, for (..., 1) and (..., r)."""
        return combined(self.eigenvectors, V, outside, weights)


def combined(U: Array, V: Array, outside: Array | None, weights: Array) -> Array:
    """Return outside V + U diag(weights) U^H V of columns V, for (..., 1) and (..., r)."""
    xp = namespace(V)
    weights = xp.expand_dims(weights, axis=-1)
    outside = None if outside is None else xp.expand_dims(outside, axis=-1)

    def combine(U: Array, V: Array) -> Array:
        inside = xp.matmul(U, weights * rmatvec(U, V))
        return inside if outside is None else outside * V + inside

    return in_common_dtype(combine, U, V)


def truncate_eigenpairs(
    eigenvalues: Array, eigenvectors: Array, trace: Array, error: Array, rank: int, tail: Tail
) -> LowRankEigh:
    """Return the `rank` first of more eigenpairs, whose error is the given one."""
    xp = namespace(eigenvalues)
    kept, dropped = eigenvalues[..., :rank], eigenvalues[..., rank:]
    if dropped.shape[-1]:
        largest = filled(dropped[..., :1], dropped[..., :1] <= 0, 1.0)
        norm = xp.linalg.vector_norm(dropped / largest, axis=-1)  # squares may underflow
        error = xp.hypot(error, xp.squeeze(largest, axis=-1) * norm)
    U = eigenvectors[..., :rank]
    return LowRankEigh(kept, U, tail_of(tail, kept, trace, U.shape[-2]), trace, error)


def clipped(values: Array) -> Array:
    """Return the values without negative ones, which are roundings; NaN stays."""
    return not_negative(values)


def rounded_up_to_zero(x: Array) -> Array:
    """Return x, or 0 where roundings made it negative, with the derivatives of x itself."""
    if not differentiable(x):
        return clipped(x)
    value = detached(x)
    return clipped(value) + (x - value)


def tail_of(tail: Tail, eigenvalues: Array, trace: Array, size: int) -> Array:
    """Return what stands for each of the eigenvalues that are not kept, (...)."""
    require_choice(tail, "tail", TAILS)
    xp = namespace(eigenvalues)
    missing = size - eigenvalues.shape[-1]
    if tail == "zero" or not missing:
        return xp.zeros_like(trace)
    if tail == "min":
        return eigenvalues[..., -1]
    return rounded_up_to_zero((trace - xp.sum(eigenvalues, axis=-1)) / missing)


def require_rank(rank: Any, most: int, what: str, *, name: str = "rank") -> None:
    """Raise unless `rank` is an integer from 1 to `most`."""
    if isinstance(rank, bool) or not isinstance(rank, numbers.Integral):
        msg = f"`{name}` is {shown(rank)}; it must be an integer from 1 to {most}."
        raise TypeError(msg)
    if not 1 <= int(rank) <= most:
        msg = f"`{name}` is {shown(rank)}; it must be from 1 to {most}, {what}."
        raise ValueError(msg)
