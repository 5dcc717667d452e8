"""INGD against IKFAC: which runs there are, how settings are chosen, and the table."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.append(str(Path(__file__).resolve().parent.parent / "docs" / "examples"))

import training_study.__main__ as command_line
from training_study import rules_report, store
from training_study.clock import Clock
from training_study.data import split
from training_study.methods import RULES
from training_study.networks import NETWORKS
from training_study.report import read_results
from training_study.rules import COARSE, FINE, Comparison, carry_out, summarise
from training_study.runs import Run
from training_study.training import Training, warm_up


def performed(run):
    """Return a record that is best at one learning rate and damping."""
    settings = dict(run.settings)
    near = (settings["learning_rate"], settings["damping"]) == (0.01, 0.001)
    accuracy = 0.9 + 0.05 * near + 0.01 * (run.method == "rule-ikfac")
    epochs = [accuracy - 0.1, accuracy, accuracy - 0.01]
    return {
        "loss": [1.0, 0.1, 0.01],
        "validation": epochs,
        "test": epochs,
        "diverged": settings["step_size"] == 0.2,
    }


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "perform", performed)
    monkeypatch.setattr(store.os, "fsync", lambda number: None)
    path = tmp_path / "rules.jsonl"
    carry_out(Comparison(), ("grid", "final"), path, 1, "a command")
    return summarise(Comparison(), store.read(path))


def test_rules_are_tried_alike():
    coarse = Comparison().coarse()
    assert len(coarse) == len(set(coarse)) == 2 * 2 * 3 * 7 * 5 * 2 * 2
    methods = ("rule-ikfac", "rule-ingd")
    first, second = (
        {(r.network, r.settings, r.seed) for r in coarse if r.method == m} for m in methods
    )
    assert first == second
    assert not {*COARSE["step_size"]} & {*FINE["step_size"]}


def test_settings_are_those_of_validation(results):
    for name in ("mlp", "cnn"):
        for rule in rules_report.RULES:
            best = rules_report.chosen(results["grid"], name, rule)
            assert set(best) == set(rules_report.RESTRICTIONS)
            assert best["all settings"]["learning_rate"] == 0.01
            assert best["all settings"]["step_size"] != 0.2
            assert best["λ = 0.1"]["damping"] == 0.1
            assert best["with momentum of tangents"]["tangent_momentum"] > 0


def test_table_of_both_rules(results):
    head, first, *rest = rules_report.rules_table(results)
    assert len(rest) == 2 * (len(rules_report.RESTRICTIONS) + 4) - 1
    assert {len(row) for row in rest} == {len(head)}
    assert first[2:6] == ["95.00 ± 0.00", "94.00 ± 0.00", "-1.00 ± 0.00", "-1.00 ± 0.00"]
    assert rest[-1][2:] == ["–"] * 6, "without runs of the package"
    package = {
        (network, rule, warm_up, tuple(best[parts[rule]].items()))
        for network in ("mlp", "cnn")
        for rule in rules_report.RULES
        for best in [rules_report.chosen(results["grid"], network, rule)]
        for parts, warm_up in rules_report.PACKAGE_ROWS.values()
    }
    assert results["missing"] == 10 * len(package)


def test_table_of_all_settings(results):
    (_, ikfac, ingd, *rest) = rules_report.sensitivity_table(results)
    assert len(rest) == 2
    # 11 settings at the best learning rate and damping; those of step size 0.2 diverge in both
    assert ikfac[1:] == ["IKFAC", "149", "92.33", "87.33", "11", "70", "79"]
    assert ingd[1:5] == ["INGD", "149", "91.33", "86.33"]
    assert ingd[-2:] == ["70", "0"]


def test_what_diverges_counts_as_chance():
    runs = [{"loss": None}, {"loss": 0.5}, {"loss": 0.1}]
    assert rules_report.loss_of(runs) == "3.0e-01, 1 of 3 diverged"
    assert rules_report.accuracy({"diverged": True, "test": [0.9]}, -1) == 0.1


def test_the_comparison_is_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Run, "perform", performed)
    runs, written = tmp_path / "r.jsonl", tmp_path / "r.json"
    report = ["report", "--rules", "--short", "--runs", str(runs), "--results", str(written)]
    with pytest.raises(SystemExit):
        command_line.main(report)
    assert "runs of the grid are missing" in capsys.readouterr().err
    assert command_line.main(["rules", "--short", "--output", str(runs)]) == 0
    assert command_line.main(report) == 0
    assert "INGD − IKFAC" in capsys.readouterr().out
    assert read_results(written)["runs"]


@pytest.mark.parametrize("rule", rules_report.RULES)
def test_rules_take_all_settings(rule):
    settings = {name: values[0] for name, values in COARSE.items()} | {"tangent_momentum": 0.5}
    loop = Training(NETWORKS["mlp"], RULES[f"rule-{rule}"], settings, 0, "float32")
    warm_up(loop, split().train, 64)
    assert loop.preconditioner.update["rule"] == rule
    assert loop.preconditioner.update["momentum"] == 0.5
    assert loop.preconditioner.update["damping"] == 0.1 ** (0.5 if rule == "ikfac" else 1)


def test_the_package_takes_the_same_steps():
    pytest.importorskip("singd")
    settings = {"learning_rate": 0.01, "damping": 0.01, "step_size": 0.05, "warm_up": True}
    settings["tangent_momentum"] = 0.5
    losses = []
    for name in ("rule-ingd", "package-ingd"):
        loop = Training(NETWORKS["mlp"], RULES[name], settings, 0, "float32")
        for _ in range(2):
            loop.step(split().train, 0.01, Clock(lambda: None))
        losses.append(loop.measure(split().train)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
