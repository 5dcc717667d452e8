"""Exact ground state energies: sparse diagonalisation, closed forms above."""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh

from ngdla.demo.hamiltonians import Chain

LARGEST_BASIS = 2**18


class Reference(NamedTuple):
    """An exact energy and how it was found ("diagonalisation" or "closed form")."""

    energy: float
    method: str


def basis_size(chain: Chain) -> int:
    """Number of basis states d: 2^N, or N choose N/2 at zero magnetisation."""
    if chain.conserves_magnetisation:
        return comb(chain.sites, chain.sites // 2)
    return 2**chain.sites


def basis(chain: Chain) -> np.ndarray:
    """Indices of the basis states, ascending; bit i of an index is 1 where spin i is -1.

    All 2^N states, or those of zero magnetisation where it is conserved.
    """
    indices = np.arange(2**chain.sites)
    if not chain.conserves_magnetisation:
        return indices
    down = np.bitwise_count(indices)
    return indices[2 * down.astype(np.int64) == chain.sites]


def basis_spins(chain: Chain) -> np.ndarray:
    """Spins of the basis states, shape (d, N), entries +1 and -1."""
    bits = (basis(chain)[:, None] >> np.arange(chain.sites)) & 1
    return 1.0 - 2.0 * bits


def hamiltonian(chain: Chain) -> csr_array:
    """Sparse matrix of the chain in its basis, shape (d, d)."""
    states = basis(chain)
    diagonal, coefficients = chain.elements(basis_spins(chain))
    masks = (chain.moves != 0) @ (1 << np.arange(chain.sites))
    row, move = np.nonzero(coefficients)
    column = np.searchsorted(states, states[row] ^ masks[move])
    every = np.arange(states.size)
    values = np.concatenate([diagonal, coefficients[row, move]])
    places = (np.concatenate([every, row]), np.concatenate([every, column]))
    return csr_array((values, places), shape=(states.size, states.size))


def ground_state_energy(chain: Chain) -> float:
    """Smallest eigenvalue of the sparse Hamiltonian, by Lanczos iteration to machine precision."""
    matrix = hamiltonian(chain)
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    return float(eigsh(matrix, k=1, which="SA", v0=start, return_eigenvectors=False)[0])


def reference_energy(chain: Chain) -> Reference:
    """Exact energy: diagonalised where the basis has at most 2^18 states, else the closed form."""
    if basis_size(chain) <= LARGEST_BASIS:
        return Reference(ground_state_energy(chain), "diagonalisation")
    energy = chain.closed_form()
    if energy is None:
        msg = f"{chain} has no closed form and is too large to diagonalise"
        raise ValueError(msg)
    return Reference(energy, "closed form")
