"""Whole training steps behind modules of torch: FNGD against its formula by hand, and against SGD.

By hand, layers are listed and their inputs kept by the network itself, the column of ones is left
out of products, and nothing is checked. Float32, one thread.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measuring import alternating, optional
from threads import limited

from .tracked import tracked

M, DAMPING, RATE = 128, 1e-2, 1e-6
WIDTH, POSITIONS, TOKENS = 512, 64, 1000  # of the transformer
REPEATS = {"MLP": 31, "transformer": 5}

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"


class Network:
    """A network, a batch, and the layers whose steps are natural gradients."""

    def __init__(self, model: Any, x: Any, y: Any, skip: tuple[Any, ...] = ()) -> None:
        torch = optional("torch")
        self.model, self.x, self.y, self.skip = model, x, y, skip
        self.layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        ours = {id(p) for layer in self.layers for p in layer.parameters()}
        self.others = [p for p in model.parameters() if id(p) not in ours]

    def loss(self) -> Any:
        torch = optional("torch")
        return torch.nn.functional.cross_entropy(self.model(self.x).flatten(0, -2), self.y)


def mlp() -> Network:
    """Return three layers of 1024 x 1024 and logits of ten classes."""
    torch = optional("torch")
    nn = torch.nn
    torch.manual_seed(0)
    hidden = [module for _ in range(3) for module in (nn.Linear(1024, 1024), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(1024, 10))
    return Network(model, torch.randn(M, 1024), torch.randint(10, (M,)))


def transformer() -> Network:
    """Return two blocks of width 512 behind an embedding, and a class of ten at each position."""
    torch = optional("torch")
    sys.path.insert(0, str(EXAMPLES))
    from optimizers.tasks import Transformer

    torch.manual_seed(0)
    model = Transformer(TOKENS, POSITIONS, WIDTH, blocks=2)
    model.head = torch.nn.Linear(WIDTH, 10)
    x, y = torch.randint(TOKENS, (M, POSITIONS)), torch.randint(10, (M * POSITIONS,))
    return Network(model, x, y, (torch.nn.Embedding, torch.nn.LayerNorm))


# ------------------------------------------------------------------------------------- steps


def sgd(network: Network) -> Callable[[], None]:
    """Return a step with the mean gradient."""
    torch = optional("torch")
    optimizer = torch.optim.SGD(network.model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        network.loss().backward()
        optimizer.step()

    return step


def fngd(network: Network, policy: str) -> Callable[[], None]:
    """Return a step of FNGD as users write it: `record`, the class of the docs, torch's SGD."""
    torch = optional("torch")
    sys.path.insert(0, str(EXAMPLES))
    from optimizers.fngd import FNGD

    from ngdla.adapters.torch_modules import record

    optimizer = torch.optim.SGD(network.model.parameters(), lr=RATE)
    natural = FNGD(DAMPING, policy=policy, period=1 if policy == "shared" else None)
    recording = record(network.model, skip=network.skip)

    def step() -> None:
        optimizer.zero_grad()
        with recording as layers:
            layers.backward(network.loss())
        natural.precondition(layers)
        optimizer.step()

    return step


def by_hand(network: Network, policy: str) -> Callable[[], None]:
    """Return the same step in plain torch; shared weights are those of the first step."""
    torch = optional("torch")
    inputs: dict[int, Any] = {}
    outputs: dict[int, Any] = {}
    kept: dict[int, Any] = {}

    def keep(layer: Any, arguments: Any, output: Any) -> None:
        inputs[id(layer)], outputs[id(layer)] = arguments[0].detach(), output

    for layer in network.layers:
        layer.register_forward_hook(keep)

    def step() -> None:
        loss = network.loss()
        wanted = [outputs[id(layer)] for layer in network.layers]
        gradients = torch.autograd.grad(loss, [*wanted, *network.others])
        with torch.no_grad():
            for layer, g in zip(network.layers, gradients):
                a, g = inputs[id(layer)], M * g
                if policy == "exact" or id(layer) not in kept:
                    kept[id(layer)] = weights(a, g)
                c = kept[id(layer)].reshape(-1, *[1] * (g.ndim - 1))
                weighted = (c * g).flatten(0, -2)
                layer.weight.sub_(weighted.T @ a.flatten(0, -2), alpha=RATE)
                layer.bias.sub_(weighted.sum(0), alpha=RATE)
            for p, g in zip(network.others, gradients[len(wanted) :]):
                p.sub_(g, alpha=RATE)

    return step


