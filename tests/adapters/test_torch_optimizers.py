"""The optimisers of docs/examples for torch modules: dense formulas, training, checkpoints."""

import ast
import doctest
import itertools
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, one_hot

import ngdla
from ngdla.adapters.torch_modules import record

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
sys.path.append(str(EXAMPLES))

from optimizers.fngd import FNGD
from optimizers.kfac import KFAC
from optimizers.natural_gradient import NaturalGradient
from optimizers.singd import SINGD

CLASSES = [KFAC, SINGD, FNGD, NaturalGradient]
M, CHOICES = 7, 3
EPS = torch.finfo(torch.float64).eps
SKIP = [nn.Embedding]


def convolutions():
    """Return a network with groups, and images."""
    layers = [
        nn.Conv2d(2, 4, 3, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, CHOICES),
    ]
    return nn.Sequential(*layers), torch.randn(M, 2, 5, 5)


def sequences():
    """Return a network with an embedding, a norm and equal layers, and tokens."""
    hidden = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)]
    layers = [nn.Embedding(6, 4), nn.LayerNorm(4), *hidden, nn.Flatten(), nn.Linear(20, CHOICES)]
    return nn.Sequential(*layers), torch.randint(6, (M, 5))


@pytest.fixture(params=[convolutions, sequences])
def problem(request):
    """Return a network in double precision, inputs and classes."""
    torch.manual_seed(0)
    model, x = request.param()
    x = x.double() if x.is_floating_point() else x
    return model.double(), x, torch.randint(CHOICES, (M,))


def recorded(model, x, y, *, skip=(), scale=1.0, mean=True, **options):
    """Return the layers after a forward and a backward pass."""
    model.zero_grad()
    with record(model, skip=skip, **options) as layers:
        loss = scale * cross_entropy(model(x), y)
        loss.backward() if mean else layers.backward(loss)
    return layers


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def close(found, expected, condition=1.0):
    found, expected = found.detach(), expected.detach()
    bound = 100 * condition * EPS * float(expected.norm())
    return float((found - expected).norm()) <= bound


def moment(X):
    return X.mT @ X / X.shape[-2]


def mean_eigenvalue(F):
    return F.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]


def rows_of(layers, **options):
    """Return rows, those of embeddings as rows with a single one."""
    rows = layers.rows(**options)
    sizes = {name: layers.gradient(name).shape[-1] for name in rows}
    return {
        name: (a if a.is_floating_point() else one_hot(a, sizes[name]).to(g), g)
        for name, (a, g) in rows.items()
    }


def solved(A, G, V, damping):
    """Return X with G X A + damping X = V, of each layer of a stack, by the matrix of them all."""
    if V.ndim > 2:
        return torch.stack([solved(*one, damping) for one in zip(A, G, V, strict=True)])
    matrix = torch.kron(G, A) + damping * torch.eye(V.numel(), dtype=V.dtype)
    return torch.linalg.solve(matrix, V.flatten()).view_as(V)


def dense(F):
    """Return a factor from its decomposition."""
    if isinstance(F, torch.Tensor):
        return torch.diag(F)
    if isinstance(F, ngdla.LowRankEigh):
        return F.to_dense()
    values, vectors = F
    return (vectors * values[..., None, :]) @ vectors.mT


