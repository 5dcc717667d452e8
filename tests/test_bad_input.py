"""Every wrong argument is refused, on every library, with its name and a remedy.

Most tests are a table of arguments (`ARRAYS`) times a table of wrongs: each argument is replaced,
one at a time, by something of the wrong kind, dtype, shape, library, device or value. The other
tables hold single calls. `refuse` says what a refusal is: the exact exception type, the argument's
name in backticks, a remedy, no chained exception, and arguments that are bitwise what they were.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import array_api_strict
import numpy as np
import pytest
import scipy.sparse
from backends import BACKENDS, Backend
from spectra import quick_compilation  # noqa: F401

from ngdla import (
    PrecisionWarning,
    column_norms,
    damped_factor,
    damped_lstsq,
    damped_solve,
    damping_path,
    gram,
    hermitian_solve,
    residuals,
    scores,
    stochastic_reconfiguration,
)

N, M, BATCH = 4, 7, 2
DAMPING = 0.5
METHODS = ("cholesky", "eigh", "svd", "qr")

# What a message offers beside the name of the argument.
REMEDY = (
    r"(?i)\b(must|pass|convert|drop|mask|remove|replace|scale|raise|move|choose|needs?|only|"
    r"leave|centre|check|have|has \d+ column blocks|use)\b"
)
FINITE_REMEDY = r"(?i)\b(drop|mask|remove|replace|must|check|clip|scale|pass finite)\b"
RANGE = r"(?i)(range of float32|exceed|beyond|overflow)"

sr = stochastic_reconfiguration
Refused = Callable[["Arguments"], partial]


class Arguments:
    """Good arguments of all functions, as arrays of one library, made when first asked for."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.dtype = "float64" if "float64" in backend.dtypes else "float32"
        self.complex = "complex128" if self.dtype == "float64" else "complex64"
        rng = np.random.default_rng(5)
        S = rng.standard_normal((N, M))
        S -= S.mean(axis=0)  # so that `null` is a null vector of S^H
        batch = rng.standard_normal((BATCH, N, M))
        v, metric = rng.standard_normal(M), rng.random(M) + 0.5
        self.data: dict[str, np.ndarray] = {
            "S": S,
            "S_0": S[:, :3],
            "S_1": S[:, 3:],
            "W": S @ S.T + np.eye(N),
            "tall": S.T.copy(),
            "batch": batch,
            "v": v,
            "v_0": v[:3],
            "v_1": v[3:],
            "metric": metric,
            "metric_0": metric[:3],
            "metric_1": metric[3:],
            "f": rng.standard_normal(N),
            "null": np.full(N, N**-0.5),
            "weights": rng.random(N) + 0.5,
            "batch_v": rng.standard_normal((BATCH, M)),
            "batch_f": rng.standard_normal((BATCH, N)),
            "batch_metric": rng.random((BATCH, M)) + 0.5,
            "batch_weights": rng.random((BATCH, N)) + 0.5,
            "batch_damping": rng.random(BATCH) + 0.5,
        }
        self._arrays: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self.data:
            raise AttributeError(name)
        if name not in self._arrays:
            self._arrays[name] = self.array(self.data[name])
        return self._arrays[name]

    @property
    def blocks(self) -> list[Any]:
        return [self.S_0, self.S_1]

    @functools.cached_property
    def factor(self) -> Any:
        return damped_factor(self.S, DAMPING)

    @functools.cached_property
    def block_factor(self) -> Any:
        return damped_factor([self.S_0, self.S_1], DAMPING)

    def array(self, x: Any, dtype: str | None = None) -> Any:
        return self.backend.convert(np.asarray(x, dtype=dtype or self.dtype))

    def foreign(self, x: Any) -> Any:
        """Return the same numbers as an array of another library."""
        x = np.asarray(x, dtype=self.dtype)
        return array_api_strict.asarray(x) if self.backend.name.startswith("numpy") else x

    def elsewhere(self, x: Any) -> Any:
        """Return the same numbers on another device of the same library."""
        x, name = np.asarray(x, dtype=self.dtype), self.backend.name
        if name.startswith("strict"):
            return array_api_strict.asarray(x, device=array_api_strict.Device("CPU_DEVICE"))
        if name.startswith("torch"):
            torch = self.backend.torch  # type: ignore[attr-defined]
            return torch.asarray(x.copy()).to("meta" if name == "torch" else "cpu")
        if name.startswith("jax"):
            jax = self.backend.jax  # type: ignore[attr-defined]
            return jax.device_put(x, jax.devices("cpu")[1])
        return pytest.skip(f"{name} has one device")


_ARGUMENTS: dict[str, Arguments] = {}


def arguments(backend: Backend) -> Arguments:
    """Return the arguments of a library; shared, since nothing may change them."""
    return _ARGUMENTS.setdefault(backend.name, Arguments(backend))


@pytest.fixture
def a(backend: Backend) -> Arguments:
    return arguments(backend)


@pytest.fixture
def valued(valued_backend: Backend) -> Iterator[Arguments]:
    """Arguments whose values can be read; calls are eager, also under JAX."""
    # array-api-strict computes with NumPy, whose warnings would come before the refusal.
    with contextlib.ExitStack() as stack:
        if valued_backend.name.startswith("strict"):
            stack.enter_context(np.errstate(all="ignore"))
        yield arguments(valued_backend)


def frozen(x: Any) -> Any:
    """Return what must not change: kind, dtype, shape and bytes, and the identity of elements."""
    if isinstance(x, dict):
        return {key: (id(value), frozen(value)) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x), [(id(value), frozen(value)) for value in x]
    if isinstance(x, np.ma.MaskedArray):
        return "masked", x.data.tobytes(), np.ma.getmaskarray(x).tobytes()
    if isinstance(x, (np.ndarray, np.generic)):
        return type(x), x.shape, str(x.dtype), x.tobytes()
    if scipy.sparse.issparse(x):
        return frozen(x.toarray())
    library = type(x).__module__.partition(".")[0]
    if library == "torch":
        import torch

        if x.device.type == "meta":
            return type(x), tuple(x.shape), x.dtype
        x = x.to_dense() if x.layout is not torch.strided else x
        flat = x.detach().cpu().resolve_conj().reshape(-1).contiguous()
        content = flat.view(torch.uint8).tolist() if x.numel() else []
        return type(x), tuple(x.shape), x.dtype, content
    if library == "array_api_strict":
        return frozen(np.array(np.from_dlpack(x)))
    if library == "cupy":
        return frozen(x.get())
    return id(x)  # JAX arrays are immutable, and so is whatever else stands here


def complaint(call: partial, error: type[Exception], name: str, says: str) -> str | None:
    """Return what is wrong with the refusal of a call, or None."""
    before, settings = frozen([call.args, call.keywords]), np.geterr()
    try:
        call()
    except Exception as caught:  # noqa: BLE001  whatever is raised is judged here
        refusal = caught
    else:
        return "was accepted"
    message = f"{type(refusal).__name__}: {refusal}"
    if type(refusal) is not error:
        return f"not a {error.__name__} but {message}"
    if not re.search(rf"`{re.escape(name)}(\[[^`]*\])?`", message):
        return f"no `{name}` in {message}"
    if not re.search(says, message):
        return f"no {says!r} in {message}"
    if refusal.__cause__ is not None or refusal.__context__ is not None:
        return f"{refusal.__context__!r} is chained to {message}"
    if frozen([call.args, call.keywords]) != before:
        return f"an argument was changed before {message}"
    if np.geterr() != settings:
        return f"NumPy's error settings were changed before {message}"
    return None


def refuse(call: partial, error: type[Exception], name: str, says: str = REMEDY) -> None:
    """Assert that a call is refused as the head of this file says."""
    problem = complaint(call, error, name, says)
    assert problem is None, problem


def refuse_each(cases: Iterable[tuple[str, partial, type[Exception], str, str]]) -> None:
    """Assert that each of the labelled calls is refused, and list all that are not."""
    problems = [(label, complaint(*case)) for label, *case in cases]
    listed = "\n".join(f"{label}: {problem}" for label, problem in problems if problem)
    assert not listed, listed


def works(call: partial, backend: Backend) -> None:
    """Assert that a call returns finite numbers."""
    result = call()
    for x in result if isinstance(result, (list, tuple)) else [result]:
        if hasattr(x, "solve"):  # a factor
            continue
        assert not backend.has_values or np.all(np.isfinite(backend.numpy(x)))


# ------------------------------------------------------------------------ the array arguments


class ArrayArgument:
    """One array argument of one public function: a good value, and a call with another."""

    def __init__(
        self,
        where: str,
        good: str,
        call: Callable[[Arguments, Any], partial],
        *,
        optional: bool = False,
        real: bool = False,
        number: bool = False,
        matrix: bool = False,
        propagates: bool = False,
    ) -> None:
        self.where, self.good, self.call = where, good, call
        self.optional = optional  # None is allowed
        self.real = real  # complex is not allowed
        self.number = number  # a Python number is allowed
        self.matrix = matrix  # has the shape (n, m) or (n, m_k)
        self.propagates = propagates  # of a function that has no `check`
        self.name = where.split(":")[1].partition("[")[0]


