"""What is compiled, and how often: eager JAX once for each shape, torch.compile two graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from capabilities import FUNCTIONS
from references import random_array
from spectra import quick_compilation  # noqa: F401, a fixture

import ngdla

pytestmark = [
    pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning"),
    pytest.mark.filterwarnings("ignore::ngdla.RankWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

Call = Callable[[Any, Any, Any, Any], Any]  # of S (n, m), v (m,), f (n,) and a number in (0, 1)


def _gram(S: Any) -> Any:
    return S @ S.T


def _update(
    S: Any,
    damping: Any = 0.3,
    step: Any = 0.1,
    momentum: Any = 0.5,
    scale: Any = 2.0,
    **options: Any,
) -> Any:
    """Return a factor of a layer after one inverse-free update."""
    state = ngdla.inverse_free_init(
        S.shape[-1], S.shape[-2], structures=("diagonal", "dense"), like=S, momentum=True
    )
    statistics = ngdla.inverse_free_statistics(state, S[:4], _gram(S)[:4], loss_scale=scale)
    numbers = {"damping": damping, "step_size": step, "momentum": momentum}
    return ngdla.inverse_free_update(state, statistics, **numbers, **options).K.to_dense()


def _followed(S: Any, decay: Any, **options: Any) -> Any:
    state = ngdla.online_eigh_init(S.T, 4, **options)
    return ngdla.online_eigh_update(state, 2 * S.T, decay=decay, **options).eigenvalues


# Variants that take other ways than the calls of FUNCTIONS.
UNREAD: dict[str, Call] = {
    "solve": lambda S, v, f, x: ngdla.damped_solve(S, v, x, check=False),
    "solve or nan": lambda S, v, f, x: ngdla.damped_solve(S, v, x, check="nan"),
    "cg": lambda S, v, f, x: ngdla.damped_solve(S, v, x, method="cg", check=False),
    "cg or nan": lambda S, v, f, x: ngdla.damped_lstsq(S, f, x, method="cg", check="nan"),
    "mixed": lambda S, v, f, x: ngdla.damped_lstsq(S, f, x, precision="mixed", check=False),
    "expm": lambda S, v, f, x: _update(S, x, retraction="expm", check=False),
}
MORE_UNREAD: dict[str, Call] = {
    "eigh": lambda S, v, f, x: ngdla.damped_solve(S, v, x, method="eigh", check=False),
    "svd": lambda S, v, f, x: ngdla.damped_solve(S, v, x, method="svd", check="nan"),
    "small damping": lambda S, v, f, x: ngdla.damped_solve(S, v, 1e-7 * x, check=False),
    "cg checked": lambda S, v, f, x: ngdla.damped_solve(S, v, x, method="cg"),
    "mixed checked": lambda S, v, f, x: ngdla.damped_solve(S, v, x, precision="mixed"),
    "factor": lambda S, v, f, x: ngdla.damped_factor(S, x, check=False).lstsq(f),
    "full": lambda S, v, f, x: ngdla.damped_solve(S, v, x, check=False, full_output=True),
    "hermitian": lambda S, v, f, x: ngdla.hermitian_solve(_gram(S), x * f, check="nan"),
    "step": lambda S, v, f, x: ngdla.stochastic_reconfiguration(S, f, x, check=False),
    "momentum": lambda S, v, f, x: ngdla.stochastic_reconfiguration(
        S, f, 0.3, previous=v, momentum=x, check=False
    ),
    "filter": lambda S, v, f, x: ngdla.stochastic_reconfiguration(S, f, x, snr=2.0, check=False),
    "randomized": lambda S, v, f, x: ngdla.randomized_eigh(_gram(S), 3, check=False).solve(f, x),
    "nystrom": lambda S, v, f, x: ngdla.nystrom_factor(_gram(S), 3, check=False).solve(f, x),
    "values": lambda S, v, f, x: ngdla.randomized_svd(S, 2, check=False).S * x,
    "online": lambda S, v, f, x: _followed(S, x, check=False),
    "average": lambda S, v, f, x: ngdla.ema(_gram(S), S.T, decay=x, check=False),
    "joint": lambda S, v, f, x: ngdla.kronecker_solve(S.T @ S, _gram(S), S, x, check=False),
    "factored": lambda S, v, f, x: ngdla.kronecker_solve(
        S.T @ S, _gram(S), S, x, coupling="factored", check=False
    ),
    "weights": lambda S, v, f, x: ngdla.sample_weights(_gram(S), x, check=False),
    "exact": lambda S, v, f, x: _update(S, x, retraction="exact", check=False),
}


@pytest.fixture
def compilations() -> Iterator[Callable[[], int]]:
    """Return a function that returns how much JAX has compiled so far."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    seen = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(seen)
    jax.monitoring.unregister_event_duration_listener(listen)


