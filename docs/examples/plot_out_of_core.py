r"""
Scores larger than memory
=========================

A matrix of scores lies in a file, or is made layer by layer and never kept. A stream takes its
place in a damped solve, which then needs memory for the small matrix and two blocks.
"""

# %%
# Scores in a file
# ----------------
# Here 200 samples and 20,000 parameters, 32 MB, written as ``ndarray.tofile`` writes. A
# :class:`~ngdla.ColumnStream` reads the file as often as the solve needs all of S: for the Gram
# matrix, for the solve, and for each sweep of refinement.

import tempfile
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ngdla

n, m = 200, 20_000
rng = np.random.default_rng(0)
S, f = rng.standard_normal((n, m)), rng.standard_normal(n)
directory = tempfile.TemporaryDirectory()
path = Path(directory.name) / "scores.bin"
S.tofile(path)

stream = ngdla.ColumnStream.from_file(path, (n, m), "float64", chunk=2000)
x = ngdla.damped_lstsq(stream, f, 1e-3)
print(np.linalg.norm(x - ngdla.damped_lstsq(S, f, 1e-3)) / np.linalg.norm(x))

# %%
# Scores that are never kept
# --------------------------
# Any function that returns a fresh iterator of blocks is a source: one block a layer, or one for
# each chunk of parameters, computed anew in every pass.

passes = []


def layers(width):
    """Return a function that makes S in blocks of columns, and counts the passes."""

    def blocks():
        passes.append(width)
        generator = np.random.default_rng(1)
        for _ in range(m // width):
            yield generator.standard_normal((n, width))

    return blocks


def peak_memory(width):
    """Return the peak of what NumPy allocates during a solve, in MB."""
    source = ngdla.ColumnStream(layers(width), (n, m), dtype="float64")
    tracemalloc.start()
    ngdla.damped_lstsq(source, f, 1e-3)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return peak


widths = [200, 1000, 4000, 10_000, 20_000]
peaks = [peak_memory(width) for width in widths]
print("passes over S:", passes.count(200))

# %%
# The picture
# -----------
# Memory follows the width of a block, down to what the n x n matrix and the vectors take. The line
# is the size of S.

figure, axis = plt.subplots(figsize=(5, 3.6), layout="constrained")
axis.loglog(widths, peaks, "o-", color="#0072B2", label="peak during the solve")
axis.axhline(S.nbytes / 1e6, color="0.3", ls="--", lw=1, label="size of S")
axis.set_xlabel("columns of a block")
axis.set_ylabel("memory in MB")
axis.grid(True, color="0.9")
axis.legend()
plt.show()
directory.cleanup()