ARRAYS = [
    ArrayArgument("gram:S", "S", lambda a, x: partial(gram, x), matrix=True, propagates=True),
    ArrayArgument(
        "gram:S[1]", "S_1", lambda a, x: partial(gram, [a.S_0, x]), matrix=True, propagates=True
    ),
    ArrayArgument(
        "damped_solve:S", "S", lambda a, x: partial(damped_solve, x, a.v, DAMPING), matrix=True
    ),
    ArrayArgument(
        "damped_solve:S[1]",
        "S_1",
        lambda a, x: partial(damped_solve, [a.S_0, x], [a.v_0, a.v_1], DAMPING),
        matrix=True,
    ),
    ArrayArgument("damped_solve:v", "v", lambda a, x: partial(damped_solve, a.S, x, DAMPING)),
    ArrayArgument(
        "damped_solve:v[1]",
        "v_1",
        lambda a, x: partial(damped_solve, a.blocks, [a.v_0, x], DAMPING),
    ),
    ArrayArgument(
        "damped_solve:metric",
        "metric",
        lambda a, x: partial(damped_solve, a.S, a.v, DAMPING, metric=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "damped_solve:metric[1]",
        "metric_1",
        lambda a, x: partial(
            damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=[a.metric_0, x]
        ),
        real=True,
        number=True,
    ),
    ArrayArgument(
        "damped_solve:null",
        "null",
        lambda a, x: partial(damped_solve, a.S, a.v, DAMPING, null=x),
        optional=True,
        real=True,
    ),
    ArrayArgument("hermitian_solve:b", "f", lambda a, x: partial(hermitian_solve, a.W, x)),
    ArrayArgument(
        "damped_lstsq:S", "S", lambda a, x: partial(damped_lstsq, x, a.f, DAMPING), matrix=True
    ),
    ArrayArgument(
        "damped_lstsq:S[1]",
        "S_1",
        lambda a, x: partial(damped_lstsq, (a.S_0, x), a.f, DAMPING),
        matrix=True,
    ),
    ArrayArgument("damped_lstsq:f", "f", lambda a, x: partial(damped_lstsq, a.S, x, DAMPING)),
    ArrayArgument(
        "damped_lstsq:x0",
        "v",
        lambda a, x: partial(damped_lstsq, a.S, a.f, DAMPING, x0=x),
        optional=True,
    ),
    ArrayArgument(
        "damped_lstsq:x0[1]",
        "v_1",
        lambda a, x: partial(damped_lstsq, a.blocks, a.f, DAMPING, x0=[a.v_0, x]),
    ),
    ArrayArgument(
        "damped_lstsq:metric",
        "metric",
        lambda a, x: partial(damped_lstsq, a.S, a.f, DAMPING, metric=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "damped_lstsq:null",
        "null",
        lambda a, x: partial(damped_lstsq, a.S, a.f, DAMPING, null=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "damped_factor:S", "S", lambda a, x: partial(damped_factor, x, DAMPING), matrix=True
    ),
    ArrayArgument(
        "damped_factor:metric",
        "metric",
        lambda a, x: partial(damped_factor, a.S, DAMPING, metric=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "damped_factor:null",
        "null",
        lambda a, x: partial(damped_factor, a.S, DAMPING, null=x),
        optional=True,
        real=True,
    ),
    ArrayArgument("DampedFactor.solve:v", "v", lambda a, x: partial(a.factor.solve, x)),
    ArrayArgument(
        "DampedFactor.solve:v[1]", "v_1", lambda a, x: partial(a.block_factor.solve, [a.v_0, x])
    ),
    ArrayArgument("DampedFactor.lstsq:f", "f", lambda a, x: partial(a.factor.lstsq, x)),
    ArrayArgument(
        "DampedFactor.lstsq:x0",
        "v",
        lambda a, x: partial(a.factor.lstsq, a.f, x0=x),
        optional=True,
    ),
    ArrayArgument(
        "scores:log_derivatives",
        "S",
        lambda a, x: partial(scores, x),
        matrix=True,
        real=True,
        propagates=True,
    ),
    ArrayArgument(
        "scores:log_derivatives[1]",
        "S_1",
        lambda a, x: partial(scores, [a.S_0, x]),
        matrix=True,
        propagates=True,
    ),
    ArrayArgument(
        "scores:weights",
        "weights",
        lambda a, x: partial(scores, a.S, weights=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "residuals:local_energies",
        "f",
        lambda a, x: partial(residuals, x),
        real=True,
        propagates=True,
    ),
    ArrayArgument(
        "residuals:weights",
        "weights",
        lambda a, x: partial(residuals, a.f, weights=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:log_derivatives",
        "S",
        lambda a, x: partial(sr, x, a.f, DAMPING),
        matrix=True,
        real=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:log_derivatives[1]",
        "S_1",
        lambda a, x: partial(sr, [a.S_0, x], a.f, DAMPING),
        matrix=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:local_energies",
        "f",
        lambda a, x: partial(sr, a.S, x, DAMPING),
    ),
    ArrayArgument(
        "stochastic_reconfiguration:weights",
        "weights",
        lambda a, x: partial(sr, a.S, a.f, DAMPING, weights=x),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:previous",
        "v",
        lambda a, x: partial(sr, a.S, a.f, DAMPING, previous=x, momentum=0.9),
        optional=True,
        real=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:previous[1]",
        "v_1",
        lambda a, x: partial(sr, a.blocks, a.f, DAMPING, previous=[a.v_0, x], momentum=0.9),
        real=True,
    ),
    ArrayArgument(
        "stochastic_reconfiguration:metric",
        "metric",
        lambda a, x: partial(sr, a.S, a.f, DAMPING, metric=x),
        optional=True,
        real=True,
    ),
]


def each(arguments: list[ArrayArgument]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("argument", [pytest.param(x, id=x.where) for x in arguments])


def wrongs(names: str, table: list[tuple]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(names, [pytest.param(*row, id=row[0]) for row in table])


# ---------------------------------------------------------------------------------- kinds


def as_matrix(x: np.ndarray) -> np.matrix:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(x)


# name, what is passed instead of the good NumPy array x, what the message says
KINDS = [
    ("none", lambda x: None, "array"),
    ("bool", lambda x: True, "array"),
    ("integer", lambda x: 3, "array"),
    ("number", lambda x: 0.5, "array"),
    ("string", lambda x: "0.5", "array"),
    ("bytes", lambda x: b"0.5", "array"),
    ("numbers-in-a-list", lambda x: x.tolist(), "must be one array"),
    ("numbers-in-a-tuple", lambda x: tuple(x.tolist()), "must be one array"),
    ("dict", lambda x: {"w": x.tolist()}, "must be (one|an) array"),
    ("set", lambda x: {1.0}, "array"),
    ("iterator", lambda x: iter(x.tolist()), "array"),
    ("function", lambda x: len, "array"),
    ("scipy-csr", lambda x: scipy.sparse.csr_array(np.atleast_2d(x)), "sparse.*dense"),
    ("scipy-old-csc", lambda x: scipy.sparse.csc_matrix(np.atleast_2d(x)), "sparse.*dense"),
    ("numpy-matrix", as_matrix, "plain array"),
    ("masked-array", lambda x: np.ma.masked_greater(x, 10.0), "plain array"),
]


def kind_is_allowed(argument: ArrayArgument, kind: str) -> bool:
    return (kind == "none" and argument.optional) or (
        kind in ("integer", "number") and argument.number
    )


@wrongs(("kind", "make", "says"), KINDS)
def test_kinds_that_are_not_dense_arrays(kind: str, make: Any, says: str, a: Arguments) -> None:
    refuse_each(
        (x.where, x.call(a, make(a.data[x.good])), TypeError, x.name, says)
        for x in ARRAYS
        if not kind_is_allowed(x, kind)
    )


def sparse_arrays(a: Arguments, x: np.ndarray) -> Iterator[Any]:
    x = np.atleast_2d(x)
    if a.backend.name.startswith("torch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls these layouts beta
            if a.backend.has_values:
                yield a.array(x).to_sparse()
                yield a.array(x).to_sparse_csr()
            else:
                torch = a.backend.torch  # type: ignore[attr-defined]
                yield torch.empty(x.shape, layout=torch.sparse_coo, device="meta")
    elif a.backend.name.startswith("jax"):
        from jax.experimental import sparse

        indices = a.array(np.argwhere(np.ones(x.shape)), "int32")
        yield sparse.BCOO((a.array(x.reshape(-1)), indices), shape=x.shape)
    elif a.backend.name == "cupy":
        import cupyx.scipy.sparse

        yield cupyx.scipy.sparse.csr_matrix(a.array(x))
    else:
        pytest.skip(f"{a.backend.name} has no sparse arrays of its own")


def test_sparse_arrays_of_the_library_itself(a: Arguments) -> None:
    refuse_each(
        (argument.where, argument.call(a, x), TypeError, argument.name, "sparse.*dense")
        for argument in ARRAYS
        for x in sparse_arrays(a, a.data[argument.good])
    )


# --------------------------------------------------------------------------------- dtypes

SUPPORTED = "float32, float64, complex64, complex128.*Convert"


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool"])
def test_dtypes_that_are_not_floating(dtype: str, a: Arguments) -> None:
    says = f"{dtype}.*{SUPPORTED}"
    ones = {x.where: a.array(np.ones(a.data[x.good].shape), dtype) for x in ARRAYS}
    refuse_each((x.where, x.call(a, ones[x.where]), TypeError, x.name, says) for x in ARRAYS)


def odd_dtypes(a: Arguments, x: np.ndarray) -> Iterator[tuple[Any, str]]:
    """Yield arrays of the dtypes that only this library has."""
    name = a.backend.name
    if name.startswith("numpy"):
        for dtype in (np.longdouble, np.clongdouble, object, "U8", "M8[s]"):
            with np.errstate(all="ignore"):
                yield np.ones(x.shape).astype("i8" if dtype == "M8[s]" else dtype).astype(dtype), ""
        yield x.astype(x.dtype.newbyteorder()), ""
        yield np.zeros(x.shape, dtype=[("re", float), ("im", float)]), ""
    elif name.startswith("torch"):
        torch = a.backend.torch  # type: ignore[attr-defined]
        for dtype in ("int16", "int32"):
            yield a.array(np.ones(x.shape)).to(getattr(torch, dtype)), dtype
    elif name.startswith("jax"):
        for dtype in ("float8_e5m2", "int32"):
            yield a.array(np.ones(x.shape)).astype(dtype), dtype
    else:
        yield a.array(np.ones(x.shape), "int32"), "int32"


def test_dtypes_that_only_some_libraries_have(a: Arguments) -> None:
    refuse_each(
        (argument.where, argument.call(a, x), TypeError, argument.name, f"{dtype}.*{SUPPORTED}")
        for argument in ARRAYS
        for x, dtype in odd_dtypes(a, a.data[argument.good])
    )


COMPLEX_ERRORS = {  # ValueError: the dtype is legal, but not with the other arguments
    "null": (TypeError, "real"),
    "metric": (TypeError, "real"),
    "weights": (ValueError, "real"),
    "log_derivatives": (ValueError, "'complex'.*'holomorphic'"),
    "local_energies": (ValueError, "'complex'.*'holomorphic'"),
    "previous": (TypeError, "real"),
}


@pytest.mark.parametrize("name", COMPLEX_ERRORS)
def test_complex_where_real_is_needed(name: str, a: Arguments) -> None:
    error, says = COMPLEX_ERRORS[name]
    refuse_each(
        (x.where, x.call(a, a.array(a.data[x.good], a.complex)), error, name, says)
        for x in ARRAYS
        if x.real and x.name == name
    )


def test_column_blocks_are_all_real_or_all_complex(a: Arguments) -> None:
    refuse_each(
        (
            x.where,
            x.call(a, a.array(a.data[x.good], a.complex)),
            TypeError,
            x.name,
            "all are complex",
        )
        for x in ARRAYS
        if x.matrix and x.where.endswith("[1]")
    )


# --------------------------------------------------------------- libraries and devices

# The only array of a call is of one library and on one device with itself.
ALONE = ("gram:S", "damped_factor:S", "scores:log_derivatives", "residuals:local_energies")
# Where the first array is the odd one out, the message names the second one beside it.
SECOND = {
    "damped_solve:S": "v",
    "damped_lstsq:S": "f",
    "stochastic_reconfiguration:log_derivatives": "local_energies",
}


def test_arrays_of_another_library(a: Arguments) -> None:
    says = r"is a \w+ array but `.*` is a \w+ array\. Convert one of them"
    refuse_each(
        (
            x.where,
            x.call(a, a.foreign(a.data[x.good])),
            TypeError,
            SECOND.get(x.where, x.name),
            says,
        )
        for x in ARRAYS
        if x.where not in ALONE
    )


def test_arrays_on_another_device(a: Arguments) -> None:
    says = r"is on device .* but `.*` is on .*\. Move one of them"
    refuse_each(
        (
            x.where,
            x.call(a, a.elsewhere(a.data[x.good])),
            ValueError,
            SECOND.get(x.where, x.name),
            says,
        )
        for x in ARRAYS
        if x.where not in ALONE
    )


@pytest.mark.parametrize("second", ["numpy", "strict", "jax", "torch"])
@pytest.mark.parametrize("first", ["numpy", "strict", "jax", "torch"])
def test_every_pair_of_libraries(first: str, second: str) -> None:
    if first == second:
        return
    one, other = (arguments(BACKENDS[name]()) for name in (first, second))
    says = rf"{library_name(second)} array.*{library_name(first)} array.*Convert one of them"
    refuse(partial(damped_solve, one.S, other.v, DAMPING), TypeError, "v", says)
    refuse(partial(damped_lstsq, one.S, other.f, DAMPING), TypeError, "f", says)
    refuse(partial(sr, one.S, other.f, DAMPING), TypeError, "local_energies", says)
    refuse(partial(gram, [one.S_0, other.S_1]), TypeError, "S", says)
    refuse(partial(scores, one.S, weights=other.weights), TypeError, "weights", says)
    damping = other.array(DAMPING)
    refuse(partial(damped_factor, one.S, damping), TypeError, "damping", says)


def library_name(backend: str) -> str:
    return {"strict": "array_api_strict"}.get(backend, backend)


# --------------------------------------------------------------------------------- shapes

# name, function from the good NumPy vector to one of the wrong shape
VECTOR_SHAPES = [
    ("one-too-long", lambda x: np.concatenate([x, x[:1]])),
    ("one-too-short", lambda x: x[:-1]),
    ("one-entry-that-would-broadcast", lambda x: x[:1]),
    ("no-axes", lambda x: x[0]),
    ("empty", lambda x: x[:0]),
    ("no-columns", lambda x: x[:, None][:, :0]),
    ("row", lambda x: x[None, :]),
    ("three-axes", lambda x: x[:, None, None]),
    ("batch-of-a-single-problem", lambda x: np.stack([x, x])[:, :, None]),
    ("n-and-m-swapped", lambda x: np.ones(M if len(x) == N else N)),
]
# Refused where one vector is wanted, legal where there may be k right-hand sides.
COLUMN_SHAPES = [
    ("column", lambda x: x[:, None]),
    ("two-columns", lambda x: np.stack([x, x], axis=-1)),
]


def shape_is_allowed(argument: ArrayArgument, shape: str) -> bool:
    if argument.matrix or argument.where == "residuals:local_energies":
        return True  # matrices have a table of their own; energies alone have nothing to fit to
    if shape == "no-axes" and argument.number:
        return True  # it stands for a number
    if shape == "n-and-m-swapped" and argument.good.endswith("_1"):
        return True  # this block has m_k = n
    if shape in ("column", "two-columns"):
        return argument.name in ("v", "f", "b", "null") or argument.where.endswith("[1]")
    return False


@wrongs(("shape", "make"), VECTOR_SHAPES + COLUMN_SHAPES)
def test_vectors_of_the_wrong_shape(shape: str, make: Any, a: Arguments) -> None:
    cases = []
    for argument in ARRAYS:
        if not shape_is_allowed(argument, shape):
            x = make(a.data[argument.good])
            given, good = (re.escape(str(y.shape)) for y in (x, a.data[argument.good]))
            says = f"{given}.*empty" if 0 in x.shape else f"{given}.*must (have shape|be) {good}"
            if shape in ("column", "two-columns"):
                says += "|no columns|one for each row|one entry a column|without an axis"
            call = argument.call(a, a.array(x))
            cases.append((argument.where, call, ValueError, argument.name, says))
    refuse_each(cases)


# name, function from the good NumPy matrix to one of the wrong shape, what the message says
MATRIX_SHAPES = [
    ("no-axes", lambda x: x[0, 0], "at least 2 axes"),
    ("one-axis", lambda x: x[0], "at least 2 axes"),
    ("no-rows", lambda x: x[:0], "empty"),
    ("no-columns", lambda x: x[:, :0], "empty"),
    ("no-batch-entries", lambda x: x[None][:0], "empty"),
]


@wrongs(("shape", "make", "says"), MATRIX_SHAPES)
def test_matrices_of_the_wrong_shape(shape: str, make: Any, says: str, a: Arguments) -> None:
    refuse_each(
        (x.where, x.call(a, a.array(make(a.data[x.good]))), ValueError, x.name, says)
        for x in ARRAYS
        if x.matrix
    )


def test_blocks_that_do_not_fit_the_first_one(a: Arguments) -> None:
    S = a.data["S_1"]
    wrong = [S[:-1], np.concatenate([S, S[:1]]), S[:1], np.stack([S, S])]
    refuse_each(
        (
            f"{argument.where} {x.shape}",
            argument.call(a, a.array(x)),
            ValueError,
            argument.name,
            rf"{re.escape(str(x.shape))}.*(\(4, 3\).*equal numbers of rows|2-D: reshape each)",
        )
        for argument in ARRAYS
        if argument.matrix and argument.where.endswith("[1]")
        for x in wrong
    )


# Single calls: id, the call, exception, argument, what the message says beside it.
SHAPES: list[tuple[str, Refused, type[Exception], str, str]] = [
    (
        "lstsq: f belongs to the transpose",
        lambda a: partial(damped_lstsq, a.tall, a.f, DAMPING),
        ValueError,
        "f",
        r"\(4,\).*must have shape \(7,\)",
    ),
    (
        "solve: v belongs to the transpose",
        lambda a: partial(damped_solve, a.tall, a.v, DAMPING),
        ValueError,
        "v",
        r"\(7,\).*must have shape \(4,\)",
    ),
    (
        "solve: right-hand sides in rows",
        lambda a: partial(damped_solve, a.S, a.array(np.ones((2, M))), DAMPING),
        ValueError,
        "v",
        r"\(2, 7\).*\(7, k\)",
    ),
    (
        "lstsq: k columns of x0 for one f",
        lambda a: partial(damped_lstsq, a.S, a.f, DAMPING, x0=a.array(np.ones((M, 2)))),
        ValueError,
        "x0",
        r"\(4,\).*no columns",
    ),
    (
        "lstsq: one column of x0 for one f",
        lambda a: partial(damped_lstsq, a.S, a.f, DAMPING, x0=a.array(np.ones((M, 1)))),
        ValueError,
        "x0",
        r"\(4,\).*no columns",
    ),
    (
        "lstsq: one x0 for k columns of f",
        lambda a: partial(damped_lstsq, a.S, a.array(np.ones((N, 2))), DAMPING, x0=a.v),
        ValueError,
        "x0",
        r"\(4, 2\).*2 columns",
    ),
    (
        "lstsq: three columns of x0 for two of f",
        lambda a: partial(
            damped_lstsq, a.S, a.array(np.ones((N, 2))), DAMPING, x0=a.array(np.ones((M, 3)))
        ),
        ValueError,
        "x0",
        r"\(4, 2\).*2 columns",
    ),
    (
        "factor.lstsq: k columns of x0 for one f",
        lambda a: partial(a.factor.lstsq, a.f, a.array(np.ones((M, 2)))),
        ValueError,
        "x0",
        r"\(4,\).*no columns",
    ),
    (
        "batch: v of one problem",
        lambda a: partial(damped_solve, a.batch, a.v, DAMPING),
        ValueError,
        "v",
        r"\(2, 7\)",
    ),
    (
        "batch: v that would broadcast",
        lambda a: partial(damped_solve, a.batch, a.array(np.ones((1, M))), DAMPING),
        ValueError,
        "v",
        r"\(2, 7\)",
    ),
    (
        "batch: v of three problems",
        lambda a: partial(damped_solve, a.batch, a.array(np.ones((3, M))), DAMPING),
        ValueError,
        "v",
        r"\(3, 7\).*\(2, 7\)",
    ),
    (
        "batch: a batch of v for one S",
        lambda a: partial(damped_solve, a.S, a.batch_v, DAMPING),
        ValueError,
        "v",
        r"\(2, 7\).*\(7,\)",
    ),
    (
        "batch: f of one problem",
        lambda a: partial(damped_lstsq, a.batch, a.f, DAMPING),
        ValueError,
        "f",
        r"\(4,\).*\(2, 4\)",
    ),
    (
        "batch: x0 of one problem",
        lambda a: partial(damped_lstsq, a.batch, a.batch_f, DAMPING, x0=a.v),
        ValueError,
        "x0",
        r"\(7,\).*\(2, 7\)",
    ),
    (
        "batch: metric of one problem",
        lambda a: partial(damped_solve, a.batch, a.batch_v, DAMPING, metric=a.metric),
        ValueError,
        "metric",
        r"\(7,\).*\(2, 7\)",
    ),
    (
        "batch: null of one problem",
        lambda a: partial(damped_solve, a.batch, a.batch_v, DAMPING, null=a.null),
        ValueError,
        "null",
        r"\(4,\).*\(2, 4\)",
    ),
    (
        "batch: energies of one problem",
        lambda a: partial(sr, a.batch, a.f, DAMPING),
        ValueError,
        "local_energies",
        r"\(4,\).*\(2, 4\)",
    ),
    (
        "batch: weights of one problem",
        lambda a: partial(scores, a.batch, weights=a.weights),
        ValueError,
        "weights",
        r"\(4,\).*\(2, 4\)",
    ),
    (
        "batch: weights of one problem for residuals",
        lambda a: partial(residuals, a.batch_f, weights=a.weights),
        ValueError,
        "weights",
        r"\(4,\).*\(2, 4\)",
    ),
    (
        "batch: a batch of weights for one problem",
        lambda a: partial(residuals, a.f, weights=a.batch_weights),
        ValueError,
        "weights",
        r"\(2, 4\).*\(4,\)",
    ),
    (
        "batch: previous of one problem",
        lambda a: partial(sr, a.batch, a.batch_f, DAMPING, previous=a.v, momentum=0.9),
        ValueError,
        "previous",
        r"\(7,\).*\(2, 7\)",
    ),
    (
        "batch: a block with a batch axis",
        lambda a: partial(gram, [a.batch]),
        ValueError,
        "S",
        "2-D",
    ),
    (
        "sr: one column of energies",
        lambda a: partial(sr, a.S, a.array(np.ones((N, 1))), DAMPING),
        ValueError,
        "local_energies",
        r"\(4, 1\).*must be \(4,\)",
    ),
    (
        "sr: parameters along two axes",
        lambda a: partial(sr, a.array(np.ones((N, 2, M))), a.f, DAMPING),
        ValueError,
        "log_derivatives",
        r"\(4, 2, 7\) but `local_energies` has shape \(4,\); reshape .* to \(4, 14\)",
    ),
    (
        "scores: parameters along three axes",
        lambda a: partial(scores, a.array(np.ones((N, 2, 3, M))), weights=a.weights),
        ValueError,
        "log_derivatives",
        r"\(4, 2, 3, 7\) but `weights` has shape \(4,\); reshape .* to \(4, 42\)",
    ),
    (
        "sr: energies of other samples",
        lambda a: partial(sr, a.S, a.array(np.ones(N + 1)), DAMPING),
        ValueError,
        "local_energies",
        r"\(5,\).*\(4,\)",
    ),
    (
        "sr: the step of another network",
        lambda a: partial(sr, a.S, a.f, DAMPING, previous=a.array(np.ones(M + 1)), momentum=0.9),
        ValueError,
        "previous",
        r"\(8,\).*\(7,\)",
    ),
    (
        "sr: the step of another network, momentum still zero",
        lambda a: partial(sr, a.S, a.f, DAMPING, previous=a.array(np.ones(M + 1))),
        ValueError,
        "previous",
        r"\(8,\).*\(7,\)",
    ),
]

SEQUENCES: list[tuple[str, Refused, type[Exception], str, str]] = [
    ("gram: empty list", lambda a: partial(gram, []), ValueError, "S", "empty list.*at least one"),
    (
        "gram: empty tuple",
        lambda a: partial(gram, ()),
        ValueError,
        "S",
        "empty tuple.*at least one",
    ),
    (
        "solve: empty list",
        lambda a: partial(damped_solve, [], [], DAMPING),
        ValueError,
        "S",
        "empty list",
    ),
    (
        "scores: empty list",
        lambda a: partial(scores, []),
        ValueError,
        "log_derivatives",
        "empty list",
    ),
    (
        "gram: lists of numbers",
        lambda a: partial(gram, [[1.0, 2.0], [3.0, 4.0]]),
        TypeError,
        "S[0]",
        "must be one array",
    ),
    (
        "gram: tree with a number",
        lambda a: partial(gram, {"w": [a.S_0, 1.0]}),
        TypeError,
        "S",
        "must be an array",
    ),
    (
        "gram: tree with rows of two lengths",
        lambda a: partial(gram, {"w": a.S_0, "b": a.S_1[:-1, :]}),
        ValueError,
        "S",
        r"\(3, 4\).*equal numbers of rows",
    ),
    (
        "solve: another tree",
        lambda a: partial(damped_solve, {"w": a.S}, {"v": a.v}, DAMPING),
        TypeError,
        "v",
        r"tree of the same containers and keys, with leaves \['w'\]",
    ),
    (
        "solve: an array for a tree",
        lambda a: partial(damped_solve, {"w": a.S}, a.v, DAMPING),
        TypeError,
        "v",
        "tree of the same containers",
    ),
    (
        "solve: a leaf of another shape",
        lambda a: partial(damped_solve, {"w": a.S}, {"w": a.v[:-1]}, DAMPING),
        ValueError,
        "v",
        r"\(6,\) but a row of `S\['w'\]` has shape \(7,\)",
    ),
    (
        "solve: dict of pieces",
        lambda a: partial(damped_solve, a.blocks, {0: a.v_0, 1: a.v_1}, DAMPING),
        TypeError,
        "v",
        "list or tuple of 2 pieces",
    ),
    (
        "solve: one array v for a list",
        lambda a: partial(damped_solve, a.blocks, a.v, DAMPING),
        TypeError,
        "v",
        "list or tuple of 2 pieces",
    ),
    (
        "solve: a list v for one array",
        lambda a: partial(damped_solve, a.S, [a.v_0, a.v_1], DAMPING),
        TypeError,
        "v",
        "must be one array",
    ),
    (
        "solve: a list v for a list of one block",
        lambda a: partial(damped_solve, [a.S], a.v, DAMPING),
        TypeError,
        "v",
        "list or tuple of 1 pieces?",
    ),
    (
        "solve: one piece too few",
        lambda a: partial(damped_solve, a.blocks, [a.v_0], DAMPING),
        ValueError,
        "v",
        "1 pieces.*2 column blocks",
    ),
    (
        "solve: one piece too many",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.v_1, a.v_1], DAMPING),
        ValueError,
        "v",
        "3 pieces.*2 column blocks",
    ),
    (
        "solve: no pieces",
        lambda a: partial(damped_solve, a.blocks, [], DAMPING),
        ValueError,
        "v",
        "0 pieces.*2 column blocks",
    ),
    (
        "solve: pieces in the other order",
        lambda a: partial(damped_solve, a.blocks, [a.v_1, a.v_0], DAMPING),
        ValueError,
        "v",
        r"must have shape \(3,\)",
    ),
    (
        "solve: k columns in one piece",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.array(np.ones((4, 1)))], DAMPING),
        ValueError,
        "v",
        "numbers of columns must agree",
    ),
    (
        "solve: other k in one piece",
        lambda a: partial(
            damped_solve, a.blocks, [a.array(np.ones((3, 2))), a.array(np.ones((4, 1)))], DAMPING
        ),
        ValueError,
        "v",
        "numbers of columns must agree",
    ),
    (
        "factor.solve: one array v for a list",
        lambda a: partial(a.block_factor.solve, a.v),
        TypeError,
        "v",
        "list or tuple of 2 pieces",
    ),
    (
        "factor.lstsq: one piece of x0 too few",
        lambda a: partial(a.block_factor.lstsq, a.f, [a.v_0]),
        ValueError,
        "x0",
        "1 pieces.*2 column blocks",
    ),
    (
        "lstsq: a list of f",
        lambda a: partial(damped_lstsq, a.blocks, [a.f, a.f], DAMPING),
        TypeError,
        "f",
        "must be one array",
    ),
    (
        "lstsq: one array x0 for a list",
        lambda a: partial(damped_lstsq, a.blocks, a.f, DAMPING, x0=a.v),
        TypeError,
        "x0",
        "list or tuple of 2 pieces",
    ),
    (
        "lstsq: k columns of x0 in pieces for one f",
        lambda a: partial(
            damped_lstsq,
            a.blocks,
            a.f,
            DAMPING,
            x0=[a.array(np.ones((3, 2))), a.array(np.ones((4, 2)))],
        ),
        ValueError,
        "x0",
        "no columns",
    ),
    (
        "solve: one array metric for a list",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=a.metric),
        TypeError,
        "metric",
        "list or tuple of 2 pieces",
    ),
    (
        "solve: one number metric for a list",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=2.0),
        TypeError,
        "metric",
        "list or tuple of 2 pieces",
    ),
    (
        "solve: one metric scalar too few",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=[2.0]),
        ValueError,
        "metric",
        "1 pieces.*2 column blocks",
    ),
    (
        "solve: one metric scalar too many",
        lambda a: partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=[2.0, 1, 1]),
        ValueError,
        "metric",
        "3 pieces.*2 column blocks",
    ),
    (
        "lstsq: a list of null vectors",
        lambda a: partial(damped_lstsq, a.blocks, a.f, DAMPING, null=[a.null]),
        TypeError,
        "null",
        "must be one array",
    ),
    (
        "sr: one array previous for a list",
        lambda a: partial(sr, a.blocks, a.f, DAMPING, previous=a.v, momentum=0.9),
        TypeError,
        "previous",
        "list or tuple of 2 pieces",
    ),
    (
        "sr: a list previous for one array",
        lambda a: partial(sr, a.S, a.f, DAMPING, previous=[a.v_0, a.v_1], momentum=0.9),
        TypeError,
        "previous",
        "must be one array",
    ),
    (
        "sr: one piece of previous too few",
        lambda a: partial(sr, a.blocks, a.f, DAMPING, previous=[a.v_0], momentum=0.9),
        ValueError,
        "previous",
        "1 pieces.*2 column blocks",
    ),
    (
        "sr: a list of energies",
        lambda a: partial(sr, a.blocks, [a.f, a.f], DAMPING),
        TypeError,
        "local_energies",
        "must be one array",
    ),
    (
        "scores: weights for each block",
        lambda a: partial(scores, a.blocks, weights=[a.weights, a.weights]),
        TypeError,
        "weights",
        "must be one array",
    ),
]


def singles(table: list[tuple[str, Refused, type[Exception], str, str]]) -> Any:
    return pytest.mark.parametrize(
        ("make", "error", "name", "says"), [pytest.param(*row[1:], id=row[0]) for row in table]
    )


@singles(SHAPES + SEQUENCES)
def test_shapes_and_sequences_that_do_not_fit(
    make: Refused, error: type[Exception], name: str, says: str, a: Arguments
) -> None:
    call = make(a)
    assert call.args
    refuse(call, error, name.partition("[")[0], says)


# -------------------------------------------------------------------------------- damping

TAKES_DAMPING = {
    "damped_solve": lambda a, x: partial(damped_solve, a.S, a.v, x),
    "damped_lstsq": lambda a, x: partial(damped_lstsq, a.S, a.f, x),
    "damped_factor": lambda a, x: partial(damped_factor, a.S, x),
    "stochastic_reconfiguration": lambda a, x: partial(sr, a.S, a.f, x),
}


def refuse_damping(
    a: Arguments, x: Any, error: type[Exception], says: str, table: Any = None
) -> None:
    """Assert that all functions that take a damping refuse this one."""
    table = table or TAKES_DAMPING
    refuse_each((name, call(a, x), error, "damping", says) for name, call in table.items())


POSITIVE = "positive and finite"

# id, what is passed, exception, what the message says. Python numbers need no reading.
DAMPING_NUMBERS = [
    ("zero", 0, ValueError, POSITIVE),
    ("float-zero", 0.0, ValueError, POSITIVE),
    ("minus-zero", -0.0, ValueError, POSITIVE),
    ("negative", -1e-3, ValueError, POSITIVE),
    ("nan", float("nan"), ValueError, POSITIVE),
    ("inf", float("inf"), ValueError, POSITIVE),
    ("minus-inf", float("-inf"), ValueError, POSITIVE),
    ("numpy-nan", np.float64("nan"), ValueError, POSITIVE),
    ("numpy-float32-zero", np.float32(0), ValueError, POSITIVE),
    ("subnormal", 5e-324, ValueError, "beyond the range.*scale"),
    ("beyond-any-float", 10**400, ValueError, "finite|overflows|range"),
    ("below-any-float", -(10**400), ValueError, f"-inf.*{POSITIVE}"),
    ("true", True, TypeError, "positive real number"),
    ("false", False, TypeError, "positive real number"),
    ("numpy-true", np.True_, TypeError, "real"),
    ("none", None, TypeError, "positive real number"),
    ("string", "1e-3", TypeError, "positive real number"),
    ("complex", 1e-3 + 0j, TypeError, "real"),
    ("numpy-complex", np.complex128(1e-3), TypeError, "real"),
    ("decimal", Decimal("1e-3"), TypeError, "positive real number"),
    ("list", [1e-3], TypeError, "positive real number"),
    ("tuple", (1e-3,), TypeError, "positive real number"),
    ("dict", {"damping": 1e-3}, TypeError, "positive real number"),
    ("function", len, TypeError, "positive real number"),
]


@pytest.mark.parametrize(
    ("value", "error", "says"), [pytest.param(*row[1:], id=row[0]) for row in DAMPING_NUMBERS]
)
def test_damping_numbers(value: Any, error: type[Exception], says: str, a: Arguments) -> None:
    if isinstance(value, np.generic) and not a.backend.name.startswith("numpy"):
        says = f"{says}|numpy array.*Convert"  # a NumPy scalar of an odd kind
    refuse_damping(a, value, error, says)


# id, NumPy value, dtype, what the message says
DAMPING_ARRAYS = [
    ("boolean", True, "bool", TypeError, "real"),
    ("complex", 0.5, "complex", TypeError, "real"),
    ("one-entry", [0.5], "", ValueError, r"\(1,\).*0-d"),
    ("one-for-each-sample", [0.5] * N, "", ValueError, r"\(4,\).*0-d"),
    ("one-for-each-parameter", [0.5] * M, "", ValueError, r"\(7,\).*0-d"),
    ("matrix", np.eye(M), "", ValueError, r"\(7, 7\).*0-d"),
    ("empty", [], "", ValueError, r"\(0,\).*0-d"),
]


@pytest.mark.parametrize(
    ("value", "dtype", "error", "says"),
    [pytest.param(*row[1:], id=row[0]) for row in DAMPING_ARRAYS],
)
def test_damping_arrays(
    value: Any, dtype: str, error: type[Exception], says: str, a: Arguments
) -> None:
    refuse_damping(a, a.array(value, a.complex if dtype == "complex" else dtype), error, says)


def test_damping_of_another_library(a: Arguments) -> None:
    refuse_damping(a, a.foreign(DAMPING), TypeError, "Convert one of them")


def test_damping_on_another_device(a: Arguments) -> None:
    refuse_damping(a, a.elsewhere(DAMPING), ValueError, "Move one of them")


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(scipy.sparse.csr_array(np.full((1, 1), DAMPING)), id="sparse"),
        pytest.param(np.ma.masked_array(DAMPING, mask=True), id="masked"),
        pytest.param(as_matrix(np.full((1, 1), DAMPING)), id="matrix"),
    ],
)
def test_damping_that_is_no_plain_array(x: Any, a: Arguments) -> None:
    refuse_damping(a, x, TypeError, REMEDY)


