"""What inverse-free updates have in common with KFAC, and what they leave unchanged, in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from dense_updates import (
    COLUMNS,
    NAMES,
    TOEPLITZ,
    after,
    basis,
    member,
    preconditioner,
    project,
    samples,
    second_moment,
    structure,
    tangents,
    with_members,
)
from references import U
from spectra import norm, relative

from ngdla import (
    InverseFreeState,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
    structured_factor,
)
from ngdla.structures import Hierarchical, LowRankTriangular

IN, OUT, DAMPING = 6, 5, 0.1
EPS = U["float64"]
in_every_structure = pytest.mark.parametrize("name", NAMES)


def start(name: str = "dense", *, momentum: bool = True) -> InverseFreeState:
    pair = structure(name, IN), structure(name, OUT)
    return inverse_free_init(IN, OUT, structures=pair, like=np.zeros(1), momentum=momentum)


def batch(rng: np.random.Generator, rows: int = 30) -> tuple[np.ndarray, np.ndarray]:
    return samples(rng, rows, IN), samples(rng, rows, OUT)


def seen(state: InverseFreeState, a: np.ndarray, g: np.ndarray, **options: Any) -> Any:
    """Return the state after one small step, whose tangents are those of the batch."""
    options = {"damping": DAMPING, "step_size": 1e-3, **options}
    return after(state, a, g, **options)


# -------------------------------------------------------------------------- against KFAC


ORDERS = {
    "series": {"retraction": "series"},
    "series 2": {"retraction": "series", "order": 2},
    "expm": {"retraction": "expm"},
    "implicit": {"retraction": "implicit"},
    "binomial": {"retraction": "binomial"},
    "binomial 2": {"retraction": "binomial", "order": 2},
    "binomial 3": {"retraction": "binomial", "order": 3},
}


def distance_from_kfac(
    batches: list[tuple[np.ndarray, np.ndarray]], step: float, **options: Any
) -> float:
    """Return the error of K K^T as an inverse of the damped average, after all batches."""
    state = start(momentum=False)
    S = (1 - DAMPING) * np.eye(IN)  # of which K = I is the inverse root
    for a, g in batches:
        state = after(state, a, g, damping=DAMPING, step_size=step, rule="ikfac", **options)
        S = (1 - step) * S + step * second_moment(a)
    return relative(preconditioner(state)[0], np.linalg.inv(S + DAMPING * np.eye(IN)))


@pytest.mark.parametrize("kind", ORDERS)
def test_kfac_is_followed_to_the_order_of_the_retraction(
    kind: str, rng: np.random.Generator
) -> None:
    """Errors of a fixed number of steps fall as step^2, with "binomial" as step^(order + 1)."""
    batches = [batch(rng) for _ in range(4)]
    options = ORDERS[kind]
    expected = options.get("order", 1) + 1 if options["retraction"] == "binomial" else 2
    coarse, fine = (distance_from_kfac(batches, step, **options) for step in (0.008, 0.004))
    assert math.log2(coarse / fine) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("step", [0.01, 0.5, 0.9])
def test_the_exact_retraction_is_kfac(step: float, rng: np.random.Generator) -> None:
    """To rounding, at any step: each one adds 10 d u times the condition of what is inverted."""
    batches = [batch(rng) for _ in range(8)]
    condition = max(np.linalg.cond(second_moment(a) + DAMPING * np.eye(IN)) for a, _ in batches)
    allowed = len(batches) * 10 * IN * EPS * condition
    assert distance_from_kfac(batches, step, retraction="exact") <= allowed


@pytest.mark.parametrize("step", [1e-3, 0.3, 0.9])
def test_the_new_average_is_a_congruence_of_the_tangent(
    step: float, rng: np.random.Generator
) -> None:
    """(1 - step) (K K^T)^-1 + step (U + damping) = K^-T (I + 2 step m) K^-1, for any K."""
    state, (a, g) = with_members(rng, "dense", IN, OUT), batch(rng)
    m, _ = tangents(seen(state, a, g, rule="ikfac"))
    inverse = np.linalg.inv(state.K.to_dense())
    target = second_moment(a) + DAMPING * np.eye(IN)
    average = (1 - step) * inverse.T @ inverse + step * target
    found = inverse.T @ (np.eye(IN) + 2 * step * m) @ inverse
    assert norm(found - average) <= 20 * IN * EPS * norm(inverse) ** 2 * max(1, norm(m))


@pytest.mark.parametrize(
    ("options", "constant"),
    [
        ({"retraction": "series"}, 3 / 4),
        ({"retraction": "series", "order": 2}, 1 / 2),
        ({"retraction": "expm"}, 1 / 2),
        ({"retraction": "implicit"}, 1 / 4),
        ({"retraction": "binomial"}, 3 / 4),
        ({"retraction": "binomial", "order": 2}, 0.0),
    ],
    ids=["series", "series 2", "expm", "implicit", "binomial", "binomial 2"],
)
def test_the_error_of_one_step(
    options: dict[str, Any], constant: float, rng: np.random.Generator
) -> None:
    """K K^T is off by -constant step^2 K M^2 K^T with M = 2 m, up to the next order."""
    state, (a, g), step = with_members(rng, "dense", IN, OUT), batch(rng), 1e-4
    new = seen(state, a, g, rule="ikfac", step_size=step, **options)
    K, M = state.K.to_dense(), 2 * tangents(new)[0]
    kfac = K @ np.linalg.inv(np.eye(IN) + step * M) @ K.T
    leading = step**2 * K @ M @ M @ K.T
    off = preconditioner(new)[0] - kfac + constant * leading
    assert norm(off) <= 4 * step * np.linalg.norm(M, 2) * norm(leading)


# ------------------------------------------------------------------ the objective of INGD


def objective(K: np.ndarray, C: np.ndarray, S: np.ndarray, G: np.ndarray) -> float:
    """tr(K^T U K) tr(C^T G C) + damping tr(K^T K) tr(C^T C) - 2 d_out log|K| - 2 d_in log|C|."""
    traces = np.trace(K.T @ S @ K) * np.trace(C.T @ G @ C)
    traces += DAMPING * np.trace(K.T @ K) * np.trace(C.T @ C)
    return float(traces - 2 * OUT * np.linalg.slogdet(K)[1] - 2 * IN * np.linalg.slogdet(C)[1])


def symmetric(m: np.ndarray) -> np.ndarray:
    return (m + m.T) / 2


@in_every_structure
def test_the_tangent_is_the_gradient_of_the_objective(name: str, rng: np.random.Generator) -> None:
    """dJ along K (I + e M) is 4 d_out <sym m_K, sym M> for every M of the structure; so is C's."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    K, C, S, G = state.K.to_dense(), state.C.to_dense(), second_moment(a), second_moment(g)
    m_K, m_C = tangents(seen(state, a, g))
    M_K, M_C = (member(rng, name, d) - np.eye(d) for d in (IN, OUT))
    e = 1e-5

    def moved(x: float, y: float) -> float:
        return objective(K + x * K @ M_K, C + y * C @ M_C, S, G)

    along_K, along_C = (moved(e, 0) - moved(-e, 0)) / 2 / e, (moved(0, e) - moved(0, -e)) / 2 / e
    size = abs(objective(K, C, S, G)) + IN * OUT
    assert abs(along_K - 4 * OUT * np.sum(symmetric(m_K) * symmetric(M_K))) <= 1e-8 * size
    assert abs(along_C - 4 * IN * np.sum(symmetric(m_C) * symmetric(M_C))) <= 1e-8 * size


