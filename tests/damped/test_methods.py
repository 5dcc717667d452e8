"""The table of methods: names, values, and that nothing else asks for a name."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import ngdla
from ngdla.damped.methods import METHODS, Method, MethodName
from ngdla.damped.precision import Precision

PACKAGE = Path(ngdla.__file__).parent
METHOD_NAMES = {"cholesky", "eigh", "svd", "qr", "cg"}  # "auto" is a precision and a rank too


def test_the_table_is_the_literal_and_the_docstring() -> None:
    assert tuple(METHODS) == get_args(MethodName)
    assert [method.name for method in METHODS.values()] == list(METHODS)
    for option, names in (("method", METHODS), ("precision", get_args(Precision))):
        doc = ngdla.damped_solve.__doc__ or ""
        documented = re.search(rf"    {option} : \{{([^}}]*)\}}", doc)
        assert documented is not None
        assert (
            documented[1].replace("\\", "").split()
            == ", ".join(f'"{name}"' for name in names).split()
        )


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_method_is_a_value(method: Method) -> None:
    assert type(method)() == method
    assert hash(type(method)()) == hash(method)
    assert pickle.loads(pickle.dumps(method)) == method
    assert sum(method == other for other in METHODS.values()) == 1


def test_nothing_else_asks_for_the_name_of_a_method() -> None:
    """Beside the table, the Literal and docstrings: no comparison, no choice, no argument."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in named_methods(ast.parse(path.read_text()))
    ]
    assert found == []


def test_a_name_that_is_asked_for_is_found() -> None:
    tree = ast.parse(
        'def f(method="auto"):\n    """Also "qr"."""\n    return method == "cg" or "auto" != method'
    )
    assert {name for _, name in named_methods(tree)} == {"cg", "auto"}


def named_methods(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield where the name of a method stands as a string of its own, in order."""
    allowed = {id(node) for part in ast.walk(tree) for node in allowed_in(part)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and node.value in METHOD_NAMES
            and id(node) not in allowed
        ):
            yield node.lineno, node.value
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(
                isinstance(side, (ast.Name, ast.Attribute)) and "method" in ast.unparse(side)
                for side in sides
            ):
                yield from (
                    (side.lineno, side.value)
                    for side in sides
                    if isinstance(side, ast.Constant) and side.value == "auto"
                )


def allowed_in(part: ast.AST) -> Iterator[ast.AST]:
    """Yield what may name a method: `name` of its class, the Literal, and `__all__`."""
    if isinstance(part, ast.ClassDef):
        for line in part.body:
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "name":
                yield line.value
    if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "Literal":
        yield from ast.walk(part.slice)
    if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "__all__":
        yield from ast.walk(part.value)
