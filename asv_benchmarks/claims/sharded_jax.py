"""What devices send each other in compiled steps of sharded JAX arrays, on any axes of a mesh.

Nothing is computed: all is read off compiled programs of arrays that do not exist, on four devices
of the CPU, with jax_enable_x64 set.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from functools import cache
from typing import Any

import ngdla

from .compilations import jax
from .compiled_steps import COLLECTIVE, DEVICES, FOLDER, FOUR_DEVICES, largest_collective
from .tracked import tracked

KINDS = ("Auto", "Explicit")
SIZES = (64, 600, 1024)
DTYPES = ("float64", "complex128")
PARAMETERS = 4  # for each sample
GATHERED = re.compile(r"= (.*?) all-gather(?:-start)?\(")

Row = dict[str, Any]


def calls(dtype: str) -> dict[str, Any]:
    mode = "holomorphic" if dtype.startswith("complex") else "real"
    return {
        "gram": lambda S, f: ngdla.gram(S),
        "damped_lstsq": lambda S, f: ngdla.damped_lstsq(S, f, 0.1),
        "SR": lambda S, f: ngdla.stochastic_reconfiguration(S, f, 0.1, mode=mode),
    }


def row(kind: str, layout: str, name: str, n: int, dtype: str) -> Row:
    """Return what is sent in one call, in real numbers, over n^2 and n m numbers of the dtype."""
    sharding, m = jax().sharding, PARAMETERS * n
    axis = getattr(sharding.AxisType, kind)
    mesh = jax().make_mesh((DEVICES,), ("d",), axis_types=(axis,))

    def struct(shape: tuple[int, ...], *spec: Any) -> Any:
        placed = sharding.NamedSharding(mesh, sharding.PartitionSpec(*spec))
        return jax().ShapeDtypeStruct(shape, dtype, sharding=placed)

    S = struct((n, m), None, "d") if layout == "columns" else struct((n, m), "d")
    f = struct((n,)) if layout == "columns" else struct((n,), "d")
    program = jax().jit(calls(dtype)[name]).lower(S, f).compile().as_text()
    parts = 2 if dtype.startswith("complex") else 1
    gathers = "\n".join(line for line in program.splitlines() if GATHERED.search(line))
    return {
        "axes": kind.lower(),
        "sharded": layout,
        "call": name,
        "n": n,
        "dtype": dtype,
        "largest collective / n^2": largest(program) / (parts * n * n),
        "largest gather / (n m)": largest(gathers) / (parts * n * m),
        "exchanged": " all-to-all(" in program,
    }


def largest(program: str) -> int:
    """Return the real numbers of the largest collective, 0 where there is none."""
    return largest_collective(program) if COLLECTIVE.search(program) else 0


def rows() -> list[Row]:
    columns = itertools.product(KINDS, ("columns",), ("gram", "damped_lstsq", "SR"), SIZES, DTYPES)
    samples = itertools.product(KINDS, ("rows",), ("damped_lstsq", "SR"), (600,), DTYPES)
    return [row(*case) for case in (*columns, *samples)]


@cache
def rows_on_four_devices() -> list[Row]:
    """Return them from a new process, as the number of devices is fixed where JAX starts."""
    jax()
    done = subprocess.run(
        [sys.executable, "-m", "claims.sharded_jax"],
        cwd=FOLDER,
        env=os.environ | FOUR_DEVICES,
        check=True,
        capture_output=True,
    )
    found: list[Row] = json.loads(done.stdout)
    return found


def of_layout(layout: str, key: str) -> list[Any]:
    return [row[key] for row in rows_on_four_devices() if row["sharded"] == layout]


@tracked(
    "numbers in the largest collective over n^2, JAX, S n x 4n sharded over columns on 4 devices, "
    "largest of Gram matrix, least squares and SR, n = 64, 600, 1024, real and complex, automatic "
    "and explicit axes",
    at_most=1.0,
)
def track_columns() -> float:
    return float(max(of_layout("columns", "largest collective / n^2")))


@tracked(
    "numbers in the largest gathered array over n m, JAX, S 600 x 2400 sharded over rows on 4 "
    "devices, least squares and SR, real and complex, automatic and explicit axes",
    at_most=0.25,
)
def track_rows() -> float:
    assert all(of_layout("rows", "exchanged"))
    return float(max(of_layout("rows", "largest gather / (n m)")))


def details() -> dict[str, Any]:
    """Return a row for each program."""
    return {"programs": rows_on_four_devices()}


if __name__ == "__main__":
    print(json.dumps(rows()))
