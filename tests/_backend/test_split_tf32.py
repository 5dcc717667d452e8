"""Gram matrices from products in TF32: errors, chunks, values beyond the range, derivatives.

On a CPU, which has no TF32, the one function that multiplies two chunks is replaced by one that
rounds its operands as a device may.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS, Backend
from references import U

from ngdla import damped_factor, damped_lstsq, damped_solve, gram, stochastic_reconfiguration
from ngdla._backend import split_tf32
from ngdla._backend.dtypes import unit_roundoff
from ngdla._backend.gram import gram as full_gram
from ngdla._backend.split_tf32 import gram_split_tf32, multiplies_in_tf32
from ngdla.damped import problem
from ngdla.damped.factor import DampedFactor
from ngdla.score_matrices.column_stream import ColumnStream
from ngdla.score_matrices.row_stream import RowStream
from ngdla.score_matrices.score_operator import ScoreOperator

SPLIT = 2.0**-21
LIBRARIES = ("torch", "jax", "torch-cuda", "jax-gpu", "cupy", "cupy-double")
ON_CPUS = ("torch", "jax")
ROUNDED = {"to nearest": 0x1000, "towards zero": 0}


def in_tf32(x: Any, added: int) -> Any:
    """Return x in 10 explicit bits, rounded by adding to its bits and cutting them off."""
    if type(x).__module__.startswith("torch"):
        import torch

        return ((x.view(torch.int32) + added) & -0x2000).view(torch.float32)
    import jax

    bits = jax.lax.bitcast_convert_type(x, "int32")
    return jax.lax.bitcast_convert_type((bits + added) & -0x2000, "float32")


@pytest.fixture(params=[name for name in LIBRARIES if name in BACKENDS])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Each library that multiplies in TF32, or on the CPU one that seems to."""
    backend = BACKENDS[request.param]()
    if backend.name in ON_CPUS:
        pretend(monkeypatch, "towards zero")
    yield backend
    split_tf32._products_jax.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, rounded: str) -> None:
    """Multiply on the CPU as in TF32."""
    added = ROUNDED[rounded]

    def product(A: Any, B: Any) -> Any:
        return in_tf32(A, added) @ in_tf32(B, added).mT

    monkeypatch.setattr(split_tf32, "multiply_in_tf32", product)
    monkeypatch.setattr(problem, "multiplies_in_tf32", lambda like: True)
    split_tf32._products_jax.cache_clear()


