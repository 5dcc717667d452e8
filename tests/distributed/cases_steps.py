"""Steps of stochastic reconfiguration with shards, against those with all samples in one place."""

import numpy as np
from sharded_problems import Problem, exchanged_part, normal

import ngdla

SHAPES = ((12, 31), (26, 7))  # samples and parameters: fewer, and more
MODES = (("real", "float64"), ("complex", "complex128"), ("holomorphic", "complex128"))


class Walkers(Problem):
    """Log-derivatives S, local energies f, weights of samples, one of them 0, and a last step."""

    def __init__(self, comm, xp, n, m, dtype="float64", split="even", *, mode="real"):
        super().__init__(comm, xp, n, m, dtype, split)
        rng = np.random.default_rng(1)
        self.S = self.S + normal(rng, (m,), dtype)  # which is centred
        self.options = {} if "complex" not in dtype else {"mode": mode}
        self.weights = rng.uniform(0.5, 2, n).astype(self.S.real.dtype)
        self.weights[1] = 0
        last = normal(rng, (m,), dtype)
        self.last = last if mode == "holomorphic" else np.ascontiguousarray(last.real)

    def check_step(self, expected, options, make=None, **of_samples):
        """Compare steps of columns and of rows; `of_samples` are arguments with the n axis."""
        own = self.columns
        given = {name: self.here(values) for name, values in of_samples.items()}
        given |= {name: self.here(values, own) for name, values in options[0].items()}
        step = ngdla.stochastic_reconfiguration(
            self.column_shards(make), self.here(self.f), self.damping, **given, **options[1]
        )
        self.check(step, expected, own)
        given = {name: self.here(values, self.rows) for name, values in of_samples.items()}
        energies, shards = self.here(self.f, self.rows), self.row_shards(make)
        whole = {name: self.here(values) for name, values in options[0].items()}
        step = ngdla.stochastic_reconfiguration(
            shards, energies, self.damping, **given, **whole, **options[1]
        )
        self.check(step, expected)
        n, m = self.S.shape
        if n * (2 if self.options.get("mode") == "complex" else 1) < m:
            own = exchanged_part(m, self.comm)
            given |= {name: self.here(values, own) for name, values in options[0].items()}
            step = ngdla.stochastic_reconfiguration(
                shards, energies, self.damping, gathered=False, **given, **options[1]
            )
            self.check(step, expected, own)


def walkers(comm, xp, splits=("even", "uneven", "one empty")):
    """Yield walkers of each shape and mode, and in single precision."""
    for i, (mode, dtype) in enumerate(MODES):
        for j, shape in enumerate(SHAPES):
            yield Walkers(comm, xp, *shape, dtype, splits[(i + j) % len(splits)], mode=mode)
    yield Walkers(comm, xp, *SHAPES[0], "float32", splits[-1])


def on_one_process(p, **options):
    return ngdla.stochastic_reconfiguration(p.S, p.f, p.damping, **p.options, **options)


def case_steps(comm, xp):
    for p in walkers(comm, xp):
        p.check_step(on_one_process(p), ({}, p.options))


def case_weights(comm, xp):
    for p in walkers(comm, xp):
        expected = on_one_process(p, weights=p.weights)
        p.check_step(expected, ({}, p.options), weights=p.weights)


def case_samples_of_weight_0_may_be_nan(comm, xp):
    for p in walkers(comm, xp):
        expected = on_one_process(p, weights=p.weights)
        p.S[1], p.f[1] = np.nan, np.inf
        p.check_step(expected, ({}, p.options), weights=p.weights)


