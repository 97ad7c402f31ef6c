"""The runs of a study: its arms, and the runs that are due after those that have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..knowledge import choose, size
from ..schema.names import LABELLED
from ..schema.runs import key
from .parts import Task, read_task

if TYPE_CHECKING:
    from ..catalogue.records import ModelLike
    from ..knowledge.base import KnowledgeBase, Method
    from ..schema.design import Design
    from ..schema.runs import Record

__all__ = ["FROZEN", "REVERSED", "Arm", "Job", "Study", "model_place", "tokens"]

FROZEN, REVERSED = "frozen", "reversed"
"""The controls: only the head is trained, and updates with the wrong sign."""
Control = Literal["frozen", "reversed"]
PROTOCOL = 1
"""Part of the key of a run. A change of the training that changes results needs a new number."""
MOST = 4096
"""The largest size that is tried for a budget."""


@dataclass(frozen=True)
class Arm:
    """One row of a study: a method with a setting, or a control. method: None if only the head is trained."""

    name: str
    method: str | None
    setting: Mapping[str, Any]
    control: Control | None = None


@dataclass(frozen=True)
class Job:
    """One run. All that its numbers depend on, apart from versions and hardware, is in `asked`."""

    arm: Arm
    split: Literal["validation", "test"]
    rung: int | None
    rate: float | None
    seed: int
    steps: int
    shared: Mapping[str, Any]
    """The model, the task and the training, the same for all runs of a study."""
    measured: bool = False
    """True if the memory of a step is measured too. It is not part of the key."""

    @property
    def asked(self) -> dict[str, Any]:
        """The content of the key."""
        arm = {"method": self.arm.method, "setting": dict(self.arm.setting), "control": self.arm.control}
        run = {"split": self.split, "learning_rate": self.rate, "seed": self.seed, "steps": self.steps}
        return {"protocol": PROTOCOL, **arm, **run, **self.shared}

    @cached_property
    def key(self) -> str:
        """The name of the run, which two runs share only if they are the same."""
        return key(self.asked)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for another process."""
        return asdict(self) | {"key": self.key, "asked": self.asked}


def tokens(design: Design) -> int:
    """Return the tokens of a sequence of text."""
    assert design.seq is not None
    return design.seq


