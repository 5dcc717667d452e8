"""What scores that lie on several ranks have in common: much of it is that of a rank's own part."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from ngdla._backend.namespace import Array
from ngdla._backend.ranks import ElsewhereError

from .parameter_forms import ParameterForm
from .score_matrix import Piece, ScoreMatrix, Vector

__all__ = ["SharedScores"]

Shared = TypeVar("Shared", bound="SharedScores")


class SharedScores(ScoreMatrix):
    """Scores of which this rank has the part `local`."""

    local: Any  # a `ScoreMatrix`

    @property
    def scales(self) -> Vector | None:  # type: ignore[override]
        """Those of the columns of this rank."""
        scales: Vector | None = self.local.scales
        return scales

    @property
    def form(self) -> ParameterForm:  # type: ignore[override]
        """That of the part of this rank."""
        form: ParameterForm = self.local.form
        return form

    @property
    def like(self) -> Array:
        """An array of the library and on the device of the scores."""
        return self.local.like

    @property
    def batch(self) -> tuple[int, ...]:
        """Shape of the batch axes."""
        return tuple(self.local.batch)

    @property
    def dtype(self) -> str:
        """Name of the dtype that all of S promotes to, float32 at least."""
        return str(self.local.dtype)

    @property
    def given_dtypes(self) -> set[str]:
        """Names of the dtypes in which parts of S came."""
        return set(self.local.given_dtypes)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What the pieces of a vector with the m axis must fit on this rank."""
        return tuple(self.local.pieces)

    def with_scales(self: Shared, scales: Vector) -> Shared:
        """Return the same S with other scales."""
        part = self.local.with_scales(scales)
        return dataclasses.replace(self, local=part)  # type: ignore[type-var]

    def not_finite(self, dtype: str) -> Exception:
        """Return the error of scores whose squared row norms are not finite."""
        error: Exception | None = self.local.nan_error()  # else another rank's part may hold NaN
        return ElsewhereError(str(self.local.range_error(dtype))) if error is None else error
