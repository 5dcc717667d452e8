"""Array libraries: how arrays get there and back, and in which modes cases are run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .expressions import ArrayKey, arrays_in, evaluate
from .grids import Case, thinned
from .inputs import numbers
from .records import Numbers, Record, is_array, outcome, parts

__all__ = ["LIBRARIES", "Numpy", "installed"]

Cases = list[Case]
# Which of all cases are run in a mode, and how; None: a name is absent.
Mode = tuple[Callable[[Cases], Cases], Callable[[Case, Any], Record | None]]


class Numpy:
    """NumPy, and what other libraries have in common with it."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[ArrayKey, str], Any] = {}

    def modes(self) -> dict[str, Mode]:
        """Return what is run in each mode: all values of every three options."""
        return {"eager": (lambda cases: thinned(cases, 3), self.eager)}

    def eager(self, case: Case, module: Any, seen: set[str] | None = None) -> Record | None:
        """Return what a case gives."""

        def called() -> dict[str, Any]:
            array = partial(self.array, dtype=case.dtype)
            return dict(parts(evaluate(case.expression, module, array, seen)))

        return outcome(called, self.numbers)

    def array(self, key: ArrayKey, dtype: str) -> Any:
        """Return the array of a key; the same one for all cases, which must not write to it."""
        if (key, dtype) not in self.arrays:
            self.arrays[key, dtype] = self.converted(numbers(key, dtype))
        return self.arrays[key, dtype]

    def converted(self, x: np.ndarray) -> Any:
        """Return an array of the library."""
        return x

    def numbers(self, x: Any) -> Numbers:
        """Return the content of an array of the library, or of NumPy."""
        kind = f"{type(x).__module__.partition('.')[0]}.{type(x).__name__}"
        dtype = str(x.dtype).removeprefix("torch.")
        return Numbers(kind, dtype, tuple(x.shape), self.fetched(x).tobytes())

    def fetched(self, x: Any) -> np.ndarray:
        """Return an array as one of NumPy."""
        return np.asarray(x)


class Torch(Numpy):
    """PyTorch on the CPU, with one thread."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        torch.set_num_threads(1)
        torch.set_warn_always(True)  # and not once, by whichever case comes first
        self.torch = torch

    def converted(self, x: np.ndarray) -> Any:
        """Return a tensor with memory of its own."""
        if str(x.dtype) == "bfloat16":
            return self.torch.tensor(x.astype(np.float32)).to(self.torch.bfloat16)
        return self.torch.tensor(x)

    def fetched(self, x: Any) -> np.ndarray:
        """Return a tensor, or an array of NumPy, as one of NumPy; bfloat16 as integers."""
        if not isinstance(x, self.torch.Tensor):
            return np.asarray(x)
        x = x.detach().resolve_conj().resolve_neg().contiguous()
        return (x.view(self.torch.int16) if x.dtype == self.torch.bfloat16 else x).numpy()


class Jax(Numpy):
    """JAX on the CPU: call by call, and compiled."""

    def __init__(self) -> None:
        import jax

        super().__init__()
        jax.config.update("jax_enable_x64", True)
        # Most of the time would be spent on making code faster that runs once.
        jax.config.update("jax_disable_most_optimizations", True)
        self.jax = jax

    def modes(self) -> dict[str, Mode]:
        """Return few cases, since each operation is compiled for each shape and dtype.

        Call by call they are of two dtypes, and one of each group in half precision.
        """

        def some(cases: Cases) -> Cases:
            eager = [case for case in cases if "eager" in case.compiled]
            usual = [case for case in eager if case.dtype in ("float64", "complex64")]
            return thinned(usual, 1) + thinned([c for c in eager if c.dtype == "float16"], 0)

        def compiled(cases: Cases) -> Cases:
            return thinned([case for case in cases if "jit" in case.compiled], 1)

        return {"eager": (some, self.eager), "jit": (compiled, self.jit)}

    def converted(self, x: np.ndarray) -> Any:
        """Return an array with memory of its own."""
        return self.jax.numpy.array(x)

    def jit(self, case: Case, module: Any) -> Record | None:
        """Return what a case gives when all of its arrays are arguments of a compiled function."""
        expression = case.expression
        keys = sorted(arrays_in(expression), key=repr)
        found: dict[str, Any] = {}

        def traced(*arrays: Any) -> dict[str, Any]:
            given = dict(zip(keys, arrays))
            found.update(parts(evaluate(expression, module, given.__getitem__)))
            return {path: x for path, x in found.items() if is_array(x)}

        def called() -> dict[str, Any]:
            arrays = [self.array(key, case.dtype) for key in keys]
            return found | self.jax.jit(traced)(*arrays)

        return outcome(called, self.numbers)


LIBRARIES = {"numpy": Numpy, "torch": Torch, "jax": Jax}


def installed() -> list[str]:
    """Return the names of the libraries that are there."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
