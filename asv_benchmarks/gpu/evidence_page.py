"""What `make gpu-evidence` found, as a page to read."""

from __future__ import annotations

from typing import Any

from asv_benchmarks.tables import table

from .peers import ratios
from .report import markdown

__all__ = ["page"]

Rows = list[dict[str, Any]]


def page(result: dict[str, Any]) -> str:
    """Return the page of a benchmark, with the parts, their verdicts and tables in front."""
    head, *rest = markdown(result).split("\n## ")
    sections = [_verdicts(result["parts"])]
    if result["device"] == "double":
        sections.append("Times of the double mean nothing: they are those of NumPy.\n")
    for title, key, rows in (
        ("Damped solves, beside the formula by hand", "solves", _solves),
        ("By hand in any library, over ngdla on CuPy", "solves", _ratios),
        ("Small solves", "tiny solves", _tiny),
        ("Ways to a Gram matrix", "gram", _gram),
        ("Choices that only a device makes", "choices", _choices),
    ):
        found = _of_parts(result["parts"], key)
        if len(lines := rows(found)) > 1:
            sections.append(f"## {title}\n\n{table(lines)}\n")
    return "\n".join([head.rstrip() + "\n", *sections]) + "".join(f"\n## {part}" for part in rest)


def _verdicts(parts: dict[str, Any]) -> str:
    rows: list[list[object]] = [["part", "what", "seconds", "verdict"]]
    for name, part in parts.items():
        seconds = f"{part['seconds']:.0f}" if "seconds" in part else ""
        rows.append([name, part["what"], seconds, part["verdict"]])
    return f"## Parts\n\n{table(rows)}\n"


def _of_parts(parts: dict[str, Any], key: str) -> Rows:
    """Return the rows that parts of one name have found on each library."""
    return [row for part in parts.values() for row in part["measured"].get(key, ())]


def _solves(rows: Rows) -> list[list[object]]:
    head = ["n", "m", "dtype", "damping / m", "library", "ngdla, ms", "by hand, ms"]
    lines: list[list[object]] = [
        [*head, "by hand / ngdla", "residuals", "sweeps by hand", "of GEMM", "of copying"]
    ]
    for row in rows:
        problem = [row["n"], f"{row['m']:,}", row["dtype"], row["relative_damping"]]
        if "error" in row:
            lines.append([*problem, row["library"], f"failed: {row['error']}", *[""] * 6])
            continue
        reached = "" if row["peer_reached"] else ", not as small"
        lines.append(
            [
                *problem,
                row["library"],
                _ms(row["seconds"]),
                _ms(row["peer_seconds"]),
                _number(row["peer_ratio"]),
                f"{row['residual']:.1e}, {row['peer_residual']:.1e}{reached}",
                row["peer_sweeps"],
                _number(row["gemm_fraction"]),
                _number(row["copy_fraction"]),
            ]
        )
    return lines


def _ratios(rows: Rows) -> list[list[object]]:
    lines: list[list[object]] = [["n", "m", "dtype", "ngdla on", "ms", "by hand / ngdla"]]
    for row in ratios(rows):
        text = ", ".join(f"{library} {_number(ratio)}" for library, ratio in row["ratios"].items())
        problem = [row["n"], f"{row['m']:,}", row["dtype"]]
        lines.append([*problem, row["ngdla"], _ms(row["seconds"]), text])
    return lines


def _tiny(rows: Rows) -> list[list[object]]:
    lines: list[list[object]] = [["n", "m", "library", "way", "handed back, ms", "done, ms"]]
    for row in rows:
        times = _ms(row["handed_back"]), _ms(row["done"])
        lines.append([row["n"], f"{row['m']:,}", row["library"], row["way"], *times])
    return lines


def _gram(rows: Rows) -> list[list[object]]:
    lines: list[list[object]] = [["n", "m", "dtype", "library", "ms", "of GEMM", "fastest"]]
    for row in rows:
        ways = row["seconds"]
        times = ", ".join(f"{way} {_ms(seconds)}" for way, seconds in ways.items())
        parts = ", ".join(f"{way} {_number(row['gemm_fraction'][way])}" for way in ways)
        problem = [row["n"], f"{row['m']:,}", row["dtype"], row["library"]]
        lines.append([*problem, times, parts, row["fastest"]])
    return lines


def _choices(rows: Rows) -> list[list[object]]:
    lines: list[list[object]] = [["choice", "library", "call", "ms", "fastest", "gain"]]
    for row in rows:
        times = ", ".join(f"{way} {_ms(seconds)}" for way, seconds in row["seconds"].items())
        times += "".join(f", {way} failed: {why}" for way, why in row["errors"].items())
        cells = [row["choice"], row["library"], row["call"], times]
        lines.append([*cells, row["fastest"] or "", _number(row["gain"])])
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4g}"


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.3g}"
