"""The model states and buffers of DeepSpeed's ZeRO-2 and ZeRO-3, read from its source and not run.

There is no peak: what ZeRO-3 gathers depends on the trace of a run. Beside the states is what DeepSpeed's own estimator
prints, which counts frozen weights as trained. The source is that of version 0.16.5, at commit 38327e0:
`deepspeed/runtime/zero/stage_1_and_2.py`, `stage3.py` and `config.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..costs.table import Table, Tabled
from ..errors import UsageError, shown
from ..schema.base import Value
from .program import module_path
from .sharding import checked_gpus

if TYPE_CHECKING:
    from ..costs.plan import Plan

__all__ = ["STAGES", "DeepSpeed", "Part", "deepspeed"]

STAGES = (2, 3)
BUCKET, PERSISTENT = 500_000_000, 100_000
"""The defaults of `reduce_bucket_size` and `stage3_param_persistence_threshold`, in numbers."""
HALF, SINGLE = 2, 4
SOURCE = "from DeepSpeed's source (0.16.5), not run; no peak: activations and what ZeRO-3 gathers are not included"
WHY = (
    "DeepSpeed's estimator counts every parameter as trained: 18 bytes for each of them are divided among the GPUs, "
    "frozen or not. It includes no bucket"
)


class Part(NamedTuple):
    """Bytes of one kind on one GPU, and when they are there: always, in the backward pass, or in the update."""

    name: str
    bytes: int
    when: str


@dataclass(frozen=True)
class DeepSpeed(Tabled):
    """Model states and buffers of one GPU, for weights in half precision and Adam in float32.

    trained, frozen: parameters. states: bytes that are always there. estimator: bytes that DeepSpeed's own estimator
    prints, without offload. source, why: where the parts come from, and why the estimator differs.
    """

    method: str
    model: str
    hyperparameters: dict[str, Value]
    stage: int
    gpus: int
    reduce_bucket_size: int
    trained: int
    frozen: int
    parts: tuple[Part, ...]
    estimator: int
    source: str = SOURCE
    why: str = WHY

    @property
    def states(self) -> int:
        """Return the bytes that are always there."""
        return sum(part.bytes for part in self.parts if part.when == "always")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `deepspeed --json` prints it."""
        return {
            "method": self.method, "model": self.model, "hyperparameters": dict(self.hyperparameters),
            "stage": self.stage, "gpus": self.gpus, "reduce_bucket_size": self.reduce_bucket_size,
            "trained": self.trained, "frozen": self.frozen, "parts": [part._asdict() for part in self.parts],
            "states": self.states, "estimator": self.estimator, "source": self.source, "why": self.why,
        }  # fmt: skip

    def table(self) -> Table:
        """Return a table with one row per part."""
        return Table([part._asdict() for part in self.parts], caption=f"ZeRO-{self.stage}, {self.source}")


def deepspeed(
    plan: Plan, given: Mapping[str, Any], gpus: int, stage: int, reduce_bucket_size: int = BUCKET
) -> DeepSpeed:
    """Return the model states and buffers of a method under ZeRO. Raises UsageError."""
    checked_gpus(gpus)
    if stage not in STAGES:
        raise UsageError(f"stage: found {shown(stage)}; expected {' or '.join(map(str, STAGES))}")
    if type(reduce_bucket_size) is not int or reduce_bucket_size < 1:
        raise UsageError(f"reduce_bucket_size: found {shown(reduce_bucket_size)}; expected a whole number from 1")
    values = plan.values(given)
    tensors = list(_tensors(plan, values))
    trained = sum(t * n for _, t, n in tensors)
    total = sum(numel * n for numel, _, n in tensors)
    frozen, part = total - trained, -(-trained // gpus)
    bucket = Part("bucket of gradients", HALF * reduce_bucket_size, "backward" if stage == 2 else "always")
    adam = Part("trained weights and moments in float32", 3 * SINGLE * part, "always")
    if stage == 2:
        parts = [
            Part("frozen weights", HALF * frozen, "always"), Part("trained weights", HALF * trained, "always"), adam,
            Part("gradients", HALF * part, "backward"), bucket,
        ]  # fmt: skip
        estimator = HALF * total + 18 * total // gpus
    else:
        whole = sum(numel * n for numel, _, n in tensors if numel <= PERSISTENT)
        parts = [
            Part("weights", HALF * -(-(total - whole) // gpus), "always"),
            Part("small weights, whole", HALF * whole, "always"), adam,
            Part("gradients", HALF * part, "always"), bucket,
        ]  # fmt: skip
        largest = max((m.numel // m.count for m in plan.inventory.modules), default=0)
        estimator = SINGLE * largest + 18 * total // gpus
    parts.append(Part("gradients in float32", SINGLE * part, "update"))
    return DeepSpeed(
        plan.id, plan.inventory.backbone.id, dict(values), stage, gpus, reduce_bucket_size, trained, frozen,
        tuple(parts), estimator,
    )  # fmt: skip


def _tensors(plan: Plan, values: Mapping[str, Value]) -> Iterator[tuple[int, int, int]]:
    """Yield the parameters, equal ones together: their entries, those of them that require a gradient, their number."""
    selected: dict[tuple[str, str], set[int]] = {}
    for row in plan.each(values):
        if not row.piece.tensor.selecting:
            if row.learns or row.piece.tensor.served != "absent":
                yield row.count, row.count if row.learns else 0, row.n
        elif row.learns:
            for _, spot in row.piece.group.spots:
                layers = spot.layers if row.layers is None else row.layers.intersection(spot.layers)
                selected.setdefault((module_path(spot), spot.suffix), set()).update(layers or (-1,))
    for module in plan.inventory.modules:
        for suffix, shape in module.parameters:
            chosen = selected.get((module.path, suffix), set())
            trains = module.count if not module.pretrained else len(chosen.intersection(module.layers or (-1,)))
            numel = math.prod(shape)
            if trains:
                yield numel, numel, trains
            if trains < module.count:
                yield numel, 0, module.count - trains
