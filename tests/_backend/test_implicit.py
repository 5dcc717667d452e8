"""Derivatives of what solves an equation, at any order and in every mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ngdla._backend.implicit import implicit, with_derivatives_of
from ngdla._backend.namespace import namespace
from ngdla._backend.tracing import derivative_where

# torch scripts its forward-mode derivatives, which it calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

A, SLOPE = 4.0, (0.25, -1 / 32, 3 / 256)  # derivatives of the square root at 4


@pytest.fixture
def jax() -> Any:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def equation(x: Any, a: Any) -> Any:
    return x * x - a


def solution(b: Any, root: Any) -> Any:
    return b / (2 * root)


def root(a: Any) -> Any:
    """Return the square root, of which the library knows the value alone."""
    x = namespace(a).asarray(np.sqrt(A))
    return implicit(equation, solution, x, lambda: (x,), (a,))


def test_derivatives_of_any_order_in_torch() -> None:
    torch = pytest.importorskip("torch")
    a = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    x = root(a)
    assert x.item() == 2.0
    for slope in SLOPE:
        (x,) = torch.autograd.grad(x, a, create_graph=True)
        assert x.item() == pytest.approx(slope)


def test_modes_of_torch() -> None:
    torch = pytest.importorskip("torch")
    a = torch.tensor(A, dtype=torch.float64)
    one = torch.ones_like(a)
    assert torch.func.jvp(root, (a,), (one,))[1].item() == pytest.approx(SLOPE[0])
    forward_over_reverse = torch.func.jvp(torch.func.grad(root), (a,), (one,))
    assert forward_over_reverse[1].item() == pytest.approx(SLOPE[1])
    mapped = torch.func.vmap(torch.func.grad(root))(torch.stack([a, a]))
    assert mapped.tolist() == pytest.approx(2 * [SLOPE[0]])
    with torch.autograd.forward_ad.dual_level():
        dual = root(torch.autograd.forward_ad.make_dual(a, one))
        assert torch.autograd.forward_ad.unpack_dual(dual).tangent.item() == pytest.approx(SLOPE[0])
    with pytest.raises(NotImplementedError, match="in reverse mode"):
        torch.func.jvp(lambda a: torch.func.jvp(root, (a,), (one,))[1], (a,), (one,))


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_torch() -> None:
    torch = pytest.importorskip("torch")
    a = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    x = torch.compile(root, fullgraph=True, backend="aot_eager")(a)
    assert torch.autograd.grad(x, a)[0].item() == pytest.approx(SLOPE[0])


def test_derivatives_of_any_order_in_jax(jax: Any) -> None:
    a = jax.numpy.asarray(A)
    function = root
    assert jax.jvp(root, (a,), (1.0,))[1] == pytest.approx(SLOPE[0])
    for slope in SLOPE:
        function = jax.grad(function)
        assert function(a) == pytest.approx(slope)
    assert jax.jit(jax.grad(jax.grad(root)))(a) == pytest.approx(SLOPE[1])
    assert jax.vmap(jax.grad(root))(jax.numpy.stack([a, a])) == pytest.approx(2 * [SLOPE[0]])


def test_a_value_that_is_known_better() -> None:
    torch = pytest.importorskip("torch")
    a = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    x = with_derivatives_of(torch.sqrt, torch.tensor(2.5, dtype=torch.float64), (a,))
    assert x.item() == 2.5
    assert torch.autograd.grad(x, a)[0].item() == pytest.approx(SLOPE[0])


@pytest.mark.parametrize("ok", [True, False])
def test_derivatives_are_refused(ok: bool, jax: Any) -> None:
    def square(a: Any) -> Any:
        return derivative_where(namespace(a).asarray(ok), a * a)

    slope = 2 * A if ok else np.nan
    a = jax.numpy.asarray(A)
    for function in (square, jax.jit(square)):
        assert function(a) == A**2
        np.testing.assert_equal(float(jax.grad(function)(a)), slope)
        np.testing.assert_equal(float(jax.jvp(function, (a,), (1.0,))[1]), slope)
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(A, requires_grad=True)
    x = square(leaf)
    assert x.item() == A**2
    np.testing.assert_equal(torch.autograd.grad(x, leaf)[0].item(), slope)
