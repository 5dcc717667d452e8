"""SR of log-derivatives that are known by their products is SR of the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, random_array
from spectra import quick_compilation  # noqa: F401

import ngdla

N, M = 7, 19


def operator(O: Any, *, gram: Any = None, batched: bool = True) -> ngdla.ScoreOperator:
    adjoint = O.conj().T if hasattr(O, "conj") else O.T
    return ngdla.ScoreOperator(
        lambda x: O @ x, lambda y: adjoint @ y, O.shape, like=O, gram=gram, batched=batched
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("known", ["products", "gram", "function"])
@pytest.mark.parametrize(("shape", "dtype"), [((N, M), "float64"), ((M, N), "complex128")])
def test_step_of_the_matrix(
    shape: tuple[int, int], dtype: str, known: str, weighted: bool, rng: np.random.Generator
) -> None:
    O = random_array(rng, shape, dtype) + 2
    E = random_array(rng, shape[:1], dtype)
    p = rng.uniform(size=shape[0])
    p[2] = 0
    options: dict[str, Any] = {"mode": "holomorphic" if dtype == "complex128" else "real"}
    if weighted:
        options["weights"] = p
    K = O @ H(O)
    gram = {"products": None, "gram": K, "function": lambda: K}[known]
    reference = ngdla.stochastic_reconfiguration(O, E, 0.1, **options)
    for batched in (True, False):
        S = operator(O, gram=gram, batched=batched)
        d, info = ngdla.stochastic_reconfiguration(S, E, 0.1, full_output=True, **options)
        assert info.converged
        np.testing.assert_allclose(d, reference, rtol=1e-10, atol=1e-12)
    if known != "products":
        d = ngdla.stochastic_reconfiguration(S, E, 0.1, snr=1.0, **options)
        reference = ngdla.stochastic_reconfiguration(O, E, 0.1, snr=1.0, **options)
        np.testing.assert_allclose(d, reference, rtol=1e-9, atol=1e-11)


def test_a_kernel_under_jit(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    O, E = rng.standard_normal((N, M)), rng.standard_normal(N)

    @jax.jit
    def step(O: Any, E: Any) -> Any:
        S = ngdla.ScoreOperator(
            lambda x: O @ x, lambda y: O.T @ y, O.shape, like=O, gram=O @ O.T, batched=True
        )
        return ngdla.stochastic_reconfiguration(S, E, 0.1, momentum=0.5, previous=O[0])

    with jax.enable_x64(True):
        d = step(jax.numpy.asarray(O), jax.numpy.asarray(E))
    reference = ngdla.stochastic_reconfiguration(O, E, 0.1, momentum=0.5, previous=O[0])
    np.testing.assert_allclose(np.asarray(d), reference, rtol=1e-10, atol=1e-12)


def test_rows_of_weight_zero_may_be_anything(rng: np.random.Generator) -> None:
    """Their products are left out; what an operator itself makes of them is its own affair."""
    O, E, p = rng.standard_normal((N, M)), rng.standard_normal(N), np.ones(N)
    p[2] = 0
    spoiled = O.copy()
    spoiled[2] = 1e6
    one, other = (
        ngdla.stochastic_reconfiguration(operator(X), E, 0.1, weights=p) for X in (O, spoiled)
    )
    np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_mode_complex_is_refused(rng: np.random.Generator) -> None:
    O = random_array(rng, (N, M), "complex128")
    with pytest.raises(ValueError, match=r"`mode` is 'complex'.*ScoreOperator.*damped_lstsq"):
        ngdla.stochastic_reconfiguration(operator(O), O[:, 0], 0.1, mode="complex")


def test_the_name_in_messages_is_that_of_the_argument(backend: Backend) -> None:
    O = backend.asarray(np.ones((N, M), dtype="float32"))
    with pytest.raises(ValueError, match=r"`log_derivatives` has shape"):
        ngdla.stochastic_reconfiguration(operator(O), O[:-1, 0], 0.1)
