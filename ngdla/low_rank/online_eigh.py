"""Eigenpairs that follow an exponential average of X^T conj(X) without forming it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import Check, ValueChecks, opened, place_in_batch
from ngdla._backend.checks import require_array, require_choice, require_count, require_like
from ngdla._backend.dtypes import (
    astype,
    dtype_name,
    is_complex,
    normal_range,
    result_name,
    unit_roundoff,
)
from ngdla._backend.fused import all_of, filled, finite_along, plus_multiple
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import squared_norm
from ngdla._backend.products import add_diagonal, trace, transposed_product
from ngdla._backend.pytrees import mapped
from ngdla._backend.scalars import fraction_values, is_nan
from ngdla._backend.shapes import expanded
from ngdla._backend.states import state_class
from ngdla._backend.tracing import choose_if_free, is_traced, without_graph

from .cholesky_qr import column_gram
from .derivatives import trusted
from .low_rank_eigh import TAILS, LowRankEigh, Tail, clipped, require_rank, truncate_eigenpairs
from .nystrom_eigenpairs import product_eigenpairs, root_eigenpairs
from .nystrom_root import SHIFT, positive_shift
from .operand import HermitianOperand, scaled_operand, trace_unit, unit_or_zero
from .sketch_columns import gaussian_columns, require_finite_columns, require_rng
from .sketches import SketchRequest, probed_error, sketch_options, sketch_root, sketch_widths

__all__ = ["OnlineEigh", "online_eigh_init", "online_eigh_result", "online_eigh_update"]

_FIRST_SKETCH = sketch_options("nystrom", 2, 10, "trace")


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class OnlineEigh:
    """State of an online eigendecomposition: a value, and a pytree of arrays.

    Saved and restored by `state_dict` and `load_state_dict`. No autograd graph is kept in it.

    All fields are those of the debiased average, sum_i decay^(t - i) X_i^T conj(X_i) over the sum
    of the weights.

    Attributes
    ----------
    eigenvalues : array, shape (..., r), real
        In descending order, never negative.
    eigenvectors : array, shape (..., d, r)
        Orthonormal columns.
    trace : array, shape (...), real
        The trace of the average, exact to rounding.
    weight : array, shape (...), real
        The sum of the weights decay^(t - i).
    probes : array, shape (..., d, p)
        Standard normal columns G, which the eigenvectors never see.
    sketch : array, shape (..., d, p)
        The average times G, exact to rounding.
    skipped : array, shape (...), bool
        Whether the last batch was left out, because it held NaN or Inf.
    """

    eigenvalues: AnyArray
    eigenvectors: AnyArray
    trace: AnyArray
    weight: AnyArray
    probes: AnyArray
    sketch: AnyArray
    skipped: AnyArray


def online_eigh_init(
    X: Array, rank: int, *, rng: Any = 0, probes: int = 8, check: Check = True
) -> OnlineEigh:
    """Return the state of an online eigendecomposition after its first batch.

    Parameters
    ----------
    X : array, shape (..., N, d), real or complex
        Rows are samples, N less or more than d. The caller scales them, for example by
        1 / sqrt(N).
    rank : int
        The number of eigenpairs that are followed, 1 to d.
    rng : int, numpy.random.Generator, or array, shape (d, c)
        Seed of the Gaussian columns, which NumPy draws on the host, equal for all libraries; or
        the c columns themselves: rank + 20 of them, fewer where d is less, and `probes`.
    probes : int, default 8
        Columns whose products with the average are kept exactly, to show the error. With 0, the
        error is NaN.
    check : bool or "nan", default True
        Refuse NaN and Inf: reads one flag on the host, of a GPU up to 25, which leave out work;
        with "nan" none. If False or "nan", and if values cannot be read (compiled and mapped code,
        Dask), such a batch is skipped: the state is zero with weight 0, so that the average starts
        with the next batch.

    Returns
    -------
    OnlineEigh
        The state, for X^T conj(X) with weight 1.

    Raises
    ------
    TypeError
        If an argument has the wrong kind, dtype or library.
    ValueError
        If `rank` is not from 1 to d, or `X` contains NaN or Inf.

    Notes
    -----
    Cost: 8 N d (rank + 20) flops and about 30 d (rank + 20)^2; no d x d and no N x N matrix. A
    batch of lower rank than `rank` is filled up with orthonormal columns of eigenvalue 0; one with
    |X|^2 below the smallest normal number counts as zero.

    References
    ----------
    D. Povey, X. Zhang, S. Khudanpur, "Parallel training of DNNs with natural gradient and
    parameter averaging", arXiv:1410.7455 (on-line natural gradient).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> state = online_eigh_init(rng.standard_normal((20, 50)), 4)
    >>> state = online_eigh_update(state, rng.standard_normal((20, 50)), decay=0.9)
    >>> online_eigh_result(state).eigenvectors.shape
    (50, 4)
    """
    require_array(X, "X", ndim=2, blocks=False, empty=True)
    require_rng(rng)
    require_count(probes, "probes")
    d = X.shape[-1]
    require_rank(rank, d, "the number of columns of `X`")
    dtype = result_name(dtype_name(X.dtype))
    start = sum(sketch_widths(_FIRST_SKETCH, rank, 0, d))
    with opened(X, check, nan=True, waits=True) as checks:
        X = without_graph(astype(X, dtype), X)
        xp, size = namespace(X), squared_norm(X)
        finite = xp.isfinite(size)
        checks.require(lambda: finite, lambda: _not_finite(size))
        A = _second_moment(X, xp.where(finite, _unless_vanished(size, size), xp.zeros_like(size)))
        require_finite_columns(checks, None, rng)
        count, shape = start + int(probes), (*A.batch, d)
        drawn = gaussian_columns(rng, count, like=X, shape=shape, dtype=dtype, name="X")
        columns, G = drawn[..., :start], 1 * drawn[..., start:]  # which lives on by itself
        request = SketchRequest(A, _FIRST_SKETCH, int(rank), None, columns)
        root = sketch_root(request, ValueChecks(enabled=False, refuses=False)).root
        values, U = root_eigenpairs(root, int(rank))
        values, U = trusted(values, int(rank), root.B, values, U)
        state = OnlineEigh(
            eigenvalues=values[..., :rank] * expanded(A.scale, 1),
            eigenvectors=U,
            trace=A.trace,
            weight=astype(finite, dtype_name(size.dtype)),
            probes=G,
            sketch=A.product(G),
            skipped=~finite,
        )
        return without_graph(state, X)


def online_eigh_update(
    state: OnlineEigh, X: Array, *, decay: Any, check: Check = True
) -> OnlineEigh:
    """Return the state after another batch: of decay A + (1 - decay) X^T conj(X), never formed.

    The average is debiased: with t batches and a constant decay it is
    (1 - decay) / (1 - decay^t) sum_i decay^(t - i) X_i^T conj(X_i).

    Parameters
    ----------
    state : OnlineEigh
        Left as it is.
    X : array, shape (..., N, d)
        Rows are samples; N may change from batch to batch.
    decay : float or array, shape () or (...)
        The weight of the past, in [0, 1).
    check : bool or "nan", default True
        Refuse NaN and Inf, read off |X|^2: reads one flag on the host, of a GPU up to 25, which
        leave out work; with "nan" none. If False or "nan", and if values cannot be read (compiled
        and mapped code, Dask), such a batch is skipped.

    Returns
    -------
    OnlineEigh
        The new state, in the dtype of the old one; after one in half precision in float32. Where
        the batch was skipped, the old state with `skipped` set.

    Raises
    ------
    TypeError
        If `X` is no floating-point array of the library of the state, or complex and that is real.
    ValueError
        If `X` has another shape, `decay` is outside of [0, 1), or `X` contains NaN or Inf.

    Notes
    -----
    Method: one warm power step on the model of the new average,
    M = new X^T conj(X) + old U diag(d) U^H, whose weights new = 1 / weight and old add to 1, and
    the Nystrom approximation M U (U^H M U)^-1 U^H M.
    A direction that is not kept is seen in single batches only, so that the state needs several
    updates to follow a sudden change of the data. The probes show it.
    Below the normal range a part counts as exactly zero: a batch by |X|^2, the past by its weighted
    trace. The eigenvectors then stay, with eigenvalues 0, until a batch follows that is not zero.
    Cost: 4 N d (rank + probes) + 3 d rank^2 flops in products, and some 15 rank^3 for two
    Cholesky factors and one eigendecomposition. Memory: some four arrays of the size of the
    eigenvectors; no d x d matrix. Where many new directions come at once, and always on a GPU, 9 d
    rank^2 more make the columns orthonormal.

    References
    ----------
    D. Povey, X. Zhang, S. Khudanpur, arXiv:1410.7455: the same power step, with
    singular values of M U instead of the Nystrom approximation, and without debiasing.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((20, 50))
    >>> state = online_eigh_init(X, 4)
    >>> for _ in range(30):
    ...     state = online_eigh_update(state, X, decay=0.9)
    >>> exact = np.linalg.eigvalsh(X.T @ X)[::-1]
    >>> bool(np.allclose(state.eigenvalues, exact[:4]))
    True
    """
    stored, state = state, _widen(state)
    rounding = SHIFT * unit_roundoff(dtype_name(stored.eigenvectors.dtype))
    U, d = state.eigenvectors, state.eigenvalues
    X = _require_batch(X, U)
    with opened(X, check, nan=True, waits=True) as checks:
        decay = fraction_values(decay, "decay", d, "eigenvalues", tuple(d.shape[:-1]), checks)
        size = squared_norm(X)
        new = _update(state, X, size, decay, rounding)
        finite = finite_along(expanded(size, 1), -1) & finite_along(new.eigenvalues, -1)
        checks.require(lambda: finite, lambda: _not_finite(size))
        if (illegal := is_nan(decay, finite)) is not False:
            finite = finite | illegal  # an illegal decay is no bad batch
        if check is not True or is_traced(finite):
            new = _unless_skipped(new, state, finite)
        return without_graph(dataclasses.replace(new, skipped=~finite), X)


def online_eigh_result(state: OnlineEigh, *, tail: Tail = "trace") -> LowRankEigh:
    """Return the decomposition that a state stands for, with the error that its probes show.

    Parameters
    ----------
    state : OnlineEigh
        After any number of updates.
    tail : {"trace", "min", "zero"}
        Number that stands for each missing eigenvalue: their mean, from the trace, the smallest
        kept one, or 0.

    Returns
    -------
    LowRankEigh
        Its `error` is the root mean square of |(A - U diag(d) U^H) g| over the probes g, an
        estimate of the Frobenius norm; NaN without probes.

    Raises
    ------
    ValueError
        If `tail` is not one of the three.

    Notes
    -----
    Cost: 4 d rank flops for each probe; nothing else is left to compute.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((20, 50))
    >>> eigh = online_eigh_result(online_eigh_init(X, 19))
    >>> U, d = eigh.eigenvectors, eigh.eigenvalues
    >>> exact = np.linalg.norm(X.T @ X - (U * d) @ U.T)
    >>> bool(0.5 * exact < eigh.error < 2 * exact)
    True
    """
    state = _widen(state)
    require_choice(tail, "tail", TAILS)
    xp = namespace(state.trace)
    d, U, G = state.eigenvalues, state.eigenvectors, state.probes
    with opened(state.trace):
        error = state.trace + xp.nan
        if G.shape[-1]:
            unit = trace_unit(state.trace)
            error = unit * probed_error(
                d / expanded(unit, 1), U, G, state.sketch / expanded(unit, 2)
            )
        return truncate_eigenpairs(d, U, state.trace, error, d.shape[-1], tail)


def _second_moment(X: Array, trace: Array) -> HermitianOperand:
    """Return X^T conj(X), which is zero where `trace`, (...), is, whatever X holds there."""
    xp, dtype = namespace(X), dtype_name(X.dtype)

    def product(V: Array) -> Array:
        AV = transposed_product(X, _conjugate_times(X, V))
        return xp.where(expanded(trace != 0, 2), AV, xp.zeros_like(AV))

    return scaled_operand(
        like=X,
        batch=tuple(X.shape[:-2]),
        size=X.shape[-1],
        dtype=dtype,
        product_eps=unit_roundoff(dtype),
        came_in=dtype,
        trace=trace,
        product=product,
    )


def _update(state: OnlineEigh, X: Array, size: Array, decay: Any, rounding: float) -> OnlineEigh:
    """Return the state after a batch of squared norm `size`.

    With M = new X^T conj(X) + old U diag(d) U^H, whose weights add to 1, in units of its trace, the
    eigenpairs are those of the Nystrom approximation from Y = M U and U^H M U: (power-step) in
    docs/theory/eigendecomposition.md.
    """
    xp, U, r = namespace(X), state.eigenvectors, state.eigenvalues.shape[-1]
    weight = decay * state.weight + 1  # w_t = decay w_(t - 1) + 1
    new, old = 1 / weight, decay * state.weight / weight
    new, old = _unless_vanished(new, size), _unless_vanished(old, old * state.trace)
    average = old * state.trace + new * size  # tr M, with the trace of A itself
    unit = trace_unit(average)
    rows = _conjugate_times(X, xp.concat([U, state.probes], axis=-1))  # conj(X) [U, G]
    scaled = expanded(new / unit, 2) * rows[..., :r]
    products = transposed_product(X, xp.concat([scaled, expanded(new, 2) * rows[..., r:]], axis=-1))
    core = column_gram(rows[..., :r] * expanded(xp.sqrt(new / unit), 2))  # new U^H X^T conj(X) U
    past = expanded(old / unit, 1) * state.eigenvalues  # old U^H U diag(d) U^H U
    shift = expanded(positive_shift(rounding * (trace(core) + xp.sum(past, axis=-1))), 1)
    weights = xp.expand_dims(past + shift, axis=-2)
    Y = plus_multiple(products[..., :r], weights, U)  # (M + shift) U
    values, vectors = product_eigenpairs(Y, add_diagonal(core, past + shift), X.shape[-2])
    values, vectors = trusted(values, r, Y, values, vectors)
    return OnlineEigh(
        eigenvalues=clipped(values - shift) * expanded(unit_or_zero(average, unit), 1),
        eigenvectors=vectors,
        trace=average,
        weight=weight,
        probes=state.probes,
        sketch=plus_multiple(products[..., r:], expanded(old, 2), state.sketch),  # M G, of A itself
        skipped=state.skipped,
    )


def _unless_skipped(new: OnlineEigh, old: OnlineEigh, made: Array) -> OnlineEigh:
    """Return the new state where it was made, (...), and the old one elsewhere."""
    xp = namespace(made)

    def mixed() -> OnlineEigh:
        def chosen(one: Array, other: Array) -> Array:
            return xp.where(expanded(made, one.ndim - made.ndim), one, other)

        return dataclasses.replace(mapped(chosen, new, old), skipped=old.skipped)

    return choose_if_free(all_of(made), lambda: new, mixed)


def _unless_vanished(weight: Array, size: Array) -> Array:
    """Return the weight of a part, or 0 where its size is below the normal range; NaN is not.

    Numbers below it are stuck, since 0.95 times the least one rounds to itself, and the eigenpairs
    of what is left of a part there are of roundings alone.
    """
    least, _ = normal_range(dtype_name(size.dtype))
    return filled(weight, size < least, 0.0)


def _conjugate_times(X: Array, V: Array) -> Array:
    """Return conj(X) V, (..., N, k)."""
    xp = namespace(X)
    return xp.conj(xp.matmul(X, xp.conj(V))) if is_complex(X) else xp.matmul(X, V)


def _widen(state: Any) -> OnlineEigh:
    """Return a state in the dtype that is computed with, float32 or wider."""
    if not isinstance(state, OnlineEigh):
        msg = (
            f"`state` is a {type(state).__name__}; it must be what online_eigh_init returned. From "
            f"saved arrays it is made anew by load_state_dict."
        )
        raise TypeError(msg)
    wide = mapped(_wide, state)
    assert isinstance(wide, OnlineEigh)
    return wide


def _wide(x: Array) -> Array:
    """Return numbers in a dtype that is computed with; flags as they are."""
    name = dtype_name(x.dtype)
    return x if name == "bool" else astype(x, result_name(name))


def _require_batch(X: Array, U: Array) -> Array:
    """Return X in the dtype of the state."""
    require_array(X, "X", ndim=2, blocks=False, empty=True)
    require_like(X, "X", U, "state")
    *batch, d, _ = U.shape
    if (*X.shape[:-2], X.shape[-1]) != (*batch, d):
        expected = f"({', '.join(map(str, (*batch, 'N', d)))})"
        msg = f"`X` has shape {tuple(X.shape)}; for this state it must have shape {expected}."
        raise ValueError(msg)
    if is_complex(X) and not is_complex(U):
        msg = "`X` is complex but the state is real; start a state with a complex batch."
        raise TypeError(msg)
    return without_graph(astype(X, dtype_name(U.dtype)), U)


def _not_finite(size: Array) -> Exception:
    """Return the error of a batch with that squared norm, (...)."""
    place = place_in_batch(size.ndim, size)
    return ValueError(
        f"`X` contains NaN or Inf{place}, or |X|^2 is beyond its dtype; pass finite values, or "
        f"scale it."
    )
