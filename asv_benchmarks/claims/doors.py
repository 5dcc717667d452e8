"""The doors to NetKet and quantax: errors of their steps, time and memory of their solves, traces.

Errors: chains of 12 spins, Ising with h = 1 and J1-J2 with J2 = J1 / 2 and the sign rule, each with
an RBM of 48 hidden units (m = 636) in float32 and in complex64, after 20 steps of VMC_SR, 256
samples. x64 is on. Each driver and each preconditioner makes the next step from the same samples.
The exact step is that of the same float32 scores and local energies, centred in float64, by the
SVD. A step that is NaN has been refused.

Solves: from log-derivatives O (1024 x 50,000) and local energies to the step, as one compiled
function: centring, scaling and solve as each code does it. Memory is what XLA reserves beside
arguments and result, over the size of O. Four devices hold 32 rows of O each.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from benchmarks.measuring import alternating, normal, optional

import ngdla

from .compiled_steps import FOUR_DEVICES, largest_collective
from .tracked import tracked

FOLDER = Path(__file__).resolve().parents[1]
SITES, ALPHA, SAMPLES, CHAINS = 12, 4, 256, 64
STEPS, FIRST_SHIFT, LEARNING_RATE = 20, 1e-2, 0.05
SHIFTS = tuple(10.0**-k for k in range(2, 13))
SINGLE = ("float32", "complex64")
DOUBLE = ("float64", "complex128", "real parameters", "holomorphic")
DOUBLE_SHIFTS = (1e-2, 1e-4)
SYSTEMS = ("Ising chain", "J1-J2 chain")

Step = Callable[..., Any]


# --------------------------------------------------------------------------------- states


def hamiltonian(system: str) -> Any:
    nk = optional("netket")
    spins = nk.hilbert.Spin(0.5, SITES)
    if system == "Ising chain":
        return nk.operator.IsingJax(spins, nk.graph.Chain(SITES), h=1.0, J=-1.0)
    graph = nk.graph.Chain(SITES, max_neighbor_order=2)
    couplings = {"J": [1.0, 0.5], "sign_rule": [True, False]}
    return nk.operator.Heisenberg(spins, graph, **couplings).to_jax_operator()


def model(kind: str) -> Any:
    """Return an RBM, or for real parameters of a complex function one of its modulus and phase."""
    nk = optional("netket")
    if kind == "real parameters":
        return nk.models.RBMModPhase(alpha=ALPHA // 2, param_dtype=np.float64)
    dtype = np.complex128 if kind == "holomorphic" else np.dtype(kind)
    return nk.models.RBM(alpha=ALPHA, param_dtype=dtype)


def mode(kind: str) -> str:
    """Return how log psi is differentiated."""
    if kind == "holomorphic":
        return kind
    return "real" if kind.startswith("float") else "complex"


@cache
def state_and_samples(system: str, kind: str) -> tuple[Any, Any]:
    """Return a state after some steps, and samples."""
    nk = optional("netket")
    H = hamiltonian(system)
    sampler = nk.sampler.MetropolisLocal(H.hilbert, n_chains=CHAINS)
    state = nk.vqs.MCState(sampler, model(kind), n_samples=SAMPLES, seed=0, sampler_seed=0)
    driver = netket_driver(H, state, FIRST_SHIFT)
    driver.run(STEPS, out=(), show_progress=False)
    return state, state.samples


def state_of(system: str, kind: str) -> Any:
    """Return the state with the same samples at all times."""
    state, samples = state_and_samples(system, kind)
    state._samples = samples
    return state


@cache
def spectrum(system: str, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return U^T 2 f, singular values and V^T of the scores, in float64 and centred there."""
    nk, state = optional("netket"), state_of(system, kind)
    samples = state.samples.reshape(-1, SITES)
    jacobian = partial(nk.jax.jacobian, mode=mode(kind), dense=True)
    O = np.asarray(jacobian(state._apply_fun, state.parameters, samples, state.model_state))
    E = np.asarray(state.local_estimators(hamiltonian(system)).data).reshape(-1)
    O = O.astype(np.result_type(O, np.float64)).reshape(len(E), -1, O.shape[-1])
    if kind == "holomorphic":
        f = E[:, None]
    else:  # one row a sample, or two
        f = np.stack([E.real, E.imag], axis=1)[:, : O.shape[1]].astype(np.float64)
    S, f = (x - x.mean(axis=0) for x in (O, 2 * f))
    U, s, Vh = np.linalg.svd(S.reshape(-1, S.shape[-1]) / SAMPLES**0.5, full_matrices=False)
    return U.conj().T @ (f.reshape(-1) / SAMPLES**0.5), s, Vh