BATCH_TAKES_DAMPING = {
    "damped_solve": lambda a, x: partial(damped_solve, a.batch, a.batch_v, x),
    "damped_lstsq": lambda a, x: partial(damped_lstsq, a.batch, a.batch_f, x),
    "damped_factor": lambda a, x: partial(damped_factor, a.batch, x),
    "stochastic_reconfiguration": lambda a, x: partial(sr, a.batch, a.batch_f, x),
}


@pytest.mark.parametrize("shape", [(1,), (3,), (BATCH, 1), (BATCH, N), (1, BATCH)])
def test_damping_that_does_not_fit_the_batch(shape: tuple[int, ...], a: Arguments) -> None:
    x = a.array(np.ones(shape))
    says = rf"{re.escape(str(shape))}.*\(2,\)"
    refuse_damping(a, x, ValueError, says, BATCH_TAKES_DAMPING)


BAD_DAMPING = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", BAD_DAMPING)
def test_values_of_damping_in_0d_arrays(value: float, valued: Arguments) -> None:
    refuse_damping(valued, valued.array(value), ValueError, POSITIVE)
    for call in TAKES_DAMPING.values():
        works(call(valued, valued.array(DAMPING)), valued.backend)


def test_integer_zero_damping_in_a_0d_array(valued: Arguments) -> None:
    refuse_damping(valued, valued.array(0, "int64"), ValueError, POSITIVE)


