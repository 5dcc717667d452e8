r"""The damping with which a damped fit has a given length |S x|.

In the basis of left singular vectors S x = U diag(g / (g + damping)) c, so that

    h(damping)^2 = |S x|^2 = sum_k (g_k |c_k| / (g_k + damping))^2,

which falls from |c| to 0. 1 / h is an increasing and concave function of the damping, and nearly
a straight line: Newton's method on 1 / h = 1 / delta, started on the left of the root, converges
from there without passing it. Numbers are in units of the largest eigenvalue and coefficient.
"""

from __future__ import annotations

from ngdla._backend.dtypes import dtype_name, unit_roundoff
from ngdla._backend.implicit import implicit
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import largest_entry
from ngdla._backend.tracing import compiled, detached, iterated, nan_unless

__all__ = ["damping_at_length", "known_coefficients"]

_ITERATIONS = 20  # at most 12 were needed by 80,000 right-hand sides of up to 15 decades
_ROUNDINGS = 4.0  # of |S|_F^2 in an eigenvalue


def known_coefficients(values: Array, coefficients: Array, squared_norm: Array) -> Array:
    """Return coefficients, (..., d, k), 0 where eigenvalues, (..., d), are rounding errors.

    S x does not reach what these belong to.
    """
    xp = namespace(values)
    least = _ROUNDINGS * unit_roundoff(dtype_name(values.dtype)) * squared_norm
    known = xp.expand_dims(values > xp.expand_dims(least, axis=-1), axis=-1)
    return xp.where(known, coefficients, xp.zeros_like(coefficients))


def damping_at_length(
    values: Array, coefficients: Array, delta: Array
) -> tuple[Array, Array, Array]:
    """Return the damping for |S x| = delta, (..., 1, k), |S x| without damping, and a flag.

    The flag says whether delta is less than that; elsewhere the damping is NaN. `values` are the
    eigenvalues, (..., d, 1), and `coefficients`, (..., d, k), |c|, 0 where these are not known.
    """
    xp = namespace(values)
    largest, unit = detached(largest_entry(values, -2)), detached(largest_entry(coefficients, -2))
    u = unit_roundoff(dtype_name(values.dtype))
    ratio, energy = values / largest, (coefficients / unit) ** 2
    ratio = xp.where(ratio > u, ratio, xp.ones_like(ratio))  # of others the energy is 0
    undamped, first = _norm(energy), _norm(energy * ratio * ratio)
    legal = delta < unit * undamped
    wanted = xp.where(legal, delta / unit, undamped / 2)
    far = wanted < u * first  # the damping is far above all eigenvalues
    wanted = xp.where(far, u * first, wanted)
    spectrum = (ratio, energy, wanted)
    found = compiled(_root, *map(detached, spectrum))
    near = implicit(_excess, _over_slope, found, lambda: (_slope(found, ratio, energy),), spectrum)
    # roots, so that nothing on the way is larger than the result
    root = xp.sqrt(largest) * (xp.sqrt(unit) / xp.sqrt(delta)) * xp.sqrt(first)
    damping = xp.where(far, root * root, largest * near)
    return damping * nan_unless(legal, damping), unit * undamped, legal


def _root(ratio: Array, energy: Array, wanted: Array) -> Array:
    """Return the damping, (..., 1, k), with h = wanted, by Newton's method in a bracket."""
    xp = namespace(ratio)
    length, mean = _length(xp.zeros_like(wanted), ratio, energy)
    above = _norm(energy * ratio * ratio) / wanted  # as ratio / (ratio + damping) < ratio / damping
    below = xp.maximum((length - wanted) / wanted * mean, above - 1)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        damping, below, above = state
        length, mean = _length(damping, ratio, energy)
        left = length >= wanted
        below = xp.where(left, xp.maximum(below, damping), below)
        above = xp.where(left, above, xp.minimum(above, damping))
        newton = damping + (length - wanted) / wanted * mean
        inside = (newton >= below) & (newton <= above)
        return xp.where(inside, newton, xp.sqrt(below * above)), below, above

    damping, *_ = iterated(step, (below, below, above), _ITERATIONS)
    return damping


def _length(damping: Array, ratio: Array, energy: Array) -> tuple[Array, Array]:
    """Return h and -h / h', a mean of ratio + damping, (..., 1, k)."""
    xp = namespace(ratio)
    shifted = ratio + damping
    squares = energy * (ratio * (1 + damping) / shifted) ** 2
    total = xp.sum(squares, axis=-2, keepdims=True)
    mean = total / xp.sum(squares / shifted, axis=-2, keepdims=True)
    return xp.sqrt(total) / (1 + damping), mean


def _slope(damping: Array, ratio: Array, energy: Array) -> Array:
    length, mean = _length(damping, ratio, energy)
    return -length / mean


def _excess(damping: Array, ratio: Array, energy: Array, wanted: Array) -> Array:
    return _length(damping, ratio, energy)[0] - wanted


def _over_slope(B: Array, slope: Array) -> Array:
    return B / slope


def _norm(squares: Array) -> Array:
    """Return the square root of sums, (..., 1, k)."""
    xp = namespace(squares)
    return xp.sqrt(xp.sum(squares, axis=-2, keepdims=True))