class Study:
    """A design with its arms, laid out on the model.

    refused: the arms that cannot run, each with the reason. folder: where relative paths of the design begin. only:
    methods. revision: the digest of the examples if it is known from finished runs; the examples are not read then.
    """

    def __init__(
        self, kb: KnowledgeBase, design: Design, folder: Path, only: Sequence[str] = (), revision: str | None = None
    ):
        self.kb, self.design, self.folder, self._revision = kb, design, folder, revision
        for method in [*design.set, *design.baselines]:
            kb[method]      # raises UnknownName
        self.refused: dict[str, str] = {}
        self.arms = list(self._arms())
        known = {arm.method for arm in self.arms} | {name.partition("@")[0] for name in self.refused}
        for method in only:
            if kb[method].id not in known:
                raise UsageError(f"{method} is not in the study {design.name}")
        self.wanted = [arm for arm in self.arms if not only or (arm.control is None and arm.method in only)]

    @cached_property
    def task(self) -> Task:
        """The examples. Raises DataError."""
        return read_task(self.design.task, self.folder)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What all runs share, as in their keys."""
        names = ("batch", "seq", "head_rate", "weight_decay", "warmup", "calibration")
        task, model = self.design.task.model_dump(exclude={"folder", "file"}), self.design.model.model_dump()
        for part, later in ((task, ("words", "prompt")), (model, ("gguf", "pretraining"))):
            for name in later:      # so that the keys of runs stay that are older than these settings
                if part[name] is None:
                    del part[name]
        task["revision"] = self._revision or self.task.revision
        return {"model": model, "task": task} | {name: getattr(self.design, name) for name in names}

    def _arms(self) -> Iterator[Arm]:
        design = self.design
        asked = {FROZEN: design.canary.full, REVERSED: design.canary.reversed}
        yield Arm(FROZEN, None, {}, "frozen")
        first = [*design.baselines, *asked.values(), *design.methods]
        found = self.kb.query(design.where).ids if design.where is not None else ()
        rest = sorted(found, key=lambda method: (choose.use(self.kb[method]), method))
        for method in dict.fromkeys([*first, *rest]):
            for arm in self._settings(self.kb[method]):
                try:
                    self._check(arm)
                except UsageError as error:
                    if method in first[: len(first) - len(design.methods)]:
                        raise
                    self.refused[arm.name] = str(error)
                    continue
                yield arm
                if arm.name == design.canary.reversed:
                    yield Arm(REVERSED, arm.method, arm.setting, "reversed")

    def _settings(self, method: Method) -> Iterator[Arm]:
        given = dict(self.design.set.get(method.id, {}))
        yield Arm(method.id, method.id, given)
        for budget in self.design.budgets:
            name = f"{method.id}@{budget}"
            try:
                yield Arm(name, method.id, given | self._within(method, given, budget))
            except UsageError as error:
                self.refused[name] = str(error)

    def _check(self, arm: Arm) -> None:
        """Raise UsageError for an arm that cannot run on the model."""
        assert arm.method is not None
        cost = self.kb[arm.method].cost(self.backbone, **self.where, **arm.setting)
        if not cost.trained:
            raise UsageError(f"{arm.method} trains nothing: it combines parts that were trained before")
        recipes = [part.entry.memory for part in self.kb[arm.method].parts]
        if any(recipe is not None and recipe.forward_only for recipe in recipes):
            raise UsageError(f"{arm.method} trains without a backward pass, which studies do not cover")

    @cached_property
    def where(self) -> dict[str, Any]:
        """The task, as for `Method.on`. Counts of a method without the head do not depend on the labels."""
        asked = self.design.task.asks
        labelled = asked in LABELLED and self._revision is None
        return {"task": asked} | ({"num_labels": self.task.labels} if labelled else {})

    @cached_property
    def backbone(self) -> ModelLike:
        """The model, as for `Method.on`. Raises UsageError."""
        known = self.design.configuration
        return self.kb.backbone(model_place(self.design, self.folder) if known is None else known)

    def _within(self, method: Method, given: Mapping[str, Any], budget: int) -> dict[str, int]:
        """Return the largest size of a method within a budget of trained parameters. Raises UsageError."""
        import numpy as np

        name = size.hyperparameter(method, [self.backbone])
        if not name or name in given:
            raise UsageError(f"{method.id} has no size to solve for")
        values = np.arange(1, MOST + 1)
        trained = method.sweep(self.backbone, **self.where, **given, **{name: values}).trained
        counts = np.ma.filled(np.ma.asarray(trained), 2**62)
        fitting = np.flatnonzero(counts <= budget)
        if not len(fitting) or 2 * counts[fitting].max() <= budget:
            found = f"{int(counts[fitting].max()):,} at most" if len(fitting) else f"{int(counts.min()):,} at least"
            raise UsageError(f"{method.id} trains {found}; expected {budget // 2:,} to {budget:,}")
        return {name: int(values[fitting[counts[fitting].argmax()]])}

    # The runs

    def jobs(self, arm: Arm, done: Mapping[str, Record]) -> list[Job]:
        """Return the runs of an arm that are known to be needed, those that have ended included."""
        return [job for jobs in self._rounds(arm, done) for job in jobs]

    def tests(self, arm: Arm, done: Mapping[str, Record]) -> list[Job]:
        """Return the test runs of an arm; none before its learning rate is known."""
        rounds = list(self._rounds(arm, done))
        return rounds[-1] if rounds and rounds[-1] and rounds[-1][0].split == "test" else []

    def due(self, done: Mapping[str, Record]) -> list[Job]:
        """Return the runs that can start now, in their order."""
        jobs = [job for arm in self.wanted for job in self.jobs(arm, done) if job.key not in done]
        return list({job.key: job for job in jobs}.values())

    def expected(self, arm: Arm) -> int:
        """Return the number of runs of an arm of which none fails."""
        tuned = 0 if arm.control else len(self.design.tuning.rates) + sum(r.keep or 0 for r in self.design.tuning.rungs)
        return tuned + len(self.design.seeds)

    def first_round(self, arm: Arm) -> list[Job]:
        """Return the runs with every learning rate; none for a control."""
        rounds = self._rounds(arm, {})
        return next(rounds, []) if arm.control is None else []

    def _rounds(self, arm: Arm, done: Mapping[str, Record]) -> Iterator[list[Job]]:
        rate: float | None = None
        if arm.control == "reversed":
            (model,) = (one for one in self.arms if one.control is None and one.name == self.design.canary.reversed)
            tests = self.tests(model, done)
            if not tests:
                return
            rate = tests[0].rate
        elif arm.control is None:
            rates: list[float] = self.design.tuning.rates
            for number, rung in enumerate(self.design.tuning.rungs):
                steps = max(1, round(rung.share * self.design.steps))
                jobs = [self._job(arm, "validation", number, r, self.design.tuning.seed, steps) for r in rates]
                yield jobs
                ended = [done[job.key] for job in jobs if job.key in done]
                if len(ended) < len(jobs):
                    return
                later = self.design.tuning.rungs[number + 1 : number + 2]
                rates = best(ended, (later[0].keep or 1) if later else 1)
                if not rates:
                    return
            rate = rates[0]
        yield [self._job(arm, "test", None, rate, seed, self.design.steps) for seed in self.design.seeds]

    def _job(
        self, arm: Arm, split: Literal["validation", "test"], rung: int | None, rate: float | None, seed: int,
        steps: int,
    ) -> Job:  # fmt: skip
        measured = "memory" in self.design.record and split == "test" and seed == self.design.seeds[0]
        return Job(arm, split, rung, rate, seed, steps, self.shared, measured and arm.control is None)


def best(ended: Sequence[Record], keep: int) -> list[float]:
    """Return the learning rates of the best runs, best first. The loss decides between equal values."""
    sound = [r for r in ended if r.value is not None and r.loss is not None and r.learning_rate is not None]
    ranked = sorted(sound, key=lambda r: (-(r.value or 0.0), r.loss or 0.0, r.learning_rate or 0.0))
    return [r.learning_rate for r in ranked[:keep] if r.learning_rate is not None]


def model_place(design: Design, folder: Path) -> str | Path | Mapping[str, Any]:
    """Return the model of a design, as for `Method.on`. Raises UsageError for a package that is not installed."""
    model = design.model
    if model.config is not None:
        return model.config
    if model.checkpoint is not None:
        path = folder / model.checkpoint
        return path if path.is_dir() else model.checkpoint
    assert model.package is not None
    try:
        spec = find_spec(model.package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise UsageError(f"the study needs the package {model.package.replace('_', '-')}, which is not installed")
    return Path(spec.origin).parent / (model.folder or "")
