"""How several GPUs share a training step: the setting, and the memory of one rank."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import UsageError, chosen, shown
from .optimizer import Trained, Update
from .optimizer import update as updated
from .setting import DTYPES, PARTS, Memory, Optimizer, Setting

__all__ = [
    "MOST_GPUS", "NOT_COVERED", "OPTIONS", "REDUCED", "RUN", "SHARD", "STORAGE", "RankMemory", "Sharding", "checked",
    "checked_gpus", "divided", "reduce_width", "sharding", "share",
]  # fmt: skip  # fmt: skip

SHARD = {
    "fsdp": "FSDP2: parameters, gradients and optimizer states are sharded, layer by layer",
    "ddp": "DistributedDataParallel: every rank stores everything",
    "zero1": "DistributedDataParallel with torch's ZeroRedundancyOptimizer: the optimizer states are divided",
}
REDUCED = {"float32": 4, "bfloat16": 2}
"""Bytes per entry of the type in which gradients are reduced."""
STORAGE = {"bfloat16": "sharded", "uint8": "whole on every rank"}
"""The type that holds 4-bit weights, and what FSDP2 does with them."""
MOST_GPUS = 2**16
NOT_COVERED = (
    "CPU offload, hybrid sharding (HSDP), tensor and pipeline parallelism, FSDP1, memory that the allocator reserves, "
    "buffers of the communication library"
)
"""What a prediction for several GPUs leaves out."""
OPTIONS = ("gpus", "shard", "reshard_after_forward", "reduce_dtype", "quant_storage")
"""The arguments of `memory` that say how several GPUs share a step."""
RUN = ("adamw", "adamw-foreach", "sgd")
"""The optimizers that were run on sharded parameters."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """The number of GPUs and how they share the step. Each GPU (rank) has a batch of its own.

    shard: fsdp, ddp or zero1. For fsdp only: reshard_after_forward: release a layer's gathered parameters after its
    forward pass. reduce_dtype: the type in which gradients are reduced; by default that of the trained parameters.
    quant_storage: the type that holds nf4 weights; bitsandbytes' own default is uint8, which cannot be sharded.
    """

    gpus: int
    shard: str = "fsdp"
    reshard_after_forward: bool | None = None
    reduce_dtype: str | None = None
    quant_storage: str | None = None

    def __post_init__(self) -> None:
        checked_gpus(self.gpus)
        chosen("shard", self.shard, SHARD)
        if type(self.reshard_after_forward) not in (bool, type(None)):
            found = shown(self.reshard_after_forward)
            raise UsageError(f"reshard_after_forward: found {found}; expected True or False")
        for name, known in (("reduce_dtype", REDUCED), ("quant_storage", STORAGE)):
            if (given := getattr(self, name)) is not None:
                chosen(name, given, dict.fromkeys(known))
        if self.shard != "fsdp":
            for name in ("reshard_after_forward", "reduce_dtype", "quant_storage"):
                if getattr(self, name) is not None:
                    raise UsageError(f"{name} has no meaning for shard {self.shard}; it is an option of fsdp")

    @property
    def reshards(self) -> bool:
        """Return True if gathered parameters are released after the forward pass."""
        return self.reshard_after_forward is not False


def checked_gpus(gpus: int) -> None:
    """Raise UsageError unless this is a number of several GPUs."""
    if type(gpus) is not int or not 2 <= gpus <= MOST_GPUS:
        raise UsageError(f"gpus: found {shown(gpus)}; expected a whole number from 2 to {MOST_GPUS:,}")


def sharding(gpus: int | None, shard: str | None = None, **options: Any) -> Sharding | None:
    """Return how several GPUs share a step; None for one GPU. Raises UsageError for an option that needs several."""
    if gpus is not None:
        return Sharding(gpus, **options) if shard is None else Sharding(gpus, shard, **options)
    for name, given in {"shard": shard, **options}.items():
        if given is not None:
            raise UsageError(f"{name} has no meaning for one GPU; give gpus as well, a whole number from 2")
    return None


@dataclass(frozen=True)
class RankMemory(Memory):
    """Bytes of one training step on the rank that takes the most.

    weights: the rank's shards, and what is not sharded. gathered: parameters that were gathered from the other ranks.
    communication: buffers of collectives. The other parts are those of `Memory`.
    """

    sharding: Sharding
    gathered: int
    communication: int

    parts: ClassVar[tuple[str, ...]] = (PARTS[0], "gathered", "communication", *PARTS[1:])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `memory --json` prints it."""
        how = self.sharding
        told = {"gpus": how.gpus, "shard": how.shard}
        if how.shard == "fsdp":
            told["reshard_after_forward"] = how.reshards
            told["reduce_dtype"] = how.reduce_dtype or reduced(self.setting)
            if self.setting.quantized:
                told["quant_storage"] = how.quant_storage or "bfloat16"
        return super().to_dict() | told | {"not_covered": NOT_COVERED}


def share(rows: Any, gpus: Any) -> Any:
    """Return the rows of a rank's shard: FSDP2 pads the first dimension to a multiple of the number of ranks."""
    return (rows + gpus - 1) // gpus


def reduced(setting: Setting) -> str:
    """Return the type in which gradients are reduced by default: that of the trained parameters."""
    return "float32" if setting.dtype == "mixed" else setting.dtype


def checked(setting: Setting, sharding: Sharding) -> None:
    """Raise UsageError for a setting that is not covered on several GPUs."""
    if sharding.shard != "ddp" and setting.optimizer not in RUN:
        raise UsageError(
            f"optimizer: found {setting.optimizer}; with shard {sharding.shard} expected {', '.join(RUN[:-1])} or "
            f"{RUN[-1]}"
        )
    if sharding.shard != "fsdp":
        return
    if setting.quantized == "int8":
        raise UsageError("quantized: found int8, which FSDP2 does not shard; expected nf4 or none")
    if sharding.quant_storage is not None and setting.quantized is None:
        raise UsageError("quant_storage has no meaning without quantized nf4")


def divided(update: Optimizer, tensors: Iterable[Trained], gpus: int) -> Update:
    """Return the optimizer's memory on the rank that takes the most under torch's ZeroRedundancyOptimizer.

    It sorts the tensors by size and gives each to the rank that has the fewest entries so far.
    """
    ranks: list[tuple[int, int]] = [(0, rank) for rank in range(gpus)]
    given: list[list[Trained]] = [[] for _ in ranks]
    for one in sorted(tensors, key=lambda one: -math.prod(one.shape)):
        for _ in range(one.number):
            entries, rank = ranks[0]
            given[rank].append(one._replace(number=1))
            heapq.heapreplace(ranks, (entries + math.prod(one.shape), rank))
    found = []
    for mine in given:
        sizes = [math.prod(one.shape) * one.width for one in mine]
        found.append(updated(update, mine, zip(sizes, [0, *sizes], strict=False)))
    return max(found, key=lambda one: one.states + one.temporary)


def reduce_width(setting: Setting, sharding: Sharding) -> int:
    """Return the bytes per entry in which gradients are reduced."""
    return DTYPES[setting.dtype][1] if sharding.reduce_dtype is None else REDUCED[sharding.reduce_dtype]
