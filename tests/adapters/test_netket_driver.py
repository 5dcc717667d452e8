"""The driver with local energies: beside an SVD, NetKet's own driver, and a few lines of NumPy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("netket")

import flax
import jax
import jax.numpy as jnp
import netket as nk
import optax
from adapters.states import (
    KINDS,
    SHIFTS,
    as_tree,
    distance,
    flat,
    kind,
    sampled,
    scores,
    summed,
    svd_step,
)
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla.adapters.netket import VMC_SPRING
from ngdla.adapters.netket_internals import get_forward_operator

SGD = nk.optimizer.Sgd(0.05)


def driver_of(k, state, **options):
    options = {"diag_shift": 1e-3, "momentum": 0.0, "mode": k.mode, **options}
    optimizer = options.pop("optimizer", SGD)
    return VMC_SPRING(k.hamiltonian, optimizer, variational_state=state, **options)


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    k = kind(request.param)
    state = sampled(k.model)
    return k, state, scores(state, k.hamiltonian, k.mode)


def test_steps(case):
    k, state, (S, f) = case
    for shift in SHIFTS:
        driver = driver_of(k, state, diag_shift=shift)
        _, step = driver.compute_loss_and_update()
        right = svd_step(S, f, shift)
        assert distance(step, as_tree(right, state.parameters, k.mode)) <= 2e-11
        assert bool(driver.info["converged"])
        np.testing.assert_allclose(driver.info["step_norm"], np.linalg.norm(S @ right), rtol=1e-9)
        gain = np.vdot(f, S @ right).real
        np.testing.assert_allclose(driver.info["gain"], gain, rtol=1e-9)


def test_steps_are_those_of_netket():
    k = kind("phase")
    state = sampled(k.model)
    theirs = nk.driver.VMC_SR(
        k.hamiltonian,
        SGD,
        variational_state=state,
        diag_shift=1e-2,
        momentum=0.8,
        linear_solver=nk.optimizer.solver.cholesky,
        use_ntk=True,
        on_the_fly=False,
    )
    ours = driver_of(k, state, diag_shift=1e-2, momentum=0.8, mode=None)
    assert ours.mode == "complex"
    for _ in range(3):
        assert distance(ours.compute_loss_and_update()[1], theirs.compute_loss_and_update()[1]) <= (
            2e-12
        )


@pytest.mark.parametrize(("name", "tolerance"), [("real", 2e-6), ("holomorphic", 5e-6)])
def test_single_precision(name, tolerance):
    k = kind(name, single=True)
    state = sampled(k.model)
    S, f = scores(state, k.hamiltonian, k.mode)
    for shift in (1e-2, 1e-6, 1e-12):
        _, step = driver_of(k, state, diag_shift=shift).compute_loss_and_update()
        assert flat(step).dtype == flat(state.parameters).dtype
        assert distance(step, svd_step(S, f, shift)) <= tolerance


def test_all_states_with_their_weights():
    k = kind("holomorphic")
    state = summed(k.model)
    right = svd_step(*scores(state, k.hamiltonian, k.mode), 1e-3)
    driver = driver_of(k, state)
    stats, step = driver.compute_loss_and_update()
    assert distance(step, right) <= 2e-11
    np.testing.assert_allclose(stats.mean, state.expect(k.hamiltonian).mean, rtol=1e-12)


def test_chunks_change_nothing():
    k = kind("phase")
    state = sampled(k.model)
    _, whole = driver_of(k, state).compute_loss_and_update()
    state.chunk_size = 8
    _, chunked = driver_of(k, state).compute_loss_and_update()
    assert distance(chunked, whole) <= 1e-12


def test_real_and_complex_parameters_together():
    import flax.linen as nn

    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(4, param_dtype=float)(x)
            z = nn.Dense(4, param_dtype=complex, dtype=complex)(x)
            return jnp.sum(jnp.log(jnp.cosh(y)) + jnp.log(jnp.cosh(z)), axis=-1)

    k = kind("phase")
    state = sampled(Mixed())
    S, f = scores(state, k.hamiltonian, "complex")
    d = svd_step(S, f, 1e-3)
    _, step = driver_of(k, state, mode=None).compute_loss_and_update()
    real, _ = nk.jax.tree_to_real(step)
    assert distance(real, d) <= 2e-11
    with pytest.raises(ValueError, match="some parameters are real"):
        driver_of(k, state, mode="holomorphic")


def test_half_precision():
    """Energies and the momentum are not rounded to it, and its rounding is no other optimiser."""
    k = kind("phase")
    state = sampled(k.model.clone(param_dtype=jnp.bfloat16))
    S, f = scores(state, k.hamiltonian, k.mode)
    driver = driver_of(k, state, momentum=0.5, automatic=True)
    _, step = driver.compute_loss_and_update()
    right = svd_step(S, f, 1e-3)
    assert flat(step).dtype == jnp.bfloat16
    assert driver._previous.dtype == jnp.float32
    error = np.linalg.norm(driver._previous - right) / np.linalg.norm(right)
    assert error <= 1e-4
    assert np.isfinite(driver.info["rho"])


# ----------------------------------------------------------------------------- trajectories


@pytest.mark.parametrize("name", ["complex", "holomorphic"])
def test_momentum(name):
    """d_k = argmin |S d - f|^2 + shift |d - mu d_(k-1)|^2, theta <- theta - lr d, in NumPy."""
    k = kind(name)
    state, numpy_state = summed(k.model), summed(k.model)
    driver = driver_of(k, state, momentum=0.8)
    d = 0.0
    for _ in range(3):
        d = svd_step(*scores(numpy_state, k.hamiltonian, k.mode), 1e-3, 0.8 * d)
        _, tree = jax.flatten_util.ravel_pytree(numpy_state.parameters)
        step = tree(jnp.asarray(as_tree(d, numpy_state.parameters, k.mode)))
        numpy_state.parameters = jax.tree.map(
            lambda x, y: x - 0.05 * y, numpy_state.parameters, step
        )
    driver.run(3, show_progress=False)
    assert distance(state.parameters, numpy_state.parameters) <= 1e-10


def test_norm_constraint():
    k = kind("real")
    state = sampled(k.model)
    free = driver_of(k, state, momentum=0.5)
    held = driver_of(k, state, momentum=0.5, norm_constraint=1e-3)
    loose = driver_of(k, state, momentum=0.5, norm_constraint=1e3)
    for _ in range(2):  # momentum is that of d itself
        steps = [driver.compute_loss_and_update()[1] for driver in (free, held, loose)]
        factor = 1e-3**0.5 / float(free.info["step_norm"])
        assert factor < 1
        np.testing.assert_allclose(flat(steps[1]), factor * flat(steps[0]), rtol=1e-12)
        np.testing.assert_allclose(flat(steps[2]), flat(steps[0]), rtol=1e-12)
        np.testing.assert_allclose(held.info["norm_factor"], factor, rtol=1e-12)


def test_signal_to_noise():
    k = kind("real")
    state = sampled(k.model)
    driver = driver_of(k, state, snr=2.0)
    _, step = driver.compute_loss_and_update()
    O = nk.jax.jacobian(
        state._apply_fun,
        state.parameters,
        state.samples.reshape(-1, 6),
        mode="real",
        dense=True,
    )
    energies = state.local_estimators(k.hamiltonian).data.reshape(-1)
    d, info = ngdla.stochastic_reconfiguration(O, 2 * energies, 1e-3, snr=2.0, full_output=True)
    assert distance(step, d) <= 1e-10
    np.testing.assert_allclose(driver.info["kept_directions"], info.kept.sum(), rtol=1e-8)


def test_automatic_shift():
    """Predicted and actual falls are those of the exact energy, and the shift follows them."""
    k = kind("real")
    state = summed(k.model)
    driver = driver_of(k, state, diag_shift=1e-2, momentum=0.5, automatic=True)
    log = nk.logging.RuntimeLog()
    start = state.expect(k.hamiltonian).mean
    driver.run(1, show_progress=False, out=log)
    fall = float(start - state.expect(k.hamiltonian).mean)
    np.testing.assert_allclose(driver.info["actual"], fall, rtol=1e-8)
    np.testing.assert_allclose(driver.info["predicted"], 0.05 * driver.info["gain"], rtol=1e-12)
    driver.run(20, show_progress=False, out=log)
    shifts, rho = (log.data["info"][key].values for key in ("diag_shift", "rho"))
    assert len(shifts) == 21
    wanted = np.where(rho > 0.75, 1 / 1.5, np.where(rho >= 0.25, 1.0, 1.5))
    np.testing.assert_allclose(shifts[1:] / shifts[:-1], wanted[:-1], rtol=1e-12)
    assert log.data["Energy"]["Mean"][-1].real < start.real


def test_automatic_shift_of_samples():
    """The actual fall is that on the same samples, with weights |psi' / psi|^2."""
    k = kind("phase")
    state, moved = sampled(k.model), sampled(k.model)
    driver = driver_of(k, state, automatic=True)
    stats, step = driver.compute_loss_and_update()
    samples = moved._samples
    moved.parameters = jax.tree.map(lambda x, y: x - 0.05 * y, moved.parameters, step)
    moved._samples = samples
    energies = np.asarray(moved.local_estimators(k.hamiltonian).data).reshape(-1)
    growth = moved.log_value(samples) - state.log_value(samples)
    weights = np.exp(2 * np.asarray(growth).reshape(-1).real)
    fall = (stats.mean - weights @ energies / weights.sum()).real
    np.testing.assert_allclose(driver.info["actual"], fall, rtol=1e-9)
    np.testing.assert_allclose(driver.info["rho"], fall / (0.05 * driver.info["gain"]), rtol=1e-9)


