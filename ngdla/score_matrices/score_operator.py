"""Scores that are never stored: functions that multiply by S and S^H, perhaps a Gram matrix."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

from ngdla._backend.calls import all_finite
from ngdla._backend.checks import require_array, require_flag, require_like
from ngdla._backend.dtypes import astype, dtype_name, is_complex, is_double, result_name
from ngdla._backend.messages import shown
from ngdla._backend.namespace import Array, namespace
from ngdla._backend.norms import frobenius_norm
from ngdla._backend.products import adjoint as adjoint_of
from ngdla._backend.products import preserved, rmatvec

from .parameter_forms import ONE_ARRAY
from .score_matrix import ParameterScores, SampleScores, Vector

__all__ = ["ScoreOperator", "map_rows"]

Function = Callable[[Array], Array]

_ADJOINT_TOLERANCE = 1e-3
_SKETCHED_ONE_BY_ONE = 64  # each a call, as is each step that a better preconditioner saves


class ScoreOperator(SampleScores, ParameterScores):
    """A score matrix S that is known by its products, such as a JVP and a VJP.

    Parameters
    ----------
    matvec : callable
        x -> S x, from shape (m,) to (n,); with ``batched=True`` from (m, k) to (n, k).
    rmatvec : callable
        y -> S^H y, the adjoint, from (n,) to (m,), or (n, k) to (m, k). For complex S mind the
        conjugate: a VJP is S^T y in most libraries.
    shape : tuple of int
        (n, m).
    like : array
        Any array of the library, on the device and of the dtype of S.
    gram : array, shape (n, n), or callable, optional
        S S^H, as a neural tangent kernel gives it, or a function without arguments that returns
        it. With it `damped_solve` and the others factor it; without it they use preconditioned
        conjugate gradients (method "cg").
    batched : bool
        The functions take several vectors at once, as columns.

    Attributes
    ----------
    rows, columns : int
        n and m.
    dtype : str
        That of `like`.

    Raises
    ------
    TypeError
        `matvec` or `rmatvec` is not callable, or returns arrays of another library or kind.
    ValueError
        `shape` is not a pair of positive integers, or a function returns another shape. While
        solving: `rmatvec` is not the adjoint of `matvec`.

    Notes
    -----
    The functions are called with arrays in the dtype of the solution, one vector at a time unless
    `batched`; they must not write to their argument. With ``check=True`` one product each tests
    that they are adjoint. Method "cg" needs up to 256 columns (64 unless `batched`) of S S^H for
    its preconditioner, with n and m numbers for each in memory, then two products per step.
    |S|_F^2, which error bounds contain, is estimated from these columns and doubled.

    Examples
    --------
    >>> import numpy as np
    >>> from ngdla import ScoreOperator, damped_lstsq
    >>> S = np.random.default_rng(0).standard_normal((20, 100))
    >>> operator = ScoreOperator(lambda x: S @ x, lambda y: S.T @ y, S.shape, like=S)
    >>> f = S[:, 0]
    >>> np.allclose(damped_lstsq(operator, f, 0.1), damped_lstsq(S, f, 0.1))
    True
    """

    form = ONE_ARRAY

    def __init__(
        self,
        matvec: Function,
        rmatvec: Function,
        shape: tuple[int, int],
        *,
        like: Array,
        gram: Array | Callable[[], Array] | None = None,
        batched: bool = False,
    ) -> None:
        for function, name in ((matvec, "matvec"), (rmatvec, "rmatvec")):
            if not callable(function):
                msg = (
                    f"`{name}` is a {type(function).__name__}; it must be a function of one array."
                )
                raise TypeError(msg)
        require_array(like, "like")
        require_flag(batched, "batched")
        if gram is not None and not callable(gram):
            require_array(gram, "gram", ndim=2, blocks=False)
        self.name, self.scales = "S", None
        self._shape = _shape(shape)
        self._like = like
        self._matvec, self._rmatvec, self._gram = matvec, rmatvec, gram
        self.batched = batched

    @property
    def like(self) -> Array:
        """The array that was given as `like`."""
        return self._like

    @property
    def rows(self) -> int:
        """Number n of samples."""
        return self._shape[0]

    @property
    def columns(self) -> int:
        """Number m of parameters."""
        return self._shape[1]

    @property
    def dtype(self) -> str:
        """Name of the dtype of S."""
        return result_name(dtype_name(self._like.dtype))

    @property
    def has_gram(self) -> bool:
        """Tell whether there is a Gram matrix to factor."""
        return self._gram is not None

    @property
    def regram(self) -> bool:
        """Tell whether the Gram matrix can be formed, or is given, in double precision."""
        return self.gram_dtype is None or is_double(self.gram_dtype)

    @property
    def gram_dtype(self) -> str | None:
        """Name of the dtype of a given Gram matrix, which is its precision.

        That of a function is not known before it is called, and taken for that of S.
        """
        if self._gram is None:
            return None
        return self.dtype if callable(self._gram) else result_name(dtype_name(self._gram.dtype))

    @property
    def sketched(self) -> int:
        """Number of columns that a preconditioner may take of the Gram matrix."""
        return super().sketched if self.batched else _SKETCHED_ONE_BY_ONE

    @property
    def wide(self) -> bool:
        """Tell whether to work in the sample space: always, where there is a Gram matrix."""
        return self.has_gram or super().wide

    def with_scales(self, scales: Vector) -> ScoreOperator:
        """Return the same S with other scales, of which a given Gram matrix knows nothing."""
        scaled = copy.copy(self)
        scaled.scales, scaled._gram = scales, None
        return scaled

    def matvec(self, x: Vector) -> Array:
        """Return S x, (n, k), in the dtype of x."""
        (column,) = self.scaled(x)
        return self._apply(self._matvec, column, "matvec", self.rows)

    def add_rmatvec(
        self, x: Vector | None, w: Array, *, product: bool
    ) -> tuple[Vector, Array | None]:
        """Return x + S^H w and, if `product`, S times it."""
        moved = self.scaled((self._apply(self._rmatvec, w, "rmatvec", self.columns),))
        if x is not None:
            moved = (x[0] + moved[0],)
        return moved, self.matvec(moved) if product else None

    def gram(self, dtype: str, x: Vector | None = None) -> tuple[Array, Array | None]:
        """Return S S^H, (n, n), as given or by n products with S^H and n with S, and S x."""
        if self._gram is None:
            _, K = self.add_rmatvec(None, self._identity(self.rows, dtype), product=True)
            assert K is not None
        else:
            K = self._gram() if callable(self._gram) else self._gram
            self._require_result(K, "gram", (self.rows, self.rows))
            if is_double(self.dtype) and not is_double(dtype_name(K.dtype)):
                self._refuse_single(K)
            K = preserved(astype(K, dtype))
        return K, None if x is None else self.matvec(x)

    def _refuse_single(self, K: Array) -> None:
        """Raise for a function that gives a Gram matrix in lower precision than that of S."""
        if callable(self._gram):
            msg = (
                f"`gram` of `{self.name}` returns {dtype_name(K.dtype)}, but `like` is "
                f"{self.dtype}; return that, pass `like` in single precision, or the matrix itself."
            )
            raise TypeError(msg)

    def parameter_gram(
        self, dtype: str, g: Array | None = None, x: Vector | None = None
    ) -> tuple[Array, Vector | None, Array | None]:
        """Return S^H S, (m, m), by m products with S and m with S^H, and S^H (g - S x) and S x."""
        (negative,), _ = self.gradient(None, (self._identity(self.columns, dtype),))
        more = (None, None) if g is None and x is None else self.gradient(g, x)
        return -negative, *more

    def row_parts(self, dtype: str) -> Iterator[tuple[slice, Array]]:
        """Refuse: products give no rows."""
        raise self._rows_missing()

    def not_finite(self, dtype: str) -> Exception:
        """Return the error of products that are not finite."""
        return self.fault(dtype) or ValueError(
            f"the Gram matrix of `{self.name}` is not finite in {dtype}; check `matvec`, `rmatvec` "
            f"and `gram`, or scale them down."
        )

    def consistent(self, dtype: str) -> Array | None:
        """Return a flag whether y^H (S x) = (S^H y)^H x for some x and y, roughly."""
        x, y = (self._wave(length, dtype) for length in (self.columns, self.rows))
        xp, norm = namespace(x), frobenius_norm
        Sx = self._apply(self._matvec, x, "matvec", self.rows)
        Sy = self._apply(self._rmatvec, y, "rmatvec", self.columns)
        defect = xp.abs(xp.sum(rmatvec(y, Sx) - rmatvec(Sy, x)))
        return ~(defect > _ADJOINT_TOLERANCE * (norm(y) * norm(Sx) + norm(Sy) * norm(x)))

    def fault(self, dtype: str) -> Exception | None:
        """Return the error of a function that makes NaN or Inf of a finite vector."""
        for function, name, length, size in (
            (self._matvec, "matvec", self.columns, self.rows),
            (self._rmatvec, "rmatvec", self.rows, self.columns),
        ):
            ones = self._ones((length, 1), dtype)
            if not bool(all_finite(self._apply(function, ones, name, size))):
                msg = f"`{name}` of `{self.name}` returns NaN or Inf; check the scores behind it."
                return ValueError(msg)
        return None

    # ------------------------------------------------------------------------------- calls

    def _apply(self, function: Function, columns: Array, name: str, length: int) -> Array:
        """Return the function of every column, (length, k), in the dtype of the columns."""
        xp, k = namespace(columns), columns.shape[-1]
        if dtype_name(columns.dtype) != self.dtype:
            function = self._widened(function, name, dtype_name(columns.dtype))
        if self.batched:
            result = function(columns)
            self._require_result(result, name, (length, k))
        else:
            results = [function(columns[:, i]) for i in range(k)]
            for one in results:
                self._require_result(one, name, (length,))
            result = xp.stack(results, axis=-1)
        return astype(result, dtype_name(columns.dtype))

    def _widened(self, function: Function, name: str, dtype: str) -> Function:
        """Return the function, which says what is amiss where it takes only the dtype of S."""

        def called(x: Array) -> Array:
            try:
                return function(x)
            except (RuntimeError, TypeError) as error:
                msg = (
                    f"`{name}` of `{self.name}` fails for {dtype}, in which residuals are formed: "
                    f"{error}. Convert what it multiplies by to the dtype of its argument, or "
                    f"choose precision='native' and right-hand sides of {self.dtype}."
                )
                raise TypeError(msg) from error

        return called

    def _require_result(self, result: Any, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless a function returned an array of the library, shape and kind of S."""
        label = f"{name}` of `{self.name}"
        require_array(result, label)
        require_like(result, label, self._like, "like")
        if tuple(result.shape) != shape:
            msg = f"`{label}` has shape {tuple(result.shape)}; it must have shape {shape}."
            raise ValueError(msg)
        if is_complex(result) and not self.dtype.startswith("complex"):
            kind = dtype_name(result.dtype)
            msg = f"`{label}` is {kind} but `like` is real; pass a complex `like`."
            raise TypeError(msg)

    def _ones(self, shape: tuple[int, int], dtype: str) -> Array:
        xp = namespace(self._like)
        one = xp.ones_like(xp.reshape(self._like, (-1,))[:1])
        return xp.broadcast_to(astype(one, dtype), shape)

    def _wave(self, length: int, dtype: str) -> Array:
        """Return a column without structure, (length, 1), complex for complex S."""
        ones = self._ones((length, 1), dtype)
        xp = namespace(ones)
        phase = xp.cumulative_sum(ones, axis=0) ** 2
        return xp.sin(phase) + (1j * xp.cos(phase) if is_complex(ones) else 0.0)

    def _identity(self, length: int, dtype: str) -> Array:
        xp = namespace(self._like)
        return xp.tril(xp.triu(self._ones((length, length), dtype)))


def map_rows(S: ScoreOperator, forward: Function, adjoint: Function) -> ScoreOperator:
    """Return T S for a matrix T on the samples, given by its products with (n,) or (n, k)."""

    def both(K: Array) -> Array:
        return forward(adjoint_of(forward(K)))

    mapped, gram = copy.copy(S), S._gram
    mapped._matvec = lambda x: forward(S._matvec(x))
    mapped._rmatvec = lambda y: S._rmatvec(adjoint(y))
    if callable(gram):
        mapped._gram = lambda: both(gram())
    elif gram is not None:
        mapped._gram = both(gram)
    return mapped


def _shape(shape: Any) -> tuple[int, int]:
    try:
        n, m = (operator.index(size) for size in shape if not isinstance(size, bool))
    except (TypeError, ValueError):
        n = m = 0
    if n < 1 or m < 1:
        msg = f"`shape` is {shown(shape)}; it must be (n, m), two positive integers."
        raise ValueError(msg)
    return n, m
