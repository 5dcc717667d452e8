"""All optimisers of the study, from public functions of ngdla and what every array library has.

Each takes the tapes of a batch and gives a direction for each layer, what is subtracted from its
weights before momentum and learning rate. Curvature is that of the training labels (the empirical
Fisher matrix) for all of them, so that none needs a second backward pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from array_api_compat import array_namespace
from training_study.clock import Clock
from training_study.networks import Array, Tape, mean_gradient

import ngdla

REFRESH = 10
"""Steps from one decomposition of averaged factors to the next, after as many that have each."""

DECAY = 0.95
"""Weight of the past in averages, and 1 minus the step of inverse-free updates."""

FIRST_EPOCH = 16
"""Batches of 64 of the 1000 training images: the first epoch, after which weights are shared."""


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimiser, and how it is tuned."""

    label: str
    make: Callable[[list[Array], dict[str, Any], str], Any]
    """From weights, settings, and the dtype of what is kept between steps."""

    grid: dict[str, tuple[float, ...]]
    """Values of each setting; all combinations are tried, twelve for every method."""

    half: str = ""
    """Why it cannot keep its state in bfloat16, if it cannot."""


# ------------------------------------------------------------------------------ first order


class SGD:
    """The mean gradient, with heavy-ball momentum."""

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.momentum = settings["momentum"]

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            return [mean_gradient(tape) for tape in tapes]

    def arrays(self) -> list[Array]:
        return []


class AdamW:
    """Adam with decoupled weight decay (I. Loshchilov, F. Hutter, arXiv:1711.05101)."""

    momentum = 0.0
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.decay, self.dtype, self.step = settings["weight_decay"], dtype, 0
        self.first = [as_dtype(0 * W, dtype) for W in weights]
        self.second = list(self.first)

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [as_dtype(mean_gradient(tape), "float32") for tape in tapes]
        with clock("application"):
            self.step += 1
            return [self._direction(i, W, V) for i, (W, V) in enumerate(zip(weights, gradients))]

    def _direction(self, i: int, W: Array, V: Array) -> Array:
        first = averaged(self.first[i], V, self.beta_1)
        second = averaged(self.second[i], V * V, self.beta_2)
        self.first[i], self.second[i] = as_dtype(first, self.dtype), as_dtype(second, self.dtype)
        mean = first / (1 - self.beta_1**self.step)
        root = (second / (1 - self.beta_2**self.step)) ** 0.5
        return mean / (root + self.epsilon) + self.decay * W

    def arrays(self) -> list[Array]:
        return [*self.first, *self.second]


# ------------------------------------------------------------------------------------- KFAC


class KFAC:
    """Averaged Kronecker factors; `decompose` says in what form they are solved with."""

    momentum = 0.9

    def __init__(
        self,
        weights: list[Array],
        settings: dict[str, Any],
        dtype: str,
        *,
        decompose: Callable[[Array, Any, int], Any],
        refresh: int = REFRESH,
        coupling: str = "joint",
    ) -> None:
        self.damping, self.dtype, self.step = settings["damping"], dtype, 0
        self.decompose, self.refresh, self.coupling = decompose, refresh, coupling
        sizes = [size for W in weights for size in (W.shape[1], W.shape[0])]
        self.factors = [as_dtype(zeros(size, weights[0]), dtype) for size in sizes]
        self.decomposed: list[Any] = [None] * len(sizes)

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("statistics"):
            rows = [x for tape in tapes for x in moments(tape)]
            self.factors = [
                as_dtype(ngdla.ema(F, X, decay=DECAY), self.dtype)
                for F, X in zip(self.factors, rows)
            ]
        self.step += 1
        if self.step <= REFRESH or self.step % self.refresh == 0:
            with clock("decomposition"):
                weight = 1 - DECAY**self.step  # of all batches so far
                self.decomposed = [
                    in_dtype(self.decompose(F / weight, last, self.step), self.dtype)
                    for F, last in zip(self.factors, self.decomposed)
                ]
        with clock("application"):
            return [
                ngdla.kronecker_solve(A, G, V, self.damping, coupling=self.coupling)
                for A, G, V in zip(self.decomposed[::2], self.decomposed[1::2], gradients)
            ]

    def arrays(self) -> list[Array]:
        kept = [x for pair in self.decomposed if isinstance(pair, tuple) for x in pair]
        return [*self.factors, *kept]


def eigenpairs(F: Array, last: Any, step: int) -> tuple[Array, Array]:
    """Return all eigenpairs; eigenvalues that rounding has made negative are zero."""
    xp = array_namespace(F)
    values, vectors = xp.linalg.eigh(as_dtype(F, "float32"))
    return xp.where(values > 0, values, xp.zeros_like(values)), vectors


def as_it_is(F: Array, last: Any, step: int) -> Array:
    """Return the factor, which each solve factors by Cholesky."""
    return F


