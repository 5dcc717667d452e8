"""`opened`: value checks are read on leaving, settings are given back however a call ends."""

import numpy as np
import pytest

from ngdla._backend.calls import opened

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
