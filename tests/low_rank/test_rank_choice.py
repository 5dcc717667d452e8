"""rank="auto": the rank that a damping or an error asks for, in buckets of 32, and its cap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend
from spectra import geometric, power_law, psd, quick_compilation, refused  # noqa: F401

from ngdla import LowRankEigh, RankWarning, randomized_eigh

D = 128
WIDE = psd(np.random.default_rng(0), geometric(D, 0.9), "float64")


def auto(A: Any, damping: Any, **options: Any) -> LowRankEigh:
    return randomized_eigh(A, "auto", damping=damping, **options)


def effective_dimension(values: np.ndarray, damping: float) -> float:
    return float(np.sum(values / (values + damping)))


@pytest.mark.parametrize(("damping", "rank"), [(0.5, 32), (1e-1, 64), (1e-2, 96), (1e-4, 128)])
def test_the_rank_grows_as_the_damping_falls(damping: float, rank: int) -> None:
    """To the next bucket above 1.5 times the effective dimension."""
    needed = 1.5 * effective_dimension(geometric(D, 0.9), damping)
    assert rank - 32 < needed <= rank or rank == D
    result = auto(WIDE, damping, max_rank=D)
    assert result.eigenvalues.shape == (rank,)
    np.testing.assert_allclose(result.eigenvalues[:16], geometric(D, 0.9)[:16], rtol=0.02)


@pytest.mark.parametrize("target", [1.0, 0.1])
@pytest.mark.parametrize("damping", [0.5, 0.02])
def test_the_error_is_in_the_target(target: float, damping: float) -> None:
    """As estimated, and truly so within 20 %; one bucket less would not do."""
    result = auto(WIDE, damping, target=target, max_rank=D)
    bound = target * damping
    rank = len(result.eigenvalues)
    assert rank % 32 == 0
    truth = np.linalg.norm(
        WIDE - (result.eigenvectors * result.eigenvalues) @ result.eigenvectors.T
    )
    assert truth <= 1.2 * bound
    if rank > 32:
        assert np.linalg.norm(geometric(D, 0.9)[rank - 32 :]) >= bound / 1.2


def test_the_cap_warns() -> None:
    """By either rule: with what was asked for, the cap, and what to do."""
    with pytest.warns(RankWarning, match="capped at 32: `damping` asks for more modes"):
        result = auto(WIDE, 1e-4)  # d / 4
    assert result.eigenvalues.shape == (32,)
    with pytest.warns(RankWarning, match="capped at 40: the estimated `error` exceeds target"):
        result = auto(WIDE, 1e-3, target=1.0, max_rank=40)
    assert result.eigenvalues.shape == (40,)
    with pytest.warns(RankWarning, match="Raise `max_rank`") as caught:
        auto(WIDE, 1e-4, max_rank=3)
    assert caught[0].filename == __file__


def test_small_matrices_are_one_bucket() -> None:
    A = psd(np.random.default_rng(1), power_law(20), "float64")
    result = auto(A, 1e-3)
    assert result.complete  # which nothing warns of
    assert auto(np.zeros((D, D)), 1.0).eigenvalues.shape == (32,)


def test_a_basis_is_where_it_starts() -> None:
    """The rank is at least that of the basis at first, and cut down again."""
    basis = randomized_eigh(WIDE, 50).eigenvectors
    assert auto(WIDE, 0.5, basis=basis, max_rank=D).eigenvalues.shape == (32,)
    result = auto(WIDE, 1e-1, basis=basis, passes=1, max_rank=D)
    assert result.eigenvalues.shape == (64,)


@pytest.mark.parametrize("method", ["rayleigh-ritz", "rsvd", "sre"])
@pytest.mark.parametrize("target", [None, 1.0])
def test_other_methods(method: str, target: float | None) -> None:
    passes = 2 if method == "sre" else 3
    result = auto(WIDE, 0.5, method=method, passes=passes, target=target, tail="min", max_rank=D)
    assert result.eigenvalues.shape == (32,)
    assert result.tail == result.eigenvalues[-1]


def test_batches_take_the_largest() -> None:
    slow, fast = WIDE, psd(np.random.default_rng(2), geometric(D, 0.1), "float64")
    for target in (None, 1.0):
        alone = [len(auto(A, 0.05, target=target, max_rank=D).eigenvalues) for A in (slow, fast)]
        both = auto(np.stack([slow, fast]), 0.05, target=target, max_rank=D)
        assert alone == [64, 32]
        assert both.eigenvalues.shape == (2, 64)


def test_on_every_library(valued_backend: Backend) -> None:
    if valued_backend.name.startswith("jax"):
        pytest.skip("compiled operation by operation, which takes seconds")
    like = valued_backend.asarray(WIDE.astype(valued_backend.dtypes[0]))
    result = auto(like, 0.1, max_rank=D)
    valued_backend.assert_kind(
        result.eigenvectors, like=like, dtype=valued_backend.dtypes[0], shape=(D, 64)
    )


def test_it_reads_one_number_for_each_attempt() -> None:
    """And one flag with checks."""
    from array_api_strict import asarray
    from backends import counted_host_reads

    like = asarray(WIDE)
    for check in (False, True):
        with counted_host_reads() as reads:
            auto(like, 0.1, max_rank=D, check=check)  # 32, 64
        assert len(reads) == 2 * (1 + check)


def test_values_cannot_be_read_under_jit() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match=r"rank='auto' reads eigenvalues.*choose the rank outside"):
        jax.jit(lambda A: auto(A, 0.1).tail)(np.eye(8))
    da = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="cannot be read under jit"):
        auto(da.from_array(np.eye(8)), 0.1)


SMALL = psd(np.random.default_rng(3), geometric(12), "float64")


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [("damping", TypeError, value) for value in (None, "0.1", 1j, True, np.ones(2))]
    + [("damping", ValueError, value) for value in (0, -1.0, np.nan, np.inf, 1e-320)]
    + [("target", ValueError, value) for value in (0, -1.0, np.nan, "small", True)]
    + [("max_rank", ValueError, value) for value in (0, 13)]
    + [("max_rank", TypeError, value) for value in (2.5, True, "all")]
    + [("rng", TypeError, np.ones((12, 12))), ("rng", ValueError, -1)],
)
def test_wrong_arguments(name: str, kind: type[Exception], value: Any) -> None:
    arguments: dict[str, Any] = {"damping": 0.1, name: value}
    refused(kind, name, lambda: randomized_eigh(SMALL, "auto", **arguments))


def test_the_rank_follows_the_target_on_a_strict_library() -> None:
    strict = pytest.importorskip("array_api_strict")
    options = {"damping": 0.5, "target": 1.0, "max_rank": 120}
    found = randomized_eigh(strict.asarray(WIDE), "auto", **options)
    assert found.eigenvalues.shape == randomized_eigh(WIDE, "auto", **options).eigenvalues.shape
