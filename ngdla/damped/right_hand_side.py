"""Right-hand sides and solutions: as callers write them, and as the algebra uses them.

Callers pass v, f and x0 with or without a trailing axis of k right-hand sides, real or complex,
as one array or as a list with one piece a column block. Inside, a vector with the n axis is an
array (..., n, k), one with the m axis a tuple of pieces (..., m_k, k), all in one dtype; for real
S a complex right-hand side is two real ones, [Re, Im], side by side.
"""

from __future__ import annotations

import dataclasses
from functools import reduce
from typing import Any

from ngdla._backend.checks import require_columns
from ngdla._backend.chunks import chunked_like
from ngdla._backend.dtypes import astype, double_name, is_complex, real_name
from ngdla._backend.namespace import Array, namespace
from ngdla.score_matrices.score_matrix import ScoreMatrix, Vector

__all__ = ["Layout", "column_norms", "parameter_vector", "sample_vector"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a solution is handed back, and in which dtype the work is done."""

    vector: bool  # one right-hand side without the k axis
    dtype: str  # of the result
    paired: bool  # real S, complex right-hand side
    sequence: str | None
    double: bool = False  # work in double precision, whatever the result has

    @property
    def rounded(self) -> str:
        """Dtype of the work but for `double`: real where complex columns are split into pairs."""
        return real_name(self.dtype) if self.paired else self.dtype

    @property
    def working(self) -> str:
        """Dtype of the work."""
        return double_name(self.rounded) if self.double else self.rounded

    def enter(self, x: Array) -> Array:
        """Return (..., m or n, k) in the working dtype, split into pairs where needed."""
        if not self.paired:
            return astype(x, self.working)
        xp = namespace(x)
        if is_complex(x):
            parts = [xp.real(x), xp.imag(x)]
        else:
            parts = [x, xp.zeros_like(x)]
        return astype(xp.concat(parts, axis=-1), self.working)

    def leave(self, x: Vector) -> Any:
        """Return a solution in `rounded` in the form in which the right-hand side came."""
        pieces = [self._joined(piece) for piece in x]
        if self.sequence is None:
            return pieces[0]
        return pieces if self.sequence == "list" else tuple(pieces)

    def _joined(self, piece: Array) -> Array:
        xp = namespace(piece)
        if self.paired:
            k = piece.shape[-1] // 2
            real, imag = (astype(part, self.dtype) for part in (piece[..., :k], piece[..., k:]))
            piece = real + 1j * imag
        return xp.squeeze(piece, axis=-1) if self.vector else piece

    def norm(self, x: Array | Vector) -> Array:
        """Return the 2-norms, (...) or (..., k), of the right-hand sides or solutions in x."""
        norms = column_norms(x if isinstance(x, tuple) else (x,))
        xp = namespace(norms)
        if self.paired:
            k = norms.shape[-1] // 2
            norms = xp.hypot(norms[..., :k], norms[..., k:])
        return xp.squeeze(norms, axis=-1) if self.vector else norms


def parameter_vector(scores: ScoreMatrix, v: Any, name: str) -> tuple[Vector, bool]:
    """Check a vector with the m axis; return its pieces (..., m_k, k) and whether k was absent."""
    if scores.sequence is None:
        piece, vector = _parameter_piece(scores, v, name, 0)
        return (piece,), vector
    count = len(scores.pieces)
    if not isinstance(v, (list, tuple)):
        msg = (
            f"`{name}` is a {type(v).__name__}; `{scores.name}` is a {scores.sequence} of {count} "
            f"column blocks, so `{name}` must be a list or tuple of {count} pieces."
        )
        raise TypeError(msg)
    if len(v) != count:
        msg = f"`{name}` has {len(v)} pieces but `{scores.name}` has {count} column blocks."
        raise ValueError(msg)
    pieces, vectors = zip(
        *(_parameter_piece(scores, piece, f"{name}[{i}]", i) for i, piece in enumerate(v))
    )
    if len({(piece.shape[-1], vector) for piece, vector in zip(pieces, vectors)}) > 1:
        shapes = [tuple(piece.shape) for piece in v]
        msg = f"the pieces of `{name}` have shapes {shapes}; their numbers of columns must agree."
        raise ValueError(msg)
    return pieces, vectors[0]


def _parameter_piece(scores: ScoreMatrix, v: Any, name: str, i: int) -> tuple[Array, bool]:
    S_name, block, columns = scores.pieces[i]
    v, vector = _columns(v, name, scores, S_name, columns, columns)
    return v if block is None else chunked_like(v, block, -1), vector


def sample_vector(scores: ScoreMatrix, f: Any, name: str) -> tuple[Array, bool]:
    """Check a vector with the n axis; return it as (..., n, k), and whether k was absent."""
    S_name, block, columns = scores.pieces[0]
    f, vector = _columns(f, name, scores, S_name, columns, scores.rows)
    return f if block is None else chunked_like(f, block, -2), vector


def _columns(
    v: Any, name: str, scores: ScoreMatrix, S_name: str, columns: int, length: int
) -> tuple[Array, bool]:
    """Return a checked vector (..., length) or (..., length, k) as (..., length, k)."""
    shape = (*scores.batch, scores.rows, columns)
    return require_columns(v, name, (*scores.batch, length), scores.like, S_name, shape)


def column_norms(x: Vector) -> Array:
    """Return the 2-norms, (..., k), of the columns of a vector in pieces."""
    return reduce(namespace(x[0]).hypot, (_norms(piece) for piece in x))


def _norms(x: Array) -> Array:
    """Return the 2-norms of the columns, scaled so that squares do not overflow."""
    xp = namespace(x)
    largest = xp.max(xp.abs(x), axis=-2, keepdims=True)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    return xp.squeeze(scale, axis=-2) * xp.linalg.vector_norm(x / scale, axis=-2)