def weights(a: Any, g: Any) -> Any:
    """Return normalized weights of samples, lambda a part of the norm of K."""
    torch = optional("torch")
    K = gram(a, g)
    shift = DAMPING * K.norm()
    K.diagonal().add_(M * shift)
    ones = torch.ones(M, 1)
    return shift * torch.cholesky_solve(ones, torch.linalg.cholesky(K))[:, 0]


def gram(a: Any, g: Any) -> Any:
    """Return K of weights and biases; of positions by gradients, some outputs at a time."""
    if a.ndim == 2:
        return (a @ a.T + 1) * (g @ g.T)
    rows = math.floor(2**24 / (M * a.shape[2]))
    K = g.sum(1) @ g.sum(1).T
    for i in range(0, g.shape[2], rows):
        U = (g[:, :, i : i + rows].mT @ a).flatten(1)
        K.addmm_(U, U.T)
    return K


NETWORKS = {"MLP": mlp, "transformer": transformer}


@cache
def step_times(name: str) -> dict[str, float]:
    """Return times of steps in seconds, each on a network of its own, on one thread."""
    make = NETWORKS[name]
    ways = {
        "SGD": sgd(make()),
        **{f"exact, {who}": way(make(), "exact") for who, way in WAYS.items()},
        **{f"shared, {who}": way(make(), "shared") for who, way in WAYS.items()},
    }
    with limited(1):
        return alternating(ways, REPEATS[name])


WAYS: dict[str, Callable[[Network, str], Callable[[], None]]] = {
    "by hand": by_hand,
    "ngdla": fngd,
}


def ratio(name: str, policy: str, beside: str) -> float:
    times = step_times(name)
    return times[f"{policy}, ngdla"] / times[f"{policy}, by hand" if beside == "hand" else "SGD"]


CLAIM = "FNGD step behind a torch module, 3 layers 1024 x 1024, M = 128, float32, one thread"
SEQUENCE = "the same, a transformer of two blocks, d = 512, T = 64, M = 128"


@tracked(f"{CLAIM}, exact weights: time over the formula by hand", at_most=1.15)
def track_exact() -> float:
    return ratio("MLP", "exact", "hand")


@tracked(f"{CLAIM}, shared weights: time over the formula by hand", at_most=1.15)
def track_shared() -> float:
    return ratio("MLP", "shared", "hand")


@tracked(f"{CLAIM}, exact weights: time over a step of SGD")
def track_exact_sgd() -> float:
    return ratio("MLP", "exact", "SGD")


@tracked(f"{CLAIM}, shared weights: time over a step of SGD (1.04 in the paper)")
def track_shared_sgd() -> float:
    return ratio("MLP", "shared", "SGD")


@tracked(f"{SEQUENCE}, exact weights: time over the formula by hand", at_most=1.15)
def track_exact_sequence() -> float:
    return ratio("transformer", "exact", "hand")


@tracked(f"{SEQUENCE}, shared weights: time over the formula by hand", at_most=1.15)
def track_shared_sequence() -> float:
    return ratio("transformer", "shared", "hand")


@tracked(f"{SEQUENCE}, exact weights: time over a step of SGD")
def track_exact_sequence_sgd() -> float:
    return ratio("transformer", "exact", "SGD")


@tracked(f"{SEQUENCE}, shared weights: time over a step of SGD")
def track_shared_sequence_sgd() -> float:
    return ratio("transformer", "shared", "SGD")


def details() -> dict[str, Any]:
    """Return the times in milliseconds."""
    return {
        name: {way: 1e3 * seconds for way, seconds in step_times(name).items()} for name in NETWORKS
    }
