"""All evidence of this machine's GPU in nine minutes, the most first, whatever hangs or crashes.

python -m asv_benchmarks.gpu.evidence                   # into docs/benchmarks
python -m asv_benchmarks.gpu.evidence --device cpu      # tiny sizes on torch and JAX: rehearsal.*
python -m asv_benchmarks.gpu.evidence --device double   # the same on the double of CuPy: double.*

DEVICE.json has what all parts measured, DEVICE.md what to read of it, DEVICE.tests.json what works
where, DEVICE.tests.xml the tests of CuPy, DEVICE.log all tracebacks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from .desk import ROOT, part_file
from .evidence_page import page
from .parts import SECONDS, STAGES, Part, Stage
from .peers import ratios
from .report import (
    REHEARSALS,
    UNKNOWN,
    driver,
    run_name,
    slug,
    surroundings,
    unwritable,
    write,
    write_whole,
)

__all__ = ["Evidence", "main"]

_TICK, _EVERY = 0.1, 2.0  # seconds between looks at the parts, and between writings
_LOG = 2**20  # bytes of a part's output that are kept


class Running(NamedTuple):
    """A part under way."""

    part: Part
    process: subprocess.Popen[bytes]
    start: float


class Evidence:
    """The parts, their processes, and the files, which are complete at any time."""

    def __init__(self, device: str, output: Path, head: dict[str, Any], parts: Path) -> None:
        self.device, self.output, self.parts = device, output, parts
        self.start = time.monotonic()
        self.result = head
        self.running: list[Running] = []
        self.begun: list[str] = []

    def __call__(self, stages: Iterable[Stage]) -> None:
        """Run all stages; a stage ends when the seconds of those until then are over."""
        stages = tuple(stages)
        self.result["parts"] = {
            part.name: {"verdict": "not begun", "what": part.what, "measured": {}}
            for stage in stages
            for part in stage.parts
        }
        end = self.start
        try:
            for stage in stages:
                end += stage.seconds
                self._stage(stage, end)
                if self._of_device().startswith("skipped"):
                    return
            self.result["finished"] = True
        finally:
            for one in self.running:
                _kill(one.process)
            self.write()

    def _stage(self, stage: Stage, end: float) -> None:
        for part in stage.parts:
            self._begin(part, end - time.monotonic())
        written = 0.0
        while self.running and time.monotonic() < end:
            time.sleep(_TICK)
            for one in [one for one in self.running if one.process.poll() is not None]:
                self._end(one, _said(self._found(one.part), one.process.returncode))
            if time.monotonic() - written > _EVERY:
                self.write()
                written = time.monotonic()
        for one in list(self.running):
            _kill(one.process)
            self._end(one, f"cut off after {time.monotonic() - one.start:.0f} s")

    def _begin(self, part: Part, seconds: float) -> None:
        command = self.command(part, seconds)
        with self._log(part.name).open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )
        self.running.append(Running(part, process, time.monotonic()))
        self.result["parts"][part.name]["verdict"] = "under way"
        self.begun.append(part.name)

    def command(self, part: Part, seconds: float) -> list[str]:
        """Return what runs a part, which ends by itself within its seconds if it can."""
        command = [sys.executable, "-m", "asv_benchmarks.gpu.desk", part.name]
        command += ["--device", self.device, "--seconds", f"{seconds:.1f}"]
        return [*command, "--folder", str(self.parts), "--output", str(self.output)]

    def _end(self, one: Running, verdict: str) -> None:
        _kill(one.process)  # what it has left behind
        self.running.remove(one)
        now = time.monotonic()
        self.result["parts"][one.part.name] |= {"verdict": verdict, "seconds": now - one.start}
        print(f"{now - self.start:5.0f} s  {one.part.name}: {verdict}", flush=True)
        self.write()

    # ------------------------------------------------------------------------------ the files

    def write(self) -> None:
        """Write all that is known, from when it is known that there is a device."""
        if self._of_device().startswith(("not begun", "under way", "skipped")):
            return
        for name in self.begun:
            found = self._found_by(name)
            self.result["parts"][name] |= {key: found[key] for key in ("faults", "measured")}
        self.result["seconds"] = time.monotonic() - self.start
        for key in ("libraries", "skipped", "methods"):
            self.result[key] = self._measured("facts").get(key, {})
        self.result["ceilings"] = self._measured("facts").get("ceilings", [])
        for key in ("rows", "questions"):
            self.result[key] = [
                row for name in self.begun for row in self._measured(name).get(key, ())
            ]
        solves = [row for name in self.begun for row in self._measured(name).get("solves", ())]
        self.result["peers"] = ratios(solves)
        if self.result["device"] == UNKNOWN:  # without nvidia-smi, a library says it
            named = [facts["device"] for facts in self.result["libraries"].values()]
            self.result["device"] = next(iter(named), UNKNOWN)
        name = self.result["device"]
        write(self.result, self.output, name, page(self.result))
        write_whole(self.output / f"{slug(name)}.log", "\n".join(map(self._logged, self.begun)))

    def _measured(self, name: str) -> dict[str, Any]:
        return self.result["parts"].get(name, {"measured": {}})["measured"]

    def _found(self, part: Part) -> dict[str, Any]:
        return self._found_by(part.name)

    def _found_by(self, name: str) -> dict[str, Any]:
        """Return what a part has left, which may have ended before it wrote anything."""
        try:
            return json.loads(part_file(self.parts, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"verdict": None, "faults": [], "measured": {}}

    def _log(self, name: str) -> Path:
        return self.parts / f"{slug(name)}.log"

    def _logged(self, name: str) -> str:
        text = self._log(name).read_bytes()[-_LOG:].decode("utf-8", "replace")
        text = text.replace(f"{ROOT}{os.sep}", "")
        return f"==== {name}: {self.result['parts'][name]['verdict']}\n{text}"

    def _of_device(self) -> str:
        """Return the verdict of the part that looks for devices; it skips where there is none."""
        return self.result["parts"].get("facts", {"verdict": ""})["verdict"]


def _said(found: dict[str, Any], code: int) -> str:
    """Return the verdict of a part that has ended by itself."""
    if code < 0:
        return f"failed: ended by {signal.Signals(-code).name}"
    if code:
        return f"failed: ended with exit code {code}"
    return found["verdict"] or "failed: ended without a verdict"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that the driver holds
        process.wait(timeout=2)


def main(arguments: list[str] | None = None, stages: tuple[Stage, ...] = STAGES) -> int:
    """Run; return 1 where a part failed, 2 where there was nothing to run on."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_benchmarks.gpu.evidence",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"{SECONDS} seconds at most",
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="FOLDER")
    parser.add_argument(
        "--device", choices=("gpu", *REHEARSALS), default="gpu", help="else: a rehearsal"
    )
    chosen = parser.parse_args(arguments)
    if reason := unwritable(chosen.output):
        print(f"gpu-evidence: {reason}: give another folder by --output", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):  # parts do not outlive this process
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as parts:
        head = _head(chosen.device)
        evidence = Evidence(chosen.device, chosen.output.absolute(), head, Path(parts))
        try:
            evidence(stages)
        except KeyboardInterrupt:
            print("gpu-evidence: ended from outside; the files are complete", file=sys.stderr)
            return 130
    if not evidence.result["finished"]:
        _, _, why = evidence.result["parts"]["facts"]["verdict"].partition(": ")
        print(f"gpu-evidence: no library sees a device: {why}", file=sys.stderr)
        return 2
    verdicts = [part["verdict"] for part in evidence.result["parts"].values()]
    return int(any(verdict.startswith("failed") for verdict in verdicts))


def _head(device: str) -> dict[str, Any]:
    """Return what is known before anything is measured."""
    rehearsal = device in REHEARSALS
    command = "python -m asv_benchmarks.gpu.evidence"
    return {
        "device": run_name(device),
        "driver": "none" if rehearsal else driver(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command + (f" --device {device}" if rehearsal else ""),
        "surroundings": surroundings(),
        "finished": False,
    }


if __name__ == "__main__":
    sys.exit(main())
