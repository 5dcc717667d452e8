"""The doors to NetKet beside NetKet's own solvers, and beside an SVD of the same scores."""

import functools

import numpy as np
import pytest

pytest.importorskip("netket")

import flax.linen as nn
import jax
import jax.numpy as jnp
import netket as nk
from adapters.states import (
    KINDS,
    SHIFTS,
    as_tree,
    columns,
    distance,
    flat,
    kind,
    sampled,
    scores,
    summed,
    svd_solve,
    svd_step,
)
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla.adapters import netket as doors
from ngdla.adapters.netket import VMC_SPRING, dense_solver, preconditioner, qgt_solver
from ngdla.adapters.netket_internals import at_parameters

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


@pytest.fixture(scope="module")
def of_gradient(case):
    """Return what is right for the gradient v, by an SVD, and how well v tells it.

    Rounding of v, and of S, which moves its row space, is divided by the shift.
    """
    k, state, gradient, (S, _) = case
    v = columns(gradient, k.mode)
    right = {shift: svd_solve(S, v, shift) for shift in SHIFTS}
    u = np.finfo(float).eps / 2
    return {
        shift: (
            as_tree(x, state.parameters, k.mode),
            max(2e-12, 32 * u * np.linalg.norm(v) / (shift * np.linalg.norm(x))),
        )
        for shift, x in right.items()
    }


def only(case, *modes):
    if case[0].mode not in modes or "mode" in case[0].modes:
        pytest.skip("other kinds show it")


@pytest.mark.parametrize("qgt", [DENSE, PYTREE])
def test_geometric_tensors(case, of_gradient, qgt):
    k, state, gradient, _ = case
    if qgt is PYTREE:
        only(case, "holomorphic")
    qgt = functools.partial(qgt, **k.modes)
    for shift in SHIFTS:
        sr = nk.optimizer.SR(qgt=qgt, solver=qgt_solver(), diag_shift=shift)
        right, tolerance = of_gradient[shift]
        assert distance(sr(state, gradient), right) <= tolerance
        assert bool(sr.info["converged"])


def test_trees_with_two_rows_a_sample():
    k = kind("complex")
    state = sampled(k.model)
    gradient = state.parameters
    steps = [
        nk.optimizer.SR(qgt=functools.partial(PYTREE, **k.modes), solver=solver, diag_shift=1e-2)(
            state, gradient
        )
        for solver in (qgt_solver(), nk.optimizer.solver.cholesky)
    ]
    assert distance(*steps) <= 2e-12


def test_diag_scale(case):
    """(S^H S + diag_scale diag(S^H S) + diag_shift) x = v."""
    only(case, "holomorphic")
    k, state, gradient, (S, f) = case
    qgt = functools.partial(DENSE, **k.modes)
    sr = nk.optimizer.SR(qgt=qgt, solver=qgt_solver(), diag_shift=1e-3, diag_scale=1e-2)
    G = S.conj().T @ S
    x = np.linalg.solve(G + np.diag(1e-2 * np.diag(G) + 1e-3), S.conj().T @ f)
    assert distance(sr(state, gradient), x) <= 2e-12


@pytest.mark.parametrize(
    "options", [{}, {"on_the_fly": True}, {"use_ntk": False}], ids=["ntk", "on the fly", "qgt"]
)
def test_matrices_with_damping_inside(case, wanted, options):
    if options:
        only(case, "complex" if "on_the_fly" in options else "real")
    elif case[0].mode == "holomorphic":
        pytest.skip("VMC_SR knows no such mode")
    for shift in SHIFTS:
        step, info = netket_step(case, shift, dense_solver(), **options)
        for right in wanted[shift]:
            assert distance(step, right) <= 2e-12
        assert bool(info["converged"])


def test_preconditioner(case, of_gradient):
    _, state, gradient, _ = case
    for shift in SHIFTS:
        door = preconditioner(state, lambda step, shift=shift: shift * step)
        right, tolerance = of_gradient[shift]
        assert distance(door(state, gradient, 1), right) <= tolerance


def test_all_states_with_their_weights():
    k = kind("real")
    state = summed(k.model)
    _, gradient = state.expect_and_grad(k.hamiltonian)
    right = svd_step(*scores(state, k.hamiltonian, k.mode), 1e-2)
    sr = nk.optimizer.SR(solver=qgt_solver(), diag_shift=1e-2)
    assert distance(sr(state, gradient), right) <= 2e-12
    assert distance(preconditioner(state, 1e-2)(state, gradient), right) <= 2e-12


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
    assert np.all(np.isnan(flat(sr(state, gradient))))
    assert not bool(sr.info["converged"])


def test_one_rounded_leaf_rounds_a_gradient():
    """It is promoted to the precision of the others, and is no more precise for that."""

    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(5, param_dtype=jnp.float32, dtype=jnp.float32)(x)
            z = nn.Dense(4, param_dtype=float)(x)
            return jnp.sum(jnp.log(jnp.cosh(y)), axis=-1) + jnp.sum(jnp.log(jnp.cosh(z)), axis=-1)

    state = sampled(Mixed())
    _, gradient = state.expect_and_grad(kind("real").hamiltonian)
    right = svd_step(*scores(state, kind("real").hamiltonian, "real"), 1e-10)
    sr = nk.optimizer.SR(qgt=DENSE, solver=qgt_solver(), diag_shift=1e-10)
    for door in (sr, preconditioner(state, 1e-10)):
        assert distance(door(state, gradient), right) <= 0.1


