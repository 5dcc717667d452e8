"""Whether the values of an array can be read, and what to do where they cannot.

They cannot be read inside `jax.jit`, `jax.vmap`, `torch.vmap` and `torch.compile`, on torch's meta
and fake devices, and they are not read of lazy Dask arrays.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .array import AnyArray
from .choices import CHOICES
from .dtypes import astype
from .fused import all_of
from .namespace import (
    is_cupy_namespace,
    is_dask_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    namespace,
    torch_compiling,
)
from .pytrees import mapped
from .sums import writable

__all__ = [
    "as_flag",
    "at_hand",
    "choose",
    "choose_if_free",
    "chooses",
    "compiled",
    "concrete",
    "derivative_where",
    "detached",
    "differentiable",
    "free_to_read",
    "is_traced",
    "iterated",
    "known_to_be",
    "largest_number",
    "lies_on_gpu",
    "may_wait",
    "nan_unless",
    "number",
    "number_if_free",
    "repeated",
    "rounded_astype",
    "waiting",
    "without_graph",
]


def concrete(flag: AnyArray) -> bool | None:
    """Return the truth value of a 0-d array, or None where it cannot be read."""
    if isinstance(flag, np.generic):
        return bool(flag)
    return None if (value := _read(bool, flag)) is None else bool(value)


def number(x: AnyArray) -> float | None:
    """Return the value of a real 0-d array, or None where it cannot be read."""
    return None if (value := _read(float, x)) is None else float(value)


def at_hand(x: AnyArray) -> Any:
    """Return one number of NumPy as one of Python, with which sums take no time; others as is."""
    return x.item() if isinstance(x, (np.ndarray, np.generic)) and x.size == 1 else x


def as_flag(x: Any) -> AnyArray:
    """Return a truth value of Python as one of NumPy; arrays as they are."""
    return np.bool_(x) if isinstance(x, bool) else x


def largest_number(x: AnyArray) -> float:
    """Return the largest entry of a real array whose values can be read, for a message."""
    return float(namespace(x).max(x))


def _read(kind: type, x: AnyArray) -> Any:
    if isinstance(x, np.generic):
        return x
    xp = namespace(x)
    if is_dask_namespace(xp):
        return None
    if is_jax_namespace(xp):
        import jax

        try:
            return kind(jax.lax.stop_gradient(x))
        except jax.errors.ConcretizationTypeError:
            return None
    if is_torch_namespace(xp):
        if torch_compiling() or x.device.type == "meta":
            return None
        try:
            return kind(x.detach())
        except RuntimeError:  # torch.vmap and fake tensors refuse data-dependent control flow
            return None
    return kind(x)


def is_traced(x: AnyArray) -> bool:
    """Tell without reading it whether the values of `x` cannot be read."""
    if isinstance(x, np.ndarray):
        return False
    xp = namespace(x)
    if is_dask_namespace(xp):
        return True
    if is_jax_namespace(xp):
        import jax

        return isinstance(x, jax.core.Tracer)
    if is_torch_namespace(xp):
        if torch_compiling() or x.device.type == "meta":
            return True
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        return isinstance(x, FakeTensor) or torch._C._functorch.is_batchedtensor(x)
    return False


def differentiable(x: AnyArray) -> bool:
    """Tell without reading it whether derivatives by `x` may be asked for."""
    xp = namespace(x)
    if is_jax_namespace(xp):
        return is_traced(x)
    return bool(is_torch_namespace(xp)) and not writable(x)


def nan_unless(ok: AnyArray, like: AnyArray) -> AnyArray:
    """Return 1 where a flag is set and NaN elsewhere, in the dtype of a real array.

    Nothing on the way is NaN where all flags are set, which JAX would report under
    `jax_debug_nans`, and no gradient of what this multiplies is lost.
    """
    xp = namespace(like)
    one = xp.astype(ok, like.dtype)
    return one / one if is_jax_namespace(xp) else xp.where(ok, one, xp.full_like(one, xp.nan))


def derivative_where(ok: AnyArray, x: AnyArray, through: AnyArray | None = None) -> AnyArray:
    """Return `x`, whose derivatives are NaN where a flag, which broadcasts, is not set.

    That of 0 * z^(1/2) is 0 / 0 at z = 0, in each library and mode, and the value is not touched.
    NaN comes `through` another real array that depends on the same arguments, if it is given:
    derivatives of complex eigenvectors raise in torch where they are handed NaN.
    """
    if not differentiable(x):
        return x
    xp, value = namespace(x), detached(x)
    moved = x - value
    z = moved if through is None else through - detached(through)
    refused = 0 * xp.sqrt(xp.where(ok, xp.ones_like(z), z))
    if through is None:
        return value + xp.where(ok, moved, refused)
    return value + xp.where(ok, moved, xp.zeros_like(moved)) + refused


def detached(x: AnyArray) -> AnyArray:
    """Return `x` as a constant, which has no gradient."""
    xp = namespace(x)
    if is_jax_namespace(xp):
        import jax

        return jax.lax.stop_gradient(x)
    return x.detach() if is_torch_namespace(xp) else x


def without_graph(x: Any, like: AnyArray) -> Any:
    """Return what holds arrays of the library of `like` without torch's record of how they came.

    That record would keep all batches of a run alive. Derivatives of a function, that `torch.func`
    or JAX is asked for, pass.
    """
    return mapped(_without_graph, x) if is_torch_namespace(namespace(like)) else x


def _without_graph(x: AnyArray) -> AnyArray:
    import torch

    if not x.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return x
    return x.detach()


def rounded_astype(x: AnyArray, name: str) -> AnyArray:
    """Return `x` in a dtype, to which it is rounded in compiled code as well.

    Compilers keep the digits of numbers that go to half precision and back: what rounding takes
    would be zero, and what overflows finite.
    """
    y: AnyArray = astype(x, name)
    if name not in ("float16", "bfloat16") or not is_traced(y):
        return y
    xp = namespace(y)
    if is_jax_namespace(xp):
        import jax

        return jax.lax.optimization_barrier(y)
    if not (is_torch_namespace(xp) and torch_compiling()):
        return y
    return (y.view(xp.int16) | 0).view(y.dtype)  # a view of a view alone would be left out


def chooses(x: AnyArray) -> bool:
    """Tell whether `choose` computes only one of its two results: JAX, but not eagerly on a GPU.

    There it would compile both functions anew in each call, as they are closures.
    """
    return bool(is_jax_namespace(namespace(x))) and (is_traced(x) or free_to_read(x))


def choose(flag: AnyArray, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return then() where a 0-d flag is set, else otherwise(), without waiting for the flag.

    Where that cannot be chosen, it is then() in any case.
    """
    if not chooses(flag):
        return then()
    if not is_traced(flag):
        return then() if concrete(flag) else otherwise()
    import jax

    return jax.lax.cond(flag, then, otherwise)


