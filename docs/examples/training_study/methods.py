"""The methods of the study, and how each is tuned.

A method is an optimizer of torch, and in most cases a class of docs/examples/optimizers that
writes its steps over gradients before that. Curvature is that of the training labels (the empirical
Fisher matrix) for all of them, so that none needs a second backward pass. Learning rates are tuned:
no class bounds the length of its steps by the divergence they make (``kl=None``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from optimizers.fngd import FNGD
from optimizers.kfac import KFAC, eigenpairs
from optimizers.singd import SINGD

import ngdla
from ngdla.adapters.torch_modules import Recording
from training_study.variants import CholeskyKFAC, DampedSolve, OnlineKFAC, few_eigenpairs

Settings = dict[str, Any]

DECAY = 0.95
"""Weight of the past in averages, and 1 minus the step of inverse-free updates."""

FIRST_EPOCH = 16
"""Batches of 64 of the 1000 training images: the first epoch, after which weights are shared."""

PHASES_OF_CALLS = {
    (Recording, "rows"): "statistics",
    (ngdla, "ema"): "statistics",
    (ngdla, "inverse_free_statistics"): "statistics",
    (ngdla, "randomized_eigh"): "decomposition",
    (ngdla, "structured_factor"): "decomposition",
    (ngdla, "online_eigh_init"): "decomposition",
    (ngdla, "online_eigh_update"): "decomposition",
    (ngdla, "inverse_free_update"): "decomposition",
    (ngdla, "weight_sharing_step"): "decomposition",
    (torch.linalg, "eigh"): "decomposition",
}
"""What is counted apart from the application, of which all else is that an optimiser does."""


def heavy_ball(model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return SGD with the momentum that all methods have that are not tuned in it."""
    momentum = settings.get("momentum", 0.9)
    return torch.optim.SGD(model.parameters(), settings["learning_rate"], momentum)


def adamw(model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW (I. Loshchilov, F. Hutter, arXiv:1711.05101)."""
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    return torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)


@dataclasses.dataclass(frozen=True)
class Method:
    """An optimiser, and how it is tuned."""

    label: str
    grid: dict[str, tuple[float, ...]]
    """Values of each setting; all combinations are tried, 24 for every method."""

    make: Callable[[Settings, str], Any] = lambda settings, dtype: None
    """From settings, and the dtype of what is kept between steps, to what makes steps."""

    optimizer: Callable[[torch.nn.Module, Settings], torch.optim.Optimizer] = heavy_ball
    """From a network and settings to the optimizer that takes the steps."""

    mean_gradient: bool = True
    """Whether the mean gradient is needed, which is a third of a backward pass."""

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


def kfac(label: str, kind: Any = KFAC, **options: Any) -> Method:
    """Return a KFAC with averaged factors, of a class and its options."""

    def make(settings: Settings, dtype: str) -> Any:
        return kind(settings["damping"], decay=DECAY, kl=None, **options)

    return Method(label, PRECONDITIONED, make)


def randomized(label: str, method: str) -> Method:
    """Return a KFAC with few eigenpairs by this method."""

    def make(settings: Settings, dtype: str) -> Any:
        decompose = partial(few_eigenpairs, method=method, dtype=dtype)
        return KFAC(settings["damping"], decay=DECAY, decompose=decompose, kl=None)

    return Method(label, PRECONDITIONED, make)


def inverse_free(label: str, rule: str, structure: Any = "dense") -> Method:
    """Return an update of inverse factors, both in one structure."""

    def make(settings: Settings, dtype: str) -> Any:
        damping = settings["damping"]
        return SINGD(
            damping**0.5 if rule == "ikfac" else damping,
            rule=rule,
            structures=(structure, structure),
            step_size=settings.get("step_size", 1 - DECAY),
            momentum=settings.get("tangent_momentum", 0.0),
            dtype=dtype,
            kl=None,
        )

    return Method(label, PRECONDITIONED, make)


def fngd(label: str, policy: str, period: int | None = None) -> Method:
    """Return FNGD, whose weights are computed by a policy."""

    def make(settings: Settings, dtype: str) -> Any:
        return FNGD(settings["damping"], policy=policy, period=period)

    return Method(label, WEIGHTED, make, mean_gradient=False)


METHODS = {
    "sgd": Method(
        "SGD, momentum",
        {
            "learning_rate": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005),
            "momentum": (0.9, 0.5, 0.0),
        },
    ),
    "adamw": Method(
        "AdamW",
        {
            "learning_rate": (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003),
            "weight_decay": (0.0, 0.01, 0.1, 1.0),
        },
        optimizer=adamw,
    ),
    "kfac-eigh": kfac("KFAC, eigh", decompose=eigenpairs),
    "kfac-cholesky": kfac("KFAC, Cholesky", CholeskyKFAC),
    "rkfac-nystrom": randomized("KFAC, Nyström", "nystrom"),
    "rkfac-sre": randomized("KFAC, SRE", "rayleigh-ritz"),
    "rkfac-rsvd": randomized("KFAC, RSVD", "rsvd"),
    "rkfac-online": Method(
        "KFAC, on-line",
        PRECONDITIONED,
        lambda settings, dtype: OnlineKFAC(settings["damping"], decay=DECAY),
    ),
    "ikfac": inverse_free("IKFAC", "ikfac"),
    "ingd": inverse_free("INGD", "ingd"),
    "singd-diagonal": inverse_free("SINGD, diagonal", "ingd", "diagonal"),
    "singd-block": inverse_free("SINGD, block", "ingd", BLOCKS),
    "singd-hierarchical": inverse_free("SINGD, hierarchical", "ingd", HIERARCHICAL),
    "singd-toeplitz": inverse_free("SINGD, Toeplitz", "ingd", "lower-toeplitz"),
    "fngd-exact": fngd("FNGD, exact", "exact"),
    "fngd-shared": fngd("FNGD, shared", "shared", FIRST_EPOCH),
    "damped-solve": Method(
        "damped solve",
        SOLVED,
        lambda settings, dtype: DampedSolve(settings["damping"], kl=None),
        mean_gradient=False,
    ),
}
"""All methods, by the name that the command line takes."""


def of_package(label: str, rule: str) -> Method:
    """Return the optimizer of `singd`, with or without larger first steps of factors."""

    def optimizer(model: torch.nn.Module, settings: Settings) -> torch.optim.Optimizer:
        from singd.optim.optimizer import SINGD as PackageSINGD

        damping, step_size = settings["damping"], settings["step_size"]
        return PackageSINGD(
            model,
            lr=settings["learning_rate"],
            momentum=0.9,
            damping=damping**0.5 if rule == "ikfac" else damping,
            alpha1=settings["tangent_momentum"] if rule == "ingd" else 0.0,
            T=1,
            lr_cov=(lambda t: max(step_size, 1 / (2 + t))) if settings["warm_up"] else step_size,
            kfac_like=rule == "ikfac",
        )

    return Method(label, {}, optimizer=optimizer)


RULES = {
    "rule-ikfac": inverse_free("IKFAC", "ikfac"),
    "rule-ingd": inverse_free("INGD", "ingd"),
    "package-ikfac": of_package("singd, IKFAC", "ikfac"),
    "package-ingd": of_package("singd, INGD", "ingd"),
}
"""Dense IKFAC and INGD with more settings, and those of the package, which knows fewer."""
