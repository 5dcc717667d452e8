"""Smooth pseudo-inverses against their definition by singular vectors, and filters in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import H, sr_data
from spectra import quick_compilation  # noqa: F401

import ngdla

SHAPES = [(8, 20), (20, 8)]
MODES = ("real", "complex", "holomorphic")
CUTOFF = 0.03


def defined(
    S: np.ndarray, f: np.ndarray, damping: float, cutoff: float, x0: np.ndarray
) -> np.ndarray:
    """Return x0 + S^H U diag(phi) U^H (f - S x0)."""
    U, s, Vh = np.linalg.svd(S, full_matrices=False)
    g = s * s
    some = g > 1e-12 * g.max()
    safe = np.where(some, g, 1.0)
    phi = np.where(some, 1 / ((safe + damping) * (1 + (cutoff * g.max() / safe) ** 6)), 0.0)
    return x0 + H(Vh) @ (s * phi * (H(U) @ (f - S @ x0)))


def problem(rng: np.random.Generator, mode: str, dtype: str, shape: tuple[int, int]) -> Any:
    O, E = sr_data(rng, mode, dtype, *shape)
    O = O * np.logspace(0, -1.5, shape[1]).astype(O.real.dtype)
    E = E.real if mode == "real" else E
    p = rng.uniform(0.5, 1.5, shape[0]).astype(O.real.dtype)
    before = rng.standard_normal(shape[1]).astype(O.real.dtype)
    return O, E, p, before.astype(O.dtype) if mode == "holomorphic" else before


@pytest.mark.thinned
@pytest.mark.parametrize("damping", [0, 1e-2])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_definition(
    backend: Backend, mode: str, shape: tuple[int, int], damping: float, rng: np.random.Generator
) -> None:
    dtype = backend.dtypes[-1]
    if mode != "real" and not dtype.startswith("complex"):
        pytest.skip("no complex numbers")
    O, E, p, before = problem(rng, mode, dtype, shape)
    d, info = backend.call(
        lambda O, E, p, before: ngdla.stochastic_reconfiguration(
            *(O, E, damping),
            mode=mode,
            weights=p,
            previous=before,
            momentum=0.5,
            cutoff=CUTOFF,
            full_output=True,
        ),
        *map(backend.asarray, (O, E, p, before)),
    )
    S, f = (g(x, weights=p, mode=mode) for g, x in ((ngdla.scores, O), (ngdla.residuals, E)))
    reference = defined(S, f, damping, CUTOFF, 0.5 * before)
    u = float(np.finfo(dtype).eps)
    kind = dtype if mode == "holomorphic" else str(np.empty(0, dtype).real.dtype)
    like = backend.asarray(E)
    backend.assert_matches(d, reference, like=like, dtype=kind, tolerance=1e3 * u / CUTOFF)
    if backend.has_values:
        Sx = S @ reference
        known = {
            "step_norm": np.linalg.norm(Sx),
            "gain": np.vdot(f, Sx).real,
            "misfit_norm": np.linalg.norm(f - Sx),
        }
        for name, value in known.items():
            found = float(backend.numpy(getattr(info, name)))
            assert abs(found - value) <= 1e3 * u / CUTOFF * np.linalg.norm(f), name
        assert bool(backend.numpy(info.converged))
        assert float(backend.numpy(info.backward_error)) <= 1e2 * u
        assert np.isinf(float(backend.numpy(info.error_bound)))


def test_without_a_cutoff_to_speak_of_it_is_the_damped_step(rng: np.random.Generator) -> None:
    O, E, p, _ = problem(rng, "real", "float64", (8, 20))
    d = ngdla.stochastic_reconfiguration(O, E, 1e-2, weights=p, cutoff=1e-12)
    reference = ngdla.stochastic_reconfiguration(O, E, 1e-2, weights=p)
    np.testing.assert_allclose(d, reference, rtol=1e-10)


def test_both_filters_together_keep_the_product_of_what_each_keeps(
    rng: np.random.Generator,
) -> None:
    O, E, p, _ = problem(rng, "real", "float64", (20, 8))
    options = {"weights": p, "full_output": True}
    _, by_noise = ngdla.stochastic_reconfiguration(O, E, 1e-2, snr=1.0, **options)
    _, both = ngdla.stochastic_reconfiguration(O, E, 1e-2, snr=1.0, cutoff=CUTOFF, **options)
    g = by_noise.eigenvalues
    factor = 1 / (1 + (CUTOFF * g.max() / g) ** 6)
    np.testing.assert_allclose(both.kept, by_noise.kept * factor, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("filters", [{"snr": 1.0}, {"cutoff": 1e-6}], ids=str)
def test_single_precision_is_filtered_in_double(
    shape: tuple[int, int], filters: dict[str, float], rng: np.random.Generator
) -> None:
    O, E, _, _ = problem(rng, "real", "float32", shape)
    O = O * np.logspace(0, -2.5, shape[1], dtype="float32")
    d = ngdla.stochastic_reconfiguration(O, E, 1e-9, **filters)
    doubles = (x.astype("float64") for x in (O, E))
    exact = ngdla.stochastic_reconfiguration(*doubles, 1e-9, **filters)
    native = ngdla.stochastic_reconfiguration(O, E, 1e-9, precision="native", **filters)
    error, other = (np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (d, native))
    assert d.dtype == np.float32
    assert error <= 1e-4  # by the rounding of scores, divided by small singular values
    assert error < other


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("filters", [{"snr": 1.0}, {"cutoff": 1e-3}], ids=str)
def test_single_precision_on_every_library(
    valued_backend: Backend,
    shape: tuple[int, int],
    filters: dict[str, float],
    rng: np.random.Generator,
) -> None:
    O, E, p, _ = problem(rng, "real", "float32", shape)
    expected = ngdla.stochastic_reconfiguration(O, E, 1e-2, weights=p, **filters)
    O, E, p = valued_backend.asarray((O, E, p))
    d = valued_backend.numpy(ngdla.stochastic_reconfiguration(O, E, 1e-2, weights=p, **filters))
    assert d.dtype == np.float32
    error = np.linalg.norm(d - expected) / np.linalg.norm(expected)
    assert error <= 1e4 * np.finfo("float32").eps  # |S|^2 / damping


def test_gradients_are_finite_and_right(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    O, E, _, _ = problem(rng, "real", "float64", (8, 20))

    def loss(E: Any) -> Any:
        d = ngdla.stochastic_reconfiguration(jax.numpy.asarray(O), E, 1e-2, cutoff=CUTOFF)
        return (d * d).sum()

    with jax.enable_x64(True):
        E = jax.numpy.asarray(E)
        slope = jax.grad(loss)(E)
        h, e = 1e-6, jax.numpy.eye(8)[3]
        difference = (loss(E + h * e) - loss(E - h * e)) / (2 * h)
    assert abs(float(slope[3] - difference)) <= 1e-6 * float(jax.numpy.linalg.norm(slope))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "negative cutoff": ({"cutoff": -1.0}, ValueError, "`cutoff` is -1.0; it must be finite"),
    "cutoff of nan": ({"cutoff": float("nan")}, ValueError, "`cutoff` is nan"),
    "cutoff in words": ({"cutoff": "small"}, TypeError, "`cutoff` is 'small'"),
    "true": ({"cutoff": True}, TypeError, "`cutoff` is True"),
    "method": ({"cutoff": 0.1, "method": "cg"}, ValueError, "`method` is 'cg'; with `cutoff`"),
    "refine": ({"cutoff": 0.1, "refine": 1}, ValueError, "filtered by `cutoff` are not refined"),
    "precision": ({"cutoff": 0.1, "precision": "mixed"}, ValueError, "`precision` is 'mixed'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_cutoffs(case: str) -> None:
    options, error, says = WRONG[case]
    with pytest.raises(error, match=says):
        ngdla.stochastic_reconfiguration(np.eye(3, 5), np.arange(3.0), 0.1, **options)


@pytest.mark.parametrize("damping", [-1e-3, float("nan"), "0", True, np.array(-1.0)])
def test_damping_may_be_zero_but_nothing_less(damping: Any) -> None:
    O, E = np.eye(3, 5), np.arange(3.0)
    with pytest.raises((ValueError, TypeError), match="`damping`"):
        ngdla.stochastic_reconfiguration(O, E, damping, cutoff=0.1)
    for zero in (0, 0.0, np.array(0.0)):
        assert np.all(np.isfinite(ngdla.stochastic_reconfiguration(O, E, zero, cutoff=0.1)))
    with pytest.raises(ValueError, match="`damping`"):
        ngdla.stochastic_reconfiguration(O, E, 0.0)


def test_with_a_cutoff_a_damping_may_be_zero_but_not_negative(rng: np.random.Generator) -> None:
    O, E = rng.standard_normal((6, 9)), rng.standard_normal(6)
    for negative in (-1, -1e-9):
        with pytest.raises(ValueError, match=r"`damping` is -1.*with `cutoff` .* positive or 0"):
            ngdla.stochastic_reconfiguration(O, E, negative, cutoff=0.1)
