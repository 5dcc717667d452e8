"""Inverse-free updates: a step against the `singd` package, half precision, a bad first batch.

The step: statistics, INGD update with momentum 0.5 and preconditioned gradient of a 1024 x 1024
layer, 256 rows, float32 on torch; of the package the same operations on the same data.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import alternating, normal, optional
from benchmarks.peers_singd import CLASSES, ingd_step
from benchmarks.structure_list import STRUCTURES
from threads import THREADS, limited

import ngdla

from .tracked import tracked

REPEATS = 15
OPTIONS = {"damping": 1e-3, "step_size": 1e-3, "momentum": 0.5}


class Layer(NamedTuple):
    """The sizes of a layer and of a batch of rows."""

    d_in: int
    d_out: int
    rows: int

    def arrays(self, *batch: int) -> list[np.ndarray]:
        """Return inputs, output gradients and a gradient of the weight, in float32."""
        d_in, d_out, rows = self
        shapes = (rows, d_in), (rows, d_out), (d_out, d_in)
        return [normal((*batch, *shape), "float32", i) for i, shape in enumerate(shapes)]


SQUARE = Layer(1024, 1024, 256)


class Step:
    """One step after the other, from the identity, of a layer or of a stack of them."""

    def __init__(self, structure: Any, V: Any) -> None:
        *batch, d_out, d_in = V.shape
        self.state = ngdla.inverse_free_init(
            d_in, d_out, structures=(structure, structure), like=V, batch=tuple(batch)
        )

    def __call__(self, a: Any, g: Any, V: Any) -> Any:
        statistics = ngdla.inverse_free_statistics(self.state, a, g, positions=False)
        self.state = ngdla.inverse_free_update(self.state, statistics, **OPTIONS)
        return ngdla.inverse_free_apply(self.state, V)


@cache
def step_times(
    threads: int, layer: Layer = SQUARE, names: tuple[str, ...] = tuple(CLASSES)
) -> dict[str, dict[str, float]]:
    """Return the times of a step, ours and the package's, for each structure."""
    torch = optional("torch")
    optional("singd")
    a, g, V = map(torch.from_numpy, layer.arrays())
    scaled = a / layer.rows**0.5, g / layer.rows**0.5  # the package takes means
    found = {}
    for name in names:
        ours = Step(CLASSES[name][0], V)
        theirs = ingd_step(name, layer.d_in, layer.d_out, **OPTIONS)
        ways = {
            "ngdla": lambda ours=ours: ours(a, g, V),
            "singd": lambda theirs=theirs: theirs(*scaled, V),
        }
        with limited(threads), torch.no_grad():
            found[name] = alternating(ways, 3 if "Toeplitz" in name else REPEATS)
    return found


def _ratio(*names: str, threads: int = 1) -> float:
    times = step_times(threads)
    return min(times[name]["singd"] / times[name]["ngdla"] for name in names)


@tracked(
    "SINGD step, dense, 1024 x 1024, 256 rows, float32, torch, one thread: time of the singd "
    "package over ours",
    at_least=1.0,
)
def track_dense() -> float:
    return _ratio("dense")


@tracked("SINGD step, blocks of 32, the same", at_least=1.3)
def track_blocks() -> float:
    return _ratio("blocks of 32")


@tracked("SINGD step, hierarchical 15/15, the same", at_least=1.3)
def track_hierarchical() -> float:
    return _ratio("hierarchical 15/15")


@tracked("SINGD step, lower and upper Toeplitz, the same, the lesser one", at_least=20.0)
def track_toeplitz() -> float:
    return _ratio("lower Toeplitz", "upper Toeplitz")


@tracked("SINGD step, diagonal, the same")
def track_diagonal() -> float:
    return _ratio("diagonal")


@tracked("SINGD step, one dense row, the same")
def track_dense_row() -> float:
    return _ratio("one dense row")


@tracked(f"SINGD step, dense, the same with {THREADS} threads")
def track_dense_threads() -> float:
    return _ratio("dense", threads=THREADS)


@tracked(f"SINGD step, blocks of 32, the same with {THREADS} threads")
def track_blocks_threads() -> float:
    return _ratio("blocks of 32", threads=THREADS)


@tracked(f"SINGD step, hierarchical 15/15, the same with {THREADS} threads")
def track_hierarchical_threads() -> float:
    return _ratio("hierarchical 15/15", threads=THREADS)


@tracked("SINGD step, diagonal, 32 x 32, 16 rows, NumPy float64", unit="us")
def track_overhead() -> float:
    a, g, V = (normal(shape, seed=i) for i, shape in enumerate([(16, 32), (16, 32), (32, 32)]))
    step = Step("diagonal", V)
    with limited(1):
        return 1e6 * alternating({"step": lambda: step(a, g, V)}, 200)["step"]


# -------------------------------------------------------------------------- half precision

SMALL, STEPS, STEP_SIZE, DAMPING = 32, 3000, 0.002, 1e-2
SPECTRUM = np.geomspace(1e2, 1e-2, SMALL)
STORAGES = (
    ("float64", "native"),
    ("float32", "native"),
    ("bfloat16", "native"),
    ("bfloat16", "float32"),
    ("bfloat16", "compensated"),
    ("float16", "native"),
    ("float16", "compensated"),
)