def test_one_trace_serves_all_steps(monkeypatch):
    """With schedules, and of a second driver."""
    traces, solve = [], ngdla.stochastic_reconfiguration

    def counted(*args, **options):
        traces.append(args)
        return solve(*args, **options)

    monkeypatch.setattr(ngdla, "stochastic_reconfiguration", counted)
    k = kind("real")
    model = nk.models.RBM(alpha=3, param_dtype=float)
    for _ in range(2):
        driver = driver_of(
            k,
            summed(model),
            diag_shift=lambda i: 1e-2 / (1 + i),
            momentum=lambda i: 0.9 - 0.5**i / 2,
        )
        driver.run(21, show_progress=False)
    assert len(traces) == 1


def test_checkpoints():
    """A driver that was restored goes on as the one that was saved."""
    k = kind("complex")

    def fresh():
        return driver_of(k, summed(k.model), momentum=0.8, automatic=True, diag_shift=1e-2)

    whole, saved, restored = fresh(), fresh(), fresh()
    whole.run(4, show_progress=False)
    saved.run(2, show_progress=False)
    stored = flax.serialization.to_bytes(saved)
    restored = flax.serialization.from_bytes(restored, stored)
    restored.run(2, show_progress=False)
    np.testing.assert_array_equal(flat(restored.state.parameters), flat(whole.state.parameters))
    assert float(restored._shift) == float(whole._shift)


