"""NetKet's optimisation loop with steps from log-derivatives and local energies themselves."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import netket as nk
from jax.flatten_util import ravel_pytree
from netket.utils.struct import field

import ngdla
from ngdla._backend.messages import shown
from ngdla.damped.precision import Precision
from ngdla.variational_monte_carlo.centred_scores import Mode

from .automatic_shift import next_shift, require_gradient_descent, require_start
from .netket_internals import at_parameters, register_hamiltonian, replicated
from .netket_samples import (
    Ansatz,
    Measured,
    ansatz_of,
    flat_parameters,
    measured,
    require_hilbert_space,
    require_shift,
)

__all__ = ["VMC_SPRING"]

Schedule = float | Callable[[int], Any]


class VMC_SPRING(nk.driver.AbstractOptimizationDriver):
    """A driver of NetKet for ground states by SR, minSR and SPRING.

    The step d = argmin |S d - 2 f|^2 + diag_shift |d - momentum * previous d|^2 is that of
    `netket.driver.VMC_SR`, NetKet's factor of 2 included, but is computed by
    `ngdla.stochastic_reconfiguration` from the residuals f of the local energies, without rounding
    a gradient or a Gram matrix: in single precision it is right to 1e-6 at any diagonal shift.

    Parameters
    ----------
    hamiltonian : netket.operator.AbstractOperator
        The operator of which the ground state is looked for.
    optimizer : optax.GradientTransformation
        Should be optax.sgd: the step is an update already.
    variational_state : netket.vqs.MCState or netket.vqs.FullSumState
        Its `chunk_size` is that of local energies and of log-derivatives. A FullSumState gives its
        samples their exact weights.
    diag_shift : float or schedule
        The damping, in units of eigenvalues of the quantum geometric tensor.
    momentum : float or schedule, default 0.9
        SPRING's mu, 0 <= mu < 1; 0 is SR, which with fewer samples than parameters is minSR.
    norm_constraint : float, optional
        c: what the optimizer gets is d min(1, sqrt(c) / |S d|). The momentum is that of d itself.
    automatic : bool, optional
        True: `diag_shift` is where the shift starts. After each step it is multiplied by 1.5 if rho
        = (fall of the energy on the same samples, reweighted) / (fall to first order) is below
        0.25, or no fall was expected, and divided by 1.5 if rho > 0.75, inside of [1e-9, 1e-1].
        Costs the local energies a second time.
    snr : float, optional
        Multiply the part of the step along each eigenvector of the Gram matrix by
        1 / (1 + (snr / SNR)^6), with its signal-to-noise ratio over the samples.
    mode : {"real", "complex", "holomorphic"}, optional
        How log psi is differentiated, as in `netket.jax.jacobian`; by default NetKet's choice,
        which is never "holomorphic": right for all states, with twice the numbers for holomorphic
        ones.

    Attributes
    ----------
    info : dict of arrays
        Of the last step, and in the log under "info": the fields of `SolveInfo` (with `snr`
        step_norm and the number of directions that were kept), diag_shift, with `norm_constraint`
        the factor of d, and with `automatic` the predicted and the actual fall, and rho.
    mode : str
        How log psi is differentiated.

    Raises
    ------
    TypeError, ValueError
        A state of another kind, an unknown mode, parameters that are not all complex in mode
        "holomorphic", a diagonal shift that is no number where one is needed; with `automatic` an
        optimizer that does not step along d, or `snr`.

    Notes
    -----
    With parameters in single precision the Gram matrix is in double precision, where JAX has it.
    A step for which the precision does not suffice is NaN. Checkpoints of the driver hold the last
    d and an automatic shift. One compilation serves all steps.

    References
    ----------
    G. Goldshlager, N. Abrahamsen, L. Lin, arXiv:2401.10190 (2024) (SPRING).

    Examples
    --------
    >>> import netket as nk
    >>> from ngdla.adapters.netket import VMC_SPRING
    >>> spins = nk.hilbert.Spin(0.5, 6)
    >>> ising = nk.operator.IsingJax(spins, nk.graph.Chain(6), h=1.0)
    >>> state = nk.vqs.FullSumState(spins, nk.models.RBM(), seed=0)
    >>> optimizer = nk.optimizer.Sgd(0.05)
    >>> driver = VMC_SPRING(ising, optimizer, variational_state=state, diag_shift=1e-3)
    >>> log = nk.logging.RuntimeLog()
    >>> _ = driver.run(40, out=log, show_progress=False)
    >>> bool(log.data["Energy"]["Mean"][-1].real < -7)
    True
    """

    # what the constructor sets
    diag_shift: Any = field(serialize=False)
    momentum: Any = field(serialize=False)
    norm_constraint: Any = field(serialize=False)
    automatic: bool = field(pytree_node=False, serialize=False)
    snr: Any = field(pytree_node=False, serialize=False)
    mode: Mode = field(pytree_node=False, serialize=False)
    _ham: Any = field(pytree_node=False, serialize=False)

    # what each step finds
    info: Any = field(serialize=False, default=None)

    # what checkpoints hold: created here, with the dtypes of every step
    _previous: Any = None
    _shift: Any = None

    def __init__(
        self,
        hamiltonian: Any,
        optimizer: Any,
        *,
        variational_state: Any,
        diag_shift: Schedule,
        momentum: Schedule = 0.9,
        norm_constraint: float | None = None,
        automatic: bool | None = None,
        snr: float | None = None,
        mode: str | None = None,
    ) -> None:
        self.mode = ansatz_of(variational_state, mode).mode
        require_hilbert_space(variational_state, hamiltonian)
        require_shift(diag_shift)
        _require_numbers(momentum, norm_constraint, snr)
        super().__init__(variational_state, optimizer, minimized_quantity_name="Energy")
        self._ham = hamiltonian
        self.diag_shift, self.momentum = diag_shift, momentum
        self.norm_constraint, self.snr = norm_constraint, snr
        self.automatic, self.info = bool(automatic), None
        d, _ = flat_parameters(variational_state.parameters, self.mode)
        self._previous = None if momentum == 0 else jnp.zeros_like(d, dtype=_at_least_single(d))
        self._shift = None
        if automatic:
            _require_prediction(snr)
            require_start(diag_shift)
            require_gradient_descent(optimizer, variational_state.parameters)
            self._shift = jnp.asarray(diag_shift, dtype=float)

    def compute_loss_and_update(self) -> tuple[Any, Any]:
        """Return the statistics of the energy and the step.

        Returns
        -------
        stats : netket.stats.Stats
            Of the local energies.
        step : tree of arrays
            Like the parameters of the state.
        """
        stats, data = measured(self.state, self._ham)
        kept = self._previous is not None
        step, d, self.info = _step(
            ansatz_of(self.state, self.mode),
            self.state.variables,
            data,
            self._shift if self.automatic else _value(self.diag_shift, self.step_count),
            self._previous,
            _value(self.momentum, self.step_count) if kept else None,
            self.norm_constraint,
            self.snr,
        )
        if kept:
            self._previous = d
        if self.automatic:
            self._follow(stats.mean, step)
        return stats, step

    def _follow(self, mean: Any, step: Any) -> None:
        """Set the next shift by what the step does to the energy on these samples."""
        state = self.state
        update = _update(self.optimizer.update, step, self._optimizer_state, state.parameters)
        moved = at_parameters(state, jax.tree.map(jnp.add, state.parameters, update))
        stats, new = measured(moved, self._ham)
        predicted = _rate(step, update) * self.info["norm_factor"] * self.info["gain"]
        ansatz = ansatz_of(state, self.mode)
        rest = _reweighted(ansatz, state.variables, moved.variables, new)
        actual = mean.real - stats.mean.real - rest
        self._shift, rho = next_shift(self._shift, predicted, actual)
        self.info = self.info | {"predicted": predicted, "actual": actual, "rho": rho}

    def _log_additional_data(self, log_dict: dict[str, Any]) -> None:
        super()._log_additional_data(log_dict)
        if self.info is not None:
            log_dict["info"] = self.info


register_hamiltonian(VMC_SPRING)


# ------------------------------------------------------------------------------------- steps


@partial(jax.jit, static_argnames=("ansatz", "snr"))
def _step(
    ansatz: Ansatz,
    variables: Any,
    data: Measured,
    shift: Any,
    previous: Any,
    momentum: Any,
    norm_constraint: Any,
    snr: float | None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Return the step as a tree, the whole d, and what is known of them."""
    O = ansatz.log_derivatives(variables, data.samples)
    energies = 2 * data.deviations.reshape(-1)
    energies = (energies.real if ansatz.mode == "real" else energies).astype(_at_least_single(O))
    d, info = ngdla.stochastic_reconfiguration(
        O,
        energies,
        shift,
        weights=data.weights,
        mode=ansatz.mode,
        previous=previous,
        momentum=0.0 if momentum is None else momentum,
        snr=snr,
        precision=_precision(O) if snr is None else "auto",
        full_output=True,
    )
    d = replicated(d)
    factor = _norm_factor(norm_constraint, info.step_norm)
    known = info._asdict() if isinstance(info, ngdla.SolveInfo) else _of_directions(info)
    flat, tree = flat_parameters(variables["params"], ansatz.mode)
    kept = None if previous is None else d.astype(_at_least_single(flat))
    return tree(factor * d), kept, known | {"norm_factor": factor, "diag_shift": shift}


