"""Pickles of every public class name `ngdla` alone, so that they outlive moves of modules."""

from __future__ import annotations

import pickle
import pickletools
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from backends import map_both

import ngdla
from ngdla import structures
from ngdla._backend.pickles import part

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(5)
S, F = RNG.standard_normal((6, 20)), RNG.standard_normal(6)
A, X, D = S.T @ S, RNG.standard_normal((8, 20)), RNG.standard_normal((8, 3))
STATE = ngdla.inverse_free_init(20, 3, structures=(("hierarchical", {"k1": 3}), "dense"), like=X)
STATISTICS = ngdla.inverse_free_statistics(STATE, X, D)
UPDATED = ngdla.inverse_free_update(STATE, STATISTICS, damping=0.1, step_size=0.1)
MASKED = structures.Masked(np.triu(np.ones((4, 4), bool)))


INSTANCES: dict[str, Any] = {
    "ColumnShards": ngdla.ColumnShards(S, ngdla.distributed.SerialCommunicator()),
    "ColumnStream": ngdla.ColumnStream([S[:, :9], S[:, 9:]], (6, 20), dtype="float64"),
    "DampingPath": ngdla.damping_path(S, F, np.array([0.1, 1.0])),
    "InverseFreeReport": UPDATED.report,
    "InverseFreeState": UPDATED,
    "InverseFreeStatistics": STATISTICS,
    "InverseRoot": ngdla.inv_sqrtm_newton_schulz(np.eye(3), 20, full_output=True),
    "LowRankEigh": ngdla.randomized_eigh(A, 3),
    "NystromFactor": ngdla.nystrom_factor(A, 3),
    "OnlineEigh": ngdla.online_eigh_init(X, 3),
    "PrecisionWarning": ngdla.PrecisionWarning("said"),
    "RankWarning": ngdla.RankWarning("said"),
    "RowShards": ngdla.RowShards(S, ngdla.distributed.SerialCommunicator()),
    "RowStream": ngdla.RowStream([S.T], (20, 6), dtype="float64"),
    "SNRInfo": ngdla.stochastic_reconfiguration(
        S, F, 0.1, snr=1.0, precision="native", full_output=True
    )[1],
    "SVDResult": ngdla.randomized_svd(S, 3),
    "ScoreOperator": ngdla.ScoreOperator(np.sin, np.cos, (6, 20), like=S),
    "SeriesResult": ngdla.expm_series(A, 3, full_output=True),
    "SolveInfo": ngdla.damped_lstsq(S, F, 0.1, full_output=True)[1],
    "HermitianInfo": ngdla.hermitian_solve(S @ S.T + np.eye(len(S)), F, full_output=True)[1],
    "StepSizeWarning": ngdla.StepSizeWarning("said"),
    "WeightSharing": ngdla.weight_sharing_init("every", 8, period=2),
    "structures.Masked": MASKED,
    "structures.StructuredMatrix": UPDATED.K,
    "its adjoint": MASKED.identity(4, like=S).H,
}
FACTORED: dict[str, Callable[[], Any]] = {
    **{
        f"DampedFactor, {method}": lambda method=method: ngdla.damped_factor(S, 0.1, method=method)
        for method in ("cholesky", "eigh", "svd", "qr", "cg")
    },
    "DampedFactor, n > m": lambda: ngdla.damped_factor(S.T, 0.1),
    "DampedFactor, blocks and a metric": lambda: ngdla.damped_factor(
        [S[:, :9], S[:, 9:]], 0.1, metric=[1.0, 2.0], precision="mixed"
    ),
}
INSTANCES |= {name: make() for name, make in FACTORED.items()}
PATTERNS = [name for name in structures.__all__ if name[0].isupper()]
INSTANCES |= {
    f"structures.{name}": getattr(structures, name)().identity(5, like=S)
    for name in PATTERNS
    if name not in ("Structure", "StructuredMatrix", "Masked")
}


def places(pickled: bytes) -> set[str]:
    """Return the modules of ngdla that a pickle names."""
    strings = {arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)}
    return {text for text in strings if text.split(".")[0] == "ngdla"}


def test_every_public_class_has_an_instance() -> None:
    classes = {name for name in ngdla.__all__ if isinstance(getattr(ngdla, name), type)}
    classes |= {f"structures.{name}" for name in PATTERNS if name != "Structure"}
    assert {name.partition(",")[0] for name in INSTANCES} - {"its adjoint"} == classes


@pytest.mark.parametrize("name", ngdla.__all__)
def test_public_names_say_where_they_are_public(name: str) -> None:
    item = getattr(ngdla, name)
    if not isinstance(item, types.ModuleType):
        assert item.__module__ == "ngdla"
        assert places(pickle.dumps(item)) == {"ngdla"}
        assert typing.get_type_hints(item) is not None  # names of annotations are still found


@pytest.mark.parametrize("name", PATTERNS)
def test_structures_say_where_they_are_public(name: str) -> None:
    assert getattr(structures, name).__module__ == "ngdla.structures"


@pytest.mark.parametrize("name", INSTANCES)
def test_a_pickle_names_ngdla_alone(name: str) -> None:
    pickled = pickle.dumps(INSTANCES[name])
    assert places(pickled) <= {"ngdla", "ngdla.structures", "ngdla.distributed"}
    restored = pickle.loads(pickled)
    assert type(restored) is type(INSTANCES[name])
    map_both(np.testing.assert_array_equal, fields(restored), fields(INSTANCES[name]))


def fields(x: Any) -> Any:
    """Return what an instance holds, down to the arrays."""
    if isinstance(x, (list, tuple)):
        return [fields(one) for one in x]
    if hasattr(x, "__dict__") and not callable(x):
        return {key: fields(value) for key, value in vars(x).items()}
    return x


def test_factors_solve_as_before() -> None:
    for name, make in FACTORED.items():
        if "blocks" not in name:
            factor = make()
            f = F if factor.scores.rows == 6 else RNG.standard_normal(20)
            np.testing.assert_array_equal(
                pickle.loads(pickle.dumps(factor)).lstsq(f), factor.lstsq(f)
            )


def test_pickles_load_in_a_new_process(tmp_path: Path) -> None:
    file = tmp_path / "all.pickle"
    file.write_bytes(pickle.dumps([pickle.dumps(x) for x in INSTANCES.values()]))
    program = (
        "import pathlib, pickle, sys\n"
        "for one in pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()):\n"
        "    print(type(pickle.loads(one)).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [type(x).__name__ for x in INSTANCES.values()]


def test_a_name_of_a_part_stands_for_one_class() -> None:
    """It may be defined again, as in a notebook; another class of that name would be restored."""

    def again() -> type:
        class Redefined(NamedTuple):
            x: int

        return part(Redefined)

    again()
    second = again()
    assert type(pickle.loads(pickle.dumps(second(3)))) is second
    with pytest.raises(ValueError, match=r"GramMatrix cannot be a part .* Rename it"):
        part(type("GramMatrix", (), {}))
