"""As many of the other rows and questions of `make gpu-bench` as there is time for."""

from __future__ import annotations

from typing import Any

from asv_benchmarks.gpu import questions
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.double import makers
from asv_benchmarks.gpu.engines import Engine, Unavailable
from asv_benchmarks.gpu.run import FIRST_QUESTIONS, Run

__all__ = ["benchmark"]

# JAX is left out: it compiles each row for longer than there is time.
_LIBRARIES = ("cupy", "torch")


def benchmark(desk: Desk) -> None:
    """Ask CuPy what other parts have not asked, then measure rows of CuPy and torch."""
    engines: list[Engine] = []
    for name, make in makers(desk.device)[0].items():
        if name in _LIBRARIES:
            try:
                engines.append(make())
            except Unavailable:
                continue
    result: dict[str, Any] = {}

    def progress(line: str) -> None:
        print(line, flush=True)
        desk.keep(rows=result["rows"], questions=result["questions"])

    run = Run(engines, desk.plan, desk.left(), result, progress)
    result["ceilings"] = desk.other("facts").get("ceilings", [])
    for engine in engines:
        if engine.name == "cupy":
            run.ask(engine, questions.QUESTIONS[FIRST_QUESTIONS:])
    run.measure(("chol", "native", "unrefined", "plain", "eigh"))
    for row in result["rows"] + result["questions"]:
        if "error" in row:
            desk.fault(f"{row['library']}: {row.get('question') or row['method']}: {row['error']}")
    desk.over()
