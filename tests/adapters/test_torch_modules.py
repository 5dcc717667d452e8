"""Rows of modules of torch: what autograd says of single samples, and one error for each misuse."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from adapters.torch_networks import (
    Transformer,
    images,
    lines,
    loss_of,
    sample_gradients,
    transformer,
)
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import ngdla
from ngdla.adapters.torch_layers import Layer
from ngdla.adapters.torch_modules import record

SAMPLES = 5
NETWORKS = {"images": images, "lines": lines, "transformer": transformer}
EPS = torch.finfo(torch.float64).eps

Problem = tuple[nn.Module, torch.Tensor, torch.Tensor]


@pytest.fixture(params=NETWORKS)
def problem(request: pytest.FixtureRequest) -> Problem:
    made: Problem = NETWORKS[request.param](SAMPLES)
    return made


def recorded(model: nn.Module, x: Any, y: Any, *, scale: float = 1.0, **options: Any) -> Any:
    """Record a forward and a backward pass of the sum of the losses, times a scale."""
    model.zero_grad()
    with record(model, **options) as layers:
        (scale * loss_of(model(x), y)).backward()
    return layers


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 0.0) -> None:
    assert list(found) == list(expected)
    for name, rows in found.items():
        for x, y in zip(rows, expected[name]):
            assert (x.shape, x.dtype) == (y.shape, y.dtype), name
            assert torch.allclose(x, y, rtol=0, atol=tolerance * float(y.abs().max())), name


# ------------------------------------------------------------------------------- single samples


def gradient_of_sample(layers: Any, name: str, a: Any, g: Any, i: int) -> list[torch.Tensor]:
    """Return weight and bias of the gradient of one sample, from rows with sharing="none"."""
    (layer,) = layers._of(name)
    if not a.is_floating_point():
        table = torch.zeros(layer.shape, dtype=g.dtype)
        return layer.split(table.index_add_(1, a[i], g[i].mT))
    groups = a.shape[:-3]
    c = torch.zeros(*groups, SAMPLES, dtype=a.dtype)
    c[..., i] = 1.0
    return layer.split(ngdla.weighted_gradient(a, g, c, positions=True))


@pytest.mark.parametrize("backward", ["loss", "layers"])
def test_rows_are_gradients_of_samples(problem: Problem, backward: str) -> None:
    model, x, y = problem
    expected = sample_gradients(model, x, y)
    with record(model) as layers:
        loss = loss_of(model(x), y) / SAMPLES
        loss.backward() if backward == "loss" else layers.backward(loss)
    covered = set(layers.others)
    for name, (a, g) in layers.rows(sharing="none", loss="mean").items():
        (layer,) = layers._of(name)
        names = [f"{name}.weight", f"{name}.bias"][: len(layer.parameters())]
        covered |= set(names)
        for i, gradients in enumerate(expected):
            for one, part in zip(names, gradient_of_sample(layers, name, a, g, i)):
                bound = 64 * EPS * max(float(e[one].abs().max()) for e in expected)
                assert float((part - gradients[one]).abs().max()) <= bound, one
    assert covered == {name for name, _ in model.named_parameters()}


def test_backward_leaves_out_gradients_of_layers(problem: Problem) -> None:
    """And its products: those are a third of a backward pass of linear layers."""
    model, x, y = problem
    flops = {}
    for way in ("loss", "layers"):
        model.zero_grad()
        with record(model) as layers:
            loss = loss_of(model(x), y)
            with FlopCounterMode(display=False) as counter:
                loss.backward() if way == "loss" else layers.backward(loss)
        flops[way] = counter.get_total_flops()
    expected = (
        torch.autograd.grad(loss_of(model(x), y), list(layers.others.values()), allow_unused=True)
        if layers.others
        else ()
    )
    for gradient, (name, p) in zip(expected, layers.others.items()):
        assert torch.allclose(p.grad, gradient), name
    ours = [p for name, p in model.named_parameters() if name not in layers.others]
    assert ours
    assert all(p.grad is None for p in ours)
    assert flops["layers"] < 0.7 * flops["loss"]


# ------------------------------------------------------------------------------ Kronecker factors


@pytest.mark.parametrize("loss", ["sum", "mean", "token-mean"])
def test_rows_of_a_linear_layer(loss: str) -> None:
    """A is the mean over rows; G that over samples, or tokens, of sums over positions."""
    model, x, y = transformer(SAMPLES)
    T = x.shape[1]
    scale = {"sum": 1.0, "mean": 1 / SAMPLES, "token-mean": 1 / (SAMPLES * T)}[loss]
    layers = recorded(model, x, y, scale=scale, skip=[nn.Embedding])
    a, g = layers.rows(sharing="none", loss="sum")["head"]  # of the scaled loss
    g = g / scale
    A = torch.einsum("mti,mtj->ij", a, a) / (SAMPLES * T)
    G = torch.einsum("mti,mtj->ij", g, g) / (SAMPLES * (T if loss == "token-mean" else 1))
    rows = layers.rows(loss=loss)["head"]
    for x, expected in zip(rows, (A, G)):
        assert largest_difference(x.mT @ x / len(x), expected) <= 64 * EPS
    means, sums = layers.rows(sharing="reduce", loss=loss)["head"]
    assert largest_difference(means, a.mean(1)) <= 64 * EPS
    root = math.sqrt(T) if loss == "token-mean" else 1.0
    assert largest_difference(sums, g.sum(1) / root) <= 64 * EPS


def test_reduced_convolutions(problem: Problem) -> None:
    """Means of patches without unfolding, and sums of output gradients over positions."""
    model, x, y = problem
    tables = [nn.Embedding] if isinstance(model, Transformer) else []
    layers = recorded(model, x, y, skip=tables)
    whole = layers.rows(sharing="none", loss="sum")
    for name, (a, g) in layers.rows(sharing="reduce", loss="sum").items():
        if isinstance(model.get_submodule(name), (nn.LayerNorm, nn.RMSNorm)):
            continue
        for found, (x, of) in zip((a, g), zip(whole[name], (torch.mean, torch.sum))):
            assert largest_difference(found, of(x, -2)) <= 64 * EPS


def test_norms_are_stacks_of_layers() -> None:
    """Sums of products of their rows are the second moments of normalized features."""
    model, x, y = transformer(SAMPLES)
    layers = recorded(model, x, y)
    rows, each = (layers.rows(sharing=s, loss="sum") for s in ("expand", "none"))
    a, g = rows["blocks.0.first"]
    d, T = model.embedding.embedding_dim, x.shape[1]
    assert a.shape == (d, SAMPLES * T, 2)
    assert g.shape == (d, SAMPLES * T, 1)
    u, ones = each["blocks.0.first"]
    sums = (a * g).unflatten(1, (SAMPLES, T)).sum(2) / math.sqrt(T)  # (d, M, 2)
    assert u.shape == (SAMPLES, 1, 2 * d)
    assert largest_difference((u * ones)[:, 0], sums.movedim(0, 1).flatten(1)) <= 64 * EPS


def test_embeddings_are_indices() -> None:
    model, x, y = transformer(SAMPLES)
    layers = recorded(model, x, y)
    indices, g = layers.rows(loss="sum")["embedding"]
    assert torch.equal(indices, x.flatten())
    G = layers.gradient("embedding")
    table = torch.zeros_like(G).index_add_(1, indices, g.mT) / math.sqrt(x.shape[1])
    assert largest_difference(table, G) <= 64 * EPS
    assert not g[indices == model.embedding.padding_idx].any()
    with pytest.raises(
        ValueError, match=r"`embedding` is an embedding.*skip=\[torch.nn.Embedding\]"
    ):
        layers.rows(sharing="reduce")


# ----------------------------------------------------------------------------- ways of training


def test_parts_of_a_batch_add_up(problem: Problem) -> None:
    """Uneven ones: losses are divided by the samples of all."""
    model, x, y = problem
    whole = recorded(model, x, y, scale=1 / SAMPLES).rows(sharing="none")
    with record(model) as layers:
        for part in (slice(0, 2), slice(2, SAMPLES)):
            (loss_of(model(x[part]), y[part]) / SAMPLES).backward()
    assert_same(layers.rows(sharing="none"), whole, 256 * EPS)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    model, x, y = images(SAMPLES)
    x.requires_grad_()  # without which a reentrant checkpoint has no gradient
    expected = recorded(model, x, y).rows()
    with record(model) as layers:
        middle = checkpoint(model[:5], x, use_reentrant=reentrant)
        loss_of(model[5:](middle), y).backward()
    assert_same(layers.rows(), expected)


def test_checkpoints_free_inputs() -> None:
    """Those between checkpoints are not kept for the rows until they are made again."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    kept: list[Any] = []
    model[1].register_forward_hook(lambda m, i, output: kept.append(output.detach().data_ptr()))
    with record(model):
        loss = checkpoint(model, x, use_reentrant=False).sum()
        alive = {t.data_ptr() for t in gc.get_objects() if type(t) is torch.Tensor}
        assert kept[0] not in alive
        loss.backward()


