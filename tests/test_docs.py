"""The pages of docs/: examples that run, tables that are made, and no public name left out."""

import doctest
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import ngdla
from ngdla._backend.choices import CHOICES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))

import capability_record  # noqa: E402
import capability_table  # noqa: E402
import excluded_lines  # noqa: E402
import gpu_tables  # noqa: E402
import measured_tables  # noqa: E402
import ranks_model  # noqa: E402
import study_tables  # noqa: E402
import tables  # noqa: E402
from capabilities import (  # noqa: E402
    DERIVATIVES,
    FUNCTIONS,
    LIBRARIES,
    MODES,
    REFUSE_DEFICIENT,
)

PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in ("_build", "auto_examples", "benchmarks")
)

# ------------------------------------------------------------------------------- examples


def examples(page):
    """Return the code of a page, without sections that import a library that is not here."""
    text = (DOCS / page).read_text(encoding="utf-8")
    sections = re.split(r"^#+ (?=[A-Z])", text, flags=re.MULTILINE)
    return "\n".join(map(code, filter(runs_here, sections)))


def runs_here(section):
    imported = re.findall(r"^>>> import (\w+)", section, re.MULTILINE)
    return all(map(importlib.util.find_spec, imported))


def code(section):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in examples(page)])
def test_examples_of_a_page(page):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example = doctest.DocTestParser().get_doctest(examples(page), {}, page, page, 0)
    assert example.examples
    report = []
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)


METHODS = {
    f"{name}.{key}": method
    for name, item in vars(ngdla).items()
    if inspect.isclass(item) and name in ngdla.__all__
    for key, method in vars(item).items()
    if inspect.isfunction(method) and not key.startswith("_") and ">>>" in (method.__doc__ or "")
}


@pytest.mark.parametrize("name", METHODS)
def test_examples_of_methods(name):
    """Doctest does not look into classes that say that they are of another module."""
    method, report = METHODS[name], []
    names = dict(inspect.unwrap(method).__globals__)
    example = doctest.DocTestParser().get_doctest(method.__doc__, names, name, name, 0)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)


def test_pages_with_examples():
    assert {page for page in PAGES if ">>>" in examples(page)} >= {"index.md", "start.md"}


# ------------------------------------------------------------------------------------ API


def test_every_public_name_has_its_entry():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
    directive = r"^\.\. auto(?:function|class|exception|module):: ngdla\.([\w.]+)$"
    entries = re.findall(directive, text, re.MULTILINE)
    inner = [f"structures.{name}" for name in ngdla.structures.__all__]
    inner += [f"distributed.{name}" for name in ngdla.distributed.__all__]
    assert sorted(entries) == sorted([*ngdla.__all__, *inner])


def test_every_paper_that_is_cited_is_in_the_references():
    references = (DOCS / "references.md").read_text(encoding="utf-8")
    sources = [*(ROOT / "ngdla").rglob("*.py"), *DOCS.rglob("*.md"), *DOCS.rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    cited = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", text))
    assert cited
    assert cited <= set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", references))
    keys = re.findall(r"^@\w+\{(\w+),$", references, re.MULTILINE)
    assert len(set(keys)) == len(keys) == references.count("\n@")


def test_every_public_name_is_in_the_summary():
    text = (DOCS / "api" / "index.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^   (\w+)$", text, re.MULTILINE)) >= set(ngdla.__all__)


# --------------------------------------------------------------------------- capabilities


ON_CPUS = [library for library in LIBRARIES if library not in capability_record.ON_GPUS]


def record(**changes):
    """Return what a run leaves that has seen three entries."""
    modes = {"eager": "passed", "jit": "failed"}
    outcomes = {"gram": {"torch-cuda": modes, "cupy": {"eager": "passed"}}}
    made = {
        "device": "Some GPU 9",
        "date": "2030-01-31",
        "commit": "0123",
        "command": "pytest -k x",
    }
    return made | {"versions": {"torch": "9.1"}, "outcomes": outcomes} | changes


def test_the_table_of_derivatives_names_every_exception():
    table = capability_table.derivatives()
    for name, (spectra, why) in DERIVATIVES.items():
        (row,) = (line for line in table.splitlines() if f"`{name}`" in line)
        assert row.count("NaN") == len(spectra)
        assert why in row
    assert table.count("refused") == len(REFUSE_DEFICIENT)


