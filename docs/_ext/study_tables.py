"""Tables of the training study, as Markdown, from its results.json."""

import sys
from functools import partial
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RESULTS = EXAMPLES / "training_study" / "results.json"
RULES = EXAMPLES / "training_study" / "rules.json"
FILES = (RESULTS, RULES)
sys.path.append(str(EXAMPLES))

from training_study import report, rules_report  # noqa: E402

__all__ = ["FILES", "RESULTS", "RULES", "TABLES", "environments"]


def table(name: str, *network: str, path: Path = RESULTS) -> str:
    """Return a table of report.py, or how to make what it is made of."""
    if not path.exists():
        return "Not run yet; `python docs/examples/training_study run`, then `report`, does it."
    return report.markdown(getattr(report, name)(report.read_results(path), *network))


def rules_table(name: str, path: Path = RULES) -> str:
    """Return a table of rules_report.py, or how to make what it is made of."""
    if not path.exists():
        command = "`python docs/examples/training_study rules`, then `report --rules`,"
        return f"Not run yet; {command} does it."
    return report.markdown(getattr(rules_report, name)(report.read_results(path)))


def environments(path: Path = RESULTS) -> str:
    """Return the commands, hardware and versions of all runs."""
    if not path.exists():
        return "None."
    lines = []
    for e in report.read_results(path)["environments"]:
        versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
        lines.append(
            f"* {e['runs']} runs: `{e['command']}`, {e['date']}, commit {e['commit']}, "
            f"{e['processor']}, {e['threads']} thread of {e['cores']} cores, {e['system']}, "
            f"Python {e['python']}, {versions}"
        )
    return "\n".join(lines)


TABLES = {
    f"study-{kind}-{network}": partial(table, f"{kind}_table", network)
    for kind in ("accuracy", "seconds", "settings", "half")
    for network in ("mlp", "cnn", "wide")
    if (kind, network) not in {("half", "wide")}
}
TABLES["study-wide"] = partial(table, "wide_table")
TABLES["study-state"] = partial(table, "state_table")
TABLES["study-claims"] = partial(table, "claims_table")
TABLES["study-environments"] = environments
TABLES["rules"] = partial(rules_table, "rules_table")
TABLES["rules-sensitivity"] = partial(rules_table, "sensitivity_table")
TABLES["rules-settings"] = partial(rules_table, "settings_table")
TABLES["rules-environments"] = partial(environments, RULES)