def test_autocast_and_loss_scales() -> None:
    """Rows are float32, and the scale that keeps half precision from vanishing is undone."""
    model, x, y = transformer(SAMPLES)
    model.float()
    expected = recorded(model, x, y).rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers = recorded(model, x, y, scale=2.0**10)
    for name, (a, g) in layers.rows(loss_scale=2.0**10).items():
        assert g.dtype == torch.float32
        assert a.dtype in (torch.float32, torch.int64)
        assert largest_difference(g, expected[name][1]) < 0.1


def test_no_graph_is_kept(problem: Problem) -> None:
    model, x, y = problem
    layers = recorded(model, x.requires_grad_(x.is_floating_point()), y)
    for rows in layers.rows().values():
        assert all(z.grad_fn is None and not z.requires_grad for z in rows)
    assert all(not layers.gradient(name).requires_grad for name in layers)


def test_samples_on_another_axis() -> None:
    """Sequences (T, M, d) have the rows of (M, T, d)."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3)).double()
    tokens = torch.randint(7, (SAMPLES, 6))
    with record(model) as first:
        model(tokens).square().sum().backward()
    with record(model, batch_axis=1) as second:
        model(tokens.mT).square().sum().backward()
    for sharing in ("expand", "none"):
        assert_same(*(x.rows(sharing=sharing) for x in (second, first)), tolerance=64 * EPS)


def test_equal_layers_are_stacked() -> None:
    model, x, y = transformer(SAMPLES)
    single, stacked = (recorded(model, x, y, stack=stack) for stack in (False, True))
    one_by_one, together = single.rows(), stacked.rows()
    assert len(together) < len(one_by_one)
    assert sorted("|".join(together).split("|")) == sorted(one_by_one)
    for name, rows in together.items():
        if "|" in name:
            expected = [torch.stack(x) for x in zip(*(one_by_one[n] for n in name.split("|")))]
            assert all(map(torch.equal, rows, expected))
            gradient = torch.stack([single.gradient(n) for n in name.split("|")])
            assert torch.equal(stacked.gradient(name), gradient)


def test_steps_are_written_into_gradients(problem: Problem) -> None:
    """By any way that rows come, and into gradients that are there, or are not."""
    model, x, y = problem
    layers = recorded(model, x, y, stack=True)
    for name in layers:
        step = 2.0 * layers.gradient(name)
        layers.write(name, step)
        assert torch.equal(layers.gradient(name), step)
    expected = {n: 2 * p.grad for n, p in model.named_parameters() if n not in layers.others}
    layers = recorded(model, x, y, stack=True)
    steps = {name: 2.0 * layers.gradient(name) for name in layers}
    model.zero_grad()
    for name, step in steps.items():
        layers.write(name, step)
    assert layers
    for name, p in model.named_parameters():
        if name in expected:
            assert p.grad.shape == p.shape


@pytest.mark.parametrize("stack", [False, True], ids=["single", "stack"])
@pytest.mark.parametrize("copy", [False, True], ids=["handed over", "copied"])
def test_columns_are_written_as_a_whole_step(problem: Problem, stack: bool, copy: bool) -> None:
    model, x, y = problem
    layers = recorded(model, x, y, stack=stack)
    steps = {name: 2.0 * layers.gradient(name) for name in layers}
    model.zero_grad()
    for there in (False, True):  # whether there are gradients
        for name, step in steps.items():
            layers.write(name, *((1 + there) * part for part in layers.columns(name, step)))
            assert torch.equal(layers.gradient(name), (1 + there) * step), name
    model.zero_grad()
    for name, (a, g) in layers.rows(sharing="none").items():
        if a.is_floating_point():
            v = torch.linspace(-1.0, 2.0, SAMPLES, dtype=a.dtype).expand(a.shape[:-2])
            whole = ngdla.weighted_gradient(a, g, v, positions=True)
            parts = [
                ngdla.weighted_gradient(x, g, v, positions=True) for x in layers.columns(name, a)
            ]
            layers.write(name, *parts, copy=copy)
            expected = whole.reshape(layers.gradient(name).shape)
            bound = 64 * EPS * float(expected.abs().max())
            assert float((layers.gradient(name) - expected).abs().max()) <= bound, name


def test_steps_that_are_handed_over_are_not_copied() -> None:
    layer = nn.Linear(3, 2)
    layers = record(layer)
    W, b = torch.ones(2, 3), torch.ones(2, 1)
    layers.write("", W, b)
    kept = layer.weight.grad
    W += 1
    assert torch.equal(kept, torch.ones(2, 3))
    layers.write("", W, b, copy=False)
    assert layer.weight.grad is kept  # of DistributedDataParallel it may be a view
    assert torch.equal(kept, W)
    layer.zero_grad()
    layers.write("", W, b, copy=False)
    assert layer.weight.grad.data_ptr() == W.data_ptr()
    # fused optimizers take gradients as they lie in memory
    layer.zero_grad()
    layers.write("", torch.ones(2, 4), copy=False)
    assert layer.weight.grad.is_contiguous()
    convolution = nn.Conv2d(3, 2, 2, bias=False).to(memory_format=torch.channels_last)
    record(convolution).write("", torch.ones(2, 12), copy=False)
    assert convolution.weight.grad.stride() == convolution.weight.stride()


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("sharing", ["expand", "none"])
def test_norms_of_one_feature(norm: type[nn.Module], sharing: str) -> None:
    layer = norm(1)
    x = torch.tensor([[1.0], [-2.0], [3.0]])
    with record(layer) as layers:
        (layer(x) + 1).square().sum().backward()
    expected = layers.gradient("")
    layers.write("", 2 * expected)
    assert torch.equal(layers.gradient(""), 2 * expected)
    a, g = layers.rows(sharing=sharing, loss="sum")[""]
    v = torch.ones(3).expand(*a.shape[: -2 - (sharing == "none")], 3)
    parts = [
        ngdla.weighted_gradient(x, g, v, positions=sharing == "none") for x in layers.columns("", a)
    ]
    assert len(parts) == len(list(layer.parameters()))
    layers.write("", *parts)
    assert torch.allclose(layers.gradient(""), expected, atol=1e-5)


def test_inputs_that_changed_in_place_are_refused() -> None:
    """As in a buffer that is used again, by one error in place of wrong rows."""
    model, buffer = nn.Linear(3, 2), torch.ones(4, 3)
    with record(model) as layers:
        model(buffer).sum().backward()
        rows = layers.rows()
        assert rows[""][0].shape == (4, 4)
        buffer.mul_(2)
        for take in (layers.rows, lambda: rows[""]):
            with pytest.raises(ValueError, match=r"inputs of `Linear` were changed in place.*copy"):
                take()


def test_hooks_are_gone_on_leaving() -> None:
    model, x, y = images(SAMPLES)
    layers = record(model)
    with pytest.raises(RuntimeError, match="of the user"), layers:
        raise RuntimeError("of the user")
    assert not any(m._forward_hooks for m in model.modules())
    with layers:  # again, from the beginning
        loss_of(model(x), y).backward()
    first = layers.rows()
    with layers:
        loss_of(model(x), y).backward()
    assert_same(layers.rows(), first)
    assert not any(m._forward_hooks for m in model.modules())


def test_what_is_skipped_is_with_the_others() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randn(SAMPLES, 1, 4), torch.randint(2, (SAMPLES,))
    assert list(record(model)) == ["0", "3"]
    assert list(record(model).others) == ["1.weight", "1.bias"]
    layers = recorded(model, x, y, skip=[nn.Linear, "1"])
    assert list(layers) == ["0"]
    assert list(layers.others) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert len(layers) == 1


# ---------------------------------------------------------------------------------- bad input


class Shared(nn.Sequential):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3), nn.Linear(3, 3))
        self[1].weight = self[0].weight


class Own(nn.Linear):
    """Not the product that a linear layer is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def changed(change: Callable[[nn.Module], Any]) -> nn.Module:
    """Return a module after a change of the layer in the middle."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3))
    change(model[1][0])
    return model


def parametrized() -> nn.Module:
    return changed(torch.nn.utils.parametrizations.weight_norm)


def in_place(module: nn.Module) -> None:
    module.compile(backend="eager")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "shared": (Shared, r"`0` and `1` share a parameter.*skip=\['0', '1'\]"),
    "frozen": (
        lambda: changed(lambda m: m.weight.requires_grad_(False)),
        r"`1.0` is frozen.*requires_grad=False.*skip=\['1.0'\]",
    ),
    "frozen bias": (lambda: changed(lambda m: m.bias.requires_grad_(False)), "`1.0` is frozen"),
    "eval mode": (lambda: changed(nn.Module.eval), r"`1.0` is in eval mode; call model.train\(\)"),
    "compiled": (
        lambda: torch.compile(changed(id), backend="eager"),
        "`OptimizedModule` is compiled.*before",
    ),
    "compiled inside": (
        lambda: nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager")),
        "`0` is compiled by torch.compile",
    ),
    "compiled in place": (lambda: changed(in_place), "`1.0` is compiled by torch.compile"),
    "parametrized": (parametrized, "`1.0` computes its weight.*parametrize"),
    "own forward": (lambda: nn.Sequential(Own(3, 3)), "`0` has a forward of its own.*nn.Linear"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "`0` has no weight yet; call the model"),
    "sparse": (
        lambda: nn.Sequential(nn.Embedding(3, 3, sparse=True)),
        "`0` is an embedding with sparse",
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(4, 2),
        "`self_attn` is a torch.nn.MultiheadAttention.*in_proj_weight.*four torch.nn.Linear.*skip=",
    ),
    "a layer itself": (
        lambda: nn.Linear(3, 3).eval(),
        r"^`Linear` is in eval mode; call model.train\(\)\.$",
    ),
    "no layers": (nn.Identity, "`module` is a Identity without layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_modules(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message), record(make()):
        pass


def called_twice(model: nn.Module) -> Any:
    return model[1](model(torch.ones(2, 3)))


def without_gradient(model: nn.Module) -> Any:
    with torch.no_grad():
        x = model[:2](torch.ones(2, 3))
    return model[2](x)


PASSES: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "twice": (called_twice, r"`1.0` is called twice before a backward pass.*skip=\['1.0'\]"),
    "no_grad": (without_gradient, r"`0` was called under torch.no_grad\(\) alone"),
    "not called": (lambda m: m[::2](torch.ones(2, 3)), "`1.0` was not called"),
    "detached": (
        lambda m: m[2](m[:2](torch.ones(2, 3)).detach()),
        "`0` was called, but no backward pass came through it",
    ),
    "other samples": (
        lambda m: m[1:](m[0](torch.ones(4, 2, 3)).flatten(0, 1)),
        "`1.0` has 8 samples and `0` 4: samples must be axis `batch_axis`",
    ),
}


@pytest.mark.parametrize("case", PASSES)
def test_refused_passes(case: str) -> None:
    go, message = PASSES[case]
    model = changed(id)
    with pytest.raises(ValueError, match=message), record(model) as layers:  # noqa: PT012
        go(model).sum().backward()
        layers.rows()
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_layer_that_is_not_finite_is_named(bad: float) -> None:
    """The first one whose inputs are bad; else the last one whose output gradients are."""
    model = changed(id)
    with record(model) as layers:
        x = model[:2](torch.ones(2, 3))
        model[2](torch.where(x == x[0, 0], bad, x)).sum().backward()
    with pytest.raises(ValueError, match=r"^inputs of `2` contain NaN or Inf"):
        layers.rows()
    with record(model) as layers:
        x = model[:2](torch.ones(2, 3))
        x.register_hook(lambda g: g * bad)
        model[2](x).sum().backward()
    with pytest.raises(ValueError, match=r"output gradients of `1.0` contain NaN or Inf"):
        layers.rows()
    assert not torch.isfinite(layers.rows(check=False)["0"][1]).all()


def test_a_layer_itself_is_named_by_its_class() -> None:
    layer = nn.Linear(3, 3)
    layers = record(layer)
    assert list(layers) == [""]  # as in module.named_modules()
    with pytest.raises(ValueError, match="`Linear` was not called"), layers:
        layers.rows()


def test_large_finite_numbers_are_not_refused() -> None:
    """Their sum overflows; they do not."""
    model = nn.Linear(2, 2)
    with record(model) as layers:
        model(torch.full((1000, 2), 1e36)).sum().backward()
    assert layers.rows()[""][0].isfinite().all()


def test_bad_arguments() -> None:
    model = changed(id)
    for skip, kind, message in (
        ("1", TypeError, "`skip` is '1'; it must be a list"),
        (nn.Linear, TypeError, "`skip` is .*; it must be a list"),
        (["2.0"], ValueError, r"`skip` has '2.0', which is no path in model.named_modules\(\)"),
        ([int], TypeError, "`skip` has .*a path or a class of modules"),
    ):
        with pytest.raises(kind, match=message):
            record(model, skip=skip)
    with pytest.raises(TypeError, match=r"`module` is a function; it must be a torch.nn.Module"):
        record(lambda x: x)
    with pytest.raises(TypeError, match="`stack` is 1"):
        record(model, stack=1)
    layers = recorded(model, torch.ones(2, 3), torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match="entered already"), layers, layers:
        pass
    with pytest.raises(ValueError, match="`sharing` is 'all'"):
        layers.rows(sharing="all")
    with pytest.raises(ValueError, match="`loss` is 'average'"):
        layers.rows(loss="average")
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"`loss_scale` is .*positive and finite"):
            layers.rows(loss_scale=scale)
    with pytest.raises(TypeError, match="`loss_scale` is '2'; it must be a number"):
        layers.rows(loss_scale="2")
    for axis in (2, 3):
        one = nn.Linear(3, 3)
        with record(one, batch_axis=axis) as bad:
            one(torch.ones(2, 4, 3)).sum().backward()
        with pytest.raises(ValueError, match=rf"`batch_axis` is {axis}, and `Linear` has.*4, 3"):
            bad.rows()
    for axis, kind in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(kind, match="`batch_axis` is"):
            record(model, batch_axis=axis)


def test_bad_names_and_steps() -> None:
    model = changed(id)
    with record(model) as layers:
        layers.backward(model(torch.ones(2, 3)).sum())
    with pytest.raises(KeyError, match=r"`name` is '1'; recorded are '0', '1.0', '2'"):
        layers.write("1", torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"`step` has shape \(4, 3\); .* `0` must .*\(3, 4\)"):
        layers.write("0", torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"shape \(3, 3\), \(4, 1\); one of `0`.*its columns"):
        layers.write("0", torch.ones(3, 3), torch.ones(4, 1))
    with pytest.raises(ValueError, match="`step` has shape of nothing"):
        layers.write("0")
    W, b = torch.zeros(4, 3), torch.zeros(4, 1)
    for step, kind, message in (
        ((W, b.numpy()), TypeError, "`step` of `0` has a ndarray; it must be a torch.Tensor"),
        ((None,), TypeError, "`step` of `0` has a NoneType"),
        ((W, b + 1j), TypeError, "`step` of `0` is complex.*real part"),
        ((W, b.to("meta")), ValueError, "`step` of `0` is on meta, its weight on cpu; move"),
    ):
        with pytest.raises(kind, match=message):
            layers.write("0", *step)
        assert all(p.grad is None for p in model[0].parameters())  # nothing is half written
    with pytest.raises(TypeError, match="`copy` is 'no'"):
        layers.write("0", W, b, copy="no")
    with pytest.raises(TypeError, match=r"`x` is 1\.0; it must be a torch.Tensor"):
        layers.columns("0", 1.0)
    with pytest.raises(KeyError, match=r"`name` is '1'; recorded are '0', '1.0', '2'"):
        layers.rows()["1"]
    with pytest.raises(KeyError, match="`name` is 'x'"):
        layers.columns("x", torch.ones(3, 4))
    with pytest.raises(ValueError, match="`x` has 3 columns; those of `0` are 4"):
        layers.columns("0", torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"`0` has no gradient: call loss.backward\(\)"):
        layers.gradient("0")


def test_rows_are_formed_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over layers holds the rows of one; what comes later does not change them."""
    model = changed(id)
    formed: list[str] = []
    form = Layer.rows
    monkeypatch.setattr(
        Layer, "rows", lambda layer, *rest: formed.append(layer.name) or form(layer, *rest)
    )
    with record(model) as layers:
        model(torch.ones(2, 3)).sum().backward()
        rows = layers.rows()
        assert not formed
        assert list(rows) == list(layers)
        assert rows["2"][0].shape == (2, 4)
        assert formed == ["2"]
        model(torch.ones(3, 3)).sum().backward()
    assert len(layers.rows()["2"][0]) == 5
    with layers:
        pass
    assert len(rows["2"][0]) == 2


def test_embeddings_are_listed() -> None:
    model, _, _ = transformer(SAMPLES)
    assert record(model).embeddings == ["embedding"]
    assert record(model, skip=[nn.Embedding]).embeddings == []


def test_equal_layers_with_other_rows() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    with record(model, stack=True) as layers:
        y = model["a"](torch.ones(2, 4, 3)).sum() + model["b"](torch.ones(2, 5, 3)).sum()
        y.backward()
    with pytest.raises(ValueError, match=r"\(a: 8, b: 10\): pass stack=False"):
        layers.rows()
