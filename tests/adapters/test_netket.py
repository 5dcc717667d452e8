"""The doors to NetKet beside NetKet's own solvers, and beside an SVD of the same scores."""

import functools

import numpy as np
import pytest

pytest.importorskip("netket")

import jax
import jax.numpy as jnp
import netket as nk
from adapters.states import (
    KINDS,
    SHIFTS,
    as_tree,
    distance,
    kind,
    sampled,
    scores,
    summed,
    svd_step,
)

import ngdla
from ngdla.adapters.netket import VMC_SPRING, dense_solver, preconditioner, qgt_solver
from ngdla.adapters.netket_internals import require_version

SGD = nk.optimizer.Sgd(0.05)
DENSE = nk.optimizer.qgt.QGTJacobianDense
PYTREE = nk.optimizer.qgt.QGTJacobianPyTree

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fewer samples:UserWarning", "ignore::netket.errors.InsufficientSamplesForSRWarning"
)


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    k = kind(request.param)
    state = sampled(k.model)
    _, gradient = state.expect_and_grad(k.hamiltonian)
    return k, state, gradient, scores(state, k.hamiltonian, k.mode)


def netket_step(case, shift, solver, **options):
    """Return the step of NetKet's driver."""
    k, state, _, _ = case
    driver = nk.driver.VMC_SR(
        k.hamiltonian,
        SGD,
        variational_state=state,
        diag_shift=shift,
        linear_solver=solver,
        **{"use_ntk": True, "on_the_fly": False, **options},
    )
    _, step = driver.compute_loss_and_update()
    return step, driver.info


@pytest.fixture(scope="module")
def wanted(case):
    """Return what is right: by NetKet's Cholesky, and by an SVD."""
    k, state, _, (S, f) = case
    cholesky = nk.optimizer.solver.cholesky
    return {
        shift: (
            netket_step(case, shift, cholesky)[0],
            as_tree(svd_step(S, f, shift), state.parameters, k.mode),
        )
        for shift in SHIFTS
    }


def assert_right(x, wanted, tolerance=2e-12):
    for right in wanted:
        assert distance(x, right) <= tolerance


@pytest.mark.parametrize("qgt", [DENSE, PYTREE])
def test_geometric_tensors(case, wanted, qgt):
    k, state, gradient, _ = case
    qgt = functools.partial(qgt, **k.modes)
    for shift in SHIFTS:
        sr = nk.optimizer.SR(qgt=qgt, solver=qgt_solver(), diag_shift=shift)
        assert_right(sr(state, gradient), wanted[shift])
        assert bool(sr.info["converged"])


def test_diag_scale(case):
    k, state, gradient, _ = case
    steps = [
        nk.optimizer.SR(
            qgt=functools.partial(DENSE, **k.modes),
            solver=solver,
            diag_shift=1e-4,
            diag_scale=1e-2,
        )(state, gradient)
        for solver in (qgt_solver(), nk.optimizer.solver.cholesky)
    ]
    assert distance(*steps) <= 2e-12


@pytest.mark.parametrize(
    "options", [{}, {"on_the_fly": True}, {"use_ntk": False}], ids=["ntk", "on the fly", "qgt"]
)
def test_matrices_with_damping_inside(case, wanted, options):
    for shift in SHIFTS:
        step, info = netket_step(case, shift, dense_solver(), **options)
        assert_right(step, wanted[shift])
        assert bool(info["converged"])


def test_preconditioner(case, wanted):
    _, state, gradient, _ = case
    for shift in SHIFTS:
        door = preconditioner(state, lambda step, shift=shift: shift * step)
        assert_right(door(state, gradient, 1), wanted[shift])


def test_preconditioner_of_all_states():
    k = kind("real")
    state = summed(k.model)
    _, gradient = state.expect_and_grad(k.hamiltonian)
    S, f = scores(state, k.hamiltonian, k.mode)
    assert distance(preconditioner(state, 1e-3)(state, gradient), svd_step(S, f, 1e-3)) <= 2e-12


def test_all_states_by_their_scores():
    k = kind("real")
    state = summed(k.model)
    _, gradient = state.expect_and_grad(k.hamiltonian)
    S, f = scores(state, k.hamiltonian, k.mode)
    sr = nk.optimizer.SR(solver=qgt_solver(), diag_shift=1e-3)
    assert distance(sr(state, gradient), svd_step(S, f, 1e-3)) <= 2e-12


# ------------------------------------------------------------------- single precision


@pytest.fixture(scope="module")
def rounded():
    k = kind("real", single=True)
    state = sampled(k.model)
    return k, state, state.expect_and_grad(k.hamiltonian)[1], scores(state, k.hamiltonian, "real")


@pytest.mark.parametrize("shift", [1e-4, 1e-8, 1e-12])
def test_a_rounded_gradient_is_filtered(rounded, shift):
    _, state, gradient, (S, f) = rounded
    sr = nk.optimizer.SR(qgt=DENSE, solver=qgt_solver(), diag_shift=shift)
    right = svd_step(S, f, shift)
    assert distance(sr(state, gradient), right) <= 0.1
    assert distance(preconditioner(state, shift)(state, gradient), right) <= 0.1


