"""The joint damping of two Kronecker factors: X with G X A + damping X = V, by their eigenpairs."""

from __future__ import annotations

from functools import partial
from typing import Any

from ngdla._backend.calls import ValueChecks
from ngdla._backend.implicit import implicit, with_derivatives_of
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import add_diagonal, adjoint, hermitian_part, rmatvec
from ngdla._backend.shapes import expanded, in_common_dtype
from ngdla._backend.sums import add_multiple
from ngdla._backend.tracing import differentiable
from ngdla.low_rank.low_rank_eigh import LowRankEigh

from .factor import eigenbasis, from_parts, parts_of, times_factor

__all__ = ["solve_jointly"]


def solve_jointly(
    A: Array | LowRankEigh, G: Array | LowRankEigh, V: Array, damping: Any, checks: ValueChecks
) -> Array:
    """Return X with G X A + damping X = V.

    Derivatives by dense factors follow from that equation, and not from their eigenvectors, which
    have none where eigenvalues are equal.
    """
    bases = eigenbasis(A, "A", checks), eigenbasis(G, "G", checks)
    of_A, of_G = parts_of(A), parts_of(G)
    if (len(of_A) > 1 and len(of_G) > 1) or not any(map(differentiable, (*of_A, *of_G))):
        return _solve_in_bases(*bases, V, damping)
    shift = namespace(V).zeros_like(bases[0].tail) + damping
    if len(of_A) == len(of_G) == 1:
        return _solve_in_components(*bases, *of_A, *of_G, V, shift)
    X = _solve_in_bases(*bases, V, damping)
    return implicit(
        partial(_equation, of_A=len(of_A)),
        _solution,
        X,
        lambda: (shift, *parts_of(bases[0]), *parts_of(bases[1])),
        (V, shift, *of_A, *of_G),
    )


# ----------------------------------------------------------------------- two dense factors


def _solve_in_components(
    basis_A: LowRankEigh, basis_G: LowRankEigh, A: Array, G: Array, V: Array, shift: Array
) -> Array:
    """Return X = W Z U^H with gamma Z alpha + damping Z = W^H V U, for complete bases.

    In their basis the factors are diagonal but for their derivatives, so that small components of
    Z are not lost beside large ones.
    """
    U, W = basis_A.eigenvectors, basis_G.eigenvectors
    components = in_common_dtype(_between, W, U, V)
    weights = _Weights(basis_A, basis_G, shift).both
    diagonal_A, diagonal_G = (
        with_derivatives_of(_in_basis, _diagonal(F, basis), (F, basis.eigenvectors))
        for F, basis in ((A, basis_A), (G, basis_G))
    )
    Z = implicit(
        _residual,
        _weighted,
        weights * components,
        lambda: (weights,),
        (components, shift, diagonal_A, diagonal_G),
    )
    return in_common_dtype(_back, W, U, Z)


def _between(W: Array, U: Array, V: Array) -> Array:
    """Return W^H V U."""
    return namespace(V).matmul(rmatvec(W, V), U)


def _back(W: Array, U: Array, Z: Array) -> Array:
    """Return W Z U^H."""
    xp = namespace(Z)
    return xp.matmul(xp.matmul(W, Z), adjoint(U))


def _in_basis(F: Array, U: Array) -> Array:
    """Return U^H F U of the Hermitian part of F."""
    return rmatvec(U, namespace(F).matmul(hermitian_part(F), U))


def _diagonal(F: Array, basis: LowRankEigh) -> Array:
    return add_diagonal(namespace(F).zeros_like(F), basis.eigenvalues)


def _residual(X: Array, V: Array, damping: Array, A: Any, G: Any) -> Array:
    """Return G X A + damping X - V."""
    return times_factor(G, _times(X, A)) + expanded(damping, 2) * X - V


def _weighted(B: Array, weights: Array) -> Array:
    return weights * B


# --------------------------------------------------------------------- one of them truncated


def _equation(X: Array, V: Array, damping: Array, *parts: Array, of_A: int) -> Array:
    """Return G X A + damping X - V; the first parts are those of A."""
    A, G = from_parts(parts[:of_A]), from_parts(parts[of_A:])
    return _residual(X, V, damping, A, G)


def _times(X: Array, A: Array | LowRankEigh) -> Array:
    """Return X A = (A X^H)^H."""
    return adjoint(times_factor(A, adjoint(X)))


