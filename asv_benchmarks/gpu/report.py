"""Result files: JSON with everything, and Markdown to read, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from asv_benchmarks.tables import table

__all__ = [
    "REHEARSALS",
    "UNKNOWN",
    "as_json",
    "driver",
    "markdown",
    "run_name",
    "slug",
    "surroundings",
    "unwritable",
    "write",
    "write_whole",
]

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "scipy", "array-api-compat", "array-api-extra")


def surroundings() -> dict[str, Any]:
    """Return commit, system and the versions of what every engine uses."""
    import ngdla

    versions = {"ngdla": ngdla.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    described = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")
    return {"commit": _said_by(*described), "system": platform.system(), "versions": versions}


def driver() -> str:
    """Return driver version and memory of the GPU in use, as nvidia-smi says it."""
    return _nvidia("driver_version,memory.total")


UNKNOWN = "gpu"
REHEARSALS = {"cpu": "rehearsal", "double": "double"}


def run_name(device: str) -> str:
    """Return what a run is called: the name of the GPU in use, without a library started for it."""
    if device in REHEARSALS:
        return REHEARSALS[device]
    name = _nvidia("name")
    return UNKNOWN if name == "unknown" else name


def _nvidia(fields: str) -> str:
    used = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    return _said_by("nvidia-smi", "-i", used, f"--query-gpu={fields}", "--format=csv,noheader")


def _said_by(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def unwritable(folder: Path) -> str:
    """Return why no file can be made in the folder, or in the first above it that exists."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        return f"cannot write into {folder} ({error.strerror})"
    return ""


def slug(name: str) -> str:
    """Return the name of a device as file names begin."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write(
    result: dict[str, Any], folder: Path, name: str, page: str | None = None
) -> tuple[Path, Path]:
    """Write NAME.json and NAME.md, the result as a page unless another is given."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{slug(name)}.json", folder / f"{slug(name)}.md"
    write_whole(paths[0], as_json(result))
    write_whole(paths[1], page or markdown(result))
    return paths


def write_whole(path: Path, text: str) -> None:
    """Write a text file; a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def as_json(result: Any) -> str:
    """Return JSON, with NaN and Inf as text."""
    return json.dumps(_finite(result), indent=1, allow_nan=False) + "\n"


def _finite(x: Any) -> Any:
    """Return the result with NaN and Inf as text: JSON knows neither."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_finite(value) for value in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


# --------------------------------------------------------------------------------- Markdown


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    head = result["surroundings"]
    versions = ", ".join(f"{name} {value}" for name, value in head["versions"].items())
    made = (
        f"`{result['command']}`, {result['date']}, commit {head['commit']}, "
        f"{result['seconds']:.0f} seconds{'' if result['finished'] else ' (not finished)'}. "
        f"Driver and memory: {result['driver']}. {versions}."
    )
    parts = [_libraries(result), _ceilings(result["ceilings"]), _rows(result)]
    parts.append(_questions(result["questions"]))
    lines = [f"# {result['device']}", "", made, "", *(line for part in parts for line in part)]
    return "\n".join(lines).rstrip() + "\n"


def _libraries(result: dict[str, Any]) -> list[str]:
    rows = [["library", "version", "CUDA", "times", "extra memory", "SVD"]]
    keys = ("version", "cuda", "clock", "memory", "svd")
    for name, facts in result["libraries"].items():
        rows.append([name, *(facts[key] for key in keys)])
    rows += [[name, reason, "", "", "", ""] for name, reason in result["skipped"].items()]
    return [table(rows), ""]


def _ceilings(ceilings: list[dict[str, Any]]) -> list[str]:
    rows = [["library", "what", "rate"]]
    for row in ceilings:
        if "rate" in row:
            scale, unit = (1e12, "Tflops/s") if row["unit"] == "flops/s" else (1e9, "GB/s")
            rows.append([row["library"], row["what"], f"{row['rate'] / scale:.4g} {unit}"])
        else:
            rows.append([row["library"], "ceilings", _why_not(row)])
    return ["## Ceilings", "", table(rows), ""]


def _rows(result: dict[str, Any]) -> list[str]:
    lines = [
        "## Damped solves",
        "",
        "Median time of a call; relative residual in double precision; the least time that flops",
        "(n²m + n³/3 + 4nm, four times that for complex S) and three passes over S need at the",
        "best ceilings above, over the time; bytes in use beyond S and v, over the bytes of S;",
        "time over that of chol.",
        "",
        *(f"* {name}: {what}" for name, what in result["methods"].items()),
        "",
    ]
    head = ["n", "m", "dtype", "damping / m", "library", "method", "ms", "residual", "of ceiling"]
    rows = [[*head, "memory / S", "/ chol"]]
    for row in sorted(result["rows"], key=_order):
        problem = [row["n"], f"{row['m']:,}", row["dtype"], row["relative_damping"]]
        problem += [row["library"], row["method"]]
        if "seconds" in row:
            cells = [f"{row['seconds'] * 1e3:.4g}", f"{row['residual']:.1e}"]
            cells += [_number(row[key]) for key in ("fraction", "memory_over_S", "ratio_to_chol")]
        else:
            cells = [_why_not(row), "", "", "", ""]
        rows.append(problem + cells)
    return [*lines, table(rows), ""]


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    size = row["n"] * row["m"], row["n"]
    return *size, row["dtype"], row["relative_damping"], row["library"]


def _questions(questions: list[dict[str, Any]]) -> list[str]:
    lines = ["## Questions", ""]
    for title in dict.fromkeys(row["question"] for row in questions):
        lines += [f"**{title}**", ""]
        for row in questions:
            if row["question"] == title:
                lines.append(f"* {row['library']}: {row.get('answer') or _why_not(row)}.")
        lines.append("")
    return lines


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"


def _why_not(row: dict[str, Any]) -> str:
    kind = "skipped" if "skipped" in row else "failed"
    return f"{kind}: {row.get('skipped') or row.get('error')}"
