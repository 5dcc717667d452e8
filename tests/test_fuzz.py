"""The search for wrong solves: its cases, its exact solutions, and what it finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpmath")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import fuzz_solves
from fuzz.cases import make_case
from fuzz.exact import System, exact_columns
from fuzz.judge import findings, solutions
from fuzz.libraries import Numpy
from fuzz.programs import PROGRAMS


def test_two_hundred_programs_that_differ() -> None:
    assert len(PROGRAMS) == 200
    assert len(set(PROGRAMS)) > 190
    for field in ("function", "door", "layout", "dtype", "method", "precision", "refine"):
        assert len({getattr(program, field) for program in PROGRAMS}) > 2


def test_a_case_is_its_number() -> None:
    first, again, other = make_case(417), make_case(417), make_case(617)
    assert first.program == other.program
    np.testing.assert_array_equal(first.S, again.S)
    assert first.damping == again.damping
    assert first.story != other.story


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (30, 50), (50, 30)], ids=str)
def test_exact_solutions(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """By fifty digits and by long doubles, with n < m and n >= m."""
    S, f, x0 = rng.standard_normal(shape), *(rng.standard_normal((k, 2)) for k in shape)
    metric = rng.uniform(0.5, 2.0, shape[1])
    A = S.T @ S + 0.1 * np.diag(metric)
    for system, right in (
        (System(S, 0.1, f, x0, metric), S.T @ f + 0.1 * metric[:, None] * x0),
        (System(S, 0.1, None, x0, metric), x0),
    ):
        for column, expected in zip(exact_columns(system), np.linalg.solve(A, right).T):
            np.testing.assert_allclose(column.x.real.astype(float), expected, rtol=1e-10)
            assert column.error < 1e-12


@pytest.mark.parametrize("factor", [3.0, 0.3])
def test_what_is_planted_is_found(factor: float) -> None:
    """A step that is three times too long, or too short, and certified."""
    number = next(
        i for i, p in enumerate(PROGRAMS) if p.layout == "array" and p.k is None and not p.batch
    )
    case = make_case(number)
    right, library = solutions(case), Numpy()
    answer = library.answer(case, check=False)
    assert answer.x is not None
    x = right[0].plain.x if np.iscomplexobj(answer.x) else right[0].plain.x.real
    planted = answer._replace(
        x=(factor * x).astype(answer.x.dtype), converged=np.asarray(True), warned=False
    )
    kinds = {found.kind for found in findings(case, "numpy", planted, right, lambda: answer)}
    assert {"bound", "silent"} & kinds


def test_one_case_from_the_command_line(capsys: Any) -> None:
    assert fuzz_solves.main(["--case", "0", "--libraries", "numpy"]) == 0
    assert "cases: {'numpy': 1}" in capsys.readouterr().out
