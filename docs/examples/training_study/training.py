"""One training run: the loop that all optimisers share, and what is measured on the way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves, tree_map

from ngdla.adapters.torch_modules import record as recording_of
from training_study.clock import PHASES, Clock
from training_study.data import Digits, split
from training_study.methods import PHASES_OF_CALLS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
) -> dict[str, Any]:
    """Train a network on the digits and return what was measured, as JSON can hold it.

    Batches are drawn anew in each epoch, and the learning rate falls linearly to zero. In bfloat16
    are the activations and output gradients, by autocast, and what the optimiser keeps; the weights
    that the steps are added to, and the momentum, stay in float32, and loss and accuracy are those
    of these weights.

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

    Returns
    -------
    dict
        Of the epochs that were completed, ``loss`` of all training images, the accuracies
        ``validation`` and ``test``, and ``seconds``, a list for each phase; measuring these is not
        part of the seconds. ``state_bytes`` of the optimiser. ``diverged``, and in ``reason`` why.

    Raises
    ------
    ImportError
        If scikit-learn is missing.

    Notes
    -----
    Everything runs in one thread, so that times depend on nothing else. Two steps of an optimiser
    that is thrown away come first, so that what a library loads and compiles at its first use is
    not in the seconds.
    """
    digits = split()
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    record: dict[str, Any] = {"loss": [], "validation": [], "test": [], "seconds": seconds}
    training = Training(network, method, settings, seed, dtype)
    try:
        with one_thread():
            warm_up(training, digits.train, batch)
            training.begin()
            run_epochs(training, record, settings["learning_rate"], seed, epochs, batch)
    except DivergedError as error:
        record["reason"] = str(error)
    record["diverged"] = "reason" in record
    record["state_bytes"] = sum(x.nbytes for x in training.kept())
    return record


class Training:
    """The network and its optimiser of one run."""

    def __init__(
        self, network: Any, method: Any, settings: dict[str, Any], seed: int, dtype: str
    ) -> None:
        self.network, self.method, self.settings, self.seed = network, method, settings, seed
        self.dtype = dtype
        self.begin()

    def begin(self) -> None:
        """Go back to the first step."""
        self.model = self.network.module(self.seed).to(DEVICE)
        self.preconditioner = self.method.make(self.settings, self.dtype)
        self.optimizer = self.method.optimizer(self.model, self.settings)
        self.layers = None if self.preconditioner is None else recording_of(self.model)

    def step(self, digits: Digits, rate: float, clock: Clock) -> None:
        """Take a step of length ``rate`` with a batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with clock("network"):
            self.backward(digits)
        try:
            with clock("application"):
                if self.preconditioner is not None:
                    self.precondition(rate)
                self.optimizer.step()
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise DivergedError(str(error).partition("\n")[0]) from error

    def backward(self, digits: Digits) -> None:
        """Go forward and backward with a batch."""
        x, y = tensors(digits)
        self.optimizer.zero_grad()
        half = torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == "bfloat16")
        with self.layers or contextlib.nullcontext():
            with half:
                logits = self.model(x)
            loss = cross_entropy(logits.float(), y)
            require_finite(float(loss.detach()))
            if self.method.mean_gradient:
                loss.backward()
            else:
                self.layers.backward(loss)

    def precondition(self, rate: float) -> None:
        """Make steps of gradients. What is kept from one to the next is rounded in between."""
        if self.dtype == "float32":
            self.preconditioner.precondition(self.layers, rate)
            return
        in_dtype(self.preconditioner, torch.float32)
        self.preconditioner.precondition(self.layers, rate)
        in_dtype(self.preconditioner, getattr(torch, self.dtype))

    def kept(self) -> list[torch.Tensor]:
        """Return all arrays that are kept between steps beside the weights."""
        kept = [*self.optimizer.state.values()]
        if self.preconditioner is not None:
            kept.append(self.preconditioner.state_dict())
        return [x for x in tree_leaves(kept) if isinstance(x, torch.Tensor) and x.ndim]

    def measure(self, digits: Digits) -> tuple[float, float]:
        """Return the mean loss, and which part is classified correctly."""
        x, y = tensors(digits)
        with torch.no_grad():
            logits = self.model(x)
        right = logits.argmax(dim=1) == y
        return float(cross_entropy(logits, y)), float(np.mean(right.cpu().numpy()))


def in_dtype(preconditioner: Any, dtype: torch.dtype) -> None:
    """Keep the arrays of a state in a dtype; that of SINGD has one of its own."""
    if hasattr(preconditioner, "stored"):
        return

    def converted(x: Any) -> Any:
        array = isinstance(x, torch.Tensor) and x.ndim and x.is_floating_point()
        return x.to(dtype) if array else x

    preconditioner.load_state_dict(tree_map(converted, preconditioner.state_dict()))


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
        clock = Clock(wait)
        with clock.of_calls(PHASES_OF_CALLS):
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
        training.step(chosen, 0.0, Clock(wait))


def shuffled(digits: Digits, batch: int, rng: np.random.Generator) -> list[Digits]:
    """Return all digits in random order, in batches of which the last may be shorter."""
    order = rng.permutation(len(digits.labels))
    chosen = [order[i : i + batch] for i in range(0, len(order), batch)]
    return [Digits(digits.images[i], digits.labels[i]) for i in chosen]


def tensors(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and classes on the device."""
    images, labels = (torch.as_tensor(part, device=DEVICE) for part in digits)
    return images, labels


def require_finite(loss: float) -> None:
    """Raise where a loss is none."""
    if not math.isfinite(loss):
        msg = "the loss is not finite"
        raise DivergedError(msg)


def wait() -> None:
    """Return once the device has done all it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS, OpenMP and torch to one thread, so that times depend on nothing else."""
    import threadpoolctl

    before = torch.get_num_threads()
    with threadpoolctl.threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
