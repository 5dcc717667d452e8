"""damped_solve and damped_lstsq against their definitions, on every library."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st
from references import (
    H,
    U,
    columns,
    condition,
    exact_lstsq,
    exact_solve,
    random_array,
    scores_with_spectrum,
)
from spectra import quick_compilation  # noqa: F401

import ngdla

METHODS = ("cholesky", "eigh", "svd", "qr")
DAMPING = 1e-2


def tolerance(S: np.ndarray, dtype: str, damping: float = DAMPING) -> float:
    """One sweep reaches a small multiple of u sqrt(kappa); rounding v alone costs about as much."""
    return 40 * U[dtype] * condition(S, damping) ** 0.5


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_definition(
    backend: Backend, dtype: str, method: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    assert_solves(backend, shape, dtype, rng, method=method)


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (7, 7), (6, 1)], ids=str)
@pytest.mark.parametrize("method", ["cholesky", "svd"])
def test_extreme_shapes(
    backend: Backend, method: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    assert_solves(backend, shape, backend.dtypes[-1], rng, method=method)


def assert_solves(
    backend: Backend, shape: tuple[int, int], dtype: str, rng: np.random.Generator, **options: Any
) -> None:
    """Assert that both functions agree with their definitions for one right-hand side."""
    n, m = shape
    S = scores_with_spectrum(rng, n, m, dtype, decades=1)
    v, f, x0 = (random_array(rng, (size,), dtype) for size in (m, n, m))
    like = backend.asarray(S)
    x = backend.call(ngdla.damped_solve, like, backend.asarray(v), DAMPING, **options)
    reference = exact_solve(S, columns(v), DAMPING)[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=tolerance(S, dtype))
    prior = backend.asarray(x0)
    x = backend.call(ngdla.damped_lstsq, like, backend.asarray(f), DAMPING, x0=prior, **options)
    reference = exact_lstsq(S, columns(f), DAMPING, columns(x0))[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=tolerance(S, dtype))


def test_auto_is_cholesky(rng: np.random.Generator) -> None:
    S, v = rng.standard_normal((4, 9)), rng.standard_normal(9)
    one, other = ngdla.damped_solve(S, v, 0.1), ngdla.damped_solve(S, v, 0.1, method="cholesky")
    np.testing.assert_array_equal(one, other)


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("method", ["cholesky", "svd"])
def test_a_batch_is_a_loop(
    backend: Backend, shape: tuple[int, int], vector: bool, method: str, rng: np.random.Generator
) -> None:
    n, m = shape
    dtype = backend.dtypes[-1]
    batch = (2, 3)
    k = () if vector else (4,)
    S = random_array(rng, (*batch, n, m), dtype)
    v, f, x0 = (random_array(rng, (*batch, size, *k), dtype) for size in (m, n, m))
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    damping = (0.5 + rng.random(batch)).astype(real)
    like = backend.asarray(S)
    for function, right, options in (
        (ngdla.damped_solve, v, {}),
        (ngdla.damped_lstsq, f, {"x0": x0}),
    ):
        x, info = backend.call(
            function,
            like,
            backend.asarray(right),
            backend.asarray(damping),
            method=method,
            full_output=True,
            **backend.asarray(options),
        )
        reference = np.empty((*batch, m, *k), dtype)
        for i in np.ndindex(batch):
            one = {name: value[i] for name, value in options.items()}
            reference[i] = function(S[i], right[i], float(damping[i]), method=method, **one)
        backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=100 * U[dtype])
        for name, field in info._asdict().items():
            expected = "bool" if name == "converged" else real
            backend.assert_kind(field, like=like, dtype=expected, shape=(*batch, *k))
        if backend.has_values:
            assert np.all(backend.numpy(info.converged))


@pytest.mark.thinned
@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("n", [4, 20])
@pytest.mark.parametrize("method", METHODS)
def test_column_blocks_are_one_matrix(
    backend: Backend, kind: type, n: int, method: str, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[-1]
    widths = (3, 1, 7)
    blocks = kind(random_array(rng, (n, m), dtype) for m in widths)
    v = kind(random_array(rng, (m,), dtype) for m in widths)
    x0 = kind(random_array(rng, (m, 2), dtype) for m in widths)
    f = random_array(rng, (n, 2), dtype)
    S = np.concatenate(blocks, axis=1)
    cuts = np.cumsum(widths)[:-1]
    like = backend.asarray(blocks)
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    metric = kind(np.full(m, 1.0 + i, dtype=real) for i, m in enumerate(widths))

    x = backend.call(ngdla.damped_solve, like, backend.asarray(v), 0.3, method=method)
    whole = ngdla.damped_solve(S, np.concatenate(v), 0.3, method=method)
    reference = kind(np.split(whole, cuts))
    backend.assert_matches(x, reference, like=like[0], dtype=dtype, tolerance=100 * U[dtype])

    x = backend.call(
        ngdla.damped_lstsq,
        like,
        backend.asarray(f),
        0.3,
        x0=backend.asarray(x0),
        metric=backend.asarray(metric),
        method=method,
    )
    whole = ngdla.damped_lstsq(
        S, f, 0.3, x0=np.concatenate(x0), metric=np.concatenate(metric), method=method
    )
    reference = kind(np.split(whole, cuts))
    backend.assert_matches(x, reference, like=like[0], dtype=dtype, tolerance=100 * U[dtype])


def test_one_metric_scalar_a_block(rng: np.random.Generator) -> None:
    blocks = [rng.standard_normal((4, m)) for m in (3, 5)]
    v = [rng.standard_normal(m) for m in (3, 5)]
    scalars = ngdla.damped_solve(blocks, v, 0.1, metric=[2.0, 0.5])
    arrays = ngdla.damped_solve(blocks, v, 0.1, metric=[np.full(3, 2.0), np.full(5, 0.5)])
    for one, other in zip(scalars, arrays):
        np.testing.assert_array_equal(one, other)


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_metric(
    backend: Backend, shape: tuple[int, int], method: str, rng: np.random.Generator
) -> None:
    n, m = shape
    dtype = backend.dtypes[-1]
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    S = scores_with_spectrum(rng, n, m, dtype, decades=1)
    v, f, x0 = (random_array(rng, (size, 2), dtype) for size in (m, n, m))
    metric = (10 ** rng.uniform(-1, 1, m)).astype(real)
    like, weight = backend.asarray(S), backend.asarray(metric)
    bound = 10 * tolerance(S, dtype)
    x = backend.call(
        ngdla.damped_solve, like, backend.asarray(v), DAMPING, metric=weight, method=method
    )
    reference = exact_solve(S, v, DAMPING, metric)
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)
    x = backend.call(
        ngdla.damped_lstsq,
        like,
        backend.asarray(f),
        DAMPING,
        x0=backend.asarray(x0),
        metric=weight,
        method=method,
    )
    reference = exact_lstsq(S, f, DAMPING, x0, metric)
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_complex_right_hand_sides_of_real_scores(
    backend: Backend, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    n, m = shape
    dtype = backend.dtypes[-1]
    real = {"complex64": "float32", "complex128": "float64"}[dtype]
    S = scores_with_spectrum(rng, n, m, real, decades=1)
    like = backend.asarray(S)
    f, v = random_array(rng, (n, 2), dtype), random_array(rng, (m,), dtype)
    x0 = random_array(rng, (m, 2), real)
    x, info = backend.call(
        ngdla.damped_lstsq,
        like,
        backend.asarray(f),
        DAMPING,
        x0=backend.asarray(x0),
        full_output=True,
    )
    reference = exact_lstsq(S, f, DAMPING, x0)
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=tolerance(S, dtype))
    backend.assert_kind(info.error_bound, like=like, dtype=real, shape=(2,))
    if backend.has_values:
        error = np.linalg.norm(backend.numpy(x) - reference, axis=0)
        assert np.all(error <= backend.numpy(info.error_bound))
    x = backend.call(ngdla.damped_solve, like, backend.asarray(v), DAMPING)
    reference = exact_solve(S, columns(v), DAMPING)[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=tolerance(S, dtype))


@pytest.mark.thinned
@pytest.mark.parametrize(
    ("scores", "right", "expected"),
    [
        ("float32", "float64", "float64"),
        ("float64", "float32", "float64"),
        ("float32", "complex128", "complex128"),
        ("complex64", "float64", "complex128"),
        ("complex128", "float32", "complex128"),
        ("float32", "complex64", "complex64"),
    ],
)
@pytest.mark.parametrize("shape", [(5, 12), (12, 5)], ids=str)
def test_mixed_dtypes_promote(
    backend: Backend,
    scores: str,
    right: str,
    expected: str,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    if not {scores, right, expected} <= set(backend.dtypes):
        pytest.skip("no such dtype here")
    n, m = shape
    S = scores_with_spectrum(rng, n, m, scores, decades=1)
    f = random_array(rng, (n,), right)
    like = backend.asarray(S)
    x = backend.call(ngdla.damped_lstsq, like, backend.asarray(f), DAMPING)
    reference = exact_lstsq(S, columns(f), DAMPING)[:, 0]
    backend.assert_matches(
        x, reference, like=like, dtype=expected, tolerance=tolerance(S, expected)
    )


def test_float64_from_float32_scores_in_chunks(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("ngdla._backend.shapes.CHUNK_BYTES", 8 * 6 * 5)  # five columns of six rows
    for n, m in ((6, 23), (23, 6)):
        S = scores_with_spectrum(rng, n, m, "float32", decades=1)
        v, f = rng.standard_normal(m), rng.standard_normal((n, 2))
        metric = 0.5 + rng.random(m)
        x = ngdla.damped_solve(S, v, DAMPING, metric=metric)
        reference = exact_solve(S, columns(v), DAMPING, metric)[:, 0]
        assert np.linalg.norm(x - reference) <= 1e-13 * np.linalg.norm(reference)
        x = ngdla.damped_lstsq([S[:, :4], S[:, 4:]], f, DAMPING)
        reference = exact_lstsq(S, f, DAMPING)
        assert np.linalg.norm(np.concatenate(x) - reference) <= 1e-13 * np.linalg.norm(reference)


# ------------------------------------------------------------------------------ identities


problems = st.tuples(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["float64", "complex128"]),
    st.integers(0, 99),
)


def drawn(problem: tuple[int, int, str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, m, dtype, seed = problem
    rng = np.random.default_rng(seed)
    return tuple(random_array(rng, shape, dtype) for shape in ((n, m), (m,), (n,)))  # type: ignore[return-value]


@given(problems, st.floats(-3, 3))
def test_push_through_identity(problem: Any, exponent: float) -> None:
    """(S^H S + damping)^-1 S^H f = S^H (S S^H + damping)^-1 f."""
    S, _, f = drawn(problem)
    damping = 10**exponent
    one = ngdla.damped_solve(S, H(S) @ f, damping)
    other = ngdla.damped_lstsq(S, f, damping)
    u = U["float64"] * condition(S, damping)
    assert np.linalg.norm(one - other) <= 100 * u * (np.linalg.norm(other) + 1e-300)


@given(problems, st.floats(-3, 3))
def test_a_solve_is_a_lstsq_with_a_prior(problem: Any, exponent: float) -> None:
    """v = S^H f + damping g  gives  x of lstsq with x0 = g."""
    S, g, f = drawn(problem)
    damping = 10**exponent
    one = ngdla.damped_solve(S, H(S) @ f + damping * g, damping)
    other = ngdla.damped_lstsq(S, f, damping, x0=g)
    u = U["float64"] * condition(S, damping)
    assert np.linalg.norm(one - other) <= 100 * u * (np.linalg.norm(other) + np.linalg.norm(g))


@given(problems, st.floats(-6, 6))
def test_scaling_covariance(problem: Any, exponent: float) -> None:
    """(S, damping) -> (c S, c^2 damping) divides the solution of a lstsq by c."""
    S, _, f = drawn(problem)
    c = 2.0 ** round(exponent)  # exact in binary
    one = ngdla.damped_lstsq(S, f, 0.1)
    other = ngdla.damped_lstsq(c * S, f, c * c * 0.1)
    np.testing.assert_allclose(c * other, one, rtol=1e-11, atol=1e-13)


@given(problems, st.permutations(range(12)))
def test_sample_order_does_not_matter(problem: Any, order: list[int]) -> None:
    S, v, _ = drawn(problem)
    rows = [i for i in order if i < len(S)]
    one, other = ngdla.damped_solve(S, v, 0.1), ngdla.damped_solve(S[rows], v, 0.1)
    np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-11)


@given(problems)
def test_limits_of_the_damping(problem: Any) -> None:
    S, v, f = drawn(problem)
    sigma = np.linalg.svd(S, compute_uv=False)
    huge = 1e8 * sigma[0] ** 2
    x = ngdla.damped_solve(S, v, huge) * huge
    assert np.linalg.norm(x - v) <= 1e-7 * np.linalg.norm(v)
    if sigma[-1] > 1e-2 * sigma[0]:
        tiny = 1e-10 * sigma[0] ** 2
        reference = np.linalg.pinv(S) @ f
        np.testing.assert_allclose(
            ngdla.damped_lstsq(S, f, tiny),
            reference,
            rtol=1e-5,
            atol=1e-5 * np.abs(reference).max(),
        )


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-11])
def test_one_sweep_reaches_the_accuracy_of_an_svd(
    dtype: str, ratio: float, rng: np.random.Generator
) -> None:
    """The Gram matrix squares the condition number; a sweep takes that back."""
    S = scores_with_spectrum(rng, 40, 400, dtype, decades=6)
    f = random_array(rng, (40, 1), dtype)
    v = H(S) @ f
    for function, right, exact in (
        (ngdla.damped_solve, v, exact_solve(S, v, ratio)),
        (ngdla.damped_lstsq, f, exact_lstsq(S, f, ratio)),
    ):
        errors = [
            np.linalg.norm(function(S, right, ratio, refine=sweeps, check=False) - exact)
            / np.linalg.norm(exact)
            for sweeps in (0, 1, 2)
        ]
        assert errors[1] <= 10 * U[dtype] * ratio**-0.5 + 100 * (U[dtype] / ratio) ** 2
        assert errors[2] <= 10 * U[dtype] * ratio**-0.5
        assert errors[0] > 3 * errors[1]  # otherwise the sweep would not be worth its passes


# ------------------------------------------------------------------------ transformations


def test_damping_is_traced_and_differentiable_in_jax(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, f = rng.standard_normal((4, 9)), rng.standard_normal(4)

    def length(S: Any, f: Any, damping: Any) -> Any:
        return jax.numpy.sum(ngdla.damped_lstsq(S, f, damping) ** 2)

    gradients = jax.jit(jax.grad(length, argnums=(0, 1, 2)))(S, f, 0.3)
    step = 1e-6
    for i, (gradient, argument) in enumerate(zip(gradients, (S, f, np.array(0.3)))):
        direction = rng.standard_normal(argument.shape)
        arguments = [S, f, np.array(0.3)]
        values = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[i] = argument + sign * step * direction
            values.append(np.sum(ngdla.damped_lstsq(moved[0], moved[1], float(moved[2])) ** 2))
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_vmap_of_jax_is_a_batch(method: str, rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, v = rng.standard_normal((3, 4, 9)), rng.standard_normal((3, 9))
    damping = np.array([0.1, 0.2, 0.3])
    solve = jax.vmap(lambda S, v, d: ngdla.damped_solve(S, v, d, method=method))
    one = jax.jit(solve)(S, v, damping)
    other = ngdla.damped_solve(S, v, damping, method=method)
    np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("method", ["auto", "eigh"])
def test_vmap_and_grad_of_torch(method: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S, v = (torch.from_numpy(rng.standard_normal(s)) for s in ((3, 4, 9), (3, 9)))
    one = torch.vmap(lambda S, v: ngdla.damped_solve(S, v, 0.2, method=method))(S, v)
    other = ngdla.damped_solve(S.numpy(), v.numpy(), 0.2, method=method)
    np.testing.assert_allclose(one.numpy(), other, rtol=1e-10)
    assert torch.autograd.gradcheck(
        lambda S, v: ngdla.damped_solve(S, v, 0.2, method=method),
        (S[0].clone().requires_grad_(), v[0].clone().requires_grad_()),
    )
    gradient = torch.func.grad(lambda v: ngdla.damped_solve(S[0], v, 0.2).sum())(v[0])
    expected = ngdla.damped_solve(S[0], torch.ones(9, dtype=torch.float64), 0.2)
    np.testing.assert_allclose(gradient.numpy(), expected.numpy(), rtol=1e-10)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_compiled_solve_takes_another_damping(rng: np.random.Generator) -> None:
    """From the second value on, torch.compile traces a Python float as a symbol."""
    torch = pytest.importorskip("torch")
    S, f = (torch.from_numpy(rng.standard_normal(s)) for s in ((4, 9), (4,)))
    solve = torch.compile(ngdla.damped_lstsq, fullgraph=True, backend="aot_eager")
    for damping in (0.3, 0.2, 0.1):
        expected = ngdla.damped_lstsq(S, f, damping)
        np.testing.assert_allclose(solve(S, f, damping), expected, rtol=1e-11)


# ---------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("function", ["damped_solve", "damped_lstsq"])
def test_memory(dtype: str, function: str, rng: np.random.Generator) -> None:
    """At most 4 n^2 + 6 m numbers beside the arguments: no copy of S, no Q, no m x m."""
    n, m = 32, 100_000
    S = random_array(rng, (n, m), dtype)
    right = random_array(rng, (m if function == "damped_solve" else n,), dtype)
    solve = getattr(ngdla, function)
    solve(S[:, :50], right[:50] if function == "damped_solve" else right, 1.0)  # warm up imports
    tracemalloc.start()
    solve(S, right, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= (4 * n * n + 6 * m) * S.itemsize
