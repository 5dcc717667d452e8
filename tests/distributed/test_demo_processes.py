"""The demo on processes of MPI: the same energies on any number of them, and after `kill -9`."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

spec = importlib.util.spec_from_file_location("launch", Path(__file__).with_name("launch.py"))
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

LIMIT = 60.0  # seconds for a start of mpiexec
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
    """Wait for mpiexec, at most for the limit, and return its exit code and what it wrote."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err


def done(size, folder, *arguments):
    """Return what a run wrote that went well: its standard output, and the arrays of its file."""
    folder.mkdir(exist_ok=True)
    code, out, err = ended(begun(size, folder, *arguments))
    assert code == 0, out + err
    return out, arrays(folder)


def arrays(folder):
    with np.load(folder / "run.npz") as file:
        return dict(file)


def measured(file, system):
    """Return energies, errors and certificates of the steps; times differ."""
    return file[f"{system}.steps"][:, :3]


@pytest.mark.parametrize("size", [2, 3])
def test_energies_do_not_depend_on_the_number_of_processes(size, tmp_path):
    _, alone = done(1, tmp_path / "1", "--steps", "12")
    out, file = done(size, tmp_path / str(size), "--steps", "12")
    for system in ("tfim", "mg"):
        expected = measured(alone, system)
        np.testing.assert_allclose(measured(file, system), expected, rtol=1e-10)
        np.testing.assert_array_equal(file[f"{system}.spins"], alone[f"{system}.spins"])
    assert out.count("exact energy from") == 1  # one process speaks
    assert out.count("step   12/12") == 2
    assert f", {size} processes, seed 0" in out
    assert (tmp_path / str(size) / "run.png").exists()


def test_what_is_wrong_is_said_once(tmp_path):
    done(1, tmp_path, "--steps", "1")
    code, out, err = ended(begun(2, tmp_path, "--steps", "1", "--seed", "1"))
    assert code != 0
    assert out == ""
    assert err.count("holds a run of tfim with seed = 0") == 1


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


@pytest.mark.skipif(sys.platform != "linux", reason="finds a rank in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_no_more_than_some_steps(rank, tmp_path):
    system = ("--system", "mg", "--checkpoint-every", "3")
    broken = tmp_path / "broken"
    broken.mkdir()
    process = begun(2, broken, *system, "--steps", "1000000")
    try:
        wait_for_steps(process, broken, 10)
        os.kill(pid_of_rank(rank, broken), signal.SIGKILL)
        code, *_ = ended(process)  # mpiexec ends the other process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert code != 0
    steps = str(len(arrays(broken)["mg.steps"]) + 5)
    out, resumed = done(2, broken, *system, "--steps", steps)
    assert "goes on after step" in out
    _, whole = done(2, tmp_path / "whole", *system, "--steps", steps)
    np.testing.assert_array_equal(measured(resumed, "mg"), measured(whole, "mg"))
    for part in ("parameters", "direction", "spins", "position"):
        np.testing.assert_array_equal(resumed[f"mg.{part}"], whole[f"mg.{part}"])
    _, alone = done(1, tmp_path / "alone", *system, "--steps", steps)
    np.testing.assert_allclose(measured(resumed, "mg"), measured(alone, "mg"), rtol=1e-9)
