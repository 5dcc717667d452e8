"""The machinery of value checks; what is refused with which words is in test_bad_input.py."""

from __future__ import annotations

import numpy as np
import pytest
from backends import Backend, counted_host_reads

from ngdla._backend.checks import ValueChecks, all_finite


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
