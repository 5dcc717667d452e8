"""What is wrong on one rank, or between ranks: one error on all of them, and then all go on.

The guilty rank is the last one. That no rank waits for another one is shown by the kind of the
error: a communicator that waits raises TimeoutError.
"""

import re
from functools import partial

import numpy as np
import pytest
from sharded_problems import Problem, exchanged_part

import ngdla


class Fault(Problem):
    """A problem of which the guilty rank has something else than the others."""

    def __init__(self, comm, xp, n=9, m=31, dtype="float64"):
        super().__init__(comm, xp, n, m, dtype)
        self.guilty = comm.rank == comm.size - 1
        self.g, self.b = self.here(self.f), self.here(self.f, self.rows)

    def mine(self, wrong, right):
        """Return the wrong one of two on the guilty rank."""
        return wrong if self.guilty else right

    def lstsq(self, f=None, damping=0.1, *, make=None, **options):
        f = self.g if f is None else f
        return ngdla.damped_lstsq(self.column_shards(make), f, damping, **options)

    def lstsq_by_rows(self, f=None, damping=0.1, *, make=None, **options):
        f = self.b if f is None else f
        return ngdla.damped_lstsq(self.row_shards(make), f, damping, **options)

    def agreed(self, message, function, *args, kind=ValueError, **options):
        """Check that all ranks raise the same error; `message` is a pattern."""
        error = raised(kind, function, *args, **options)
        assert re.search(message, str(error)), str(error)
        assert told_alike(self.comm, self.xp, str(error)), str(error)
        self.goes_on()

    def own(self, message, function, *args, kind=ValueError, **options):
        """Check that the guilty rank raises its error, and the others one of the same kind."""
        error = raised(kind, function, *args, **options)
        others = f"rank {self.comm.size - 1} failed: "
        assert str(error).startswith(others) != self.guilty, str(error)
        assert re.search(message, str(error)), str(error)
        self.goes_on()

    def goes_on(self):
        """Check that the same communicator serves for what is right."""
        x = ngdla.damped_lstsq(self.column_shards(), self.g, self.damping)
        expected = ngdla.damped_lstsq(self.S, self.f, self.damping)
        self.check(x, expected, self.columns)
        x = ngdla.damped_lstsq(self.row_shards(), self.b, self.damping)
        n, m = self.S.shape
        self.check(x, expected, exchanged_part(m, self.comm) if n < m else None)


def raised(kind, function, *args, **options):
    with pytest.raises(kind) as caught:
        function(*args, **options)
    return caught.value


def told_alike(comm, xp, text):
    letters = np.zeros(400)
    letters[: len(text)] = [ord(letter) for letter in text[:400]]
    told = np.asarray(comm.all_gather(xp.asarray(letters)))
    return (told == told[0]).all()


def case_other_sizes_and_dtypes(comm, xp):
    p = Fault(comm, xp)
    last = comm.size - 1
    shorter = p.mine(lambda S: S[:-1], None)
    message = f"`S` has 9 rows on rank 0 but 8 on rank {last}"
    p.agreed(message, p.lstsq, make=shorter)
    narrower = p.mine(lambda S: S[:, :-1], None)
    message = f"`S` has 31 columns on rank 0 but 30 on rank {last}"
    p.agreed(message, p.lstsq_by_rows, make=narrower)
    half = p.mine(lambda S: xp.astype(S, xp.float32), None)
    message = f"`S` is float64 on rank 0 but float32 on rank {last}; convert one"
    p.agreed(message, p.lstsq, make=half)
    p.agreed(message, p.lstsq_by_rows, make=half)
    complex_ = p.mine(lambda S: xp.astype(S, xp.complex128), None)
    p.agreed("`S` is float64 on rank 0 but complex128", p.lstsq, make=complex_)


