"""Wrong arguments: one at a time of a good call of each function is replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from compare.expressions import Array, lifted, ngdla
from compare.grids import EAGER, Case, grid
from compare.inputs import Problem

__all__ = ["cases"]

p = Problem(4, 7)
A, G, V = Array("psd", (5, 5)), Array("psd", (4, 4)), Array("normal", (4, 5))
a, g = Array("normal", (6, 5)), Array("normal", (6, 4))
state = ngdla.inverse_free_init(5, 4, like=a)
statistics = ngdla.inverse_free_statistics(state, a, g)
followed = ngdla.online_eigh_init(a, 2)
sharing = ngdla.weight_sharing_init("table", 6, period=2)
solve_options = {"method": "eigh", "precision": "native", "refine": 1, "metric": p.metric}
solve_options |= {"null": p.null, "check": True}
sketch = {"passes": 2, "oversample": 4, "basis": Array("orthonormal", (5, 2)), "rng": 0}
sketch |= {"tail": "trace", "trace": 2.0, "precision": "native", "product_eps": 1e-9}
update = {"damping": 0.3, "step_size": 0.1, "momentum": 0.5, "rule": "ingd"}
update |= {"retraction": "series", "order": 1}
images = Array("normal", (2, 4, 5, 4))
unfolding = {"stride": 2, "padding": ((1, 0), (0, 1)), "dilation": 1, "groups": 2}

Function = Callable[..., Any]
# A good call of each function: itself, its arguments and its options.
GOOD: dict[str, tuple[Function, tuple[Any, ...], dict[str, Any]]] = {
    "gram": (ngdla.gram, (p.S,), {"accumulate": "float64"}),
    "column_norms": (ngdla.column_norms, (p.S,), {}),
    "damped_solve": (ngdla.damped_solve, (p.S, p.v, 0.3), solve_options),
    "damped_solve blocks": (ngdla.damped_solve, (p.blocks(p.S), p.blocks(p.v), 0.3), {}),
    "damped_lstsq": (ngdla.damped_lstsq, (p.S, p.f, 0.3), {"x0": p.x0, **solve_options}),
    "damped_factor": (ngdla.damped_factor, (p.S, 0.3), solve_options),
    "DampedFactor.solve": (ngdla.damped_factor(p.S, 0.3).solve, (p.v,), {}),
    "DampedFactor.lstsq": (ngdla.damped_factor(p.S, 0.3).lstsq, (p.f, p.x0), {}),
    "with_damping": (ngdla.damped_factor(p.S, 0.3).with_damping, (0.1,), {}),
    "leave_one_out": (ngdla.damped_factor(p.S, 0.3).leave_one_out, (p.f,), {"stacked": False}),
    "overlap": (ngdla.damped_factor(p.S, 0.3).overlap, (p.v,), {}),
    "at_step": (ngdla.damping_path(p.S, p.f, [0.1]).at_step, (0.1,), {}),
    "damping_path": (ngdla.damping_path, (p.S, p.f, [0.1, 1.0]), {"null": p.null}),
    "scores": (ngdla.scores, (p.O,), {"weights": p.weights, "mode": "real"}),
    "residuals": (ngdla.residuals, (p.f,), {"weights": p.weights, "mode": "real"}),
    "stochastic_reconfiguration": (
        ngdla.stochastic_reconfiguration,
        (p.O, p.f, 0.3),
        {"weights": p.weights, "mode": "real", "previous": p.x0, "momentum": 0.5, "snr": 1.0},
    ),
    "ColumnStream": (
        lambda *args, **options: ngdla.damped_lstsq(ngdla.ColumnStream(*args, **options), p.f, 0.3),
        ([p.S], (4, 7)),
        {"dtype": "float64", "like": p.S},
    ),
    "RowStream": (
        lambda *args, **options: ngdla.damped_solve(ngdla.RowStream(*args, **options), p.f, 0.3),
        ([p.S.T], (7, 4)),
        {"dtype": "float64", "like": p.S},
    ),
    "from_file": (
        ngdla.ColumnStream.from_file,
        ("absent.raw", (4, 7), "float64", 2),
        {"offset": 0, "like": p.S},
    ),
    "ScoreOperator": (
        lambda *args, **options: ngdla.damped_lstsq(
            ngdla.ScoreOperator(*args, **options), p.f, 0.3
        ),
        (lifted(lambda S: lambda x: S @ x)(p.S), lifted(lambda S: lambda y: S.T @ y)(p.S), (4, 7)),
        {"like": p.S, "gram": p.S @ p.S.T},
    ),
    "randomized_eigh": (ngdla.randomized_eigh, (A, 2), {"method": "nystrom", **sketch}),
    "nystrom_factor": (ngdla.nystrom_factor, (A, 2), sketch),
    "LowRankEigh.solve": (ngdla.randomized_eigh(A, 2).solve, (a[0], 0.1), {}),
    "LowRankEigh.logdet": (ngdla.randomized_eigh(A, 2).logdet, (0.1,), {}),
    "LowRankEigh.truncate": (ngdla.randomized_eigh(A, 2).truncate, (1,), {"tail": "min"}),
    "NystromFactor.solve": (ngdla.nystrom_factor(A, 2).solve, (a[0], 0.1), {}),
    "randomized_svd": (
        ngdla.randomized_svd,
        (a, 2),
        {"passes": 4, "oversample": 2, "basis": Array("orthonormal", (5, 2)), "rng": 0},
    ),
    "online_eigh_init": (ngdla.online_eigh_init, (a, 2), {"rng": 0, "probes": 8}),
    "online_eigh_update": (ngdla.online_eigh_update, (followed, a), {"decay": 0.9}),
    "online_eigh_result": (ngdla.online_eigh_result, (followed,), {"tail": "trace"}),
    "ema": (ngdla.ema, (A, a), {"decay": 0.9}),
    "kronecker_solve": (ngdla.kronecker_solve, (A, G, V, 0.3), {"coupling": "joint"}),
    "expm": (ngdla.expm, (A,), {}),
    "expm_series": (ngdla.expm_series, (A, 3), {}),
    "logm_psd": (ngdla.logm_psd, (A,), {}),
    "sqrtm_psd": (ngdla.sqrtm_psd, (A,), {}),
    "inv_sqrtm_psd": (ngdla.inv_sqrtm_psd, (A,), {}),
    "inv_sqrtm_newton_schulz": (ngdla.inv_sqrtm_newton_schulz, (A, 9), {}),
    "inverse_free_init": (
        ngdla.inverse_free_init,
        (5, 4),
        {"structures": ("dense", "dense"), "like": a, "dtype": "float32", "storage": "native"}
        | {"batch": (2,)},
    ),
    "inverse_free_statistics": (
        ngdla.inverse_free_statistics,
        (state, a, g),
        {"weights": Array("positive", (6,)), "loss_scale": 2.0},
    ),
    "inverse_free_update": (ngdla.inverse_free_update, (state, statistics), update),
    "inverse_free_apply": (ngdla.inverse_free_apply, (state, V), {}),
    "structured_factor": (ngdla.structured_factor, (A, "dense", 0.3), {}),
    "layer_rows": (
        ngdla.layer_rows,
        (a, g),
        {"sharing": "expand", "bias": True, "loss": "mean", "positions": None},
    ),
    "patches": (
        ngdla.patches,
        (images, 2),
        {**unfolding, "channels": "first"},
    ),
    "patch_means": (
        ngdla.patch_means,
        (images, (2, 2)),
        {**unfolding, "channels": "last"},
    ),
    "sample_gram": (ngdla.sample_gram, (a, g), {"positions": False}),
    "sample_weights": (ngdla.sample_weights, (A, 0.3), {"full_output": False}),
    "weighted_gradient": (ngdla.weighted_gradient, (a, g, a[:, 0]), {"positions": False}),
    "weighted_cosine": (ngdla.weighted_cosine, (A, a[0], a[1]), {}),
    "weight_sharing_init": (ngdla.weight_sharing_init, ("every", 6), {"period": 2}),
    "weight_sharing_step": (
        ngdla.weight_sharing_step,
        (sharing, a, g, 0.3),
        {"batch": 1, "positions": False},
    ),
}
foreign = lifted(lambda x: np.asarray(x) if type(x).__module__ != "numpy" else memoryview(x))
# What takes the place of an argument, whatever it is, or of an array.
WRONGS: dict[str, Callable[[Any], Any]] = {
    "none": lambda x: None,
    "string": lambda x: "nonsense",
    "negative": lambda x: -1,
    "zero": lambda x: 0,
    "true": lambda x: True,
    "number": lambda x: 2.5,
    "nan": lambda x: x.like("nan") if isinstance(x, Array) else float("nan"),
    "complex": lambda x: x.like("imaginary") if isinstance(x, Array) else 1j,
    "integers": lambda x: x.of("int64") if isinstance(x, Array) else -7,
    "list": lambda x: [x],
    "dict": lambda x: {"w": x},
    "one less": lambda x: x[:-1] if isinstance(x, Array) else (),
    "one axis more": lambda x: x[None] if isinstance(x, Array) else (x, x),
    "of another library": lambda x: foreign(x) if isinstance(x, Array) else "",
}


def refused(function: str, argument: Any, wrong: Callable[[Any], Any]) -> Any:
    """Return a call with one argument replaced."""
    call, args, options = GOOD[function]
    if isinstance(argument, int):
        replaced = [wrong(x) if i == argument else x for i, x in enumerate(args)]
        return call(*replaced, **options)
    return call(*args, **(options | {argument: wrong(options.get(argument))}))


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for name, (_, args, options) in GOOD.items():
        arguments = {f"argument {i}": i for i in range(len(args))}
        yield from grid(
            f"{name}, refused",
            lambda argument, wrong, name=name: refused(name, argument, wrong),
            dtype=("float64",),
            argument={**arguments, **{option: option for option in (*options, "unknown")}},
            wrong=WRONGS,
            **EAGER,
        )
