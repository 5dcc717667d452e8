"""The targets that were missed, each with its reason as far as it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import results
from tables import table

__all__ = ["MISSES", "Miss", "missed_rows", "misses_table"]


class Miss(NamedTuple):
    """A row of a result file that missed its target."""

    file: str
    what: str  # as the row says it
    title: str  # so that it can be read alone
    why: str


MIXED = (
    "The factor is computed in float32, but S is converted for it and refined solutions need more "
    "products with S. The result file holds whole times only, so how much each part takes is not "
    "known."
)
FLOAT32 = (
    'The largest error is that of JAX and `method="eigh"` at damping 1e‑4 σ₁². This damping is not '
    'too small for float32, so `"auto"` does not leave float32. At 1e‑6 σ₁² and below it uses '
    "double precision, and errors are smaller again."
)
ONLINE = (
    "Forming the factor takes 2 N d² operations, an update 4 N d (rank + probes) + 3 d rank²: "
    "eleven times fewer for these sizes{half}. A larger ratio needs an update that multiplies "
    "faster than the {product} does."
)
WEIGHTS = (
    "The operations that are added would take M (1/d_in + 1/d_out) / 2 of the product, a "
    "{fraction}. They are made of small products and of passes over arrays, which run slower; how "
    "much each takes is not known."
)

MISSES = (
    Miss(
        "damped_solve",
        "the same: time over n^2 m flops at the GEMM rate of the same run",
        "`damped_solve`, NumPy float64, n = 1024, m = 50,000: time relative to n² m operations at "
        "the rate of GEMM",
        "The Gram matrix alone takes longer than this floor: see its own row above. The products "
        "with S, which read all of S for few operations, add the rest; with f given there is one "
        "less, and the ratio is lower.",
    ),
    Miss(
        "damped_solve",
        "overhead over the same formula written by hand, n = 16, m = 200, check=True",
        "`damped_solve`, n = 16, m = 200: time beyond that of the formula written by hand",
        "A call also checks its arguments, asks whether the precision was enough and reads one "
        "flag. How much each part takes is not known.",
    ),
    Miss(
        "gram",
        "JAX under jit, the slowest of six shapes, against S @ S.T",
        "`gram` in JAX under `jit`: time of `S @ S.T` relative to it, for the worst of six shapes",
        "For fewer than 512 rows both sides compile to the same product, so the ratio scatters "
        "around one.",
    ),
    Miss(
        "gram",
        "JAX eager, the slowest of six shapes, against S @ S.T",
        "`gram` in eager JAX: time of `S @ S.T` relative to it, for the worst of six shapes",
        "An eager call also looks for NaN and Inf and reads one flag from the device. This cost is "
        "fixed and counts most for the smallest matrices. Its share was not measured.",
    ),
    Miss(
        "precision",
        'float32 S, f given, precision "auto", every method: largest forward error down to damping '
        "= 1e-6 sigma_1^2, NumPy, torch and JAX eager",
        '`damped_lstsq` on float32 S, precision `"auto"`, damping down to 1e‑6 σ₁²: largest error '
        "with NumPy, torch and eager JAX",
        FLOAT32,
    ),
    Miss(
        "precision",
        "the same, JAX under jit with x64",
        "`damped_lstsq` on float32 S, the same, with JAX under `jit`",
        FLOAT32,
    ),
    Miss(
        "precision",
        'precision "mixed" against "native", damped_lstsq, float64, n = 1024, m = 50,000, damping '
        "= 1e-4 sigma_1^2, NumPy",
        '`damped_lstsq`, float64, n = 1024, m = 50,000, NumPy: time of `"native"` relative to '
        '`"mixed"`',
        MIXED,
    ),
    Miss("precision", "the same, torch", 'The same ratio of `"native"` to `"mixed"`, torch', MIXED),
    Miss(
        "precision",
        "the same, JAX under jit",
        'The same ratio of `"native"` to `"mixed"`, JAX under `jit`',
        MIXED,
    ),
    Miss(
        "precision",
        'largest error of "mixed" over that of "native" in these solves',
        'Largest error of `"mixed"` relative to that of `"native"` in these solves',
        'It is that of `damped_solve` on NumPy, where the error of `"native"` is far below that of '
        'the published algorithm, and the error of `"mixed"` near it. On torch and JAX the two '
        "precisions nearly agree. Why NumPy differs is not known.",
    ),
    Miss(
        "randomized_eigh",
        "the same: scipy.linalg.eigh, evd over it",
        "`randomized_eigh` from the last basis, d = 4096, rank 128, float32, one thread: time of "
        "`scipy.linalg.eigh` relative to it",
        "Not known. The same refresh met its target relative to `numpy.linalg.eigh`.",
    ),
    Miss(
        "randomized_eigh",
        "scikit-learn randomized_svd, the same at up to 1.01 times its error",
        "`randomized_eigh` at up to 1.01 times the error of scikit-learn's `randomized_svd`: time "
        "of the latter relative to it",
        "This error takes more than five products with A; after five, ngdla's error is still above "
        "it ({doc}`guide/which_decomposition`). Each further product lowers the ratio.",
    ),
    Miss(
        "randomized_eigh",
        "torch.svd_lowrank, time over ngdla's at up to 1.7 times its error",
        "`randomized_eigh` at up to 1.7 times the error of `torch.svd_lowrank`: time of the latter "
        "relative to it",
        "Not known.",
    ),
    Miss(
        "online_eigh",
        "online_eigh_update, d = 4096, 256 rows, rank 128, 8 probes, float32, one thread: time of "
        "forming the factor by gemm, as written in NumPy, over it",
        "`online_eigh_update`, d = 4096, N = 256 rows, rank 128, 8 probes, float32, one thread: "
        "time of forming the factor by a NumPy expression relative to it",
        ONLINE.format(half="", product="product of the expression"),
    ),
    Miss(
        "online_eigh",
        "the same by syrk in place, one triangle",
        "`online_eigh_update`, the same: time of forming one triangle by SYRK in place",
        ONLINE.format(half=", and half of that for one triangle", product="call of SYRK"),
    ),
    Miss(
        "sample_weights",
        "sample_gram, sample_weights and weighted_gradient, M = 128, d = 2048, float32, NumPy, one "
        "thread: time beyond that of one product for the plain gradient",
        "`sample_gram`, `sample_weights` and `weighted_gradient`, M = 128, d = 2048, float32, "
        "NumPy, one thread: time added to the product for the plain gradient",
        WEIGHTS.format(fraction="sixteenth here"),
    ),
    Miss(
        "sample_weights",
        "sample_weights, the same, d = 4096",
        "The same, d = 4096, NumPy",
        WEIGHTS.format(fraction="thirty-second here"),
    ),
    Miss(
        "sample_weights",
        "sample_weights, the same, shared weights, worse of both",
        "The same with shared weights, NumPy, the worse of d = 2048 and 4096",
        "Only one array is multiplied by the weights. Why it takes this long is not known.",
    ),
    Miss(
        "sample_weights",
        "sample_weights, torch, d = 4096",
        "The same, d = 4096, torch",
        "The times scatter: for d = 2048 in the same run the weighted gradient took less time than "
        "the plain one. A reason beyond that is not known.",
    ),
    Miss(
        "doors",
        "the Ising chain in float64 and complex128, real parameters of a complex function too, "
        "shifts 1e-2 and 1e-4: largest distance of steps of all doors to those of NetKet's SR, "
        "cholesky",
        "Steps of all doors to NetKet in float64, shifts 1e-2 and 1e-4: largest distance to those "
        "of its SR, cholesky",
        "NetKet's own two solvers are 8e-12 apart at a shift of 1e-4, and farther from the step "
        "of an SVD of the scores: they solve for a gradient that was rounded. `VMC_SPRING` "
        "and `dense_solver` are closer to that step, and so far from them.",
    ),
    Miss(
        "doors",
        "the same distance to NetKet's SR, svd",
        "The same distance to its SR, svd",
        "The same.",
    ),
    Miss(
        "doors",
        "the same over NetKet's VMC_SR, float32",
        "A compiled step from O and E, n = 1024, m = 50,000, float32: time of NetKet's VMC_SR over "
        "that of VMC_SPRING",
        "`VMC_SPRING` forms the Gram matrix in float64: in float32 its steps err by up to 4e-6 at "
        "large shifts. At small ones those of VMC_SR, in float32, err by up to 76 %. quantax, in "
        "float64, takes 1.5 times as long.",
    ),
    Miss(
        "full_runs",
        "Ising chain: mean energy of SPRING with automatic shift less that of the best of five "
        "constant shifts, 1e-1 to 1e-5",
        "Ising chain, N = 20: mean energy of SPRING with automatic shift less that of the best of "
        "five constant shifts",
        "The best of five is chosen after the runs, and one of its runs ended below the exact "
        "energy, as samples are few. The automatic shift does better than 1e-1 and 1e-5, where one "
        "run failed, and is within a standard error of 1e-2 and of 1e-4.",
    ),
    Miss(
        "distribution",
        "two processes, one BLAS thread each, n = 1024, m = 100,000, float64: speedup of "
        "damped_lstsq, RowShards, if that of the products is at least 1.8",
        "`damped_lstsq` of `RowShards` on two processes, n = 1024, m = 100,000: speedup over one "
        "process",
        "The exchange comes on top of what columns take. It copies every number of S some four "
        "times, in almost half of the time of the Gram matrix of a rank. That grows with n², and "
        "the exchange with n, so that it weighs less with more samples.",
    ),
)


def missed_rows(found: Mapping[str, dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows that missed their targets, by file and by what they say they measure."""
    return {
        (file, row["what"]): row
        for file, result in found.items()
        for row in result["rows"]
        if "missed" in results.verdict(row)
    }


def misses_table(found: Mapping[str, dict[str, Any]]) -> str:
    """Return what was missed, by how much and why, as a Markdown table."""
    known = {(miss.file, miss.what): miss for miss in MISSES}
    rows = [["what", "measured", "why"]]
    for key, row in missed_rows(found).items():
        miss = known.get(key, Miss(*key, title=row["what"], why="Not known."))
        rows.append([miss.title, results.described(row).replace("missed: ", "target: "), miss.why])
    return table(rows)
