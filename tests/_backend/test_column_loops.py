"""Passes over the columns of S that are loops of compiled code."""

import numpy as np
import pytest

from ngdla._backend.gram import gram


@pytest.mark.parametrize(("n", "dtype"), [(512, "float32"), (16, "complex64")])
@pytest.mark.parametrize("m", [1023, 1024, 1025, 2047, 2048, 2049])
def test_gram_matrices_of_as_many_columns_as_half_a_block_of_jax(n, m, dtype):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(m)
    real, imag = rng.standard_normal((2, n, m))
    S = (real if dtype == "float32" else real + 1j * imag).astype(dtype)
    K = np.asarray(jax.jit(gram)(jax.numpy.asarray(S)))
    assert np.linalg.norm(K - S @ S.conj().T) < 1e-5 * np.linalg.norm(K)
