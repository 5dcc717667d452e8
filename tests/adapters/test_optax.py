"""Transformations of optax: steps by definition, compiled, combined, saved, and bad input."""

import pickle
from functools import cache, partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
from spectra import quick_compilation  # noqa: F401

import ngdla
from ngdla.adapters.optax import damped_natural_gradient, fngd, kfac, singd

M, T, DAMPING = 12, 3, 1e-2
U = 2.0**-53


@pytest.fixture(autouse=True)
def double_precision():
    """Definitions are held in float64; the setting is that of the process again afterwards."""
    wide = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", wide)


# ----------------------------------------------------------------------------------- problem

# A dense layer, a convolution of 1 x 5 pixels without a bias, and parameters of no layer. Both
# layers are of one size, so that what is called outside of compiled code is compiled once.
SHAPES = {
    "block": {"dense": {"kernel": (4, 3), "bias": (3,)}, "scale": (5,)},
    "conv": {"kernel": (1, 5, 1, 3)},
}
LAYERS = {"block/dense": (5, 3), "conv": (5, 3)}


def is_shape(x):
    return isinstance(x, tuple)


def parameters(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), dtype), SHAPES, is_leaf=is_shape
    )


def batch(seed, dtype="float64", positions=()):
    """Return updates, and rows in their places."""
    rng = np.random.default_rng([seed, 7])

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    a, c = normal(M, *positions, 5).at[..., -1].set(1), normal(M, *positions, 5)
    rows = {
        "block": {"dense": (a, normal(M, *positions, 3))},
        "conv": (c, normal(M, *positions, 3)),
    }
    return parameters(seed + 100, dtype), rows


def weight_of(tree, name):
    """Return a layer as (d_out, d_in), with its bias as the last column, in NumPy."""
    layer = tree["conv"] if name == "conv" else tree["block"]["dense"]
    kernel = np.asarray(layer["kernel"])
    V = kernel.reshape(-1, kernel.shape[-1]).T
    return np.column_stack([V, layer["bias"]]) if "bias" in layer else V


def pair_of(rows, name):
    pair = rows["conv"] if name == "conv" else rows["block"]["dense"]
    return [np.asarray(x) for x in pair]


def steps_of(transformation, batches):
    """Return what updates become, and the last state."""
    state, steps = transformation.init(parameters()), []
    for updates, rows in batches:
        step, state = transformation.update(updates, state, rows=rows)
        steps.append(step)
    return steps, state


def assert_near(x, y, tolerance):
    assert np.linalg.norm(x - y) <= tolerance * np.linalg.norm(y)


# -------------------------------------------------------------------------------------- KFAC


def averages(batches, name, decay):
    """Return A and G after some batches, as sums of weighted batches."""
    weights = []
    for t in range(1, len(batches) + 1):
        past = min(decay, 1 - 1 / t)
        weights = [past * w for w in weights] + [1 - past]
    pairs = [pair_of(rows, name) for _, rows in batches]
    return [sum(w * pair[i].T @ pair[i] / M for w, pair in zip(weights, pairs)) for i in (0, 1)]


def kfac_step(A, G, V, damping=DAMPING):
    """Return X with G X A + damping X = V, by the matrix of that equation."""
    F = np.kron(A, G) + damping * np.eye(V.size)
    return np.linalg.solve(F, V.T.ravel()).reshape(V.shape[::-1]).T


@pytest.mark.parametrize("refresh", [1, 2])
def test_kfac_is_its_equation(refresh):
    batches = [batch(seed) for seed in range(3)]
    decay = 0.6  # from the third batch on
    steps, state = steps_of(kfac(DAMPING, rank=None, decay=decay, refresh=refresh), batches)
    for t, ((updates, _), step) in enumerate(zip(batches, steps), start=1):
        seen = t - (t - 1) % refresh
        for name in LAYERS:
            expected = kfac_step(*averages(batches[:seen], name, decay), weight_of(updates, name))
            assert_near(weight_of(step, name), expected, 1e4 * U / DAMPING)
        np.testing.assert_array_equal(step["block"]["scale"], updates["block"]["scale"])
    assert int(state.step) == 3


