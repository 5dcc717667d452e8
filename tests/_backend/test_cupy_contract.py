"""Every CuPy name and keyword that is used, against the files of the installed CuPy.

Neither a device nor an import of CuPy is needed: uses are read off our syntax trees, definitions
off CuPy's and array-api-compat's. What is compiled keeps its names as bytes but no signature.
Methods of arrays are not followed: what a variable holds is not known from the text. Nor are
calls of what `partial` returned, the second of two CuPy functions in `f = a if c else b`, and names
bound by loops, `with` or the unpacking of anything but a tuple that is written out.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cupy_double
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "ngdla").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "asv_benchmarks" / "gpu").rglob("*.py"))

COMPAT = "array_api_compat.cupy"  # what xp is on the CuPy path
PACKAGES = ("cupy", "cupyx", "cupy_backends", "array_api_compat")

# Parameters that are CuPy by the convention of their function.
PARAMETERS = {"_cupy_devices": {"module": "cupy"}}

# What functions return whose results have methods that are called.
RETURNS = {
    "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool",
    "cupy.random.default_rng": "cupy.random._generator_api.Generator",
}

# Called with keywords, but ufuncs, or compiled, which not every build gives a signature: the name
# is checked, the keywords are not. Look a new one up in CuPy's sources before it is added here.
WITHOUT_SIGNATURE = {
    "cupy.random._generator_api.Generator.standard_normal": {"dtype"},
    "cupy.ReductionKernel": {"reduce_type"},
    "cupy.conjugate": {"out"},
}

# Names of compiled modules whose strings are packed so that they are not found, and a file of CuPy
# in Python that uses them.
SEEN_IN = {"cupy.cuda.runtime.is_hip": "_environment.py"}


# ------------------------------------------------------------------------------- what is used


@dataclasses.dataclass(frozen=True)
class Use:
    """One name, and how it is called: `positional` is None where it is not, or unknown."""

    path: str
    positional: int | None
    keywords: tuple[str, ...]
    where: str = dataclasses.field(compare=False)

    def __str__(self) -> str:
        if self.positional is None and not self.keywords:
            return self.path
        return f"{self.path}({', '.join((str(self.positional), *self.keywords))})"


class Uses(ast.NodeVisitor):
    """Collect the uses in one file. A name means what was last bound to it in its block."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.names = {"xp": "xp"}
        self.found: list[Use] = []

    def path(self, node: ast.AST) -> str | None:
        """Return the dotted CuPy path of an expression, of its class where it is an instance."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            above = self.path(node.value)
            if above is None:
                return "xp" if node.attr == "xp" else None
            return f"{above}.{node.attr}"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "namespace":
                return "xp"
            called = self.path(node.func)
            is_class = called is not None and called.rpartition(".")[2][:1].isupper()
            return called if is_class else RETURNS.get(called or "")
        if isinstance(node, ast.NamedExpr):
            return self.path(node.value)
        if isinstance(node, ast.IfExp):
            return self.path(node.body) or self.path(node.orelse)
        return None

    def add(self, node: ast.expr, positional: int | None, keywords: tuple[str, ...]) -> None:
        path = self.path(node)
        if path is not None and "." in path:
            where = f"{self.where}:{node.lineno}"
            self.found.append(Use(path, positional, tuple(sorted(keywords)), where))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._bind(alias.asname or alias.name.partition(".")[0], alias.name, alias.asname)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            self._bind(name, f"{node.module}.{alias.name}", name)
            if name in self.names:
                where = f"{self.where}:{node.lineno}"
                self.found.append(Use(self.names[name], None, (), where))

    def _bind(self, name: str, path: str, renamed: str | None) -> None:
        self.names.pop(name, None)
        if path.partition(".")[0] in ("cupy", "cupyx", "cupy_backends"):
            self.names[name] = path if renamed else path.partition(".")[0]

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts))
            for left, right in pairs:
                self._assign(left, right)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._assign(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._assign(node.target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and target.id != "xp":
            path = self.path(value)
            self.names.pop(target.id, None)
            if path is not None:
                self.names[target.id] = path

    def visit_Call(self, node: ast.Call) -> None:
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        keywords = tuple(keyword.arg or "**" for keyword in node.keywords)
        self.add(node.func, None if starred else len(node.args), keywords)
        if node.args and ast.unparse(node.func) in ("partial", "functools.partial"):
            self.add(node.args[0], None, keywords)
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(inner, ast.Call):
            self.visit(inner)
        elif self.path(node.func) is None:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self.path(node) is None:
            self.generic_visit(node)
        else:
            self.add(node, None, ())

    def visit_If(self, node: ast.If) -> None:
        """Leave out the branches of other libraries."""
        tests = [n.func for n in ast.walk(node.test) if isinstance(n, ast.Call)]
        asked = {f.id for f in tests if isinstance(f, ast.Name) and f.id.endswith("_namespace")}
        negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        self.visit(node.test)
        foreign = bool(asked) and "is_cupy_namespace" not in asked
        for block, skipped in ((node.body, foreign and not negated), (node.orelse, False)):
            if not skipped:
                self._block(block)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        own = {item.arg for item in ast.walk(node.args) if isinstance(item, ast.arg)} - {"xp"}
        bound = {name: path for name, path in self.names.items() if name not in own}
        self._block(node.body, bound | PARAMETERS.get(node.name, {}))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A method that overrides one of CuPy's must have its name."""
        for base in filter(None, map(self.path, node.bases)):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    where = f"{self.where}:{item.lineno}"
                    self.found.append(Use(f"{base}.{item.name}", None, (), where))
        self._block(node.body)

    def _block(self, body: list[ast.stmt], names: dict[str, str] | None = None) -> None:
        outer = self.names
        self.names = dict(outer if names is None else names)
        for statement in body:
            self.visit(statement)
        self.names = outer


