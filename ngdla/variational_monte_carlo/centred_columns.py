"""Scores of log-derivatives in memory that are centred where a product takes them.

In code that JAX compiles, a centred copy would be memory of the size of S for the whole step. Here
the log-derivatives stay as they are, and a pass centres the columns of a chunk as they enter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ngdla._backend.column_loops import Step, makes_loops, pass_over_columns
from ngdla._backend.dtypes import astype, dtype_name, real_name, result_name
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.pickles import part
from ngdla._backend.pytrees import register_pytree
from ngdla.score_matrices.column_blocks import ColumnBlocks
from ngdla.score_matrices.score_matrix import Vector

from .centred_scores import centred, mean_of
from .weighting import Weighting

__all__ = ["CentredColumns", "centred_columns"]


@part
@register_pytree(static=("form", "name", "stack"))
@dataclasses.dataclass(frozen=True, eq=False)
class CentredColumns(ColumnBlocks):
    """q_i (O_i - mean) diag(scales), of which only the blocks of O are stored."""

    means: Vector  # (..., m_k, 1)
    weighting: Weighting | None
    stack: bool  # imaginary parts below the real ones

    @property
    def rows(self) -> int:
        """Number of rows, 2 n where they are stacked."""
        return (2 if self.stack else 1) * int(self.blocks[0].shape[-2])

    @property
    def wide(self) -> bool:
        """It is only made where this is true."""
        return True

    @property
    def dtype(self) -> str:
        """Name of the dtype of the scores."""
        dtype = super().dtype
        return real_name(dtype) if self.stack else dtype

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Yield spans of rows and these rows of S, (..., r, m)."""
        return self._copied().row_parts(dtype)

    def to_dense(self, dtype: str) -> Array:
        """Return S diag(scales) as one array, for the factorisations that need one."""
        return self._copied().to_dense(dtype)

    def _copied(self) -> ColumnBlocks:
        blocks = tuple(map(self._centred, self.blocks, self.means))
        return ColumnBlocks(blocks, self.scales, self.form, self.name)

    def _centred(self, O: Array, mean: Array) -> Array:
        O = astype(O, result_name(dtype_name(O.dtype)))
        row = namespace(mean).matrix_transpose(mean)
        return centred(O, row, self.weighting, stack=self.stack)

    def _pass(
        self, i: int, dtype: str, step: Step, *vectors: Array | None, copied: bool = False
    ) -> tuple[Any, Any]:
        """Return the sum of the terms of step(S, scale, *vectors), and its rows, of block i."""

        def entering(
            O: Array, mean: Array, scale: Array | None, *parts: Array | None
        ) -> tuple[Any, Any]:
            scale = None if scale is None else astype(scale, real_name(dtype))
            return step(astype(self._centred(O, mean), dtype), scale, *parts)

        scale = None if self.scales is None else self.scales[i]
        block, mean = self.blocks[i], self.means[i]
        return pass_over_columns(block, entering, mean, scale, *vectors, dtype=dtype, copied=True)


def centred_columns(
    given: ColumnBlocks, samples: Weighting | None, *, stack: bool
) -> CentredColumns | None:
    """Return the scores of log-derivatives, or None where they are better copied."""
    n = (2 if stack else 1) * given.rows
    if n >= given.columns or not any(map(makes_loops, given.blocks)):
        return None

    def of_columns(O: Array) -> tuple[None, Array]:
        O = astype(O, result_name(dtype_name(O.dtype)))
        return None, namespace(O).matrix_transpose(mean_of(O, samples))

    copied = samples is not None and samples.kept is not None
    means = tuple(
        pass_over_columns(O, of_columns, dtype=given.dtype, copied=copied)[1] for O in given.blocks
    )
    return CentredColumns(
        blocks=given.blocks,
        scales=given.scales,
        form=given.form,
        name=given.name,
        means=means,
        weighting=samples,
        stack=stack,
    )
