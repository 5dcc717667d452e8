"""The solver for quantax, in its own optimizers: the same steps as with its own solver."""

import inspect
import warnings
from functools import cache

import numpy as np
import pytest

quantax = pytest.importorskip("quantax")

import equinox
import jax
import jax.numpy as jnp
from quantax.optimizer import MARCH, SPRING, SR, AdamSR, auto_shift_eig

from ngdla.adapters import quantax as adapter
from ngdla.adapters.quantax import solver

SITES, HIDDEN, SAMPLES = 8, 12, 64
# The equations are 64 x 108, for complex amplitudes 128 x 108, for complex parameters 128 x 216.
U = {"float32": 2.0**-24, "float64": 2.0**-53}


@pytest.fixture(autouse=True)
def settings_are_restored():
    """quantax keeps a dtype, and switches x64 on with it, for the whole process."""
    dtype, wide = quantax.get_default_dtype(), jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    quantax.set_default_dtype(dtype)
    jax.config.update("jax_enable_x64", wide)


KINDS = {
    "real": ("float32", "float32", False),
    "complex amplitudes": ("complex64", "float32", False),
    "complex parameters": ("complex64", "complex64", False),
    "holomorphic": ("complex64", "complex64", True),
}
WIDE = {"float32": "float64", "complex64": "complex128"}


@cache
def chain():
    """Return the sites, which quantax keeps for the whole process and may be set once."""
    return quantax.sites.Chain(SITES)


class RBM(equinox.Module):
    """A restricted Boltzmann machine: psi(s) = prod_j cosh(W s + b)_j."""

    W: jax.Array
    b: jax.Array
    holomorphic: bool = equinox.field(static=True)

    def __call__(self, s):
        return jnp.prod(jnp.cosh(self.W @ s + self.b))


@cache
def problem_of(amplitudes, parameters, holomorphic):
    """Return a state of the Ising chain, for which quantax compiles once, and a Hamiltonian."""
    chain()
    rng = np.random.default_rng(7)
    W, b = rng.normal(0, 0.3, (2, HIDDEN, SITES)), rng.normal(0, 0.3, (2, HIDDEN))
    W, b = (x[0] + 1j * x[1] if parameters.startswith("complex") else x[0] for x in (W, b))
    model = RBM(*(jnp.asarray(x, dtype=parameters) for x in (W, b)), holomorphic)
    return quantax.state.Variational(model), quantax.operator.Ising(h=1.0)


def prepared(amplitudes, parameters, holomorphic=False):
    """Return state, Hamiltonian and samples in these dtypes."""
    quantax.set_default_dtype(amplitudes)
    spins = np.random.default_rng(3).choice(np.array([-1, 1], dtype="int8"), (SAMPLES, SITES))
    return *problem_of(amplitudes, parameters, holomorphic), jnp.asarray(spins)


def steps_of_both(optimizer, kind):
    """Return pairs of steps, with the solver of ngdla and with that of quantax."""
    state, H, spins = prepared(*kind)
    shifts = {"rshift": 0.0, "ashift": 1e-2}
    ours, theirs = (optimizer(state, H, solver=make(**shifts)) for make in (solver, auto_shift_eig))
    return [(ours.get_step(spins), theirs.get_step(spins)) for _ in range(3)]


@pytest.mark.parametrize(
    ("optimizer", "kind"), [(SR, "real"), (SPRING, "real"), (SR, "complex parameters")]
)
def test_single_precision_is_equal_bit_for_bit(optimizer, kind):
    """With x64 off outside, as quantax has it: both solve in double and round once."""
    for d, reference in steps_of_both(optimizer, KINDS[kind]):
        assert d.dtype == reference.dtype == KINDS[kind][0]
        np.testing.assert_array_equal(d, reference)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        (AdamSR, "complex amplitudes"),
        (SPRING, "holomorphic"),
        (MARCH, "holomorphic"),
    ],
)
def test_double_precision(optimizer, kind):
    """Also with the metric of MARCH and AdamSR, which quantax puts into A and x instead."""
    for d, reference in steps_of_both(optimizer, [WIDE.get(x, x) for x in KINDS[kind]]):
        assert np.linalg.norm(d - reference) <= 1e-12 * np.linalg.norm(reference)


def test_one_trace(monkeypatch):
    state, H, spins = prepared("float32", "float32")
    calls = []

    def counted(*args, **options):
        calls.append(options)
        return solve(*args, **options)

    solve = adapter.damped_lstsq
    monkeypatch.setattr(adapter, "damped_lstsq", counted)
    optimizer = SPRING(state, H, solver=solver())
    for _ in range(5):
        optimizer.get_step(spins)
    assert len(calls) == 1


# ----------------------------------------------------------------------------- by itself


def problem(n, m, dtype="float32", decades=4):
    """Return centred scores with singular values over some decades, and residuals."""
    rng = np.random.default_rng(n + m)
    A = rng.standard_normal((n, m)) * np.logspace(0, -decades, m)
    b = rng.standard_normal(n)
    if dtype.startswith("complex"):
        A, b = A + 1j * rng.standard_normal((n, m)) * abs(A), b + 1j * rng.standard_normal(n)
    return ((x - x.mean(axis=0)).astype(dtype) / n**0.5 for x in (A, b))


def by_svd(A, b, damping, d=1.0):
    """Return argmin |A x - b|^2 + damping |d x|^2 in double precision."""
    A, b = (x.astype(np.result_type(x, np.float64)) for x in (A, b))
    U, s, Vh = np.linalg.svd(A / d, full_matrices=False)
    return Vh.conj().T @ (s / (s**2 + damping) * (U.conj().T @ b)) / d