def test_kfac_with_a_factor_of_low_rank():
    """Inputs in a plane: 3 of 40 eigenpairs are all there are, at the first refresh and later."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((M, 2)) @ rng.standard_normal((2, 40))
    g, V = rng.standard_normal((M, 3)), rng.standard_normal((3, 40))
    transformation = kfac(DAMPING, rank=3, refresh=2)
    state = transformation.init({"kernel": V.T})
    update = jax.jit(transformation.update)
    expected = kfac_step(a.T @ a / M, g.T @ g / M, V)
    for _ in range(3):
        step, state = update({"kernel": V.T}, state, rows=(a, g))
        assert_near(step["kernel"].T, expected, 1e-9)
    (layer,) = state.factors
    assert layer.inputs.eigh.eigenvectors.shape == (40, 3)
    assert layer.outputs.eigh.complete


@pytest.mark.parametrize("learning_rate", [0.5, lambda step: 0.5 / (1 + step)])
def test_steps_are_bounded(learning_rate):
    batches = [batch(seed) for seed in range(2)]
    free, _ = steps_of(kfac(DAMPING, rank=None), batches)
    bounds = {"kl": 1e-3, "learning_rate": learning_rate}
    steps, _ = steps_of(kfac(DAMPING, rank=None, **bounds), batches)
    loose, _ = steps_of(kfac(DAMPING, rank=None, **bounds | {"kl": 1e9}), batches)
    for t, (updates, _) in enumerate(batches):
        rate = 0.5 / (1 + t) if callable(learning_rate) else 0.5
        X, F, V = (
            np.concatenate([weight_of(tree, name).ravel() for name in LAYERS])
            for tree in (steps[t], free[t], updates)
        )
        assert_near(X, F * (1e-3 / (rate**2 * F @ V)) ** 0.5, 1e-12)
        jax.tree.map(np.testing.assert_array_equal, loose[t], free[t])
        np.testing.assert_array_equal(steps[t]["block"]["scale"], updates["block"]["scale"])


# ------------------------------------------------------------------------------------- SINGD


@pytest.mark.parametrize(
    ("options", "refresh"),
    [
        ({"rule": "ingd", "momentum": 0.5}, 1),
        ({"rule": "ikfac", "momentum": 0.0}, 2),
    ],
)
def test_singd_is_its_updates(options, refresh):
    batches = [batch(seed) for seed in range(3)]
    structures = ("dense", "diagonal")
    numbers = {"damping": DAMPING, "step_size": 0.1} | options
    steps, state = steps_of(singd(**numbers, structures=structures, refresh=refresh), batches)
    for layer, (name, size) in zip(state.factors, LAYERS.items()):
        own = ngdla.inverse_free_init(*size, structures=structures, like=jnp.zeros(1))
        for t, ((updates, rows), step) in enumerate(zip(batches, steps)):
            if t % refresh == 0:
                pair = map(jnp.asarray, pair_of(rows, name))
                own = ngdla.inverse_free_update(
                    own, ngdla.inverse_free_statistics(own, *pair), **numbers
                )
            K, C = np.asarray(own.K.to_dense()), np.asarray(own.C.to_dense())
            expected = C @ C.T @ weight_of(updates, name) @ K @ K.T
            assert_near(weight_of(step, name), expected, 1e3 * U)
        np.testing.assert_array_equal(layer.K.to_dense(), own.K.to_dense())
        assert int(layer.step) == (3 + refresh - 1) // refresh
        assert (layer.momentum_K == ()) == (options["momentum"] == 0)


# -------------------------------------------------------------------------------------- FNGD

SHARED = {
    "exact": {},
    "every": {"samples": M, "period": 2},
    "shared": {"samples": M, "period": 2},
    "table": {"samples": M, "period": 2},
    "mean": {"samples": M, "period": 2},
}


@pytest.mark.parametrize("policy", SHARED)
def test_fngd_is_a_weighted_sum(policy):
    """With the weights that weight_sharing_step gives, here of samples with positions."""
    batches = [batch(seed, positions=(T,)) for seed in range(4)]
    steps, _ = steps_of(fngd(DAMPING, policy=policy, **SHARED[policy]), batches)
    for name in LAYERS:
        period = SHARED[policy].get("period")
        sharing = ngdla.weight_sharing_init(policy, M, period=period)
        for (_, rows), step in zip(batches, steps):
            a, g = pair_of(rows, name)
            v, sharing = ngdla.weight_sharing_step(sharing, a, g, DAMPING, positions=True)
            expected = np.einsum("m,mto,mti->oi", v, g, a)
            assert_near(weight_of(step, name), expected, 1e4 * U / DAMPING)


def test_fngd_without_positions_is_the_natural_gradient():
    """Damping times (F + damping)^-1 of the mean gradient, F = U U^T / M."""
    transformation = fngd(0.1, relative=False)
    updates, rows = batch(0)
    step, _ = transformation.update(updates, transformation.init(parameters()), rows=rows)
    for name in LAYERS:
        a, g = pair_of(rows, name)
        gradients = np.einsum("mo,mi->moi", g, a).reshape(M, -1)
        F = gradients.T @ gradients
        d = np.linalg.solve(F + 0.1 * M * np.eye(len(F)), gradients.sum(0)) * 0.1
        assert_near(weight_of(step, name).ravel(), d, 1e4 * U)


# -------------------------------------------------------------------------- natural gradients


def scores_of(seed, n=6):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape))

    return jax.tree.map(lambda x: normal(n, *x.shape), parameters()), normal(n)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_damped_natural_gradient_is_least_squares(momentum):
    transformation = damped_natural_gradient(DAMPING, momentum=momentum)
    state, x = transformation.init(parameters()), np.zeros(35)
    for seed in range(3):
        scores, f = scores_of(seed)
        step, state = transformation.update(parameters(), state, scores=scores, residuals=f)
        S = np.concatenate([np.reshape(leaf, (6, -1)) for leaf in jax.tree.leaves(scores)], axis=1)
        x0 = momentum * x
        x = x0 + S.T @ np.linalg.solve(S @ S.T + DAMPING * np.eye(6), f - S @ x0)
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(step)])
        assert_near(flat, x, 1e4 * U)
    assert jax.tree.structure(step) == jax.tree.structure(parameters())
    assert len(state.previous) == (len(jax.tree.leaves(step)) if momentum else 0)


# ------------------------------------------------------------------------------- all of them

METHODS = {
    "kfac": partial(kfac, DAMPING, rank=None, refresh=2, kl=1e-2),
    "singd": partial(singd, DAMPING, step_size=0.1, refresh=2, momentum=0.5, kl=1e-2),
    "fngd": partial(fngd, DAMPING, policy="every", samples=M, period=2),
    "natural": partial(damped_natural_gradient, DAMPING, momentum=0.5, precision="native"),
}


def arguments(name, seed, dtype="float64"):
    """Return updates, and what an update takes beside them."""
    if name == "natural":
        scores, f = jax.tree.map(lambda x: x.astype(dtype), scores_of(seed))
        return parameters(seed, dtype), {"scores": scores, "residuals": f}
    updates, rows = batch(seed, dtype)
    return updates, {"rows": rows}


def chained(name):
    return optax.chain(METHODS[name](), optax.trace(0.9), optax.scale_by_learning_rate(0.1))


@cache
def compiled(name):
    """Return the chain, and a function that scans batches, to which a state is donated."""
    optimizer = chained(name)

    def body(state, given):
        updates, extra = given
        updates, state = optimizer.update(updates, state, None, **extra)
        return state, updates

    return optimizer, jax.jit(partial(jax.lax.scan, body), donate_argnums=0)


def stacked(name, seeds):
    trees = [arguments(name, seed) for seed in seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("name", METHODS)
def test_a_scan_makes_the_same_steps(name):
    """Compiled once, refreshes being branches; and eager code takes other paths."""
    optimizer, scan = compiled(name)
    own = optimizer.init(parameters())
    state, steps = scan(optimizer.init(parameters()), stacked(name, range(3)))
    for t in range(3):
        updates, extra = arguments(name, t)
        updates, own = optimizer.update(updates, own, None, **extra)
        for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(steps)):
            assert_near(x, y[t], 1e6 * U)
    assert jax.tree.structure(state) == jax.tree.structure(own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
def test_states_keep_their_form(name, dtype):
    """Steps have the dtype of the updates, states of half precision are single, from init on."""
    transformation = METHODS[name]()
    state = jax.eval_shape(transformation.init, parameters(dtype=dtype))
    updates, extra = arguments(name, 0, dtype)
    extra = jax.tree.map(lambda x: x.astype("float32"), extra)
    step, new = jax.eval_shape(partial(transformation.update, params=None), updates, state, **extra)
    assert {x.dtype for x in jax.tree.leaves(step)} == {jnp.dtype(dtype)}
    assert jax.tree.structure(state) == jax.tree.structure(new)
    kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (state, new)]
    assert kinds[0] == kinds[1]
    if name != "singd":  # whose storage is an option
        kinds = {x.dtype for x in jax.tree.leaves(state)}
        assert kinds == {jnp.dtype("int32"), jnp.dtype("float32")}


def through_state_dict(state, template, folder):
    arrays = {key: np.asarray(x) for key, x in ngdla.state_dict(state[0]).items()}
    np.savez(folder / "state.npz", **arrays)
    with np.load(folder / "state.npz") as saved:
        return ngdla.load_state_dict(template[0], saved), *jax.tree.map(jnp.copy, state[1:])


def through_leaves(state, template, folder):
    text = pickle.dumps([np.asarray(x) for x in jax.tree.leaves(state)])
    return jax.tree.structure(template).unflatten(map(jnp.asarray, pickle.loads(text)))


@pytest.mark.parametrize("through", [through_state_dict, through_leaves])
@pytest.mark.parametrize("name", METHODS)
def test_training_goes_on_bit_for_bit(name, through, tmp_path):
    optimizer, scan = compiled(name)
    state, _ = scan(optimizer.init(parameters()), stacked(name, range(3)))
    restored = through(state, optimizer.init(parameters(5)), tmp_path)
    ends = [scan(x, stacked(name, range(3, 6))) for x in (state, restored)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_orbax_keeps_states_as_they_are(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    states, templates = {}, {}
    for name in METHODS:
        optimizer, scan = compiled(name)
        states[name], _ = scan(optimizer.init(parameters()), stacked(name, range(3)))
        templates[name] = optimizer.init(parameters(5))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", templates)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    jax.tree.map(np.testing.assert_array_equal, restored, states)


# ------------------------------------------------------------------------------ combinations


@pytest.mark.parametrize("name", ["kfac", "singd", "fngd"])
def test_masked_layers_may_have_rows(name):
    """Of a layer by itself steps are the same; a clip, which is of all layers, is off here."""
    options = {} if name == "fngd" else {"kl": None}
    transformation = METHODS[name](**options)
    updates, rows = batch(0)
    whole, _ = steps_of(transformation, [(updates, rows)])
    kinds = {"block": {"dense": "natural", "scale": "plain"}, "conv": "plain"}
    parts = {"natural": METHODS[name](**options), "plain": optax.scale(-2.0)}
    optimizer = optax.multi_transform(parts, kinds)
    state = optimizer.init(parameters())
    step, state = optimizer.update(updates, state, parameters(), rows=rows)
    for key in ("kernel", "bias"):
        x, y = (tree["block"]["dense"][key] for tree in (step, whole[0]))
        assert_near(x, y, 1e4 * U)
    np.testing.assert_array_equal(step["conv"]["kernel"], -2 * updates["conv"]["kernel"])
    np.testing.assert_array_equal(step["block"]["scale"], -2 * updates["block"]["scale"])


def test_a_kernel_without_its_bias():
    """Where the bias is masked, rows have no column of ones."""
    mask = {"block": {"dense": {"kernel": True, "bias": False}, "scale": True}, "conv": False}
    optimizer = optax.masked(fngd(DAMPING), mask)
    updates, rows = batch(0)
    a, g = rows["block"]["dense"]
    state = optimizer.init(parameters())
    with pytest.raises(ValueError, match=r"'block/dense' have widths 5 and 3; they must be 4, of"):
        optimizer.update(updates, state, rows=rows)
    step, _ = optimizer.update(updates, state, rows={"block": {"dense": (a[:, 1:], g)}})
    v = ngdla.sample_weights(ngdla.sample_gram(a[:, 1:], g), DAMPING, normalized=True)
    assert_near(step["block"]["dense"]["kernel"], (a[:, 1:].T * v) @ g, 1e3 * U)
    np.testing.assert_array_equal(step["block"]["dense"]["bias"], updates["block"]["dense"]["bias"])


def test_excluded_layers_pass():
    updates, rows = batch(0)
    for exclude in (["conv"], ["block"]):
        (step,), state = steps_of(kfac(DAMPING, rank=None, exclude=exclude), [(updates, rows)])
        assert state.layers == (("conv",) if exclude == ["block"] else ("block/dense",))
        (same,) = exclude
        jax.tree.map(np.testing.assert_array_equal, step[same], updates[same])


@pytest.mark.parametrize(
    ("method", "options", "static"),
    [
        (kfac, {"damping": DAMPING, "rank": None, "kl": 1e-2}, ("rank", "refresh", "rng")),
        (singd, {"damping": DAMPING, "step_size": 0.1, "momentum": 0.5}, ("refresh",)),
        (fngd, {"damping": DAMPING}, ()),
        (
            damped_natural_gradient,
            {"damping": DAMPING, "momentum": 0.5, "precision": "native"},
            ("refine",),
        ),
    ],
)
def test_hyperparameters_in_the_state(method, options, static):
    """Their values are arrays then, which a program may change between steps."""
    name = "natural" if method is damped_natural_gradient else method.__name__
    optimizer = optax.inject_hyperparams(method, static_args=static)(**options)
    state = optimizer.init(parameters())
    state.hyperparams["damping"] = jnp.asarray(3 * DAMPING)
    updates, extra = arguments(name, 0)
    step, _ = optimizer.update(updates, state, parameters(), **extra)
    own = method(**options | {"damping": lambda step: 3 * DAMPING})
    expected, _ = own.update(updates, own.init(parameters()), **extra)
    for x, y in zip(jax.tree.leaves(step), jax.tree.leaves(expected)):
        assert_near(x, y, 1e6 * U)


def test_outputs_in_several_axes():
    """As the kernels of attention in flax: those of the bias are the outputs."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.standard_normal((4, 3, 1))), "bias": jnp.ones((3, 1))}
    flat = {"kernel": params["kernel"].reshape(4, 3), "bias": jnp.ones(3)}
    rows = batch(0)[1]["block"]["dense"]
    steps = []
    for tree in (params, flat):
        transformation = fngd(DAMPING)
        steps.append(transformation.update(tree, transformation.init(tree), rows=rows)[0])
    np.testing.assert_array_equal(steps[0]["kernel"].reshape(4, 3), steps[1]["kernel"])
    np.testing.assert_array_equal(steps[0]["bias"].ravel(), steps[1]["bias"])


