"""What a question is asked about, and what an answer holds."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Answer", "Sizes"]


class Sizes(NamedTuple):
    """How large the problems are."""

    gram: tuple[tuple[int, int], ...]
    leaves: tuple[int, ...]
    stack: int
    stacked: tuple[int, ...]
    tall: tuple[int, int]
    factored: tuple[int, ...]
    solved: tuple[tuple[int, int], ...]
    decomposed: tuple[int, ...]
    layers: tuple[int, int]  # how many, of which size
    rank: int


class Answer(NamedTuple):
    """One sentence, and the numbers behind it."""

    sentence: str
    numbers: list[dict[str, Any]]
