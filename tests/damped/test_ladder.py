"""The ladder: how often a problem is factored, and how often the device is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from references import exact_lstsq, scores_with_spectrum

import ngdla
from ngdla.damped import inverses, ladder

SHAPE = (20, 60)


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the dtypes in which problems are factored from now on."""
    dtypes: list[str] = []
    factorise = ladder.factorise

    def counted(problem: Any, *args: Any, **options: Any) -> Any:
        dtypes.append(problem.plan.factor)
        return factorise(problem, *args, **options)

    monkeypatch.setattr(ladder, "factorise", counted)
    return dtypes


@pytest.mark.parametrize(
    ("damping", "precision", "expected"),
    [
        (1e-2, "auto", ["float32"]),
        (1e-6, "auto", ["float32"]),  # which preconditions residuals in double precision
        (1e-9, "auto", ["float32", "float64"]),
        (1e-9, "float64", ["float64"]),
        (1e-3, "native", ["float32"]),
    ],
)
def test_a_problem_is_factored_as_often_as_its_damping_asks(
    damping: float, precision: str, expected: list[str], factored: list[str], rng: Any
) -> None:
    S = scores_with_spectrum(rng, *SHAPE, "float32", 5)
    f = rng.standard_normal(SHAPE[0]).astype("float32")
    lam = damping * float(np.linalg.norm(S) ** 2)
    calls: list[Callable[[], Any]] = [
        lambda: ngdla.damped_lstsq(S, f, lam, precision=precision),
        lambda: ngdla.damped_factor(S, lam, precision=precision).lstsq(f),
    ]
    exact = exact_lstsq(S, f[:, None], lam)[:, 0]
    for call in calls:
        factored.clear()
        if precision == "auto" and damping < 1e-4:
            with pytest.warns(ngdla.PrecisionWarning, match="too small for float32 alone"):
                x = call()
        else:
            x = call()
        assert factored == expected
        assert np.linalg.norm(x - exact.astype("float64")) <= 1e-3 * np.linalg.norm(
            exact.astype("float64")
        )


def test_paths_and_filtered_steps_climb_nowhere(factored: list[str], rng: Any) -> None:
    """They are of one precision, and still go by the one door through which factors come."""
    O, E = rng.standard_normal((8, 20)), rng.standard_normal(8)
    ngdla.damping_path(O, E, [1e-3, 1.0])
    ngdla.stochastic_reconfiguration(O, E, 1e-3, snr=2.0)
    assert factored == ["float64", "float64"]


def test_another_damping_needs_no_factorisation(factored: list[str], rng: Any) -> None:
    S = rng.standard_normal(SHAPE).astype("float32")
    factor = ngdla.damped_factor(S, 1.0)
    factored.clear()
    factor.with_damping(2.0)
    with pytest.warns(ngdla.PrecisionWarning, match="which only preconditions|factor anew"):
        factor.with_damping(1e-12)
    assert factored == []


@pytest.mark.parametrize("method", ["cholesky", "auto"])
@pytest.mark.parametrize("call", ["lstsq", "solve", "factor"])
def test_a_factor_that_failed_is_never_applied(
    method: str, call: str, monkeypatch: pytest.MonkeyPatch, rng: Any
) -> None:
    """Also not where no rung is left, and the factor at hand would go on as a preconditioner."""
    monkeypatch.setattr(
        inverses, "cholesky", lambda A: (np.full_like(A, np.nan), np.zeros(A.shape[:-2], bool))
    )
    S, v = rng.standard_normal((4, 9)), rng.standard_normal(9)
    calls: dict[str, Callable[[], Any]] = {
        "lstsq": lambda: ngdla.damped_lstsq(S, S @ v, 1.0, method=method),
        "solve": lambda: ngdla.damped_solve(S, v, 1.0, method=method),
        "factor": lambda: ngdla.damped_factor(S, 1.0, method=method).solve(v),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ngdla.PrecisionWarning)
        if method == "auto":  # goes on by QR
            x = calls[call]()
            right = S.T @ (S @ v) if call == "lstsq" else v
            np.testing.assert_allclose(S.T @ (S @ x) + x, right, atol=1e-12)
        else:
            with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
                calls[call]()