def case_columns_and_rows_that_do_not_add_up(comm, xp):
    p = Fault(comm, xp)
    for shards in (p.column_shards, p.row_shards):
        name = "columns" if shards == p.column_shards else "rows"
        total = 31 if name == "columns" else 9
        message = f"do not add up: .* but `{name}` is {total + 1}"
        p.agreed(message, ngdla.gram, shards(**{name: total + 1}))
        message = f"`{name}` of `S` differs between rank 0 and rank"
        p.agreed(message, ngdla.gram, shards(**{name: p.mine(total + 1, total)}))
        p.own(f"`{name}`", ngdla.gram, shards(**{name: p.mine(-1, total)}))
    message = "`S` has no columns on any rank"
    p.agreed(message, ngdla.gram, p.column_shards(lambda S: S[:, :0]))
    p.agreed("`S` has no rows on any rank", ngdla.gram, p.row_shards(lambda S: S[:0]))


def case_other_dampings(comm, xp):
    p = Fault(comm, xp)
    damping = p.mine(0.2, 0.1)
    p.agreed("`damping` is 0.1 on rank 0 but 0.2 on rank", p.lstsq, damping=damping)
    p.agreed("`damping` is 0.1 on rank 0 but 0.2", p.lstsq_by_rows, damping=damping)
    p.agreed("`damping` is .* it must be the same", p.lstsq, damping=xp.asarray(damping))
    p.own("`damping` is -1.0", p.lstsq, damping=p.mine(-1.0, 0.1))
    p.own("`damping` is 'small'", p.lstsq, kind=TypeError, damping=p.mine("small", 0.1))
    factor = ngdla.damped_factor(p.column_shards(), 0.1)
    p.agreed("`damping` is 0.1 on rank 0 but 0.2", factor.with_damping, damping)
    message = "`damping` is .* on rank 0 but .* must be the same on all ranks"
    p.agreed(message, ngdla.damping_path, p.column_shards(), p.g, [0.01, damping])


def case_other_options(comm, xp):
    p = Fault(comm, xp)
    message = "was called with other options than rank 0, such as method"
    null = p.here(p.f / np.linalg.norm(p.f))
    for options in (
        {"method": "eigh"},
        {"refine": 2},
        {"precision": "native"},
        {"check": False},
        {"metric": p.here(p.metric, p.columns)},
        {"null": null},
    ):
        p.agreed(message, p.lstsq, **p.mine(options, {}))
    for options in ({"method": "eigh"}, {"refine": 2}, {"check": "nan"}):
        p.agreed(message, p.lstsq_by_rows, **p.mine(options, {}))
    p.own("`method` is 'qr'", p.lstsq, method=p.mine("qr", "auto"))
    p.own("`method` is 'fast'", p.lstsq, method=p.mine("fast", "auto"))
    p.own("`check` is 'maybe'", p.lstsq, kind=TypeError, check=p.mine("maybe", True))


case_other_options.sizes = (2,)


def case_other_places(comm, xp):
    """One rank takes another way through a call, or calls another function."""
    p = Fault(comm, xp)
    anything = "must be the same on all ranks|must be equal on all ranks|at another place of a call"
    x0, v = p.here(p.x0, p.columns), p.here(p.v, p.columns)
    p.agreed(anything, p.lstsq, x0=p.mine(x0, None))
    p.agreed(anything, p.lstsq, full_output=p.mine(True, False))
    shards, factor = p.column_shards(), ngdla.damped_factor(p.column_shards(), 0.1)
    lstsq = partial(ngdla.damped_lstsq, shards, p.g, 0.1)
    for other, usual in (
        (partial(ngdla.damped_solve, shards, v, 0.1), lstsq),
        (partial(ngdla.gram, shards), lstsq),
        (partial(ngdla.gram, shards), partial(ngdla.column_norms, shards)),
        (partial(factor.lstsq, p.g), factor.logdet),
    ):
        p.agreed(anything, p.mine(other, usual))
    by_rows = p.mine(p.lstsq_by_rows, p.lstsq)
    p.agreed(r"has other shards of `S` than rank 0; pass ColumnShards on all ranks, or", by_rows)


