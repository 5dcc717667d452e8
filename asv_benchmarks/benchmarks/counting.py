"""How many operations one call runs, whatever the machine: NumPy calls, torch kernels, HLO.

Small calls, and launches on a GPU, take as long as these numbers say. They need no clock, and do
not depend on threads, on the processor, or on what else runs.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import operator
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

__all__ = [
    "TorchCount",
    "count_calls_of",
    "hlo_operations",
    "numpy_calls",
    "torch_count",
    "values_away",
]

# --------------------------------------------------------------------------------- NumPy

# Calls are counted where the library makes them, in its source. A profiler sees neither ufuncs nor
# operators, and what it sees of NumPy's own Python functions is another number in each version;
# with a subclass of ndarray the library would take other ways.

LIBRARIES = {"numpy", "scipy", "array_api_compat", "array_api_extra"}
OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.MatMult: "matmul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.LShift: "lshift",
    ast.RShift: "rshift",
    ast.BitOr: "or_",
    ast.BitXor: "xor",
    ast.BitAnd: "and_",
    ast.USub: "neg",
    ast.UAdd: "pos",
    ast.Invert: "invert",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
}


def numpy_calls(function: Callable[[], Any]) -> int:
    """Return how many calls and operators of NumPy and SciPy a second call of a function makes.

    Attributes and views by indices do not count. Packages are seen that `count_calls_of` was told
    of before they were imported.
    """
    function()
    seen.clear()
    function()
    return seen.total()


def count_calls_of(package: str) -> None:
    """Let a package that is not imported yet count its calls of NumPy, in this process."""
    if package in sys.modules:
        msg = f"{package} is imported already."
        raise RuntimeError(msg)
    vars(builtins)[NAME] = seen
    sys.meta_path.insert(0, _Finder(package))


class _Seen(Counter[str]):
    """What was called and computed; the code that is rewritten below calls these functions."""

    def called(self, function: Any) -> Any:
        owner = getattr(function, "__self__", None)
        modules = (getattr(x, "__module__", None) for x in (function, type(function), type(owner)))
        ours = any(module and module.partition(".")[0] in LIBRARIES for module in modules)
        if ours or type(function).__name__ == "fortran":  # BLAS and LAPACK
            self[getattr(function, "__name__", "fortran")] += 1
        return function

    def operated(self, name: str, *operands: Any) -> Any:
        self[name] += any(isinstance(x, (np.ndarray, np.generic)) for x in operands)
        return getattr(operator, name)(*operands)

    def written(self, array: Any) -> Any:
        self["setitem"] += type(array).__module__ == "numpy"
        return array

    def index(self, index: Any) -> Any:
        self["getitem"] += isinstance(index, np.ndarray)
        return index


NAME = "__seen__"  # among the builtins
seen = _Seen()


class _Finder(PathFinder):
    """Finds the modules of one package, and has their calls counted."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # type: ignore[override]
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:  # never that of a .pyc file
        path = self.get_filename(fullname)
        tree = _Rewritten().visit(ast.parse(Path(path).read_text(encoding="utf-8")))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Rewritten(ast.NodeTransformer):
    """f(x) becomes __seen__.called(f)(x), x + y becomes __seen__.operated("add", x, y), ..."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        node.func = _seen("called", node.func)  # no frame more: super() and warnings look at it
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _operated(node.op, node.left, node.right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return node if isinstance(node.op, ast.Not) else _operated(node.op, node.operand)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) > 1 or type(node.ops[0]) not in OPERATORS:
            return node
        return _operated(node.ops[0], node.left, node.comparators[0])

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.target, ast.Name):
            return node  # `visit_Subscript` counts what is written to
        name = ast.Constant("i" + OPERATORS[type(node.op)].rstrip("_"))
        old = ast.Name(node.target.id, ast.Load())
        new = _seen("operated", name, old, node.value)
        return ast.copy_location(ast.Assign([node.target], new), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Store):
            node.value = _seen("written", node.value)
        elif not isinstance(node.slice, (ast.Slice, ast.Tuple)):
            node.slice = _seen("index", node.slice)
        return node


def _operated(op: ast.AST, *operands: ast.expr) -> ast.Call:
    return _seen("operated", ast.Constant(OPERATORS[type(op)]), *operands)


def _seen(kind: str, *arguments: ast.expr) -> ast.Call:
    function = ast.Attribute(ast.Name(NAME, ast.Load()), kind, ast.Load())
    return ast.copy_location(ast.Call(function, list(arguments), []), arguments[-1])


# --------------------------------------------------------------------------------- torch


class TorchCount(NamedTuple):
    """What torch is asked for: kernels, and values that the host waits for."""

    kernels: int
    reads: int


def torch_count(function: Callable[[], Any]) -> TorchCount:
    """Return how many kernels and host reads a second call of a function with tensors takes.

    Views are no kernels. An operation of torch counts as one kernel, also where a GPU runs several
    for it, as it does for decompositions.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            operations.append(func)
            return func(*args, **(kwargs or {}))

    operations: list[Any] = []
    function()
    with Recorded():
        function()
    reads = [is_read(op, torch.Tag.data_dependent_output) for op in operations]
    kernels = [not is_view(op) for op, read in zip(operations, reads) if not read]
    return TorchCount(sum(kernels), sum(reads))