def uses_of(text: str, where: str = "here") -> list[Use]:
    visitor = Uses(where)
    visitor.visit(ast.parse(text))
    return visitor.found


def all_uses() -> list[Use]:
    found = [
        use
        for path in LIBRARY + BENCHMARKS
        for use in uses_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]
    return sorted(set(found), key=str)


# ------------------------------------------------------------------------------ what is there


@dataclasses.dataclass(frozen=True)
class Module:
    """A module by its file: source text, or compiled."""

    name: str
    file: Path

    @property
    def package(self) -> str:
        return self.name if self.file.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclasses.dataclass(frozen=True)
class Class:
    """A class, with the module that its bases are looked up in."""

    module: Module
    node: ast.ClassDef


@dataclasses.dataclass(frozen=True)
class Function:
    """A signature; `bound` are its parameters that are already filled."""

    arguments: ast.arguments
    bound: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Something that is there, without a signature that can be read."""


@dataclasses.dataclass(frozen=True)
class Compiled(Opaque):
    """Something inside a compiled module, where names, and most signatures, stand as text."""

    file: Path
    name: str = ""

    def member(self, name: str) -> Compiled | None:
        there = re.search(rb"(?<!\w)%s(?!\w)" % name.encode(), contents(self.file))
        return Compiled(self.file, f"{self.name}.{name}".strip(".")) if there else None

    def signature(self) -> Function | None:
        """Read the signature off the docstring, where Cython puts it; C types are not read."""
        for name in (self.name, f"{self.name}.__init__"):
            pattern = rb"\0%s\(([^\0]*?)\)(?: -> [^\n\0]*)?[\n\0]" % re.escape(name.encode())
            if (found := re.search(pattern, contents(self.file))) is None:
                continue
            try:
                (node,) = ast.parse(f"def f({found[1].decode()}): ...").body
            except SyntaxError:
                continue
            assert isinstance(node, ast.FunctionDef)
            return Function(node.args, ("self",) if "." in name else ())
        return None


@cache
def contents(file: Path) -> bytes:
    return file.read_bytes()


Thing = Module | Class | Function | Opaque


@cache
def module(name: str) -> Module | None:
    """Find a module without importing it or anything above it."""
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], *parts)
    candidates = [path / "__init__.py", path.with_suffix(".py")]
    candidates += path.parent.glob(f"{path.name}.*.so") if parts else []
    return next((Module(name, file) for file in candidates if file.is_file()), None)


def archive(name: str) -> Path | None:
    """Return the wheel that a package is imported from, None if it lies in a folder."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return (
        next((above for above in Path(places[0]).parents if above.is_file()), None)
        if places
        else None
    )


