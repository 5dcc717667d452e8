"""Run the claims, write result files, and the table of README.md made from some of them.

    python asv_benchmarks/measure.py                  # everything
    python asv_benchmarks/measure.py gram accuracy    # some files of claims/
    python asv_benchmarks/measure.py --tables         # only rewrite the table of README.md

Each file of `measured/` carries the command, the hardware and the versions that made it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import front_page
import results
from threads import THREADS, fixed_threads

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
CLAIMS = (
    "damped_solve",
    "gram",
    "accuracy",
    "precision",
    "certificate",
    "demo",
    "methods",
    "peers",
    "streaming",
    "damping_path",
    "randomized_eigh",
    "online_eigh",
    "kronecker",
    "structures",
    "inverse_free",
    "sample_weights",
    "spin_chains",
    "doors",
    "full_runs",
    "distribution",
)
MODULES = (
    *CLAIMS,
    "calls",
    "checkpoints",
    "company",
    "whole_calls",
    "whole_decompositions",
    "instruments",
    "layers",
    "newcomer",
    "optimizers",
    "positions",
    "sharded_jax",
    "torch_steps",
    "compilations",
    "compiled_steps",
    "changed_calls",
    "randomized_svd",
)
LIBRARIES = (
    "ngdla",
    "numpy",
    "scipy",
    "array-api-compat",
    "array-api-extra",
    "torch",
    "jax",
    "mpi4py",
    "scikit-learn",
    "lineax",
    "netket",
    "quantax",
    "singd",
    "curvlinops-for-pytorch",
)


def main() -> int:
    """Measure the named modules and rewrite the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"no such file of claims: {', '.join(sorted(unknown))}")
    os.environ.update(fixed_threads())  # before any library starts its threads
    try:
        for name in [] if arguments.tables else arguments.modules or MODULES:
            results.write(measured_file(name), measure(name))
        write_table()
    except results.DamagedResultError as error:
        print(f"ngdla: {error}", file=sys.stderr)
        return 1
    return 0


def measured_file(name: str) -> Path:
    """Return the result file of one file of claims."""
    return HERE / "measured" / f"{name}.json"


def measure(name: str) -> dict[str, Any]:
    """Run one file of claims and return its result."""
    module = importlib.import_module(f"claims.{name}")
    rows = []
    for function in list(vars(module).values()):  # measuring may import more
        if not hasattr(function, "what"):
            continue
        try:
            value = function()
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
        print(f"{results.described(row)}: {function.what}", flush=True)
    result: dict[str, Any] = {"environment": environment(name), "rows": rows}
    if hasattr(module, "details"):
        result["details"] = module.details()
    return result


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
        "threads": THREADS,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "blas": blas(),
    }


def commit() -> str:
    """Return the commit that was measured, with a mark where the code differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HERE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    measured = ("--", "ngdla", "asv_benchmarks", ":!asv_benchmarks/measured")
    dirty = "-dirty" if git("status", "--porcelain", *measured) else ""
    return git("rev-parse", "--short=12", "HEAD") + dirty


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


def write_table() -> None:
    """Write the figures of the front page between the markers of README.md."""
    files = {name: measured_file(name) for name in CLAIMS}
    found = {name: results.read(path) for name, path in files.items() if path.exists()}
    table = front_page.front_table(found)
    text = README.read_text(encoding="utf-8")
    begin, end = "<!-- measured:begin -->", "<!-- measured:end -->"
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    README.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