def _arguments(dtype: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(random_array(rng, shape, dtype) for shape in ((5, 11), (11,), (5,)))


def _numbers(count: int) -> list[float]:
    return np.linspace(0.2, 0.8, count).tolist()


def test_compilations_are_counted(compilations: Callable[[], int]) -> None:
    import jax

    x = jax.numpy.ones(3)
    for i in range(3):  # a closure is another function each time
        before = compilations()
        jax.jit(lambda x, i=i: x + i)(x).block_until_ready()
        assert compilations() == before + 1


def _compiles_nothing(call: Any, dtype: str, compilations: Callable[[], int]) -> None:
    """Calls compile, with each number at most once: how many steps one takes is a matter of it."""
    import jax

    S, v, f = map(jax.numpy.asarray, _arguments(dtype))
    counts = []
    for number in 2 * _numbers(3):
        before = compilations()
        jax.block_until_ready(call(S, v, f, number))
        counts.append(compilations() - before)
    assert counts[3:] == [0, 0, 0], counts


@pytest.mark.parametrize("name", ["solve", "cg", "mixed"])  # `test_variants_of_eager_jax`: all
def test_eager_jax_compiles_nothing_twice(name: str, compilations: Callable[[], int]) -> None:
    _compiles_nothing(UNREAD[name], "float32", compilations)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*UNREAD, *MORE_UNREAD])
def test_variants_of_eager_jax(name: str, dtype: str, compilations: Callable[[], int]) -> None:
    _compiles_nothing({**UNREAD, **MORE_UNREAD}[name], dtype, compilations)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_eager_jax(name: str, compilations: Callable[[], int]) -> None:
    _compiles_nothing(lambda S, v, f, x: FUNCTIONS[name](S, v, f), "float64", compilations)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["solve", "cg", "mixed", "small damping"])
def test_derivatives_of_eager_jax(name: str, compilations: Callable[[], int]) -> None:
    import jax

    call = {**UNREAD, **MORE_UNREAD}[name]

    def slope(S: Any, v: Any, f: Any, x: Any) -> Any:
        return jax.grad(lambda S: jax.numpy.sum(call(S, v, f, x) ** 2))(S)

    _compiles_nothing(slope, "float32", compilations)


# --------------------------------------------------------------------------------- PyTorch

# Each has one number that an optimiser may change from step to step.
GRAPHS: dict[str, Call] = {
    "solve": lambda S, v, f, x: ngdla.damped_solve(S, v, x, refine=0),
    "average": lambda S, v, f, x: ngdla.ema(_gram(S), S.T, decay=x),
    "factored": lambda S, v, f, x: ngdla.kronecker_solve(
        S.T @ S, _gram(S), S, x, coupling="factored"
    ),
    "weights": lambda S, v, f, x: ngdla.sample_weights(_gram(S), x),
    "structured": lambda S, v, f, x: ngdla.structured_factor(_gram(S), "diagonal", x).solve(f),
}
MORE_GRAPHS: dict[str, Call] = {
    "cg or nan": UNREAD["cg or nan"],
    "mixed": UNREAD["mixed"],
    "svd": MORE_UNREAD["svd"],
    "row space": lambda S, v, f, x: ngdla.damped_solve(S, S.T @ f, x, row_space=True),
    "lstsq": lambda S, v, f, x: ngdla.damped_lstsq(S, f, x),
    "bound": lambda S, v, f, x: ngdla.damped_solve(S, v, x, full_output=True)[1].error_bound,
    "factor": lambda S, v, f, x: ngdla.damped_factor(S, x).solve(v),
    "with damping": lambda S, v, f, x: ngdla.damped_factor(S, 0.5).with_damping(x).solve(v),
    "determinant": lambda S, v, f, x: ngdla.damped_factor(S, x).logdet(),
    "path": lambda S, v, f, x: ngdla.damping_path(S, f, [x, 2 * x]).leave_one_out,
    "joint": lambda S, v, f, x: ngdla.kronecker_solve(S.T @ S, _gram(S), S, x),
    "relative weights": lambda S, v, f, x: ngdla.sample_weights(_gram(S), x, relative=True),
    "sharing": lambda S, v, f, x: ngdla.weight_sharing_step(
        ngdla.weight_sharing_init("shared", 5, period=1), S, _gram(S), x
    )[0],
    "randomized": lambda S, v, f, x: ngdla.randomized_eigh(_gram(S), 3).solve(f, x),
    "trace": lambda S, v, f, x: ngdla.randomized_eigh(_gram(S), 3, trace=90 + x).solve(f, 0.3),
    "nystrom": lambda S, v, f, x: ngdla.nystrom_factor(_gram(S), 3).solve(f, x),
    "online": lambda S, v, f, x: _followed(S, x),
    "hermitian trace": lambda S, v, f, x: ngdla.hermitian_solve(_gram(S), f, trace=60 + x),
    "step": lambda S, v, f, x: ngdla.stochastic_reconfiguration(S, f, x),
    "momentum": lambda S, v, f, x: ngdla.stochastic_reconfiguration(
        S, f, 0.3, previous=v, momentum=x
    ),
    "filter": lambda S, v, f, x: ngdla.stochastic_reconfiguration(S, f, x, snr=2.0),
    "snr": lambda S, v, f, x: ngdla.stochastic_reconfiguration(S, f, 0.3, snr=x),
    "update": lambda S, v, f, x: _update(S, x),
    "step size": lambda S, v, f, x: _update(S, step=x),
    "last tangent": lambda S, v, f, x: _update(S, momentum=x),
    "loss scale": lambda S, v, f, x: _update(S, scale=x),
    "implicit": lambda S, v, f, x: _update(S, x, step=x / 10, retraction="implicit"),
}


