"""Train both networks by every method, and print accuracy and time.

python docs/examples/optimizers            # half a minute
python docs/examples/optimizers --quick    # a few steps of each
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # the folder, run as a program, is no package
    sys.path.insert(0, str(HERE.parent))

from ngdla.adapters.torch_modules import record  # noqa: E402
from optimizers.fngd import FNGD  # noqa: E402
from optimizers.kfac import KFAC  # noqa: E402
from optimizers.natural_gradient import NaturalGradient  # noqa: E402
from optimizers.singd import SINGD  # noqa: E402
from optimizers.tasks import TASKS, Task  # noqa: E402

__all__ = ["METHODS", "Method", "main", "trained"]

BATCH = 64
HIERARCHICAL = ("hierarchical", {"k1": 5, "k2": 5})


class Method(NamedTuple):
    """How a method is made, from what the loss is, and its learning rate for each task."""

    make: Callable[[str], Any]
    lr: dict[str, float]
    skip: tuple[Any, ...] = (torch.nn.Embedding,)
    mean_gradient: bool = True
    """Whether it needs the gradients that ``loss.backward()`` forms."""


METHODS = {
    "SGD": Method(lambda loss: None, {"digits": 0.1, "copies": 0.3}),
    "KFAC": Method(lambda loss: KFAC(1e-2, loss=loss), {"digits": 0.03, "copies": 0.03}, ()),
    "KFAC, rank 8": Method(
        lambda loss: KFAC(1e-2, rank=8, loss=loss), {"digits": 0.1, "copies": 0.03}, ()
    ),
    "INGD": Method(lambda loss: SINGD(1e-2, loss=loss), {"digits": 0.1, "copies": 0.1}),
    "IKFAC": Method(
        lambda loss: SINGD(0.1, rule="ikfac", loss=loss), {"digits": 0.1, "copies": 0.1}
    ),
    "SINGD": Method(
        lambda loss: SINGD(1e-2, structures=(HIERARCHICAL, HIERARCHICAL), loss=loss),
        {"digits": 0.03, "copies": 0.1},
    ),
    "FNGD": Method(
        lambda loss: FNGD(5e-3, loss=loss), {"digits": 0.3, "copies": 0.1}, mean_gradient=False
    ),
    "natural gradient": Method(
        lambda loss: NaturalGradient(0.1, loss=loss),
        {"digits": 0.03, "copies": 0.3},
        mean_gradient=False,
    ),
}


def trained(task: Task, method: Method, lr: float, steps: int) -> list[float]:
    """Train a network for some steps and return its losses."""
    losses, seed, preconditioner = [], 0, method.make(task.loss)
    sgd = torch.optim.SGD(task.model.parameters(), lr=lr, momentum=0.9)
    while True:
        for x, y in task.batches(BATCH, seed):
            if len(losses) == steps:
                return losses
            sgd.zero_grad()
            with record(task.model, skip=method.skip) as layers:
                loss = task.loss_of(x, y)
                (torch.Tensor.backward if method.mean_gradient else layers.backward)(loss)
            if preconditioner is not None:
                preconditioner.precondition(layers, lr)
            sgd.step()
            losses.append(float(loss.detach()))
        seed += 1


def main(arguments: list[str] | None = None) -> int:
    """Train, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few steps of each method")
    steps = 10 if parser.parse_args(arguments).quick else 60
    torch.set_num_threads(1)
    print(f"{'task':8} {'method':18} {'loss':>8} {'accuracy':>9} {'seconds':>8}")
    for name, make in TASKS.items():
        for label, method in METHODS.items():
            task, begin = make(), time.perf_counter()
            losses = trained(task, method, method.lr[name], steps)
            seconds = time.perf_counter() - begin
            loss = sum(losses[-5:]) / 5
            print(f"{name:8} {label:18} {loss:8.3f} {task.accuracy():9.3f} {seconds:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
