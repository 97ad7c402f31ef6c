"""Simulate what one rank of FSDP2 holds during a training step, to the byte, without a second process.

`fully_shard` runs unchanged on fake tensors: the process group is torch's "fake" one, in which a collective returns at
once. Each layer is one group, and the root module holds the rest. The dispatch mode of `_simulate` follows the storages
of rank 0, which has the largest shards.

The real runs of `benchmarks/ranks.py` use the same functions in two processes, with real tensors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import transformers
from torch import Tensor
from torch._guards import active_fake_mode
from torch.distributed._tools import fake_collectives  # noqa: F401  registers collectives for fake tensors
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from peftonomy import KnowledgeBase, UsageError

from . import _simulate
from ._simulate import Block, Memory, Setup, Simulation, Training

__all__ = ["Sharded", "ShardedMemory", "ShardedTraining", "layer_paths", "measured", "ranks", "several", "simulate"]

REDUCED = {"float32": torch.float32, "bfloat16": torch.bfloat16, None: None}


@dataclass(frozen=True)
class Sharded:
    """How FSDP2 shards a model: the ranks, and the options of `fully_shard`."""

    gpus: int
    reshard_after_forward: bool = True
    reduce_dtype: str | None = None


def simulate(kb: KnowledgeBase, method: str, model: str | Path | Mapping[str, Any], **given: Any) -> Simulation:
    """Simulate one training step of a method on rank 0. Every rank has a batch of its own. See `several`."""
    return several(kb, method, model, (), **given)[0]


def several(
    kb: KnowledgeBase, method: str, model: str | Path | Mapping[str, Any], more: Sequence[tuple[int, int, bool]], *,
    gpus: int, batch: int, seq: int, reshard_after_forward: bool = True, reduce_dtype: str | None = None,
    dtype: str = "bfloat16", optimizer: str = "adamw", checkpointing: bool = False, attention: str = "sdpa",
    targets: Sequence[str] | None = None, task: str | None = None, num_labels: int = 2, allocate: bool = False,
    **hyperparameters: Any,
) -> list[Simulation]:  # fmt: skip
    """Simulate a training step on rank 0 of `gpus` ranks, and then one for each of `more`.

    more: another batch, another length and another `reshard_after_forward` for the same model. dtype `mixed` is FSDP2's
    mixed precision: trained shards in float32, everything gathered and computed in bfloat16. Operations are not
    counted. allocate: run on real tensors, whose values are without meaning. It takes the same bytes, and less time for
    a small model. Raises UsageError for a setting that is not possible.
    """
    setup = Setup.of(
        kb, method, model, batch=batch, seq=seq, dtype=dtype, optimizer=optimizer, checkpointing=checkpointing,
        attention=attention, targets=targets, task=task, num_labels=num_labels, hyperparameters=hyperparameters,
    )  # fmt: skip
    paths = layer_paths(kb, model, setup.question.task, num_labels)
    with ranks(gpus) as mesh, contextlib.nullcontext() if allocate else _simulate.fake():
        return measured(setup, paths, mesh, Sharded(gpus, reshard_after_forward, reduce_dtype), more)


def layer_paths(kb: KnowledgeBase, model: Any, task: str, num_labels: int = 2) -> list[str]:
    """Return the names of the modules that are layers, stack by stack in their order."""
    found: dict[str, None] = {}
    inventory = kb.backbone(model).inventory(task, num_labels)
    for stack in inventory.stacks:
        inside = [m for m in inventory.modules if m.stack == stack and "{layer}" in m.path]
        for number in sorted({n for m in inside for n in m.layers}):
            for m in inside:
                if number in m.layers:
                    found[m.path.split("{layer}")[0] + str(number)] = None
    return list(found)


@contextlib.contextmanager
def ranks(gpus: int) -> Iterator[DeviceMesh]:
    """Make this process rank 0 of a fake process group inside this context."""
    dist.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (gpus,))
    finally:
        dist.destroy_process_group()


class ShardedTraining(Training):
    """A training whose model is sharded, layer by layer."""

    def __init__(self, setup: Setup, paths: Sequence[str], mesh: DeviceMesh, sharded: Sharded):
        self.paths, self.mesh, self.sharded = paths, mesh, sharded
        super().__init__(setup)

    def _built(self, setup: Setup) -> transformers.PreTrainedModel:
        model = super()._built(setup)
        if any(not p.dim() for p in model.parameters()):
            raise UsageError(f"{self.question.method}: FSDP2 refuses scalar parameters")
        options: dict[str, Any] = {"mesh": self.mesh}
        reduced = REDUCED[self.sharded.reduce_dtype]
        if self.question.dtype == "mixed":
            options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, reduced or torch.float32)
        elif reduced is not None:
            options["mp_policy"] = MixedPrecisionPolicy(None, reduced)
        for path in self.paths:
            fully_shard(
                model.get_submodule(path), reshard_after_forward=self.sharded.reshard_after_forward, **options
            )
        fully_shard(model, **options)
        cast(FSDPModule, model).set_force_sum_reduction_for_comms(True)     # gloo and the fake group have no average
        return model

    def change(self, batch: int, seq: int, reshards: bool) -> None:
        """Train with another batch and length from now on, and reshard after the forward pass or not."""
        self.question = replace(self.question, batch=batch, seq=seq)
        self.given = self._batch()
        for path in self.paths:
            cast(FSDPModule, self.model.get_submodule(path)).set_reshard_after_forward(reshards, recurse=False)

    def loss(self) -> Tensor:
        """Run the forward pass. FSDP2's policy takes the place of autocast."""
        return cast(Tensor, self.model(**self.given).loss)


