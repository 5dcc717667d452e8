"""Products with per-sample gradients of a layer, without forming them all (FNGD).

The gradient of sample i is g_i a_i^H, or a sum of such terms over positions. With these as columns
u_i of U, FNGD needs U^H U and U c.
"""

from __future__ import annotations

import math
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import ValueChecks, all_finite, opened
from ngdla._backend.checks import require_like
from ngdla._backend.dtypes import conjugate, dtype_name, is_complex
from ngdla._backend.gram import gram
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import adjoint, adjoint_product, rmatvec, trace, transposed_product
from ngdla._backend.shapes import in_common_dtype

from .layer_samples import LayerSamples, layer_samples, require_per_sample

__all__ = [
    "checked_gram",
    "gram_by_gradients",
    "gram_by_pairs",
    "sample_gram",
    "weighted_gradient",
]


def sample_gram(
    inputs: Array,
    output_gradients: Array,
    *,
    positions: bool | None = None,
    check: bool = True,
) -> AnyArray:
    """Return K = U^H U of the gradients of the samples of a layer, K_ij = (g_i^H g_j)(a_j^H a_i).

    Parameters
    ----------
    inputs : array, shape (..., M, d_in) or (..., M, T, d_in), real or complex
        a, what the layer multiplies by its weight: one row per sample, or one per position of each
        sample, such as the tokens of a sequence or the patches of a convolution. Leading axes are
        a stack of layers. M and T may be 0.
    output_gradients : array, shape (..., M, d_out) or (..., M, T, d_out)
        g, derivatives of per-sample losses by the outputs of the layer. If the loss is a mean over
        samples, multiply them by M.
    positions : bool, optional
        Whether there is an axis of positions. Arrays (M, d) have none; from three axes on it must
        be given. True: (..., M, T, d). False: (..., M, d).
    check : bool, default True
        Refuse NaN and Inf, read off the trace of K: reads one flag on the host.

    Returns
    -------
    array, shape (..., M, M)
        Hermitian to rounding, of the dtype that both promote to, float32 or wider. Zero samples
        give (..., 0, 0); samples without positions have gradients of zero.

    Raises
    ------
    TypeError
        If arguments are no floating-point arrays of one library, or `positions` is missing.
    ValueError
        If they disagree in M, T or leading axes, arrays (M, d) are said to have positions, or NaN
        or Inf is found.

    Notes
    -----
    Method: without positions, the product, entry by entry, of two small Gram matrices, in
    M^2 (d_in + d_out) flops. With positions, u_i = sum_t g_it a_it^H, in whichever of two ways
    takes less time: by pairs of positions, K_ij = sum_ts (g_it^H g_js)(a_js^H a_it), in
    (M T)^2 (d_in + d_out) flops; or by gradients in chunks of at most 2^24 numbers, 64 MB in
    float32, in 2 M T d_in d_out + M^2 d_in d_out.
    Memory: some M x M matrices; with positions that chunk, or, for each matrix of a stack, some
    blocks of at most 2048 x 2048 pairs, 16 MB in float32, or T x T where T is larger. Arguments in
    half precision are converted to float32.
    Precision: errors of K_ij of a few u |u_i| |u_j|. By pairs they are u times the sum of all
    |pairs|, which is much more where the terms of a gradient nearly cancel. Products of float32
    never drop to TF32.

    References
    ----------
    FNGD, arXiv:2403.03473, equations (11) and (12); (13) for convolutions. Z. Bu, J. Mao, S. Xu,
    arXiv:2205.10683, choose between the same two ways to find norms of single gradients.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> a, g = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    >>> U = (g[:, :, None] * a[:, None, :]).reshape(5, 12).T
    >>> bool(np.allclose(sample_gram(a, g), U.T @ U))
    True
    """
    samples = layer_samples(inputs, output_gradients, positions)
    with opened(samples.a, check) as checks:
        return checked_gram(samples, checks)


