"""Passes that are no plain forward and backward pass: rows are right, or the layer is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from ngdla.adapters.torch_modules import record

EPS = float(torch.finfo(torch.float64).eps)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def inputs() -> torch.Tensor:
    return torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(y: torch.Tensor) -> torch.Tensor:
    return y.square().sum(dim=1).mean()


def assert_rows_are_of_gradients(layers: Any) -> None:
    """Each gradient is the mean product of the rows."""
    for name, (a, g) in layers.rows().items():
        V = layers.gradient(name)
        assert float((g.mT @ a / len(a) - V).abs().max()) <= 64 * EPS * float(V.abs().max()), name


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_hooks_of_the_user_come_after_ours(scale: float) -> None:
    """They may return another output, and keep what the layer returned."""
    model, kept = mlp(), []

    def doubled(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(loss_of(output))
        return scale * output

    model[0].register_forward_hook(doubled)
    model[0].register_forward_pre_hook(lambda module, arguments: (3 * arguments[0],))
    with record(model) as layers:
        y = model(inputs())
        (loss_of(y) + kept[0]).backward()
    assert_rows_are_of_gradients(layers)


def test_losses_of_one_pass_add_up() -> None:
    """Two backward passes through one forward pass are of the same samples."""
    model = mlp()
    with record(model) as layers:
        loss = loss_of(model(inputs()))
        (0.25 * loss).backward(retain_graph=True)
        (0.75 * loss).backward()
    assert all(len(a) == len(inputs()) for a, _ in layers.rows().values())
    assert_rows_are_of_gradients(layers)


def test_backward_passes_that_are_differentiated() -> None:
    """A penalty on gradients would have rows of its first pass, and lack its second derivatives."""
    model, x = mlp(), inputs().requires_grad_()
    with record(model) as layers, pytest.raises(ValueError, match=r"create_graph=True .* `2`"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    loss_of(gradient).backward()
    first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with record(model) as layers:
        loss_of(model(x)).backward()
    for name, p in model.named_parameters():
        p.grad -= first.get(name, 0.0)
    for name, (a, g) in layers.rows().items():
        scale = max(float(first[f"{name}.weight"].abs().max()), float(g.abs().max()))
        difference = g.mT @ a / len(a) - layers.gradient(name)
        assert float(difference.abs().max()) <= 256 * EPS * scale


@pytest.mark.parametrize("sharing", ["expand", "reduce", "none"])
def test_no_samples(sharing: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.LayerNorm(2), nn.Flatten(), nn.Linear(16, 2)
    )
    with record(model) as layers:
        model(torch.zeros(0, 2, 4, 4)).sum().backward()
    shapes = {name: tuple(g.shape) for name, (_, g) in layers.rows(sharing=sharing).items()}
    assert shapes["3"] == ((0, 2) if sharing != "none" else (0, 1, 2))
    assert shapes["0"] == ((2, 0, 2) if sharing != "none" else (2, 0, 4, 2))


def test_no_sequences() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    with record(model) as layers:
        model(torch.zeros(0, 4, dtype=torch.int64)).sum().backward()
    shapes = {name: [tuple(x.shape) for x in pair] for name, pair in layers.rows().items()}
    assert shapes == {"0": [(0,), (0, 3)], "1": [(0, 4), (0, 2)]}


def test_a_mean_over_some_tokens() -> None:
    """What `loss_scale` makes of it is what a token is alone."""
    layer, x = nn.Linear(3, 5).double(), torch.randn(4, 6, 3, dtype=torch.float64)
    labels = torch.randint(5, (4, 6))
    labels[1:, 4:] = -100
    model = nn.Sequential(layer)
    gradients = []
    for reduction in ("mean", "sum"):
        with record(model) as layers:
            y = model(x).flatten(0, 1)
            loss = nn.functional.cross_entropy(y, labels.flatten(), reduction=reduction)
            loss.backward()
        if reduction == "mean":
            share = labels.numel() / int((labels != -100).sum())
            gradients.append(layers.rows(loss="token-mean", loss_scale=share)["0"][1])
        else:
            gradients.append(layers.rows(loss="sum")["0"][1] / 6**0.5)
    assert torch.allclose(*gradients, rtol=64 * EPS, atol=64 * EPS)


def test_copies_are_not_recorded() -> None:
    """A copy that was made within the context has the hooks still."""
    model = mlp()
    with record(model) as layers:
        average = copy.deepcopy(model)
        loss_of(average(inputs()) + model(inputs())).backward()
    assert_rows_are_of_gradients(layers)
    average(average[0].weight[:2].detach())
    average(inputs())


def test_a_forward_of_one_layer() -> None:
    model = mlp()
    model[0].forward = lambda x: 3 * nn.functional.linear(x, model[0].weight, model[0].bias)
    with pytest.raises(ValueError, match="`0` has a forward of its own"):
        record(model)


def test_others_follow_what_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    layers = record(model)
    assert list(layers.others) == ["1.weight", "1.bias"]
    for trained in (False, True):
        model[1].weight.requires_grad_(trained)
        with layers:
            layers.backward(model(inputs()).pow(3).sum())
        assert (model[1].weight.grad is not None) == trained
        assert model[1].bias.grad is not None


def test_complex_layers() -> None:
    """Rows are of gradients g a^H, as torch defines them, and NaN is found."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2, dtype=torch.complex128), torch.randn(4, 3, dtype=torch.complex128)
    with record(model) as layers:
        (model(x).abs() ** 2).sum().backward()
    a, g = layers.rows(loss="sum")[""]
    V = layers.gradient("")
    assert float((g.mT @ a.conj() - V).abs().max()) <= 64 * EPS * float(V.abs().max())
    x[0, 0] = torch.nan
    with record(model) as layers:
        model(x)[1:].abs().sum().backward()
    with pytest.raises(ValueError, match="inputs of `Linear` contain NaN"):
        layers.rows()
