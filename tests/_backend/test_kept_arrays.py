"""Constants and test matrices that are kept on the device: which, where, how many, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cupy_double
import numpy as np
import pytest
from backends import BACKENDS, Backend
from dense_updates import NAMES, after, structure

import ngdla
from ngdla._backend import creation, kept_arrays, random
from ngdla._backend.creation import constant
from ngdla._backend.kept_arrays import KeptArrays, place_of
from ngdla._backend.random import gaussian

ON_DEVICES = [name for name in ("cupy", "cupy-double", "torch-cuda") if name in BACKENDS]


@pytest.fixture(params=ON_DEVICES)
def library(request: pytest.FixtureRequest, empty: None) -> Backend:
    return BACKENDS[request.param]()


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept yet."""
    monkeypatch.setattr(creation, "_KEPT", KeptArrays(2**20))
    monkeypatch.setattr(random, "_KEPT_ON_HOST", KeptArrays(2**20))
    monkeypatch.setattr(random, "_KEPT_ON_DEVICES", KeptArrays(2**24))


def kept() -> Iterator[Any]:
    """Return all arrays that are kept."""
    for store in (creation._KEPT, random._KEPT_ON_HOST, random._KEPT_ON_DEVICES):
        yield from store._kept.values()


# ------------------------------------------------------------------------------- constants


def test_small_constants_are_sent_once(library: Backend) -> None:
    like = library.asarray(np.ones(1))
    one = constant([1, 2, 3], like, "int32")
    assert constant(np.asarray([1, 2, 3]), like, "int32") is one
    for values, name in (([1, 2, 3], "int64"), ([1, 2, 4], "int32"), ([[1, 2, 3]], "int32")):
        other = constant(values, like, name)
        assert other is not one
        np.testing.assert_array_equal(library.numpy(other), np.asarray(values, name))
    large = np.zeros(2**14 + 1)
    assert constant(large, like, "float64") is not constant(large, like, "float64")


def test_constants_of_the_host_are_not_kept(empty: None) -> None:
    """Their memory may be that of the values."""
    for name in ("numpy", "torch"):
        like = BACKENDS[name]().asarray(np.ones(1))
        constant([1, 2], like, "int32")
    assert not list(kept())


def test_streams_and_devices_of_cupy_have_their_own(library: Backend) -> None:
    if library.name not in ("cupy", "cupy-double"):
        pytest.skip("no streams of CuPy")
    cupy = library.cupy  # type: ignore[attr-defined]
    like = library.asarray(np.ones(1))
    one = constant([1, 2], like, "int32")
    with cupy.cuda.Stream(non_blocking=True):
        other = constant([1, 2], like, "int32")
        assert other is not one
        assert constant([1, 2], like, "int32") is other
    assert constant([1, 2], like, "int32") is one
    if cupy.cuda.runtime.getDeviceCount() > 1:
        with cupy.cuda.Device(1):
            there = constant([1, 2], library.asarray(np.ones(1)), "int32")
        assert there.device.id == 1


