"""The optimisers of docs/examples for torch modules: dense formulas, training, checkpoints."""

import ast
import doctest
import io
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

from optimizers import __main__ as program
from optimizers.fngd import FNGD
from optimizers.kfac import KFAC
from optimizers.natural_gradient import NaturalGradient
from optimizers.singd import SINGD
from optimizers.tasks import TASKS

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
    return torch.cat([x.detach().reshape(M, -1) for x in tensors], dim=1)


@pytest.mark.parametrize(("momentum", "kl"), [(0.0, None), (0.9, None), (0.0, 1e-3)])
def test_steps_of_the_natural_gradient(problem, momentum, kl):
    model, x, y = problem
    natural, damping = NaturalGradient(0.01, momentum=momentum, kl=kl), 0.01
    last = 0.0
    for shift in range(2):
        labels = (y + shift) % CHOICES
        layers = recorded(model, x, labels, skip=SKIP, mean=False)
        natural.precondition(layers, 0.5)
        keys = [key for key, _ in model.named_parameters() if key.rpartition(".")[0] in layers]
        S = flattened([scores_of(model, x, labels)[key] for key in keys])
        F = S.T @ S / M + damping * torch.eye(S.shape[1], dtype=S.dtype)
        last = torch.linalg.solve(F, S.mean(dim=0) + damping * momentum * last)
        found = torch.cat([model.get_parameter(key).grad.flatten() for key in keys])
        change = 0.5**2 * float(last @ S.mean(dim=0))
        bound = 1.0 if kl is None else min(1.0, (kl / change) ** 0.5)
        assert kl is None or bound < 1
        assert close(found, bound * last, 1 / damping)


def test_the_natural_gradient_of_least_squares(problem):
    model, x, _ = problem
    residuals = torch.randn(M, dtype=torch.float64)
    model.zero_grad()
    with record(model, skip=SKIP) as layers:
        layers.backward(model(x).sum())
    natural = NaturalGradient(0.01, loss="sum", kl=None)
    natural.precondition(layers, 1.0, residuals=residuals)

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
    steps, _ = NaturalGradient(0.01).step_and_gradient(scores, residuals)
    assert close(torch.cat([step.flatten() for step in steps.values()]), expected, 100)


# ------------------------------------------------------------------------------ training

PERIOD = 4  # batches of an epoch, or between two
POLICIES = {
    f"FNGD, {policy}": program.Method(
        lambda loss, policy=policy: FNGD(5e-3, policy=policy, period=PERIOD, loss=loss),
        {"digits": 0.1, "copies": 0.1},
        mean_gradient=False,
    )
    for policy in ("every", "shared", "table", "mean")
}
METHODS = {**program.METHODS, **POLICIES}


