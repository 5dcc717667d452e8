"""The GPU benchmarks on machines without a GPU: a rehearsal on the CPU, and NumPy in CuPy's place.

What cannot be seen here is a clock of events, and that CuPy's names exist, which
test_cupy_contract.py looks up.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import has_module
from spectra import quick_compilation  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # asv_benchmarks is not installed

import ngdla  # noqa: E402
from asv_benchmarks.gpu import __main__ as command  # noqa: E402
from asv_benchmarks.gpu import engines, methods, questions, report, run  # noqa: E402

HEAD = {
    "device": "Made-up Device/9000",
    "driver": "none",
    "date": "2026-01-01",
    "command": "x",
    "surroundings": {"commit": "unknown", "system": "x", "versions": {}},
    "skipped": {},
}


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """Let `gc.collect`, which each row calls, pass over what older tests have left."""
    gc.freeze()
    yield
    gc.unfreeze()


def measured(engine: engines.Engine, seconds: float = 60.0) -> dict[str, Any]:
    result = dict(HEAD)
    run.Run([engine], run.REHEARSAL, seconds, result, lambda line: None)()
    return result


def failures(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = result["ceilings"] + result["rows"] + result["questions"]
    return [row for row in rows if "error" in row or "skipped" in row]


def check_rows(result: dict[str, Any], library: str) -> None:
    problems = len(run.REHEARSAL.cases) * len(methods.METHODS)
    rows = [row for row in result["rows"] if row["library"] == library]
    assert len(rows) == problems
    for row in rows:
        u = 2.0**-53 if row["dtype"] == "float64" else 2.0**-24
        assert row["seconds"] > 0
        assert 0 < row["residual"] < 100 * u / row["relative_damping"]
        assert row["fraction"] > 0
        assert row["memory_over_S"] is None or row["memory_over_S"] > 0
        assert row["ratio_to_chol"] == 1 or row["method"] != "chol"
    whats = {row["what"] for row in result["ceilings"] if row["library"] == library}
    assert {"copy", "gemm float64", "gemm float32 in TF32"} <= whats
    asked = [row["question"] for row in result["questions"] if row["library"] == library]
    assert asked == [title for title, _, libraries in questions.QUESTIONS if library in libraries]
    assert all(row["answer"] and row["numbers"] for row in result["questions"])


# Questions that are asked of torch too, and that JAX compiles for a long time.
COMPILED_FOR_LONG = (
    questions.decomposition_costs,
    questions.tf32_decomposition,
    questions.stacked_layers,
    questions.toeplitz_switch,
)


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take fewer samples, and do not ask JAX all questions."""
    asked = [
        (title, ask, tuple(n for n in names if n != "jax" or ask not in COMPILED_FOR_LONG))
        for title, ask, names in questions.QUESTIONS
    ]
    monkeypatch.setattr(questions, "QUESTIONS", tuple(asked))
    monkeypatch.setattr(engines, "_SAMPLES", 3)
    monkeypatch.setattr(engines, "_SAMPLE_SECONDS", 1e-4)


@pytest.mark.skipif(not has_module("torch") and not has_module("jax"), reason="torch or JAX")
@pytest.mark.parametrize("length", ["short", pytest.param("full", marks=pytest.mark.slow)])
def test_rehearsal(
    length: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if length == "short":
        shorten(monkeypatch)
    assert command.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rehearsal.json", "rehearsal.md"]
    text = (tmp_path / "rehearsal.json").read_text(encoding="utf-8")
    result = json.loads(text)
    assert result["finished"]
    assert result["command"] == "python -m asv_benchmarks.gpu --device cpu"
    assert result["libraries"].keys() == {n for n in ("torch", "jax") if has_module(n)}
    assert result["libraries"].keys() | result["skipped"].keys() == {"cupy", "torch", "jax"}
    assert not failures(result)
    for name, facts in result["libraries"].items():
        assert {"device", "version", "cuda", "clock", "memory", "svd"} <= facts.keys()
        check_rows(result, name)
    assert str(tmp_path) not in text
    page = (tmp_path / "rehearsal.md").read_text(encoding="utf-8")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len([line for line in tables if "| svda |" in line]) == len(
        [row for row in result["rows"] if row["method"] == "svda"]
    )
    assert "| cupy | has no CPU to rehearse on |" in page
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > len(result["rows"])


def test_one_line_where_there_is_no_gpu() -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "asv_benchmarks.gpu"],
        cwd=ROOT,
        env=os.environ | hidden,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu-bench: no library sees a GPU")
    assert all(f"{name} " in line for name in ("cupy", "torch", "jax"))