def test_nothing_is_kept_of_what_cuda_captures(
    library: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there once the graph has run, and not before."""
    if library.name != "cupy-double":
        pytest.skip("streams cannot be told that they capture")
    stream = type(library.cupy.cuda.get_current_stream())  # type: ignore[attr-defined]
    like = library.asarray(np.ones(1))
    with monkeypatch.context() as patch:
        patch.setattr(stream, "is_capturing", lambda self: True)
        constant([1, 2], like, "int32")
        assert not list(kept())
    constant([1, 2], like, "int32")
    assert len(list(kept())) == 1


# ----------------------------------------------------------------------------- test matrices


def test_seeds_are_drawn_from_once(library: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    draw = random._gaussian
    monkeypatch.setitem(random._DRAW, "gaussian", lambda *args: drawn.append(args) or draw(*args))
    like = library.asarray(np.ones(1))
    first = library.numpy(gaussian(3, (5, 2), like, "float32"))
    again = gaussian(np.int64(3), (5, 2), like, "float32")
    again += 1.0  # as an operator of the caller's may
    np.testing.assert_array_equal(library.numpy(gaussian(3, (5, 2), like, "float32")), first)
    assert len(drawn) <= (1 if library.name.startswith("cupy") else 2)
    gaussian(np.random.default_rng(3), (5, 2), like, "float32")
    assert len(list(kept())) == 1


def test_jax_keeps_what_is_not_traced(empty: None) -> None:
    jax = BACKENDS["jax"]().jax  # type: ignore[attr-defined]
    like = jax.numpy.ones(3)

    def draw(like: Any) -> Any:
        return gaussian(3, (5, 2), like, "float64")

    expected = draw(np.ones(3))
    jax.jit(draw)(like)
    jax.jit(lambda x: x + draw(like))(1.0)
    assert not any(isinstance(x, jax.core.Tracer) for x in kept())
    jax.vmap(draw)(jax.numpy.ones((2, 3)))
    one = draw(like)
    assert draw(like) is one
    assert draw(jax.device_put(like, jax.devices()[1])).devices() == {jax.devices()[1]}
    one.delete()  # as donating it does
    np.testing.assert_array_equal(draw(like), expected)
    with jax.default_device(jax.devices()[1]):
        assert draw(jax.numpy.ones(3)).devices() == {jax.devices()[1]}


def test_memory_is_bounded() -> None:
    store, like = KeptArrays(1000), np.ones(1)
    assert place_of(like) is None
    torch = pytest.importorskip("torch")
    made: list[int] = []

    def make(key: int, size: int) -> Any:
        return store.get(key, lambda: made.append(key) or torch.zeros(size, dtype=torch.uint8))

    for key, size in ((1, 400), (2, 400), (1, 400), (3, 400), (1, 400), (2, 400), (4, 2000)):
        assert make(key, size).nbytes == size
        assert sum(x.nbytes for x in store._kept.values()) <= 1000
    assert made == [1, 2, 3, 2, 4]


# --------------------------------------------------------------------------- nobody writes

S = np.random.default_rng(1).standard_normal((12, 40)).astype("float32")
A = (S.T @ S).astype("float32")


def inverse_free(library: Backend) -> None:
    for name in NAMES:
        pair = structure(name, 8), structure(name, 4)
        a, g = (library.asarray(S[:, :d].copy()) for d in (8, 4))
        for retraction in ("series", "expm"):
            state = ngdla.inverse_free_init(8, 4, structures=pair, like=a)
            state = after(state, a, g, 2, damping=0.1, step_size=0.1, retraction=retraction)
            ngdla.load_state_dict(state, ngdla.state_dict(state))
            state.K.solve(library.asarray(S[:8, :3].copy()))
            state.K.to_dense()


USERS: dict[str, Callable[[Backend], Any]] = {
    "randomized_eigh": lambda b: [
        ngdla.randomized_eigh(b.asarray(A), 5, method=method, passes=2)
        for method in ("nystrom", "rayleigh-ritz", "rsvd", "sre")
    ],
    "randomized_svd": lambda b: ngdla.randomized_svd(b.asarray(S), 5),
    "nystrom_factor": lambda b: ngdla.nystrom_factor(b.asarray(A), 5),
    "conjugate gradients": lambda b: ngdla.damped_lstsq(
        b.asarray(S), b.asarray(S[:, 0].copy()), 0.1, method="cg"
    ),
    "hermitian_solve": lambda b: ngdla.hermitian_solve(
        b.asarray(A + np.eye(40, dtype="float32")), b.asarray(S[0].copy())
    ),
    "inverse-free": inverse_free,
}


@pytest.mark.parametrize("user", USERS)
def test_what_is_kept_stays_as_it_was(
    library: Backend, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kept arrays handed out themselves, not copies."""
    copies: list[tuple[Any, np.ndarray]] = []
    get = KeptArrays.get

    def noted(self: KeptArrays, key: Any, make: Callable[[], Any]) -> Any:
        def once() -> Any:
            x = make()
            copies.append((x, library.numpy(x).copy()))
            return x

        return get(self, key, once)

    monkeypatch.setattr(kept_arrays.KeptArrays, "get", noted)
    monkeypatch.setattr(random, "is_cupy_namespace", lambda xp: False)
    USERS[user](library)
    assert copies
    for x, before in copies:
        np.testing.assert_array_equal(library.numpy(x), before)


def test_a_second_update_sends_nothing(library: Backend) -> None:
    """Masks, weights and indices of a structure are on the device from the first one on."""
    if library.name != "cupy-double":
        pytest.skip("uploads are counted by the stand-in alone")
    a, g = (library.asarray(S[:, :d].copy()) for d in (8, 4))
    pair = structure("masked", 8), structure("lower-toeplitz", 4)
    state = ngdla.inverse_free_init(8, 4, structures=pair, like=a)
    options: dict[str, Any] = {"damping": 0.1, "step_size": 0.1}
    state = after(state, a, g, **options)
    with cupy_double.recorded() as record:
        after(state, a, g, **options)
    assert record.uploads == []
