"""The optimisers of the study, and how each is tuned.

They are made of public functions of ngdla and what every array library has. Each takes the tapes of
a batch and gives a direction for each layer, what is subtracted from its weights before momentum
and learning rate. Curvature is that of the training labels (the empirical Fisher matrix) for all of
them, so that none needs a second backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from training_study.clock import Clock
from training_study.first_order import SGD, AdamW
from training_study.inverse_free import InverseFree
from training_study.kfac import KFAC, CholeskyKFAC, OnlineKFAC, eigenpairs, few_eigenpairs
from training_study.networks import Array, Tape
from training_study.sample_methods import FNGD, DampedSolve


class Optimizer(Protocol):
    """What the training loop asks of an optimiser."""

    momentum: float
    """Of the heavy ball, in the loop."""

    def directions(self, weights: list[Array], tapes: list[Tape], clock: Clock) -> list[Array]:
        """Return a direction for each layer, and count the time of each phase."""

    def arrays(self) -> list[Array]:
        """Return what is kept between steps, the momenta of the loop aside."""


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimiser, and how it is tuned."""

    label: str
    make: Callable[[list[Array], dict[str, Any], str], Optimizer]
    """From weights, settings, and the dtype of what is kept between steps."""

    grid: dict[str, tuple[float, ...]]
    """Values of each setting; all combinations are tried, 24 for every method."""

    half: str = ""
    """Why it cannot keep its state in bfloat16, if it cannot."""


PRECONDITIONED = {
    "learning_rate": (0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
    "damping": (1.0, 0.1, 0.01, 0.001),
}
SOLVED = {
    "learning_rate": (10.0, 3.0, 1.0, 0.3, 0.1, 0.03),
    "damping": (100.0, 10.0, 1.0, 0.1),
}
WEIGHTED = {
    "learning_rate": (2.0, 1.0, 0.5, 0.2, 0.1, 0.05),
    "damping": (0.03, 0.01, 0.003, 0.001),
}

HIERARCHICAL = ("hierarchical", {"k1": 8, "k2": 8})
BLOCKS = ("block-diagonal", {"block": 16})


def kfac(label: str, decompose: Callable[..., Any]) -> Method:
    """Return a KFAC with averaged factors that are decomposed in this way."""
    return Method(label, partial(KFAC, decompose=decompose), PRECONDITIONED)


def randomized(label: str, method: str) -> Method:
    """Return a KFAC with few eigenpairs by this method."""
    return kfac(label, partial(few_eigenpairs, method=method))


def inverse_free(label: str, rule: str, structure: Any = "dense") -> Method:
    """Return an update of inverse factors, both in one structure."""
    structures = (structure, structure)
    return Method(label, partial(InverseFree, rule=rule, structures=structures), PRECONDITIONED)


METHODS = {
    "sgd": Method(
        "SGD, momentum",
        SGD,
        {
            "learning_rate": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005),
            "momentum": (0.9, 0.5, 0.0),
        },
    ),
    "adamw": Method(
        "AdamW",
        AdamW,
        {
            "learning_rate": (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
            "weight_decay": (0.0, 0.01, 0.1, 1.0),
        },
    ),
    "kfac-eigh": kfac("KFAC, eigh", eigenpairs),
    "kfac-cholesky": Method("KFAC, Cholesky", CholeskyKFAC, PRECONDITIONED),
    "rkfac-nystrom": randomized("KFAC, Nyström", "nystrom"),
    "rkfac-sre": randomized("KFAC, SRE", "rayleigh-ritz"),
    "rkfac-rsvd": randomized("KFAC, RSVD", "rsvd"),
    "rkfac-online": Method("KFAC, on-line", OnlineKFAC, PRECONDITIONED),
    "ikfac": inverse_free("IKFAC", "ikfac"),
    "ingd": inverse_free("INGD", "ingd"),
    "singd-diagonal": inverse_free("SINGD, diagonal", "ingd", "diagonal"),
    "singd-block": inverse_free("SINGD, block", "ingd", BLOCKS),
    "singd-hierarchical": inverse_free("SINGD, hierarchical", "ingd", HIERARCHICAL),
    "singd-toeplitz": inverse_free("SINGD, Toeplitz", "ingd", "lower-toeplitz"),
    "fngd-exact": Method("FNGD, exact", partial(FNGD, policy="exact"), WEIGHTED),
    "fngd-shared": Method("FNGD, shared", partial(FNGD, policy="shared"), WEIGHTED),
    "damped-solve": Method("damped solve", DampedSolve, SOLVED),
}
"""All methods, by the name that the command line takes."""
