"""The tool that compares commits: it sees every bit, says what differs, and covers everything."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ngdla
from ngdla.structures.kernels import Kernels

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import compare_commits
from compare import expressions, records, worker
from compare.cases import all_cases
from compare.differences import differences
from compare.expressions import Array, evaluate
from compare.grids import Case, grid, thinned
from compare.libraries import Numpy

CASE = ("eager", "a case")


def lines(old: Any, new: Any) -> list[str]:
    """Return the differences of two results."""
    numpy = Numpy()
    both = [records.outcome(lambda x=x: dict(records.parts(x)), numpy.numbers) for x in (old, new)]
    return list(differences({CASE: both[0]}, {CASE: both[1]}, "numpy"))


# ------------------------------------------------------------------------- what is a difference


def test_one_bit_in_one_number_is_a_line() -> None:
    x = np.linspace(1.0, 2.0, 6).reshape(2, 3)
    y = x.copy()
    y[1, 2] = np.nextafter(y[1, 2], 0)
    info = ngdla.SolveInfo(*[x] * 7)
    (line,) = lines((x, info), (x, info._replace(error_bound=y)))
    expected = "numpy eager: a case: result[1].error_bound: 1 of 6 numbers differ by up to 1 u"
    assert line == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_equal_bits_are_equal(dtype: str) -> None:
    x = np.array([0.0, -0.0, np.inf, np.nan, 3.0], dtype)
    assert lines(x, x.copy()) == []


def test_nan_is_nan_whatever_its_bits() -> None:
    x = np.array([np.nan, 1.0])
    y = x.copy()
    y.view(np.uint64)[0] ^= (1 << 63) | 1
    assert np.isnan(y[0])
    assert lines(x, y) == []
    assert "one is finite where the other is not" in lines(x, np.array([0.0, 1.0]))[0]
    z = np.array([complex(np.nan, 1.0)])
    assert "1 of 2 numbers" in lines(z, np.array([complex(np.nan, 1.5)]))[0]


def test_signs_of_zeros_differ() -> None:
    (line,) = lines(np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    assert line.endswith("result: 1 of 2 numbers differ in their signs")


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (np.ones(3, "float32"), "dtype float64 | float32"),
        (np.ones((3, 1)), "shape (3,) | (3, 1)"),
        (np.float64(1.0), "kind numpy.ndarray | numpy.float64"),
        (1.0, "numpy.ndarray of float64 (3,) | 1.0"),
    ],
)
def test_kinds_dtypes_and_shapes(new: Any, says: str) -> None:
    assert lines(np.ones(3), new) == [f"numpy eager: a case: result: {says}"]


def test_large_numbers_and_integers() -> None:
    largest = np.finfo(float).max
    assert "4 u" in lines(np.array([1.0, 4.0]), np.array([1.0, 4.0 + 2**-51 * 4]))[0]
    assert "u" in lines(np.array([largest]), np.array([-largest]))[0]
    assert lines(np.arange(3), np.arange(3) + 1)[0].endswith("3 of 3 numbers differ")


def raising(text: str) -> Callable[[], Any]:
    def call() -> Any:
        raise ValueError(text)

    return call


def test_messages_warnings_and_missing_cases() -> None:
    numpy = Numpy()
    one, other = (records.outcome(raising(text), numpy.numbers) for text in ("`S` 1", "`S` 2"))
    assert one is not None
    assert other is not None
    expected = "numpy eager: a case: raised: ValueError: `S` 1 | ValueError: `S` 2"
    assert list(differences({CASE: one}, {CASE: other}, "numpy")) == [expected]
    warned = {**one, "warnings[0]": "ngdla.PrecisionWarning: low"}
    expected = "numpy eager: a case: warnings[0]: nothing | ngdla.PrecisionWarning: low"
    assert list(differences({CASE: one}, {CASE: warned}, "numpy")) == [expected]
    returned = {"result": "3", "type of result": "int"}
    expected = "numpy eager: a case: ValueError: `S` 1 | no exception"
    assert list(differences({CASE: one}, {CASE: returned}, "numpy")) == [expected]
    assert list(differences({CASE: one}, {}, "numpy")) == ["numpy eager: a case: only in OLD"]
    assert list(differences({}, {CASE: one}, "numpy")) == ["numpy eager: a case: only in NEW"]


def test_addresses_in_memory_are_left_out() -> None:
    assert lines(object(), object()) == []


# --------------------------------------------------------------------------- what is compared


# What no case uses, and why.
LEFT_OUT = {
    "structures.Structure": "abstract: the others inherit its methods, which are used",
}
# Of these classes solvers use the rest.
FOR_CALLERS: dict[str, set[str]] = {
    "ColumnStream": {"ScoreStream.from_file", "ColumnStream.shape"},
    "RowStream": {"ScoreStream.from_file", "RowStream.shape"},
    "ScoreOperator": {f"ScoreOperator.{name}" for name in ("rows", "columns", "dtype", "like")},
    "ColumnShards": set(),
    "RowShards": set(),
}


def public_names() -> set[str]:
    """Return all public functions and classes, their options, methods and properties."""
    modules = {"": ngdla, "structures.": ngdla.structures}
    names = {f"{prefix}{name}" for prefix, module in modules.items() for name in module.__all__}
    things = [getattr(module, name) for module in modules.values() for name in module.__all__]
    names = names.union(*map(methods, filter(inspect.isclass, things)))
    return names.union(*map(options, filter(inspect.isfunction, things)))


def options(function: Callable[..., Any]) -> set[str]:
    """Return the options of a function."""
    parameters = inspect.signature(function).parameters.values()
    return {f"{function.__name__}, {p.name}" for p in parameters if p.kind is p.KEYWORD_ONLY}


def methods(kind: type) -> set[str]:
    """Return the public methods and properties of a class by the class that defines them."""
    if kind.__name__ in FOR_CALLERS:
        return FOR_CALLERS[kind.__name__]
    return {
        f"{above.__name__}.{name}"
        for above in kind.__mro__
        if above.__module__.startswith("ngdla")
        for name, value in vars(above).items()
        if isinstance(value, (types.FunctionType, property, classmethod)) and name[0] != "_"
        if not (issubclass(kind, Kernels) and hasattr(Kernels, name))  # of the matrices instead
    }


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the public names that cases use in some dtypes, and those of results and warnings."""
    numpy, names = Numpy(), set[str]()
    cases = [
        case
        for case in all_cases()
        if "jit" in case.compiled or ("eager" in case.compiled and case.dtype == "float64")
    ]
    with contextlib.chdir(tmp_path_factory.mktemp("files")):  # which some cases write
        found = [numpy.eager(case, ngdla, names) or {} for case in thinned(cases, 1)]
    for record in found:
        kinds = {x for path, x in record.items() if path.startswith("type of ")}
        names |= {f"structures.{kind}" for kind in kinds} | kinds
        names |= {x[6:].partition(":")[0] for p, x in record.items() if p.startswith("warnings")}
    return names


