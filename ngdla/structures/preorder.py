"""Reflexive and transitive relations of indices: the patterns of zeros that products keep.

The relation is held as one Python integer a row, whose bit j tells whether entry (i, j) may differ
from zero.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ngdla._backend.pickles import part

__all__ = ["Preorder"]


@part
@dataclasses.dataclass(frozen=True)
class Preorder:
    """A checked relation.

    Attributes
    ----------
    rows : tuple of int
        Bit j of rows[i] is set where i is related to j.
    """

    rows: tuple[int, ...]

    @classmethod
    def of(cls, mask: Any) -> Preorder:
        """Return the relation of a square table of truth values, or say why it is none."""
        try:
            table = mask.tolist() if hasattr(mask, "tolist") else mask
        except (RuntimeError, TypeError):  # of a tensor that is sparse, nested or of no values
            table = ()
        d = len(table) if isinstance(table, Sequence) else 0
        if not d or any(not isinstance(row, Sequence) or len(row) != d for row in table):
            msg = "`mask` must be a square array of booleans, d x d with d >= 1."
            raise ValueError(msg)
        entries = [entry for row in table for entry in row]
        if any(getattr(entry, "ndim", 0) or entry not in (0, 1) for entry in entries):
            msg = "`mask` must hold booleans, or zeros and ones."
            raise ValueError(msg)
        relation = cls(tuple(sum(1 << j for j, entry in enumerate(row) if entry) for row in table))
        relation._require_closed()
        return relation

    def _require_closed(self) -> None:
        for i, row in enumerate(self.rows):
            if not row >> i & 1:
                msg = (
                    f"`mask` is not closed: ({i}, {i}) is missing; it must hold the whole diagonal."
                )
                raise ValueError(msg)
        for i, row in enumerate(self.rows):
            for middle in _bits(row):
                if missing := self.rows[middle] & ~row:
                    j = next(_bits(missing))
                    msg = (
                        f"`mask` is not closed: it holds ({i}, {middle}) and ({middle}, {j}), so "
                        f"that products have an entry at ({i}, {j}), which it must hold too."
                    )
                    raise ValueError(msg)

    @property
    def size(self) -> int:
        """Number of indices."""
        return len(self.rows)

    @property
    def pattern(self) -> list[list[float]]:
        """1 where an entry may differ from zero."""
        d = self.size
        return [[float(row >> j & 1) for j in range(d)] for row in self.rows]

    @property
    def weights(self) -> list[list[float]]:
        """1 where indices are related both ways, 2 where one way, 0 elsewhere."""
        here, d = self.pattern, self.size
        return [[here[i][j] * (2 - here[j][i]) for j in range(d)] for i in range(d)]

    @property
    def groups(self) -> list[list[int]]:
        """Indices that are related both ways: they have the same rows."""
        groups = defaultdict(list)
        for i, row in enumerate(self.rows):
            groups[row].append(i)
        return list(groups.values())

    @property
    def is_total(self) -> bool:
        """Whether all indices are related one way or the other."""
        d = self.size
        return all(
            self.rows[i] >> j & 1 or self.rows[j] >> i & 1 for i in range(d) for j in range(i)
        )

    @property
    def order(self) -> list[int]:
        """The indices in an order in which a total relation is block upper triangular."""
        return sorted(range(self.size), key=lambda i: -self.rows[i].bit_count())

    def support(self, j: int) -> list[int]:
        """Return the rows in which column j may differ from zero."""
        return [i for i, row in enumerate(self.rows) if row >> j & 1]


def _bits(x: int) -> Any:
    """Yield the positions of the bits that are set, in ascending order."""
    while x:
        lowest = x & -x
        yield lowest.bit_length() - 1
        x ^= lowest