SHARDED = """
import sys
import numpy as np
from adapters.states import *
from ngdla.adapters.netket import VMC_SPRING
assert jax.device_count() == 2
k = kind("phase")
sampler = nk.sampler.MetropolisLocal(SPINS, n_chains=8)
state = nk.vqs.MCState(sampler, k.model, n_samples=SAMPLES, seed=1, sampler_seed=2)
assert len(state.samples.sharding.device_set) == 2
driver = VMC_SPRING(
    k.hamiltonian, nk.optimizer.Sgd(0.05), variational_state=state, diag_shift=1e-3, automatic=True
)
_, step = driver.compute_loss_and_update()
assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(step))
S, f = scores(state, k.hamiltonian, k.mode)
assert distance(step, svd_step(S, f, 1e-3)) <= 2e-11
"""


def test_sharded_samples():
    tests = Path(__file__).parents[1]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{tests}:{tests.parent}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "NETKET_SHARDING": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_netket_knows_what_the_driver_measures():
    """For its callback AutoChunkSize."""
    k = kind("real")
    assert get_forward_operator(driver_of(k, sampled(k.model))) is k.hamiltonian


# -------------------------------------------------------------------------------- bad input


def test_what_is_refused():
    k = kind("real")
    state = sampled(k.model)
    for options, error, message in (
        ({"mode": "imag"}, ValueError, "`mode` is 'imag'; it must be one of 'real', 'complex'"),
        ({"mode": "holomorphic"}, ValueError, "some parameters are real; give the model complex"),
        ({"momentum": 1.0}, ValueError, "`momentum` is 1.0; it must satisfy"),
        ({"norm_constraint": 0.0}, ValueError, "`norm_constraint` is 0.0; it must be positive"),
        ({"automatic": True, "snr": 2.0}, ValueError, "`automatic` needs .* leave one of them out"),
        ({"automatic": True, "optimizer": optax.adam(0.1)}, ValueError, "use optax.sgd without"),
        ({"automatic": True, "optimizer": optax.sgd(0.1, 0.9)}, ValueError, "use optax.sgd"),
        ({"automatic": True, "diag_shift": lambda i: 1.0}, TypeError, "is a schedule"),
        ({"diag_shift": 0.0}, ValueError, "`diag_shift` is 0.0; it must be positive and finite"),
        ({"diag_shift": None}, TypeError, "`diag_shift` is None; it must be a number or a sch"),
        ({"diag_shift": jnp.ones(2)}, TypeError, "it must be a number or a schedule"),
        ({"snr": [2.0]}, TypeError, "`snr` is .*; it must be a number, or None"),
        ({"norm_constraint": lambda i: 1.0}, TypeError, "`norm_constraint` is .* must be a number"),
    ):
        with pytest.raises(error, match=message):
            driver_of(k, state, **options)


def test_hamiltonians_of_other_spaces():
    k = kind("real")
    spins = nk.hilbert.Spin(0.5, 8)
    longer = nk.operator.IsingJax(spins, nk.graph.Chain(8), h=1.0)
    with pytest.raises(TypeError, match=r"`hamiltonian` acts on .*N=8.*one of .*N=6"):
        driver_of(k._replace(hamiltonian=longer), summed(k.model))


def test_states_of_other_kinds():
    with pytest.raises(TypeError, match=r"a dict; it must be a netket\.vqs\.MCState"):
        driver_of(kind("real"), {})
