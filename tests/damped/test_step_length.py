"""The damping of a path at which the step has a given length |S x|."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import U, columns, exact_lstsq, random_array, scores_with_spectrum, wide
from spectra import quick_compilation  # noqa: F401

import ngdla

SHAPES = [(6, 15), (15, 6), (7, 7)]


def at_step(S: Any, f: Any, delta: Any, null: Any = None) -> Any:
    return ngdla.damping_path(S, f, [1.0], null=null).at_step(delta)


def of_spectrum(g: Any, c: Any, delta: Any) -> Any:
    """Return the damping of a path of which only the spectrum is known."""
    return ngdla.DampingPath(g, g, g, g, g, g, c).at_step(delta)


def undamped(S: np.ndarray, f: np.ndarray) -> Any:
    """Return the length of the projection of f to the columns of S."""
    x = np.linalg.pinv(S.astype(np.complex128)) @ columns(f)
    return np.linalg.norm(S @ x, axis=0).reshape(f.shape[1:])


def lengths(S: np.ndarray, f: np.ndarray, dampings: np.ndarray) -> np.ndarray:
    """Return |S x| for one damping each right-hand side, in extended precision."""
    pairs = zip(columns(f).T, np.ravel(dampings))
    steps = [wide(S) @ exact_lstsq(S, y[:, None], float(damping)) for y, damping in pairs]
    return np.reshape([np.sqrt(np.sum(np.abs(step) ** 2)) for step in steps], np.shape(dampings))


@pytest.mark.thinned
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("kind", ["real", "paired", "complex", "null"])
@pytest.mark.parametrize("fraction", [1e-12, 0.02, 0.5, 0.99])
def test_the_step_has_the_length(
    backend: Backend,
    shape: tuple[int, int],
    k: int | None,
    kind: str,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    n, single = shape[0], backend.dtypes[-1] == "complex64"
    real, paired = ("float32", "complex64") if single else ("float64", "complex128")
    S = scores_with_spectrum(rng, *shape, paired if kind == "complex" else real, decades=1)
    f = random_array(rng, (n,) if k is None else (n, k), paired if kind == "paired" else real)
    options = {}
    reached = f
    if kind == "null":
        S, null = S - S.mean(axis=0), np.full(n, n**-0.5, dtype=real)
        reached = f - f.mean(axis=0)
        options = {"null": backend.asarray(null)}
    delta = np.asarray(fraction * undamped(S, reached), dtype=real)
    like = backend.asarray(S)
    path = backend.call(ngdla.damping_path, like, backend.asarray(f), [1.0], **options)
    damping = backend.call(of_spectrum, *path[-2:], backend.asarray(delta))
    backend.assert_kind(damping, like=like, dtype=real, shape=delta.shape)
    if backend.has_values:
        found = lengths(S, reached, backend.numpy(damping))
        np.testing.assert_allclose(found.astype(float), delta, rtol=400 * U[real])


def test_the_length_is_right_to_roundings(rng: np.random.Generator) -> None:
    """What the eigenvalues err by apart: sums over them have the length, at every damping."""
    for dtype in ("float32", "float64"):
        for decades in (0, 2, 6):
            values = 10.0 ** (-decades * rng.random(200))
            c = rng.standard_normal(200) * values ** rng.uniform(-0.5, 1)
            g, c = values.astype(dtype), np.abs(c).astype(dtype)
            whole = np.linalg.norm(c.astype(float))
            for fraction in (1e-30, 1e-9, 0.01, 0.3, 0.9, 0.999):
                delta = np.asarray(fraction * whole, dtype=dtype)
                damping = wide(of_spectrum(g, c, delta))
                length = np.linalg.norm((wide(g) * wide(c) / (wide(g) + damping)).astype(float))
                assert abs(length / float(delta) - 1) <= 16 * U[dtype]


def test_damping_falls_as_the_length_grows(rng: np.random.Generator) -> None:
    S, f = scores_with_spectrum(rng, 12, 40, "float64", decades=4), rng.standard_normal(12)
    path = ngdla.damping_path(S, f, [1.0])
    whole = np.linalg.norm(path.coefficients)
    fractions = np.concatenate([10.0 ** np.arange(-200, 0), 1 - 10.0 ** -np.arange(1.0, 13)])
    dampings = np.array([path.at_step(fraction * whole) for fraction in fractions])
    assert np.all(np.diff(dampings) < 0)
    assert np.all(dampings > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_and_small_steps_and_scores(dtype: str, rng: np.random.Generator) -> None:
    """(S, f, delta) -> (a S, b f, b delta) multiplies the damping by a^2, exactly for powers of 2.

    For short steps it is |S S^H f| / delta.
    """
    S, f = random_array(rng, (5, 9), dtype), random_array(rng, (5,), dtype)
    near, far = 0.3, 2.0 ** (-60 if dtype == "float32" else -400)
    a, b = (2.0**25, 2.0**-35) if dtype == "float32" else (2.0**150, 2.0**-400)
    for delta in (near, far):
        damping = at_step(S, f, delta)
        for left, right in ((a, 1), (1 / a, 1), (1, b), (1, 1 / b), (1 / a, b)):
            if delta == far and right == b:
                continue  # delta itself is too small
            scaled = at_step(S * S.dtype.type(left), f * f.dtype.type(right), delta * right)
            np.testing.assert_allclose(scaled / left**2, damping, rtol=32 * U[dtype])
    limit = np.linalg.norm(S.astype(float) @ (S.T.astype(float) @ f)) / far
    np.testing.assert_allclose(damping, limit, rtol=64 * U[dtype])


def test_a_spectrum_with_rounding_errors_has_no_more_length(rng: np.random.Generator) -> None:
    """What S does not reach counts for nothing, though its eigenvalues are not exactly 0."""
    for n, m in ((8, 20), (20, 8)):
        S = rng.standard_normal((n, 4)) @ rng.standard_normal((4, m))
        f = rng.standard_normal(n)
        whole = undamped(S, f)
        path = ngdla.damping_path(S, f, [1.0])
        np.testing.assert_allclose(np.linalg.norm(path.coefficients), whole, rtol=1e-12)
        with pytest.raises(ValueError, match="`delta` is"):
            path.at_step(1.001 * whole)
        np.testing.assert_allclose(
            lengths(S, f, path.at_step(0.9 * whole)).astype(float), 0.9 * whole, rtol=1e-11
        )


def test_null_vectors_are_not_reached(rng: np.random.Generator) -> None:
    S, null = rng.standard_normal((6, 20)), np.full(6, 6**-0.5)
    S, f = S - S.mean(axis=0), 10 + rng.standard_normal(6)
    path = ngdla.damping_path(S, f, [1.0], null=null)
    np.testing.assert_allclose(np.linalg.norm(path.coefficients), np.std(f) * 6**0.5, rtol=1e-12)
    with pytest.raises(ValueError, match="without damping"):
        path.at_step(np.linalg.norm(f))
    with pytest.raises(ValueError, match="without damping"):
        ngdla.damping_path(S, null, [1.0], null=null).at_step(1e-3)  # nothing at all is reached


@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 9, 5)], ids=str)
@pytest.mark.parametrize("k", [None, 2])
def test_batches_are_stacked_problems(
    shape: tuple[int, ...], k: int | None, rng: np.random.Generator
) -> None:
    S, f = rng.standard_normal(shape), rng.standard_normal(shape[:2] + (() if k is None else (k,)))
    delta = rng.uniform(0.1, 0.5, (3,) if k is None else (3, k))
    looped = [at_step(S[i], f[i], delta[i]) for i in range(3)]
    np.testing.assert_allclose(at_step(S, f, delta), looped, rtol=1e-12)
    same = [at_step(S[i], f[i], 0.2) for i in range(3)]
    np.testing.assert_allclose(at_step(S, f, 0.2), same, rtol=1e-12)
    np.testing.assert_allclose(at_step(S, f, np.asarray(0.2)), same, rtol=1e-12)


def test_blocks_and_streams(rng: np.random.Generator) -> None:
    for shape in ((6, 20), (20, 6)):
        S, f = rng.standard_normal(shape), rng.standard_normal(shape[0])
        expected = at_step(S, f, 0.5)
        blocks = [S[:, :2], S[:, 2:]]
        np.testing.assert_allclose(at_step(blocks, f, 0.5), expected, rtol=1e-12)
        stream: Any = ngdla.ColumnStream(blocks, S.shape, dtype="float64")
        if shape[0] > shape[1]:
            stream = ngdla.RowStream([S[:9], S[9:]], S.shape, dtype="float64")
        np.testing.assert_allclose(at_step(stream, f, 0.5), expected, rtol=1e-12)


def test_jit_and_vmap_of_steps(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    S, f = rng.standard_normal((5, 9)), rng.standard_normal(5)
    path = ngdla.damping_path(S, f, [1.0])
    deltas = np.array([0.1, 0.5, 100.0, -1.0, np.nan])
    on_jax = ngdla.DampingPath(*map(jax.numpy.asarray, path))
    found = jax.jit(jax.vmap(on_jax.at_step))(jax.numpy.asarray(deltas))
    np.testing.assert_array_equal(np.isnan(found), [False, False, True, True, True])
    np.testing.assert_allclose(found[:2], [path.at_step(x) for x in deltas[:2]], rtol=1e-12)


# ---------------------------------------------------------------------------- derivatives


def slopes(function: Callable[[Any], Any], x: np.ndarray, direction: np.ndarray) -> list[float]:
    """Return the first and second derivative along a line, by differences of high order."""
    h, values = 1e-3, {}
    for i in range(-3, 4):
        values[i] = float(function(x + i * h * direction))
    first = (45 * (values[1] - values[-1]) - 9 * (values[2] - values[-2])) / 60
    first += (values[3] - values[-3]) / 60
    second = 1.5 * (values[1] + values[-1]) - 0.15 * (values[2] + values[-2])
    second += (values[3] + values[-3]) / 90 - 49 / 18 * values[0]
    return [first / h, second / h**2]


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)], ids=str)
def test_derivatives(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """By S, f and delta, the second ones too."""
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    jax.config.update("jax_enable_x64", True)
    S, f = rng.standard_normal(shape), rng.standard_normal(shape[0])
    given = np.concatenate([S.ravel(), f, [0.4]])
    direction = rng.standard_normal(given.size) / 10

    def damping(x: Any) -> Any:
        return at_step(x[: S.size].reshape(shape), x[S.size : -1], x[-1])

    expected = slopes(damping, given, direction)

    def along(t: Any) -> Any:
        return damping(jax.numpy.asarray(given) + t * jax.numpy.asarray(direction))

    first = jax.jit(jax.grad(along))
    np.testing.assert_allclose(first(0.0), expected[0], rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(first))(0.0), expected[1], rtol=1e-5)
    x = torch.tensor(given, requires_grad=True)
    (slope,) = torch.autograd.grad(damping(x), x, create_graph=True)
    slope = slope @ torch.tensor(direction)
    np.testing.assert_allclose(float(slope.detach()), expected[0], rtol=1e-7)
    (second,) = torch.autograd.grad(slope, x)
    np.testing.assert_allclose(second.numpy() @ direction, expected[1], rtol=1e-5)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("delta", "error", "message"),
    [
        (0.0, ValueError, "`delta` is 0.0; it must be positive and finite"),
        (-1, ValueError, "`delta` is -1; it must be positive"),
        (float("nan"), ValueError, "`delta` is nan"),
        (float("inf"), ValueError, "`delta` is inf"),
        ("0.1", TypeError, "`delta` is '0.1'; it must be a real number"),
        (None, TypeError, "`delta` is None"),
        (True, TypeError, "`delta` is True"),
        (0.1j, TypeError, "`delta` is 0.1j"),
        ([0.1], TypeError, "`delta` is"),
        (np.asarray(0.1j), TypeError, "`delta` has dtype complex128; it must be real"),
        (np.asarray([0.1]), ValueError, r"`delta` has shape \(1,\); it must be a number"),
        (np.asarray(-0.1), ValueError, "`delta` holds values that are not positive"),
        (np.asarray(np.nan), ValueError, "`delta` holds values that are not positive"),
        (1e-320, ValueError, "below the smallest normal number"),
        (1e6, ValueError, r"`delta` is 1e\+06, but \|S x\| is 2.* without damping"),
    ],
    ids=str,
)
def test_bad_steps(delta: Any, error: type[Exception], message: str) -> None:
    path = ngdla.damping_path(np.eye(4, 9), np.ones(4), [0.1])
    with pytest.raises(error, match=message):
        path.at_step(delta)


def test_one_bad_step_of_many(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((4, 9)), np.stack([np.ones(4), np.full(4, 3.0)], axis=1)
    path = ngdla.damping_path(S, f, [0.1])
    path.at_step(np.array([1.9, 5.9]))
    with pytest.raises(ValueError, match=r"`delta` is 2.5, but \|S x\| is 2 without damping"):
        path.at_step(np.array([2.5, 5.9]))
    with pytest.raises(ValueError, match=r"`delta` is 6.5, but \|S x\| is 6 without damping"):
        path.at_step(np.array([1.5, 6.5]))
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="`delta` is a torch array but `f` is a numpy array"):
        path.at_step(torch.ones(2))