def test_samples_on_two_devices():
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("one device")
    updates, rows = batch(0)
    transformation = kfac(DAMPING, rank=None, refresh=1)
    state = transformation.init(parameters())
    mesh = jax.sharding.Mesh(np.array(devices), ("samples",))
    by_samples = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples"))
    update = jax.jit(transformation.update)
    step, _ = update(updates, state, rows=jax.device_put(rows, by_samples))
    expected, _ = transformation.update(updates, state, rows=rows)
    for x, y in zip(jax.tree.leaves(step), jax.tree.leaves(expected)):
        assert_near(x, y, 1e6 * U)


# --------------------------------------------------------------------------------- bad input


def without(rows, name):
    return {key: value for key, value in rows.items() if key != name}


BAD_ROWS = {
    "missing": (lambda rows: None, TypeError, "`rows` is missing"),
    "a layer is missing": (lambda rows: without(rows, "conv"), ValueError, "no pair .* 'conv'"),
    "no layer": (
        lambda rows: rows | {"norm": rows["conv"]},
        ValueError,
        "'norm', which is no layer.*'block/dense', 'conv'",
    ),
    "no pair": (lambda rows: rows | {"conv": rows["conv"][:1]}, ValueError, "no pair .* 'conv'"),
    "no matrix": (
        lambda rows: rows | {"conv": [x[None] for x in rows["conv"]]},
        ValueError,
        "rows. of the layer 'conv' have shapes .*expand",
    ),
    "other samples": (
        lambda rows: rows | {"conv": (rows["conv"][0][1:], rows["conv"][1])},
        ValueError,
        "'conv'.*same samples",
    ),
    "no samples": (
        lambda rows: rows | {"conv": [x[:0] for x in rows["conv"]]},
        ValueError,
        "'conv' have shapes .0, 5.",
    ),
    "no ones": (
        lambda rows: rows | {"block": {"dense": tuple(x[:, 1:] for x in rows["block"]["dense"])}},
        ValueError,
        "'block/dense' have widths 4 and 2; they must be 5, .*column of ones",
    ),
    "NaN": (
        lambda rows: rows | {"conv": (rows["conv"][0].at[0, 0].set(jnp.nan), rows["conv"][1])},
        ValueError,
        "Layer 'conv': .*NaN",
    ),
}


