"""The front door: metadata, README, and what `make` says where something is missing."""

import configparser
import doctest
import importlib.util
import inspect
import os
import py_compile
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import cache_from_source
from pathlib import Path

import numpy as np
import pytest

import ngdla

ROOT = Path(__file__).resolve().parent.parent


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text("setup.cfg"))
    return parser


# ------------------------------------------------------------------------------- metadata


def test_version_is_one_literal(setup_cfg):
    assert setup_cfg["metadata"]["version"] == "attr: ngdla.__version__"
    assert f'\n__version__ = "{ngdla.__version__}"\n' in text("ngdla/__init__.py")
    (cited,) = re.findall(r"^version: (\S+)$", text("CITATION.cff"), re.MULTILINE)
    assert cited == ngdla.__version__


def test_changelog_leads_with_this_version():
    first = re.search(r"^## (\d\S*)", text("CHANGELOG.md"), re.MULTILINE)
    assert first is not None
    assert first[1] == ngdla.__version__


def test_licence_is_the_same_everywhere(setup_cfg):
    assert setup_cfg["metadata"]["license_expression"] == "BSD-3-Clause"
    assert "\nlicense: BSD-3-Clause\n" in text("CITATION.cff")
    assert text("LICENSE").startswith("BSD 3-Clause License")


def test_metadata_has_one_home(setup_cfg):
    pyproject = tomllib.loads(text("pyproject.toml"))
    assert pyproject.keys() == {"build-system", "tool"}
    assert not pyproject["tool"].keys() & {"pytest", "mypy", "coverage", "setuptools"}
    assert setup_cfg["options"]["python_requires"] == ">= 3.11"


def test_typing_marker_is_shipped(setup_cfg):
    shipped = setup_cfg["options.package_data"]["ngdla"].split()
    assert shipped == ["py.typed", "_backend/*.pyi"]
    assert (ROOT / "ngdla" / "py.typed").is_file()
    stubs = set((ROOT / "ngdla").rglob("*.pyi"))
    assert stubs
    assert stubs == set((ROOT / "ngdla").glob(shipped[1]))


def test_every_package_is_found():
    for folder in {path.parent for path in (ROOT / "ngdla").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), f"{folder} would be missing from a wheel"


# --------------------------------------------------------------------------------- README


BLOCKS = re.findall(r"^```python\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)


def libraries_of(block):
    """Return the libraries beyond NumPy, and host codes, that a block imports."""
    imported = re.findall(r"^(?:>>> |\.\.\. )? *(?:import|from) (\w+)", block, re.MULTILINE)
    return [name for name in ("torch", "jax", "dask", "netket") if name in imported]


def require_libraries(block, required):
    """Skip a block whose library is not installed, or fail if it has to be."""
    for name in libraries_of(block):
        if importlib.util.find_spec(name) is None:
            if name in required:
                pytest.fail(f"{name} is required and not installed")
            pytest.skip(f"{name} is not installed")


def run_block(number):
    """Run a block; one of NumPy may use the names of earlier ones of NumPy."""
    names = {}
    for block in [*BLOCKS[:number], BLOCKS[number]]:
        if block is BLOCKS[number] or not (libraries_of(block) or libraries_of(BLOCKS[number])):
            example = doctest.DocTestParser().get_doctest(block, names, "README.md", "README.md", 0)
            assert example.examples
            report = []
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            runner.run(example, out=report.append, clear_globs=False)
            assert not report, "".join(report)
            names = example.globs


@pytest.mark.parametrize(
    "number",
    range(len(BLOCKS)),
    ids=lambda i: f"{i}-{'-'.join(libraries_of(BLOCKS[i]) or ['numpy'])}",
)
def test_readme_example(number, request):
    option = request.config.getoption
    require_libraries(BLOCKS[number], option("--require-backend") + option("--require-package"))
    run_block(number)


def test_readme_has_an_example_for_each_library():
    assert [libraries_of(block) for block in BLOCKS] == [[], ["netket"], ["torch"]]


@pytest.mark.parametrize("form", ["memmap", "stream", "dask"])
def test_other_forms_of_scores_that_the_readme_names(form, tmp_path):
    rng = np.random.default_rng(0)
    S, f = rng.standard_normal((8, 50)), rng.standard_normal(8)
    np.save(tmp_path / "S.npy", S)
    given, rhs = np.load(tmp_path / "S.npy", mmap_mode="r"), f
    if form == "stream":
        given = ngdla.ColumnStream([S[:, :20], S[:, 20:]], (8, 50), dtype="float64")
    elif form == "dask":
        array = pytest.importorskip("dask.array")
        given, rhs = array.from_array(given, chunks=(8, 20)), array.from_array(f)
    x = ngdla.damped_lstsq(given, rhs, 0.1)
    np.testing.assert_allclose(np.asarray(x), ngdla.damped_lstsq(S, f, 0.1), rtol=1e-10)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="torch is not installed"):
        require_libraries(">>> import torch\n", ["jax"])
    with pytest.raises(pytest.fail.Exception, match="jax is required"):
        require_libraries(">>> from jax import numpy\n", ["jax"])
    require_libraries(">>> import numpy as np\n", ["jax"])


