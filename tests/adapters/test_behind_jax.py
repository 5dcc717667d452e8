"""The functions of docs/guide/behind_jax.md on networks: rows by definition, and training."""

import doctest
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
pytest.importorskip("flax")

import jax.numpy as jnp
from flax import linen as nn
from spectra import quick_compilation  # noqa: F401

from ngdla.adapters.optax import fngd, kfac, singd

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "behind_jax.md"
COPIED = ("recorded", "inputs_of", "rows_of")
M, T = 6, 4


def functions_of_the_page():
    """Return what the page tells its readers to copy, after the imports of their sections."""
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    names = {}
    for example in doctest.DocTestParser().get_examples(code):
        if example.source.startswith(
            ("import ", "from ", "def recorded", "def inputs_of", "def rows_of")
        ):
            exec(example.source, names)
    return [names[name] for name in COPIED]


recorded, inputs_of, rows_of = functions_of_the_page()


@pytest.fixture(autouse=True)
def double_precision():
    wide = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", wide)


class CNN(nn.Module):
    """Convolutions with and without a bias, by other steps than of one, and a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(3, (3, 3), param_dtype=float)(x))
        conv = nn.Conv(2, (3, 2), strides=(2, 1), use_bias=False, param_dtype=float)
        x = nn.tanh(conv(x))
        conv = nn.Conv(2, (2, 2), padding="VALID", kernel_dilation=(1, 2), param_dtype=float)
        x = nn.tanh(conv(x))
        return nn.Dense(3, param_dtype=float)(x.reshape(len(x), -1))


class Tokens(nn.Module):
    """Dense layers at the positions of a sequence, in a module of their own."""

    @nn.compact
    def __call__(self, x):
        x = Block()(x) + x
        return nn.Dense(3, use_bias=False, param_dtype=float)(x).sum(axis=1)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.tanh(nn.Dense(x.shape[-1], param_dtype=float)(x))


NETWORKS = {"CNN": (CNN, (5, 4, 2)), "tokens": (Tokens, (T, 5))}


def initialised(model, x):
    """Return parameters as the model has them, of normal numbers."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape) / 2, s.dtype), shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_make_the_gradients_of_samples(name):
    make, shape = NETWORKS[name]
    model, rng = make(), np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((M, *shape))), jnp.asarray(rng.standard_normal((M, 3)))
    params = initialised(model, x)

    def losses(params, x, y):
        return jnp.sum((model.apply({"params": params}, x) - y) ** 2, axis=-1)

    def mean(out):
        return jnp.mean(jnp.sum((out - y) ** 2, axis=-1))

    @jax.jit
    def both(params):
        one = jax.grad(lambda params, x, y: losses(params, x[None], y[None])[0])
        return recorded(model, mean, params, x), jax.vmap(one, (None, 0, 0))(params, x, y)

    (value, gradient, pairs), expected = both(params)
    np.testing.assert_allclose(value, losses(params, x, y).mean(), rtol=1e-12)
    rows = rows_of(pairs, params, sharing="none", loss="mean")
    for path in pairs:
        layer, mean_gradient, (a, g) = (at(tree, path) for tree in (expected, gradient, rows))
        a, g = (x if x.ndim == 3 else x[:, None] for x in (a, g))  # one position
        found = np.einsum("mti,mto->mio", a, g)
        parts = [
            layer[key].reshape(M, -1, g.shape[-1]) for key in ("kernel", "bias") if key in layer
        ]
        whole = np.concatenate(parts, axis=1)
        assert np.linalg.norm(found - whole) <= 1e-12 * np.linalg.norm(whole)
        for key, x in mean_gradient.items():
            np.testing.assert_allclose(x, layer[key].mean(axis=0), rtol=1e-9, atol=1e-12)


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(3, name="shared")
        return dense(dense(x))


def test_a_layer_that_is_used_twice_is_named():
    x = jnp.ones((M, 3))
    with pytest.raises(AssertionError, match="the layer shared is used twice"):
        recorded(Twice(), jnp.mean, initialised(Twice(), x), x)


