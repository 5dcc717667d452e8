"""Array libraries by name: which are installed, which devices they see, what is usable here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

__all__ = [
    "INSTALL",
    "Entry",
    "Library",
    "UnavailableLibraryError",
    "blas",
    "format_inventory",
    "inventory",
    "load_namespace",
    "one_thread",
]

INSTALL = {
    "cupy": 'pip install "ngdla[cuda12]" or "ngdla[cuda13]"',
    "torch": 'pip install "ngdla[torch]"',
    "jax": 'pip install "ngdla[jax]"',
    "dask": 'pip install "ngdla[dask]"',
}


class UnavailableLibraryError(RuntimeError):
    """An array library is not installed, cannot be loaded or sees no device."""


class Library(NamedTuple):
    """An array library ready for float64 work.

    name : str
    xp : namespace
        Of array-api-compat, or the library's own where that is complete (jax.numpy).
    device : device or None
        Where arrays are to be created; None is the library's default.
    label : str
        Name, version and device for people.
    """

    name: str
    xp: Any
    device: Any
    label: str


class Entry(NamedTuple):
    """One line of the inventory; `remedy` is the command that adds the library, or ""."""

    name: str
    version: str
    devices: str
    usable: str
    remedy: str


def load_namespace(name: str) -> Library:
    """Return the library called `name`, on its GPU where it sees one.

    Parameters
    ----------
    name : {"numpy", "cupy", "torch", "jax"}

    Returns
    -------
    Library

    Raises
    ------
    UnavailableLibraryError
        The library is missing (the message has the command that installs it), cannot be loaded, or
        has no device: CuPy without CUDA, JAX with a platform that is not there.

    Notes
    -----
    Loading JAX switches its 64-bit numbers on for the whole process (`jax_enable_x64`).
    """
    module = _load(name)
    devices = _devices(name, module)
    if not devices:
        msg = "cupy sees no CUDA device; choose numpy, torch or jax, or check the NVIDIA driver"
        raise UnavailableLibraryError(msg)
    on_gpu = name == "torch" and len(devices) > 1  # torch lists the CPU first
    label = f"{name} {module.__version__} on {devices[1 if on_gpu else 0]}"
    if name == "jax":
        module.config.update("jax_enable_x64", True)
        return Library(name, import_module("jax.numpy"), None, label)
    xp = import_module(f"array_api_compat.{name}")
    device = module.device("cuda" if on_gpu else "cpu") if name == "torch" else None
    return Library(name, xp, device, label)


def inventory() -> list[Entry]:
    """List NumPy, SciPy and the array libraries: version, devices, whether ngdla can use them."""
    return [_entry(name) for name in ("numpy", "scipy", "cupy", "torch", "jax", "dask")]


def blas() -> str:
    """Name, version and number of threads of the BLAS that NumPy calls."""
    import numpy as np

    parts = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{parts.get('name', 'unknown')} {parts.get('version', '')}, {_blas_threads()}"


def one_thread() -> AbstractContextManager[Any]:
    """Return a context of one thread for BLAS and OpenMP.

    For matrices of a few hundred rows several threads gain little, and where others use the cores
    too, the threads mostly wait for each other: 220 s instead of 26 s on two busy cores.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


def format_inventory(entries: list[Entry], blas_line: str) -> str:
    """Lay the inventory out as text: a table, the BLAS, the commands that add what is missing."""
    head = Entry("library", "version", "devices", "usable by ngdla", "")
    rows = [row[:4] for row in (head, *entries)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines += ["", f"BLAS of numpy: {blas_line}"]
    lines += [f"to add {entry.name}: {entry.remedy}" for entry in entries if entry.remedy]
    return "\n".join(lines)


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            msg = f"{name} cannot be loaded: {_one_line(error)}"
        else:
            msg = f"{name} is not installed: {INSTALL.get(name, f'pip install {name}')}"
        raise UnavailableLibraryError(msg) from error
    except Exception as error:
        msg = f"{name} cannot be loaded: {_one_line(error)}"
        raise UnavailableLibraryError(msg) from error


def _devices(name: str, module: Any) -> list[str]:
    try:
        return _DEVICES[name](module)
    except Exception as error:
        msg = f"{name} has no device that can be used: {_one_line(error)}"
        raise UnavailableLibraryError(msg) from error


def _entry(name: str) -> Entry:
    try:
        module = _load(name)
        devices = _devices(name, module)
    except UnavailableLibraryError as error:
        installed = _installed_version(name)
        if not installed:
            return Entry(name, "-", "-", "no, not installed", INSTALL.get(name, ""))
        return Entry(name, installed, "-", f"no, {error}", INSTALL.get(name, ""))
    usable = "yes" if devices else "no, sees no CUDA device"
    return Entry(name, module.__version__, ", ".join(devices) or "none", usable, "")


def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _host(module: Any) -> list[str]:
    return ["cpu"]


def _cupy_devices(module: Any) -> list[str]:
    # `import cupy` works on a machine without a GPU; only this call says whether there is one.
    if not module.cuda.is_available():
        return []
    runtime = module.cuda.runtime
    count = runtime.getDeviceCount()
    return [runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]


def _torch_devices(module: Any) -> list[str]:
    if not module.cuda.is_available():
        return ["cpu"]
    names = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
    return ["cpu", *names]


def _jax_devices(module: Any) -> list[str]:
    # RuntimeError: a GPU plugin that is installed but cannot start.
    try:
        devices = module.devices()
    except RuntimeError:
        devices = module.devices("cpu")
    return [device.device_kind for device in devices]


_DEVICES: dict[str, Callable[[Any], list[str]]] = {
    "numpy": _host,
    "scipy": _host,
    "cupy": _cupy_devices,
    "torch": _torch_devices,
    "jax": _jax_devices,
    "dask": _host,
}


def _blas_threads() -> str:
    from threadpoolctl import threadpool_info

    counts = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    if counts:
        return f"{counts[0]} threads" if counts[0] != 1 else "1 thread"
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        if variable in os.environ:
            return f"threads: {variable}={os.environ[variable]}"
    return f"threads: its own choice ({os.cpu_count()} cores here)"


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
