"""Run what is due of a study, and append each run to the file as soon as it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..errors import PeftonomyError
from .jobs import Job, Study
from .pool import Died

if TYPE_CHECKING:
    from ..schema.runs import Record
    from .pool import Workers
    from .records import Runs

__all__ = ["Progress", "as_work", "progress", "run"]

TRIES = 3
"""How often a run starts whose worker dies."""


@dataclass(frozen=True)
class Progress:
    """How far a study is. left: an estimate of the seconds that one worker needs for the rest."""

    ended: int
    failed: int
    expected: int
    left: float
    arms: list[dict[str, Any]] = field(default_factory=list)


def progress(study: Study, done: Mapping[str, Record]) -> Progress:
    """Return how far a study is."""
    arms, seconds, ended, expected = list[dict[str, Any]](), list[float](), 0, 0
    for arm in study.wanted:
        jobs = study.jobs(arm, done)
        own = [done[job.key] for job in jobs if job.key in done]
        complete = (len(own) == len(jobs) and arm.control != "reversed") or len(own) == study.expected(arm)
        wanted = len(own) if complete else max(study.expected(arm), len(jobs))
        seconds += [record.seconds / job.steps for job in jobs if (record := done.get(job.key))]
        failed = [r.error for r in own if r.error is not None]
        arms.append({"arm": arm.name, "ended": len(own), "expected": wanted, "failed": len(failed),
                     "error": failed[-1] if failed else None})  # fmt: skip
        ended, expected = ended + len(own), expected + wanted
    tuned = sum(len(study.design.tuning.rates) if i == 0 else rung.keep or 0
                for i, rung in enumerate(study.design.tuning.rungs))  # fmt: skip
    shares = sum((len(study.design.tuning.rates) if i == 0 else rung.keep or 0) * rung.share
                 for i, rung in enumerate(study.design.tuning.rungs))  # fmt: skip
    mean = (shares + len(study.design.seeds)) / (tuned + len(study.design.seeds)) * study.design.steps
    pace = sum(seconds) / len(seconds) if seconds else 0.0
    failures = sum(arm["failed"] for arm in arms)
    return Progress(ended, failures, expected, (expected - ended) * mean * pace, arms)


def run(
    study: Study, runs: Runs, workers: Workers, limit: int | None = None,
    report: Callable[[int, int], None] = lambda done, expected: None,
) -> int:  # fmt: skip
    """Run what is due until nothing is, or `limit` runs have ended. Returns the number of runs that have ended.

    Raises PeftonomyError if the study cannot be run; what has ended is in the file then.
    """
    running, tries, started, added = dict[str, Job](), dict[str, int](), 0, 0
    try:
        while True:
            due = [job for job in study.due(runs.done) if job.key not in running]
            for job in due[: max(0, workers.free)]:
                if limit is not None and started >= limit:
                    break
                workers.start(job.key, as_work(study, job))
                running[job.key] = job
                started += 1
            if not running:
                return added
            for key, result in workers.ended():
                job = running.pop(key)
                if isinstance(result, Died):
                    tries[key] = tries.get(key, 0) + 1
                    if tries[key] < TRIES:
                        started -= 1
                        continue
                    result = _lost(study, job, f"{result}, {TRIES} times")
                elif isinstance(result, PeftonomyError):
                    raise result
                elif isinstance(result, Exception):
                    raise TypeError("an outcome is a record or the reason why there is none") from result
                runs.add(result)
                added += 1
                found = progress(study, runs.done)
                report(found.ended, found.expected)
    finally:
        workers.close()


def as_work(study: Study, job: Job) -> dict[str, Any]:
    """Return a job as plain data for another process."""
    return {
        "root": str(study.kb.root.resolve()), "design": study.design.model_dump_json(),
        "folder": str(study.folder.resolve()), "job": job.to_dict(), "bytes": predicted(study, job),
    }  # fmt: skip


def predicted(study: Study, job: Job) -> int | None:
    """Return the bytes that a step of a job needs, by prediction; None if they are unknown."""
    method = job.arm.method or study.design.canary.full
    design = study.design
    try:
        return study.kb[method].memory(
            study.backbone, batch=design.batch, seq=design.seq, dtype="float32", **study.where, **job.arm.setting
        ).peak  # fmt: skip
    except PeftonomyError:
        return None


def _lost(study: Study, job: Job, why: str) -> dict[str, Any]:
    """Return the record of a run whose workers died."""
    nothing = ("value", "loss", "answers", "curve", "trained", "stored", "stored_bytes", "step_seconds", "peak_bytes",
               "predicted_bytes")  # fmt: skip
    return dict.fromkeys(nothing) | {
        "run": job.key, "study": study.design.name, "arm": job.arm.name, "rung": job.rung, "learning_rate": job.rate,
        "asked": job.asked, "hyperparameters": {}, "targets": [], "metric": "accuracy", "error": why, "head": 0,
        "seconds": 0.0, "model": "", "sizes": study.task.sizes, "commonest": study.task.commonest, "versions": {},
        "hardware": {}, "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
