"""Steps of whole layers: against the `singd` package, a loop over layers, and torch by hand.

A step of SINGD is that of `inverse_free.py`: statistics, INGD update with momentum 0.5 and
preconditioned gradient, float32 on torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import scipy.linalg
from benchmarks.counting import TorchCount, torch_count, values_away
from benchmarks.measuring import alternating, normal, optional
from benchmarks.peers_singd import CLASSES
from benchmarks.sample_weights import DAMPING
from threads import THREADS, limited

import ngdla

from .inverse_free import SQUARE, Layer, Step, step_times
from .tracked import tracked

WIDE = Layer(769, 768, 512)  # 768 inputs and a bias
HIERARCHICAL = "hierarchical 15/15"
NAMES = ("dense", "diagonal", HIERARCHICAL, "lower Toeplitz")


# -------------------------------------------------------------------------- a layer of SINGD


def counted() -> TorchCount:
    """Return kernels and reads of a step, as the tensors stand."""
    torch = optional("torch")
    a, g, V = map(torch.from_numpy, WIDE.arrays())
    return torch_count(partial(Step(CLASSES[HIERARCHICAL][0], V), a, g, V))


@tracked(
    "SINGD step, hierarchical 15/15, 769 x 768, 512 rows, float32, torch on the CPU",
    unit="kernels",
    at_most=150,
)
def track_kernels() -> float:
    return float(counted().kernels)


@tracked("the same step, counted as on an accelerator", unit="kernels")
def track_kernels_away() -> float:
    with values_away():
        return float(counted().kernels)


def peer_ratio(name: str, layer: Layer) -> float:
    """Return the time of the singd package over ours, one thread."""
    times = step_times(1, layer, NAMES)[name]
    return times["singd"] / times["ngdla"]


CLAIM = "time of the singd package over ours, torch, float32, one thread"
WIDE_CLAIM = f"{CLAIM}, a layer 769 x 768, 512 rows"
SQUARE_CLAIM = f"{CLAIM}, a layer 1024 x 1024, 256 rows"


@tracked(f"{WIDE_CLAIM}, hierarchical 15/15", at_least=2.0)
def track_hierarchical() -> float:
    return peer_ratio(HIERARCHICAL, WIDE)


@tracked(f"{WIDE_CLAIM}, dense", at_least=1.05)
def track_dense() -> float:
    return peer_ratio("dense", WIDE)


@tracked(f"{WIDE_CLAIM}, diagonal", at_least=1.0)
def track_diagonal() -> float:
    return peer_ratio("diagonal", WIDE)


@tracked(f"{WIDE_CLAIM}, lower Toeplitz", at_least=20.0)
def track_toeplitz() -> float:
    return peer_ratio("lower Toeplitz", WIDE)


@tracked(f"{SQUARE_CLAIM}, hierarchical 15/15")
def track_hierarchical_square() -> float:
    return peer_ratio(HIERARCHICAL, SQUARE)


@tracked(f"{SQUARE_CLAIM}, dense")
def track_dense_square() -> float:
    return peer_ratio("dense", SQUARE)


@tracked(f"{SQUARE_CLAIM}, diagonal")
def track_diagonal_square() -> float:
    return peer_ratio("diagonal", SQUARE)


@tracked(f"{SQUARE_CLAIM}, lower Toeplitz")
def track_toeplitz_square() -> float:
    return peer_ratio("lower Toeplitz", SQUARE)


# ------------------------------------------------------------------------ many equal layers

LAYERS, ROWS = 12, 128
WIDTHS = {64: 51, 256: 15, 768: 5}  # with repeats
STACKED = ("dense", HIERARCHICAL)


@cache
def stack_times(name: str, width: int) -> dict[str, float]:
    """Return the times of steps of twelve layers, one after the other and as one stack."""
    torch = optional("torch")
    stack = [torch.from_numpy(x) for x in Layer(width, width, ROWS).arrays(LAYERS)]
    layers = list(zip(*(x.unbind() for x in stack)))
    structure = CLASSES[name][0]
    together, steps = Step(structure, stack[-1]), [Step(structure, V) for _, _, V in layers]

    def loop() -> list[Any]:
        return [step(*layer) for step, layer in zip(steps, layers)]

    ways = {"loop": loop, "batched": lambda: together(*stack)}
    with limited(THREADS), torch.no_grad():
        torch.testing.assert_close(together(*stack), torch.stack(loop()), rtol=1e-3, atol=1e-3)
        return alternating(ways, WIDTHS[width])


def stack_ratio(name: str, width: int) -> float:
    """Return the time of a loop over twelve states over that of one with a leading axis."""
    times = stack_times(name, width)
    return times["loop"] / times["batched"]


LOOP = (
    f"SINGD step, {LAYERS} equal layers, {ROWS} rows, float32, torch, {THREADS} threads: time of a "
    f"loop over the layers over that of one stack"
)


@tracked(f"{LOOP}, dense, width 64", at_least=3.0)
def track_stack_64() -> float:
    return stack_ratio("dense", 64)


@tracked(f"{LOOP}, dense, width 256", at_least=2.0)
def track_stack_256() -> float:
    return stack_ratio("dense", 256)


@tracked(f"{LOOP}, dense, width 768", at_least=1.0)
def track_stack_768() -> float:
    return stack_ratio("dense", 768)


@tracked(f"{LOOP}, hierarchical 15/15, width 64")
def track_hierarchical_stack_64() -> float:
    return stack_ratio(HIERARCHICAL, 64)


@tracked(f"{LOOP}, hierarchical 15/15, width 256")
def track_hierarchical_stack_256() -> float:
    return stack_ratio(HIERARCHICAL, 256)


@tracked(f"{LOOP}, hierarchical 15/15, width 768")
def track_hierarchical_stack_768() -> float:
    return stack_ratio(HIERARCHICAL, 768)


# --------------------------------------------------------------------- weights of samples

M, FNGD_REPEATS = 128, 101
STEP_SIZE = 1e-6
Gradient = Callable[[Any, Any], Any]  # of inputs and output gradients


def gradients(a: Any, g: Any) -> dict[str, Gradient]:
    """Return steps of FNGD with weights of their own or shared ones, ours and by hand."""
    torch = optional("torch")
    exact = ngdla.weight_sharing_init("exact", M)
    first = ngdla.weight_sharing_init("shared", M, period=1)
    v, shared = ngdla.weight_sharing_step(first, a, g, DAMPING)
    column = v[:, None]

    def ours(state: ngdla.WeightSharing, a: Any, g: Any) -> Any:
        v, _ = ngdla.weight_sharing_step(state, a, g, DAMPING)
        return ngdla.weighted_gradient(a, g, v)

    def exact_by_hand(a: Any, g: Any) -> Any:
        K = (a @ a.T).mul_(g @ g.T)
        damping = DAMPING * torch.linalg.vector_norm(K)
        K.diagonal().add_(M * damping)
        v = torch.cholesky_solve(damping.expand(M, 1), torch.linalg.cholesky(K))
        return (g * v).T @ a

    return {
        "exact": partial(ours, exact),
        "exact, by hand": exact_by_hand,
        "shared": partial(ours, shared),
        "shared, by hand": lambda a, g: (g * column).T @ a,
    }


def training(gradient: Gradient | None, a: Any, g: Any) -> Callable[[], None]:
    """Return a step of a layer: forward, backward and update; SGD if no gradient is given."""
    torch = optional("torch")
    W = torch.from_numpy(normal((g.shape[-1], a.shape[-1]), "float32", seed=2))
    W.requires_grad_(gradient is None)
    inputs = a.clone().requires_grad_()

    def step() -> None:
        outputs = torch.nn.functional.linear(inputs, W)
        wanted = (inputs, W) if gradient is None else (inputs,)
        found = torch.autograd.grad(outputs, wanted, g)
        with torch.no_grad():
            direction = found[1] if gradient is None else gradient(inputs, g)
            W.sub_(direction, alpha=STEP_SIZE)

    return step


@cache
def fngd_times(width: int) -> dict[str, float]:
    """Return the times of steps of a layer with so many inputs and outputs, one thread."""
    torch = optional("torch")
    a, g = (torch.from_numpy(x) for x in Layer(width, width, M).arrays()[:2])
    found = gradients(a, g)
    for way in ("exact", "shared"):
        torch.testing.assert_close(found[way](a, g), found[f"{way}, by hand"](a, g))
    steps = {"SGD": None} | {way: found[way] for way in ("exact", "shared")}
    with limited(1):
        alone = alternating({k: partial(way, a, g) for k, way in found.items()}, FNGD_REPEATS)
        whole = {f"{k}, training": training(gradient, a, g) for k, gradient in steps.items()}
        return alone | alternating(whole, FNGD_REPEATS)


def over_hand(way: str, width: int) -> float:
    times = fngd_times(width)
    return times[way] / times[f"{way}, by hand"]


def over_sgd(way: str, width: int) -> float:
    times = fngd_times(width)
    return times[f"{way}, training"] / times["SGD, training"]


HAND = f"FNGD step, M = {M}, float32, torch, one thread: time over that of the formula by hand"
SGD = "forward, backward and update of a layer with FNGD, the same: time over that with plain SGD"


@tracked(f"{HAND}, exact weights, width 512", at_most=1.1)
def track_exact_512() -> float:
    return over_hand("exact", 512)


@tracked(f"{HAND}, exact weights, width 1024", at_most=1.1)
def track_exact_1024() -> float:
    return over_hand("exact", 1024)


@tracked(f"{HAND}, shared weights, width 512", at_most=1.1)
def track_shared_512() -> float:
    return over_hand("shared", 512)


@tracked(f"{HAND}, shared weights, width 1024", at_most=1.1)
def track_shared_1024() -> float:
    return over_hand("shared", 1024)


@tracked(f"{SGD}, exact weights, width 512")
def track_exact_sgd_512() -> float:
    return over_sgd("exact", 512)


@tracked(f"{SGD}, exact weights, width 1024")
def track_exact_sgd_1024() -> float:
    return over_sgd("exact", 1024)


@tracked(f"{SGD}, shared weights, width 512")
def track_shared_sgd_512() -> float:
    return over_sgd("shared", 512)


@tracked(f"{SGD}, shared weights, width 1024")
def track_shared_sgd_1024() -> float:
    return over_sgd("shared", 1024)


# ---------------------------------------------------------------------------- damped_solve

SOLVES = {(16, 200): 2000, (160, 900): 400}  # with calls
SOLVE_DAMPING = 1e-3


def by_hand(S: np.ndarray, v: np.ndarray, damping: float) -> np.ndarray:
    """Return x of damped_solve with one sweep: the same products, and nothing else."""
    W = S @ S.T
    W.flat[:: len(W) + 1] += damping
    factor = scipy.linalg.cho_factor(W, lower=True, overwrite_a=True, check_finite=False)
    x = v / damping
    w = scipy.linalg.cho_solve(factor, S @ x, check_finite=False)
    x -= S.T @ w
    x -= S.T @ scipy.linalg.cho_solve(factor, S @ x - damping * w, check_finite=False)
    return x


@cache
def solve_times(n: int, m: int) -> dict[str, float]:
    """Return the times of a solve, ours and by hand, NumPy float64, one thread."""
    S, v = normal((n, m)), normal((m,), seed=1)
    ways = {
        "ours": lambda: ngdla.damped_solve(S, v, SOLVE_DAMPING),
        "by hand": lambda: by_hand(S, v, SOLVE_DAMPING),
    }
    np.testing.assert_allclose(ways["ours"](), ways["by hand"](), rtol=1e-8, atol=1e-8)
    with limited(1):
        return alternating(ways, SOLVES[n, m])


SOLVE = "damped_solve, NumPy float64, one thread"


@tracked(
    f"{SOLVE}, 16 x 200: time beyond that of the formula by hand", unit="microseconds", at_most=100
)
def track_small_solve() -> float:
    times = solve_times(16, 200)
    return 1e6 * (times["ours"] - times["by hand"])


@tracked(f"{SOLVE}, 160 x 900: time over that of the formula by hand", at_most=1.1)
def track_middling_solve() -> float:
    times = solve_times(160, 900)
    return times["ours"] / times["by hand"]


# --------------------------------------------------------------------------------- details


def rows() -> list[tuple[dict[str, Any], Callable[[], dict[str, float]]]]:
    """Return what is timed, and what returns its times in seconds."""
    return [
        *(
            (
                {"step": name, "layer": "{} x {}, {} rows".format(*layer)},
                lambda name=name, layer=layer: step_times(1, layer, NAMES)[name],
            )
            for layer in (WIDE, SQUARE)
            for name in NAMES
        ),
        *(
            ({"stack": name, "width": width}, partial(stack_times, name, width))
            for name in STACKED
            for width in WIDTHS
        ),
        *(({"FNGD": width}, partial(fngd_times, width)) for width in (512, 1024)),
        *(({"damped_solve": f"{n} x {m}"}, partial(solve_times, n, m)) for n, m in SOLVES),
    ]


def details() -> dict[str, list[dict[str, Any]]]:
    """Return all times in ms, a list for each kind; what needs a missing library says so."""
    found: dict[str, list[dict[str, Any]]] = {}
    for what, seconds in rows():
        kind = found.setdefault(next(iter(what)), [])
        try:
            times = seconds()
        except NotImplementedError as reason:
            kind.append(what | {"skipped": str(reason)})
        else:
            kind.append(what | {f"{way}, ms": 1e3 * t for way, t in times.items()})
    return found
