"""Run a training step as one rank of FSDP2 sees it: parameters are gathered, released, and their gradients reduced.

Each layer is one group of parameters, and everything outside the layers is another, the root. The events and their
order are those of torch's `fully_shard`:

- Forward: a layer is gathered into a buffer and copied from there into its parameters. The buffer stays until the next
  layer is copied. After the layer its parameters are released; those of the root stay.
- Backward: while a layer runs, the buffer of the layer before it is gathered. After the layer its parameters are
  released, and its gradients are copied into the input of a reduce-scatter, which stays until the next layer's. The
  last of these gradients is let go only when the reduced ones exist (a variable of a loop holds it). In a layer that is
  a norm's, if norms are trained, since models register norms last.
- A group whose inputs carry no gradient, like the root, is reduced at the end.

The first dimension of every tensor is padded to a multiple of the number of ranks. The rank is the first, whose shards
are the largest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..catalogue.records import Records
from ..errors import UsageError
from ..schema.base import Value
from .asked import Asked, learned
from .forms import Form, Symbolic
from .machine import EVERY, SINGLE, Flags
from .program import Hook, Own, Program, Turn, beside
from .setting import DTYPES, QUANTIZED, Setting
from .sharding import Sharding, reduce_width, share
from .step import Step
from .tensor import Storage, Tensor

if TYPE_CHECKING:
    from ..backbones.modules import Module
    from ..costs.plan import Plan, Row
    from ..schema.programs import Function

__all__ = ["PACKED", "RankAsked", "derived"]

PACKED = 4, 2
"""How many nf4 weights bitsandbytes packs into one number of 16 bits, and the bytes of that."""


class Parameter(NamedTuple):
    """A parameter that is sharded: the sizes of its first dimension and of the others together, and how many there are.

    width, gathered: bytes per entry of the shards, and of the gathered copy.
    """

    rows: Any
    rest: Any
    width: int
    gathered: int
    trained: bool
    number: int = 1


class Unit:
    """The parameters of one layer, or of the root, which are gathered together.

    shards: bytes of the rank's shards. gathered: bytes of all shards. cast: bytes of the shards' copy in another type,
    which exists while they are gathered. whole: bytes that are not sharded. last: keys of parameters that come after
    all others.
    """

    def __init__(self, parameters: Mapping[Any, Parameter], gpus: Any, whole: int, last: Collection[Any] = ()):
        self.parameters, self.shards = parameters, whole
        self.order = {key: (key in last, i) for i, key in enumerate(parameters)}
        self.gathered: Any = 0
        self.cast: Any = 0
        for one in parameters.values():
            entries = share(one.rows, gpus) * one.rest * one.number
            self.shards += entries * one.width
            self.gathered += entries * gpus * one.gathered
            if one.width != one.gathered:
                self.cast += entries * one.gathered


class Run:
    """A unit in a step. inside: the tensors of the step that are its parameters. before: what the forward pass ran
    before it. storage: its gathered parameters, while they exist. reached, reduced: by the backward pass."""

    def __init__(self, unit: Unit, inside: Mapping[Any, Tensor], before: Run | None):
        self.unit, self.inside, self.before = unit, inside, before
        self.storage: Storage | None = None
        self.reached = self.reduced = False


class RankStep(Step):
    """A step of one rank."""

    def __init__(self, program: Program, flags: Flags, asked: RankAsked):
        super().__init__(program, flags)
        self.asked, self.gpus = asked, asked.gpus
        self.units: dict[tuple[str, int], Unit] = {}
        self.order: list[Run] = []
        self.buffer: Storage | None = None  # of the latest gathering in the forward pass
        self.fetched: tuple[Run, Storage] | None = None  # the next unit's, in the backward pass
        self.sent: Storage | None = None  # the input of the latest reduce-scatter

    # Parameters

    def unit(self, stack: str, layer: int) -> Unit:
        """Return the parameters of a layer; for layer -1 those of the root."""
        found = self.units.get((stack, layer))
        if found is None:
            found = self.units[stack, layer] = self._unit(stack, layer)
        return found

    def _unit(self, stack: str, layer: int) -> Unit:
        parameters, last, whole, asked = dict[Any, Parameter](), set[Any](), 0, self.asked
        for module in asked.inventory.modules:
            if (layer in module.layers and module.stack == stack) if layer >= 0 else not module.layers:
                for suffix, shape in module.parameters:
                    if asked.packed(module, suffix, layer) and asked.sharding.quant_storage == "uint8":
                        whole += -(-math.prod(shape) * QUANTIZED["nf4"] // 8)
                    else:
                        parameters[module.path, suffix] = asked.parameter(module, suffix, shape, layer)
                        if layer >= 0 and module.kind == "norm":
                            last.add((module.path, suffix))
        for row in asked.rows:
            for spot in (spot for _, spot in row.piece.group.spots if learned(row)):
                layers = spot.layers if row.layers is None else row.layers.intersection(spot.layers)
                here = spot.source is not None and spot.source.stack == stack and layer in layers
                if here if layer >= 0 else not spot.layers:
                    rows, *rest = self.program.shape(row, spot) or beside(row, spot)
                    w, w_t = DTYPES[asked.setting.dtype]
                    gathered = w if asked.mixed else w_t
                    parameters[self.program.key(row, spot)] = Parameter(
                        rows, math.prod(rest), w_t, gathered, True, row.copies
                    )
        if len({p.width for p in parameters.values() if p.trained}) > 1:
            raise UsageError(f"{asked.plan.id}: FSDP2 expects one type for all trained parameters of a layer")
        return Unit(parameters, self.gpus, whole, last)

    @property
    def shards(self) -> Any:
        """Return the bytes of the parameters that the rank stores, in all layers and outside them."""
        total = self.unit("", -1).shards
        for stack, groups in self.sequences.items():
            for numbers, more in groups:
                total += sum(self.unit(stack, n).shards for n in numbers) * (1 + more)
        return total

    def gradients(self) -> Any:
        """Return the bytes of the reduced gradients of the layer at hand."""
        unit, width = self.unit(self.stack, self.number), DTYPES[self.asked.setting.dtype][1]
        return sum(self._entries(unit, p) for p in self.inside.values() if p.live) * width

    def _entries(self, unit: Unit, x: Tensor) -> Any:
        """Return the entries of a rank's shard of a parameter."""
        key = x.key
        if key[0] == EVERY:
            raise UsageError(f"{self.asked.plan.id} reads its tensors of all layers together, but FSDP2 shards them")
        if isinstance(key[0], str):
            one = unit.parameters[key]
        elif len(key) > 2:
            rows, *rest = self.parts[key[0]][key[2]]
            return share(rows, self.gpus) * math.prod(rest)
        else:
            one = unit.parameters[key[0]]
            if key[1] is None and one.number > 1:  # all copies are one tensor
                return share(one.number, self.gpus) * one.rows * one.rest
        return share(one.rows, self.gpus) * one.rest

    # Forward

    def run(self) -> Tensor:
        """Run the forward pass: the root is gathered first, and stays."""
        self.root = Run(self.unit("", -1), self.outside, None)
        self._gather(self.root)
        loss = super().run()
        self._let(self.buffer)
        self.buffer = None
        return loss

    def layer(self, values: list[Any], hooks: list[Hook], more: int) -> list[Any]:
        """Gather the layer at hand, run it, and release it."""
        run = Run(self.unit(self.stack, self.number), self.inside, self.order[-1] if self.order else None)
        if more:  # the layer before it is one that counts
            run.before = run
        self.order.append(run)
        self._gather(run)
        if any(isinstance(x, Tensor) and x.live for x in values):
            self.tape.records.append(lambda: self._reduce(run) if run.reached else None)
        results = super().layer(values, hooks, more)
        if self.asked.sharding.reshards:
            self._release(run)
        outputs = [y for y in results if isinstance(y, Tensor) and y.live]
        self.tape.records.append(lambda: self._arrive(run, outputs))
        return results

    def _gather(self, run: Run) -> None:
        """Gather a unit in the forward pass."""
        new = self._fetch(run)
        self._copy(run)
        self._let(self.buffer)
        self.buffer = new

    def _fetch(self, run: Run) -> Storage:
        """Return the buffer into which a unit's shards are gathered."""
        cast = self._buffer(run.unit.cast) if run.unit.cast else None
        buffer = self._buffer(run.unit.gathered)
        self._let(cast)
        return buffer

    def _copy(self, run: Run) -> None:
        """Copy a unit's parameters out of the buffer."""
        self.tape.gathered += run.unit.gathered
        run.storage = self._apart(run.unit.gathered)

    def _release(self, run: Run) -> None:
        """Release the gathered parameters of a unit."""
        if run.storage is not None:
            self.tape.gathered -= run.unit.gathered
            self.tape.free(run.storage)
            run.storage = None

    # Backward

    def back(self, loss: Tensor) -> None:
        """Run the backward pass, and reduce at its end what it has not reduced."""
        self.tape.records.append(lambda: self._prefetch(self.order[-1] if self.order else None))
        super().back(loss)
        self._reduce(self.root)
        for run in self.order:
            if not run.reduced:
                self._reduce(run)
        self._let(self.sent)
        self.sent = None
        if self.fetched is not None:
            self._let(self.fetched[1])

    def _prefetch(self, run: Run | None) -> None:
        if run is not None and run.storage is None:
            self.fetched = run, self._fetch(run)

    def _arrive(self, run: Run, outputs: Sequence[Tensor]) -> None:
        """The backward pass reaches a unit, if it has a gradient of an output."""
        if all(y.grad is None for y in outputs):
            return
        run.reached = True
        if run.storage is None:
            if self.fetched is None or self.fetched[0] is not run:
                self._let(self.fetched[1] if self.fetched is not None else None)
                self.fetched = run, self._fetch(run)
            self._copy(run)
            self._let(self.fetched[1])
            self.fetched = None
        if self.asked.sharding.reshards:
            self._prefetch(run.before if run.before is not run else Run(run.unit, {}, None))

    def _reduce(self, run: Run) -> None:
        """Release a unit, and reduce its gradients."""
        run.reduced = True
        self._release(run)
        self._let(self.sent)
        self.sent = None
        arrived = [p for p in run.inside.values() if p.grad is not None]
        if not arrived:
            return
        width, trained = self.asked.reduced, DTYPES[self.asked.setting.dtype][1]
        entries = sum(self._entries(run.unit, p) for p in arrived)
        self.sent = self._buffer(entries * self.gpus * width)
        *others, last = sorted(arrived, key=lambda p: run.unit.order[p.key if isinstance(p.key[0], str) else p.key[0]])
        for p in others:
            self._reduced(p)
        self.tape.grads += entries * trained
        made = self._apart(entries * width)
        if width != trained:
            self._apart(entries * trained)
        self._reduced(last)
        if width != trained:
            self.tape.free(made)

    def _reduced(self, p: Tensor) -> None:
        """Let go of a gradient that is reduced."""
        assert p.grad is not None
        self.tape.free(p.grad)
        self.tape.grads -= p.bytes
        p.grad = None

    # Storages

    def _apart(self, size: Any) -> Storage:
        """Return a storage that does not count as what the forward pass left."""
        before, self.tape.forward = self.tape.forward, False
        storage = self.tape.new(size)
        self.tape.forward = before
        return storage

    def _buffer(self, size: Any) -> Storage:
        """Return a buffer of a collective."""
        self.tape.buffers += size
        return self._apart(size)

    def _let(self, buffer: Storage | None) -> None:
        """Release a buffer."""
        if buffer is not None:
            self.tape.buffers -= buffer.bytes
            self.tape.free(buffer)

    # What FSDP2 would gather twice

    def unadapted(self, function: Function | None, wanted: int) -> list[Any]:
        """Refuse a pass of the model without the method."""
        raise self._twice()

    def doubled(self, function: Function, layers: int, owns: Mapping[tuple[str, str], Own]) -> list[Any]:
        """Refuse a second model."""
        raise self._twice()

    def another(self, values: list[Any], owns: Mapping[tuple[str, str], Own]) -> list[Any]:
        """Refuse a second pass of a layer."""
        raise self._twice()

    def _twice(self) -> UsageError:
        method = self.asked.plan.id
        return UsageError(f"{method} runs layers of the model twice in a step, which is not covered with fsdp")


