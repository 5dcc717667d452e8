"""The precision policy: what is computed in which dtype, how accurate it is, and what is said."""

from __future__ import annotations

import functools
import itertools
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import H, U, exact_lstsq, exact_solve, random_array, scores_with_spectrum, wide

import ngdla
from ngdla import PrecisionWarning
from ngdla.damped.methods import METHODS
from ngdla.damped.precision import LIFT, NATIVE, Measured, Plan, first_plan, next_plan

N, M = 24, 90
SHAPES = [(N, M), (M, N)]
TINY = [1e-6, 1e-8, 1e-10, 1e-12]


def problem(
    rng: np.random.Generator, dtype: str, shape: tuple[int, int] = (N, M), decades: float = 6
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return S with singular values from 10^-decades to 1, f, and sigma_1."""
    S = scores_with_spectrum(rng, *shape, dtype, decades=decades)
    return S, random_array(rng, shape[:1], dtype), float(np.linalg.norm(wide(S).astype(complex), 2))


def errors(x: Any, exact: np.ndarray) -> tuple[float, float]:
    """Return the relative error and the length over that of the exact solution."""
    x, exact = (np.asarray(a).astype(complex).ravel() for a in (x, exact))
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(x - exact)) / length, float(np.linalg.norm(x)) / length


# ----------------------------------------------------------------------------------- plans


LIKE, AUTO = np.ones(1), METHODS["auto"]


def test_plans() -> None:
    assert first_plan(METHODS["auto"], "native", "float64", LIKE) == Plan(
        METHODS["auto"], "float64"
    )
    low = first_plan(METHODS["auto"], "mixed", "complex128", LIKE)
    assert low == Plan(METHODS["auto"], "complex64", lifted=True, iterate=True, blind_steps=10)
    assert (
        first_plan(METHODS["auto"], "float32", "float64", LIKE)[1:]
        == Plan(METHODS["auto"], "float32", *low[2:])[1:]
    )
    assert first_plan(METHODS["auto"], "float64", "float32", LIKE) == Plan(
        METHODS["auto"], "float64", double=True
    )
    assert first_plan(METHODS["auto"], "float64", "float64", LIKE) == Plan(
        METHODS["auto"], "float64"
    )
    assert first_plan(METHODS["eigh"], "complex64", "complex64", LIKE) == Plan(
        METHODS["eigh"], "complex64"
    )


@pytest.mark.parametrize(
    ("ratio", "smallest", "expected"),
    [
        (1e-9, 1e-2, Plan(AUTO, "float32", lifted=True, iterate=True, rung=1)),
        (1e-6, 1e-6, Plan(AUTO, "float32", double=True, lifted=True, iterate=True, rung=2)),
        (1e-8, 3e-7, Plan(AUTO, "float64", double=True, lifted=True, rung=3)),
        (1e-6, 0.0, Plan(AUTO, "float64", double=True, lifted=True, rung=3)),
        (1e-17, 3e-7, Plan(METHODS["qr"], "float64", double=True, rung=4)),
    ],
)
def test_the_ladder_in_single_precision(ratio: float, smallest: float, expected: Plan) -> None:
    plan = first_plan(METHODS["auto"], "auto", "float32", LIKE)
    assert plan.least == NATIVE * U["float32"]
    found, said = above(plan, ratio, smallest, dense=True)
    assert found == expected
    assert bool(said) == (found.factor == "float64" or found.double)


def test_the_ladder_in_double_precision() -> None:
    plan = first_plan(METHODS["auto"], "auto", "float64", LIKE)
    assert plan.least == LIFT * U["float64"]
    assert above(plan, 1e-17, 4e-16, dense=True)[0] == Plan(METHODS["qr"], "float64", rung=4)
    for method, dense in (("cholesky", True), ("auto", False)):
        plan = first_plan(METHODS[method], "auto", "float64", LIKE)
        found, said = above(plan, 1e-17, 4e-16, dense=dense)
        assert found == plan._replace(iterate=True, least=0.0, rung=5)
        assert "conjugate gradients" in said


def test_every_ladder_ends() -> None:
    """Each rung is above the last one, whatever is measured; a chosen precision has none above."""
    assert next_plan(Plan(AUTO, "float32"), Measured(1e-9, 0.0), LIKE, dense=True) is None
    for method, dtype in itertools.product(METHODS.values(), ("float32", "complex128")):
        plan, seen = first_plan(method, "auto", dtype, LIKE), []
        while (higher := next_plan(plan, Measured(1e-18, 0.0), LIKE, dense=True)) is not None:
            plan = higher[0]
            seen.append(plan.rung)
        assert seen == sorted(set(seen))
        assert (plan.factor in ("float64", "complex128")) or not method.exact


def above(plan: Plan, ratio: float, smallest: float, *, dense: bool) -> tuple[Plan, str]:
    """Return the plan on the next rung, which there is."""
    found = next_plan(plan, Measured(ratio, smallest), LIKE, dense=dense)
    assert found is not None
    return found


# -------------------------------------------------------------------------------- accuracy


@functools.cache
def solved_problem(
    dtype: str, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, float, dict[float, np.ndarray]]:
    """Return a problem, and its solutions for dampings in units of sigma_1^2."""
    S, f, sigma = problem(np.random.default_rng(20231017), dtype, shape)
    solutions = {
        scale: exact_lstsq(S, f[:, None], scale * sigma**2)[:, 0] for scale in (1e-2, 1e-4, *TINY)
    }
    return S, f, sigma, solutions


@pytest.mark.thinned
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_auto_in_single_precision(
    valued_backend: Backend, dtype: str, shape: tuple[int, int]
) -> None:
    """2e-5 where float64 exists; else no NaN, and never 2 times too long or short unsaid."""
    backend = valued_backend
    doubles = "float64" in backend.dtypes
    S, f, sigma, solutions = solved_problem(dtype, shape)
    for scale, exact in solutions.items():
        damping = scale * sigma**2
        like = backend.asarray(S)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x, info = ngdla.damped_lstsq(like, backend.asarray(f), damping, full_output=True)
        assert {w.category for w in caught} <= {PrecisionWarning}
        assert len(caught) <= (1 if doubles else 2)
        assert all(w.filename == __file__ for w in caught)
        assert bool(caught) or scale > 1e-5
        backend.assert_kind(x, like=like, dtype=dtype, shape=exact.shape)
        error, length = errors(backend.numpy(x), exact)
        assert error <= 2e-5 or not doubles, (scale, error)
        assert np.isfinite(error)
        assert 0.5 <= length <= 2 or not backend.numpy(info.converged), (scale, length)
        bound = float(backend.numpy(info.error_bound)) / np.linalg.norm(exact.astype(complex))
        assert error <= bound


@pytest.mark.parametrize("name", ["jax", "dask", "torch"])
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall"])
def test_auto_where_values_cannot_be_read(
    name: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    """The path is fixed: nothing is warned of, and the flag carries the verdict."""
    backend = BACKENDS[name]()
    S, f, sigma = problem(rng, "float32", shape)
    for scale in (1e-2, 1e-4, *TINY):
        damping = np.asarray(scale * sigma**2, dtype="float32")
        exact = exact_lstsq(S, f[:, None], float(damping))[:, 0]
        x, info = backend.call(
            ngdla.damped_lstsq,
            backend.asarray(S),
            backend.asarray(f),
            backend.asarray(damping),
            check=name != "torch",
            full_output=True,
        )
        error, length = errors(backend.numpy(x), exact)
        if np.isnan(error):  # refused
            assert scale < 1e-6
            assert not backend.numpy(info.converged)
            continue
        limit = 2e-5 if name == "jax" else 2e-3
        assert error <= limit or scale < 1e-6, (scale, error)
        assert 0.5 <= length <= 2 or not backend.numpy(info.converged), (scale, length)


@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall"])
@pytest.mark.parametrize("method", ["cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_mixed_is_as_accurate_as_native(
    dtype: str, method: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    S, f, sigma = problem(rng, dtype, shape)
    v = H(S) @ f
    for scale in (1e-2, 1e-4, 1e-6):
        damping = scale * sigma**2
        for function, right, exact in (
            (ngdla.damped_lstsq, f, exact_lstsq(S, f[:, None], damping)),
            (ngdla.damped_solve, v, exact_solve(S, v[:, None], damping)),
        ):
            native, mixed = (
                errors(function(S, right, damping, method=method, precision=p), exact)[0]
                for p in ("native", "mixed")
            )
            assert mixed <= 10 * max(native, U[dtype] / scale**0.5), (scale, function)


def test_mixed_converges_far_below_the_roundings_of_its_factor(rng: np.random.Generator) -> None:
    S, f, sigma = problem(rng, "float64")
    for scale, tolerance in ((1e-8, 1e-10), (1e-10, 1e-8)):
        x, info = ngdla.damped_lstsq(S, f, scale * sigma**2, precision="mixed", full_output=True)
        assert errors(x, exact_lstsq(S, f[:, None], scale * sigma**2))[0] <= tolerance
        assert info.converged


def test_float64_for_float32_scores(backend: Backend, rng: np.random.Generator) -> None:
    S, f, sigma = problem(rng, "float32")
    like = backend.asarray(S)
    options: dict[str, Any] = {"precision": "float64", "full_output": True}
    if "float64" not in backend.dtypes:
        with pytest.raises(ValueError, match=r"`precision` is 'float64'"):
            ngdla.damped_lstsq(like, backend.asarray(f), 1.0, **options)
        return
    for scale in TINY:
        damping = np.asarray(scale * sigma**2, dtype="float32")
        given = backend.asarray([f, damping])
        x, info = backend.call(ngdla.damped_lstsq, like, *given, **options)
        exact = exact_lstsq(S, f[:, None], float(damping))[:, 0]
        backend.assert_matches(x, exact, like=like, dtype="float32", tolerance=1e-6)
        backend.assert_kind(info.error_bound, like=like, dtype="float32", shape=())


def test_scores_of_one_scale_do_not_climb(rng: np.random.Generator) -> None:
    """A tiny damping is no trouble where the singular values of S are not small themselves."""
    S = rng.standard_normal((20, 200)).astype("float32")
    f = rng.standard_normal(20).astype("float32")
    x = ngdla.damped_lstsq(S, f, 1e-9)
    assert errors(x, exact_lstsq(S, f[:, None], 1e-9))[0] <= 1e-6


def test_a_general_right_hand_side_climbs_with_the_damping(rng: np.random.Generator) -> None:
    """S^H S + damping has the damping as an eigenvalue, whatever the singular values are."""
    S = np.linalg.qr(rng.standard_normal((90, 6))).Q.T.astype("float32")
    v = S.T @ rng.standard_normal(6).astype("float32")
    for damping in (1e-6, 1e-8):
        exact = exact_solve(S, v[:, None], damping)
        for call in (ngdla.damped_solve, factored):
            with (
                pytest.warns(PrecisionWarning, match="double precision"),
                pytest.warns(PrecisionWarning, match="row_space=True"),
            ):
                x = call(S, v, damping)
            assert errors(x, exact)[0] <= 1e-6


def factored(S: Any, v: Any, damping: float) -> Any:
    return ngdla.damped_factor(S, damping).solve(v)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["auto", "native", "mixed"])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_gradients_do_not_mind_climbing(
    precision: str, damping: float, rng: np.random.Generator
) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, f = (rng.standard_normal(s).astype("float32") for s in ((6, 20), (6,)))

    def loss(S: Any, l: Any) -> Any:
        return jax.numpy.sum(
            ngdla.damped_lstsq(S, jax.numpy.asarray(f), l, precision=precision) ** 2
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        found = jax.grad(loss, argnums=(0, 1))(jax.numpy.asarray(S), jax.numpy.float32(damping))
    S, f = S.astype("float64"), f.astype("float64")
    A = S.T @ S + damping * np.eye(20)
    x = np.linalg.solve(A, S.T @ f)
    u = np.linalg.solve(A, 2 * x)  # A dx = dS^T (f - S x) - S^T dS x - x d damping
    for one, other in zip(found, (np.outer(f - S @ x, u) - np.outer(S @ u, x), -u @ x)):
        assert np.linalg.norm(one - other) <= 1e-4 * np.linalg.norm(other)


def test_damping_and_metric_keep_their_digits_in_a_float32_factor(
    rng: np.random.Generator,
) -> None:
    S, f = rng.standard_normal((6, 20)).astype("float32"), rng.standard_normal(6)
    metric = rng.uniform(0.1, 10, 20)
    for m in (metric, metric.astype("float32")):
        factor = ngdla.damped_factor(S, np.asarray(0.1), metric=m)
        for factor_ in (factor, factor.with_damping(np.asarray(0.1))):
            x, info = factor_.lstsq(f, full_output=True)
            exact = exact_lstsq(S, f[:, None], 0.1, metric=m)[:, 0]
            weighted = np.linalg.norm((np.sqrt(m) * (x - exact)).astype(float))
            assert weighted <= info.error_bound <= 1e-12


def test_a_factor_climbs_once(rng: np.random.Generator) -> None:
    S, f, sigma = problem(rng, "float32")
    with pytest.warns(PrecisionWarning, match="Gram matrix and its factor") as caught:
        factor = ngdla.damped_factor(S, 1e-9 * sigma**2)
    assert len(caught) == 1
    exact = exact_lstsq(S, f[:, None], 1e-9 * sigma**2)
    assert errors(factor.lstsq(f), exact)[0] <= 1e-6


def test_double_precision_climbs_to_qr(rng: np.random.Generator) -> None:
    S, f, sigma = problem(rng, "float64", decades=10)
    damping = 1e-18 * sigma**2
    with pytest.warns(PrecisionWarning, match="QR"):
        x, info = ngdla.damped_lstsq(S, f, damping, full_output=True)
    error, _ = errors(x, exact_lstsq(S, f[:, None], damping))
    assert error <= 1e-5
    with pytest.warns(PrecisionWarning, match="conjugate gradients"):
        x, info = ngdla.damped_lstsq(S, f, damping, method="cholesky", full_output=True)
    error, length = errors(x, exact_lstsq(S, f[:, None], damping))
    assert 0.5 <= length <= 2 or not info.converged


def test_several_right_hand_sides_and_batches(rng: np.random.Generator) -> None:
    """The worst column decides; all are as accurate as alone."""
    S = np.stack([scores_with_spectrum(rng, N, M, "float64", decades=d) for d in (1, 6)])
    f = rng.standard_normal((2, N, 3))
    f[0, :, 1] = 0.0
    damping = np.asarray([1e-3, 1e-5])
    x, info = ngdla.damped_lstsq(S, f, damping, precision="mixed", full_output=True)
    assert info.converged.shape == (2, 3)
    for i in range(2):
        alone = exact_lstsq(S[i], f[i], float(damping[i]))
        error = np.linalg.norm((x[i] - alone).astype(float), axis=0)
        assert np.all(error <= info.error_bound[i])
        assert np.all(error <= 1e-11 * np.linalg.norm(alone.astype(float), axis=0))


# ------------------------------------------------------------------------- half precision


def half_arrays(S: np.ndarray) -> list[Any]:
    """Return S in every half precision that is here."""
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    import ml_dtypes

    return [
        S.astype("float16"),
        S.astype(ml_dtypes.bfloat16),
        torch.asarray(S).to(torch.float16),
        torch.asarray(S).to(torch.bfloat16),
        jnp.asarray(S, dtype="float16"),
        jnp.asarray(S, dtype="bfloat16"),
    ]


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("shape", SHAPES, ids=["wide", "tall"])
def test_half_precision_is_stored_and_contracted_in_float32(
    case: int, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    S = half_arrays(rng.standard_normal(shape))[case]
    plain = np.asarray(S.float() if hasattr(S, "float") else S, dtype="float32")
    convert = type(S).__module__.partition(".")[0].replace("jaxlib", "jax")
    f = BACKENDS[convert]().asarray(rng.standard_normal(shape[0]).astype("float32"))
    x = ngdla.damped_lstsq(S, f, 0.5)
    assert str(x.dtype).endswith("float32")
    assert errors(x, exact_lstsq(plain, np.asarray(f)[:, None], 0.5))[0] <= 1e-5
    G = ngdla.gram(S)
    assert str(G.dtype).endswith("float32")
    exact = plain.astype(float) @ plain.T.astype(float)
    assert np.linalg.norm(np.asarray(G) - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("case", range(6))
def test_log_derivatives_of_half_precision(case: int, rng: np.random.Generator) -> None:
    """They are centred in float32: a common part would take the digits of half precision."""
    O = half_arrays(rng.standard_normal((8, 30)) + 50.0)[case]
    plain = np.asarray(O.float() if hasattr(O, "float") else O, dtype="float32")
    convert = type(O).__module__.partition(".")[0].replace("jaxlib", "jax")
    E = rng.standard_normal(8).astype("float32")
    d = ngdla.stochastic_reconfiguration(O, BACKENDS[convert]().asarray(E), 0.01)
    reference = ngdla.stochastic_reconfiguration(plain.astype(float), E.astype(float), 0.01)
    assert errors(d, reference)[0] <= 1e-3
    S = ngdla.scores(O)
    assert str(S.dtype).endswith("float32")
    assert abs(np.asarray(S).sum(axis=0)).max() <= 1e-4


# --------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("precision", ["mixed", "float64"])
def test_scores_are_converted_in_chunks(
    precision: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("ngdla._backend.shapes.CHUNK_BYTES", 2**18)
    S = rng.standard_normal((16, 100_000)).astype("float64" if precision == "mixed" else "float32")
    f = S[:, 0].copy()
    ngdla.damped_lstsq(S[:, :1000], f, 1.0, precision=precision)
    tracemalloc.start()
    try:
        ngdla.damped_lstsq(S, f, 1.0, precision=precision)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 6 * 8 * S.shape[1], f"{peak} bytes beside S of {S.nbytes}"


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("precision", ["double", "float16", 64, None, np.float32])
def test_unknown_precisions(precision: Any) -> None:
    with pytest.raises(ValueError, match=r"`precision` is .*'auto', 'native', 'mixed'"):
        ngdla.damped_lstsq(np.eye(2, 3), np.ones(2), 1.0, precision=precision)


def test_a_complex_precision_of_a_real_problem() -> None:
    with pytest.raises(ValueError, match=r"`precision` is 'complex64' but .* pass 'float32'"):
        ngdla.damped_lstsq(np.eye(2, 3), np.ones(2), 1.0, precision="complex64")
