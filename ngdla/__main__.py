"""Command line: `python -m ngdla info` and `python -m ngdla demo`."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import NoReturn

from ngdla import __version__

BAD_ARGUMENT, INTERRUPTED = 2, 130


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message on stderr and leave with exit code 2."""
        self.exit(BAD_ARGUMENT, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a bad argument, 130 after Ctrl-C."""
    parser, demo_parser = make_parsers()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        owner = demo_parser if options.command == "demo" else parser
        owner.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.version:
        print(f"ngdla {__version__}")
        return 0
    try:
        if options.command == "info":
            return info()
        if options.command == "demo":
            return demo(options, demo_parser)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    parser.print_help()
    return 0


def make_parsers() -> tuple[Parser, Parser]:
    """Parser of the command line and that of its demo command."""
    parser = Parser(
        prog="python -m ngdla",
        description="Linear algebra under natural-gradient "
        "methods, on arrays of NumPy, CuPy, PyTorch and JAX.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version of ngdla")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="command")
    text = "versions, array libraries, devices and BLAS: what is usable here"
    commands.add_parser("info", help=text, description=text)
    text = "ground states of two spin chains by variational Monte Carlo, beside the exact energies"
    demo_parser = commands.add_parser("demo", help=text, description=text, allow_abbrev=False)
    add = demo_parser.add_argument
    add(
        "--system",
        choices=("tfim", "mg", "all"),
        default="all",
        help="tfim: critical transverse-field Ising chain; mg: J1-J2 Heisenberg chain at the "
        "Majumdar-Ghosh point (default: all, one after the other)",
    )
    add("--sites", type=int, help="length of the chain, 4 to 64, even for mg (default: 16 and 12)")
    add(
        "--backend",
        choices=("numpy", "cupy", "torch", "jax"),
        default="numpy",
        help="array library that computes (default: numpy)",
    )
    add("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    add("--steps", type=int, help="optimisation steps of each system")
    add("--quick", action="store_true", help="smaller and shorter: a first look in seconds")
    add(
        "--output",
        type=Path,
        default=Path("ngdla_demo.png"),
        help="picture to write: .png, .pdf or .svg (default: ngdla_demo.png)",
    )
    return parser, demo_parser


def info() -> int:
    """Print what a bug report needs: versions and the inventory of array libraries."""
    from ngdla._backend.inventory import blas, format_inventory, inventory

    print(f"ngdla {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
    print(format_inventory(inventory(), blas()))
    return 0


def demo(options: argparse.Namespace, parser: Parser) -> int:
    """Check the options, load the array library and run the demo."""
    from ngdla._backend.inventory import UnavailableLibraryError, load_namespace, one_thread
    from ngdla.demo import SYSTEMS, make_problem, quick
    from ngdla.demo.arguments import check_numbers, check_output, check_packages

    systems = list(SYSTEMS) if options.system == "all" else [options.system]
    try:
        check_packages()
        check_numbers(systems, options.sites, options.steps, options.seed)
        check_output(options.output)
        library = load_namespace(options.backend)
    except (ValueError, UnavailableLibraryError) as error:
        parser.error(str(error))
    from ngdla.demo.run import run_demo

    problems = [make_problem(name, options.sites) for name in systems]
    if options.quick:
        problems = [quick(problem) for problem in problems]
    if options.steps is not None:
        problems = [problem.with_steps(options.steps) for problem in problems]
    with one_thread():
        return run_demo(problems, library, options.seed, options.output)


if __name__ == "__main__":
    sys.exit(main())
