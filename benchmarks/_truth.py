"""What a real training step on the CPU allocates, to hold the simulation against: small models of three architectures.

The truth is what PyTorch's profiler writes down of every allocation and release, those inside of kernels included. The
first step, with which the optimizer's states come to be, is not profiled; what it leaves is counted storage by storage.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

import peftonomy
from reference_impls import _simulate

__all__ = ["ASKED", "FOUND", "INSIDE", "MODELS", "SUMMED", "TOLERANCE", "Truth", "cases", "compare", "explained"]

ASKED = ("method", "model", "attention", "checkpointing")
FOUND = ("simulated", "counted", "profiled", "error", "inside")
TOLERANCE = 1e-3
"""How far, relatively, a simulated peak may be from a profiled one: temporaries inside of kernels are not simulated."""
EXCEPTIONS = Path(__file__).parent / "memory" / "exceptions.tsv"


def reasons(column: str) -> dict[str, str]:
    """The exceptions that a column tells: its value, and the reason."""
    lines = [line for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = csv.DictReader(lines, delimiter="\t")
    return {row["value"]: row["reason"] for row in found if (row["table"], row["column"]) == ("truth", column)}


INSIDE = reasons("inside")
"""Operations inside of which a profiled peak may exceed the simulated one by more, and why."""
SUMMED = reasons("method")
"""Methods whose simulated peak may be higher by more, and why."""
MODELS: dict[str, dict[str, Any]] = {
    "roberta": {
        "model_type": "roberta", "vocab_size": 2000, "hidden_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 6, "intermediate_size": 640, "max_position_embeddings": 514,
    },
    "t5": {
        "model_type": "t5", "vocab_size": 2000, "d_model": 192, "num_layers": 2, "num_heads": 6, "d_kv": 32,
        "d_ff": 640,
    },
    "llama": {
        "model_type": "llama", "vocab_size": 2000, "hidden_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 448, "max_position_embeddings": 512,
    },
}  # fmt: skip
DTYPES = {"roberta": "float32", "t5": "float32", "llama": "bfloat16"}


@dataclass(frozen=True)
class Truth:
    """One case: the peaks in bytes that were simulated, counted on real tensors, and profiled.

    inside: the operation during which the profiled peak came.
    """

    simulated: int
    counted: int
    profiled: int
    inside: str

    @property
    def error(self) -> float:
        return self.simulated / self.profiled - 1


def explained(method: str, error: float, inside: str) -> bool:
    """Whether a peak is as profiled, or differs for one of the known reasons."""
    return abs(error) < TOLERANCE or (method in SUMMED if error > 0 else inside in INSIDE)


def cases(methods: Sequence[str], kb: peftonomy.KnowledgeBase) -> Iterator[dict[str, Any]]:
    """Every method on every model that it fits, with both kinds of attention, with and without checkpointing."""
    for method in methods:
        for model, config in MODELS.items():
            try:
                kb[method].cost(config)
            except peftonomy.UsageError:
                continue
            for attention in _simulate.ATTENTION:
                for checkpointing in (False, True):
                    yield {"method": method, "model": model, "attention": attention, "checkpointing": checkpointing}


def compare(kb: peftonomy.KnowledgeBase, case: dict[str, Any], *, batch: int = 4, seq: int = 48) -> Truth:
    """Simulate a case and run it."""
    setup = _simulate.Setup.of(
        kb, case["method"], MODELS[case["model"]], batch=batch, seq=seq, dtype=DTYPES[case["model"]],
        optimizer="adamw", checkpointing=case["checkpointing"], attention=case["attention"], targets=None, task=None,
        hyperparameters={},
    )  # fmt: skip
    with _simulate.fake():
        simulated = _simulate.measured(setup)
    counted = _simulate.measured(setup)
    added, inside = profiled(setup)
    return Truth(simulated.peak, counted.peak, counted.before + added, inside)


def profiled(setup: _simulate.Setup) -> tuple[int, str]:
    """By how many bytes the second step exceeds at most what was allocated when it began, and in which operation."""
    with _simulate.conventions():
        training = _simulate.Training(setup)
        training.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            training.step()
    most, inside, now = 0, "", 0
    for size, operation in allocations(profiler):
        now += size
        if now > most:
            most, inside = now, operation
    return most, inside


def allocations(profiler: profile) -> list[tuple[int, str]]:
    """The bytes of every allocation, and below zero of every release, each with its operation, in order."""
    found = []
    waiting = [(event, "") for event in cast(Any, profiler).profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, operation = waiting.pop()
        kind, fields = event.typed
        if kind == torch._C._profiler._EventType.Allocation:
            found.append((event.start_time_ns, fields.alloc_size, operation))
        operation = operation or (event.name if event.name.startswith("aten::") else "")
        waiting += [(child, operation) for child in event.children]
    return [(size, operation) for _, size, operation in sorted(found)]
