"""`opened`: value checks are read on leaving, settings are given back however a call ends."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import Backend, counted_host_reads

import ngdla
from ngdla._backend.calls import ValueChecks, all_finite, opened, place_in_batch, warn_caller

PACKAGE = Path(ngdla.__file__).parent
X = np.array([1.0, np.nan])


def look(reached: list[bool], error: Exception | None = None) -> None:
    with opened(X) as checks:
        checks.finite("x", X)
        reached.append(True)
        if error is not None:
            raise error


def test_the_checks_are_read_on_leaving() -> None:
    reached: list[bool] = []
    with pytest.raises(ValueError, match="`x` contains NaN"):
        look(reached)
    assert reached


def test_without_checks_nothing_is_computed_or_raised() -> None:
    with opened(X, False) as checks:
        checks.require(lambda: pytest.fail("was asked"), lambda: ValueError("is off"))
    assert not checks.enabled


def test_an_exception_of_the_body_is_the_one_that_is_seen() -> None:
    with pytest.raises(KeyError, match="body") as caught:
        look([], KeyError("body"))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("fails", [False, True])
def test_settings_are_given_back(fails: bool) -> None:
    before = np.geterr()
    try:
        with opened(X) as checks:
            assert np.geterr()["divide"] == "ignore"
            if fails:
                checks.finite("x", X)
    except ValueError:
        assert fails
    assert np.geterr() == before


def test_what_was_read_is_not_read_again() -> None:
    with opened(X) as checks:
        checks.ask(lambda: np.array(False))
        assert not checks.read()
        assert checks.read()


def test_a_question_counts_in_its_order_among_the_tests() -> None:
    with opened(X) as checks:
        checks.ask(lambda: np.array(False))
        checks.finite("x", X)
        assert not checks.read()
        checks.finite("x", X)
        checks.ask(lambda: np.array(False))
        with pytest.raises(ValueError, match="`x` contains NaN"):
            checks.read()


def test_a_warning_names_the_line_of_the_caller() -> None:
    with pytest.warns(UserWarning, match="small") as caught, opened(X) as checks:
        checks.require(lambda: np.array(False), lambda: UserWarning("small"))
    assert caught[0].filename == __file__


# ----------------------------------------------------------------------------- value checks


def test_many_flags_are_one_read() -> None:
    import array_api_strict as xp

    x = xp.asarray([1.0, 2.0], device=xp.Device("device1"))
    checks = ValueChecks(enabled=True)
    with counted_host_reads() as reads:
        for _ in range(5):
            checks.require(lambda: all_finite(x), lambda: ValueError("never"))
        checks.read()
    assert len(reads) == 1


def test_the_first_failure_is_reported(valued_backend: Backend) -> None:
    good = valued_backend.asarray(np.ones(2, dtype="float32"))
    bad = valued_backend.asarray(np.array([1.0, np.inf], dtype="float32"))
    checks = ValueChecks(enabled=True)
    for x, text in ((good, "good"), (bad, "first"), (bad, "second")):
        checks.require(lambda x=x: all_finite(x), lambda text=text: ValueError(text))
    with pytest.raises(ValueError, match="first"):
        checks.read()


def test_disabled_checks_compute_nothing() -> None:
    checks = ValueChecks(enabled=False)
    checks.require(lambda: 1 / 0, lambda: ValueError("never"))
    checks.read()


def test_flags_without_values_pass() -> None:
    torch = pytest.importorskip("torch")
    checks = ValueChecks(enabled=True)
    x = torch.full((2,), float("nan"), device="meta")
    checks.require(lambda: all_finite(x), lambda: ValueError("never"))
    checks.read()


def test_a_folder_beside_the_library_is_the_caller() -> None:
    """`ngdla_user` begins like the folder of the library."""
    beside = str(PACKAGE.with_name("ngdla_user") / "step.py")
    code = compile("warn_caller('small', UserWarning)", beside, "exec")
    with pytest.warns(UserWarning, match="small") as caught:
        exec(code, {"warn_caller": warn_caller})
    assert caught[0].filename == beside


# -------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_what_is_not_finite_is_found_in_a_batch(
    valued_backend: Backend, batch: tuple[int, ...]
) -> None:
    """By its entries, or by a number for each matrix; the first in all arrays counts."""
    X, sizes = np.ones((*batch, 4, 2), "float32"), np.ones(batch, "float32")
    last = tuple(length - 1 for length in batch)
    X[(*last, 1, 1)] = sizes[last] = np.inf
    found = " in matrix 2 of the batch" if len(batch) == 1 else " in matrix (1, 2) of the batch"
    like, numbers, good = valued_backend.asarray([X, sizes, np.ones_like(X)])
    for arrays in ((like,), (numbers,), (good, like), (like, numbers)):
        place = place_in_batch(len(batch), *arrays)
        assert place == (found if batch else "")
    assert place_in_batch(len(batch), good) == ""
    with pytest.raises(
        ValueError, match="`x` contains NaN or Inf" + re.escape(found if batch else ";")
    ):
        check_finite(like, len(batch))


def check_finite(x: Any, batch: int) -> None:
    with opened(x) as checks:
        checks.finite("x", x, batch=batch)


PLACES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], Any]]] = {
    "damped_solve": (r"`S` contains NaN or Inf in matrix \(1, 0\)", lambda bad, _: solve(bad)),
    "right-hand side": (
        r"`f` contains NaN or Inf in vector \(1, 0\)",
        lambda bad, good: ngdla.damped_lstsq(good, bad[..., 0], 1.0),
    ),
    "hermitian_solve": (
        r"`W` contains NaN or Inf in matrix \(1, 0\)",
        lambda bad, good: ngdla.hermitian_solve(bad, good[..., 0]),
    ),
    "scores": (
        r"`log_derivatives` contains NaN or Inf in matrix \(1, 0\)",
        lambda bad, _: ngdla.scores(bad),
    ),
    "sample_weights": (
        r"`K` contains NaN or Inf in matrix \(1, 0\)",
        lambda bad, _: ngdla.sample_weights(bad, 0.1),
    ),
    "weighted_cosine": (
        r"`d` contains NaN or Inf in vector \(1, 0\)",
        lambda bad, good: ngdla.weighted_cosine(good, good[..., 1], bad[..., 0]),
    ),
    "project": (
        r"`N` contains NaN or Inf in matrix \(1, 0\)",
        lambda bad, _: ngdla.structures.BlockDiagonal(2).project(bad),
    ),
}


def solve(S: np.ndarray) -> Any:
    return ngdla.damped_solve(S, np.ones(S.shape[:-1]), 1.0)


@pytest.mark.parametrize("name", list(PLACES))
def test_functions_name_the_matrix_of_a_batch(name: str) -> None:
    message, call = PLACES[name]
    good = np.zeros((2, 2, 3, 3)) + np.eye(3)
    bad = good.copy()
    bad[1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=message):
        call(bad, good)
    with pytest.raises(ValueError, match=r"contains NaN or Inf[.;,]"):
        call(bad[1, 0], good[1, 0])
