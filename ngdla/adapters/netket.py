"""NetKet: solvers for `SR` and `VMC_SR`, a preconditioner for `VMC`, and the driver `VMC_SPRING`.

The driver is the only door with the local energies. What comes through the others has been rounded
before: a gradient, which at small diagonal shifts in single precision holds no step any more, or a
Gram matrix with its damping inside.

    from ngdla.adapters.netket import VMC_SPRING
    driver = VMC_SPRING(hamiltonian, optimizer, variational_state=state, diag_shift=1e-3)
"""

from __future__ import annotations

from .versions import require_version

require_version("netket", at_least="3.23", below="3.24")  # before what other versions may lack

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import netket as nk

import ngdla
from ngdla.damped.precision import Precision
from ngdla.variational_monte_carlo.centred_scores import Mode

from .netket_driver import VMC_SPRING
from .netket_internals import is_jacobian_qgt, parameters_of, samples_of
from .netket_samples import Ansatz, ansatz_of, flat_parameters, require_shift

__all__ = ["VMC_SPRING", "dense_solver", "preconditioner", "qgt_solver"]


def qgt_solver(*, precision: Precision = "native", row_space: bool = True) -> ScoresSolver:
    """Return a solver for `netket.optimizer.SR` that never forms the geometric tensor.

    It solves (S^H S + diag_shift) x = gradient by `ngdla.damped_solve`, with the scores S that the
    geometric tensor holds: the smaller Gram matrix, also with fewer samples than parameters.

    Parameters
    ----------
    precision : {"native", "auto", "mixed", "split-tf32", "float32", "float64", "complex64", \
            "complex128"}
        As in `damped_solve`.
    row_space : bool, default True
        With fewer rows of S than parameters, and a gradient in single precision: filter out what
        rounding did to it, as in `damped_solve`, provided that JAX has x64 switched on. In double
        precision, where nothing of the step is lost but at tiny diagonal shifts, the plain solve is
        the more accurate one.

    Returns
    -------
    callable
        (A, b, x0=None) -> (x, info), info a dict of the fields of `SolveInfo`. A hashable value:
        equal options are one trace. x0, an iterate of NetKet's, is not used.

    Raises
    ------
    TypeError, ValueError
        Options that are none; when called, a geometric tensor that holds no scores, mode "imag".

    Notes
    -----
    In single precision at small diagonal shifts the gradient holds little of the step: with
    `row_space` it is right to about 1e-2, without it info["converged"] is False and the step NaN,
    as with parameters in half precision. One leaf in single precision makes a gradient single.
    `VMC_SPRING` does not round a gradient.

    Examples
    --------
    >>> import netket as nk
    >>> from ngdla.adapters.netket import qgt_solver
    >>> qgt = nk.optimizer.qgt.QGTJacobianDense
    >>> sr = nk.optimizer.SR(qgt=qgt, solver=qgt_solver(), diag_shift=1e-3)
    """
    return ScoresSolver(precision, row_space)


def dense_solver() -> GramSolver:
    """Return a solver for `netket.driver.VMC_SR`, as its `linear_solver`.

    It solves systems with a matrix that has the damping inside by `ngdla.hermitian_solve`, in
    double precision where there is one, without the null vectors of NetKet's centring.

    Returns
    -------
    callable
        (W, b) -> (x, info), info a dict of the fields of `HermitianInfo`. A hashable value.

    Raises
    ------
    TypeError
        When called with a geometric tensor.

    Notes
    -----
    What the matrix lost when it was formed in single precision does not come back: where its
    smallest eigenvalue is at the level of its rounding errors, info["converged"] is False and the
    step NaN. `VMC_SPRING` needs no such matrix.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from ngdla.adapters.netket import dense_solver
    >>> x, info = dense_solver()(jnp.diag(jnp.array([1.0, 2.0, 4.0])), jnp.array([1.0, 0.0, -1.0]))
    >>> bool(info["converged"])
    True
    """
    return GramSolver()


