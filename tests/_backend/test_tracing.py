"""Which values can be read, and which of two functions is taken where one cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import Backend

from ngdla._backend.namespace import namespace
from ngdla._backend.tracing import (
    choose,
    choose_if_free,
    chooses,
    concrete,
    free_to_read,
    is_traced,
    number,
    repeated,
)


@pytest.mark.parametrize("value", [True, False])
def test_eager_values_are_read(valued_backend: Backend, value: bool) -> None:
    flag = valued_backend.asarray(np.asarray(value))
    assert concrete(flag) is value
    assert concrete(np.bool_(value)) is value
    assert not is_traced(flag)
    assert number(valued_backend.asarray(np.asarray(0.25, "float32"))) == 0.25


def test_traced_values_are_not_read_in_jax() -> None:
    jax = pytest.importorskip("jax")
    seen = []

    def look(x: Any) -> Any:
        seen.append((concrete(jax.numpy.all(x > 0)), number(jax.numpy.sum(x)), is_traced(x)))
        return x

    jax.jit(look)(np.ones(3))
    jax.vmap(look)(np.ones(3))
    assert seen == [(None, None, True)] * 2


def test_values_are_not_read_where_torch_has_none() -> None:
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    meta = torch.ones((), dtype=torch.bool, device="meta")
    assert concrete(meta) is None
    assert is_traced(meta)
    with FakeTensorMode():
        fake = torch.ones((), dtype=torch.bool)
        assert concrete(fake) is None
        assert is_traced(fake)
    seen = []

    def look(x: Any) -> Any:
        seen.append((concrete(torch.all(x > 0)), number(torch.sum(x)), is_traced(x)))
        return x

    torch.vmap(look)(torch.ones(3))
    assert seen == [(None, None, True)]


def test_lazy_values_are_not_read() -> None:
    da = pytest.importorskip("dask.array")
    assert concrete(da.ones((), dtype=bool)) is None
    assert number(da.ones(())) is None
    assert is_traced(da.ones(()))


@pytest.mark.parametrize("flag", [True, False])
def test_choose(backend: Backend, flag: bool) -> None:
    """The one that the flag says on JAX, elsewhere the first, which is always right."""
    x = backend.asarray(np.ones(3, "float32"))

    def chosen(flag: Any, x: Any) -> Any:
        return choose(flag, lambda: (x + 1, None), lambda: (x - 1, None))[0]

    y = backend.call(chosen, backend.asarray(np.asarray(flag)), x)
    assert chooses(x) is (backend.name == "jax")
    if backend.has_values:
        expected = 2.0 if flag or not chooses(x) else 0.0
        np.testing.assert_array_equal(backend.numpy(y), expected)


@pytest.mark.parametrize("flag", [True, False])
def test_choose_if_free(backend: Backend, flag: bool) -> None:
    """The one that the flag says on the host and in compiled code, elsewhere always the second."""
    x = backend.asarray(np.ones(3, "float32"))

    def chosen(flag: Any, x: Any) -> Any:
        return choose_if_free(flag, lambda: x + 1, lambda: x - 1)

    y = backend.call(chosen, backend.asarray(np.asarray(flag)), x)
    free = backend.name in ("numpy", "numpy-readonly", "torch", "jax", "jax-gpu")
    if backend.has_values:
        expected = 2.0 if flag and free else 0.0
        np.testing.assert_array_equal(backend.numpy(y), expected)


@pytest.mark.parametrize("flag", [True, False])
def test_eager_values_of_jax_are_chosen_by(flag: bool) -> None:
    """On the host they are read, as lax.cond would compile its closures in each call."""
    jnp = pytest.importorskip("jax.numpy")
    x = jnp.asarray(flag)
    if not free_to_read(x):
        pytest.skip("arrays of JAX lie on a GPU")
    seen: list[str] = []
    choose(x, lambda: seen.append("then"), lambda: seen.append("otherwise"))
    choose_if_free(x, lambda: seen.append("then"), lambda: seen.append("otherwise"))
    assert seen == 2 * ["then" if flag else "otherwise"]


def test_steps_end_early_where_looking_is_free(backend: Backend) -> None:
    xp = namespace(backend.asarray(np.zeros(1, "float32")))
    x, made = backend.asarray(np.asarray(0.0, "float32")), []

    def step(x: Any) -> Any:
        made.append(x)
        return xp.where(x < 3, x + 1, x)

    end = repeated(step, lambda x: x < 3, x, 10, early=False)
    if backend.has_values:
        assert float(backend.numpy(end)) == 3.0
        assert len(made) == (3 if free_to_read(x) else 10)
