"""Small solves, whose time is that of the host: with checks, without, and in the dtype of S."""

from __future__ import annotations

from functools import partial
from typing import Any

import ngdla
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.double import makers
from asv_benchmarks.gpu.engines import Array, Engine, Unavailable
from asv_benchmarks.gpu.questions import host_times

__all__ = ["tiny_solves"]

_SHAPES = ((64, 4096), (256, 10_000))
_WAYS: dict[str, dict[str, Any]] = {
    "check": {},
    "no check": {"check": False},
    "native": {"precision": "native"},
    "native, no check": {"precision": "native", "check": False},
}


def tiny_solves(desk: Desk) -> None:
    """Time solves of all libraries, at a damping where float32 is enough and at a usual one."""
    calls = []
    for make in makers(desk.device)[0].values():
        try:
            engine = make()
        except Unavailable:
            continue
        for n, m in ((6, 40),) if desk.rehearsal else _SHAPES:
            S, v = engine.normal((n, m), "float32", 0), engine.normal((m,), "float32", 1)
            for way, options in _WAYS.items():
                for relative in (0.1, 1e-3):
                    if desk.over():
                        return
                    what = {"library": engine.name, "n": n, "m": m, "way": f"{way}, {relative} m"}
                    call = partial(ngdla.damped_solve, damping=relative * m, **options)
                    if (called := _time(desk, engine, what, call, S, v)) is not None:
                        calls.append((desk.measured["tiny solves"][-1], called, (S, v)))
    for row, call, arrays in calls:  # last: what profiles may slow down what comes after
        row["kernels"] = _kernels(call, *arrays)
    desk.store()


def _time(
    desk: Desk, engine: Engine, what: dict[str, Any], call: Any, S: Array, v: Array
) -> Any | None:
    """Lay down a time, and return the call as it was timed, None where it failed."""
    try:
        compiled = engine.compiled(call, S, v)

        def finished(S: Array, v: Array) -> None:
            engine.wait(compiled(S, v))

        finished(S, v)
        times = host_times(engine, compiled if engine.name != "jax" else finished, S, v)
    except Exception as error:  # noqa: BLE001 - the other ways are asked all the same
        desk.fault(str(what), error)
        return None
    desk.add("tiny solves", what | times)
    return compiled


def _kernels(function: Any, *arrays: Array) -> int | None:
    """Count what runs on the device, which torch's profiler sees of all libraries; None unknown."""
    try:
        import torch
        from torch.profiler import DeviceType, ProfilerActivity, profile

        if not torch.cuda.is_available():
            return None
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            function(*arrays)
            torch.cuda.synchronize()
        events = [one for one in profiled.events() if one.device_type == DeviceType.CUDA]
    except Exception:  # noqa: BLE001 - no profiler in this build, or one that is in use
        return None
    return len(events) or None