def preconditioner(vs: Any, diag_shift: float | Callable[[int], Any]) -> Preconditioner:
    """Return a preconditioner for `netket.driver.VMC`, which takes log-derivatives itself.

    Parameters
    ----------
    vs : netket.vqs.MCState or netket.vqs.FullSumState
        The state of the driver. Its `chunk_size` is that of log-derivatives.
    diag_shift : float or schedule
        The damping, in units of eigenvalues of the quantum geometric tensor.

    Returns
    -------
    callable
        (state, gradient, step) -> step of `netket.optimizer.SR`: it has the factor of 2 that
        NetKet's gradient has, 2 S^H f for real and for complex parameters.

    Raises
    ------
    TypeError, ValueError
        A state of another kind; when called, a gradient that is not a tree like the parameters.

    Notes
    -----
    The gradient has been rounded: what is said of `qgt_solver` and its `row_space` holds here too.

    Examples
    --------
    >>> import netket as nk
    >>> from ngdla.adapters.netket import preconditioner
    >>> spins = nk.hilbert.Spin(0.5, 6)
    >>> state = nk.vqs.FullSumState(spins, nk.models.RBM(), seed=0)
    >>> gradient = jax.tree.map(jnp.ones_like, state.parameters)
    >>> step = preconditioner(state, 1e-3)(state, gradient)
    >>> jax.tree.structure(step) == jax.tree.structure(gradient)
    True
    """
    require_shift(diag_shift)
    return Preconditioner(ansatz_of(vs).mode, diag_shift)


# ---------------------------------------------------------------------------------- solvers


