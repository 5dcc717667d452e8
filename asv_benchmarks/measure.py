"""Run the `track_` benchmarks, write result files, and the tables made from them.

    python asv_benchmarks/measure.py                  # everything
    python asv_benchmarks/measure.py gram accuracy    # some files of benchmarks/
    python asv_benchmarks/measure.py --tables         # only rewrite the table of README.md

Each file of `measured/` carries the command, the hardware and the versions that made it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
MODULES = ("damped_solve", "gram", "accuracy", "certificate", "demo")
LIBRARIES = ("ngdla", "numpy", "scipy", "array-api-compat", "array-api-extra", "torch", "jax")


def main() -> int:
    """Measure the named modules and rewrite the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "2"  # before any library starts its threads
    sys.path.insert(0, str(HERE))
    for name in [] if arguments.tables else arguments.modules or MODULES:
        measure(name)
    write_table()
    return 0


def measure(name: str) -> None:
    """Run one file of benchmarks and write its result file."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows = []
    for function in vars(module).values():
        if not hasattr(function, "what"):
            continue
        try:
            value: float | None = function()
        except NotImplementedError as reason:
            print(f"skipped: {function.what}: {reason}", flush=True)
            continue
        row = {
            "what": function.what,
            "value": value,
            "unit": function.unit,
            "at_least": function.at_least,
            "at_most": function.at_most,
        }
        rows.append(row)
        print(f"{described(row)}: {function.what}", flush=True)
    result: dict[str, Any] = {"environment": environment(name), "rows": rows}
    if hasattr(module, "details"):
        result["details"] = module.details()
    text = json.dumps(result, indent=1) + "\n"
    (HERE / "measured" / f"{name}.json").write_text(text, encoding="utf-8")


def environment(name: str) -> dict[str, Any]:
    """Return command, hardware and versions."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": f"python asv_benchmarks/measure.py {name}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 2,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "blas": blas(),
    }


def commit() -> str:
    """Return the commit that was measured, with a mark where the tree differs from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    """Return the name of the processor and its widest vector instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    entries = {key.strip(): value.strip() for key, value in fields.items()}
    widest = "AVX-512" if "avx512f" in entries.get("flags", "") else "no AVX-512"
    return f"{entries.get('model name', platform.processor())} ({widest})"


def blas() -> str:
    """Return the BLAS of NumPy."""
    import numpy as np

    entry = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{entry['name']} {entry['version']}"


# --------------------------------------------------------------------------------- tables


def described(row: dict[str, Any]) -> str:
    """Return the value with its unit and whether it meets its target."""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"{row['value']:.3g}{unit}{verdict(row)}"


def verdict(row: dict[str, Any]) -> str:
    """Return the target and whether it is met, or nothing where there is none."""
    if row["at_least"] is not None:
        met = row["value"] >= row["at_least"]
        return f" ({'met' if met else 'missed'}: at least {row['at_least']:g})"
    if row["at_most"] is not None:
        met = row["value"] <= row["at_most"]
        return f" ({'met' if met else 'missed'}: at most {row['at_most']:g})"
    return ""


def write_table() -> None:
    """Write the rows of all result files between the markers of README.md."""
    results = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (HERE / "measured" / f"{name}.json" for name in MODULES)
        if path.exists()
    ]
    lines = ["| what | measured |", "| --- | --- |"]
    for result in results:
        lines += [f"| {row['what']} | {described(row)} |" for row in result["rows"]]
    if results:
        first = results[0]["environment"]
        lines += ["", f"{first['processor']}, {first['threads']} threads, {first['blas']}; "]
        lines[-1] += ", ".join(f"{k} {v}" for k, v in first["versions"].items() if k != "ngdla")
        lines[-1] += ". The result files in `asv_benchmarks/measured/` carry commands and dates."
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- measured:begin -->", "<!-- measured:end -->"
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    table = "\n".join(lines)
    README.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
