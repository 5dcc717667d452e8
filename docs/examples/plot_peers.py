r"""
Beside other libraries
======================

How long do other libraries take for the same damped least-squares problem, and how far from the
exact solution do they end? The times were measured in one process, in turn with ngdla, by
``asv_benchmarks/measure.py peers``; this page draws its result file.
"""

# %%
# The result file
# ---------------

import json
from pathlib import Path

import matplotlib.pyplot as plt

import ngdla

measured = Path(ngdla.__file__).parents[1] / "asv_benchmarks" / "measured" / "peers.json"
details = json.loads(measured.read_text())["details"] if measured.exists() else []
rows = [row for row in details if "skipped" not in row]
print(f"{len(rows)} comparisons")

# %%
# The picture
# -----------
# A bar is the time of the other library over that of ngdla with ``precision="auto"``: right of the
# line ngdla is faster. Beside it stand the forward errors, theirs and ours.

rows.sort(key=lambda row: (row["dtype"], -row["ratio"]), reverse=True)
colours = {"float64": "#0072B2", "float32": "#E69F00"}

figure, axis = plt.subplots(figsize=(6.5, 1.2 + 0.36 * len(rows)), layout="constrained")
labels = [f"{row['peer']}\n{row['library']}, {row['dtype']}" for row in rows]
places = range(len(rows))
axis.barh(places, [row["ratio"] for row in rows], color=[colours[row["dtype"]] for row in rows])
for place, row in zip(places, rows, strict=True):
    text = f"  {row['peer error']:.0e} | {row['ngdla error']:.0e}"
    axis.text(row["ratio"], place, text, va="center", fontsize=8)
axis.axvline(1, color="0.3", lw=1)
axis.set_xscale("log")
axis.set_xlim(0.5, 4 * max([row["ratio"] for row in rows], default=1))
axis.set_yticks(places, labels, fontsize=7)
axis.set_xlabel("time over that of ngdla;  errors: theirs | ours")
plt.show()
