"""What calls launch, read, copy and leave on CuPy, counted on its stand-in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import cupy_double
import kernels
import launches
import numpy as np
import pytest
from backends import DTYPES, map_arrays
from capabilities import FUNCTIONS
from references import random_array

import ngdla

pytestmark = pytest.mark.cupy_double

DECOMPOSITIONS = ("randomized_eigh", "randomized_svd", "nystrom_factor", "online_eigh_init")
MOST_READS = dict.fromkeys(DECOMPOSITIONS, 25) | {
    "damped_factor": 2,  # several checked calls, one read for each
    "expm": 2,  # the number of squarings, as its docstring says
    "inverse_free_apply": 2,
    "online_eigh_update": 50,
    "online_eigh_result": 75,
    "weight_sharing_step": 2,
}


@pytest.fixture(scope="module")
def arguments() -> list[Any]:
    import cupy

    return kernels.arguments(cupy.asarray)


@pytest.mark.parametrize("name", launches.CASES)
def test_launches(name: str) -> None:
    recorded = json.loads(launches.TABLE.read_text(encoding="utf-8"))
    found, held = launches.counted(name), recorded[name]
    assert found["launches"] <= launches.CASES[name][1]
    grown = {what: n for what, n in found.items() if n > held[what]}
    assert not grown, f"{grown} of {held}. If they are needed: python tests/launches.py"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_reads(function: str, arguments: list[Any]) -> None:
    with cupy_double.recorded() as record:
        FUNCTIONS[function](*arguments)
    assert len(record.reads) <= MOST_READS.get(function, 1), record.reads


@pytest.mark.parametrize(
    "function", [name for name in FUNCTIONS if kernels.has_check(getattr(ngdla, name), "nan")]
)
def test_nothing_is_read_where_refused_is_nan(function: str, arguments: list[Any]) -> None:
    with kernels.unchecked("nan"), cupy_double.recorded() as record:
        FUNCTIONS[function](*arguments)
    assert record.reads == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_on_a_device_that_is_not_the_current_one(function: str, arguments: list[Any]) -> None:
    """But it is for what the caller does with such arrays."""
    import cupy

    hosts = [x.get() for x in arguments]
    with cupy.cuda.Device(1), called_on_device(0):
        result = FUNCTIONS[function](*map(cupy.asarray, hosts))
        assert cupy.cuda.runtime.getDevice() == 1
    arrays: list[Any] = []
    map_arrays(arrays.append, result if isinstance(result, tuple) else (result,))
    assert arrays
    assert all(x.device == cupy.cuda.Device(1) for x in arrays)


@contextlib.contextmanager
def called_on_device(number: int) -> Iterator[None]:
    """Let another device be the current one whenever this library is called."""
    import cupy

    def elsewhere(function: Any) -> Any:
        def called(*args: Any, **options: Any) -> Any:
            with cupy.cuda.Device(number):
                result = function(*args, **options)
                assert cupy.cuda.runtime.getDevice() == number
            return result

        return called

    with contextlib.ExitStack() as stack:
        for owner, name, function in kernels.public_functions():
            stack.enter_context(mock.patch.object(owner, name, elsewhere(function)))
        yield


# --------------------------------------------------------------------------------- memory


def _in_layout(cupy: Any, host: np.ndarray, layout: str) -> Any:
    *batch, n, m = host.shape
    if layout == "C order":
        return cupy.asarray(host)
    if layout == "Fortran order":
        place = cupy.empty((*batch, m, n), host.dtype).swapaxes(-2, -1)
    else:
        place = cupy.empty((*batch, n, m + 9), host.dtype)[..., 4 : m + 4]
    place[...] = cupy.asarray(host)
    return place


@pytest.mark.parametrize("shape", [(12, 3000), (3000, 12), (2, 12, 3000), (520, 2600)], ids=str)
@pytest.mark.parametrize("layout", ["C order", "Fortran order", "columns of another array"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_scores_are_copied(
    shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator
) -> None:
    """Nor products of their size made, but Gram matrices, of at most a third of it here."""
    import cupy

    if shape[-2] == 520:
        gaussian = rng.standard_normal(shape, dtype="float32")
        S = _in_layout(cupy, gaussian.astype(dtype), layout)
    else:
        S = _in_layout(cupy, random_array(rng, shape, dtype), layout)
    *batch, n, m = shape
    f, v = (cupy.ones((*batch, size), dtype) for size in (n, m))
    damping = 1e3 * max(n, m)
    with cupy_double.recorded() as record:
        ngdla.gram(S) if n < m else None
        ngdla.damped_solve(S, v, damping)
        ngdla.damped_lstsq(S, f, damping, full_output=True)
        factor = ngdla.damped_factor(S, damping)
        factor.solve(v)
    assert record.largest < S.nbytes / 3, max(record.allocations, key=lambda made: made[1])
