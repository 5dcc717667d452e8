"""Checkpoints of the demo: the same trajectory after a break, and files that are of no use."""

import os
from dataclasses import replace

import array_api_compat.numpy as np_compat
import numpy as np
import pytest

from ngdla._backend.inventory import load_namespace
from ngdla.demo import checkpoint as module
from ngdla.demo import make_problem
from ngdla.demo.arguments import check_checkpoint
from ngdla.demo.checkpoint import Checkpoint, CheckpointError, read, write
from ngdla.demo.rbm import RBM
from ngdla.demo.vmc import optimise, started, trajectory
from ngdla.distributed import SerialCommunicator

ALONE = SerialCommunicator()
SEED = 5


def small(system, steps=6):
    """Return a problem of milliseconds a step."""
    return replace(
        make_problem(system, 6),
        model=RBM(6, 8, holomorphic=system == "mg"),
        walkers=24,
        steps=steps,
        warm_up=2,
    )


def run(problem, path, every=2, library=None):
    """Return what a run measures that goes on from a file, energies and all, and its last state."""
    xp, on = (np_compat, None) if library is None else (library.xp, library.device)
    kept = Checkpoint(path, every, ALONE)
    kept.check([problem], SEED)
    state, steps = started(problem, xp, on, SEED, range(problem.walkers)), []
    if kept.holds(problem):
        state, steps = kept.restored(problem, xp, on, SEED)
    following = trajectory(problem, state, ALONE)
    steps += kept.kept(problem, SEED, steps, following)
    return [step[:3] for step in steps]


@pytest.mark.parametrize("system", ["tfim", "mg"])
@pytest.mark.parametrize("breaks", [(2,), (1, 3, 4)])
def test_the_trajectory_is_the_same_after_a_break(system, breaks, tmp_path):
    problem = small(system)
    expected = [step[:3] for step in optimise(problem, np_compat, seed=SEED)]
    for steps in (*breaks, problem.steps):
        got = run(problem.with_steps(steps), tmp_path / "run.npz")
        assert got == expected[:steps]
    whole = tmp_path / "whole.npz"
    run(problem, whole)
    for name, array in read(whole).items():
        if not name.endswith("steps"):  # which hold seconds
            np.testing.assert_array_equal(read(tmp_path / "run.npz")[name], array)


@pytest.mark.parametrize("name", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_other_libraries_go_on_from_it(name, tmp_path):
    pytest.importorskip(name)
    problem, path = small("mg", steps=3), tmp_path / "run.npz"
    expected = [energy for energy, *_ in run(problem, tmp_path / "other.npz")]
    run(problem.with_steps(2), path)
    energies = [energy for energy, *_ in run(problem, path, library=load_namespace(name))]
    assert energies == pytest.approx(expected, rel=1e-9)


def test_a_run_that_is_over_makes_no_step(tmp_path):
    problem, path = small("tfim", steps=2), tmp_path / "run.npz"
    first = run(problem, path)
    written = path.read_bytes()
    assert run(problem, path) == first
    assert path.read_bytes() == written


def test_a_file_holds_both_systems(tmp_path):
    path = tmp_path / "run.npz"
    tfim, mg = small("tfim", steps=3), small("mg", steps=3)
    expected = run(tfim, path), run(mg, path)
    assert (run(tfim, path), run(mg, path)) == expected
    assert Checkpoint(path, 1, ALONE).holds(mg)


def test_it_is_written_at_times_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module, "write", lambda path, arrays: written.append(arrays["tfim.steps"]))
    run(small("tfim", steps=5), tmp_path / "run.npz", every=2)
    assert [len(steps) for steps in written] == [2, 4, 5]


# files that are of no use


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"walkers": 32}, "walkers = 24, and this is one with 32"),
        ({"damping": 0.5}, "damping = 0.001, and this is one with 0.5"),
        ({"model": RBM(6, 9)}, "model.hidden = 8, and this is one with 9"),
        ({"chain": make_problem("tfim", 8).chain}, "chain.sites = 6, and this is one with 8"),
        ({"steps": 1}, "holds 2 steps of tfim, more than the 1 asked for"),
    ],
)
def test_a_run_of_another_problem_is_refused(change, words, tmp_path):
    path = tmp_path / "run.npz"
    run(small("tfim", steps=2), path)
    with pytest.raises(ValueError, match=f"--checkpoint .*run.npz: .*{words}; give another file"):
        run(replace(small("tfim"), **change), path)


