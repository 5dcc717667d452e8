"""Streams of columns: solves from blocks that are never together in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import Backend
from references import (
    H,
    U,
    columns,
    condition,
    exact_lstsq,
    exact_solve,
    random_array,
    scores_with_spectrum,
    wide,
)
from spectra import quick_compilation  # noqa: F401

import ngdla

DAMPING = 1e-2


class Columns:
    """Blocks of columns, which count the passes made over them."""

    def __init__(self, S: Any, width: int) -> None:
        self.S, self.width, self.passes = S, width, 0

    def __call__(self) -> Iterator[Any]:
        self.passes += 1
        for start in range(0, self.S.shape[1], self.width):
            yield self.S[:, start : min(start + self.width, self.S.shape[1])]


def streamed(S: np.ndarray, width: int, **options: Any) -> ngdla.ColumnStream:
    return ngdla.ColumnStream(Columns(S, width), S.shape, dtype=S.dtype, **options)


def tolerance(S: np.ndarray, dtype: str) -> float:
    return 40 * U[dtype] * condition(S, DAMPING) ** 0.5


# ------------------------------------------------------------------------------- results


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (1, 6), (6, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("host", [True, False], ids=["NumPy blocks", "blocks of the library"])
@pytest.mark.parametrize("prefetch", [False, True])
def test_definition(
    valued_backend: Backend,
    dtype: str,
    shape: tuple[int, int],
    host: bool,
    prefetch: bool,
    rng: np.random.Generator,
) -> None:
    backend, (n, m) = valued_backend, shape
    if dtype not in backend.dtypes:
        pytest.skip("no such dtype here")
    S = scores_with_spectrum(rng, n, m, dtype, decades=1)
    v, f, x0 = (random_array(rng, (size,), dtype) for size in (m, n, m))
    like = backend.asarray(S)
    blocks = Columns(S if host else like, 5)
    stream = ngdla.ColumnStream(blocks, shape, dtype=dtype, like=like, prefetch=prefetch)
    bound = tolerance(S, dtype)
    x = ngdla.damped_solve(stream, backend.asarray(v), DAMPING)
    reference = exact_solve(S, columns(v), DAMPING)[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)
    x = ngdla.damped_lstsq(stream, backend.asarray(f), DAMPING, x0=backend.asarray(x0))
    reference = exact_lstsq(S, columns(f), DAMPING, columns(x0))[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)
    backend.assert_matches(
        ngdla.gram(stream), wide(S) @ H(wide(S)), like=like, dtype=dtype, tolerance=20 * U[dtype]
    )


@pytest.mark.parametrize("precision", ["native", "mixed", "float64"])
@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_a_stream_is_its_matrix(method: str, precision: str, rng: np.random.Generator) -> None:
    S, metric = rng.standard_normal((6, 40)), 0.5 + rng.random(40)
    f = random_array(rng, (6, 3), "complex128")
    options: dict[str, Any] = {"metric": metric, "method": method, "full_output": True}
    if precision != "float64":
        options["precision"] = precision
    x, info = ngdla.damped_lstsq(streamed(S, 7), f, 0.1, **options)
    y, other = ngdla.damped_lstsq(S, f, 0.1, **options)
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(info.step_norm, other.step_norm, rtol=1e-12)
    assert np.all(info.converged)


def test_a_factor_solves_again(rng: np.random.Generator) -> None:
    S, v = rng.standard_normal((6, 40)), rng.standard_normal(40)
    factor = ngdla.damped_factor(streamed(S, 7), 0.1)
    np.testing.assert_allclose(factor.solve(v), ngdla.damped_solve(S, v, 0.1), rtol=1e-11)


def test_layers_are_arrays_or_functions(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((6, 40)), rng.standard_normal(6)
    layers: list[Any] = [S[:, :13], lambda: S[:, 13:14], S[:, 14:]]
    for blocks in (layers, tuple(layers)):
        stream = ngdla.ColumnStream(blocks, S.shape, dtype=np.float64)
        x = ngdla.damped_lstsq(stream, f, 0.1)
        np.testing.assert_allclose(x, ngdla.damped_lstsq(S, f, 0.1), rtol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_half_precision_is_stored_only(library: str, rng: np.random.Generator) -> None:
    S = rng.standard_normal((6, 40)).astype("float16")
    like: Any = np.zeros(1, "float32")
    if library != "numpy":
        xp: Any = pytest.importorskip("torch" if library == "torch" else "jax.numpy")
        like = xp.zeros(1, dtype=xp.float32)
    f = like + np.float32(1.0) * (like.new_ones(6) if library == "torch" else np.ones(6, "float32"))
    exact = exact_lstsq(S.astype("float64"), np.ones((6, 1)), 0.1)[:, 0]
    x = ngdla.damped_lstsq(streamed(S, 7, like=like), f, 0.1)
    np.testing.assert_allclose(np.asarray(x), exact, rtol=1e-4, atol=1e-6)


def test_bfloat16_blocks(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    S = torch.asarray(rng.standard_normal((6, 40))).to(torch.bfloat16)
    stream = ngdla.ColumnStream(Columns(S, 7), (6, 40), dtype=S.dtype, like=S)
    x = ngdla.damped_lstsq(stream, torch.ones(6), 0.1)
    exact = exact_lstsq(S.double().numpy(), np.ones((6, 1)), 0.1)[:, 0]
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), exact, rtol=1e-4, atol=1e-6)


def test_sums_over_blocks_are_in_double_precision(
    valued_backend: Backend, rng: np.random.Generator
) -> None:
    """In float32 the sum of so many positive terms would err by many roundings."""
    backend = valued_backend
    if "float64" not in backend.dtypes:
        pytest.skip("no double precision here")
    S = (1 + 0.1 * rng.random((2, 5000))).astype("float32")
    stream = streamed(S, 4, like=backend.asarray(S))
    backend.assert_matches(
        ngdla.gram(stream),
        wide(S) @ H(wide(S)),
        like=backend.asarray(S),
        dtype="float32",
        tolerance=2 * U["float32"],
    )


# ------------------------------------------------------------------------- passes, memory


@pytest.mark.parametrize("refine", [0, 1, 2])
@pytest.mark.parametrize("full_output", [False, True])
@pytest.mark.parametrize("with_null", [False, True])
def test_passes(refine: int, full_output: bool, with_null: bool, rng: np.random.Generator) -> None:
    S = rng.standard_normal((6, 40))
    S -= S.mean(axis=0)
    f, v, x0 = (rng.standard_normal(size) for size in (6, 40, 40))
    options: dict[str, Any] = {"refine": refine, "full_output": full_output}
    if with_null:
        options["null"] = np.full(6, 6**-0.5)

    def passes(solve: Callable[..., Any], *args: Any, **more: Any) -> int:
        blocks = Columns(S, 7)
        solve(ngdla.ColumnStream(blocks, S.shape, dtype="float64"), *args, 0.1, **options, **more)
        return blocks.passes

    base = 2 + refine + with_null
    assert passes(ngdla.damped_lstsq, f) == base
    assert passes(ngdla.damped_lstsq, f, x0=x0) == base
    assert passes(ngdla.damped_solve, v) == base + full_output


@pytest.mark.parametrize("prefetch", [False, True])
def test_memory(tmp_path: Path, prefetch: bool, rng: np.random.Generator) -> None:
    n, m, chunk = 20, 40_000, 1000
    path = tmp_path / "S"
    rng.standard_normal((n, m)).tofile(path)
    stream = ngdla.ColumnStream.from_file(path, (n, m), "float64", chunk, prefetch=prefetch)
    f = rng.standard_normal(n)
    tracemalloc.start()
    ngdla.damped_lstsq(stream, f, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 8 * (3 * n * n + 4 * m) + 200_000 < 8 * n * m / 4


# ---------------------------------------------------------------------------------- files


@pytest.mark.parametrize("chunk", [1, 7, 40, 100, None])
@pytest.mark.parametrize("offset", [0, 24])
def test_files(
    tmp_path: Path, dtype: str, chunk: int | None, offset: int, rng: np.random.Generator
) -> None:
    S, f = random_array(rng, (6, 40), dtype), random_array(rng, (6,), dtype)
    path = tmp_path / "S.bin"
    path.write_bytes(bytes(offset) + S.tobytes())
    stream = ngdla.ColumnStream.from_file(path, S.shape, dtype, chunk, offset=offset)
    x = ngdla.damped_lstsq(stream, f, 1.0)
    bound = 100 * U[dtype]
    np.testing.assert_allclose(x, ngdla.damped_lstsq(S, f, 1.0), rtol=bound, atol=bound)


@pytest.mark.parametrize("library", ["torch", "jax", "strict"])
def test_files_for_other_libraries(library: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Maps go with their blocks: nothing that works later may still look at them."""
    from backends import BACKENDS

    backend: Any = BACKENDS[library]()
    S, f = rng.standard_normal((50, 4000)), rng.standard_normal(50)
    S.tofile(tmp_path / "S")
    like = backend.asarray(f)
    stream = ngdla.ColumnStream.from_file(tmp_path / "S", S.shape, "float64", 64, like=like)
    x = ngdla.damped_lstsq(stream, like, 1.0)
    reference = ngdla.damped_lstsq(S, f, 1.0)
    backend.assert_matches(x, reference, like=like, dtype="float64", tolerance=1e-12)


