"""Sharded arrays of JAX on four devices of the CPU, as a program: `sharded_jax.py short` or `long`.

The number of devices is fixed where JAX starts. Everything is compiled: eager programs of several
devices on few cores wait for each other forever.
"""

import os

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)

import math
import re
import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ngdla
from ngdla.distributed import JaxAxis

KINDS = ("Auto", "Explicit")
DAMPING = 0.1
SPECS = {  # of S, vectors with the n axis, and vectors with the m axis
    "columns": (P(None, "d"), P(), P("d")),
    "rows": (P("d"), P("d"), P()),
}
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


# --------------------------------------------------------------------------- what is called


def lstsq(S, f, v, D, w):
    return ngdla.damped_lstsq(S, f, DAMPING, x0=v, metric=D)


def solve(S, f, v, D, w):
    return ngdla.damped_solve(S, v, DAMPING)


def plain(S, f, v, D, w):
    return ngdla.damped_lstsq(S, f, DAMPING)


def null(S, f, v, D, w):
    centred, equal = ngdla.scores(S, mode=mode(S)), len(w) ** -0.5 + 0 * w
    return ngdla.damped_lstsq(centred, f - f.mean(), DAMPING, null=equal)


def spring(S, f, v, D, w):
    return ngdla.stochastic_reconfiguration(
        S, f, DAMPING, weights=w, previous=v, momentum=0.5, mode=mode(S)
    )


def by_snr(S, f, v, D, w):
    return ngdla.stochastic_reconfiguration(S, f, DAMPING, snr=2.0, mode=mode(S))


def stacked(S, f, v, D, w):
    kind = "complex" if "complex" in str(S.dtype) else "real"
    return ngdla.stochastic_reconfiguration(S, f, DAMPING, mode=kind)


def factor(S, f, v, D, w):
    F = ngdla.damped_factor(S, DAMPING)
    other = F.with_damping(2 * DAMPING)
    return F.solve(v), other.lstsq(f), F.logdet(), other.leave_one_out(f), F.overlap(v)


def path(S, f, v, D, w):
    xp = jnp if isinstance(S, jax.Array) else np
    return ngdla.damping_path(S, f, xp.asarray([DAMPING, 1.0], dtype=D.dtype))


def gram(S, f, v, D, w):
    return ngdla.gram(S)


def centred(S, f, v, D, w):
    return ngdla.scores(S, weights=w, mode=mode(S)), ngdla.column_norms(S)


def mode(S):
    return "holomorphic" if "complex" in str(S.dtype) else "real"


# ------------------------------------------------------------------------------- comparison


