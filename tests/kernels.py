"""How many operations one call of each public function takes, and the table that says so.

    python tests/kernels.py

writes kernels.json, with PyTorch and JAX. Rewrite it when counts are meant to change;
`test_kernels.py` fails where one grew.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "asv_benchmarks"))

from benchmarks import counting

__all__ = [
    "COUNTED",
    "TABLE",
    "calls",
    "has_check",
    "hlo_count",
    "numpy_counts",
    "torch_count",
    "unchecked",
    "version",
]

TABLE = Path(__file__).with_suffix(".json")
COUNTED = {
    "numpy": "calls and operators of NumPy and SciPy",
    "torch": "operations of torch on the CPU",
    "launches": "operations of torch where values are not free to read, as on a GPU",
    "reads": "values that the host waits for there",
    "hlo": "operations of StableHLO",
}

Call = Callable[[Any, Any, Any], Any]


def calls() -> dict[str, Call]:
    """Return a call of each public function; this imports ngdla."""
    from capabilities import FUNCTIONS

    return FUNCTIONS


def arguments(asarray: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
    """Return S, v and f; S has a condition that leaves no number of sweeps to rounding."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((size, 5))).Q for size in (5, 11))
    S = (U * np.linspace(2, 1, 5)) @ V.T
    return [asarray(x) for x in (S, rng.standard_normal(11), rng.standard_normal(5))]


def numpy_counts() -> dict[str, int]:
    """Return the calls of NumPy of every function, counted in a process of its own."""
    command = [sys.executable, __file__, "--numpy"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def numpy_counts_here() -> dict[str, int]:
    counting.count_calls_of("ngdla")
    S, v, f = arguments()
    return {
        name: counting.numpy_calls(functools.partial(call, S, v, f))
        for name, call in calls().items()
    }


def torch_count(call: Call, *, away: bool) -> counting.TorchCount:
    """Count with values that are free to read, or on an accelerator."""
    import torch

    S, v, f = arguments(torch.asarray)
    with counting.values_away() if away else contextlib.nullcontext():
        return counting.torch_count(lambda: call(S, v, f))


def hlo_count(call: Call) -> int:
    import jax

    jax.config.update("jax_enable_x64", True)
    return counting.hlo_operations(call, *arguments(jax.numpy.asarray))


# ---------------------------------------------------------------------- without value checks


def has_check(function: Callable[..., Any], check: bool | str = False) -> bool:
    """Tell whether a function has the option `check` with this value."""
    if not inspect.isroutine(function) or "check" not in inspect.signature(function).parameters:
        return False
    return check != "nan" or inspect.signature(function).parameters["check"].annotation != "bool"


@contextlib.contextmanager
def unchecked(check: bool | str) -> Iterator[None]:
    """Give all public functions and methods another `check`, False where they do not have it."""
    with contextlib.ExitStack() as stack:
        for owner, name, function in public_functions():
            if has_check(function):
                value = check if has_check(function, check) else False
                patch = mock.patch.object(owner, name, _with_check(function, value))
                stack.enter_context(patch)
        yield


def public_functions() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Return all public functions and methods with the module or class that has them."""
    import ngdla

    public = [getattr(ngdla, name) for name in ngdla.__all__]
    owners = [ngdla, *(x for x in public if inspect.isclass(x))]
    return [
        (owner, name, function)
        for owner in owners
        for name, function in list(vars(owner).items())
        if not name.startswith("_") and inspect.isroutine(function)
    ]


def _with_check(function: Callable[..., Any], check: bool | str) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **{"check": check, **options})

    return called


# ------------------------------------------------------------------------------ the table


def version(library: str) -> str:
    """Return the minor version: how operations are split depends on it."""
    return ".".join(importlib.metadata.version(library).split(".")[:2])


def row(call: Call, numpy_calls: int) -> dict[str, int]:
    here, away = (torch_count(call, away=away) for away in (False, True))
    values = numpy_calls, here.kernels, away.kernels, away.reads, hlo_count(call)
    return dict(zip(COUNTED, values))


def table() -> str:
    counts = numpy_counts()
    rows = {name: json.dumps(row(call, counts[name])) for name, call in calls().items()}
    lines = ",\n".join(f'  "{name}": {text}' for name, text in rows.items())
    made = json.dumps({library: version(library) for library in ("torch", "jax")})
    return f'{{\n "versions": {made},\n "functions": {{\n{lines}\n }}\n}}\n'


def main() -> None:
    if sys.argv[1:] == ["--numpy"]:
        sys.stdout.write(json.dumps(numpy_counts_here()))
    else:
        TABLE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
