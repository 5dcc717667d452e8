"""Tables of the result files of asv_benchmarks/measured, as Markdown.

A file that is not there gives a sentence, a damaged one `DamagedResultError`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "asv_benchmarks" / "measured"
GPU_PAGES = ROOT / "docs" / "benchmarks"
sys.path.append(str(MEASURED.parent))

import misses  # noqa: E402
import results  # noqa: E402
import tables  # noqa: E402
from results import DamagedResultError  # noqa: E402

__all__ = [
    "DamagedResultError",
    "accuracy",
    "bounds",
    "claims",
    "company",
    "compiled_steps",
    "distribution",
    "environments",
    "files",
    "first_batch",
    "gpu_pages",
    "kronecker",
    "layers",
    "libraries",
    "methods",
    "missed",
    "mixed",
    "netket_runs",
    "online_eigh",
    "peers",
    "precision",
    "randomized_eigh",
    "sample_gram_ways",
    "sample_weights_cost",
    "sample_weights_errors",
    "spin_chains",
    "storage",
    "stored_numbers",
    "structured_steps",
    "toeplitz",
]


def files(folder: Path = MEASURED) -> list[Path]:
    """Return all result files."""
    return sorted(folder.glob("*.json"))


def accuracy(folder: Path = MEASURED) -> str:
    """Return forward errors by method and damping, a table for each kind of right-hand side."""
    return _of_file(folder / "accuracy.json", _accuracy_tables)


def bounds(folder: Path = MEASURED) -> str:
    """Return how far the error bounds lie above the errors."""
    return _of_file(folder / "certificate.json", _bound_table)


def methods(folder: Path = MEASURED) -> str:
    """Return time, memory and errors of the methods."""
    return _of_file(folder / "methods.json", _methods_table)


def precision(folder: Path = MEASURED) -> str:
    """Return the errors of every precision."""
    return _of_file(folder / "precision.json", results.precision_table)


def libraries(folder: Path = MEASURED) -> str:
    """Return the errors of every library with everything at its default."""
    return _of_file(folder / "precision.json", results.libraries_table)


def mixed(folder: Path = MEASURED) -> str:
    """Return times and errors of mixed precision."""
    return _of_file(
        folder / "precision.json",
        lambda result: f"{results.mixed_table(result)}\n\n{_measured_on(result)}",
    )


def peers(folder: Path = MEASURED) -> str:
    """Return times and errors beside those of other libraries."""
    return _of_file(
        folder / "peers.json",
        lambda result: f"{results.peers_table(result)}\n\n{_measured_on(result)}",
    )


def randomized_eigh(folder: Path = MEASURED) -> str:
    """Return times and errors of decompositions, and how the time grows with the matrix."""
    return _of_file(folder / "randomized_eigh.json", lambda result: _records(result, "methods"))


def online_eigh(folder: Path = MEASURED) -> str:
    """Return times of ways to take in a batch, errors along a stream, and how the time grows."""
    path = folder / "online_eigh.json"
    return _of_file(path, lambda result: _records(result, "times", "errors"))


def kronecker(folder: Path = MEASURED) -> str:
    """Return errors of the damped inverse by spectrum, method and tail."""
    return _of_file(folder / "kronecker.json", _tails_table)


def toeplitz(folder: Path = MEASURED) -> str:
    """Return times of Toeplitz operations beside dense ones, where they switch, how they grow."""
    return _some_lists(folder / "structures.json", "toeplitz", "switch", "growth")


def stored_numbers(folder: Path = MEASURED) -> str:
    """Return how many numbers each structure stores for one layer."""
    return _some_lists(folder / "structures.json", "layer")


def structured_steps(folder: Path = MEASURED) -> str:
    """Return times of a step in each structure."""
    return _some_lists(folder / "inverse_free.json", "steps")


def storage(folder: Path = MEASURED) -> str:
    """Return errors of factors stored in half precision."""
    return _some_lists(folder / "inverse_free.json", "storage")


def first_batch(folder: Path = MEASURED) -> str:
    """Return distances from the optimum after a badly scaled start."""
    return _some_lists(folder / "inverse_free.json", "first_batch")


def sample_weights_cost(folder: Path = MEASURED) -> str:
    """Return times of weighted gradients beside that of a plain one."""
    return _some_lists(folder / "sample_weights.json", "overhead")


def sample_gram_ways(folder: Path = MEASURED) -> str:
    """Return times of the two ways to the Gram matrix of samples with positions."""
    return _some_lists(folder / "sample_weights.json", "ways")


def sample_weights_errors(folder: Path = MEASURED) -> str:
    """Return errors of weights in single precision."""
    return _some_lists(folder / "sample_weights.json", "single")


def company(folder: Path = MEASURED) -> str:
    """Return times with all threads beside those with one, after other work of the process."""
    return _some_lists(folder / "company.json", "calls")


def compiled_steps(folder: Path = MEASURED) -> str:
    """Return memory and words of jitted steps, and what they take to compile."""
    return _some_lists(folder / "compiled_steps.json", "steps", "compilation")


def distribution(folder: Path = MEASURED) -> str:
    """Return times on two processes beside one, beside the model, and what is sent."""
    path = folder / "distribution.json"
    return _some_lists(path, "scaling", "model", "collectives")


def layers(folder: Path = MEASURED) -> str:
    """Return times of steps of layers beside other ways to make them."""
    return _some_lists(folder / "layers.json", "step", "stack", "FNGD", "damped_solve")


def netket_runs(folder: Path = MEASURED) -> str:
    """Return what whole runs in NetKet reached, by driver."""
    return _some_lists(folder / "full_runs.json", "methods")


def spin_chains(folder: Path = MEASURED) -> str:
    """Return errors of float32 steps on spin chains, by what the solver is given."""
    return _of_file(
        folder / "spin_chains.json",
        lambda result: f"{results.spin_chains_table(result)}\n\n{_measured_on(result)}",
    )


def claims(folder: Path = MEASURED) -> str:
    """Return everything that was measured, with its target."""
    if not files(folder):
        return "Nothing is measured yet."
    return results.claims_table([results.read(path) for path in files(folder)])


def missed(folder: Path = MEASURED) -> str:
    """Return the targets that were missed, with the reasons."""
    if not files(folder):
        return "Nothing is measured yet."
    return misses.misses_table({path.stem: results.read(path) for path in files(folder)})


def environments(folder: Path = MEASURED) -> str:
    """Return how each result file was made."""
    return "\n".join(_of_file(path, _made) for path in files(folder))


def gpu_pages(folder: Path = GPU_PAGES) -> str:
    """Return a table of contents of the GPU results, one page a device."""
    pages = [f"{folder.name}/{path.stem}" for path in sorted(folder.glob("*.md"))]
    if not pages:
        return "No GPU result is recorded yet."
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *pages, "```"])


# -------------------------------------------------------------------------------- pieces


def _of_file(path: Path, table: Callable[[Any], str]) -> str:
    if not path.exists():
        command = f"python asv_benchmarks/measure.py {path.stem}"
        return f"Not measured yet; `{command}` measures it."
    result = results.read(path)
    try:
        return table(result)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        msg = f"{path}: {type(error).__name__}: {error}"
        raise DamagedResultError(msg) from error


def _some_lists(path: Path, *names: str) -> str:
    def lists(result: dict[str, Any]) -> str:
        return "\n\n".join([*_lists(result, *names), _measured_on(result)])

    return _of_file(path, lists)


def _methods_table(result: dict[str, Any]) -> str:
    return f"{results.methods_table(result)}\n\n{_measured_on(result)}"


def _accuracy_tables(result: dict[str, Any]) -> str:
    details = result["details"]
    dampings = [_power(damping) for damping in details["damping over sigma_1^2"]]
    of_kinds = []
    for kind, errors in details["errors"].items():
        rows = [[f"{kind}: λ/σ₁² =", *dampings]]
        rows += [[f"`{name}`", *(_power(x) for x in values)] for name, values in errors.items()]
        of_kinds.append(_table(rows))
    return "\n\n".join([*of_kinds, _measured_on(result)])


def _records(result: dict[str, Any], *names: str) -> str:
    """Return a table for each named list of records, and one of the growth."""
    growth = result["details"]["growth"]
    rows = [[name, *map(_cell, growth[name])] for name in ("size", "seconds")]
    return "\n\n".join([*_lists(result, *names), _table(rows), _measured_on(result)])


def _lists(result: dict[str, Any], *names: str) -> list[str]:
    """Return a table for each named list of records."""
    return [_records_table(result["details"][name]) for name in names]


def _records_table(records: list[dict[str, Any]]) -> str:
    head = list(records[0])
    return _table([head, *([_cell(record[name]) for name in head] for record in records)])


def _tails_table(result: dict[str, Any]) -> str:
    details = result["details"]
    dampings = [_power(damping) for damping in details["dampings"]]
    rows = [["power", "method", "tail; λ/a₁ =", *dampings]]
    for row in details["tails"]:
        name = [f"{row['power']:g}", row["method"], f"`{row['tail']}`"]
        rows.append([*name, *(results.number(error, ".2g") for error in row["errors"])])
    return f"{tables.table(rows)}\n\n{_measured_on(result)}"


def _cell(x: str | float | None) -> str:
    if isinstance(x, str):
        return x
    return f"{x:,}" if isinstance(x, int) else results.number(x, ".3g")


def _power(x: float) -> str:
    mantissa, exponent = f"{x:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "\N{NON-BREAKING HYPHEN}")


def _bound_table(result: dict[str, Any]) -> str:
    rows = [["dtype and shape", "right-hand sides", "smallest bound / error", "median"]]
    for name, row in result["details"].items():
        ratios = _ratio(row["minimum"]), _ratio(row["median"])
        rows.append([name, f"{row['cases']:,}", *ratios])
    return f"{_table(rows)}\n\n{_measured_on(result)}"


def _ratio(x: float) -> str:
    return f"{x:.1f}" if x < 10 else f"{x:,.0f}"


def _made(result: dict[str, Any]) -> str:
    made = result["environment"]
    return f"* `{made['command']}` at commit {made['commit']}, {made['date']}: {_machine(made)}."


def _measured_on(result: dict[str, Any]) -> str:
    return f"Measured on {_machine(result['environment'])}."


def _machine(made: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"{made['processor']}, {made['threads']} threads, {made['blas']}; {versions}"


def _table(rows: list[list[str]]) -> str:
    return tables.table(rows, numbers=True)
