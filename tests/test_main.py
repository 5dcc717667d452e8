"""The command line: exit codes, one-line complaints, table, picture and Ctrl-C."""

import importlib.util
import io
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ngdla
from ngdla import __main__ as command
from ngdla._backend import inventory
from ngdla._backend.inventory import UnavailableLibraryError, load_namespace

ROOT = Path(__file__).parent.parent
SMALL = ["--quick", "--sites", "4", "--steps", "3"]
PNG = b"\x89PNG\r\n\x1a\n"

needs_pictures = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("matplotlib", "tqdm", "rich")),
    reason="needs matplotlib, tqdm and rich",
)
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell and pipes")
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def complaint(arguments, capsys):
    """Return the one line that a bad argument gives on stderr, after checking that it is one."""
    with pytest.raises(SystemExit) as exit_info:
        command.main(arguments)
    out, err = capsys.readouterr()
    assert exit_info.value.code == 2
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def test_alone_it_prints_help(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert "info" in out
    assert "demo" in out


@pytest.mark.environment
def test_info_runs(capsys):
    assert command.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("numpy", "scipy", "cupy", "torch", "jax", "dask", "BLAS", "usable"):
        assert word in out


def test_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ngdla {ngdla.__version__}\n"


def test_info_begins_with_what_a_bug_report_needs(capsys):
    assert command.main(["info"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    for words in (f"ngdla {ngdla.__version__}", platform.python_version(), platform.platform()):
        assert words in first


# what was mistyped


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["demoo"], "argument command: there is no 'demoo'; did you mean demo?"),
        (["Info"], "argument command: there is no 'Info'; did you mean info?"),
        (["draw"], "argument command: there is no 'draw'; choose from info, demo"),
        (["--versoin"], "unrecognized argument --versoin; did you mean --version?"),
        (["-version"], "unrecognized argument -version; did you mean --version?"),
        (["--unknown"], "unrecognized argument --unknown; choose from -h, --help, --version"),
    ],
)
def test_mistyped(arguments, line, capsys):
    assert complaint(arguments, capsys) == f"python -m ngdla: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--hepl"], "unrecognized argument --hepl; did you mean --help?"),
        (["all"], "unrecognized argument all; choose from -h, --help"),
    ],
)
def test_mistyped_after_info(arguments, line, capsys):
    assert complaint(["info", *arguments], capsys) == f"python -m ngdla info: {line}\n"


OPTIONS = (
    "-h, --help, --system, --sites, --backend, --seed, --steps, --quick, --output, "
    "--checkpoint, --checkpoint-every"
)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--qick"], "unrecognized argument --qick; did you mean --quick?"),
        (["--QUICK"], "unrecognized argument --QUICK; did you mean --quick?"),
        (["-quick"], "unrecognized argument -quick; did you mean --quick?"),
        (["--o", "a.png"], "unrecognized argument --o; did you mean --output?"),
        (["--stesp=5"], "unrecognized argument --stesp; did you mean --steps?"),
        (["--stesp", "5"], "unrecognized argument --stesp; did you mean --steps?"),
        (["--colour"], f"unrecognized argument --colour; choose from {OPTIONS}"),
        (["--backend", "nunpy"], "argument --backend: there is no 'nunpy'; did you mean numpy?"),
        (["--backend=NumPy"], "argument --backend: there is no 'NumPy'; did you mean numpy?"),
        (["--system", "tfmi"], "argument --system: there is no 'tfmi'; did you mean tfim?"),
        (["--system", ""], "argument --system: there is no ''; choose from tfim, mg, all"),
        (["--system", "xy"], "argument --system: there is no 'xy'; choose from tfim, mg, all"),
    ],
)
def test_mistyped_after_demo(arguments, line, capsys):
    assert complaint(["demo", *arguments], capsys) == f"python -m ngdla demo: {line}\n"


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--quick"], "python -m ngdla demo"),
        (["--quick", "demo"], "python -m ngdla demo"),
        (["info", "--quick"], "python -m ngdla demo"),
        (["demo", "--version"], "python -m ngdla"),
    ],
)
def test_option_in_the_wrong_place(arguments, place, capsys):
    assert complaint(arguments, capsys).endswith(f"; it belongs right after {place}\n")


