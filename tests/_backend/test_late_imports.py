"""What waits for the import of a library: registration there, before or after that of ngdla."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ngdla._backend.late_imports import _FINDER, when_imported

ROOT = Path(__file__).parents[2]

# Run in a process of its own: pairs of something saved and what it must be, for all public states.
STATES = """
import numpy as np
from ngdla.structures import Masked
def everything(like, half):
    xs = [like(np.random.default_rng(i).standard_normal((7, 5))) for i in range(2)]
    yield ngdla.randomized_eigh(xs[0].T @ xs[0], 2)
    yield ngdla.nystrom_factor(xs[0].T @ xs[0], 2)
    yield ngdla.online_eigh_init(xs[0], 2)
    yield ngdla.weight_sharing_init("shared", 7, period=2)
    names = [*ngdla.structures.names.NAMES][:-1]
    for i, name in enumerate([*names, Masked(np.triu(np.ones((5, 5), bool)))]):
        options = {"storage": "compensated", "dtype": half} if i % 2 else {"momentum": i % 4 == 0}
        state = ngdla.inverse_free_init(5, 5, structures=(name, name), like=xs[0], **options)
        statistics = ngdla.inverse_free_statistics(state, *xs)
        yield statistics
        yield ngdla.inverse_free_update(state, statistics, damping=0.1, step_size=0.1)
        yield state.K
"""

TORCH = """
import io
def bits(x):
    x = torch.as_tensor(x)
    return x.dtype, tuple(x.shape), bytes(x.reshape(-1).view(torch.uint8).tolist())
def flat(x):
    import dataclasses
    if isinstance(x, (list, tuple)):
        return [y for one in x for y in flat(one)]
    if dataclasses.is_dataclass(x) and hasattr(x, "_array_fields"):
        rest = [getattr(x, f.name) for f in dataclasses.fields(x) if f.name not in x._array_fields]
        return [type(x), *rest, *flat([getattr(x, name) for name in x._array_fields])]
    return [bits(x) if isinstance(x, torch.Tensor) else x]
states = list(everything(torch.asarray, "bfloat16"))
def through(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
for state, found in zip(states, through(states), strict=True):
    assert flat(found) == flat(state), type(state)
    doubled = torch.utils._pytree.tree_map(lambda x: x, found)
    assert flat(doubled) == flat(state)
parameter = torch.nn.Parameter(torch.zeros(3))
class Kept(torch.optim.Optimizer):
    def step(self):
        pass
one, other = (Kept([parameter], {}) for _ in range(2))
one.state[parameter] = {str(i): state for i, state in enumerate(states)}
other.load_state_dict(through(one.state_dict()))
for i, state in enumerate(states):
    assert flat(other.state[parameter][str(i)]) == flat(state), type(state)
print("as they were")
"""

# Loaded in a fresh process, where nothing of ngdla has been called.
LOADED = """
import pathlib, pickle, sys
states = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
for state in states:
    leaves = tree_leaves(state)
    if type(state) is not ngdla.WeightSharing:  # which has parts that do not exist yet
        assert leaves and all(hasattr(x, "dtype") for x in leaves), type(state)
    assert type(tree_map(lambda x: x, state)) is type(state)
print("trees")
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("imports", ["import ngdla\nimport torch", "import torch\nimport ngdla"])
def test_states_are_loaded_by_torch(imports: str) -> None:
    """With `weights_only`, and in the state of an optimiser: dtypes and bits as they were."""
    pytest.importorskip("torch")
    assert run(imports + STATES + TORCH) == "as they were"


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize(
    "order", ["ngdla first", pytest.param("ngdla last", marks=pytest.mark.slow)]
)
def test_states_are_trees_once_the_library_is_imported(
    library: str, order: str, tmp_path: Path
) -> None:
    """Right after a load, before anything of ngdla is called."""
    pytest.importorskip(library)
    file = tmp_path / "states.pickle"
    made = "import pathlib, pickle, sys, ngdla" + STATES
    made += "states = everything(np.asarray, 'float16')\n"
    made += "pathlib.Path(sys.argv[1]).write_bytes(pickle.dumps(list(states)))"
    run(made, str(file))
    module = "torch.utils._pytree" if library == "torch" else "jax.tree_util"
    lines = ["import ngdla", f"import {library}"]
    lines = lines if order == "ngdla first" else lines[::-1]
    lines.append(f"from {module} import tree_leaves, tree_map")
    assert run("\n".join(lines) + LOADED, str(file)) == "trees"


# ------------------------------------------------------------------------- the wait itself


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return the name of a library that can be imported but has not been."""
    name = f"waited_for_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_an_action_waits_for_its_library(library: str) -> None:
    done: list[str] = []
    when_imported(library, lambda: done.append("first"))
    when_imported(library, lambda: done.append(str(sys.modules[library].x)))
    assert done == []
    __import__(library)
    assert done == ["first", "1"]
    when_imported(library, lambda: done.append("at once"))
    assert done == ["first", "1", "at once"]
    __import__(library)
    assert len(done) == 3
    assert library not in _FINDER.waiting


def test_a_failed_import_leaves_the_wait(library: str, tmp_path: Path) -> None:
    done: list[str] = []
    when_imported(library, lambda: done.append("done"))
    file = tmp_path / f"{library}.py"
    file.write_text("import a_module_that_is_missing\n")
    for _ in range(2):
        with pytest.raises(ImportError, match="a_module_that_is_missing"):
            __import__(library)
        assert done == []
        assert library in _FINDER.waiting
    file.write_text("x = 'in order again, with another size'\n")
    __import__(library)
    assert done == ["done"]


def test_a_library_that_is_missing_is_still_missing(library: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").unlink()
    when_imported(library, lambda: None)
    try:
        with pytest.raises(ModuleNotFoundError, match=library):
            __import__(library)
    finally:
        _FINDER.waiting.pop(library)


def test_other_imports_are_left_alone(library: str) -> None:
    """The finder finds nothing but what is waited for, and stands once in the list."""
    when_imported(library, lambda: None)
    assert _FINDER.find_spec("json", None) is None
    assert _FINDER.find_spec(f"{library}.part", None) is None
    assert _FINDER.find_spec("a_module_that_is_missing", None) is None
    assert sys.meta_path.count(_FINDER) == 1
    __import__(library)
    assert _FINDER.find_spec(library, None) is None


def test_an_import_of_ngdla_in_that_of_the_library(library: str, tmp_path: Path) -> None:
    """What is declared meanwhile waits for its end."""
    (tmp_path / f"{library}.py").write_text(
        "from ngdla._backend.late_imports import when_imported\n"
        "done = []\n"
        f"when_imported({library!r}, lambda: done.append(ready))\n"
        "ready = True\n"
    )
    when_imported(library, lambda: None)
    __import__(library)
    assert sys.modules[library].done == [True]