def case_data_that_differ(comm, xp):
    p = Fault(comm, xp)
    f = p.mine(p.g * (1 + 1e-9), p.g)
    p.agreed("`f` differs between rank 0 and rank", p.lstsq, f)
    rounded = p.mine(p.g * (1 + 4e-16), p.g)
    p.check(p.lstsq(rounded), ngdla.damped_lstsq(p.S, p.f, 0.1), p.columns)
    both = p.mine(xp.stack([p.g, p.g], axis=-1), p.g)
    p.agreed("must be the same on all ranks|must be equal on all ranks", p.lstsq, both)
    null = p.f / np.linalg.norm(p.f)
    null = p.here(np.ascontiguousarray(null[::-1]) if p.guilty else null)
    p.agreed("`f` or `null` differs between rank 0", p.lstsq, null=null, check=False)
    longer = p.mine(xp.concat([p.g, p.g[:1]]), p.g)
    p.own(r"`f` has shape \(10,\)", p.lstsq, longer)
    pieces = p.here(p.v, p.columns)
    v = p.mine(pieces[:-1], pieces)
    p.own("`v` has shape", ngdla.damped_solve, p.column_shards(), v, 0.1)


def case_values_that_are_not_finite(comm, xp):
    p = Fault(comm, xp)

    def spoilt(x):
        y = np.array(x)
        y.reshape(-1)[-1] = np.nan
        return xp.asarray(y)

    nan = p.mine(spoilt, None)
    for check in (p.lstsq, p.lstsq_by_rows):
        p.own("`S` contains NaN or Inf", check, make=nan)
    for make in (p.column_shards, p.row_shards):
        p.own("`S` contains NaN or Inf", ngdla.gram, make(nan))
        p.own("`S` contains NaN or Inf", ngdla.column_norms, make(nan))
    x0, v = p.here(p.x0, p.columns), p.here(p.v, p.columns)
    p.own("`x0` contains NaN or Inf", p.lstsq, x0=p.mine(spoilt, xp.asarray)(x0))
    v = p.mine(spoilt, xp.asarray)(v)
    p.own("`v` contains NaN or Inf", ngdla.damped_solve, p.column_shards(), v, 0.1)
    metric = p.here(p.metric, p.columns)
    p.own("`metric` holds values that are not", p.lstsq, metric=p.mine(-metric, metric))
    b = p.mine(spoilt, xp.asarray)(p.b)
    p.agreed("`f` contains NaN or Inf", p.lstsq_by_rows, b)
    p.agreed("`f` contains NaN or Inf", p.lstsq, spoilt(p.g))
    p.agreed("`f` differs between rank 0", p.lstsq, p.mine(spoilt, xp.asarray)(p.g))
    p = Fault(comm, xp, 31, 9)
    p.own("`S` contains NaN or Inf", p.lstsq_by_rows, make=nan)
    sr = ngdla.stochastic_reconfiguration
    for shape in ((9, 31), (31, 9)):
        p = Fault(comm, xp, *shape)
        message = "`log_derivatives` contains NaN or Inf"
        p.own(message, sr, p.row_shards(nan), p.b, 0.1)
        p.own(message, sr, p.column_shards(nan), p.g, 0.1)


case_values_that_are_not_finite.sizes = (2,)


