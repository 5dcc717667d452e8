"""Optimisers behind torch modules, as `singd` and `curvlinops` make their steps."""

import sys
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.append(str(Path(__file__).resolve().parents[2] / "asv_benchmarks"))

from claims import optimizers as claims

LARGEST = 1e-12


@pytest.mark.filterwarnings("ignore:Calling naive implementation:UserWarning")
@pytest.mark.parametrize(("network", "sharing"), claims.CASES)
@pytest.mark.parametrize(
    ("structure", "rule"),
    [*((name, "ingd") for name in claims.STRUCTURES), ("dense", "ikfac")],
)
def test_trajectories_of_singd(network, sharing, structure, rule):
    pytest.importorskip("singd")
    found = claims.from_singd(network, structure, rule, sharing)
    if structure == "block-diagonal":  # the package leaves out a transpose
        assert LARGEST < found < 1e-3
    else:
        assert found < LARGEST


@pytest.mark.parametrize(("network", "sharing"), claims.CASES)
def test_factors_of_curvlinops(network, sharing):
    pytest.importorskip("curvlinops")
    assert claims.factors_from_curvlinops(network, sharing) < LARGEST


@pytest.mark.parametrize(
    ("network", "sharing", "damping"),
    [(*case, damping) for case, damping in product(claims.CASES, claims.DAMPINGS)],
)
def test_directions_of_curvlinops(network, sharing, damping):
    pytest.importorskip("curvlinops")
    assert claims.directions_from_curvlinops(network, sharing, damping) < LARGEST