def test_readme_is_short():
    assert len(text("README.md").splitlines()) <= 130


@pytest.mark.parametrize("command", ["demo", "test"])
def test_readme_leads_with_the_commands(command):
    first = re.search(r"^```sh\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    assert re.search(rf"^make {command} ", first[1], re.MULTILINE)


EXTRAS = re.compile(r"(?:ngdla|\.)\[([a-z0-9,]+)\]")


def test_extras_exist(setup_cfg):
    pages = ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/start.md"]
    named = set(EXTRAS.findall("".join(map(text, pages))))
    extras = setup_cfg["options.extras_require"].keys()
    named = {extra for group in named for extra in group.split(",")}
    assert {"torch", "jax", "dask", "cuda13", "demo"} <= named <= extras


def test_no_page_promises_a_package_index():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        assert "pip install ngdla" not in path.read_text(encoding="utf-8"), path
        assert 'pip install "ngdla[' not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run", ".ci/long"])
def test_make_targets_exist(name):
    named = set(re.findall(r"(?:^ *|`|\d )make ([a-z][a-z-]*)", text(name), re.MULTILINE))
    targets = set(re.search(r"^targets = (.*)$", text("Makefile"), re.MULTILINE)[1].split())
    assert targets == set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert named
    assert named <= targets


def test_api_index_lists_the_public_functions():
    table = text("docs/api/index.rst").partition("Calls at a glance")[2]
    assert set(re.findall(r"``\.?(\w+)[`(]", table)) >= set(ngdla.__all__)
    calls = re.findall(r"``(\w+)(?:\((.*?)\))?``", "".join(re.findall(r"^   \* - .*", table, re.M)))
    assert {name for name, _ in calls} <= set(ngdla.__all__)
    for name, arguments in calls:
        known = inspect.signature(getattr(ngdla, name)).parameters if arguments else {}
        given = [argument.partition("=")[0].strip() for argument in arguments.split(",")]
        assert not arguments or set(given) <= set(known), name


def test_readme_names_public_functions():
    table = text("README.md").partition("## Which method?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!you have|---).*$", table, re.MULTILINE)
    assert len(rows) == 8
    assert set(re.findall(r"`(\w+)`", table)) - {"previous", "momentum"} <= set(ngdla.__all__)


def test_readme_has_a_place_for_measurements():
    assert re.search(r"<!-- measured:begin -->\n.*<!-- measured:end -->", text("README.md"), re.S)


LINKING = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "asv_benchmarks/README.md"]
LINKING += sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if path.relative_to(ROOT / "docs").parts[0] not in ("_build", "auto_examples")
)


