"""One training run: the loop that all optimisers share, and what is measured on the way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from training_study.clock import PHASES, Clock
from training_study.data import CLASSES, Digits, split
from training_study.libraries import Library, one_thread, open_library
from training_study.networks import Array, Tape, cross_entropy


class DivergedError(Exception):
    """The loss is not finite, or the optimiser gave up. Says why in one line."""


def train(
    network: Any,
    method: Any,
    settings: dict[str, Any],
    *,
    seed: int,
    epochs: int,
    batch: int,
    dtype: str = "float32",
    library: str = "numpy",
) -> dict[str, Any]:
    """Train a network on the digits and return what was measured, as JSON can hold it.

    Batches are drawn anew in each epoch, and the learning rate falls linearly to zero. In bfloat16
    are the activations, the output gradients, and what the optimiser keeps; the weights that the
    steps are added to, and the loop's momentum, stay in float32, and loss and accuracy are those of
    these weights.

    Parameters
    ----------
    network : MLP or CNN
    method : Method
    settings : dict
        Options of the method, and ``learning_rate``.
    seed : int
        Of the weights and of the batches.
    epochs, batch : int
        The last batch of an epoch may be shorter.
    dtype : {"float32", "bfloat16"}
    library : {"numpy", "torch", "jax", "cupy"}

    Returns
    -------
    dict
        Of the epochs that were completed, ``loss`` of all training images, the accuracies
        ``validation`` and ``test``, and ``seconds``, a list for each phase; measuring these is not
        part of the seconds. ``state_bytes`` of the optimiser. ``diverged``, and in ``reason`` why.

    Raises
    ------
    ImportError
        If scikit-learn or the library is missing.
    ValueError
        If the library has no such dtype.

    Notes
    -----
    Everything runs in one thread, so that times depend on nothing else. Two steps of an optimiser
    that is thrown away come first, so that what a library loads and compiles at its first use is
    not in the seconds.
    """
    opened = open_library(library, dtype)
    digits = split()
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    record: dict[str, Any] = {"loss": [], "validation": [], "test": [], "seconds": seconds}
    training = Training(network, method, settings, seed, dtype, opened)
    try:
        # what overflows is found by the loss
        with one_thread(library), np.errstate(all="ignore"):
            warm_up(training, digits.train, batch)
            training.begin()
            run_epochs(training, record, settings["learning_rate"], seed, epochs, batch)
    except DivergedError as error:
        record["reason"] = str(error)
    record["diverged"] = "reason" in record
    record["state_bytes"] = sum(x.nbytes for x in training.kept())
    return record


class Training:
    """Weights, momenta and the optimiser of one run."""

    def __init__(
        self,
        network: Any,
        method: Any,
        settings: dict[str, Any],
        seed: int,
        dtype: str,
        library: Library,
    ) -> None:
        self.network, self.method, self.settings, self.seed = network, method, settings, seed
        self.dtype, self.library = dtype, library
        self.loss_and_tapes = library.compiled(self._loss_and_tapes)
        self.begin()

    def begin(self) -> None:
        """Go back to the first step."""
        self.weights = [self.library.array(W) for W in self.network.initial(self.seed)]
        self.momenta = [0 * W for W in self.weights]
        self.optimizer = self.method.make(self.weights, self.settings, self.dtype)

    def _loss_and_tapes(self, weights: list[Array], x: Array, targets: Array) -> Any:
        xp = self.library.xp
        dtype = getattr(xp, self.dtype)
        weights = [xp.astype(W, dtype) for W in weights]
        logits, inputs = self.network.forward(weights, xp.astype(x, dtype))
        losses, g = cross_entropy(xp.astype(logits, xp.float32), targets)
        tapes: list[Tape] = self.network.backward(weights, inputs, xp.astype(g, dtype))
        return xp.mean(losses), tapes

    def step(self, digits: Digits, rate: float, clock: Clock) -> None:
        """Take a step of length ``rate`` with a batch."""
        with clock("network"):
            x, targets = self.library.array(digits.images), self.library.array(one_hot(digits))
            loss, tapes = self.loss_and_tapes(self.weights, x, targets)
        require_finite(float(loss))
        try:
            directions = self.optimizer.directions(self.weights, tapes, clock)
        except ValueError as error:
            raise DivergedError(str(error).partition("\n")[0]) from error
        with clock("application"):
            momentum, xp = self.optimizer.momentum, self.library.xp
            self.momenta = [
                momentum * m + xp.astype(d, xp.float32) for m, d in zip(self.momenta, directions)
            ]
            self.weights = [W - rate * m for W, m in zip(self.weights, self.momenta)]

    def kept(self) -> list[Array]:
        """Return all that is kept between steps beside the weights."""
        momenta = self.momenta if self.optimizer.momentum else []
        return [*momenta, *self.optimizer.arrays()]

    def measure(self, digits: Digits) -> tuple[float, float]:
        """Return the mean loss, and which part is classified correctly."""
        logits, _ = self.network.forward(self.weights, self.library.array(digits.images))
        logits = self.library.numpy(logits)
        losses, _ = cross_entropy(logits, one_hot(digits))
        return float(losses.mean()), float(np.mean(logits.argmax(axis=1) == digits.labels))


def run_epochs(
    training: Training,
    record: dict[str, Any],
    learning_rate: float,
    seed: int,
    epochs: int,
    batch: int,
) -> None:
    """Train for all epochs, and add to the record what is measured after each."""
    digits = split()
    rng = np.random.default_rng((seed, 1))  # other numbers than those of the weights
    steps = epochs * math.ceil(len(digits.train.labels) / batch)
    taken = 0
    for _ in range(epochs):
        clock = Clock(training.library.wait)
        for chosen in shuffled(digits.train, batch, rng):
            training.step(chosen, learning_rate * (1 - taken / steps), clock)
            taken += 1
        loss, _ = training.measure(digits.train)
        require_finite(loss)
        record["loss"].append(loss)
        record["validation"].append(training.measure(digits.validation)[1])
        record["test"].append(training.measure(digits.test)[1])
        for phase, seconds in clock.seconds.items():
            record["seconds"][phase].append(seconds)


def warm_up(training: Training, digits: Digits, batch: int) -> None:
    """Take steps with the first and the last batch, which may be shorter."""
    batches = shuffled(digits, batch, np.random.default_rng(0))
    for chosen in (batches[0], batches[-1]):
        training.step(chosen, 0.0, Clock(training.library.wait))


def shuffled(digits: Digits, batch: int, rng: np.random.Generator) -> list[Digits]:
    """Return all digits in random order, in batches of which the last may be shorter."""
    order = rng.permutation(len(digits.labels))
    chosen = [order[i : i + batch] for i in range(0, len(order), batch)]
    return [Digits(digits.images[i], digits.labels[i]) for i in chosen]


def one_hot(digits: Digits) -> np.ndarray:
    """Return rows of zeros with a one for the class."""
    return np.eye(CLASSES, dtype=np.float32)[digits.labels]


def require_finite(loss: float) -> None:
    """Raise where a loss is none."""
    if not math.isfinite(loss):
        msg = "the loss is not finite"
        raise DivergedError(msg)
