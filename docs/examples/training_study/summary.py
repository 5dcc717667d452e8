"""From the file of all runs to the summary that tables and figures are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training_study.methods import METHODS
from training_study.runs import Study, merit


def summarise(study: Study, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return environments, methods, runs of tuning, the best settings and the final runs.

    Parameters
    ----------
    study : Study
        Lines that do not belong to it, as after a change of the values tried, are left out.
    lines : list of dict
        As `store.read` gives them.
    """
    found = {line["key"]: line for line in lines}
    best = study.best({key: line["record"] for key, line in found.items()})
    tuning = {run: found[run.key] for run in study.tuning() if run.key in found}
    final = {run: found[run.key] for run in study.final(best) if run.key in found}
    used = {run.method for run in [*tuning, *final]}
    return {
        "environments": environments([*tuning.values(), *final.values()]),
        "missing": sum(study.size()) - len(tuning) - len(final),
        "methods": {
            name: {"label": method.label, "half": method.half, "grid": method.grid}
            for name, method in METHODS.items()
            if name in used
        },
        "best": [
            tuned(line)
            for run, line in tuning.items()
            if best.get((run.network, run.method)) == run.settings
        ],
        "tuning": [tuned(line) for line in tuning.values()],
        "runs": sorted((trained(line) for line in final.values()), key=place),
    }


def environments(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all environments, each with the number of its runs."""
    counts: dict[str, int] = {}
    for line in lines:
        text = json.dumps(line["environment"])
        counts[text] = counts.get(text, 0) + 1
    return [json.loads(text) | {"runs": count} for text, count in counts.items()]


def tuned(line: dict[str, Any]) -> dict[str, Any]:
    """Return a run of tuning: settings and what they were compared by."""
    run, record = line["run"], line["record"]
    entry = {name: run[name] for name in ("network", "method", "settings", "epochs")}
    entry["validation"] = round(merit(record)[0], 5)
    entry["loss"] = None if record["diverged"] else rounded(record["loss"][-1])
    return entry


def trained(line: dict[str, Any]) -> dict[str, Any]:
    """Return a final run, epoch by epoch."""
    run, record = line["run"], line["record"]
    names = ("network", "method", "settings", "seed", "dtype", "epochs", "batch")
    entry = {name: run[name] for name in names}
    entry["test"] = record["test"]
    entry["loss"] = [rounded(loss) for loss in record["loss"]]
    entry["seconds"] = {
        phase: [rounded(seconds) for seconds in epochs]
        for phase, epochs in record["seconds"].items()
    }
    entry["state_bytes"] = record["state_bytes"]
    entry["diverged"] = record.get("reason", "")
    return entry


def rounded(value: float) -> float:
    """Return four significant digits."""
    return float(f"{value:.4g}")


def place(entry: dict[str, Any]) -> tuple[int, str, int]:
    """Return where a final run stands: by method, in the order of the methods."""
    return list(METHODS).index(entry["method"]), entry["dtype"], entry["seed"]


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary, a line an entry; until it is complete the old file stays."""
    parts = [f"{json.dumps(name)}: {laid_out(value)}" for name, value in summary.items()]
    partial = path.with_name(path.name + ".part")
    partial.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def laid_out(value: Any) -> str:
    """Return JSON with each entry of a list or an object in a line of its own."""

    def compact(entry: Any) -> str:
        return json.dumps(entry, allow_nan=False, separators=(",", ":"), ensure_ascii=False)

    if isinstance(value, int):
        return compact(value)
    if isinstance(value, dict):
        rows = [f"{json.dumps(name)}:{compact(entry)}" for name, entry in value.items()]
        return "{\n" + ",\n".join(rows) + "\n}"
    return "[\n" + ",\n".join(compact(entry) for entry in value) + "\n]"