def anchors(path):
    """Return the anchors of the headings of a Markdown file, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", LINKING)
def test_links_lead_somewhere(name):
    here = ROOT / name
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", text(name)):
        assert not target.startswith("/"), target
        place = here.parent / target if target else here
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


# ------------------------------------------------------------------- what make says

needs_make = pytest.mark.skipif(
    shutil.which("make") is None or os.name != "posix", reason="needs make and a POSIX shell"
)


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with all that the bootstrap reads, and no environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ["Makefile", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "tools", folder / "tools")
    (folder / "ngdla").mkdir()
    (folder / "ngdla" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    return folder


def make(checkout, *arguments, **variables):
    """Run make as a fresh shell would, with no package index in reach."""
    inherited = ("MAKE", "MFLAGS", "PIP_", "PYTHON", "VIRTUAL_ENV", "GNUMAKEFLAGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(inherited)}
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **variables}
    return subprocess.run(
        [shutil.which("make"), *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def interpreter(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def complaint(done):
    """Return the one line that ngdla wrote before make gave up."""
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(ours) == 1, done.stderr
    assert ours[0].startswith("ngdla: ")
    return ours[0]


@needs_make
@pytest.mark.parametrize("target", ["demo", "test"])
def test_python_too_old(checkout, tmp_path, target):
    old = interpreter(tmp_path / "bin" / "python3", "echo 3.9.2")
    line = complaint(make(checkout, target, f"PYTHON={old}"))
    assert "Python >= 3.11 is needed" in line
    assert f"{old} is 3.9.2" in line
    assert not (checkout / ".venv").exists()


@needs_make
def test_all_pythons_that_were_found_are_listed(checkout, tmp_path):
    tools = tmp_path / "bin"
    interpreter(tools / "python3", "echo 3.10.13")
    interpreter(tools / "python", "echo 3.8.1")
    interpreter(tools / "python3.13", "echo 'python3.13: command not found' >&2; exit 127")
    (tools / "sh").symlink_to(shutil.which("sh"))
    line = complaint(make(checkout, "demo", PATH=str(tools)))
    assert "found python3 is 3.10.13, python is 3.8.1." in line


@needs_make
def test_no_python_at_all(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shutil.which("sh"))
    line = complaint(make(checkout, "test", PATH=str(tmp_path / "bin")))
    assert "nothing that runs under: python3 python python3.14" in line


@needs_make
def test_a_new_enough_python_is_found_under_another_name(checkout, tmp_path):
    """The usual names come first, but one that is too old does not end the search."""
    tools = tmp_path / "bin"
    interpreter(tools / "python3", "echo 3.10.13")
    interpreter(tools / "python3.12", 'case "$2" in *venv* | *pip*) exit 1; esac; echo 3.12.1')
    for tool in ["sh", "rm"]:
        (tools / tool).symlink_to(shutil.which(tool))
    line = complaint(make(checkout, "demo", PATH=str(tools)))
    assert "python3.12 (Python 3.12.1) lacks venv or ensurepip" in line
    assert "apt install python3.12-venv" in line
    assert not (checkout / ".venv").exists()


@needs_make
def test_venv_that_fails_leaves_nothing(checkout, tmp_path):
    half = interpreter(
        tmp_path / "bin" / "python3",
        f'[ "$1" != -m ] || {{ mkdir "$3"; echo no space left on device; exit 1; }}\n'
        f'exec "{sys.executable}" "$@"',
    )
    line = complaint(make(checkout, "demo", f"PYTHON={half}"))
    assert "no space left on device" in line
    assert not (checkout / ".venv").exists()


@needs_make
def test_a_folder_in_the_way_is_not_removed(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.tex").touch()
    line = complaint(make(checkout, "demo", f"PYTHON={sys.executable}"))
    assert ".venv is in the way" in line
    assert (checkout / ".venv" / "thesis.tex").exists()


@needs_make
def test_no_package_index(checkout):
    """The broken environment is replaced, pip's failure is said, and the next run tries again."""
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").touch()
    first = make(checkout, "demo", f"PYTHON={sys.executable}")
    assert "creating .venv" in first.stdout
    assert "pip could not install ngdla[demo]" in complaint(first)
    assert "PIP_INDEX_URL" in complaint(first)
    again = make(checkout, "demo")
    assert "creating .venv" not in again.stdout
    assert "pip could not install ngdla[demo]" in complaint(again)


@needs_make
def test_help_names_every_target(checkout):
    done = make(checkout)
    assert done.returncode == 0
    for target in ["demo", "test", "lint", "format", "gpu-test", "clean"]:
        assert f"make {target} " in done.stdout