@dataclasses.dataclass(frozen=True)
class ScoresSolver:
    """Solves with a geometric tensor by its scores."""

    precision: Precision
    row_space: bool

    def __post_init__(self) -> None:
        """Refuse options on which no trace could depend."""
        allowed = {"precision": get_args(Precision), "row_space": (True, False)}
        for name, choices in allowed.items():
            value = getattr(self, name)
            if not isinstance(value, Hashable) or value not in choices:
                msg = (
                    f"`{name}` is {value!r}; it must be one of {', '.join(map(repr, choices))}: "
                    f"NetKet compiles a solver once for each value of its options."
                )
                raise ValueError(msg)

    def __call__(self, A: Any, b: Any, *, x0: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return x with (S^H S + diag_shift) x = b, and what is known of it."""
        del x0  # an iterate; that of `damped_lstsq` is a prior
        _require_scores(A)
        pieces, tree = jax.tree.flatten(b)
        pieces = _as_rounded(pieces, parameters_of(A))
        blocks = [O.reshape(-1, v.size) for O, v in zip(jax.tree.leaves(A.O), pieces)]
        x, info = ngdla.damped_solve(
            blocks,
            [v.reshape(-1) for v in pieces],
            A.diag_shift,
            precision=self.precision,
            row_space=self.row_space and _filtered(blocks[0].shape[0], pieces),
            full_output=True,
        )
        x = [piece.reshape(v.shape) for piece, v in zip(x, pieces)]
        return jax.tree.unflatten(tree, x), info._asdict()


def _as_rounded(v: Sequence[Any], parameters: Any) -> list[Any]:
    """Return pieces of a gradient in the precision of its least precise leaf.

    What becomes of its rounding is judged by the dtype, and promotion has hidden some of that where
    parameters differ in precision.
    """
    reals = [jnp.finfo(x.dtype).dtype for x in jax.tree.leaves(parameters)]
    least = max(reals, key=lambda dtype: jnp.finfo(dtype).eps)
    pair = jnp.promote_types(least, jnp.complex64)
    return [x.astype(pair if jnp.iscomplexobj(x) else least) for x in v]


def _filtered(rows: int, v: Sequence[Any]) -> bool:
    """Tell whether rounding of v = S^H f can be filtered out, and matters."""
    single = jnp.result_type(*v) in (jnp.float32, jnp.complex64)
    wide = jax.config.jax_enable_x64  # the filter needs double precision
    return single and wide and rows < sum(piece.size for piece in v)


def _require_scores(A: Any) -> None:
    if isinstance(A, jax.Array):
        msg = (
            "qgt_solver() got a matrix, of which it would need the scores; pass dense_solver() as "
            "`linear_solver` of netket.driver.VMC_SR."
        )
        raise TypeError(msg)
    if not is_jacobian_qgt(A):
        msg = (
            f"qgt_solver() got a {type(A).__name__}, which holds no scores; name the class: "
            f"netket.optimizer.SR(qgt=netket.optimizer.qgt.QGTJacobianDense, solver=qgt_solver()), "
            f"or QGTJacobianPyTree."
        )
        raise TypeError(msg)
    if str(A.mode) == "imag":
        msg = (
            "the geometric tensor has mode 'imag', and imaginary parts are indefinite; take its "
            "to_real_part(), or solve with netket.optimizer.solver.pinv_smooth."
        )
        raise ValueError(msg)


@dataclasses.dataclass(frozen=True)
class GramSolver:
    """Solves with a matrix that has its damping inside."""

    def __call__(self, W: Any, b: Any, *, dv: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return x with W x = b, and what is known of it.

        NetKet gives `dv`, where it is named, together with S^H S + damping, which need not have
        null vectors, and leaves it out with S S^H + damping.
        """
        if not isinstance(W, jax.Array):
            msg = (
                f"dense_solver() got a {type(W).__name__}; it is for `linear_solver` of "
                f"netket.driver.VMC_SR. Pass qgt_solver() as `solver` of netket.optimizer.SR."
            )
            raise TypeError(msg)
        x, info = _solved(W, b, centred=dv is None)
        return x, info._asdict()


@partial(jax.jit, static_argnames="centred")
def _solved(W: Any, b: Any, *, centred: bool) -> Any:
    """Return the solution, always of traced values: NaN where it is not to be trusted."""
    null = _null_vectors(W, b) if centred else None
    return ngdla.hermitian_solve(W, b, null=null, full_output=True)


def _null_vectors(W: Any, b: Any) -> Any:
    """Return orthonormal null vectors of the Gram matrix of centred scores, or 0 in their place.

    The vector of ones is one of them. Stacked scores, whose rows are real and imaginary parts in
    turns, have another one, of which NetKet does not tell: 1 and -1 in turns. With columns of 0
    N N^H is a projector too.
    """
    rows = W.shape[-1]
    ones = jnp.full(rows, rows**-0.5, dtype=W.real.dtype)
    N = [ones] if rows % 2 else [ones, ones * (1 - 2 * (jnp.arange(rows) % 2))]
    return jnp.stack([jnp.where(_is_apart(W, b, x), x, 0) for x in N], axis=1)


def _is_apart(W: Any, b: Any, x: Any) -> Any:
    """Tell whether x is an eigenvector of W that b has no part along, up to rounding.

    Whatever its eigenvalue is, the solution then has no part along it either.
    """
    u = jnp.finfo(W.dtype).eps / 2
    Wx = W @ x
    leak = jnp.linalg.norm(Wx - jnp.vdot(x, Wx) * x)
    small = leak <= 32 * W.shape[-1] ** 0.5 * u * jnp.linalg.norm(W)
    return small & (jnp.abs(jnp.vdot(x, b)) <= u**0.5 * jnp.linalg.norm(b))


@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """Natural gradients of a state from its gradients."""

    mode: Mode
    diag_shift: float | Callable[[int], Any]

    def __call__(self, state: Any, gradient: Any, step: int = 0) -> Any:
        """Return x with (S^H S + diag_shift) x = gradient."""
        wanted = jax.tree.map(jnp.shape, state.parameters)
        if jax.tree.map(jnp.shape, gradient) != wanted:
            msg = "`gradient` must be a tree like the parameters of the state."
            raise ValueError(msg)
        shift = self.diag_shift(step) if callable(self.diag_shift) else self.diag_shift
        samples, weights = samples_of(state), None
        if isinstance(state, nk.vqs.FullSumState):
            weights = state.probability_distribution()
        ansatz = ansatz_of(state, self.mode)
        shift = jnp.asarray(shift, dtype=float)
        return _preconditioned(ansatz, state.variables, samples, weights, gradient, shift)


@partial(jax.jit, static_argnums=0)
def _preconditioned(
    ansatz: Ansatz, variables: Any, samples: Any, weights: Any, gradient: Any, shift: Any
) -> Any:
    O = ansatz.log_derivatives(variables, samples)
    S = ngdla.scores(O, weights=weights, mode=ansatz.mode)
    v, tree = flat_parameters(gradient, ansatz.mode)
    (v,) = _as_rounded([v], variables["params"])
    row_space = _filtered(S.shape[0], [v])
    return tree(ngdla.damped_solve(S, v, shift, precision="native", row_space=row_space))