def small(name, dtype=torch.float32):
    """Return a task, with less data, and a smaller transformer."""
    if name == "digits":
        pytest.importorskip("sklearn")
        task = TASKS[name](dtype=dtype)
    else:
        task = TASKS[name](dtype=dtype, tokens=5, length=6, width=16)
    x, y = task.train
    size = PERIOD * program.BATCH
    return task._replace(train=(x[:size], y[:size]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TASKS)
def test_networks_are_trained(name, method, dtype):
    task = small(name, dtype)
    losses = program.trained(task, METHODS[method], METHODS[method].lr[name], 9)
    assert losses[-1] < 0.98 * losses[0]
    assert all(p.dtype == dtype for p in task.model.parameters())


def test_bounded_steps_do_not_diverge():
    def losses(kl):
        method = program.Method(lambda loss: KFAC(1e-2, kl=kl, loss=loss), {}, ())
        return program.trained(TASKS["copies"](), method, 0.1, 32)

    start, *_, end = losses(1e-3)
    assert end < start / 10
    with pytest.raises(ValueError, match="NaN or Inf; lower the learning rate"):
        losses(None)


def test_the_program_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(program, "METHODS", {k: METHODS[k] for k in ("SGD", "KFAC")})
    monkeypatch.setattr(program, "TASKS", {"copies": lambda: small("copies")})
    assert program.main(["--quick"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["task", "method", "loss", "accuracy", "seconds"]
    assert len(rows) == 2


# ------------------------------------------------------------------------------ states

MAKERS = {
    "KFAC": lambda **options: KFAC(1e-2, refresh=3, **options),
    "KFAC, rank 4": lambda **options: KFAC(1e-2, refresh=3, rank=4, **options),
    "SINGD": lambda **options: SINGD(1e-2, refresh=3, momentum=0.5, **options),
    "SINGD, bfloat16": lambda **options: SINGD(1e-2, dtype="bfloat16", **options),
    "FNGD": lambda **options: FNGD(5e-3, **options),
    "FNGD, table": lambda **options: FNGD(5e-3, policy="table", period=3, **options),
    "natural gradient": lambda **options: NaturalGradient(0.1, momentum=0.5, **options),
}


class Run:
    """Training of a small transformer, a step at a time."""

    def __init__(self, make, *, stack=False, scaler=None):
        self.task = small("copies")
        self.method = make(loss=self.task.loss)
        self.mean = not isinstance(self.method, (FNGD, NaturalGradient))
        self.sgd = torch.optim.SGD(self.task.model.parameters(), lr=0.1, momentum=0.9)
        self.recording = record(self.task.model, skip=SKIP, stack=stack)
        self.scaler = scaler
        self.batches = list(self.task.batches(32, seed=0))

    def step(self, number, factor=1.0):
        x, y = self.batches[number % len(self.batches)]
        table = isinstance(self.method, FNGD) and self.method.policy == "table"
        options = {"batch": number % 3} if table else {}
        self.sgd.zero_grad()
        with self.recording as layers:
            loss = factor * self.task.loss_of(x, y)
            loss = loss if self.scaler is None else self.scaler.scale(loss)
            loss.backward() if self.mean else layers.backward(loss)
        if self.scaler is None:
            self.method.precondition(layers, 0.1, **options)
            self.sgd.step()
            return
        scale = self.scaler.get_scale()
        self.method.precondition(layers, 0.1, loss_scale=scale, check=False, **options)
        self.scaler.step(self.sgd)
        self.scaler.update()

    def parameters(self):
        return torch.cat([p.detach().flatten() for p in self.task.model.parameters()])

    def saved(self):
        parts = (self.task.model, self.sgd, self.method)
        file = io.BytesIO()
        torch.save([part.state_dict() for part in parts], file)
        return file

    def load(self, file):
        file.seek(0)
        states = torch.load(file, weights_only=True)
        for part, state in zip((self.task.model, self.sgd, self.method), states, strict=True):
            part.load_state_dict(state)


@pytest.mark.parametrize("name", MAKERS)
def test_runs_are_resumed_bit_for_bit(name):
    first, second = Run(MAKERS[name]), Run(MAKERS[name])
    for number in range(5):  # the next refreshes are those of steps 6 and 7
        first.step(number)
    file = first.saved()
    second.load(file)
    for number in range(5, 9):
        first.step(number)
        second.step(number)
    assert torch.equal(first.parameters(), second.parameters())
    second.load(file)  # which steps have left alone
    for number in range(5, 9):
        second.step(number)
    assert torch.equal(first.parameters(), second.parameters())


@pytest.mark.parametrize("name", MAKERS)
def test_stacks_make_the_same_steps(name):
    runs = [Run(MAKERS[name], stack=stack) for stack in (False, True)]
    assert any("|" in name for name in runs[1].recording)
    for run in runs:
        for number in range(2):
            run.step(number)
    one, other = (run.parameters() for run in runs)
    assert float((one - other).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("name", MAKERS)
def test_an_overflow_changes_nothing(name):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    plain, scaled = Run(MAKERS[name]), Run(MAKERS[name], scaler=scaler)
    for number in range(2):
        plain.step(number)
        scaled.step(number)
    before = scaled.parameters()
    scaled.step(2, factor=float("inf"))
    assert scaler.get_scale() == 2.0**9
    assert torch.equal(scaled.parameters(), before)
    for number in range(3, 6):
        plain.step(number)
        scaled.step(number)
    found, expected = scaled.parameters(), plain.parameters()
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("name", MAKERS)
def test_micro_batches_are_a_batch(name):
    whole, parts = Run(MAKERS[name]), Run(MAKERS[name])
    layers = {}
    for run, count in ((whole, 1), (parts, 2)):
        x, y = run.batches[0]
        with run.recording as layers[run]:
            for batch in zip(x.chunk(count), y.chunk(count), strict=True):
                loss = run.task.loss_of(*batch) / count
                loss.backward() if run.mean else layers[run].backward(loss)
        run.method.precondition(layers[run], 0.1)
    for layer in whole.recording:
        found, expected = (layers[run].gradient(layer) for run in (parts, whole))
        assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", MAKERS)
def test_layers_in_half_precision(name):
    whole, half = Run(MAKERS[name]), Run(MAKERS[name])
    for number in range(4):
        whole.step(number)
        with torch.autocast("cpu", torch.bfloat16):
            half.step(number)
    found, expected = half.parameters(), whole.parameters()
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.02


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "method",
    [SINGD(1e-2), FNGD(5e-3), NaturalGradient(1e-2), KFAC(1e-2, sharing="reduce")],
    ids=lambda method: type(method).__name__,
)
def test_embeddings_are_refused(method):
    model, x = sequences()
    layers = recorded(model, x, torch.zeros(M, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`0` is an embedding.*skip=\[torch.nn.Embedding\]"):
        method.precondition(layers, 0.1)


@pytest.mark.parametrize("method", [KFAC(1e-2), SINGD(1e-2)], ids=["KFAC", "SINGD"])
def test_mean_gradients_are_needed(problem, method):
    model, x, y = problem
    layers = recorded(model, x, y, skip=SKIP, mean=False)
    with pytest.raises(ValueError, match=r"has no gradient: call loss.backward\(\)"):
        method.precondition(layers, 0.1)


@pytest.mark.parametrize("name", MAKERS)
def test_a_bad_batch_is_named_and_changes_nothing(name):
    run = Run(MAKERS[name])
    run.step(0)
    before = run.saved().getvalue()
    parameters = run.parameters()
    with pytest.raises(ValueError, match=r"of `.*` contain NaN or Inf"):
        run.step(1, factor=float("nan"))
    assert torch.equal(run.parameters(), parameters)
    assert run.saved().getvalue() == before


@pytest.mark.parametrize("method", [KFAC(1e-2), SINGD(1e-2)], ids=["KFAC", "SINGD"])
def test_states_of_another_network(method):
    for width in (4, 5):
        model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, CHOICES))
        layers = recorded(model, torch.randn(M, 3), torch.zeros(M, dtype=torch.int64))
        if width == 4:
            method.precondition(layers, 0.1)
    with pytest.raises(ValueError, match="shape"):
        method.precondition(layers, 0.1)


def test_larger_batches_than_the_first(problem):
    model, x, y = problem
    fngd = FNGD(5e-3)
    fngd.precondition(recorded(model, x[:4], y[:4], skip=SKIP, mean=False))
    with pytest.raises(
        ValueError, match="`inputs` has 7 samples; `state` was made for batches of 4"
    ):
        fngd.precondition(recorded(model, x, y, skip=SKIP, mean=False))


@pytest.mark.parametrize("name", MAKERS)
def test_layers_come_and_go(name):
    """A layer that comes late makes the steps of one that comes first, whatever others do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.randint(5, (8,))
    late, first = MAKERS[name](kl=None) if "FNGD" not in name else MAKERS[name](), None
    for skip in (["0"], ["0"], ["0"], ["0"], ["2"], ["0"], [], []):
        layers = recorded(model, x, y, skip=skip)
        batch = {"batch": 0} if name == "FNGD, table" else {}
        late.precondition(layers, 0.1, **batch)
        if skip == ["2"]:
            first = layers.gradient("0")
    fresh = MAKERS[name](kl=None) if "FNGD" not in name else MAKERS[name]()
    layers = recorded(model, x, y, skip=["2"])
    fresh.precondition(layers, 0.1, **batch)
    if "SINGD" not in name:  # whose first steps of factors are larger, by the number of the step
        assert close(first, layers.gradient("0"), 1e3)


def test_finite_gradients_whose_sum_overflows_are_steps():
    """In float16 that of 64 x 64 gradients of 40 does."""
    model = nn.Linear(64, 64, bias=False).half()
    with record(model) as layers:
        (4 * model(torch.rand(16, 64).half()).float().sum()).backward()
    assert not model.weight.grad.sum().isfinite()
    before = model.weight.grad.clone()
    KFAC(1e-2).precondition(layers, 0.1)
    assert not torch.equal(model.weight.grad, before)


def test_a_step_that_fails_in_a_later_layer_writes_nothing():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with record(model) as layers:
        layers.backward(model(torch.ones(4, 3)).sum())
    layer = layers._layers[1]
    (part,) = layer.parts
    layer.parts[0] = part._replace(inputs=1e30 * part.inputs, version=0)
    with pytest.raises(ValueError, match="beyond the range"):
        FNGD(1e-2).precondition(layers)
    assert all(p.grad is None for p in model.parameters())