class ShardedMemory(Memory):
    """Follow also storages that change their size, as FSDP2 releases and restores gathered parameters.

    DTensors are passed on to their local tensors. Tensors of another fake mode are not counted: DTensor makes them to
    find out how an operation shards.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mode = active_fake_mode()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        if active_fake_mode() is not self._mode:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def __enter__(self) -> Any:
        storages: Any = torch.UntypedStorage
        self._resize: Any = storages.resize_
        storages.resize_ = lambda storage, size: self._resized(storage, size)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        storages: Any = torch.UntypedStorage
        storages.resize_ = self._resize
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _resized(self, storage: torch.UntypedStorage, size: int) -> Any:
        if (found := self._live.get(storage._cdata)) is not None:
            old, reference = found
            new = Block(int(size))
            new.part = old.part
            self._live[storage._cdata] = new, reference
            self._log += [(old, -1), (new, 1)]
        return self._resize(storage, size)

    def mark(self, part: str, tensors: Any = None) -> int:
        """Assign storages to a part; those of a DTensor's local tensor."""
        if tensors is not None:
            tensors = [x._local_tensor if isinstance(x, DTensor) else x for x in tree_leaves(tensors)]
        return super().mark(part, tensors)


def measured(
    setup: Setup, paths: Sequence[str], mesh: DeviceMesh, sharded: Sharded, more: Sequence[tuple[int, int, bool]] = ()
) -> list[Simulation]:
    """Measure the second step on this rank, and after it a step for each further batch, length and resharding."""
    with warnings.catch_warnings(), _simulate.conventions(), ShardedMemory() as memory:
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")   # that returns a view; nothing changes it in place
        training = ShardedTraining(setup, paths, mesh, sharded)
        found = [_simulate.second(training, memory, counts=False)]
        for batch, seq, reshards in more:
            training.change(batch, seq, reshards)
            found.append(_simulate.step(training, memory))
        return found


class Replicated(Training):
    """A training under DistributedDataParallel, on the process group that there is. It needs real tensors.

    divides: whether torch's ZeroRedundancyOptimizer divides the states.
    """

    def __init__(self, setup: Setup, divides: bool):
        self.divides = divides
        super().__init__(setup)
        self.parallel = DistributedDataParallel(self.model)

    def _optimizer(self, method: Any) -> torch.optim.Optimizer:
        if not self.divides:
            return super()._optimizer(method)
        from torch.distributed.optim import ZeroRedundancyOptimizer  # warns of what it imports itself

        return ZeroRedundancyOptimizer(self.trained, torch.optim.AdamW, lr=1e-3, foreach=False)

    def loss(self) -> Tensor:
        """Run the forward pass."""
        return cast(Tensor, self.parallel(**self.given).loss)


def replicated(setup: Setup, divides: bool) -> Simulation:
    """Measure the second of two real steps on this rank under DistributedDataParallel."""
    with _simulate.conventions(), ShardedMemory() as memory:
        return _simulate.second(Replicated(setup, divides), memory, counts=False)
