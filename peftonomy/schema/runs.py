"""The schema of a study's runs: `<study>.jsonl` has one JSON object a line, each a finished run, and each run once."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..errors import DataError, Problem
from ..files.documents import Document
from ..files.reading import read_lines
from .base import Entry, Id, Name, Stem, Value, validated

__all__ = ["Asked", "Record", "key", "read_runs"]

MOST_BYTES = 200_000_000
Amount = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def key(asked: Mapping[str, Any]) -> str:
    """Return the name of the run with these settings. Two runs have one name only if they are the same."""
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Examples(Entry):
    """The labelled examples of a run."""

    kind: Stem
    validation: Amount
    test: Amount
    revision: Stem
    """A digest of all examples."""
    words: dict[str, str] = {}
    prompt: str = ""


class Asked(Entry):
    """All settings on which the results of a run depend."""

    protocol: int
    method: Id | None
    setting: dict[Name, Value]
    control: Literal["frozen", "reversed"] | None
    split: Literal["validation", "test"]
    learning_rate: Number | None
    seed: Amount
    steps: Amount
    model: dict[str, Any]
    task: Examples
    batch: Amount
    seq: Amount | None
    head_rate: Number | None
    weight_decay: Number
    warmup: Number
    calibration: Amount


class Record(Entry):
    """One run: everything that is needed to run it again, and its results. A failed run has an error and no value."""

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """The key: a digest of `asked` and nothing else."""
    study: Id
    arm: Stem
    rung: Amount | None
    """The round of the search for a learning rate; null for a test run."""
    learning_rate: Number | None
    asked: Asked
    hyperparameters: dict[str, Any] = {}
    """Those of the method, with the entry's defaults."""
    targets: list[str] = []
    metric: Literal["accuracy"]
    value: Annotated[float, Field(ge=0, le=1)] | None
    loss: Number | None
    """On the same split, the mean over its examples."""
    answers: str | None
    """For each example of the test split, in its order, a bit that is set if the answer is right; in hexadecimal."""
    error: str | None
    curve: list[Number] | None
    trained: Amount | None
    """Trained parameters without the head."""
    stored: Amount | None
    stored_bytes: Amount | None
    head: Amount
    """Parameters of the head."""
    step_seconds: Seconds | None
    """CPU time, the median over the steps. A run has one thread, so an idle machine takes as long."""
    seconds: Seconds
    """The whole run, with loading and evaluation."""
    peak_bytes: Amount | None
    """The most bytes alive in tensors, in a real step without padding."""
    predicted_bytes: Amount | None
    """The same by prediction."""
    model: str
    """A digest of the weights."""
    sizes: dict[Literal["train", "validation", "test"], Amount]
    """Examples in each split."""
    commonest: Number
    """The accuracy of the most frequent label on the test split."""
    versions: dict[str, str]
    hardware: dict[str, Any]
    started: str

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuse a line that contradicts itself, such as an edited one."""
        if (name := key(self.asked.model_dump(exclude_unset=True))) != self.run:
            raise ValueError(f"the key {name}, which is the digest of `asked`, was expected in `run`")
        if self.learning_rate != self.asked.learning_rate:
            raise ValueError(f"learning_rate: {self.asked.learning_rate}, as in `asked`, was expected")
        if (self.error is None) == (self.value is None) or (self.value is None) != (self.loss is None):
            raise ValueError("either an error, or a value and a loss, was expected")
        if self.value is not None and self.asked.split == "test":
            right = _right(self.answers or "", self.sizes.get("test", 0))
            if right is None or self.sizes.get("test") != self.asked.task.test:
                raise ValueError("answers: a bit for each example of the test split was expected")
            if not math.isclose(right, self.value, abs_tol=1e-9):
                raise ValueError(f"value: {right:g}, the share of right answers, was expected")
        return self


def _right(answers: str, examples: int) -> float | None:
    """Return the share of set bits; None if there is not a bit for each example."""
    if not examples or len(answers) != 2 * math.ceil(examples / 8) or not re.fullmatch("[0-9a-f]+", answers):
        return None
    bits = f"{int(answers, 16):0{4 * len(answers)}b}"
    return None if "1" in bits[examples:] else bits.count("1") / examples


def read_runs(path: Path, end: int | None = None, name: str | None = None) -> dict[str, Record]:
    """Return the runs of a file by key; only those before the byte `end` if it is given.

    name: the file's name in messages. Raises DataError with every problem of the file.
    """
    name = name or str(path)
    found, problems, first = dict[str, Record](), list[Problem](), dict[str, int]()
    for number, data in read_lines(path, name, MOST_BYTES, end):
        try:
            record = validated(Record, Document(name, data, {(): number}))
        except DataError as error:
            problems += error.problems
            continue
        if record.run in found:
            again = f"{record.run} again (line {first[record.run]})"
            problems.append(Problem(name, number, "run", again, "each run once", "", "schema"))
        found[record.run], first[record.run] = record, number
    if problems:
        raise DataError(problems)
    return found
