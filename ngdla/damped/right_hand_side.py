"""Right-hand sides and solutions: as callers write them, and as the algebra uses them.

Callers pass v, f and x0 with or without a trailing axis of k right-hand sides, real or complex,
in one array or in another form (`parameter_forms.py`). Inside, a vector with the n axis is an
array (..., n, k), one with the m axis a tuple of pieces (..., m_k, k), all in one dtype; for real
S a complex right-hand side is two real ones, [Re, Im], side by side.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from ngdla._backend.checks import require_columns
from ngdla._backend.chunks import chunked_like
from ngdla._backend.dtypes import (
    astype,
    double_name,
    dtype_name,
    is_complex,
    is_double,
    real_name,
    result_name,
    unit_roundoff,
)
from ngdla._backend.fused import in_one_kernel
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import inner_columns, plain_norms, scaled_norms, squares_and_distances
from ngdla._backend.ranks import ALONE, Alone
from ngdla._backend.scalars import as_float
from ngdla._backend.shapes import expanded
from ngdla.score_matrices.parameter_forms import ONE_ARRAY, ParameterForm, is_one_number
from ngdla.score_matrices.score_matrix import Piece, ScoreMatrix, Vector

__all__ = [
    "Layout",
    "LeastSquares",
    "RightHandSide",
    "Solve",
    "column_norms",
    "diagonal",
    "parameter_vector",
    "sample_vector",
]


class Layout(NamedTuple):
    """How a solution is handed back, and in which dtype the work is done."""

    vector: bool  # one right-hand side without the k axis
    paired: bool  # real S, complex right-hand side
    form: ParameterForm
    dtype: str  # of the result
    rounded: str  # of solutions before they are handed back: real where columns are pairs
    working: str  # of the work: `rounded`, or that in double precision
    roomy: bool = False  # numbers of `working` that come from single precision: squares fit
    ranks: Alone = ALONE  # that have pieces of vectors with the m axis

    def doubled(self, *, single: bool) -> Layout:
        """Return the layout for work in double precision, whatever the result has.

        `single` says that nothing but what has the dtype of the result came in another one.
        """
        roomy = single and not is_double(self.rounded)
        return self._replace(working=double_name(self.rounded), roomy=roomy)

    def to_columns(self, x: Array) -> Array:
        """Return (..., m or n, k) in the working dtype, split into pairs where needed."""
        if not self.paired:
            return astype(x, self.working)
        xp = namespace(x)
        if is_complex(x):
            parts = [xp.real(x), xp.imag(x)]
        else:
            parts = [x, xp.zeros_like(x)]
        return astype(xp.concat(parts, axis=-1), self.working)

    def from_columns(self, x: Vector) -> Any:
        """Return a solution in `rounded` in the form in which the right-hand side came."""
        if self.form is ONE_ARRAY:
            return self._joined(x[0])
        return self.form.put_together([self._joined(piece) for piece in x])

    def _joined(self, piece: Array) -> Array:
        if self.paired:
            k = piece.shape[-1] // 2
            real, imag = (astype(part, self.dtype) for part in (piece[..., :k], piece[..., k:]))
            piece = real + 1j * imag
        return piece[..., 0] if self.vector else piece

    def per_column(self, x: Any) -> Any:
        """Return numbers (...) beside columns: (..., 1) where solutions have k of them."""
        return expanded(x, 0 if self.vector else 1)

    # A tuple of pieces has the m axis, and its norms are sums over all ranks that have pieces; an
    # array has the n axis, which every rank has as a whole.

    def norm(self, x: Array | Vector) -> Array:
        """Return the 2-norms, (...) or (..., k), of the right-hand sides or solutions in x."""
        return self.without_k(self.lengths(x))

    def lengths(self, x: Array | Vector) -> Array:
        """Return |x| of each right-hand side, (..., k)."""
        norms = self.column_norms(x)
        return self.merged(norms, namespace(norms).hypot)

    def column_norms(self, x: Array | Vector) -> Array:
        """Return the 2-norms, (..., k), of all columns."""
        if not isinstance(x, tuple):
            return plain_norms((x,)) if self.roomy else column_norms((x,))
        norms = plain_norms(x) if self.roomy else column_norms(x)
        return self.ranks.merged(norms, namespace(norms).hypot)

    def squares(self, x: Array | Vector) -> Array:
        """Return |x|^2 of each right-hand side, (..., k), of numbers whose squares are normal."""
        if not isinstance(x, tuple):
            squares = inner_columns(x, x)
        else:
            squares = reduce(add, map(inner_columns, x, x))
            squares = squares if self.ranks is ALONE else self.ranks.merged(squares, add)
        return squares if not self.paired else self.merged(squares, add)

    def squares_and_distances(self, x: Vector, y: Vector) -> tuple[Array, Array]:
        """Return |x|^2 and |x - y|^2, as `squares` does."""
        if len(x) == 1 and not self.paired and self.ranks is ALONE:
            return squares_and_distances(x[0], y[0])
        sums = (reduce(add, parts) for parts in zip(*map(squares_and_distances, x, y)))
        both = (self.ranks.merged(s, add) for s in sums)
        squares, distances = (self.merged(s, add) if self.paired else s for s in both)
        return squares, distances

    def merged(self, x: Array, merge: Callable[[Array, Array], Array]) -> Array:
        """Return one value, (..., k), for each right-hand side from those of all columns."""
        if not self.paired:
            return x
        k = x.shape[-1] // 2
        return merge(x[..., :k], x[..., k:])

    def of_columns(self, x: Array) -> Array:
        """Return numbers of columns, (..., 1, k), beside right-hand sides: (...) or (..., k)."""
        x = namespace(x).squeeze(x, axis=-2)
        return self.without_k(x[..., : x.shape[-1] // 2] if self.paired else x)

    def without_k(self, x: Array) -> Array:
        """Return values (..., k) as (...) where the caller gave one right-hand side."""
        return namespace(x).squeeze(x, axis=-1) if self.vector else x


def _layout(scores: ScoreMatrix, vector: bool, arrays: Vector) -> Layout:
    dtype = own = scores.dtype
    for x in arrays:
        dtype = result_name(dtype, dtype_name(x.dtype))
    paired = dtype.startswith("complex") and not own.startswith("complex")
    rounded = real_name(dtype) if paired else dtype
    ranks = scores.across_columns
    return Layout(vector, paired, scores.form, dtype, rounded, rounded, ranks=ranks)


# -------------------------------------------------------------------------- what is solved


class Solve(NamedTuple):
    """(S^H S + damping) x = v."""

    v: Vector
    vector: bool
    whole: tuple[Vector, Array] | None = None  # v before it was divided by a unit, and that

    @classmethod
    def checked(cls, scores: ScoreMatrix, v: Any) -> Solve:
        """Check the caller's v."""
        return cls(*parameter_vector(scores, v, "v"))

    @property
    def x0(self) -> None:
        """None, for 0: a solve is no step from elsewhere."""
        return None

    def named(self) -> tuple[tuple[str, Vector], ...]:
        """Return the arrays of each argument, with its name."""
        return (("v", self.v),)

    def layout(self, scores: ScoreMatrix) -> Layout:
        """Return how to work and how to hand back the solution."""
        return _layout(scores, self.vector, self.v)

    def to_columns(self, scores: ScoreMatrix, layout: Layout) -> Solve:
        """Return D^-1/2 v in the layout of the work."""
        return Solve(scores.scaled(tuple(map(layout.to_columns, self.v))), self.vector)

    def over(self, unit: Array) -> Solve:
        """Return the problem whose solution is that of this one over `unit`, (..., 1, k)."""
        return Solve(_over(self.v, unit), self.vector, (self.v, unit))

    def unit_roundoff(self) -> float:
        """Return that of the dtype in which v came, the largest of its pieces."""
        return max(unit_roundoff(dtype_name(piece.dtype)) for piece in self.v)

    def start(self, damping: Any) -> Vector:
        """Return v / damping, from which a solve in the sample space starts.

        v over its unit is about as small as the damping, and parts of it may be too small.
        """
        v, divisor = self.v, expanded(damping, 2)
        if self.whole is not None:
            v, unit = self.whole
            divisor = divisor * unit
        return tuple(piece / divisor for piece in v)

    def misfit(self, Sx: Array | None) -> Array:
        """Return f - S x, where f = 0."""
        assert Sx is not None
        return -Sx

    def residual(self, Sx: Array, damping: Any, y: Array) -> Array:
        """Return f - S x - damping y, where f = 0."""
        return in_one_kernel(_minus_both, Sx, damping, y)

    def data_gradient(
        self, scores: ScoreMatrix, x: Vector | None
    ) -> tuple[Vector | None, Array | None]:
        """Return S^H (0 - S x) and S x, both None for 0."""
        return (None, None) if x is None else scores.parameters.gradient(None, x)

    def gradient(self, g: Vector | None, x: Vector | None, damping: Any) -> Vector:
        """Return g + v - damping x for the data gradient g."""
        r = self.v if g is None else tuple(a + b for a, b in zip(g, self.v))
        return r if x is None else tuple(a - damping * b for a, b in zip(r, x))

    def norms(self, layout: Layout, damping: Any) -> tuple[Any, Any]:
        """Return |f|, which is 0, and the size |v| / damping of what the iteration starts from."""
        if self.whole is None:
            return 0.0, layout.norm(self.v) / damping
        v, unit = self.whole
        return 0.0, layout.norm(v) / (layout.of_columns(unit) * damping)


