"""The training study of docs/examples: networks, variants, the loop, and a study, interrupted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate2d

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
sys.path.append(str(EXAMPLES))

import training_study.__main__ as command_line  # noqa: E402
from training_study import data, report, store, training  # noqa: E402
from training_study.clock import PHASES  # noqa: E402
from training_study.methods import METHODS, Method  # noqa: E402
from training_study.networks import CNN, MLP, NETWORKS  # noqa: E402
from training_study.runs import EPOCHS, SEEDS, Run, Study, full_grid, thinned_grid  # noqa: E402
from training_study.variants import CholeskyKFAC, DampedSolve  # noqa: E402

from ngdla.adapters.torch_modules import record as recording_of  # noqa: E402

SMALL = [MLP((64, 9, 7, 10)), CNN(channels=(1, 3, 4), strides=(1, 2), classes=10)]
EPS = float(np.finfo(np.float32).eps)
SGD = {"learning_rate": 0.1, "momentum": 0.9}


# ------------------------------------------------------------------------------- networks


def drawn(seed, *shapes):
    """Return weights without biases, scaled as those of networks with relu."""
    rng = np.random.default_rng(seed)
    matrices = (rng.standard_normal((d_out, d_in + 1))[:, :-1] for d_out, d_in in shapes)
    return [np.sqrt(2 / d_in) * W for W, (_, d_in) in zip(matrices, shapes, strict=True)]


def outputs_of(network, x):
    with torch.no_grad():
        return network.module(3)(torch.from_numpy(x)).numpy()


def test_an_mlp_has_the_weights_that_are_drawn(rng):
    x = rng.random((5, 64), dtype=np.float32)
    first, second, last = drawn(3, (9, 64), (7, 9), (10, 7))
    expected = np.maximum(np.maximum(x @ first.T, 0) @ second.T, 0) @ last.T
    np.testing.assert_allclose(outputs_of(SMALL[0], x), expected, rtol=0, atol=100 * EPS)


def test_a_cnn_has_the_weights_that_are_drawn(rng):
    """Columns are drawn by place, then by channel."""
    x = rng.random((5, 64), dtype=np.float32)
    *kernels, last = drawn(3, (3, 9), (4, 27), (10, 64))
    images = x.reshape(5, 8, 8, 1)
    for kernel, stride in zip(kernels, (1, 2), strict=True):
        kernel = kernel.reshape(len(kernel), 3, 3, -1)
        planes = [
            [sum(correlate2d(image[..., c], k[..., c], "same") for c in range(k.shape[-1]))]
            for image in images
            for k in kernel
        ]
        planes = np.reshape(planes, (5, len(kernel), *images.shape[1:3]))
        images = np.maximum(planes[:, :, ::stride, ::stride].transpose(0, 2, 3, 1), 0)
    expected = images.reshape(5, -1) @ last.T
    np.testing.assert_allclose(outputs_of(SMALL[1], x), expected, rtol=0, atol=100 * EPS)


# ------------------------------------------------------------------------------- variants


@pytest.fixture
def layers(rng):
    """Rows of one layer, after a forward and a backward pass in float64."""
    layer = torch.nn.Linear(4, 3).double()
    with recording_of(layer) as layers:
        layer(torch.from_numpy(rng.standard_normal((20, 4)))).square().sum(1).mean().backward()
    return layers


def only_rows(layers):
    (rows,) = layers.rows().values()
    return [x.numpy() for x in rows]


def test_kfac_by_cholesky_has_factored_damping(layers):
    a, g = only_rows(layers)
    (name,) = layers
    V = layers.gradient(name).numpy()
    CholeskyKFAC(0.01, kl=None).precondition(layers, 1.0)
    A, G = a.T @ a / 20, g.T @ g / 20
    pi = np.sqrt(np.trace(A) / 5 / (np.trace(G) / 3))
    expected = np.linalg.solve(G + 0.1 / pi * np.eye(3), V) @ np.linalg.inv(
        A + 0.1 * pi * np.eye(5)
    )
    np.testing.assert_allclose(layers.gradient(name), expected, rtol=1e-10)


def test_damped_solves_are_natural_gradients(layers):
    a, g = only_rows(layers)
    (name,) = layers
    V = layers.gradient(name).numpy()
    S = np.einsum("mi,mj->mij", g, a).reshape(20, -1)
    DampedSolve(0.01, kl=None).precondition(layers, 1.0)
    expected = np.linalg.solve(S.T @ S / 20 + 0.01 * np.eye(15), V.ravel())
    np.testing.assert_allclose(layers.gradient(name).numpy().ravel(), expected, rtol=1e-9)


# ------------------------------------------------------------------------------- training


class Directions:
    """Steps that are a function of their number and of gradients."""

    def __init__(self, function):
        self.function, self.taken = function, 0

    def precondition(self, layers, lr):
        self.taken += 1
        for name in layers:
            layers.write(name, self.function(self.taken, layers.gradient(name)))

    def state_dict(self):
        return {"kept": [torch.zeros(3, dtype=torch.float64)], "more": torch.zeros(2)}

    def load_state_dict(self, state):
        self.loaded = {x.dtype for x in (*state["kept"], state["more"])}


def stand_in(function):
    return Method("", {}, lambda settings, dtype: Directions(function))


STILL = {"learning_rate": 0.5, "momentum": 0.0}


def trained(function, epochs=2):
    return training.train(SMALL[0], stand_in(function), STILL, seed=3, epochs=epochs, batch=64)


def weights(loop):
    return [p.detach().double().numpy().copy() for p in loop.model.parameters()]


def test_learning_rate_falls_linearly_and_momentum_adds_up():
    steps, momentum, rate = 32, 0.9, 0.5
    ones = stand_in(lambda t, V: 1e-6 * torch.ones_like(V))
    loop = training.Training(SMALL[0], ones, {"learning_rate": rate}, 0, "float32")
    start = weights(loop)
    training.run_epochs(loop, empty_record(), rate, seed=0, epochs=2, batch=64)
    assert loop.preconditioner.taken == steps
    moved = sum(
        rate * (1 - t / steps) * (1 - momentum ** (t + 1)) / (1 - momentum) for t in range(steps)
    )
    for W, before in zip(weights(loop), start, strict=True):
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
    record = trained(lambda t, V: 0 * V)
    loop = training.Training(SMALL[0], stand_in(None), STILL, 3, "float32")
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


def fails_later(t, V):
    if t == 17:  # the first step of the second epoch
        msg = "the factor is indefinite\nand more"
        raise ValueError(msg)
    return 0 * V


@pytest.mark.parametrize(
    ("function", "reason", "epochs"),
    [
        (fails_later, "the factor is indefinite", 1),
        (lambda t, V: V * (np.nan if t == 16 else 0), "the loss is not finite", 0),
        (lambda t, V: V * (np.inf if t == 18 else 0), "the loss is not finite", 1),
    ],
)
def test_a_run_that_diverges_ends_with_its_reason(function, reason, epochs):
    record = trained(function)
    assert record["diverged"] is True
    assert record["reason"] == reason
    assert len(record["test"]) == len(record["loss"]) == epochs
    assert all(len(seconds) == epochs for seconds in record["seconds"].values())


def test_errors_that_are_no_divergence_are_not_swallowed():
    def wrong(t, V):
        msg = "a mistake"
        raise TypeError(msg)

    with pytest.raises(TypeError, match="a mistake"):
        trained(wrong)


def test_bfloat16_keeps_weights_in_float32():
    method = stand_in(lambda t, V: V)
    loop = training.Training(SMALL[1], method, STILL, 0, "bfloat16")
    seen = []
    loop.model[1].register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    training.run_epochs(loop, empty_record(), 0.1, seed=0, epochs=1, batch=64)
    assert set(seen[:16]) == {torch.bfloat16}
    assert set(seen[16:]) == {torch.float32}, "loss and accuracy are those of the weights"
    assert {p.dtype for p in loop.model.parameters()} == {torch.float32}
    assert loop.preconditioner.loaded == {torch.bfloat16}


def empty_record():
    return {"loss": [], "validation": [], "test": [], "seconds": {p: [] for p in PHASES}}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_a_state_in_bfloat16(method):
    settings = {name: values[1] for name, values in METHODS[method].grid.items()}
    loops = [training.Training(SMALL[1], METHODS[method], settings, 0, d) for d in DTYPES]
    for loop in loops:
        training.warm_up(loop, data.split().train, 64)
    single, half = (sum(x.nbytes for x in loop.kept()) for loop in loops)
    assert half <= single
    if loops[1].preconditioner is not None:
        tensors = training.tree_leaves(loops[1].preconditioner.state_dict())
        kept = {x.dtype for x in tensors if isinstance(x, torch.Tensor) and x.ndim}
        assert kept <= {torch.bfloat16}


DTYPES = ("float32", "bfloat16")


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
    study = Study(("mlp", "cnn", "wide"), METHOD_NAMES)
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


def test_the_best_settings_are_those_of_validation():
    study = Study(("mlp",), ("sgd",))
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

RUN = Run("mlp", "sgd", (("learning_rate", 0.1), ("momentum", 0.9)), 0, "float32", 2, 64)


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
    assert refused(["run", "--output", str(path)], capsys)


# ----------------------------------------------------------------------- the command line

SHORT = ["--short", "--networks", "mlp", "cnn", "--methods", "sgd", "kfac-eigh"]


def refused(arguments, capsys):
    """Run a command that has to fail with one line, and return the line."""
    with pytest.raises(SystemExit) as leaving:
        command_line.main(arguments)
    assert leaving.value.code == command_line.BAD_ARGUMENT
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_study_that_is_interrupted_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    runs, results, picture = (tmp_path / name for name in ("r.jsonl", "r.json", "r.png"))
    arguments = ["run", *SHORT, "--output", str(runs)]
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
    finals = 4 + 2 * sum(not METHODS[m].half for m in SHORT[-2:])
    keys = [line["key"] for line in store.read(runs)]
    assert keys == [key for key in performed if key]
    assert len(keys) == len(set(keys)) == 4 + finals

    others = ["--results", str(results), "--picture", str(picture)]
    report_arguments = ["report", "--short", "--runs", str(runs), *others]
    assert command_line.main(report_arguments) == 0
    tables = capsys.readouterr().out
    assert "CNN: accuracy" in tables
    assert METHODS["kfac-eigh"].label in tables
    assert picture.read_bytes().startswith(b"\x89PNG")
    summary = report.read_results(results)
    assert len(summary["tuning"]) == len(summary["best"]) == 4
    assert len(summary["runs"]) == finals
    assert sum(environment["runs"] for environment in summary["environments"]) == 4 + finals
    assert summary["environments"][0]["versions"]["torch"]


@pytest.mark.slow
def test_tuning_in_two_processes_finishes_what_it_is_at(tmp_path, monkeypatch):
    from training_study import execution

    path = tmp_path / "runs.jsonl"
    arguments = ["run", *SHORT, "--output", str(path)]
    arguments += ["--phase", "tuning", "--jobs", "2"]

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "wait", interrupted)
        assert command_line.main(arguments) == command_line.INTERRUPTED
    assert len(store.read(path)) == 2
    assert command_line.main(arguments) == 0
    keys = [line["key"] for line in store.read(path)]
    study = Study(("mlp", "cnn"), tuple(SHORT[-2:]), short=True)
    assert sorted(keys) == sorted(run.key for run in study.tuning())


def test_final_runs_need_those_of_tuning(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    arguments = ["run", *SHORT, "--output", str(path), "--phase", "final"]
    assert "lacks 4 runs of tuning" in refused(arguments, capsys)
    assert store.read(path) == []


@pytest.mark.parametrize("wrong", [["--jobs", "0"], ["--networks", "big"], ["--methods", "lion"]])
def test_a_bad_argument_is_one_line(wrong, capsys):
    assert f"argument {wrong[0]}: " in refused(["run", *wrong], capsys)


def test_nothing_to_report(tmp_path, capsys):
    line = refused(["report", "--runs", str(tmp_path / "none.jsonl")], capsys)
    assert "has no final runs of this study" in line


def test_without_torch_there_is_one_line():
    code = "import sys; sys.modules['torch'] = None; import training_study.__main__ as m; m.main()"
    command = [sys.executable, "-c", code, "report"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES)
    assert answer.returncode == command_line.BAD_ARGUMENT
    assert answer.stderr.endswith('torch is not installed: pip install "ngdla[study]"\n')


def test_missing_scikit_learn_is_one_line(tmp_path, monkeypatch, capsys):
    data.split.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    path = tmp_path / "runs.jsonl"
    line = refused(["run", "--output", str(path)], capsys)
    assert 'scikit-learn: pip install "ngdla[study]"' in line
    assert not path.exists()


def test_the_folder_is_a_program():
    command = [sys.executable, str(EXAMPLES / "training_study"), "run", "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--networks" in answer.stdout