def is_read(op: Any, tag: Any) -> bool:
    """Tell whether the host waits for what an operation returns, a value or a shape."""
    return tag in op.tags or op.name() in ("aten::nonzero", "aten::masked_select")


def is_view(op: Any) -> bool:
    """Tell whether an operation returns its argument, seen otherwise, and writes nothing."""
    aliases = [returned.alias_info for returned in op._schema.returns]
    return op.name() == "aten::_unsafe_view" or all(
        alias is not None and not alias.is_write for alias in aliases
    )


@contextlib.contextmanager
def values_away() -> Iterator[None]:
    """Let ngdla take tensors on the CPU for those of an accelerator.

    Values on the CPU are read wherever that spares work: a read there costs no waiting. Elsewhere
    each is a synchronisation, and steps are made that may turn out not to have been needed.
    """
    answers = {"free_to_read": False, "lies_on_gpu": True}
    readers = [
        (module, name)
        for path, module in sys.modules.items()
        for name in answers
        if path.startswith("ngdla.") and hasattr(module, name)
    ]
    if {name for _, name in readers} != answers.keys():
        msg = f"No module of ngdla that is imported has {' or '.join(answers)}."
        raise RuntimeError(msg)
    with contextlib.ExitStack() as stack:
        for module, name in readers:
            stack.enter_context(mock.patch.object(module, name, return_value=answers[name]))
        yield


# ----------------------------------------------------------------------------------- JAX

# The program that JAX hands to XLA, not the compiled one: that depends on the processor, and to
# compile all functions takes minutes. Its operations are those of jax.numpy one by one, before XLA
# fuses them, so that they go with the seconds of a compilation and only roughly with those of a
# call.

FUNCTION = re.compile(r"\s*func\.func (?:public |private )?@(\w+)")
OPERATION = re.compile(r"\s*(?:%\S+ = )?\"?(?:stablehlo|chlo|mhlo)\.(\w+)")
CALL = re.compile(r"\s*(?:%\S+ = )?(?:func\.)?call @(\w+)")
NO_OPERATIONS = ("constant", "return")


def hlo_operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Return how many operations of StableHLO the jitted function has, bodies of loops once.

    Functions of the program count wherever they are called: which ones are not inlined depends on
    the version of JAX.
    """
    import jax

    own: Counter[str] = Counter()
    calls: dict[str, list[str]] = {}
    name = ""
    for line in jax.jit(function).lower(*arguments).as_text().splitlines():
        if found := FUNCTION.match(line):
            name = found[1]
            calls[name] = []
        elif found := CALL.match(line):
            calls[name].append(found[1])
        elif found := OPERATION.match(line):
            own[name] += found[1] not in NO_OPERATIONS
    return _with_called("main", own, calls)


def _with_called(name: str, own: Counter[str], calls: dict[str, list[str]]) -> int:
    return own[name] + sum(_with_called(called, own, calls) for called in calls[name])