def scores_of(model, x, y):
    """Return the gradients of the losses of single samples, by torch.func."""

    def loss(parameters, x, y):
        return cross_entropy(functional_call(model, parameters, x[None]), y[None])

    return vmap(grad(loss), (None, 0, 0))(dict(model.named_parameters()), x, y)


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_is_short(cls):
    (node,) = (
        node
        for node in ast.parse(Path(sys.modules[cls.__module__].__file__).read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert node.end_lineno - node.lineno < 70


@pytest.mark.parametrize("cls", CLASSES)
def test_example_of_a_class(cls, problem):
    model, x, y = problem
    before = [p.clone() for p in model.parameters()]
    examples = doctest.DocTestParser().get_examples(cls.__doc__)
    assert sum(example.source.count("\n") for example in examples) <= 15
    names = {"torch": torch, "record": record, cls.__name__: cls, "model": model}
    names["batches"] = [(x, y)] * 2
    for example in examples:
        exec(example.source, names)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


# ------------------------------------------------------------------------------ dense formulas


@pytest.mark.parametrize("kl", [None, 1e-4])
def test_steps_of_kfac(problem, kl):
    model, x, y = problem
    damping, decay, lr = 0.1, 0.8, 0.5
    kfac = KFAC(damping, decay=decay, kl=kl)
    averages, weight = {}, 0.0
    for batch in (slice(4), slice(4, M)):
        layers = recorded(model, x[batch], y[batch])
        V = {name: layers.gradient(name) for name in layers}
        weight = decay * weight + 1 - decay
        for name, pair in rows_of(layers).items():
            last = averages.get(name, (0.0, 0.0))
            averages[name] = [decay * F + (1 - decay) * moment(X) for F, X in zip(last, pair)]
        kfac.precondition(layers, lr)
    steps = {
        name: solved(A / weight, G / weight, V[name], damping) for name, (A, G) in averages.items()
    }
    change = lr**2 * sum((step * V[name]).sum() for name, step in steps.items())
    factor = 1.0 if kl is None else min(1.0, float(kl / change) ** 0.5)
    assert kl is None or factor < 1
    for name, step in steps.items():
        assert close(layers.gradient(name), factor * step, 1 / damping)


def test_steps_of_kfac_from_few_eigenpairs(problem):
    model, x, y = problem
    kfac = KFAC(0.1, rank=1, kl=None)
    for _ in range(2):
        layers = recorded(model, x, y)
        V = {name: layers.gradient(name) for name in layers}
        kfac.precondition(layers, 1.0)
        assert any(
            isinstance(F, ngdla.LowRankEigh) for F in itertools.chain(*kfac.decomposed.values())
        )
        for name, (A, G) in kfac.decomposed.items():
            step = solved(dense(A), dense(G), V[name], 0.1)
            assert close(layers.gradient(name), step, 1 / 0.1)


@pytest.mark.parametrize("rule", ["ingd", "ikfac"])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_steps_of_singd(problem, rule, sharing):
    model, x, y = problem
    damping, momentum = 0.1, 0.5
    options = {"momentum": momentum, "sharing": sharing, "kl": None, "safeguard": False}
    singd = SINGD(damping, rule=rule, **options)
    factors = {}
    for batch, step_size in ((slice(4), 1 / 2), (slice(4, M), 1 / 3)):
        layers = recorded(model, x[batch], y[batch], skip=SKIP)
        V = {name: layers.gradient(name) for name in layers}
        for name, pair in layers.rows(sharing=sharing).items():
            start = [(torch.eye(X.shape[-1], dtype=X.dtype), 0.0) for X in pair]
            last = factors.get(name, start)
            H = [F.mT @ moment(X) @ F for X, (F, _) in zip(pair, last)]
            grams = [F.mT @ F for F, _ in last]
            if rule == "ingd":
                H = [H[0] * mean_eigenvalue(H[1]), H[1] * mean_eigenvalue(H[0])]
                grams = [grams[0] * mean_eigenvalue(grams[1]), grams[1] * mean_eigenvalue(grams[0])]
            new = []
            for (F, m), H_F, gram in zip(last, H, grams):
                one = torch.eye(F.shape[-1], dtype=F.dtype)
                m = momentum * m + (H_F + damping * gram - one) / 2
                new.append((F @ (one - step_size * m), m))
            factors[name] = new
        singd.precondition(layers, 1.0)
    for name, ((K, _), (C, _)) in factors.items():
        assert close(layers.gradient(name), C @ C.mT @ V[name] @ K @ K.mT, 10)


def test_a_step_of_fngd(problem):
    model, x, y = problem
    part = 0.02
    layers = recorded(model, x, y, skip=SKIP, mean=False)
    FNGD(part).precondition(layers)
    scores = scores_of(model, x, y)
    for name in layers:
        module = model.get_submodule(name)
        groups = getattr(module, "groups", 1)  # each is a layer of its own
        names = [f"{name}.{key}" for key, _ in module.named_parameters()]
        U = torch.cat([scores[key].reshape(M, groups, -1) for key in names], dim=2).permute(1, 2, 0)
        found = [model.get_parameter(key).grad.reshape(groups, -1) for key in names]
        for u, step in zip(U, torch.cat(found, dim=1), strict=True):
            damping = part * torch.linalg.matrix_norm(u.T @ u)
            F = u @ u.T / M + damping * torch.eye(len(u), dtype=u.dtype)
            assert close(step, damping * torch.linalg.solve(F, u.mean(dim=1)), 1 / part)


def flattened(tensors):
    return torch.cat([x.reshape(M, -1) for x in tensors], dim=1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_of_the_natural_gradient(problem, momentum):
    model, x, y = problem
    natural, damping = NaturalGradient(0.01, momentum=momentum), 0.01
    last = 0.0
    for shift in range(2):
        labels = (y + shift) % CHOICES
        layers = recorded(model, x, labels, skip=SKIP, mean=False)
        natural.precondition(layers)
        keys = [key for key, _ in model.named_parameters() if key.rpartition(".")[0] in layers]
        S = flattened([scores_of(model, x, labels)[key] for key in keys])
        F = S.T @ S / M + damping * torch.eye(S.shape[1], dtype=S.dtype)
        last = torch.linalg.solve(F, S.mean(dim=0) + damping * momentum * last)
        found = torch.cat([model.get_parameter(key).grad.flatten() for key in keys])
        assert close(found, last, 1 / damping)


def test_the_natural_gradient_of_least_squares(problem):
    model, x, _ = problem
    residuals = torch.randn(M, dtype=torch.float64)
    model.zero_grad()
    with record(model, skip=SKIP) as layers:
        layers.backward(model(x).sum())
    natural = NaturalGradient(0.01, loss="sum")
    natural.precondition(layers, residuals=residuals)

    def output(parameters, x):
        return functional_call(model, parameters, x[None]).sum()

    jacobian = vmap(grad(output), (None, 0))(dict(model.named_parameters()), x)
    scores = {k: v for k, v in jacobian.items() if k.rpartition(".")[0] in layers}
    S = flattened(scores.values())
    matrix = torch.cat([S / M**0.5, 0.1 * torch.eye(S.shape[1], dtype=S.dtype)])
    right = torch.cat([residuals / M**0.5, residuals.new_zeros(S.shape[1])])
    expected = torch.linalg.lstsq(matrix, right).solution
    found = torch.cat([model.get_parameter(key).grad.flatten() for key in scores])
    assert close(found, expected, 100)
    steps = NaturalGradient(0.01).step(scores, residuals)
    assert close(torch.cat([step.flatten() for step in steps.values()]), expected, 100)