def test_info_needs_only_the_required_packages():
    program = (
        "import sys\n"
        "for name in ('rich', 'tqdm', 'matplotlib', 'torch', 'jax', 'cupy'):\n"
        "    sys.modules[name] = None\n"
        "from ngdla.__main__ import main\n"
        "sys.exit(main(['info']))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    for remedy in ("ngdla[torch]", "ngdla[jax]", "ngdla[cuda12]", "ngdla[cuda13]"):
        assert remedy in done.stdout


def fake_cupy(devices):
    """Return a stand-in for CuPy that sees `devices` GPUs."""
    cupy = ModuleType("cupy")
    cupy.__version__ = "14.0"
    cupy.cuda = ModuleType("cupy.cuda")
    cupy.cuda.is_available = lambda: devices > 0
    cupy.cuda.runtime = ModuleType("cupy.cuda.runtime")
    cupy.cuda.runtime.getDeviceCount = lambda: devices
    cupy.cuda.runtime.getDeviceProperties = lambda i: {"name": b"GPU %d" % i}
    return cupy


def test_inventory_of_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(0))
    cupy = {entry.name: entry for entry in inventory.inventory()}["cupy"]
    assert (cupy.version, cupy.devices) == ("14.0", "none")
    assert cupy.usable == "no, sees no CUDA device"
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(2))
    cupy = {entry.name: entry for entry in inventory.inventory()}["cupy"]
    assert (cupy.devices, cupy.usable) == ("GPU 0, GPU 1", "yes")


def test_library_that_is_broken(monkeypatch):
    def broken(name):
        msg = "libsomething.so: cannot open\nmore"
        raise OSError(msg)

    monkeypatch.setattr(inventory, "import_module", broken)
    with pytest.raises(UnavailableLibraryError, match=r"^torch cannot be loaded: libsomething.*n$"):
        load_namespace("torch")


@pytest.mark.parametrize("kind", [ValueError, AssertionError, KeyError, SystemError])
def test_info_says_whatever_is_wrong_with_a_library(kind, capsys, monkeypatch):
    """While it is loaded, or asked for its devices, as JAX is with platforms that are not there."""

    def broken(*arguments):
        raise kind("no platform cuda")

    jax = ModuleType("jax")
    jax.devices = broken
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr(inventory, "version", lambda name: "0.0")  # as if it were installed
    assert command.main(["info"]) == 0
    assert "jax has no device that can be used: " in capsys.readouterr().out
    line = complaint(["demo", "--backend", "jax"], capsys)
    assert line.startswith("python -m ngdla demo: jax has no device that can be used: ")
    monkeypatch.setattr(inventory, "import_module", broken)
    with pytest.raises(UnavailableLibraryError, match=r"^jax cannot be loaded: .*no platform cuda"):
        load_namespace("jax")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--system", "potts"], "potts"),
        (["--backend", "numba"], "numba"),
        (["--sites", "many"], "many"),
        (["--unknown"], "--unknown"),
        (["--sites", "3"], "4 to 64"),
        (["--sites", "65"], "4 to 64"),
        (["--sites", "7"], "even"),
        (["--sites", "7", "--system", "mg"], "even"),
        (["--steps", "0"], "at least 1"),
        (["--checkpoint-every", "0"], "at least 1"),
        (["--seed", "-1"], "0 or more"),
        (["--output", "picture.bmp"], ".png, .pdf, .svg"),
        (["--output", "picture"], ".png, .pdf, .svg"),
        (["--output", "no/such/folder/picture.png"], "no folder"),
        (["--output", f"{__file__}/picture.png"], "no folder"),
        (["--output", f"{'a' * 5000}.png"], "name too long"),
        (["--output", f"{'a/' * 5000}b.png"], "name too long"),
        (["--output", "a\0b.png"], "null"),
        (["--output", "a\udfffb\ud800.png"], "surrogates"),
        (["--output", ".png"], "a name that ends in"),
    ],
)
@needs_pictures
def test_bad_arguments(arguments, words, capsys):
    assert words in complaint(["demo", *arguments], capsys)


