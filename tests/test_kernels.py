"""Small calls and launches cost what they count: no function takes more than kernels.json says."""

from __future__ import annotations

import json
from typing import Any

import kernels
import pytest
from capabilities import FUNCTIONS

import ngdla

RECORDED = json.loads(kernels.TABLE.read_text(encoding="utf-8"))
HELD: dict[str, dict[str, int]] = RECORDED["functions"]

# Reads of calls that consist of several checked ones: one for each. What one call needs beside
# its check is said in its docstring: expm reads the number of squarings.
SEVERAL = {
    "damped_factor": 2,
    "expm": 2,
    "inverse_free_apply": 2,
    "nystrom_factor": 2,
    "online_eigh_result": 3,
    "online_eigh_update": 2,
    "randomized_eigh": 2,
    "weight_sharing_step": 2,
}
UNCHECKED = {"expm": 1}
OPTIONAL = [
    (function, check)
    for function in FUNCTIONS
    for check in (False, "nan")
    if kernels.has_check(getattr(ngdla, function), check)
]


def test_the_table_is_complete() -> None:
    assert set(HELD) == set(FUNCTIONS), "write it anew: python tests/kernels.py"
    assert all(set(row) == set(kernels.COUNTED) for row in HELD.values())


@pytest.fixture(scope="module")
def numpy_counts() -> dict[str, int]:
    return kernels.numpy_counts()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_numpy(function: str, numpy_counts: dict[str, int]) -> None:
    require(function, "numpy", numpy_counts[function])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch(function: str) -> None:
    pytest.importorskip("torch")
    count = kernels.torch_count(FUNCTIONS[function], away=False)
    require(function, "torch", count.kernels)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_launches_and_reads(function: str) -> None:
    """As on a GPU: each checked call reads one flag."""
    pytest.importorskip("torch")
    count = kernels.torch_count(FUNCTIONS[function], away=True)
    require(function, "launches", count.kernels)
    require(function, "reads", count.reads)
    assert count.reads <= SEVERAL.get(function, 1)


@pytest.mark.parametrize(("function", "check"), OPTIONAL)
def test_nothing_is_read_unchecked(function: str, check: Any) -> None:
    pytest.importorskip("torch")
    with kernels.unchecked(check):
        count = kernels.torch_count(FUNCTIONS[function], away=True)
    assert count.reads == UNCHECKED.get(function, 0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_hlo(function: str) -> None:
    pytest.importorskip("jax")
    require(function, "hlo", kernels.hlo_count(FUNCTIONS[function]))


def require(function: str, kind: str, count: int) -> None:
    """Fail where a count grew; numbers of another torch or JAX are no yardstick."""
    held = HELD.get(function, {}).get(kind, 0)
    allowed = held if kind == "reads" else 1.05 * held + 2
    if count <= allowed:
        return
    said = (
        f"{function}: {count} {kernels.COUNTED[kind]}, {held} in tests/kernels.json. If they are "
        f"needed, write it anew: python tests/kernels.py"
    )
    library = {"torch": "torch", "launches": "torch", "hlo": "jax"}.get(kind)
    if library and kernels.version(library) != RECORDED["versions"][library]:
        pytest.skip(f"{said}; with this {library}, for it is of {RECORDED['versions'][library]}")
    pytest.fail(said)
