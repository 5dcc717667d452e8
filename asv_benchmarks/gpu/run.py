"""One run: what is measured, in which order, and what happens when time or memory is short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import ceilings, questions
from .engines import Engine
from .methods import METHODS, Case, flops, passes_in_bytes, residual, single_case

__all__ = ["FIRST_QUESTIONS", "FULL", "REHEARSAL", "Plan", "Run"]


class Plan(NamedTuple):
    """Sizes of everything."""

    cases: tuple[Case, ...]
    square: int  # of the matrices whose product is the ceiling
    questions: questions.Sizes
    slow: bool  # also what takes minutes: "svda", and "eigh" of large matrices


_WIDE = ((256, 100_000), (1024, 100_000), (4096, 100_000), (1024, 1_000_000))

FULL = Plan(
    cases=(
        *(case for n, m in _WIDE for case in (single_case(n, m, "float32"), Case(n, m, "float64"))),
        *(single_case(n, m, "complex64") for n, m in _WIDE[:2]),
        Case(*_WIDE[1], "float32"),  # climbs
    ),
    square=8192,
    questions=questions.Sizes(
        gram=_WIDE,
        leaves=(64, 128, 256, 512, 1024, 2048),
        stack=64,
        stacked=(16, 32, 64, 128, 256),
        tall=(20_000, 256),
        factored=(256, 1024, 4096),
        solved=((64, 10_000), (256, 100_000)),
        decomposed=(1024, 4096, 8192),
        layers=(16, 1024),
        rank=128,
    ),
    slow=False,
)

REHEARSAL = Plan(
    cases=(Case(8, 60, "float64"), single_case(6, 40, "complex64")),
    square=32,
    questions=questions.Sizes(
        gram=((12, 40),),
        leaves=(4, 8),
        stack=3,
        stacked=(4,),
        tall=(30, 6),
        factored=(8,),
        solved=((6, 40),),
        decomposed=(40,),
        layers=(2, 30),
        rank=4,
    ),
    slow=True,
)

# What decides most comes first: four questions to CuPy, and the two ways that are taken by default.
FIRST_QUESTIONS = 4
_FIRST, _LAST = ("chol", "native"), ("unrefined", "plain", "eigh", "svda")
_LARGE = 4096
_CALLS = 3  # a slow row takes a warm-up, a memory reading and one timed call


class Run:
    """The engines, the plan, the time that is left, and the result so far.

    `result` is complete at any time, and `progress` is called with a line whenever it has grown.
    """

    def __init__(
        self,
        engines: list[Engine],
        plan: Plan,
        seconds: float,
        result: dict[str, Any],
        progress: Callable[[str], None],
    ) -> None:
        self.engines, self.plan, self.progress = engines, plan, progress
        self.start = time.monotonic()
        self.end = self.start + seconds
        self.pace: dict[tuple[str, str], float] = {}  # (library, method): seconds per flop
        self.result = result
        self.result |= {
            "libraries": {engine.name: engine.facts() for engine in engines},
            "methods": {name: method.what for name, method in METHODS.items()},
            "ceilings": [],
            "rows": [],
            "questions": [],
            "finished": False,
            "seconds": 0.0,
        }

    def __call__(self) -> None:
        """Measure everything; what fails or is skipped is a row that says why."""
        for engine in self.engines:
            self._ceilings(engine)
        asked = questions.QUESTIONS
        for engine in self.engines:
            self.ask(engine, asked[:FIRST_QUESTIONS] if engine.name == "cupy" else ())
        self.measure(_FIRST)
        for engine in self.engines:
            self.ask(engine, asked[FIRST_QUESTIONS:] if engine.name == "cupy" else asked)
        self.measure(_LAST)
        self.result["finished"] = True
        self._said("finished")

    def _said(self, line: str) -> None:
        self.result["seconds"] = time.monotonic() - self.start
        self.progress(f"{self.result['seconds']:5.0f} s  {line}")

    def _left(self) -> float:
        return self.end - time.monotonic()

    # ------------------------------------------------------------------------ the three parts

    def _ceilings(self, engine: Engine) -> None:
        def rows() -> list[dict[str, Any]]:
            return ceilings.measured_ceilings(engine, self.plan.square)

        found = self._guarded(engine, rows)
        if isinstance(found, list):
            self.result["ceilings"] += found
            found = {"rows": len(found)}
            engine.release()
        else:
            self.result["ceilings"].append({"library": engine.name, **found})
        self._said(f"{engine.name}: ceilings: {_brief(found)}")

    def ask(self, engine: Engine, asked: Iterable[questions.Question]) -> None:
        """Ask questions that are asked of this library."""
        for title, ask, libraries in asked:
            if engine.name not in libraries:
                continue

            def answer(ask: Any = ask) -> dict[str, Any]:
                sentence, numbers = ask(engine, self.plan.questions)
                return {"answer": sentence, "numbers": numbers}

            row = {"question": title, "library": engine.name, **self._guarded(engine, answer)}
            engine.release()
            self.result["questions"].append(row)
            self._said(f"{engine.name}: {title} {_brief(row)}")

    def measure(self, methods: Iterable[str]) -> None:
        """Measure rows of these methods on all cases and libraries."""
        for engine in self.engines:
            for case in self.plan.cases:
                self._case(engine, case, methods)

    def _case(self, engine: Engine, case: Case, methods: Iterable[str]) -> None:
        """Measure some methods on the same S, made when the first of them is not skipped."""
        arrays: list[Any] = []
        for name in methods:
            if not self.plan.slow and _takes_minutes(name, case):
                continue

            def row(name: str = name) -> dict[str, Any]:
                if not arrays:
                    shapes = (case.n, case.m), (case.m,)
                    arrays.extend([engine.normal(s, case.dtype, i) for i, s in enumerate(shapes)])
                return self._measured(engine, name, case, *arrays)

            what = {"library": engine.name, "method": name, **case._asdict()}
            short = self._too_long(engine, name, case)
            short = short or self._too_large(engine, name, case, made=bool(arrays))
            found = {"skipped": short} if short else self._guarded(engine, row)
            self.result["rows"].append(what | found)
            text = " ".join(str(value) for value in what.values())
            self._said(f"{text}: {_brief(found)}")
        arrays.clear()
        engine.release()

    # ------------------------------------------------------------------------------- one row

    def _measured(
        self, engine: Engine, name: str, case: Case, S: Any, v: Any
    ) -> dict[str, float | None]:
        start = time.perf_counter()
        step = engine.compiled(METHODS[name].step(engine, case.damping), S, v)
        x = step(S, v)
        engine.wait(x)
        first = time.perf_counter() - start
        error = residual(S, v, x, case.damping)
        del x
        memory = engine.extra_memory(step, S, v)
        seconds = engine.median(step, S, v)
        self.pace[engine.name, name] = seconds / flops(case)
        least, chol = self._least(case), self._chol(engine, case)
        return {
            "seconds": seconds,
            "first_seconds": first,
            "residual": error,
            "fraction": least / seconds if least else None,
            "memory_bytes": memory,
            "memory_over_S": None if memory is None else memory / case.bytes,
            "ratio_to_chol": 1.0 if name == "chol" else seconds / chol if chol else None,
        }

    def _least(self, case: Case) -> float | None:
        """Return the seconds that flops or traffic take at the best ceilings."""
        rows = [row for row in self.result["ceilings"] if "rate" in row]
        gemm, copy = ceilings.best(rows, f"gemm {case.dtype}"), ceilings.best(rows, "copy")
        if gemm is None or copy is None:
            return None
        return max(flops(case) / gemm, passes_in_bytes(case) / copy)

    def _chol(self, engine: Engine, case: Case) -> float | None:
        same = {"library": engine.name, "method": "chol", **case._asdict()}
        rows = (row for row in self.result["rows"] if same.items() <= row.items())
        return next((row["seconds"] for row in rows if "seconds" in row), None)

    # ----------------------------------------------------------------- time, memory, failure

    def _too_long(self, engine: Engine, name: str, case: Case) -> str:
        expected = self.pace.get((engine.name, name), 0.0) * flops(case) * _CALLS
        left = self._left()
        if expected <= max(left, 0.0):
            return ""
        return f"by its pace so far it takes {expected:.0f} s, and {max(left, 0):.0f} s are left"

    def _too_large(self, engine: Engine, name: str, case: Case, *, made: bool) -> str:
        square = 3 * case.n**2 * (case.bytes // (case.n * case.m))
        needed = case.bytes * (METHODS[name].copies + (not made)) + square
        if _fits(engine, needed):
            return ""
        engine.release()  # an allocator may keep what earlier rows used
        if _fits(engine, needed):
            return ""
        free = engine.free_bytes() or 0
        return f"needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"

    def _guarded(self, engine: Engine, measure: Callable[[], Any]) -> Any:
        """Call; no time left or any failure gives a row that says so."""
        if self._left() <= 0:
            return {"skipped": "the time of this run is spent"}
        try:
            return measure()
        except Exception as error:  # noqa: BLE001 - out of memory, cuSOLVER: the run goes on
            text = " ".join(str(error).split())[:200]
            found = {"error": f"{type(error).__name__}: {text}"}
        engine.release()  # the traceback with its arrays is gone by now
        return found


def _takes_minutes(name: str, case: Case) -> bool:
    return name == "svda" or (name == "eigh" and case.n >= _LARGE)


def _fits(engine: Engine, needed: int) -> bool:
    free = engine.free_bytes()
    return free is None or needed <= free


def _brief(found: dict[str, Any]) -> str:
    """Return a result as the end of a line."""
    if "seconds" in found:
        return f"{found['seconds'] * 1e3:.4g} ms, residual {found['residual']:.1e}"
    if "rows" in found:
        return f"{found['rows']} rates"
    return found.get("answer") or next(
        f"{kind}: {found[kind]}" for kind in ("skipped", "error") if kind in found
    )
