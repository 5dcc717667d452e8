"""Fixtures and options of all tests: `backend` runs a test on every array library there is."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capability_record
import cupy_double
import numpy as np
import pytest
from backends import BACKENDS, DTYPES, Backend, device_name
from hypothesis import settings
from selection import record_passed, select

settings.register_profile("ngdla", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ngdla")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=sorted(BACKENDS),
        help="stop instead of skipping where this array library or device is missing (repeatable)",
    )
    parser.addoption(
        "--require-package",
        action="append",
        default=[],
        metavar="NAME",
        help="stop instead of skipping where this package is missing (repeatable)",
    )
    parser.addoption(
        "--cupy-double",
        action="store_true",
        help="run the tests of CuPy, and only these, on its stand-in (tests/cupy_double)",
    )
    parser.addoption("--record-passed", metavar="FILE", help="write down which tests passed")
    parser.addoption(
        "--leave-out-passed",
        metavar="FILE",
        help="leave out those tests, but what depends on the packages that are installed",
    )
    parser.addoption(
        capability_record.OPTION,
        type=Path,
        metavar="FOLDER",
        help="write which entries of test_capabilities.py passed on the GPU, as DEVICE.tests.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cupy-double"):
        cupy_double.install()
    folder = config.getoption(capability_record.OPTION)
    if folder is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(capability_record.Recorder(folder, device_name))


@pytest.hookimpl(tryfirst=True)  # before cases are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    select(config, items)


def pytest_collection_finish() -> None:
    """Let garbage collection, a part of all seconds, pass over libraries and tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    record_passed(terminalreporter)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Unless `--dist` says otherwise, give out whole files: they share what JAX compiled."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop at once, with one line, where a required package, library or device is missing."""
    for name in session.config.getoption("--require-package"):
        if importlib.util.find_spec(name) is None:
            reason = f"--require-package {name}: it is not installed"
            pytest.exit(reason, pytest.ExitCode.USAGE_ERROR)
    for name in session.config.getoption("--require-backend"):
        try:
            BACKENDS[name]()
        except pytest.skip.Exception as reason:
            pytest.exit(f"--require-backend {name}: {reason}", pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(params=sorted(BACKENDS, key=list(BACKENDS).index))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each array library and device in turn."""
    return BACKENDS[request.param]()


@pytest.fixture(params=[n for n in BACKENDS if n not in ("numpy-readonly", "torch-meta", "dask")])
def valued_backend(request: pytest.FixtureRequest) -> Backend:
    """The libraries whose results carry values, called eagerly by the test itself."""
    return BACKENDS[request.param]()


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype that the documentation promises."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def compiled_is_forgotten() -> Iterator[None]:
    """Return the memory of what JAX compiled for a file, some 100 MB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20231017)