def test_every_public_name_is_used(used: set[str]) -> None:
    assert public_names() - used == set(LEFT_OUT)


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names))


def test_thinned_cases_have_all_pairs_of_options() -> None:
    def pairs(cases: Iterable[Case]) -> set[Any]:
        return {pair for case in cases for pair in itertools.combinations(case.options, 2)}

    cases = list(grid("group", lambda a, b, c: None, a=range(5), b=range(4), c=range(3)))
    few = thinned(cases, 2)
    assert len(few) < len(cases) / 4
    assert pairs(few) == pairs(cases)


# --------------------------------------------------------------------------------- expressions


def test_expressions_are_computed_once_and_later() -> None:
    calls: list[Any] = []
    noted = expressions.lifted(lambda x: calls.append(x) or x)
    x = noted(Array("real", (2, 3)))
    y = (x @ x.T + 2 * x[:, :2] - x[:, 1:] / 4, {"negative": [-x]}, x.shape[0] > 1)
    assert calls == []
    numpy = Numpy()
    total, more, flag = evaluate(y, ngdla, lambda key: numpy.array(key, "float64"))
    assert len(calls) == 1
    S = calls[0]
    np.testing.assert_array_equal(total, S @ S.T + 2 * S[:, :2] - S[:, 1:] / 4)
    np.testing.assert_array_equal(more["negative"][0], -S)
    assert flag is True


