"""The result files of measured/: read whole or not at all, and the tables made from them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tables import table

ENVIRONMENT = {
    "command": str,
    "date": str,
    "commit": str,
    "processor": str,
    "cores": int,
    "threads": int,
    "system": str,
    "python": str,
    "versions": dict,
    "blas": str,
}
ROW = {"what": str, "value": float, "unit": str}
TARGETS = ("at_least", "at_most")
NAMES = {str: "a string", int: "a whole number", float: "a number", dict: "an object"}


class DamagedResultError(ValueError):
    """A result file that is missing, cut off or not what `measure.py` writes."""


# --------------------------------------------------------------------------------- files


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the result in a file of measured/, checked from end to end.

    Raises
    ------
    DamagedResultError
        Naming the file, what is wrong, and the command that makes it anew.
    """
    path = Path(path)
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)
        require_result(result)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        problem = "is not text in UTF-8"
    except json.JSONDecodeError as error:
        problem = f"is not whole JSON ({error.msg} in line {error.lineno})"
    except DamagedResultError as error:
        problem = str(error)
    else:
        return result
    command = f"python asv_benchmarks/measure.py {path.stem}"
    raise DamagedResultError(f"{path} {problem}; make it anew with: {command}")


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result file; until it is complete the old one stays.

    Raises
    ------
    DamagedResultError
        If `read` would refuse the result: then nothing is written.
    """
    require_result(result)
    try:
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    except ValueError:
        raise DamagedResultError("holds a number that is not finite") from None
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def refused(constant: str) -> None:
    """Refuse NaN and Infinity, which Python's JSON would let pass."""
    raise DamagedResultError(f"holds {constant}, which is no result")


def require_result(result: Any) -> None:
    """Raise where a result is not what `measure.py` writes, in words that follow a file name."""
    require(result, dict, "the whole")
    environment, rows = (require_key(result, key, "") for key in ("environment", "rows"))
    require(environment, dict, "`environment`")
    for key, kind in ENVIRONMENT.items():
        require(require_key(environment, key, "environment."), kind, f"`environment.{key}`")
    for library, version in environment["versions"].items():
        require(version, str, f"`environment.versions.{library}`")
    if not isinstance(rows, list) or not rows:
        raise DamagedResultError("has no list of `rows`")
    for i, row in enumerate(rows):
        require(row, dict, f"`rows[{i}]`")
        for key, kind in ROW.items():
            require(require_key(row, key, f"rows[{i}]."), kind, f"`rows[{i}].{key}`")
        for key in TARGETS:
            if require_key(row, key, f"rows[{i}].") is not None:
                require(row[key], float, f"`rows[{i}].{key}`")
    if not isinstance(result.get("details", {}), (dict, list)):
        raise DamagedResultError("has `details` that are neither an object nor a list")


def require_key(mapping: dict[str, Any], key: str, prefix: str) -> Any:
    """Return mapping[key]."""
    if key not in mapping:
        raise DamagedResultError(f"has no `{prefix}{key}`")
    return mapping[key]


def require(value: Any, kind: type, name: str) -> None:
    """Raise where a value is not of a kind; every finite int is a number, no bool is."""
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or isinstance(value, bool):
        raise DamagedResultError(f"has {name} that is not {NAMES[kind]}: {value!r:.40}")
    if kind is float and not math.isfinite(value):
        raise DamagedResultError(f"has {name} that is not finite")


# -------------------------------------------------------------------------------- tables


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


def claims_table(results: list[dict[str, Any]]) -> str:
    """Return the rows of all results as a Markdown table, and a line on where they were made."""
    rows = [[row["what"], described(row)] for result in results for row in result["rows"]]
    text = table([["what", "measured"], *rows])
    return f"{text}\n\n{environment_line(results[0]['environment'])}" if results else text


def environment_line(environment: dict[str, Any]) -> str:
    """Return processor, threads, BLAS and versions as one sentence."""
    versions = (f"{k} {v}" for k, v in environment["versions"].items() if k != "ngdla")
    return (
        f"{environment['processor']}, {environment['threads']} threads, {environment['blas']}; "
        f"{', '.join(versions)}. "
        "The result files in `asv_benchmarks/measured/` carry commands and dates."
    )


DAMPINGS = ("mild", "small", "tiny")  # of claims/methods.py