@pytest.mark.parametrize("value", BAD_DAMPING)
def test_values_of_damping_in_one_batch_entry(value: float, valued: Arguments) -> None:
    a = valued
    for position in (0, -1):
        x = a.array(spoiled(a.data["batch_damping"], value, position))
        refuse_damping(a, x, ValueError, POSITIVE, BATCH_TAKES_DAMPING)
    works(partial(damped_solve, a.batch, a.batch_v, a.batch_damping), a.backend)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(1e-40, "float32.*(scale|float64)", id="subnormal"),
        pytest.param(1e-60, "float32.*(scale|float64)", id="underflow"),
        pytest.param(1e39, "float32|finite", id="overflow"),
    ],
)
@pytest.mark.thinned
@pytest.mark.parametrize("kind", ["number", "0d-array", "batch"])
def test_damping_beyond_the_range_of_float32(
    kind: str, value: float, says: str, valued: Arguments
) -> None:
    """A positive damping that float32 turns into 0, a subnormal number, or Inf."""
    single, x = Arguments(valued.backend), value
    single.dtype = "float32"
    if kind != "number":
        dtype = "float32" if value == 1e-40 else valued.dtype  # subnormal; some flush it to zero
        if dtype != "float64" and value != 1e-40:
            pytest.skip("no float64 here")
        x = valued.array([1.0, value] if kind == "batch" else value, dtype)
    table = BATCH_TAKES_DAMPING if kind == "batch" else TAKES_DAMPING
    refuse_damping(single, x, ValueError, f"{says}|{POSITIVE}", table)


