"""Exponentials, logarithms and roots of matrices against SciPy and against their equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
from backends import Backend, inside
from references import H, U, narrow, random_array, wide
from spectra import (
    REAL,
    needs,
    norm,
    psd,
    quick_compilation,  # noqa: F401
    refused,
    relative,
)

from ngdla import expm, expm_series, inv_sqrtm_newton_schulz, inv_sqrtm_psd, logm_psd, sqrtm_psd
from ngdla.matrix_functions.exponential import _remainder_bound
from ngdla.matrix_functions.spectral_radius import spectral_radius_bound

D = 6
OF_PSD: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray], np.ndarray]]] = {
    "logm_psd": (logm_psd, np.log),
    "sqrtm_psd": (sqrtm_psd, np.sqrt),
    "inv_sqrtm_psd": (inv_sqrtm_psd, lambda w: w**-0.5),
    "inv_sqrtm_newton_schulz": (
        lambda A, **o: inv_sqrtm_newton_schulz(A, 20, **o),
        lambda w: w**-0.5,
    ),
}


def spectral(
    rng: np.random.Generator, values: np.ndarray, f: Callable[[np.ndarray], np.ndarray], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a Hermitian matrix of these eigenvalues, and its function."""
    wider = "complex128" if dtype.startswith("complex") else "float64"
    Q, _ = np.linalg.qr(random_array(rng, (len(values), len(values)), wider))
    A, B = ((Q * w) @ H(Q) for w in (values, f(values)))
    return ((A + H(A)) / 2).astype(dtype), B


