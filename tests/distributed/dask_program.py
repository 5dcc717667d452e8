"""A Dask cluster of two processes on this machine, and what is checked there, one line for each.

As a program: `dask_program.py FOLDER`. Chunks of scores are made where they are asked for, and each
leaves a line in a file of FOLDER.
"""

import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import ngdla

DAMPING = 1e-2
LIMIT = 60  # seconds for a result


def part(columns, n, seed, folder, pause):
    """Return some columns of S, which are the same whenever they are made."""
    (first,) = columns[:1]
    with (folder / f"{os.getpid()}.txt").open("a") as made:
        print(first, file=made)
    time.sleep(pause)
    values = np.random.default_rng((seed, first)).standard_normal((n, len(columns)))
    return values / np.sqrt(n)


class Scores:
    """S (n, m) in chunks of `width` columns, lazy, and the same in memory."""

    def __init__(self, folder, n, m, width, *, seed=0, pause=0.0):
        self.folder = folder / f"{n}-{m}-{seed}"
        self.folder.mkdir()
        arguments = {"n": n, "seed": seed, "folder": self.folder, "pause": pause}
        self.lazy = da.map_blocks(
            part, da.arange(m, chunks=width), chunks=((n,), (width,) * (m // width)),
            new_axis=0, dtype="float64", meta=np.empty((0, 0)), **arguments,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        self.f, self.v = rng.standard_normal(n), rng.standard_normal(m)
        self.lazy_f, self.lazy_v = da.from_array(self.f), da.from_array(self.v, chunks=width)
        self._make = lambda: np.concatenate(
            [part(range(i, i + width), **arguments | {"pause": 0}) for i in range(0, m, width)], 1
        )

    def made(self):
        """Return the first columns of the chunks that were made, as often as they were."""
        return sorted(int(line) for file in self.folder.iterdir() for line in file.open())

    def in_memory(self):
        S = self._make()
        (self.folder / f"{os.getpid()}.txt").unlink()
        return S


def close(x, expected, condition=1e3):
    error = np.linalg.norm(np.asarray(x) - np.asarray(expected))
    bound = 100 * np.finfo("float64").eps * condition * np.linalg.norm(expected)
    assert error <= bound, (error, bound)


def computed(client, *lazy):
    """Return values, in one computation, within the time limit."""
    return client.compute(dask.delayed(list)(lazy)).result(timeout=LIMIT)


def check_results(client, folder):
    for seed, (n, m) in enumerate(((40, 240), (60, 40))):
        scores = Scores(folder, n, m, 20, seed=seed)
        S, f, v = scores.in_memory(), scores.f, scores.v
        lazy = scores.lazy, scores.lazy_f, scores.lazy_v
        close(computed(client, ngdla.gram(lazy[0]))[0], ngdla.gram(S))
        x, info = ngdla.damped_lstsq(*lazy[:2], DAMPING, x0=lazy[2], full_output=True)
        x, converged = computed(client, x, info.converged)
        close(x, ngdla.damped_lstsq(S, f, DAMPING, x0=v))
        assert converged
        (x,) = computed(client, ngdla.damped_solve(lazy[0], lazy[2], DAMPING))
        close(x, ngdla.damped_solve(S, v, DAMPING))
        lazy_factor, factor = (ngdla.damped_factor(s, DAMPING) for s in (lazy[0], S))
        lazy_factor = dask.persist(lazy_factor)[0]
        y, logdet = computed(client, lazy_factor.lstsq(lazy[1]), lazy_factor.logdet())
        close(y, factor.lstsq(f))
        close(logdet, factor.logdet())
        step = ngdla.stochastic_reconfiguration(*lazy[:2], DAMPING)
        close(computed(client, step)[0], ngdla.stochastic_reconfiguration(S, f, DAMPING))


def check_laziness(client, folder):
    """Nothing is made before a result is asked for, and then each chunk once."""
    scores = Scores(folder, 40, 240, 20, seed=2)
    results = (
        ngdla.gram(scores.lazy),
        ngdla.damped_solve(scores.lazy, scores.lazy_v, DAMPING),
        ngdla.damped_factor(scores.lazy, DAMPING).lstsq(scores.lazy_f),
        ngdla.stochastic_reconfiguration(scores.lazy, scores.lazy_f, DAMPING),
    )
    time.sleep(0.2)
    assert scores.made() == []
    assert results[0].numblocks == (1, 1)
    for x in results[1:]:
        assert x.chunks == ((20,) * 12,)
        computed(client, x)
        assert scores.made() == list(range(0, 240, 20))
        for file in scores.folder.iterdir():
            file.unlink()


def kept(dask_scheduler):
    tasks = dask_scheduler.tasks.items()
    return {str(key): task.nbytes for key, task in tasks if task.state == "memory"}


def check_blocks_of_the_graph(client, folder):
    """A factor that is kept is one block of n x n or a few, beside the chunks of S."""
    n = 200
    scores = Scores(folder, n, 240, 20, seed=3)
    factor = dask.persist(ngdla.damped_factor(scores.lazy, DAMPING))[0]
    computed(client, factor.logdet())
    sizes = [size for key, size in client.run_on_scheduler(kept).items() if "part" not in key]
    whole = [size for size in sizes if size > n]
    assert whole
    assert all(abs(size - 8 * n * n) <= 1000 for size in whole), sizes
    assert sum(sizes) <= 3 * 8 * n * n, sizes


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_memory(client, folder):
    """A worker holds its chunks, a few of them twice, and n x n matrices."""
    n, m, width = 64, 256_000, 4_000
    warm = Scores(folder, n, 8_000, width, seed=4)
    computed(client, ngdla.damped_lstsq(warm.lazy, warm.lazy_f, DAMPING))
    before = client.run(peak)
    scores = Scores(folder, n, m, width, seed=5)
    x = client.persist(ngdla.damped_lstsq(scores.lazy, scores.lazy_f, DAMPING))
    norm = computed(client, da.linalg.norm(x))[0]
    assert norm > 0
    of_scores, chunk = 8 * n * m, 8 * n * width
    for worker, most in client.run(peak).items():
        grown = most - before[worker]
        assert grown <= 0.75 * of_scores + 10 * chunk, (grown, of_scores)


def check_rows(client, folder):
    """Chunks of samples are refused with the call that exchanges them for chunks of parameters."""
    scores = Scores(folder, 40, 240, 20, seed=6)
    S = scores.in_memory()
    rows = da.from_array(S, chunks=(10, -1))
    with pytest.raises(ValueError, match=r"Use S.rechunk\(\(-1, 'auto'\)\)"):
        ngdla.damped_lstsq(rows, scores.lazy_f, DAMPING)
    (x,) = computed(client, ngdla.damped_lstsq(rows.rechunk((-1, 30)), scores.lazy_f, DAMPING))
    close(x, ngdla.damped_lstsq(S, scores.f, DAMPING))


def check_a_killed_worker(client, folder):
    """What it had is made again."""
    scores = Scores(folder, 40, 800, 20, seed=7, pause=0.05)
    result = client.compute(ngdla.damped_lstsq(scores.lazy, scores.lazy_f, DAMPING))
    end = time.monotonic() + LIMIT
    while len(scores.made()) < 10:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    x = result.result(timeout=LIMIT)
    assert len(scores.made()) > 40
    close(x, ngdla.damped_lstsq(scores.in_memory(), scores.f, DAMPING))


def main(folder):
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder
        ) as cluster,
        Client(cluster) as client,
    ):
        for name, check in checks.items():
            began = time.perf_counter()
            try:
                check(client, Path(folder))
                said = "passed"
            except Exception:  # noqa: BLE001  it is told by its test
                said = "failed\n" + traceback.format_exc()
            sys.stdout.write(f"CHECK {name} {time.perf_counter() - began:.1f} s {said}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
