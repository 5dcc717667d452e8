"""Damped solves by ngdla and by hand, in the same library, to the same error."""

from __future__ import annotations

from typing import Any

import ngdla
from asv_benchmarks.gpu.ceilings import fractions
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine
from asv_benchmarks.gpu.methods import METHODS, Case, Step, residual, single_case
from asv_benchmarks.gpu.peers import by_hand
from ngdla._backend.split_tf32 import multiplies_in_tf32

__all__ = ["solves"]

_SHAPES = ((1024, 1_000_000), (1024, 100_000), (256, 100_000), (4096, 100_000))
_TINY = ((8, 60),)
_SWEEPS = 3  # of refinement by hand, at most
_LIMIT = 0.25
_PASSES = 3  # over S, at least: for S S^H, S v and S^H y


def solves(desk: Desk, engine: Engine) -> None:
    """Measure the largest case first; the wide ones are what the library is for."""
    for n, m in _TINY if desk.rehearsal else _SHAPES:
        for case in (
            single_case(n, m, "float32"),
            Case(n, m, "float64"),
            single_case(n, m, "complex64"),
        ):
            if desk.over():
                return
            what = {"library": engine.name, **case._asdict()}
            desk.add("solves", what | {"error": "cut off"})
            try:
                found = _row(desk, engine, case)
            except Exception as error:  # noqa: BLE001 - out of memory: the next one may fit
                found = {"error": desk.fault(f"{n} x {m} {case.dtype}", error)}
            engine.release()
            desk.measured["solves"][-1] = what | found
            desk.store()


def _row(desk: Desk, engine: Engine, case: Case) -> dict[str, Any]:
    S = engine.normal((case.n, case.m), case.dtype, 0)
    v = engine.normal((case.m,), case.dtype, 1)
    seconds, error = _measured(engine, METHODS["chol"].step(engine, case.damping), S, v, case)
    native, _ = _measured(engine, METHODS["native"].step(engine, case.damping), S, v, case)
    for sweeps in range(_SWEEPS + 1):
        step = by_hand(engine, case.damping, sweeps)
        peer, peer_error = _measured(engine, step, S, v, case)
        if peer_error <= error:
            break
    split = {}
    if case.dtype == "float32" and multiplies_in_tf32(S):
        split["split_seconds"], split["split_residual"] = _measured(
            engine,
            lambda S, v: ngdla.damped_solve(S, v, case.damping, precision="split-tf32"),
            S,
            v,
            case,
        )
    ceilings = desk.other("facts").get("ceilings", [])
    return {
        "seconds": seconds,
        "residual": error,
        "native_seconds": native,
        "peer_seconds": peer,
        "peer_residual": peer_error,
        "peer_sweeps": sweeps,
        "peer_reached": peer_error <= error,
        "peer_ratio": peer / seconds,
        **split,
        **fractions(ceilings, (case.n, case.m), case.dtype, seconds, _PASSES),
    }


def _measured(engine: Engine, step: Step, S: Array, v: Array, case: Case) -> tuple[float, float]:
    """Return the seconds of a call, and its residual in double precision."""
    compiled = engine.compiled(step, S, v)
    error = residual(S, v, compiled(S, v), case.damping)
    return engine.median(compiled, S, v, limit=_LIMIT), error
