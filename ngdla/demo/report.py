"""Progress while the demo runs and the table at its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from ngdla.demo.ranks import ALONE, launched
from ngdla.demo.vmc import LAST, Step, last_mean

LINES = 5
PLAIN_WIDTH = 100


def follow(run: Any, steps: Iterator[Step]) -> None:
    """Append the steps to `run.steps` as they come and show the energy of the last 20.

    On a terminal a bar; elsewhere the first step and then about five lines.
    """
    total, name = run.problem.steps, run.problem.title
    on_terminal = writes_to_terminal()
    every = max(1, -(-total // LINES))
    layout = "{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}]{postfix}"
    with tqdm(
        total=total,
        initial=len(run.steps),
        desc=name,
        file=sys.stdout,
        disable=not on_terminal,
        bar_format=layout,
        dynamic_ncols=True,
    ) as bar:
        for step in steps:
            run.steps.append(step)
            done = len(run.steps)
            energy, error = last_mean(run.steps)
            bar.set_postfix_str(f"E = {energy:.5f} +- {error:.5f}", refresh=False)
            bar.update()
            if not on_terminal and (done in (1, total) or done % every == 0):
                print(
                    f"{name}  step {done:4d}/{total}  E = {energy:.5f} +- {error:.5f}", flush=True
                )


def writes_to_terminal() -> bool:
    """Tell whether a person watches: mpiexec may give a terminal whose text goes to a file."""
    return sys.stdout.isatty() and launched() == ALONE


def print_table(runs: list[Any], library: str, seed: int) -> None:
    """Print a table with one column a system: energies, errors and seconds."""
    meaning = "certified: error bound at most half the length of the step"
    table = Table(
        title="Ground states by variational Monte Carlo",
        box=box.SIMPLE_HEAD,
        caption=f"{library}, seed {seed}\n{meaning}",
    )
    table.add_column("chain", no_wrap=True)
    for run in runs:
        table.add_column(run.problem.title, justify="right")
    columns = [column(run) for run in runs]
    for label in columns[0]:
        table.add_row(label, *(cells[label] for cells in columns))
    console = Console(file=sys.stdout, highlight=False)
    if not (console.is_terminal and writes_to_terminal()):
        console = Console(file=sys.stdout, highlight=False, width=PLAIN_WIDTH, force_terminal=False)
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="")  # rich itself would end the program where a pipe is broken


def column(run: Any) -> dict[str, str]:
    """Rows of the table for one run, by their labels."""
    problem, steps = run.problem, run.steps
    energy, error = run.energy
    return {
        "--system": problem.name,
        "sites": str(problem.chain.sites),
        "parameters, samples": f"{problem.model.size}, {problem.walkers}",
        "steps": f"{len(steps)} of {problem.steps}",
        "method": "SPRING" if problem.momentum else "minSR",
        "damping": f"{problem.damping:g}",
        "factor": f"Cholesky, {'complex128' if problem.model.holomorphic else 'float64'}",
        "steps certified": f"{sum(step.certified for step in steps)} of {len(steps)}",
        f"energy, mean of the last {LAST} steps": f"{energy:.6f} +- {error:.6f}",
        "exact energy": f"{run.reference.energy:.9f}",
        "exact energy from": run.reference.method,
        "relative error": f"{run.relative_error:.1e}",
        "seconds in the solve": f"{sum(step.solve_seconds for step in steps):.1f}",
        "seconds in all": f"{sum(step.seconds for step in steps):.1f}",
    }