def _makes_few_graphs(call: Call, dtype: str) -> None:
    """One graph of the first number, and one of all that follow, with the eager values."""
    torch = pytest.importorskip("torch")
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(call, backend=counter, fullgraph=True)
    arguments = tuple(map(torch.asarray, _arguments(dtype)))
    ngdla.gram(arguments[0])  # graphs are made anew where the arrays of a library are met first
    eps = torch.finfo(arguments[0].dtype).eps
    numbers = _numbers(10)  # more than the 8 graphs that torch allows
    for i, number in enumerate(numbers):
        found = compiled(*arguments, number)
        if i in (0, 1, len(numbers) - 1):
            expected = call(*arguments, number)
            assert found.dtype == expected.dtype
            # where values cannot be read, other ways are taken
            torch.testing.assert_close(found, expected, rtol=1e5 * eps, atol=1e4 * eps)
    assert counter.frame_count <= 2
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["solve", "average"])
def test_numbers_make_no_graphs(name: str) -> None:
    _makes_few_graphs(GRAPHS[name], "float64")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*GRAPHS, *MORE_GRAPHS])
def test_numbers_of_all_functions(name: str, dtype: str) -> None:
    _makes_few_graphs({**GRAPHS, **MORE_GRAPHS}[name], dtype)


@pytest.mark.filterwarnings("error:Dynamo detected a call to a `functools.lru_cache`")
def test_no_caches_are_met_on_the_way_to_a_library() -> None:
    _makes_few_graphs(GRAPHS["average"], "float32")


def test_numbers_that_are_illegal_in_compiled_code() -> None:
    """A constant raises; what only a graph knows is NaN."""
    torch = pytest.importorskip("torch")
    A = _gram(torch.asarray(_arguments("float64")[0]))
    X = torch.ones((2, 5), dtype=A.dtype)

    def average(A: Any, X: Any, decay: Any) -> Any:
        return ngdla.ema(A, X, decay=decay)

    torch._dynamo.reset()
    compiled = torch.compile(average, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="decay"):
        compiled(A, X, -1.0)
    torch._dynamo.reset()
    for decay in (0.5, 0.25):
        torch.testing.assert_close(compiled(A, X, decay), average(A, X, decay))
    assert torch.isnan(compiled(A, X, 1.5)).all()


def test_several_draws_in_one_graph() -> None:
    """Columns of several seeds and shapes are constants of a graph, those that NumPy draws."""
    torch = pytest.importorskip("torch")
    from ngdla._backend.random import gaussian, orthonormal_columns

    def drawn(x: Any, seed: int) -> Any:
        return (
            gaussian(seed, (9, 2), x, "float64") * x,
            gaussian(seed + 1, (9, 2), x, "float64") * x,
            gaussian(seed, (x.shape[0], 1), x, "complex128") * x,
            orthonormal_columns(seed, (9, 2), x, "float32") * x,
            gaussian(seed, (9, 2), x, "float64") + x,
        )

    def total(x: Any) -> Any:
        return sum((y.abs() ** 2).sum() for y in drawn(x, 3))

    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        compiled = torch.compile(drawn, backend=backend, fullgraph=True)
        for n, seed in ((9, 0), (9, 1), (1, 1)):
            x = torch.full((n, 1), 0.7, dtype=torch.float64)
            for found, expected in zip(compiled(x, seed), drawn(x, seed)):
                torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    stack = torch.full((3, 9, 1), 0.7, dtype=torch.float64)
    for function, argument in ((torch.vmap(total), stack), (torch.func.grad(total), stack[0])):
        found = torch.compile(function, backend="aot_eager", fullgraph=True)(argument)
        torch.testing.assert_close(found, function(argument))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_two_decompositions_in_one_graph(backend: str) -> None:
    torch = pytest.importorskip("torch")
    S, _, _ = map(torch.asarray, _arguments("float64"))

    def both(S: Any) -> Any:
        return [
            ngdla.randomized_eigh(A, 3, oversample=2, check=False).eigenvalues
            for A in (S.T @ S, _gram(S))
        ]

    torch._dynamo.reset()
    for found, expected in zip(torch.compile(both, backend=backend, fullgraph=True)(S), both(S)):
        torch.testing.assert_close(found, expected)