@in_every_structure
def test_the_objective_decreases(name: str, rng: np.random.Generator) -> None:
    """At every step but for rounding, from I to near the optimum."""
    state, (a, g) = start(name, momentum=False), batch(rng)
    S, G, values = second_moment(a), second_moment(g), []
    for _ in range(120):
        values.append(objective(state.K.to_dense(), state.C.to_dense(), S, G))
        state = after(state, a, g, damping=DAMPING, step_size=0.05)
    assert np.all(np.diff(values) <= 100 * IN * OUT * EPS)
    assert values[0] - values[-1] >= 0.1


@pytest.mark.parametrize("damping", [DAMPING, 1e-14])
def test_the_fixed_point_of_ingd(damping: float, rng: np.random.Generator) -> None:
    """(K K^T)^-1 = (tr(C^T G C) U + damping tr(C^T C) I) / d_out and its mirror image.

    Without damping, C C^T kron K K^T is the inverse of G kron U exactly.
    """
    a, g = batch(rng)
    options = {"damping": damping, "step_size": 0.5, "retraction": "implicit"}
    state = after(start(momentum=False), a, g, 150, **options)
    (P, Q), S, G = preconditioner(state), second_moment(a), second_moment(g)
    for X, Y, A, B in ((P, Q, S, G), (Q, P, G, S)):
        curvature = np.trace(B @ Y) * A + damping * np.trace(Y) * np.eye(len(X))
        assert relative(np.linalg.inv(X), curvature / len(Y)) <= 1e-8
    if damping < DAMPING:
        assert relative(np.kron(P, Q), np.linalg.inv(np.kron(S, G))) <= 1e-8