def exact(system: str, kind: str, shift: float) -> np.ndarray:
    c, s, Vh = spectrum(system, kind)
    return (c * s / (s**2 + shift)) @ Vh.conj()


# ---------------------------------------------------------------------------------- doors


def optimizer() -> Any:
    return optional("optax").sgd(LEARNING_RATE)


def netket_driver(H: Any, state: Any, shift: float, **options: Any) -> Any:
    """Return VMC_SR; by default with NetKet's own solver."""
    driver = optional("netket").driver.VMC_SR
    options |= {"variational_state": state, "diag_shift": shift, "on_the_fly": False}
    return driver(H, optimizer(), **options)


def gradient_driver(H: Any, state: Any, preconditioner: Any) -> Any:
    vmc = optional("netket").driver.VMC
    return vmc(H, optimizer(), variational_state=state, preconditioner=preconditioner)


def sr(solver: Any, mode: str, shift: float) -> Any:
    nk = optional("netket")
    options = {"holomorphic": True} if mode == "holomorphic" else {"mode": mode}
    qgt = nk.optimizer.qgt.QGTJacobianDense(**options)
    return nk.optimizer.SR(qgt=qgt, solver=solver, diag_shift=shift)


def adapter() -> Any:
    return optional("ngdla.adapters.netket")


def vmc_spring(H: Any, state: Any, mode: str, shift: float) -> Any:
    options = {"variational_state": state, "diag_shift": shift, "momentum": 0.0, "mode": mode}
    return adapter().VMC_SPRING(H, optimizer(), **options)


def netket_cholesky(H: Any, state: Any, mode: str, shift: float) -> Any:
    solver = optional("netket").optimizer.solver.cholesky
    return gradient_driver(H, state, sr(solver, mode, shift))


def netket_svd(H: Any, state: Any, mode: str, shift: float) -> Any:
    solver = optional("netket").optimizer.solver.svd
    return gradient_driver(H, state, sr(solver, mode, shift))


def netket_default(H: Any, state: Any, mode: str, shift: float) -> Any:
    return netket_driver(H, state, shift)


def qgt_solver(H: Any, state: Any, mode: str, shift: float) -> Any:
    return gradient_driver(H, state, sr(adapter().qgt_solver(), mode, shift))


def dense_solver(H: Any, state: Any, mode: str, shift: float) -> Any:
    return netket_driver(H, state, shift, linear_solver=adapter().dense_solver())


def preconditioner(H: Any, state: Any, mode: str, shift: float) -> Any:
    return gradient_driver(H, state, adapter().preconditioner(state, shift))


DRIVER, THEIRS, CHOLESKY = "VMC_SPRING", "NetKet VMC_SR", "NetKet SR, cholesky"
DOORS: dict[str, Callable[[Any, Any, str, float], Any]] = {
    DRIVER: vmc_spring,
    "qgt_solver": qgt_solver,
    "dense_solver": dense_solver,
    "preconditioner": preconditioner,
    THEIRS: netket_default,
    CHOLESKY: netket_cholesky,
}
OTHERS = ("qgt_solver", "dense_solver", "preconditioner")
SVD = "NetKet SR, svd"
OF_NETKET = {CHOLESKY: netket_cholesky, SVD: netket_svd}


def step(door: str, system: str, kind: str, shift: float) -> np.ndarray:
    """Return the step of a door; complex parameters as real ones unless they are holomorphic."""
    doors = DOORS | OF_NETKET
    driver = doors[door](hamiltonian(system), state_of(system, kind), mode(kind), shift)
    state = state_of(system, kind)  # its samples again, which VMC would draw anew
    with mock.patch.object(type(state), "reset"):
        _, moved = driver.compute_loss_and_update()
    x, _ = optional("jax.flatten_util").ravel_pytree(moved)
    pairs = np.iscomplexobj(x) and kind != "holomorphic"
    return np.concatenate([x.real, x.imag]) if pairs else np.asarray(x)