def few_eigenpairs(F: Array, last: Any, step: int, *, method: str) -> ngdla.LowRankEigh:
    """Return some eigenpairs, starting from those of the last time."""
    options = {"passes": 2} if last is None else {"passes": 1, "basis": last.eigenvectors}
    if "bfloat16" in str(F.dtype):
        options["product_eps"] = 2.0**-8  # of the factor, which rounding makes indefinite
    return ngdla.randomized_eigh(F, rank(F.shape[0]), method=method, rng=step, **options)


class OnlineKFAC:
    """Eigenpairs that follow the average of each factor, which is not formed."""

    momentum = 0.9

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.damping, self.dtype = settings["damping"], dtype
        self.states: list[ngdla.OnlineEigh | None] = [None] * (2 * len(weights))

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("decomposition"):
            rows = [x for tape in tapes for x in moments(tape)]
            self.states = [
                in_dtype(self._updated(i, state, X), self.dtype)
                for i, (state, X) in enumerate(zip(self.states, rows))
            ]
        with clock("application"):
            pairs = [ngdla.online_eigh_result(state) for state in self.states]
            return [
                ngdla.kronecker_solve(A, G, V, self.damping)
                for A, G, V in zip(pairs[::2], pairs[1::2], gradients)
            ]

    @staticmethod
    def _updated(i: int, state: Any, X: Array) -> ngdla.OnlineEigh:
        if state is None:
            return ngdla.online_eigh_init(X, rank(X.shape[1]), rng=i)
        return ngdla.online_eigh_update(state, X, decay=DECAY)

    def arrays(self) -> list[Array]:
        return [x for state in self.states if state is not None for x in state]


# ----------------------------------------------------------------------------- inverse-free


class InverseFree:
    """IKFAC, INGD and SINGD: factors of the inverse, in structures."""

    momentum = 0.9

    def __init__(
        self,
        weights: list[Array],
        settings: dict[str, Any],
        dtype: str,
        *,
        rule: str,
        structures: Any = ("dense", "dense"),
    ) -> None:
        damping = settings["damping"]
        self.options = {"rule": rule, "damping": damping**0.5 if rule == "ikfac" else damping}
        self.states = [
            ngdla.inverse_free_init(
                W.shape[1], W.shape[0], structures=structures, like=W, dtype=dtype, momentum=False
            )
            for W in weights
        ]
        self.step = 0

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("network"):
            gradients = [mean_gradient(tape) for tape in tapes]
        with clock("statistics"):
            statistics = [
                ngdla.inverse_free_statistics(state, *flattened(tape))
                for state, tape in zip(self.states, tapes)
            ]
        self.step += 1
        with clock("decomposition"):
            # equal weights for the first batches: identities are forgotten soon
            step_size = max(1 - DECAY, 1 / (1 + self.step))
            self.states = [
                ngdla.inverse_free_update(state, batch, step_size=step_size, **self.options)
                for state, batch in zip(self.states, statistics)
            ]
        with clock("application"):
            return [ngdla.inverse_free_apply(s, V) for s, V in zip(self.states, gradients)]

    def arrays(self) -> list[Array]:
        return [x for state in self.states for M in (state.K, state.C) for x in M.leaves]


# --------------------------------------------------------------------------- single samples


class FNGD:
    """Weights of samples; one weighted gradient, and no mean gradient."""

    momentum = 0.9

    def __init__(
        self, weights: list[Array], settings: dict[str, Any], dtype: str, *, policy: str
    ) -> None:
        self.damping, self.policy = settings["damping"], policy
        self.states: list[ngdla.WeightSharing] = []

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        if not self.states:
            M, period = tapes[0].inputs.shape[0], {"shared": FIRST_EPOCH}.get(self.policy)
            self.states = [ngdla.weight_sharing_init(self.policy, M, period=period) for _ in tapes]
        with clock("decomposition"):
            pairs = [
                ngdla.weight_sharing_step(state, *tape, self.damping)
                for state, tape in zip(self.states, tapes)
            ]
            self.states = [state for _, state in pairs]
        with clock("application"):
            return [ngdla.weighted_gradient(*tape, v) for tape, (v, _) in zip(tapes, pairs)]

    def arrays(self) -> list[Array]:
        return [state.weights for state in self.states if state.weights is not None]


class DampedSolve:
    """The natural gradient of each layer, from the gradients of its samples."""

    momentum = 0.9

    def __init__(self, weights: list[Array], settings: dict[str, Any], dtype: str) -> None:
        self.damping = settings["damping"]

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        with clock("statistics"):
            scores = [sample_gradients(tape) for tape in tapes]
        with clock("application"):
            return [self._direction(S).reshape(W.shape) for S, W in zip(scores, weights)]

    def _direction(self, S: Array) -> Array:
        """Return (F + damping)^-1 S^T 1 / M with F = S^T S / M."""
        root = math.sqrt(S.shape[0])
        ones = array_namespace(S).ones_like(S[:, 0])
        return ngdla.damped_lstsq(S / root, ones / root, self.damping, precision="native")

    def arrays(self) -> list[Array]:
        return []


# ------------------------------------------------------------------------------------ pieces


