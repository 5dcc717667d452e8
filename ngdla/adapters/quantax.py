"""quantax: a solver for its SR, SPRING, MARCH and AdamSR, in the place of `auto_shift_eig`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, Literal

from ngdla._backend.messages import shown
from ngdla.damped.solve import damped_lstsq

from .versions import require_version

__all__ = ["solver"]

require_version("quantax", at_least="0.4", below="0.5")

# What quantax takes for a relative shift that is not given.
RELATIVE = {"float64": 1e-12, "float32": 1e-6}

Precision = Literal["native", "float64", "float32"]


def solver(
    rshift: float | None = None, ashift: float = 1e-6, dtype: Any = "float64"
) -> Callable[..., Any]:
    r"""Return a solver of quantax for SR, minSR, SPRING and MARCH, made of `ngdla.damped_lstsq`.

    It stands in the place of ``quantax.optimizer.auto_shift_eig`` and takes the same arguments. The
    solver is a function ``(A, b, *, diag_preconditioner=None) -> x`` with

    .. math:: x = \mathrm{argmin} |A x - b|^2 + \lambda |x|_D^2, \quad
        \lambda = \mathrm{rshift} \; \mathrm{tr}(A D^{-1} A^H) / \sqrt{\min(n, m)} + \mathrm{ashift}

    and D = d^2 of the diagonal preconditioner d, by default 1.

    Parameters
    ----------
    rshift : float, optional
        Relative part of the damping; by default 1e-12, in single precision 1e-6.
    ashift : float
        Absolute part of the damping, in units of squared singular values of A.
    dtype : dtype, optional
        Precision of the factor: float64, also where the rest of the program has x64 switched off,
        or float32. None: that of A.

    Returns
    -------
    solution : callable
        For the argument ``solver`` of the optimizers of quantax. A (n, m) holds the scaled and
        centred scores, b (n,) the scaled and centred local energies, diag_preconditioner (m,).

    Raises
    ------
    TypeError, ValueError
        A shift that is not a number, that is negative or not finite, two shifts that are 0, another
        dtype. From the solver: shapes that do not fit, named as `A`, `b`, `diag_preconditioner`.
    ImportError
        On importing this module: quantax is missing, or its version has not been tried.

    Notes
    -----
    The step has the dtype of A. A is neither cast nor copied: chunks of it are, as they enter the
    Gram matrix of the smaller side. quantax calls the solver in compiled code, where a step that
    errs by more than half of its length can only become NaN; quantax refuses such a step with a
    warning and keeps its parameters and its momentum.

    Examples
    --------
    >>> import jax
    >>> from ngdla.adapters.quantax import solver
    >>> A, b = jax.random.normal(jax.random.key(0), (20, 51), dtype="float32"), jax.numpy.ones(20)
    >>> solver(rshift=0.0, ashift=1e-3)(A, b).shape
    (51,)
    """
    import jax

    require_shifts(rshift, ashift)
    precision = precision_of(dtype)

    @jax.jit
    def solution(A: Any, b: Any, *, diag_preconditioner: Any = None, **other: Any) -> Any:
        require_system(A, b, diag_preconditioner)
        with jax.enable_x64(True):
            metric = None if diag_preconditioner is None else abs(diag_preconditioner) ** 2
            damping = ashift + relative_shift(A, metric, rshift, precision)
            return damped_lstsq(A, b, damping, metric=metric, precision=precision)

    return solution


def relative_shift(A: Any, metric: Any, rshift: float | None, precision: Precision) -> Any:
    """Return rshift tr(A D^-1 A^H) / sqrt(min(n, m)), summed in the precision of the factor."""
    import jax.numpy as jnp

    real = jnp.finfo(A.dtype if precision == "native" else precision).dtype
    if rshift is None:
        rshift = RELATIVE[real.name]
    squares = jnp.sum(jnp.abs(A).astype(real) ** 2, axis=0)
    trace = jnp.sum(squares if metric is None else squares / metric)
    return rshift * trace / math.sqrt(min(A.shape))


# ---------------------------------------------------------------------------- bad input


def require_shifts(rshift: Any, ashift: Any) -> None:
    """Raise unless both shifts are numbers, not negative, and one of them is positive."""
    for name, shift in {"rshift": rshift, "ashift": ashift}.items():
        if shift is None and name == "rshift":
            continue
        if not isinstance(shift, numbers.Real) or isinstance(shift, bool):
            msg = (
                f"`{name}` is {shown(shift)}; it must be a number. For a schedule make another "
                f"optimizer, with another solver."
            )
            raise TypeError(msg)
        if not 0 <= float(shift) < math.inf:
            msg = f"`{name}` is {shown(shift)}; it must be finite and not negative."
            raise ValueError(msg)
    if rshift == 0 and ashift == 0:
        msg = "`rshift` and `ashift` are both 0; the damping must be positive: set one of them."
        raise ValueError(msg)


def precision_of(dtype: Any) -> Precision:
    """Return what `damped_lstsq` calls the precision of this dtype."""
    if dtype is None:
        return "native"
    for precision in ("float64", "float32"):
        if dtype == precision or getattr(dtype, "dtype", None) == precision:
            return precision
    msg = f"`dtype` is {shown(dtype)}; it must be float64, float32 or None."
    raise ValueError(msg)


def require_system(A: Any, b: Any, diag_preconditioner: Any) -> None:
    """Raise unless A is a matrix, with one entry of b a row and one of the other a column."""
    if A.ndim != 2:
        msg = (
            f"`A` has shape {A.shape}; it must be (n, m): one row per sample, one column per "
            f"parameter."
        )
        raise ValueError(msg)
    n, m = A.shape
    if b.shape != (n,):
        msg = f"`b` has shape {b.shape} but `A` has shape {A.shape}; `b` must be ({n},)."
        raise ValueError(msg)
    if diag_preconditioner is not None and diag_preconditioner.shape != (m,):
        msg = (
            f"`diag_preconditioner` has shape {diag_preconditioner.shape} but `A` has shape "
            f"{A.shape}; it must be ({m},)."
        )
        raise ValueError(msg)
