"""Whatever is passed to whatever argument of a public function, what is said of it is clear.

Each argument of each call in `calls` is replaced, one at a time, by each of the values in `ODD`.
Such a call either works or is refused with one TypeError or ValueError that names an argument: no
error of an array library, or of Python about a conversion, a comparison or a hash, comes through.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import ngdla
from ngdla import structures

RAW = r"(?i)ambiguous|unhashable|broadcast|truth value|recursion|too large to convert|not iterable"


class Unequal:
    """Without a hash, and neither equal to anything nor unequal."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return np.array([True, False])


def deep_list() -> list[Any]:
    outer: list[Any] = []
    inner = outer
    for _ in range(100_000):
        inner.append([])
        inner = inner[0]
    return outer


ODD: dict[str, Any] = {
    "huge": 10**400,
    "-huge": -(10**400),
    "too long for a string": 10**5000,
    "fraction": Fraction(10**400, 3),
    "decimal": Decimal("0.1"),
    "text": "False",
    "none": None,
    "numpy bool": np.True_,
    "type": np.float64,
    "array of text": np.array(["auto"]),
    "array of numbers": np.array([0.5, 0.5]),
    "array of objects": np.array([[1, None]], dtype=object),
    "array of records": np.zeros((2, 2), dtype=[("re", float)]),
    "list of names": ["float64"],
    "lists of numbers": [[1.0, 2.0], [3.0, 4.0]],
    "ragged lists": [[1.0, 2.0], [3.0]],
    "deep list": deep_list(),
    "sparse": scipy.sparse.csr_array(np.eye(2)),
    "function": len,
    "unequal": Unequal(),
    "shape": (4.9, 3),
}


