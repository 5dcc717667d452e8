r"""
A training study
================

Which optimiser reaches which accuracy, in how many epochs, in what time, and with how much memory?
Optimisers behind torch modules train small networks on the digits of scikit-learn. Each is tuned
with the same number of settings. The first part of this page trains three of them while the page is
built, if torch is installed; the second one draws the results of the whole study. Their tables, and
verdicts on what papers claim, are in :doc:`/guide/training_study`.
"""

# %%
# Three methods
# -------------
# A method takes what each layer saw of a batch, its inputs and output gradients, and writes a step
# over the gradient of its weights, which an optimizer of torch takes. Networks and the training
# loop are in the folder ``training_study`` beside this script, the methods in ``optimizers``.

import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import training_study
from training_study.clock import PHASES
from training_study.figures import PHASE_COLOURS, draw_accuracy, draw_phases, handful
from training_study.report import networks, read_results

settings = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9},
    "kfac-eigh": {"learning_rate": 0.03, "damping": 0.1},
    "ingd": {"learning_rate": 0.03, "damping": 0.1},
}
records = {}
if importlib.util.find_spec("torch"):
    from training_study.methods import METHODS
    from training_study.networks import NETWORKS
    from training_study.training import train

    for name, chosen in settings.items():
        method = METHODS[name]
        record = train(NETWORKS["mlp"], method, chosen, seed=0, epochs=3, batch=64)
        records[method.label] = record
        accuracy, kept = record["test"][-1], record["state_bytes"] / 1024
        print(f"{method.label:15s} test accuracy {accuracy:.1%}, state {kept:.0f} KiB")
else:
    print("this page was made without torch")

# %%
# Left: the loss of all training images after each epoch. Right: where the time of an epoch goes.
# Forward and backward passes are the part that all methods have in common.

if records:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
    for (label, record), colour in zip(records.items(), ("0.5", "#E69F00", "black"), strict=True):
        left.semilogy([1, 2, 3], record["loss"], ".-", color=colour, label=label)
        start = 0
        for phase in PHASES:
            milliseconds = 1e3 * sorted(record["seconds"][phase])[1]
            bar = {"color": PHASE_COLOURS[phase], "label": phase if colour == "0.5" else None}
            right.barh(label, milliseconds, left=start, **bar)
            start += milliseconds
    left.set(xlabel="epochs", ylabel="training loss", xticks=[1, 2, 3])
    left.grid(True, color="0.9")
    left.legend(fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="milliseconds of an epoch")
    right.legend(fontsize=8, loc="upper right")
    plt.show()

# %%
# The whole study
# ---------------
# Settings are chosen by the accuracy on validation images, with a seed of their own. The results
# are accuracies on test images, which nothing was chosen by, over several other seeds. They were
# made by ``python docs/examples/training_study run``, and ``report`` writes the file that is drawn
# here.

path = Path(training_study.__file__).parent / "results.json"
if path.exists():
    results = read_results(path)
    tuning, final = len(results["tuning"]), len(results["runs"])
    print(f"{tuning} runs chose the settings, {final} runs were measured with them")
else:
    results = None
    print("no results.json: python docs/examples/training_study run, then report")

# %%
# Accuracy against time
# ---------------------
# A point is an epoch, a curve the mean over the seeds. The time is that of the training alone, with
# one thread.

shown = [network for network in networks(results) if network != "wide"] if results else []
if shown:
    figure, axes = plt.subplots(1, len(shown), figsize=(4.4 * len(shown), 4), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, network in zip(axes[0], shown, strict=True):
        draw_accuracy(axis, results, network, handful(results))
    plt.show()

# %%
# Where the time goes
# -------------------
# Medians over epochs and seeds, in float32. On the wide network the factors have more than a
# thousand rows.

if results:
    there = networks(results)
    size = (8.8, 0.8 + 3 * len(there))
    figure, axes = plt.subplots(len(there), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, network in zip(axes[:, 0], there, strict=True):
        draw_phases(axis, results, network, list(results["methods"]))
    plt.show()

# %%
# In bfloat16
# -----------
# The same settings, with activations, output gradients, and the state of the optimiser in bfloat16;
# the weights themselves stay in float32.

half = [n for n in shown if any(r["dtype"] == "bfloat16" for r in results["runs"])]
if half:
    figure, axes = plt.subplots(1, len(half), figsize=(4.4 * len(half), 4), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, network in zip(axes[0], half, strict=True):
        draw_accuracy(axis, results, network, handful(results), "bfloat16")
    plt.show()
