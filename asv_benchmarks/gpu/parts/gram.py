"""Ways to a Gram matrix, over the rate of a large product of the same run."""

from __future__ import annotations

from typing import Any

from asv_benchmarks.gpu.ceilings import fractions
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.engines import Array, Engine
from asv_benchmarks.gpu.questions import distance, gram_times
from ngdla._backend.dtypes import astype
from ngdla._backend.namespace import namespace
from ngdla._backend.products import adjoint
from ngdla._backend.split_tf32 import gram_split_tf32

__all__ = ["gram_ways"]

SHAPES = ((1024, 100_000), (1024, 1_000_000), (256, 100_000), (4096, 100_000))
LEAVES = {"cupy": (512, 1024), "torch": (64, 256, 1024)}


def gram_ways(desk: Desk, engine: Engine) -> None:
    """Time one product, halves with some leaves, syrk, and a product split for TF32."""
    for shape in ((12, 40),) if desk.rehearsal else SHAPES:
        for dtype in ("float32", "float64", "complex64"):
            if desk.over():
                return
            try:
                row = _row(desk, engine, shape, dtype)
            except Exception as error:  # noqa: BLE001 - out of memory: the next one may fit
                desk.fault(f"{shape} {dtype}", error)
            else:
                desk.add("gram", row)
            engine.release()


def _row(desk: Desk, engine: Engine, shape: tuple[int, int], dtype: str) -> dict[str, Any]:
    S = engine.normal(shape, dtype, 0)
    found = gram_times(engine, S, LEAVES.get(engine.name, ()))
    if dtype == "float32":
        found |= _split(engine, S, found["seconds"])
    ceilings = desk.other("facts").get("ceilings", [])
    found["gemm_fraction"] = {
        way: fractions(ceilings, shape, dtype, seconds, 1)["gemm_fraction"]
        for way, seconds in found["seconds"].items()
    }
    n, m = shape
    return {"n": n, "m": m, "dtype": dtype, "library": engine.name} | found


def _split(engine: Engine, S: Array, seconds: dict[str, float]) -> dict[str, Any]:
    """Time what float32 by two products in TF32 takes, and compare its error with full float32."""
    double = astype(S, "float64")
    exact = namespace(S).matmul(double, adjoint(double))
    del double
    one = namespace(S).matmul(S, adjoint(S))
    errors = {
        "product": distance(astype(one, "float64"), exact),
        "split TF32": distance(astype(gram_split_tf32(S), "float64"), exact),
    }
    timed = {"split TF32": engine.median(gram_split_tf32, S, limit=0.15)}
    return {"seconds": seconds | timed, "error": errors}
