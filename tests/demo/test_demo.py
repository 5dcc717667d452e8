"""The demo's Hamiltonians, ansatz, sampler and optimisation, against their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import array_api_compat.numpy as np_compat

from ngdla._backend.inventory import load_namespace
from ngdla.demo import make_problem, quick
from ngdla.demo.exact import (
    LARGEST_BASIS,
    basis,
    basis_size,
    basis_spins,
    ground_state_energy,
    hamiltonian,
    reference_energy,
)
from ngdla.demo.hamiltonians import HeisenbergChain, IsingChain, local_energies
from ngdla.demo.metropolis import place, random_spins, sweep
from ngdla.demo.problems import ising
from ngdla.demo.rbm import RBM, log_2cosh, log_abs_2cosh
from ngdla.demo.vmc import DivergedError, Step, last_mean, mean_and_error, optimise
from ngdla.distributed import SerialCommunicator

EPS = np.finfo(float).eps
CASES = [(IsingChain, False), (IsingChain, True), (HeisenbergChain, False), (HeisenbergChain, True)]


def state(chain, holomorphic, hidden=5, scale=0.3, seed=1):
    """Return a model, random weights, and walkers on every basis state."""
    model = RBM(chain.sites, hidden, holomorphic)
    weights = model.unpack(model.initial(np.random.default_rng(seed), scale))
    return model, weights, place(model, weights, basis_spins(chain))


def amplitudes(model, weights, walkers):
    return np.exp(model.log_psi(weights, walkers.spins, walkers.angles))


# exact energies


@pytest.mark.parametrize(("sites", "energy"), [(8, -10.251661791), (10, -12.784906443)])
def test_ising_energy(sites, energy):
    assert ground_state_energy(IsingChain(sites)) == pytest.approx(energy, abs=1e-9)
    assert IsingChain(sites).closed_form() == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize(
    ("sites", "next_nearest", "energy"),
    [
        (8, 0.0, -3.651093409),
        (8, 0.2, -3.350733220),
        (8, 0.5, -3.0),
        (12, 0.0, -5.387390917),
        (12, 0.2, -4.956878168),
        (12, 0.5, -4.5),
    ],
)
def test_heisenberg_energy(sites, next_nearest, energy):
    chain = HeisenbergChain(sites, next_nearest=next_nearest)
    assert ground_state_energy(chain) == pytest.approx(energy, abs=1e-9)


def test_majumdar_ghosh_energy_of_ten_sites():
    assert ground_state_energy(HeisenbergChain(10)) == pytest.approx(-3.75, abs=1e-9)
    assert HeisenbergChain(10).closed_form() == -3.75


def test_hamiltonian_is_the_sum_of_pauli_matrices():
    sites = 4
    x, z = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0])

    def on(site, pauli):  # bit i of an index is site i, hence the last factor is site 0
        return np.kron(np.kron(np.eye(2 ** (sites - 1 - site)), pauli), np.eye(2**site))

    expected = sum(-1.3 * on(i, z) @ on((i + 1) % sites, z) - 0.7 * on(i, x) for i in range(sites))
    dense = hamiltonian(IsingChain(sites, coupling=1.3, field=0.7)).toarray()
    np.testing.assert_allclose(dense, expected, atol=8 * EPS)


def test_marshall_basis_is_a_change_of_signs():
    sites, chain = 6, HeisenbergChain(6, next_nearest=0.3)
    spin = [np.array([[0, 1], [1, 0]]) / 2, np.array([[0, -1j], [1j, 0]]) / 2, np.diag([0.5, -0.5])]

    def on(site, matrix):
        return np.kron(np.kron(np.eye(2 ** (sites - 1 - site)), matrix), np.eye(2**site))

    full = sum(
        strength * on(i, s) @ on((i + distance) % sites, s)
        for strength, distance in ((1.0, 1), (0.3, 2))
        for i in range(sites)
        for s in spin
    )
    states = basis(chain)
    sign = np.prod(basis_spins(chain)[:, ::2], axis=1)
    expected = sign[:, None] * full[np.ix_(states, states)] * sign
    np.testing.assert_allclose(hamiltonian(chain).toarray(), expected, atol=16 * EPS)


def test_reference_says_how_it_was_found():
    assert reference_energy(IsingChain(6)).method == "diagonalisation"
    long = reference_energy(IsingChain(40))
    assert long.method == "closed form"
    assert long.energy == pytest.approx(-50.942674114, abs=1e-9)
    assert reference_energy(HeisenbergChain(40)) == (-15.0, "closed form")
    with pytest.raises(ValueError, match="too large"):
        reference_energy(HeisenbergChain(40, next_nearest=0.2))


def test_no_closed_form_away_from_the_special_points():
    assert IsingChain(8, field=0.5).closed_form() is None
    assert HeisenbergChain(8, next_nearest=0.2).closed_form() is None


@pytest.mark.parametrize("chain", [IsingChain(6), HeisenbergChain(6)])
def test_basis(chain):
    spins = basis_spins(chain)
    assert spins.shape == (basis_size(chain), 6)
    assert np.all(np.abs(spins) == 1)
    assert np.unique(spins, axis=0).shape == spins.shape
    if chain.conserves_magnetisation:
        assert np.all(spins.sum(axis=1) == 0)
    assert basis_size(replace(chain, sites=64)) > LARGEST_BASIS


# ansatz and local energies


@pytest.mark.parametrize(("kind", "holomorphic"), CASES)
def test_local_energies_are_those_of_the_matrix(kind, holomorphic):
    chain = kind(6)
    model, weights, walkers = state(chain, holomorphic)
    psi = amplitudes(model, weights, walkers)
    expected = hamiltonian(chain) @ psi / psi
    got = local_energies(chain, model, weights, walkers)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * np.max(np.abs(expected)))


@pytest.mark.parametrize("holomorphic", [False, True])
def test_local_energies_of_large_weights(holomorphic):
    chain = IsingChain(6)
    model, weights, walkers = state(chain, holomorphic, scale=2.0)
    psi = amplitudes(model, weights, walkers)
    expected = hamiltonian(chain) @ psi / psi
    got = local_energies(chain, model, weights, walkers)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("holomorphic", [False, True])
def test_log_derivatives_are_finite_differences(holomorphic):
    chain = IsingChain(4)
    model, weights, walkers = state(chain, holomorphic, hidden=3)
    derivatives = model.log_derivatives(walkers.spins, walkers.angles)
    assert derivatives.shape == (16, model.size)
    parameters = np.concatenate([part.ravel() for part in weights])
    step = 1e-5
    for k in range(model.size):
        unit = step * np.eye(model.size)[k]
        up, down = (
            model.log_psi(w, walkers.spins, model.angles(w, walkers.spins))
            for w in (model.unpack(parameters + unit), model.unpack(parameters - unit))
        )
        np.testing.assert_allclose(derivatives[:, k], (up - down) / (2 * step), atol=1e-9)


@pytest.mark.parametrize("holomorphic", [False, True])
def test_log_modulus_is_the_real_part(holomorphic):
    model, weights, walkers = state(IsingChain(6), holomorphic)
    log_psi = model.log_psi(weights, walkers.spins, walkers.angles)
    np.testing.assert_allclose(walkers.log_modulus, log_psi.real, atol=64 * EPS)


def test_log_cosh_is_safe_far_out():
    far = np.array([-800.0, 0.0, 800.0])
    np.testing.assert_allclose(log_2cosh(far), [800.0, math.log(2), 800.0], rtol=4 * EPS)
    z = np.array([-800 + 0.3j, 0.2 - 1.0j, 0.3 + 2.0j, 800 + 0.3j])
    middle = np.log(2 * np.cosh(z[1:3]))
    expected = np.array([800 - 0.3j, middle[0], middle[1], 800 + 0.3j])
    np.testing.assert_allclose(np.exp(1j * log_2cosh(z).imag), np.exp(1j * expected.imag))
    np.testing.assert_allclose(log_2cosh(z).real, expected.real, rtol=8 * EPS, atol=8 * EPS)
    np.testing.assert_allclose(log_abs_2cosh(z), expected.real, rtol=8 * EPS, atol=8 * EPS)


# sampler


@pytest.mark.parametrize("kind", [IsingChain, HeisenbergChain])
@pytest.mark.parametrize("holomorphic", [False, True])
def test_metropolis_samples_the_modulus_squared(kind, holomorphic):
    chain = kind(6 if kind is HeisenbergChain else 4)
    model, weights, walkers = state(chain, holomorphic, scale=0.4)
    probability = np.abs(amplitudes(model, weights, walkers)) ** 2
    probability /= probability.sum()
    rng = np.random.default_rng(3)
    walkers = place(model, weights, random_spins(chain, 8000, rng))
    for _ in range(10):
        walkers = sweep(chain, model, weights, walkers, rng)
    index = ((walkers.spins < 0) @ (1 << np.arange(chain.sites))).astype(int)
    counts = np.bincount(np.searchsorted(basis(chain), index), minlength=probability.size)
    expected = 8000 * probability
    common = expected >= 5
    statistic = np.sum((counts - expected)[common] ** 2 / expected[common])
    freedom = np.count_nonzero(common) - 1
    assert freedom >= 10
    # five standard deviations of chi square; the uniform start is thousands away
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    uniform = 8000 / probability.size
    assert np.sum((uniform - expected) ** 2 / expected) > 100 * freedom


@pytest.mark.parametrize("kind", [IsingChain, HeisenbergChain])
def test_walkers_stay_what_they_are(kind):
    chain, rng = kind(8), np.random.default_rng(5)
    model = RBM(8, 12, holomorphic=True)
    weights = model.unpack(model.initial(rng, 0.3))
    start = place(model, weights, random_spins(chain, 50, rng))
    walkers = start
    for _ in range(20):
        walkers = sweep(chain, model, weights, walkers, rng)
    fresh = place(model, weights, walkers.spins)
    assert np.all(np.abs(walkers.spins) == 1)
    assert not np.array_equal(walkers.spins, start.spins)
    np.testing.assert_allclose(walkers.angles, fresh.angles, atol=1e-13)
    np.testing.assert_allclose(walkers.log_modulus, fresh.log_modulus, atol=1e-12)
    if chain.conserves_magnetisation:
        assert np.all(walkers.spins.sum(axis=1) == 0)


# optimisation


def test_short_run_reaches_the_ising_ground_state():
    problem = replace(
        ising(10), model=RBM(10, 40), walkers=256, steps=80, learning_rate=0.1, sweeps=1
    )
    assert problem.model.size == 450
    energies = [step.energy for step in optimise(problem, np_compat, seed=0)]
    exact = problem.chain.closed_form()
    assert len(energies) == 80
    assert abs(energies[0] - exact) > 0.1 * abs(exact)
    assert abs(np.mean(energies[-10:]) - exact) < 1e-3 * abs(exact)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [60, 150])
def test_short_run_reaches_the_majumdar_ghosh_ground_state(steps):
    problem = quick(make_problem("mg", 8)).with_steps(steps)
    steps = list(optimise(problem, np_compat, seed=0))
    energy, error = last_mean(steps)
    assert abs(energy + 3.0) < 5e-3 * 3.0
    assert error < 0.02


@pytest.mark.parametrize(
    ("system", "library"),
    [
        ("tfim", "torch"),
        ("mg", "torch"),
        pytest.param("tfim", "jax", marks=pytest.mark.slow),  # JAX compiles each operation
        ("mg", "jax"),
    ],
)
def test_every_library_walks_the_same_way(system, library):
    pytest.importorskip(library)
    problem = replace(
        make_problem(system, 6), model=RBM(6, 12, system == "mg"), walkers=64, steps=2
    )
    expected = list(optimise(problem, np_compat, seed=4))
    loaded = load_namespace(library)
    got = list(optimise(problem, loaded.xp, loaded.device, seed=4))
    assert got[0].energy == pytest.approx(expected[0].energy, rel=1e-12)
    assert got[0].error == pytest.approx(expected[0].error, rel=1e-12)
    # Later samples differ only where rounding decides an acceptance; here it does not.
    for a, b in zip(got[1:], expected[1:], strict=True):
        assert a.energy == pytest.approx(b.energy, rel=1e-6)


def test_seed_decides_everything():
    problem = replace(make_problem("tfim", 6), model=RBM(6, 6), walkers=32, steps=2)
    first, second, other = (
        [step.energy for step in optimise(problem, np_compat, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_energy_of_an_eigenstate_has_no_error():
    energy, error = mean_and_error(np.full(10, 2.5 + 0j), 10, SerialCommunicator())
    assert (energy, error) == (2.5, 0.0)
    energy, error = mean_and_error(np.array([1.0, 3.0]), 2, SerialCommunicator())
    assert energy == 2.0
    assert error == pytest.approx(1 / math.sqrt(2))


def test_divergence_is_said():
    with pytest.raises(DivergedError, match="seed"):
        mean_and_error(np.array([1.0, np.nan]), 2, SerialCommunicator())


def test_last_mean():
    steps = [Step(100.0, 50.0, True, 0.0, 0.0)] + [
        Step(float(k), 0.2, True, 0.0, 0.0) for k in range(20)
    ]
    energy, error = last_mean(steps)
    assert energy == pytest.approx(9.5)
    assert error == pytest.approx(0.2 / math.sqrt(20))
    assert last_mean(steps[:1]) == (100.0, 50.0)