def test_a_library_that_is_not_installed_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cupy", "torch", "jax"):
        monkeypatch.setitem(sys.modules, name, None)
    opened, skipped = engines.open_engines("gpu")
    assert not opened
    assert skipped.keys() == {"cupy", "torch", "jax"}
    assert all(reason.startswith("not installed") for reason in skipped.values())


def test_result_files_are_whole_and_named_after_the_device(tmp_path: Path) -> None:
    empty = {"libraries": {}, "methods": {}, "ceilings": [], "rows": [], "questions": []}
    result = HEAD | empty | {"finished": False, "seconds": 1.0, "bad": [float("nan")]}
    paths = report.write(result, tmp_path / "new", result["device"])
    assert [p.name for p in paths] == ["made-up-device-9000.json", "made-up-device-9000.md"]
    assert {p.name for p in (tmp_path / "new").iterdir()} == {p.name for p in paths}
    assert json.loads(paths[0].read_text(encoding="utf-8"))["bad"] == ["nan"]
    assert "(not finished)" in paths[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
def test_seconds_that_are_none(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--seconds", seconds])
    assert left.value.code == 2
    assert "argument --seconds: must be a finite number of seconds > 0" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x"])
def test_output_that_cannot_be_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delattr(command, "open_engines")  # nothing is started
    assert command.main(["--output", str(tmp_path / place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gpu-bench: cannot write into {tmp_path / place} (")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(("visible", "used"), [("", "0"), ("3,1", "3"), ("GPU-8f2a", "GPU-8f2a")])
def test_driver_is_asked_about_the_device_in_use(
    visible: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(report, "_said_by", lambda *words: words)
    assert report.driver()[:3] == ("nvidia-smi", "-i", used)


def test_rows_in_single_precision_measure_the_method_of_single_precision() -> None:
    """ "auto" stays there from damping = 256 u |S|_F^2 on; one row shows what climbing costs."""
    single = [case for case in run.FULL.cases if case.dtype in ("float32", "complex64")]
    climbing = [case for case in single if case.damping < 256 * 2.0**-24 * case.n * case.m]
    assert len(climbing) == 1
    assert len(single) > 5
    small = methods.single_case(64, 4096, "float32")
    S = np.random.default_rng(0).standard_normal((small.n, small.m)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ngdla.PrecisionWarning)
        step = methods.METHODS["chol"].step(Made(), small.damping)
        step(S, S[0, ...])


def test_what_takes_minutes_is_left_out(cupy: engines.CupyEngine) -> None:
    result = dict(HEAD)
    large = methods.Case(run._LARGE, 8, "float64")
    plan = run.REHEARSAL._replace(cases=(large, *run.REHEARSAL.cases), slow=False)
    benchmark = run.Run([cupy], plan, 0.0, result, lambda line: None)
    benchmark()
    done = [(row["n"], row["method"]) for row in result["rows"]]
    assert not [method for _, method in done if method == "svda"]
    assert {n for n, method in done if method == "eigh"} == {case.n for case in plan.cases[1:]}


def test_reports_say_which_times_include_a_host_read() -> None:
    for name in ("chol", "unrefined", "eigh"):
        assert "one host read of check=True for CuPy and torch" in methods.METHODS[name].what


HANGING = """
import sys, time
from asv_benchmarks.gpu import __main__ as command, methods
from test_gpu_bench import Made

hanging = methods.METHODS[sys.argv[1]]._replace(step=lambda *_: time.sleep(60))
methods.METHODS[sys.argv[1]] = hanging
command.GRACE = 0.0
command.open_engines = lambda device: ([Made()], {})
command.main(["--device", "cpu", "--seconds", "2", "--output", sys.argv[2]])
"""


class Made(engines.Engine):
    """NumPy, whose clock says what it likes."""

    name, clock, memory, svd = "made", "none", "none", "none"

    def normal(self, shape: tuple[int, ...], dtype: str, seed: int) -> Any:
        return np.random.default_rng(seed).standard_normal(shape).astype(dtype)

    def elapsed(self, function: Any, *arrays: Any, calls: int) -> float:
        return 1e-3

    def extra_memory(self, function: Any, *arrays: Any) -> None:
        return None

    def tf32(self) -> Any:
        return contextlib.nullcontext()

    def device(self) -> str:
        return "made"

    def facts(self) -> dict[str, Any]:
        return self._described(version="0", cuda="none")


@pytest.mark.parametrize(
    ("method", "before", "code"),
    [("eigh", ["chol", "native", "chol", "native", "unrefined", "plain"], 0), ("chol", [], 1)],
)
def test_a_row_that_hangs_is_cut_off(
    method: str, before: list[str], code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING, method, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "gpu-bench: out of time: the row under way was cut off"
    assert len(lines) == 1 + code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rehearsal.json", "rehearsal.md"]
    result = json.loads((tmp_path / "rehearsal.json").read_text(encoding="utf-8"))
    assert not result["finished"]
    assert [row["method"] for row in result["rows"]] == before


def test_a_run_that_measured_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "open_engines", lambda device: ([Made()], {}))
    arguments = ["--device", "cpu", "--seconds", "1e-9", "--output", str(tmp_path)]
    assert command.main(arguments) == 1
    assert capsys.readouterr().err == "gpu-bench: no row was measured; the result says why\n"


# ------------------------------------------------------------------ NumPy in CuPy's place


class MemoryHook:
    """Every allocation is reported by the test itself."""

    active: MemoryHook | None = None

    def __enter__(self) -> MemoryHook:
        MemoryHook.active = self
        return self

    def __exit__(self, *_: Any) -> None:
        MemoryHook.active = None


class Event:
    clock = 0.0

    def record(self) -> None:
        Event.clock += 1.0  # milliseconds
        self.time = Event.clock

    def synchronize(self) -> None:
        pass


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> engines.CupyEngine:
    """An engine whose CuPy is NumPy: ngdla itself takes its NumPy paths."""
    monkeypatch.setattr(engines, "_SAMPLES", 3)

    def syrk(trans: str, a: np.ndarray, out: np.ndarray, lower: bool) -> np.ndarray:
        out[...] = np.tril(a @ a.T)
        return out

    def gesvda(A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert A.flags.f_contiguous
        U, s, Vh = np.linalg.svd(A, full_matrices=False)
        return U, s, Vh.conj().T

    runtime = types.SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda number: {"name": b"NumPy"},
        runtimeGetVersion=lambda: 13010,
        memGetInfo=lambda: (10**9, 10**9),
    )
    fake: Any = types.ModuleType("cupy")
    fake.__version__, fake.ndarray = "0", type("ndarray", (), {})
    fake.cuda = types.SimpleNamespace(
        Event=Event,
        MemoryHook=MemoryHook,
        Device=lambda: types.SimpleNamespace(synchronize=lambda: None),
        get_elapsed_time=lambda start, end: end.time - start.time,
        is_available=lambda: True,
        runtime=runtime,
    )
    fake.random = types.SimpleNamespace(default_rng=np.random.default_rng)
    fake.linalg, fake.empty, fake.zeros, fake.tril = np.linalg, np.empty, np.zeros, np.tril
    fake.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    fake.cublas = types.SimpleNamespace(syrk=syrk)
    routines = types.SimpleNamespace(
        COMPUTE_TYPE_TF32=7, get_compute_type=lambda d: 4, set_compute_type=lambda d, value: None
    )
    fake._core = types.SimpleNamespace(_routines_linalg=routines)
    modules = {
        "cupy": fake,
        "cupy.cublas": fake.cublas,
        "cupy._core": fake._core,
        "cupy._core._routines_linalg": routines,
        "cupyx": types.SimpleNamespace(),
        "cupyx.cusolver": types.SimpleNamespace(gesvda=gesvda),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return engines.CupyEngine()


def test_cupy_engine(cupy: engines.CupyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy, "extra_memory", lambda function, *arrays: 1)
    result = measured(cupy)
    assert not failures(result)
    check_rows(result, "cupy")
    (gram,) = (r for r in result["questions"] if "Gram matrix is the fastest" in r["question"])
    assert all("ngdla syrk" in row["seconds"] for row in gram["numbers"])


def test_cupy_memory_is_the_high_water_mark(cupy: engines.CupyEngine) -> None:
    def function() -> None:
        hook: Any = MemoryHook.active
        hook.malloc_postprocess(mem_size=512, mem_ptr=1)
        hook.malloc_postprocess(mem_size=1024, mem_ptr=2)
        hook.free_postprocess(mem_size=1024, mem_ptr=2)
        hook.malloc_postprocess(mem_size=512, mem_ptr=3)
        hook.malloc_postprocess(mem_size=10**12, mem_ptr=0)  # it failed

    assert cupy.extra_memory(function) == 1536


def test_cupy_time_is_that_between_events(cupy: engines.CupyEngine) -> None:
    assert cupy.elapsed(lambda: None, calls=3) == pytest.approx(1e-3)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_have_the_size_of_other_libraries(
    cupy: engines.CupyEngine, dtype: str
) -> None:
    opened = [cupy, *engines.open_engines("cpu")[0]]
    for engine in opened:
        z = np.asarray(engine.normal((100, 100), dtype, 0))
        assert z.dtype == dtype
        assert np.mean(np.abs(z) ** 2) == pytest.approx(1.0, abs=0.05), engine.name


# --------------------------------------------------------------------- what goes wrong


def test_spent_time_is_a_reason(cupy: engines.CupyEngine) -> None:
    result = measured(cupy, seconds=0.0)
    assert result["finished"]
    assert len(result["rows"]) == len(run.REHEARSAL.cases) * len(methods.METHODS)
    for row in result["ceilings"] + result["rows"] + result["questions"]:
        assert row["skipped"] == "the time of this run is spent"
    assert "skipped: the time" in report.markdown(result)


def test_a_row_that_would_take_too_long_is_not_begun(
    cupy: engines.CupyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy, "median", lambda *_, **__: 1e6)
    result = measured(cupy)
    chol = [row for row in result["rows"] if row["method"] == "chol"]
    assert "seconds" in chol[0]
    assert all("by its pace so far it takes" in row["skipped"] for row in chol[1:])


def test_a_row_that_does_not_fit_is_not_begun(
    cupy: engines.CupyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy, "free_bytes", lambda: 1000)
    assert all("GB are free" in row["skipped"] for row in measured(cupy)["rows"])


def test_a_failure_is_a_row_and_the_run_goes_on(
    cupy: engines.CupyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(engine: engines.Engine, damping: float) -> Any:
        msg = "cusolver | said\nno"
        raise MemoryError(msg)

    broken = methods.METHODS["eigh"]._replace(step=fails)
    monkeypatch.setitem(methods.METHODS, "eigh", broken)
    result = measured(cupy)
    for row in result["rows"]:
        if row["method"] == "eigh":
            assert row["error"] == "MemoryError: cusolver | said no"
        else:
            assert "seconds" in row
    assert r"failed: MemoryError: cusolver \| said no" in report.markdown(result)
