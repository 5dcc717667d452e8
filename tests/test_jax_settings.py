"""Settings by which JAX helps to find faults: none finds one in a legal call with finite data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from capabilities import FUNCTIONS
from spectra import quick_compilation  # noqa: F401, a fixture

import ngdla

jax = pytest.importorskip("jax")
jnp = jax.numpy

COMPLEX = {"float32": "complex64", "float64": "complex128"}


@contextlib.contextmanager
def strict() -> Iterator[None]:
    with (
        jax.enable_x64(True),
        jax.debug_nans(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        yield


def numbers(n: int, m: int, dtype: str) -> dict[str, np.ndarray]:
    """Return data of n centred samples and m parameters."""
    g = np.random.default_rng(n)
    S = g.standard_normal((n, m)).astype(dtype)
    return {
        "S": S - np.mean(S, axis=0),
        "f": g.standard_normal(n).astype(dtype),
        "v": g.standard_normal(m).astype(dtype),
        "null": np.full((n, 1), n**-0.5, dtype),
        "metric": g.uniform(0.5, 2.0, m).astype(dtype),
        "weights": np.where(np.arange(n) == 3, 0.0, g.uniform(0.5, 2.0, n)).astype(dtype),
        "number": np.asarray(0.25, dtype),
    }


def squares(x: Any) -> Any:
    return jnp.sum(jnp.abs(x) ** 2)


def damped(method: str, precision: str) -> Callable[..., Any]:
    """Return a program of solves and what a factor is for."""
    options = {"method": method, "precision": precision}
    unrounded = method != "cg" and precision != "mixed"

    def program(S: Any, f: Any, v: Any, null: Any, metric: Any, number: Any, **_: Any) -> Any:
        kind = options | {"null": null, "metric": metric}
        factor = ngdla.damped_factor(S, 0.5, **kind)
        results = [
            ngdla.damped_solve(S, v, number, full_output=True, **kind),
            ngdla.damped_lstsq(S, f, 0.5, x0=v, full_output=True, **kind),
            ngdla.damped_lstsq(S, jnp.zeros_like(f), 0.5, **options),
            factor.solve(jnp.stack([v, -v], axis=-1)),
            factor.with_damping(number).lstsq(f, v),
        ]
        if unrounded:
            results += [factor.logdet(), factor.effective_dimension(), factor.leave_one_out(f)]
        if method == "cholesky":
            results.append(ngdla.damped_solve(jnp.stack([S, S]), jnp.stack([v, v]), 0.5, **options))
        return results

    return program


def gradients(S: Any, f: Any, v: Any, number: Any, **_: Any) -> Any:
    def solve(S: Any, v: Any, damping: Any) -> Any:
        return squares(ngdla.damped_solve(S, v, damping))

    def lstsq(S: Any, f: Any, x0: Any) -> Any:
        return squares(ngdla.damped_lstsq(S, f, 0.5, x0=x0))

    every = (0, 1, 2)
    return jax.grad(solve, every)(S, v, number), jax.grad(lstsq, every)(S, f, v)


def others(S: Any, f: Any, null: Any, number: Any, **_: Any) -> Any:
    one = jnp.eye(S.shape[0], dtype=S.dtype)
    W = S @ S.T + number.reshape(1, 1) * one
    return (
        ngdla.damping_path(S, f, [0.5, 1.0], null=null),
        ngdla.gram(S),
        ngdla.gram([S[:, :4], S[:, 4:]]),
        ngdla.hermitian_solve(W, f, full_output=True),
        ngdla.hermitian_solve(W, f, null=null, full_output=True),
    )


def reconfiguration(mode: str) -> Callable[..., Any]:
    def program(S: Any, f: Any, v: Any, weights: Any, number: Any, **_: Any) -> Any:
        O, E, previous = S, f, v
        if mode != "real":
            O, E = jax.lax.complex(S, jnp.flip(S, axis=0)), jax.lax.complex(f, jnp.flip(f))
        if mode == "holomorphic":
            previous = jax.lax.complex(v, v)

        def step(E: Any, weights: Any, **options: Any) -> Any:
            options = {"mode": mode, "weights": weights} | options
            return ngdla.stochastic_reconfiguration(O, E, 0.5, **options)

        spring = {"previous": previous, "full_output": True}
        return (
            step(E, None, momentum=0.9, **spring),
            step(E, weights, momentum=number, **spring),
            step(E, weights, snr=2.0),
            jax.grad(lambda E: squares(step(E, weights)))(E),
            ngdla.scores(O, weights=weights, mode=mode),
            ngdla.residuals(E, weights=weights, mode=mode),
        )

    return program


PROGRAMS = {
    "auto wide float32": (damped("auto", "auto"), 6, 9, "float32"),
    "cholesky tall float64": (damped("cholesky", "native"), 9, 6, "float64"),
    "eigh wide float64": (damped("eigh", "mixed"), 6, 9, "float64"),
    "cg tall float32": (damped("cg", "native"), 9, 6, "float32"),
    "gradients wide float64": (gradients, 6, 9, "float64"),
    "others wide float32": (others, 6, 9, "float32"),
    "real wide float64": (reconfiguration("real"), 6, 9, "float64"),
    "complex tall float32": (reconfiguration("complex"), 12, 6, "float32"),
    "holomorphic wide float32": (reconfiguration("holomorphic"), 6, 9, "float32"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_traced_without_promotion(function: str, dtype: str) -> None:
    arguments = numbers(5, 11, dtype)
    with strict():
        given = [jnp.asarray(arguments[name]) for name in ("S", "v", "f")]
        jax.make_jaxpr(FUNCTIONS[function])(*given)


EAGER = ("others wide float32", "gradients wide float64")  # all would take long
QUICK = ("cholesky tall float64", "others wide float32", "real wide float64")


@pytest.mark.filterwarnings("ignore::ngdla.PrecisionWarning")
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS],
)
def test_settings_find_no_fault_and_change_no_result(name: str) -> None:
    program, n, m, dtype = PROGRAMS[name]
    arguments = numbers(n, m, dtype)
    with strict():
        given = {key: jnp.asarray(x) for key, x in arguments.items()}
        compiled = jax.jit(program)(**given)
        jax.block_until_ready(compiled)
        if name not in EAGER:
            return
        with jax.disable_jit():
            eager = program(**given)
    tolerance = 1e-3 if dtype == "float32" else 1e-8
    for one, other in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jnp.inexact):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(one, other)