@needs_make
@pytest.mark.parametrize(
    ("goal", "advice"),
    [
        ("tests", "did you mean: make test?"),
        ("doc", "did you mean: make docs?"),
        ("benchmark", "did you mean: make bench?"),
        ("gpu", "did you mean: make gpu-test gpu-bench gpu-evidence?"),
        ("tools", "the targets are: help demo test "),
        ("README.md", "the targets are: help demo test "),
        ("lnit", "the targets are: help demo test "),
        ("t", "the targets are: help demo test "),
    ],
)
def test_a_target_that_is_none(checkout, goal, advice):
    """Also where a file or folder of that name is there, and beside a target that is one."""
    (checkout / "tests").mkdir()
    for goals in ([goal], ["clean", goal]):
        done = make(checkout, *goals)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert f"no target '{goal}'; {advice}" in line


MODULES = ["numpy", "scipy", "array_api_compat", "array_api_extra"]
MODULES += ["pytest", "hypothesis", "array_api_strict"]


@pytest.fixture
def bare(tmp_path):
    """Return a Python without any packages."""
    return interpreter(tmp_path / "bin" / "python3", f'exec "{sys.executable}" -S "$@"')


@needs_make
@pytest.mark.parametrize(
    ("target", "needed"),
    [("gpu-test", MODULES), ("gpu-bench", MODULES[:4]), ("gpu-evidence", MODULES)],
)
def test_gpu_targets_say_what_cannot_be_imported(checkout, bare, target, needed):
    line = complaint(make(checkout, target, f"PYTHON={bare}"))
    assert f"{bare} cannot import {' '.join(needed)}; " in line


@needs_make
def test_gpu_targets_take_modules_from_wheels(checkout, bare, tmp_path):
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "x.whl", "w") as wheel:
        for module in MODULES[:-1]:
            wheel.writestr(f"{module}.py", "")
    line = complaint(make(checkout, "gpu-test", f"PYTHON={bare}", "WHEELS=../wheels"))
    assert "cannot import array_api_strict; " in line
    assert line.endswith("WHEELS=folder with its wheel")


@needs_make
def test_gpu_targets_unpack_wheels_and_clear_up(checkout, bare, tmp_path):
    """Modules come as files, which tests read and processes import faster than archives."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "temporary").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "x.whl", "w") as wheel:
        for module in MODULES:
            wheel.writestr(f"{module}.py", "import sys; print(__file__, *map(repr, sys.argv[1:]))")
    variables = {"TMPDIR": str(tmp_path / "temporary")}
    done = make(checkout, "gpu-test", f"PYTHON={bare}", "WHEELS=../wheels", **variables)
    *_, last = done.stdout.splitlines()  # the target asks whether it can be imported before
    file, *arguments = shlex.split(last)
    assert done.returncode == 0
    assert Path(file).parent.parent == tmp_path / "temporary"
    assert "(cupy) and not cupy-double" in arguments
    assert arguments[-2:] == ["--require-backend", "cupy"]
    assert not list((tmp_path / "temporary").iterdir())


@needs_make
@pytest.mark.parametrize("folder", ["tools", "missing"])
def test_gpu_targets_say_that_there_are_no_wheels(checkout, folder):
    line = complaint(make(checkout, "gpu-bench", f"WHEELS={folder}"))
    assert line.startswith(f"ngdla: no *.whl in {folder}; ")


@needs_make
@pytest.mark.parametrize("script", ["exit 127", f'exec "{sys.executable}" -c "exit(True)"'])
def test_gpu_targets_say_that_python_does_not_do(checkout, tmp_path, script):
    old = interpreter(tmp_path / "bin" / "python3", script)
    line = complaint(make(checkout, "gpu-bench", f"PYTHON={old}"))
    assert f"{old} is not a Python >= 3.11" in line


@needs_make
def test_distclean_removes_what_asv_keeps(checkout):
    (checkout / "asv_benchmarks" / ".asv").mkdir(parents=True)
    (checkout / ".venv-peers").mkdir()
    for folder in ["tests", "docs"]:
        (checkout / folder).mkdir()
    assert make(checkout, "distclean").returncode == 0
    assert not (checkout / "asv_benchmarks" / ".asv").exists()
    assert not (checkout / ".venv-peers").exists()


def test_what_an_older_layout_left_is_not_imported(tmp_path):
    """Compiled files beside the new ones, and an editable install that leads elsewhere."""
    clone, old = tmp_path / "clone", tmp_path / "old" / "ngdla"
    shutil.copytree(
        ROOT / "ngdla", clone / "ngdla", ignore=shutil.ignore_patterns("__pycache__", "demo")
    )
    old.mkdir(parents=True)
    for name in ("__init__", "kronecker", "inverse_free", "gram"):
        stale = old / f"{name}.py"
        stale.write_text("raise ImportError('this is an old file')\n")
        if name != "__init__":
            py_compile.compile(str(stale), cfile=str(clone / "ngdla" / f"{name}.pyc"))
            py_compile.compile(str(stale), cfile=cache_from_source(clone / "ngdla" / f"{name}.py"))
    program = f"""