def test_a_rounded_gradient_is_refused(rounded):
    _, state, gradient, _ = rounded
    sr = nk.optimizer.SR(qgt=DENSE, solver=qgt_solver(row_space=False), diag_shift=1e-10)
    assert np.all(np.isnan(flat_of(sr(state, gradient))))
    assert not bool(sr.info["converged"])


def test_a_rounded_matrix_is_refused(rounded):
    step, info = netket_step(rounded, 1e-10, dense_solver())
    assert np.all(np.isnan(flat_of(step)))
    assert not bool(info["converged"])


def flat_of(tree):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])


# ------------------------------------------------------------------------------ values


def test_solvers_are_values():
    assert qgt_solver() == qgt_solver()
    assert hash(qgt_solver()) == hash(qgt_solver())
    assert qgt_solver() != qgt_solver(row_space=False)
    assert dense_solver() == dense_solver()
    assert hash(dense_solver()) == hash(dense_solver())


def counted(monkeypatch, name):
    """Return the list of calls of a function of ngdla, each of which is a trace."""
    calls, function = [], getattr(ngdla, name)

    def called(*args, **options):
        calls.append(name)
        return function(*args, **options)

    monkeypatch.setattr(ngdla, name, called)
    return calls


def schedule(step):
    return 1e-2 / (1 + step)


@pytest.mark.parametrize("door", ["SR", "VMC_SR", "preconditioner"])
def test_one_trace_serves_all_steps(monkeypatch, door):
    """Also of a second driver, with a solver of the same value."""
    name = "hermitian_solve" if door == "VMC_SR" else "damped_solve"
    calls, ham = counted(monkeypatch, name), kind("real").hamiltonian
    model = nk.models.RBM(alpha=1, param_dtype=float, kernel_init=jax.nn.initializers.normal(0.011))
    for steps in (20, 1):
        state = sampled(model)
        if door == "VMC_SR":
            driver = nk.driver.VMC_SR(
                ham,
                SGD,
                variational_state=state,
                diag_shift=schedule,
                linear_solver=dense_solver(),
                use_ntk=True,
            )
        else:
            p = preconditioner(state, schedule)
            if door == "SR":
                p = nk.optimizer.SR(qgt=DENSE, solver=qgt_solver(), diag_shift=schedule)
            driver = nk.driver.VMC(ham, SGD, variational_state=state, preconditioner=p)
        driver.run(steps, show_progress=False)
    assert len(calls) == (2 if door == "VMC_SR" else 1)  # two branches of one trace


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("version", ["3.22", "3.24.0", "4.0rc1"])
def test_untried_versions(version):
    with pytest.raises(ImportError, match=r"NetKet >= 3\.23, < 3\.24, but " + version):
        require_version(version)


def test_options_that_are_none():
    for options in ({"precision": ["native"]}, {"precision": "best"}, {"row_space": "yes"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` is .* must be one of"):
            qgt_solver(**options)


def test_geometric_tensors_without_scores(case):
    _, state, gradient, _ = case
    sr = nk.optimizer.SR(qgt=nk.optimizer.qgt.QGTOnTheFly(holomorphic=False), solver=qgt_solver())
    with pytest.raises(TypeError, match=r"name the class: .*QGTJacobianDense"):
        sr(state, gradient)


def test_imaginary_parts_are_refused():
    k = kind("phase")
    state = sampled(k.model)
    sr = nk.optimizer.SR(qgt=functools.partial(DENSE, mode="imag"), solver=qgt_solver())
    with pytest.raises(ValueError, match=r"mode 'imag', .*to_real_part\(\)"):
        sr(state, state.parameters)


def test_solvers_that_were_swapped(case):
    _, state, gradient, _ = case
    with pytest.raises(TypeError, match=r"dense_solver\(\) as `linear_solver`"):
        qgt_solver()(jnp.eye(3), jnp.ones(3))
    sr = nk.optimizer.SR(qgt=functools.partial(DENSE, holomorphic=False), solver=dense_solver())
    with pytest.raises(TypeError, match=r"Pass qgt_solver\(\) as `solver`"):
        sr.solver(DENSE(state, holomorphic=False), gradient)


def test_gradients_of_another_state():
    state = sampled(kind("real").model)
    with pytest.raises(ValueError, match="`gradient` must be a tree like the parameters"):
        preconditioner(state, 1e-3)(state, {"a": jnp.ones(3)})


def test_local_estimators_are_named():
    k = kind("real")
    state = sampled(k.model)
    energies = state.local_estimators(k.hamiltonian)
    with pytest.raises((TypeError, ValueError), match="local_energies"):
        ngdla.stochastic_reconfiguration(jnp.ones((32, 4)), energies, 1e-3)


def test_complex_scores_have_to_be_told():
    k = kind("holomorphic")
    state = sampled(k.model)
    O = jnp.ones((32, 4), dtype=complex)
    energies = state.local_estimators(k.hamiltonian).data.reshape(-1)
    with pytest.raises(ValueError, match="'holomorphic' for complex parameters"):
        ngdla.stochastic_reconfiguration(O, energies, 1e-3)


def test_the_driver_is_a_door():
    assert VMC_SPRING.__module__.startswith("ngdla.adapters")
