"""Carrying out a study: what is not in the file yet is run, with a progress bar."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training_study.data import split
from training_study.environment import environment
from training_study.runs import Run, Study
from training_study.store import Store


class IncompleteStudyError(ValueError):
    """A file has not the runs that are needed."""


def carry_out(study: Study, phases: tuple[str, ...], path: Path, jobs: int, command: str) -> None:
    """Run what is missing of the phases "tuning" and "final", the first one in several processes.

    Raises
    ------
    ImportError
        If scikit-learn is missing.
    IncompleteStudyError
        If the final runs are to be made without those of tuning.
    """
    split()
    store = Store(path, environment(command))
    if "tuning" not in phases:
        require_tuned(study, store)
    sizes = dict(zip(("tuning", "final"), study.size()))
    with tqdm(total=sum(sizes[phase] for phase in phases), unit="run") as bar:
        for phase in phases:
            runs = study.tuning() if phase == "tuning" else study.final(study.best(store.records))
            complete(store, runs, jobs if phase == "tuning" else 1, bar, phase)


def complete(store: Store, runs: list[Run], jobs: int, bar: Any, phase: str) -> None:
    """Perform the runs that a file lacks, and write each into it as soon as it is done."""
    bar.set_description(phase)
    missing = [run for run in runs if run not in store]
    bar.update(len(runs) - len(missing))
    for run, record in performed(missing, jobs):
        store.append(run, record)
        bar.update()


def require_tuned(study: Study, store: Store) -> None:
    """Raise where runs of tuning are missing, without which there are no best settings."""
    if missing := sum(run not in store for run in study.tuning()):
        msg = f"{store.path} lacks {missing} runs of tuning: do them first, by --phase tuning"
        raise IncompleteStudyError(msg)


def performed(runs: list[Run], jobs: int) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Perform runs, and yield each with its record as soon as it is done.

    After an interruption the runs that other processes are at are finished first.
    """
    if jobs == 1:
        for run in runs:
            yield run, run.perform()
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
    waiting, under_way = iter(runs), {}
    with ProcessPoolExecutor(jobs, context, initializer=depend_on_parent) as pool:
        try:
            while True:
                for run in itertools.islice(waiting, jobs - len(under_way)):
                    under_way[pool.submit(run.perform)] = run
                if not under_way:
                    return
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
        except KeyboardInterrupt:
            for future, run in under_way.items():
                yield run, future.result()
            raise


def depend_on_parent() -> None:
    """End with the process that started this one, which alone looks after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all processes of a terminal get it
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