@cache
def bindings(home: Module) -> dict[str, list[ast.AST]]:
    """Return what the text of a module binds to each name; star imports stand under '*'."""
    found: dict[str, list[ast.AST]] = {}
    for node in _statements(ast.parse(home.file.read_text(encoding="utf-8")).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        for name in names:
            found.setdefault(name, []).append(node)
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            handlers = getattr(node, "handlers", [])
            yield from _statements(inner + [s for handler in handlers for s in handler.body])


def find(path: str) -> Thing | None:
    """Return what a dotted path names, or None."""
    top, *parts = path.split(".")
    thing: Thing | None = module(COMPAT if top == "xp" else top)
    for part in parts:
        thing = None if thing is None else member(thing, part)
    return thing


def member(thing: Thing, name: str) -> Thing | None:
    """Return an attribute of a module or class."""
    if isinstance(thing, Class):
        return _inherited(thing, name)
    if isinstance(thing, Compiled):
        return thing.member(name)
    if not isinstance(thing, Module):
        return thing if isinstance(thing, Opaque) else None
    if thing.file.suffix == ".so":
        return Compiled(thing.file).member(name)
    for node in reversed(bindings(thing).get(name, [])):
        if (found := _bound(thing, node, name)) is not None:
            return found
    if thing.file.name == "__init__.py" and (inner := module(f"{thing.name}.{name}")) is not None:
        return inner
    for node in reversed(bindings(thing).get("*", [])):
        origin = _origin(thing, node)
        if origin is not None and not name.startswith("_") and (found := member(origin, name)):
            return found
    return None


def _bound(home: Module, node: ast.AST, name: str) -> Thing | None:
    if isinstance(node, ast.FunctionDef):
        return Function(node.args)
    if isinstance(node, ast.ClassDef):
        return Class(home, node)
    if isinstance(node, ast.Import):
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        return _module_or_opaque(alias.name)
    if isinstance(node, ast.ImportFrom):
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        origin = _origin(home, node)
        if origin == home:  # a package names its submodule
            return module(f"{home.name}.{alias.name}")
        if isinstance(origin, Module) and origin.file.suffix == ".so":
            return Compiled(origin.file, alias.name)  # or `import cupy` would fail
        return None if origin is None else member(origin, alias.name)
    return _value(home, node.value)  # type: ignore[attr-defined]


def _origin(home: Module, node: ast.ImportFrom) -> Module | Opaque | None:
    above = home.package.split(".")[: len(home.package.split(".")) - node.level + 1]
    base = ".".join(above if node.level else [])
    return _module_or_opaque(".".join(filter(None, [base, node.module])))


def _module_or_opaque(name: str) -> Module | Opaque | None:
    return module(name) if name.partition(".")[0] in PACKAGES else Opaque()


def _value(home: Module, value: ast.AST | None) -> Thing | None:
    """Follow `name = other` and array-api-compat's `name = get_xp(cp)(other)`."""
    if isinstance(value, ast.Name):
        return member(home, value.id) or Opaque()
    if isinstance(value, ast.Attribute):
        above = _value(home, value.value)
        return None if above is None else member(above, value.attr)
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "get_xp(cp)":
        wrapped = _value(home, value.args[0])
        return Function(wrapped.arguments, ("xp",)) if isinstance(wrapped, Function) else wrapped
    return Opaque()


def _inherited(thing: Class, name: str) -> Thing | None:
    for node in thing.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
            first = [] if static else (node.args.posonlyargs + node.args.args)[:1]
            return Function(node.args, tuple(argument.arg for argument in first))
    for base in thing.node.bases:
        above = _value(thing.module, base)
        if above is not None and (found := member(above, name)) is not None:
            return found
    return None


# ---------------------------------------------------------------------------------- the check


def complaint(use: Use) -> str | None:
    """Return what is wrong with a use, or None."""
    thing = find(use.path)
    if thing is None and is_seen(use.path):
        return None
    if thing is None:
        return f"there is no {use.path}"
    if "**" in use.keywords:
        return f"the keywords behind ** of {use.path} cannot be checked; write them out"
    if isinstance(thing, Class):
        thing = _inherited(thing, "__init__") or Opaque()
    if isinstance(thing, Compiled):
        thing = thing.signature() or thing
    if isinstance(thing, Function):
        return misfit(use, thing)
    if set(use.keywords) - WITHOUT_SIGNATURE.get(use.path, set()):
        return f"the keywords of {use} cannot be checked; look them up, then list them here"
    return None


def is_seen(path: str) -> bool:
    """Tell whether CuPy's own files in Python use a name that is not found where it is defined."""
    home = module(path.partition(".")[0])
    if home is None or path not in SEEN_IN:
        return False
    return path.split(".", 2)[2] in (home.file.parent / SEEN_IN[path]).read_text(encoding="utf-8")


def misfit(use: Use, function: Function) -> str | None:
    """Return what does not fit the signature, or None."""
    given = function.arguments
    free = lambda arguments: [a.arg for a in arguments if a.arg not in function.bound]  # noqa: E731
    slots = free(given.posonlyargs + given.args)
    only = {argument.arg for argument in given.posonlyargs}
    named = (set(slots) - only) | set(free(given.kwonlyargs))
    unknown = set(use.keywords) - named
    passed_on = given.kwarg and "xp" not in function.bound  # array-api-compat's own go on to CuPy
    if unknown and not passed_on:
        return f"{use.path} takes no keyword {', '.join(sorted(unknown))}"
    if use.positional is None:
        return None
    if use.positional > len(slots) and not given.vararg:
        return f"{use.path} takes {len(slots)} positional arguments, not {use.positional}"
    if twice := set(slots[: use.positional]) & set(use.keywords):
        return f"{use.path} gets {', '.join(twice)} twice"
    needed = [a.arg for a in (given.posonlyargs + given.args)[: -len(given.defaults) or None]]
    needed += [a.arg for a, d in zip(given.kwonlyargs, given.kw_defaults) if d is None]
    filled = {*slots[: use.positional], *use.keywords, *function.bound}
    if missing := set(needed) - filled:
        return f"{use.path} needs {', '.join(sorted(missing))}"
    return None


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed: its files are what the names are checked against")
    if packed := archive("array_api_compat"):
        pytest.fail(
            f"names are checked against files, and array_api_compat is inside {packed}; "
            f"unpack it: python -m zipfile -e {packed} FOLDER, with FOLDER on PYTHONPATH"
        )


@pytest.mark.parametrize("use", all_uses(), ids=str)
def test_name_and_keywords_are_there(use: Use) -> None:
    assert complaint(use) is None, f"{use.where}: {complaint(use)}"


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_dtypes_that_are_looked_up_by_name(dtype: str) -> None:
    assert find(f"xp.{dtype}") is not None


def test_names_that_are_listed_are_used() -> None:
    keywords: dict[str, set[str]] = {}
    for use in all_uses():
        keywords.setdefault(use.path, set()).update(use.keywords)
    assert {path: keywords.get(path) for path in WITHOUT_SIGNATURE} == WITHOUT_SIGNATURE
    assert SEEN_IN.keys() <= keywords.keys()


# ---------------------------------------------------------------------------- the stand-in


def names_of_the_stand_in() -> list[str]:
    """Return what the stand-in offers: modules, what they hold, and attributes of its classes."""
    found = []
    for module_name, held in cupy_double.modules().items():
        found.append(module_name)
        for name, value in held.items():
            found.append(f"{module_name}.{name}")
            if isinstance(value, type) and value.__module__.partition(".")[0] != "numpy":
                public = [part for part in vars(value) if not part.startswith("_")]
                path = RETURNS.get(f"{module_name}.{name}", f"{module_name}.{name}")
                found += [f"{path}.{part}" for part in public]
    return found


@pytest.mark.parametrize("name", names_of_the_stand_in())
def test_the_stand_in_offers_names_of_cupy(name: str) -> None:
    assert find(name) is not None or is_seen(name)


def test_the_stand_in_has_what_the_library_uses() -> None:
    """Names that are put together, of routines for each dtype, its tests ask for by running."""
    offered = set(names_of_the_stand_in())
    used = {
        use.path
        for path in LIBRARY
        for use in uses_of(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
        if not use.path.startswith("xp.")
    }
    assert not used - offered


# ------------------------------------------------------------------- the checker itself


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import cupy\ncupy.linalg.cholesky_maybe(A)", "there is no cupy.linalg.cholesky_maybe"),
        ("import cupy\ncupy.linalg.qr(A, form='r')", "cupy.linalg.qr takes no keyword form"),
        ("import cupy\ncupy.tril(A, 1, 2)", "cupy.tril takes 2 positional arguments, not 3"),
        ("import cupy\ncupy.zeros(dtype='f')", "cupy.zeros needs shape"),
        ("import cupy\ncupy.tril(A, m=A)", "cupy.tril gets m twice"),
        ("from cupy import cublaz", "there is no cupy.cublaz"),
        ("from cupyx.cusolver import gesvda as g\ng(A)", None),
        ("from cupyx.cusolver import gesvdq", "there is no cupyx.cusolver.gesvdq"),
        (
            "import cupy\nt = cupy.cuda.Event()\nt.recordings()",
            "there is no cupy.cuda.Event.recordings",
        ),
        ("import cupy\ncupy.cuda.runtime.getDeviceCounts()", "there is no cupy.cuda.runtime."),
        (
            "from cupy.cuda import MemoryHook\nclass H(MemoryHook):\n def mallocs(s): ...",
            "there is",
        ),
        ("import cupy\ncupy.absolute(A, casting='no')", "cannot be checked"),
        ("import cupyx\ncupyx.cusolver.syevj(A, UPLO='L')", None),
        ("import cupyx\ncupyx.cusolver.syevj(A, uplo='L')", "takes no keyword uplo"),
        ("xp.linalg.diagonals(A)", "there is no xp.linalg.diagonals"),
        ("namespace(x).sum(x, axes=0)", "xp.sum takes no keyword axes"),
        ("xp.linalg.cholesky(A, symmetrize_input=False)", "takes no keyword symmetrize_input"),
        ("xp.linalg.svd(A, full_matrices=False)", None),
        ("xp.full_like(A, 0.0, dtype=d)", None),
        ("la: Any = xp.linalg\nla.choleskyy(A)", "there is no xp.linalg.choleskyy"),
        ("la: Any", None),
        ("if (la := xp.linalg):\n la.choleskyy(A)", "there is no xp.linalg.choleskyy"),
        ("(la := xp.linalg).choleskyy(A)", "there is no xp.linalg.choleskyy"),
        ("la = xp.linalg if c else other\nla.choleskyy(A)", "there is no xp.linalg.choleskyy"),
        ("f = other if c else xp.sum\nf(A, axes=0)", "xp.sum takes no keyword axes"),
        ("f = partial(xp.linalg.cholesky, lower=True)", "takes no keyword lower"),
        ("f = functools.partial(xp.sum, axis=0)\nf(A)", None),
        ("xp.sum(A, **options)", "the keywords behind ** of xp.sum cannot be checked"),
    ],
)
def test_checker(text: str, expected: str | None) -> None:
    complaints = [problem for use in uses_of(text) if (problem := complaint(use))]
    if expected is None:
        assert not complaints
    else:
        assert [problem for problem in complaints if expected in problem]


