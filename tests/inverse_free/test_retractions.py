"""How a factor follows a tangent, and how far it may go: against functions of dense matrices."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import scipy.linalg
from backends import Backend
from dense_updates import (
    COLUMNS,
    NAMES,
    TOEPLITZ,
    after,
    member,
    preconditioner,
    project,
    samples,
    second_moment,
    structure,
    tangents,
    with_members,
)
from references import U, narrow, random_array
from spectra import REAL, needs, quick_compilation, relative  # noqa: F401

from ngdla import StepSizeWarning, inverse_free_init, structured_factor
from ngdla.inverse_free.retractions import (
    RETRACTIONS,
    Retraction,
    guard_step,
    largest_step,
    retract,
    stable_product,
)
from ngdla.structures import StructuredMatrix

D, OUT = 6, 5
GUARDED = ("series", "binomial", pytest.param("expm", marks=pytest.mark.slow))
in_every_structure = pytest.mark.parametrize("name", NAMES)


def tangent(rng: np.random.Generator, name: str, d: int = D) -> StructuredMatrix:
    """Return (Pi(N) - I) / 2 for a positive semi-definite N of trace d."""
    X = rng.standard_normal((2 * d, d)) / math.sqrt(2 * d)
    return 0.5 * structure(name, d).project(X.T @ X).add_identity(-1.0)


def series(b: np.ndarray, order: int) -> np.ndarray:
    return sum(np.linalg.matrix_power(-b, j) / math.factorial(j) for j in range(order + 1))


def binomial(b: np.ndarray, order: int) -> np.ndarray:
    """Return 1 - b + 3/2 b^2 - 5/2 b^3 + 35/8 b^4."""
    coefficients = [1, -1, 3 / 2, -5 / 2, 35 / 8][: order + 1]
    return sum(c * np.linalg.matrix_power(b, j) for j, c in enumerate(coefficients))


DEFINITIONS = {
    "series": series,
    "expm": lambda b, order: scipy.linalg.expm(-b),
    "binomial": binomial,
    "implicit": lambda b, order: np.linalg.inv(np.eye(len(b)) + b),
    "exact": lambda b, order: np.linalg.inv(scipy.linalg.sqrtm(np.eye(len(b)) + 2 * b)),
}


def test_retractions_are_those_of_the_type() -> None:
    assert get_args(Retraction) == tuple(RETRACTIONS)


@in_every_structure
@pytest.mark.parametrize("retraction", list(RETRACTIONS))
def test_definitions(name: str, retraction: str, rng: np.random.Generator) -> None:
    """K f(step m) to rounding; without an effect of the order but for both series."""
    K = structure(name, D).from_dense(member(rng, name, D))
    m = tangent(rng, name)
    for order in (1, 2, 4):
        expected = K.to_dense() @ DEFINITIONS[retraction](0.3 * m.to_dense(), order)
        found = retract(K, m, 0.3, retraction, order).to_dense()
        assert relative(found, expected) <= 50 * D * U["float64"]


@pytest.mark.thinned
@pytest.mark.parametrize("retraction", list(RETRACTIONS))
@pytest.mark.parametrize("name", ["dense", "block-diagonal", "hierarchical", "upper-toeplitz"])
def test_stacked_tangents_with_a_step_for_each(
    backend: Backend,
    dtype: str,
    name: str,
    retraction: str,
    rng: np.random.Generator,
) -> None:
    """A Hermitian N, real or complex, of two layers, on every library."""
    needs(backend, dtype)
    X = random_array(rng, (2, 2 * D, D), dtype) / np.array(math.sqrt(2 * D), REAL[dtype])
    N, steps = np.swapaxes(X, -1, -2) @ np.conj(X), np.array([0.2, 0.4], REAL[dtype])

    def run(N: Any, steps: Any) -> Any:
        s = structure(name, D)
        m = s.project(N, check=False).add_identity(-1.0).scaled(0.5)
        return retract(s.identity(D, like=N, batch=(2,)), m, steps, retraction, 2).to_dense()

    like = backend.asarray(N)
    found = backend.call(run, like, backend.asarray(steps))
    dense = [(project(name, narrow(n)) - np.eye(D)) / 2 for n in N]
    expected = [DEFINITIONS[retraction](float(t) * m, 2) for t, m in zip(steps, dense)]
    tolerance = 50 * D * U[dtype]
    backend.assert_matches(found, np.array(expected), like=like, dtype=dtype, tolerance=tolerance)


# ---------------------------------------------------------------------------- how far to go


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_largest_steps(momentum: float) -> None:
    """Below them, I + b or I + 2 b is positive, as m >= -1 / (2 (1 - momentum))."""
    largest = {name: largest_step(name, momentum) for name in RETRACTIONS}
    assert largest == {
        "series": None,
        "expm": None,
        "binomial": None,
        "implicit": 2 * (1 - momentum),
        "exact": 1 - momentum,
    }


def test_the_stable_products() -> None:
    """Of the step and the largest eigenvalue: 1 - b, the radius of convergence, and rounding."""
    products = {name: stable_product(name, "float32") for name in RETRACTIONS}
    assert products == {
        "series": 1.0,
        "expm": 1.0,
        "binomial": 0.5,
        "implicit": 2.0**14,
        "exact": 2.0**14,
    }
    assert stable_product("exact", "complex128") == 2.0**43


@in_every_structure
@pytest.mark.parametrize("retraction", list(RETRACTIONS))
def test_steps_are_shortened_only_as_far_as_needed(
    name: str, retraction: str, rng: np.random.Generator
) -> None:
    """To half of the stable range by a bound that is at most b^(1/16) too large for blocks of b."""
    m, limit = tangent(rng, name), stable_product(retraction, "float64")
    largest = np.max(np.abs(np.linalg.eigvals(m.to_dense())))
    loose = (1 + 1e-7) * D ** (1 / 16)
    for step in (0.01, 1.0, 100.0, 1e15):
        free = guard_step(m, step, retraction, safeguard=False)
        assert (free.step, free.kept) == (step, 1)
        assert free.bound >= largest * (1 - 1e-7)
        made = guard_step(m, step, retraction, safeguard=True)
        assert made.step * largest <= limit / 2 * (1 + 1e-7)
        assert made.step >= min(step, limit / 2 / (largest * loose))
        remembered = min(limit, 1) / 2  # of a step, however large a step may be made
        assert made.kept * step * largest <= remembered * (1 + 1e-7)
        assert made.kept >= min(1, remembered / (step * largest * loose))


def test_a_tangent_of_zero_needs_no_shortening() -> None:
    m = structure("dense", D).zeros(D, like=np.zeros(1))
    assert guard_step(m, 7.0, "series", safeguard=True) == (0, 7, 1)


@in_every_structure
@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_guarded_factors_stay_invertible(
    name: str, scale: float, momentum: float, rng: np.random.Generator
) -> None:
    """No eigenvalue of I - step m falls below 1/2, whatever the batch, the step and momentum."""
    state = with_members(rng, name, D, OUT)
    for rows in (1, 2, 30):
        a, g = scale * samples(rng, rows, D), scale * samples(rng, rows, OUT)
        state = after(state, a, g, damping=0.1, step_size=0.5, momentum=momentum)
        for m, step in zip(tangents(state), (state.report.step_K, state.report.step_C)):
            values = np.linalg.eigvals(np.eye(len(m)) - step * m)
            assert np.min(values.real) >= 0.5 - 1e-7


# ------------------------------------------------------------------ a badly scaled first batch
# U is some 3600 I: the first tangent has eigenvalues of 1800.


def from_far(
    name: str, retraction: str, steps: int, step_size: float, **options: Any
) -> tuple[float, float]:
    """Return the largest entry of K, and the distance of K K^T from the optimum."""
    rng = np.random.default_rng(11)
    a, g = 60 * rng.standard_normal((40, D)), rng.standard_normal((40, OUT))
    pair = structure(name, D), structure(name, OUT)
    state = inverse_free_init(D, OUT, structures=pair, like=a, momentum=False)
    options = {"damping": 0.1, "step_size": step_size, "rule": "ikfac", **options}
    with np.errstate(all="ignore"):
        state = after(state, a, g, steps, retraction=retraction, **options)
        K = structured_factor(second_moment(a), pair[0], 0.1).to_dense()
        return float(state.K.max_abs()), relative(preconditioner(state)[0], K @ K.T)


def slowness(name: str) -> float:
    """Dense columns and shifts are coupled: they take longer than the rate of the average."""
    return 1e3 if name in (*COLUMNS, *TOEPLITZ, "masked") else 1.0


@in_every_structure
@pytest.mark.parametrize("retraction", GUARDED)
def test_guarded_steps_converge(name: str, retraction: str) -> None:
    """As (1 - step)^n once the factor has shrunk by halves, which takes some six steps."""
    _, error = from_far(name, retraction, 120, 0.1)
    assert error <= slowness(name) * 10 * 0.9**110


@pytest.mark.slow
@in_every_structure
@pytest.mark.parametrize("retraction", GUARDED)
def test_guarded_small_steps_converge(name: str, retraction: str) -> None:
    _, error = from_far(name, retraction, 1200, 0.01)
    assert error <= slowness(name) * 10 * 0.99**1190


@in_every_structure
@pytest.mark.parametrize("retraction", ["series", "binomial"])
def test_guarded_small_steps_stay_finite(name: str, retraction: str) -> None:
    """And have left the start, of error 3600, far behind."""
    largest, error = from_far(name, retraction, 40, 0.01)
    assert largest <= 2
    assert error <= 10


@in_every_structure
@pytest.mark.parametrize("retraction", ["implicit", "exact"])
def test_bounded_retractions_need_no_guard(name: str, retraction: str) -> None:
    _, error = from_far(name, retraction, 70, 0.1, safeguard=False)
    assert error <= slowness(name) * 10 * 0.9**70


@in_every_structure
@pytest.mark.parametrize("step_size", [0.01, 0.1])
@pytest.mark.parametrize(("retraction", "order"), [("series", 1), ("series", 2), ("binomial", 2)])
def test_series_diverge_without_guard(
    name: str, step_size: float, retraction: str, order: int
) -> None:
    """Until the factor or its statistics overflow: that is what the guard is for."""
    options = {"order": order, "safeguard": False, "check": False}
    largest, _ = from_far(name, retraction, 40, step_size, **options)
    assert not largest <= 1e50  # or NaN


@in_every_structure
def test_the_exponential_collapses_without_guard(name: str) -> None:
    """K is next to zero after one step, and grows by exp(step / 2) in each."""
    with pytest.warns(StepSizeWarning, match="step_size"):
        largest, error = from_far(name, "expm", 1, 0.1, safeguard=False)
    assert largest <= 1e-30
    assert error == pytest.approx(1)
    options = {"safeguard": False, "check": False}
    assert from_far(name, "expm", 20, 0.1, **options)[1] == pytest.approx(1)
