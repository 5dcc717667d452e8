"""The searches for wrong results: their cases, their exact answers, and what they find."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mpmath")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import fuzz_functions
import fuzz_solves
from fuzz.cases import make_case
from fuzz.exact import System, exact_columns
from fuzz.functions import exact, judge
from fuzz.functions.calls import Numpy as NumpyFunctions
from fuzz.functions.cases import make_case as make_function_case
from fuzz.functions.programs import DERIVATIVES, HALVES, VALUES
from fuzz.functions.programs import PROGRAMS as FUNCTION_PROGRAMS
from fuzz.judge import findings, solutions
from fuzz.libraries import Numpy
from fuzz.programs import PROGRAMS

import ngdla


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


def test_programs_of_every_function() -> None:
    assert len(FUNCTION_PROGRAMS) == 200
    counts = {name: [p.function for p in FUNCTION_PROGRAMS].count(name) for name in VALUES}
    assert counts == {name: k + DERIVATIVES.get(name, 0) for name, k in VALUES.items()}
    assert {"float16", "bfloat16", "complex128"} <= {p.dtype for p in FUNCTION_PROGRAMS}


def test_exact_eigenpairs(rng: np.random.Generator) -> None:
    """Of repeated, close and vanishing eigenvalues."""
    Q = np.linalg.qr(rng.standard_normal((6, 6)) + 1j * rng.standard_normal((6, 6)))[0]
    A = (Q * [1e-12, 1.0, 1.0, 1.0 + 1e-14, 2.0, 0.0]) @ Q.conj().T
    A = A + A.conj().T
    w, U = exact.eigen(A)
    eps = float(np.finfo(np.longdouble).eps)
    assert exact.frobenius(exact.of_eigen(w, U) - A) < 100 * eps
    assert exact.frobenius(exact.adjoint(U) @ U - np.eye(6)) < 100 * eps


@pytest.mark.parametrize("function", ["expm", "sqrtm_psd", "inv_sqrtm_psd", "logm_psd"])
def test_exact_derivatives(function: str, rng: np.random.Generator) -> None:
    """By differences of what NumPy computes."""
    X, E = rng.standard_normal((2, 4, 4))
    A, E = X @ X.T + np.eye(4), E + E.T
    f, h = getattr(ngdla, function), 1e-5
    found = exact.derivative(function, {"A": A}, 1.0, E)
    expected = (f(A + h * E) - f(A - h * E)) / (2 * h)
    assert exact.frobenius(found - expected) < 1e-6 * exact.frobenius(found)


# The result that an error is planted in, unless it is "value".
PLANTED = {
    "randomized_eigh": "matmul",
    "nystrom_factor": "matmul",
    "randomized_svd": "S",
    "online_eigh": "sketch",
    "kronecker_solve": "X",
}


@pytest.mark.parametrize("function", list(VALUES))
def test_a_planted_fault_of_a_function_is_found(function: str) -> None:
    """Half too much is above the bound; what NumPy says is not."""
    case, answer = _harmless(function)
    problems, name = judge.problems(case), PLANTED.get(function, "value")
    assert judge.findings(case, "numpy", answer, problems) == []
    for kind, factor in (("silent", 1.5), ("refused", np.nan)):
        planted = answer._replace(arrays=answer.arrays | {name: factor * answer.arrays[name]})
        found = judge.findings(case, "numpy", planted, problems)
        assert {finding.kind for finding in found} == {kind}


def _harmless(function: str) -> tuple[Any, Any]:
    """Return a case far from all limits, and the answer of NumPy."""
    numbers = (
        i + 200 * draw
        for draw in range(20)
        for i, p in enumerate(FUNCTION_PROGRAMS)
        if p.function == function and not p.batch and not p.derivative and p.dtype not in HALVES
        if dict(p.options).get("order", 9) > 1 and dict(p.options).get("method") != "sre"
    )
    tame = {"flat", "repeated", "1/k", "|A| 1e-01", "|A| 1e-02", "|A| 1e+00"}
    for case in map(make_function_case, numbers):
        if not case.extreme and tame & set(case.story.split(", ")):
            answer = NumpyFunctions().answer(case)
            if answer.error is None:
                return case, answer
    raise AssertionError


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_is_accepted_is_found(sign: float) -> None:
    """A negative definite matrix, for which the answer to a positive one is given."""
    case, answer = _harmless("sqrtm_psd")
    case = case._replace(arrays={"A": sign * case.arrays["A"]})
    found = judge.findings(case, "numpy", answer, judge.problems(case))
    assert [finding.kind for finding in found] == ([] if sign > 0 else ["accepted"])


def test_functions_from_the_command_line(capsys: Any, tmp_path: Path) -> None:
    """A few cases, of which none is a fault; findings go to a file of their own."""
    for number in range(8):
        options = ["--case", str(number), "--libraries", "numpy"]
        assert fuzz_functions.main([*options, "--output", str(tmp_path / "found.json")]) == 0
    assert "silent:" not in capsys.readouterr().out
    assert (tmp_path / "found_functions.json").exists()
