"""Solves, factors and paths with shards, against those with all of S in one place."""

import numpy as np
import pytest
from sharded_problems import FLOATS, SPLITS, Problem, close, exchanged_part, normal, part

import ngdla
from ngdla._backend import shapes

SHAPES = ((9, 31), (23, 8))  # fewer rows than columns, and more


def problems(comm, xp, shapes=SHAPES):
    """Yield problems of each dtype, shape and split, each value with each of the others once."""
    for i, dtype in enumerate(FLOATS):
        for j, shape in enumerate(shapes):
            yield Problem(comm, xp, *shape, dtype, SPLITS[(i + j) % 3])


def case_least_squares_by_columns(comm, xp):
    for p in problems(comm, xp):
        f, x0 = p.here(p.f), p.here(p.x0, p.columns)
        for refine in (0, 1, 2):
            x = ngdla.damped_lstsq(p.column_shards(), f, p.damping, refine=refine)
            p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping), p.columns)
            x = ngdla.damped_lstsq(p.column_shards(), f, p.damping, x0=x0, refine=refine)
            p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping, x0=p.x0), p.columns)


def case_least_squares_by_rows(comm, xp):
    for p in problems(comm, xp):
        n, m = p.S.shape
        own = exchanged_part(m, comm) if n < m else slice(None)
        f, x0 = p.here(p.f, p.rows), p.here(p.x0, own)
        for refine in (0, 1, 2):
            x = ngdla.damped_lstsq(p.row_shards(), f, p.damping, refine=refine)
            p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping), own)
            x = ngdla.damped_lstsq(p.row_shards(), f, p.damping, x0=x0, refine=refine)
            p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping, x0=p.x0), own)


def case_solves(comm, xp):
    for p in problems(comm, xp):
        n, m = p.S.shape
        arrived = exchanged_part(m, comm) if n < m else slice(None)
        expected = ngdla.damped_solve(p.S, p.v, p.damping)
        for shards, own in ((p.column_shards(), p.columns), (p.row_shards(), arrived)):
            p.check(ngdla.damped_solve(shards, p.here(p.v, own), p.damping), expected, own)


def case_certificates(comm, xp):
    """What is said of a solution is the same on all ranks, and that of one process."""
    for p in problems(comm, xp):
        _, expected = ngdla.damped_lstsq(p.S, p.f, p.damping, full_output=True)
        for shards, f in p.with_samples(p.f):
            _, info = ngdla.damped_lstsq(shards, f, p.damping, full_output=True)
            for name in ("step_norm", "gain", "misfit_norm"):
                p.check(getattr(info, name), getattr(expected, name))
            assert bool(info.converged)
            same_on_all_ranks(comm, info)


def same_on_all_ranks(comm, info):
    numbers = [np.asarray(value).astype("float64").reshape(-1) for value in info]
    told = np.asarray(comm.all_gather(np.concatenate(numbers)))
    np.testing.assert_array_equal(told, np.broadcast_to(told[0], told.shape))


def case_factors(comm, xp):
    for p in problems(comm, xp):
        n, m = p.S.shape
        arrived = exchanged_part(m, comm) if n < m else slice(None)
        by_columns = p.column_shards(), slice(None), p.columns
        for shards, rows, own in (by_columns, (p.row_shards(), p.rows, arrived)):
            check_factor(p, shards, rows, own)


def check_factor(p, shards, rows, own):
    """Compare all that a factor returns; `rows` and `own` are the parts of f and x here."""
    f, v = p.here(p.f, rows), p.here(p.v, own)
    expected = ngdla.damped_factor(p.S, p.damping)
    factor = ngdla.damped_factor(shards, p.damping)
    p.check(factor.lstsq(f), expected.lstsq(p.f), own)
    p.check(factor.solve(v), expected.solve(p.v), own)
    p.check(factor.logdet(), expected.logdet())
    p.check(factor.effective_dimension(), expected.effective_dimension())
    p.check(factor.leave_one_out(f), expected.leave_one_out(p.f), rows)
    p.check(factor.overlap(v), expected.overlap(p.v))
    p.check(factor.squared_norm, expected.squared_norm)
    p.check(factor.with_damping(0.3).lstsq(f), expected.with_damping(0.3).lstsq(p.f), own)


