"""Networks of torch with every kind of layer, and what autograd says of each of their samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Block(nn.Module):
    """Attention with four projections and two layers behind it, norms in front of both."""

    def __init__(self, width: int, heads: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, norm(width), norm(width)
        self.q, self.k, self.v = (
            nn.Linear(width, width, bias=bias) for bias in (True, False, True)
        )
        self.o = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        heads = (f(y).unflatten(-1, (self.heads, -1)) for f in (self.q, self.k, self.v))
        q, k, v = (x.transpose(1, 2) for x in heads)
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Two blocks between an embedding, with positions of its own, and logits of tokens."""

    TOKENS, LENGTH = 11, 6

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.TOKENS, width, padding_idx=3)
        self.place = nn.Parameter(torch.randn(self.LENGTH, width))
        self.blocks = nn.Sequential(Block(width, 2, nn.LayerNorm), Block(width, 2, nn.RMSNorm))
        self.head = nn.Linear(width, self.TOKENS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(x) + self.place))


def transformer(samples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a transformer, tokens, and the tokens that are to come out."""
    torch.manual_seed(0)
    x, y = (torch.randint(Transformer.TOKENS, (samples, Transformer.LENGTH)) for _ in range(2))
    return Transformer().double(), x, y


def images(samples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network of convolutions in a plane, images and classes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    x = torch.randn(samples, 2, 8, 8, dtype=torch.float64)
    model.double()(x)
    return model, x, torch.randint(5, (samples,))


def lines(samples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network of convolutions of volumes and of lines, volumes and classes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 2, 2, stride=(1, 2, 2)),
        nn.Flatten(2),
        nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Flatten(),
        nn.LazyLinear(4),
    )
    x = torch.randn(samples, 1, 3, 4, 4, dtype=torch.float64)
    model.double()(x)
    return model, x, torch.randint(4, (samples,))


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of the losses of all samples and positions."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def sample_gradients(model: nn.Module, x: Any, y: Any) -> list[dict[str, torch.Tensor]]:
    """Return the gradients of the loss of each sample by itself, of all parameters by name."""
    found = []
    names, parameters = zip(*model.named_parameters())
    for i in range(len(x)):
        gradients = torch.autograd.grad(loss_of(model(x[i : i + 1]), y[i : i + 1]), parameters)
        found.append(dict(zip(names, gradients)))
    return found
