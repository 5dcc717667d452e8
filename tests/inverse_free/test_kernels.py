"""How many operations of torch a step of one layer is made of: on a GPU, each is a launch."""

from __future__ import annotations

from typing import Any

import pytest

from ngdla import (
    inverse_free_apply,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
)

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

D_IN, D_OUT, ROWS = 769, 768, 512
# Operations that only look at an array in another way.
VIEWS = [
    "_reshape_alias",
    "alias",
    "as_strided",
    "detach",
    "diagonal",
    "expand",
    "lift_fresh",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "view_as_real",
    "_unsafe_view",
]


class Kernels(TorchDispatchMode):
    """Counts what is computed, or read by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.count += function.overloadpacket.__name__ not in VIEWS
        return function(*args, **(kwargs or {}))


class Layer:
    """A layer, and steps of its preconditioner after the first one."""

    def __init__(self, structure: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = (ROWS, D_IN), (ROWS, D_OUT), (D_OUT, D_IN)
        self.a, self.g, self.V = (torch.randn(shape, generator=generator) for shape in shapes)
        self.state = inverse_free_init(D_IN, D_OUT, structures=(structure,) * 2, like=self.a)
        self.step()

    def step(self, **options: Any) -> None:
        statistics = inverse_free_statistics(self.state, self.a, self.g)
        self.state = inverse_free_update(
            self.state, statistics, damping=1e-3, step_size=1e-3, **options
        )
        inverse_free_apply(self.state, self.V)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"safeguard": False}], ids=str)
@pytest.mark.parametrize(
    ("structure", "most"),
    [
        (("hierarchical", {"k1": 15, "k2": 15}), 150),
        ("dense", 146),
        ("diagonal", 82),
        ("lower-toeplitz", 162),
        (("block-diagonal", {"block": 32}), 117),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_step_is_few_operations(structure: Any, most: int, options: dict[str, Any]) -> None:
    """A warning is looked for without the safeguard, for a few more."""
    layer = Layer(structure)
    with Kernels() as kernels:
        layer.step(**options)
    assert kernels.count <= most + 5 * ("safeguard" in options)