# -------------------------------------------------------------------------------- optima


@in_every_structure
def test_ikfac_converges_to_the_optimum(name: str, rng: np.random.Generator) -> None:
    """The closed form, with any start; dense columns and Toeplitz are slow, and get nearer."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    options = {"damping": DAMPING, "step_size": 0.7, "retraction": "exact", "rule": "ikfac"}
    state = dataclasses.replace(state, momentum_K=(), momentum_C=())
    near, end = after(state, a, g, 15, **options), after(state, a, g, 45, **options)
    for X, at_15, at_45, d in zip((a, g), preconditioner(near), preconditioner(end), (IN, OUT)):
        K = structured_factor(second_moment(X), structure(name, d), DAMPING).to_dense()
        if name in (*COLUMNS, *TOEPLITZ, "masked"):
            assert relative(at_45, K @ K.T) <= max(0.5 * relative(at_15, K @ K.T), 1e-12)
        else:
            assert relative(at_45, K @ K.T) <= 1e-12


def test_dense_rows_converge_faster_than_dense_columns(rng: np.random.Generator) -> None:
    """At the rate of a dense factor; what is reached differs by four decades and more."""
    (a, g), errors = batch(rng), {}
    options = {"damping": DAMPING, "step_size": 0.1, "retraction": "implicit", "rule": "ikfac"}
    for name in ("dense", "upper-first", "lower-last", "lower-first", "upper-last"):
        state = after(start(name, momentum=False), a, g, 300, **options)
        K = structured_factor(second_moment(a), structure(name, IN), DAMPING).to_dense()
        errors[name] = relative(preconditioner(state)[0], K @ K.T)
    rows, columns = (errors[n] for n in ("upper-first", "lower-last")), (errors[n] for n in COLUMNS)
    assert 1e4 * max(*rows, errors["dense"]) <= min(columns)


def hierarchical_pair() -> tuple[Hierarchical, LowRankTriangular]:
    """Corners of 2 and 1 indices, and three dense rows at the same indices."""
    return Hierarchical(2, 1), LowRankTriangular(3, features=(0, 1, IN - 1))


def test_hierarchical_factors_have_the_optimum_of_dense_rows(rng: np.random.Generator) -> None:
    S = second_moment(samples(rng, 30, IN))
    one, other = (structured_factor(S, s, DAMPING).to_dense() for s in hierarchical_pair())
    assert relative(one @ one.T, other @ other.T) <= 1e2 * IN * EPS


def test_hierarchical_factors_follow_dense_rows(rng: np.random.Generator) -> None:
    """The same flow: gaps at one time are halved with the step."""
    a, g = batch(rng)

    def gap(steps: int) -> float:
        ends = []
        for s in hierarchical_pair():
            state = inverse_free_init(IN, OUT, structures=(s, "dense"), like=a, momentum=False)
            state = after(state, a, g, steps, damping=DAMPING, step_size=2 / steps, rule="ikfac")
            ends.append(preconditioner(state)[0])
        return relative(*ends)

    assert gap(100) <= 0.05
    assert math.log2(gap(100) / gap(200)) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------------------- invariances


@in_every_structure
def test_coordinates_of_the_features_do_not_matter(name: str, rng: np.random.Generator) -> None:
    """a -> R a with K -> R^-T K leaves H_K, if R^-T is a member; outputs likewise."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    A_K, A_C = member(rng, name, IN), member(rng, name, OUT)  # R^-T
    pair = structure(name, IN), structure(name, OUT)
    moved = dataclasses.replace(
        state, K=pair[0].from_dense(A_K).matmul(state.K), C=pair[1].from_dense(A_C).matmul(state.C)
    )
    here = inverse_free_statistics(state, a, g)
    there = inverse_free_statistics(moved, a @ np.linalg.inv(A_K), g @ np.linalg.inv(A_C))
    for one, other, A in ((here.H_K, there.H_K, A_K), (here.H_C, there.H_C, A_C)):
        allowed = 50 * IN * EPS * np.linalg.cond(A) ** 2
        assert relative(other.to_dense(), one.to_dense()) <= allowed


