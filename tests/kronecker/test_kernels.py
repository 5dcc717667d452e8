"""What averages and solves of KFAC send to a GPU, counted on the CPU."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from sent_operations import kernels, sent

from ngdla import ema, kronecker_solve

D = 64


def factors(torch: Any) -> tuple[Any, Any, Any]:
    X = torch.randn(40, D, generator=torch.Generator().manual_seed(0))
    return X.mT @ X / 40 + torch.eye(D), X, X[:8, :]


def test_an_average_is_three_operations_and_its_test() -> None:
    """The largest entry of the past, weighted rows, their product, a sum; and two for NaN."""
    torch = pytest.importorskip("torch")
    A, X, _ = factors(torch)
    for check in (True, False, "nan"):
        assert kernels(lambda check=check: ema(A, X, decay=0.9, check=check)) <= 6


@pytest.mark.parametrize(("coupling", "limits"), [("joint", (61, 18)), ("factored", (69, 30))])
def test_solves(coupling: Literal["joint", "factored"], limits: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    A, _, V = factors(torch)
    G = A[:8, :8]

    def solve(check: bool) -> Any:
        return kronecker_solve(A, G, V, 0.1, coupling=coupling, check=check)

    with_checks, without = (kernels(lambda check=check: solve(check)) for check in (True, False))
    assert with_checks <= limits[0]
    assert without <= limits[1]
    # whether a factor is Hermitian is asked of a product with a vector of sines
    assert "sin" in sent(lambda: solve(True))
    assert not sent(lambda: solve(False)).keys() & {"isfinite", "sin", "sub"}


def test_weights_that_are_not_used_are_not_computed() -> None:
    """Complete bases need one weight of four."""
    torch = pytest.importorskip("torch")
    A, _, V = factors(torch)
    complete, half = torch.linalg.eigh(A), torch.linalg.eigh(A[:8, :8])
    some = half.eigenvalues[4:], half.eigenvectors[:, 4:]
    counts = [
        sent(lambda G=G: kronecker_solve(tuple(complete), G, V, 0.1, check=False))["reciprocal"]
        for G in (tuple(half), some)
    ]
    assert counts == [1, 2]
