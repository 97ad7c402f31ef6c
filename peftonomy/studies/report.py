"""The result of a study: quality with intervals, differences, costs and failures, after the canary's check."""

from __future__ import annotations

import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, Problem
from .jobs import FROZEN, REVERSED
from .statistics import Difference, bootstrap, groups, holm, paired, surpasses

if TYPE_CHECKING:
    from ..schema.runs import Record
    from .jobs import Arm, Study
    from .statistics import Answers

__all__ = ["Report", "Row", "report"]


@dataclass(frozen=True)
class Row:
    """One arm. against: the difference from each baseline, with p after Holm's correction over all arms.

    group: 1 for the arms that cannot be told apart from the best. sensitivity: the mean validation accuracy over all
    learning rates of the first round, as a share of the best of them; 1 if the rate does not matter.
    """

    arm: str
    method: str | None
    control: str | None
    setting: dict[str, Any]
    hyperparameters: dict[str, Any]
    value: float
    low: float
    high: float
    seeds: list[float]
    group: int
    against: dict[str, Difference]
    learning_rate: float | None
    curve: dict[float, float | None]
    """The validation accuracy at each learning rate of the first round; null for a run that failed."""
    sensitivity: float | None
    step_seconds: float | None
    peak_bytes: int | None
    predicted_bytes: int | None
    trained: int | None
    stored: int | None
    stored_bytes: int | None
    failed: int
    """Runs of the search for a learning rate that failed."""


@dataclass(frozen=True)
class Report:
    """The rows from the best, the arms that failed or cannot run with the reason, and those that are not finished."""

    study: str
    about: str
    metric: str
    commonest: float
    rows: list[Row]
    failures: dict[str, str]
    refused: dict[str, str]
    unfinished: list[str]

    def predicted(self, within: float) -> tuple[int, int]:
        """Return for how many rows the measured peak is near the predicted one, and how many have both.

        within: the largest difference, as a share of the measured peak.
        """
        pairs = [(r.peak_bytes, r.predicted_bytes) for r in self.rows if r.peak_bytes and r.predicted_bytes]
        return sum(abs(peak - predicted) <= within * peak for peak, predicted in pairs), len(pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def report(study: Study, done: Mapping[str, Record], name: str) -> Report:
    """Return the result of a study. name: of the file of runs, in messages.

    Raises DataError if the canary's arms are not finished, or do not come out where they must.
    """
    tests: dict[str, list[Record]] = {}
    failures, unfinished = dict[str, str](), list[str]()
    for arm in study.wanted:
        found = _state(study, arm, done)
        if isinstance(found, str):
            failures[arm.name] = found
        elif found is None:
            unfinished.append(arm.name)
        else:
            tests[arm.name] = found
    answers = {arm: np.array([_bits(record) for record in found]) for arm, found in tests.items()}
    _check(study, answers, failures, name)
    compared = {base: _against(base, answers) for base in study.design.baselines if base in answers}
    numbers = groups(answers)
    rows = [
        _row(study, arm, done, tests[arm.name], answers[arm.name], numbers[arm.name],
             {base: found[arm.name] for base, found in compared.items() if arm.name in found})
        for arm in study.wanted if arm.name in tests
    ]  # fmt: skip
    rows.sort(key=lambda row: -row.value)
    first = next(iter(tests.values()))[0]
    return Report(
        study.design.name, study.design.about, first.metric, first.commonest, rows, failures, study.refused, unfinished
    )


def _state(study: Study, arm: Arm, done: Mapping[str, Record]) -> list[Record] | str | None:
    """Return the test runs of an arm, the reason why it failed, or None if it is not finished."""
    jobs = study.tests(arm, done)
    every = [done[job.key] for job in study.jobs(arm, done) if job.key in done]
    found = [done[job.key] for job in jobs if job.key in done]
    broken = [record.error for record in found if record.error is not None]
    if broken:
        return f"{len(broken)} of {len(jobs)} test runs: {broken[0]}"
    if jobs and len(found) == len(jobs):
        return found
    if not jobs and every and len(every) == len(study.jobs(arm, done)):
        return f"at every learning rate: {next((r.error for r in every if r.error), 'no value')}"
    return None


def _bits(record: Record) -> Answers:
    """Return the answers of a test run, 1 for a right one."""
    found = np.unpackbits(np.frombuffer(bytes.fromhex(record.answers or ""), dtype=np.uint8))
    return found[: record.sizes["test"]].astype(np.float64)


def _check(study: Study, answers: Mapping[str, Answers], failures: Mapping[str, str], name: str) -> None:
    """Raise DataError if the canary's arms are not where they must be."""
    full = study.design.canary.full
    problems = []
    for arm in (FROZEN, REVERSED, full):
        if arm not in answers:
            found = f"failed {failures[arm]}" if arm in failures else "unfinished runs"
            problems.append(Problem(name, 0, f"canary {arm}", found, "all of its test runs"))
    if problems:
        raise DataError(problems)
    for above, below in ((full, FROZEN), (FROZEN, REVERSED)):
        if not surpasses(answers[above], answers[below]):
            values = (f"{arm} {', '.join(f'{v:.3f}' for v in answers[arm].mean(axis=1))}" for arm in (above, below))
            expected = f"{above} to be better than {below} with every seed"
            problems.append(Problem(name, 0, "canary", " and ".join(values), expected))
    if problems:
        raise DataError(problems)


def _against(base: str, answers: Mapping[str, Answers]) -> dict[str, Difference]:
    """Return the difference of every other arm from a baseline, with corrected p."""
    found = {arm: paired(own, answers[base]) for arm, own in answers.items() if arm != base}
    corrected = holm([one.p for one in found.values()])
    return {
        arm: Difference(one.mean, one.low, one.high, p)
        for (arm, one), p in zip(found.items(), corrected, strict=True)
    }  # fmt: skip


def _row(
    study: Study, arm: Arm, done: Mapping[str, Record], tests: Sequence[Record], answers: Answers, group: int,
    against: dict[str, Difference],
) -> Row:  # fmt: skip
    first, (low, high) = tests[0], bootstrap(answers)
    tuned = [done[job.key] for job in study.jobs(arm, done) if job.split == "validation" and job.key in done]
    times = [record.step_seconds for record in tests if record.step_seconds is not None]
    curve = {job.rate: done[job.key].value for job in study.first_round(arm) if job.rate and job.key in done}
    measured = next((r for r in tests if r.peak_bytes is not None), first)
    return Row(
        arm.name, arm.method, arm.control, dict(arm.setting), first.hyperparameters, float(answers.mean()), low, high,
        [record.value or 0.0 for record in tests], group, against, first.learning_rate,
        curve, _sensitivity(curve), plain.median(times) if times else None, measured.peak_bytes,
        measured.predicted_bytes, first.trained, first.stored, first.stored_bytes,
        sum(record.error is not None for record in tuned),
    )  # fmt: skip


def _sensitivity(curve: Mapping[float, float | None]) -> float | None:
    values = [value or 0.0 for value in curve.values()]
    most = max(values, default=0.0)
    return sum(values) / len(values) / most if most else None
