"""The model of solves on many ranks, and what it is measured against, on small problems."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import ngdla
from ngdla.distributed import RecordingCommunicator, SerialCommunicator

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "asv_benchmarks"))

import ranks_model
from claims import distribution

spec = importlib.util.spec_from_file_location("launch", Path(__file__).with_name("launch.py"))
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)

RATES = ranks_model.Rates(gram=1e12, factor=1e11, memory=1e11, sums=1e9, exchange=1e8, latency=1e-6)


@pytest.mark.parametrize("kind", [ngdla.ColumnShards, ngdla.RowShards])
@pytest.mark.parametrize("m", [60, 200])
def test_the_model_counts_the_collectives_of_a_solve(kind, m):
    n, rng = 16, np.random.default_rng(0)
    comm = RecordingCommunicator(SerialCommunicator())
    shards = kind(rng.standard_normal((n, m)), comm)
    ngdla.damped_lstsq(shards, rng.standard_normal(n), 1e-2 * m)
    sums = [done.words for done in comm.collectives if done.kind == "all_reduce_sum"]
    counted = ranks_model.collectives(rows=kind is ngdla.RowShards, sweeps=sums.count(n))
    assert (sums.count(n**2), sums.count(n)) == (1, len(sums) - 1)
    assert counted == len(comm.collectives)
    assert comm.words("all_to_all") == (n * m if kind is ngdla.RowShards else 0)


def test_one_rank_sends_nothing_and_many_share_the_rest():
    one, many = (ranks_model.seconds(64, 10**4, P, RATES, rows=True) for P in (1, 8))
    assert one["sum"] == one["exchange"] == one["latency"] == 0
    assert many["factor"] == one["factor"]
    for part in ("Gram", "products"):
        assert many[part] == pytest.approx(one[part] / 8)
    assert many["sum"] == pytest.approx(2 * 7 / 8 * 8 * 64**2 / RATES.sums)
    assert ranks_model.seconds(64, 10**4, 8, RATES) == {**many, "exchange": 0} | {
        "latency": pytest.approx(9 * 6 * RATES.latency)
    }


def test_the_table_has_a_row_for_each_size():
    lines = ranks_model.model_table().splitlines()
    assert len(lines) == 2 + len(ranks_model.SIZES)
    assert len({line.count("|") for line in lines}) == 1


@pytest.fixture
def small(monkeypatch):
    """Measure on problems so small that the times mean nothing."""
    for name, value in {"N": 64, "M": 800, "REPEATS": 1, "SECONDS": 60.0}.items():
        monkeypatch.setattr(distribution, name, value)
    monkeypatch.setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "1")
    distribution.results.cache_clear()
    yield distribution
    distribution.results.cache_clear()


@pytest.mark.ranks
@pytest.mark.skipif(launch.missing("mpi") is not None, reason=f"{launch.missing('mpi')}")
def test_two_processes_are_measured(small):
    details = small.details()
    assert small.track_words() == 1.0
    assert small.track_memory_of_columns() <= 0.2
    assert len(details["scaling"]) == 3
    assert [row["layout"] for row in details["model"]] == ["columns", "rows"] * 4
    assert all(row["measured seconds"] > 0 for row in details["model"])
    for row in details["collectives"]:
        exchanged = row["n"] * row["m"] // 2 if row["layout"] == "rows" else 0
        assert row["words exchanged"] == exchanged
    assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_solves_have_a_target_where_products_scale(monkeypatch):
    seconds = {"one process": 3.0, "columns": 2.0, "one product": 3.0, "products of parts": 1.6}
    monkeypatch.setattr(distribution, "results", lambda: {"scaling": seconds})
    assert distribution.track_columns() == 1.5
    seconds["products of parts"] = 2.0
    with pytest.raises(NotImplementedError, match=r"it is 1\.50, .* only 1\.50"):
        distribution.track_columns()
    assert distribution.track_columns_over_products() == 1.0
