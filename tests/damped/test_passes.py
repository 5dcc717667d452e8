"""Judging a step takes no pass over S."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import ngdla
from ngdla.score_matrices.column_blocks import ColumnBlocks

PASSES = ("gram", "matvec", "rmatvec", "add_rmatvec", "parameter_gram", "gradient", "to_dense")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count methods of the score matrix from now on, but not what they call themselves."""
    counts: Counter[str] = Counter()
    inside: list[str] = []

    def counted(name: str) -> Any:
        method = getattr(ColumnBlocks, name)

        def called(self: Any, *args: Any, **options: Any) -> Any:
            counts[name] += not inside
            inside.append(name)
            try:
                return method(self, *args, **options)
            finally:
                inside.pop()

        return called

    for name in PASSES:
        monkeypatch.setattr(ColumnBlocks, name, counted(name))
    return counts


@pytest.mark.parametrize("method", ["auto", "cholesky", "eigh", "svd", "qr"])
@pytest.mark.parametrize("precision", ["auto", "native"])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)], ids=str)
def test_a_judged_step_takes_the_passes_of_one_that_is_not(
    shape: tuple[int, int], precision: str, method: str, passes: Counter[str], rng: Any
) -> None:
    S, f, v = rng.standard_normal(shape), *(rng.standard_normal(k) for k in shape)
    for refine in (0, 1, 2):
        options: Any = {"method": method, "precision": precision, "refine": refine}
        for call in (
            lambda check: ngdla.damped_solve(S, v, 1.0, check=check, **options),  # noqa: B023
            lambda check: ngdla.damped_lstsq(S, f, 1.0, x0=v, check=check, **options),  # noqa: B023
            lambda check: ngdla.stochastic_reconfiguration(S, f, 1.0, check=check, **options),  # noqa: B023
            lambda check: ngdla.damped_factor(S, 1.0, check=check, **options).lstsq(f),  # noqa: B023
        ):
            found = []
            for check in (False, True):
                passes.clear()
                call(check)
                found.append(+passes)
            assert found[0] == found[1]
            assert found[0]
