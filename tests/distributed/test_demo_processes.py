"""The demo on processes of MPI: the same energies on any number of them, and after `kill -9`."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import array_api_compat.numpy as np_compat
import numpy as np
import pytest
from thread_ranks import run_ranks

from ngdla.demo import make_problem, quick
from ngdla.demo.ranks import share
from ngdla.demo.vmc import started, trajectory

spec = importlib.util.spec_from_file_location("launch", Path(__file__).with_name("launch.py"))
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

LIMIT = 60.0  # seconds for a start of mpiexec
RUN = ("--system", "mg", "--checkpoint-every", "3")
DRAWS = ("matplotlib", "rich", "tqdm")

pytestmark = [
    pytest.mark.ranks,
    pytest.mark.skipif(launch.missing("mpi") is not None, reason=f"{launch.missing('mpi')}"),
    pytest.mark.skipif(not all(map(importlib.util.find_spec, DRAWS)), reason="needs ngdla[demo]"),
]


def begun(size, folder, *arguments):
    """Start the demo on `size` processes, which write run.npz in a folder, and return mpiexec."""
    files = ["--output", folder / "run.png", "--checkpoint", folder / "run.npz"]
    demo = [sys.executable, "-m", "ngdla", "demo", "--quick", "--sites", "6", *files, *arguments]
    program = demo if size == 1 else [launch.mpiexec(), "-n", str(size), *demo]
    return subprocess.Popen(
        [str(word) for word in program],
        cwd=folder,
        env=launch.environment(folder, size, 0),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process):
    """Wait for mpiexec, for the limit at most, and return its exit code and what was written."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err


def done(size, folder, *arguments):
    """Return what a run writes on its standard output, and into its file."""
    code, out, err = ended(begun(size, folder, *arguments))
    assert code == 0, out + err
    return out, arrays(folder)


def arrays(folder):
    with np.load(folder / "run.npz") as file:
        return dict(file)


def measured(file, system):
    """Return energies, errors and certificates of the steps; times differ."""
    return file[f"{system}.steps"][:, :3]


def in_this_process(size, system, steps):
    """Return energies, errors and certificates, and the last state of rank 0: ranks are threads."""
    problem = quick(make_problem(system, 6)).with_steps(steps)

    def follow(comm):
        walkers = share(problem.walkers, comm.rank, comm.size)
        state = started(problem, np_compat, None, 0, walkers)
        states, measured = zip(*trajectory(problem, state, comm), strict=True)
        return states[-1], np.array([step[:3] for step in measured])

    return run_ranks(size, follow)[0]


def test_energies_do_not_depend_on_the_number_of_processes(tmp_path):
    out, file = done(2, tmp_path, "--steps", "12")
    for system in ("tfim", "mg"):
        state, expected = in_this_process(1, system, 12)
        np.testing.assert_allclose(measured(file, system), expected, rtol=1e-10)
        np.testing.assert_array_equal(file[f"{system}.spins"], state.spins)
    assert out.count("exact energy from") == 1  # one process speaks
    assert out.count("step   12/12") == 2
    assert ", 2 processes, seed 0" in out
    assert (tmp_path / "run.png").exists()


@pytest.mark.slow
def test_what_is_wrong_is_said_once(tmp_path):
    (tmp_path / "run.npz").write_bytes(b"half of a file")
    code, out, err = ended(begun(2, tmp_path))
    assert code != 0
    assert out == ""
    assert err.count("run.npz: cannot be read as a checkpoint") == 1


def pid_of_rank(rank, folder):
    """Return the number of the process with this rank whose checkpoint is in the folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, or of another user
            continue
        ours = {b"OMPI_COMM_WORLD_RANK=%d" % rank, b"PMI_RANK=%d" % rank}
        if os.fsencode(folder / "run.npz") in words and ours & set(variables):
            return int(process.name)
    pytest.fail(f"no process has rank {rank}")


def wait_for_steps(process, folder, steps):
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        if (folder / "run.npz").exists() and len(arrays(folder)["mg.steps"]) >= steps:
            return
        time.sleep(0.01)
    pytest.fail("no checkpoint was written")


def broken(rank, folder):
    """Kill a rank of a run that has a checkpoint, and return how many steps that has."""
    process = begun(2, folder, *RUN, "--steps", "1000000")
    try:
        wait_for_steps(process, folder, 10)
        os.kill(pid_of_rank(rank, folder), signal.SIGKILL)
    finally:
        code, *_ = ended(process)  # mpiexec ends the other process
    assert code != 0
    return len(arrays(folder)["mg.steps"])


finds_ranks = pytest.mark.skipif(sys.platform != "linux", reason="finds a rank in /proc")


@finds_ranks
def test_a_killed_process_costs_no_more_than_some_steps(tmp_path):
    held = broken(1, tmp_path)
    out, file = done(2, tmp_path, *RUN, "--steps", str(held + 5))
    assert f"goes on after step {held}" in out
    state, expected = in_this_process(1, "mg", held + 5)
    np.testing.assert_allclose(measured(file, "mg"), expected, rtol=1e-9)
    np.testing.assert_array_equal(file["mg.spins"], state.spins)


@finds_ranks
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_was_broken_is_the_same_to_the_last_bit(rank, tmp_path):
    folders = tmp_path / "broken", tmp_path / "whole"
    for folder in folders:
        folder.mkdir()
    steps = str(broken(rank, folders[0]) + 5)
    (_, file), (_, whole) = (done(2, folder, *RUN, "--steps", steps) for folder in folders)
    np.testing.assert_array_equal(measured(file, "mg"), measured(whole, "mg"))
    for part in ("parameters", "direction", "spins", "position"):
        np.testing.assert_array_equal(file[f"mg.{part}"], whole[f"mg.{part}"])
