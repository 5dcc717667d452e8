"""What starts processes: a case that fails, hangs or dies is named, and stops no other one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import os, time


def case_before(comm, xp): pass


def case_fails(comm, xp):
    assert comm.rank == 0, "what went wrong"


def case_between(comm, xp):
    assert comm.all_reduce_sum(xp.ones(2))[0] == 2


def case_hangs(comm, xp):
    while comm.rank == 1:
        time.sleep(0.1)


def case_dies(comm, xp):
    if comm.rank == 0:
        os._exit(3)
    comm.all_reduce_sum(xp.ones(2))


def case_after(comm, xp): pass
"""

PROGRAM = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import launch
folder = pathlib.Path(sys.argv[2])
outcomes = launch.launched("mpi", 2, folder, launch.chosen("mpi", 2))
for name, outcome in outcomes.items():
    print("CASE", name, launch.complaint(outcome))
"""


@pytest.mark.ranks
def test_cases_that_fail_hang_or_die(tmp_path):
    pytest.importorskip("mpi4py")
    (tmp_path / "cases_bad.py").write_text(CASES)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path)],
        env=os.environ | {"RANKS_CASES": str(tmp_path), "RANKS_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = dict(text.split(" ", 1) for text in done.stdout.split("CASE bad:")[1:])
    assert list(said) == ["before", "fails", "between", "hangs", "dies", "after"]
    for name in ("before", "between", "after"):
        assert not said[name].strip(), said[name]
    assert "rank 1: failed" in said["fails"]
    assert "what went wrong" in said["fails"]
    assert "rank 1: begun" in said["hangs"]
    assert "rank 0" not in said["hangs"].partition("rank 1")[0]
    assert "in case_hangs" in said["hangs"]
    assert "rank 0: begun" in said["dies"]
