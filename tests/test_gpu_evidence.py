"""`make gpu-evidence` on machines without a GPU: its parts on the CPU, and parts that go wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from backends import has_module
from spectra import quick_compilation  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # asv_benchmarks is not installed

from asv_benchmarks.gpu import (  # noqa: E402
    ceilings,
    desk,
    double,
    engines,
    evidence,
    evidence_page,
    methods,
    parts,
    peers,
    report,
)
from asv_benchmarks.gpu.parts import choices, faults, public_functions  # noqa: E402
from ngdla._backend.choices import CHOICES  # noqa: E402

ALL = [part for stage in parts.STAGES for part in stage.parts]
ON_A_CPU = [name for name in ("torch", "jax") if has_module(name)]
MOST_FILES = 8
FACTS = ("version", "cuda", "clock", "memory", "svd")
HEAD: dict[str, Any] = {
    "device": "rehearsal",
    "driver": "none",
    "date": "2026-01-01",
    "command": "x",
    "surroundings": {"commit": "unknown", "system": "x", "versions": {}},
    "finished": False,
}


def desk_for(part: str, folder: Path, device: str = "cpu", seconds: float = 60.0) -> desk.Desk:
    return desk.Desk(part, device, seconds, folder, folder)


# ------------------------------------------------------------------------------ the plan


def test_no_part_is_missing_and_all_fit() -> None:
    assert sum(stage.seconds for stage in parts.STAGES) <= parts.SECONDS == 540
    assert len({report.slug(part.name) for part in ALL}) == len(ALL)
    for name in (
        "facts",
        *(f"public functions, {library}" for library in ("cupy", "torch", "jax")),
        "pinned buffers",
        "failures",
        "gram, cupy",
        *(f"choices, {library}" for library in ("cupy", "torch", "jax")),
        "tiny solves",
        "streams, cupy",
        *(f"solves, {library}" for library in ("cupy", "torch", "jax")),
        "capabilities",
        "tests",
        "benchmark",
    ):
        module, _, function = parts.part(name).function.rpartition(".")
        found = importlib.import_module(f"asv_benchmarks.gpu.parts.{module}")
        assert function in found.__all__
        assert callable(getattr(found, function))


def test_the_device_is_looked_for_first() -> None:
    assert ALL[0].name == "facts"
    assert len(parts.STAGES[0].parts) == 1


def test_what_is_timed_has_the_device_for_itself() -> None:
    untimed = {"public_functions.public_functions", "faults.pinned_buffers", "faults.failures"}
    for stage in parts.STAGES:
        assert len(stage.parts) == 1 or {part.function for part in stage.parts} <= untimed


def test_every_choice_has_calls_for_libraries_that_are_asked() -> None:
    assert choices.CALLS.keys() == CHOICES.keys()
    asked = {part.library for part in ALL if part.function == "choices.choices"}
    for calls in choices.CALLS.values():
        assert set(calls.libraries) <= asked
        assert len({call.shapes for call in calls.full}) > 1
        assert {call.dtype for call in calls.full} >= {"float32", "float64"}
        assert calls.tiny


# ----------------------------------------------------------------- the parts, on the CPU

MEASURED = {
    "facts.facts": "ceilings",
    "public_functions.public_functions": "right",
    "gram.gram_ways": "gram",
    "choices.choices": "choices",
    "solves.solves": "solves",
    "tiny_solves.tiny_solves": "tiny solves",
    "benchmark.benchmark": "rows",
}


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_SAMPLES", 2)
    monkeypatch.setattr(engines, "_SAMPLE_SECONDS", 1e-5)


@pytest.mark.skipif(not has_module("torch"), reason="torch")
@pytest.mark.parametrize(
    "name",
    [p.name for p in ALL if p.library in ("torch", "") and not p.function.startswith("suite")],
)
def test_part_on_torch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_samples: None
) -> None:
    only_torch(monkeypatch)
    part = parts.part(name)
    given = (engines.TorchEngine("cpu"),) if part.library else ()
    table = desk_for(name, tmp_path)
    module, _, function = part.function.rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module(f"asv_benchmarks.gpu.parts.{module}")
        getattr(found, function)(table, *given)
    assert table.verdict() == "passed"
    left = json.loads(desk.part_file(tmp_path, name).read_text(encoding="utf-8"))
    assert left["measured"][MEASURED[part.function]]


@pytest.mark.parametrize("name", ["pinned buffers", "streams, cupy", "gram, cupy", "solves, cupy"])
def test_part_on_the_double(name: str, tmp_path: Path) -> None:
    """In a process of its own, where nothing else imports CuPy."""
    command = [sys.executable, "-m", "asv_benchmarks.gpu.desk", name, "--device", "double"]
    command += ["--seconds", "60", "--folder", str(tmp_path), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    left = json.loads(desk.part_file(tmp_path, name).read_text(encoding="utf-8"))
    assert left["verdict"] == "passed", done.stdout + done.stderr
    assert left["measured"]


def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX, which compiles all that it is asked for, has its turn in the slow rehearsal."""
    opened = {"torch": lambda: engines.TorchEngine("cpu")}
    for module in ("facts", "tiny_solves", "benchmark"):
        found = importlib.import_module(f"asv_benchmarks.gpu.parts.{module}")
        monkeypatch.setattr(found, "makers", lambda device: (opened, {}))


