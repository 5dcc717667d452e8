"""Streams of rows: solves in the parameter space, and centring after the contraction."""

from __future__ import annotations

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
from ngdla.variational_monte_carlo.centred_scores import Centring

DAMPING = 1e-2


class Rows:
    """Blocks of rows, which count the passes made over them."""

    def __init__(self, S: Any, height: int) -> None:
        self.S, self.height, self.passes = S, height, 0

    def __call__(self) -> Iterator[Any]:
        self.passes += 1
        for start in range(0, self.S.shape[0], self.height):
            yield self.S[start : min(start + self.height, self.S.shape[0]), :]


def streamed(S: np.ndarray, height: int, **options: Any) -> ngdla.RowStream:
    return ngdla.RowStream(Rows(S, height), S.shape, dtype=S.dtype, **options)


# ------------------------------------------------------------------------------- results


@pytest.mark.thinned
@pytest.mark.parametrize("shape", [(12, 5), (7, 7), (6, 1), (1, 1)], ids=str)
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
    blocks = Rows(S if host else like, 5)
    stream = ngdla.RowStream(blocks, shape, dtype=dtype, like=like, prefetch=prefetch)
    bound = 40 * U[dtype] * condition(S, DAMPING) ** 0.5
    x = ngdla.damped_solve(stream, backend.asarray(v), DAMPING)
    reference = exact_solve(S, columns(v), DAMPING)[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)
    x = ngdla.damped_lstsq(stream, backend.asarray(f), DAMPING, x0=backend.asarray(x0))
    reference = exact_lstsq(S, columns(f), DAMPING, columns(x0))[:, 0]
    backend.assert_matches(x, reference, like=like, dtype=dtype, tolerance=bound)


@pytest.mark.parametrize("precision", ["native", "mixed"])
@pytest.mark.parametrize("method", ["cholesky", "eigh"])
def test_a_stream_is_its_matrix(method: str, precision: str, rng: np.random.Generator) -> None:
    S, metric = rng.standard_normal((40, 6)), 0.5 + rng.random(6)
    f, x0 = (random_array(rng, (size, 3), "complex128") for size in (40, 6))
    options: dict[str, Any] = {"x0": x0, "metric": metric, "method": method, "full_output": True}
    x, info = ngdla.damped_lstsq(streamed(S, 7), f, 0.1, precision=precision, **options)
    y, other = ngdla.damped_lstsq(S, f, 0.1, precision=precision, **options)
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(info.step_norm, other.step_norm, rtol=1e-12)
    assert np.all(info.converged)


@pytest.mark.parametrize("refine", [0, 1, 2])
@pytest.mark.parametrize("full_output", [False, True])
@pytest.mark.parametrize("with_null", [False, True])
def test_passes(refine: int, full_output: bool, with_null: bool, rng: np.random.Generator) -> None:
    S = rng.standard_normal((40, 6))
    S -= S.mean(axis=0)
    f, v, x0 = (rng.standard_normal(size) for size in (40, 6, 6))
    options: dict[str, Any] = {"refine": refine, "full_output": full_output}
    if with_null:
        options["null"] = np.full(40, 40**-0.5)

    def passes(solve: Callable[..., Any], *args: Any, **more: Any) -> int:
        blocks = Rows(S, 7)
        solve(ngdla.RowStream(blocks, S.shape, dtype="float64"), *args, 0.1, **options, **more)
        return blocks.passes

    expected = 1 + refine + with_null + full_output
    assert passes(ngdla.damped_lstsq, f) == expected
    assert passes(ngdla.damped_lstsq, f, x0=x0) == expected
    assert passes(ngdla.damped_solve, v) == expected


