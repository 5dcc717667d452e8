"""Precision and warnings inside of the library, and that they are restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import inside
from references import random_array

from ngdla._backend import products
from ngdla._backend.gram import gram
from ngdla._backend.namespace import namespace
from ngdla._backend.settings import library_settings


def test_float32_products_of_torch_stay_float32(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.from_numpy(random_array(rng, (256, 3000), "float32"))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        G = inside(gram)(S)
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = S.double() @ S.double().mT
    assert torch.linalg.matrix_norm(G - exact) < 1e-6 * torch.linalg.matrix_norm(exact)


def test_float32_products_of_torch_restore_settings_after_an_error() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ZeroDivisionError):
            inside(lambda S: 1 / 0)(torch.ones(2, 2))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_jax_products_ask_for_the_highest_precision() -> None:
    jax = pytest.importorskip("jax")
    S = jax.numpy.ones((4, 5), dtype="float32")

    def uses(function: Any) -> str:
        return str(jax.make_jaxpr(inside(function))(S))

    assert uses(gram).count("HIGHEST") >= 1
    assert "HIGHEST" in uses(lambda S: products.rmatvec(S, S[:, :1]))


def test_numpy_warnings_are_silent_inside_only() -> None:
    with library_settings(namespace(np.ones(1))):
        assert np.isnan(np.zeros(1) / 0.0).all()
    with pytest.warns(RuntimeWarning, match="invalid"):
        np.zeros(1) / np.zeros(1)
