"""Versions, and what the card can do: rates of large products, and of copying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asv_benchmarks.gpu.ceilings import measured_ceilings
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.double import makers
from asv_benchmarks.gpu.engines import Engine, Unavailable
from asv_benchmarks.gpu.methods import METHODS

__all__ = ["facts"]


def facts(desk: Desk) -> None:
    """Open each library that is there, and measure; all other parts are held against this."""
    opened, skipped = makers(desk.device)
    libraries: dict[str, Any] = {}
    methods = {name: method.what for name, method in METHODS.items()}
    desk.keep(libraries=libraries, skipped=skipped, methods=methods, ceilings=[])
    for name, make in opened.items():
        try:
            engine = make()
        except Unavailable as reason:
            desk.keep(skipped=skipped | {name: str(reason)})
            skipped = desk.measured["skipped"]
            continue
        libraries[name] = engine.facts()
        desk.store()
        _measure(desk, engine)
    if not libraries:
        msg = ", ".join(f"{name} {reason}" for name, reason in skipped.items())
        raise Unavailable(msg)


def _measure(desk: Desk, engine: Engine) -> None:
    if engine.name == "cupy" and desk.device == "gpu":
        desk.keep(cuda=_cuda())
    try:
        rows = measured_ceilings(engine, desk.plan.square)
    except Exception as error:  # noqa: BLE001 - one library less
        desk.fault(f"ceilings of {engine.name}", error)
        return
    engine.release()
    desk.keep(ceilings=desk.measured["ceilings"] + rows)


def _cuda() -> dict[str, Any]:
    """Return versions of what CuPy has loaded; what cannot be asked is said."""
    import cupy
    from cupy_backends.cuda.libs import cublas, cusolver

    runtime, handle = cupy.cuda.runtime, cupy.cuda.device.get_cublas_handle()
    asked: dict[str, Callable[[], Any]] = {
        "cublas": lambda: cublas.getVersion(handle),
        "cusolver": lambda: list(cusolver._getVersion()),
        "nvrtc": lambda: list(cupy.cuda.nvrtc.getVersion()),
        "driver": runtime.driverGetVersion,
        "runtime": runtime.runtimeGetVersion,
        "memory": lambda: list(runtime.memGetInfo()),
    }
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except Exception as error:  # noqa: BLE001 - not every build has each
            found[name] = repr(error)
    return found
