"""Ranks that are devices inside jax.shard_map, or entries of jax.vmap."""

import numpy as np
import pytest

import ngdla
from ngdla.distributed import (
    Collective,
    JaxAxis,
    RecordingCommunicator,
    SerialCommunicator,
)

jax = pytest.importorskip("jax")

from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

COMM = JaxAxis("shards")
SHARDED, SAME = PartitionSpec("shards"), PartitionSpec()


def collectives(comm, x):
    """Return all three, and what is said of the ranks, of a part (2, 3)."""
    rank = jax.numpy.reshape(comm.rank, (1,))
    return comm.all_reduce_sum(x), comm.all_gather(x), comm.all_to_all(x), rank


def expected(X):
    """Return what they are for parts X (ranks, 2, 3)."""
    return X.sum(axis=0), X, X.transpose(1, 0, 2), np.arange(2)


@pytest.fixture
def mesh():
    if len(jax.devices()) < 2:
        pytest.skip("one device")
    return lambda kind: jax.make_mesh((2,), ("shards",), axis_types=(getattr(AxisType, kind),))


@pytest.fixture
def X():
    return np.random.default_rng(0).standard_normal((2, 2, 3)).astype("complex64") * (1 + 2j)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_of_shard_map(mesh, kind, check_vma, X):
    mesh = mesh(kind)
    x = jax.device_put(X.reshape(4, 3), NamedSharding(mesh, SHARDED))
    specs = SAME, SHARDED if check_vma else SAME, SHARDED, SHARDED
    function = jax.shard_map(
        lambda x: collectives(COMM, x),
        mesh=mesh,
        in_specs=SHARDED,
        out_specs=specs,
        check_vma=check_vma,
    )
    total, gathered, exchanged, ranks = jax.jit(function)(x)
    for result, reference in zip(
        (total, np.asarray(gathered)[:2], np.reshape(exchanged, (2, 2, 3)), ranks), expected(X)
    ):
        np.testing.assert_allclose(result, reference, rtol=1e-6)


def test_inside_of_vmap(X):
    results = jax.vmap(lambda x: collectives(COMM, x), axis_name="shards")(X)
    total, gathered, exchanged, ranks = expected(X)
    np.testing.assert_allclose(results[0], [total, total], rtol=1e-6)
    np.testing.assert_array_equal(results[1], [gathered, gathered])
    np.testing.assert_array_equal(results[2], exchanged)
    np.testing.assert_array_equal(results[3][:, 0], ranks)


def test_several_axes_are_one_sequence_of_ranks():
    both = JaxAxis(("rows", "columns"))

    def ranks(x):
        return both.rank, both.all_reduce_sum(x), jax.numpy.asarray(both.size)

    over_columns = jax.vmap(ranks, axis_name="columns")
    numbers, totals, sizes = jax.vmap(over_columns, axis_name="rows")(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(numbers, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(totals, np.full((2, 3), 15.0))
    np.testing.assert_array_equal(sizes, np.full((2, 3), 6))


def test_arrays_of_numpy_are_constants_of_each_rank():
    function = jax.vmap(lambda x: COMM.all_reduce_sum(np.ones(3)) + x, axis_name="shards")
    np.testing.assert_array_equal(function(np.zeros(4)), np.full((4, 3), 4.0))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("gathered", [True, False])
def test_derivatives_in_shard_map(mesh, check_vma, gathered):
    """Those by scores and by energies are those of one device, whatever types say of ranks."""
    rng = np.random.default_rng(0)
    O, E = rng.standard_normal((6, 10)).astype("float32"), rng.standard_normal(6).astype("float32")
    step = ngdla.stochastic_reconfiguration

    def on_ranks(O, E):
        return step(ngdla.RowShards(O, COMM), E, 1.0, gathered=gathered)

    whole = jax.shard_map(
        on_ranks,
        mesh=mesh("Auto"),
        in_specs=SHARDED,
        out_specs=SAME if gathered else SHARDED,
        check_vma=check_vma,
    )
    found, expected = (
        jax.jit(jax.grad(lambda O, E: (f(O, E) ** 3).sum(), argnums=(0, 1)))(O, E)  # noqa: B023
        for f in (whole, lambda O, E: step(O, E, 1.0))
    )
    for x, y in zip(found, expected):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max())


def test_derivatives():
    """A sum passes on to each rank what all ranks ask for."""

    def total(x):
        return jax.vmap(lambda x: COMM.all_reduce_sum(x**2), axis_name="shards")(x)[0]

    np.testing.assert_array_equal(jax.grad(total)(np.arange(3.0)), 2 * np.arange(3.0))


def test_it_is_equal_by_value_and_hashable():
    assert JaxAxis("shards") == COMM != JaxAxis("others")
    assert len({COMM, JaxAxis("shards"), JaxAxis("others")}) == 2
    assert COMM.timeout is None


@pytest.mark.parametrize("where", ["eager", "jit", "other axis"])
@pytest.mark.parametrize("kind", ["all_reduce_sum", "all_gather", "all_to_all"])
def test_outside_of_shard_map(where, kind):
    collective = getattr(COMM, kind)
    called = {
        "eager": collective,
        "jit": jax.jit(collective),
        "other axis": lambda x: jax.vmap(collective, axis_name="others")(x[None]),
    }[where]
    with pytest.raises(RuntimeError, match=r"There is no axis 'shards' here.*MPICommunicator"):
        called(jax.numpy.ones((2, 2)))


def test_ranks_outside_of_shard_map():
    with pytest.raises(RuntimeError, match="There is no axis 'shards' here"):
        COMM.rank  # noqa: B018


def test_other_libraries():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"JaxAxis\(name='shards'\) takes JAX .* a torch array"):
        COMM.all_reduce_sum(torch.ones(3))


def test_a_part_for_each_rank():
    with pytest.raises(ValueError, match=r"for each of the 3 ranks .* shape \(2,\)"):
        jax.vmap(COMM.all_to_all, axis_name="shards")(np.ones((3, 2)))


def test_it_is_recorded_when_it_is_traced():
    comm = RecordingCommunicator(COMM)
    step = jax.jit(jax.vmap(lambda x: comm.all_gather(x)[comm.size - 1], axis_name="shards"))
    for _ in range(2):
        step(np.ones((2, 5), "float32"))
    assert comm.collectives == [Collective("all_gather", 5, "float32")]


class TwoDevices(SerialCommunicator):
    size = 2


def test_a_number_of_columns_that_devices_do_not_have_is_refused():
    def solve(S, f):
        return ngdla.damped_lstsq(ngdla.ColumnShards(S, TwoDevices(), columns=7), f, 1.0)

    with pytest.raises(ValueError, match=r"`columns` .* is 7, but 2 devices with 3 each have 6"):
        jax.jit(solve)(np.ones((2, 3)), np.ones(2))


def test_columns_that_devices_cannot_share_equally_are_refused():
    def solve(S, f):
        return ngdla.damped_lstsq(ngdla.RowShards(S, TwoDevices()), f, 1.0)

    with pytest.raises(ValueError, match="`S` has 5 columns, of which 2 devices cannot have equal"):
        jax.jit(solve)(np.ones((2, 5)), np.ones(2))