def test_memory_maps_are_arrays(tmp_path: Path, rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((6, 40)), rng.standard_normal(6)
    S.tofile(tmp_path / "S")
    mapped = np.memmap(tmp_path / "S", "float64", "r", shape=S.shape)
    torch = pytest.importorskip("torch")
    for like in (f, torch.asarray(f)):
        x = ngdla.damped_lstsq(streamed(mapped, 7, like=like), like, 1.0)
        assert type(x) is type(like)
        np.testing.assert_allclose(np.asarray(x), ngdla.damped_lstsq(S, f, 1.0), rtol=1e-12)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "S"
    np.ones(24).tofile(path)
    from_file = ngdla.ColumnStream.from_file
    with pytest.raises(FileNotFoundError, match="missing"):
        from_file(tmp_path / "missing", (3, 8), "float64")
    for shape, dtype, offset in (((3, 9), "float64", 0), ((3, 8), "float32", 0), ((3, 8), "f8", 8)):
        with pytest.raises((ValueError, TypeError), match=r"192|takes|must be one of"):
            from_file(path, shape, dtype, offset=offset)
    with pytest.raises(ValueError, match="`chunk` holds 0"):
        from_file(path, (3, 8), "float64", 0)
    with pytest.raises(TypeError, match="bfloat16"):
        from_file(path, (3, 8), "bfloat16")
    with pytest.raises(ValueError, match="`offset` is -1"):
        from_file(path, (3, 8), "float64", offset=-1)


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "S"
    np.ones(24).tofile(path)
    stream = ngdla.ColumnStream.from_file(path, (3, 8), "float64", 2)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RuntimeError, match=r"block 0 of the stream `S`.*become shorter"):
        ngdla.damped_lstsq(stream, np.ones(3), 1.0)


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["svd", "qr"])
def test_methods_that_need_all_of_S(method: str) -> None:
    with pytest.raises(ValueError, match="'cholesky' or 'eigh'"):
        ngdla.damped_lstsq(streamed(np.ones((3, 8)), 2), np.ones(3), 1.0, method=method)


