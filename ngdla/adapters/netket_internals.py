"""What the doors need of NetKet beyond its documented names.

A new version of NetKet is first tried with the tests of this folder, then let in by `netket.py`.
"""

from __future__ import annotations

import copy
from typing import Any

import jax
import netket as nk
from jax.sharding import NamedSharding, PartitionSpec
from netket._src.callbacks.auto_chunk_size import get_forward_operator
from netket.optimizer.qgt.qgt_jacobian_dense import QGTJacobianDenseT
from netket.optimizer.qgt.qgt_jacobian_pytree import QGTJacobianPyTreeT

__all__ = [
    "apply_function",
    "at_parameters",
    "default_mode",
    "is_jacobian_qgt",
    "parameters_of",
    "register_hamiltonian",
    "replicated",
    "samples_of",
]


def apply_function(state: Any) -> Any:
    """Return the hashable function (variables, samples) -> log psi of a variational state."""
    return state._apply_fun


def samples_of(state: Any) -> Any:
    """Return samples of a state, (..., sites): drawn ones, or all where it is summed in full."""
    return state._all_states if isinstance(state, nk.vqs.FullSumState) else state.samples


def at_parameters(state: Any, parameters: Any) -> Any:
    """Return the state with other parameters and the same samples."""
    moved = copy.copy(state)
    moved.parameters = parameters
    if not isinstance(state, nk.vqs.FullSumState):
        moved._samples = state.samples
    return moved


def default_mode(state: Any) -> str:
    """Return the mode in which NetKet would differentiate: "real" or "complex"."""
    mode = nk.jax.jacobian_default_mode(
        state._apply_fun,
        state.parameters,
        state.model_state,
        state.hilbert.random_state(jax.random.key(0), 1),
        warn=False,
    )
    return str(mode)


def replicated(x: Any) -> Any:
    """Return an array of traced code as every device holds it, where NetKet shards samples."""
    if not nk.config.netket_sharding:
        return x
    whole = NamedSharding(jax.sharding.get_abstract_mesh(), PartitionSpec())
    return jax.lax.with_sharding_constraint(x, whole)


def is_jacobian_qgt(A: Any) -> bool:
    """Tell whether a geometric tensor holds its scores."""
    return isinstance(A, (QGTJacobianDenseT, QGTJacobianPyTreeT))


def parameters_of(A: Any) -> Any:
    """Return shapes and dtypes of the parameters of a geometric tensor that holds its scores."""
    return A._params_structure


def register_hamiltonian(driver: type) -> None:
    """Tell NetKet's AutoChunkSize which operator a driver measures: its field `_ham`."""

    def hamiltonian(driver: Any) -> Any:
        return driver._ham

    hamiltonian.__annotations__["driver"] = driver
    get_forward_operator.dispatch(hamiltonian)