@in_every_structure
def test_ingd_sees_only_the_product_of_the_factors(name: str, rng: np.random.Generator) -> None:
    """K -> 7 K with C -> C / 7 leaves the tangents, and so does not change the preconditioner."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    moved = dataclasses.replace(state, K=7 * state.K, C=state.C / 7)
    here, there = (tangents(seen(s, a, g)) for s in (state, moved))
    for one, other in zip(here, there):
        assert relative(other, one) <= 50 * IN * EPS


@in_every_structure
def test_ingd_sees_only_the_product_of_the_moments(name: str, rng: np.random.Generator) -> None:
    """U -> 9 U with G -> G / 9 leaves the tangents of INGD; those of IKFAC differ by much."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    for rule in ("ingd", "ikfac"):
        here, there = (
            tangents(seen(state, scale * a, g / scale, rule=rule)) for scale in (1.0, 3.0)
        )
        for one, other in zip(here, there):
            if rule == "ingd":
                assert relative(other, one) <= 50 * IN * EPS
            else:
                assert relative(other, one) >= 0.1


@pytest.mark.parametrize("rule", ["ingd", "ikfac"])
@pytest.mark.parametrize("retraction", ["series", "expm", "binomial", "implicit", "exact"])
def test_rotations_of_a_dense_factor_do_not_matter(
    rule: str, retraction: str, rng: np.random.Generator
) -> None:
    """From K Q, for orthogonal Q, updates lead to K' Q: the same preconditioner."""
    state, (a, g) = with_members(rng, "dense", IN, OUT), batch(rng)
    Q = np.linalg.qr(rng.standard_normal((IN, IN)))[0]
    rotated = dataclasses.replace(
        state, K=structure("dense", IN).from_dense(state.K.to_dense() @ Q)
    )
    options = {"damping": DAMPING, "step_size": 0.1, "rule": rule, "retraction": retraction}
    one, other = (after(s, a, g, 3, **options) for s in (state, rotated))
    assert relative(other.K.to_dense(), one.K.to_dense() @ Q) <= 1e3 * IN * EPS
    assert relative(other.C.to_dense(), one.C.to_dense()) <= 1e3 * IN * EPS


# ------------------------------------------------------------------- structures are closed


@in_every_structure
@pytest.mark.parametrize("retraction", ["series", "expm", "binomial", "implicit", "exact"])
def test_factors_stay_in_their_structure(
    name: str, retraction: str, rng: np.random.Generator
) -> None:
    """`from_dense` refuses what is no member: zeros are exact zeros."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    options = {"step_size": 0.1, "momentum": 0.5, "retraction": retraction, "order": 3}
    state = after(state, a, g, 2, damping=DAMPING, **options)
    assert state.momentum_K
    assert state.momentum_C
    for matrix, d in (
        (state.K, IN),
        (state.C, OUT),
        (state.momentum_K, IN),
        (state.momentum_C, OUT),
    ):
        structure(name, d).from_dense(matrix.to_dense())


# ---------------------------------------------------------------------------- projections
# Through the statistics: H_K = Pi(K^T U K) for one row of weight 1, or more.


@in_every_structure
def test_statistics_are_the_closest_tangent(name: str, rng: np.random.Generator) -> None:
    """In the least-squares sense for their symmetric parts: by the weights, and by a basis."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    statistics, K = inverse_free_statistics(state, a, g), state.K.to_dense()
    N, found = K.T @ (a.T @ a) @ K, statistics.H_K.to_dense()
    elements = np.array(list(basis(name, IN)))
    design = np.array([symmetric(E).ravel() for E in elements]).T
    coefficients = np.linalg.lstsq(design, N.ravel(), rcond=None)[0]
    assert relative(found, np.tensordot(coefficients, elements, 1)) <= 50 * IN * EPS
    assert relative(found, project(name, N)) <= 20 * IN * EPS


