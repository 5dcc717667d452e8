"""Small chains of spins in NetKet, of every kind of parameters, and the step of SR in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import netket as nk
import numpy as np
from jax.flatten_util import ravel_pytree

SITES = 6
SPINS = nk.hilbert.Spin(0.5, SITES)
SAMPLES = 32
SHIFTS = (1e-2, 1e-4)


def ising():
    return nk.operator.IsingJax(SPINS, nk.graph.Chain(SITES), h=1.0)


def frustrated():
    """Return J1-J2 with the sign rule of Marshall."""
    graph = nk.graph.Chain(SITES, max_neighbor_order=2)
    return nk.operator.Heisenberg(SPINS, graph, J=[1.0, 0.5], sign_rule=[True, False])


class Kind(NamedTuple):
    """A kind of parameters, with a Hamiltonian."""

    model: Any
    mode: str
    hamiltonian: Any
    modes: dict[str, Any]  # what NetKet's own classes have to be told


def kind(name: str, single: bool = False) -> Kind:
    real, complex_ = (np.float32, np.complex64) if single else (float, complex)
    rbm, phase = nk.models.RBM, nk.models.RBMModPhase
    return {
        "real": lambda: Kind(rbm(alpha=2, param_dtype=real), "real", ising(), {}),
        "phase": lambda: Kind(phase(alpha=2, param_dtype=real), "complex", frustrated(), {}),
        "complex": lambda: Kind(
            rbm(alpha=1, param_dtype=complex_), "complex", frustrated(), {"mode": "complex"}
        ),
        "holomorphic": lambda: Kind(
            rbm(alpha=2, param_dtype=complex_), "holomorphic", ising(), {"holomorphic": True}
        ),
    }[name]()


KINDS = ("real", "phase", "complex", "holomorphic")


def sampled(model: Any) -> Any:
    """Return a state with samples that nothing had to be compiled for."""
    sampler = nk.sampler.MetropolisLocal(SPINS, n_chains=8)
    state = nk.vqs.MCState(sampler, model, n_samples=SAMPLES, sampler_seed=2, **drawn(model))
    spins = np.random.default_rng(1).choice([-1.0, 1.0], size=(8, SAMPLES // 8, SITES))
    state._samples = jnp.asarray(spins)
    return state


def summed(model: Any, **options: Any) -> Any:
    return nk.vqs.FullSumState(SPINS, model, **drawn(model), **options)


def drawn(model: Any) -> dict[str, Any]:
    """Return parameters of size 0.1, whose scores have some rank."""
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        z = rng.standard_normal(x.shape)
        z = z + 1j * rng.standard_normal(x.shape) if jnp.iscomplexobj(x) else z
        return jnp.asarray(0.1 * z, dtype=x.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, SITES)))
    return {"variables": jax.tree.map(one, shapes)}


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def distance(a: Any, b: Any) -> float:
    """Return |a - b| / |b|, of trees."""
    a, b = flat(a), flat(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def scores(state: Any, hamiltonian: Any, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Return S and 2 f in double precision, rows of real parts above those of imaginary ones."""
    if isinstance(state, nk.vqs.FullSumState):
        samples, p = SPINS.all_states(), np.asarray(state.probability_distribution(), dtype=float)
        psi = np.asarray(state.to_array())
        energies = hamiltonian.to_sparse() @ psi / psi
    else:
        samples = state.samples.reshape(-1, SITES)
        p = np.full(len(samples), 1 / len(samples))
        energies = np.asarray(state.local_estimators(hamiltonian).data).reshape(-1)
    O = nk.jax.jacobian(
        state._apply_fun, state.parameters, samples, state.model_state, mode=mode, dense=True
    )
    O = np.asarray(O, dtype=np.result_type(O.dtype, np.float64))
    O = O[:, 0] + 1j * O[:, 1] if mode == "complex" else O
    q = np.sqrt(p)
    S, f = q[:, None] * (O - p @ O), 2 * q * (energies - p @ energies)
    if mode == "complex":
        return np.concatenate([S.real, S.imag]), np.concatenate([f.real, f.imag])
    return S, f.real if mode == "real" else f


def svd_step(S: np.ndarray, f: np.ndarray, shift: float, x0: Any = 0.0) -> np.ndarray:
    """Return argmin |S d - f|^2 + shift |d - x0|^2."""
    U, s, Vh = np.linalg.svd(S, full_matrices=False)
    x0 = x0 + np.zeros(S.shape[1])
    return x0 + Vh.conj().T @ (s / (s**2 + shift) * (U.conj().T @ (f - S @ x0)))


def svd_solve(S: np.ndarray, v: np.ndarray, shift: float) -> np.ndarray:
    """Return x with (S^H S + shift) x = v."""
    _, s, Vh = np.linalg.svd(S, full_matrices=False)
    inside = Vh @ v
    return Vh.conj().T @ (inside / (s**2 + shift) - inside / shift) + v / shift


def columns(tree: Any, mode: str) -> np.ndarray:
    """Return a tree in the order of columns of O."""
    x = flat(tree)
    if mode == "holomorphic" or not np.iscomplexobj(x):
        return x
    return np.concatenate([x.real, x.imag])


def as_tree(d: np.ndarray, parameters: Any, mode: str) -> Any:
    """Return a step in the order of columns of O as a tree, or flat as its leaves are."""
    if mode == "holomorphic" or not jnp.iscomplexobj(flat(parameters)):
        return d
    half = d.size // 2
    return d[:half] + 1j * d[half:]
