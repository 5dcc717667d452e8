"""Weights of samples: the natural gradient, invariances, limits; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from array_api_strict import Device
from array_api_strict import asarray as strict_array
from backends import BACKENDS, Backend, counted_host_reads, half_dtype
from hypothesis import given
from hypothesis import strategies as st
from layers import LAYOUTS, exact_gram, exact_weights, gradients, layer, natural_gradient
from references import U, narrow, random_array, wide
from spectra import REAL, needs, norm, psd, quick_compilation, relative  # noqa: F401

from ngdla import sample_gram, sample_weights, weighted_cosine, weighted_gradient
from ngdla.per_sample.gradients import gram_by_gradients, gram_by_pairs
from ngdla.per_sample.layer_samples import layer_samples


def gram_of(rng: np.random.Generator, M: int, d: int, dtype: str, batch: Any = ()) -> np.ndarray:
    """Return K of gradients of different lengths, exactly Hermitian."""
    lengths = 10.0 ** rng.uniform(-1, 0, (*batch, M, 1))
    x = random_array(rng, (*batch, M, d), dtype) * lengths
    K = x @ np.conj(np.swapaxes(x, -1, -2))
    return ((K + np.conj(np.swapaxes(K, -1, -2))) / 2).astype(dtype)


def condition(K: np.ndarray, damping: float, *, relative: bool = True) -> float:
    """Return 1 + |K|_2 / (M lambda), of the worst in a stack."""
    stack = narrow(K).reshape(-1, *K.shape[-2:])
    shifts = [len(A) * damping * (norm(A) if relative else 1) for A in stack]
    return max(1 + np.linalg.norm(A, 2) / shift for A, shift in zip(stack, shifts))


# ------------------------------------------------------------------------------- definition


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(6,), (1,), (2, 5)], ids=str)
@pytest.mark.parametrize("in_units_of_K", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_weights_are_their_definition(
    backend: Backend,
    dtype: str,
    shape: tuple[int, ...],
    in_units_of_K: bool,
    normalized: bool,
    rng: np.random.Generator,
) -> None:
    """To a few u times the condition, with a number, and with an array, 0-d or of the stack."""
    needs(backend, dtype)
    *batch, M = shape
    K = gram_of(rng, M, 9, dtype, tuple(batch))
    options = {"relative": in_units_of_K, "normalized": normalized}
    like = backend.asarray(K)
    for damping in (0.01, np.asarray(0.02, REAL[dtype]), np.full(batch, 0.03, REAL[dtype])):
        given = damping if isinstance(damping, float) else backend.asarray(damping)
        v = backend.call(sample_weights, like, given, **options)
        expected = narrow(exact_weights(K, np.asarray(damping, REAL[dtype]), **options))
        tolerance = 8 * U[dtype] * condition(K, 0.01, relative=in_units_of_K)
        backend.assert_matches(v, expected, like=like, dtype=dtype, tolerance=tolerance)


def test_a_stack_is_a_loop(dtype: str, rng: np.random.Generator) -> None:
    K = gram_of(rng, 5, 9, dtype, (2, 3))
    damping = np.geomspace(1e-3, 1, 6, dtype=REAL[dtype]).reshape(2, 3)
    v = sample_weights(K, damping)
    for i in np.ndindex(2, 3):
        tolerance = 8 * U[dtype] * condition(K, 1e-3)
        assert relative(v[i], sample_weights(K[i], damping[i])) <= tolerance


def test_a_damping_may_be_of_another_dtype(rng: np.random.Generator) -> None:
    """It never promotes; an integer is a number too."""
    K = gram_of(rng, 5, 9, "float32")
    v = sample_weights(K, np.asarray(0.5))
    assert v.dtype == "float32"
    np.testing.assert_array_equal(v, sample_weights(K, 0.5))
    np.testing.assert_array_equal(sample_weights(K, np.asarray(1)), sample_weights(K, 1))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_half_precision(name: str, half: str) -> None:
    """K of small integers, which 8 bits hold: weights and the cosine in float32."""
    backend: Any = BACKENDS[name]()
    K, c = np.array([[4.0, 1], [1, 2]]), np.array([1.0, 2])
    low: list[Any] = backend.asarray([x.astype("float32") for x in (K, c)])
    if name == "torch":
        low = [x.to(getattr(backend.torch, half)) for x in low]
    else:
        low = [x.astype(half_dtype(half) if name == "numpy" else half) for x in low]
    v = sample_weights(low[0], 0.1)
    expected = narrow(exact_weights(K, 0.1))
    tolerance = 8 * U["float32"] * condition(K, 0.1)
    backend.assert_matches(v, expected, like=low[0], dtype="float32", tolerance=tolerance)
    cosine = weighted_cosine(low[0], low[1], low[1])
    backend.assert_matches(
        cosine, np.asarray(1.0), like=low[0], dtype="float32", tolerance=8 * U["float32"]
    )


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("in_units_of_K", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_the_damping_that_was_used(
    backend: Backend,
    dtype: str,
    batch: tuple[int, ...],
    in_units_of_K: bool,
    normalized: bool,
    rng: np.random.Generator,
) -> None:
    """lambda is damping |K|_F or the damping itself; the weights are those without it."""
    needs(backend, dtype)
    K = gram_of(rng, 6, 9, dtype, batch)
    options = {"relative": in_units_of_K, "normalized": normalized}
    like, real = backend.asarray(K), REAL[dtype]
    for damping in (0.01, np.asarray(0.02, real), np.full(batch, 0.03, real)):
        given = damping if isinstance(damping, float) else backend.asarray(damping)
        pair = backend.call(sample_weights, like, given, full_output=True, **options)
        assert type(pair) is tuple
        norms = np.sqrt(np.sum(np.abs(wide(K)) ** 2, axis=(-2, -1))) if in_units_of_K else 1
        expected = narrow(np.broadcast_to(damping * norms, batch))
        kind = {"like": like, "tolerance": 16 * U[dtype]}
        backend.assert_matches(pair[1], expected, dtype=real, **kind)
        if backend.has_values:
            c = backend.call(sample_weights, like, given, **options)
            np.testing.assert_array_equal(backend.numpy(pair[0]), backend.numpy(c))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_normalized_weights_are_lambda_times_the_others(scale: float) -> None:
    """At every scale of K, in float32: v = lambda c without a second call."""
    K = np.float32(scale) * gram_of(np.random.default_rng(0), 6, 9, "float32")
    c, used = sample_weights(K, 0.01, full_output=True)
    v = sample_weights(K, 0.01, normalized=True)
    assert relative(used * c, v) <= 8 * U["float32"] * condition(K / np.float32(scale), 0.01)
    absolute = sample_weights(K, used, relative=False)
    assert relative(absolute, c) <= 16 * U["float32"] * condition(K / np.float32(scale), 0.01)


def test_lambda_of_zero_gradients() -> None:
    """Zero if relative to K, whose normalized weights are those of any damping."""
    for stack in (np.zeros((4, 4)), np.stack([np.eye(4), np.zeros((4, 4))])):
        v, used = sample_weights(stack, 0.1, normalized=True, full_output=True)
        np.testing.assert_allclose(np.atleast_2d(v)[-1], 0.25, rtol=1e-15)
        np.testing.assert_allclose(np.atleast_1d(used), [0.2, 0][-np.size(used) :], rtol=1e-15)
        _, used = sample_weights(stack, 0.1, relative=False, full_output=True)
        np.testing.assert_array_equal(used, np.full(stack.shape[:-2], 0.1))


# ------------------------------------------------------------------------- natural gradient

# Fewer samples than parameters and more; a convolution.
SHAPES = {"few samples": ((8, 6), 5), "many samples": ((40, 4), 3), "patches": ((6, 4, 6), 5)}


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("damping", [1e-3, 1e-2, 1e-1])
def test_a_weighted_gradient_is_the_natural_gradient(
    backend: Backend, dtype: str, shape: str, damping: float, rng: np.random.Generator
) -> None:
    """(F + lambda)^-1 of the mean gradient, with F formed: to 1e-12."""
    needs(backend, dtype)
    a, g = layer(rng, *SHAPES[shape], dtype)

    def run(a: Any, g: Any) -> Any:
        options = {"positions": a.ndim > 2, "check": False}
        K = sample_gram(a, g, positions=a.ndim > 2)
        return weighted_gradient(a, g, sample_weights(K, damping, check=False), **options)

    like = backend.asarray(a)
    found = backend.call(run, like, backend.asarray(g))
    lam = damping * np.sqrt(np.sum(np.abs(exact_gram(a, g)) ** 2))
    expected = narrow(natural_gradient(gradients(a, g), lam)).reshape(g.shape[-1], a.shape[-1])
    backend.assert_matches(found, expected, like=like, dtype=dtype, tolerance=1e-12)


@pytest.mark.parametrize("way", [gram_by_pairs, gram_by_gradients])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_gram_matrices_are_taken_as_they_come(
    way: Any, dtype: str, layout: str, rng: np.random.Generator
) -> None:
    """Their roundings are no reason to refuse them."""
    K = way(layer_samples(*layer(rng, *LAYOUTS[layout], dtype), len(LAYOUTS[layout][0]) > 2))
    assert np.all(np.isfinite(sample_weights(K, 1e-3)))


def test_one_set_of_weights_for_layers_together(dtype: str, rng: np.random.Generator) -> None:
    """From the sum of their K: the natural gradient of all their parameters."""
    pairs = [layer(rng, (6, 4), 5, dtype), layer(rng, (6, 2, 3), 2, dtype)]
    K = sum(sample_gram(*pair, positions=pair[0].ndim > 2) for pair in pairs)
    c = sample_weights(K, 0.5, relative=False)
    found = np.concatenate(
        [weighted_gradient(*pair, c, positions=pair[0].ndim > 2).reshape(-1) for pair in pairs]
    )
    expected = natural_gradient(np.concatenate([gradients(*pair) for pair in pairs]), 0.5)
    tolerance = 8 * 30 * U[dtype] * condition(K, 0.5, relative=False)
    assert relative(found, expected) <= tolerance


@pytest.mark.parametrize(("fraction", "gain"), [(1e-3, 4), (1e-5, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_small_dampings_in_single_precision(fraction: float, gain: float, seed: int) -> None:
    """lambda of a thousandth of |K|_F / M and less: nothing is lost by subtraction.

    Errors E of the factored A = K + M lambda, E_ij of u sqrt(A_ii A_jj), move U v by U A^-1 E v, if
    of random signs by u |U A^-1 D|_F |D v|, D^2 being the diagonal of A.
    """
    rng = np.random.default_rng(seed)
    M, u = 64, U["float32"]
    a = np.abs(random_array(rng, (M, 30), "float32"))  # as after a ReLU
    g = random_array(rng, (M, 20), "float32") * np.exp(random_array(rng, (M, 1), "float32"))
    K = sample_gram(a, g)
    damping, columns = fraction / M, gradients(a, g)
    expected = exact_weights(K, damping, normalized=True)
    size = norm(columns @ expected)

    def error(v: np.ndarray) -> float:
        return norm(columns @ (wide(v) - expected)) / size

    shift = fraction * norm(K)
    A = narrow(K) + shift * np.eye(M)
    D = np.sqrt(np.diag(A))
    sensitivity = np.linalg.norm(narrow(columns) @ np.linalg.inv(A) * D)
    tolerance = 4 * u * sensitivity * np.linalg.norm(D * narrow(expected)) / size
    found = error(sample_weights(K, damping, normalized=True))
    assert found <= tolerance
    subtracted = 1 / np.float32(M) - np.linalg.solve(A.astype("float32"), K.mean(axis=0))
    assert error(subtracted) >= gain * found


# ------------------------------------------------------------------------------ invariances


@pytest.mark.parametrize("exponent", [-50, -3, 50])
@pytest.mark.parametrize("layout", [(6, 4), (6, 3, 4)], ids=str)
def test_gradients_in_other_units(
    dtype: str, exponent: int, layout: tuple[int, ...], rng: np.random.Generator
) -> None:
    """s g: v stays, to the last bit for powers of two, c is divided by s^2; s from 1e-15 to 1e15.

    Nothing overflows on the way, not in single precision either.
    """
    a, g = layer(rng, layout, 5, dtype)
    s = np.asarray(2.0**exponent, REAL[dtype])
    K, scaled = (sample_gram(a, x, positions=a.ndim > 2) for x in (g, s * g))
    v, c = (sample_weights(K, 0.01, normalized=normalized) for normalized in (True, False))
    np.testing.assert_array_equal(sample_weights(scaled, 0.01, normalized=True), v)
    np.testing.assert_array_equal(sample_weights(scaled, 0.01), c / s**2)
    np.testing.assert_array_equal(weighted_cosine(scaled, c, v), weighted_cosine(K, c, v))


@pytest.mark.parametrize("s", [1e-15, 1e-4, 1e15])
def test_gradients_in_decimal_units(valued_backend: Backend, s: float) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    a, g = layer(np.random.default_rng(1), (6, 4), 5, "float32")
    v, scaled = (
        sample_weights(sample_gram(*valued_backend.asarray((a, x))), 0.01, normalized=True)
        for x in (g, np.float32(s) * g)
    )
    tolerance = 50 * U["float32"] * condition(exact_gram(a, g), 0.01)
    assert relative(valued_backend.numpy(scaled), valued_backend.numpy(v)) <= tolerance


@given(
    M=st.integers(1, 9),
    d=st.integers(1, 12),
    damping=st.floats(1e-4, 1e4),
    dtype=st.sampled_from(sorted(U)),
    seed=st.integers(0, 99),
)
def test_normalized_weights(M: int, d: int, damping: float, dtype: str, seed: int) -> None:
    """Their sum is in (0, 1]; v is lambda c; they move with the samples; both units agree."""
    rng = np.random.default_rng(seed)
    K = gram_of(rng, M, d, dtype)
    allowed = 8 * U[dtype] * condition(K, damping)
    v = sample_weights(K, damping, normalized=True)
    total = np.sum(v)
    assert abs(total.imag) <= allowed * np.sqrt(M) * norm(v)
    assert 0 < total.real <= 1 + allowed
    c, lam = sample_weights(K, damping), damping * norm(K)
    assert relative(lam * narrow(c), v) <= allowed
    absolute = sample_weights(K, lam, relative=False, normalized=True)
    assert relative(absolute, v) <= 2 * allowed
    order = rng.permutation(M)
    moved = sample_weights(K[order][:, order], damping, normalized=True)
    assert relative(moved, v[order]) <= 2 * allowed


def test_large_dampings_give_equal_weights(dtype: str, rng: np.random.Generator) -> None:
    """v - 1 / M is -(K + M lambda)^-1 K 1 / M: at most 1 / (M damping) of it."""
    M = 6
    K = gram_of(rng, M, 9, dtype)
    for damping in (1.0, 1e3, 1e6):
        v = sample_weights(K, damping, normalized=True)
        assert relative(v, np.full(M, 1 / M)) <= 1 / (M * damping) + 16 * U[dtype]


def test_less_damping_takes_away_more(rng: np.random.Generator) -> None:
    """The sum of v, 1 where damping is all there is, falls with it."""
    K = gram_of(rng, 6, 9, "float64")
    sums = [
        np.sum(sample_weights(K, damping, normalized=True)) for damping in np.geomspace(1e3, 1e-6)
    ]
    assert np.all(np.diff(sums) < 0)


def test_equal_samples_have_equal_weights(rng: np.random.Generator) -> None:
    """Also where K has rank one: v = 1 / (M (1 + 1 / (M damping))) for K of ones, |K|_F = M."""
    for M in (1, 2, 7):
        v = sample_weights(np.ones((M, M)), 0.1, normalized=True)
        np.testing.assert_allclose(v, 0.1 / (1 + 0.1 * M), rtol=1e-14)


def test_weights_of_orthogonal_gradients() -> None:
    """1 / (|u_i|^2 + M lambda): the longer a gradient, the less it counts."""
    squares = np.array([1.0, 2, 4, 0])
    c = sample_weights(np.diag(squares), 0.5, relative=False)
    np.testing.assert_allclose(c, 1 / (squares + 2), rtol=1e-15)


# ----------------------------------------------------------------------------------- cosine


def exact_cosine(columns: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """Return the cosine of the angle between U c and U d as vectors of real numbers."""
    x, y = (columns @ wide(weights) for weights in (c, d))
    return float(np.sum(np.conj(x) * y).real / (norm(x) * norm(y)))


@pytest.mark.thinned
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_cosine_is_that_of_the_directions(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """To u times |c| |K| |d| / (|U c| |U d|), of M products in sums of M."""
    needs(backend, dtype)
    M = 6
    a, g = layer(rng, (*batch, M, 2, 4), 5, dtype)
    K = sample_gram(a, g, positions=True)
    c, d = (random_array(rng, (*batch, M), dtype) for _ in range(2))
    like = backend.asarray(K)
    found = backend.call(weighted_cosine, like, backend.asarray(c), backend.asarray(d))
    backend.assert_kind(found, like=like, dtype=REAL[dtype], shape=batch)
    if not backend.has_values:
        return
    columns = gradients(a, g)
    for i in np.ndindex(batch):
        lengths = norm(columns[i] @ c[i]) * norm(columns[i] @ d[i])
        allowed = 8 * M * U[dtype] * norm(c[i]) * norm(K[i]) * norm(d[i]) / lengths
        assert abs(backend.numpy(found)[i] - exact_cosine(columns[i], c[i], d[i])) <= allowed


@given(
    M=st.integers(1, 8),
    dtype=st.sampled_from(sorted(U)),
    scales=st.tuples(*[st.integers(-30, 30)] * 3),
    seed=st.integers(0, 99),
)
def test_a_cosine_has_no_scale(M: int, dtype: str, scales: tuple[int, ...], seed: int) -> None:
    """And is symmetric, 1 with itself, -1 with the opposite, and between both."""
    rng = np.random.default_rng(seed)
    K = gram_of(rng, M, M + 2, dtype)
    c, d = (random_array(rng, (M,), dtype) for _ in range(2))
    lengths = np.sqrt([np.vdot(x, narrow(K) @ x).real for x in (c, d)])
    allowed = 8 * M * U[dtype] * norm(K) * max(norm(c), norm(d)) ** 2 / min(lengths) ** 2
    cosine = weighted_cosine(K, c, d)
    assert abs(cosine) <= 1 + allowed
    assert abs(weighted_cosine(K, d, c) - cosine) <= allowed
    assert abs(weighted_cosine(K, c, c) - 1) <= allowed
    assert abs(weighted_cosine(K, c, -c) + 1) <= allowed
    k, s, t = (np.asarray(10.0**scale, REAL[dtype]) for scale in scales)
    assert abs(weighted_cosine(k * K, s * c, t * d) - cosine) <= 2 * allowed


def test_a_cosine_does_not_overflow() -> None:
    """Where sums of the entries of K would."""
    K, c = np.full((4, 4), 2e38, "float32"), np.full(4, 1e30, "float32")
    assert weighted_cosine(K, c, -c) == pytest.approx(-1)


def test_a_direction_of_zero_has_no_cosine(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    one, zero = np.ones(3, "float32"), np.zeros(3, "float32")
    eye = np.eye(3, dtype="float32")
    with np.errstate(invalid="ignore"):
        for K, c, d in ((0 * eye, one, one), (eye, zero, one), (eye, one, zero)):
            found = weighted_cosine(*valued_backend.asarray((K, c, d)))
            assert np.isnan(valued_backend.numpy(found))


# --------------------------------------------------------------------------------- bad input

K = psd(np.random.default_rng(2), np.array([3.0, 2, 1, 0.5]), "float64")
SINGLE = np.diag([1.0, 0, 0, 0])
ONE = np.eye(4)

WRONG: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "not square": (ValueError, r"`K` has shape \(3, 4\); it must be square", {"K": K[:3]}),
    "vector": (ValueError, r"`K` has shape \(4,\); it needs at least 2 axes", {"K": K[0]}),
    "empty rows": (ValueError, r"`K` has shape \(0, 4\); an empty array", {"K": K[:0]}),
    "integers": (TypeError, r"`K` has dtype int64", {"K": np.eye(4, dtype=int)}),
    "list": (TypeError, r"`K` is a list; it must be one array", {"K": K.tolist()}),
    "not Hermitian": (ValueError, r"`K` is not Hermitian.*Pass \(K", {"K": K + 1e-6 * K[:, :1]}),
    "NaN": (ValueError, r"`K` contains NaN or Inf", {"K": np.where(ONE > 0, K, np.nan)}),
    "Inf": (ValueError, r"`K` contains NaN or Inf", {"K": np.where(ONE > 0, np.inf, K)}),
    "indefinite": (ValueError, r"`K` .*not positive definite", {"K": K - ONE}),
    "negative": (ValueError, r"`K` .*not positive definite", {"K": -K}),
    "negative diagonal": (ValueError, r"`K` .*not positive definite", {"K": SINGLE - 0.5 * ONE}),
    "minus one": (ValueError, r"`K` .*not positive definite", {"K": -ONE}),
    "zero diagonal": (ValueError, r"`K` .*not positive definite", {"K": 1 - ONE}),
    "one of a stack": (ValueError, r"`K` .*not positive definite", {"K": np.stack([K, -K])}),
    "damping 0": (ValueError, r"`damping` is 0.0; it must be positive", {"damping": 0}),
    "damping -1": (ValueError, r"`damping` is -1.0; it must be positive", {"damping": -1.0}),
    "damping NaN": (ValueError, r"`damping` is nan; it must be positive", {"damping": np.nan}),
    "damping Inf": (ValueError, r"`damping` is inf; it must be positive", {"damping": np.inf}),
    "damping None": (TypeError, r"`damping` is None; it must be a positive", {"damping": None}),
    "damping True": (TypeError, r"`damping` is True; it must be a positive", {"damping": True}),
    "damping complex": (TypeError, r"`damping` .* must be", {"damping": np.asarray(1j)}),
    "damping 0-d 0": (ValueError, r"`damping` holds values", {"damping": np.asarray(0.0)}),
    "damping 0-d NaN": (ValueError, r"`damping` holds values", {"damping": np.asarray(np.nan)}),
    "damping shape": (ValueError, r"`damping` has shape \(2,\).*`K`", {"damping": np.ones(2)}),
    "damping, each": (ValueError, r"`damping` has shape \(4,\).*`K`", {"damping": np.ones(4)}),
    "damping library": (TypeError, r"`damping` is a array", {"damping": strict_array(1.0)}),
}


@pytest.mark.parametrize("in_units_of_K", [True, False])
@pytest.mark.parametrize("wrong", list(WRONG))
def test_wrong_arguments(wrong: str, in_units_of_K: bool) -> None:
    """Of both kinds of damping; what is indefinite is so by more than the damping adds."""
    kind, says, changes = WRONG[wrong]
    arguments = {"K": K, "damping": 0.01, "relative": in_units_of_K, **changes}
    for normalized in (False, True):
        with np.errstate(invalid="ignore"), pytest.raises(kind, match=says) as caught:
            sample_weights(**arguments, normalized=normalized)
        assert caught.type is kind


def test_units_of_a_damping_are_said() -> None:
    with pytest.raises(ValueError, match=r"a fraction of \|K\|_F"):
        sample_weights(K, 0)
    with pytest.raises(ValueError, match="in units of eigenvalues of `K`"):
        sample_weights(K, 0, relative=False)


def test_gradients_of_zero(valued_backend: Backend) -> None:
    """1 / M if normalized; relative weights are infinite, absolute ones 1 / (M lambda)."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    zero = valued_backend.asarray(np.zeros((4, 4), "float32"))
    for options in ({}, {"relative": False}):
        v = sample_weights(zero, 0.1, normalized=True, **options)
        np.testing.assert_allclose(valued_backend.numpy(v), 0.25, rtol=1e-6)
    c = sample_weights(zero, 0.1, relative=False)
    np.testing.assert_allclose(valued_backend.numpy(c), 2.5, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`K` is zero, .* Pass normalized=True"):
        sample_weights(zero, 0.1)


def test_one_layer_of_zero_in_a_stack() -> None:
    stack = np.stack([K, 0 * K])
    v = sample_weights(stack, 0.1, normalized=True)
    np.testing.assert_allclose(v[1], 0.25, rtol=1e-15)
    np.testing.assert_allclose(v[0], sample_weights(K, 0.1, normalized=True), rtol=1e-13)
    with pytest.raises(ValueError, match="`K` is zero"):
        sample_weights(stack, 0.1)


WRONG_COSINES: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "K, not square": (ValueError, r"`K` has shape \(3, 4\); it must be square", {"K": K[:3]}),
    "K, integers": (TypeError, r"`K` has dtype int64", {"K": np.eye(4, dtype=int)}),
    "c, count": (ValueError, r"`c` has shape \(3,\); for this `K`.*\(4,\)", {"c": np.ones(3)}),
    "d, axes": (ValueError, r"`d` has shape \(4, 4\); for this `K`", {"d": K}),
    "d, number": (TypeError, r"`d` is a builtins.float", {"d": 1.0}),
    "c, integers": (TypeError, r"`c` has dtype int64", {"c": np.ones(4, int)}),
    "c, library": (TypeError, r"`c` is a array_api_strict array", {"c": strict_array(K[0])}),
    "K, NaN": (ValueError, r"`K` contains NaN or Inf", {"K": K * np.nan}),
    "c, NaN": (ValueError, r"`c` contains NaN or Inf", {"c": K[0] * np.nan}),
    "d, Inf": (ValueError, r"`d` contains NaN or Inf", {"d": K[0] + np.inf}),
}


