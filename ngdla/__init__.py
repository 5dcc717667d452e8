"""Linear algebra under natural-gradient methods, on any array library.

Arrays of NumPy, CuPy, PyTorch and JAX (also under `jax.jit`) go in, arrays of the same library,
on the same device, come out. Start with `damped_solve`, `damped_lstsq` and
`stochastic_reconfiguration`.
"""

from .centred_scores import residuals, scores
from .certificates import SolveInfo
from .column_stream import ColumnStream
from .damped_factor import DampedFactor, damped_factor
from .damped_solve import damped_lstsq, damped_solve
from .damping_path import DampingPath, damping_path
from .gram import gram
from .precision import PrecisionWarning
from .row_stream import RowStream
from .score_operator import ScoreOperator
from .snr_filter import SNRInfo
from .stochastic_reconfiguration import stochastic_reconfiguration

__version__ = "0.1.0"

__all__ = [
    "ColumnStream",
    "DampedFactor",
    "DampingPath",
    "PrecisionWarning",
    "RowStream",
    "SNRInfo",
    "ScoreOperator",
    "SolveInfo",
    "damped_factor",
    "damped_lstsq",
    "damped_solve",
    "damping_path",
    "gram",
    "residuals",
    "scores",
    "stochastic_reconfiguration",
]
