"""Matrices by their products: what is known of them, in which precision, and what they show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, random_array
from spectra import REAL, Operator, geometric, needs, psd, quick_compilation, refused  # noqa: F401

from ngdla._backend.calls import ValueChecks
from ngdla._backend.settings import library_settings
from ngdla.low_rank.operand import HermitianOperand, hermitian_operand, require_positive

D = 8


def operand(A: Any, **options: Any) -> HermitianOperand:
    given = {"trace_of_A": None, "columns": None, "precision": "native", "product_eps": None}
    return hermitian_operand(A, **{**given, **options})


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_what_is_known_of_an_array(backend: Backend, dtype: str, batch: tuple[int, ...]) -> None:
    needs(backend, dtype)
    A = random_array(np.random.default_rng(0), (*batch, D, D), dtype)
    X = random_array(np.random.default_rng(1), (*batch, D, 2), dtype)
    like, columns = backend.asarray(A), backend.asarray(X)

    def run(A: Any, X: Any) -> list[Any]:
        found = operand(A)
        assert (found.batch, found.size, found.dtype) == (batch, D, dtype)
        assert found.real == REAL[dtype]
        assert found.like is A
        return [found.trace, found.product(X)]

    trace, product = backend.call(run, like, columns)
    expected = np.trace(A, axis1=-1, axis2=-2).real
    backend.assert_matches(trace, expected, like=like, dtype=REAL[dtype], tolerance=1e-5)
    backend.assert_matches(product, A @ X, like=like, dtype=dtype, tolerance=1e-5)


@pytest.mark.parametrize("half", ["float16", "float32"])
def test_the_trace_is_summed_in_single_precision(half: str) -> None:
    """In float16 the sum of 4096 ones and of one more would be 4096."""
    A = np.zeros((4097, 4097), half)
    np.fill_diagonal(A, 1)
    trace = operand(A).trace
    assert trace.dtype == "float32"
    assert trace == 4097


def test_what_is_known_of_an_object(valued_backend: Backend) -> None:
    """The library and device of the columns, the trace as it was given."""
    real = valued_backend.dtypes[0]
    A = valued_backend.asarray(psd(np.random.default_rng(0), geometric(D), real))
    columns = valued_backend.asarray(np.eye(D, 3, dtype=real))
    for trace in (2, 2.0, valued_backend.asarray(np.asarray(2, real))):
        found = operand(Operator(A), trace_of_A=trace, columns=columns)
        valued_backend.assert_kind(found.trace, like=columns, dtype=real, shape=())
        assert float(valued_backend.numpy(found.trace)) == 2
        assert found.like is columns
        product = valued_backend.numpy(found.product(columns))
        np.testing.assert_allclose(product, valued_backend.numpy(A)[:, :3], rtol=1e-6)


def test_a_complex_object_with_real_columns() -> None:
    found = operand(Operator(np.eye(D) + 0j), trace_of_A=3.0, columns=np.eye(D, 2))
    assert found.dtype == "complex128"
    assert found.trace.dtype == "float64"
    found = operand(Operator(np.eye(D)), trace_of_A=3.0, columns=np.eye(D, 2) + 0j)
    assert found.trace.dtype == "float64"


@pytest.mark.parametrize(
    ("dtype", "precision", "product_eps", "roundoff"),
    [
        ("float32", "native", None, 2.0**-24),
        ("float32", "tf32", None, 2.0**-11),
        ("complex64", "tf32", None, 2.0**-11),
        ("float64", "tf32", None, 2.0**-53),
        ("float32", "tf32", 2.0**-8, 2.0**-8),
        ("float16", "native", None, 2.0**-24),
        ("float64", "native", np.float32(0.25), 0.25),
    ],
)
def test_roundoff(dtype: str, precision: str, product_eps: Any, roundoff: float) -> None:
    found = operand(np.eye(D, dtype=dtype), precision=precision, product_eps=product_eps)
    assert found.roundoff == roundoff


def test_tf32_is_set_for_the_products_only() -> None:
    """And what the caller had set is restored after each."""
    torch = pytest.importorskip("torch")
    seen = []
    A = torch.eye(D)

    class Seen(Operator):
        def __matmul__(self, X: Any) -> Any:
            seen.append(torch.backends.cuda.matmul.fp32_precision)
            return X

    before = torch.backends.cuda.matmul.fp32_precision
    for precision in ("tf32", "native"):
        found = operand(Seen(A), trace_of_A=1.0, columns=A, precision=precision)
        with library_settings(A):
            inside = torch.backends.cuda.matmul.fp32_precision
            found.product(A)
            assert torch.backends.cuda.matmul.fp32_precision == inside
    assert seen == ["tf32", inside]
    assert inside != "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_tf32_is_asked_of_jax() -> None:
    jax = pytest.importorskip("jax")
    A = jax.numpy.ones((D, D), dtype="float32")

    def product(A: Any, precision: str) -> Any:
        with library_settings(A):
            return operand(A, precision=precision).product(A)

    native, lower = (
        str(jax.make_jaxpr(lambda A, p=p: product(A, p))(A)) for p in ("native", "tf32")
    )
    assert "HIGHEST" in native
    assert "HIGHEST" not in lower
    assert "HIGH" in lower  # which is three passes of bfloat16, or TF32


# ---------------------------------------------------------------------------------- values


def looked_at(A: np.ndarray, positive: bool = True) -> None:
    checks, Q = ValueChecks(enabled=True), np.eye(D)
    given = operand(A)
    AQ = A @ Q / given.unit
    require_positive(checks, given, AQ, Q.T @ AQ, np.linalg.norm(AQ), np.asarray(positive))
    checks.read()


def test_what_products_show(dtype: str) -> None:
    """Skew parts of 4 u sqrt(d) |A| are roundings, larger ones are not."""
    A = psd(np.random.default_rng(3), geometric(D), "complex128")
    looked_at(A)
    skew = np.triu(np.ones((D, D)), 1)
    skew /= np.linalg.norm(skew - skew.T)
    rounding = 4 * 2.0**-53 * D**0.5 * np.linalg.norm(A)
    looked_at(A + 0.5 * rounding * skew)
    assert "not Hermitian" in refused(ValueError, "A", lambda: looked_at(A + 4 * rounding * skew))
    assert "NaN" in refused(ValueError, "A", lambda: looked_at(np.where(np.eye(D), A, np.nan)))
    lower = A - np.eye(D)
    text = refused(ValueError, "A", lambda: looked_at((lower + H(lower)) / 2, positive=False))
    assert f"{np.linalg.eigvalsh(lower)[0]:.2e}" in text


def test_a_zero_matrix_is_hermitian_and_positive() -> None:
    """Also where a shifted core is not exactly Hermitian."""
    checks, core = ValueChecks(enabled=True), np.eye(D) * (1 + 1e-17j)
    zero = np.zeros((D, D), complex)
    require_positive(checks, operand(zero), zero, core, np.linalg.norm(zero), np.asarray(True))
    checks.read()
