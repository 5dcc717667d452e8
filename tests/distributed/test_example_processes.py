"""Examples for processes of torch and JAX: the same energies on one and on two."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ngdla.distributed import SerialCommunicator

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "docs" / "examples" / "processes"
LIMIT = 60.0  # seconds for all processes of an example
EXACT = -10.251661791  # of 8 sites

ENERGY = re.compile(r"\d+ (-\d+\.\d+)")  # JAX says something on its own


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launch = loaded(HERE / "launch.py")


def begun(program, error):
    """Start a program, whose errors go to a file."""
    variables = launch.environment(error.parent, 2, 0)
    variables.pop("XLA_FLAGS", None)  # which may ask for more devices than one a process
    with error.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *program],
            cwd=FOLDER,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )


def printed(folder, *programs):
    """Return the energies that the first of some programs prints, which run at the same time."""
    errors = [folder / f"{number}.txt" for number in range(len(programs))]
    running = [begun(program, error) for program, error in zip(programs, errors, strict=True)]
    try:
        outputs = [process.communicate(timeout=LIMIT)[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    said = "\n".join(error.read_text() for error in errors)
    assert not any(process.returncode for process in running), said
    found = [[float(energy) for energy in ENERGY.findall(output)] for output in outputs]
    assert not any(found[1:])  # one process speaks
    return found[0]


def with_torch():
    """Return the energies of the example for torchrun, from this process."""
    torch = pytest.importorskip("torch")
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return list(loaded(FOLDER / "vmc_torchrun.py").energies(SerialCommunicator()))
    finally:
        torch.set_default_dtype(usual)


def with_jax():
    """Return the energies of the example for jax.distributed, from the devices of this process."""
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        return list(loaded(FOLDER / "vmc_jax_distributed.py").energies())


@pytest.mark.parametrize("energies", [with_torch, with_jax])
def test_energy_of_the_ground_state(energies):
    assert np.mean(energies()[-10:]) == pytest.approx(EXACT, rel=1e-2)


@pytest.mark.ranks
@pytest.mark.slow
def test_torchrun(tmp_path):
    pytest.importorskip("torch")
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    energies = printed(tmp_path, (*start, "vmc_torchrun.py"))
    np.testing.assert_allclose(energies, with_torch(), rtol=1e-10)


@pytest.mark.ranks
@pytest.mark.slow
def test_jax_distributed(tmp_path):
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    energies = printed(tmp_path, *(("vmc_jax_distributed.py", address, "2", rank) for rank in "01"))
    np.testing.assert_allclose(energies, with_jax(), rtol=1e-10)
