"""Solutions of equations as differentiable functions of what stands in them.

Derivatives of eigenvectors do not exist where eigenvalues are equal, those of functions of the
whole matrix do. They follow from the equation that the function solves, R(X, p) = 0,

    M dX = -(dR / dp) dp,    M = dR / dX,

where M is inverted in closed form, by whatever the solution was computed from. Derivatives of
derivatives follow from the same equations, in which X is a function of p again: they are right at
any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from .array import AnyArray
from .dtypes import is_complex
from .namespace import is_jax_namespace, namespace, torch_compiling
from .tracing import detached, differentiable

__all__ = ["implicit", "with_derivatives_of"]

Residual = Callable[..., AnyArray]
Solve = Callable[..., AnyArray]


def implicit(
    residual: Residual,
    solve: Solve,
    X: AnyArray,
    known: Callable[[], tuple[AnyArray, ...]],
    parameters: tuple[AnyArray, ...],
) -> AnyArray:
    """Return X, a root of residual(X, *parameters), as a differentiable function of `parameters`.

    solve(B, *known()) is M^-1 B for the derivative M of the residual by X, which must be Hermitian.
    X and what is `known`, which is asked for where derivatives may be, count as constants. The
    residual and `solve` close over no arrays.
    """
    xp = namespace(X)
    if not any(differentiable(p) for p in parameters):
        return X
    X, constants = detached(X), tuple(detached(x) for x in known())
    if is_jax_namespace(xp):
        return _root_of_jax(residual, solve, X, constants, parameters)
    if torch_compiling():  # which knows first derivatives alone
        r = residual(X, *parameters)
        return X - solve(r - r.detach(), *constants)
    return _root_of_torch(residual, solve, X, constants, parameters)


def with_derivatives_of(
    function: Callable[..., AnyArray], value: AnyArray, parameters: tuple[AnyArray, ...]
) -> AnyArray:
    """Return function(*parameters), whose value is known, and computed better than by it."""
    return implicit(partial(_difference, function), _itself, value, tuple, parameters)


def _difference(function: Callable[..., AnyArray], X: AnyArray, *parameters: AnyArray) -> AnyArray:
    return X - function(*parameters)


def _itself(B: AnyArray) -> AnyArray:
    return B


def _root_of_jax(
    residual: Residual, solve: Solve, X: AnyArray, known: Any, parameters: Any
) -> AnyArray:
    import jax

    def inverse(_: Any, B: AnyArray) -> AnyArray:
        return solve(B, *known)

    def transposed(_: Any, B: AnyArray) -> AnyArray:
        return inverse(None, B.conj()).conj() if is_complex(B) else inverse(None, B)

    def tangent(M: Callable[[AnyArray], AnyArray], B: AnyArray) -> AnyArray:
        return jax.lax.custom_linear_solve(M, B, inverse, transpose_solve=transposed)

    root: AnyArray = jax.lax.custom_root(
        lambda X: residual(X, *parameters), X, lambda _, X: X, tangent
    )
    return root


# --------------------------------------------------------------------------------- PyTorch


def _root_of_torch(
    residual: Residual, solve: Solve, X: AnyArray, known: Any, parameters: Any
) -> AnyArray:
    import torch

    levels = torch._C._functorch.get_interpreter_stack() or ()
    if [level.key() for level in levels].count(torch._C._functorch.TransformType.Jvp) > 1:
        msg = (
            "PyTorch drops the forward-mode derivative of a forward-mode derivative here; take one "
            "of the two in reverse mode, as torch.func.hessian does."
        )
        raise NotImplementedError(msg)
    return _root_function().apply(residual, solve, len(known), X, *known, *parameters)


@cache
def _root_function() -> Any:
    """Return the function of the arguments of `_root_of_torch` and the number of the known."""
    import torch

    class Root(torch.autograd.Function):  # type: ignore[misc]
        generate_vmap_rule = True

        @staticmethod
        def forward(residual: Any, solve: Any, count: int, X: Any, *tensors: Any) -> Any:
            return X.view_as(X)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.residual, ctx.solve, ctx.count, _, *tensors = inputs
            ctx.save_for_backward(output, *tensors)
            ctx.save_for_forward(output, *tensors)

        @staticmethod
        def backward(ctx: Any, dX: Any) -> Any:
            by_parameters, _ = _pull_back(ctx)
            return (None,) * (4 + ctx.count) + by_parameters(-_linear_root(ctx, dX))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            by_parameters, p = _pull_back(ctx)
            dp = tuple(
                torch.zeros_like(x) if dx is None else dx
                for x, dx in zip(p, tangents[4 + ctx.count :])
            )
            # dR / dp is the adjoint of its adjoint
            _, push = torch.func.vjp(by_parameters, torch.zeros_like(ctx.saved_tensors[0]))
            return -_linear_root(ctx, push(dp)[0])

    return Root


def _pull_back(ctx: Any) -> tuple[Any, Any]:
    """Return the adjoint of dR / dp, and p."""
    import torch

    X, *tensors = ctx.saved_tensors
    p = tuple(tensors[ctx.count :])
    return torch.func.vjp(lambda *p: ctx.residual(X, *p), *p)[1], p


def _linear_root(ctx: Any, B: AnyArray) -> AnyArray:
    """Return Y = M^-1 B, which depends on B, X and p: the root of M Y - B."""
    X, *tensors = ctx.saved_tensors
    known, p = tuple(tensors[: ctx.count]), tensors[ctx.count :]
    Y = ctx.solve(B.detach(), *known)
    return _root_of_torch(partial(_linear, ctx.residual), ctx.solve, Y, known, (B, X, *p))


def _linear(residual: Residual, Y: AnyArray, B: AnyArray, X: AnyArray, *p: AnyArray) -> AnyArray:
    """Return M Y - B for M = M^H, the derivative of a residual by X."""
    import torch

    _, pull = torch.func.vjp(lambda X: residual(X, *p), X)
    return pull(Y)[0] - B
