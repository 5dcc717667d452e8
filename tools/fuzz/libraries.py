"""Array libraries, and how each answers a case."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import ngdla

from .cases import Case
from .programs import Program, is_double

__all__ = ["LIBRARIES", "Answer", "installed"]


class Answer(NamedTuple):
    """What a library says: a solution with its certificate, or an error; and whether it warned."""

    x: np.ndarray | None  # of the shape of x0, pieces joined
    bound: np.ndarray | None
    converged: np.ndarray | None
    error: Exception | None
    warned: bool
    double: bool  # double precision was at hand
    traced: bool = False  # nothing could be read


class Numpy:
    """NumPy, and what other libraries have in common with it."""

    traced = False

    def asarray(self, x: np.ndarray) -> Any:
        """Return an array of the library."""
        return x

    def fetched(self, x: Any) -> np.ndarray:
        """Return an array as one of NumPy."""
        return np.asarray(x)

    def serves(self, program: Program) -> bool:
        """Tell whether the program can be run."""
        return True

    def answer(self, case: Case, *, check: Any = True) -> Answer:
        """Return the answer to a case."""
        arrays = {name: self.asarray(x) for name, x in _arrays(case).items()}
        return self.told(lambda: called(case.program, arrays, case.damping, check))

    def told(self, call: Callable[[], tuple[Any, Any]], *, double: bool = True) -> Answer:
        """Return what a call gives or raises."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                x, info = call()
            except Exception as error:  # noqa: BLE001, as it is judged
                return Answer(None, None, None, error, False, double)
        warned = any(issubclass(w.category, ngdla.PrecisionWarning) for w in caught)
        pieces = [self.fetched(piece) for piece in (x if isinstance(x, (list, tuple)) else [x])]
        bound, converged = self.fetched(info.error_bound), self.fetched(info.converged)
        return Answer(np.concatenate(pieces, axis=0) if len(pieces) > 1 else pieces[0],
                      bound, converged, None, warned, double)  # fmt: skip


class Strict(Numpy):
    """array-api-strict."""

    def asarray(self, x: np.ndarray) -> Any:
        """Return an array of the library."""
        import array_api_strict

        return array_api_strict.asarray(x)


class Torch(Numpy):
    """PyTorch on the CPU."""

    def asarray(self, x: np.ndarray) -> Any:
        """Return a tensor."""
        import torch

        return torch.asarray(np.array(x))

    def fetched(self, x: Any) -> np.ndarray:
        """Return a tensor as an array of NumPy."""
        return np.asarray(x.detach().resolve_conj().numpy())


class Jax(Numpy):
    """JAX, compiled: one program for each number, with data and damping as its arguments."""

    traced = True

    def serves(self, program: Program) -> bool:
        """Streams read blocks on the host, which compiled code cannot."""
        return program.layout not in ("columns", "rows")

    def answer(self, case: Case, *, check: Any = True) -> Answer:
        """Return the answer to a case, without double precision for every second one without it."""
        import jax

        program = case.program
        double = is_double(program.dtype) or is_double(program.other)
        double = double or case.number % 2 == 0 or program.precision == "float64"
        with jax.enable_x64(double):
            arrays = {name: jax.numpy.asarray(x) for name, x in _arrays(case).items()}
            damping = jax.numpy.asarray(case.damping)
            compiled = _compiled(program, double, check)
            answer = self.told(lambda: compiled(arrays, damping), double=double)
            return answer._replace(traced=True)


@cache
def _compiled(program: Program, double: bool, check: Any) -> Any:
    import jax

    return jax.jit(lambda arrays, damping: called(program, arrays, damping, check))


def _arrays(case: Case) -> dict[str, np.ndarray]:
    names = ("S", "right", "x0", "metric", "null", "weights")
    return {name: x for name in names if (x := getattr(case, name)) is not None}