def test_capability_table_shows_every_case():
    table = capability_table.on_cpu()
    for name in FUNCTIONS:
        (row,) = re.findall(rf"^\| `{name}` \|.*$", table, re.MULTILINE)
        cases = row.count("✓") + row.count("✗")
        assert cases == sum(len(MODES[library]) for library in ON_CPUS)
    for library in ON_CPUS:
        assert f"| {LIBRARIES[library]} |" in table


def test_no_record_no_tick(tmp_path):
    text = capability_table.on_gpu(tmp_path / "benchmarks")
    assert "not yet run on a device" in text
    assert "✓" not in text
    assert capability_table.files(tmp_path) == [capability_table.SOURCE]


def test_only_what_a_record_holds_is_ticked(tmp_path):
    path = capability_record.write(record(), tmp_path)
    assert path.name == "some-gpu-9.tests.json"
    assert capability_table.files(tmp_path)[1:] == [path]
    text = capability_table.on_gpu(tmp_path)
    (gram,) = re.findall(r"^\| `gram` \|.*$", text, re.MULTILINE)
    assert re.search(
        r"\| ✓\seager \| ✓\seager, ✗\sjit\s\(failed\), –\sgrad, –\svmap \| –\seager", gram
    )
    assert text.count("✓") == 2
    assert "\n* Some GPU 9: `pytest -k x`, 2030-01-31, commit 0123; torch 9.1." in text
    assert {frozenset(widths) for widths in widths_of_tables(text)} == {frozenset({4})}


def test_what_failed_on_one_device_has_failed(tmp_path):
    capability_record.write(record(), tmp_path)
    failed = {"gram": {"cupy": {"eager": "failed"}}, "of_older_days": {"cupy": {"eager": "passed"}}}
    for device in ("Another", "Third"):
        capability_record.write(record(device=device, outcomes=failed), tmp_path)
        failed = {"gram": {"cupy": {"eager": "passed"}}}
    text = capability_table.on_gpu(tmp_path)
    assert re.search(r"`gram` \| ✗\seager\s\(failed\) \| ✓\seager", text)
    assert "of_older_days" not in text


