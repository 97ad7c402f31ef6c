"""Workers on this machine: processes that each run one job at a time. A worker that dies loses only its run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

from ..errors import PeftonomyError

__all__ = ["ENVIRONMENT", "Died", "Pool", "Workers", "work"]

ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""The variables of a worker. Without them the order of sets and of sums would differ from run to run."""


class Died(Exception):  # noqa: N818 (it reads as what happened)
    """A worker ended before its run did."""


class Outcome(NamedTuple):
    """What a worker returned for a job: a record, or the reason why there is none."""

    key: str
    result: dict[str, Any] | Exception


class Workers(Protocol):
    """Something that runs jobs."""

    @property
    def free(self) -> int:
        """The number of jobs that could start at once."""
        ...

    def start(self, key: str, given: Mapping[str, Any]) -> None:
        """Start a job."""
        ...

    def ended(self) -> list[Outcome]:
        """Wait until at least one job has ended, and return those that have."""
        ...

    def close(self) -> None:
        """Stop all jobs."""
        ...


def work(given: Mapping[str, Any]) -> dict[str, Any] | Exception:
    """Run a job in this process. Errors of the study, such as a model that is missing, are returned."""
    try:
        from .training import run

        return run(given)
    except PeftonomyError as error:
        return error


def _serve(connection: Connection, run: Callable[[Mapping[str, Any]], Any]) -> None:
    """Run jobs until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    try:
        while True:
            connection.send(run(connection.recv()))
    except (EOFError, OSError):
        return


class Pool:
    """Processes on this machine. run: runs one job in a worker."""

    def __init__(self, size: int, run: Callable[[Mapping[str, Any]], Any] = work):
        self.size, self._run = size, run
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[Connection, Any]] = []
        self._busy: dict[str, tuple[Connection, Any]] = {}

    @property
    def free(self) -> int:
        """The number of jobs that could start at once."""
        return self.size - len(self._busy)

    @property
    def processes(self) -> dict[str, int]:
        """The process of each running job."""
        return {key: process.pid for key, (_, process) in self._busy.items()}

    def start(self, key: str, given: Mapping[str, Any]) -> None:
        """Start a job."""
        connection, process = self._idle.pop() if self._idle else self._spawned()
        self._busy[key] = connection, process
        try:
            connection.send(given)
        except OSError:  # it has died, as `ended` will notice
            process.kill()

    def _spawned(self) -> tuple[Connection, Any]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._run), daemon=True)
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)
        try:
            process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()
        return ours, process

    def ended(self) -> list[Outcome]:
        """Wait until at least one job has ended, and return those that have."""
        watched: dict[Any, str] = {}
        for key, (connection, process) in self._busy.items():
            watched |= {connection: key, process.sentinel: key}
        found = []
        for key in dict.fromkeys(watched[one] for one in wait(list(watched))):
            connection, process = self._busy.pop(key)
            try:
                found.append(Outcome(key, connection.recv()))
                self._idle.append((connection, process))
            except (EOFError, OSError):
                process.join()
                connection.close()
                found.append(Outcome(key, Died(f"a worker ended with code {process.exitcode}")))
        return found

    def close(self) -> None:
        """Stop all jobs."""
        for connection, process in [*self._idle, *self._busy.values()]:
            process.kill()
            process.join()
            connection.close()
        self._idle, self._busy = [], {}