def methods_table(result: dict[str, Any]) -> str:
    """Return time, memory and forward errors of the methods, a Markdown table for each S."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["details"]:
        shape = f"{row['n']:,} x {row['m']:,} {row['dtype']}, {row['library']}"
        groups.setdefault(shape, []).append(row)
    return "\n\n".join(methods_of_one(shape, rows) for shape, rows in groups.items())


def methods_of_one(shape: str, rows: list[dict[str, Any]]) -> str:
    """Return the table of the methods on one S, whose head names S and the dampings."""
    head = [shape, "time", "memory"]
    head += [f"λ/σ₁² = {number(rows[0][f'{damping} damping'], '.0e')}" for damping in DAMPINGS]
    lines = [head]
    for row in rows:
        cells = [f"`{row['method']}`", number(row["time over cholesky"], ".2g")]
        cells.append(number(row["extra memory over n m numbers"], ".2g"))
        lines.append(cells + [outcome(row, damping) for damping in DAMPINGS])
    return table(lines)


def number(value: float | None, form: str) -> str:
    """Return a number that no line ends within, or a dash where none was measured."""
    return "–" if value is None else format(value, form).replace("-", "\N{NON-BREAKING HYPHEN}")


def outcome(row: dict[str, Any], damping: str) -> str:
    """Return the error at one damping, and what the method said where it gave up."""
    said = row[f"outcome, {damping} damping"]
    error = number(row[f"error, {damping} damping"], ".1e")
    return error if said == "converged" else f"{error} ({said})"


# ----------------------------------------------------------------------------- precision


def precision_table(result: dict[str, Any]) -> str:
    """Return the errors of every precision on NumPy with the default method."""
    return errors_table(
        result, ("dtype", "precision", "kind"), library="numpy", method="auto", n=512
    )


def libraries_table(result: dict[str, Any]) -> str:
    """Return the errors of the default method and precision on every library, f given."""
    return errors_table(
        result, ("dtype", "library"), n=128, method="auto", precision="auto", kind="F"
    )


def errors_table(result: dict[str, Any], names: tuple[str, ...], **wanted: Any) -> str:
    """Return the errors at each damping of the rows with the wanted entries."""
    details = result["details"]
    dampings = (number(x, ".0e") for x in details["damping over sigma_1^2"])
    rows = [[*names[:-1], f"{names[-1]}; λ/σ₁² =", *dampings]]
    for row in details["rows"]:
        if all(row[key] == value for key, value in wanted.items()):
            outcomes = zip(row["error"], row["said"])
            cells = (
                number(e, ".0e") + ("" if s == "converged" else f" ({s})") for e, s in outcomes
            )
            rows.append([*(row[name] for name in names), *cells])
    return table(rows)


def mixed_table(result: dict[str, Any]) -> str:
    """Return the times and errors of the precisions that a factor may have in float64."""
    rows = [["library", "call", "seconds", "error"]]
    for row in result["details"]["timings"]:
        for call, seconds in row["seconds"].items():
            error = number(row["error"][call], ".0e")
            rows.append([row["library"], call, number(seconds, ".2g"), error])
    return table(rows)


# --------------------------------------------------------------------------------- peers


def peers_table(result: dict[str, Any]) -> str:
    """Return times and errors beside those of other libraries, and what was not compared."""
    head = ["peer", "on", "dtype", "time over ours", "over ours, mixed"]
    rows = [[*head, "its error", "our error", "our error, mixed"]]
    for row in result["details"]:
        start = [row["peer"], row["library"], row["dtype"]]
        if "skipped" in row:
            rows.append([*start, row["skipped"], *["–"] * 4])
            continue
        mixed = row.get("mixed seconds")
        ratios = (row["ratio"], None if mixed is None else row["peer seconds"] / mixed)
        errors = (row[name] for name in ("peer error", "ngdla error"))
        cells = [number(x, ".3g") for x in ratios] + [number(x, ".0e") for x in errors]
        rows.append([*start, *cells, number(row.get("mixed error"), ".0e")])
    return table(rows)


# --------------------------------------------------------------------------- spin chains


def largest_of_seeds(result: dict[str, Any]) -> dict[tuple[str, str], list[tuple[float, bool]]]:
    """Return, by chain and solver, at each damping the largest error and whether all is well.

    Not where a step did not converge or another solver had to be taken; without a step the error
    is infinite.
    """
    seeds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["details"]["rows"]:
        if "skipped" not in row:
            seeds.setdefault((row["chain"], row["solver"]), []).append(row)
    found = {}
    for key, rows in seeds.items():
        errors = zip(*([math.inf if e is None else e for e in row["error"]] for row in rows))
        said = zip(*(row["said"] for row in rows))
        well = (all(s.startswith(("converged", "nothing")) for s in one) for one in said)
        found[key] = list(zip(map(max, errors), well))
    return found


def spin_chains_table(result: dict[str, Any]) -> str:
    """Return the largest errors at three dampings, with a star where not all is well."""
    dampings = result["details"]["dampings"]
    shown = [dampings.index(damping) for damping in (1e-3, 1e-6, 1e-9)]
    rows = [["chain", "call; λ =", *(number(dampings[i], ".0e") for i in shown)]]
    for (chain, solver), errors in largest_of_seeds(result).items():
        cells = (f"{number(errors[i][0], '.0e')}{'' if errors[i][1] else ' *'}" for i in shown)
        rows.append([chain, f"`{solver}`", *cells])
    sigmas = [problem["sigma_1^2"] for problem in result["details"]["problems"]]
    return f"{table(rows)}\n\nσ₁² lies between {min(sigmas):.2g} and {max(sigmas):.2g}."