@pytest.mark.parametrize("wrong", list(WRONG_COSINES))
def test_wrong_cosines(wrong: str) -> None:
    kind, says, changes = WRONG_COSINES[wrong]
    with pytest.raises(kind, match=says) as caught:
        weighted_cosine(**{"K": K, "c": np.ones(4), "d": K[1], **changes})
    assert caught.type is kind


def test_values_are_looked_at_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    real = valued_backend.dtypes[0]
    good, bad, nan = (valued_backend.asarray(x.astype(real)) for x in (K, K - ONE, K * np.nan))
    one, damping = (valued_backend.asarray(np.asarray(x, real)) for x in (np.ones(4), -0.1))
    with np.errstate(invalid="ignore"):
        for x in (bad, nan):
            with pytest.raises(ValueError, match="`K`"):
                sample_weights(x, 0.01)
            v = valued_backend.numpy(sample_weights(x, 0.01, check=False))
            assert np.all(np.isnan(v))
        with pytest.raises(ValueError, match="`damping`"):
            sample_weights(good, damping)
        with pytest.raises(ValueError, match="`K` contains NaN or Inf"):
            weighted_cosine(nan, one, one)
        found = weighted_cosine(nan, one, one, check=False)
        assert np.isnan(valued_backend.numpy(found))


