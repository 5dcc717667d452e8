"""Ways to a Gram matrix of which only a device can tell which is the fastest: all are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from backends import BACKENDS
from references import H, U, random_array, wide

from ngdla._backend import gram as module
from ngdla._backend.choices import CHOICES
from ngdla._backend.gram import gram


def assert_is_gram(G: Any, S: np.ndarray) -> None:
    tolerance = U[str(S.dtype)] * S.shape[-1]
    np.testing.assert_allclose(G, wide(S) @ H(wide(S)), atol=8 * tolerance, rtol=tolerance)


def fresh() -> Callable[[Any], Any]:
    """Return `gram` as a function that JAX has not traced, which would keep its way."""

    def of(S: Any) -> Any:
        return gram(S)

    return of


SHAPES = [(1, 1), (2, 5000), (5, 3), (130, 700), (2, 3, 70, 300)]


@pytest.mark.parametrize("way", CHOICES["gram of torch"].ways)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ways_of_torch_on_cuda(
    shape: tuple[int, ...], dtype: str, way: str, rng: np.random.Generator
) -> None:
    """As they are on the CPU, which itself always takes halves."""
    torch = pytest.importorskip("torch")
    S = random_array(rng, shape, dtype)
    with CHOICES["gram of torch"].taken(way):
        G = module._gram_torch_cuda(torch.from_numpy(S)).resolve_conj().numpy()
    assert_is_gram(G, S)


def test_cuda_tensors_take_the_chosen_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    taken: list[Any] = []
    monkeypatch.setattr(module, "_gram_torch_cuda", taken.append)
    with fake.FakeTensorMode():
        S = torch.empty(300, 5000, device="cuda")
        gram(S)
    assert [x.shape for x in taken] == [(300, 5000)]
    gram(torch.ones(3, 5))
    assert len(taken) == 1


@pytest.mark.parametrize("way", CHOICES["gram of jax"].ways)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_symmetric_products_of_jax(
    shape: tuple[int, ...], dtype: str, way: str, rng: np.random.Generator
) -> None:
    """On the CPU `gram` takes its own way, whatever is chosen for GPUs."""
    jax = BACKENDS["jax"]().jax  # type: ignore[attr-defined]
    S = random_array(rng, shape, dtype)
    with CHOICES["gram of jax"].taken(way):
        results = [gram(jax.numpy.asarray(S)), jax.jit(fresh())(S)]
    if not dtype.startswith("complex"):
        results.append(jax.jit(module._symmetric_jax)(S))
    for G in results:
        assert G.dtype == dtype
        assert_is_gram(G, S)


@pytest.mark.parametrize("way", CHOICES["gram of jax"].ways)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(2, 5000), (20, 30), (600, 2000), (3, 20, 30)], ids=str)
def test_gpus_take_the_chosen_way(shape: tuple[int, ...], dtype: str, way: str) -> None:
    """By what JAX lowers for them, without one."""
    jax = BACKENDS["jax"]().jax  # type: ignore[attr-defined]
    S = jax.ShapeDtypeStruct(shape, dtype)
    with CHOICES["gram of jax"].taken(way):
        traced = jax.jit(fresh()).trace(S)
    symmetric = way == "symmetric" and not dtype.startswith("complex")
    for platform in ("cuda", "cpu"):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("syrk" in lowered) == (symmetric and platform == "cuda")


def test_derivatives_and_maps_of_symmetric_products(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the symmetric product in the place of the plain one, on the CPU as well."""
    jax = BACKENDS["jax"]().jax  # type: ignore[attr-defined]
    S, dS, C = (random_array(rng, s, "float64") for s in ((3, 4, 9), (3, 4, 9), (3, 4, 4)))
    C = jax.numpy.asarray(C)

    def found() -> list[Any]:
        slope = jax.grad(lambda S: (C * gram(S)).sum())
        twice = jax.grad(lambda S: (slope(S) ** 2).sum())
        tangent = jax.jvp(gram, (S,), (dS,))
        return [jax.jit(slope)(S), twice(S), *tangent, jax.jit(jax.vmap(gram))(S)]

    expected = found()
    monkeypatch.setattr(module, "_whole_jax", module._symmetric_jax)
    module._gram_jax.cache_clear()
    with CHOICES["gram of jax"].taken("symmetric"):
        for x, y in zip(found(), expected):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)
    module._gram_jax.cache_clear()