DAMAGED = {
    "no versions": record(versions={}),
    "a version is a number": record(versions={"torch": 9.1}),
    "no device": record(device=""),
    "no date": record(date="yesterday"),
    "more": record(passed=True),
    "less": {key: value for key, value in record().items() if key != "commit"},
    "no outcomes": record(outcomes={}),
    "not on a GPU": record(outcomes={"gram": {"torch": {"eager": "passed"}}}),
    "no such mode": record(outcomes={"gram": {"cupy": {"jit": "passed"}}}),
    "no such outcome": record(outcomes={"gram": {"cupy": {"eager": True}}}),
    "a list": [],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_is_named(damage, tmp_path):
    (tmp_path / "x.tests.json").write_text(json.dumps(DAMAGED[damage]), encoding="utf-8")
    with pytest.raises(capability_table.DamagedRecordError, match=r"x\.tests\.json"):
        capability_table.on_gpu(tmp_path)
    (tmp_path / "x.tests.json").write_text("{", encoding="utf-8")
    with pytest.raises(capability_table.DamagedRecordError, match=r"x\.tests\.json"):
        capability_table.on_gpu(tmp_path)


def test_committed_records_are_whole():
    for path in capability_table.files()[1:]:
        assert capability_record.read(path)


def test_a_run_is_recorded(tmp_path):
    def report(entry, outcome, when="call"):
        nodeid = f"tests/test_capabilities.py::test_entry[{entry}]"
        return pytest.TestReport(nodeid, ("", 0, ""), {}, outcome, None, when)

    recorder = capability_record.Recorder(tmp_path, lambda: "Some GPU 9")
    for seen in [
        ("gram-torch-cuda-jit", "passed", "setup"),
        ("gram-torch-cuda-jit", "passed"),
        ("gram-torch-cuda-jit", "failed", "teardown"),
        ("gram-cupy-eager", "skipped", "setup"),
        ("scores-cupy-eager", "passed"),
        ("gram-torch-jit", "passed"),
    ]:
        recorder.pytest_runtest_logreport(report(*seen))
    arguments = ("tests", capability_record.OPTION, str(tmp_path), "-k", "cupy or torch")
    invocation = pytest.Config.InvocationParams(args=arguments, plugins=None, dir=tmp_path)
    config = SimpleNamespace(invocation_params=invocation)
    recorder.pytest_sessionfinish(SimpleNamespace(config=config))
    found = capability_record.read(tmp_path / "some-gpu-9.tests.json")
    assert found["outcomes"] == {
        "gram": {"torch-cuda": {"jit": "failed"}},
        "scores": {"cupy": {"eager": "passed"}},
    }
    assert found["command"] == "pytest tests -k 'cupy or torch'"
    assert found["versions"]["numpy"]


def test_a_run_without_a_gpu_leaves_nothing(tmp_path):
    capability_record.Recorder(tmp_path, lambda: "none").pytest_sessionfinish(None)
    assert not list(tmp_path.iterdir())


def test_an_exception_is_shown_with_its_reason():
    cases = {("gram", "torch", "jit"): "no tracer", ("scores", "torch", "vmap"): "no tracer"}
    table = capability_table.capability_table(["torch"], cases)
    assert re.search(r"`gram` \| ✓\seager, ✗\sjit\s\(1\), ✓\sgrad", table)
    assert re.search(r"`scores` .*✗\svmap\s\(1\)", table)
    assert table.endswith("\n\n(1) no tracer")


# ------------------------------------------------------------------------------- measured

OF_A_FILE = {
    "accuracy": measured_tables.accuracy,
    "certificate": measured_tables.bounds,
    "methods": measured_tables.methods,
    "precision": measured_tables.precision,
    "peers": measured_tables.peers,
    "randomized_eigh": measured_tables.randomized_eigh,
    "online_eigh": measured_tables.online_eigh,
    "distribution": measured_tables.distribution,
    "kronecker": measured_tables.kronecker,
    "structures": measured_tables.toeplitz,
    "inverse_free": measured_tables.structured_steps,
    "sample_weights": measured_tables.sample_weights_cost,
    "spin_chains": measured_tables.spin_chains,
    "full_runs": measured_tables.netket_runs,
}
NO_TABLES = {"DamagedResultError", "files", "gpu_pages"}


@pytest.mark.parametrize("name", OF_A_FILE)
def test_what_is_not_measured_is_said(name, tmp_path):
    assert f"`python asv_benchmarks/measure.py {name}`" in OF_A_FILE[name](tmp_path)


@pytest.mark.parametrize("name", sorted({*measured_tables.__all__} - NO_TABLES))
def test_every_table_is_made_of_what_is_committed(name):
    assert "Not measured yet" not in getattr(measured_tables, name)()


MADE = {
    **{name: getattr(measured_tables, name) for name in {*measured_tables.__all__} - NO_TABLES},
    **study_tables.TABLES,
    "capabilities": capability_table.on_cpu,
    "gpu-capabilities": capability_table.on_gpu,
    "gpu-choices": gpu_tables.choices,
    "gpu-launches": gpu_tables.launches,
    "ranks-assumptions": ranks_model.assumptions_table,
    "ranks-model": ranks_model.model_table,
    "excluded-lines": excluded_lines.listing,
}


def widths_of_tables(text):
    """Return the numbers of cells that rows have, a set for each table of a Markdown text."""
    blocks = re.findall(r"(?:^\| .*\n?)+", text, re.MULTILINE)
    rows = [block.strip().split("\n") for block in blocks]
    assert all(re.fullmatch(r"\|( --[-:] \|)+", lines[1]) for lines in rows)
    return [{len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines} for lines in rows]


@pytest.mark.parametrize("name", sorted(MADE))
def test_rows_have_as_many_cells_as_their_head(name):
    assert all(len(widths) == 1 for widths in widths_of_tables(MADE[name]()))


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *(f"docs/{p}" for p in PAGES)])
def test_rows_of_written_tables_have_as_many_cells_as_their_head(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert all(len(widths) == 1 for widths in widths_of_tables(text))


HOSTILE = ["|x|", r"a \| b", "`f || g`", r"\\|", "two\nlines", "|\r\n|"]


@pytest.mark.parametrize("made", [tables.table, study_tables.report.markdown])
def test_no_text_breaks_a_row(made):
    text = made([HOSTILE, HOSTILE[::-1]])
    assert len(text.splitlines()) == 3
    assert widths_of_tables(text) == [{len(HOSTILE)}]
    assert tables.row([r"|x|", r"\|"]) == r"| \|x\| | \| |"


def test_nothing_measured_at_all(tmp_path):
    assert measured_tables.claims(tmp_path) == "Nothing is measured yet."
    assert measured_tables.environments(tmp_path) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}', '{"details": 3}', "\xff\xfe"])
@pytest.mark.parametrize("name", OF_A_FILE)
def test_a_damaged_file_is_named(name, text, tmp_path):
    (tmp_path / f"{name}.json").write_text(text, encoding="latin-1")
    with pytest.raises(measured_tables.DamagedResultError, match=rf"{name}\.json"):
        OF_A_FILE[name](tmp_path)


