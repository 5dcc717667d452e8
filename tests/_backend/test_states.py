"""States by name: what `state_dict` returns, and what `load_state_dict` makes of it or refuses."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from backends import BACKENDS, Backend
from spectra import quick_compilation  # noqa: F401

import ngdla

D, R = 6, 2
X = np.random.default_rng(0).standard_normal((9, D))


def inverse_free(**options: Any) -> ngdla.InverseFreeState:
    return ngdla.inverse_free_init(D, R, **{"like": X} | options)


def bits(library: Any, state: Any) -> dict[str, tuple[str, bytes]]:
    arrays = {name: library.numpy(x) for name, x in ngdla.state_dict(state).items()}
    return {name: (str(x.dtype), x.tobytes()) for name, x in arrays.items()}


def test_names_are_those_of_fields_and_numbers_of_leaves() -> None:
    state = inverse_free(structures=(("hierarchical", {"k1": 1, "k2": 1}), "dense"))
    leaves = [f"K.{i}" for i in range(len(state.K.leaves))]
    report = [f"report.{name}" for name in vars(state.report)]
    momenta = [f"momentum_{name}" for name in [*leaves, "C.0"]]
    assert list(ngdla.state_dict(state)) == [*leaves, "C.0", *momenta, "step", *report, "layout"]
    assert set(ngdla.state_dict(state.K)) == {*(str(i) for i in range(len(leaves))), "layout"}


def test_names_say_bfloat16() -> None:
    pytest.importorskip("ml_dtypes")
    state = inverse_free(dtype="bfloat16")
    assert "K.0:bfloat16" in ngdla.state_dict(state)
    with pytest.raises(ValueError, match=r"has no 'K\.0', but 'K\.0:bfloat16', of another dtype"):
        ngdla.load_state_dict(inverse_free(), ngdla.state_dict(state))


def test_arrays_are_those_of_the_state() -> None:
    state = ngdla.online_eigh_init(X, R)
    assert ngdla.state_dict(state)["probes"] is state.probes


def test_states_of_every_library_are_restored_bit_for_bit(backend: Backend) -> None:
    dtype = "float32" if backend.name == "strict-float32" else "float64"
    only = "weights" if backend.name in ("dask", "jax") else ""  # where others take seconds
    for name, template in checkpoints.start(backend, dtype, only).items():
        state = checkpoints.advanced(backend, {name: template}, dtype, range(2))[name]
        if not backend.has_values:
            continue
        file = io.BytesIO()
        np.savez(file, **{key: backend.numpy(x) for key, x in ngdla.state_dict(state).items()})
        file.seek(0)
        with np.load(file) as arrays:
            like = backend.asarray(np.zeros(1, dtype))
            restored = ngdla.load_state_dict(template, arrays, like=like)
        assert bits(backend, restored) == bits(backend, state)
        found = [x for x in ngdla.state_dict(restored).values() if "uint8" not in str(x.dtype)]
        assert {type(x) for x in found} == {type(like)}


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_states_move_between_libraries(name: str) -> None:
    library, numpy = BACKENDS[name](), BACKENDS["numpy"]()
    state = inverse_free(structures=("lower-toeplitz", "dense"), dtype="float32")
    there = ngdla.load_state_dict(state, ngdla.state_dict(state), like=library.asarray(X))
    assert type(there.K.leaves[0]) is type(library.asarray(X))
    back = ngdla.load_state_dict(state, ngdla.state_dict(there))
    assert bits(numpy, back) == bits(numpy, state)


def test_shared_weights_stay_where_they_are_without_like() -> None:
    library = BACKENDS["torch"]()
    blank = ngdla.weight_sharing_init("mean", len(X), period=2)
    batch = library.asarray(X)
    _, state = ngdla.weight_sharing_step(blank, batch, batch, 0.1)
    restored = ngdla.load_state_dict(blank, ngdla.state_dict(state))
    assert type(restored.weights) is type(batch)
    assert (restored.batches, restored.averaged, restored.layer) == (1, 1, (D, D))
    unused = ngdla.state_dict(blank)
    assert ngdla.load_state_dict(state, unused).weights == ()
    assert isinstance(unused["layout"], np.ndarray)


def test_structures_of_the_caller_are_told_by_their_names() -> None:
    """And by their options, since a class that inherits its text has that of its base."""
    base: Any = ngdla.structures.Diagonal

    class Mine(base):
        def __init__(self, k: int) -> None:
            object.__setattr__(self, "k", k)

    state = inverse_free(structures=(Mine(2), "dense"))
    layout = bytes(ngdla.state_dict(state)["layout"]).decode()
    assert "Mine(k=2)" in layout
    ngdla.load_state_dict(inverse_free(structures=(Mine(2), "dense")), ngdla.state_dict(state))
    for other in (3, np.int64(3)):
        with pytest.raises(ValueError, match=r"K\.structure = .*Mine\(k=2\); .* has .*Mine\(k="):
            ngdla.load_state_dict(
                inverse_free(structures=(Mine(other), "dense")), ngdla.state_dict(state)
            )


def test_masks_are_told_apart() -> None:
    lower, upper = (
        inverse_free(structures=(("masked", {"mask": mask}), "dense"))
        for mask in (np.tril(np.ones((D, D), bool)), np.triu(np.ones((D, D), bool)))
    )
    with pytest.raises(ValueError, match=r"K\.structure"):
        ngdla.load_state_dict(lower, ngdla.state_dict(upper))


def test_templates_may_have_any_numbers() -> None:
    state = ngdla.online_eigh_init(X, R)
    blank = ngdla.online_eigh_init(0 * X[:1], R)
    numpy = BACKENDS["numpy"]()
    assert bits(numpy, ngdla.load_state_dict(blank, ngdla.state_dict(state))) == bits(numpy, state)


def test_integers_of_numpy_are_options_as_others_are() -> None:
    one, other = (
        inverse_free(structures=(("block-diagonal", {"block": kind(2)}), "dense"))
        for kind in (int, np.int64)
    )
    ngdla.load_state_dict(one, ngdla.state_dict(other))


def test_graphs_of_decompositions_are_not_saved() -> None:
    torch = pytest.importorskip("torch")
    S = torch.asarray(X).requires_grad_()
    eigh = ngdla.randomized_eigh(S.T @ S, R)
    assert eigh.eigenvalues.requires_grad
    assert not any(x.requires_grad for x in ngdla.state_dict(eigh).values())


# ------------------------------------------------------------------------- bad input


def shared(policy: str, **changes: Any) -> dict[str, Any]:
    """Return a saved state of weights, with some arrays changed or, for None, left out."""
    blank = ngdla.weight_sharing_init(policy, len(X), period=2)
    arrays = ngdla.state_dict(ngdla.weight_sharing_step(blank, X, X, 0.1)[1])
    return {key: x for key, x in (arrays | changes).items() if x is not None}


def load_shared(policy: str, **changes: Any) -> Any:
    blank = ngdla.weight_sharing_init(policy, len(X), period=2)
    return ngdla.load_state_dict(blank, shared(policy, **changes))


ONLINE = ngdla.online_eigh_init(X, R)
GOOD = ngdla.state_dict(ONLINE)
SHARING = ngdla.weight_sharing_init("every", 8, period=2)


def without(name: str) -> dict[str, Any]:
    return {key: x for key, x in GOOD.items() if key != name}


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no state": (
        lambda: ngdla.state_dict(X),
        TypeError,
        r"`state` is a ndarray; it must be a state",
    ),
    "a factor": (
        lambda: ngdla.state_dict(ngdla.damped_factor(X, 1.0)),
        TypeError,
        "must be a state",
    ),
    "no template": (
        lambda: ngdla.load_state_dict({}, GOOD),
        TypeError,
        r"`template` is a dict; it must be a state",
    ),
    "no mapping": (
        lambda: ngdla.load_state_dict(ONLINE, [X]),
        TypeError,
        r"`arrays` is a list; it must be a mapping",
    ),
    "no arrays": (lambda: ngdla.load_state_dict(ONLINE, {}), ValueError, r"has no 'layout'"),
    "missing": (
        lambda: ngdla.load_state_dict(ONLINE, without("trace")),
        ValueError,
        r"`arrays` has no 'trace'; make the template",
    ),
    "surplus": (
        lambda: ngdla.load_state_dict(ONLINE, GOOD | {"a": X, "b": X}),
        ValueError,
        r"`arrays` has 'a', 'b', which this `template` has not",
    ),
    "shape": (
        lambda: ngdla.load_state_dict(ngdla.online_eigh_init(X, R + 1), GOOD),
        ValueError,
        r"'eigenvalues' of shape \(2,\) in float64; for this `template` it must be of shape \(3,\)",
    ),
    "dtype": (
        lambda: ngdla.load_state_dict(ngdla.online_eigh_init(X.astype("float32"), R), GOOD),
        ValueError,
        r"'eigenvalues' of shape \(2,\) in float64; .* it must be of shape \(2,\) in float32",
    ),
    "class": (
        lambda: ngdla.load_state_dict(ngdla.randomized_eigh(np.eye(D), R), GOOD),
        ValueError,
        r"class = OnlineEigh; `template` has LowRankEigh",
    ),
    "structure": (
        lambda: ngdla.load_state_dict(
            inverse_free(structures=("lower-triangular", "dense")),
            ngdla.state_dict(inverse_free(structures=("upper-triangular", "dense"))),
        ),
        ValueError,
        r"K\.structure = UpperTriangular\(\); `template` has LowerTriangular\(\)",
    ),
    "momentum": (
        lambda: ngdla.load_state_dict(
            inverse_free(), ngdla.state_dict(inverse_free(momentum=False))
        ),
        ValueError,
        r"momentum_K\.structure = none; `template` has Dense\(\)",
    ),
    "policy": (
        lambda: ngdla.load_state_dict(
            SHARING, ngdla.state_dict(ngdla.weight_sharing_init("mean", 8, period=2))
        ),
        ValueError,
        r"policy = 'mean'; `template` has 'every'",
    ),
    "period": (
        lambda: ngdla.load_state_dict(
            SHARING, ngdla.state_dict(ngdla.weight_sharing_init("every", 8, period=3))
        ),
        ValueError,
        r"period = 3; `template` has 2",
    ),
    "weights": (lambda: load_shared("mean", weights=None), ValueError, "has no 'weights'"),
    "an entry of a table": (
        lambda: load_shared("table", **{"weights.0": None}),
        ValueError,
        r"has no 'weights\.0'",
    ),
    "shape of weights": (
        lambda: load_shared("shared", weights=np.ones(4)),
        ValueError,
        r"'weights' of shape \(4,\) in float64; .* it must be of shape \(9,\)",
    ),
    "dtype of weights": (
        lambda: load_shared("shared", weights=np.ones(9, "int64")),
        ValueError,
        r"in int64; .* it must be of shape \(9,\) in float64",
    ),
    "a place that is no array": (
        lambda: ngdla.load_state_dict(ONLINE, GOOD, like="cpu"),
        TypeError,
        r"`like` is a builtins\.str; it must be an array",
    ),
    "names of all kinds": (
        lambda: ngdla.load_state_dict(ONLINE, {**GOOD, "a": X, 1: X}),  # type: ignore[dict-item]
        ValueError,
        r"has '1', 'a', which",
    ),
    "a number": (
        lambda: ngdla.load_state_dict(ONLINE, GOOD | {"trace": 1.0}),
        TypeError,
        r"`arrays` has 1\.0 as 'trace'; it must be an array",
    ),
    "a layout of others": (
        lambda: ngdla.load_state_dict(ONLINE, GOOD | {"layout": np.zeros(3, "uint8")}),
        ValueError,
        r"as 'layout'; it must be what state_dict returned",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call()


def test_a_library_without_the_dtype_is_named() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False), pytest.raises(ValueError, match="from float64 into float32"):
        ngdla.load_state_dict(ONLINE, GOOD, like=jax.numpy.zeros(1))


def test_a_checkpoint_of_orbax(tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("orbax.checkpoint")
    library = BACKENDS["jax"]()
    template = ngdla.inverse_free_init(D, R, like=library.asarray(X), dtype="bfloat16")
    batch = library.asarray(X.astype("float32"))
    statistics = ngdla.inverse_free_statistics(template, batch, batch[:, :R])
    state = ngdla.inverse_free_update(template, statistics, damping=0.1, step_size=0.1)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", ngdla.state_dict(state))
        checkpointer.wait_until_finished()
        arrays = checkpointer.restore(tmp_path / "state")
    assert bits(library, ngdla.load_state_dict(template, arrays)) == bits(library, state)


def test_no_name_is_twice(backend: Backend) -> None:
    only = "inverse-free" if backend.name in ("dask", "jax") else ""
    for state in checkpoints.start(backend, "float32", only).values():
        names = list(ngdla.state_dict(state))
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[\w.]+(:bfloat16)?", name) for name in names)
