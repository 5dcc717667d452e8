"""Command line: `python -m ngdla info` and `python -m ngdla demo`."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ngdla import __version__

DONE, FAILED, BAD_ARGUMENT, INTERRUPTED = 0, 1, 2, 130
# What a shell reports of a program that the signal SIGPIPE ended. A reader that has seen enough, as
# in `| head`, is no reason for a message, but a script can still tell that not all was written.
BROKEN_PIPE = 141
PROGRAM = "python -m ngdla"


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are one line, with what was probably meant."""

    @property
    def options(self) -> list[str]:
        """Names of all options."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Print the message on stderr and leave with exit code 2."""
        from .demo.ranks import launched

        self.leave(message, speaks=launched()[0] == 0)

    def leave(self, message: str, speaks: bool) -> NoReturn:
        """Leave with exit code 2, if this is the process of several that speaks.

        The others leave without a code: mpiexec ends all processes once one of them has failed,
        and then the message might not be seen.
        """
        if not speaks:
            sys.exit(DONE)
        complain(f"{self.prog}: {message}")
        sys.exit(BAD_ARGUMENT)

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike that of argparse, it fails where nothing can be written."""
        print(self.format_help(), end="", file=file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse asks here about commands and choices alike
        if action.choices is not None and value not in action.choices:
            msg = f"there is no {value!r}; {hint(value, action.choices)}"
            raise argparse.ArgumentError(action, msg)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0; 1 where it failed, also where standard output cannot be written; 2 for a bad argument; 130
    after Ctrl-C; 141 where standard output is a pipe that nobody reads any more.
    """
    if sys.stderr is None:  # closed; its number must not go to the picture, with what is said
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout is None:
        complain(f"{PROGRAM}: standard output is closed; send it to a file or to {os.devnull}")
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        try:
            return run(arguments)
        finally:
            sys.stdout.flush()  # at exit the interpreter would do it, with a message of its own
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is not None:  # that of a file which was opened, not of a stream
            raise
        complain(f"{PROGRAM}: standard output: {error.strerror or error}")
        silence(sys.stdout)
        return FAILED


def complain(message: str) -> None:
    """Print one line on stderr, or nothing where that cannot be written either."""
    try:
        print(" ".join(message.split()), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Lead a stream that failed to nowhere, where what its buffer still holds can go at exit."""
    with suppress(OSError):  # streams without a file, as of tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def hint(word: str, known: Iterable[str]) -> str:
    """Return which of the known words was probably meant, or all of them where none is close."""
    plain = {name.strip("-").lower(): name for name in known}
    typed = word.strip("-").lower()
    close = difflib.get_close_matches(typed, plain, n=1)
    close += [name for name in plain if typed and name.startswith(typed)]
    return f"did you mean {plain[close[0]]}?" if close else f"choose from {', '.join(known)}"


def run(arguments: list[str] | None) -> int:
    """Run a command and return its exit code, on streams that work."""
    parsers = make_parsers()
    options, unknown = parsers[None].parse_known_args(arguments)
    if unknown:
        refuse(unknown, parsers[options.command], parsers.values())
    if options.version:
        print(f"ngdla {__version__}")
    elif options.command == "info":
        return info()
    elif options.command == "demo":
        return demo(options, parsers["demo"])
    else:
        parsers[None].print_help()
    return DONE


def refuse(unknown: list[str], parser: Parser, parsers: Iterable[Parser]) -> NoReturn:
    """Leave with exit code 2 and a line about the first option that no parser took."""
    word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
    for owner in parsers:
        if word in owner.options:
            parser.error(f"unrecognized argument {word}; it belongs right after {owner.prog}")
    parser.error(f"unrecognized argument {word}; {hint(word, parser.options)}")


def make_parsers() -> dict[str | None, Parser]:
    """Parsers of the commands by their names, that of the whole command line by None."""
    parser = Parser(
        prog=PROGRAM,
        description="Linear algebra under natural-gradient "
        "methods, on arrays of NumPy, CuPy, PyTorch, JAX and Dask.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version of ngdla")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="command")
    text = "versions, array libraries, devices and BLAS: what is usable here"
    info_parser = commands.add_parser("info", help=text, description=text, allow_abbrev=False)
    text = "ground states of two spin chains by variational Monte Carlo, beside the exact energies"
    demo_parser = commands.add_parser("demo", help=text, description=text, allow_abbrev=False)
    add_demo_options(demo_parser)
    return {None: parser, "info": info_parser, "demo": demo_parser}


def add_demo_options(parser: Parser) -> None:
    """Declare the options of the demo."""
    add = parser.add_argument
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
    add(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="file that the run is kept in, and goes on from where it is there (default: none)",
    )
    add(
        "--checkpoint-every",
        type=int,
        default=10,
        metavar="STEPS",
        help="steps between two writes of that file (default: 10)",
    )


def info() -> int:
    """Print what a bug report needs: versions and the inventory of array libraries."""
    from ._backend.inventory import blas, format_inventory, inventory

    print(f"ngdla {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
    print(format_inventory(inventory(), blas()))
    return DONE


def demo(options: argparse.Namespace, parser: Parser) -> int:
    """Run the demo on the processes that mpiexec started, or on this one."""
    from ._backend.inventory import one_thread
    from .demo.ranks import communicator, ending_together, one_voice

    try:
        comm = communicator()
    except ValueError as error:
        parser.error(str(error))
    with ending_together(comm), one_voice(comm), one_thread():
        return demo_on_ranks(options, parser, comm)


def demo_on_ranks(options: argparse.Namespace, parser: Parser, comm: Any) -> int:
    """Check the options, load the array library and run the demo."""
    from ._backend.inventory import UnavailableLibraryError, load_namespace
    from .demo.arguments import check_drawing, check_options, check_packages, check_ranks
    from .demo.ranks import agree, first_at_fault

    checkpoint, fault = None, ""
    try:
        check_packages()
        check_options(options)
        problems = problems_of(options)
        check_ranks(problems, comm.size)
        library = load_namespace(options.backend)
        if comm.rank == 0:
            check_drawing()
        if options.checkpoint is not None:
            from .demo.checkpoint import Checkpoint

            checkpoint = Checkpoint(options.checkpoint, options.checkpoint_every, comm)
            checkpoint.check(problems, options.seed)
    except (ValueError, UnavailableLibraryError) as error:
        fault = str(error)
    if (first := first_at_fault(bool(fault), comm)) is not None:
        parser.leave(fault, speaks=comm.rank == first)
    if not agree(f"{sorted(vars(options).items())} {checkpoint}", comm):
        parser.leave(
            "the processes have different options, or find different files at --checkpoint; give "
            "all the same command, and a file that all of them see",
            speaks=comm.rank == 0,
        )
    from .demo.run import run_demo

    return run_demo(problems, library, options.seed, options.output, comm, checkpoint)


def problems_of(options: argparse.Namespace) -> list[Any]:
    """Return the problems that the options ask for."""
    from .demo import make_problem, quick
    from .demo.arguments import systems_of

    problems = [make_problem(name, options.sites) for name in systems_of(options.system)]
    if options.quick:
        problems = [quick(problem) for problem in problems]
    if options.steps is not None:
        problems = [problem.with_steps(options.steps) for problem in problems]
    return problems


if __name__ == "__main__":
    sys.exit(main())
