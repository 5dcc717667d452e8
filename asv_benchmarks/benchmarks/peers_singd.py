"""A step of INGD as the optimiser of the `singd` package makes it, from the package's structures.

Its order of operations (version 0.0.5, `singd/optim/optimizer.py`), without the hooks around it.
Its classes are for float32 and below, and work in place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .measuring import optional

# Our names and options, and the class of the package that has the same pattern.
CLASSES: dict[str, tuple[Any, str, str]] = {
    "dense": ("dense", "dense", "DenseMatrix"),
    "diagonal": ("diagonal", "diagonal", "DiagonalMatrix"),
    "blocks of 32": (
        ("block-diagonal", {"block": 32}),
        "blockdiagonal",
        "BlockDiagonalMatrixTemplate",
    ),
    "hierarchical 15/15": (
        ("hierarchical", {"k1": 15, "k2": 15}),
        "hierarchical",
        "HierarchicalMatrixTemplate",
    ),
    "lower Toeplitz": ("lower-toeplitz", "triltoeplitz", "TrilToeplitzMatrix"),
    "upper Toeplitz": ("upper-toeplitz", "triutoeplitz", "TriuToeplitzMatrix"),
    "one dense row": (
        ("low-rank-triangular", {"k": 1}),
        "triutopleftdiag",
        "TriuTopLeftDiagonalMatrix",
    ),
}
_SIZES = {"BLOCK_DIM": 32, "MAX_K1": 15, "MAX_K2": 15}


def structure(name: str) -> Any:
    """Return the class of the package, with the sizes set that its templates ask for."""
    optional("singd")
    _, module, class_name = CLASSES[name]
    cls = getattr(importlib.import_module(f"singd.structures.{module}"), class_name)
    if not class_name.endswith("Template"):
        return cls
    sizes = {key: size for key, size in _SIZES.items() if key in cls.__annotations__}
    return type(class_name.removesuffix("Template"), (cls,), sizes)


def ingd_step(
    name: str, d_in: int, d_out: int, *, damping: float, step_size: float, momentum: float
) -> Callable[[Any, Any, Any], Any]:
    """Return a function of (inputs, output gradients, gradient) that updates and preconditions."""
    cls = structure(name)
    K, C = cls.eye(d_in), cls.eye(d_out)
    moved = {"K": cls.zeros(d_in), "C": cls.zeros(d_out)}

    def step(a: Any, g: Any, V: Any) -> Any:
        H_K, H_C = K.from_inner(X=a.T), C.from_inner(X=g.T)
        K_K, C_C = K.from_inner(), C.from_inner()
        tangents = {"K": cls.zeros(d_in), "C": cls.zeros(d_out)}
        for m, H, other, gram, other_gram in (
            (tangents["K"], H_K, H_C, K_K, C_C),
            (tangents["C"], H_C, H_K, C_C, K_K),
        ):
            m.add_(H, alpha=other.average_trace())
            m.add_(gram, alpha=damping * other_gram.average_trace())
            m.diag_add_(-1.0).mul_(0.5)
        for key, factor in (("K", K), ("C", C)):
            moved[key] = tangents[key].add_(moved[key], alpha=momentum)
            factor.add_(factor @ moved[key], alpha=-step_size)
        half = (K @ K.rmatmat(V.T)).T
        return C @ C.rmatmat(half)

    return step