@needs_pictures
def test_output_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "folder" in complaint(["demo", "--output", str(folder)], capsys)
    line = complaint(["demo", "--output", f"{tmp_path}/{'a' * 5000}.png"], capsys)
    assert len(line) < 250
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert "permission" in complaint(["demo", "--output", str(tmp_path / "a.png")], capsys)


@needs_pictures
@pytest.mark.parametrize(
    ("library", "remedy"),
    [("torch", "ngdla[torch]"), ("jax", "ngdla[jax]"), ("cupy", "ngdla[cuda12]")],
)
def test_missing_library(library, remedy, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    output = str(tmp_path / "a.png")
    assert remedy in complaint(["demo", "--backend", library, "--output", output], capsys)


@needs_pictures
def test_cupy_without_a_device(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(0))
    assert "no CUDA device" in complaint(["demo", "--backend", "cupy"], capsys)


@pytest.mark.parametrize("package", ["matplotlib", "tqdm", "rich"])
def test_missing_packages(package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    line = complaint(["demo"], capsys)
    assert package in line
    assert 'pip install "ngdla[demo]"' in line


@needs_pictures
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_demo_leaves_table_and_picture(ending, tmp_path, capsys):
    output = tmp_path / f"picture.{ending}"
    assert command.main(["demo", *SMALL, "--seed", "2", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert str(output) in out
    assert re.search(r"exact energy +-5\.226251860 +-1\.500000000", out)
    assert re.search(r"steps +3 of 3 +3 of 3", out)
    for words in ("relative error", "seconds in the solve", "seconds in all", "numpy", "seed 2"):
        assert words in out
    assert re.search(r"critical Ising chain +Majumdar-Ghosh chain", out)
    assert re.search(r"--system +tfim +mg", out)
    assert re.search(r"method +minSR +SPRING", out)
    assert re.search(r"factor +Cholesky, float64 +Cholesky, complex128", out)
    assert re.search(r"steps certified +3 of 3 +3 of 3", out)
    start = {"png": PNG, "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert output.read_bytes().startswith(start)


@needs_pictures
def test_demo_goes_on_from_a_checkpoint(tmp_path, capsys):
    file = tmp_path / "run.npz"
    common = ["--output", str(tmp_path / "a.png"), "--checkpoint", str(file)]
    tables = []
    for steps in ("2", "3"):
        assert command.main(["demo", *SMALL[:-1], steps, *common]) == 0
        tables.append(capsys.readouterr().out)
    assert "goes on" not in tables[0]
    assert f"critical Ising chain  goes on after step 2 of {file}" in tables[1]
    assert re.search(r"steps +3 of 3 +3 of 3", tables[1])
    assert command.main(["demo", *SMALL, "--output", str(tmp_path / "a.png")]) == 0
    (without,) = re.findall("energy, mean.*", capsys.readouterr().out)
    assert without in tables[1]
    line = complaint(["demo", *SMALL, *common, "--seed", "1"], capsys)
    assert f"--checkpoint {file}: holds a run of tfim with seed = 0" in line


@needs_pictures
def test_checkpoint_that_fails_late(tmp_path, capsys, monkeypatch):
    def full(*arguments):
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr("ngdla.demo.checkpoint.write", full)
    file = str(tmp_path / "run.npz")
    arguments = [*SMALL, "--output", str(tmp_path / "a.png"), "--checkpoint", file]
    assert command.main(["demo", *arguments, "--checkpoint-every", "2"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"steps +1 of 3", out)
    assert "stopped: the checkpoint could not be written" in err
    assert "disk full" in err


@needs_pictures
def test_mpiexec_without_mpi4py(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    assert "pip install mpi4py" in complaint(["demo"], capsys)
    monkeypatch.setenv("PMI_RANK", "1")  # one process speaks
    with pytest.raises(SystemExit):
        command.main(["demo"])
    assert capsys.readouterr() == ("", "")


@needs_pictures
@pytest.mark.parametrize("steps", [1, 20, 61])
def test_picture_of_any_number_of_steps(steps, tmp_path, capsys):
    output = tmp_path / "picture.png"
    arguments = ["--system", "tfim", "--quick", "--sites", "5", "--steps", str(steps)]
    assert command.main(["demo", *arguments, "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    progress = [line for line in lines if line.startswith("critical Ising chain  step")]
    assert 1 <= len(progress) <= 7
    assert output.read_bytes().startswith(PNG)


@needs_pictures
def test_picture_that_fails_late(tmp_path, capsys, monkeypatch):
    def full(*arguments):
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr("ngdla.demo.picture.save_picture", full)
    assert command.main(["demo", *SMALL, "--output", str(tmp_path / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert "relative error" in out
    assert "disk full" in err


@needs_pictures
def test_divergence_leaves_what_was_done(tmp_path, capsys, monkeypatch):
    from ngdla.demo import run, vmc

    def diverges(*arguments):
        yield None, vmc.Step(-1.0, 0.1, True, 0.0, 0.0)
        msg = "the energy is no longer finite"
        raise vmc.DivergedError(msg)

    monkeypatch.setattr(run, "trajectory", diverges)
    output = tmp_path / "a.png"
    assert command.main(["demo", *SMALL, "--output", str(output)]) == 1
    out, err = capsys.readouterr()
    assert "1 of 3" in out
    assert "no longer finite" in err
    assert output.exists()


@needs_pictures
def test_interrupt_before_the_first_step(tmp_path, capsys, monkeypatch):
    def interrupted(chain):
        raise KeyboardInterrupt

    monkeypatch.setattr("ngdla.demo.run.reference_energy", interrupted)
    output = tmp_path / "a.png"
    assert command.main(["demo", *SMALL, "--output", str(output)]) == 130
    assert "no step was finished" in capsys.readouterr().err
    assert not output.exists()


@needs_pictures
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a child there")
def test_ctrl_c_leaves_table_and_picture(tmp_path):
    # A shell that starts the tests in the background makes children ignore SIGINT.
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ngdla.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    output = tmp_path / "picture.png"
    arguments = ["demo", "--system", "tfim", "--sites", "6", "--steps", "1000000"]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline().startswith("critical Ising chain  step    1/1000000")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "relative error" in out
    assert " of 1000000" in out
    assert output.read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_load_namespace_gives_float64(name):
    pytest.importorskip(name)
    library = load_namespace(name)
    ones = library.xp.ones(3, dtype=library.xp.float64, device=library.device)
    assert ones.dtype == library.xp.float64
    assert library.label.startswith(f"{name} ")
    assert " on " in library.label


# streams and surroundings


def shell(tail, arguments, **environment):
    """Run the command in a shell, with `tail` behind it; Python's choice of buffers is undone."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", f'"$0" -W error -m ngdla "$@" {tail}', sys.executable, *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def one_line(text):
    """Return whether this is one complaint of the command."""
    return text.startswith("python -m ngdla: ") and text.count("\n") == 1 and text.endswith("\n")


@needs_posix
@pytest.mark.parametrize("arguments", [[], ["--version"], ["--help"], ["info"], ["demo"]])
def test_closed_output_is_said_before_anything_is_done(arguments):
    done = shell(">&-", arguments)
    assert one_line(done.stderr), done.stderr
    assert "standard output is closed" in done.stderr
    assert done.returncode == 1


@needs_full
@needs_posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["demo", "--help"]])
def test_full_output(arguments, unbuffered):
    done = shell("> /dev/full", arguments, PYTHONUNBUFFERED=unbuffered)
    assert one_line(done.stderr), done.stderr
    assert "standard output: No space left on device" in done.stderr
    assert done.returncode == 1


@needs_full
@needs_posix
@needs_pictures
def test_full_output_of_the_demo(tmp_path):
    done = shell("> /dev/full", ["demo", *SMALL, "--output", str(tmp_path / "a.png")])
    assert one_line(done.stderr), done.stderr
    assert done.returncode == 1


def into_a_closed_pipe(arguments, **environment):
    """Run the command with a standard output that nobody reads any more."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "ngdla", *arguments],
            cwd=ROOT,
            env=kept | environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        os.close(writer)


@needs_posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_broken_pipe_is_silent(unbuffered):
    done = into_a_closed_pipe(["--help"], PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (141, "")


@needs_posix
@needs_pictures
def test_broken_pipe_of_the_demo(tmp_path):
    done = into_a_closed_pipe(["demo", *SMALL, "--output", str(tmp_path / "a.png")])
    assert (done.returncode, done.stderr) == (141, "")


@needs_pictures
def test_pipe_that_breaks_at_the_table(tmp_path, monkeypatch, capsys):
    # rich would end the program in a way of its own, with exit code 1
    class Breaking(io.StringIO):
        def write(self, text):
            if "exact energy" in text:
                raise BrokenPipeError(32, "Broken pipe")
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Breaking())
    assert command.main(["demo", *SMALL, "--output", str(tmp_path / "a.png")]) == 141
    assert capsys.readouterr().err == ""


@needs_posix
@pytest.mark.parametrize("tail", ["2>&-", pytest.param("2> /dev/full", marks=needs_full)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_complaints_without_anywhere_to_go(tail, unbuffered):
    done = shell(tail, ["demo", "--qick"], PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@needs_posix
@needs_pictures
def test_demo_needs_no_standard_error(tmp_path):
    output = tmp_path / "a.png"
    done = shell("2>&-", ["demo", *SMALL, "--output", str(output)])
    assert done.returncode == 0
    assert output.read_bytes().startswith(PNG)


@needs_full
@needs_posix
def test_both_streams_full():
    done = shell("> /dev/full 2>&1", ["--version"])
    assert done.returncode == 1


def test_other_files_are_not_taken_for_standard_output(monkeypatch):
    def missing():
        raise FileNotFoundError(2, "No such file or directory", "libsomething.so")

    monkeypatch.setattr(command, "info", missing)
    with pytest.raises(FileNotFoundError, match="libsomething"):
        command.main(["info"])


@needs_posix
@needs_pictures
def test_name_that_standard_output_cannot_encode(tmp_path):
    name = os.fsdecode(b"\xff\xe4.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("needs a file system that takes any bytes for a name")
    done = shell("", ["demo", *SMALL, "--output", f"{tmp_path}/{name}"], PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / name).read_bytes().startswith(PNG)


@needs_posix
@needs_pictures
def test_picture_needs_no_backend_with_windows(tmp_path):
    output = tmp_path / "a.png"
    done = shell("", ["demo", *SMALL, "--output", str(output)], MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert output.read_bytes().startswith(PNG)


@needs_pictures
def test_picture_needs_no_settings_of_the_user(tmp_path, monkeypatch):
    import matplotlib as mpl

    output = tmp_path / "a.png"
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)  # which needs LaTeX
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["demo", *SMALL, "--output", str(output)]) == 0
    assert output.read_bytes().startswith(PNG)
    assert mpl.rcParams["text.usetex"]


@needs_posix
@needs_pictures
def test_demo_needs_no_home(tmp_path):
    output = tmp_path / "a.png"
    nowhere = f"{__file__}/none"
    arguments = ["demo", *SMALL, "--output", str(output)]
    done = shell("", arguments, HOME=nowhere, MPLCONFIGDIR=nowhere, XDG_CACHE_HOME=nowhere)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert output.read_bytes().startswith(PNG)


@needs_pictures
def test_matplotlib_that_cannot_be_loaded(capsys, monkeypatch):
    from ngdla.demo import arguments

    def broken(name):
        msg = "Matplotlib requires access to a writable cache directory;\nset MPLCONFIGDIR"
        raise OSError(msg)

    monkeypatch.setattr(arguments, "import_module", broken)
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    line = complaint(["demo"], capsys)
    assert "matplotlib cannot be loaded: Matplotlib requires" in line
    assert "set MPLCONFIGDIR" in line
    assert os.environ["MPLBACKEND"] == "nonsense"