def problem(n, m, dtype):
    """Return S and vectors (f, v, D, w)."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if "complex" in dtype else x).astype(dtype)

    real = np.zeros((), dtype).real.dtype
    D, w = (rng.uniform(0.5, 1.5, size).astype(real) for size in (m, n))
    return normal(n, m), normal(n), normal(m), D, w


def mesh_of(kind, shape=(4,), names=("d",)):
    return jax.make_mesh(shape, names, axis_types=(getattr(AxisType, kind),) * len(shape))


def put(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def distance(x, y):
    x, y = (np.concatenate([np.ravel(part) for part in jax.tree.leaves(z)]) for z in (x, y))
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def rounding(S):
    """Return what rounding may change of a result, relative to it."""
    largest = np.linalg.norm(S, 2) ** 2
    return 4 * np.finfo(S.dtype).eps * (1 + largest / DAMPING)


def words_sent(program):
    """Return the real numbers in the largest collective of each kind, per device."""
    sent = {}
    for arrays, kind in COLLECTIVE.findall(program.as_text()):
        for number, shape in re.findall(r"(\w)\w+\[([\d,]*)\]", arrays):
            words = math.prod(int(d) for d in shape.split(",") if d)
            sent[kind] = max(sent.get(kind, 0), (2 if number == "c" else 1) * words)
    return sent


def sharded(kind, layout, S, f, v, D, w):
    mesh, (matrix, samples, parameters) = mesh_of(kind), SPECS[layout]
    specs = (matrix, samples, parameters, parameters, samples)
    return [put(x, mesh, *spec) for x, spec in zip((S, f, v, D, w), specs)]


def compare(call, kind, layout, n, m, dtype, *, runs=True):
    """Assert that a compiled call is right and sends little; with `runs` false what it sends."""
    given = problem(n, m, dtype)
    arguments = sharded(kind, layout, *given)
    program = jax.jit(call).lower(*arguments).compile()
    case = f"{call.__name__}, {kind} {layout}, {n} x {m}, {dtype}"
    least = n if layout == "columns" else min(n, m)
    sent, square = words_sent(program), (2 if "complex" in dtype else 1) * least**2
    most = max((4 if call is stacked else 1) * square, 2 * m)
    if layout == "rows" and call is not centred:
        assert n >= m or "all-to-all" in sent, (case, sent)
        assert sent.get("all-gather", 0) <= most < n * m, (case, sent)
    else:
        assert max(sent.values(), default=0) <= most, (case, sent)
    if runs:
        result = program(*arguments)
        assert distance(result, call(*given)) <= rounding(given[0]), case
        if layout == "columns" and n < m:
            for x in jax.tree.leaves(result):
                if x.shape[-1:] == (m,):
                    assert x.sharding.spec[-1] == "d", (case, x.sharding)


def short():
    for kind in KINDS:
        for n in (64, 600, 1024):
            for dtype in ("float64", "complex128"):
                compare(gram, kind, "columns", n, 4 * n, dtype, runs=n == 64)
        compare(gram, kind, "rows", 64, 256, "float32")
    compare(lstsq, "Explicit", "columns", 64, 256, "complex128")
    compare(spring, "Explicit", "rows", 16, 256, "float64")
    compare(plain, "Auto", "rows", 64, 256, "float64")
    compare(solve, "Auto", "columns", 64, 256, "float32")
    compare(solve, "Explicit", "rows", 256, 16, "float64")
    of_trees("Explicit")
    memory()
    in_shard_map("Explicit", "rows", 12, 64, "float64", check_vma=True)
    in_shard_map("Auto", "columns", 12, 64, "float32", check_vma=True)


def of_trees(kind):
    """Leaves and vectors come in all shapes of parameters; some are sharded, and results like them.

    n is the number of parameters of one leaf.
    """
    S, f, *_ = problem(16, 64, "float64")
    tree = {"a": S[:, :16], "b": S[:, 16:].reshape(16, 6, 8)}
    mesh = mesh_of(kind)
    given = {"a": put(tree["a"], mesh, None, "d"), "b": put(tree["b"], mesh, None, None, "d")}
    x = jax.jit(lambda S, f: ngdla.damped_lstsq(S, f, DAMPING))(given, put(f, mesh))
    assert distance(x, ngdla.damped_lstsq(tree, f, DAMPING)) <= rounding(S)
    if kind == "Explicit":
        assert x["a"].sharding.spec == P("d")
        assert x["b"].sharding.spec == P(None, "d")


def memory():
    """Where n x n numbers are more than a device holds, that is said before XLA is asked."""
    limit = mock.patch(
        "ngdla._backend.device_memory._memory_of_each_device", return_value=64 * 64 * 8 - 1
    )
    for kind in KINDS:
        arguments = sharded(kind, "columns", *problem(64, 256, "float64"))
        anew = jax.jit(partial(plain))
        with limit, pytest.raises(MemoryError, match=r"64 x 64 .*takes 32,768 bytes.* jaxmg"):
            anew.lower(*arguments)


def in_shard_map(kind, layout, n, m, dtype, *, check_vma):
    """Each device has its part of S, as ranks have, and the same types on all where it says so."""
    S, f, v, D, w = problem(n, m, dtype)
    comm = JaxAxis("d")
    shards = {"columns": ngdla.ColumnShards, "rows": ngdla.RowShards}[layout]

    def calls(wrap, x):
        S, f, v, D, w = x
        S = wrap(S)
        kind = "holomorphic" if "complex" in dtype else "real"
        own = (
            ngdla.damped_lstsq(S, f, DAMPING, x0=v, metric=D),
            ngdla.damped_solve(S, v, DAMPING),
        )
        step = ngdla.stochastic_reconfiguration(S, f, DAMPING, weights=w, mode=kind)
        return own, step, ngdla.gram(S) if layout == "columns" else ngdla.column_norms(S)

    matrix, samples, _ = SPECS[layout]
    whole = layout == "rows" and n >= m
    parameters = P() if whole else P("d")
    step, last = (P("d"), P()) if layout == "columns" else (P(), parameters)
    function = jax.shard_map(
        lambda *x: calls(lambda S: shards(S, comm), x),
        mesh=mesh_of(kind),
        in_specs=(matrix, samples, parameters, parameters, samples),
        out_specs=(parameters, step, last),
        check_vma=check_vma,
    )
    mesh, specs = mesh_of(kind), (matrix, samples, parameters, parameters, samples)
    given = [put(x, mesh, *spec) for x, spec in zip((S, f, v, D, w), specs)]
    results, expected = jax.jit(function)(*given), calls(lambda S: S, (S, f, v, D, w))
    for i, (x, y) in enumerate(zip(jax.tree.leaves(results), jax.tree.leaves(expected))):
        assert x.dtype == y.dtype
        assert distance(x, y) <= rounding(S), (kind, layout, n, m, dtype, check_vma, i)


def long():
    calls = (lstsq, solve, null, spring, by_snr, stacked, factor, path, centred)
    for kind in KINDS:
        for layout in SPECS:
            for call in calls:
                compare(call, kind, layout, 16, 256, "float64")
                compare(call, kind, layout, 16, 256, "complex64")
            for call in (lstsq, solve, spring, factor, path):
                compare(call, kind, layout, 256, 16, "float64")
        for n in (64, 600, 1024):
            for dtype in ("float64", "complex128"):
                for call in (plain, solve, spring):
                    compare(call, kind, "columns", n, 4 * n, dtype, runs=False)
        of_trees(kind)
        for check_vma in (True, False):
            for layout in SPECS:
                for dtype in ("float32", "complex128"):
                    in_shard_map(kind, layout, 12, 64, dtype, check_vma=check_vma)
                in_shard_map(kind, layout, 64, 12, "float64", check_vma=check_vma)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    {"short": short, "long": long}[sys.argv[1]]()
