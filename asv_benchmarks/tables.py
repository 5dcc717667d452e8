"""Markdown tables, whatever their cells hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["row", "table"]


def table(rows: Sequence[Sequence[object]], *, numbers: bool = False) -> str:
    """Return rows of cells as a Markdown table, the first being its head.

    With `numbers` all columns but the first are set to the right.
    """
    head, *others = rows
    rule = ["---", *["--:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join([row(head), f"| {' | '.join(rule)} |", *map(row, others)])


def row(cells: Iterable[object]) -> str:
    """Return one row. A bar in a cell would end it, also within code, and a line break the row."""
    texts = (re.sub(r"[\r\n]+", " ", re.sub(r"\\*\|", r"\\|", str(cell))) for cell in cells)
    return f"| {' | '.join(texts)} |"