def weighted_gradient(
    inputs: Array,
    output_gradients: Array,
    c: Array,
    *,
    positions: bool | None = None,
    check: bool = True,
) -> AnyArray:
    """Return sum_i c_i g_i a_i^H, U c in the shape of the weight.

    Parameters
    ----------
    inputs : array, shape (..., M, d_in) or (..., M, T, d_in), real or complex
        a, as for `sample_gram`.
    output_gradients : array, shape (..., M, d_out) or (..., M, T, d_out)
        g.
    c : array, shape (..., M)
        A weight for each sample, as from `sample_weights`; 1 / M gives the mean gradient.
    positions : bool, optional
        As for `sample_gram`.
    check : bool, default True
        Refuse NaN and Inf in `c`: reads one flag on the host. `inputs` and `output_gradients` are
        not checked here, but by `sample_gram`.

    Returns
    -------
    array, shape (..., d_out, d_in)
        Of the dtype that all promote to, float32 or wider. Zeros if there are no samples.

    Raises
    ------
    TypeError
        If arguments are no floating-point arrays of one library, or `positions` is missing.
    ValueError
        If shapes disagree, arrays (M, d) are said to have positions, or `c` contains NaN or Inf.

    Notes
    -----
    Cost: a product of 2 M T d_in d_out flops, that of an ordinary weight gradient, and a copy of
    the narrower one of `inputs` and `output_gradients`, multiplied by the weights; of complex ones
    two copies of `output_gradients`. A convolution that has its own kernel for weight gradients
    needs no `patches`: multiply its feature maps by `c`, a sample at a time, and call that.

    References
    ----------
    FNGD, arXiv:2403.03473 (weighted inputs in the backward pass).

    Examples
    --------
    >>> import numpy as np
    >>> a, g = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0], [1.0]])
    >>> weighted_gradient(a, g, np.array([0.5, 0.5]))
    array([[2., 3.]])
    """
    samples = layer_samples(inputs, output_gradients, positions)
    require_per_sample(c, "c")
    require_like(c, "c", inputs, "inputs")
    expected = (*samples.batch, samples.M)
    if tuple(c.shape) != expected:
        msg = f"`c` has shape {tuple(c.shape)}; for {samples.M} samples it must be {expected}."
        raise ValueError(msg)
    with opened(c, check) as checks:
        checks.finite("c", c, batch=len(samples.batch), kind="vector")
        return in_common_dtype(_weighted_sum, *samples, c)


def checked_gram(samples: LayerSamples, checks: ValueChecks) -> Array:
    """Return K = U^H U, with a test for NaN and Inf."""
    K = _gram(samples)
    msg = (
        f"`inputs` or `output_gradients` contain NaN or Inf, or products of norms beyond the range "
        f"of {dtype_name(K.dtype)}; pass finite values, or scale the gradients."
    )
    checks.require(lambda: all_finite(trace(K)), lambda: ValueError(msg))
    return K


# ------------------------------------------------------------------------------------- gram

_BLOCK_POSITIONS = 2048  # in a block of pairs
_CHUNK_NUMBERS = 2**24  # in a chunk of gradients
# Overhead of a pair of positions, and of a number of a gradient, beside its products, in flops:
# measured on the CPU (asv_benchmarks/claims/sample_weights.py).
_PAIR_FLOPS = 256
_GRADIENT_FLOPS = 128


def _gram(samples: LayerSamples) -> Array:
    """Return K by the fastest of three ways; sums over nothing where there is nothing."""
    if samples.empty:
        return _gram_of_nothing(samples)
    if samples.T == 1:
        a, g = samples.rows()
        return gram(a) * conjugate(gram(g))  # (g_i^H g_j)(a_j^H a_i)
    if _pairs_are_cheaper(samples):
        K = gram_by_pairs(samples)
        return (K + adjoint(K)) / 2  # blocks are not summed up in the order of their transposes
    return gram_by_gradients(samples)


