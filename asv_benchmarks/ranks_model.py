"""What `damped_lstsq` takes on many ranks, on paper: seconds from rates, without measuring.

Each rank has 1 / P of S, in double precision. The Gram matrix is summed in a ring, and factored on
every rank. Nothing overlaps, so that the parts add up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tables import table

__all__ = ["Rates", "assumptions_table", "collectives", "model_table", "seconds"]

WORD = 8  # bytes


class Rates(NamedTuple):
    """What one rank does in a second, and what a message waits for."""

    gram: float  # operations, of the 2 n^2 m of a whole product
    factor: float  # operations of a Cholesky factorisation
    memory: float  # bytes of S that a product with a vector reads
    sums: float  # bytes that go through a rank in a sum over ranks
    exchange: float  # bytes that a rank sends to the others
    latency: float  # seconds


def seconds(
    n: int, m: int, ranks: int, rates: Rates, *, rows: bool = False, sweeps: int = 1
) -> dict[str, float]:
    """Return the seconds of each part of a solve with n samples and m > n parameters."""
    numbers, others = n * m / ranks, (ranks - 1) / ranks
    return {
        "exchange": rows * others * WORD * numbers / rates.exchange,
        "Gram": 2 * n * numbers / rates.gram,
        "sum": 2 * others * WORD * n**2 / rates.sums,
        "factor": n**3 / 3 / rates.factor,
        "products": (1 + 2 * sweeps) * WORD * numbers / rates.memory,
        "latency": collectives(rows=rows, sweeps=sweeps) * 2 * math.log2(ranks) * rates.latency,
    }


def collectives(*, rows: bool, sweeps: int) -> int:
    """Return how many collectives there are, all but two of a few words, if rows fit in a chunk."""
    return (11 if rows else 7) + 2 * sweeps


class Assumed(NamedTuple):
    """A rate of the hardware, and the part of it that is assumed to be reached."""

    hardware: float
    part: float
    unit: str
    what: str

    @property
    def rate(self) -> float:
        return self.hardware * self.part


GPU = {
    "gram": Assumed(67e12, 0.7, "FLOP/s", "Gram matrix, float64 with tensor cores"),
    "factor": Assumed(67e12, 0.3, "FLOP/s", "Cholesky factorisation"),
    "memory": Assumed(4.8e12, 0.8, "B/s", "products with S, from memory"),
    "sums": Assumed(50e9, 0.8, "B/s", "sum over ranks, 400 Gbit/s for each GPU"),
    "exchange": Assumed(50e9, 0.5, "B/s", "exchange of rows for columns"),
    "latency": Assumed(5e-6, 1.0, "s", "latency of a message"),
}
RANKS = 1024
SIZES = (
    (1024, 10**6),
    (4096, 10**6),
    (4096, 10**8),
    (16384, 10**7),
    (16384, 10**8),
    (32768, 10**8),
)


def rates_of_gpus() -> Rates:
    """Return the rates of one of many GPUs."""
    return Rates(**{name: assumed.rate for name, assumed in GPU.items()})


def assumptions_table() -> str:
    """Return what the table of the model assumes, as Markdown."""
    rows = [["what", "rate", "part of it that is reached"]]
    rows += [[a.what, f"{a.hardware:.3g} {a.unit}", f"{a.part:g}"] for a in GPU.values()]
    return table(rows)


def model_table() -> str:
    """Return milliseconds of the parts of a solve on many GPUs, as Markdown."""
    parts = ["Gram", "sum", "factor", "products", "latency"]
    rows = [["n", "m", *parts, "columns, all", "exchange", "rows, all", "GB of S"]]
    rates = rates_of_gpus()
    for n, m in SIZES:
        columns, by_rows = (seconds(n, m, RANKS, rates, rows=rows) for rows in (False, True))
        times = [columns[part] for part in parts]
        times += [sum(columns.values()), by_rows["exchange"], sum(by_rows.values())]
        cells = [f"{1e3 * time:,.3g}" if time < 1 else f"{1e3 * time:,.0f}" for time in times]
        rows.append([f"{n:,}", f"{m:,}", *cells, f"{WORD * n * m / RANKS / 1e9:.3g}"])
    return table(rows, numbers=True)
