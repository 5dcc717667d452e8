"""Small networks, forward and backward, on any array library."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

Array = Any
"""An array of any library."""

SIDE = 8
"""Pixels of a side of an image."""

KERNEL = 3
"""Pixels of a side of a convolution's kernel."""


class Tape(NamedTuple):
    """What one layer saw of a batch of M samples.

    A convolution is a linear layer that is applied at T positions, with an axis more.
    """

    inputs: Array
    """Inputs and a last column of ones, shape (M, d_in + 1) or (M, T, d_in + 1)."""

    output_gradients: Array
    """Gradients of each sample's own loss, not divided by M, shape (M, d_out) or (M, T, d_out)."""


def mean_gradient(tape: Tape) -> Array:
    """Return the gradient of the mean loss, shape (d_out, d_in + 1)."""
    xp = array_namespace(tape.inputs)
    a, g = (xp.reshape(x, (-1, x.shape[-1])) for x in tape)
    return xp.matmul(g.T, a) / tape.inputs.shape[0]


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the loss of each sample, shape (M,), and its gradient, shape (M, classes).

    ``targets`` are rows of zeros with a one for the class.
    """
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=1, keepdims=True)
    log_probabilities = shifted - xp.log(total)
    return -xp.sum(targets * log_probabilities, axis=1), exponentials / total - targets


@dataclass(frozen=True)
class MLP:
    """Dense layers with relu between them."""

    widths: tuple[int, ...]

    def initial(self, seed: int) -> list[np.ndarray]:
        """Return random weights, shapes (d_out, d_in + 1), float32."""
        return initial_weights([(n, m + 1) for m, n in pairwise(self.widths)], seed)

    def forward(self, weights: list[Array], x: Array) -> tuple[Array, list[Array]]:
        """Return the logits, and the inputs of each layer."""
        inputs = [with_ones(x)]
        for W in weights[:-1]:
            inputs.append(with_ones(relu(inputs[-1] @ W.T)))
        return inputs[-1] @ weights[-1].T, inputs

    def backward(self, weights: list[Array], inputs: list[Array], g: Array) -> list[Tape]:
        """Return a tape of each layer from the gradients g of the logits."""
        tapes = [Tape(inputs[-1], g)]
        for W, above, a in zip(weights[:0:-1], inputs[:0:-1], inputs[-2::-1]):
            g = through_relu(g @ W[:, :-1], above[:, :-1])
            tapes.append(Tape(a, g))
        return tapes[::-1]


@dataclass(frozen=True)
class CNN:
    """Convolutions with relu behind each, and a dense layer. Images have sides of 8 pixels."""

    channels: tuple[int, ...]
    """Of the image, and of what each convolution gives."""

    strides: tuple[int, ...]
    """Of each convolution."""

    classes: int

    def sides(self) -> list[int]:
        """Return the sides of the image, and of what each convolution gives."""
        sides = [SIDE]
        for stride in self.strides:
            sides.append(sides[-1] // stride)
        return sides

    def initial(self, seed: int) -> list[np.ndarray]:
        """Return random weights, shapes (d_out, d_in + 1), float32."""
        shapes = [(n, KERNEL**2 * m + 1) for m, n in pairwise(self.channels)]
        features = self.sides()[-1] ** 2 * self.channels[-1]
        return initial_weights([*shapes, (self.classes, features + 1)], seed)

    def forward(self, weights: list[Array], x: Array) -> tuple[Array, list[Array]]:
        """Return the logits, and the inputs of each layer: those of convolutions are patches."""
        xp = array_namespace(x)
        image = xp.reshape(x, (-1, SIDE, SIDE, self.channels[0]))
        inputs = []
        for W, stride, side in zip(weights, self.strides, self.sides()[1:]):
            a = with_ones(patches(image, stride))
            inputs.append(xp.reshape(a, (-1, side**2, a.shape[-1])))
            image = relu(xp.reshape(inputs[-1] @ W.T, (-1, side, side, W.shape[0])))
        inputs.append(with_ones(xp.reshape(image, (x.shape[0], -1))))
        return inputs[-1] @ weights[-1].T, inputs

    def backward(self, weights: list[Array], inputs: list[Array], g: Array) -> list[Tape]:
        """Return a tape of each layer from the gradients g of the logits."""
        xp = array_namespace(g)
        tapes = [Tape(inputs[-1], g)]
        g = through_relu(g @ weights[-1][:, :-1], inputs[-1][:, :-1])
        layers = list(zip(weights, inputs, self.strides, self.sides()[1:]))
        for i, (W, a, stride, side) in reversed(list(enumerate(layers))):
            g = xp.reshape(g, (-1, side**2, W.shape[0]))
            tapes.append(Tape(a, g))
            if i > 0:
                image_gradient = transposed_convolution(W, g, stride, side)
                outputs = layers[i - 1][1] @ layers[i - 1][0].T
                g = through_relu(xp.reshape(image_gradient, outputs.shape), outputs)
        return tapes[::-1]


def initial_weights(shapes: list[tuple[int, int]], seed: int) -> list[np.ndarray]:
    """Return normal weights that keep the size of what relu gives, and biases of zero."""
    rng = np.random.default_rng(seed)
    weights = []
    for d_out, columns in shapes:
        W = sqrt(2 / (columns - 1)) * rng.standard_normal((d_out, columns))
        W[:, -1] = 0
        weights.append(W.astype(np.float32))
    return weights


def with_ones(x: Array) -> Array:
    """Append ones along the last axis, which makes the bias a column of the weights."""
    xp = array_namespace(x)
    return xp.concat([x, xp.ones_like(x[..., :1])], axis=-1)


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    xp = array_namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def through_relu(g: Array, outputs: Array) -> Array:
    """Return the gradients before relu from those after it."""
    xp = array_namespace(g)
    return xp.where(outputs > 0, g, xp.zeros_like(g))


def patches(image: Array, stride: int) -> Array:
    """Return the pixels around each stride-th one, zero outside of the image.

    From shape (M, s, s, c) to (M, s / stride, s / stride, 9 c).
    """
    xp = array_namespace(image)
    rows = xp.zeros_like(image[:, :1, ...])
    image = xp.concat([rows, image, rows], axis=1)
    columns = xp.zeros_like(image[:, :, :1, ...])
    image = xp.concat([columns, image, columns], axis=2)
    inner = image.shape[1] - KERNEL + 1
    shifted = [
        image[:, i : i + inner : stride, j : j + inner : stride, :]
        for i in range(KERNEL)
        for j in range(KERNEL)
    ]
    return xp.concat(shifted, axis=-1)


def transposed_convolution(W: Array, g: Array, stride: int, side: int) -> Array:
    """Return the gradients of a convolution's image, shape (M, stride * side, .., channels).

    What patches add up to where they overlap is again a convolution: of the gradients, with zeros
    between them where there was a stride, by the kernel turned round.
    """
    xp = array_namespace(g)
    d_out = W.shape[0]
    spread = xp.reshape(g, (-1, side, side, d_out))
    zeros = [xp.zeros_like(spread)] * (stride - 1)
    spread = xp.reshape(xp.stack([spread, *zeros], axis=2), (-1, stride * side, side, d_out))
    zeros = [xp.zeros_like(spread)] * (stride - 1)
    spread = xp.stack([spread, *zeros], axis=3)
    spread = xp.reshape(spread, (-1, stride * side, stride * side, d_out))
    kernel = xp.flip(xp.reshape(W[:, :-1], (d_out, KERNEL, KERNEL, -1)), axis=(1, 2))
    kernel = xp.reshape(xp.permute_dims(kernel, (1, 2, 0, 3)), (KERNEL**2 * d_out, -1))
    return patches(spread, 1) @ kernel


NETWORKS = {
    "mlp": MLP((SIDE**2, 128, 64, 10)),
    "cnn": CNN(channels=(1, 8, 16), strides=(1, 2), classes=10),
    "wide": MLP((SIDE**2, 1024, 1024, 1024, 10)),
}
"""The networks of the study: those of 8 x 8 pixels and ten digits."""