# -------------------------------------------------------------------------------- options

TAKES_OPTIONS = {
    "damped_solve": lambda a, **x: partial(damped_solve, a.S, a.v, DAMPING, **x),
    "damped_lstsq": lambda a, **x: partial(damped_lstsq, a.S, a.f, DAMPING, **x),
    "damped_factor": lambda a, **x: partial(damped_factor, a.S, DAMPING, **x),
    "stochastic_reconfiguration": lambda a, **x: partial(sr, a.S, a.f, DAMPING, **x),
}


def refuse_option(a: Arguments, option: str, value: Any, error: type[Exception], says: str) -> None:
    """Assert that all functions that have this option refuse the value."""
    refuse_each(
        (name, call(a, **{option: value}), error, option, says)
        for name, call in TAKES_OPTIONS.items()
    )


# id, option, value, exception, what the message says
OPTIONS = [
    ("method-unknown", "method", "lu", ValueError, "'cholesky'.*'qr'"),
    ("method-in-capitals", "method", "Cholesky", ValueError, "'cholesky'"),
    ("method-empty", "method", "", ValueError, "'cholesky'"),
    ("method-none", "method", None, ValueError, "'auto'"),
    ("method-true", "method", True, ValueError, "'auto'"),
    ("method-list", "method", ["svd"], ValueError, "'auto'"),
    ("method-dict", "method", {"svd": 1}, ValueError, "'auto'"),
    ("method-function", "method", np.linalg.svd, ValueError, "'auto'"),
    ("precision-unknown", "precision", "float128", ValueError, "'native'"),
    ("precision-dtype", "precision", np.float32, ValueError, "'native'"),
    ("precision-none", "precision", None, ValueError, "'native'"),
    ("precision-number", "precision", 1e-8, ValueError, "'native'"),
    ("precision-tf32", "precision", "tf32", ValueError, "'split-tf32'"),
    ("precision-in-capitals", "precision", "Split-TF32", ValueError, "'split-tf32'"),
    ("refine-negative", "refine", -1, ValueError, "not be negative"),
    ("refine-without-end", "refine", 10**400, ValueError, "must be less than"),
    ("refine-float", "refine", 1.0, TypeError, "integer"),
    ("refine-numpy-float", "refine", np.float64(1.0), TypeError, "integer"),
    ("refine-nan", "refine", float("nan"), TypeError, "integer"),
    ("refine-true", "refine", True, TypeError, "integer"),
    ("refine-numpy-true", "refine", np.True_, TypeError, "integer"),
    ("refine-none", "refine", None, TypeError, "integer"),
    ("refine-string", "refine", "1", TypeError, "integer"),
    ("refine-list", "refine", [1], TypeError, "integer"),
]


@pytest.mark.parametrize(
    ("option", "value", "error", "says"), [pytest.param(*row[1:], id=row[0]) for row in OPTIONS]
)
def test_options(option: str, value: Any, error: type[Exception], says: str, a: Arguments) -> None:
    refuse_option(a, option, value, error, says)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "complex64"])
def test_split_tf32_is_for_float32_on_gpus(kind: str, a: Arguments) -> None:
    """On a GPU the remedy is another dtype, elsewhere for float32 another device."""
    try:
        S, v, f = (a.array(a.data[name], kind) for name in ("S", "v", "f"))
    except (TypeError, ValueError):
        pytest.skip(f"no {kind} here")
    says = "needs an NVIDIA GPU.*'native'" if kind == "float32" else "convert `.*` to float32"
    calls = {
        "damped_solve": partial(damped_solve, S, v, DAMPING, precision="split-tf32"),
        "damped_lstsq": partial(damped_lstsq, S, f, DAMPING, precision="split-tf32"),
        "damped_factor": partial(damped_factor, S, DAMPING, precision="split-tf32"),
    }
    if kind == "float32" and a.backend.name in ("torch-cuda", "jax-gpu", "cupy", "cupy-double"):
        pytest.skip("an NVIDIA GPU")
    refuse_each((name, call, ValueError, "precision", says) for name, call in calls.items())


@pytest.mark.parametrize("option", ["method", "precision", "refine"])
def test_an_array_passed_as_an_option(option: str, a: Arguments) -> None:
    """Arrays compare entry by entry, which must not surface as an ambiguous truth value."""
    error = TypeError if option == "refine" else ValueError
    refuse_option(a, option, a.v, error, "must be")


@pytest.mark.parametrize("value", ["False", "True", None, 0, 1, np.True_, []], ids=repr)
def test_full_output_is_true_or_false(value: Any, a: Arguments) -> None:
    refuse_full_output(a, value)


def test_an_array_passed_as_full_output(a: Arguments) -> None:
    refuse_full_output(a, a.v)


def refuse_full_output(a: Arguments, value: Any) -> None:
    """Assert that all functions that can return more refuse the value."""
    calls = {
        name: call(a, full_output=value)
        for name, call in TAKES_OPTIONS.items()
        if name != "damped_factor"
    }
    calls["DampedFactor.solve"] = partial(a.factor.solve, a.v, full_output=value)
    calls["DampedFactor.lstsq"] = partial(a.factor.lstsq, a.f, full_output=value)
    refuse_each(
        (name, call, TypeError, "full_output", "must be True or False")
        for name, call in calls.items()
    )


@pytest.mark.parametrize("option", ["x0", "null", "nul", "rcond", "weight"])
def test_unknown_options_of_stochastic_reconfiguration(option: str, a: Arguments) -> None:
    """They must be reported under the name of the function that was called."""
    call = partial(sr, a.S, a.f, DAMPING, **{option: a.v})
    with pytest.raises(TypeError, match=option) as caught:
        call()
    assert "stochastic_reconfiguration" in str(caught.value)
    assert caught.value.__context__ is None


TAKES_MODE = {
    "scores": lambda a, O, E, **x: partial(scores, O, **x),
    "residuals": lambda a, O, E, **x: partial(residuals, E, **x),
    "stochastic_reconfiguration": lambda a, O, E, **x: partial(sr, O, E, DAMPING, **x),
}
takes_mode = pytest.mark.parametrize(
    "call", [pytest.param(call, id=name) for name, call in TAKES_MODE.items()]
)


@pytest.mark.parametrize("mode", ["Complex", "", "imag", 1, True, ["complex"], {"mode": "real"}])
@takes_mode
def test_unknown_modes(call: Any, mode: Any, a: Arguments) -> None:
    O, E = (a.array(a.data[x] * 1j, a.complex) for x in ("S", "f"))
    refuse(call(a, O, E, mode=mode), ValueError, "mode", "'real', 'complex', 'holomorphic'")
    refuse(call(a, a.S, a.f, mode=mode), ValueError, "mode", "'real', 'complex', 'holomorphic'")


@takes_mode
def test_an_array_passed_as_mode(call: Any, a: Arguments) -> None:
    says = "'real', 'complex', 'holomorphic'"
    refuse(call(a, a.S, a.f, mode=a.weights), ValueError, "mode", says)


@takes_mode
def test_complex_arguments_without_a_mode(call: Any, a: Arguments) -> None:
    O, E = (a.array(a.data[x] * 1j, a.complex) for x in ("S", "f"))
    says = "`mode` is not given.*'complex'.*'holomorphic'.*'real'"
    refuse(call(a, O, E), ValueError, "local_energies" if "energies" in says else "mode", says)


def test_complex_column_blocks_without_a_mode(a: Arguments) -> None:
    blocks = [a.array(a.data[x] * 1j, a.complex) for x in ("S_0", "S_1")]
    says = "`mode` is not given.*'complex'.*'holomorphic'"
    refuse(partial(scores, blocks), ValueError, "log_derivatives", says)
    refuse(partial(sr, blocks, a.f, DAMPING), ValueError, "log_derivatives", says)


def test_modes_that_contradict_the_dtype(a: Arguments) -> None:
    O = a.array(a.data["S"] * 1j, a.complex)
    for function in (
        lambda O, **x: partial(scores, O, **x),
        lambda O, **x: partial(sr, O, a.f, 0.1, **x),
    ):
        refuse(function(O, mode="real"), ValueError, "mode", "real part.*'complex'")
        refuse(function(a.S, mode="complex"), ValueError, "mode", "choose mode 'real'")


@pytest.mark.parametrize("mode", ["real", "complex"])
def test_a_complex_previous_step_of_real_parameters(mode: str, a: Arguments) -> None:
    """It would make the step complex, although the parameters are real."""
    O = a.S if mode == "real" else a.array(a.data["S"] * (1 + 1j), a.complex)
    previous = a.array(a.data["v"] * 1j, a.complex)
    call = partial(sr, O, a.f, DAMPING, mode=mode, previous=previous, momentum=0.9)
    refuse(call, TypeError, "previous", "real")