def case_paths(comm, xp):
    dampings = [1e-3, 1e-2, 1.0]
    for p in problems(comm, xp):
        expected = ngdla.damping_path(p.S, p.f, dampings)
        for shards, f in p.with_samples(p.f):
            path = ngdla.damping_path(shards, f, dampings)
            for name in path._fields:
                found, length = getattr(path, name), len(getattr(expected, name))
                p.check(found[-length:], getattr(expected, name), condition=1e4)
            p.check(path.at_step(0.1), expected.at_step(0.1), condition=1e4)


def case_gram_matrices_and_column_norms(comm, xp):
    for p in problems(comm, xp):
        for shards in (p.column_shards(), p.row_shards()):
            p.check(ngdla.gram(shards), ngdla.gram(p.S))
        norms = ngdla.column_norms(p.S)
        p.check(ngdla.column_norms(p.column_shards()), norms, p.columns)
        n, m = p.S.shape
        own = exchanged_part(m, comm) if n < m else slice(None)
        p.check(ngdla.column_norms(p.row_shards()), norms, own)


def case_several_right_hand_sides_and_a_metric(comm, xp):
    for p in problems(comm, xp):
        n, m = p.S.shape
        F = normal(np.random.default_rng(1), (n, 3), p.dtype)
        expected = ngdla.damped_lstsq(p.S, F, p.damping, metric=p.metric)
        metric = p.here(p.metric, p.columns)
        x = ngdla.damped_lstsq(p.column_shards(), p.here(F), p.damping, metric=metric)
        p.check(x, expected, p.columns)
        factor = ngdla.damped_factor(p.column_shards(), p.damping, metric=metric)
        p.check(factor.logdet(), ngdla.damped_factor(p.S, p.damping, metric=p.metric).logdet())
        own = exchanged_part(m, comm) if n < m else slice(None)
        metric = p.here(p.metric, own)
        x = ngdla.damped_lstsq(p.row_shards(), p.here(F, p.rows), p.damping, metric=metric)
        p.check(x, expected, own)


def case_methods_and_precisions(comm, xp):
    for p in (Problem(comm, xp, *shape) for shape in SHAPES):
        expected = ngdla.damped_lstsq(p.S, p.f, p.damping)
        for options in (
            {"method": "eigh"},
            {"method": "cg"},
            {"precision": "mixed"},
            {"precision": "float32"},
            {"check": "nan"},
            {"check": False},
        ):
            x = ngdla.damped_lstsq(p.column_shards(), p.here(p.f), p.damping, **options)
            p.check(x, expected, p.columns, condition=100 * p.condition)
        for shards in (p.column_shards(), p.row_shards()):
            for method in ("svd", "qr"):
                with pytest.raises(ValueError, match=f"`method` is '{method}'"):
                    ngdla.damped_factor(shards, p.damping, method=method)


def case_a_climb_to_double_precision(comm, xp):
    """Where the damping is too small for single precision, all ranks go on together."""
    p = Problem(comm, xp, 23, 8, "float32", "uneven")
    for damping, said in ((1e-5, "residuals were"), (1e-7, "the Gram matrix and its factor were")):
        expected = ngdla.damped_lstsq(p.S.astype("float64"), p.f.astype("float64"), damping)
        with pytest.warns(ngdla.PrecisionWarning, match=said):
            x = ngdla.damped_lstsq(p.column_shards(), p.here(p.f), damping)
        p.check(x, expected.astype("float32"), p.columns, condition=1 / 0.03)


case_a_climb_to_double_precision.engines = ("mpi", "gloo")  # threads share their warnings


def case_row_space(comm, xp):
    p = Problem(comm, xp, 9, 31)
    v = p.S.T @ p.f
    expected = ngdla.damped_lstsq(p.S, p.f, p.damping)
    x = ngdla.damped_solve(p.column_shards(), p.here(v, p.columns), p.damping, row_space=True)
    p.check(x, expected, p.columns, condition=p.condition**2)


