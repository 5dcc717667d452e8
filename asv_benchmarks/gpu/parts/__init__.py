"""The parts of `make gpu-evidence`, in their order, each with its time: the most evidence first.

Parts of one stage run at the same time, in processes of their own: what is not timed there. A stage
may use what earlier ones have left of their seconds; none takes those of a later one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SECONDS", "STAGES", "Part", "Stage", "part"]

SECONDS = 540  # of all stages: a command on a lent machine often ends after ten minutes


class Part(NamedTuple):
    """What runs in one process."""

    name: str
    function: str  # "module.function" of this package
    library: str  # the engine that is handed to the function; "" for none
    what: str


class Stage(NamedTuple):
    """Parts that run together, and the seconds that they have."""

    seconds: int
    parts: tuple[Part, ...]


def _each(name: str, function: str, libraries: str, what: str) -> tuple[Part, ...]:
    return tuple(Part(f"{name}, {one}", function, one, what) for one in libraries.split())


_CALLS = "each public function against NumPy: four dtypes, stacks, column slices, Fortran order"
_GRAM = "ways to a Gram matrix, over the rate of a large product"
_SOLVES = "damped solves beside the formula by hand, refined to the same error"
_CHOICES = "each choice that only a device can make, in all its ways"

STAGES = (
    Stage(40, (Part("facts", "facts.facts", "", "versions, and what the card can do"),)),
    Stage(
        45,
        (
            *_each(
                "public functions", "public_functions.public_functions", "cupy torch jax", _CALLS
            ),
            Part("pinned buffers", "faults.pinned_buffers", "cupy", "streams against the array"),
            Part(
                "failures", "faults.failures", "cupy", "NaN and indefinite matrices: what is left"
            ),
        ),
    ),
    Stage(40, _each("gram", "gram.gram_ways", "cupy", _GRAM)),
    Stage(45, _each("choices", "choices.choices", "cupy", _CHOICES)),
    Stage(20, (Part("tiny solves", "tiny_solves.tiny_solves", "", "the host's share of them"),)),
    Stage(
        25, _each("streams", "streams.streams", "cupy", "a stream of 4 GB, and rates of copying")
    ),
    Stage(30, _each("solves", "solves.solves", "cupy", _SOLVES)),
    Stage(20, _each("solves", "solves.solves", "torch", _SOLVES)),
    Stage(25, _each("solves", "solves.solves", "jax", _SOLVES)),
    Stage(60, (Part("capabilities", "suite.capabilities", "", "the table of what works where"),)),
    Stage(140, (Part("tests", "suite.tests", "", "the tests that run on CuPy"),)),
    Stage(10, _each("gram", "gram.gram_ways", "torch", _GRAM)),
    Stage(12, _each("choices", "choices.choices", "torch", _CHOICES)),
    Stage(12, _each("choices", "choices.choices", "jax", _CHOICES)),
    Stage(
        16, (Part("benchmark", "benchmark.benchmark", "", "more rows and questions of gpu-bench"),)
    ),
)


def part(name: str) -> Part:
    """Return the part of this name."""
    return next(one for stage in STAGES for one in stage.parts if one.name == name)