def _solution(B: Array, damping: Array, *parts: Array) -> Array:
    """Return X with G X A + damping X = B, from three parts of each factor."""
    A, G = from_parts(parts[:3]), from_parts(parts[3:])
    assert isinstance(A, LowRankEigh)
    assert isinstance(G, LowRankEigh)
    return _solve_in_bases(A, G, B, damping)


def _solve_in_bases(A: LowRankEigh, G: LowRankEigh, V: Array, damping: Any) -> Array:
    """Return X with G X A + damping X = V, from eigenpairs (alpha, U) of A and (gamma, W) of G.

    With the tails a and g of A and G, and f(x, y) = 1 / (x y + damping), the part of V in the span
    of both bases is multiplied by f(alpha, gamma), that in the span of one of them by f(alpha, g)
    or f(a, gamma), the rest by f(a, g). Outside of a complete basis nothing is left, and nothing
    is subtracted.
    """
    if G.complete and not A.complete:
        return adjoint(_solve_in_bases(G, A, adjoint(V), damping))
    weights = _Weights(A, G, damping)
    solution = weights.truncated
    if A.complete:
        solution = weights.complete if G.complete else weights.complete_in_A
    return in_common_dtype(solution, A.eigenvectors, G.eigenvectors, V)


class _Weights:
    """Weights f(x, y) of eigenvalues alpha, gamma and tails a, g, and solutions by them.

    Rows belong to eigenvectors W of G, columns to eigenvectors U of A. Differences of f are formed
    without cancellation: f(x, y) - f(x, z) = x (z - y) f(x, y) f(x, z).
    """

    def __init__(self, A: LowRankEigh, G: LowRankEigh, damping: Any) -> None:
        xp = namespace(A.eigenvalues)
        self.alpha = xp.expand_dims(A.eigenvalues, axis=-2)  # (..., 1, r_A)
        self.gamma = xp.expand_dims(G.eigenvalues, axis=-1)  # (..., r_G, 1)
        self.a, self.g = expanded(A.tail, 2), expanded(G.tail, 2)
        self.shift = expanded(damping, 2)

    @property
    def both(self) -> Array:
        """f(alpha, gamma), of what lies in both spans."""
        return self._weight(self.alpha, self.gamma)

    @property
    def in_A(self) -> Array:
        """f(alpha, g), of what lies in the span of U alone."""
        return self._weight(self.alpha, self.g)

    @property
    def in_G(self) -> Array:
        """f(a, gamma), of what lies in the span of W alone."""
        return self._weight(self.a, self.gamma)

    @property
    def neither(self) -> Array:
        """f(a, g), of the rest."""
        return self._weight(self.a, self.g)

    def _weight(self, x: Array, y: Array) -> Array:
        return 1 / (x * y + self.shift)

    def complete(self, U: Array, W: Array, V: Array) -> Array:
        """Return the solution where nothing of V is outside of either basis."""
        xp = namespace(V)
        return xp.matmul(xp.matmul(W, self.both * xp.matmul(rmatvec(W, V), U)), adjoint(U))

    def complete_in_A(self, U: Array, W: Array, V: Array) -> Array:
        """Return the solution where nothing of V is outside of U."""
        xp = namespace(V)
        Q, in_A = xp.matmul(V, U), self.in_A
        # f(alpha, gamma) - f(alpha, g), of the part inside of W
        weights = (self.g - self.gamma) * self.both * (self.alpha * in_A * rmatvec(W, Q))
        return xp.matmul(in_A * Q + xp.matmul(W, weights), adjoint(U))

    def truncated(self, U: Array, W: Array, V: Array) -> Array:
        """Return f(a, g) V, and what eigenvectors of A, of G and of both change."""
        xp, alpha, gamma, a, g = namespace(V), self.alpha, self.gamma, self.a, self.g
        in_A, in_G, neither = self.in_A, self.in_G, self.neither
        P, Q = rmatvec(W, V), xp.matmul(V, U)
        # f(alpha, gamma) - f(alpha, g) - (f(a, gamma) - f(a, g)), of W^H V U
        in_both = (g - gamma) * self.both * (alpha * in_A)
        in_both = in_both - (g - gamma) * in_G * (a * neither)
        # f(alpha, g) - f(a, g), of V U
        right = (a - alpha) * in_A * (g * neither) * Q
        right = right + xp.matmul(W, in_both * xp.matmul(P, U))
        # f(a, gamma) - f(a, g), of W^H V
        left = (g - gamma) * in_G * (a * neither) * P
        inside = xp.matmul(xp.concat([right, W], axis=-1), xp.concat([adjoint(U), left], axis=-2))
        return add_multiple(inside, neither, V)