def case_steps_with_other_arguments(comm, xp):
    p = Fault(comm, xp)
    weights = np.arange(1.0, 10)
    w = p.here(weights[::-1] if p.guilty else weights)
    last = p.here(p.x0)

    def by_columns(energies=p.g, damping=0.1, **options):
        return ngdla.stochastic_reconfiguration(p.column_shards(), energies, damping, **options)

    def by_rows(energies=p.b, damping=0.1, **options):
        return ngdla.stochastic_reconfiguration(p.row_shards(), energies, damping, **options)

    same = "must be the same on all ranks|must be equal on all ranks|at another place of a call"
    p.agreed("`local_energies`.* differs", by_columns, 2 * p.g if p.guilty else p.g)
    p.agreed("`weights`.* differs", by_columns, weights=w)
    p.agreed(same, by_columns, weights=p.mine(w, None))
    for options in ({"gathered": False}, {"snr": 1.0}, {"mode": "holomorphic"}, {"refine": 0}):
        p.agreed(same, by_rows, **p.mine(options, {}))
        p.agreed(same, by_columns, **p.mine(options, {}))
    p.agreed("`damping` is 0.1 on rank 0 but 0.2", by_rows, damping=p.mine(0.2, 0.1))
    momenta = {"previous": last, "momentum": p.mine(0.8, 0.9)}
    p.agreed(same, by_rows, **momenta)
    p.agreed(same, by_rows, previous=p.mine(last, None), momentum=0.9)
    own = {"weights": p.mine(-p.here(weights, p.rows), p.here(weights, p.rows))}
    p.agreed("`weights` must be finite and not negative", by_rows, **own)
    p.agreed("not all zero", by_rows, weights=0 * p.b)
    p.own("`local_energies` has shape", by_rows, p.b[:-1] if p.guilty else p.b)
    p.agreed(same, by_rows, momentum=p.mine(2.0, 0.9))
    p.agreed("`momentum` is 2.0", by_rows, momentum=2.0)
    p.own("`gathered` is 3", by_rows, kind=TypeError, gathered=p.mine(3, True))
    p.own("`pack` is 3", by_rows, kind=TypeError, pack=p.mine(3, False))
    p.own("keyword argument", by_rows, kind=TypeError, **p.mine({"metod": 1}, {}))
    whole = p.mine(last[:-1], last)
    p.own("`previous` has shape", by_rows, previous=whole, momentum=0.9)


case_steps_with_other_arguments.sizes = (2,)


def case_what_is_no_score_matrix(comm, xp):
    p = Fault(comm, xp)
    p.own("`S`", p.lstsq, kind=TypeError, make=p.mine(lambda S: "none", None))
    p.own("`S`", p.lstsq, kind=TypeError, make=p.mine(lambda S: xp.astype(S, xp.int64), None))
    p.own("`S` has shape", p.lstsq, make=p.mine(lambda S: S[0], None))
    p.own("`S`", p.lstsq, make=p.mine(lambda S: [], None))
    nested = p.mine(lambda S: ngdla.ColumnShards(S, comm), None)
    p.own("on this rank is a ColumnShards; it must be", p.lstsq, kind=TypeError, make=nested)
    stream = p.mine(column_stream, None)
    p.own("on this rank is a ColumnStream", p.lstsq_by_rows, kind=TypeError, make=stream)


def column_stream(S, fail=lambda: None):
    def blocks():
        for i in range(0, S.shape[-1], 4):
            if i:
                fail()
            yield S[:, i : i + 4]

    return ngdla.ColumnStream(blocks, tuple(S.shape), dtype=S.dtype, like=S)


