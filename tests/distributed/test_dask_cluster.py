"""Dask arrays on a cluster of two processes, as `dask_program.py` checks them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")

PROGRAM = Path(__file__).with_name("dask_program.py")
CHECKS = re.findall(r"^def (check_\w+)", PROGRAM.read_text(encoding="utf-8"), re.MULTILINE)
LIMIT = 240  # seconds, of which it takes some 40


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what the program says of each check; it is ended after the time limit."""
    folder = tmp_path_factory.mktemp("dask")
    paths = os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "output.txt").open("w+") as output:
        running = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder)],
            env=os.environ | threads | {"PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            running.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        output.seek(0)
        return output.read()


@pytest.mark.slow
@pytest.mark.environment
@pytest.mark.parametrize("name", CHECKS)
def test_cluster(name, said):
    assert re.search(rf"^CHECK {name} [\d.]+ s passed$", said, re.MULTILINE), said[-8000:]