@pytest.mark.parametrize(
    ("damping", "shape", "dtype"),
    [
        (1e-7, (90, 40), "float32"),
        (1e-12, (40, 90), "complex64"),
        (1e-12, (90, 40), "complex64"),
    ],
)
def test_small_damping(damping, shape, dtype):
    """Double precision inside, whatever is set outside: the error is that of one rounding."""
    A, b = problem(*shape, dtype)
    x = solver(rshift=0.0, ashift=damping)(jnp.asarray(A), jnp.asarray(b))
    reference = by_svd(A, b, damping)
    assert x.dtype == dtype
    assert np.linalg.norm(x - reference) <= 4 * U["float32"] * np.linalg.norm(reference)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_metric_is_the_square_of_the_preconditioner(shape):
    A, b = problem(*shape)
    d = np.linspace(0.2, 3.0, shape[1], dtype="float32")
    x = solver(rshift=0.0, ashift=1e-3)(
        jnp.asarray(A), jnp.asarray(b), diag_preconditioner=jnp.asarray(d)
    )
    reference = by_svd(A, b, 1e-3, d)
    # d^2 is rounded, once
    assert np.linalg.norm(x - reference) <= 16 * U["float32"] * np.linalg.norm(reference)


@pytest.mark.parametrize(("dtype", "default"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_relative_shift_is_that_of_quantax(shape, dtype, default):
    A, _ = problem(*shape)
    d = np.linspace(0.2, 3.0, shape[1], dtype="float32")
    jax.config.update("jax_enable_x64", True)
    for metric, D in ((None, 1.0), (jnp.asarray(d**2), d)):
        trace = np.sum((A.astype(float) / D) ** 2) / min(shape) ** 0.5
        for rshift, expected in ((None, default), (1e-3, 1e-3)):
            shift = adapter.relative_shift(jnp.asarray(A), metric, rshift, dtype)
            assert shift.dtype == dtype
            assert shift == pytest.approx(expected * trace, rel=64 * U["float32"])


def test_quantax_refuses_a_step_that_would_be_wrong():
    """In float32 throughout, with a damping far below its rounding: NaN, and nothing changes."""
    state, H, spins = prepared("float32", "float32")
    before = np.asarray(state.get_params_flatten())
    optimizer = SPRING(state, H, solver=solver(rshift=0.0, ashift=1e-15, dtype=None))
    step = optimizer.get_step(spins)
    assert np.all(np.isnan(step))
    with pytest.warns(UserWarning, match="invalid update step"):
        state.update(step)
    np.testing.assert_array_equal(state.get_params_flatten(), before)
    assert np.all(np.isfinite(optimizer._buffers["phi"]))


def test_single_precision_throughout():
    A, b = problem(40, 90)
    x = solver(rshift=0.0, ashift=1e-2, dtype=jnp.float32)(jnp.asarray(A), jnp.asarray(b))
    reference = by_svd(A, b, 1e-2)
    kappa = np.linalg.norm(A, 2) ** 2 / 1e-2 + 1
    assert x.dtype == "float32"
    assert np.linalg.norm(x - reference) <= 64 * kappa * U["float32"] * np.linalg.norm(reference)


def test_signature_is_read_by_quantax():
    """Which emulates the preconditioner where a solver does not name it."""
    parameters = inspect.signature(solver()).parameters
    assert list(parameters) == ["A", "b", "diag_preconditioner", "other"]
    ours, theirs = (inspect.signature(f).parameters for f in (solver, auto_shift_eig))
    assert list(ours) == list(theirs)
    for name in ("rshift", "ashift"):
        assert ours[name].default == theirs[name].default
    assert np.dtype(ours["dtype"].default) == np.dtype(theirs["dtype"].default)


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ashift": -1e-3}, ValueError, "`ashift` is -0.001; it must be finite and not negative"),
        ({"ashift": np.nan}, ValueError, "`ashift` is nan; it must be finite"),
        ({"rshift": np.inf}, ValueError, "`rshift` is inf; it must be finite"),
        ({"rshift": 0, "ashift": 0.0}, ValueError, "both 0; the damping must be positive"),
        ({"ashift": "1e-3"}, TypeError, "`ashift` is '1e-3'; it must be a number"),
        ({"ashift": None}, TypeError, "`ashift` is None; it must be a number"),
        ({"rshift": True}, TypeError, "`rshift` is True; it must be a number"),
        ({"ashift": lambda step: 1e-3}, TypeError, "For a schedule make another"),
        ({"dtype": "float16"}, ValueError, "must be float64, float32 or None"),
        ({"dtype": jnp.complex64}, ValueError, "must be float64, float32 or None"),
        ({"dtype": "double precision"}, ValueError, "must be float64, float32 or None"),
    ],
)
def test_options(options, error, words):
    with pytest.raises(error) as caught:
        solver(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((5,), (5,), None), "`A` has shape (5,); it must be (n, m)"),
        (((2, 5, 7), (2, 5), None), "`A` has shape (2, 5, 7); it must be (n, m)"),
        (((5, 7), (6,), None), "`b` has shape (6,) but `A` has shape (5, 7); `b` must be (5,)"),
        (((5, 7), (5, 1), None), "`b` has shape (5, 1)"),
        (((5, 7), (5,), (5,)), "`diag_preconditioner` has shape (5,)"),
    ],
)
def test_shapes(shapes, words):
    A, b, d = (None if shape is None else jnp.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match="has shape") as caught:
        solver()(A, b, diag_preconditioner=d)
    assert words in str(caught.value)


def test_nothing_is_said_where_all_is_well():
    A, b = problem(20, 51)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.all(np.isfinite(solver()(jnp.asarray(A), jnp.asarray(b))))
