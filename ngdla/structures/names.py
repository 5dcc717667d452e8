"""Structures by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ngdla._backend.messages import shown
from ngdla._backend.pytrees import register_safe

from .base import Structure
from .block_diagonal import BlockDiagonal
from .dense import Dense
from .diagonal import Diagonal
from .hierarchical import Hierarchical
from .low_rank_triangular import LowRankTriangular
from .masked import Masked
from .toeplitz import LowerToeplitz, UpperToeplitz
from .triangular import LowerTriangular, UpperTriangular

__all__ = ["NAMES", "structure_from"]

NAMES: dict[str, type[Structure]] = {
    "dense": Dense,
    "diagonal": Diagonal,
    "block-diagonal": BlockDiagonal,
    "lower-triangular": LowerTriangular,
    "upper-triangular": UpperTriangular,
    "lower-toeplitz": LowerToeplitz,
    "upper-toeplitz": UpperToeplitz,
    "hierarchical": Hierarchical,
    "low-rank-triangular": LowRankTriangular,
    "masked": Masked,
}
for _structure in NAMES.values():  # a matrix in a pickle names its own
    register_safe(_structure)


def structure_from(given: Any, name: str = "structure") -> Structure:
    """Return a structure that is given by itself, by its name, or by (name, options).

    Parameters
    ----------
    given : Structure, str, or pair of str and dict
        Such as ``Dense()``, ``"dense"`` or ``("hierarchical", {"k1": 3})``. Names are the class
        names in lower case with hyphens.
    name : str
        What error messages call it.

    Returns
    -------
    Structure
        As given, or made.

    Raises
    ------
    TypeError
        If it is none of these, or options are unknown.
    ValueError
        If there is no such name.

    Examples
    --------
    >>> structure_from(("block-diagonal", {"block": 8}))
    BlockDiagonal(block=8)
    """
    if isinstance(given, Structure):
        return given
    key, options = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, {})
    if not isinstance(key, str) or not isinstance(options, Mapping):
        msg = f"`{name}` is {shown(given)}; it must be a structure, a name, or (name, options)."
        raise TypeError(msg)
    if key not in NAMES:
        msg = f"`{name}` is {key!r}; it must be one of {', '.join(map(repr, NAMES))}."
        raise ValueError(msg)
    try:
        return NAMES[key](**options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        msg = f"`{name}` has options {dict(options)!r}, which {key!r} must not have: {error}."
        raise TypeError(msg) from None