import sys
from importlib.machinery import PathFinder

class Editable:  # what an editable install without a path puts behind all other finders
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(old.parent)!r}]) if name == "ngdla" else None

sys.meta_path.append(Editable)
import ngdla, ngdla.damped.solve, ngdla.kronecker.solve, ngdla.inverse_free.update
print(ngdla.__file__, ngdla.gram.__module__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=clone, capture_output=True, text=True, check=True
    )
    file = clone / "ngdla" / "__init__.py"
    assert done.stdout.split() == [str(file), "ngdla"]


def test_sdist_has_what_tests_and_pages_read():
    grafted = re.findall(r"^graft (\S+)$", text("MANIFEST.in"), re.MULTILINE)
    assert grafted == [".ci", "asv_benchmarks", "docs", "tests", "tools"]
    (files,) = re.findall(r"^include (.+)$", text("MANIFEST.in"), re.MULTILINE)
    assert all((ROOT / name).is_file() for name in files.split())


@pytest.mark.parametrize("name", [".ci/run", ".ci/long"])
def test_ci_scripts_can_be_run(name):
    assert os.access(ROOT / name, os.X_OK)
    lines = text(name).splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines


def test_ci_is_a_budget():
    """Of 20 minutes, 3 of which are kept for what comes; a newcomer waits for 4 at most."""
    parts = re.findall(r"^part (\w+) (\d+) ", text(".ci/run"), re.MULTILINE)
    budgets = {name: int(seconds) for name, seconds in parts}
    assert next(iter(budgets)) == "newcomer"
    assert budgets["newcomer"] <= 4 * 60
    assert sum(budgets.values()) <= 17 * 60


def test_a_required_package_that_is_missing_stops_the_run(tmp_path):
    """With one line, in the place of tests that skip."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_is_skipped(): pytest.importorskip('no_such_package')\n"
    )
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    command = ["-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"), "--rootdir=.", "-q"]
    command += ["--require-package", "no_such_package", "test_some.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--require-package no_such_package: it is not installed" in done.stdout


def test_what_passed_is_left_out_but_not_what_depends_on_packages(tmp_path):
    """Two runs, as in CI: the second runs what failed, was skipped, or is marked."""
    (tmp_path / "test_some.py").write_text(
        "import os, pytest\n"
        "def test_passes(): pass\n"
        "def test_is_skipped(): pytest.importorskip('no_such_package')\n"
        "@pytest.mark.environment\n"
        "def test_depends(): pass\n"
    )
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    record = tmp_path / "passed.txt"

    def outcomes(*options):
        command = ["-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"), "-rA", "--rootdir=."]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *command, *options, "test_some.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
            capture_output=True,
            text=True,
            check=True,
        )
        return re.search(r"=+ (.*) in ", done.stdout.splitlines()[-1])[1]

    assert outcomes(f"--record-passed={record}") == "2 passed, 1 skipped"
    assert record.read_text().splitlines() == [
        "test_some.py::test_passes",
        "test_some.py::test_depends",
    ]
    assert outcomes(f"--leave-out-passed={record}") == "1 passed, 1 skipped, 1 deselected"