@pytest.mark.skipif(not ON_A_CPU, reason="torch or JAX")
@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    """Every part ends by itself before its time is over; JAX, too."""
    assert evidence.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    check_rehearsal(tmp_path, "rehearsal", set(ON_A_CPU) | {""})


@pytest.mark.slow
def test_rehearsal_on_the_double(tmp_path: Path) -> None:
    assert evidence.main(["--device", "double", "--output", str(tmp_path)]) == 0
    check_rehearsal(tmp_path, "double", {"cupy", ""}, skipped=("capabilities",))
    page = (tmp_path / "double.md").read_text(encoding="utf-8")
    assert "Times of the double mean nothing" in page


def check_rehearsal(
    folder: Path, name: str, libraries: set[str], *, skipped: tuple[str, ...] = ()
) -> None:
    files = sorted(path.name for path in folder.iterdir())
    assert files == [f"{name}.{end}" for end in ("json", "log", "md", "tests.xml")]
    result = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert result["finished"]
    assert list(result["parts"]) == [part.name for part in ALL]
    assert result["seconds"] < parts.SECONDS
    for part in ALL:
        found = result["parts"][part.name]
        runs = part.library in libraries and part.name not in skipped
        wanted = "passed" if runs else "skipped"
        assert found["verdict"].startswith(wanted), (part.name, found["verdict"])
    assert result["ceilings"]
    assert result["rows"]
    assert str(ROOT) not in (folder / f"{name}.log").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- what goes wrong

WRITE = """
import json, os, signal, subprocess, sys, time
def leave(verdict):
    found = {"verdict": verdict, "faults": [], "measured": {"rows_of_it": [1, 2]}}
    with open(sys.argv[1] + ".new", "w") as file:
        json.dump(found, file)
    os.replace(sys.argv[1] + ".new", sys.argv[1])
    print("said by", sys.argv[1], flush=True)
"""
SCRIPTS = {
    "passes": "leave('passed')",
    "hangs": "leave(None); subprocess.Popen(['sleep', '60']); time.sleep(60)",
    "exits": "leave(None); os._exit(0)",
    "exits with 3": "leave(None); os._exit(3)",
    "crashes": "leave(None); os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "1 / 0",
    "leaves half a file": "open(sys.argv[1], 'w').write('{')",
    "ignores the end": "leave(None); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    "passes too": "leave('passed')",
}
VERDICTS = {
    "passes": "passed",
    "hangs": "cut off after 1 s",
    "exits": "failed: ended without a verdict",
    "exits with 3": "failed: ended with exit code 3",
    "crashes": "failed: ended by SIGSEGV",
    "raises": "failed: ended with exit code 1",
    "leaves half a file": "failed: ended without a verdict",
    "ignores the end": "cut off after 1 s",
    "passes too": "passed",
}


class Scripted(evidence.Evidence):
    """Parts that do as they are told."""

    def command(self, part: parts.Part, seconds: float) -> list[str]:
        file = str(desk.part_file(self.parts, part.name))
        return [sys.executable, "-c", WRITE + SCRIPTS[part.name], file]


def stages_of(*names: str, together: bool = False) -> tuple[parts.Stage, ...]:
    told = tuple(parts.Part(name, "x.y", "", f"what {name}") for name in names)
    return (parts.Stage(1, told),) if together else tuple(parts.Stage(1, (one,)) for one in told)


def scripted(folder: Path) -> Scripted:
    (folder / "parts").mkdir()
    return Scripted("cpu", folder / "out", dict(HEAD), folder / "parts")