@cache
def storage_errors() -> dict[str, float]:
    """Return |K K^T - (S + damping)^-1| / |(S + damping)^-1| with the average S of KFAC."""
    torch = optional("torch")
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((SMALL, SMALL)))[0]
    root = np.sqrt(SPECTRUM)[:, None] * Q.T
    states = {
        f"{dtype}, {storage}": ngdla.inverse_free_init(
            SMALL,
            1,
            structures=("dense", "diagonal"),
            like=torch.zeros(1),
            dtype=dtype,
            storage=storage,
            momentum=False,
        )
        for dtype, storage in STORAGES
    }
    S = (1 - DAMPING) * np.eye(SMALL)
    for _ in range(STEPS):
        X = (rng.standard_normal((128, SMALL)) @ root).astype("float32")
        S = (1 - STEP_SIZE) * S + STEP_SIZE * (X.T.astype("float64") @ X) / len(X)
        a, g = torch.from_numpy(X), torch.ones(len(X), 1)
        for name, state in states.items():
            states[name] = ngdla.inverse_free_update(
                state,
                ngdla.inverse_free_statistics(state, a, g),
                damping=DAMPING,
                step_size=STEP_SIZE,
                rule="ikfac",
            )
    exact = np.linalg.inv(S + DAMPING * np.eye(SMALL))
    return {name: _distance(_preconditioner(state), exact) for name, state in states.items()}


def _preconditioner(state: ngdla.InverseFreeState) -> np.ndarray:
    """Return K K^T, as the state applies it."""
    K = state.K + state.compensation_K if state.compensation_K else state.K
    dense = np.asarray(K.to_dense(), dtype="float64")
    return dense @ dense.T


def _distance(A: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(A - exact) / np.linalg.norm(exact))


@tracked(
    "IKFAC, 3000 steps of 0.002, d = 32, condition 1e4, bfloat16 compensated: error of K K^T "
    "against KFAC in float64",
    unit="relative",
    at_most=5e-3,
)
def track_compensated() -> float:
    return storage_errors()["bfloat16, compensated"]


@tracked("IKFAC, the same, factors in float32, all else in bfloat16", unit="relative", at_most=5e-3)
def track_float32_storage() -> float:
    return storage_errors()["bfloat16, float32"]


@tracked("IKFAC, the same, plain bfloat16", unit="relative", at_least=0.5)
def track_plain_bfloat16() -> float:
    return storage_errors()["bfloat16, native"]


@tracked("IKFAC, the same, float16 compensated", unit="relative", at_most=5e-3)
def track_compensated_float16() -> float:
    return storage_errors()["float16, compensated"]


@tracked("IKFAC, the same, float64", unit="relative")
def track_float64_storage() -> float:
    return storage_errors()["float64, native"]


# ----------------------------------------------------------------------- a bad first batch

BATCH_STEPS = 300
FACTOR = 60.0  # the second moment is 3600 I and what sampling adds


def _after(structure: Any, retraction: str, order: int, step: float, *, safeguard: bool) -> float:
    """Return the distance of K K^T from the optimum for a constant batch of large inputs."""
    d = 20
    a, g = FACTOR * normal((10 * d, d)), normal((10 * d, 1))
    state = ngdla.inverse_free_init(
        d, 1, structures=(structure, "diagonal"), like=a, momentum=False
    )
    for _ in range(BATCH_STEPS):
        state = ngdla.inverse_free_update(
            state,
            ngdla.inverse_free_statistics(state, a, g),
            damping=DAMPING,
            step_size=step,
            rule="ikfac",
            retraction=retraction,
            order=order,
            safeguard=safeguard,
            check=False,
        )
        if bool(state.report.skipped):
            return float("inf")
    K = ngdla.structured_factor(a.T @ a / len(a), structure, DAMPING).to_dense()
    return _distance(_preconditioner(state), K @ K.T)


@cache
def first_batch() -> dict[str, dict[str, float]]:
    """Return the distances for each structure, with and without the safeguard."""
    return {
        name: {
            f"{retraction} {order}{', guarded' if safeguard else ''}": _after(
                structure, retraction, order, 0.1, safeguard=safeguard
            )
            for retraction, order, safeguard in (
                ("series", 1, True),
                ("binomial", 2, True),
                ("implicit", 1, True),
                ("exact", 1, True),
                ("series", 1, False),
                ("expm", 1, False),
            )
        }
        for name, structure in STRUCTURES.items()
    }


@tracked(
    "IKFAC from second moment 3600 I, constant batch, 300 steps of 0.1, guarded series: distance "
    "of K K^T from the optimum, worst structure",
    unit="relative",
    at_most=1e-2,
)
def track_guarded_series() -> float:
    return max(found["series 1, guarded"] for found in first_batch().values())


@tracked("IKFAC, the same, guarded series, median structure", unit="relative", at_most=1e-10)
def track_guarded_series_median() -> float:
    return float(np.median([found["series 1, guarded"] for found in first_batch().values()]))


@tracked("IKFAC, the same, guarded binomial series of order 2, worst structure", unit="relative")
def track_guarded_binomial() -> float:
    return max(found["binomial 2, guarded"] for found in first_batch().values())


@tracked("IKFAC, the same without the safeguard: structures that do not diverge", unit="structures")
def track_unguarded() -> float:
    return float(sum(found["series 1"] < 1 for found in first_batch().values()))


def details() -> dict[str, Any]:
    """Return the times of a step in ms, errors of storage, and distances after a bad batch."""
    return {
        "steps": [
            {"structure": name, "threads": threads}
            | {who: 1e3 * seconds for who, seconds in times.items()}
            | {"ratio": times["singd"] / times["ngdla"]}
            for threads in (1, THREADS)
            for name, times in step_times(threads).items()
        ],
        "storage": [
            {"dtype, storage": name, "error": error} for name, error in storage_errors().items()
        ],
        "first_batch": [
            {"structure": name}
            | {way: x if math.isfinite(x) else "diverges" for way, x in distances.items()}
            for name, distances in first_batch().items()
        ],
    }
