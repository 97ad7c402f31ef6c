"""Find the largest batch, length or size hyperparameter whose training step fits a GPU.

Memory never falls when one of these grows, so the largest that fits is found by bisection over whole numbers, and is
exact: it fits, and the next one does not. The smallest number of GPUs is found by trying each, because with padding one
more GPU can cost memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..costs.table import Table, Tabled
from ..errors import UnknownName, UsageError, shown
from .answer import Training
from .setting import Memory, Setting

__all__ = ["SOLVED", "Change", "Fit", "asked_gpus", "begun", "beside", "checked_gpu", "largest"]

GPUS = "gpus"
NUMBERS = (*range(2, 65), *range(72, 1025, 8))
"""The numbers of GPUs that are tried: all of them, and then whole nodes of eight."""
SOLVED = ("batch", "seq", GPUS)
"""What can be solved for besides hyperparameters that are whole numbers."""
MOST, LEAST = 2**24, 64
"""Where the search ends, and the last value with which it may begin."""
MOST_BYTES = 2**63


@dataclass(frozen=True)
class Change:
    """A single change of the setting, and the largest value that then fits (0: still none)."""

    name: str
    value: int


@dataclass(frozen=True)
class Fit(Tabled):
    """The largest `value` of `solved` that fits into `gpu` bytes, 0 where none does, and the memory that it takes.

    For `gpus` it is the smallest, and 1 means that one GPU is enough, without sharding.

    limited: whether something else than memory is the limit (the model's positions, or a domain). changes: what single
    changes would allow, best first.
    """

    method: str
    solved: str
    value: int
    gpu: int
    limited: bool
    memory: Memory | None
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `fit --json` prints it."""
        return {
            "method": self.method, "solved": self.solved, "value": self.value, "gpu": self.gpu,
            "limited": self.limited, "memory": None if self.memory is None else self.memory.to_dict(),
            "changes": [{"change": c.name, "value": c.value} for c in self.changes],
        }  # fmt: skip

    def table(self) -> Table:
        """Return a table with the largest value, and the value that each single change would allow."""
        values = [("", self.value), *((change.name, change.value) for change in self.changes)]
        rows = [{"change": name, self.solved: value} for name, value in values]
        return Table(rows, caption=f"{self.method} in {self.gpu:,} bytes")


def checked_gpu(gpu: int) -> None:
    """Raise UsageError unless `gpu` is a number of bytes."""
    if type(gpu) is not int or not 0 < gpu <= MOST_BYTES:
        raise UsageError(f"gpu: found {shown(gpu)}; expected bytes, or a size such as 24GiB or 80GB")


def begun(solved: str, *, batch: int | None, seq: int | None, **step: Any) -> Setting:
    """Return the setting with which a search begins. Raises UsageError if what is solved for is given too."""
    _apart(solved, {"batch": batch, "seq": seq})
    return Setting(1 if batch is None else batch, seq, **step)


def _apart(solved: str, given: Mapping[str, Any]) -> None:
    """Raise UsageError if what is solved for is given too. None is no value."""
    if given.get(solved) is not None:
        raise UsageError(f"{solved} is both given and solved for; give one of them")


def asked_gpus(gpus: int | None, solved: str) -> int | None:
    """Return the number of GPUs of a question; any number if it is solved for. Raises UsageError if it is given too."""
    _apart(solved, {GPUS: gpus})
    return int(NUMBERS[0]) if solved == GPUS else gpus


def _check(training: Training, given: Mapping[str, Any], solved: str) -> None:
    """Raise UsageError unless `solved` can be solved for and is not given."""
    specs = training.plan.entry.hyperparameters
    sizes = [name for name, spec in specs.items() if spec.type == "int"]
    if solved not in (*SOLVED, *sizes):
        raise UnknownName("size", solved, [*SOLVED, *sorted(sizes)], f"of {training.plan.id}")
    _apart(solved, training.plan.named(given))
    if solved == "seq" and not training.plan.inventory.reads_tokens:
        name = training.plan.inventory.backbone.id
        raise UsageError(f"seq: {name} reads no tokens, so there is no length to solve for; expected batch or a size")


def largest(training: Training, given: Mapping[str, Any], setting: Setting, solved: str, gpu: int) -> Fit:
    """Return the largest value of `solved` that fits, `gpu_extra` included. Raises UsageError if no value is valid."""
    checked_gpu(gpu)
    _check(training, given, solved)
    if solved != "seq":
        setting = setting.usual(training.plan.inventory)
    if solved == GPUS:
        return _fewest(training, given, setting, gpu)
    value, limited = _solve(training, given, setting, solved, gpu)
    changes = []
    for name, changed in _changes(setting):
        try:
            changes.append(Change(name, _solve(training, given, changed, solved, gpu)[0]))
        except UsageError:  # a method that cannot be trained so
            continue
    better = tuple(sorted((c for c in changes if c.value > value), key=lambda c: -c.value))
    memory = _ask(training, given, setting, solved)(value) if value else None
    return Fit(training.plan.id, solved, value, gpu, limited, memory, better)


def _fewest(training: Training, given: Mapping[str, Any], setting: Setting, gpu: int) -> Fit:
    """Return the smallest number of GPUs on which the step fits, and what single changes would need."""
    sharding = training.sharding
    assert sharding is not None
    if sharding.shard == "ddp":
        raise UsageError("shard: found ddp, under which every rank stores everything; expected fsdp or zero1")
    value, memory = _tried(training, given, setting, gpu)
    changes = []
    for name, changed in _changes(setting):
        with contextlib.suppress(UsageError):  # a method that cannot be trained so
            changes.append(Change(name, _tried(training, given, changed, gpu)[0]))
    better = [c for c in changes if c.value and (not value or c.value < value)]
    ordered = tuple(sorted(better, key=lambda c: c.value))
    return Fit(training.plan.id, GPUS, value, gpu, False, memory, ordered)


def _tried(training: Training, given: Mapping[str, Any], setting: Setting, gpu: int) -> tuple[int, Memory | None]:
    """Return the smallest number of GPUs that fits, with the memory on each; 0 if none does."""
    assert training.sharding is not None
    one = training.shared(None).memory(given, setting)
    if one.peak + one.gpu_extra <= gpu:
        return 1, one
    for number in NUMBERS:
        memory = training.shared(replace(training.sharding, gpus=number)).memory(given, setting)
        if memory.peak + memory.gpu_extra <= gpu:
            return number, memory
    return 0, None


def beside(fits: Sequence[Fit]) -> list[Fit]:
    """Return several methods, best first. A method that allows a larger batch or length is listed as a change."""
    if fits[0].solved == GPUS:
        return sorted(fits, key=lambda f: f.value or NUMBERS[-1] + 1)
    ranked = sorted(fits, key=lambda f: -f.value)
    best = Change(f"method {ranked[0].method}", ranked[0].value)
    return [
        replace(f, changes=tuple(sorted((*f.changes, best), key=lambda c: -c.value)))
        if f.solved in SOLVED and f.value < best.value else f
        for f in ranked
    ]  # fmt: skip


def _ask(training: Training, given: Mapping[str, Any], setting: Setting, solved: str) -> Callable[[int], Memory]:
    if solved == "batch":
        return lambda value: training.memory(given, replace(setting, batch=value))
    if solved == "seq":
        return lambda value: training.memory(given, replace(setting, seq=value))
    return lambda value: training.memory({**given, solved: value}, setting)


def _solve(training: Training, given: Mapping[str, Any], setting: Setting, solved: str, gpu: int) -> tuple[int, bool]:
    """Return the largest value that fits, and whether something other than memory limits it."""
    ask = _ask(training, given, setting, solved)

    def fits(value: int) -> bool:
        memory = ask(value)
        return memory.peak + memory.gpu_extra <= gpu

    low, good = _least(fits)
    if not good:
        return 0, False
    high, limited = 2 * low, False
    while high <= MOST:
        try:
            if not fits(high):
                break
        except UsageError:  # beyond the model's positions, or out of the domain
            limited = True
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        try:
            good = fits(middle)
            limited = limited and good
        except UsageError:
            good, limited = False, True
        low, high = (middle, high) if good else (low, middle)
    return low, limited


def _least(fits: Callable[[int], bool]) -> tuple[int, bool]:
    """Return the smallest valid value and whether it fits; not every size may be 1. Raises UsageError."""
    for value in range(1, LEAST):
        try:
            return value, fits(value)
        except UsageError:
            continue
    return 1, fits(1)


def _changes(setting: Setting) -> Iterator[tuple[str, Setting]]:
    if not setting.checkpointing:
        yield "checkpointing", replace(setting, checkpointing=True)
    if setting.quantized is None:
        yield "quantized nf4", replace(setting, quantized="nf4")
    if setting.dtype == "float32":
        yield "dtype bfloat16", replace(setting, dtype="bfloat16")
    if setting.attention == "eager":
        yield "attention sdpa", replace(setting, attention="sdpa")
    if not setting.optimizer.endswith("8bit") and "adamw" in setting.optimizer:
        yield "optimizer adamw-8bit", replace(setting, optimizer="adamw-8bit")
