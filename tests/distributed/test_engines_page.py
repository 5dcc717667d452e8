"""The programs of docs/guide/engines.md: each is started as the page says, and takes its step."""

import importlib.util
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ngdla

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "engines.md"
LIMIT = 90.0  # seconds for the processes of a program

spec = importlib.util.spec_from_file_location("launch", Path(__file__).with_name("launch.py"))
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

# The line that starts a program, and the program.
BLOCKS = re.findall(
    r"^```sh\n(.*?(\w+\.py))\n```\n\n```python\n(.*?)^```",
    PAGE.read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = {name: (command, text) for command, name, text in BLOCKS}
NEEDS = {"mpi": "mpi4py", "torch": "torch", "jax": "jax", "dask": "distributed"}


def marks(name):
    """Return the marks of programs that take long to start."""
    return [pytest.mark.slow] if name.startswith(("torch", "dask")) else []


def length_of_the_step():
    """Return what each program writes."""
    rng = np.random.default_rng(0)
    O, E = rng.standard_normal((64, 500)), rng.standard_normal(64)
    return f"{np.linalg.norm(ngdla.stochastic_reconfiguration(O, E, 1e-2)):.6f}"


def test_a_program_for_each_engine():
    assert {name.partition("_")[0] for name in PROGRAMS} == NEEDS.keys()
    for name, (_, text) in PROGRAMS.items():
        compile(text, name, "exec")


def words_of(command):
    """Return what a command of the page is here, and the variables that it sets."""
    words = shlex.split(command)
    names = {"mpiexec": [launch.mpiexec()], "python": [sys.executable]}
    names["torchrun"] = [sys.executable, "-m", "torch.distributed.run"]
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    program = [word for word in words if word.partition("=")[0] not in variables]
    return [part for word in program for part in names.get(word, [word])], variables


def printed(command, folder):
    """Return what a program of the page writes, started in a folder."""
    words, variables = words_of(command)
    given = launch.environment(folder, 2, 0)
    given.pop("XLA_FLAGS", None)
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=given | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("torch")])
def test_a_program_of_torch_runs_on_one_rank(name, monkeypatch, capsys):
    pytest.importorskip("torch")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    meeting = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for variable, value in meeting.items():
        monkeypatch.setenv(variable, value)
    exec(compile(PROGRAMS[name][1], name, "exec"), {})
    assert capsys.readouterr().out.split() == [length_of_the_step()]


@pytest.mark.ranks
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in PROGRAMS])
def test_a_program_takes_the_step_of_one_process(name, tmp_path):
    command, text = PROGRAMS[name]
    engine = name.partition("_")[0]
    pytest.importorskip(NEEDS[engine])
    if engine == "mpi" and launch.missing("mpi") is not None:
        pytest.skip(launch.missing("mpi"))
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert printed(command, tmp_path).split() == [length_of_the_step()]
