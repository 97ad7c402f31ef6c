"""The file of runs that a study extends."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.documents import Document
from ..files.output import naming
from ..schema.base import validated
from ..schema.runs import Record, read_runs

__all__ = ["Runs"]


class Runs:
    """A file of runs that this process extends. `done` has those that have ended, by key."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, Record] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[Runs]:
        """Open the file for this process alone. A half line that a killed process left behind our lines is removed.

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
                    end = runs._end()
                    runs.done = read_runs(path, end)
                    if end < path.stat().st_size:
                        os.truncate(path, end)
                yield runs
            finally:
                lock.release()

    def _end(self) -> int:
        """Return where the last whole line ends. Only the beginning of an object is half a line of ours."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        end = content.rfind(b"\n") + 1
        half = content[end:]
        try:
            json.loads(half)
        except ValueError:
            return end if half.startswith(b"{") else len(content)
        return len(content)

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
