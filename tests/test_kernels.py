"""Small calls and launches cost what they count: no function takes more than kernels.json says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kernels
import pytest
from capabilities import FUNCTIONS
from kernels import counting

import ngdla

RECORDED = json.loads(kernels.TABLE.read_text(encoding="utf-8"))
HELD: dict[str, dict[str, int]] = RECORDED["functions"]

# Reads of calls that consist of several checked ones: one for each. What one call needs beside
# its check is said in its docstring: expm reads the number of squarings, and decompositions, which
# choose between a cheap and a costly way, read up to 25 flags.
SEVERAL = {
    "damped_factor": 2,
    "expm": 2,
    "inverse_free_apply": 2,
    "nystrom_factor": 26,
    "online_eigh_init": 25,
    "online_eigh_result": 51,
    "online_eigh_update": 50,
    "randomized_eigh": 26,
    "randomized_svd": 25,
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
def test_what_is_read_unchecked(function: str, check: Any) -> None:
    """Nothing with "nan"; else flags where the other way is more work, as many as with checks."""
    pytest.importorskip("torch")
    with kernels.unchecked(check):
        count = kernels.torch_count(FUNCTIONS[function], away=True)
    most = max(SEVERAL.get(function, 1), 5) if check is False else 0
    assert count.reads <= UNCHECKED.get(function, most)


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


# ------------------------------------------------------------------------------- the counters

EXAMPLE = """
import numpy as np
from scipy import linalg
from scipy.linalg import lapack

class Base:
    def double(self, x):
        return 2 * x

class Derived(Base):
    def double(self, x):
        return super().double(x) + len([1, 2]) * 0

def call(x):
    y = np.add(x, 1) @ x  # 2
    y += -x  # 2
    y[0] += 1  # 1
    y[y > 0] = 0  # 2
    first = y[1:, None].T, y[np.argmax(y, 1)]  # 2: views by slices and attributes are none
    z = Derived().double(y).astype("float32").sum()  # 4
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (x,))  # 1
    return first, linalg.inv(potrf(x)[0]) if not 1 + 1 > 2 < 3 else z  # 2
"""


def test_calls_of_numpy_are_counted(tmp_path: Path) -> None:
    (tmp_path / "counted_example.py").write_text(EXAMPLE)
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from benchmarks import counting\n"
        "counting.count_calls_of('counted_example')\n"
        "import counted_example, numpy as np\n"
        "print(counting.numpy_calls(lambda: counted_example.call(np.eye(3) + 1)))\n"
    )
    folders = [str(tmp_path), str(Path(counting.__file__).parents[1])]
    command = [sys.executable, "-c", program, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 16


def test_kernels_and_reads_are_counted() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones((3, 3))

    def call() -> Any:
        y = (x.T @ x)[1:].reshape(-1) + 1  # 2
        y.add_(1)  # 1
        return float(y.sum()), y.nonzero(), torch.equal(y, y)  # 1, and 3 reads

    assert counting.torch_count(call) == (4, 3)


def test_operations_of_xla_are_counted() -> None:
    jax = pytest.importorskip("jax")

    @jax.jit
    def outlined(x: Any) -> Any:
        return jax.numpy.sin(jax.numpy.cos(x))  # 2 in each call

    def call(x: Any) -> Any:
        return outlined(outlined(x)) + x, jax.lax.fori_loop(0, 3, lambda _, y: y * x, x)

    x = jax.ShapeDtypeStruct((3,), "float32")
    whole = counting.hlo_operations(call, x)
    assert whole - counting.hlo_operations(lambda x: call(x)[1], x) == 5
    assert counting.hlo_operations(lambda x: outlined(x) + x, x) == 3
