"""The training study of docs/examples: networks, the loop, and a short study, interrupted."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import log_softmax

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
sys.path.append(str(EXAMPLES))

import training_study.__main__ as command_line  # noqa: E402
from training_study import clock, data, report, store, training  # noqa: E402
from training_study.clock import PHASES, Clock  # noqa: E402
from training_study.libraries import open_library  # noqa: E402
from training_study.networks import (  # noqa: E402
    CNN,
    MLP,
    NETWORKS,
    Tape,
    cross_entropy,
    mean_gradient,
    patches,
    with_ones,
)
from training_study.optimizers import METHODS  # noqa: E402
from training_study.runs import EPOCHS, SEEDS, Run, Study, full_grid, thinned_grid  # noqa: E402

SMALL = [MLP((64, 9, 7, 10)), CNN(channels=(1, 3, 4), strides=(1, 2), classes=10)]
EPS = np.finfo(float).eps
SGD = {"learning_rate": 0.1, "momentum": 0.9}
KFAC = {"learning_rate": 0.03, "damping": 0.1}


@pytest.fixture(params=SMALL, ids=["mlp", "cnn"])
def network(request):
    return request.param


def problem(network, rng):
    """Return weights with biases, images and targets of a few samples, in float64."""
    weights = [W + 0.1 * rng.standard_normal(W.shape) for W in network.initial(0)]
    return weights, rng.random((5, 64)), np.eye(10)[rng.integers(0, 10, 5)]


def losses_and_tapes(network, weights, x, targets):
    logits, inputs = network.forward(weights, x)
    losses, g = cross_entropy(logits, targets)
    return losses, network.backward(weights, inputs, g)


# ------------------------------------------------------------------------------- networks


def test_gradients_are_those_of_the_loss(network, rng):
    weights, x, targets = problem(network, rng)
    _, tapes = losses_and_tapes(network, weights, x, targets)
    step = EPS ** (1 / 3)
    for i, (W, tape) in enumerate(zip(weights, tapes, strict=True)):
        along = rng.standard_normal(W.shape)
        ends = [[*weights[:i], W + h * along, *weights[i + 1 :]] for h in (step, -step)]
        after, before = (losses_and_tapes(network, end, x, targets)[0].mean() for end in ends)
        expected = np.sum(mean_gradient(tape) * along)
        scale = np.linalg.norm(mean_gradient(tape)) * np.linalg.norm(along)
        assert abs((after - before) / (2 * step) - expected) < 100 * step**2 * scale


def test_tapes_hold_what_the_layers_saw(network, rng):
    weights, x, targets = problem(network, rng)
    _, tapes = losses_and_tapes(network, weights, x, targets)
    for W, tape in zip(weights, tapes, strict=True):
        assert tape.inputs.shape[:-1] == tape.output_gradients.shape[:-1]
        assert (tape.output_gradients.shape[-1], tape.inputs.shape[-1]) == W.shape
        assert np.all(tape.inputs[..., -1] == 1)
    for m in range(len(x)):
        _, alone = losses_and_tapes(network, weights, x[m : m + 1], targets[m : m + 1])
        for tape, one in zip(tapes, alone, strict=True):
            np.testing.assert_allclose(tape.output_gradients[m], one.output_gradients[0])


def test_all_libraries_agree(network, rng, valued_backend):
    weights, x, targets = ([*map(np.float32, part)] for part in problem(network, rng))
    x, targets = np.array(x), np.array(targets)
    reference = losses_and_tapes(network, *(map_float64(part) for part in (weights, x, targets)))
    arrays = [valued_backend.asarray(part) for part in (weights, x, targets)]
    losses, tapes = losses_and_tapes(network, *arrays)
    assert all(isinstance(tape, Tape) for tape in tapes)
    valued_backend.assert_matches(
        [losses, *itertools.chain(*tapes)],
        [reference[0], *itertools.chain(*reference[1])],
        like=arrays[1],
        dtype="float32",
        tolerance=100 * np.finfo(np.float32).eps,
    )


def map_float64(part):
    return [W.astype(float) for W in part] if isinstance(part, list) else part.astype(float)


def test_bfloat16_in_torch(network, rng):
    torch = pytest.importorskip("torch")
    weights, x, targets = problem(network, rng)
    _, reference = losses_and_tapes(network, weights, x, targets)
    weights = [torch.asarray(W, dtype=torch.bfloat16) for W in weights]
    x, targets = (torch.asarray(part, dtype=torch.bfloat16) for part in (x, targets))
    _, tapes = losses_and_tapes(network, weights, x, targets)
    eps = torch.finfo(torch.bfloat16).eps
    for tape, exact in zip(tapes, reference, strict=True):
        assert {part.dtype for part in tape} == {torch.bfloat16}
        for part, wanted in zip(tape, exact, strict=True):
            error = np.linalg.norm(part.float().numpy() - wanted) / np.linalg.norm(wanted)
            assert error < 10 * eps


@pytest.mark.parametrize("stride", [1, 2])
def test_patches_make_a_product_a_convolution(stride, rng):
    image, kernel = rng.random((2, 8, 8, 3)), rng.random((4, 3, 3, 3))
    result = patches(image, stride) @ kernel.reshape(4, -1).T
    for m, d in itertools.product(range(2), range(4)):
        planes = (correlate2d(image[m, ..., c], kernel[d, ..., c], "same") for c in range(3))
        np.testing.assert_allclose(result[m, ..., d], sum(planes)[::stride, ::stride])


def test_cross_entropy_of_large_logits(rng):
    logits, targets = 1e4 * rng.standard_normal((5, 10)), np.eye(10)[:5]
    losses, g = cross_entropy(logits, targets)
    np.testing.assert_allclose(losses, -np.sum(targets * log_softmax(logits, axis=1), axis=1))
    np.testing.assert_allclose(g, np.exp(log_softmax(logits, axis=1)) - targets, atol=EPS)


def test_ones_are_appended_in_the_dtype_of_the_inputs():
    np.testing.assert_array_equal(with_ones(np.zeros((2, 3), np.float32))[:, 3], 1)
    assert with_ones(np.zeros((2, 3), np.float32)).dtype == np.float32


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


def test_clock_refuses_what_would_count_wrongly():
    measured = Clock(lambda: None)
    with pytest.raises(KeyError, match="no phase 'rest': one of network"), measured("rest"):
        pass
    with (
        measured("network"),
        pytest.raises(RuntimeError, match="statistics within network"),
        measured("statistics"),
    ):
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


# ------------------------------------------------------------------------------- training


class Directions:
    """A method whose directions are those of a function of step and weights."""

    momentum = 0.0

    def __init__(self, function):
        self.function, self.taken = function, 0

    def directions(self, weights, tapes, clock):
        self.taken += 1
        return [self.function(self.taken, W) for W in weights]

    def arrays(self):
        return [np.zeros(3), np.zeros(2, np.float32)]


def stand_in(function):
    return SimpleNamespace(make=lambda weights, settings, dtype: Directions(function))


def trained(function, epochs=2):
    settings = {"learning_rate": 0.5}
    return training.train(SMALL[0], stand_in(function), settings, seed=3, epochs=epochs, batch=64)


def test_learning_rate_falls_linearly_and_momentum_adds_up():
    library = open_library("numpy")
    steps, momentum, rate = 32, 0.9, 0.5
    loop = training.Training(
        SMALL[0], stand_in(lambda t, W: 1e-6 * np.ones_like(W)), {}, 0, "float32", library
    )
    loop.optimizer.momentum = momentum
    start = [W.astype(float) for W in loop.weights]
    record = {"loss": [], "validation": [], "test": [], "seconds": {p: [] for p in PHASES}}
    training.run_epochs(loop, record, rate, seed=0, epochs=2, batch=64)
    assert loop.optimizer.taken == steps
    moved = sum(
        rate * (1 - t / steps) * (1 - momentum ** (t + 1)) / (1 - momentum) for t in range(steps)
    )
    for W, before in zip(loop.weights, start, strict=True):
        np.testing.assert_allclose(W, before - 1e-6 * moved, atol=steps * 1e-7)


def test_an_epoch_has_every_image_once():
    digits = data.Digits(np.arange(100.0)[:, None], np.arange(100))
    batches = training.shuffled(digits, 32, np.random.default_rng(0))
    assert [len(batch.labels) for batch in batches] == [32, 32, 32, 4]
    seen = np.concatenate([batch.labels for batch in batches])
    assert sorted(seen) == list(range(100))
    assert list(seen) != list(range(100))
    for batch in batches:
        np.testing.assert_array_equal(batch.images[:, 0], batch.labels)


def test_record_of_a_run():
    record = trained(lambda t, W: 0 * W)
    loop = training.Training(SMALL[0], stand_in(None), {}, 3, "float32", open_library("numpy"))
    loss, _ = loop.measure(data.split().train)
    assert record["loss"] == [loss, loss]
    assert record["test"] == [loop.measure(data.split().test)[1]] * 2
    assert record["validation"] == [loop.measure(data.split().validation)[1]] * 2
    assert list(record["seconds"]) == list(PHASES)
    assert all(len(epochs) == 2 for epochs in record["seconds"].values())
    assert record["state_bytes"] == 3 * 8 + 2 * 4
    assert record["diverged"] is False
    assert json.loads(json.dumps(record)) == record


def test_a_run_is_repeatable():
    runs = [
        training.train(SMALL[1], METHODS["sgd"], SGD, seed=seed, epochs=1, batch=64)
        for seed in (0, 0, 1)
    ]
    assert runs[0]["loss"] == runs[1]["loss"] != runs[2]["loss"]


def fails_later(t, W):
    if t == 17:  # the first step of the second epoch
        msg = "the factor is indefinite\nand more"
        raise np.linalg.LinAlgError(msg)
    return 0 * W


@pytest.mark.parametrize(
    ("function", "reason", "epochs"),
    [
        (fails_later, "the factor is indefinite", 1),
        (lambda t, W: W * (np.nan if t == 16 else 0), "the loss is not finite", 0),
        (lambda t, W: W * (np.inf if t == 18 else 0), "the loss is not finite", 1),
    ],
)
def test_a_run_that_diverges_ends_with_its_reason(function, reason, epochs):
    record = trained(function)
    assert record["diverged"] is True
    assert record["reason"] == reason
    assert len(record["test"]) == len(record["loss"]) == epochs
    assert all(len(seconds) == epochs for seconds in record["seconds"].values())


def test_errors_that_are_no_divergence_are_not_swallowed():
    def wrong(t, W):
        msg = "a mistake"
        raise TypeError(msg)

    with pytest.raises(TypeError, match="a mistake"):
        trained(wrong)


def test_bfloat16_keeps_weights_in_float32():
    torch = pytest.importorskip("torch")
    seen = {}

    class Watching(Directions):
        def directions(self, weights, tapes, clock):
            seen["weights"] = {W.dtype for W in weights}
            seen["tapes"] = {part.dtype for tape in tapes for part in tape}
            return [mean_gradient(tape) for tape in tapes]

    def make(weights, settings, dtype):
        seen["state"] = dtype
        return Watching(None)

    method, settings = SimpleNamespace(make=make), {"learning_rate": 0.1}
    options = {"seed": 0, "epochs": 1, "batch": 64, "library": "torch", "dtype": "bfloat16"}
    record = training.train(SMALL[1], method, settings, **options)
    half, single = {torch.bfloat16}, {torch.float32}
    assert seen == {"weights": single, "tapes": half, "state": "bfloat16"}
    assert record["loss"][0] < math.log(10)


def test_bfloat16_needs_a_library_that_has_it():
    with pytest.raises(ValueError, match="numpy has no bfloat16: choose torch or jax"):
        open_library("numpy", "bfloat16")


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("torch", "kfac-eigh", KFAC),
        ("jax", "sgd", SGD),
        pytest.param("jax", "kfac-eigh", KFAC, marks=pytest.mark.slow),
    ],
)
def test_libraries_train_alike(name, method, settings):
    pytest.importorskip(name)
    options = {"seed": 0, "epochs": 1, "batch": 64}
    records = [
        training.train(SMALL[0], METHODS[method], settings, library=library, **options)
        for library in ("numpy", name)
    ]
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_every_method_trains(method, network):
    third, second = METHODS[method].grid.values()  # of the learning rates, of the others
    settings = dict(zip(METHODS[method].grid, (third[2], second[1])))
    record = training.train(
        NETWORKS[network], METHODS[method], settings, seed=0, epochs=1, batch=64
    )
    assert not record["diverged"], record["reason"]
    assert record["loss"][-1] < math.log(10)
    assert record["test"][-1] > 2 * data.CHANCE


# ----------------------------------------------------------------------------- what is run

METHOD_NAMES = tuple(METHODS)


def test_every_method_is_tuned_alike():
    assert {len(full_grid(method)) for method in METHODS} == {24}
    for method in METHODS:
        thinned = thinned_grid(method)
        assert len(thinned) == 12
        assert set(thinned) < set(full_grid(method))
        for name, values in METHODS[method].grid.items():
            assert {dict(settings)[name] for settings in thinned} == set(values)


def test_the_whole_study():
    study = Study(("mlp", "cnn", "wide"), METHOD_NAMES, "torch")
    tuning = study.tuning()
    best = {(run.network, run.method): run.settings for run in tuning}
    final = study.final(best)
    assert study.size() == (len(tuning), len(final)) == (len(tuning), len(set(final)))
    assert len({run.key for run in tuning + final}) == len(tuning) + len(final)
    assert len(tuning) == 2 * 24 * len(METHODS) + 3 * 12
    assert {run.seed for run in tuning}.isdisjoint(run.seed for run in final)
    in_half = sum(not method.half for method in METHODS.values())
    on_small = [run for run in final if run.network != "wide"]
    assert len(on_small) == 2 * SEEDS["mlp"] * (len(METHODS) + in_half)
    on_wide = [run for run in final if run.network == "wide"]
    assert {run.dtype for run in on_wide} == {"float32"}
    shared = {run.settings for run in on_wide if run.method.startswith("rkfac")}
    assert shared == {best["wide", "kfac-eigh"]}
    assert all(run.epochs == EPOCHS[run.network] for run in final)


def test_no_bfloat16_where_the_library_has_none():
    study = Study(("mlp",), ("sgd",), "numpy")
    assert {run.dtype for run in study.final({("mlp", "sgd"): ()})} == {"float32"}


def test_the_best_settings_are_those_of_validation():
    study = Study(("mlp",), ("sgd",), "numpy")
    runs = study.tuning()

    def record(validation, loss, diverged=False):
        return {"validation": validation, "test": [1.0], "loss": [loss], "diverged": diverged}

    records = {run.key: record([0.9], 0.1) for run in runs}
    records[runs[2].key] = record([0.99, 0.99, 0.99], 0.1, diverged=True)
    records[runs[4].key] = record([0.1, 0.93, 0.92, 0.94], 0.3)
    records[runs[5].key] = record([0.93, 0.93, 0.93], 0.2)
    records[runs[7].key] = record([0.99, 0.6, 0.6, 0.99], 0.0)
    assert study.best(records) == {("mlp", "sgd"): runs[5].settings}
    records.pop(runs[0].key)
    assert study.best(records) == {}


# ------------------------------------------------------------------------------ the store

RUN = Run("mlp", "sgd", (("learning_rate", 0.1), ("momentum", 0.9)), 0, "float32", "numpy", 2, 64)


@pytest.mark.parametrize("rest", ['{"key": "mlp/s', "\x00\x00", "{}"])
def test_a_line_cut_short_is_dropped(tmp_path, rest):
    path = tmp_path / "runs.jsonl"
    store.Store(path, {}).append(RUN, {"diverged": False})
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + rest, encoding="utf-8")
    again = store.Store(path, {})
    assert RUN in again
    assert path.read_text(encoding="utf-8") == whole
    again.append(RUN, {"diverged": True})
    assert [line["record"]["diverged"] for line in store.read(path)] == [False, True]
    assert json.loads(whole)["run"]["settings"] == {"learning_rate": 0.1, "momentum": 0.9}


@pytest.mark.parametrize("begun", ["", '{"k', '{"key": "mlp/s'])
def test_a_first_line_cut_short_is_dropped(tmp_path, begun):
    path = tmp_path / "runs.jsonl"
    path.write_text(begun, encoding="utf-8")
    assert store.Store(path, {}).lines == []
    assert path.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("other", ['{"my": 1}', "\x00", "a"])
def test_a_file_of_something_else_is_left_alone(tmp_path, other):
    path = tmp_path / "runs.jsonl"
    path.write_text(other, encoding="utf-8")
    with pytest.raises(store.DamagedStoreError, match="was not written by a study"):
        store.Store(path, {})
    assert path.read_text(encoding="utf-8") == other


def test_a_file_that_cannot_be_written_is_said_at_once(tmp_path):
    with pytest.raises(OSError, match="directory"):
        store.Store(tmp_path, {})


@pytest.mark.parametrize("damaged", ["no JSON", "[]", '{"key": "mlp"}'])
def test_a_damaged_line_is_named(tmp_path, damaged, capsys):
    path = tmp_path / "runs.jsonl"
    store.Store(path, {}).append(RUN, {})
    path.write_text(path.read_text(encoding="utf-8") + damaged + "\n", encoding="utf-8")
    with pytest.raises(store.DamagedStoreError, match="line 2 is not a run"):
        store.read(path)
    assert refused(["run", "--library", "numpy", "--output", str(path)], capsys)


# ----------------------------------------------------------------------- the command line

SHORT = ["--short", "--networks", "mlp", "cnn", "--methods", "sgd", "kfac-eigh"]


def refused(arguments, capsys):
    """Run a command that has to fail with one line, and return the line."""
    with pytest.raises(SystemExit) as leaving:
        command_line.main(arguments)
    assert leaving.value.code == command_line.BAD_ARGUMENT
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("library", ["numpy", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_study_that_is_interrupted_goes_on_where_it_was(library, tmp_path, monkeypatch, capsys):
    pytest.importorskip(library)
    runs, results, picture = (tmp_path / name for name in ("r.jsonl", "r.json", "r.png"))
    arguments = ["run", *SHORT, "--library", library, "--output", str(runs)]
    perform, performed = Run.perform, []

    def interrupted(run):
        if len(performed) in (1, 5):
            performed.append(None)
            raise KeyboardInterrupt
        performed.append(run.key)
        return perform(run)

    monkeypatch.setattr(Run, "perform", interrupted)
    codes = [command_line.main(arguments) for _ in range(4)]
    assert codes == [command_line.INTERRUPTED, command_line.INTERRUPTED, 0, 0]
    assert "the same command goes on" in capsys.readouterr().err
    finals = 4 if library == "numpy" else 4 + 2 * sum(not METHODS[m].half for m in SHORT[-2:])
    keys = [line["key"] for line in store.read(runs)]
    assert keys == [key for key in performed if key]
    assert len(keys) == len(set(keys)) == 4 + finals

    others = ["--results", str(results), "--picture", str(picture)]
    report_arguments = ["report", "--short", "--library", library, "--runs", str(runs), *others]
    assert command_line.main(report_arguments) == 0
    tables = capsys.readouterr().out
    assert "CNN: accuracy" in tables
    assert METHODS["kfac-eigh"].label in tables
    assert picture.read_bytes().startswith(b"\x89PNG")
    summary = report.read_results(results)
    assert len(summary["tuning"]) == len(summary["best"]) == 4
    assert len(summary["runs"]) == finals
    assert sum(environment["runs"] for environment in summary["environments"]) == 4 + finals
    assert summary["environments"][0]["versions"][library]


@pytest.mark.slow
def test_tuning_in_two_processes_finishes_what_it_is_at(tmp_path, monkeypatch):
    from training_study import execution

    path = tmp_path / "runs.jsonl"
    arguments = ["run", *SHORT, "--library", "numpy", "--output", str(path)]
    arguments += ["--phase", "tuning", "--jobs", "2"]

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "wait", interrupted)
        assert command_line.main(arguments) == command_line.INTERRUPTED
    assert len(store.read(path)) == 2
    assert command_line.main(arguments) == 0
    keys = [line["key"] for line in store.read(path)]
    study = Study(("mlp", "cnn"), tuple(SHORT[-2:]), "numpy", short=True)
    assert sorted(keys) == sorted(run.key for run in study.tuning())


def test_final_runs_need_those_of_tuning(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    arguments = ["run", *SHORT, "--library", "numpy", "--output", str(path), "--phase", "final"]
    assert "lacks 4 runs of tuning" in refused(arguments, capsys)
    assert store.read(path) == []


def test_a_file_is_of_one_library(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    store.Store(path, {}).append(RUN, {})
    pytest.importorskip("torch")
    line = refused(["run", *SHORT, "--library", "torch", "--output", str(path)], capsys)
    assert "has runs of numpy: choose another file by --output" in line


@pytest.mark.parametrize("wrong", [["--jobs", "0"], ["--networks", "big"], ["--methods", "lion"]])
def test_a_bad_argument_is_one_line(wrong, capsys):
    assert f"argument {wrong[0]}: " in refused(["run", *wrong], capsys)


def test_nothing_to_report(tmp_path, capsys):
    line = refused(["report", "--runs", str(tmp_path / "none.jsonl")], capsys)
    assert "has no final runs of this study with torch" in line


@pytest.mark.parametrize(
    ("library", "extra"), [("torch", "torch"), ("jax", "jax"), ("cupy", "cuda13")]
)
def test_a_missing_library_is_one_line(library, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    path = tmp_path / "runs.jsonl"
    line = refused(["run", "--library", library, "--output", str(path)], capsys)
    assert f'{library} is not installed: pip install "ngdla[{extra}]"' in line
    assert not path.exists()


def test_missing_scikit_learn_is_one_line(tmp_path, monkeypatch, capsys):
    data.split.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    path = tmp_path / "runs.jsonl"
    line = refused(["run", "--library", "numpy", "--output", str(path)], capsys)
    assert 'scikit-learn: pip install "ngdla[study]"' in line
    assert not path.exists()


def test_the_folder_is_a_program():
    command = [sys.executable, str(EXAMPLES / "training_study"), "run", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--library" in answer.stdout


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
