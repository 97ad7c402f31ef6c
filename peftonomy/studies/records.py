"""The file of finished runs: one JSON object a line, each complete, each run once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import DataError, Problem, UsageError
from ..files.documents import Document
from ..files.output import naming
from ..files.reading import read_lines
from ..schema.base import Entry, Id, Stem, validated

__all__ = ["Record", "Runs", "read_runs"]

MOST_BYTES = 200_000_000
Amount = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Record(Entry):
    """One run: everything that is needed to run it again, and its results. A failed run has an error and no value."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The key: a digest of the protocol's number, `asked` and nothing else."""
    study: Id
    arm: Stem
    rung: Amount | None
    """The round of the search for a learning rate; null for a test run."""
    learning_rate: float | None
    asked: dict[str, Any]
    """All settings on which the results depend."""
    hyperparameters: dict[str, Any] = {}
    """Those of the method, with the entry's defaults."""
    targets: list[str] = []
    metric: Literal["accuracy"]
    value: Number | None
    loss: Number | None
    """On the same split, the mean over its examples."""
    answers: str | None
    """For each example of the test split, in its order, a bit that is set if the answer is right; in hexadecimal."""
    error: str | None
    curve: list[float] | None
    trained: Amount | None
    """Trained parameters without the head."""
    stored: Amount | None
    stored_bytes: Amount | None
    head: Amount
    """Parameters of the head."""
    step_seconds: Number | None
    """CPU time, the median over the steps. A run has one thread, so an idle machine takes as long."""
    seconds: Number
    """The whole run, with loading and evaluation."""
    peak_bytes: Amount | None
    """The most bytes alive in tensors, in a real step without padding."""
    predicted_bytes: Amount | None
    """The same by prediction."""
    model: str
    """A digest of the weights."""
    sizes: dict[str, int]
    """Examples in each split."""
    commonest: Number
    """The accuracy of the most frequent label on the test split."""
    versions: dict[str, str]
    hardware: dict[str, Any]
    started: str


def read_runs(path: Path) -> dict[str, Record]:
    """Return the runs of a file by key. Raises DataError with every problem of the file."""
    found, problems, first = dict[str, Record](), list[Problem](), dict[str, int]()
    for number, data in read_lines(path, str(path), MOST_BYTES):
        try:
            record = validated(Record, Document(str(path), data, {(): number}))
        except DataError as error:
            problems += error.problems
            continue
        if record.run in found:
            again = f"{record.run} again (line {first[record.run]})"
            problems.append(Problem(str(path), number, "run", again, "each run once", "", "schema"))
        found[record.run], first[record.run] = record, number
    if problems:
        raise DataError(problems)
    return found


class Runs:
    """A file of runs that this process extends. `done` has those that have ended, by key."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, Record] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[Runs]:
        """Open the file for this process alone. A half line that a killed process left is removed.

        Raises UsageError if another process writes to the file, and DataError for a file that is none.
        """
        from filelock import FileLock, Timeout

        runs = cls(path)
        with naming(path):
            if not path.parent.is_dir():
                raise UsageError(f"{path}: the folder does not exist")
            try:
                lock = FileLock(f"{path}.lock", timeout=0)
                lock.acquire()
            except Timeout:
                raise UsageError(f"another process writes runs to {path}") from None
            try:
                if path.exists():
                    runs._mend()
                    runs.done = read_runs(path)
                yield runs
            finally:
                lock.release()

    def _mend(self) -> None:
        with self.path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)

    def add(self, line: Mapping[str, Any]) -> Record:
        """Append a run and return it. The line is on the disk when this returns."""
        document = Document(f"{self.path} (a new run)", json.loads(json.dumps(line, allow_nan=False)), {(): 0})
        record = validated(Record, document)
        if record.run in self.done:
            raise ValueError(f"the run {record.run} is there")
        with naming(self.path), self.path.open("ab") as file:
            file.write((json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.done[record.run] = record
        return record
