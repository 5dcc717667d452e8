"""Optimisers of docs/examples for torch modules behind DistributedDataParallel."""

import copy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SAMPLES, STEPS = 16, 5


def trained(torch, model, inner, method, batches):
    """Return the parameters after some steps on batches, of the module that is recorded."""
    from ngdla.adapters.torch_modules import record

    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in batches:
        sgd.zero_grad()
        with record(inner, skip=[torch.nn.Embedding]) as layers:
            torch.nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        method.precondition(layers, 0.1)
        sgd.step()
    return [p.detach() for p in inner.parameters()]


def case_data_parallel_optimizers(comm, xp):
    torch = pytest.importorskip("torch")
    sys.path.append(str(EXAMPLES))
    from optimizers.kfac import KFAC
    from optimizers.singd import SINGD
    from optimizers.tasks import copies

    task = copies(dtype=torch.float64, tokens=5, length=6, width=8)
    x, y = (part[: SAMPLES * STEPS] for part in task.train)
    whole = list(zip(x.split(SAMPLES), y.split(SAMPLES), strict=True))
    own = [tuple(part.chunk(comm.size)[comm.rank] for part in batch) for batch in whole]
    for make in (
        lambda **options: KFAC(1e-2, refresh=2, loss="token-mean", **options),
        lambda **options: SINGD(1e-2, momentum=0.5, refresh=2, loss="token-mean", **options),
    ):
        alone, inner = copy.deepcopy(task.model), copy.deepcopy(task.model)
        parallel = torch.nn.parallel.DistributedDataParallel(inner)
        expected = trained(torch, alone, alone, make(), whole)
        found = trained(torch, parallel, inner, make(communicator=comm), own)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


case_data_parallel_optimizers.engines = ("gloo",)
case_data_parallel_optimizers.sizes = (2,)
