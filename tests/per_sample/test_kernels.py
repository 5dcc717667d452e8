"""What a step of FNGD sends to a GPU, counted on the CPU: few operations beside those by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sent_operations import kernels, sent

from ngdla import (
    sample_gram,
    sample_weights,
    weight_sharing_init,
    weight_sharing_step,
    weighted_cosine,
    weighted_gradient,
)

M, WIDTH = 64, 96


def batch(torch: Any) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(0)
    a, g = (torch.randn(M, WIDTH, generator=generator) for _ in range(2))
    return a, g, sample_gram(a, g)


# With checks, and without; a Gram matrix of so few samples is one product.
LIMITS: dict[str, tuple[int, int]] = {
    "sample_gram": (6, 3),
    "sample_weights": (36, 19),
    "sample_weights, absolute": (32, 17),
    "weighted_gradient": (4, 2),
    "weighted_cosine": (32, 23),
    "an exact step": (34, 27),
    "a shared step": (5, 3),
}


def calls(torch: Any) -> dict[str, Callable[[bool], Any]]:
    a, g, K = batch(torch)
    c = sample_weights(K, 0.01)
    exact = weight_sharing_init("exact", M)
    _, shared = weight_sharing_step(weight_sharing_init("shared", M, period=1), a, g, 0.01)

    def step(state: Any, check: bool) -> Any:
        v, _ = weight_sharing_step(state, a, g, 0.01, check=check)
        return weighted_gradient(a, g, v, check=check)

    return {
        "sample_gram": lambda check: sample_gram(a, g, check=check),
        "sample_weights": lambda check: sample_weights(K, 0.01, check=check),
        "sample_weights, absolute": lambda check: sample_weights(
            K, 0.01, relative=False, check=check
        ),
        "weighted_gradient": lambda check: weighted_gradient(a, g, c, check=check),
        "weighted_cosine": lambda check: weighted_cosine(K, c, c, check=check),
        "an exact step": lambda check: step(exact, check),
        "a shared step": lambda check: step(shared, check),
    }


@pytest.mark.parametrize("name", LIMITS)
def test_operations(name: str) -> None:
    torch = pytest.importorskip("torch")
    call = calls(torch)[name]
    with_checks, without = (kernels(lambda check=check: call(check)) for check in (True, False))
    assert without < with_checks
    assert with_checks <= LIMITS[name][0]
    assert without <= LIMITS[name][1]


def test_nothing_is_tested_without_checks() -> None:
    """No test for NaN, and none whether K is Hermitian, which takes products with a vector."""
    torch = pytest.importorskip("torch")
    for name, call in calls(torch).items():
        names = sent(lambda call=call: call(False))
        assert not names.keys() & {"isfinite", "sin", "sub", "bitwise_and"}, name
        if name.startswith("sample_weights"):
            assert "mm" not in names
