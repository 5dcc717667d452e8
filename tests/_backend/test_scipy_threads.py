"""SciPy's BLAS has one thread for short calls, and as many as before afterwards, come what may."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from scipy.linalg import blas, lapack
from threadpoolctl import threadpool_info, threadpool_limits

import ngdla
from ngdla._backend import scipy_threads, triangular
from ngdla._backend.scipy_threads import OneThread, short_call


class Pool:
    """A number of threads, and what was written to it."""

    def __init__(self, threads: int) -> None:
        self.threads, self.written = threads, list[int]()

    def write(self, threads: int) -> None:
        self.threads = threads
        self.written.append(threads)

    def one_thread(self) -> OneThread:
        return OneThread(lambda: self.threads, self.write)


def test_first_and_last_of_two_threads_write() -> None:
    pool = Pool(4)
    one = pool.one_thread()
    with ThreadPoolExecutor(1) as other:
        other.submit(one.__enter__).result()
        with one:
            assert pool.threads == 1
        assert pool.threads == 1
        other.submit(one.__exit__).result()
    assert pool.threads == 4
    assert pool.written == [1, 1, 4]


def test_call_that_never_left_is_put_right_by_the_next_one() -> None:
    """As after a Ctrl-C that struck in between."""
    pool = Pool(4)
    one = pool.one_thread()
    one.__enter__()
    with one:
        assert pool.threads == 1
    assert pool.threads == 4


def test_call_that_raises_gives_the_threads_back() -> None:
    pool = Pool(4)
    one = pool.one_thread()
    with pytest.raises(KeyError), one:
        raise KeyError
    assert pool.threads == 4


def test_pool_of_one_thread_is_not_written() -> None:
    pool = Pool(1)
    with pool.one_thread():
        pass
    assert pool.written == []


def test_number_that_somebody_sets_meanwhile_stays() -> None:
    pool = Pool(4)
    with pool.one_thread():
        pool.threads = 3
    assert pool.threads == 3


def test_number_is_found_anew_by_each_first_call() -> None:
    pool = Pool(4)
    one = pool.one_thread()
    with one:
        pass
    pool.threads = 2
    with one:
        pass
    assert pool.threads == 2


def test_many_threads_at_once() -> None:
    """Each that enters finds one thread, whoever else leaves."""
    pool = Pool(4)
    one, seen = pool.one_thread(), []

    def calls(_: int) -> None:
        for _ in range(500):
            with one:
                seen.append(pool.threads)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(calls, range(4)))
    assert set(seen) == {1}
    assert pool.threads == 4


def test_fork_forgets_the_calls_of_other_threads() -> None:
    pool = Pool(4)
    one = pool.one_thread()
    one.__enter__()  # of a thread that does not exist in the child
    one.after_fork()
    assert pool.threads == 4
    with one:
        assert pool.threads == 1
    assert pool.threads == 4


# --------------------------------------------------------------------------- SciPy's own pool


def scipy_pool() -> int:
    """Return the number of threads of the BLAS in SciPy's wheel."""
    pools = [pool for pool in threadpool_info() if "scipy.libs" in pool["filepath"]]
    if not pools:
        pytest.skip("SciPy has no BLAS of its own here")
    return int(pools[0]["num_threads"])


@pytest.fixture
def _three_threads() -> Iterator[None]:
    """Three threads, more than a pool of any machine here starts with by itself."""
    np.linalg.inv(np.eye(2))
    lapack.dpotrf(np.eye(2))
    with threadpool_limits(3):
        if scipy_pool() != 3:
            pytest.skip("the number of threads cannot be set here")
        yield


@pytest.mark.usefixtures("_three_threads")
class TestPool:
    def test_short_call(self) -> None:
        with short_call(np.eye(2), 1e6):
            assert scipy_pool() == 1
        assert scipy_pool() == 3

    def test_long_call_keeps_its_threads(self) -> None:
        with short_call(np.eye(2), 1e10):
            assert scipy_pool() == 3

    def test_complex_products_count_four_times(self) -> None:
        with short_call(np.eye(2, dtype=complex), 1e9):
            assert scipy_pool() == 3

    def test_factorisation_that_fails(self) -> None:
        _, ok = triangular.cholesky(-np.eye(50))
        assert not ok
        assert scipy_pool() == 3

    def test_solves_of_four_threads(self) -> None:
        rng = np.random.default_rng(0)
        S = rng.standard_normal((40, 300)) + 1j * rng.standard_normal((40, 300))
        v = S.conj().T @ np.ones(40)
        expected = ngdla.damped_solve(S, v, 0.1)

        def solves(_: int) -> bool:
            return all(np.allclose(ngdla.damped_solve(S, v, 0.1), expected) for _ in range(25))

        with ThreadPoolExecutor(4) as executor:
            assert all(executor.map(solves, range(4)))
        assert scipy_pool() == 3

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
    def test_child_of_a_process_in_the_middle_of_a_call(self) -> None:
        inside, leave = threading.Event(), threading.Event()

        def call() -> None:
            with short_call(np.eye(2), 1e6):
                inside.set()
                leave.wait(60)

        thread = threading.Thread(target=call)
        thread.start()
        inside.wait(60)
        child = os.fork()
        if not child:  # without pytest's own ways out of a process
            os._exit(scipy_pool())
        leave.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert scipy_pool() == 3


def test_pool_of_an_environment_behind_a_link(tmp_path: Path, monkeypatch: Any) -> None:
    scipy_pool()
    packages = Path(scipy.__file__).parent.parent
    (tmp_path / "packages").symlink_to(packages, target_is_directory=True)
    monkeypatch.setattr(scipy, "__file__", str(tmp_path / "packages" / "scipy" / "__init__.py"))
    assert isinstance(scipy_threads._pool.__wrapped__(), OneThread)


# ------------------------------------------------------------------- where it calls SciPy


@pytest.fixture
def seen(monkeypatch: Any) -> list[int]:
    """The number of threads that each function of SciPy's BLAS found, of a pool of four."""
    pool, seen = Pool(4), list[int]()
    one_thread = pool.one_thread()
    monkeypatch.setattr(scipy_threads, "_pool", lambda: one_thread)

    def watched(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(pool.threads)
            return function(*arguments, **options)

        return call

    def watched_get(get: Any) -> Any:
        def found(*arguments: Any) -> Any:
            functions = get(*arguments)
            return watched(functions) if callable(functions) else [*map(watched, functions)]

        return found

    monkeypatch.setattr(lapack, "get_lapack_funcs", watched_get(lapack.get_lapack_funcs))
    monkeypatch.setattr(blas, "get_blas_funcs", watched_get(blas.get_blas_funcs))
    for name in ("eigh", "solve_triangular"):
        monkeypatch.setattr(scipy.linalg, name, watched(getattr(scipy.linalg, name)))
    return seen


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_every_call_of_scipy_has_one_thread(dtype: str, seen: list[int]) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((520, 530)) + 1j * rng.standard_normal((520, 530))
    S = (X if "complex" in dtype else X.real).astype(dtype)
    H = ngdla.gram(S)
    ngdla.damped_solve(S[:50], S[0], 100.0)
    ngdla.damped_solve(S, S[0], 100.0, method="eigh")  # too large for LAPACK by numpy.linalg
    ngdla.randomized_eigh(H, 20)
    ngdla.ema(H, S[:, :520], decay=0.9)  # one triangle by BLAS
    assert len(seen) > 4
    assert set(seen) == {1}
