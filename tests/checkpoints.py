"""A training loop of every state that is left after some steps and goes on from a file.

Run as a program, `checkpoints.py LIBRARY DTYPE FILE`, it restores the states of a file in a process
of its own, makes three steps more, and writes what comes out beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from backends import BACKENDS

import ngdla

D_IN, D_OUT, M, STEPS = 13, 6, 8, 3
STRUCTURES = (("hierarchical", {"k1": 2, "k2": 1}), "lower-toeplitz")

States = dict[str, Any]


def start(library: Any, dtype: str, only: str = "") -> States:
    """Return the states before any batch, or after one of zeros; templates as well.

    `only` is what names have to begin with.
    """
    batch = library.asarray(np.zeros((M, D_IN), wide(dtype)))
    factor = library.asarray(np.eye(D_IN, dtype=wide(dtype)))

    def inverse_free(storage: Any) -> Any:
        return ngdla.inverse_free_init(
            D_IN, D_OUT, structures=STRUCTURES, like=batch, dtype=dtype, storage=storage
        )

    makers: dict[str, Callable[[], Any]] = {
        f"inverse-free, {storage}": partial(inverse_free, storage)
        for storage in (("native", "compensated") if dtype == "bfloat16" else ("native",))
    }
    if dtype != "bfloat16":  # decompositions in half precision are made in float32
        makers |= {
            "online": lambda: ngdla.online_eigh_init(batch, 4),
            "eigenpairs": lambda: ngdla.randomized_eigh(factor, 3),
            "factor": lambda: ngdla.nystrom_factor(factor, 3),
        }
        makers |= {
            f"weights, {policy}": partial(ngdla.weight_sharing_init, policy, M, period=3)
            for policy in ("every", "shared", "table", "mean")
        }
    return {name: make() for name, make in makers.items() if name.startswith(only)}


def advanced(library: Any, states: States, dtype: str, seeds: range) -> States:
    """Return the states after one step for each seed."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        a, g = (
            library.asarray(rng.standard_normal((M, d)).astype(wide(dtype))) for d in (D_IN, D_OUT)
        )
        states = {name: _step(name, state, a, g) for name, state in states.items()}
    return states


def _step(name: str, state: Any, a: Any, g: Any) -> Any:
    if name.startswith("inverse-free"):
        statistics = ngdla.inverse_free_statistics(state, a, g)
        return ngdla.inverse_free_update(
            state, statistics, damping=0.1, step_size=0.2, momentum=0.5
        )
    if name == "online":
        return ngdla.online_eigh_update(state, a, decay=0.9)
    if name == "eigenpairs":  # the last basis starts the next one
        average = ngdla.ema(state.to_dense(), a, decay=0.9)
        return ngdla.randomized_eigh(average, 3, basis=state.eigenvectors, passes=1)
    if name == "factor":
        return ngdla.nystrom_factor(ngdla.ema(state.root @ state.root.T, a, decay=0.9), 3)
    return ngdla.weight_sharing_step(state, a, g, 0.3)[1]


def wide(dtype: str) -> str:
    """Return the dtype of batches for states of another one."""
    return "float32" if dtype == "bfloat16" else dtype


def save(library: Any, states: States, file: Path) -> None:
    """Write all states to one file of NumPy, which torch and JAX arrays are for it too."""
    arrays = {
        f"{name}/{key}": library.numpy(x) if not isinstance(x, np.ndarray) else x
        for name, state in states.items()
        for key, x in ngdla.state_dict(state).items()
    }
    np.savez(file, **arrays)


def load(library: Any, dtype: str, file: Path) -> States:
    """Return the states of a file."""
    with np.load(file) as arrays:
        parts: dict[str, dict[str, Any]] = {}
        for key in arrays:
            name, _, inner = key.partition("/")
            parts.setdefault(name, {})[inner] = arrays[key]
    like = library.asarray(np.zeros(1, wide(dtype)))
    return {
        name: ngdla.load_state_dict(template, parts[name], like=like)
        for name, template in start(library, dtype).items()
    }


def main(name: str, dtype: str, file: str) -> None:
    """Go on from a file."""
    library = BACKENDS[name]()
    states = advanced(library, load(library, dtype, Path(file)), dtype, range(STEPS, 2 * STEPS))
    save(library, states, Path(file).with_suffix(".later.npz"))


if __name__ == "__main__":
    main(*sys.argv[1:])