def test_without_double_precision_nothing_is_filtered(rounded):
    """What is left is right at large shifts, and NaN at small ones."""
    _, state, gradient, (S, f) = rounded
    state = at_parameters(state, state.parameters)
    state._samples = state.samples.astype(jnp.float32)
    with jax.enable_x64(False):
        large, small = (preconditioner(state, shift)(state, gradient) for shift in (1e-2, 1e-8))
    assert distance(large, svd_step(S, f, 1e-2)) <= 1e-3
    assert np.all(np.isnan(flat(small)))


def test_a_rounded_matrix_is_refused(rounded):
    step, info = netket_step(rounded, 1e-10, dense_solver())
    assert np.all(np.isnan(flat(step)))
    assert not bool(info["converged"])


def test_matrices_of_other_origin():
    """Without null vectors, all that is known of a matrix is the matrix."""
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((6, 6)), rng.standard_normal(6)
    W = A @ A.T + np.eye(6)
    x, info = dense_solver()(jnp.asarray(W), jnp.asarray(b))
    np.testing.assert_allclose(x, np.linalg.solve(W, b), rtol=1e-10)
    assert bool(info["converged"])


# ------------------------------------------------------------------------------ values


def test_solvers_are_values():
    assert qgt_solver() == qgt_solver()
    assert hash(qgt_solver()) == hash(qgt_solver())
    assert qgt_solver() != qgt_solver(row_space=False)
    assert dense_solver() == dense_solver()
    assert hash(dense_solver()) == hash(dense_solver())


def counted(monkeypatch, module, name):
    """Return the list of calls of a function, each of which is a trace."""
    calls, function = [], getattr(module, name)

    def called(*args, **options):
        calls.append(name)
        return function(*args, **options)

    monkeypatch.setattr(module, name, called)
    return calls


def schedule(step):
    return 1e-2 / (1 + step)


def test_one_trace_serves_all_steps(monkeypatch):
    """Also of a second solver of the same value, and with a schedule."""
    k = kind("real")
    state = sampled(nk.models.RBM(alpha=3, param_dtype=float))
    gradient = state.parameters
    solves = counted(monkeypatch, ngdla, "damped_solve")
    for solver in (qgt_solver(), qgt_solver()):
        sr = nk.optimizer.SR(qgt=DENSE, solver=solver, diag_shift=schedule)
        for step in range(21):
            sr(state, gradient, step)
    assert len(solves) == 1
    for step in range(21):
        preconditioner(state, schedule)(state, gradient, step)
    assert len(solves) == 2
    solves = counted(monkeypatch, doors, "_solved")
    for _ in range(2):
        driver = nk.driver.VMC_SR(
            k.hamiltonian,
            SGD,
            variational_state=state,
            diag_shift=schedule,
            linear_solver=dense_solver(),
            use_ntk=True,
            on_the_fly=False,
        )
        for step in range(21):
            driver._step_count = step
            driver.compute_loss_and_update()
    assert len(solves) == 1


# --------------------------------------------------------------------------- bad input


def test_options_that_are_none():
    for options in ({"precision": ["native"]}, {"precision": "best"}, {"row_space": "yes"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` is .* must be one of"):
            qgt_solver(**options)


@pytest.mark.parametrize("shift", [0.0, -1e-3, float("nan")])
def test_shifts_that_are_not_positive(shift):
    with pytest.raises(ValueError, match=f"`diag_shift` is {shift}; it must be positive"):
        preconditioner(sampled(kind("real").model), shift)


def test_geometric_tensors_without_scores():
    state = sampled(kind("real").model)
    sr = nk.optimizer.SR(qgt=nk.optimizer.qgt.QGTOnTheFly, solver=qgt_solver())
    with pytest.raises(TypeError, match=r"name the class: .*QGTJacobianDense"):
        sr(state, state.parameters)


def test_imaginary_parts_are_refused():
    state = sampled(kind("phase").model)
    sr = nk.optimizer.SR(qgt=functools.partial(DENSE, mode="imag"), solver=qgt_solver())
    with pytest.raises(ValueError, match=r"mode 'imag', .*to_real_part\(\)"):
        sr(state, state.parameters)


def test_solvers_that_were_swapped():
    state = sampled(kind("real").model)
    with pytest.raises(TypeError, match=r"dense_solver\(\) as `linear_solver`"):
        qgt_solver()(jnp.eye(3), jnp.ones(3))
    with pytest.raises(TypeError, match=r"Pass qgt_solver\(\) as `solver`"):
        dense_solver()(DENSE(state), state.parameters)


def test_gradients_of_another_state():
    state = sampled(kind("real").model)
    with pytest.raises(ValueError, match="`gradient` must be a tree like the parameters"):
        preconditioner(state, 1e-3)(state, {"a": jnp.ones(3)})


def test_local_estimators_are_named():
    k = kind("real")
    state = sampled(k.model)
    energies = state.local_estimators(k.hamiltonian)
    with pytest.raises(TypeError, match=r"`local_energies\.data\.reshape\(-1\)`"):
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