class LeastSquares(NamedTuple):
    """min |S x - f|^2 + damping |x - x0|^2."""

    f: Array
    x0: Vector | None  # None for 0
    vector: bool
    names: tuple[str, str] = ("f", "x0")

    @classmethod
    def checked(cls, scores: ScoreMatrix, f: Any, x0: Any) -> LeastSquares:
        """Check the caller's f and x0."""
        columns, vector = sample_vector(scores, f, "f")
        if x0 is None:
            return cls(columns, None, vector)
        pieces, same = parameter_vector(scores, x0, "x0")
        if same != vector or pieces[0].shape[-1] != columns.shape[-1]:
            msg = (
                f"`x0` and `f` differ in their numbers of right-hand sides: `f` has shape "
                f"{tuple(f.shape)}, so `x0` must have {'no' if vector else columns.shape[-1]} "
                f"columns."
            )
            raise ValueError(msg)
        return cls(columns, pieces, vector)

    def named(self) -> tuple[tuple[str, Vector], ...]:
        """Return the arrays of each argument that is there, with its name."""
        f = (self.names[0], (self.f,))
        return (f,) if self.x0 is None else (f, (self.names[1], self.x0))

    def layout(self, scores: ScoreMatrix) -> Layout:
        """Return how to work and how to hand back the solution."""
        return _layout(scores, self.vector, (self.f, *(self.x0 or ())))

    def to_columns(self, scores: ScoreMatrix, layout: Layout) -> LeastSquares:
        """Return f and D^1/2 x0 in the layout of the work."""
        x0 = self.x0
        if x0 is not None:
            x0 = scores.unscaled(tuple(map(layout.to_columns, x0)))
        return LeastSquares(layout.to_columns(self.f), x0, self.vector, self.names)

    def over(self, unit: Array) -> LeastSquares:
        """Return the problem whose solution is that of this one over `unit`, (..., 1, k)."""
        x0 = None if self.x0 is None else _over(self.x0, unit)
        return self._replace(f=self.f / unit, x0=x0)

    def start(self, damping: Any) -> Vector | None:
        """Return x0."""
        return self.x0

    def misfit(self, Sx: Array | None) -> Array:
        """Return f - S x."""
        return self.f if Sx is None else self.f - Sx

    def residual(self, Sx: Array, damping: Any, y: Array) -> Array:
        """Return f - S x - damping y."""
        return in_one_kernel(_less_both, self.f, Sx, damping, y)

    def data_gradient(
        self, scores: ScoreMatrix, x: Vector | None
    ) -> tuple[Vector | None, Array | None]:
        """Return S^H (f - S x) and S x, which is None for 0."""
        return scores.parameters.gradient(self.f, x)

    def gradient(self, g: Vector | None, x: Vector | None, damping: Any) -> Vector:
        """Return g + damping (x0 - x) for the data gradient g."""
        assert g is not None
        if x is None or x is self.x0:
            return g
        if self.x0 is None:
            return tuple(a - damping * b for a, b in zip(g, x))
        return tuple(a + damping * (b - c) for a, b, c in zip(g, self.x0, x))

    def norms(self, layout: Layout, damping: Any) -> tuple[Any, Any]:
        """Return |f| and |x0|."""
        return layout.norm(self.f), 0.0 if self.x0 is None else layout.norm(self.x0)


