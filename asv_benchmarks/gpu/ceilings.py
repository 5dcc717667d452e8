"""What the card can do in the same run: rates of matrix products, and of copying."""

from __future__ import annotations

from typing import Any

from ngdla._backend.namespace import namespace

from .engines import Engine

__all__ = ["ITEMSIZE", "best", "fractions", "measured_ceilings"]

DTYPES = ("float32", "float64", "complex64")
ITEMSIZE = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}


def measured_ceilings(engine: Engine, size: int) -> list[dict[str, Any]]:
    """Return GEMM rates in flops/s (TF32 for information only) and the copy rate in bytes/s."""
    rows = []
    for dtype in DTYPES:
        A, B = (engine.normal((size, size), dtype, seed) for seed in (1, 2))
        operations = 2 * size**3 * (4 if dtype.startswith("complex") else 1)
        product = engine.compiled(_product, A, B)
        rows.append((f"gemm {dtype}", "flops/s", operations / _seconds(engine, product, A, B)))
        if dtype == "float32":
            with engine.tf32():  # not compiled: engines compile at full precision
                seconds = _seconds(engine, _product, A, B)
            rows.append(("gemm float32 in TF32", "flops/s", operations / seconds))
    x = engine.normal((4 * size, size), "float32", 3)
    seconds = _seconds(engine, engine.compiled(_negative, x), x)
    rows.append(("copy", "bytes/s", 2 * 4 * 4 * size**2 / seconds))
    return [
        {"library": engine.name, "what": what, "rate": rate, "unit": unit}
        for what, unit, rate in rows
    ]


def best(ceilings: list[dict[str, Any]], what: str) -> float | None:
    """Return the best rate that any library reached."""
    return max((row["rate"] for row in ceilings if row.get("what") == what), default=None)


def fractions(
    ceilings: list[dict[str, Any]], shape: tuple[int, int], dtype: str, seconds: float, passes: int
) -> dict[str, float | None]:
    """Return a time of work on S of this shape in units of what the card can do.

    A whole product S S^H at the rate of large ones, and the passes over S at the rate of copying
    (which reads and writes), each over the time that was taken. Half of a product can do with half.
    """
    n, m = shape
    operations = 2 * n**2 * m * (4 if dtype.startswith("complex") else 1)
    traffic = passes * n * m * ITEMSIZE[dtype]
    gemm, copy = best(ceilings, f"gemm {dtype}"), best(ceilings, "copy")
    return {
        "gemm_fraction": operations / seconds / gemm if gemm else None,
        "copy_fraction": traffic / seconds / copy if copy else None,
    }


def _product(A: Any, B: Any) -> Any:
    return namespace(A).matmul(A, B)


def _negative(x: Any) -> Any:
    """Read once and write once; JAX hands out plain copies without copying."""
    return namespace(x).negative(x)


def _seconds(engine: Engine, function: Any, *arrays: Any) -> float:
    function(*arrays)
    return engine.median(function, *arrays, limit=0.5)