@pytest.mark.parametrize("together", [False, True])
def test_a_part_that_goes_wrong_leaves_the_others_alone(together: bool, tmp_path: Path) -> None:
    made = scripted(tmp_path)
    # Stages may use what earlier ones have left; here each takes its second.
    names = [*SCRIPTS] if together else ["hangs", "crashes", "exits", "passes too"]
    made(stages_of(*names, together=together))
    result = json.loads((tmp_path / "out" / "rehearsal.json").read_text(encoding="utf-8"))
    assert result["finished"]
    for name in names:
        found = result["parts"][name]
        assert found["verdict"] == VERDICTS[name]
        nothing = name in ("raises", "leaves half a file")
        assert found["measured"] == ({} if nothing else {"rows_of_it": [1, 2]})
    page = (tmp_path / "out" / "rehearsal.md").read_text(encoding="utf-8")
    log = (tmp_path / "out" / "rehearsal.log").read_text(encoding="utf-8")
    for name in names:
        assert f"| {name} | what {name} |" in page
        assert f"==== {name}: {VERDICTS[name]}\n" in log
    assert not together or "ZeroDivisionError" in log
    assert len(list((tmp_path / "out").iterdir())) <= MOST_FILES


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    made = scripted(tmp_path)
    begun: list[int] = []
    begin = made._begin

    def noted(part: parts.Part, seconds: float) -> None:
        begin(part, seconds)
        begun.append(made.running[-1].process.pid)

    made._begin = noted  # type: ignore[method-assign]
    made(stages_of("hangs"))
    (group,) = begun
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    assert Path("/proc").exists()
    states = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False
    )
    assert all(line.strip().startswith("Z") for line in states.stdout.splitlines())


def test_files_are_complete_while_a_part_runs(tmp_path: Path) -> None:
    """Whoever ends the whole run from outside finds what was measured until then."""
    made = scripted(tmp_path)
    seen: list[dict[str, Any]] = []
    write = made.write

    def noted() -> None:
        write()
        file = tmp_path / "out" / "rehearsal.json"
        seen.append(json.loads(file.read_text(encoding="utf-8")))

    made.write = noted  # type: ignore[method-assign]
    made(stages_of("passes", "hangs"))
    under_way = [one for one in seen if one["parts"]["hangs"]["verdict"] == "under way"]
    assert under_way
    assert under_way[-1]["parts"]["passes"]["verdict"] == "passed"
    assert not under_way[-1]["finished"]
    assert seen[-1]["finished"]