def tensors() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    ones = [torch.ones(2, 3), torch.ones(3, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them prototypes
        return {
            "nested": torch.nested.nested_tensor(ones),
            "jagged": torch.nested.nested_tensor(ones, layout=torch.jagged),
            "quantized": torch.quantize_per_tensor(ones[0], 0.1, 0, torch.quint8),
            "meta": torch.ones(2, 3, device="meta"),
            "sparse": torch.eye(3).to_sparse(),
        }


Call = tuple[Callable[..., Any], dict[str, Any]]


def with_defaults(function: Callable[..., Any], **given: Any) -> Call:
    """Return a call with every argument, those that are not given by their defaults."""
    parameters = inspect.signature(function).parameters.values()
    named = {p.name: p.default for p in parameters if p.default is not p.empty}
    return function, {**named, **given}


def solved(kind: Any, f: Any) -> Callable[..., Any]:
    """Return a function that makes a score matrix and solves with it."""

    @functools.wraps(kind)
    def solve(*args: Any, **options: Any) -> Any:
        return ngdla.damped_lstsq(kind(*args, **options), f, 0.5)

    return solve


ONE_RANK = ngdla.distributed.SerialCommunicator()


@functools.cache
def calls() -> dict[str, Call]:
    rng = np.random.default_rng(0)
    S, f, v = rng.standard_normal((4, 7)), rng.standard_normal(4), rng.standard_normal(7)
    A, V = np.diag([4.0, 3.0, 2.0, 1.0, 0.5]), np.ones((5, 5))
    a, g = rng.standard_normal((6, 4)), rng.standard_normal((6, 3))
    K, c = ngdla.sample_gram(a, g), np.ones(6)
    factor = ngdla.damped_factor(S, 0.5)
    state = ngdla.inverse_free_init(4, 3, like=a)
    statistics = ngdla.inverse_free_statistics(state, a, g)
    online = ngdla.online_eigh_init(V, 2)
    sharing = ngdla.weight_sharing_init("every", 6, period=2)
    M = ngdla.structured_factor(A, "diagonal", 1.0)
    eigh, nystrom = ngdla.randomized_eigh(A, 2), ngdla.nystrom_factor(A, 2)
    solve, sr = {"S": S, "damping": 0.5}, ngdla.stochastic_reconfiguration
    step = {"log_derivatives": S, "local_energies": f, "damping": 0.5, "method": "auto"}
    options = {"check": True, "full_output": False, "precision": "auto", "metric": None}
    update = {"state": state, "statistics": statistics, "damping": 0.1, "step_size": 0.1}
    rows = {"inputs": a, "output_gradients": g}
    streams = {"shape": (4, 7), "dtype": "float64"}
    products = {"matvec": lambda x: S @ x, "rmatvec": lambda y: S.T @ y, "shape": (4, 7)}
    sweep = with_defaults
    return {
        "damped_solve": sweep(ngdla.damped_solve, **solve, v=v),
        "damped_lstsq": sweep(ngdla.damped_lstsq, **solve, f=f),
        "damped_factor": sweep(ngdla.damped_factor, **solve),
        "DampedFactor.solve": sweep(factor.solve, v=v),
        "DampedFactor.lstsq": sweep(factor.lstsq, f=f),
        "DampedFactor.with_damping": (factor.with_damping, {"damping": 0.3}),
        "DampedFactor.leave_one_out": sweep(factor.leave_one_out, f=f),
        "damping_path": sweep(ngdla.damping_path, S=S, f=f, dampings=[1.0, 2.0]),
        "DampedFactor.overlap": sweep(factor.overlap, phi=v),
        "DampingPath.at_step": sweep(ngdla.damping_path(S, f, [1.0]).at_step, delta=0.1),
        "gram": sweep(ngdla.gram, S=S),
        "column_norms": sweep(ngdla.column_norms, S=S),
        "scores": sweep(ngdla.scores, log_derivatives=S),
        "residuals": sweep(ngdla.residuals, local_energies=f),
        "sr": (sr, {**step, **options, "mode": None, "previous": v, "momentum": 0.5, "refine": 1}),
        "sr, filtered": (sr, {**step, "snr": 2.0, "refine": 0}),
        "ColumnStream": sweep(solved(ngdla.ColumnStream, f), **streams, blocks=[S]),
        "ColumnShards": sweep(solved(ngdla.ColumnShards, f), S=S, communicator=ONE_RANK),
        "RowShards": sweep(solved(ngdla.RowShards, f), S=S, communicator=ONE_RANK),
        "ScoreOperator": sweep(solved(ngdla.ScoreOperator, f), **products, like=S),
        "ema": sweep(ngdla.ema, A=A, X=V, decay=0.5),
        "kronecker_solve": sweep(ngdla.kronecker_solve, A=A, G=A, V=V, damping=0.1),
        "randomized_eigh": sweep(ngdla.randomized_eigh, A=A, rank=2),
        "randomized_eigh, auto": (
            ngdla.randomized_eigh,
            {"A": A, "rank": "auto", "damping": 0.1, "target": 1.0, "max_rank": 5},
        ),
        "LowRankEigh.solve": (eigh.solve, {"V": V, "damping": 0.1, "check": True}),
        "LowRankEigh.matmul": (eigh.matmul, {"V": V, "check": True}),
        "LowRankEigh.truncate": sweep(eigh.truncate, rank=1),
        "nystrom_factor": sweep(ngdla.nystrom_factor, A=A, rank=2),
        "NystromFactor.solve": (nystrom.solve, {"V": V, "damping": 0.1, "check": True}),
        "NystromFactor.matmul": (nystrom.matmul, {"V": V, "check": True}),
        "randomized_svd": sweep(ngdla.randomized_svd, A=A, rank=2),
        "online_eigh_init": sweep(ngdla.online_eigh_init, X=V, rank=2),
        "online_eigh_update": sweep(ngdla.online_eigh_update, state=online, X=V, decay=0.5),
        "inverse_free_init": sweep(ngdla.inverse_free_init, d_in=4, d_out=3, like=a),
        "inverse_free_statistics": sweep(
            ngdla.inverse_free_statistics, state=state, **rows, weights=c
        ),
        "inverse_free_update": sweep(ngdla.inverse_free_update, **update),
        "inverse_free_apply": sweep(ngdla.inverse_free_apply, state=state, V=np.ones((3, 4))),
        "structured_factor": sweep(
            ngdla.structured_factor, statistics=A, structure="dense", damping=0.1
        ),
        "layer_rows": sweep(ngdla.layer_rows, **rows),
        "patches": sweep(ngdla.patches, x=np.ones((2, 4, 5, 5)), kernel=(2, 3)),
        "patches, pairs": sweep(
            ngdla.patches, x=np.ones((2, 4, 5, 5)), kernel=2, padding=((1, 0), (0, 1))
        ),
        "patch_means": sweep(ngdla.patch_means, x=np.ones((2, 4, 5, 5)), kernel=(2, 3)),
        "sample_gram": sweep(ngdla.sample_gram, **rows),
        "weighted_gradient": sweep(ngdla.weighted_gradient, **rows, c=c),
        "sample_weights": sweep(ngdla.sample_weights, K=K, damping=0.1),
        "weighted_cosine": sweep(ngdla.weighted_cosine, K=K, c=c, d=c),
        "weight_sharing_init": (
            ngdla.weight_sharing_init,
            {"policy": "every", "M": 6, "period": 2},
        ),
        "weight_sharing_step": sweep(ngdla.weight_sharing_step, state=sharing, **rows, damping=0.1),
        "expm_series": sweep(ngdla.expm_series, A=A, order=3),
        "sqrtm_psd": sweep(ngdla.sqrtm_psd, A=A),
        "inv_sqrtm_newton_schulz": sweep(ngdla.inv_sqrtm_newton_schulz, A=A, iterations=20),
        "Structure.zeros": sweep(M.structure.zeros, d=5, like=A),
        "Structure.project": sweep(M.structure.project, N=A),
        "StructuredMatrix.matmul": (M.matmul, {"other": V}),
        "StructuredMatrix.scaled": (M.scaled, {"factor": 2.0}),
        "StructuredMatrix.add_identity": (M.add_identity, {"shift": 2.0}),
        "StructuredMatrix.astype": (M.astype, {"dtype": "float32"}),
        "StructuredMatrix.where": (M.where, {"flag": np.array(True), "other": M}),
        "LowRankTriangular": sweep(structures.LowRankTriangular, k=2, features=(0, 1)),
        "Masked": (structures.Masked, {"mask": np.eye(3) > 0}),
        "structure_from": sweep(structures.structure_from, given="dense"),
    }


NAMES = list(calls())

# Functions of the user fail in their own words.
OWN_WORDS = {("ScoreOperator", argument) for argument in ("matvec", "rmatvec", "gram")}
OWN_WORDS |= {("ColumnStream", "blocks")}


def unclear(call: Callable[[], Any]) -> str | None:
    """Return what is wrong with a refusal; None if there is none, or if it is clear."""
    try:
        call()
    except Exception as caught:  # noqa: BLE001  whatever is raised is judged here
        said = f"{type(caught).__name__}: {caught}"
        chained = caught.__cause__ or (caught.__context__ and not caught.__suppress_context__)
        clear = type(caught) in (TypeError, ValueError) and "`" in said and len(said) < 800
        return None if clear and not chained and not re.search(RAW, said) else said
    return None


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_good(name: str) -> None:
    function, good = calls()[name]
    function(**good)


def refused_clearly(name: str, values: dict[str, Any]) -> None:
    function, good = calls()[name]
    problems = [
        f"{argument} = {kind}: {said}"
        for argument in good
        if (name, argument) not in OWN_WORDS
        for kind, value in values.items()
        if (said := unclear(lambda a=argument, x=value: function(**{**good, a: x})))
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", NAMES)
def test_odd_values(name: str) -> None:
    refused_clearly(name, ODD)


@pytest.mark.parametrize("name", NAMES)
def test_odd_tensors(name: str) -> None:
    refused_clearly(name, tensors())


# ---------------------------------------------------------------------------------- flags

FLAGS = ("check", "full_output", "prefetch", "progress", "batched", "stacked", "safeguard")
FLAGS += ("relative", "normalized", "diagnose", "momentum", "bias")


@pytest.mark.parametrize("name", NAMES)
def test_flags_are_true_or_false(name: str) -> None:
    function, good = calls()[name]
    flags = {key: value for key, value in good.items() if key in FLAGS}
    for flag in [key for key, value in flags.items() if value is None or isinstance(value, bool)]:
        for value in ("False", "True", 0, 1, np.True_, np.array(True), [True], 1.0):
            with pytest.raises(TypeError, match=f"`{flag}` is .*True.*False"):
                function(**{**good, flag: value})
        if good[flag] is not None:
            with pytest.raises(TypeError, match=f"`{flag}` is None"):
                function(**{**good, flag: None})


# -------------------------------------------------------------------------- numbers of NumPy


@pytest.mark.parametrize(
    "number", [np.float16(0.5), np.float32(0.5), np.longdouble(0.5), Fraction(1, 2), 0.5], ids=repr
)
def test_real_numbers_of_any_kind_are_numbers(number: Any) -> None:
    for name, argument in (
        ("damped_solve", "damping"),
        ("damped_factor", "damping"),
        ("sr", "damping"),
        ("sr", "momentum"),
        ("sr, filtered", "snr"),
        ("kronecker_solve", "damping"),
        ("ema", "decay"),
        ("inverse_free_update", "step_size"),
        ("inverse_free_update", "momentum"),
        ("randomized_eigh, auto", "target"),
        ("StructuredMatrix.scaled", "factor"),
    ):
        function, good = calls()[name]
        function(**{**good, argument: number})
    blocks, v = [np.eye(3, 2), np.ones((3, 2))], [np.ones(2), np.ones(2)]
    x = ngdla.damped_solve(blocks, v, 1.0, metric=[number, 1])
    np.testing.assert_array_equal(x, ngdla.damped_solve(blocks, v, 1.0, metric=[0.5, 1.0]))
    ngdla.damping_path(np.eye(3, 4), np.ones(3), [number, 1])


# ------------------------------------------------------------------------------ single calls


@pytest.mark.parametrize("path", [None, 7.5, ["scores.raw"], np.ones(2), Path])
def test_a_path_is_a_path(path: Any) -> None:
    with pytest.raises(TypeError, match=r"`path` is .* must be a string or a path"):
        ngdla.RowStream.from_file(path, (8, 2), "float64")


@pytest.mark.parametrize("prefetch", ["False", None, 1])
def test_prefetching_from_a_file_is_a_flag(prefetch: Any) -> None:
    with pytest.raises(TypeError, match=r"`prefetch` is .* must be True or False"):
        ngdla.RowStream.from_file("scores.raw", (8, 2), "float64", prefetch=prefetch)


@pytest.mark.parametrize("shape", [(4.9, 7), (4, 7.0), (4, True), (4,), 4, "47", (4, -7), None])
def test_the_shape_of_an_operator_is_two_integers(shape: Any) -> None:
    function, good = calls()["ScoreOperator"]
    with pytest.raises(ValueError, match=r"`shape` is .* two positive integers"):
        function(**{**good, "shape": shape})


def test_parameters_along_several_axes() -> None:
    O, n = np.ones((4, 2, 3)), np.ones(4)
    says = r"`log_derivatives` has shape \(4, 2, 3\) but `{}` has shape \(4,\).* to \(4, 6\)"
    with pytest.raises(ValueError, match=says.format("local_energies")):
        ngdla.stochastic_reconfiguration(O, n, 0.1)
    with pytest.raises(ValueError, match=says.format("weights")):
        ngdla.scores(O, weights=n)
    with pytest.raises(ValueError, match=r"`log_derivatives\[0\]` has shape .* reshape each"):
        ngdla.scores([O, O])


def test_a_range_of_dampings() -> None:
    S, f = np.random.default_rng(1).standard_normal((3, 5)), np.ones(3)
    one, other = (ngdla.damping_path(S, f, x) for x in (range(1, 5), [1, 2, 3, 4]))
    np.testing.assert_array_equal(one.residual_norm, other.residual_norm)
    for wrong in (range(0), iter([1.0]), {1.0}):
        with pytest.raises(ValueError, match=r"`dampings` is .* must be a list"):
            ngdla.damping_path(S, f, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`dampings` holds 0; each must be positive"):
        ngdla.damping_path(S, f, range(3))


def test_subnormal_dampings_are_said_to_be_that() -> None:
    dampings = np.array([1.0, 1e-40], dtype="float32")
    with pytest.raises(ValueError, match=r"below the smallest normal .* from 1\.2e-38"):
        ngdla.damped_factor(np.ones((2, 3, 4), dtype="float32"), dampings)


def test_a_complex_matrix_keeps_its_imaginary_part() -> None:
    M = structures.Dense().identity(2, like=np.ones(1, dtype="complex64"))
    assert M.astype("complex128").dtype_name == "complex128"
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        with pytest.raises(ValueError, match=f"`dtype` is '{dtype}'.*must be a complex dtype"):
            M.astype(dtype)


@pytest.mark.parametrize("shape", [5, (5.0, 5.0), "55", None])
def test_an_operand_has_a_shape_of_integers(shape: Any) -> None:
    class Operand:
        dtype = np.dtype("float64")

        def __matmul__(self, X: Any) -> Any:
            return X

    Operand.shape = shape  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"`A` has the shape .* tuple of integers"):
        ngdla.randomized_eigh(Operand(), 2, trace=5.0, rng=np.ones((5, 12)))


def test_messages_show_no_more_of_a_value_than_is_read() -> None:
    with pytest.raises(TypeError) as caught:
        ngdla.damped_solve(np.eye(2), np.ones(2), list(range(10**5)))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


# --------------------------------------------------------------------------------- warnings


def shown_in_a_loop(category: type[Warning], call: Callable[[float], Any]) -> int:
    """Return how often Python shows a warning of one line of code, by its own filter."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        for i in range(20):
            call(1 + i / 7)
    return sum(warning.category is category for warning in caught)


def test_a_warning_is_shown_once_for_a_line_of_code() -> None:
    A, options = np.diag(0.9 ** np.arange(40.0)), {"max_rank": 3, "damping": 1e-6}
    _, update = calls()["inverse_free_update"]
    update = {**update, "safeguard": False}

    def capped(x: float) -> None:
        ngdla.randomized_eigh(x * A, "auto", **options)

    def inexact(x: float) -> None:
        ngdla.randomized_eigh(x * A, "auto", target=0.1, **options)

    def too_long(x: float) -> None:
        ngdla.inverse_free_update(**{**update, "step_size": 100 * x})

    assert shown_in_a_loop(ngdla.RankWarning, capped) == 1
    assert shown_in_a_loop(ngdla.RankWarning, inexact) == 1
    assert shown_in_a_loop(ngdla.StepSizeWarning, too_long) == 1
