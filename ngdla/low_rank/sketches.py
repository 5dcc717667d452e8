"""From products with a positive semi-definite matrix to its eigenpairs: four ways."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from ngdla._backend.calls import ValueChecks
from ngdla._backend.checks import require_choice, require_count
from ngdla._backend.fused import largest_along, plus_multiple, plus_product
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import squared_norm
from ngdla._backend.products import add_to_diagonal, adjoint, preserved, rmatvec
from ngdla._backend.shapes import expanded
from ngdla._backend.spectral import eigh, left_singular
from ngdla._backend.triangular import inverse_triangular

from .cholesky_qr import cholesky_qr, orthonormal, project_out
from .derivatives import exact_derivatives, trusted, without_derivatives
from .low_rank_eigh import TAILS, LowRankEigh, Tail, clipped, truncate_eigenpairs
from .nystrom_eigenpairs import in_descending_order, root_eigenpairs
from .nystrom_root import NystromRoot, nystrom_root, stabilising_shift
from .operand import HermitianOperand, require_positive
from .sketch_columns import SketchColumns, require_passes, sketch_columns

__all__ = [
    "SKETCH_METHODS",
    "SketchMethod",
    "SketchOptions",
    "SketchRequest",
    "SketchedRoot",
    "decompose",
    "probed_error",
    "sketch_options",
    "sketch_root",
    "sketch_widths",
]

SketchMethod = Literal["nystrom", "rayleigh-ritz", "rsvd", "sre"]
SKETCH_METHODS = ("nystrom", "rayleigh-ritz", "rsvd", "sre")


class SketchOptions(NamedTuple):
    """How a matrix is sketched, checked."""

    method: SketchMethod
    passes: int
    oversample: int
    tail: Tail


class SketchRequest(NamedTuple):
    """What is asked of a sketch, checked; also what it starts from."""

    A: HermitianOperand
    options: SketchOptions
    rank: int
    basis: Array | None  # orthonormal columns
    rng: Any

    @property
    def known(self) -> int:
        """Number of columns of the basis."""
        return 0 if self.basis is None else int(self.basis.shape[-1])

    def vectors(self, width: int) -> int:
        """Return how many eigenvectors are made of a sketch of that width: all if it spans A."""
        return width if width == self.A.size else self.rank

    def columns(self, start: int, fresh: int) -> SketchColumns:
        """Return `start` columns to start from, those of the basis first, and `fresh` others."""
        A = self.A
        shape = (*A.batch, A.size)
        return sketch_columns(
            self.basis, self.rng, start, fresh, like=A.like, shape=shape, dtype=A.dtype
        )


class SketchedRoot(NamedTuple):
    """The root of an approximation of A / unit, and the estimate of its Frobenius error."""

    root: NystromRoot
    error: Array


def sketch_options(method: Any, passes: Any, oversample: Any, tail: Any) -> SketchOptions:
    """Check the options, and return them."""
    require_choice(method, "method", SKETCH_METHODS)
    require_choice(tail, "tail", TAILS)
    require_passes(passes)
    require_count(oversample, "oversample")
    return SketchOptions(method, int(passes), int(oversample), tail)


def decompose(request: SketchRequest, checks: ValueChecks) -> LowRankEigh:
    """Return the decomposition by the method of the request."""
    A, rank = request.A, request.rank
    nystrom = request.options.method == "nystrom"
    values, U, error, Y = (_by_nystrom if nystrom else _by_projection)(request, checks)
    if U.shape[-1] == A.size:
        values, U = exact_derivatives(A, values, U, rank)
        error = without_derivatives(error, Y)
    else:
        values, U, error = trusted(values, rank, Y, values, U, error)
    if not nystrom:  # whose error is that of the pairs kept
        values = values[..., :rank]
    return _in_units_of_A(request, values, U, error)


def _by_nystrom(request: SketchRequest, checks: ValueChecks) -> tuple[Array, ...]:
    """Return all eigenvalues of A / unit, eigenvectors, the error of all, and their source."""
    sketch = sketch_root(request, checks)
    values, U = root_eigenpairs(sketch.root, request.vectors(sketch.root.B.shape[-1]))
    return values, U, sketch.error, sketch.root.B


def _in_units_of_A(request: SketchRequest, values: Array, U: Array, error: Array) -> LowRankEigh:
    """Return the decomposition of A from that of A / unit; of zero it is zero."""
    A, tail = request.A, request.options.tail
    values = values * expanded(A.scale, 1)
    return truncate_eigenpairs(values, U, A.trace, error * A.unit, request.rank, tail)


# --------------------------------------------------------------------------------- Nystrom


def sketch_root(request: SketchRequest, checks: ValueChecks) -> SketchedRoot:
    """Return a root of at least rank + oversample columns.

    The last product is that with an orthonormal basis Q, from the products before it, beside
    Gaussian columns G that enter as they are: what they add to the range of Q are new directions,
    and leaving one out at a time gives the error.
    """
    A, options = request.A, request.options
    columns = request.columns(*sketch_widths(options, request.rank, request.known, A.size))
    xp = namespace(A.like)
    Q = columns.start
    for _ in range(options.passes - 1):
        assert Q is not None
        Q = _power_step(A, Q)
    blocks = [] if Q is None else [Q]
    R = None
    if columns.fresh is not None:
        F, R = _complete_basis(Q, columns.fresh)
        blocks.append(F)
    omega = xp.concat(blocks, axis=-1) if len(blocks) > 1 else blocks[0]
    Y = A.times(omega)
    root = nystrom_root(omega, Y, A.roundoff, A.rounded)
    checks.require(lambda: _nearly_identity(root.overlap), _not_orthonormal)
    right = require_positive(checks, A, Y, root.core, root.size, root.ok)
    root = root._replace(B=checks.or_nan(right, root.B))
    if R is not None and omega.shape[-1] < A.size:  # nothing is missing where all are used
        error = _leave_one_out_error(root, R)
    else:
        error = clipped(A.trace / A.unit - squared_norm(root.B))  # bounds the norm
    return SketchedRoot(root, xp.where(root.size > 0, error, root.size))  # of zero: not the shift


def sketch_widths(options: SketchOptions, rank: int, known: int, size: int) -> tuple[int, int]:
    """Return how many columns are started from, `known` ones included, and how many are fresh.

    With one pass all Gaussian columns are fresh.
    """
    wanted = max(rank + options.oversample, known)
    start = known if options.passes == 1 else min(wanted, size)
    return start, min(max(wanted - start, options.oversample), size - start)


def _power_step(A: HermitianOperand, Q: Array) -> Array:
    """Return an orthonormal basis of the range of (A + shift) Q."""
    return orthonormal(_add_shift(A, A.times(Q), Q))


def _add_shift(A: HermitianOperand, AQ: Array, Q: Array) -> Array:
    """Return (A + shift) Q, which has full rank also where A Q has not."""
    return plus_multiple(AQ, expanded(stabilising_shift(AQ, A.roundoff), 2), Q)


def _complete_basis(Q: Array | None, G: Array) -> tuple[Array, Array]:
    """Return F and R with F R = (1 - Q Q^H) G, F orthonormal and orthogonal to Q."""
    if Q is None:
        return cholesky_qr(G)
    F, R = cholesky_qr(project_out(Q, G))
    return project_out(Q, F), R  # again: a small difference of G and its projection lost digits


def _nearly_identity(overlap: Array) -> Array:
    """Tell whether test columns are orthonormal; NaN passes, which others look for."""
    deviation = add_to_diagonal(preserved(overlap), -1.0)
    return ~(largest_along(deviation, None) > 0.1)


def _not_orthonormal() -> Exception:
    return ValueError(
        "`basis` does not have orthonormal columns; pass the Q of a QR factorisation of it."
    )


def _leave_one_out_error(root: NystromRoot, R: Array) -> Array:
    """Return the root mean square of |(A - A_j) g_j|, where A_j is made without column g_j.

    For the inverse H^-1 of the core with columns G = Q (Q^H G) + F R,
    (A - A_j) g_j = B L^-1 e_j / (H^-1)_jj. In the basis [Q, F] that is made with, e_j turns into
    [0; R^-H e_j], so that only the last columns of B and the last block of L enter: after
    E. N. Epperly, J. A. Tropp, SIAM J. Sci. Comput. 46, A508 (2024), for columns not orthonormal.
    """
    xp = namespace(R)
    p = R.shape[-1]
    M = inverse_triangular(xp.matmul(adjoint(R), root.L[..., -p:, -p:]))  # (R^H L_22)^-1
    products, norms = (
        xp.linalg.vector_norm(X, axis=-2) for X in (xp.matmul(root.B[..., -p:], M), M)
    )
    errors = products / norms**2  # |B_2 M e_j| / |M e_j|^2
    return xp.linalg.vector_norm(errors, axis=-1) / math.sqrt(p)


# ------------------------------------------------------------------------------ projection


def _by_projection(request: SketchRequest, checks: ValueChecks) -> tuple[Array, ...]:
    """Return Rayleigh-Ritz pairs or singular vectors of A Q; Gaussian columns measure the error."""
    A, options, rank = request.A, request.options, request.rank
    wanted = min(max(rank + options.oversample, request.known), A.size)
    columns = request.columns(wanted, options.oversample)
    Q, G = columns.start, columns.fresh
    assert Q is not None
    xp, width = namespace(Q), Q.shape[-1]
    for _ in range(options.passes - 1):
        Q = A.times(Q) if options.method == "sre" else _power_step(A, Q)
    if options.method == "sre" or options.passes == 1:
        some = expanded(xp.linalg.matrix_norm(Q), 2) > 0
        Q = orthonormal(xp.where(some, Q, columns.start))  # also of zero
    Y = A.times(Q if G is None else xp.concat([Q, G], axis=-1))
    AQ, AG = Y[..., :width], Y[..., width:]
    core = rmatvec(Q, AQ)
    values, W = in_descending_order(*eigh((core + adjoint(core)) / 2))
    size = xp.linalg.matrix_norm(AQ)
    allowed = 4 * max(A.size**0.5, A.rounded) * A.roundoff * size
    right = require_positive(checks, A, AQ, core, size, values[..., -1] >= -allowed)
    made = request.vectors(width)
    if options.method == "rsvd":
        values, U = _left_singular(AQ, _add_shift(A, AQ, Q), made)
    else:
        U = xp.matmul(Q, W[..., :made])
    values = checks.or_nan(right, clipped(values))
    error = A.trace + xp.nan
    if G is not None:
        error = probed_error(values[..., :rank], U[..., :rank], G, AG)
    return values, U, error, AQ


def _left_singular(Y: Array, shifted: Array, rank: int) -> tuple[Array, Array]:
    """Return the first singular values and left vectors of Y, which may be of lower rank."""
    P = orthonormal(shifted)
    s, W = left_singular(rmatvec(P, Y))
    return s, namespace(P).matmul(P, W[..., :rank])


def probed_error(values: Array, U: Array, G: Array, AG: Array) -> Array:
    """Return the root mean square of |(A - U diag(values) U^H) g| over columns g of G.

    For standard normal columns that the rest does not depend on, its square is on average that of
    the Frobenius norm of the rest.
    """
    xp = namespace(U)
    rest = plus_product(AG, U, xp.expand_dims(values, axis=-1) * rmatvec(U, G), -1.0)
    return xp.linalg.matrix_norm(rest) / math.sqrt(G.shape[-1])
