"""A float32 gradient as right-hand side: errors of SR steps on two spin chains, by damping.

The transverse-field Ising chain and the J1-J2 chain with J2 = J1 / 2, N = 12, each with a real RBM
of 48 hidden units (m = 636) after 20 steps, n = 256 Metropolis samples, from five seeds.
Log-derivatives O and local energies E are rounded to float32. From them S = scores(O) and
f = residuals(E) are made in float32, v = S^T f, rounded to float32, and W = S S^T + damping in
float32. All solve for the same step; only what they are given differs.

The exact step is that of the same S and f by the SVD in float64, without the part along the null
vector q = 1 / sqrt(n) that rounding gave them. Errors are relative to its length. A step counts as
silently wrong where it errs by more than half of its own length, and neither a `PrecisionWarning`
nor `converged` nor an exception says so.

NetKet is measured where it is installed, and else left out:

    pip install -e . netket          # in an environment of its own
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from benchmarks.measuring import optional

import ngdla
from ngdla.demo.hamiltonians import Chain, HeisenbergChain, IsingChain, local_energies
from ngdla.demo.metropolis import place, random_spins, sweep
from ngdla.demo.rbm import RBM

from .peers import installed
from .tracked import tracked

SITES, ALPHA, SAMPLES = 12, 4, 256
SEEDS = tuple(range(5))
STEPS, SHIFT, LEARNING_RATE, SCALE = 20, 1e-2, 0.05, 0.01  # before what is measured
SWEEPS, WARM_UP = 2, 20
DAMPINGS = tuple(10.0**-k for k in range(2, 13))
CHAINS: dict[str, Callable[[int], Chain]] = {
    "Ising chain": IsingChain,
    "J1-J2 chain": HeisenbergChain,
}


# -------------------------------------------------------------------------------- problems


class Problem(NamedTuple):
    """What the solvers are given, all in float32."""

    O: np.ndarray
    E: np.ndarray
    S: np.ndarray
    f: np.ndarray
    v: np.ndarray
    q: np.ndarray


@cache
def problem(name: str, seed: int) -> Problem:
    """Return log-derivatives and local energies of a chain after some steps, and what they give."""
    O, E = (x.astype(np.float32) for x in sampled(CHAINS[name](SITES), seed))
    S, f = ngdla.scores(O), ngdla.residuals(E)
    v = (f.astype(np.float64) @ S.astype(np.float64)).astype(np.float32)
    return Problem(O, E, S, f, v, np.full(len(O), len(O) ** -0.5, dtype=np.float32))


def sampled(chain: Chain, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return O and E of the samples after the last step, in float64."""
    rng = np.random.default_rng(seed)
    model = RBM(SITES, ALPHA * SITES)
    parameters, spins = model.initial(rng, SCALE), random_spins(chain, SAMPLES, rng)
    for step in range(STEPS + 1):
        weights = model.unpack(parameters)
        walkers = place(model, weights, spins)
        for _ in range(SWEEPS if step else WARM_UP):
            walkers = sweep(chain, model, weights, walkers, rng)
        spins = walkers.spins
        O = model.log_derivatives(spins, walkers.angles)
        E = local_energies(chain, model, weights, walkers)
        parameters = parameters - LEARNING_RATE * ngdla.stochastic_reconfiguration(O, E, SHIFT)
    return O, E


