"""The house rules that a program can check: imports, public names, docstrings."""

import ast
import graphlib
import importlib
import inspect
import itertools
import subprocess
import sys
import tomllib
from functools import reduce
from pathlib import Path

import pytest

import ngdla
from ngdla import distributed, structures
from ngdla.score_matrices.score_matrix import ScoreMatrix, ScoreSource, StoredScores
from ngdla.score_matrices.shards import RowShards
from ngdla.structures.kernels import Kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ngdla"
ARRAY_LIBRARIES = {"numpy", "scipy", "cupy", "cupyx", "torch", "jax", "jaxlib", "dask"}
PICTURES = {"matplotlib", "rich", "tqdm"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module, *packages):
    return any(module == package or module.startswith(package + ".") for package in packages)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
OPEN = {"distributed": distributed, "structures": structures}  # folders with public names
NAMELESS = {f"ngdla.{name}" for name in FOLDERS if name not in {"demo", *OPEN}}
# The demo and the doors need packages that ngdla does not.
APART = ("ngdla.demo", "ngdla.__main__", "ngdla.adapters")
IMPORTABLE = [name for name in SOURCES if not within(name, *APART) and name not in NAMELESS]


def imports(name):
    """Return every module that `name` imports anywhere in its text, absolute and in full."""
    path = SOURCES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(above + ([node.module] if node.module else []))
            # `from ngdla import demo` imports ngdla.demo, `from ngdla import gram` a name of ngdla
            submodules = {f"{base}.{alias.name}" for alias in node.names} & SOURCES.keys()
            found.update(submodules)
            if submodules != {f"{base}.{alias.name}" for alias in node.names}:
                found.add(base)
    return found