def case_layers(comm, xp):
    """Each rank has some layers, of other numbers and shapes than those of other ranks."""
    p = Problem(comm, xp, 9, 47, split="uneven")
    expected = ngdla.damped_lstsq(p.S, p.f, p.damping, x0=p.x0)

    def blocks(x):
        return [x[..., :2], x[..., 2:5], x[..., 5:]]

    x0 = blocks(p.here(p.x0, p.columns))
    x = ngdla.damped_lstsq(p.column_shards(blocks), p.here(p.f), p.damping, x0=x0)
    assert [piece.shape[-1] for piece in x[:2]] == [2, 3]
    p.check(xp.concat(x, axis=-1), expected, p.columns)

    def tree(S):
        return {f"w{comm.rank}": xp.reshape(S[:, 2:6], (-1, 2, 2)), "b": S[:, 6:], "a": S[:, :2]}

    x = ngdla.damped_lstsq(p.column_shards(tree), p.here(p.f), p.damping)
    assert tuple(x[f"w{comm.rank}"].shape) == (2, 2)
    flat = xp.concat([x["a"], xp.reshape(x[f"w{comm.rank}"], (-1,)), x["b"]], axis=-1)
    p.check(flat, ngdla.damped_lstsq(p.S, p.f, p.damping), p.columns)


def case_streams_of_columns(comm, xp):
    """Each rank streams its own blocks, of other widths and numbers than those of others."""
    for i, dtype in enumerate(FLOATS):
        p = Problem(comm, xp, *SHAPES[i % 2], dtype, "uneven")
        f, v, x0 = p.here(p.f), p.here(p.v, p.columns), p.here(p.x0, p.columns)
        shards = p.column_shards(lambda S: column_stream(S, 2 + comm.rank))
        x = ngdla.damped_lstsq(shards, f, p.damping, x0=x0)
        p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping, x0=p.x0), p.columns)
        factor = ngdla.damped_factor(shards, p.damping)
        p.check(factor.solve(v), ngdla.damped_solve(p.S, p.v, p.damping), p.columns)
        p.check(ngdla.gram(shards), ngdla.gram(p.S))


def column_stream(S, width):
    def blocks():
        for i in range(0, S.shape[-1], width):
            yield S[:, i : i + width]

    return ngdla.ColumnStream(blocks, tuple(S.shape), dtype=S.dtype, like=S)


def case_streams_of_rows(comm, xp):
    p = Problem(comm, xp, 40, 8)

    def stream(S):
        def blocks():
            for i in range(0, S.shape[0], 3 + comm.rank):
                yield S[i : i + 3 + comm.rank]

        return ngdla.RowStream(blocks, tuple(S.shape), dtype=S.dtype, like=S)

    x = ngdla.damped_lstsq(p.row_shards(stream), p.here(p.f, p.rows), p.damping)
    p.check(x, ngdla.damped_lstsq(p.S, p.f, p.damping))


def case_null_vectors(comm, xp):
    for p in problems(comm, xp):
        n = p.S.shape[0]
        S = (p.S - p.S.mean(axis=0)).astype(p.dtype)
        null = np.full(n, n**-0.5, p.S.real.dtype)
        expected = ngdla.damped_factor(S, p.damping, null=null)
        p.S = S
        shards = p.column_shards()
        factor = ngdla.damped_factor(shards, p.damping, null=p.here(null))
        p.check(factor.lstsq(p.here(p.f)), expected.lstsq(p.f), p.columns)
        p.check(factor.logdet(), expected.logdet())
        left_out = factor.leave_one_out(p.here(p.f))
        p.check(left_out, expected.leave_one_out(p.f))
        factor = ngdla.damped_factor(p.row_shards(), p.damping, null=p.here(null, p.rows))
        left_out = factor.leave_one_out(p.here(p.f, p.rows))
        p.check(left_out, expected.leave_one_out(p.f), p.rows)


def case_a_batch(comm, xp):
    """Stacked problems."""
    for shape in SHAPES:
        p = Problem(comm, xp, *shape, split="uneven")
        S, f = np.stack([p.S, 2 * p.S]), np.stack([p.f, p.f[::-1]])
        expected = ngdla.damped_lstsq(S, f, p.damping)
        shards = ngdla.ColumnShards(p.here(S, ..., p.columns), comm)
        x = ngdla.damped_lstsq(shards, p.here(f), p.damping)
        p.check(x, expected, (..., p.columns))
        shards = ngdla.RowShards(p.here(S, ..., p.rows, slice(None)), comm)
        x = ngdla.damped_lstsq(shards, p.here(f, ..., p.rows), p.damping)
        n, m = shape
        p.check(x, expected, (..., exchanged_part(m, comm)) if n < m else None)


