"""Rows of a layer: what a forward and a backward pass leave, scaled as curvature needs it."""

from __future__ import annotations

import math
from typing import Any, Literal

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import opened
from ngdla._backend.checks import require_choice, require_flag
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.products import conjugated

from .layer_samples import LayerSamples, layer_samples

__all__ = ["LOSSES", "SHARINGS", "Loss", "Sharing", "layer_rows", "rows_of"]

Sharing = Literal["expand", "reduce", "none"]
Loss = Literal["sum", "mean", "token-mean"]
SHARINGS = ("expand", "reduce", "none")
LOSSES = ("sum", "mean", "token-mean")


def layer_rows(
    inputs: Array,
    output_gradients: Array,
    *,
    sharing: Sharing = "expand",
    bias: bool = True,
    loss: Loss = "sum",
    positions: bool | None = None,
) -> tuple[AnyArray, AnyArray]:
    """Return the rows (a, g) of a layer, with Kronecker factors a^T a / rows and g^T g / rows.

    Parameters
    ----------
    inputs : array, shape (..., M, d_in) or (..., M, T, d_in), real or complex
        What the layer multiplies by its weight: one row per sample, or one per position of each
        sample, such as the tokens of a sequence or the `patches` of a convolution. Leading axes
        are a stack of layers: positions along several axes, (M, height, width, d_in), are to be
        made one. M may be 0.
    output_gradients : array, shape (..., M, d_out) or (..., M, T, d_out)
        Gradients of the loss of the whole batch by the outputs of the layer, as a backward pass
        leaves them.
    sharing : {"expand", "reduce", "none"}, default "expand"
        How positions, which share the weight, become rows. "expand": each position is a row, M T
        in all. "reduce": each sample is one, the mean of its inputs and the sum of its output
        gradients. "none": positions stay an axis, for functions that take ``positions=True``:
        `sample_gram`, `weighted_gradient`, `weight_sharing_step`, `inverse_free_statistics`.
    bias : bool, default True
        Whether the layer adds a bias: ones are then appended to the inputs, and the last column of
        a weight (d_out, d_in + 1) is the bias.
    loss : {"sum", "mean", "token-mean"}, default "sum"
        What the loss of the batch is of the losses of its samples: their sum; their mean over M
        samples, each with one loss or a sum over positions; or the mean over M samples and T
        positions, where each token counts as a sample.
    positions : bool, optional
        Whether there is an axis of positions. Arrays (M, d) have none; from three axes on it must
        be given. True: (..., M, T, d). False: (..., M, d).

    Returns
    -------
    a : array, shape (..., rows, d_in), or (..., rows, d_in + 1) with a bias
        Of the dtype that both arguments promote to, float32 or wider. With "none" (..., M, T, d_in)
        where there are positions.
    g : array, shape (..., rows, d_out)
        Gradients of single samples; of "expand" with positions multiplied by sqrt(T).

    Raises
    ------
    TypeError
        If arguments are no floating-point arrays of one library, or `positions` is missing.
    ValueError
        If they disagree in M, T or leading axes, or an option is none of those above.

    Notes
    -----
    The curvature of a sample is a sum over its positions, but averages divide both factors by the
    number of rows. With "expand", A = a^T a / (M T) is a mean over all rows and G = g^T g / (M T) a
    mean over samples of sums over positions: hence sqrt(T). The gradient of a mean over M samples
    is M times too small for that of a single one. Together, output gradients are multiplied by

    ============  ===============  ===========  ============
    loss          "none"           "expand"     "reduce"
    ============  ===============  ===========  ============
    "sum"         1                sqrt(T)      1
    "mean"        M                M sqrt(T)    M
    "token-mean"  M sqrt(T)        M T          M sqrt(T)
    ============  ===============  ===========  ============

    Cost: one pass over each argument, and a copy where something is changed: without a bias
    inputs are not copied.
    Precision: one rounding of each output gradient. Half precision is converted to float32.

    References
    ----------
    R. Eschenhagen, A. Immer, R. E. Turner, F. Schneider, P. Hennig, "Kronecker-factored approximate
    curvature for modern neural network architectures", arXiv:2311.00636 (expand and reduce).

    Examples
    --------
    A linear layer at T = 5 tokens, and a loss that is a mean over M = 8 sequences:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> tokens, gradients = rng.standard_normal((8, 5, 4)), rng.standard_normal((8, 5, 3)) / 8
    >>> a, g = layer_rows(tokens, gradients, loss="mean", positions=True)
    >>> a.shape, g.shape
    ((40, 5), (40, 3))
    >>> G = 8 * np.einsum("mti,mtj->ij", gradients, gradients)
    >>> bool(np.allclose(g.T @ g / 40, G))
    True
    """
    require_choice(sharing, "sharing", SHARINGS)
    require_choice(loss, "loss", LOSSES)
    require_flag(bias, "bias")
    samples = layer_samples(inputs, output_gradients, positions)
    M, T = samples.M, samples.T
    factor = {"sum": 1.0, "mean": float(M), "token-mean": M * math.sqrt(T)}[loss]
    a, g = rows_of(samples, sharing, bias=bias, factor=factor)
    if sharing == "none" and not positions:
        a, g = a[..., 0, :], g[..., 0, :]
    return a, g


def rows_of(
    samples: LayerSamples, sharing: Sharing, *, bias: bool, factor: float
) -> tuple[Array, Array]:
    """Return rows of samples whose gradients become those of single ones by a factor."""
    with opened(samples.a):
        if sharing == "reduce":
            a, g = _reduced(samples)
        elif sharing == "expand":
            a, g = samples.rows()
            factor *= math.sqrt(samples.T)
        else:
            a, g = samples
        a, g = with_ones(a) if bias else a, g if factor == 1 else factor * g
        return conjugated(a), conjugated(g)


def with_ones(a: Array) -> Array:
    """Return inputs with a last column of ones, which a bias multiplies."""
    xp = namespace(a)
    return xp.concat([a, xp.ones_like(a[..., :1])], axis=-1)


def _reduced(samples: LayerSamples) -> tuple[Array, Array]:
    """Return the mean of inputs and the sum of output gradients over positions."""
    if samples.T == 1:
        return samples.rows()
    xp: Any = namespace(samples.a)
    a = xp.sum(samples.a, axis=-2) / max(samples.T, 1)  # no positions: zero, as their sum
    return a, xp.sum(samples.g, axis=-2)
