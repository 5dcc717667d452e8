"""States of inverse-free updates: the factors, how they are stored and how they are applied."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

from ngdla._backend.array import AnyArray
from ngdla._backend.calls import computing, opened
from ngdla._backend.checks import (
    DTYPES,
    require_array,
    require_batch,
    require_choice,
    require_count,
    require_flag,
    require_like,
)
from ngdla._backend.creation import zeros
from ngdla._backend.dtypes import dtype_name, real_name, result_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array
from ngdla._backend.states import state_class
from ngdla._backend.tracing import rounded_astype
from ngdla.structures import StructuredMatrix, structure_from

__all__ = [
    "STORAGES",
    "InverseFreeReport",
    "InverseFreeState",
    "Storage",
    "StoredFactor",
    "factor_values",
    "inverse_free_apply",
    "inverse_free_init",
    "require_state",
    "restore",
    "rounded_to",
    "store",
    "stored_factors",
]

Storage = Literal["native", "float32", "compensated"]
Part = StructuredMatrix | tuple[()]  # of a state; () where it has none


class _StorageKind(NamedTuple):
    """Whether factors of half precision are kept in float32, or with what rounding loses."""

    widened: bool = False
    compensated: bool = False


STORAGES: dict[Storage, _StorageKind] = {
    "native": _StorageKind(),
    "float32": _StorageKind(widened=True),
    "compensated": _StorageKind(compensated=True),
}


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class InverseFreeReport:
    """What the last update did.

    Attributes
    ----------
    bound_K, bound_C : array, shape (...), real
        Bounds on the moduli of the eigenvalues of the tangents, momentum included: the Frobenius
        norm of their diagonal blocks where that shows the step to be safe, or nothing depends on
        it, otherwise that of `StructuredMatrix.spectral_bound`.
    step_K, step_C : array, shape (...), real
        The steps that were made: `step_size`, or less if the safeguard shortened it; 0 if skipped.
    staleness_K, staleness_C : array, shape (...), real
        |2 m|_F / sqrt(d) of the tangents m of this batch, without momentum: 0 if a factor is the
        optimum for the batch, about 1 if it is off by a factor of 2.
    skipped : array, shape (...), bool
        Whether the state was left as it was: for NaN or Inf in the statistics, factors beyond their
        dtype, or, if they cannot be read, a damping or a step that is not positive.
    """

    bound_K: AnyArray
    bound_C: AnyArray
    step_K: AnyArray
    step_C: AnyArray
    staleness_K: AnyArray
    staleness_C: AnyArray
    skipped: AnyArray


@state_class()
@dataclasses.dataclass(frozen=True, eq=False)
class InverseFreeState:
    """Factors of a Kronecker preconditioner C C^H V K K^H: a value, and a pytree of arrays.

    Saved and restored by `state_dict` and `load_state_dict`. No autograd graph is kept in it.

    Attributes
    ----------
    K : StructuredMatrix
        Factor of the inputs, (..., d_in, d_in); K K^H approximates the damped inverse of their
        second moment.
    C : StructuredMatrix
        Factor of the output gradients, (..., d_out, d_out).
    momentum_K, momentum_C : StructuredMatrix or ()
        Running tangents; () if the state was made without.
    compensation_K, compensation_C : StructuredMatrix or ()
        What rounding took from the stored factors, for storage "compensated"; otherwise ().
    step : array, shape (...), int
        Number of updates that changed the factors.
    report : InverseFreeReport
        Report of the last update; zeros before the first.
    """

    K: StructuredMatrix
    C: StructuredMatrix
    momentum_K: Part
    momentum_C: Part
    compensation_K: Part
    compensation_C: Part
    step: AnyArray
    report: InverseFreeReport


def inverse_free_init(
    d_in: int,
    d_out: int,
    *,
    structures: Any = ("dense", "dense"),
    like: Array,
    dtype: str | None = None,
    storage: Storage = "native",
    momentum: bool = True,
    batch: tuple[int, ...] = (),
) -> InverseFreeState:
    """Return the state of an inverse-free preconditioner (IKFAC, INGD, SINGD) before any batch.

    Parameters
    ----------
    d_in, d_out : int
        Numbers of columns and of rows of the weight.
    structures : pair
        The structure of K (inputs) and that of C (output gradients), independent of each other.
        Each is a structure, its name, or (name, options), such as
        ("hierarchical", {"k1": 15, "k2": 15}).
    like : array
        Gives the library and the device.
    dtype : str, optional
        The dtype in which factors and momenta are stored; by default that of `like`. float16 and
        bfloat16 (NumPy, CuPy: by ml_dtypes) are for storage only: all arithmetic is in float32.
    storage : {"native", "float32", "compensated"}
        How factors of half precision keep steps that are smaller than their rounding. "native":
        not at all, steps below 2^-9 (bfloat16) get lost. "float32": the factors are kept in
        float32. "compensated": a second number of half precision is kept for each.
    momentum : bool, default True
        Keep running tangents, which momentum > 0 needs. If False, the state has half the size.
    batch : tuple of int
        Leading axes, for a stack of layers of equal shape.

    Returns
    -------
    InverseFreeState
        With K = C = I.

    Raises
    ------
    TypeError
        If a dimension is not an integer, a structure is not one, or `like` is not a floating-point
        array.
    ValueError
        If a dimension is less than 1, or a name or an option is out of range.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (the initial values of IKFAC and SINGD).

    Examples
    --------
    >>> import numpy as np
    >>> state = inverse_free_init(4, 3, structures=("diagonal", "dense"), like=np.zeros(1))
    >>> state.K.size, state.C.size
    (4, 9)
    """
    require_count(d_in, "d_in", least=1)
    require_count(d_out, "d_out", least=1)
    require_batch(batch)
    require_flag(momentum, "momentum")
    require_choice(storage, "storage", tuple(STORAGES))
    require_array(like, "like", blocks=False)
    name = dtype_name(like.dtype) if dtype is None else dtype
    require_choice(name, "dtype", DTYPES)
    if not isinstance(structures, (tuple, list)) or len(structures) != 2:
        msg = f"`structures` is {shown(structures)}; it must be a pair, for K and for C."
        raise TypeError(msg)
    widened, compensated = STORAGES[storage]
    if compensated and name not in ("float16", "bfloat16"):
        msg = (
            f"`storage` is {storage!r} with dtype {name}; it must be 'native' there: factors are "
            f"stored as they are computed."
        )
        raise ValueError(msg)
    kept = result_name(name) if widened else name
    pair = [
        (structure_from(given, f"structures[{i}]"), d)
        for i, (given, d) in enumerate(zip(structures, (d_in, d_out)))
    ]
    with computing(like):
        K, C = (s.identity(d, like=like, dtype=kept, batch=batch) for s, d in pair)

        def blank(there: bool) -> list[Part]:  # no two parts share memory, which JAX may be donated
            return [
                s.zeros(d, like=like, dtype=name, batch=batch) if there else () for s, d in pair
            ]

        real = real_name(result_name(name))
        numbers = [zeros(batch, like, dtype) for dtype in (*[real] * 6, "bool")]
        step, report = zeros(batch, like, "int32"), InverseFreeReport(*numbers)
        (m_K, m_C), (lost_K, lost_C) = blank(momentum), blank(compensated)
    return InverseFreeState(K, C, m_K, m_C, lost_K, lost_C, step, report)


def inverse_free_apply(state: InverseFreeState, V: Array, *, check: bool = True) -> AnyArray:
    """Return the preconditioned gradient C C^H V K K^H.

    Parameters
    ----------
    state : InverseFreeState
        The state that holds the factors K and C.
    V : array, shape (..., d_out, d_in), real or complex
        For example the gradient of the weight.
    check : bool, default True
        Refuse NaN and Inf in `V`: reads one flag on the host.

    Returns
    -------
    array, shape (..., d_out, d_in)
        In the dtype that V and the factors promote to, float32 or wider.

    Raises
    ------
    TypeError
        If `V` is no floating-point array of the library of the state.
    ValueError
        If `V` has another shape, or contains NaN or Inf.

    Notes
    -----
    Cost: `StructuredMatrix.square_matmul` of K for d_out columns and of C for d_in columns.

    References
    ----------
    W. Lin et al., arXiv:2312.05705, figure 3 (last line of each update).

    Examples
    --------
    >>> import numpy as np
    >>> state = inverse_free_init(3, 2, like=np.zeros(1))
    >>> inverse_free_apply(state, np.ones((2, 3)))
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    require_state(state)
    require_array(V, "V", ndim=2, blocks=False)
    require_like(V, "V", state.K.leaves[0], "state")
    expected = (*state.K.batch, state.C.dimension, state.K.dimension)
    if tuple(V.shape) != expected:
        msg = f"`V` has shape {tuple(V.shape)}; for this state it must be {expected}."
        raise ValueError(msg)
    K, C = factor_values(state)
    with opened(V, check) as checks:
        checks.finite("V", V)
        return C.square_matmul(K.square_rmatmul(V))  # C C^H V K K^H


