"""Which lines the coverage report leaves out, by the rules of setup.cfg."""

import ast
import configparser
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "asv_benchmarks"))

from tables import table  # noqa: E402


class Place(NamedTuple):
    """An excluded statement with everything that belongs to it."""

    path: str
    first: int
    last: int
    code: str


def files(root: Path = ROOT) -> list[Path]:
    """Return what the listing is made of."""
    return [root / "setup.cfg", *sorted((root / "ngdla").rglob("*.py"))]


def rules(root: Path = ROOT) -> list[str]:
    """Return the regular expressions of `exclude_also`."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "setup.cfg", encoding="utf-8")
    return parser["coverage:report"]["exclude_also"].split("\n")[1:]


def places(rule: str, root: Path = ROOT) -> list[Place]:
    """Return every statement that a rule excludes, as coverage does: with its whole body."""
    found = []
    for path in files(root)[1:]:
        text = path.read_text(encoding="utf-8")
        ends = _ends(text)
        for match in re.finditer(rule, text, re.MULTILINE):
            first = text.count("\n", 0, match.end()) + 1
            code = text.splitlines()[first - 1].strip()
            name = path.relative_to(root).as_posix()
            found.append(Place(name, first, ends.get(first, first), code))
    return found


def _ends(text: str) -> dict[int, int]:
    """Return the last line of each statement by its first; of an `if`, without its `else`."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return {
        node.lineno: (node.body[-1] if isinstance(node, ast.If) else node).end_lineno
        for node in statements
    }


def listing(root: Path = ROOT) -> str:
    """Return one table a rule, as Markdown."""
    return "\n\n".join(_table(rule, places(rule, root)) for rule in rules(root))


def _table(rule: str, found: list[Place]) -> str:
    title = f"Rule `{rule}`"
    if not found:
        return f"{title}: no line."
    rows = [["place", "lines", "code"]]
    for path, first, last, code in found:
        rows.append([f"{path}:{first}", str(last - first + 1), f"`{code}`"])
    return f"{title}:\n\n{table(rows)}"
