"""Damped solves, least squares, their factors and paths, streams, and steps made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compare.expressions import Array, Expression, lifted, ngdla
from compare.grids import DTYPES, EAGER, HALF, INTERPRETED, Case, grid
from compare.inputs import Problem

__all__ = ["cases"]

METHODS = ("auto", "cholesky", "eigh", "svd", "qr", "cg")
PRECISIONS = (
    "auto",
    "native",
    "mixed",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "split-tf32",
)

wide, tall = Problem(5, 12), Problem(12, 5)
SHAPES = {"wide": wide, "tall": tall}
STACKS = {"wide stack": Problem(4, 7, (2,)), "tall stack": Problem(7, 4, (2,))}
# From some hundred rows on, triangles are mirrored in blocks, and sketches are narrower than S.
LARGE = {"wide": Problem(300, 400), "tall": Problem(400, 300)}
# More than 64 MB once it is converted.
HUGE = Problem(2, 9_000_000)
FULL: dict[str, Any] = {"full_output": True}
DAMPING = 0.3


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from solutions()
    yield from hermitian_systems()
    yield from factors()
    yield from paths()
    yield from averages()
    yield from steps()
    yield from streams()
    yield from operators()
    yield from shards()


# ------------------------------------------------------------------------------ solutions


def damped_solve(shape: Problem, **options: Any) -> Expression:
    """Return a solve with its certificate."""
    return ngdla.damped_solve(shape.S, shape.v, DAMPING, **FULL, **options)


def damped_lstsq(shape: Problem, **options: Any) -> Expression:
    """Return least squares with their certificate."""
    return ngdla.damped_lstsq(shape.S, shape.f, DAMPING, x0=shape.x0, **FULL, **options)


# What a solve and least squares are made of beside S: arguments and options.
Given = Callable[[Problem], tuple[tuple[Any, ...], dict[str, Any]]]
ANY: dict[str, Given] = {
    "metric": lambda p: ((p.S, DAMPING), {"metric": p.metric}),
    "null": lambda p: ((p.S, DAMPING), {"null": p.null}),
    "metric and null": lambda p: ((p.S, DAMPING), {"metric": p.metric, "null": p.null}),
    "array of dampings": lambda p: ((p.S, p.damping), {}),
    "unchecked": lambda p: ((p.S, DAMPING), {"check": False}),
    "unread": lambda p: ((p.S, DAMPING), {"check": "nan"}),
    "small damping": lambda p: ((p.S, 1e-6), {}),
    "tiny damping": lambda p: ((p.S, 1e-14), {}),
    "tiny damping, null": lambda p: ((p.S, 1e-14), {"null": p.null}),
    "tiny damping, native": lambda p: ((p.S, 1e-20), {"precision": "native"}),
    "tiny damping, unchecked": lambda p: ((p.S, 1e-20), {"check": False}),
    "zero S": lambda p: ((p.S.like("zero"), DAMPING), {}),
    "nan": lambda p: ((p.S.like("nan"), DAMPING), {}),
}
IN_BLOCKS: dict[str, Given] = {
    "list": lambda p: ((p.blocks(p.S), DAMPING), {}),
    "tuple": lambda p: ((tuple(p.blocks(p.S)), DAMPING), {"refine": 2}),
    "metric": lambda p: ((p.blocks(p.S), DAMPING), {"metric": p.blocks(p.metric)}),
    "numbers as metric": lambda p: ((p.blocks(p.S), DAMPING), {"metric": [0.5, 1.0, 2.0]}),
    "null": lambda p: ((p.blocks(p.S), DAMPING), {"null": p.null}),
    "tiny damping": lambda p: ((p.blocks(p.S), 1e-14), {}),
}


def solutions() -> Iterator[Case]:
    """Yield solves and least squares by every method in every precision."""
    every = {"shape": SHAPES, "method": METHODS, "precision": PRECISIONS, "refine": (0, 1, 2)}
    yield from grid("damped_solve", damped_solve, **every)
    yield from grid("damped_lstsq", damped_lstsq, **every)
    shapes = SHAPES | STACKS
    yield from grid("damped_solve, given", given_v, shape=shapes, given=ANY, v=V, method=METHODS)
    yield from grid("damped_lstsq, given", given_f, shape=shapes, given=ANY, f=F, method=METHODS)
    blocks = {"shape": SHAPES, "given": IN_BLOCKS, "method": METHODS}
    yield from grid("blocks", of_blocks, call=CALLS, **blocks)
    half = {
        **HALF,
        "shape": SHAPES,
        "method": METHODS,
        "precision": ("auto", "float64"),
    }
    yield from grid("damped_solve, half", damped_solve, **half)
    yield from grid("damped_lstsq, half", damped_lstsq, **half)
    large = {"shape": LARGE, "method": ("cholesky", "eigh", "cg"), "precision": ("auto", "mixed")}
    yield from grid("damped_solve, large", damped_solve, **INTERPRETED, **large)
    yield from grid("damped_lstsq, large", damped_lstsq, **INTERPRETED, **large)


HERMITIAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "null": {"null": wide.null},
    "trace": {"trace": 7.5},
    "unread": {"check": "nan"},
    "unchecked": {"check": False},
}


def hermitian_systems() -> Iterator[Case]:
    """Yield solves with a Gram matrix that has its damping inside."""
    rights = {"one": wide.f, "columns": wide.F, "complex": wide.f.like("imaginary")}
    damped = {"damped": DAMPING, "hardly": 1e-12}
    options = {"damping": damped, "b": rights, "options": HERMITIAN, "full_output": (True, False)}
    yield from grid("hermitian_solve", hermitian_solve, **options)
    v = {"one": wide.v, "columns": wide.V}
    row_space = {"v": v, "damping": damped, "method": ("auto", "eigh"), "door": ROW_SPACE}
    yield from grid("row_space", in_row_space, **row_space)


def hermitian_solve(damping: float, b: Any, options: Any, full_output: bool) -> Expression:
    """Return a solve with S S^H + damping."""
    W = damped_gram(wide.S, damping)
    return ngdla.hermitian_solve(W, b, full_output=full_output, **options)


@lifted
def damped_gram(S: Any, damping: float) -> Any:
    """Return S S^H + damping."""
    from array_api_compat import array_namespace

    xp = array_namespace(S)
    adjoint = xp.matrix_transpose(S)
    if xp.isdtype(S.dtype, "complex floating"):
        adjoint = xp.conj(adjoint)
    return xp.matmul(S, adjoint) + damping * xp.eye(S.shape[0], dtype=S.dtype)


ROW_SPACE: dict[str, Callable[..., Expression]] = {
    "function": lambda v, damping, method: ngdla.damped_solve(
        wide.S, v, damping, method=method, row_space=True, **FULL
    ),
    "factor": lambda v, damping, method: ngdla.damped_factor(wide.S, damping, method=method).solve(
        v, row_space=True, **FULL
    ),
}


def in_row_space(v: Any, damping: float, method: str, door: Any) -> Expression:
    """Return a solve for a v that is taken for S^H f."""
    return door(v, damping, method)


# Right-hand sides: one and several, complex ones of a real S, x alone.
V: dict[str, Callable[[Problem], tuple[Any, dict[str, Any]]]] = {
    "one": lambda p: (p.v, FULL),
    "alone": lambda p: (p.v, {}),
    "columns": lambda p: (p.V, FULL),
    "complex": lambda p: (p.v.like("imaginary"), FULL),
}
F: dict[str, Callable[[Problem], tuple[Any, dict[str, Any]]]] = {
    "one": lambda p: (p.f, FULL),
    "alone": lambda p: (p.f, {"x0": p.x0}),
    "columns": lambda p: (p.F, {"x0": p.X0, **FULL}),
    "complex": lambda p: (p.f.like("imaginary"), FULL),
    "float64": lambda p: (p.f.of("float64"), FULL),
}


def given_v(shape: Problem, given: Given, v: Any, method: str) -> Expression:
    """Return a solve."""
    (S, damping), options = given(shape)
    right, more = v(shape)
    return ngdla.damped_solve(S, right, damping, method=method, **options, **more)


def given_f(shape: Problem, given: Given, f: Any, method: str) -> Expression:
    """Return least squares."""
    (S, damping), options = given(shape)
    right, more = f(shape)
    return ngdla.damped_lstsq(S, right, damping, method=method, **options, **more)


# What is made of blocks of columns: S of problem p, with a damping and options.
CALLS: dict[str, Callable[..., Any]] = {
    "damped_solve": lambda p, S, damping, **options: ngdla.damped_solve(
        S, pieces(p, S, p.v), damping, **options, **FULL
    ),
    "damped_lstsq": lambda p, S, damping, **options: ngdla.damped_lstsq(
        S, p.f, damping, x0=pieces(p, S, p.x0), **options, **FULL
    ),
    "damped_factor": lambda p, S, damping, **options: ngdla.damped_factor(
        S, damping, **options
    ).solve(pieces(p, S, p.v)),
}


def pieces(p: Problem, S: Any, x: Array) -> Any:
    """Return a vector in pieces, a list or a tuple as S."""
    return type(S)(p.blocks(x))


def of_blocks(shape: Problem, call: Any, given: Given, method: str) -> Any:
    """Return what a call makes of blocks of columns."""
    (S, damping), options = given(shape)
    return call(shape, S, damping, method=method, **options)


# ------------------------------------------------------------------- factors, paths, Gram matrices

# What a factor F is asked.
QUESTIONS: dict[str, Callable[[Any, Problem], Any]] = {
    "solve": lambda F, p: F.solve(p.v, full_output=True),
    "solve columns": lambda F, p: F.solve(p.V),
    "solve complex": lambda F, p: F.solve(p.v.like("imaginary"), True),
    "lstsq": lambda F, p: F.lstsq(p.f, p.x0, full_output=True),
    "lstsq columns": lambda F, p: F.lstsq(p.F, p.X0),
    "with_damping": lambda F, p: F.with_damping(2.0).solve(p.v, full_output=True),
    "with_damping twice": lambda F, p: F.with_damping(p.damping).with_damping(0.1).lstsq(p.f),
    "with_damping tiny": lambda F, p: F.with_damping(1e-14).lstsq(p.f, full_output=True),
    "logdet": lambda F, p: F.logdet(),
    "effective_dimension": lambda F, p: F.effective_dimension(),
    "leave_one_out": lambda F, p: (F.leave_one_out(p.f), F.leave_one_out(p.F)),
    "overlap": lambda F, p: (F.overlap(p.v), F.overlap(p.V)),
    "overlap complex": lambda F, p: F.overlap(p.v.like("imaginary")),
    "leave_one_out stacked": lambda F, p: F.leave_one_out(p.f, stacked=True),
    "attributes": lambda F, p: [F.damping, F.squared_norm, F.null, F.leak, F.ok, F.refine, F.check],
    "what it is made of": lambda F, p: [F.scores.rows, F.plan.factor],
}


def factor(
    shape: Problem,
    ask: Any,
    method: str,
    given: Given = lambda p: ((p.S, DAMPING), {}),
    **more: Any,
) -> Any:
    """Return the answer of a factor."""
    (S, damping), options = given(shape)
    return ask(ngdla.damped_factor(S, damping, method=method, **options, **more), shape)


def factors() -> Iterator[Case]:
    """Yield factors, of one matrix and of stacks, and all that they are asked."""
    asked = {"ask": QUESTIONS, "method": METHODS}
    yield from grid(
        "damped_factor", factor, shape=SHAPES, **asked, precision=PRECISIONS[:5], refine=(0, 2)
    )
    yield from grid("damped_factor, given", factor, shape=SHAPES | STACKS, **asked, given=ANY)
    yield from grid("damped_factor, half", factor, **HALF, shape=SHAPES, **asked)


PATHS: dict[str, Callable[[Problem], Expression]] = {
    "one": lambda p: ngdla.damping_path(p.S, p.f, [1e-3, 0.3, 10.0]),
    "columns": lambda p: ngdla.damping_path(p.S, p.F, (0.3, 2)),
    "complex": lambda p: ngdla.damping_path(p.S, p.f.like("imaginary"), [0.3]),
    "null": lambda p: ngdla.damping_path(p.S, p.f, [1e-9, 0.3], null=p.null),
    "stacked": lambda p: ngdla.damping_path(p.S, p.f, [0.3], stacked=True),
    "array": lambda p: ngdla.damping_path(p.S, p.f, Array("positive", (3,))),
    "at_step": lambda p: ngdla.damping_path(p.S, p.f, [0.3]).at_step(0.1),
    "at_step columns": lambda p: ngdla.damping_path(p.S, p.F, [0.3]).at_step(1e-30),
    "at_step too long": lambda p: ngdla.damping_path(p.S, p.f, [0.3]).at_step(1e6),
}


def path(shape: Problem, given: Callable[[Problem], Expression]) -> Expression:
    """Return a path."""
    return given(shape)


def path_of_blocks(shape: Problem) -> Expression:
    """Return a path of blocks of columns."""
    return ngdla.damping_path(shape.blocks(shape.S), shape.f, [0.3])


def gram(shape: Problem, accumulate: Any) -> Expression:
    """Return a Gram matrix, summed in another dtype."""
    return ngdla.gram(shape.S, accumulate=accumulate)


def column_norms(shape: Problem) -> Expression:
    """Return the squared norms of columns."""
    return ngdla.column_norms(shape.S)


def norms_of_blocks(shape: Problem) -> Expression:
    """Return the squared norms of columns of blocks."""
    return ngdla.column_norms(shape.blocks(shape.S))


def paths() -> Iterator[Case]:
    """Yield paths over dampings, and Gram matrices."""
    shapes = SHAPES | STACKS
    yield from grid("damping_path", path, shape=shapes, given=PATHS)
    yield from grid("damping_path, blocks", path_of_blocks, shape=SHAPES)
    summed = {"accumulate": (None, *DTYPES)}
    yield from grid("gram", gram, shape=shapes, **summed)
    yield from grid("gram, half", gram, **HALF, shape=shapes, **summed)
    yield from grid("gram, large", gram, **INTERPRETED, shape=LARGE, **summed)
    yield from grid("gram, blocks", lambda shape: ngdla.gram(shape.blocks(shape.S)), shape=SHAPES)
    yield from grid("gram, transposed", lambda shape: ngdla.gram(shape.S.T), shape=SHAPES)
    yield from grid("column_norms", column_norms, shape=shapes)
    yield from grid("column_norms, half", column_norms, **HALF, shape=shapes)
    yield from grid("column_norms, large", column_norms, **INTERPRETED, shape=LARGE)
    yield from grid("column_norms, blocks", norms_of_blocks, shape=SHAPES)
    huge = {"dtype": ("float16",), **INTERPRETED}
    yield from grid("gram, huge", lambda: ngdla.gram(HUGE.O), **huge)


# ------------------------------------------------------------------------ steps of optimisation

MODES = (None, "real", "complex", "holomorphic")
WEIGHTS = {"equal": lambda p: None, "given": lambda p: p.weights}


def scores(shape: Problem, mode: Any, weights: Any) -> Expression:
    """Return scores."""
    return ngdla.scores(shape.O, mode=mode, weights=weights(shape))


def residuals(shape: Problem, mode: Any, weights: Any) -> Expression:
    """Return residuals."""
    return ngdla.residuals(shape.f, mode=mode, weights=weights(shape))


def averages() -> Iterator[Case]:
    """Yield scores and residuals."""
    every = {"mode": MODES, "weights": WEIGHTS}
    for function in (scores, residuals):
        name = function.__name__
        yield from grid(name, function, shape=SHAPES | STACKS, **every)
        yield from grid(f"{name}, half", function, **HALF, shape=SHAPES, **every)
    yield from grid(
        "scores, blocks",
        lambda shape, mode: ngdla.scores(shape.blocks(shape.O), mode=mode),
        shape=SHAPES,
        mode=MODES,
    )


STEPS: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "plain": lambda p: {},
    "weights": lambda p: {"weights": p.weights, **FULL},
    "momentum": lambda p: {"previous": p.x0.like("real"), "momentum": 0.9, **FULL},
    "complex momentum": lambda p: {"previous": p.x0, "momentum": 0.5},
    "metric": lambda p: {"metric": p.metric, "refine": 2},
    "snr": lambda p: {"snr": 2.0, **FULL},
    "snr, momentum": lambda p: {"snr": 2.0, "previous": p.x0, "momentum": 0.5, **FULL},
    "cutoff": lambda p: {"cutoff": 0.1, **FULL},
    "cutoff, momentum": lambda p: {"cutoff": 0.1, "previous": p.x0, "momentum": 0.5},
    "svd": lambda p: {"method": "svd"},
    "cg": lambda p: {"method": "cg", **FULL},
    "mixed": lambda p: {"precision": "mixed", **FULL},
    "unchecked": lambda p: {"check": False},
    "unknown": lambda p: {"unknown": 1},
}


def step(shape: Problem, mode: Any, given: Any, energies: str, damping: float) -> Expression:
    """Return a step of stochastic reconfiguration."""
    E = shape.f if energies == "same" else shape.f.like("imaginary")
    return ngdla.stochastic_reconfiguration(shape.O, E, damping, mode=mode, **given(shape))


def steps() -> Iterator[Case]:
    """Yield steps of stochastic reconfiguration in all modes."""
    every = {
        "mode": MODES,
        "given": STEPS,
        "energies": ("same", "complex"),
        "damping": (0.3, 1e-12),
    }
    shapes = SHAPES | STACKS
    yield from grid("stochastic_reconfiguration", step, shape=shapes, **every)
    yield from grid("stochastic_reconfiguration, half", step, **HALF, shape=SHAPES, **every)
    yield from grid("stochastic_reconfiguration, blocks", step_of_blocks, shape=SHAPES, mode=MODES)
    yield from grid("stochastic_reconfiguration, pairs", step_of_pairs, shape=SHAPES, mode=MODES)


def step_of_pairs(shape: Problem, mode: Any) -> Expression:
    """Return a step of a tree of complex parameters, as pairs of real ones."""
    pairs = Array("normal", (shape.n, 2, 5))
    tree = {"w": pairs[:, :, :4], "b": pairs[:, :, 4]}
    return ngdla.stochastic_reconfiguration(tree, shape.f, 0.3, mode=mode, pack=True)


def step_of_blocks(shape: Problem, mode: Any) -> Expression:
    """Return a step of blocks of columns with momentum."""
    previous = shape.blocks(shape.x0)
    options = {"mode": mode, "previous": previous, "momentum": 0.9, **FULL}
    return ngdla.stochastic_reconfiguration(shape.blocks(shape.O), shape.f, 0.3, **options)


# ------------------------------------------------------------------------------- streams, operators

cut = lifted(lambda S, axis: [S[:, :2], S[:, 2:]] if axis else [S[:2], S[2:]])
called = lifted(lambda blocks: lambda: iter(blocks))
lazily = lifted(lambda blocks: [lambda block=block: block for block in blocks])
product = lifted(lambda S: lambda x: S @ x)
adjoint = lifted(lambda S: S.conj().T)
name_of = lifted(lambda S: str(S.dtype).rpartition(".")[2])
# A stream, the axis along which its blocks follow each other, and what they are blocks of.
KINDS = {
    "wide columns": (ngdla.ColumnStream, 1, wide),
    "tall columns": (ngdla.ColumnStream, 1, tall),
    "tall rows": (ngdla.RowStream, 0, tall),
}
GIVEN: dict[str, Callable[[Any], Any]] = {
    "arrays": lambda blocks: blocks,
    "function": called,
    "functions": lazily,
}
USES: dict[str, Callable[[Any, Problem], Any]] = {
    "damped_solve": lambda S, p: ngdla.damped_solve(S, p.v, DAMPING, **FULL),
    "damped_lstsq": lambda S, p: ngdla.damped_lstsq(S, p.F, DAMPING, x0=p.X0, **FULL),
    "metric": lambda S, p: ngdla.damped_lstsq(S, p.f, DAMPING, metric=p.metric, method="eigh"),
    "null": lambda S, p: ngdla.damped_lstsq(S, p.f, 1e-6, null=p.null, refine=2),
    "cg": lambda S, p: ngdla.damped_lstsq(S, p.f, DAMPING, method="cg", **FULL),
    "tiny": lambda S, p: ngdla.damped_lstsq(S, p.f, 1e-14, **FULL),
    "svd": lambda S, p: ngdla.damped_lstsq(S, p.f, DAMPING, method="svd"),
    "factor": lambda S, p: ngdla.damped_factor(S, DAMPING).with_damping(2.0).solve(p.v),
    "leave_one_out": lambda S, p: ngdla.damped_factor(S, DAMPING).leave_one_out(p.f),
    "path": lambda S, p: ngdla.damping_path(S, p.f, [0.1, 1.0]),
    "gram": lambda S, p: ngdla.gram(S),
    "column_norms": lambda S, p: ngdla.column_norms(S),
    "scores": lambda S, p: ngdla.scores(S),
    "real": lambda S, p: ngdla.stochastic_reconfiguration(S, p.f, DAMPING, **FULL),
    "holomorphic": lambda S, p: ngdla.stochastic_reconfiguration(
        S, p.f, DAMPING, mode="holomorphic", weights=p.weights
    ),
    "complex": lambda S, p: ngdla.stochastic_reconfiguration(S, p.f, DAMPING, mode="complex"),
    "snr": lambda S, p: ngdla.stochastic_reconfiguration(S, p.f, DAMPING, snr=1.0),
}


def stream(kind: Any, given: Any, use: Any, prefetch: bool) -> Any:
    """Return what is made of a stream."""
    make, axis, p = kind
    blocks = given(cut(p.S, axis))
    options = {"dtype": name_of(p.S), "like": p.S, "prefetch": prefetch}
    S = make(blocks, (p.n, p.m), **options)
    return S.shape, use(S, p)


@lifted
def written(S: Any) -> str:
    """Write an array into a temporary file and return its name."""
    file = Path(_folder().name) / "scores.raw"
    file.write_bytes(np.asarray(S).tobytes())
    return str(file)


@cache
def _folder() -> TemporaryDirectory[str]:
    """Return the folder of this process, which is removed at its end."""
    return TemporaryDirectory()


def stream_of_file(kind: Any, chunk: Any, use: Any) -> Any:
    """Return what is made of a stream from a file."""
    make, _, p = kind
    file, size = written(p.S), (p.n, p.m)
    return use(make.from_file(file, size, name_of(p.S), chunk, like=p.S), p)


def streams() -> Iterator[Case]:
    """Yield streams of columns and of rows, from memory and from files; none under jit."""
    every = {"kind": KINDS, "use": USES, **EAGER}
    more = {"given": GIVEN, "prefetch": (False, True)}
    yield from grid("stream", stream, **every, **more)
    yield from grid("stream, half", stream, dtype=("float16",), **every, **more)
    yield from grid("stream, file", stream_of_file, **every, chunk=(None, 2))
    refused = ngdla.RowStream([wide.S], (wide.n, wide.m), dtype=name_of(wide.S))
    yield from grid("stream of few rows", lambda: refused, dtype=("float64",), **EAGER)


def operator(shape: Problem, use: Any, batched: bool, gram: str) -> Any:
    """Return what is made of scores that are known by their products."""
    S = shape.S
    products = product(S), product(adjoint(S))
    K = S @ adjoint(S)
    known = {"none": None, "array": K, "function": lifted(lambda K: lambda: K)(K)}[gram]
    size = (shape.n, shape.m)
    return use(ngdla.ScoreOperator(*products, size, like=S, batched=batched, gram=known), shape)


def operators() -> Iterator[Case]:
    """Yield operators."""
    grams = ("none", "array", "function")
    uses = USES | {"attributes": lambda S, p: [S.rows, S.columns, S.dtype, S.like]}
    yield from grid("operator", operator, shape=SHAPES, use=uses, batched=(True, False), gram=grams)
    large = {"solve": USES["damped_solve"], "lstsq": USES["damped_lstsq"]}
    yield from grid(
        "operator, large",
        operator,
        shape=LARGE,
        use=large,
        batched=(True,),
        gram=grams,
        **INTERPRETED,
    )


# ------------------------------------------------------------------------------------------ shards

SHARDS = {"columns": ngdla.ColumnShards, "rows": ngdla.RowShards}


def shard(kind: Any, shape: Problem, use: Any) -> Any:
    """Return what is made of scores on the only rank."""
    return use(kind(shape.S, ngdla.distributed.SerialCommunicator()), shape)


def shards() -> Iterator[Case]:
    """Yield scores of one rank; none under jit."""
    own_columns = {
        "a rank's part of the step": lambda S, p: ngdla.stochastic_reconfiguration(
            S, p.f, DAMPING, gathered=False
        )
    }
    yield from grid("shards", shard, kind=SHARDS, shape=SHAPES, use=USES | own_columns, **EAGER)