def error(door: str, system: str, kind: str, shift: float) -> float | None:
    """Return the relative error of a step, None if it is NaN."""
    x = step(door, system, kind, shift)
    return apart(x, exact(system, kind, shift)) if np.all(np.isfinite(x)) else None


def apart(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))


@cache
def double_table() -> tuple[dict[str, Any], ...]:
    """Return one row for each kind in double precision, shift and door.

    Each has the distances to the exact step and to those of NetKet's SR by Cholesky and by SVD.
    VMC_SR and `preconditioner` do not know holomorphic functions.
    """
    optional("netket")
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, shift in itertools.product(DOUBLE, DOUBLE_SHIFTS):
            place = (SYSTEMS[0], kind, shift)
            theirs = {name: step(name, *place) for name in OF_NETKET} | {"exact": exact(*place)}
            doors = (DRIVER, *(OTHERS[:1] if kind == "holomorphic" else OTHERS))
            for door in (*doors, *OF_NETKET):
                x = step(door, *place)
                far = {name: apart(x, reference) for name, reference in theirs.items()}
                rows.append({"kind": kind, "shift": shift, "door": door} | far)
    return tuple(rows)


def in_double(kinds: Sequence[str], reference: str, *doors: str) -> float:
    """Return the largest distance of steps of these doors to others, in double precision."""
    return max(
        row[reference] for row in double_table() if row["kind"] in kinds and row["door"] in doors
    )


@cache
def table() -> tuple[dict[str, Any], ...]:
    """Return one row a system, kind and door: its errors at all shifts."""
    optional("netket")
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for system in SYSTEMS:
            for kind in SINGLE:
                for door in DOORS:
                    errors = [error(door, system, kind, shift) for shift in SHIFTS]
                    rows.append({"system": system, "kind": kind, "door": door, "error": errors})
    return tuple(rows)


def errors(kind: str, *doors: str) -> Iterator[float | None]:
    for row in table():
        if row["kind"] == kind and row["door"] in doors:
            yield from row["error"]


def largest(kind: str, *doors: str) -> float:
    """Return the largest error of steps that were not refused."""
    return max(e for e in errors(kind, *doors) if e is not None)


# --------------------------------------------------------------------------------- solves

SIZE, SHIFT = (1024, 50_000), 1e-3
SHARDED, DEVICES = (128, 16_384), 4


def ours(O: Any, E: Any) -> Any:
    """Return the step as VMC_SPRING makes it."""
    return ngdla.stochastic_reconfiguration(
        O, 2 * E, SHIFT, mode="real", precision="float64", full_output=True
    )


def of_netket(O: Any, E: Any) -> Any:
    """Return the step as VMC_SR makes it, with the functions that it calls."""
    common, srt = (optional(f"netket._src.ngd.{name}") for name in ("sr_srt_common", "srt"))
    centred = O - O.mean(axis=0)
    S, dv = common._prepare_input(centred, E, mode="real", scaling_factor=1 / len(O))
    return srt._compute_srt_update(
        S,
        dv,
        diag_shift=SHIFT,
        solver_fn=optional("netket").optimizer.solver.cholesky_with_fallback,
        mode="real",
        params_structure=O[0],
    )[0]


def of_quantax(O: Any, E: Any) -> Any:
    """Return the step as its SR makes it, with the functions that it calls."""
    np_, qngd = optional("jax").numpy, optional("quantax.optimizer.qngd")
    solver = optional("quantax").optimizer.auto_shift_eig(rshift=0.0, ashift=SHIFT)
    mean, _ = qngd._Omat_stats(O)
    S = qngd._Omat_center(O, mean, np_.asarray(len(O) ** -0.5, dtype=O.dtype))
    return solver(S, (E - E.mean()) / len(O) ** 0.5)


SOLVES: dict[str, Step] = {"ngdla": ours, "NetKet": of_netket, "quantax": of_quantax}


@cache
def seconds(dtype: str) -> dict[str, float]:
    """Return the median seconds of compiled steps, taken by turns."""
    jax = with_x64()
    O, E = (jax.numpy.asarray(normal(shape, dtype)) for shape in (SIZE, SIZE[:1]))

    def called(solve: Step) -> Callable[[], Any]:
        compiled = jax.jit(solve)
        return lambda: jax.block_until_ready(compiled(O, E))

    return alternating({name: called(solve) for name, solve in SOLVES.items()}, 5)


