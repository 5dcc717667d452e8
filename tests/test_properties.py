"""What holds for every damped least-squares problem, whatever its kind and the precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import H, U, condition, narrow, random_array, scores_with_spectrum, sr_data

import ngdla

DTYPES = tuple(U)
REAL = {"complex64": "float32", "complex128": "float64"}
PRECISIONS = ("auto", "native", "mixed")
SHAPES = ((3, 7), (7, 3))


@dataclasses.dataclass
class Problem:
    """min |S x - f|^2 + damping |x|_D^2 with sigma_1 = 1, and a general v."""

    S: np.ndarray
    f: np.ndarray
    v: np.ndarray
    damping: float
    options: dict[str, Any]

    @property
    def tolerance(self) -> float:
        """Of x over its largest possible length: u sqrt(kappa), as for one sweep."""
        metric = self.options["metric"]
        S = self.S if metric is None else self.S / np.sqrt(metric)
        return 50 * U[str(self.S.dtype)] * condition(S, self.damping) ** 0.5

    def lstsq(self, **changes: Any) -> Any:
        """Solve; |x| <= |f| / (2 sqrt(damping))."""
        given = {"S": self.S, "f": self.f, "damping": self.damping} | self.options | changes
        return ngdla.damped_lstsq(given.pop("S"), given.pop("f"), given.pop("damping"), **given)

    def solve(self, **changes: Any) -> Any:
        """Solve; |x| <= |v| / damping."""
        given = {"S": self.S, "v": self.v, "damping": self.damping} | self.options | changes
        return ngdla.damped_solve(given.pop("S"), given.pop("v"), given.pop("damping"), **given)

    def assert_lstsq(self, x: np.ndarray, expected: np.ndarray) -> None:
        size = np.linalg.norm(self.f) / self.damping**0.5
        assert x.dtype == expected.dtype
        assert np.linalg.norm(x - expected) <= self.tolerance * size

    def assert_solve(self, x: np.ndarray, expected: np.ndarray) -> None:
        size = np.linalg.norm(self.v) / self.damping
        assert x.dtype == expected.dtype
        assert np.linalg.norm(x - expected) <= self.tolerance * size


def made(
    shape: tuple[int, int],
    dtype: str,
    damping: float,
    precision: str,
    *,
    k: int | None = None,
    weighted: bool = False,
    seed: int = 0,
) -> Problem:
    """Return a problem; `damping` is far enough from rounding errors for every precision."""
    n, m = shape
    rng = np.random.default_rng(seed)
    S = scores_with_spectrum(rng, n, m, dtype, decades=2)
    f, v = (random_array(rng, (size,) if k is None else (size, k), dtype) for size in (n, m))
    metric = (0.5 + rng.random(m)).astype(REAL.get(dtype, dtype)) if weighted else None
    return Problem(S, f, v, damping, {"precision": precision, "metric": metric})


problems = st.builds(
    lambda shape, dtype, exponent, *rest, **options: made(
        shape, dtype, 10.0**exponent, *rest, **options
    ),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(DTYPES),
    st.floats(-3, 1),
    st.sampled_from(PRECISIONS),
    k=st.sampled_from([None, 1, 3]),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)

# ------------------------------------------------------------------------------ identities


@given(problems)
def test_push_through(problem: Problem) -> None:
    """(S^H S + damping D)^-1 S^H f is the solution of least squares."""
    one, other = problem.solve(v=H(problem.S) @ problem.f), problem.lstsq()
    problem.assert_lstsq(one, other)


@given(problems, st.integers(-8, 8))
def test_scaling(problem: Problem, exponent: int) -> None:
    """(S, damping) -> (c S, c^2 damping) divides x by c, or by c^2 where v is kept."""
    c = 2.0**exponent  # exact in binary
    S, damping = problem.S * problem.S.dtype.type(c), c * c * problem.damping
    problem.assert_lstsq(c * problem.lstsq(S=S, damping=damping), problem.lstsq())
    problem.assert_solve(c * c * problem.solve(S=S, damping=damping), problem.solve())


@given(problems, st.permutations(range(9)), st.permutations(range(9)))
def test_order(problem: Problem, samples: list[int], parameters: list[int]) -> None:
    """Samples may come in any order, and parameters too."""
    rows = [i for i in samples if i < problem.S.shape[0]]
    columns = [j for j in parameters if j < problem.S.shape[1]]
    S, metric = problem.S[rows][:, columns], problem.options["metric"]
    changes = {"S": S, "metric": None if metric is None else metric[columns]}
    problem.assert_lstsq(problem.lstsq(f=problem.f[rows], **changes), problem.lstsq()[columns])
    problem.assert_solve(problem.solve(v=problem.v[columns], **changes), problem.solve()[columns])


@given(problems, st.lists(st.integers(1, 8), max_size=4), st.integers(1, 5))
def test_blocks_and_chunks(problem: Problem, cuts: list[int], width: int) -> None:
    """Column blocks of any width, converted in chunks of any width, are one matrix."""
    inner = sorted({cut for cut in cuts if cut < problem.S.shape[1]})
    metric = problem.options["metric"]

    def split(x: np.ndarray, axis: int = 0) -> list[np.ndarray]:
        return np.split(x, inner, axis=axis)

    changes = {"S": split(problem.S, 1), "metric": None if metric is None else split(metric)}
    with pytest.MonkeyPatch.context() as patch:
        chunk = width * problem.S.shape[0] * problem.S.itemsize
        patch.setattr("ngdla._backend.shapes.CHUNK_BYTES", chunk)
        x, y = problem.lstsq(**changes), problem.solve(v=split(problem.v), **changes)
    problem.assert_lstsq(np.concatenate(x), problem.lstsq())
    problem.assert_solve(np.concatenate(y), problem.solve())


@given(problems)
def test_holomorphic_is_stacked(problem: Problem) -> None:
    """A complex problem is a real one in pairs [Re, Im] of samples and of parameters."""
    metric = problem.options["metric"]
    S = np.block([[problem.S.real, -problem.S.imag], [problem.S.imag, problem.S.real]])
    changes = {"S": S, "metric": None if metric is None else np.concatenate([metric, metric])}

    def stacked(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x.real, x.imag])

    real = problem.lstsq(f=stacked(problem.f), **changes)
    problem.assert_lstsq(real, stacked(problem.lstsq()))
    real = problem.solve(v=stacked(problem.v), **changes)
    problem.assert_solve(real, stacked(problem.solve()))


@given(problems, st.integers(1, 5))
def test_streams(problem: Problem, width: int) -> None:
    """Blocks that arrive one after the other are one matrix too."""
    n, m = problem.S.shape
    streams = [(ngdla.ColumnStream, -1)] + ([(ngdla.RowStream, 0)] if n >= m else [])
    for stream, axis in streams:
        cuts = np.arange(width, problem.S.shape[axis], width)
        blocks = np.split(problem.S, cuts, axis=axis)
        S = stream(blocks, (n, m), dtype=problem.S.dtype)
        problem.assert_lstsq(problem.lstsq(S=S), problem.lstsq())
        problem.assert_solve(problem.solve(S=S), problem.solve())


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=8).filter(any),
    st.sampled_from(["real", "complex", "holomorphic"]),
    st.sampled_from(["complex64", "complex128"]),
    st.sampled_from(PRECISIONS),
)
def test_weights_are_repetitions(counts: list[int], mode: str, dtype: str, precision: str) -> None:
    """A sample of weight 3 is one that occurs three times; one of weight 0 changes nothing."""
    rng = np.random.default_rng(counts)
    O, E = sr_data(rng, mode, dtype, len(counts), 9)
    weights = np.array(counts, dtype=REAL[dtype])
    options = {"mode": mode, "precision": precision}
    one = ngdla.stochastic_reconfiguration(O, E, 0.1, weights=weights, **options)
    rows = np.repeat(np.arange(len(counts)), counts)
    other = ngdla.stochastic_reconfiguration(O[rows], E[rows], 0.1, **options)
    # rounded means of O and E, |O_i| ~ 6 and |E_i| ~ 2, and W^-1 of kappa ~ 1e3
    assert np.linalg.norm(one - other) <= 1e4 * U[dtype]


@given(problems, st.integers(2, 4))
def test_a_batch_is_a_loop(problem: Problem, size: int) -> None:
    """Stacked problems, each with its damping, are solved one by one."""
    n, m = problem.S.shape
    rng = np.random.default_rng(size)
    dtype = str(problem.S.dtype)
    S = np.stack([scores_with_spectrum(rng, n, m, dtype, decades=2) for _ in range(size)])
    f, v = (np.stack([x] * size) for x in (problem.f, problem.v))
    dampings = (problem.damping * np.arange(1.0, 1.0 + size)).astype(REAL.get(dtype, dtype))
    metric = problem.options["metric"]
    weights = {"metric": None if metric is None else np.stack([metric] * size)}
    x = problem.lstsq(S=S, f=f, damping=dampings, **weights)
    y = problem.solve(S=S, v=v, damping=dampings, **weights)
    for i, damping in enumerate(dampings):
        one = dataclasses.replace(problem, S=S[i], damping=float(damping))
        one.assert_lstsq(x[i], one.lstsq())
        one.assert_solve(y[i], one.solve())


# ------------------------------------------------------------------------- transformations


def loss_gradients(problem: Problem, c: np.ndarray) -> dict[str, np.ndarray]:
    """Return G with d Re c^H x = Re <G, d argument> for S, f and damping.

    From A dx = dS^H (f - S x) - S^H dS x + S^H df - x d damping, A = S^H S + damping.
    """
    S, f, c = (narrow(x) for x in (problem.S, problem.f, c))
    A = H(S) @ S + problem.damping * np.eye(S.shape[1])
    x, u = np.linalg.solve(A, H(S) @ f), np.linalg.solve(A, c)
    gradient = np.outer(f - S @ x, u.conj()) - np.outer(S @ u, x.conj())
    return {"x": x, "S": gradient, "f": S @ u, "damping": -np.real(u.conj() @ x)}


def several(shape: tuple[int, int], dtype: str, precision: str) -> tuple[list[Problem], np.ndarray]:
    """Return three problems, and c of the loss Re c^H x."""
    cases = [made(shape, dtype, 0.1 * (i + 1), precision, seed=i) for i in range(3)]
    return cases, random_array(np.random.default_rng(5), (shape[1],), dtype)


def assert_gradients(cases: list[Problem], c: np.ndarray, results: list[Any]) -> None:
    """Assert x and the gradients of a batch, each relative to its own size."""
    for i, problem in enumerate(cases):
        expected = loss_gradients(problem, c)
        for result, (name, exact) in zip(results, expected.items()):
            error = np.linalg.norm(np.ravel(result[i] - exact))
            size = np.linalg.norm(np.ravel(exact)) + np.linalg.norm(c)
            assert error <= problem.tolerance * size, name


@pytest.mark.parametrize(
    ("dtype", "shape", "precision"),
    [  # each is compiled for some seconds
        ("float32", (7, 3), "mixed"),
        ("float64", (3, 7), "mixed"),
        ("complex128", (7, 3), "auto"),
        ("complex64", (3, 7), "native"),
    ],
    ids=str,
)
def test_gradients_and_vmap_of_jax(dtype: str, shape: tuple[int, int], precision: str) -> None:
    """`jax.vmap` of a gradient is that of each problem; JAX conjugates complex gradients."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    cases, c = several(shape, dtype, precision)
    real = REAL.get(dtype, dtype)

    def loss(S: Any, f: Any, damping: Any) -> Any:
        x = ngdla.damped_lstsq(S, f, damping, precision=precision)
        return jax.numpy.real(jax.numpy.vdot(c, x)), x

    mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2), has_aux=True)))
    gradients, x = mapped(
        jax.numpy.stack([p.S for p in cases]),
        jax.numpy.stack([p.f for p in cases]),
        jax.numpy.asarray([p.damping for p in cases], dtype=real),
    )
    assert_gradients(cases, c, [x, *(np.conj(np.asarray(g)) for g in gradients)])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of complex arrays under vmap
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_and_vmap_of_torch(dtype: str, shape: tuple[int, int], precision: str) -> None:
    """`torch.vmap` is a loop, and `torch.autograd` of the batch finds each gradient."""
    torch = pytest.importorskip("torch")
    cases, c = several(shape, dtype, precision)
    arrays = [torch.from_numpy(np.stack([getattr(p, name) for p in cases])) for name in "Sf"]
    dampings = np.array([p.damping for p in cases], dtype=REAL.get(dtype, dtype))
    arguments = [a.requires_grad_() for a in (*arrays, torch.from_numpy(dampings))]
    x = ngdla.damped_lstsq(*arguments, precision=precision)
    torch.real((x * torch.from_numpy(c.conj())).sum()).backward()
    mapped = torch.vmap(lambda S, f, d: ngdla.damped_lstsq(S, f, d, precision=precision))(
        *(a.detach() for a in arguments)
    )
    results = [x.detach().numpy(), *(a.grad.numpy() for a in arguments)]
    assert_gradients(cases, c, results)
    assert_gradients(cases, c, [mapped.numpy()])
