"""The benchmarks without a clock: what they read, write and run on, and say of what is missing."""

import base64
import copy
import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "asv_benchmarks"))

import bench
import doors_picture
import front_page
import measure
import misses
import offline_site
import peers_picture
import results
import spin_chains_picture
from benchmarks import (
    call_list,
    company,
    damped_solve,
    gram,
    libraries,
    measuring,
    precision,
    randomized_eigh,
    spectra,
    stochastic_reconfiguration,
    structured_steps,
)
from claims import company as company_claim
from claims import methods
from claims import peers as peers_claim
from claims import precision as precision_claim
from claims import spin_chains as spin_chains_claim

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "asv_benchmarks"

RESULT = {
    "environment": {
        "command": "python asv_benchmarks/measure.py gram",
        "date": "2030-01-31",
        "commit": "0123456789ab",
        "processor": "A processor",
        "cores": 4,
        "threads": 2,
        "system": "Linux",
        "python": "3.11.0",
        "versions": {"ngdla": "0.1.0", "numpy": "2.4.0", "scipy": "1.17.0"},
        "blas": "openblas 0.3",
    },
    "rows": [
        {"what": "met", "value": 2.5, "unit": "ratio", "at_least": 2.0, "at_most": None},
        {"what": "missed", "value": 7, "unit": "seconds", "at_least": None, "at_most": 5},
        {"what": "no target", "value": 1.25, "unit": "ratio", "at_least": None, "at_most": None},
    ],
}


# ----------------------------------------------------------------------------- result files


def changed(*path, value=None):
    """Return RESULT with one entry replaced, or removed where no value is given."""
    result = copy.deepcopy(RESULT)
    *outer, last = path
    place = result
    for key in outer:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(result)