def test_a_run_of_another_seed_is_refused(tmp_path):
    run(small("tfim", steps=2), tmp_path / "run.npz")
    with pytest.raises(ValueError, match="seed = 5, and this is one with 6"):
        Checkpoint(tmp_path / "run.npz", 1, ALONE).check([small("tfim")], 6)


def test_torn_files_are_refused(tmp_path):
    path, torn = tmp_path / "run.npz", tmp_path / "torn.npz"
    run(small("tfim", steps=2), path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", whole[:10], whole[:middle], whole[:-1], damaged):
        torn.write_bytes(content)
        with pytest.raises(ValueError, match=r"torn.npz: cannot be read .*; remove it, or give"):
            Checkpoint(torn, 1, ALONE)
        assert torn.read_bytes() == content


def test_other_files_are_refused_and_left_alone(tmp_path):
    array, arrays, folder = (tmp_path / name for name in ("a.npy", "b.npz", "folder"))
    np.save(array, np.ones(3))
    np.savez(arrays, ones=np.ones(3))
    folder.mkdir()
    for path, words in (
        (array, "cannot be read"),
        (arrays, "not a checkpoint"),
        (folder, "cannot"),
    ):
        with pytest.raises(ValueError, match=f"--checkpoint .*: (is )?{words}"):
            Checkpoint(path, 1, ALONE)
    np.testing.assert_array_equal(np.load(array), np.ones(3))


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("parameters", np.ones(3)),
        ("parameters", np.full(62, np.nan)),
        ("spins", np.ones((2, 6))),
        ("direction", np.array(["a"])),
        ("position", np.ones(2)),
        ("steps", np.ones((2, 3))),
        ("problem", np.array("no JSON")),
        ("problem", np.array("[1]")),
    ],
)
def test_arrays_that_no_run_has_written_are_refused(part, content, tmp_path):
    problem, path = small("tfim", steps=2), tmp_path / "run.npz"
    run(problem, path)
    write(path, read(path) | {f"tfim.{part}": content})
    words = "not a checkpoint" if part == "problem" else f"its tfim.{part} cannot be gone on from"
    with pytest.raises(ValueError, match=f"--checkpoint .*: .*{words}"):
        Checkpoint(path, 1, ALONE).check([problem], SEED)


# writing


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    problem, path = small("tfim"), tmp_path / "run.npz"
    run(problem.with_steps(2), path)
    old = path.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"not be written to .*run.npz: .*No space left"):
        run(problem, path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_the_new_file_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *x, n=name, c=call: (done.append(n), c(*x)))
    write(tmp_path / "a.npz", {"x": np.ones(2)})
    assert done[:2] == ["fsync", "replace"]
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_an_ended_process_left_is_written_over(tmp_path):
    path = tmp_path / "run.npz"
    (tmp_path / "run.npz.part").write_bytes(b"half of a file")
    assert len(run(small("tfim", steps=2), path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "run.npz"
    link.symlink_to(tmp_path / "there" / "real.npz")
    run(small("tfim", steps=2), link)
    assert link.is_symlink()
    assert read(tmp_path / "there" / "real.npz")


def test_where_it_cannot_be_written_is_said_first(tmp_path, monkeypatch):
    check_checkpoint(None, 1)
    check_checkpoint(tmp_path / "run.npz", 1)
    with pytest.raises(ValueError, match=r"--checkpoint .*there is no folder"):
        check_checkpoint(tmp_path / "none" / "run.npz", 1)
    with pytest.raises(ValueError, match=r"--checkpoint .*this is a folder"):
        check_checkpoint(tmp_path, 1)
    with pytest.raises(ValueError, match=r"--checkpoint .*: file name too long"):
        check_checkpoint(tmp_path / ("a" * 252), 1)
    (tmp_path / "run.npz").touch()
    # the file may be written to and its folder not
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path) and path != tmp_path)
    with pytest.raises(ValueError, match=r"--checkpoint .*no permission to write there"):
        check_checkpoint(tmp_path / "run.npz", 1)