def test_accuracy_has_a_row_for_each_method():
    table = measured_tables.accuracy()
    for method in ["cholesky", "eigh", "svd", "qr"]:
        assert table.count(f"| `{method}` |") == table.count("λ/σ₁²")


def test_every_result_file_is_accounted_for():
    made = measured_tables.environments()
    assert made.count("* `python asv_benchmarks/measure.py") == len(measured_tables.files())


def test_gpu_pages(tmp_path):
    folder = tmp_path / "benchmarks"
    assert measured_tables.gpu_pages(folder) == "No GPU result is recorded yet."
    folder.mkdir()
    (folder / "some_gpu.md").write_text("# Some GPU\n")
    assert "\nbenchmarks/some_gpu\n" in measured_tables.gpu_pages(folder)


def test_the_page_says_what_ran_on_a_gpu(tmp_path):
    assert "Nothing of ngdla has run on a GPU yet" in gpu_tables.runs(tmp_path)
    (tmp_path / "some-gpu.md").touch()
    text = gpu_tables.runs(tmp_path)
    assert f"{{doc}}`/{tmp_path.name}/some-gpu`" in text
    assert "Nothing" not in text


def test_launches_are_those_that_tests_count():
    counts = json.loads(gpu_tables.LAUNCHES.read_text(encoding="utf-8"))
    text = gpu_tables.launches()
    for call, found in counts.items():
        numbers = " | ".join(f"{n:,}" for n in found.values())
        assert f"| `{call}` | {numbers} |" in text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"a": 3}', '{"a": {"launches": "many"}}'])
def test_damaged_launches_are_named(text, tmp_path):
    path = tmp_path / "launches.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(measured_tables.DamagedResultError, match=r"launches\.json"):
        gpu_tables.launches(path)


def test_choices_are_those_of_the_library():
    text = gpu_tables.choices()
    for choice in CHOICES.values():
        assert text.count("\n") == len(CHOICES) + 1
        assert all(f"`{way}`" in text for way in choice.ways)


# ------------------------------------------------------------------------------- coverage


def test_the_rules_of_coverage_find_every_cupy_branch():
    found = {
        (place.path, place.first)
        for rule in excluded_lines.rules()
        for place in excluded_lines.places(rule)
    }
    branches = {
        (path.relative_to(ROOT).as_posix(), number)
        for path in (ROOT / "ngdla").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.match(r" *(el)?if is_cupy_namespace\(", line)
    }
    assert branches
    assert branches <= found


def test_an_excluded_place_has_its_whole_body(tmp_path):
    (tmp_path / "ngdla").mkdir()
    (tmp_path / "setup.cfg").write_text("[coverage:report]\nexclude_also =\n    if a\\(\n")
    code = "def f():\n    if a(1):\n        b()\n        c()\n    else:\n        d()\n"
    (tmp_path / "ngdla" / "x.py").write_text(code)
    (rule,) = excluded_lines.rules(tmp_path)
    assert excluded_lines.places(rule, tmp_path) == [("ngdla/x.py", 2, 4, "if a(1):")]
    assert "| ngdla/x.py:2 | 3 | `if a(1):` |" in excluded_lines.listing(tmp_path)


# ----------------------------------------------------------------------------------- look


@pytest.mark.parametrize(
    ("site", "options", "complaint"),
    [
        ("missing", [], "is not a folder; build the pages first"),
        ("empty", [], "no page in empty; build the pages first"),
        ("built", ["--limit", "0"], "--limit must be 1 or more"),
        ("built", ["--pictures", "built/index.html"], "(File exists); give another --pictures"),
        ("built", ["--pictures", "/proc/look"], "give another --pictures"),
        ("built", [], "pip install playwright"),
    ],
)
def test_look_says_in_one_line_what_is_missing(site, options, complaint, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "index.html").touch()
    # -S: without the packages that are installed, so without a driver
    look = [sys.executable, "-I", "-S", str(ROOT / "tools" / "look.py"), site, *options]
    done = subprocess.run(look, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("look: ")
    assert line.endswith(complaint)


def test_look_needs_a_browser(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("look", ROOT / "tools" / "look.py")
    look = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(look)
    driver = ModuleType("playwright.sync_api")
    driver.Error, driver.sync_playwright = RuntimeError, None
    monkeypatch.setitem(sys.modules, "playwright", ModuleType("playwright"))
    monkeypatch.setitem(sys.modules, "playwright.sync_api", driver)
    monkeypatch.setattr(look.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as exit_info, look.browser():
        pass
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("look: no Chromium is installed; install chromium")
