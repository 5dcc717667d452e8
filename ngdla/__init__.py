"""Linear algebra under natural-gradient methods, on any array library.

Arrays of NumPy, CuPy, PyTorch and JAX (also under `jax.jit`) go in, arrays of the same library,
on the same device, come out. Start with `damped_solve`, `damped_lstsq` and
`stochastic_reconfiguration`; for Kronecker factors with `randomized_eigh` and `kronecker_solve`.
"""

from . import structures
from .centred_scores import residuals, scores
from .certificates import SolveInfo
from .column_stream import ColumnStream
from .damped_factor import DampedFactor, damped_factor
from .damped_solve import damped_lstsq, damped_solve
from .damping_path import DampingPath, damping_path
from .gram import gram
from .hermitian_functions import inv_sqrtm_psd, logm_psd, sqrtm_psd
from .inverse_free import (
    inverse_free_apply,
    inverse_free_init,
    inverse_free_statistics,
    inverse_free_update,
)
from .inverse_free_arguments import StepSizeWarning
from .inverse_free_state import InverseFreeReport, InverseFreeState, InverseFreeStatistics
from .kronecker import ema, kronecker_solve
from .low_rank import LowRankEigh
from .matrix_functions import (
    SeriesResult,
    expm,
    expm_series,
)
from .newton_schulz import InverseRoot, inv_sqrtm_newton_schulz
from .nystrom_factor import NystromFactor, nystrom_factor
from .online_eigh import OnlineEigh, online_eigh_init, online_eigh_result, online_eigh_update
from .precision import PrecisionWarning
from .randomized_eigh import randomized_eigh
from .randomized_svd import SVDResult, randomized_svd
from .rank_choice import RankWarning
from .row_stream import RowStream
from .sample_gradients import sample_gram, weighted_gradient
from .sample_weights import sample_weights, weighted_cosine
from .score_operator import ScoreOperator
from .snr_filter import SNRInfo
from .stochastic_reconfiguration import stochastic_reconfiguration
from .structured_factor import structured_factor
from .weight_sharing import WeightSharing, weight_sharing_init, weight_sharing_step

__version__ = "0.1.0"

__all__ = [
    "ColumnStream",
    "DampedFactor",
    "DampingPath",
    "InverseFreeReport",
    "InverseFreeState",
    "InverseFreeStatistics",
    "InverseRoot",
    "LowRankEigh",
    "NystromFactor",
    "OnlineEigh",
    "PrecisionWarning",
    "RankWarning",
    "RowStream",
    "SNRInfo",
    "SVDResult",
    "ScoreOperator",
    "SeriesResult",
    "SolveInfo",
    "StepSizeWarning",
    "WeightSharing",
    "damped_factor",
    "damped_lstsq",
    "damped_solve",
    "damping_path",
    "ema",
    "expm",
    "expm_series",
    "gram",
    "inv_sqrtm_newton_schulz",
    "inv_sqrtm_psd",
    "inverse_free_apply",
    "inverse_free_init",
    "inverse_free_statistics",
    "inverse_free_update",
    "kronecker_solve",
    "logm_psd",
    "nystrom_factor",
    "online_eigh_init",
    "online_eigh_result",
    "online_eigh_update",
    "randomized_eigh",
    "randomized_svd",
    "residuals",
    "sample_gram",
    "sample_weights",
    "scores",
    "sqrtm_psd",
    "stochastic_reconfiguration",
    "structured_factor",
    "structures",
    "weight_sharing_init",
    "weight_sharing_step",
    "weighted_cosine",
    "weighted_gradient",
]
