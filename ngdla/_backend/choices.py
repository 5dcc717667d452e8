"""What only a device can decide: ways to one result, of which the first is taken until then.

Nothing here was measured on a GPU yet. `make gpu-evidence` times all ways of each choice; with its
numbers a choice leaves this module, and the slower ways leave the library. What `jax.jit` compiled
keeps the way that it was traced with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CHOICES", "Choice"]


class Choice:
    """Ways to the same result. `way` is the one that is taken."""

    def __init__(self, question: str, *ways: str) -> None:
        self.question, self.ways, self.way = question, ways, ways[0]

    def __repr__(self) -> str:
        return f"Choice({self.question!r}, way={self.way!r})"

    @contextmanager
    def taken(self, way: str) -> Iterator[None]:
        """Take another way for a while, in all threads: for tests and measurements."""
        if way not in self.ways:
            msg = f"`way` is {way!r}; it must be one of {', '.join(self.ways)}."
            raise ValueError(msg)
        before, self.way = self.way, way
        try:
            yield
        finally:
            self.way = before


CHOICES = {
    "gram of cupy": Choice(
        "Gram matrices of CuPy: halves of the rows, one product, syrk, or products of many "
        "ranges of columns, added up",
        "halves",
        "product",
        "syrk",
        "split-k",
    ),
    "gram of torch": Choice(
        "Gram matrices of torch on CUDA: one product, or halves of the rows", "product", "halves"
    ),
    "gram of jax": Choice(
        "Gram matrices of JAX on GPUs: one product, or the symmetric one of real matrices",
        "product",
        "symmetric",
    ),
    "stacks of eigh": Choice(
        "eigh of a stack in CuPy: all at once by Jacobi rotations, or one matrix at a time",
        "at once",
        "one by one",
    ),
    "triangles of cupy": Choice(
        "triangular matrices of CuPy up to 1024 rows: one dense matrix, or products of halves",
        "whole",
        "by halves",
    ),
    "flags": Choice(
        "where a cheap way is often enough: wait for the flag that says so, or go the costly way "
        "without waiting",
        "read",
        "never read",
    ),
}