def _at_least_single(x: Any) -> Any:
    """Return the dtype of an array, or float32 for half precision, which would spoil energies."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _precision(O: Any) -> Precision:
    """Return that of the Gram matrix: "auto" would be content with 4e-6 in single precision."""
    single = O.dtype in (jnp.float32, jnp.complex64)
    return "float64" if single and jax.config.jax_enable_x64 else "auto"


def _norm_factor(norm_constraint: Any, step_norm: Any) -> Any:
    """Return min(1, sqrt(c) / |S d|)."""
    one = jnp.ones_like(step_norm)
    if norm_constraint is None:
        return one
    longest = jnp.sqrt(norm_constraint).astype(one.dtype)
    return jnp.where(step_norm > longest, longest / step_norm, one)


def _of_directions(info: ngdla.SNRInfo) -> dict[str, Any]:
    """Return what a log can hold of a filtered step: numbers."""
    return {"step_norm": info.step_norm, "kept_directions": jnp.sum(info.kept)}


# ---------------------------------------------------------------------------- what a step does


@partial(jax.jit, static_argnums=0)
def _update(update: Any, step: Any, optimizer_state: Any, parameters: Any) -> Any:
    """Return what the optimizer will add to the parameters."""
    return update(step, optimizer_state, parameters)[0]


@jax.jit
def _rate(step: Any, update: Any) -> Any:
    """Return eta of an update -eta step."""
    d, _ = ravel_pytree(step)
    change, _ = ravel_pytree(update)
    return -jnp.vdot(d, change).real / jnp.vdot(d, d).real


@partial(jax.jit, static_argnums=0)
def _reweighted(ansatz: Ansatz, old: Any, new: Any, data: Measured) -> Any:
    """Return the mean of deviations at new variables, over samples that old ones drew."""
    weights = data.weights
    if weights is None:
        grown = [ansatz.log_values(variables, data.samples).real for variables in (old, new)]
        weights = jax.nn.softmax(2 * (grown[1] - grown[0]))
    deviations = jnp.where(weights > 0, data.deviations.reshape(-1).real, 0)
    return jnp.sum(weights * deviations) / jnp.sum(weights)


# ---------------------------------------------------------------------------------- arguments


def _value(number: Schedule, step: int) -> Any:
    """Return a number, or that of a schedule, as one kind of array."""
    return jnp.asarray(number(step) if callable(number) else number, dtype=float)


def _require_numbers(momentum: Schedule, norm_constraint: Any, snr: Any) -> None:
    for name, number in {"norm_constraint": norm_constraint, "snr": snr}.items():
        if number is not None and not isinstance(number, numbers.Real):
            msg = f"`{name}` is {shown(number)}; it must be a number, or None for none."
            raise TypeError(msg)
    if norm_constraint is not None and not norm_constraint > 0:
        msg = f"`norm_constraint` is {norm_constraint}; it must be positive, or None for none."
        raise ValueError(msg)
    if not callable(momentum) and not 0 <= momentum < 1:
        msg = f"`momentum` is {momentum}; it must satisfy 0 <= momentum < 1, or be a schedule."
        raise ValueError(msg)


def _require_prediction(snr: float | None) -> None:
    if snr is not None:
        msg = (
            "`automatic` needs the fall of the energy that a step promises, which is not known of "
            "steps filtered by `snr`; leave one of them out."
        )
        raise ValueError(msg)