def number_if_free(x: AnyArray) -> float | None:
    """Return the value of a real 0-d array where reading it costs no waiting, else None."""
    return number(x) if free_to_read(x) else None


def free_to_read(x: AnyArray) -> bool:
    """Tell whether `x` lies on the host, where reading it, if it has values, costs no waiting."""
    xp = namespace(x)
    if is_jax_namespace(xp):
        return not is_traced(x) and _on_cpus_of_jax(x)
    return bool(is_numpy_namespace(xp) or (is_torch_namespace(xp) and x.device.type == "cpu"))


def lies_on_gpu(x: AnyArray) -> bool:
    """Tell whether `x` lies on a GPU and has values, which can be read, but not without waiting."""
    xp = namespace(x)
    if is_torch_namespace(xp):
        return x.device.type == "cuda" and not is_traced(x)
    if is_jax_namespace(xp):
        return not is_traced(x) and x.is_fully_addressable and not _on_cpus_of_jax(x)
    return bool(is_cupy_namespace(xp))


def known_to_be(flags: AnyArray) -> bool:
    """Tell whether all flags are set, where reading that costs no waiting; elsewhere False."""
    return free_to_read(flags) and concrete(all_of(flags)) is True


def _on_cpus_of_jax(x: AnyArray) -> bool:
    """Tell whether an array of JAX that has values lies on CPUs of this process."""
    return x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices())


def choose_if_free(flag: AnyArray, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return then() where a 0-d flag is set, else otherwise(), where that can be chosen.

    It costs no waiting on the host and in compiled JAX code. On GPUs the host waits where the call
    allows it. Elsewhere, it is otherwise() in any case.
    """
    if chooses(flag):
        return choose(flag, then, otherwise)
    return then() if (free_to_read(flag) or may_wait()) and concrete(flag) else otherwise()


class _Waits(threading.local):
    """Whether the calls of this thread may wait for values on a GPU."""

    allowed = False


_WAITS = _Waits()


class waiting:
    """Let calls of this thread wait for flags of a GPU, or forbid it."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before, _WAITS.allowed = _WAITS.allowed, self._allowed

    def __exit__(self, *raised: object) -> None:
        _WAITS.allowed = self._before


def may_wait() -> bool:
    """Tell whether a flag on a GPU is worth waiting for: twice the work is the other way."""
    return _WAITS.allowed and CHOICES["flags"].way == "read"


def compiled(function: Callable[..., Any], *arrays: AnyArray, **options: Any) -> Any:
    """Return function(*arrays, **options), by JAX compiled in one piece for each shape.

    There each operation by itself would be compiled, and sent, by itself. `function` is one of a
    module, and options are hashable.
    """
    if not is_jax_namespace(namespace(arrays[0])):
        return function(*arrays, **options)
    return _compiled(function, tuple(options))(*arrays, **options)


@functools.cache
def _compiled(function: Callable[..., Any], options: tuple[str, ...]) -> Any:
    import jax

    return jax.jit(function, static_argnames=options)


State = TypeVar("State")


def iterated(step: Callable[[State], State], state: State, steps: int) -> State:
    """Return the state after a number of steps, which JAX compiles once for all of them."""
    like: Any = state[0] if isinstance(state, tuple) else state
    if is_jax_namespace(namespace(like)) and is_traced(like):
        import jax

        return jax.lax.scan(lambda state, _: (step(state), None), state, None, length=steps)[0]
    return functools.reduce(lambda state, _: step(state), range(steps), state)


def repeated(
    step: Callable[[State], State],
    unfinished: Callable[[State], AnyArray],
    state: State,
    steps: int,
    *,
    early: bool,
) -> State:
    """Return the state after as many steps as leave it unfinished, at most `steps`.

    The host looks before each step if `early`, or where that costs no waiting. Otherwise compiled
    JAX code skips steps on the device, and elsewhere all are made, which must not change a state
    that is finished.
    """
    flag = unfinished(state)
    if not early and is_jax_namespace(namespace(flag)) and is_traced(flag):
        import jax

        def body(state: State, _: None) -> tuple[State, None]:
            return choose(unfinished(state), lambda: step(state), lambda: state), None

        return jax.lax.scan(body, state, None, length=steps)[0]
    early = early or free_to_read(flag)
    for i in range(steps):
        if early and concrete(unfinished(state) if i else flag) is False:
            break
        state = step(state)
    return state