def test_a_library_names_a_device_that_nvidia_smi_does_not(tmp_path: Path) -> None:
    made = scripted(tmp_path)
    made.result["device"] = report.UNKNOWN
    measured = {"libraries": {"cupy": {"device": "Made-up 9", **dict.fromkeys(FACTS, "x")}}}
    found = {"verdict": "passed", "faults": [], "measured": measured}
    desk.part_file(made.parts, "facts").write_text(json.dumps(found), encoding="utf-8")
    made.command = lambda part, seconds: ["true"]  # type: ignore[method-assign]
    made((parts.Stage(5, (parts.Part("facts", "x.y", "", "what it is"),)),))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"made-up-9.{end}" for end in ("json", "log", "md")
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_from_outside_ends_the_parts(number: int, tmp_path: Path) -> None:
    program = f"""
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, under which tests may run, ignores
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_gpu_evidence import Scripted, evidence, stages_of
evidence.Evidence = Scripted
sys.exit(evidence.main(["--device", "cpu", "--output", {str(tmp_path / "out")!r}],
                       (stages_of("hangs")[0]._replace(seconds=60),)))
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 40
    while not (tmp_path / "out" / "rehearsal.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.decode() == "gpu-evidence: ended from outside; the files are complete\n"
    result = json.loads((tmp_path / "out" / "rehearsal.json").read_text(encoding="utf-8"))
    assert result["parts"]["hangs"]["verdict"] == "under way"


def test_one_line_where_there_is_no_gpu(tmp_path: Path) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "asv_benchmarks.gpu.evidence", "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-evidence: no library sees a device: ")
    assert all(f"{name} " in line for name in ("cupy", "torch", "jax"))
    assert not (tmp_path / "out").exists()


def test_a_double_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy_double", None)
    with pytest.raises(engines.Unavailable, match="tests/cupy_double cannot be imported"):
        double.makers("double")[0]["cupy"]()


def test_engine_of_a_double(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[int] = []
    found = types.SimpleNamespace(install=lambda: installed.append(1))
    monkeypatch.setitem(sys.modules, "cupy_double", found)
    fake = types.SimpleNamespace(asarray=np.asarray, asnumpy=np.asarray)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    opened, skipped = double.makers("double")
    assert skipped.keys() == {"torch", "jax"}
    engine = opened["cupy"]()
    assert installed
    assert engine.name == "cupy"
    assert "mean nothing" in engine.facts()["clock"]
    z = engine.numpy(engine.normal((100, 100), "complex64", 0))
    assert z.dtype == "complex64"
    assert np.mean(np.abs(z) ** 2) == pytest.approx(1.0, abs=0.05)
    assert engine.median(lambda x: x + 1, z, limit=0.01) > 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda x: x + 1e-3, "differs from NumPy by"),
        (lambda x: x.astype("complex64"), "is complex64"),
        (lambda x: x[..., None], "is float64 "),
        (lambda x: x * np.nan, "differs from NumPy by nan"),
    ],
)
@pytest.mark.skipif(not has_module("torch"), reason="torch")
def test_wrong_results_are_faults(
    spoil: Any, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_functions, "DTYPES", ("float64",))
    monkeypatch.setattr(public_functions, "LAYOUTS", ("array",))
    engine = engines.TorchEngine("cpu")
    numpy = engine.numpy
    monkeypatch.setattr(engine, "numpy", lambda x: spoil(numpy(x)))
    table = desk_for("public functions, torch", tmp_path)
    public_functions.public_functions(table, engine)
    assert len(table.faults) == len(public_functions.OF_A_REHEARSAL)
    assert complaint in table.verdict()
    assert table.verdict().startswith("failed: gram float64 array: ")


@pytest.mark.skipif(not has_module("torch"), reason="torch")
def test_a_way_that_is_wrong_or_raises_is_a_fault(tmp_path: Path) -> None:
    choice = CHOICES["gram of torch"]
    second = choice.ways[1]

    def call(S: Any) -> Any:
        return S + 1 if choice.way == second else S

    def fails(S: Any) -> Any:
        return 1 / 0 if choice.way == second else S

    table = desk_for("choices, torch", tmp_path)
    for function in (call, fails):
        made = choices.Call("a call", "float64", ((3, 4),), function)
        row = choices._timed(table, engines.TorchEngine("cpu"), choice, made)
        assert row["taken"] == choice.ways[0]
    assert row["fastest"] == choice.ways[0]
    assert row["errors"].keys() == {second}
    assert f"{second} differs from {choice.ways[0]} by" in table.faults[0]
    assert "ZeroDivisionError" in table.faults[1]


def test_a_desk_says_how_it_ended(tmp_path: Path) -> None:
    table = desk_for("facts", tmp_path)
    assert table.verdict() == "passed"
    assert not table.over()
    table.end = time.monotonic()
    assert table.over()
    assert table.verdict() == "cut off: its time is spent"
    table.fault("a call", ValueError("some\nreason"))
    table.fault("another")
    assert table.verdict() == "failed: a call: ValueError: some reason (and 1 more)"
    assert table.other("facts") == {}
    table.add("rows", {"x": float("nan")})
    assert table.other("facts") == {"rows": [{"x": "nan"}]}


# ------------------------------------------------------------------------------ numbers


def test_fractions_are_of_whole_products_and_of_copies() -> None:
    rows = [
        {"what": "gemm complex64", "rate": 100.0},
        {"what": "copy", "rate": 1000.0},
        {"library": "x", "error": "none"},
    ]
    found = ceilings.fractions(rows, (5, 7), "complex64", 2.0, 3)
    assert found["gemm_fraction"] == pytest.approx(8 * 25 * 7 / 2.0 / 100.0)
    assert found["copy_fraction"] == pytest.approx(3 * 35 * 8 / 2.0 / 1000.0)
    assert ceilings.fractions([], (5, 7), "float64", 2.0, 3)["gemm_fraction"] is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("library", ["cupy", *ON_A_CPU])
def test_solves_by_hand(library: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula is right, and a sweep does not make it worse."""
    rng, case = np.random.default_rng(0), methods.Case(8, 60, dtype)
    S, v = rng.standard_normal((8, 60)), rng.standard_normal(60)
    if dtype.startswith("complex"):
        S, v = S + 1j * rng.standard_normal((8, 60)), v + 1j * rng.standard_normal(60)
    S, v = S.astype(dtype), v.astype(dtype)
    if library == "cupy":
        monkeypatch.setitem(sys.modules, "cupy", np)
        monkeypatch.setitem(sys.modules, "cupyx.scipy.linalg", scipy.linalg)
        engine: Any = types.SimpleNamespace(name="cupy", sent=lambda x: x, numpy=lambda x: x)
    else:
        engine = engines.engine_makers("cpu")[0][library]()
    u = 2.0**-53 if dtype == "float64" else 2.0**-24
    errors = []
    for sweeps in (0, 1):
        step = peers.by_hand(engine, case.damping, sweeps)
        x = engine.numpy(step(engine.sent(S), engine.sent(v)))
        assert x.dtype == dtype
        errors.append(methods.residual(S, v, x, case.damping))
    assert errors[1] < 10 * u / case.relative_damping
    assert errors[1] < errors[0] + 100 * u