class RankAsked(Asked):
    """A question about one rank."""

    sharding: Sharding
    gpus: Any

    def __init__(self, kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting, sharding: Sharding):
        self.sharding, self.gpus = sharding, sharding.gpus
        super().__init__(kb, plan, given, setting)

    @property
    def mixed(self) -> bool:
        """Return True if everything is gathered in another type than trained shards have."""
        return self.setting.dtype == "mixed"

    @property
    def reduced(self) -> int:
        """Return the bytes per entry in which gradients are reduced."""
        return reduce_width(self.setting, self.sharding)

    def flags(self, whole: bool = False) -> Flags:
        """Return the flags of the step. FSDP2's mixed precision takes the place of autocast."""
        flags = super().flags(whole)
        return flags._replace(trained=self.w, autocast=False) if self.mixed else flags

    def step(self, turn: Turn | None = None) -> Step:
        """Return a step of the rank. Layers are trained in turns on one GPU only."""
        assert turn is None
        return RankStep(self.program, self.flags(), self)

    def packed(self, module: Module, suffix: str, layer: int) -> bool:
        """Return True if a parameter is stored as nf4. Raises UsageError if it is trained."""
        linear = module.kind in ("linear", "conv1d") and bool(module.stack) and suffix == "weight"
        if linear and self.setting.quantized is not None and self.program.trains(module, suffix, layer):
            raise UsageError(f"{self.plan.id} trains weights that are to be held in {self.setting.quantized}")
        return linear and self.setting.quantized is not None

    def parameter(self, module: Module, suffix: str, shape: Sequence[int], layer: int) -> Parameter:
        """Return a parameter of the model in a layer. Raises UsageError if it has no dimension to shard."""
        if not shape:
            name = ".".join(filter(None, (module.path, suffix)))
            raise UsageError(f"memory: FSDP2 cannot shard scalar parameters, and the model has {name}")
        if self.packed(module, suffix, layer):
            several, width = PACKED
            return Parameter(-(-math.prod(shape) // several), 1, width, width, False)
        trained = self.program.trains(module, suffix, layer)
        width = SINGLE if self._single(module) else self.w_t if trained else self.w
        return Parameter(shape[0], math.prod(shape[1:]), width, self.w if self.mixed else width, trained)


class RankSymbolic(RankAsked, Symbolic):
    """A question about one rank whose numbers are symbols; the last of them is the number of ranks."""

    def __init__(
        self, kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting,
        sharding: Sharding,
    ):  # fmt: skip
        self.sharding = sharding
        Symbolic.__init__(self, kb, plan, values, rows, setting)
        self.gpus = self.trace.whole(sharding.gpus)


def derived(
    kb: Records[Any], plan: Plan, values: Mapping[str, Value], rows: Sequence[Row], setting: Setting, sharding: Sharding
) -> Form:
    """Derive the form of a question about one rank. Raises UsageError and DataError as the step itself does."""
    return RankSymbolic(kb, plan, values, rows, setting, sharding).form()
