"""The schema of published training runs: `evidence/studies.yaml` and one `evidence/<study>.jsonl` for each study.

A study is one comparison with one model and one task. A line of its file is one run of one method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from ..errors import DataError, Problem
from ..files.documents import Document, load_yaml
from ..files.reading import read_lines
from .base import Citation, Entry, Id, Line, Name, Stem, validated

__all__ = ["MEASURES", "Metric", "Run", "Study", "load_runs", "load_studies"]

MOST_BYTES = 20_000_000
"""The number of bytes of the largest file of runs."""
Amount = Annotated[int, Field(ge=0)]


class Metric(Entry):
    """A measure of quality of one study."""

    name: Stem
    meaning: Line
    better: Literal["higher", "lower"]
    """Whether higher or lower values are better."""
    unit: Literal["share", "number"] = "number"
    """`share`: a value from 0 to 1, shown in percent."""


class Study(Entry):
    """One published comparison of methods."""

    name: Stem
    task: Stem
    model: Id | None = None
    """The model in our catalogue, if it is there."""
    model_name: Stem
    metrics: dict[Name, Metric] = Field(min_length=1)
    setup: Line
    """The model, the data and the training of all runs, in a sentence."""
    limits: Line
    """The reasons against conclusions from small differences, in a sentence."""
    peak: Line | None = None
    """The part of a run that the peak of the GPU memory covers."""
    library: Id | None = None
    """The library whose arguments the settings of the runs use."""
    source: Citation


class Run(Entry):
    """One run: a method with its setting, and the measured values. A value that the source does not report is null."""

    study: Id
    run: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^\S+$")]
    """The name of the run in its source."""
    method: Id
    setting: dict[Name, Any]
    """The method's arguments that differ from the defaults of the study's library."""
    optimizer: Stem | None = None
    learning_rate: float | None = Field(default=None, gt=0)
    seed: int | None
    metric: Name
    """One of the study's metrics."""
    value: float = Field(allow_inf_nan=False)
    trained: Amount | None = None
    """Trained parameters."""
    total: Amount | None = None
    """All parameters."""
    file_bytes: Amount | None = None
    peak_bytes: Amount | None = None
    """The largest amount of GPU memory during the run."""
    mean_bytes: Amount | None = None
    """The mean of the reserved GPU memory over the steps."""
    p99_bytes: Amount | None = None
    """The 99th percentile of the reserved GPU memory over the steps."""
    seconds: float | None = Field(default=None, ge=0)
    """The time of training."""
    source: Citation
    note: Line | None = None


MEASURES = {
    "trained": "trained parameters", "peak_bytes": "peak GPU memory", "seconds": "training time",
    "file_bytes": "size of the saved file",
}  # fmt: skip
"""The costs of a run that can be compared: field -> name."""


class _Studies(RootModel[dict[Id, Study]]):
    """The content of `studies.yaml`."""


def load_studies(folder: Path, name: str) -> dict[str, Study]:
    """Return the studies by id; none if the folder does not exist. name: the folder's name in messages.

    Raises DataError with every problem of the file.
    """
    path = folder / "studies.yaml"
    if not path.is_file():
        return {}
    return validated(_Studies, load_yaml(path, f"{name}/{path.name}")).root


def load_runs(folder: Path, name: str, study: str) -> list[Run]:
    """Return the runs of one study. name: the folder's name in messages. Raises DataError with every problem."""
    file = f"{name}/{study}.jsonl"
    runs, problems, lines = list[Run](), list[Problem](), dict[tuple[str, str], int]()
    for number, data in read_lines(folder / f"{study}.jsonl", file, MOST_BYTES):
        try:
            run = validated(Run, Document(file, data, {(): number}))
        except DataError as error:
            problems += error.problems
            continue
        if run.study != study:
            problems.append(Problem(file, number, "study", run.study, f"the file's stem, {study}", "", "schema"))
        first = lines.setdefault((run.run, run.metric), number)
        if first != number:
            found = f"{run.run} with {run.metric} again (line {first})"
            problems.append(Problem(file, number, "run", found, "each run once", "", "schema"))
        runs.append(run)
    if problems:
        raise DataError(problems)
    return runs