@pytest.mark.parametrize("name", ["kfac", "singd", "fngd"])
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_name_the_layer(bad, name):
    change, error, match = BAD_ROWS[bad]
    if name == "fngd":
        match = match.replace("expand", "none")
        if bad == "no matrix":  # but samples with positions
            change = partial(change_axes, change)
    updates, rows = batch(0)
    transformation = METHODS[name](**{} if name == "fngd" else {"refresh": 1})
    state = transformation.init(parameters())
    with pytest.raises(error, match=f"(?s){match}"):
        transformation.update(updates, state, rows=change(rows))


def change_axes(change, rows):
    rows = change(rows)
    return rows | {"conv": [x[None] for x in rows["conv"]]}


def test_bad_batches_change_no_state():
    """In compiled code: such a batch is neither in the averages of a layer nor counted."""
    optimizer, scan = compiled("kfac")
    updates, extra = stacked("kfac", range(3))
    a, g = extra["rows"]["conv"]
    extra["rows"]["conv"] = a, g.at[1, 0, 0].set(jnp.inf)
    state, _ = scan(optimizer.init(parameters()), (updates, extra))
    assert int(state[0].step) == 3
    good = [batch(0), batch(2)]
    for layer, name, batches in zip(state[0].factors, LAYERS, ([*good, batch(1)], good)):
        assert int(layer.batches) == len(batches)
        A, G = averages(batches, name, 0.95)
        assert_near(np.asarray(layer.inputs.average), A, 1e3 * U)
        assert_near(np.asarray(layer.outputs.average), G, 1e3 * U)