@pytest.mark.thinned
@pytest.mark.parametrize("name", list(OF_PSD))
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_functions_of_positive_matrices(
    backend: Backend, dtype: str, name: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """By eigenvectors that are known; each is relative to u times the condition, 8."""
    needs(backend, dtype)
    function, f = OF_PSD[name]
    pairs = [spectral(rng, np.logspace(0, 0.9, D) * 2**i, f, dtype) for i in range(2)]
    A, exact = (np.stack(x) if batch else x[0] for x in zip(*pairs))
    like = backend.asarray(A)
    found = backend.call(function, like)
    tolerance = 10 * D * U[dtype] * 8
    backend.assert_matches(found, exact, like=like, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("decades", [0, 4, 9])
def test_equations_of_positive_matrices(dtype: str, decades: int, rng: np.random.Generator) -> None:
    """Of condition up to 1e9: squares and exponentials give A back."""
    A, u = psd(rng, np.logspace(0, -decades, D), dtype), U[dtype]
    condition = 10.0**decades
    root = sqrtm_psd(A)
    assert relative(root @ root, A) <= 10 * D * u
    assert relative(expm(logm_psd(A)), A) <= 10 * D * u * condition
    inverse = inv_sqrtm_psd(A)
    assert norm(wide(inverse) @ A @ inverse - np.eye(D)) <= 10 * D * u * condition
    assert norm(inverse @ root - np.eye(D)) <= 10 * D * u * condition
    for x in (root, inverse, logm_psd(A)):
        assert relative(H(x), x) <= 10 * u
        function = {id(root): scipy.linalg.sqrtm}.get(id(x))
        assert function is None or relative(x, function(A)) <= 10 * D * u * condition**0.5


def test_roots_of_semi_definite_matrices(dtype: str, rng: np.random.Generator) -> None:
    """Eigenvalues that are 0, or negative by rounding, count as 0."""
    A = psd(rng, np.array([3.0, 1.0, 0.0, 0.0]), dtype)
    root = sqrtm_psd(A)
    assert relative(root @ root, A) <= 40 * U[dtype]
    assert not np.any(sqrtm_psd(np.zeros((3, 3), dtype)))


@pytest.mark.thinned
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_exponentials(
    backend: Backend, dtype: str, batch: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Of matrices that are not normal, and the series of each order."""
    needs(backend, dtype)
    A = random_array(rng, (*batch, D, D), dtype) / D**0.5
    like = backend.asarray(A)

    def run(A: Any) -> list[Any]:
        sums = [expm_series(A, order, check=False) for order in (0, 1, 3)]
        return [expm(A), *sums, *expm_series(A, 20, check=False, full_output=True)]

    *found, bound = backend.call(run, like)
    exact = [scipy.linalg.expm(narrow(A)), *(series(A, p) for p in (0, 1, 3, 20))]
    for x, reference in zip(found, exact):
        backend.assert_matches(
            x, reference, like=like, dtype=dtype, tolerance=20 * D * U[dtype] * math.e
        )
    backend.assert_kind(bound, like=like, dtype=REAL[dtype], shape=batch)


@pytest.mark.parametrize("largest", [1.0, 4.0, 8.0])
def test_accuracy_of_exponentials(largest: float, dtype: str, rng: np.random.Generator) -> None:
    """Of Hermitian matrices, whose exponential is well-conditioned: to some |A| u."""
    A, exact = spectral(rng, np.linspace(0.5, largest, D), np.exp, dtype)
    assert relative(expm(A), exact) <= 10 * D * max(largest, 1.0) * U[dtype]


@pytest.mark.parametrize("size", [1e-3, 0.02, 0.05, 0.5])
def test_accuracy_of_small_exponentials(
    valued_backend: Backend, size: float, rng: np.random.Generator
) -> None:
    """To roundings; torch.linalg.matrix_exp takes too few terms below 0.06."""
    needs(valued_backend, "float64")
    A = rng.standard_normal((D, D))
    A *= size / norm(A)
    found = valued_backend.numpy(expm(valued_backend.asarray(A)))
    assert relative(found, series(A, 20)) <= 10 * D * U["float64"]


def series(A: np.ndarray, order: int) -> np.ndarray:
    total = term = wide(np.zeros_like(A) + np.eye(A.shape[-1]))
    for j in range(1, order + 1):
        term = term @ wide(A) / j
        total = total + term
    return narrow(total)


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_the_bound_on_the_remainder(size: float, order: int, rng: np.random.Generator) -> None:
    """It is one, at most 1e3 times too large for |A| <= 1, and sharp for projectors."""
    general, projector = random_array(rng, (3, 3), "float64"), np.ones((3, 3)) / 3
    for A in (general, general + general.T, projector):
        A = size * A / norm(A)
        value, bound = expm_series(A, order, full_output=True)
        rest = norm(wide(scipy.linalg.expm(A)) - value)
        assert rest <= bound + 1e-14 * norm(value) + 1e-12 * math.exp(size)
        if size <= 1 and rest > 1e-12:
            assert bound <= 1e3 * rest
        if size <= 1 and A[0, 0] == A[0, 1] and rest > 1e-12:
            assert bound <= (1.3 if order else 2.5) * rest


def test_the_bound_is_inf_where_it_overflows() -> None:
    A = np.full((1, 1), 200.0, "float32")
    assert expm_series(A, 2, full_output=True).remainder_bound == np.inf


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("decades", [0, 1, 4, 8])
def test_newton_schulz(dtype: str, decades: int, rng: np.random.Generator) -> None:
    """As many iterations as documented; the error is u |A|_F |A^-1|, and the residual is small."""
    values = np.logspace(0, -decades, D)
    A, exact = spectral(rng, values, lambda w: w**-0.5, dtype)
    c = norm(values) / values[-1]
    Z, residual = inv_sqrtm_newton_schulz(A, int(1.7 * np.log2(c) + 6), full_output=True)
    assert relative(Z, exact) <= 20 * D * U[dtype] * c
    assert residual <= 50 * D * U[dtype] * c**0.5


def test_residuals_of_newton_schulz(rng: np.random.Generator) -> None:
    """They fall quadratically near the end, and are those of Y = A Z."""
    A = psd(rng, np.linspace(1, 3, D), "float64")
    results = [inv_sqrtm_newton_schulz(A, i, full_output=True) for i in range(1, 9)]
    residuals = [float(result.residual_norm) for result in results]
    for Z, residual in results:
        expected = norm(np.eye(D) - A @ Z @ Z) / D**0.5
        assert residual == pytest.approx(expected, rel=1e-6, abs=1e-13)
    for before, after in pairwise(residuals):
        assert after <= before**2 * D**0.5 + 1e-14


@pytest.mark.parametrize("name", [*OF_PSD, "expm", "expm_series"])
def test_stacked_is_looped(name: str, dtype: str, rng: np.random.Generator) -> None:
    functions = {"expm": expm, "expm_series": lambda A: expm_series(A, 4)}
    function = functions[name] if name in functions else OF_PSD[name][0]
    A = np.stack([psd(rng, np.arange(1.0, 5) * scale, dtype) for scale in (0.1, 1, 2, 0.5)])
    stacked = function(A.reshape(2, 2, 4, 4))
    assert stacked.dtype == dtype
    for i, one in enumerate(map(function, A)):
        assert relative(stacked[i // 2, i % 2], one) <= 1e2 * U[dtype]


def test_half_precision_is_widened() -> None:
    A = np.eye(3, dtype="float16")
    for function, _ in OF_PSD.values():
        assert function(A).dtype == "float32"
    assert expm(A).dtype == expm_series(A, 2).dtype == "float32"


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_bounds_on_the_spectral_radius(scale: float, rng: np.random.Generator) -> None:
    """Above it; for Hermitian matrices of rank r at most r^(1/16) times, unless less is enough."""
    A = scale * random_array(rng, (4, 5, 5), "float64")
    radius = np.max(np.abs(np.linalg.eigvals(A)), axis=-1)
    assert np.all(spectral_radius_bound(A) >= radius * (1 - 1e-13))
    A = A + H(A)
    radius = np.max(np.abs(np.linalg.eigvalsh(A)), axis=-1)
    for bound in (spectral_radius_bound(A), spectral_radius_bound(A, sufficient=0.5 * radius)):
        assert np.all(bound >= radius * (1 - 1e-13))
        assert np.all(bound <= 5 ** (1 / 16) * radius * (1 + 1e-13))
    enough = 5**0.5 * radius * (1 + 1e-13)  # what the Frobenius norm can be
    assert np.all(spectral_radius_bound(A, sufficient=enough) <= enough)
    v = random_array(rng, (5, 1), "complex128")
    assert spectral_radius_bound(v @ H(v)) == pytest.approx(norm(v) ** 2)
    for nilpotent in (np.zeros((5, 5)), np.eye(5, k=1)):
        assert spectral_radius_bound(nilpotent) == 0


@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize("name", [*OF_PSD, "expm", "expm_series"])
def test_gradients(library: str, name: str, rng: np.random.Generator) -> None:
    """Of tr(C f(A)) in a Hermitian direction, against central differences of NumPy."""
    pytest.importorskip(library)
    functions = {"expm": expm, "expm_series": lambda A: expm_series(A, 4)}
    function = functions[name] if name in functions else OF_PSD[name][0]
    A, E = psd(rng, np.arange(1.0, 5) / 2, "float64"), psd(rng, np.arange(4.0), "float64")
    C = random_array(rng, (4, 4), "float64")
    gradient = gradient_of(lambda A, C: (C * function(A)).sum(), library, A, C)
    h = 1e-5
    slope = np.sum(C * (function(A + h * E) - function(A - h * E))) / (2 * h)
    assert np.sum(gradient * E) == pytest.approx(slope, rel=1e-7, abs=1e-8)


def gradient_of(loss: Callable[..., Any], library: str, A: np.ndarray, C: np.ndarray) -> Any:
    if library == "torch":
        import torch

        leaf = torch.asarray(A).requires_grad_()
        loss(leaf, torch.asarray(C)).backward()
        return leaf.grad.numpy()
    import jax

    jax.config.update("jax_enable_x64", True)
    return np.asarray(jax.jit(jax.grad(loss))(jax.numpy.asarray(A), jax.numpy.asarray(C)))


SPECTRA = {
    "equal": (2.0, 2.0, 2.0, 1.0, 1.0, 1.0),
    "nearly equal": (2.0, 2.0 + 1e-14, 2.0 - 1e-14, 1.0, 1.0 + 1e-14, 1.0),
    "far apart": (10.0, 10.0, 1.0, 0.5, 0.2, 0.1),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", OF_PSD)
@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_derivatives_at_any_gap(
    library: str, name: str, spectrum: str, rng: np.random.Generator
) -> None:
    """Of b^T f(A) c, first and second, in a Hermitian direction, against fifty digits."""
    A, E = psd(rng, np.array(SPECTRA[spectrum]), "float64"), psd(rng, np.arange(6.0), "float64")
    b, c = rng.standard_normal((2, 6))
    function = OF_PSD[name][0]
    exact = exact_slopes(name, A, E, b, c)
    tolerance = 2e3 * U["float64"] * max(SPECTRA[spectrum]) / min(SPECTRA[spectrum])
    slopes = slopes_of(
        library, lambda A, E, b, c: lambda t: b @ function(A + t * E) @ c, A, E, b, c
    )
    np.testing.assert_allclose(
        slopes, exact, rtol=tolerance, atol=tolerance * np.max(np.abs(exact))
    )


def exact_slopes(name: str, A: np.ndarray, E: np.ndarray, b: Any, c: Any) -> list[float]:
    """Return the first and second derivative, by differences in fifty digits."""
    inverse_root = lambda x: 1 / mpmath.sqrt(x)  # noqa: E731
    scalar = {"sqrtm_psd": mpmath.sqrt, "logm_psd": mpmath.log}.get(name, inverse_root)
    with mpmath.workdps(60):
        h, (M, D) = mpmath.mpf(10) ** -20, (mpmath.matrix(x.tolist()) for x in (A, E))

        def value(t: Any) -> Any:
            w, Q = mpmath.eigsy(M + t * D)
            y = [sum(float(b[i]) * Q[i, k] for i in range(6)) for k in range(6)]
            z = [sum(float(c[i]) * Q[i, k] for i in range(6)) for k in range(6)]
            return sum(scalar(w[k]) * y[k] * z[k] for k in range(6))

        behind, here, ahead = value(-h), value(mpmath.mpf(0)), value(h)
        return [float((ahead - behind) / (2 * h)), float((ahead + behind - 2 * here) / h**2)]


def slopes_of(library: str, make: Callable[..., Any], *arrays: np.ndarray) -> list[float]:
    """Return the first and second derivative at 0 of a function of one number."""
    pytest.importorskip(library)
    if library == "torch":
        import torch

        function = make(*map(torch.asarray, arrays))
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(function(t), t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
        return [first.item(), second.item()]
    import jax

    jax.config.update("jax_enable_x64", True)
    function = make(*map(jax.numpy.asarray, arrays))
    slope = jax.grad(function)
    forward = jax.jit(lambda t: jax.jvp(function, (t,), (1.0,))[1])(0.0)
    assert forward == pytest.approx(float(jax.jit(slope)(0.0)), rel=1e-9)
    return [float(forward), float(jax.jit(jax.grad(slope))(0.0))]


def test_the_root_of_zero_has_no_derivative(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    A = torch.asarray(psd(rng, np.array([2.0, 1.0, 0.0, 0.0]), "float64")).requires_grad_()
    X = sqrtm_psd(A)
    assert torch.all(torch.isfinite(X))
    assert torch.all(torch.isnan(torch.autograd.grad(X.sum(), A)[0]))


# ------------------------------------------------------------------------------- bad input

A = psd(np.random.default_rng(2), np.arange(1.0, 5), "float64")
SINGULAR = np.diag([1.0, 1.0, 0.0])
ALL: dict[str, Callable[..., Any]] = {
    "expm": expm,
    "expm_series": lambda A: expm_series(A, 3),
    **{name: function for name, (function, _) in OF_PSD.items()},
}
WRONG_ARRAYS: dict[str, tuple[type[Exception], Any]] = {
    "not square": (ValueError, A[:2]),
    "vector": (ValueError, A[0]),
    "empty": (ValueError, A[:0, :0]),
    "list": (TypeError, [A]),
    "integers": (TypeError, A.astype(int)),
    "sparse": (TypeError, scipy.sparse.csr_array(A)),
    "NaN": (ValueError, np.where(A > 0, np.nan, A)),
    "Inf": (ValueError, np.where(A > 0, np.inf, A)),
}


@pytest.mark.parametrize("wrong", list(WRONG_ARRAYS))
@pytest.mark.parametrize("name", list(ALL))
def test_wrong_arrays(name: str, wrong: str) -> None:
    kind, array = WRONG_ARRAYS[wrong]
    refused(kind, "A", lambda: ALL[name](array))


WRONG: dict[str, tuple[str, type[Exception], Callable[[], Any]]] = {
    "order -1": ("order", ValueError, lambda: expm_series(A, -1)),
    "order 2.0": ("order", TypeError, lambda: expm_series(A, 2.0)),  # type: ignore[arg-type]
    "order True": ("order", TypeError, lambda: expm_series(A, True)),
    "iterations 0": ("iterations", ValueError, lambda: inv_sqrtm_newton_schulz(A, 0)),
    "iterations -1": ("iterations", ValueError, lambda: inv_sqrtm_newton_schulz(A, -1)),
    "iterations 2.0": ("iterations", TypeError, lambda: inv_sqrtm_newton_schulz(A, 2.0)),  # type: ignore[arg-type]
    "too few": ("iterations", ValueError, lambda: inv_sqrtm_newton_schulz(A, 1)),
    "indefinite": ("A", ValueError, lambda: inv_sqrtm_newton_schulz(-A, 20)),
    "singular": ("A", ValueError, lambda: inv_sqrtm_newton_schulz(SINGULAR, 30)),
    "log of a singular matrix": ("A", ValueError, lambda: logm_psd(SINGULAR)),
    "log of rounding": ("A", ValueError, lambda: logm_psd(np.diag([1.0, 1e-17]))),
    "root of a negative matrix": ("A", ValueError, lambda: sqrtm_psd(-A)),
    "inverse root": ("A", ValueError, lambda: inv_sqrtm_psd(np.diag([1.0, -1e-3]))),
    "one of a batch": ("A", ValueError, lambda: inv_sqrtm_psd(np.stack([A, -A]))),
    "overflow": ("A", ValueError, lambda: expm(800.0 * A)),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_wrong_values(wrong: str) -> None:
    name, kind, call = WRONG[wrong]
    refused(kind, name, call)


def test_unchecked_values() -> None:
    """Nothing is raised: what has no function is NaN; a residual says what has not converged."""
    with np.errstate(invalid="ignore", divide="ignore"):
        assert np.isnan(logm_psd(-A, check=False)).any()
        assert np.isnan(expm_series(np.full((2, 2), np.nan), 2, check=False)).all()
    assert inv_sqrtm_newton_schulz(A, 1, full_output=True).residual_norm > 0.1
    assert np.isfinite(inv_sqrtm_newton_schulz(A, 1, check=False)).all()


# ------------------------------------------------------------------------------- any scale

RANGES = {"float32": (1e20, 1e-20, 1e36, 1e-36), "float64": (1e200, 1e-200)}


def test_newton_schulz_at_any_scale(backend: Backend, rng: np.random.Generator) -> None:
    """A^(-1/2) scales, and what is singular is refused by name, or NaN where nothing is read."""
    dtype = backend.dtypes[0]
    A, exact = spectral(rng, np.linspace(1, 3, 4), lambda w: w**-0.5, "float64")
    scales = np.array([*RANGES[dtype], 1.0])[:, None, None]
    like = backend.asarray((scales * A).astype(dtype))
    found = backend.call(inv_sqrtm_newton_schulz, like, 12)
    assert backend.has_values is False or np.all(np.isfinite(backend.numpy(found)))
    if backend.has_values:
        np.testing.assert_allclose(
            backend.numpy(found) * scales**0.5, np.broadcast_to(exact, found.shape), atol=1e-5
        )
    singular = backend.asarray(np.stack([np.diag([1.0, 1, 0]), np.eye(3)]).astype(dtype))
    if backend.eager:
        with pytest.raises(ValueError, match="`A` is singular, or not positive definite, to the"):
            backend.call(inv_sqrtm_newton_schulz, singular, 12)
    elif backend.has_values:
        wrong, right = backend.numpy(backend.call(inv_sqrtm_newton_schulz, singular, 12))
        assert np.all(np.isnan(wrong))
        np.testing.assert_allclose(right, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 12])
def test_newton_schulz_says_whether_iterations_help(iterations: int) -> None:
    """They do as long as the condition is below 1 / u, though the residual does not fall yet."""
    A = np.diag([1.0, 1.0, 1e-9])
    with pytest.raises(ValueError, match="raise `iterations`, up to 96 are of use in float64"):
        inv_sqrtm_newton_schulz(A, iterations)
    Z = inv_sqrtm_newton_schulz(A, 96)
    assert relative(Z, np.diag([1.0, 1.0, 1e-9**-0.5])) <= 1e-6
    for wrong in (np.diag([1.0, 1e-40]), -A, np.zeros((2, 2)), np.diag([1.0] * 400 + [0.0])):
        with pytest.raises(ValueError, match=r"precision of float64: .* and more do not help"):
            inv_sqrtm_newton_schulz(wrong, iterations)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("order", [0, 200])
def test_remainders_at_any_scale(backend: Backend, order: int) -> None:
    """Bounds are Inf or 0 only where they are beyond the dtype; 100^100 / 100! alone would be."""
    sizes, p = np.array([0.0, 1e-30, 1.0, 80.0, 100.0, 1e30]), order + 1
    like = backend.asarray(sizes.astype("float32")[:, None, None])
    found = backend.call(inside(_remainder_bound), like, order)
    if not backend.has_values:
        return
    with np.errstate(all="ignore"):
        terms = p * np.log(sizes) - math.lgamma(p + 1) - np.log1p(-sizes / (p + 1))
        bound = np.exp(np.where(sizes < p + 1, np.fmin(terms, sizes), sizes)).astype("float32")
    np.testing.assert_allclose(backend.numpy(found), bound, rtol=1e-2)


@pytest.mark.parametrize(("size", "dtype"), [(45.0, "float32"), (356.0, "float64")])
def test_results_whose_squares_are_beyond_the_dtype(size: float, dtype: str) -> None:
    """They are not refused; nor are series, whose powers are as large as their sum."""
    A = size * np.eye(2, dtype=dtype)
    for found in (expm(A), expm_series(A, 2000)):
        assert relative(found / np.exp(size), np.eye(2)) <= 100 * size * U[dtype]
    large = 1e30 * np.eye(2, dtype=dtype)
    np.testing.assert_allclose(expm_series(large, 1), large)


def test_which_matrix_of_a_batch_is_not_finite(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    A = np.stack([np.eye(3, dtype="float32")] * 4).reshape(2, 2, 3, 3)
    A[1, 0, 0, 2] = np.nan
    like = valued_backend.asarray(A)
    for name in ("expm", "expm_series", "inv_sqrtm_newton_schulz"):
        with pytest.raises(ValueError, match=r"beyond its dtype, in matrix \(1, 0\) of the batch;"):
            ALL[name](like)
        with pytest.raises(ValueError, match="beyond its dtype; pass"):
            ALL[name](valued_backend.asarray(A[1, 0]))
    with pytest.raises(ValueError, match="in matrix 1 of the batch"):
        expm(
            valued_backend.asarray(
                np.array([1, 1e3], "float32")[:, None, None] * np.eye(2, dtype="float32")
            )
        )