@pytest.mark.parametrize("name", ["torch-meta", "jax", "dask"])
def test_nothing_is_raised_where_values_cannot_be_read(name: str) -> None:
    """An indefinite K has weights of NaN; one of zeros finite ones, so that U c is zero."""
    backend = BACKENDS[name]()

    def run(K: Any) -> Any:
        c = sample_weights(K, 0.01)
        return c, weighted_cosine(K, c, c)

    for bad in (K - ONE, K * np.nan, 0 * K):
        c, cosine = backend.call(run, backend.asarray(bad))
        if backend.has_values:
            with np.errstate(invalid="ignore"):
                assert np.all(np.isnan(backend.numpy(c)) == np.any(bad))
                assert np.isnan(backend.numpy(cosine))


def test_weights_beyond_the_range_are_refused() -> None:
    K = (1e-40 * (np.eye(4) + 1)).astype("float32")
    with pytest.raises(ValueError, match=r"beyond the range of float32; scale the gradients"):
        sample_weights(K, 0.001)
    assert np.isfinite(sample_weights(K, 0.001, normalized=True)).all()


def test_dampings_below_the_range_are_refused() -> None:
    """An array in float64 that is zero in float32."""
    with pytest.raises(ValueError, match="`damping` holds values that are not positive"):
        sample_weights(np.eye(4, dtype="float32"), np.asarray(1e-50))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_gradients_at_zero_are_finite(library: str) -> None:
    options = {"normalized": True, "check": False}
    if library == "torch":
        torch = pytest.importorskip("torch")
        K = torch.zeros((3, 3), requires_grad=True)
        sample_weights(K, 0.1, **options).sum().backward()
        assert bool(torch.isfinite(K.grad).all())
    else:
        jax = pytest.importorskip("jax")
        G = jax.grad(lambda K: sample_weights(K, 0.1, **options).sum())(np.zeros((3, 3), "f"))
        assert np.isfinite(G).all()


