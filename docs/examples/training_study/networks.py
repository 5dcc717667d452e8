"""Small networks as modules of torch, with weights that NumPy draws from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
import torch
from torch import nn

SIDE = 8
"""Pixels of a side of an image."""

KERNEL = 3
"""Pixels of a side of a convolution's kernel."""


@dataclass(frozen=True)
class MLP:
    """Dense layers with relu between them."""

    widths: tuple[int, ...]

    def module(self, seed: int) -> nn.Sequential:
        """Return the network for images (M, 64), with the weights of a seed."""
        layers = [nn.Linear(m, n) for m, n in pairwise(self.widths)]
        for layer, W in zip(layers, initial_weights(layers, seed)):
            set_weights(layer, W)
        return nn.Sequential(*layers[:1], *(x for layer in layers[1:] for x in (nn.ReLU(), layer)))


@dataclass(frozen=True)
class CNN:
    """Convolutions with relu behind each, and a dense layer. Images have sides of 8 pixels."""

    channels: tuple[int, ...]
    """Of the image, and of what each convolution gives."""

    strides: tuple[int, ...]
    """Of each convolution."""

    classes: int

    def module(self, seed: int) -> nn.Sequential:
        """Return the network for images (M, 64), with the weights of a seed."""
        options = {"kernel_size": KERNEL, "padding": KERNEL // 2}
        convolutions = [
            nn.Conv2d(m, n, stride=stride, **options)
            for (m, n), stride in zip(pairwise(self.channels), self.strides)
        ]
        side = SIDE // int(np.prod(self.strides))
        dense = nn.Linear(side**2 * self.channels[-1], self.classes)
        *kernels, W = initial_weights([*convolutions, dense], seed)
        for layer, kernel in zip(convolutions, kernels):
            set_weights(layer, channels_first(kernel, KERNEL))
        set_weights(dense, channels_first(W, side))
        image = nn.Unflatten(1, (self.channels[0], SIDE, SIDE))
        inner = (x for layer in convolutions for x in (layer, nn.ReLU()))
        return nn.Sequential(image, *inner, nn.Flatten(), dense)


def initial_weights(layers: list[nn.Module], seed: int) -> list[np.ndarray]:
    """Return normal weights that keep the size of what relu gives, and a last column of biases."""
    rng = np.random.default_rng(seed)
    weights = []
    for layer in layers:
        d_out, *inputs = layer.weight.shape
        columns = int(np.prod(inputs)) + 1
        W = sqrt(2 / (columns - 1)) * rng.standard_normal((d_out, columns))
        W[:, -1] = 0
        weights.append(W.astype(np.float32))
    return weights


def channels_first(W: np.ndarray, side: int) -> np.ndarray:
    """Return weights whose columns, but for the bias, are drawn with channels as the last axis."""
    squares = W[:, :-1].reshape(len(W), side, side, -1).transpose(0, 3, 1, 2)
    return np.concatenate([squares.reshape(len(W), -1), W[:, -1:]], axis=1)


def set_weights(layer: nn.Module, W: np.ndarray) -> None:
    """Give weights and biases to a layer."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(W[:, :-1]).reshape(layer.weight.shape))
        layer.bias.copy_(torch.from_numpy(W[:, -1]))


NETWORKS = {
    "mlp": MLP((SIDE**2, 128, 64, 10)),
    "cnn": CNN(channels=(1, 8, 16), strides=(1, 2), classes=10),
    "wide": MLP((SIDE**2, 1024, 1024, 1024, 10)),
}
"""The networks of the study: those of 8 x 8 pixels and ten digits."""
