"""CuPy's arrays on a device that is not the current one: calls compute where these lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import map_arrays

import ngdla

pytestmark = pytest.mark.cupy_double


def on_another_device(host: np.ndarray) -> Any:
    import cupy

    with cupy.cuda.Device(1):
        return cupy.asarray(host)


def factor_with(damping: Any) -> Callable[[Any, Any], Any]:
    return lambda A, b: ngdla.damped_factor(A, on_another_device(damping)).solve(b)


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "hermitian_solve": lambda A, b: ngdla.hermitian_solve(A, b, full_output=True),
    "truncate": lambda A, b: ngdla.randomized_eigh(A, 3).truncate(2),
    "trace_bound": lambda A, b: ngdla.randomized_eigh(A, 3).trace_bound,
    "state_dict": lambda A, b: ngdla.state_dict(ngdla.online_eigh_init(A, 2)),
    "integer damping": factor_with(np.asarray(2)),
    "damping in half precision": factor_with(np.asarray(2, "float16")),
    "expm": lambda A, b: ngdla.expm(A),
    "inv_sqrtm_psd": lambda A, b: ngdla.inv_sqrtm_psd(A),
    "sample_gram": lambda A, b: ngdla.sample_gram(A, A),
    "online_eigh_update": lambda A, b: ngdla.online_eigh_update(
        ngdla.online_eigh_init(A, 2), A, decay=0.5
    ),
}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_lie_where_arguments_do(call: Callable[[Any, Any], Any], dtype: str) -> None:
    import cupy

    A, b = np.diag([4.0, 3, 2, 1]).astype(dtype), np.ones(4, dtype)
    result = call(on_another_device(A), on_another_device(b))
    devices: set[int] = set()
    map_arrays(lambda x: devices.add(x.device.id) if isinstance(x, cupy.ndarray) else None, result)
    assert devices == {1}