def test_a_gradient_that_is_not_finite_makes_no_step():
    updates, rows = batch(0)
    optimizer = optax.apply_if_finite(optax.chain(fngd(DAMPING), optax.trace(0.9)), 5)
    state = optimizer.init(parameters())
    updates["conv"]["kernel"] = updates["conv"]["kernel"].at[0, 0].set(jnp.nan)
    rows["conv"] = (rows["conv"][0], rows["conv"][1].at[0, 0].set(jnp.nan))
    step, new = jax.jit(optimizer.update)(updates, state, rows=rows)
    assert not any(np.any(x) for x in jax.tree.leaves(step))
    jax.tree.map(np.testing.assert_array_equal, new.inner_state, state.inner_state)


BAD_OPTIONS = [
    (partial(kfac, 0.0, rank=None), ValueError, "`damping` is 0.0; it must be positive"),
    (partial(kfac, "1", rank=None), TypeError, "`damping` is '1'.*schedule"),
    (partial(kfac, 0.1, rank=0), ValueError, "`rank` is 0"),
    (partial(kfac, 0.1, rank="auto"), TypeError, "`rank` is 'auto'"),
    (partial(kfac, 0.1, rank=2, decay=1.0), ValueError, "`decay` is 1.0"),
    (partial(kfac, 0.1, rank=2, refresh=0), ValueError, "`refresh` is 0"),
    (partial(kfac, 0.1, rank=2, kl=-1.0), ValueError, "`kl` is -1.0"),
    (partial(kfac, 0.1, rank=2, coupling="both"), ValueError, "`coupling` is 'both'"),
    (partial(kfac, 0.1, rank=2, exclude="conv"), TypeError, r"`exclude` is 'conv'.*list"),
    (partial(singd, 0.1, step_size=0.0), ValueError, "`step_size` is 0.0"),
    (partial(singd, 0.1, step_size=0.1, rule="singd"), ValueError, "`rule` is 'singd'"),
    (partial(fngd, 0.1, policy="mine"), ValueError, "`policy` is 'mine'"),
    (partial(fngd, 0.1, policy="every", period=2), ValueError, "`samples` is missing"),
    (partial(fngd, 0.1, policy="every", samples=2), ValueError, "`period` is missing"),
    (partial(fngd, 0.1, period=2), ValueError, "`period` is 2"),
    (partial(damped_natural_gradient, -1.0), ValueError, "`damping` is -1.0"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD_OPTIONS)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_bad_parameters():
    transformation = kfac(0.1, rank=None)
    with pytest.raises(ValueError, match=r"Layer 'x' has a kernel .* bias of shape"):
        transformation.init({"x": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(3)}})
    with pytest.raises(TypeError, match="Layer 'x' has a kernel of dtype complex"):
        transformation.init({"x": {"kernel": jnp.ones((3, 2), "complex128")}})
    with pytest.raises(
        ValueError, match=r"`exclude` names 'Conv'.* Layers are 'block/dense', 'conv'"
    ):
        kfac(0.1, rank=None, exclude=["Conv"]).init(parameters())
    state = transformation.init(parameters())
    with pytest.raises(ValueError, match=r"no layer.* with a 'kernel' .* leaves are 'x/weight'"):
        transformation.init({"x": {"weight": jnp.ones((3, 2))}})
    with pytest.raises(ValueError, match="`updates` has the layers 'conv', but"):
        transformation.update({"conv": parameters()["conv"]}, state, rows={})


def test_batches_of_shared_weights_are_full():
    updates, rows = batch(0)
    transformation = METHODS["fngd"]()
    rows = jax.tree.map(lambda x: x[:5], rows)
    with pytest.raises(ValueError, match=r"Layer 'block/dense': .*5 samples.*batches of 12"):
        transformation.update(updates, transformation.init(parameters()), rows=rows)


def test_bad_scores():
    transformation = METHODS["natural"]()
    state, (scores, f) = transformation.init(parameters()), scores_of(0)
    update = partial(transformation.update, parameters(), state)
    with pytest.raises(TypeError, match="`scores` is missing"):
        update(residuals=f)
    with pytest.raises(TypeError, match="`residuals` is missing"):
        update(scores=scores)
    with pytest.raises(
        ValueError, match=r"nothing for 'conv/kernel'; .* here with .6, 1, 5, 1, 3."
    ):
        update(scores=without(scores, "conv"), residuals=f)
    with pytest.raises(ValueError, match=r"shape .6, 5. for 'block/scale'|for 'block/dense/bias'"):
        update(scores=scores, residuals=f[:5])