def case_a_rank_whose_weights_are_all_0(comm, xp):
    p = Walkers(comm, xp, 12, 31)
    weights = np.ones(12)
    weights[: 12 // comm.size] = 0
    p.check_step(on_one_process(p, weights=weights), ({}, {}), weights=weights)


def case_spring(comm, xp):
    for p in walkers(comm, xp):
        expected = on_one_process(p, previous=p.last, momentum=0.9)
        p.check_step(expected, ({"previous": p.last}, {"momentum": 0.9, **p.options}))


def case_steps_that_follow_each_other(comm, xp):
    """A trajectory is that of one process, whatever the number of ranks."""
    p = Walkers(comm, xp, 12, 31, split="uneven")
    theirs, mine, whole = None, None, None
    own = {"momentum": 0.9}
    for i in range(5):
        energies = p.f * np.cos(i + np.arange(12))
        theirs = ngdla.stochastic_reconfiguration(p.S, energies, 0.01, previous=theirs, **own)
        mine = ngdla.stochastic_reconfiguration(
            p.column_shards(), p.here(energies), 0.01, previous=mine, **own
        )
        whole = ngdla.stochastic_reconfiguration(
            p.row_shards(), p.here(energies, p.rows), 0.01, previous=whole, **own
        )
        p.check(mine, theirs, p.columns, condition=10 * p.condition)
        p.check(whole, theirs, condition=10 * p.condition)


def case_signal_to_noise_ratios(comm, xp):
    for p in walkers(comm, xp, ("even", "uneven")):
        options = {"snr": 1.0, "cutoff": 1e-3}
        expected = on_one_process(p, **options)
        p.condition = 1e5
        p.check_step(expected, ({}, options | p.options))


def case_metric_and_certificate(comm, xp):
    p = Walkers(comm, xp, 12, 31, split="uneven")
    expected, told = on_one_process(p, metric=p.metric, full_output=True)
    for shards, f, metric, own in (
        (p.column_shards(), p.here(p.f), p.here(p.metric, p.columns), p.columns),
        (p.row_shards(), p.here(p.f, p.rows), p.here(p.metric), slice(None)),
    ):
        step, info = ngdla.stochastic_reconfiguration(
            shards, f, p.damping, metric=metric, full_output=True
        )
        p.check(step, expected, own)
        for name in ("step_norm", "gain", "misfit_norm"):
            p.check(getattr(info, name), getattr(told, name))


def case_scores(comm, xp):
    for p in walkers(comm, xp):
        expected = ngdla.scores(p.S, weights=p.weights, **p.options)
        shards = ngdla.scores(p.column_shards(), weights=p.here(p.weights), **p.options)
        p.check(shards.local, expected, (slice(None), p.columns))
        if p.options.get("mode") == "complex":
            continue
        shards = ngdla.scores(p.row_shards(), weights=p.here(p.weights, p.rows), **p.options)
        p.check(shards.local, expected, p.rows)


def case_trees_of_parameters(comm, xp):
    """With rows on each rank steps are trees as those of one process."""

    def tree(O):
        return {"w": xp.reshape(O[:, 1:], (-1, 6, 5)), "b": O[:, :1]}

    p = Walkers(comm, xp, 12, 31)
    expected = on_one_process(p)
    step = ngdla.stochastic_reconfiguration(p.row_shards(tree), p.here(p.f, p.rows), p.damping)
    assert tuple(step["w"].shape) == (6, 5)
    p.check(step["b"], expected[:1], condition=10 * p.condition)
    p.check(xp.reshape(step["w"], (-1,)), expected[1:])
    again = ngdla.stochastic_reconfiguration(
        p.row_shards(tree), p.here(p.f, p.rows), p.damping, previous=step, momentum=0.5
    )
    theirs = on_one_process(p, previous=expected, momentum=0.5)
    p.check(xp.reshape(again["w"], (-1,)), theirs[1:])


def case_packed_pairs(comm, xp):
    rng = np.random.default_rng(0)
    O, f = normal(rng, (12, 2, 31), "complex128"), normal(rng, (12,), "complex128")
    options = {"mode": "complex", "pack": True}
    expected = ngdla.stochastic_reconfiguration(O, f, 0.1, **options)
    p = Walkers(comm, xp, 12, 31, "complex128", "uneven", mode="complex")
    p.condition = 1e4
    shards = ngdla.RowShards(p.here(O, p.rows), comm)
    step = ngdla.stochastic_reconfiguration(shards, p.here(f, p.rows), 0.1, **options)
    p.check(step, expected)
    shards = ngdla.ColumnShards(p.here(O, ..., p.columns), comm)
    step = ngdla.stochastic_reconfiguration(shards, p.here(f), 0.1, **options)
    p.check(step, expected, p.columns)


def case_streams_of_log_derivatives(comm, xp):
    p = Walkers(comm, xp, 12, 31, split="uneven")

    def stream(O):
        def blocks():
            for i in range(0, O.shape[1], 3 + comm.rank):
                yield O[:, i : i + 3 + comm.rank]

        return ngdla.ColumnStream(blocks, tuple(O.shape), dtype=O.dtype, like=O)

    for weights in ({}, {"weights": p.weights}):
        step = ngdla.stochastic_reconfiguration(
            p.column_shards(stream),
            p.here(p.f),
            p.damping,
            **{name: p.here(values) for name, values in weights.items()},
        )
        p.check(step, on_one_process(p, **weights), p.columns)
