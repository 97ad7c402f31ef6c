"""The schema of the results of our own studies: `studies/<study>.json`, which `peftonomy bench report --save` writes.

The runs are beside it, in `studies/<study>.jsonl`. The results follow from them, and hold their digest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import DataError, Problem
from ..files.documents import Document
from ..files.reading import read_object, read_text
from .base import Entry, Id, validated

__all__ = ["MEASURES", "Difference", "Rate", "Result", "Results", "digest", "load_results"]

MOST_BYTES = 200_000_000
Amount = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
MEASURES = {
    "trained": "trained parameters", "peak_bytes": "peak memory of a step", "step_seconds": "processor time of a step",
}  # fmt: skip
"""The costs of an arm that can be compared: field -> name."""


class Difference(Entry):
    """A paired difference from a baseline, with its 95 % interval."""

    mean: Number
    low: Number
    high: Number
    p: Number
    """The probability of a difference as large if there were none, after Holm's correction over all arms."""


class Rate(Entry):
    """One learning rate of the first round of the search."""

    learning_rate: Number
    value: Number | None
    """On the validation split; null for a run that failed."""


class Result(Entry):
    """A finished arm: a method with a setting, or a control."""

    arm: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@[1-9][0-9]*)?$", max_length=80)]
    """The method's id or the control, and the budget if there is one."""
    method: Id | None
    """Null if only the head is trained."""
    control: Literal["frozen", "reversed"] | None
    """`frozen`: only the head is trained. `reversed`: the updates have the wrong sign."""
    setting: dict[str, Any]
    """The hyperparameters that differ from the entry's defaults."""
    hyperparameters: dict[str, Any]
    value: Number
    """The mean over the seeds on the test split."""
    low: Number
    """The lower end of the 95 % interval."""
    high: Number
    seeds: list[Number]
    """The value with each seed."""
    group: Annotated[int, Field(ge=1)]
    """Arms of one group cannot be told apart from the best of it. The best arm is in group 1."""
    against: dict[Id, Difference]
    """The difference from each baseline."""
    learning_rate: Number | None
    """The rate that the search chose."""
    curve: list[Rate]
    sensitivity: Number | None
    """The mean over all rates of the first round, as a share of the best of them."""
    step_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    """The processor time of a step."""
    peak_bytes: Amount | None
    """The most bytes alive in tensors in a real step."""
    predicted_bytes: Amount | None
    """The same as predicted."""
    trained: Amount | None
    """Trained parameters without the head."""
    stored: Amount | None
    stored_bytes: Amount | None
    failed: Amount
    """Runs of the search that failed."""


class Results(Entry):
    """The results of one study so far. The number of arms that are to come depends on the methods of the day."""

    study: Id
    about: str
    model: str
    """The package or checkpoint of the model, or the type of one with random weights."""
    kind: str
    """The kind of the model, such as encoder."""
    task: str
    """The task of the model, such as seq_cls."""
    metric: Literal["accuracy"]
    commonest: Number
    """The accuracy of the most frequent label."""
    steps: Amount
    seeds: Amount
    """The number of seeds of each arm."""
    baselines: list[Id]
    runs: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The SHA-256 digest of the file of runs."""
    results: list[Result]
    """The finished arms, the best first."""
    failures: dict[str, str]
    """The arms whose runs failed, with the reason."""

    @property
    def groups(self) -> int:
        """The number of groups among the finished arms."""
        return max((one.group for one in self.results), default=0)

    def of(self, method: str) -> list[Result]:
        """Return the finished arms of a method, controls excluded."""
        return [one for one in self.results if one.method == method and one.control is None]

    def at_defaults(self) -> dict[str, Result]:
        """Return the arm of each method at its default setting."""
        return {str(one.method): one for one in self.results if one.control is None and one.arm == one.method}

    def command(self, result: Result) -> str | None:
        """Return the command that trains an arm again; None for a control, which runs with the whole study."""
        if result.control is not None:
            return None
        return f"peftonomy bench run studies/{self.study}.yaml --method {result.method} --out again.jsonl"

    def told(self, result: Result) -> dict[str, Any]:
        """Return a finished arm as plain data, with its study and its command."""
        head = {"study": self.study, "metric": self.metric}
        tail = {"groups": self.groups, "command": self.command(result)}
        return head | result.model_dump(mode="json") | tail


def digest(runs: Path, name: str) -> str:
    """Return the digest of a file of runs. name: the file's name in messages. Raises DataError."""
    return hashlib.sha256(read_text(runs, name, MOST_BYTES).encode()).hexdigest()


def load_results(path: Path, name: str, runs: str) -> Results:
    """Read the results of a study. name, runs: this file's name and that of the file of runs, in messages.

    Raises DataError for every problem, and if the results are not those of the runs.
    """
    found = validated(Results, Document(name, read_object(path, name, MOST_BYTES, "results"), {(): 1}))
    if found.study != path.stem:
        raise DataError([Problem(name, 1, "study", found.study, f"the file's stem, {path.stem}", "", "schema")])
    if found.runs != digest(path.with_suffix(".jsonl"), runs):
        expected = f"the digest of {runs}; run `peftonomy bench report studies/{found.study}.yaml --save`"
        raise DataError([Problem(name, 1, "runs", "a digest of other runs", expected, "", "schema")])
    return found