# id, momentum, exception, what the message says
MOMENTA = [
    ("negative", -0.1, ValueError, "0 <= momentum < 1"),
    ("above-one", 1.5, ValueError, "0 <= momentum < 1"),
    ("one", 1.0, ValueError, "0 <= momentum < 1"),  # documented: 0 <= mu < 1
    ("nan", float("nan"), ValueError, "0 <= momentum < 1"),
    ("inf", float("inf"), ValueError, "0 <= momentum < 1"),
    ("true", True, TypeError, "number"),
    ("none", None, TypeError, "number"),
    ("string", "0.9", TypeError, "number"),
    ("complex", 0.9 + 0j, TypeError, "real|number"),
    ("list", [0.9], TypeError, "number"),
    ("dict", {"momentum": 0.9}, TypeError, "number"),
]


@pytest.mark.parametrize(
    ("value", "error", "says"), [pytest.param(*row[1:], id=row[0]) for row in MOMENTA]
)
def test_momentum(value: Any, error: type[Exception], says: str, a: Arguments) -> None:
    """Refused at the first step, where it is not used yet, as at all later ones."""
    call = partial(sr, a.S, a.f, DAMPING, momentum=value)
    refuse(call, error, "momentum", says)
    refuse(partial(call, previous=a.v), error, "momentum", says)


@pytest.mark.parametrize(
    ("value", "dtype", "error"),
    [
        pytest.param([0.5], "", ValueError, id="one-entry"),
        pytest.param([0.5, 0.5], "", ValueError, id="batch-for-one-problem"),
        pytest.param([0.5] * M, "", ValueError, id="one-for-each-parameter"),
        pytest.param(0.5, "complex", TypeError, id="complex"),
        pytest.param(True, "bool", TypeError, id="boolean"),
    ],
)
def test_momentum_arrays(value: Any, dtype: str, error: type[Exception], a: Arguments) -> None:
    x = a.array(value, a.complex if dtype == "complex" else dtype)
    refuse(partial(sr, a.S, a.f, DAMPING, previous=a.v, momentum=x), error, "momentum")


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_values_of_momentum_in_0d_arrays(value: float, valued: Arguments) -> None:
    a = valued
    call = partial(sr, a.S, a.f, DAMPING, previous=a.v, momentum=a.array(value))
    refuse(call, ValueError, "momentum")


def test_momentum_of_another_library_or_device(a: Arguments) -> None:
    good = partial(sr, a.S, a.f, DAMPING, previous=a.v)
    refuse(partial(good, momentum=a.foreign(0.5)), TypeError, "momentum", "Convert")
    refuse(partial(good, momentum=a.elsewhere(0.5)), ValueError, "momentum", "Move")


@pytest.mark.parametrize(
    "accumulate",
    ["float16", "int64", "double", "", 64, 1.0, True, ["float64"], {"float64": 1}, np.float64],
)
def test_accumulate(accumulate: Any, a: Arguments) -> None:
    refuse(
        partial(gram, a.S, accumulate=accumulate), ValueError, "accumulate", "float32 or float64"
    )


@pytest.mark.parametrize("accumulate", ["float32", "float64"])
def test_accumulate_of_complex_scores_in_a_real_dtype(accumulate: str, a: Arguments) -> None:
    S = a.array(a.data["S"], a.complex)
    says = "complex64 or complex128"
    refuse(partial(gram, S, accumulate=accumulate), ValueError, "accumulate", says)


def test_an_array_passed_as_accumulate(a: Arguments) -> None:
    refuse(partial(gram, a.S, accumulate=a.f), ValueError, "accumulate", "float32 or float64")


@pytest.mark.parametrize("option", ["method", "refine", "metric", "null", "check"])
def test_options_are_keywords(option: str) -> None:
    """A fourth positional argument would be taken for one of several things."""
    S = np.eye(3)
    for function, args in (
        (damped_solve, (S, S[0], 0.1)),
        (damped_lstsq, (S, S[0], 0.1)),
        (damped_factor, (S, 0.1)),
        (gram, (S,)),
        (scores, (S,)),
        (residuals, (S[0],)),
        (sr, (S, S[0], 0.1)),
    ):
        with pytest.raises(TypeError, match="positional argument"):
            function(*args, option)


# --------------------------------------------------------------------------------- values

NOT_FINITE = [("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)]
not_finite = pytest.mark.parametrize("value", [pytest.param(x, id=name) for name, x in NOT_FINITE])
VALUE_SAYS = {
    "metric": POSITIVE,
    "null": "orthonormal|NaN or Inf",
    "weights": "finite and not negative",
}


def spoiled(x: np.ndarray, value: float, position: int) -> np.ndarray:
    x = np.array(x)
    x.reshape(-1)[position] = value
    return x


def refuse_not_finite(argument: ArrayArgument, a: Arguments) -> None:
    says = VALUE_SAYS.get(argument.name, "(?i)NaN or Inf")
    refuse_each(
        (
            f"{value} at {position}",
            argument.call(a, a.array(spoiled(a.data[argument.good], value, position))),
            ValueError,
            argument.name,
            says,
        )
        for _, value in NOT_FINITE
        for position in (0, -1)
    )
    works(argument.call(a, getattr(a, argument.good)), a.backend)


@each([x for x in ARRAYS if not x.propagates])
def test_nan_and_inf_in_each_argument(argument: ArrayArgument, valued: Arguments) -> None:
    refuse_not_finite(argument, valued)


@each([x for x in ARRAYS if x.propagates])
def test_nan_and_inf_in_arguments_of_functions_without_check(
    argument: ArrayArgument, valued: Arguments
) -> None:
    """Otherwise NaN would spread from one sample to all of them."""
    refuse_not_finite(argument, valued)


@pytest.mark.parametrize(
    "name", ["S", "v", "f", "x0", "log_derivatives", "local_energies", "previous"]
)
def test_nan_errors_say_what_to_do(name: str, valued: Arguments) -> None:
    for argument in ARRAYS:
        if argument.name == name and not argument.propagates:
            x = valued.array(spoiled(valued.data[argument.good], np.nan, 0))
            refuse(argument.call(valued, x), ValueError, name, FINITE_REMEDY)


IN_BATCH = [
    ("S", "batch", lambda a, x: partial(damped_solve, x, a.batch_v, DAMPING)),
    ("v", "batch_v", lambda a, x: partial(damped_solve, a.batch, x, DAMPING)),
    ("f", "batch_f", lambda a, x: partial(damped_lstsq, a.batch, x, DAMPING)),
    ("x0", "batch_v", lambda a, x: partial(damped_lstsq, a.batch, a.batch_f, DAMPING, x0=x)),
    (
        "metric",
        "batch_metric",
        lambda a, x: partial(damped_solve, a.batch, a.batch_v, DAMPING, metric=x),
    ),
    ("weights", "batch_weights", lambda a, x: partial(scores, a.batch, weights=x)),
    ("log_derivatives", "batch", lambda a, x: partial(sr, x, a.batch_f, DAMPING)),
    ("local_energies", "batch_f", lambda a, x: partial(sr, a.batch, x, DAMPING)),
    (
        "previous",
        "batch_v",
        lambda a, x: partial(sr, a.batch, a.batch_f, DAMPING, previous=x, momentum=0.5),
    ),
]


@pytest.mark.parametrize(
    ("name", "good", "call"), [pytest.param(*row, id=row[0]) for row in IN_BATCH]
)
def test_nan_and_inf_in_one_batch_entry(name: str, good: str, call: Any, valued: Arguments) -> None:
    a = valued
    refuse_each(
        (
            f"{value} at {i}",
            call(a, a.array(spoiled(a.data[good], value, i))),
            ValueError,
            name,
            REMEDY,
        )
        for _, value in NOT_FINITE
        for i in (0, -1)
    )
    works(call(a, getattr(a, good)), a.backend)


@pytest.mark.parametrize("method", METHODS)
def test_nan_and_inf_with_each_method(method: str, valued: Arguments) -> None:
    a = valued
    for _, value in NOT_FINITE:
        for good, rhs in (("S", a.v), ("tall", a.f)):
            x = a.array(spoiled(a.data[good], value, -1))
            refuse(partial(damped_solve, x, rhs, DAMPING, method=method), ValueError, "S")
            refuse(partial(damped_factor, x, DAMPING, method=method), ValueError, "S")
        x = a.array(spoiled(a.data["v"], value, 0))
        refuse(partial(damped_solve, a.S, x, DAMPING, method=method), ValueError, "v")


@not_finite
def test_nan_and_inf_in_the_imaginary_part(value: float, valued: Arguments) -> None:
    a = valued
    x = a.data["f"].astype(complex)
    x.imag[-1] = value
    refuse(partial(damped_lstsq, a.S, a.array(x, a.complex), DAMPING), ValueError, "f")
    S = a.data["S"].astype(complex)
    S.imag[0, 0] = value
    S = a.array(S, a.complex)
    refuse(partial(damped_lstsq, S, a.f, DAMPING), ValueError, "S")
    for mode in ("complex", "holomorphic"):
        call = partial(sr, S, a.array(x.real, a.complex), DAMPING, mode=mode)
        refuse(call, ValueError, "log_derivatives")


def test_nan_in_a_column_of_right_hand_sides(valued: Arguments) -> None:
    a = valued
    f = np.ones((N, 2))
    f[-1, -1] = np.nan
    refuse(partial(damped_lstsq, a.S, a.array(f), DAMPING), ValueError, "f")
    refuse(partial(a.factor.lstsq, a.array(f)), ValueError, "f")


def test_nan_that_meets_a_zero_weight(valued: Arguments) -> None:
    """0 * NaN is NaN, but a sample of weight 0 changes nothing; any other is refused by name."""
    a = valued
    O, E = spoiled(a.data["S"], np.nan, 0), spoiled(a.data["f"], np.nan, 0)
    weights = a.array(spoiled(a.data["weights"], 0.0, 0))
    works(partial(sr, a.array(O), a.array(E), DAMPING, weights=weights), a.backend)
    arguments = {"weights": a.array(spoiled(a.data["weights"], 0.0, 1))}
    refuse(partial(sr, a.array(O), a.f, DAMPING, **arguments), ValueError, "log_derivatives")
    refuse(partial(sr, a.S, a.array(E), DAMPING, **arguments), ValueError, "local_energies")


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0])
def test_metric_must_be_positive(value: float, valued: Arguments) -> None:
    a = valued
    refuse_each(
        (
            x.where,
            x.call(a, a.array(spoiled(a.data[x.good], value, i))),
            ValueError,
            "metric",
            POSITIVE,
        )
        for x in ARRAYS
        if x.name == "metric"
        for i in (0, -1)
    )


@pytest.mark.parametrize("value", [0, 0.0, -1, -1.0, np.nan, np.inf])
def test_metric_scalars_must_be_positive(value: float, valued: Arguments) -> None:
    a = valued
    call = partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING)
    refuse(partial(call, metric=[value, 1.0]), ValueError, "metric", POSITIVE)
    refuse(partial(call, metric=(1.0, value)), ValueError, "metric", POSITIVE)
    works(partial(call, metric=(1.0, 2)), a.backend)


@pytest.mark.parametrize("value", [True, "1.0", None, 1j])
def test_metric_scalars_of_the_wrong_kind(value: Any, a: Arguments) -> None:
    call = partial(damped_solve, a.blocks, [a.v_0, a.v_1], DAMPING, metric=[1.0, value])
    refuse(call, TypeError, "metric", "array")


