"""What the training study does without torch: its clock, its data, and its tables."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "docs" / "examples"))

from training_study import clock, data, report  # noqa: E402
from training_study.clock import PHASES, Clock  # noqa: E402


def test_tables_of_the_pages_are_made_without_torch():
    code = "import sys; sys.modules['torch'] = None; import study_tables"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT / "docs" / "_ext", capture_output=True, check=True)


# ---------------------------------------------------------------------------------- clock


def test_clock_adds_up_by_phase_and_waits_at_both_ends(monkeypatch):
    times, waits = iter([1.0, 1.5, 7.0, 9.0, 20.0, 20.25]), []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    measured = Clock(lambda: waits.append(None))
    for phase in ("network", "application", "network"):
        with measured(phase):
            assert len(waits) % 2 == 1
    assert len(waits) == 6
    assert measured.seconds == {
        "network": 0.75,
        "statistics": 0.0,
        "decomposition": 0.0,
        "application": 2.0,
    }


def test_an_inner_phase_is_no_part_of_the_outer_one(monkeypatch):
    times = iter([1.0, 1.5, 3.5, 4.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    measured = Clock(lambda: None)
    with measured("application"), measured("statistics"):
        pass
    assert measured.seconds["application"] == 1.0
    assert measured.seconds["statistics"] == 2.0


def test_calls_are_phases_while_they_are_counted():
    before, measured = np.linalg.solve, Clock(lambda: None)
    with measured.of_calls({(np.linalg, "solve"): "decomposition"}):
        assert np.linalg.solve([[2.0]], b=[4.0]) == 2.0
    assert np.linalg.solve is before
    assert measured.seconds["decomposition"] > 0


def test_an_unknown_phase_is_refused():
    measured = Clock(lambda: None)
    with pytest.raises(KeyError, match="no phase 'rest': one of network"), measured("rest"):
        pass


# ----------------------------------------------------------------------------------- data


def test_split_is_all_digits_in_equal_shares():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    parts = data.split()
    assert [len(part.labels) for part in parts] == [1000, 297, 500]
    for part in parts:
        assert part.images.shape == (len(part.labels), 64)
        assert part.images.dtype == np.float32
        shares = np.bincount(part.labels) / np.bincount(labels) * len(labels) / len(part.labels)
        assert np.max(np.abs(shares - 1)) < 0.05
    rows = np.concatenate([np.c_[16 * part.images, part.labels] for part in parts])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.c_[images, labels]))


def test_split_is_always_the_same():
    first = data.split()
    data.split.cache_clear()
    for part, again in zip(first, data.split(), strict=True):
        np.testing.assert_array_equal(part.images, again.images)


# --------------------------------------------------------------------------------- tables


def final_run(method, seed, test, seconds=1.0, dtype="float32", network="mlp", diverged=""):
    return {
        "network": network,
        "method": method,
        "settings": {},
        "seed": seed,
        "dtype": dtype,
        "test": test,
        "loss": test,
        "seconds": {phase: [seconds / 4] * len(test) for phase in PHASES},
        "state_bytes": 2048,
        "diverged": diverged,
    }


RESULTS = {
    "methods": {
        "sgd": {"label": "SGD", "half": "it has no state", "grid": {"learning_rate": [1, 2]}},
        "kfac-eigh": {"label": "KFAC", "half": "", "grid": {"learning_rate": [1, 2]}},
    },
    "best": [{"network": "mlp", "method": "sgd", "settings": {"learning_rate": 2}}],
    "tuning": [{"network": "mlp", "method": "sgd"}] * 2,
    "runs": [
        final_run("sgd", 0, [0.5, 0.96, 0.98], seconds=2.0),
        final_run("sgd", 1, [0.95, 0.96, 0.96], seconds=4.0),
        final_run("sgd", 2, [0.5, 0.96, 0.96], seconds=2.0),
        final_run("kfac-eigh", 0, [0.96, 0.97, 0.98]),
        final_run("kfac-eigh", 1, [0.98], diverged="`A` is indefinite: more"),
        final_run("kfac-eigh", 0, [0.9, 0.9, 0.94], dtype="bfloat16"),
        final_run("sgd", 0, [0.9], network="wide"),
        final_run("kfac-eigh", 0, [0.9], seconds=8.0, network="wide"),
    ],
}
RESULTS["best"][0]["validation"] = 0.9


def test_accuracy_table():
    _, sgd, kfac, half = report.accuracy_table(RESULTS, "mlp")
    assert sgd[:3] == ["SGD", "float32", "96.67 ± 1.15"]
    assert sgd[3:] == ["2", "4", "never in 2 of 3", "never in 2 of 3", "none"]
    assert kfac[2] == "54.00 ± 62.23"
    assert kfac[3:7] == ["never in 1 of 2"] * 4
    assert kfac[7] == "1 of 2 (`A` is indefinite)"
    assert half == ["KFAC", "bfloat16", "94.00", *["never in 1 of 1"] * 4, "none"]


def test_median_of_what_was_not_always_reached():
    assert report.middle([3, math.inf, 2, 5, 4]) == "4 (never in 1 of 5)"


def test_time_tables():
    assert report.seconds_table(RESULTS, "mlp")[1:] == [
        ["SGD", "500", "500", "500", "500", "2,000"],
        ["KFAC", "250", "250", "250", "250", "1,000"],
    ]
    _, sgd, kfac = report.wide_table(RESULTS)
    assert sgd == ["SGD", "1,000", "250", "0.125", "1", "90.00", "none"]
    assert kfac == ["KFAC", "8,000", "2,000", "1", "8", "90.00", "none"]


def test_tables_of_settings_state_and_dtypes():
    settings = report.settings_table(RESULTS, "mlp")
    assert settings[1:] == [["SGD", "learning rate 1, **2**", "2", "90.00"]]
    state = report.state_table(RESULTS)
    assert state[0] == ["method", "mlp, float32", "mlp, bfloat16", "wide, float32"]
    assert state[1] == ["SGD", "2.0", "–", "2.0"]
    _, sgd, kfac = report.half_table(RESULTS, "mlp")
    assert sgd == ["SGD", "96.67 ± 1.15", "it has no state", "–", "–"]
    assert kfac == ["KFAC", "54.00 ± 62.23", "94.00", "+40.00", "none"]


def test_table_of_claims(monkeypatch):
    claims = (("KFAC", "kfac-eigh", "sgd"), ("none", "ingd", "sgd"))
    monkeypatch.setattr(report, "CLAIMS", claims)
    _, mlp, wide = report.claims_table(RESULTS)
    assert mlp == ["KFAC", "SGD", "mlp", "0.500", "0.500", "-42.67 ± 44.01"]
    assert wide == ["KFAC", "SGD", "wide", "8", "8", "+0.00 "]


def test_all_tables_are_rectangular_markdown():
    tables = dict(report.all_tables(RESULTS))
    assert len(tables) == 4 + 4 + 2
    for rows in tables.values():
        assert {len(row) for row in rows} == {len(rows[0])}
    lines = report.markdown(tables["Optimiser state in KiB"]).splitlines()
    assert lines[1] == "| --- | --- | --- | --- |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1.5, "1.50"), (123.4, "123"), (12345.6, "12,346"), (0.0, "0")],
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text