RightHandSide = Solve | LeastSquares


def _minus_both(xp: Any, Sx: Array, damping: Any, y: Array) -> Array:
    return -Sx - damping * y


def _less_both(xp: Any, f: Array, Sx: Array, damping: Any, y: Array) -> Array:
    return f - Sx - damping * y


def _over(x: Vector, unit: Array) -> Vector:
    return tuple(piece / unit for piece in x)


# ------------------------------------------------------------------------ callers' vectors


def parameter_vector(scores: ScoreMatrix, v: Any, name: str) -> tuple[Vector, bool]:
    """Check a vector with the m axis; return its pieces (..., m_k, k) and whether k was absent."""
    return _in_pieces(scores, scores.form.taken_apart(v, name, scores.name), name)


def diagonal(scores: ScoreMatrix, d: Any, name: str, real: str) -> tuple[Vector, bool]:
    """Check a diagonal with the m axis, as `parameter_vector` does.

    A number stands for a whole column block, where there are several.
    """
    parts = scores.form.weights_apart(d, name, scores.name)
    if not is_one_number(d):
        pairs = zip(parts, scores.pieces)
        parts = [_filled(part, piece.block, real) for part, piece in pairs]
    return _in_pieces(scores, parts, name)


def _filled(d: Any, block: Array | None, real: str) -> Any:
    """Return a row of one number for the columns of a block; arrays as they are."""
    if block is None or not is_one_number(d) or isinstance(d, bool):
        return d
    if not isinstance(d, numbers.Real):
        return namespace(d).broadcast_to(d, block[0, :].shape)
    xp = namespace(block)
    return xp.full_like(block[0, :], as_float(d), dtype=getattr(xp, real))