TAKES_WEIGHTS = [x for x in ARRAYS if x.name == "weights"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: spoiled(x, -1e-6, 0), id="first-negative"),
        pytest.param(lambda x: spoiled(x, -1e-6, -1), id="last-negative"),
        pytest.param(lambda x: -x, id="all-negative"),
        pytest.param(np.zeros_like, id="all-zero"),
        pytest.param(lambda x: np.log(x / x.sum()), id="logarithms"),
    ],
)
@each(TAKES_WEIGHTS)
def test_weights_that_are_not_weights(
    argument: ArrayArgument, spoil: Any, valued: Arguments
) -> None:
    a = valued
    x = a.array(spoil(a.data["weights"]))
    refuse(argument.call(a, x), ValueError, "weights", "not negative, and not all zero")
    works(argument.call(a, a.weights), a.backend)


def test_weights_all_zero_in_one_batch_entry(valued: Arguments) -> None:
    a = valued
    x = np.array(a.data["batch_weights"])
    x[-1] = 0.0
    refuse(partial(scores, a.batch, weights=a.array(x)), ValueError, "weights", "all zero")
    call = partial(residuals, a.batch_f, weights=a.array(x))
    refuse(call, ValueError, "weights", "all zero")


# id, function from the good null vector (n,) to one that is not
NOT_NULL = [
    ("not-of-norm-one", lambda q: 2 * q),
    ("zero", lambda q: 0 * q),
    ("not-a-null-vector", lambda q: np.array([1.0, 0.0, 0.0, 0.0])),
    ("twice-the-same", lambda q: np.stack([q, q], axis=-1)),
    ("one-right-and-one-wrong", lambda q: np.stack([q, [0.5, 0.5, -0.5, -0.5]], axis=-1)),
    ("everything", lambda q: np.eye(N)),
    ("more-than-everything", lambda q: np.full((N, N + 1), N**-0.5)),
]


@pytest.mark.parametrize("spoil", [pytest.param(row[1], id=row[0]) for row in NOT_NULL])
def test_null_that_is_not_null(spoil: Any, valued: Arguments) -> None:
    """With a wrong `null` part of f is dropped: a wrong step, whatever the method."""
    a = valued
    null = a.array(spoil(a.data["null"]))
    says = "orthonormal.*(centre the scores|leave `null` out)"
    calls = {
        "damped_lstsq": partial(damped_lstsq, a.S, a.f, DAMPING),
        "damped_solve": partial(damped_solve, a.S, a.v, DAMPING),
        "damped_factor": partial(damped_factor, a.S, DAMPING),
    }
    refuse_each(
        (f"{name} {method}", partial(call, method=method, null=null), ValueError, "null", says)
        for name, call in calls.items()
        for method in METHODS
    )
    works(partial(calls["damped_lstsq"], null=a.null), a.backend)


def test_null_that_is_not_null_with_more_samples_than_parameters(valued: Arguments) -> None:
    a = valued
    null = a.array(np.eye(M)[0])
    call = partial(damped_lstsq, a.tall, a.v, DAMPING, null=null)
    refuse(call, ValueError, "null", "orthonormal")


def test_null_of_scores_that_are_not_centred(valued: Arguments) -> None:
    a = valued
    S = a.array(a.data["S"] + 1.0)
    refuse(partial(damped_lstsq, S, a.f, DAMPING, null=a.null), ValueError, "null", "centre")


# ------------------------------------------------------------------------- beyond the range


@pytest.mark.thinned
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_row_norms_beyond_the_range_of_float32(shape: str, method: str, valued: Arguments) -> None:
    """The entries are finite, their squares are not: that is no NaN of the caller's."""
    a = valued
    x = a.data["S" if shape == "wide" else "tall"]
    S = a.array(x * 1e30, "float32")
    n, m = x.shape
    v, f = a.array(np.ones(m), "float32"), a.array(np.ones(n), "float32")
    calls = [
        partial(damped_solve, S, v, DAMPING, method=method),
        partial(damped_lstsq, S, f, DAMPING, method=method),
        partial(damped_factor, S, DAMPING, method=method),
    ]
    for call in calls:
        refuse(call, ValueError, "S", r"(?i)range of float32.*(scale|float64)")
    refuse(
        partial(sr, S, f, DAMPING, method=method),
        ValueError,
        "log_derivatives",
        r"(?i)range of float32.*(scale|float64)",
    )


def test_row_norms_beyond_the_range_in_one_entry(valued: Arguments) -> None:
    a = valued
    says = r"(?i)range of float32.*(scale|float64)"
    for dtype in ("float32", "complex64"):
        S = a.array(spoiled(a.data["S"], 1e30, -1), dtype)
        f = a.array(a.data["f"], dtype)
        refuse(partial(damped_lstsq, S, f, DAMPING), ValueError, "S", says)
        blocks = [a.array(a.data["S_0"], dtype), a.array(spoiled(a.data["S_1"], 1e30, 0), dtype)]
        refuse(partial(damped_lstsq, blocks, f, DAMPING), ValueError, "S", says)
        batch = a.array(spoiled(a.data["batch"], 1e30, -1), dtype)
        refuse(partial(damped_factor, batch, DAMPING), ValueError, "S", says)


def test_float32_scores_beyond_the_range_with_a_float64_right_hand_side(valued: Arguments) -> None:
    """The work is done in the dtype of the result, in which nothing overflows."""
    a = valued
    if a.dtype != "float64":
        pytest.skip("no float64 here")
    S = a.array(a.data["S"] * 1e30, "float32")
    works(partial(damped_lstsq, S, a.f, 1e50), a.backend)


@pytest.mark.parametrize("name", ["f", "v", "x0"])
def test_large_right_hand_sides_in_float32(name: str, valued: Arguments) -> None:
    """Their squares overflow, the solution does not: it is right, and not certified wrongly."""
    a = valued
    S, f, v = (a.array(a.data[x], "float32") for x in ("S", "f", "v"))
    scale = 1e30

    def solve(f: Any, v: Any) -> Any:
        if name == "v":
            return damped_solve(S, v, DAMPING, full_output=True)
        return damped_lstsq(S, f, DAMPING, x0=v if name == "x0" else None, full_output=True)

    expected, _ = solve(f, v)
    x, info = solve(f * scale, v * scale)
    x, expected = a.backend.numpy(x), a.backend.numpy(expected)
    np.testing.assert_allclose(x / scale, expected, rtol=1e-4, atol=1e-5)
    bound = a.backend.numpy(info.error_bound)
    assert np.isfinite(bound) or not a.backend.numpy(info.converged)


@pytest.mark.parametrize("damping", [1e-6, 1e-3])
def test_a_solution_beyond_the_range_of_float32(damping: float, valued: Arguments) -> None:
    """|x| is up to |v| / damping; where that overflows there is no answer, and no NaN either."""
    a = valued
    S, v = a.array(a.data["S"], "float32"), a.array(np.ones(M) * 3e37, "float32")
    call = partial(damped_solve, S, v, damping, precision="native")
    refuse(call, ValueError, "v", RANGE)


# ----------------------------------------------------------------------- indefinite Gram


def repeated_rows(a: Arguments, dtype: str, n: int = 12, m: int = 40) -> tuple[Any, Any, float]:
    """Return S with equal rows, v, and a damping that is lost in the rounding of S S^H."""
    rng = np.random.default_rng(1)
    S = np.repeat(rng.standard_normal((1, m)), n, axis=0)
    if dtype.startswith("complex"):
        S = S * (1 + 0.5j)
    damping = 1e-12 if dtype in ("float32", "complex64") else 1e-20
    damping *= np.linalg.norm(S) ** 2
    return a.array(S, dtype), a.array(rng.standard_normal(m), dtype), float(damping)


INDEFINITE = (
    r"not positive definite in {dtype}.*`?damping`? is {ratio} of \|`?S`?\|(_F)?\^2.*"
    r"Raise (`damping`|it).* [\d.]+e-\d+ .*float64.*`null`.*method='qr'"
)


@pytest.mark.parametrize("shape", ["wide", "tall", "blocks", "batch"])
def test_an_indefinite_gram_matrix(shape: str, valued: Arguments) -> None:
    """The message says at which damping relative to |S|^2, in which dtype, and what to do."""
    for dtype in valued.backend.dtypes if shape == "wide" else ("float32",):
        indefinite(valued, dtype, shape)


def indefinite(a: Arguments, dtype: str, shape: str) -> None:
    S, v, damping = repeated_rows(a, dtype)
    f = S[:, 0]
    if shape == "tall":
        S, v, f = a.array(a.backend.numpy(S).T, dtype), f, v
    elif shape == "batch":
        good = np.random.default_rng(0).standard_normal((12, 40)) * 10
        S, v, f = (
            a.array(np.stack([x, a.backend.numpy(y)]), dtype)
            for x, y in ((good, S), (good[0], v), (good[:, 0], f))
        )
    elif shape == "blocks":
        S, v = [S[:, :15], S[:, 15:]], [v[:15], v[15:]]
    ratio = re.escape(f"{1e-12 if dtype in ('float32', 'complex64') else 1e-20:.1e}")
    says = INDEFINITE.format(dtype=dtype, ratio=ratio)
    error = np.linalg.LinAlgError
    native = {"precision": "native"}
    refuse(partial(damped_solve, S, v, damping, **native), error, "S", says)
    if dtype != "float32":  # one function for the other dtypes: JAX compiles all of them anew
        return
    refuse(partial(damped_lstsq, S, f, damping, **native), error, "S", says)
    refuse(partial(damped_factor, S, damping, **native), error, "S", says)
    works(partial(damped_lstsq, S, f, damping * 1e10), a.backend)


def test_the_remedies_of_an_indefinite_gram_matrix_work(valued: Arguments) -> None:
    """What the message proposes is tried: the damping that it names, float64, auto, qr."""
    a = valued
    S, v, damping = repeated_rows(a, "float32")
    native = {"precision": "native"}
    with pytest.raises(np.linalg.LinAlgError) as caught:
        damped_solve(S, v, damping, precision="native")
    least = float(re.search(r"Raise \D*(\d\S*) ", str(caught.value))[1])  # type: ignore[index]
    norm2 = float(np.linalg.norm(a.backend.numpy(S).astype(np.float64)) ** 2)
    works(partial(damped_solve, S, v, 2 * least * norm2, **native), a.backend)
    works(partial(damped_lstsq, S, S[:, 0], damping, method="qr", **native), a.backend)
    with pytest.warns(PrecisionWarning, match="`damping`"):
        works(partial(damped_lstsq, S, S[:, 0], damping), a.backend)
    if a.dtype == "float64":
        S64, v64 = (a.array(a.backend.numpy(x), "float64") for x in (S, v))
        works(partial(damped_solve, S64, v64, damping, **native), a.backend)


def test_an_indefinite_gram_matrix_of_scores(valued: Arguments) -> None:
    """Equal samples among others: the null vector of centring does not help, but is not blamed."""
    a = valued
    rng = np.random.default_rng(2)
    O = a.array(np.repeat(rng.standard_normal((2, 40)), 8, axis=0), "float32")
    E = a.array(rng.standard_normal(16), "float32")
    says = r"float32.*`?damping`? is \d\.\de-1\d of.*Raise (`damping`|it) "
    call = partial(sr, O, E, 1e-12, precision="native")
    refuse(call, np.linalg.LinAlgError, "log_derivatives", says)
    works(partial(sr, O, E, 1.0), a.backend)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_an_indefinite_gram_matrix_without_check(dtype: str, valued: Arguments) -> None:
    a = valued
    S, v, damping = repeated_rows(a, dtype)
    unchecked: Any = {"precision": "native", "check": False}
    for x, info in (
        damped_solve(S, v, damping, **unchecked, full_output=True),
        damped_lstsq(S, S[:, 0], damping, **unchecked, full_output=True),
        damped_factor(S, damping, **unchecked).solve(v, full_output=True),
    ):
        assert np.all(np.isnan(a.backend.numpy(x)))
        assert not a.backend.numpy(info.converged)


