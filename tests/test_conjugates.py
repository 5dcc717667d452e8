"""No result carries torch's lazy conjugation, which other code may not honour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ngdla

torch = pytest.importorskip("torch")
pytree = pytest.importorskip("torch.utils._pytree")

N, M, DAMPING = 5, 11, 0.3
STRUCTURES = (
    "dense",
    "diagonal",
    "block-diagonal",
    "lower-triangular",
    "upper-triangular",
    "lower-toeplitz",
    "upper-toeplitz",
    "hierarchical",
    "low-rank-triangular",
)


def complex_array(*shape: int) -> Any:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


S, v, f = complex_array(N, M), complex_array(M), complex_array(N)
P, A, V = S @ S.mH, S.mH @ S, complex_array(N, M)
LAZY = {"wide": (S, f, v), "tall": (S.mH, v, f)}  # the latter with a conjugate bit


def solves(method: str) -> Iterator[Any]:
    for X, rows, columns in LAZY.values():
        yield ngdla.damped_solve(X, columns, DAMPING, method=method, full_output=True)
        yield ngdla.damped_lstsq(X, rows, DAMPING, method=method, x0=columns, full_output=True)
        factor = ngdla.damped_factor(X, DAMPING, method=method)
        yield factor.solve(columns), factor.with_damping(1.0).lstsq(rows)
        yield factor.overlap(columns)
        if method != "cg":
            yield factor.logdet(), factor.effective_dimension(), factor.leave_one_out(rows)


def decompositions() -> Iterator[Any]:
    for X in (P, P.mH):
        for method in ("nystrom", "rayleigh-ritz", "rsvd", "sre"):
            eigh = ngdla.randomized_eigh(X, 3, method=method)
            yield eigh, eigh.solve(f, DAMPING), eigh.matmul(f), eigh.to_dense(), eigh.truncate(2)
        nystrom = ngdla.nystrom_factor(X, 3)
        yield nystrom, nystrom.solve(f, DAMPING), nystrom.matmul(f), nystrom.logdet(DAMPING)
    for X in (S, S.mH):
        for passes in (1, 2, 3, None):
            yield ngdla.randomized_svd(X, 2, passes=passes, full_output=True)
    state = ngdla.online_eigh_update(ngdla.online_eigh_init(S, 4), 2 * S.conj(), decay=0.9)
    yield state, ngdla.online_eigh_result(state), ngdla.ema(A.mH, S.conj(), decay=0.9)


def kronecker_solves() -> Iterator[Any]:
    truncated = ngdla.randomized_eigh(P, 3)
    for coupling in ("joint", "factored"):
        for a in (A, A.mH):
            for g in (P, P.mH, truncated):
                for right in (V, V.conj(), complex_array(M, N).mH):
                    yield ngdla.kronecker_solve(a, g, right, DAMPING, coupling=coupling)


def matrix_functions() -> Iterator[Any]:
    for X in (P, P.mH):
        for function in (ngdla.expm, ngdla.sqrtm_psd, ngdla.inv_sqrtm_psd, ngdla.logm_psd):
            yield function(X)
        yield ngdla.expm_series(X, 3, full_output=True)
        yield ngdla.inv_sqrtm_newton_schulz(X, 30, full_output=True)
        yield ngdla.gram(X), ngdla.column_norms(X), ngdla.hermitian_solve(X, f, full_output=True)


def stochastic_reconfiguration() -> Iterator[Any]:
    for mode in ("complex", "holomorphic"):
        yield ngdla.scores(S.conj(), mode=mode), ngdla.residuals(f.conj(), mode=mode)
        yield ngdla.stochastic_reconfiguration(S, f, DAMPING, mode=mode, full_output=True)
        yield ngdla.stochastic_reconfiguration(S, f, DAMPING, mode=mode, snr=2.0)
    path = ngdla.damping_path(S.mH, v, [DAMPING, 1.0])
    yield path, path.at_step(0.1)


def sample_weights() -> Iterator[Any]:
    for a, g in ((S, P), (S.conj(), P.mH)):
        K = ngdla.sample_gram(a, g)
        yield K, ngdla.sample_weights(K.mH, DAMPING, normalized=True)
        yield ngdla.weighted_gradient(a, g, f.conj())


def layers() -> Iterator[Any]:
    images = complex_array(2, 4, 6).conj()
    for sharing in ("expand", "reduce", "none"):
        for bias in (True, False):
            options = {"sharing": sharing, "bias": bias, "positions": True}
            yield ngdla.layer_rows(images, images.mT.mT, **options)
    for kernel in (1, 2):
        yield ngdla.patches(images, kernel), ngdla.patch_means(images, kernel)


def updates(structure: str) -> Iterator[Any]:
    state = ngdla.inverse_free_init(M, N, structures=(structure, structure), like=S)
    statistics = ngdla.inverse_free_statistics(state, S.conj(), P.mH)
    state = ngdla.inverse_free_update(state, statistics, damping=DAMPING, step_size=0.1)
    K = state.K
    yield statistics, state, ngdla.inverse_free_apply(state, V.conj())
    yield K @ v, K.solve(v), K.inverse(), K.expm(), K.to_dense(), K.H @ v
    yield ngdla.structured_factor(P.mH, structure, DAMPING)


CALLS: dict[str, Callable[[], Iterator[Any]]] = {
    **{m: lambda m=m: solves(m) for m in ("cholesky", "eigh", "svd", "qr", "cg")},
    "decompositions": decompositions,
    "kronecker_solve": kronecker_solves,
    "matrix functions": matrix_functions,
    "stochastic_reconfiguration": stochastic_reconfiguration,
    "sample weights": sample_weights,
    "layers": layers,
    **{structure: lambda s=structure: updates(s) for structure in STRUCTURES},
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_conjugated_in_memory(name: str) -> None:
    for result in CALLS[name]():
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                assert not leaf.is_conj()
                assert not leaf.is_neg()
