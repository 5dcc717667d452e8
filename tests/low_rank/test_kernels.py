"""What decompositions send to a GPU, counted on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sent_operations import kernels

from ngdla import (
    online_eigh_init,
    online_eigh_result,
    online_eigh_update,
    randomized_eigh,
    randomized_svd,
)
from ngdla._backend import norms, tracing
from ngdla.low_rank import cholesky_qr

D, RANK = 256, 32

# With checks, and without.
LIMITS: dict[str, tuple[int, int]] = {
    "randomized_eigh": (262, 238),
    "from a basis": (212, 186),
    "rayleigh-ritz": (128, 110),
    "rsvd": (180, 162),
    "randomized_svd": (388, 385),
    "online_eigh_init": (250, 250),
    "online_eigh_update": (108, 108),
}
# Where the host would have to wait for a flag, all is computed that might be needed.
ON_GPUS = {"randomized_eigh": 550, "rayleigh-ritz": 225, "online_eigh_update": 228}


def calls(torch: Any) -> dict[str, Callable[[bool], Any]]:
    X = torch.randn(400, D, generator=torch.Generator().manual_seed(0))
    X = X * 0.97 ** torch.arange(D)
    A = X.mT @ X / 400
    U, state = randomized_eigh(A, RANK).eigenvectors, online_eigh_init(X, RANK)
    return {
        "randomized_eigh": lambda check: randomized_eigh(A, RANK, check=check),
        "from a basis": lambda check: randomized_eigh(A, RANK, passes=1, basis=U, check=check),
        "rayleigh-ritz": lambda check: randomized_eigh(
            A, RANK, method="rayleigh-ritz", check=check
        ),
        "rsvd": lambda check: randomized_eigh(A, RANK, method="rsvd", check=check),
        "randomized_svd": lambda check: randomized_svd(X, RANK, check=check),
        "online_eigh_init": lambda check: online_eigh_init(X, RANK, check=check),
        "online_eigh_update": lambda check: online_eigh_update(state, X, decay=0.9, check=check),
    }


@pytest.mark.parametrize("name", LIMITS)
def test_operations(name: str) -> None:
    torch = pytest.importorskip("torch")
    call = calls(torch)[name]
    for check, limit in zip((True, False), LIMITS[name]):
        assert kernels(lambda check=check: call(check)) <= limit
    if name.startswith(("r", "f")):  # a state leaves out a bad batch, and has to see it
        assert kernels(lambda: call(False)) < kernels(lambda: call(True))


@pytest.mark.parametrize("name", ON_GPUS)
def test_operations_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    for module in (tracing, norms, cholesky_qr):
        monkeypatch.setattr(module, "free_to_read", lambda x: False)
    call = calls(torch)[name]
    assert kernels(lambda: call(True)) <= ON_GPUS[name]


def test_results_of_a_state() -> None:
    torch = pytest.importorskip("torch")
    X = torch.randn(40, D, generator=torch.Generator().manual_seed(0))
    state = online_eigh_init(X, RANK)
    assert kernels(lambda: online_eigh_result(state)) <= 21