def called(program: Program, arrays: dict[str, Any], damping: Any, check: Any) -> tuple[Any, Any]:
    """Return x and its certificate."""
    given = _laid_out(program, arrays)
    options: dict[str, Any] = program.options()
    for name in ("metric", "null"):
        if name in given:
            options[name] = given[name]
    S, right, x0 = given["S"], given["right"], given.get("x0")
    if program.function == "sr":
        return ngdla.stochastic_reconfiguration(
            S, right, damping, weights=given.get("weights"), mode=program.mode, previous=x0,
            momentum=0.9, check=check, full_output=True, **_without_null(options),
        )  # fmt: skip
    if program.door == "function":
        if program.function == "solve":
            return ngdla.damped_solve(S, right, damping, check=check, full_output=True, **options)
        return ngdla.damped_lstsq(
            S, right, damping, x0=x0, check=check, full_output=True, **options
        )
    first = damping if program.door == "factor" else damping * 8.0
    factor = ngdla.damped_factor(S, first, check=check, **options)
    if program.door == "redamped":
        factor = factor.with_damping(damping)
    if program.function == "solve":
        return factor.solve(right, full_output=True)
    return factor.lstsq(right, x0, full_output=True)


def _without_null(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "null"}


def _laid_out(program: Program, arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as the layout wants them."""
    S, given = arrays["S"], dict(arrays)
    if program.layout == "strided":
        given["S"] = _strided(S)
    elif program.layout == "list":
        spans = _spans(program.m)
        given["S"] = [S[:, span] for span in spans]
        for name in ("right", "x0", "metric"):
            if name in given and (name != "right" or program.function == "solve"):
                x = given[name]
                given[name] = [x[span, ...] for span in spans]
    elif program.layout in ("columns", "rows"):
        axis = 1 if program.layout == "columns" else 0
        spans = _spans((program.n, program.m)[axis])
        blocks = [S[:, span] if axis else S[span, :] for span in spans]
        stream = ngdla.ColumnStream if axis else ngdla.RowStream
        given["S"] = stream(blocks, (program.n, program.m), dtype=program.dtype, like=S)
    elif program.layout in ("operator", "kernel"):
        given["S"] = _operator(program, S)
    return given


def _strided(S: Any) -> Any:
    """Return S in a layout that is slow to multiply: transposed, or with every other column."""
    from array_api_compat import array_namespace, is_numpy_namespace

    xp = array_namespace(S)
    if is_numpy_namespace(xp):
        return np.repeat(S, 2, axis=-1)[..., ::2]
    columns = xp.stack([S[..., i] for i in range(S.shape[-1])]) if S.shape[-1] < 9 else None
    if columns is not None:
        return columns.T
    return xp.concat([S, S], axis=0).T[:, : S.shape[0]].T


def _operator(program: Program, S: Any) -> Any:
    from array_api_compat import array_namespace

    xp, kind = array_namespace(S), _promoting
    adjoint = xp.conj(S.T) if program.dtype.startswith("complex") else S.T
    gram = xp.matmul(S, adjoint) if program.layout == "kernel" else None
    return ngdla.ScoreOperator(
        lambda x: kind(xp, S, x), lambda y: kind(xp, adjoint, y), (program.n, program.m),
        like=S, gram=gram, batched=True,
    )  # fmt: skip


def _promoting(xp: Any, A: Any, x: Any) -> Any:
    dtype = xp.result_type(A, x)
    return xp.matmul(xp.astype(A, dtype), xp.astype(x, dtype))


def _spans(length: int) -> list[slice]:
    """Return three spans, or fewer where there are not so many columns."""
    ends = sorted({0, length // 3, length // 2, length})
    return [slice(a, b) for a, b in pairwise(ends)]


LIBRARIES = {"numpy": Numpy, "torch": Torch, "strict": Strict, "jax": Jax}
_MODULES = {"strict": "array_api_strict"}


def installed() -> list[str]:
    """Return the names of the libraries that are there."""
    return [
        name for name in LIBRARIES if importlib.util.find_spec(_MODULES.get(name, name)) is not None
    ]
