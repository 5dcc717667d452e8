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
from typing import Any

from .array import AnyArray
from .dtypes import is_complex
from .namespace import is_jax_namespace, namespace, torch_compiling
from .tracing import detached, differentiable

__all__ = ["implicit"]

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
    return _root_of_torch()(residual, solve, X, constants, parameters)


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


_ROOT: list[Any] = []


def _root_of_torch() -> Any:
    """Return a function of the arguments of `_root_of_jax`."""
    if not _ROOT:
        _ROOT.append(_make_root_of_torch())
    return _ROOT[0]


def _make_root_of_torch() -> Any:
    import torch

    class Root(torch.autograd.Function):  # type: ignore[misc]
        """X for parameters p; `count` of the tensors are known, the others p."""

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
        def backward(ctx: Any, gradient: Any) -> Any:
            X, known, p = parts(ctx)
            _, pull = torch.func.vjp(lambda *p: ctx.residual(X, *p), *p)
            gradients = pull(-linear(ctx, gradient, X, known, p))
            return (None,) * (4 + ctx.count) + gradients

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            X, known, p = parts(ctx)
            dp = tuple(
                torch.zeros_like(x) if dx is None else dx
                for x, dx in zip(p, tangents[4 + ctx.count :])
            )
            _, pull = torch.func.vjp(lambda *p: ctx.residual(X, *p), *p)
            _, push = torch.func.vjp(pull, torch.zeros_like(X))  # the adjoint of the adjoint
            return -linear(ctx, push(dp)[0], X, known, p)

    def parts(ctx: Any) -> tuple[Any, Any, Any]:
        X, *tensors = ctx.saved_tensors
        return X, tuple(tensors[: ctx.count]), tuple(tensors[ctx.count :])

    def linear(ctx: Any, B: Any, X: Any, known: Any, p: Any) -> Any:
        """Return M^-1 B, which depends on B, X and p, as the root of M Y - B."""
        residual = Linear(ctx.residual)
        return root(residual, ctx.solve, ctx.solve(B.detach(), *known), known, (B, X, *p))

    class Linear:
        """M Y - B, of the derivative M = M^H of a residual by X."""

        def __init__(self, residual: Residual) -> None:
            self.residual = residual

        def __call__(self, Y: Any, B: Any, X: Any, *p: Any) -> Any:
            _, pull = torch.func.vjp(lambda X: self.residual(X, *p), X)
            return pull(Y)[0] - B

    def root(residual: Residual, solve: Solve, X: Any, known: Any, parameters: Any) -> Any:
        levels = torch._C._functorch.get_interpreter_stack() or ()
        if [level.key() for level in levels].count(torch._C._functorch.TransformType.Jvp) > 1:
            msg = (
                "torch takes no forward-mode derivative of a forward-mode derivative here; take "
                "one of the two in reverse mode, as torch.func.hessian does."
            )
            raise NotImplementedError(msg)
        return Root.apply(residual, solve, len(known), X, *known, *parameters)

    return root
