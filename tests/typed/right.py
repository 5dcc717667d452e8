"""What type checkers accept: arrays of any library, literal options, results by `full_output`."""

import numpy as np
from numpy.typing import NDArray

import ngdla


def step(S: NDArray[np.float32], f: NDArray[np.float32], v: NDArray[np.float32]) -> float:
    x, info = ngdla.damped_lstsq(S, f, 1e-3, method="cholesky", full_output=True)
    converged: np.ndarray[tuple[int, ...], np.dtype[np.bool]] = np.asarray(info.converged)
    factor = ngdla.damped_factor([S, S], 1e-3, precision="mixed", check=False)
    y, other = factor.solve([v, v], full_output=True)
    z = ngdla.damped_solve((S, S), (v, v), np.asarray(0.1), method="qr")
    path = ngdla.damping_path(S, f, [1e-3, 1e-2])
    stream = ngdla.ColumnStream(lambda: iter((S, S)), (50, 4000), dtype="float32")
    ngdla.damped_lstsq(stream, f, 1e-3)
    alone = ngdla.distributed.SerialCommunicator()
    ngdla.damped_lstsq(ngdla.ColumnShards(stream, alone, columns=4000), f, 1e-3)
    ngdla.stochastic_reconfiguration(ngdla.RowShards([S, S], alone), f, 1e-3, gathered=False)
    values: float = float(np.sum(x + y[0] + z[0])) + float(path.residual_norm[0])
    values += float(path.at_step(0.1)) + float(factor.overlap([v, v]))
    values += float(np.sum(ngdla.column_norms(S)) + np.sum(ngdla.column_norms([S, S])[0]))
    return values + float(converged.sum()) + float(other.step_norm)


def either(S: NDArray[np.float64], f: NDArray[np.float64], full_output: bool) -> object:
    return ngdla.damped_lstsq(S, f, 1e-3, full_output=full_output)


def results_are_of_the_library_of_the_caller(A: NDArray[np.float64], flag: bool) -> float:
    root: NDArray[np.float64] = ngdla.sqrtm_psd(A)
    eigen = ngdla.randomized_eigh(A, 3, method="rayleigh-ritz")
    K = ngdla.sample_gram(A, A)
    total = np.linalg.norm(ngdla.expm(A)) + np.sum(eigen.eigenvalues) + K.mean() + root.trace()
    svd, error = ngdla.randomized_svd(A, 3, full_output=True)
    total += float(error) + np.sum(svd.S) + np.sum(ngdla.randomized_svd(A, 3).S)
    series = ngdla.expm_series(A, 3, full_output=True)
    other = ngdla.expm_series(A, 3, full_output=flag)
    return float(total + np.max(series.remainder_bound) + np.size(other))


def weights(K: NDArray[np.float64], X: NDArray[np.float64], full_output: bool) -> object:
    c, used = ngdla.sample_weights(K, 0.1, full_output=True)
    step: NDArray[np.float64] = ngdla.weighted_gradient(X, X, c, positions=False) / float(used)
    K = ngdla.sample_gram(X, X, positions=True)
    c = ngdla.sample_weights(K, 0.1, full_output=False) + ngdla.sample_weights(K, 0.1)
    state = ngdla.weight_sharing_init("table", 64, period=3)
    v, state = ngdla.weight_sharing_step(state, X, X, 0.1, batch=2, positions=None)
    either = ngdla.sample_weights(K, 0.1, full_output=full_output)
    return step, c.mean(), v, state.averaged + len(state.layer), either


def layers(x: NDArray[np.float32], g: NDArray[np.float32]) -> object:
    unfolded: NDArray[np.float32] = ngdla.patches(x, 3, stride=(1, 2), padding="same", groups=1)
    a, rows = ngdla.layer_rows(unfolded, g, sharing="none", loss="token-mean", positions=True)
    means = ngdla.patch_means(x, [3, 3], padding=[(0, 1), (2, 0)], dilation=2, channels="last")
    ones, summed = ngdla.layer_rows(means, g, sharing="reduce", bias=False)
    return a.mean() + rows.mean(), ones @ ones.T, summed


def natural_gradient(O: NDArray[np.complex128], E: NDArray[np.complex128]) -> float:
    d, info = ngdla.stochastic_reconfiguration(O, E, 1e-3, mode="complex", full_output=True)
    d = ngdla.stochastic_reconfiguration(O, E, 1e-3, mode="complex", previous=d, momentum=0.9)
    _, filtered = ngdla.stochastic_reconfiguration(
        O, E, 1e-3, mode="holomorphic", snr=2.0, full_output=True
    )
    return float(info.step_norm) + float(filtered.snr[0]) + float(np.linalg.norm(d))


def averages(A: NDArray[np.float64], X: NDArray[np.float64], full_output: bool) -> object:
    average: NDArray[np.float64] = ngdla.ema(A, X, decay=0.9, check="nan")
    average, skipped = ngdla.ema(average, X, decay=0.9, full_output=True)
    state = ngdla.online_eigh_update(ngdla.online_eigh_init(X, 3), X, decay=0.9, check="nan")
    eigen = ngdla.online_eigh_result(state)
    factor = ngdla.nystrom_factor(A, 3)
    y = eigen.matmul(factor.matmul(X.T, check=False), check=False)
    flags = bool(np.any(skipped)) or bool(np.any(state.skipped))
    return flags, y, ngdla.ema(average, X, decay=0.9, full_output=full_output)