def flattened(tape: Tape) -> tuple[Array, Array]:
    """Return inputs and gradients with positions as further samples.

    Gradients are multiplied by sqrt(T), so that their mean square over all rows is the mean over
    samples of the sum over positions.
    """
    xp = array_namespace(tape.inputs)
    a, g = (xp.reshape(x, (-1, x.shape[-1])) for x in tape)
    return a, g * math.sqrt(a.shape[0] / tape.inputs.shape[0])


def moments(tape: Tape) -> tuple[Array, Array]:
    """Return X with X^T X the second moment of inputs, and of output gradients."""
    a, g = flattened(tape)
    return a / math.sqrt(a.shape[0]), g / math.sqrt(g.shape[0])


def sample_gradients(tape: Tape) -> Array:
    """Return the gradients of single samples as rows, in float32."""
    xp = array_namespace(tape.inputs)
    a, g = (as_dtype(x, "float32") for x in tape)
    if a.ndim == 2:
        gradients = xp.expand_dims(g, axis=2) * xp.expand_dims(a, axis=1)
    else:
        gradients = xp.matmul(xp.matrix_transpose(g), a)
    return xp.reshape(gradients, (a.shape[0], -1))


def rank(size: int) -> int:
    """Return how many eigenpairs of a factor are kept."""
    return min(size, max(16, size // 16))


def averaged(average: Array, x: Array, decay: float) -> Array:
    return decay * as_dtype(average, "float32") + (1 - decay) * x


def zeros(size: int, like: Array) -> Array:
    """Return a square matrix of zeros."""
    xp = array_namespace(like)
    row = xp.zeros_like(like[:1, :1])
    return xp.broadcast_to(row, (size, size)) + row


def as_dtype(x: Array, name: str) -> Array:
    xp = array_namespace(x)
    return xp.astype(x, getattr(xp, name), copy=False)


def in_dtype(arrays: Any, name: str) -> Any:
    """Return an array, or a tuple of them, as it is kept between steps."""
    if not isinstance(arrays, tuple):
        return as_dtype(arrays, name)
    stored = [as_dtype(x, name) for x in arrays]
    return type(arrays)(*stored) if hasattr(arrays, "_fields") else tuple(stored)


# -------------------------------------------------------------------------------- the methods

PRECONDITIONED = {"learning_rate": (0.1, 0.03, 0.01, 0.003), "damping": (0.1, 0.01, 0.001)}
SOLVED = {"learning_rate": (1.0, 0.3, 0.1, 0.03), "damping": (10.0, 1.0, 0.1)}
WEIGHTED = {"learning_rate": (1.0, 0.5, 0.2, 0.1), "damping": (0.01, 0.003, 0.001)}

RANDOMIZED = {"nystrom": "Nyström", "rayleigh-ritz": "SRE", "rsvd": "RSVD"}
HIERARCHICAL = ("hierarchical", {"k1": 8, "k2": 8})
BLOCKS = ("block-diagonal", {"block": 16})
STRUCTURES = {
    "diagonal": ("diagonal", "diagonal"),
    "block": (BLOCKS, BLOCKS),
    "hierarchical": (HIERARCHICAL, HIERARCHICAL),
    "toeplitz": ("lower-toeplitz", "lower-toeplitz"),
}


def kfac(decompose: Callable[..., Any], **options: Any) -> Any:
    return partial(KFAC, decompose=decompose, **options)


METHODS = {
    "sgd": Method(
        "SGD, momentum",
        SGD,
        {"learning_rate": (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), "momentum": (0.9, 0.0)},
    ),
    "adamw": Method(
        "AdamW",
        AdamW,
        {"learning_rate": (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4), "weight_decay": (0.0, 0.1)},
    ),
    "kfac-eigh": Method("KFAC, eigh", kfac(eigenpairs), PRECONDITIONED),
    "kfac-cholesky": Method(
        "KFAC, Cholesky",
        kfac(as_it_is, refresh=1, coupling="factored"),
        PRECONDITIONED,
    ),
    **{
        f"rkfac-{ {'rayleigh-ritz': 'sre'}.get(method, method) }": Method(
            f"KFAC, {name}", kfac(partial(few_eigenpairs, method=method)), PRECONDITIONED
        )
        for method, name in RANDOMIZED.items()
    },
    "rkfac-online": Method("KFAC, on-line", OnlineKFAC, PRECONDITIONED),
    "ikfac": Method("IKFAC", partial(InverseFree, rule="ikfac"), PRECONDITIONED),
    "ingd": Method("INGD", partial(InverseFree, rule="ingd"), PRECONDITIONED),
    **{
        f"singd-{name}": Method(
            f"SINGD, {name}",
            partial(InverseFree, rule="ingd", structures=structures),
            PRECONDITIONED,
        )
        for name, structures in STRUCTURES.items()
    },
    "fngd-exact": Method("FNGD, exact", partial(FNGD, policy="exact"), WEIGHTED),
    "fngd-shared": Method("FNGD, shared", partial(FNGD, policy="shared"), WEIGHTED),
    "damped-solve": Method("damped solve", DampedSolve, SOLVED),
}
"""All methods, by the name that the command line takes."""