@pytest.mark.parametrize("chunk", [1, 7, 40, None])
def test_files(tmp_path: Path, dtype: str, chunk: int | None, rng: np.random.Generator) -> None:
    S, f = random_array(rng, (40, 6), dtype), random_array(rng, (40,), dtype)
    S.tofile(tmp_path / "S")
    stream = ngdla.RowStream.from_file(tmp_path / "S", S.shape, dtype, chunk)
    x = ngdla.damped_lstsq(stream, f, 1.0)
    bound = 100 * U[dtype]
    np.testing.assert_allclose(x, ngdla.damped_lstsq(S, f, 1.0), rtol=bound, atol=bound)


# ------------------------------------------------------------------------------- centring


class Unshifted(Centring):
    """Centring all of the mean after the contraction."""

    def shift(self, O: Any, span: slice) -> Any:
        return np.zeros_like(O[:1])


def centred_gram_error(O: np.ndarray, kind: type[Centring]) -> float:
    """Return the error of S^H S over sigma_1^2."""
    n = len(O)
    exact = (wide(O) - wide(O).mean(axis=0)) / np.sqrt(np.longdouble(n))
    reference = H(exact) @ exact
    null = np.full((n, 1), n**-0.5, dtype="float32")
    stream = streamed(O, 32).centred(kind(None, null, False))
    K, _, _ = stream.parameter_gram("float32")
    largest = np.linalg.norm(exact.astype("float64"), 2) ** 2
    return float(np.linalg.norm((K - reference).astype("float64"), 2) / largest)


@pytest.mark.parametrize("rho", [0.0, 10.0, 100.0, 1000.0])
def test_a_shift_keeps_the_accuracy_of_centred_gram_matrices(
    rho: float, rng: np.random.Generator
) -> None:
    """A mean rho sigma_1 long in every row: without a shift it costs u rho^2."""
    n, m = 2000, 40
    S = scores_with_spectrum(rng, n, m, "float64", decades=4)
    direction = rng.standard_normal(m)
    mean = rho * direction / np.linalg.norm(direction) / np.sqrt(n)
    O = (np.sqrt(n) * (S + mean * np.sqrt(n))).astype("float32")
    assert centred_gram_error(O, Centring) <= 2e-6
    if rho >= 100:
        assert centred_gram_error(O, Unshifted) >= 1e-9 * rho**2


# --------------------------------------------------------------------------------- refusals


def test_fewer_rows_than_columns() -> None:
    with pytest.raises(ValueError, match=r"`shape` is \(3, 8\).*Use a ColumnStream"):
        ngdla.RowStream(Rows(np.ones((3, 8)), 2), (3, 8), dtype="float64")


def test_what_needs_all_rows_at_once() -> None:
    stream = streamed(np.ones((8, 3)), 2)
    with pytest.raises(ValueError, match="pass a ColumnStream"):
        ngdla.gram(stream)
    with pytest.raises(ValueError, match="'cholesky' or 'eigh'"):
        ngdla.damped_lstsq(stream, np.ones(8), 1.0, method="qr")


def test_numbers_that_are_not_finite() -> None:
    S = np.ones((8, 3))
    S[5, 1] = np.nan
    S[7, 0] = np.inf
    with pytest.raises(ValueError, match=r"block 2 of the stream `S` \(rows 4 to 5\).*NaN"):
        ngdla.damped_lstsq(streamed(S, 2), np.ones(8), 1.0)


def test_what_needs_rows_takes_a_pass_more(rng: np.random.Generator) -> None:
    S, f = rng.standard_normal((30, 5)), rng.standard_normal(30)
    path, reference = (ngdla.damping_path(s, f, [0.1, 1.0]) for s in (streamed(S, 11), S))
    for one, other in zip(path, reference):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    left, exact = (ngdla.damped_factor(s, 0.3).leave_one_out(f) for s in (streamed(S, 11), S))
    np.testing.assert_allclose(left, exact, rtol=1e-10)
    with pytest.raises(ValueError, match=r"rows of the RowStream .* use arrays"):
        ngdla.stochastic_reconfiguration(streamed(S, 11), f, 0.1, snr=1.0)