def test_ratios_are_over_ngdla_on_the_first_library() -> None:
    case = {"n": 8, "m": 60, "dtype": "float32", "relative_damping": 0.1}
    rows = [
        case | {"library": "cupy", "seconds": 2.0, "peer_seconds": 3.0},
        case | {"library": "torch", "seconds": 5.0, "peer_seconds": 4.0},
        case | {"library": "jax", "error": "out of memory"},
    ]
    (found,) = peers.ratios(rows)
    assert found == case | {"ngdla": "cupy", "seconds": 2.0, "ratios": {"cupy": 1.5, "torch": 2.0}}


SUITE = """
import sys
from pathlib import Path
from asv_benchmarks.gpu.desk import Desk
from asv_benchmarks.gpu.parts import suite
suite._CLOSING = 1.0
folder = Path(sys.argv[1])
table = Desk("tests", "cpu", float(sys.argv[2]), folder, folder)
suite._run(table, [str(folder / "test_x.py"), f"--junit-xml={folder / 'x.xml'}", "-n0"])
print(table.verdict())
"""
TESTS = """
import time
def test_passes():
    pass
def test_fails():
    assert 1 == 2
def test_hangs():
    time.sleep(60)
"""


def test_tests_end_in_time_and_say_what_they_know(tmp_path: Path) -> None:
    """The report is complete, and failures have their tracebacks in the log."""
    (tmp_path / "test_x.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-c", SUITE, str(tmp_path), "6"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    *_, said = done.stdout.splitlines()
    assert said.startswith("failed: ")
    assert said.endswith("test_x.py::test_fails"), done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout
    found = json.loads(desk.part_file(tmp_path, "tests").read_text(encoding="utf-8"))["measured"]
    assert found["outcomes"] == {"passed": 1, "failed": 1, "skipped": 0}
    report = (tmp_path / "x.xml").read_text(encoding="utf-8")
    assert 'failures="1"' in report
    assert 'hostname="localhost"' in report


@pytest.mark.parametrize("fails", [False, True])
def test_streams_are_held_against_the_array(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = types.SimpleNamespace(sent=np.asarray, numpy=np.asarray)
    if fails:
        monkeypatch.setattr(
            faults.ngdla, "ColumnStream", lambda blocks, shape, **_: 2 * np.hstack([*blocks()])
        )
    table = desk_for("pinned buffers", tmp_path)
    faults.pinned_buffers(table, engine)
    assert len(table.measured["errors"]) == faults._RUNS
    assert len(table.faults) == (faults._RUNS if fails else 0)


@pytest.mark.skipif(not has_module("torch"), reason="torch")
def test_failures_that_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, engine = desk_for("failures", tmp_path), engines.TorchEngine("cpu")
    faults.failures(table, engine)
    assert table.verdict() == "passed"
    assert {row["ngdla"] for row in table.measured["of_nan"]} == {"NaN"}
    monkeypatch.setattr(faults, "eigh", lambda A: (A.real[0] * 0 + 1, A))
    table = desk_for("failures", tmp_path)
    faults.failures(table, engine)
    assert len(table.faults) == 4
    assert table.verdict().startswith("failed: ngdla's eigh of NaN in float32: finite (")


def test_page_of_rows_that_failed() -> None:
    row = {"n": 8, "m": 60, "dtype": "float32", "relative_damping": 0.1, "library": "torch"}
    part = {"verdict": "x", "what": "y", "measured": {"solves": [row | {"error": "no | memory"}]}}
    lists: dict[str, Any] = {"ceilings": [], "rows": [], "questions": []}
    lists |= {"methods": {}, "libraries": {}, "skipped": {}}
    page = evidence_page.page(HEAD | lists | {"seconds": 1.0, "parts": {"solves, torch": part}})
    assert r"failed: no \| memory" in page
    assert page.index("## Parts") < page.index("## Damped solves, beside") < page.index("## Ceil")
