"""Two small tasks: the digits of scikit-learn by a CNN, shifted copies by a transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

__all__ = ["TASKS", "Task", "copies", "digits"]

Batch = tuple[torch.Tensor, torch.Tensor]


class Task(NamedTuple):
    """A network, and what it learns."""

    model: nn.Module
    train: Batch
    test: Batch
    loss: str
    """What `loss_of` is of the losses of samples or tokens, as ``layers.rows`` names it."""

    def loss_of(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch, a mean over all classes that are asked for."""
        return cross_entropy(self.model(x).flatten(0, -2), y.flatten())

    def accuracy(self) -> float:
        """Return which part of the test classes is found."""
        x, y = self.test
        self.model.eval()
        with torch.no_grad():
            found = self.model(x).argmax(-1) == y
        self.model.train()
        return float(found.double().mean())

    def batches(self, size: int, seed: int) -> Iterator[Batch]:
        """Yield the training data once, in an order of the seed, and full batches only."""
        x, y = self.train
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        for part in order[: len(x) // size * size].split(size):
            yield x[part], y[part]


# ------------------------------------------------------------------------------------ digits


def digits(seed: int = 0, dtype: torch.dtype = torch.float32) -> Task:
    """Return 1297 images of digits for training, 500 for tests, and a CNN of 3,800 weights."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        msg = 'the digits come with scikit-learn: pip install "ngdla[study]"'
        raise ImportError(msg) from error
    images, labels = load_digits(return_X_y=True)
    x = torch.asarray(images / 16).to(dtype).reshape(-1, 1, 8, 8)
    y = torch.asarray(labels)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return Task(model.to(dtype), (x[:-500], y[:-500]), (x[-500:], y[-500:]), "mean")


# ------------------------------------------------------------------------------------ copies


def copies(
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    tokens: int = 10,
    length: int = 12,
    width: int = 32,
) -> Task:
    """Return sequences, to be copied three places further on, and a transformer of two blocks."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(tokens, (4096 + 256, length), generator=generator)
    y = x.roll(3, dims=1)
    torch.manual_seed(seed)
    model = Transformer(tokens, length, width, blocks=2).to(dtype)
    return Task(model, (x[:-256], y[:-256]), (x[-256:], y[-256:]), "token-mean")


class Transformer(nn.Module):
    """Blocks of attention and of two layers, between an embedding and logits of tokens."""

    def __init__(self, tokens: int, length: int, width: int, blocks: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.places = nn.Parameter(0.5 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x) + self.places)))


class Block(nn.Module):
    """Attention of one head, and two layers, each behind a norm and beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm_1(x)
        x = x + self.o(scaled_dot_product_attention(self.q(z), self.k(z), self.v(z)))
        return x + self.down(nn.functional.gelu(self.up(self.norm_2(x))))


TASKS = {"digits": digits, "copies": copies}