def test_packages_inside_an_archive_are_told_apart(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("packed_package/__init__.py", "")
    monkeypatch.syspath_prepend(tmp_path / "x.whl")
    assert archive("packed_package") == tmp_path / "x.whl"
    assert archive("packed_package_that_is_not_there") is None
    assert archive("numpy") is None


def test_checker_leaves_out_the_branches_of_other_libraries() -> None:
    text = """
def f(xp, A):
    if is_jax_namespace(xp):
        from jax.scipy.linalg import solve
        return solve(A, lower=True), xp.nothing(A)
    if is_numpy_namespace(xp) or is_cupy_namespace(xp):
        return xp.one(A)
    if is_cupy_namespace(xp):
        from cupyx.scipy.linalg import solve
        return solve(A, lower=True)
    return xp.two(A)
"""
    called = [str(use) for use in uses_of(text) if use.positional is not None]
    assert called == ["xp.one(1)", "cupyx.scipy.linalg.solve(1, lower)", "xp.two(1)"]


def test_checker_sees_what_the_library_uses() -> None:
    found = {use.path for use in all_uses()}
    assert {
        "cupy.cuda.device.get_cusolver_handle",
        "cupy_backends.cuda.libs.cusolver",
        "cupy.cuda.runtime.getDeviceProperties",
        "cupy._core._routines_linalg.set_compute_type",
        "cupyx.scipy.linalg.solve_triangular",
        "xp.linalg.cholesky",
        "xp.linalg.vector_norm",
    } <= found