def test_numbers_that_are_not_finite(valued_backend: Backend) -> None:
    backend = valued_backend
    dtype = backend.dtypes[0]
    S = np.ones((3, 8), dtype)
    S[1, 5] = np.nan
    S[2, 7] = np.inf
    stream = streamed(S, 2, like=backend.asarray(S))
    with pytest.raises(ValueError, match=r"block 2 of the stream `S` \(columns 4 to 5\).*NaN"):
        ngdla.damped_lstsq(stream, backend.asarray(np.ones(3, dtype)), 1.0)


@pytest.mark.parametrize("scale", [1e20, 3e18])
def test_numbers_that_overflow(scale: float) -> None:
    """In a block, or where the sum in double precision is rounded."""
    S = np.full((3, 64), scale, "float32")
    with pytest.raises(ValueError, match="exceed the range of float32"):
        ngdla.damped_lstsq(streamed(S, 2), np.ones(3, "float32"), 1.0)


def test_vectors_of_the_wrong_size_or_library() -> None:
    stream = streamed(np.ones((3, 8)), 2)
    with pytest.raises(ValueError, match=r"must have shape \(8,\)"):
        ngdla.damped_solve(stream, np.ones(3), 1.0)
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="`f` is a torch array but `S` is a numpy array"):
        ngdla.damped_lstsq(stream, torch.ones(3), 1.0)


def test_a_stream_is_no_block() -> None:
    stream = streamed(np.ones((3, 8)), 2)
    with pytest.raises(TypeError, match=r"`S\[0\]` is a .*ColumnStream"):
        ngdla.damped_lstsq([stream], np.ones(3), 1.0)
    with pytest.raises(TypeError, match=r"`S\['S'\]` is a .*ColumnStream"):
        ngdla.damped_lstsq({"S": stream}, np.ones(3), 1.0)


@pytest.mark.parametrize("kind", [ngdla.ColumnStream, ngdla.RowStream])
def test_a_wrong_keyword_names_the_stream_that_was_written(kind: type) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) .* 'chunks'"):
        kind([np.eye(2)], (2, 2), dtype="float64", chunks=1)
