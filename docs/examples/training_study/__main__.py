"""Train with all optimisers, and report what came out.

    python docs/examples/training_study run       # Ctrl-C, and the same again to go on
    python docs/examples/training_study report    # tables, results.json, the picture
    python docs/examples/training_study rules     # a grid for INGD against IKFAC
    python docs/examples/training_study report --rules

The runs are collected in runs.jsonl, from which ``report`` makes the rest.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # the folder, run as a program, is no package
    sys.path.insert(0, str(HERE.parent))

PROGRAM = "python docs/examples/training_study"
BAD_ARGUMENT, INTERRUPTED = 2, 130

# What a study reads and writes; a short one leaves alone what a full one has made.
FULL = (HERE / "runs.jsonl", HERE / "results.json", HERE.parents[1] / "_static/training_study.png")
SHORT = tuple(HERE / f"short.{kind}" for kind in ("jsonl", "json", "png"))
RULES = (HERE / "rules.jsonl", HERE / "rules.json")
SHORT_RULES = (HERE / "short.rules.jsonl", HERE / "short.rules.json")


class Parser(argparse.ArgumentParser):
    """Parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message on stderr and leave with exit code 2."""
        self.exit(BAD_ARGUMENT, f"{self.prog}: {' '.join(message.split())}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for a bad argument, 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        parser = make_parser()
    except ImportError as error:
        msg = f'{error.name} is not installed: pip install "ngdla[study]"'
        Parser(prog=PROGRAM).error(msg)
    options = parser.parse_args(words)
    from training_study.execution import IncompleteStudyError
    from training_study.store import DamagedStoreError

    try:
        if options.command == "rules":
            compare_rules(options, shlex.join([*parser.prog.split(), *words]))
        elif options.command == "report":
            (report_rules if options.rules else report)(options)
        else:
            run(options, shlex.join([*parser.prog.split(), *words]))
    except (ImportError, IncompleteStudyError, DamagedStoreError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED
    return 0


def make_parser() -> Parser:
    """Parser of the command line."""
    from training_study.methods import METHODS
    from training_study.networks import NETWORKS

    description = (__doc__ or "").partition("\n")[0]
    parser = Parser(prog=PROGRAM, description=description, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    texts = {
        "run": "train; what is in the file is not repeated",
        "rules": "train by INGD and IKFAC with a grid of settings",
        "report": "tables and the picture",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add = command.add_argument
        add("--short", action="store_true", help="few settings and seeds, two epochs")
        if name == "rules":
            add("--output", type=Path, help="file of runs (default: rules.jsonl beside this)")
            phases = ("grid", "final", "package", "all")
            text = "package: those of singd; default: all others"
            add("--phase", choices=phases, default="all", help=text)
            add("--jobs", type=at_least_one, default=1, help="processes")
        elif name == "run":
            add("--output", type=Path, help="file of runs (default: runs.jsonl beside this)")
            add("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], metavar="NETWORK")
            add("--methods", nargs="+", choices=METHODS, default=[*METHODS], metavar="METHOD")
            add("--phase", choices=("tuning", "final", "all"), default="all", help="default: all")
            add(
                "--jobs",
                type=at_least_one,
                default=1,
                help="processes for tuning; the rest is timed",
            )
        else:
            add("--rules", action="store_true", help="of INGD and IKFAC, in rules.json")
            add("--runs", type=Path, help="file of runs (default: runs.jsonl beside this)")
            add("--results", type=Path, help="summary to write (default: results.json)")
            add("--picture", type=Path, help="default: docs/_static/training_study.png")
    return parser


def at_least_one(text: str) -> int:
    """Return the number that a text stands for."""
    if not text.isdecimal() or int(text) < 1:
        msg = f"{text} is no whole number from 1 on"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def run(options: argparse.Namespace, command: str) -> None:
    """Carry out a study, or what is missing of it."""
    from training_study.execution import carry_out
    from training_study.runs import Study

    path = options.output or (SHORT if options.short else FULL)[0]
    networks, methods = dict.fromkeys(options.networks), dict.fromkeys(options.methods)
    study = Study(tuple(networks), tuple(methods), options.short)
    phases = ("tuning", "final") if options.phase == "all" else (options.phase,)
    carry_out(study, phases, path, options.jobs, command)


def compare_rules(options: argparse.Namespace, command: str) -> None:
    """Carry out the comparison of INGD and IKFAC, or what is missing of it."""
    from training_study.rules import Comparison, carry_out

    path = options.output or (SHORT_RULES if options.short else RULES)[0]
    phases = ("grid", "final") if options.phase == "all" else (options.phase,)
    carry_out(Comparison(options.short), phases, path, options.jobs, command)


def report_rules(options: argparse.Namespace) -> None:
    """Write rules.json, and print its tables."""
    from training_study.report import markdown
    from training_study.rules import Comparison, summarise
    from training_study.rules_report import rules_table, sensitivity_table, settings_table
    from training_study.store import read
    from training_study.summary import write_summary

    usual = SHORT_RULES if options.short else RULES
    runs, results = options.runs or usual[0], options.results or usual[1]
    summary = summarise(Comparison(options.short), read(runs))
    write_summary(summary, results)
    for rows in (rules_table(summary), sensitivity_table(summary), settings_table(summary)):
        print(f"{markdown(rows)}\n")
    print(f"{results}, without {summary['missing']} runs that are missing", file=sys.stderr)


def report(options: argparse.Namespace) -> None:
    """Write the summary of a file of runs, draw it, and print its tables."""
    from training_study.execution import IncompleteStudyError
    from training_study.figures import save_picture
    from training_study.methods import METHODS
    from training_study.networks import NETWORKS
    from training_study.report import all_tables, markdown, read_results
    from training_study.runs import Study
    from training_study.store import read
    from training_study.summary import summarise, write_summary

    asked = (options.runs, options.results, options.picture)
    runs, results, picture = (
        path or usual for path, usual in zip(asked, SHORT if options.short else FULL)
    )
    study = Study(tuple(NETWORKS), tuple(METHODS), options.short)
    summary = summarise(study, read(runs))
    if not summary["runs"]:
        msg = f"{runs} has no final runs of this study"
        raise IncompleteStudyError(msg)
    write_summary(summary, results)
    summary = read_results(results)
    save_picture(summary, picture)
    for title, rows in all_tables(summary):
        print(f"{title}\n\n{markdown(rows)}\n")
    missing = f", without {summary['missing']} runs that are missing" * bool(summary["missing"])
    print(f"{results}, {picture}{missing}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
