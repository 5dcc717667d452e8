"""Optimisers of docs/examples behind torch modules, beside `singd` and `curvlinops`, in float64.

Both networks of the examples: a CNN on digits, whose loss is a mean over samples, and a transformer
of two blocks, whose loss is a mean over samples and positions. What the packages do not know, norms
and embeddings, gets plain gradients on both sides.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
from functools import cache
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from benchmarks.measuring import optional

from .tracked import tracked

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
NETWORKS = ("digits", "copies")
SHARINGS = ("expand", "reduce")
STEPS, SAMPLES = 15, 16
DAMPINGS, SMALL = (1e-1, 1e-3), 1e-6
STRUCTURES = {  # our names, and those of the optimizer of the package
    "dense": ("dense", "dense"),
    "diagonal": ("diagonal", "diagonal"),
    "hierarchical": (("hierarchical", {"k1": 15, "k2": 15}), "hierarchical15_15"),
    "lower-toeplitz": ("lower-toeplitz", "triltoeplitz"),
    "block-diagonal": (("block-diagonal", {"block": 30}), "block30diagonal"),
}
SINGD = {"damping": 1e-2, "lr": 0.01, "momentum": 0.9, "lr_cov": 0.02}


@cache
def examples() -> Any:
    """Return the modules of docs/examples/optimizers, and what they need of torch."""
    torch = optional("torch")
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    names = ("kfac", "singd", "tasks")
    modules = {name: importlib.import_module(f"optimizers.{name}") for name in names}
    recording = importlib.import_module("ngdla.adapters.torch_modules")
    return SimpleNamespace(torch=torch, record=recording.record, **modules)


def task_of(network: str) -> Any:
    """Return a network in float64 and its data."""
    found = examples()
    return found.tasks.TASKS[network](dtype=found.torch.float64)


def recorded(task: Any, batch: Any) -> Any:
    """Return the layers that both packages know, after a forward and a backward pass."""
    nn = examples().torch.nn
    with examples().record(task.model, skip=[nn.Embedding, nn.LayerNorm]) as layers:
        task.loss_of(*batch).backward()
    return layers


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two tensors over the norm of the second.

    Tensors of rounding errors alone count as zeros, such as sums over positions of the gradients
    by keys, since attention does not see a shift of all keys.
    """
    pairs = [(x.detach(), y.detach()) for x, y in zip(found, expected, strict=True)]
    least = 1e-16 * max(float(y.norm()) for _, y in pairs)
    return max(float((x - y).norm()) / max(float(y.norm()), least) for x, y in pairs)


# --------------------------------------------------------------------------------------- singd


def momentum_of(rule: str) -> float:
    """Return the momentum of tangents, which the package has for INGD alone."""
    return 0.5 if rule == "ingd" else 0.0


def ours(task: Any, structure: str, rule: str, sharing: str) -> Any:
    """Return the parameters after some steps of the class of the examples."""
    torch, names = examples().torch, (STRUCTURES[structure][0],) * 2
    singd = examples().singd.SINGD(
        SINGD["damping"],
        structures=names,
        rule=rule,
        step_size=SINGD["lr_cov"],
        warm_up=False,
        momentum=momentum_of(rule),
        kl=None,
        sharing=sharing,
        loss=task.loss,
        safeguard=False,
    )
    sgd = torch.optim.SGD(task.model.parameters(), lr=SINGD["lr"], momentum=SINGD["momentum"])
    for batch in islice(task.batches(SAMPLES, seed=0), STEPS):
        sgd.zero_grad()
        singd.precondition(recorded(task, batch), SINGD["lr"])
        sgd.step()
    return task.model.parameters()