def test_only_the_indefinite_batch_entry_is_lost_without_check(valued: Arguments) -> None:
    a = valued
    S, v, damping = (
        x if isinstance(x, float) else a.backend.numpy(x) for x in repeated_rows(a, "float32")
    )
    good = np.random.default_rng(0).standard_normal(S.shape)
    S, v = a.array(np.stack([good, S]), "float32"), a.array(np.stack([v, v]), "float32")
    unchecked: Any = {"precision": "native", "check": False, "full_output": True}
    x, info = damped_solve(S, v, a.array([1.0, damping], "float32"), **unchecked)
    x = a.backend.numpy(x)
    assert np.all(np.isfinite(x[0]))
    assert np.all(np.isnan(x[1]))
    assert a.backend.numpy(info.converged).tolist() == [True, False]


# ------------------------------------------------------------- where values cannot be read


UNREADABLE = [
    (
        "nan-in-S",
        lambda a, run: run(damped_solve, a.array(spoiled(a.data["S"], np.nan, 0)), a.v, DAMPING),
    ),
    (
        "inf-in-f",
        lambda a, run: run(damped_lstsq, a.S, a.array(spoiled(a.data["f"], np.inf, 0)), DAMPING),
    ),
    (
        "nan-in-v",
        lambda a, run: run(damped_solve, a.S, a.array(spoiled(a.data["v"], np.nan, 0)), DAMPING),
    ),
    ("nan-damping", lambda a, run: run(damped_solve, a.S, a.v, a.array(np.nan))),
    (
        "negative-metric",
        lambda a, run: run(damped_solve, a.S, a.v, DAMPING, metric=a.array(-a.data["metric"])),
    ),
    (
        "indefinite",
        lambda a, run: run(damped_solve, *repeated_rows(a, "float32"), precision="native"),
    ),
    (
        "overflow",
        lambda a, run: run(
            damped_lstsq,
            a.array(a.data["S"] * 1e30, "float32"),
            a.array(a.data["f"], "float32"),
            DAMPING,
        ),
    ),
    (
        "weights-all-zero",
        lambda a, run: run(sr, a.S, a.f, DAMPING, weights=a.array(np.zeros(N))),
    ),
]


@pytest.mark.parametrize(("name", "make"), [pytest.param(*row, id=row[0]) for row in UNREADABLE])
def test_under_jit_values_show_in_the_diagnostics(name: str, make: Any) -> None:
    """Nothing can be raised inside jax.jit: the result is NaN and is not called converged."""
    backend = BACKENDS["jax"]()
    x, info = make(arguments(backend), partial(backend.call, full_output=True))
    assert not backend.numpy(info.converged)
    if name != "overflow":  # the inverse of Inf is 0
        assert np.all(np.isnan(backend.numpy(x)))


def test_under_jit_a_damping_that_is_none_is_never_converged() -> None:
    """W may still be invertible, and the numbers finite: they solve another problem."""
    backend = BACKENDS["jax"]()
    a = arguments(backend)
    for function, rhs in ((damped_solve, a.v), (damped_lstsq, a.f)):
        for value in (0.0, -10.0, np.inf):
            _, info = backend.call(function, a.S, rhs, a.array(value), full_output=True)
            assert not backend.numpy(info.converged)


def test_under_jit_a_negative_damping_is_never_converged_with_eigenvectors() -> None:
    backend = BACKENDS["jax"]()
    a = arguments(backend)
    for method in ("eigh", "svd", "qr"):
        call = partial(backend.call, damped_lstsq, a.S, a.f, method=method, full_output=True)
        _, info = call(a.array(-0.01))
        assert not backend.numpy(info.converged)


def test_under_jit_a_wrong_null_is_never_converged() -> None:
    backend = BACKENDS["jax"]()
    a = arguments(backend)
    null = a.array(np.eye(N)[0])
    x, info = backend.call(damped_lstsq, a.S, a.f, DAMPING, null=null, full_output=True)
    right = backend.numpy(damped_lstsq(a.S, a.f, DAMPING))
    wrong = np.linalg.norm(backend.numpy(x) - right) > 0.1 * np.linalg.norm(right)
    assert not (wrong and backend.numpy(info.converged))


def test_under_jit_shapes_are_refused_all_the_same() -> None:
    a = arguments(BACKENDS["jax"]())
    for argument in ARRAYS:
        if argument.matrix or argument.where.startswith(("residuals:local", "DampedFactor")):
            continue
        x = a.data[argument.good]
        call = argument.call(a, a.array(np.concatenate([x, x[:1]])))
        with pytest.raises(ValueError, match=rf"`{argument.name}(\[1\])?`"):
            a.backend.call(call.func, *call.args, **call.keywords)


def test_torch_vmap_raises_nothing_for_values() -> None:
    torch = pytest.importorskip("torch")
    S = np.stack([np.eye(3, 5)] * 3)
    S[1, 0, 0] = np.nan
    f = torch.ones(3, 3, dtype=torch.float64)
    solve = torch.vmap(lambda S, f: damped_lstsq(S, f, DAMPING, full_output=True))
    x, info = solve(torch.asarray(S), f)
    assert x.shape == (3, 5)
    assert torch.isnan(x[1]).all()
    assert torch.isfinite(x[0]).all()
    assert torch.isfinite(x[2]).all()
    assert info.converged.tolist() == [True, False, True]


def test_torch_vmap_refuses_shapes() -> None:
    torch = pytest.importorskip("torch")
    S, f = torch.ones(3, 4, 7), torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"`f` has shape \(5,\).*must have shape \(4,\)"):
        torch.vmap(lambda S, f: damped_lstsq(S, f, DAMPING))(S, f)


def test_jax_vmap_raises_nothing_for_values() -> None:
    backend = BACKENDS["jax"]()
    a = arguments(backend)
    batch = a.array(spoiled(a.data["batch"], np.nan, -1))
    solve = backend.jax.vmap(  # type: ignore[attr-defined]
        lambda S, f: damped_lstsq(S, f, DAMPING, full_output=True)
    )
    x, info = solve(batch, a.batch_f)
    x = backend.numpy(x)
    assert np.all(np.isfinite(x[0]))
    assert np.all(np.isnan(x[1]))
    assert backend.numpy(info.converged).tolist() == [True, False]


META: list[tuple[str, Refused, tuple[int, ...]]] = [
    ("damped_solve", lambda a: partial(damped_solve, a.S, a.v, a.array(-1.0)), (M,)),
    ("damped_lstsq", lambda a: partial(damped_lstsq, a.S, a.f, a.array(0.0), x0=a.v), (M,)),
    (
        "metric-and-null",
        lambda a: partial(damped_solve, a.S, a.v, 0.1, metric=a.metric, null=a.null),
        (M,),
    ),
    ("k-columns", lambda a: partial(damped_lstsq, a.tall, a.array(np.ones((M, 3))), 0.1), (N, 3)),
    ("batch", lambda a: partial(damped_solve, a.batch, a.batch_v, a.batch_damping), (BATCH, M)),
    ("gram", lambda a: partial(gram, a.S), (N, N)),
    ("column-norms", lambda a: partial(column_norms, a.S), (M,)),
    ("overlap", lambda a: partial(damped_factor(a.S, 0.1).overlap, a.v), ()),
    ("at-step", lambda a: partial(damping_path(a.S, a.f, [0.1]).at_step, 0.1), ()),
    ("scores", lambda a: partial(scores, a.S, weights=a.weights), (N, M)),
    ("residuals", lambda a: partial(residuals, a.f, weights=a.weights), (N,)),
    ("sr", lambda a: partial(sr, a.S, a.f, 0.1, weights=a.weights, previous=a.v), (M,)),
]


@pytest.mark.parametrize(("make", "shape"), [pytest.param(*row[1:], id=row[0]) for row in META])
def test_meta_tensors_have_shapes_and_no_values_to_refuse(
    make: Refused, shape: tuple[int, ...]
) -> None:
    a = arguments(BACKENDS["torch-meta"]())
    result = make(a)()
    assert result.device.type == "meta"
    assert tuple(result.shape) == shape


# ---------------------------------------------------------------- nothing remains of a refusal


@each(ARRAYS)
def test_a_good_call_after_refused_ones_gives_what_it_gave_before(
    argument: ArrayArgument, a: Arguments
) -> None:
    good = argument.call(a, getattr(a, argument.good))
    before = frozen_result(good())
    x = a.data[argument.good]
    for wrong in ({"x": x.tolist()}, a.array(np.ones(x.shape), "int64"), a.array(x[:0])):
        with pytest.raises((TypeError, ValueError)):
            argument.call(a, wrong)()
    assert frozen_result(good()) == before


def frozen_result(result: Any) -> Any:
    if hasattr(result, "squared_norm"):  # of a factor
        result = result.squared_norm
    results = result if isinstance(result, (list, tuple)) else [result]
    lazy = type(results[0]).__module__.startswith(("jax", "dask"))
    return [frozen(np.asarray(x) if lazy else x)[1:] for x in results]


def test_a_factor_survives_refused_right_hand_sides(valued: Arguments) -> None:
    a = valued
    factor = damped_factor(a.S, DAMPING)
    before = a.backend.numpy(factor.solve(a.v)).tolist()
    for x in (a.f, a.array(spoiled(a.data["v"], np.nan, 0)), None, {"v": a.v}):
        with pytest.raises((TypeError, ValueError)):
            factor.solve(x)
    assert a.backend.numpy(factor.solve(a.v)).tolist() == before


def test_floating_point_errors_of_the_caller_stay_as_they_were() -> None:
    """NumPy is silenced during a call only; also after an error it obeys the caller again."""
    S = np.eye(2, 3)
    with np.errstate(all="raise"):
        settings = np.geterr()
        for wrong in (np.nan * S, 1e200 * S):
            with pytest.raises(ValueError, match="`S`"):
                damped_solve(wrong, np.ones(3), DAMPING)
        with pytest.raises(ValueError, match="`metric`"):
            damped_solve(S, np.ones(3), DAMPING, metric=np.zeros(3))
        with pytest.raises(ValueError, match="`previous`"):
            sr(S, np.ones(2), DAMPING, previous=np.full(3, np.inf), momentum=0.5)
        assert np.geterr() == settings


def test_sequences_of_the_caller_keep_their_elements(a: Arguments) -> None:
    blocks, pieces, metric = [a.S_0, a.S_1], [a.v_0, a.v_1], [2.0, a.metric_1]
    inside = [list(map(id, x)) for x in (blocks, pieces, metric)]
    damped_solve(blocks, pieces, DAMPING, metric=metric)
    with pytest.raises(ValueError, match="`v`"):
        damped_solve(blocks, pieces[:1], DAMPING, metric=metric)
    with pytest.raises(ValueError, match="`metric`"):
        damped_solve(blocks, pieces, DAMPING, metric=metric[:1])
    assert [list(map(id, x)) for x in (blocks, pieces, metric)] == inside