def test_absent_names_make_absent_cases() -> None:
    call = expressions.ngdla.no_such_function(Array("real", (2,)))
    case = Case("group", (("dtype", "float64"),), "float64", lambda: call)
    assert worker.results(Numpy(), ngdla, [case]) == {("eager", case.name): None}


# ---------------------------------------------------------------------------------- commands


def run(*arguments: str, **patches: Any) -> int:
    """Return the exit code of the command."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in patches.items():
            patch.setattr(compare_commits, name, value)
        try:
            return compare_commits.main([*arguments])
        except SystemExit as stop:
            return int(stop.code or 0)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of this library, in which tags name two commits with another `gram`."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__", "demo")
    shutil.copytree(Path(ngdla.__file__).parent, folder / "ngdla", ignore=ignored)
    git(folder, "init", "--quiet")
    commit(folder, "before")
    with (folder / "ngdla" / "__init__.py").open("a") as file:
        file.write(
            "_gram = gram\n\n\ndef gram(*args, **options):\n"
            "    return _gram(*args, **options) * (1 + 2**-23)\n\n\ndel ema\n"
        )
    commit(folder, "after")
    return folder


def git(folder: Path, *arguments: str) -> None:
    settings = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True)


def commit(folder: Path, tag: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", tag)
    git(folder, "tag", tag)


def test_equal_commits(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--libraries", "numpy", "--only", "scores, blocks dtype"]
    assert run("before", "before", *options, REPOSITORY=repository) == 0
    out = capsys.readouterr().out
    assert out == "numpy: 32 cases, 0 differences\nin all: 32 cases, 0 differences\n"


def test_commits_that_differ(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--libraries", "numpy", "--only", "gram, blocks dtype"]
    assert run("before", "after", *options, REPOSITORY=repository) == 1
    out = capsys.readouterr().out.splitlines()
    case = "numpy eager: gram, blocks dtype=float32 shape=wide"
    assert any(line.startswith(f"{case}: result: ") and line.endswith(" u") for line in out)
    assert out[-1] == "in all: 8 cases, 8 differences"


@pytest.mark.slow
def test_names_that_one_commit_does_not_have(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--libraries", "numpy", "--only", "ema dtype=float64 size=matrix d=5 samples=1"]
    assert run("before", "after", *options, REPOSITORY=repository) == 1
    out = capsys.readouterr().out.splitlines()
    assert all(line.endswith(": only in OLD") for line in out[:-2])
    assert run("after", "after", *options, REPOSITORY=repository) == 0
    assert capsys.readouterr().out.endswith("in all: 0 cases, 0 differences\n")


def test_what_cannot_be_compared_is_one_line(
    repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*arguments: str, **patches: Any) -> str:
        assert run(*arguments, **{"REPOSITORY": repository, **patches}) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    assert "'no-such' is no commit" in refused("no-such", "after", "--libraries", "numpy")
    assert "'after^{tree}' is no commit" in refused(
        "before", "after^{tree}", "--libraries", "numpy"
    )
    assert "is no commit" in refused("before", "after", "--libraries", "numpy", REPOSITORY=tmp_path)
    assert "no case has 'no such'" in refused("before", "after", "--only", "no such")
    assert "not installed: torch" in refused(
        "before", "after", "--libraries", "torch", installed=lambda: ["numpy"]
    )


def test_a_commit_that_cannot_be_imported(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(repository, "checkout", "--quiet", "-b", "broken")
    (repository / "ngdla" / "__init__.py").write_text("raise ValueError('broken')\n")
    commit(repository, "broken-one")
    options = ["--libraries", "numpy", "--only", "gram, blocks dtype"]
    assert run("before", "broken-one", *options, REPOSITORY=repository) == 2
    assert "NEW did not finish on numpy: ValueError: broken" in capsys.readouterr().err


def test_another_ngdla_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="`ngdla` comes from"):
        worker.module_in(tmp_path)


@pytest.mark.slow
def test_temporary_folders_are_removed(repository: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        options = ["--libraries", "numpy", "--only", "scores, blocks dtype=float32 shape=wide"]
        assert run("before", "before", *options, REPOSITORY=repository) == 0
        assert run("before", "no-such", *options, REPOSITORY=repository) == 2
        with pytest.raises(KeyboardInterrupt):
            run("before", "before", *options, REPOSITORY=repository, differences=interrupt)
    assert list(tmp_path.iterdir()) == []


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