@cache
def memory(dtype: str) -> dict[str, float]:
    """Return what XLA reserves for a step, over the size of O."""
    jax = with_x64()
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (SIZE, SIZE[:1])]
    size = np.prod(SIZE) * np.dtype(dtype).itemsize
    compiled = {name: jax.jit(solve).lower(*shapes).compile() for name, solve in SOLVES.items()}
    return {
        name: float(step.memory_analysis().temp_size_in_bytes / size)
        for name, step in compiled.items()
    }


def with_x64() -> Any:
    """Return JAX, with the codes imported: they set it up, which compiled code could not."""
    jax = optional("jax")
    for code in ("netket", "quantax"):
        optional(code)
    jax.config.update("jax_enable_x64", True)
    return jax


@cache
def collectives() -> dict[str, int]:
    """Return the words of the largest collective of a step, from a process with four devices."""
    optional("netket")
    command = [sys.executable, "-m", "claims.doors"]
    done = subprocess.run(
        command,
        cwd=FOLDER,
        env=os.environ | FOUR_DEVICES,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def words_between_devices() -> dict[str, int]:
    """Return the words of the largest collective, with rows of O on all devices of this process."""
    jax, nk = with_x64(), optional("netket")
    assert nk.config.netket_sharding
    mesh = jax.sharding.get_abstract_mesh()
    found = {}
    for name in ("ngdla", "NetKet"):
        rows = jax.sharding.NamedSharding(mesh, jax.P("S"))
        shapes = [
            jax.ShapeDtypeStruct(shape, "float64", sharding=rows)
            for shape in (SHARDED, SHARDED[:1])
        ]
        text = jax.jit(SOLVES[name]).lower(*shapes).compile().as_text()
        found[name] = largest_collective(text)
    return found


# -------------------------------------------------------------------------- traces and lines


LINES = {
    "NetKet": (
        "from ngdla.adapters.netket import VMC_SPRING",
        "driver = VMC_SPRING(H, optimizer, variational_state=state, diag_shift=schedule)",
    ),
    "quantax": (
        "from ngdla.adapters.quantax import solver",
        "optimizer = SPRING(state, H, solver=solver(rshift=0.0, ashift=1e-3))",
    ),
}


@cache
def traces() -> dict[str, int]:
    """Return how often a solve is traced in 21 steps of NetKet with a schedule, and of quantax."""
    return {"NetKet": traces_of_netket(), "quantax": traces_of_quantax()}


def traces_of_netket() -> int:
    state = state_of("Ising chain", "float32")
    with mock.patch.object(
        ngdla, "stochastic_reconfiguration", wraps=ngdla.stochastic_reconfiguration
    ) as solve:
        driver = adapter().VMC_SPRING(
            hamiltonian("Ising chain"),
            optimizer(),
            variational_state=state,
            diag_shift=lambda step: 1e-2 / (1 + step),
        )
        driver.run(21, out=(), show_progress=False)
    state_and_samples.cache_clear()  # its parameters have moved
    return solve.call_count


def traces_of_quantax() -> int:
    jax, door = optional("jax"), optional("ngdla.adapters.quantax")
    quantax = optional("quantax")
    A, b = (jax.numpy.asarray(normal(shape, "float32")) for shape in ((40, 90), (40,)))
    with mock.patch.object(door, "damped_lstsq", wraps=door.damped_lstsq) as solve:
        solver, updater = door.solver(), quantax.optimizer.SpringUpdater()
        step = jax.jit(lambda A, b: updater.update(solver, A, b, {"phi": A[0]}))
        for _ in range(21):
            step(A, b)
    return solve.call_count


# -------------------------------------------------------------------------------- measured


@tracked(
    "NetKet states of two spin chains, diag_shift 1e-2 to 1e-12, float32: largest error of a step "
    "of VMC_SPRING",
    at_most=2e-6,
)
def track_driver() -> float:
    return largest("float32", DRIVER)


@tracked("the same, complex64", at_most=5e-6)
def track_driver_complex() -> float:
    return largest("complex64", DRIVER)


@tracked("the same states, the other doors: largest error of a step that is not NaN", at_most=0.1)
def track_other_doors() -> float:
    return max(largest(kind, *OTHERS) for kind in SINGLE)


@tracked("the same states, steps of the other doors that are NaN", unit="steps")
def track_refused() -> float:
    return float(sum(e is None for kind in SINGLE for e in errors(kind, *OTHERS)))


@tracked("the same states, VMC_SR of NetKet with its default solver: largest error")
def track_netket() -> float:
    return max(largest(kind, THEIRS) for kind in SINGLE)


@tracked("the same states, SR of NetKet with cholesky: largest error of a step that is not NaN")
def track_netket_cholesky() -> float:
    return max(largest(kind, CHOLESKY) for kind in SINGLE)


@tracked(
    "the Ising chain in float64 and complex128, real parameters of a complex function too, shifts "
    "1e-2 and 1e-4: largest distance of steps of all doors to those of NetKet's SR, cholesky",
    at_most=2e-12,
)
def track_double() -> float:
    return in_double(DOUBLE[:-1], CHOLESKY, DRIVER, *OTHERS)


@tracked("the same distance to NetKet's SR, svd", at_most=2e-12)
def track_double_svd() -> float:
    return in_double(DOUBLE[:-1], SVD, DRIVER, *OTHERS)


@tracked("the same states: largest error of VMC_SPRING, by an SVD of the scores", at_most=2e-12)
def track_double_driver() -> float:
    return in_double(DOUBLE[:-1], "exact", DRIVER)


@tracked("the same states: largest error of NetKet's SR, cholesky")
def track_double_netket() -> float:
    return in_double(DOUBLE[:-1], "exact", CHOLESKY)


@tracked("the same chain, holomorphic: largest error of VMC_SPRING", at_most=2e-11)
def track_double_holomorphic() -> float:
    return in_double(DOUBLE[-1:], "exact", DRIVER)


@tracked(
    "compiled step from O and E, n = 1024, m = 50,000, float64: time of NetKet's VMC_SR over that "
    "of VMC_SPRING",
    at_least=1.1,
)
def track_seconds_netket() -> float:
    return seconds("float64")["NetKet"] / seconds("float64")["ngdla"]


@tracked("the same over quantax, float64", at_least=1.1)
def track_seconds_quantax() -> float:
    return seconds("float64")["quantax"] / seconds("float64")["ngdla"]


@tracked("the same over NetKet's VMC_SR, float32", at_least=1.1)
def track_seconds_netket_float32() -> float:
    return seconds("float32")["NetKet"] / seconds("float32")["ngdla"]


@tracked("the same over quantax, float32, where quantax computes in float64", at_least=1.1)
def track_seconds_quantax_float32() -> float:
    return seconds("float32")["quantax"] / seconds("float32")["ngdla"]


@tracked("the same step: memory beside O and the step, over that of NetKet, float64", at_most=1.0)
def track_memory() -> float:
    return memory("float64")["ngdla"] / memory("float64")["NetKet"]


@tracked("the same memory, float32", at_most=1.0)
def track_memory_float32() -> float:
    return memory("float32")["ngdla"] / memory("float32")["NetKet"]


@tracked(
    "the same step, 128 x 16,384, rows on four devices: largest collective over that of NetKet",
    at_most=1.0,
)
def track_collectives() -> float:
    return collectives()["ngdla"] / collectives()["NetKet"]


@tracked("traces in 21 steps of VMC_SPRING with a schedule of diag_shift", unit="traces", at_most=1)
def track_traces() -> float:
    return float(traces()["NetKet"])


@tracked("traces in 21 steps of quantax", unit="traces", at_most=1)
def track_traces_quantax() -> float:
    return float(traces()["quantax"])


@tracked("lines that a user of NetKet writes: import and constructor", unit="lines", at_most=2)
def track_lines() -> float:
    return float(len(LINES["NetKet"]))


def details() -> dict[str, Any]:
    """Return errors at all shifts, seconds and memory for the result file."""
    return {
        "shifts": SHIFTS,
        "errors": list(table()),
        "errors in double precision": list(double_table()),
        "seconds": {dtype: seconds(dtype) for dtype in ("float64", "float32")},
        "memory over O": {dtype: memory(dtype) for dtype in ("float64", "float32")},
        "words of the largest collective": collectives(),
        "lines": LINES,
    }


if __name__ == "__main__":
    print(json.dumps(words_between_devices()))
