"""How each array library answers a case: arrays by their names, or an error."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import ngdla
from fuzz import libraries

from .cases import BATCHES, Case
from .programs import HALVES, Program

__all__ = ["LIBRARIES", "Answer", "called"]


class Answer(NamedTuple):
    """What a library says."""

    arrays: dict[str, np.ndarray]
    error: Exception | None
    traced: bool  # nothing could be read


def told(call: Any, fetched: Any, *, traced: bool) -> Answer:
    """Return what a call gives or raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Answer({k: np.array(fetched(x)) for k, x in call().items()}, None, traced)
        except Exception as error:  # noqa: BLE001, as it is judged
            return Answer({}, error, traced)


class Numpy(libraries.Numpy):
    """NumPy, and what other libraries have in common with it."""

    def serves(self, program: Program) -> bool:  # type: ignore[override]
        """Without bfloat16 and derivatives."""
        return program.dtype != "bfloat16" and not program.derivative

    def stored(self, x: np.ndarray, dtype: str) -> Any:
        """Return an array in the dtype in which it is stored."""
        return x.astype(dtype)

    def given(self, case: Case) -> dict[str, Any]:
        """Return the arrays of a case."""
        half = {"A", "G", "X"} if case.program.dtype in HALVES else set()
        return {
            name: self.stored(x, case.program.dtype) if name in half else self.asarray(x)
            for name, x in case.arrays.items()
        }

    def answer(self, case: Case) -> Answer:  # type: ignore[override]
        """Return the answer to a case."""
        arrays = self.given(case)
        call = derived if case.program.derivative else called
        return told(lambda: call(case.program, arrays, case.damping), self.fetched, traced=False)


class Strict(Numpy, libraries.Strict):
    """array-api-strict, which has no half precision."""

    def serves(self, program: Program) -> bool:  # type: ignore[override]
        """Without half precision and derivatives."""
        return program.dtype not in HALVES and not program.derivative


class Torch(Numpy, libraries.Torch):
    """PyTorch on the CPU."""

    def serves(self, program: Program) -> bool:  # type: ignore[override]
        """Everything."""
        return True

    def stored(self, x: np.ndarray, dtype: str) -> Any:
        """Return a tensor in the dtype in which it is stored."""
        import torch

        return torch.asarray(np.array(x)).to(getattr(torch, dtype))


class Jax(Torch):
    """JAX, compiled once for each program, data and damping its arguments."""

    traced = True

    def asarray(self, x: np.ndarray) -> Any:
        """Return an array of JAX."""
        import jax

        return jax.numpy.asarray(x)

    def fetched(self, x: Any) -> np.ndarray:
        """Return an array of NumPy."""
        return np.asarray(x)

    def stored(self, x: np.ndarray, dtype: str) -> Any:
        """Return an array in the dtype in which it is stored."""
        import jax

        return jax.numpy.asarray(x).astype(dtype)

    def answer(self, case: Case) -> Answer:  # type: ignore[override]
        """Return the answer to a case."""
        import jax

        with jax.enable_x64(case.program.double):
            arrays, damping = self.given(case), jax.numpy.asarray(case.damping)
            compiled = _compiled(case.program)
            return told(lambda: compiled(arrays, damping), self.fetched, traced=True)


@cache
def _compiled(program: Program) -> Any:
    import jax

    if not program.derivative:
        return jax.jit(lambda arrays, damping: called(program, arrays, damping))

    def gradient(arrays: Any, damping: Any) -> Any:
        def loss(A: Any) -> Any:
            return _loss(program, {**arrays, "A": A}, damping)

        return {"gradient": jax.numpy.conj(jax.grad(loss)(arrays["A"]))}

    return jax.jit(gradient)


def derived(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    """Return G with Re <G, E> the derivative along E, of torch."""
    A = arrays["A"].requires_grad_()
    _loss(program, {**arrays, "A": A}, damping).backward()
    return {"gradient": A.grad}


def _loss(program: Program, arrays: dict[str, Any], damping: Any) -> Any:
    """Return Re <W, f(A)>."""
    name = {"randomized_eigh": "solve", "kronecker_solve": "X"}.get(program.function, "value")
    product = arrays["W"].conj() * called(program, arrays, damping)[name]
    return product.real.sum() if program.is_complex else product.sum()


def called(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    """Return the results of a call by their names."""
    return CALLS.get(program.function, _of_one_matrix)(program, arrays, damping)


def _of_one_matrix(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    return {"value": getattr(ngdla, program.function)(arrays["A"], **dict(program.options))}


def _with_bound(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    function = getattr(ngdla, program.function)
    options = dict(program.options)
    result = function(arrays["A"], full_output=True, **options)._asdict()
    if program.function == "inv_sqrtm_newton_schulz":
        return {"value": function(arrays["A"], **options)}
    return result


def _randomized_eigh(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    model = ngdla.randomized_eigh(arrays["A"], program.rank, **dict(program.options))
    return vars(model) | _applied(model, arrays["V"], damping)


def _nystrom_factor(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    model = ngdla.nystrom_factor(arrays["A"], program.rank, **dict(program.options))
    return vars(model) | _applied(model, arrays["V"], damping)


def _applied(model: Any, V: Any, damping: Any) -> dict[str, Any]:
    return {
        "solve": model.solve(V, damping),
        "matmul": model.matmul(V),
        "logdet": model.logdet(damping),
    }


def _randomized_svd(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    options = dict(program.options)
    result, error = ngdla.randomized_svd(arrays["A"], program.rank, full_output=True, **options)
    return result._asdict() | {"error": error}


def _online_eigh(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    X, decay, check = arrays["X"], program.option("decay"), program.option("check")
    state = ngdla.online_eigh_init(X[0, ...], program.rank, check=check)
    skipped = {"skipped.0": state.skipped}
    for i in range(1, BATCHES):
        state = ngdla.online_eigh_update(state, X[i, ...], decay=decay, check=check)
        skipped[f"skipped.{i}"] = state.skipped
    return vars(ngdla.online_eigh_result(state)) | skipped | {
        "weight": state.weight, "probes": state.probes, "sketch": state.sketch,
    }  # fmt: skip


def _ema(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    options = dict(program.options)
    value, skipped = ngdla.ema(arrays["A"], arrays["X"], full_output=True, **options)
    return {"value": value, "skipped": skipped}


def _kronecker_solve(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    factors = []
    for name in ("A", "G"):
        form = program.option(name)
        if form == "dense":
            factors.append(arrays[name])
            continue
        pair = (arrays[name + ".values"], arrays[name + ".vectors"])
        if form == "low rank":
            tail, trace = arrays[name + ".tail"], arrays[name + ".trace"]
            pair = ngdla.LowRankEigh(*pair, tail, trace, tail)
        factors.append(pair)
    coupling = program.option("coupling")
    return {"X": ngdla.kronecker_solve(*factors, arrays["V"], damping, coupling=coupling)}


def _sample_weights(program: Program, arrays: dict[str, Any], damping: Any) -> dict[str, Any]:
    return {"value": ngdla.sample_weights(arrays["A"], damping, **dict(program.options))}


CALLS = {
    "randomized_eigh": _randomized_eigh,
    "nystrom_factor": _nystrom_factor,
    "randomized_svd": _randomized_svd,
    "online_eigh": _online_eigh,
    "ema": _ema,
    "kronecker_solve": _kronecker_solve,
    "expm_series": _with_bound,
    "inv_sqrtm_newton_schulz": _with_bound,
    "sample_weights": _sample_weights,
}
LIBRARIES = {"numpy": Numpy, "torch": Torch, "strict": Strict, "jax": Jax}