def case_half_precision(comm, xp):
    for shape in SHAPES:
        p = Problem(comm, xp, *shape, split="one empty")
        S, f = p.S.astype("float16"), p.f.astype("float32")
        expected = ngdla.damped_lstsq(S, f, p.damping)
        shards = ngdla.ColumnShards(p.here(S, slice(None), p.columns), comm)
        p.check(ngdla.damped_lstsq(shards, p.here(f), p.damping), expected, p.columns)
        x = ngdla.damped_lstsq(ngdla.RowShards(p.here(S, p.rows), comm), p.here(f, p.rows), 0.01)
        n, m = shape
        p.check(x, expected, exchanged_part(m, comm) if n < m else None)


def case_complex_right_hand_sides_of_real_scores(comm, xp):
    for shape in SHAPES:
        p = Problem(comm, xp, *shape, split="uneven")
        n, m = shape
        f, own = p.f + 1j * p.f[::-1], exchanged_part(m, comm) if n < m else slice(None)
        expected = ngdla.damped_lstsq(p.S, f, p.damping)
        x = ngdla.damped_lstsq(p.column_shards(), p.here(f), p.damping)
        p.check(x, expected, p.columns)
        x = ngdla.damped_lstsq(p.row_shards(), p.here(f, p.rows), p.damping)
        p.check(x, expected, own)


def case_an_exchange_in_many_chunks(comm, xp):
    """Of one to three columns for every rank; layers have other widths."""
    p = Problem(comm, xp, 9, 31, split="uneven")
    expected = ngdla.damped_lstsq(p.S, p.f, p.damping)
    for columns in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shapes, "CHUNK_BYTES", columns * comm.size * 9 * 8)
            shards = p.row_shards(lambda S: [S[:, :2], S[:, 2:15], S[:, 15:]])
            x = ngdla.damped_lstsq(shards, p.here(p.f, p.rows), p.damping)
        p.check(x, expected, exchanged_part(31, comm))


case_an_exchange_in_many_chunks.engines = ("mpi", "gloo")  # threads share the constant


def case_only_one_rank_has_columns(comm, xp):
    p = Problem(comm, xp, 9, 31)
    p.columns = slice(0, 31) if comm.rank == comm.size - 1 else slice(31, 31)
    p.rows = slice(0, 9) if comm.rank == 0 else slice(9, 9)
    expected = ngdla.damped_lstsq(p.S, p.f, p.damping)
    p.check(
        ngdla.damped_lstsq(p.column_shards(columns=31), p.here(p.f), p.damping), expected, p.columns
    )
    x = ngdla.damped_lstsq(p.row_shards(rows=9), p.here(p.f, p.rows), p.damping)
    p.check(x, expected, exchanged_part(31, comm))


def case_fewer_columns_than_ranks(comm, xp):
    rng = np.random.default_rng(0)
    S, f = rng.standard_normal((4, 1)), rng.standard_normal(4)
    columns = part(1, comm, "uneven")
    shards = ngdla.ColumnShards(xp.asarray(S[:, columns].copy()), comm)
    x = ngdla.damped_lstsq(shards, xp.asarray(f), 0.1)
    close(x, ngdla.damped_lstsq(S, f, 0.1), columns, condition=100)


def case_arguments_are_left_as_they_are(comm, xp):
    """Communicators may write to what they sum: that is never what the caller has."""
    for n, m in ((1, 7), (9, 31), (9, 3)):
        p = Problem(comm, xp, n, m)
        S, f, x0 = p.here(p.S, slice(None), p.columns), p.here(p.f), p.here(p.x0, p.columns)
        rows, g, null = p.here(p.S, p.rows), p.here(p.f, p.rows), p.here(p.f / np.linalg.norm(p.f))
        arguments = (S, f, x0, rows, g, null)
        before = [np.array(x) for x in arguments]
        by_columns, by_rows = ngdla.ColumnShards(S, comm), ngdla.RowShards(rows, comm)
        ngdla.damped_lstsq(by_columns, f, p.damping, x0=x0)
        ngdla.damped_lstsq(by_columns, f, p.damping, null=null, check=False)
        ngdla.damped_lstsq(by_rows, g, p.damping)
        ngdla.stochastic_reconfiguration(by_rows, g, p.damping)
        for shards in (by_columns, by_rows):
            ngdla.gram(shards)
        for x, old in zip(arguments, before):
            np.testing.assert_array_equal(np.asarray(x), old)
