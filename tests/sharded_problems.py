"""Problems that all ranks make of one seed, this rank's part of them, and what to compare with."""

import numpy as np

import ngdla

FLOATS = ("float64", "complex128", "float32")
SPLITS = ("even", "uneven", "one empty")
ROUNDINGS = 100  # in units of eps times the condition of the problem


class Problem:
    """Scores S, right-hand sides and vectors, in the library `xp` on every rank.

    Singular values of S go from 1 down to 0.03, and the damping is 1e-2, so that the condition is
    about 100, whatever the shape.
    """

    def __init__(self, comm, xp, n, m, dtype="float64", split="even", seed=0):
        self.comm, self.xp, self.dtype, self.damping = comm, xp, dtype, 1e-2
        self._rng = np.random.default_rng(seed)
        self.S = self._of_shape(n, m)
        U, s, V = np.linalg.svd(self.S, full_matrices=False)
        self.S = ((U * np.geomspace(1, 0.03, len(s))) @ V).astype(dtype)
        self.f, self.v, self.x0 = self._of_shape(n), self._of_shape(m), self._of_shape(m)
        self.metric = self._rng.uniform(0.5, 2, m).astype(self.S.real.dtype)
        self.condition = 2 * (1 + self.damping) / self.damping
        self.rows, self.columns = (part(total, comm, split) for total in (n, m))

    def _of_shape(self, *shape):
        return normal(self._rng, shape, self.dtype)

    def here(self, values, *spans):
        """Return some rows and columns as an array of the library of this engine."""
        return self.xp.asarray(np.ascontiguousarray(values[spans]))

    def column_shards(self, make=None, **options):
        own = self.here(self.S, slice(None), self.columns)
        return ngdla.ColumnShards(own if make is None else make(own), self.comm, **options)

    def row_shards(self, make=None, **options):
        own = self.here(self.S, self.rows)
        return ngdla.RowShards(own if make is None else make(own), self.comm, **options)

    def with_samples(self, f):
        """Return the scores by columns and by rows, each with what belongs to its samples of f."""
        by_columns = self.column_shards(), self.here(f)
        return by_columns, (self.row_shards(), self.here(f, self.rows))

    def check(self, x, expected, span=None, *, condition=None):
        """Compare the part of this rank with that of a result on one process."""
        close(x, expected, span, condition=condition or self.condition)


def normal(rng, shape, dtype):
    """Return normal numbers, real or complex."""
    values = rng.standard_normal((2, *shape))
    return (values[0] + (1j * values[1] if "complex" in dtype else 0)).astype(dtype)


def part(total, comm, split="even"):
    """Return the slice of this rank; of an uneven split the last has most, of another one none."""
    weights = np.ones(comm.size)
    if split == "uneven":
        weights[-1] = 3.5
    elif split == "one empty":
        weights[comm.size // 2] = 0
    bounds = np.rint(np.cumsum([0, *weights]) * total / weights.sum()).astype(int)
    return slice(int(bounds[comm.rank]), int(bounds[comm.rank + 1]))


def exchanged_part(total, comm):
    """Return the slice of the columns that this rank has after an exchange."""
    least, more = divmod(total, comm.size)
    start = comm.rank * least + min(comm.rank, more)
    return slice(start, start + least + (comm.rank < more))


def close(x, expected, span=None, *, condition=1.0):
    """Compare a part, relative to the norm of the whole."""
    expected = np.asarray(expected)
    own = expected if span is None else expected[span]
    x = np.asarray(x)
    assert x.dtype == own.dtype, (x.dtype, own.dtype)
    assert x.shape == own.shape, (x.shape, own.shape)
    error = np.linalg.norm(x - own)
    bound = ROUNDINGS * np.finfo(x.dtype).eps * condition * np.linalg.norm(expected)
    assert error <= bound, (error, bound)
