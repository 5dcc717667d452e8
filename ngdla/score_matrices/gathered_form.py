"""Vectors with the m axis that callers have as a whole, while each rank works on its columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ngdla._backend.checks import require_array
from ngdla._backend.dtypes import astype, dtype_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.ranks import TracedRanks
from ngdla._backend.shapes import joined

from .exchange import rows_of, whole
from .parameter_forms import ParameterForm

__all__ = ["GatheredForm"]


@dataclasses.dataclass(frozen=True)
class GatheredForm(ParameterForm):
    """The whole vector in the form that it has where nothing is shared."""

    form: ParameterForm
    widths: tuple[int, ...]  # of its pieces
    ranks: TracedRanks
    shares: tuple[int, ...]  # columns of each rank

    def taken_apart(self, v: Any, name: str, scores: str) -> Sequence[Any]:
        """Return the entries of this rank's columns, (..., m_k), as one piece."""
        parts = self.form.taken_apart(v, name, scores)
        for i, (part, width) in enumerate(zip(parts, self.widths)):
            own = name + self.form.label(i)
            require_array(part, own)
            if part.ndim == 0 or part.shape[-1] != width:
                msg = (
                    f"`{own}` has shape {tuple(part.shape)}; it must be the whole step, with "
                    f"{width} entries, or this rank's part of it with gathered=False."
                )
                raise ValueError(msg)
        xp, whole_vector = namespace(parts[0]), joined(list(parts), axis=-1)
        self.ranks.note_data(name, _sums(whole_vector), solved=True)
        column = xp.expand_dims(whole_vector, axis=-1)
        return (xp.squeeze(rows_of(self.ranks, column, self.shares), axis=-1),)

    def put_together(self, pieces: Sequence[Array]) -> Any:
        """Return the whole vector on every rank."""
        (piece,), xp = pieces, namespace(pieces[0])
        all_columns = whole(self.ranks, xp.expand_dims(piece, axis=-1), self.shares)
        vector, parts, start = xp.squeeze(all_columns, axis=-1), [], 0
        for width in self.widths:
            parts.append(vector[..., start : start + width])
            start += width
        return self.form.put_together(parts)

    def matrix(self, blocks: Sequence[Array]) -> Any:
        """Return the columns of this rank."""
        return blocks[0]


def _sums(x: Array) -> Array:
    """Return two numbers that differ where long vectors do; the vectors stay on their device."""
    xp = namespace(x)
    return xp.stack([xp.sum(x), astype(xp.sum(xp.abs(x)), dtype_name(x.dtype))])