def of_singd(task: Any, structure: str, rule: str, sharing: str) -> Any:
    """Return the parameters after as many steps of the optimizer of the package."""
    optional("singd")
    torch, optimizer = examples().torch, importlib.import_module("singd.optim.optimizer")
    layers = [m for m in task.model.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    known = [p for layer in layers for p in layer.parameters()]
    others = [p for p in task.model.parameters() if all(p is not x for x in known)]
    average = {"mean": "batch", "token-mean": "batch+sequence"}[task.loss]
    singd = optimizer.SINGD(
        task.model,
        known,
        **SINGD,
        alpha1=momentum_of(rule),
        T=1,
        loss_average=average,
        structures=(STRUCTURES[structure][1],) * 2,
        kfac_approx=sharing,
        kfac_like=rule == "ikfac",
    )
    both = [singd]
    if others:
        both.append(torch.optim.SGD(others, lr=SINGD["lr"], momentum=SINGD["momentum"]))
    with contextlib.ExitStack() as stack:
        for name in ("blockdiagonal", "hierarchical", "triltoeplitz"):
            module = importlib.import_module(f"singd.structures.{name}")
            # which knows no dtype above float32
            stack.enter_context(mock.patch.object(module, "lowest_precision", lambda x, y: x))
        for batch in islice(task.batches(SAMPLES, seed=0), STEPS):
            task.model.zero_grad()
            task.loss_of(*batch).backward()
            for one in both:
                one.step()
    return task.model.parameters()


@cache
def from_singd(network: str, structure: str, rule: str, sharing: str) -> float:
    """Return the largest relative difference of a parameter after some steps."""
    task = task_of(network)
    other = task._replace(model=copy.deepcopy(task.model))
    case = structure, rule, sharing
    return difference(ours(task, *case), of_singd(other, *case))


SINGD_CLAIM = (
    f"parameters of a CNN and of a transformer after {STEPS} steps, largest relative difference "
    f"from those of `singd.optim.SINGD` with equal hyper-parameters, float64"
)


def largest_from_singd(structures: Any, rule: str = "ingd") -> float:
    cases = product(NETWORKS, structures, (rule,), SHARINGS)
    return max(from_singd(*case) for case in cases)


@tracked(
    f"{SINGD_CLAIM}: INGD, dense, diagonal, hierarchical 15/15 and lower Toeplitz, expand and "
    f"reduce",
    at_most=1e-12,
)
def track_ingd() -> float:
    return largest_from_singd([name for name in STRUCTURES if name != "block-diagonal"])


@tracked(f"{SINGD_CLAIM}: IKFAC, dense, expand and reduce", at_most=1e-12)
def track_ikfac() -> float:
    return largest_from_singd(["dense"], "ikfac")


@tracked(f"{SINGD_CLAIM}: INGD, blocks of 30, where the package leaves out a transpose")
def track_blocks() -> float:
    return largest_from_singd(["block-diagonal"])


# ---------------------------------------------------------------------------------- curvlinops


def kfac_of_curvlinops(network: str, sharing: str) -> Any:
    """Return a task, its layers after a batch, and the operator of the package for it."""
    optional("curvlinops")
    from curvlinops import FisherType, KFACLinearOperator

    nn, task = examples().torch.nn, task_of(network)
    x, y = next(task.batches(SAMPLES, seed=0))
    layers = recorded(task, (x, y))
    operator = KFACLinearOperator(
        nn.Sequential(task.model, nn.Flatten(0, -2) if y.ndim > 1 else nn.Identity()),
        nn.CrossEntropyLoss(),
        [p for name in layers for p in task.model.get_submodule(name).parameters()],
        [(x, y.flatten())],
        fisher_type=FisherType.EMPIRICAL,
        kfac_approx=sharing,
        separate_weight_and_bias=False,
        check_deterministic=False,
        num_per_example_loss_terms=y[0].numel(),
        num_data=SAMPLES,
    )
    operator.compute_kronecker_factors()
    return task, layers, operator


def our_kfac(task: Any, sharing: str, damping: float) -> Any:
    """Return the class of the examples before its first step, which is not bounded."""
    return examples().kfac.KFAC(damping, decay=0.5, kl=None, sharing=sharing, loss=task.loss)


@cache
def factors_from_curvlinops(network: str, sharing: str) -> float:
    """Return the largest relative difference of A and G of any layer."""
    task, layers, operator = kfac_of_curvlinops(network, sharing)
    kfac = our_kfac(task, sharing, DAMPINGS[0])
    kfac.precondition(layers, lr=1.0)
    both = operator._input_covariances, operator._gradient_covariances
    return max(
        difference(
            [2 * kfac.factors[name][i] for name in layers],  # the first batch weighs a half
            [factors[f"0.{name}"] for name in layers],
        )
        for i, factors in enumerate(both)
    )


@cache
def directions_from_curvlinops(network: str, sharing: str, damping: float) -> float:
    """Return the largest relative difference of the direction of any layer, damped exactly."""
    task, layers, operator = kfac_of_curvlinops(network, sharing)
    from curvlinops import KFACInverseLinearOperator

    inverse = KFACInverseLinearOperator(operator, damping=damping, use_exact_damping=True)
    modules = [task.model.get_submodule(name) for name in layers]
    solved = iter(inverse @ [p.grad for m in modules for p in m.parameters()])
    expected = [_joined([next(solved) for _ in m.parameters()]) for m in modules]
    our_kfac(task, sharing, damping).precondition(layers, lr=1.0)
    return difference([_joined([p.grad for p in m.parameters()]) for m in modules], expected)


def _joined(tensors: list[Any]) -> Any:
    """Return all numbers of a layer."""
    return examples().torch.cat([x.flatten() for x in tensors])


CURVLINOPS_CLAIM = (
    "KFAC of a CNN and of a transformer, expand and reduce, empirical, float64, largest relative "
    "difference from `curvlinops`"
)
CASES = tuple(product(NETWORKS, SHARINGS))


@tracked(f"{CURVLINOPS_CLAIM}: factors A and G of all layers", at_most=1e-12)
def track_factors() -> float:
    return max(factors_from_curvlinops(*case) for case in CASES)


@tracked(f"{CURVLINOPS_CLAIM}: directions of all layers, dampings 1e-1 and 1e-3", at_most=1e-12)
def track_directions() -> float:
    return max(directions_from_curvlinops(*case, damping) for case in CASES for damping in DAMPINGS)


def details() -> dict[str, Any]:
    """Return each difference by itself."""
    structures = [(name, "ingd") for name in STRUCTURES] + [("dense", "ikfac")]
    singd = {
        f"{network}, {rule}, {name}, {sharing}": from_singd(network, name, rule, sharing)
        for network, (name, rule), sharing in product(NETWORKS, structures, SHARINGS)
    }
    factors = {", ".join(case): factors_from_curvlinops(*case) for case in CASES}
    directions = {
        f"{', '.join(case)}, damping {damping:.0e}": directions_from_curvlinops(*case, damping)
        for case, damping in product(CASES, (*DAMPINGS, SMALL))
    }
    return {"singd": singd, "factors": factors, "directions": directions}
