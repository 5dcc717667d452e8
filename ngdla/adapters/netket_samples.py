"""What a variational state of NetKet measures: samples, local energies, log-derivatives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import netket as nk
from jax.flatten_util import ravel_pytree

from ngdla._backend.messages import shown
from ngdla.variational_monte_carlo.centred_scores import MODES, Mode

from .netket_internals import apply_function, default_mode, samples_of

__all__ = [
    "Ansatz",
    "Measured",
    "ansatz_of",
    "flat_parameters",
    "measured",
    "require_hilbert_space",
    "require_shift",
]


class Measured(NamedTuple):
    """Samples of a state, (..., sites), and for each the deviation of its local energy."""

    samples: Any
    deviations: Any  # local energies less their mean, (...)
    weights: Any  # (...), or None where all are equal


def measured(state: Any, hamiltonian: Any) -> tuple[Any, Measured]:
    """Return the statistics of the energy, and what they were made of."""
    samples = samples_of(state)
    if not isinstance(state, nk.vqs.FullSumState):
        energies = state.local_estimators(hamiltonian)
        stats = nk.stats.statistics(energies)
        return stats, Measured(samples, energies.data - stats.mean, None)
    psi = state.to_array()
    H_psi = nk.operator.to_sparse_cached(hamiltonian) @ psi
    mean = jnp.vdot(psi, H_psi)
    rest = H_psi - mean * psi
    stats = nk.stats.Stats(mean=mean, error_of_mean=0.0, variance=jnp.sum(jnp.abs(rest) ** 2))
    return stats, Measured(samples, rest / psi, state.probability_distribution())


# ------------------------------------------------------------------------------------ ansatz


@dataclasses.dataclass(frozen=True)
class Ansatz:
    """log psi and its derivatives; a value, so that what is compiled for it is found again."""

    apply_function: Any
    mode: Mode
    chunk_size: int | None

    def log_values(self, variables: Any, samples: Any) -> Any:
        """Return log psi of each sample, (n,)."""
        chunked = nk.jax.apply_chunked(
            self.apply_function, in_axes=(None, 0), chunk_size=self.chunk_size
        )
        return chunked(variables, rows(samples))

    def log_derivatives(self, variables: Any, samples: Any) -> Any:
        """Return O, (n, m), complex unless the mode is "real".

        Complex parameters have two real columns each, unless the mode is "holomorphic".
        """
        O = nk.jax.jacobian(
            self.apply_function,
            variables["params"],
            rows(samples),
            {key: x for key, x in variables.items() if key != "params"},
            mode=self.mode,
            chunk_size=self.chunk_size,
            dense=True,
        )
        if self.mode != "complex":
            return O
        pairs = O.astype(jnp.promote_types(O.dtype, jnp.float32))  # half precision has no complex
        return jax.lax.complex(pairs[:, 0], pairs[:, 1])


def ansatz_of(state: Any, mode: str | None = None) -> Ansatz:
    """Return the ansatz of a state, by default differentiated as NetKet would."""
    if not isinstance(state, (nk.vqs.MCState, nk.vqs.FullSumState)):
        msg = (
            f"the variational state is a {type(state).__name__}; it must be a netket.vqs.MCState "
            f"or a netket.vqs.FullSumState."
        )
        raise TypeError(msg)
    mode = default_mode(state) if mode is None else str(mode)
    if mode not in MODES:
        msg = (
            f"`mode` is {mode!r}; it must be one of {', '.join(map(repr, MODES))}, or None for "
            f"NetKet's choice."
        )
        raise ValueError(msg)
    if mode == "holomorphic" and not all(map(jnp.iscomplexobj, jax.tree.leaves(state.parameters))):
        msg = (
            "`mode` is 'holomorphic' but some parameters are real; give the model complex ones "
            "(param_dtype=complex), or choose mode 'complex'."
        )
        raise ValueError(msg)
    return Ansatz(apply_function(state), mode, state.chunk_size)


def rows(samples: Any) -> Any:
    """Return (chains, samples, sites) as (n, sites)."""
    return samples.reshape(-1, samples.shape[-1])


def flat_parameters(parameters: Any, mode: str) -> tuple[Any, Callable[[Any], Any]]:
    """Return parameters in the order of the columns of O, and the way back.

    Real and imaginary parts of complex ones are parameters of their own, unless the mode is
    "holomorphic".
    """
    if mode == "holomorphic":
        flat, tree = ravel_pytree(parameters)
        return flat, lambda x: tree(x.astype(flat.dtype))
    real, complex_again = nk.jax.tree_to_real(parameters)
    flat, tree = ravel_pytree(real)
    return flat, lambda x: complex_again(tree(x.astype(flat.dtype)))


# ---------------------------------------------------------------------------------- arguments


def require_hilbert_space(state: Any, hamiltonian: Any) -> None:
    """Raise unless the Hamiltonian acts on the configurations of the state."""
    space = getattr(hamiltonian, "hilbert", None)
    if space != state.hilbert:
        msg = (
            f"`hamiltonian` acts on {space}, but `variational_state` is one of {state.hilbert}; "
            f"build both with the same netket.hilbert."
        )
        raise TypeError(msg)


def require_shift(diag_shift: Any) -> None:
    """Raise unless a diagonal shift is a schedule or a positive number."""
    if callable(diag_shift):
        return
    try:
        number = float(diag_shift)
    except TypeError:
        msg = f"`diag_shift` is {shown(diag_shift)}; it must be a number or a schedule."
        raise TypeError(msg) from None
    if not 0 < number < math.inf:
        msg = f"`diag_shift` is {shown(diag_shift)}; it must be positive and finite."
        raise ValueError(msg)