def require_state(state: Any) -> None:
    """Raise unless it is a state."""
    if not isinstance(state, InverseFreeState):
        msg = f"`state` is a {type(state).__name__}; it must be what inverse_free_init returned."
        raise TypeError(msg)


class StoredFactor(NamedTuple):
    """One of both factors of a state, K or C, as it is stored."""

    matrix: StructuredMatrix
    momentum: Part
    compensation: Part

    def value(self) -> StructuredMatrix:
        """Return the factor in the compute dtype."""
        return restore(self.matrix, self.compensation)


def stored_factors(state: InverseFreeState) -> tuple[StoredFactor, StoredFactor]:
    """Return K and C as they are stored."""
    return (
        StoredFactor(state.K, state.momentum_K, state.compensation_K),
        StoredFactor(state.C, state.momentum_C, state.compensation_C),
    )


def factor_values(state: InverseFreeState) -> tuple[StructuredMatrix, StructuredMatrix]:
    """Return both factors in the compute dtype."""
    K, C = stored_factors(state)
    return K.value(), C.value()


def restore(matrix: StructuredMatrix, compensation: Part) -> StructuredMatrix:
    """Return a stored factor in the compute dtype, with what its storage lost."""
    return matrix + compensation if compensation else matrix.computed()


def store(
    matrix: StructuredMatrix, like: StructuredMatrix, compensation: Part
) -> tuple[StructuredMatrix, Part]:
    """Return a factor in the dtype in which another one is stored, and what that loses."""
    rounded = rounded_to(matrix, like.dtype_name)
    if not compensation:
        return rounded, ()
    return rounded, rounded_to(matrix - rounded, compensation.dtype_name)


def rounded_to(matrix: StructuredMatrix, dtype: str) -> StructuredMatrix:
    """Return a matrix in a dtype that is stored, rounded in compiled code too."""
    return matrix.map(lambda leaf: rounded_astype(leaf, dtype))