def case_streams_that_fail(comm, xp):
    """In their second block, while the others wait for the sum of Gram matrices."""
    p = Fault(comm, xp)

    def fails(error):
        def fail():
            if p.guilty:
                raise error

        return lambda S: column_stream(S, fail)

    for error, kind, message in (
        (ValueError("the file ends"), RuntimeError, "the file ends|block"),
        (MemoryError("no room"), MemoryError, "no room|block"),
        (KeyError("layer 3"), RuntimeError, "layer 3|block"),
    ):
        p.own(message, p.lstsq, kind=kind, make=fails(error))
        sr = ngdla.stochastic_reconfiguration
        p.own(message, sr, p.column_shards(fails(error)), p.g, 0.1, kind=kind)

    def later(passes):
        calls = []

        def fail():
            calls.append(1)
            if p.guilty and len(calls) > passes:
                raise OSError("the disk is gone")

        return lambda S: column_stream(S, fail)

    blocks = -(-(p.columns.stop - p.columns.start) // 4) - 1  # at which it may fail, in a pass
    for passes in (1, 2):  # in the solve, and in the sweep
        p.own("the disk is gone", p.lstsq, kind=RuntimeError, make=later(passes * blocks))


def case_a_factor_after_a_fault(comm, xp):
    """Its ranks stand at the same place again."""
    p = Fault(comm, xp)
    last = comm.size - 1
    for shards, f, rows in ((p.column_shards(), p.g, None), (p.row_shards(), p.b, p.rows)):
        factor = ngdla.damped_factor(shards, p.damping)
        expected = ngdla.damped_factor(p.S, p.damping).leave_one_out(p.f)
        v = p.here(p.v, p.columns if rows is None else exchanged_part(31, comm))
        nan = p.mine(v * np.nan, v)
        for kind, message, function, argument in (
            (ValueError, f"rank {last} failed: |has shape", factor.lstsq, p.mine(f[:-1], f)),
            (ValueError, "`v` contains NaN or Inf", factor.solve, nan),
            (ValueError, "`damping` is 0.1 on rank 0", factor.with_damping, p.mine(0.2, 0.1)),
            (TypeError, "`f` is a", factor.leave_one_out, p.mine(None, f)),
        ):
            error = raised(kind, function, argument)
            assert re.search(message, str(error)), str(error)
            p.check(factor.leave_one_out(f), expected, rows)


def case_steps_that_are_refused(comm, xp):
    """What no rank can help, all say in the same words."""
    p = Fault(comm, xp, 23, 8, "float32")
    native = {"damping": 1e-12, "precision": "native"}
    native |= {"make": lambda S: xp.concat([S, S], axis=-1), "kind": np.linalg.LinAlgError}
    for function in (p.lstsq, p.lstsq_by_rows):
        p.agreed("is not positive definite in float32", function, **native)
    p.agreed("the step is refused", p.lstsq, method="eigh", **native)
    p.agreed("float32", p.lstsq, make=lambda S: S * 1e25)


def case_foreign_arrays(comm, xp):
    """Arrays that the engine does not carry, on all ranks."""
    array = pytest.importorskip("dask.array")
    p = Fault(comm, xp)
    shards = p.column_shards(lambda S: array.from_array(np.asarray(S)))
    error = raised(TypeError, ngdla.damped_lstsq, shards, array.ones(9), 0.1)
    assert "got a dask array. Convert it to one of these" in str(error)
    p.goes_on()


case_foreign_arrays.engines = ("mpi", "gloo")
case_foreign_arrays.sizes = (2,)


def case_derivatives(comm, xp):
    """They would be wrong: what other ranks do with a tensor is in no graph of this one."""
    p = Fault(comm, xp)
    message = r"derivatives do not pass from one process to another: hand over tensors by detach"
    p.agreed(message, p.lstsq, make=lambda S: S.requires_grad_(True))
    p.own(message, p.lstsq, make=p.mine(lambda S: S.requires_grad_(True), None))
    p.agreed(message, p.lstsq_by_rows, make=lambda S: S.requires_grad_(True))
    p.agreed(message, p.lstsq_by_rows, p.here(p.f, p.rows).requires_grad_(True))
    import torch

    with torch.no_grad():
        x = p.lstsq(make=lambda S: S.requires_grad_(True))
    p.check(x, ngdla.damped_lstsq(p.S, p.f, 0.1), p.columns)


case_derivatives.engines = ("gloo",)


def case_memory_that_is_short_in_a_collective(comm, xp):
    """Nothing is tried again where the others do not know of it."""
    p = Fault(comm, xp)

    class Full:
        rank, size, timeout, sums = comm.rank, comm.size, comm.timeout, 0
        all_gather, all_to_all = comm.all_gather, comm.all_to_all

        def all_reduce_sum(self, x):
            self.sums += 1
            raise MemoryError

    full = Full()
    shards = ngdla.ColumnShards(p.here(p.S, slice(None), p.columns), full)
    with pytest.raises(MemoryError, match="Gram matrix"):
        ngdla.damped_lstsq(shards, p.g, 0.1)
    assert full.sums == 1
    p.goes_on()


def case_a_rank_that_does_not_come(comm, xp):
    """It raised in the caller's code: the others wait as long as their communicator says."""
    p = Fault(comm, xp)
    p.goes_on()
    comm.timeout = 0.5
    if p.guilty:
        return
    thread = type(comm).__name__ == "ThreadCommunicator"  # which knows that one has left
    kind = ConnectionError if thread else TimeoutError
    with pytest.raises(kind, match=r"Look for its error first|have left"):
        p.lstsq()
