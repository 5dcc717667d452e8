r"""
What a decomposition costs, and what its tail is worth
=======================================================

The time of ``randomized_eigh`` grows with the square of the size of the factor, that of
``online_eigh_update`` linearly, where a full decomposition takes its cube. Solves with a truncated
factor depend on what stands for the eigenvalues that are missing. Both were measured by
``asv_benchmarks/measure.py randomized_eigh online_eigh kronecker``; this page draws the result
files.
"""

# %%
# The result files
# ----------------

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ngdla

folder = Path(ngdla.__file__).parents[1] / "asv_benchmarks" / "measured"


def measured(name):
    """Return the details of a result file, none where it is not there."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["details"] if path.exists() else {}


growth = {name: measured(name).get("growth") for name in ("randomized_eigh", "online_eigh")}
growth = {name: record for name, record in growth.items() if record}
for name, record in growth.items():
    slope = np.polyfit(np.log(record["size"]), np.log(record["seconds"]), 1)[0]
    print(f"{name}: time ~ d^{slope:.2f}")

# %%
# Growth with the size
# --------------------
# Rank 128, float32, one thread: two products with a factor that is there, or one update with 256
# rows, for which it is never formed. The dotted line is the time that a full eigendecomposition
# would take if it ran at the rate of its measured point.

figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
colours = {"randomized_eigh": "#0072B2", "online_eigh": "#E69F00"}
for name, record in growth.items():
    axis.loglog(record["size"], record["seconds"], "o-", color=colours[name], label=name)
methods = measured("randomized_eigh").get("methods", [])
full = [row["seconds, 1 thread"] for row in methods if row["method"] == "scipy.linalg.eigh, evd"]
if full:
    sizes = np.array(growth["randomized_eigh"]["size"])
    axis.loglog(sizes, full[0] * (sizes / 4096.0) ** 3, "k:", lw=1, label="full (float32), cubic")
    axis.loglog([4096], full, "ks", ms=5)
axis.set_xlabel("size of the factor, d")
axis.set_ylabel("time / s")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()

# %%
# The three tails
# ---------------
# The error of :math:`(\hat A + \lambda)^{-1} V` for gradients V of the last batch, relative to the
# exact solution, d = 2048 with 128 modes kept; the line styles are decompositions, the colours what
# stands for each missing eigenvalue. A zero tail lets errors grow without bound as the damping
# falls, since steps along missing modes become too long; a tail that is too large only shortens
# them.

kronecker = measured("kronecker")
rows = [row for row in kronecker.get("tails", []) if row["power"] == 1.0]
styles = {"exact, truncated": "-", "nystrom, 2 passes": "--", "nystrom, 1 pass": ":"}
colours = {"zero": "#D55E00", "min": "#009E73", "trace": "#0072B2"}
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
for row in rows:
    if row["method"] in styles:
        axis.loglog(
            kronecker["dampings"],
            row["errors"],
            styles[row["method"]],
            color=colours[row["tail"]],
            marker=".",
            label=f"{row['tail']}, {row['method']}",
        )
axis.invert_xaxis()
axis.set_xlabel(r"damping / largest eigenvalue")
axis.set_ylabel("relative error of the damped inverse")
if rows:
    axis.legend(frameon=False, fontsize=7, ncols=2)
axis.grid(alpha=0.3)
plt.show()
