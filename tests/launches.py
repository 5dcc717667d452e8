"""How many kernels a call launches on CuPy, counted on its stand-in, and the table that says so.

    python tests/launches.py

writes launches.json. Rewrite it when counts are meant to change; `test_launches.py` fails where one
grew. A launch is one call into CuPy, cuBLAS or cuSOLVER that works on the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CASES", "TABLE", "counted"]

TABLE = Path(__file__).with_suffix(".json")

Call = Callable[[], Any]


def _array(cupy: Any, *shape: int, dtype: str = "float64") -> Any:
    return cupy.asarray(np.random.default_rng(0).standard_normal(shape).astype(dtype))


def _problem(cupy: Any, dtype: str = "float64") -> tuple[Any, Any, float]:
    """Return S of 1024 rows, v, and a damping far above the roundings of its Gram matrix."""
    n, m = 1024, 2048
    return _array(cupy, n, m, dtype=dtype), _array(cupy, m, dtype=dtype), 100.0 * m


def _solve(cupy: Any, dtype: str = "float64", **options: Any) -> Call:
    import ngdla

    return partial(ngdla.damped_solve, *_problem(cupy, dtype), **options)


def _with_factor(cupy: Any) -> Call:
    import ngdla

    S, v, damping = _problem(cupy)
    return partial(ngdla.damped_factor(S, damping, precision="native").solve, v)


def _lstsq(cupy: Any) -> Call:
    import ngdla

    S, _, damping = _problem(cupy)
    return partial(ngdla.damped_lstsq, S, _array(cupy, len(S)), damping)


def _reconfiguration(cupy: Any) -> Call:
    import ngdla

    O = _array(cupy, 64, 512) + 1j * _array(cupy, 64, 512)[::-1]
    E = _array(cupy, 64) + 1j * _array(cupy, 64)[::-1]
    return partial(ngdla.stochastic_reconfiguration, O, E, 10.0, mode="complex")


def _samples(cupy: Any, N: int = 256) -> Any:
    """Return samples of 512 numbers with a decaying spectrum."""
    return _array(cupy, N, 512, dtype="float32") / cupy.sqrt(cupy.arange(1, 513).astype("float32"))


def _matrix(cupy: Any) -> Any:
    X = _samples(cupy)
    return X.T @ X


def _eigh(cupy: Any) -> Call:
    import ngdla

    return partial(ngdla.randomized_eigh, _matrix(cupy), 32)


def _eigh_from_basis(cupy: Any) -> Call:
    import ngdla

    A = _matrix(cupy)
    basis = ngdla.randomized_eigh(A, 32).eigenvectors
    return partial(ngdla.randomized_eigh, A, 32, passes=1, basis=basis)


def _svd(cupy: Any) -> Call:
    import ngdla

    return partial(ngdla.randomized_svd, _matrix(cupy), 32)


def _online(cupy: Any) -> Call:
    import ngdla

    X = _samples(cupy)
    return partial(ngdla.online_eigh_update, ngdla.online_eigh_init(X, 32), X, decay=0.9)


def _kronecker(cupy: Any) -> Call:
    import ngdla

    A = _matrix(cupy)
    return partial(ngdla.kronecker_solve, A, A, A, 1.0)


def _rows(cupy: Any) -> Call:
    import ngdla

    x, g = _array(cupy, 8, 4, 16, 16, dtype="float32"), _array(cupy, 8, 256, 6, dtype="float32")

    def call() -> Any:
        a = ngdla.patches(x, 3, padding=1)
        return ngdla.layer_rows(a, g, loss="mean", positions=True)

    return call


def _means(cupy: Any) -> Call:
    import ngdla

    return partial(ngdla.patch_means, _array(cupy, 8, 4, 16, 16, dtype="float32"), 3, padding=1)


def _weights(cupy: Any) -> Call:
    import ngdla

    a, g = _samples(cupy, 64), _samples(cupy, 64)

    def call() -> Any:
        c = ngdla.sample_weights(ngdla.sample_gram(a, g), 0.1)
        return ngdla.weighted_gradient(a, g, c)

    return call


def _inverse_free(cupy: Any, structure: str) -> Call:
    import ngdla

    a, g = _samples(cupy, 64), _samples(cupy, 64)
    state = ngdla.inverse_free_init(512, 512, structures=(structure, structure), like=a)
    statistics = ngdla.inverse_free_statistics(state, a, g)
    options = {"damping": 1e-3, "step_size": 1e-3, "momentum": 0.5}
    return partial(ngdla.inverse_free_update, state, statistics, **options)


def _toeplitz(cupy: Any) -> Call:
    from ngdla.structures import LowerToeplitz

    return partial(LowerToeplitz().project, _matrix(cupy))


# What is called, and how many launches it may take at most.
CASES: dict[str, tuple[Callable[[Any], Call], int]] = {
    "damped_solve, n = 1024": (partial(_solve, precision="native"), 35),
    "damped_solve, n = 1024, full_output=True": (
        partial(_solve, precision="native", full_output=True),
        80,
    ),
    "damped_solve, n = 1024, float32, check=False": (
        partial(_solve, dtype="float32", check=False),
        45,
    ),
    'damped_solve, n = 1024, check="nan"': (
        partial(_solve, precision="native", check="nan"),
        160,
    ),
    "DampedFactor.solve": (_with_factor, 14),
    "damped_lstsq": (_lstsq, 35),
    'stochastic_reconfiguration, mode="complex"': (_reconfiguration, 60),
    "randomized_eigh, d = 512, rank 32": (_eigh, 550),
    "randomized_eigh, d = 512, rank 32, basis, passes=1": (_eigh_from_basis, 400),
    "randomized_svd, d = 512, rank 32": (_svd, 700),
    "online_eigh_update, d = 512, rank 32": (_online, 160),
    'kronecker_solve, coupling="joint"': (_kronecker, 100),
    "patches, layer_rows": (_rows, 30),
    "patch_means, 3 x 3": (_means, 20),
    "sample_gram, sample_weights, weighted_gradient": (_weights, 70),
    "inverse_free_update, d = 512, dense": (partial(_inverse_free, structure="dense"), 110),
    "inverse_free_update, d = 512, hierarchical": (
        partial(_inverse_free, structure="hierarchical"),
        200,
    ),
    "inverse_free_update, d = 512, upper-triangular": (
        partial(_inverse_free, structure="upper-triangular"),
        250,
    ),
    "inverse_free_update, d = 512, block-diagonal": (
        partial(_inverse_free, structure="block-diagonal"),
        100,
    ),
    "inverse_free_update, d = 512, upper-toeplitz": (
        partial(_inverse_free, structure="upper-toeplitz"),
        100,
    ),
    "inverse_free_update, d = 512, diagonal": (partial(_inverse_free, structure="diagonal"), 60),
    "LowerToeplitz.project, d = 512": (_toeplitz, 20),
}


def counted(name: str) -> dict[str, int]:
    """Return the launches and host reads of a case, and the launches where no flag is read."""
    import cupy
    import cupy_double

    from ngdla._backend.choices import CHOICES

    call = CASES[name][0](cupy)
    call()  # kernels are compiled, constants uploaded
    with cupy_double.recorded() as record:
        call()
    with CHOICES["flags"].taken("never read"), cupy_double.recorded() as unread:
        call()
    return {
        "launches": len(record.launches),
        "reads": len(record.reads),
        "launches if flags are not read": len(unread.launches),
    }


def main() -> None:
    import cupy_double

    cupy_double.install()
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(counted(name))}" for name in CASES)
    TABLE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    sys.stdout.write(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