def test_an_optimizer_of_nnx():
    """It passes rows on; its parameters are held by attributes, gradients are not."""
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self):
            zeros = nnx.initializers.zeros_init()
            self.layer = nnx.Linear(5, 3, kernel_init=zeros, param_dtype=float, rngs=nnx.Rngs(0))

    rng = np.random.default_rng(0)
    gradient = {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}
    rows = tuple(jnp.asarray(rng.standard_normal((M, d))) for d in (6, 3))
    model, method = Model(), fngd(0.1)
    optimizer = nnx.Optimizer(model, method, wrt=nnx.Param)
    given = nnx.State({"layer": {key: nnx.Param(x) for key, x in gradient.items()}})
    optimizer.update(model, given, rows={"layer": rows})
    step, _ = method.update(gradient, method.init(gradient), rows=rows)
    for key, x in nnx.as_pure(nnx.state(model, nnx.Param))["layer"].items():
        np.testing.assert_array_equal(x, step[key])
    assert int(optimizer.opt_state.step[...]) == 1


# ------------------------------------------------------------------------------- transformer

WIDTH, VOCABULARY, LENGTH = 16, 6, 6


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        q, k, v = (nn.Dense(WIDTH, name=name)(x) for name in "qkv")
        later = jnp.triu(jnp.full((LENGTH, LENGTH), -1e9, x.dtype), 1)
        weights = nn.softmax(q @ k.mT / WIDTH**0.5 + later)
        return nn.Dense(WIDTH, name="o")(weights @ v)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH)(tokens) + nn.Embed(LENGTH, WIDTH)(jnp.arange(LENGTH))
        for _ in range(2):
            x = x + Attention()(nn.LayerNorm()(x))
            x = x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x))))
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))


def trained(method, rate, *, sharing, loss, steps=60):
    """Return the losses of a two-block transformer that learns to repeat the last token."""
    model = Transformer()
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(VOCABULARY, size=(steps, 32, LENGTH)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens[0])["params"]
    params = jax.tree_util.tree_map_with_path(partial(first_values, rng), shapes)
    optimizer = optax.chain(method, optax.trace(0.9), optax.scale_by_learning_rate(rate))

    def step(carry, tokens):
        params, state = carry

        def cross_entropy(logits):
            losses = optax.softmax_cross_entropy_with_integer_labels
            return losses(logits[:, 1:], tokens[:, :-1]).mean()

        value, gradient, pairs = recorded(model, cross_entropy, params, tokens)
        rows = rows_of(pairs, params, sharing=sharing, loss=loss)
        updates, state = optimizer.update(gradient, state, params, rows=rows)
        return (optax.apply_updates(params, updates), state), value

    start = params, optimizer.init(params)
    return jax.jit(partial(jax.lax.scan, step))(start, tokens)[1]


def first_values(rng, path, x):
    """Return small normal numbers for kernels, ones for scales and zeros for biases."""
    name = path[-1].key
    if name in ("scale", "bias"):
        return jnp.full(x.shape, float(name == "scale"), x.dtype)
    return jnp.asarray(rng.standard_normal(x.shape) / x.shape[0] ** 0.5, x.dtype)


TRAINING = {
    "kfac": (partial(kfac, 1e-3, rank=None), 0.03, {"kl": 1e-3}),
    "singd": (partial(singd, 1e-3, step_size=0.05, momentum=0.5), 0.03, {"kl": 1e-3}),
    "fngd": (partial(fngd, 0.01), 0.1, {}),
}


@pytest.mark.parametrize("name", ["kfac", "fngd", pytest.param("singd", marks=pytest.mark.slow)])
def test_a_transformer_learns(name):
    make, rate, bound = TRAINING[name]
    if bound:
        bound |= {"learning_rate": rate}
    exact = name == "fngd"
    losses = trained(
        make(**bound),
        rate,
        sharing="none" if exact else "expand",
        loss="mean" if exact else "token-mean",
    )
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
