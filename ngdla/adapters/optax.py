"""optax: KFAC, SINGD, FNGD and damped natural gradients as transformations of updates.

Rows of layers go to each update, from which factors or weights are made:

    from ngdla.adapters.optax import kfac
    optimizer = optax.chain(kfac(1e-3, rank=64), optax.trace(0.9), optax.scale(-0.1))
    updates, state = optimizer.update(gradient, state, params, rows=rows)
"""

from __future__ import annotations

from .versions import require_version

require_version("optax", at_least="0.2", below="0.3")  # before what other versions may lack

from .optax_fngd import FNGDState, fngd
from .optax_kfac import KFACState, kfac
from .optax_natural_gradient import NaturalGradientState, damped_natural_gradient
from .optax_singd import SINGDState, singd

__all__ = [
    "FNGDState",
    "KFACState",
    "NaturalGradientState",
    "SINGDState",
    "damped_natural_gradient",
    "fngd",
    "kfac",
    "singd",
]
