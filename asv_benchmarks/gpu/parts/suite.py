"""The tests of the library on the device: the table of what works where, and all those of CuPy."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import threading
import time
from typing import Any
from unittest import mock

from asv_benchmarks.gpu.desk import ROOT, Desk
from asv_benchmarks.gpu.engines import Unavailable
from asv_benchmarks.gpu.report import run_name, slug

__all__ = ["capabilities", "tests"]

_CLOSING = 8.0  # seconds in which pytest stops its workers, and writes what it knows
_EVERY = 1.0
_TABLE = "tests/test_capabilities.py"


def capabilities(desk: Desk) -> None:
    """Run the table on all libraries, and leave the record from which the documentation has it."""
    if desk.device == "double":
        msg = "the table has no entries of a double"
        raise Unavailable(msg)
    selection = "cupy or torch-cuda or jax-gpu"
    if desk.rehearsal:
        selection = "test_entry and gram and torch and eager"
    _run(desk, [_TABLE, "--record-capabilities", str(desk.output), "-k", selection])


def tests(desk: Desk) -> None:
    """Run what is selected by CuPy, without the table; pytest ends before its time is over."""
    report = desk.output / f"{slug(run_name(desk.device))}.tests.xml"
    chosen = ["tests", "--ignore", _TABLE, "-k", "cupy and not cupy-double"]
    if desk.rehearsal:
        few = {"cpu": ["-k", "torch"], "double": ["--cupy-double"]}[desk.device]
        chosen = ["tests/score_matrices/test_gram.py", *few]
    _run(desk, [*chosen, f"--junit-xml={report}", "--maxfail=50"])


def _run(desk: Desk, arguments: list[str]) -> None:
    """Run pytest in this process, interrupted in time, with each failure laid down as it comes."""
    import pytest

    # XLA is saved the search for the fastest kernels; it reads this when JAX is first used.
    flags = "--xla_force_host_platform_device_count=2"
    if not desk.rehearsal:
        flags += " --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = flags
    options = ["-q", "-W", "default", "--tb=short", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        options += ["-n", "2" if desk.rehearsal else "12"]
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in a background job
    timer = threading.Timer(desk.left() - _CLOSING, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    reporter = Reporter(desk)
    # pytest writes the host's name into the report, which is to be shared
    with mock.patch.object(platform, "node", return_value="localhost"):
        code = pytest.main([*arguments, *options], plugins=[reporter])
    timer.cancel()
    reporter.keep()
    if code == pytest.ExitCode.INTERRUPTED:
        desk.was_cut = True
    elif code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        desk.fault(f"pytest ended with {pytest.ExitCode(code).name}")
    elif not reporter.counts["passed"]:
        desk.fault("no test has passed")


class Reporter:
    """A plugin of pytest that counts outcomes, and says why a test failed at once."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.kept = desk, time.monotonic()
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count what was called, and what failed or was skipped before."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failed.append(report.nodeid)
            print(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)
            self.desk.fault(report.nodeid)
        if time.monotonic() - self.kept > _EVERY:
            self.keep()

    def keep(self) -> None:
        """Lay down the counts."""
        self.kept = time.monotonic()
        self.desk.keep(outcomes=self.counts, failed=self.failed)
