"""One call of each public function on an array library, against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine
from ngdla._backend.dtypes import unit_roundoff
from ngdla._backend.namespace import namespace

__all__ = ["public_functions"]

Call = Callable[[Array, Array, Array], Array]

DTYPES = ("float64", "complex64", "float32", "complex128")
LAYOUTS = ("array", "stack", "columns", "fortran")
OF_A_REHEARSAL = ("gram", "damped_solve", "kronecker_solve")
N, M = 5, 11
_TOLERANCE = 1e5  # in units of rounding, for problems of condition 100


def public_functions(desk: Desk, engine: Engine) -> None:
    """Compare all functions, dtypes and layouts, most telling first, while there is time."""
    from capabilities import FUNCTIONS

    functions = FUNCTIONS
    if desk.device == "cpu":
        functions = {name: FUNCTIONS[name] for name in OF_A_REHEARSAL}
    layouts = LAYOUTS[:1] if engine.name == "jax" else LAYOUTS  # JAX has no views
    right: dict[str, int] = {}
    desk.keep(right=right, wrong=[], not_defined=[])
    for dtype in DTYPES:
        for layout in layouts:
            kind = f"{dtype} {layout}"
            right[kind] = 0
            for name, call in functions.items():
                if desk.over():
                    return
                right[kind] += _is_right(desk, engine, f"{name} {kind}", call)
            desk.store()


def _is_right(desk: Desk, engine: Engine, what: str, call: Call) -> bool:
    _, dtype, layout = what.split()
    point = list(_point(dtype, stacked=layout == "stack"))
    try:
        reference = call(*point)
    except Exception:  # noqa: BLE001 - not of complex numbers, or not of stacks
        desk.measured["not_defined"].append(what)
        return False
    try:
        arrays = [_laid_out(engine, point[0], layout), *map(engine.sent, point[1:])]
        result = engine.compiled(call, *arrays)(*arrays)
        trouble = _trouble(engine, result, reference, arrays[0], unit_roundoff(dtype))
    except Exception as error:  # noqa: BLE001 - what a library raises is what is asked
        desk.measured["wrong"].append(desk.fault(what, error))
        return False
    if trouble:
        desk.measured["wrong"].append(desk.fault(f"{what}: {trouble}"))
    return not trouble


def _point(dtype: str, *, stacked: bool) -> Iterator[np.ndarray]:
    """Return S, v and f."""
    rng = np.random.default_rng(0)
    for shape in ((N, M), (M,), (N,)):
        shape = (2, *shape) if stacked else shape
        x = rng.standard_normal(shape)
        if dtype.startswith("complex"):
            x = x + 1j * rng.standard_normal(shape)
        yield x.astype(dtype)


def _laid_out(engine: Engine, S: np.ndarray, layout: str) -> Array:
    if layout == "columns":
        wide = engine.sent(np.pad(S, ((0, 0), (2, 3))))
        return wide[:, 2 : 2 + S.shape[1]]
    if layout == "fortran":
        transposed = engine.sent(np.ascontiguousarray(S.T))
        return namespace(transposed).matrix_transpose(transposed)
    return engine.sent(S)


def _trouble(engine: Engine, x: Array, reference: np.ndarray, like: Array, u: float) -> str:
    """Return what is wrong with a result, empty if nothing."""
    if type(x) is not type(like) or x.device != like.device:
        return f"is {type(x).__module__}.{type(x).__name__}, not as its argument"
    found = engine.numpy(x)
    if found.dtype != reference.dtype or found.shape != reference.shape:
        return f"is {found.dtype} {found.shape}, not {reference.dtype} {reference.shape}"
    error = float(np.linalg.norm(np.ravel(found - reference)))
    size = float(np.linalg.norm(np.ravel(reference)))
    right = error <= _TOLERANCE * u * size or (np.isnan(error) and np.isnan(size))
    return "" if right else f"differs from NumPy by {error / (size or 1.0):.1e}"
