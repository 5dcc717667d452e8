"""nvcc takes the source of every kernel, in the frame that CuPy gives it, for all its types.

Where there is no nvcc, or no CuPy with its headers, this is skipped. What kernels compute is seen
on a device alone; their twins in NumPy are in tests/cupy_double/kernels.py.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import launches
import numpy as np
import pytest
from backends import DTYPES
from capabilities import FUNCTIONS
from cupy_double.kernels import CALLED, TWINS, ReductionKernel
from references import random_array

import ngdla
from ngdla._backend.fused import finite_along

pytestmark = pytest.mark.cupy_double

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "complex64": "complex<float>",
    "complex128": "complex<double>",
    "bool": "bool",
    "int32": "int",
    "int64": "long long",
    "float16": "float16",
}


@pytest.fixture(scope="module")
def called() -> dict[tuple[str, ...], Any]:
    """Kernels that calls of all functions, in all dtypes, have made."""
    import cupy

    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        arrays = [cupy.asarray(random_array(rng, shape, dtype)) for shape in ((5, 11), (11,), (5,))]
        for function in FUNCTIONS.values():
            try:
                function(*arrays)
            except Exception:  # noqa: BLE001 - some are of real arrays
                continue
    for make, _ in launches.CASES.values():
        make(cupy)()
    S = cupy.asarray(rng.standard_normal((8, 400)).astype("float32"))
    ngdla.damped_solve(S, S[0], 1e3, precision="split-tf32")
    for dtype in ("complex64", "complex128"):
        for mode in ("complex", "holomorphic"):
            ngdla.scores(S.astype(dtype), mode=mode)
    finite_along(S.astype("float16"), -1)
    return CALLED


def test_sources_compile(called: dict[tuple[str, ...], Any], tmp_path: Path) -> None:
    nvcc, found = shutil.which("nvcc"), importlib.util.find_spec("array_api_compat")
    headers = (
        Path(found.origin).parents[1] / "cupy/_core/include" if found and found.origin else None
    )
    if nvcc is None or headers is None or not (headers / "cupy/complex.cuh").is_file():
        pytest.skip("no nvcc, or no headers of CuPy")
    texts = [
        f"namespace k{i} {{\n{source(kernel, types[1:])}\n}}"
        for i, (types, kernel) in enumerate(sorted(called.items(), key=lambda item: item[0]))
    ]
    file = tmp_path / "kernels.cu"
    includes = "#include <cupy/complex.cuh>\n#include <cupy/float16.cuh>\n"
    file.write_text(includes + "\n".join(texts), encoding="utf-8")
    command = [nvcc, "-std=c++17", "-ptx", "-arch=sm_90", "-I", str(headers), "-o", "/dev/null"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_kernel_is_left_out(called: dict[tuple[str, ...], Any]) -> None:
    assert {name for name, *_ in called} == set(TWINS)


def test_cub_changes_no_longer_words() -> None:
    """Where CuPy reduces one contiguous array by CUB, `s` would also be replaced in `sqrt`."""
    with pytest.raises(RuntimeError, match="in0qrt"):
        ReductionKernel(
            "T x", "float32 s", "x * x", "a + b", "s = sqrt(a)", "0", name="ngdla_norm_f"
        )


def source(kernel: Any, types: tuple[str, ...]) -> str:
    """Return a kernel as CuPy writes it (_kernel.pyx, _reduction.pyx), less its loops."""
    parameters = [*kernel.inputs, *kernel.outputs]
    names = [C_TYPES[dtype] for dtype in types]
    letters = {p.type: c for p, c in zip(parameters, names, strict=True) if len(p.type) == 1}
    typedefs = "".join(f"typedef {c} {letter};\n" for letter, c in letters.items())
    arguments = ", ".join(f"{c}* _raw_{p.name}" for p, c in zip(parameters, names, strict=True))
    inside = "".join(
        declared(p, c, p in kernel.inputs) for p, c in zip(parameters, names, strict=True)
    )
    if isinstance(kernel, ReductionKernel):
        term, joined, result, identity = kernel.source[:4]
        accumulator = kernel.options.get("reduce_type") or names[-1]
        return (
            f"{typedefs}#define REDUCE(a, b) ({joined})\n#define POST_MAP(a) ({result})\n"
            f"typedef {accumulator} _type_reduce;\n"
            f"__global__ void f({arguments}) {{\nlong long _i = threadIdx.x;\n{inside}"
            f"_type_reduce _s = _type_reduce({identity});\n"
            f"_type_reduce _a = static_cast<_type_reduce>({term});\n_s = REDUCE(_s, _a);\n"
            f"POST_MAP(_s);\n}}\n#undef REDUCE\n#undef POST_MAP"
        )
    return (
        f"{typedefs}__global__ void f({arguments}) {{\nlong long i = threadIdx.x, _i = i;\n{inside}"
        f"{kernel.source[0]};\n}}"
    )


def declared(parameter: Any, c_type: str, constant: bool) -> str:
    if parameter.raw:
        return f"{c_type}* {parameter.name} = _raw_{parameter.name};\n"
    return f"{'const ' * constant}{c_type} &{parameter.name} = _raw_{parameter.name}[_i];\n"
