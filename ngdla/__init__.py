"""Linear algebra under natural-gradient methods, on any array library.

Arrays of NumPy, CuPy, PyTorch, JAX (also under `jax.jit`) and Dask go in, arrays of the same
library, on the same device, come out. Start with `damped_solve`, `damped_lstsq` and
`stochastic_reconfiguration`; for Kronecker factors with `randomized_eigh` and `kronecker_solve`.
"""

from . import distributed, structures
from ._backend.pickles import _restored_part, name_public  # noqa: F401  # for pickles
from ._backend.states import load_state_dict, state_dict
from .damped.certificate import SolveInfo
from .damped.factor import DampedFactor, damped_factor
from .damped.hermitian import HermitianInfo, hermitian_solve
from .damped.path import DampingPath, damping_path
from .damped.precision import PrecisionWarning
from .damped.solve import damped_lstsq, damped_solve
from .inverse_free.state import (
    InverseFreeReport,
    InverseFreeState,
    inverse_free_apply,
    inverse_free_init,
)
from .inverse_free.statistics import InverseFreeStatistics, inverse_free_statistics
from .inverse_free.update import StepSizeWarning, inverse_free_update
from .kronecker.solve import ema, kronecker_solve
from .low_rank.low_rank_eigh import LowRankEigh
from .low_rank.nystrom_factor import NystromFactor, nystrom_factor
from .low_rank.online_eigh import (
    OnlineEigh,
    online_eigh_init,
    online_eigh_result,
    online_eigh_update,
)
from .low_rank.randomized_eigh import randomized_eigh
from .low_rank.randomized_svd import SVDResult, randomized_svd
from .low_rank.rank_choice import RankWarning
from .matrix_functions.exponential import SeriesResult, expm, expm_series
from .matrix_functions.hermitian import inv_sqrtm_psd, logm_psd, sqrtm_psd
from .matrix_functions.newton_schulz import InverseRoot, inv_sqrtm_newton_schulz
from .per_sample.gradients import sample_gram, weighted_gradient
from .per_sample.layer_rows import layer_rows
from .per_sample.patches import patch_means, patches
from .per_sample.weight_sharing import WeightSharing, weight_sharing_init, weight_sharing_step
from .per_sample.weights import sample_weights, weighted_cosine
from .score_matrices.column_norms import column_norms
from .score_matrices.column_stream import ColumnStream
from .score_matrices.gram import gram
from .score_matrices.row_stream import RowStream
from .score_matrices.score_operator import ScoreOperator
from .score_matrices.shards import ColumnShards, RowShards
from .structures.closed_form import structured_factor
from .variational_monte_carlo.centred_scores import residuals
from .variational_monte_carlo.log_derivatives import scores
from .variational_monte_carlo.noise_filter import SNRInfo
from .variational_monte_carlo.stochastic_reconfiguration import stochastic_reconfiguration

__version__ = "0.1.0"

__all__ = [
    "ColumnShards",
    "ColumnStream",
    "DampedFactor",
    "DampingPath",
    "HermitianInfo",
    "InverseFreeReport",
    "InverseFreeState",
    "InverseFreeStatistics",
    "InverseRoot",
    "LowRankEigh",
    "NystromFactor",
    "OnlineEigh",
    "PrecisionWarning",
    "RankWarning",
    "RowShards",
    "RowStream",
    "SNRInfo",
    "SVDResult",
    "ScoreOperator",
    "SeriesResult",
    "SolveInfo",
    "StepSizeWarning",
    "WeightSharing",
    "column_norms",
    "damped_factor",
    "damped_lstsq",
    "damped_solve",
    "damping_path",
    "distributed",
    "ema",
    "expm",
    "expm_series",
    "gram",
    "hermitian_solve",
    "inv_sqrtm_newton_schulz",
    "inv_sqrtm_psd",
    "inverse_free_apply",
    "inverse_free_init",
    "inverse_free_statistics",
    "inverse_free_update",
    "kronecker_solve",
    "layer_rows",
    "load_state_dict",
    "logm_psd",
    "nystrom_factor",
    "online_eigh_init",
    "online_eigh_result",
    "online_eigh_update",
    "patch_means",
    "patches",
    "randomized_eigh",
    "randomized_svd",
    "residuals",
    "sample_gram",
    "sample_weights",
    "scores",
    "sqrtm_psd",
    "state_dict",
    "stochastic_reconfiguration",
    "structured_factor",
    "structures",
    "weight_sharing_init",
    "weight_sharing_step",
    "weighted_cosine",
    "weighted_gradient",
]

name_public(__name__, globals(), __all__)