DAMAGED = {
    "empty": ("", "is not whole JSON"),
    "cut off": (json.dumps(RESULT)[:200], "is not whole JSON"),
    "a list": ("[]", "the whole that is not an object"),
    "no environment": (changed("environment"), "has no `environment`"),
    "environment is text": (changed("environment", value="here"), "`environment` that is not"),
    "no commit": (changed("environment", "commit"), "has no `environment.commit`"),
    "threads are text": (changed("environment", "threads", value="2"), "not a whole number: '2'"),
    "threads are true": (changed("environment", "threads", value=True), "not a whole number: True"),
    "a version is a number": (
        changed("environment", "versions", value={"numpy": 2.4}),
        "`environment.versions.numpy` that is not a string: 2.4",
    ),
    "no rows": (changed("rows"), "has no `rows`"),
    "rows are empty": (changed("rows", value=[]), "has no list of `rows`"),
    "rows are an object": (changed("rows", value={"a": 1}), "has no list of `rows`"),
    "a row is text": (changed("rows", 1, value="x"), "`rows[1]` that is not an object"),
    "a row has no value": (changed("rows", 1, "value"), "has no `rows[1].value`"),
    "a value is text": (changed("rows", 1, "value", value="7"), "`rows[1].value` that is not a"),
    "a value is NaN": (changed("rows", 1, "value", value=np.nan), "holds NaN"),
    "a value is infinite": (changed("rows", 1, "value", value=-np.inf), "holds -Infinity"),
    "a value is out of range": (
        changed("rows", 1, "value", value=7).replace("7", "1e999"),
        "finite",
    ),
    "no target": (changed("rows", 0, "at_least"), "has no `rows[0].at_least`"),
    "a target is text": (changed("rows", 0, "at_least", value="2"), "`rows[0].at_least` that is"),
    "details are text": (json.dumps(RESULT | {"details": "x"}), "`details` that are neither"),
    "NaN in the details": (json.dumps(RESULT | {"details": [np.nan]}), "holds NaN"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_result_is_named_with_its_remedy(tmp_path, damage):
    text, complaint = DAMAGED[damage]
    path = tmp_path / "gram.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(results.DamagedResultError) as caught:
        results.read(path)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith(str(path))
    assert message.endswith("make it anew with: python asv_benchmarks/measure.py gram")
    assert "\n" not in message


def test_result_that_is_no_text_or_is_not_there(tmp_path):
    path = tmp_path / "gram.json"
    with pytest.raises(results.DamagedResultError, match="cannot be read"):
        results.read(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(results.DamagedResultError, match="not text in UTF-8"):
        results.read(path)


def test_result_survives_writing_and_reading(tmp_path):
    path = tmp_path / "gram.json"
    results.write(path, RESULT | {"details": [1, 2]})
    assert results.read(path) == RESULT | {"details": [1, 2]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["gram.json"]


@pytest.mark.parametrize("bad", [{"details": [np.nan]}, {"rows": []}])
def test_what_cannot_be_read_is_not_written(tmp_path, bad):
    path = tmp_path / "gram.json"
    results.write(path, RESULT)
    with pytest.raises(results.DamagedResultError):
        results.write(path, RESULT | bad)
    assert results.read(path) == RESULT


def test_crash_while_writing_leaves_the_old_result(tmp_path, monkeypatch):
    path = tmp_path / "gram.json"
    results.write(path, RESULT)

    def full_disk(self, text, encoding):
        self.write_bytes(text[: len(text) // 2].encode(encoding))
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        results.write(path, RESULT | {"details": [1]})
    assert results.read(path) == RESULT


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "measured").glob("*.json")), ids=str)
def test_recorded_results_are_whole(path):
    assert results.read(path)["environment"]["command"].startswith("python asv_benchmarks/")


# ----------------------------------------------------------------------------------- tables


def test_claims_table():
    environment = (
        "A processor, 2 threads, openblas 0.3; numpy 2.4.0, scipy 1.17.0. "
        "The result files in `asv_benchmarks/measured/` carry commands and dates."
    )
    assert results.claims_table([RESULT]).splitlines() == [
        "| what | measured |",
        "| --- | --- |",
        "| met | 2.5 (met: at least 2) |",
        "| missed | 7 seconds (missed: at most 5) |",
        "| no target | 1.25 |",
        "",
        environment,
    ]


def test_table_of_no_results_is_its_head():
    assert results.claims_table([]) == "| what | measured |\n| --- | --- |"


MEASURED = {name: results.read(BENCHMARKS / "measured" / f"{name}.json") for name in measure.CLAIMS}


def test_front_page_has_ten_figures_that_are_recorded():
    table, summary = front_page.front_table(MEASURED).split("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + 10
    for line, figure in zip(lines[2:], front_page.FIGURES):
        for what, unit in figure.rows.items():
            row = front_page.claim(MEASURED, figure.file, what)
            assert f"{row['value']:.3g} {unit}".rstrip() in line
            assert ("missed" in line) or ("missed" not in results.verdict(row))
    missed = sum("missed" in results.verdict(row) for r in MEASURED.values() for row in r["rows"])
    assert f" {missed} of " in summary


@pytest.mark.parametrize("loss", ["file", "row"])
def test_a_figure_that_is_not_recorded_is_named(loss):
    found = copy.deepcopy(MEASURED)
    if loss == "file":
        del found["online_eigh"]
    else:
        found["online_eigh"]["rows"] = found["online_eigh"]["rows"][1:]
    with pytest.raises(results.DamagedResultError, match=r"measure\.py online_eigh"):
        front_page.front_table(found)


def test_every_miss_is_explained_and_nothing_else():
    explained = [(miss.file, miss.what) for miss in misses.MISSES]
    assert len(set(explained)) == len(explained)
    assert set(explained) == set(misses.missed_rows(MEASURED))
    assert all(miss.why.endswith(".") for miss in misses.MISSES)
    table = misses.misses_table(MEASURED).splitlines()
    assert len(table) == 2 + len(explained)


def test_a_new_miss_has_no_reason_yet():
    table = misses.misses_table({"new": RESULT})
    assert table.splitlines()[2:] == ["| missed | 7 seconds (target: at most 5) | Not known. |"]


def test_bars_of_the_picture_are_the_least_favourable_ratios():
    details = MEASURED["peers"]["details"]
    bars = peers_picture.bars(MEASURED["peers"])
    assert len(bars) == 8
    assert list(bars.values()) == sorted(bars.values(), reverse=True)
    for row in details:
        if row["dtype"] == "float64" and "skipped" not in row:
            assert bars[peers_picture.SOLVERS.get(row["peer"], row["peer"])] <= row["ratio"]
    assert set(bars.values()) <= {row["ratio"] for row in details if row["dtype"] == "float64"}
    assert min(bars.values()) == MEASURED["peers"]["rows"][0]["value"]


def test_the_picture_is_made_of_the_recorded_ratios(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    assert peers_picture.PICTURE.stat().st_size < 60_000
    with pillow.open(peers_picture.PICTURE) as picture:
        assert picture.text["Description"] == peers_picture.description(MEASURED["peers"])
    pytest.importorskip("matplotlib")
    peers_picture.draw(MEASURED["peers"], tmp_path / "peers.png")
    with pillow.open(tmp_path / "peers.png") as picture:
        assert picture.text["Description"] == peers_picture.description(MEASURED["peers"])


def test_readme_shows_the_recorded_claims(monkeypatch, tmp_path):
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    monkeypatch.setattr(measure, "README", readme)
    measure.write_table()
    assert readme.read_bytes() == (ROOT / "README.md").read_bytes()


def test_measure_ends_with_one_line_on_a_damaged_result(monkeypatch, tmp_path, capsys):
    (tmp_path / "gram.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(measure, "measured_file", lambda name: tmp_path / f"{name}.json")
    monkeypatch.setattr(sys, "argv", ["measure.py", "--tables"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert measure.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("ngdla: ")
    assert "measure.py gram" in said[0]


@pytest.fixture
def small_methods(monkeypatch):
    """Measure the methods on matrices so small that the times mean nothing."""
    shapes = [(8, 60), (60, 8)]
    cases = [methods.Case(shape, dtype, "numpy") for shape in shapes for dtype in methods.DAMPINGS]
    monkeypatch.setattr(methods, "CASES", tuple(cases))
    monkeypatch.setattr(methods, "LARGEST", cases[0])
    monkeypatch.setattr(methods, "REPEATS", dict.fromkeys(shapes, 1))
    methods.table.cache_clear()
    yield methods
    methods.table.cache_clear()


def test_methods_are_as_accurate_as_their_precision(small_methods):
    rows = small_methods.details()
    assert len(rows) == 16
    for row in rows:
        tolerance = {"float64": 1e-11, "float32": 1e-4}[row["dtype"]]
        assert row["error, mild damping"] < tolerance
        assert row["extra memory over n m numbers"] > 0
        assert np.isfinite(row["seconds"])
    results.require_result(RESULT | {"details": rows})


def test_methods_table(small_methods):
    tables = results.methods_table({"details": small_methods.details()}).split("\n\n")
    assert len(tables) == 4
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 2 + 4
        assert len({line.count("|") for line in lines}) == 1
        assert lines[2].startswith("| `cholesky` | 1 | ")
    assert tables[0].startswith("| 8 x 60 float64, numpy | time | memory | λ/σ₁² = 1e‑04 | ")


def test_method_that_gives_up_is_said():
    row = {"tiny damping": 1e-15, "error, tiny damping": None, "outcome, tiny damping": "raised"}
    assert results.outcome(row, "tiny") == "– (raised)"


# ---------------------------------------------------------------------- precision and peers


@pytest.fixture
def small_precision(monkeypatch):
    """Measure precisions on a small matrix, on NumPy alone, and no times at all."""
    shape = (8, 60)
    cases = (
        precision_claim.Case(shape, "numpy", ("auto", "qr")),
        precision_claim.Case(shape, "no library", ("auto",)),
    )
    monkeypatch.setattr(precision_claim, "CASES", cases)
    monkeypatch.setattr(precision_claim, "LARGE", shape)
    monkeypatch.setattr(precision_claim, "SMALL", shape)
    monkeypatch.setattr(precision_claim, "TIMED", shape)
    monkeypatch.setattr(precision_claim, "TIMED_LIBRARIES", ("numpy", "no library"))
    monkeypatch.setattr(precision_claim, "alternating", without_a_clock)
    monkeypatch.setitem(libraries.LIBRARIES, "no library", absent)
    caches = [getattr(precision_claim, name) for name in ("table", "timing", "timed_problem")]
    for cached in caches:
        cached.cache_clear()
    yield precision_claim
    for cached in caches:
        cached.cache_clear()


def absent():
    raise NotImplementedError("no library is not installed")


def test_reference_is_exact():
    S, f, v = spectra.spectrum_problem((8, 60))
    reference = spectra.Reference(S)
    for damping in (1e-2, 1e-6):
        A = S.T @ S + damping * np.eye(60)
        x = reference.lstsq(f, damping).astype(float)
        assert np.linalg.norm(A @ x - S.T @ f) <= 1e-14 * np.linalg.norm(f)
        x = reference.solve(v, damping).astype(float)
        assert np.linalg.norm(A @ x - v) <= 1e-14 * np.linalg.norm(v) / damping
    assert reference.error(2 * x, x) == 1


def test_precisions_are_recorded(small_precision):
    details = small_precision.details()
    assert len(details["rows"]) == 2 * (3 + 4) * 3
    for row in details["rows"]:
        assert len(row["error"]) == len(row["length"]) == len(row["said"]) == 6
        assert row["error"][0] < {"float64": 1e-13, "float32": 1e-5}[row["dtype"]]
        assert set(row["said"]) <= {"converged", "not converged", "raised"}
    assert small_precision.track_wrong_steps() == 0
    (timing,) = details["timings"]
    assert set(timing["seconds"]) == set(timing["error"])
    assert small_precision.track_mixed_numpy() == 1
    results.require_result(RESULT | {"details": details})


def test_precision_tables(small_precision):
    details = small_precision.details()
    for row in details["rows"]:
        row["n"] = 512
    rows = results.precision_table({"details": details}).splitlines()
    assert len(rows) == 2 + (3 + 4) * 3
    for row in details["rows"]:
        row["n"] = 128
    rows += results.libraries_table({"details": details}).splitlines()
    assert len(rows) == 2 + (3 + 4) * 3 + 2 + 2
    assert rows[0].startswith("| dtype | precision | kind; λ/σ₁² = | 1e‑02 | ")
    rows = results.mixed_table({"details": details}).splitlines()
    assert sum("published" in row for row in rows) == 1


def test_jax_without_x64_runs_in_a_process_of_its_own(monkeypatch):
    pytest.importorskip("jax")
    given = []

    def run(command, *, env, **options):
        given.append((command[-1], env["JAX_ENABLE_X64"]))
        return subprocess.CompletedProcess(command, 0, stdout=b"[]")

    monkeypatch.setattr(precision_claim.subprocess, "run", run)
    for name in precision_claim.WITHOUT_X64:
        case = precision_claim.Case((8, 60), name, ("auto",))
        assert precision_claim.measured(case) == []
    assert given == [(name, "0") for name in precision_claim.WITHOUT_X64]


@pytest.fixture
def small_peers(monkeypatch):
    """Compare with peers on a small matrix without a clock."""
    monkeypatch.setattr(peers_claim, "SHAPE", (8, 60))
    monkeypatch.setattr(peers_claim, "alternating", without_a_clock)
    caches = (peers_claim.table, peers_claim.problem)
    for cached in caches:
        cached.cache_clear()
    yield peers_claim
    for cached in caches:
        cached.cache_clear()


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.environment
def test_peers_solve_the_same_problem_or_say_why_not(small_peers, monkeypatch):
    here = [
        *(peer for peer in small_peers.PEERS if peer.library == "numpy"),
        small_peers.Peer("nobody", "no-such-package", "numpy", lambda: None),
    ]
    monkeypatch.setattr(small_peers, "PEERS", here)
    rows = small_peers.details()
    assert len(rows) == len(here)
    assert rows[-1]["skipped"] == "no-such-package is not installed"
    compared = [row for row in rows if "skipped" not in row]
    assert len(compared) >= 2
    for row in compared:
        assert row["peer error"] < 1e-10
        assert row["ngdla error"] < 1e-12
    table = results.peers_table({"details": rows}).splitlines()
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1
    results.require_result(RESULT | {"details": rows})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", peers_claim.PEERS, ids=lambda peer: f"{peer.name} {peer.package}")
def test_peer_on_jax(peer, small_peers):
    if peer.library == "numpy":
        pytest.skip("not on JAX")
    for dtype in peer.dtypes:
        try:
            row = small_peers.compared(peer, dtype)
        except NotImplementedError as reason:
            pytest.skip(str(reason))
        assert row["ngdla error"] <= max(row["peer error"], 1e-13)


@pytest.fixture
def small_spin_chains(monkeypatch):
    """Measure steps on chains of six spins, from one seed, and no other library."""
    small = {"SITES": 6, "SAMPLES": 24, "SEEDS": (0,), "DAMPINGS": (1e-3, 1e-6, 1e-9)}
    for name, value in small.items():
        monkeypatch.setattr(spin_chains_claim, name, value)
    monkeypatch.setattr(spin_chains_claim, "optional", lambda name: absent())
    monkeypatch.setattr(spin_chains_claim, "installed", lambda name: absent())
    caches = [getattr(spin_chains_claim, name) for name in ("table", "problem", "spectrum")]
    for cached in caches:
        cached.cache_clear()
    yield spin_chains_claim
    for cached in caches:
        cached.cache_clear()


def test_steps_on_spin_chains_are_right_or_said_to_be_wrong(small_spin_chains):
    details = small_spin_chains.details()
    assert len(details["rows"]) == 2 * 5
    assert [row for row in details["rows"] if "skipped" in row] == details["rows"][4::5]
    assert small_spin_chains.track_given_f() <= 2e-6
    assert small_spin_chains.track_row_space() <= 2e-2
    assert small_spin_chains.track_silently_wrong() == 0
    assert small_spin_chains.track_silently_wrong_hermitian() == 0
    with pytest.raises(NotImplementedError):
        small_spin_chains.track_netket()
    results.require_result(RESULT | {"details": details})
    table = results.spin_chains_table({"details": details}).splitlines()
    assert len(table) == 2 + 2 * 4 + 2


def test_largest_of_seeds():
    row = {"chain": "a", "solver": "b", "said": ["converged", "raised"], "error": [1.0, None]}
    rows = [row, row | {"said": ["converged, warned", "nothing"], "error": [2.0, 3.0]}]
    found = results.largest_of_seeds({"details": {"rows": rows}})
    assert found == {("a", "b"): [(2.0, True), (np.inf, False)]}


@pytest.mark.parametrize("picture", [spin_chains_picture, doors_picture], ids=["chains", "doors"])
def test_pictures_are_made_of_the_recorded_errors(picture, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    recorded = MEASURED[picture.PICTURE.stem]
    made = picture.description(recorded)
    assert picture.PICTURE.stat().st_size < 100_000
    with pillow.open(picture.PICTURE) as image:
        assert image.text["Description"] == made
    pytest.importorskip("matplotlib")
    picture.draw(recorded, tmp_path / "picture.png")
    with pillow.open(tmp_path / "picture.png") as image:
        assert image.text["Description"] == made


# ----------------------------------------------------------------------------------- claims


@pytest.mark.parametrize("name", measure.MODULES)
def test_every_claim_is_described(name):
    module = importlib.import_module(f"claims.{name}")
    claims = [value for key, value in vars(module).items() if key.startswith("track_")]
    assert claims
    for claim in claims:
        assert claim.what
        assert claim.unit
        assert claim.at_least is None or claim.at_most is None
    assert len({claim.what for claim in claims}) == len(claims)


def test_every_file_of_claims_is_measured():
    files = {path.stem for path in (BENCHMARKS / "claims").glob("*.py")}
    assert files - {"__init__", "tracked"} == set(measure.MODULES)


@pytest.fixture
def small_company(monkeypatch):
    """Ask two processes for one call, once each."""
    name = "gram 160 x 900, float64"
    monkeypatch.setattr(company_claim, "CALLS", {name: company_claim.CALLS[name]})
    monkeypatch.setattr(company_claim, "ROUNDS", 1)
    monkeypatch.setattr(company_claim, "numbers", lambda: [1, 2])
    company_claim.milliseconds.cache_clear()
    yield company_claim
    company_claim.milliseconds.cache_clear()


def test_each_number_of_threads_has_a_process(small_company):
    details = small_company.details()
    assert len(details["calls"]) == 1
    assert {row["threads"] for row in details["times"]} == {1, 2}
    assert len(details["times"]) == 2 * len(company.COMPANY)
    assert all(row["ms"] > 0 for row in details["times"])
    assert small_company.track_alone() == small_company.track_median_alone() > 0
    results.require_result(RESULT | {"details": details})


def test_one_processor_has_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(company_claim.os, "cpu_count", lambda: 1)
    with pytest.raises(NotImplementedError, match="one processor"):
        company_claim.track_alone()


# ------------------------------------------------------------------------------ asv classes

CLASSES = [
    value
    for module in (
        damped_solve,
        gram,
        precision,
        randomized_eigh,
        stochastic_reconfiguration,
        structured_steps,
    )
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__
]


def measures(cls, *prefixes):
    return [function for name, function in inspect.getmembers(cls) if name.startswith(prefixes)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_asv_class_says_what_it_measures(cls):
    assert len(cls.params) == len(cls.param_names)
    assert all(cls.params)
    assert cls.timeout
    assert cls.__doc__
    tracks = measures(cls, "track_")
    assert tracks
    assert all(track.unit for track in tracks)


def without_a_clock(functions, repeats):
    for function in functions.values():
        function()
    return dict.fromkeys(functions, 1.0)


# What traces takes seconds for a class, and all of them reach it in the same way.
@pytest.mark.parametrize(
    ("cls", "library"),
    [
        pytest.param(cls, library, marks=() if quick else pytest.mark.slow)
        for cls in CLASSES
        if issubclass(cls, libraries.LibraryBenchmark)
        for library in libraries.LIBRARIES
        for quick in (cls is gram.Gram or not library.startswith(("jax", "dask")),)
    ],
)
def test_asv_class_runs_on_every_library_or_is_skipped(cls, library, monkeypatch):
    for module in (libraries, gram, randomized_eigh, structured_steps):
        monkeypatch.setattr(module, "alternating", without_a_clock)
    for dtype in cls.params[2]:
        case = ("8 x 60", library, dtype)
        benchmark = cls()
        try:
            benchmark.setup(*case)
        except NotImplementedError as reason:
            pytest.skip(str(reason))
        for function in measures(benchmark, "time_", "peakmem_"):
            assert function(*case) is None
        residual = benchmark.track_relative_residual(*case)
        assert residual < {"float32": 1e-4, "complex64": 1e-4}.get(dtype, 1e-10)
        for track in measures(benchmark, "track_"):
            assert 0 <= track(*case) <= 1


@pytest.mark.parametrize("name", call_list.CALLS)
def test_listed_calls_run(name):
    assert call_list.prepared(name)() is not None


@pytest.mark.parametrize("after", company.COMPANY)
@pytest.mark.parametrize("threads", company.InCompany.params[2])
def test_a_call_in_company(after, threads):
    case = ("gram 160 x 900, float64", after, threads)
    benchmark = company.InCompany()
    benchmark.setup(*case)
    assert benchmark.time_call(*case) is None
    benchmark.teardown(*case)


@pytest.mark.parametrize("cls", [company.InCompany, company.Launches, company.Compiled])
def test_classes_in_company_say_what_they_measure(cls):
    assert len(cls.params) == len(cls.param_names)
    assert cls.timeout
    assert cls.__doc__
    assert all(track.unit for track in measures(cls, "track_"))


def test_launches_are_counted(monkeypatch):
    pytest.importorskip("torch")
    name = "gram 160 x 900, float64"
    monkeypatch.setattr(company, "CALLS", {name: None})
    benchmark = company.Launches()
    found = benchmark.setup_cache()
    assert benchmark.track_kernels(found, name) > 1
    assert benchmark.track_reads(found, name) == 1


def test_nothing_is_counted_without_libraries(monkeypatch):
    monkeypatch.setattr(company, "optional", lambda name: absent())
    for cls in (company.Launches, company.Compiled):
        benchmark = cls()
        found = benchmark.setup_cache()
        for track in measures(benchmark, "track_"):
            with pytest.raises(NotImplementedError):
                track(found, *(values[0] for values in cls.params))


def test_compiled_steps_hold_less_than_s(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr(company, "ROWS", 16)
    monkeypatch.setattr(company, "COLUMNS", 16_000)
    function, _ = company.JITTED["damped_lstsq"]
    monkeypatch.setattr(company, "JITTED", {"damped_lstsq": (function, 16)})
    benchmark = company.Compiled()
    found = benchmark.setup_cache()
    for precisions in company.Compiled.params[1]:
        case = found, "damped_lstsq", precisions
        assert benchmark.track_operations(*case) > 100
        assert benchmark.track_compilation(*case) > 0
    assert 0 < benchmark.track_temporary_memory(found, "damped_lstsq", "without float64") < 1


@pytest.mark.parametrize("module", [damped_solve, stochastic_reconfiguration])
def test_peers_agree_with_us(module, monkeypatch):
    monkeypatch.setattr(module, "alternating", without_a_clock)
    compared = 0
    for peer in module.AgainstPeers.params[1]:
        benchmark = module.AgainstPeers()
        try:
            benchmark.setup("8 x 60", peer)
        except NotImplementedError:
            continue
        assert benchmark.track_ratio_to_peer("8 x 60", peer) == 1
        compared += 1
    assert compared >= 2


def test_absent_library_is_a_reason_to_skip():
    with pytest.raises(NotImplementedError, match="no_such_library is not installed"):
        measuring.optional("no_such_library")


def test_asv_finds_nothing_wrong():
    pytest.importorskip("asv")
    done = subprocess.run(
        [sys.executable, "-m", "asv", "check", "--python=same"],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


# --------------------------------------------------------------------------- what bench says


def test_bench_needs_asv(monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^ngdla: asv is not installed: pip install"):
        bench.main()


def test_bench_needs_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"^ngdla: git is not installed"):
        bench.checked_out()


def test_bench_needs_a_commit(monkeypatch, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SystemExit, match=r"^ngdla: no commit to file results under \(.*\); mea"):
        bench.checked_out()


@pytest.mark.parametrize(("code", "ends"), [(0, None), (2, 2)])
def test_bench_ends_as_asv_does_and_says_where_results_are(monkeypatch, capsys, code, ends):
    calls = []
    monkeypatch.setattr(bench, "require_asv", lambda: None)
    monkeypatch.setattr(bench, "checked_out", lambda: "0123")
    monkeypatch.setattr(bench, "asv", lambda *call, quiet=False: calls.append(call) or code)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--bench=Gram"])
    try:
        bench.main()
        ended = None
    except SystemExit as stop:
        ended = stop.code
    assert ended == ends
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "results: asv_benchmarks/.asv/results" in capsys.readouterr().out
    assert {"--set-commit-hash=0123", "--bench=Gram"} <= set(calls[-1])


# ----------------------------------------------------------------------------- offline pages


def integrity(content):
    return "sha256-" + base64.b64encode(hashlib.sha256(content).digest()).decode()


FILES = {
    "blueimp-md5@2.19.0": ("js/md5.min.js", b"md5();"),
    "bootstrap@3.1.1": ("dist/css/bootstrap.min.css", b"a {}"),
}
PAGE = f"""<head>
<script src="https://cdn/blueimp-md5/2.19.0/js/md5.min.js" integrity="{integrity(b"md5();")}"
  crossorigin="anonymous" onerror="failed()"></script>
<link rel="stylesheet" href="https://cdn/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css"
  integrity="{integrity(b"a {}")}" crossorigin="anonymous">
<script src="asv.js"></script>
</head>"""


@pytest.fixture
def fetch(tmp_path):
    """Return what stands in for npm."""

    def from_folder(packages):
        assert packages == sorted(FILES)
        for package, (name, content) in FILES.items():
            path = tmp_path / "node_modules" / package.partition("@")[0] / name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return tmp_path / "node_modules"

    return from_folder


def test_pages_need_no_network(fetch, tmp_path):
    page = offline_site.localised(PAGE, fetch, tmp_path / "vendor")
    assert page.splitlines() == [
        "<head>",
        '<script src="vendor/md5.min.js"></script>',
        '<link rel="stylesheet" href="vendor/bootstrap.min.css">',
        '<script src="asv.js"></script>',
        "</head>",
    ]
    assert (tmp_path / "vendor" / "md5.min.js").read_bytes() == b"md5();"


def test_file_with_another_hash_is_named(fetch, tmp_path):
    page = PAGE.replace(integrity(b"md5();"), integrity(b"other"))
    with pytest.raises(SystemExit, match=r"ngdla: md5\.min\.js from npm is not the file with the"):
        offline_site.localised(page, fetch, tmp_path / "vendor")


def test_tag_without_a_hash_is_named(fetch, tmp_path):
    page = re.sub(r'integrity="[^"]*"', "", PAGE)
    with pytest.raises(SystemExit, match=r"ngdla: asv's tag of md5\.min\.js has no hash"):
        offline_site.localised(page, fetch, tmp_path / "vendor")


def test_file_that_the_package_lacks_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"ngdla: .*md5\.min\.js is missing"):
        offline_site.localised(PAGE, lambda packages: tmp_path, tmp_path / "vendor")


def test_address_that_is_not_known_is_named(fetch, tmp_path):
    page = '<script src="https://cdn/new.js"></script>'
    with pytest.raises(SystemExit, match=r"ngdla: asv's page loads https://cdn/new\.js"):
        offline_site.localised(page, fetch, tmp_path / "vendor")


def test_every_address_of_the_installed_asv_is_known():
    asv = pytest.importorskip("asv")
    page = (Path(asv.__file__).parent / "www" / "index.html").read_text(encoding="utf-8")
    addresses = [match[2] for match in offline_site.TAG.finditer(page)]
    assert addresses
    assert len({offline_site.package_of(address) for address in addresses}) == len(addresses)


def test_what_was_never_run_is_not_listed(tmp_path):
    (tmp_path / "gram.Gram.time_gram.json").write_text("[]")
    index = json.dumps({"project": "x", "benchmarks": {"gram.Gram.time_gram": 1, "other": 2}})
    found = json.loads(offline_site.with_results(index, tmp_path))
    assert found == {"project": "x", "benchmarks": {"gram.Gram.time_gram": 1}}


def test_pages_fit_a_telephone(tmp_path):
    page = offline_site.for_narrow_screens("<head><title>x</title></head>", tmp_path)
    assert (tmp_path / "narrow.css").is_file()
    assert f'href="{tmp_path.name}/narrow.css"' in page
    assert page.index("width=device-width") < page.index("</head>")


def test_site_needs_asv_npm_and_results(monkeypatch, tmp_path):
    monkeypatch.setattr(offline_site, "RESULTS", tmp_path)
    monkeypatch.setattr(offline_site.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^ngdla: asv is not installed"):
        offline_site.main()
    monkeypatch.setattr(offline_site.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(offline_site.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit, match=r"^ngdla: no results yet; make bench writes them"):
        offline_site.main()
    monkeypatch.setattr(offline_site.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"^ngdla: npm is not installed"):
        offline_site.main()