@cache
def spectrum(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U^T f, singular values and V^T of S, in float64 and without the null vector."""
    given = problem(name, seed)
    S, f = (x.astype(np.float64) for x in (given.S, given.f))
    S, f = S - S.mean(axis=0), f - f.mean()
    U, s, Vt = np.linalg.svd(S, full_matrices=False)
    return U.T @ f, s, Vt


def exact(name: str, seed: int, damping: float) -> np.ndarray:
    """Return the step that all solvers are asked for."""
    c, s, Vt = spectrum(name, seed)
    return (c * s / (s**2 + damping)) @ Vt


# --------------------------------------------------------------------------------- solvers

Step = tuple[np.ndarray, str]  # and what was said of it


def stochastic_reconfiguration(given: Problem, damping: float) -> Step:
    d, info = ngdla.stochastic_reconfiguration(given.O, given.E, damping, full_output=True)
    return d, verdict(info)


def damped_solve(given: Problem, damping: float) -> Step:
    x, info = ngdla.damped_solve(given.S, given.v, damping, full_output=True)
    return x, verdict(info)


def row_space(given: Problem, damping: float) -> Step:
    x, info = ngdla.damped_solve(given.S, given.v, damping, row_space=True, full_output=True)
    return x, verdict(info)


def hermitian_solve(given: Problem, damping: float) -> Step:
    W = given.S @ given.S.T + np.float32(damping) * np.eye(SAMPLES, dtype=np.float32)
    y, info = ngdla.hermitian_solve(W, given.f, null=given.q, full_output=True)
    return given.S.T @ y, verdict(info)


def netket(given: Problem, damping: float) -> Step:
    """Return the step of NetKet's default solver on the matrix that its driver VMC_SR forms."""
    x, info = compiled_netket()(given.S, given.f, np.float32(damping))
    return np.asarray(x), "fell back" if info["solver_fallback"] else "nothing"


@cache
def compiled_netket() -> Callable[..., Any]:
    solver = optional("netket.optimizer.solver").cholesky_with_fallback
    jax = optional("jax")

    def step(S: Any, f: Any, damping: Any) -> Any:
        W = S @ S.T + damping * jax.numpy.eye(len(S), dtype=S.dtype)
        y, info = solver(W, f)
        return S.T @ y, info

    return jax.jit(step)


def verdict(info: Any) -> str:
    return "converged" if info.converged else "not converged"


NETKET = "NetKet cholesky_with_fallback(W, f)"
SOLVERS: dict[str, Callable[[Problem, float], Step]] = {
    "stochastic_reconfiguration(O, E)": stochastic_reconfiguration,
    "damped_solve(S, v)": damped_solve,
    "damped_solve(S, v, row_space=True)": row_space,
    "hermitian_solve(W, f, null=q)": hermitian_solve,
    NETKET: netket,
}


# -------------------------------------------------------------------------------- measured


def outcome(
    solver: str, name: str, seed: int, damping: float
) -> tuple[float | None, float | None, str]:
    """Return error and length over the exact length, where there is a step, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ngdla.PrecisionWarning)
        try:
            x, said = SOLVERS[solver](problem(name, seed), damping)
        except np.linalg.LinAlgError:
            return None, None, "raised"
    if any(issubclass(warning.category, ngdla.PrecisionWarning) for warning in caught):
        said += ", warned"
    if not np.all(np.isfinite(x)):
        return None, None, said
    right = exact(name, seed, damping)
    sizes = np.linalg.norm(x - right), np.linalg.norm(x.astype(np.float64))
    error, length = (float(size / np.linalg.norm(right)) for size in sizes)
    return error, length, said


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return one row a chain, solver and seed: its outcomes at all dampings."""
    return tuple(
        row_of(name, solver, seed) for name in CHAINS for solver in SOLVERS for seed in SEEDS
    )


def row_of(name: str, solver: str, seed: int) -> dict[str, Any]:
    """Return one row; of a solver that is not installed, why it has no numbers."""
    row: dict[str, Any] = {"chain": name, "solver": solver, "seed": seed}
    try:
        if solver == NETKET:
            row["version"] = f"netket {installed('netket')}, jax {installed('jax')}"
        outcomes = [outcome(solver, name, seed, damping) for damping in DAMPINGS]
    except NotImplementedError as reason:
        return row | {"skipped": str(reason)}
    return row | dict(zip(("error", "length", "said"), map(list, zip(*outcomes))))


def rows_of(solver: Callable[..., Step]) -> list[dict[str, Any]]:
    """Return the rows of a solver on both chains."""
    rows = [row for row in table() if SOLVERS[row["solver"]] is solver]
    if "skipped" in rows[0]:
        raise NotImplementedError(rows[0]["skipped"])
    return rows


def largest_error(solver: Callable[..., Step]) -> float:
    """Return the largest error; infinite where there is no step."""
    return max(np.inf if e is None else e for row in rows_of(solver) for e in row["error"])


def silently_wrong(solver: Callable[..., Step]) -> float:
    """Count the steps that err by more than half of their length without a word of it."""
    return float(
        sum(
            said == "converged" and (error is None or error > length / 2)
            for row in rows_of(solver)
            for error, length, said in zip(row["error"], row["length"], row["said"])
        )
    )


@tracked(
    "spin chains, float32 O and E, damping 1e-2 to 1e-12, five seeds: largest error of "
    "stochastic_reconfiguration",
    at_most=2e-6,
)
def track_given_f() -> float:
    return largest_error(stochastic_reconfiguration)


@tracked("the same, damped_solve with v = S^T f rounded to float32, row_space=True", at_most=2e-2)
def track_row_space() -> float:
    return largest_error(row_space)


@tracked(
    "the same without row_space: steps wrong by more than half of their length, not warned of and "
    "said to have converged",
    unit="steps",
    at_most=0,
)
def track_silently_wrong() -> float:
    return silently_wrong(damped_solve)


@tracked(
    "the same count, hermitian_solve with W = S S^T + damping in float32 and null",
    unit="steps",
    at_most=0,
)
def track_silently_wrong_hermitian() -> float:
    return silently_wrong(hermitian_solve)


@tracked("the same W, hermitian_solve: largest error, warned of")
def track_hermitian() -> float:
    return largest_error(hermitian_solve)


@tracked("the same W, NetKet's cholesky_with_fallback: largest error")
def track_netket() -> float:
    return largest_error(netket)


def details() -> dict[str, Any]:
    """Return the table for the result file, and what the problems are."""
    problems = [sizes(name, seed) for name in CHAINS for seed in SEEDS]
    return {"dampings": DAMPINGS, "problems": problems, "rows": list(table())}


def sizes(name: str, seed: int) -> dict[str, Any]:
    """Return shape and spectrum of S, and the mean of E."""
    given, (_, s, _) = problem(name, seed), spectrum(name, seed)
    n, m = given.S.shape
    rank = int(np.sum(s > 1e-6 * s[0]))
    energy = float(given.E.mean(dtype=np.float64))
    return {
        "chain": name,
        "seed": seed,
        "n": n,
        "m": m,
        "sigma_1^2": float(s[0] ** 2),
        "singular values above 1e-6 sigma_1": rank,
        "energy": energy,
    }
