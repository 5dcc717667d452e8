"""The programs of docs/guide/engines.md: each is started as the page says, and takes its step.

Those of NetKet and quantax are in tests/adapters.
"""

import socket

import numpy as np
import pytest
from page_programs import PROGRAMS, launch, printed

import ngdla

NEEDS = {"mpi": "mpi4py", "torch": "torch", "jax": "jax", "dask": "distributed"}
DOORS = {"netket", "quantax"}
NAMES = [name for name in PROGRAMS if name.partition("_")[0] not in DOORS]


def marks(name):
    """Return the marks of programs that take long to start."""
    return [pytest.mark.slow] if name.startswith(("torch", "dask")) else []


def length_of_the_step():
    """Return what each program writes."""
    rng = np.random.default_rng(0)
    O, E = rng.standard_normal((64, 500)), rng.standard_normal(64)
    return f"{np.linalg.norm(ngdla.stochastic_reconfiguration(O, E, 1e-2)):.6f}"


def test_a_program_for_each_engine():
    assert {name.partition("_")[0] for name in PROGRAMS} == {*NEEDS, *DOORS}
    for name, (_, text) in PROGRAMS.items():
        compile(text, name, "exec")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("torch")])
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
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in NAMES])
def test_a_program_takes_the_step_of_one_process(name, tmp_path):
    engine = name.partition("_")[0]
    pytest.importorskip(NEEDS[engine])
    if engine == "mpi" and launch.missing("mpi") is not None:
        pytest.skip(launch.missing("mpi"))
    assert printed(name, tmp_path).split() == [length_of_the_step()]