@in_every_structure
def test_tangents_are_their_own_statistics(name: str, rng: np.random.Generator) -> None:
    """Pi(sym L) = L: a batch whose second moment is the symmetric part of a tangent."""
    elements = np.array(list(basis(name, IN)))
    L = 3 * np.eye(IN) + np.tensordot(0.3 * rng.standard_normal(len(elements)), elements, 1)
    a = np.linalg.cholesky(symmetric(L)).T
    statistics = inverse_free_statistics(start(name), a, np.zeros((IN, OUT)))
    assert relative(statistics.H_K.to_dense(), L) <= 20 * IN * EPS


@in_every_structure
def test_statistics_keep_the_trace(name: str, rng: np.random.Generator) -> None:
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    statistics, C = inverse_free_statistics(state, a, g), state.C.to_dense()
    expected = norm(g @ C) ** 2
    assert abs(statistics.H_C.trace() - expected) <= 20 * IN * EPS * expected


@in_every_structure
def test_what_statistics_leave_out_is_orthogonal(name: str, rng: np.random.Generator) -> None:
    """N - sym Pi(N) is orthogonal to the symmetric parts of all tangents."""
    state, (a, g) = with_members(rng, name, IN, OUT), batch(rng)
    K = state.K.to_dense()
    N = K.T @ (a.T @ a) @ K
    rest = N - symmetric(inverse_free_statistics(state, a, g).H_K.to_dense())
    for E in basis(name, IN):
        assert abs(np.sum(rest * symmetric(E))) <= 20 * IN * EPS * norm(N) * norm(E)


@pytest.mark.parametrize(
    ("name", "a", "least"),
    [
        ("upper-toeplitz", [1.0, 0.0, 1.0], -1 / 3),
        ("lower-toeplitz", [1.0, 0.0, 1.0], -1 / 3),
        ("upper-first", [1.0, 0.0, 1.0, 1.0], 1 - math.sqrt(2)),
    ],
)
def test_statistics_are_not_positive_semi_definite(name: str, a: list[float], least: float) -> None:
    """Their symmetric parts: of one sample, in closed form. Nothing may rely on the contrary."""
    x = np.array([a])
    s = structure(name, len(a))
    state = inverse_free_init(len(a), 1, structures=(s, "dense"), like=x)
    found = inverse_free_statistics(state, x, np.ones((1, 1))).H_K.to_dense()
    assert np.linalg.eigvalsh(symmetric(found))[0] == pytest.approx(least, abs=10 * EPS)


# ------------------------------------------------------------------------------- spectra


@in_every_structure
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_eigenvalues_of_tangents(name: str, momentum: float, rng: np.random.Generator) -> None:
    """Real, and at least -1 / (2 (1 - momentum)), which batches of zeros come close to.

    Tangents are not normal: roundings can move their eigenvalues by the square root of u.
    """
    state = with_members(rng, name, IN, OUT)
    for i in range(20):
        a, g = batch(rng, rows=1 + i % 3)
        scale = 10.0 ** -(i % 4)
        statistics = inverse_free_statistics(state, scale * a, scale * g)
        state = inverse_free_update(
            state, statistics, damping=1e-6, step_size=0.1, momentum=momentum, rule="ikfac"
        )
        for m in tangents(state):
            values = np.linalg.eigvals(m)
            allowed = 10 * math.sqrt(EPS) * norm(m)
            assert np.max(np.abs(values.imag)) <= allowed
            assert np.min(values.real) >= -0.5 / (1 - momentum) - allowed