def _in_pieces(scores: ScoreMatrix, parts: Sequence[Any], name: str) -> tuple[Vector, bool]:
    checked = [
        _parameter_piece(scores, piece, part, name + scores.form.label(i))
        for i, (piece, part) in enumerate(zip(scores.pieces, parts))
    ]
    pieces, vectors = zip(*checked)
    if len(set(vectors)) > 1 or len({piece.shape[-1] for piece in pieces}) > 1:
        shapes = [tuple(part.shape) for part in parts]
        msg = f"the pieces of `{name}` have shapes {shapes}; their numbers of columns must agree."
        raise ValueError(msg)
    if scores.ranks is not ALONE and scores.across_columns is ALONE:
        for piece in pieces:
            scores.ranks.note_data(name, piece, solved=True)
    return pieces, vectors[0]


def _parameter_piece(scores: ScoreMatrix, piece: Piece, v: Any, name: str) -> tuple[Array, bool]:
    own, block, columns = piece
    shape = (*scores.batch, scores.rows, columns)
    v, vector = require_columns(v, name, (*scores.batch, columns), scores.like, own, shape)
    return v if block is None else chunked_like(v, block, -1), vector


def sample_vector(scores: ScoreMatrix, f: Any, name: str) -> tuple[Array, bool]:
    """Check a vector with the n axis; return it as (..., n, k), and whether k was absent."""
    S_name, block, columns = scores.pieces[0]
    shape = (*scores.batch, scores.given_rows, columns)
    f, vector = require_columns(f, name, shape[:-1], scores.like, S_name, shape)
    if scores.ranks is not ALONE:
        f = scores.all_samples(f, name)
    return f if block is None else chunked_like(f, block, -2), vector


def column_norms(x: Vector) -> Array:
    """Return the 2-norms, (..., k), of the columns of a vector in pieces."""
    return reduce(namespace(x[0]).hypot, (scaled_norms(piece) for piece in x))