def layers():
    """Return {module: height} from the contract in pyproject.toml; siblings share a height."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (contract,) = (c for c in tools["importlinter"]["contracts"] if c["id"] == "layers")
    return {
        f"ngdla.{module.strip().strip('()')}": -depth
        for depth, row in enumerate(contract["layers"])
        for module in row.replace(":", "|").split("|")
    }


def height(module, heights):
    return heights[".".join(module.split(".")[:2])]


@pytest.mark.parametrize("name", SOURCES)
def test_only_backend_names_an_array_library(name):
    allowed = set()
    if within(name, "ngdla._backend", "ngdla.adapters", "ngdla.distributed"):
        allowed = ARRAY_LIBRARIES
    elif within(name, "ngdla.demo", "ngdla.__main__"):
        allowed = {"numpy", "scipy"} | PICTURES
    elif name == "ngdla.score_matrices.block_reader":
        allowed = {"tqdm"}  # on request
    named = {module.split(".")[0] for module in imports(name)} & (ARRAY_LIBRARIES | PICTURES)
    assert not named - allowed, f"{name} may not import {sorted(named - allowed)}"


@pytest.mark.parametrize("name", SOURCES)
def test_no_hidden_imports(name):
    """A module imported by a string is seen by no contract: only the engine and the doors do it."""
    if within(name, "ngdla._backend", "ngdla.demo", "ngdla.__main__"):
        return
    text = SOURCES[name].read_text(encoding="utf-8")
    assert "import_module" not in text
    assert "__import__" not in text
    wrapped = {module for module in imports(name) if module.startswith("array_api_compat.")}
    assert not wrapped, f"{name} names a library through {sorted(wrapped)}"


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "ngdla"])
def test_imports_point_downwards(name):
    heights = layers()
    for module in imports(name):
        if not within(module, "ngdla"):
            continue
        if module == "ngdla":
            assert within(name, *APART), f"{name} imports the public names"
        elif module.split(".")[1] != name.split(".")[1]:
            assert height(module, heights) < height(name, heights), f"{name} imports {module}"


def test_public_names_come_from_below():
    internal = {module for module in imports("ngdla") if within(module, "ngdla")}
    assert not {module for module in internal if within(module, *APART)}


def test_every_module_has_its_layer():
    assert {".".join(name.split(".")[:2]) for name in SOURCES} - {"ngdla"} <= layers().keys()


def test_the_house_is_seen_at_a_glance():
    rooms = {name.split(".")[1] for name in SOURCES if name != "ngdla"} - {"__main__"}
    assert rooms == set(FOLDERS)
    assert len(rooms) <= 15
    assert len(set(layers().values())) <= 7
    mirrored = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert mirrored <= set(FOLDERS)


def test_no_circles():
    """Not among modules of one folder either, nor by imports for annotations alone."""
    graph = {name: imports(name) & SOURCES.keys() - {name} for name in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", IMPORTABLE)
def test_no_module_is_hidden(name):
    """By a function of its name: the attributes lead to the module, as in `ngdla.damped.solve`."""
    module = importlib.import_module(name)
    assert reduce(getattr, name.split(".")[1:], ngdla) is module


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_have_no_names_of_their_own(folder):
    assert folder not in ngdla.__all__ or folder in OPEN
    if folder not in {"demo", *OPEN}:
        (docstring,) = ast.parse((PACKAGE / folder / "__init__.py").read_text()).body
        assert isinstance(docstring, ast.Expr)


@pytest.mark.environment
def test_import_loads_no_optional_library():
    optional = (ARRAY_LIBRARIES | PICTURES | {"netket", "quantax", "mpi4py", "ngdla.adapters"}) - {
        "numpy",
        "scipy",
    }
    code = f"import sys, ngdla; print(*sys.modules.keys() & {optional})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not done.stdout.split()


@pytest.mark.parametrize("name", IMPORTABLE)
def test_all_is_complete_and_true(name):
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"


@pytest.mark.parametrize("name", IMPORTABLE)
def test_what_a_module_offers_is_documented(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module), f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        item = getattr(module, public)
        if inspect.isfunction(item) or inspect.isclass(item):
            assert inspect.getdoc(item), f"{name}.{public} has no docstring"


def sections(item):
    lines = inspect.getdoc(item).splitlines()
    under = itertools.pairwise(lines)
    return {title for title, rule in under if rule and set(rule) == {"-"} and len(rule) >= 3}


PUBLIC = {name: getattr(ngdla, name) for name in ngdla.__all__ if name not in OPEN}
PUBLIC |= {f"{key}.{name}": getattr(m, name) for key, m in OPEN.items() for name in m.__all__}

# Where the methods are declared, and documented, that solvers and matrices ask of these classes.
INTERFACES = {ScoreMatrix: StoredScores, ScoreSource: RowShards, Kernels: Kernels}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings(name):
    item = PUBLIC[name]
    if inspect.isclass(item) and issubclass(item, Warning):
        assert inspect.getdoc(item)
    elif inspect.isclass(item):
        assert "Attributes" in sections(item) or issubclass(item, structures.Structure)
        for key, method in vars(item).items():
            inner = any(issubclass(item, c) and hasattr(d, key) for c, d in INTERFACES.items())
            if inspect.isfunction(method) and not key.startswith("_") and not inner:
                assert inspect.getdoc(method), f"{name}.{key} has no docstring"
                takes = len(inspect.signature(method).parameters) > 1
                needed = {"Parameters", "Returns"} if takes else {"Returns"}
                assert needed <= sections(method), f"{name}.{key}"
    else:
        needed = {"Parameters", "Returns", "Raises", "Examples"}
        assert needed <= sections(item), f"{name} lacks {sorted(needed - sections(item))}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_documented(name):
    item = PUBLIC[name]
    if inspect.isclass(item):
        return
    text = inspect.getdoc(item).partition("Parameters\n")[2].partition("Returns\n")[0]
    documented = {
        word.strip(" *")
        for line in text.splitlines()
        if line and not line.startswith(" ")
        for word in line.partition(" : ")[0].split(",")
    }
    parameters = inspect.signature(item).parameters
    missing = {key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - documented
    assert not missing, f"{name} does not document {sorted(missing)}"


# --------------------------------------------------------------------------- sizes of things


def text_without_docstrings(path):
    """Return the lines of a file that are neither blank nor of a docstring."""
    text = path.read_text(encoding="utf-8")
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return [line for number, line in lines if line.strip() and number not in documented]


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_is_one_idea(name):
    path = SOURCES[name]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450
    assert len(text_without_docstrings(path)) <= 350


def functions(name):
    """Yield every function of a module with its qualified name."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                if isinstance(child, ast.FunctionDef):
                    yield f"{prefix}{child.name}", child
                yield from walk(child, f"{prefix}{child.name}.")

    yield from walk(ast.parse(SOURCES[name].read_text(encoding="utf-8")), "")


@pytest.mark.parametrize("name", SOURCES)
def test_a_body_is_seen_at_once(name):
    for function, node in functions(name):
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert length <= 40, f"{function} has {length} lines"


DOORS = {"VMC_SPRING", "kfac", "singd"}
OPEN_TO_USERS = {*ngdla.__all__, *structures.__all__, *distributed.__all__, *DOORS}


@pytest.mark.parametrize("name", SOURCES)
def test_inside_of_the_library_arguments_are_few(name):
    """Public functions and methods of public classes have as many options as their users need."""
    for function, node in functions(name):
        if function.partition(".")[0] in OPEN_TO_USERS:
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert len(names) <= 8, f"{function} has {len(names)} parameters"
