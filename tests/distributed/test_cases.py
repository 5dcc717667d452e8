"""The cases of this folder: on threads always, on processes by `make ranks`."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from thread_ranks import run_ranks

spec = importlib.util.spec_from_file_location("launch", Path(__file__).with_name("launch.py"))
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

STARTS = [("mpi", 2), ("gloo", 2)]
LONG = [("mpi", 3), ("mpi", 4), ("gloo", 4)]
ON_PROCESSES = [
    pytest.param(*start, name, marks=[pytest.mark.slow] if start in LONG else [])
    for start in STARTS + LONG
    for name in launch.chosen(*start)
]
ON_THREADS = [name for name, case in launch.cases().items() if not hasattr(case, "engines")]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory, request):
    """Return a function for what became of all cases of an engine, which starts it once."""
    known = {}

    def of(engine, size):
        lacking = launch.missing(engine)
        if lacking is not None:
            required = launch.ENGINES[engine] in request.config.getoption("--require-package")
            (pytest.fail if required else pytest.skip)(lacking)
        if (engine, size) not in known:
            folder = tmp_path_factory.mktemp("ranks")
            names = launch.chosen(engine, size)
            known[engine, size] = launch.launched(engine, size, folder, names)
        return known[engine, size]

    return of


@pytest.mark.ranks
@pytest.mark.parametrize(("engine", "size", "name"), ON_PROCESSES)
def test_case_on_processes(engine, size, name, outcomes):
    if {outcome["state"] for outcome in outcomes(engine, size)[name]} == {"skipped"}:
        pytest.skip("as the case says")
    complaint = launch.complaint(outcomes(engine, size)[name])
    assert not complaint, complaint


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ON_THREADS)
def test_case_on_threads(name, size):
    case = launch.cases()[name]
    if size in getattr(case, "sizes", launch.SIZES):
        run_ranks(size, lambda comm: case(comm, np))