def matrix(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("float32")


def excess(G: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Return the errors of a Gram matrix over their bound."""
    S = S.astype("float64")
    norms = np.linalg.norm(S, axis=-1)
    bound = (SPLIT + 4 * U["float32"] * S.shape[-1] ** 0.5) * norms[..., :, None]
    return np.abs(G - S @ S.mT) / (bound * norms[..., None, :])


def formed(library: Backend, S: np.ndarray) -> np.ndarray:
    G = gram_split_tf32(library.asarray(S))
    assert G.shape == (*S.shape[:-1], S.shape[-2])
    return library.numpy(G)


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("rounded", ROUNDED)
@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e16])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 3000), (3, 2), (17, 500), (64, 20_000)])
def test_errors(
    library: Backend,
    n: int,
    m: int,
    scale: float,
    rounded: str,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if library.name in ON_CPUS:
        pretend(monkeypatch, rounded)
    S = matrix(rng, n, m) * np.float32(scale)
    assert excess(formed(library, S), S).max() <= 1


def test_the_bound_is_met_where_every_entry_loses_most(library: Backend) -> None:
    """With 2^12 - 1 in the 13 last bits: lo is large, and loses a bit where it is cut off."""
    S = np.full((2, 64), 1 + 4095 * 2.0**-23, dtype="float32")
    error = excess(formed(library, S), S).max() * (1 + 4 * 8 * 2.0**-3)  # over 2^-21 alone
    assert (0.9 if library.name in ON_CPUS else 0.0) < error <= 1.01


def test_numbers_of_11_bits_lose_nothing(library: Backend) -> None:
    S = np.arange(0, 2048, 37, dtype="float32")[:, None]
    np.testing.assert_array_equal(formed(library, S), S @ S.T)


def test_graded_rows(library: Backend, rng: np.random.Generator) -> None:
    """Rows of any size: each entry errs relative to its rows, down to 2^22 times the least."""
    sizes = 10.0 ** np.linspace(-30, 30, 13)
    S = (rng.standard_normal((13, 300)) * sizes[:, None]).astype("float32")
    products = sizes[:, None] * sizes
    fits = (products > 1e-33) & (products < 1e34)
    assert excess(formed(library, S), S)[fits].max() <= 1


def test_columns_of_very_different_sizes(library: Backend, rng: np.random.Generator) -> None:
    S = matrix(rng, 8, 400) * np.logspace(-18, 15, 400, dtype="float32")
    assert excess(formed(library, S), S).max() <= 1


def layouts(x: Any) -> dict[str, Any]:
    """Return views of a stack (2, 3, 40, 600), or what JAX copies for them."""
    one = x[0, 0]
    return {
        "stack": x,
        "columns": one[:, 7:-13],
        "every other": one[:, ::2],
        "transposed": one.mT,
        "rows of it": one.mT[100:170],
        "stack of columns": x[..., 5:500],
    }


@pytest.mark.parametrize("layout", list(layouts(np.zeros((1, 1, 200, 200)))))
def test_stacks_and_views(library: Backend, layout: str, rng: np.random.Generator) -> None:
    S = matrix(rng, 2, 3, 40, 600)
    G = gram_split_tf32(layouts(library.asarray(S))[layout])
    assert excess(library.numpy(G), layouts(S)[layout]).max() <= 1


def test_chunks_add_up(
    library: Backend, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_tf32, "_LEAST", 8 * 10 * 7)  # columns: neither 64 nor a divisor
    split_tf32._products_jax.cache_clear()
    S = matrix(rng, 10, 40)
    assert split_tf32._width(S) == 7
    assert excess(formed(library, S), S).max() <= 1


@pytest.mark.parametrize("shape", [(4, 10), (1024, 1_000_000), (3, 64, 500_000), (9, 10**9)])
def test_copies_are_an_eighth_of_the_matrix(shape: tuple[int, ...]) -> None:
    S = np.broadcast_to(np.float32(0), shape)
    width = split_tf32._width(S)
    copied = 2 * 4 * width * int(np.prod(shape[:-1]))
    assert copied <= min(256 * 2**20, max(4 * 2**20, S.nbytes // 8))
    assert width % 64 == 0


# ------------------------------------------------------------------------- beyond the range


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan, np.finfo("float32").max])
def test_what_is_not_finite_stays_in_its_row(
    library: Backend, value: float, rng: np.random.Generator
) -> None:
    """The largest numbers round to Inf: their squares are beyond the range in any case."""
    S = matrix(rng, 4, 30)
    S[2, 3] = value
    G, others = formed(library, S), [0, 1, 3]
    assert not np.isfinite(G[2, 2])
    if not np.isfinite(value):
        assert not np.isfinite(G[2]).any()
        assert not np.isfinite(G[:, 2]).any()
    assert excess(G[np.ix_(others, others)], S[others]).max() <= 1


def test_zeros_and_subnormal_numbers(library: Backend) -> None:
    S = np.array([[0.0, -0.0, 1e-40], [1.0, -1.0, 1e-45]], dtype="float32")
    np.testing.assert_allclose(formed(library, S), [[0, 0], [0, 2]], atol=1e-38)


# ------------------------------------------------------------------------------- derivatives


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_derivatives_by_torch(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pretend(monkeypatch, "to nearest")
    S, dS, C = (torch.from_numpy(matrix(rng, *s)) for s in ((2, 5, 30), (2, 5, 30), (2, 5, 5)))

    def size(form: Any, S: Any) -> Any:
        return (C * form(S)).sum()

    slopes = [torch.func.grad(partial(size, form))(S) for form in (gram_split_tf32, full_gram)]
    torch.testing.assert_close(slopes[0], slopes[1])
    tangents = [torch.func.jvp(f, (S,), (dS,))[1] for f in (gram_split_tf32, full_gram)]
    torch.testing.assert_close(tangents[0], tangents[1])
    mapped = torch.vmap(gram_split_tf32)(S)
    torch.testing.assert_close(mapped, gram_split_tf32(S))
    S.requires_grad_()
    size(gram_split_tf32, S).backward()
    torch.testing.assert_close(S.grad, slopes[1])


def test_derivatives_by_jax(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    pretend(monkeypatch, "to nearest")
    monkeypatch.setattr(split_tf32, "_LEAST", 8 * 10 * 7)
    S, dS, C = (jax.numpy.asarray(matrix(rng, *s)) for s in ((2, 5, 30), (2, 5, 30), (2, 5, 5)))

    def size(form: Any, S: Any) -> Any:
        return (C * form(S)).sum()

    slopes = [jax.jit(jax.grad(partial(size, form)))(S) for form in (gram_split_tf32, full_gram)]
    np.testing.assert_allclose(*slopes, atol=1e-5)
    tangents = [jax.jvp(form, (S,), (dS,))[1] for form in (gram_split_tf32, full_gram)]
    np.testing.assert_allclose(*tangents, atol=1e-4)
    mapped = jax.jit(jax.vmap(gram_split_tf32))(S)
    np.testing.assert_allclose(mapped, gram_split_tf32(S), atol=1e-5)
    split_tf32._products_jax.cache_clear()


def test_jax_asks_for_tf32_alone(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    text = str(jax.make_jaxpr(gram_split_tf32)(matrix(rng, 3, 10)))
    assert "HIGHEST" not in text
    assert text.count("HIGH") >= 2


def test_torch_is_set_to_tf32_for_the_products_alone(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    of_products = torch.backends.cuda.matmul
    seen = []

    def product(A: Any, B: Any) -> Any:
        seen.append(of_products.fp32_precision)
        return A @ B.mT

    monkeypatch.setattr(split_tf32, "multiply_in_tf32", product)
    before = of_products.fp32_precision
    gram_split_tf32(torch.from_numpy(matrix(rng, 3, 10)))
    assert seen == ["tf32", "tf32"]
    assert of_products.fp32_precision == before


# ------------------------------------------------------------------------------ damped solves


def problem_of(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return S, f and a damping of 1e-3 |S|_F^2."""
    S = matrix(rng, n, m)
    return S, matrix(rng, n), float(1e-3 * np.sum(S.astype(float) ** 2))


def exact(S: np.ndarray, f: np.ndarray, damping: float) -> np.ndarray:
    S = S.astype("float64")
    return S.T @ np.linalg.solve(S @ S.T + damping * np.eye(len(S)), f)


# A sweep multiplies the error of the factor, 4 2^-21 |S|_F^2 over the damping, by itself.
TOLERANCE = 8 * U["float32"] + (4 * SPLIT / 1e-3) ** 2


@pytest.mark.parametrize("precision", ["native", "split-tf32"])
@pytest.mark.parametrize("method", ["auto", "cholesky", "eigh"])
@pytest.mark.parametrize("shape", [(20, 90), (90, 20)])
def test_solutions(
    library: Backend, shape: Any, method: str, precision: str, rng: np.random.Generator
) -> None:
    S, f, damping = problem_of(rng, *shape)
    options: Any = {"method": method, "precision": precision}
    T, g = library.asarray(S), library.asarray(f)
    x, info = damped_lstsq(T, g, damping, full_output=True, **options)
    assert bool(info.converged)
    library.assert_matches(
        x, exact(S, f, damping), like=T, dtype="float32", tolerance=4 * TOLERANCE
    )
    v = library.asarray(S.T @ f)
    for y in (
        damped_solve(T, v, damping, **options),
        damped_factor(T, damping, **options).lstsq(g),
    ):
        library.assert_matches(
            y, exact(S, f, damping), like=T, dtype="float32", tolerance=40 * TOLERANCE
        )


def test_logdet_is_that_of_the_split_gram_matrix(
    library: Backend, rng: np.random.Generator
) -> None:
    S, _, damping = problem_of(rng, 20, 90)
    factor = damped_factor(library.asarray(S), damping, precision="split-tf32")
    assert isinstance(factor, DampedFactor)
    W = S.T.astype(float) @ S + damping * np.eye(90)
    assert float(factor.logdet()) == pytest.approx(np.linalg.slogdet(W)[1], rel=1e-6)


def test_stochastic_reconfiguration(library: Backend, rng: np.random.Generator) -> None:
    O, E, _ = problem_of(rng, 30, 90)
    steps = [
        library.numpy(
            stochastic_reconfiguration(
                library.asarray(O), library.asarray(E), 0.1, precision=precision
            )
        )
        for precision in ("native", "split-tf32")
    ]
    np.testing.assert_allclose(*steps, atol=1e-5 * np.linalg.norm(steps[0]))


def test_a_double_right_hand_side_is_solved_in_double(
    library: Backend, rng: np.random.Generator
) -> None:
    """The split Gram matrix preconditions, at a damping below its own errors too."""
    S, f, _ = problem_of(rng, 20, 90)
    for damping in (1.0, 1e-8 * float(np.sum(S.astype(float) ** 2))):
        x = damped_lstsq(
            library.asarray(S), library.asarray(f.astype(float)), damping, precision="split-tf32"
        )
        library.assert_matches(
            x, exact(S, f, damping), like=x, dtype="float64", tolerance=1e4 * U["float64"] ** 0.75
        )


def test_parts_streams_and_scales(library: Backend, rng: np.random.Generator) -> None:
    S, f, damping = problem_of(rng, 20, 90)
    metric = (1 + rng.random(90)).astype("float32")
    T, g = library.asarray(S), library.asarray(f)
    options: Any = {"precision": "split-tf32"}
    expected = exact(S, f, damping)
    column = ColumnStream([T[:, :40], T[:, 40:]], S.shape, dtype="float32", like=T)
    for x in (
        library.numpy(damped_lstsq(column, g, damping, **options)),
        np.concatenate(
            [library.numpy(x) for x in damped_lstsq([T[:, :40], T[:, 40:]], g, damping, **options)]
        ),
    ):
        assert np.linalg.norm(x - expected) <= 4 * TOLERANCE * np.linalg.norm(expected)
    scaled = damped_lstsq(T, g, damping, metric=library.asarray(metric), **options)
    root = metric**0.5
    expected = exact(S / root, f, damping) / root
    assert np.linalg.norm(library.numpy(scaled) - expected) <= 4 * TOLERANCE * np.linalg.norm(
        expected
    )
    tall = RowStream([T.T[:50], T.T[50:]], (90, 20), dtype="float32", like=T)
    f = matrix(rng, 90)
    expected = exact(S.T, f, damping)
    x = library.numpy(damped_lstsq(tall, library.asarray(f), damping, **options))
    assert np.linalg.norm(x - expected) <= 4 * TOLERANCE * np.linalg.norm(expected)


def test_steps_are_judged_by_the_errors_of_the_split_gram_matrix(
    library: Backend, rng: np.random.Generator
) -> None:
    """Between its roundoff and that of float32, a step is refused that native precision makes."""
    assert unit_roundoff("split-tf32") == SPLIT
    S, f = matrix(rng, 20, 90), matrix(rng, 20)
    S[10:], f[10:] = S[:10], f[:10]  # singular: the damping is the smallest eigenvalue
    damping = float(np.sum(S.astype(float) ** 2)) * 5 * SPLIT
    call = partial(damped_lstsq, library.asarray(S), library.asarray(f), damping, refine=0)
    with pytest.raises(np.linalg.LinAlgError, match="in split-tf32"):
        call(precision="split-tf32")
    assert np.isfinite(library.numpy(call(precision="native"))).all()


def test_compiled_by_jax(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    pretend(monkeypatch, "to nearest")
    S, f, damping = problem_of(rng, 20, 90)
    solve = jax.jit(partial(damped_lstsq, precision="split-tf32"))
    x = np.asarray(solve(S, f, damping))
    expected = exact(S, f, damping)
    assert np.linalg.norm(x - expected) <= 4 * TOLERANCE * np.linalg.norm(expected)


# -------------------------------------------------------------------------------------- refused


def test_no_cpu_multiplies_in_tf32(valued_backend: Backend) -> None:
    on_gpu = valued_backend.name in LIBRARIES and valued_backend.name not in ON_CPUS
    assert multiplies_in_tf32(valued_backend.asarray(np.ones(2, "float32"))) == on_gpu


def test_operators_and_other_methods_have_no_gram_matrix_to_form(
    library: Backend, rng: np.random.Generator
) -> None:
    S, f, damping = problem_of(rng, 20, 90)
    T, g = library.asarray(S), library.asarray(f)
    operator = partial(ScoreOperator, lambda x: T @ x, lambda y: T.T @ y, S.shape, like=T)
    calls = [
        partial(damped_lstsq, T, g, damping, method="qr"),
        partial(damped_lstsq, T, g, damping, method="cg"),
        partial(damped_lstsq, operator(), g, damping),
        partial(damped_lstsq, operator(gram=gram(T)), g, damping),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"`precision` is 'split-tf32'.*choose 'native'"):
            call(precision="split-tf32")


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_refused_dtypes(library: Backend, dtype: str, rng: np.random.Generator) -> None:
    S, f = library.asarray(matrix(rng, 4, 9).astype(dtype)), library.asarray(matrix(rng, 4))
    stream = ColumnStream([S], (4, 9), dtype=dtype, like=S)
    for scores in (S, [S], stream):
        with pytest.raises(ValueError, match=f"is {dtype}; convert `S.*` to float32"):
            damped_lstsq(scores, f, 1.0, precision="split-tf32")
