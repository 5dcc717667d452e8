"""Random test matrices from a seed, drawn by NumPy on the host so that all libraries agree."""

from __future__ import annotations

import numpy as np
from array_api_compat import device

from .namespace import Array, is_dask_namespace, is_jax_namespace, namespace, real_name

__all__ = ["orthonormal_columns"]


def orthonormal_columns(seed: int, shape: tuple[int, ...], like: Array, dtype: str) -> Array:
    """Return the Q of a Gaussian matrix (..., n, r), of the library and on the device of `like`."""
    rng = np.random.default_rng(seed)
    gaussian = rng.standard_normal(shape)
    if dtype != real_name(dtype):
        gaussian = gaussian + 1j * rng.standard_normal(shape)
    Q = np.linalg.qr(gaussian).Q.astype(dtype)
    xp = namespace(like)
    if is_dask_namespace(xp) or is_jax_namespace(xp):  # JAX places constants itself
        return xp.asarray(Q)
    return xp.asarray(Q, device=device(like))