def test_a_cosine_is_at_most_one(rng: np.random.Generator) -> None:
    for _ in range(200):
        K, c = gram_of(rng, 5, 9, "float64"), rng.standard_normal(5)
        assert weighted_cosine(K, c, c) <= 1
        assert weighted_cosine(K, c, -c) >= -1


def test_one_flag_is_read_with_checks_and_none_without() -> None:
    k, c, damping = (strict_array(x, device=Device("device1")) for x in (K, K[0], 0.1))
    for check in (False, True):
        for options in ({}, {"relative": False, "normalized": True}):
            for full_output in (False, True):
                with counted_host_reads() as reads:
                    sample_weights(k, damping, check=check, full_output=full_output, **options)
                assert len(reads) == check
        with counted_host_reads() as reads:
            weighted_cosine(k, c, c, check=check)
        assert len(reads) == check


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gram_matrices_of_any_scale(valued_backend: Backend, scale: float) -> None:
    """Relative dampings, cosines and the check that K is Hermitian are the same at each."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    one = np.ones(4, "float32")
    given, scaled, ones, rows = valued_backend.asarray(
        [K.astype("float32"), (scale * K).astype("float32"), one, K[0].astype("float32")]
    )
    weights = valued_backend.numpy(sample_weights(given, 0.1, normalized=True))
    found = valued_backend.numpy(sample_weights(scaled, 0.1, normalized=True))
    np.testing.assert_allclose(found, weights, rtol=1e-5)
    cosines = [weighted_cosine(x, ones, rows) for x in (given, scaled)]
    np.testing.assert_allclose(*map(valued_backend.numpy, cosines), rtol=1e-5)
    wrong = valued_backend.asarray((scale * (K + np.triu(K, 1))).astype("float32"))
    with pytest.raises(ValueError, match="`K` is not Hermitian"):
        sample_weights(wrong, 0.1)


def test_gradients_whose_gram_matrix_is_subnormal(valued_backend: Backend) -> None:
    """Weights fit although the reciprocal of K's entries does not."""
    if valued_backend.name.startswith("jax"):
        pytest.skip("XLA takes subnormal numbers for zero")
    K = valued_backend.asarray(np.eye(3, dtype="float32") * np.float32(1e-39))
    weights = valued_backend.numpy(sample_weights(K, 1e3))
    shift = 1e3 * float(np.linalg.norm(np.eye(3) * np.float64(np.float32(1e-39))))
    expected = 1 / (np.float64(np.float32(1e-39)) + 3 * shift)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
