"""Spin chains whose ground states the demo looks for.

Spins are s_i = +1 or -1.  A move reflects a configuration in a direction D,

    s' = s - 2 sign D,    sign = D . s / |D|^2,

which flips spin i for D = e_i and exchanges the spins i and j for D = e_i - e_j (where they are
parallel, the sign is 0 and s' = s).  A chain is

    H(s, s') = H_0(s) [s' = s] + sum_b C_b(s) [s' = s moved by b].

One table of moves serves the local energies and the sparse matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device


@dataclass(frozen=True)
class IsingChain:
    """Transverse-field Ising chain, H = -J sum_i Z_i Z_{i+1} - h sum_i X_i, periodic.

    Parameters
    ----------
    sites : int
        Number of spins N.
    coupling, field : float
        J and h; J = h is the critical point.
    """

    sites: int
    coupling: float = 1.0
    field: float = 1.0

    conserves_magnetisation = False

    @property
    def moves(self) -> np.ndarray:
        """Directions of the terms of H that flip spins, shape (N, N)."""
        return np.eye(self.sites)

    @property
    def proposals(self) -> np.ndarray:
        """Directions that the sampler draws from, shape (N, N): single spins."""
        return self.moves

    def elements(self, spins: Any) -> tuple[Any, Any]:
        """Matrix elements H_0(s), shape (n,), and C_b(s), shape (n, N); `spins` is (n, N)."""
        xp = array_namespace(spins)
        diagonal = -self.coupling * xp.sum(spins * xp.roll(spins, -1, axis=1), axis=1)
        return diagonal, xp.full_like(spins, -self.field)

    def closed_form(self) -> float | None:
        """Ground state energy -2 J / sin(pi / 2N), which holds at J = h; None elsewhere."""
        if self.coupling != self.field:
            return None
        return -2.0 * self.coupling / float(np.sin(np.pi / (2 * self.sites)))


@dataclass(frozen=True)
class HeisenbergChain:
    """Frustrated Heisenberg chain, H = sum_i J1 S_i . S_{i+1} + J2 S_i . S_{i+2}, periodic.

    At the Majumdar-Ghosh point J2 = J1 / 2 products of nearest-neighbour dimers are exact ground
    states of energy -3 N J1 / 8.  The chain is kept in the sector of zero magnetisation and is
    written in the Marshall basis: every second spin is turned by pi about z, which makes the
    exchanges of neighbours negative and leaves all energies as they are.

    Parameters
    ----------
    sites : int
        Number of spins N, even.
    nearest, next_nearest : float
        J1 and J2.
    """

    sites: int
    nearest: float = 1.0
    next_nearest: float = 0.5

    conserves_magnetisation = True

    @property
    def moves(self) -> np.ndarray:
        """Directions of the bonds (i, i+1), then (i, i+2), shape (2N, N)."""
        site = np.eye(self.sites)
        return np.concatenate([site - np.roll(site, k, axis=1) for k in (1, 2)])

    @property
    def proposals(self) -> np.ndarray:
        """Directions of all pairs of sites, shape (N (N - 1) / 2, N)."""
        first, second = np.triu_indices(self.sites, k=1)
        site = np.eye(self.sites)
        return site[first] - site[second]

    def elements(self, spins: Any) -> tuple[Any, Any]:
        """Matrix elements H_0(s), shape (n,), and C_b(s), shape (n, 2N); `spins` is (n, N).

        A bond of strength J adds J s_i s_j / 4 to H_0 and exchanges antiparallel spins by J / 2,
        with a minus where the bond joins the two sublattices of the Marshall basis.
        """
        xp = array_namespace(spins)
        near, far = (spins * xp.roll(spins, -distance, axis=1) for distance in (1, 2))
        diagonal = xp.sum(self.nearest * near + self.next_nearest * far, axis=1) / 4
        exchanges = [self.nearest * (near - 1) / 4, self.next_nearest * (1 - far) / 4]
        return diagonal, xp.concat(exchanges, axis=1)

    def closed_form(self) -> float | None:
        """Ground state energy -3 N J1 / 8, which holds at J2 = J1 / 2; None elsewhere."""
        if 2 * self.next_nearest != self.nearest:
            return None
        return -0.375 * self.sites * self.nearest


Chain = IsingChain | HeisenbergChain


def local_energies(chain: Chain, model: Any, weights: Any, walkers: Any) -> Any:
    """Local energies E(s) = sum_s' H(s, s') psi(s') / psi(s).

    Parameters
    ----------
    chain : IsingChain or HeisenbergChain
    model : RBM
    weights : Weights
        Parameters of the model, unpacked.
    walkers : Walkers
        Spins of shape (n, N), entries +1 and -1, and their hidden angles, shape (n, h).

    Returns
    -------
    array, shape (n,), real or complex like the weights
    """
    spins = walkers.spins
    xp = array_namespace(spins)
    moves = like(chain.moves, spins)
    diagonal, coefficients = chain.elements(spins)
    signs = spins @ xp.matrix_transpose(moves) / xp.sum(moves**2, axis=1)
    ratios = model.ratios(weights, walkers.angles, signs, moves)
    return diagonal + xp.sum(coefficients * ratios, axis=1)


def like(table: np.ndarray, array: Any) -> Any:
    """Return a NumPy table as an array of the library, dtype and device of `array`."""
    xp = array_namespace(array)
    return xp.asarray(table, dtype=array.dtype, device=device(array))
