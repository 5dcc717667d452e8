"""Sums that write into what is used up, and never into anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import Backend, has_module
from references import U, random_array
from spectra import needs

from ngdla._backend.sums import add_multiple, add_to_multiple, writable

SHAPE = (3, 4, 5)


def added(total: Any, factor: Any, x: Any) -> Any:
    return add_multiple(total + 0, factor, x)


def added_to(total: Any, factor: Any, x: Any) -> Any:
    return add_to_multiple(total + 0, factor, x)


EXACT: dict[Callable[..., Any], Callable[..., Any]] = {
    added: lambda total, factor, x: total + factor * x,
    added_to: lambda total, factor, x: factor * total + x,
}


@pytest.mark.thinned(0)
@pytest.mark.parametrize("function", EXACT)
@pytest.mark.parametrize("kind", ["number", "one for each", "full"])
def test_sums(
    backend: Backend,
    dtype: str,
    kind: str,
    function: Callable[..., Any],
    rng: np.random.Generator,
) -> None:
    needs(backend, dtype)
    total, x = (random_array(rng, SHAPE, dtype) for _ in range(2))
    real = total.real.dtype
    factor: Any = -1.75
    if kind != "number":
        shape = (3, 1, 1) if kind == "one for each" else SHAPE
        factor = rng.standard_normal(shape).astype(real)
    exact = EXACT[function](total.astype("clongdouble"), factor, x.astype("clongdouble"))
    exact = exact if np.iscomplexobj(total) else exact.real
    given = factor if kind == "number" else backend.asarray(factor)
    like = backend.asarray(total)
    found = backend.call(function, like, given, backend.asarray(x))
    backend.assert_matches(found, exact, like=like, dtype=dtype, tolerance=4 * U[dtype])


def test_what_is_used_up_is_written_into(rng: np.random.Generator) -> None:
    total, x = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    assert add_multiple(total, 2.0, x) is total
    assert add_to_multiple(total, 2.0, x) is total


@pytest.mark.skipif(not has_module("torch"), reason="needs torch")
def test_which_tensors_are_written_into() -> None:
    import torch

    total, x = torch.ones(3), torch.ones(3)
    assert writable(total, 1.0, x)
    assert add_multiple(total, 2.0, x).data_ptr() == total.data_ptr()
    watched = torch.ones(3, requires_grad=True)
    assert not writable(watched, x)
    assert not writable(total, watched)
    assert not writable(torch.nn.Parameter(torch.ones(3), requires_grad=False))
    seen: list[bool] = []

    def mapped(y: Any) -> Any:
        seen.append(writable(total, y))
        return y

    torch.func.vmap(mapped)(torch.ones(2, 3))
    torch.func.grad(lambda y: mapped(y).sum())(x)
    assert seen == [False, False]
    assert add_multiple(total, 2.0, watched).data_ptr() != total.data_ptr()


@pytest.mark.skipif(not has_module("jax"), reason="needs JAX")
def test_jax_arrays_are_not_written_into() -> None:
    import jax.numpy as jnp

    assert not writable(jnp.ones(3))
