"""The finished runs that the knowledge base holds: `studies/<study>.yaml` with `studies/<study>.jsonl` beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..catalogue.records import STUDIES
from ..schema.design import Design, load_design
from ..schema.runs import Record, read_runs

__all__ = ["Measured", "OwnStudy", "measured", "own_studies"]

SAME = ("batch", "seq", "steps", "head_rate", "weight_decay", "warmup", "calibration")
"""The fields of a design that a test run repeats."""


@dataclass(frozen=True)
class Measured:
    """The test runs of one arm: a value for each seed, at the learning rate that the search chose."""

    study: str
    arm: str
    method: str | None
    control: str | None
    hyperparameters: dict[str, Any]
    metric: str
    values: list[float]
    learning_rate: float | None
    trained: int | None
    stored_bytes: int | None
    step_seconds: float | None
    peak_bytes: int | None
    predicted_bytes: int | None

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return sum(self.values) / len(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"value": self.value}


@dataclass(frozen=True)
class OwnStudy:
    """A study with its finished arms, the best first."""

    name: str
    about: str
    steps: int
    seeds: int
    arms: list[Measured]


def own_studies(root: Path) -> list[OwnStudy]:
    """Return the studies below the root of a knowledge base that have runs.

    An arm is finished if each seed of the design has a test run, and none failed. Raises DataError.
    """
    found = list[OwnStudy]()
    for path in sorted((root / STUDIES).glob("*.yaml")):
        runs = path.with_suffix(".jsonl")
        if runs.is_file():
            design = load_design(path)
            arms = sorted(_arms(design, read_runs(runs).values()), key=lambda one: (-one.value, one.arm))
            found.append(OwnStudy(design.name, design.about, design.steps, len(design.seeds), arms))
    return found


def measured(root: Path) -> list[Measured]:
    """Return the finished arms of all studies. Raises DataError."""
    return [arm for study in own_studies(root) for arm in study.arms]


def _arms(design: Design, records: Any) -> Iterator[Measured]:
    arms: dict[str, list[Record]] = {}
    for record in records:
        asked = record.asked
        if asked.split == "test" and all(getattr(asked, name) == getattr(design, name) for name in SAME):
            arms.setdefault(record.arm, []).append(record)
    for arm, tests in arms.items():
        first = tests[0]
        values = {r.asked.seed: r.value for r in tests if r.value is not None}
        if set(values) != set(design.seeds) or len(tests) != len(values):
            continue
        peak = next((r for r in tests if r.peak_bytes is not None), first)
        times = sorted(r.step_seconds for r in tests if r.step_seconds is not None)
        yield Measured(
            design.name, arm, first.asked.method, first.asked.control, first.hyperparameters, first.metric,
            [values[seed] for seed in design.seeds], first.learning_rate, first.trained, first.stored_bytes,
            times[len(times) // 2] if times else None, peak.peak_bytes, peak.predicted_bytes,
        )  # fmt: skip
