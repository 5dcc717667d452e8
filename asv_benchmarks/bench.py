"""Run every class of benchmarks/ once, quickly, in the environment that runs this file.

    python asv_benchmarks/bench.py [OPTION OF asv run ...]

Without options, float32 is left out: its times follow those of float64. Results are filed under
the commit that is checked out, in .asv/results/; `make bench-site` shows them as pages.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from threads import fixed_threads

HERE = Path(__file__).resolve().parent
RESULTS = HERE / ".asv" / "results"
MACHINE = Path("~/.asv-machine.json")  # the one place where asv looks for it

# asv names an environment after the path of its interpreter: with python and python3 by turns it
# would not compare with itself.
PYTHON = Path(sys.prefix) / "bin" / "python"

QUICK = (
    "--attribute=rounds=1",
    "--attribute=repeat=(1,3,0.5)",
    "--launch-method=forkserver",
)
WITHOUT_FLOAT32 = ("--bench=^(?!.*float32)",)


def main() -> None:
    """Run asv; its exit code is 2 where a benchmark failed, and 0 where some were only skipped."""
    require_asv()
    commit = checked_out()
    os.environ.update(fixed_threads())
    if not MACHINE.expanduser().exists():
        asv("machine", "--yes", quiet=True)
    code = asv(
        "run",
        f"--environment=existing:{PYTHON}",
        f"--set-commit-hash={commit}",
        "--show-stderr",
        *QUICK,
        *(sys.argv[1:] or WITHOUT_FLOAT32),
    )
    print(f"results: {RESULTS.relative_to(HERE.parent)}; make bench-site turns them into pages")
    if code:
        raise SystemExit(code)


def require_asv() -> None:
    """Give up in one line where asv is missing."""
    if importlib.util.find_spec("asv") is None:
        raise SystemExit('ngdla: asv is not installed: pip install -e ".[bench]"')


def checked_out() -> str:
    """Return the commit that results are filed under."""
    command = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise SystemExit("ngdla: git is not installed; results are filed by commit") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().partition("\n")[0]
        raise SystemExit(
            f"ngdla: no commit to file results under ({said}); measure in a git checkout"
        ) from None
    return done.stdout.strip()


def asv(*arguments: str, quiet: bool = False) -> int:
    """Run one command of asv beside its configuration and return its exit code."""
    command = [str(PYTHON), "-m", "asv", *arguments]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, cwd=HERE, stdout=output, stderr=output, check=False).returncode


if __name__ == "__main__":
    main()
