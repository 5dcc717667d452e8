"""Kronecker factors of layers with positions, as `ema` averages them, beside those of curvlinops.

Curvlinops divides the second moment A of the inputs by samples times positions, and that of the
output gradients by samples only (KFAC-expand: R. Eschenhagen et al., arXiv:2311.00636). Rows of
`ema` and `inverse_free_statistics` are all divided by the number of rows: `layer_rows` puts the
other factor into output gradients. Losses are cross-entropies of classes, averaged over their
terms: one a sample, whose logits are all outputs of the layer, or one a position.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

import ngdla

from .tracked import tracked

SAMPLES, POSITIONS, CLASSES = 6, 5, 3  # positions T
CASES = {
    "convolution, one loss per sample": ("convolution", "sample"),
    "linear, one loss per sample": ("linear", "sample"),
    "linear, one loss per position": ("linear", "position"),
}


class Case(NamedTuple):
    """A layer without bias, what goes in, and the class of each term of the loss."""

    layer: str
    terms: str
    x: np.ndarray
    W: np.ndarray
    classes: np.ndarray

    def inputs(self) -> np.ndarray:
        """Return what the layer multiplies with its weight, (M, T, d_in)."""
        return self.x if self.layer == "linear" else ngdla.patches(self.x, self.W.shape[2:])

    def gradients(self) -> np.ndarray:
        """Return those of the averaged loss by the outputs of the layer, (M, T, d_out)."""
        outputs = self.inputs() @ self.W.reshape(len(self.W), -1).T
        logits = outputs.reshape(self.classes.size, -1)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(p)), self.classes] -= 1
        return (p / len(p)).reshape(outputs.shape)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return A and G of rows as `layer_rows` scales them, by `ema`."""
        loss: Literal["mean", "token-mean"] = "mean" if self.terms == "sample" else "token-mean"
        rows = ngdla.layer_rows(
            self.inputs(), self.gradients(), bias=False, loss=loss, positions=True
        )
        A, G = (
            ngdla.ema(np.zeros((X.shape[1],) * 2), X / math.sqrt(len(X)), decay=0.0) for X in rows
        )
        return A, G


def case(name: str) -> Case:
    """Return data that are equal on all machines."""
    layer, terms = CASES[name]
    rng = np.random.default_rng(list(CASES).index(name))
    x, W = {
        "convolution": ((SAMPLES, 2, 2, POSITIONS + 1), (CLASSES, 2, 2, 2)),  # one row of outputs
        "linear": ((SAMPLES, POSITIONS, 4), (CLASSES, 4)),
    }[layer]
    count, logits = SAMPLES, CLASSES * POSITIONS
    if terms == "position":
        count, logits = SAMPLES * POSITIONS, CLASSES
    values = rng.standard_normal(x), rng.standard_normal(W), rng.integers(0, logits, count)
    return Case(layer, terms, *values)


@cache
def of_curvlinops(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return A and G of `KFACLinearOperator`, of the gradients of the given classes."""
    try:
        import torch
        from curvlinops import FisherType, KFACLinearOperator
    except ImportError as error:
        raise NotImplementedError(str(error)) from None
    given = case(name)
    if given.layer == "linear":
        layer: Any = torch.nn.Linear(given.W.shape[1], len(given.W), bias=False)
    else:
        layer = torch.nn.Conv2d(2, len(given.W), 2, bias=False)
    layer = layer.double()
    layer.weight.data = torch.asarray(given.W)
    model = torch.nn.Sequential(layer, _Logits(given))
    data = [(torch.asarray(given.x), torch.asarray(given.classes))]
    loss = torch.nn.CrossEntropyLoss()
    terms = POSITIONS if given.terms == "position" else 1
    operator = KFACLinearOperator(
        model,
        loss,
        list(model.parameters()),
        data,
        fisher_type=FisherType.EMPIRICAL,
        check_deterministic=False,
        num_per_example_loss_terms=terms,
        num_data=SAMPLES,
    )
    operator.compute_kronecker_factors()
    (A,) = operator._input_covariances.values()
    (G,) = operator._gradient_covariances.values()
    return A.numpy(), G.numpy()


def _Logits(given: Case) -> Any:
    """Return the module that makes logits of the outputs of a layer."""
    import torch

    class Logits(torch.nn.Module):
        def forward(self, y: Any) -> Any:
            if given.layer == "convolution":
                y = y.flatten(2).mT  # (M, T, d_out)
            return y.reshape(given.classes.size, -1)

    return Logits()


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference of A and of G, over the norm of theirs."""
    return max(
        float(np.linalg.norm(one - other) / np.linalg.norm(other))
        for one, other in zip(found, expected)
    )


def _largest(layer: str) -> float:
    names = [name for name in CASES if name.startswith(layer)]
    return max(difference(case(name).factors(), of_curvlinops(name)) for name in names)


@tracked(
    "A and G of a convolution with 5 positions, rows scaled as the guide says, averaged by `ema`: "
    "largest relative difference from those of curvlinops (KFAC-expand), float64",
    at_most=1e-12,
)
def track_convolution() -> float:
    return _largest("convolution")


@tracked("A and G of a linear layer with 5 positions, the same, two losses", at_most=1e-12)
def track_linear() -> float:
    return _largest("linear")


def details() -> dict[str, Any]:
    """Return the numbers of curvlinops, and the data that they belong to."""
    found = {}
    for name in CASES:
        A, G = of_curvlinops(name)
        given = {
            key: np.asarray(getattr(case(name), key)).tolist() for key in ("x", "W", "classes")
        }
        found[name] = {**given, "A": A.tolist(), "G": G.tolist()}
    return found