def _gram_of_nothing(samples: LayerSamples) -> Array:
    """Return K of zero samples, or of samples that have no positions: all that is left is zero."""
    xp = namespace(samples.a)
    a, g = (xp.sum(x, axis=(-1, -2)) for x in samples)
    product = xp.expand_dims(a * g, axis=-1)
    return xp.matmul(product, adjoint(product))


def _pairs_are_cheaper(samples: LayerSamples) -> bool:
    """Compare the flops of both ways, overhead included."""
    M, T = samples.M, samples.T
    *_, d_in, d_out = samples.layer
    pairs = (M * T) ** 2 * (d_in + d_out + _PAIR_FLOPS)
    gradients = M * d_in * d_out * (2 * T + M + _GRADIENT_FLOPS)
    return pairs < gradients


def gram_by_pairs(samples: LayerSamples) -> Array:
    """Return K_ij = sum_ts (g_it^H g_js)(a_js^H a_it), by halves of the samples."""
    M, T = samples.M, samples.T
    if M == 1 or M * T <= _BLOCK_POSITIONS:
        a, g = samples.rows()
        return _sum_positions(gram(a) * conjugate(gram(g)), T)
    xp = namespace(samples.a)
    first, second = samples.halves()
    cross = _cross_block(second, first)
    upper = xp.concat([gram_by_pairs(first), adjoint(cross)], axis=-1)
    lower = xp.concat([cross, gram_by_pairs(second)], axis=-1)
    return xp.concat([upper, lower], axis=-2)


def _cross_block(left: LayerSamples, right: LayerSamples) -> Array:
    """Return the block of K of samples on the left and samples on the right."""
    xp, T = namespace(left.a), left.T
    if left.M > 1 and left.M * T > _BLOCK_POSITIONS:
        return xp.concat([_cross_block(half, right) for half in left.halves()], axis=-2)
    if right.M > 1 and right.M * T > _BLOCK_POSITIONS:
        return xp.concat([_cross_block(left, half) for half in right.halves()], axis=-1)
    a, g = (xp.matmul(x, adjoint(y)) for x, y in zip(left.rows(), right.rows()))
    return _sum_positions(a * conjugate(g), T)


def _sum_positions(pairs: Array, T: int) -> Array:
    """Return sums over T x T blocks: over rows first, since a short last axis is slow in NumPy."""
    xp = namespace(pairs)
    *batch, rows, columns = pairs.shape
    pairs = xp.sum(xp.reshape(pairs, (*batch, rows // T, T, columns)), axis=-2)
    return xp.sum(xp.reshape(pairs, (*batch, rows // T, columns // T, T)), axis=-1)


def gram_by_gradients(samples: LayerSamples) -> Array:
    """Return U^H U of gradients that are formed, some rows of them at a time."""
    a, g = samples
    xp, M = namespace(a), samples.M
    *batch, d_in, d_out = samples.layer
    width = max(1, _CHUNK_NUMBERS // (math.prod(batch) * M * d_in))
    K: Any = 0
    for i in range(0, d_out, width):
        conjugates = adjoint_product(g[..., i : min(i + width, d_out)], a)
        K = K + gram(xp.reshape(conjugates, (*batch, M, -1)))
    return K


# --------------------------------------------------------------------------------- gradient


def _weighted_sum(a: Array, g: Array, c: Array) -> Array:
    """Return sum_it c_i g_it a_it^H: the weights multiply the narrower of a and g."""
    xp = namespace(a)
    c = xp.reshape(c, (*c.shape, 1, 1))
    if 0 in a.shape:  # a product of two sums over nothing
        a, g = (xp.sum(x, axis=(-3, -2)) for x in (a, c * g))
        return xp.expand_dims(g, axis=-1) * xp.expand_dims(a, axis=-2)
    if is_complex(a):
        a, g = LayerSamples(a, c * g).rows()
        return xp.matrix_transpose(rmatvec(a, g))
    narrow = a.shape[-1] < g.shape[-1]
    a, g = LayerSamples(c * a if narrow else a, g if narrow else c * g).rows()
    return transposed_product(g, a)
